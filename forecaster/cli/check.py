"""What can be known of a configuration without a network: its model, exchanges, files and paths, with all faults.

What a file holds is left to `probe`, which also asks exchanges.
"""

from __future__ import annotations

import dataclasses
import os
import stat
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final

import typer
from pydantic import ValidationError

from forecaster.cli.options import listed
from forecaster.cli.printing import log_to_stderr, print_findings, print_record, say
from forecaster.cli.probe import idle_keys, probe
from forecaster.clock import now_ms
from forecaster.config import HUB, NANO
from forecaster.config_file import EMBEDDED, faults_of, load_config
from forecaster.doctor import Finding
from forecaster.errors import ConfigError, ForecasterError
from forecaster.log import sanitize
from forecaster.model.baselines import BASELINES, create_baseline
from forecaster.model.chronos2.checkpoint_files import examine_checkpoint
from forecaster.model.chronos2.private_folder import ArtifactsRefused, check_folder
from forecaster.urls import sqlite_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from forecaster.config import AlertsConfig, Config, HealthConfig, ModelConfig

_DATABASES: Final = ("sqlite", "postgresql", "memory")


def check_and_leave(path: str, *, ask: bool, json_: bool) -> None:
    """Check a configuration, print what was found, and leave with code 2 when something is wrong.

    With `ask`, exchanges are asked for their newest bars.
    """
    log_to_stderr(verbose=False)
    config = _load(path)
    found = f"{path}: {len(config.series)} series"
    findings = [Finding("configuration", ok=True, finding=found, notes=_open_passwords(path, config))]
    findings += examine(config)
    probed = probe(config, [one for one in config.series if ask or one.file is not None], now_ms())
    findings += [Finding(one.series, one.ok, one.finding, one.notes) for one in probed]
    ok = all(one.ok for one in findings)
    if json_:
        record: dict[str, object] = {"config": path, "ok": ok, "series": [str(one.key) for one in config.series]}
        record["findings"] = [dataclasses.asdict(one) for one in findings]
        print_record(record | ({"probed": [dataclasses.asdict(one) for one in probed]} if ask else {}), json_=True)
    else:
        print_findings(findings)
    if not ok:
        raise typer.Exit(2)


def examine(config: Config) -> list[Finding]:
    """Look at everything that a configuration names, but for the bars; a fault is a finding, never raised."""
    findings = [*_model(config.model), *_baselines(config.model), *_exchanges(config), _ledger(config)]
    if config.model.compile != "off" and config.model.compiler == "package":
        folder = config.model.compiled_folder.expanduser()
        findings.append(_tried("model.compiled_folder", lambda: check_folder(folder), str(folder)))
    if config.health is not None:
        findings += _health(config.health)
    if config.alerts is not None:
        findings += _alerts(config.alerts)
    return findings


def _load(path: str) -> Config:
    """Load a configuration; of one that cannot be, all faults are printed."""
    try:
        return load_config(path)
    except ConfigError as error:
        cause = error.__cause__
        faults = faults_of(path, cause) if isinstance(cause, ValidationError) else [error]
        for fault in faults:
            say(sanitize(f"ConfigError: {fault}{_near_exchanges(fault)}"), fg="red", err=True)
        raise typer.Exit(2) from error


def _open_passwords(path: str, config: Config) -> tuple[str, ...]:
    """Note passwords in a configuration that others can read."""
    mode = 0 if path == EMBEDDED else Path(path).stat().st_mode
    if not mode & 0o077:
        return ()
    addresses = [("store.url", config.store.url)]
    for name, table in config.exchanges.items():
        urls = table.api_urls if isinstance(table.api_urls, dict) else {"": table.api_urls}
        addresses += [(f"exchanges.{name}.api_urls", url) for url in urls.values() if url is not None]
    told = f"has a password, and others can read this file (mode {stat.S_IMODE(mode):o}): chmod 600 {path}"
    return tuple(f"{key} {told}" for key, url in addresses if str(url) != url.reveal())


def _near_exchanges(fault: ConfigError) -> str:
    """Name exchanges of ccxt like one that has no table."""
    if "[exchanges." not in fault.expected:
        return ""
    from forecaster.sources.exchange.config_check import similar_exchanges

    return f"; ccxt knows {', '.join(similar_exchanges(str(fault.found)))}"


