"""The bench: who takes part answers the same, in turns, and what is told is what was measured."""

from __future__ import annotations

import threading

import pytest

from forecaster.config import ModelConfig
from forecaster.errors import InferenceError
from forecaster.forecast import ENGINE_NOISE
from forecaster.model import bench
from forecaster.model.bench import BenchPlan, _interleave, run
from forecaster.model.bench_report import CaseTimes, Load, recommend
from forecaster.model.bench_start import Start, simulate_bars, start, time_starts
from forecaster.model.chronos2 import faults
from forecaster.model.chronos2.builder import BuildFailed
from forecaster.model.chronos2.checkpoint import load_checkpoint
from forecaster.model.chronos2.compilers import CompileSettings
from tests.model.engines import Toolchain

SMALL = (Load(4, 64), Load(8, 128), Load(64, 32), Load(128, 32))
"""As LOADS, of a size that a test can afford."""


@pytest.fixture(scope="module", autouse=True)
def _small():
    first, _, few, many = SMALL
    with pytest.MonkeyPatch.context() as patch:
        for name, load in (("LOADS", SMALL), ("FIRST", first), ("FEW", few), ("MANY", many)):
            patch.setattr(bench, name, load)
        yield


def make_case(rows=64, bars=64, *, upstream_s=3.0, best_s=None, eager_s=2.0, compiled_s=None):
    """Make what was measured of one load, in which upstream is slowest."""
    return CaseTimes(
        size="nano",
        rows=rows,
        bars=bars,
        rounds=3,
        upstream_s=upstream_s,
        upstream_best_s=best_s,
        upstream_best_rows=best_s and 64,
        eager_s=eager_s,
        compiled_s=compiled_s,
        engine="compiled" if compiled_s else "eager",
        reason="because",
        max_rel_diff=1e-6,
        batch_overhead=1.05,
    )


def run_quickly(folder, fault=None, show=lambda *_: None):
    """A quick run with a compiler in this process."""
    toolchain = Toolchain(load_checkpoint("nano", None, "cpu")[0])
    toolchain.fault = fault
    with pytest.MonkeyPatch.context() as patch:
        toolchain.install(patch)
        patch.setattr(faults, "_warned", threading.Event())  # another test may have had this process's one warning
        return run(BenchPlan(ModelConfig(), CompileSettings("on", folder=folder / "kept"), quick=True), show)


@pytest.fixture(scope="module")
def shown():
    """What a run said while it went on."""
    return []


@pytest.fixture(scope="module")
def report(shown, tmp_path_factory):
    """Every load is built and served."""
    return run_quickly(tmp_path_factory.mktemp("bench"), show=lambda *told: shown.append(told))


@pytest.fixture(scope="module")
def uncompiled(tmp_path_factory):
    """Every build fails."""
    with pytest.warns(RuntimeWarning, match="gave up"):
        return run_quickly(tmp_path_factory.mktemp("bench"), BuildFailed("expected compiled code, and gave up"))


def test_every_load_is_measured(report):
    assert [(one.rows, one.bars) for one in report.cases] == list(SMALL)
    for one in report.cases:
        assert min(one.upstream_s, one.eager_s, one.max_rel_diff) > 0
        assert one.rounds == 3
        assert (one.batch_overhead is None) == (one.rows < 64)
        assert (one.upstream_best_s is None) == (one.upstream_best_rows is None) == (one.rows <= 64)


def test_compiled_code_takes_part(report):
    for one in report.cases:
        assert one.engine == "compiled"
        assert one.compiled_s > 0
    assert report.growth == report.growth_compiled


def test_everyone_answers_the_same(report):
    """Upstream's pipeline and both wrappers were given equal contexts, series by series."""
    assert max(one.max_rel_diff for one in report.cases) <= ENGINE_NOISE


