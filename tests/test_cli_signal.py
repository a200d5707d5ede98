"""Strategies on the command line: found by name, asked about now, and let trade on a replay."""

from __future__ import annotations

import json
import shutil
import sys
from contextlib import closing
from dataclasses import replace

import pytest

from forecaster.bars import Bars
from forecaster.cli.strategy import TradePlan, known_strategies, load_strategy, print_trades, trade_replay
from forecaster.engine import Forecaster
from forecaster.errors import ConfigError, InvalidArgument
from forecaster.ledger import LIVE, Run
from forecaster.replay import run_replay
from forecaster.replay.backtest import combine_accounts, run_backtest
from forecaster.replay.cutoffs import choose_cutoffs
from forecaster.replay.performance import compute_performance
from forecaster.replay.replay import replay_all
from forecaster.replay.run_forecasts import TrustHistory, read_forecasts
from forecaster.replay.strategy import TradingRules
from forecaster.store.sql import SqlStore
from strategies.trend import trend
from tests.accuracy.report.test_page import BEFORE, make_lognormal
from tests.builders import HOUR_MS, make_bars, make_key
from tests.cli import error_line, forecaster
from tests.cli import run_json as told_by
from tests.test_engine import make_forecaster

CUTOFFS = 40
MINE = """
from forecaster import Signal


def mine(forecast, position, context):
    known = None if context.trust is None else round(context.trust.value, 6)
    return Signal(position.weight / 2, f"{context.last_close} {known} {forecast.cutoff}")


def too_few_arguments(forecast):
    return Signal(0.0, "")


def no_signal(forecast, position, context):
    return 0.5


not_a_function = 3
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a strategy of one's own and a configuration of two series, of which one has a ledger."""
    (tmp_path / "my_strategies.py").write_text(MINE)
    (tmp_path / "broken_strategy.py").write_text("import a_package_that_is_not_there\n")
    (tmp_path / "unreadable_strategy.py").write_text("def unreadable_strategy(:\n")
    (tmp_path / "config.toml").write_text(
        "".join(
            f'[[series]]\nexchange = "binance"\nsymbol = "{symbol}/USDT"\ntimeframe = "1h"\nfile = "none.csv"\n'
            for symbol in ("BTC", "ETH")
        )
        + f'[store]\nurl = "sqlite:///{tmp_path}/ledger.db"\n'
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """That ledger, and its bars: the last forecast is of the last close."""
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


def given(folder, bars, *arguments, after=1000, strategy="my_strategies:mine"):
    """The command some time (ms) after the last close."""
    as_of = (bars.close_time[-1] + after).astype("datetime64[ms]")
    return ("signal", "-c", folder / "config.toml", "--strategy", strategy, "--as-of", as_of, "--json", *arguments)


def asked(folder, bars, *arguments, **how):
    """Run the command; gives its JSON."""
    return told_by(*given(folder, bars, *arguments, **how))


def test_the_newest_forecast_is_decided_on(folder, bars):
    """With the close at its cutoff, the trust of now, and what is held; the other series has no forecast."""
    record = asked(folder, bars, "--weight", "-0.5")
    with Forecaster.from_config(folder / "config.toml") as forecaster:
        trust = forecaster.trust(("binance", "BTC/USDT", "1h"), as_of=int(bars.close_time[-1]) + 1000)
    fresh, missing = record["signals"]
    last = int(bars.close_time[-1])

    assert record["strategy"] == "my_strategies:mine"
    assert record["as_of"] == last + 1000
    assert fresh == {
        "series": "binance BTC/USDT 1h",
        "state": "fresh",
        "weight": -0.25,
        "reason": f"{bars.close[-1]} {round(trust.value, 6)} {last}",
        "cutoff": last,
        "available_at": last + 2 + 10 + CUTOFFS - 1,
        "revised": [],
    }
    assert (missing["series"], missing["state"], missing["weight"]) == ("binance ETH/USDT 1h", "missing", -0.5)
    assert missing["cutoff"] is None


@pytest.mark.parametrize(("after", "state", "weight"), [(HOUR_MS - 1, "fresh", 0.25), (HOUR_MS, "stale", 0.5)])
def test_a_stale_forecast_is_not_decided_on(folder, bars, after, state, weight):
    """Once the first bar that it forecasts has closed, what is held is kept."""
    (found,) = asked(folder, bars, "--weight", "0.5", "--series", "binance BTC/USDT 1h", after=after)["signals"]

    assert (found["state"], found["weight"]) == (state, weight)
    assert ("stale" in found["reason"]) == (state == "stale")
    assert found["cutoff"] == bars.close_time[-1]


def test_a_forecast_that_was_not_there_yet_is_not_decided_on(folder, bars):
    """The one before was there, and by then it was stale."""
    (found,) = asked(folder, bars, "--series", "binance BTC/USDT 1h", after=3)["signals"]

    assert (found["state"], found["cutoff"]) == ("stale", bars.close_time[-2])


def test_as_of_a_past_time_is_as_it_was_then(folder, bars):
    """The forecast that was the newest then, with its close; a newer one that came later takes nothing away."""
    (found,) = asked(folder, bars, "--series", "binance BTC/USDT 1h", after=-5 * HOUR_MS + 1000)["signals"]
    cutoff = int(bars.close_time[-6])

    assert (found["state"], found["cutoff"]) == ("fresh", cutoff)
    assert found["reason"].startswith(f"{bars.close[-6]} ")
    assert found["reason"].endswith(f" {cutoff}")


def test_before_the_first_forecast_it_is_missing(folder, bars):
    (found,) = asked(folder, bars, "--series", "binance BTC/USDT 1h", after=-100 * HOUR_MS)["signals"]

    assert (found["state"], found["weight"], found["cutoff"]) == ("missing", 0.0, None)


def test_another_ledger(folder, bars):
    (folder / "ledger.db").rename(folder / "other.db")
    (found,) = asked(folder, bars, "--series", "binance BTC/USDT 1h", "--store", folder / "other.db")["signals"]

    assert (found["state"], found["cutoff"]) == ("fresh", bars.close_time[-1])


def test_newest_forecasts_of_another_ledger_as_of_a_time(folder, bars):
    """`latest` reads the same as `signal`."""
    (folder / "ledger.db").rename(folder / "other.db")
    as_of = bars.close_time[-3].astype("datetime64[ms]") + 1000
    arguments = ("latest", "-c", folder / "config.toml", "--store", folder / "other.db", "--as-of", as_of, "--json")
    fresh, missing = told_by(*arguments)["forecasts"]

    assert (fresh["cutoff"], missing["cutoff"]) == (bars.close_time[-3], None)


def test_for_people(folder, bars):
    done = forecaster("signal", "--config", folder / "config.toml", "--strategy", "strategies.buy_and_hold")

    assert done.returncode == 0, done.stderr
    assert "stale" in done.stdout
    assert "binance ETH/USDT 1h" in done.stdout


def test_a_strategy_that_returns_no_signal(folder, bars):
    """The error names the strategy, what it returned, and what was expected."""
    words = error_line(*given(folder, bars, strategy="my_strategies:no_signal"))

    assert words.startswith("InvalidArgument: return value of strategy my_strategies:no_signal: expected a Signal")
    assert words.endswith("found 0.5 (float)")


def test_a_strategy_of_the_users_own_folder_strategies(folder, bars):
    """`strategies` is a namespace package: a folder of that name stands beside the installed strategies."""
    (folder / "strategies").mkdir()
    (folder / "strategies" / "mine.py").write_text(MINE)
    signal = asked(folder, bars, "--weight", 0.5, strategy="strategies.mine")["signals"][0]

    assert signal["weight"] == 0.25
    assert load_strategy("strategies.trend") is trend
    assert "strategies.mine" in known_strategies()
    assert "strategies.trend" in known_strategies()


def test_a_module_and_its_function_of_the_same_name():
    assert load_strategy("strategies.trend") is trend
    assert load_strategy("strategies.trend:trend") is trend


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("strategies.nothing", "a module with a function of its own name"),
        ("strategies.base", "a function base in strategies.base"),
        ("strategies.trend:other", "a function other in strategies.trend; there is trend"),
        ("my_strategies:mien", "a function mien in my_strategies; there is mine"),
        ("unreadable_strategy", "a module that can be imported"),
        ("my_strategies:not_a_function", "a function not_a_function"),
        ("my_strategies:too_few_arguments", "a function of forecast, position and context"),
        ("broken_strategy:any", "a module that can be imported.*a_package_that_is_not_there"),
        ("builtins:max", "a function of forecast, position and context"),
        ("", "a module with a function"),
        (":", "a module with a function"),
        ("..trend", "a module with a function"),
    ],
)
def test_names_that_are_none(folder, name, words):
    """Each says what was expected, and what was found."""
    with pytest.raises(ConfigError, match=words):
        load_strategy(name)


