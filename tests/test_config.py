"""Configuration: what is accepted, and how a mistake is named."""

from __future__ import annotations

from pathlib import Path

import pydantic
import pytest

from forecaster.config import ENVIRONMENT_KEY, Config, default_config_path, embedded, load_config
from forecaster.errors import ConfigError
from tests.builders import make_key

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


def test_a_short_file_has_sane_defaults(load):
    config = load(GOOD)

    assert config.series[0].key == make_key("kraken", "BTC/USD", "1h", "24/7")
    assert (config.model.id, config.model.compile, config.model.device) == ("nano", "auto", "auto")
    assert config.model.baselines == ("random_walk",)
    assert config.store.url == "sqlite:///ledger.db"
    assert config.settle_seconds == 5
    assert config.demo is None
    assert config.exchanges["kraken"].timeout == 10.0


@pytest.mark.parametrize(
    ("text", "key", "allowed"),
    [
        ("modle = 1\n" + GOOD, "modle", ["exchanges", "series", "model", "store", "demo", "settle_seconds"]),
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
        ("settle_seconds = -1\n" + GOOD, "settle_seconds", "-1"),
        (KRAKEN + "timeout = 0\n" + BITCOIN, "exchanges.kraken.timeout", "0"),
        (KRAKEN, "series", ""),
        ("series = []\n", "series", "[]"),
        (KRAKEN + '[[series]]\nexchange = "kraken"\nsymbol = "BTC/USD"\n', "series.0.timeframe", ""),
    ],
    ids=lambda part: part if "\n" not in part else "",
)
def test_a_bad_value_is_named(load, text, key, found):
    """By its key, with what stood there; a missing key by its own name."""
    message = refusal(load, text)

    assert f"bots.toml: {key}: expected " in message
    assert f"found {found}" in message


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
        ('"1h"', '"1h"\ncalendar = "NYSE"', "expected 24/7 or an exchange_calendars code such as XNYS"),
    ],
    ids=["symbol", "timeframe", "calendar"],
)
def test_a_series_that_cannot_be_is_refused_when_the_file_is_loaded(load, good, bad, expected):
    """At the start and not at the first close; with what is allowed, and the file to mend."""
    message = refusal(load, GOOD + ETHER.replace(good, bad))

    assert expected in message
    assert "bots.toml" in message


def test_a_hub_id_needs_its_revision(load):
    """Without a commit the weights may change under a running service."""
    message = refusal(load, GOOD + '[model]\nid = "amazon/chronos-2"\n')

    assert "bots.toml: model" in message
    assert "revision: expected a commit hash" in message


def test_a_hub_id_with_its_revision_is_accepted(load):
    config = load(GOOD + '[model]\nid = "amazon/chronos-2"\nrevision = "0f8a440441931157957e2be1a9bce66627d99c76"\n')

    assert config.model.revision.startswith("0f8a")


def test_a_folder_of_weights_needs_no_revision(load, tmp_path):
    assert load(GOOD + f'[model]\nid = "{tmp_path}"\n').model.id == str(tmp_path)


def test_a_message_expects_once(load):
    """It says what was expected, and not how the checking is done."""
    for text in (GOOD + BITCOIN, GOOD + '[model]\nid = "amazon/chronos-2"\n'):
        message = refusal(load, text)

        assert "Value error" not in message
        assert message.count("expected") == 1


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


def test_a_configuration_cannot_be_changed(load):
    config = load(GOOD)

    for record, name in ((config, "settle_seconds"), (config.model, "horizon"), (config.series[0], "symbol")):
        with pytest.raises(pydantic.ValidationError, match="frozen"):
            setattr(record, name, 3)


def test_the_environment_names_the_file(monkeypatch):
    monkeypatch.setenv(ENVIRONMENT_KEY, "/etc/bots.toml")

    assert default_config_path() == "/etc/bots.toml"


def test_without_the_environment_it_is_the_demo(monkeypatch):
    monkeypatch.delenv(ENVIRONMENT_KEY, raising=False)

    assert default_config_path() == "embedded"
