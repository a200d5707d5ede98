"""Texts as dates and times of day, in the many ways that people write them; and epochs, in s, ms, us or ns.

A text is read by its shape, which is the text with 0 for each digit: a table has few shapes, and its cells of one shape
are read at once. Which clock a time is of is left to `times`.

Shapes: T rows of a table.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

from forecaster.calendars import Labels
from forecaster.errors import Ambiguous, BadPayload
from forecaster.timeframe import DAY_MS, MINUTE_MS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from forecaster.tables import Reading, Table

EXPECTED: Final = "an ISO date or an epoch in s, ms, us or ns"

# Epochs from 1973 on, told apart by their size; each unit spans a factor of 1,000.
_SMALLEST_EPOCH: Final = 1e8
_LATEST_MS: Final = 7_258_118_400_000  # the year 2200: what seems later is no epoch
_PER_MS: Final = ((1e11, 1e-3), (1e14, 1.0), (1e17, 1e3), (1e20, 1e6))

_TO_ZERO: Final = str.maketrans("123456789\u2212\u2013", "000000000--")
_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH: Final = (
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?"
    r"|nov(?:ember)?|dec(?:ember)?)\.?"
)
_WEEKDAY: Final = r"(?:(?:mon|tue|wed|thu|fri|sat|sun)[a-z]*,? )?"
_TIME: Final = (
    r"(?:(?:T|,? |(?<=00000000)-(?=00:))(?P<hour>00?)(?::(?P<minute>00)(?::(?P<second>00)(?:[.,](?P<fraction>0+))?)?)?"
    r"(?:[ -]?(?P<half>[ap])\.?m\.?)?)?"
)
_RUN_ON_TIME: Final = r"(?:[T ]?(?P<hour>00)(?:(?P<minute>00)(?:(?P<second>00)(?P<fraction>000)?)?)?)?"
_ZONE: Final = (
    r" ?\(?(?P<utc>Z|UTC|GMT)?"
    r"(?: ?(?P<ahead>[+-]) ?(?P<hours>00?)(?:(?::|(?<=[+-]00)|(?<=[+-] 00))(?P<minutes>00))?)?\)?"
    r"(?: ?\[?(?P<zone>[a-z_]+(?:/[a-z_]+)+)\]?| (?P<letters>[a-z]{2,5}))?"
    r"(?: ?\((?:(?:mon|tue|wed|thu|fri|sat|sun)[a-z]*|[日月火水木金土일월화수목금토]|(?P<remark>.*))\))?"
)
_COMPACT: Final = r"(?P<year>0000)(?P<month>00)(?P<day>00)"
_FORMS: Final = tuple(
    re.compile(_WEEKDAY + date + time + _ZONE, re.IGNORECASE | re.ASCII)
    for date, time in (
        (r"(?P<year>0000)(?P<by>[-/.])(?P<month>00?)(?P=by)(?P<day>00?)", _TIME),
        (_COMPACT, _RUN_ON_TIME),
        (_COMPACT, _TIME),
        (r"(?P<year>0000)(?:\. |[年년] ?)(?P<month>00?)(?:\. |[月월] ?)(?P<day>00?)[.日일]?", _TIME),
        (r"(?P<first>00?)(?P<by>[-/.])(?P<last>00?)(?P=by)(?P<year>0000)", _TIME),
        (rf"(?P<day>00?)[-/. ]*(?P<name>{_MONTH})[-/, ]*(?P<year>0000)", _TIME),
        (rf"(?P<name>{_MONTH}) ?(?P<day>00?),? (?P<year>0000)", _TIME),
        (rf"(?P<year>0000)[-/ ](?P<name>{_MONTH})[-/ ](?P<day>00?)", _TIME),
    )
)
_DIGITS: Final = re.compile("0+")
_EPOCH: Final = re.compile(r"0{9,19}(?:\.0+)?|0\.0+(?:e\+?|E)00?")  # not 1.70407E+12, which a spreadsheet has cut short
_SHORT_YEAR: Final = re.compile(
    rf"(?:00?([-/.])00?\1|00?[- ]{_MONTH}[-, ]+|{_MONTH} 00?,? )'?00(?:[T ,].*)?", re.IGNORECASE
)
_DAY_NUMBER: Final = re.compile(r"[2-6]\d{4}(?:\.\d+)?")
_CUT_SHORT: Final = re.compile(r"\d[.,]\d{1,8}[Ee]\+?(?:09|1[0-9])")
_DATE_DIGITS: Final = (8, 10, 12, 14, 17)
_LEAST_DATES: Final = 3
_YEARS: Final = (1600, 2199)  # those of other eras, such as 1403 or 2567, are none of ours
_A_YEAR: Final = f"a year from {_YEARS[0]} to {_YEARS[1]}"
_DIGIT_YEARS: Final = (1900, 2100)
_PARTS: Final = ("year", "month", "day", "hour", "minute", "second", "ms", "first", "last")
_NUMBERS: Final = frozenset((*_PARTS, "hours", "minutes"))
_MOST_AHEAD_MS: Final = 18 * 60 * MINUTE_MS
_NO_HOUR: Final = 99
_EPOCH_DIGITS: Final = 10
_LETTERS: Final = {
    "year": "Y",
    "month": "M",
    "day": "D",
    "hour": "H",
    "minute": "M",
    "second": "S",
    "fraction": "f",
    "name": "M",
}
_MIDNIGHT: Final = re.compile(r"[T ]00:00(?::00(?:\.0+)?)?$")
_HOUR_DIGITS, _MINUTE_DIGITS, _SECOND_DIGITS = 2, 4, 6
_HOUR_NAME: Final = re.compile(r"hour|hr|stunde|heure|hora|godz", re.IGNORECASE)
_DAY_HOURS, _HALF_HOURS, _MOST_HOURS, _SIXTY = 24, 12, 14, 60
_MONTHS_A_YEAR: Final = 12


@dataclass(frozen=True, slots=True)
class Dates:
    """Times as they are written, (T,) each.

    Args:
        wall_ms: the date and the time of day, as if they were UTC; the instant of an epoch.
        offset_ms: how far they are ahead of UTC; NaN where nothing says so, 0 for an epoch.
        is_epoch: whether it is an epoch, of which no date is written.
        zone: the IANA name that stands after each time; empty if none does.
        letters: the first text that ends in the letters of a zone, such as EST, which name several; empty if none does.
        form: how they are written, for people.
    """

    wall_ms: NDArray[np.int64]
    offset_ms: NDArray[np.float64]
    is_epoch: NDArray[np.bool_]
    zone: str
    letters: str
    form: str

    def __getitem__(self, rows: NDArray[np.intp]) -> Dates:
        """Take some of the times, by their positions."""
        return replace(self, wall_ms=self.wall_ms[rows], offset_ms=self.offset_ms[rows], is_epoch=self.is_epoch[rows])

    def by_a_clock(self) -> Dates:
        """Take epochs for times of a clock without a zone, as some programs count them."""
        offset_ms = np.where(self.is_epoch, np.nan, self.offset_ms)
        return replace(self, offset_ms=offset_ms, is_epoch=np.zeros(len(offset_ms), bool))


def read_dates(table: Table, places: tuple[int, ...], reading: Reading) -> Dates:
    """Read the times in one column, or in two: the dates and the times of day.

    Raises:
        Ambiguous: nothing tells days from months; names `dayfirst`.
        BadPayload: a cell is no time, or cells contradict each other; names the lines.
    """
    if len(places) == 1 and pd.api.types.is_datetime64_any_dtype(table.cells[places[0]].dtype):
        return _of_stamps(table, table.cells[places[0]])
    texts = np.array(_joined(table, places), object)
    shapes: dict[str, list[int]] = {}
    for row, text in enumerate(texts):
        shapes.setdefault(text.translate(_TO_ZERO), []).append(row)
    are_dates = _are_dates(texts, shapes)
    parts = _Parts(len(texts))
    for shape, rows in shapes.items():
        if _EPOCH.fullmatch(shape) and not (are_dates and _DIGITS.fullmatch(shape)):
            parts.take_epochs(texts, np.array(rows))
        elif not _DIGITS.fullmatch(shape) or are_dates:
            parts.take(texts, shape, np.array(rows))
    month_first = parts.order(table, texts, reading)
    wall_ms = parts.whole(table, texts)
    commonest = max(shapes, key=lambda shape: len(shapes[shape]))
    is_epoch = bool(parts.is_epoch[shapes[commonest][0]])
    form = "epoch" if is_epoch else _form_of(commonest, month_first=month_first)
    return Dates(wall_ms, parts.offset_ms, parts.is_epoch, parts.zone(table), parts.letters, form)


def _of_stamps(table: Table, cells: pd.Series) -> Dates:
    """Take times that are no texts."""
    missing = np.asarray(cells.isna())
    if missing.any():
        raise table.fault(EXPECTED, int(np.argmax(missing)), "nothing")
    times = pd.DatetimeIndex(cells)
    labels = Labels.of(times)
    first, after = (int(np.datetime64(str(year), "ms").astype(np.int64)) for year in (_YEARS[0], _YEARS[1] + 1))
    is_none = (labels.written < first) | (labels.written >= after)
    if is_none.any():
        row = int(np.argmax(is_none))
        raise table.fault(_A_YEAR, row, f"{labels.written[row]} ms since 1970")
    offset_ms = np.full(len(times), np.nan) if times.tz is None else (labels.written - labels.instant).astype(float)
    form = "YYYY-MM-DD" if (labels.written % DAY_MS == 0).all() else "YYYY-MM-DD HH:MM:SS"
    return Dates(labels.written, offset_ms, np.zeros(len(times), bool), "", "", form)


def _joined(table: Table, places: tuple[int, ...]) -> list[str]:
    """Write every time as a text; a date and its time of day are joined."""
    texts = [_spell(cell) for cell in table.cells[places[0]].to_numpy(object)]
    if len(places) == 1:
        return texts
    days = [_MIDNIGHT.sub("", text) for text in texts]
    clocks = _times_of_day(table, places[1], len(set(days)))
    return [f"{day} {clock or '?'}" for day, clock in zip(days, clocks, strict=True)]


def _spell(cell: object) -> str:
    """Write a cell as a text, with plain spaces; a whole number without decimals."""
    if not isinstance(cell, str) and isinstance(cell, float | np.floating):
        return "" if np.isnan(cell) else str(int(cell)) if cell.is_integer() else repr(float(cell))
    text = "" if cell is None or cell is pd.NA or cell is pd.NaT else " ".join(str(cell).split())
    return text[:-2] if text.endswith(".0") and text[:-2].isdigit() else text


def _times_of_day(table: Table, place: int, days: int) -> list[str]:
    """Write every time of day with colons: of 93000 and 930, whose first zero a frame has lost, and of an hour too."""
    cells = table.cells[place].to_numpy(object)
    texts = [_spell(cell).removeprefix("0 days ") for cell in cells]
    widths = set(map(len, texts))
    width = max(widths, default=0)
    if not all(text.isascii() and text.isdigit() for text in texts) or width > _SECOND_DIGITS:
        return texts
    are_hours = width <= _HOUR_DIGITS
    has_zeros = len(widths) == 1 and not width % 2 and all(isinstance(cell, str) for cell in cells)
    is_clear = has_zeros or days > 1 or (are_hours and _HOUR_NAME.search(table.names[place]))
    # Without their first zeros 0, 1, 2 and 0, 100, 200 are hours of this day, or its first minutes.
    if not is_clear and width <= _MINUTE_DIGITS and (are_hours or all(text[-2:] in ("0", "00") for text in texts)):
        raise table.fault("times of day with four or six digits, or a column Hour", 0, texts[0])
    if are_hours:
        late = next((row for row, text in enumerate(texts) if int(text) >= _DAY_HOURS), None)
        if late is not None:
            raise table.fault("hours from 0 to 23, as 24 does not say which hour is meant", late, texts[late])
        return [f"{text:0>2}:00" for text in texts]
    width = _MINUTE_DIGITS if width <= _MINUTE_DIGITS else _SECOND_DIGITS
    padded = [text.zfill(width) for text in texts]
    return [":".join(text[at : at + 2] for at in range(0, width, 2)) for text in padded]


def _are_dates(texts: NDArray[np.object_], shapes: dict[str, list[int]]) -> bool:
    """Whether texts of digits alone are dates, such as 20240102 or 202401021730: most must be, and in ten digits many.

    Of ten random digits that may be an epoch hardly one in two hundred is a date of our days.
    """
    digits = {shape: np.array(rows) for shape, rows in shapes.items() if _DIGITS.fullmatch(shape)}
    dates = 0
    for shape, rows in digits.items():
        if len(shape) in _DATE_DIGITS:
            parts = _Parts(len(texts))
            parts.take(texts, shape, rows)
            is_date = parts.is_date(_DIGIT_YEARS)
            many = len(shape) != _EPOCH_DIGITS or len(set(texts[is_date])) >= _LEAST_DATES
            dates += int(is_date.sum()) if many else 0
    return 2 * dates > sum(map(len, digits.values()))


class _Parts:
    """The parts of the times of a table as numbers; what has not been taken is no time."""

    def __init__(self, count: int) -> None:
        self._numbers = {name: np.zeros(count, np.int64) for name in _PARTS}
        self._is_dotted = np.zeros(count, bool)
        self._is_named = np.zeros(count, bool)
        self._epoch_ms = np.full(count, np.nan)
        self.offset_ms = np.full(count, np.nan)
        self._zones: dict[str, int] = {}
        self.letters = ""

    @property
    def is_epoch(self) -> NDArray[np.bool_]:
        finite: NDArray[np.bool_] = np.isfinite(self._epoch_ms)
        return finite

    def take_epochs(self, texts: NDArray[np.object_], rows: NDArray[np.intp]) -> None:
        """Read each epoch by its own size: exports have changed their unit between two rows."""
        numbers = texts[rows].astype(np.float64)
        ms = np.full(len(rows), np.nan)
        for below, per_ms in reversed(_PER_MS):
            ms = np.where(numbers < below, numbers / per_ms, ms)
        ms[(numbers < _SMALLEST_EPOCH) | (ms >= _LATEST_MS)] = np.nan
        self._epoch_ms[rows] = np.round(ms)
        self.offset_ms[rows] = 0

    def take(self, texts: NDArray[np.object_], shape: str, rows: NDArray[np.intp]) -> None:
        """Read the texts of one shape, if it is that of a time."""
        form = _match(shape)
        if form is None:
            return
        digits = texts[rows].astype(f"U{len(shape)}").view(np.uint32).reshape(len(rows), -1).astype(np.int64) - ord("0")
        given = {name: value for name, value in form.groupdict().items() if value}
        numbers = {name: _number(digits[:, slice(*form.span(name))]) for name in given.keys() & _NUMBERS}
        if "name" in given:
            numbers["month"] = np.array(1 + _MONTHS.index(given["name"][:3].lower()))
        if "fraction" in given:
            thousandths = np.pad(digits[:, slice(*form.span("fraction"))], ((0, 0), (0, 2)))[:, :3]
            numbers["ms"] = _number(thousandths)
        if "half" in given:
            numbers["hour"] = _of_twelve(numbers["hour"], is_afternoon=given["half"] in "pP")
        for name in numbers.keys() & self._numbers.keys():
            self._numbers[name][rows] = numbers[name]
        if "utc" in given or "ahead" in given:
            hours, minutes = (numbers.get(part, np.zeros(len(rows), np.int64)) for part in ("hours", "minutes"))
            is_none = (minutes >= _SIXTY) | (hours > _MOST_HOURS)
            self._numbers["minute"][rows[is_none]] = _SIXTY  # no time either
            minutes = _SIXTY * hours + minutes
            self.offset_ms[rows] = (-1 if given.get("ahead") == "-" else 1) * minutes * MINUTE_MS
        elif "zone" in given:
            self._zones[given["zone"]] = self._zones.get(given["zone"], 0) + len(rows)
        elif "letters" in given or "remark" in given:
            self.letters = self.letters or str(texts[rows[0]])
        self._is_dotted[rows] = "first" in given and given["by"] == "."
        self._is_named[rows] = "name" in given

    def zone(self, table: Table) -> str:
        """Give the name of the zone behind the times, if there is one behind every time without an offset."""
        if len(self._zones) > 1 or 0 < sum(self._zones.values()) < np.isnan(self.offset_ms).sum():
            raise BadPayload(table.source, "one zone for all times", ", ".join(self._zones))
        return next(iter(self._zones), "")

    def order(self, table: Table, texts: NDArray[np.object_], reading: Reading) -> bool:
        """Tell days from months where the year is last; give whether months come first."""
        first, last = self._numbers["first"], self._numbers["last"]
        has_year_last = first > 0
        self._refuse_exchanged(table, texts, has_year_last)
        month_first = False
        for is_dotted in (True, False):
            rows = np.flatnonzero(has_year_last & (last > 0) & (self._is_dotted == is_dotted))
            if len(rows):
                month_first = self._comes_month_first(table, texts, rows, reading)
                day, month = (last, first) if month_first else (first, last)
                self._numbers["day"][rows], self._numbers["month"][rows] = day[rows], month[rows]
        return month_first

    def _refuse_exchanged(self, table: Table, texts: NDArray[np.object_], has_year_last: NDArray[np.bool_]) -> None:
        """Refuse dates of which a spreadsheet has understood some, with days for months, and left the others."""
        has_year_first = ~has_year_last & (self._numbers["year"] > 0) & ~self._is_named
        if has_year_last.any() and has_year_first.any():
            rows = sorted((int(np.argmax(has_year_last)), int(np.argmax(has_year_first))))
            both = " and ".join(f"{texts[row]} in {table.place} {table.cells.index[row]}" for row in rows)
            expected = "dates of one order, as a spreadsheet exchanges days and months of those that it understands"
            raise BadPayload(table.source, expected, both)

    def _comes_month_first(
        self, table: Table, texts: NDArray[np.object_], rows: NDArray[np.intp], reading: Reading
    ) -> bool:
        """Decide it for some rows, by parts that are no month, by what is said, or for dots by convention."""
        first, last = self._numbers["first"][rows], self._numbers["last"][rows]
        day_first, month_first = (rows[part > _MONTHS_A_YEAR] for part in (first, last))
        if len(day_first) and len(month_first):
            both = ", ".join(
                f"{texts[row]} in {table.place} {table.cells.index[row]}"
                for row in sorted((int(day_first[0]), int(month_first[0])))
            )
            raise BadPayload(table.source, "days and months in one order", both)
        if reading.dayfirst is not None:
            contrary = month_first if reading.dayfirst else day_first
            if len(contrary):
                order = "a day before its month" if reading.dayfirst else "a month before its day"
                raise table.fault(order, int(contrary[0]), texts[contrary[0]])
            return not reading.dayfirst
        if len(month_first):
            return True
        if len(day_first) or self._is_dotted[rows[0]] or (first == last).all():
            return False
        row = int(rows[np.argmax(first != last)])
        found = f"{texts[row]} in {table.place} {table.cells.index[row]}, which does not tell the day from the month"
        raise Ambiguous(table.source, "dayfirst", "or --no-dayfirst", found)

    def wall_ms(self) -> NDArray[np.int64]:
        """Put the parts together; what is no date gets any time."""
        number = self._numbers
        days = _days(number["year"], number["month"]) + number["day"] - 1
        minutes = (days * _DAY_HOURS + number["hour"]) * _SIXTY + number["minute"]
        ms = (minutes * _SIXTY + number["second"]) * 1000 + number["ms"]
        return np.where(self.is_epoch, np.nan_to_num(self._epoch_ms), ms).astype(np.int64)

    def is_date(self, years: tuple[int, int] = _YEARS) -> NDArray[np.bool_]:
        """Whether the parts are those of a date and a time of day that there are."""
        number = self._numbers
        year, month, day = (number[name] for name in ("year", "month", "day"))
        length = _days(year, month + 1) - _days(year, month)
        holds: NDArray[np.bool_] = (years[0] <= year) & (year <= years[1]) & (month >= 1) & (month <= _MONTHS_A_YEAR)
        holds &= (day >= 1) & (day <= length) & (number["hour"] < _DAY_HOURS)
        holds &= (number["minute"] < _SIXTY) & (number["second"] < _SIXTY)
        holds &= ~(np.abs(self.offset_ms) > _MOST_AHEAD_MS)
        return holds

    def whole(self, table: Table, texts: NDArray[np.object_]) -> NDArray[np.int64]:
        """Give the times, unless one of them is none."""
        is_bad = ~(self.is_epoch | self.is_date())
        if is_bad.any():
            row = int(np.argmax(is_bad))
            expected = _expected(texts[row])
            if self._numbers["year"][row] and not _YEARS[0] <= self._numbers["year"][row] <= _YEARS[1]:
                expected = _A_YEAR
            elif self._numbers["hour"][row] == _DAY_HOURS:
                expected = "hours from 00 to 23, as 24:00 does not say which day is meant"
            raise table.fault(expected, row, texts[row] or None)
        return self.wall_ms()


def _expected(text: str) -> str:
    """Say what a text that is no time should be."""
    if _SHORT_YEAR.fullmatch(text.translate(_TO_ZERO)):
        return "a year of four digits"
    if _DAY_NUMBER.fullmatch(text):
        return "a date, where the spreadsheet has written the number of a day"
    if _CUT_SHORT.fullmatch(text):
        return "all digits of an epoch, where a spreadsheet has cut them short,"
    return EXPECTED


def _match(shape: str) -> re.Match[str] | None:
    """Find the form that a shape has."""
    return next((found for found in (form.fullmatch(shape) for form in _FORMS) if found), None)


def _number(digits: NDArray[np.int64]) -> NDArray[np.int64]:
    """Put digits together, (rows, digits) to (rows,)."""
    powers: NDArray[np.int64] = 10 ** np.arange(digits.shape[1] - 1, -1, -1)
    return digits @ powers


def _of_twelve(hour: NDArray[np.int64], *, is_afternoon: bool) -> NDArray[np.int64]:
    """Read the hours of a clock of twelve; one that it does not have becomes none of a day's."""
    is_there = (hour >= (1 if is_afternoon else 0)) & (hour <= _HALF_HOURS)
    return np.where(is_there, hour % _HALF_HOURS + (_HALF_HOURS if is_afternoon else 0), _NO_HOUR)


def _days(year: NDArray[np.int64], month: NDArray[np.int64]) -> NDArray[np.int64]:
    """Count the days from 1970 to the first of a month."""
    months = (year - 1970) * _MONTHS_A_YEAR + month - 1
    days: NDArray[np.int64] = months.astype("datetime64[M]").astype("datetime64[D]").astype(np.int64)
    return days


def _form_of(shape: str, *, month_first: bool) -> str:
    """Show people a form: DD.MM.YYYY HH:MM."""
    found = _match(shape)
    if found is None:
        return shape
    letters = _LETTERS | ({"first": "M", "last": "D"} if month_first else {"first": "D", "last": "M"})
    shown = list(shape)
    for name in found.groupdict().keys() & letters.keys():
        start, stop = found.span(name)
        shown[start:stop] = letters[name] * (stop - start)
    return "".join(shown)
