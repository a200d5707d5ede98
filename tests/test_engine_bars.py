"""How `Forecaster` comes by its bars: what is asked for, what is kept, and what is asked for again."""

from __future__ import annotations

import signal
import threading
import time

import numpy as np
import pandas as pd
import pytest
import structlog

from forecaster import Bars, Forecaster, MemoryStore
from forecaster.bars import NO_TIME, RejectedRow
from forecaster.config import Config, DaemonConfig, SeriesConfig, StoreConfig
from forecaster.context import Context
from forecaster.errors import BadPayload, LedgerMissing, SourceUnavailable, UnknownSymbol
from forecaster.model import ModelSuite
from forecaster.sources import Fetched
from forecaster.sources.fetch_pool import FetchPool
from forecaster.timeframe import Timeframe
from tests.builders import HOUR_MS, make_bars, make_key, utc_ms
from tests.test_engine import NamedWalk, make_config

HOUR = Timeframe("1h")
KEY = make_key()
BARS = make_bars(KEY, count=300)
PATIENCE = 60.0
"""Seconds that only what hangs takes."""


class ScriptedSource:
    """Gives the bars that it has, but for those in `missing`, and remembers what it was asked; `part` bars at most."""

    def __init__(self, bars=BARS, part=None):
        self.bars = bars
        self.missing = set()
        self.asked = []
        self.fault = None
        self.rejected = []
        self.oldest = None
        self._part = part

    def fetch(self, key, since, as_of):
        self.asked.append(since)
        if isinstance(self.fault, BadPayload):
            raise self.fault
        known = self.bars.closed_by(as_of)
        known = known[(known.open_time >= since) & ~np.isin(known.open_time, list(self.missing))]
        part = known[: self._part]
        until = int(part.open_time[-1]) + HOUR_MS if len(part) < len(known) else None
        bars = Bars(key, part.open_time, part.ohlcv_TF, np.full(1, as_of))
        return Fetched(bars, self.rejected, self.oldest, until, self.fault)

    def close(self):
        pass


def make_forecaster(source, *keys, store=None):
    keys = keys or (KEY,)
    return Forecaster(make_config(*keys), store or MemoryStore(), dict.fromkeys(keys, source), ModelSuite(NamedWalk()))


def closes(i):
    return int(BARS.close_time[i])


def test_newest_bars_are_asked_for_again():
    """An exchange may revise what it has closed; fewer are asked for as long as it does not, and all after a start."""
    source = ScriptedSource()
    forecaster = make_forecaster(source)
    for i in (99, 100, 101, 102):
        forecaster.pull([KEY], closes(i))
    make_forecaster(source, store=forecaster.store).pull([KEY], closes(103))

    assert source.asked == [int(BARS.open_time[at]) for at in (36, 68, 77, 78, 40)]


def test_more_bars_are_asked_for_again_after_a_revision_or_a_fault():
    """So that one wrong answer, however long, cannot stay for good in place of right bars."""
    source = ScriptedSource()
    forecaster = make_forecaster(source)
    for i in (99, 100, 101):
        forecaster.pull([KEY], closes(i))
    right, source.asked = source.bars, []
    values = BARS.ohlcv_TF.copy()
    values[80:102] *= 1.001
    source.bars = Bars(KEY, BARS.open_time, values)
    forecaster.pull([KEY], closes(101))
    source.bars = right
    forecaster.pull([KEY], closes(102))
    source.fault = BadPayload("binance", "rows", "a page")
    forecaster.pull([KEY], closes(103))
    source.fault = None
    forecaster.pull([KEY], closes(103))
    bars = forecaster.store.bars(KEY)

    assert source.asked == [int(BARS.open_time[at]) for at in (78, 39, 40, 40)]
    assert np.array_equal(bars.ohlcv_TF, BARS[36:104].ohlcv_TF)


def test_bar_that_changed_is_a_further_revision():
    """What was forecast from is still there; what is read now is the newest."""
    source = ScriptedSource()
    forecaster = make_forecaster(source)
    forecaster.pull([KEY], closes(99))
    changed = BARS.ohlcv_TF.copy()
    changed[98, 4] += 1
    source.bars = Bars(KEY, BARS.open_time, changed)
    added, _ = forecaster.pull([KEY], closes(100))
    stored = forecaster.store.bars(KEY)

    assert added == 2
    assert stored.revision[stored.open_time == BARS.open_time[98]].tolist() == [1]
    assert stored.ohlcv_TF[stored.open_time == BARS.open_time[98], 4].tolist() == [changed[98, 4]]


