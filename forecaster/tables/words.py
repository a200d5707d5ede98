"""What the names of columns say, in the languages of exports: pure text, no cells.

A name is compared by its letters and digits alone, without accents: `<OPEN>`, `Open*`, `1. open` and `open (USD)` are
one word. Where several words say the same, the one of the smaller rank is trusted more.
"""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING, Final, NamedTuple

from forecaster.tables import COLUMNS, FIELDS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

# Each group is trusted more than the next. English; Polish; German; French; Spanish, Italian and Portuguese; Dutch;
# Turkish; Russian; Chinese, Japanese, Korean; Swedish.
_FIELD_WORDS: Final[dict[str, tuple[str, ...]]] = {
    "open": (
        """
        open openprice openingprice priceopen pxopen openingprice otwarcie eröffnung eroeffnung eröffn eroeffn
        eröffnungskurs eroeffnungskurs eröffnungspreis eroeffnungspreis erster ouverture ouv apertura
        abertura openingskoers açılış откр открытие 开盘 开盘价 開盤 開盤價 始値 시가 오픈 öppning öppningskurs
        """,
        "o",
        "first opening",
    ),
    "high": (
        """
        high highprice pricehigh pxhigh najwyższy hoch tageshoch höchstkurs hoechstkurs höchster
        hoechster plushaut máximo máxima massimo hoog hoogste yüksek enyüksek макс 高 最高 最高价 最高價 高値 고가
        högst högsta
        """,
        "h",
        "max maximum máx maks highest dayhigh haut",
    ),
    "low": (
        """
        low lowprice pricelow pxlow najniższy tief tagestief tiefstkurs tiefster plusbas mínimo mínima
        minimo laag laagste düşük endüşük мин 低 最低 最低价 最低價 安値 저가 lägst lägsta
        """,
        "l",
        "min minimum mín lowest daylow bas",
    ),
    "close": (
        """
        close closeprice closingprice priceclose pxclose closelast zamknięcie schluss schlusskurs
        schlusspreis clôture clot cierre chiusura fechamento slotkoers kapanış закр закрытие 收盘 收盘价 收盤 收盤價
        終値 종가
        stängning stängningskurs
        """,
        "c",
        """
        last price lastprice pxlast lasttradedprice ltp tradeprice closing ostatnio kurs letzter zuletzt dernier
        senast último ultimo preço precio prezzo laatste şimdi цена
        """,
        "settle settlement settleprice settlementprice",
    ),
    "volume": (
        "volume",
        """
        vol wolumen wol volumen hacim hac объём объем 交易量 成交量 成交股數 出来高 거래량 volym
        stück stueck stücke stuecke
        """,
        "v",
        "tickvolume tickvol basevolume volumebase volumefrom volumetraded tradedvolume totalvolume",
    ),
}

# In order of trust: what says that a bar opens wins over what may be the bare date of the same row.
_TIME_WORDS: Final = (
    """
    timeperiodstart periodstart windowstart barstart opentime opentimestamp klineopentime candleopentime
    timeopen startedat candledatetimeutc opentimeutc opentimems starttime starttimestamp timestart begintime
    candlebegintime start begin
    """,
    "timestamp timestamps timestamputc utctimestamp timestampms ts tsevent",
    "datetime datetimes datetimeutc utcdatetime dateandtime datumzeit datumuhrzeit datetimegmt",
    "gmttime utctime timeutc timegmt utc gmt",
    "time times zeit uhrzeit czas godzina heure hora ora tijd saat время 时间",
    "localtime timelocal",
    """
    date dates dateutc utcdate gmtdate dategmt tradedate tradingdate tradingday quotedate pricedate
    sessiondate exchangedate session day dtyyyymmdd yyyymmdd dateyyyymmdd data datum fecha tarih дата 日期 日付 日付け
    날짜 일자 tag dzień jour
    """,
    "t dt",
    "unix unixtime unixtimestamp unixts unixms epoch epochms epochtime ticks",
    "hour hr hours hhmm hhmmss timeofday stunde heures",
)
_CLOCK_RANKS: Final = (3, 4, 5, 9)  # those that may be a time of day, beside a date
_UNSURE_TIME_WORDS: Final = ("index", "id", "level0", "unnamed0", "unnamed", "")
_CLOSE_TIME_WORDS: Final = (
    "closetime closetimestamp klineclosetime timeclose end endtime endtimestamp timeend timeperiodend periodend barend"
    " windowend closingtime"
)

# The last group but one has other meanings as well; rows of the last are parts of one series, or series of their own.
_SYMBOL_WORDS: Final = (
    "symbol symbols ticker tickers tic sym pair tradingpair currencypair actsymbol stocksymbol symbole",
    "instrument instrumentname tscode ric isin wkn cusip sedol figi stockcode productid instrumentid permno",
    "asset coin crypto stock stockname security code name company companyname product underlying scrip",
    "contract contractsymbol contractcode contractmonth expiry expiration expirydate expirationdate series",
)
_TIMEFRAME_WORDS: Final = "interval timeframe tf period per granularity resolution barsize"

