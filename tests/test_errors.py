"""Errors: the tree in the docstring is the tree of the classes, and each message says what to act on."""

from __future__ import annotations

import inspect
from collections import Counter

import pytest

from forecaster import errors
from forecaster.errors import (
    Ambiguous,
    BadPayload,
    Banned,
    BarNotClosed,
    CalendarEnds,
    ConfigError,
    ForecasterError,
    InferenceError,
    InvalidArgument,
    InvalidBars,
    InvalidContext,
    LeaseLost,
    LedgerConflict,
    LedgerMissing,
    MissingBars,
    ModelLoadError,
    NonFiniteForecast,
    NotEnoughBars,
    RateLimited,
    SchemaTooNew,
    SourceUnavailable,
    StaleForecast,
    StoreTaken,
    StoreUnavailable,
    UnknownSymbol,
    format_duration,
    format_time,
)
from tests.builders import HOUR_MS, utc_ms
from tests.forecast_builders import CUTOFF, make_forecast

CLASSES = dict(inspect.getmembers(errors, inspect.isclass))
SERIES = "kraken BTC/USD 1h"
FORECAST = "binance BTC/USDT 1h"
LATEST_FORECAST = "the latest has cutoff 2024-01-05 00:00 UTC (3h old): check that the service runs, or pass max_age"
ONE, TWO = utc_ms("2025-01-01 01:00"), utc_ms("2025-01-01 02:00")
ONE_TEXT, TWO_TEXT = "2025-01-01 01:00 UTC", "2025-01-01 02:00 UTC"
UPGRADE = "upgrade exchange_calendars"
OFF_GRID = "open time must be on the 1d grid of 24/7"
NONE = "expected a ledger, found none: if there was one, it was moved or removed: restore it; else check the URL"

MESSAGES = [
    (ConfigError("model.horizon", "1 or more", 0), "model.horizon: expected 1 or more, found 0"),
    (SourceUnavailable("kraken", "timed out after 10 s"), "kraken: timed out after 10 s"),
    (RateLimited("kraken", "too many requests", 2.5), "kraken: too many requests"),
    (Banned("kraken", "banned until noon"), "kraken: banned until noon"),
    (BadPayload("kraken", "a list of rows", "<html>"), "kraken: expected a list of rows, found '<html>'"),
    (
        Ambiguous("a.csv", "timezone", "Europe/Berlin", "no zone"),
        "a.csv: expected `timezone` to be set (--timezone Europe/Berlin, or the key of the series), found 'no zone'",
    ),
    (UnknownSymbol("kraken", "BTC/XXX", []), "kraken: expected one of its 0 symbols, found 'BTC/XXX'"),
    (
        UnknownSymbol("kraken", "BTC/XXX", {"BTC/EUR": 0, "ETH/EUR": 0}),
        "kraken: expected one of its 2 symbols, found 'BTC/XXX'; similar: BTC/EUR, ETH/EUR",
    ),
    (InvalidBars(SERIES, "low above open", 3), f"{SERIES}: row 3: low above open"),
    (InvalidBars(SERIES, "low above open"), f"{SERIES}: low above open"),
    (
        InvalidBars.refused(SERIES, Counter({OFF_GRID: 118, "low above open": 2}), 130, "they open at 16:00"),
        f"{SERIES}: 120 of 130 rows are not bars: {OFF_GRID} (118): they open at 16:00",
    ),
    (
        MissingBars(SERIES, TWO, ONE),
        f"{SERIES}: expected a bar that closes at {TWO_TEXT}, the newest closes at {ONE_TEXT}",
    ),
    (MissingBars(SERIES, TWO, None), f"{SERIES}: expected a bar that closes at {TWO_TEXT}, there are none"),
    (NotEnoughBars(SERIES, needed=64, found=9), f"{SERIES}: expected at least 64 bars in the context, found 9"),
    (
        NotEnoughBars(SERIES, 64, 9, TWO),
        f"{SERIES}: expected at least 64 bars in the context of cutoff {TWO_TEXT}, found 9",
    ),
    (
        BarNotClosed(SERIES, TWO, ONE),
        f"{SERIES}: expected bars that have closed by {ONE_TEXT}, the last one closes at {TWO_TEXT}",
    ),
    (
        CalendarEnds("XSHG", TWO, ONE),
        f"calendar XSHG: expected sessions after {TWO_TEXT}, its last one closes at {ONE_TEXT}: {UPGRADE}",
    ),
    (ModelLoadError("nano", "safetensors", "a pickle"), "model nano: expected safetensors, found a pickle"),
    (
        StaleForecast(make_forecast(), CUTOFF + 3 * HOUR_MS, "2h"),
        f"{FORECAST}: expected a forecast that is at most 2h old at 2024-01-05 03:00 UTC, {LATEST_FORECAST}",
    ),
    (InvalidArgument("step", "1 to 5", 6), "step: expected 1 to 5, found 6"),
    (InvalidContext("context of X", "3 bars or more", 2), "context of X: expected 3 bars or more, found 2"),
    (
        NonFiniteForecast(SERIES, TWO),
        f"{SERIES}: expected a finite forecast at cutoff {TWO_TEXT}, found NaN or infinity",
    ),
    (StoreUnavailable("sqlite:///x.db", "disk is full"), "store sqlite:///x.db: disk is full"),
    (StoreTaken("sqlite:///x.db", "another writes"), "store sqlite:///x.db: another writes"),
    (
        LedgerMissing("sqlite:////x.db"),
        f"store sqlite:////x.db: {NONE}, or start `forecaster run` or `forecaster once` first",
    ),
    (SchemaTooNew("sqlite:///x.db", 1, 2), "store sqlite:///x.db: expected schema 1 or older, found 2"),
    (
        LeaseLost("sqlite:///x.db", 4),
        "store sqlite:///x.db: expected to hold the lease of epoch 4, another process has taken over",
    ),
    (LedgerConflict("ab12"), "forecast ab12 is in the ledger with other numbers"),
]


