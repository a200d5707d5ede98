"""Replay: which cutoffs, what run, and what it leaves in the ledger."""

from __future__ import annotations

import pytest

from forecaster.errors import MissingBars, NotEnoughBars
from forecaster.replay import replay
from forecaster.replay.replay import choose_cutoffs, replay_id
from tests.builders import make_bars
from tests.test_engine import make_forecaster


@pytest.fixture
def bars():
    return make_bars(count=80)


def test_every_usable_cutoff_by_default(bars):
    forecaster = make_forecaster(bars)
    run = replay(forecaster, bars)
    cutoffs = {row.cutoff for row in forecaster.store.history(bars.key, 0, 2**62, run.id)}

    assert sorted(cutoffs) == bars.close_time[31:].tolist()


def test_cutoffs_between_dates(bars):
    start, end = int(bars.close_time[50]), int(bars.close_time[60])

    assert choose_cutoffs(bars, 32, start, end).tolist() == bars.close_time[50:60].tolist()


def test_issued_at_the_cutoff(bars):
    """A replayed forecast is stamped with its own cutoff, not with the day of the replay."""
    forecaster = make_forecaster(bars)
    run = replay(forecaster, bars, bars.close_time[40:45])

    for row in forecaster.store.history(bars.key, 0, 2**62, run.id):
        assert row.issued_at == row.available_at == row.cutoff


def test_replay_never_passes_for_live(bars):
    forecaster = make_forecaster(bars)
    replay(forecaster, bars)

    assert forecaster.store.history(bars.key, 0, 2**62) == []
    assert forecaster.latest("binance", "BTC/USDT", "1h") is None


def test_scores_of_a_replay(bars):
    forecaster = make_forecaster(bars)
    run = replay(forecaster, bars)
    reports = forecaster.accuracy(run_id=run.id)

    assert {one.n for one in reports if one.step == 1} == {80 - 32}


def test_run_is_named_by_the_configuration(bars):
    """Another context is another run, so two replays can never conflict."""
    assert replay_id(make_forecaster(bars)) == replay_id(make_forecaster(bars))
    assert replay_id(make_forecaster(bars)) != replay_id(make_forecaster(bars, context=48))


def test_progress_counts_every_cutoff(bars):
    done = []
    replay(make_forecaster(bars), bars, bars.close_time[40:50], batch=4, on_batch=done.append)

    assert done == [4, 4, 2]


def test_cutoff_that_is_no_close(bars):
    with pytest.raises(MissingBars):
        replay(make_forecaster(bars), bars, [int(bars.close_time[40]) + 1])


def test_too_few_bars(bars):
    with pytest.raises(NotEnoughBars):
        replay(make_forecaster(bars), bars[:20])
