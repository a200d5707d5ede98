"""What the documents say is what the program does: README blocks run, config keys and targets exist."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from forecaster.bars import Bars
from forecaster.config import (
    AlertsConfig,
    Config,
    DaemonConfig,
    DemoConfig,
    ExchangeConfig,
    HealthConfig,
    ModelConfig,
    SeriesConfig,
    StoreConfig,
)
from forecaster.config_file import load_config
from forecaster.ledger import LIVE, Run
from forecaster.store.sql import SqlStore
from forecaster.store.sqlite_library import sqlite3
from tests import config_page
from tests.builders import HOUR_MS, make_bars, make_key
from tests.cli import forecaster
from tests.forecast_builders import make_forecast, make_provenance

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def commands(program):
    lines = (line.partition("#")[0].strip() for block in blocks("sh") for line in block.splitlines())
    return [shlex.split(line) for line in lines if line.startswith(program)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where a reader would stand: the repository's files at hand, a short demo behind them."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / "config").symlink_to(ROOT / "config")
    (folder / "trainingdata").symlink_to(ROOT / "trainingdata")
    run(folder, ["demo", "--cycles", "14"])
    return folder


def run(folder, arguments):
    """Run a command there; gives what it printed."""
    done = forecaster(*arguments, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_python(folder, *arguments):
    """Run Python there, in a process of its own; gives what it printed."""
    done = subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.docs
def test_readme_python_runs(folder):
    """All blocks in order, as one session of a reader."""
    assert run_python(folder, "-c", "\n".join(blocks("python")))


@pytest.mark.docs
@pytest.mark.parametrize("arguments", [line[1:] for line in commands("forecaster")], ids=shlex.join)
def test_readme_commands_run(folder, arguments):
    """Each runs as printed, but what takes long: the daemon's config is checked, the demo is cut short."""
    if arguments[0] == "run":
        arguments = ["config", "check", *arguments[1:]]
    if arguments[0] == "demo":
        arguments = [*arguments, "--cycles", "1", "--out", "elsewhere"]

    assert run(folder, arguments)


@pytest.mark.docs
@pytest.mark.parametrize("arguments", [line[1:] for line in commands("python -m")], ids=shlex.join)
def test_readme_modules_run(arguments):
    assert run_python(ROOT, *arguments)


@pytest.mark.docs
@pytest.mark.parametrize("name", ["accuracy", "bars", "replay", "strategies"])
def test_pages_run(folder, name):
    """Their blocks in order, as one session of a reader, and their commands on the demo's ledger."""
    page = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE))
    lines = re.findall(r"^forecaster ([^#\n]*)", page, re.MULTILINE)
    run_python(folder, "-c", PAGES_BEGIN + code)

    assert lines
    for line in lines:
        assert run(folder, shlex.split(line))


PAGES_BEGIN = "from forecaster import Forecaster\nforecaster = Forecaster.from_config()\n"


LEDGER = (ROOT / "docs" / "ledger.md").read_text(encoding="utf-8")
SERIES = (make_key(), make_key(symbol="ETH/USDT"), make_key("okx"))
REVISED = 1.01
LATER = 8 * HOUR_MS
BEFORE = 40


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """A question in SQL to a ledger of three series, two models and two runs, with late forecasts and revised bars.

    The replay has bars of its own, all of other prices.
    """
    path = tmp_path_factory.mktemp("ledger") / "ledger.db"
    with closing(SqlStore(f"sqlite:///{path}")) as store:
        store.add_run(Run(LIVE, LIVE, 0))
        store.add_run(Run("replay-1", "replay", 0))
        for key in SERIES:
            for bars in (bars_of(key), revised(bars_of(key))):
                store.add_bars(bars)
            other = bars_of(key, seed=9)
            store.add_bars(other, run_id="replay-1")
            store.add_forecasts([one for *_, one in made_on(key)], LIVE)
            store.add_forecasts(
                [replace(one, issued_at=one.cutoff, available_at=one.cutoff) for *_, one in made_on(key)], "replay-1"
            )
    with closing(sqlite3.connect(path)) as connection:
        yield lambda question: connection.execute(question).fetchall()


def bars_of(key, seed=0):
    """Bars that were seen at their close."""
    bars = make_bars(key, 60, seed=seed + len(str(key)))
    return Bars(key, bars.open_time, bars.ohlcv_TF, bars.close_time)


def revised(bars):
    """Every third bar again, all prices a percent higher, seen some hours later."""
    ohlcv_TF = bars.ohlcv_TF * np.array([REVISED] * 4 + [1.0])
    return Bars(bars.key, bars.open_time[::3], ohlcv_TF[::3], bars.close_time[::3] + LATER)


def made_on(key):
    """Forecasts of two models at each of the last closes, of which every fifth is late: (model, place, forecast)."""
    bars = bars_of(key)
    for i in range(BEFORE, 60):
        cutoff = int(bars.close_time[i])
        for m, model in enumerate(("nano", "random_walk")):
            issued_at = cutoff + (2 * HOUR_MS if i % 5 == 0 else 1_000)
            yield (
                model,
                i,
                make_forecast(key, cutoff, provenance=make_provenance(model), issued_at=issued_at, seed=100 * i + m),
            )


