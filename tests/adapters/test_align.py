"""Aligning: which forecast stands in which row, what its columns say, and that no row knows what came later.

Shapes: T bars, Q quantile levels.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecaster import MemoryStore, SeriesKey
from forecaster.bars import FIELDS, Bars
from forecaster.forecast import CHRONOS_LEVELS
from forecaster.ledger import Run, RunId
from forecaster.store import open_reader, open_store
from strategies.adapters.align import ForecastQuery, align
from tests.adapters.scene import KEY, LAG_MS, forecast_of, make_scene, write_ledger
from tests.builders import HOUR_MS, make_bars, make_key, utc_ms
from tests.forecast_builders import make_forecast, make_provenance

ALL = ForecastQuery(fields=FIELDS, levels=(0.01, 0.07, 0.5, 0.99), steps=(1, 3))
STEP_1 = ForecastQuery()


@pytest.fixture
def bars():
    return make_bars(KEY, 12)


def forecasts_of(bars, latency_ms=4_000, **arguments):
    """A forecast at each close, each with its own numbers."""
    return [
        replace(
            make_forecast(bars.key, int(cutoff), seed=i, **arguments),
            issued_at=int(cutoff),
            available_at=int(cutoff) + latency_ms,
        )
        for i, cutoff in enumerate(bars.close_time)
    ]


def in_store(forecasts, run_id="live"):
    store = MemoryStore()
    store.add_run(Run(run_id, "live", 0))
    store.add_forecasts(forecasts, run_id)
    return store


def forecast_columns(aligned):
    return aligned[[name for name in aligned if name.startswith("fc_")]]


def assert_same(one, other):
    """Bit-identical, but for the labels of the rows."""
    pd.testing.assert_frame_equal(one.reset_index(drop=True), other.reset_index(drop=True), check_exact=True)


def test_columns_are_what_the_forecast_says(bars):
    """Each quantile and each probability is bit by bit what the row's own forecast answers."""
    made = forecasts_of(bars)
    aligned = align(bars, made, ALL)

    assert len(forecast_columns(aligned).columns) == 4 * 4 * 2 + 2 + 2
    for i, one in enumerate(made):
        row = aligned.iloc[i]
        for field in FIELDS:
            for level, name in zip(ALL.levels, ("q1", "q7", "q50", "q99"), strict=True):
                assert [row[f"fc_{field}_{name}_{h}"] for h in (1, 3)] == one.quantile(level, field)[[0, 2]].tolist()
        assert [row[f"fc_prob_up_{h}"] for h in (1, 3)] == [one.prob_above(bars.close[i], step=h) for h in (1, 3)]


@pytest.mark.parametrize("place", [*np.linspace(-0.3, 1.3, 9), "first", "last", "equal"])
def test_probabilities_of_any_price(bars, place):
    """Below, above, between, on a quantile, and on quantiles that are equal."""
    one = make_forecast(KEY, int(bars.close_time[0]))
    values_FHQ = one.values_FHQ.copy()
    values_FHQ[:, :, 5:9] = values_FHQ[:, :, 5:6]
    one = replace(one, values_FHQ=np.sort(values_FHQ), available_at=one.cutoff)
    values_Q = one.values_FHQ[3, 0]
    special = {"first": values_Q[0], "last": values_Q[-1], "equal": values_Q[6]}
    price = special.get(place) if isinstance(place, str) else values_Q[0] + place * np.ptp(values_Q)
    bar = Bars(KEY, bars.open_time[:1], np.array([[price, price, price, price, 1.0]]))

    assert align(bar, [one], STEP_1)["fc_prob_up_1"].tolist() == [one.prob_above(price, step=1)]


def test_last_moment(bars):
    """At `decision_lag_ms` behind the close a forecast is in time, a millisecond later it is not."""
    made = forecasts_of(bars, LAG_MS)
    made[5] = replace(made[5], available_at=made[5].available_at + 1)
    status = align(bars, made, STEP_1)["fc_status"].tolist()

    assert status == ["ok"] * 5 + ["late"] + ["ok"] * 6


