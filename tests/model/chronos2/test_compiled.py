"""Faults of the compiler: every forecast succeeds and equals eager's.

`Toolchain` builds and loads packages in this process. Each test gets a copy of a folder with a package, and injects a
fault where it would happen: in the build, in the stored files, in the loaded code. Real builds are in
test_real_builds.py.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import tempfile
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from forecaster.errors import InferenceError
from forecaster.model.chronos2 import artifacts, faults
from forecaster.model.chronos2.artifacts import ArtifactKey, Note
from forecaster.model.chronos2.bucket import State
from forecaster.model.chronos2.builder import BuildFailed
from forecaster.model.chronos2.checkpoint import library_versions, load_checkpoint
from forecaster.model.chronos2.compilers import CompileSettings, PackageCompiler
from forecaster.model.chronos2.core import Missing
from forecaster.model.chronos2.faults import CompileFallbackWarning
from tests.model.engines import (
    BARS,
    GROUP,
    ROWS,
    SHAPE,
    Toolchain,
    eager_quantiles,
    equals_eager,
    forecast,
    make_context,
    make_engines,
    package_of,
    serve,
    settle,
    survives,
    wait_until,
)

CHECKS = 2
"""Calls of compiled code before it serves."""


@pytest.fixture(scope="module")
def checkpoint():
    return load_checkpoint("nano", None, "cpu")


@pytest.fixture
def toolchain(checkpoint, monkeypatch):
    toolchain = Toolchain(checkpoint[0])
    toolchain.install(monkeypatch)
    return toolchain


@pytest.fixture(scope="module")
def built(checkpoint, tmp_path_factory):
    """A folder with a package that was built, checked and timed."""
    folder = tmp_path_factory.mktemp("built")
    folder.chmod(0o700)
    with pytest.MonkeyPatch.context() as patch:
        Toolchain(checkpoint[0]).install(patch)
        engines = make_engines(checkpoint, folder)
        engines.warm_up([SHAPE])
        engines.close()
    return folder


@pytest.fixture
def folder(built, tmp_path):
    """A copy of that folder, to damage."""
    copy = tmp_path / "compiled"
    shutil.copytree(built, copy)
    copy.chmod(0o700)
    return copy


@pytest.fixture(autouse=True)
def _no_warning_yet(toolchain, monkeypatch):
    """Reset the one warning of the process, and replace the real compiler."""
    monkeypatch.setattr(faults, "_warned", threading.Event())


def text_of(folder):
    """The package in a folder, as it is loaded."""
    return json.loads(package_of(folder).read_text())


def test_stored_code_serves_after_a_restart(checkpoint, folder, toolchain):
    """The first forecast is eager; once the package is loaded and checked, compiled code gives the same."""
    engines = make_engines(checkpoint, folder)
    context_BT = make_context()
    first_BQH, first = forecast(engines, context_BT)
    status = settle(engines, state=State.SERVING)
    second_BQH, second = forecast(engines, context_BT)

    assert (first.engine, second.engine) == ("eager", "compiled")
    assert torch.equal(first_BQH, eager_quantiles(checkpoint, context_BT))
    assert equals_eager(checkpoint, second_BQH, context_BT)
    assert second.reason == status.reason
    assert "checked to" in status.reason
    assert status.compiled_s > 0
    assert engines.status().fallbacks == 0
    assert toolchain.loaded == [text_of(folder)]


def test_a_missing_package_is_built_once(checkpoint, tmp_path, toolchain):
    """The next process finds it and builds nothing."""
    serve(make_engines(checkpoint, tmp_path / "compiled"))
    toolchain.fault = BuildFailed("built again")
    serve(make_engines(checkpoint, tmp_path / "compiled"))

    assert toolchain.loaded == [text_of(tmp_path / "compiled")] * 2


def test_rows_are_padded_to_the_compiled_number(checkpoint, folder):
    """Seven groups run in the code for eight; padding does not change the other rows."""
    engines = make_engines(checkpoint, folder)
    engines.warm_up([SHAPE])
    bucket = engines._buckets[SHAPE]
    context_BT = make_context(ROWS - GROUP)
    bucket.eager_s, bucket.compiled_s = 1.0, 0.1
    engines._buckets[SHAPE._replace(rows=ROWS - GROUP)] = bucket
    actual_BQH, output = forecast(engines, context_BT)

    assert output.engine == "compiled"
    assert equals_eager(checkpoint, actual_BQH, context_BT)


def test_no_padding_where_eager_is_faster(checkpoint, folder):
    engines = make_engines(checkpoint, folder)
    engines.warm_up([SHAPE])
    bucket = engines._buckets[SHAPE]
    bucket.eager_s, bucket.compiled_s = 1.0, 0.9

    assert bucket.compiled_for(ROWS) is not None
    assert bucket.compiled_for(ROWS - GROUP) is None


@pytest.mark.parametrize(
    ("mode", "seconds", "state"),
    [("auto", 9.0, State.SLOWER), ("on", 9.0, State.SERVING), ("auto", 1e-9, State.SERVING)],
)
def test_auto_serves_faster_code(checkpoint, folder, mode, seconds, state):
    """`auto` does not serve correct code that is slower, and gives the reason; `on` serves it."""
    packages = PackageCompiler(*checkpoint, library_versions(), CompileSettings(folder=folder))
    engines = make_engines(checkpoint, folder, mode)
    bucket = engines._bucket(SHAPE)
    packages.note(bucket, Note(artifacts._digest(package_of(folder)), eager_s=1.0, compiled_s=seconds))
    engines.warm_up([SHAPE])

    assert bucket.state is state
    assert ("not faster" in bucket.reason) == (state is State.SLOWER)
    assert forecast(engines, make_context())[1].engine == ("compiled" if state is State.SERVING else "eager")


def test_auto_builds_nothing_before_it_pays(checkpoint, tmp_path, toolchain):
    """A rare shape leaves no package and no warning."""
    toolchain.fault = BuildFailed("built too early")
    engines = make_engines(checkpoint, tmp_path / "compiled", "auto", build_after_s=1e9)
    for _ in range(3):
        forecast(engines, make_context())
        settle(engines, state=State.EAGER)
    (status,) = engines.status().buckets

    assert "builds a shape after 1e+09 s of eager work" in status.reason
    assert (status.eager_calls, status.faults) == (3, ())


def test_auto_builds_once_it_pays(checkpoint, tmp_path, toolchain):
    """Here one call is enough."""
    engines = make_engines(checkpoint, tmp_path / "compiled", "auto", build_after_s=0.0)
    forecast(engines, make_context())
    bucket = engines._bucket(SHAPE)
    wait_until(lambda: bucket.state in {State.SERVING, State.SLOWER}, "a build")

    assert bucket.compiled_s > 0
    assert toolchain.loaded == [text_of(tmp_path / "compiled")]


@pytest.mark.parametrize("compiler", ["package", "default"])
def test_off_loads_nothing(checkpoint, folder, toolchain, monkeypatch, compiler):
    monkeypatch.setattr(torch, "compile", lambda *_, **__: pytest.fail("compiled, though it is off"))
    engines = make_engines(checkpoint, folder, "off", compiler=compiler)
    engines.warm_up([SHAPE])
    _, output = forecast(engines, make_context())

    assert (output.engine, output.reason) == ("eager", "compile is off")
    assert toolchain.loaded == []


# Builds that fail.


def test_build_that_fails(checkpoint, tmp_path, toolchain):
    toolchain.fault = BuildFailed("CppCompileError: C++ compile error")
    survives(make_engines(checkpoint, tmp_path / "compiled"), checkpoint, warning="C++ compile", state=State.COOLING)

    assert not list((tmp_path / "compiled").glob("*.pt2"))


@pytest.mark.parametrize(
    ("message", "tries"),
    [("AssertionError: -834735604272579/1000000000000000", 2), ("CppCompileError: C++ compile error", 1)],
)
def test_random_assertion_is_tried_twice(checkpoint, tmp_path, toolchain, message, tries):
    """Inductor's sympy fails at random on valid input, so the second child succeeds; other faults are not retried."""
    build, requests = toolchain.build, []

    def build_or_fail(request):
        requests.append(request)
        if len(requests) == 1:
            raise BuildFailed(message)
        return build(request)

    toolchain.build = build_or_fail
    engines = make_engines(checkpoint, tmp_path / "compiled")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CompileFallbackWarning)
        engines.warm_up([SHAPE])

    assert len(requests) == tries
    assert engines.status().buckets[0].state == ("serving" if tries == 2 else "cooling")


