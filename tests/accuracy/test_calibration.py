"""Calibration against a plain loop of its formula, on random walks with known quantiles, and across restarts."""

from __future__ import annotations

import math
from collections import defaultdict
from statistics import NormalDist
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from forecaster.accuracy.calibration import Calibrator, InputBars
from forecaster.errors import InvalidArgument, format_time
from forecaster.forecast import CHRONOS_LEVELS
from tests.benchmarks.calibration import DRAWS, SEEDS, Played, coverage, loss_ratio, normal_quantiles, play, play_seeds

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from numpy.typing import NDArray

LEVELS = (0.01, 0.1, 0.35, 0.5, 0.9, 0.99)
HORIZON = 3
WINDOW = 20


class Case(NamedTuple):
    """The arguments of `calibrate`."""

    cutoff: int
    target_opens_H: NDArray[np.int64]
    raw_FHQ: NDArray[np.float64]
    last_close: float
    seen: InputBars


def make_cases(
    count: int,
    *,
    seed: int = 0,
    horizon: int = HORIZON,
    width: float = 1.0,
    missing: Collection[int] = (),
    absent: Collection[int] = (),
) -> list[Case]:
    """Cut `count` cases from bars at uneven times; raw quantiles are biased, too narrow, and unlike from case to case.

    A `missing` bar is a NaN among those seen, an `absent` one is no slot at all.
    """
    random = np.random.default_rng(seed)
    bars = count + horizon
    opens = 1000 * np.cumsum(random.integers(1, 4, bars))
    close_T = 100 * np.exp(np.cumsum(random.normal(0, 0.01, bars)))
    prices_FT = close_T * np.exp(random.normal([[0.0], [0.01], [-0.01], [0.0]], 0.003, (4, bars)))
    prices_FT[3] = close_T
    shown_FT = prices_FT.copy()
    shown_FT[:, list(missing)] = np.nan
    z_Q = np.array([NormalDist().inv_cdf(level) for level in LEVELS])
    cases = []
    for at in range(count):
        spread_FH1 = width * random.uniform(0.002, 0.01, (4, horizon, 1)) * np.sqrt(np.arange(1, horizon + 1))[:, None]
        raw_FHQ = close_T[at] * np.exp(random.normal(0.002, 0.002, (4, horizon, 1)) + spread_FH1 * z_Q)
        slots = [slot for slot in range(max(0, at - WINDOW), at + 1) if slot not in absent]
        seen = InputBars(opens[slots], shown_FT[:, slots])
        cases.append(Case(int(opens[at]) + 500, opens[at + 1 : at + 1 + horizon], raw_FHQ, float(close_T[at]), seen))
    return cases


def without_pauses(cases: Sequence[Case]) -> list[Case]:
    """The same cases of a market that never closes: the next bar opens at the cutoff."""
    return [case._replace(cutoff=int(case.target_opens_H[0])) for case in cases]


def calibrate_all(cases: Sequence[Case], calibrator: Calibrator | None = None) -> list[np.ndarray]:
    """Calibrate the cases in their order."""
    calibrator = calibrator or Calibrator(cases[0].raw_FHQ.shape[1], LEVELS)
    return [calibrator.calibrate(*case) for case in cases]


