"""Drift detection: delay, order and false alarms."""

from __future__ import annotations

import numpy as np
import pytest

from forecaster.accuracy.drift import COVERAGE, SKILL, DriftDetector, DriftMonitor
from forecaster.accuracy.loss_series import LossHistory, LossTrace
from forecaster.accuracy.losses import compute_losses
from tests.builders import HOUR_MS, make_key
from tests.forecast_builders import CUTOFF, make_past, make_steps

MODEL = "nano@1"
WALK = "random_walk@1"
ETHER = make_key(symbol="ETH/USDT")
CHANGE = 500


def make_trace(loss_U, walk_U, inside_UF, steps=1, start=0):
    """A trace of the next bar, one cutoff an hour; of further steps the model loses 1, and is never right."""
    n = len(loss_U)
    cutoff_N = np.repeat(CUTOFF + (start + np.arange(n)) * HOUR_MS, steps)
    step_N = np.tile(np.arange(1, steps + 1), n)
    target_N = cutoff_N + (step_N - 1) * HOUR_MS
    first_N1 = (step_N == 1)[:, None]
    loss_N1, walk_N1 = (np.repeat(one_U, steps)[:, None] for one_U in (loss_U, walk_U))
    losses = (np.tile(np.where(first_N1, one_N1, 1.0), 4) for one_N1 in (loss_N1, walk_N1))
    return LossTrace(cutoff_N, step_N, target_N, *losses, first_N1 * np.repeat(inside_UF, steps, axis=0))


def stationary(seed, n=1000, coverage=0.8, skill=0.0):
    """Losses like those of a price's absolute moves, and of each bar four outcomes that lie inside or out together."""
    random = np.random.default_rng(seed)
    walk_U = np.abs(random.standard_t(5, n)) + 0.1
    loss_U = (1 - skill) * walk_U * random.uniform(0.7, 1.3, n)
    inside_UF = np.tile((random.random(n) < coverage).astype(float), (4, 1)).T
    return loss_U, walk_U, inside_UF


def joined(*parts):
    return tuple(np.concatenate(columns) for columns in zip(*parts, strict=True))


def place(drift):
    """Which cutoff it was found at."""
    return (drift.cutoff - CUTOFF) // HOUR_MS


@pytest.mark.parametrize("seed", range(10))
def test_lost_coverage_is_found(seed):
    """From 80 % to 50 %: within 250 cutoffs, by name, with the mean before and a lower one now."""
    course = joined(stationary(seed, CHANGE), stationary(100 + seed, CHANGE, coverage=0.5))
    found = [one for one in DriftDetector().update(make_trace(*course)) if one.measure == COVERAGE]

    assert CHANGE < place(found[0]) < CHANGE + 250
    assert found[0].before == pytest.approx(0.8, abs=0.07)
    assert found[0].now < found[0].before


@pytest.mark.parametrize("seed", range(10))
def test_lost_skill_is_found(seed):
    """A model that lost a quarter less than the walk, 0.57 of both, and then a third more: within 100 cutoffs."""
    course = joined(stationary(seed, CHANGE, skill=0.25), stationary(100 + seed, CHANGE, skill=-0.33))
    found = [one for one in DriftDetector().update(make_trace(*course)) if one.measure == SKILL]

    assert CHANGE < place(found[0]) < CHANGE + 100
    assert found[0].before == pytest.approx(0.575, abs=0.01)
    assert found[0].now < found[0].before


def test_a_change_for_the_better_is_a_change_too():
    course = joined(stationary(0, CHANGE, coverage=0.5), stationary(1, CHANGE, coverage=0.8))
    (first, *_) = DriftDetector().update(make_trace(*course))

    assert first.measure == COVERAGE
    assert first.now > first.before


def test_what_does_not_change_is_seldom_found_to():
    """Of 60 runs of 1,000 cutoffs at most one, of skill and of coverage."""
    found = [{one.measure for one in DriftDetector().update(make_trace(*stationary(seed)))} for seed in range(60)]

    assert sum(SKILL in one for one in found) <= 1
    assert sum(COVERAGE in one for one in found) <= 1


def test_only_the_next_bar_is_watched():
    """Further steps of the same cutoffs overlap: with or without them, the same is found."""
    course = joined(stationary(0, CHANGE), stationary(100, CHANGE, coverage=0.5))

    assert DriftDetector().update(make_trace(*course, steps=3)) == DriftDetector().update(make_trace(*course)) != []


def test_a_detector_continues_between_updates():
    """Looked at cutoff by cutoff, or all at once, the same is found at the same cutoffs."""
    course = joined(stationary(0, CHANGE), stationary(100, 300, coverage=0.5, skill=-0.3))
    watch, found = DriftDetector(), []
    for i in range(CHANGE + 300):
        found += watch.update(make_trace(*(one[i : i + 1] for one in course), start=i))

    assert found == DriftDetector().update(make_trace(*course))
    assert {one.measure for one in found} == {SKILL, COVERAGE}
    assert [one.cutoff for one in found] == sorted(one.cutoff for one in found)


def test_nothing_shows_nothing():
    """Neither no cutoff at all, nor two models that made no error."""
    empty = make_trace(np.zeros(0), np.zeros(0), np.zeros((0, 4)))
    perfect = make_trace(np.zeros(600), np.zeros(600), np.ones((600, 4)))

    assert DriftDetector().update(empty) == DriftDetector().update(perfect) == []


def losses_of(key, covered_U, start):
    """Both models, of the next bar, with the outcome inside of the model's interval or out of it."""
    n = len(covered_U)
    steps = make_steps(
        [[90, 100, 110], [80, 100, 120]] * n,
        np.repeat(np.where(covered_U, 105.0, 115.0), 2),
        models=[MODEL, WALK] * n,
        cutoff=CUTOFF + (start + np.repeat(np.arange(n), 2)) * HOUR_MS,
        key=key,
    )
    return compute_losses(steps, make_past(np.full(n + 1, 100.0), key, CUTOFF + (start + n - 1) * HOUR_MS))


def test_series_and_models_are_watched_apart():
    """One of two series loses its coverage, portion by portion; the other's watch, and the walk's, stay still."""
    random = np.random.default_rng(3)
    watches, found = DriftMonitor(), []
    for start in range(0, 2 * CHANGE, 100):
        share = 0.8 if start < CHANGE else 0.5
        both = {make_key(): random.random(100) < share, ETHER: random.random(100) < 0.8}
        found += watches.update([losses_of(key, covered_U, start) for key, covered_U in both.items()])

    assert {(key, model_id) for key, model_id, _ in found} == {(make_key(), MODEL)}
    assert CHANGE < place(next(one for _, _, one in found if one.measure == COVERAGE)) < CHANGE + 250


def test_a_watch_of_losses_is_a_watch_of_their_trace():
    losses = losses_of(make_key(), np.random.default_rng(0).random(700) < np.where(np.arange(700) < 400, 0.9, 0.4), 0)
    found = DriftMonitor().update([losses])

    assert (
        [one for _, name, one in found if name == MODEL]
        == DriftDetector().update(LossHistory([losses]).trace(make_key(), MODEL))
        != []
    )
