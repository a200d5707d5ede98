"""Logging: structlog set up once, by entry points, never on import; quiet and Python's own for who imports us.

On a terminal lines are for people, elsewhere JSON; libraries' records and Python's warnings come out as the same lines.
Whatever is logged is made harmless first: secrets are hidden, nothing can end a line or move a cursor, and lengths are
bounded. Tracebacks carry no local variables and no source. Whoever logs is never stopped by it: lines that could not be
written are counted, and the count is told by the first line that can be. A service does not even wait: it writes from a
thread (`lines_written_behind`). Commands write at once.
"""

from __future__ import annotations

import json
import logging
import math
import os
import queue
import re
import sys
import threading
from collections.abc import Iterable, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from itertools import count
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Final, TextIO, cast

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, MutableMapping

    from structlog.typing import FilteringBoundLogger, Processor, WrappedLogger

MOST_CHARACTERS: Final = 2_000
"""Of one value."""
MOST_OF_A_LINE: Final = 32_768
"""Characters of all values together; what no longer fits is left out."""
MOST_WAITING: Final = 4_096
"""Lines that wait to be written; what comes while there are so many is counted."""
PATIENCE_SECONDS: Final = 1.0
"""How long the end of a program waits for lines to be written."""
HIDDEN: Final = "[hidden]"

_CUT: Final = "…"
_MOST_READ: Final = 8 * MOST_CHARACTERS
_MOST_DEPTH: Final = 10
_MOST_FRAMES: Final = 30
_MOST_BITS: Final = 64
_COST_OF_A_VALUE: Final = 8
_FIRST: Final = ("timestamp", "level", "event")

_NAMES: Final = r"secret|token|passw(?:or)?d|passphrase|credential|signature|(?:api|private|access)[_-]?key"
_NAMES_OF_KEYS: Final = rf"{_NAMES}|authorization|cookie|webhook|(?:\A|_)auth\Z"
_SECRET_KEY: Final = re.compile(rf"(?!.*_(?:file|path)\Z).*(?:{_NAMES_OF_KEYS})", re.IGNORECASE | re.DOTALL)
_IS: Final = r"(?:\\*[\"']?\s{0,3}[=:](?!//)|\\*[\"']\s{0,3},)\s{0,3}"
_VALUE: Final = r"""(?:b?"[^"]*"|b?'[^']*'|\\+["'][^"'\\]*|[^\s&;"'<>]+)"""
# A password is not always encoded as it should be: it may hold a slash. What follows a host may be a port, though.
_IN_TEXT: Final = [
    (re.compile(r"://[^\s/'\"<>]{1,512}@"), rf"://{HIDDEN}@"),
    (re.compile(r"://[^\s/:@'\"]{0,128}:(?!\d{1,5}(?:[/?#]|\Z))[^\s'\"]{1,512}@"), rf"://{HIDDEN}@"),
    (re.compile(rf"((?:authorization|cookie){_IS}\\*[\"']?)[^\"'\n]+", re.IGNORECASE), rf"\1{HIDDEN}"),
    (re.compile(rf"((?:{_NAMES})[\w-]{{0,40}}{_IS})(?!expected\b){_VALUE}", re.IGNORECASE), rf"\1{HIDDEN}"),
    (re.compile(r"([?&](?:key|auth|sig|sign|code)=)[^\s&\"'<>]+", re.IGNORECASE), rf"\1{HIDDEN}"),
    (re.compile(r"\b(bearer\s+)[\w.~+/=-]{6,}", re.IGNORECASE), rf"\1{HIDDEN}"),
]
# Ends of lines, escapes of terminals, what turns the direction of writing or is not seen, and halves of characters.
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u00ad\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]")


def get_logger(name: str) -> FilteringBoundLogger:
    """Give a logger that is structlog's where that is configured, and Python's own of this name where not.

    Python's own shows only warnings, on standard error, unless the program that imports us says otherwise.
    """
    # structlog calls it as it would call a class, for each event; the choice may fall after this logger was made.
    wrapper = cast("type[structlog.typing.BindableLogger]", partial(_bound, name))
    return cast("FilteringBoundLogger", structlog.wrap_logger(None, wrapper_class=wrapper))


def configure_logging(*, verbose: bool = True, without: frozenset[str] = frozenset()) -> None:
    """Write events to standard error; only warnings and worse unless `verbose`, and none of the names `without`."""

    def leave_out(_logger: WrappedLogger, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        if event["event"] in without:
            raise structlog.DropEvent
        return event

    outlet = Outlet(sys.stderr)
    logging.captureWarnings(capture=True)
    for handler in [one for one in logging.root.handlers if isinstance(one, _Theirs)]:
        logging.root.removeHandler(handler)
        handler.close()
    logging.root.addHandler(_Theirs(outlet))
    logging.root.setLevel(logging.WARNING)
    structlog.configure(
        processors=[leave_out, *_SHARED, outlet.render],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO if verbose else logging.WARNING),
        logger_factory=lambda *_: _Lines(outlet),
    )