def test_what_a_forecast_was_made_from_can_be_had_again():
    """After a revision too: the bars as they were known when it was issued give its very input."""
    source = ScriptedSource()
    forecaster = make_forecaster(source)
    (made,) = forecaster.run_cycle(HOUR, closes(99)).forecasts
    changed = BARS.ohlcv_TF.copy()
    changed[98, 1] *= 2
    source.bars = Bars(KEY, BARS.open_time, changed)
    forecaster.pull([KEY], closes(100))
    then, now = (
        Context.ending_at(forecaster.store.bars(KEY, as_of=as_of), made.cutoff, 64, 32).sha256
        for as_of in (made.issued_at, closes(101))
    )

    assert then == made.provenance.input_sha256
    assert now != then


def test_slot_without_a_bar_is_asked_for_until_it_is_a_gap():
    """At two times a bar apart; then it is a gap, nobody traded, and nothing stands in its place."""
    source = ScriptedSource()
    source.missing = {int(BARS.open_time[60])}
    forecaster = make_forecaster(source)
    for i, minutes in ((99, 0), (99, 10), (100, 0), (101, 0)):
        forecaster.pull([KEY], closes(i) + minutes * 60_000)

    assert source.asked[1:] == [int(BARS.open_time[at]) for at in (60, 60, 77)]
    assert list(forecaster.store.gaps(KEY, 0, closes(200))) == [int(BARS.open_time[60])]
    assert int(BARS.open_time[60]) not in forecaster.store.bars(KEY).open_time


def test_what_an_exchange_no_longer_keeps_is_no_gap():
    """After a long sleep its history begins behind the stored bars; that nobody traded before it is not known."""
    source = ScriptedSource()
    forecaster = make_forecaster(source)
    forecaster.pull([KEY], closes(99))
    source.bars, source.oldest = BARS[110:], int(BARS.open_time[110])
    source.missing = {int(BARS.open_time[120])}
    with structlog.testing.capture_logs() as logs:
        forecaster.pull([KEY], closes(130))

    assert list(forecaster.store.gaps(KEY, 0, closes(200))) == [int(BARS.open_time[120])]
    assert [(log["event"], log["answered_since"]) for log in logs] == [("bars.history_ends", source.oldest)]


def test_bar_that_comes_after_all_fills_its_gap():
    source = ScriptedSource()
    source.missing = {int(BARS.open_time[60])}
    forecaster = make_forecaster(source)
    forecaster.pull([KEY], closes(99))
    source.missing.clear()
    forecaster.pull([KEY], closes(100))

    assert forecaster.store.gaps(KEY, 0, closes(200)) == {}
    assert np.array_equal(forecaster.store.bars(KEY).open_time, BARS.open_time[36:101])


def test_market_listed_yesterday_is_not_asked_for_its_past_for_ever():
    """Slots before its first bar are gaps like others, as far as a context reaches."""
    source = ScriptedSource(BARS[80:])
    forecaster = make_forecaster(source)
    for i in (99, 100, 101, 102):
        forecaster.pull([KEY], closes(i))

    assert source.asked == [int(BARS.open_time[at]) for at in (36, 37, 77, 78)]


def test_after_a_long_sleep_nothing_between_is_left_out():
    source = ScriptedSource()
    forecaster = make_forecaster(source)
    for i in (99, 290):
        forecaster.pull([KEY], closes(i))

    assert np.array_equal(forecaster.store.bars(KEY).open_time, BARS.open_time[36:291])


def test_body_that_was_no_bars_goes_to_quarantine():
    """Once, however often it comes."""
    source = ScriptedSource()
    source.fault = BadPayload("binance", "a JSON list or object", "<html>", "<html>Back soon.</html>")
    forecaster = make_forecaster(source)
    for _ in range(3):
        _, skipped = forecaster.pull([KEY], closes(99))

    assert skipped[KEY].startswith("BadPayload: binance: expected a JSON list")
    assert forecaster.store.rejected_rows(KEY) == [
        RejectedRow(NO_TIME, (), source.fault.reason, "<html>Back soon.</html>")
    ]


