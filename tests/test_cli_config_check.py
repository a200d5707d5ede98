"""`config check`: all faults of a configuration that can be found without a network, one per line."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from forecaster.clock import now_ms
from forecaster.config import ModelConfig
from forecaster.model.chronos2.checkpoint_files import NANO_FOLDER, WEIGHTS_FILE
from tests.builders import DAY_MS, HOUR_MS, make_bars, make_key, utc_ms
from tests.cli import forecaster

COMMIT = "29ec3766d36d6f73f0696f85560a422f50e8498c"


@pytest.fixture
def check(tmp_path):
    """Return a function that checks a configuration and returns findings by subject, with the exit code as `code`.

    `top` stands before its series, `more` below. The series is one of Binance, unless `series` says another.
    """

    def check(more="", top='[exchanges.venue]\nid = "binance"\n', series=None):
        url = "" if "[store]" in more else '[store]\nurl = "sqlite:///ledger.db"\n'
        (tmp_path / "c.toml").write_text(f"{top}\n{series or exchange_series()}\n{url}{more}")
        done = forecaster("config", "check", "--json", "--config", tmp_path / "c.toml")
        findings = done.record["findings"]
        assert done.record["ok"] == all(one["ok"] for one in findings) == (done.returncode == 0)
        notes = [f"{one['subject']}: {text}" for one in findings for text in one["notes"]]
        found = {one["subject"]: (one["ok"], one["finding"]) for one in findings}
        return found | {"code": done.returncode, "notes": notes}

    return check


@pytest.fixture
def check_file(check, tmp_path):
    """Return a function that checks the configuration of a file with these bars.

    Gives whether it is well, what was found of it, and the notes; `more` are further keys of its series.
    """

    def check_file(bars, timeframe="1h", name="bars.csv", more=""):
        frame = getattr(bars, "frame", bars)
        frame.to_csv(tmp_path / name)
        series = file_series(timeframe=timeframe, file=name) + more
        found = check(series=series, top="")
        prefix = f"file A/B {timeframe}"
        return (*found[prefix], [note.removeprefix(f"{prefix}: ") for note in found["notes"]])

    return check_file


@pytest.fixture
def folder(tmp_path):
    """A copy of the bundled checkpoint, to be changed."""
    shutil.copytree(NANO_FOLDER, tmp_path / "model")
    (tmp_path / "model" / "SHA256SUMS").unlink()
    return tmp_path / "model"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The folder of the commit in an empty cache of the hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache/models--amazon--chronos-2/snapshots" / COMMIT


def file_series(exchange="file", symbol="A/B", timeframe="1h", file="bars.csv"):
    """A series of a file."""
    head = f'[[series]]\nexchange = "{exchange}"\nsymbol = "{symbol}"\n'
    return f'{head}timeframe = "{timeframe}"\nfile = "{file}"\n'


def exchange_series(symbol="BTC/USDT", timeframe="1h", exchange="venue"):
    """A series of an exchange."""
    return f'[[series]]\nexchange = "{exchange}"\nsymbol = "{symbol}"\ntimeframe = "{timeframe}"\n'


def test_good_configuration(check, tmp_path):
    """Each check has a finding."""
    found = check()

    assert found["code"] == 0
    assert found["configuration"] == (True, f"{tmp_path}/c.toml: 1 series")
    assert found["model"][1].startswith("nano: sha256 ")
    assert found["model"][1].endswith(", context up to 512 bars, horizon up to 64")
    assert found["model.baselines"] == (True, "random_walk")
    assert found["store.url"] == (True, f"{tmp_path}/ledger.db")
    assert found["exchanges.venue"] == (True, "binance: 1 series")
    assert not (tmp_path / "ledger.db").exists()


def test_lines_for_people(check, tmp_path):
    """One line per finding, and code 2 for a fault."""
    check("[model]\nhorizon = 500\n")
    done = forecaster("config", "check", "--config", tmp_path / "c.toml")

    assert done.returncode == 2
    assert f"ok     configuration: {tmp_path}/c.toml: 1 series" in done.stdout.splitlines()
    assert "WRONG  model.horizon: expected at most 64 for nano, found 500" in done.stdout.splitlines()


def test_all_faults_are_listed(check, tmp_path):
    """All kinds, and all of a kind."""
    found = check(
        '[model]\nhorizon = 65\ncontext = 600\nbaselines = ["arima", "random_wolk"]\n'
        '[store]\nurl = "sqlite:///no/such/ledger.db"\n'
        '[health]\ntoken_file = "token"\n[alerts]\nwebhook_file = "hook"\napprise_file = "apprise"\n',
        '[exchanges.venue]\nid = "binanse"\noptions.apiKey = "secret"\n',
        series=exchange_series(),
    )

    assert found.pop("code") == 2
    assert found.pop("notes") == []
    assert {subject for subject, (ok, _) in found.items() if not ok} == {
        *("model.horizon", "model.context", "model.baselines", "store.url", "exchanges.venue.id"),
        *("exchanges.venue.options.apiKey", "health.token_file", "alerts.webhook_file", "alerts.apprise_file"),
    }


def test_symbol_that_is_not_unified_is_one_fault(tmp_path):
    """The fault names its own key, not all series."""
    path = tmp_path / "c.toml"
    path.write_text('[[series]]\nexchange = "x"\nsymbol = "AB"\ntimeframe = "1h"\nfile = "b.csv"\n')
    (line,) = forecaster("config", "check", "--config", path).stderr.splitlines()

    assert line.startswith(f"ConfigError: {path}: series.0.symbol: expected a unified symbol such as BTC/USDT")
    assert line.endswith("found 'AB'")


def test_faults_of_a_file_that_cannot_be_loaded_are_listed(tmp_path):
    """One per line; values that may be secrets are not shown."""
    path = tmp_path / "c.toml"
    path.write_text(
        '[[series]]\nexchange = "x"\nsymbol = "A/B"\ntimeframe = "1h"\nfile = "b.csv"\n'
        '[model]\nhorizon = 0\ncontext = 1\n[store]\nurl = 5\npassword = "geheim"\n'
    )
    done = forecaster("config", "check", "--config", path)
    lines = done.stderr.splitlines()

    assert done.returncode == 2
    assert done.stdout == ""
    assert all(line.startswith(f"ConfigError: {path}: ") for line in lines)
    assert [any(key in line for line in lines) for key in ("context", "horizon", "store.url", "password")] == [True] * 4
    assert "geheim" not in done.stderr


@pytest.mark.parametrize(("horizon", "ok"), [(64, True), (65, False), (500, False)])
def test_horizon_beyond_the_models(check, horizon, ok):
    """The error names the largest horizon of the model, which works."""
    found = check(f"[model]\nhorizon = {horizon}\n")

    assert ("model.horizon" not in found) == ok
    assert ok or found["model.horizon"] == (False, f"expected at most 64 for nano, found {horizon}")


@pytest.mark.parametrize(
    ("context", "baselines", "finding"),
    [
        (512, '["random_walk"]', None),
        (513, '["random_walk"]', (False, "expected at most 512 for nano, found 513")),
        (960, '["garch"]', (True, "960 for the baselines; nano uses 512")),
        (961, '["garch"]', (False, "expected at most 960 for nano, found 961")),
    ],
)
def test_context_beyond_what_any_model_sees(check, context, baselines, finding):
    assert check(f"[model]\ncontext = {context}\nbaselines = {baselines}\n").get("model.context") == finding


def configured(**values):
    """Damage that changes `config.json`."""

    def damage(folder):
        config = json.loads((folder / "config.json").read_text())
        config["chronos_config"] |= values
        (folder / "config.json").write_text(json.dumps(config))

    return damage


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda folder: (folder / WEIGHTS_FILE).unlink(), "expected a file model.safetensors in "),
        (lambda folder: (folder / "config.json").unlink(), "expected a file config.json in "),
        (lambda folder: (folder / "config.json").write_text("{}"), "the config.json of a Chronos-2 model"),
        (lambda folder: (folder / WEIGHTS_FILE).write_bytes(b"no weights"), "expected safetensors in "),
        (lambda folder: (folder / WEIGHTS_FILE).write_bytes(b""), "expected safetensors in "),
        (lambda folder: (folder / "SHA256SUMS").write_text(f"{'0' * 64}  {WEIGHTS_FILE}\n"), "the file is damaged"),
        (configured(use_arcsinh=False), "without REG token or arcsinh"),
        (configured(quantiles=[0.2, 0.5, 0.8]), "quantile levels without one of 0.1, 0.5, 0.9"),
        (shutil.rmtree, "expected a file config.json in "),
    ],
    ids=["weights", "config", "other config", "garbage", "empty", "sums", "arcsinh", "levels", "folder"],
)
def test_damaged_checkpoint_is_reported(check, folder, damage, expected):
    damage(folder)
    ok, finding = check('[model]\nid = "model"\n')["model"]

    assert not ok
    assert expected in finding


def test_limits_are_those_of_the_checkpoint(check, folder):
    """Not those of the bundled checkpoint."""
    configured(max_output_patches=1)(folder)
    found = check('[model]\nid = "./model"\nhorizon = 17\n')

    assert found["model.horizon"][1].startswith("expected at most 16 for ")


def test_truncated_weights_are_reported(check, folder):
    weights = folder / WEIGHTS_FILE
    weights.write_bytes(weights.read_bytes()[:-8])

    assert "expected safetensors in " in check('[model]\nid = "model"\n')["model"][1]


def test_hub_model_that_is_not_here_yet(check, hub):
    """That is no fault, and nothing is fetched."""
    found = check(f'[model]\nid = "hub:amazon/chronos-2"\nrevision = "{COMMIT}"\n')

    assert found["model"] == (True, f"hub:amazon/chronos-2 at {COMMIT}: not downloaded yet")
    assert found["code"] == 0


@pytest.mark.parametrize("there", ["config.json", "both"])
def test_hub_model_in_the_cache(check, hub, there):
    """It is checked once all its files are there."""
    hub.mkdir(parents=True)
    for name in ("config.json", WEIGHTS_FILE) if there == "both" else ("config.json",):
        shutil.copy(NANO_FOLDER / name, hub / name)
    found = check(f'[model]\nid = "hub:amazon/chronos-2"\nrevision = "{COMMIT}"\nhorizon = 65\n')

    assert ("not downloaded yet" in found["model"][1]) == (there != "both")
    assert ("model.horizon" in found) == (there == "both")


def test_unknown_baseline_is_listed_with_similar_names(check):
    found = check('[model]\nbaselines = ["garsh"]\n')

    assert found["model.baselines"] == (
        False,
        "expected any of garch, random_walk, filtered_historical_simulation, har_range, found 'garsh'",
    )


def test_exchange_that_ccxt_does_not_know_is_listed_with_similar_names(check):
    found = check(top='[exchanges.venue]\nid = "binanse"\n', series=exchange_series())

    assert "such as binance" in found["exchanges.venue.id"][1]


def test_timeframe_that_an_exchange_does_not_have(check):
    """Checked against the list of ccxt, where there is one."""
    series = exchange_series(timeframe="2h") + exchange_series("ETH/USDT")
    found = check(top='[exchanges.venue]\nid = "kraken"\n', series=series)

    assert found["venue BTC/USDT 2h"][1].startswith("expected a timeframe of kraken, one of 1m, 5m, 15m, ")
    assert "venue ETH/USDT 1h" not in found
    assert found["exchanges.venue"] == (True, "kraken: 2 series")


def test_addresses_of_an_exchange_are_checked(check):
    found = check(
        top='[exchanges.venue]\nid = "binance"\napi_urls.public = "https:/here/api"\napi_urls.other = "http://[::1"\n'
        '[exchanges.well]\nid = "binance"\napi_urls = "http://127.0.0.1:8000/api"\n',
        series=exchange_series(),
    )

    assert found["exchanges.venue.api_urls"][1].startswith("expected addresses such as https://")
    assert found["exchanges.well"] == (True, "binance: no series uses it")


def test_file_that_is_not_there(check, tmp_path):
    """The finding names its path; a folder in its place is wrong too."""
    (tmp_path / "folder").mkdir()
    series = file_series("f", file="none.csv") + file_series("g", file="folder")
    found = check(top="", series=series)

    assert found["code"] == 2
    assert f"no such file: {tmp_path / 'none.csv'}" in found["f A/B 1h"][1]
    assert "a folder: name its files" in found["g A/B 1h"][1]


def test_file_whose_bars_are_new(check_file):
    now = now_ms() // HOUR_MS * HOUR_MS
    ok, finding, notes = check_file(make_bars(make_key(), count=200, start=now - 200 * HOUR_MS))

    assert ok
    assert finding.startswith("200 bars, the newest closed ")
    assert notes == []


def test_file_of_another_timeframe(check_file):
    """Every fourth of its hours would pass as four hours."""
    ok, finding, _ = check_file(make_bars(make_key(), count=200, start=utc_ms("2024-01-01")), "4h")

    assert not ok
    assert "1h" in finding


def test_file_that_ends_in_the_past(check_file):
    """A note names the two ways to use it; it is no fault."""
    ok, finding, notes = check_file(make_bars(make_key(), count=201, start=utc_ms("2024-01-01")))

    assert ok
    assert finding.startswith("201 bars, the newest closed 2024-01-09 09:00 UTC, ")
    (note,) = notes
    assert note == (
        "the file ends on 2024-01-09 09:00 UTC, so it has no current forecast; for the last one use "
        "`--as-of 2024-01-09T09:00`, for the past `forecaster replay`"
    )


def test_file_with_fewer_bars_than_a_forecast_needs(check_file):
    found = check_file(make_bars(make_key(), count=20, start=utc_ms("2024-01-01")))

    assert found[:2] == (False, "NotEnoughBars: file A/B 1h: expected at least 64 bars in the context, found 20")


def test_rejected_rows_of_a_file_are_counted_with_reasons(check_file):
    frame = make_bars(make_key(), count=200, start=utc_ms("2024-01-01")).frame
    frame.iloc[5, 2] = frame.iloc[5, 1] + 1
    ok, finding, _ = check_file(frame)

    assert ok
    assert "199 bars" in finding
    assert "1 rows rejected (1 × low must not be above open or close)" in finding


@pytest.mark.parametrize("drops_weekends", [True, False])
def test_bars_of_weekdays_in_a_market_that_never_closes(check_file, drops_weekends):
    """A note suggests a calendar of five days; it is no fault."""
    bars = make_bars(make_key(timeframe="1d"), count=300, start=utc_ms("2023-01-02"))
    is_weekday = (bars.open_time // DAY_MS + 3) % 7 < 5
    ok, _, notes = check_file(bars[is_weekday] if drops_weekends else bars, "1d")

    assert ok
    assert ("`calendar`: there are bars on weekdays only: is it 24/5?" in notes) == drops_weekends


@pytest.mark.parametrize("timeframe", ["1d", "5m"])
def test_bars_of_a_stock_in_a_market_that_never_closes(check_file, timeframe):
    """A note suggests the calendar that fits, for daily and minute bars."""
    frame = make_bars(make_key(timeframe=timeframe, calendar="XNYS"), count=1200, start=utc_ms("2019-01-02")).frame
    ok, _, notes = check_file(frame.set_axis(frame.index.date) if timeframe == "1d" else frame, timeframe)

    assert ok
    assert "`calendar`: there are bars on weekdays only: is it XNYS?" in notes


@pytest.mark.parametrize(
    ("name", "said"),
    [("DOGEUSDT_1h.csv", "DOGE/USDT"), ("A-B.csv", None), ("bars.csv", None), ("BTC_EUR.csv", "BTC/EUR")],
)
def test_name_of_a_file_that_says_another_symbol(check_file, name, said):
    """A note, if the name contains a symbol."""
    _, _, notes = check_file(make_bars(make_key(), count=200), name=name)

    assert [note for note in notes if "symbol" in note] == ([f"`symbol`: the file's name says {said}"] if said else [])


@pytest.mark.parametrize(
    ("timeframe", "key", "is_idle"),
    [
        ("1h", 'day_anchor = "16:00"', True),
        ("1d", 'day_anchor = "00:00 UTC"', True),
        ("1h", 'timezone = "Asia/Tokyo"', True),
        ("1h", 'calendar = "24/7"', False),
    ],
)
def test_key_that_changes_nothing(check_file, timeframe, key, is_idle):
    """A note says so: the key was written for a purpose."""
    bars = make_bars(make_key(timeframe=timeframe), count=200)
    _, _, notes = check_file(bars, timeframe, more=f"{key}\n")

    assert [key.partition(" ")[0] in note for note in notes if "changes nothing" in note] == [True] * is_idle


def test_decimal_mark_of_another_file(check_file):
    """A note names the key that is wrong."""
    ok, finding, notes = check_file(make_bars(make_key(), count=200), more='decimal = ","\n')

    assert not ok
    assert "expected a number" in finding
    assert notes == ["`decimal` is ',': is that right?"]


def test_sessions_for_an_exchange_that_never_closes(check):
    found = check(series=exchange_series() + 'calendar = "XNYS"\n')

    assert found["code"] == 0
    assert found["notes"] == [
        "exchanges.venue: venue BTC/USDT 1h: `calendar` is XNYS: the exchanges of ccxt trade around the clock, 24/7"
    ]


def test_baseline_that_stands_twice(check):
    found = check('[model]\nbaselines = ["random_walk", "garch", "random_walk"]\n')

    assert found["code"] == 0
    assert found["notes"] == ["model.baselines: random_walk is listed 2 times"]


def test_notes_have_lines_of_their_own(check, tmp_path):
    """Below the line of their subject."""
    check('[model]\nbaselines = ["random_walk", "random_walk"]\n')
    lines = forecaster("config", "check", "--config", tmp_path / "c.toml").stdout.splitlines()

    assert lines[2:4] == [
        "ok     model.baselines: random_walk",
        "note   model.baselines: random_walk is listed 2 times",
    ]


def test_lines_fit_a_narrow_terminal(check, monkeypatch, tmp_path):
    """They are wrapped, with an indent."""
    check()
    monkeypatch.setenv("COLUMNS", "60")
    lines = forecaster("config", "check", "--config", tmp_path / "c.toml").stdout.splitlines()

    assert "       bars, horizon up to 64" in lines
    assert all(len(line) <= 60 or " " not in line[7:] for line in lines)


@pytest.mark.parametrize("top", ['[[serie]]\nexchange = "x"\n', ""])
def test_configuration_without_series(tmp_path, top):
    """The probable reason, a misspelt name, comes first."""
    (tmp_path / "c.toml").write_text(top)
    done = forecaster("config", "check", "--config", tmp_path / "c.toml")
    *before, last = done.stderr.splitlines()

    assert done.returncode == 2
    assert "series: expected at least one [[series]]" in last
    assert ["serie: expected one of exchanges, series" in line for line in before] == [True] * bool(top)


def test_exchange_without_a_table(tmp_path):
    """The finding lists similar names of ccxt."""
    (tmp_path / "c.toml").write_text(exchange_series(exchange="binanse"))
    (line,) = forecaster("config", "check", "--config", tmp_path / "c.toml").stderr.splitlines()

    assert "expected `file`, or a table [exchanges.binanse]" in line
    assert "ccxt knows binance" in line


@pytest.mark.parametrize(
    ("url", "near"), [("sqllite:///ledger.db", "sqlite"), ("postgres://host/ledger", "postgresql")]
)
def test_unknown_database(check, url, near):
    """The most similar known name comes first."""
    ok, finding = check(f'[store]\nurl = "{url}"\n')["store.url"]

    assert not ok
    assert finding.startswith(f"expected one of {near}, ")


@pytest.mark.parametrize(("name", "is_named"), [("nanoo", True), ("folder", False)])
def test_model_that_is_not_there(check, tmp_path, name, is_named):
    """A folder that does not exist may be the bundled model, misspelt."""
    (tmp_path / "folder").mkdir()
    ok, finding = check(f'[model]\nid = "{name}"\n')["model"]

    assert not ok
    assert finding.endswith("the bundled model is `nano`") == is_named


def test_ledger_that_cannot_be_written(check, tmp_path):
    """A missing folder, a folder in its place, or another file; nothing is created."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.db").write_text("no ledger")
    lacks, is_folder, other = (
        check(f'[store]\nurl = "sqlite:///{name}"\n')["store.url"] for name in ("no/l.db", "folder", "text.db")
    )

    assert lacks == (False, f"expected a folder that exists: mkdir -p {tmp_path}/no, found '{tmp_path}/no/l.db'")
    assert is_folder == (False, f"expected a file that this user may write to, found '{tmp_path}/folder'")
    assert other == (False, f"expected a ledger, or the path of a new one, found 'another file, {tmp_path}/text.db'")
    assert not (tmp_path / "no").exists()