@pytest.mark.parametrize("command", ["signal", "replay"])
def test_an_unknown_strategy_is_refused_with_the_known_ones(folder, command):
    """The most similar one first, in one line."""
    words = error_line(command, "--config", folder / "config.toml", "--strategy", "strategies.trand")

    assert words.startswith("ConfigError: --strategy: expected a module")
    assert "known are strategies.trend, " in words
    for name in ("buy_and_hold", "interval_reversion", "quantile_breakout"):
        assert f"strategies.{name}" in words
    assert "strategies.base" not in words


def test_trading_on_a_replay(tmp_path):
    """The same accounts as by hand, forecast by forecast, and files for people."""
    bars = [make_bars(make_key(symbol=symbol), count=300, seed=seed) for seed, symbol in enumerate(("A/B", "C/D"))]
    forecaster = make_forecaster(*bars)
    run = replay_all(forecaster, [choose_cutoffs(one, forecaster.config.model) for one in bars])
    span = (int(bars[0].close_time[100]), int(bars[0].close_time[250]))
    plan = TradePlan("strategies.trend", TradingRules(), span, tmp_path / "trades.html")
    now = 2**50
    record = trade_replay(forecaster, [one.key for one in bars], run.id, plan, now)
    traded = []
    for one in bars:
        trust = TrustHistory(forecaster.reader.settled(one.key, now, run_id=run.id), one, "nano")
        forecasts = list(read_forecasts(forecaster.reader, one.key, "nano", run.id, (0, 2**41)))
        chosen = [forecast for forecast in forecasts if span[0] <= forecast.cutoff < span[1]]
        traded.append(run_backtest(trend, chosen, one, TradingRules(), trust.at))
    portfolio = compute_performance(combine_accounts([one.account for one in traded]))

    assert list(record["accounts"]) == [*(str(one.key) for one in bars), "portfolio"]
    for one in traded:
        found = record["accounts"][one.account.name]

        assert found["strategy"]["total_return"] == compute_performance(one.account).total_return
        assert found["buy_and_hold"]["total_return"] == compute_performance(one.benchmark).total_return
        assert found["strategy"]["bars"] == 150
    assert record["accounts"]["portfolio"]["strategy"]["total_return"] == portfolio.total_return
    assert json.loads(json.dumps(record)) == record
    assert (tmp_path / "trades.html").stat().st_size > 1_000_000


