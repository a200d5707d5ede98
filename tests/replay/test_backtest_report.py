"""The page of a backtest: its numbers, its limits, and escaped names."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from forecaster.errors import ConfigError
from forecaster.replay.backtest import combine_accounts, run_backtest
from forecaster.replay.backtest_report import BacktestReport, describe_limits, write_backtest_report
from forecaster.replay.performance import compute_performance, drawdown_of
from forecaster.replay.strategy import Signal, TradingRules
from tests.accuracy.report.test_page import HOSTILE, Opened
from tests.builders import make_bars, make_key
from tests.replay.test_backtest import five
from tests.replay.test_strategy import forecasts_of

BARS = 400


def alternate(forecast, position, context):
    return Signal(-0.5 if position.weight > 0 else 1.0, HOSTILE)


@pytest.fixture(scope="module")
def traded():
    return [
        run_backtest(alternate, forecasts_of(bars), bars)
        for bars in (make_bars(count=BARS), make_bars(make_key(symbol="ETH/USDT"), count=BARS - 50, seed=4))
    ]


def written(folder, traded, strategy="strategies.trend", rules=None):
    report = BacktestReport(strategy, "replay-0123", rules or TradingRules(), traded)
    size = write_backtest_report(report, folder / "trades.html")

    assert size == (folder / "trades.html").stat().st_size
    return Opened(folder / "trades.html")


@pytest.fixture(scope="module")
def page(traded, tmp_path_factory):
    return written(tmp_path_factory.mktemp("page"), traded[:1])


def test_equity_and_drawdown_beside_buy_and_hold(page, traded):
    """The lines are the accounts, bar by bar."""
    for name, account in (("strategy", traded[0].account), ("buy and hold", traded[0].benchmark)):
        for title, marks_T in (
            ("Equity at each close, after costs", account.equity_T),
            ("Drawdown", drawdown_of(account)),
        ):
            (line,) = [one for one in page.figures[title]["data"] if one["name"] == name]

            np.testing.assert_allclose(line["y"], marks_T, rtol=1e-12)
            assert len(line["x"]) == BARS - 1


def test_positions_and_fills(page, traded):
    account = traded[0].account
    (held,) = page.figures["Position"]["data"]
    candles, bought, sold = page.figures["Fills in the last 160 bars"]["data"]
    newest = [one for one in account.fills if one.open_time >= traded[0].bars.open_time[-160]]

    np.testing.assert_allclose(held["y"], account.net_T / account.equity_T, rtol=1e-12)
    assert len(candles["open"]) == 160
    assert bought["y"] == [one.price for one in newest if one.weight_after == 1.0]
    assert sold["y"] == [one.price for one in newest if one.weight_after == -0.5]
    assert len(bought["y"]) + len(sold["y"]) == 160
    assert all(traded[0].bars.ohlcv_TF[-160:, 0][x] < y for x, y in zip(bought["x"], bought["y"], strict=True))


def test_table_of_figures(page, traded):
    own, held = compute_performance(traded[0].account), compute_performance(traded[0].benchmark)
    place = page.texts.index("return")

    assert page.texts[place + 1 : place + 3] == [f"{one.total_return:.1%}" for one in (own, held)]
    place = page.texts.index("trades")
    assert page.texts[place + 1 : place + 3] == [str(own.trades), "1"]


def test_a_portfolio_comes_first(tmp_path, traded):
    page = written(tmp_path, traded)
    names = [text for text in page.texts if text in {"portfolio", *(one.account.name for one in traded)}]
    whole = combine_accounts([one.account for one in traded])

    assert names == ["portfolio", "binance BTC/USDT 1h", "binance ETH/USDT 1h"]
    assert f"{compute_performance(whole).total_return:.1%}" in page.texts


def test_names_and_reasons_are_text(tmp_path, traded):
    """A strategy's name and its reasons come from anybody: no tag of theirs reaches the page or a figure."""
    page = written(tmp_path, traded[:1], strategy=HOSTILE)
    _, bought, _ = page.figures["Fills in the last 160 bars"]["data"]

    assert HOSTILE not in page.text
    assert f"Backtest of {HOSTILE}" in page.texts
    assert all("&lt;script&gt;" in text and "<script" not in text for text in bought["text"])


def test_nothing_is_fetched(page):
    assert not [name for _, attributes in page.tags for name in attributes if name in {"src", "href"}]
    assert any("default-src 'none'" in (attributes.get("content") or "") for _, attributes in page.tags)


def test_long_lines_are_thinned(tmp_path):
    bars = make_bars(count=5000)
    page = written(tmp_path, [run_backtest(alternate, forecasts_of(bars), bars, TradingRules(threshold=0.99))])
    line = page.figures["Drawdown"]["data"][0]

    assert len(line["y"]) == 1500


def test_limits_of_the_backtest():
    """Costs, how few trades, how short a past, and what was not simulated; and when all was lost, that first."""
    account, rules = five(), TradingRules(fee_bps=7.5, slippage_bps=3)
    said = " ".join(describe_limits(account, compute_performance(account), rules))
    lost = describe_limits(
        dataclasses.replace(account, ruined_at=1_704_067_200_000), compute_performance(account), rules
    )
    missing_bars = dataclasses.replace(compute_performance(account), delayed_fills=3)

    assert "7.5 bps" in said
    assert "3 bps" in said
    assert "too few trades (2 of 30)" in said
    assert "Less than a year" in said
    assert "funding" in said
    assert "delayed" not in said
    assert lost[0] == "The capital was lost at 2024-01-01 00:00 UTC."
    assert "3 fills were delayed" in " ".join(describe_limits(account, missing_bars, rules))


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        (TradingRules(), "Position: at most 100% of the equity, long or short; without a new forecast it is kept."),
        (
            TradingRules(max_weight=0.5, shorting=False, close_after=1),
            "Position: at most 50% of the equity, never short; without a new forecast it is closed after a bar.",
        ),
        (
            TradingRules(close_after=3),
            "Position: at most 100% of the equity, long or short; without a new forecast it is closed after 3 bars.",
        ),
    ],
    ids=["defaults", "all limits", "three bars"],
)
def test_rules_are_on_the_page(tmp_path, traded, rules, told):
    """On the page, not only in the command that made it."""
    assert told in written(tmp_path, traded[:1], rules=rules).texts


def test_files_that_cannot_be_written(tmp_path, traded):
    report = BacktestReport("strategies.trend", "replay-0123", TradingRules(), traded[:1])

    with pytest.raises(ConfigError, match="page"):
        write_backtest_report(report, tmp_path / "missing" / "trades.html")