@contextmanager
def lines_shown_by(show: Callable[[str], None]) -> Iterator[None]:
    """Have lines shown by `show` and not written, while a live display draws on standard error."""
    outlets = _outlets()
    for outlet in outlets:
        outlet.show = show
    try:
        yield
    finally:
        for outlet in outlets:
            outlet.show = None


@contextmanager
def lines_written_behind() -> Iterator[None]:
    """Have lines written by a thread from now on, so that no reader of standard error can stop the program.

    The end of the block, and the end of the program, wait up to `PATIENCE_SECONDS` for the lines that are left.
    """
    outlets = _outlets()
    for outlet in outlets:
        outlet.write_behind()
    try:
        yield
    finally:
        for outlet in outlets:
            outlet.finish()


def _outlets() -> list[Outlet]:
    return [one.outlet for one in logging.root.handlers if isinstance(one, _Theirs)]


def log_crashes() -> None:
    """Log what nobody caught, in any thread, as one line without secrets; for who is read by its log alone."""
    log = get_logger(__name__)

    def of_program(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        if issubclass(kind, KeyboardInterrupt):
            sys.__excepthook__(kind, error, trace)
        else:
            log.critical("program.failed", exc_info=(kind, error, trace))

    def of_thread(failed: threading.ExceptHookArgs) -> None:
        if failed.exc_value is not None and not isinstance(failed.exc_value, SystemExit):
            name = failed.thread.name if failed.thread else None
            log.critical("thread.failed", thread=name, exc_info=failed.exc_value)

    sys.excepthook = of_program
    threading.excepthook = of_thread


def harmless(text: str, most: int = MOST_CHARACTERS) -> str:
    """Hide secrets in a text, write out what is not printable, and cut it to `most` characters."""
    shown = text[:_MOST_READ]
    for pattern, instead in _IN_TEXT:
        shown = pattern.sub(instead, shown)
    shown = _CONTROL.sub(_written_out, shown)
    return shown if len(shown) <= most and len(text) <= _MOST_READ else shown[: most - 1] + _CUT


def harmless_values(event: Mapping[str, object]) -> dict[str, object]:
    """Turn an event into what JSON can hold: bounded, without secrets at any depth, its time, level and name first."""
    first = {name: event[name] for name in _FIRST if name in event}
    return _Harmless().mapping(first | dict(event))


class Outlet:
    """Where lines go: makes a line of an event, and writes it without ever raising at whoever logs.

    Args:
        stream: standard error; None where the program was started without one.

    Attributes:
        show: shows lines in place of the stream; see `lines_shown_by`.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self.show: Callable[[str], None] | None = None
        self._stream = stream
        self._descriptor = _own_descriptor(stream)
        self._line: Callable[[dict[str, object]], str] = _console_line() if _is_terminal(stream) else json.dumps
        self._lock = threading.RLock()  # a signal's handler may log while this thread does
        self._lost = 0
        self._is_cut = False
        self._behind: _Behind | None = None

    def write_behind(self) -> None:
        """From now on give lines to a thread that writes them."""
        if self._behind is None:
            self._behind = _Behind(self._write)

    def render(self, _: object, __: str, event: MutableMapping[str, object]) -> str:
        """Make a line, of whatever values; the last of structlog's processors."""
        try:
            return self._line(harmless_values(_with_exception(event)))
        except Exception:  # noqa: BLE001 - what cannot be shown to people, or has no traceback, is told in plain JSON
            return json.dumps(harmless_values(event))

    def write(self, line: str) -> None:
        """Write a line, its end included, or count it; what was lost before is told first."""
        show = self.show
        if show is not None:  # without the lock: a display has its own, and logs while it holds that
            try:
                show(self._told_losses() + line)
            except Exception:  # noqa: BLE001 - whatever a display trips over, whoever logs goes on
                self._lost += 1
            else:
                self._lost = 0
            return
        if self._behind is not None and self._behind.pid != os.getpid():  # a fork has no thread, and maybe a lock held
            self._lock, self._behind = threading.RLock(), None
        if self._behind is None:
            self._write(line)
        else:
            self._behind.take(line)

    def finish(self) -> None:
        """Wait a moment for a thread to write the lines that it has."""
        if self._behind is not None:
            self._behind.finish(PATIENCE_SECONDS)

    def close(self) -> None:
        """Let go of the descriptor, after a moment for the lines that wait."""
        if self._behind is not None:
            self._behind.close(PATIENCE_SECONDS)
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor, self._stream = None, None

    def _write(self, line: str, lost: int = 0) -> None:
        with self._lock:
            self._lost += lost
            try:
                self._put(self._told_losses() + line)
            except (OSError, ValueError, AttributeError):
                self._lost += 1
            else:
                self._lost = 0

    def _told_losses(self) -> str:
        if not self._lost:
            return ""
        return self.render(None, "", _with_shared({"event": "log.lost", "lines": self._lost}, "warning")) + "\n"

    def _put(self, text: str) -> None:
        if self._descriptor is None:
            cast("TextIO", self._stream).write(text)
            cast("TextIO", self._stream).flush()
            return
        rest = ("\n" * self._is_cut + text).encode(errors="backslashreplace")
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]
            self._is_cut = bool(rest)


