"""Load the names and cells of a file by its suffix, compressed or not. `tables` interprets them."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import lzma
import os
import stat
import struct
import zipfile
import zlib
from pathlib import PurePath
from typing import IO, TYPE_CHECKING, Final, TypeAlias

import pyarrow as pa

from forecaster.errors import BadPayload, SourceUnavailable
from forecaster.sources.files import limits
from forecaster.sources.files.columnar import feather_tables, parquet_tables
from forecaster.sources.files.csv_rows import csv_tables
from forecaster.sources.files.json_rows import json_tables

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from forecaster.tables import Table

_Stream: TypeAlias = IO[bytes] | gzip.GzipFile | bz2.BZ2File | lzma.LZMAFile

_CHUNK_BYTES: Final = 1 << 20
_ZIP_ENTRY: Final = b"PK\1\2"
"""Starts the directory entry of each file in a zip."""
_NOT_FILES: Final = (
    (stat.S_ISDIR, "a folder: name its files"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
_READ_ERRORS: Final = (
    OSError,
    ValueError,
    EOFError,
    RecursionError,
    MemoryError,
    struct.error,
    NotImplementedError,  # an unsupported zip compression
    RuntimeError,  # a zip with a password
    csv.Error,
    lzma.LZMAError,
    zipfile.BadZipFile,
    zlib.error,
    pa.ArrowException,
)


def load_tables(path: Path) -> list[Table]:
    """Load a file by its suffix: one table, or one for each symbol of a json file.

    Raises:
        BadPayload: for a file that cannot be read.
        SourceUnavailable: if the file changes while it is read, or reading takes too long.
    """
    source, suffix, deadline = str(path), path.suffix.lower(), limits.Deadline(str(path))
    try:
        content = _read(source, path, deadline)
        if suffix == ".zip":
            return _load_zip(source, content, deadline)
        if suffix not in _DECOMPRESSORS:
            return _load(source, path.name, content, "")
        with _DECOMPRESSORS[suffix](io.BytesIO(content)) as stream:
            return _load(source, path.stem, _decompress(source, stream, len(content), deadline), suffix)
    except _READ_ERRORS as error:
        kind = (path.stem if suffix in _DECOMPRESSORS else path.name).rpartition(".")[2].lower()
        raise BadPayload(source, f"a readable {kind} file", str(error) or type(error).__name__) from error


def _read(source: str, path: Path, deadline: limits.Deadline) -> bytes:
    """Read a regular file as it was at one moment; a pipe, which would block, is not opened.

    Raises as `load_tables`.
    """
    try:
        _require_file(source, path.stat())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BadPayload(source, "a file", f"no such file: {source}") from error
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0) as file:
        before = os.fstat(file.fileno())
        _require_file(source, before)
        limits.check_bytes(source, before.st_size)
        pieces = []
        while piece := file.read(_CHUNK_BYTES):
            pieces.append(piece)
            deadline.check()
            if sum(map(len, pieces)) > before.st_size:
                break
        after = os.fstat(file.fileno())
    content = b"".join(pieces)
    if (before.st_size, before.st_mtime_ns) != (len(content), after.st_mtime_ns):
        found = f"one that changed from {before.st_size:,} to {max(len(content), after.st_size):,} bytes"
        expected = "expected a file that stays as it is while it is read"
        raise SourceUnavailable(source, f"{expected}, found {found}: write a new file and rename it")
    return content


def _require_file(source: str, status: os.stat_result) -> None:
    """Raise BadPayload for a folder, pipe, socket or device."""
    kind = next((name for is_kind, name in _NOT_FILES if is_kind(status.st_mode)), "")
    if kind:
        raise BadPayload(source, "a file", kind)


def _load(source: str, name: str, content: bytes, packing: str) -> list[Table]:
    suffix = PurePath(name).suffix.lower()
    if suffix not in _LOADERS:
        expected = f"a file that ends in {', '.join(_LOADERS)}, {', '.join(_DECOMPRESSORS)} behind one of them, or .zip"
        raise BadPayload(source, expected, suffix)
    return _LOADERS[suffix](source, content, suffix.removeprefix(".") + packing)


def _load_zip(source: str, content: bytes, deadline: limits.Deadline) -> list[Table]:
    """Load the only table of a zip."""
    limits.check_count(source, "files in a zip", content.count(_ZIP_ENTRY), limits.MAX_ZIP_FILES)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/") and not name.startswith("__MACOSX/")]
        tables = _select_tables(names) if len(names) > 1 else names
        if len(tables) != 1:
            raise BadPayload(source, "a zip of exactly one table", names)
        with archive.open(tables[0]) as stream:
            return _load(source, tables[0], _decompress(source, stream, len(content), deadline), " in zip")


def _select_tables(names: list[str]) -> list[str]:
    """Return the tables; a .txt with another table's name is a report on it, and other suffixes are notes."""
    paths = {name: PurePath(name) for name in names}
    tables = [name for name, path in paths.items() if path.suffix.lower() in _LOADERS]
    others = {paths[name].stem for name in tables if paths[name].suffix.lower() != ".txt"}
    return [name for name in tables if paths[name].suffix.lower() != ".txt" or paths[name].stem not in others]


def _decompress(source: str, stream: _Stream, packed: int, deadline: limits.Deadline) -> bytes:
    """Decompress piece by piece, so that a zip bomb is rejected while it is small."""
    pieces, size = [], 0
    while piece := stream.read(_CHUNK_BYTES):
        pieces.append(piece)
        size += len(piece)
        limits.check_unpacked(source, packed, size)
        deadline.check()
    return b"".join(pieces)


_DECOMPRESSORS: Final[dict[str, Callable[[io.BytesIO], _Stream]]] = {
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
    ".parquet": parquet_tables,
    ".pq": parquet_tables,
    ".feather": feather_tables,
}
