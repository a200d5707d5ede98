"""The compiler is a guest: whatever goes wrong with it, every forecast is answered, and is eager's.

One real package is built for the bundled model; each test gets a copy of its folder and injects its fault where
it would happen: in the compiler's environment, in the child process, in the kept files, in the loaded code.
"""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from forecaster.errors import InferenceError
from forecaster.forecast import ENGINE_NOISE
from forecaster.model import artifacts, compilers, faults
from forecaster.model.artifacts import ArtifactKey, Note
from forecaster.model.bucket import State
from forecaster.model.builder import BuildFailed
from forecaster.model.checkpoint import library_versions, load_checkpoint
from forecaster.model.compiled import Engines
from forecaster.model.compilers import CompileSettings, PackageCompiler
from forecaster.model.core import Missing, Shape, grouped_forward
from forecaster.model.faults import CompileFallbackWarning

ROOT = Path(__file__).parents[2]
ROWS, BARS, GROUP = 8, 64, 4
SHAPE = Shape(ROWS, BARS, 1)
RUN_TIME_FAULTS = [
    RuntimeError("Inductor failed"),
    AssertionError("-834735604272579/1000000000000000"),
    UnboundLocalError("cannot access local variable 'tracer_output'"),
    torch._dynamo.exc.TorchDynamoException("unsupported"),
    torch._inductor.exc.InductorError(RuntimeError("injected"), None),
]


@pytest.fixture(scope="module")
def checkpoint():
    return load_checkpoint("nano", None, "cpu")


@pytest.fixture(scope="module")
def built(checkpoint, tmp_path_factory):
    """A folder with a package that was really built, checked and timed."""
    folder = tmp_path_factory.mktemp("built", numbered=False)
    folder.chmod(0o700)
    engines = make_engines(checkpoint, folder)
    engines.warm_up([SHAPE])
    engines.close()

    assert len(list(folder.glob("*.pt2"))) == 1
    return folder


@pytest.fixture
def folder(built, tmp_path):
    """A copy to damage."""
    copy = tmp_path / "compiled"
    shutil.copytree(built, copy)
    copy.chmod(0o700)
    return copy


@pytest.fixture(autouse=True)
def _first_in_this_process(monkeypatch):
    """Each test sees a process that has not warned yet."""
    monkeypatch.setattr(faults, "_warned", threading.Event())


def make_engines(checkpoint, folder, mode="on", **settings):
    model, weights_sha256 = checkpoint
    return Engines(model, weights_sha256, library_versions(), CompileSettings(mode, folder=Path(folder), **settings))


def make_context(rows=ROWS, seed=0):
    return torch.randn(rows, BARS, generator=torch.Generator().manual_seed(seed)).cumsum(dim=1)


def package_of(folder):
    (package,) = folder.glob("*.pt2")
    return package


def eager_answer(checkpoint, context_BT):
    with torch.no_grad():
        return grouped_forward(checkpoint[0], context_BT, 1, GROUP)


def ask(engines, context_BT):
    """Ask as the wrapper does; every answer there is, in one tensor."""
    answers = engines(context_BT, 1, GROUP)
    return torch.cat([one.quantiles_BQH for one in answers]), answers[0]


def is_eagers(checkpoint, found_BQH, context_BT):
    expected_BQH = eager_answer(checkpoint, context_BT)
    spread_B = expected_BQH.amax(dim=(1, 2)) - expected_BQH.amin(dim=(1, 2))
    return bool(((found_BQH - expected_BQH).abs().amax(dim=(1, 2)) <= ENGINE_NOISE * spread_B).all())


