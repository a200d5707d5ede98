"""The long-running process: it takes the ledger, catches up, works, and gives it back; whatever happens, in that order.

First start, restart and recovery after a crash are one path (`_serve`), and so is what follows a lost lease or a new
configuration: a further stint. Nothing is carried from one to the next but the models and what the ledger knows.
"""

from __future__ import annotations

import os
import queue
import signal
import threading
import time
from contextlib import ExitStack, closing, contextmanager
from enum import Enum
from itertools import cycle
from typing import TYPE_CHECKING, Final, Protocol, Self

from forecaster.config import load_config, service_manager
from forecaster.daemon.alerts import Alerts
from forecaster.daemon.daemon import Daemon
from forecaster.daemon.health_server import Health
from forecaster.daemon.health_state import Phase, Vitals
from forecaster.daemon.integrity_check import DAMAGED, LedgerCheck
from forecaster.daemon.notify import Notifier
from forecaster.daemon.scheduler import SCHEDULER, WEDGED_AFTER
from forecaster.daemon.time_source import Clock, WallClock
from forecaster.engine import Forecaster
from forecaster.errors import (
    BarsError,
    ConfigError,
    ForecasterError,
    LeaseLost,
    ModelLoadError,
    StoreError,
    StoreTaken,
    StoreUnavailable,
)
from forecaster.log import get_logger, lines_written_behind
from forecaster.store.served import Served
from forecaster.urls import sqlite_path

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from forecaster.bars import SeriesKey
    from forecaster.config import Config
    from forecaster.daemon.cycle_queue import Due
    from forecaster.engine import CycleReport
    from forecaster.model import Model

MOST_WORKERS: Final = 8
STUCK_AFTER: Final = 600.0
"""Seconds without progress after which a worker, or the main thread, counts as stuck."""

UNAVAILABLE: Final = "ledger_unavailable"
TRIES_PER_BAR: Final = 24
SOONEST_RETRY: Final = 15.0
_MAIN: Final = "main"
_TICK_SECONDS: Final = 1.0
_LOOK_SECONDS: Final = 10.0
_log = get_logger(__name__)


class Order(Enum):
    """What ends a stint."""

    STOP = "stop"
    RELOAD = "reload"
    LEASE_LOST = "lease lost"


