"""A configuration that is probed: what its exchanges answer about each series, by name."""

from __future__ import annotations

import re

import pandas as pd
import pytest

from forecaster.bars import Bars
from forecaster.cli.probe import _is_stale, _probe_series, _wrong
from forecaster.clock import now_ms
from forecaster.config import Config, ExchangeConfig, SeriesConfig
from forecaster.config_file import load_config
from forecaster.errors import SourceUnavailable
from forecaster.sources import Fetched
from tests.builders import DAY_MS, HOUR_MS, make_bars, make_key, utc_ms
from tests.cli import forecaster, run_json
from tests.faults.exchange import LoopbackExchange, closed_port, unhurried

MINUTE_MS = 60_000


@pytest.fixture
def exchange(monkeypatch):
    unhurried(monkeypatch)
    with LoopbackExchange(now=now_ms()) as exchange:
        yield exchange


def probed(path, *arguments):
    """Probe a configuration; gives the exit code, what was printed, and each series' record by its name."""
    done = forecaster("config", "check", "--probe", "--config", path, *arguments)
    record = done.record if "--json" in arguments else {}
    return done.returncode, done.stdout, {one["series"]: one for one in record.get("probed", [])}


def config_of(folder, urls, series, file=None):
    """A configuration of exchanges by the address they are at, and series as (exchange, symbol, timeframe)."""
    text = "".join(
        f'[exchanges.{name}]\nid = "binance"\napi_urls.public = "{url}/api/v3"\n'
        f"deadline = {0.2 if name == 'gone' else 300}\nlate_after = 0\nfinal_after = 0\n"
        'options.fetchMarkets.types = ["spot"]\n'
        for name, url in urls.items()
    )
    for exchange, symbol, timeframe in series:
        text += f'[[series]]\nexchange = "{exchange}"\nsymbol = "{symbol}"\ntimeframe = "{timeframe}"\n'
        text += f'file = "{file}"\n' if exchange == "file" else ""
    path = folder / "probe.toml"
    path.write_text(f'{text}[store]\nurl = "sqlite:///{folder}/ledger.db"\n')
    return path


def config_of_one(timeframe, calendar, late_after=20.0):
    """A configuration of one series of one exchange, and that series."""
    one = SeriesConfig(exchange="venue", symbol="BTC/USDT", timeframe=timeframe, calendar=calendar)
    return Config(exchanges={"venue": ExchangeConfig(id="binance", late_after=late_after)}, series=(one,)), one


def test_series_that_can_be_had(exchange, tmp_path):
    """Each with its newest final close and its age; the markets were asked for once, and no ledger was made."""
    path = config_of(tmp_path, {"venue": exchange.url}, [("venue", "BTC/USDT", "1h"), ("venue", "ETH/USDT", "1m")])
    code, _, found = probed(path, "--json")
    hour = found["venue BTC/USDT 1h"]

    assert code == 0
    assert list(found) == ["venue BTC/USDT 1h", "venue ETH/USDT 1m"]
    assert hour["ok"]
    assert hour["error"] is None
    assert hour["newest_close"] == exchange.now // HOUR_MS * HOUR_MS
    assert hour["age_seconds"] == pytest.approx((exchange.now - hour["newest_close"]) / 1000, abs=60)
    assert hour["bars"] > 64
    assert len(exchange.asked("markets")) == 1
    assert {query["symbol"] for query in exchange.asked("bars")} == {"BTCUSDT", "ETHUSDT"}
    assert not (tmp_path / "ledger.db").exists()


def test_series_that_cannot_be_had_are_named(exchange, tmp_path):
    """A symbol that is not listed, an exchange that is gone, one that ccxt has no such timeframe of; others are ok."""
    urls = {"venue": exchange.url, "gone": f"http://127.0.0.1:{closed_port()}"}
    series = [("gone", "BTC/USDT", "1h"), ("venue", "NOT/THERE", "1h"), ("venue", "BTC/USDT", "1h")]
    code, _, found = probed(config_of(tmp_path, urls, series), "--json")

    assert code == 2
    assert found["gone BTC/USDT 1h"]["error"].startswith("SourceUnavailable: gone: ")
    assert found["venue NOT/THERE 1h"]["error"].startswith("UnknownSymbol: venue: expected one of its ")
    assert [one["ok"] for one in found.values()] == [False, False, True]


def test_exchange_that_ccxt_does_not_know(exchange, tmp_path):
    """It fails all its series, and no other."""
    path = config_of(
        tmp_path, {"venue": exchange.url, "odd": exchange.url}, [("odd", "A/B", "1h"), ("odd", "C/D", "1h")]
    )
    path.write_text(path.read_text().replace('[exchanges.odd]\nid = "binance"', '[exchanges.odd]\nid = "binnance"'))
    code, _, found = probed(path, "--json")

    assert code == 2
    assert [one["error"].partition(": expected an exchange that ccxt knows")[0] for one in found.values()] == [
        "ConfigError: exchanges.odd.id"
    ] * 2


