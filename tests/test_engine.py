"""`Forecaster`: cycles, reads, and what happens to a series whose bars cannot be used."""

from __future__ import annotations

import time

import pytest

from forecaster import Bars, Forecaster, MemorySource, MemoryStore
from forecaster.config import Config
from forecaster.errors import ConfigError, InferenceError, ModelLoadError, NotEnoughBars
from forecaster.model.baselines import RandomWalk
from forecaster.timeframe import Timeframe
from tests.builders import HOUR_MS, make_bars, make_key

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
        make_config(*keys, **model), MemoryStore(), dict.fromkeys(keys, source), models or [NamedWalk(), RandomWalk()]
    )


@pytest.fixture
def bars():
    return make_bars(GOOD, count=120)


def test_cycle_reports_what_it_did(bars):
    forecaster = make_forecaster(bars)
    as_of = int(bars.close_time[99])
    report = forecaster.run_cycle(HOUR, as_of)

    assert (report.series, report.bars_added, len(report.forecasts)) == (1, 64, 1)
    assert report.forecasts[0].cutoff == as_of
    assert report.skipped == {}


def test_next_cycle_settles_the_first_step(bars):
    forecaster = make_forecaster(bars)
    as_of = int(bars.close_time[99])
    forecaster.run_cycle(HOUR, as_of)
    report = forecaster.run_cycle(HOUR, as_of + HOUR_MS)

    (steps,) = (one.steps for one in report.settled)

    assert (steps.step_N.tolist(), steps.target_open_N.tolist()) == ([1, 1], [as_of, as_of])
    assert report.settled_rows == 2 * 4
    assert steps.actual_NF.tolist() == [bars.ohlcv_TF[100, :4].tolist()] * 2


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
    forecaster = make_forecaster(bars, make_bars(LATE, count=120), models=[model, RandomWalk()])
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

    forecaster = make_forecaster(bars, models=[NamedWalk(), Broken(), RandomWalk()])
    report = forecaster.run_cycle(HOUR, int(bars.close_time[99]))
    rows = forecaster.history("binance", "BTC/USDT", "1h", 0, 2**60)

    assert len(report.forecasts) == 1
    assert report.sat_out == {"broken": "ZeroDivisionError: "}
    assert {row.model_id.partition("@")[0] for row in rows} == {"nano", "random_walk"}


def test_fault_of_a_model_is_raised_to_who_asks_by_hand(bars):
    class Broken(NamedWalk):
        def predict(self, contexts, horizon):
            what = "broken"
            raise InferenceError(what)

    with pytest.raises(InferenceError):
        make_forecaster(bars, models=[Broken(), RandomWalk()]).predict(bars)


def test_other_timeframes_wait(bars):
    report = make_forecaster(bars).run_cycle(Timeframe("4h"), int(bars.close_time[99]))

    assert (report.series, report.forecasts) == (0, [])


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

    assert forecaster.store.newest_open(GOOD) is None


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

    assert as_of + 1234 <= forecast.issued_at <= forecast.available_at < as_of + 60_000


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
    assert 0.3 <= report.waited_seconds <= report.seconds - report.model_seconds
    assert report.model_seconds < 0.3


def test_latest_reads_the_newest(bars):
    forecaster = make_forecaster(bars)
    before = forecaster.latest("binance", "BTC/USDT", "1h")
    for i in (99, 100):
        forecaster.run_cycle(HOUR, int(bars.close_time[i]))

    assert before is None
    assert forecaster.latest("binance", "BTC/USDT", "1h").cutoff == bars.close_time[100]


def test_unknown_series_is_named(bars):
    with pytest.raises(ConfigError, match="expected one of binance BTC/USDT 1h, found 'kraken BTC/USD 1h'"):
        make_forecaster(bars).latest("kraken", "BTC/USD", "1h")


def test_history_and_accuracy(bars):
    forecaster = make_forecaster(bars)
    for i in range(90, 100):
        forecaster.run_cycle(HOUR, int(bars.close_time[i]))
    history = forecaster.history("binance", "BTC/USDT", "1h", int(bars.close_time[95]), int(bars.close_time[97]))
    reports = forecaster.accuracy(as_of=int(bars.close_time[99]))
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


def test_predict_again_with_other_bars_is_another_run(bars):
    """Calls with other bars or horizons never conflict in the ledger."""
    forecaster = make_forecaster(bars)
    for given, horizon in ((bars, 3), (bars, 5), (bars[20:], 3), (bars, 3)):
        forecaster.predict(given, horizon)

    assert len(forecaster.store.runs) == 3 - 1  # the context is the last 64 bars of both


def test_frame_of_several_series_needs_its_key(bars):
    forecaster = make_forecaster(bars, make_bars(SHORT))
    with pytest.raises(ConfigError, match="the series of the frame"):
        forecaster.predict(bars.frame)
