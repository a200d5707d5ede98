"""What a text beside times says of their clock: a header, a banner, a column such as `timezone`.

What it says is believed, or the zone must be said. Nothing of it is passed over.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from forecaster.errors import ConfigError
from forecaster.tables.words import TIME_RANKS, plain
from forecaster.zones import clock

if TYPE_CHECKING:
    from forecaster.zones import Clock

_DASHES: Final = str.maketrans("\u2212\u2013", "--")
_SHIFT: Final = (
    r"(?P<sign>[+-]) ?(?P<hours>[0-9]{1,2})"
    r"(?:(?::|(?<=[0-9]{2}))(?P<minutes>[0-5][0-9])|[.,](?P<part>[0-9]{1,2}))?(?![0-9])"
)
_UTC: Final = re.compile(
    rf"(?<![^\W_])(?:utc|gmt)(?:/(?:utc|gmt))?(?: ?{_SHIFT}(?: ?(?:hours?|hrs?|h)\b)?)?(?![^\W_])", re.IGNORECASE
)
_BARE_SHIFT: Final = re.compile(rf"(?<!\w){_SHIFT}")
_SIGNED: Final = re.compile(r"(?<!\w)[+-] ?[0-9]")
_ZONE_NAME: Final = re.compile(
    r"(?<![\w/])(?:Etc/GMT[+-][0-9]{1,2}|[A-Za-z_]+(?:/[A-Za-z_-]+)+(?:[+-][0-9]{2}:[0-9]{2})?)(?![\w/])"
)
_PARTS_OF_AN_HOUR: Final = {"0": 0, "00": 0, "5": 30, "50": 30, "30": 30, "45": 45, "75": 45}
_WORDS: Final = re.compile(r"[^\W\d_]+")
_BRACKETS: Final = re.compile(r"[(\[{](.*?)[)\]}]")
_LETTERS: Final = re.compile(
    r"[ECMP][SD]?T|CES?T|WES?T|EES?T|MSK|[BIJKH]ST|HKT|SGT|AE[SD]T|NZ[SD]T|[AN][SD]T|BRT|SAST", re.IGNORECASE
)
_LOCAL: Final = frozenset(("local", "broker", "server"))
_LOCAL_NAMES: Final = frozenset(("localtime", "timelocal", "exchangetime"))
_NEGATIONS: Final = frozenset(("not", "non", "no"))
_DATE_FORM: Final = re.compile(r"(?:([^\W\d_])\1{1,3})+|mi|am|pm")
_OF_TIMES: Final = """
    utc gmt z iso unix epoch ms s us ns sec secs second seconds milli millis millisecond milliseconds micro micros
    microsecond microseconds nano nanos nanosecond nanoseconds m min mins minute minutes h hr hrs hour hours hourly d
    day days daily w week weekly date dates time times datetime timestamp timestamps ts stamp timezone zone tz offset
    open opening start starting begin beginning started bar bars candle candles kline trade trading quote price
    session period window index of the all and are is at in to event end bid ask mid first last left string number y
    und de
"""
_KNOWN_WORDS: Final = frozenset(_OF_TIMES.split())
_HOUR, _QUARTER, _MOST = 60, 15, 14


def told_clock(text: str) -> Clock | None:
    """Give the one clock that a text names: UTC, an offset from it or an IANA zone; None where that is left open.

    An offset beside the name of a place is none: a place may have another one in summer.
    """
    text = " ".join(text.translate(_DASHES).split())
    zones = {known for known in map(_known, _ZONE_NAME.findall(text)) if known}
    rest = _ZONE_NAME.sub(" ", text) if zones else text
    written = _UTC if _UTC.search(rest) or zones else _BARE_SHIFT
    shifts = list(written.finditer(rest))
    rest = written.sub(" ", rest)
    clocks = zones | {_shifted(match) for match in shifts}
    words = _words(rest)
    is_open = len(clocks) != 1 or _SIGNED.search(rest) or not _NEGATIONS.isdisjoint(words)
    if not zones:
        is_open = is_open or not _LOCAL.isdisjoint(words) or any(map(_LETTERS.fullmatch, words))
        is_open = is_open or (any(match["sign"] for match in shifts) and not all(map(_is_of_times, words)))
    return None if is_open else clocks.pop()


def speaks_of_a_clock(name: str) -> bool:
    """Whether the name of a column of times says more than what it holds: a place, letters such as EST, an offset."""
    name = name.translate(_DASHES)
    words = _words(name)
    if plain(name) in _LOCAL_NAMES or not _LOCAL.isdisjoint(words) or _UTC.search(name) or _BARE_SHIFT.search(name):
        return True
    inside, outside = " ".join(_BRACKETS.findall(name)), _BRACKETS.sub(" ", name)
    if not all(map(_is_of_times, _words(inside))):
        return True
    words = _words(outside)
    if plain(outside) in TIME_RANKS or not words:
        return False
    is_letters = any(_LETTERS.fullmatch(word) for word in _WORDS.findall(outside) if word.isupper())
    return is_letters or (_is_of_times(words[0]) and not all(map(_is_of_times, words)))


def clock_of_cell(text: str) -> Clock | None:
    """Give the clock that a cell is: a name, or an offset in hours or seconds; None where it may be several."""
    text = text.strip()
    told = told_clock(text)
    if told or _LETTERS.fullmatch(text):
        return told
    try:
        number = float(text)
    except ValueError:
        return _known(text)
    minutes = number * _HOUR if abs(number) <= _MOST else number / _HOUR
    if minutes % _QUARTER or abs(minutes) > _MOST * _HOUR or _MOST < abs(number) < _HOUR * _HOUR:
        return None
    sign, size = "-" if minutes < 0 else "+", int(abs(minutes))
    return clock(f"{sign}{size // _HOUR:02}:{size % _HOUR:02}")


def _shifted(match: re.Match[str]) -> Clock | None:
    """Give the clock that is an offset from UTC; None for one that there is not."""
    if not match["sign"]:
        return clock("UTC")
    minutes = _PARTS_OF_AN_HOUR.get(match["part"]) if match["part"] else int(match["minutes"] or 0)
    if minutes is None or int(match["hours"]) > _MOST:
        return None
    return clock(f"{match['sign']}{match['hours']:0>2}:{minutes:02}")


def _known(name: str) -> Clock | None:
    """Give the clock of this name, if there is one."""
    try:
        return clock(name)
    except ConfigError:
        return None


def _words(text: str) -> list[str]:
    return [word.casefold() for word in _WORDS.findall(text)]


def _is_of_times(word: str) -> bool:
    """Whether a word says what a time is, and not where: a unit, a form of dates, a name of times."""
    return word in _KNOWN_WORDS or word in TIME_RANKS or bool(_DATE_FORM.fullmatch(word))
