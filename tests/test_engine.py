"""`Forecaster`: cycles, reads, and what happens to a series whose bars cannot be used."""

from __future__ import annotations

import itertools
import json
import time
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import structlog

from forecaster import Bars, Forecaster, MemorySource, MemoryStore
from forecaster.accuracy.losses import compute_losses
from forecaster.config import Config, StoreConfig
from forecaster.context import Context
from forecaster.errors import (
    BadPayload,
    BarNotClosed,
    ConfigError,
    InferenceError,
    InvalidArgument,
    ModelLoadError,
    NotEnoughBars,
    SourceUnavailable,
    StoreTaken,
    format_time,
)
from forecaster.ledger import LIVE, Run
from forecaster.model import ModelSuite
from forecaster.model.baselines.random_walk import RandomWalk
from forecaster.stopwatch import SHORTEST_COMMIT_MS
from forecaster.store.sql import SqlStore
from forecaster.store.sqlite_library import sqlite3
from forecaster.timeframe import Timeframe
from tests.builders import HOUR_MS, make_bars, make_key
from tests.forecast_builders import CUTOFF, make_past, make_steps

HOUR = Timeframe("1h")
GOOD, SHORT, LATE = (make_key(symbol=symbol) for symbol in ("BTC/USDT", "NEW/USDT", "LATE/USDT"))


class NamedWalk(RandomWalk):
    """The random walk under the configured model's name: fast, and enough where the model is not the point."""

    name = "nano"


def make_config(*keys, **model):
    return Config.model_validate(
        {
            "series": [
                {"exchange": key.exchange, "symbol": key.symbol, "timeframe": str(key.timeframe), "file": "unused.csv"}
                for key in keys
            ],
            "model": {"context": 64, "min_context": 32, "horizon": 3} | model,
            "store": {"url": "memory:"},
        }
    )


def make_forecaster(*bars, models=None, **model):
    keys = [one.key for one in bars]
    source = MemorySource(list(bars))
    return Forecaster(
        make_config(*keys, **model),
        MemoryStore(),
        dict.fromkeys(keys, source),
        models or ModelSuite(NamedWalk(), [RandomWalk()]),
    )


@pytest.fixture
def bars():
    return make_bars(GOOD, count=120)


@pytest.fixture
def stopwatch(monkeypatch):
    """All readings of the performance counter are a millisecond apart."""
    readings = itertools.count(10.0, 0.001)
    monkeypatch.setattr("forecaster.stopwatch.time", SimpleNamespace(perf_counter=readings.__next__))


@pytest.fixture
def now(monkeypatch):
    """The moment that the doors read from the clock, four days into the bars."""
    now = make_bars(GOOD, count=97).close_time[-1] + 5_000
    monkeypatch.setattr("forecaster.engine.now_ms", lambda: int(now))
    monkeypatch.setattr("forecaster.client.now_ms", lambda: int(now))
    return int(now)


def test_cycle_reports_what_it_did(bars):
    forecaster = make_forecaster(bars)
    as_of = int(bars.close_time[99])
    report = forecaster.run_cycle(HOUR, as_of)

    assert (report.series, report.bars_added, len(report.forecasts)) == (1, 64, 1)
    assert report.forecasts[0].cutoff == as_of
    assert (report.skipped, report.failed_baselines, report.drifts, report.missed) == ({}, {}, [], 0)


def test_cycle_leaves_its_times_on_disk(bars, tmp_path):
    """When the work was last looked at is when the cycle was, not when it was written."""
    path = tmp_path / "ledger.db"
    with closing(SqlStore(f"sqlite:///{path}")) as store:
        forecaster = Forecaster(make_config(GOOD), store, {GOOD: MemorySource([bars])}, ModelSuite(NamedWalk()))
        (made,) = forecaster.run_cycle(HOUR, int(bars.close_time[99]) + 3).forecasts
    with closing(sqlite3.connect(path)) as connection:
        slots = connection.execute("SELECT state, cutoff, changed_at FROM pending_forecast").fetchall()

    assert slots == [("done", made.cutoff, made.cutoff + 3)]


@pytest.mark.parametrize("delay", [None, 700])
def test_cycle_tells_how_long_each_part_took(bars, stopwatch, delay):
    """Bars and forecasts count as there only when a commit like the last ones has ended after their stamp.

    The counter is read at the beginning (0 ms), before bars are stamped (1) and four times while they are written
    (2 to 5), before the models (6), around them (7, 8), before the forecasts are stamped (9), around their commit (10,
    11), after it (12), and at the end (13).
    """
    forecaster = make_forecaster(bars)
    as_of = int(bars.close_time[99])
    started_at = None if delay is None else as_of + delay
    report = forecaster.run_cycle(HOUR, as_of, started_at)
    (forecast,) = report.forecasts
    seen_at = (started_at or as_of) + 1 + 2 * SHORTEST_COMMIT_MS

    assert forecaster.store.bars(GOOD).first_seen_at[-1] == seen_at
    assert forecast.issued_at == seen_at
    assert forecast.available_at == forecast.issued_at + 2 + 2 * SHORTEST_COMMIT_MS
    assert forecaster.store.latest(GOOD, "nano").available_at == forecast.available_at
    assert forecaster.store.runs() == [Run(LIVE, LIVE, forecast.issued_at)]
    assert (report.model_seconds, report.seconds) == (0.001, 0.013)


