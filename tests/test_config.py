"""Configuration: what is accepted, and how a mistake is named."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pydantic
import pytest

from forecaster.config_file import ENVIRONMENT_KEY, default_config_path, embedded, load_config, with_store
from forecaster.errors import ConfigError
from tests.builders import make_key

if TYPE_CHECKING:
    from forecaster.config import Config

KRAKEN = '[exchanges.kraken]\nid = "kraken"\n'
BITCOIN = '[[series]]\nexchange = "kraken"\nsymbol = "BTC/USD"\ntimeframe = "1h"\n'
ETHER = '[[series]]\nexchange = "kraken"\nsymbol = "ETH/USD"\ntimeframe = "1h"\n'
GOOD = KRAKEN + BITCOIN


@pytest.fixture
def load(tmp_path):
    """Give a function that writes a file and loads it."""

    def write_and_load(text: str) -> Config:
        path = tmp_path / "bots.toml"
        path.write_text(text, encoding="utf-8")
        return load_config(path)

    return write_and_load


def refusal(load, text: str) -> str:
    """What the operator reads when this file is refused."""
    with pytest.raises(ConfigError) as refused:
        load(text)
    return str(refused.value)


def test_the_embedded_configuration_is_the_demo():
    config = load_config("embedded")

    assert [str(one.key) for one in config.series] == ["arch SPX/USD 1d", "arch IXIC/USD 1d"]
    assert {one.key.calendar for one in config.series} == {"XNYS"}
    assert (config.model.id, config.model.context, config.model.horizon) == ("nano", 256, 10)
    assert config.model.baselines == ("random_walk",)
    assert config.demo.cycles == 250


def test_the_embedded_files_are_there():
    """The demo reads no network, so its bars must ship with it."""
    for one in load_config("embedded").series:
        assert one.file.is_file()


@pytest.mark.parametrize("path", sorted(embedded("config/demo.toml").parent.glob("*.toml")), ids=lambda path: path.name)
def test_every_file_that_ships_can_be_loaded(path):
    assert load_config(path).series


def test_a_short_file_has_sane_defaults(load, tmp_path):
    config = load(GOOD)

    assert config.series[0].key == make_key("kraken", "BTC/USD", "1h", "24/7")
    assert (config.model.id, config.model.compile, config.model.device) == ("nano", "auto", "auto")
    assert config.model.baselines == ("random_walk",)
    assert config.store.url.reveal() == f"sqlite:///{tmp_path}/ledger.db"
    assert config.fetch_delay_seconds == 5
    assert config.demo is None
    assert config.exchanges["kraken"].timeout == 10.0


@pytest.mark.parametrize(
    ("text", "key", "allowed"),
    [
        ("modle = 1\n" + GOOD, "modle", ["exchanges", "series", "model", "store", "demo", "fetch_delay_seconds"]),
        (GOOD + "[model]\nhorizn = 3\n", "model.horizn", ["id", "revision", "horizon", "baselines"]),
        (GOOD + '[store]\npath = "x"\n', "store.path", ["url"]),
        (GOOD + '[demo]\nstart = "2024-01-01"\nspeed = 2\n', "demo.speed", ["start", "cycles"]),
        (GOOD + 'interval = "1h"\n', "series.0.interval", ["exchange", "symbol", "timeframe", "calendar", "file"]),
        (KRAKEN + 'secret = "x"\n' + BITCOIN, "exchanges.kraken.secret", ["id", "api_urls", "options", "timeout"]),
    ],
    ids=["top", "model", "store", "demo", "series", "exchange"],
)
def test_an_unknown_key_is_named_with_those_allowed(load, text, key, allowed):
    """At the top and in every table; the file is named too."""
    message = refusal(load, text)

    assert f"bots.toml: {key}: expected one of " in message
    assert message.endswith(f"found {key.rpartition('.')[2]!r}")
    listed = message.partition("expected one of ")[2].rpartition(", found")[0].split(", ")
    assert set(allowed) <= set(listed)


@pytest.mark.parametrize(
    ("text", "key", "found"),
    [
        (GOOD + "[model]\nhorizon = 0\n", "model.horizon", "0"),
        (GOOD + "[model]\ncontext = 9000\n", "model.context", "9000"),
        (GOOD + '[model]\ncontext = "many"\n', "model.context", "'many'"),
        (GOOD + '[model]\ncompile = "fast"\n', "model.compile", "'fast'"),
        (GOOD + '[demo]\nstart = "2024-01-01"\ncycles = 0\n', "demo.cycles", "0"),
        ("fetch_delay_seconds = -1\n" + GOOD, "fetch_delay_seconds", "-1"),
        (KRAKEN + "timeout = 0\n" + BITCOIN, "exchanges.kraken.timeout", "0"),
        (KRAKEN, "series", "None"),
        ("series = []\n", "series", "[]"),
        (KRAKEN + '[[series]]\nexchange = "kraken"\nsymbol = "BTC/USD"\n', "series.0.timeframe", "None"),
    ],
    ids=lambda part: part if "\n" not in part else "",
)
def test_a_bad_value_is_named(load, text, key, found):
    """By its key, with what stood there; a missing key by its own name."""
    message = refusal(load, text)

    assert f"bots.toml: {key}: expected " in message
    assert f"found {found}" in message


@pytest.mark.parametrize(
    ("table", "key", "value"),
    [
        ("model", "horizon", "true"),
        ("model", "horizon", '"5"'),
        ("model", "horizon", "5.0"),
        ("model", "calibrate", "1"),
        ("health", "port", "false"),
        ("alerts", "repeat_hours", "true"),
        ("alerts", "repeat_hours", '"6"'),
    ],
)
def test_a_number_is_no_boolean_and_no_text(load, table, key, value):
    """`horizon = true` is a slip, and not a horizon of one bar."""
    message = refusal(load, f"{GOOD}[{table}]\n{key} = {value}\n")

    assert f"bots.toml: {table}.{key}: expected a valid " in message


def test_a_whole_number_of_seconds_and_a_date_are_values(load):
    config = load(GOOD + "[model]\nreleased = 2025-10-20\n[alerts]\nrepeat_hours = 6\n")

    assert str(config.model.released) == "2025-10-20"
    assert config.alerts.repeat_hours == 6.0


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.toml: expected a readable TOML file"):
        load_config(tmp_path / "nowhere.toml")


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(ConfigError, match="expected a readable TOML file"):
        load_config(tmp_path)


def test_text_that_is_not_utf8_is_refused(tmp_path):
    (tmp_path / "bots.toml").write_bytes(b'id = "\xff\xfe"')

    with pytest.raises(ConfigError, match="expected a readable TOML file"):
        load_config(tmp_path / "bots.toml")


def test_broken_toml_is_refused_with_its_place(load):
    message = refusal(load, GOOD + "[model\n")

    assert "bots.toml: expected TOML" in message
    assert "line 7" in message


def test_a_series_that_stands_twice_is_refused(load):
    message = refusal(load, GOOD + ETHER + BITCOIN)

    assert "bots.toml: series: " in message
    assert "expected each series once, found" in message
    assert "kraken BTC/USD 1h twice" in message


def test_a_series_has_one_calendar(load):
    """The ledger knows a series by exchange, symbol and timeframe: two calendars would be mixed there."""
    message = refusal(load, GOOD + BITCOIN + 'calendar = "XNYS"\n')

    assert "kraken BTC/USD 1h" in message


def test_one_symbol_may_stand_in_two_timeframes(load):
    config = load(GOOD + BITCOIN.replace('"1h"', '"4h"'))

    assert [str(one.key) for one in config.series] == ["kraken BTC/USD 1h", "kraken BTC/USD 4h"]


def test_an_exchange_without_its_table_is_refused(load):
    message = refusal(load, GOOD + ETHER.replace("kraken", "binance"))

    assert "series binance ETH/USD 1h: expected `file`, or a table [exchanges.binance]" in message


def test_a_series_of_a_file_needs_no_exchange(load):
    config = load(BITCOIN + 'file = "btc.csv"\n')

    assert config.series[0].key.exchange == "kraken"


@pytest.mark.parametrize(
    ("good", "bad", "expected"),
    [
        ('"ETH/USD"', '"ETHUSD"', "expected a unified symbol such as BTC/USDT"),
        ('"1h"', '"1w"', "expected one of 1m, 3m, 5m"),
        ('"1h"', '"1h"\ncalendar = "NYSX"', "expected 24/7 or an exchange_calendars code such as XNYS, NYSE"),
        ('"1h"', '"1h"\nday_anchor = "noon"', "expected a time of day such as 16:00"),
        ('"1h"', '"1h"\ncalendar = "XNYS"\nday_anchor = "16:00"', "expected none: sessions of an exchange begin"),
        ('"1h"', '"1h"\ndecimal = ","', "expected `file`, which the keys below are about"),
        ('"1h"', '"1h"\nfile = "a.csv"\ntimezone = "Mars"', "expected an IANA name such as"),
    ],
    ids=["symbol", "timeframe", "calendar", "anchor", "anchor of sessions", "no file", "zone"],
)
def test_a_series_that_cannot_be_is_refused_when_the_file_is_loaded(load, good, bad, expected):
    """At the start and not at the first close; with what is allowed, and the file to mend."""
    message = refusal(load, GOOD + ETHER.replace(good, bad))

    assert expected in message
    assert "bots.toml" in message


def test_an_alias_of_a_calendar_is_its_name(load):
    """Two names for one calendar would make two series of one."""
    config = load(GOOD + ETHER.replace('"1h"', '"1h"\ncalendar = "NASDAQ"'))

    assert config.series[1].key.calendar == "XNYS"


def test_an_anchor_is_part_of_the_series(load):
    """Days that begin at other times are other bars."""
    config = load(GOOD + ETHER.replace('"1h"', '"1d"\nday_anchor = "16:00"'))

    assert config.series[1].key.calendar == "24/7@16:00"


COMMIT = "0f8a440441931157957e2be1a9bce66627d99c76"


def model(**keys: object) -> str:
    """Write a file whose model has these keys."""
    return GOOD + "[model]\n" + "".join(f'{name} = "{value}"\n' for name, value in keys.items())


def test_a_hub_id_needs_its_revision(load):
    """Without a commit the weights may change under a running service."""
    message = refusal(load, model(id="hub:amazon/chronos-2"))

    assert "bots.toml: model" in message
    assert "revision: expected the commit of hub:amazon/chronos-2, 40 hexadecimal digits" in message


@pytest.mark.parametrize("revision", ["main", "v1.0", COMMIT[:12], COMMIT.upper()])
def test_a_revision_that_may_move_is_refused(load, revision):
    """A branch and a tag are names, and a short commit may come to mean another one."""
    message = refusal(load, model(id="hub:amazon/chronos-2", revision=revision))

    assert f"40 hexadecimal digits, found {revision!r}" in message


def test_a_hub_id_with_its_revision_is_accepted(load):
    config = load(model(id="hub:amazon/chronos-2", revision=COMMIT))

    assert (config.model.id, config.model.revision) == ("hub:amazon/chronos-2", COMMIT)


@pytest.mark.parametrize("model_id", ["nano", "./mine"])
def test_a_revision_is_of_a_hub_repository_alone(load, model_id):
    """It would say nothing of the weights that run."""
    message = refusal(load, model(id=model_id, revision=COMMIT))

    assert f"revision: expected none, since {model_id} is no hub repository" in message


@pytest.mark.parametrize("model_id", ["hub:", "hub:chronos-2", "hub:a/b/c", "hub:../x", "hub:amazon/chronos 2"])
def test_a_hub_id_names_owner_and_repository(load, model_id):
    message = refusal(load, model(id=model_id, revision=COMMIT))

    assert "id: expected hub:OWNER/NAME" in message


def test_a_name_that_could_be_either_is_refused_with_both_ways(load, tmp_path, monkeypatch):
    """Whatever lies in the folder where the command runs."""
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "amazon/chronos-2").mkdir(parents=True)
    monkeypatch.chdir(elsewhere)

    message = refusal(load, model(id="amazon/chronos-2"))

    assert "bots.toml: model.id: expected hub:amazon/chronos-2 with its revision, or the path of a folder" in message
    assert f"{tmp_path}/amazon/chronos-2 is none" in message


def test_a_hub_repository_as_it_was_once_written_is_refused_with_the_new_way(load, tmp_path):
    """Beside a folder of its name too, which the revision would be wrong for."""
    (tmp_path / "amazon/chronos-2").mkdir(parents=True)

    message = refusal(load, model(id="amazon/chronos-2", revision=COMMIT))

    assert "model.id: expected hub:amazon/chronos-2, or no revision for a folder" in message


def test_a_hub_id_stays_one_beside_a_folder_of_its_name(load, tmp_path, monkeypatch):
    """A folder in the working directory, or beside the file, is another model."""
    (tmp_path / "amazon/chronos-2").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)

    assert load(model(id="hub:amazon/chronos-2", revision=COMMIT)).model.id == "hub:amazon/chronos-2"


def test_a_folder_of_weights_is_relative_to_the_file(load, tmp_path, monkeypatch):
    """Wherever the command runs; a home folder is found, and an absolute path stays."""
    (tmp_path / "amazon/chronos-2").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("HOME", "/home/somebody")
    written = ("amazon/chronos-2", "./mine", "mine", "../mine", "~/mine", "/models/mine")

    found = [load(model(id=one)).model.id for one in written]

    below = [f"{tmp_path}/{one}" for one in ("amazon/chronos-2", "mine", "mine", "../mine")]
    assert found == [*below, "/home/somebody/mine", "/models/mine"]


def test_nano_is_the_bundled_model_beside_a_folder_of_its_name(load, tmp_path, monkeypatch):
    (tmp_path / "nano").mkdir()
    monkeypatch.chdir(tmp_path)

    assert [load(model(id=one)).model.id for one in ("nano", "./nano")] == ["nano", f"{tmp_path}/nano"]


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ("sqlite:///ledger.db", "sqlite:///{folder}/ledger.db"),
        ("sqlite:///../var/ledger.db", "sqlite:///{folder}/../var/ledger.db"),
        ("sqlite:///~/ledger.db", "sqlite:////home/somebody/ledger.db"),
        ("sqlite:////var/ledger.db", "sqlite:////var/ledger.db"),
        ("sqlite:///ledger.db?timeout=20", "sqlite:///{folder}/ledger.db?timeout=20"),
        ("sqlite:///a%20b%3F.db", "sqlite:///{folder}/a b%3F.db"),
        ("memory:", "memory:"),
        ("postgresql+psycopg://me@host/ledger.db", "postgresql+psycopg://me@host/ledger.db"),
    ],
)
def test_a_ledger_is_relative_to_the_file(load, tmp_path, monkeypatch, written, found):
    """Daemon and strategy, started in different folders, mean the same ledger."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("HOME", "/home/somebody")

    config = load(GOOD + f'[store]\nurl = "{written}"\n')

    assert config.store.url.reveal() == found.format(folder=tmp_path)


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "sqlite:///x.db?mode=ro", "sqlite:///file:x.db"])
def test_a_ledger_that_is_no_one_file_is_refused(load, url):
    """When the file is loaded, and not at the first write."""
    message = refusal(load, GOOD + f'[store]\nurl = "{url}"\n')

    assert "bots.toml: store.url: expected sqlite:///PATH" in message