def test_statuses(bars):
    """Missing before the first forecast, stale behind one; only a row that is ok has values."""
    made = forecasts_of(bars)
    made[4] = replace(made[4], available_at=made[4].cutoff + HOUR_MS)
    aligned = align(bars, [one for i, one in enumerate(made) if i not in (0, 1, 7)], STEP_1)
    ok = aligned["fc_status"] == "ok"
    values = forecast_columns(aligned).drop(columns="fc_status")

    assert aligned["fc_status"].tolist() == [
        *("missing", "missing", "ok", "ok", "late", "ok", "ok", "stale", "ok", "ok", "ok", "ok")
    ]
    assert values[ok].notna().all(axis=None)
    assert values[~ok].isna().all(axis=None)


def test_available_at(bars):
    aligned = align(bars, forecasts_of(bars), STEP_1)

    assert aligned["fc_available_at"].tolist() == [
        pd.Timestamp(cutoff + 4_000, unit="ms", tz="UTC") for cutoff in bars.close_time.tolist()
    ]


def test_newest_in_time(bars):
    """Of several forecasts of one bar the last one counts that was there in time, in whatever order they come."""
    first, second, third = (
        replace(forecast_of(bars, 0, mood, 1000 * seconds), provenance=make_provenance(revision=f"{mood}" * 12))
        for mood, seconds in ((1, 2), (2, 8), (3, 11))
    )
    for given_ones in ([first, second, third], [third, second, first]):
        for source in (given_ones, in_store(given_ones)):
            aligned = align(bars, source, STEP_1)

            assert aligned["fc_close_q50_1"].iloc[0] == second.median("close")[0]
            assert aligned["fc_status"].tolist() == ["ok"] + ["stale"] * 11


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=25))
@settings(max_examples=25, deadline=None)
def test_any_arrivals(arrivals):
    """Whatever arrives when: a loop over bars and forecasts finds the same forecast and the same status."""
    bars = make_bars(KEY, 10)
    made = [
        replace(forecast_of(bars, i, 0, 3_000 * wait), provenance=make_provenance(revision=f"{n:012d}"))
        for n, (i, wait) in enumerate(sorted(set(arrivals)))
    ]
    expected = []
    for cutoff in bars.close_time.tolist():
        in_time = [one for one in made if one.available_at - one.cutoff <= LAG_MS]
        own = [one for one in in_time if one.cutoff == cutoff]
        if own:
            expected.append(("ok", max(one.available_at for one in own)))
        elif any(one.cutoff == cutoff for one in made):
            expected.append(("late", None))
        else:
            expected.append(("stale" if any(one.cutoff < cutoff for one in in_time) else "missing", None))
    aligned = align(bars, made, STEP_1)
    stamps = [None if at is pd.NaT else int(at.timestamp() * 1000) for at in aligned["fc_available_at"]]

    assert list(zip(aligned["fc_status"], stamps, strict=True)) == expected


@pytest.mark.parametrize("shift", [0, 1])
def test_truncated_future(shift):
    """Without all later bars and all forecasts of later bars, earlier rows are bit-identical, statuses included."""
    bars, made = make_scene(120)
    whole = align(bars, made, STEP_1, shift=shift)
    for end in range(1, 120, 17):
        known = [one for one in made if one.cutoff <= bars.close_time[end - 1]]
        for source in (known, in_store(known)):
            assert_same(align(bars[:end], source, STEP_1, shift=shift), whole[:end])


def test_only_what_had_arrived():
    """Live, with the forecasts that were there when the strategy decided, the last row says what history says of it.

    But for `late`, which nobody knows before it comes.
    """
    bars, made = make_scene(120)
    whole = align(bars, made, STEP_1)
    seen = set()
    for i in range(3, 120, 2):
        there = [one for one in made if one.available_at <= bars.close_time[i] + LAG_MS]
        live, later = align(bars[: i + 1], there, STEP_1).iloc[[-1]], whole.iloc[[i]]
        seen.add((live["fc_status"].item(), later["fc_status"].item()))

        assert_same(live.drop(columns="fc_status"), later.drop(columns="fc_status"))

    assert seen == {("ok", "ok"), ("stale", "stale"), ("stale", "late")}


def test_poisoned_future():
    """Whatever later bars and forecasts hold, earlier rows are bit-identical."""
    bars, made = make_scene(60)
    poisoned = bars.frame
    poisoned.iloc[40:] *= 1e6
    moved = [one if one.cutoff <= bars.close_time[39] else replace(one, values_FHQ=one.values_FHQ * 7) for one in made]
    whole, other = align(bars.frame, made, STEP_1, key=KEY), align(poisoned, moved, STEP_1, key=KEY)

    assert_same(other[:40], whole[:40])
    assert not other[40:].equals(whole[40:])


