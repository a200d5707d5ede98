"""Fine-tune a Chronos-2 on the bars of one or more series, by chronos-forecasting's own `fit`.

Training windows look like inputs of a forecast: a window is cut as `Context` cuts one, ends with a real bar, keeps
missing slots as NaN, and is one group of four rows. A run on a CPU is a pure function of weights, bars and plan.
Whether the result is better is not tested here.

Shapes: C the four price fields, T slots of the calendar, W windows.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
import shutil
import tempfile
import time
import warnings
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
import torch

from forecaster.arguments import check_integer
from forecaster.bars import FIELDS
from forecaster.config import SHORTEST_CONTEXT
from forecaster.errors import ConfigError, InvalidArgument, NotEnoughBars
from forecaster.model.chronos2.checkpoint import load_checkpoint
from forecaster.model.chronos2.checkpoint_files import write_sums
from forecaster.model.chronos2.reference import reference_bars, reference_patch
from forecaster.model.chronos2.upstream import to_upstream, upstream_versions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from chronos import Chronos2Pipeline
    from chronos.chronos2 import Chronos2Model
    from numpy.typing import NDArray
    from transformers import TrainerCallback

    from forecaster.bars import Bars

ABOUT_FILE = "finetune.json"
PUBLISHED = (ABOUT_FILE, "SHA256SUMS", "config.json", "model.safetensors")
"""Files of the folder, the weights last: without them nothing can be loaded."""
LEARNING_RATES = {"full": 3e-5, "lora": 3e-4}


@dataclasses.dataclass(frozen=True)
class FinetunePlan:
    """Everything that determines a fine-tuning besides weights and bars.

    Args:
        mode: `full` trains every weight; `lora` trains low-rank additions, which are merged at the end.
        steps: optimiser steps; the learning rate falls linearly to 0 over them.
        learning_rate: of the first step; by default one for the mode.
        batch_size: windows in a step, each of four rows.
        context: slots that the model sees.
        horizon: slots that it learns to forecast.
        seed: of the windows, their order, and LoRA's initial weights.

    Raises:
        ConfigError: for an invalid value.
    """

    mode: Literal["full", "lora"] = "full"
    steps: int = 500
    learning_rate: float | None = None
    batch_size: int = 32
    context: int = 256
    horizon: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        """Check each value."""
        if self.mode not in LEARNING_RATES:
            raise ConfigError("mode", f"one of {', '.join(LEARNING_RATES)}", self.mode)
        minimums = {"steps": 1, "batch_size": 1, "context": SHORTEST_CONTEXT, "horizon": 1, "seed": 0}
        for name, least in minimums.items():
            try:
                check_integer(name, getattr(self, name), least)
            except InvalidArgument as error:
                raise ConfigError(name, f"a whole number, {least} or more", getattr(self, name)) from error
        if not 0 < self.first_learning_rate < math.inf:
            raise ConfigError("learning_rate", "a number above 0", self.learning_rate)

    @property
    def first_learning_rate(self) -> float:
        """The learning rate of the first step."""
        return LEARNING_RATES[self.mode] if self.learning_rate is None else self.learning_rate


def finetune(
    model: str | Path,
    bars: Sequence[Bars],
    plan: FinetunePlan,
    out: Path,
    on_step: Callable[[int, float], None],
    revision: str | None = None,
) -> Path:
    """Fine-tune `model` on all of `bars`, write a Chronos-2 folder to `out` and return `out`.

    `on_step(step, loss)` is called after every step. Besides the weights, the folder holds `finetune.json` (plan,
    source, bars, seconds) and `SHA256SUMS`. `out` cannot be loaded before the result was loaded and checked. After an
    error or Ctrl-C it is empty.

    Args:
        model: `nano`, a folder, or `hub:OWNER/NAME` at `revision`.
        bars: one or more series; windows are drawn evenly from all of them.
        plan: everything else that determines the result.
        out: a new or empty folder.
        on_step: called with the step, from 0, and its loss; may raise to stop.
        revision: commit of a hub repository.

    Raises:
        ConfigError: for a plan outside the model's limits, a missing extra, a loss that is not finite, or an `out`
            that is not empty.
        NotEnoughBars: if a series has no window.
        ModelLoadError: if `model` cannot be loaded, or the result cannot.
    """
    _check_extra(plan)
    checkpoint, source_sha256 = load_checkpoint(str(model), revision, "auto")
    source = to_upstream(checkpoint)
    _check_limits(plan, source)
    windows = Windows(bars, plan.context, plan.horizon, reference_bars(source))
    started = time.monotonic()
    with _all_or_nothing(out) as scratch:
        tuned = fit(source, windows, plan, scratch, on_step)
        about = {
            "plan": dataclasses.asdict(plan) | {"learning_rate": plan.first_learning_rate},
            "source": {"model": str(model), "revision": revision, "weights_sha256": source_sha256},
            "series": [_describe_series(series) for series in bars],
            "windows": len(windows),
            "seconds": round(time.monotonic() - started, 1),
            "libraries": upstream_versions(),
        }
        _publish(tuned, about, scratch, out)
    return out


def require_empty(out: Path) -> None:
    """Require a new or empty folder.

    Raises:
        ConfigError: if it holds something, or is no folder.
    """
    files = sorted(path.name for path in out.iterdir()) if out.is_dir() else [out.name] * out.exists()
    if files:
        raise ConfigError(str(out), "a new or empty folder", files)


def fit(
    source: Chronos2Model,
    windows: Windows,
    plan: FinetunePlan,
    scratch: Path,
    on_step: Callable[[int, float], None],
) -> Chronos2Model:
    """Train a copy of `source` and return it in evaluation mode, LoRA merged; `fit` writes its files to `scratch`."""
    from transformers import set_seed  # noqa: PLC0415 - only training needs transformers

    set_seed(plan.seed)
    with warnings.catch_warnings():
        # peft calls a deprecated name of transformers; users cannot change that.
        warnings.simplefilter("ignore", FutureWarning)
        tuned = _run_fit(source, windows, plan, scratch, _reporter(on_step, plan))
    model: Any = tuned.model.merge_and_unload() if plan.mode == "lora" else tuned.model
    trained: Chronos2Model = model.eval()
    return trained


class Windows(Sequence[dict[str, Any]]):
    """All training windows of one or more series, as prepared inputs of `fit`.

    The context of a window ends with a real bar, as in a forecast, and has at least `SHORTEST_CONTEXT` real bars; at
    least one bar of its horizon is real. Between the two are `reference` slots, for a model with a reference patch. The
    last value before the horizon is subtracted from each row in float64, as the wrapper does. The model's own
    normalisation would undo any shift, but only after the cast to float32, which loses the cents of a price of 1e6. By
    itself, `fit` would also cut contexts that end in missing slots, and draw a short series as often as a long one.

    Raises:
        NotEnoughBars: if a series has no window.
    """

    def __init__(self, bars: Sequence[Bars], context: int, horizon: int, reference: int = 0) -> None:
        if not bars:
            raise ConfigError("bars", "at least one series", "none")
        self.past = context + reference
        self._context = context
        self._horizon = horizon
        self._reference = reference
        self._slots = [_to_slots(series) for series in bars]
        ends = [_context_ends(slots_CT, context, horizon) for slots_CT in self._slots]
        for series, ends_W in zip(bars, ends, strict=True):
            if not len(ends_W):
                raise NotEnoughBars(series.key, SHORTEST_CONTEXT + horizon, len(series))
        self._series_W = np.repeat(np.arange(len(ends)), [len(ends_W) for ends_W in ends])
        self._ends_W = np.concatenate(ends)

    def __len__(self) -> int:
        """Count the windows."""
        return len(self._ends_W)

    @overload
    def __getitem__(self, at: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, at: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, at: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        """Cut one window, (4, past + horizon), padded on the left with NaN; `fit` splits it after the past."""
        if isinstance(at, slice):
            return [self[i] for i in range(len(self))[at]]
        slots_CT, end = self._slots[self._series_W[at]], int(self._ends_W[at])
        past_CT, ahead_CT = slots_CT[:, max(0, end - self._context) : end], slots_CT[:, end : end + self._horizon]
        reference_Cp = reference_patch(past_CT, self._reference)
        known_CT = np.concatenate([past_CT, reference_Cp, ahead_CT], axis=1) - past_CT[:, -1:]
        window_CT = np.full((len(FIELDS), self.past + self._horizon), np.nan, np.float32)
        window_CT[:, window_CT.shape[1] - known_CT.shape[1] :] = known_CT
        return {
            "context": torch.from_numpy(window_CT),
            "future_covariates": torch.full((len(FIELDS), self._horizon), torch.nan),
            "n_targets": len(FIELDS),
            "n_covariates": 0,
            "n_future_covariates": 0,
        }


def _run_fit(
    source: Chronos2Model, windows: Windows, plan: FinetunePlan, scratch: Path, report: TrainerCallback
) -> Chronos2Pipeline:
    from chronos import Chronos2Pipeline  # noqa: PLC0415 - it loads transformers

    return Chronos2Pipeline(source).fit(
        windows,
        prediction_length=plan.horizon,
        finetune_mode=plan.mode,
        context_length=windows.past,
        min_past=windows.past,
        learning_rate=plan.first_learning_rate,
        num_steps=plan.steps,
        batch_size=len(FIELDS) * plan.batch_size,
        output_dir=scratch / "fit",
        callbacks=[report],
        remove_printer_callback=True,
        disable_tqdm=True,
        seed=plan.seed,
        # float32 throughout, as when it is served.
        bf16=False,
        tf32=False,
        logging_steps=1,
        # A loss of NaN is reported, not replaced by the mean of the losses before it.
        logging_nan_inf_filter=False,
    )


def _to_slots(bars: Bars) -> NDArray[np.float64]:
    """Return prices (C, T) in every slot of the calendar from the first bar to the last; NaN for a missing bar."""
    if not len(bars):
        return np.empty((len(FIELDS), 0))
    first, last = int(bars.open_time[0]), int(bars.open_time[-1])
    slots_T = bars.key.trading_calendar.opens_between(bars.key.timeframe, first, last + 1)
    prices_CT = np.full((len(FIELDS), len(slots_T)), np.nan)
    prices_CT[:, np.searchsorted(slots_T, bars.open_time)] = bars.ohlcv_TF[:, : len(FIELDS)].T
    return prices_CT


def _context_ends(slots_CT: NDArray[np.float64], context: int, horizon: int) -> NDArray[np.int64]:
    """Return the exclusive ends of contexts, (W,): after a real bar, with enough bars before and one after."""
    real_T = np.isfinite(slots_CT[3])
    counted_T = np.concatenate([[0], np.cumsum(real_T)])
    ends_T = np.arange(1, len(real_T) - horizon + 1)
    seen_T = counted_T[ends_T] - counted_T[np.maximum(0, ends_T - context)]
    ahead_T = counted_T[ends_T + horizon] - counted_T[ends_T]
    ends_W: NDArray[np.int64] = ends_T[real_T[ends_T - 1] & (seen_T >= SHORTEST_CONTEXT) & (ahead_T > 0)]
    return ends_W


def _reporter(on_step: Callable[[int, float], None], plan: FinetunePlan) -> TrainerCallback:
    """Return a callback that reports each step's loss and stops a run whose loss is not finite."""
    from transformers import TrainerCallback  # noqa: PLC0415 - only training needs transformers

    class Reporter(TrainerCallback):  # type: ignore[misc]  # transformers is not typed for us
        def on_log(self, _args: object, state: Any, _control: object, logs: dict[str, float], **_rest: object) -> None:
            """Report a loss; the trainer also calls this at the end, without a loss."""
            if "loss" not in logs:
                return
            if not math.isfinite(logs["loss"]):
                expected = f"a rate at which the loss stays finite; it did for {state.global_step - 1} steps"
                raise ConfigError("learning_rate", expected, plan.first_learning_rate)
            on_step(state.global_step - 1, logs["loss"])

    return Reporter()