def settle(engines, *, state, shape=SHAPE, seconds=60.0):
    """Wait until a bucket has reached `state`; fails when it does not."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        (found,) = (one for one in engines.status().buckets if one.missing == shape.missing.value)
        if found.state == state.value:
            return found
        time.sleep(0.02)
    pytest.fail(f"expected {state} within {seconds} s, found {found}")


def test_kept_code_serves_after_a_restart(checkpoint, folder):
    """The first forecast is eager; once the package is loaded and checked, compiled code answers the same."""
    engines = make_engines(checkpoint, folder)
    context_BT = make_context()
    first_BQH, first = ask(engines, context_BT)
    status = settle(engines, state=State.SERVING)
    second_BQH, second = ask(engines, context_BT)

    assert (first.engine, second.engine) == ("eager", "compiled")
    assert torch.equal(first_BQH, eager_answer(checkpoint, context_BT))
    assert is_eagers(checkpoint, second_BQH, context_BT)
    assert second.reason == status.reason
    assert "checked to" in status.reason
    assert 0 < status.max_rel_diff < ENGINE_NOISE
    assert status.compiled_s > 0
    assert engines.status().fallbacks == 0


def test_rows_are_padded_up_to_what_was_compiled(checkpoint, folder):
    """Seven groups run in the code for eight; a padded answer is that of its own rows."""
    engines = make_engines(checkpoint, folder)
    engines.warm_up([SHAPE])
    bucket = engines._buckets[SHAPE]
    context_BT = make_context(ROWS - GROUP)
    bucket.eager_s, bucket.compiled_s = 1.0, 0.1
    engines._buckets[SHAPE._replace(rows=ROWS - GROUP)] = bucket
    found_BQH, answer = ask(engines, context_BT)

    assert answer.engine == "compiled"
    assert is_eagers(checkpoint, found_BQH, context_BT)


def test_padding_that_costs_more_than_it_gains_is_not_done(checkpoint, folder):
    engines = make_engines(checkpoint, folder)
    engines.warm_up([SHAPE])
    bucket = engines._buckets[SHAPE]
    bucket.eager_s, bucket.compiled_s = 1.0, 0.9

    assert bucket.compiled_for(ROWS) is not None
    assert bucket.compiled_for(ROWS - GROUP) is None


def test_auto_serves_what_is_quicker(checkpoint, folder):
    """Under `auto` code that is right but slower stays out, and says so; `on` serves it."""
    for mode, seconds, state in [
        ("auto", 9.0, State.SLOWER),
        ("on", 9.0, State.SERVING),
        ("auto", 1e-9, State.SERVING),
    ]:
        packages = PackageCompiler(*checkpoint, library_versions(), CompileSettings(folder=folder))
        engines = make_engines(checkpoint, folder, mode)
        bucket = engines._bucket(SHAPE)
        packages.note(bucket, Note(artifacts._digest(package_of(folder)), eager_s=1.0, compiled_s=seconds))
        engines.warm_up([SHAPE])

        assert bucket.state is state
        assert ("no quicker" in bucket.reason) == (state is State.SLOWER)
        assert ask(engines, make_context())[1].engine == ("compiled" if state is State.SERVING else "eager")


def test_auto_builds_nothing_before_it_pays(checkpoint, tmp_path):
    """A shape that has cost less than a build leaves no child, no package and no warning."""
    engines = make_engines(checkpoint, tmp_path / "compiled", "auto", build_after_s=60.0)
    for _ in range(3):
        ask(engines, make_context())
        settle(engines, state=State.EAGER)
    (status,) = engines.status().buckets

    assert engines._packages.builder._child is None
    assert "builds a shape after 60 s of eager work" in status.reason
    assert status.eager_calls == 3


@pytest.mark.parametrize("compiler", ["package", "default"])
def test_off_never_looks(checkpoint, folder, monkeypatch, compiler):
    monkeypatch.setattr(compilers.torch, "compile", lambda *_, **__: pytest.fail("compiled, though it is off"))
    engines = make_engines(checkpoint, folder, "off", compiler=compiler)
    engines.warm_up([SHAPE])
    _, answer = ask(engines, make_context())

    assert (answer.engine, answer.reason) == ("eager", "compile is off")


# The compiler's own faults: each in a real child process.


def survives(engines, checkpoint, *, warning, state):
    """Forecasts before, during and after the fault are all eager's, and exactly one warning tells of it."""
    contexts = [make_context(seed=seed) for seed in range(3)]
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        answers = [ask(engines, contexts[0])]
        status = settle(engines, state=state)
        answers += [ask(engines, context_BT) for context_BT in contexts[1:]]
    told = [str(one.message) for one in seen if issubclass(one.category, CompileFallbackWarning)]

    for (found_BQH, _), context_BT in zip(answers, contexts, strict=True):
        assert is_eagers(checkpoint, found_BQH, context_BT)
    assert len(told) == 1
    assert warning in told[0]
    assert any(warning in fault for fault in status.faults)
    return status


