"""The version of the code that makes numbers: part of what a replay or a prediction is known by.

Counted are the modules that turn bars into what is recorded: the grid of times, contexts, models, repair, calibration.
Not counted are those that decide when, where and how fast that happens, and what is shown of it: the compiler's (its
code is held to eager's numbers), the store, sources and tables (a run is known by the bars that they gave), commands.
Any change of a counted file counts, of a comment too.
"""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

DECIDING: Final = (
    "timeframe.py",
    "zones.py",
    "calendars.py",
    "bars.py",
    "forecast.py",
    "cycle/predict.py",
    "cycle/calibrate.py",
    "accuracy/calibration.py",
    "model/chronos2/architecture.py",
    "model/baselines/simple.py",
    "model/chronos2/checkpoint.py",
    "model/chronos2/wrapper.py",
    "model/chronos2/checkpoint_config.py",
    "model/chronos2/core.py",
    "model/baselines/garch.py",
    "model/baselines/har.py",
    "model/baselines/returns.py",
    "model/chronos2/reference.py",
    "model/chronos2/weights.py",
)
"""Files of the package, whose arithmetic ends in a forecast."""

LIBRARIES: Final = ("numpy", "torch", "arch", "scipy", "exchange_calendars")
"""Libraries that take part in that arithmetic, or say which bars should exist."""

_PACKAGE: Final = Path(__file__).parent


@cache
def code_digest() -> str:
    """Give the sha256 of the code that decides numbers: its own files, and the versions of the libraries it uses."""
    return _digest_of(_PACKAGE, tuple(f"{name} {_version(name)}" for name in LIBRARIES))


def _digest_of(package: Path, versions: tuple[str, ...]) -> str:
    digest = hashlib.sha256()
    for name in DECIDING:
        digest.update(f"{name}\0{hashlib.sha256((package / name).read_bytes()).hexdigest()}\n".encode())
    digest.update("\n".join(versions).encode())
    return digest.hexdigest()


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "none"
