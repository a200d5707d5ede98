"""Evaluation: the cutoffs, each loss against a loop over bars, and the figures."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from forecaster.accuracy.losses import COLUMN_INDEX
from forecaster.accuracy.significance import diebold_mariano
from forecaster.bars import FIELDS, Bars
from forecaster.context import Context
from forecaster.errors import InvalidArgument, NotEnoughBars
from forecaster.forecast import CHRONOS_LEVELS, ModelId, OHLCForecast, Provenance, repair
from forecaster.model.baselines.historical_simulation import FilteredHistoricalSimulation
from forecaster.model.baselines.random_walk import RandomWalk
from forecaster.replay.evaluate import (
    SIMULATION,
    WALK,
    EvaluationPlan,
    choose_spread_cutoffs,
    evaluate,
)
from tests.builders import HOUR_MS, make_bars, make_key, utc_ms

PLAN = EvaluationPlan(cutoffs=12, horizon=3, context=100)
RISING = np.linspace(-0.02, 0.02, len(CHRONOS_LEVELS))


class Stencil:
    """A model that answers last close · (1 + offsets), (F, H, Q) or what broadcasts to it, whatever it sees."""

    name = "stencil"
    engine = "numpy"
    engine_reason = "for tests"

    def __init__(self, offsets=RISING, levels=CHRONOS_LEVELS, name="stencil"):
        self.offsets = offsets
        self.levels = levels
        self.name = name
        self.seen = []

    @property
    def id(self):
        return ModelId.of(self.name, "1")

    def predict(self, contexts, horizon):
        self.seen += contexts
        return [self._answer(context, horizon) for context in contexts]

    def _answer(self, context, horizon):
        offsets_FHQ = np.broadcast_to(self.offsets, (4, horizon, len(self.levels)))
        raw_FHQ = context.last_close * (1 + offsets_FHQ)
        made_by = Provenance(self.name, "1", "", "float64", "cpu", "numpy", "", context.sha256, (1,), "", 0.0)
        return OHLCForecast(context.key, context.cutoff, self.levels, raw_FHQ, repair(raw_FHQ), made_by)


@pytest.fixture(scope="module")
def bars():
    return make_bars(count=600)


@pytest.fixture(scope="module")
def gappy(bars):
    """Each ninth bar is missing."""
    return bars[np.arange(600) % 9 != 4]


def outcome(bars, cutoff, step):
    """The bar that `step` stands for, by its time; None where it is missing."""
    rows = dict(zip(bars.open_time.tolist(), bars.ohlcv_TF.tolist(), strict=True))
    return rows.get(cutoff + (step - 1) * HOUR_MS)


def last_close(bars, cutoff):
    return outcome(bars, cutoff, 0)[3]


def cases(evaluation, name, column):
    """A column of what settled for a model: the four fields by cutoff and step."""
    found = {}
    for losses in evaluation.losses:
        steps = losses.steps
        for i in range(len(steps)):
            if steps.models[steps.model_N[i]].name == name:
                case = int(steps.cutoff_N[i]), int(steps.step_N[i])
                found[case] = losses.served_NGC[i, :4, COLUMN_INDEX[column]]
    return found


def pinball(evaluation):
    return evaluation.totals().mean("common_pinball", "common_n")


def test_losses_agree_with_a_loop(gappy):
    """Every loss in units of the last close; a step without a bar has none."""
    evaluation = evaluate(Stencil(), gappy, PLAN)
    losses, errors = (cases(evaluation, "stencil", f"common_{name}") for name in ("pinball", "absolute_error"))
    covered = [cases(evaluation, "stencil", f"covered{percent}") for percent in (50, 80, 90, 98)]
    missing = 0
    for cutoff in evaluation.cutoffs_N.tolist():
        for step in (1, 2, 3):
            bar = outcome(gappy, cutoff, step)
            if bar is None:
                missing += 1
                assert (cutoff, step) not in losses
                continue
            for f in range(4):
                moved = bar[f] / last_close(gappy, cutoff) - 1
                pairs = zip(CHRONOS_LEVELS, RISING, strict=True)
                expected = np.mean([max(q * (moved - x), (q - 1) * (moved - x)) for q, x in pairs])
                inside = [RISING[at] <= moved <= RISING[-1 - at] for at in (5, 2, 1, 0)]

                assert losses[cutoff, step][f] == pytest.approx(expected, rel=1e-9)
                assert errors[cutoff, step][f] == pytest.approx(abs(moved), abs=1e-12)
                assert [hits[cutoff, step][f] for hits in covered] == inside

    assert missing > 0


def test_what_is_served_is_what_is_scored(bars):
    """Quantiles that fall are sorted before they are scored."""
    one, other = evaluate(Stencil(RISING), bars, PLAN), evaluate(Stencil(RISING[::-1]), bars, PLAN)

    assert pinball(other) == pinball(one)


def test_the_unit_of_prices_does_not_matter(bars):
    dearer = Bars(bars.key, bars.open_time, bars.ohlcv_TF * 1024)

    one, other = evaluate(Stencil(), bars, PLAN), evaluate(Stencil(), dearer, PLAN)

    for name in ("stencil", WALK, SIMULATION):
        np.testing.assert_allclose(one.loss_series(name).loss_U, other.loss_series(name).loss_U, rtol=1e-9)


@pytest.mark.parametrize("context", [64, 300])
def test_the_model_sees_its_context(bars, context):
    model = Stencil()
    evaluation = evaluate(model, bars, EvaluationPlan(cutoffs=12, horizon=3, context=context))

    assert [one.cutoff for one in model.seen] == evaluation.cutoffs_N.tolist()
    assert {one.ohlc_CT.shape for one in model.seen} == {(4, context)}


@pytest.mark.parametrize("baseline", [RandomWalk(), FilteredHistoricalSimulation()])
def test_the_baselines_see_500_bars(bars, baseline):
    evaluation = evaluate(Stencil(), bars, PLAN)
    cutoff = int(evaluation.cutoffs_N[5])
    (forecast,) = baseline.predict([Context.ending_at(bars, cutoff, 500, 1)], 3)

    expected = abs(outcome(bars, cutoff, 2)[1] - forecast.median("high")[1]) / last_close(bars, cutoff)
    assert cases(evaluation, baseline.name, "common_absolute_error")[cutoff, 2][1] == pytest.approx(expected, rel=1e-9)


def test_batches_do_not_matter():
    """300 cutoffs take two batches, and each loss stays with its cutoff."""
    bars, done = make_bars(count=900), []
    plan = EvaluationPlan(cutoffs=300, horizon=1, context=64)

    evaluation = evaluate(Stencil(), bars, plan, done.append)

    errors = cases(evaluation, "stencil", "common_absolute_error")
    moved = [abs(outcome(bars, cutoff, 1)[3] / last_close(bars, cutoff) - 1) for cutoff in evaluation.cutoffs_N]
    assert done == [256, 44]
    np.testing.assert_allclose([errors[cutoff, 1][3] for cutoff in evaluation.cutoffs_N], moved, atol=1e-12)


def test_bars_of_sessions_are_found_across_nights():
    """The bar after a session's last one opens with the next session."""
    bars = make_bars(make_key(symbol="AAPL/USD", calendar="XNYS"), count=600, start=utc_ms("2024-01-02"))

    evaluation = evaluate(Stencil(), bars, EvaluationPlan(cutoffs=40, horizon=4, context=64))

    at = np.searchsorted(bars.close_time, evaluation.cutoffs_N)
    moved = np.abs(bars.close[at + 4] / bars.close[at] - 1)
    errors = cases(evaluation, "stencil", "common_absolute_error")
    np.testing.assert_allclose([errors[cutoff, 4][3] for cutoff in evaluation.cutoffs_N], moved, atol=1e-12)


