"""Look-ahead bias and batches: planted leaks are found by name, honest components pass."""

from __future__ import annotations

import dataclasses
import os
import sqlite3

import numpy as np
import pytest

from forecaster.bars import Bars
from forecaster.context import Context
from forecaster.errors import InferenceError, InvalidArgument, NotEnoughBars
from forecaster.forecast import repair
from forecaster.model import ModelSuite, load_model
from forecaster.model.baselines.random_walk import RandomWalk
from forecaster.replay.batch_invariance import VerificationReport, predict_in_subprocess, thread_pool, verify_batch
from forecaster.replay.lookahead import (
    PERTURBATIONS,
    LookaheadPlan,
    LookaheadSetup,
    Subject,
    draw_positions,
    forbid_files,
    perturb,
    verify_lookahead,
)
from forecaster.replay.strategy import Position, Signal, StrategyContext
from forecaster.sources.memory import MemorySource
from strategies.quantile_breakout import quantile_breakout
from tests.builders import make_bars, make_key
from tests.forecast_builders import make_forecast
from tests.replay import leaks
from tests.test_engine import make_config

BARS = make_bars(count=160)
KEY = BARS.key
PLAN = LookaheadPlan(cutoffs=3, bars_after=20)
COMPANY_POISONS = {"x1e6", "shuffled", "reversed"}


def in_memory(rows):
    return MemorySource([rows])


def honest(source, store):
    return Subject(ModelSuite(leaks.NamedWalk(), [RandomWalk()]))


def prove(build=honest, open_source=in_memory, plan=PLAN, bars=BARS, **model):
    return verify_lookahead(LookaheadSetup(make_config(bars.key, **model), open_source, build), bars, plan)


def blamed(report):
    return {one.component for one in report.failures}


def contexts_of(bars, places):
    return [Context.ending_at(bars, int(bars.close_time[i]), 64, 16) for i in places]


def test_honest_ones_pass():
    """Models, calibration, sources and a strategy: every perturbation at every cutoff."""
    suite = ModelSuite(leaks.NamedWalk(), [RandomWalk()])
    report = prove(lambda source, store: Subject(suite, quantile_breakout, "breakout"))

    assert report.failures == []
    assert (report.checked, report.identical, report.ok) == (15, 15, True)


@pytest.mark.parametrize("calibrate", [True, False])
def test_gaps_in_the_history_are_no_leak(calibrate):
    there = np.random.default_rng(1).random(len(BARS)) < 0.8

    assert prove(bars=BARS[there], calibrate=calibrate).identical == 15


def test_nano_knows_nothing_of_later_bars():
    model = load_model(make_config(KEY, compile="off").model)
    plan = LookaheadPlan(cutoffs=1, bars_after=4)
    report = prove(lambda source, store: Subject(ModelSuite(model, [RandomWalk()])), plan=plan)

    assert (report.identical, report.failures) == (5, [])


@pytest.mark.parametrize(
    ("leak", "perturbations"),
    [
        (lambda source, store: leaks.StoreReader(store), set(PERTURBATIONS)),
        (lambda source, store: leaks.Normalised(source, KEY), {"deleted", "gaps", "x1e6"}),
        (lambda source, store: leaks.BatchNormalised(), COMPANY_POISONS),
        (lambda source, store: leaks.AloneReader(store), set(PERTURBATIONS)),
    ],
    ids=["store", "shared statistic", "batch", "alone"],
)
def test_leaking_model_is_named(leak, perturbations):
    """Beside honest ones, which are not; whichever way it learns of later bars."""
    report = prove(lambda source, store: Subject(ModelSuite(leaks.NamedWalk(), [leak(source, store), RandomWalk()])))

    assert blamed(report) == {"model leak"}
    assert {one.perturbation for one in report.failures} >= perturbations
    assert {one.cutoff for one in report.failures} == {int(BARS.close_time[i]) for i in draw_positions(BARS, 32, PLAN)}
    assert {one.series for one in report.failures} == {str(KEY)}
    assert report.identical == report.checked - len(report.failures)
    assert not report.ok


def test_leaking_first_model_hides_no_other():
    """Its calibration follows from it and is not blamed as well."""

    class Second(leaks.BatchNormalised):
        name = "second leak"

    report = prove(lambda source, store: Subject(ModelSuite(leaks.StoreReader(store), [Second()])))

    assert blamed(report) == {"model leak", "model second leak"}