def test_frame_is_left_alone(bars):
    """Rows, order, index, OHLCV and what else a frame has come back as they were; the caller's frame is not changed."""
    frame = bars.frame.assign(rsi=np.arange(12), tag="x")
    frame = frame.iloc[[3, 1, 2, 0, *range(4, 12)]]
    before = frame.copy()
    aligned = align(frame, forecasts_of(bars), STEP_1, key=KEY)

    pd.testing.assert_frame_equal(frame, before, check_exact=True)
    pd.testing.assert_frame_equal(aligned[frame.columns], before, check_exact=True)
    assert aligned["fc_available_at"].dt.hour.tolist() == [4, 2, 3, 1, *range(5, 13)]


@pytest.mark.parametrize(
    ("zone", "unit", "place"),
    [
        (None, "s", "date"),
        (None, "ns", "index"),
        ("UTC", "ms", "index"),
        ("UTC", "us", "date"),
        ("America/New_York", "ns", "date"),
        ("America/New_York", "s", "index"),
    ],
)
def test_open_times_of_all_kinds(bars, zone, unit, place):
    """Any zone and resolution names the same instants; times without a zone are UTC."""
    times = bars.frame.index.as_unit(unit)
    times = times.tz_localize(None) if zone is None else times.tz_convert(zone)
    frame = bars.frame.reset_index(drop=True)
    frame = frame.assign(date=times) if place == "date" else frame.set_index(times)
    made = forecasts_of(bars)

    assert_same(
        forecast_columns(align(frame, made, STEP_1, key=KEY)),
        forecast_columns(align(bars.frame, made, STEP_1, key=KEY)),
    )


def test_ledger_and_hand_agree(tmp_path):
    """In hand, in memory and in a file that is read beside its writer, over more slots than are read at once."""
    bars, made = make_scene(1100)
    write_ledger(tmp_path, made)
    reader = open_reader(f"sqlite:///{tmp_path}/ledger.db")
    query = ForecastQuery(fields=FIELDS, steps=(1, 2), model="nano")
    in_hand = align(bars, made, query)

    assert (in_hand["fc_status"] == "ok").sum() > 800
    assert_same(align(bars, reader, query), in_hand)
    assert_same(align(bars, in_store(made), query), in_hand)
    reader.close()


def test_model_and_run(bars):
    """Only the named model's forecasts of the named run count; several models and no name is refused."""
    walk = [replace(one, provenance=make_provenance("random_walk")) for one in forecasts_of(bars)]
    nano = [forecast_of(bars, i, 1, 0) for i in range(12)]
    store = in_store([*walk, *nano], "replay-1")
    query = ForecastQuery(model="nano", run_id="replay-1")

    assert_same(align(bars, store, query), align(bars, nano, query))
    assert set(align(bars, store, ForecastQuery(model="nano"))["fc_status"]) == {"missing"}
    with pytest.raises(ValueError, match="model: expected the name of one of nano, random_walk, found None"):
        align(bars, store, ForecastQuery(run_id="replay-1"))


@pytest.mark.parametrize(
    ("query", "words"),
    [
        (ForecastQuery(model="nanoo", run_id="replay-1"), "model: expected one of nano, random_walk, found nanoo"),
        (ForecastQuery(model="nanoo"), "model: expected one of nano, random_walk, found nanoo"),
        (ForecastQuery(model="nano", run_id="replay-2"), "run_id: expected one of live, replay-1, found replay-2"),
        (
            ForecastQuery(model="nano", run_id="replay-2+50ms"),
            r"run_id: expected one of live, replay-1, found replay-2\+50ms",
        ),
        (
            ForecastQuery(model="nano", run_id="replay-1", levels=(0.999,)),
            r"levels: expected 0.01 to 0.99, found 0.999",
        ),
        (ForecastQuery(model="nano", run_id="replay-1", steps=(9,)), r"steps: expected 1 to 3, found \(9,\)"),
    ],
)
@pytest.mark.parametrize("kept", ["memory", "sqlite"])
def test_names_that_the_ledger_does_not_know(bars, tmp_path, kept, query, words):
    """Never a column of NaN that looks like a market without forecasts; the known names are in the error."""
    store = open_store("memory:" if kept == "memory" else f"sqlite:///{tmp_path}/ledger.db")
    store.add_run(Run("replay-1", "replay", 0))
    for name in ("nano", "random_walk"):
        store.add_forecasts([replace(one, provenance=make_provenance(name)) for one in forecasts_of(bars)], "replay-1")
    with pytest.raises(ValueError, match=words):
        align(bars, store, query)
    store.close()


