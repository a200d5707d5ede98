"""Checks of an exchange's table of the configuration against ccxt, without a request."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Final

import ccxt.async_support as ccxt
import yarl

from forecaster.errors import ConfigError
from forecaster.sources.exchange.request import texts_in
from forecaster.urls import redact_url

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from forecaster.config import ExchangeConfig

_CREDENTIALS: Final = ("apikey", "secret", "password", "passphrase", "token", "privatekey")
_RETRY_OPTIONS: Final = ("maxretriesonfailure", "maxretriesonfailuredelay", "paginate")


def check_exchange(name: str, config: ExchangeConfig) -> Iterator[ConfigError]:
    """Yield every error in an exchange's table of the configuration."""
    table = f"exchanges.{name}"
    if config.id not in ccxt.exchanges:
        similar = ", ".join(similar_exchanges(config.id))
        yield ConfigError(table + ".id", f"an exchange that ccxt knows, such as {similar}", config.id)
    for url in texts_in(config.revealed_api_urls):
        if not _is_http_url(url):
            yield ConfigError(table + ".api_urls", "addresses such as https://api.binance.com/api/v3", redact_url(url))
    for path in _option_paths(config.options):
        letters = "".join(filter(str.isalnum, path[-1].lower()))
        setting = ".".join((table, "options", *path))
        if any(word in letters for word in _CREDENTIALS):
            # Only the name: a message must not carry the secret into a log.
            yield ConfigError(setting, "no credentials, since public bars need none", path[-1])
        elif letters in _RETRY_OPTIONS:
            yield ConfigError(setting, "no such option, since requests are repeated and paged here", path[-1])


def similar_exchanges(name: str) -> list[str]:
    """Return exchanges of ccxt with a similar name, or one as an example."""
    return get_close_matches(name, ccxt.exchanges) or ["binance"]


def timeframes_of(exchange_id: str) -> list[str]:
    """Return the timeframes that ccxt lists for an exchange; empty when it lists none."""
    return list(getattr(ccxt, exchange_id)().timeframes or {})


def _is_http_url(url: str) -> bool:
    try:
        address = yarl.URL(url, encoded=True)
    except ValueError:
        return False
    return address.scheme in ("http", "https") and bool(address.host)


def _option_paths(options: Mapping[str, object]) -> list[tuple[str, ...]]:
    """Return the path of every option, nested ones included."""
    paths: list[tuple[str, ...]] = []
    for name, option in options.items():
        paths.append((str(name),))
        if isinstance(option, dict):
            paths.extend((str(name), *path) for path in _option_paths(option))
    return paths
