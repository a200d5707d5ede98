"""Chronos-2 for open, high, low and close.

One series is one group of four rows that the model forecasts jointly; series never share a group.
The rows are made in `rows`, the forward pass is in `core`, the choice of engine in `compiled`.

Shapes: S series, C the four price fields, B = 4·S rows, T bars, Q quantile levels, H steps, F fields.
"""

from __future__ import annotations

import time
from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from forecaster.arguments import check_integer
from forecaster.config import NANO, SHORTEST_CONTEXT
from forecaster.context import Context
from forecaster.errors import InferenceError, InvalidContext
from forecaster.forecast import ModelId, OHLCForecast, Provenance, repair
from forecaster.model.chronos2.bucket import bucket_rows, fine_step
from forecaster.model.chronos2.checkpoint import library_versions, load_checkpoint
from forecaster.model.chronos2.checkpoint_config import checkpoint_digest
from forecaster.model.chronos2.compiled import Engines, ModelStatus
from forecaster.model.chronos2.compilers import CompileMode, CompileSettings
from forecaster.model.chronos2.core import OHLC_GROUP, Missing, Shape
from forecaster.model.chronos2.reference import reference_bars, reference_patch
from forecaster.model.chronos2.rows import anchored, checked_prices, masked_rows, padded_rows, split_by_missing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from forecaster.bars import Bars
    from forecaster.model.chronos2.architecture import Chronos2

DEFAULT_CONTEXT = 256
TOKENS_PER_BATCH = {"cpu": 2048, "cuda": 32_768}
"""Rows times tokens of one batch; on a CPU they should fit its caches (docs/findings.md)."""


