"""The demo, run as `make run` runs it, but shorter."""

from __future__ import annotations

import io
import json
import logging
import time
from pathlib import Path

import pytest
from rich.console import Console

from forecaster import Forecaster
from forecaster.config import StoreConfig
from forecaster.config_file import load_config
from forecaster.daemon.demo import Demo
from forecaster.daemon.live_view import CycleView
from forecaster.daemon.time_source import SimulatedClock
from forecaster.errors import ConfigError
from forecaster.log import configure_logging
from forecaster.model import ModelSuite
from forecaster.model.baselines.random_walk import RandomWalk
from forecaster.store.sqlite_library import sqlite3
from tests.accuracy.report.test_page import Opened
from tests.cli import forecaster, run_json

ROOT = Path(__file__).parents[2]
CYCLES = 14


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def done(folder):
    """The demo, but for the compiler."""
    demo = (ROOT / "config" / "demo.toml").read_text(encoding="utf-8")
    demo = demo.replace('compile = "auto"', 'compile = "off" ').replace("../trainingdata", f"{ROOT}/trainingdata")
    (folder / "demo.toml").write_text(demo)
    done = forecaster("demo", "--config", "demo.toml", "--cycles", CYCLES, "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def summary(done):
    return done.record


def test_last_line_is_the_summary(summary):
    assert list(summary) == [
        "cycles",
        "bars",
        "forecasts",
        "settled",
        "mae_close",
        "skill_close",
        "coverage80",
        "engine",
        "engine_reason",
        "seconds",
    ]
    assert (summary["cycles"], summary["forecasts"]) == (CYCLES, 2 * CYCLES)
    assert (summary["engine"], summary["engine_reason"]) == ("eager", "compile is off")
    assert summary["settled"] > 0
    assert 0 <= summary["coverage80"] <= 1


def test_counts_agree_with_the_ledger(folder, done, summary):
    with sqlite3.connect(folder / "demo-ledger.db") as ledger:
        bars, forecasts, cutoffs = (
            ledger.execute(query).fetchone()[0]
            for query in (
                "SELECT count(*) FROM bar",
                "SELECT count(*) FROM forecast JOIN model ON model.id = model_id WHERE name = 'nano'",
                "SELECT count(DISTINCT cutoff) FROM forecast",
            )
        )
        settled = ledger.execute(
            "SELECT count(*) FROM forecast_value v JOIN forecast f ON f.id = v.forecast_id "
            "JOIN bar b ON b.series_id = f.series_id AND b.open_time = v.target_open"
        ).fetchone()[0]
    ledger.close()

    assert (bars, forecasts, cutoffs) == (summary["bars"], summary["forecasts"], CYCLES)
    assert settled == summary["settled"]


def test_forecasts_stand_before_their_outcome(folder, done):
    """No bar that a forecast is about had been seen when it was issued."""
    with sqlite3.connect(folder / "demo-ledger.db") as ledger:
        leaks = ledger.execute(
            "SELECT count(*) FROM forecast_value v JOIN forecast f ON f.id = v.forecast_id "
            "JOIN bar b ON b.series_id = f.series_id AND b.open_time = v.target_open "
            "WHERE b.first_seen_at <= f.issued_at"
        ).fetchone()[0]
    ledger.close()

    assert leaks == 0


def test_scores_agree_with_the_ledger_by_plain_sql(folder, done, summary):
    """MAE and coverage again, from the columns that people can query."""
    with sqlite3.connect(folder / "demo-ledger.db") as ledger:
        mae, coverage = ledger.execute(
            "SELECT avg(abs(b.close - q50)), avg(b.close BETWEEN q10 AND q90) FROM forecast_value v "
            "JOIN forecast f ON f.id = v.forecast_id JOIN model m ON m.id = f.model_id "
            "JOIN bar b ON b.series_id = f.series_id AND b.open_time = v.target_open "
            "WHERE m.name = 'nano' AND v.step = 1 AND v.field = 'close'"
        ).fetchone()
    ledger.close()

    assert mae == pytest.approx(summary["mae_close"])
    assert coverage == pytest.approx(summary["coverage80"])


def test_report_is_the_page_of_the_report_command(folder, done):
    """Every settled forecast counts, all were on time, and the latest forecast is fresh at the end of the demo."""
    page = Opened(folder / "demo-report.html")
    text = " ".join(page.texts)

    assert {"arch SPX/USD 1d", "arch IXIC/USD 1d"} <= set(page.texts)
    assert f"All {2 * (CYCLES - 1)} settled forecasts were in the ledger before their first target bar closed." in text
    assert text.count("fresh: its first target bar is open") == 2
    assert "Latest forecast with all outcomes" in page.figures


def test_view_shows_each_part(done):
    for text in ("next forecast", "skill", f"{CYCLES}/{CYCLES}", "SPX/USD 1d"):
        assert text in done.stderr


class Slow(SimulatedClock):
    """A simulated clock that is called again before it has answered."""

    def due(self, schedule, pending):
        time.sleep(0.05)
        return super().due(schedule, pending)


def test_nothing_writes_past_the_live_view(monkeypatch):
    """Lines of libraries appear on the console, above the table; none of APScheduler's own do."""
    monkeypatch.setattr("forecaster.daemon.time_source.TICK_SECONDS", 0.005)
    monkeypatch.setattr("forecaster.daemon.demo.SimulatedClock", Slow)
    raw, screen, overlaps = io.StringIO(), io.StringIO(), []
    monkeypatch.setattr("sys.stderr", raw)
    configure_logging(verbose=False)
    show = CycleView.show

    def show_and_warn(view, report):
        logging.getLogger("library").warning("late by [red]%d[/red] s", 3)
        show(view, report)

    monkeypatch.setattr(CycleView, "show", show_and_warn)
    scheduler = logging.getLogger("apscheduler.scheduler")
    warning = scheduler.warning
    monkeypatch.setattr(scheduler, "warning", lambda *values: overlaps.append(values) or warning(*values))
    with program() as forecaster:
        Demo(forecaster).run(Console(file=screen, force_terminal=True, width=80, height=24))
    scheduler.warning("Execution of job afterwards")
    lines = [json.loads(line)["event"] for line in raw.getvalue().splitlines()]

    assert len(overlaps) > 0
    assert " ".join(screen.getvalue().split()).count("late by [red]3[/red] s") == 3
    assert "Execution of job" not in screen.getvalue()
    assert lines == ["Execution of job afterwards"]


def program():
    """The embedded demo, short, in memory, and without a model that takes seconds to load."""

    class Walk(RandomWalk):
        name = "nano"

    config = load_config("embedded")
    changed = {
        "demo": config.demo.model_copy(update={"cycles": 3}),
        "store": StoreConfig(url="memory:"),
    }
    return Forecaster(config.model_copy(update=changed), models=ModelSuite(Walk(), ModelSuite(RandomWalk())))


def test_numbers_are_the_same_again(folder, summary, tmp_path):
    """In another folder, from bars that are seen again."""
    arguments = ("demo", "--config", folder / "demo.toml", "--cycles", CYCLES, "--json")

    assert run_json(*arguments, cwd=tmp_path) | {"seconds": 0} == summary | {"seconds": 0}


def test_date_that_is_none():
    config = load_config("embedded")
    config = config.model_copy(
        update={
            "demo": config.demo.model_copy(update={"start": "soon"}),
            "store": StoreConfig(url="memory:"),
        }
    )
    with Forecaster(config) as program, pytest.raises(ConfigError, match="a date such as"):
        Demo(program).run(Console(file=io.StringIO()))