class SlowStore(MemoryStore):
    """Its commits take as long as they are told to."""

    def __init__(self, seconds):
        super().__init__()
        self.seconds = seconds
        self.committed = []

    def add_forecasts(self, *batch):
        time.sleep(self.seconds)
        added = super().add_forecasts(*batch)
        self.committed.append(time.perf_counter())
        return added


class SlowBars(MemoryStore):
    """Takes its time before bars are committed, and reads them back then."""

    def __init__(self, seconds):
        super().__init__()
        self.seconds = seconds
        self.committed = 0.0

    def add_bars(self, *given):
        time.sleep(self.seconds)
        return super().add_bars(*given)

    @contextmanager
    def transaction(self, *, write=True):
        with super().transaction(write=write):
            yield
        self.committed = time.perf_counter() if write and self._bars and not self.committed else self.committed


@pytest.mark.parametrize("seconds", [0.1, 0.6])
def test_bars_are_not_seen_before_their_commit(bars, seconds):
    """What takes longer than was allowed for is undone, and written with a later stamp."""
    store = SlowBars(seconds)
    forecaster = Forecaster(make_config(GOOD), store, {GOOD: MemorySource([bars])}, ModelSuite(NamedWalk()))
    as_of, began = int(bars.close_time[99]), time.perf_counter()
    report = forecaster.run_cycle(HOUR, as_of)
    (seen_at,) = set(store.bars(GOOD).first_seen_at.tolist())

    assert report.bars_added == 64
    assert seen_at >= as_of + (store.committed - began) * 1000 - 1
    assert store.bars(GOOD).revision.tolist() == [0] * 64
    assert report.forecasts[0].issued_at >= seen_at


def test_what_is_written_again_loses_nothing(bars):
    """Bars before a fault, and bodies that were refused, whether or not their transaction had to be repeated."""

    class Broken(MemorySource):
        def fetch(self, key, since, as_of):
            if key == SHORT:
                raise BadPayload("binance", "bars", "<html>", "<html>")
            found = super().fetch(key, since, as_of)
            return found if key == GOOD else replace(found, fault=SourceUnavailable("binance", "gone"))

    series = [bars, make_bars(SHORT, 120), make_bars(LATE, 120)]
    kept = []
    for store in (MemoryStore(), SlowBars(0.2)):
        sources = dict.fromkeys((GOOD, SHORT, LATE), Broken(series))
        forecaster = Forecaster(make_config(GOOD, SHORT, LATE), store, sources, ModelSuite(NamedWalk()))
        report = forecaster.run_cycle(HOUR, int(bars.close_time[99]))
        counts = [len(store.bars(key)) for key in (GOOD, SHORT, LATE)]
        kept.append((counts, [row.body for row in store.rejected_rows(SHORT)], set(report.skipped)))

    assert kept[0] == kept[1]
    assert kept[0] == ([64, 0, 64], ["<html>"], {SHORT, LATE})


def test_forecast_is_not_there_before_its_commit(bars):
    """However long that takes: the ledger says so, and so does what the caller gets."""
    forecaster = Forecaster(make_config(GOOD), SlowStore(0.4), {GOOD: MemorySource([bars])}, ModelSuite(NamedWalk()))
    as_of, began = int(bars.close_time[99]), time.perf_counter()
    (made,) = forecaster.run_cycle(HOUR, as_of).forecasts
    committed = as_of + round((forecaster.store.committed[0] - began) * 1000)

    assert made.available_at >= committed
    assert forecaster.latest(("binance", "BTC/USDT", "1h"), max_age="any").available_at == made.available_at
    assert forecaster.latest(("binance", "BTC/USDT", "1h"), as_of=committed) is None


def test_slow_commits_are_allowed_for_from_then_on(bars):
    """The next forecast is stamped right at once."""
    forecaster = Forecaster(make_config(GOOD), SlowStore(0.2), {GOOD: MemorySource([bars])}, ModelSuite(NamedWalk()))
    for i in (99, 100):
        report = forecaster.run_cycle(HOUR, int(bars.close_time[i]))
    (made,) = report.forecasts

    assert forecaster._recorder._commits.allowance_ms >= 400
    assert made.available_at - made.issued_at >= 400


