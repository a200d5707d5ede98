"""Reading a ledger: the latest forecast, history, accuracy and trust. No configuration, no lease, no torch, no network.

Works beside the service that writes the ledger, from any process.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import math
import re
import time
from numbers import Integral
from os import PathLike, fspath
from typing import TYPE_CHECKING, Final, Self

from forecaster.accuracy.loss_series import LossHistory
from forecaster.accuracy.scores import Scores
from forecaster.accuracy.trust import TRUSTED_CUTOFFS, compute_trust
from forecaster.clock import now_ms
from forecaster.cycle.settle import settled_losses
from forecaster.errors import ConfigError, InvalidArgument, StaleForecast, format_duration, format_time
from forecaster.ledger import LIVE, AccuracyReport, LedgerRow, RunId
from forecaster.store import Reader, open_reader
from forecaster.timeframe import DAY_MS
from forecaster.urls import ledger_url

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from forecaster.accuracy.losses import Losses
    from forecaster.accuracy.report.content import Scope, SeriesSection
    from forecaster.accuracy.trust import Trust
    from forecaster.bars import Bars, SeriesKey
    from forecaster.forecast import OHLCForecast

    Series = SeriesKey | tuple[str, str, str] | str
    """A series: its key, (exchange, symbol, timeframe), or the same three words in one text."""

BASELINES: Final = frozenset({"random_walk", "filtered_historical_simulation", "garch", "har_range"})
"""Names of models that are compared with, and never read unless they are named."""

_DURATION: Final = re.compile(r"(\d+)(m|h|d)")
_UNIT_MS: Final = {"m": 60_000, "h": 3_600_000, "d": DAY_MS}
_POLL_SECONDS: Final = 0.1
_LISTED: Final = 20
"""Number of known runs or series that an error names."""


class LedgerClient:
    """Reads a ledger. Safe to use from several threads.

    Args:
        ledger: path of an SQLite ledger, its URL (also of PostgreSQL), or an open reader.
        model: name of the model whose forecasts are read. When left out: the only one that is no baseline.
        series: the series that may be asked for. When left out: all in the ledger.

    Raises:
        StoreUnavailable: for a URL that cannot be opened.
    """

    def __init__(
        self, ledger: str | PathLike[str] | Reader, model: str | None = None, series: Sequence[SeriesKey] | None = None
    ) -> None:
        self.reader = open_reader(ledger_url(fspath(ledger))) if isinstance(ledger, str | PathLike) else ledger
        self._model = model
        self._given = series
        self._known: dict[Series, SeriesKey] = {}

    @property
    def series(self) -> list[SeriesKey]:
        """The series that may be asked for."""
        return list(self.reader.series() if self._given is None else self._given)

    @property
    def model(self) -> str:
        """Name of the model whose forecasts are read.

        Raises:
            InvalidArgument: when the ledger has several; pass one of them as `model`.
        """
        if self._model is None:
            names = sorted({model_id.name for model_id in self.reader.models()} - BASELINES)
            if len(names) != 1:
                raise InvalidArgument("model", f"one of {', '.join(names) or 'the models in the ledger'}", None)
            self._model = names[0]
        return self._model

    def key(self, series: Series) -> SeriesKey:
        """Return the key of a series.

        Raises:
            ConfigError: for a series that is not in the ledger (or configuration); names those that are.
        """
        name = " ".join(map(str, series)) if isinstance(series, tuple) else str(series)
        if series not in self._known and name not in self._known:
            self._known = {name: key for key in self.series for name in (key, str(key))}
        key = self._known.get(series) or self._known.get(name)
        if key is None:
            known = [name for name in self._known if isinstance(name, str)][:_LISTED]
            raise ConfigError("series", f"one of {', '.join(known) or 'none, the ledger is empty'}", name)
        return key

    def latest(
        self,
        series: Series,
        *,
        run: str = LIVE,
        as_of: int | None = None,
        max_age: str | dt.timedelta = "fresh",
    ) -> OHLCForecast | None:
        """Return the latest forecast of a series; None before the first one.

        `OHLCForecast.revised` names input bars that were revised after the forecast was issued.

        Args:
            series: its key, (exchange, symbol, timeframe), or the same in one text.
            run: id of the run, such as a replay's.
            as_of: UTC ms: the forecast that could be read then. When left out: now.
            max_age: how old its cutoff may be: `"fresh"` until its first target bar has closed; a duration such as
                `"90m"`, `"2h"`, `"3d"`; or `"any"`.

        Raises:
            StaleForecast: when the latest forecast is older; it is on the error as `forecast`.
            LedgerMissing: when there is no ledger.
            InvalidArgument: for a time in the future, or another `max_age`.
        """
        now = past(as_of)
        as_of = None if as_of is None else now
        key, limit_ms = self.key(series), _limit_ms(max_age)
        forecast = self.reader.latest(key, self.model, run, as_of=as_of)
        if forecast is None:
            self._check_names(run)
            return None
        forecast = self._with_input(forecast, as_of, run)
        if forecast.is_stale(now) if limit_ms is None else forecast.age(now) > limit_ms:
            raise StaleForecast(forecast, now, max_age if isinstance(max_age, str) else format_duration(limit_ms or 0))
        return forecast

    def _check_names(self, run: str) -> None:
        """Refuse a run or a model that is not in a ledger with forecasts.

        Raises:
            ConfigError: for an unknown run.
            InvalidArgument: for an unknown model.
        """
        names = sorted({model_id.name for model_id in self.reader.models()})
        if names and run != LIVE:
            check_run(self.reader, run)
        if names and self._given is None and self.model not in names:
            raise InvalidArgument("model", f"one of {', '.join(names)}", self.model)

    def _with_input(self, forecast: OHLCForecast, as_of: int | None, run: str) -> OHLCForecast:
        """Add the last close and the revised bars of the forecast's input."""
        key, cutoff = forecast.key, forecast.cutoff
        opens = key.trading_calendar.last_opens(key.timeframe, cutoff, forecast.provenance.batch_shape[-1])
        since = cutoff if forecast.issued_at is None else forecast.issued_at
        revised = self.reader.revised_open_times(key, int(opens[0]), cutoff, since, as_of)
        last = self.reader.bars(key, int(opens[-1]), cutoff, forecast.available_at, run)
        close = float(last.close[-1]) if len(last) else None
        return dataclasses.replace(forecast, revised=tuple(revised), last_close=close)

    def wait_for_next(self, series: Series, timeout: float, *, run: str = LIVE) -> OHLCForecast:
        """Wait for a forecast with a later cutoff than the latest one, and return it.

        Args:
            series: as in `latest`.
            timeout: seconds to wait.
            run: id of the run.

        Raises:
            TimeoutError: when none has been recorded by then.
            InvalidArgument: for a timeout below 0 or NaN.
        """
        if not timeout >= 0:
            raise InvalidArgument("timeout", "seconds, 0 or more", timeout)
        key, model = self.key(series), self.model
        before = self.reader.latest(key, model, run)
        deadline = time.monotonic() + timeout
        while True:
            forecast = self.reader.latest(key, model, run)
            if forecast is not None and (before is None or forecast.cutoff > before.cutoff):
                return self._with_input(forecast, None, run)
            left = deadline - time.monotonic()
            if left <= 0:
                msg = f"{key}: expected a new forecast within {timeout:g} s"
                raise TimeoutError(msg)
            time.sleep(min(_POLL_SECONDS, left))

    def bars(self, series: Series, start: int | None = None, end: int | None = None, run: str = LIVE) -> Bars:
        """Return the bars of a series that open in [start, end), UTC ms."""
        return self.reader.bars(self.key(series), start, end, run_id=run)

    def history(
        self, series: Series, start: int, end: int, *, run: str = LIVE, as_of: int | None = None
    ) -> list[LedgerRow]:
        """Return the rows of all models with a cutoff in [start, end), UTC ms; with `as_of`, as of then."""
        as_of = None if as_of is None else past(as_of)
        rows = self.reader.history(self.key(series), start, end, run, as_of)
        if not rows:
            self._check_names(run)
        return rows

    def accuracy(self, window: str | None = None, as_of: int | None = None, run: str = LIVE) -> list[AccuracyReport]:
        """Score the settled rows of a run by series, model, step and field, as served, without late ones.

        Args:
            window: only rows that settled within so many days before `as_of`, such as `30d`.
            as_of: UTC ms; now when left out.
            run: id of the run. `as_of` and `window` of a replay are times within it.

        Raises:
            ConfigError: for a run that is not in the ledger; names those that are.
            InvalidArgument: for a time in the future.
        """
        return Scores(self.losses(window, as_of, run)).reports()

    def losses(
        self,
        window: str | None = None,
        as_of: int | None = None,
        run: str = LIVE,
        keys: Iterable[SeriesKey] | None = None,
    ) -> Iterator[Losses]:
        """Measure the settled rows of a run, in portions: the input of `Scores` and `LossHistory`. See `accuracy`."""
        until = past(as_of)
        since = window_start(window, until)
        check_run(self.reader, run)
        return settled_losses(self.reader, self.series if keys is None else keys, until, since, run)

    def trust(self, series: Series, step: int = 1, as_of: int | None = None) -> Trust | None:
        """Return how far the live forecasts of a series can be trusted at a step; None before the first one settled.

        Trust is in the model revision that made the latest forecast.

        Raises:
            InvalidArgument: for a step outside the horizon, or a time in the future.
        """
        return trust_in(self.reader, self.key(series), self.model, step, past(as_of))

    def close(self) -> None:
        """Close the ledger."""
        self.reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def trust_in(reader: Reader, key: SeriesKey, model_name: str, step: int, as_of: int) -> Trust | None:
    """Return the trust in the live forecasts of a model; see `LedgerClient.trust`."""
    latest = reader.latest(key, model_name, as_of=as_of)
    if latest is None:
        return None
    if not 1 <= step <= latest.horizon:
        raise InvalidArgument("step", f"1 to {latest.horizon}", step)
    since = int(key.trading_calendar.last_opens(key.timeframe, as_of, TRUSTED_CUTOFFS)[0])
    history = LossHistory(settled_losses(reader, [key], as_of, since))
    model_id = latest.provenance.ledger_id
    if (key, model_id) not in history.pairs:
        return None
    return compute_trust(history, key, model_id, step, is_fresh=not latest.is_stale(as_of))


