"""All errors of this package, grouped by what the caller does next.

    ForecasterError
    ├─ ConfigError                  stop and fix the file: names the key, what was expected and found
    ├─ InvalidArgument              fix the call: names the argument (also a ValueError)
    ├─ StaleForecast                the latest forecast is too old to trade on; it is on the error
    ├─ SourceError                  the series is skipped for this cycle
    │  ├─ SourceUnavailable         retried with backoff
    │  │  ├─ RateLimited              not before `retry_after` seconds
    │  │  └─ Banned                   not before the exchange lifts its ban
    │  ├─ BadPayload                retried; the answer was not bars
    │  │  └─ Ambiguous              stop and set the option that it names
    │  └─ UnknownSymbol             not retried; the exchange does not list it
    ├─ BarsError                    the series is skipped for this cycle
    │  ├─ InvalidBars               rows broke a rule of `Bars`
    │  ├─ MissingBars               the newest bar has not arrived
    │  ├─ NotEnoughBars             the context is too short
    │  ├─ BarNotClosed              the last bar is still forming: drop it
    │  └─ CalendarEnds              the calendar does not reach that far: upgrade exchange_calendars
    ├─ ModelError
    │  ├─ ModelLoadError            stop and fix the weights or their path
    │  ├─ InvalidContext            no model can use this context: its shape, length or values (also a ValueError)
    │  ├─ InferenceError            both engines failed on a valid context
    │  └─ NonFiniteForecast         the model returned NaN or infinity; nothing was recorded
    └─ StoreError
       ├─ StoreUnavailable          the database cannot be opened or written
       │  ├─ StoreTaken             another process is writing to it
       │  └─ LedgerMissing          there is no ledger at this URL yet
       ├─ SchemaTooNew              upgrade the program, not the database
       ├─ LeaseLost                 another process has taken over, or the file is gone; nothing was written
       └─ LedgerConflict            the same key with other numbers: an integrity alarm

A constructor takes facts, keeps them as attributes, and builds the message. Times are UTC ms in attributes and ISO
text in messages (`format_time`).
"""

from __future__ import annotations

import datetime as dt
import difflib
import re
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Collection

    from forecaster.forecast import OHLCForecast

_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_UNITS: Final = {"d": 86_400_000, "h": 3_600_000, "m": 60_000}
_MOST_NEAR: Final = 5
_NEAR: Final = 0.5
_LONGEST_TEXT: Final = 4_000
_UNSTORABLE: Final = re.compile("[\0\ud800-\udfff]")
"""Characters that a database cannot store in a text: NUL, and a lone surrogate."""


def format_time(time_ms: int | None, *, exact: bool = False) -> str:
    """Format a time (UTC ms): `2025-01-01 00:00 UTC`, with seconds where they are not zero.

    Milliseconds are shown only with `exact`.
    """
    if time_ms is None:
        return "none"
    try:
        time = _EPOCH + dt.timedelta(milliseconds=int(time_ms))
    except OverflowError:
        return f"{time_ms} ms since 1970"
    unit = "milliseconds" if exact and time.microsecond else "seconds" if time.second else "minutes"
    return f"{time.isoformat(' ', unit).removesuffix('+00:00')} UTC"


def format_duration(ms: float) -> str:
    """Format a duration: `1h`, `1d 12h`, `2m 30s`."""
    parts, left = [], float(ms)
    for unit, length in _UNITS.items():
        count, left = divmod(left, length)
        parts += [f"{count:.0f}{unit}"] * bool(count)
    return " ".join(parts + [f"{left / 1000:g}s"] * (left > 0 or not parts))


def storable(text: str) -> str:
    """Replace the characters that a database cannot store."""
    return _UNSTORABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def printable(text: object) -> str:
    """Return a text that is safe to print: names in files and answers may contain control characters.

    Control and bidirectional characters are replaced, tabs and line ends become spaces, a very long text is truncated.
    """
    text = str(text)
    shown = "".join(map(_shown, text[:_LONGEST_TEXT]))
    return shown if len(text) <= _LONGEST_TEXT else f"{shown}…"


