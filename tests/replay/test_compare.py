"""Comparison over several series: weights, units, time order, and what moving together is worth."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from forecaster.accuracy.losses import COLUMN_INDEX, COLUMNS, SCORED_FIELDS, Losses
from forecaster.accuracy.significance import diebold_mariano
from forecaster.errors import InvalidArgument
from forecaster.model.baselines.historical_simulation import FilteredHistoricalSimulation
from forecaster.model.baselines.random_walk import RandomWalk
from forecaster.replay.compare import compare
from forecaster.replay.evaluate import SIMULATION, WALK, Evaluation, EvaluationPlan, evaluate
from tests.builders import HOUR_MS, make_bars, make_key, utc_ms
from tests.forecast_builders import TENS, make_steps

START = utc_ms("2024-01-01")


def evaluation(loss_N, name, symbol="A/B", start=START, *, every=1, walk=2.0):
    """Evaluation of one model whose loss at each cutoff, for every field and step, is given; NaN did not settle."""
    loss_N = np.asarray(loss_N, float)
    count = len(loss_N)
    cutoffs_N = start + HOUR_MS * every * np.arange(count)
    by_model = {name: loss_N, WALK: np.full(count, walk), SIMULATION: np.zeros(count)}
    names = list(by_model)
    steps = make_steps(
        np.zeros(len(TENS)),
        1.0,
        models=np.repeat([f"{one}@1" for one in names], 2 * count),
        cutoff=np.tile(np.repeat(cutoffs_N, 2), 3),
        step=np.tile([1, 2], 3 * count),
        key=make_key(symbol=symbol),
    )
    terms_NGC = np.zeros((len(steps), len(SCORED_FIELDS), len(COLUMNS)))
    at_N = np.searchsorted(cutoffs_N, steps.cutoff_N)
    own_N = np.array([by_model[steps.models[m].name][at] for m, at in zip(steps.model_N, at_N, strict=True)])
    terms_NGC[:, :, COLUMN_INDEX["common_n"]] = 1.0
    terms_NGC[:, :, COLUMN_INDEX["common_pinball"]] = own_N[:, None]
    terms_NGC[:, :, COLUMN_INDEX["walk_pinball"]] = walk
    losses = Losses(steps, terms_NGC, terms_NGC, np.ones(len(steps)), np.full(len(steps), -1))
    return Evaluation(steps.key, cutoffs_N, 2, name, [losses[~np.isnan(loss_N)[at_N]]], 0.0)


def draw(count=60, seed=0):
    """Losses of an original, and of a model that is a little better."""
    rng = np.random.default_rng(seed)
    original_N = rng.uniform(0.5, 1.5, count)
    return original_N - 0.03 + rng.normal(0, 0.1, count), original_N


def pair(loss_N, original_N, **where):
    return evaluation(loss_N, "tuned", **where), evaluation(original_N, "original", **where)


class Wide(RandomWalk):
    """The simulation under another name."""

    name = "wide"

    def predict(self, contexts, horizon):
        return [
            dataclasses.replace(one, provenance=dataclasses.replace(one.provenance, model_id=self.name))
            for one in FilteredHistoricalSimulation().predict(contexts, horizon)
        ]


def test_one_series_is_judged_as_its_evaluation_does():
    """Made apart, compared here: the ratio and p of the evaluation beside the baseline that the original is."""
    bars = make_bars(count=700)
    plan = EvaluationPlan(cutoffs=100, horizon=3, context=500)
    wide = evaluate(Wide(), bars, plan)
    found = compare([wide], [dataclasses.replace(wide, model=WALK)])
    verdict = wide.verdict(WALK)

    assert wide.loss_series("wide").lag > 0
    assert found.ratio == pytest.approx(1 - verdict.skill)
    assert found.p_value == pytest.approx(verdict.p_value)


def test_the_same_forecasts_are_no_evidence():
    evaluated = evaluate(Wide(), make_bars(count=600), EvaluationPlan(cutoffs=12, horizon=3, context=100))
    found = compare([evaluated], [evaluated])

    assert (found.ratio, found.p_value) == (1, 1)


def test_ratios_are_of_means():
    loss_N, original_N = draw()
    found = compare(*[[one] for one in pair(loss_N, original_N)])

    assert found.cutoffs == 60
    assert found.ratio == pytest.approx(loss_N.mean() / original_N.mean())
    assert found.to_baselines == {WALK: pytest.approx(loss_N.mean() / 2), SIMULATION: None}
    assert found.original_to_baselines == {WALK: pytest.approx(original_N.mean() / 2), SIMULATION: None}
    assert found.p_value == pytest.approx(diebold_mariano(loss_N, original_N, 1).p_value)


def test_twin_series_prove_nothing_more():
    """The same losses twice at the same cutoffs: p stays, where two independent series would lower it."""
    loss_N, original_N = draw()
    one = pair(loss_N, original_N)
    twins = [one, pair(loss_N, original_N, symbol="C/D")]
    others = [one, pair(*draw(seed=1), symbol="C/D", start=START + 1000 * HOUR_MS)]
    alone, twice, apart = (compare(*map(list, zip(*rows, strict=True))) for rows in ([one], twins, others))

    assert twice.p_value == pytest.approx(alone.p_value, rel=0.3)
    assert apart.p_value < alone.p_value / 3
    assert twice.ratio == pytest.approx(alone.ratio)


def test_order_of_files_does_not_matter():
    rows = [pair(*draw()), pair(*draw(seed=1), symbol="C/D", start=START + HOUR_MS // 2, every=3)]
    forwards, backwards = (compare(*map(list, zip(*some, strict=True))) for some in (rows, rows[::-1]))

    assert forwards.p_value == pytest.approx(backwards.p_value)
    assert forwards.ratio == pytest.approx(backwards.ratio)


def test_a_wild_series_counts_no_more_than_a_calm_one():
    """A hundred times the losses in one series: the same figures."""
    calm, wild = draw(), draw(seed=1)
    rows = [[pair(*calm), pair(*(scale * np.array(wild)), symbol="C/D", walk=2 * scale)] for scale in (1, 100)]
    one, other = (compare(*map(list, zip(*some, strict=True))) for some in rows)

    assert one.ratio == pytest.approx(other.ratio)
    assert one.p_value == pytest.approx(other.p_value)
    assert one.to_baselines[WALK] == pytest.approx(other.to_baselines[WALK])


def test_cutoffs_without_outcome_do_not_count():
    loss_N, original_N = draw()
    loss_N[7] = original_N[7] = np.nan
    made, original = pair(loss_N, original_N)
    found = compare([made], [original])

    assert found.cutoffs == 59
    assert found.ratio == pytest.approx(np.nanmean(loss_N) / np.nanmean(original_N))


@pytest.mark.parametrize(
    ("gain", "wins"), [(0.2, True), (0.0, False), (-0.2, False)], ids=["better", "as good", "worse"]
)
def test_win_needs_both_sides(gain, wins):
    """A small p alone does not win: it may be surely worse."""
    noise_N = np.random.default_rng(0).normal(0, 0.1, 60)
    noise_N -= noise_N.mean()
    original_N = np.full(60, 1.0)

    assert compare(*[[one] for one in pair(original_N - gain + noise_N, original_N)]).is_better == wins


def test_other_cutoffs_are_refused():
    loss_N, original_N = draw()
    made, original = pair(loss_N, original_N)
    shifted = dataclasses.replace(original, cutoffs_N=original.cutoffs_N + HOUR_MS)
    with pytest.raises(InvalidArgument, match="the cutoffs of"):
        compare([made], [shifted])
    with pytest.raises(InvalidArgument, match="the cutoffs of"):
        compare([made], [evaluation(original_N, "original", symbol="C/D")])


def test_nothing_to_divide_by_is_refused():
    made, original = pair(np.zeros(60), np.zeros(60))
    with pytest.raises(InvalidArgument, match="a mean above 0"):
        compare([made], [original])
