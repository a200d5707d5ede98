"""What a text beside the times of a table says of their clock: a header, a banner, a column such as `timezone`.

What it says is believed, or the zone must be said; nothing of it is passed over.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from forecaster.errors import ConfigError
from forecaster.tables.words import TIME_RANKS, plain
from forecaster.zones import clock

if TYPE_CHECKING:
    from forecaster.zones import Clock

_DASHES: Final = str.maketrans({"\u2212": "-", "\u2013": "-"})
_SHIFT: Final = r"(?P<sign>[+-]) ?(?P<hours>[0-9]{1,2})(?::?(?P<minutes>[0-5][0-9])|[.,](?P<part>[0-9]{1,2}))?(?![0-9])"
_UTC: Final = re.compile(
    rf"(?<![^\W_])(?:utc|gmt)(?:/(?:utc|gmt))?(?: ?{_SHIFT}(?: ?(?:hours?|hrs?|h)\b)?)?(?![^\W_])", re.IGNORECASE
)
_BARE_SHIFT: Final = re.compile(_SHIFT)
_ZONE_NAME: Final = re.compile(r"(?<![\w/])[A-Za-z_]+(?:/[A-Za-z_-]+)+(?![\w/])|(?<![\w/])Etc/GMT[+-][0-9]{1,2}")
_PARTS_OF_AN_HOUR: Final = {"0": 0, "00": 0, "5": 30, "50": 30, "30": 30, "45": 45, "75": 45}
_WORDS: Final = re.compile(r"[^\W\d_]+")
_BRACKETS: Final = re.compile(r"[(\[{](.*?)[)\]}]")
_ABBREVIATIONS: Final = re.compile(
    r"(?:[ECMP][SD]?T|CES?T|WES?T|EES?T|MSK|[BIJKH]ST|HKT|SGT|AE[SD]T|[AN]Z?[SD]T|BRT|SAST)", re.IGNORECASE
)
_LOCAL: Final = frozenset(("local", "broker", "server", "exchange", "localtime", "timelocal", "not", "non"))
_DATE_FORM: Final = re.compile(r"(?:([^\W\d_])\1{1,3})+|mi|am|pm")
_OF_TIMES: Final = frozenset(
    """
    utc gmt z iso unix epoch ms s us ns sec secs second seconds milli millis millisecond milliseconds micro micros
    microsecond microseconds nano nanos nanosecond nanoseconds m min mins minute minutes h hour hours hourly d day days
    daily w week weekly date dates time times datetime timestamp timestamps ts stamp open opening start starting begin
    beginning bar bars candle candles kline trade trading quote price session period window index of the and at in to
    event start end bid ask mid first last left hhmm hhmmss yyyymmdd ohlc string str formatted number
    """.split()
)
_HOUR_MINUTES, _MOST_MINUTES, _QUARTER = 60, 14 * 60, 15


def told_clock(text: str) -> Clock | None:
    """Give the one clock that a text names: UTC, an offset from it, or an IANA zone; None where it leaves that open."""
    text = " ".join(text.translate(_DASHES).split())
    zones = [known for known in map(_known, _ZONE_NAME.findall(text)) if known]
    rest = _ZONE_NAME.sub(" ", text) if zones else text
    clocks = {*zones, *(_shifted(match) for match in _UTC.finditer(rest))}
    rest = _UTC.sub(" ", rest)
    words = {word.casefold() for word in _WORDS.findall(rest)}
    is_contrary = words & _LOCAL or _BARE_SHIFT.search(rest) or (not zones and any(map(_ABBREVIATIONS.fullmatch, words)))
    if not clocks:
        alone = _BARE_SHIFT.fullmatch(rest.strip())
        return _shifted(alone) if alone else None
    return None if is_contrary or len(clocks) > 1 else clocks.pop()


def speaks_of_a_clock(name: str) -> bool:
    """Whether the name of a column of times says more than what it holds: a place, letters such as EST, an offset."""
    if plain(name) in TIME_RANKS and not _BRACKETS.search(name):
        return not _LOCAL.isdisjoint(map(str.casefold, _WORDS.findall(name)))
    inside = " ".join(_BRACKETS.findall(name))
    outside = _BRACKETS.sub(" ", name)
    words = [word.casefold() for word in _WORDS.findall(outside)]
    behind = words[1:] if words and _is_of_times(words[0]) and plain(outside) not in TIME_RANKS else words
    ...


def offset_clock(value: object) -> Clock | None:
    """Give the clock of a cell: a name, or an offset in hours, minutes or seconds."""
    ...


def _is_of_times(word: str) -> bool:
    return word in _OF_TIMES or word in TIME_RANKS or bool(_DATE_FORM.fullmatch(word))
