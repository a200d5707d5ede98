"""Every error that this package raises on purpose, by what the caller does next.

    ForecasterError
    ├─ ConfigError                  stop, mend the file: names the key, what was expected and found
    ├─ SourceError                  this series sits out the cycle, by name
    │  ├─ SourceUnavailable         try again, with backoff
    │  │  ├─ RateLimited            … not before `retry_after` seconds
    │  │  └─ Banned                 … not before the exchange lifts its ban
    │  ├─ BadPayload                try again; the answer was not bars
    │  │  └─ Ambiguous              stop, say how it is to be read: names the option
    │  └─ UnknownSymbol             do not try again; the exchange does not list it
    ├─ BarsError                    this series sits out the cycle, by name
    │  ├─ InvalidBars               rows broke a rule of `Bars`
    │  ├─ MissingBars               the newest bar has not arrived
    │  ├─ NotEnoughBars             the context is too short
    │  ├─ BarNotClosed              the last bar is still forming: leave it out
    │  └─ CalendarEnds              the calendar is not known so far: upgrade exchange_calendars
    ├─ ModelError
    │  ├─ ModelLoadError            stop, mend the weights or their path
    │  ├─ InvalidContext            mend the call: shape, horizon or values (also a ValueError)
    │  ├─ InferenceError            both engines failed on a valid context
    │  └─ NonFiniteForecast         the model answered NaN or infinity; nothing was recorded
    └─ StoreError
       ├─ StoreUnavailable          the database cannot be opened or written
       │  ├─ StoreTaken             another process writes it
       │  └─ LedgerMissing          nothing has been written there yet, or the URL names another place
       ├─ SchemaTooNew              upgrade the program, not the database
       ├─ LeaseLost                 another process writes now, or the file is gone; nothing of this was kept
       └─ LedgerConflict            the same key with another payload: an integrity alarm

A constructor takes the facts and makes its own message; the facts stay as attributes. Times are UTC milliseconds as
attributes and dates in messages: `utc_text`.
"""

from __future__ import annotations

import datetime as dt
import difflib
import re
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Collection

_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_UNITS: Final = {"d": 86_400_000, "h": 3_600_000, "m": 60_000}
_MOST_NEAR: Final = 5
_NEAR: Final = 0.5
_LONGEST_TEXT: Final = 4_000
_UNSTORABLE: Final = re.compile("[\0\ud800-\udfff]")
"""What PostgreSQL or any database cannot keep in a text: NUL, and one half of a pair of surrogates."""


def utc_text(time_ms: int | None, *, exact: bool = False) -> str:
    """Write a time (UTC ms) for people: `2025-01-01 00:00 UTC`, with seconds only when there are any.

    Milliseconds are left out, but where `exact` asks for them.
    """
    if time_ms is None:
        return "none"
    try:
        time = _EPOCH + dt.timedelta(milliseconds=int(time_ms))
    except OverflowError:
        return f"{time_ms} ms since 1970"
    unit = "milliseconds" if exact and time.microsecond else "seconds" if time.second else "minutes"
    return f"{time.isoformat(' ', unit).removesuffix('+00:00')} UTC"


def duration_text(ms: float) -> str:
    """Write a length of time for people, as timeframes are written: `1h`, `1d 12h`, `2m 30s`."""
    parts, left = [], float(ms)
    for unit, length in _UNITS.items():
        count, left = divmod(left, length)
        parts += [f"{count:.0f}{unit}"] * bool(count)
    return " ".join(parts + [f"{left / 1000:g}s"] * (left > 0 or not parts))


def storable(text: str) -> str:
    """Replace the characters that some database does not keep."""
    return _UNSTORABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def printable(text: object) -> str:
    """Give a text that a terminal shows and does not obey: names in files and answers may hold control characters.

    What moves a cursor or turns the direction of writing is replaced; a tab or the end of a line becomes a space; a
    very long text is cut.
    """
    text = str(text)
    shown = "".join(map(_shown, text[:_LONGEST_TEXT]))
    return shown if len(text) <= _LONGEST_TEXT else f"{shown}…"


def _shown(char: str) -> str:
    return char if char.isprintable() else " " if char.isspace() else "\N{REPLACEMENT CHARACTER}"


