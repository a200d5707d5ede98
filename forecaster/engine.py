"""The one path of a forecast: bars in, contexts cut, models asked, ledger written, outcomes settled.

`Forecaster.forecast` is the only caller of a model. All three doors end there: the daemon through
`run_cycle`, strategies through `predict`, a replay with contexts of its own.
"""

from __future__ import annotations

import dataclasses
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Self, TypeVar

import numpy as np
import structlog

from forecaster.accuracy.score import Scores
from forecaster.bars import NO_TIME, Bars, Context, RejectedRow, SeriesKey
from forecaster.clock import now_ms
from forecaster.config import Config, default_config_path, load_config
from forecaster.errors import BadPayload, BarsError, ConfigError, NotEnoughBars, SourceError
from forecaster.ledger import LIVE, AccuracyReport, LedgerRow, Run, SettledRow, Slot
from forecaster.model import Model, load_baselines, load_model
from forecaster.sources import BarSource, Fetched, open_source
from forecaster.store import Reader, Store, open_reader, open_store
from forecaster.timeframe import DAY_MS, Timeframe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    import pandas as pd

    from forecaster.forecast import OHLCForecast

_log = structlog.get_logger(__name__)
_BARS_ASKED_AGAIN = 3
_CATCH_UP = 24
_T = TypeVar("_T")


@dataclass(frozen=True)
class CycleReport:
    """What one cycle did. `settled` are the ledger rows whose target bar arrived in it, but for late ones."""

    timeframe: Timeframe
    as_of: int
    series: int
    bars_added: int
    forecasts: list[OHLCForecast]
    settled: list[SettledRow]
    skipped: dict[SeriesKey, str]
    seconds: float


@dataclass
class _Skipped:
    """Series that sit out a cycle, by name, with the reason."""

    reasons: dict[SeriesKey, str] = field(default_factory=dict)

    def trying(self, keys: Iterable[SeriesKey], step: Callable[[SeriesKey], _T]) -> dict[SeriesKey, _T]:
        """Run `step` for each series that is still in; one that fails by name sits out from here on."""
        done: dict[SeriesKey, _T] = {}
        for key in keys:
            if key in self.reasons:
                continue
            try:
                done[key] = step(key)
            except (SourceError, BarsError) as error:
                self.reasons[key] = f"{type(error).__name__}: {error}"
                _log.warning("series.skipped", series=str(key), reason=self.reasons[key])
        return done


