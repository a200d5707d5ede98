"""Find the rows of bars in json, in the structures of venues and programs.

Rows are one of: a list of lists, a list of objects, objects by time, or the values of each field in a list or by time.
An enclosing object may hold their symbol and time zone. Several bodies of rows are one symbol each; its key names it.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import pandas as pd

from forecaster.errors import BadPayload
from forecaster.sources.files import limits
from forecaster.sources.files.csv_rows import decode
from forecaster.tables import FIELDS
from forecaster.tables.columns import is_bar_header
from forecaster.tables.frames import table_from_frame

if TYPE_CHECKING:
    from collections.abc import Iterator

    from forecaster.tables import Table

_EXPECTED: Final = (
    "rows with a time and open, high, low, close: a list of lists or of objects, objects by their times, or the values"
    " of each field in a list or by their times"
)
_SYMBOL_KEYS: Final = ("symbol", "ticker", "instrument", "pair")
_ZONE_KEYS: Final = ("exchangetimezonename", "exchangetimezone", "timezone", "timezoneid", "tz", "utcoffset")
_OFFSET_KEY: Final = _ZONE_KEYS[-1]
_KRAKEN_COLUMNS: Final = ("time", "open", "high", "low", "close", "vwap", "volume", "count")
_TIME: Final = re.compile(r"\d[\d:./TZ+ -]*")
_MIN_CELLS: Final = 1 + len(FIELDS)
_MAX_SHOWN_KEYS: Final = 12
_ROWS: Final = "rows of json"
_PIECE: Final = 1 << 20
_STRING: Final = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_DEPTHS: Final = np.zeros(256, np.int8)
_DEPTHS[list(b"[{")], _DEPTHS[list(b"]}")] = 1, -1
_MAX_SECONDS: Final = 7_258_118_400  # the year 2200, in seconds


class _Body(NamedTuple):
    """Rows in a file, the keys above them, and the symbol and time zone of the enclosing objects."""

    frame: pd.DataFrame
    path: tuple[str, ...]
    symbol: str
    zone: str


class _Enclosing(NamedTuple):
    """The keys, symbol and time zone that enclose a part of a file."""

    path: tuple[str, ...] = ()
    symbol: str = ""
    zone: str = ""

    def enter(self, node: dict[str, Any]) -> _Enclosing:
        """Add the symbol and time zone of an object, its own or in its metadata."""
        values = {_letters(key): text for key, text in _metadata(node) if isinstance(text, str)}
        offset_hours = next(
            (value for key, value in _metadata(node) if _letters(key) == _OFFSET_KEY and type(value) is int), None
        )
        values |= {} if offset_hours is None else {_OFFSET_KEY: f"{offset_hours:+03}:00"}
        symbol = next((values[key] for key in _SYMBOL_KEYS if key in values), self.symbol)
        return self._replace(symbol=symbol, zone=next((values[key] for key in _ZONE_KEYS if key in values), self.zone))

    def below(self, key: str) -> _Enclosing:
        return self._replace(path=(*self.path, key))


def json_tables(source: str, content: bytes, kind: str) -> list[Table]:
    """Read json, or lines of json: a table for each symbol.

    Raises:
        BadPayload: if it holds no bars in a known structure.
        ValueError: for invalid json.
    """
    text, encoding = decode(content)
    _check_size(source, text)
    parsed, lines = _parse(text)
    bodies = (
        list(islice(_bodies(parsed, _Enclosing()), limits.MAX_JSON_TABLES + 1))
        if isinstance(parsed, dict | list)
        else []
    )
    limits.check_count(source, "lists of rows", len(bodies), limits.MAX_JSON_TABLES)
    candidates = [(body, table_from_frame(body.frame, source, file_format=f"{kind}, {encoding}")) for body in bodies]
    with_bars = [(body, table) for body, table in candidates if _may_be_bars(table)] or candidates
    if not with_bars or (len(with_bars) > 1 and not any(_may_be_bars(table) for _, table in with_bars)):
        raise BadPayload(source, _EXPECTED, _describe(parsed))
    symbols = _symbols(source, [body for body, _ in with_bars])
    tables = [
        replace(table, symbol=table.symbol or symbol, timezone=body.zone)
        for (body, table), symbol in zip(with_bars, symbols, strict=True)
    ]
    if lines and len(tables) == 1 and len(lines) == len(tables[0].cells):
        return [replace(tables[0], cells=tables[0].cells.set_axis(lines, axis="index"), row_unit="line")]
    return tables


def _check_size(source: str, text: str) -> None:
    """Raise BadPayload for json that is too deep or has too many values, before it is parsed."""
    bare = _STRING.sub("", text)
    limits.check_count(source, "values", sum(map(bare.count, ",[{")), limits.MAX_JSON_VALUES)
    depth = deepest = 0
    for first in range(0, len(bare), _PIECE):
        piece = np.frombuffer(bare[first : first + _PIECE].encode(errors="replace"), np.uint8)
        depths = depth + _DEPTHS[piece].cumsum(dtype=np.int64)
        depth, deepest = int(depths[-1]), max(deepest, int(depths.max()))
    if deepest > limits.MAX_JSON_DEPTH:
        raise BadPayload(source, f"lists and objects at most {limits.MAX_JSON_DEPTH} deep", f"{deepest:,} deep")


def _parse(text: str) -> tuple[Any, list[int]]:
    """Return the content of a json text, or that of its lines with their numbers."""
    try:
        return json.loads(text, object_pairs_hook=_unique_object), []
    except json.JSONDecodeError as error:
        if error.msg != "Extra data":
            raise
    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    return [_parse_line(number, line) for number, line in lines], [number for number, _ in lines]


def _parse_line(number: int, line: str) -> Any:
    try:
        return json.loads(line, object_pairs_hook=_unique_object)
    except ValueError as error:
        msg = f"{error}, in line {number}"
        raise ValueError(msg) from error


def _unique_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object; raise ValueError for a repeated key."""
    node = dict(pairs)
    if len(node) < len(pairs):
        key = Counter(key for key, _ in pairs).most_common(1)[0][0]
        msg = f"the key {key!r} twice in one object"
        raise ValueError(msg)
    return node


