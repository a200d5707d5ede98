"""`as_of` means as of then: a question about a time gets the same answer after the ledger has grown.

What is asked is asked at that time first, of a ledger that ends there, and again when the future has come: later bars,
revisions of earlier ones, forecasts of later closes, and forecasts of earlier closes that were slow.
"""

from __future__ import annotations

import sys
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecaster.accuracy.assess import assess
from forecaster.accuracy.report.content import Scope
from forecaster.bars import Bars
from forecaster.client import report_section, trust_in
from forecaster.cycle.settle import settled_losses
from forecaster.ledger import LIVE, Run
from forecaster.store import open_store
from forecaster.store.memory import MemoryStore
from tests.accuracy.report.test_page import BEFORE, make_lognormal
from tests.builders import HOUR_MS, make_bars, make_key
from tests.cli import error_line, forecaster

KEY = make_key()
CUTOFFS = 44
SEEN_MS, ISSUED_MS = 500, 2_000
LATENCIES_MS = (3_000, 900, 90 * 60_000, 1_500, 4 * HOUR_MS)
"""Of one forecast after the other; some are there only when newer ones are."""
DECIDING = """
from forecaster import Signal


def deciding(forecast, position, context):
    known = None if context.trust is None else context.trust.value
    return Signal(0.5, f"{context.last_close} {known} {forecast.cutoff} {forecast.values_FHQ.sum()}")
"""


def make_events():
    """What happens to a ledger, as (time, write) by time."""
    bars = make_bars(KEY, BEFORE + CUTOFFS)
    events = []
    for i, close in enumerate(bars.close_time.tolist()):
        events.append((close + SEEN_MS, adding(bars, i, 1.0, close + SEEN_MS)))
        if i % 3 == 0:
            later = close + 5 * HOUR_MS + 17
            events.append((later, adding(bars, i, 1.0005, later)))
    for i in range(CUTOFFS):
        cutoff = int(bars.close_time[BEFORE + i])
        for place, name in enumerate(("nano", "random_walk", "garch")):
            made = make_lognormal(KEY, bars, i, bars.close[BEFORE + i] * (1 + 1e-4 * i), (1, 1.1), name)
            available_at = cutoff + ISSUED_MS + LATENCIES_MS[(i + place) % len(LATENCIES_MS)]
            made = replace(made, issued_at=cutoff + ISSUED_MS, available_at=available_at)
            events.append((available_at, lambda store, made=made: store.add_forecasts([made], LIVE)))
    return bars, sorted(events, key=lambda one: one[0])


def adding(bars, i, factor, seen_at):
    """Add bar i, all its prices times a factor, as seen at a time."""
    ohlcv_TF = bars.ohlcv_TF[i : i + 1] * np.array([factor] * 4 + [1.0])
    bar = Bars(KEY, bars.open_time[i : i + 1], ohlcv_TF, np.array([seen_at]))
    return lambda store: store.add_bars(bar)


BARS, EVENTS = make_events()
FIRST, LAST = int(BARS.close_time[BEFORE]), int(BARS.close_time[-1])
times = st.integers(FIRST, LAST + 6 * HOUR_MS)


def grow(store, after, until):
    """Let happen what happens in (after, until]."""
    with store.transaction():
        for time, write in EVENTS:
            if after < time <= until:
                write(store)


def asked_twice(ask, time):
    """What is answered at a time, and of the same time when all has come, by the store in memory."""
    store = MemoryStore()
    store.add_run(Run(LIVE, LIVE, 0))
    grow(store, 0, time)
    first = ask(store, time)
    grow(store, time, LAST + 9 * HOUR_MS)
    return first, ask(store, time)


def told_of(one):
    """A record as text with every bit of its numbers; arrays are no equal records."""
    with np.printoptions(threshold=sys.maxsize, floatmode="unique"):
        return repr(one)


