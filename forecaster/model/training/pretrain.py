"""Train a small Chronos-2 on simulated bars, with upstream's architecture, forward pass and loss.

The run is a pure function of its `TrainingPlan`: batch i is drawn from the seed (plan.seed, i), so a resumed run gets
the same batches.

Shapes: S series, F fields, T bars, B = S·F rows, H steps.
"""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch.optim.swa_utils import AveragedModel

from forecaster.errors import ConfigError
from forecaster.forecast import CHRONOS_LEVELS
from forecaster.model.chronos2.artifacts import hardware
from forecaster.model.chronos2.checkpoint_files import write_sums
from forecaster.model.chronos2.core import OHLC_GROUP, Core, Missing, Shape, standardise
from forecaster.model.chronos2.reference import REFERENCE_PATCH, reference_bars, reference_patch
from forecaster.model.training.objective import Standard, training_losses
from forecaster.model.training.synthetic import drop_bars, simulate_futures
from forecaster.output_files import atomic_write, write_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from chronos.chronos2 import Chronos2Model
    from numpy.typing import NDArray

    _Tensors = tuple[torch.Tensor, ...] | list[torch.Tensor]

PATCH = 16
STATE_FILE = "training_state.pt"
LOSS_FILE = "loss.csv"
AVERAGE_DECAY = 0.998
SHARE_WITH_GAPS = 0.4
SHARE_OF_LATE_STARTS = 0.3
CROSSING_PENALTY = 8.0
MAX_GRADIENT = 1.0
WEIGHT_DECAY = 0.01


@dataclasses.dataclass(frozen=True)
class TrainingPlan:
    """Everything that determines a training run: model size, data, schedule, seed. The defaults made `nano`."""

    seed: int = 0
    steps: int = 10_000
    series_per_batch: int = 48
    futures: int = 16
    context_length: int = 512
    reference_patch: bool = True
    output_patches: int = 4
    d_model: int = 128
    d_kv: int = 32
    d_ff: int = 512
    num_layers: int = 4
    num_heads: int = 4
    learning_rate: float = 7.5e-4
    hidden_learning_rate: float = 1.5e-3
    warm_up_steps: int = 200
    cool_down_share: float = 0.9
    save_every: int = 200

    @property
    def cool_down_steps(self) -> int:
        """Number of final steps in which the learning rate falls."""
        return round(self.steps * self.cool_down_share)


def train(plan: TrainingPlan, out: Path, on_step: Callable[[int, float], None]) -> None:
    """Train a model and write a Chronos-2 folder to `out`; resume the run that `out` holds.

    A run may be resumed with another number of steps before the cool-down of either plan starts.

    `on_step(step, loss)` is called after every step. Beside the weights (an exponential average over
    steps) are `loss.csv`, `training.json` (plan, seconds, hardware) and `SHA256SUMS`.

    Raises:
        ConfigError: if `out` holds a run of another plan.
    """
    out.mkdir(parents=True, exist_ok=True)
    run = _Run(plan)
    run.resume(out)
    losses: list[tuple[int, float]] = []
    for batch in _batches(plan, run.step):
        loss = run.advance(batch)
        losses.append((run.step - 1, loss))
        on_step(run.step - 1, loss)
        if run.step % plan.save_every == 0 or run.step == plan.steps:
            _save(run, out, losses)
            losses.clear()


def build_model(plan: TrainingPlan) -> Chronos2Model:
    """Build a Chronos-2 of the plan's size with random weights, 21 quantile levels, horizon 16 · output_patches."""
    from chronos.chronos2 import Chronos2Model  # noqa: PLC0415 - upstream draws the first weights and saves the last
    from chronos.chronos2.config import Chronos2CoreConfig  # noqa: PLC0415 - the same
    from transformers.utils import logging as hub_logging  # noqa: PLC0415 - the same

    hub_logging.disable_progress_bar()
    longest = plan.context_length + PATCH * plan.reference_patch
    config = Chronos2CoreConfig(
        d_model=plan.d_model,
        d_kv=plan.d_kv,
        d_ff=plan.d_ff,
        num_layers=plan.num_layers,
        num_heads=plan.num_heads,
        dropout_rate=0.0,
        chronos_config={
            "context_length": longest,
            "output_patch_size": PATCH,
            "input_patch_size": PATCH,
            "input_patch_stride": PATCH,
            "quantiles": list(CHRONOS_LEVELS),
            "use_reg_token": True,
            "use_arcsinh": True,
            "max_output_patches": plan.output_patches,
            "time_encoding_scale": longest,
        },
        **({REFERENCE_PATCH: True} if plan.reference_patch else {}),
        architectures=["Chronos2Model"],
    )
    return Chronos2Model(config)


