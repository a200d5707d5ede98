"""The commands about bars: what a file holds, years of history, and the way out again."""

from __future__ import annotations

from contextlib import closing

import numpy as np
import pytest

from forecaster.clock import now_ms
from forecaster.sources.files import FileSource
from forecaster.store import open_store
from tests.builders import HOUR_MS, make_bars, make_key
from tests.cli import forecaster, refused, told
from tests.faults.exchange import LoopbackExchange, closed_port, unhurried


@pytest.fixture
def holed(tmp_path):
    """120 hours of which five are missing, three of them in a row; one row is no bar and one comes twice."""
    bars = make_bars(make_key(), count=120).frame.reset_index()
    rows = bars.drop(index=[10, 50, 51, 52, 90])
    rows.loc[60, "high"] = 1.0
    path = tmp_path / "BTCUSDT_1h.csv"
    rows.loc[[*rows.index, 119]].to_csv(path, index=False)
    return path


def test_inspect_counts(holed):
    (found,) = told("bars", "inspect", holed, "--json")["series"]

    assert (found["series"], found["calendar"]) == ("file BTC/USDT 1h", "24/7")
    assert (found["bars"], found["gaps"], found["longest_gap"], found["replaced"]) == (114, 6, 3, 1)
    assert found["rejected"] == {"high must not be below open or close": 1}
    assert found["last_close"] - found["first_open"] == 120 * HOUR_MS


def test_inspect_is_a_table_for_people(holed):
    done = forecaster("bars", "inspect", holed)

    assert done.returncode == 0
    assert "2024-01-01" in done.stdout
    assert "1 rejected: high must not be below open or close" in done.stdout.replace("\n", " ")


def test_inspect_names_what_it_cannot_read(holed, tmp_path):
    """The line is told, the others are shown, and the code is 2."""
    broken = tmp_path / "broken.csv"
    broken.write_text("date,open,high,low,close\n2024-01-01,1,2,1,1\n2024-01-02,1,x,1,1\n")
    done = forecaster("bars", "inspect", broken, holed, "--timeframe", "1h")

    assert done.returncode == 2
    assert "expected a number for high in line 3, found 'x'" in done.stderr
    assert "114" in done.stdout


def live_config(tmp_path, url, deadline=300):
    """An hourly series of a loopback exchange."""
    path = tmp_path / "live.toml"
    path.write_text(
        f'[exchanges.binance]\nid = "binance"\napi_urls.public = "{url}/api/v3"\n'
        f"deadline = {deadline}\nlate_after = 0\n"
        'options.fetchMarkets.types = ["spot"]\n'
        '[[series]]\nexchange = "binance"\nsymbol = "BTC/USDT"\ntimeframe = "1h"\n'
        f'[model]\ncontext = 64\n[store]\nurl = "sqlite:///{tmp_path}/ledger.db"\n'
    )
    return path


@pytest.fixture
def exchange(monkeypatch):
    unhurried(monkeypatch)
    with LoopbackExchange(now=now_ms()) as exchange:
        yield exchange


def test_history_is_pulled_kept_and_exported(exchange, tmp_path):
    """3,000 hours from the day that is named; the second time only the newest bars are asked for again."""
    config = live_config(tmp_path, exchange.url)
    since = np.datetime64(exchange.now - 3000 * HOUR_MS, "ms").astype("datetime64[s]")
    first = told("pull", "--since", since, "-c", config, "--json")
    asked = len(exchange.asked("bars"))
    again = told("pull", "--since", since, "-c", config, "--json")
    out = tmp_path / "out.parquet"
    written = told("bars", "export", out, "-c", config, "--json")
    bars = FileSource(out).fetch(make_key(), None, exchange.now).bars
    truth = exchange.rows("BTC/USDT", "1h", int(bars.open_time[0]), exchange.now)[:-1]

    assert first["bars_added"] == written["bars"] == len(bars) == 2999
    assert first["skipped"] == {}
    assert asked == 3
    assert (again["bars_added"], len(exchange.asked("bars"))) == (0, 4)
    assert bars.open_time.tolist() == [row[0] for row in truth]
    assert bars.ohlcv_TF.tolist() == [list(row[1:]) for row in truth]


