"""`forecaster report` on a ledger in a file: the page, the output and the errors."""

from __future__ import annotations

import shutil
from contextlib import closing
from dataclasses import replace

import pytest

from forecaster.bars import Bars
from forecaster.ledger import LIVE, Run
from forecaster.store.sql import SqlStore
from tests.accuracy.report.test_page import BEFORE, Opened, make_lognormal
from tests.builders import make_bars, make_key
from tests.cli import error_line, forecaster

CUTOFFS = 30


@pytest.fixture
def folder(tmp_path):
    """A configuration of two series, of which one has a ledger of thirty cutoffs."""
    (tmp_path / "config.toml").write_text(
        "".join(
            f'[[series]]\nexchange = "binance"\nsymbol = "{symbol}/USDT"\ntimeframe = "1h"\nfile = "none.csv"\n'
            for symbol in ("BTC", "ETH")
        )
        + f'[store]\nurl = "sqlite:///{tmp_path}/ledger.db"\n'
    )
    return tmp_path


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """That ledger, and its bars."""
    path = tmp_path_factory.mktemp("kept") / "ledger.db"
    key = make_key()
    bars = make_bars(key, BEFORE + CUTOFFS)
    bars = Bars(key, bars.open_time, bars.ohlcv_TF, bars.close_time)
    made = [
        make_lognormal(key, bars, i, bars.close[BEFORE + i], (1, 1), name)
        for i in range(CUTOFFS)
        for name in ("nano", "random_walk")
    ]
    with closing(SqlStore(f"sqlite:///{path}")) as store:
        store.add_run(Run(LIVE, LIVE, 0))
        store.add_bars(bars)
        store.add_forecasts(made, LIVE)
    return path, bars


@pytest.fixture
def bars(folder, kept):
    """The bars of the ledger, which lies in the folder."""
    ledger, bars = kept
    shutil.copy(ledger, folder)
    return bars


def given(folder, *arguments):
    return ("report", "--config", folder / "config.toml", "--out", folder / "report.html", *arguments)


def run(folder, *arguments):
    """Run the command, which must succeed."""
    done = forecaster(*given(folder, *arguments))
    assert done.returncode == 0, done.stderr
    return done


def test_written_file_is_reported(folder, bars):
    record = run(folder, "--json").record

    assert record["report"] == str(folder / "report.html")
    assert record["bytes"] == (folder / "report.html").stat().st_size
    assert (record["series"], record["settled_forecasts"]) == (2, CUTOFFS - 1)
    assert "report.html" in run(folder).stdout


def test_one_series_of_several(folder, bars):
    """The other one has nothing, and no section."""
    run(folder)
    both = Opened(folder / "report.html")
    run(folder, "--series", "binance BTC/USDT 1h")
    one = Opened(folder / "report.html")

    assert "No forecast of this series has settled yet." in both.texts
    assert sum(tag == "section" for tag, _ in both.tags) == 2
    assert sum(tag == "section" for tag, _ in one.tags) == 1


def test_as_of_a_time(folder, bars):
    """The ledger's own time, printed on the page; of what came later nothing counts."""
    as_of = str(bars.close_time[BEFORE + 20].astype("datetime64[ms]"))
    record = run(folder, "--as-of", as_of, "--json").record

    assert record["settled_forecasts"] == 20
    assert any(as_of[:16].replace("T", " ") in text for text in Opened(folder / "report.html").texts)


def test_a_window_is_of_what_settled_in_it(folder, bars):
    """One day: what came in the 24 hours up to the last bar, of forecasts up to four bars before."""
    as_of = str(bars.close_time[-1].astype("datetime64[ms]"))
    record = run(folder, "--window", "1d", "--as-of", as_of, "--json").record

    assert record["settled_forecasts"] == 24 + 3


def test_the_same_ledger_gives_the_same_file(folder, bars):
    """No clock of its own, no random name."""
    run(folder, "--as-of", "2024-02-01")
    first = (folder / "report.html").read_bytes()
    run(folder, "--as-of", "2024-02-01")

    assert (folder / "report.html").read_bytes() == first


def test_a_missing_ledger(folder):
    """Nothing is written; the line has its path."""
    assert f"{folder}/ledger.db" in error_line(*given(folder))
    assert not (folder / "report.html").exists()


def test_an_empty_ledger(folder):
    """Nothing is written."""
    SqlStore(f"sqlite:///{folder}/ledger.db").close()

    assert "expected forecasts of nano in run 'live', found none" in error_line(*given(folder))
    assert not (folder / "report.html").exists()


@pytest.mark.parametrize(
    ("option", "name", "listed"),
    [
        ("--run", "replay-9", "run: expected one of live, found 'replay-9'"),
        ("--model", "nanoo", "--model: expected one of nano, random_walk, found 'nanoo'"),
        ("--series", "binance BTC/USD 1h", "series: expected one of binance BTC/USDT 1h, binance ETH/USDT 1h, found"),
    ],
)
def test_unknown_names_are_refused(folder, bars, option, name, listed):
    """With those that are known; nothing is written."""
    assert error_line(*given(folder, option, name)).startswith(f"ConfigError: {listed}")
    assert not (folder / "report.html").exists()


def test_another_model_than_the_configured_one(folder, bars):
    run(folder, "--model", "random_walk", "--series", "binance BTC/USDT 1h")
    text = " ".join(Opened(folder / "report.html").texts)

    assert "Model random_walk, revision" in text
    assert "Model nano" not in text


def with_replay(folder, bars):
    """Put the same forecasts into the ledger as a replay: each counts as available at its cutoff."""
    made = [make_lognormal(bars.key, bars, i, bars.close[BEFORE + i], (1, 1), "nano") for i in range(CUTOFFS)]
    with closing(SqlStore(f"sqlite:///{folder}/ledger.db")) as store:
        store.add_run(Run("replay-1", "replay", 0))
        store.add_forecasts([replace(one, issued_at=one.cutoff, available_at=one.cutoff) for one in made], "replay-1")


@pytest.mark.parametrize(("run_id", "latency"), [("replay-1", "0"), ("replay-1+4000ms", "4,000")])
def test_a_replay_makes_no_claim_about_timing(folder, bars, run_id, latency):
    """Its forecasts were made when their bars had long closed, with whatever latency it is read."""
    with_replay(folder, bars)
    run(folder, "--run", run_id)
    text = " ".join(Opened(folder / "report.html").texts)

    assert "This run is a replay." in text
    assert f"Available {latency} ms after the cutoff" in text
    assert "in the ledger before" not in text


def test_live_forecasts_were_available_in_time(folder, bars):
    """All that settled of this ledger: counted, not presumed."""
    run(folder)

    assert any(f"All {CUTOFFS - 1} settled forecasts were" in text for text in Opened(folder / "report.html").texts)


def test_another_ledger(folder, bars):
    """What `--store` names is read, and the configured one need not be there."""
    (folder / "ledger.db").rename(folder / "replays.db")

    assert run(folder, "--store", folder / "replays.db", "--json").record["settled_forecasts"] == CUTOFFS - 1


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--series", "binance XRP/USDT 1h"), "series: expected one of"),
        (("--window", "soon"), "window"),
        (("--as-of", "soon"), "time: expected a date"),
        (("--out", "/dev/null/report.html"), "out: expected a file that can be written"),
    ],
    ids=lambda one: one[0] if isinstance(one, tuple) else "",
)
def test_mistakes(folder, bars, arguments, expected):
    assert expected in error_line(*given(folder, *arguments))