class Batch(NamedTuple):
    """Contexts (B, T), with the rows of a series together, and several futures (B, K, H) of each row."""

    context_BT: torch.Tensor
    futures_BKH: torch.Tensor


def draw_batch(plan: TrainingPlan, step: int) -> Batch:
    """Draw the batch of a step: prices relative to the last close, with a reference patch at their end."""
    rng = np.random.default_rng([plan.seed, step])
    patches = int(rng.choice(np.arange(1, plan.output_patches + 1), p=_shares_of_patches(plan.output_patches)))
    length = int(rng.choice([0.125, 0.25, 0.5, 1.0], p=[0.15, 0.35, 0.4, 0.1]) * plan.context_length)
    futures = max(2, plan.futures // patches // 2 * 2)
    past_SFT, futures_SKFH = simulate_futures(rng, plan.series_per_batch, length, patches * PATCH, futures)
    if rng.random() < SHARE_WITH_GAPS:
        past_SFT = _start_late(rng, drop_bars(rng, past_SFT))
    last_close_S = past_SFT[:, 3, -1]
    reference_SFp = reference_patch(past_SFT, PATCH * plan.reference_patch)
    rows_SFT = np.concatenate([past_SFT, reference_SFp], axis=2) - last_close_S[:, None, None]
    context_BT = rows_SFT.reshape(-1, rows_SFT.shape[2])
    futures_SKFH -= last_close_S[:, None, None, None]
    futures_BKH = futures_SKFH.swapaxes(1, 2).reshape(len(context_BT), futures, -1)
    return Batch(torch.from_numpy(context_BT).float(), torch.from_numpy(futures_BKH).float())


def _start_late(rng: np.random.Generator, past_SFT: NDArray[np.float64]) -> NDArray[np.float64]:
    """Hide the first bars of some series, down to the last patch."""
    n, _, length = past_SFT.shape
    late, hidden = rng.random((2, n, 1, 1))
    hidden *= late < SHARE_OF_LATE_STARTS
    return np.where(np.arange(length) < hidden * (length - PATCH), np.nan, past_SFT)


def training_loss(model: Chronos2Model, batch: Batch, penalty: float) -> torch.Tensor:
    """Compute the loss of a batch: the quantile loss and `penalty` times the crossings."""
    rows, bars = batch.context_BT.shape
    shape = Shape(rows, bars, batch.futures_BKH.shape[2] // PATCH, Missing.of(batch.context_BT, PATCH), OHLC_GROUP)
    standard_BT, *standard = standardise(batch.context_BT)
    predicted_BQH = Core(model, shape).compressed(standard_BT)
    real = bars - reference_bars(model)
    past_SFT = batch.context_BT[:, :real].view(-1, OHLC_GROUP, real)
    losses = training_losses(predicted_BQH, batch.futures_BKH, Standard(*standard), past_SFT, model.quantiles)
    return losses.quantile + penalty * losses.crossing


def _shares_of_patches(most: int) -> NDArray[np.float64]:
    """Return the probability of each number of patches: two thirds for one, the rest shared equally."""
    if most == 1:
        return np.ones(1)
    return np.array([2 / 3, *[1 / 3 / (most - 1)] * (most - 1)])


class _Steps(torch.utils.data.Dataset[Batch]):
    """The batches of a plan by step, drawn in another process during training."""

    def __init__(self, plan: TrainingPlan) -> None:
        self._plan = plan

    def __getitem__(self, step: int) -> Batch:
        return draw_batch(self._plan, step)


def _batches(plan: TrainingPlan, first: int) -> Iterator[Batch]:
    """Return the batches of all steps from `first` on."""
    steps = range(first, plan.steps)
    return iter(
        torch.utils.data.DataLoader(_Steps(plan), batch_size=None, sampler=steps, num_workers=1, prefetch_factor=4)
    )


class _Run:
    """A training run at a step: model, averaged model, and optimisers."""

    def __init__(self, plan: TrainingPlan) -> None:
        torch.manual_seed(plan.seed)
        self.plan = plan
        self.step = 0
        self.model = build_model(plan).to("cuda" if torch.cuda.is_available() else "cpu").train()
        self.average = AveragedModel(self.model, multi_avg_fn=_average)
        self._optimizers = _optimizers(plan, self.model)
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Time spent so far, with the earlier parts of a resumed run."""
        return time.monotonic() - self._started

    def advance(self, batch: Batch) -> float:
        """Take one step; return its loss."""
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * _schedule(self.plan, self.step)
            optimizer.zero_grad(set_to_none=True)
        on_device = Batch(*(tensor.to(self.model.device) for tensor in batch))
        loss = training_loss(self.model, on_device, _penalty(self.plan, self.step))
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), MAX_GRADIENT)
        for optimizer in self._optimizers:
            optimizer.step()
        self.average.update_parameters(self.model)
        self.step += 1
        return float(loss.detach())

    def state(self) -> dict[str, Any]:
        """Return everything that the next step depends on."""
        return {
            "plan": dataclasses.asdict(self.plan),
            "step": self.step,
            "seconds": self.seconds,
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
        }

    def resume(self, out: Path) -> None:
        """Resume from the state in `out`, or start its list of losses."""
        path = out / STATE_FILE
        if not path.exists():
            write_text("step,loss\n", out / LOSS_FILE)
            return
        state: dict[str, Any] = torch.load(path, weights_only=True)
        saved = TrainingPlan(**state["plan"])
        if not _continues(saved, self.plan, state["step"]):
            raise ConfigError(str(path), f"a run of {dataclasses.asdict(self.plan)}", state["plan"])
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        for optimizer, before in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(before)
        self.step = state["step"]
        self._started = time.monotonic() - state["seconds"]


def _optimizers(plan: TrainingPlan, model: torch.nn.Module) -> list[torch.optim.Optimizer]:
    """Create the optimisers: Muon for the matrices of the blocks, AdamW for embeddings, norms, biases and the output.

    Jordan et al., 2024, "Muon: an optimizer for hidden layers in neural networks"; its updates are scaled to AdamW's
    size as in Liu et al., 2025, "Muon is Scalable for LLM Training".
    """
    named = dict(model.named_parameters())
    hidden = [name for name, weights in named.items() if name.startswith("encoder.block.") and weights.ndim == 2]  # noqa: PLR2004 - matrices
    muon = [{"params": [named[name] for name in hidden], "initial_lr": plan.hidden_learning_rate}]
    adam = [
        {"params": [weights for name, weights in named.items() if name not in hidden], "initial_lr": plan.learning_rate}
    ]
    return [
        torch.optim.Muon(muon, weight_decay=WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(adam, weight_decay=WEIGHT_DECAY, betas=(0.9, 0.98)),
    ]


def _continues(saved: TrainingPlan, plan: TrainingPlan, step: int) -> bool:
    """Return whether a run of plan `saved` at `step` is also a run of `plan`: only their ends differ, still ahead."""
    same_end = dataclasses.replace(saved, steps=plan.steps, cool_down_share=plan.cool_down_share)
    cooling = min(either.steps - either.cool_down_steps for either in (saved, plan))
    return saved == plan or (same_end == plan and step <= cooling)


@torch.no_grad()
def _average(averages: _Tensors, weights: _Tensors, averaged: torch.Tensor | int) -> None:
    """Move the averages towards the weights: an exponential average whose memory grows with the run."""
    decay = min(AVERAGE_DECAY, (1 + int(averaged)) / (10 + int(averaged)))
    torch._foreach_lerp_(averages, weights, 1 - decay)


def _schedule(plan: TrainingPlan, step: int) -> float:
    """Return the factor of the learning rate: linear warm-up, a plateau, then a linear fall to 0.

    Hägele et al., 2024, "Scaling Laws and Compute-Optimal Training Beyond Fixed Training Durations".
    """
    return min(1.0, (step + 1) / plan.warm_up_steps, (plan.steps - step) / max(1, plan.cool_down_steps))


def _penalty(plan: TrainingPlan, step: int) -> float:
    """Return the weight of crossings: 0 until the rate falls, since they would dominate the loss."""
    return CROSSING_PENALTY * (1 - _schedule(plan, max(step, plan.warm_up_steps)))


def _save(run: _Run, out: Path, losses: list[tuple[int, float]]) -> None:
    """Write state, averaged weights and losses, so that a run killed at any time can resume from here."""
    with atomic_write(out / STATE_FILE) as file:
        torch.save(run.state(), file)
    with TemporaryDirectory(dir=out, prefix=".unfinished-") as scratch:
        run.average.module.save_pretrained(scratch)  # type: ignore[operator]  # typed as any attribute of a module
        for path in Path(scratch).iterdir():
            path.replace(out / path.name)
    lines = [f"{step},{loss:.5f}\n" for step, loss in losses]
    write_text((out / LOSS_FILE).read_text() + "".join(lines), out / LOSS_FILE)
    _write_about(run, out)


def _write_about(run: _Run, out: Path) -> None:
    about = {
        "plan": dataclasses.asdict(run.plan),
        "steps_done": run.step,
        "seconds": round(run.seconds),
        "device": str(run.model.device),
        "hardware": hardware(run.model.device.type),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    write_text(json.dumps(about, indent=2) + "\n", out / "training.json")
    write_sums(out)
