"""Bars from memory: the same answers as from any other source."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from forecaster.bars import Bars
from forecaster.errors import UnknownSymbol
from forecaster.sources.files import FileSource
from forecaster.sources.memory import MemorySource
from tests.builders import HOUR_MS, make_bars, make_key, utc_ms

EVER = utc_ms("2100-01-01")


def test_bars_are_returned():
    bars = make_bars()

    fetched = MemorySource([bars]).fetch(bars.key, None, EVER)

    assert fetched.bars.open_time.tolist() == bars.open_time.tolist()
    assert fetched.bars.ohlcv_TF.tolist() == bars.ohlcv_TF.tolist()
    assert fetched.rejected == []


def test_series_are_separate():
    bitcoin, ether = make_bars(), make_bars(make_key(symbol="ETH/USDT"), count=7)
    source = MemorySource([bitcoin, ether])

    assert len(source.fetch(bitcoin.key, None, EVER).bars) == 100
    assert len(source.fetch(ether.key, None, EVER).bars) == 7
    assert source.fetch(ether.key, None, EVER).bars.key == ether.key


@pytest.mark.parametrize("key", [make_key(symbol="ETH/USDT"), make_key(timeframe="4h"), make_key("kraken")], ids=str)
def test_unknown_series_is_refused(key):
    with pytest.raises(UnknownSymbol, match=f"memory: expected one of its 1 symbols, found '{key}'"):
        MemorySource([make_bars()]).fetch(key, None, EVER)


def test_an_empty_source_knows_no_series():
    with pytest.raises(UnknownSymbol, match="one of its 0 symbols"):
        MemorySource().fetch(make_key(), None, EVER)


def test_since_is_included():
    bars = make_bars(count=10)
    source = MemorySource([bars])
    since = int(bars.open_time[4])

    assert source.fetch(bars.key, since, EVER).bars.open_time.tolist() == bars.open_time[4:].tolist()
    assert len(source.fetch(bars.key, since + 1, EVER).bars) == 5


def test_only_closed_bars_are_returned():
    bars = make_bars(count=10)
    source = MemorySource([bars])
    close = int(bars.close_time[4])

    counts = [len(source.fetch(bars.key, None, as_of).bars) for as_of in (0, close - 1, close, close + 1)]

    assert counts == [0, 4, 5, 5]


def test_first_seen_at_is_as_of():
    bars = make_bars(count=10)
    as_of = int(bars.close_time[4])

    fetched = MemorySource([bars]).fetch(bars.key, None, as_of)

    assert fetched.bars.first_seen_at.tolist() == [as_of] * 5


def test_added_bars_are_merged():
    whole = make_bars(count=10)
    source = MemorySource([whole[6:]])

    source.add(whole[:4])

    expected = np.delete(whole.open_time, [4, 5])
    assert source.fetch(whole.key, None, EVER).bars.open_time.tolist() == expected.tolist()


def test_a_bar_added_again_replaces_the_first():
    first, second = make_bars(count=5, seed=1), make_bars(count=3, seed=2)
    source = MemorySource([first])

    source.add(second)

    expected = [*second.ohlcv_TF.tolist(), *first.ohlcv_TF[3:].tolist()]
    assert source.fetch(first.key, None, EVER).bars.ohlcv_TF.tolist() == expected


def test_a_series_without_bars_is_known():
    """A new listing has no bars yet."""
    key = make_key()

    assert len(MemorySource([Bars.empty(key)]).fetch(key, None, EVER).bars) == 0


def test_an_answer_does_not_change_when_bars_are_added():
    bars = make_bars(count=10)
    source = MemorySource([bars[:5]])

    before = source.fetch(bars.key, None, EVER)
    source.add(bars[5:])

    assert len(before.bars) == 5


def test_threads_may_add_at_once():
    """None of what they add is lost."""
    bars = make_bars(count=200)
    source = MemorySource()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda row: source.add(bars[row : row + 1]), range(200)))

    assert source.fetch(bars.key, None, EVER).bars.open_time.tolist() == bars.open_time.tolist()


def test_bars_can_be_fetched_after_close():
    bars = make_bars()
    source = MemorySource([bars])

    source.close()

    assert len(source.fetch(bars.key, None, EVER).bars) == 100


@pytest.mark.parametrize(("timeframe", "calendar"), [("1h", "24/7"), ("1d", "XNYS"), ("1h", "XNYS")])
@pytest.mark.parametrize("hours", [0, 30, 50, 1000])
def test_answers_equal_those_of_a_file(tmp_path, timeframe, calendar, hours):
    bars = make_bars(make_key(symbol="SPX/USD", timeframe=timeframe, calendar=calendar))
    bars.frame.to_csv(tmp_path / "bars.csv")
    since, as_of = int(bars.open_time[5]), int(bars.open_time[5]) + hours * HOUR_MS
    sources = [MemorySource([bars]), FileSource(tmp_path / "bars.csv")]

    first, second = (source.fetch(bars.key, since, as_of) for source in sources)

    assert first.bars.open_time.tolist() == second.bars.open_time.tolist()
    assert first.bars.ohlcv_TF.tolist() == second.bars.ohlcv_TF.tolist()
    assert first.bars.first_seen_at.tolist() == second.bars.first_seen_at.tolist()
    assert first.rejected == second.rejected == []