def test_answer_that_is_none_is_named(exchange, tmp_path):
    """A ban, and bars of which there are none; the rows that were refused are counted."""
    path = config_of(tmp_path, {"venue": exchange.url}, [("venue", "BTC/USDT", "1h")])
    exchange.fail_next("empty")
    _, _, empty = probed(path, "--json")
    exchange.fail_next("negative")
    _, _, negative = probed(path, "--json")
    exchange.fail_next("status", status=418, headers={"Retry-After": "3600"})
    code, shown, _ = probed(path)

    assert empty["venue BTC/USDT 1h"]["error"].startswith(
        "MissingBars: venue BTC/USDT 1h: expected a bar that closes at "
    )
    assert negative["venue BTC/USDT 1h"]["ok"]
    assert negative["venue BTC/USDT 1h"]["rejected"] > 100
    assert code == 2
    assert "WRONG  venue BTC/USDT 1h: Banned: venue: " in shown


def test_market_that_is_no_longer_traded_is_wrong(exchange, tmp_path):
    """The exchange lists it as halted, and still gives its last bars; or that it is halted is all it says."""
    halted_at = exchange.now // HOUR_MS * HOUR_MS - 40 * DAY_MS
    exchange.halt("BTC/USDT", halted_at)
    path = config_of(tmp_path, {"venue": exchange.url}, [("venue", "BTC/USDT", "1d"), ("venue", "ETH/USDT", "1d")])
    code, _, found = probed(path, "--json")
    exchange.fail_next("empty", times=100)
    _, _, empty = probed(path, "--json")
    halted = found["venue BTC/USDT 1d"]

    assert code == 2
    assert re.fullmatch(
        r"the market is no longer traded: its newest bar closed \d{4}-\d\d-\d\d 00:00 UTC, (39|40)d \d+h ago",
        halted["error"],
    )
    assert halted["newest_close"] // DAY_MS in {halted_at // DAY_MS, halted_at // DAY_MS + 1}
    assert found["venue ETH/USDT 1d"]["ok"]
    assert empty["venue BTC/USDT 1d"]["error"].startswith("the market is no longer traded: MissingBars: ")


