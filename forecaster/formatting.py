"""How terminals and the live view print prices, skills, percentages, times and durations."""

from __future__ import annotations

import datetime as dt
from math import floor, log10

from forecaster.errors import format_duration

MISSING = "–"
_DIGITS = 6
_MAX_DECIMALS = 12


def format_price(value: float, like: float | None = None) -> str:
    """Format a price with six significant digits, or with as many decimal places as `like` then has."""
    scale = abs(value if like is None else like)
    decimals = _DIGITS - 1 - floor(log10(scale)) if scale else 2
    return f"{value:,.{min(max(decimals, 0), _MAX_DECIMALS)}f}"


def format_value(value: object) -> str:
    """Format a value of a record: numbers with six significant digits, several values in one line."""
    if value is None:
        return MISSING
    if isinstance(value, float):
        return f"{value:,.{_DIGITS}g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {format_value(item)}" for name, item in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(format_value, value)) or "none"
    return str(value)


def format_decimal(value: float | None) -> str:
    """Format a number with three decimal places; a dash for None."""
    return MISSING if value is None else f"{value:.3f}"


def format_signed(value: float | None) -> str:
    """Format a skill: its sign and three decimal places; a dash for None."""
    return MISSING if value is None else f"{value:+.3f}"


def format_percent(value: float | None) -> str:
    """Format a fraction in percent; a dash for None."""
    return MISSING if value is None else f"{value:.1%}"


def format_minute(time_ms: int) -> str:
    """Format a time (UTC ms) without its zone: `2025-01-01 00:00`."""
    return _utc(time_ms).strftime("%Y-%m-%d %H:%M")


def format_date(time_ms: int | None) -> str:
    """Format the date of a time (UTC ms); a dash for None."""
    return MISSING if time_ms is None else _utc(time_ms).strftime("%Y-%m-%d")


def format_iso(time_ms: int | None) -> str | None:
    """Format a time (UTC ms) for programs, as ISO 8601: `2025-01-01T00:00:00Z`."""
    if time_ms is None:
        return None
    unit = "milliseconds" if time_ms % 1000 else "seconds"
    return _utc(time_ms).isoformat(timespec=unit).replace("+00:00", "Z")


def option_time(time_ms: int) -> str:
    """Format a time (UTC ms) as options take it: a date, with the time of day unless that is midnight."""
    when = _utc(time_ms)
    return when.strftime("%Y-%m-%d" if when.time() == dt.time() else "%Y-%m-%dT%H:%M")


def approximate_duration(ms: float) -> str:
    """Format a duration in its two largest units: `1d 3h`, `59m 40s`."""
    return " ".join(format_duration(ms // 1000 * 1000).split()[:2])


def _utc(time_ms: int) -> dt.datetime:
    return dt.datetime.fromtimestamp(time_ms / 1000, dt.UTC)
