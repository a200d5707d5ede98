"""Cells as prices and volumes: decimal signs, thousands, currency signs and words for nothing.

The decimal sign is decided once for a table, by its own cells; where they leave it open, `decimal` of `Reading` has to
say it. A value is the one that Python's `float` reads from the plain spelling, to the last bit.

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

    from forecaster.tables import Reading, Table

_Sign: TypeAlias = Literal[".", ","]

_NOTHING: Final = frozenset(
    ("", "-", "--", "---", "–", "—", ".", "nan", "null", "none", "na", "n/a", "n.a.", "<na>", "#n/a", "#n/a n/a", "#nv")
)
_PLAIN: Final = re.compile(r"[-+]?[0-9]+(?:\.[0-9]*)?(?:[eE][-+]?[0-9]{1,4})?")
_CURRENCY: Final = "[$€£¥₹₩]|US[$]|Rs\\.?|USD|EUR|GBP|JPY|CHF|CAD|AUD|CNY|HKD|INR|KRW|PLN"
_SPELLED: Final = re.compile(
    rf"(?P<sign>[-+]?) ?(?:(?P<before>{_CURRENCY}) ?)?(?P<inner>[-+]?)"
    r"(?P<number>[0-9.,' ]*[0-9][.,]?)(?P<exponent>[eE][-+]?[0-9]{1,4})?"
    rf"(?: ?(?P<suffix>K|MN?|BN?|T|CR))?(?: ?(?P<after>{_CURRENCY}))?",
    re.IGNORECASE,
)
# Thousands are in groups of three by one sign, in India by two after the last three.
_NUMBER: Final[dict[_Sign, re.Pattern[str]]] = {
    ".": re.compile(
        r"(?:[1-9][0-9]{0,2}(?P<by>[,' ])[0-9]{3}(?:(?P=by)[0-9]{3})*|[1-9][0-9]?(?:,[0-9]{2})+,[0-9]{3}|[0-9]+)"
        r"(?:\.[0-9]*)?|\.[0-9]+"
    ),
    ",": re.compile(r"(?:[1-9][0-9]{0,2}(?P<by>[.' ])[0-9]{3}(?:(?P=by)[0-9]{3})*|[0-9]+)(?:,[0-9]+)?|,[0-9]+"),
}
_BARE: Final[dict[_Sign, re.Pattern[str]]] = {".": _PLAIN, ",": re.compile(r"[-+]?[0-9]+(?:,[0-9]+)?")}
_PLAINLY: Final[dict[_Sign, dict[int, int | None]]] = {
    ".": str.maketrans("", "", ",' "),
    ",": str.maketrans(",", ".", ".' "),
}
_POWERS: Final = {"": "", "K": "e3", "M": "e6", "MN": "e6", "CR": "e7", "B": "e9", "BN": "e9", "T": "e12"}
_SHORT_OR_GROUPED: Final = re.compile(r"(?:[-+]?(?:[1-9][0-9]{0,2}\.[0-9]{3}|[0-9]{1,3}))?")
_POINTS_AND_32NDS: Final = re.compile(r"[0-9]{1,3}'(?:[0-2][0-9]|3[01])[0257]")
_NOT_KNOWN: Final = -1.0  # a volume, as Interactive Brokers writes it
_DOTTED_DATE: Final = re.compile(r"[0-9]{1,2}\.[0-9]{1,2}\.[0-9]{4}\b.*")
_COMPACT_TIME: Final = re.compile(r"[0-9]{8} [0-9]{6}")
_CONTINENTAL: Final = frozenset(  # words that name columns where a comma stands before decimals
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
        ohlcv_TF: (T, 5); NaN where a cell says nothing, and where a column is not there.
        decimal_text: the sign before decimals, for people.
    """

    ohlcv_TF: NDArray[np.float64]
    decimal_text: str


