"""Writing frames to Parquet, feather and csv files."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING, Any, Final

from forecaster.errors import ConfigError
from forecaster.output_files import atomic_write

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    import pandas as pd

_FORMULA: Final = ("=", "+", "-", "@", "\t", "\n")
"""First characters of cells that spreadsheets run as formulas, as OWASP lists them."""


def write_frames(frames: Iterable[pd.DataFrame], out: Path) -> int:
    """Write frames of the same columns to one file, in the format of its ending. Return the number of rows.

    The file appears when it is complete.

    Raises:
        ConfigError: for another ending.
    """
    writers = {".parquet": _write_parquet, ".feather": _write_feather, ".csv": _write_csv}
    if out.suffix not in writers:
        raise ConfigError("out", "a file that ends in .parquet, .feather or .csv", str(out))
    with atomic_write(out) as file:
        return writers[out.suffix](frames, file)


def _write_parquet(frames: Iterable[pd.DataFrame], out: IO[bytes]) -> int:
    import pyarrow.parquet as pq

    return _write_tables(frames, out, pq.ParquetWriter)


def _write_feather(frames: Iterable[pd.DataFrame], out: IO[bytes]) -> int:
    import pyarrow as pa

    return _write_tables(frames, out, pa.ipc.new_file)


def _write_tables(frames: Iterable[pd.DataFrame], out: IO[bytes], open_writer: Callable[[IO[bytes], Any], Any]) -> int:
    """Write frames as tables with the schema of the first; an empty file without frames."""
    import pyarrow as pa

    count, writer = 0, None
    for frame in frames:
        table = pa.Table.from_pandas(frame, preserve_index=False)
        writer = writer or open_writer(out, table.schema)
        writer.write_table(table.cast(writer.schema) if hasattr(writer, "schema") else table)
        count += len(frame)
    if writer is None:
        writer = open_writer(out, pa.schema([]))
    writer.close()
    return count


def _write_csv(frames: Iterable[pd.DataFrame], out: IO[bytes]) -> int:
    """Write csv; a text that a spreadsheet would run as a formula gets an apostrophe in front."""
    count = 0
    for frame in frames:
        texts = frame.select_dtypes(["object", "string"]).map(_escaped)
        out.write(frame.assign(**texts).to_csv(index=False, header=not count).encode())
        count += len(frame)
    return count


def _escaped(cell: object) -> object:
    if not isinstance(cell, str):
        return cell
    cell = cell.replace("\r", " ")  # the csv writer does not quote it: the rest would be a line of its own
    return f"'{cell}" if cell.startswith(_FORMULA) else cell