def test_cycle_is_one_line_in_the_log(bars):
    """All that its report says, in words and numbers that a machine reads."""

    class Broken(RandomWalk):
        name = "broken"

        def predict(self, contexts, horizon):
            raise ZeroDivisionError

    forecaster = make_forecaster(
        bars, make_bars(SHORT, count=120)[90:], models=ModelSuite(NamedWalk(), [Broken(), RandomWalk()])
    )
    times = [int(bars.close_time[i]) for i in (70, 119)]
    with structlog.testing.capture_logs() as logs:
        reports = [forecaster.run_cycle(HOUR, as_of, exchange="binance") for as_of in times]

    lines = [line for line in logs if line["event"] == "cycle.completed"]
    expected = [
        {
            "event": "cycle.completed",
            "log_level": "info",
            "timeframe": "1h",
            "exchange": "binance",
            "as_of": report.as_of,
            "series": 2,
            "bars_added": report.bars_added,
            "forecasts": len(report.forecasts),
            "late": sum(one.is_late for one in report.forecasts),
            "missed": report.missed,
            "settled": report.settled_rows,
            "awaiting_bars": 0,
            "skipped": {str(key): reason for key, reason in report.skipped.items()},
            "failed_baselines": {"broken": "ZeroDivisionError: "},
            "engine": "numpy",
            "seconds": round(report.seconds, 3),
            "waited_seconds": round(report.waited_seconds, 3),
            "model_seconds": round(report.model_seconds, 3),
        }
        for report in reports
    ]
    assert lines == expected
    assert [report.as_of for report in reports] == times
    assert [(line["forecasts"], line["late"]) for line in lines] == [(1, 0), (24, 23)]
    assert lines[1]["missed"] > 0 < lines[1]["settled"]
    assert [list(line["skipped"]) for line in lines] == [["binance NEW/USDT 1h"]] * 2


def test_cycle_is_of_one_exchange_or_of_all(bars):
    other = make_bars(make_key("kraken"), count=120)
    as_of = int(bars.close_time[99])
    reports = [
        make_forecaster(bars, other).run_cycle(HOUR, as_of, exchange=exchange)
        for exchange in (None, "kraken", "nobody")
    ]

    assert [[one.key.exchange for one in report.forecasts] for report in reports] == [
        ["binance", "kraken"],
        ["kraken"],
        [],
    ]
    assert [(report.exchange, report.series, report.timeframe) for report in reports] == [
        (None, 2, HOUR),
        ("kraken", 1, HOUR),
        ("nobody", 0, HOUR),
    ]


def test_change_of_the_models_coverage_is_told(bars):
    """And logged; the baseline's is nobody's concern."""
    n = 400
    inside_U = (np.arange(n) < 200) & (np.arange(n) % 7 > 0)
    actual_N = np.repeat(np.where(inside_U, 105.0, 115.0), 2)
    steps = make_steps(
        np.tile([[90.0, 101.0, 110.0], [90.0, 100.0, 110.0]], (n, 1)),
        actual_N,
        models=["nano@1", "random_walk@1"] * n,
        cutoff=CUTOFF + np.repeat(np.arange(n), 2) * HOUR_MS,
    )
    losses = compute_losses(steps, make_past(np.full(n + 1, 100.0), GOOD, CUTOFF + (n - 1) * HOUR_MS))
    with structlog.testing.capture_logs() as logs:
        found = make_forecaster(bars)._runner._drifts([losses])

    assert found
    assert {(key, drift.measure) for key, drift in found} == {(GOOD, "coverage")}
    assert logs == [
        {
            "event": "accuracy.drifted",
            "log_level": "warning",
            "series": "binance BTC/USDT 1h",
            "model": "nano@1",
            "measure": "coverage",
            "before": round(drift.before, 4),
            "now": round(drift.now, 4),
        }
        for _, drift in found
    ]


def test_next_cycle_settles_the_first_step(bars):
    forecaster = make_forecaster(bars)
    as_of = int(bars.close_time[99])
    forecaster.run_cycle(HOUR, as_of)
    report = forecaster.run_cycle(HOUR, as_of + HOUR_MS)

    (steps,) = (one.steps for one in report.settled)

    assert (steps.step_N.tolist(), steps.target_open_N.tolist()) == ([1, 1], [as_of, as_of])
    assert report.settled_rows == 2 * 4
    assert steps.actual_NF.tolist() == [bars.ohlcv_TF[100, :4].tolist()] * 2
    assert forecaster.run_cycle(HOUR, as_of + HOUR_MS + 1).settled == []


def test_bad_series_sit_out_by_name(bars):
    """A short and a late series are skipped, each with its reason; the others are on time."""
    short, late = make_bars(SHORT, count=120)[90:], make_bars(LATE, count=99)
    report = make_forecaster(bars, short, late).run_cycle(HOUR, int(bars.close_time[99]))

    assert [one.key for one in report.forecasts] == [GOOD]
    assert report.skipped[SHORT].startswith("NotEnoughBars: ")
    assert report.skipped[LATE].startswith("MissingBars: ")