_SIDES: Final = {"bid": "bid", "ask": "ask", "mid": "mid", "adjusted": "adjusted", "adj": "adjusted"}
_CURRENCIES: Final = ("usdt", "usdc", "usd", "eur", "gbp", "jpy")
_LETTERS: Final = str.maketrans({"ł": "l", "ı": "i", "đ": "d", "ø": "o"})
_NUMBERED: Final = re.compile(r"\d+[a-z]?\.\s+")  # Alpha Vantage's "1. open"
_BRACKETS: Final = re.compile(r"[(\[](.*?)[)\]]")
_ENGLISH: Final = "|".join(COLUMNS)
_SIDE_BY_SIDE: Final = re.compile(
    rf"(?P<symbol>.+)(?P<mark>[:.|_ ])(?P<field>{_ENGLISH})|(?P<field2>{_ENGLISH})(?P<mark2>[:.|_ ])(?P<symbol2>.+)",
    re.IGNORECASE,
)


def plain(name: str) -> str:
    """Give the letters and digits of a name, in lower case and without accents; a unit in brackets is left out."""
    text = unicodedata.normalize("NFKD", name.strip().casefold().translate(_LETTERS))
    text = _NUMBERED.sub("", text, count=1) if text[:1].isdigit() else text
    outside = _BRACKETS.sub(lambda match: match[1] if _letters(match[1]) in _SIDES else "", text)
    return _letters(outside) or _letters(text)


def _letters(text: str) -> str:
    return "".join(filter(str.isalnum, text))


def _ranked(words: Sequence[str]) -> dict[str, int]:
    return {plain(word): rank for rank, group in reversed(list(enumerate(words))) for word in group.split()}


class Claim(NamedTuple):
    """That a name stands for a field: of one side of the market or adjusted prices, where `side` is not empty."""

    field: str
    rank: int
    side: str = ""


TIME_RANKS: Final[Mapping[str, int]] = _ranked(_TIME_WORDS)
CLOCKS: Final[frozenset[str]] = frozenset(word for word, rank in TIME_RANKS.items() if rank in _CLOCK_RANKS)
UNSURE_TIMES: Final[frozenset[str]] = frozenset(_UNSURE_TIME_WORDS)
CLOSE_TIMES: Final[frozenset[str]] = frozenset(_CLOSE_TIME_WORDS.split())
SYMBOL_RANKS: Final[Mapping[str, int]] = _ranked(_SYMBOL_WORDS)
IS_SURE: Final = len(_SYMBOL_WORDS) - 2
"""The ranks of symbols below it have no other meaning; those above it are asked for."""
TIMEFRAMES: Final[frozenset[str]] = frozenset(_TIMEFRAME_WORDS.split())
_CLAIMS: Final[Mapping[str, Claim]] = {
    word: Claim(field, rank) for field, groups in _FIELD_WORDS.items() for word, rank in _ranked(groups).items()
}


def claim(name: str) -> Claim | None:
    """Give the field that a column of this name stands for."""
    key = plain(name)
    if key in _CLAIMS:
        return _CLAIMS[key]
    for word, side in _SIDES.items():
        for rest in (key.removeprefix(word), key.removesuffix(word)):
            if rest != key and rest in _CLAIMS:
                return _CLAIMS[rest]._replace(side=side)
    for currency in _CURRENCIES:
        price = _CLAIMS.get(key.removesuffix(currency))
        if price and price.field in FIELDS:
            return price
    return None


def claims(names: Sequence[str]) -> dict[str, dict[str, dict[int, list[int]]]]:
    """Give the positions of the columns that stand for each field: by side, field and rank."""
    found: dict[str, dict[str, dict[int, list[int]]]] = {"": {}}
    for place, name in enumerate(names):
        if one := claim(name):
            found.setdefault(one.side, {}).setdefault(one.field, {}).setdefault(one.rank, []).append(place)
    return found


def side_by_side(names: Sequence[str]) -> dict[str, dict[str, int]]:
    """Give the positions of the fields of symbols that stand side by side, as in `BTC/USD:open` or `Close_AAPL`."""
    symbols: dict[str, dict[str, int]] = {}
    for symbol, field, place in _parts(names):
        symbols.setdefault(symbol, {})[field] = place
    return {symbol: fields for symbol, fields in symbols.items() if set(FIELDS) <= fields.keys()}


def _parts(names: Sequence[str]) -> Iterator[tuple[str, str, int]]:
    for place, name in enumerate(names):
        match = _SIDE_BY_SIDE.fullmatch(name.strip())
        if match:
            symbol, field = match["symbol"] or match["symbol2"], match["field"] or match["field2"]
            yield symbol.strip(), field.lower(), place