def test_password_of_a_server_is_not_shown(check):
    found = check('[store]\nurl = "postgresql+psycopg://user:geheim@127.0.0.1:1/ledger"\n')

    assert found["store.url"] == (True, "postgresql+psycopg://user:***@127.0.0.1:1/ledger: not checked")


def test_folder_of_compiled_code_that_is_not_ours_alone(check, tmp_path):
    """Neither it nor its parents may be writable by others; none is created, or needed where no code is kept."""
    (tmp_path / "shared").mkdir(mode=0o777)
    (tmp_path / "shared").chmod(0o777)
    (tmp_path / "kept").mkdir(mode=0o755)
    kept, below, new, off = (
        check(f'[model]\ncompile = "{mode}"\ncompiled_folder = "{name}"\n').get("model.compiled_folder")
        for name, mode in (("kept", "on"), ("shared/new", "on"), ("new/folder", "auto"), ("kept", "off"))
    )

    assert kept == (False, f"expected {tmp_path}/kept with mode 700, found 755: chmod 700, or remove it")
    assert below[1].startswith(f"expected {tmp_path}/shared to be writable by its owner alone, found 777")
    assert new == (True, f"{tmp_path}/new/folder")
    assert off is None
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("text", "mode", "expected"),
    [
        ("a" * 32, 0o600, None),
        ("a" * 32, 0o644, "a file for its owner alone: chmod 600"),
        ("short", 0o600, "32 printable characters or more"),
        (None, 0, "a file that can be read"),
    ],
)
def test_token_file(check, tmp_path, text, mode, expected):
    if text is not None:
        (tmp_path / "token").write_text(text)
        (tmp_path / "token").chmod(mode)
    ok, finding = check('[health]\ntoken_file = "token"\n')["health.token_file"]

    assert ok == (expected is None)
    assert expected is None or expected in finding