def test_series_that_the_model_cannot_forecast_sits_out(bars):
    """Its neighbours are on time, and what it owes is tried again."""

    class Picky(NamedWalk):
        broken = True

        def predict(self, contexts, horizon):
            if self.broken and any(one.key == LATE for one in contexts):
                what = "broken"
                raise InferenceError(what)
            return super().predict(contexts, horizon)

    model = Picky()
    forecaster = make_forecaster(bars, make_bars(LATE, count=120), models=ModelSuite(model, [RandomWalk()]))
    first = forecaster.run_cycle(HOUR, int(bars.close_time[99]))
    model.broken = False
    second = forecaster.run_cycle(HOUR, int(bars.close_time[99]) + 1)

    assert [one.key for one in first.forecasts] == [GOOD]
    assert first.skipped == {LATE: "InferenceError: broken"}
    assert [one.key for one in second.forecasts] == [LATE]


def test_baseline_that_fails_is_left_out(bars):
    """The model is on time, whatever a baseline raises."""

    class Broken(RandomWalk):
        name = "broken"

        def predict(self, contexts, horizon):
            raise ZeroDivisionError

    forecaster = make_forecaster(bars, models=ModelSuite(NamedWalk(), [Broken(), RandomWalk()]))
    report = forecaster.run_cycle(HOUR, int(bars.close_time[99]))
    rows = forecaster.history(("binance", "BTC/USDT", "1h"), 0, 2**60)

    assert len(report.forecasts) == 1
    assert report.failed_baselines == {"broken": "ZeroDivisionError: "}
    assert {row.model_id.name for row in rows} == {"nano", "random_walk"}


def test_fault_of_a_model_is_raised_to_who_asks_by_hand(bars):
    class Broken(NamedWalk):
        def predict(self, contexts, horizon):
            what = "broken"
            raise InferenceError(what)

    with pytest.raises(InferenceError):
        make_forecaster(bars, models=ModelSuite(Broken(), [RandomWalk()])).predict(bars)


def test_other_timeframes_wait(bars):
    forecaster = make_forecaster(bars)
    report = forecaster.run_cycle(Timeframe("4h"), int(bars.close_time[99]))

    assert (report.series, report.forecasts) == (0, [])
    assert forecaster.store.runs() == []


def test_settled_rows_are_counted_by_their_own_timeframe(bars):
    """Two timeframes that close at the same instant: neither cycle counts the other's rows."""
    slow = make_bars(make_key(timeframe="2h"), count=120)
    forecaster = make_forecaster(bars, slow)
    first, second = int(slow.close_time[40]), int(slow.close_time[41])
    for as_of in (first, second):
        reports = [forecaster.run_cycle(timeframe, as_of) for timeframe in forecaster.timeframes]

    assert [{one.steps.key for one in report.settled} for report in reports] == [{GOOD}, {slow.key}]


def test_missing_weights_stop_the_cycle_before_it_writes(bars):
    """A model that cannot be loaded leaves not even bars behind."""
    config = make_config(GOOD, id="./no-such-folder")
    forecaster = Forecaster(config, MemoryStore(), {GOOD: MemorySource([bars])})
    with pytest.raises(ModelLoadError):
        forecaster.run_cycle(HOUR, int(bars.close_time[99]))

    assert forecaster.store.latest_open(GOOD) is None


def test_revised_bar_is_a_new_revision(bars):
    """The newest stored bar is asked for again, so a change of it is noticed."""
    forecaster = make_forecaster(bars)
    as_of = int(bars.close_time[99])
    forecaster.run_cycle(HOUR, as_of)
    values = bars.ohlcv_TF.copy()
    values[99, 4] += 1
    forecaster._sources[GOOD].add(Bars(GOOD, bars.open_time, values))
    forecaster.run_cycle(HOUR, as_of + HOUR_MS)
    held = forecaster.store.bars(GOOD)

    assert held.revision[-2] == 1
    assert held.ohlcv_TF[-2, 4] == values[99, 4]


def test_issue_and_availability_are_stamped(bars):
    as_of = int(bars.close_time[99])
    (forecast,) = make_forecaster(bars).run_cycle(HOUR, as_of, started_at=as_of + 1234).forecasts

    assert as_of + 1234 <= forecast.issued_at <= forecast.available_at < as_of + 3_600_000


def test_waiting_for_bars_is_not_hidden(bars, monkeypatch):
    """A source that takes its time makes the forecast later, and both ledger and report say so."""
    forecaster = make_forecaster(bars)
    fetch = forecaster._sources[GOOD].fetch

    def slowly(*question):
        time.sleep(0.3)
        return fetch(*question)

    monkeypatch.setattr(forecaster._sources[GOOD], "fetch", slowly)
    as_of = int(bars.close_time[99])
    report = forecaster.run_cycle(HOUR, as_of)

    assert report.forecasts[0].issued_at >= as_of + 300
    assert 0.29 <= report.waited_seconds <= report.seconds - report.model_seconds


