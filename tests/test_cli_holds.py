"""The commands about holds: exchanges that may not be asked now, and the operator's lever."""

from __future__ import annotations

import asyncio
import re
from contextlib import closing

import pytest

from forecaster.clock import now_ms
from forecaster.errors import RateLimited
from forecaster.sources.exchange import breaker as module
from forecaster.sources.exchange.breaker import Breaker
from forecaster.store import open_store
from tests.builders import held_until
from tests.cli import error_line, forecaster, run_json
from tests.faults.exchange import LoopbackExchange, unhurried

MINUTE_MS, DAY_MS = 60_000, 86_400_000
OUTAGE = "BTC/USDT: 503 Service Unavailable /api/v3/klines"


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def url(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/ledger.db"
    return request.getfixturevalue("cluster").new_database()


@pytest.fixture
def config(tmp_path, url):
    return write_config(tmp_path, url)


def write_config(folder, url, exchange_url="http://127.0.0.1:1"):
    """Two exchanges, one of them with a series."""
    path = folder / "service.toml"
    path.write_text(
        f'[exchanges.binance]\nid = "binance"\napi_urls.public = "{exchange_url}/api/v3"\nlate_after = 0\n'
        'options.fetchMarkets.types = ["spot"]\n[exchanges.kraken]\nid = "kraken"\n'
        '[[series]]\nexchange = "binance"\nsymbol = "BTC/USDT"\ntimeframe = "1h"\n'
        f'[store]\nurl = "{url}"\n'
    )
    return path


@pytest.fixture
def writer(url):
    """The store of a service that runs: it holds the lease."""
    with closing(open_store(url)) as store:
        yield store


def test_no_hold_is_none(config, writer):
    """Those that have ended are not listed."""
    writer.hold("binance", now_ms() - 1, OUTAGE, now_ms() - MINUTE_MS)

    assert forecaster("holds", "-c", config).stdout == "none\n"
    assert run_json("holds", "--json", "-c", config) == {"holds": []}


def test_holds_are_listed_with_their_end_their_reason_and_the_next_probe(config, writer):
    at = now_ms()
    writer.hold("binance", at + 5 * MINUTE_MS, f"outage: {OUTAGE}", at)
    writer.hold("binance", at + 5 * MINUTE_MS, f"outage: {OUTAGE}", at + 10)
    writer.hold("kraken", at + DAY_MS, "ban: BTC/USD: 418 I'm a teapot /0/public/OHLC", at)
    shown = forecaster("holds", "-c", config).stdout
    binance, kraken = run_json("holds", "--json", "-c", config)["holds"]

    assert (binance["exchange"], binance["kind"], binance["until"]) == ("binance", "outage", at + 5 * MINUTE_MS)
    assert (binance["since"], binance["probe_at"]) == (at, at + 10 + MINUTE_MS)
    assert 200 < binance["seconds_left"] <= 300
    assert (kraken["kind"], kraken["probe_at"]) == ("ban", at + DAY_MS // 2)
    assert re.search(r"binance: on hold until 20\S+ \S+ UTC \(4m 5\ds left\), outage: BTC/USDT: 503", shown)
    assert "kraken: on hold until 20" in shown
    assert "(23h 59m left), ban: BTC/USD: 418 I'm a teapot" in shown
    assert "`forecaster holds lift kraken` ends it" in shown


def test_a_limit_is_called_a_rate_limit(config, writer):
    at = now_ms()
    writer.hold("binance", at + DAY_MS, "limit: BTC/USDT: 429 Too Many Requests", at)

    assert " left), rate limit: BTC/USDT: 429 Too Many Requests\n" in forecaster("holds", "-c", config).stdout


def test_help_says_when_a_hold_is_probed():
    text = " ".join(forecaster("holds", "--help").stdout.split())

    assert "a probe request is sent every minute after an outage, and every hour after a rate limit" in text
    assert "List exchanges on hold" in " ".join(forecaster("--help").stdout.split())


def test_hold_is_lifted_beside_the_service_that_writes(config, writer):
    """Without its lease, which it keeps; the row that lifts is a further one."""
    at = now_ms()
    writer.hold("binance", at + 5 * MINUTE_MS, OUTAGE, at)
    done = forecaster("holds", "lift", "binance", "-c", config)
    again = run_json("holds", "lift", "binance", "--json", "-c", config)
    shown = forecaster("holds", "lift", "binance", "-c", config).stdout
    writer.renew()
    (hold,) = writer.holds()

    assert done.returncode == 0
    assert done.stdout == "binance: hold lifted; one request goes first\n"
    assert again == {"exchange": "binance", "lifted": False}
    assert shown == "binance is not on hold\n"
    assert at <= hold.until <= now_ms()
    assert hold.reason == "lifted by command"
    assert held_until(writer, "binance") == hold.until


def test_service_that_runs_asks_again_after_the_lift(config, writer, monkeypatch):
    """Its breaker hears of the row within a second."""
    now = [1_000_000]
    monkeypatch.setattr(module, "_monotonic_ms", lambda: now[0])
    breaker = Breaker("binance", writer)

    async def ask(error=None):
        async with breaker.request("BTC/USDT"):
            if error is not None:
                raise error

    async def scene():
        with pytest.raises(RateLimited):
            await ask(RateLimited("binance", "BTC/USDT: 429 Too Many Requests", 7_200.0))
        with pytest.raises(RateLimited, match="not asked for"):
            await ask()
        lifted = await asyncio.to_thread(run_json, "holds", "lift", "binance", "--json", "-c", config)
        now[0] += module.READ_INTERVAL_MS
        await ask()
        await breaker.close()
        return lifted

    assert asyncio.run(scene())["lifted"]
    assert breaker.seconds_left == 0


def test_unknown_exchange_is_refused_by_the_known_ones(config, writer):
    line = error_line("holds", "lift", "binanze", "-c", config)

    assert line == "ConfigError: EXCHANGE: expected one of binance, kraken, found 'binanze'"


def test_ledger_that_is_not_there_is_told_and_not_made(tmp_path):
    config = write_config(tmp_path, f"sqlite:///{tmp_path}/none.db")
    lines = [error_line("holds", "-c", config), error_line("holds", "lift", "binance", "-c", config)]

    assert all(line.startswith("LedgerMissing: ") and f"{tmp_path}/none.db" in line for line in lines)
    assert not (tmp_path / "none.db").exists()


def test_probe_of_a_configuration_does_not_ask_an_exchange_that_may_not_be_asked(tmp_path, monkeypatch):
    """It says until when, and which command ends that."""
    unhurried(monkeypatch)
    url = f"sqlite:///{tmp_path}/ledger.db"
    with LoopbackExchange(now=now_ms()) as exchange:
        config = write_config(tmp_path, url, exchange.url)
        with closing(open_store(url)) as store:
            store.hold("binance", now_ms() + DAY_MS, "ban: BTC/USDT: 418 I'm a teapot /api/v3/klines", now_ms())
        held = forecaster("config", "check", "--probe", "-c", config)
        asked = len(exchange.requests)
        forecaster("holds", "lift", "binance", "-c", config)
        lifted = forecaster("config", "check", "--probe", "-c", config)
    text = " ".join(held.stdout.split())

    assert (held.returncode, asked) == (2, 0)
    assert "binance: on hold until 20" in text
    assert "418 I'm a teapot" in text
    assert "`forecaster holds lift binance`" in text
    assert lifted.returncode == 0
