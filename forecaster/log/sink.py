"""Where log lines go: standard error, a live display, or a background thread that writes standard error.

A line for a terminal is for people, elsewhere it is JSON. Tracebacks carry no local variables and no source. Logging
never raises: lines that could not be written are counted, and the count is the first line that can be written.
"""

from __future__ import annotations

import json
import os
import queue
import threading
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING, Any, Final, TextIO, cast

import structlog

from forecaster.log.redaction import sanitize_event

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, MutableMapping

    from structlog.typing import Processor

MAX_QUEUED: Final = 4_096
"""Lines queued for the background thread; further lines are counted as lost."""
FLUSH_SECONDS: Final = 1.0
"""How long the end of a program waits for queued lines."""

_MAX_FRAMES: Final = 30
_EXCEPTION: Final = structlog.processors.ExceptionRenderer(
    structlog.tracebacks.ExceptionDictTransformer(show_locals=False, max_frames=_MAX_FRAMES)
)
SHARED_PROCESSORS: Final[list[Processor]] = [
    structlog.contextvars.merge_contextvars,
    structlog.processors.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]


class LogSink:
    """Renders events as lines and writes them, without ever raising.

    Args:
        stream: standard error; None where the program was started without one.

    Attributes:
        show: shows lines in place of the stream; see `redirect_lines`.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self.show: Callable[[str], None] | None = None
        self._stream = stream
        self._descriptor = _duplicate_descriptor(stream)
        self._format: Callable[[dict[str, object]], str] = _console_format() if _is_terminal(stream) else json.dumps
        self._lock = threading.RLock()  # a signal handler may log while this thread does
        self._lost = 0
        self._is_truncated = False
        self._background: _BackgroundWriter | None = None

    def write_in_background(self) -> None:
        """From now on, let a thread write the lines."""
        if self._background is None:
            self._background = _BackgroundWriter(self._write)

    def render(self, _: object, __: str, event: MutableMapping[str, object]) -> str:
        """Render an event with any values as a line; the last of structlog's processors."""
        try:
            return self._format(sanitize_event(_with_exception(event)))
        except Exception:  # noqa: BLE001 - an event that cannot be formatted is logged as plain JSON
            return json.dumps(sanitize_event(event))

    def write(self, line: str) -> None:
        """Write a line that ends with a newline, or count it as lost."""
        show = self.show
        if show is not None:  # without the lock: a display has its own, and logs while it holds it
            try:
                show(self._lost_line() + line)
            except Exception:  # noqa: BLE001 - whatever a display raises, the caller goes on
                self._lost += 1
            else:
                self._lost = 0
            return
        if self._background is not None and self._background.pid != os.getpid():
            self._lock, self._background = threading.RLock(), None  # a fork has no thread, and maybe a held lock
        if self._background is None:
            self._write(line)
        else:
            self._background.put(line)

    def flush(self) -> None:
        """Wait up to `FLUSH_SECONDS` for queued lines."""
        if self._background is not None:
            self._background.flush(FLUSH_SECONDS)

    def close(self) -> None:
        """Close the descriptor, after up to `FLUSH_SECONDS` for queued lines."""
        if self._background is not None:
            self._background.close(FLUSH_SECONDS)
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor, self._stream = None, None

    def _write(self, line: str, lost: int = 0) -> None:
        with self._lock:
            self._lost += lost
            try:
                self._put(self._lost_line() + line)
            except (OSError, ValueError, AttributeError):
                self._lost += 1
            else:
                self._lost = 0

    def _lost_line(self) -> str:
        if not self._lost:
            return ""
        event = add_shared_values({"event": "log.lines_lost", "lines": self._lost}, "warning")
        return self.render(None, "", event) + "\n"

    def _put(self, text: str) -> None:
        if self._descriptor is None:
            cast("TextIO", self._stream).write(text)
            cast("TextIO", self._stream).flush()
            return
        remaining = ("\n" * self._is_truncated + text).encode(errors="backslashreplace")
        while remaining:
            remaining = remaining[os.write(self._descriptor, remaining) :]
            self._is_truncated = bool(remaining)


class _BackgroundWriter:
    """A thread that writes lines in order. Nothing here blocks, since signal handlers may log.

    Args:
        write: writes a line, given the number of lines lost before it.
    """

    def __init__(self, write: Callable[[str, int], None]) -> None:
        self.pid = os.getpid()
        self._write = write
        self._lines: queue.SimpleQueue[str | threading.Event | None] = queue.SimpleQueue()  # its put never blocks
        self._lost_counter = count()  # nor does its next
        self._counted = 0
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def put(self, line: str) -> None:
        """Queue a line, or count it as lost when too many are queued."""
        if self._lines.qsize() < MAX_QUEUED:
            self._lines.put(line)
        else:
            next(self._lost_counter)

    def flush(self, seconds: float) -> None:
        """Wait up to `seconds` until the lines queued so far are written."""
        is_flushed = threading.Event()
        self._lines.put(is_flushed)
        is_flushed.wait(seconds)

    def close(self, seconds: float) -> None:
        """End the thread after the lines queued so far; wait for it up to `seconds`."""
        self._lines.put(None)
        self._thread.join(seconds)

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            if isinstance(line, threading.Event):
                line.set()
            else:
                self._write(line, self._take_lost())

    def _take_lost(self) -> int:
        """Lines lost since the last call."""
        lost = next(self._lost_counter) - self._counted
        self._counted += lost + 1
        return lost


def add_shared_values(event: MutableMapping[str, object], level: str) -> MutableMapping[str, object]:
    """Add context, level and time, as to every event."""
    for processor in SHARED_PROCESSORS:
        event = cast("MutableMapping[str, object]", processor(None, level, event))
    return event


def _with_exception(event: MutableMapping[str, object]) -> MutableMapping[str, object]:
    """Replace `exc_info` by a list: the exception, then its causes, each with its frames."""
    if "exc_info" not in event:
        return event
    rest = {name: value for name, value in event.items() if name != "exc_info"}
    return rest | dict(_EXCEPTION(None, "", {"exc_info": event["exc_info"]})) if event["exc_info"] else rest


def _console_format() -> Callable[[dict[str, object]], str]:
    """Lines for people: the event, then its traceback, indented so that none of it looks like an event."""
    console = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)

    def format_event(values: dict[str, object]) -> str:
        trace = values.get("exception")
        line = str(console(None, "", {name: value for name, value in values.items() if name != "exception"}))
        return "\n".join([line, *_trace_lines(trace)]) if isinstance(trace, list) else line

    return format_event


def _trace_lines(trace: list[Any], indent: str = "    ") -> Iterator[str]:
    for position, error in enumerate(trace):
        link = "" if not position else "caused by " if error.get("is_cause") else "raised while handling "
        yield f"{indent}{link}{error.get('exc_type')}: {error.get('exc_value')}"
        for note in error.get("exc_notes", []):
            yield f"{indent}  {note}"
        for frame in error.get("frames", []):
            yield f"{indent}  File {frame.get('filename')!r}, line {frame.get('lineno')}, in {frame.get('name')}"
        for inner in error.get("exceptions", []):
            yield from _trace_lines(inner, indent + "    ")


def _duplicate_descriptor(stream: TextIO | None) -> int | None:
    """Our own descriptor: when standard error is closed, its number may be reused for another file."""
    with suppress(OSError, ValueError, AttributeError):
        return os.dup(cast("TextIO", stream).fileno())
    return None


def _is_terminal(stream: TextIO | None) -> bool:
    with suppress(OSError, ValueError, AttributeError):
        return cast("TextIO", stream).isatty()
    return False
