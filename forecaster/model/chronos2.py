"""Chronos-2 for open, high, low and close: loading, checking, batching.

One series is one group of four rows that the model forecasts jointly; series never share a group.
The forward pass is in `core`, the choice of engine in `compiled`.

Shapes: S series, C the four price fields, B = 4·S rows, T bars, Q quantile levels, H steps, F fields.
"""

from __future__ import annotations

import hashlib
import time
from collections import defaultdict
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from chronos.chronos2 import Chronos2Model
from chronos.chronos2.config import Chronos2CoreConfig
from safetensors import SafetensorError
from transformers.utils import logging as hub_logging

from forecaster.bars import FIELDS, Bars, Context
from forecaster.config import is_hub_id
from forecaster.errors import InvalidContext, ModelLoadError
from forecaster.forecast import OHLCForecast, Provenance, repair
from forecaster.model.compiled import CompileMode, GuardedForward
from forecaster.model.core import Missing, grouped_forward

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

NANO = "nano"
NANO_FOLDER = Path(__file__).parent / NANO
TOKENS_PER_BATCH = {"cpu": 2048, "cuda": 32_768}
"""Rows times tokens that run at once: on a CPU they should fit its caches (docs/findings.md)."""
NEEDED_LEVELS = (0.1, 0.5, 0.9)


