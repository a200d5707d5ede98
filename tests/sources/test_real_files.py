"""Real exports of bars beside the repository; without them, `conftest.py` skips this file."""

from __future__ import annotations

import pytest

from forecaster.errors import UnknownSymbol
from forecaster.sources.files import FileSource
from tests.builders import make_key, utc_ms
from tests.sources.conftest import REAL_BARS
from tests.sources.test_files import EVER, opened
from tests.sources.test_inference import infer_key


@pytest.mark.parametrize(
    ("name", "symbol", "span", "count", "missing"),
    [
        ("BTCUSDT_1d.csv", "BTC/USDT", ("2020-01-01 00:00", "2025-06-22 00:00"), 2000, 0),
        ("ETHUSDT_1d.csv", "ETH/USDT", ("2020-01-01 00:00", "2025-06-22 00:00"), 2000, 0),
        ("SUIUSDT_1d.csv", "SUI/USDT", ("2024-01-01 00:00", "2026-02-19 00:00"), 781, 0),
        ("BTCUSD_1h_coinbase.csv", "BTC/USD", ("2017-07-01 11:00", "2019-10-17 09:00"), 20_111, 0),
        ("MSTR_1d.csv", "MSTR/USD", ("2020-01-02 14:30", "2026-03-18 13:30"), 1560, 0),
        ("AAPL_1d.csv", "AAPL/USD", ("2021-06-01 13:30", "2026-05-29 13:30"), 1255, 0),
        ("AAPL_1h.csv", "AAPL/USD", ("2025-05-30 13:30", "2026-05-29 19:30"), 1736, 12),
        ("NVDA_1h.csv", "NVDA/USD", ("2025-05-30 13:30", "2026-05-29 19:30"), 1736, 12),
    ],
)
def test_real_files_are_read(name, symbol, span, count, missing):
    """Every row is a bar, except four hourly rows without volume at the close of a session."""
    stock = name.startswith(("AAPL", "MSTR", "NVDA"))
    key = make_key("any", symbol, "1h" if "_1h" in name else "1d", "XNYS" if stock else "24/7")

    fetched = FileSource(REAL_BARS / name).fetch(key, None, EVER)

    slots = key.trading_calendar.opens_between(key.timeframe, utc_ms(span[0]), utc_ms(span[1]) + 1)
    surplus = [(row.reason, row.values[4]) for row in fetched.rejected]
    assert (opened(fetched)[0], opened(fetched)[-1]) == span
    assert len(fetched.bars) == count
    assert len(slots) - count == missing
    assert surplus == [("open time must be on the 1h grid of XNYS", 0)] * (4 if missing else 0)


def test_several_symbols_side_by_side():
    """Each has its own key; they start later, and share one gap."""
    source = FileSource(REAL_BARS / "BTC_ETH_LTC_USD_1d_bitstamp.csv")
    counts = {
        symbol: len(source.fetch(make_key("any", f"{symbol}/USD", "1d"), None, EVER).bars)
        for symbol in ("BTC", "ETH", "LTC")
    }

    assert counts == {"BTC": 1865, "ETH": 788, "LTC": 925}
    with pytest.raises(UnknownSymbol, match="expected one of its 3 symbols, found 'DOGE/USD'"):
        source.fetch(make_key("any", "DOGE/USD", "1d"), None, EVER)


@pytest.mark.parametrize(
    ("name", "symbol", "timeframe", "calendar"),
    [
        ("BTCUSDT_1d.csv", "BTC/USDT", "1d", "24/7"),
        ("ETHUSDT_1d.csv", "ETH/USDT", "1d", "24/7"),
        ("SUIUSDT_1d.csv", "SUI/USDT", "1d", "24/7"),
        ("BTCUSD_1h_coinbase.csv", "BTC/USD", "1h", "24/7"),
        ("MSTR_1d.csv", "MSTR/USD", "1d", "XNYS"),
        ("AAPL_1d.csv", "AAPL/USD", "1d", "XNYS"),
        ("AAPL_1h.csv", "AAPL/USD", "1h", "XNYS"),
        ("NVDA_1h.csv", "NVDA/USD", "1h", "XNYS"),
    ],
)
def test_series_of_real_files_are_inferred(name, symbol, timeframe, calendar):
    assert infer_key(REAL_BARS / name) == make_key("file", symbol, timeframe, calendar)


def test_several_symbols_are_inferred():
    keys = [series.key for series in FileSource(REAL_BARS / "BTC_ETH_LTC_USD_1d_bitstamp.csv").infer_series()]

    assert [str(key) for key in keys] == ["file BTC/USD 1d", "file ETH/USD 1d", "file LTC/USD 1d"]
