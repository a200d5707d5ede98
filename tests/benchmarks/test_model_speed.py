"""`model_speed`: all engines give the same quantiles, run in turns, and the report shows the measurements."""

from __future__ import annotations

import json
import threading
from dataclasses import replace

import pytest

from forecaster.config import ModelConfig
from forecaster.errors import InferenceError
from forecaster.forecast import ENGINE_NOISE
from forecaster.model.chronos2 import faults
from forecaster.model.chronos2.builder import BuildFailed
from forecaster.model.chronos2.checkpoint import load_checkpoint
from forecaster.model.chronos2.compilers import CompileSettings
from tests.benchmarks import model_speed
from tests.benchmarks.model_speed import BenchPlan, _interleave, run
from tests.benchmarks.model_speed_report import BenchReport, CaseTimes, Load, format_report, recommend
from tests.benchmarks.process_start import Start, StartTimes, simulate_bars, start, time_starts
from tests.model.engines import Toolchain

SMALL = (Load(4, 64), Load(8, 128), Load(64, 32), Load(128, 32))
"""As LOADS, but small enough for a test."""


@pytest.fixture(scope="module", autouse=True)
def _small():
    first, _, few, many = SMALL
    with pytest.MonkeyPatch.context() as patch:
        for name, load in (("LOADS", SMALL), ("FIRST", first), ("FEW", few), ("MANY", many)):
            patch.setattr(model_speed, name, load)
        yield


def make_case(rows=64, bars=64, *, upstream_s=3.0, best_s=None, eager_s=2.0, compiled_s=None):
    """Make the times of one load, in which upstream is slowest."""
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
    """The progress that a run reported."""
    return []


@pytest.fixture(scope="module")
def report(shown, tmp_path_factory):
    """Every load is built and served."""
    return run_quickly(tmp_path_factory.mktemp("bench"), show=lambda *progress: shown.append(progress))


@pytest.fixture(scope="module")
def uncompiled(tmp_path_factory):
    """Every build fails."""
    with pytest.warns(RuntimeWarning, match="gave up"):
        return run_quickly(tmp_path_factory.mktemp("bench"), BuildFailed("expected compiled code, and gave up"))


def test_every_load_is_measured(report):
    assert [(case.rows, case.bars) for case in report.cases] == list(SMALL)
    for case in report.cases:
        assert min(case.upstream_s, case.eager_s, case.max_rel_diff) > 0
        assert case.rounds == 3
        assert (case.batch_overhead is None) == (case.rows < 64)
        assert (case.upstream_best_s is None) == (case.upstream_best_rows is None) == (case.rows <= 64)


def test_compiled_code_is_measured(report):
    for case in report.cases:
        assert case.engine == "compiled"
        assert case.compiled_s > 0
    assert report.growth == report.growth_compiled


def test_engines_agree(report):
    """Upstream's pipeline and both wrappers were given equal contexts, series by series."""
    assert max(case.max_rel_diff for case in report.cases) <= ENGINE_NOISE


def test_the_reason_is_given_without_compiled_code(uncompiled):
    report = uncompiled
    for case in report.cases:
        assert (case.engine, case.compiled_s) == ("eager", None)
        assert "gave up" in case.reason
    assert (report.growth, report.growth_compiled) == (report.growth_eager, None)
    assert "gave up" in report.recommendation


def test_overhead_is_that_of_the_worst_case(report):
    assert report.batch_overhead == max(case.batch_overhead for case in report.cases if case.rows >= 64)


