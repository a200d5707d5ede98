"""Symbols as venues write them, and the rows of a table that belong to a unified symbol."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from forecaster.errors import UnknownSymbol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from forecaster.tables import ParseOptions, Rows

QUOTES: Final = ("USDT", "USDC", "BUSD", "FDUSD", "TUSD", "USD", "EUR", "GBP", "JPY", "BTC", "ETH")
"""Quote currencies at the end of a symbol."""

_DOLLARS: Final = tuple(quote for quote in QUOTES if "USD" in quote)

_KRAKEN: Final = re.compile(r"X([A-Z]{3,4})Z([A-Z]{3})")
"""Kraken's own name of a pair: `XXBTZUSD`."""

_COUNTRY: Final = re.compile(r"(?:US|HK|SH|SZ|BJ)\.(?=\w{3})")
"""The country prefix of Chinese programs: `SH.600000`."""


def select_rows(source: str, rows_by_symbol: Mapping[str, Rows], symbol: str, options: ParseOptions) -> Rows:
    """Return the rows of a unified symbol; all rows of a table without symbols.

    Raises:
        UnknownSymbol: for a symbol that is not in the table.
    """
    if len(rows_by_symbol) == 1 and ("" in rows_by_symbol or options.symbol_column == ""):
        return next(iter(rows_by_symbol.values()))
    base, _, quote = symbol.partition(":")[0].upper().partition("/")
    candidates = [_letters(f"{base}{quote}"), _letters(base)]
    if len(rows_by_symbol) == 1 and quote in _DOLLARS:  # venues use many names for the dollar
        candidates += [_letters(f"{base}{dollar}") for dollar in _DOLLARS]
    for spell in (_full_name, _before_dot):  # `ABC` matches `ABC.US`, unless `ABC.DE` is there as well
        for candidate in candidates:
            matches = [name for name in rows_by_symbol if candidate == spell(name)]
            if len(matches) == 1:
                return rows_by_symbol[matches[0]]
    first = next(iter(rows_by_symbol))
    hint = f"if {first!r} is no symbol: `symbol_column` (--symbol-column '')" if len(rows_by_symbol) == 1 else ""
    raise UnknownSymbol(source, symbol, list(rows_by_symbol), hint)


def normalize_symbol(name: str) -> str:
    """Remove what is specific to a venue: `BTCUSD` for `X:BTCUSD` and for Kraken's `XXBTZUSD`."""
    return _KRAKEN.sub(r"\1\2", name.upper().rpartition(":")[2].strip()).replace("XBT", "BTC")


def _full_name(name: str) -> str:
    return _letters(normalize_symbol(name))


def _before_dot(name: str) -> str:
    """Return the name up to a dot, without the share class or country."""
    return _letters(_COUNTRY.sub("", normalize_symbol(name)).partition(".")[0])


def _letters(name: str) -> str:
    """Remove separators."""
    return re.sub(r"[\W_]", "", name)
