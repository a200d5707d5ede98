"""Files as tables: names and cells in many formats, and errors of unreadable files."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import zipfile

import numpy as np
import pandas as pd
import pytest

from forecaster.errors import BadPayload
from forecaster.sources.files import limits
from forecaster.sources.files.load import load_tables

NAMES = ["date", "open", "high", "low", "close", "volume"]
HEADER = ",".join(NAMES) + "\n"
ROWS = [[f"2024-01-0{day}", "2", "4", "1", "3", str(day)] for day in range(1, 7)]
BODY = "".join(",".join(row) + "\n" for row in ROWS)
OHLC = {"o": 2, "h": 4, "l": 1, "c": 3}
OBJECTS = [{"t": 1704067200000 + day, **OHLC} for day in range(3)]


@pytest.fixture
def tables_of(tmp_path):
    """Write a file and load it."""

    def tables_of(content, name="bars.csv"):
        path = tmp_path / name
        if isinstance(content, dict | list):
            content = json.dumps(content)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return load_tables(path)

    return tables_of


@pytest.fixture
def table_of(tables_of):
    """Write a file with one table and load it."""

    def table_of(content, name="bars.csv"):
        (table,) = tables_of(content, name)
        return table

    return table_of


def rows(table) -> list[list]:
    return table.cells.astype(object).where(table.cells.notna(), None).to_numpy().tolist()


def zipped(path, members: dict[str, str]):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


class TestText:
    """Rows of text."""

    def test_cells_are_text_and_lines_are_counted_as_editors_do(self, table_of):
        table = table_of(HEADER + BODY)

        assert (table.names, rows(table)) == (NAMES, ROWS)
        assert table.cells.index.tolist() == [2, 3, 4, 5, 6, 7]
        assert (table.row_unit, table.format, table.has_header) == ("line", "csv, utf-8, separated by commas", True)

    @pytest.mark.parametrize("word", ["NaN", "null", "N/A", "-", "None", "nan", "1,000"])
    def test_markers_of_missing_values_stay_text(self, table_of, word):
        """`numbers` interprets them; only an empty cell is missing."""
        table = table_of(f'{HEADER}2024-01-01,2,4,1,"{word}",\n')

        assert rows(table) == [["2024-01-01", "2", "4", "1", word, None]]

    @pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\n\n", ",\n"])
    def test_the_ends_of_lines(self, table_of, end):
        table = table_of((HEADER + BODY).replace("\n", end) + end)

        assert [row[:6] for row in rows(table)] == ROWS

    @pytest.mark.parametrize(
        ("separator", "name"), [(",", "commas"), (";", "semicolons"), ("\t", "tabs"), ("|", "vertical bars")]
    )
    @pytest.mark.parametrize("suffix", [".csv", ".txt", ".tsv", ".CSV"])
    def test_the_separator_is_found(self, table_of, separator, name, suffix):
        table = table_of((HEADER + BODY).replace(",", separator), f"bars{suffix}")

        assert rows(table) == ROWS
        assert table.format == f"{suffix[1:].lower()}, utf-8, separated by {name}"

    @pytest.mark.parametrize("header", ["Datum;Open;High;Low;Close;Volume\n", ""])
    def test_decimal_commas_are_not_separators(self, table_of, header):
        """Without a header, commas split each line evenly as well."""
        table = table_of(header + "02.01.2024;2430,0;2432,85;2412,05;2426,98;2513\n" * 3)

        assert rows(table) == [["02.01.2024", "2430,0", "2432,85", "2412,05", "2426,98", "2513"]] * 3

    def test_quoted_commas_are_not_separators(self, table_of):
        table = table_of('"Date","Price","Open","High","Low"\n' + '"01/02/2024","2,789.51","2,7","2,8","2,6"\n' * 3)

        assert rows(table)[0] == ["01/02/2024", "2,789.51", "2,7", "2,8", "2,6"]

    def test_semicolons_in_a_banner_do_not_count(self, table_of):
        assert rows(table_of("Quotes; delayed; free; of; charge\n" + HEADER + BODY)) == ROWS

    @pytest.mark.parametrize(
        "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1250", "iso8859-2"]
    )
    def test_encodings(self, table_of, encoding):
        """With a byte order mark or not; of legacy encodings, the one in which the header names bars."""
        header = "Data,Otwarcie,Najwyższy,Najniższy,Zamknięcie,Wolumen\n"

        table = table_of((header + BODY).encode(encoding))

        assert table.names == header.strip().split(",")
        assert rows(table) == ROWS

    def test_an_old_encoding_of_chinese(self, table_of):
        header = "日期,开盘,最高,最低,收盘,成交量\n"

        table = table_of((header + BODY).encode("gbk"))

        assert table.names == header.strip().split(",")
        assert table.format == "csv, gb18030, separated by commas"

    def test_lines_above_the_header_are_skipped(self, table_of):
        banner = "All times are UTC,https://example.org\n\nopen, high and low are in USD\nDigits,5,Period,60\n"

        table = table_of(banner + HEADER + BODY)

        assert (table.names, rows(table)) == (NAMES, ROWS)
        assert table.cells.index[0] == 6

    def test_no_header_is_searched_below_a_bar(self, table_of):
        """Two concatenated files: the rows of the first are not a banner of the second."""
        table = table_of(BODY + HEADER + BODY)

        assert not table.has_header
        assert rows(table) == [*ROWS, NAMES, *ROWS]

    def test_a_header_on_two_lines_counts_both(self, table_of):
        table = table_of('date,"open\n(USD)",high,low,close\n2024-01-01,2,4,1,3\n')

        assert table.names[1] == "open\n(USD)"
        assert table.cells.index.tolist() == [3]

    def test_an_unknown_header_is_a_header(self, table_of):
        """The user can then name its columns."""
        table = table_of("By hand\nWann,Erstes,Groesstes,Kleinstes,Ende\n2024-01-01,2,4,1,3\n")

        assert table.has_header
        assert table.names == ["Wann", "Erstes", "Groesstes", "Kleinstes", "Ende"]
        assert rows(table) == [["2024-01-01", "2", "4", "1", "3"]]

    @pytest.mark.parametrize(
        "row",
        [
            "1704067200000,2,4,1,3,5",
            "2024.01.02,00:00,1.1,1.2,1.0,1.1,8",
            "ABC.US,D,20240102,000000,2430.0,2432.85,2412.05,2426.98",
            "20240102 170000,1.1,1.2,1.0,1.1,0",
            "Jan 02 2024,$1.1,$1.2,$1.0,$1.1,10.2M",
            "1704067200000,NaN,null,N/A,-,1e-5",
        ],
    )
    def test_a_first_row_with_numbers_is_no_header(self, table_of, row):
        """No bar is read as a header."""
        table = table_of(f"# a comment\n{row}\n{row}\n")

        assert not table.has_header
        assert table.names == [f"column {number}" for number in range(1, 2 + row.count(","))]
        assert rows(table) == [row.split(",")] * 2
        assert table.cells.index.tolist() == [2, 3]

    @pytest.mark.parametrize("index", [False, True])
    def test_column_numbers_of_pandas_are_not_a_row(self, table_of, index):
        table = table_of(pd.DataFrame([[1704067200, 2.5, 4.5, 1.5, 3.5]] * 2).to_csv(index=index))

        assert not table.has_header
        assert rows(table)[0][-5:] == ["1704067200", "2.5", "4.5", "1.5", "3.5"]
        assert len(rows(table)) == 2

    def test_units_below_the_header_are_no_tickers(self, table_of):
        table = table_of(HEADER + ",USD,USD,USD,USD,lots\n" + BODY)

        assert table.names == NAMES
        assert table.symbol == ""
        assert len(rows(table)) == len(ROWS) + 1

    def test_the_end_of_file_mark_is_not_a_row(self, table_of):
        assert rows(table_of(HEADER + BODY + "\x1a")) == ROWS

    @pytest.mark.parametrize(
        ("banner", "zone"),
        [
            ("Symbol: ABC\nTimezone: America/New_York\n", "America/New_York"),
            ("Time zone,UTC,,,,\n", "UTC"),
            ("Timestamps are UTC timezone,https://www.example.com\n", "UTC"),
            ("# times are in EST.\n", "EST"),
            ("Market data\n", ""),
        ],
    )
    def test_a_zone_above_the_header_is_read(self, table_of, banner, zone):
        assert table_of(banner + HEADER + BODY).timezone == zone

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            ("404: Not Found", "a first line of 404: Not Found"),
            ("Exceeded the daily limit\nTry again\n", "a first line of Exceeded the daily limit"),
            ("date open high low close\n2024-01-01 1 1 1 1\n", "a first line of date open high low close"),
            ("\n<!DOCTYPE html>\n<p>No, not, a, table, here</p>\n", "a page of the web: <!DOCTYPE html>"),
        ],
        ids=["one line", "two lines", "spaces", "page"],
    )
    def test_other_text_is_rejected_with_its_first_line(self, table_of, content, reason):
        with pytest.raises(BadPayload, match="expected a table of bars") as refused:
            table_of(content)

        assert reason in str(refused.value)

    @pytest.mark.parametrize(
        ("content", "kind"),
        [
            (gzip.compress(BODY.encode(), mtime=0), "data that gzip packed"),
            (bz2.compress(BODY.encode()), "data that bzip2 packed"),
            (lzma.compress(BODY.encode()), "data that xz packed"),
            (b"PK\3\4", "a zip, or a workbook of Excel"),
            (b"PAR1", "a Parquet file"),
        ],
    )
    def test_another_format_with_a_text_suffix_is_named(self, table_of, content, kind):
        with pytest.raises(BadPayload, match=f"expected a readable csv file, found '{kind}'"):
            table_of(content)
        with pytest.raises(BadPayload, match=f"expected a readable csv file, found '{kind}'"):
            table_of(gzip.compress(content), "bars.csv.gz")

    @pytest.mark.parametrize("content", ["", HEADER, HEADER + "\n,,,,,\n"])
    def test_a_file_without_rows_is_an_empty_table(self, table_of, content):
        table = table_of(content)

        assert table.names == (NAMES if content else [])
        assert rows(table) == []

    @pytest.mark.parametrize(
        ("content", "expected"),
        [
            (BODY + "2024-01-07,2,4,1,3,5,6\n", "expected 6 cells in line 8, found '2024-01-07,2,4,1,3,5,6'"),
            (BODY + "2024-01-07,2,4,1,3,5,6,7,8\n", "expected 6 cells in line 8, found '9 cells'"),
            ("2024-01-07,2,4,1,3,5,6,7,8\n" + BODY, "expected 6 cells in line 2, found '9 cells'"),
            (BODY + '2024-01-07,2,4,1,3,"5\n2024-01-08,2,4,1,3,5"\n', "expected each row on its own line"),
            (BODY + '2024-01-07,2,4,1,3,"5\n2024-01-08,2,4,1,3,5\n', "a closing quote for the cell in line 8"),
            (BODY + "\0\0", "expected a readable csv file, found 'NUL bytes"),
        ],
        ids=["one cell more", "three", "in the first row", "a quote over two lines", "a quote without end", "NUL"],
    )
    def test_no_row_or_cell_is_dropped_silently(self, table_of, content, expected):
        with pytest.raises(BadPayload) as refused:
            table_of(HEADER + content)

        assert expected in str(refused.value)


FIELDS = ["Close", "High", "Low", "Open", "Volume"]


def downloaded(*tickers: str, index: str | None = "Date", names=("Price", "Ticker")) -> pd.DataFrame:
    """Return a frame as yfinance does, with two column levels."""
    columns = pd.MultiIndex.from_product([FIELDS, tickers], names=names)
    values = np.arange(2.0 * len(columns)).reshape(2, -1)
    return pd.DataFrame(values, index=pd.date_range("2024-01-01", periods=2, name=index), columns=columns)


def reset(frame: pd.DataFrame) -> str:
    return frame.reset_index().to_csv(index=False)


class TestTwoLevels:
    """Headers of fields and tickers, as yfinance and pandas write them."""

    @pytest.mark.parametrize(
        ("frame", "write", "time"),
        [
            (downloaded("0700.HK"), pd.DataFrame.to_csv, "Date"),
            (downloaded("600519"), pd.DataFrame.to_csv, "Date"),
            (downloaded("ABC", index="Datetime"), pd.DataFrame.to_csv, "Datetime"),
            (downloaded("ABC", names=(None, None)), pd.DataFrame.to_csv, "Date"),
            (downloaded("ABC", index=None), pd.DataFrame.to_csv, ""),
            (downloaded("ABC").swaplevel(axis="columns"), pd.DataFrame.to_csv, "Date"),
            (downloaded("ABC"), reset, "Date"),
        ],
        ids=["daily", "a ticker of digits", "intraday", "old", "no name of the index", "by ticker", "index reset"],
    )
    def test_one_ticker_is_the_symbol(self, table_of, frame, write, time):
        table = table_of(write(frame))

        assert table.names == [time, *FIELDS]
        assert table.symbol == next(level for level in frame.columns[0] if level not in FIELDS)
        assert rows(table)[1] == ["2024-01-02", "5.0", "6.0", "7.0", "8.0", "9.0"]

    @pytest.mark.parametrize(
        ("frame", "write"),
        [
            (downloaded("A", "B"), pd.DataFrame.to_csv),
            (downloaded("A", "B").swaplevel(axis="columns"), pd.DataFrame.to_csv),
            (downloaded("A", "B", names=(None, None)), pd.DataFrame.to_csv),
            (downloaded("A", "B"), reset),
        ],
        ids=["by field", "by ticker", "old", "index reset"],
    )
    def test_several_tickers_are_part_of_the_names(self, table_of, frame, write):
        table = table_of(write(frame))

        assert table.names == ["Date", *(f"{ticker}:{field}" for field in FIELDS for ticker in "AB")]
        assert table.symbol == ""
        assert len(rows(table)) == 2

    @pytest.mark.parametrize("name", ["one.parquet", "one.json"])
    def test_the_same_frame_in_other_files(self, tmp_path, name):
        path = tmp_path / name
        frame = downloaded("ABC")
        frame.to_parquet(path) if name.endswith("parquet") else frame.to_json(path, date_format="iso")

        (table,) = load_tables(path)

        assert (table.names[1:], table.symbol) == (FIELDS, "ABC")

    def test_a_header_and_a_row_are_not_two_levels(self, table_of):
        assert rows(table_of(HEADER + "2024-01-01,-,-,-,-,-\n")) == [["2024-01-01", *"-----"]]


class TestPacked:
    """Archives, and the suffixes of files."""

    @pytest.mark.parametrize(
        ("name", "pack"),
        [
            ("bars.csv.gz", gzip.compress),
            ("bars.txt.GZ", gzip.compress),
            ("bars.json.gz", gzip.compress),
            ("bars.csv.bz2", bz2.compress),
            ("bars.csv.xz", lzma.compress),
        ],
    )
    def test_packed_files(self, table_of, name, pack):
        content = json.dumps(OBJECTS) if "json" in name else HEADER + BODY

        table = table_of(pack(content.encode()), name)

        assert len(table.cells) == (3 if "json" in name else 6)

    def test_a_zip_of_one_file(self, tmp_path):
        """Folders and entries of macOS do not count."""
        members = {"data/": "", "data/BTCUSDT-1h.csv": BODY, "__MACOSX/data/._BTCUSDT-1h.csv": "\0"}

        (table,) = load_tables(zipped(tmp_path / "bars.zip", members))

        assert rows(table) == ROWS
        assert table.format == "csv in zip, utf-8, separated by commas"
        assert table.source == str(tmp_path / "bars.zip")

    @pytest.mark.parametrize("other", [".DS_Store", "a.csv.CHECKSUM", "a.txt", "A/readme.pdf"])
    def test_a_zip_of_one_table_among_other_files(self, tmp_path, other):
        """A checksum of the exchange, and HistData's report on gaps."""
        (table,) = load_tables(zipped(tmp_path / "bars.zip", {other: "other", "a.csv": BODY}))

        assert rows(table) == ROWS

    @pytest.mark.parametrize(
        ("members", "reason"),
        [
            ({"a.csv": BODY, "b.csv": BODY}, "a zip of exactly one table, found ['a.csv', 'b.csv']"),
            ({"a.csv": BODY, "b.txt": BODY}, "a zip of exactly one table, found ['a.csv', 'b.txt']"),
            ({"a.pdf": "", ".DS_Store": ""}, "a zip of exactly one table, found ['a.pdf', '.DS_Store']"),
            ({}, "a zip of exactly one table, found []"),
            ({"a.pdf": ""}, "found '.pdf'"),
        ],
    )
    def test_a_zip_of_other_files_is_rejected_with_its_list(self, tmp_path, members, reason):
        with pytest.raises(BadPayload) as refused:
            load_tables(zipped(tmp_path / "bars.zip", members))

        assert reason in str(refused.value)

    @pytest.mark.parametrize("name", ["bars.zip", "bars.csv.gz"])
    def test_what_grows_too_large_is_rejected(self, tmp_path, monkeypatch, name):
        monkeypatch.setattr(limits, "MAX_BYTES", 1 << 20)
        path = tmp_path / name
        content = "0" * ((1 << 20) + 1)
        if name.endswith("zip"):
            zipped(path, {"bars.csv": content})
        else:
            path.write_bytes(gzip.compress(content.encode()))

        with pytest.raises(BadPayload, match="at most 1 MiB when unpacked"):
            load_tables(path)

    @pytest.mark.parametrize("name", ["bars.xlsx", "bars", "bars.gz", "bars.xlsx.gz"])
    def test_an_unknown_suffix_is_rejected(self, table_of, name):
        with pytest.raises(BadPayload, match=r"expected a file that ends in \.csv, .*\.feather, .*\.zip, found '"):
            table_of(b"", name)

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("bars.parquet", b"PAR1 and then nothing"),
            ("bars.feather", b"ARROW1"),
            ("bars.zip", b"PK"),
            ("bars.csv.gz", gzip.compress(BODY.encode(), mtime=0)[:-9]),
            ("bars.csv.gz", b"no gzip"),
            ("bars.csv", BODY.encode("utf-16")[:-1]),
            ("bars.json", b"[1, 2"),
            ("bars.json", b'[{"t": 1, "o": 2, "o": 3}]'),
            ("bars.jsonl", b'{"t": 1}\n{"t": \n'),
        ],
    )
    def test_a_damaged_file_is_rejected_by_name(self, table_of, name, content):
        kind = name.removesuffix(".gz").rpartition(".")[2]
        with pytest.raises(BadPayload, match=rf"expected a readable {kind} file, found '|found \""):
            table_of(content, name)

    @pytest.mark.parametrize("name", ["absent.csv", "absent.zip", "absent.json.gz", "folder.csv", "folder.zip"])
    def test_a_missing_file_is_rejected_by_name(self, tmp_path, name):
        (tmp_path / "folder.csv").mkdir()
        (tmp_path / "folder.zip").mkdir()

        with pytest.raises(BadPayload, match=r"expected a file, found 'a folder|no such file") as refused:
            load_tables(tmp_path / name)

        assert refused.value.source == str(tmp_path / name)


