"""A run as frames: every row of the ledger once, with the price that came, some cutoffs at a time."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from forecaster.bars import FIELDS, Bars
from forecaster.export import CUTOFFS, frames
from forecaster.ledger import Run, RunId
from forecaster.replay import run_replay
from forecaster.replay.cutoffs import check_cutoffs
from forecaster.replay.replay import replay_all
from forecaster.store.memory import MemoryStore
from tests.builders import make_bars, make_key
from tests.forecast_builders import CUTOFF, make_forecast, make_provenance
from tests.test_engine import make_forecaster

RUN = Run("replay-1", "replay", 0)


def store_with(bars, *forecasts):
    store = MemoryStore()
    store.add_run(RUN)
    if bars is not None:
        store.add_bars(bars)
    store.add_forecasts(forecasts, RUN.id)
    return store


def test_a_line_is_a_row_of_the_ledger():
    """What is in the frame is what `history` gives, in its order, with the target bar's price beside it."""
    bars = make_bars(count=60)
    forecaster = make_forecaster(bars)
    run = run_replay(forecaster, bars)
    (frame,) = frames(forecaster.reader, [bars.key], run.id)
    rows = forecaster.reader.history(bars.key, 0, 2**62, run.id)
    came = {
        (opens, field): price
        for opens, prices in zip(bars.open_time.tolist(), bars.ohlcv_TF.tolist(), strict=True)
        for field, price in zip(FIELDS, prices, strict=False)
    }

    assert len(frame) == len(rows) == 29 * 2 * 3 * 4
    assert list(zip(frame.exchange, frame.symbol, frame.timeframe, frame.run, strict=True)) == [
        ("binance", "BTC/USDT", "1h", run.id) for _ in rows
    ]
    for name, found in {
        "model": [row.model_id for row in rows],
        "step": [row.step for row in rows],
        "field": [row.field for row in rows],
        "late": [row.late for row in rows],
        "engine": [row.engine for row in rows],
    }.items():
        assert frame[name].tolist() == found
    for name in ("cutoff", "target_open", "issued_at", "available_at"):
        assert frame[name].tolist() == [pd.Timestamp(getattr(row, name), unit="ms", tz="UTC") for row in rows]
    for i, level in enumerate(rows[0].quantile_levels):
        assert frame[f"q{level:g}"].tolist() == [row.values_Q[i] for row in rows]
    np.testing.assert_array_equal(frame.actual, [came.get((row.target_open, row.field), np.nan) for row in rows])
    assert frame.actual.isna().sum() == 2 * 4 * (1 + 2 + 3)


def test_the_times_are_told_apart():
    """Asked for, there, and the bar that is forecast: three times, each under its own name."""
    (frame,) = frames(store_with(make_bars(), make_forecast()), [make_key()], RUN.id)
    told = [frame[name].iloc[0] - frame.cutoff.iloc[0] for name in ("issued_at", "available_at")]

    assert told == [pd.Timedelta(0), pd.Timedelta(7, unit="ms")]
    assert frame.target_open.iloc[-1] - frame.cutoff.iloc[0] == pd.Timedelta(2, unit="h")


def test_many_cutoffs_come_in_portions():
    """Each cutoff is in one frame, with all of its rows, and none is left out between two."""
    bars = make_bars(count=CUTOFFS + 40)
    forecaster = make_forecaster(bars)
    run = run_replay(forecaster, bars)
    found = list(frames(forecaster.reader, [bars.key], run.id))
    cutoffs = [frame.cutoff.unique().tolist() for frame in found]

    assert [len(one) for one in cutoffs] == [CUTOFFS, 9]
    assert [at for one in cutoffs for at in one] == pd.to_datetime(bars.close_time[31:], unit="ms", utc=True).tolist()
    assert [len(frame) for frame in found] == [CUTOFFS * 24, 9 * 24]


def test_several_series_one_after_the_other():
    """Each with its own prices, in the order in which they are asked for."""
    one, other = make_bars(count=40), make_bars(make_key(symbol="ETH/USDT"), count=40, seed=1)
    forecaster = make_forecaster(one, other)
    model = forecaster.config.model
    run = replay_all(forecaster, [check_cutoffs(bars, model, bars.close_time[35:36]) for bars in (one, other)])
    found = list(frames(forecaster.reader, [other.key, one.key], run.id))
    first = [frame[(frame.field == "close") & (frame.step == 1)].actual.tolist() for frame in found]

    assert [frame.symbol.unique().tolist() for frame in found] == [["ETH/USDT"], ["BTC/USDT"]]
    assert first == [[other.close[36]] * 2, [one.close[36]] * 2]


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_bar_that_is_missing_has_no_price(missing):
    """Its neighbours have theirs."""
    bars = make_bars(start=CUTOFF, count=3)
    there = bars[np.arange(3) != missing]
    (frame,) = frames(store_with(there, make_forecast()), [make_key()], RUN.id)
    close = frame[frame.field == "close"].actual

    assert close.isna().tolist() == [step == missing for step in range(3)]
    assert close.dropna().tolist() == there.close.tolist()


def test_no_bars_at_all():
    """A prediction by hand is recorded without the bars that it was made from."""
    (frame,) = frames(store_with(None, make_forecast()), [make_key()], RUN.id)

    assert len(frame) == 12
    assert frame.actual.isna().all()


def test_the_newest_revision_came():
    bars = make_bars(start=CUTOFF, count=3)
    store = store_with(bars, make_forecast())
    values = bars.ohlcv_TF.copy()
    values[1] *= 1.01
    store.add_bars(Bars(bars.key, bars.open_time, values, np.full(1, CUTOFF)))
    (frame,) = frames(store, [bars.key], RUN.id)

    assert frame[frame.step == 2].actual.tolist() == values[1, :4].tolist()


def test_a_level_that_a_model_does_not_give():
    """Models of other levels stand in one frame: what one of them does not give is NaN."""
    some = make_forecast(levels=(0.1, 0.5, 0.9), provenance=make_provenance("tens"))
    (frame,) = frames(store_with(make_bars(), make_forecast(), some), [make_key()], RUN.id)
    tens = frame[frame.model.str.startswith("tens")]

    assert tens["q0.05"].isna().all()
    assert tens["q0.5"].tolist() == some.values_FHQ[:, :, 1].T.ravel().tolist()
    assert frame[~frame.model.str.startswith("tens")].filter(regex="^q").notna().all(axis=None)


def test_a_run_that_is_not_there():
    assert list(frames(store_with(make_bars()), [make_key()], "replay-9")) == []


def test_a_latency_is_in_every_line():
    """The run as it was asked for, and times as much later; the prices that came are the replay's own."""
    bars = make_bars(count=60)
    forecaster = make_forecaster(bars)
    forecaster.store.add_bars(Bars(bars.key, bars.open_time, bars.ohlcv_TF * 2))
    at_once = run_replay(forecaster, bars)
    (plain,) = frames(forecaster.reader, [bars.key], at_once.id)
    (later,) = frames(forecaster.reader, [bars.key], RunId(at_once.id).delayed(1_500))

    assert set(later.run) == {f"{at_once.id}+1500ms"}
    assert set(later.available_at - plain.available_at) == {pd.Timedelta(1_500, "ms")}
    assert later.drop(columns=["run", "available_at"]).equals(plain.drop(columns=["run", "available_at"]))
    assert plain.actual.max() < 60_000
