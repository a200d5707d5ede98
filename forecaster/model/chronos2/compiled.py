"""The forward pass of a model with two engines: eager, and compiled code where it serves.

No forecast waits for a compiler: compiled code is built and checked in `promotion`. While it serves, samples are
compared with eager. A fault counts against compiled code only if eager succeeds on the same input. The forecast is then
eager's, and the shape cools down before it is tried again.

One thread owns the model; callers on other threads queue for it.

Shapes: B rows, T bars, Q quantile levels, H steps.
"""

from __future__ import annotations

import time
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch

from forecaster.errors import InferenceError
from forecaster.log import get_logger
from forecaster.model.chronos2.bucket import Bucket, BucketStatus, bucket_rows, padded
from forecaster.model.chronos2.compilers import CompileSettings, PackageCompiler
from forecaster.model.chronos2.core import Core, Shape, standardise
from forecaster.model.chronos2.faults import WrongAnswer, describe, is_out_of_memory, raise_hidden_interrupt
from forecaster.model.chronos2.owner import OwnerThread
from forecaster.model.chronos2.promotion import Promoter

if TYPE_CHECKING:
    from collections.abc import Iterable

    from forecaster.model.chronos2.architecture import Chronos2

_log = get_logger(__name__)


class EngineOutput(NamedTuple):
    """Quantiles (B, Q, H) of consecutive rows, and the engine that computed them."""

    quantiles_BQH: torch.Tensor
    engine: str
    reason: str