def test_the_demos_own_ledger_lies_where_the_command_runs():
    """Its configuration lies in the installed package, which nobody may write; by its path it is the same file."""
    for path in ("embedded", embedded("config/demo.toml")):
        assert load_config(path).store.url.reveal() == "sqlite:///demo-ledger.db"


def test_the_ledger_of_a_copy_of_the_demos_configuration_lies_beside_it(tmp_path):
    copy = tmp_path / "mine.toml"
    copy.write_text(embedded("config/demo.toml").read_text())

    assert load_config(copy).store.url.reveal() == f"sqlite:///{tmp_path}/demo-ledger.db"


def test_another_ledger_is_named_by_its_url_or_path(load, tmp_path, monkeypatch):
    """On a command line, where paths are relative to the working directory."""
    monkeypatch.chdir(tmp_path)
    config = load(GOOD)
    named = ("other.db", "sqlite:///other.db", f"{tmp_path}/other.db", "memory:")

    found = [with_store(config, one).store.url.reveal() for one in named]

    assert found == [f"sqlite:///{tmp_path}/other.db"] * 3 + ["memory:"]


def test_a_folder_of_weights_needs_no_revision(load, tmp_path):
    assert load(GOOD + f'[model]\nid = "{tmp_path}"\n').model.id == str(tmp_path)


