"""Chronos-2 for open, high, low and close: loading, checking, batching.

One series is one group of four rows that the model forecasts jointly; series never share a group.
The forward pass is in `core`, the choice of engine in `compiled`.

Shapes: S series, C the four price fields, B = 4·S rows, T bars, Q quantile levels, H steps, F fields.
"""

from __future__ import annotations

import time
from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from forecaster.arguments import check_integer
from forecaster.bars import FIELDS, Bars
from forecaster.config import NANO, SHORTEST_CONTEXT
from forecaster.context import Context
from forecaster.errors import InvalidContext
from forecaster.forecast import ModelId, OHLCForecast, Provenance, repair
from forecaster.model.chronos2.bucket import bucket_rows, fine_step
from forecaster.model.chronos2.checkpoint import library_versions, load_checkpoint
from forecaster.model.chronos2.checkpoint_config import checkpoint_digest
from forecaster.model.chronos2.compiled import Engines, ModelStatus
from forecaster.model.chronos2.compilers import CompileMode, CompileSettings
from forecaster.model.chronos2.core import OHLC_GROUP, Missing, Shape
from forecaster.model.chronos2.reference import reference_bars, reference_patch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from forecaster.model.chronos2.architecture import Chronos2

DEFAULT_CONTEXT = 256
TOKENS_PER_BATCH = {"cpu": 2048, "cuda": 32_768}
"""Rows times tokens that run at once: on a CPU they should fit its caches (docs/findings.md)."""