def test_latest_reads_the_newest(bars):
    forecaster = make_forecaster(bars)
    before = forecaster.latest(("binance", "BTC/USDT", "1h"), max_age="any")
    for i in (99, 100):
        forecaster.run_cycle(HOUR, int(bars.close_time[i]))

    assert before is None
    assert forecaster.latest(("binance", "BTC/USDT", "1h"), max_age="any").cutoff == bars.close_time[100]


def test_unknown_series_is_named(bars):
    with pytest.raises(ConfigError, match="expected one of binance BTC/USDT 1h, found 'kraken BTC/USD 1h'"):
        make_forecaster(bars).latest(("kraken", "BTC/USD", "1h"))


def test_history_and_accuracy(bars):
    forecaster = make_forecaster(bars)
    for i in range(90, 100):
        forecaster.run_cycle(HOUR, int(bars.close_time[i]))
    history = forecaster.history(("binance", "BTC/USDT", "1h"), int(bars.close_time[95]), int(bars.close_time[97]))
    reports = forecaster.accuracy(as_of=int(bars.close_time[99]) + HOUR_MS // 2)
    walk = next(one for one in reports if (one.model_id, one.step, one.field) == ("random_walk@1", 1, "close"))

    assert len(history) == 2 * 2 * 3 * 4
    assert (walk.n, walk.n_common, walk.skill_mae, walk.skill_pinball) == (9, 9, 0, 0)


def test_window_takes_the_last_days_only(bars):
    forecaster = make_forecaster(bars)
    for i in (80, 81, 118, 119):
        forecaster.run_cycle(HOUR, int(bars.close_time[i]))
    whole, day = (
        sum(one.n for one in forecaster.accuracy(window, as_of=int(bars.close_time[119]))) for window in (None, "1d")
    )

    assert 0 < day < whole


def test_bad_window_is_named(bars):
    with pytest.raises(ConfigError, match="expected a number of days such as 30d, found 'month'"):
        make_forecaster(bars).accuracy("month")


@pytest.mark.parametrize("count", [0, 10])
def test_predict_needs_enough_bars(bars, count):
    with pytest.raises(NotEnoughBars):
        make_forecaster(bars).predict(bars[:count])


@pytest.mark.parametrize("horizon", [0, -5, 4.0, "4", True])
def test_predict_of_no_whole_number_of_bars_is_refused(bars, now, horizon):
    with pytest.raises(InvalidArgument, match="horizon: expected "):
        make_forecaster(bars).predict(bars[:97], horizon)


def test_predict_again_with_other_bars_is_another_run(bars):
    """Calls with other bars or horizons never conflict in the ledger."""
    forecaster = make_forecaster(bars)
    for given, horizon in ((bars, 3), (bars, 5), (bars[20:], 3), (bars, 3)):
        forecaster.predict(given, horizon)

    assert len(forecaster.store.runs()) == 3 - 1  # the context is the last 64 bars of both


def test_frame_of_several_series_needs_its_key(bars):
    forecaster = make_forecaster(bars, make_bars(SHORT))
    with pytest.raises(ConfigError, match="the series of the frame"):
        forecaster.predict(bars.frame)


def test_frame_belongs_to_the_only_series_unless_told(bars):
    other = make_bars(SHORT, count=120)
    alone, several = make_forecaster(bars), make_forecaster(bars, other)

    assert alone.predict(bars.frame).key == GOOD
    assert several.predict(other.frame, key=SHORT).key == SHORT
    with pytest.raises(ConfigError) as refused:
        several.predict(bars.frame)
    assert str(refused.value) == ("key: expected the series of the frame, since several are configured, found None")


def test_prediction_is_a_run_of_its_own(bars, now):
    """Named by its input, horizon, models and code, asked for now; the configured horizon is meant unless told."""
    forecaster = make_forecaster(bars)
    made = forecaster.predict(bars[:97])
    longer = forecaster.predict(bars[:97], 5)
    runs = forecaster.store.runs()

    assert made.cutoff == longer.cutoff == bars.close_time[96]
    assert (made.horizon, longer.horizon) == (3, 5)
    assert made.issued_at == longer.issued_at == now
    assert [(run.kind, run.started_at) for run in runs] == [("predict", now)] * 2
    assert sorted(json.loads(run.plan)["horizon"] for run in runs) == [3, 5]
    assert {json.loads(run.plan)["bars"] for run in runs} == {made.provenance.input_sha256}
    assert {tuple(json.loads(run.plan)["models"]) for run in runs} == {(made.provenance.ledger_id, "random_walk@1")}


def test_prediction_by_other_code_is_another_run(bars, now, monkeypatch):
    """The same bars after an upgrade are no conflict in the ledger, even where the numbers differ."""
    forecaster = make_forecaster(bars)
    forecaster.predict(bars[:97])
    monkeypatch.setattr("forecaster.engine.code_digest", lambda: "another")
    forecaster.predict(bars[:97])

    assert len(forecaster.store.runs()) == 2


def test_bar_that_is_forming_is_no_input(bars, now):
    """A cutoff in the future is refused by name, and nothing is written."""
    forecaster = make_forecaster(bars)
    with pytest.raises(
        BarNotClosed, match=f"expected bars that have closed by {format_time(now)}, the last one closes at"
    ):
        forecaster.predict(bars[:98])

    assert forecaster.store.runs() == []


def test_prediction_beside_a_writer_needs_no_lease(bars, now, tmp_path):
    """The strategy's door works while a daemon holds the ledger: it is asked, calibrated, and not recorded."""
    config = make_config(GOOD).model_copy(update={"store": StoreConfig(url=f"sqlite:///{tmp_path}/ledger.db")})
    with Forecaster(config, sources={GOOD: MemorySource([bars])}, models=ModelSuite(NamedWalk())) as daemon:
        for i in range(70, 96):
            daemon.run_cycle(HOUR, int(bars.close_time[i]))
        with Forecaster(config, models=ModelSuite(NamedWalk())) as strategy:
            beside = strategy.predict(bars[:97])
        recorded = daemon.predict(bars[:97])
        runs = [run.kind for run in daemon.store.runs()]

    assert beside.values_FHQ.tolist() == recorded.values_FHQ.tolist()
    assert beside.values_FHQ.tolist() != beside.uncalibrated.values_FHQ.tolist()
    assert (beside.issued_at, recorded.issued_at) == (now, now)
    assert runs == ["live", "predict"]


def test_prediction_needs_no_ledger_at_all(bars, now, tmp_path):
    """Nothing has been learned yet, and nothing is made."""
    config = make_config(GOOD).model_copy(update={"store": StoreConfig(url=f"sqlite:///{tmp_path}/ledger.db")})
    with Forecaster(config, models=ModelSuite(NamedWalk())) as forecaster:
        made = forecaster.predict(bars[:97])

    assert made.available_at >= made.issued_at == now
    assert list(tmp_path.iterdir()) == []


def test_prediction_is_recorded_when_that_is_asked_for(bars, now, tmp_path):
    """For which this process becomes the writer; while another one is, that is refused by name."""
    config = make_config(GOOD).model_copy(update={"store": StoreConfig(url=f"sqlite:///{tmp_path}/ledger.db")})
    with Forecaster(config, models=ModelSuite(NamedWalk())) as forecaster:
        forecaster.predict(bars[:97], record=True)
        runs = [run.kind for run in forecaster.reader.runs()]
        with Forecaster(config, models=ModelSuite(NamedWalk())) as other, pytest.raises(StoreTaken):
            other.predict(bars[:97], record=True)

    assert runs == ["predict"]


def test_prediction_is_the_models_own_when_calibration_is_switched_off(bars):
    """Whatever was learned while it was on."""
    learning = make_forecaster(bars)
    for i in range(70, 100):
        learning.run_cycle(HOUR, int(bars.close_time[i]))
    switched_off = Forecaster(make_config(GOOD, calibrate=False), learning.store, models=ModelSuite(NamedWalk()))
    off, on = (one.predict(bars[:100]) for one in (switched_off, learning))

    assert off.values_FHQ.tolist() == off.uncalibrated.values_FHQ.tolist()
    assert off.values_FHQ.tolist() != on.values_FHQ.tolist()


def test_no_bars_are_too_few(bars):
    with pytest.raises(NotEnoughBars) as refused:
        make_forecaster(bars).predict(bars[:0])

    assert (refused.value.needed, refused.value.found) == (32, 0)
    assert str(refused.value).startswith("binance BTC/USDT 1h: ")


def contexts_at(bars, *places):
    return [Context.ending_at(bars, int(bars.close_time[i]), 64, 32) for i in places]


def test_forecasts_of_contexts_are_stamped_and_recorded(bars):
    """One time for all, or one for each; of the live run and to the configured horizon when those are left out."""
    contexts = contexts_at(bars, 99, 100)
    times = [contexts[1].cutoff + 7, contexts[1].cutoff + 9]
    forecaster, replayed = make_forecaster(bars), Run("replay-1", "replay", 5)
    made = forecaster.forecast(contexts, issued_at=times[::-1], is_replay=True)
    again = forecaster.forecast(contexts, issued_at=times[1], run=replayed, horizon=2, is_replay=True)

    assert [(one.cutoff, one.issued_at, one.available_at) for one in made] == [
        (context.cutoff, time, time) for context, time in zip(contexts, times[::-1], strict=True)
    ]
    assert [(one.issued_at, one.available_at, one.horizon) for one in again] == [(times[1], times[1], 2)] * 2
    assert forecaster.store.runs() == [replayed, Run(LIVE, LIVE, min(times))]
    assert len(forecaster.store.history(GOOD, 0, 2**60)) == 2 * 2 * 3 * 4
    assert len(forecaster.store.history(GOOD, 0, 2**60, "replay-1")) == 2 * 2 * 2 * 4


def test_time_until_a_forecast_could_be_had_is_measured(bars, stopwatch):
    """From when it was asked for until it is about to be written; then its commit is allowed for."""
    forecaster = make_forecaster(bars)
    cutoff = int(bars.close_time[99])
    (made,) = forecaster.forecast(contexts_at(bars, 99), issued_at=cutoff)

    assert (made.issued_at, made.available_at) == (cutoff, cutoff + 1 + 2 * SHORTEST_COMMIT_MS)


def test_no_contexts_are_no_forecasts(bars):
    forecaster = make_forecaster(bars)

    assert forecaster.forecast([], issued_at=5) == []
    assert forecaster.store.runs() == []


def test_every_context_has_its_time_of_issue(bars):
    forecaster = make_forecaster(bars)
    with pytest.raises(ValueError, match="zip"):
        forecaster.forecast(contexts_at(bars, 99, 100), issued_at=[1])

    assert forecaster.store.runs() == []


def test_series_are_chosen_by_name(bars):
    forecaster = make_forecaster(bars, make_bars(SHORT))

    assert forecaster.select(None) == [GOOD, SHORT]
    assert forecaster.select("binance NEW/USDT 1h") == [SHORT]
    with pytest.raises(ConfigError) as refused:
        forecaster.select("NEW/USDT")
    assert str(refused.value) == ("series: expected one of binance BTC/USDT 1h, binance NEW/USDT 1h, found 'NEW/USDT'")


@pytest.fixture
def scored(bars):
    """A forecaster after ten cycles."""
    forecaster = make_forecaster(bars)
    for i in range(80, 90):
        forecaster.run_cycle(HOUR, int(bars.close_time[i]))
    return forecaster


def test_scores_are_as_of_now_unless_told(scored, bars, now):
    """And of the live run, of all series, whenever they settled."""
    whole = sum(one.n for one in scored.accuracy())

    assert whole == sum(one.n for one in scored.accuracy(as_of=now))
    assert 0 < sum(one.n for one in scored.accuracy(as_of=int(bars.close_time[85]))) < whole


def test_a_time_that_is_still_to_come_is_refused(scored, now):
    """What is asked as of then would change."""
    name = ("binance", "BTC/USDT", "1h")
    for ask in (
        lambda: scored.accuracy(as_of=now + 1),
        lambda: scored.losses(as_of=now + 1),
        lambda: scored.trust(name, as_of=now + 1),
        lambda: scored.latest(name, as_of=now + 1),
        lambda: scored.history(name, 0, now, as_of=now + 1),
    ):
        with pytest.raises(
            InvalidArgument, match=f"as_of: expected a time that has passed, {format_time(now)} at the latest"
        ):
            ask()


def test_steps_and_horizons_that_are_none_are_refused(scored, bars, now):
    for step in (0, 4):
        with pytest.raises(InvalidArgument, match=f"step: expected 1 to 3, found {step}"):
            scored.trust(("binance", "BTC/USDT", "1h"), step)
    for horizon in (0, -1):
        with pytest.raises(InvalidArgument, match="horizon"):
            scored.predict(bars[:97], horizon)


def test_scores_of_an_unknown_run_are_refused(scored):
    """No empty answer for a slip: the runs that are there are named."""
    scored.store.add_run(Run("replay-1", "replay", 5))
    for ask in (scored.accuracy, scored.losses):
        with pytest.raises(ConfigError, match="run: expected one of live, replay-1, found 'nobody'"):
            ask(run="nobody")


def test_live_forecasts_have_no_other_latency(scored):
    """They were there when they were there; `+4000ms` is for replays."""
    with pytest.raises(ConfigError, match=r"found 'live\+4000ms'"):
        scored.accuracy(run="live+4000ms")


def test_losses_are_of_the_series_that_are_named(scored, now):
    found = [list(scored.losses(keys=keys)) for keys in (None, [GOOD], [SHORT], [])]

    assert [sum(len(one.steps) for one in losses) for losses in found] == [48, 48, 0, 0]


def test_trust_is_of_a_step_as_of_now_unless_told(scored, bars, now):
    """None before anything has settled."""
    name = ("binance", "BTC/USDT", "1h")

    assert make_forecaster(bars).trust(name) is None
    assert scored.trust(name) == scored.trust(name, step=1, as_of=now)
    assert [scored.trust(name, step).verdict.n for step in (1, 2)] == [9, 8]
    assert scored.trust(name, as_of=int(bars.close_time[85]) + HOUR_MS // 2).verdict.n == 5


def test_model_is_named_without_loading_it(bars):
    config = make_config(GOOD, id="./no-such-folder")

    assert Forecaster(config).model_name == "./no-such-folder"
    assert Forecaster(config, models=ModelSuite(NamedWalk(), [RandomWalk()])).model_name == "nano"


def test_models_are_what_the_configuration_names(monkeypatch):
    """Loaded once."""
    monkeypatch.setattr("forecaster.engine.load_suite", lambda config: ("models", config))
    forecaster = Forecaster(make_config(GOOD))

    assert forecaster.models == ("models", forecaster.config.model)
    assert forecaster.models is forecaster.models


def test_timeframes_are_named_once():
    keys = [make_key(timeframe=timeframe) for timeframe in ("4h", "1h", "4h")]
    keys[2] = make_key(symbol="ETH/USDT", timeframe="4h")

    assert Forecaster(make_config(*keys)).timeframes == [Timeframe("4h"), HOUR]
    assert Forecaster(make_config(*keys)).series == keys


def test_store_is_what_the_configuration_names():
    """Opened once, by the first call that needs it; reads go to it when it is open."""
    forecaster = Forecaster(make_config(GOOD))
    apart = forecaster.reader
    store = forecaster.store

    assert isinstance(store, MemoryStore)
    assert forecaster.store is store is forecaster.reader
    assert apart is not store


def test_source_of_one_place_is_opened_once(monkeypatch):
    """Two series of one exchange, or of one file, share it; the store remembers which exchange may not be asked."""
    opened = []

    def open_source(config, one, holds):
        opened.append((config, one.key, holds))
        return MemorySource([])

    monkeypatch.setattr("forecaster.engine.open_source", open_source)
    config, store = make_config(GOOD, SHORT, LATE), MemoryStore()
    series = (*config.series[:2], config.series[2].model_copy(update={"file": Path("elsewhere.csv")}))
    config = config.model_copy(update={"series": series})
    forecaster = Forecaster(config, store, models=ModelSuite(NamedWalk()))
    forecaster.load()

    first, second, third = (forecaster._sources[key] for key in (GOOD, SHORT, LATE))
    assert first is second is not third
    assert opened == [(config, GOOD, store), (config, LATE, store)]


def test_configuration_is_a_path_or_the_environments(tmp_path, monkeypatch):
    for name in ("one", "two"):
        (tmp_path / f"{name}.toml").write_text(
            '[[series]]\nexchange = "binance"\nsymbol = "BTC/USDT"\ntimeframe = "1h"\nfile = "bars.csv"\n'
            f'[store]\nurl = "sqlite:///{name}.db"\n'
        )
    monkeypatch.setenv("FORECASTER_CONFIG", str(tmp_path / "one.toml"))

    assert Forecaster.from_config().config.store.url.reveal().endswith("one.db")
    assert Forecaster.from_config(tmp_path / "two.toml").config.store.url.reveal().endswith("two.db")


class Closing:
    """A source or a store that counts how often it was let go of."""

    closed = 0

    def close(self):
        self.closed += 1


def test_sources_and_store_are_let_go_of(tmp_path, monkeypatch):
    """Each once, though a source serves several series; what was never opened is not opened for that."""
    config = make_config(GOOD, SHORT).model_copy(update={"store": StoreConfig(url=f"sqlite:///{tmp_path}/ledger.db")})
    source, store, readers = Closing(), Closing(), []
    monkeypatch.setattr("forecaster.engine.open_reader", lambda _: readers.append(Closing()) or readers[-1])
    with Forecaster(config, store, dict.fromkeys((GOOD, SHORT), source), ModelSuite(NamedWalk())) as forecaster:
        forecaster.load()
    untouched = Forecaster(config, sources={GOOD: source})
    reading = Forecaster(config)
    assert reading.reader is reading.reader
    untouched.close()
    reading.close()

    assert (source.closed, store.closed) == (1, 1)
    assert [one.closed for one in readers] == [1]
    assert list(tmp_path.iterdir()) == []


def test_timeframe_of_a_cycle_may_be_a_text(bars):
    report = make_forecaster(bars).run_cycle("1h", int(bars.close_time[99]))

    assert (report.timeframe, len(report.forecasts)) == (HOUR, 1)
    with pytest.raises(ConfigError, match="timeframe"):
        make_forecaster(bars).run_cycle("7q", int(bars.close_time[99]))


@pytest.mark.parametrize("models", [[NamedWalk()], NamedWalk()])
def test_models_are_a_suite(models):
    with pytest.raises(InvalidArgument, match="models: expected a ModelSuite"):
        Forecaster(make_config(GOOD), models=models)


@pytest.mark.parametrize("baselines", ["garch", [None], [(RandomWalk(),)]])
def test_suite_is_of_models(baselines):
    with pytest.raises(InvalidArgument, match="models: expected a primary model, and a sequence of baselines"):
        ModelSuite(NamedWalk(), baselines)
