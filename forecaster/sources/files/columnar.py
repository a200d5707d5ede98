"""Read Parquet and feather: the size of their columns is read from metadata, before a column is read.

Compressed columns, and dictionary columns of few texts, are small in a file and large in memory.
"""

from __future__ import annotations

import io
import struct
from typing import TYPE_CHECKING, Final, NamedTuple, Self

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.feather
import pyarrow.parquet as pq

from forecaster.sources.files import limits
from forecaster.tables.frames import table_from_frame

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from forecaster.tables import Table

_FEATHER_MAGIC: Final = b"ARROW1\0\0"
_TEXT: Final = "BYTE_ARRAY"
_FIXED: Final = "FIXED_LEN_BYTE_ARRAY"
_HEADER_TYPE, _HEADER = 1, 2
_DICTIONARY_BATCH, _RECORD_BATCH = 2, 3
_DATA_OF_DICTIONARY: Final = 1
_LENGTH, _NODES, _BUFFERS, _COMPRESSION = range(4)
_UNCOMPRESSED: Final = -1
_SIZE_BYTES: Final = 8
"""Bytes before a compressed buffer that hold its size."""


def parquet_tables(source: str, content: bytes, kind: str) -> list[Table]:
    """Read a Parquet file.

    Raises:
        BadPayload: for a file that is too large.
        ValueError: for a file that cannot be read.
    """
    _check_parquet(source, content)
    return [_table_of(source, lambda: pd.read_parquet(io.BytesIO(content)), kind)]


def feather_tables(source: str, content: bytes, kind: str) -> list[Table]:
    """Read a feather file of version 2 batch by batch, since its footer could name one batch many times.

    Raises:
        BadPayload: for a file that is too large.
        ValueError: for a file that cannot be read.
    """
    if not content.startswith(_FEATHER_MAGIC):
        return [_table_of(source, lambda: pyarrow.feather.read_feather(io.BytesIO(content)), kind)]
    stream = pa.py_buffer(content)[len(_FEATHER_MAGIC) :]
    _check_feather(source, stream)

    def read() -> pd.DataFrame:
        table = pa.ipc.open_stream(stream).read_all()
        table.validate(full=True)  # a column may claim to be longer than its content
        for column in table.columns:
            _check_texts(source, column)
        frame: pd.DataFrame = table.to_pandas()
        return frame

    return [_table_of(source, read, kind)]


def _table_of(source: str, read: Callable[[], pd.DataFrame], kind: str) -> Table:
    try:
        frame = read()
    except (KeyError, TypeError) as error:
        msg = f"damaged metadata of its types: {error!r}"
        raise ValueError(msg) from error
    return table_from_frame(frame, source, file_format=kind)


def _check_parquet(source: str, content: bytes) -> None:
    """Check the size by the metadata, and the texts by their dictionaries, before they are expanded."""
    metadata = pq.ParquetFile(pa.BufferReader(content)).metadata
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    limits.check_shape(source, max(metadata.num_rows, sum(group.num_rows for group in groups)), metadata.num_columns)
    chunks = [(number, group.column(number)) for group in groups for number in range(group.num_columns)]
    limits.check_count(source, "cells", sum(chunk.num_values for _, chunk in chunks), limits.MAX_CELLS)
    limits.check_bytes(source, sum(chunk.total_uncompressed_size for _, chunk in chunks))
    fixed = [(number, chunk) for number, chunk in chunks if chunk.physical_type == _FIXED]
    limits.check_bytes(source, sum(chunk.num_values * metadata.schema.column(number).length for number, chunk in fixed))
    texts = list(dict.fromkeys(chunk.path_in_schema for _, chunk in chunks if chunk.physical_type == _TEXT))
    if texts:
        dictionaries = pq.ParquetFile(pa.BufferReader(content), read_dictionary=texts)
        for name in texts:
            for column in dictionaries.read(columns=[name]).columns:
                _check_texts(source, column)


def _check_texts(source: str, column: pa.ChunkedArray) -> None:
    """Check the length of each text, and of all texts when each row has its own copy."""
    total = 0
    for chunk in column.chunks:
        lengths = _lengths(chunk)
        if lengths.size:
            limits.check_text(source, "texts", int(lengths.max()), limits.MAX_CELL_CHARS)
        total += int(lengths.sum())
    limits.check_bytes(source, total)