class Service:
    """Serves a configuration until it is told to end; `run` belongs into the main thread, which gets the signals.

    SIGTERM or SIGINT ends it once the cycles in hand are done; a second one at once, with code 1. SIGHUP has the
    configuration read again: one that is not valid is refused, and the old one goes on.

    Args:
        path: the configuration file.
        clock: tells when and as of what time.

    Raises:
        ConfigError: when the configuration is not valid.
    """

    def __init__(self, path: str, clock: Clock | None = None) -> None:
        self._path = path
        self._config = load_config(path)
        self._clock = clock or WallClock()
        self._vitals = Vitals(self._config)
        self._orders: queue.SimpleQueue[Order] = queue.SimpleQueue()  # its put may run in a signal handler
        self._stopping = False
        self._served = Served()
        self._before: Config | None = None
        self._models: Sequence[Model] | None = None

    def run(self) -> None:
        """Serve until told to end.

        Raises:
            ModelLoadError: when the model cannot be loaded.
            StoreError: when the ledger cannot be opened at the first start, or is damaged, or too new.
        """
        notifier = Notifier(self._vitals, service_manager())
        with lines_written_behind(), self._signals(), _running(notifier):
            order = None
            while order is not Order.STOP:
                try:
                    order = self._stint()
                except (ConfigError, ModelLoadError) as error:
                    if self._before is None:
                        raise
                    self._refuse(error)
                    self._config, self._before, self._models = self._before, None, None
            self._vitals.enter(Phase.STOPPED)
            _log.info("daemon.stopped")

    def _stint(self) -> Order:
        self._vitals.adopt(self._config)
        with self._doors(), closing(Forecaster(self._config, models=self._models)) as forecaster:
            return self._serve(forecaster)

    def _serve(self, forecaster: Forecaster) -> Order:
        """One stint: lease, check, catch-up, work."""
        order = self._take_ledger(forecaster)
        if order is not None:
            return order
        forecaster.load()
        self._models = forecaster.models
        with Stint(forecaster, self._clock, self._vitals) as stint:
            self._served.note(self._config.store.url.reveal(), forecaster.store.owner, forecaster.store.epoch)
            self._before = None
            self._vitals.enter(Phase.CATCHING_UP)
            stint.catch_up()
            looked = time.monotonic()
            while (order := Order.LEASE_LOST if stint.has_lost_lease.is_set() else self._order()) is None:
                if self._vitals.phase is Phase.CATCHING_UP and stint.has_caught_up:
                    self._vitals.enter(Phase.READY)
                    _log.info("daemon.ready", series=len(forecaster.series))
                if time.monotonic() - looked > _LOOK_SECONDS:
                    stint.look()
                    looked = time.monotonic()
            self._vitals.enter(Phase.DRAINING)
        return order

    def _take_ledger(self, forecaster: Forecaster) -> Order | None:
        """Wait until this process may write, and look whether the ledger is whole."""
        self._vitals.enter(Phase.WAITING)
        self._vitals.expect(_MAIN, STUCK_AFTER)
        self._served.leave()
        told = ""
        while True:
            try:
                self._served.refuse_another(self._config.store.url.reveal())
                store = forecaster.store
                break
            except StoreUnavailable as error:
                is_taken = isinstance(error, StoreTaken)
                if not (self._served.url or is_taken):
                    raise
                self._vitals.ledger(UNAVAILABLE, None if is_taken else str(error))
                if str(error) != told:
                    told = str(error)
                    _log.info("lease.waiting", reason=told)
            order = self._order()
            if order is not None:
                return order
        self._vitals.ledger(UNAVAILABLE, None)
        self._vitals.lease(held=True, epoch=store.epoch)
        _log.info("lease.taken", epoch=store.epoch)
        self._vitals.enter(Phase.CHECKING)
        started = time.monotonic()
        store.check()
        self._vitals.ledger(DAMAGED, None)
        _log.info("ledger.checked", seconds=round(time.monotonic() - started, 3))
        return None

    def _order(self) -> Order | None:
        """The next order, if one comes within a moment; a configuration that is refused is none."""
        self._vitals.beat(_MAIN)
        try:
            order = self._orders.get(timeout=_TICK_SECONDS)
        except queue.Empty:
            return None
        if order is Order.RELOAD and not self._reload():
            return None
        return order

    def _reload(self) -> bool:
        """Read the configuration again; the old one stays when it is not valid."""
        try:
            config = load_config(self._path)
        except ConfigError as error:
            self._refuse(error)
            return False
        if config.model != self._config.model:
            self._models = None
        self._before, self._config = self._config, config
        _log.info("config.reloaded", series=len(config.series))
        return True

    def _refuse(self, error: ForecasterError) -> None:
        _log.error("config.refused", reason=str(error))

    @contextmanager
    def _doors(self) -> Iterator[None]:
        """Answer for our health, and tell of what is wrong, as far as the configuration asks for it."""
        with ExitStack() as stack:
            if self._config.health is not None:
                stack.enter_context(_running(Health(self._config.health, self._vitals)))
            if self._config.alerts is not None:
                alerts = Alerts(self._config.alerts, self._vitals.conditions, self._vitals.alerted)
                stack.enter_context(closing(alerts)).start()
            yield

    @contextmanager
    def _signals(self) -> Iterator[None]:
        numbers = {signal.SIGTERM: self._on_stop, signal.SIGINT: self._on_stop, signal.SIGHUP: self._on_reload}
        before = {number: signal.signal(number, called) for number, called in numbers.items()}
        try:
            yield
        finally:
            for number, called in before.items():
                signal.signal(number, called)

    def _on_stop(self, *_: object) -> None:
        if self._stopping:
            os._exit(1)
        self._stopping = True
        self._orders.put(Order.STOP)

    def _on_reload(self, *_: object) -> None:
        self._orders.put(Order.RELOAD)


