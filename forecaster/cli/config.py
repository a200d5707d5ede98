"""The commands that check an installation: `config check`, `config show` and `doctor`."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated

import typer

from forecaster.cli.options import ConfigOption, JsonOption, resolve_config
from forecaster.cli.printing import print_findings, say_json

config_app = typer.Typer(no_args_is_help=True, help="Check or show a configuration file.")


@config_app.command("check")
def config_check(
    config: ConfigOption = None,
    probe: Annotated[
        bool, typer.Option("--probe", help="Request the markets and the latest bars of each series from each exchange.")
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Check a configuration: model, baselines, exchanges, files of bars, ledger and secrets. Exit code 2 for any fault.

    All faults are listed, one per line. Nothing is stored, and no request is sent.

    With --probe, the latest bars of each series are requested. A series is wrong when it has no bars, when they are
    stale, or when its market is no longer traded. An exchange that has banned this address is not asked before that
    hold ends or is lifted: `forecaster holds`.
    """
    from forecaster.cli.check import check_and_exit

    check_and_exit(resolve_config(config), with_exchanges=probe, json_=json_)


@config_app.command("show")
def config_show(config: ConfigOption = None) -> None:
    """Print a configuration with all its defaults, as JSON."""
    from forecaster.config_file import load_config

    typer.echo(json.dumps(load_config(resolve_config(config)).model_dump(mode="json"), indent=2))


def doctor(config: ConfigOption = None, json_: JsonOption = False) -> None:
    """Check this machine and a configuration: versions, ledger, model, one forecast. Exit code 2 for any fault."""
    from forecaster.doctor import examine

    findings = examine(config)
    ok = all(finding.ok for finding in findings)
    if json_:
        say_json({"ok": ok, "findings": [dataclasses.asdict(finding) for finding in findings]})
    else:
        print_findings(findings)
    if not ok:
        raise typer.Exit(2)
