"""Formats of programs: names, times, numbers, order of columns, encoding, structures of JSON and frames.

A `Form` is one way to write; `DIALECTS` holds the known ones, a list in place of a value being a choice.
"""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet

from forecaster.timeframe import DAY_MS, MINUTE_MS
from tests.faults.file_truths import Row, on_clock, pick

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.faults.file_truths import Market, Sheet

OHLCV: Final = "ohlcv"
MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
DAILY_TIMES: Final = ("date", "compact8", "month name", "ymd/ date", "dmy/ date", "mdy/ date", "dmy. date", "dmon date")
PARTED_TIMES: Final = ("date|time", "date|hour", "compact|hhmmss", "compact|hhmm", "ymd.|time", "dmy.|time")
EPOCHS: Final = {"epoch s": 1000, "epoch ms": 1, "epoch us": 1e-3, "epoch ns": 1e-6}
MARKED_TIMES: Final = ("iso", "isoT", "iso ms", "iso minutes")
ENGLISH: Final = ("Date", "Open", "High", "Low", "Close", "Volume")
PLAIN: Final = ("time", "open", "high", "low", "close", "volume")
SHORT: Final = ("t", "o", "h", "l", "c", "v")


@dataclass(frozen=True)
class Form:
    """One way to write rows.

    Args:
        times: form of a time, by its name in `_time_texts`.
        zone: whose clock times are on: `utc`, `local` of the venue, `broker` in New York and seven hours, `est`.
        mark: what follows a time of `MARKED_TIMES`: nothing, `Z`, ` UTC`, `offset` …
        label: what a daily bar of a session is labelled by: its `date`, the `open`, or `midnight` on the clock.
        names: of the time (two where it is parted) and of the five fields; none without a header.
        places: the order of the columns: t, o, h, l, c, v, and x for a column that is none of them.
        shape: `csv`, or a shape of JSON or of a frame.
    """

    times: str = "iso"
    zone: str = "utc"
    mark: str = ""
    label: str = "date"
    names: tuple[str, ...] = PLAIN
    places: str = "tohlcv"
    has_header: bool = True
    delimiter: str = ","
    decimal: str = "."
    thousands: str = ""
    currency: str = ""
    volume: str = "plain"
    quote: str = ""
    encoding: str = "utf-8"
    newline: str = "\n"
    banner: str = ""
    extra: str = ""
    symbol_name: str = ""
    shape: str = "csv"
    suffix: str = ".csv"
    packed: str = ""
    order: str = ""
    fits: str = "any"

    @property
    def has_zone(self) -> bool:
        """Whether times have a zone."""
        tells = self.times in EPOCHS or self.mark != "" or self.shape in ("alpha vantage", "twelve data")
        return tells or self.names[0].lower() in ("gmt time", "utc", "time (utc)")


def clock_of(form: Form, market: Market) -> str:
    """Return the zone of written times."""
    return {"utc": "UTC", "local": market.zone, "broker": "America/New_York+07:00", "est": "Etc/GMT+5"}[form.zone]


def labels_of(form: Form, market: Market, rows: Sequence[Row]) -> tuple[np.ndarray, np.ndarray]:
    """Return local time and offset of each row, in ms."""
    opens = np.array([row.open_time for row in rows], np.int64)
    clock = clock_of(form, market)
    if not (market.is_daily and market.has_sessions) or form.label == "open":
        return on_clock(opens, clock)
    dates = np.array([row.date for row in rows], np.int64)
    if form.label == "date" or clock == "UTC":
        return dates, np.zeros_like(dates)
    _, offset = on_clock(dates, clock)
    _, offset = on_clock(dates - offset, clock)
    return dates, offset