def report_section(
    reader: Reader, key: SeriesKey, scope: Scope, on_losses: Callable[[Losses], object] | None = None
) -> SeriesSection:
    """Gather what the report shows of one series. A replay has no trust.

    Args:
        reader: the ledger.
        key: the series.
        scope: model, run and time.
        on_losses: called with each portion that was read, for a progress bar.
    """
    from forecaster.accuracy.report.section import build_section  # noqa: PLC0415 - reports only

    losses = settled_losses(reader, [key], scope.as_of, scope.since, scope.run_id)
    trusted = trust_in(reader, key, scope.model_name, 1, scope.as_of) if scope.run_id == LIVE else None
    return build_section(reader, key, scope, losses if on_losses is None else _observed(losses, on_losses), trusted)


def _observed(losses: Iterator[Losses], on_losses: Callable[[Losses], object]) -> Iterator[Losses]:
    for portion in losses:
        on_losses(portion)
        yield portion


def check_run(reader: Reader, run_id: str) -> None:
    """Refuse a run that is not in the ledger.

    Raises:
        ConfigError: names the newest runs that are.
    """
    runs, recorded = {run.id: run.kind for run in reader.runs()}, RunId(run_id).recorded
    is_first_run = run_id == LIVE and "replay" not in runs.values()
    is_delayed_live = recorded == LIVE != run_id  # a live forecast was available when it was
    if is_delayed_live or (recorded not in runs and not is_first_run):
        others = [run for run, kind in runs.items() if kind != "predict" and run != LIVE]
        known = [LIVE] if LIVE in runs or not others else []
        listed = ", ".join([*known, *reversed(others)][:_LISTED])
        raise ConfigError("run", f"one of {listed}", run_id)


