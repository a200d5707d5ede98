"""Read prices and volumes: decimal signs, thousands, currency signs and markers of missing values.

The decimal sign is decided once for a table, by its cells. If they leave it open, `ParseOptions.decimal` must give it.
A value equals Python's `float` of the plain number, bit for bit.

Shapes: T rows of a table, F fields of `Bars` (open, high, low, close, volume).
"""

from __future__ import annotations

import datetime as dt
import re
import unicodedata
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from forecaster.errors import Ambiguous, BadPayload
from forecaster.tables import COLUMNS, FIELDS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from forecaster.tables import ParseOptions, Table

_DecimalSign: TypeAlias = Literal[".", ","]

_MISSING_MARKERS: Final = frozenset(
    ("", "-", "--", "---", "–", "—", ".", "nan", "null", "none", "na", "n/a", "n.a.", "<na>", "#n/a", "#n/a n/a", "#nv")
)
_PLAIN: Final = re.compile(r"[-+]?[0-9]+(?:\.[0-9]*)?(?:[eE][-+]?[0-9]{1,4})?")
_CURRENCY: Final = "[$€£¥₹₩]|US[$]|Rs\\.?|USD|EUR|GBP|JPY|CHF|CAD|AUD|CNY|HKD|INR|KRW|PLN"
_FORMATTED: Final = re.compile(
    rf"(?P<sign>[-+]?) ?(?:(?P<before>{_CURRENCY}) ?)?(?P<inner>[-+]?)"
    r"(?P<number>[0-9.,' ]*[0-9][.,]?)(?P<exponent>[eE][-+]?[0-9]{1,4})?"
    rf"(?: ?(?P<suffix>K|MN?|BN?|T|CR))?(?: ?(?P<after>{_CURRENCY}))?",
    re.IGNORECASE,
)
# One sign separates thousands; in India, groups of two digits before the last three.
_NUMBER: Final[dict[_DecimalSign, re.Pattern[str]]] = {
    ".": re.compile(
        r"(?:[1-9][0-9]{0,2}(?P<by>[,' ])[0-9]{3}(?:(?P=by)[0-9]{3})*|[1-9][0-9]?(?:,[0-9]{2})+,[0-9]{3}|[0-9]+)"
        r"(?:\.[0-9]*)?|\.[0-9]+"
    ),
    ",": re.compile(r"(?:[1-9][0-9]{0,2}(?P<by>[.' ])[0-9]{3}(?:(?P=by)[0-9]{3})*|[0-9]+)(?:,[0-9]+)?|,[0-9]+"),
}
_PLAIN_BY_SIGN: Final[dict[_DecimalSign, re.Pattern[str]]] = {".": _PLAIN, ",": re.compile(r"[-+]?[0-9]+(?:,[0-9]+)?")}
_TO_PLAIN: Final[dict[_DecimalSign, dict[int, int | None]]] = {
    ".": str.maketrans("", "", ",' "),
    ",": str.maketrans(",", ".", ".' "),
}
_POWERS: Final = {"": "", "K": "e3", "M": "e6", "MN": "e6", "CR": "e7", "B": "e9", "BN": "e9", "T": "e12"}
_SHORT_OR_GROUPED: Final = re.compile(r"(?:[-+]?(?:[1-9][0-9]{0,2}\.[0-9]{3}|[0-9]{1,3}))?")
_POINTS_AND_32NDS: Final = re.compile(r"[0-9]{1,3}'(?:[0-2][0-9]|3[01])[0257]")
_UNKNOWN_VOLUME: Final = -1.0  # as Interactive Brokers writes it
_DOTTED_DATE: Final = re.compile(r"[0-9]{1,2}\.[0-9]{1,2}\.[0-9]{4}\b.*")
_COMPACT_TIME: Final = re.compile(r"[0-9]{8} [0-9]{6}")
_DECIMAL_COMMA_WORDS: Final = frozenset(  # column names of languages with decimal commas
    (  # noqa: SIM905 - one word a line is a page
        "datum zeit uhrzeit eroffnung eroffnungskurs erster hoch tief tageshoch tagestief schluss schlusskurs letzter "
        "volumen stuck kurs data otwarcie najwyzszy najnizszy zamkniecie wolumen ostatnio fecha apertura maximo minimo "
        "cierre ultimo abertura fechamento massimo chiusura ouverture cloture fermeture dernier haut bas slot "
        "slotkoers hoog laag openingskoers laatste tarih acilis yuksek dusuk simdi kapanis hacim"
    ).split()
)


@dataclass(frozen=True, slots=True)
class Numbers:
    """The values of a table.

    Args:
        ohlcv_TF: (T, 5); NaN for empty cells and missing columns.
        decimal_text: the decimal sign, for messages.
    """

    ohlcv_TF: NDArray[np.float64]
    decimal_text: str


