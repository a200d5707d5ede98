"""Reading a ledger without a configuration: what is latest, what is too old, and what comes next."""

from __future__ import annotations

import datetime as dt
import threading
from contextlib import closing

import numpy as np
import pytest

from forecaster import LedgerClient, MemoryStore, StaleForecast
from forecaster.client import BASELINES
from forecaster.errors import ConfigError, InvalidArgument, LedgerMissing
from forecaster.ledger import LIVE, Run
from forecaster.store.sql import SqlStore
from tests.builders import HOUR_MS, make_bars, make_key
from tests.forecast_builders import make_forecast, make_provenance

BARS = make_bars(count=120)
KEY = BARS.key
NAME = ("binance", "BTC/USDT", "1h")


def add(store, i=99, model="nano", key=KEY):
    """Record a forecast at the close of bar `i`."""
    cutoff = int(BARS.close_time[i])
    store.add_run(Run(LIVE, LIVE, cutoff))
    store.add_forecasts([make_forecast(key, cutoff, issued_at=cutoff + 1000, provenance=make_provenance(model))], LIVE)
    return cutoff


@pytest.fixture
def store():
    store = MemoryStore()
    store.add_bars(BARS)
    return store


@pytest.fixture
def clock(monkeypatch):
    """The time of the clock, settable."""
    now = [int(BARS.close_time[99]) + 10_000]
    monkeypatch.setattr("forecaster.client.now_ms", lambda: now[0])
    return now


@pytest.mark.parametrize("series", [KEY, NAME, "binance BTC/USDT 1h"])
def test_latest_takes_a_key_a_tuple_or_a_text(store, clock, series):
    cutoff = add(store)

    assert LedgerClient(store).latest(series).cutoff == cutoff


def test_latest_knows_the_last_close(store, clock):
    add(store)

    assert LedgerClient(store).latest(NAME).last_close == BARS.close[99]


def test_no_forecast_is_none(store, clock):
    assert LedgerClient(store, "nano").latest(NAME) is None


def test_stale_forecast_is_raised_and_not_returned(store, clock):
    """Until its first target bar has closed it is fresh. The error carries it."""
    cutoff = add(store)
    client = LedgerClient(store)
    clock[0] = cutoff + HOUR_MS - 1
    fresh = client.latest(NAME)
    clock[0] = cutoff + HOUR_MS
    with pytest.raises(
        StaleForecast, match=r"expected a forecast that is fresh at .* the latest has cutoff"
    ) as refused:
        client.latest(NAME)

    assert fresh.cutoff == refused.value.forecast.cutoff == cutoff


@pytest.mark.parametrize("max_age", ["119m", "1h", dt.timedelta(minutes=119)])
def test_older_than_max_age_is_raised(store, clock, max_age):
    clock[0] = add(store) + 2 * HOUR_MS

    with pytest.raises(StaleForecast):
        LedgerClient(store).latest(NAME, max_age=max_age)


@pytest.mark.parametrize("max_age", ["any", "120m", "2h", "3d", dt.timedelta(hours=2)])
def test_max_age_allows_an_older_forecast(store, clock, max_age):
    cutoff = add(store)
    clock[0] = cutoff + 2 * HOUR_MS

    assert LedgerClient(store).latest(NAME, max_age=max_age).cutoff == cutoff


def test_max_age_may_be_shorter_than_a_bar(store, clock):
    clock[0] = add(store) + HOUR_MS // 2

    with pytest.raises(StaleForecast, match="at most 10m old"):
        LedgerClient(store).latest(NAME, max_age="10m")