def test_cutoffs_are_spread_over_bars_with_500_before():
    """The first has 500 bars behind it, the last `horizon` ahead; those between lie evenly."""
    chosen = choose_spread_cutoffs(make_bars(count=1000), EvaluationPlan(cutoffs=50, horizon=8))

    assert (chosen[0], chosen[-1]) == (499, 991)
    assert set(np.diff(chosen)) == {10, 11}


@pytest.mark.parametrize(
    ("count", "first"),
    [(552, 499), (551, 498), (300, 247), (116, 63)],
    ids=["enough with 500", "one short", "none with 500", "just enough with 64"],
)
def test_cutoffs_begin_earlier_where_too_few_have_500(count, first):
    chosen = choose_spread_cutoffs(make_bars(count=count), EvaluationPlan(cutoffs=50, horizon=3))

    assert chosen.tolist() == list(range(first, count - 3))[:50]


def test_all_cutoffs_there_are():
    """Fewer than asked for: the evaluation says how many."""
    evaluation = evaluate(Stencil(), make_bars(count=90), EvaluationPlan(cutoffs=50, horizon=3))

    assert len(evaluation.cutoffs_N) == 90 - 63 - 3


def test_cutoffs_between_dates(bars):
    """From `start` on, before `end`; the first and the last of them are taken."""
    start, end = int(bars.close_time[510]), int(bars.close_time[540])

    chosen = choose_spread_cutoffs(bars, EvaluationPlan(cutoffs=10, horizon=3, start=start, end=end))

    assert (chosen[0], chosen[-1], len(chosen)) == (510, 539, 10)


