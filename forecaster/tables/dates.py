"""Read dates and times of day in many formats, and epochs in s, ms, us or ns. `times` assigns a time zone.

Texts are grouped by shape, the text with 0 for each digit. A table has few shapes; the cells of each are read at once.

Shapes: T rows of a table.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

from forecaster.tables.date_formats import DIGITS_TO_ZERO, EXPECTED, format_pattern
from forecaster.tables.date_parts import DAY_HOURS, EXPECTED_YEAR, YEARS, DateParts
from forecaster.timeframe import DAY_MS
from forecaster.zones import Labels

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from forecaster.tables import ParseOptions, Table


_DIGITS: Final = re.compile("0+")
_EPOCH: Final = re.compile(r"0{9,19}(?:\.0+)?|0\.0+(?:e\+?|E)00?")  # not 1.70407E+12, which a spreadsheet has rounded
_DATE_DIGITS: Final = (8, 10, 12, 14, 17)
_MIN_DATES: Final = 3
_DIGIT_YEARS: Final = (1900, 2100)
_EPOCH_DIGITS: Final = 10
_MIDNIGHT: Final = re.compile(r"[T ]00:00(?::00(?:\.0+)?)?$")
_HOUR_DIGITS, _MINUTE_DIGITS, _SECOND_DIGITS = 2, 4, 6
_HOUR_NAME: Final = re.compile(r"hour|hr|stunde|heure|hora|godz", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Dates:
    """Times as written, (T,) each.

    Args:
        wall_ms: local date and time, as if they were UTC; the instant of an epoch.
        offset_ms: offset from UTC; NaN if none is written, 0 for an epoch.
        is_epoch: whether the time is an epoch, without a written date.
        zone: the IANA name after each time; empty if there is none.
        abbreviation: the first text with an ambiguous zone abbreviation, such as EST; empty if there is none.
        format: the format for messages.
    """

    wall_ms: NDArray[np.int64]
    offset_ms: NDArray[np.float64]
    is_epoch: NDArray[np.bool_]
    zone: str
    abbreviation: str
    format: str

    def __getitem__(self, rows: NDArray[np.intp]) -> Dates:
        """Select times by position."""
        return replace(self, wall_ms=self.wall_ms[rows], offset_ms=self.offset_ms[rows], is_epoch=self.is_epoch[rows])

    def with_epochs_as_local(self) -> Dates:
        """Interpret epochs as local times without a zone, as some programs write them."""
        offset_ms = np.where(self.is_epoch, np.nan, self.offset_ms)
        return replace(self, offset_ms=offset_ms, is_epoch=np.zeros(len(offset_ms), bool))


def read_dates(table: Table, places: tuple[int, ...], options: ParseOptions) -> Dates:
    """Read the times in one column; or in two, the dates and the times of day.

    Raises:
        Ambiguous: if day and month may be swapped; names `dayfirst`.
        BadPayload: for a cell that is not a time, or cells that contradict each other; names the lines.
    """
    if len(places) == 1 and pd.api.types.is_datetime64_any_dtype(table.cells[places[0]].dtype):
        return _from_timestamps(table, table.cells[places[0]])
    texts = np.array(_join_texts(table, places), object)
    shapes: dict[str, list[int]] = {}
    for row, text in enumerate(texts):
        shapes.setdefault(text.translate(DIGITS_TO_ZERO), []).append(row)
    are_dates = _are_dates(texts, shapes)
    parts = DateParts(len(texts))
    for shape, rows in shapes.items():
        if _EPOCH.fullmatch(shape) and not (are_dates and _DIGITS.fullmatch(shape)):
            parts.read_epochs(texts, np.array(rows))
        elif not _DIGITS.fullmatch(shape) or are_dates:
            parts.read_shape(texts, shape, np.array(rows))
    month_first = parts.resolve_day_month(table, texts, options)
    wall_ms = parts.checked_wall_ms(table, texts)
    commonest = max(shapes, key=lambda shape: len(shapes[shape]))
    is_epoch = bool(parts.is_epoch[shapes[commonest][0]])
    pattern = "epoch" if is_epoch else format_pattern(commonest, month_first=month_first)
    return Dates(wall_ms, parts.offset_ms, parts.is_epoch, parts.zone(table), parts.abbreviation, pattern)


def _from_timestamps(table: Table, cells: pd.Series) -> Dates:
    """Read a column of timestamps."""
    missing = np.asarray(cells.isna())
    if missing.any():
        raise table.cell_error(EXPECTED, int(np.argmax(missing)), "nothing")
    times = pd.DatetimeIndex(cells)
    labels = Labels.from_index(times)
    first, after = (int(np.datetime64(str(year), "ms").astype(np.int64)) for year in (YEARS[0], YEARS[1] + 1))
    is_outside = (labels.written < first) | (labels.written >= after)
    if is_outside.any():
        row = int(np.argmax(is_outside))
        raise table.cell_error(EXPECTED_YEAR, row, f"{labels.written[row]} ms since 1970")
    offset_ms = np.full(len(times), np.nan) if times.tz is None else (labels.written - labels.instant).astype(float)
    pattern = "YYYY-MM-DD" if (labels.written % DAY_MS == 0).all() else "YYYY-MM-DD HH:MM:SS"
    return Dates(labels.written, offset_ms, np.zeros(len(times), bool), "", "", pattern)


def _join_texts(table: Table, places: tuple[int, ...]) -> list[str]:
    """Return each time as a text, a date joined with its time of day."""
    texts = [_to_text(cell) for cell in table.cells[places[0]].to_numpy(object)]
    if len(places) == 1:
        return texts
    days = [_MIDNIGHT.sub("", text) for text in texts]
    clocks = _times_of_day(table, places[1], len(set(days)))
    return [f"{day} {clock or '?'}" for day, clock in zip(days, clocks, strict=True)]


def _to_text(cell: object) -> str:
    """Return a cell as text with single spaces; whole numbers without decimals."""
    if not isinstance(cell, str) and isinstance(cell, float | np.floating):
        return "" if np.isnan(cell) else str(int(cell)) if cell.is_integer() else repr(float(cell))
    text = "" if cell is None or cell is pd.NA or cell is pd.NaT else " ".join(str(cell).split())
    return text[:-2] if text.endswith(".0") and text[:-2].isdigit() else text


def _times_of_day(table: Table, place: int, days: int) -> list[str]:
    """Return each time of day with colons, also hours, and 93000 and 930 without leading zeros."""
    cells = table.cells[place].to_numpy(object)
    texts = [_to_text(cell).removeprefix("0 days ") for cell in cells]
    widths = set(map(len, texts))
    width = max(widths, default=0)
    if not all(text.isascii() and text.isdigit() for text in texts) or width > _SECOND_DIGITS:
        return texts
    are_hours = width <= _HOUR_DIGITS
    has_zeros = len(widths) == 1 and not width % 2 and all(isinstance(cell, str) for cell in cells)
    is_clear = has_zeros or days > 1 or (are_hours and _HOUR_NAME.search(table.names[place]))
    # Without leading zeros, 0, 1, 2 and 0, 100, 200 may be hours or minutes of the day.
    if not is_clear and width <= _MINUTE_DIGITS and (are_hours or all(text[-2:] in ("0", "00") for text in texts)):
        raise table.cell_error("times of day with four or six digits, or a column Hour", 0, texts[0])
    if are_hours:
        late = next((row for row, text in enumerate(texts) if int(text) >= DAY_HOURS), None)
        if late is not None:
            raise table.cell_error("hours from 0 to 23", late, texts[late])
        return [f"{text:0>2}:00" for text in texts]
    width = _MINUTE_DIGITS if width <= _MINUTE_DIGITS else _SECOND_DIGITS
    padded = [text.zfill(width) for text in texts]
    return [":".join(text[at : at + 2] for at in range(0, width, 2)) for text in padded]


def _are_dates(texts: NDArray[np.object_], shapes: dict[str, list[int]]) -> bool:
    """Return whether texts of digits are dates, such as 20240102 or 202401021730.

    Most must be dates; in ten digits, several different ones, since about 1 in 200 random epochs looks like a date.
    """
    digits = {shape: np.array(rows) for shape, rows in shapes.items() if _DIGITS.fullmatch(shape)}
    dates = 0
    for shape, rows in digits.items():
        if len(shape) in _DATE_DIGITS:
            parts = DateParts(len(texts))
            parts.read_shape(texts, shape, rows)
            is_date = parts.is_date(_DIGIT_YEARS)
            is_enough = len(shape) != _EPOCH_DIGITS or len(set(texts[is_date])) >= _MIN_DATES
            dates += int(is_date.sum()) if is_enough else 0
    return 2 * dates > sum(map(len, digits.values()))
