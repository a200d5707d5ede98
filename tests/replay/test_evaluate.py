"""Evaluation: which cutoffs, what each loss is, and what the figures say. Losses against loops over bars."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from forecaster.accuracy.significance import diebold_mariano
from forecaster.bars import FIELDS, Bars, Context
from forecaster.errors import InvalidContext, NotEnoughBars
from forecaster.forecast import CHRONOS_LEVELS, ModelId, OHLCForecast, Provenance, repair
from forecaster.model.baselines.simple import FilteredHistoricalSimulation, RandomWalk
from forecaster.replay.evaluate import (
    SIMULATION,
    WALK,
    WIDTHS,
    Evaluation,
    EvaluationPlan,
    Losses,
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


def test_losses_agree_with_a_loop(gappy):
    """Every loss in units of the last close; NaN where no bar came, and only there."""
    evaluation = evaluate([Stencil()], gappy, PLAN)
    found = evaluation.losses["stencil"]
    missing = 0
    for n, cutoff in enumerate(evaluation.cutoffs_N.tolist()):
        for step in (1, 2, 3):
            bar = outcome(gappy, cutoff, step)
            missing += bar is None
            for f in range(4):
                case = n, f, step - 1
                if bar is None:
                    assert np.isnan([found.pinball_NFH[case], found.absolute_error_NFH[case]]).all()
                    assert np.isnan(found.covered_WNFH[:, *case]).all()
                    continue
                moved = bar[f] / last_close(gappy, cutoff) - 1
                pairs = zip(CHRONOS_LEVELS, RISING, strict=True)
                pinball = np.mean([max(q * (moved - x), (q - 1) * (moved - x)) for q, x in pairs])
                inside = [RISING[at] <= moved <= RISING[-1 - at] for at in (5, 2, 1, 0)]

                assert found.pinball_NFH[case] == pytest.approx(pinball, rel=1e-9)
                assert found.absolute_error_NFH[case] == pytest.approx(abs(moved), abs=1e-12)
                assert found.covered_WNFH[:, *case].tolist() == inside

    assert missing > 0


def test_what_is_served_is_what_is_scored(bars):
    """Quantiles that fall are sorted before they are scored."""
    one, other = evaluate([Stencil(RISING)], bars, PLAN), evaluate([Stencil(RISING[::-1])], bars, PLAN)

    assert other.pinball("stencil") == one.pinball("stencil")


def test_the_unit_of_prices_does_not_matter(bars):
    dearer = Bars(bars.key, bars.open_time, bars.ohlcv_TF * 1024)

    one, other = evaluate([Stencil()], bars, PLAN), evaluate([Stencil()], dearer, PLAN)

    for name in one.losses:
        np.testing.assert_allclose(one.losses[name].pinball_NFH, other.losses[name].pinball_NFH, rtol=1e-9)


@pytest.mark.parametrize("context", [64, 300])
def test_the_model_sees_its_context(bars, context):
    model = Stencil()
    evaluation = evaluate([model], bars, EvaluationPlan(cutoffs=12, horizon=3, context=context))

    assert [one.cutoff for one in model.seen] == evaluation.cutoffs_N.tolist()
    assert {one.ohlc_CT.shape for one in model.seen} == {(4, context)}


@pytest.mark.parametrize("baseline", [RandomWalk(), FilteredHistoricalSimulation()])
def test_the_baselines_see_500_bars(bars, baseline):
    evaluation = evaluate([Stencil()], bars, PLAN)
    cutoff = int(evaluation.cutoffs_N[5])
    (forecast,) = baseline.predict([Context.ending_at(bars, cutoff, 500, 1)], 3)

    expected = abs(outcome(bars, cutoff, 2)[1] - forecast.median("high")[1]) / last_close(bars, cutoff)
    assert evaluation.losses[baseline.name].absolute_error_NFH[5, 1, 1] == pytest.approx(expected, rel=1e-9)


def test_further_models_are_scored_beside_the_first(bars):
    evaluation = evaluate([Stencil(), Stencil(RISING * 2, name="wider")], bars, PLAN)

    assert list(evaluation.losses) == ["stencil", "wider", WALK, SIMULATION]
    assert evaluation.model == "stencil"
    assert evaluation.coverage("wider", 0.5)["close"] >= evaluation.coverage("stencil", 0.5)["close"]


def test_batches_do_not_matter():
    """300 cutoffs take two batches, and each loss stays with its cutoff."""
    bars, done = make_bars(count=900), []
    plan = EvaluationPlan(cutoffs=300, horizon=1, context=64)

    evaluation = evaluate([Stencil()], bars, plan, done.append)

    moved = [abs(outcome(bars, cutoff, 1)[3] / last_close(bars, cutoff) - 1) for cutoff in evaluation.cutoffs_N]
    assert done == [256, 44]
    np.testing.assert_allclose(evaluation.losses["stencil"].absolute_error_NFH[:, 3, 0], moved, atol=1e-12)


def test_bars_of_sessions_are_found_across_nights():
    """The bar after a session's last one opens with the next session."""
    bars = make_bars(make_key(symbol="AAPL/USD", calendar="XNYS"), count=600, start=utc_ms("2024-01-02"))

    evaluation = evaluate([Stencil()], bars, EvaluationPlan(cutoffs=40, horizon=4, context=64))

    at = np.searchsorted(bars.close_time, evaluation.cutoffs_N)
    moved = np.abs(bars.close[at + 4] / bars.close[at] - 1)
    np.testing.assert_allclose(evaluation.losses["stencil"].absolute_error_NFH[:, 3, 3], moved, atol=1e-12)


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
    evaluation = evaluate([Stencil()], make_bars(count=90), EvaluationPlan(cutoffs=50, horizon=3))

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
        evaluate([Stencil()], make_bars(count=count), EvaluationPlan(horizon=horizon))