def test_a_cutoff_after_a_long_gap_waits_for_bars():
    """64 must lie among the 100 slots that the model sees; with 37 missing, 63 do until the gap begins to leave."""
    bars = make_bars(count=800)[np.r_[0:520, 557:800]]

    chosen = choose_spread_cutoffs(bars, EvaluationPlan(cutoffs=198, horizon=3, context=100))

    assert chosen.tolist() == [*range(499, 520), *range(583, 760)]


@pytest.mark.parametrize(("count", "horizon"), [(75, 3), (86, 8), (0, 3)])
def test_too_few_bars(count, horizon):
    """64 before, `horizon` after, and ten cutoffs or twice the horizon."""
    with pytest.raises(NotEnoughBars):
        evaluate(Stencil(), make_bars(count=count), EvaluationPlan(horizon=horizon))


@pytest.mark.parametrize(("count", "horizon"), [(76, 3), (87, 8)])
def test_just_enough_bars(count, horizon):
    """Enough to score; a test of the losses needs four times the horizon."""
    evaluation = evaluate(Stencil(), make_bars(count=count), EvaluationPlan(horizon=horizon))

    assert evaluation.verdict(WALK).skill < 1
    assert evaluation.verdict(WALK).p_value is None
    assert evaluation.close_error_p_value() is None


@pytest.mark.parametrize(("count", "known"), [(78, True), (77, False)])
def test_a_p_value_needs_four_times_the_horizon(count, known):
    evaluation = evaluate(Stencil(), make_bars(count=count), EvaluationPlan(horizon=3))

    assert (evaluation.verdict(WALK).p_value is not None) == known
    assert (evaluation.close_error_p_value() is not None) == known


@pytest.mark.parametrize("name", ["cutoffs", "horizon", "context", "min_context"])
@pytest.mark.parametrize("count", [0, -5, 4.0, "4", True, float("nan")])
def test_plan_without_counts_is_refused(name, count):
    with pytest.raises(InvalidArgument, match=f"{name}: expected "):
        EvaluationPlan(**{name: count})


@pytest.mark.parametrize("plan", [EvaluationPlan(cutoffs=9, horizon=3), EvaluationPlan(end=utc_ms("2024-01-03"))])
def test_a_plan_that_leaves_too_few_cutoffs(bars, plan):
    with pytest.raises(InvalidArgument, match=r"cutoffs of binance BTC/USDT 1h: expected 1[06] or more"):
        evaluate(Stencil(), bars, plan)


@pytest.mark.parametrize(("cutoffs", "lag"), [(98, 2), (97, 2), (49, 1), (34, 1), (33, 0), (12, 0)])
def test_the_lag_is_what_overlap_needs(bars, cutoffs, lag):
    """98 cutoffs 3 bars ahead from every bar: two further ones share a target with each; from each third bar, none."""
    evaluation = evaluate(Stencil(), bars, EvaluationPlan(cutoffs=cutoffs, horizon=3, context=64))

    assert evaluation.loss_series("stencil").lag == lag


def by_cutoff(evaluation, name, column, field=slice(None)):
    """The mean of a column at each cutoff, over the fields and the steps that settled."""
    settled = cases(evaluation, name, column)
    means = []
    for cutoff in evaluation.cutoffs_N.tolist():
        at_cutoff = [fields[field] for (of, _), fields in settled.items() if of == cutoff]
        means += [np.mean(at_cutoff)] if at_cutoff else []
    return np.array(means)


def test_figures_are_means_and_ratios_of_losses(gappy):
    """A pinball ratio is of the cutoffs' means, a ratio of absolute errors of all cases."""
    evaluation = evaluate(Stencil(), gappy, PLAN)
    ours, walk = (by_cutoff(evaluation, name, "common_pinball") for name in ("stencil", WALK))
    errors, walk_errors = (cases(evaluation, name, "common_absolute_error") for name in ("stencil", WALK))
    hits = cases(evaluation, "stencil", "covered80")

    assert 1 - evaluation.verdict(WALK).skill == pytest.approx(ours.sum() / walk.sum())
    for field, f, step in (("high", 1, None), ("open", 0, 3)):
        own, other = (
            sum(fields[f] for (_, of), fields in one.items() if step in (None, of)) for one in (errors, walk_errors)
        )
        assert 1 - evaluation.totals(field, step).skill("absolute_error") == pytest.approx(own / other)
    first = [fields[3] for (_, step), fields in hits.items() if step == 1]
    assert evaluation.totals("close", 1).coverage(80) == pytest.approx(np.mean(first))
    assert evaluation.horizon == 3


def test_coverage_is_by_field():
    """Highs never lie below the open before them, so an interval around the last close holds the fewest."""
    evaluation = evaluate(Stencil(RISING * 0.5), make_bars(count=800), EvaluationPlan(cutoffs=100, horizon=2))

    shares = [{field: evaluation.totals(field).coverage(percent) for field in FIELDS} for percent in (50, 80, 90, 98)]
    assert all(one["close"] <= other["close"] for one, other in pairwise(shares))
    assert shares[0]["open"] > max(shares[0]["high"], shares[0]["low"])