def test_model_that_fails_without_later_bars_is_named():
    report = prove(lambda source, store: Subject(ModelSuite(leaks.NamedWalk(), [leaks.NextIndex(store)])))
    deleted = [one for one in report.failures if one.perturbation == "deleted"]

    assert [(one.component, one.difference.partition(":")[0]) for one in deleted] == [("model leak", "IndexError")] * 3


def test_fault_of_an_honest_scenario_is_raised():
    """A model that cannot forecast at all has nothing to hide."""

    class Broken(RandomWalk):
        def predict(self, contexts, horizon):
            raise InferenceError("no memory")

    with pytest.raises(InferenceError):
        prove(lambda source, store: Subject(ModelSuite(Broken())))


@pytest.mark.parametrize(
    "source",
    [leaks.CentredAverage, leaks.ForwardAdjusted, leaks.BackFilled, leaks.EagerToGive],
    ids=lambda one: one.__name__,
)
def test_leaking_source_is_named(source):
    """The models that were misled by it are not."""
    open_source = (lambda rows: source([rows])) if source is leaks.EagerToGive else source
    report = prove(open_source=open_source)

    assert blamed(report) == {f"source {source.__name__}"}
    assert len({one.cutoff for one in report.failures}) == 3


def test_source_that_restates_is_named():
    """A replay is given what it says at the end: bars before the cutoff in which later ones are."""
    report = prove(open_source=lambda rows: leaks.Restated([rows]))

    assert blamed(report) == {"source Restated"}


def test_source_that_fills_from_the_past_is_not_blamed():
    assert prove(open_source=lambda rows: leaks.ForwardFilled([rows])).failures == []


def test_source_that_fails_is_named():
    class Fragile(MemorySource):
        def __init__(self, rows):
            super().__init__([rows])
            self._rows = rows

        def fetch(self, key, since, as_of):
            if self._rows.close.max() > 1e9:
                raise ZeroDivisionError
            return super().fetch(key, since, as_of)

    report = prove(open_source=Fragile)

    assert {(one.component, one.perturbation) for one in report.failures} == {("source Fragile", "x1e6")}


def test_leaking_strategy_is_named():
    def build(source, store):
        later = source.fetch(KEY, None, 2**62).bars
        return Subject(ModelSuite(leaks.NamedWalk(), [RandomWalk()]), leaks.Clairvoyant(later), "clairvoyant")

    report = prove(build, plan=LookaheadPlan(cutoffs=10, bars_after=20))

    assert blamed(report) == {"strategy clairvoyant"}
    assert "it will rise" in report.failures[0].difference


def test_strategy_is_judged_beside_a_leaking_model():
    """It gets the same forecast in both scenarios, so it is tested alone."""
    report = prove(lambda source, store: Subject(ModelSuite(leaks.StoreReader(store)), quantile_breakout, "breakout"))

    assert blamed(report) == {"model leak"}


def test_strategy_that_fails_is_named():
    class Careless(leaks.Clairvoyant):
        def __call__(self, forecast, position, context):
            return Signal(0.0, str(self._bars.close[self._bars.open_time >= forecast.cutoff][0] > 0))

    def build(source, store):
        return Subject(ModelSuite(leaks.NamedWalk()), Careless(source.fetch(KEY, None, 2**62).bars), "careless")

    report = prove(build)

    assert {(one.component, one.perturbation) for one in report.failures} == {("strategy careless", "deleted")}


def test_context_that_is_cut_too_late_is_found(monkeypatch):
    monkeypatch.setattr(Context, "ending_at", leaks.late_cut)

    assert blamed(prove()) == {"context"}


def test_calibration_that_learns_too_much_is_found(monkeypatch):
    """From the third forecast of a replay on: the warm-up is there to bring that about."""
    monkeypatch.setattr("forecaster.cycle.record.Calibrations", leaks.LearnedTooMuch)

    assert blamed(prove()) == {"calibration of nano"}
    assert prove(plan=dataclasses.replace(PLAN, warm_up=0)).failures == []


def test_seed_decides_everything():
    def build(source, store):
        return Subject(ModelSuite(leaks.StoreReader(store)))

    first, again, other = (prove(build, plan=dataclasses.replace(PLAN, seed=seed)) for seed in (5, 5, 6))

    assert first == again
    assert {one.cutoff for one in first.failures} != {one.cutoff for one in other.failures}


