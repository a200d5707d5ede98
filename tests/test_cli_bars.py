"""The commands about bars: what a file holds, years of history, and the way out again."""

from __future__ import annotations

from contextlib import closing

import numpy as np
import pytest

from forecaster.cli.options import parse_columns
from forecaster.clock import now_ms
from forecaster.errors import ConfigError
from forecaster.sources.files import FileSource
from forecaster.store import open_store
from tests.builders import HOUR_MS, make_bars, make_key, utc_ms
from tests.cli import error_line, forecaster, run_json
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
    (found,) = run_json("bars", "inspect", holed, "--json")["series"]

    assert (found["series"], found["calendar"]) == ("file BTC/USDT 1h", "24/7")
    assert (found["bars"], found["gaps"], found["longest_gap"], found["revised"]) == (114, 6, 3, 1)
    assert found["rejected"] == {"high must not be below open or close": 1}
    assert found["last_close"] - found["first_open"] == 120 * HOUR_MS


def test_inspect_says_how_a_file_is_read(holed):
    """One block: what each cell was taken for, and the counts."""
    (found,) = run_json("bars", "inspect", holed, "--json")["series"]
    lines = block_of(forecaster("bars", "inspect", holed).stdout)

    assert {"format", "columns", "times", "timezone", "decimal"} <= found["parsed_as"].keys()
    assert {"symbol", "spacing", "calendar"} <= found["reasons"].keys()
    for name, text in found["parsed_as"].items():
        assert " ".join(text.split()) in lines[name]
    assert lines["timeframe"] == f"1h ({found['reasons']['spacing']})"
    assert (lines["from"], lines["to"]) == ("2024-01-01 00:00 UTC", "2024-01-06 00:00 UTC")
    assert lines["gaps"] == "6 slots without a bar, at most 3 in a row"
    assert lines["rejected"] == "1 1 × high must not be below open or close"


def test_inspect_says_when_a_file_ended(holed):
    """A forecast of today is not to be had from a file of last year, and the note has the option that gives one."""
    lines = block_of(forecaster("bars", "inspect", holed).stdout)

    assert "the file ends on 2024-01-06 00:00 UTC" in lines["note"]
    assert "`--as-of 2024-01-06`" in lines["note"]


def test_inspect_of_a_fresh_file_has_no_note(tmp_path):
    """The bar that is still forming is counted, and a file that goes on until now needs no date."""
    now = now_ms()
    bars = make_bars(make_key(), count=100, start=now // HOUR_MS * HOUR_MS - 99 * HOUR_MS)
    bars.frame.reset_index().to_csv(tmp_path / "BTCUSDT_1h.csv", index=False)
    (found,) = run_json("bars", "inspect", tmp_path / "BTCUSDT_1h.csv", "--json")["series"]

    assert (found["bars"], found["unclosed"], found["is_up_to_date"]) == (99, 1, True)


def test_inspect_of_many_series_is_a_table(tmp_path):
    files = []
    for number in range(6):
        files.append(tmp_path / f"C{number}USDT_1h.csv")
        make_bars(make_key(), count=50).frame.reset_index().to_csv(files[-1], index=False)
    done = forecaster("bars", "inspect", *files)

    assert done.returncode == 0
    assert [line.split()[1] for line in done.stdout.splitlines() if ".csv" in line and "24/7" in line] == [
        f"C{number}/USDT" for number in range(6)
    ]


def test_names_of_files_do_not_reach_the_terminal_as_they_are(holed, tmp_path):
    """Neither brackets, which rich reads as markup, nor the escape that begins a terminal's own commands."""
    odd = tmp_path / "A[bold] \x1b[31mB[.csv"
    odd.write_bytes(holed.read_bytes())
    done = forecaster("bars", "inspect", odd)

    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    assert done.stdout.startswith("A[bold] \N{REPLACEMENT CHARACTER}[31mB[.csv\n")


def test_brackets_in_a_symbol_are_no_markup(holed, tmp_path):
    """`[/USD]` looks like markup of rich: neither progress bars nor tables parse it."""
    config = tmp_path / "odd.toml"
    config.write_text(
        f'[[series]]\nexchange = "x"\nsymbol = "A[/USD]"\ntimeframe = "1h"\nfile = "{holed}"\n'
        f'[store]\nurl = "sqlite:///{tmp_path}/ledger.db"\n'
    )
    pulled = run_json("pull", "--since", "2024-01-01", "-c", config, "--json")
    shown = forecaster("bars", "show", "-c", config)

    assert pulled["bars_added"] == 114
    assert block_of(shown.stdout)["series"] == "x A[/USD]"


def test_inspect_names_the_option_that_settles_a_file(tmp_path):
    """Times of a MetaTrader server need a zone: the error says so, and with a zone the file is read."""
    path = tmp_path / "EURUSD60.csv"
    path.write_text("".join(f"2024.01.{2 + i // 24:02},{i % 24:02}:00,1.1,1.2,1.0,1.1,{i}\n" for i in range(48)))
    done = forecaster("bars", "inspect", path, "--json")
    shown = forecaster("bars", "inspect", path)
    (error,) = done.record["errors"]
    said = ("--timezone", "Europe/Helsinki", "--calendar", "24/7")
    (found,) = run_json("bars", "inspect", path, *said, "--json")["series"]

    assert done.returncode == 2
    assert (error["file"], error["option"]) == (str(path), "timezone")
    assert done.stderr == ""
    assert shown.returncode == 2
    assert "--timezone" in shown.stderr
    assert found["bars"] == 48
    assert found["first_open"] == utc_ms("2024-01-01 22:00")


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("open_time,low,high,open,close,volume", ("open_time", "low", "high", "open", "close", "volume")),
        ("open_time,,open, high,low,close", ("open_time", "", "open", "high", "low", "close")),
        ("close=Last, open=First", {"close": "Last", "open": "First"}),
        ("open_time=Gmt time", {"open_time": "Gmt time"}),
    ],
)
def test_columns_are_said_by_place_or_by_name(said, found):
    assert parse_columns(said) == found


