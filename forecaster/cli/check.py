"""Checks of a configuration that need no network: model, exchanges, files and paths. All faults are listed.

`probe` checks the bars: it reads files, and requests bars from exchanges.
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
from forecaster.cli.probe import probe, unused_keys
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


def check_and_exit(path: str, *, with_exchanges: bool, json_: bool) -> None:
    """Check a configuration and print the findings. Exit with code 2 when something is wrong.

    Args:
        path: the configuration.
        with_exchanges: whether to request the latest bars from exchanges.
        json_: whether to print JSON.
    """
    log_to_stderr(verbose=False)
    config = _load(path)
    text = f"{path}: {len(config.series)} series"
    findings = [Finding("configuration", ok=True, finding=text, notes=_exposed_passwords(path, config))]
    findings += examine(config)
    probed = probe(config, [series for series in config.series if with_exchanges or series.file is not None], now_ms())
    findings += [Finding(result.series, result.ok, result.finding, result.notes) for result in probed]
    ok = all(finding.ok for finding in findings)
    if json_:
        record: dict[str, object] = {"config": path, "ok": ok, "series": [str(series.key) for series in config.series]}
        record["findings"] = [dataclasses.asdict(finding) for finding in findings]
        if with_exchanges:
            record["probed"] = [dataclasses.asdict(result) for result in probed]
        print_record(record, json_=True)
    else:
        print_findings(findings)
    if not ok:
        raise typer.Exit(2)


def examine(config: Config) -> list[Finding]:
    """Check everything that a configuration names, except the bars. Faults are findings, never raised."""
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
    """Load a configuration, or print all its faults."""
    try:
        return load_config(path)
    except ConfigError as error:
        cause = error.__cause__
        faults = faults_of(path, cause) if isinstance(cause, ValidationError) else [error]
        for fault in faults:
            say(sanitize(f"ConfigError: {fault}{_near_exchanges(fault)}"), fg="red", err=True)
        raise typer.Exit(2) from error


def _exposed_passwords(path: str, config: Config) -> tuple[str, ...]:
    """Return notes on passwords in a file that others can read."""
    mode = 0 if path == EMBEDDED else Path(path).stat().st_mode
    if not mode & 0o077:
        return ()
    addresses = [("store.url", config.store.url)]
    for name, table in config.exchanges.items():
        urls = table.api_urls if isinstance(table.api_urls, dict) else {"": table.api_urls}
        addresses += [(f"exchanges.{name}.api_urls", url) for url in urls.values() if url is not None]
    note = f"has a password, and others can read this file (mode {stat.S_IMODE(mode):o}): chmod 600 {path}"
    return tuple(f"{key} {note}" for key, url in addresses if str(url) != url.reveal())


def _near_exchanges(fault: ConfigError) -> str:
    """List exchanges of ccxt with names similar to one that has no table."""
    if "[exchanges." not in fault.expected:
        return ""
    from forecaster.sources.exchange.config_check import similar_exchanges

    return f"; ccxt knows {', '.join(similar_exchanges(str(fault.found)))}"


def _model(model: ModelConfig) -> Iterator[Finding]:
    """Check the checkpoint, and the context and horizon configured for it."""
    try:
        checkpoint = examine_checkpoint(model.id, model.revision)
    except ForecasterError as error:
        is_unknown = not model.id.startswith(HUB) and not Path(model.id).exists()
        yield _wrong("model", error, f"; the bundled model is `{NANO}`" if is_unknown else "")
        return
    if checkpoint is None:
        finding = f"{model.id} at {model.revision}: not downloaded yet"
        yield Finding("model", ok=True, finding=finding)
        return
    max_horizon, max_context = checkpoint.architecture.max_horizon, checkpoint.architecture.max_context
    limits = f"context up to {max_context} bars, horizon up to {max_horizon}"
    yield Finding("model", ok=True, finding=f"{model.id}: sha256 {checkpoint.weights_sha256[:12]}, {limits}")
    if model.horizon > max_horizon:
        expected = f"at most {max_horizon} for {model.id}"
        yield _wrong("model.horizon", ConfigError("model.horizon", expected, model.horizon))
    longest = max([max_context, *(_max_context(name) for name in model.baselines)])
    if model.context > longest:
        yield _wrong("model.context", ConfigError("model.context", f"at most {longest} for {model.id}", model.context))
    elif model.context > max_context:
        finding = f"{model.context} for the baselines; {model.id} uses {max_context}"
        yield Finding("model.context", ok=True, finding=finding)


def _max_context(name: str) -> int:
    """Return the most bars that a baseline uses; 0 for no limit, and for an unknown name."""
    return (BASELINES[name]().max_context or 0) if name in BASELINES else 0


def _baselines(model: ModelConfig) -> Iterator[Finding]:
    for name, count in Counter(model.baselines).items():
        finding = _tried("model.baselines", lambda name=name: create_baseline(name), name)  # type: ignore[misc]
        yield dataclasses.replace(finding, notes=(f"{name} is listed {count} times",) if count > 1 else ())


def _exchanges(config: Config) -> Iterator[Finding]:
    """Check the tables of exchanges, and the timeframes of their series."""
    if not config.exchanges:
        return
    from forecaster.sources.exchange.config_check import check_exchange, timeframes_of

    for name, table in config.exchanges.items():
        faults = list(check_exchange(name, table))
        yield from (_wrong(fault.key, fault) for fault in faults)
        configured = [series for series in config.series if series.file is None and series.exchange == name]
        keys = [series.key for series in configured]
        if not faults:
            used = f"{len(keys)} series" if keys else "no series uses it"
            notes = tuple(f"{series.key}: {text}" for series in configured for text in unused_keys(series))
            yield Finding(f"exchanges.{name}", ok=True, finding=f"{table.id}: {used}", notes=notes)
        known = [] if any(fault.key == f"exchanges.{name}.id" for fault in faults) else timeframes_of(table.id)
        for key in keys:
            if known and str(key.timeframe) not in known:
                expected = f"a timeframe of {table.id}, one of {', '.join(known)}"
                yield _wrong(str(key), ConfigError(str(key), expected, str(key.timeframe)))


def _ledger(config: Config) -> Finding:
    """Check that the file of the ledger can be written. A database server is not contacted."""
    path = sqlite_path(config.store.url.reveal())
    scheme = config.store.url.reveal().partition(":")[0].partition("+")[0]
    if scheme not in _DATABASES:
        return _wrong("store.url", ConfigError("store.url", f"one of {listed(scheme, _DATABASES)}", scheme))
    if path is None:
        return Finding("store.url", ok=True, finding=f"{config.store.url}: not checked")
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


def _tried(subject: str, check: Callable[[], object], finding: str) -> Finding:
    """Run a check; an error that it raises becomes the finding."""
    try:
        check()
    except (ForecasterError, ArtifactsRefused) as error:
        return _wrong(subject, error)
    return Finding(subject, ok=True, finding=finding)


def _wrong(subject: str, error: Exception, hint: str = "") -> Finding:
    return Finding(subject, ok=False, finding=sanitize(str(error).removeprefix(f"{subject}: ") + hint))