def test_progress_ends_at_its_total(report, shown):
    """It never decreases, and each step has a name."""
    steps = [step for step in shown if step[0] != "loading the model"]
    done = [step[1] for step in steps]

    assert report.starts is None
    assert done == sorted(done)
    assert done[-1] == pytest.approx(steps[-1][2])
    assert all(step[0] for step in steps)


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
        ([make_case(compiled_s=1.0)], 'Set compile = "auto"; fastest (rows × bars): compiled at 64 × 64.'),
        ([make_case(compiled_s=2.5)], 'Set compile = "off"; fastest (rows × bars): eager at 64 × 64.'),
        ([make_case()], "No compiled code served (because); fastest (rows × bars): eager at 64 × 64."),
        (
            [make_case(compiled_s=2.5), make_case(9, 8, best_s=0.5, compiled_s=1.0), make_case(4, 5, compiled_s=1.0)],
            (
                'Set compile = "auto"; fastest (rows × bars): '
                "eager at 64 × 64; chronos-forecasting at 9 × 8; compiled at 4 × 5."
            ),
        ),
    ],
    ids=["quicker", "slower", "none", "mixed"],
)
def test_recommendation(cases, expected):
    assert recommend(cases) == expected


def test_main_prints_one_line_of_json(monkeypatch, capsys):
    """Without builds and fresh processes, the values that depend on them are null."""
    monkeypatch.setattr("sys.argv", ["model_speed", "--quick", "--json"])
    code = model_speed.main()
    report = json.loads(capsys.readouterr().out)

    assert code == 0
    assert report["hardware"].endswith(" cores")
    assert [(case["rows"], case["bars"]) for case in report["cases"]] == list(SMALL)
    for case in report["cases"]:
        assert (case["size"], case["engine"], case["compiled_s"], case["reason"]) == (
            "nano",
            "eager",
            None,
            "compile is off",
        )
        assert min(case["upstream_s"], case["eager_s"]) > 0
        assert 0 < case["max_rel_diff"] <= 1e-4
    assert report["growth"] == report["growth_eager"] > 0
    assert report["first_forecast_ratio"] is report["starts"] is None
    assert "compile is off" in report["recommendation"]


def test_the_table_shows_ratios_next_to_times():
    """Upstream over ours, also with upstream's fastest batch, and why no compiled code served."""
    cases = (
        replace(
            make_case(1024, upstream_s=0.6, eager_s=0.4, compiled_s=0.1), upstream_best_rows=128, upstream_best_s=0.2
        ),
        make_case(64, upstream_s=0.03, eager_s=0.02),
    )
    starts = StartTimes(5, 0.01, 0.02, 4.0, 4.0, 2.5, "auto")
    report = BenchReport("a CPU", 2, "torch 3", "0" * 64, 16, cases, 0.8, 0.8, None, 1.1, starts, "Do it.")
    text = format_report(report)
    rows = [line.split() for line in text.splitlines() if line.strip().startswith("nano")]

    assert rows[0] == ["nano", "1,024", "64", "1,024", "600", "400", "1.50", "100", "6.00", "1e-06"]
    assert rows[1] == ["nano", "1,024", "64", "128", "200", "400", "0.50", "100", "2.00", "1e-06"]
    assert rows[2] == ["nano", "64", "64", "64", "30", "20", "1.50", "-", "-", "1e-06"]
    for expected in ("eager, not compiled: because", "0.80 times", "1.100 times", "2.00 x", "compile = auto", "2.50 s"):
        assert expected in text
    assert text.endswith("Do it.")


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
def test_a_failed_process_gives_its_reason(tmp_path):
    with pytest.raises(InferenceError, match="ModelLoadError"):
        start(Start(str(tmp_path), None, "cpu", "off", "package", 64))


@pytest.mark.compiler
def test_real_builds_are_found_by_fresh_processes(tmp_path, monkeypatch):
    """Compiled times of what was built, and a restart that finds it."""
    one, many = Load(4, 64), Load(64, 64)
    for name, load in (("LOADS", (one, many)), ("FIRST", one), ("FEW", many), ("MANY", many), ("_PAIRS", 1)):
        monkeypatch.setattr(model_speed, name, load)
    report = run(BenchPlan(ModelConfig(), CompileSettings("on", folder=tmp_path / "kept")), lambda *_: None)

    assert [case.engine for case in report.cases] == ["compiled"] * 2
    assert max(case.max_rel_diff for case in report.cases) <= ENGINE_NOISE
    assert report.starts.restart_to_compiled_s > 0
    assert report.starts.restart_mode in {"auto", "on"}
