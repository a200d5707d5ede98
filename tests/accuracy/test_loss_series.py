"""Losses in time order: which are kept, and the mean of each cutoff."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from forecaster.accuracy.loss_series import LossHistory
from forecaster.accuracy.losses import compute_losses
from forecaster.accuracy.scores import RAW
from forecaster.bars import FIELDS
from tests.builders import HOUR_MS, make_bars, make_key, utc_ms
from tests.forecast_builders import CUTOFF, make_past, make_steps

MODEL = "nano@1"
WALK = "random_walk@1"
ETHER = make_key(symbol="ETH/USDT")


def random_losses(cutoffs=range(12), horizon=3, seed=0, key=None, **about):
    """Both models at each of these hours, whose last closes differ."""
    random = np.random.default_rng(seed)
    hour, step, model = (one.ravel() for one in np.meshgrid(list(cutoffs), np.arange(1, horizon + 1), [0, 1]))
    steps = make_steps(
        np.sort(100 + random.normal(0, 5, (len(hour), 4, 3))),
        (100 + random.normal(0, 5, (max(cutoffs) + 1, horizon, 4)))[hour, step - 1],
        models=np.array([MODEL, WALK])[model],
        cutoff=CUTOFF + hour * HOUR_MS,
        step=step,
        key=key,
        **about,
    )
    return compute_losses(steps, make_past(np.arange(100.0, 150.0), key, CUTOFF + 40 * HOUR_MS))


def loss_series(losses, field=None, step=None, **of):
    return LossHistory(losses).trace(make_key(), MODEL, **of).select(field, step)


def by_hand(losses, which, field=None, step=None):
    """Mean of a column of the model at each cutoff, found by a loop."""
    steps, place = losses.steps, slice(0, 4) if field is None else [FIELDS.index(field)]
    levels = np.array(steps.quantile_levels)
    found = {}
    for i in range(len(steps)):
        if steps.models[steps.model_N[i]] == MODEL and step in (None, steps.step_N[i]):
            at = losses.walk_N[i] if which == "walk" else i
            excess_FQ = steps.actual_NF[i][:, None] - steps.values_NFQ[at]
            loss_F = np.maximum(levels * excess_FQ, (levels - 1) * excess_FQ).mean(axis=1) / losses.last_close_N[i]
            inside_F = (steps.values_NFQ[i, :, 0] <= steps.actual_NF[i]) & (
                steps.actual_NF[i] <= steps.values_NFQ[i, :, -1]
            )
            found.setdefault(int(steps.cutoff_N[i]), []).append((inside_F if which == "inside" else loss_F)[place])
    return {cutoff: np.mean(parts) for cutoff, parts in found.items()}


@pytest.mark.parametrize("step", [None, 2])
@pytest.mark.parametrize("field", [None, "low"])
def test_course_agrees_with_a_loop(field, step):
    """The model's loss and the walk's, each in units of the last close, and the share inside the 80 % interval."""
    losses = random_losses()
    found = loss_series([losses], field, step)

    for row_U, which in ((found.loss_U, "own"), (found.walk_U, "walk"), (found.covered_U, "inside")):
        expected = by_hand(losses, which, field, step)
        assert found.cutoff_U.tolist() == list(expected)
        np.testing.assert_allclose(row_U, list(expected.values()), rtol=1e-12)


@pytest.mark.parametrize(("step", "lag"), [(1, 0), (2, 1), (3, 2), (None, 2)])
def test_lag_is_how_many_cutoffs_overlap(step, lag):
    """From every bar: a step's number less one, and of all steps that of the last."""
    assert loss_series([random_losses()], step=step).lag == lag


@pytest.mark.parametrize(("every", "lag"), [(2, 1), (3, 0), (24, 0)])
def test_cutoffs_far_apart_do_not_overlap(every, lag):
    """Three steps, forecast at each second hour, third, or once a day."""
    assert loss_series([random_losses(range(0, 39, every))]).lag == lag