def test_what_arrived_before_a_fault_is_kept():
    source = ScriptedSource(BARS[:90])
    source.fault = SourceUnavailable("binance", "down")
    source.rejected = [RejectedRow(5, (1.0,), "a reason")]
    forecaster = make_forecaster(source)
    added, skipped = forecaster.pull([KEY], closes(99))

    assert added == 0
    assert skipped == {KEY: "SourceUnavailable: binance: down"}
    assert np.array_equal(forecaster.store.bars(KEY).open_time, BARS.open_time[36:90])
    assert forecaster.store.rejected_rows(KEY) == source.rejected


def test_history_comes_in_parts():
    """Each is stored before the next is asked for."""
    source = ScriptedSource(part=100)
    forecaster = make_forecaster(source)
    parts = [
        (added, reached, len(forecaster.store.bars(KEY)))
        for added, reached in forecaster.backfill(KEY, int(BARS.open_time[0]), closes(299))
    ]

    assert parts == [(100, closes(99), 100), (100, closes(199), 200), (100, closes(299), 300)]
    assert source.asked == [int(BARS.open_time[at]) for at in (0, 100, 200)]


@pytest.mark.parametrize("parts", [1, 2])
def test_history_that_was_stopped_goes_on(parts):
    """From the first slot that is owed, with nothing twice."""
    source, store = ScriptedSource(part=100), MemoryStore()
    since = int(BARS.open_time[0])
    stopped = make_forecaster(source, store=store).backfill(KEY, since, closes(299))
    for _ in range(parts):
        next(stopped)
    source.asked.clear()
    added = [new for new, _ in make_forecaster(source, store=store).backfill(KEY, since, closes(299))]

    assert source.asked[0] == int(BARS.open_time[100 * parts - 24])
    assert sum(added) == 300 - 100 * parts
    assert np.array_equal(store.bars(KEY).open_time, BARS.open_time)


def test_context_longer_than_a_part_is_had_at_once():
    """A cycle asks until it has the newest bar."""
    source = ScriptedSource(part=20)
    forecaster = make_forecaster(source)
    added, skipped = forecaster.pull([KEY], closes(99))

    assert (added, skipped) == (64, {})
    assert len(source.asked) == 4


def test_older_history_is_fetched_behind_the_newest():
    source = ScriptedSource(part=100)
    forecaster = make_forecaster(source)
    forecaster.pull([KEY], closes(299))
    for _ in forecaster.backfill(KEY, int(BARS.open_time[0]), closes(299)):
        pass

    assert np.array_equal(forecaster.store.bars(KEY).open_time, BARS.open_time)


def test_fault_ends_a_backfill_and_keeps_what_came():
    source = ScriptedSource(part=100)
    forecaster = make_forecaster(source)
    parts = forecaster.backfill(KEY, int(BARS.open_time[0]), closes(299))
    next(parts)
    source.fault = SourceUnavailable("binance", "down")

    with pytest.raises(SourceUnavailable):
        next(parts)
    assert len(forecaster.store.bars(KEY)) == 200


def test_no_series_waits_for_a_slow_one():
    """As many are asked at once as the configuration says: each waits for all others."""

    class Slow(ScriptedSource):
        def fetch(self, key, since, as_of):
            barrier.wait(PATIENCE)
            return super().fetch(key, since, as_of)

    keys = [make_key(symbol=f"COIN{i}/USDT") for i in range(64)]
    barrier = threading.Barrier(64)
    forecaster = make_forecaster(Slow(), *keys)
    added, skipped = forecaster.pull(keys, closes(99))

    assert (added, skipped) == (64 * 64, {})


def test_so_many_series_are_asked_at_once_as_the_configuration_says():
    """One after the other, where it says one."""

    class Watching(ScriptedSource):
        running = most = 0

        def fetch(self, key, since, as_of):
            self.running += 1
            self.most = max(self.most, self.running)
            time.sleep(0.005)
            self.running -= 1
            return super().fetch(key, since, as_of)

    keys = [make_key(symbol=f"COIN{i}/USDT") for i in range(6)]
    config, source = make_config(*keys), Watching()
    config = config.model_copy(update={"daemon": DaemonConfig(requests_at_once=1)})
    Forecaster(config, MemoryStore(), dict.fromkeys(keys, source), ModelSuite(NamedWalk())).pull(keys, closes(99))

    assert source.most == 1


