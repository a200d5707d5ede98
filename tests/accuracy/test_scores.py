"""Scores: what is counted, the reference, and the sums of parts."""

from __future__ import annotations

from math import log, sqrt

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import scoringrules
from hypothesis import given, settings
from hypothesis import strategies as st
from utilsforecast import losses as theirs

from forecaster.accuracy.losses import COLUMN_INDEX, COLUMNS, SCORED_FIELDS, compute_losses
from forecaster.accuracy.scores import RAW, SERVED, Scores, Totals
from forecaster.bars import FIELDS
from forecaster.forecast import CHRONOS_LEVELS, repair
from forecaster.ledger import LIVE, Run
from forecaster.store.memory import MemoryStore
from tests.builders import HOUR_MS, make_bars, make_key
from tests.forecast_builders import CUTOFF, make_forecast, make_past, make_provenance, make_steps

MODEL = "nano@1"
WALK = "random_walk@1"
ETHER = make_key(symbol="ETH/USDT")
CALM = make_past([100.0, 100.0])
CHRONOS = np.array(CHRONOS_LEVELS)


def scored(steps, bars=CALM):
    """Scores of steps whose last close is 100."""
    return Scores([compute_losses(steps, bars)])


def only(scores, model_id=MODEL, field="close", **of):
    """The one report of a model and field."""
    (report,) = [one for one in scores.reports(**of) if (one.model_id, one.field) == (model_id, field)]
    return report


