"""Time zones in headers, banners and cells: names, offsets, and text that mentions a zone without settling it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from forecaster.errors import ConfigError
from forecaster.tables.column_names import TIME_RANKS, normalize_name
from forecaster.zones import get_clock

if TYPE_CHECKING:
    from forecaster.zones import Clock

_DASHES: Final = str.maketrans("\u2212\u2013", "--")
_OFFSET: Final = (
    r"(?P<sign>[+-]) ?(?P<hours>[0-9]{1,2})"
    r"(?:(?::|(?<=[0-9]{2}))(?P<minutes>[0-5][0-9])|[.,](?P<part>[0-9]{1,2}))?(?![0-9])"
)
_UTC: Final = re.compile(
    rf"(?<![^\W_])(?:utc|gmt)(?:/(?:utc|gmt))?(?: ?{_OFFSET}(?: ?(?:hours?|hrs?|h)\b)?)?(?![^\W_])", re.IGNORECASE
)
_BARE_OFFSET: Final = re.compile(rf"(?<!\w){_OFFSET}")
_SIGNED: Final = re.compile(r"(?<!\w)[+-] ?[0-9]")
_ZONE_NAME: Final = re.compile(
    r"(?<![\w/])(?:Etc/GMT[+-][0-9]{1,2}|[A-Za-z_]+(?:/[A-Za-z_-]+)+(?:[+-][0-9]{2}:[0-9]{2})?)(?![\w/])"
)
_FRACTION_MINUTES: Final = {"0": 0, "00": 0, "5": 30, "50": 30, "30": 30, "45": 45, "75": 45}
_WORDS: Final = re.compile(r"[^\W\d_]+")
_BRACKETS: Final = re.compile(r"[(\[{](.*?)[)\]}]")
_ABBREVIATION: Final = re.compile(
    r"[ECMP][SD]?T|CES?T|WES?T|EES?T|MSK|[BIJKH]ST|HKT|SGT|AE[SD]T|NZ[SD]T|[AN][SD]T|BRT|SAST", re.IGNORECASE
)
_LOCAL_WORDS: Final = frozenset(("local", "broker", "server"))
_LOCAL_NAMES: Final = frozenset(("localtime", "timelocal", "exchangetime"))
_NEGATIONS: Final = frozenset(("not", "non", "no"))
_DATE_FORMAT: Final = re.compile(r"(?:([^\W\d_])\1{1,3})+|mi|am|pm")
_TIME_WORDS: Final = """
    utc gmt z iso unix epoch ms s us ns sec secs second seconds milli millis millisecond milliseconds micro micros
    microsecond microseconds nano nanos nanosecond nanoseconds m min mins minute minutes h hr hrs hour hours hourly d
    day days daily w week weekly date dates time times datetime timestamp timestamps ts stamp timezone zone tz offset
    open opening start starting begin beginning started bar bars candle candles kline trade trading quote price
    session period window index of the all and are is at in to event end bid ask mid first last left string number y
    und de
"""
_TIME_WORD_SET: Final = frozenset(_TIME_WORDS.split())
_HOUR, _QUARTER, _MAX_HOURS = 60, 15, 14


def parse_clock(text: str) -> Clock | None:
    """Return the only time zone in a text: UTC, an offset or an IANA zone; None if it is not settled.

    An offset beside a place is not enough, since the place may have another one in summer.
    """
    text = " ".join(text.translate(_DASHES).split())
    zones = {known for known in map(_clock_or_none, _ZONE_NAME.findall(text)) if known}
    rest = _ZONE_NAME.sub(" ", text) if zones else text
    pattern = _UTC if _UTC.search(rest) or zones else _BARE_OFFSET
    offsets = list(pattern.finditer(rest))
    rest = pattern.sub(" ", rest)
    clocks = zones | {_clock_of_offset(match) for match in offsets}
    words = _words(rest)
    is_unsettled = len(clocks) != 1 or _SIGNED.search(rest) or not _NEGATIONS.isdisjoint(words)
    if not zones:
        is_unsettled = is_unsettled or not _LOCAL_WORDS.isdisjoint(words) or any(map(_ABBREVIATION.fullmatch, words))
        is_unsettled = is_unsettled or (any(match["sign"] for match in offsets) and not all(map(_is_time_word, words)))
    return None if is_unsettled else clocks.pop()


def mentions_zone(name: str) -> bool:
    """Return whether the name of a time column mentions a zone: a place, an abbreviation such as EST, an offset."""
    name = name.translate(_DASHES)
    words = _words(name)
    if (
        normalize_name(name) in _LOCAL_NAMES
        or not _LOCAL_WORDS.isdisjoint(words)
        or _UTC.search(name)
        or _BARE_OFFSET.search(name)
    ):
        return True
    inside, outside = " ".join(_BRACKETS.findall(name)), _BRACKETS.sub(" ", name)
    if not all(map(_is_time_word, _words(inside))):
        return True
    words = _words(outside)
    if normalize_name(outside) in TIME_RANKS or not words:
        return False
    is_abbreviation = any(_ABBREVIATION.fullmatch(word) for word in _WORDS.findall(outside) if word.isupper())
    return is_abbreviation or (_is_time_word(words[0]) and not all(map(_is_time_word, words)))


def parse_zone_cell(text: str) -> Clock | None:
    """Return the time zone of a cell: a name, or an offset in hours or seconds; None if it is ambiguous."""
    text = text.strip()
    parsed = parse_clock(text)
    if parsed or _ABBREVIATION.fullmatch(text):
        return parsed
    try:
        number = float(text)
    except ValueError:
        return _clock_or_none(text)
    minutes = number * _HOUR if abs(number) <= _MAX_HOURS else number / _HOUR
    if minutes % _QUARTER or abs(minutes) > _MAX_HOURS * _HOUR or _MAX_HOURS < abs(number) < _HOUR * _HOUR:
        return None
    sign, size = "-" if minutes < 0 else "+", int(abs(minutes))
    return get_clock(f"{sign}{size // _HOUR:02}:{size % _HOUR:02}")


def _clock_of_offset(match: re.Match[str]) -> Clock | None:
    """Return the clock of an offset from UTC; None if the offset does not exist."""
    if not match["sign"]:
        return get_clock("UTC")
    minutes = _FRACTION_MINUTES.get(match["part"]) if match["part"] else int(match["minutes"] or 0)
    if minutes is None or int(match["hours"]) > _MAX_HOURS:
        return None
    return get_clock(f"{match['sign']}{match['hours']:0>2}:{minutes:02}")


def _clock_or_none(name: str) -> Clock | None:
    """Return the clock of this name, or None."""
    try:
        return get_clock(name)
    except ConfigError:
        return None


def _words(text: str) -> list[str]:
    return [word.casefold() for word in _WORDS.findall(text)]


def _is_time_word(word: str) -> bool:
    """Return whether a word describes a time rather than a place: a unit, a date format, a name of times."""
    return word in _TIME_WORD_SET or word in TIME_RANKS or bool(_DATE_FORMAT.fullmatch(word))
