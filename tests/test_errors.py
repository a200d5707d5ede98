"""Errors: the tree in the docstring is the tree of the classes, and each message says what to act on."""

from __future__ import annotations

import inspect

import pytest

from forecaster import errors
from forecaster.errors import (
    BadPayload,
    Banned,
    BarNotClosed,
    CalendarEnds,
    ConfigError,
    ForecasterError,
    InferenceError,
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
    StoreTaken,
    StoreUnavailable,
    UnknownSymbol,
)

CLASSES = dict(inspect.getmembers(errors, inspect.isclass))
SERIES = "kraken BTC/USD 1h"
NONE = "expected a ledger, found none: start `forecaster run` or `forecaster once` first"

MESSAGES = [
    (ConfigError("model.horizon", "1 or more", 0), "model.horizon: expected 1 or more, found 0"),
    (SourceUnavailable("kraken", "timed out after 10 s"), "kraken: timed out after 10 s"),
    (RateLimited("kraken", "too many requests", 2.5), "kraken: too many requests"),
    (Banned("kraken", "banned until noon"), "kraken: banned until noon"),
    (BadPayload("kraken", "a list of rows", "<html>"), "kraken: expected a list of rows, found '<html>'"),
    (UnknownSymbol("kraken", "BTC/XXX", 412), "kraken: expected one of its 412 symbols, found 'BTC/XXX'"),
    (InvalidBars(SERIES, 3, "low above open"), f"{SERIES}: row 3: low above open"),
    (MissingBars(SERIES, 7200, 3600), f"{SERIES}: expected a bar that closes at 7200, the newest closes at 3600"),
    (NotEnoughBars(SERIES, needed=64, found=9), f"{SERIES}: expected at least 64 bars in the context, found 9"),
    (
        BarNotClosed(SERIES, 7200, 7100),
        f"{SERIES}: expected bars that have closed by 7100, the last one closes at 7200",
    ),
    (
        CalendarEnds("XSHG", 9000, 7200),
        "calendar XSHG: expected sessions after 9000, its last one closes at 7200: upgrade exchange_calendars",
    ),
    (ModelLoadError("nano", "safetensors", "a pickle"), "model nano: expected safetensors, found a pickle"),
    (InvalidContext("step", "1 to 5", 6), "step: expected 1 to 5, found 6"),
    (NonFiniteForecast(SERIES, 7200), f"{SERIES}: expected a finite forecast at cutoff 7200, found NaN or infinity"),
    (StoreUnavailable("sqlite:///x.db", "disk is full"), "store sqlite:///x.db: disk is full"),
    (StoreTaken("sqlite:///x.db", "another writes"), "store sqlite:///x.db: another writes"),
    (
        LedgerMissing("sqlite:////x.db"),
        f"store sqlite:////x.db: {NONE}, or check its URL",
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
    assert InvalidBars(SERIES, 3, "low above open").row == 3
    assert LedgerConflict("ab12").forecast_id == "ab12"


def test_a_long_payload_is_cut():
    """An exchange may answer with a page of HTML; a log line is not the place for it."""
    assert len(str(BadPayload("kraken", "rows", "x" * 100_000))) < 300


def test_a_bad_call_is_a_value_error_too():
    """Python's own word for it, for callers who know nothing of ours."""
    assert isinstance(InvalidContext("step", "1 to 5", 6), ValueError)
