"""From a file of one's own to the first forecast: a configuration that says what was said, and commands that work."""

from __future__ import annotations

import shlex
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from forecaster.clock import now_ms
from forecaster.config_file import load_config
from forecaster.tables import ParseOptions
from tests.builders import HOUR_MS, make_bars, make_key, utc_ms
from tests.cli import error_line, forecaster, run_json

LAST = utc_ms("2024-01-06")


@pytest.fixture
def own(tmp_path):
    """120 hours of a file that ends long ago."""
    path = tmp_path / "BTCUSDT_1h.csv"
    make_bars(make_key(), count=120).frame.reset_index().to_csv(path, index=False)
    return path


def test_from_a_file_to_forecast_replay_and_ledger(own, tmp_path):
    """Every suggested command works, and the last one records the forecast that was shown."""
    first = run_json("start", own.name, "--json", cwd=tmp_path)
    (series,) = first["series"]
    done = [forecaster(*shlex.split(line)[1:], "--json", cwd=tmp_path) for line in first["next"]]
    latest = run_json("latest", "-c", first["config"], "--json", cwd=tmp_path)["forecasts"][0]

    assert first["config"] == "BTCUSDT_1h.toml"
    assert [one.returncode for one in done] == [0, 0], [one.stderr for one in done]
    assert done[0].record["cutoffs"] > 50
    assert done[1].record["forecasts"] == 1
    assert latest["cutoff"] == series["cutoff"] == LAST
    np.testing.assert_allclose(latest["quantiles"]["close"]["0.5"], series["quantiles"]["close"]["0.5"], rtol=1e-6)


def test_forecast_is_shown_for_people(own, tmp_path):
    """A row for each target bar: its open time, the close with its 80 % interval, and medians of the other fields."""
    done = forecaster("start", own, "--horizon", "2")
    lines = done.stdout.splitlines()
    rows = [line.split() for line in lines[4:6]]
    close, lower, upper, open_, high, low = np.array(
        [[float(cell.replace(",", "")) for cell in row[2:]] for row in rows]
    ).T

    assert done.returncode == 0, done.stderr
    assert lines[0] == "file BTC/USDT 1h  forecast at 2024-01-06 00:00 UTC"
    assert [row[:2] for row in rows] == [["2024-01-06", "00:00"], ["2024-01-06", "01:00"]]
    assert (lower < close).all()
    assert (close < upper).all()
    assert (low < open_).all()
    assert (open_ < high).all()
    assert f"forecaster once -c {tmp_path}/BTCUSDT_1h.toml --as-of 2024-01-06" in done.stdout
    assert not list(tmp_path.glob("*.db"))