class Chronos2OHLCWrapper:
    """A Chronos-2 model that forecasts bars. Use `from_pretrained`; safe to call from several threads.

    Args:
        model: the model in evaluation mode, on its device.
        name: what the configuration calls it.
        revision: which weights: a hub commit, or the first digits of their sha256.
        weights_sha256: digest of the weights' file.
        compile: `auto`, `on` or `off`.
    """

    def __init__(
        self, model: Chronos2Model, name: str, revision: str, weights_sha256: str, compile: CompileMode = "auto"
    ) -> None:
        self._model: Chronos2Model | None = model
        self._forward = GuardedForward(grouped_forward(model), compile, model.device)
        self.name = name
        self._revision = revision
        self._weights_sha256 = weights_sha256
        self._device = str(model.device)
        chronos_config = model.chronos_config
        self.patch: int = chronos_config.output_patch_size
        self.max_horizon: int = chronos_config.max_output_patches * self.patch
        self.max_context: int = chronos_config.context_length
        self.quantile_levels = tuple(float(level) for level in chronos_config.quantiles)

    @classmethod
    def from_pretrained(
        cls,
        model_id: str | Path = NANO,
        *,
        revision: str | None = None,
        compile: CompileMode = "auto",
        device: str = "auto",
    ) -> Chronos2OHLCWrapper:
        """Load `nano` (bundled), a folder, or a hub repository at a pinned revision.

        Raises:
            ModelLoadError: when files are missing, damaged, or not a Chronos-2.
        """
        folder = _find_folder(str(model_id), revision)
        weights_sha256 = _check_weights(str(model_id), folder)
        model = _load(str(model_id), folder).to(_pick_device(str(model_id), device))
        return cls(model, str(model_id), revision or weights_sha256[:12], weights_sha256, compile)

    @property
    def engine(self) -> str:
        """`compiled` or `eager`."""
        return self._forward.engine

    @property
    def engine_reason(self) -> str:
        """Why that engine, in one sentence."""
        return self._forward.reason

    def predict_ohlc(self, bars: Bars, horizon: int, context_length: int = 256) -> OHLCForecast:
        """Forecast the `horizon` bars that follow the last of `bars`.

        Raises:
            InvalidContext: for no bars, or a horizon or context that the model does not have.
        """
        return self.predict_ohlc_batch([bars], horizon, context_length)[0]

    def predict_ohlc_batch(self, bars: Sequence[Bars], horizon: int, context_length: int = 256) -> list[OHLCForecast]:
        """Forecast many series at once, each from its own last bar; answers in the order of `bars`."""
        for one in bars:
            if not len(one):
                raise InvalidContext(f"bars of {one.key}", "at least one", 0)
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
        self._check(contexts, horizon)
        forecasts: dict[int, OHLCForecast] = {}
        for length, positions in self._batches(contexts, horizon):
            some = [contexts[i] for i in positions]
            forecasts.update(zip(positions, self._predict_batch(some, length, horizon), strict=True))
        return [forecasts[i] for i in range(len(contexts))]

    def unload(self) -> None:
        """Let go of the weights; a later call of predict raises InvalidContext."""
        self._model = None
        del self._forward
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _check(self, contexts: Sequence[Context], horizon: int) -> None:
        if self._model is None:
            raise InvalidContext(f"model {self.name}", "a loaded model", "one that was unloaded")
        if not 1 <= horizon <= self.max_horizon:
            raise InvalidContext("horizon", f"1 to {self.max_horizon}", horizon)
        for context in contexts:
            ohlc_CT = context.ohlc_CT
            if ohlc_CT.ndim != 2 or ohlc_CT.shape[0] != len(FIELDS) or not ohlc_CT.shape[1]:  # noqa: PLR2004 - (C, T)
                raise InvalidContext(f"context of {context.key}", "shape (4, bars)", ohlc_CT.shape)
            if np.isinf(ohlc_CT).any() or not np.isfinite(ohlc_CT[:, -1]).all():
                raise InvalidContext(
                    f"context of {context.key}",
                    "finite prices, NaN only where a bar is missing",
                    "±inf or a missing last bar",
                )

    def _batches(self, contexts: Sequence[Context], horizon: int) -> Iterator[tuple[int, list[int]]]:
        """Positions of contexts that share a padded length, as many at a time as TOKENS_PER_BATCH allows."""
        buckets: dict[int, list[int]] = defaultdict(list)
        for i, context in enumerate(contexts):
            bars = min(context.ohlc_CT.shape[1], self.max_context)
            buckets[-(-bars // self.patch) * self.patch].append(i)
        for length, positions in sorted(buckets.items()):
            tokens = len(FIELDS) * (length // self.patch + 1 + -(-horizon // self.patch))
            most = max(1, TOKENS_PER_BATCH.get(self._device.partition(":")[0], 2048) // tokens)
            for first in range(0, len(positions), most):
                yield length, positions[first : first + most]

    def _predict_batch(self, contexts: Sequence[Context], length: int, horizon: int) -> list[OHLCForecast]:
        started = time.perf_counter()
        anchor_S = np.array([context.last_close for context in contexts])
        context_BT = torch.from_numpy(_rows(contexts, anchor_S, length))
        missing = Missing.of(context_BT, self.patch)
        quantiles_BQH = self._forward(context_BT.to(self._device), -(-horizon // self.patch), missing)[:, :, :horizon]
        raw_SFQH = quantiles_BQH.cpu().numpy().astype(np.float64).reshape(len(contexts), len(FIELDS), -1, horizon)
        raw_SFHQ = raw_SFQH.transpose(0, 1, 3, 2) + anchor_S[:, None, None, None]
        seconds = time.perf_counter() - started
        return [
            OHLCForecast(
                context.key,
                context.cutoff,
                self.quantile_levels,
                raw_FHQ,
                values_FHQ,
                self._provenance(context, tuple(context_BT.shape), seconds),
            )
            for context, raw_FHQ, values_FHQ in zip(contexts, raw_SFHQ, repair(raw_SFHQ), strict=True)
        ]

    def _provenance(self, context: Context, batch_shape: tuple[int, ...], seconds: float) -> Provenance:
        return Provenance(
            model_id=self.name,
            revision=self._revision,
            weights_sha256=self._weights_sha256,
            dtype="float32",
            device=self._device,
            engine=self.engine,
            engine_reason=self.engine_reason,
            input_sha256=context.sha256,
            batch_shape=batch_shape,
            library_versions=_library_versions(),
            seconds=seconds,
        )


def _rows(contexts: Sequence[Context], anchor_S: NDArray[np.float64], length: int) -> NDArray[np.float32]:
    """Contexts as rows (B, T), padded on the left with NaN.

    The last close is taken off in float64, before the cast: differences of a large price survive it.
    """
    rows_SCT = np.full((len(contexts), len(FIELDS), length), np.nan, np.float32)
    for context, anchor, row_CT in zip(contexts, anchor_S, rows_SCT, strict=True):
        newest_CT = context.ohlc_CT[:, -length:]
        row_CT[:, length - newest_CT.shape[1] :] = newest_CT - anchor
    return rows_SCT.reshape(-1, length)


def _find_folder(model_id: str, revision: str | None) -> Path:
    if model_id == NANO:
        return NANO_FOLDER
    if not is_hub_id(model_id):
        return Path(model_id).expanduser()
    if revision is None:
        raise ModelLoadError(model_id, "a pinned revision for a hub repository", "none")
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - only who names a hub repository
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError  # noqa: PLC0415 - the same

    try:
        patterns = ["config.json", "model.safetensors"]
        return Path(snapshot_download(model_id, revision=revision, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        raise ModelLoadError(model_id, f"revision {revision} in the cache or on a reachable hub", error) from error


def _check_weights(model_id: str, folder: Path) -> str:
    """Digest of the weights; compared with the folder's SHA256SUMS where there is one."""
    weights = folder / "model.safetensors"
    for file in (folder / "config.json", weights):
        if not file.is_file():
            raise ModelLoadError(model_id, f"a file {file.name} in {folder}", "none")
    with weights.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    sums = folder / "SHA256SUMS"
    if sums.is_file():
        named = (line.split() for line in sums.read_text().splitlines())
        expected = next((known for known, name in named if name == weights.name), None)
        if expected != digest:
            raise ModelLoadError(model_id, f"{weights} with sha256 {expected}", f"{digest}: the file is damaged")
    return digest


def _load(model_id: str, folder: Path) -> Chronos2Model:
    hub_logging.disable_progress_bar()
    try:
        config = Chronos2CoreConfig.from_pretrained(folder)
        if not hasattr(config, "chronos_config"):
            raise ModelLoadError(model_id, "a Chronos-2 config.json with chronos_config", "one without")
        model, loading = Chronos2Model.from_pretrained(
            folder, config=config, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, AssertionError, SafetensorError) as error:
        raise ModelLoadError(model_id, f"a Chronos-2 model in {folder}", f"{type(error).__name__}: {error}") from error
    wrong = {kind: sorted(map(str, keys)) for kind, keys in loading.items() if keys}
    if wrong:
        raise ModelLoadError(model_id, "weights that fit config.json", f"{wrong!s:.300}")
    if not all(torch.isfinite(weight).all() for weight in model.parameters()):
        raise ModelLoadError(model_id, "finite weights", "NaN or infinity")
    if not set(NEEDED_LEVELS) <= {round(level, 6) for level in model.chronos_config.quantiles}:
        raise ModelLoadError(model_id, f"quantile levels with {NEEDED_LEVELS}", model.chronos_config.quantiles)
    return model.eval().requires_grad_(requires_grad=False)


def _pick_device(model_id: str, device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
        return torch.device(device)
    except (RuntimeError, AssertionError) as error:
        raise ModelLoadError(
            model_id, "a device that torch has here: auto, cpu or cuda", f"{device}: {error}"
        ) from error


@cache
def _library_versions() -> str:
    return ", ".join(f"{name} {version(name)}" for name in ("torch", "chronos-forecasting", "transformers"))