def random_steps(seed=0, cutoffs=20, horizon=2, levels=(0.1, 0.5, 0.9), key=None):
    """The model and the walk at every bar of a series, and its bars; some are late, and one engine gave way."""
    random = np.random.default_rng(seed)
    cutoff, step, model = (one.ravel() for one in np.meshgrid(np.arange(cutoffs), np.arange(horizon), [0, 1]))
    centre_NF = 100 + random.normal(0, 5, (len(cutoff), 4))
    raw_NFQ = centre_NF[:, :, None] + scipy.stats.norm.ppf(levels) * random.uniform(1, 5, (len(cutoff), 4, 1))
    steps = make_steps(
        repair(raw_NFQ[:, :, None, :])[:, :, 0],
        (100 + random.normal(0, 5, (cutoffs, horizon, 4)))[cutoff, step],
        models=np.array([MODEL, WALK])[model],
        engines=np.array(["compiled", "eager"])[(cutoff > cutoffs // 2).astype(int)],
        cutoff=CUTOFF + cutoff * HOUR_MS,
        step=1 + step,
        late=cutoff % 5 == 0,
        raw=raw_NFQ,
        levels=levels,
        key=key,
    )
    closes = 100 + random.normal(0, 1, 260 + cutoffs).cumsum() / 10
    return steps, make_past(closes, key, CUTOFF + (cutoffs - 1) * HOUR_MS)


def test_a_report_by_hand():
    """Two next closes: 105 where 101 was said, inside of 90 to 110, then 115 where 100 was said, outside of it.

    The closes before moved by 2 and 3, from 98 on and over a gap, and by 1 before the second cutoff.
    """
    past = make_past([98, 100, np.nan, 97, 100, 101], cutoff=CUTOFF + HOUR_MS)
    steps = make_steps([[90, 101, 110], [90, 100, 110]], [105.0, 115.0], cutoff=[CUTOFF, CUTOFF + HOUR_MS])
    report = only(scored(steps, past))

    assert (report.key, report.model_id, report.step, report.field, report.n) == (make_key(), MODEL, 1, "close", 2)
    assert report.mae == (4 + 15) / 2
    assert report.rmse == sqrt((16 + 225) / 2)
    assert report.bias == -(4 + 15) / 2
    assert report.log_rmse == pytest.approx(sqrt((log(101 / 105) ** 2 + log(100 / 115) ** 2) / 2))
    assert report.log_bias == pytest.approx((log(101 / 105) + log(100 / 115)) / 2)
    assert report.mase == pytest.approx((4 / 2.5 + 15 / 2) / 2)
    # levels 0.1, 0.5, 0.9: 0.1·15, 0.5·4, 0.1·5, then 0.1·25, 0.5·15, 0.9·5; each stands for 0.3, 0.4, 0.3 of them all
    assert report.pinball == pytest.approx((4 + 14.5) / 3 / 2)
    assert report.crps == pytest.approx((0.3 * 1.5 + 0.4 * 2 + 0.3 * 0.5) + (0.3 * 2.5 + 0.4 * 7.5 + 0.3 * 4.5))
    assert report.wql == pytest.approx(2 * (4 + 14.5) / 3 / (105 + 115))
    assert report.interval_score80 == pytest.approx((20 + 20 + 10 * 5) / 2)
    assert report.width80 == 20.0
    # the 50 % interval lies between 0.25 and 0.75: 94.125 to 106.625, then 93.75 to 106.25
    assert (report.coverage50, report.coverage80, report.coverage90, report.coverage98) == (0.5, 0.5, None, None)
    # 105 lies at 0.5 + 4 / 9 · 0.4, and 115 beyond 0.9
    assert report.pit == (0, 0, 0, 0, 0, 0, 0.5, 0, 0, 0.5)
    # up, and up it went; then down from 101, and up it went
    assert (report.direction, report.direction_majority) == (0.5, 1.0)
    assert report.qlike is None
    assert (report.n_common, report.skill_mae, report.skill_pinball, report.skill_crps) == (0, None, None, None)


def test_a_report_of_the_range_by_hand():
    """High 110 and low 100 were said, 112 and 99 came: a range of 10 for one of 13, and no more to say of it."""
    bars_F = [[105], [110], [100], [104]]
    steps = make_steps([np.tile(bars_F, 3)], [[101.0, 112.0, 99.0, 111.0]])
    report = only(scored(steps), field="range")

    ratio = (log(112 / 99) / log(110 / 100)) ** 2
    assert (report.n, report.mae, report.rmse, report.bias) == (1, 3.0, 3.0, -3.0)
    assert report.log_rmse == pytest.approx(log(13 / 10))
    assert report.log_bias == pytest.approx(-log(13 / 10))
    assert report.qlike == pytest.approx(ratio - log(ratio) - 1)
    assert report.pit == ()
    assert {report.pinball, report.wql, report.crps, report.width80, report.coverage80, report.direction} == {None}


@pytest.mark.parametrize("field", FIELDS)
def test_a_report_agrees_with_other_libraries(field):
    """Over random rows on Chronos-2's levels."""
    steps, bars = random_steps(cutoffs=200, horizon=1, levels=CHRONOS_LEVELS)
    report = only(scored(steps, bars), field=field)
    chosen = (steps.model_N == steps.models.index(MODEL)) & ~steps.late_N
    f = FIELDS.index(field)
    values_NQ, actual_N = steps.values_NFQ[chosen, f], steps.actual_NF[chosen, f]
    frame = pd.DataFrame({"unique_id": 0, "y": actual_N, "median": values_NQ[:, 10]})
    for name, lower in {"50": 5, "80": 2, "90": 1, "98": 0}.items():
        frame[f"lo{name}"], frame[f"hi{name}"] = values_NQ[:, lower], values_NQ[:, 20 - lower]

    assert report.n == chosen.sum() == 160
    for name in ("mae", "rmse", "bias"):
        assert getattr(report, name) == pytest.approx(getattr(theirs, name)(frame, models=["median"])["median"][0])
    names = [f"q{i}" for i in range(21)]
    quantiles = pd.concat([frame, pd.DataFrame(values_NQ, columns=names)], axis=1)
    many = theirs.mqloss(quantiles, models={"m": names}, quantiles=CHRONOS)["m"][0]
    assert report.pinball == pytest.approx(many)
    by_level = scoringrules.quantile_score(actual_N[:, None], values_NQ, CHRONOS)
    assert report.wql == pytest.approx((2 * by_level.sum(axis=0) / actual_N.sum()).mean())
    edges = [0.0, *((CHRONOS[1:] + CHRONOS[:-1]) / 2), 1.0]
    assert report.crps == pytest.approx(2 * (by_level.mean(axis=0) * np.diff(edges)).sum())
    assert report.interval_score80 == pytest.approx(
        scoringrules.interval_score(actual_N, values_NQ[:, 2], values_NQ[:, 18], 0.2).mean()
    )
    for name in ("50", "80", "90", "98"):
        inside = ((frame[f"lo{name}"] <= frame["y"]) & (frame["y"] <= frame[f"hi{name}"])).mean()
        assert getattr(report, f"coverage{name}") == inside


def test_skill_by_hand():
    """The walk is 8 off where the model is 2 off: a quarter of the loss."""
    steps = make_steps([[90, 100, 110], [84, 94, 104]], 102.0, models=[MODEL, WALK])
    report = only(scored(steps))

    # the model's pinball losses 1.2, 1.0, 0.8; the walk's 1.8, 4.0, 0.2; each level stands for 0.3, 0.4, 0.3
    assert report.n_common == 1
    assert report.skill_mae == pytest.approx(0.75)
    assert report.skill_pinball == pytest.approx(1 - 3.0 / 6.0)
    assert report.skill_crps == pytest.approx(1 - (0.36 + 0.4 + 0.24) / (0.54 + 1.6 + 0.06))


def test_skill_is_in_units_of_the_last_close():
    """Ten times the price is not ten times the weight: half the walk's loss once, all of it once, is three quarters."""
    cutoffs = [CUTOFF, CUTOFF, CUTOFF + HOUR_MS, CUTOFF + HOUR_MS]
    steps = make_steps(
        [[90, 99, 110], [90, 98, 110], [900, 980, 1100], [900, 980, 1100]],
        [100.0, 100.0, 1000.0, 1000.0],
        models=[MODEL, WALK] * 2,
        cutoff=cutoffs,
    )
    report = only(scored(steps, make_past([100.0, 1000.0], cutoff=CUTOFF + HOUR_MS)))

    assert report.mae == (1 + 20) / 2
    assert report.skill_mae == pytest.approx(1 - (0.01 + 0.02) / (0.02 + 0.02))


def test_skill_is_of_common_cases_only():
    """A case that the walk did not forecast counts for the error and not for the skill."""
    steps = make_steps(
        [[90, 100, 110], [84, 94, 104], [90, 100, 110]],
        [102.0, 102.0, 150.0],
        models=[MODEL, WALK, MODEL],
        cutoff=[CUTOFF, CUTOFF, CUTOFF + HOUR_MS],
    )
    report = only(scored(steps, make_past([100.0, 100.0], cutoff=CUTOFF + HOUR_MS)))

    assert (report.n, report.n_common) == (2, 1)
    assert report.mae == (2 + 50) / 2
    assert report.skill_mae == pytest.approx(0.75)


def test_a_case_of_the_walk_alone_counts_for_the_walk():
    steps = make_steps(
        [[90, 100, 110], [84, 94, 104], [90, 100, 110]],
        [102.0, 102.0, 150.0],
        models=[MODEL, WALK, WALK],
        cutoff=[CUTOFF, CUTOFF, CUTOFF + HOUR_MS],
    )
    scores = scored(steps, make_past([100.0, 100.0], cutoff=CUTOFF + HOUR_MS))

    assert only(scores).skill_mae == pytest.approx(0.75)
    assert only(scores, WALK).n == 2


@pytest.mark.parametrize(
    "other", [{"cutoff": [CUTOFF, CUTOFF + HOUR_MS]}, {"step": [1, 2]}, {"late": [False, True]}], ids=str
)
def test_another_case_of_the_walk_gives_no_skill(other):
    """Cutoff and step must be the same, and neither late."""
    steps = make_steps([[90, 100, 110], [84, 94, 104]], 102.0, models=[MODEL, WALK], **other)
    report = only(scored(steps, make_past([100.0, 100.0], cutoff=CUTOFF + HOUR_MS)))

    assert (report.n_common, report.skill_mae, report.skill_pinball, report.skill_crps) == (0, None, None, None)


@pytest.mark.parametrize("other", [{"key": ETHER}, {"run_id": "replay-1"}], ids=str)
def test_the_walk_of_another_series_or_run_gives_no_skill(other):
    """They are measured apart."""
    key = other.get("key", make_key())
    mine = make_steps([90, 100, 110], 102.0)
    walks = make_steps([84, 94, 104], 102.0, models=WALK, **other)
    scores = Scores([compute_losses(mine, CALM), compute_losses(walks, make_past([100.0, 100.0], key))])

    assert only(scores).skill_mae is None


def test_the_walk_is_right_in_one_field_and_wrong_in_another():
    """Each field is compared with its own."""
    values = np.tile([90.0, 100.0, 110.0], (2, 4, 1))
    values[1, FIELDS.index("high")] = [96, 106, 116]
    values[1, FIELDS.index("low")] = [78, 88, 98]
    scores = scored(make_steps(values, [[102.0, 104.0, 94.0, 102.0]] * 2, models=[MODEL, WALK]))

    assert only(scores, field="high").skill_mae == pytest.approx(1 - 4 / 2)
    assert only(scores, field="low").skill_mae == pytest.approx(1 - 6 / 6)
    assert only(scores, field="open").skill_mae == 0.0
    assert only(scores, field="range").skill_mae == pytest.approx(1 - 10 / 8)


def test_no_skill_without_the_random_walk():
    """None, not zero."""
    report = only(scored(make_steps([90, 100, 110], 102.0)))

    assert (report.skill_mae, report.skill_pinball, report.skill_crps) == (None, None, None)


def test_the_walk_has_no_skill_against_itself():
    """Exactly 0, of every field and step."""
    walks = [one for one in scored(*random_steps()).reports() if one.model_id == WALK]

    assert len(walks) == 10
    assert {one.skill_mae for one in walks} == {0.0}
    assert {one.skill_pinball for one in walks if one.field != "range"} == {0.0}
    assert {one.skill_crps for one in walks if one.field != "range"} == {0.0}


def test_no_skill_against_a_perfect_random_walk():
    report = only(scored(make_steps([[90, 100, 110], [102, 102, 102]], 102.0, models=[MODEL, WALK])))

    assert report.n_common == 1
    assert (report.skill_mae, report.skill_pinball, report.skill_crps) == (None, None, None)


def test_late_forecasts_are_counted_apart():
    """They say nothing of what a strategy could have had, in time or with the others."""
    steps = make_steps(
        [[90, 100, 110], [90, 100, 110], [84, 94, 104], [84, 94, 104]],
        [102.0, 150.0, 102.0, 150.0],
        models=[MODEL, MODEL, WALK, WALK],
        step=[1, 2, 1, 2],
        late=[False, True, False, True],
    )
    scores = scored(steps)

    assert [one.step for one in scores.reports() if one.model_id == MODEL] == [1] * 5
    assert only(scores).mae == 2.0
    assert (only(scores, late=True).mae, only(scores, late=True).step) == (50.0, 2)
    assert only(scores, late=True).skill_mae == pytest.approx(1 - 50 / 56)
    assert scores.total("nano", "close", step=None).n == 1


def test_engines_are_counted_apart():
    """And together in reports, which are of a model."""
    steps = make_steps([90, 100, 110], [102.0, 104.0], step=[1, 1], engines=["compiled", "eager"])
    scores = scored(steps)

    by_engine = {one.engine: scores.sum_of([one]) for one in scores.groups if one.variant == SERVED}
    assert {engine: totals.mae for engine, totals in by_engine.items()} == {"compiled": 2.0, "eager": 4.0}
    assert (only(scores).n, only(scores).mae) == (2, 3.0)


def test_served_and_raw_are_reported_side_by_side():
    """The model was 10 off and served 2 off."""
    steps = make_steps([92, 102, 112], 104.0, raw=[84, 94, 104])
    scores = scored(steps)

    assert (only(scores).mae, only(scores, variant=RAW).mae) == (2.0, 10.0)
    assert {one.variant for one in scores.groups} == {SERVED, RAW}


def test_without_calibration_raw_is_served():
    """Repaired, but not moved: both forms say the same, of every step and field."""
    steps, bars = random_steps()
    scores = scored(steps, bars)

    assert not np.array_equal(steps.raw_NFQ, steps.values_NFQ)
    assert scores.reports(RAW) == scores.reports(SERVED) != []


def parts_of(steps, bars, chunk_N):
    """The scores of each chunk, measured alone."""
    return [Scores([compute_losses(steps[chunk_N == chunk], bars)]) for chunk in np.unique(chunk_N)]


def merged(parts):
    whole = Scores()
    for one in parts:
        whole.merge(one)
    return whole


def test_seven_uneven_parts_add_up_to_the_whole():
    """Of 20,800 rows, cutoffs split at random, in any order: counts bit for bit, sums within 1e-12."""
    steps, bars = random_steps(cutoffs=200, horizon=13, levels=CHRONOS_LEVELS)
    random = np.random.default_rng(7)
    cutoff_U, place_N = np.unique(steps.cutoff_N, return_inverse=True)
    chunk_N = random.choice(7, len(cutoff_U), p=[0.4, 0.3, 0.15, 0.1, 0.03, 0.015, 0.005])[place_N]
    whole, parts = scored(steps, bars), parts_of(steps, bars, chunk_N)
    grown = merged([parts[i] for i in random.permutation(7)])

    assert len(steps) * len(FIELDS) == 20_800
    assert len(parts) == 7
    assert whole.max_difference(grown) <= 1e-12
    assert grown.max_difference(whole) <= 1e-12
    assert [one.n for one in grown.reports()] == [one.n for one in whole.reports()]
    assert [one.pit for one in grown.reports()] == [one.pit for one in whole.reports()]


@settings(derandomize=True, deadline=None, max_examples=15)
@given(st.lists(st.integers(0, 3), min_size=12, max_size=12), st.permutations(range(4)))
def test_parts_of_any_size_add_up(chunks, order):
    """With empty ones among them, and a horizon that not all of them reach."""
    steps, bars = random_steps(cutoffs=12, horizon=3)
    steps = steps[(steps.step_N < 3) | (steps.cutoff_N < CUTOFF + 4 * HOUR_MS)]
    chunk_N = np.array(chunks)[(steps.cutoff_N - CUTOFF) // HOUR_MS]
    parts = dict(zip(np.unique(chunk_N), parts_of(steps, bars, chunk_N), strict=True))

    assert scored(steps, bars).max_difference(merged([parts.get(i, Scores()) for i in order])) <= 1e-12


def test_merging_leaves_the_parts_as_they_were():
    """A part may be counted into several wholes."""
    steps, bars = random_steps(cutoffs=6)
    part = scored(steps, bars)
    before = part.reports()
    merged([part, part])

    assert part.reports() == before


def disturbed(scores, column, by=1.0):
    """The same scores, but one sum of the first group and case."""
    other = merged([scores])
    other._sums[other.groups[0]][0, 0, COLUMN_INDEX[column]] += by
    return other


@pytest.mark.parametrize("column", ["n", "covered80", "pit3", "ups", "qlike_n", "common_n"])
def test_a_count_that_differs_is_no_rounding(column):
    """One more or less is another world."""
    scores = scored(*random_steps())

    assert scores.max_difference(disturbed(scores, column)) == float("inf")


def test_difference_is_relative_to_the_sum():
    scores = scored(*random_steps())
    total = scores._sums[scores.groups[0]][0, 0, COLUMN_INDEX["pinball"]]

    assert scores.max_difference(scores) == 0.0
    assert scores.max_difference(disturbed(scores, "pinball", 1e-6 * total)) == pytest.approx(1e-6)


def test_signed_sums_are_compared_with_absolute_ones():
    """Errors that come to nothing differ by next to nothing, and not by all of it."""
    steps = make_steps([90, 100, 110], [101.0, 99.0], step=[1, 1])
    scores = scored(steps)

    assert only(scores).bias == 0.0
    assert scores.max_difference(disturbed(scores, "error", 1e-9)) == pytest.approx(1e-9 / 2)


def test_other_groups_are_no_rounding():
    """A missing model, or a step that only one of them has."""
    steps, bars = random_steps()
    whole = scored(steps, bars)

    assert whole.max_difference(scored(steps[steps.model_N == 0], bars)) == float("inf")
    assert whole.max_difference(scored(steps[steps.step_N == 1], bars)) == float("inf")


def test_scores_without_a_wide_interval_are_the_same_when_counted_again():
    """A coverage that levels from 0.1 to 0.9 do not hold is unknown on both sides; a loss that is unknown is not."""
    steps, bars = random_steps()
    one, again = scored(steps, bars), scored(steps, bars)

    assert one.max_difference(again) == 0.0
    assert one.max_difference(disturbed(again, "pinball", np.nan)) == float("inf")


def test_totals_are_sums_over_series_and_steps():
    scores = Scores([compute_losses(*random_steps()), compute_losses(*random_steps(1, key=ETHER))])

    whole = scores.total("nano", "close", step=None)
    parts = [scores.total("nano", "close", step, key) for step in (1, 2) for key in (make_key(), ETHER)]

    assert whole.n == 64
    assert [one.n for one in parts] == [16] * 4
    np.testing.assert_allclose(whole.sums_C, np.sum([one.sums_C for one in parts], axis=0), rtol=1e-12)


def test_a_total_of_all_fields_is_of_four():
    """The range, high less low, is none of them."""
    scores = scored(*random_steps())

    whole = scores.total("nano", step=2)
    parts = [scores.total("nano", field, step=2) for field in FIELDS]

    assert whole.n == 4 * 16
    np.testing.assert_allclose(whole.sums_C, np.sum([one.sums_C for one in parts], axis=0), rtol=1e-12)


def test_a_total_is_of_the_next_bar_by_default():
    scores = scored(*random_steps())

    np.testing.assert_array_equal(scores.total("nano", "close").sums_C, scores.total("nano", "close", 1).sums_C)
    assert scores.total("nano", "close", 3).n == 0


def test_a_total_is_over_revisions_of_a_model():
    """After an upgrade the service is still one service."""
    steps = make_steps([90, 100, 110], [101.0, 103.0], models=["nano@1", "nano@2"])

    assert (scored(steps).total("nano", "close").n, scored(steps).total("nano", "close").mae) == (2, 2.0)


def test_a_model_name_with_an_at_sign():
    """A folder may hold one."""
    scores = scored(make_steps([90, 100, 110], [101.0, 103.0], models=["/me@home@1", "/me@home@2"]))

    assert scores.total("/me@home", "close").n == 2
    assert scores.total("/me", "close").n == 0


def test_reports_are_in_order():
    """By series, model, step and field, whatever came first."""
    scores = Scores([compute_losses(*random_steps(1, key=ETHER)), compute_losses(*random_steps())])

    assert [(one.key, one.model_id, one.step, one.field) for one in scores.reports()] == [
        (key, model_id, step, field)
        for key in (make_key(), ETHER)
        for model_id in (MODEL, WALK)
        for step in (1, 2)
        for field in SCORED_FIELDS
    ]


def test_no_losses_are_no_reports():
    """And of nothing nothing is said."""
    totals = Scores().total("nano", "close")

    assert Scores().reports() == []
    assert (totals.n, totals.mae, totals.pit, totals.wql, totals.coverage(80)) == (0, None, (), None, None)
    assert (totals.skill("pinball"), totals.direction_majority, totals.root_mean("squared_error")) == (None, None, None)
    assert Totals(np.ones(len(COLUMNS)))["crps"] == 1.0


def test_pending_rows_do_not_count():
    """Of three steps two have met their bar; each report is over one row."""
    store = MemoryStore()
    store.add_run(Run(LIVE, LIVE, CUTOFF))
    store.add_forecasts([make_forecast(horizon=3, provenance=make_provenance(revision="1"))], LIVE)
    store.add_bars(make_bars(count=2, start=CUTOFF))

    reports = Scores(compute_losses(one, CALM) for one in store.settled(make_key(), 2**60)).reports()

    assert [(one.step, one.n) for one in reports] == [(1, 1)] * 5 + [(2, 1)] * 5


LAWS = {
    "normal": (lambda rng, s: 10_000 + 10 * s * rng.normal(size=s.shape), lambda q, s: 10_000 + 10 * s * q, "norm"),
    "t": (lambda rng, s: 10_000 + 10 * s * rng.standard_t(5, s.shape), lambda q, s: 10_000 + 10 * s * q, "t"),
    "log-normal": (
        lambda rng, s: 10_000 * np.exp(0.1 * s * rng.normal(size=s.shape)),
        lambda q, s: 10_000 * np.exp(0.1 * s * q),
        "norm",
    ),
}
CLOSED_FORMS = {
    "normal": lambda y, s: scoringrules.crps_normal(y, 10_000, 10 * s),
    "t": lambda y, s: scoringrules.crps_t(y, 5, 10_000, 10 * s),
    "log-normal": lambda y, s: scoringrules.crps_lognormal(y, np.log(10_000), 0.1 * s),
}


@pytest.fixture(scope="module", params=LAWS)
def truth(request):
    """Eight steps of 1,500 cutoffs of four walks, whose doubt grows with the root of time, and their true quantiles."""
    draw, quantile, law = LAWS[request.param]
    cutoff_N, step_N = (one.ravel() for one in np.meshgrid(np.arange(1500), np.arange(1, 9), indexing="ij"))
    spread_N1 = np.sqrt(step_N)[:, None]
    z_Q = scipy.stats.t(5).ppf(CHRONOS) if law == "t" else scipy.stats.norm.ppf(CHRONOS)
    actual_NF = draw(np.random.default_rng(5), np.tile(spread_N1, 4))
    both = {
        "values": np.repeat(quantile(z_Q, spread_N1), 2, axis=0),
        "actual": np.repeat(actual_NF, 2, axis=0),
        "models": [MODEL, WALK] * len(step_N),
        "cutoff": CUTOFF + np.repeat(cutoff_N, 2) * HOUR_MS,
        "step": np.repeat(step_N, 2),
    }
    closes = 10_000 + np.random.default_rng(6).normal(0, 10, 1800)
    scores = scored(make_steps(**both, levels=CHRONOS_LEVELS), make_past(closes, cutoff=CUTOFF + 1499 * HOUR_MS))
    return scores, CLOSED_FORMS[request.param](actual_NF, spread_N1).mean()


def of_all_fields(scores, step=None):
    return scores.total("nano", step=step)


@pytest.mark.parametrize("percent", [50, 80, 90, 98])
def test_true_quantiles_cover_what_they_say(truth, percent):
    """Within half a point, of 48,000 outcomes."""
    totals = of_all_fields(truth[0])

    assert totals.n == 48_000
    assert totals.coverage(percent) == pytest.approx(percent / 100, abs=0.005)


def test_true_quantiles_have_a_flat_pit(truth):
    assert of_all_fields(truth[0]).pit == pytest.approx([0.1] * 10, abs=0.005)


def test_true_quantiles_have_the_crps_of_the_closed_form(truth):
    """Within one in a hundred."""
    scores, closed_form = truth

    assert of_all_fields(scores).mean("crps", "quantile_n") == pytest.approx(closed_form, rel=0.01)


def test_truth_has_no_skill_over_itself(truth):
    """A random walk whose quantiles are right cannot be beaten by them: exactly 0, at every step."""
    skills = {of_all_fields(truth[0], step).skill(loss) for step in range(1, 9) for loss in ("pinball", "crps")}

    assert skills == {0.0}