# Faults of the folder: files of others are not loaded, and a new package is built.


def flip_byte(folder):
    content = bytearray(package_of(folder).read_bytes())
    content[len(content) // 2] ^= 1
    package_of(folder).write_bytes(content)


def swap_keys(folder):
    """The package of another shape under this name, with its own valid note."""
    about = package_of(folder).with_suffix(".json")
    about.write_text(about.read_text().replace("rows 8", "rows 16"))


def link_elsewhere(folder):
    there = package_of(folder)
    there.symlink_to(there.rename(folder.parent / "elsewhere.pt2"))


@pytest.mark.parametrize(
    ("damage", "warning"),
    [
        (flip_byte, "sha256: expected"),
        (swap_keys, "key: expected"),
        (link_elsewhere, "as our own file"),
        (lambda folder: package_of(folder).with_suffix(".json").write_text("{"), "quarantined"),
        (lambda folder: package_of(folder).with_suffix(".json").unlink(), "quarantined"),
        (lambda folder: package_of(folder).unlink(), "quarantined"),
        (lambda folder: package_of(folder).chmod(0o666), "as our own file, found -rw-rw-rw-"),
    ],
    ids=["changed byte", "other key", "link", "broken note", "no note", "no package", "others may write"],
)
def test_untrusted_files_are_quarantined(checkpoint, folder, built, toolchain, damage, warning):
    damage(folder)
    survives(make_engines(checkpoint, folder), checkpoint, warning=warning, state=State.SERVING)

    assert list((folder / "quarantine").iterdir())
    assert toolchain.loaded == [text_of(folder)]
    assert text_of(folder) != text_of(built)


def refuse_foreign_owner(folder, monkeypatch):
    lstat = Path.lstat

    def foreign(path):
        found = list(lstat(path))
        found[4] += path == folder
        return os.stat_result(found)

    monkeypatch.setattr(Path, "lstat", foreign)


def refuse_open_folder(folder, monkeypatch):
    folder.chmod(0o777)


def refuse_open_parent(folder, monkeypatch):
    folder.parent.chmod(0o777)


def refuse_no_folder(folder, monkeypatch):
    shutil.rmtree(folder)
    folder.write_text("a file where the folder should be")


@pytest.mark.parametrize(
    ("spoil", "warning"),
    [
        (refuse_foreign_owner, "to be our own folder"),
        (refuse_open_folder, "with mode 700, found 777"),
        (refuse_open_parent, "to be writable by its owner alone, found 777"),
        (refuse_no_folder, "cannot be created"),
    ],
)
def test_a_folder_that_is_not_private_is_not_used(checkpoint, folder, toolchain, monkeypatch, spoil, warning):
    """Compiled code is built for this process, serves, and is not stored."""
    stored = text_of(folder)
    spoil(folder, monkeypatch)
    survives(make_engines(checkpoint, folder), checkpoint, warning=warning, state=State.SERVING)

    assert len(toolchain.loaded) == 1
    assert toolchain.loaded != [stored]
    assert not (folder / "quarantine").exists()


def test_read_only_folder(checkpoint, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(artifacts, "_write", refuse)
    engines = make_engines(checkpoint, tmp_path / "compiled")
    survives(engines, checkpoint, warning="Read-only file system", state=State.SERVING)


def test_a_file_that_is_not_a_package(checkpoint, folder, toolchain):
    """With a valid digest it reaches torch's own loader, fails and is quarantined; the next try builds a new one."""
    package_of(folder).write_bytes(b"not a package")
    engines = make_engines(checkpoint, folder)
    bucket = engines._bucket(SHAPE)
    engines._packages.note(bucket, Note(artifacts._digest(package_of(folder))))
    survives(engines, checkpoint, warning="RuntimeError", state=State.COOLING)
    removed = not list(folder.glob("*.pt2"))
    bucket.retry_at = time.monotonic()
    serve(engines)

    assert removed
    assert toolchain.loaded == [text_of(folder)]


def test_code_is_not_built_where_other_users_could_replace_it(checkpoint, toolchain, tmp_path, monkeypatch):
    """Forecasts are eager, and one warning gives the reason."""
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    monkeypatch.setattr(tempfile, "tempdir", str(shared))
    engines = make_engines(checkpoint, tmp_path / "compiled")

    survives(engines, checkpoint, warning=f"expected {shared} to be writable by its owner alone", state=State.COOLING)

    assert toolchain.loaded == []


def test_files_are_private(checkpoint, built):
    key = ArtifactKey.of(checkpoint[1], library_versions(), torch.device("cpu"), SHAPE)

    assert stat.S_IMODE((built / f"{key.digest}.pt2").stat().st_mode) == 0o600
    assert stat.S_IMODE((built / f"{key.digest}.json").stat().st_mode) == 0o600


def test_every_part_of_the_key_counts(checkpoint):
    key = ArtifactKey.of(checkpoint[1], library_versions(), torch.device("cpu"), SHAPE)
    parts = ("model_sha256", "versions", "hardware", "dtype", "threads", "shape")

    assert len({key.digest, *(replace(key, **{part: "other"}).digest for part in parts)}) == len(parts) + 1


# Faults of compiled code itself, in the loaded package.


def late(fault, after):
    """Change the result of compiled code after this many calls: it was correct when it was checked."""

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


def add_nan(actual_BQH):
    return actual_BQH.masked_fill(torch.arange(21)[:, None] == 3, torch.nan)


@pytest.mark.parametrize(
    ("fault", "warning"),
    [
        (lambda actual_BQH: actual_BQH * 1.01, "of the spread away from eager"),
        (add_nan, "of the spread away"),
        (lambda actual_BQH: actual_BQH[:, :20], "returned shape"),
        (raising(RuntimeError("kernel failed")), "kernel failed"),
    ],
    ids=["drifting", "NaN", "other shape", "raising"],
)
def test_wrong_code_does_not_serve(checkpoint, folder, toolchain, fault, warning):
    toolchain.spoil = late(fault, 0)
    status = survives(make_engines(checkpoint, folder), checkpoint, warning=warning, state=State.COOLING)

    assert status.compiled_calls == 0
    assert list((folder / "quarantine").iterdir())


@pytest.mark.parametrize(
    ("fault", "warning"),
    [
        (lambda actual_BQH: actual_BQH * 1.01, "of the spread away from eager"),
        (add_nan, "NaN or infinity"),
        (raising(RuntimeError("Inductor failed")), "RuntimeError"),
        (raising(UnboundLocalError("cannot access local variable 'tracer_output'")), "UnboundLocalError"),
    ],
    ids=["drifting", "NaN", "raising", "raising what is no RuntimeError"],
)
def test_code_that_fails_while_serving(checkpoint, folder, toolchain, fault, warning):
    """Eager forecasts that batch, and the bucket is taken out of service."""
    toolchain.spoil = late(fault, CHECKS)
    engines = make_engines(checkpoint, folder, sample_every=1)
    serve(engines)
    with pytest.warns(CompileFallbackWarning, match=warning) as seen:
        outputs = [
            (context_BT, *forecast(engines, context_BT)) for context_BT in map(make_context, [ROWS] * 3, range(3))
        ]
    (status,) = engines.status().buckets

    for context_BT, actual_BQH, output in outputs:
        assert torch.equal(actual_BQH, eager_quantiles(checkpoint, context_BT))
        assert output.engine == "eager"
        assert warning in output.reason
    assert len(seen) == 1
    assert (status.state, status.compiled_calls, len(status.faults)) == ("cooling", 1, 1)
    assert engines.status().fallbacks == 1


def test_drift_between_samples_is_found_at_the_next(checkpoint, folder, toolchain):
    """With one batch in four compared, drift lasts for three batches at most."""
    toolchain.spoil = late(lambda actual_BQH: actual_BQH * 1.01, CHECKS + 1)
    engines = make_engines(checkpoint, folder, sample_every=4)
    serve(engines)
    with pytest.warns(CompileFallbackWarning):
        served = [forecast(engines, make_context())[1].engine for _ in range(6)]

    assert served == ["compiled"] * 4 + ["eager"] * 2


def test_a_fault_affects_one_bucket(checkpoint, folder, toolchain):
    """Another shape and its counts do not change."""
    toolchain.spoil = late(raising(RuntimeError("once")), CHECKS)
    engines = make_engines(checkpoint, folder)
    engines.warm_up([SHAPE])
    other = engines._bucket(SHAPE._replace(missing=Missing.BARS))
    other.compiled, other.state = engines._bucket(SHAPE).eager, State.SERVING
    with pytest.warns(CompileFallbackWarning):
        forecast(engines, make_context())

    assert engines._bucket(SHAPE).state is State.COOLING
    assert other.state is State.SERVING


def test_a_bucket_serves_again_after_its_cool_down(checkpoint, folder, built, toolchain):
    """The failed package is quarantined; after the cool-down a new one is built and checked, and serves."""
    spoil, toolchain.spoil = toolchain.spoil, late(raising(RuntimeError("once")), CHECKS)
    engines = make_engines(checkpoint, folder)
    engines.warm_up([SHAPE])
    toolchain.spoil = spoil
    with pytest.warns(CompileFallbackWarning):
        forecast(engines, make_context())
    cooling = forecast(engines, make_context())[1].engine
    engines._bucket(SHAPE).retry_at = time.monotonic()
    serve(engines)

    assert cooling == "eager"
    assert forecast(engines, make_context())[1].engine == "compiled"
    assert len(list((folder / "quarantine").glob("*.pt2"))) == 1
    assert toolchain.loaded == [text_of(built), text_of(folder)]


def test_cool_downs_grow(checkpoint, tmp_path):
    """Twice as long each time, from the configured one to six hours."""
    engines = make_engines(checkpoint, tmp_path, "off", cool_down_s=100.0)
    bucket = engines._bucket(SHAPE)
    for cool_down_s in (100, 200, 400, 800, 1600, 3200, 6400, 12800, 21600, 21600):
        before = time.monotonic()
        engines._promoter.cool_down(bucket, RuntimeError("again"))

        assert before + cool_down_s <= bucket.retry_at <= time.monotonic() + cool_down_s


def test_one_warning_per_process(checkpoint, folder, toolchain):
    """A second model that falls back records it without another warning."""
    toolchain.spoil = late(raising(RuntimeError("broken")), CHECKS)
    first, second = (make_engines(checkpoint, folder) for _ in range(2))
    first.warm_up([SHAPE])
    second.warm_up([SHAPE])
    with pytest.warns(CompileFallbackWarning):
        forecast(first, make_context())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        forecast(second, make_context())

    assert second.status().buckets[0].faults == ("RuntimeError: broken",)


def test_keyboard_interrupt_is_raised_at_once(checkpoint, folder, toolchain):
    toolchain.spoil = late(raising(KeyboardInterrupt()), CHECKS)
    engines = make_engines(checkpoint, folder)
    engines.warm_up([SHAPE])
    calls = engines._bucket(SHAPE).eager_calls
    with pytest.raises(KeyboardInterrupt):
        forecast(engines, make_context())

    assert engines._bucket(SHAPE).eager_calls == calls
    assert engines._bucket(SHAPE).state is State.SERVING


@pytest.mark.parametrize("link", ["__context__", "__cause__"])
def test_hidden_keyboard_interrupt_is_raised(checkpoint, folder, toolchain, link):
    """A fault raised in a `finally` during Ctrl-C does not hide it."""
    outer, middle = RuntimeError("outer"), UnboundLocalError("tracer_output")
    setattr(outer, link, middle)
    setattr(middle, link, KeyboardInterrupt())
    toolchain.spoil = late(raising(outer), CHECKS)
    engines = make_engines(checkpoint, folder)
    engines.warm_up([SHAPE])
    with pytest.raises(KeyboardInterrupt):
        forecast(engines, make_context())

    assert engines._bucket(SHAPE).state is State.SERVING


def test_a_fault_of_both_engines_keeps_compiled_code(checkpoint, folder, toolchain, monkeypatch):
    """Where eager fails on the same input, both faults are raised, chained, and compiled code stays in service."""
    fault = RuntimeError("compiled failed")
    toolchain.spoil = late(raising(fault), CHECKS)
    engines = make_engines(checkpoint, folder)
    engines.warm_up([SHAPE])
    monkeypatch.setattr(engines._bucket(SHAPE), "eager", raising(RuntimeError("shape mismatch")))
    with pytest.raises(InferenceError, match=r"shape mismatch.*compiled failed") as raised:
        forecast(engines, make_context())

    assert raised.value.__cause__ is fault
    assert engines._bucket(SHAPE).state is State.SERVING


def test_nan_of_both_engines_keeps_compiled_code(checkpoint, folder, toolchain, monkeypatch):
    """The model's own NaN is returned; compiled code stays in service."""
    toolchain.spoil = late(lambda actual_BQH: actual_BQH * torch.nan, CHECKS)
    engines = make_engines(checkpoint, folder)
    engines.warm_up([SHAPE])
    eager = engines._bucket(SHAPE).eager
    monkeypatch.setattr(engines._bucket(SHAPE), "eager", lambda standard_BT: eager(standard_BT) * torch.nan)
    actual_BQH, _ = forecast(engines, make_context())

    assert actual_BQH.isnan().all()
    assert engines._bucket(SHAPE).state is State.SERVING


# Memory.


def no_room(standard_BT, run, most):
    if len(standard_BT) > most:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
    return run(standard_BT)


def test_exhausted_memory_halves_the_batch(checkpoint, tmp_path, monkeypatch):
    """Halved until it fits, in the same call; the next call starts with that size."""
    engines = make_engines(checkpoint, tmp_path, "off")
    tried = []

    def limited(standard_BT):
        tried.append(len(standard_BT))
        return no_room(standard_BT, engines._bucket(SHAPE).eager, 8)

    bucket_of = engines._bucket
    monkeypatch.setattr(engines, "_run_eager", lambda bucket, standard_BT, fault=None: limited(standard_BT))
    context_BT = make_context(32)
    actual_BQH, _ = forecast(engines, context_BT)
    first, tried[:] = list(tried), []
    forecast(engines, context_BT)

    assert bucket_of(SHAPE).state is State.EAGER
    assert first == [32, 16, 8, 8, 8, 8]
    assert tried == [8, 8, 8, 8]
    assert equals_eager(checkpoint, actual_BQH, context_BT)
    assert engines.status().most_tokens == 8 * (BARS // 16 + 2)


def test_too_little_memory_for_one_group_is_an_error(checkpoint, tmp_path, monkeypatch):
    engines = make_engines(checkpoint, tmp_path, "off")
    monkeypatch.setattr(engines, "_run_eager", lambda *_: no_room(make_context(), None, 0))
    with pytest.raises(InferenceError, match="out of memory"):
        forecast(engines, make_context())


def test_exhausted_memory_is_not_a_fault_of_compiled_code(checkpoint, folder, toolchain):
    toolchain.spoil = late(raising(torch.OutOfMemoryError("CUDA out of memory")), CHECKS)
    engines = make_engines(checkpoint, folder)
    engines.warm_up([SHAPE])
    context_BT = make_context()
    actual_BQH, _ = forecast(engines, context_BT)

    assert engines._bucket(SHAPE).state is State.SERVING
    assert engines._bucket(SHAPE).faults == []
    assert equals_eager(checkpoint, actual_BQH, context_BT)


# Threads.


def test_calls_never_overlap(checkpoint, tmp_path, monkeypatch):
    """One thread owns the model; it is not the thread of a caller."""
    engines = make_engines(checkpoint, tmp_path, "off")
    inside, most, owners = [], [], set()

    def watched(bucket, standard_BT, fault=None):
        inside.append(1)
        most.append(len(inside))
        owners.add(threading.get_ident())
        time.sleep(0.002)
        inside.pop()
        return torch.zeros(len(standard_BT), 21, 16)

    monkeypatch.setattr(engines, "_run_eager", watched)
    with ThreadPoolExecutor(8) as pool:
        callers = set(pool.map(lambda _: forecast(engines, make_context()) and threading.get_ident(), range(24)))

    assert most == [1] * 24
    assert len(owners) == 1
    assert not owners & callers


def test_forecasts_do_not_wait_for_a_build(checkpoint, tmp_path, toolchain):
    """During a build, eager forecasts."""
    build, started, released = toolchain.build, threading.Event(), threading.Event()

    def build_when_released(request):
        started.set()
        released.wait()
        return build(request)

    toolchain.build = build_when_released
    engines = make_engines(checkpoint, tmp_path / "compiled")
    forecast(engines, make_context())
    started.wait()
    _, meanwhile = forecast(engines, make_context())
    released.set()
    settle(engines, state=State.SERVING)

    assert (meanwhile.engine, meanwhile.reason) == ("eager", "compiled code is being built")
    assert forecast(engines, make_context())[1].engine == "compiled"


def test_an_in_process_cache_that_is_not_private(checkpoint, tmp_path, monkeypatch):
    """Its files would be unpickled, so it is not used, and eager serves."""
    monkeypatch.setattr(torch, "compile", lambda *_, **__: pytest.fail("compiled, with a cache of others"))
    (tmp_path / "compiled" / "inductor").mkdir(parents=True, mode=0o777)
    (tmp_path / "compiled").chmod(0o700)
    engines = make_engines(checkpoint, tmp_path / "compiled", compiler="default")
    survives(engines, checkpoint, warning="with mode 700", state=State.COOLING)