@pytest.mark.parametrize("names", [{"symbol": "BTC/USD"}, {"exchange": "kraken"}, {"calendar": "CMES"}])
def test_a_series_that_the_ledger_does_not_know(bars, names):
    """A slip in its name is no market without forecasts; so is another calendar."""
    store = open_store("memory:")
    store.add_run(Run("replay-1", "replay", 0))
    store.add_forecasts(forecasts_of(bars), "replay-1")
    other = make_key(**{"exchange": KEY.exchange, "symbol": KEY.symbol, "timeframe": str(KEY.timeframe)} | names)
    with pytest.raises(ValueError, match=f"key: expected one of {KEY} on {KEY.calendar}, found {other.exchange}"):
        align(make_bars(other, 50), store, ForecastQuery(model="nano", run_id="replay-1"))


def test_a_model_that_no_forecast_in_hand_has(bars):
    with pytest.raises(ValueError, match="model: expected one of nano, found nanoo"):
        align(bars, forecasts_of(bars), ForecastQuery(model="nanoo"))


def test_before_the_first_forecast_every_name_may_be_right(bars):
    """A bot may start before the service's first close: nothing is there, and nothing is refused."""
    assert set(align(bars, MemoryStore(), ForecastQuery(model="nano"))["fc_status"]) == {"missing"}
    assert set(align(bars, [], ForecastQuery(model="nano"))["fc_status"]) == {"missing"}


@pytest.mark.parametrize(("latency_ms", "status"), [(0, "ok"), (4_000, "ok"), (LAG_MS, "ok"), (LAG_MS + 1, "late")])
def test_a_replay_that_is_read_with_a_latency(bars, latency_ms, status):
    """The same forecasts, each there so much later: columns as of forecasts in hand that were."""
    store = in_store(forecasts_of(bars, 0), "replay-1")
    query = ForecastQuery(run_id=RunId("replay-1").delayed(latency_ms))
    aligned = align(bars, store, query)

    assert set(aligned["fc_status"]) == {status}
    assert_same(aligned, align(bars, forecasts_of(bars, latency_ms), STEP_1))


@pytest.mark.parametrize("name", ["nano", "models/nano@v2", "a@b@c"])
def test_a_name_that_holds_the_mark_of_digests(bars, name):
    """A folder's name may hold `@`: its forecasts are found by the whole name."""
    made = [replace(one, provenance=make_provenance(name)) for one in forecasts_of(bars)]
    aligned = align(bars, in_store(made), ForecastQuery(model=name))

    assert set(aligned["fc_status"]) == {"ok"}
    assert_same(aligned, align(bars, made, ForecastQuery(model=name)))


def test_forecasts_that_end_too_soon(bars):
    """One that does not reach the last step asked for is as if it were not there; if none does, that is refused."""
    short, long = forecasts_of(bars, horizon=2), forecasts_of(bars, horizon=4)
    query = ForecastQuery(steps=(1, 4))
    for source in ([*short[:6], *long[6:]], in_store([*short[:6], *long[6:]])):
        assert align(bars, source, query)["fc_status"].tolist() == ["missing"] * 6 + ["ok"] * 6
    for source in (short, in_store(short)):
        with pytest.raises(ValueError, match=r"steps: expected 1 to 2, found \(1, 4\)"):
            align(bars, source, query)


def test_shift(bars):
    """Each row shows what stood one row higher, its probability against the close of that bar."""
    made = forecasts_of(bars)
    plain, lower = (forecast_columns(align(bars, made, STEP_1, shift=shift)) for shift in (0, 1))

    assert_same(lower[1:], plain[:-1])
    assert lower["fc_status"].iloc[0] == "missing"
    assert lower.drop(columns="fc_status").iloc[0].isna().all()


def test_more_rows_of_shift_than_bars(bars):
    assert set(align(bars, forecasts_of(bars), STEP_1, shift=20)["fc_status"]) == {"missing"}


