"""The long-running process: acquire the lease, check the ledger, catch up, work, drain; always in this order.

Startup, restart and crash recovery share one path (`_run_once`). A lost lease or a new configuration starts another
run on the same path. Only the loaded models and the contents of the ledger are kept between runs.
"""

from __future__ import annotations

import os
import queue
import signal
import time
from contextlib import ExitStack, closing, contextmanager
from enum import Enum
from typing import TYPE_CHECKING, Final, Protocol

from forecaster.config_file import load_config, service_manager
from forecaster.daemon.alerts import AlertManager
from forecaster.daemon.health_server import HealthServer
from forecaster.daemon.health_state import HealthState, Phase
from forecaster.daemon.integrity_check import DAMAGED
from forecaster.daemon.notify import Notifier
from forecaster.daemon.service_run import STUCK_AFTER_SECONDS, UNAVAILABLE, ServiceRun
from forecaster.daemon.time_source import Clock, WallClock
from forecaster.engine import Forecaster
from forecaster.errors import ConfigError, ForecasterError, ModelLoadError, StoreTaken, StoreUnavailable
from forecaster.log import get_logger, write_lines_in_background
from forecaster.store.ledger_identity import LedgerIdentity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from forecaster.config import Config
    from forecaster.model import ModelSuite

_MAIN: Final = "main"
_TICK_SECONDS: Final = 1.0
_CHECK_SECONDS: Final = 10.0
_log = get_logger(__name__)


class ControlSignal(Enum):
    """Why a run of the service ends."""

    STOP = "stop"
    RELOAD = "reload"
    LEASE_LOST = "lease lost"


