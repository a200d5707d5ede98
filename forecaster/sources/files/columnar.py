"""Parquet and feather: how large their columns become is read from what they say of them, before any is made.

Packed columns, and columns of few texts that many rows refer to, are small in a file and large in memory.
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

from forecaster.sources.files import bounds
from forecaster.tables.frames import frame_table

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from forecaster.tables import Table

_MAGIC: Final = b"ARROW1\0\0"
_TEXT: Final = "BYTE_ARRAY"
_FIXED: Final = "FIXED_LEN_BYTE_ARRAY"
_HEADER_TYPE, _HEADER = 1, 2
_DICTIONARY_BATCH, _RECORD_BATCH = 2, 3
_DATA_OF_DICTIONARY: Final = 1
_LENGTH, _NODES, _BUFFERS, _COMPRESSION = range(4)
_NOT_PACKED: Final = -1
_PREFIX: Final = 8
"""Bytes before a packed buffer, which say how large it is."""


def parquet_tables(source: str, content: bytes, kind: str) -> list[Table]:
    """Read a Parquet file.

    Raises:
        BadPayload: it is too large.
        ValueError: it cannot be read.
    """
    _check_parquet(source, content)
    return [_table_of(source, lambda: pd.read_parquet(io.BytesIO(content)), kind)]


def feather_tables(source: str, content: bytes, kind: str) -> list[Table]:
    """Read a feather file of version 2, batch after batch: its footer could name one batch many times.

    Raises:
        BadPayload: it is too large.
        ValueError: it cannot be read.
    """
    if not content.startswith(_MAGIC):
        return [_table_of(source, lambda: pyarrow.feather.read_feather(io.BytesIO(content)), kind)]
    stream = pa.py_buffer(content)[len(_MAGIC) :]
    _check_feather(source, stream)

    def read() -> pd.DataFrame:
        table = pa.ipc.open_stream(stream).read_all()
        table.validate(full=True)  # a column may say that it is longer than its content
        for column in table.columns:
            _check_texts(source, column)
        frame: pd.DataFrame = table.to_pandas()
        return frame

    return [_table_of(source, read, kind)]


def _table_of(source: str, read: Callable[[], pd.DataFrame], kind: str) -> Table:
    try:
        frame = read()
    except (KeyError, TypeError) as error:
        msg = f"a damaged note of its types: {error!r}"
        raise ValueError(msg) from error
    return frame_table(frame, source, form=kind)


def _check_parquet(source: str, content: bytes) -> None:
    """Refuse what is too large by the metadata; texts by their number and lengths, before they are repeated."""
    about = pq.ParquetFile(pa.BufferReader(content)).metadata
    groups = [about.row_group(number) for number in range(about.num_row_groups)]
    bounds.check_shape(source, max(about.num_rows, sum(group.num_rows for group in groups)), about.num_columns)
    chunks = [(number, group.column(number)) for group in groups for number in range(group.num_columns)]
    bounds.check_count(source, "cells", sum(chunk.num_values for _, chunk in chunks), bounds.MOST_CELLS)
    bounds.check_bytes(source, sum(chunk.total_uncompressed_size for _, chunk in chunks))
    fixed = [one for one in chunks if one[1].physical_type == _FIXED]
    bounds.check_bytes(source, sum(chunk.num_values * about.schema.column(number).length for number, chunk in fixed))
    texts = list(dict.fromkeys(chunk.path_in_schema for _, chunk in chunks if chunk.physical_type == _TEXT))
    if texts:
        unrepeated = pq.ParquetFile(pa.BufferReader(content), read_dictionary=texts)
        for name in texts:
            for column in unrepeated.read(columns=[name]).columns:
                _check_texts(source, column)


def _check_texts(source: str, column: pa.ChunkedArray) -> None:
    """Refuse a text that is too long, and texts that are too long together when each row has its own."""
    total = 0
    for chunk in column.chunks:
        lengths = _lengths(chunk)
        if lengths.size:
            bounds.check_text(source, "texts", int(lengths.max()), bounds.LONGEST_CELL)
        total += int(lengths.sum())
    bounds.check_bytes(source, total)


def _lengths(chunk: pa.Array) -> NDArray[np.int64]:
    """Give the bytes of each text; nothing where there are none."""
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
    """Refuse batches that are too large together by their headers, before any is unpacked."""
    rows = cells = size = 0
    for message in pa.ipc.MessageReader.open_stream(stream):
        batch = _Batch.of(message)
        rows, cells, size = rows + batch.rows, cells + batch.cells, size + batch.size
        bounds.check_count(source, "rows", rows, bounds.MOST_ROWS)
        bounds.check_count(source, "cells", cells, bounds.MOST_CELLS)
        bounds.check_bytes(source, size)


class _Batch(NamedTuple):
    """What the header of a message says: rows, the cells of all columns, and their bytes when unpacked."""

    rows: int
    cells: int
    size: int

    @classmethod
    def of(cls, message: pa.Message) -> Self:
        """Read Arrow's `Message.fbs`; one that has no rows, such as the schema, is empty."""
        data = message.metadata.to_pybytes()
        root = _follow(data, 0)
        kind = data[_field(data, root, _HEADER_TYPE)]
        if kind not in (_DICTIONARY_BATCH, _RECORD_BATCH):
            return cls(0, 0, 0)
        batch = _follow(data, _field(data, root, _HEADER))
        if kind == _DICTIONARY_BATCH:
            batch = _follow(data, _field(data, batch, _DATA_OF_DICTIONARY))
        (rows,) = struct.unpack_from("<q", data, _field(data, batch, _LENGTH)) if _has(data, batch, _LENGTH) else (0,)
        nodes, buffers = (_pairs(data, batch, number) for number in (_NODES, _BUFFERS))
        sizes = buffers[:, 1]
        if _has(data, batch, _COMPRESSION):
            sizes = np.array([_unpacked(message.body, *one) for one in buffers.tolist()], np.int64)
        if rows < 0 or (nodes < 0).any() or (sizes < 0).any():
            msg = "a negative length"
            raise ValueError(msg)
        # Python adds, as the sum of large lengths may be beyond 64 bits.
        return cls(rows, sum(nodes[:, 0].tolist()), sum(sizes.tolist()))


def _unpacked(body: pa.Buffer, offset: int, length: int) -> int:
    if length < _PREFIX:
        return 0
    (size,) = struct.unpack_from("<q", body, offset)
    return length - _PREFIX if size == _NOT_PACKED else int(size)


def _follow(data: bytes, place: int) -> int:
    """Give where an offset of a flatbuffer leads."""
    return place + int(struct.unpack_from("<I", data, place)[0])


def _has(data: bytes, table: int, number: int) -> bool:
    """Tell whether a table has a field."""
    return _field(data, table, number) != table


def _field(data: bytes, table: int, number: int) -> int:
    """Give where a field of a table is; the table itself where it is left out."""
    (back,) = struct.unpack_from("<i", data, table)
    (end,) = struct.unpack_from("<H", data, table - back)
    entry = 4 + 2 * number
    return table + int(struct.unpack_from("<H", data, table - back + entry)[0]) if entry < end else table


def _pairs(data: bytes, table: int, number: int) -> NDArray[np.int64]:
    """Give a vector of pairs of 64 bits."""
    if not _has(data, table, number):
        return np.empty((0, 2), np.int64)
    start = _follow(data, _field(data, table, number))
    (count,) = struct.unpack_from("<I", data, start)
    return np.frombuffer(data, "<i8", 2 * count, start + 4).reshape(-1, 2)