def test_missing_bars(bars):
    """A row belongs to its bar by time, not by place."""
    made = forecasts_of(bars)
    some = align(bars.frame.drop(bars.frame.index[[2, 5, 6]]), made, STEP_1, key=KEY)
    every = align(bars, made, STEP_1)

    assert_same(some, every.drop(every.index[[2, 5, 6]]))


def test_sessions():
    """Daily bars of a stock exchange: a date stands for its session, whose close is the cutoff, early ones included."""
    key = make_key("arch", "SPX/USD", "1d", "XNYS")
    bars = make_bars(key, 8, utc_ms("2024-11-25"))
    dates = pd.DatetimeIndex(
        [f"2024-11-{day}" for day in (25, 26, 27, 29)] + [f"2024-12-0{day}" for day in range(2, 6)]
    )
    aligned = align(bars.frame.set_index(dates), forecasts_of(bars), STEP_1, key=key)
    hours = aligned["fc_available_at"].dt.hour.tolist()

    assert set(aligned["fc_status"]) == {"ok"}
    assert hours == [21, 21, 21, 18, 21, 21, 21, 21]


def test_nothing_there(bars):
    """No bars, no forecasts, a ledger that nobody has written: columns all the same."""
    columns = ["fc_close_q10_1", "fc_close_q50_1", "fc_close_q90_1", "fc_prob_up_1", "fc_status", "fc_available_at"]

    assert forecast_columns(align(bars[:0], forecasts_of(bars), STEP_1)).columns.tolist() == columns
    assert forecast_columns(align(bars[:0], MemoryStore(), STEP_1)).columns.tolist() == columns
    for nothing in ([], MemoryStore()):
        aligned = forecast_columns(align(bars, nothing, STEP_1))

        assert aligned.columns.tolist() == columns
        assert set(aligned["fc_status"]) == {"missing"}


def test_one_bar(bars):
    assert align(bars[:1], forecasts_of(bars), STEP_1)["fc_status"].tolist() == ["ok"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: frame.drop(columns="close"), "expected a column close"),
        (lambda frame: frame.reset_index(drop=True), "expected open times in the column date or in the index"),
        (lambda frame: frame.shift(freq="1min"), "expected bars of binance BTC/USDT 1h on the grid of 24/7"),
        (lambda frame: frame[::4], "found no two that follow each other, as in a longer timeframe"),
    ],
    ids=["no close", "no times", "off the grid", "longer timeframe"],
)
def test_frames_that_do_not_fit(bars, change, message):
    with pytest.raises(ValueError, match=message):
        align(change(bars.frame), [], STEP_1, key=KEY)


def test_frame_without_a_series(bars):
    with pytest.raises(ValueError, match="key: expected the series of the frame"):
        align(bars.frame, [], STEP_1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda one: replace(one, key=SeriesKey("kraken", "BTC/USDT", "1h")), "expected those of binance"),
        (lambda one: replace(one, available_at=None), "expected recorded ones"),
        (lambda one: make_forecast(KEY, one.cutoff, levels=(0.1, 0.5, 0.9)), "the same quantile levels in all"),
    ],
    ids=["other series", "not recorded", "other levels"],
)
def test_forecasts_that_do_not_fit(bars, change, message):
    made = forecasts_of(bars)
    with pytest.raises(ValueError, match=message):
        align(bars, [*made[:3], change(made[3])], STEP_1)


@pytest.mark.parametrize("level", [0.005, 0.995])
def test_levels_outside_the_outermost(bars, level):
    with pytest.raises(ValueError, match=f"levels: expected {CHRONOS_LEVELS[0]} to {CHRONOS_LEVELS[-1]}"):
        align(bars, forecasts_of(bars), ForecastQuery(levels=(level,)))


@pytest.mark.parametrize(
    "arguments",
    [
        {"fields": ("volume",)},
        {"levels": (0.0,)},
        {"levels": (1.0,)},
        {"steps": ()},
        {"steps": (0,)},
        {"decision_lag_ms": -1},
    ],
    ids=str,
)
def test_what_no_forecast_has(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        ForecastQuery(**arguments)


def test_shift_upwards(bars):
    """That would be a look ahead."""
    with pytest.raises(ValueError, match="shift: expected 0 or more rows, found -1"):
        align(bars, [], STEP_1, shift=-1)