def drawn_tree() -> dict[str, str | None]:
    """Each name in the docstring's drawing with the name it hangs from."""
    parents: dict[str, str | None] = {}
    above: list[tuple[int, str]] = []
    for line in inspect.getdoc(errors).splitlines():
        depth, _, rest = line.rpartition("─ ")
        name = rest.split(maxsplit=1)[0] if rest.strip() else ""
        if not (depth or name == "ForecasterError"):
            continue
        above = [(column, parent) for column, parent in above if column < len(depth)]
        parents[name] = above[-1][1] if above else None
        above.append((len(depth), name))
    return parents


def test_the_tree_in_the_docstring_is_the_tree_of_the_classes():
    parents = {
        name: next((base.__name__ for base in of.__bases__ if issubclass(base, ForecasterError)), None)
        for name, of in CLASSES.items()
    }

    assert len(parents) > 15
    assert drawn_tree() == parents


def test_every_error_is_ours():
    """One `except ForecasterError` catches all that is raised on purpose."""
    assert [name for name, one in CLASSES.items() if not issubclass(one, ForecasterError) or not one.__doc__] == []
    assert {one.__module__ for one in CLASSES.values()} == {"forecaster.errors"}


@pytest.mark.parametrize(("error", "message"), MESSAGES, ids=lambda part: type(part).__name__)
def test_a_message_says_where_and_what(error, message):
    """What was expected and what was found, wherever there are two to compare."""
    assert str(error) == message


def test_every_error_that_takes_facts_has_its_message_tested():
    """A new error cannot be forgotten here; the others are names of branches."""
    tested = {type(error) for error, _ in MESSAGES}
    branches = {of for of in CLASSES.values() if of.__subclasses__()} | {InferenceError}

    assert set(CLASSES.values()) - branches <= tested