def av(*times: str) -> dict:
    """A response of Alpha Vantage."""
    values = {"1. open": "2", "2. high": "4", "3. low": "1", "4. close": "3"}
    meta = {"1. Information": "x", "2. Symbol": "IBM", "6. Time Zone": "US/Eastern"}
    return {"Meta Data": meta, "Time Series (5min)": dict.fromkeys(times, values)}


CHART = {
    "meta": {"symbol": "ABC", "timezone": "EST", "exchangeTimezoneName": "America/New_York"},
    "timestamp": [1704067200, 1704153600],
    "indicators": {"quote": [{name: [1.5, None] for name in ("open", "high", "low", "close")}], "adjclose": [{}]},
}
BY_TIME = {"1704067200000": {"open": 2, "close": 3, "high": 4, "low": 1}, "1704153600000": {"open": 2}}
FRAME = pd.DataFrame(
    {"open": [2.0, 2.0], "high": [4.0, 4.0], "low": [1.0, 1.0], "close": [3.0, 3.0]},
    index=pd.date_range("2024-01-01", periods=2),
)


class TestJson:
    """Lists and objects around rows."""

    @pytest.mark.parametrize(
        ("content", "names", "symbol"),
        [
            (OBJECTS, "t o h l c", ""),
            ({"bars": OBJECTS, "symbol": "AAPL", "next_page_token": None}, "t o h l c", "AAPL"),
            ({"bars": {"BTC/USD": OBJECTS}}, "t o h l c", "BTC/USD"),
            ({"ticker": "X:BTCUSD", "status": "OK", "results": OBJECTS}, "t o h l c", "X:BTCUSD"),
            (av("2024-01-02 09:30:00"), "timestamp 1.open 2.high 3.low 4.close", "IBM"),
            ({"chart": {"result": [CHART], "error": None}}, "timestamp open high low close", "ABC"),
            (
                {"instrument": "EUR_USD", "candles": [{"time": "2024-01-01", "mid": OHLC, "complete": True}]},
                "time complete o h l c",
                "EUR_USD",
            ),
            (
                {"candles": [{"time": "2024-01-01", "bid": OHLC, "ask": OHLC}]},
                "time bid:o bid:h bid:l bid:c ask:o ask:h ask:l ask:c",
                "",
            ),
            ([{"ticker": "btcusd", "priceData": OBJECTS}], "t o h l c", "btcusd"),
            ({"Response": "Success", "Data": {"TimeFrom": 1, "Data": OBJECTS}}, "t o h l c", ""),
            ({"s": "ok", **{name: [1, 2] for name in "tohlc"}}, "t o h l c", ""),
            ([{"_id": {"$oid": "6a"}, "t": {"$date": "2024-01-01"}, **OHLC}], "o h l c _id t", ""),
            ([["time", "open", "high", "low", "close"], [1, 2, 4, 1, 3]], "time open high low close", ""),
            ({"time": 1704067200, "open": 2, "high": 4, "low": 1, "close": 3}, "time open high low close", ""),
            ({"columns": ["date", "open"], "index": [0], "data": [["2024-01-01", 2]]}, "date open", ""),
            (BY_TIME, "timestamp open close high low", ""),
            ([{"wann": "2024-01-01", "anfang": 2}], "wann anfang", ""),
        ],
        ids=[
            *("objects", "Alpaca", "Alpaca by symbol", "Polygon", "Alpha Vantage", "Yahoo", "OANDA", "bid and ask"),
            *("Tiingo", "CryptoCompare", "arrays", "MongoDB", "a header", "one object", "split", "by time", "unknown"),
        ],
    )
    def test_structures_with_names(self, table_of, content, names, symbol):
        table = table_of(content, "bars.json")

        assert [name.replace(" ", "") for name in table.names] == names.split()
        assert (table.symbol, table.has_header, table.row_unit) == (symbol, True, "row")
        assert table.format == "json, utf-8"

    @pytest.mark.parametrize(
        ("content", "symbol"),
        [
            ([[1704067200000, 2, 4, 1, 3]] * 2, ""),
            (
                {"retCode": 0, "result": {"symbol": "BTCUSDT", "list": [["1704067200000", "2", "4", "1", "3"]] * 2}},
                "BTCUSDT",
            ),
            ({"code": "0", "data": [["1704067200000", "2", "4", "1", "3"]] * 2}, ""),
        ],
        ids=["Binance", "Bybit", "OKX"],
    )
    def test_rows_without_names(self, table_of, content, symbol):
        """The meaning of their columns is unknown."""
        table = table_of(content, "bars.json")

        assert not table.has_header
        assert table.names == ["column 1", "column 2", "column 3", "column 4", "column 5"]
        assert (table.symbol, len(table.cells)) == (symbol, 2)

    @pytest.mark.parametrize("orient", ["columns", "index", "records", "split", "table"])
    @pytest.mark.parametrize("index", [True, False])
    @pytest.mark.parametrize("dates", ["epoch", "iso"])
    def test_structures_of_pandas(self, tmp_path, orient, index, dates):
        """Times in the index, or in a column beside row numbers."""
        path = tmp_path / "bars.json"
        frame = FRAME.set_axis(FRAME.index.as_unit("ms").astype(np.int64)) if dates == "epoch" else FRAME
        frame = frame.rename_axis("date")
        (frame if index and orient != "records" else frame.reset_index()).to_json(
            path, orient=orient, date_format="iso"
        )

        (table,) = load_tables(path)

        named = [name for name in table.names if name != "index"]
        time = "timestamp" if index and orient in {"columns", "index", "split"} else "date"
        assert named == [time, "open", "high", "low", "close"]
        assert [row[-4:] for row in rows(table)] == FRAME.to_numpy().tolist()

    @pytest.mark.parametrize(
        ("times", "first"),
        [([-1325583000, 1704067200], "1927-12-30 14:30:00+00:00"), ([0, 86400], 0)],
    )
    def test_yahoos_times_before_1970_are_dates(self, table_of, times, first):
        values = {key: [1.5, 2.5] for key in ("open", "high", "low", "close", "volume")}

        table = table_of({"timestamp": times, "indicators": {"quote": [values]}}, "bars.json")

        assert rows(table)[0][0] == first

    def test_krakens_rows_are_named(self, table_of):
        """Kraken has its own order, and its last row is not final."""
        pair = [[time, "2", "4", "1", "3", "2.5", "7", 9] for time in (1704067200, 1704070800)]

        table = table_of({"error": [], "result": {"XXBTZUSD": pair, "last": 1704067200}}, "bars.json")

        assert table.names == ["time", "open", "high", "low", "close", "vwap", "volume", "count", "complete"]
        assert [row[-1] for row in rows(table)] == [True, False]
        assert (table.symbol, table.has_header) == ("XXBTZUSD", True)

    @pytest.mark.parametrize(
        ("content", "zone"),
        [
            (av("2024-01-02 09:30:00"), "US/Eastern"),
            ({"chart": {"result": [CHART]}}, "America/New_York"),
            ({"meta": {"symbol": "A", "exchange_timezone": "Asia/Tokyo"}, "values": OBJECTS}, "Asia/Tokyo"),
            ({"symbol": "A", "tz": "Asia/Tokyo", "bars": OBJECTS}, "Asia/Tokyo"),
            ({"utcOffset": -5, "bars": OBJECTS}, "-05:00"),
            (OBJECTS, ""),
        ],
    )
    def test_a_written_zone_is_read(self, table_of, content, zone):
        assert table_of(content, "bars.json").timezone == zone

    @pytest.mark.parametrize(
        "content",
        [
            {"bars": {"aapl": OBJECTS, "MSFT": OBJECTS[:2], "TSLA": []}},
            {"aapl": {"values": OBJECTS}, "MSFT": {"meta": {"symbol": "MSFT"}, "values": OBJECTS[:2]}},
            [{"ticker": "aapl", "priceData": OBJECTS}, {"ticker": "MSFT", "priceData": OBJECTS[:2]}],
            {"aapl": OBJECTS, "MSFT": OBJECTS[:2], "events": {"1704067200": {"amount": 0.2}}},
        ],
    )
    def test_several_symbols_are_several_tables(self, tables_of, content):
        """Other content is ignored."""
        tables = tables_of(content, "bars.json")

        assert [(table.symbol, len(table.cells)) for table in tables] == [("aapl", 3), ("MSFT", 2)]

    @pytest.mark.parametrize("name", ["bars.jsonl", "bars.ndjson", "bars.json"])
    def test_lines_of_json(self, table_of, name):
        """Line numbers as in an editor, with blank lines."""
        table = table_of("\n\n".join(map(json.dumps, OBJECTS)) + "\n", name)

        assert table.names == ["t", "o", "h", "l", "c"]
        assert (table.row_unit, table.cells.index.tolist()) == ("line", [1, 3, 5])

    def test_numbers_stay_exact(self, table_of):
        table = table_of([{"t": 2**53 + 1, "o": 0.1 + 0.2, "h": 2**80, "l": "0.10", "c": None}], "bars.json")

        assert rows(table) == [[2**53 + 1, 0.1 + 0.2, 2**80, "0.10", None]]

    def test_rows_may_be_of_unequal_length(self, table_of):
        assert rows(table_of([[1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5]], "bars.json"))[1] == [1, 2, 3, 4, 5, None]

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            ("7", "int 7"),
            ("null", "NoneType None"),
            ([], "an empty list"),
            ([None, None], "a list of 2, the first None"),
            ({"status": "error", "message": "no such symbol"}, "keys ['status', 'message']"),
            ({"error": ["unknown pair"], "result": {}}, "keys ['error', 'result']"),
            ({"chart": {"result": None, "error": {}}}, "keys ['chart'], below them ['result', 'error']"),
            ({"bars": {}}, "keys ['bars']"),
            ([{"bars": OBJECTS}, {"bars": OBJECTS}], "expected rows of each symbol in one list"),
        ],
    )
    def test_json_without_bars_is_rejected_by_its_keys(self, table_of, content, reason):
        with pytest.raises(BadPayload) as refused:
            table_of(content, "bars.json")

        assert reason in str(refused.value)