@dataclass(frozen=True)
class ModelStatus:
    """The engine of each shape seen so far.

    `fallbacks` counts forecasts by eager because compiled code failed. `most_tokens` is the largest batch, rows times
    tokens, since memory ran out; None if it never did.
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
        self._owner = OwnerThread()
        self._promoter = Promoter(self._packages, settings, self._patch, model.device, self._owner)
        self._close = weakref.finalize(self, _close, self._promoter, self._owner)

    def __call__(self, context_BT: torch.Tensor, patches: int, group: int) -> list[EngineOutput]:
        """Forecast contexts (B, T), whose rows are in groups of `group`.

        The output is in several parts of consecutive rows where memory does not hold all rows at once.

        Raises:
            InferenceError: when eager fails as well; the fault of compiled code, if any, is chained. Also in a forked
                child process, where torch's threads do not exist and a call could hang.
            KeyboardInterrupt: at once, also when a fault of the compiler hides it.
        """
        outputs = self._owner.run(lambda: self._run_rows(context_BT, patches, group))
        self._promoter.warn_caller(stacklevel=5)
        return outputs

    def warm_up(self, shapes: Iterable[Shape]) -> None:
        """Build, check and time compiled code for these shapes now, and wait for it; nothing where compile is off."""
        for shape in shapes if self._settings.mode != "off" else ():
            self._promoter.warm_up(self._bucket(shape))
        self._promoter.warn_caller(stacklevel=4)

    def status(self) -> ModelStatus:
        """Describe every shape seen so far."""
        buckets = tuple(bucket.status() for bucket in list(self._buckets.values()))
        return ModelStatus(buckets, self._fallbacks, self._most_tokens)

    def close(self) -> None:
        """Stop building, and release the model."""
        self._close()
        self._buckets.clear()

    def _bucket(self, shape: Shape) -> Bucket:
        """Return the bucket of a batch of this shape."""
        shape = shape._replace(rows=bucket_rows(shape.rows, shape.group))
        bucket = self._buckets.get(shape)
        if bucket is None:
            reason = self._promoter.initial_reason()
            bucket = self._buckets.setdefault(shape, Bucket(shape, Core(self._model, shape), reason))
        return bucket

    def _run_rows(self, context_BT: torch.Tensor, patches: int, group: int) -> list[EngineOutput]:
        """Run all rows, in as few batches as memory allows."""
        rows = self._most_rows(context_BT, patches, group)
        if len(context_BT) > rows:
            parts = torch.split(context_BT, rows)
            return [output for part_BT in parts for output in self._run_rows(part_BT, patches, group)]
        try:
            return [self._run_batch(context_BT, patches, group)]
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or len(context_BT) == group:
                raise InferenceError(f"{tuple(context_BT.shape)}: {describe(error)}") from error
        # Outside of the except block, whose traceback holds the tensors that did not fit.
        self._most_tokens = len(context_BT) * self._tokens(context_BT, patches) // 2
        _log.warning("model.out_of_memory", rows=len(context_BT), most_tokens=self._most_tokens)
        if self._model.device.type == "cuda":
            torch.cuda.empty_cache()
        return self._run_rows(context_BT, patches, group)

    def _most_rows(self, context_BT: torch.Tensor, patches: int, group: int) -> int:
        if self._most_tokens is None:
            return len(context_BT)
        return max(1, self._most_tokens // (self._tokens(context_BT, patches) * group)) * group

    def _tokens(self, context_BT: torch.Tensor, patches: int) -> int:
        return context_BT.shape[1] // self._patch + 1 + patches

    def _run_batch(self, context_BT: torch.Tensor, patches: int, group: int) -> EngineOutput:
        bucket = self._bucket(Shape.of(context_BT, patches, group, self._patch))
        standard_BT, loc_B1, scale_B1 = standardise(context_BT.to(self._model.device))
        quantiles_BQH, engine = self._run(bucket, standard_BT)
        output = EngineOutput(quantiles_BQH * scale_B1[:, :, None] + loc_B1[:, :, None], engine, bucket.reason)
        self._promoter.consider(bucket)
        return output

    def _run(self, bucket: Bucket, standard_BT: torch.Tensor) -> tuple[torch.Tensor, str]:
        """Return quantiles in units of each row's deviation, and the engine that computed them."""
        compiled = bucket.compiled_for(len(standard_BT))
        if compiled is None:
            return self._run_eager(bucket, standard_BT), "eager"
        fault: Exception | None = None
        try:
            compiled_BQH = compiled(padded(standard_BT, bucket.shape))[: len(standard_BT)]
            if not compiled_BQH.isfinite().all():
                fault = WrongAnswer("compiled code returned NaN or infinity")
        except Exception as error:  # Dynamo and Inductor raise any type; eager decides whose fault it is
            raise_hidden_interrupt(error)
            if is_out_of_memory(error):
                raise
            fault = error
        bucket.compiled_calls += 1
        if fault is None and (bucket.compiled_calls - 1) % self._settings.sample_every:
            return compiled_BQH, "compiled"
        eager_BQH = self._run_eager(bucket, standard_BT, fault)
        if fault is None:
            bucket.samples += 1
            fault = bucket.compare(eager_BQH, compiled_BQH)
        if fault is None:
            return compiled_BQH, "compiled"
        if eager_BQH.isfinite().all():
            self._promoter.cool_down(bucket, fault)
        self._fallbacks += 1
        return eager_BQH, "eager"

    def _run_eager(self, bucket: Bucket, standard_BT: torch.Tensor, fault: Exception | None = None) -> torch.Tensor:
        started = time.perf_counter()
        try:
            quantiles_BQH: torch.Tensor = bucket.eager(standard_BT)
            if quantiles_BQH.is_cuda:
                torch.cuda.synchronize()  # the result is copied to the host next, so this only makes the time true
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            reason = f"{tuple(standard_BT.shape)}: eager: {error}" + (f"; compiled: {fault}" if fault else "")
            raise InferenceError(reason) from (fault or error)
        bucket.eager_calls += 1
        bucket.eager_spent += time.perf_counter() - started
        return quantiles_BQH


def _close(promoter: Promoter, owner: OwnerThread) -> None:
    promoter.stop()
    owner.close()
    promoter.join()