def _bodies(node: Any, enclosing: _Enclosing) -> Iterator[_Body]:
    """Yield the rows in a part of a file, at any depth."""
    if isinstance(node, dict):
        enclosing = enclosing.enter(node)
        node = _add_names(node)
    frame = _from_list(node) if isinstance(node, list) else _from_object(node)
    if frame is not None:
        yield _Body(frame, enclosing.path, enclosing.symbol, enclosing.zone)
        return
    for key, child in node.items() if isinstance(node, dict) else (("", child) for child in node):
        if isinstance(child, dict | list):
            yield from _bodies(child, enclosing.below(key))


def _add_names(node: dict[str, Any]) -> dict[str, Any]:
    """Add the names that only the venue's documentation gives: Kraken's rows, and the arrays of Yahoo's charts."""
    match node:
        case {"error": _, "result": {"last": int(last), **pairs}}:
            return {str(pair): _kraken(rows, last) for pair, rows in pairs.items()}
        case {"timestamp": times, "indicators": {"quote": [dict(quote)]}}:
            return {"timestamp": _seconds(times), **quote}
    return node


def _seconds(times: Any) -> Any:
    """Return epochs in seconds as dates if some are before 1970; there, epochs look like other numbers."""
    if not isinstance(times, list) or not all(type(time) is int and abs(time) < _MAX_SECONDS for time in times):
        return times
    return [str(pd.Timestamp(time, unit="s", tz="UTC")) for time in times] if min(times, default=0) < 0 else times


def _kraken(rows: Any, last: int) -> Any:
    """Name the entries of Kraken's rows; a row after `last` is not final."""
    if not isinstance(rows, list) or not all(
        isinstance(row, list) and len(row) == len(_KRAKEN_COLUMNS) for row in rows
    ):
        return rows
    return [dict(zip(_KRAKEN_COLUMNS, row, strict=True)) | {"complete": float(row[0]) <= last} for row in rows]


def _from_list(node: list[Any]) -> pd.DataFrame | None:
    first = node[0] if node else None
    if not first or any(type(row) is not type(first) for row in node):
        return None
    if isinstance(first, list) and not isinstance(first[0], dict | list):
        if is_bar_header(list(map(str, first))):
            return _frame(node[1:], first)
        return _frame(_pad(node))
    if isinstance(first, dict) and not any(isinstance(value, list) for value in first.values()):
        return _frame([_flatten(row) for row in node] if _is_nested(first) else node)
    return None


def _from_object(node: dict[str, Any]) -> pd.DataFrame | None:
    """Return a frame of one object, as pandas and venues write it; None if it holds no rows."""
    match node:
        case {"columns": list(columns), "data": list(rows)} if all(isinstance(row, list) for row in rows):
            return _split(list(map(_label, columns)), rows, node.get("index"))
        case {"schema": _, "data": list(rows)}:
            return _from_list(rows)
    arrays = {key: values for key, values in node.items() if _is_array(values)}
    if len(arrays) >= _MIN_CELLS and len({len(values) for values in arrays.values()}) == 1:
        return _frame(arrays)
    if not node or any(isinstance(value, list) for value in node.values()):
        return None
    if all(isinstance(value, dict) and value for value in node.values()):
        return _from_objects(node)
    return _frame([_flatten(node)]) if is_bar_header(list(node)) and not _is_nested(node) else None


