"""What a checkpoint is: its architecture, its limits, its weights' digest, and the records that stand beside it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forecaster.config import HUB, NANO
from forecaster.errors import ModelLoadError
from forecaster.model.checkpoint import load_checkpoint
from forecaster.model.files import NANO_FOLDER, SUMS_FILE, WEIGHTS_FILE
from forecaster.model.reference import reference_bars

if TYPE_CHECKING:
    from collections.abc import Mapping

MADE_BY = ("training.json", "finetune.json")
MODEL_CARD = "MODEL_CARD.md"


@dataclass(frozen=True)
class CheckpointFacts:
    """One checkpoint; what is not known of it is None.

    `reference_patch`: contexts end with one (`model/reference.py`); `max_context` is without it.
    """

    model: str
    folder: str
    d_model: int
    d_ff: int
    d_kv: int
    layers: int
    heads: int
    parameters: int
    patch: int
    max_context: int
    max_horizon: int
    reference_patch: bool
    quantile_levels: tuple[float, ...]
    weights_bytes: int
    weights_sha256: str
    sums: str
    licence: str | None
    made_by: Mapping[str, object] | None


def describe(model_id: str) -> CheckpointFacts:
    """Load a checkpoint, as a server would, and say what it is. A hub repository is described once it is a folder.

    Raises:
        ModelLoadError: when it is missing, damaged, or no Chronos-2 that the forward pass here has.
    """
    if model_id.startswith(HUB):
        raise ModelLoadError(model_id, f"{NANO} or a folder that exists", "neither")
    model, weights_sha256 = load_checkpoint(model_id, None, "cpu")
    folder = NANO_FOLDER if model_id == NANO else Path(model_id).expanduser()
    shape: Any = model.config
    limits = model.chronos_config
    return CheckpointFacts(
        model=model_id,
        folder=str(folder),
        d_model=shape.d_model,
        d_ff=shape.d_ff,
        d_kv=shape.d_kv,
        layers=shape.num_layers,
        heads=shape.num_heads,
        parameters=sum(weight.numel() for weight in model.parameters()),
        patch=limits.output_patch_size,
        max_context=limits.context_length - reference_bars(model),
        max_horizon=limits.max_output_patches * limits.output_patch_size,
        reference_patch=reference_bars(model) > 0,
        quantile_levels=tuple(limits.quantiles),
        weights_bytes=(folder / WEIGHTS_FILE).stat().st_size,
        weights_sha256=weights_sha256,
        sums=_compare_sums(folder),
        licence=_find_licence(folder),
        made_by=_read_record(folder),
    )


def _compare_sums(folder: Path) -> str:
    """Say whether the files are those that SHA256SUMS names; of the weights, loading has made sure."""
    sums = folder / SUMS_FILE
    if not sums.is_file():
        return "no SHA256SUMS"
    named = [line.split(maxsplit=1) for line in sums.read_text().splitlines() if line.strip()]
    wrong = [name for digest, name in named if _digest(folder / name.lstrip("*")) != digest]
    return f"differs from SHA256SUMS: {', '.join(wrong)}" if wrong else f"agrees with SHA256SUMS, {len(named)} files"


def _digest(file: Path) -> str | None:
    if not file.is_file():
        return None
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _find_licence(folder: Path) -> str | None:
    """Give the licence that a row of the model card's table names."""
    card = folder / MODEL_CARD
    lines = card.read_text(encoding="utf-8").splitlines() if card.is_file() else []
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines]
    return next((row[1] for row in rows if row[0] in {"Licence", "License"} and len(row) > 1), None)


def _read_record(folder: Path) -> dict[str, object] | None:
    """Give the record that training or fine-tuning left, with its name."""
    for name in MADE_BY:
        if (folder / name).is_file():
            try:
                return {"record": name, **json.loads((folder / name).read_text())}
            except (ValueError, TypeError) as error:
                raise ModelLoadError(str(folder), f"a JSON object in {name}", error) from error
    return None
