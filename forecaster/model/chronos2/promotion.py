"""How compiled code comes into service: load or build, compare with eager, time, promote; and cool down at a fault.

A frequent shape is built by a child process (`builder`), or loaded from the packages of earlier runs (`artifacts`). It
is compared with eager element by element on probes, and timed. Only then does it serve. After a fault it cools down.

The in-process compilers of torch must be configured by name: they compile on the thread that owns the model, so the
first call of each shape waits.

Shapes: B rows, T bars, Q quantile levels, H steps.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import replace
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Protocol, TypeVar

import torch

from forecaster.log import get_logger
from forecaster.model.chronos2.bucket import PROBE_SEEDS, Bucket, State, probe
from forecaster.model.chronos2.compilers import Candidate, CompileSettings, PackageCompiler, compile_in_process
from forecaster.model.chronos2.faults import describe, raise_hidden_interrupt, warn_once
from forecaster.model.chronos2.private_folder import ArtifactsRefused

if TYPE_CHECKING:
    from collections.abc import Callable

    from forecaster.model.chronos2.artifacts import Note
    from forecaster.model.chronos2.bucket import Run
    from forecaster.model.chronos2.owner import OwnerThread

_EXIT_TIMEOUT_S = 10.0
_MAX_COOL_DOWN_S = 6 * 3600.0
_CALLS_BEFORE_SEARCH = 2
_MIN_TIMINGS, _MAX_TIMINGS, _TIMING_S = 2, 5, 3.0
_log = get_logger(__name__)
_T = TypeVar("_T")


class _RunOnOwner(Protocol):
    """Run a call on the thread that owns the model, and return its result."""

    def __call__(self, call: Callable[[], _T], /) -> _T: ...


class Promoter:
    """Brings compiled code into service, on background threads or on the owner's.

    Args:
        packages: finds, builds and stores packages.
        settings: when and how to compile.
        patch: bars of one patch.
        device: of the model.
        owner: the thread that owns the model.
    """

    def __init__(
        self, packages: PackageCompiler, settings: CompileSettings, patch: int, device: torch.device, owner: OwnerThread
    ) -> None:
        self._packages = packages
        self._settings = settings
        self._patch = patch
        self._device = device
        self._owner = owner
        self._warning: str | None = None
        self._closed = threading.Event()
        self._queue: deque[Bucket] = deque()
        self._threads: list[threading.Thread] = []
        self._queueing, self._preparing = threading.Lock(), threading.Lock()

    def initial_reason(self) -> str:
        """Return the reason why a new shape is eager."""
        if self._settings.mode == "auto":
            seconds = self._settings.build_after_s
            return f"no compiled code yet: compile is auto, which builds a shape after {seconds:g} s of eager work"
        return "compile is off" if self._settings.mode == "off" else "compiled code is being built"

    def consider(self, bucket: Bucket) -> None:
        """Start a background build for a shape that is due; called on the owner's thread."""
        if self._settings.mode == "off" or bucket.state not in {State.EAGER, State.COOLING}:
            return
        if bucket.state is State.COOLING and time.monotonic() < bucket.retry_at:
            return
        if not self._pays(bucket) and (bucket.searched or bucket.eager_calls < _CALLS_BEFORE_SEARCH):
            return
        if self._settings.compiler != "package":
            self._prepare(bucket, _run_directly)
            return
        with self._queueing:
            bucket.state = State.BUILDING
            self._queue.append(bucket)
            if not any(thread.is_alive() for thread in self._threads):
                self._threads[:] = [threading.Thread(target=self._work, name="background-build", daemon=True)]
                self._threads[0].start()

    def warm_up(self, bucket: Bucket) -> None:
        """Build, check and time compiled code of a shape now, and wait for it."""
        if self._settings.compiler == "package":
            self._prepare(bucket, self._owner.run)
        else:
            self._owner.run(partial(self._prepare, bucket, _run_directly))

    def cool_down(self, bucket: Bucket, fault: Exception) -> None:
        """Take a bucket out of service for some time, and quarantine its package."""
        seconds = min(self._settings.cool_down_s * 2**bucket.cool_downs, _MAX_COOL_DOWN_S)
        bucket.compiled, bucket.state, bucket.retry_at = None, State.COOLING, time.monotonic() + seconds
        bucket.cool_downs += 1
        bucket.reason = f"compiled code failed, next try in {seconds:g} s: {describe(fault)}"
        self._record_fault(bucket, fault)
        if self._settings.compiler == "package":
            self._packages.discard(bucket, describe(fault))

    def warn_caller(self, stacklevel: int) -> None:
        """Warn of the latest fault on the thread of a caller, where the warning is seen."""
        if self._warning is not None:
            warn_once(self._warning, stacklevel)
            self._warning = None

    def stop(self) -> None:
        """Stop the build in progress, and start no other."""
        self._closed.set()
        self._packages.builder.close()

    def join(self) -> None:
        """Wait for threads that load or check code: Python must not exit while they run torch."""
        for thread in list(self._threads):
            if thread is not threading.current_thread():
                thread.join(_EXIT_TIMEOUT_S)

    def _pays(self, bucket: Bucket) -> bool:
        """Return whether a build is worth its time: under `auto`, after enough eager work on the shape."""
        return self._settings.mode == "on" or bucket.eager_spent >= self._settings.build_after_s

    def _work(self) -> None:
        """Prepare the queued buckets, one after the other, then end."""
        while True:
            with self._queueing:
                if not self._queue or self._closed.is_set():
                    self._threads.clear()
                    return
                bucket = self._queue.popleft()
            self._prepare(bucket, self._owner.run, may_build=self._pays(bucket), awaited=False)

    def _prepare(self, bucket: Bucket, run: _RunOnOwner, *, may_build: bool = True, awaited: bool = True) -> None:
        """Bring compiled code into service, or record why not; calls of the model go through `run`."""
        with self._preparing:
            if bucket.state in {State.SERVING, State.SLOWER}:
                return
            try:
                candidate = self._candidate(bucket, may_build=may_build, awaited=awaited)
                if candidate is None:
                    run(lambda: _stay_eager(bucket))
                    return
                note = self._benchmark(bucket, candidate, run)
                run(lambda: self._promote(bucket, candidate.run, note))
            except Exception as error:  # noqa: BLE001 - Dynamo and Inductor raise any type; eager serves meanwhile
                raise_hidden_interrupt(error)
                fault = error
                with suppress(RuntimeError):  # the owner is gone: the process is ending
                    run(lambda: self.cool_down(bucket, fault))

    def _candidate(self, bucket: Bucket, *, may_build: bool, awaited: bool) -> Candidate | None:
        """Return unchecked compiled code: a stored package, or a new build if that is allowed."""
        if self._settings.compiler != "package":
            return compile_in_process(bucket, self._settings)
        candidate: Candidate | None = None
        try:
            candidate = self._packages.find(bucket)
        except ArtifactsRefused as refusal:
            self._record_fault(bucket, refusal)
        if candidate is None and may_build:
            bucket.reason = "compiled code is being built"
            candidate = self._packages.build(bucket, awaited=awaited)
            if candidate.refusal is not None:
                self._record_fault(bucket, candidate.refusal)
        return candidate

    def _benchmark(self, bucket: Bucket, candidate: Candidate, run: _RunOnOwner) -> Note:
        """Compare with eager on probes, then time both in turns, unless there are times on this hardware.

        Raises:
            WrongAnswer: when an element differs by more than ENGINE_NOISE.
        """
        engines: tuple[Run, Run] = (bucket.eager, candidate.run)
        for seed in PROBE_SEEDS:
            standard_BT = probe(bucket.shape, seed, self._patch).to(self._device)
            eager_BQH, compiled_BQH = (run(partial(engine, standard_BT)) for engine in engines)
            fault = bucket.compare(eager_BQH, compiled_BQH)
            if fault is not None:
                raise fault
        if candidate.note.eager_s is not None:
            return candidate.note
        seconds: tuple[list[float], list[float]] = ([], [])
        while len(seconds[0]) < _MIN_TIMINGS or (len(seconds[0]) < _MAX_TIMINGS and sum(map(sum, seconds)) < _TIMING_S):
            for engine, times in zip(engines, seconds, strict=True):
                times.append(run(partial(_timed, engine, standard_BT)))
        return replace(candidate.note, eager_s=median(seconds[0]), compiled_s=median(seconds[1]))

    def _promote(self, bucket: Bucket, compiled: Run, note: Note) -> None:
        """Put correct compiled code into service, if it is faster."""
        assert note.eager_s is not None  # noqa: S101 - for the type checker: _benchmark measured them
        assert note.compiled_s is not None  # noqa: S101
        bucket.eager_s, bucket.compiled_s = note.eager_s, note.compiled_s
        times = f"{1e3 * note.compiled_s:.3g} ms, eager {1e3 * note.eager_s:.3g} ms, {bucket.shape.rows} rows"
        if self._settings.mode == "auto" and note.compiled_s >= note.eager_s:
            bucket.state = State.SLOWER
            bucket.reason = f"compiled code is correct, but not faster here: {times}"
        else:
            bucket.compiled, bucket.state = compiled, State.SERVING
            bucket.reason = f"compiled code, checked to {bucket.difference:.1g} of the spread: {times}"
        _log.info("compile.benchmarked", state=bucket.state.value, reason=bucket.reason)
        if self._settings.compiler == "package":
            self._packages.note(bucket, note)

    def _record_fault(self, bucket: Bucket, fault: Exception) -> None:
        """Report a fault in `status()`, in the log, and in the one warning of the process."""
        bucket.faults.append(describe(fault))
        self._warning = describe(fault)
        _log.warning("compile.fell_back", fault=describe(fault), reason=bucket.reason)


def _stay_eager(bucket: Bucket) -> None:
    bucket.state, bucket.searched = State.EAGER, True


def _run_directly(call: Callable[[], _T]) -> _T:
    """Run a call on the owner's thread, from there."""
    return call()


def _timed(engine: Run, standard_BT: torch.Tensor) -> float:
    started = time.perf_counter()
    engine(standard_BT)
    if standard_BT.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - started