def _model(model: ModelConfig) -> Iterator[Finding]:
    """Look at the checkpoint, and at what is asked of it."""
    try:
        checkpoint = examine_checkpoint(model.id, model.revision)
    except ForecasterError as error:
        is_lost = not model.id.startswith(HUB) and not Path(model.id).exists()
        yield _wrong("model", error, f"; the bundled model is `{NANO}`" if is_lost else "")
        return
    if checkpoint is None:
        finding = f"{model.id} at {model.revision}: not here yet, will be fetched"
        yield Finding("model", ok=True, finding=finding)
        return
    most, seen = checkpoint.architecture.max_horizon, checkpoint.architecture.max_context
    limits = f"sees up to {seen} bars and forecasts up to {most}"
    yield Finding("model", ok=True, finding=f"{model.id}: sha256 {checkpoint.weights_sha256[:12]}, {limits}")
    if model.horizon > most:
        yield _wrong("model.horizon", ConfigError("model.horizon", f"at most {most} for {model.id}", model.horizon))
    longest = max([seen, *(_max_context(name) for name in model.baselines)])
    if model.context > longest:
        yield _wrong("model.context", ConfigError("model.context", f"at most {longest} for {model.id}", model.context))
    elif model.context > seen:
        yield Finding("model.context", ok=True, finding=f"{model.context} for the baselines; {model.id} sees {seen}")


def _max_context(name: str) -> int:
    """Return the most bars that a baseline uses; 0 for no limit, and for an unknown name."""
    return (BASELINES[name]().max_context or 0) if name in BASELINES else 0


def _baselines(model: ModelConfig) -> Iterator[Finding]:
    for name, count in Counter(model.baselines).items():
        found = _tried("model.baselines", lambda name=name: create_baseline(name), name)  # type: ignore[misc]
        yield dataclasses.replace(found, notes=(f"{name} stands there {count} times",) if count > 1 else ())


def _exchanges(config: Config) -> Iterator[Finding]:
    """Look at the exchanges' tables, and at the timeframes of their series."""
    if not config.exchanges:
        return
    from forecaster.sources.exchange.config_check import check_exchange, timeframes_of

    for name, table in config.exchanges.items():
        faults = list(check_exchange(name, table))
        yield from (_wrong(fault.key, fault) for fault in faults)
        configured = [one for one in config.series if one.file is None and one.exchange == name]
        series = [one.key for one in configured]
        if not faults:
            used = f"{len(series)} series" if series else "no series uses it"
            notes = tuple(f"{one.key}: {text}" for one in configured for text in idle_keys(one))
            yield Finding(f"exchanges.{name}", ok=True, finding=f"{table.id}: {used}", notes=notes)
        known = [] if any(fault.key == f"exchanges.{name}.id" for fault in faults) else timeframes_of(table.id)
        for key in series:
            if known and str(key.timeframe) not in known:
                expected = f"a timeframe of {table.id}, one of {', '.join(known)}"
                yield _wrong(str(key), ConfigError(str(key), expected, str(key.timeframe)))


def _ledger(config: Config) -> Finding:
    """Look whether the ledger's file can be written; a database on a server is not asked."""
    path = sqlite_path(config.store.url.reveal())
    scheme = config.store.url.reveal().partition(":")[0].partition("+")[0]
    if scheme not in _DATABASES:
        return _wrong("store.url", ConfigError("store.url", f"one of {listed(scheme, _DATABASES)}", scheme))
    if path is None:
        return Finding("store.url", ok=True, finding=f"{config.store.url}: not opened by this check")
    return _tried("store.url", lambda: _check_writable(path.absolute()), str(path.absolute()))


def _check_writable(path: Path) -> None:
    from forecaster.store.sqlite import is_ledger

    folder = path.parent
    if not folder.is_dir():
        raise ConfigError("store.url", f"a folder that exists: mkdir -p {folder}", str(path))
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError("store.url", "a folder that this user may write to", str(folder))
    if not path.exists():
        return
    if not path.is_file() or not os.access(path, os.R_OK | os.W_OK):
        raise ConfigError("store.url", "a file that this user may write to", str(path))
    if path.stat().st_size and not is_ledger(path):
        raise ConfigError("store.url", "a ledger, or the path of a new one", f"another file, {path}")


def _health(health: HealthConfig) -> Iterator[Finding]:
    from forecaster.daemon.health_server import read_certificate, read_token

    if (token := health.token_file) is not None:
        yield _tried("health.token_file", lambda: read_token(token), str(token))
    if (certificate := health.certificate) is not None:
        yield _tried("health.certificate", lambda: read_certificate(certificate), str(certificate))


def _alerts(alerts: AlertsConfig) -> Iterator[Finding]:
    from forecaster.daemon.alert_sender import open_receivers

    for name, other in (("webhook_file", "apprise_file"), ("apprise_file", "webhook_file")):
        path, alone = getattr(alerts, name), alerts.model_copy(update={other: None})
        if path is not None:
            yield _tried(f"alerts.{name}", lambda alone=alone: open_receivers(alone), str(path))  # type: ignore[misc]


def _tried(subject: str, look: Callable[[], object], well: str) -> Finding:
    """Look at something: a fault that is raised is what is found."""
    try:
        look()
    except (ForecasterError, ArtifactsRefused) as error:
        return _wrong(subject, error)
    return Finding(subject, ok=True, finding=well)


def _wrong(subject: str, error: Exception, hint: str = "") -> Finding:
    return Finding(subject, ok=False, finding=sanitize(str(error).removeprefix(f"{subject}: ") + hint))