def test_trading_for_people(capsys):
    bars = make_bars(count=120)
    forecaster = make_forecaster(bars)
    run = run_replay(forecaster, bars)
    record = trade_replay(
        forecaster, [bars.key], run.id, TradePlan("strategies.trend", TradingRules(), (0, 2**62)), 2**50
    )
    print_trades(record)
    said = capsys.readouterr().out

    assert list(record["accounts"]) == [str(bars.key)]
    assert record["report"] is None
    assert f"{bars.key}: too few trades" in said
    assert "max_drawdown" in said


def test_no_forecast_in_the_span(tmp_path):
    bars = make_bars(count=120)
    forecaster = make_forecaster(bars)
    run = run_replay(forecaster, bars)

    with pytest.raises(InvalidArgument, match="can fill"):
        trade_replay(forecaster, [bars.key], run.id, TradePlan("strategies.trend", TradingRules(), (0, 1)), 2**50)


def test_a_ledger_whose_last_bar_was_pruned(folder, bars):
    """The newest forecast is there and its close is not: an error by name, and no decision."""
    cutoff = int(bars.close_time[-1]) + HOUR_MS
    made = make_lognormal(bars.key, bars, CUTOFFS - 1, 40_000.0, (1, 1), "nano")
    later = replace(made, cutoff=cutoff, issued_at=cutoff, available_at=cutoff + 5)
    with closing(SqlStore(f"sqlite:///{folder}/ledger.db")) as store:
        store.add_forecasts([later], LIVE)

    assert "expected a bar that closes at" in error_line(*given(folder, bars, after=HOUR_MS + 1000))
