"""Formats of dates and times: patterns of shapes, and how messages show them.

The shape of a text is the text with 0 for each digit.
"""

from __future__ import annotations

import re
from typing import Final

EXPECTED: Final = "an ISO date or an epoch in s, ms, us or ns"
DIGITS_TO_ZERO: Final = str.maketrans("123456789\u2212\u2013", "000000000--")
MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
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
    r"(?: ?\[?(?P<zone>[a-z_]+(?:/[a-z_]+)+)\]?| (?P<abbreviation>[a-z]{2,5}))?"
    r"(?: ?\((?:(?:mon|tue|wed|thu|fri|sat|sun)[a-z]*|[日月火水木金土일월화수목금토]|(?P<remark>.*))\))?"
)
_COMPACT: Final = r"(?P<year>0000)(?P<month>00)(?P<day>00)"
_FORMATS: Final = tuple(
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
_SHORT_YEAR: Final = re.compile(
    rf"(?:00?([-/.])00?\1|00?[- ]{_MONTH}[-, ]+|{_MONTH} 00?,? )'?00(?:[T ,].*)?", re.IGNORECASE
)
_DAY_NUMBER: Final = re.compile(r"[2-6]\d{4}(?:\.\d+)?")
_ROUNDED_EPOCH: Final = re.compile(r"\d[.,]\d{1,8}[Ee]\+?(?:09|1[0-9])")
_PATTERN_LETTERS: Final = {
    "year": "Y",
    "month": "M",
    "day": "D",
    "hour": "H",
    "minute": "M",
    "second": "S",
    "fraction": "f",
    "name": "M",
}


def match_format(shape: str) -> re.Match[str] | None:
    """Return the match of the first format that fits a shape; None for other shapes."""
    return next(filter(None, (pattern.fullmatch(shape) for pattern in _FORMATS)), None)


def format_pattern(shape: str, *, month_first: bool) -> str:
    """Return the pattern of a shape for messages, such as DD.MM.YYYY HH:MM."""
    match = match_format(shape)
    if match is None:
        return shape
    letters = _PATTERN_LETTERS | ({"first": "M", "last": "D"} if month_first else {"first": "D", "last": "M"})
    pattern = list(shape)
    for name in match.groupdict().keys() & letters.keys():
        start, stop = match.span(name)
        pattern[start:stop] = letters[name] * (stop - start)
    return "".join(pattern)


def expected_instead_of(text: str) -> str:
    """Return what a text that is not a time should be, for an error message."""
    if _SHORT_YEAR.fullmatch(text.translate(DIGITS_TO_ZERO)):
        return "a year of four digits"
    if _DAY_NUMBER.fullmatch(text):
        return "a date, not the day number of a spreadsheet"
    if _ROUNDED_EPOCH.fullmatch(text):
        return "all digits of an epoch, not a number rounded by a spreadsheet,"
    return EXPECTED