def test_the_question_of_the_ledgers_page(asked):
    """Per series, model and step: the numbers of a loop over forecasts and bars, and no other rows."""
    expected = {}
    for key in SERIES:
        closes = bars_of(key).close.copy()
        closes[::3] *= REVISED
        for _, i, forecast in made_on(key):
            for step, median in enumerate(forecast.quantile(0.5), 1):
                if i % 5 and i + step < len(closes):
                    name = (key.exchange, key.symbol, "1h", forecast.provenance.ledger_id, step)
                    expected.setdefault(name, []).append(abs(closes[i + step] - median))
    first, *_ = re.findall(r"^```sql\n(.*?)^```$", LEDGER, re.DOTALL | re.MULTILINE)
    rows = asked(first)

    assert len(expected) == 3 * 2 * 3
    assert [row[:5] for row in rows] == sorted(expected)
    for *name, mae, n in rows:
        losses = expected[tuple(name)]

        assert n == len(losses) > 10
        assert mae == pytest.approx(np.mean(losses), rel=1e-12)


def test_the_second_question_of_the_ledgers_page(asked):
    """The newest live forecast of one model on each series, step by step."""
    expected = []
    for key in sorted(SERIES, key=str):
        *_, (_, _, newest) = (one for one in made_on(key) if one[0] == "nano")
        by_step = [newest.quantile(level) for level in (0.1, 0.5, 0.9)]
        expected += [
            (key.exchange, key.symbol, "1h", newest.cutoff, step, *prices)
            for step, prices in enumerate(zip(*by_step, strict=True), 1)
        ]
    _, second, _ = re.findall(r"^```sql\n(.*?)^```$", LEDGER, re.DOTALL | re.MULTILINE)
    rows = asked(second)

    assert len(rows) == 3 * 3
    assert [row[:5] for row in rows] == [row[:5] for row in expected]
    np.testing.assert_allclose([row[5:] for row in rows], [row[5:] for row in expected], rtol=1e-12)


@pytest.mark.parametrize("context", [256, 50, 4])
def test_the_third_question_of_the_ledgers_page(asked, context):
    """Live forecasts of one model and how many bars of their context were revised since: also older ones."""
    expected = []
    for key in sorted(SERIES, key=str):
        seen = bars_of(key).close_time + LATER
        for i, forecast in ((i, one) for model, i, one in made_on(key) if model == "nano"):
            places = range(max(0, i + 1 - context), i + 1)
            count = sum(place % 3 == 0 and bool(seen[place] > forecast.issued_at) for place in places)
            expected += [(key.exchange, key.symbol, "1h", forecast.cutoff, count)] * (count > 0)
    *_, third = re.findall(r"^```sql\n(.*?)^```$", LEDGER, re.DOTALL | re.MULTILINE)

    assert len({row[-1] for row in expected}) > 1
    assert asked(third.replace("OFFSET 255", f"OFFSET {context - 1}")) == expected


def test_the_ledgers_page_names_every_table_and_column(asked):
    """Each table has its row; each view's columns that the page names are there."""
    tables = {name for (name,) in asked("SELECT name FROM sqlite_master WHERE type = 'table'")}
    record = set(re.findall(r"^\| `(\w+)` \|", LEDGER, re.MULTILINE))
    views = {name for (name,) in asked("SELECT name FROM sqlite_master WHERE type = 'view'")}
    columns = {name for _, name, *_ in asked("PRAGMA table_info(settled)")}
    (named,) = re.findall(r"^\| `forecast_value` \|(.*)", LEDGER, re.MULTILINE)
    (settled,) = re.findall(r"^\| `settled` \|(.*)", LEDGER, re.MULTILINE)

    assert tables - {"alembic_version", "sqlite_sequence"} <= record
    assert views <= record
    assert set(re.findall(r"`(\w+)`", named + settled)) | {"exchange", "symbol", "timeframe", "calendar"} <= columns


def test_readme_names_real_targets():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = {line[1] for line in commands("make")}

    assert targets >= {"run", "test"}
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{path.name}" for path in sorted(ROOT.glob("docs/*.md")))])
def test_links_and_modules_of_a_page_exist(page):
    """Findings name what was there at their date."""
    text = (ROOT / page).read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", text)
    modules = [] if page == "docs/findings.md" else re.findall(r"`([a-z]\w*(?:/\w+)+\.py)`", text)

    assert [path for path in links if not (ROOT / page).parent.joinpath(path).exists()] == []
    assert [
        path
        for path in modules
        if "mine" not in path and not any((ROOT / top / path).exists() for top in ("", "forecaster"))
    ] == []


def test_pictures_exist():
    for path in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README):
        assert (ROOT / path).is_file()


@pytest.mark.parametrize(
    ("name", "record"),
    [
        *(("live", one) for one in (ExchangeConfig, SeriesConfig, ModelConfig, StoreConfig, DemoConfig)),
        *(("service", one) for one in (DaemonConfig, HealthConfig, AlertsConfig)),
    ],
)
def test_every_config_key_is_explained(name, record):
    """Each key stands in its example with a comment, or is a table of it."""
    example = (ROOT / "config" / f"{name}.example.toml").read_text(encoding="utf-8")
    check_keys(record, example)


def test_every_config_table_is_explained():
    examples = [(ROOT / "config" / f"{name}.example.toml").read_text(encoding="utf-8") for name in ("live", "service")]
    check_keys(Config, "".join(examples))


def check_keys(record, example):
    for key in record.model_fields:
        assert re.search(rf"^(# )?{key}(\.\w+)* = .*#|^#? ?\[+{key}[\].]", example, re.MULTILINE), key


@pytest.mark.parametrize("path", sorted(ROOT.glob("config/*.toml")), ids=lambda path: path.name)
def test_shipped_configurations_load(path):
    assert load_config(path).series


def test_live_example_names_the_published_model():
    model = load_config(ROOT / "config" / "live.example.toml").model

    assert (model.id, model.revision) == ("hub:amazon/chronos-2", "29ec3766d36d6f73f0696f85560a422f50e8498c")


def test_configuration_page_is_that_of_the_code():
    """`python -m tests.config_page` writes it."""
    assert config_page.PAGE.read_text(encoding="utf-8") == config_page.page()
