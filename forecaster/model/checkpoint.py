"""A Chronos-2 checkpoint, loaded from its files, checked, and put on its device.

Weights are safetensors in float32, at a pinned revision; nothing is unpickled and no remote code runs. Neither
transformers nor chronos-forecasting is imported: a process that forecasts with `nano` loads torch and no more.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from forecaster.errors import ModelLoadError
from forecaster.model.architecture import Chronos2, misfits
from forecaster.model.files import WEIGHTS_FILE, check_supported, find_checkpoint

if TYPE_CHECKING:
    from forecaster.model.files import CheckpointFiles


def load_checkpoint(model_id: str, revision: str | None, device: str) -> tuple[Chronos2, str]:
    """Load a model in evaluation mode; gives it with the sha256 of its weights.

    Raises:
        ModelLoadError: when files are missing, damaged, or not a Chronos-2 that the forward pass has.
    """
    files = find_checkpoint(model_id, revision)
    return _load(model_id, files).to(_pick_device(model_id, device)), files.weights_sha256


@cache
def library_versions() -> str:
    """Name the libraries that numbers depend on, with their versions."""
    return ", ".join(f"{name} {version(name)}" for name in ("torch", "numpy", "safetensors"))


def _load(model_id: str, files: CheckpointFiles) -> Chronos2:
    check_supported(model_id, files.architecture)
    with torch.device("meta"):
        model = Chronos2(files.architecture)
    try:
        mapped = load_file(files.folder / WEIGHTS_FILE)
    except (OSError, SafetensorError) as error:
        found = f"{type(error).__name__}: {error}"
        raise ModelLoadError(model_id, f"a Chronos-2 model in {files.folder}", found) from error
    wrong = misfits(model, mapped)
    if wrong:
        raise ModelLoadError(model_id, "weights that fit config.json", f"{'; '.join(wrong):.300}")
    # Copies: what is mapped lies as the file has it, unaligned, and would change with the file.
    weights = {name: weight.to(torch.float32, copy=True) for name, weight in mapped.items()}
    if not all(torch.isfinite(weight).all() for weight in weights.values()):
        raise ModelLoadError(model_id, "finite weights", "NaN or infinity")
    model.load_state_dict(weights, assign=True)
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