class _Behind:
    """A thread that writes lines in the order in which they came. Nothing here waits: a signal's handler may log.

    Args:
        write: writes a line, and is told how many were lost since the one before.
    """

    def __init__(self, write: Callable[[str, int], None]) -> None:
        self.pid = os.getpid()
        self._write = write
        self._lines: queue.SimpleQueue[str | threading.Event | None] = queue.SimpleQueue()  # its put never waits
        self._count = count()  # nor does its next
        self._counted = 0
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def take(self, line: str) -> None:
        """Take a line, or count it when too many wait."""
        if self._lines.qsize() < MOST_WAITING:
            self._lines.put(line)
        else:
            next(self._count)

    def finish(self, seconds: float) -> None:
        """Wait until the lines that were taken so far are written, but no longer than so many seconds."""
        are_written = threading.Event()
        self._lines.put(are_written)
        are_written.wait(seconds)

    def close(self, seconds: float) -> None:
        """End the thread after the lines that were taken so far; wait for it no longer than so many seconds."""
        self._lines.put(None)
        self._thread.join(seconds)

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            if isinstance(line, threading.Event):
                line.set()
            else:
                self._write(line, self._lost())

    def _lost(self) -> int:
        """How many lines were counted since the last call."""
        lost = next(self._count) - self._counted
        self._counted += lost + 1
        return lost


class _Lines:
    """What structlog gives a line to. Its own loggers hold a lock, for which a signal's handler would wait forever."""

    def __init__(self, outlet: Outlet) -> None:
        self._outlet = outlet

    def msg(self, line: str) -> None:
        """Write a line."""
        self._outlet.write(line + "\n")

    debug = info = warning = error = critical = msg


class _Theirs(logging.Handler):
    """Makes our lines of what libraries log."""

    def __init__(self, outlet: Outlet) -> None:
        super().__init__()
        self.outlet = outlet

    def emit(self, record: logging.LogRecord) -> None:
        event: dict[str, object] = {"event": _message(record), "logger": record.name, "exc_info": record.exc_info}
        self.outlet.write(self.outlet.render(None, "", _with_shared(event, record.levelname.lower())) + "\n")

    def close(self) -> None:
        self.outlet.close()
        super().close()


class _Harmless:
    """Makes the values of one line harmless, as long as there is room in it."""

    def __init__(self) -> None:
        self._room = MOST_OF_A_LINE

    def value(self, value: object, depth: int = 0) -> object:
        """What stands for a value in a line; one that cannot be shown is named by its type."""
        self._room -= _COST_OF_A_VALUE
        if depth > _MOST_DEPTH:
            return _CUT
        try:
            return self._of_kind(value, depth)
        except Exception:  # noqa: BLE001 - whatever a value's own methods raise, the event is told
            return self._text(f"<a {type(value).__name__} that cannot be shown>")

    def mapping(self, values: Mapping[Any, object], depth: int = 0) -> dict[str, object]:
        """What stands for values with names, each under its own."""
        made: dict[str, object] = {}
        for key in self._that_fit(values):
            name = self._text(str(key))
            made[name] = HIDDEN if _is_secret(str(key), values[key]) else self.value(values[key], depth + 1)
        return made

    def _of_kind(self, value: object, depth: int) -> object:
        if isinstance(value, str):
            return self._text(value)
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, Real):
            return self._number(value)
        if isinstance(value, Mapping):
            return self.mapping(value, depth)
        if isinstance(value, list | tuple | set | frozenset):
            return [self.value(one, depth + 1) for one in self._that_fit(value)]
        return self._text(repr(value))

    def _text(self, text: str) -> str:
        shown = harmless(text, max(1, min(MOST_CHARACTERS, self._room)))
        self._room -= len(shown)
        return shown

    def _number(self, value: Real) -> object:
        """A number that JSON has: it knows no infinity, and Python writes no integer of any length."""
        if isinstance(value, Integral):
            whole = int(value)
            return whole if whole.bit_length() <= _MOST_BITS else f"an integer of {whole.bit_length()} bits"
        number = float(value)
        return number if math.isfinite(number) else str(number)

    def _that_fit(self, values: Iterable[Any]) -> Iterator[Any]:
        for one in values:
            if self._room <= 0:
                return
            yield one