@pytest.mark.parametrize(("count", "horizon"), [(76, 3), (87, 8)])
def test_just_enough_bars(count, horizon):
    """Enough to score; a test of the losses needs four times the horizon."""
    evaluation = evaluate([Stencil()], make_bars(count=count), EvaluationPlan(horizon=horizon))

    assert evaluation.pinball_ratio("stencil", WALK) > 0
    assert evaluation.p_value("stencil", WALK) is None


@pytest.mark.parametrize(("count", "known"), [(78, True), (77, False)])
def test_a_p_value_needs_four_times_the_horizon(count, known):
    evaluation = evaluate([Stencil()], make_bars(count=count), EvaluationPlan(horizon=3))

    assert (evaluation.p_value("stencil", WALK) is not None) == known


@pytest.mark.parametrize("name", ["cutoffs", "horizon", "context", "min_context"])
@pytest.mark.parametrize("count", [0, -5, 4.0, "4", True, float("nan")])
def test_plan_without_counts_is_refused(name, count):
    with pytest.raises(InvalidContext, match=f"{name}: expected "):
        EvaluationPlan(**{name: count})


@pytest.mark.parametrize("plan", [EvaluationPlan(cutoffs=9, horizon=3), EvaluationPlan(end=utc_ms("2024-01-03"))])
def test_a_plan_that_leaves_too_few_cutoffs(bars, plan):
    with pytest.raises(InvalidContext, match=r"cutoffs of binance BTC/USDT 1h: expected 1[06] or more"):
        evaluate([Stencil()], bars, plan)


@pytest.mark.parametrize(("cutoffs", "lag"), [(98, 2), (97, 2), (49, 1), (34, 1), (33, 0), (12, 0)])
def test_the_lag_is_what_overlap_needs(bars, cutoffs, lag):
    """98 cutoffs 3 bars ahead from every bar: two further ones share a target with each; from each third bar, none."""
    evaluation = evaluate([Stencil()], bars, EvaluationPlan(cutoffs=cutoffs, horizon=3, context=64))

    assert evaluation.lag == lag


def test_figures_are_means_and_ratios_of_losses(gappy):
    evaluation = evaluate([Stencil()], gappy, PLAN)
    ours, walk = evaluation.losses["stencil"], evaluation.losses[WALK]

    assert evaluation.pinball_ratio("stencil", WALK) == pytest.approx(
        np.nansum(ours.pinball_NFH) / np.nansum(walk.pinball_NFH)
    )
    assert evaluation.pinball_ratio("stencil", WALK, "low", 2) == pytest.approx(
        np.nansum(ours.pinball_NFH[:, 2, 1]) / np.nansum(walk.pinball_NFH[:, 2, 1])
    )
    assert evaluation.mae_ratio("high", "stencil", WALK) == pytest.approx(
        np.nansum(ours.absolute_error_NFH[:, 1]) / np.nansum(walk.absolute_error_NFH[:, 1])
    )
    assert evaluation.mae_ratio("open", "stencil", WALK, 3) == pytest.approx(
        np.nansum(ours.absolute_error_NFH[:, 0, 2]) / np.nansum(walk.absolute_error_NFH[:, 0, 2])
    )
    assert evaluation.coverage("stencil", 0.8, 1)["close"] == pytest.approx(np.nanmean(ours.covered_WNFH[1, :, 3, 0]))
    assert evaluation.horizon == 3


