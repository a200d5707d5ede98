"""The version of the code that computes forecasts: part of the identity of a replay or a prediction.

It covers the modules that turn bars into recorded numbers: time grid, contexts, models, repair, calibration.
It does not cover modules that decide when, where and how fast that happens, or how it is shown. These are the compiler
(compared with eager), store, sources, tables and commands; a run is identified by its bars.
Any change of a covered file changes the version, also of a comment.
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
    "sessions.py",
    "calendars.py",
    "bars.py",
    "context.py",
    "forecast.py",
    "cycle/predict.py",
    "cycle/calibrate.py",
    "accuracy/calibration.py",
    "model/chronos2/architecture.py",
    "model/chronos2/checkpoint.py",
    "model/chronos2/wrapper.py",
    "model/chronos2/checkpoint_config.py",
    "model/chronos2/core.py",
    "model/baselines/__init__.py",
    "model/baselines/garch.py",
    "model/baselines/har.py",
    "model/baselines/historical_simulation.py",
    "model/baselines/random_walk.py",
    "model/baselines/returns.py",
    "model/chronos2/reference.py",
    "model/chronos2/rows.py",
    "model/chronos2/weights.py",
)
"""Files of the package that compute a part of a forecast."""

LIBRARIES: Final = ("numpy", "torch", "arch", "scipy", "exchange_calendars")
"""Libraries that compute a part of a forecast, or define which bars should exist."""

_PACKAGE: Final = Path(__file__).parent


@cache
def code_digest() -> str:
    """Return the sha256 of the `DECIDING` files and of the versions of `LIBRARIES`."""
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
