"""Train a small Chronos-2 on simulated bars; upstream's own architecture, forward pass and loss.

The run is a pure function of its `TrainingPlan`: batch i is drawn from the seed (plan.seed, i), so a
run that was stopped and resumed sees exactly the batches that it would have seen.

Shapes: S series, F fields, T bars, B = S·F rows, H steps.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
import math
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from chronos.chronos2 import Chronos2Model
from chronos.chronos2.config import Chronos2CoreConfig
from matplotlib.figure import Figure
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from forecaster.errors import ConfigError
from forecaster.forecast import CHRONOS_LEVELS
from forecaster.model.synthetic import simulate_ohlc

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PATCH = 16
STATE_FILE = "training_state.pt"
LOSS_FILE = "loss.csv"
CHECKED_FILES = ("model.safetensors", "config.json")
AVERAGE_DECAY = 0.995
SHARE_OF_LATE_STARTS = 0.15


@dataclasses.dataclass(frozen=True)
class TrainingPlan:
    """All that decides a training run: shape of the model, data, schedule, seed. The defaults made `nano`."""

    seed: int = 0
    steps: int = 6000
    series_per_batch: int = 48
    context_length: int = 512
    output_patches: int = 4
    d_model: int = 128
    d_kv: int = 32
    d_ff: int = 512
    num_layers: int = 4
    num_heads: int = 4
    learning_rate: float = 1.5e-3
    warm_up_steps: int = 100
    save_every: int = 200


def train(plan: TrainingPlan, out: Path, on_step: Callable[[int, float], None]) -> None:
    """Train as `plan` says and write a Chronos-2 folder to `out`; resume what `out` already holds.

    `on_step(step, loss)` is called after every step. Beside the weights (an exponential average over
    steps) stand `loss.csv`, `loss.png`, `training.json` (plan, seconds, hardware) and `SHA256SUMS`.

    Raises:
        ConfigError: when `out` holds a run of another plan.
    """
    out.mkdir(parents=True, exist_ok=True)
    run = _Run(plan)
    run.resume(out)
    losses: list[tuple[int, float]] = []
    while run.step < plan.steps:
        loss = run.advance()
        losses.append((run.step - 1, loss))
        on_step(run.step - 1, loss)
        if run.step % plan.save_every == 0 or run.step == plan.steps:
            _save(run, out, losses)
            losses.clear()


def build_model(plan: TrainingPlan) -> Chronos2Model:
    """A Chronos-2 of the plan's size with fresh weights, 21 quantile levels, horizon 16 · output_patches."""
    config = Chronos2CoreConfig(
        d_model=plan.d_model,
        d_kv=plan.d_kv,
        d_ff=plan.d_ff,
        num_layers=plan.num_layers,
        num_heads=plan.num_heads,
        dropout_rate=0.0,
        chronos_config={
            "context_length": plan.context_length,
            "output_patch_size": PATCH,
            "input_patch_size": PATCH,
            "input_patch_stride": PATCH,
            "quantiles": list(CHRONOS_LEVELS),
            "use_reg_token": True,
            "use_arcsinh": True,
            "max_output_patches": plan.output_patches,
            "time_encoding_scale": plan.context_length,
        },
        architectures=["Chronos2Model"],
    )
    return Chronos2Model(config)