def test_progress_ends_at_the_whole():
    heard = []
    setup = LookaheadSetup(make_config(KEY), in_memory, honest)
    verify_lookahead(setup, BARS, PLAN, lambda done, total: heard.append((done, total)))

    assert heard == [(5, 15), (10, 15), (15, 15)]


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_perturbation_leaves_the_past_and_changes_the_rest(name):
    cutoff = int(BARS.close_time[99])
    perturbed = perturb(BARS, cutoff, name, np.random.default_rng(0))
    before, after = perturbed.closed_by(cutoff), perturbed[perturbed.close_time > cutoff]
    kept = np.isin(BARS.open_time[100:], after.open_time)

    assert before.ohlcv_TF.tobytes() == BARS.ohlcv_TF[:100].tobytes()
    assert before.open_time.tolist() == BARS.open_time[:100].tolist()
    assert len(after) == {"deleted": 0, "gaps": kept.sum()}.get(name, 60)
    assert name != "gaps" or 15 < len(after) < 45
    if name in COMPANY_POISONS:
        assert (after.ohlcv_TF[0] != BARS.ohlcv_TF[100]).any()
        assert (after.ohlcv_TF != BARS.ohlcv_TF[100:]).any(axis=1).mean() > 0.9


def test_perturbed_row_that_is_no_bar_is_dropped():
    """A million times a price that is near the highest a bar may have."""
    dear = Bars(KEY, BARS.open_time, BARS.ohlcv_TF * 1e5)

    assert len(perturb(dear, int(BARS.close_time[99]), "x1e6", np.random.default_rng(0))) == 100


def test_cutoffs_are_spread_and_have_bars_on_both_sides():
    plan = LookaheadPlan(cutoffs=1000, warm_up=4, bars_after=20)
    places = draw_positions(BARS, 32, plan)
    some = draw_positions(BARS, 32, dataclasses.replace(plan, cutoffs=30))

    assert places.tolist() == list(range(35, 140))
    assert len(set(some.tolist())) == 30
    assert some.tolist() == sorted(some.tolist())
    assert some[0] < 50
    assert some[-1] > 120


def test_too_few_bars():
    assert prove(bars=BARS[:56]).checked == 5
    with pytest.raises(NotEnoughBars, match="at least 56 bars"):
        prove(bars=BARS[:55])


@pytest.mark.parametrize(("name", "reader"), [("bars.csv", leaks.file_reader), ("ledger.db", leaks.ledger_reader)])
def test_strategy_that_opens_a_file_of_bars_is_stopped(tmp_path, monkeypatch, name, reader):
    """By name; other files, and everybody else, may."""
    monkeypatch.chdir(tmp_path)
    sqlite3.connect("ledger.db").close()
    (tmp_path / "bars.csv").write_text("1,2,3\n")
    arguments = make_forecast(), Position(), StrategyContext(40_000.0)
    with pytest.raises(InvalidArgument, match=f"strategy reader: expected .* it opened .*{name}"):
        forbid_files(reader, "reader", [tmp_path / name])(*arguments)

    assert forbid_files(reader, "reader", [tmp_path / "else.csv"])(*arguments) == reader(*arguments)


def test_batch_changes_nothing():
    models = [leaks.NamedWalk(), RandomWalk()]
    report = verify_batch(models, contexts_of(BARS, range(70, 90)), 3)

    assert (report.checked, report.identical, report.failures) == (2 * 20 * 4, 2 * 20 * 4, [])
    assert report.largest_differences == {"nano": 0.0, "random_walk": 0.0}


def test_batch_changes_nothing_of_nano():
    """Bars of several series, some with gaps, and float32."""
    model = load_model(make_config(KEY, compile="off").model)
    other = make_bars(make_key(symbol="ETH/USDT"), count=160, seed=3)
    gappy = other[np.random.default_rng(2).random(160) < 0.9]
    places = [i for i in range(80, 130) if i < len(gappy)]
    report = verify_batch([model], contexts_of(BARS, range(80, 90)) + contexts_of(gappy, places[:10]), 3)

    assert report.failures == []
    assert report.identical == report.checked == 20 * 4
    assert report.largest_differences["nano"] < 1e-5