def test_file_that_goes_on_until_now_needs_no_date(tmp_path):
    """The bar that is still forming is left out and counted."""
    bars = make_bars(make_key(), count=100, start=now_ms() // HOUR_MS * HOUR_MS - 99 * HOUR_MS)
    bars.frame.reset_index().to_csv(tmp_path / "BTCUSDT_1h.csv", index=False)
    first = run_json("start", "BTCUSDT_1h.csv", "--json", cwd=tmp_path)

    assert (first["series"][0]["bars"], first["series"][0]["unclosed"]) == (99, 1)
    assert first["next"][1] == "forecaster once -c BTCUSDT_1h.toml"


def test_what_was_said_is_in_the_configuration(tmp_path):
    """The series of the file, and how to read it, are those of the configuration; it may lie in another folder."""
    path = tmp_path / "prices.csv"
    bars = make_bars(make_key(), count=100).frame
    rows = bars.set_axis(bars.index.tz_convert("Asia/Tokyo").tz_localize(None)).round(0).astype(int)
    rows.to_csv(path, sep=";", date_format="%d.%m.%Y %H:%M", columns=["low", "high", "open", "close"], header=False)
    (tmp_path / "etc").mkdir()
    columns = ("open_time", "low", "high", "open", "close")
    said = ["--timezone", "Asia/Tokyo", "--columns", ",".join(columns), "--decimal", ",", "--dayfirst"]
    first = run_json("start", path, *said, "--calendar", "24/7", "--out", tmp_path / "etc" / "mine.toml", "--json")
    (series,) = load_config(first["config"]).series

    assert series.parse_options == ParseOptions("Asia/Tokyo", columns, ",", dayfirst=True)
    assert (str(series.key), series.calendar) == (first["series"][0]["series"], "24/7")
    assert series.file.resolve() == path
    assert first["series"][0]["cutoff"] == int(make_bars(make_key(), count=100).close_time[-1])


def test_days_of_a_clock_that_is_said_stay_what_they_were(tmp_path):
    """Daily bars from midnight of UTC are the configuration's as well, whatever clock is said for their times."""
    bars = make_bars(make_key(timeframe="1d"), count=60).frame
    bars.set_axis(bars.index.tz_localize(None)).to_csv(tmp_path / "BTCUSDT_1d.csv", index_label="date")
    said = ["--timezone", "UTC", "--calendar", "24/7", "--day-anchor", "00:00"]
    first = run_json("start", tmp_path / "BTCUSDT_1d.csv", *said, "--json")
    (series,) = load_config(first["config"]).series

    assert series.key.calendar == first["series"][0]["calendar"] == "24/7"


@pytest.mark.parametrize("kept", ["weekdays of UTC", "week of foreign exchange"])
def test_week_of_five_days_stays_what_it_was(tmp_path, kept):
    """The calendar of the configuration is the one that was recognised, whatever clock is said for the times."""
    calendar = "24/5" if kept == "weekdays of UTC" else "24/5@17:00 America/New_York"
    frame = make_bars(make_key(calendar=calendar), count=600).frame
    local = frame.set_axis(frame.index.tz_convert("Europe/London").tz_localize(None))
    local.to_csv(tmp_path / "EURUSD_1h.csv", index_label="date")
    first = run_json("start", tmp_path / "EURUSD_1h.csv", "--timezone", "Europe/London", "--json")
    (series,) = load_config(first["config"]).series

    assert series.key.calendar == first["series"][0]["calendar"] == calendar


def test_every_key_is_commented(own):
    first = run_json("start", own, "--json")
    text = own.with_suffix(".toml").read_text(encoding="utf-8")

    assert first["config"] == str(own.with_suffix(".toml"))
    for line in text.splitlines():
        assert "=" not in line or " # " in line


def test_symbol_that_is_said(own):
    """Of a file whose name says none, or another; it is the configuration's."""
    first = run_json("start", own, "--symbol", "SPY/EUR", "--json")
    seen = run_json("bars", "inspect", own, "--symbol", "SPY/EUR", "--json")["series"][0]
    (series,) = load_config(first["config"]).series

    assert series.symbol == "SPY/EUR"
    assert first["series"][0]["series"] == seen["series"] == "file SPY/EUR 1h"
    assert seen["reasons"]["symbol"] == "as given"


def test_one_symbol_of_several(tmp_path):
    """One alone is taken, and one that is not there is named with those that are."""
    path = tmp_path / "all.csv"
    frames = [make_bars(make_key(), count=60).frame.assign(Name=name) for name in ("AAA", "BBB")]
    pd.concat(frames).to_csv(path)
    first = run_json("start", path, "--symbol", "BBB/USD", "--json")
    line = error_line("bars", "inspect", path, "--symbol", "CCC/USD")

    assert [one["series"] for one in first["series"]] == ["file BBB/USD 1h"]
    assert "AAA/USD" in line
    assert "CCC/USD" in line


def test_folder_of_the_configuration_that_is_not_there(own, tmp_path):
    """The error names it as given, before any work."""
    line = error_line("start", own, "--out", tmp_path / "no" / "x.toml")

    assert line.endswith(f"--out: expected a file in an existing folder, found '{tmp_path}/no/x.toml'")


def test_configuration_that_cannot_be_written(own, tmp_path):
    """The name that was given is shown, and no other."""
    line = error_line("start", own, "--out", tmp_path, "--force")

    assert line.endswith(f"--out: expected a file that can be written, found '{tmp_path}, which is a folder'")


def test_configuration_is_overwritten_only_by_force(own):
    run_json("start", own, "--json")
    config = own.with_suffix(".toml")
    config.write_text("# mine\n", encoding="utf-8")
    line = error_line("start", own)
    kept = config.read_text(encoding="utf-8")
    run_json("start", own, "--force", "--json")

    assert "--force" in line
    assert kept == "# mine\n"
    assert load_config(config).series


@pytest.mark.parametrize(
    "text",
    ["date,open,high,low,close\n2024-01-01,1,2,1,1\n2024-01-02,1,x,1,1\n", "open_time,open,high,low,close\n", "\0"],
)
def test_file_that_cannot_be_read_leaves_nothing(tmp_path, text):
    path = tmp_path / "x.csv"
    path.write_text(text, encoding="utf-8")
    line = error_line("start", path)

    assert "x.csv" in line
    assert list(tmp_path.iterdir()) == [path]


def test_series_with_too_few_bars_is_left_out_by_name(tmp_path):
    """Of several symbols in one file, those that can be forecast are."""
    path = tmp_path / "all.csv"
    lines = ["Name,open_time,open,high,low,close,volume"]
    for name, count in (("AAA", 60), ("BBB", 3), ("CCC", 40)):
        for opened, row in make_bars(make_key(), count=count).frame.iterrows():
            lines.append(",".join(map(str, (name, opened.isoformat(), *row))))
    path.write_text("\n".join([*lines, ""]), encoding="utf-8")
    first = run_json("start", path, "--json")

    assert [one["series"] for one in first["series"]] == ["file AAA/USD 1h", "file CCC/USD 1h"]
    assert list(first["skipped"]) == ["file BBB/USD 1h"]
    assert "NotEnoughBars" in first["skipped"]["file BBB/USD 1h"]
    assert len(load_config(first["config"]).series) == 2


@pytest.mark.parametrize("name", ['it\'s "odd" [bold] 100%?#.csv', "über\\1h.csv", "a\x1b[31m\x7f\n.csv"])
def test_odd_names_of_files(own, tmp_path, name):
    """Whatever a file is called, TOML, URL, shell and terminal take it."""
    odd = tmp_path / "folder" / name
    odd.parent.mkdir()
    odd.write_bytes(own.read_bytes())
    first = run_json("start", odd, "--json")
    (series,) = load_config(first["config"]).series
    shown = forecaster("start", odd, "--force")

    assert series.file.read_bytes() == own.read_bytes()
    assert shlex.split(first["next"][0])[3] == first["config"]
    assert shown.returncode == 0, shown.stderr
    assert "\x1b" not in shown.stdout + shown.stderr


def test_rejected_rows_are_printed_by_every_command(own, tmp_path):
    """A broken row is named by `start`, `replay` and `once`, for people and for scripts."""
    lines = own.read_text(encoding="utf-8").splitlines()
    cells = lines[60].split(",")
    own.write_text("\n".join([*lines[:60], ",".join([*cells[:2], "1", *cells[3:]]), *lines[61:], ""]), encoding="utf-8")
    first = forecaster("start", own, "--json")
    done = [first, *(forecaster(*shlex.split(line)[1:], "--json") for line in first.record["next"])]
    reason = "high must not be below open or close"

    assert first.record["series"][0]["rejected"] == {reason: 1}
    assert [one.record["rejected"] for one in done[1:]] == [{"file BTC/USDT 1h": {reason: 1}}] * 2
    for one in done:
        assert f"rejected: 1 × {reason}" in one.stderr
    assert all(earlier.returncode == later.returncode == 0 for earlier, later in pairwise(done))


def test_since_is_another_name_of_start(own):
    first = run_json("start", own, "--json")
    runs = [
        run_json("replay", "-c", first["config"], name, "2024-01-05", "--json")["run"]
        for name in ("--since", "--start")
    ]

    assert runs[0] == runs[1]


def test_times_that_are_still_to_come_are_not_utc(tmp_path):
    """The latest hours of a file written in Seoul would be in the future: nothing is forecast at wrong times."""
    now = pd.Timestamp.now(tz="Asia/Seoul").floor("h").tz_localize(None)
    times = pd.date_range(end=now, periods=120, freq="h").rename("time")
    make_bars(make_key(), 120).frame.set_axis(times).to_csv(tmp_path / "coin.csv")

    assert "in the future if they are UTC" in error_line("start", tmp_path / "coin.csv")
    assert run_json("start", tmp_path / "coin.csv", "--timezone", "Asia/Seoul", "--json")["series"]
