"""The commands that forecast: `run`, the service, and `once`, a single cycle."""

from __future__ import annotations

import sys

from forecaster.cli.bars_printing import print_files, unused_rows
from forecaster.cli.forecast_printing import print_cycle
from forecaster.cli.options import (
    AsOfOption,
    ConfigOption,
    JsonOption,
    OptionalConfigOption,
    as_of_ms,
    read_files,
    resolve_config,
)
from forecaster.cli.printing import SKIP_EVENTS, log_to_stderr


def run(config: OptionalConfigOption = None) -> None:
    """Run the service: a cycle at every bar close, until SIGTERM or Ctrl-C.

    It first catches up on closes that were missed. While another process writes the ledger it waits as a standby, and
    takes over when that one ends. SIGTERM and Ctrl-C let running cycles finish; a second one exits at once, with code
    1. SIGHUP reloads the configuration.
    """
    from forecaster.daemon.service import Service
    from forecaster.log import log_uncaught_exceptions

    path = resolve_config(config, quiet=not sys.stderr.isatty())
    log_to_stderr()
    log_uncaught_exceptions()
    Service(path).run()


def once(config: ConfigOption = None, as_of: AsOfOption = None, json_: JsonOption = False) -> None:
    """Run one cycle of every timeframe, then exit.

    A cycle fetches the latest final bars, records forecasts, and settles earlier forecasts. `settled` counts ledger
    rows. `skipped` counts series; the reasons are on standard error, or in the JSON by series. There `rejected` counts
    rejected rows of files by reason, and `unclosed` rows that had not closed yet. A file that has ended is named, with
    the --as-of of its last forecast.

    Exit code 2: every series was skipped.
    """
    from forecaster.clock import now_ms
    from forecaster.engine import Forecaster

    log_to_stderr(verbose=False, without=SKIP_EVENTS)
    now = now_ms()
    until = as_of_ms(as_of, now)
    with Forecaster.from_config(config) as forecaster:
        reports = [forecaster.run_cycle(timeframe, until, started_at=now) for timeframe in forecaster.timeframes]
        rows_by_key = read_files(forecaster.config, forecaster.series, until)
    skipped = {str(key): reason for report in reports for key, reason in report.skipped.items()}
    record: dict[str, object] = {
        "series": sum(report.series for report in reports),
        "bars_added": sum(report.bars_added for report in reports),
        "forecasts": sum(len(report.forecasts) for report in reports),
        "settled": sum(report.settled_rows for report in reports),
    }
    print_files(rows_by_key, until)
    print_cycle(until, record | (unused_rows(rows_by_key) if json_ else {}), skipped, json_=json_)
