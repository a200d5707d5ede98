"""What the daemon has seen and done: written by its threads, read by health, metrics, alerts and the service manager.

Two questions are kept apart. *Alive*: does every organ (the scheduler, a worker) still make progress, and do cycles end
where closes are due? If not, a restart helps. *Ready*: is there a fresh forecast of every series, and a ledger that is
whole and can be written? If not, a restart need not help, but a strategy should know.

Answers come from what was reported here alone, and from clocks: nothing is fetched, and the ledger is not asked.
"""

from __future__ import annotations

import shutil
import threading
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from forecaster.clock import now_ms
from forecaster.config import AlertsConfig, HealthConfig
from forecaster.daemon.conditions import LONGEST_REASON, Condition, banned, by_place, failing, plain, resting
from forecaster.daemon.prometheus import Metrics
from forecaster.errors import utc_text
from forecaster.urls import sqlite_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from forecaster.accuracy.trust import Trust
    from forecaster.bars import SeriesKey
    from forecaster.config import Config
    from forecaster.engine import CycleReport
    from forecaster.ledger import Hold
    from forecaster.model.chronos2.compiled import ModelStatus
    from forecaster.timeframe import Timeframe

DRIFT_TOLD_SECONDS: Final = 24 * 3600.0
"""How long a change of skill, coverage or stored bars is a condition: it is found at a moment, and has no end."""

REVISED_TOLD_SECONDS: Final = 3600.0
"""The same of revised bars, so that those of another hour are told anew."""

CLOSES_MISSED: Final = 3
"""Closes of a place without the end of a cycle, after which a restart may help."""

IDLE_SECONDS: Final = 1200.0
"""How long no cycle of a place may end at least: another and its own take 10 minutes each before a worker is stuck."""


class Phase(StrEnum):
    """How far the daemon has come."""

    STARTING = "starting"
    WAITING = "waiting"
    CHECKING = "checking"
    CATCHING_UP = "catching_up"
    READY = "ready"
    DRAINING = "draining"
    STOPPED = "stopped"


_WORKING: Final = frozenset({Phase.CATCHING_UP, Phase.READY})


class _Organ(NamedTuple):
    """What must beat at least every `within` seconds, and when it did last (monotonic seconds)."""

    within: float
    at: float


class _Failing(NamedTuple):
    """Cycles of one place that failed in a row."""

    times: int
    since: int
    reason: str


class _Ended(NamedTuple):
    """When the last cycle of a place ended, however it did: UTC ms, and monotonic seconds."""

    at: int
    seconds: float


class _Drifted(NamedTuple):
    """A change, and the monotonic seconds at which it was told."""

    words: str
    at: float


class _Stale(NamedTuple):
    """A series without a fresh forecast, and why that is so."""

    key: SeriesKey
    reason: str