def _shown(char: str) -> str:
    return char if char.isprintable() else " " if char.isspace() else "\N{REPLACEMENT CHARACTER}"


class ForecasterError(Exception):
    """The root of all errors of this package."""


class ConfigError(ForecasterError):
    """The configuration cannot be used."""

    def __init__(self, key: str, expected: str, found: object) -> None:
        super().__init__(f"{key}: expected {expected}, found {found!r:.200}")
        self.key = key
        self.expected = expected
        self.found = found


class InvalidArgument(ForecasterError, ValueError):
    """An argument is outside what the function accepts; `name` says which."""

    def __init__(self, name: str, expected: str, found: object) -> None:
        super().__init__(f"{name}: expected {expected}, found {found}")
        self.name = name
        self.expected = expected


class StaleForecast(ForecasterError):
    """The latest forecast is older than allowed; it is kept as `forecast`."""

    def __init__(self, forecast: OHLCForecast, now: int, max_age: str) -> None:
        allowed = max_age if max_age == "fresh" else f"at most {max_age} old"
        super().__init__(
            f"{forecast.key}: expected a forecast that is {allowed} at {format_time(now)}, "
            f"the latest has cutoff {format_time(forecast.cutoff)} "
            f"({format_duration(now - forecast.cutoff)} old): check that the service runs, or pass max_age"
        )
        self.forecast = forecast


class SourceError(ForecasterError):
    """A source did not give usable bars. The texts are safe to store."""

    def __init__(self, source: str, reason: str) -> None:
        self.source = source
        self.reason = storable(reason)
        super().__init__(f"{source}: {self.reason}")


class SourceUnavailable(SourceError):
    """The source did not answer, or is not available now; `retry_after` in seconds where it was given."""

    def __init__(self, source: str, reason: str, retry_after: float | None = None) -> None:
        super().__init__(source, reason)
        self.retry_after = retry_after


class RateLimited(SourceUnavailable):
    """The source asks for fewer requests."""


class Banned(SourceUnavailable):
    """The source refuses this address for a while."""


class BadPayload(SourceError):
    """The answer does not contain bars in the expected shape; `body` is the answer, where it is known."""

    def __init__(self, source: str, expected: str, found: object, body: str = "") -> None:
        super().__init__(source, f"expected {expected}, found {found!r:.200}")
        self.expected = expected
        self.found = found
        self.body = storable(body)


class Ambiguous(BadPayload):
    """A file or a frame can be read in more than one way; set `option` of `ParseOptions`, such as `timezone`.

    Args:
        source: the file.
        option: the key of the series in a configuration, and the option of a command without its hyphens.
        example: a possible value.
        found: why it is ambiguous.
    """

    def __init__(self, source: str, option: str, example: str, found: object) -> None:
        command = f"--{option.replace('_', '-')}"
        shown = f"{command} {example}".strip()
        super().__init__(source, f"`{option}` to be set ({shown}, or the key of the series)", found)
        self.option = option
        self.example = example


class UnknownSymbol(SourceError):
    """The source does not list this symbol; `near` are similar names, `hint` says what to do."""

    def __init__(self, source: str, symbol: str, known: Collection[str], hint: str = "") -> None:
        self.near = _nearest(symbol, known)
        near = f"; similar: {', '.join(self.near)}" if self.near else ""
        advice = f"; {hint}" if hint else ""
        super().__init__(source, f"expected one of its {len(known)} symbols, found {symbol!r:.200}{near}{advice}")
        self.symbol = symbol


class BarsError(ForecasterError):
    """The bars of one series cannot be used."""


class InvalidBars(BarsError):
    """Rows break a rule of `Bars`. Where known, `row` is the position of the first, and `option` may fix it."""

    def __init__(self, series: object, reason: str, row: int | None = None) -> None:
        super().__init__(f"{series}: {reason}" if row is None else f"{series}: row {row}: {reason}")
        self.row = row
        self.reason = reason
        self.option = ""

    @classmethod
    def refused(cls, series: object, reasons: Counter[str], rows: int, hint: str = "") -> Self:
        """Build the error for too many rejected rows, from the count of each reason."""
        (reason, count), *_ = reasons.most_common(1)
        summary = f"{reasons.total()} of {rows} rows are not bars: {reason} ({count})"
        error = cls(series, f"{summary}: {hint}" if hint else summary)
        named = re.search(r"`(\w+)`", hint)
        error.option = named[1] if named else ""
        return error


