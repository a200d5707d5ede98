"""Which engine serves a shape: eager first, compiled code once it is built, right and quick, eager again at a fault.

No forecast waits for a compiler. A shape that keeps coming is built by a child process (`builder`) or found among
the packages of earlier runs (`artifacts`), compared with eager element by element on probes, and timed; only then
does it serve. While it serves, samples are compared again. A fault is the compiler's only if eager succeeds on the
same input: the answer is then eager's, and the shape rests for a while before it is tried again.

One thread owns the model: callers on other threads queue for it. The in-process compilers of torch are for those who
ask for them by name: they compile on that thread, so the first call of each shape waits.

Shapes: B rows, T bars, Q quantile levels, H steps.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

import torch

from forecaster.errors import InferenceError
from forecaster.log import get_logger
from forecaster.model.chronos2.bucket import PROBE_SEEDS, Bucket, BucketStatus, State, bucket_rows, padded, probe
from forecaster.model.chronos2.compilers import Candidate, CompileSettings, PackageCompiler, compile_in_process
from forecaster.model.chronos2.core import Core, Shape, standardise
from forecaster.model.chronos2.faults import WrongAnswer, describe, is_out_of_memory, raise_hidden_interrupt, warn_once
from forecaster.model.chronos2.private_folder import ArtifactsRefused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from forecaster.model.chronos2.architecture import Chronos2
    from forecaster.model.chronos2.artifacts import Note
    from forecaster.model.chronos2.bucket import Run
    from forecaster.model.chronos2.builder import Builder

_LONGEST_REST_S = 6 * 3600.0
_CALLS_BEFORE_LOOKING = 2
_LONGEST_EXIT_S = 10.0
_FEWEST_TIMINGS, _MOST_TIMINGS, _TIMING_S = 2, 5, 3.0
_log = get_logger(__name__)
_T = TypeVar("_T")


class _OnOwner(Protocol):
    """Run a call of the model on the thread that owns it, and give its answer."""

    def __call__(self, call: Callable[[], _T], /) -> _T: ...


class Answer(NamedTuple):
    """Quantiles (B, Q, H) of consecutive rows, and what made them."""

    quantiles_BQH: torch.Tensor
    engine: str
    reason: str


@dataclass(frozen=True)
class ModelStatus:
    """Which engine serves each shape seen so far, and what has been learnt about this machine.

    `fallbacks` counts answers that eager gave because compiled code failed; `most_tokens` is the largest batch, rows
    times tokens, since memory ran out.
    """

    buckets: tuple[BucketStatus, ...]
    fallbacks: int
    most_tokens: int | None


class Engines:
    """The forward pass of a model with its engines.

    Args:
        model: the checkpoint, in evaluation mode, on its device.
        model_sha256: digest of its weights and its architecture.
        versions: of the libraries that compiled code depends on.
        settings: when and how to compile.
    """

    def __init__(self, model: Chronos2, model_sha256: str, versions: str, settings: CompileSettings) -> None:
        self._model = model
        self._settings = settings
        self._packages = PackageCompiler(model, model_sha256, versions, settings)
        self._patch: int = model.chronos_config.output_patch_size
        self._buckets: dict[Shape, Bucket] = {}
        self._most_tokens: int | None = None
        self._fallbacks = 0
        self._untold: str | None = None
        self._process = os.getpid()
        self._owner = ThreadPoolExecutor(1, "model-owner")
        self._wanted: deque[Bucket] = deque()
        self._guests: list[threading.Thread] = []
        self._queueing, self._preparing = threading.Lock(), threading.Lock()
        self._close = weakref.finalize(self, _close, self._packages.builder, self._owner, self._guests)

    def __call__(self, context_BT: torch.Tensor, patches: int, group: int) -> list[Answer]:
        """Answer for contexts (B, T), whose rows stand in groups of `group`.

        One answer, or several of consecutive rows where memory does not hold them all at once.

        Raises:
            InferenceError: when eager fails as well; the compiler's fault, if any, is chained. Also in a forked
                child, where torch's threads are gone and a call could hang for ever.
            KeyboardInterrupt: at once, also when a compiler's own fault hides it.
        """
        answers = self._on_owner(lambda: self._answer(context_BT, patches, group))
        self._tell(stacklevel=5)
        return answers

    def warm_up(self, shapes: Iterable[Shape]) -> None:
        """Build, check and time compiled code for these shapes now, and wait for it; nothing where compile is off."""
        for shape in shapes if self._settings.mode != "off" else ():
            bucket = self._bucket(shape)
            if self._settings.compiler == "package":
                self._prepare(bucket, self._on_owner)
            else:
                self._on_owner(partial(self._prepare, bucket, _at_once))
        self._tell(stacklevel=4)

    def status(self) -> ModelStatus:
        """Describe every shape seen so far."""
        buckets = tuple(bucket.status() for bucket in list(self._buckets.values()))
        return ModelStatus(buckets, self._fallbacks, self._most_tokens)

    def close(self) -> None:
        """Stop building, and let go of the model."""
        self._close()
        self._buckets.clear()

    def _on_owner(self, call: Callable[[], _T]) -> _T:
        """Run on the thread that owns the model, after what is queued before."""
        if os.getpid() != self._process:
            raise InferenceError(
                "expected the process that loaded the model, found a fork of it: load it there, or spawn"
            )
        return self._owner.submit(_without_gradients, call).result()

    def _tell(self, stacklevel: int) -> None:
        """Warn of a fault on the thread of a caller, who can see it."""
        if self._untold is not None:
            warn_once(self._untold, stacklevel)
            self._untold = None

    def _bucket(self, shape: Shape) -> Bucket:
        """The bucket that a batch of this shape falls into."""
        shape = shape._replace(rows=bucket_rows(shape.rows, shape.group))
        bucket = self._buckets.get(shape)
        if bucket is None:
            bucket = self._buckets.setdefault(shape, Bucket(shape, Core(self._model, shape), self._why_not_yet()))
        return bucket

    def _answer(self, context_BT: torch.Tensor, patches: int, group: int) -> list[Answer]:
        """Answer all rows, in as few batches as memory allows."""
        rows = self._most_rows(context_BT, patches, group)
        if len(context_BT) > rows:
            return [one for some_BT in torch.split(context_BT, rows) for one in self._answer(some_BT, patches, group)]
        try:
            return [self._ask(context_BT, patches, group)]
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or len(context_BT) == group:
                raise InferenceError(f"{tuple(context_BT.shape)}: {describe(error)}") from error
        # Out of the except block, whose traceback holds the tensors that did not fit.
        self._most_tokens = len(context_BT) * self._tokens(context_BT, patches) // 2
        _log.warning("model.out_of_memory", rows=len(context_BT), most_tokens=self._most_tokens)
        if self._model.device.type == "cuda":
            torch.cuda.empty_cache()
        return self._answer(context_BT, patches, group)

    def _most_rows(self, context_BT: torch.Tensor, patches: int, group: int) -> int:
        if self._most_tokens is None:
            return len(context_BT)
        return max(1, self._most_tokens // (self._tokens(context_BT, patches) * group)) * group

    def _tokens(self, context_BT: torch.Tensor, patches: int) -> int:
        return context_BT.shape[1] // self._patch + 1 + patches

    def _ask(self, context_BT: torch.Tensor, patches: int, group: int) -> Answer:
        bucket = self._bucket(Shape.of(context_BT, patches, group, self._patch))
        standard_BT, loc_B1, scale_B1 = standardise(context_BT.to(self._model.device))
        quantiles_BQH, engine = self._run(bucket, standard_BT)
        answer = Answer(quantiles_BQH * scale_B1[:, :, None] + loc_B1[:, :, None], engine, bucket.reason)
        self._consider(bucket)
        return answer

    def _run(self, bucket: Bucket, standard_BT: torch.Tensor) -> tuple[torch.Tensor, str]:
        """Answer in units of each row's deviation, with the engine that did."""
        compiled = bucket.compiled_for(len(standard_BT))
        if compiled is None:
            return self._run_eager(bucket, standard_BT), "eager"
        fault: Exception | None = None
        try:
            found_BQH = compiled(padded(standard_BT, bucket.shape))[: len(standard_BT)]
            if not found_BQH.isfinite().all():
                fault = WrongAnswer("compiled code answered NaN or infinity")
        except Exception as error:  # Dynamo and Inductor raise any type; eager decides whose fault it is
            raise_hidden_interrupt(error)
            if is_out_of_memory(error):
                raise
            fault = error
        bucket.compiled_calls += 1
        if fault is None and (bucket.compiled_calls - 1) % self._settings.sample_every:
            return found_BQH, "compiled"
        expected_BQH = self._run_eager(bucket, standard_BT, fault)
        if fault is None:
            bucket.samples += 1
            fault = bucket.compare(expected_BQH, found_BQH)
        if fault is None:
            return found_BQH, "compiled"
        if expected_BQH.isfinite().all():
            self._rest(bucket, fault)
        self._fallbacks += 1
        return expected_BQH, "eager"

    def _run_eager(self, bucket: Bucket, standard_BT: torch.Tensor, fault: Exception | None = None) -> torch.Tensor:
        started = time.perf_counter()
        try:
            quantiles_BQH: torch.Tensor = bucket.eager(standard_BT)
            if quantiles_BQH.is_cuda:
                torch.cuda.synchronize()  # the answer is copied to the host next, so this only makes the time true
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            what = f"{tuple(standard_BT.shape)}: eager: {error}" + (f"; compiled: {fault}" if fault else "")
            raise InferenceError(what) from (fault or error)
        bucket.eager_calls += 1
        bucket.eager_spent += time.perf_counter() - started
        return quantiles_BQH

    def _consider(self, bucket: Bucket) -> None:
        """See whether a bucket should have compiled code by now, and have it made."""
        if self._settings.mode == "off" or bucket.state not in {State.EAGER, State.COOLING}:
            return
        if bucket.state is State.COOLING and time.monotonic() < bucket.retry_at:
            return
        if not self._pays(bucket) and (bucket.looked or bucket.eager_calls < _CALLS_BEFORE_LOOKING):
            return
        if self._settings.compiler != "package":
            self._prepare(bucket, _at_once)
            return
        with self._queueing:
            bucket.state = State.BUILDING
            self._wanted.append(bucket)
            if not any(guest.is_alive() for guest in self._guests):
                self._guests[:] = [threading.Thread(target=self._work, name="compile-guest", daemon=True)]
                self._guests[0].start()

    def _why_not_yet(self) -> str:
        if self._settings.mode == "auto":
            worth = self._settings.build_after_s
            return f"no compiled code yet: compile is auto, which builds a shape after {worth:g} s of eager work"
        return "compile is off" if self._settings.mode == "off" else "compiled code is being built"

    def _pays(self, bucket: Bucket) -> bool:
        """Whether building is worth its time: under `auto`, once the shape has cost as much as a build may gain."""
        return self._settings.mode == "on" or bucket.eager_spent >= self._settings.build_after_s

    def _work(self) -> None:
        """Make compiled code for what is wanted, one bucket after the other, then end."""
        while True:
            with self._queueing:
                if not self._wanted or not self._close.alive:
                    self._guests.clear()
                    return
                bucket = self._wanted.popleft()
            self._prepare(bucket, self._on_owner, may_build=self._pays(bucket), awaited=False)

    def _prepare(self, bucket: Bucket, on_owner: _OnOwner, *, may_build: bool = True, awaited: bool = True) -> None:
        """Bring compiled code into service, or say why not; on any thread, model calls going through `on_owner`."""
        with self._preparing:
            if bucket.state in {State.SERVING, State.SLOWER}:
                return
            try:
                found = self._candidate(bucket, may_build=may_build, awaited=awaited)
                if found is None:
                    on_owner(lambda: self._wait(bucket))
                    return
                note = self._judge(bucket, found, on_owner)
                on_owner(lambda: self._promote(bucket, found.run, note))
            except Exception as error:  # noqa: BLE001 - as above: eager has answered on the same probes, or will
                raise_hidden_interrupt(error)
                fault = error
                with suppress(RuntimeError):  # no owner any more: the process is ending
                    on_owner(lambda: self._rest(bucket, fault))

    def _candidate(self, bucket: Bucket, *, may_build: bool, awaited: bool) -> Candidate | None:
        """Compiled code that has not been checked yet: kept, or built if that is allowed."""
        if self._settings.compiler != "package":
            return compile_in_process(bucket, self._settings)
        found: Candidate | None = None
        try:
            found = self._packages.find(bucket)
        except ArtifactsRefused as refusal:
            self._note_fault(bucket, refusal)
        if found is None and may_build:
            bucket.reason = "compiled code is being built"
            found = self._packages.build(bucket, awaited=awaited)
            if found.refusal is not None:
                self._note_fault(bucket, found.refusal)
        return found

    def _judge(self, bucket: Bucket, candidate: Candidate, on_owner: _OnOwner) -> Note:
        """Compare with eager on probes, then time both in turns, unless that was done on this hardware before.

        Raises:
            WrongAnswer: when an element differs by more than ENGINE_NOISE.
        """
        engines: tuple[Run, Run] = (bucket.eager, candidate.run)
        for seed in PROBE_SEEDS:
            standard_BT = probe(bucket.shape, seed, self._patch).to(self._model.device)
            expected_BQH, found_BQH = (on_owner(partial(run, standard_BT)) for run in engines)
            fault = bucket.compare(expected_BQH, found_BQH)
            if fault is not None:
                raise fault
        if candidate.note.eager_s is not None:
            return candidate.note
        seconds: tuple[list[float], list[float]] = ([], [])
        while len(seconds[0]) < _FEWEST_TIMINGS or (
            len(seconds[0]) < _MOST_TIMINGS and sum(map(sum, seconds)) < _TIMING_S
        ):
            for run, taken in zip(engines, seconds, strict=True):
                taken.append(on_owner(partial(_timed, run, standard_BT)))
        return replace(candidate.note, eager_s=median(seconds[0]), compiled_s=median(seconds[1]))

    def _promote(self, bucket: Bucket, run: Run, note: Note) -> None:
        """Put compiled code that is right into service, if it pays."""
        assert note.eager_s is not None  # noqa: S101 - for the type checker: _judge measured them
        assert note.compiled_s is not None  # noqa: S101
        bucket.eager_s, bucket.compiled_s = note.eager_s, note.compiled_s
        took = f"{1e3 * note.compiled_s:.3g} ms against eager's {1e3 * note.eager_s:.3g}, {bucket.shape.rows} rows"
        if self._settings.mode == "auto" and note.compiled_s >= note.eager_s:
            bucket.state = State.SLOWER
            bucket.reason = f"compiled code is right, but no quicker here: {took}"
        else:
            bucket.compiled, bucket.state = run, State.SERVING
            bucket.reason = f"compiled code, checked to {bucket.difference:.1g} of the spread: {took}"
        _log.info("compile.judged", state=bucket.state.value, reason=bucket.reason)
        if self._settings.compiler == "package":
            self._packages.note(bucket, note)

    def _wait(self, bucket: Bucket) -> None:
        bucket.state, bucket.looked = State.EAGER, True

    def _rest(self, bucket: Bucket, fault: Exception) -> None:
        """Take a bucket out of service for a while, and put its package where it is not found again."""
        seconds = min(self._settings.rest_s * 2**bucket.rests, _LONGEST_REST_S)
        bucket.compiled, bucket.state, bucket.retry_at = None, State.COOLING, time.monotonic() + seconds
        bucket.rests += 1
        bucket.reason = f"compiled code failed and rests for {seconds:g} s: {describe(fault)}"
        self._note_fault(bucket, fault)
        if self._settings.compiler == "package":
            self._packages.discard(bucket, describe(fault))

    def _note_fault(self, bucket: Bucket, fault: Exception) -> None:
        """Make a fault visible: in status(), in the log, and as the process's one warning."""
        bucket.faults.append(describe(fault))
        self._untold = describe(fault)
        _log.warning("compile.fell_back", fault=describe(fault), reason=bucket.reason)


def _without_gradients(call: Callable[[], _T]) -> _T:
    with torch.no_grad():
        return call()


def _at_once(call: Callable[[], _T]) -> _T:
    """Stand for `on_owner` where this is the owner's thread already."""
    return call()


def _timed(run: Run, standard_BT: torch.Tensor) -> float:
    started = time.perf_counter()
    run(standard_BT)
    if standard_BT.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - started


def _close(builder: Builder, owner: ThreadPoolExecutor, guests: list[threading.Thread]) -> None:
    """End a build, and wait for who loads or checks code: a thread inside torch must not meet the end of Python."""
    builder.close()
    owner.shutdown(wait=False, cancel_futures=True)
    for guest in list(guests):
        if guest is not threading.current_thread():
            guest.join(_LONGEST_EXIT_S)
