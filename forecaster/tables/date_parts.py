"""Year, month, day, time of day, offset and zone of each time of a table, and epochs.

Shapes: T rows of a table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from forecaster.errors import Ambiguous, BadPayload
from forecaster.tables.date_formats import MONTHS, expected_instead_of, match_format
from forecaster.timeframe import MINUTE_MS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from forecaster.tables import ParseOptions, Table

# Epochs from 1973 on. Their size shows the unit: each spans a factor of 1,000.
_MIN_EPOCH: Final = 1e8
_MAX_EPOCH_MS: Final = 7_258_118_400_000  # the year 2200
_UNITS_PER_MS: Final = ((1e11, 1e-3), (1e14, 1.0), (1e17, 1e3), (1e20, 1e6))
YEARS: Final = (1600, 2199)  # not the Persian year 1403 or the Buddhist 2567
EXPECTED_YEAR: Final = f"a year from {YEARS[0]} to {YEARS[1]}"
_PARTS: Final = ("year", "month", "day", "hour", "minute", "second", "ms", "first", "last")
_NUMBERS: Final = frozenset((*_PARTS, "hours", "minutes"))
_MAX_OFFSET_MS: Final = 18 * 60 * MINUTE_MS
_INVALID_HOUR: Final = 99
DAY_HOURS, _HALF_DAY_HOURS, _MAX_OFFSET_HOURS, _SIXTY = 24, 12, 14, 60
_MONTHS_A_YEAR: Final = 12


class DateParts:
    """The parts of T times as numbers; a row that no method has read is not a time."""

    def __init__(self, count: int) -> None:
        self._numbers = {name: np.zeros(count, np.int64) for name in _PARTS}
        self._is_dotted = np.zeros(count, bool)
        self._is_named = np.zeros(count, bool)
        self._epoch_ms = np.full(count, np.nan)
        self.offset_ms = np.full(count, np.nan)
        self._zones: dict[str, int] = {}
        self.abbreviation = ""

    @property
    def is_epoch(self) -> NDArray[np.bool_]:
        """(T,) whether the time is an epoch."""
        finite: NDArray[np.bool_] = np.isfinite(self._epoch_ms)
        return finite

    def read_epochs(self, texts: NDArray[np.object_], rows: NDArray[np.intp]) -> None:
        """Read epochs, each in the unit that its own size shows: some exports change the unit between rows."""
        numbers = texts[rows].astype(np.float64)
        ms = np.full(len(rows), np.nan)
        for below, per_ms in reversed(_UNITS_PER_MS):
            ms = np.where(numbers < below, numbers / per_ms, ms)
        ms[(numbers < _MIN_EPOCH) | (ms >= _MAX_EPOCH_MS)] = np.nan
        self._epoch_ms[rows] = np.round(ms)
        self.offset_ms[rows] = 0

    def read_shape(self, texts: NDArray[np.object_], shape: str, rows: NDArray[np.intp]) -> None:
        """Read the texts of one shape; a shape that is not a time is left out."""
        match = match_format(shape)
        if match is None:
            return
        digits = texts[rows].astype(f"U{len(shape)}").view(np.uint32).reshape(len(rows), -1).astype(np.int64) - ord("0")
        given = {name: value for name, value in match.groupdict().items() if value}
        numbers = {name: _join_digits(digits[:, slice(*match.span(name))]) for name in given.keys() & _NUMBERS}
        if "name" in given:
            numbers["month"] = np.array(1 + MONTHS.index(given["name"][:3].lower()))
        if "fraction" in given:
            thousandths = np.pad(digits[:, slice(*match.span("fraction"))], ((0, 0), (0, 2)))[:, :3]
            numbers["ms"] = _join_digits(thousandths)
        if "half" in given:
            numbers["hour"] = _to_24_hours(numbers["hour"], is_afternoon=given["half"] in "pP")
        for name in numbers.keys() & self._numbers.keys():
            self._numbers[name][rows] = numbers[name]
        if "utc" in given or "ahead" in given:
            hours, minutes = (numbers.get(part, np.zeros(len(rows), np.int64)) for part in ("hours", "minutes"))
            is_invalid = (minutes >= _SIXTY) | (hours > _MAX_OFFSET_HOURS)
            self._numbers["minute"][rows[is_invalid]] = _SIXTY  # makes the time invalid
            minutes = _SIXTY * hours + minutes
            self.offset_ms[rows] = (-1 if given.get("ahead") == "-" else 1) * minutes * MINUTE_MS
        elif "zone" in given:
            self._zones[given["zone"]] = self._zones.get(given["zone"], 0) + len(rows)
        elif "abbreviation" in given or "remark" in given:
            self.abbreviation = self.abbreviation or str(texts[rows[0]])
        self._is_dotted[rows] = "first" in given and given["by"] == "."
        self._is_named[rows] = "name" in given

    def zone(self, table: Table) -> str:
        """Return the IANA name after all times, or an empty text; raise BadPayload for several, or a time with none."""
        if len(self._zones) > 1 or 0 < sum(self._zones.values()) < np.isnan(self.offset_ms).sum():
            raise BadPayload(table.source, "one zone for all times", ", ".join(self._zones))
        return next(iter(self._zones), "")

    def resolve_day_month(self, table: Table, texts: NDArray[np.object_], options: ParseOptions) -> bool:
        """Resolve day and month where the year comes last; return whether the month comes first.

        Raises:
            Ambiguous: if the table fits both orders; names `dayfirst`.
            BadPayload: if its dates contradict each other or `dayfirst`.
        """
        first, last = self._numbers["first"], self._numbers["last"]
        has_year_last = first > 0
        self._check_spreadsheet_dates(table, texts, has_year_last)
        month_first = False
        for is_dotted in (True, False):
            rows = np.flatnonzero(has_year_last & (last > 0) & (self._is_dotted == is_dotted))
            if len(rows):
                month_first = self._is_month_first(table, texts, rows, options)
                day, month = (last, first) if month_first else (first, last)
                self._numbers["day"][rows], self._numbers["month"][rows] = day[rows], month[rows]
        return month_first

    def _check_spreadsheet_dates(
        self, table: Table, texts: NDArray[np.object_], has_year_last: NDArray[np.bool_]
    ) -> None:
        """Raise BadPayload for mixed formats: a spreadsheet may have swapped day and month of some dates."""
        has_year_first = ~has_year_last & (self._numbers["year"] > 0) & ~self._is_named
        if has_year_last.any() and has_year_first.any():
            rows = sorted((int(np.argmax(has_year_last)), int(np.argmax(has_year_first))))
            both = " and ".join(f"{texts[row]} in {table.row_unit} {table.cells.index[row]}" for row in rows)
            expected = "dates in one format; a spreadsheet may have swapped day and month in some"
            raise BadPayload(table.source, expected, both)

    def _is_month_first(
        self, table: Table, texts: NDArray[np.object_], rows: NDArray[np.intp], options: ParseOptions
    ) -> bool:
        """Decide the order of rows: by numbers above 12, by `dayfirst`, or day first if dots separate the parts."""
        first, last = self._numbers["first"][rows], self._numbers["last"][rows]
        day_first, month_first = (rows[part > _MONTHS_A_YEAR] for part in (first, last))
        if len(day_first) and len(month_first):
            both = ", ".join(
                f"{texts[row]} in {table.row_unit} {table.cells.index[row]}"
                for row in sorted((int(day_first[0]), int(month_first[0])))
            )
            raise BadPayload(table.source, "days and months in one order", both)
        if options.dayfirst is not None:
            contrary = month_first if options.dayfirst else day_first
            if len(contrary):
                order = "a day before its month" if options.dayfirst else "a month before its day"
                raise table.cell_error(order, int(contrary[0]), texts[contrary[0]])
            return not options.dayfirst
        if len(month_first):
            return True
        if len(day_first) or self._is_dotted[rows[0]] or (first == last).all():
            return False
        row = int(rows[np.argmax(first != last)])
        found = f"{texts[row]} in {table.row_unit} {table.cells.index[row]}, which does not tell the day from the month"
        raise Ambiguous(table.source, "dayfirst", "or --no-dayfirst", found)

    def wall_ms(self) -> NDArray[np.int64]:
        """Return the local times in ms; arbitrary values for rows that are not dates."""
        number = self._numbers
        days = _days_since_1970(number["year"], number["month"]) + number["day"] - 1
        minutes = (days * DAY_HOURS + number["hour"]) * _SIXTY + number["minute"]
        ms = (minutes * _SIXTY + number["second"]) * 1000 + number["ms"]
        return np.where(self.is_epoch, np.nan_to_num(self._epoch_ms), ms).astype(np.int64)

    def is_date(self, years: tuple[int, int] = YEARS) -> NDArray[np.bool_]:
        """Return which rows are an existing date and time of day."""
        number = self._numbers
        year, month, day = (number[name] for name in ("year", "month", "day"))
        length = _days_since_1970(year, month + 1) - _days_since_1970(year, month)
        is_valid: NDArray[np.bool_] = (years[0] <= year) & (year <= years[1]) & (month >= 1) & (month <= _MONTHS_A_YEAR)
        is_valid &= (day >= 1) & (day <= length) & (number["hour"] < DAY_HOURS)
        is_valid &= (number["minute"] < _SIXTY) & (number["second"] < _SIXTY)
        is_valid &= ~(np.abs(self.offset_ms) > _MAX_OFFSET_MS)
        return is_valid

    def checked_wall_ms(self, table: Table, texts: NDArray[np.object_]) -> NDArray[np.int64]:
        """Return the local times in ms; raise BadPayload for a row that is not a time."""
        is_bad = ~(self.is_epoch | self.is_date())
        if is_bad.any():
            row = int(np.argmax(is_bad))
            expected = expected_instead_of(texts[row])
            if self._numbers["year"][row] and not YEARS[0] <= self._numbers["year"][row] <= YEARS[1]:
                expected = EXPECTED_YEAR
            elif self._numbers["hour"][row] == DAY_HOURS:
                expected = "hours from 00 to 23"
            raise table.cell_error(expected, row, texts[row] or None)
        return self.wall_ms()


def _join_digits(digits: NDArray[np.int64]) -> NDArray[np.int64]:
    """Join digits to numbers, (rows, digits) to (rows,)."""
    powers: NDArray[np.int64] = 10 ** np.arange(digits.shape[1] - 1, -1, -1)
    return digits @ powers


def _to_24_hours(hour: NDArray[np.int64], *, is_afternoon: bool) -> NDArray[np.int64]:
    """Convert hours with am or pm; an hour above 12 becomes an invalid one."""
    is_valid = (hour >= (1 if is_afternoon else 0)) & (hour <= _HALF_DAY_HOURS)
    return np.where(is_valid, hour % _HALF_DAY_HOURS + (_HALF_DAY_HOURS if is_afternoon else 0), _INVALID_HOUR)


def _days_since_1970(year: NDArray[np.int64], month: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the days from 1970 to the first of each month."""
    months = (year - 1970) * _MONTHS_A_YEAR + month - 1
    days: NDArray[np.int64] = months.astype("datetime64[M]").astype("datetime64[D]").astype(np.int64)
    return days
