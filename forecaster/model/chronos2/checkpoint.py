"""Loading of a Chronos-2 checkpoint from its files onto a device.

Weights are safetensors in float32, at a pinned revision; nothing is unpickled and no remote code runs. Neither
transformers nor chronos-forecasting is imported: a process that forecasts imports torch only.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING

import torch

from forecaster.errors import ModelLoadError
from forecaster.model.chronos2.architecture import Chronos2
from forecaster.model.chronos2.checkpoint_files import open_checkpoint

if TYPE_CHECKING:
    from forecaster.model.chronos2.weights import Tensor, WeightsFile

_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def load_checkpoint(model_id: str, revision: str | None, device: str) -> tuple[Chronos2, str]:
    """Load a model in evaluation mode; return it with the sha256 of the loaded weights.

    Raises:
        ModelLoadError: when files are missing, damaged, or not a supported Chronos-2.
    """
    with open_checkpoint(model_id, revision) as opened:
        weights = {tensor.name: _read(opened.weights, tensor) for tensor in opened.weights.tensors}
        files = opened.finish()
    if not all(torch.isfinite(weight).all() for weight in weights.values()):
        raise ModelLoadError(model_id, "finite weights", "NaN or infinity")
    with torch.device("meta"):
        model = Chronos2(files.architecture)
    model.load_state_dict(weights, assign=True)
    model.eval().requires_grad_(requires_grad=False)
    return model.to(_pick_device(model_id, device)), files.weights_sha256


@cache
def library_versions() -> str:
    """Return names and versions of the libraries that compute forecasts."""
    return ", ".join(f"{name} {version(name)}" for name in ("torch", "numpy"))


def _read(weights: WeightsFile, tensor: Tensor) -> torch.Tensor:
    """Read the next tensor, as float32."""
    weight = torch.empty(tensor.shape, dtype=_DTYPES[tensor.dtype])
    weights.read_into(weight.flatten().view(torch.uint8).numpy().data)
    return weight.to(torch.float32)


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