def states(forecaster):
    return [(slot.cutoff, slot.state, slot.reason) for slot in forecaster.store.pending_forecasts(KEY, 0, 2**62)]


def test_close_that_was_forecast_is_done():
    forecaster = make_forecaster(ScriptedSource())
    forecaster.run_cycle(HOUR, closes(99))
    again = forecaster.run_cycle(HOUR, closes(99))

    assert states(forecaster) == [(closes(99), "done", "")]
    assert again.forecasts == []


def test_closes_that_were_missed_are_caught_up_on():
    """Each from the bars up to its own cutoff, flagged late, and left out of accuracy."""
    forecaster = make_forecaster(ScriptedSource())
    forecaster.run_cycle(HOUR, closes(99))
    report = forecaster.run_cycle(HOUR, closes(103) + 5_000)
    after = forecaster.run_cycle(HOUR, closes(110))
    rows = forecaster.reader.history(KEY, 0, 2**62)

    assert [one.cutoff for one in report.forecasts] == [closes(i) for i in (100, 101, 102, 103)]
    assert {row.cutoff for row in rows if row.late} == {closes(i) for i in (*range(100, 103), *range(104, 110))}
    assert [state for _, state, _ in states(forecaster)] == ["done"] * 12
    assert any(one.steps.late_N.any() for one in after.settled)
    assert after.settled_rows == 3 * 4  # steps of the one that was in time, fields
    alone = make_forecaster(ScriptedSource()).run_cycle(HOUR, closes(101)).forecasts[0]
    assert alone.raw_FHQ.tolist() == report.forecasts[1].raw_FHQ.tolist()


def test_what_is_caught_up_on_has_an_end():
    """A service that slept for a month owes a day's closes, not seven hundred."""
    forecaster = make_forecaster(ScriptedSource())
    forecaster.run_cycle(HOUR, closes(99))
    report = forecaster.run_cycle(HOUR, closes(250))

    assert [one.cutoff for one in report.forecasts] == [closes(i) for i in range(227, 251)]


def test_close_whose_bars_cannot_be_had_has_failed_for_a_reason():
    """And is caught up on when they can."""
    source = ScriptedSource()
    forecaster = make_forecaster(source)
    forecaster.run_cycle(HOUR, closes(99))
    source.bars, source.fault = BARS[:100], SourceUnavailable("binance", "down")
    forecaster.run_cycle(HOUR, closes(100))
    failed = states(forecaster)[-1]
    source.bars, source.fault = BARS, None
    forecaster.run_cycle(HOUR, closes(101))

    assert failed == (closes(100), "failed", "SourceUnavailable: binance: down")
    assert [state for _, state, _ in states(forecaster)] == ["done"] * 3


def test_close_without_a_bar_is_a_gap():
    """Nobody traded: there is nothing to forecast from at that close, now or later."""
    source = ScriptedSource()
    source.missing = {int(BARS.open_time[100])}
    forecaster = make_forecaster(source)
    for i in (99, 100, 101):
        forecaster.run_cycle(HOUR, closes(i))

    assert [state for _, state, _ in states(forecaster)] == ["done", "gap", "done"]


def test_work_is_written_down_before_it_is_begun():
    """A process that dies while it fetches leaves a slot that says so."""

    class Deadly(ScriptedSource):
        def fetch(self, *_):
            raise KeyboardInterrupt

    forecaster = make_forecaster(Deadly())
    with pytest.raises(KeyboardInterrupt):
        forecaster.run_cycle(HOUR, closes(99))

    assert states(forecaster) == [(closes(99), "claimed", "")]


def test_forecast_that_was_written_before_a_death_is_not_made_again(monkeypatch):
    """The slot says that it was begun, the ledger that it was done."""
    forecaster = make_forecaster(ScriptedSource())
    with monkeypatch.context() as dying:
        dying.setattr("forecaster.cycle.run.complete", lambda *_: signal.default_int_handler(2, None))
        with pytest.raises(KeyboardInterrupt):
            forecaster.run_cycle(HOUR, closes(99))
    begun = states(forecaster)
    after = forecaster.run_cycle(HOUR, closes(99))

    assert begun == [(closes(99), "claimed", "")]
    assert states(forecaster) == [(closes(99), "done", "")]
    assert after.forecasts == []