class BatchDependent(RandomWalk):
    """A random walk that is moved by how many are asked for, by where it stands, or by its neighbours."""

    name = "dependent"

    def __init__(self, by, away=1e-3, engine="numpy"):
        self._by = by
        self._away = away
        self.engine = engine

    def predict(self, contexts, horizon):
        made = super().predict(contexts, horizon)
        if self._by == "number":
            shift = [len(contexts) == 7] * len(contexts)
        elif self._by == "place":
            shift = [bool(i) and contexts[i].cutoff < contexts[i - 1].cutoff for i in range(len(contexts))]
        else:
            shift = [max(one.last_close for one in contexts) > 1e9] * len(contexts)
        return [self._moved(one) if moves else one for one, moves in zip(made, shift, strict=True)]

    def _moved(self, forecast):
        raw_FHQ = forecast.raw_FHQ + self._away * np.ptp(forecast.raw_FHQ, axis=(1, 2))[:, None, None]
        return dataclasses.replace(forecast, raw_FHQ=raw_FHQ, values_FHQ=repair(raw_FHQ))


@pytest.mark.parametrize(
    ("by", "composition"), [("number", "batches of 7"), ("place", "permuted"), ("neighbours", "with distractors")]
)
def test_model_that_depends_on_its_batch_is_named(by, composition):
    report = verify_batch([RandomWalk(), BatchDependent(by)], contexts_of(BARS, range(70, 91)), 3)

    assert {(one.component, one.perturbation) for one in report.failures} == {("model dependent", composition)}
    assert report.largest_differences["dependent"] == pytest.approx(1e-3)


@pytest.mark.parametrize(
    ("engine", "away", "ok"), [("eager", 9e-6, True), ("eager", 1.1e-5, False), ("numpy", 1e-12, False)]
)
def test_noise_that_an_engine_may_have(engine, away, ok):
    """1e-5 of the spread in float32; none in numpy."""
    report = verify_batch([BatchDependent("number", away, engine)], contexts_of(BARS, range(70, 91)), 3)

    assert report.ok is ok


def test_answers_in_another_order_are_found():
    class Shuffled(RandomWalk):
        def predict(self, contexts, horizon):
            return super().predict(contexts, horizon)[::-1]

    report = verify_batch([Shuffled()], contexts_of(BARS, range(70, 80)), 3)

    assert {"one batch", "permuted", "batches of 7", "with distractors"} >= {
        one.perturbation for one in report.failures
    }
    assert report.identical < report.checked / 4


def test_another_way_to_ask_is_named():
    contexts = contexts_of(BARS, range(70, 75))

    def extra(asked):
        return [leaks.BatchNormalised().predict(asked, 3)]

    report = verify_batch([RandomWalk()], contexts, 3, extra={"another machine": extra})

    assert {one.perturbation for one in report.failures} == {"another machine"}
    assert len(report.failures) == 5


def test_batch_by_seed():
    contexts = contexts_of(BARS, range(70, 91))
    first, again = (verify_batch([BatchDependent("place")], contexts, 3, seed=seed) for seed in (1, 1))
    other = verify_batch([BatchDependent("place")], contexts, 3, seed=2)

    assert first == again
    assert first.failures != other.failures


def test_no_contexts():
    with pytest.raises(InvalidArgument, match="contexts: expected at least one"):
        verify_batch([RandomWalk()], [], 3)


@pytest.mark.processes
def test_threads_of_another_process():
    """It computes with as many as it was told, up to one a core, and gives what this process gives."""
    import torch

    contexts = contexts_of(BARS, range(70, 74))
    config = make_config(KEY, compile="off").model
    threads = []
    for number in (1, 2):
        with thread_pool(number) as pool:
            threads.append(pool.submit(torch.get_num_threads).result())
    nano, walk = predict_in_subprocess(config, contexts, threads=1)
    here = [model.predict(contexts, config.horizon) for model in (load_model(config), RandomWalk())]

    assert threads == [1, min(2, os.cpu_count())]
    assert [one.raw_FHQ.tobytes() for one in walk] == [one.raw_FHQ.tobytes() for one in here[1]]
    for one, other in zip(nano, here[0], strict=True):
        np.testing.assert_allclose(one.raw_FHQ, other.raw_FHQ, rtol=1e-5)


def test_report_of_nothing_proves_nothing():
    assert not VerificationReport().ok


def test_reports_are_merged():
    one, other = (
        VerificationReport(3, 3, largest_differences={"nano": 1e-6}),
        VerificationReport(2, 1, largest_differences={"nano": 2e-6, "walk": 0.0}),
    )
    one.leave_out("old", 2)
    other.leave_out("old")
    other.leave_out("none", 0)
    one.merge(other)

    assert (one.checked, one.identical) == (5, 4)
    assert one.left_out == {"old": 3}
    assert one.largest_differences == {"nano": 2e-6, "walk": 0.0}