def window_start(window: str | None, until: int) -> int | None:
    """Return when a window such as `30d` that ends at `until` starts (UTC ms); None without one.

    Raises:
        ConfigError: for anything but a number of days.
    """
    if window is None:
        return None
    if not (window.endswith("d") and window[:-1].isdigit()):
        raise ConfigError("window", "a number of days such as 30d", window)
    return until - int(window[:-1]) * DAY_MS


def past(as_of: int | None) -> int:
    """Return a time that has passed (UTC ms); now when left out.

    Raises:
        InvalidArgument: for a time in the future: the answer as of then would change.
    """
    now = now_ms()
    given: object = now if as_of is None else as_of
    if isinstance(given, bool) or not isinstance(given, Integral):
        raise InvalidArgument("as_of", "UTC milliseconds, a whole number", repr(as_of))
    if as_of is not None and as_of > now:
        raise InvalidArgument("as_of", f"a time that has passed, {format_time(now)} at the latest", format_time(as_of))
    return int(given)


def _limit_ms(max_age: str | dt.timedelta) -> float | None:
    """Return an age in milliseconds; None for `fresh`, infinity for `any`."""
    if isinstance(max_age, dt.timedelta):
        return max_age.total_seconds() * 1000
    if max_age in {"fresh", "any"}:
        return None if max_age == "fresh" else math.inf
    parts = _DURATION.fullmatch(str(max_age))
    if parts is None:
        raise InvalidArgument("max_age", '"fresh", "any", or a duration such as "90m", "2h", "3d"', repr(max_age))
    return int(parts[1]) * _UNIT_MS[parts[2]]