def _check_extra(plan: FinetunePlan) -> None:
    if plan.mode == "lora" and importlib.util.find_spec("peft") is None:
        raise ConfigError("mode", "the extra `lora` for this mode: pip install 'forecaster[lora]'", "no peft")


def _check_limits(plan: FinetunePlan, model: Chronos2Model) -> None:
    """Refuse lengths above the model's limits, which `fit` would silently raise."""
    config = model.chronos_config
    limits = {
        "context": config.context_length - reference_bars(model),
        "horizon": config.max_output_patches * config.output_patch_size,
    }
    for name, most in limits.items():
        if getattr(plan, name) > most:
            raise ConfigError(name, f"at most {most}, the model's own limit", getattr(plan, name))


@contextmanager
def _all_or_nothing(out: Path) -> Iterator[Path]:
    """Yield a scratch folder inside `out`; after any error or Ctrl-C, `out` is empty or absent as before.

    Raises:
        ConfigError: if `out` is not empty.
    """
    require_empty(out)
    existed = out.exists()
    out.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=out, prefix=".unfinished-", ignore_cleanup_errors=True) as scratch:
            yield Path(scratch)
    except BaseException:
        for name in PUBLISHED:
            (out / name).unlink(missing_ok=True)
        if not existed:
            out.rmdir()
        raise


def _describe_series(bars: Bars) -> dict[str, object]:
    first, last = np.array([bars.open_time[0], bars.open_time[-1]], "datetime64[ms]").astype("datetime64[s]")
    return {
        "series": str(bars.key),
        "calendar": bars.key.calendar,
        "bars": len(bars),
        "first_open": f"{first}Z",
        "last_open": f"{last}Z",
    }


def _publish(model: Chronos2Model, about: dict[str, object], scratch: Path, out: Path) -> None:
    """Save, load the result to check it, and only then move it into `out`, the weights last."""
    folder = scratch / "model"
    model.save_pretrained(folder)
    (folder / ABOUT_FILE).write_text(json.dumps(about, indent=2) + "\n")
    write_sums(folder)
    load_checkpoint(str(folder), None, "cpu")
    for name in PUBLISHED:
        shutil.move(folder / name, out / name)
