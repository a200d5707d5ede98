"""Every error that this package raises on purpose, by what the caller does next.

    ForecasterError
    ├─ ConfigError                  stop, mend the file: names the key, what was expected and found
    ├─ SourceError                  this series sits out the cycle, by name
    │  ├─ SourceUnavailable         try again, with backoff
    │  │  ├─ RateLimited            … not before `retry_after` seconds
    │  │  └─ Banned                 … not before the exchange lifts its ban
    │  ├─ BadPayload                try again; the answer was not bars
    │  └─ UnknownSymbol             do not try again; the exchange does not list it
    ├─ BarsError                    this series sits out the cycle, by name
    │  ├─ InvalidBars               a row broke a rule of `Bars`
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
       ├─ LeaseLost                 another process writes now; nothing of this transaction was kept
       └─ LedgerConflict            the same key with another payload: an integrity alarm

A constructor takes the facts and makes its own message; the facts stay as attributes.
"""

from __future__ import annotations


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
    """Bars could not be had from a source."""

    def __init__(self, source: str, reason: str) -> None:
        super().__init__(f"{source}: {reason}")
        self.source = source
        self.reason = reason


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
        self.body = body


class UnknownSymbol(SourceError):
    """The source does not list this symbol."""

    def __init__(self, source: str, symbol: str, known: int) -> None:
        super().__init__(source, f"expected one of its {known} symbols, found {symbol!r}")
        self.symbol = symbol


class BarsError(ForecasterError):
    """The bars of one series cannot be used."""


class InvalidBars(BarsError):
    """A row broke a rule of `Bars`; `row` is its position."""

    def __init__(self, series: object, row: int, reason: str) -> None:
        super().__init__(f"{series}: row {row}: {reason}")
        self.row = row
        self.reason = reason


class MissingBars(BarsError):
    """The bar that should have closed at `cutoff` (UTC ms) is not there."""

    def __init__(self, series: object, cutoff: int, newest: int | None) -> None:
        super().__init__(f"{series}: expected a bar that closes at {cutoff}, the newest closes at {newest}")
        self.cutoff = cutoff


class NotEnoughBars(BarsError):
    """The context holds fewer real bars than the model needs; `cutoff` (UTC ms) where it is known."""

    def __init__(self, series: object, needed: int, found: int, cutoff: int | None = None) -> None:
        at = "" if cutoff is None else f" of cutoff {cutoff}"
        super().__init__(f"{series}: expected at least {needed} bars in the context{at}, found {found}")
        self.needed = needed
        self.found = found
        self.cutoff = cutoff


class BarNotClosed(BarsError):
    """The newest bar closes at `cutoff`, after `now` (UTC ms): it is not final."""

    def __init__(self, series: object, cutoff: int, now: int) -> None:
        super().__init__(f"{series}: expected bars that have closed by {now}, the last one closes at {cutoff}")
        self.cutoff = cutoff


class CalendarEnds(BarsError):
    """A calendar has no sessions after `end` (UTC ms), and one was needed; waiting does not mend that."""

    def __init__(self, calendar: str, needed: int, end: int) -> None:
        super().__init__(
            f"calendar {calendar}: expected sessions after {needed}, its last one closes at {end}: "
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


class InferenceError(ModelError):
    """The model raised on a valid context, eager as well; the causes are chained."""


class NonFiniteForecast(ModelError):
    """The model answered NaN or infinity."""

    def __init__(self, series: object, cutoff: int) -> None:
        super().__init__(f"{series}: expected a finite forecast at cutoff {cutoff}, found NaN or infinity")


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
            "expected a ledger, found none: start `forecaster run` or `forecaster once` first, or check its URL",
        )
        self.url = url


class SchemaTooNew(StoreError):
    """The database was written by a newer program."""

    def __init__(self, url: str, expected: int, found: int) -> None:
        super().__init__(f"store {url}: expected schema {expected} or older, found {found}")


class LeaseLost(StoreError):
    """Another process has taken over the ledger; `epoch` is what this one had."""

    def __init__(self, url: str, epoch: int) -> None:
        super().__init__(f"store {url}: expected to hold the lease of epoch {epoch}, another process has taken over")
        self.epoch = epoch


class LedgerConflict(StoreError):
    """A forecast of the same key with other numbers is already in the ledger."""

    def __init__(self, forecast_id: str) -> None:
        super().__init__(f"forecast {forecast_id} is in the ledger with other numbers")
        self.forecast_id = forecast_id