class ForecasterError(Exception):
    """The root: everything that this package raises on purpose."""


class ConfigError(ForecasterError):
    """The configuration cannot be used."""

    def __init__(self, key: str, expected: str, found: object) -> None:
        super().__init__(f"{key}: expected {expected}, found {found!r:.200}")
        self.key = key
        self.expected = expected
        self.found = found


class SourceError(ForecasterError):
    """Bars could not be had from a source; its texts can be stored, whatever the source has sent."""

    def __init__(self, source: str, reason: str) -> None:
        self.source = source
        self.reason = storable(reason)
        super().__init__(f"{source}: {self.reason}")


class SourceUnavailable(SourceError):
    """The source did not answer, or answered that it cannot now; `retry_after` in seconds where it said so."""

    def __init__(self, source: str, reason: str, retry_after: float | None = None) -> None:
        super().__init__(source, reason)
        self.retry_after = retry_after


class RateLimited(SourceUnavailable):
    """The source asks for fewer requests."""


class Banned(SourceUnavailable):
    """The source refuses this address for a while."""


class BadPayload(SourceError):
    """The answer was not bars: expected one shape, found another; `body` is what came, where it is known."""

    def __init__(self, source: str, expected: str, found: object, body: str = "") -> None:
        super().__init__(source, f"expected {expected}, found {found!r:.200}")
        self.expected = expected
        self.found = found
        self.body = storable(body)


class Ambiguous(BadPayload):
    """A file or a frame can be read in more than one way: `option` of `Reading` settles it, such as `timezone`.

    Args:
        source: the file.
        option: the key of the series in a configuration, and the option of a command without its hyphens.
        example: a value that it may have.
        found: why it is ambiguous.
    """

    def __init__(self, source: str, option: str, example: str, found: object) -> None:
        command = f"--{option.replace('_', '-')}"
        shown = f"{command} {example}".strip()
        super().__init__(source, f"`{option}` to be said ({shown}, or the key of the series)", found)
        self.option = option
        self.example = example


class UnknownSymbol(SourceError):
    """The source does not list this symbol; `near` are known names like it, `hint` says what to do."""

    def __init__(self, source: str, symbol: str, known: Collection[str], hint: str = "") -> None:
        self.near = _nearest(symbol, known)
        near = f"; near ones: {', '.join(self.near)}" if self.near else ""
        told = f"; {hint}" if hint else ""
        super().__init__(source, f"expected one of its {len(known)} symbols, found {symbol!r:.200}{near}{told}")
        self.symbol = symbol


class BarsError(ForecasterError):
    """The bars of one series cannot be used."""


class InvalidBars(BarsError):
    """Rows broke a rule of `Bars`; where it is known, `row` is the position of the first, and `option` may mend it."""

    def __init__(self, series: object, reason: str, row: int | None = None) -> None:
        super().__init__(f"{series}: {reason}" if row is None else f"{series}: row {row}: {reason}")
        self.row = row
        self.reason = reason
        self.option = ""

    @classmethod
    def refused(cls, series: object, reasons: Counter[str], rows: int, hint: str = "") -> Self:
        """Make the error for too many refused rows out of so many, from how often each reason came."""
        (reason, count), *_ = reasons.most_common(1)
        told = f"{reasons.total()} of {rows} rows are no bars: {reason} ({count})"
        error = cls(series, f"{told}: {hint}" if hint else told)
        named = re.search(r"`(\w+)`", hint)
        error.option = named[1] if named else ""
        return error


class MissingBars(BarsError):
    """The bar that should have closed at `cutoff` (UTC ms) is not there."""

    def __init__(self, series: object, cutoff: int, newest: int | None) -> None:
        found = "there are none" if newest is None else f"the newest closes at {utc_text(newest)}"
        super().__init__(f"{series}: expected a bar that closes at {utc_text(cutoff)}, {found}")
        self.cutoff = cutoff


class NotEnoughBars(BarsError):
    """The context holds fewer real bars than the model needs; `cutoff` (UTC ms) where it is known."""

    def __init__(self, series: object, needed: int, found: int, cutoff: int | None = None) -> None:
        at = "" if cutoff is None else f" of cutoff {utc_text(cutoff)}"
        super().__init__(f"{series}: expected at least {needed} bars in the context{at}, found {found}")
        self.needed = needed
        self.found = found
        self.cutoff = cutoff