def make_script(tmp_path, text):
    script = tmp_path / "compiler"
    script.write_text(f"#!/bin/sh\n{text}\n")
    script.chmod(0o755)
    return str(script)


@pytest.mark.parametrize(
    ("text", "deadline_s", "warning"),
    [
        (None, 60.0, "InvalidCxxCompiler"),
        ('case "$*" in *wrapper.cpp*) exit 4;; *) exec g++ "$@";; esac', 60.0, "CppCompileError"),
        ("exec sleep 600", 10.0, "within 10 s"),
    ],
    ids=["missing", "failing", "hanging"],
)
def test_compiler_faults(checkpoint, tmp_path, monkeypatch, text, deadline_s, warning):
    monkeypatch.setenv("CXX", str(tmp_path / "none") if text is None else make_script(tmp_path, text))
    engines = make_engines(checkpoint, tmp_path / "compiled", deadline_s=deadline_s)
    survives(engines, checkpoint, warning=warning, state=State.COOLING)
    engines.close()

    assert not [one for one in Path("/proc").glob("[0-9]*/cmdline") if b"sleep\x00600" in read_quietly(one)]


def read_quietly(path):
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_killed_child(checkpoint, tmp_path):
    engines = make_engines(checkpoint, tmp_path / "compiled")
    killer = threading.Thread(target=kill_child_of, args=(engines,))
    killer.start()
    survives(engines, checkpoint, warning="ended with -9", state=State.COOLING)
    killer.join()


def kill_child_of(engines):
    while (child := engines._packages.builder._child) is None:
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)


def test_random_assertion_is_tried_twice(checkpoint, folder, monkeypatch):
    """Inductor's sympy fails at random on good input: the second child succeeds."""
    ready, tries = package_of(folder).rename(folder.parent / "ready.pt2"), []

    def build_once(order):
        tries.append(order)
        if len(tries) == 1:
            raise BuildFailed("AssertionError: -834735604272579/1000000000000000")
        return ready

    engines = make_engines(checkpoint, folder.parent / "new")
    monkeypatch.setattr(engines._packages.builder, "_build_once", build_once)
    engines.warm_up([SHAPE])

    assert len(tries) == 2
    assert engines.status().buckets[0].state == "serving"


# Faults of the folder: nothing that we did not write is loaded, and what replaces it is built.