def test_without_compiled_code_the_bench_says_why(uncompiled):
    report = uncompiled
    for one in report.cases:
        assert (one.engine, one.compiled_s) == ("eager", None)
        assert "gave up" in one.reason
    assert (report.growth, report.growth_compiled) == (report.growth_eager, None)
    assert "gave up" in report.recommendation


def test_overhead_is_that_of_the_worst_case(report):
    assert report.batch_overhead == max(one.batch_overhead for one in report.cases if one.rows >= 64)


def test_progress_ends_at_its_total(report, shown):
    """It never falls back, and what is going on is named."""
    told = [one for one in shown if one[0] != "loading the model"]
    done = [one[1] for one in told]

    assert report.starts is None
    assert done == sorted(done)
    assert done[-1] == pytest.approx(told[-1][2])
    assert all(one[0] for one in told)


def test_calls_take_turns():
    calls = []
    seconds = _interleave({name: lambda name=name: calls.append(name) for name in "abc"}, 3)

    assert "".join(calls) == "abcabcabc"
    assert list(seconds) == ["a", "b", "c"]


def test_simulated_bars_are_the_same_at_every_call():
    """A series does not depend on how many there are: fresh processes forecast the bars of this one."""
    for few, many in zip(simulate_bars(2, 64), simulate_bars(3, 64), strict=False):
        assert few.key == many.key
        assert (few.ohlcv_TF == many.ohlcv_TF).all()


@pytest.mark.parametrize(
    ("cases", "expected"),
    [
        ([make_case(compiled_s=1.0)], 'Set compile = "auto"; quickest (rows × bars): compiled at 64 × 64.'),
        ([make_case(compiled_s=2.5)], 'Set compile = "off"; quickest (rows × bars): eager at 64 × 64.'),
        ([make_case()], "No compiled code served (because); quickest (rows × bars): eager at 64 × 64."),
        (
            [make_case(compiled_s=2.5), make_case(9, 8, best_s=0.5, compiled_s=1.0), make_case(4, 5, compiled_s=1.0)],
            (
                'Set compile = "auto"; quickest (rows × bars): '
                "eager at 64 × 64; chronos-forecasting at 9 × 8; compiled at 4 × 5."
            ),
        ),
    ],
    ids=["quicker", "slower", "none", "mixed"],
)
def test_recommendation(cases, expected):
    assert recommend(cases) == expected


@pytest.mark.processes
def test_fresh_processes_are_timed():
    """Model loaded after process started; nothing compiled where no package is."""
    shares = []
    times = time_starts(Start("nano", None, "cpu", "off", "package", 64), None, 1, shares.append)

    assert 0 < times.off_s < times.process_off_s
    assert 0 < times.auto_s < times.process_auto_s
    assert times.first_forecast_ratio == times.auto_s / times.off_s
    assert (times.restart_to_compiled_s, times.restart_mode) == (None, None)
    assert shares == [0.5, 0.5]


@pytest.mark.processes
def test_a_process_that_fails_says_why(tmp_path):
    with pytest.raises(InferenceError, match="ModelLoadError"):
        start(Start(str(tmp_path), None, "cpu", "off", "package", 64))


@pytest.mark.compiler
def test_real_builds_are_found_by_fresh_processes(tmp_path, monkeypatch):
    """Compiled times of what was built, and a restart that finds it."""
    one, many = Load(4, 64), Load(64, 64)
    for name, load in (("LOADS", (one, many)), ("FIRST", one), ("FEW", many), ("MANY", many), ("_PAIRS", 1)):
        monkeypatch.setattr(bench, name, load)
    report = run(BenchPlan(ModelConfig(), CompileSettings("on", folder=tmp_path / "kept")), lambda *_: None)

    assert [one.engine for one in report.cases] == ["compiled"] * 2
    assert max(one.max_rel_diff for one in report.cases) <= ENGINE_NOISE
    assert report.starts.restart_to_compiled_s > 0
    assert report.starts.restart_mode in {"auto", "on"}
