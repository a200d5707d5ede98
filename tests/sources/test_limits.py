"""Files that would use up memory or time are rejected by a limit."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import socket
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from forecaster import Forecaster
from forecaster.errors import BadPayload, SourceUnavailable
from forecaster.model import ModelSuite
from forecaster.sources.files import FileSource, limits
from forecaster.sources.files.load import load_tables
from forecaster.store.memory import MemoryStore
from tests.builders import HOUR_MS, make_bars, make_key
from tests.test_engine import GOOD, LATE, NamedWalk, make_config

ROW = [1704067200000, 2, 4, 1, 3, 5]
HEADER = "date,open,high,low,close,volume\n"
LINE = "2024-01-01,2,4,1,3,5\n"


@pytest.fixture
def refused(tmp_path):
    """Write a file, and return the error."""

    def refused(name: str, content: bytes | str) -> str:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        with pytest.raises(BadPayload) as error:
            load_tables(path)
        return error.value.reason

    return refused


# Not a regular file, or one that changes.


@pytest.mark.parametrize("suffix", [".csv", ".json.gz", ".zip", ".parquet"])
def test_a_named_pipe_is_rejected_at_once(tmp_path, suffix):
    """Without a writer, opening it would block forever."""
    path = tmp_path / f"bars{suffix}"
    os.mkfifo(path)

    with pytest.raises(BadPayload, match="expected a file, found 'a named pipe'"):
        load_tables(path)


def test_a_device_is_rejected(tmp_path):
    """Reading it would never end."""
    path = tmp_path / "bars.csv"
    path.symlink_to("/dev/zero")

    with pytest.raises(BadPayload, match="expected a file, found 'a device'"):
        load_tables(path)


def test_a_socket_is_rejected(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("bars.csv")

        with pytest.raises(BadPayload, match="expected a file, found 'a socket'"):
            load_tables(tmp_path / "bars.csv")


@pytest.mark.parametrize("size", [0, 10, 1000])
def test_a_file_that_changes_while_it_is_read_is_rejected(tmp_path, monkeypatch, size):
    """Half of the old file and half of the new one are not valid."""
    path = tmp_path / "bars.csv"
    path.write_text(HEADER + 3 * LINE)

    def change(_self):
        if path.stat().st_size != size:
            path.write_bytes(b"0" * size)

    monkeypatch.setattr(limits.Deadline, "check", change)

    with pytest.raises(SourceUnavailable, match=r"stays as it is while it is read, found one that changed from 95 to"):
        load_tables(path)


def test_a_file_that_takes_too_long_is_abandoned(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "READ_TIMEOUT_SECONDS", -1.0)
    path = tmp_path / "bars.csv"
    path.write_text(HEADER + LINE)

    with pytest.raises(SourceUnavailable, match="expected to read the file within"):
        load_tables(path)


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    """A sparse file of a terabyte."""
    path = tmp_path / "bars.csv"
    with path.open("wb") as file:
        file.truncate(1 << 40)

    with pytest.raises(BadPayload, match=r"expected at most 512 MiB, found '1,099,511,627,776 bytes"):
        load_tables(path)


# What is packed.


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress], ids=["gz", "bz2", "xz"])
def test_a_bomb_is_rejected_by_its_ratio(refused, monkeypatch, pack):
    monkeypatch.setattr(limits, "MIN_RATIO_BYTES", 1 << 20)
    name = {gzip.compress: "bars.csv.gz", bz2.compress: "bars.csv.bz2", lzma.compress: "bars.csv.xz"}[pack]

    assert "expected at most 100 times its" in refused(name, pack(bytes(8 << 20)))


def test_a_zip_of_a_bomb_is_rejected_by_its_ratio(refused, monkeypatch, tmp_path):
    monkeypatch.setattr(limits, "MIN_RATIO_BYTES", 1 << 20)
    with zipfile.ZipFile(tmp_path / "made.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bars.csv", bytes(8 << 20))

    assert "expected at most 100 times its" in refused("bars.zip", (tmp_path / "made.zip").read_bytes())


def test_bars_of_a_quiet_market_are_not_a_bomb(tmp_path):
    """They compress best."""
    path = tmp_path / "bars.csv.xz"
    rows = "".join(f"{ROW[0] + hour * HOUR_MS},1.0,1.0,1.0,1.0,0.0\n" for hour in range(20_000))
    path.write_bytes(lzma.compress(f"{HEADER}{rows}".encode()))

    (table,) = load_tables(path)

    assert len(table.cells) == 20_000


def test_a_zip_of_very_many_files_is_rejected(refused, tmp_path):
    """Each entry takes memory before the first is read."""
    with zipfile.ZipFile(tmp_path / "made.zip", "w") as archive:
        for number in range(1_001):
            archive.writestr(f"{number}.txt", "")

    reason = refused("bars.zip", (tmp_path / "made.zip").read_bytes())

    assert reason == "expected at most 1,000 files in a zip, found '1,001: divide the file'"


# Json.


def nested(depth: int) -> str:
    return "[" * depth + json.dumps(ROW) + "]" * depth


@pytest.mark.parametrize("name", ["bars.json", "bars.jsonl"])
@pytest.mark.parametrize("depth", [32, 1_000_000])
def test_json_that_is_too_deep_is_rejected(refused, name, depth):
    assert refused(name, nested(depth)) == f"expected lists and objects at most 32 deep, found '{depth + 1:,} deep'"


def test_json_may_be_deep(tmp_path):
    path = tmp_path / "bars.json"
    path.write_text(nested(31))

    (table,) = load_tables(path)

    assert table.cells.to_numpy().tolist() == [ROW]


def test_brackets_in_texts_of_json_are_not_counted(tmp_path):
    path = tmp_path / "bars.json"
    path.write_text(json.dumps({"note": '\\"' + "[" * 100, "bars": [ROW]}))

    (table,) = load_tables(path)

    assert table.cells.to_numpy().tolist() == [ROW]


def test_json_of_very_many_values_is_rejected(refused, monkeypatch):
    monkeypatch.setattr(limits, "MAX_JSON_VALUES", 1_000)

    assert "expected at most 1,000 values" in refused("bars.json", json.dumps([ROW] * 200))


def test_rows_of_unequal_length_cannot_multiply(refused):
    """One long row would pad all others."""
    assert "expected at most 10,000 columns, found '20,000" in refused("bars.json", json.dumps([[1] * 20_000, [1]]))


def test_keys_of_rows_cannot_multiply(refused):
    """Each key of a row becomes a column of all."""
    rows = [{"t": 1, f"k{number}": 2} for number in range(10_001)]

    assert "expected at most 10,000 columns" in refused("bars.json", json.dumps(rows))


def test_a_repeated_key_among_very_many_is_found_quickly(refused):
    """In linear time."""
    keys = ",".join(f'"k{number}":1' for number in range(50_000))

    assert "the key 'last' twice in one object" in refused("bars.json", f'{{{keys},"last":1,"last":2}}')


def test_very_many_lists_of_rows_are_rejected(refused, monkeypatch):
    monkeypatch.setattr(limits, "MAX_JSON_TABLES", 50)

    assert "expected at most 50 lists of rows" in refused("bars.json", json.dumps([[[1, 2, 3]]] * 51))


# Csv.


def test_csv_of_very_many_rows_is_rejected(refused, monkeypatch):
    monkeypatch.setattr(limits, "MAX_ROWS", 1_000)

    assert "expected at most 1,000 rows, found '1,001" in refused("bars.csv", HEADER + LINE * 1_001)


def test_empty_lines_of_very_many_columns_are_rejected(refused, monkeypatch):
    """Each line has as many cells as the header."""
    monkeypatch.setattr(limits, "MAX_CELLS", 1_000_000)
    header = HEADER.strip() + ",x" * 2_000

    assert "expected at most 1,000,000 cells" in refused("bars.csv", f"{header}\n" + "\n" * 1_000)


@pytest.mark.parametrize("content", [",".join("x" * 600_000), HEADER + "1," * 600_000], ids=["header", "row"])
def test_a_line_that_is_too_long_is_rejected(refused, content):
    assert "expected lines of at most 1,048,576 characters" in refused("bars.csv", content)


def test_a_cell_that_is_too_long_is_rejected(refused):
    long = LINE.replace("\n", "x" * 70_000 + "\n")

    assert "expected cells of at most 65,536 characters" in refused("bars.csv", HEADER + LINE + long)


def test_a_column_of_very_many_symbols_is_rejected(tmp_path):
    path = tmp_path / "bars.csv"
    lines = "".join(f"2024-01-01,S{number},2,4,1,3\n" for number in range(5_001))
    path.write_text(f"date,symbol,open,high,low,close\n{lines}")

    with pytest.raises(BadPayload, match="at most 5,000 symbols in column 'symbol'"):
        FileSource(path).infer_series()


# Parquet and feather.

MILLIONS = 11_000_000


def test_parquet_of_very_many_rows_is_rejected_by_its_metadata(refused, tmp_path):
    """A few kB of one number."""
    pq.write_table(pa.table({"open": np.zeros(MILLIONS, np.int8)}), tmp_path / "made", compression="zstd")
    content = (tmp_path / "made").read_bytes()

    assert len(content) < 100_000
    assert "expected at most 10,000,000 rows, found '11,000,000" in refused("bars.parquet", content)


def test_values_of_a_list_in_parquet_cannot_multiply(refused, monkeypatch, tmp_path):
    """One row may hold any number of values."""
    monkeypatch.setattr(limits, "MAX_CELLS", 1_000)
    pq.write_table(pa.table({"open": pa.array([[1.0] * 2_000])}), tmp_path / "made")

    assert "expected at most 1,000 cells, found '2,000" in refused("bars.parquet", (tmp_path / "made").read_bytes())


def test_texts_of_parquet_cannot_multiply(refused, tmp_path):
    """One text in a dictionary, and 20,000 rows that refer to it: a GiB of text."""
    names = pa.DictionaryArray.from_arrays(np.zeros(20_000, np.int32), ["x" * 60_000])
    pq.write_table(pa.table({"symbol": names}), tmp_path / "made")

    assert "expected at most 512 MiB, found '1,200,000,000 bytes" in refused(
        "bars.parquet", (tmp_path / "made").read_bytes()
    )


def test_values_of_fixed_length_cannot_multiply(refused, monkeypatch, tmp_path):
    monkeypatch.setattr(limits, "MAX_BYTES", 1 << 20)
    pq.write_table(pa.table({"symbol": pa.array([b"x" * 60_000] * 20, pa.binary(60_000))}), tmp_path / "made")

    assert "expected at most 1 MiB, found '1,200,000 bytes" in refused("bars.parquet", (tmp_path / "made").read_bytes())


@pytest.mark.parametrize("compression", ["zstd", "lz4"])
def test_feather_of_very_many_rows_is_rejected_by_its_headers(refused, tmp_path, compression):
    pyarrow.feather.write_feather(
        pa.table({"open": np.zeros(MILLIONS, np.int8)}), tmp_path / "made", compression=compression, chunksize=MILLIONS
    )

    assert "expected at most 10,000,000 rows" in refused("bars.feather", (tmp_path / "made").read_bytes())


def test_a_packed_text_of_feather_is_rejected_by_its_size(refused, monkeypatch, tmp_path):
    monkeypatch.setattr(limits, "MAX_BYTES", 1 << 20)
    table = pa.table({"symbol": ["x" * (2 << 20)]})
    pyarrow.feather.write_feather(table, tmp_path / "made", compression="zstd")

    assert "expected at most 1 MiB" in refused("bars.feather", (tmp_path / "made").read_bytes())


def test_views_of_one_text_cannot_multiply(refused, tmp_path):
    """A text stored once, and 20,000 rows that view it."""
    array = pa.array(["x" * 60_000], pa.string_view())
    views, texts = array.buffers()[1].to_pybytes() * 20_000, array.buffers()[2]
    column = pa.Array.from_buffers(pa.string_view(), 20_000, [None, pa.py_buffer(views), texts])
    pyarrow.feather.write_feather(pa.table({"symbol": column}), tmp_path / "made", compression="uncompressed")

    assert "expected at most 512 MiB, found '1,200,000,000 bytes" in refused(
        "bars.feather", (tmp_path / "made").read_bytes()
    )


def test_a_feather_column_with_a_false_length_is_rejected(refused, tmp_path):
    """Trusting it would read foreign memory."""
    table = pa.table({"open": pa.array([1.0] * 7)})
    pyarrow.feather.write_feather(table, tmp_path / "made", compression="uncompressed")
    content = (tmp_path / "made").read_bytes()
    longer = content.replace((7).to_bytes(8, "little"), (700).to_bytes(8, "little"))

    assert longer != content
    assert "expected a readable feather file" in refused("bars.feather", longer)


# One file of two.


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("bad.json", nested(100_000)),
        ("bad.csv.gz", gzip.compress(bytes(1 << 20))),
        ("bad.parquet", "PAR1"),
        ("bad.csv", "x"),
    ],
)
def test_an_unreadable_file_fails_its_series_alone(tmp_path, name, content):
    """The series of the other file is forecast in the same cycle."""
    bars = make_bars(GOOD, count=120)
    bars.frame.to_csv(tmp_path / "good.csv")
    (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    sources = {GOOD: FileSource(tmp_path / "good.csv"), LATE: FileSource(tmp_path / name)}

    with Forecaster(make_config(GOOD, LATE), MemoryStore(), sources, ModelSuite(NamedWalk())) as forecaster:
        report = forecaster.run_cycle(GOOD.timeframe, int(bars.close_time[-1]))

    assert [forecast.key for forecast in report.forecasts] == [GOOD]
    assert list(report.skipped) == [LATE]


def test_an_unexpected_error_names_the_file(tmp_path, monkeypatch):
    path = tmp_path / "bars.csv"
    path.write_text(HEADER + LINE)

    def broken(*_):
        raise OverflowError

    monkeypatch.setattr("forecaster.sources.files.read_table", broken)

    with pytest.raises(
        BadPayload, match=r"bars\.csv: expected a file of bars, found 'one that cannot be read: OverflowError"
    ):
        FileSource(path).fetch(make_key(), None, ROW[0])