def read_numbers(table: Table, fields: dict[str, int], options: ParseOptions) -> Numbers:
    """Read the columns at these positions.

    Raises:
        Ambiguous: if decimals and thousands cannot be distinguished; names `decimal`.
        BadPayload: for a cell that is not a number, or cells that contradict each other; names the lines.
    """
    ohlcv_TF = np.full((len(table.cells), len(COLUMNS)), np.nan)
    columns = []
    for field, place in fields.items():
        cells, values = table.cells[place], ohlcv_TF[:, COLUMNS.index(field)]
        if cells.dtype.kind in "iuf":
            values[:] = cells.to_numpy(np.float64, na_value=np.nan)
        else:
            columns.append(_Column.of(table, field, cells, values))
    _check_32nds(table, columns)
    decimal, evidence = (
        (options.decimal, "") if options.decimal else _find_decimal(table, columns, set(fields.values()))
    )
    for column in columns:
        row = column.read(decimal, ohlcv_TF[:, COLUMNS.index(column.field)])
        if row is None:
            continue
        if evidence and _to_plain(column.texts[row], "," if decimal == "." else "."):
            both = f"{_show_cell(table, columns, evidence)}, {_show_cell(table, columns, column.texts[row])}"
            raise BadPayload(table.source, "one sign before decimals", both)
        raise table.cell_error(f"a number for {column.field}", row, table.cells[fields[column.field]].iloc[row])
    ohlcv_TF[ohlcv_TF[:, -1] == _UNKNOWN_VOLUME, -1] = np.nan
    return Numbers(ohlcv_TF, decimal)


@dataclass(frozen=True, slots=True)
class _Column:
    """The texts of a column, (T,), with single spaces and empty where a value is missing; and which are plain numbers.

    `plain` holds the values if all cells are plain numbers.
    """

    field: str
    texts: NDArray[np.object_]
    is_plain: NDArray[np.bool_]
    plain: NDArray[np.float64] | None = None

    @classmethod
    def of(cls, table: Table, field: str, cells: pd.Series, values: NDArray[np.float64]) -> _Column:
        """Return the texts of a column; write cells that are numbers already to `values`."""
        plain = _plain_values(cells)
        if plain is not None:
            return cls(field, cells.to_numpy(object), np.ones(len(cells), bool), plain)
        mixed = cells.to_numpy(object, copy=True)
        is_missing = np.asarray(pd.isna(cells), bool)
        all_text = isinstance(cells.dtype, pd.StringDtype)
        is_text = ~is_missing if all_text else np.fromiter((isinstance(cell, str) for cell in mixed), bool, len(mixed))
        for row in np.flatnonzero(~is_text & ~is_missing).tolist():
            values[row] = _to_number(mixed[row])
            if np.isnan(values[row]):
                is_date = isinstance(mixed[row], dt.date | np.datetime64)  # it may be too large to print
                raise table.cell_error(f"a number for {field}", row, "a date" if is_date else mixed[row])
        mixed[~is_text] = ""
        is_plain = np.fromiter(map(bool, map(_PLAIN.fullmatch, mixed)), bool, len(mixed))
        mixed[~is_plain] = [_text(cell) for cell in mixed[~is_plain]]
        return cls(field, mixed, is_plain)

    def read(self, decimal: _DecimalSign, values: NDArray[np.float64]) -> int | None:
        """Read the texts as numbers into `values`; return the first row that is not a number."""
        if self.plain is not None and decimal == ".":
            values[:] = self.plain
            return None
        is_plain = self.is_plain if decimal == "." else np.zeros(len(self.texts), bool)
        values[is_plain] = self.texts[is_plain].astype(np.float64)
        rows = np.flatnonzero(~is_plain)
        rows = rows[self.texts[rows] != ""]
        with_suffix = self.field == "volume"
        values[rows] = [float(_to_plain(cell, decimal, with_suffix=with_suffix) or "nan") for cell in self.texts[rows]]
        rows = np.flatnonzero(is_plain) if is_plain.all() else np.flatnonzero(self.texts != "")
        is_bad = ~np.isfinite(values[rows])
        return int(rows[np.argmax(is_bad)]) if is_bad.any() else None


def _plain_values(cells: pd.Series) -> NDArray[np.float64] | None:
    """Read a column of plain numbers at once, to the last bit; None if a cell is not plain."""
    if not isinstance(cells.dtype, pd.StringDtype):
        return None
    texts = pa.array(cells)
    if texts.null_count or not pc.all(pc.match_substring_regex(texts, f"^(?:{_PLAIN.pattern})$")).as_py():
        return None
    try:
        values: NDArray[np.float64] = pc.cast(pc.utf8_ltrim(texts, "+"), pa.float64()).to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid:  # too large
        return None
    return values if np.isfinite(values).all() else None


def _to_number(cell: object) -> float:
    """Return a cell that is not text as a number; NaN for other types."""
    if isinstance(cell, bool | np.bool_) or not isinstance(cell, int | float | np.integer | np.floating | Decimal):
        return np.nan
    try:
        return float(cell)
    except (ValueError, OverflowError, TypeError):
        return np.nan


