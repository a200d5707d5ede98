"""`forecaster replay`: every option by what it leaves in the ledger and in files, and mistakes told before the work."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from forecaster.accuracy.scores import Scores
from forecaster.bars import FIELDS, Bars
from forecaster.clock import now_ms
from forecaster.engine import Forecaster
from forecaster.errors import LedgerMissing
from forecaster.ledger import Run
from forecaster.replay.backtest import run_backtest
from forecaster.replay.performance import compute_performance
from forecaster.replay.ray import RayWorkers
from forecaster.replay.run_forecasts import read_forecasts
from forecaster.replay.strategy import Signal, TradingRules
from forecaster.store import open_reader, open_store
from forecaster.store.memory import MemoryStore
from forecaster.store.sqlite_library import sqlite3
from tests import cli
from tests.accuracy.report.test_page import Opened
from tests.builders import make_bars, make_key

KEY, OTHER = make_key("x", "A/B"), make_key("x", "C/D")
BARS = make_bars(KEY, count=120)
CONTEXT, MIN_CONTEXT, HORIZON = 64, 32, 3
CUTOFFS = BARS.close_time[MIN_CONTEXT - 1 :].tolist()
SHORT = """
from forecaster import Signal


def short(forecast, position, context):
    return Signal(-1.0, "down")


