"""Check an installation: versions, configuration, ledger, model, one forecast."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np

from forecaster.config_file import default_config_path, load_config
from forecaster.context import Context
from forecaster.errors import ForecasterError
from forecaster.model import load_model
from forecaster.store import open_reader
from forecaster.store.sqlite_library import sqlite3

if TYPE_CHECKING:
    from collections.abc import Callable

    from forecaster.config import Config

_LIBRARIES = ("torch", "chronos-forecasting", "transformers", "ccxt", "apscheduler", "sqlalchemy", "pandas")


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check."""

    subject: str
    ok: bool
    finding: str
    notes: tuple[str, ...] = ()


def examine(path: str | None) -> list[Finding]:
    """Check everything that a configuration needs; an error is a finding, never raised."""
    versions = ", ".join(f"{name} {version(name)}" for name in _LIBRARIES)
    findings = [
        Finding("machine", ok=True, finding=f"Python {platform.python_version()}, {platform.machine()}"),
        Finding("libraries", ok=True, finding=f"{versions}, SQLite {sqlite3.sqlite_version}"),
    ]
    name = path or default_config_path()
    loaded: list[Config] = []
    findings.append(_check("configuration", lambda: _load(name, loaded)))
    if loaded:
        findings.append(_check("ledger", lambda: _open_ledger(loaded[0])))
        findings.append(_check("model", lambda: _forecast_once(loaded[0])))
    return findings


def _check(subject: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(subject, ok=True, finding=check())
    except ForecasterError as error:
        return Finding(subject, ok=False, finding=f"{type(error).__name__}: {error}")


def _load(name: str, loaded: list[Config]) -> str:
    loaded.append(load_config(name))
    return f"{name}: {len(loaded[0].series)} series"


def _open_ledger(config: Config) -> str:
    reader = open_reader(config.store.url.reveal())
    try:
        has_forecast = any(len(reader.cutoffs(series.key)) for series in config.series)
    finally:
        reader.close()
    return f"{config.store.url}: {'readable' if has_forecast else 'no forecast yet'}"


def _forecast_once(config: Config) -> str:
    """Forecast a slowly rising price: every working model can."""
    model = load_model(config.model)
    slope_T = np.linspace(100.0, 101.0, config.model.min_context)
    ohlc_CT = np.stack([slope_T, slope_T + 0.1, slope_T - 0.1, slope_T])
    forecast = model.predict([Context(config.series[0].key, 0, ohlc_CT)], config.model.horizon)[0]
    engine = f"{forecast.provenance.ledger_id} on {forecast.provenance.device}, {model.engine}: {model.engine_reason}"
    return f"{engine}; one forecast in {forecast.provenance.seconds:.2f} s"