def test_the_facts_that_callers_act_on_are_kept():
    assert ConfigError("model.horizon", "1 or more", 0).key == "model.horizon"
    assert RateLimited("kraken", "too many requests", 2.5).retry_after == 2.5
    assert RateLimited("kraken", "too many requests").retry_after is None
    assert (NotEnoughBars(SERIES, 64, 9).needed, NotEnoughBars(SERIES, 64, 9).found) == (64, 9)
    assert MissingBars(SERIES, 7200, None).cutoff == 7200
    assert (InvalidBars(SERIES, "low above open", 3).row, InvalidBars(SERIES, "low above open").row) == (3, None)
    assert UnknownSymbol("kraken", "BTC/XXX", ["BTC/EUR"]).near == ("BTC/EUR",)
    assert LedgerConflict("ab12").forecast_id == "ab12"


def test_a_long_payload_is_cut():
    """An exchange may answer with a page of HTML; a log line is not the place for it."""
    assert len(str(BadPayload("kraken", "rows", "x" * 100_000))) < 300


@pytest.mark.parametrize(
    ("time", "text"),
    [
        (None, "none"),
        (0, "1970-01-01 00:00 UTC"),
        (utc_ms("2025-01-01"), "2025-01-01 00:00 UTC"),
        (utc_ms("2025-01-01 13:30:07") + 999, "2025-01-01 13:30:07 UTC"),
        (-60_000, "1969-12-31 23:59 UTC"),
        (10**18, "1000000000000000000 ms since 1970"),
    ],
)
def test_a_time_is_a_date(time, text):
    """With seconds only when there are any; what no date can say stays a number."""
    assert format_time(time) == text


def test_a_time_is_exact_when_that_is_asked_for():
    """Two times of one second are told apart."""
    time = utc_ms("2025-01-01 13:30:07")

    assert format_time(time + 9, exact=True) == "2025-01-01 13:30:07.009 UTC"
    assert format_time(time, exact=True) == format_time(time) == "2025-01-01 13:30:07 UTC"


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "0s"),
        (500, "0.5s"),
        (60_000, "1m"),
        (3_600_000, "1h"),
        (1_000_000, "16m 40s"),
        (129_600_000, "1d 12h"),
        (604_800_000, "7d"),
    ],
)
def test_a_length_of_time_is_written_as_timeframes_are(ms, text):
    assert format_duration(ms) == text


LISTED = [f"{base}/{quote}" for base in ("ADA", "BTC", "DOT", "ETH", "SOL") for quote in ("EUR", "USD", "USDT")]


@pytest.mark.parametrize(
    ("symbol", "known", "near"),
    [
        ("MATIC/USDT", ["BTC/USDT", "ETH/USDT", "POL/USDT", "BTC/USD"], "POL/USDT"),
        ("btc/usdt", LISTED, "BTC/USDT"),
        ("BTC/USDC", LISTED, "BTC/USDT"),
        ("DTO/EUR", LISTED, "DOT/EUR"),
        ("AAPL", ["AAPL.US", "MSFT.US", *LISTED], "AAPL.US"),
    ],
)
def test_an_unknown_symbol_names_near_ones(symbol, known, near):
    assert near in UnknownSymbol("kraken", symbol, known).near


def test_an_unknown_symbol_names_no_more_than_a_few():
    """The nearest first; names that have nothing in common are none."""
    assert UnknownSymbol("kraken", "BTC/EUR2", LISTED).near[0] == "BTC/EUR"
    assert len(UnknownSymbol("kraken", "BTC/EUR2", LISTED).near) == 5
    assert UnknownSymbol("kraken", "ZZZZZZ", LISTED).near == ()


def test_texts_of_a_source_can_be_stored():
    """PostgreSQL keeps no NUL, and no database a half of a pair of surrogates, as JSON may have them."""
    error = BadPayload("kraken", "rows", "x", "a\0b\ud800c")

    assert error.body == "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}c"
    assert str(SourceUnavailable("kraken", "no\0")) == "kraken: no\N{REPLACEMENT CHARACTER}"


def test_a_bad_call_is_a_value_error_too():
    """Python's own word for it, for callers who know nothing of ours."""
    assert isinstance(InvalidArgument("step", "1 to 5", 6), ValueError)
    assert isinstance(InvalidContext("context", "3 bars", 2), ValueError)