@settings(max_examples=8, deadline=None)
@given(times)
def test_what_the_report_says(time):
    """Bars, newest forecast, evidence, trust and scenes of a series."""

    def ask(store, time):
        found = report_section(store, KEY, Scope("nano", LIVE, time))
        shown = [
            (one.title, told_of(one.fan), told_of(one.bars.ohlcv_TF), told_of(one.bars.open_time))
            for one in found.panels
        ]
        newest = None if found.latest is None else (told_of(found.latest), told_of(found.latest.values_FHQ))
        return newest, told_of(found.trust), told_of(found.evidence), shown

    first, again = asked_twice(ask, time)

    assert again == first


@settings(max_examples=15, deadline=None)
@given(times)
def test_accuracy_and_trust(time):
    """Every sum, verdict and factor."""

    def ask(store, time):
        found = assess(settled_losses(store, [KEY], time), reference="garch")
        trusted = trust_in(store, KEY, "nano", 1, time)
        return told_of(found.scores.reports()), told_of(found.verdicts), told_of(trusted)

    first, again = asked_twice(ask, time)

    assert again == first


@settings(max_examples=15, deadline=None)
@given(times)
def test_newest_forecast_and_history(time):
    """Never one that came later, however much newer; and one that was there, however many newer ones there are now."""

    def ask(store, time):
        newest = store.latest(KEY, "nano", as_of=time)
        rows = store.history(KEY, 0, 2**60, as_of=time)
        return newest.cutoff if newest else None, [
            (one.cutoff, one.model_id, one.step, one.available_at) for one in rows
        ]

    (newest, rows), again = asked_twice(ask, time)
    there = [cutoff for cutoff, model, _, available_at in rows if model.name == "nano"]

    assert again == (newest, rows)
    assert newest == max(there, default=None)
    assert all(available_at <= time for *_, available_at in rows)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A configuration, its empty ledger, and a strategy whose reason holds all that it was told."""
    (tmp_path / "my_strategy.py").write_text(DECIDING)
    (tmp_path / "config.toml").write_text(
        '[[series]]\nexchange = "binance"\nsymbol = "BTC/USDT"\ntimeframe = "1h"\nfile = "none.csv"\n'
        f'[model]\nbaselines = ["random_walk", "garch"]\n[store]\nurl = "sqlite:///{tmp_path}/ledger.db"\n'
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


@pytest.mark.parametrize(
    "time",
    [
        pytest.param(LAST - 2 * HOUR_MS + ISSUED_MS + 901, id="between two commits of a close"),
        pytest.param(LAST + 20 * 60_000, id="while slow forecasts are under way"),
    ],
)
def test_commands(folder, time):
    """`signal`, `latest`, `accuracy` and `report` print and write the same bytes."""
    as_of = str(np.datetime64(time, "ms"))
    commands = [
        ("signal", "--strategy", "my_strategy:deciding", "--json"),
        ("latest", "--json"),
        ("accuracy", "--reference", "garch", "--json"),
        ("report", "--out", "report.html"),
    ]

    def ask():
        record = [forecaster(*one, "--config", "config.toml", "--as-of", as_of) for one in commands]
        assert [one.returncode for one in record] == [0] * 4, record
        return [one.stdout for one in record[:3]], (folder / "report.html").read_bytes()

    with closing(open_store(f"sqlite:///{folder}/ledger.db")) as store:
        store.add_run(Run(LIVE, LIVE, 0))
        grow(store, 0, time)
    first = ask()
    with closing(open_store(f"sqlite:///{folder}/ledger.db")) as store:
        grow(store, time, LAST + 9 * HOUR_MS)
    again = ask()

    assert '"state": "fresh"' in first[0][0]
    assert again == first


@pytest.mark.parametrize(
    "command", ["signal --strategy strategies.trend", "latest", "accuracy", "report", "once"], ids=lambda one: one[:8]
)
def test_a_time_that_is_still_to_come_is_refused(folder, command):
    """The same question would be answered otherwise later; and no cycle is run ahead of its bars."""
    words = error_line(*command.split(), "--config", "config.toml", "--as-of", "2100-01-01")

    assert words == "ConfigError: --as-of: expected a time that has passed, found '2100-01-01'"
    assert not (folder / "ledger.db").exists()