class Stint:
    """Workers around one daemon, from the first cycle to the last; used in a `with` block."""

    def __init__(self, forecaster: Forecaster, clock: Clock, vitals: Vitals) -> None:
        self._forecaster = forecaster
        self._clock = clock
        self._vitals = vitals
        self.has_lost_lease = threading.Event()
        self._daemon = Daemon(forecaster, clock, lambda: vitals.beat(SCHEDULER), lambda _: vitals.scheduler_fault())
        exchanges = {key.exchange for key in forecaster.series}
        self._workers = [
            threading.Thread(target=self._work, args=[f"worker {i}"], name=f"worker-{i}", daemon=True)
            for i in range(min(MOST_WORKERS, len(exchanges)))
        ]
        self._owed: set[tuple[str, object]] = set()
        self._failures: dict[tuple[str, object], int] = {}
        self._sat_out: dict[tuple[str, object], Due] = {}
        self._held: set[str] = set()
        self._to_judge = cycle(forecaster.series)
        self._check = _check_of(forecaster.config, vitals)

    def __enter__(self) -> Self:
        for key in self._forecaster.series:
            self._tell_newest(key)
        self._vitals.expect(SCHEDULER, WEDGED_AFTER)
        self._daemon.start()
        if self._check is not None:
            self._check.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Finish the cycles in hand, but wait for them no longer than the configuration allows."""
        _log.info("daemon.draining", waiting=self._daemon.agenda.waiting())
        self._daemon.stop()
        if self._check is not None:
            self._check.stop()
        self._vitals.rest(SCHEDULER)
        give_up = time.monotonic() + self._forecaster.config.daemon.drain_seconds
        for worker in self._workers:
            worker.join(max(0.0, give_up - time.monotonic()))
        left = [worker.name for worker in self._workers if worker.is_alive()]
        if left:
            _log.warning("daemon.drain_gave_up", workers=left)
        elif not self.has_lost_lease.is_set():
            self._take_last()
        self._vitals.lease(held=False, epoch=self._forecaster.store.epoch)

    def _take_last(self) -> None:
        """Finish series that are waited for; what cannot be written now is owed, and the next start finds it."""
        try:
            reports = self._forecaster.run_last(self._clock.now())
        except StoreError as error:
            _log.warning("ledger.not_written", reason=str(error))
            return
        except Exception:  # noqa: BLE001 - the fault of one source is no reason to end otherwise
            _log.exception("daemon.last_failed")
            return
        for report in reports:
            self._vitals.cycle(report, None, [])

    def catch_up(self) -> None:
        """Begin to work, with a cycle of everything."""
        dues = self._daemon.owe_all()
        self._owed = {(due.exchange, due.timeframe) for due in dues}
        _log.info("catch_up.began", cycles=len(dues))
        for worker in self._workers:
            worker.start()

    @property
    def has_caught_up(self) -> bool:
        """Whether every exchange and timeframe has had its first cycle."""
        return not self._owed

    def look(self) -> None:
        """See whether the ledger is still there and ours, and how far the model can be trusted on one more series."""
        key = next(self._to_judge)
        try:
            self._forecaster.store.renew()
        except LeaseLost as error:
            self._lose(error)
            return
        except StoreUnavailable as error:
            self._vitals.ledger(UNAVAILABLE, str(error))
            _log.warning("ledger.not_written", reason=str(error))
            return
        self._vitals.ledger(UNAVAILABLE, None)
        try:
            self._look_at_holds()
            trust = self._forecaster.trust(key.exchange, key.symbol, str(key.timeframe))
        except ForecasterError as error:
            _log.warning("ledger.not_read", series=str(key), reason=str(error))
            return
        self._vitals.trusted(key, trust)

    def _look_at_holds(self) -> None:
        """Try again at once what sat out at an exchange that may now be asked, since its hold is over, or is lifted."""
        now, before = self._clock.now(), self._held
        holds = self._forecaster.reader.holds()
        self._held = {one.exchange for one in holds if now < min(one.until, one.probe_at)}
        for due in list(self._sat_out.values()):
            if due.exchange in before - self._held:
                self._daemon.agenda.put(due)

    def _tell_newest(self, key: SeriesKey) -> None:
        """Tell of the newest forecast in the ledger; a series whose rows cannot be used counts as one without any."""
        try:
            newest = self._forecaster.latest(key.exchange, key.symbol, str(key.timeframe))
        except BarsError as error:
            _log.warning("ledger.not_read", series=str(key), reason=str(error))
            return
        if newest is not None:
            self._vitals.served(key, newest.cutoff)

    def _work(self, organ: str) -> None:
        """Take one cycle after another, until the agenda is closed. A fault ends its cycle and nothing else."""
        agenda = self._daemon.agenda
        self._vitals.expect(organ, STUCK_AFTER)
        while not agenda.is_closed:
            self._vitals.beat(organ)
            due = agenda.take(_TICK_SECONDS)
            if due is None:
                continue
            try:
                self._completed(due, self._daemon.cycle(due))
            except LeaseLost as error:
                self._lose(error)
            except Exception as error:  # noqa: BLE001 - the one door of the daemon: the next cycle may go well
                _log.exception("cycle.failed", exchange=due.exchange, timeframe=str(due.timeframe))
                self._failed(due, error)
            finally:
                agenda.done(due)
                self._vitals.queue(agenda.waiting())
        self._vitals.rest(organ)

    def _lose(self, error: LeaseLost) -> None:
        _log.error("lease.lost", reason=str(error))
        self._vitals.lease(held=False, epoch=error.epoch)
        self._vitals.ledger(UNAVAILABLE, str(error))
        self.has_lost_lease.set()

    def _completed(self, due: Due, report: CycleReport) -> None:
        """Tell what a cycle did; what sat out is asked for again before the next close, if waiting can mend it."""
        name = (due.exchange, due.timeframe)
        self._failures.pop(name, None)
        status = getattr(self._forecaster.models[0], "status", None)
        self._vitals.cycle(report, status() if status is not None else None, self._forecaster.reader.holds())
        for key, drift in report.drifts:
            self._vitals.drifted(key, drift.what, drift.before, drift.now)
        if report.skipped.keys() - report.given_up:
            self._sat_out[name] = due._replace(cause="again")
            self._daemon.agenda.put(self._sat_out[name], self._wait(due))
        elif due.cause != "arrived":
            self._sat_out.pop(name, None)
        self._has_caught_up_on(due)

    def _failed(self, due: Due, error: Exception) -> None:
        """Try a cycle again, later each time, but several times before the next close; not where the file is wrong."""
        name = (due.exchange, due.timeframe)
        self._failures[name] = self._failures.get(name, 0) + 1
        self._vitals.cycle_failed(due.exchange, due.timeframe, error)
        if not isinstance(error, ConfigError):
            again = due._replace(cause="again")
            self._daemon.agenda.put(again, min(float(1 << min(self._failures[name], 20)), self._wait(due)))
        self._has_caught_up_on(due)

    def _wait(self, due: Due) -> float:
        """Seconds until a close is tried again."""
        return max(SOONEST_RETRY, due.timeframe.ms / 1000 / TRIES_PER_BAR)

    def _has_caught_up_on(self, due: Due) -> None:
        name = (due.exchange, due.timeframe)
        if name in self._owed:
            self._owed.discard(name)
            _log.info("catch_up.went_on", exchange=due.exchange, timeframe=str(due.timeframe), left=len(self._owed))
            if not self._owed:
                _log.info("catch_up.completed")


def _check_of(config: Config, vitals: Vitals) -> LedgerCheck | None:
    """The check of a ledger on a schedule, where it is a file and one is wanted."""
    path = sqlite_path(config.store.url.reveal())
    if path is None or not config.daemon.check_hours:
        return None
    return LedgerCheck(path, 3600 * config.daemon.check_hours, vitals)


class _Runs(Protocol):
    """Something with a thread of its own."""

    def start(self) -> None: ...

    def stop(self) -> None: ...


@contextmanager
def _running(one: _Runs) -> Iterator[None]:
    one.start()
    try:
        yield
    finally:
        one.stop()