def test_p_values_are_of_the_cutoffs_mean_losses(gappy):
    plan = EvaluationPlan(cutoffs=60, horizon=3, context=100)
    evaluation = evaluate(Stencil(), gappy, plan)
    lag = evaluation.loss_series("stencil").lag

    losses = [by_cutoff(evaluation, name, "common_pinball") for name in ("stencil", WALK)]
    errors = [by_cutoff(evaluation, name, "common_absolute_error", 3) for name in ("stencil", WALK)]
    assert lag > 0
    assert evaluation.verdict(WALK).p_value == pytest.approx(diebold_mariano(*losses, lag).p_value)
    assert evaluation.close_error_p_value() == pytest.approx(diebold_mariano(*errors, lag).p_value)


def test_a_bad_model_is_told_from_the_baselines(bars):
    """One that is sure of a rise by a tenth."""
    evaluation = evaluate(Stencil(RISING + 0.1), bars, PLAN)

    assert 1 - evaluation.verdict(SIMULATION).skill > 5
    assert evaluation.verdict(SIMULATION).p_value < 1e-6
    assert evaluation.close_error_p_value() < 1e-6


@pytest.mark.parametrize(("missing", "known"), [(2, True), (3, False)])
def test_a_step_whose_bars_came_too_seldom_has_no_p_value(bars, missing, known):
    """Ten cases are the fewest that are tested; of twelve, nine or ten came."""
    evaluation = evaluate(Stencil(), bars, EvaluationPlan(cutoffs=12, horizon=3, context=100))
    first = evaluation.cutoffs_N[:missing]
    kept = [one[~(np.isin(one.steps.cutoff_N, first) & (one.steps.step_N == 2))] for one in evaluation.losses]
    evaluation = replace(evaluation, losses=kept)

    assert (evaluation.verdict(WALK, step=2).p_value is not None) == known
    assert evaluation.verdict(WALK, step=1).p_value is not None
    assert evaluation.verdict(WALK).p_value is not None


def test_no_ratio_to_a_loss_of_nothing():
    """Prices that never move: the random walk is always right."""
    key = make_key()
    opens = key.trading_calendar.next_opens(key.timeframe, utc_ms("2024-01-01"), 120)
    still = Bars(key, opens, np.tile([5.0, 5.0, 5.0, 5.0, 1.0], (120, 1)))

    evaluation = evaluate(Stencil(), still, PLAN)

    assert evaluation.verdict(WALK).skill is None
    assert evaluation.totals("close").skill("absolute_error") is None


def faulty(field, at, shift):
    """Offsets (F, 3, Q) that are sound but for one: the second step's `field`, moved at one level."""
    offsets_FHQ = np.tile(RISING, (4, 3, 1)) + np.array([0.0, 0.001, -0.001, 0.0])[:, None, None]
    offsets_FHQ[FIELDS.index(field), 1, at] += shift
    return offsets_FHQ


@pytest.mark.parametrize(
    ("offsets", "share"),
    [
        (faulty("high", 4, 0.0), 0),
        (faulty("high", 4, -0.0015), 1 / 3),
        (faulty("low", 4, 0.0015), 1 / 3),
        (faulty("open", 20, 0.0015), 1 / 3),
        (faulty("open", 0, -0.0015), 1 / 3),
        (faulty("close", 20, 0.0015), 1 / 3),
        (faulty("close", 0, -0.0015), 1 / 3),
        (faulty("low", 12, -0.01), 1 / 3),
        (np.tile(RISING, (4, 3, 1)), 0),
        (np.zeros((4, 3, 21)), 0),
        (RISING[::-1], 1),
    ],
    ids=[
        "sound",
        "high below the others",
        "low above the others",
        "open above high",
        "open below low",
        "close above high",
        "close below low",
        "quantiles fall",
        "fields are equal",
        "quantiles are equal",
        "all quantiles fall",
    ],
)
def test_bars_that_are_impossible_are_counted_before_repair(bars, offsets, share):
    """One bad step of three is a third; equal values are possible."""
    evaluation = evaluate(Stencil(offsets), bars, PLAN)

    assert evaluation.invalid_before_repair == pytest.approx(share)


@pytest.mark.parametrize("name", [WALK, SIMULATION])
def test_the_name_of_a_baseline_is_refused(bars, name):
    with pytest.raises(InvalidArgument, match="model: expected another name than a baseline's"):
        evaluate(Stencil(name=name), bars, PLAN)


def test_other_levels_are_refused(bars):
    """A mean over other levels is another loss."""
    with pytest.raises(InvalidArgument, match="levels of stencil"):
        evaluate(Stencil(np.array([-0.01, 0.0, 0.01]), (0.1, 0.5, 0.9)), bars, PLAN)