class MissingBars(BarsError):
    """The bar that should have closed at `cutoff` (UTC ms) is missing."""

    def __init__(self, series: object, cutoff: int, newest: int | None) -> None:
        found = "there are none" if newest is None else f"the newest closes at {format_time(newest)}"
        super().__init__(f"{series}: expected a bar that closes at {format_time(cutoff)}, {found}")
        self.cutoff = cutoff


class NotEnoughBars(BarsError):
    """The context holds fewer real bars than the model needs; `cutoff` (UTC ms) where it is known."""

    def __init__(self, series: object, needed: int, found: int, cutoff: int | None = None) -> None:
        at = "" if cutoff is None else f" of cutoff {format_time(cutoff)}"
        super().__init__(f"{series}: expected at least {needed} bars in the context{at}, found {found}")
        self.needed = needed
        self.found = found
        self.cutoff = cutoff


class BarNotClosed(BarsError):
    """The last bar closes at `cutoff`, after `now` (UTC ms): it is not final."""

    def __init__(self, series: object, cutoff: int, now: int) -> None:
        super().__init__(
            f"{series}: expected bars that have closed by {format_time(now)}, "
            f"the last one closes at {format_time(cutoff)}"
        )
        self.cutoff = cutoff


class CalendarEnds(BarsError):
    """A calendar has no sessions after `end` (UTC ms), and one is needed. Retrying does not help."""

    def __init__(self, calendar: str, needed: int, end: int) -> None:
        super().__init__(
            f"calendar {calendar}: expected sessions after {format_time(needed)}, "
            f"its last one closes at {format_time(end)}: upgrade exchange_calendars"
        )
        self.end = end


class ModelError(ForecasterError):
    """A model cannot be loaded or cannot forecast."""


class ModelLoadError(ModelError):
    """Weights or configuration of a model are missing, damaged or unsupported."""

    def __init__(self, model_id: str, expected: str, found: object) -> None:
        super().__init__(f"model {model_id}: expected {expected}, found {found}")
        self.model_id = model_id


class InvalidContext(ModelError, ValueError):
    """A context that no model can use: its shape, length or values are wrong."""

    def __init__(self, what: str, expected: str, found: object) -> None:
        super().__init__(f"{what}: expected {expected}, found {found}")
        self.expected = expected


class InferenceError(ModelError):
    """The model failed on a valid context, in eager mode too; the causes are chained."""


class NonFiniteForecast(ModelError):
    """The model returned NaN or infinity."""

    def __init__(self, series: object, cutoff: int) -> None:
        super().__init__(f"{series}: expected a finite forecast at cutoff {format_time(cutoff)}, found NaN or infinity")


class StoreError(ForecasterError):
    """The store cannot read or write."""


class StoreUnavailable(StoreError):
    """The database cannot be opened, read or written."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"store {url}: {reason}")


class StoreTaken(StoreUnavailable):
    """Another process is writing to the ledger."""


class LedgerMissing(StoreUnavailable):
    """There is no ledger to read: no file, or no tables in it. `url` has the absolute path and no password."""

    def __init__(self, url: str) -> None:
        super().__init__(
            url,
            "expected a ledger, found none: if there was one, it was moved or removed: restore it; else check the URL, "
            "or start `forecaster run` or `forecaster once` first",
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
    """Return the most similar names, best first, with the same quote first among equals; all if there are few."""
    matcher = difflib.SequenceMatcher(None, "", symbol.casefold(), autojunk=False)
    quote, nearness = symbol.partition("/")[2], {}
    for name in known:
        matcher.set_seq1(name.casefold())
        nearness[name] = (matcher.ratio(), name.partition("/")[2] == quote, name)
    near = sorted(nearness, key=nearness.__getitem__, reverse=True)[:_MOST_NEAR]
    return tuple(name for name in near if len(known) <= _MOST_NEAR or nearness[name][0] >= _NEAR)