@pytest.mark.parametrize("name", ["bars.parquet", "bars.pq", "bars.feather"])
def test_frames_in_files(tmp_path, name):
    """Types are kept."""
    path = tmp_path / name
    frame = FRAME.rename_axis("date").tz_localize("UTC")
    frame.reset_index().to_feather(path) if name.endswith("feather") else frame.to_parquet(path)

    (table,) = load_tables(path)

    assert table.names == ["date", "open", "high", "low", "close"]
    assert table.cells[0].tolist() == frame.index.tolist()
    assert (table.format, table.row_unit) == (name.partition(".")[2], "row")


def test_damaged_type_metadata_is_a_damaged_file(tmp_path):
    """Metadata of pandas about the columns, not the columns."""
    path = tmp_path / "bars.feather"
    FRAME.reset_index().to_feather(path)
    path.write_bytes(path.read_bytes().replace(b"numpy_type", b"numpy_tipe"))

    with pytest.raises(BadPayload, match="expected a readable feather file, found"):
        load_tables(path)


def test_a_first_row_with_only_a_time_is_not_part_of_the_header(tmp_path):
    """A row without prices is still a row."""
    path = tmp_path / "bars.csv"
    path.write_text("Local time,Open,High,Low,Close\n29.10.2017 17:00:00.000 GMT-0400,,,,\nx,1,2,1,2\n")

    (table,) = load_tables(path)

    assert table.cells[0].tolist() == ["29.10.2017 17:00:00.000 GMT-0400", "x"]