def test_coverage_is_by_field():
    """Highs never lie below the open before them, so an interval around the last close holds the fewest."""
    evaluation = evaluate([Stencil(RISING * 0.5)], make_bars(count=800), EvaluationPlan(cutoffs=100, horizon=2))

    shares = [evaluation.coverage("stencil", width) for width in WIDTHS]
    assert list(shares[0]) == list(FIELDS)
    assert all(one["close"] <= other["close"] for one, other in pairwise(shares))
    assert shares[0]["open"] > max(shares[0]["high"], shares[0]["low"])


def test_an_unknown_width_is_refused(bars):
    with pytest.raises(InvalidContext, match=r"width: expected one of 0\.5, 0\.8, 0\.9, 0\.98, found 0\.7"):
        evaluate([Stencil()], bars, PLAN).coverage("stencil", 0.7)


def test_p_values_are_of_the_cutoffs_mean_losses(gappy):
    plan = EvaluationPlan(cutoffs=60, horizon=3, context=100)
    evaluation = evaluate([Stencil()], gappy, plan)
    ours, walk = evaluation.losses["stencil"], evaluation.losses[WALK]

    expected = diebold_mariano(
        np.nanmean(ours.pinball_NFH, axis=(1, 2)), np.nanmean(walk.pinball_NFH, axis=(1, 2)), evaluation.lag
    )
    assert evaluation.lag > 0
    assert evaluation.p_value("stencil", WALK) == expected.p_value
    errors = [np.nanmean(one.absolute_error_NFH[:, 3], axis=1) for one in (ours, walk)]
    assert evaluation.mae_p_value("close", "stencil", WALK) == diebold_mariano(*errors, evaluation.lag).p_value


def test_the_same_forecasts_are_no_evidence(bars):
    evaluation = evaluate([Stencil(), Stencil(name="twin")], bars, PLAN)

    assert evaluation.pinball_ratio("stencil", "twin") == 1
    assert evaluation.p_value("stencil", "twin") == 1


def test_a_bad_model_is_told_from_the_baselines(bars):
    """One that is sure of a rise by a tenth."""
    evaluation = evaluate([Stencil(RISING + 0.1)], bars, PLAN)

    assert evaluation.pinball_ratio("stencil", SIMULATION) > 5
    assert evaluation.p_value("stencil", SIMULATION) < 1e-6
    assert evaluation.mae_p_value("close", "stencil", WALK) < 1e-6


@pytest.mark.parametrize(("missing", "known"), [(2, True), (3, False)])
def test_a_step_whose_bars_came_too_seldom_has_no_p_value(missing, known):
    """Ten cases are the fewest that are tested; of twelve, nine or ten came."""
    random = np.random.default_rng(0)

    def losses():
        loss_NFH = random.exponential(size=(12, 4, 3))
        loss_NFH[:missing, :, 1] = np.nan
        none_NH = np.zeros((12, 3), bool)
        return Losses(loss_NFH, loss_NFH, np.zeros((4, 12, 4, 3)), none_NH, none_NH)

    evaluation = Evaluation(make_key(), np.arange(12) * HOUR_MS, 0, {"one": losses(), "other": losses()})

    assert (evaluation.p_value("one", "other", step=2) is not None) == known
    assert (evaluation.mae_p_value("low", "one", "other", 2) is not None) == known
    assert evaluation.p_value("one", "other") is not None


def test_no_ratio_to_a_loss_of_nothing():
    """Prices that never move: the random walk is always right."""
    key = make_key()
    opens = key.sessions.next_opens(key.timeframe, utc_ms("2024-01-01"), 120)
    still = Bars(key, opens, np.tile([5.0, 5.0, 5.0, 5.0, 1.0], (120, 1)))

    evaluation = evaluate([Stencil()], still, PLAN)

    assert evaluation.pinball_ratio("stencil", WALK) is None
    assert evaluation.mae_ratio("close", "stencil", WALK) is None


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
    """One bad step of three is a third; equal values are possible. After repair there is none."""
    evaluation = evaluate([Stencil(offsets)], bars, PLAN)

    assert evaluation.invalid_before_repair("stencil") == pytest.approx(share)
    assert evaluation.invalid_after_repair("stencil") == 0


@pytest.mark.parametrize("names", [("one", "one"), ("random_walk",)])
def test_models_of_one_name_are_refused(bars, names):
    with pytest.raises(InvalidContext, match="models: expected each name once"):
        evaluate([Stencil(name=name) for name in names], bars, PLAN)


def test_other_levels_are_refused(bars):
    """A mean over other levels is another loss."""
    with pytest.raises(InvalidContext, match="levels of stencil"):
        evaluate([Stencil(np.array([-0.01, 0.0, 0.01]), (0.1, 0.5, 0.9))], bars, PLAN)