class Chronos2OHLCWrapper:
    """A Chronos-2 model that forecasts bars. Use `from_pretrained`; safe to call from several threads.

    Args:
        model: the model in evaluation mode, on its device.
        name: what the configuration calls it.
        weights_sha256: digest of the weights' file.
        compile: `auto`, `on` or `off`, or all the settings.

    `id` is its name and a digest of the weights and the architecture that run. `forward_seconds` is the time that it
    has spent in the model so far.
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
        self._latest = ("eager", "nothing was forecast yet")
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
        """What made the latest forecast: `compiled` or `eager`."""
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
            context_length: bars that the model sees, 16 to `max_context`; 256, or `max_context` where that is less,
                when left out.

        Raises:
            InvalidContext: for too few bars, or a horizon or context that the model does not have.
        """
        return self.predict_ohlc_batch([bars], horizon, context_length)[0]

    def predict_ohlc_batch(
        self, bars: Sequence[Bars], horizon: int, context_length: int | None = None
    ) -> list[OHLCForecast]:
        """Forecast many series at once, each from its own last bar; answers in the order of `bars`."""
        horizon = self._check_horizon(horizon)
        if context_length is None:
            context_length = min(DEFAULT_CONTEXT, self.max_context)
        context_length = check_integer("context_length", context_length, SHORTEST_CONTEXT, self.max_context)
        for one in bars:
            if not len(one):
                raise InvalidContext(f"bars of {one.key}", f"at least {SHORTEST_CONTEXT}", 0)
        contexts = [Context.ending_at(one, int(one.close_time[-1]), context_length, 1) for one in bars]
        return self.predict(contexts, horizon)

    def predict(self, contexts: Sequence[Context], horizon: int) -> list[OHLCForecast]:
        """Forecast `horizon` bars after each context, in the order of `contexts`.

        Contexts of like length run together, in batches sized to the machine; a context past the model's
        limit is cut to its newest bars.

        Raises:
            InvalidContext: for a horizon or context that the model does not have.
            InferenceError: when the model failed on a valid call.
            NonFiniteForecast: when it answered NaN or infinity.
        """
        forecasts: dict[int, OHLCForecast] = {}
        for made in self._run(self._rows_of_each(contexts), horizon):
            raw_SFHQ = made.quantiles_SGQH.transpose(0, 1, 3, 2)
            for i, raw_FHQ, values_FHQ in zip(made.positions, raw_SFHQ, repair(raw_SFHQ), strict=True):
                context = contexts[i]
                about = self._provenance(context, made)
                forecasts[i] = OHLCForecast(
                    context.key, context.cutoff, self.quantile_levels, raw_FHQ, values_FHQ, about
                )
        return [forecasts[i] for i in range(len(contexts))]

    def rows_of(self, context: Context) -> NDArray[np.float64]:
        """The rows (4, T) that a context becomes: its newest bars and, for a model trained so, a reference patch."""
        return self._rows_of_each([context])[0]

    def predict_rows(
        self,
        rows_BT: NDArray[np.float64],
        horizon: int,
        group: int = 1,
        known_BT: NDArray[np.bool_] | None = None,
    ) -> NDArray[np.float64]:
        """Forecast rows of any series, by the same path as bars: quantiles (B, Q, H) of each row.

        Args:
            rows_BT: values, NaN where one is missing; rows of a group stand together.
            horizon: steps to forecast.
            group: rows that are forecast jointly: 1 for single series, 5 for OHLC with a past covariate.
            known_BT: where a value is known; wherever it is not NaN, when left out.

        Raises:
            InvalidContext: for another shape, infinite values, a mask that does not match its values, too few values.
        """
        horizon, group = self._check_horizon(horizon), check_integer("group", group)
        rows_BT = _check_rows(np.asarray(rows_BT, np.float64), group, known_BT)
        groups_SGT = rows_BT.reshape(-1, group, rows_BT.shape[1])
        quantiles_SGQH = np.empty((len(groups_SGT), group, len(self.quantile_levels), horizon))
        for made in self._run(list(groups_SGT), horizon):
            quantiles_SGQH[made.positions] = made.quantiles_SGQH
        return quantiles_SGQH.reshape(len(rows_BT), -1, horizon)

    def warm_up(self, shapes: Iterable[tuple[int, int, int]], on_shape: Callable[[], object] = int) -> None:
        """Build, check and time compiled code now, and wait for it; nothing where compile is off.

        Args:
            shapes: (series, bars, horizon) of calls to come, for OHLC bars of which none is missing.
            on_shape: called after each batch shape that those calls fall into.
        """
        for shape in self.batch_shapes(shapes):
            self._loaded().warm_up([shape])
            on_shape()

    def batch_shapes(self, shapes: Iterable[tuple[int, int, int]]) -> list[Shape]:
        """The batches that calls of (series, bars, horizon) are cut into, each once."""
        found: dict[Shape, None] = {}
        for series, bars, horizon in shapes:
            horizon = self._check_horizon(horizon)  # noqa: PLW2901 - as an int
            given = min(bars, self.max_context) + self._reference_bars
            length = self._padded_length(given)
            most = self._most_groups(length, horizon, OHLC_GROUP)
            for some in {min(series, most), series % most} - {0}:
                missing = Missing.NOTHING if length == given and not self._reference_bars else Missing.BARS
                shape = Shape(bucket_rows(some * OHLC_GROUP, OHLC_GROUP), length, -(-horizon // self.patch), missing)
                found[shape] = None
        return list(found)

    def status(self) -> ModelStatus:
        """Describe which engine serves each shape seen so far, why, how often, and what was measured."""
        return self._loaded().status()

    def unload(self) -> None:
        """Let go of the weights and of any build in progress; a later call of predict raises InvalidContext."""
        if self._engines is not None:
            self._engines.close()
        self._engines = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _loaded(self) -> Engines:
        if self._engines is None:
            raise InvalidContext(f"model {self.name}", "a loaded model", "one that was unloaded")
        return self._engines

    def _check_horizon(self, horizon: int) -> int:
        return check_integer("horizon", horizon, maximum=self.max_horizon)

    def _padded_length(self, bars: int) -> int:
        return -(-min(bars, self._longest) // self.patch) * self.patch

    def _most_groups(self, length: int, horizon: int, group: int) -> int:
        """Groups in one batch: as many as TOKENS_PER_BATCH allows, and a number that compiled code is built for."""
        tokens = group * (length // self.patch + 1 + -(-horizon // self.patch))
        most: int = max(1, TOKENS_PER_BATCH.get(self._device.partition(":")[0], 2048) // tokens)
        return most // fine_step(most) * fine_step(most)

    def _rows_of_each(self, contexts: Sequence[Context]) -> list[NDArray[np.float64]]:
        """The rows (4, T) of each context, made for all of one shape at once.

        Raises:
            InvalidContext: for a context that no model could forecast from.
        """
        rows: dict[int, NDArray[np.float64]] = {}
        alike: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for i, context in enumerate(contexts):
            alike[context.ohlc_CT.shape].append(i)
        for positions in alike.values():
            newest_SCT = _checked([contexts[i] for i in positions])[:, :, -self.max_context :]
            rows_SCT = np.concatenate([newest_SCT, reference_patch(newest_SCT, self._reference_bars)], axis=2)
            rows.update(zip(positions, rows_SCT, strict=True))
        return [rows[i] for i in range(len(contexts))]

    def _run(self, groups: Sequence[NDArray[np.float64]], horizon: int) -> Iterator[_Made]:
        """Forecast groups of rows (G, T), those of like length and like gaps in one batch."""
        engines = self._loaded()
        horizon = self._check_horizon(horizon)
        for positions, rows_SGT, anchor_SG in self._batches(groups, horizon):
            context_BT = torch.from_numpy(rows_SGT.reshape(-1, rows_SGT.shape[2]))
            first = 0
            started = time.perf_counter()
            answers = engines(context_BT, -(-horizon // self.patch), rows_SGT.shape[1])
            seconds = time.perf_counter() - started
            self.forward_seconds += seconds
            for answer in answers:
                quantiles_BQH = answer.quantiles_BQH[:, :, :horizon].cpu().numpy().astype(np.float64)
                quantiles_SGQH = quantiles_BQH.reshape(-1, rows_SGT.shape[1], *quantiles_BQH.shape[1:])
                some = slice(first, first + len(quantiles_SGQH))
                first = some.stop
                self._latest = (answer.engine, answer.reason)
                yield _Made(
                    positions[some],
                    quantiles_SGQH + anchor_SG[some, :, None, None],
                    *self._latest,
                    (len(quantiles_BQH), context_BT.shape[1]),
                    seconds,
                )

    def _batches(
        self, groups: Sequence[NDArray[np.float64]], horizon: int
    ) -> Iterator[tuple[list[int], NDArray[np.float32], NDArray[np.float64]]]:
        """Positions of the groups of a batch, their rows (S, G, T), and what was taken off each row.

        A series with gaps shares no batch with one without: what stands beside it must not change its code path.
        """
        alike: dict[int, list[int]] = defaultdict(list)
        for i, rows_GT in enumerate(groups):
            alike[self._padded_length(rows_GT.shape[1])].append(i)
        for length, positions in sorted(alike.items()):
            rows_SGT = _padded([groups[i] for i in positions], length)
            most = self._most_groups(length, horizon, rows_SGT.shape[1])
            for lacking in _by_missing(rows_SGT, self.patch):
                for first in range(0, len(lacking), most):
                    some = lacking[first : first + most]
                    yield [positions[i] for i in some], *_anchored(rows_SGT[some])

    def _provenance(self, context: Context, made: _Made) -> Provenance:
        return Provenance(
            model_id=self.name,
            revision=self.id.digest,
            weights_sha256=self._weights_sha256,
            dtype="float32",
            device=self._device,
            engine=made.engine,
            engine_reason=made.reason,
            input_sha256=context.sha256,
            batch_shape=made.batch_shape,
            library_versions=library_versions(),
            seconds=made.seconds,
        )


class _Made(NamedTuple):
    """Quantiles (S, G, Q, H) of the groups at `positions`, and what made them."""

    positions: list[int]
    quantiles_SGQH: NDArray[np.float64]
    engine: str
    reason: str
    batch_shape: tuple[int, ...]
    seconds: float


def _checked(contexts: Sequence[Context]) -> NDArray[np.float64]:
    """Give the prices (S, C, T) of contexts of one shape."""
    ohlc_SCT = np.stack([one.ohlc_CT for one in contexts])
    if ohlc_SCT.shape[1:-1] != (len(FIELDS),):
        raise InvalidContext(f"context of {contexts[0].key}", "shape (4, bars)", ohlc_SCT.shape[1:])
    finite_SCT = np.isfinite(ohlc_SCT)
    wrong_S = np.isinf(ohlc_SCT).any(axis=(1, 2)) | ~finite_SCT[:, :, -1:].all(axis=(1, 2))
    if wrong_S.any():
        raise InvalidContext(
            f"context of {contexts[int(wrong_S.argmax())].key}",
            "finite prices, NaN only where a bar is missing",
            "±inf or a missing last bar",
        )
    bars_S = finite_SCT.all(axis=1).sum(axis=1)
    fewest = int(bars_S.argmin())
    if bars_S[fewest] < SHORTEST_CONTEXT:
        raise InvalidContext(
            f"context of {contexts[fewest].key}", f"at least {SHORTEST_CONTEXT} bars", int(bars_S[fewest])
        )
    return ohlc_SCT


def _check_rows(rows_BT: NDArray[np.float64], group: int, known_BT: NDArray[np.bool_] | None) -> NDArray[np.float64]:
    """Give the rows with NaN wherever they are not known."""
    if rows_BT.ndim != 2 or group < 1 or not len(rows_BT) or len(rows_BT) % group:  # noqa: PLR2004 - (B, T)
        raise InvalidContext("rows", f"shape (rows, values), rows a multiple of the group, {group}", rows_BT.shape)
    if np.isinf(rows_BT).any():
        raise InvalidContext("rows", "finite values, NaN only where one is missing", "±inf")
    if known_BT is not None:
        if known_BT.shape != rows_BT.shape:
            raise InvalidContext("mask", f"shape {rows_BT.shape}, that of its values", known_BT.shape)
        if np.isnan(rows_BT[known_BT]).any():
            raise InvalidContext("mask", "values wherever it says that they are known", "NaN")
        rows_BT = np.where(known_BT, rows_BT, np.nan)
    fewest = int(np.isfinite(rows_BT).reshape(-1, group, rows_BT.shape[1]).any(axis=1).sum(axis=1).min())
    if fewest < SHORTEST_CONTEXT:
        raise InvalidContext("rows", f"at least {SHORTEST_CONTEXT} values in each group", fewest)
    return rows_BT


def _padded(groups: Sequence[NDArray[np.float64]], length: int) -> NDArray[np.float64]:
    """Groups as rows (S, G, T), cut to the newest values or padded on the left with NaN."""
    rows_SGT = np.full((len(groups), len(groups[0]), length), np.nan)
    for rows_GT, padded_GT in zip(groups, rows_SGT, strict=True):
        padded_GT[:, max(0, length - rows_GT.shape[1]) :] = rows_GT[:, -length:]
    return rows_SGT


def _by_missing(rows_SGT: NDArray[np.float64], patch: int) -> list[list[int]]:
    """Which groups lack nothing, which lack values, and which whole patches."""
    missing_SPp = np.isnan(rows_SGT).reshape(len(rows_SGT), -1, patch)
    value_S, patch_S = np.any(missing_SPp, axis=(1, 2)), np.any(np.all(missing_SPp, axis=2), axis=1)
    return [np.flatnonzero(one).tolist() for one in (~value_S, value_S & ~patch_S, patch_S)]


def _anchored(rows_SGT: NDArray[np.float64]) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Rows less the last known value of each (S, G), and that value.

    It is taken off in float64, before the cast: differences of a large price survive it.
    """
    last_SG1 = rows_SGT.shape[2] - 1 - np.isfinite(rows_SGT[:, :, ::-1]).argmax(axis=2, keepdims=True)
    anchor_SG1 = np.nan_to_num(np.take_along_axis(rows_SGT, last_SG1, axis=2))
    return (rows_SGT - anchor_SG1).astype(np.float32), anchor_SG1[:, :, 0]