def _lengths(chunk: pa.Array) -> NDArray[np.int64]:
    """Return the bytes of each text; empty for other types."""
    if isinstance(chunk, pa.DictionaryArray):
        lengths = _lengths(chunk.dictionary)
        return lengths[chunk.indices.drop_null().to_numpy(zero_copy_only=False)] if lengths.size else lengths
    if chunk.type in (pa.string_view(), pa.binary_view()):
        views = np.frombuffer(chunk.buffers()[1], np.int32)[:: 16 // 4]
        return views[chunk.offset : chunk.offset + len(chunk)].astype(np.int64)
    if pa.types.is_string(chunk.type) or pa.types.is_large_string(chunk.type) or pa.types.is_binary(chunk.type):
        return np.asarray(pc.fill_null(pc.binary_length(chunk), 0), np.int64)
    return np.empty(0, np.int64)


def _check_feather(source: str, stream: pa.Buffer) -> None:
    """Check the total size of the batches by their headers, before one is decompressed."""
    rows = cells = size = 0
    for message in pa.ipc.MessageReader.open_stream(stream):
        batch = _Batch.of(message)
        rows, cells, size = rows + batch.rows, cells + batch.cells, size + batch.size
        limits.check_count(source, "rows", rows, limits.MAX_ROWS)
        limits.check_count(source, "cells", cells, limits.MAX_CELLS)
        limits.check_bytes(source, size)


class _Batch(NamedTuple):
    """The header of a message: rows, the cells of all columns, and their bytes when decompressed."""

    rows: int
    cells: int
    size: int

    @classmethod
    def of(cls, message: pa.Message) -> Self:
        """Read Arrow's `Message.fbs`; a message without rows, such as the schema, is empty."""
        content = message.metadata.to_pybytes()
        root = _follow_offset(content, 0)
        kind = content[_field_position(content, root, _HEADER_TYPE)]
        if kind not in (_DICTIONARY_BATCH, _RECORD_BATCH):
            return cls(0, 0, 0)
        batch = _follow_offset(content, _field_position(content, root, _HEADER))
        if kind == _DICTIONARY_BATCH:
            batch = _follow_offset(content, _field_position(content, batch, _DATA_OF_DICTIONARY))
        (rows,) = (
            struct.unpack_from("<q", content, _field_position(content, batch, _LENGTH))
            if _has_field(content, batch, _LENGTH)
            else (0,)
        )
        nodes, buffers = (_read_pairs(content, batch, number) for number in (_NODES, _BUFFERS))
        sizes = buffers[:, 1]
        if _has_field(content, batch, _COMPRESSION):
            sizes = np.array([_decompressed_size(message.body, *buffer) for buffer in buffers.tolist()], np.int64)
        if rows < 0 or (nodes < 0).any() or (sizes < 0).any():
            msg = "a negative length"
            raise ValueError(msg)
        # Python integers: the sum of large lengths may exceed 64 bits.
        return cls(rows, sum(nodes[:, 0].tolist()), sum(sizes.tolist()))


def _decompressed_size(body: pa.Buffer, offset: int, length: int) -> int:
    if length < _SIZE_BYTES:
        return 0
    (size,) = struct.unpack_from("<q", body, offset)
    return length - _SIZE_BYTES if size == _UNCOMPRESSED else int(size)


def _follow_offset(content: bytes, place: int) -> int:
    """Return where an offset of a flatbuffer points."""
    return place + int(struct.unpack_from("<I", content, place)[0])


def _has_field(content: bytes, table: int, number: int) -> bool:
    """Return whether a table has a field."""
    return _field_position(content, table, number) != table


def _field_position(content: bytes, table: int, number: int) -> int:
    """Return the position of a field of a table; the table itself if the field is missing."""
    (back,) = struct.unpack_from("<i", content, table)
    (end,) = struct.unpack_from("<H", content, table - back)
    entry = 4 + 2 * number
    return table + int(struct.unpack_from("<H", content, table - back + entry)[0]) if entry < end else table


def _read_pairs(content: bytes, table: int, number: int) -> NDArray[np.int64]:
    """Return a vector of pairs of 64-bit integers."""
    if not _has_field(content, table, number):
        return np.empty((0, 2), np.int64)
    start = _follow_offset(content, _field_position(content, table, number))
    (count,) = struct.unpack_from("<I", content, start)
    return np.frombuffer(content, "<i8", 2 * count, start + 4).reshape(-1, 2)
