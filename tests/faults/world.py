"""A world for the whole service: a clock that runs fast and can be set, an exchange that keeps time, real processes.

Processes get their time from `fake_clock.c`: both of their clocks run `speed` times as fast, and every wait is as much
shorter, so a minute's bar takes a second and all agree. libfaketime cannot do this: it leaves the waits of Python's
locks as they are, which then never end, and what it shares between processes stays behind when one is killed.
"""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from forecaster.bars import SeriesKey
from tests.faults.exchange import LoopbackExchange

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

ROOT: Final = Path(__file__).parents[2]
MINUTE_MS: Final = 60_000
VENUE: Final = "binance"
TICK_SECONDS: Final = 0.002
PATIENCE_SECONDS: Final = 90.0
"""Real seconds that anything may take before a harness gives up; a start takes a few."""

SMALLEST_PIPE: Final = 4096
KEPT_CHARACTERS: Final = 400
"""Of a line that is no event, or that an error quotes."""

_PROGRAM: Final = "from forecaster.cli import main; main()"
_NS_OF_MS: Final = 1_000_000


class Clock:
    """The time of a world, which its processes share by a file.

    Args:
        file: where it is kept.
        start: UTC ms at which it begins.
        speed: how many of its seconds a real one has.
    """

    def __init__(self, file: Path, start: int, speed: int) -> None:
        self.file = file
        self.speed = speed
        self._start = start
        self._base = time.monotonic_ns()
        file.write_bytes(struct.pack("=4q", self._base, start * _NS_OF_MS, speed, 0))
        with file.open("r+b") as opened:
            self._shared = mmap.mmap(opened.fileno(), 0)

    def now(self) -> int:
        """UTC ms as it is, whatever the machine's wall clock says."""
        return self._start + (time.monotonic_ns() - self._base) * self.speed // _NS_OF_MS

    @property
    def ahead(self) -> int:
        """How far the machine's wall clock is ahead, ms."""
        return int(struct.unpack_from("=q", self._shared, 24)[0] // _NS_OF_MS)

    @ahead.setter
    def ahead(self, ms: int) -> None:
        struct.pack_into("=q", self._shared, 24, ms * _NS_OF_MS)

    def machine(self) -> int:
        """UTC ms as the machine's wall clock has it."""
        return self.now() + self.ahead

    def sleep(self, seconds: float) -> None:
        """Let so many seconds of the world pass."""
        time.sleep(seconds / self.speed)


class Service:
    """A running `forecaster run`, and what it has logged; `fault` is Python that runs before the program does."""

    def __init__(self, config: Path, environment: Mapping[str, str], fault: str = "") -> None:
        command = [sys.executable, "-c", f"{fault}\n{_PROGRAM}", "run", "--config", str(config)]
        threads = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        self.events: list[dict[str, Any]] = []
        self.text: list[str] = []
        self._told = threading.Condition()
        self._reads = threading.Event()
        self._reads.set()
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | threads | dict(environment),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    def count(self, event: str) -> int:
        """Count the log lines of this event."""
        return sum(one["event"] == event for one in list(self.events))

    def failures(self) -> list[str]:
        """Why cycles failed, which nothing that a world does is a reason for."""
        failed = [one for one in list(self.events) if one["event"] == "cycle.failed"]
        causes = [one.get("exception") or [{}] for one in failed]
        return [f"a cycle failed: {first.get('exc_type')}: {first.get('exc_value', '')!s:.300}" for first, *_ in causes]

    def wait_for(self, event: str, after: int = 0, seconds: float = PATIENCE_SECONDS) -> dict[str, Any]:
        """Wait until it has logged `event` more than `after` times; return that line. Seconds are real seconds.

        Raises:
            RuntimeError: when it ends or the time is over before.
        """

        def found() -> list[dict[str, Any]]:
            return [one for one in self.events if one["event"] == event][after:]

        with self._told:
            self._told.wait_for(lambda: found() or not self._reader.is_alive(), seconds)
        if not found():
            if not self._reader.is_alive():
                self.wait()
            state = "is running" if self.is_running else f"ended with {self._process.returncode}"
            msg = f"expected {event} of the service within {seconds:g} s; it {state}: {self.text[-5:]}"
            raise RuntimeError(msg)
        return found()[0]

    def leave_unread(self) -> None:
        """Read its standard error no longer, of which some ten lines then find room, until it has ended."""
        assert self._process.stderr is not None
        fcntl.fcntl(self._process.stderr, fcntl.F_SETPIPE_SZ, SMALLEST_PIPE)
        self._reads.clear()

    def signal(self, number: int) -> None:
        """Send a signal; one that is stopped stands still when this returns."""
        os.kill(self.pid, number)
        if number == signal.SIGSTOP:
            os.waitid(os.P_PID, self.pid, os.WSTOPPED)

    def wait(self, seconds: float = PATIENCE_SECONDS) -> int:
        """Wait until it has ended, real seconds; gives its exit code.

        Raises:
            RuntimeError: when it does not.
        """
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired as error:
            msg = f"expected the service to end within {seconds:g} s: {self.text[-5:]}"
            raise RuntimeError(msg) from error
        self._reads.set()
        self._reader.join()
        return code

    def kill(self) -> None:
        """End it and its children at once, as the machine's end would."""
        if self.is_running:
            os.killpg(self.pid, signal.SIGKILL)
        self.wait()
        if self._process.stderr is not None:
            self._process.stderr.close()

    def status(self, field: str) -> int:
        """A number of `/proc/PID/status`, such as VmRSS (KiB) or Threads."""
        lines = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii").splitlines()
        return int(next(line for line in lines if line.startswith(f"{field}:")).split()[1])

    def descriptors(self) -> int:
        """How many files it has open."""
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._reads.wait()
            try:
                found = json.loads(line)
            except ValueError:
                found = {}
            with self._told:
                self.text.append(line.rstrip()[:KEPT_CHARACTERS])
                if isinstance(found, dict) and "event" in found:
                    self.events.append(found)
                self._told.notify_all()
        with self._told:
            self._told.notify_all()


class World:
    """A clock, an exchange and services in a folder; to be used in a `with` block.

    Args:
        folder: where configuration, ledger and clock are.
        symbols: what is traded, all of it forecast in bars of a minute.
        start: UTC ms at which the world begins.
        speed: how many of its seconds a real one has.
        fault: Python that every service runs first, to replace what a harness must miss; nothing unless given.

    `exchange_ahead`, which may be assigned, is how far the exchange's clock is ahead of the world's time (ms).
    """

    def __init__(self, folder: Path, symbols: Sequence[str], start: int, speed: int = 60, fault: str = "") -> None:
        self.folder = folder
        self.clock = Clock(folder / "clock", start, speed)
        self.exchange = LoopbackExchange(now=start)
        self.exchange.symbols = set(symbols)
        self.exchange_ahead = 0
        self.asleep = 0
        self.url = f"sqlite:///{self.ledger}"
        self._fault = fault
        self._library: Path | None = None
        self._services: list[Service] = []
        self._ending = threading.Event()
        self._keeper = threading.Thread(target=self._keep_time, daemon=True)

    def __enter__(self) -> Self:
        self.exchange.__enter__()
        self._keeper.start()
        return self

    def __exit__(self, *_: object) -> None:
        for service in self._services:
            service.kill()
        self._ending.set()
        self._keeper.join()
        self.exchange.__exit__()

    @property
    def ledger(self) -> Path:
        """The file of the ledger."""
        return self.folder / "ledger.db"

    @property
    def keys(self) -> list[SeriesKey]:
        """The series that are forecast."""
        return [SeriesKey(VENUE, symbol, "1m") for symbol in sorted(self.exchange.symbols)]

    def write_config(self, name: str = "live.toml", **sections: Mapping[str, object]) -> Path:
        """Write a configuration; `sections` are tables of it, and come on top of what is usual here.

        The table `exchange` is that of the only one.
        """
        tables: dict[str, dict[str, object]] = {
            "exchange": self.exchange.config(VENUE, timeout=100.0, deadline=300.0).model_dump(mode="json"),
            "model": {"compile": "off", "context": 64, "min_context": 16, "horizon": 3, "device": "cpu"},
            "store": {"url": self.url},
            "daemon": {"drain_seconds": 300.0},
        }
        for section, changes in sections.items():
            tables[section] = tables.get(section, {}) | dict(changes)
        series = [{"exchange": key.exchange, "symbol": key.symbol, "timeframe": "1m"} for key in self.keys]
        tables[f"exchanges.{VENUE}"] = tables.pop("exchange")
        parts = [f"[{table}]\n{_lines(values)}" for table, values in tables.items()]
        path = self.folder / name
        path.write_text("\n".join([*parts, *(f"[[series]]\n{_lines(one)}" for one in series)]))
        return path

    def start(self, config: Path, **environment: str) -> Service:
        """Start the service in this world's time."""
        self._library = self._library or compile_clock(self.folder)
        faked = {"LD_PRELOAD": str(self._library), "FAKE_CLOCK": str(self.clock.file)}
        service = Service(config, faked | environment, self._fault)
        self._services.append(service)
        return service

    def sleep_through(self, ms: int) -> None:
        """Let time pass that nobody here lives through: the machine was suspended, the exchange was not."""
        self.asleep += ms
        self.clock.ahead += ms

    def now(self) -> int:
        """UTC ms as it is, also by the exchange."""
        return self.clock.now() + self.asleep

    def _keep_time(self) -> None:
        while not self._ending.wait(TICK_SECONDS):
            self.exchange.now = self.now() + self.exchange_ahead


def compile_clock(folder: Path) -> Path:
    """Compile the library that makes a process's clocks run fast."""
    library = folder / "fake_clock.so"
    compiler = shutil.which("cc") or shutil.which("gcc") or "g++"
    flags = ["-shared", "-fPIC", "-O2", "-w", *(["-x", "c"] if compiler == "g++" else [])]
    source = Path(__file__).with_name("fake_clock.c")
    subprocess.run([compiler, *flags, str(source), "-o", str(library), "-ldl", "-lpthread"], check=True)
    return library


def wait_until(condition: Callable[[], bool], what: str, seconds: float = PATIENCE_SECONDS) -> None:
    """Wait for something, real seconds.

    Raises:
        RuntimeError: when it does not come.
    """
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= until:
            msg = f"expected {what} within {seconds:g} s"
            raise RuntimeError(msg)
        time.sleep(TICK_SECONDS)


def _lines(table: Mapping[str, object]) -> str:
    return "".join(f"{name} = {_toml(value)}\n" for name, value in table.items() if value is not None)


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(name)} = {_toml(one)}" for name, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value)