def draw_batch(plan: TrainingPlan, step: int) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Context (B, T) and target (B, H) of step `step`, rows ordered series by series, and the patches to predict."""
    rng = np.random.default_rng([plan.seed, step])
    patches = _draw_patches(rng, plan.output_patches)
    length = int(rng.choice([0.125, 0.25, 0.5, 1.0], p=[0.1, 0.3, 0.3, 0.3]) * plan.context_length)
    bars_SFT = simulate_ohlc(rng, plan.series_per_batch, length + patches * PATCH)
    last_close_S = bars_SFT[:, 3, length - 1]
    bars_SFT -= np.where(np.isnan(last_close_S), 0.0, last_close_S)[:, None, None]
    late, hidden = rng.random((2, plan.series_per_batch, 1, 1))
    hidden *= late < SHARE_OF_LATE_STARTS
    too_early = np.arange(length) < hidden * (length - PATCH)
    context_BT = np.where(too_early, np.nan, bars_SFT[:, :, :length]).reshape(-1, length)
    target_BH = bars_SFT[:, :, length:].reshape(context_BT.shape[0], -1)
    return torch.from_numpy(context_BT).float(), torch.from_numpy(target_BH).float(), patches


def _draw_patches(rng: np.random.Generator, most: int) -> int:
    """One patch half of the time; each further patch is half as likely, the last takes the rest."""
    weights = [0.5**i for i in range(1, most)]
    return int(rng.choice(np.arange(1, most + 1), p=[*weights, 1.0 - sum(weights)]))


class _Run:
    """A training run at some step: model, its average, and optimiser."""

    def __init__(self, plan: TrainingPlan) -> None:
        torch.manual_seed(plan.seed)
        self.plan = plan
        self.step = 0
        self.model = build_model(plan).to("cuda" if torch.cuda.is_available() else "cpu").train()
        self.average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(AVERAGE_DECAY))  # type: ignore[no-untyped-call]
        self._optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=plan.learning_rate, weight_decay=0.01, betas=(0.9, 0.98)
        )
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Time spent so far, earlier parts of a resumed run included."""
        return time.monotonic() - self._started

    def advance(self) -> float:
        """Take one step; returns its loss."""
        context_BT, target_BH, patches = draw_batch(self.plan, self.step)
        group_ids_B = torch.arange(context_BT.shape[0]) // 4
        for group in self._optimizer.param_groups:
            group["lr"] = self.plan.learning_rate * _schedule(self.plan, self.step)
        self._optimizer.zero_grad(set_to_none=True)
        device = self.model.device
        loss = self.model(
            context=context_BT.to(device),
            group_ids=group_ids_B.to(device),
            future_target=target_BH.to(device),
            num_output_patches=patches,
        ).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self._optimizer.step()
        self.average.update_parameters(self.model)
        self.step += 1
        return float(loss.detach())

    def state(self) -> dict[str, Any]:
        """All that the next step depends on."""
        return {
            "plan": dataclasses.asdict(self.plan),
            "step": self.step,
            "seconds": self.seconds,
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }

    def resume(self, out: Path) -> None:
        """Go on from what `out` holds for this very plan; begin its list of losses when it holds nothing."""
        path = out / STATE_FILE
        if not path.exists():
            (out / LOSS_FILE).write_text("step,loss\n")
            return
        state: dict[str, Any] = torch.load(path, weights_only=True)
        if state["plan"] != dataclasses.asdict(self.plan):
            raise ConfigError(str(path), f"a run of {dataclasses.asdict(self.plan)}", state["plan"])
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
        self._started = time.monotonic() - state["seconds"]


def _schedule(plan: TrainingPlan, step: int) -> float:
    """Linear warm-up, then a cosine down to 2 % of the peak learning rate."""
    if step < plan.warm_up_steps:
        return (step + 1) / plan.warm_up_steps
    progress = (step - plan.warm_up_steps) / max(1, plan.steps - plan.warm_up_steps)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress))


def _save(run: _Run, out: Path, losses: list[tuple[int, float]]) -> None:
    """Write state, averaged weights and losses so that a run killed at any time can go on from here."""
    scratch = out / (STATE_FILE + ".part")
    torch.save(run.state(), scratch)
    scratch.replace(out / STATE_FILE)
    run.average.module.save_pretrained(out)  # type: ignore[operator]  # typed as any attribute of a module
    with (out / LOSS_FILE).open("a", newline="") as file:
        csv.writer(file).writerows((step, f"{loss:.5f}") for step, loss in losses)
    _write_about(run, out)
    _draw_losses(out)


def _write_about(run: _Run, out: Path) -> None:
    about = {
        "plan": dataclasses.asdict(run.plan),
        "steps_done": run.step,
        "seconds": round(run.seconds),
        "device": str(run.model.device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    (out / "training.json").write_text(json.dumps(about, indent=2) + "\n")
    sums = [f"{hashlib.sha256((out / name).read_bytes()).hexdigest()}  {name}\n" for name in CHECKED_FILES]
    (out / "SHA256SUMS").write_text("".join(sums))


def _draw_losses(out: Path) -> None:
    """Draw the loss of every batch, and its running mean."""
    steps, losses = np.loadtxt(out / LOSS_FILE, delimiter=",", skiprows=1, ndmin=2).T
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(steps, losses, linewidth=0.3, alpha=0.4, color="#9aa1ad", label="batch")
    window = min(len(losses), 100)
    mean = np.convolve(losses, np.ones(window) / window, mode="valid")
    axes.plot(steps[window - 1 :], mean, color="#3b6fb6", label=f"mean of {window}")
    axes.set(xlabel="step", ylabel="quantile loss, normalised", yscale="log", title="Training loss")
    axes.legend(frameon=False)
    figure.savefig(out / "loss.png", dpi=100)