@pytest.mark.parametrize("said", ["", ",", "date,open", "open,open", "open,close=Last", "last=Close"])
def test_columns_that_are_none_are_refused(said):
    with pytest.raises(ConfigError, match="--columns: expected each once of open_time, open, high"):
        parse_columns(said)


@pytest.mark.parametrize("command", [("bars", "inspect"), ("model", "eval"), ("model", "finetune"), ("start",)])
def test_every_command_of_files_has_the_same_options(command):
    shown = forecaster(*command, "--help", env={"COLUMNS": "200"}).stdout

    for name in ("timeframe", "calendar", "timezone", "day-anchor", "columns", "decimal", "dayfirst", "symbol-column"):
        assert f"--{name} " in shown


def block_of(printed):
    """What a block says, by name; what has no name goes on with the one above it."""
    lines, name = {}, ""
    for line in printed.splitlines()[1:]:
        name = line[2:15].strip() or name
        lines[name] = f"{lines.get(name, '')} {line[15:].strip()}".strip()
    return lines


def test_inspect_names_what_it_cannot_read(holed, tmp_path):
    """The error names the line, the other files are shown, and the code is 2."""
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
    first = run_json("pull", "--since", since, "-c", config, "--json")
    asked = len(exchange.asked("bars"))
    again = run_json("pull", "--since", since, "-c", config, "--json")
    out = tmp_path / "out.parquet"
    written = run_json("bars", "export", out, "-c", config, "--json")
    bars = FileSource(out).fetch(make_key(), None, exchange.now).bars
    truth = exchange.rows("BTC/USDT", "1h", int(bars.open_time[0]), exchange.now)[:-1]

    assert first["bars_added"] == written["bars"] == len(bars) == 2999
    assert first["skipped"] == {}
    assert asked == 3
    assert (again["bars_added"], len(exchange.asked("bars"))) == (0, 4)
    assert bars.open_time.tolist() == [row[0] for row in truth]
    assert bars.ohlcv_TF.tolist() == [list(row[1:]) for row in truth]


def test_what_is_stored_is_shown(exchange, tmp_path):
    """Bars, a gap, a revision, rejected rows with reasons, and the hold of the exchange."""
    config = live_config(tmp_path, exchange.url)
    hour = exchange.now // HOUR_MS * HOUR_MS
    exchange.missing.add(hour - 20 * HOUR_MS)
    exchange.fail_next("negative")
    forecaster("pull", "-c", config, "--json")
    exchange.revised[hour - HOUR_MS] = 60_500.0
    forecaster("pull", "-c", config, "--json")
    exchange.fail_next("status", status=418, headers={"Retry-After": "3600"})
    forecaster("pull", "-c", config, "--json")
    shown = run_json("bars", "show", "-c", config, "--json")
    table = forecaster("bars", "show", "-c", config).stdout
    (facts,) = shown["series"]

    assert (facts["source"], facts["bars"], facts["gaps"], facts["longest_gap"]) == ("binance", 63, 1, 1)
    assert facts["revised"] == 1
    assert facts["last_close"] == hour
    assert facts["rejected"] == {"prices must be above 0": 32}
    assert 3_500_000 < shown["held_until"]["binance"] - exchange.now <= 3_600_000 + 60_000
    assert block_of(table)["rejected"] == "32 32 × prices must be above 0"
    assert "binance: on hold for 59m 5" in table


def test_wait_that_is_over_is_not_shown(tmp_path):
    config = live_config(tmp_path, "http://127.0.0.1:1")
    with closing(open_store(f"sqlite:///{tmp_path}/ledger.db")) as store:
        store.hold("binance", now_ms() - 1, "429 Too Many Requests", now_ms() - 60_000)
    shown = run_json("bars", "show", "-c", config, "--json")

    assert shown["held_until"] == {}


def test_exchange_that_is_gone_is_told(tmp_path, monkeypatch):
    unhurried(monkeypatch)
    config = live_config(tmp_path, f"http://127.0.0.1:{closed_port()}", deadline=0.2)
    line = error_line("pull", "--since", "2024-01-01", "-c", config)

    assert line.startswith("binance BTC/USDT 1h: SourceUnavailable: binance: ")


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
    record = run_json("bars", "export", tmp_path / name, "-c", config, "--json")
    after = FileSource(tmp_path / name).fetch(key, None, now_ms()).bars

    assert record["bars"] == len(before)
    assert after.open_time.tolist() == before.open_time.tolist()
    assert after.ohlcv_TF.tolist() == before.ohlcv_TF.tolist()


def test_export_needs_one_series_and_a_known_suffix(tmp_path):
    none, other = tmp_path / "out.csv", tmp_path / "out.xls"
    open_store(f"sqlite:///{tmp_path}/demo-ledger.db").close()

    assert "--series: expected one of" in error_line("bars", "export", none, cwd=tmp_path)
    assert "ends in .parquet, .feather or .csv" in error_line(
        "bars", "export", other, "--series", "arch SPX/USD 1d", cwd=tmp_path
    )
