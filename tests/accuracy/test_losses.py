"""Losses of settled steps: every column against an independent library, and no look-ahead."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
import scoringrules

from forecaster.accuracy.losses import (
    COLUMN_INDEX,
    COLUMNS,
    COUNT_COLUMNS,
    MASE_SCALE_BARS,
    SCORED_FIELDS,
    compute_losses,
    compute_losses_batch,
)
from forecaster.bars import FIELDS, Bars
from forecaster.forecast import CHRONOS_LEVELS, repair
from tests.builders import HOUR_MS, make_bars, make_key, utc_ms
from tests.forecast_builders import CUTOFF, make_past, make_steps

WALK = "random_walk@1"
MODEL = "nano@1"
CALM = make_past([100.0, 100.0])
CHRONOS = np.array(CHRONOS_LEVELS)
RISING_N4 = np.array([0.0, 0.2, -0.2, 0.1])


def random_steps(seed: int = 0, cutoffs: int = 40, horizon: int = 3, **about: object):
    """Both models at every bar, and the bars from 300 before the first: about one in twenty is missing."""
    random = np.random.default_rng(seed)
    count = cutoffs * horizon * 2
    values = 100 + 5 * RISING_N4[:, None] + random.normal(0, 2, (count, 4, len(CHRONOS)))
    cutoff, step, _ = np.meshgrid(np.arange(cutoffs), np.arange(1, horizon + 1), [0, 1], indexing="ij")
    actual_NF = (100 + 5 * RISING_N4 + random.normal(0, 3, (cutoffs + horizon, 4)))[(cutoff + step).ravel()]
    steps = make_steps(
        repair(values[:, :, None, :])[:, :, 0],
        actual_NF,
        models=[MODEL, WALK] * (cutoffs * horizon),
        cutoff=CUTOFF + cutoff.ravel() * HOUR_MS,
        step=step.ravel(),
        levels=CHRONOS_LEVELS,
        **about,
    )
    closes = 100 + random.normal(0, 1, 300 + cutoffs).cumsum() / 10
    closes[random.random(len(closes)) < 0.05] = np.nan
    return steps, make_past(closes, cutoff=CUTOFF + (cutoffs - 1) * HOUR_MS)


def column(losses, name: str, field: str = "close", variant: str = "served"):
    """One column of one field."""
    terms_NGC = losses.served_NGC if variant == "served" else losses.raw_NGC
    return terms_NGC[:, SCORED_FIELDS.index(field), COLUMN_INDEX[name]]


def of(steps, field: str = "close"):
    """Quantiles, median and outcomes of one field."""
    f = FIELDS.index(field)
    return steps.values_NFQ[:, f], steps.values_NFQ[:, f, CHRONOS_LEVELS.index(0.5)], steps.actual_NF[:, f]


def mean_change(closes) -> float:
    """Mean absolute change from one close to the next, of those whose ends are known."""
    return np.nanmean([abs(after - before) for before, after in pairwise(closes)])


def close_at(bars: Bars, cutoff: int) -> float:
    """Price of the bar that closed then; NaN when it is missing."""
    found = bars.close[bars.close_time == cutoff]
    return found[0] if len(found) else np.nan


@pytest.mark.parametrize("field", FIELDS)
def test_errors_agree_with_loops(field):
    steps, bars = random_steps()
    _, median_N, actual_N = of(steps, field)
    losses = compute_losses(steps, bars)

    np.testing.assert_allclose(column(losses, "error", field), [m - a for m, a in zip(median_N, actual_N, strict=True)])
    np.testing.assert_array_equal(column(losses, "absolute_error", field), np.abs(median_N - actual_N))
    np.testing.assert_allclose(column(losses, "squared_error", field), (median_N - actual_N) ** 2)
    np.testing.assert_allclose(column(losses, "log_error", field), np.log(median_N / actual_N), atol=1e-14)
    np.testing.assert_allclose(column(losses, "log_squared_error", field), np.log(median_N / actual_N) ** 2, atol=1e-14)
    np.testing.assert_array_equal(column(losses, "absolute_actual", field), actual_N)


@pytest.mark.parametrize("field", FIELDS)
def test_quantile_losses_agree_with_scoringrules(field):
    """The pinball loss as a plain mean of levels; CRPS, whose levels do not weigh alike, as its own sum of them."""
    steps, bars = random_steps()
    values_NQ, _, actual_N = of(steps, field)
    losses = compute_losses(steps, bars)

    by_level_NQ = scoringrules.quantile_score(actual_N[:, None], values_NQ, CHRONOS)
    edges = [0.0, *((CHRONOS[1:] + CHRONOS[:-1]) / 2), 1.0]
    low_N, high_N = values_NQ[:, 2], values_NQ[:, 18]
    np.testing.assert_allclose(column(losses, "pinball", field), by_level_NQ.mean(axis=1), rtol=1e-12)
    np.testing.assert_allclose(
        column(losses, "crps", field), 2 * (by_level_NQ * np.diff(edges)).sum(axis=1), rtol=1e-12
    )
    np.testing.assert_allclose(
        column(losses, "interval_score80", field), scoringrules.interval_score(actual_N, low_N, high_N, 0.2), rtol=1e-9
    )
    np.testing.assert_array_equal(column(losses, "width80", field), high_N - low_N)


@pytest.mark.parametrize(("name", "low"), [("covered50", 5), ("covered80", 2), ("covered90", 1), ("covered98", 0)])
def test_coverages_agree_with_loops(name, low):
    """Each by the two levels that belong to it."""
    steps, bars = random_steps()
    values_NQ, _, actual_N = of(steps, "high")

    inside = [q[low] <= y <= q[20 - low] for q, y in zip(values_NQ, actual_N, strict=True)]

    assert column(compute_losses(steps, bars), name, "high").tolist() == inside
    assert 0 < sum(inside) < len(inside)


def test_bins_of_the_pit_agree_with_numpy():
    """Each outcome stands in one tenth, where the quantiles say that it lies."""
    steps, bars = random_steps()
    values_NQ, _, actual_N = of(steps)
    losses = compute_losses(steps, bars)

    pit_N = [np.interp(y, q, CHRONOS, left=0.005, right=0.995) for q, y in zip(values_NQ, actual_N, strict=True)]
    counts_N10 = np.stack([column(losses, f"pit{i}") for i in range(10)], axis=1)
    assert counts_N10.sum(axis=1).tolist() == [1.0] * len(steps)
    assert counts_N10.argmax(axis=1).tolist() == [int(10 * one) for one in pit_N]


def test_an_outcome_above_all_quantiles_is_in_the_last_tenth():
    steps = make_steps(np.linspace(90, 110, 21), [80.0, 120.0], levels=CHRONOS_LEVELS, step=[1, 2])
    losses = compute_losses(steps, CALM)

    assert column(losses, "pit0").tolist() == [1.0, 0.0]
    assert column(losses, "pit9").tolist() == [0.0, 1.0]


def test_scale_and_last_close_agree_with_loops():
    """At every cutoff those of the 257 slots before it, with their gaps: of an hour whose bar is missing, neither."""
    steps, bars = random_steps()
    losses = compute_losses(steps, bars)

    last, scaled = [], []
    for i, cutoff in enumerate(steps.cutoff_N.tolist()):
        closes = np.array([close_at(bars, cutoff - back * HOUR_MS) for back in range(MASE_SCALE_BARS, -1, -1)])
        last.append(closes[-1])
        scaled.append(column(losses, "absolute_error")[i] / mean_change(closes))
    np.testing.assert_array_equal(losses.last_close_N, last)
    np.testing.assert_allclose(column(losses, "scaled_error"), scaled, rtol=1e-12)
    assert np.isnan(last).any()


@pytest.mark.parametrize(("jump", "scale"), [(0, 1.0), (1, 1 + 99 / 256)], ids=["257th", "256th"])
def test_scale_is_of_256_changes(jump, scale):
    """One of a hundred, among changes of 1, counts as the oldest of them, and no longer as the one before."""
    changes = np.ones(MASE_SCALE_BARS + 1)
    changes[jump] = 100.0
    losses = compute_losses(
        make_steps([90, 100, 110], 101.0), make_past(1000 + np.concatenate([[0.0], changes.cumsum()]))
    )

    assert column(losses, "scaled_error")[0] == pytest.approx(1 / scale, rel=1e-12)


def test_changes_across_a_gap_do_not_count():
    """Changes of 2 and 3; the one from 12 to 15 took two hours, and is none."""
    losses = compute_losses(make_steps([90, 100, 110], 101.0), make_past([10, 12, np.nan, 15, 18]))

    assert column(losses, "scaled_error")[0] == 1 / 2.5
    assert losses.last_close_N.tolist() == [18.0]


@pytest.mark.parametrize("closes", [[100.0, 100.0, 100.0], [100.0], [1.0, np.nan, 2.0]], ids=str)
def test_constant_closes_have_no_scaled_error(closes):
    """It is left out of sum and count."""
    losses = compute_losses(make_steps([90, 100, 110], 101.0), make_past(closes))

    assert column(losses, "scaled_n").tolist() == column(losses, "scaled_error").tolist() == [0.0]


def test_a_missing_last_bar_leaves_no_unit():
    """So no direction and no common case; the error counts."""
    past = make_past([100.0, 101.0, np.nan])
    losses = compute_losses(make_steps([[90, 100, 110], [80, 90, 100]], 101.0, models=[MODEL, WALK]), past)

    assert np.isnan(losses.last_close_N).all()
    for name in ("direction_n", "ups", "common_n", "common_pinball", "walk_pinball"):
        assert column(losses, name).tolist() == [0.0, 0.0]
    assert column(losses, "n").tolist() == [1.0, 1.0]


@pytest.mark.parametrize("timeframe", ["1d", "1h"])
def test_slots_are_those_of_the_calendar(timeframe):
    """Over nights and weekends the last bar stays the last, and 256 changes are 256 sessions or hours of them."""
    key = make_key("arch", "SPX/USD", timeframe, "XNYS")
    bars = make_bars(key, count=400, start=utc_ms("2018-01-02"))
    for i in (300, 301, 320):
        losses = compute_losses(make_steps([90, 100, 110], 101.0, key=key, cutoff=int(bars.close_time[i])), bars)

        assert losses.last_close_N.tolist() == [bars.close[i]]
        expected = 1 / mean_change(bars.close[i - MASE_SCALE_BARS : i + 1])
        assert column(losses, "scaled_error")[0] == pytest.approx(expected, rel=1e-12)


def test_a_calendar_that_begins_within_the_scale():
    """Its third session has two changes behind it, whatever comes after."""
    key = make_key("arch", "SPX/USD", "1d", "XNYS")
    bars = make_bars(key, count=300, start=utc_ms("1990-01-02"))
    cutoffs = [int(bars.close_time[i]) for i in (2, 299)]
    losses = compute_losses(make_steps([90, 100, 110], 101.0, key=key, cutoff=cutoffs), bars)

    assert column(losses, "scaled_error")[0] == pytest.approx(1 / mean_change(bars.close[:3]), rel=1e-12)


@pytest.mark.parametrize("place", [0, 7, 39])
@pytest.mark.parametrize("change", ["gone", "a million times"])
def test_no_bar_past_a_cutoff_is_looked_at(place, change):
    """With every later bar gone, or moved a million times, all losses up to that cutoff are the same, bit for bit."""
    steps, bars = random_steps()
    cutoff = CUTOFF + place * HOUR_MS
    later = bars.close_time > cutoff
    moved = Bars(bars.key, bars.open_time, np.where(later[:, None], 1e6, 1.0) * bars.ohlcv_TF)
    whole = compute_losses(steps, bars)
    other = compute_losses(steps, bars[~later] if change == "gone" else moved)

    known = steps.cutoff_N <= cutoff
    for one, same in ((whole.served_NGC, other.served_NGC), (whole.raw_NGC, other.raw_NGC)):
        assert one[known].tobytes() == same[known].tobytes()
    assert whole.last_close_N[known].tobytes() == other.last_close_N[known].tobytes()
    assert known.all() or not np.array_equal(whole.served_NGC, other.served_NGC)


def test_a_case_does_not_see_the_outcome_of_another():
    """Moving what came of one step leaves the losses of the others as they were, bit for bit."""
    steps, bars = random_steps()
    actual_NF = steps.actual_NF.copy()
    actual_NF[10] *= 1e6
    whole, other = compute_losses(steps, bars), compute_losses(dataclasses.replace(steps, actual_NF=actual_NF), bars)

    unmoved = (np.arange(len(steps)) != 10) & (whole.walk_N != 10)
    assert whole.served_NGC[unmoved].tobytes() == other.served_NGC[unmoved].tobytes()
    assert whole.served_NGC[10].tobytes() != other.served_NGC[10].tobytes()


def test_a_case_does_not_know_its_neighbours():
    """Some of the steps alone cost what they cost among all, but for the order in which products are added."""
    steps, bars = random_steps()
    chosen = steps.step_N == 2
    whole, alone = compute_losses(steps, bars), compute_losses(steps[chosen], bars)

    np.testing.assert_allclose(alone.served_NGC, whole.served_NGC[chosen], rtol=1e-14)


@pytest.mark.parametrize("models", [[MODEL, WALK], [MODEL], [WALK]], ids=str)
def test_some_of_the_cases_are_what_they_were(models):
    """Of every second cutoff, of both models or one alone: as among all, each with its walk or none."""
    steps, bars = random_steps()
    chosen = (steps.cutoff_N // HOUR_MS % 2 == 0) & np.isin([steps.models[m] for m in steps.model_N], models)
    whole, some = compute_losses(steps, bars), compute_losses(steps, bars)[chosen]

    assert some.served_NGC.tobytes() == whole.served_NGC[chosen].tobytes()
    assert some.raw_NGC.tobytes() == whole.raw_NGC[chosen].tobytes()
    assert some.last_close_N.tobytes() == whole.last_close_N[chosen].tobytes()
    assert some.walk_N.tolist() == compute_losses(steps[chosen], bars).walk_N.tolist()


def test_series_measured_at_once_are_measured_alike():
    """Two series, two sets of levels: in the order asked, but for the order in which products are added."""
    three = make_steps([[90, 100, 110], [84, 94, 104]], 102.0, raw=[80, 90, 100], models=[MODEL, WALK])
    pairs = [random_steps(), (three, CALM), random_steps(1, key=make_key(symbol="ETH/USDT"))]
    pairs[2] = (pairs[2][0], Bars(pairs[2][0].key, pairs[2][1].open_time, pairs[2][1].ohlcv_TF))

    for pair, one in zip(pairs, compute_losses_batch(pairs), strict=True):
        alone = compute_losses(*pair)
        assert one.steps is pair[0]
        np.testing.assert_allclose(one.served_NGC, alone.served_NGC, rtol=1e-14)
        np.testing.assert_allclose(one.raw_NGC, alone.raw_NGC, rtol=1e-14)
        np.testing.assert_array_equal(one.last_close_N, alone.last_close_N)
        assert one.walk_N.tolist() == alone.walk_N.tolist()
    assert compute_losses_batch([]) == []


def test_common_cases_are_in_units_of_the_last_close():
    """The model's own loss and that of the walk's step beside it, found by a loop."""
    steps, bars = random_steps()
    losses = compute_losses(steps, bars)

    walks = {(c, h): i for i, (c, h, m) in enumerate(names(steps)) if m == WALK}
    for loss in ("absolute_error", "pinball", "crps"):
        own_N, common_N, walk_N = (column(losses, one) for one in (loss, f"common_{loss}", f"walk_{loss}"))
        for i, (cutoff, step, _) in enumerate(names(steps)):
            unit = close_at(bars, cutoff)
            expected = [0.0, 0.0] if np.isnan(unit) else [own_N[i] / unit, own_N[walks[cutoff, step]] / unit]
            assert [common_N[i], walk_N[i]] == expected
    assert 0 < column(losses, "common_n").sum() < len(steps)


def names(steps):
    """Cutoff, step and model of each."""
    model_ids = [steps.models[m] for m in steps.model_N]
    return list(zip(steps.cutoff_N.tolist(), steps.step_N.tolist(), model_ids, strict=True))


@pytest.mark.parametrize(
    "other", [{"cutoff": [CUTOFF, CUTOFF + HOUR_MS]}, {"step": [1, 2]}, {"late": [False, True]}], ids=str
)
def test_another_case_of_the_walk_is_no_common_case(other):
    """Cutoff and step must be the same, and both in time: what is late does not count, so nothing is compared to it."""
    steps = make_steps([[90, 100, 110], [84, 94, 104]], 102.0, models=[MODEL, WALK], **other)
    losses = compute_losses(steps, make_past([100.0, 101.0]))

    assert losses.walk_N[steps.model_N == steps.models.index(MODEL)].tolist() == [-1]
    assert column(losses, "common_n")[steps.model_N == steps.models.index(MODEL)].tolist() == [0.0]


def test_of_two_revisions_of_the_walk_the_first_is_compared_with():
    """Whichever it is, it is one and the same for all."""
    steps = make_steps([[90, 100, 110], [84, 94, 104], [0, 1, 2]], 102.0, models=[MODEL, WALK, "random_walk@2"])

    assert compute_losses(steps, CALM).walk_N.tolist() == [1, 1, 1]


@pytest.mark.parametrize("other", ["random_walk_of_mine@1", "random_walk@home@1"])
def test_a_model_that_begins_like_the_walk_is_not_the_walk(other):
    steps = make_steps([[90, 100, 110], [84, 94, 104]], 102.0, models=[MODEL, other])

    assert compute_losses(steps, CALM).walk_N.tolist() == [-1, -1]


def test_range_is_high_less_low():
    """Its error, its log error and its QLIKE; it has no quantiles and no direction."""
    steps, bars = random_steps()
    losses = compute_losses(steps, bars)

    (_, high_N, came_high_N), (_, low_N, came_low_N) = of(steps, "high"), of(steps, "low")
    ratio_N = (np.log(came_high_N / came_low_N) / np.log(high_N / low_N)) ** 2
    real_N = (came_high_N > came_low_N) & (high_N > low_N)
    np.testing.assert_allclose(column(losses, "error", "range"), (high_N - low_N) - (came_high_N - came_low_N))
    assert column(losses, "qlike_n", "range").tolist() == (ratio_N > 0).tolist()
    np.testing.assert_allclose(
        column(losses, "qlike", "range")[real_N], (ratio_N - np.log(ratio_N) - 1)[real_N], rtol=1e-7, atol=1e-12
    )
    assert column(losses, "log_n", "range").tolist() == real_N.tolist()
    for name in ("quantile_n", "direction_n", "covered80", "pinball", "pit0", "common_pinball"):
        assert not column(losses, name, "range").any()
    for field in FIELDS:
        assert not column(losses, "qlike_n", field).any()


def test_flat_bars_have_no_range_to_speak_of():
    """Neither log range nor QLIKE; no warning, no infinity."""
    losses = compute_losses(make_steps([90, 100, 110], 102.0), CALM)

    assert column(losses, "n", "range").tolist() == [1.0]
    assert column(losses, "log_n", "range").tolist() == column(losses, "qlike_n", "range").tolist() == [0.0]
    assert np.isfinite(losses.served_NGC[..., [COLUMN_INDEX[name] for name in COLUMNS if name[:7] != "covered"]]).all()


def test_direction_by_hand():
    """Right, wrong, nothing said, nothing moved; of what moved, two rose."""
    medians, actual = [101, 101, 100, 101], [105.0, 95.0, 105.0, 100.0]
    steps = make_steps([[90, one, 110] for one in medians], actual, step=[1, 2, 3, 4])
    losses = compute_losses(steps, CALM)

    assert column(losses, "direction").tolist() == [1.0, 0.0, 0.5, 0.0]
    assert column(losses, "direction_n").tolist() == [1.0, 1.0, 1.0, 0.0]
    assert column(losses, "ups").tolist() == [1.0, 0.0, 1.0, 0.0]


def test_what_was_not_calibrated_is_counted_alike():
    """The model's own prices are sorted first, as they were served: crossing quantiles are no calibration."""
    raw_NFQ = np.random.default_rng(0).normal(100, 5, (6, 4, 21))
    values_NFQ = repair(raw_NFQ[:, :, None, :])[:, :, 0]
    steps = make_steps(
        values_NFQ, 101.0, raw=raw_NFQ, models=[MODEL, WALK] * 3, step=[1, 1, 2, 2, 3, 3], levels=CHRONOS_LEVELS
    )
    losses = compute_losses(steps, make_past([100.0, 101.0]))

    assert losses.raw_NGC.tobytes() == losses.served_NGC.tobytes()