def same_bits(one: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> bool:
    return [array.tobytes() for array in one] == [array.tobytes() for array in other]


def loop_over(cases: Sequence[Case]) -> list[np.ndarray]:
    """The formula of the module, in float64, one number at a time."""
    scale: dict[tuple[int, int], float] = defaultdict(lambda: 1.0)
    total: dict[tuple[int, int, int], float] = defaultdict(float)
    waiting: list[tuple[int, int, Case]] = []
    normal = NormalDist()
    median = LEVELS.index(0.5)

    def calibrated(case: Case, field: int, row: int, q: int) -> float:
        logs = [math.log(price / case.last_close) for price in case.raw_FHQ[field, row]]
        unit = sum(abs(x - logs[median]) for x in logs) / len(logs)
        net = total[field, row, q]
        rarity = normal.pdf(0) / normal.pdf(normal.inv_cdf(LEVELS[q]))
        offset = rarity * 0.01 * net / (1 - (net / 25) ** 2)
        return logs[median] + scale[field, row] * (logs[q] - logs[median] + unit * offset)

    def learn(case: Case, field: int, row: int, price: float) -> None:
        step = row + 1
        outcome = math.log(price / case.last_close)
        errors = [level - (outcome < calibrated(case, field, row, q)) for q, level in enumerate(LEVELS)]
        away = np.log(case.raw_FHQ[field, row] / case.raw_FHQ[field, row, median])
        overlap = 1 + 2 * sum((1 - k / step) ** 2 for k in range(1, step))
        pull = sum(error * distance for error, distance in zip(errors, away, strict=True)) / sum(abs(away))
        scale[field, row] = min(max(scale[field, row] * (1 + 0.1 / overlap * pull), 0.25), 4.0)
        for q, error in enumerate(errors):
            total[field, row, q] = min(max(total[field, row, q] + error / step, -23.75), 23.75)

    made = []
    for case in cases:
        bars = {int(time): prices for time, prices in zip(case.seen.open_time, case.seen.ohlc_CT.T, strict=True)}
        due = sorted((one for one in waiting if one[0] < case.cutoff), key=lambda one: one[:2])
        waiting = [one for one in waiting if one[0] >= case.cutoff]
        for target, row, earlier in due:
            for field in range(4):
                if target in bars and not math.isnan(bars[target][field]):
                    learn(earlier, field, row, bars[target][field])
        waiting += [(int(target), row, case) for row, target in enumerate(case.target_opens_H)]
        moved = np.empty(case.raw_FHQ.shape)
        for at in np.ndindex(moved.shape):
            moved[at] = case.last_close * math.exp(calibrated(case, *at))
        made.append(moved)
    return made


@pytest.mark.parametrize(("seed", "market"), [(0, list), (1, list), (2, list), (3, without_pauses)])
def test_calibration_agrees_with_a_loop(seed, market):
    """Outcomes that are late, missing or absent, and cutoffs that were skipped, as well as ordinary ones."""
    random = np.random.default_rng(seed)
    cases = market(make_cases(150, seed=seed, missing={30, 31, 77}, absent={50, 90, 91}))
    kept = [case for case in cases if random.random() < 0.8]

    made, expected = calibrate_all(kept), loop_over(kept)

    np.testing.assert_allclose(made, expected, rtol=1e-6)
    assert np.abs(np.log(made[-1] / kept[-1].raw_FHQ)).max() > 0.003


@pytest.mark.parametrize("width", [0.02, 0.1, 20.0])
def test_calibration_agrees_with_a_loop_at_the_bounds(width):
    """Raw spreads so wrong that sums of errors come to their bound, and scales to 4; float32 tells less there."""
    cases = make_cases(300, horizon=1, width=width)

    np.testing.assert_allclose(calibrate_all(cases), loop_over(cases), rtol=1e-5)


def test_a_spread_is_scaled_to_no_less_than_a_quarter():
    """However quiet the market has become."""
    random = np.random.default_rng(0)
    calibrator = Calibrator(1, CHRONOS_LEVELS)
    raw_FHQ = 100 * np.exp(np.broadcast_to(0.01 * normal_quantiles(1), (4, 1, 21)))

    least = []
    for at in range(500):
        seen = InputBars(np.array([at]), 100 * np.exp(0.001 * random.normal(size=(4, 1))))
        calibrator.calibrate(at + 1, np.array([at + 1]), raw_FHQ, 100.0, seen)
        least.append(calibrator._scale_FH.min())

    assert min(least) == 0.25


def test_before_any_outcome_a_forecast_stays_as_it_is():
    case = make_cases(1)[0]

    made = Calibrator(HORIZON, LEVELS).calibrate(*case)

    assert same_bits([made], [case.raw_FHQ])


def test_the_newest_cutoff_is_known():
    cases = make_cases(2)
    calibrator = Calibrator(HORIZON, LEVELS)

    assert calibrator.cutoff is None

    calibrate_all(cases, calibrator)

    assert calibrator.cutoff == cases[1].cutoff


@pytest.mark.parametrize("again", [0, 20, 38])
def test_an_older_cutoff_changes_nothing(again):
    """What was learned since would be a look ahead: the forecast comes back as it was."""
    cases = make_cases(60)
    calibrator = Calibrator(HORIZON, LEVELS)
    calibrate_all(cases[:40], calibrator)

    answered = calibrator.calibrate(*cases[again])

    assert answered is cases[again].raw_FHQ
    assert calibrator.cutoff == cases[39].cutoff
    assert same_bits(calibrate_all(cases[40:], calibrator), calibrate_all(cases)[40:])


@pytest.mark.parametrize("market", [list, without_pauses])
def test_the_newest_cutoff_again_gives_the_same_and_changes_nothing(market):
    """A cycle that is repeated is no second lesson; a target bar that opens at the cutoff goes on waiting."""
    cases = market(make_cases(60))
    calibrator = Calibrator(HORIZON, LEVELS)
    first = calibrate_all(cases[:40], calibrator)

    assert same_bits([calibrator.calibrate(*cases[39])], first[39:])
    assert same_bits(calibrate_all(cases[40:], calibrator), calibrate_all(cases)[40:])


def test_bars_after_the_cutoff_teach_nothing():
    """Even where they are shown by mistake, with prices that are none."""
    cases = make_cases(WINDOW)
    ahead = []
    for case in cases:
        open_time, prices_FT = cases[-1].seen
        ahead.append(
            case._replace(seen=InputBars(open_time, np.where(open_time < case.cutoff, prices_FT, 7 * prices_FT)))
        )

    assert same_bits(calibrate_all(ahead), calibrate_all(cases))


@pytest.mark.parametrize("lack", ["missing", "absent"])
def test_an_outcome_that_came_too_late_teaches_nothing(lack):
    """Bar 10 is not there at its own cutoff; that it is there at the next does not bring its outcome back."""
    lacking = make_cases(30, **{lack: {10}})
    late = [*lacking[:11], *make_cases(30)[11:]]

    assert same_bits(calibrate_all(late), calibrate_all(lacking))
    assert not same_bits(calibrate_all(late), calibrate_all(make_cases(30)))


def test_a_field_learns_from_nothing_but_itself():
    """Other quantiles and outcomes of the close leave open, high and low as they are, to the last bit."""
    cases = make_cases(60)
    changed = []
    for case in cases:
        raw_FHQ, prices_FT = case.raw_FHQ.copy(), case.seen.ohlc_CT.copy()
        raw_FHQ[3] *= 1.02
        prices_FT[3] *= 0.98
        changed.append(case._replace(raw_FHQ=raw_FHQ, seen=InputBars(case.seen.open_time, prices_FT)))

    plain, other = calibrate_all(cases), calibrate_all(changed)

    assert same_bits([made[:3] for made in plain], [made[:3] for made in other])
    assert not np.allclose(plain[-1][3] * 1.02, other[-1][3])


def test_inputs_are_left_alone():
    cases, untouched = make_cases(30), make_cases(30)

    calibrate_all(cases)

    assert same_bits([case.raw_FHQ for case in cases], [case.raw_FHQ for case in untouched])
    assert same_bits([case.seen.ohlc_CT for case in cases], [case.seen.ohlc_CT for case in untouched])


@pytest.mark.parametrize("seed", range(4))
def test_a_restart_changes_no_bit(seed):
    """Stored, read and given its last forecasts again at several moments, it goes on as if it had never stopped."""
    random = np.random.default_rng(seed)
    cases = [case for case in make_cases(120, seed=seed, missing={40, 41}, absent={60}) if random.random() < 0.85]
    stops = set(random.integers(1, len(cases), 12).tolist())
    calibrator, made = Calibrator(HORIZON, LEVELS), []

    for at, case in enumerate(cases):
        if at in stops:
            calibrator = Calibrator.from_bytes(calibrator.to_bytes())
            for earlier in cases[max(0, at - HORIZON) : at]:
                calibrator.restore(*earlier[:4])
        made.append(calibrator.calibrate(*case))

    assert same_bits(made, calibrate_all(cases))


def test_a_forecast_that_is_restored_too_often_or_for_nothing_teaches_once():
    """All forecasts since the beginning, each twice: those whose bars have closed are past."""
    cases = make_cases(60)
    calibrator = Calibrator(HORIZON, LEVELS)
    calibrate_all(cases[:30], calibrator)

    again = Calibrator.from_bytes(calibrator.to_bytes())
    for case in cases[:30] * 2:
        again.restore(*case[:4])

    assert same_bits(calibrate_all(cases[30:], again), calibrate_all(cases[30:], calibrator))


def test_forecasts_may_be_restored_in_any_order():
    """Outcomes are learned from in the order of their bars, several at once after cutoffs that were skipped.

    The newest forecast took the next slot for a holiday, so that the older ones wait for a bar before all of its own.
    """
    cases = make_cases(60)
    cases[29] = cases[29]._replace(target_opens_H=cases[30].target_opens_H)
    calibrator = Calibrator(HORIZON, LEVELS)
    calibrate_all(cases[:30], calibrator)

    again = Calibrator.from_bytes(calibrator.to_bytes())
    for case in reversed(cases[:30]):
        again.restore(*case[:4])

    assert same_bits(calibrate_all(cases[33:], again), calibrate_all(cases[33:], calibrator))


def test_without_its_forecasts_a_restart_loses_their_outcomes():
    """That is what `restore` is for."""
    cases = make_cases(60)
    calibrator = Calibrator(HORIZON, LEVELS)
    calibrate_all(cases[:30], calibrator)
    forgetful = Calibrator.from_bytes(calibrator.to_bytes())

    assert not same_bits(calibrate_all(cases[30:], forgetful), calibrate_all(cases[30:], calibrator))


def test_a_forecast_of_the_future_is_not_restored():
    cases = make_cases(3)
    calibrator = Calibrator(HORIZON, LEVELS)

    with pytest.raises(InvalidArgument, match=f"cutoff: expected one up to none, found {format_time(cases[0].cutoff)}"):
        calibrator.restore(*cases[0][:4])

    calibrate_all(cases[:2], calibrator)

    with pytest.raises(
        InvalidArgument,
        match=f"expected one up to {format_time(cases[1].cutoff)}, found {format_time(cases[2].cutoff)}",
    ):
        calibrator.restore(*cases[2][:4])


def test_a_fresh_one_is_stored_as_well():
    again = Calibrator.from_bytes(Calibrator(HORIZON, LEVELS).to_bytes())

    assert (again.cutoff, again.horizon, again.levels) == (None, HORIZON, LEVELS)


def test_what_is_stored_is_read_back_and_small():
    """24 steps of 21 levels: it is written for each of a thousand series at each cycle."""
    calibrator = Calibrator(24, CHRONOS_LEVELS)
    raw_FHQ = 100 * np.exp(np.broadcast_to(0.01 * normal_quantiles(24), (4, 24, 21)))
    for at in range(50):
        seen = InputBars(np.arange(at + 1), np.full((4, at + 1), 101.0 + at))
        calibrator.calibrate(at + 1, np.arange(at + 1, at + 25), raw_FHQ, 100.0, seen)

    stored = calibrator.to_bytes()
    again = Calibrator.from_bytes(stored)

    assert len(stored) <= 10_000
    assert again.to_bytes() == stored
    assert (again.cutoff, again.horizon, again.levels) == (50, 24, CHRONOS_LEVELS)


def stored_state() -> bytes:
    calibrator = Calibrator(HORIZON, LEVELS)
    calibrate_all(make_cases(20), calibrator)
    return calibrator.to_bytes()


STORED = stored_state()


@given(st.integers(0, len(STORED) - 1), st.integers(1, 255))
def test_damaged_bytes_are_refused(at, change):
    """Whichever byte it is, and whatever it has become."""
    damaged = bytearray(STORED)
    damaged[at] ^= change

    with pytest.raises(InvalidArgument, match="state of a calibrator: expected"):
        Calibrator.from_bytes(bytes(damaged))


@pytest.mark.parametrize(
    ("stored", "reason"),
    [
        (b"", "bytes that begin with b'OCAL', found b''"),
        (b"OCAL", "bytes that begin with b'OCAL', found b'OCAL'"),
        (b"PK\x03\x04" + bytes(1000), "bytes that begin with b'OCAL', found b'PK\\x03\\x04'"),
        (STORED[:4] + b"\x02" + STORED[5:], "version 1, found 2"),
        (STORED[:18], "the bytes that were stored, found 18 damaged ones"),
        (STORED[:-1], f"the bytes that were stored, found {len(STORED) - 1} damaged ones"),
        (STORED + b"\0", f"the bytes that were stored, found {len(STORED) + 1} damaged ones"),
    ],
)
def test_foreign_bytes_are_refused(stored, reason):
    with pytest.raises(InvalidArgument) as refused:
        Calibrator.from_bytes(stored)

    assert str(refused.value) == f"state of a calibrator: expected {reason}"


@pytest.mark.parametrize("shape", [(4, HORIZON + 1, len(LEVELS)), (3, HORIZON, len(LEVELS)), (4, HORIZON, 21)])
def test_a_forecast_of_another_shape_is_refused(shape):
    case = make_cases(1)[0]._replace(raw_FHQ=np.ones(shape))
    calibrator = Calibrator(HORIZON, LEVELS)

    with pytest.raises(InvalidArgument, match=r"forecast: expected shape \(4, 3, 6\), found"):
        calibrator.calibrate(*case)
    with pytest.raises(InvalidArgument, match=r"forecast: expected shape \(4, 3, 6\), found"):
        calibrator.restore(*case[:4])


def test_targets_of_another_number_are_refused():
    case = make_cases(1)[0]

    with pytest.raises(InvalidArgument, match=r"targets \(2,\)"):
        Calibrator(HORIZON, LEVELS).calibrate(*case._replace(target_opens_H=case.target_opens_H[:2]))


def one_step(raw_FQ: np.ndarray, outcomes_N4: np.ndarray) -> list[np.ndarray]:
    """Calibrate the same forecast, one step from a close of 100, again and again while these outcomes come."""
    calibrator = Calibrator(1, LEVELS)
    made = []
    for at, outcome_F in enumerate(np.concatenate([outcomes_N4[:1], outcomes_N4])):
        seen = InputBars(np.array([at]), outcome_F[:, None])
        made.append(calibrator.calibrate(at + 1, np.array([at + 1]), raw_FQ[:, None], 100.0, seen)[:, 0])
    return made


def test_a_forecast_without_spread_stays_as_it_is():
    """The next open of a market that never closes is its last close: there is no unit to correct it in."""
    raw_FQ = np.full((4, len(LEVELS)), 100.0)
    outcomes_N4 = np.array([[100.0, 101.0, 99.0, 100.0], [100.0, 103.0, 97.0, 102.0]] * 20)

    made = one_step(raw_FQ, outcomes_N4)

    assert same_bits(made, [raw_FQ] * len(made))


def test_without_spread_nothing_is_learned():
    """Outcomes of a forecast that has no unit leave no trace in the next one that has."""
    calibrator = Calibrator(1, LEVELS)
    raw_FHQ = 100 * np.exp(np.broadcast_to(0.01 * stats.norm.ppf(LEVELS), (4, 1, len(LEVELS))))

    for at in range(10):
        seen = InputBars(np.array([at]), np.full((4, 1), 103.0))
        calibrator.calibrate(at + 1, np.array([at + 1]), np.full_like(raw_FHQ, 100.0), 100.0, seen)
    made = calibrator.calibrate(11, np.array([11]), raw_FHQ, 100.0, InputBars(np.array([10]), np.full((4, 1), 103.0)))

    assert same_bits([made], [raw_FHQ])


def test_an_outcome_on_its_quantile_says_nothing_of_it():
    """A price that does not move meets its median at every bar: the median stays, while the others come nearer."""
    raw_FQ = np.broadcast_to(100 * np.exp(0.01 * (np.array(LEVELS) - 0.5)), (4, len(LEVELS)))

    made = np.array(one_step(raw_FQ, np.full((30, 4), 100.0)))

    assert (made[:, :, 3] == 100.0).all()
    assert np.ptp(made[-1][:, [2, 3, 4]], axis=1).max() < np.ptp(raw_FQ[:, [2, 3, 4]], axis=1).min()


@pytest.mark.parametrize("factor", [1e-8, 1 / 3, 1.0, 3.0, 1e8])
def test_no_outcome_makes_a_price_that_is_not_one(factor):
    """Outcomes at one spot or far away, for hundreds of bars, move a price by no more than a factor of e²."""
    raw_FQ = 100 * np.exp(np.linspace(-3.0, 3.0, len(LEVELS)) * np.array([[1e-9], [0.01], [0.3], [1.0]]))

    made = np.array(one_step(raw_FQ, np.full((400, 4), 100.0 * factor)))

    assert np.isfinite(made).all()
    assert np.abs(np.log(made / raw_FQ)).max() <= 2.0 + 1e-6


def test_a_raw_price_below_zero_harms_no_other():
    """A model may answer one; `repair` and the ledger see it as it is."""
    raw_FQ = np.broadcast_to(100 + np.linspace(-20.0, 20.0, len(LEVELS)), (4, len(LEVELS))).copy()
    raw_FQ[1, 0] = -5.0
    random = np.random.default_rng(0)

    made = np.array(one_step(raw_FQ, 100 + random.normal(0, 10, (50, 4))))

    assert np.isfinite(made).all()
    assert (made[:, 1, 0] < 0).all()
    assert (np.delete(made[:, 1], 0, axis=1) > 0).all()


@pytest.mark.parametrize("tide", [0, 60])
def test_the_share_below_a_quantile_is_its_level_whatever_comes(tide):
    """Within 25 / n, for a steady bias of one standard deviation and for one that comes and goes.

    Quantile tracking alone, without the part that saturates, is 149 and 35 outcomes off.
    """
    random = np.random.default_rng(1)
    n = 500
    bias_N = np.sin(np.arange(n) / tide) if tide else np.ones(n)
    outcomes_N4 = 100 * np.exp(0.01 * (bias_N[:, None] + 0.3 * random.normal(size=(n, 4))))
    raw_FQ = np.broadcast_to(100 * np.exp(0.01 * stats.norm.ppf(LEVELS)), (4, len(LEVELS)))

    made = np.array(one_step(raw_FQ, outcomes_N4))

    below_FQ = (outcomes_N4[..., None] < made[:-1]).mean(axis=0)
    assert np.abs(below_FQ - LEVELS).max() <= 25 / n


@pytest.mark.parametrize("factor", [0.6, 1.4])
def test_a_wrong_width_is_mended_within_200_outcomes(factor):
    """From 56 or 93 % to 80 ± 3 % of outcomes inside the 80 % interval, soon after and for long."""
    played = play_seeds("normal", factor * normal_quantiles(1), np.ones(1201))

    raw_N, made_N = (coverage(played.outcome_NFH, values).mean(axis=(1, 2)) for values in played[1:])

    assert abs(raw_N.mean() - 0.8) > 0.1
    assert made_N[200:400].mean() == pytest.approx(0.8, abs=0.03)
    assert made_N[200:].mean() == pytest.approx(0.8, abs=0.015)


@pytest.mark.parametrize("factor", [2.0, 0.5])
def test_a_change_of_volatility_is_followed_within_200_outcomes(factor):
    played = play_seeds("normal", normal_quantiles(1), np.repeat([1.0, factor], [600, 1001]))

    raw_N, made_N = (coverage(played.outcome_NFH, values)[600:].mean(axis=(1, 2)) for values in played[1:])

    assert abs(raw_N.mean() - 0.8) > 0.15
    assert made_N[200:400].mean() == pytest.approx(0.8, abs=0.03)
    assert made_N[200:].mean() == pytest.approx(0.8, abs=0.015)


@pytest.mark.parametrize("rows", [500, 2000])
def test_calibration_of_true_quantiles_costs_little(rows):
    """At every step, from the first row on, although errors of later steps overlap; the worst of 20 walks as well."""
    played = play_seeds("normal", normal_quantiles(8), np.ones(2008))

    ratio_FH = loss_ratio(Played(*(part[:rows] for part in played)))

    assert ratio_FH.mean(axis=0).max() < 1.005
    assert ratio_FH.max() < 1.01


def test_a_bias_is_mended():
    """Half a standard deviation too high: 69 % of outcomes were below the median."""
    played = play_seeds("normal", normal_quantiles(1) + 0.5, np.ones(1201))

    median_N = (played.outcome_NFH < played.calibrated_NFHQ[..., 10]).mean(axis=(1, 2))

    assert median_N[400:].mean() == pytest.approx(0.5, abs=0.02)
    assert loss_ratio(played).mean() < 0.93


@pytest.mark.parametrize("moves", ["Student t(4)", "exponential"])
def test_tails_are_mended(moves):
    """Normal quantiles of moves that have fatter tails, or only one: 80 and 98 % intervals come nearer to both."""
    played = play_seeds(moves, normal_quantiles(1), np.ones(1201))

    for first, level in ((2, 0.8), (0, 0.98)):
        raw, made = (coverage(played.outcome_NFH, values, first)[400:].mean() for values in played[1:])
        assert abs(made - level) < min(0.01, abs(raw - level))
    assert loss_ratio(played).mean() < 0.998


def test_later_steps_are_mended_more_slowly_but_are():
    """A spread too narrow by 40 %, eight steps ahead: their outcomes overlap, so the same rows tell less."""
    played = play_seeds("normal", 0.6 * normal_quantiles(8), np.ones(1208))

    made_H = coverage(played.outcome_NFH, played.calibrated_NFHQ)[600:].mean(axis=(0, 1))

    assert made_H[0] == pytest.approx(0.8, abs=0.01)
    assert made_H.min() > 0.77
    assert loss_ratio(played).max() < 1


def test_walks_in_place_of_fields_have_their_own_truth():
    """The simulation itself: where nothing is wrong, raw quantiles cover what they say at every step."""
    moves_FT = DRAWS["normal"](np.random.default_rng(SEEDS), (4, 6008))

    played = play(moves_FT, normal_quantiles(8))

    assert coverage(played.outcome_NFH, played.raw_NFHQ).mean(axis=(0, 1)) == pytest.approx(np.full(8, 0.8), abs=0.02)