class Vitals:
    """What the daemon knows of itself. Every method may be called from any thread, and none waits for anything.

    Args:
        config: the series that are to be forecast.
        now: UTC ms.
        monotonic: seconds of a clock that nobody sets.
    """

    def __init__(
        self, config: Config, now: Callable[[], int] = now_ms, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._now = now
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._counting = threading.Lock()
        self._metrics = Metrics(config)
        self._phase = Phase.STARTING
        self._organs: dict[str, _Organ] = {}
        self._newest: dict[SeriesKey, int] = {}
        self._seconds: dict[tuple[str, str], float] = {}
        self._failing: dict[tuple[str, str], _Failing] = {}
        self._holds: dict[str, Hold] = {}
        self._drifts: dict[tuple[SeriesKey, str], _Drifted] = {}
        self._revised: dict[SeriesKey, _Drifted] = {}
        self._unskilled: dict[SeriesKey, str] = {}
        self._forward: ModelStatus | None = None
        self._ended: dict[tuple[str | None, Timeframe], _Ended] = {}
        self._ledger: dict[str, str] = {}
        self._last_cycle = "none yet"
        self.adopt(config)

    def adopt(self, config: Config) -> None:
        """Go on under another configuration: series that it has no more are forgotten."""
        with self._counting:
            self._metrics.adopt(config)
        with self._lock:
            self._config = config
            self._keys = dict.fromkeys(one.key for one in config.series)
            places = {place for key in self._keys for place in self._places_of(key)}
            self._newest = {key: at for key, at in self._newest.items() if key in self._keys}
            self._unskilled = {key: words for key, words in self._unskilled.items() if key in self._keys}
            self._drifts = {about: one for about, one in self._drifts.items() if about[0] in self._keys}
            self._revised = {key: one for key, one in self._revised.items() if key in self._keys}
            self._failing = {place: one for place, one in self._failing.items() if place in places}
            self._seconds = {place: one for place, one in self._seconds.items() if place in places}
            self._holds = {name: one for name, one in self._holds.items() if name in self._exchanges()}

    @property
    def phase(self) -> Phase:
        """How far the daemon has come."""
        return self._phase

    def enter(self, phase: Phase) -> None:
        """Go on to a phase; from the one that catches up on, cycles are expected to end."""
        with self._lock:
            self._phase = phase
            if phase is Phase.CATCHING_UP:
                self._ended = {(key.exchange, key.timeframe): self._moment() for key in self._keys}

    def expect(self, organ: str, within: float) -> None:
        """From now on this organ must beat at least every `within` seconds."""
        with self._lock:
            self._organs[organ] = _Organ(within, self._monotonic())

    def beat(self, organ: str) -> None:
        """Tell that this organ made real progress."""
        with self._lock:
            if organ in self._organs:
                self._organs[organ] = self._organs[organ]._replace(at=self._monotonic())

    def rest(self, organ: str) -> None:
        """Expect this organ no more."""
        with self._lock:
            self._organs.pop(organ, None)

    def cycle(self, report: CycleReport, forward: ModelStatus | None, holds: Iterable[Hold]) -> None:
        """Take in a cycle that was completed.

        Args:
            report: what it did.
            forward: which engines serve; None for a model that has none to choose from.
            holds: the newest one of each exchange that has ever refused requests.
        """
        place = self._metrics.place(report.exchange, report.timeframe)
        with self._lock:
            self._ended[report.exchange, report.timeframe] = self._moment()
            for one in report.forecasts:
                self._take(one.key, one.cutoff)
            for key, opens in report.revised.items():
                words = f"{key}, {len(opens)} bars, the first of {utc_text(opens[0])}"
                self._revised[key] = _Drifted(words, self._monotonic())
            self._seconds[place] = report.seconds
            self._failing.pop(place, None)
            self._holds |= {one.exchange: one for one in holds if one.exchange in self._exchanges()}
            self._last_cycle = f"{' '.join(place)} as of {utc_text(report.as_of)}, {len(report.forecasts)} forecasts"
            self._forward = forward or self._forward
        with self._counting:
            self._metrics.cycle(report)
            if forward is not None:
                self._metrics.engines(forward)

    def cycle_failed(self, exchange: str | None, timeframe: Timeframe, error: BaseException) -> None:
        """Take in a cycle that ended in a fault."""
        place = self._metrics.place(exchange, timeframe)
        with self._lock:
            before = self._failing.get(place, _Failing(0, self._now(), ""))
            self._ended[exchange, timeframe] = self._moment()
            reason = f"{type(error).__name__}: {error}"[:LONGEST_REASON]
            self._failing[place] = _Failing(before.times + 1, before.since, reason)
            self._metrics.add("forecaster_cycles_total", *place, "failed")

    def served(self, key: SeriesKey, cutoff: int) -> None:
        """Tell of the newest forecast of a series in the ledger."""
        with self._lock:
            self._take(key, cutoff)

    def queue(self, waiting: int) -> None:
        """Tell how many cycles wait for a worker."""
        self._metrics.set("forecaster_queue_length", waiting)

    def lease(self, held: bool, epoch: int) -> None:  # noqa: FBT001 - it is held, or it is not
        """Tell whether this process may write the ledger."""
        self._metrics.set("forecaster_lease_held", held)
        self._metrics.set("forecaster_lease_epoch", epoch)

    def ledger(self, kind: str, reason: str | None) -> None:
        """Tell why the ledger is `ledger_unavailable` or `ledger_damaged`; None when it is not."""
        with self._lock:
            self._ledger.pop(kind, None)
            if reason is not None:
                self._ledger[kind] = reason
            self._metrics.set("forecaster_ledger_present", not self._ledger)

    def scheduler_fault(self) -> None:
        """Tell of a fault that the scheduler outlived."""
        self._metrics.add("forecaster_scheduler_faults_total")

    def drifted(self, key: SeriesKey, of: str, before: float, now: float) -> None:
        """Tell that skill or coverage of the model on a series has changed."""
        with self._lock:
            self._drifts[key, of] = _Drifted(f"{key}, {of} {before:.3f} → {now:.3f}", self._monotonic())
            self._metrics.add("forecaster_drifts_total", of)

    def trusted(self, key: SeriesKey, trust: Trust | None) -> None:
        """Tell what the past proves of the model on a series; None where nothing has settled."""
        with self._lock:
            self._unskilled.pop(key, None)
            if trust is not None and trust.verdict.words.startswith("worse"):
                self._unskilled[key] = f"{key}, {trust.verdict.words}, {trust.verdict.n} closes"

    def alerted(self, kind: str, outcome: str) -> None:
        """Count an alert of a kind that was `sent`, or `failed` to be."""
        self._metrics.alert(kind, outcome)

    def dead(self) -> list[str]:
        """Why the daemon is not alive: organs that are overdue, places whose cycles do not end. Empty when it is."""
        return [f"{subject}: {words}" for subject, words in self._hanging().items()]

    def unready(self) -> list[str]:
        """Why the daemon is not ready: phase, ledger, what is not alive, each stale series. Empty when it is."""
        phase = [] if self._phase is Phase.READY else [f"phase: {self._phase}"]
        with self._lock:
            ledger = [f"{kind}: {reason}" for kind, reason in self._ledger.items()]
        return [*phase, *ledger, *self.dead(), *(f"{one.key}: {one.reason}" for one in self._stale())]

    def conditions(self) -> list[Condition]:
        """What an operator should be told now; series are told of together, by exchange and timeframe."""
        found = [
            Condition("not_alive", name, f"{name}: {words}", "critical") for name, words in self._hanging().items()
        ]
        if self._phase is Phase.READY:  # before, staleness is what is being mended; a standby need not be fresh
            stale = [(one.key, f"{one.key}, {one.reason}") for one in self._stale()]
            found += by_place("stale_series", "no fresh forecast", stale, "critical")
        with self._lock:
            now, since = self._now(), self._monotonic() - DRIFT_TOLD_SECONDS
            found += [Condition(kind, "ledger", reason, "critical") for kind, reason in self._ledger.items()]
            if self._phase in _WORKING:
                found += [failing(place, *one) for place, one in self._failing.items()]
            found += [banned(one) for one in self._holds.values() if one.until > now]
            self._drifts = {about: one for about, one in self._drifts.items() if one.at > since}
            recent = self._monotonic() - REVISED_TOLD_SECONDS
            self._revised = {key: one for key, one in self._revised.items() if one.at > recent}
            revised = [(key, one.words) for key, one in self._revised.items()]
            found += by_place("revised", "bars were revised after they were taken for final", revised)
            drifts = [(key, one.words) for (key, _), one in self._drifts.items()]
            found += by_place("drift", "skill or coverage changed", drifts)
            found += by_place("no_skill", "worse than the random walk", self._unskilled.items())
            forward = self._forward
        found += resting(forward) if forward is not None else []
        return [plain(one) for one in found + self._scarce()]

    def exposition(self) -> bytes:
        """Give everything as Prometheus text."""
        with self._counting:
            self._show()
            return self._metrics.text()

    def summary(self) -> str:
        """Give phase, series and the last cycle in one line; it changes only when one of them does."""
        words = f"{len(self._keys)} series, {len(self._stale())} stale"
        return f"{self._phase}; {words}; last cycle: {self._last_cycle}"

    def _take(self, key: SeriesKey, cutoff: int) -> None:
        """Note a forecast of a series, with the lock in hand; one that was caught up on is older than another."""
        if key in self._keys:
            self._newest[key] = max(cutoff, self._newest.get(key, cutoff))

    def _exchanges(self) -> set[str]:
        return {key.exchange for key in self._keys}

    def _places_of(self, key: SeriesKey) -> list[tuple[str, str]]:
        return [self._metrics.place(exchange, key.timeframe) for exchange in (key.exchange, None)]

    def _overdue(self) -> dict[str, str]:
        with self._lock:
            now = self._monotonic()
            return {
                name: f"no progress for {now - one.at:.0f} s, expected within {one.within:g} s"
                for name, one in sorted(self._organs.items())
                if now - one.at > one.within
            }

    def _hanging(self) -> dict[str, str]:
        return self._overdue() | self._idle()

    def _idle(self) -> dict[str, str]:
        """Places of which no cycle has ended, however it might have, while several closes have passed.

        An exchange that is down ends its cycles, with every series skipped. Where the calendar has no close, no cycle
        is due. A standby runs none.
        """
        with self._lock:
            ended = self._ended if self._phase in _WORKING else {}
            found = {}
            for key in self._keys:
                last = ended.get((key.exchange, key.timeframe))
                patience = max(CLOSES_MISSED * key.timeframe.ms / 1000, IDLE_SECONDS)
                if last is None or self._monotonic() - last.seconds <= patience:
                    continue
                due_by = self._now() - self._patience_ms(key)
                opens = key.sessions.last_opens(key.timeframe, due_by, CLOSES_MISSED)
                if len(opens) == CLOSES_MISSED and key.sessions.closes_of(key.timeframe, opens)[0] > last.at:
                    words = f"no cycle has ended for {self._monotonic() - last.seconds:.0f} s"
                    found[f"{key.exchange} {key.timeframe}"] = f"{words}, though {CLOSES_MISSED} closes have passed"
        return found

    def _moment(self) -> _Ended:
        return _Ended(self._now(), self._monotonic())

    def _stale(self) -> list[_Stale]:
        """Series without a forecast of the close that is due, or of one of the few before it that may still serve.

        A close is due once its bar has settled and the cycle has had its time. The calendar says which closes there
        are, so nothing is due while an exchange sleeps.
        """
        with self._lock:
            now, newest = self._now(), dict(self._newest)
            oldest = {(key.exchange, key.timeframe, key.calendar): key for key in self._keys}
            oldest_close = {about: self._oldest_fresh(key, now) for about, key in oldest.items()}
            keys = list(self._keys)
        found = []
        for key in keys:
            expected = oldest_close[key.exchange, key.timeframe, key.calendar]
            if key not in newest:
                found.append(_Stale(key, "no forecast yet"))
            elif newest[key] < expected:
                reason = f"newest forecast of {utc_text(newest[key])}, expected {utc_text(expected)} or later"
                found.append(_Stale(key, reason))
        return found

    def _oldest_fresh(self, key: SeriesKey, now: int) -> int:
        """The oldest cutoff (UTC ms) that a series' newest forecast may have at `now`."""
        bars = (self._config.health or HealthConfig()).stale_bars + 1
        opens = key.sessions.last_opens(key.timeframe, now - self._patience_ms(key), bars)
        return int(key.sessions.closes_of(key.timeframe, opens)[0]) if len(opens) == bars else 0

    def _patience_ms(self, key: SeriesKey) -> int:
        """How long its forecast is waited for: bars settle, and the cycle takes its time, but a bar at most."""
        exchange = self._config.exchanges.get(key.exchange)
        taken = [self._seconds.get(place, 0.0) for place in self._places_of(key)]
        seconds = max(*taken, 0.0 if exchange is None else exchange.deadline)
        return round(self._config.settle_seconds * 1000) + min(round(seconds * 1000), key.timeframe.ms)

    def _scarce(self) -> list[Condition]:
        """Whether the disk is about to be full."""
        needed = (self._config.alerts or AlertsConfig()).disk_free_mib << 20
        free = self._disk_free()
        if free is None or free >= needed:
            return []
        text = f"{self._folder()}: {free >> 20} MiB free, expected {needed >> 20} MiB or more"
        return [Condition("disk", "ledger", text, "critical")]

    def _disk_free(self) -> int | None:
        """Bytes that are free beside the ledger; None where nobody can tell."""
        try:
            return shutil.disk_usage(self._folder()).free
        except OSError:
            return None

    def _folder(self) -> Path:
        """The folder of an SQLite ledger, or what there is of the way to it; else the working folder."""
        place = (sqlite_path(self._config.store.url.reveal()) or Path()).absolute()
        return next(one for one in (place.parent, *place.parents) if one.exists())

    def _show(self) -> None:
        """Bring the gauges to how things stand."""
        metrics, free, ready = self._metrics, self._disk_free(), not self.unready()
        stale = [self._metrics.place(one.key.exchange, one.key.timeframe) for one in self._stale()]
        with self._lock:
            metrics.forget()
            metrics.set("forecaster_ready", ready)
            metrics.set("forecaster_disk_free_bytes", float("nan") if free is None else free)
            for name in self._exchanges():
                hold = self._holds.get(name)
                metrics.set("forecaster_breaker_open", hold is not None and hold.until > self._now(), name)
            for place, lag in self._lags().items():
                metrics.set("forecaster_stale_series", stale.count(place), *place)
                if lag is not None:
                    metrics.set("forecaster_bar_lag_seconds", lag / 1000, *place)
            if self._forward is not None:
                metrics.show_engines(self._forward)
            metrics.show_accuracy()

    def _lags(self) -> dict[tuple[str, str], int | None]:
        """The largest lag (ms) of any series' latest forecast behind the last close; None where there is none."""
        now = self._now()
        closes: dict[tuple[Timeframe, str], int] = {}
        lags: dict[tuple[str, str], int | None] = {}
        for key in self._keys:
            about = (key.timeframe, key.calendar)
            if about not in closes:
                closes[about] = _last_close(key, now)
            place = self._metrics.place(key.exchange, key.timeframe)
            behind = max(closes[about] - self._newest[key], 0) if key in self._newest else None
            lags[place] = max((one for one in (lags.get(place), behind) if one is not None), default=None)
        return lags


def _last_close(key: SeriesKey, now: int) -> int:
    opens = key.sessions.last_opens(key.timeframe, now, 1)
    return int(key.sessions.closes_of(key.timeframe, opens)[0]) if len(opens) else 0