def test_reads_open_nothing_to_write(tmp_path):
    """A strategy's look at a ledger makes no file, takes no lock, and imports no SQLAlchemy."""
    config = make_config(KEY).model_copy(update={"store": StoreConfig(url=f"sqlite:///{tmp_path}/ledger.db")})
    with Forecaster(config) as forecaster:
        for read in (lambda: forecaster.latest(("binance", "BTC/USDT", "1h")), lambda: list(forecaster.losses())):
            with pytest.raises(LedgerMissing, match=str(tmp_path)):
                read()

    assert list(tmp_path.iterdir()) == []


def test_clock_that_is_behind_makes_no_forecast_timely():
    """What has closed by the exchange's clock was known: the forecast is late, whatever this machine's clock says."""
    forecaster = make_forecaster(ScriptedSource())
    forecaster.run_cycle(HOUR, closes(99))
    report = forecaster.run_cycle(HOUR, closes(90))
    rows = forecaster.store.history(KEY, closes(0), closes(91))

    assert len(report.forecasts) > 0
    assert all(one.issued_at >= closes(99) and one.is_late for one in report.forecasts)
    assert all(row.late for row in rows)


def test_series_that_does_not_answer_before_the_next_close_sits_out(monkeypatch):
    """Its neighbour is on time; what comes too late is not waited for."""
    slow, leave = make_key(symbol="SLOW/USDT"), threading.Event()

    class Hanging(ScriptedSource):
        def fetch(self, key, since, as_of):
            if key == slow:
                leave.wait(PATIENCE)
            return super().fetch(key, since, as_of)

    took, take = [], FetchPool.collect

    def take_once(pool, keys, *more):
        took.append(keys)
        return take(pool, keys, *more) if len(took) == 1 else []  # until the next bar has closed

    monkeypatch.setattr(FetchPool, "collect", take_once)
    forecaster = make_forecaster(Hanging(), KEY, slow)
    report = forecaster.run_cycle(HOUR, closes(99))
    leave.set()

    assert [one.key for one in report.forecasts] == [KEY]
    assert "before the next one has closed" in report.skipped[slow]


def test_series_that_is_given_up_is_asked_for_again_at_the_next_close():
    """Not when another series makes the cycle be tried again: its symbol is not listed meanwhile."""

    class Unlisted(ScriptedSource):
        def __init__(self):
            super().__init__()
            self.questions = []

        def fetch(self, key, since, as_of):
            self.questions.append(as_of)
            raise UnknownSymbol("binance", key.symbol, [])

    source = Unlisted()
    forecaster = make_forecaster(source)
    times = [closes(99), closes(99) + 60_000, closes(99) + 120_000, closes(100)]
    reports = [forecaster.run_cycle(HOUR, as_of) for as_of in times]

    assert source.questions == [closes(99), closes(100)]
    assert [report.permanent_failures for report in reports] == [frozenset([KEY])] * 4
    assert {report.skipped[KEY] for report in reports} == {reports[0].skipped[KEY]}


def test_series_that_read_one_file_otherwise_have_their_own_times(tmp_path):
    """A source is shared by series that read its file alike."""
    index = pd.date_range("2024-01-01", periods=80, freq="h")
    make_bars(make_key(), 80).frame.set_axis(index.rename("time")).to_csv(tmp_path / "bars.csv")
    shared = {"exchange": "file", "timeframe": "1h", "file": tmp_path / "bars.csv"}
    series = (
        SeriesConfig(symbol="ONE/USD", timezone="UTC", **shared),
        SeriesConfig(symbol="TWO/USD", timezone="+05:00", **shared),
    )
    config = Config(series=series, store=StoreConfig(url="memory:"))
    with Forecaster(config) as forecaster:
        forecaster.pull([one.key for one in series], utc_ms("2024-01-10"))
        first = [int(forecaster.store.bars(one.key).open_time[0]) for one in series]

    assert first == [utc_ms("2024-01-01"), utc_ms("2023-12-31 19:00")]