def test_lag_counts_sessions():
    """Over a weekend two days pass, and no bar: from every session, the second next overlaps no less than elsewhere."""
    key = make_key("arch", "SPX/USD", "1d", "XNYS")
    bars = make_bars(key, 300, start=utc_ms("2018-01-02"))
    cutoffs, models = bars.close_time[280:290], [MODEL, WALK]
    steps = make_steps(
        [90, 100, 110], 101.0, models=models * 30, cutoff=np.repeat(cutoffs, 6), step=[1, 1, 2, 2, 3, 3] * 10, key=key
    )
    targets = {(int(c), h): bars.open_time[280 + i + h] for i, c in enumerate(cutoffs) for h in (1, 2, 3)}
    target_N = np.array([targets[c, h] for c, h in zip(steps.cutoff_N.tolist(), steps.step_N.tolist(), strict=True)])
    trace = LossHistory([compute_losses(dataclasses.replace(steps, target_open_N=target_N), bars)]).trace(key, MODEL)

    assert [trace.select(step=step).lag for step in (1, 2, 3)] == [0, 1, 2]


def test_parts_are_joined_in_their_order():
    """Read some cutoffs at a time, or all at once: the same course, to the last bit."""
    whole = random_losses()
    parts = [random_parts(whole, slice(first, first + 4)) for first in range(0, 12, 4)]
    traces = LossHistory(parts)
    one, grown = loss_series([whole]), traces.trace(make_key(), MODEL).select()

    for name in ("cutoff_U", "loss_U", "walk_U", "covered_U"):
        assert getattr(one, name).tobytes() == getattr(grown, name).tobytes()
    assert traces.trace(make_key(), MODEL) is traces.trace(make_key(), MODEL)


def random_parts(losses, hours):
    """The losses of some hours among those of `random_losses`."""
    chosen = np.isin(losses.steps.cutoff_N, np.unique(losses.steps.cutoff_N)[hours])
    return dataclasses.replace(
        losses, steps=losses.steps[chosen], served_NGC=losses.served_NGC[chosen], raw_NGC=losses.raw_NGC[chosen]
    )


def test_late_steps_are_not_in_a_trace():
    losses = random_losses(late=np.arange(72) // 6 % 3 == 0)
    kept = len(LossHistory([losses]).trace(make_key(), MODEL))

    assert kept == (~losses.steps.late_N & (losses.steps.model_N == 0)).sum()
    assert 0 < kept < 36


def test_steps_without_the_walk_are_not_in_a_trace():
    """What cannot be compared is no case of a comparison; the name is there, and nothing under it."""
    losses = compute_losses(make_steps([90, 100, 110], 101.0), make_past([100.0, 100.0]))
    traces = LossHistory([losses])
    found = traces.trace(make_key(), MODEL).select()

    assert traces.pairs == [(make_key(), MODEL)]
    assert (len(traces.trace(make_key(), MODEL)), len(found.cutoff_U), len(found.loss_U), found.lag) == (0, 0, 0, 0)


def test_raw_is_kept_beside_served():
    """The model's own price was 10 off, and served 2 off."""
    steps = make_steps([[92, 102, 112], [84, 94, 104]], 104.0, raw=[[84, 94, 104], [84, 94, 104]], models=[MODEL, WALK])
    losses = compute_losses(steps, make_past([100.0, 100.0]))

    served, raw = (loss_series([losses], **of) for of in ({}, {"variant": RAW}))
    assert served.loss_U[0] < raw.loss_U[0] == raw.walk_U[0] == served.walk_U[0]


def test_models_and_series_are_kept_apart():
    traces = LossHistory([random_losses(), random_losses(seed=1, key=ETHER)])

    assert traces.pairs == [(key, model_id) for key in (make_key(), ETHER) for model_id in (MODEL, WALK)]
    courses = [traces.trace(*name).select() for name in traces.pairs]
    assert len({one.loss_U.tobytes() for one in courses}) == 4
    assert [np.array_equal(one.loss_U, one.walk_U) for one in courses] == [False, True] * 2
