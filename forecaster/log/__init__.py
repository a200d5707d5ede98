"""Logging: structlog, configured by entry points and never on import; Python's own logging for other programs.

Records of libraries and Python's warnings become the same lines. `redaction` makes values safe, `sink` writes lines.
Logging never stops the caller. A service does not even wait: a thread writes its lines (`write_lines_in_background`).
Commands write at once.
"""

from __future__ import annotations

import logging
import sys
import threading
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

import structlog

from forecaster.log.redaction import sanitize, sanitize_event
from forecaster.log.sink import SHARED_PROCESSORS, LogSink, add_shared_values

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, MutableMapping

    from structlog.typing import FilteringBoundLogger, Processor, WrappedLogger

__all__ = [
    "configure_logging",
    "get_logger",
    "log_uncaught_exceptions",
    "redirect_lines",
    "sanitize",
    "sanitize_event",
    "write_lines_in_background",
]


def get_logger(name: str) -> FilteringBoundLogger:
    """Return a logger that uses structlog once it is configured, and Python's logger of this name before.

    Python's own shows only warnings, on standard error, unless the importing program configures it.
    """
    # structlog calls it like a class, for each event, so structlog may be configured after this call.
    wrapper = cast("type[structlog.typing.BindableLogger]", partial(_bound, name))
    return cast("FilteringBoundLogger", structlog.wrap_logger(None, wrapper_class=wrapper))


def configure_logging(*, verbose: bool = True, without: frozenset[str] = frozenset()) -> None:
    """Write events to standard error, without those named in `without`; unless `verbose`, from warnings up."""

    def drop_excluded(
        _logger: WrappedLogger, _method: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        if event["event"] in without:
            raise structlog.DropEvent
        return event

    sink = LogSink(sys.stderr)
    logging.captureWarnings(capture=True)
    for handler in [each for each in logging.root.handlers if isinstance(each, _LibraryHandler)]:
        logging.root.removeHandler(handler)
        handler.close()
    logging.root.addHandler(_LibraryHandler(sink))
    logging.root.setLevel(logging.WARNING)
    structlog.configure(
        processors=[drop_excluded, *SHARED_PROCESSORS, sink.render],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO if verbose else logging.WARNING),
        logger_factory=lambda *_: _LineLogger(sink),
    )


@contextmanager
def redirect_lines(show: Callable[[str], None]) -> Iterator[None]:
    """Pass lines to `show` in place of standard error, while a live display draws there."""
    sinks = _sinks()
    for sink in sinks:
        sink.show = show
    try:
        yield
    finally:
        for sink in sinks:
            sink.show = None


@contextmanager
def write_lines_in_background() -> Iterator[None]:
    """Let a thread write the lines, so that a stuck reader of standard error cannot stop the program.

    The end of the block, and the end of the program, wait up to `sink.FLUSH_SECONDS` for queued lines.
    """
    sinks = _sinks()
    for sink in sinks:
        sink.write_in_background()
    try:
        yield
    finally:
        for sink in sinks:
            sink.flush()


def log_uncaught_exceptions() -> None:
    """Log uncaught exceptions of any thread as one line without secrets."""
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


def _sinks() -> list[LogSink]:
    return [handler.sink for handler in logging.root.handlers if isinstance(handler, _LibraryHandler)]


class _LineLogger:
    """The logger below structlog. Structlog's own loggers hold a lock that would block a signal handler forever."""

    def __init__(self, sink: LogSink) -> None:
        self._sink = sink

    def msg(self, line: str) -> None:
        """Write a line."""
        self._sink.write(line + "\n")

    debug = info = warning = error = critical = msg


class _LibraryHandler(logging.Handler):
    """Writes records of libraries as lines of the same form."""

    def __init__(self, sink: LogSink) -> None:
        super().__init__()
        self.sink = sink

    def emit(self, record: logging.LogRecord) -> None:
        event: dict[str, object] = {"event": _message(record), "logger": record.name, "exc_info": record.exc_info}
        self.sink.write(self.sink.render(None, "", add_shared_values(event, record.levelname.lower())) + "\n")

    def close(self) -> None:
        self.sink.close()
        super().close()


def _message(record: logging.LogRecord) -> str:
    """The text of a record, even if its arguments do not fit."""
    try:
        return record.getMessage().strip()
    except Exception:  # noqa: BLE001 - formatting arguments may raise anything
        return str(record.msg)


def _bound(name: str, logger: WrappedLogger, processors: Iterable[Processor], context: Any) -> Any:
    if structlog.is_configured():
        return structlog.get_config()["wrapper_class"](logger, processors=processors, context=context)
    return structlog.stdlib.BoundLogger(logging.getLogger(name), processors=_STDLIB_PROCESSORS, context=context)


def _render_for_stdlib(_: object, __: str, event: MutableMapping[str, object]) -> tuple[tuple[str], dict[str, Any]]:
    """Arguments for Python's own logger: event and values as one text, and the exception unchanged."""
    exception = {"exc_info": event.pop("exc_info")} if "exc_info" in event else {}
    values = sanitize_event(event)
    pairs = "".join(f" {name}={value!r}" for name, value in values.items() if name != "event")
    return (f"{values.get('event')}{pairs}",), exception


_STDLIB_PROCESSORS: Final[list[Processor]] = [
    structlog.stdlib.filter_by_level,
    structlog.contextvars.merge_contextvars,
    _render_for_stdlib,
]