def test_what_is_stored_is_shown(exchange, tmp_path):
    """Bars, a gap, a revision, rows that were refused and why, and until when nobody asks."""
    config = live_config(tmp_path, exchange.url)
    hour = exchange.now // HOUR_MS * HOUR_MS
    exchange.missing.add(hour - 20 * HOUR_MS)
    exchange.fail_next("negative")
    forecaster("pull", "-c", config, "--json")
    exchange.revised[hour - HOUR_MS] = 60_500.0
    forecaster("pull", "-c", config, "--json")
    exchange.fail_next("status", status=418, headers={"Retry-After": "3600"})
    forecaster("pull", "-c", config, "--json")
    shown = told("bars", "show", "-c", config, "--json")
    table = forecaster("bars", "show", "-c", config).stdout
    (facts,) = shown["series"]

    assert (facts["place"], facts["bars"], facts["gaps"], facts["longest_gap"]) == ("binance", 63, 1, 1)
    assert facts["replaced"] == 1
    assert facts["last_close"] == hour
    assert facts["rejected"] == {"prices must be above 0": 32}
    assert 3_500_000 < shown["held_until"]["binance"] - exchange.now <= 3_600_000 + 60_000
    assert "binance BTC/USDT: 32 rejected: prices must be above 0" in table
    assert "binance: not asked for 3" in table


def test_wait_that_is_over_is_not_shown(tmp_path):
    config = live_config(tmp_path, "http://127.0.0.1:1")
    with closing(open_store(f"sqlite:///{tmp_path}/ledger.db")) as store:
        store.hold("binance", now_ms() - 1, "429 Too Many Requests", now_ms() - 60_000)
    shown = told("bars", "show", "-c", config, "--json")

    assert shown["held_until"] == {}


def test_exchange_that_is_gone_is_told(tmp_path, monkeypatch):
    unhurried(monkeypatch)
    config = live_config(tmp_path, f"http://127.0.0.1:{closed_port()}", deadline=0.2)
    line = refused("pull", "--since", "2024-01-01", "-c", config)

    assert line.startswith("SourceUnavailable: binance: ")


@pytest.mark.parametrize("name", ["out.parquet", "out.csv", "out.feather"])
def test_exported_bars_read_back_as_they_were(tmp_path, holed, name):
    config = tmp_path / "file.toml"
    config.write_text(
        f'[[series]]\nexchange = "x"\nsymbol = "BTC/USDT"\ntimeframe = "1h"\nfile = "{holed}"\n'
        f'[model]\ncontext = 512\n[store]\nurl = "sqlite:///{tmp_path}/ledger.db"\n'
    )
    key = make_key("x")
    before = FileSource(holed).fetch(key, None, now_ms()).bars
    forecaster("pull", "--since", "2024-01-01", "-c", config)
    record = told("bars", "export", tmp_path / name, "-c", config, "--json")
    after = FileSource(tmp_path / name).fetch(key, None, now_ms()).bars

    assert record["bars"] == len(before)
    assert after.open_time.tolist() == before.open_time.tolist()
    assert after.ohlcv_TF.tolist() == before.ohlcv_TF.tolist()


def test_export_needs_one_series_and_a_known_suffix(tmp_path):
    none, other = tmp_path / "out.csv", tmp_path / "out.xls"
    open_store(f"sqlite:///{tmp_path}/demo-ledger.db").close()

    assert "--series: expected one of" in refused("bars", "export", none, cwd=tmp_path)
    assert "ends in .parquet, .feather or .csv" in refused(
        "bars", "export", other, "--series", "arch SPX/USD 1d", cwd=tmp_path
    )
