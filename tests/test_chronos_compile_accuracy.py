"""Compiled against eager on real bars: element by element, and against the errors written down before.

`chronos_mae_baseline.txt` holds the mean absolute error of the next close for these weights. To write it again after
the weights changed: `python -m tests.test_chronos_compile_accuracy`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from forecaster.bars import Context, SeriesKey
from forecaster.model.chronos2 import Chronos2OHLCWrapper
from forecaster.sources.files import FileSource
from tests.builders import utc_ms

BASELINE = Path(__file__).parent / "chronos_mae_baseline.txt"
TRAININGDATA = Path(__file__).parent.parent / "trainingdata"
SYMBOLS = ("SPX/USD", "IXIC/USD")
CONTEXT, HORIZON, WINDOWS = 128, 8, 16
TOLERANCE = 1e-4
"""Largest difference that is still float32's, as a share of the forecast's 80 % interval."""


def make_windows(symbol):
    """Contexts at every tenth close of 2017, and the closes that came next."""
    key = SeriesKey.of("arch", symbol, "1d", "XNYS")
    path = TRAININGDATA / f"{symbol.replace('/', '_')}_1d.csv"
    bars = FileSource(path).fetch(key, None, utc_ms("2019-01-01")).bars
    first = int(np.searchsorted(bars.open_time, utc_ms("2017-01-01")))
    positions = range(first, first + 10 * WINDOWS, 10)
    contexts = [Context.ending_at(bars, int(bars.close_time[i]), CONTEXT, CONTEXT) for i in positions]
    return contexts, np.array([bars.close[i + 1] for i in positions])


def mean_absolute_error(forecasts, actual):
    return float(np.abs(np.array([one.median()[0] for one in forecasts]) - actual).mean())


def measure(wrapper):
    windows = {symbol: make_windows(symbol) for symbol in SYMBOLS}
    return {
        s: mean_absolute_error(wrapper.predict(contexts, HORIZON), actual) for s, (contexts, actual) in windows.items()
    }


def read_baseline():
    """First line: the weights' digest; then a symbol and its error per line."""
    digest, *lines = BASELINE.read_text().splitlines()
    return digest, {symbol: float(error) for symbol, error in (line.split() for line in lines)}


@pytest.fixture(scope="module")
def eager():
    return Chronos2OHLCWrapper.from_pretrained("nano", compile="off")


def test_compiled_equals_eager_on_real_bars(eager):
    """A fresh compile, no fallback, and not one quantile further off than float32's own noise."""
    compiled = Chronos2OHLCWrapper.from_pretrained("nano", compile="on")
    for symbol in SYMBOLS:
        contexts, actual = make_windows(symbol)
        ours, theirs = (wrapper.predict(contexts, HORIZON) for wrapper in (compiled, eager))
        for one, other in zip(ours, theirs, strict=True):
            lower, upper = other.interval(0.8)

            assert one.engine == "compiled"
            assert np.abs(one.raw_FHQ - other.raw_FHQ).max() < TOLERANCE * (upper - lower).min()
        assert mean_absolute_error(ours, actual) == pytest.approx(mean_absolute_error(theirs, actual), rel=1e-5)


def test_eager_errors_are_those_written_down(eager):
    digest, errors = read_baseline()
    weights = eager.predict(make_windows("SPX/USD")[0][:1], 1)[0].provenance.weights_sha256

    assert digest == weights, "the weights changed: write the baseline again"
    assert measure(eager) == pytest.approx(errors, rel=1e-4)


def write_baseline():
    wrapper = Chronos2OHLCWrapper.from_pretrained("nano", compile="off")
    weights = wrapper.predict(make_windows("SPX/USD")[0][:1], 1)[0].provenance.weights_sha256
    lines = [f"{symbol} {error:.6f}" for symbol, error in measure(wrapper).items()]
    BASELINE.write_text("\n".join([weights, *lines]) + "\n")


if __name__ == "__main__":
    write_baseline()
