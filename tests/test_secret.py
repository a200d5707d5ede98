"""Secrets: whatever is done with one but `reveal`, its text is not shown."""

from __future__ import annotations

import copy
import json
import logging
import pickle
import traceback

import pytest
import structlog
from pydantic import ValidationError

from forecaster.config import AlertsConfig, Config, ExchangeConfig, HealthConfig, StoreConfig
from forecaster.config_file import load_config
from forecaster.errors import ConfigError
from forecaster.log import sanitize_event
from forecaster.secret import Secret, SecretUrl

TEXT = "geheim"
URL = f"postgresql://me:{TEXT}@host/ledger?sslpassword={TEXT}"
SECRETS = [Secret(TEXT), SecretUrl(URL), SecretUrl(f"http://u:{TEXT}@proxy:80/api")]
SERIES = '[[series]]\nexchange = "x"\nsymbol = "A/B"\ntimeframe = "1h"\n'
EXCHANGE = (
    f'[exchanges.x]\nid = "kraken"\napi_urls.public = "http://u:{TEXT}@proxy:80/api?token={TEXT}"\n'
    f'options = {{ apiKey = "{TEXT}", proxy = "http://u:{TEXT}@h/", nested = {{ password = "{TEXT}" }}, rows = 5 }}\n'
)


@pytest.fixture
def load(tmp_path):
    """Give a function that writes a file and loads it."""

    def write_and_load(text):
        path = tmp_path / "bots.toml"
        path.write_text(text, encoding="utf-8")
        return load_config(path)

    return write_and_load


@pytest.mark.parametrize("secret", SECRETS, ids=["text", "database", "web"])
@pytest.mark.parametrize(
    "show",
    [
        str,
        repr,
        "{}".format,
        "{:>40}".format,
        lambda secret: "%s %r" % (secret, secret),  # noqa: UP031 - as old code does
        lambda secret: json.dumps({"url": secret}, default=str),
        lambda secret: str([secret, {"url": secret}]),
        lambda secret: str(sanitize_event({"event": "x", "where": secret, "inside": [{"url": secret}]})),
        lambda secret: structlog.processors.JSONRenderer()(None, "", {"event": "x", "where": secret}),
        lambda secret: logging.makeLogRecord({"msg": "to %s", "args": (secret,)}).getMessage(),
        lambda secret: str(ConfigError("key", "something", secret)),
        lambda secret: str(copy.deepcopy(secret)) + repr(copy.copy(secret)),
    ],
)
def test_no_rendering_shows_it(secret, show):
    assert TEXT not in show(secret)


def test_what_may_be_shown_is():
    assert str(Secret(TEXT)) == "***"
    assert str(SecretUrl(URL)) == "postgresql://me:***@host/ledger?sslpassword=***"
    assert [one.reveal() for one in SECRETS[:2]] == [TEXT, URL]


@pytest.mark.parametrize("secret", SECRETS, ids=["text", "database", "web"])
def test_it_does_not_leave_its_process(secret):
    """Neither alone nor in a configuration."""
    for thing in (secret, StoreConfig(url=SecretUrl(URL))):
        with pytest.raises(TypeError, match="no secret leaves its process") as refused:
            pickle.dumps(thing)

        assert TEXT not in str(refused.value)


def test_two_of_one_text_are_equal():
    """So that a configuration that was read again is seen to be the same."""
    assert SecretUrl(URL) == SecretUrl(URL)
    assert SecretUrl(URL) != SecretUrl("memory:")
    assert copy.deepcopy(StoreConfig(url=SecretUrl(URL))) == StoreConfig(url=SecretUrl(URL))


def test_a_configuration_shows_none(load):
    """Nor what is named like a credential in an exchange's options, though such options are refused later."""
    config = load(EXCHANGE + SERIES + f'[store]\nurl = "{URL}"\n')
    shown = [repr(config), str(config), str(config.model_dump()), config.model_dump_json()]

    assert [text for text in shown if TEXT in text] == []
    assert config.store.url.reveal() == URL
    assert config.exchanges["x"].revealed_api_urls == {"public": f"http://u:{TEXT}@proxy:80/api?token={TEXT}"}
    assert config.exchanges["x"].options["apiKey"] == TEXT
    assert json.loads(shown[-1])["exchanges"]["x"]["options"]["rows"] == 5


def test_what_is_shown_of_a_configuration_can_be_read():
    """As in the worker of a replay, which needs no secret."""
    series = [{"exchange": "x", "symbol": "A/B", "timeframe": "1h", "file": "bars.csv"}]
    config = Config.model_validate({"series": series, "store": {"url": URL}})

    assert Config.model_validate_json(config.model_dump_json()).series == config.series


@pytest.mark.parametrize(
    "text",
    [
        f'[store]\nurl = ["{URL}"]\n' + SERIES,
        f'[store]\nurl = 5\npassword = "{TEXT}"\n' + SERIES,
        f'[store]\nurl = "{URL}"\n',
        f'store = "{URL}"\n' + SERIES,
        f'[exchanges.x]\nid = "kraken"\napi_urls = ["http://u:{TEXT}@h/"]\n' + SERIES,
        f'[exchanges.x]\nid = "kraken"\napi_urls.public = {{ a = "http://u:{TEXT}@h/" }}\n' + SERIES,
        f'[exchanges.x]\nid = "kraken"\noptions = "{TEXT}"\n' + SERIES,
        EXCHANGE + f'secret = "{TEXT}"\n' + SERIES,
    ],
)
def test_no_refusal_shows_one(load, text):
    """Neither its message nor the traceback, where pydantic would quote the whole table."""
    with pytest.raises(ConfigError) as refused:
        load(text)

    assert TEXT not in "".join(traceback.format_exception(refused.value))


@pytest.mark.parametrize(
    ("record", "key"), [(HealthConfig, "token_file"), (AlertsConfig, "webhook_file"), (AlertsConfig, "apprise_file")]
)
def test_an_address_in_place_of_its_file_is_refused_and_not_quoted(record, key):
    """As a path it would be shown by `config show`, and by the message that there is no such file."""
    with pytest.raises((ConfigError, ValidationError)) as refused:
        record.model_validate({key: f"https://hooks.example/services/{TEXT}"})

    assert str(refused.value) == f"{key}: expected the path of a file that holds it, found 'an address'"


@pytest.mark.parametrize(
    ("urls", "shown"),
    [
        ("http://u:p@h/", "http://u:***@h/"),
        ({"public": "http://u:p@h/"}, {"public": "http://u:***@h/"}),
        (None, None),
    ],
)
def test_api_urls_are_shown_as_they_are_written(urls, shown):
    config = ExchangeConfig.model_validate({"id": "kraken", "api_urls": urls})

    assert json.loads(config.model_dump_json())["api_urls"] == shown
    assert config.revealed_api_urls == urls
