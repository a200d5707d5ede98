"""The meaning of column names, in the languages of exports.

Names are compared by their letters and digits alone, without accents: `<OPEN>`, `Open*`, `1. open` and `open (USD)` are
equal. Among names of one meaning, the one with the smallest rank is the most specific.
"""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING, Final, NamedTuple

from forecaster.errors import BadPayload
from forecaster.tables import COLUMNS, FIELDS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from forecaster.tables import Table

# The first group is the most specific. English; Polish; German; French; Spanish, Italian and Portuguese; Dutch;
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

# The first group is the most specific: `open_time` comes before the date of the same row.
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
_CLOCK_RANKS: Final = (3, 4, 5, 9)  # names that may mean a time of day beside a date
_UNSURE_TIME_WORDS: Final = ("index", "id", "level0", "unnamed0", "unnamed", "")
_CLOSE_TIME_WORDS: Final = (
    "closetime closetimestamp klineclosetime timeclose end endtime endtimestamp timeend timeperiodend periodend barend"
    " windowend closingtime"
)

# The last group but one is ambiguous. A name of the last group may divide the rows into several series.
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
_WIDE_NAME: Final = re.compile(
    rf"(?P<symbol>.+)(?P<mark>[:.|_ ])(?P<field>{_ENGLISH})|(?P<field2>{_ENGLISH})(?P<mark2>[:.|_ ])(?P<symbol2>.+)",
    re.IGNORECASE,
)


def normalize_name(name: str) -> str:
    """Return the letters and digits of a name, in lower case, without accents and without a unit in brackets."""
    text = unicodedata.normalize("NFKD", name.strip().casefold().translate(_LETTERS))
    text = _NUMBERED.sub("", text, count=1) if text[:1].isdigit() else text
    outside = _BRACKETS.sub(lambda match: match[1] if _letters(match[1]) in _SIDES else "", text)
    return _letters(outside) or _letters(text)


def _letters(text: str) -> str:
    return "".join(filter(str.isalnum, text))


def _rank(words: Sequence[str]) -> dict[str, int]:
    return {normalize_name(word): rank for rank, group in reversed(list(enumerate(words))) for word in group.split()}


class FieldMatch(NamedTuple):
    """The field that a name means; `side` is `bid`, `ask`, `mid`, `adjusted` or empty."""

    field: str
    rank: int
    side: str = ""


TIME_RANKS: Final[Mapping[str, int]] = _rank(_TIME_WORDS)
TIME_OF_DAY_NAMES: Final[frozenset[str]] = frozenset(word for word, rank in TIME_RANKS.items() if rank in _CLOCK_RANKS)
AMBIGUOUS_TIME_NAMES: Final[frozenset[str]] = frozenset(_UNSURE_TIME_WORDS)
CLOSE_TIME_NAMES: Final[frozenset[str]] = frozenset(_CLOSE_TIME_WORDS.split())
SYMBOL_RANKS: Final[Mapping[str, int]] = _rank(_SYMBOL_WORDS)
AMBIGUOUS_SYMBOL_RANK: Final = len(_SYMBOL_WORDS) - 2
"""Names of smaller ranks always mean symbols. Names of larger ranks raise `Ambiguous`."""
TIMEFRAME_NAMES: Final[frozenset[str]] = frozenset(_TIMEFRAME_WORDS.split())
_FIELD_MATCHES: Final[Mapping[str, FieldMatch]] = {
    word: FieldMatch(field, rank) for field, groups in _FIELD_WORDS.items() for word, rank in _rank(groups).items()
}


def find_position(table: Table, name: str) -> int:
    """Return the position of a column by its exact name, else by its name without case, else by its normalized name.

    Raises:
        BadPayload: for a name that no column has.
    """
    for spell in (str, str.casefold, normalize_name):
        for place, other in enumerate(table.names):
            if spell(other.strip()) == spell(name.strip()):
                return place
    raise BadPayload(table.source, f"a column named one of {table.names}", name)


def is_lowercase_letter(name: str) -> bool:
    """Return whether a name is one lower-case letter, such as `t`, beside which `T` has another meaning."""
    return len(name.strip()) == 1 and name.strip().islower()


def prefer_lowercase(table: Table, places: list[int]) -> list[int]:
    """Of columns named t and T, return the lower-case one."""
    return [place for place in places if is_lowercase_letter(table.names[place])] or places


def match_field(name: str) -> FieldMatch | None:
    """Return the field that a column of this name holds; None for other names."""
    key = normalize_name(name)
    if key in _FIELD_MATCHES:
        return _FIELD_MATCHES[key]
    for word, side in _SIDES.items():
        for rest in (key.removeprefix(word), key.removesuffix(word)):
            if rest != key and rest in _FIELD_MATCHES:
                return _FIELD_MATCHES[rest]._replace(side=side)
    for currency in _CURRENCIES:
        price = _FIELD_MATCHES.get(key.removesuffix(currency))
        if price and price.field in FIELDS:
            return price
    return None


def match_fields(names: Sequence[str]) -> dict[str, dict[str, dict[int, list[int]]]]:
    """Return the positions of the columns of each field: by side, field and rank."""
    matches: dict[str, dict[str, dict[int, list[int]]]] = {"": {}}
    for place, name in enumerate(names):
        if match := match_field(name):
            matches.setdefault(match.side, {}).setdefault(match.field, {}).setdefault(match.rank, []).append(place)
    return matches


def wide_columns(names: Sequence[str]) -> dict[str, dict[str, int]]:
    """Return the positions of the fields of each symbol in wide format, as in `BTC/USD:open` or `Close_AAPL`."""
    symbols: dict[str, dict[str, int]] = {}
    for symbol, field, place in _split_wide_names(names):
        symbols.setdefault(symbol, {})[field] = place
    return {symbol: fields for symbol, fields in symbols.items() if set(FIELDS) <= fields.keys()}


def _split_wide_names(names: Sequence[str]) -> Iterator[tuple[str, str, int]]:
    for place, name in enumerate(names):
        match = _WIDE_NAME.fullmatch(name.strip())
        if match:
            symbol, field = match["symbol"] or match["symbol2"], match["field"] or match["field2"]
            yield symbol.strip(), field.lower(), place