def _split(columns: list[Any], rows: list[list[Any]], index: Any) -> pd.DataFrame:
    frame = _frame(_pad(rows), columns)
    if not isinstance(index, list) or len(index) != len(frame):
        return frame
    return frame.set_axis(pd.Index(list(map(_label, index))), axis="index")


def _pad(rows: list[list[Any]]) -> list[list[Any]]:
    longest = max(map(len, rows), default=0)
    limits.check_shape(_ROWS, len(rows), longest)
    return [row + [None] * (longest - len(row)) for row in rows]


def _label(key: Any) -> Any:
    """Return the label of a row or a column; a list becomes a tuple of levels."""
    if isinstance(key, list):
        return tuple(map(_label, key))
    return str(key) if isinstance(key, dict) else key


def _from_objects(node: dict[str, dict[str, Any]]) -> pd.DataFrame | None:
    """Return a frame of objects by time, or of the values of each field by time."""
    inner = next(iter(node.values()))
    if all(map(_TIME.fullmatch, node)):
        rows = [_flatten(row) for row in node.values()] if _is_nested(inner) else list(node.values())
        return _frame(rows).set_axis(_index(list(node)), axis="index")
    if all(map(_TIME.fullmatch, inner)):
        keys = list(dict.fromkeys(key for values in node.values() for key in values))
        limits.check_shape(_ROWS, len(keys), len(node))
        frame = _frame({name: [values.get(key) for key in keys] for name, values in node.items()})
        return frame.set_axis(_index(keys), axis="index")
    return None


def _frame(rows: Any, columns: list[Any] | None = None) -> pd.DataFrame:
    """Return a frame whose numbers keep their types."""
    if rows and isinstance(rows, list) and isinstance(rows[0], dict):  # each key of any row becomes a column of all
        limits.check_shape(_ROWS, len(rows), len(set().union(*rows)))
    return pd.DataFrame(rows, columns=columns, dtype=object).infer_objects()


def _index(keys: list[str]) -> pd.Index:
    """Return an index of row keys; a range if they only count rows."""
    return pd.RangeIndex(len(keys)) if keys == list(map(str, range(len(keys)))) else pd.Index(keys)


def _is_array(values: Any) -> bool:
    return isinstance(values, list) and bool(values) and not any(isinstance(value, dict | list) for value in values)


def _is_nested(row: dict[str, Any]) -> bool:
    return any(isinstance(value, dict) for value in row.values())


def _flatten(row: dict[str, Any]) -> dict[str, Any]:
    """Flatten the inner object of a row, such as `mid` of OANDA; several are prefixed with their keys."""
    inner = {key: value for key, value in row.items() if isinstance(value, dict)}
    flat = {key: value for key, value in row.items() if key not in inner}
    for key, values in inner.items():
        if len(values) == 1:  # {"date": {"$date": …}}
            flat[key] = next(iter(values.values()))
        else:
            flat |= {name if len(inner) == 1 else f"{key}:{name}": value for name, value in values.items()}
    return flat


def _may_be_bars(table: Table) -> bool:
    return is_bar_header(table.names) if table.has_header else len(table.names) >= _MIN_CELLS


def _symbols(source: str, bodies: list[_Body]) -> list[str]:
    """Return the symbol of each body: its own, else a key in capitals; of several, the key that differs."""
    symbols = [body.symbol or next((key for key in reversed(body.path) if key.isupper()), "") for body in bodies]
    if len(bodies) == 1 or (all(symbols) and len(set(symbols)) == len(symbols)):
        return symbols
    for keys in zip(*(body.path for body in bodies), strict=False):
        if len(set(keys)) == len(keys):
            return list(keys)
    raise BadPayload(source, "rows of each symbol in one list", [".".join(body.path) for body in bodies])


def _metadata(node: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, dict) and "meta" in key.lower():
            yield from value.items()
        else:
            yield key, value


def _letters(key: str) -> str:
    return re.sub("[^a-z]", "", key.lower())


def _describe(node: Any) -> str:
    """Describe the content for messages: its keys, and those of its first object."""
    if isinstance(node, dict):
        inner = next((value for value in node.values() if isinstance(value, dict)), {})
        return f"keys {list(node)[:_MAX_SHOWN_KEYS]}" + (
            f", below them {list(inner)[:_MAX_SHOWN_KEYS]}" if inner else ""
        )
    if isinstance(node, list):
        return f"a list of {len(node)}, the first {node[0]!r:.100}" if node else "an empty list"
    return f"{type(node).__name__} {node!r:.100}"
