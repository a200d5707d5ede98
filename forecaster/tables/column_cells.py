"""What the cells of a column are: dates, times of day, or others; and whether columns hold the same cells."""

from __future__ import annotations

import datetime as dt
import re
from collections import Counter
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import pandas as pd

from forecaster.errors import Ambiguous

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from forecaster.tables import Table

CellKind: TypeAlias = Literal["moment", "date", "time_of_day", "other"]
"""`moment`: a date with a time of day, or an epoch."""


_BARE_KINDS: Final[tuple[CellKind, ...]] = ("date", "time_of_day")
_SAMPLE_SIZE: Final = 600
_YEARS: Final = range(1900, 2101)
_HOURS, _MINUTES = 24, 60
_HOUR_DIGITS, _MINUTE_DIGITS = 2, 4
_MAJORITY: Final = 0.5
_DAY: Final = (
    r"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/. ]\d{1,2}[-/. ]\d{2,4}"
    r"|(?:[^\W\d]{2,9}\.?,? )?(?:[^\W\d]{3,9}\.? \d{1,2},? \d{4}|\d{1,2}\.?[- ]?[^\W\d]{3,9}\.?[- ,]{0,2}\d{2,4})"
)
_DATE: Final = re.compile(rf"(?:{_DAY}|(\d{{8}}))(?:[T ]00:00(?::00(?:\.0+)?)?)?")
_MOMENT: Final = re.compile(rf"(?:{_DAY}|\d{{8}})[T ,-]\s*\S.*|\d{{9,19}}(?:\.\d+)?")
_TIME_OF_DAY: Final = re.compile(r"(?:0 days )?\d{1,2}(?::\d{2}){1,2}(?:\.\d+)?(?: ?[AaPp]\.?[Mm]\.?)?|(\d{1,6})")


def cell_kind(cells: pd.Series) -> CellKind:
    """Return the kind of most cells."""
    texts = sample(cells)
    counts = Counter(map(_kind_of_text, texts))
    enough = _MAJORITY * len(texts)
    if counts["moment"] and counts["moment"] + counts["date"] > enough:
        return "moment"
    return next((kind for kind in _BARE_KINDS if counts[kind] > enough), "other")


def are_written_times(cells: pd.Series) -> bool:
    """Distinguish times of day from prices: they have colons, or 4 or 6 digits of which some begin with 0."""
    texts = sample(cells)
    if not texts or any(_kind_of_text(text) != "time_of_day" for text in texts):
        return False
    widths = {len(text) for text in texts}
    return all(":" in text for text in texts) or (widths in ({4}, {6}) and any(text[0] == "0" for text in texts))


def sample(cells: pd.Series) -> list[str]:
    """Return up to about 600 cells, evenly spread, as text."""
    present = cells.dropna()
    part = present.iloc[:: max(1, len(present) // _SAMPLE_SIZE)]
    if pd.api.types.is_datetime64_any_dtype(part) or pd.api.types.is_timedelta64_dtype(part):
        try:
            return part.astype(str).tolist()
        except (NotImplementedError, ValueError):  # a year outside the calendar
            return part.astype("int64").astype(str).tolist()
    return [f"{cell:.0f}" if isinstance(cell, float) and cell.is_integer() else str(cell).strip() for cell in part]


def factorize(cells: pd.Series) -> tuple[NDArray[np.intp], pd.Index]:
    """Number the distinct cells, as `pandas.factorize`; an empty cell is -1."""
    try:
        return pd.factorize(cells)
    except (TypeError, ValueError):  # json may hold lists
        return pd.factorize(pd.Series(list(map(str, cells)), dtype=object))


def count_distinct(cells: pd.Series) -> int:
    """Count the distinct cells that are not empty."""
    return len(factorize(cells)[1])


def has_letters(cells: pd.Series) -> bool:
    """Return whether a cell contains a letter."""
    return any(any(map(str.isalpha, text)) for text in sample(cells))


def are_identical(table: Table, places: list[int]) -> bool:
    """Return whether columns hold the same cells."""
    return all(table.cells[places[0]].equals(table.cells[place]) for place in places[1:])


def check_identical(table: Table, field: str, places: list[int]) -> None:
    """Raise Ambiguous unless all columns of a field hold the same cells."""
    if not are_identical(table, places):
        found = f"different cells in columns {[table.names[place] for place in places]}, each of which is {field}"
        raise Ambiguous(table.source, "columns", f"{field}={table.names[places[0]]}", found)


def _kind_of_text(text: str) -> CellKind:
    if match := _DATE.fullmatch(text):
        return "date" if not match[1] or _is_date(match[1]) else "other"
    if _MOMENT.fullmatch(text):
        return "moment"
    match = _TIME_OF_DAY.fullmatch(text)
    return "time_of_day" if match and (not match[1] or _is_digital_time(match[1])) else "other"


def _is_date(digits: str) -> bool:
    try:
        return dt.date.fromisoformat(digits).year in _YEARS
    except ValueError:
        return False


def _is_digital_time(digits: str) -> bool:
    """Return whether digits are an hour, hhmm or hhmmss, possibly without leading zeros."""
    if len(digits) <= _HOUR_DIGITS:
        return int(digits) <= _HOURS
    padded = digits.zfill(4 if len(digits) <= _MINUTE_DIGITS else 6)
    return int(padded[:2]) <= _HOURS and all(int(part) < _MINUTES for part in (padded[2:4], padded[4:] or "0"))