def _parts(wall: np.ndarray) -> list[tuple[int, ...]]:
    """Year, month, day, hour, minute, second of each wall time."""
    days = wall // DAY_MS
    months = days.astype("datetime64[D]").astype("datetime64[M]")
    day = days - months.astype("datetime64[D]").astype(np.int64) + 1
    month = months.astype(np.int64)
    seconds = wall % DAY_MS // 1000
    fields_ = [month // 12 + 1970, month % 12 + 1, day, seconds // 3600, seconds // 60 % 60, seconds % 60]
    return list(zip(*(one.tolist() for one in fields_), strict=True))


_PATTERNS: Final = {
    "iso": "{0:04}-{1:02}-{2:02} {3:02}:{4:02}:{5:02}",
    "isoT": "{0:04}-{1:02}-{2:02}T{3:02}:{4:02}:{5:02}",
    "iso ms": "{0:04}-{1:02}-{2:02} {3:02}:{4:02}:{5:02}.000",
    "iso minutes": "{0:04}-{1:02}-{2:02} {3:02}:{4:02}",
    "date": "{0:04}-{1:02}-{2:02}",
    "ymd/": "{0:04}/{1:02}/{2:02} {3:02}:{4:02}",
    "ymd/ date": "{0:04}/{1:02}/{2:02}",
    "ymd.": "{0:04}.{1:02}.{2:02} {3:02}:{4:02}",
    "dmy.": "{2:02}.{1:02}.{0:04} {3:02}:{4:02}:{5:02}",
    "dmy. ms": "{2:02}.{1:02}.{0:04} {3:02}:{4:02}:{5:02}.000",
    "dmy. date": "{2:02}.{1:02}.{0:04}",
    "dmy/": "{2:02}/{1:02}/{0:04} {3:02}:{4:02}",
    "dmy/ date": "{2:02}/{1:02}/{0:04}",
    "dmy-": "{2:02}-{1:02}-{0:04} {3:02}:{4:02}",
    "mdy/": "{1:02}/{2:02}/{0:04} {3:02}:{4:02}",
    "mdy/ short": "{1}/{2}/{0:04} {3}:{4:02}",
    "mdy/ date": "{1:02}/{2:02}/{0:04}",
    "mdy/ pm": "{1:02}/{2:02}/{0:04} {6:02}:{4:02}:{5:02} {7}",
    "month name": "{8} {2:02}, {0:04}",
    "dmon date": "{2:02}-{8}-{0:04}",
    "dmon": "{2} {8} {0:04} {3:02}:{4:02}",
    "compact8": "{0:04}{1:02}{2:02}",
    "compact12": "{0:04}{1:02}{2:02}{3:02}{4:02}",
    "compact14": "{0:04}{1:02}{2:02}{3:02}{4:02}{5:02}",
    "compact space": "{0:04}{1:02}{2:02} {3:02}{4:02}{5:02}",
    "compact T": "{0:04}{1:02}{2:02}T{3:02}{4:02}{5:02}",
    "hour pm": "{0:04}-{1:02}-{2:02} {6:02}-{7}",
    "date|time": "{0:04}-{1:02}-{2:02}|{3:02}:{4:02}:{5:02}",
    "date|hour": "{0:04}-{1:02}-{2:02}|{3}",
    "compact|hhmmss": "{0:04}{1:02}{2:02}|{3:02}{4:02}{5:02}",
    "compact|hhmm": "{0:04}{1:02}{2:02}|{3:02}{4:02}",
    "ymd.|time": "{0:04}.{1:02}.{2:02}|{3:02}:{4:02}",
    "ymd.|seconds": "{0:04}.{1:02}.{2:02}|{3:02}:{4:02}:{5:02}",
    "dmy.|time": "{2:02}.{1:02}.{0:04}|{3:02}:{4:02}",
}


def _offset_text(offset: int, colon: str) -> str:
    minutes = abs(offset) // MINUTE_MS
    return f"{'-' if offset < 0 else '+'}{minutes // 60:02}{colon}{minutes % 60:02}"


def _marks(form: Form, offset: np.ndarray) -> list[str]:
    if form.mark in ("offset", "offset plain", "GMT offset"):
        known = {
            one: (" GMT" if form.mark[0] == "G" else "") + _offset_text(one, ":" if form.mark == "offset" else "")
            for one in set(offset.tolist())
        }
        return [known[one] for one in offset.tolist()]
    return [form.mark] * len(offset)


def time_texts(form: Form, wall: np.ndarray, offset: np.ndarray) -> list[str]:
    """Return times as text; a vertical bar separates date and time of day in two columns."""
    if form.times in EPOCHS:
        per = EPOCHS[form.times]
        instants = (wall - offset).tolist()
        return [str(one // per if per >= 1 else one * round(1 / per)) for one in instants]
    pattern, marks = _PATTERNS[form.times], _marks(form, offset)
    return [
        pattern.format(y, m, d, h, mi, s, h % 12 or 12, "PM" if h > 11 else "AM", MONTHS[m - 1]) + mark
        for (y, m, d, h, mi, s), mark in zip(_parts(wall), marks, strict=True)
    ]


def number_text(form: Form, text: str) -> str:
    """Write a plain text of a price by the signs of a form."""
    if not text:
        return text
    sign, digits = ("-", text[1:]) if text[0] == "-" else ("", text)
    whole, _, part = digits.partition(".")
    if form.thousands and len(whole) > 3 and "e" not in digits:
        whole = f"{int(whole):,}".replace(",", form.thousands)
    return sign + form.currency + whole + (form.decimal + part if part else "")


def _volume_text(form: Form, text: str) -> str:
    if not text:
        return {"dash": "-", "nan": "NaN"}.get(form.volume, "")
    number = int(text) if text.isdigit() else -1
    if form.volume == "suffix" and number >= 10**6 and number % 10**4 == 0:
        return number_text(form, f"{number // 10**6}.{number // 10**4 % 100:02}").removeprefix(form.currency) + "M"
    if form.volume == "suffix" and number >= 10**3 and number % 10 == 0:
        return number_text(form, f"{number // 10**3}.{number // 10 % 100:02}").removeprefix(form.currency) + "K"
    return number_text(replace(form, currency=""), text)


EXTRAS: Final[dict[str, tuple[str, Callable[[int, Row], str]]]] = {
    "": ("Trades", lambda at, row: "7"),
    "vwap": ("vwap", lambda at, row: "1.5"),
    "change": ("Change %", lambda at, row: "0.11%"),
    "spread": ("<SPREAD>", lambda at, row: "2"),
    "open interest": ("<OPENINT>", lambda at, row: "0"),
    "number": ("", lambda at, row: str(at)),
    "adjusted": ("Adj Close", lambda at, row: row.cells[3] + "1"),
    "close time": ("close_time", lambda at, row: str(row.close_time - 1)),
    "quote volume": ("Volume USDT", lambda at, row: str(1000 + at)),
}
"""Additional columns: names and cells."""


def columns_of(form: Form, sheet: Sheet) -> tuple[list[str], list[list[str]]]:
    """Names and texts of the columns in their order."""
    rows = sheet.rows
    times = time_texts(form, *labels_of(form, sheet.market, rows))
    parted = "|" in form.times
    names: list[str] = []
    columns: list[list[str]] = []
    field_names = form.names[2:] if parted else form.names[1:]
    for place in form.places:
        if place == "t" and parted:
            names += form.names[:2]
            columns += [list(one) for one in zip(*(time.split("|") for time in times), strict=True)]
        elif place == "t":
            names.append(form.names[0])
            columns.append(times)
        elif place == "s":
            names.append(form.symbol_name)
            columns.append([row.symbol for row in rows])
        elif place in OHLCV:
            at = OHLCV.index(place)
            write = _volume_text if place == "v" else number_text
            names.append(field_names[at])
            columns.append([write(form, row.cells[at]) for row in rows])
        else:
            name, write_extra = EXTRAS[form.extra]
            names.append(name if name not in names else f"{name} {len(names)}")
            columns.append([write_extra(at, row) for at, row in enumerate(rows)])
    return names, columns


def csv_lines(form: Form, sheet: Sheet) -> list[str]:
    """Write the lines of a text, its header the first if there is one."""
    names, columns = columns_of(form, sheet)
    cells = [names, *zip(*columns, strict=True)] if form.has_header else list(zip(*columns, strict=True))
    quoted = form.quote or '"'

    def quote(cell: str) -> str:
        return f"{quoted}{cell}{quoted}" if form.quote or form.delimiter in cell else cell

    return [form.delimiter.join(map(quote, line)) for line in cells]


def pack(form: Form, content: bytes, name: str) -> bytes:
    """Pack the bytes of a file."""
    if form.packed == ".gz":
        return gzip.compress(content, 1)
    if form.packed == ".zip":
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr(name, content)
        return buffer.getvalue()
    return content


def _json_number(text: str) -> Any:
    if not text:
        return None
    return int(text) if text.lstrip("-").isdigit() else float(text)


def _json_time(form: Form, text: str) -> Any:
    return int(text) if form.times in EPOCHS else text


def json_of(form: Form, sheet: Sheet) -> str:
    """Write JSON of a shape."""
    times = [_json_time(form, one) for one in time_texts(form, *labels_of(form, sheet.market, sheet.rows))]
    rows = [[time, *map(_json_number, row.cells)] for time, row in zip(times, sheet.rows, strict=True)]
    objects = [dict(zip(form.names, row, strict=True)) for row in rows]
    if form.shape == "lines":
        return "".join(json.dumps(one) + "\n" for one in objects)
    if form.shape in _OF_ROWS:
        return json.dumps(_OF_ROWS[form.shape](form, rows))
    return json.dumps(_OF_OBJECTS[form.shape](sheet, objects))


def _kraken(form: Form, rows: list[list[Any]]) -> Any:
    texts = [[row[0], *map(str, row[1:5]), str(row[4]), str(row[5]), 7] for row in rows]
    return {"error": [], "result": {"XXBTZUSD": texts, "last": max(row[0] for row in rows)}}


def _klines(form: Form, rows: list[list[Any]]) -> Any:
    return [[row[0], *(one if one is None else str(one) for one in row[1:]), 0, "0", 1, "0", "0", "0"] for row in rows]


def _yahoo(form: Form, rows: list[list[Any]]) -> Any:
    times, *columns = ([row[at] for row in rows] for at in range(6))
    quote = dict(zip(PLAIN[1:], columns, strict=True))
    result = {"meta": {"symbol": "ABC"}, "timestamp": times, "indicators": {"quote": [quote]}}
    return {"chart": {"result": [result], "error": None}}


_OF_ROWS: Final[dict[str, Callable[[Form, list[list[Any]]], Any]]] = {
    "kraken": _kraken,
    "klines": _klines,
    "yahoo": _yahoo,
    "rows": lambda form, rows: [[row["tohlcv".index(place)] for place in form.places] for row in rows],
    "columns and data": lambda form, rows: {"columns": list(form.names), "data": rows},
    "pandas": lambda form, rows: {
        name: {str(row[0]): row[at] for row in rows} for at, name in enumerate(form.names) if at
    },
    "pandas index": lambda form, rows: {str(row[0]): dict(zip(form.names[1:], row[1:], strict=True)) for row in rows},
}


def _alpaca(sheet: Sheet, objects: list[dict[str, Any]]) -> Any:
    several: dict[str, list[Any]] = {}
    for row, one in zip(sheet.rows, objects, strict=True):
        several.setdefault(f"{row.symbol}/USD", []).append(one)
    return {"bars": several, "next_page_token": None}


def _alpha_vantage(sheet: Sheet, objects: list[dict[str, Any]]) -> Any:
    rows = {one.pop("t"): dict.fromkeys(one) for one in objects}
    for row, texts in zip(sheet.rows, rows.values(), strict=True):
        texts.update(zip(texts, row.cells, strict=True))
    about = {"2. Symbol": sheet.rows[0].symbol, "6. Time Zone": sheet.market.zone}
    return {"Meta Data": about, "Time Series (5min)": rows}


def _oanda(sheet: Sheet, objects: list[dict[str, Any]]) -> Any:
    candles = [
        {
            "complete": True,
            "volume": one["v"],
            "time": one["t"],
            "mid": {name: None if one[name] is None else repr(float(one[name])) for name in "ohlc"},
        }
        for one in objects
    ]
    return {"instrument": sheet.rows[0].symbol, "granularity": "H1", "candles": candles}


def _twelve_data(sheet: Sheet, objects: list[dict[str, Any]]) -> Any:
    about = {"symbol": sheet.rows[0].symbol, "interval": "1h", "exchange_timezone": sheet.market.zone}
    values = [
        {"datetime": one["datetime"], **dict(zip(PLAIN[1:], row.cells, strict=True))}
        for row, one in zip(sheet.rows, objects, strict=True)
    ]
    return {"meta": about, "values": values, "status": "ok"}


_OF_OBJECTS: Final[dict[str, Callable[[Sheet, list[dict[str, Any]]], Any]]] = {
    "objects": lambda _, objects: objects,
    "alpaca": _alpaca,
    "oanda": _oanda,
    "twelve data": _twelve_data,
    "alpha vantage": _alpha_vantage,
    "polygon": lambda sheet, objects: {"ticker": f"X:{sheet.rows[0].symbol}USD", "results": objects},
}


def frame_of(form: Form, sheet: Sheet) -> pd.DataFrame:
    """Make a frame of a shape, as programs hold it in memory."""
    wall, offset = labels_of(form, sheet.market, sheet.rows)
    cells = [row.cells for row in sheet.rows]
    columns = {
        name: np.array([float(one or "nan") for one in column])
        for name, column in zip(form.names[1:], zip(*cells, strict=True), strict=True)
    }
    if form.mark:
        times = pd.to_datetime(wall - offset, unit="ms", utc=True)
        times = times.tz_convert("UTC" if form.zone == "utc" else sheet.market.zone)
    elif form.times in EPOCHS:
        times = pd.Index([int(one) for one in time_texts(form, wall, offset)])
    elif form.times == "datetime":
        times = pd.to_datetime(wall, unit="ms")
    else:
        times = pd.Index(time_texts(form, wall, offset))
    if "v" not in form.places:
        del columns[form.names[5]]
    return _shaped(form, pd.DataFrame(columns), times, [row.symbol for row in sheet.rows])


def _shaped(form: Form, frame: pd.DataFrame, times: pd.Index, symbols: list[str]) -> pd.DataFrame:
    name = form.names[0]
    if form.shape == "frame columns":
        frame.insert(0, name, times)
        return frame
    if form.shape == "frame rows of two levels":
        return frame.set_axis(pd.MultiIndex.from_arrays([symbols, times], names=["symbol", name]))
    frame = frame.set_axis(times.rename(name))
    if form.shape == "frame price ticker":
        frame.columns = pd.MultiIndex.from_tuples([(one, symbols[0]) for one in frame], names=["Price", "Ticker"])
    if form.shape == "frame ticker price":
        frame.columns = pd.MultiIndex.from_tuples([(symbols[0], one) for one in frame], names=["Ticker", "Price"])
    return frame


def frame_bytes(form: Form, frame: pd.DataFrame) -> bytes:
    """Write a frame as Parquet or feather."""
    buffer = io.BytesIO()
    if form.suffix == ".feather":
        frame = frame.reset_index() if not isinstance(frame.index, pd.RangeIndex) else frame
        pyarrow.feather.write_feather(pa.Table.from_pandas(frame), buffer, compression="uncompressed")
    else:
        pyarrow.parquet.write_table(pa.Table.from_pandas(frame), buffer)
    return buffer.getvalue()


_BINANCE: Final = {"names": PLAIN, "has_header": [True, False, False], "places": "tohlcvxxxxxx", "zone": "utc"}
_MT5: Final = {
    "times": "ymd.|seconds",
    "zone": "broker",
    "names": ("<DATE>", "<TIME>", "<OPEN>", "<HIGH>", "<LOW>", "<CLOSE>", "<TICKVOL>"),
    "places": "tohlcvx",
    "extra": "spread",
    "delimiter": "\t",
    "newline": "\r\n",
    "fits": "continuous",
}
_FRAME: Final = {
    "times": ["datetime", "datetime", "iso", "epoch ms"],
    "mark": ["", "", "offset"],
    "zone": ["utc", "utc", "local"],
    "names": [
        ("open_time", *PLAIN[1:]),
        ("Date", *ENGLISH[1:]),
        ("timestamp", *PLAIN[1:]),
        ("date", *PLAIN[1:]),
        ("Datetime", *ENGLISH[1:]),
    ],
    "label": ["date", "open", "midnight"],
    "shape": [
        "frame index",
        "frame index",
        "frame columns",
        "frame rows of two levels",
        "frame price ticker",
        "frame ticker price",
    ],
}
_YAHOO: Final = {"names": ("Datetime", *ENGLISH[1:]), "places": "tchlov", "mark": "offset"}


def _german(names: tuple[str, ...]) -> dict[str, Any]:
    return {"names": names, "delimiter": ";", "decimal": ",", "thousands": ["", "", "."], "zone": ["local", "utc"]}


DIALECTS: Final[dict[str, dict[str, Any]]] = {
    "plain csv": {
        "times": ["iso", "isoT", "iso ms", "iso minutes", "date"],
        "mark": ["", "", "Z", "offset", "+00:00", " UTC", "offset plain"],
        "zone": ["utc", "utc", "local"],
        "label": ["date", "midnight", "open"],
        "names": [
            PLAIN,
            ENGLISH,
            SHORT,
            ("timestamp", *PLAIN[1:]),
            ("open_time", *PLAIN[1:]),
            ("datetime", *PLAIN[1:]),
            ("date", *PLAIN[1:]),
        ],
        "places": ["tohlcv", "tohlcv", "tchlov", "tohlcvx", "xtohlcv", "ohlcvt"],
    },
    "columns beside": {
        "times": ["iso", "date", "epoch ms", "dmy. date"],
        "names": [PLAIN, ENGLISH],
        "extra": ["number", "adjusted", "close time", "quote volume", "vwap"],
        "places": ["xtohlcv", "tohlcxv", "tohlcvx"],
    },
    "close times": {
        "times": ["epoch ms", "iso"],
        "names": [("close_time", *PLAIN[1:]), ("Close time", *ENGLISH[1:]), ("end", *PLAIN[1:])],
        "fits": "intraday",
    },
    "epochs csv": {
        "times": list(EPOCHS),
        "label": ["date", "open", "midnight"],
        "zone": ["utc", "local"],
        "names": [PLAIN, ("timestamp", *PLAIN[1:]), SHORT, ("unix", *PLAIN[1:]), ("Timestamp", *ENGLISH[1:])],
    },
    "digits csv": {
        "times": ["compact8", "compact12", "compact14", "compact T", "compact space"],
        "zone": ["utc", "local"],
        "names": [PLAIN, ENGLISH],
    },
    "american": {
        "times": ["mdy/", "mdy/ short", "mdy/ pm", "mdy/ date"],
        "zone": ["local", "utc"],
        "names": [ENGLISH, ("Time", *ENGLISH[1:])],
        "thousands": ["", ","],
        "currency": ["", "", "$"],
        "quote": ["", '"'],
    },
    "british": {
        "times": ["dmy/", "dmy-", "dmy/ date"],
        "zone": ["utc", "local"],
        "names": ENGLISH,
        "thousands": ["", ","],
        "currency": ["", "£"],
    },
    "swiss": {
        "times": ["dmy.", "dmy. date"],
        "zone": ["utc", "local"],
        "names": [("Datum", *ENGLISH[1:]), ENGLISH],
        "thousands": "'",
        "delimiter": ";",
    },
    "month names": {
        "times": ["month name", "dmon date", "dmon"],
        "names": ENGLISH,
        "quote": ["", '"'],
        "thousands": ["", ","],
    },
    "german": {
        **_german(("Datum", "Eröffnung", "Hoch", "Tief", "Schluss", "Volumen")),
        "times": ["dmy.", "dmy. date"],
        "encoding": ["utf-8", "cp1252", "utf-8-sig"],
    },
    "german english": {**_german(("Datum", *ENGLISH[1:])), "times": ["dmy.", "dmy. date"], "newline": "\r\n"},
    "german parted": {**_german(("Datum", "Zeit", *ENGLISH[1:])), "times": "dmy.|time"},
    "french": {
        **_german(("Date", "Ouverture", "Haut", "Bas", "Clôture", "Volume")),
        "times": ["dmy/", "dmy/ date"],
        "encoding": ["utf-8", "cp1252"],
        "thousands": ["", "\u202f", "\u00a0"],
    },
    "spanish": {
        **_german(("Fecha", "Apertura", "Máximo", "Mínimo", "Cierre", "Volumen")),
        "times": ["dmy/", "dmy/ date"],
        "encoding": ["utf-8", "cp1252"],
    },
    "italian": {
        **_german(("Data", "Apertura", "Massimo", "Minimo", "Chiusura", "Volume")),
        "times": ["dmy/", "dmy/ date"],
    },
    "polish": {
        **_german(("Data", "Otwarcie", "Najwyższy", "Najniższy", "Zamknięcie", "Wolumen")),
        "times": ["date", "iso"],
        "encoding": ["utf-8", "cp1250"],
    },
    "stooq polish": {
        "names": ("Data", "Otwarcie", "Najwyzszy", "Najnizszy", "Zamkniecie", "Wolumen"),
        "times": "date",
        "newline": "\r\n",
    },
    "stooq": {
        "names": ("<DATE>", "<TIME>", "<OPEN>", "<HIGH>", "<LOW>", "<CLOSE>", "<VOL>"),
        "times": "compact|hhmmss",
        "symbol_name": "<TICKER>",
        "places": "stohlcvx",
        "extra": "open interest",
        "newline": "\r\n",
    },
    "dates and times": {
        "times": ["date|time", "date|hour", "compact|hhmm", "compact|hhmmss"],
        "names": [("Date", "Time", *ENGLISH[1:]), ("Date", "Hour", *ENGLISH[1:]), ("date", "time", *PLAIN[1:])],
        "zone": ["utc", "local"],
        "fits": "intraday",
    },
    "tabs": {
        "delimiter": "\t",
        "suffix": [".tsv", ".txt", ".csv"],
        "times": ["iso", "epoch s", "date"],
        "encoding": ["utf-8", "utf-16-le", "utf-16-be"],
    },
    "pipes": {"delimiter": "|", "suffix": ".txt", "times": ["iso", "epoch ms"]},
    "utf-16": {
        "encoding": ["utf-16 le", "utf-16 be", "utf-16-le", "utf-16-be"],
        "times": ["iso", "date"],
        "names": ENGLISH,
    },
    "ccxt csv": {"has_header": False, "times": ["epoch ms", "epoch s"], "label": ["date", "open"]},
    "kraken csv": {"has_header": False, "times": "epoch s", "places": "tohlcvx", "fits": "continuous"},
    "coinbase csv": {
        "has_header": False,
        "times": "epoch s",
        "places": "tlhocv",
        "order": "falling",
        "fits": "continuous",
    },
    "bitfinex csv": {
        "has_header": False,
        "times": "epoch ms",
        "places": "tochlv",
        "order": ["falling", "rising"],
        "fits": "continuous",
    },
    "headerless dates": {
        "has_header": False,
        "times": ["iso", "isoT", "date"],
        "mark": ["", "Z"],
        "places": ["tohlcv", "tohlc", "tlhoc", "tochl"],
    },
    "mt4": {
        "has_header": False,
        "times": "ymd.|time",
        "names": ("d", *PLAIN),
        "zone": "broker",
        "newline": "\r\n",
        "fits": "continuous",
    },
    "mt5": _MT5,
    "mt5 utf-16": {**_MT5, "encoding": "utf-16 le"},
    "histdata": {
        "has_header": False,
        "times": "compact space",
        "zone": "est",
        "delimiter": ";",
        "fits": "continuous intraday",
        "names": PLAIN,
    },
    "dukascopy": {"names": ("Gmt time", *ENGLISH[1:]), "times": "dmy. ms", "fits": "continuous"},
    "dukascopy local": {
        "names": ("Local time", *ENGLISH[1:]),
        "times": "dmy. ms",
        "mark": "GMT offset",
        "zone": "local",
        "fits": "continuous",
    },
    "investing": {
        "names": ("Date", "Open", "High", "Low", "Price", "Vol."),
        "places": "tcohlvx",
        "extra": "change",
        "times": ["mdy/ date", "month name"],
        "thousands": ",",
        "quote": '"',
        "volume": "suffix",
        "order": "falling",
        "encoding": "utf-8-sig",
        "fits": "daily",
    },
    "investing german": {
        "names": ("Datum", "Eröffn.", "Hoch", "Tief", "Zuletzt", "Vol."),
        "places": "tcohlvx",
        "extra": "change",
        "times": "dmy. date",
        "decimal": ",",
        "thousands": ".",
        "quote": '"',
        "volume": "suffix",
        "order": "falling",
        "fits": "daily",
    },
    "nasdaq": {
        "names": ("Date", "Open", "High", "Low", "Close/Last", "Volume"),
        "places": "tcvohl",
        "currency": "$",
        "times": "mdy/ date",
        "order": "falling",
        "fits": "daily",
    },
    "yfinance daily": {**_YAHOO, "zone": "local", "label": "midnight", "fits": "session days"},
    "yfinance intraday": {**_YAHOO, "shape": "yfinance", "zone": ["utc", "local"], "fits": "intraday"},
    "yfinance adjusted": {"names": ENGLISH, "places": "tohlcxv", "extra": "adjusted", "times": "date", "fits": "daily"},
    "yfinance dates": {"names": ENGLISH, "places": "tchlov", "shape": "yfinance", "times": "date", "fits": "daily"},
    "tradingview": {
        "times": ["epoch s", "isoT"],
        "mark": "Z",
        "label": "open",
        "places": ["tohlcv", "tohlcvx"],
        "volume": "nan",
    },
    "alpaca csv": {
        "names": ("timestamp", *PLAIN[1:]),
        "mark": "+00:00",
        "label": ["open", "midnight"],
        "places": "tohlcvx",
        "extra": "vwap",
    },
    "alpaca json": {
        "shape": "alpaca",
        "suffix": ".json",
        "names": SHORT,
        "times": "isoT",
        "mark": "Z",
        "label": ["open"],
    },
    "polygon json": {
        "shape": "polygon",
        "suffix": ".json",
        "names": SHORT,
        "times": "epoch ms",
        "label": ["open", "midnight"],
    },
    "kraken json": {"shape": "kraken", "suffix": ".json", "times": "epoch s", "fits": "continuous"},
    "binance json": {"shape": "klines", "suffix": ".json", "times": "epoch ms", "fits": "continuous"},
    "coinbase json": {
        "shape": "rows",
        "suffix": ".json",
        "times": "epoch s",
        "places": "tlhocv",
        "order": "falling",
        "fits": "continuous",
    },
    "bitfinex json": {
        "shape": "rows",
        "suffix": ".json",
        "times": "epoch ms",
        "places": "tochlv",
        "fits": "continuous",
    },
    "ccxt json": {"shape": "rows", "suffix": ".json", "times": ["epoch ms", "epoch s"], "packed": ["", ".gz"]},
    "objects json": {
        "shape": ["objects", "lines", "columns and data", "pandas", "pandas index"],
        "suffix": ".json",
        "times": ["epoch s", "epoch ms", "isoT"],
        "mark": ["", "Z"],
    },
    "lines json": {"shape": "lines", "suffix": [".jsonl", ".ndjson"], "times": ["epoch s", "epoch ms", "iso"]},
    "alpha vantage csv": {
        "names": ("timestamp", *PLAIN[1:]),
        "zone": "local",
        "order": "falling",
        "times": ["iso"],
        "newline": "\r\n",
    },
    "alpha vantage json": {
        "shape": "alpha vantage",
        "suffix": ".json",
        "names": ("t", "1. open", "2. high", "3. low", "4. close", "5. volume"),
        "zone": "local",
        "times": ["iso", "date"],
    },
    "cryptodatadownload": {
        "names": [("unix", *PLAIN[1:]), ("date", *PLAIN[1:]), ("Date", *ENGLISH[1:])],
        "times": ["epoch ms", "epoch s", "iso", "hour pm"],
        "banner": "https://www.CryptoDataDownload.com",
        "order": "falling",
        "fits": "continuous",
        "places": "tohlcvx",
    },
    "binance zip": {**_BINANCE, "times": ["epoch ms", "epoch us"], "packed": ".zip", "fits": "continuous"},
    "several symbols": {
        "names": [PLAIN, ENGLISH],
        "times": ["iso", "date", "epoch s"],
        "symbol_name": ["Name", "symbol", "Ticker", "ticker"],
        "places": ["tohlcvs", "stohlcv", "tsohlcv"],
    },
    "wide csv": {"shape": "wide", "times": ["iso", "date", "epoch ms"], "names": [PLAIN, ENGLISH]},
    "packed csv": {"packed": [".gz", ".zip"], "times": ["iso", "epoch ms"], "names": [PLAIN, ENGLISH]},
    "parquet": {**_FRAME, "suffix": [".parquet", ".pq"]},
    "feather": {**_FRAME, "suffix": ".feather"},
    "frame": {**_FRAME, "suffix": ""},
}
"""A list is a random choice."""


def choose(rng: np.random.Generator, name: str) -> Form:
    """Make one form of a dialect."""
    known = {one.name for one in fields(Form)}
    chosen = {key: pick(rng, value) if isinstance(value, list) else value for key, value in DIALECTS[name].items()}
    if unknown := chosen.keys() - known:
        raise KeyError(unknown)
    form = Form(**chosen)
    if form.mark and form.times not in (*MARKED_TIMES, "dmy. ms", "datetime"):
        form = replace(form, mark="")
    if form.mark in ("Z", "+00:00", " UTC"):
        form = replace(form, zone="utc")
    return form


def fits(form: Form, market: Market) -> bool:
    """Whether a form can hold the bars of a market."""
    needs = form.fits.split()
    writes_days_only = form.times in DAILY_TIMES
    whole_hours = form.times in ("date|hour", "hour pm")
    wall, _ = on_clock(market.opens, clock_of(form, market))
    labelled_by_day = market.is_daily and ((market.has_sessions and form.label != "open") or not (wall % DAY_MS).any())
    return not (
        ("daily" in needs and not market.is_daily)
        or ("intraday" in needs and market.is_daily)
        or ("continuous" in needs and market.kind.startswith("exchange"))
        or ("session" in needs and not (market.is_daily and market.has_sessions))
        or (writes_days_only and not labelled_by_day)
        or (market.kind == "24/5" and market.is_daily and form.zone not in ("utc", "local"))
        or (form.shape == "alpha vantage" and len({*wall.tolist()}) < len(wall))
        or (whole_hours and (wall % (60 * MINUTE_MS)).any())
    )


def _wide_lines(form: Form, sheet: Sheet) -> list[str]:
    """Return lines in wide format: `AAA:open`."""
    symbols = sorted({row.symbol for row in sheet.rows})
    by_time: dict[int, dict[str, Row]] = {}
    for row in sheet.rows:
        by_time.setdefault(row.open_time, {})[row.symbol] = row
    firsts = [next(iter(one.values())) for one in by_time.values()]
    times = time_texts(form, *labels_of(form, sheet.market, firsts))
    lines = [",".join([form.names[0], *(f"{name}:{one}" for name in symbols for one in form.names[1:])])]
    for time, there in zip(times, by_time.values(), strict=True):
        cells = [cell for name in symbols for cell in (there[name].cells if name in there else [""] * 5)]
        lines.append(",".join([time, *cells]))
    return lines


def text_of(form: Form, sheet: Sheet) -> list[str]:
    """Write the lines of a text in its shape, header included."""
    if form.shape == "wide":
        return _wide_lines(form, sheet)
    lines = csv_lines(form, sheet)
    if form.shape == "yfinance":
        names = ["Price", *lines[0].split(",")[1:]]
        ticker = ["Ticker", *[sheet.rows[0].symbol] * (len(names) - 1)]
        lines[:1] = [",".join(names), ",".join(ticker), form.names[0] + "," * (len(names) - 1)]
    return lines


def encode(form: Form, text: str) -> bytes:
    """Encode a text; `utf-16 le` begins with a mark, `utf-16-le` does not; old encodings have one no-break space."""
    if form.encoding.startswith("utf-16 "):
        return ("\ufeff" + text).encode(form.encoding.replace(" ", "-"))
    return text.replace("\u202f", "\u00a0").encode(form.encoding)