def read_numbers(table: Table, fields: dict[str, int], reading: Reading) -> Numbers:
    """Read the columns at these places.

    Raises:
        Ambiguous: the cells do not tell decimals from thousands; names `decimal`.
        BadPayload: a cell is no number, or cells contradict each other; names the lines.
    """
    ohlcv_TF = np.full((len(table.cells), len(COLUMNS)), np.nan)
    columns = []
    for field, place in fields.items():
        cells, values = table.cells[place], ohlcv_TF[:, COLUMNS.index(field)]
        if cells.dtype.kind in "iuf":
            values[:] = cells.to_numpy(np.float64, na_value=np.nan)
        else:
            columns.append(_Column.of(table, field, cells, values))
    _refuse_32nds(table, columns)
    decimal, told_by = (reading.decimal, "") if reading.decimal else _decimal_of(table, columns, set(fields.values()))
    for column in columns:
        row = column.read(decimal, ohlcv_TF[:, COLUMNS.index(column.field)])
        if row is None:
            continue
        if told_by and _spelling(column.texts[row], "," if decimal == "." else "."):
            both = f"{_shown(table, columns, told_by)}, {_shown(table, columns, column.texts[row])}"
            raise BadPayload(table.source, "one sign before decimals", both)
        raise table.fault(f"a number for {column.field}", row, table.cells[fields[column.field]].iloc[row])
    ohlcv_TF[ohlcv_TF[:, -1] == _NOT_KNOWN, -1] = np.nan
    return Numbers(ohlcv_TF, decimal)


@dataclass(frozen=True, slots=True)
class _Column:
    """The texts of a column, (T,): with plain spaces, empty where nothing is said; and which are plain numbers.

    `plain` has the values of a column whose cells all are.
    """

    field: str
    texts: NDArray[np.object_]
    is_plain: NDArray[np.bool_]
    plain: NDArray[np.float64] | None = None

    @classmethod
    def of(cls, table: Table, field: str, cells: pd.Series, values: NDArray[np.float64]) -> _Column:
        """Take the texts of a column; cells that are numbers already go to `values`."""
        plain = _plain_values(cells)
        if plain is not None:
            return cls(field, cells.to_numpy(object), np.ones(len(cells), bool), plain)
        mixed = cells.to_numpy(object, copy=True)
        is_missing = np.asarray(pd.isna(cells), bool)
        all_text = isinstance(cells.dtype, pd.StringDtype)
        is_text = ~is_missing if all_text else np.fromiter((isinstance(cell, str) for cell in mixed), bool, len(mixed))
        for row in np.flatnonzero(~is_text & ~is_missing).tolist():
            values[row] = _number_of(mixed[row])
            if np.isnan(values[row]):
                is_date = isinstance(mixed[row], dt.date | np.datetime64)  # which may be one that cannot be written
                raise table.fault(f"a number for {field}", row, "a date" if is_date else mixed[row])
        mixed[~is_text] = ""
        is_plain = np.fromiter(map(bool, map(_PLAIN.fullmatch, mixed)), bool, len(mixed))
        mixed[~is_plain] = [_text(cell) for cell in mixed[~is_plain]]
        return cls(field, mixed, is_plain)

    def read(self, decimal: _Sign, values: NDArray[np.float64]) -> int | None:
        """Read the texts as numbers, into `values`; give the first row that is none."""
        if self.plain is not None and decimal == ".":
            values[:] = self.plain
            return None
        is_plain = self.is_plain if decimal == "." else np.zeros(len(self.texts), bool)
        values[is_plain] = self.texts[is_plain].astype(np.float64)
        rows = np.flatnonzero(~is_plain)
        rows = rows[self.texts[rows] != ""]
        with_suffix = self.field == "volume"
        values[rows] = [float(_spelling(cell, decimal, with_suffix=with_suffix) or "nan") for cell in self.texts[rows]]
        rows = np.flatnonzero(is_plain) if is_plain.all() else np.flatnonzero(self.texts != "")
        is_bad = ~np.isfinite(values[rows])
        return int(rows[np.argmax(is_bad)]) if is_bad.any() else None


def _plain_values(cells: pd.Series) -> NDArray[np.float64] | None:
    """Read a column at once, to the last bit, if all its cells are plain numbers."""
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


def _number_of(cell: object) -> float:
    """Give a cell that is no text as a number; NaN where it is none."""
    if isinstance(cell, bool | np.bool_) or not isinstance(cell, int | float | np.integer | np.floating | Decimal):
        return np.nan
    try:
        return float(cell)
    except (ValueError, OverflowError, TypeError):
        return np.nan


