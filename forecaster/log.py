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
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(name)s: %(message)s")
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            hide_secrets,
            *_renderers(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def hide_secrets(_: object, __: str, event: MutableMapping[str, object]) -> MutableMapping[str, object]:
    """Replace the values of keys that are named like a secret."""
    for key in event:
        if _SECRET.search(key):
            event[key] = "[hidden]"
    return event


def _renderers() -> list[structlog.typing.Processor]:
    if sys.stderr.isatty():
        return [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
    transformer = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    return [structlog.processors.ExceptionRenderer(transformer), structlog.processors.JSONRenderer()]