@pytest.mark.parametrize(("hours", "ok"), [(2, True), (4, False), (500, False)])
def test_newest_bar_that_is_old_is_stale(exchange, tmp_path, hours, ok):
    """Beyond three bars; with its close as a date and its age."""
    exchange.missing = {exchange.now // HOUR_MS * HOUR_MS - i * HOUR_MS for i in range(1, hours + 1)}
    path = config_of(tmp_path, {"venue": exchange.url}, [("venue", "BTC/USDT", "1h")])
    code, _, found = probed(path, "--json")
    one = found["venue BTC/USDT 1h"]

    assert one["ok"] == ok
    assert code == (0 if ok else 2)
    if not ok:
        assert re.fullmatch(r"stale: its newest bar closed [\d-]{10} \d\d:00 UTC, \d+[dh] \d+[hm] ago", one["error"])


@pytest.mark.parametrize(("behind", "is_stale"), [(0, False), (3, False), (4, True)])
def test_three_bars_behind_are_not_stale(behind, is_stale):
    config, one = config_of_one("1h", "24/7")
    bars = make_bars(one.key, count=20)

    assert _is_stale(config, one, bars, int(bars.close_time[-1]) + behind * HOUR_MS) == is_stale


def test_market_with_few_trades_is_not_stale(exchange, tmp_path):
    """Bars have been missing before, and as many in a row."""
    newest = exchange.now // HOUR_MS * HOUR_MS
    exchange.missing = {newest - i * HOUR_MS for i in [*range(1, 8), *range(60, 70)]}
    path = config_of(tmp_path, {"venue": exchange.url}, [("venue", "BTC/USDT", "1h")])

    assert probed(path, "--json")[0] == 0


def test_bars_that_are_late_within_the_limit_are_not_stale():
    patient, one = config_of_one("1m", "24/7", late_after=600.0)
    strict, _ = config_of_one("1m", "24/7")
    bars = make_bars(one.key, count=100)
    as_of = int(bars.close_time[-1]) + 10 * MINUTE_MS

    assert not _is_stale(patient, one, bars, as_of)
    assert _is_stale(patient, one, bars, as_of + MINUTE_MS)
    assert _is_stale(strict, one, bars, as_of)


def test_closed_market_is_not_stale():
    """A Monday morning before the open, with the bars of Friday."""
    config, one = config_of_one("1h", "XNYS")
    bars = make_bars(one.key, count=28, start=utc_ms("2024-01-02"))
    friday, monday = utc_ms("2024-01-05 21:00"), utc_ms("2024-01-08 14:30")

    assert bars.close_time[-1] == friday
    assert not _is_stale(config, one, bars, monday)
    assert _is_stale(config, one, bars, monday + DAY_MS)


def test_rows_that_are_all_refused_are_told_by_the_commonest_reason(exchange, tmp_path):
    """Days of a venue that begin at 16:00 UTC, and not at midnight."""
    exchange.days_begin = 16 * HOUR_MS
    path = config_of(tmp_path, {"venue": exchange.url}, [("venue", "BTC/USDT", "1d")])
    code, _, found = probed(path, "--json")
    error = found["venue BTC/USDT 1d"]["error"]

    assert code == 2
    assert error.startswith("InvalidBars: venue BTC/USDT 1d: ")
    assert "rows are not bars: open time must be on the 1d grid of 24/7 (" in error
    assert "all rows open at 16:00 UTC: `day_anchor`" in error


def test_times_in_other_units_are_told_by_one_reason(exchange, tmp_path):
    exchange.per_ms = 1000
    path = config_of(tmp_path, {"venue": exchange.url}, [("venue", "BTC/USDT", "1h")])
    code, _, found = probed(path, "--json")
    one = found["venue BTC/USDT 1h"]

    assert code == 2
    assert list(one["reasons"].values()) == [one["rejected"]]
    assert "InvalidBars: venue BTC/USDT 1h: " in one["error"]


def test_market_without_volume_can_be_had(exchange, tmp_path):
    exchange.knows_volume = False
    path = config_of(tmp_path, {"venue": exchange.url}, [("venue", "BTC/USDT", "1h")])

    assert probed(path, "--json")[0] == 0


def test_market_of_another_name_is_told_with_near_ones(exchange, tmp_path):
    exchange.rename("BTC/USDT", "BTCX/USDT")
    path = config_of(tmp_path, {"venue": exchange.url}, [("venue", "BTC/USDT", "1h")])
    _, _, found = probed(path, "--json")

    assert "similar: BTCX/USDT" in found["venue BTC/USDT 1h"]["error"]


def test_lines_for_people(exchange, tmp_path):
    """A line for each series, in the order of the configuration."""
    bars = make_bars(make_key(), count=120)
    bars.frame.to_csv(tmp_path / "bars.csv")
    series = [("file", "BTC/USDT", "1h"), ("venue", "NOT/THERE", "1h")]
    path = config_of(tmp_path, {"venue": exchange.url}, series, tmp_path / "bars.csv")
    code, shown, _ = probed(path)
    of_file, note, of_venue = shown.splitlines()[-3:]

    assert code == 2
    assert of_file.startswith("ok     file BTC/USDT 1h: 120 bars, the newest closed 2024-01-06 00:00 UTC, ")
    assert note.startswith("note   file BTC/USDT 1h: the file ends on 2024-01-06 00:00 UTC")
    assert of_venue.startswith("WRONG  venue NOT/THERE 1h: UnknownSymbol: venue: ")


def test_rows_of_a_file_are_sifted_once_for_each_symbol(tmp_path, monkeypatch):
    """However many the file holds: what was found of one answers every question about it."""
    from_rows, asked = Bars.from_rows, []
    names = [f"S{number:02}" for number in range(40)]
    frame = make_bars(make_key(), count=80).frame
    pd.concat([frame.assign(Name=name) for name in names]).to_csv(tmp_path / "bars.csv")
    series = [("file", f"{name}/USD", "1h") for name in names]
    path = config_of(tmp_path, {}, series, tmp_path / "bars.csv")
    monkeypatch.setattr(Bars, "from_rows", lambda key, *rest: asked.append(key.symbol) or from_rows(key, *rest))
    code, *_ = probed(path)

    assert code == 0
    assert asked == [f"{name}/USD" for name in names]


def test_error_text_of_an_exchange_cannot_forge_a_line(tmp_path):
    """A body in an error has its control characters escaped, and no secrets."""
    path = config_of(tmp_path, {"venue": "http://127.0.0.1:1"}, [("venue", "BTC/USDT", "1h")])
    fault = SourceUnavailable("venue", "503 \x1b[2J\nok     venue token=geheim")
    found = _wrong(load_config(path).series[0], fault)

    assert found.error == "SourceUnavailable: venue: 503 \\x1b[2J\\nok     venue token=[hidden]"


def test_without_probe_nobody_is_asked(exchange, tmp_path):
    path = config_of(tmp_path, {"venue": exchange.url}, [("venue", "BTC/USDT", "1h")])
    record = run_json("config", "check", "--config", path, "--json")

    assert {name: record[name] for name in ("config", "ok", "series")} == {
        "config": str(path),
        "ok": True,
        "series": ["venue BTC/USDT 1h"],
    }
    assert "probed" not in record
    assert exchange.requests == []


def test_answer_that_is_but_a_part_is_wrong(tmp_path):
    """Bars that came before a fault do not make a series well."""
    path = config_of(tmp_path, {"venue": "http://127.0.0.1:1"}, [("venue", "BTC/USDT", "1h")])
    bars = make_bars(make_key("venue"), count=10)

    class Halfway:
        def fetch(self, key, since, as_of):
            return Fetched(bars, fault=SourceUnavailable("venue", "503 behind the first page"))

    config = load_config(path)
    found = _probe_series(config, Halfway(), config.series[0], now_ms())

    assert not found.ok
    assert found.error == "SourceUnavailable: venue: 503 behind the first page"
