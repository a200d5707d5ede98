"""Files of bars as they stand: names and cells, by the suffix of the file, packed or not.

What columns, times and numbers mean is left to `tables`.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import lzma
import zipfile
import zlib
from pathlib import PurePath
from typing import IO, TYPE_CHECKING, Final, TypeAlias

import pandas as pd
import pyarrow as pa
import pyarrow.feather

from forecaster.errors import BadPayload
from forecaster.sources.files.shapes import json_tables
from forecaster.sources.files.text import csv_tables
from forecaster.tables.frames import frame_table

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from forecaster.tables import Table

_Stream: TypeAlias = IO[bytes] | gzip.GzipFile | bz2.BZ2File | lzma.LZMAFile

_LARGEST: Final = 1 << 30
_PIECE: Final = 1 << 20
_UNREADABLE: Final = (
    OSError,
    ValueError,
    EOFError,
    RecursionError,
    NotImplementedError,  # how a zip was packed
    RuntimeError,  # a zip with a password
    csv.Error,
    lzma.LZMAError,
    zipfile.BadZipFile,
    zlib.error,
    pa.ArrowException,
)


def load_tables(path: Path) -> list[Table]:
    """Load a file by its suffix: one table, or one of each symbol where json holds several.

    Raises:
        BadPayload: says what was expected and found.
    """
    source, suffix = str(path), path.suffix.lower()
    if path.is_dir():
        raise BadPayload(source, "a file", "a folder: name its files")
    if not path.exists():
        raise BadPayload(source, "a file", f"no such file: {source}")
    try:
        if suffix == ".zip":
            return _load_zip(source, path)
        if suffix not in _PACKINGS:
            return _load(source, path.name, path.read_bytes, "")
        return _load(source, path.stem, lambda: _unpack(source, lambda: _PACKINGS[suffix](path)), suffix)
    except _UNREADABLE as error:
        kind = (path.stem if suffix in _PACKINGS else path.name).rpartition(".")[2].lower()
        raise BadPayload(source, f"a readable {kind} file", str(error) or type(error).__name__) from error


def _load(source: str, name: str, read: Callable[[], bytes], packing: str) -> list[Table]:
    suffix = PurePath(name).suffix.lower()
    if suffix not in _LOADERS:
        expected = f"a file that ends in {', '.join(_LOADERS)}, {', '.join(_PACKINGS)} behind one of them, or .zip"
        raise BadPayload(source, expected, suffix)
    return _LOADERS[suffix](source, read(), suffix.removeprefix(".") + packing)


def _load_zip(source: str, path: Path) -> list[Table]:
    """Load the one table of a zip."""
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/") and not name.startswith("__MACOSX/")]
        tables = _tables_among(names) if len(names) > 1 else names
        if len(tables) != 1:
            raise BadPayload(source, "a zip of exactly one table", names)
        return _load(source, tables[0], lambda: _unpack(source, lambda: archive.open(tables[0])), " in zip")


def _tables_among(names: list[str]) -> list[str]:
    """Leave out checksums, notes and the like; a .txt of the name of another table is the report of its making."""
    paths = {name: PurePath(name) for name in names}
    tables = [name for name, path in paths.items() if path.suffix.lower() in _LOADERS]
    others = {paths[name].stem for name in tables if paths[name].suffix.lower() != ".txt"}
    return [name for name in tables if paths[name].suffix.lower() != ".txt" or paths[name].stem not in others]


def _unpack(source: str, opened: Callable[[], _Stream]) -> bytes:
    """Give what is packed; its size is found first, so that one which is too large takes no memory."""
    size = 0
    with opened() as stream:
        while piece := stream.read(_PIECE):
            size += len(piece)
            if size > _LARGEST:
                raise BadPayload(source, f"at most {_LARGEST >> 20} MiB when unpacked", "more")
    with opened() as stream:
        return stream.read(size)


def _load_frame(source: str, content: bytes, kind: str) -> list[Table]:
    read = pyarrow.feather.read_feather if kind.startswith("feather") else pd.read_parquet
    try:
        frame = read(io.BytesIO(content))
    except (KeyError, TypeError) as error:
        msg = f"a damaged note of its types: {error!r}"
        raise ValueError(msg) from error
    return [frame_table(frame, source, form=kind)]


_PACKINGS: Final[dict[str, Callable[[Path], _Stream]]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
}
_LOADERS: Final[dict[str, Callable[[str, bytes, str], list[Table]]]] = {
    ".csv": csv_tables,
    ".txt": csv_tables,
    ".tsv": csv_tables,
    ".json": json_tables,
    ".jsonl": json_tables,
    ".ndjson": json_tables,
    ".parquet": _load_frame,
    ".pq": _load_frame,
    ".feather": _load_frame,
}