@pytest.mark.parametrize(
    ("mode", "expected"),
    [(0o600, "a PEM file with a certificate"), (0o644, "a file for its owner alone: chmod 600")],
)
def test_certificate_that_is_none(check, tmp_path, mode, expected):
    """Its file contains the private key, so it must be protected like a token."""
    (tmp_path / "cert.pem").write_text("no certificate")
    (tmp_path / "cert.pem").chmod(mode)

    assert expected in check('[health]\ncertificate = "cert.pem"\n')["health.certificate"][1]


@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_password_in_a_file_that_others_can_read_is_noted(check, tmp_path, mode):
    """In the URL of the ledger and of exchanges; it is not shown."""
    (tmp_path / "c.toml").touch(mode)
    top = '[exchanges.venue]\nid = "binance"\napi_urls = { public = "https://u:geheim@h/api", private = "https://h" }\n'
    found = check('[store]\nurl = "postgresql+psycopg://u:geheim@h/d"\n', top=top)
    notes = [one for one in found["notes"] if "has a password" in one]

    assert [one.split()[1] for one in notes] == (["store.url", "exchanges.venue.api_urls"] if mode == 0o644 else [])
    assert "geheim" not in str(found)
    assert all(f"(mode 644): chmod 600 {tmp_path}/c.toml" in one for one in notes)