def test_a_message_expects_once(load):
    """It says what was expected, and not how the checking is done."""
    for text in (GOOD + BITCOIN, GOOD + '[model]\nid = "amazon/chronos-2"\n', GOOD.replace("BTC/USD", "BTCUSD")):
        message = refusal(load, text)

        assert "Value error" not in message
        assert message.count("expected") == message.count("found") == 1


def test_a_context_can_hold_the_bars_it_needs(load):
    """Otherwise every series would sit out every cycle, for ever."""
    message = refusal(load, GOOD + "[model]\ncontext = 32\nmin_context = 64\n")

    assert "min_context" in message


def test_paths_are_relative_to_the_file(load, tmp_path, monkeypatch):
    """Wherever the command runs."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")

    config = load(BITCOIN + 'file = "../bars/btc.csv"\n')

    assert config.series[0].file == tmp_path / "../bars/btc.csv"


def test_an_absolute_path_stays_and_home_is_found(load, monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")

    config = load(BITCOIN + 'file = "/bars/btc.csv"\n' + ETHER + 'file = "~/eth.csv"\n')

    assert [one.file for one in config.series] == [Path("/bars/btc.csv"), Path("/home/somebody/eth.csv")]


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (BITCOIN + 'file = "~nobody-here/btc.csv"\n', "file"),
        (GOOD + '[model]\ncompiled_folder = "~nobody-here/compiled"\n', "compiled_folder"),
        (GOOD + '[model]\nid = "~nobody-here/mine"\n', "model.id"),
    ],
)
def test_a_home_folder_of_nobody_is_named(load, text, key):
    message = refusal(load, text)

    assert f"bots.toml: {key}: expected the home folder of an existing user, found '~nobody-here/" in message


def test_a_configuration_cannot_be_changed(load):
    config = load(GOOD)

    for record, name in ((config, "fetch_delay_seconds"), (config.model, "horizon"), (config.series[0], "symbol")):
        with pytest.raises(pydantic.ValidationError, match="frozen"):
            setattr(record, name, 3)


def test_the_environment_names_the_file(monkeypatch):
    monkeypatch.setenv(ENVIRONMENT_KEY, "/etc/bots.toml")

    assert default_config_path() == "/etc/bots.toml"


def test_without_the_environment_it_is_the_demo(monkeypatch):
    monkeypatch.delenv(ENVIRONMENT_KEY, raising=False)

    assert default_config_path() == "embedded"


@pytest.mark.parametrize("url", ["l.db", "sqlite:////", "postgresql://u:p@ss@host/db"])
def test_what_is_no_url_of_a_ledger_is_refused_when_it_is_read(load, url):
    """`config check` says so, and not the first cycle; no password is shown."""
    with pytest.raises(ConfigError, match=r"store.url: expected sqlite:///PATH") as refused:
        load(GOOD + f'\n[store]\nurl = "{url}"\n')

    assert "p@ss" not in str(refused.value)
