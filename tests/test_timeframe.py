"""Lengths of bars: what is accepted, what is refused, and where a bar begins."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecaster.errors import ConfigError
from forecaster.timeframe import DAY_MS, Timeframe
from tests.builders import HOUR_MS, utc_ms

LENGTHS = {
    "1m": 60_000,
    "3m": 180_000,
    "5m": 300_000,
    "15m": 900_000,
    "30m": 1_800_000,
    "1h": 3_600_000,
    "2h": 7_200_000,
    "4h": 14_400_000,
    "6h": 21_600_000,
    "8h": 28_800_000,
    "12h": 43_200_000,
    "1d": 86_400_000,
}


@pytest.mark.parametrize(("name", "ms"), LENGTHS.items())
def test_a_length_is_what_its_name_says(name, ms):
    timeframe = Timeframe(name)

    assert timeframe.ms == ms
    assert str(timeframe) == name
    assert timeframe.is_daily == (name == "1d")


def test_every_length_divides_the_day():
    """Otherwise the grid that starts at the epoch would not start anew each day, as exchanges' bars do."""
    assert [name for name in LENGTHS if DAY_MS % Timeframe(name).ms] == []


@pytest.mark.parametrize("name", ["1H", "1D", "60m", "7m", "h", "", " 1h", "1h ", "1 h", "-1h"])
def test_another_name_is_refused_with_those_allowed(name):
    with pytest.raises(ConfigError) as refused:
        Timeframe(name)

    assert refused.value.key == "timeframe"
    assert str(refused.value) == f"timeframe: expected one of {', '.join(LENGTHS)}, found {name!r}"


@pytest.mark.parametrize("name", ["1w", "1M", "3d"])
def test_weeks_and_months_are_refused_in_those_words(name):
    with pytest.raises(ConfigError, match=f"; {name} is not supported, since venues begin it on different days, found"):
        Timeframe(name)


def test_equal_names_are_equal_keys():
    """Timeframes stand in the keys of series, and those in dictionaries."""
    assert Timeframe("1h") == Timeframe("1h")
    assert {Timeframe("1h"), Timeframe("1h"), Timeframe("4h")} == {Timeframe("4h"), Timeframe("1h")}


def test_a_timeframe_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Timeframe("1h").name = "4h"


@pytest.mark.parametrize(
    ("name", "time", "opened"),
    [
        ("1h", "2024-01-01 09:59:59", "2024-01-01 09:00"),
        ("1h", "2024-01-01 09:00", "2024-01-01 09:00"),
        ("4h", "2024-01-01 09:00", "2024-01-01 08:00"),
        ("8h", "2024-01-01 15:30", "2024-01-01 08:00"),
        ("1d", "2024-02-29 23:59:59", "2024-02-29"),
        ("1h", "1969-12-31 23:30", "1969-12-31 23:00"),
    ],
)
def test_the_bar_around_a_time(name, time, opened):
    """A bar holds its open time and not its close time; before the epoch it is rounded down as well."""
    assert Timeframe(name).floor(utc_ms(time)) == utc_ms(opened)


@settings(derandomize=True, deadline=None)
@given(st.sampled_from(sorted(LENGTHS)), st.integers(-DAY_MS * 365, utc_ms("2100-01-01")))
def test_floor_is_the_last_slot_that_is_not_later(name, time):
    timeframe = Timeframe(name)

    opened = timeframe.floor(time)

    assert opened % timeframe.ms == 0
    assert opened <= time < opened + timeframe.ms
    assert timeframe.floor(opened) == opened


def test_floor_stays_an_exact_integer():
    assert type(Timeframe("1h").floor(utc_ms("2024-01-01") + 1)) is int
    assert Timeframe("1h").floor(HOUR_MS - 1) == 0