def test_staleness_as_of_a_time_is_judged_at_that_time(store, clock):
    cutoff = add(store)
    clock[0] = cutoff + 9 * HOUR_MS

    assert LedgerClient(store).latest(NAME, as_of=cutoff + HOUR_MS // 2).cutoff == cutoff
    with pytest.raises(StaleForecast):
        LedgerClient(store).latest(NAME, as_of=cutoff + HOUR_MS)


@pytest.mark.parametrize("max_age", ["2 h", "h", "", "fresh ", None, 3])
def test_other_max_age_is_refused(store, clock, max_age):
    with pytest.raises(InvalidArgument, match="max_age: expected"):
        LedgerClient(store, "nano").latest(NAME, max_age=max_age)


def test_unknown_series_names_those_in_the_ledger(store, clock):
    with pytest.raises(ConfigError, match="expected one of binance BTC/USDT 1h, found 'kraken BTC/USDT 1h'"):
        LedgerClient(store).latest(("kraken", "BTC/USDT", "1h"))


def test_series_that_is_added_later_is_found(store, clock):
    client = LedgerClient(store, "nano")
    before = client.latest(NAME)
    other = make_bars(make_key(symbol="ETH/USDT"), count=120)
    store.add_bars(other)
    cutoff = add(store, key=other.key)

    assert before is None
    assert client.latest("binance ETH/USDT 1h").cutoff == cutoff


def test_model_is_the_only_one_that_is_no_baseline(store, clock):
    for model in ("random_walk", "nano", "garch"):
        add(store, model=model)

    assert LedgerClient(store).model == "nano"


def test_one_of_several_models_must_be_named(store, clock):
    add(store, model="nano")
    cutoff = add(store, 98, model="large")

    with pytest.raises(InvalidArgument, match="model: expected one of large, nano"):
        LedgerClient(store).latest(NAME)
    assert LedgerClient(store, "large").latest(NAME, max_age="any").cutoff == cutoff


def test_baselines_are_those_of_the_package():
    from forecaster.model.baselines import BASELINES as CREATED

    assert set(CREATED) == BASELINES


@pytest.mark.parametrize("form", ["path", "text", "url"])
def test_ledger_is_a_path_or_a_url(tmp_path, clock, form):
    path = tmp_path / "ledger.db"
    with closing(SqlStore(f"sqlite:///{path}")) as store:
        store.add_bars(BARS)
        cutoff = add(store)
    ledger = {"path": path, "text": str(path), "url": f"sqlite:///{path}"}[form]
    with LedgerClient(ledger) as client:
        found = client.latest(NAME)

    assert found.cutoff == cutoff


def test_missing_ledger_is_told_by_its_absolute_path(tmp_path, clock):
    with LedgerClient(tmp_path / "none.db") as client, pytest.raises(LedgerMissing, match=f"{tmp_path}/none.db"):
        client.latest(NAME)


def test_wait_for_next_returns_the_one_that_comes(store, clock):
    add(store)
    timer = threading.Timer(0.05, lambda: add(store, 100))
    timer.start()
    found = LedgerClient(store).wait_for_next(NAME, timeout=30)
    timer.join()

    assert (found.cutoff, found.last_close) == (BARS.close_time[100], BARS.close[100])


def test_wait_for_next_ends_at_its_timeout(store, clock):
    add(store)

    with pytest.raises(TimeoutError, match=r"binance BTC/USDT 1h: expected a new forecast within 0\.01 s"):
        LedgerClient(store).wait_for_next(NAME, timeout=0.01)


def test_unknown_run_or_model_is_no_silent_none(store, clock):
    add(store)

    with pytest.raises(ConfigError, match="run: expected one of live"):
        LedgerClient(store).latest(NAME, run="replai")
    with pytest.raises(InvalidArgument, match="model: expected one of nano, found chronos"):
        LedgerClient(store, "chronos").latest(NAME)
    with pytest.raises(ConfigError, match="run: expected one of live"):
        LedgerClient(store).history(NAME, 0, 1, run="replai")


def test_key_without_its_calendar_is_the_series_of_that_name(clock):
    key = make_key("arch", "SPX/USD", "1d", "XNYS")
    store = MemoryStore()
    store.add_bars(make_bars(key, count=5))
    asked = make_key("arch", "SPX/USD", "1d")

    assert LedgerClient(store, "nano").key(asked) == key


@pytest.mark.parametrize("as_of", ["2017-01-20", 1.5, True])
def test_as_of_is_a_whole_number(store, clock, as_of):
    add(store)

    with pytest.raises(InvalidArgument, match="as_of: expected UTC milliseconds"):
        LedgerClient(store).latest(NAME, as_of=as_of)


def test_as_of_may_be_of_numpy(store, clock):
    cutoff = add(store)

    assert LedgerClient(store).latest(NAME, as_of=np.int64(cutoff + 5000)).cutoff == cutoff


def test_series_of_the_ledger_are_read_once(store, clock, monkeypatch):
    """Also where a key is given, which is the fast way."""
    add(store)
    client, calls = LedgerClient(store), []
    series = store.series
    monkeypatch.setattr(store, "series", lambda: calls.append(1) or series())
    for asked in (KEY, NAME, KEY, "binance BTC/USDT 1h"):
        client.key(asked)

    assert len(calls) == 1


@pytest.mark.parametrize("timeout", [-1, float("nan")])
def test_timeout_is_0_or_more(store, clock, timeout):
    with pytest.raises(InvalidArgument, match="timeout: expected seconds, 0 or more"):
        LedgerClient(store, "nano").wait_for_next(NAME, timeout)