def long(forecast, position, context):
    return Signal(1.0, "up")
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where the command runs: bars in a file, and a strategy of one's own."""
    (tmp_path / "mine.py").write_text(SHORT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    yield tmp_path
    sys.modules.pop("mine", None)


@pytest.fixture
def replay(folder):
    """Run the command on a configuration; gives its JSON."""
    return lambda config, *arguments: cli.run_json("replay", "-c", config, *arguments, "--json")


def configured(folder, *bars, name="ledger", model=""):
    """A configuration of these series, from files, with a ledger of this name."""
    path = folder / f"{name}.toml"
    tables = []
    for one in bars or (BARS,):
        file = folder / f"{name}-{one.key.symbol.replace('/', '')}.csv"
        one.frame.to_csv(file)
        tables.append(f'[[series]]\nexchange = "x"\nsymbol = "{one.key.symbol}"\ntimeframe = "1h"\nfile = "{file}"\n')
    path.write_text(
        "".join(tables)
        + f"[model]\ncontext = {CONTEXT}\nmin_context = {MIN_CONTEXT}\nhorizon = {HORIZON}\n"
        + f'compile = "off"\n{model}[store]\nurl = "sqlite:///{folder}/{name}.db"\n'
    )
    return path


def history(folder, run_id, key=KEY, name="ledger"):
    with closing(open_reader(f"sqlite:///{folder}/{name}.db")) as reader:
        return reader.history(key, 0, 2**62, run_id)


def cutoffs(rows):
    return sorted({row.cutoff for row in rows})


def bits(rows):
    """All that a forecast is, to the last bit."""
    return [
        (row.cutoff, row.model_id, row.step, row.field, row.target_open, row.raw_Q.tobytes(), row.values_Q.tobytes())
        for row in rows
    ]


def test_every_cutoff_of_every_series(folder, replay):
    """All that have enough bars behind them, for the model and its baseline; in the JSON, what that came to."""
    config = configured(folder, BARS, make_bars(OTHER, count=50, seed=1))
    started = time.perf_counter()
    record = replay(config)
    took = time.perf_counter() - started

    assert cutoffs(history(folder, record["run"])) == CUTOFFS
    assert cutoffs(history(folder, record["run"], OTHER)) == CUTOFFS[:19]
    assert len(history(folder, record["run"])) == len(CUTOFFS) * 2 * HORIZON * 4
    assert record["cutoffs"] == record["cutoffs_added"] == len(CUTOFFS) + 19
    assert 0 < record["seconds"] <= round(took, 2)
    assert record["cutoffs_per_second"] == pytest.approx(record["cutoffs"] / record["seconds"], rel=0.02, abs=0.1)
    assert 0 < record["model_share"] < 1
    assert 100 < record["peak_rss_mb"] < 10_000
    assert record["left_out"] == {}
    assert list(record["series"]) == ["x A/B 1h", "x C/D 1h"]
    assert set(record) == {
        "run", "mae_close", "mase_close", "skill_close", "skill_crps", "coverage80", "cutoffs", "cutoffs_added",
        "seconds", "cutoffs_per_second", "model_share", "peak_rss_mb", "series", "left_out",
        "rejected", "unclosed",
    }  # fmt: skip


def test_what_the_next_closes_came_to(folder, replay):
    """The mean error of the medians, the random walk's beside it, and the share of closes inside the 80 % interval."""
    config = configured(folder)
    record = replay(config)
    close = dict(zip(BARS.open_time.tolist(), BARS.close.tolist(), strict=True))
    errors, inside = {"nano": [], "random_walk": []}, []
    for row in history(folder, record["run"]):
        if row.field == "close" and row.step == 1 and row.target_open in close:
            lower, median, upper = (row.values_Q[row.quantile_levels.index(level)] for level in (0.1, 0.5, 0.9))
            errors[row.model_id.name].append(abs(median - close[row.target_open]))
            if row.model_id.startswith("nano"):
                inside.append(lower <= close[row.target_open] <= upper)

    assert len(inside) == len(CUTOFFS) - 1
    assert record["mae_close"] == pytest.approx(np.mean(errors["nano"]))
    assert record["coverage80"] == pytest.approx(np.mean(inside))
    assert record["skill_close"] == pytest.approx(
        1 - np.mean(errors["nano"]) / np.mean(errors["random_walk"]), abs=0.02
    )
    with Forecaster.from_config(config) as forecaster:
        scores = Scores(forecaster.losses(run=record["run"]))
    parts = [("open", 2), ("open", 3), *((field, step) for field in FIELDS[1:] for step in (1, 2, 3))]
    totals = [scores.total("nano", *part) for part in parts]
    own, walk = (sum(one[f"{whose}_crps"] for one in totals) for whose in ("common", "walk"))

    assert record["skill_crps"] == pytest.approx(1 - own / walk, rel=1e-12)
    assert record["series"] == {"x A/B 1h": {name: record[name] for name in IN_JSON}}


IN_JSON = ("mae_close", "mase_close", "skill_close", "skill_crps", "coverage80")


def test_several_series_are_joined_without_their_prices(folder, replay):
    """A series of 60,000 and one of 60: no mean of losses in price, and relative ones that scale with neither."""
    cheap = make_bars(OTHER, count=120, seed=1)
    cheap = Bars(OTHER, cheap.open_time, cheap.ohlcv_TF / 1000)
    record = replay(configured(folder, BARS, cheap), "--start", "2024-01-04")
    one, other = record["series"].values()

    assert record["mae_close"] is None
    assert one["mae_close"] > 100 * other["mae_close"]
    for name in IN_JSON[1:]:
        assert record[name] == pytest.approx((one[name] + other[name]) / 2), name


def test_the_open_that_is_known(folder, replay):
    """Of a market without pauses it is the last close, but for a cent now and then: no skill is told of it."""
    ohlcv_TF = BARS.ohlcv_TF.copy()
    ohlcv_TF[100, 0] += 0.01
    ohlcv_TF[100, 1] += 0.01
    config = configured(folder, Bars(KEY, BARS.open_time, ohlcv_TF))
    done = cli.forecaster("replay", "-c", config, "--start", "2024-01-03")
    skills = {line.split()[5]: line.split()[-5:-3] for line in done.stdout.splitlines() if " nano " in line}
    with Forecaster.from_config(config) as forecaster:
        (run,) = forecaster.reader.runs()
        reports = {(one.field, one.step): one for one in forecaster.accuracy(run=run.id) if "nano" in one.model_id}

    assert skills["open"] == ["known", "known"]
    assert skills["close"] == [f"{reports['close', 1].skill_mae:+.3f}", f"{reports['close', 1].skill_crps:+.3f}"]
    assert "known: the price equals the last close" in done.stdout
    assert (reports["open", 1].skill_mae, reports["open", 1].skill_crps) == (None, None)
    assert reports["open", 1].mae > 0
    assert reports["open", 2].skill_mae is not None


def test_one_series_of_several(folder, replay):
    record = replay(configured(folder, BARS, make_bars(OTHER, count=50, seed=1)), "--series", "x C/D 1h")

    assert cutoffs(history(folder, record["run"], OTHER)) == CUTOFFS[:19]
    assert history(folder, record["run"]) == []
    assert record["cutoffs"] == 19


def test_every_nth_cutoff(folder, replay):
    """Counted from the first; under a run of its own."""
    config = configured(folder)
    record, other = replay(config, "--every", 5), replay(config, "--every", 10)

    assert cutoffs(history(folder, record["run"])) == CUTOFFS[::5]
    assert cutoffs(history(folder, other["run"])) == CUTOFFS[::10]
    assert record["run"] != other["run"]


@pytest.mark.parametrize(
    ("arguments", "first", "last"),
    [
        (("--start", "2024-01-04"), "2024-01-04 00:00", "2024-01-06 00:00"),
        (("--end", "2024-01-04"), "2024-01-02 08:00", "2024-01-03 23:00"),
        (("--start", "2024-01-03T10:30", "--end", "2024-01-04T13:00+01:00"), "2024-01-03 11:00", "2024-01-04 11:00"),
    ],
    ids=["start", "end", "both"],
)
def test_cutoffs_between_dates(folder, replay, arguments, first, last):
    """The first is not before `--start`, the last is before `--end`; bars behind it are outcomes all the same."""
    record = replay(configured(folder), *arguments)
    found = cutoffs(history(folder, record["run"]))

    assert [str(pd.Timestamp(at, unit="ms"))[:16] for at in (found[0], found[-1])] == [first, last]
    assert found == [at for at in CUTOFFS if found[0] <= at <= found[-1]]


def test_bars_behind_the_last_cutoff_are_its_outcomes(folder, replay):
    record = replay(configured(folder), "--start", "2024-01-04", "--end", "2024-01-04T01:00", "--out", "one.csv")
    frame = pd.read_csv(folder / record["file"])

    assert record["cutoffs"] == 1
    assert frame.actual.notna().all()


def test_the_size_of_a_batch_changes_nothing(folder, replay):
    """In ones and in all at once: the same rows for the baseline, and float32's noise for the model."""
    rows = {}
    for name, batch in (("ones", 1), ("whole", 1000)):
        record = replay(configured(folder, name=name), "--batch", batch, "--start", "2024-01-05")
        rows[name] = history(folder, record["run"], name=name)

    assert len(rows["ones"]) == 25 * 2 * HORIZON * 4
    for one, other in zip(rows["ones"], rows["whole"], strict=True):
        tolerance = 0 if one.model_id.startswith("random_walk") else 1e-5
        assert (one.cutoff, one.model_id, one.step, one.field) == (
            other.cutoff,
            other.model_id,
            other.step,
            other.field,
        )
        np.testing.assert_allclose(one.values_Q, other.values_Q, rtol=tolerance)


def test_latency_is_when_a_forecast_is_there(folder, replay):
    """Half a second and not rounded away; the forecasts are those of a replay without."""
    config = configured(folder)
    at_once = history(folder, replay(config, "--start", "2024-01-05")["run"])
    later = history(folder, replay(config, "--start", "2024-01-05", "--latency", 4.5)["run"])

    assert bits(later) == bits(at_once)
    assert {row.available_at - row.cutoff for row in at_once} == {0}
    assert {row.available_at - row.cutoff for row in later} == {4_500}
    assert all(row.issued_at == row.cutoff for row in later)


def test_bars_as_they_were_known(folder, replay):
    """A close that was revised later counts as it was then; a bar that came late is no cutoff.

    What was asked as it is known now sees the revision.
    """
    revised, late, hour = 60, 90, KEY.timeframe.ms
    first = BARS.ohlcv_TF.copy()
    first[revised, 3] = first[revised, 1]
    seen = BARS.close_time + 1_000
    seen[late] += 3 * hour
    then = Bars(KEY, BARS.open_time, first, seen)
    config = configured(folder)
    with closing(open_store(f"sqlite:///{folder}/ledger.db")) as store:
        store.add_bars(then)
    known = history(folder, replay(config, "--known-within", 5)["run"])
    now = history(folder, replay(config)["run"])
    never_revised = configured(folder, Bars(KEY, BARS.open_time, first), name="then")
    expected = history(folder, replay(never_revised)["run"], name="then")
    until = int(BARS.close_time[late])
    before = [row for row in expected if row.cutoff < until]

    assert cutoffs(known) == [at for at in CUTOFFS if at != until]
    assert bits(row for row in known if row.cutoff < until) == bits(before)
    first_changed = min(one.cutoff for one, other in zip(now, expected, strict=True) if bits([one]) != bits([other]))
    assert first_changed == BARS.close_time[revised]


def test_how_soon_bars_must_be_known(folder, replay):
    """A bar that came after a second is known within one, and not within less."""
    config = configured(folder)
    with closing(open_store(f"sqlite:///{folder}/ledger.db")) as store:
        store.add_bars(
            Bars(KEY, BARS.open_time, BARS.ohlcv_TF, BARS.close_time + np.where(np.arange(120) % 2, 1000, 0))
        )
    within = replay(config, "--known-within", 1)
    sooner = replay(config, "--known-within", 0.999)

    assert cutoffs(history(folder, within["run"])) == CUTOFFS
    assert cutoffs(history(folder, sooner["run"])) == CUTOFFS[1::2]
    assert sooner["cutoffs"] == len(CUTOFFS) // 2


READERS = {"parquet": pd.read_parquet, "feather": pd.read_feather, "csv": pd.read_csv}


@pytest.mark.parametrize("kind", READERS)
def test_forecasts_in_a_file(folder, replay, kind):
    """Read back, they are the ledger's rows, and what came."""
    record = replay(configured(folder), "--start", "2024-01-05", "--out", folder / f"out.{kind}")
    frame = READERS[kind](folder / f"out.{kind}")
    rows = history(folder, record["run"])
    levels = [f"q{level:g}" for level in rows[0].quantile_levels]
    price = dict(zip(BARS.open_time.tolist(), BARS.ohlcv_TF.tolist(), strict=True))
    came = [price.get(row.target_open, [np.nan] * 4)[FIELDS.index(row.field)] for row in rows]

    assert record["file"] == str(folder / f"out.{kind}")
    assert sorted(path.name for path in folder.glob("out*")) == [f"out.{kind}"]
    assert frame[["model", "run", "step", "field"]].to_numpy().tolist() == [
        [row.model_id, row.run_id, row.step, row.field] for row in rows
    ]
    assert [at.value // 10**6 for at in pd.to_datetime(frame.cutoff)] == [row.cutoff for row in rows]
    np.testing.assert_array_equal(frame[levels], [row.values_Q for row in rows])
    np.testing.assert_array_equal(frame.actual, came)
    assert 0 < frame.actual.isna().sum() < len(frame)


def growth(bars, first, last, share=1.0, bps=(10.0, 2.0)):
    """What holding brings from the open of one bar to the close of another, fee and slippage paid."""
    fee, slippage = (one / 1e4 for one in bps)
    rate = (1 + slippage) * (1 + fee) - 1
    bought = share / (1 + share * rate)
    return bought * (bars.close[last] / bars.ohlcv_TF[first, 0] - 1 - rate)


@pytest.mark.parametrize(
    ("arguments", "first", "share", "bps"),
    [
        ((), MIN_CONTEXT, 1.0, (10, 2)),
        (("--latency", 4), MIN_CONTEXT + 1, 1.0, (10, 2)),
        (("--fee-bps", 50), MIN_CONTEXT, 1.0, (50, 2)),
        (("--slippage-bps", 30), MIN_CONTEXT, 1.0, (10, 30)),
        (("--fee-bps", 0, "--slippage-bps", 0), MIN_CONTEXT, 1.0, (0, 0)),
        (("--max-weight", 0.25), MIN_CONTEXT, 0.25, (10, 2)),
    ],
    ids=["defaults", "latency", "fee", "slippage", "free", "max share"],
)
def test_a_strategy_that_buys_and_holds(folder, replay, arguments, first, share, bps):
    """Bought at the first open once a forecast is there, at what that costs, up to the limit: counted by hand."""
    record = replay(configured(folder), "--strategy", "mine:long", "--end", "2024-01-03", *arguments)
    (account,) = record["strategy"]["accounts"].values()
    last = BARS.close_time.tolist().index(cutoffs(history(folder, record["run"]))[-1]) + (
        1 if first == MIN_CONTEXT else 2
    )
    expected = growth(BARS, first, last, share, bps)

    assert account["strategy"]["fills"] == account["buy_and_hold"]["fills"] == 1
    assert account["buy_and_hold"]["total_return"] == pytest.approx(expected, rel=1e-9)
    assert account["strategy"]["total_return"] == pytest.approx(expected, rel=1e-9)
    assert account["strategy"]["bars"] == last - first + 1


def test_never_short(folder, replay):
    config = configured(folder)
    both = replay(config, "--strategy", "mine:short", "--end", "2024-01-03")["strategy"]
    record = replay(config, "--strategy", "mine:short", "--end", "2024-01-03", "--long-only")["strategy"]

    assert both["accounts"]["x A/B 1h"]["strategy"]["exposure"] > 0.9
    assert record["accounts"]["x A/B 1h"]["strategy"]["fills"] == 0
    assert record["rules"]["shorting"] is False


@pytest.mark.parametrize(("close_after", "fills"), [(1, 1 + 2 * 3), (4, 1 + 2 * 3), (5, 1), (None, 1)])
def test_closed_where_no_forecast_comes(folder, replay, close_after, fills):
    """Of every fifth cutoff, bought, closed and bought again; a forecast that comes with the fifth bar is in time."""
    limit = () if close_after is None else ("--close-after", close_after)
    dates = ("--start", "2024-01-05", "--end", "2024-01-05T18:00")
    record = replay(configured(folder), "--strategy", "mine:long", "--every", 5, *dates, *limit)
    (account,) = record["strategy"]["accounts"].values()

    assert record["cutoffs"] == 4
    assert account["strategy"]["fills"] == fills
    assert record["strategy"]["rules"]["close_after"] == close_after


def test_a_fill_waits_for_a_bar_that_is_missing(folder, replay):
    """The bar after the first cutoff is not there: the next one fills, and the figures say so."""
    there = BARS[np.arange(120) != MIN_CONTEXT]
    record = replay(configured(folder, there), "--strategy", "mine:long")
    (account,) = record["strategy"]["accounts"].values()

    assert account["strategy"]["delayed_fills"] == 1
    assert account["strategy"]["total_return"] == pytest.approx(growth(BARS, MIN_CONTEXT + 1, 119), rel=1e-9)


def test_page_of_the_trades(folder, replay):
    """Two series and their portfolio, under the rules that were asked for; the JSON names the file."""
    config = configured(folder, BARS, make_bars(OTHER, seed=1))
    record = replay(
        config, "--strategy", "mine:long", "--page", "trades.html", "--fee-bps", 7.5,
        "--max-weight", 0.5, "--long-only", "--close-after", 2,
    )["strategy"]  # fmt: skip
    page = Opened(folder / "trades.html")

    assert record["report"] == "trades.html"
    assert list(record["accounts"]) == ["x A/B 1h", "x C/D 1h", "portfolio"]
    assert "Backtest of mine:long" in page.texts
    assert any("7.5 bps" in text for text in page.texts)
    assert any("at most 50% of the equity, never short" in text for text in page.texts)
    assert any("closed after 2 bars" in text for text in page.texts)


def test_without_a_strategy_nothing_is_traded(folder, replay):
    record = replay(configured(folder), "--start", "2024-01-05")

    assert "strategy" not in record


def test_the_same_call_adds_nothing(folder, replay):
    """No row, no model; what it says of accuracy is the same."""
    config = configured(folder)
    first = replay(config)
    before = bits(history(folder, first["run"]))
    second = replay(config)
    with closing(sqlite3.connect(folder / "ledger.db")) as ledger:
        (count,) = ledger.execute("SELECT COUNT(*) FROM forecast").fetchone()
    timing = {"cutoffs_added", "seconds", "cutoffs_per_second", "model_share", "peak_rss_mb"}

    assert bits(history(folder, first["run"])) == before
    assert count == 2 * len(CUTOFFS)
    assert (second["cutoffs"], second["cutoffs_added"], second["cutoffs_per_second"]) == (len(CUTOFFS), 0, 0)
    assert second["model_share"] == 0
    assert {name: record for name, record in first.items() if name not in timing} == {
        name: record for name, record in second.items() if name not in timing
    }


def test_a_file_that_has_grown_is_another_run(folder, replay):
    """What was recorded of the shorter one stays as it was."""
    first = replay(configured(folder, BARS[:100]))
    before = bits(history(folder, first["run"]))
    second = replay(configured(folder, BARS))

    assert first["run"] != second["run"]
    assert (second["cutoffs"], second["cutoffs_added"]) == (len(CUTOFFS), len(CUTOFFS))
    assert bits(history(folder, first["run"])) == before


def test_another_price_is_another_run(folder, replay):
    """Doubled in the same file: the error is twice as large, and not that of old forecasts against new prices."""
    first = replay(configured(folder), "--start", "2024-01-04")
    second = replay(configured(folder, Bars(KEY, BARS.open_time, BARS.ohlcv_TF * 2)), "--start", "2024-01-04")

    assert first["run"] != second["run"]
    assert second["mae_close"] == pytest.approx(2 * first["mae_close"], rel=1e-3)


def counts(folder, name="ledger"):
    """Rows of every table that a replay could write to."""
    tables = ("forecast", "forecast_step", "bar", "series", "run", "model")
    with closing(sqlite3.connect(folder / f"{name}.db")) as ledger:
        return {one: ledger.execute(f"SELECT COUNT(*) FROM {one}").fetchone()[0] for one in tables}  # noqa: S608


def test_a_latency_adds_nothing(folder, replay):
    """Not a row and not a window; the run is the same one with the latency in its name, and so is the export."""
    config = configured(folder)
    first = replay(config, "--start", "2024-01-04")
    before = counts(folder)
    later = replay(config, "--start", "2024-01-04", "--latency", 4, "--out", "later.csv")
    frame = pd.read_csv(folder / "later.csv", parse_dates=["cutoff", "available_at"])

    assert later["run"] == f"{first['run']}+4000ms"
    assert (later["cutoffs"], later["cutoffs_added"]) == (first["cutoffs"], 0)
    assert counts(folder) == before
    assert later["series"] == first["series"]
    assert set(frame.run) == {later["run"]}
    assert set(frame.available_at - frame.cutoff) == {pd.Timedelta(4, "s")}


def test_trades_of_a_latency_are_those_of_forecasts_that_came_so_late(folder, replay):
    """On one run: as a ledger in which every forecast was recorded with the latency has them."""
    config = configured(folder)
    arguments = ("--strategy", "mine:long", "--start", "2024-01-04", "--end", "2024-01-05")
    at_once, later = (replay(config, *arguments, "--latency", seconds) for seconds in (0, 4))
    with Forecaster.from_config(config) as forecaster, closing(MemoryStore()) as store:
        store.add_bars(BARS)
        store.add_run(Run("late", "replay", 0))
        made = read_forecasts(forecaster.reader, KEY, "nano", at_once["run"], (0, 2**62))
        store.add_forecasts([replace(one, available_at=one.cutoff + 4_000) for one in made], "late")
        traded = run_backtest(long, read_forecasts(store, KEY, "nano", "late", (0, 2**62)), BARS, TradingRules())
    (account,), (late_account,) = (one["strategy"]["accounts"].values() for one in (at_once, later))

    assert at_once["strategy"]["run"] + "+4000ms" == later["strategy"]["run"]
    assert later["cutoffs_added"] == 0
    assert late_account["strategy"]["total_return"] == compute_performance(traded.account).total_return
    assert late_account["strategy"] != account["strategy"]


def long(forecast, position, context):
    """Always long."""
    return Signal(1.0, "up")


def test_nothing_enters_the_live_series(folder, replay):
    """The ledger of a daemon that knows half of the bars, as it knew them: no bar of the file is added to it."""
    config = configured(folder)
    with closing(open_store(f"sqlite:///{folder}/ledger.db")) as store:
        store.add_bars(Bars(KEY, BARS.open_time[:60], BARS.ohlcv_TF[:60], BARS.close_time[:60] + 1_000))
        before = [one.tolist() for one in store.bar_revisions(KEY)]
    record = replay(config, "--start", "2024-01-05")
    with closing(open_reader(f"sqlite:///{folder}/ledger.db")) as reader:
        live, own = reader.bars(KEY), reader.bars(KEY, run_id=record["run"])
        versions = [one.tolist() for one in reader.bar_revisions(KEY)]

    assert versions == before
    assert len(live) == 60
    assert own.open_time.tolist() == BARS.open_time.tolist()
    assert own.first_seen_at.tolist() == BARS.close_time.tolist()


def test_beside_a_daemon(folder, replay):
    """Another process holds the configured ledger: the replay has one of its own, and the other stays as it was."""
    config = configured(folder)
    with closing(open_store(f"sqlite:///{folder}/ledger.db")) as store:
        store.add_bars(BARS[:60])
        before = dumped(folder / "ledger.db")
        record = replay(config, "--start", "2024-01-05", "--store", "replays.db", "--out", "forecasts.csv")
        after = dumped(folder / "ledger.db")

    assert after == before
    assert record["cutoffs"] == record["cutoffs_added"] == 25
    assert (
        cutoffs(history(folder, record["run"], name="replays")) == CUTOFFS[-25:] == cutoffs_of(folder / "forecasts.csv")
    )
    assert history(folder, record["run"]) == []


def dumped(path):
    """All rows of a ledger but its lease, which the writer renews."""
    with closing(sqlite3.connect(path)) as ledger:
        tables = [name for (name,) in ledger.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: ledger.execute(f"SELECT * FROM {name}").fetchall() for name in tables if name != "lease"}  # noqa: S608


def cutoffs_of(path):
    return sorted({at.value // 10**6 for at in pd.read_csv(path, parse_dates=["cutoff"]).cutoff})


def test_the_configured_ledger_is_taken(folder):
    """What to do is said."""
    config = configured(folder)
    with closing(open_store(f"sqlite:///{folder}/ledger.db")):
        line = cli.error_line("replay", "-c", config, "--start", "2024-01-05")

    assert "add --store replays.db" in line


def test_what_was_known_in_the_configured_ledger(folder, replay):
    """Recorded apart: what was known at each cutoff is what the daemon's ledger says."""
    config = configured(folder)
    seen = BARS.close_time + np.where(np.arange(120) % 2, 9_000, 1_000)
    with closing(open_store(f"sqlite:///{folder}/ledger.db")) as store:
        store.add_bars(Bars(KEY, BARS.open_time, BARS.ohlcv_TF, seen))
        record = replay(config, "--known-within", 5, "--store", "replays.db")

    assert cutoffs(history(folder, record["run"], name="replays")) == BARS.close_time[32::2].tolist()
    assert record["left_out"] == {"x A/B 1h": {"their bar was not known within 5 s": 45}}


EXCHANGE = """
[[series]]
exchange = "kraken"
symbol = "BTC/USD"
timeframe = "1h"
[exchanges.kraken]
id = "kraken"
[model]
context = 64
min_context = 32
horizon = 3
compile = "off"
[store]
url = "sqlite:///ledger.db"
"""


@pytest.mark.parametrize("stored", [None, 20])
def test_too_few_bars_of_an_exchange(folder, stored):
    """Nothing is fetched: what to run first is said."""
    (folder / "kraken.toml").write_text(EXCHANGE)
    if stored:
        with closing(open_store(f"sqlite:///{folder}/ledger.db")) as store:
            store.add_bars(make_bars(make_key("kraken", "BTC/USD"), count=stored))
    line = cli.error_line("replay", "-c", folder / "kraken.toml")

    assert "bars of kraken BTC/USD 1h: expected 32 bars or more in the ledger: run `forecaster pull --since" in line
    assert line.endswith(f"found {stored or 0}")


def test_bars_of_an_exchange_are_those_of_the_ledger(folder, replay):
    (folder / "kraken.toml").write_text(EXCHANGE)
    bars = make_bars(make_key("kraken", "BTC/USD"), count=60)
    with closing(open_store(f"sqlite:///{folder}/ledger.db")) as store:
        store.add_bars(bars)
    record = replay(folder / "kraken.toml")

    assert cutoffs(history(folder, record["run"], bars.key)) == bars.close_time[31:].tolist()


def test_a_long_gap_is_left_out_and_told(folder, replay):
    """The cutoffs behind it that see too few bars are counted, in the JSON and for people."""
    config = configured(folder, BARS[np.r_[0:50, 110:120]])
    record = replay(config)
    done = cli.forecaster("replay", "-c", config)
    reason = "fewer than 32 bars among their last 64 slots"

    assert record["left_out"] == {"x A/B 1h": {reason: 10}}
    assert cutoffs(history(folder, record["run"])) == CUTOFFS[:19]
    assert f"x A/B 1h: 10 cutoffs left out: {reason}" in done.stdout


def test_only_cutoffs_that_are_left_out(folder):
    config = configured(folder, BARS[np.r_[0:50, 110:120]])
    line = cli.error_line("replay", "-c", config, "--start", "2024-01-05")

    assert ": 10 left out: fewer than 32 bars among their last 64 slots" in line


def test_a_replay_of_today_is_not_pruned(folder, replay):
    """Though its bars are years old."""
    config = configured(folder)
    record = replay(config, "--start", "2024-01-05")
    pruned = cli.run_json("store", "prune", "-c", config, "--older-than", "90d", "--json")

    assert (pruned["runs"], pruned["forecasts"]) == (0, 0)
    assert len(history(folder, record["run"])) == 25 * 2 * HORIZON * 4


def test_a_replay_is_listed_and_deleted(folder, replay):
    """By its id, with its bars; the other one stays."""
    config = configured(folder)
    first, second = (replay(config, "--start", day) for day in ("2024-01-04", "2024-01-05"))
    listed = cli.run_json("store", "runs", "-c", config, "--json")["runs"]
    cli.run_json("store", "delete", first["run"], "-c", config, "--json")
    left = cli.run_json("store", "runs", "-c", config, "--json")["runs"]

    assert {one["id"]: one["bars"] for one in listed} == {first["run"]: 120, second["run"]: 120}
    assert [one["id"] for one in left] == [second["run"]]
    assert history(folder, first["run"]) == []
    assert len(history(folder, second["run"])) == 25 * 2 * HORIZON * 4
    with closing(open_reader(f"sqlite:///{folder}/ledger.db")) as reader:
        assert (len(reader.bars(KEY, run_id=first["run"])), len(reader.bars(KEY, run_id=second["run"]))) == (0, 120)


def has_begun(folder, run_id):
    """Whether a ledger has a forecast of a run."""
    try:
        return bool(history(folder, run_id))
    except LedgerMissing:
        return False


@pytest.mark.processes
def test_a_replay_that_is_killed_goes_on(folder, replay):
    """SIGKILL after the first batches: whole batches are in the ledger, and the end is that of a replay in one go."""
    bars = make_bars(KEY, count=700)
    whole = replay(configured(folder, bars, name="whole"), "--batch", 10)
    config = configured(folder, bars)
    with subprocess.Popen(
        [cli.PROGRAM, "replay", "-c", str(config), "--batch", "10"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        while process.poll() is None and not has_begun(folder, whole["run"]):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        code = process.wait()
    before = cutoffs(history(folder, whole["run"]))
    record = replay(config, "--batch", 10)

    assert before
    assert code == -signal.SIGKILL
    assert len(before) < record["cutoffs"]
    assert len(before) % 10 == 0
    assert before == bars.close_time[31:][: len(before)].tolist()
    assert record["run"] == whole["run"]
    assert record["cutoffs_added"] == record["cutoffs"] - len(before)
    assert bits(history(folder, record["run"])) == bits(history(folder, record["run"], name="whole"))
    assert {name: record[name] for name in ("mae_close", "skill_crps", "coverage80")} == {
        name: whole[name] for name in ("mae_close", "skill_crps", "coverage80")
    }


def test_for_people(folder):
    """Tables and lines; no record of records."""
    done = cli.forecaster("replay", "-c", configured(folder), "--start", "2024-01-05", "--strategy", "mine:long")

    assert done.returncode == 0, done.stderr
    assert "x A/B 1h: too few trades" in done.stdout
    assert "cutoffs_per_second" in done.stdout
    assert "skill MAE" in done.stdout
    assert "{" not in done.stdout


MISTAKES = {
    "strategy": (("--strategy", "strategies.nothing"), "--strategy: expected a module with a function"),
    "function": (("--strategy", "mine:wide"), "--strategy: expected a function wide in mine"),
    "ending": (("--out", "out.xls"), "--out: expected a file that ends in .parquet, .feather, .csv, found 'out.xls'"),
    "out": (("--out", "no/out.csv"), "--out: expected a file in an existing folder"),
    "page": (("--strategy", "mine:long", "--page", "no/a.html"), "--page: expected a file in an existing folder"),
    "page without a strategy": (("--page", "a.html"), "--page: expected --strategy as well"),
    "address": (("--address", "ray://host:10001"), "--address: expected --workers as well"),
    "fee": (("--fee-bps", "1001"), "fee_bps: expected 0 to 1000"),
    "share": (("--max-weight", "1.5"), "max_weight: expected above 0, at most 1"),
    "silence": (("--close-after", "0"), "close_after: expected 1 or more bars"),
    "date": (("--end", "tomorrow"), "time: expected a date or time"),
    "series": (("--series", "x E/F 1h"), "series: expected one of x A/B 1h"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_reported_before_the_work(folder, mistake):
    """One line, code 2, and no ledger yet."""
    arguments, expected = MISTAKES[mistake]

    assert expected in cli.error_line("replay", "-c", configured(folder), *arguments)
    assert not (folder / "ledger.db").exists()


@pytest.mark.parametrize("option", ["--every", "--batch", "--latency", "--known-within", "--workers"])
def test_numbers_below_what_makes_sense(folder, option):
    done = cli.forecaster("replay", "-c", configured(folder), option, "-1")

    assert done.returncode == 2
    assert option in done.stderr


def test_workers_without_ray(folder, monkeypatch):
    """What to install is said, and nothing was forecast."""
    monkeypatch.setitem(sys.modules, "ray", None)
    line = cli.error_line("replay", "-c", configured(folder), "--workers", 2)
    with closing(sqlite3.connect(folder / "ledger.db")) as ledger:
        (count,) = ledger.execute("SELECT COUNT(*) FROM forecast").fetchone()

    assert "pip install 'forecaster[ray]'" in line
    assert count == 0


def test_no_cutoff_between_the_dates(folder):
    line = cli.error_line("replay", "-c", configured(folder), "--start", "2024-01-01", "--end", "2024-01-02")

    assert "replay: expected a cutoff from 2024-01-01 and before 2024-01-02, found 'x A/B 1h: its cutoffs are" in line


def test_replay_after_the_end_of_a_file(folder):
    """The times of its first and last cutoff are told, and no option that was not said."""
    line = cli.error_line("replay", "-c", configured(folder), "--since", "2026-01-01")

    assert "a cutoff from 2026-01-01, found 'x A/B 1h: its cutoffs are from 2024-01-0" in line
    assert "to 2024-01-06 00:00 UTC" in line
    assert "--" not in line


def test_tables_fit_a_narrow_terminal(folder, monkeypatch):
    """Where a table is too wide, a series is a heading and optional columns are left out; nothing is cut."""
    monkeypatch.setenv("COLUMNS", "80")
    done = cli.forecaster("replay", "-c", configured(folder), "--start", "2024-01-05")
    lines = done.stdout.splitlines()
    heading = lines.index("x A/B 1h")

    assert done.returncode == 0, done.stderr
    assert max(map(len, lines)) <= 80
    assert "skill MAE" in lines[heading + 1]
    assert "80%" in lines[heading + 1]
    assert lines[heading + 3].startswith("nano  ")
    assert any(line.startswith("a wider terminal also shows: ") for line in lines)


def test_nothing_was_known_so_soon(folder):
    """Bars of a file are known since they were read: no cutoff is left, and that is no success."""
    line = cli.error_line("replay", "-c", configured(folder), "--known-within", 5)

    assert "--known-within: expected bars that were known so soon, found 'none within 5.0 s'" in line


@pytest.mark.ray
def test_workers_give_the_same(folder, replay, monkeypatch):
    """Two processes of their own: the baseline's rows to the last bit; the model's share is theirs to know.

    They are gone when the command is done.
    """
    import ray

    asked, ask = [], RayWorkers.__call__

    def watched(workers, batches):
        asked.append(len(set(workers.pids())))
        return ask(workers, batches)

    monkeypatch.setattr(RayWorkers, "__call__", watched)
    alone = replay(configured(folder, name="alone"), "--batch", 10)
    record = replay(configured(folder), "--batch", 10, "--workers", 2)
    walks = [
        bits(row for row in history(folder, one["run"], name=name) if row.model_id.startswith("random_walk"))
        for one, name in ((alone, "alone"), (record, "ledger"))
    ]

    assert asked == [2]
    assert not ray.is_initialized()
    assert record["model_share"] is None
    assert record["cutoffs_added"] == len(CUTOFFS)
    assert walks[0] == walks[1]
    assert record["mae_close"] == pytest.approx(alone["mae_close"], rel=1e-4)


def test_a_replay_reads_one_clock(folder, replay):
    """It began when it was called; its bars are known since they closed, its forecasts since their cutoffs."""
    before = now_ms()
    record = replay(configured(folder), "--start", "2024-01-05")
    with closing(open_reader(f"sqlite:///{folder}/ledger.db")) as reader:
        (run,) = reader.runs()

    assert before <= run.started_at <= now_ms()
    assert {row.issued_at - row.cutoff for row in history(folder, record["run"])} == {0}
