"""Creating baselines by name, and the numbers of each version."""

from __future__ import annotations

import numpy as np
import pytest

from forecaster.bars import FIELDS
from forecaster.context import Context
from forecaster.errors import ConfigError
from forecaster.model.baselines import create_baseline
from tests.builders import make_bars


@pytest.mark.parametrize("name", ["random_walk", "filtered_historical_simulation"])
def test_a_baseline_is_created_by_its_name(name):
    made = create_baseline(name)

    assert made.name == name
    assert made.engine == "numpy"
    assert made.engine_reason


def test_an_unknown_name_is_refused_with_those_known():
    known = "random_walk, filtered_historical_simulation, garch, har_range"
    with pytest.raises(ConfigError, match=rf"model\.baselines: expected any of {known}, found 'theta'"):
        create_baseline("theta")


NUMBERS = {
    "random_walk@1": [40615.21, 40365.2138, 40615.21, 40472.3315, 40284.5132, 40155.1797, 40365.2138, 40262.1133],
    "filtered_historical_simulation@1": [
        *(40615.21, 40376.212, 40634.3004, 40453.915, 40273.4387, 40189.3945, 40377.2608, 40265.2492),
    ],
    "garch@1": [40615.21, 40366.1272, 40634.4454, 40481.4968, 40257.7377, 40152.7169, 40366.1272, 40265.9821],
    "har_range@1": [40615.21, 40360.4162, 40635.0454, 40443.709, 40256.2303, 40150.2994, 40359.7704, 40240.3431],
}
"""The 0.1 quantiles of open, high, low and close, of two steps each, of bars that are always the same."""


@pytest.mark.parametrize("name", ["random_walk", "filtered_historical_simulation", "garch", "har_range"])
def test_a_version_of_a_baseline_always_forecasts_the_same(name):
    """If this fails, the arithmetic has changed: raise `version` and add its numbers."""
    made = create_baseline(name)
    bars = make_bars(count=200)
    (forecast,) = made.predict([Context.ending_at(bars, int(bars.close_time[-1]), 10_000, 1)], 2)

    found = np.concatenate([forecast.quantile(0.1, field) for field in FIELDS])

    assert forecast.provenance.ledger_id == made.id == f"{name}@{made.version}"
    np.testing.assert_allclose(found, NUMBERS[made.id], rtol=1e-5)
