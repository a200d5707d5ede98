"""The weights file, `model.safetensors`: a header with the offset of each tensor, then their bytes.

The header is compared with the architecture before memory is allocated. The bytes are read once, so the hashed bytes
are the used ones. This module does not import torch: naming a model also reads this file.
"""

from __future__ import annotations

import hashlib
import math
import os
from typing import TYPE_CHECKING, Final, NamedTuple

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from forecaster.errors import ModelLoadError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from io import BufferedReader

    from forecaster.model.chronos2.checkpoint_config import Architecture

    _Shapes = Mapping[str, tuple[int, ...]]

MOST_WEIGHTS: Final = 1_000_000_000
"""Eight times the number of amazon/chronos-2."""
_MOST_HEADER: Final = 4 << 20
_BYTES: Final = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}


class _Entry(BaseModel):
    """Header entry of one tensor."""

    model_config = ConfigDict(extra="forbid", strict=True)

    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


_Header = TypeAdapter(dict[str, _Entry | dict[str, str]])


class Tensor(NamedTuple):
    """One tensor of the file; `dtype` is F64, F32, F16 or BF16."""

    name: str
    dtype: str
    shape: tuple[int, ...]


class WeightsFile:
    """Weights that match an architecture; only the header is read yet.

    Args:
        model_id: named in errors.
        content: the file, open at its start.
        architecture: gives names and shapes.

    Attributes:
        tensors: in the order of `read_into`.

    Raises:
        ModelLoadError: when the file is not safetensors, or does not match the architecture.
    """

    def __init__(self, model_id: str, content: BufferedReader, architecture: Architecture) -> None:
        self._model_id = model_id
        self._content = content
        self._sha256 = hashlib.sha256()
        shapes = weight_shapes(architecture)
        count = sum(map(math.prod, shapes.values()))
        if count > MOST_WEIGHTS:
            raise ModelLoadError(model_id, f"a config.json of at most {MOST_WEIGHTS:,} weights", f"{count:,}")
        entries = self._read_header()
        wrong = _misfits(shapes, entries)
        if wrong:
            more = f"; and {len(wrong) - 3} more" if len(wrong) > 3 else ""  # noqa: PLR2004 - enough to see what is wrong
            raise ModelLoadError(model_id, "weights that fit config.json", f"{'; '.join(wrong[:3]):.300}{more}")
        self._check_layout(entries)
        self.tensors = [Tensor(name, entry.dtype, entry.shape) for name, entry in entries.items()]

    def read_into(self, buffer: memoryview) -> None:
        """Read the bytes of the next tensor.

        Raises:
            ModelLoadError: when the file became shorter.
        """
        if self._content.readinto(buffer) != len(buffer):
            raise self._unreadable("a file that became shorter while it was read")
        self._sha256.update(buffer)

    def digest(self) -> str:
        """Return the sha256 of the whole file, after reading the rest of it."""
        return hashlib.file_digest(self._content, lambda: self._sha256).hexdigest()

    def _read_header(self) -> dict[str, _Entry]:
        """Return the entries in the order of their bytes."""
        prefix = self._content.read(8)
        length = int.from_bytes(prefix, "little")
        if len(prefix) < 8 or length > _MOST_HEADER:  # noqa: PLR2004 - the format's own
            raise self._unreadable(f"a header of {length:,} bytes; at most {_MOST_HEADER:,}")
        header = self._content.read(length)
        self._sha256.update(prefix + header)
        try:
            parsed = _Header.validate_json(header)
        except ValidationError as error:
            raise self._unreadable("a header that describes no tensors") from error
        entries = {name: entry for name, entry in parsed.items() if isinstance(entry, _Entry)}
        if parsed.keys() - entries.keys() - {"__metadata__"}:
            raise self._unreadable("a header that describes no tensors")
        return dict(sorted(entries.items(), key=lambda item: item[1].data_offsets))

    def _check_layout(self, entries: Mapping[str, _Entry]) -> None:
        """Check that the tensors fill the file without gaps, each with the size of its shape."""
        end = 0
        for name, entry in entries.items():
            start, end = end, end + math.prod(entry.shape) * _BYTES[entry.dtype]
            if entry.data_offsets != (start, end):
                raise self._unreadable(f"{name} at bytes {entry.data_offsets}, expected at {start, end}")
        size = os.fstat(self._content.fileno()).st_size - self._content.tell()
        if size != end:
            raise self._unreadable(f"{size:,} bytes of weights, while its header describes {end:,}")

    def _unreadable(self, found: str) -> ModelLoadError:
        return ModelLoadError(self._model_id, "safetensors in model.safetensors", found)


def weight_shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """Return the shape of each weight of a Chronos-2."""
    limits, width, hidden = architecture.chronos_config, architecture.d_model, architecture.d_ff
    outputs = len(limits.quantiles) * limits.output_patch_size
    shapes: dict[str, tuple[int, ...]] = {"shared.weight": (2 if limits.use_reg_token else 1, width)}
    shapes |= _residual("input_patch_embedding", 3 * limits.input_patch_size, hidden, width)
    for i in range(architecture.num_layers):
        shapes |= _block(f"encoder.block.{i}.layer", architecture)
    shapes["encoder.final_layer_norm.weight"] = (width,)
    return shapes | _residual("output_patch_embedding", width, hidden, outputs)


def _residual(name: str, inputs: int, hidden: int, outputs: int) -> dict[str, tuple[int, ...]]:
    layers = {"hidden_layer": (hidden, inputs), "output_layer": (outputs, hidden), "residual_layer": (outputs, inputs)}
    weights: dict[str, tuple[int, ...]] = {f"{name}.{layer}.weight": shape for layer, shape in layers.items()}
    return weights | {f"{name}.{layer}.bias": shape[:1] for layer, shape in layers.items()}


def _block(name: str, architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """Attention over time, attention over the group, feed-forward; each with a norm."""
    width, inner = architecture.d_model, architecture.num_heads * architecture.d_kv
    shapes: dict[str, tuple[int, ...]] = {f"{name}.{i}.layer_norm.weight": (width,) for i in range(3)}
    for i in range(2):
        shapes |= {f"{name}.{i}.self_attention.{projection}.weight": (inner, width) for projection in "qkv"}
        shapes[f"{name}.{i}.self_attention.o.weight"] = (width, inner)
    return shapes | {
        f"{name}.2.mlp.wi.weight": (architecture.d_ff, width),
        f"{name}.2.mlp.wo.weight": (width, architecture.d_ff),
    }


def _misfits(expected: _Shapes, entries: Mapping[str, _Entry]) -> list[str]:
    """Describe weights that are missing, unexpected, or of another shape or type."""
    shapes = {name: entry.shape for name, entry in entries.items()}
    differing = sorted(name for name in expected.keys() | shapes.keys() if expected.get(name) != shapes.get(name))
    wrong = [f"{name}: expected {expected.get(name)}, found {shapes.get(name)}" for name in differing]
    types = ", ".join(_BYTES)
    return wrong + [
        f"{name}: expected {types}, found {entry.dtype}" for name, entry in entries.items() if entry.dtype not in _BYTES
    ]