@pytest.mark.parametrize(
    ("text", "mode", "expected"),
    [
        ("https://example.org/geheim\n", 0o600, None),
        ("https://example.org/geheim\n", 0o640, "a file of mode 600"),
        ("geheim\n", 0o600, "a file with one http or https address"),
    ],
)
def test_file_of_a_webhook(check, tmp_path, text, mode, expected):
    """Its content is not shown."""
    (tmp_path / "hook").write_text(text)
    (tmp_path / "hook").chmod(mode)
    ok, finding = check('[alerts]\nwebhook_file = "hook"\n')["alerts.webhook_file"]

    assert ok == (expected is None)
    assert expected is None or expected in finding
    assert "geheim" not in finding


def test_greatest_horizon_is_the_models_own(check):
    """The check refuses what the model refuses."""
    from forecaster.errors import InvalidArgument
    from forecaster.model import load_model

    model = load_model(ModelConfig(compile="off"))
    bars = make_bars(make_key(), count=600)

    assert model.predict_ohlc(bars, 64, 512).horizon == 64
    for arguments in ((65, 512), (64, 513)):
        with pytest.raises(InvalidArgument):
            model.predict_ohlc(bars, *arguments)
    assert np.isfinite(model.predict_ohlc(bars, 64).values_FHQ).all()