class Chronos2OHLCWrapper:
    """Forecast bars with a Chronos-2 model. Create it with `from_pretrained`. Calls are thread-safe.

    Args:
        model: the model in evaluation mode, on its device.
        name: its name in the configuration.
        weights_sha256: digest of the weights file.
        compile: `auto`, `on` or `off`, or all settings.

    Attributes:
        id: `name`, and a digest of the weights and the architecture.
        forward_seconds: time spent in the forward pass so far.
        patch: bars of one patch.
        max_context: most bars of context that the model uses.
        max_horizon: most bars that it can forecast.
        quantile_levels: levels of its quantiles.
    """

    def __init__(
        self,
        model: Chronos2,
        name: str,
        weights_sha256: str,
        compile: CompileMode | CompileSettings = "auto",
    ) -> None:
        settings = compile if isinstance(compile, CompileSettings) else CompileSettings(compile)
        digest = checkpoint_digest(weights_sha256, model.config)
        self._engines: Engines | None = Engines(model, digest, library_versions(), settings)
        self._latest = ("eager", "no forecast yet")
        self.forward_seconds = 0.0
        self.name = name
        self.id = ModelId.of(name, digest)
        self._weights_sha256 = weights_sha256
        self._device = str(model.device)
        chronos_config = model.chronos_config
        self.patch: int = chronos_config.output_patch_size
        self.max_horizon = model.config.max_horizon
        self._reference_bars = reference_bars(model)
        self._longest: int = chronos_config.context_length
        self.max_context = model.config.max_context
        self.quantile_levels = tuple(float(level) for level in chronos_config.quantiles)

    @classmethod
    def from_pretrained(
        cls,
        model_id: str | Path = NANO,
        *,
        revision: str | None = None,
        compile: CompileMode | CompileSettings = "auto",
        device: str = "auto",
    ) -> Chronos2OHLCWrapper:
        """Load `nano` (bundled), a folder, or `hub:OWNER/NAME` at a commit, its `revision`.

        Raises:
            ModelLoadError: when files are missing, damaged, or not a Chronos-2.
        """
        model, weights_sha256 = load_checkpoint(str(model_id), revision, device)
        return cls(model, str(model_id), weights_sha256, compile)

    @property
    def engine(self) -> str:
        """Engine of the latest forecast: `compiled` or `eager`."""
        return self._latest[0]

    @property
    def engine_reason(self) -> str:
        """Why that engine, in one sentence."""
        return self._latest[1]

    def predict_ohlc(self, bars: Bars, horizon: int, context_length: int | None = None) -> OHLCForecast:
        """Forecast the `horizon` bars that follow the last of `bars`.

        Args:
            bars: the series.
            horizon: bars to forecast, 1 to `max_horizon`.
            context_length: bars of context, 16 to `max_context`. Default: the smaller of 256 and `max_context`.

        Raises:
            InvalidArgument: for a horizon or context length out of range.
            InvalidContext: for too few bars.
        """
        return self.predict_ohlc_batch([bars], horizon, context_length)[0]

    def predict_ohlc_batch(
        self, bars: Sequence[Bars], horizon: int, context_length: int | None = None
    ) -> list[OHLCForecast]:
        """Forecast many series at once, each from its own last bar, in the order of `bars`."""
        horizon = self._check_horizon(horizon)
        if context_length is None:
            context_length = min(DEFAULT_CONTEXT, self.max_context)
        context_length = check_integer("context_length", context_length, SHORTEST_CONTEXT, self.max_context)
        for series in bars:
            if not len(series):
                raise InvalidContext(f"bars of {series.key}", f"at least {SHORTEST_CONTEXT}", 0)
        contexts = [Context.ending_at(series, int(series.close_time[-1]), context_length, 1) for series in bars]
        return self.predict(contexts, horizon)

    def predict(self, contexts: Sequence[Context], horizon: int) -> list[OHLCForecast]:
        """Forecast `horizon` bars after each context, in the order of `contexts`.

        Contexts of similar length run in one batch, sized for the machine. A context longer than `max_context` is cut
        to its latest bars.

        Raises:
            InvalidArgument: for a horizon out of range.
            InvalidContext: for a context that the model cannot forecast from.
            InferenceError: when the model fails on a valid call.
            NonFiniteForecast: when the model returns NaN or infinity.
        """
        forecasts: dict[int, OHLCForecast] = {}
        for output in self._run(self._rows_of_all(contexts), horizon):
            raw_SFHQ = output.quantiles_SGQH.transpose(0, 1, 3, 2)
            for i, raw_FHQ, values_FHQ in zip(output.positions, raw_SFHQ, repair(raw_SFHQ), strict=True):
                context = contexts[i]
                provenance = self._provenance(context, output)
                forecasts[i] = OHLCForecast(
                    context.key, context.cutoff, self.quantile_levels, raw_FHQ, values_FHQ, provenance
                )
        return [forecasts[i] for i in range(len(contexts))]

    def rows_of(self, context: Context) -> NDArray[np.float64]:
        """Return the rows (4, T) of a context: its latest bars and, if the model was trained so, a reference patch."""
        return self._rows_of_all([context])[0]

    def predict_rows(
        self,
        rows_BT: NDArray[np.float64],
        horizon: int,
        group: int = 1,
        known_BT: NDArray[np.bool_] | None = None,
    ) -> NDArray[np.float64]:
        """Forecast rows of any series, on the same path as bars: quantiles (B, Q, H) of each row.

        Args:
            rows_BT: values, NaN where missing; rows of a group are adjacent.
            horizon: steps to forecast.
            group: number of rows forecast jointly: 1 for single series, 5 for OHLC with a past covariate.
            known_BT: mask of known values. Default: those that are not NaN.

        Raises:
            InvalidArgument: for a horizon or group out of range, or a mask that does not match the values.
            InvalidContext: for rows of another shape, infinite values or too few values.
        """
        horizon, group = self._check_horizon(horizon), check_integer("group", group)
        rows_BT = masked_rows(np.asarray(rows_BT, np.float64), group, known_BT)
        groups_SGT = rows_BT.reshape(-1, group, rows_BT.shape[1])
        quantiles_SGQH = np.empty((len(groups_SGT), group, len(self.quantile_levels), horizon))
        for output in self._run(list(groups_SGT), horizon):
            quantiles_SGQH[output.positions] = output.quantiles_SGQH
        return quantiles_SGQH.reshape(len(rows_BT), -1, horizon)

    def warm_up(self, shapes: Iterable[tuple[int, int, int]], on_shape: Callable[[], object] = int) -> None:
        """Build, check and time compiled code now, and wait for it; nothing where compile is off.

        Args:
            shapes: (series, bars, horizon) of later calls, for OHLC bars without gaps.
            on_shape: called after each batch shape of those calls.
        """
        for shape in self.batch_shapes(shapes):
            self._loaded().warm_up([shape])
            on_shape()

    def batch_shapes(self, shapes: Iterable[tuple[int, int, int]]) -> list[Shape]:
        """Return the batch shapes of calls of (series, bars, horizon), each once."""
        batches: dict[Shape, None] = {}
        for series, bars, horizon in shapes:
            horizon = self._check_horizon(horizon)  # noqa: PLW2901 - as an int
            bars_used = min(bars, self.max_context) + self._reference_bars
            length = self._padded_length(bars_used)
            most = self._most_groups(length, horizon, OHLC_GROUP)
            for groups in {min(series, most), series % most} - {0}:
                missing = Missing.NOTHING if length == bars_used and not self._reference_bars else Missing.BARS
                shape = Shape(bucket_rows(groups * OHLC_GROUP, OHLC_GROUP), length, -(-horizon // self.patch), missing)
                batches[shape] = None
        return list(batches)

    def status(self) -> ModelStatus:
        """Describe the engine of each shape seen so far: reason, number of calls, faults and times."""
        return self._loaded().status()

    def unload(self) -> None:
        """Release the weights and stop any build; a later call of `predict` raises InferenceError."""
        if self._engines is not None:
            self._engines.close()
        self._engines = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _loaded(self) -> Engines:
        if self._engines is None:
            raise InferenceError(f"expected a loaded model, found that {self.name} was unloaded; load it again")
        return self._engines

    def _check_horizon(self, horizon: int) -> int:
        return check_integer("horizon", horizon, maximum=self.max_horizon)

    def _padded_length(self, bars: int) -> int:
        return -(-min(bars, self._longest) // self.patch) * self.patch

    def _most_groups(self, length: int, horizon: int, group: int) -> int:
        """Return the groups of one batch: as many as TOKENS_PER_BATCH allows, and a number that is compiled."""
        tokens = group * (length // self.patch + 1 + -(-horizon // self.patch))
        most: int = max(1, TOKENS_PER_BATCH.get(self._device.partition(":")[0], 2048) // tokens)
        return most // fine_step(most) * fine_step(most)

    def _rows_of_all(self, contexts: Sequence[Context]) -> list[NDArray[np.float64]]:
        """Return the rows (4, T) of each context, computed for all of one shape at once.

        Raises:
            InvalidContext: for a context that no model can forecast from.
        """
        rows: dict[int, NDArray[np.float64]] = {}
        by_shape: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for i, context in enumerate(contexts):
            by_shape[context.ohlc_CT.shape].append(i)
        for positions in by_shape.values():
            latest_SCT = checked_prices([contexts[i] for i in positions])[:, :, -self.max_context :]
            rows_SCT = np.concatenate([latest_SCT, reference_patch(latest_SCT, self._reference_bars)], axis=2)
            rows.update(zip(positions, rows_SCT, strict=True))
        return [rows[i] for i in range(len(contexts))]

    def _run(self, groups: Sequence[NDArray[np.float64]], horizon: int) -> Iterator[_BatchOutput]:
        """Forecast groups of rows (G, T); those of similar length and gaps are one batch."""
        engines = self._loaded()
        horizon = self._check_horizon(horizon)
        for positions, rows_SGT, anchor_SG in self._batches(groups, horizon):
            context_BT = torch.from_numpy(rows_SGT.reshape(-1, rows_SGT.shape[2]))
            start = 0
            started = time.perf_counter()
            outputs = engines(context_BT, -(-horizon // self.patch), rows_SGT.shape[1])
            seconds = time.perf_counter() - started
            self.forward_seconds += seconds
            for output in outputs:
                quantiles_BQH = output.quantiles_BQH[:, :, :horizon].cpu().numpy().astype(np.float64)
                quantiles_SGQH = quantiles_BQH.reshape(-1, rows_SGT.shape[1], *quantiles_BQH.shape[1:])
                part = slice(start, start + len(quantiles_SGQH))
                start = part.stop
                self._latest = (output.engine, output.reason)
                yield _BatchOutput(
                    positions[part],
                    quantiles_SGQH + anchor_SG[part, :, None, None],
                    *self._latest,
                    (len(quantiles_BQH), context_BT.shape[1]),
                    seconds,
                )

    def _batches(
        self, groups: Sequence[NDArray[np.float64]], horizon: int
    ) -> Iterator[tuple[list[int], NDArray[np.float32], NDArray[np.float64]]]:
        """Yield batches: positions of the groups, their rows (S, G, T), and the anchor taken off each row, (S, G).

        Series with and without gaps are in different batches: other series must not change the code path of a series.
        """
        by_length: dict[int, list[int]] = defaultdict(list)
        for i, rows_GT in enumerate(groups):
            by_length[self._padded_length(rows_GT.shape[1])].append(i)
        for length, positions in sorted(by_length.items()):
            rows_SGT = padded_rows([groups[i] for i in positions], length)
            most = self._most_groups(length, horizon, rows_SGT.shape[1])
            for members in split_by_missing(rows_SGT, self.patch):
                for start in range(0, len(members), most):
                    batch = members[start : start + most]
                    yield [positions[i] for i in batch], *anchored(rows_SGT[batch])

    def _provenance(self, context: Context, output: _BatchOutput) -> Provenance:
        return Provenance(
            model_id=self.name,
            revision=self.id.digest,
            weights_sha256=self._weights_sha256,
            dtype="float32",
            device=self._device,
            engine=output.engine,
            engine_reason=output.reason,
            input_sha256=context.sha256,
            batch_shape=output.batch_shape,
            library_versions=library_versions(),
            seconds=output.seconds,
        )


class _BatchOutput(NamedTuple):
    """Quantiles (S, G, Q, H) of the groups at `positions`, and how they were computed."""

    positions: list[int]
    quantiles_SGQH: NDArray[np.float64]
    engine: str
    reason: str
    batch_shape: tuple[int, ...]
    seconds: float
