"""Baselines: models without weights, recorded and scored beside Chronos-2.

A change of a baseline's numbers raises its `version`: it is then another model, with a record of its own.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Final

from forecaster.errors import ConfigError
from forecaster.model.baselines.garch import Garch
from forecaster.model.baselines.har import HarRange
from forecaster.model.baselines.historical_simulation import FilteredHistoricalSimulation
from forecaster.model.baselines.random_walk import RandomWalk

if TYPE_CHECKING:
    from collections.abc import Mapping

    from forecaster.model import Baseline

BASELINES: Final[Mapping[str, type[Baseline]]] = {
    cls.name: cls for cls in (RandomWalk, FilteredHistoricalSimulation, Garch, HarRange)
}


def create_baseline(name: str) -> Baseline:
    """Create the baseline with this name.

    Raises:
        ConfigError: for an unknown name.
    """
    if name not in BASELINES:
        near = get_close_matches(name, BASELINES)
        raise ConfigError("model.baselines", f"any of {', '.join(dict.fromkeys([*near, *BASELINES]))}", name)
    return BASELINES[name]()
