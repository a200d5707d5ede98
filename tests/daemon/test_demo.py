"""The demo, run as `make run` runs it, but shorter."""

from __future__ import annotations

import io
import json
import sqlite3
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from PIL import Image
from rich.console import Console

from forecaster import Forecaster
from forecaster.config import load_config
from forecaster.daemon.demo import Demo
from forecaster.errors import ConfigError

PROGRAM = [sys.executable, "-c", "from forecaster.cli import main; main()"]
CYCLES = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def done(folder):
    arguments = ["demo", "--cycles", str(CYCLES), "--json"]
    return subprocess.run([*PROGRAM, *arguments], cwd=folder, capture_output=True, text=True, timeout=300, check=True)


@pytest.fixture(scope="module")
def summary(done):
    return json.loads(done.stdout.splitlines()[-1])


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
    assert summary["engine"] in {"compiled", "eager"}
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


def test_picture_and_page(folder, done):
    with Image.open(folder / "demo-report.png") as picture:
        assert picture.size[0] > 1000
    page = (folder / "demo-report.html").read_text(encoding="utf-8")
    HTMLParser().feed(page)

    assert "arch SPX/USD 1d" in page
    assert "data:image/png;base64," in page


def test_view_shows_each_part(done):
    for text in ("next, 80 %", "skill", f"{CYCLES}/{CYCLES}", "arch SPX/USD 1d"):
        assert text in done.stderr


def test_second_run_starts_afresh(folder, done, summary):
    """The demo replaces its own ledger, and the numbers are the same."""
    again = subprocess.run(
        [*PROGRAM, "demo", "--cycles", str(CYCLES), "--json"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )

    assert json.loads(again.stdout.splitlines()[-1]) | {"seconds": 0} == summary | {"seconds": 0}


def test_date_that_is_none():
    config = load_config("embedded")
    config = config.model_copy(
        update={
            "demo": config.demo.model_copy(update={"start": "soon"}),
            "store": config.store.model_copy(update={"url": "memory:"}),
        }
    )
    with Forecaster(config) as forecaster, pytest.raises(ConfigError, match="a date such as"):
        Demo(forecaster).run(Console(file=io.StringIO()))