class Forecaster:
    """Forecasts, records and scores the series of a configuration.

    Args:
        config: what to forecast and how.
        store: where bars and forecasts are kept; when left out, what the configuration names, opened to be written by
            the first call that writes.
        sources: where the bars of each series come from; what the configuration names when left out.
        models: the model, then its baselines; loaded at the first forecast when left out.
    """

    def __init__(
        self,
        config: Config,
        store: Store | None = None,
        sources: dict[SeriesKey, BarSource] | None = None,
        models: Sequence[Model] | None = None,
    ) -> None:
        self.config = config
        self._store = store
        self._given_sources = sources
        self._given_models = models

    @classmethod
    def from_config(cls, path: str | Path | None = None) -> Forecaster:
        """Open what a configuration file names; `FORECASTER_CONFIG` or the embedded demo when left out.

        Raises:
            ConfigError: names the key, what was expected and found.
        """
        return cls(load_config(path or default_config_path()))

    @property
    def store(self) -> Store:
        """The store, to be written: no other process writes it until this is closed.

        Raises:
            StoreError: when it cannot be opened, or another process writes it.
        """
        if self._store is None:
            self._store = open_store(self.config.store.url)
        return self._store

    @property
    def reader(self) -> Reader:
        """The store, to be read, beside whoever writes it."""
        return self._opened_reader if self._store is None else self._store

    @cached_property
    def _opened_reader(self) -> Reader:
        return open_reader(self.config.store.url)

    @cached_property
    def _sources(self) -> dict[SeriesKey, BarSource]:
        """Where the bars of each series come from; what lies in one place is shared."""
        if self._given_sources is not None:
            return self._given_sources
        places: dict[tuple[str, Path | None], BarSource] = {}
        for one in self.config.series:
            place = (one.exchange, one.file)
            places[place] = places.get(place) or open_source(self.config, one, self.store)
        return {one.key: places[one.exchange, one.file] for one in self.config.series}

    @cached_property
    def models(self) -> list[Model]:
        """The model, then its baselines."""
        if self._given_models is not None:
            return list(self._given_models)
        return [load_model(self.config.model), *load_baselines(self.config.model)]

    @property
    def model_name(self) -> str:
        """What the configuration calls the model; known without loading it."""
        return self._given_models[0].name if self._given_models else self.config.model.id

    @cached_property
    def series(self) -> list[SeriesKey]:
        """The configured series."""
        return [one.key for one in self.config.series]

    @cached_property
    def timeframes(self) -> list[Timeframe]:
        """The timeframes of the configured series, each once."""
        return list(dict.fromkeys(key.timeframe for key in self.series))

    def run_cycle(self, timeframe: Timeframe, as_of: int, started_at: int | None = None) -> CycleReport:
        """Take one timeframe's pass over all its series, as things stand at `as_of` (UTC ms).

        A cycle that is repeated changes nothing. A series whose bars cannot be had or used sits out,
        by name; any other fault is raised. Forecasts are stamped with `started_at` (`as_of` when left
        out) and the time that the cycle had taken by then, so waiting for bars is never hidden.
        """
        started = time.perf_counter()
        models = self.models  # a model that cannot be loaded stops the cycle before anything is written
        skipped = _Skipped()
        keys = [key for key in self.series if key.timeframe == timeframe]
        owed = {key: self._owed(key, as_of) for key in keys}
        added = self._pull(keys, as_of, skipped)
        contexts = skipped.trying([key for key in keys if owed[key]], lambda key: self._contexts(owed[key]))
        issued_at = (as_of if started_at is None else started_at) + _ms_since(started)
        ready = [context for of_key in contexts.values() for context in of_key]
        made = self.forecast(ready, issued_at=issued_at)
        self._settle_slots(owed, made, skipped.reasons, as_of)
        arrived = self.store.settled_rows(as_of, since=as_of - 1)
        report = CycleReport(
            timeframe=timeframe,
            as_of=as_of,
            series=len(keys),
            bars_added=added,
            forecasts=made,
            settled=[one for one in arrived if one.row.key.timeframe == timeframe and not one.row.late],
            skipped=skipped.reasons,
            seconds=time.perf_counter() - started,
        )
        self._log_cycle(report, models[0])
        return report

    def backfill(self, key: SeriesKey, since: int, as_of: int) -> Iterator[tuple[int, int]]:
        """Fetch a series' history from `since` (UTC ms) on, part by part, each durable before the next is asked for.

        Yields how many bars of a part are new, and how far the history has come (UTC ms). Begins with the first slot
        that is still owed, so a run that was stopped goes on.

        Raises:
            SourceError: as its kind says; what came before is kept.
        """
        yield from self._parts(key, max(since, self._owed_since(key, since)), as_of)

    def pull(self, keys: Sequence[SeriesKey], as_of: int) -> tuple[int, dict[SeriesKey, str]]:
        """Fetch the bars after the last stored one, check and store them.

        Returns how many rows were added, and the series that could not be had, with the reason.
        """
        skipped = _Skipped()
        return self._pull(keys, as_of, skipped), skipped.reasons

    def forecast(
        self,
        contexts: Sequence[Context],
        *,
        issued_at: int | Sequence[int],
        run: Run | None = None,
        horizon: int | None = None,
        latency_ms: int | None = None,
    ) -> list[OHLCForecast]:
        """Ask every model for every context and record the answers; returns the first model's, in order.

        Args:
            contexts: what to forecast from.
            issued_at: UTC ms at which the forecasts were asked for: one for all, or one each.
            run: the run that they belong to; the live one when left out.
            horizon: bars to forecast; the configured number when left out.
            latency_ms: time until a reader could have had them; measured when left out.
        """
        if not contexts:
            return []
        started = time.perf_counter()
        issued = [issued_at] * len(contexts) if isinstance(issued_at, int) else list(issued_at)
        run = run or Run(LIVE, LIVE, min(issued))
        answers = [model.predict(contexts, horizon or self.config.model.horizon) for model in self.models]
        latency = _ms_since(started) if latency_ms is None else latency_ms
        stamped = [
            [
                dataclasses.replace(one, issued_at=at, available_at=at + latency)
                for one, at in zip(made, issued, strict=True)
            ]
            for made in answers
        ]
        self.store.add_run(run)
        self.store.add_forecasts([one for made in stamped for one in made], run.id)
        return stamped[0]

    def predict(
        self, bars: Bars | pd.DataFrame, horizon: int | None = None, key: SeriesKey | None = None
    ) -> OHLCForecast:
        """Forecast what follows bars in hand, by the same path, and record it under a run of its own.

        Args:
            bars: `Bars`, or a frame with open, high, low, close indexed by open time, for `key`.
            horizon: bars to forecast; the configured number when left out.
            key: the series of a frame; the only configured one when left out.

        Raises:
            BarsError: when the bars break a rule or are too few.
        """
        given = bars if isinstance(bars, Bars) else Bars.from_frame(key or self._only_series(), bars)
        if not len(given):
            raise NotEnoughBars(given.key, self.config.model.min_context, 0)
        context = self._cut(given, int(given.close_time[-1]))
        horizon = horizon or self.config.model.horizon
        now = now_ms()
        run = Run(f"predict-{context.sha256[:16]}-h{horizon}", "predict", now)
        return self.forecast([context], issued_at=now, run=run, horizon=horizon)[0]

    def latest(self, exchange: str, symbol: str, timeframe: str) -> OHLCForecast | None:
        """Read the newest live forecast of a series from the ledger: no network, no model. None before the first."""
        return self.reader.latest(self._configured(exchange, symbol, timeframe), self.model_name)

    def history(self, exchange: str, symbol: str, timeframe: str, start: int, end: int) -> list[LedgerRow]:
        """Read the live rows whose cutoff lies in [start, end), UTC ms, all models."""
        return self.reader.history(self._configured(exchange, symbol, timeframe), start, end)

    def accuracy(self, window: str | None = None, as_of: int | None = None, run_id: str = LIVE) -> list[AccuracyReport]:
        """Score a run's settled rows by series, model, step and field.

        Args:
            window: only rows that settled within so many days before `as_of`, such as `30d`.
            as_of: UTC ms; now when left out.
            run_id: which run.
        """
        until = now_ms() if as_of is None else as_of
        since = None if window is None else until - _days(window) * DAY_MS
        settled = self.reader.settled_rows(until, since, run_id)
        return Scores(one for one in settled if not one.row.late).reports()

    def chosen(self, name: str | None) -> list[SeriesKey]:
        """Give the configured series of this name, `EXCHANGE SYMBOL TIMEFRAME`; all when it is None.

        Raises:
            ConfigError: when there is none of that name.
        """
        found = [key for key in self.series if name in (None, str(key))]
        if not found:
            raise ConfigError("series", f"one of {', '.join(map(str, self.series))}", name)
        return found

    def all_bars(self, key: SeriesKey, as_of: int) -> Bars:
        """Fetch all that the source of a series has, keep it, and give it: the history that a replay needs."""
        self._receive(key, 0, as_of, lambda: self._sources[key].fetch(key, None, as_of))
        return self.store.bars(key)

    def close(self) -> None:
        """Let go of sources and store."""
        if "_sources" in self.__dict__:
            for source in set(self._sources.values()):
                source.close()
        if "_opened_reader" in self.__dict__:
            self._opened_reader.close()
        if self._store is not None:
            self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _pull(self, keys: Sequence[SeriesKey], as_of: int, skipped: _Skipped) -> int:
        """Fetch all series at once, so that none waits for another, and store them one after the other."""
        since = {key: self._owed_since(key, self._first_slot(key, as_of)) for key in keys}
        with ThreadPoolExecutor(max(1, len(keys))) as pool:
            asked = {key: pool.submit(self._sources[key].fetch, key, since[key], as_of) for key in keys}
            kept = skipped.trying(keys, lambda key: self._catch_up(key, since[key], as_of, asked[key].result))
        return sum(kept.values())

    def _catch_up(self, key: SeriesKey, since: int, as_of: int, fetch: Callable[[], Fetched]) -> int:
        """Take in a first answer, and ask for the rest where it was but a part; returns how many bars are new."""
        added, reached = self._receive(key, since, as_of, fetch)
        return added + sum(new for new, _ in self._parts(key, reached, as_of))

    def _parts(self, key: SeriesKey, cursor: int, as_of: int) -> Iterator[tuple[int, int]]:
        """Fetch part by part up to `as_of`: how many bars are new in each, and how far it came."""
        while cursor < as_of:
            fetch = partial(self._sources[key].fetch, key, cursor, as_of)
            added, cursor = self._receive(key, cursor, as_of, fetch)
            yield added, cursor

    def _owed_since(self, key: SeriesKey, first: int) -> int:
        """Open time from which on a source is to be asked, so that nothing from `first` on stays missing.

        The newest bars are asked for again: they may have been revised. So is every slot without a bar, until it was
        asked for at two times a bar apart: then nobody traded in it.
        """
        newest = self.store.newest_open(key)
        if newest is None:
            return first
        step = key.timeframe.ms
        missing = self._missing(key, first, newest)
        gaps = self.store.gaps(key, first, newest) if missing else {}
        owed = [open_time for open_time in missing if not _is_settled(gaps.get(open_time, []), step)]
        again: list[int] = key.sessions.last_opens(key.timeframe, newest + step, _BARS_ASKED_AGAIN).tolist()
        return min([*owed[:1], *again[:1], newest])

    def _missing(self, key: SeriesKey, start: int, end: int) -> list[int]:
        """Open times in [start, end) that the calendar expects and the store has not."""
        expected = key.sessions.opens_between(key.timeframe, start, end)
        missing: list[int] = np.setdiff1d(expected, self.store.opens(key, start, end), assume_unique=True).tolist()
        return missing

    def _receive(self, key: SeriesKey, since: int, as_of: int, fetch: Callable[[], Fetched]) -> tuple[int, int]:
        """Take what a source gives: bars, what it refused, and slots where it had nothing.

        Returns how many bars are new, and how far the source was asked.
        """
        try:
            fetched = fetch()
        except BadPayload as error:
            self.store.quarantine(key, [RejectedRow(NO_TIME, (), error.reason, error.body)], as_of)
            raise
        self.store.quarantine(key, fetched.rejected, as_of)
        added = self.store.add_bars(fetched.bars)
        if len(fetched.bars):
            # Before a series' first bar, only slots that a context can hold are worth a note.
            known_from = min(self.store.oldest_open(key) or 0, self._first_slot(key, as_of))
            answered_from = since if fetched.since is None else fetched.since
            missing = self._missing(key, max(answered_from, known_from), int(fetched.bars.open_time[-1]))
            self.store.add_gaps(key, missing, as_of)
        if fetched.since is not None:
            _log.warning("bars.history_ends", series=str(key), asked_since=since, answered_since=fetched.since)
        if fetched.fault is not None:
            raise fetched.fault
        return added, as_of if fetched.until is None else fetched.until

    def _owed(self, key: SeriesKey, as_of: int) -> list[Slot]:
        """The forecasts of a series that are due and not there: the newest, and those that were missed before it.

        What was missed is caught up on as far back as `_CATCH_UP` bars: each from the bars up to its own cutoff, and
        flagged late. Written down as owed before anything else is done, so that a process that dies leaves a trace.
        """
        closes = key.sessions.closes_of(key.timeframe, key.sessions.last_opens(key.timeframe, as_of, _CATCH_UP))
        known = {slot.cutoff: slot for slot in self.store.slots(key, int(closes[0]), int(closes[-1]) + 1)}
        is_new = not known and self.store.latest(key, self.model_name) is None
        first = int(closes[-1]) if is_new else min(known, default=int(closes[0]))
        owed = [
            dataclasses.replace(slot, state="leased", attempts=slot.attempts + 1, leased_until=as_of + key.timeframe.ms)
            for slot in (known.get(cutoff, Slot(key, cutoff)) for cutoff in closes.tolist() if cutoff >= first)
            if slot.state not in {"done", "gap"}
        ]
        self.store.set_slots(owed, as_of)
        return owed

    def _contexts(self, owed: Sequence[Slot]) -> list[Context]:
        """The contexts of what a series owes, of those that can be had.

        Raises:
            BarsError: when the newest cannot.
        """
        key, newest = owed[0].key, owed[-1].cutoff
        bars = self.store.bars(key, start=self._first_slot(key, owed[0].cutoff))
        contexts = []
        for slot in owed:
            try:
                contexts.append(self._cut(bars, slot.cutoff))
            except BarsError:
                if slot.cutoff == newest:
                    raise
        return contexts

    def _settle_slots(
        self, owed: dict[SeriesKey, list[Slot]], made: Sequence[OHLCForecast], skipped: dict[SeriesKey, str], as_of: int
    ) -> None:
        """Write down what became of the work: done, failed for a reason, or a gap where no bar came in time."""
        done = {(one.key, one.cutoff) for one in made}
        ended = []
        for key, slots in owed.items():
            for slot in slots:
                state = "done" if (key, slot.cutoff) in done else "failed" if key in skipped else "gap"
                reason = "" if state == "done" else skipped.get(key, "no bars to forecast from")
                ended.append(dataclasses.replace(slot, state=state, reason=reason, leased_until=0))
        self.store.set_slots(ended, as_of)

    def _first_slot(self, key: SeriesKey, as_of: int) -> int:
        """Open time of the oldest bar that a context at `as_of` can hold."""
        return int(key.sessions.last_opens(key.timeframe, as_of, self.config.model.context)[0])

    def _cut(self, bars: Bars, cutoff: int) -> Context:
        return Context.ending_at(bars, cutoff, self.config.model.context, self.config.model.min_context)

    def _configured(self, exchange: str, symbol: str, timeframe: str) -> SeriesKey:
        return self.chosen(f"{exchange} {symbol} {timeframe}")[0]

    def _only_series(self) -> SeriesKey:
        if len(self.series) > 1:
            raise ConfigError("key", "the series of the frame, since several are configured", None)
        return self.series[0]

    def _log_cycle(self, report: CycleReport, model: Model) -> None:
        _log.info(
            "cycle.completed",
            timeframe=str(report.timeframe),
            as_of=report.as_of,
            series=report.series,
            bars_added=report.bars_added,
            forecasts=len(report.forecasts),
            settled=len(report.settled),
            skipped={str(key): reason for key, reason in report.skipped.items()},
            engine=model.engine,
            seconds=round(report.seconds, 3),
        )


def _is_settled(asked: list[int], step: int) -> bool:
    """Whether a slot was asked for often enough to say that it has no bar."""
    return bool(asked) and asked[-1] - asked[0] >= step


def _ms_since(started: float) -> int:
    """Milliseconds since a reading of the performance counter."""
    return round((time.perf_counter() - started) * 1000)


def _cutoff(key: SeriesKey, as_of: int) -> int:
    """Close of the last bar that should exist at `as_of`."""
    return int(key.sessions.closes_of(key.timeframe, key.sessions.last_opens(key.timeframe, as_of, 1))[0])


def _days(window: str) -> int:
    if not (window.endswith("d") and window[:-1].isdigit()):
        raise ConfigError("window", "a number of days such as 30d", window)
    return int(window[:-1])