class Service:
    """Serves a configuration until it is stopped. `run` must be called in the main thread, which receives the signals.

    SIGTERM or SIGINT stops the service after the running cycles; a second one stops it at once, with code 1. SIGHUP
    reloads the configuration: an invalid one is refused, and the current one stays.

    Args:
        path: the configuration file.
        clock: the time source; the wall clock by default.

    Raises:
        ConfigError: when the configuration is not valid.
    """

    def __init__(self, path: str, clock: Clock | None = None) -> None:
        self._path = path
        self._config = load_config(path)
        self._clock = clock or WallClock()
        self._health = HealthState(self._config)
        self._signals: queue.SimpleQueue[ControlSignal] = queue.SimpleQueue()  # its put may run in a signal handler
        self._is_stopping = False
        self._ledger_identity = LedgerIdentity()
        self._previous_config: Config | None = None
        self._models: ModelSuite | None = None

    def run(self) -> None:
        """Serve until stopped.

        Raises:
            ModelLoadError: when the model cannot be loaded.
            StoreError: when the ledger cannot be opened at the first start, or is damaged, or too new.
        """
        notifier = Notifier(self._health, service_manager())
        with write_lines_in_background(), self._signal_handlers(), _running(notifier):
            ended_by = None
            while ended_by is not ControlSignal.STOP:
                try:
                    ended_by = self._run_once()
                except (ConfigError, ModelLoadError) as error:
                    if self._previous_config is None:
                        raise
                    self._refuse(error)
                    self._config, self._previous_config, self._models = self._previous_config, None, None
            self._health.enter_phase(Phase.STOPPED)
            _log.info("daemon.stopped")

    def _run_once(self) -> ControlSignal:
        self._health.reconfigure(self._config)
        with self._health_and_alerts(), closing(Forecaster(self._config, models=self._models)) as forecaster:
            return self._acquire_lease(forecaster) or self._serve(forecaster)

    def _acquire_lease(self, forecaster: Forecaster) -> ControlSignal | None:
        """Wait for the lease and check the ledger; return early with a signal that arrives meanwhile."""
        self._health.enter_phase(Phase.WAITING)
        self._health.register(_MAIN, STUCK_AFTER_SECONDS)
        self._ledger_identity.record_log()
        logged_reason = ""
        while True:
            try:
                self._ledger_identity.check(self._config.store.url.reveal())
                store = forecaster.store
                break
            except StoreUnavailable as error:
                is_taken = isinstance(error, StoreTaken)
                if not (self._ledger_identity.url or is_taken):
                    raise
                self._health.set_ledger_fault(UNAVAILABLE, None if is_taken else str(error))
                if str(error) != logged_reason:
                    logged_reason = str(error)
                    _log.info("lease.waiting", reason=logged_reason)
            control = self._next_signal()
            if control is not None:
                return control
        self._health.set_ledger_fault(UNAVAILABLE, None)
        self._health.set_lease(held=True, epoch=store.epoch)
        _log.info("lease.acquired", epoch=store.epoch)
        self._health.enter_phase(Phase.CHECKING)
        started = time.monotonic()
        store.check_integrity()
        self._health.set_ledger_fault(DAMAGED, None)
        _log.info("ledger.checked", seconds=round(time.monotonic() - started, 3))
        return None

    def _serve(self, forecaster: Forecaster) -> ControlSignal:
        """Catch up and work, with the lease held, until a signal comes or the lease is lost."""
        forecaster.load()
        self._models = forecaster.models
        with ServiceRun(forecaster, self._clock, self._health) as run:
            self._ledger_identity.record(
                self._config.store.url.reveal(), forecaster.store.owner, forecaster.store.epoch
            )
            self._previous_config = None
            self._health.enter_phase(Phase.CATCHING_UP)
            run.catch_up()
            checked = time.monotonic()
            while (control := ControlSignal.LEASE_LOST if run.has_lost_lease.is_set() else self._next_signal()) is None:
                if self._health.phase is Phase.CATCHING_UP and run.has_caught_up:
                    self._health.enter_phase(Phase.READY)
                    _log.info("daemon.ready", series=len(forecaster.series))
                if time.monotonic() - checked > _CHECK_SECONDS:
                    run.check()
                    checked = time.monotonic()
            self._health.enter_phase(Phase.DRAINING)
        return control

    def _next_signal(self) -> ControlSignal | None:
        """Wait up to one tick for a signal; a reload with an invalid configuration is dropped."""
        self._health.heartbeat(_MAIN)
        try:
            control = self._signals.get(timeout=_TICK_SECONDS)
        except queue.Empty:
            return None
        if control is ControlSignal.RELOAD and not self._reload():
            return None
        return control

    def _reload(self) -> bool:
        """Read the configuration again; keep the current one if the new one is not valid."""
        try:
            config = load_config(self._path)
        except ConfigError as error:
            self._refuse(error)
            return False
        if config.model != self._config.model:
            self._models = None
        self._previous_config, self._config = self._config, config
        _log.info("config.reloaded", series=len(config.series))
        return True

    def _refuse(self, error: ForecasterError) -> None:
        _log.error("config.refused", reason=str(error))

    @contextmanager
    def _health_and_alerts(self) -> Iterator[None]:
        """Run the health endpoint and the alerts, as configured."""
        with ExitStack() as stack:
            if self._config.health is not None:
                stack.enter_context(_running(HealthServer(self._config.health, self._health)))
            if self._config.alerts is not None:
                alerts = AlertManager(self._config.alerts, self._health.conditions, self._health.record_alert)
                stack.enter_context(closing(alerts)).start()
            yield

    @contextmanager
    def _signal_handlers(self) -> Iterator[None]:
        handlers = {signal.SIGTERM: self._on_stop, signal.SIGINT: self._on_stop, signal.SIGHUP: self._on_reload}
        previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _on_stop(self, *_: object) -> None:
        if self._is_stopping:
            os._exit(1)
        self._is_stopping = True
        self._signals.put(ControlSignal.STOP)

    def _on_reload(self, *_: object) -> None:
        self._signals.put(ControlSignal.RELOAD)


class _Component(Protocol):
    """A component with its own thread."""

    def start(self) -> None: ...

    def stop(self) -> None: ...


@contextmanager
def _running(component: _Component) -> Iterator[None]:
    component.start()
    try:
        yield
    finally:
        component.stop()