def _text(cell: str) -> str:
    """Return a cell with single spaces and a plain minus; empty for markers of missing values."""
    text = " ".join(cell.replace("−", "-").replace("’", "'").split())
    return "" if text.casefold() in _MISSING_MARKERS else text


def _to_plain(cell: str, decimal: _DecimalSign, *, with_suffix: bool = True) -> str | None:
    """Return a number as Python writes it, such as -1234.5e6; None if it is not a number with this decimal sign."""
    if _PLAIN_BY_SIGN[decimal].fullmatch(cell):
        return cell.replace(",", ".")
    match = _FORMATTED.fullmatch(cell)
    number = match and _NUMBER[decimal].fullmatch(match["number"])
    if not (match and number):
        return None
    exponent, suffix = match["exponent"] or "", match["suffix"] or ""
    has_two = (match["sign"] and match["inner"]) or (exponent and suffix) or (number["by"] and exponent)
    if has_two or (suffix and not with_suffix):
        return None
    digits = number[0].translate(_TO_PLAIN[decimal])
    return f"{match['sign']}{match['inner']}{digits}{exponent}{_POWERS[suffix.upper()]}"


def _find_decimal(table: Table, columns: list[_Column], places: set[int]) -> tuple[_DecimalSign, str]:
    """Return the decimal sign, and the cell that shows it, if one does."""
    suggests_comma = _suggests_decimal_comma(table, places)
    is_plain = all(column.is_plain.all() or (column.texts[~column.is_plain] == "").all() for column in columns)
    if is_plain and not suggests_comma:
        _check_thousands(table, columns)
        return ".", ""
    ambiguous: dict[str, str] = {}
    for cell in (cell for column in columns for cell in column.texts if "." in cell or "," in cell):
        signs = [sign for sign in _NUMBER if _to_plain(cell, sign)]
        if len(signs) == 1:
            return signs[0], cell
        if signs:
            ambiguous.setdefault("," if "," in cell else ".", cell)
    cell = ambiguous.get(",") or (ambiguous.get(".") if suggests_comma else None)
    if cell:
        found = f"{_show_cell(table, columns, cell)}, which may have decimals or thousands"
        raise Ambiguous(table.source, "decimal", "',' or '.'", found)
    return ".", ""


def _check_thousands(table: Table, columns: list[_Column]) -> None:
    """Raise Ambiguous if some prices have a point before three digits, and the others are whole and below 1,000.

    Prices that cross 1,000 look so if the point separates thousands.
    """
    prices = [column.texts for column in columns if column.field in FIELDS]
    if not all(_SHORT_OR_GROUPED.fullmatch(cell) for texts in prices for cell in texts):
        return
    grouped = next((cell for texts in prices for cell in texts if "." in cell), "")
    whole = next((cell for texts in prices for cell in texts if cell and "." not in cell), "")
    if grouped and whole:
        both = f"{_show_cell(table, columns, grouped)} beside {_show_cell(table, columns, whole)}"
        found = f"{both}: a point before thousands?"
        raise Ambiguous(table.source, "decimal", "',' or '.'", found)


def _check_32nds(table: Table, columns: list[_Column]) -> None:
    """Raise BadPayload for prices such as 110'165, in points and 32nds, unless the apostrophe separates thousands."""
    if all(column.is_plain.all() for column in columns):
        return
    prices = [cell for column in columns if column.field in FIELDS for cell in column.texts]
    marked = [cell for cell in prices if "'" in cell]
    if not marked or not all(map(_POINTS_AND_32NDS.fullmatch, marked)):
        return
    if not any("." in cell or "," in cell for cell in prices):
        found = f"{_show_cell(table, columns, marked[0])}, which may be 32nds of a point"
        raise BadPayload(table.source, "prices in decimals", found)


def _show_cell(table: Table, columns: list[_Column], cell: str) -> str:
    """Return a cell and the line of its first appearance."""
    row = min(int(np.argmax(column.texts == cell)) for column in columns if (column.texts == cell).any())
    return f"{cell} in {table.row_unit} {table.cells.index[row]}"


def _suggests_decimal_comma(table: Table, places: set[int]) -> bool:
    """Return whether names, dates or separators suggest decimal commas."""
    words = {word for name in table.names for word in _without_accents(name).split()}
    if words & _DECIMAL_COMMA_WORDS:
        return True
    first = [
        str(cell)
        for place in range(table.cells.shape[1])
        if place not in places and not pd.api.types.is_datetime64_any_dtype(table.cells[place].dtype)
        for cell in table.cells[place].iloc[:1]
    ]
    if any(map(_DOTTED_DATE.match, first)):
        return True
    is_histdata = not table.has_header and any(map(_COMPACT_TIME.fullmatch, first))
    return "separated by ;" in table.format and not is_histdata


def _without_accents(name: str) -> str:
    """Return a name in lower case without accents."""
    return "".join(
        letter for letter in unicodedata.normalize("NFKD", name.lower()) if not unicodedata.combining(letter)
    )
