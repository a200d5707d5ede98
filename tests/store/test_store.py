"""The contract of `Store`: one suite, every store."""

from __future__ import annotations

import dataclasses
from contextlib import suppress

import numpy as np
import pytest

from forecaster import ledger
from forecaster.bars import FIELDS, Bars, RejectedRow
from forecaster.errors import InvalidArgument, LedgerConflict, StoreError, StoreUnavailable, format_time
from forecaster.forecast import ENGINE_NOISE, OHLCForecast, repair
from forecaster.ledger import LIVE, CalibrationState, Hold, PendingForecast, Run
from forecaster.sources.memory import MemorySource
from forecaster.store import open_store
from forecaster.store.memory import MemoryStore
from forecaster.store.records import CUTOFFS_PER_QUERY
from forecaster.store.sql import SqlStore
from tests.builders import HOUR_MS, held_until, make_bars, make_key, utc_ms
from tests.forecast_builders import CUTOFF, LATENCY_MS, TENS, make_forecast, make_provenance, settled_rows

START = utc_ms("2024-01-01")
ETHER = make_key(symbol="ETH/USDT")
REPLAY = "replay-1"
WALK = make_provenance("random_walk", "1", "numpy")


@pytest.fixture(params=["memory", "sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def store(request, tmp_path):
    urls = {"memory": lambda: "memory:", "sqlite": lambda: f"sqlite:///{tmp_path}/ledger.db"}
    url = urls.get(request.param, lambda: request.getfixturevalue("cluster").new_database())()
    opened = open_store(url)
    opened.add_run(Run(LIVE, LIVE, START))
    opened.add_run(Run(REPLAY, "replay", START))
    yield opened
    opened.close()


def seen(bars: Bars, at: int) -> Bars:
    """The same bars, known from `at` on."""
    return Bars(bars.key, bars.open_time, bars.ohlcv_TF, np.full(1, at))


def changed(bars: Bars, row: int = 0, column: int = 4, by: float = 1.0) -> Bars:
    """The same bars, but one value (volume, unless told) of one of them."""
    values = bars.ohlcv_TF.copy()
    values[row, column] += by
    return Bars(bars.key, bars.open_time, values, bars.first_seen_at)


def moved(forecast: OHLCForecast, noises: float = 1.1) -> OHLCForecast:
    """The same forecast but for one number, by so many times the noise of float32."""
    raw = forecast.raw_FHQ.copy()
    raw[3, -1, -1] += noises * ENGINE_NOISE * np.ptp(raw[3])
    return dataclasses.replace(forecast, raw_FHQ=raw, values_FHQ=repair(raw))


def target_bars(count: int = 3, first_seen_at: int = CUTOFF) -> Bars:
    """The bars that steps 1 to `count` of `make_forecast()` stand for."""
    return seen(make_bars(count=count, start=CUTOFF), first_seen_at)


def cases(rows):
    """What settled, as (step, field) in order."""
    return [(one.row.step, one.row.field) for one in rows]


def same_bits(one: OHLCForecast, other: OHLCForecast) -> bool:
    """Whether all that two forecasts hold is equal, prices bit by bit."""
    plain = {"raw_FHQ", "values_FHQ", "targets"}
    names = [field.name for field in dataclasses.fields(one) if field.name not in plain]
    return (
        all(getattr(one, name) == getattr(other, name) for name in names)
        and one.target_opens().tolist() == other.target_opens().tolist()
        and one.raw_FHQ.shape == other.raw_FHQ.shape
        and one.raw_FHQ.tobytes() == other.raw_FHQ.tobytes()
        and one.values_FHQ.tobytes() == other.values_FHQ.tobytes()
    )


def test_the_url_chooses_the_store(tmp_path):
    on_disk = open_store(f"sqlite:///{tmp_path}/ledger.db")
    on_disk.close()

    assert isinstance(on_disk, SqlStore)
    assert isinstance(open_store("memory:"), MemoryStore)


def test_new_bars_come_back_as_they_were(store):
    """Prices bit by bit, with the time at which they were first seen."""
    bars = seen(make_bars(count=5), START + 77)

    added = store.add_bars(bars)
    read = store.bars(bars.key)

    assert added == 5
    assert read.key == bars.key
    assert read.open_time.tolist() == bars.open_time.tolist()
    assert read.ohlcv_TF.tobytes() == bars.ohlcv_TF.tobytes()
    assert read.first_seen_at.tolist() == [START + 77] * 5
    assert read.revision.tolist() == [0] * 5


def test_bars_that_are_known_are_left_alone(store):
    """Also when they are seen again later: the first time stays."""
    store.add_bars(seen(make_bars(count=5), START))

    added = store.add_bars(seen(make_bars(count=5), START + 99))

    assert added == 0
    assert store.bars(make_key()).first_seen_at.tolist() == [START] * 5


def test_only_what_is_new_is_added(store):
    bars = make_bars(count=5)
    store.add_bars(bars[:3])

    assert store.add_bars(bars[2:]) == 2
    assert len(store.bars(make_key())) == 5


def test_no_bars_are_no_rows(store):
    assert store.add_bars(Bars.empty(make_key())) == 0


@pytest.mark.parametrize("column", [3, 4], ids=["close", "volume"])
def test_a_changed_bar_is_a_further_revision(store, column):
    bars = make_bars(count=3)
    revised = seen(changed(bars, row=1, column=column, by=-0.01), START + 5)
    store.add_bars(bars)

    added = store.add_bars(revised)
    read = store.bars(bars.key)

    assert added == 1
    assert read.revision.tolist() == [0, 1, 0]
    assert read.first_seen_at.tolist() == [0, START + 5, 0]
    assert read.ohlcv_TF.tolist() == revised.ohlcv_TF.tolist()


def without_volume(bars: Bars, *rows: int) -> Bars:
    """The same bars, of some of which nobody knows the volume."""
    ohlcv_TF = bars.ohlcv_TF.copy()
    ohlcv_TF[list(rows), 4] = np.nan
    return Bars(bars.key, bars.open_time, ohlcv_TF, bars.first_seen_at)


@pytest.mark.parametrize("rows", [(1,), (0, 1, 2)], ids=["of one", "of all"])
def test_unknown_volumes_come_back_as_they_were(store, rows):
    bars = without_volume(make_bars(count=3), *rows)

    added = store.add_bars(bars)

    assert added == 3
    assert store.bars(bars.key).ohlcv_TF.tobytes() == bars.ohlcv_TF.tobytes()


def test_volume_that_stays_unknown_is_no_revision(store):
    """Though NaN is not equal to itself."""
    bars = without_volume(make_bars(count=3), 1)
    store.add_bars(bars)

    assert store.add_bars(without_volume(make_bars(count=3), 1)) == 0
    assert store.bars(bars.key).revision.tolist() == [0, 0, 0]


def test_source_of_bars_without_volume_adds_them_once(store):
    bars = without_volume(make_bars(count=3), 0, 1, 2)
    source = MemorySource([bars])
    store.add_bars(source.fetch(bars.key, None, 2**60).bars)
    source.add(bars)

    assert store.add_bars(source.fetch(bars.key, None, 2**60).bars) == 0


def test_volume_that_becomes_known_is_a_revision(store):
    known = make_bars(count=3)
    unknown = without_volume(known, 1)
    store.add_bars(seen(unknown, START + 1))

    assert store.add_bars(seen(known, START + 5)) == 1
    assert store.bars(known.key).revision.tolist() == [0, 1, 0]
    assert store.bars(known.key, as_of=START + 4).ohlcv_TF.tobytes() == unknown.ohlcv_TF.tobytes()
    assert store.bars(known.key).ohlcv_TF.tobytes() == known.ohlcv_TF.tobytes()


def test_unknown_volume_does_not_replace_one_that_is_known(store):
    """A page without volumes writes no revision, and the next one with them writes none either."""
    known = make_bars(count=3)
    store.add_bars(known)
    added = [store.add_bars(seen(one, START + 5)) for one in (without_volume(known, 0, 1), known)]

    assert added == [0, 0]
    assert store.bars(known.key).ohlcv_TF.tobytes() == known.ohlcv_TF.tobytes()


def test_other_prices_of_an_unknown_volume_are_a_revision(store):
    """The volume of the prices before is not the volume of the new ones."""
    known = make_bars(count=3)
    revised = without_volume(changed(known, row=1, column=3, by=-0.01), 1)
    store.add_bars(known)

    assert store.add_bars(seen(revised, START + 5)) == 1
    assert store.bars(known.key).ohlcv_TF.tobytes() == revised.ohlcv_TF.tobytes()


def test_source_in_memory_keeps_a_volume_that_it_knows():
    """What is added later without volumes replaces prices that differ, and no known volume of the same prices."""
    known = make_bars(count=3)
    source = MemorySource([known])
    source.add(without_volume(changed(known, row=2, column=3, by=-0.01), 1, 2))
    volumes = source.fetch(known.key, None, 2**60).bars.ohlcv_TF[:, 4].tolist()

    assert volumes[:2] == known.ohlcv_TF[:2, 4].tolist()
    assert np.isnan(volumes[2])


def test_a_bar_that_changes_back_is_a_third_revision(store):
    """Each revision is compared with the newest one, not with any that ever was."""
    bars = make_bars(count=1)
    for version in (bars, changed(bars), bars):
        store.add_bars(version)

    read = store.bars(bars.key)

    assert read.revision.tolist() == [2]
    assert read.ohlcv_TF.tolist() == bars.ohlcv_TF.tolist()


def test_a_span_includes_its_start_and_not_its_end(store):
    store.add_bars(make_bars(count=10))

    read = store.bars(make_key(), START + 2 * HOUR_MS, START + 5 * HOUR_MS)

    assert read.open_time.tolist() == [START + hour * HOUR_MS for hour in (2, 3, 4)]


def test_a_span_may_be_open_at_either_end(store):
    store.add_bars(make_bars(count=10))

    assert len(store.bars(make_key(), start=START + 7 * HOUR_MS)) == 3
    assert len(store.bars(make_key(), end=START + 7 * HOUR_MS)) == 7


def test_bars_of_a_span_without_any_are_empty(store):
    store.add_bars(make_bars(count=3))

    assert len(store.bars(make_key(), start=START + 3 * HOUR_MS)) == 0
    assert len(store.bars(ETHER)) == 0


def test_bars_that_arrive_late_find_their_place(store):
    bars = make_bars(count=6)
    store.add_bars(bars[3:])
    store.add_bars(bars[:3])

    assert store.bars(bars.key).open_time.tolist() == bars.open_time.tolist()


def test_series_are_kept_apart(store):
    store.add_bars(make_bars(count=3))
    store.add_bars(make_bars(ETHER, count=4, seed=1))

    assert len(store.bars(make_key())) == 3
    assert len(store.bars(ETHER)) == 4
    assert store.latest_open(ETHER) == START + 3 * HOUR_MS


def test_the_newest_bar_is_the_one_that_opened_last(store):
    """Not the one that was written last."""
    bars = make_bars(count=6)
    store.add_bars(bars[3:])
    store.add_bars(bars[:3])

    assert store.latest_open(bars.key) == bars.open_time[-1]


def test_a_series_without_bars_has_no_newest(store):
    assert store.latest_open(make_key()) is None


def test_refused_rows_are_not_bars(store):
    """Their numbers may be anything, NaN and infinity included."""
    refused = RejectedRow(START, (1.0, np.nan, np.inf, 1.0, -1.0), "every value must be finite")

    store.quarantine(make_key(), [refused, refused], START)
    store.quarantine(make_key(), [], START)

    assert len(store.bars(make_key())) == 0
    assert store.latest_open(make_key()) is None


def test_bars_as_they_were_known(store):
    """Before a revision came, its predecessor; before a bar was seen at all, none."""
    bars = make_bars(count=3)
    store.add_bars(seen(bars, START + 10))
    store.add_bars(seen(changed(bars, row=1), START + 20))

    assert len(store.bars(bars.key, as_of=START + 9)) == 0
    assert store.bars(bars.key, as_of=START + 19).ohlcv_TF.tolist() == bars.ohlcv_TF.tolist()
    assert store.bars(bars.key, as_of=START + 20).revision.tolist() == [0, 1, 0]
    assert (
        store.bars(bars.key, int(bars.open_time[1]), as_of=START + 10).ohlcv_TF.tolist() == bars.ohlcv_TF[1:].tolist()
    )


def test_open_times_of_a_span(store):
    store.add_bars(make_bars(count=5))
    store.add_bars(make_bars(count=5, seed=1))
    opens = make_bars(count=5).open_time

    assert store.open_times(make_key(), int(opens[1]), int(opens[4])).tolist() == opens[1:4].tolist()
    assert store.open_times(ETHER, 0, 2**62).tolist() == []
    assert (store.earliest_open(make_key()), store.earliest_open(ETHER)) == (int(opens[0]), None)


def test_gaps_keep_when_they_were_asked_for(store):
    """Each time once, however often it is written; a bar that comes after all fills its gap."""
    first, second, third = make_bars(count=3).open_time.tolist()
    store.add_gaps(make_key(), [second, first], 50)
    store.add_gaps(make_key(), [first], 70)
    store.add_gaps(make_key(), [first], 70)
    store.add_gaps(make_key(), [], 80)
    store.add_gaps(ETHER, [third], 50)
    before = store.gaps(make_key(), first, third)
    store.add_bars(make_bars(count=1))

    assert before == {first: [50, 70], second: [50]}
    assert store.gaps(make_key(), 0, second) == {}
    assert store.gaps(make_key(), second, third) == {second: [50]}


def test_newest_hold_of_an_exchange_counts(store):
    """By the order of writing, though it ends earlier, and though a clock was ahead for an older one."""
    store.hold("kraken", 900, "ban: a teapot", 700)
    store.hold("binance", 800, "limit: too many", 100)
    store.hold("kraken", 500, "limit: too many", 200)

    assert store.holds() == [Hold("binance", 800, "limit: too many", 100), Hold("kraken", 500, "limit: too many", 200)]
    assert held_until(store, "kraken") == 500
    assert held_until(store, "coinbase") is None


def test_hold_says_since_when(store):
    """Each probe writes the same hold again."""
    for seen_at in (100, 160, 220):
        store.hold("kraken", 900, "outage: down", seen_at)

    assert [(one.seen_at, one.since) for one in store.holds()] == [(220, 100)]


@pytest.mark.parametrize(
    ("reason", "kind", "days"),
    [
        ("BTC/USD: 503 Service Unavailable /0/public/OHLC", ledger.OUTAGE, 10 / 1440),
        ("1INCH429/USD: 599 /0/public/OHLC", ledger.OUTAGE, 10 / 1440),
        ("BTC/USD: 429 Too Many Requests /0/public/OHLC", ledger.LIMIT, 1),
        ("BTC/USD: DDoSProtection: binance 418 I'm a teapot", ledger.BAN, 3),
        ("outage: BTC/USD: no answer", ledger.OUTAGE, 10 / 1440),
        ("what nobody understands", ledger.BAN, 3),
    ],
)
def test_hold_is_never_longer_than_its_kind(store, reason, kind, days):
    """An older program wrote up to 30 days, and no row is ever changed: it is bounded when it is read."""
    store.hold("kraken", START + 30 * 86_400_000, reason, START)
    (hold,) = store.holds()

    assert hold.kind is kind
    assert hold.until == START + round(days * 86_400_000) == held_until(store, "kraken")


def test_row_is_refused_once(store):
    """However often it comes; another body is another row."""
    refused = RejectedRow(START, (1.0, np.inf), "every value must be finite", '["1", "1e400"]')
    other = dataclasses.replace(refused, body="[]")
    store.quarantine(make_key(), [refused, refused], START)
    store.quarantine(make_key(), [refused, other], START + 1)
    store.quarantine(ETHER, [other], START)

    assert store.rejected_rows(make_key()) == [refused, other]
    assert store.rejected_rows(ETHER) == [other]
    assert store.rejected_rows(make_key(symbol="LTC/USDT")) == []


ANY_TEXT = "\x1f\x8b\0 a half \udcff of a pair"
KEPT_TEXT = "\x1f\x8b\N{REPLACEMENT CHARACTER} a half \N{REPLACEMENT CHARACTER} of a pair"


def test_any_text_is_kept_once(store):
    """No database keeps NUL or half of a surrogate pair; what was sent is refused, recorded, and costs nothing else."""
    refused = RejectedRow(START, (1.0,), f"is no bar: {ANY_TEXT}", ANY_TEXT)
    for _ in range(2):
        store.quarantine(make_key(), [refused], START)

    assert store.rejected_rows(make_key()) == [RejectedRow(START, (1.0,), f"is no bar: {KEPT_TEXT}", KEPT_TEXT)]


def test_any_text_of_a_run_a_hold_and_a_slot_is_kept(store):
    """And a question may hold any text."""
    store.add_run(Run(LIVE, LIVE, START, ANY_TEXT))
    store.hold("kraken", START, ANY_TEXT, START)
    store.set_pending([PendingForecast(make_key(), START, "failed", 0, ANY_TEXT)], START)

    assert held_until(store, "kraken") == START
    assert LIVE in {one.id for one in store.runs()}
    assert len(store.pending_forecasts(make_key(), START, START + 1)) == 1
    assert store.latest(make_key(), ANY_TEXT) is None


def test_model_of_any_name_is_recorded(store):
    forecast = make_forecast()
    named = dataclasses.replace(forecast, provenance=dataclasses.replace(forecast.provenance, model_id=ANY_TEXT))
    store.add_run(Run(LIVE, LIVE, START))
    added = [store.add_forecasts([named], LIVE) for _ in range(2)]

    assert added == [1, 0]
    assert store.latest(named.key, ANY_TEXT) is not None


def test_file_of_nothing_but_bad_rows_is_refused_row_by_row(store):
    """More of them than one query may name: 250,000 in Debian's SQLite, 65,535 in PostgreSQL."""
    is_postgres = isinstance(store, SqlStore) and store._database.path is None
    count = 66_000 if is_postgres else 250_001
    rows = [RejectedRow(START + i, (1.0,), "prices must be above 0") for i in range(count)]
    store.quarantine(make_key(), rows, START)
    store.quarantine(make_key(), rows, START)

    assert len(store.rejected_rows(make_key())) == len(rows)


def test_slots_come_back_as_they_were(store):
    """All that is known of each, of several series at once; the newest word counts."""
    owed = [
        PendingForecast(make_key(), CUTOFF, "claimed", 2, "", CUTOFF + 9),
        PendingForecast(make_key(), CUTOFF + HOUR_MS, "failed", 3, "no answer"),
        PendingForecast(ETHER, CUTOFF, "missed", 0, "", CUTOFF + HOUR_MS),
    ]
    store.set_pending([dataclasses.replace(one, state="pending", attempts=0) for one in owed], CUTOFF)
    store.set_pending(owed, CUTOFF)
    store.set_pending([], CUTOFF)

    assert [*store.pending_forecasts(make_key(), 0, 2**60), *store.pending_forecasts(ETHER, 0, 2**60)] == owed


def test_slot_that_is_done_stays_done(store):
    """Whatever a slower process says of it later; of others the newest word counts."""
    pending, done = PendingForecast(make_key(), CUTOFF), PendingForecast(make_key(), CUTOFF + HOUR_MS, "done", 1)
    store.set_pending([pending, done], CUTOFF)
    store.set_pending([dataclasses.replace(one, state="failed", reason="no answer") for one in (pending, done)], CUTOFF)

    assert [(one.state, one.reason) for one in store.pending_forecasts(make_key(), 0, 2**60)] == [
        ("failed", "no answer"),
        ("done", ""),
    ]


def test_a_forecast_comes_back_bit_by_bit(store):
    """Raw and repaired prices, levels, provenance and times: nothing is rounded, nothing is lost."""
    forecast = make_forecast(issued_at=CUTOFF + 3)
    store.add_forecasts([forecast], LIVE)

    read = store.latest(forecast.key, "nano")

    assert forecast.repairs > 0
    assert same_bits(read, forecast)
    assert (read.issued_at, read.available_at) == (CUTOFF + 3, CUTOFF + 3 + LATENCY_MS)


def test_a_forecast_of_a_stock_comes_back_with_its_calendar(store):
    key = make_key("arch", "SPX/USD", "1d", "XNYS")
    forecast = make_forecast(key, cutoff=utc_ms("2018-11-16 21:00"))
    store.add_forecasts([forecast], LIVE)

    rows = store.history(key, 0, 2**60)

    assert same_bits(store.latest(key, "nano"), forecast)
    assert {row.key for row in rows} == {key}
    assert sorted({row.target_open for row in rows}) == forecast.target_opens().tolist()


def test_each_forecast_keeps_its_own_levels(store):
    """Prices read at another's levels would be another forecast, and nobody would notice."""
    some = make_forecast(cutoff=CUTOFF, levels=(0.1, 0.5, 0.9))
    others = make_forecast(cutoff=CUTOFF + HOUR_MS, levels=(0.05, 0.5, 0.95))
    store.add_forecasts([some], LIVE)
    store.add_forecasts([others], LIVE)

    assert store.latest(others.key, "nano").quantile_levels == (0.05, 0.5, 0.95)
    assert [row.quantile_levels[0] for row in store.history(some.key, CUTOFF, 2**60)] == [0.1] * 12 + [0.05] * 12


def test_a_forecast_that_is_known_is_left_alone(store):
    """A cycle that is repeated changes nothing, not even the time of issue."""
    first = make_forecast(issued_at=CUTOFF)
    store.add_forecasts([first], LIVE)

    added = store.add_forecasts([make_forecast(issued_at=CUTOFF + 999)], LIVE)

    assert added == 0
    assert same_bits(store.latest(first.key, "nano"), first)
    assert len(store.history(first.key, 0, 2**60)) == 12


def test_only_new_forecasts_are_counted(store):
    one, two = make_forecast(), make_forecast(cutoff=CUTOFF + HOUR_MS, seed=1)
    store.add_forecasts([one], LIVE)

    assert store.add_forecasts([one, two], LIVE) == 1
    assert store.add_forecasts([], LIVE) == 0


def test_what_was_learned_is_kept_with_the_forecasts(store):
    """Of each series, model and run the newest state; of a batch that is refused nothing."""
    keys, name = (make_key(), ETHER), make_provenance().ledger_id

    def learned(state):
        return [CalibrationState(key, name, CUTOFF, state + key.symbol.encode()) for key in keys]

    def known(run_id=LIVE):
        return [store.calibration(key, name, run_id) for key in keys]

    before = known()
    for hour, state in enumerate((b"first", b"second")):
        store.add_forecasts([make_forecast(key, CUTOFF + hour * HOUR_MS) for key in keys], LIVE, learned(state))
    store.add_forecasts([make_forecast(key) for key in keys], REPLAY, learned(b"replayed"))
    with pytest.raises(LedgerConflict):
        store.add_forecasts([make_forecast(ETHER, CUTOFF + 9 * HOUR_MS), moved(make_forecast())], LIVE, learned(b"no"))

    assert before == [None, None]
    assert known() == learned(b"second")
    assert known(REPLAY) == learned(b"replayed")


def test_a_forecast_given_twice_is_kept_once(store):
    added = store.add_forecasts([make_forecast(), make_forecast()], LIVE)

    assert added == 1
    assert len(store.history(make_key(), 0, 2**60)) == 12


def test_another_engines_numbers_are_no_alarm(store):
    """Within float32's noise, on the same input: the forecast that was there stands, bit by bit."""
    first = make_forecast()
    store.add_forecasts([first], LIVE)

    assert store.add_forecasts([moved(first, 0.9)], LIVE) == 0
    assert same_bits(store.latest(first.key, "nano"), first)


def test_equal_numbers_of_another_input_are_an_alarm(store):
    """Noise excuses nothing when other bars were seen under the same name."""
    first = make_forecast()
    other = dataclasses.replace(first.provenance, input_sha256="0" * 64)
    store.add_forecasts([first], LIVE)

    with pytest.raises(LedgerConflict):
        store.add_forecasts([dataclasses.replace(moved(first, 0.1), provenance=other)], LIVE)


def test_other_numbers_under_the_same_name_are_an_alarm(store):
    """A little more than noise is enough, and the first forecast stands."""
    first = make_forecast()
    store.add_forecasts([first], LIVE)

    with pytest.raises(LedgerConflict) as refused:
        store.add_forecasts([moved(first)], LIVE)

    assert refused.value.forecast_id == f"binance BTC/USDT 1h nano@0123456789ab at {format_time(CUTOFF)}"
    assert same_bits(store.latest(first.key, "nano"), first)


def test_other_numbers_within_one_batch_are_an_alarm(store):
    with pytest.raises(LedgerConflict):
        store.add_forecasts([make_forecast(), moved(make_forecast())], LIVE)

    assert store.history(make_key(), 0, 2**60) == []


@pytest.mark.parametrize("position", [0, 1, 2])
def test_a_conflict_leaves_nothing_of_its_batch(store, position):
    first = make_forecast()
    batch = [make_forecast(ETHER), make_forecast(cutoff=CUTOFF + HOUR_MS)]
    batch.insert(position, moved(first))
    store.add_forecasts([first], LIVE)

    with pytest.raises(LedgerConflict):
        store.add_forecasts(batch, LIVE)

    assert len(store.history(first.key, 0, 2**60)) == 12
    assert store.history(ETHER, 0, 2**60) == []


def test_a_forecast_that_nobody_issued_is_refused(store):
    """With the whole of its batch: a forecast without its time proves nothing."""
    with pytest.raises(InvalidArgument, match="expected issued_at and available_at"):
        store.add_forecasts([make_forecast(), make_forecast(ETHER, issued_at=None)], LIVE)

    assert store.history(make_key(), 0, 2**60) == []


def test_a_forecast_of_an_unnamed_run_is_refused(store):
    """By every store, so that what passes on one passes on the other."""
    with pytest.raises(StoreError):
        store.add_forecasts([make_forecast()], "nobody-named-it")


def test_a_run_that_is_known_stays_as_it_is(store):
    store.add_run(Run(LIVE, "another door", START + 1))

    assert store.add_forecasts([make_forecast()], LIVE) == 1


def test_block_that_raises_has_done_nothing(store):
    """Bars, refused rows, gaps, runs, forecasts, what was learned, and slots; what was there before stays."""
    store.add_bars(target_bars(1))
    learned = CalibrationState(make_key(), "nano@0123456789ab", CUTOFF, b"state")
    slot = PendingForecast(make_key(), CUTOFF, "done")
    with suppress(ZeroDivisionError), store.transaction():
        store.add_bars(changed(target_bars(3)))
        store.quarantine(make_key(), [RejectedRow(1, (), "broken")], START)
        store.add_gaps(make_key(), [CUTOFF - HOUR_MS], START)
        store.add_run(Run("replay-2", "replay", START))
        store.add_forecasts([make_forecast()], LIVE, [learned])
        store.set_pending([slot], START)
        _ = 1 / 0

    assert store.bars(make_key()).ohlcv_TF.tolist() == target_bars(1).ohlcv_TF.tolist()
    assert store.open_times(make_key(), 0, 2**60).tolist() == [CUTOFF]
    assert store.rejected_rows(make_key()) == []
    assert store.gaps(make_key(), 0, 2**60) == {}
    assert [run.id for run in store.runs()] == [LIVE, REPLAY]
    assert store.history(make_key(), 0, 2**60) == []
    assert store.calibration(make_key(), learned.model_id) is None
    assert store.pending_forecasts(make_key(), 0, 2**60) == []


def test_block_that_raises_leaves_no_series_and_no_delay(store):
    """What a time or a name was before the block, it is again."""
    made = make_forecast()
    store.add_forecasts([made], LIVE)
    with suppress(ZeroDivisionError), store.transaction():
        store.delay_availability([dataclasses.replace(made, available_at=CUTOFF + 5000)], LIVE)
        store.add_bars(make_bars(ETHER, 3))
        _ = 1 / 0

    assert store.latest(make_key(), "nano").available_at == CUTOFF + LATENCY_MS
    assert store.series() == [make_key()]


def test_block_in_a_block_is_undone_alone(store):
    with store.transaction():
        store.add_bars(target_bars(1))
        with suppress(ZeroDivisionError), store.transaction():
            store.add_bars(target_bars(3))
            _ = 1 / 0

    assert store.open_times(make_key(), 0, 2**60).tolist() == [CUTOFF]


def test_runs_are_listed_in_the_order_in_which_they_ran(store):
    store.add_run(Run("replay-0", "replay", START - 1, '{"cutoffs": 5}'))

    assert store.runs() == [
        Run("replay-0", "replay", START - 1, '{"cutoffs": 5}'),
        Run(LIVE, LIVE, START),
        Run(REPLAY, "replay", START),
    ]


def test_series_are_listed_once(store):
    """Also those of which only a replay, or only a forecast, knows."""
    store.add_bars(target_bars())
    store.add_bars(target_bars(), REPLAY)
    store.add_bars(make_bars(make_key("file", "SPX/USD", "1d", "XNYS"), 3), REPLAY)
    store.add_forecasts([make_forecast(ETHER)], LIVE)

    assert store.series() == [make_key(), ETHER, make_key("file", "SPX/USD", "1d", "XNYS")]


def test_models_that_have_forecast_are_listed(store):
    """By name and digest; a name may hold `@`."""
    odd = make_provenance("models/me@home", "fedcba9876543210")
    store.add_forecasts([make_forecast(), make_forecast(provenance=odd)], LIVE)

    assert [(one.name, one.digest) for one in store.models()] == [
        ("models/me@home", "fedcba987654"),
        ("nano", "0123456789ab"),
    ]


def test_bars_of_a_replay_are_seen_by_its_run_alone(store):
    """The live series stays as it was, whatever a replay is made of."""
    live, other = target_bars(), changed(target_bars(), column=1, by=500.0)
    store.add_bars(live)
    store.add_bars(other, REPLAY)

    assert store.bars(live.key).ohlcv_TF.tobytes() == live.ohlcv_TF.tobytes()
    assert store.bars(live.key).revision.tolist() == [0, 0, 0]
    assert store.bars(live.key, run_id=REPLAY).ohlcv_TF.tobytes() == other.ohlcv_TF.tobytes()


def test_bars_of_a_replay_do_not_make_a_live_series(store):
    store.add_bars(target_bars(), REPLAY)

    assert len(store.bars(make_key())) == 0
    assert store.latest_open(make_key()) is None
    assert store.latest_open(make_key(), REPLAY) == CUTOFF + 2 * HOUR_MS
    assert store.earliest_open(make_key(), REPLAY) == CUTOFF


def test_a_replay_settles_against_its_own_bars(store):
    """And the live run against the live ones, in one ledger."""
    store.add_bars(target_bars())
    store.add_bars(changed(target_bars(), column=1, by=500.0), REPLAY)
    store.add_forecasts([make_forecast(seed=1)], LIVE)
    store.add_forecasts([make_forecast(seed=1)], REPLAY)
    later = CUTOFF + 99
    highs = {
        run: [steps.actual_NF[0, 1] for steps in store.settled(make_key(), later, run_id=run)] for run in (LIVE, REPLAY)
    }
    high = target_bars().ohlcv_TF[0, 1]

    assert highs == {LIVE: [high], REPLAY: [high + 500.0]}
    assert {steps.run_id for steps in store.settled_between(later, run_id=REPLAY)} == {REPLAY}


def test_a_run_without_bars_of_its_own_settles_against_live_ones(store):
    """As a prediction by hand does, and a replay of an older ledger."""
    store.add_bars(target_bars())
    store.add_forecasts([make_forecast()], REPLAY)

    assert len(settled_rows(store, CUTOFF + 99, run_id=REPLAY)) == 12


def test_bars_that_come_after_a_first_look_at_a_run_are_its_own(store):
    """What was looked up before there were any does not stay."""
    store.add_bars(target_bars())
    before = store.bars(make_key(), run_id=REPLAY)
    store.add_bars(changed(target_bars(), column=1, by=500.0), REPLAY)

    assert len(before) == 3
    assert store.bars(make_key(), run_id=REPLAY).ohlcv_TF[0, 1] == target_bars().ohlcv_TF[0, 1] + 500.0


def test_series_of_another_calendar_is_another_series(store):
    """A calendar that is changed in the configuration begins anew, and nothing that was there is lost."""
    shares = make_key("file", "SPX/USD", "1d", "XNYS")
    always = make_key("file", "SPX/USD", "1d", "24/7")
    store.add_bars(make_bars(shares, 5))
    store.add_bars(make_bars(always, 3))

    assert len(store.bars(shares)) == 5
    assert len(store.bars(always)) == 3
    assert store.bars(shares).key == shares


def test_latency_in_a_run_id_moves_available_at(store):
    """All reads tell the same; nothing is stored for it."""
    store.add_bars(target_bars())
    store.add_forecasts([make_forecast()], REPLAY)
    delayed = f"{REPLAY}+4000ms"
    expected = CUTOFF + LATENCY_MS + 4000
    (steps,) = store.settled(make_key(), CUTOFF + 10_000, run_id=delayed)

    assert store.latest(make_key(), "nano", delayed).available_at == expected
    assert {row.available_at for row in store.history(make_key(), 0, 2**60, delayed)} == {expected}
    assert set(steps.available_at_N.tolist()) == {expected}
    assert store.cutoffs(make_key(), delayed).tolist() == [CUTOFF]
    assert store.latest(make_key(), "nano", REPLAY).available_at == CUTOFF + LATENCY_MS


def test_a_forecast_is_there_from_available_at_on(store):
    """For every read that takes a time: it does not matter when the question is asked."""
    store.add_bars(target_bars())
    store.add_forecasts([make_forecast()], LIVE)
    key, at = make_key(), CUTOFF + LATENCY_MS

    assert store.latest(key, "nano", as_of=at - 1) is None
    assert store.latest(key, "nano", as_of=at).cutoff == CUTOFF
    assert store.history(key, 0, 2**60, as_of=at - 1) == []
    assert len(store.history(key, 0, 2**60, as_of=at)) == 12
    assert list(store.settled(key, at - 1)) == []
    assert [len(one) for one in store.settled(key, at)] == [3]
    assert store.settled_between(at - 1) == []
    assert len(settled_rows(store, at)) == 12


def test_an_older_forecast_is_the_latest_as_of_then(store):
    """The newest one that could be read, and not the newest one if it could."""
    first, second = make_forecast(), make_forecast(cutoff=CUTOFF + HOUR_MS)
    store.add_forecasts([first, second], LIVE)

    assert same_bits(store.latest(make_key(), "nano", as_of=second.available_at - 1), first)
    assert same_bits(store.latest(make_key(), "nano", as_of=second.available_at), second)


def test_forecasts_whose_commit_came_late_are_there_later(store):
    """The stamp that went into the row stays, and every read tells the time at which it could be read."""
    made = make_forecast()
    store.add_bars(target_bars())
    store.add_forecasts([made], LIVE)
    late = dataclasses.replace(made, available_at=CUTOFF + 1500)

    store.delay_availability([late], LIVE)
    store.delay_availability([dataclasses.replace(made, available_at=CUTOFF + 9)], LIVE)
    store.delay_availability([dataclasses.replace(made, cutoff=CUTOFF - HOUR_MS, available_at=CUTOFF + 9)], LIVE)

    assert store.latest(make_key(), "nano").available_at == CUTOFF + 1500
    assert store.latest(make_key(), "nano", as_of=CUTOFF + 1499) is None
    assert {row.available_at for row in store.history(make_key(), 0, 2**60)} == {CUTOFF + 1500}
    assert [set(one.available_at_N.tolist()) for one in store.settled(make_key(), CUTOFF + 1500)] == [{CUTOFF + 1500}]
    assert store.add_forecasts([made], LIVE) == 0


@pytest.mark.parametrize("fault", ["issued before its cutoff", "available before it was issued"])
def test_forecasts_whose_times_cannot_be_are_refused(store, fault):
    """With the whole of their batch."""
    made = make_forecast()
    wrong = {
        "issued before its cutoff": dataclasses.replace(made, issued_at=CUTOFF - 1),
        "available before it was issued": dataclasses.replace(made, available_at=CUTOFF - 1),
    }[fault]
    expected = f"expected cutoff ≤ issued_at ≤ available_at, found {format_time(CUTOFF)}, "
    with pytest.raises(InvalidArgument, match=expected):
        store.add_forecasts([make_forecast(ETHER), wrong], LIVE)

    assert store.history(ETHER, 0, 2**60) == []


def test_latest_is_the_newest_cutoff(store):
    """Not the forecast that was written last."""
    newer, older = make_forecast(cutoff=CUTOFF + HOUR_MS), make_forecast(cutoff=CUTOFF)
    store.add_forecasts([newer], LIVE)
    store.add_forecasts([older], LIVE)

    assert store.latest(make_key(), "nano").cutoff == CUTOFF + HOUR_MS


def test_latest_is_of_the_model_by_its_name(store):
    """Whatever its revision: after an upgrade the newer cutoff counts."""
    upgraded = make_provenance("nano", "fedcba")
    store.add_forecasts([make_forecast(), make_forecast(cutoff=CUTOFF + 2 * HOUR_MS, provenance=WALK)], LIVE)
    store.add_forecasts([make_forecast(cutoff=CUTOFF + HOUR_MS, provenance=upgraded)], LIVE)

    assert store.latest(make_key(), "nano").provenance == upgraded
    assert store.latest(make_key(), "random_walk").provenance == WALK


def test_latest_of_one_cutoff_is_the_one_issued_last(store):
    again = make_forecast(provenance=make_provenance(revision="fedcba"), issued_at=CUTOFF + 5)
    store.add_forecasts([again, make_forecast(issued_at=CUTOFF)], LIVE)

    assert store.latest(make_key(), "nano").issued_at == CUTOFF + 5


def test_latest_looks_into_one_run(store):
    store.add_forecasts([make_forecast(cutoff=CUTOFF)], LIVE)
    store.add_forecasts([make_forecast(cutoff=CUTOFF + HOUR_MS)], REPLAY)

    assert store.latest(make_key(), "nano").cutoff == CUTOFF
    assert store.latest(make_key(), "nano", REPLAY).cutoff == CUTOFF + HOUR_MS


def test_latest_of_what_was_never_forecast_is_none(store):
    store.add_forecasts([make_forecast()], LIVE)

    assert store.latest(ETHER, "nano") is None
    assert store.latest(make_key(), "random_walk") is None
    assert store.latest(make_key(), "nano@0123456789ab") is None
    assert store.latest(make_key(), "nano", REPLAY) is None


def test_history_is_in_order(store):
    """By cutoff, model, step and field, however it was written."""
    made = [make_forecast(cutoff=CUTOFF + hour * HOUR_MS, provenance=by) for hour in (1, 0) for by in (WALK, None)]
    for forecast in made:
        store.add_forecasts([forecast], LIVE)

    rows = store.history(make_key(), CUTOFF, CUTOFF + 2 * HOUR_MS)

    assert [(row.cutoff, row.model_id, row.step, row.field) for row in rows] == [
        (cutoff, model_id, step, field)
        for cutoff in (CUTOFF, CUTOFF + HOUR_MS)
        for model_id in ("nano@0123456789ab", "random_walk@1")
        for step in (1, 2, 3)
        for field in FIELDS
    ]


def test_history_holds_each_number_once(store):
    """A row is one field of one step, with the prices of the forecast it came from."""
    forecast = make_forecast()
    store.add_forecasts([forecast], LIVE)

    row = store.history(forecast.key, CUTOFF, CUTOFF + 1)[4 * 1 + FIELDS.index("low")]

    assert (row.step, row.field) == (2, "low")
    assert row.raw_Q.tolist() == forecast.raw_FHQ[2, 1].tolist()
    assert row.values_Q.tolist() == forecast.values_FHQ[2, 1].tolist()
    assert row.target_open == CUTOFF + HOUR_MS
    assert (row.key, row.run_id, row.engine) == (forecast.key, LIVE, "eager")
    assert (row.issued_at, row.available_at) == (CUTOFF, CUTOFF + LATENCY_MS)
    assert row.quantile_levels == forecast.quantile_levels


def test_history_includes_its_start_and_not_its_end(store):
    store.add_forecasts([make_forecast(cutoff=CUTOFF + hour * HOUR_MS) for hour in range(4)], LIVE)

    rows = store.history(make_key(), CUTOFF + HOUR_MS, CUTOFF + 3 * HOUR_MS)

    assert sorted({row.cutoff for row in rows}) == [CUTOFF + HOUR_MS, CUTOFF + 2 * HOUR_MS]


def test_history_is_of_one_series_and_run(store):
    store.add_forecasts([make_forecast(ETHER)], LIVE)
    store.add_forecasts([make_forecast()], REPLAY)

    assert store.history(make_key(), 0, 2**60) == []
    assert len(store.history(make_key(), 0, 2**60, REPLAY)) == 12


def test_a_row_settles_when_its_bar_is_seen(store):
    """One bar of three has come: four fields of step 1, each with its own price."""
    store.add_forecasts([make_forecast()], LIVE)
    bars = target_bars(1, first_seen_at=CUTOFF + HOUR_MS)
    store.add_bars(bars)

    rows = settled_rows(store, CUTOFF + HOUR_MS)

    assert cases(rows) == [(1, field) for field in FIELDS]
    assert [one.actual for one in rows] == bars.ohlcv_TF[0, :4].tolist()
    assert [one.revision for one in rows] == [0] * 4


def test_without_bars_every_row_is_pending(store):
    store.add_forecasts([make_forecast()], LIVE)
    store.add_bars(make_bars(count=24, start=CUTOFF - 24 * HOUR_MS))
    store.add_bars(make_bars(ETHER, count=3, start=CUTOFF))

    assert settled_rows(store, 2**60) == []


def test_a_row_is_pending_until_its_bar_was_seen(store):
    store.add_forecasts([make_forecast()], LIVE)
    store.add_bars(target_bars(first_seen_at=CUTOFF + HOUR_MS))

    assert settled_rows(store, CUTOFF + HOUR_MS - 1) == []
    assert len(settled_rows(store, CUTOFF + HOUR_MS)) == 12


def test_since_leaves_out_what_was_seen_by_then(store):
    """Bars seen in (since, as_of]: cycles that follow each other settle each row once."""
    store.add_forecasts([make_forecast()], LIVE)
    bars = target_bars()
    for i in range(3):
        store.add_bars(seen(bars[i : i + 1], CUTOFF + (i + 1) * HOUR_MS))

    spans = [cases(settled_rows(store, CUTOFF + (i + 1) * HOUR_MS, since=CUTOFF + i * HOUR_MS)) for i in range(3)]

    assert spans == [[(step, field) for field in FIELDS] for step in (1, 2, 3)]


def test_settled_rows_are_in_order(store):
    """By series, cutoff, model, step and field."""
    made = [make_forecast(key, CUTOFF, provenance=by) for key in (ETHER, make_key()) for by in (WALK, None)]
    store.add_forecasts(made, LIVE)
    store.add_bars(make_bars(ETHER, count=3, start=CUTOFF))
    store.add_bars(target_bars())

    rows = settled_rows(store, 2**60)

    assert [(str(one.row.key), one.row.model_id, one.row.step, one.row.field) for one in rows] == [
        (str(key), model_id, step, field)
        for key in (make_key(), ETHER)
        for model_id in ("nano@0123456789ab", "random_walk@1")
        for step in (1, 2, 3)
        for field in FIELDS
    ]


def test_a_revised_bar_settles_with_its_newest_revision(store):
    store.add_forecasts([make_forecast(horizon=1)], LIVE)
    bars = target_bars(1, first_seen_at=CUTOFF + 10)
    store.add_bars(bars)
    store.add_bars(seen(changed(bars, column=3, by=-0.01), CUTOFF + 20))

    close = settled_rows(store, CUTOFF + 20)[3]

    assert close.actual == bars.close[0] - 0.01
    assert close.revision == 1


def test_a_score_as_of_a_time_does_not_know_later_revisions(store):
    """The old revision stays, and every score can be computed again as it was."""
    store.add_forecasts([make_forecast(horizon=1)], LIVE)
    bars = target_bars(1, first_seen_at=CUTOFF + 10)
    store.add_bars(bars)
    store.add_bars(seen(changed(bars, column=3, by=-0.01), CUTOFF + 20))

    rows = settled_rows(store, CUTOFF + 19)

    assert [one.actual for one in rows] == bars.ohlcv_TF[0, :4].tolist()
    assert [one.revision for one in rows] == [0] * 4


def test_a_run_settles_apart_from_the_others(store):
    store.add_forecasts([make_forecast(horizon=1)], LIVE)
    store.add_forecasts([make_forecast(horizon=2)], REPLAY)
    store.add_bars(target_bars())

    assert {one.row.run_id for one in settled_rows(store, 2**60)} == {LIVE}
    assert len(settled_rows(store, 2**60, run_id=REPLAY)) == 8


def test_bars_that_came_before_the_forecast_settle_it_too(store):
    """A replay forecasts what has long been known."""
    store.add_bars(target_bars(first_seen_at=0))
    store.add_forecasts([make_forecast()], REPLAY)

    assert len(settled_rows(store, CUTOFF + LATENCY_MS, run_id=REPLAY)) == 12


def came(portions):
    """All that settled of one series, column by column, bit by bit: names for places, since these are each record's."""
    found = {}
    for one in portions:
        names = {"models": [one.models[m] for m in one.model_N], "engines": [one.engines[e] for e in one.engine_N]}
        columns = {"key": [one.key] * len(one), "run": [one.run_id] * len(one), **names}
        columns |= {"levels": [one.quantile_levels] * len(one)}
        for field in dataclasses.fields(one):
            if "_N" in field.name and field.name not in {"model_N", "engine_N"}:
                column = getattr(one, field.name)
                columns[field.name] = [column[i].tobytes() for i in range(len(one))]
        for name, column in columns.items():
            found.setdefault(name, []).extend(column)
    return found


def fill(store):
    """Ten cutoffs of two series and three models, one with levels of its own; some late; a gap and a revision."""
    mine = make_provenance("mine", "1", "compiled")
    for key in (make_key(), ETHER):
        for hour in range(10):
            cutoff = CUTOFF + hour * HOUR_MS
            about = {"issued_at": cutoff + (2 * HOUR_MS if hour % 4 == 0 else 5), "seed": hour}
            made = [make_forecast(key, cutoff, provenance=by, **about) for by in (None, WALK)]
            made.append(make_forecast(key, cutoff, provenance=mine, levels=TENS, horizon=2, **about))
            store.add_forecasts(made, LIVE)
        store.add_forecasts([make_forecast(key, CUTOFF, horizon=1)], REPLAY)
        bars = make_bars(key, count=11, start=CUTOFF)
        bars = Bars(key, bars.open_time, bars.ohlcv_TF, bars.close_time)[np.arange(11) != 4]
        store.add_bars(bars)
        store.add_bars(seen(changed(bars[6:7], column=3, by=-0.01), int(bars.close_time[-1])))


SPANS = [(2**60, None), (CUTOFF + 5 * HOUR_MS, None), (CUTOFF + 11 * HOUR_MS - 1, CUTOFF + 5 * HOUR_MS)]
SPANS += [(CUTOFF + 11 * HOUR_MS, CUTOFF + 11 * HOUR_MS - 1), (CUTOFF, None), (CUTOFF + HOUR_MS, CUTOFF + HOUR_MS)]


@pytest.mark.parametrize("run_id", [LIVE, REPLAY])
@pytest.mark.parametrize(("as_of", "since"), SPANS)
def test_every_store_settles_alike(store, as_of, since, run_id):
    """Bit by bit, in the same order and the same parts, of one series and of all."""
    other = MemoryStore()
    for name in (LIVE, REPLAY):
        other.add_run(Run(name, name, START))
    for one in (store, other):
        fill(one)

    for key in (make_key(), ETHER):
        found, expected = (list(one.settled(key, as_of, since, run_id)) for one in (store, other))
        assert [len(one) for one in found] == [len(one) for one in expected]
        assert came(found) == came(expected)
    found, expected = (one.settled_between(as_of, since, run_id) for one in (store, other))
    assert came(found) == came(expected)


def about(row):
    """What a row tells besides its place and its prices."""
    return row.key, row.run_id, row.target_open, row.issued_at, row.available_at, row.late, row.engine


@pytest.mark.parametrize(("as_of", "since"), SPANS)
def test_settled_steps_agree_with_a_loop(store, as_of, since):
    """Every step whose bar, in the newest revision known then, was seen in the span, with what was forecast of it."""
    fill(store)
    known = store.bars(make_key(), as_of=as_of)
    bars = {int(time): i for i, time in enumerate(known.open_time) if since is None or known.first_seen_at[i] > since}

    expected = {
        (row.cutoff, row.model_id, row.step, row.field): (
            known.ohlcv_TF[bars[row.target_open], FIELDS.index(row.field)],
            int(known.revision[bars[row.target_open]]),
            row.raw_Q.tobytes() + row.values_Q.tobytes(),
            about(row),
            row.quantile_levels,
        )
        for row in store.history(make_key(), 0, 2**60)
        if row.target_open in bars
    }
    for settled in (store.settled(make_key(), as_of, since), store.settled_between(as_of, since)):
        rows = [one for steps in settled for one in steps.rows() if one.row.key == make_key()]
        found = {
            (one.row.cutoff, one.row.model_id, one.row.step, one.row.field): (
                one.actual,
                one.revision,
                one.row.raw_Q.tobytes() + one.row.values_Q.tobytes(),
                about(one.row),
                one.row.quantile_levels,
            )
            for one in rows
        }
        assert len(found) == len(rows)
        assert found == expected


def test_a_step_settles_when_its_bar_was_seen(store):
    """`seen_at_N` is when, and late is what was asked for after the first bar had closed."""
    fill(store)
    (steps, _) = store.settled(make_key(), 2**60)

    assert (steps.seen_at_N[steps.revision_N == 0] == steps.target_open_N[steps.revision_N == 0] + HOUR_MS).all()
    assert set(steps.seen_at_N[steps.revision_N == 1].tolist()) == {CUTOFF + 11 * HOUR_MS}
    assert set(steps.target_open_N[steps.revision_N == 1].tolist()) == {CUTOFF + 7 * HOUR_MS}
    assert steps.late_N.tolist() == ((steps.cutoff_N - CUTOFF) // HOUR_MS % 4 == 0).tolist()


def test_levels_that_differ_are_records_apart(store):
    """Their quantiles would not fit into one array."""
    fill(store)

    assert [(one.quantile_levels, one.models) for one in store.settled(make_key(), 2**60)] == [
        (TENS, ("mine@1",)),
        (make_forecast().quantile_levels, ("nano@0123456789ab", "random_walk@1")),
    ]
    assert [one.key for one in store.settled_between(2**60)] == [make_key()] * 2 + [ETHER] * 2


def test_a_revised_bar_settles_anew_once(store):
    """With its new price in the span in which that was seen, and with the old one in any that ends before."""
    store.add_forecasts([make_forecast(horizon=1)], LIVE)
    bars = target_bars(1, first_seen_at=CUTOFF + 10)
    store.add_bars(bars)
    store.add_bars(seen(changed(bars, column=3, by=-0.01), CUTOFF + 20))

    spans = [(CUTOFF + 19, None), (CUTOFF + 20, None), (CUTOFF + 20, CUTOFF + 10), (CUTOFF + 30, CUTOFF + 20)]
    for settled in (lambda as_of, since: store.settled(make_key(), as_of, since), store.settled_between):
        found = [[(one.actual_NF[0, 3], int(one.revision_N[0]), len(one)) for one in settled(*span)] for span in spans]

        old, new = (bars.close[0], 0, 1), (bars.close[0] - 0.01, 1, 1)
        assert found == [[old], [new], [new], []]


@pytest.mark.parametrize("since", [None, 0], ids=["ever", "since"])
def test_portions_hold_each_cutoff_once(store, since):
    """At either side of each edge between two: every forecast once, in order, and none apart from its neighbours."""
    span = CUTOFFS_PER_QUERY * HOUR_MS
    edge = CUTOFF - CUTOFF % span + span
    cutoffs = [edge - HOUR_MS, edge, edge + HOUR_MS, edge + span - HOUR_MS, edge + span, edge + 3 * span]
    store.add_forecasts([make_forecast(cutoff=one, horizon=1, levels=TENS) for one in cutoffs], LIVE)
    store.add_bars(seen(make_bars(count=5 * CUTOFFS_PER_QUERY, start=edge - span), CUTOFF))

    portions = list(store.settled(make_key(), 2**60, since))
    assert [one.cutoff_N.tolist() for one in portions] == [cutoffs[:1], cutoffs[1:4], cutoffs[4:5], cutoffs[5:]]
    assert {cutoff for one in store.settled_between(2**60, since) for cutoff in one.cutoff_N.tolist()} == set(cutoffs)


def test_nothing_settles_of_what_is_not_there(store):
    """A series without forecasts or bars, a run without forecasts, a span in which nothing was seen."""
    before = list(store.settled(make_key(), 2**60)), store.settled_between(2**60)
    fill(store)

    assert before == ([], [])
    for key, span, run_id in (
        (make_key(symbol="LTC/USDT"), (2**60, None), LIVE),
        (make_key(symbol="LTC/USDT"), (2**60, 0), LIVE),
        (make_key(), (2**60, None), "nobody"),
        (make_key(), (CUTOFF, None), LIVE),
        (make_key(), (2**60, CUTOFF + 11 * HOUR_MS), LIVE),
    ):
        assert list(store.settled(key, *span, run_id)) == []


def test_some_of_the_steps_are_steps(store):
    """By mask or by places, every column alike."""
    fill(store)
    (steps, _) = store.settled(make_key(), 2**60)
    chosen = np.arange(len(steps)) % 3 == 1

    some = steps[chosen]
    assert came([some]) == {name: column[1::3] for name, column in came([steps]).items()}
    assert came([steps[np.flatnonzero(chosen)]]) == came([some])


def test_only_the_levels_of_the_columns_are_needed(store):
    """Three levels are a forecast; so are more."""
    forecast = make_forecast(levels=TENS)
    store.add_forecasts([forecast], LIVE)

    assert same_bits(store.latest(forecast.key, "nano"), forecast)


def test_closing_twice_is_no_fault(store):
    store.close()
    store.close()


def test_store_errors_are_of_one_family():
    """What a caller catches for any of them."""
    assert issubclass(StoreUnavailable, StoreError)
    assert issubclass(LedgerConflict, StoreError)


def test_an_unknown_run_has_no_bars(store):
    """Not those of the live run: a slip in its name is no run without bars of its own."""
    store.add_bars(target_bars())

    assert len(store.bars(make_key(), run_id="replay-2")) == 0
    assert len(store.bars(make_key(), run_id=REPLAY)) == 3
