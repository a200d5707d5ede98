"""Logging: structlog set up once, by entry points, never on import.

On a terminal lines are for people, elsewhere JSON. Tracebacks carry no local variables, and values
whose key is named like a secret are hidden.
"""

from __future__ import annotations

import logging
import re
import sys
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from collections.abc import MutableMapping

_SECRET = re.compile(r"secret|token|password|passwd|api_?key|authorization", re.IGNORECASE)


def configure_logging(*, verbose: bool = True) -> None:
    """Write events to standard error; only warnings and worse unless `verbose`."""
    level = logging.INFO if verbose else logging.WARNING
    logging.captureWarnings(capture=True)
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        hide_secrets,
    ]
    theirs = logging.StreamHandler(sys.stderr)
    remove = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    theirs.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared], processors=[remove, *_renderers()]
        )
    )
    logging.basicConfig(level=logging.WARNING, handlers=[theirs])
    structlog.configure(
        processors=[*shared, *_renderers()],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def hide_secrets(_: object, __: str, event: MutableMapping[str, object]) -> MutableMapping[str, object]:
    """Replace the values of keys that are named like a secret."""
    return {key: _shown(key, value) for key, value in event.items()}


def _shown(key: object, value: object) -> object:
    if _SECRET.search(str(key)):
        return "[hidden]"
    return {k: _shown(k, v) for k, v in value.items()} if isinstance(value, dict) else value


def _renderers() -> list[structlog.typing.Processor]:
    if sys.stderr.isatty():
        return [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
    transformer = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    return [structlog.processors.ExceptionRenderer(transformer), structlog.processors.JSONRenderer()]