def _text(cell: str) -> str:
    """Write a cell with plain spaces and a plain minus, and the words for nothing as nothing."""
    text = " ".join(cell.replace("−", "-").replace("’", "'").split())
    return "" if text.casefold() in _NOTHING else text


def _spelling(cell: str, decimal: _Sign, *, with_suffix: bool = True) -> str | None:
    """Write a number as Python does: -1234.5e6; None where it is none with this sign before decimals."""
    if _BARE[decimal].fullmatch(cell):
        return cell.replace(",", ".")
    spelled = _SPELLED.fullmatch(cell)
    number = spelled and _NUMBER[decimal].fullmatch(spelled["number"])
    if not (spelled and number):
        return None
    exponent, suffix = spelled["exponent"] or "", spelled["suffix"] or ""
    has_two = (spelled["sign"] and spelled["inner"]) or (exponent and suffix) or (number["by"] and exponent)
    if has_two or (suffix and not with_suffix):
        return None
    digits = number[0].translate(_PLAINLY[decimal])
    return f"{spelled['sign']}{spelled['inner']}{digits}{exponent}{_POWERS[suffix.upper()]}"


def _decimal_of(table: Table, columns: list[_Column], places: set[int]) -> tuple[_Sign, str]:
    """Decide which sign stands before decimals; and the cell that tells it, if one does."""
    is_continental = _is_continental(table, places)
    is_plain = all(column.is_plain.all() or (column.texts[~column.is_plain] == "").all() for column in columns)
    if is_plain and not is_continental:
        _refuse_thousands(table, columns)
        return ".", ""
    either: dict[str, str] = {}
    for cell in (cell for column in columns for cell in column.texts if "." in cell or "," in cell):
        fits = [sign for sign in _NUMBER if _spelling(cell, sign)]
        if len(fits) == 1:
            return fits[0], cell
        if fits:
            either.setdefault("," if "," in cell else ".", cell)
    cell = either.get(",") or (either.get(".") if is_continental else None)
    if cell:
        found = f"{_shown(table, columns, cell)}, which may have decimals or thousands"
        raise Ambiguous(table.source, "decimal", "',' or '.'", found)
    return ".", ""


def _refuse_thousands(table: Table, columns: list[_Column]) -> None:
    """Refuse prices of which some have a point before three digits, and the others are whole and below 1,000.

    So prices that cross 1,000 look where a point is between thousands.
    """
    prices = [column.texts for column in columns if column.field in FIELDS]
    if not all(_SHORT_OR_GROUPED.fullmatch(cell) for texts in prices for cell in texts):
        return
    grouped = next((cell for texts in prices for cell in texts if "." in cell), "")
    whole = next((cell for texts in prices for cell in texts if cell and "." not in cell), "")
    if grouped and whole:
        found = f"{_shown(table, columns, grouped)} beside {_shown(table, columns, whole)}: a point before thousands?"
        raise Ambiguous(table.source, "decimal", "',' or '.'", found)


def _refuse_32nds(table: Table, columns: list[_Column]) -> None:
    """Refuse prices such as 110'165, which are points and 32nds, unless something shows thousands."""
    if all(column.is_plain.all() for column in columns):
        return
    prices = [cell for column in columns if column.field in FIELDS for cell in column.texts]
    marked = [cell for cell in prices if "'" in cell]
    if not marked or not all(map(_POINTS_AND_32NDS.fullmatch, marked)):
        return
    if not any("." in cell or "," in cell for cell in prices):
        found = f"{_shown(table, columns, marked[0])}, which may be 32nds of a point"
        raise BadPayload(table.source, "prices in decimals", found)


def _shown(table: Table, columns: list[_Column], cell: str) -> str:
    """Show a cell and the line of its first appearance."""
    row = min(int(np.argmax(column.texts == cell)) for column in columns if (column.texts == cell).any())
    return f"{cell} in {table.place} {table.cells.index[row]}"


def _is_continental(table: Table, places: set[int]) -> bool:
    """Whether something besides its numbers says that a table may have commas before decimals."""
    words = {word for name in table.names for word in _plain_letters(name).split()}
    if words & _CONTINENTAL:
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
    return "separated by ;" in table.form and not is_histdata


def _plain_letters(name: str) -> str:
    """Write a name in small letters without accents."""
    return "".join(one for one in unicodedata.normalize("NFKD", name.lower()) if not unicodedata.combining(one))