class BarNotClosed(BarsError):
    """The newest bar closes at `cutoff`, after `now` (UTC ms): it is not final."""

    def __init__(self, series: object, cutoff: int, now: int) -> None:
        super().__init__(
            f"{series}: expected bars that have closed by {utc_text(now)}, the last one closes at {utc_text(cutoff)}"
        )
        self.cutoff = cutoff


class CalendarEnds(BarsError):
    """A calendar has no sessions after `end` (UTC ms), and one was needed; waiting does not mend that."""

    def __init__(self, calendar: str, needed: int, end: int) -> None:
        super().__init__(
            f"calendar {calendar}: expected sessions after {utc_text(needed)}, its last one closes at {utc_text(end)}: "
            "upgrade exchange_calendars"
        )
        self.end = end


class ModelError(ForecasterError):
    """A model cannot be loaded or cannot forecast."""


class ModelLoadError(ModelError):
    """Weights or configuration of a model are missing, damaged or of another kind."""

    def __init__(self, model_id: str, expected: str, found: object) -> None:
        super().__init__(f"model {model_id}: expected {expected}, found {found}")
        self.model_id = model_id


class InvalidContext(ModelError, ValueError):
    """A call that no model could answer: wrong shape, horizon or values."""

    def __init__(self, what: str, expected: str, found: object) -> None:
        super().__init__(f"{what}: expected {expected}, found {found}")
        self.expected = expected


class InferenceError(ModelError):
    """The model raised on a valid context, eager as well; the causes are chained."""


class NonFiniteForecast(ModelError):
    """The model answered NaN or infinity."""

    def __init__(self, series: object, cutoff: int) -> None:
        super().__init__(f"{series}: expected a finite forecast at cutoff {utc_text(cutoff)}, found NaN or infinity")


class StoreError(ForecasterError):
    """The store cannot keep or give what was asked."""


class StoreUnavailable(StoreError):
    """The database cannot be opened, read or written."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"store {url}: {reason}")


class StoreTaken(StoreUnavailable):
    """Another process writes."""


class LedgerMissing(StoreUnavailable):
    """There is no ledger to read: no file, or one without tables; `url` has its absolute path, and no password."""

    def __init__(self, url: str) -> None:
        super().__init__(
            url,
            "expected a ledger, found none: if there was one, it was moved or removed: bring it back; else check its "
            "URL, or start `forecaster run` or `forecaster once` first",
        )
        self.url = url


class SchemaTooNew(StoreError):
    """The database was written by a newer program."""

    def __init__(self, url: str, expected: int, found: int) -> None:
        super().__init__(f"store {url}: expected schema {expected} or older, found {found}")


class LeaseLost(StoreError):
    """Another process has taken over the ledger, or its file is gone; `epoch` is what this one had."""

    def __init__(self, url: str, epoch: int, found: str = "another process has taken over") -> None:
        super().__init__(f"store {url}: expected to hold the lease of epoch {epoch}, {found}")
        self.epoch = epoch


class LedgerConflict(StoreError):
    """A forecast of the same key with other numbers is already in the ledger."""

    def __init__(self, forecast_id: str) -> None:
        super().__init__(f"forecast {forecast_id} is in the ledger with other numbers")
        self.forecast_id = forecast_id


def _nearest(symbol: str, known: Collection[str]) -> tuple[str, ...]:
    """The names most like a symbol, nearest first, of two alike the one with its quote; all when there are few."""
    matcher = difflib.SequenceMatcher(None, "", symbol.casefold(), autojunk=False)
    quote, nearness = symbol.partition("/")[2], {}
    for name in known:
        matcher.set_seq1(name.casefold())
        nearness[name] = (matcher.ratio(), name.partition("/")[2] == quote, name)
    near = sorted(nearness, key=nearness.__getitem__, reverse=True)[:_MOST_NEAR]
    return tuple(name for name in near if len(known) <= _MOST_NEAR or nearness[name][0] >= _NEAR)
