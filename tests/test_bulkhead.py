"""Series do not wait for each other: a slow, implausible or failing answer affects only its own series."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import structlog

from forecaster import Bars, Forecaster, MemoryStore
from forecaster.errors import SourceUnavailable
from forecaster.model import ModelSuite
from forecaster.sources import Fetched, fetch_pool
from forecaster.timeframe import Timeframe
from tests.builders import HOUR_MS, make_bars, make_key
from tests.test_engine import NamedWalk, make_config

HOUR = Timeframe("1h")
KEY, SLOW = make_key(), make_key(symbol="SLOW/USDT")
BARS = make_bars(KEY, count=200)
PATIENCE = 60.0
"""Seconds that only a hanging request takes."""


class Venue:
    """A source whose answers can be held back, late or wrong, by series."""

    def __init__(self):
        self.asked = []
        self.gates = {}
        self.behind = {}
        self.wrong = {}
        self.clock_offset_ms = None

    def fetch(self, key, since, as_of):
        self.asked.append((key, since, as_of))
        if key in self.gates:
            self.gates[key].wait(PATIENCE)
        bars = Bars(key, BARS.open_time, BARS.ohlcv_TF).closed_by(as_of - self.behind.get(key, 0))
        bars = bars[bars.open_time >= since]
        if self.wrong.get(key):
            bars = self.wrong[key].pop(0)(bars)
        return Fetched(
            replace(bars, first_seen_at=np.full(1, as_of)), clock_offset_ms=self.clock_offset_ms, may_change=True
        )

    def close(self):
        pass


def closes(i):
    return int(BARS.close_time[i])


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """Slow fetches are detached after a moment, and second answers come at once."""
    monkeypatch.setattr("forecaster.cycle.ingest.SECOND_ANSWER_AFTER", 0.0)
    monkeypatch.setattr("forecaster.cycle.ingest._PATIENCE", {"all": PATIENCE, "most": 0.5, "none": 0.0})


@pytest.fixture
def venue():
    venue = Venue()
    yield venue
    for gate in venue.gates.values():
        gate.set()


def make_forecaster(venue, *keys, store=None):
    keys = keys or (KEY, SLOW)
    return Forecaster(make_config(*keys), store or MemoryStore(), dict.fromkeys(keys, venue), ModelSuite(NamedWalk()))


def scaled(by, rows=slice(None)):
    """An answer whose prices are all wrong by a factor."""

    def change(bars):
        values = bars.ohlcv_TF.copy()
        values[rows, :4] *= by
        return Bars(bars.key, bars.open_time, values)

    return change


def states(forecaster, key):
    return [(slot.cutoff, slot.state) for slot in forecaster.store.pending_forecasts(key, 0, closes(199) + 1)]


def test_completed_series_are_forecast_while_another_is_in_flight(venue):
    """Its completion is reported, and it is collected then, without a second request."""
    venue.gates[SLOW] = threading.Event()
    came = threading.Event()
    forecaster = make_forecaster(venue)
    forecaster.on_straggler(lambda _: came.set())
    first = forecaster.run_cycle(HOUR, closes(99), waits_for="most")
    again = forecaster.run_cycle(HOUR, closes(99) + 1000, waits_for="none")
    before = states(forecaster, SLOW)
    venue.gates[SLOW].set()
    was_told = came.wait(PATIENCE)
    arrived = forecaster.run_arrived(HOUR, closes(99) + 2000)

    assert [one.key for one in first.forecasts] == [KEY]
    assert (first.awaiting_bars, first.skipped, again.forecasts, again.awaiting_bars) == ({SLOW}, {}, [], {SLOW})
    assert (before, was_told) == ([(closes(99), "failed")], True)
    assert [(one.key, one.cutoff) for one in arrived.forecasts] == [(SLOW, closes(99))]
    assert (arrived.awaiting_bars, states(forecaster, SLOW)) == (set(), [(closes(99), "done")])
    assert [key for key, *_ in venue.asked].count(SLOW) == 1


def test_slow_series_is_waited_for_with_policy_all(venue):
    """No series is skipped before the next bar has closed."""
    venue.gates[SLOW] = threading.Event()
    threading.Timer(0.6, venue.gates[SLOW].set).start()
    report = make_forecaster(venue).run_cycle(HOUR, closes(99))

    assert [one.key for one in report.forecasts] == [KEY, SLOW]
    assert report.skipped == {}


def test_unconfirmed_series_is_waited_for_with_policy_all(venue):
    """Its second answer comes after those of the others."""
    forecaster = make_forecaster(venue)
    forecaster.run_cycle(HOUR, closes(99))
    venue.wrong[SLOW] = [scaled(3.0, slice(-1, None))]
    report = forecaster.run_cycle(HOUR, closes(100))

    assert (len(report.forecasts), report.skipped) == (2, {})


def test_second_answer_comes_after_a_while(venue, monkeypatch):
    """A momentary error is over by then."""
    waits = []
    monkeypatch.setattr("forecaster.cycle.ingest.SECOND_ANSWER_AFTER", 3.5)
    monkeypatch.setattr("forecaster.cycle.ingest.time", SimpleNamespace(monotonic=time.monotonic, sleep=waits.append))
    forecaster = make_forecaster(venue, KEY)
    forecaster.run_cycle(HOUR, closes(99))
    venue.wrong[KEY] = [scaled(3.0, slice(-1, None))]
    forecaster.run_cycle(HOUR, closes(100))

    assert waits == [3.5]


def test_exchange_that_hangs_delays_no_other(venue, monkeypatch):
    """For any number of hanging series, and few concurrent requests."""
    monkeypatch.setattr(fetch_pool, "MAX_IN_FLIGHT", 3)
    hanging = [make_key(exchange="okx", symbol=f"H{i}/USDT") for i in range(8)]
    venue.gates = {key: threading.Event() for key in hanging}
    forecaster = make_forecaster(venue, *hanging, KEY)
    forecaster._ingestor.fetch_pool._max_concurrent = 2
    stuck = forecaster.run_cycle(HOUR, closes(99), exchange="okx", waits_for="most")
    stuck_again = forecaster.run_cycle(HOUR, closes(99), exchange="okx", waits_for="most")
    other = forecaster.run_cycle(HOUR, closes(99), exchange="binance", waits_for="most")

    assert (len(stuck.awaiting_bars), len(stuck_again.awaiting_bars)) == (8, 8)
    assert [one.key for one in other.forecasts] == [KEY]
    assert 2 <= len(venue.asked) - 1 <= 3


def test_missing_thread_affects_one_cycle(venue, monkeypatch):
    """The series has that reason, and is requested again in the next cycle."""
    forecaster = make_forecaster(venue, KEY)
    with monkeypatch.context() as short:
        short.setattr(
            threading.Thread, "start", lambda _: (_ for _ in ()).throw(RuntimeError("can't start new thread"))
        )
        first = forecaster.run_cycle(HOUR, closes(99))
    second = forecaster.run_cycle(HOUR, closes(99) + 1000)

    assert "expected a thread to ask on: can't start new thread" in first.skipped[KEY]
    assert [one.key for one in second.forecasts] == [KEY]


def test_answer_that_completes_before_detach_is_reported(venue):
    """Between the last collection of a cycle and its end."""
    told = []
    forecaster = make_forecaster(venue, KEY)
    forecaster.on_straggler(told.append)
    pool = forecaster._ingestor.fetch_pool
    pool.submit(KEY, 0, closes(99), venue.fetch)
    while not pool.completed([KEY]):
        pass
    pool.detach([KEY])

    assert told == [KEY]


def test_straggler_of_an_older_close_is_requested_again(venue):
    """The older close is forecast at once, and flagged as late if it is."""
    venue.gates[SLOW] = threading.Event()
    forecaster = make_forecaster(venue)
    forecaster.run_cycle(HOUR, closes(99), waits_for="most")
    second = forecaster.run_cycle(HOUR, closes(100), waits_for="most")
    venue.gates.pop(SLOW).set()
    made = []
    while len(made) < 2:
        made += forecaster.run_arrived(HOUR, closes(100) + 5000).forecasts

    assert [one.key for one in second.forecasts] == [KEY]
    assert [(one.key, one.cutoff, one.is_late) for one in made] == [
        (SLOW, closes(99), True),
        (SLOW, closes(100), False),
    ]
    assert [as_of for key, _, as_of in venue.asked if key == SLOW] == [closes(99), closes(100) + 5000]


def test_fetches_in_flight_at_the_end_have_a_reason(venue):
    """Answers within a moment are forecast. The other forecasts stay pending, with a reason."""
    quick = make_key(symbol="QUICK/USDT")
    venue.gates = {SLOW: threading.Event(), quick: threading.Event()}
    forecaster = make_forecaster(venue, KEY, SLOW, quick)
    forecaster.run_cycle(HOUR, closes(99), waits_for="most")
    venue.gates.pop(quick).set()
    (report,) = forecaster.run_last(closes(99) + 1000, seconds=1.0)
    again = forecaster.run_last(closes(99) + 2000, seconds=0.0)

    assert [one.key for one in report.forecasts] == [quick]
    assert list(report.skipped) == [SLOW]
    assert report.skipped[SLOW].endswith("SLOW/USDT: expected its bars before the service stopped")
    assert states(forecaster, SLOW) == [(closes(99), "failed")]
    assert len(again) == 1  # its question is under way still, and would be taken if it came


def test_many_hanging_series_delay_no_other(venue, monkeypatch):
    """Stragglers do not count as concurrent requests."""
    monkeypatch.setattr(fetch_pool, "STRAGGLER_SECONDS", 0.05)
    hanging = [make_key(symbol=f"H{i}/USDT") for i in range(20)]
    venue.gates = {key: threading.Event() for key in hanging}
    forecaster = make_forecaster(venue, *hanging, KEY)
    forecaster._ingestor.fetch_pool._max_concurrent = 2
    made = forecaster.run_cycle(HOUR, closes(99), waits_for="most").forecasts
    while not made:
        made = forecaster.run_arrived(HOUR, closes(99) + 1000).forecasts

    assert [one.key for one in made] == [KEY]


def test_pending_closes_are_forecast_though_the_latest_cannot(venue):
    """The clock of the exchange is slow: its bars are late, forecast and flagged."""
    forecaster = make_forecaster(venue, KEY)
    forecaster.run_cycle(HOUR, closes(95))
    venue.behind[KEY], venue.clock_offset_ms = 2 * HOUR_MS, -2 * HOUR_MS
    with structlog.testing.capture_logs() as logs:
        reports = [forecaster.run_cycle(HOUR, closes(i)) for i in (98, 99)]

    assert [[one.cutoff for one in report.forecasts] for report in reports] == [[closes(96)], [closes(97)]]
    assert all(one.is_late for report in reports for one in report.forecasts)
    assert all("MissingBars" in report.skipped[KEY] for report in reports)
    assert states(forecaster, KEY)[1:] == [
        (closes(96), "done"),
        (closes(97), "done"),
        (closes(98), "failed"),
        (closes(99), "failed"),
    ]
    assert reports[0].exchange_clock_offsets_ms == {"binance": -2 * HOUR_MS}
    assert [log["ahead_seconds"] for log in logs if log["event"] == "exchange.clock_differs"] == [-7200.0]


def test_implausible_price_waits_for_a_second_answer(venue):
    """The second answer is stored, not the wrong price."""
    forecaster = make_forecaster(venue, KEY)
    forecaster.run_cycle(HOUR, closes(99))
    venue.wrong[KEY] = [scaled(3.0, slice(-1, None))]
    report = forecaster.run_cycle(HOUR, closes(100))
    bars = forecaster.store.bars(KEY)

    assert [one.cutoff for one in report.forecasts] == [closes(100)]
    assert (report.unconfirmed, report.revised_bars) == ({KEY}, {})
    assert np.array_equal(bars.ohlcv_TF, BARS[36:101].ohlcv_TF)


def test_implausible_price_is_stored_when_confirmed(venue):
    """A market may crash."""
    forecaster = make_forecaster(venue, KEY)
    forecaster.run_cycle(HOUR, closes(99))
    venue.wrong[KEY] = [scaled(3.0, slice(-1, None))] * 2
    forecaster.run_cycle(HOUR, closes(100))

    assert forecaster.store.bars(KEY).close[-1] == 3.0 * BARS.close[100]


def test_answer_of_another_symbol_changes_nothing(venue):
    """All bars differ at once: that needs a second answer."""
    forecaster = make_forecaster(venue, KEY)
    forecaster.run_cycle(HOUR, closes(99))
    venue.wrong[KEY] = [scaled(1.001)]
    report = forecaster.run_cycle(HOUR, closes(100))
    bars = forecaster.store.bars(KEY)

    assert (report.unconfirmed, report.revised_bars, int(bars.revision.max())) == ({KEY}, {}, 0)


def test_wrong_answers_after_a_start_leave_no_bar_wrong(venue):
    """The whole context is wrong twice; later correct answers replace all of it."""
    forecaster = make_forecaster(venue, KEY)
    forecaster.run_cycle(HOUR, closes(99))
    again = make_forecaster(venue, KEY, store=forecaster.store)
    venue.wrong[KEY] = [scaled(1.001)] * 2
    again.run_cycle(HOUR, closes(100))
    wrong = int((again.store.bars(KEY).ohlcv_TF != BARS[36:101].ohlcv_TF).any(axis=1).sum())
    for i in (101, 102, 103):
        again.run_cycle(HOUR, closes(i))

    assert wrong == 64
    assert np.array_equal(again.store.bars(KEY).ohlcv_TF, BARS[36:104].ohlcv_TF)


@pytest.mark.parametrize("cycles", [3, 6])
def test_wrong_answers_of_many_cycles_leave_no_bar_wrong(venue, cycles):
    """For any number of wrong answers; bars whose first version was wrong are corrected too."""
    forecaster = make_forecaster(venue, KEY)
    for i in range(96, 100):
        forecaster.run_cycle(HOUR, closes(i))
    venue.wrong[KEY] = [scaled(1.001)] * (2 * cycles)
    for i in range(cycles):
        forecaster.run_cycle(HOUR, closes(100 + i))
    venue.wrong.clear()
    for i in range(3):
        forecaster.run_cycle(HOUR, closes(100 + cycles + i))
    bars = forecaster.store.bars(KEY)

    assert np.array_equal(bars.ohlcv_TF, BARS[33 : 103 + cycles].ohlcv_TF)


def test_history_must_be_confirmed_too(venue):
    """A page of another symbol: the second answer counts, and nothing is revised."""
    forecaster = make_forecaster(venue, KEY)
    forecaster.run_cycle(HOUR, closes(99))
    venue.wrong[KEY] = [scaled(5.0)]
    added = sum(new for new, _ in forecaster.backfill(KEY, int(BARS.open_time[0]), closes(99)))

    assert added == 36
    assert np.array_equal(forecaster.store.bars(KEY).ohlcv_TF, BARS[:100].ohlcv_TF)


def test_stored_history_is_requested_again_on_demand(venue):
    """Wrong twice: the bars are stored, and corrected on request."""
    forecaster = make_forecaster(venue, KEY)
    venue.wrong[KEY] = [scaled(5.0)]
    since = int(BARS.open_time[0])
    list(forecaster.backfill(KEY, since, closes(150)))
    wrong = forecaster.store.bars(KEY).close[0] != BARS.close[0]
    list(forecaster.backfill(KEY, since, closes(150)))
    still = forecaster.store.bars(KEY).close[0] != BARS.close[0]
    list(forecaster.backfill(KEY, since, closes(150), refetch=True))

    assert np.array_equal(forecaster.store.bars(KEY).ohlcv_TF, BARS[:151].ohlcv_TF)
    assert (wrong, still) == (True, True)


def test_series_is_skipped_when_answers_never_agree(venue):
    forecaster = make_forecaster(venue, KEY)
    forecaster.run_cycle(HOUR, closes(99))
    venue.wrong[KEY] = [scaled(3.0 + i, slice(-1, None)) for i in range(4)]
    report = forecaster.run_cycle(HOUR, closes(100))

    assert report.skipped[KEY].startswith("InvalidBars: binance BTC/USDT 1h: 4 answers differ about the bar at")
    assert len(forecaster.store.bars(KEY)) == 64


def test_revised_bar_is_reported(venue):
    """It is a revision, logged and reported."""
    forecaster = make_forecaster(venue, KEY)
    forecaster.run_cycle(HOUR, closes(99))
    venue.wrong[KEY] = [scaled(1.001, slice(-2, -1))]
    with structlog.testing.capture_logs() as logs:
        report = forecaster.run_cycle(HOUR, closes(100))

    assert {key: list(opens) for key, opens in report.revised_bars.items()} == {KEY: [int(BARS.open_time[99])]}
    assert report.revised_forecasts == 1
    assert [(log["series"], log["bars"]) for log in logs if log["event"] == "bars.revised"] == [(str(KEY), 1)]


def test_forecast_from_a_revised_bar_is_marked(venue, monkeypatch):
    """Forecasts made before the revision are marked, later ones are not."""
    monkeypatch.setattr("forecaster.client.now_ms", lambda: closes(150))
    forecaster = make_forecaster(venue, KEY)
    forecaster.run_cycle(HOUR, closes(99))
    before = forecaster.latest(("binance", "BTC/USDT", "1h"), max_age="any")
    venue.wrong[KEY] = [scaled(1.001, slice(-1, None))]
    forecaster.pull([KEY], closes(99) + 60_000)
    marked = forecaster.latest(("binance", "BTC/USDT", "1h"), max_age="any")
    then = forecaster.latest(("binance", "BTC/USDT", "1h"), as_of=closes(99) + 30_000)
    venue.wrong.clear()
    forecaster.run_cycle(HOUR, closes(100))
    after = forecaster.latest(("binance", "BTC/USDT", "1h"), max_age="any")

    assert (before.revised, marked.revised) == ((), (int(BARS.open_time[99]),))
    assert (then.revised, after.cutoff, after.revised) == ((), closes(100), ())


@pytest.mark.parametrize("every", [2, 5])
def test_rows_of_a_coarser_timeframe_are_refused(venue, every):
    """Although each of them is on the grid: the bars between them are stored."""
    forecaster = make_forecaster(venue, KEY)
    forecaster.run_cycle(HOUR, closes(99))
    venue.wrong[KEY] = [lambda bars: bars[::every]]
    report = forecaster.run_cycle(HOUR, closes(100))
    after = forecaster.run_cycle(HOUR, closes(100) + 60_000)

    assert f"{every}h apart" in report.skipped[KEY]
    assert [one.cutoff for one in after.forecasts] == [closes(100)]
    assert np.array_equal(forecaster.store.bars(KEY).ohlcv_TF, BARS[36:101].ohlcv_TF)


def test_late_failure_is_reported_once(venue):
    """Its series is skipped with the reason."""
    venue.gates[SLOW] = threading.Event()

    class Failing(Venue):
        def fetch(self, key, since, as_of):
            super().fetch(key, since, as_of)
            raise SourceUnavailable("binance", "no answer")

    source, came = Failing(), threading.Event()
    source.gates = venue.gates
    forecaster = Forecaster(make_config(KEY, SLOW), MemoryStore(), {KEY: venue, SLOW: source}, ModelSuite(NamedWalk()))
    forecaster.on_straggler(lambda _: came.set())
    first = forecaster.run_cycle(HOUR, closes(99), waits_for="most")
    venue.gates[SLOW].set()
    came.wait(PATIENCE)
    arrived = forecaster.run_arrived(HOUR, closes(99) + 1000)

    assert (first.skipped, arrived.skipped) == ({}, {SLOW: "SourceUnavailable: binance: no answer"})
    assert states(forecaster, SLOW) == [(closes(99), "failed")]