def test_what_was_calibrated_is_counted_apart():
    """The model was 10 off and is served 2 off; the walk, which was not calibrated, is what both are compared with."""
    steps = make_steps(
        [[92, 102, 112], [84, 94, 104]],
        104.0,
        raw=[[84, 94, 104], [84, 94, 104]],
        models=[MODEL, WALK],
    )
    losses = compute_losses(steps, CALM)

    assert column(losses, "absolute_error").tolist() == [2.0, 10.0]
    assert column(losses, "absolute_error", variant="raw").tolist() == [10.0, 10.0]
    assert column(losses, "common_absolute_error", variant="raw").tolist() == [0.1, 0.1]
    assert column(losses, "walk_absolute_error", variant="raw").tolist() == [0.1, 0.1]
    assert column(losses, "common_absolute_error").tolist() == [0.02, 0.1]


def test_a_walk_that_was_calibrated_is_compared_with_as_it_was_served():
    """That is what a strategy would have had instead of the model."""
    steps = make_steps(
        [[92, 102, 112], [93, 103, 113]], 104.0, raw=[[84, 94, 104], [80, 90, 100]], models=[MODEL, WALK]
    )
    losses = compute_losses(steps, CALM)

    assert column(losses, "walk_absolute_error").tolist() == [0.01, 0.01]
    assert column(losses, "walk_absolute_error", variant="raw").tolist() == [0.01, 0.01]
    assert column(losses, "common_absolute_error", variant="raw").tolist() == [0.1, 0.14]


def test_levels_that_do_not_hold_an_interval_do_not_cover():
    """Levels from 0.1 to 0.9 have no 90 % interval: its coverage is NaN."""
    losses = compute_losses(make_steps([90, 100, 110], 102.0), CALM)

    assert np.isnan([column(losses, "covered90"), column(losses, "covered98")]).all()
    assert column(losses, "covered80").tolist() == column(losses, "covered50").tolist() == [1.0]


def test_counts_are_whole_numbers():
    """And what is not among them is no count."""
    steps, bars = random_steps()
    losses = compute_losses(steps, bars)

    counts = losses.served_NGC[..., [COLUMN_INDEX[name] for name in COUNT_COLUMNS]]
    assert set(np.unique(counts)) == {0.0, 1.0}
    assert {name for name in COLUMNS if name.startswith(("pit", "covered")) or name.endswith("_n")} < set(COUNT_COLUMNS)
    assert not {"pinball", "error", "direction", "crps"} & set(COUNT_COLUMNS)