def _is_secret(key: str, value: object) -> bool:
    """Whether a key names a secret; numbers of tokens are none."""
    is_count = key.lower().endswith("tokens") and isinstance(value, Real)
    return bool(_SECRET_KEY.match(key)) and not is_count


def _written_out(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()


def _message(record: logging.LogRecord) -> str:
    """The text of a record, though its arguments do not fit."""
    try:
        return record.getMessage().strip()
    except Exception:  # noqa: BLE001 - arguments may raise anything when they are shown
        return str(record.msg)


def _with_shared(event: MutableMapping[str, object], level: str) -> MutableMapping[str, object]:
    """Add what every event of ours has."""
    for processor in _SHARED:
        event = cast("MutableMapping[str, object]", processor(None, level, event))
    return event


def _with_exception(event: MutableMapping[str, object]) -> MutableMapping[str, object]:
    """Tell an exception as a list: itself, then its causes, each with its frames."""
    if "exc_info" not in event:
        return event
    rest = {name: value for name, value in event.items() if name != "exc_info"}
    return rest | dict(_RAISED(None, "", {"exc_info": event["exc_info"]})) if event["exc_info"] else rest


def _console_line() -> Callable[[dict[str, object]], str]:
    """Lines for people: the event, then its traceback, indented, so that no line of it passes for an event."""
    console = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)

    def line(values: dict[str, object]) -> str:
        trace = values.get("exception")
        told = str(console(None, "", {name: value for name, value in values.items() if name != "exception"}))
        return "\n".join([told, *_trace_lines(trace)]) if isinstance(trace, list) else told

    return line


def _trace_lines(trace: list[Any], indent: str = "    ") -> Iterator[str]:
    for place, one in enumerate(trace):
        link = "" if not place else "caused by " if one.get("is_cause") else "raised while handling "
        yield f"{indent}{link}{one.get('exc_type')}: {one.get('exc_value')}"
        for note in one.get("exc_notes", []):
            yield f"{indent}  {note}"
        for frame in one.get("frames", []):
            yield f"{indent}  File {frame.get('filename')!r}, line {frame.get('lineno')}, in {frame.get('name')}"
        for inner in one.get("exceptions", []):
            yield from _trace_lines(inner, indent + "    ")


def _own_descriptor(stream: TextIO | None) -> int | None:
    """A descriptor of our own: when standard error is closed, its number may be given to the next file that opens."""
    with suppress(OSError, ValueError, AttributeError):
        return os.dup(cast("TextIO", stream).fileno())
    return None


def _is_terminal(stream: TextIO | None) -> bool:
    with suppress(OSError, ValueError, AttributeError):
        return cast("TextIO", stream).isatty()
    return False


def _bound(name: str, logger: WrappedLogger, processors: Iterable[Processor], context: Any) -> Any:
    if structlog.is_configured():
        return structlog.get_config()["wrapper_class"](logger, processors=processors, context=context)
    return structlog.stdlib.BoundLogger(logging.getLogger(name), processors=_FOR_PYTHONS_OWN, context=context)


def _as_record(_: object, __: str, event: MutableMapping[str, object]) -> tuple[tuple[str], dict[str, Any]]:
    """What Python's own logger is called with: event and values as one text, and the exception as it is."""
    exception = {"exc_info": event.pop("exc_info")} if "exc_info" in event else {}
    values = harmless_values(event)
    named = "".join(f" {name}={value!r}" for name, value in values.items() if name != "event")
    return (f"{values.get('event')}{named}",), exception


_RAISED: Final = structlog.processors.ExceptionRenderer(
    structlog.tracebacks.ExceptionDictTransformer(show_locals=False, max_frames=_MOST_FRAMES)
)
_SHARED: Final[list[Processor]] = [
    structlog.contextvars.merge_contextvars,
    structlog.processors.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]
_FOR_PYTHONS_OWN: Final[list[Processor]] = [
    structlog.stdlib.filter_by_level,
    structlog.contextvars.merge_contextvars,
    _as_record,
]
