"""A Chronos-2 checkpoint from a folder or a hub: found, checked, loaded, and put on its device.

Weights are safetensors in float32, at a pinned revision; nothing is unpickled and no remote code runs. Neither
transformers nor chronos-forecasting is imported: a process that forecasts with `nano` loads torch and no more.
"""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.metadata import version
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file

from forecaster.config import is_hub_id
from forecaster.errors import ModelLoadError
from forecaster.model.architecture import Architecture, Chronos2, misfits
from forecaster.model.core import why_outside

NANO = "nano"
NANO_FOLDER = Path(__file__).parent / NANO
NEEDED_LEVELS = (0.1, 0.5, 0.9)
SUMS_FILE = "SHA256SUMS"
CHECKED_FILES = ("model.safetensors", "config.json")


def load_checkpoint(model_id: str, revision: str | None, device: str) -> tuple[Chronos2, str]:
    """Load a model in evaluation mode; gives it with the sha256 of its weights.

    Raises:
        ModelLoadError: when files are missing, damaged, or not a Chronos-2 that the forward pass has.
    """
    folder = _find_folder(model_id, revision)
    weights_sha256 = _check_weights(model_id, folder)
    return _load(model_id, folder).to(_pick_device(model_id, device)), weights_sha256


def write_sums(folder: Path) -> None:
    """Write SHA256SUMS of weights and configuration, as `sha256sum -c` reads it."""
    sums = [f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in CHECKED_FILES]
    (folder / SUMS_FILE).write_text("".join(sums))


@cache
def library_versions() -> str:
    """Name the libraries that numbers depend on, with their versions."""
    return ", ".join(f"{name} {version(name)}" for name in ("torch", "numpy", "safetensors"))


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
    sums = folder / SUMS_FILE
    if sums.is_file():
        named = (line.split() for line in sums.read_text(errors="replace").splitlines())
        expected = next((words[0] for words in named if words[1:] == [weights.name]), None)
        if expected != digest:
            raise ModelLoadError(model_id, f"{weights} with sha256 {expected}", f"{digest}: the file is damaged")
    return digest


def _load(model_id: str, folder: Path) -> Chronos2:
    with torch.device("meta"):
        model = Chronos2(_read_architecture(model_id, folder))
    outside = why_outside(model)
    if outside is not None:
        raise ModelLoadError(model_id, "a Chronos-2 with REG token, arcsinh scaling and patches side by side", outside)
    try:
        mapped = load_file(folder / "model.safetensors")
    except (OSError, SafetensorError) as error:
        raise ModelLoadError(model_id, f"a Chronos-2 model in {folder}", f"{type(error).__name__}: {error}") from error
    wrong = misfits(model, mapped)
    if wrong:
        raise ModelLoadError(model_id, "weights that fit config.json", f"{'; '.join(wrong):.300}")
    # Copies: what is mapped lies as the file has it, unaligned, and would change with the file.
    weights = {name: weight.to(torch.float32, copy=True) for name, weight in mapped.items()}
    if not all(torch.isfinite(weight).all() for weight in weights.values()):
        raise ModelLoadError(model_id, "finite weights", "NaN or infinity")
    if not set(NEEDED_LEVELS) <= {round(level, 6) for level in model.chronos_config.quantiles}:
        raise ModelLoadError(model_id, f"quantile levels with {NEEDED_LEVELS}", model.chronos_config.quantiles)
    model.load_state_dict(weights, assign=True)
    return model.eval().requires_grad_(requires_grad=False)


def _read_architecture(model_id: str, folder: Path) -> Architecture:
    try:
        return Architecture.model_validate_json((folder / "config.json").read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        found = f"{'.'.join(map(str, first['loc'])) or 'the file'}: {first['msg']}"
        raise ModelLoadError(model_id, f"the config.json of a Chronos-2 model in {folder}", found) from error


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
