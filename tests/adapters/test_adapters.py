"""What each adapter adds to aligning: names, a row lower, records. No framework is needed here, or imported there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from forecaster.bars import COLUMNS
from strategies.adapters import backtesting_py, freqtrade, nautilus
from strategies.adapters.align import ForecastQuery, align
from tests.adapters.scene import KEY, make_scene
from tests.builders import HOUR_MS, make_bars

ROOT = Path(__file__).parents[2]
FRAMEWORKS = ("freqtrade", "nautilus_trader", "backtesting")
HEAVY = (*FRAMEWORKS, "torch", "ccxt", "sqlalchemy")
PAGE = (ROOT / "docs" / "adapters.md").read_text(encoding="utf-8")
WANTED = ForecastQuery(fields=("high", "close"))
NANOS_PER_MS = 1_000_000


@pytest.fixture(scope="module")
def scene():
    return make_scene(80)


def test_freqtrade_names_the_series(scene):
    """Exchange, pair and timeframe are those of the ledger, and the rows those of `align`."""
    bars, made = scene
    frame = bars.frame.reset_index(names="date")
    seen = freqtrade.add_forecasts(frame, {"pair": "BTC/USDT"}, made, WANTED, exchange="binance", timeframe="1h")

    pd.testing.assert_frame_equal(seen, align(frame, made, WANTED, key=KEY), check_exact=True)


def test_freqtrade_futures_pair(scene):
    """A pair of another market is another series: its forecasts are not those of the spot market."""
    bars, made = scene
    frame = bars.frame.reset_index(names="date")
    with pytest.raises(ValueError, match="expected those of binance BTC/USDT:USDT 1h, found binance BTC/USDT 1h"):
        freqtrade.add_forecasts(frame, {"pair": "BTC/USDT:USDT"}, made, WANTED, exchange="binance", timeframe="1h")


def test_backtesting_stands_a_row_lower(scene):
    """By default; its columns begin with capitals."""
    bars, made = scene
    frame = bars.frame.rename(columns={name: name.capitalize() for name in COLUMNS})
    expected = align(bars, made, WANTED, shift=1).drop(columns=list(COLUMNS))
    seen = backtesting_py.add_forecasts(frame, KEY, made, WANTED)

    pd.testing.assert_frame_equal(seen[expected.columns], expected, check_exact=True)
    pd.testing.assert_frame_equal(seen[frame.columns], frame, check_exact=True)


def test_nautilus_bars_come_at_their_close(scene):
    bars, _ = scene
    records = nautilus.bar_records(bars.frame, KEY)

    assert [tuple(record[name] for name in COLUMNS) for record in records] == [tuple(row) for row in bars.ohlcv_TF]
    for record, open_time in zip(records, bars.open_time.tolist(), strict=True):
        assert record["ts_event"] == record["ts_init"] == (open_time + HOUR_MS) * NANOS_PER_MS


def test_nautilus_forecasts_come_when_they_were_there(scene):
    """One record for each that was in time: cutoff, availability in whole nanoseconds, and the columns of its row."""
    bars, made = scene
    records = nautilus.forecast_records(bars.frame, KEY, made, WANTED)
    in_time = [one for one in made if one.available_at <= one.cutoff + WANTED.decision_lag_ms]
    closes = dict(zip(bars.close_time.tolist(), bars.close.tolist(), strict=True))

    assert 0 < len(in_time) < len(made)
    assert records == [
        {
            "ts_event": one.cutoff * NANOS_PER_MS,
            "ts_init": one.available_at * NANOS_PER_MS,
            **{
                f"fc_{field}_q{level:.0f}_1": one.quantile(level / 100, field)[0]
                for field in ("high", "close")
                for level in (10, 50, 90)
            },
            "fc_prob_up_1": one.prob_above(closes[one.cutoff]),
        }
        for one in in_time
    ]
    assert all(type(value) in (int, float) for record in records for value in record.values())


def test_nautilus_wants_bars_of_the_series():
    with pytest.raises(ValueError, match="on the grid of 24/7"):
        nautilus.bar_records(make_bars(KEY, 5).frame.shift(freq="1min"), KEY)


@pytest.mark.processes
def test_no_framework_is_imported():
    """Nor anything that a strategy's process should not have to load."""
    code = (
        "import sys, strategies.adapters.freqtrade, strategies.adapters.nautilus, strategies.adapters.backtesting_py\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def test_page_quotes_the_examples():
    """Each Python block of the page stands, line by line, in an example that the marked tests run."""
    paths = sorted((ROOT / "docs" / "examples").glob("*.py"))
    examples = "\n".join(_lines_of(path.read_text(encoding="utf-8")) for path in paths)
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)

    assert len(blocks) >= 3
    for block in blocks:
        assert _lines_of(block) in examples


def _lines_of(code):
    """Without indentation and empty lines: a page shows methods by themselves."""
    return "\n".join(line.strip() for line in code.splitlines() if line.strip())
