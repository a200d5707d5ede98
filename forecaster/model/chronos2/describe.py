"""Facts of a checkpoint: architecture, limits, digest of its weights, licence and training record."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json

from forecaster.config import HUB, NANO
from forecaster.errors import ModelLoadError
from forecaster.model.chronos2.checkpoint import load_checkpoint
from forecaster.model.chronos2.checkpoint_files import (
    CONFIG_FILE,
    NANO_FOLDER,
    WEIGHTS_FILE,
    open_beside,
    read_beside,
    read_sums,
)
from forecaster.model.chronos2.reference import reference_bars

if TYPE_CHECKING:
    from collections.abc import Mapping

MADE_BY = ("training.json", "finetune.json")
MODEL_CARD = "MODEL_CARD.md"


@dataclass(frozen=True)
class CheckpointFacts:
    """Facts of one checkpoint; unknown ones are None.

    `reference_patch`: contexts end with one (`model/chronos2/reference.py`); `max_context` does not include it.
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
    """Load a checkpoint and describe it. A hub repository must be downloaded to a folder first.

    Raises:
        ModelLoadError: when it is missing, damaged, or not a supported Chronos-2.
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
        sums=_compare_sums(model_id, folder),
        licence=_find_licence(model_id, folder),
        made_by=_read_record(model_id, folder),
    )


def _compare_sums(model_id: str, folder: Path) -> str:
    """Compare the other files with SHA256SUMS; loading has compared weights and configuration."""
    sums = read_sums(model_id, folder)
    if sums is None:
        return "no SHA256SUMS"
    others = {name: digest for name, digest in sums.items() if name not in {WEIGHTS_FILE, CONFIG_FILE}}
    wrong = [name for name, digest in others.items() if _digest(model_id, folder, name) != digest]
    return f"differs from SHA256SUMS: {', '.join(wrong)}" if wrong else f"agrees with SHA256SUMS, {len(sums)} files"


def _digest(model_id: str, folder: Path, name: str) -> str | None:
    if not os.path.lexists(folder / name):
        return None
    with open_beside(model_id, folder, name) as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _find_licence(model_id: str, folder: Path) -> str | None:
    """Return the licence in the table of the model card."""
    card = read_beside(model_id, folder, MODEL_CARD) or b""
    rows = [
        [cell.strip() for cell in line.strip("| ").split("|")] for line in card.decode(errors="replace").splitlines()
    ]
    return next((row[1] for row in rows if row[0] in {"Licence", "License"} and len(row) > 1), None)


def _read_record(model_id: str, folder: Path) -> dict[str, object] | None:
    """Return the record of training or fine-tuning, with its name."""
    for name in MADE_BY:
        record = read_beside(model_id, folder, name)
        if record is not None:
            try:
                return {"record": name, **from_json(record)}
            except (ValueError, TypeError) as error:
                raise ModelLoadError(model_id, f"a JSON object in {name}", error) from error
    return None