def flip_byte(folder):
    content = bytearray(package_of(folder).read_bytes())
    content[len(content) // 2] ^= 1
    package_of(folder).write_bytes(content)


def cut_in_half(folder):
    package_of(folder).write_bytes(package_of(folder).read_bytes()[:100_000])


def swap_keys(folder):
    """The package of another shape under this one's name, with its own true note."""
    about = package_of(folder).with_suffix(".json")
    about.write_text(about.read_text().replace("rows 8", "rows 16"))


def link_elsewhere(folder):
    elsewhere = package_of(folder).rename(folder.parent / "elsewhere.pt2")
    (folder / f"{package_of_json(folder)}.pt2").symlink_to(elsewhere)


def package_of_json(folder):
    (about,) = folder.glob("*.json")
    return about.stem


@pytest.mark.parametrize(
    ("damage", "warning"),
    [
        (flip_byte, "sha256: expected"),
        (cut_in_half, "sha256: expected"),
        (swap_keys, "key: expected"),
        (link_elsewhere, "as our own file"),
        (lambda folder: package_of(folder).with_suffix(".json").write_text("{"), "quarantined"),
        (lambda folder: package_of(folder).with_suffix(".json").unlink(), "quarantined"),
        (lambda folder: package_of(folder).unlink(), "quarantined"),
        (lambda folder: package_of(folder).chmod(0o666), "as our own file, found -rw-rw-rw-"),
    ],
    ids=["changed byte", "truncated", "other key", "link", "broken note", "no note", "no package", "others may write"],
)
def test_what_we_did_not_write_is_quarantined(checkpoint, folder, built, monkeypatch, damage, warning):
    damage(folder)
    engines = make_engines(checkpoint, folder)
    loaded = watch_loads(monkeypatch, engines)
    monkeypatch.setattr(engines._packages.builder, "build", lambda _: package_of(built))
    survives(engines, checkpoint, warning=warning, state=State.SERVING)

    assert list((folder / "quarantine").iterdir())
    assert loaded == [artifacts._digest(package_of(built))]


def watch_loads(monkeypatch, engines):
    """Digests of the packages that are loaded from here on."""
    loaded, load = [], engines._packages._load

    def watched(bucket, package):
        loaded.append(artifacts._digest(package))
        return load(bucket, package)

    monkeypatch.setattr(engines._packages, "_load", watched)
    return loaded


def refuse_foreign_owner(folder, monkeypatch):
    monkeypatch.setattr(artifacts.os, "getuid", lambda: folder.stat().st_uid + 1)


def refuse_open_folder(folder, monkeypatch):
    folder.chmod(0o777)


def refuse_no_folder(folder, monkeypatch):
    shutil.rmtree(folder)
    folder.write_text("a file where the folder should be")


@pytest.mark.parametrize(
    ("spoil", "warning"),
    [
        (refuse_foreign_owner, "to be our own folder"),
        (refuse_open_folder, "with mode 700, found 777"),
        (refuse_no_folder, "cannot be made"),
    ],
)
def test_folder_that_is_not_ours_alone_is_not_used(checkpoint, folder, built, monkeypatch, spoil, warning):
    """Compiled code is built for this process, serves, and is not kept."""
    spoil(folder, monkeypatch)
    engines = make_engines(checkpoint, folder)
    loaded = watch_loads(monkeypatch, engines)
    monkeypatch.setattr(engines._packages.builder, "build", lambda _: package_of(built))
    survives(engines, checkpoint, warning=warning, state=State.SERVING)

    assert loaded == [artifacts._digest(package_of(built))]
    assert not (folder / "quarantine").exists()


def test_read_only_folder(checkpoint, built, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(artifacts.shutil, "copyfile", refuse)
    engines = make_engines(checkpoint, tmp_path / "compiled")
    monkeypatch.setattr(engines._packages.builder, "build", lambda _: package_of(built))
    survives(engines, checkpoint, warning="Read-only file system", state=State.SERVING)


def test_file_that_is_no_package(checkpoint, folder, monkeypatch):
    """With a true digest it is loaded, fails, is put aside, and rests; the next try builds afresh."""
    package_of(folder).write_bytes(b"not a package")
    engines = make_engines(checkpoint, folder)
    bucket = engines._bucket(SHAPE)
    engines._packages.note(bucket, Note(artifacts._digest(package_of(folder))))
    survives(engines, checkpoint, warning="RuntimeError", state=State.COOLING)

    assert not list(folder.glob("*.pt2"))


def test_folder_is_made_for_its_owner_alone(checkpoint, built):
    key = ArtifactKey.of(checkpoint[1], library_versions(), torch.device("cpu"), SHAPE)

    assert stat.S_IMODE((built / f"{key.digest}.pt2").stat().st_mode) == 0o600
    assert stat.S_IMODE((built / f"{key.digest}.json").stat().st_mode) == 0o600


@pytest.mark.parametrize("part", ["weights_sha256", "versions", "hardware", "dtype", "threads", "shape"])
def test_every_part_of_the_key_counts(checkpoint, part):
    key = ArtifactKey.of(checkpoint[1], library_versions(), torch.device("cpu"), SHAPE)

    assert replace(key, **{part: "other"}).digest != key.digest


# Faults of compiled code itself, in the loaded package.


def make_spoilt(checkpoint, folder, monkeypatch, spoil, **settings):
    """Engines whose loaded code goes through `spoil(run)`."""
    load = PackageCompiler._load
    monkeypatch.setattr(PackageCompiler, "_load", lambda self, bucket, package: spoil(load(self, bucket, package)))
    return make_engines(checkpoint, folder, **settings)


def late(fault, after):
    """Spoil what compiled code answers after so many calls: it was right when it was checked."""

    def spoil(run):
        calls = []

        def spoilt(standard_BT):
            calls.append(1)
            return run(standard_BT) if len(calls) <= after else fault(run(standard_BT))

        return spoilt

    return spoil


def raising(error):
    def fault(_):
        raise error

    return fault


CHECKS = 2


@pytest.mark.parametrize(
    ("fault", "warning"),
    [
        (lambda found: found * 1.01, "of the spread away from eager"),
        (lambda found: found.masked_fill(torch.arange(21)[:, None] == 3, torch.nan), "of the spread away"),
        (lambda found: found[:, :20], "gave shape"),
        (raising(RuntimeError("kernel failed")), "kernel failed"),
    ],
    ids=["drifting", "NaN", "other shape", "raising"],
)
def test_wrong_code_never_serves(checkpoint, folder, monkeypatch, fault, warning):
    engines = make_spoilt(checkpoint, folder, monkeypatch, late(fault, 0))
    status = survives(engines, checkpoint, warning=warning, state=State.COOLING)

    assert status.compiled_calls == 0
    assert list((folder / "quarantine").iterdir())


@pytest.mark.parametrize(
    ("fault", "warning"),
    [
        (lambda found: found * 1.01, "of the spread away from eager"),
        (lambda found: found.masked_fill(torch.arange(21)[:, None] == 3, torch.nan), "NaN or infinity"),
        *[(raising(error), type(error).__name__) for error in RUN_TIME_FAULTS],
    ],
    ids=["drifting", "NaN", *[type(error).__name__ for error in RUN_TIME_FAULTS]],
)
def test_code_that_goes_wrong_while_serving(checkpoint, folder, monkeypatch, fault, warning):
    """The very batch in which it shows is answered by eager, and the bucket is taken out of service."""
    engines = make_spoilt(checkpoint, folder, monkeypatch, late(fault, CHECKS), sample_every=1)
    ask(engines, make_context())
    settle(engines, state=State.SERVING)
    with pytest.warns(CompileFallbackWarning, match=warning) as seen:
        answers = [(context_BT, *ask(engines, context_BT)) for context_BT in map(make_context, [ROWS] * 3, range(3))]
    (status,) = engines.status().buckets

    for context_BT, found_BQH, answer in answers:
        assert torch.equal(found_BQH, eager_answer(checkpoint, context_BT))
        assert answer.engine == "eager"
        assert warning in answer.reason
    assert len(seen) == 1
    assert (status.state, status.compiled_calls, len(status.faults)) == ("cooling", 1, 1)
    assert engines.status().fallbacks == 1


def test_drift_between_samples_is_found_at_the_next(checkpoint, folder, monkeypatch):
    """With one batch in four compared, drift lives for three batches at most."""
    drifting = late(lambda found: found * 1.01, CHECKS + 1)
    engines = make_spoilt(checkpoint, folder, monkeypatch, drifting, sample_every=4)
    ask(engines, make_context())
    settle(engines, state=State.SERVING)
    with pytest.warns(CompileFallbackWarning):
        served = [ask(engines, make_context())[1].engine for _ in range(6)]

    assert served == ["compiled"] * 4 + ["eager"] * 2


def test_faulty_bucket_leaves_the_others_alone(checkpoint, folder, monkeypatch):
    """A fault is that of one shape: another, and its counts, stay as they are."""
    engines = make_spoilt(checkpoint, folder, monkeypatch, late(raising(RuntimeError("once")), CHECKS))
    engines.warm_up([SHAPE])
    other = engines._bucket(SHAPE._replace(missing=Missing.BARS))
    other.compiled, other.state = engines._bucket(SHAPE).eager, State.SERVING
    with pytest.warns(CompileFallbackWarning):
        ask(engines, make_context())

    assert engines._bucket(SHAPE).state is State.COOLING
    assert other.state is State.SERVING


def test_bucket_comes_back_after_its_rest(checkpoint, folder, built, monkeypatch):
    """The package that failed is put aside; after the rest a new one is made, checked, and serves."""
    engines = make_spoilt(checkpoint, folder, monkeypatch, late(raising(RuntimeError("once")), CHECKS), rest_s=0.2)
    monkeypatch.setattr(engines._packages.builder, "build", lambda _: package_of(built))
    engines.warm_up([SHAPE])
    monkeypatch.undo()
    monkeypatch.setattr(engines._packages.builder, "build", lambda _: package_of(built))
    with pytest.warns(CompileFallbackWarning):
        ask(engines, make_context())
    resting = ask(engines, make_context())[1].engine
    time.sleep(0.3)
    ask(engines, make_context())
    settle(engines, state=State.SERVING)

    assert resting == "eager"
    assert ask(engines, make_context())[1].engine == "compiled"
    assert len(list((folder / "quarantine").glob("*.pt2"))) == 1


def test_rests_grow(checkpoint, tmp_path):
    engines = make_engines(checkpoint, tmp_path, "off", rest_s=100.0)
    bucket = engines._bucket(SHAPE)
    rests = []
    for _ in range(12):
        engines._rest(bucket, RuntimeError("again"))
        rests.append(bucket.retry_at - time.monotonic())

    assert rests[:3] == pytest.approx([100, 200, 400], abs=1)
    assert rests[-1] == pytest.approx(6 * 3600, abs=1)


def test_one_warning_per_process(checkpoint, folder, monkeypatch):
    """A second model that falls back records it without a further warning."""
    spoil = late(raising(RuntimeError("broken")), CHECKS)
    first, second = (make_spoilt(checkpoint, folder, monkeypatch, spoil) for _ in range(2))
    first.warm_up([SHAPE])
    second.warm_up([SHAPE])
    with pytest.warns(CompileFallbackWarning):
        ask(first, make_context())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ask(second, make_context())

    assert second.status().buckets[0].faults == ("RuntimeError: broken",)


def test_keyboard_interrupt_goes_through_at_once(checkpoint, folder, monkeypatch):
    engines = make_spoilt(checkpoint, folder, monkeypatch, late(raising(KeyboardInterrupt()), CHECKS))
    engines.warm_up([SHAPE])
    calls = engines._bucket(SHAPE).eager_calls
    with pytest.raises(KeyboardInterrupt):
        ask(engines, make_context())

    assert engines._bucket(SHAPE).eager_calls == calls
    assert engines._bucket(SHAPE).state is State.SERVING


@pytest.mark.parametrize("link", ["__context__", "__cause__"])
def test_hidden_keyboard_interrupt_goes_through(checkpoint, folder, monkeypatch, link):
    """A fault raised in a `finally` while Ctrl-C was on its way up does not swallow it."""
    outer, middle = RuntimeError("outer"), UnboundLocalError("tracer_output")
    setattr(outer, link, middle)
    setattr(middle, link, KeyboardInterrupt())
    engines = make_spoilt(checkpoint, folder, monkeypatch, late(raising(outer), CHECKS))
    engines.warm_up([SHAPE])
    with pytest.raises(KeyboardInterrupt):
        ask(engines, make_context())

    assert engines._bucket(SHAPE).state is State.SERVING


def test_fault_of_both_engines_is_not_the_compilers(checkpoint, folder, monkeypatch):
    """Where eager fails on the same input, both faults are told and chained, and compiled code stays in service."""
    fault = RuntimeError("compiled failed")
    engines = make_spoilt(checkpoint, folder, monkeypatch, late(raising(fault), CHECKS))
    engines.warm_up([SHAPE])
    monkeypatch.setattr(engines._bucket(SHAPE), "eager", raising(RuntimeError("shape mismatch")))
    with pytest.raises(InferenceError, match=r"shape mismatch.*compiled failed") as raised:
        ask(engines, make_context())

    assert raised.value.__cause__ is fault
    assert engines._bucket(SHAPE).state is State.SERVING


def test_nan_of_both_engines_is_not_the_compilers(checkpoint, folder, monkeypatch):
    """The model's own NaN goes on to whoever refuses it; compiled code stays in service."""
    engines = make_spoilt(checkpoint, folder, monkeypatch, late(lambda found: found * torch.nan, CHECKS))
    engines.warm_up([SHAPE])
    eager = engines._bucket(SHAPE).eager
    monkeypatch.setattr(engines._bucket(SHAPE), "eager", lambda standard_BT: eager(standard_BT) * torch.nan)
    found_BQH, _ = ask(engines, make_context())

    assert found_BQH.isnan().all()
    assert engines._bucket(SHAPE).state is State.SERVING


# Memory.


def no_room(standard_BT, run, most):
    if len(standard_BT) > most:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
    return run(standard_BT)


def test_memory_that_runs_out_halves_the_batch(checkpoint, tmp_path, monkeypatch):
    """Halved until it fits, in the same call; the cap is remembered, so the next call does not try again."""
    engines = make_engines(checkpoint, tmp_path, "off")
    tried = []

    def limited(standard_BT):
        tried.append(len(standard_BT))
        return no_room(standard_BT, engines._bucket(SHAPE).eager, 8)

    bucket_of = engines._bucket
    monkeypatch.setattr(engines, "_run_eager", lambda bucket, standard_BT, fault=None: limited(standard_BT))
    context_BT = make_context(32)
    found_BQH, _ = ask(engines, context_BT)
    first, tried[:] = list(tried), []
    ask(engines, context_BT)

    assert bucket_of(SHAPE).state is State.EAGER
    assert first == [32, 16, 8, 8, 8, 8]
    assert tried == [8, 8, 8, 8]
    assert is_eagers(checkpoint, found_BQH, context_BT)
    assert engines.status().most_tokens == 8 * (BARS // 16 + 2)


def test_memory_that_holds_not_even_one_group_is_named(checkpoint, tmp_path, monkeypatch):
    engines = make_engines(checkpoint, tmp_path, "off")
    monkeypatch.setattr(engines, "_run_eager", lambda *_: no_room(make_context(), None, 0))
    with pytest.raises(InferenceError, match="out of memory"):
        ask(engines, make_context())


def test_memory_of_compiled_code_is_not_its_fault(checkpoint, folder, monkeypatch):
    engines = make_spoilt(
        checkpoint, folder, monkeypatch, late(raising(torch.OutOfMemoryError("CUDA out of memory")), CHECKS)
    )
    engines.warm_up([SHAPE])
    context_BT = make_context()
    found_BQH, _ = ask(engines, context_BT)

    assert engines._bucket(SHAPE).state is State.SERVING
    assert engines._bucket(SHAPE).faults == []
    assert is_eagers(checkpoint, found_BQH, context_BT)


# Threads.


def test_calls_never_overlap(checkpoint, tmp_path, monkeypatch):
    """One thread owns the model; it is nobody's who calls."""
    engines = make_engines(checkpoint, tmp_path, "off")
    inside, most, owners = [], [], set()

    def watched(bucket, standard_BT, fault=None):
        inside.append(1)
        most.append(len(inside))
        owners.add(threading.get_ident())
        time.sleep(0.005)
        inside.pop()
        return torch.zeros(len(standard_BT), 21, 16)

    monkeypatch.setattr(engines, "_run_eager", watched)
    with ThreadPoolExecutor(8) as pool:
        callers = set(pool.map(lambda _: ask(engines, make_context()) and threading.get_ident(), range(24)))

    assert most == [1] * 24
    assert len(owners) == 1
    assert not owners & callers


def test_unloading_ends_a_build(checkpoint, tmp_path):
    engines = make_engines(checkpoint, tmp_path / "compiled")
    ask(engines, make_context())
    until = time.monotonic() + 20
    while (child := engines._packages.builder._child) is None and time.monotonic() < until:
        time.sleep(0.01)
    engines.close()

    assert child.wait(10) == -signal.SIGKILL


@pytest.mark.parametrize("wait_s", [0.0, 0.05])
def test_process_may_end_while_code_is_loaded(built, wait_s):
    """The thread that loads and checks is inside torch when Python ends: it is waited for, and nothing crashes."""
    code = (
        "import sys, time, torch\n"
        "from pathlib import Path\n"
        "from tests.model.test_compiled import ask, load_checkpoint, make_context, make_engines\n"
        "engines = make_engines(load_checkpoint('nano', None, 'cpu'), sys.argv[1])\n"
        "ask(engines, make_context())\n"
        "time.sleep(float(sys.argv[2]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, built, str(wait_s)], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stderr) == (0, "")


# torch.compile's own modes, in this process.


def compile_with(monkeypatch, backend):
    """Let the in-process compiler run on another backend: Dynamo is the real one."""
    monkeypatch.setattr(
        compilers.torch,
        "compile",
        lambda core, fullgraph, dynamic, mode: torch._dynamo.optimize(backend, nopython=fullgraph, dynamic=dynamic)(
            core
        ),
    )


@pytest.mark.parametrize("compiler", ["default", "reduce-overhead", "max-autotune"])
def test_in_process_modes_are_checked_as_well(checkpoint, tmp_path, monkeypatch, compiler):
    torch._dynamo.reset()
    compile_with(monkeypatch, "eager")
    engines = make_engines(checkpoint, tmp_path / "compiled", compiler=compiler)
    engines.warm_up([SHAPE])
    context_BT = make_context()
    found_BQH, answer = ask(engines, context_BT)

    assert answer.engine == "compiled"
    assert is_eagers(checkpoint, found_BQH, context_BT)


def test_in_process_cache_that_is_not_ours_alone(checkpoint, tmp_path, monkeypatch):
    """What is found there would be unpickled, so it is not used, and eager goes on."""
    compile_with(monkeypatch, "eager")
    (tmp_path / "compiled" / "inductor").mkdir(parents=True, mode=0o777)
    (tmp_path / "compiled").chmod(0o700)
    engines = make_engines(checkpoint, tmp_path / "compiled", compiler="default")
    survives(engines, checkpoint, warning="with mode 700", state=State.COOLING)


def test_raising_backend(checkpoint, tmp_path, monkeypatch):
    def backend(graph, inputs):
        raise RuntimeError("backend raised")

    torch._dynamo.reset()
    compile_with(monkeypatch, backend)
    engines = make_engines(checkpoint, tmp_path / "compiled", compiler="default")
    survives(engines, checkpoint, warning="BackendCompilerFailed", state=State.COOLING)


def test_recompile_limit(checkpoint, tmp_path, monkeypatch):
    """The shape past the limit falls back; the one before it stays compiled."""
    torch._dynamo.reset()
    compile_with(monkeypatch, "eager")
    monkeypatch.setattr(compilers, "_RECOMPILE_LIMIT", 1)
    engines = make_engines(checkpoint, tmp_path / "compiled", compiler="default")
    engines.warm_up([SHAPE])
    with pytest.warns(CompileFallbackWarning, match="FailOnRecompileLimitHit"):
        engines.warm_up([SHAPE._replace(rows=16)])
    context_BT = make_context(16)
    found_BQH, answer = ask(engines, context_BT)

    assert answer.engine == "eager"
    assert torch.equal(found_BQH, eager_answer(checkpoint, context_BT))
    assert ask(engines, make_context())[1].engine == "compiled"
