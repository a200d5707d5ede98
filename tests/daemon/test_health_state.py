"""What the daemon knows of itself: who is overdue, which series are stale, what is told, and what is counted.

Shapes: N steps, F fields, Q quantile levels.
"""

from __future__ import annotations

import dataclasses
import math
import sys
import threading
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from forecaster.accuracy.losses import compute_losses
from forecaster.accuracy.significance import describe_skill
from forecaster.accuracy.trust import Trust, Verdict
from forecaster.config import Config
from forecaster.cycle.run import CycleReport
from forecaster.daemon.health_state import DRIFT_ACTIVE_SECONDS, REVISED_ACTIVE_SECONDS, HealthState, Phase
from forecaster.daemon.live_view import next_closes
from forecaster.daemon.prometheus import KINDS, NAMES
from forecaster.ledger import Hold
from forecaster.model.chronos2.bucket import BucketStatus
from forecaster.model.chronos2.compiled import ModelStatus
from forecaster.timeframe import Timeframe
from tests.builders import HOUR_MS, make_key, utc_ms
from tests.forecast_builders import CUTOFF, LATENCY_MS, TENS, make_forecast, make_past, make_steps

HOUR = Timeframe("1h")
BITCOIN, ETHER, DOGE = (make_key("kraken", symbol) for symbol in ("BTC/USD", "ETH/USD", "DOGE/USD"))
ELSEWHERE = make_key("binance", "BTC/USDT")
STOCK = make_key("files", "AAPL/USD", "1d", "XNYS")
COLUMN_INDEX = {"exchange": "kraken", "timeframe": "1h"}
SETTLE_MS = 5_000

CONTRACT = {
    "forecaster_cycles_total": {"exchange", "timeframe", "outcome"},
    "forecaster_cycle_duration_seconds": {"exchange", "timeframe"},
    "forecaster_source_wait_seconds_total": {"exchange", "timeframe"},
    "forecaster_model_seconds_total": {"exchange", "timeframe"},
    "forecaster_forecast_latency_seconds": {"exchange", "timeframe"},
    "forecaster_forecast_lag_seconds": {"exchange", "timeframe"},
    "forecaster_stale_series": {"exchange", "timeframe"},
    "forecaster_fetch_errors_total": {"exchange", "error"},
    "forecaster_breaker_open": {"exchange"},
    "forecaster_engine_bucket": {"bucket", "engine"},
    "forecaster_compile_fallbacks_total": set(),
    "forecaster_forecasts_total": {"exchange", "timeframe", "outcome"},
    "forecaster_missed_closes_total": {"exchange", "timeframe"},
    "forecaster_revised_bars_total": {"exchange", "timeframe"},
    "forecaster_unconfirmed_answers_total": {"exchange", "timeframe"},
    "forecaster_series_awaiting_bars": {"exchange", "timeframe"},
    "forecaster_exchange_clock_offset_seconds": {"exchange"},
    "forecaster_ledger_healthy": set(),
    "forecaster_skipped_series_total": {"exchange", "timeframe", "error"},
    "forecaster_baseline_failures_total": {"model"},
    "forecaster_skill_ratio": {"exchange", "timeframe"},
    "forecaster_coverage80_ratio": {"exchange", "timeframe"},
    "forecaster_drifts_total": {"measure"},
    "forecaster_queue_length": set(),
    "forecaster_lease_held": set(),
    "forecaster_lease_epoch": set(),
    "forecaster_ready": set(),
    "forecaster_scheduler_faults_total": set(),
    "forecaster_alerts_total": {"kind", "outcome"},
    "forecaster_disk_free_bytes": set(),
}


NO_DISK = SimpleNamespace(free=0)


class Hands:
    """Two clocks that a test sets: UTC ms, and monotonic seconds."""

    def __init__(self, now=CUTOFF):
        self.now = now
        self.seconds = 1000.0


def make_config(*keys, deadline=30.0, folder=".", **sections):
    """A configuration of these series; those of the exchange `files` are read from one."""
    series = [
        {"exchange": key.exchange, "symbol": key.symbol, "timeframe": str(key.timeframe), "calendar": key.calendar}
        | ({"file": "unused.csv"} if key.exchange == "files" else {})
        for key in keys or (BITCOIN,)
    ]
    names = {key.exchange for key in keys or (BITCOIN,)} - {"files"}
    exchanges = {name: {"id": "kraken", "deadline": deadline} for name in names}
    return Config.model_validate(
        {"series": series, "exchanges": exchanges, "store": {"url": f"sqlite:///{folder}/ledger.db"}, **sections}
    )


def make_health_state(*keys, hands=None, phase=Phase.READY, **config):
    """HealthState of a daemon that has come so far; every series is as fresh as it can be at the start."""
    hands = hands or Hands()
    health_state = HealthState(make_config(*keys, **config), lambda: hands.now, lambda: hands.seconds)
    health_state.enter_phase(phase)
    for key in keys or (BITCOIN,):
        health_state.record_latest_forecast(key, hands.now)
    return health_state


def make_report(**changes):
    """A cycle in which nothing happened."""
    nothing = CycleReport(
        timeframe=HOUR,
        exchange="kraken",
        as_of=CUTOFF,
        series=1,
        bars_added=0,
        forecasts=[],
        settled=[],
        skipped={},
        permanent_failures=frozenset(),
        failed_baselines={},
        drifts=[],
        missed=0,
        seconds=2.0,
        waited_seconds=0.25,
        model_seconds=0.5,
    )
    return dataclasses.replace(nothing, **changes)


def make_bucket(rows=8, state="serving", calls=1, reason="2.1 times as quick"):
    return BucketStatus(
        rows=rows,
        bars=256,
        patches=1,
        group=4,
        missing="nothing",
        engine="compiled" if state == "serving" else "eager",
        state=state,
        reason=reason,
        eager_calls=0,
        compiled_calls=calls,
        samples=0,
        faults=(),
        eager_s=None,
        compiled_s=None,
        max_rel_diff=None,
    )


def make_trust(n, skill, p_value):
    """What the tests of skill say of so many closes."""
    words = describe_skill(skill, p_value, n)
    found = Verdict(BITCOIN, "nano@1", "served", "random_walk", None, 1, n, skill, None, None, p_value, words)
    return Trust(0.0, 0.0, 1.0, 1.0, 1.0, found, ())


def samples(health_state):
    """Every sample of the exposition, by name and labels."""
    families = text_string_to_metric_families(health_state.metrics_text().decode())
    return {(one.name, frozenset(one.labels.items())): one.value for family in families for one in family.samples}


def value(health_state, name, **labels):
    return samples(health_state).get((name, frozenset(labels.items())))


def conditions_of(health_state, kind):
    """The conditions of a kind."""
    return [condition for condition in health_state.conditions() if condition.kind == kind]


def test_an_component_that_stops_is_named():
    hands = Hands()
    health_state = make_health_state(hands=hands)
    health_state.register("worker", 60)
    hands.seconds += 60
    before = health_state.unhealthy()
    hands.seconds += 1

    assert before == []
    assert health_state.unhealthy() == ["worker: no progress for 61 s, expected within 60 s"]
    assert health_state.not_ready_reasons() == health_state.unhealthy()
    assert [(condition.subject, condition.severity) for condition in conditions_of(health_state, "not_alive")] == [
        ("worker", "critical")
    ]


@pytest.mark.parametrize("mend", ["beat", "expect", "rest"])
def test_an_component_that_goes_on_is_alive_again(mend):
    hands = Hands()
    health_state = make_health_state(hands=hands)
    health_state.register("worker", 60)
    hands.seconds += 100
    {
        "beat": health_state.heartbeat,
        "rest": health_state.unregister,
        "expect": lambda component: health_state.register(component, 60),
    }[mend]("worker")

    assert health_state.unhealthy() == []


def test_a_beat_counts_from_when_it_came():
    hands = Hands()
    health_state = make_health_state(hands=hands)
    health_state.register("worker", 60)
    for _ in range(10):
        hands.seconds += 59
        health_state.heartbeat("worker")
        assert health_state.unhealthy() == []
    hands.seconds += 61

    assert len(health_state.unhealthy()) == 1


def test_a_wedged_scheduler_shows_while_the_worker_beats():
    """Each component is watched alone: one that is busy does not hide one that hangs."""
    hands = Hands()
    health_state = make_health_state(hands=hands)
    for component in ("scheduler", "worker"):
        health_state.register(component, 30)
    for _ in range(4):
        hands.seconds += 10
        health_state.heartbeat("worker")

    assert health_state.unhealthy() == ["scheduler: no progress for 40 s, expected within 30 s"]


def test_the_wall_clock_says_nothing_about_life():
    hands = Hands()
    health_state = make_health_state(hands=hands)
    health_state.register("worker", 30)
    hands.now += 365 * 24 * HOUR_MS

    assert health_state.unhealthy() == []


def test_who_was_never_expected_or_rests_is_not_missed():
    hands = Hands()
    health_state = make_health_state(hands=hands)
    health_state.heartbeat("guest")
    health_state.register("worker", 30)
    health_state.unregister("worker")
    health_state.unregister("worker")
    health_state.heartbeat("worker")
    hands.seconds += 1000

    assert health_state.unhealthy() == []


def working(*keys, hands):
    """HealthState of a daemon that has begun to work."""
    health_state = make_health_state(*keys, hands=hands)
    health_state.enter_phase(Phase.CATCHING_UP)
    health_state.enter_phase(Phase.READY)
    return health_state


def pass_time(hands, seconds):
    hands.seconds += seconds
    hands.now += round(1000 * seconds)


def end_by_skipping(health_state):
    """A cycle of an exchange that is down."""
    health_state.record_cycle(make_report(skipped={BITCOIN: "SourceUnavailable: down"}), None, [])


ENDS = {
    "skipped": end_by_skipping,
    "failed": lambda health_state: health_state.record_cycle_failure("kraken", HOUR, RuntimeError("odd")),
}


def test_a_place_whose_cycles_do_not_end_is_not_alive():
    """Three closes have passed, and every component beats: a loop that turns makes no forecast."""
    hands = Hands()
    health_state = working(BITCOIN, ELSEWHERE, hands=hands)
    pass_time(hands, 3 * 3600 + 60)
    health_state.record_cycle(make_report(exchange="binance"), None, [])
    expected = ["kraken 1h: no cycle has ended for 10860 s, though 3 closes have passed"]

    assert health_state.unhealthy() == expected
    assert expected[0] in health_state.not_ready_reasons()
    assert [(condition.subject, condition.severity) for condition in conditions_of(health_state, "not_alive")] == [
        ("kraken 1h", "critical")
    ]
    health_state.record_cycle(make_report(), None, [])
    assert health_state.unhealthy() == []


@pytest.mark.parametrize("end", ENDS)
def test_a_cycle_that_ends_in_whatever_way_is_progress(end):
    """An exchange that is down, or a fault that returns: a restart would not help."""
    hands = Hands()
    health_state = working(BITCOIN, hands=hands)
    for _ in range(48):
        pass_time(hands, 3600)
        ENDS[end](health_state)
        assert health_state.unhealthy() == []
    pass_time(hands, 4 * 3600)

    assert len(health_state.unhealthy()) == 1


def test_bars_of_a_minute_have_time_for_two_slow_cycles():
    """One of the same exchange that is in hand, and their own."""
    hands = Hands()
    health_state = working(make_key("kraken", "BTC/USD", "1m"), hands=hands)
    pass_time(hands, 1200)
    before = health_state.unhealthy()
    pass_time(hands, 1)

    assert before == []
    assert len(health_state.unhealthy()) == 1


def test_a_market_that_sleeps_is_alive():
    """Nothing is due for a weekend; three sessions without the end of a cycle are another matter."""
    hands = Hands(utc_ms("2024-05-17 21:00"))
    health_state = working(STOCK, hands=hands)
    pass_time(hands, 3.5 * 24 * 3600)
    before = health_state.unhealthy()
    pass_time(hands, 2 * 24 * 3600)

    assert before == []
    assert len(health_state.unhealthy()) == 1


@pytest.mark.parametrize("phase", [Phase.WAITING, Phase.CHECKING, Phase.DRAINING])
def test_who_runs_no_cycles_is_alive_without_them(phase):
    """A standby waits for months; a restart would change nothing."""
    hands = Hands()
    health_state = working(BITCOIN, hands=hands)
    health_state.enter_phase(phase)
    pass_time(hands, 90 * 24 * 3600)
    waited = health_state.unhealthy()
    health_state.enter_phase(Phase.CATCHING_UP)

    assert waited == health_state.unhealthy() == []


@pytest.mark.parametrize("kind", ["ledger_unavailable", "ledger_damaged"])
def test_a_ledger_that_fails_ends_readiness_and_not_life(kind):
    health_state = make_health_state()
    health_state.set_ledger_fault(kind, "store sqlite:////l.db: gone")
    found = (
        health_state.not_ready_reasons(),
        health_state.unhealthy(),
        [(condition.text, condition.severity) for condition in conditions_of(health_state, kind)],
    )
    gone = value(health_state, "forecaster_ledger_healthy")
    health_state.set_ledger_fault(kind, None)

    assert found == ([f"{kind}: store sqlite:////l.db: gone"], [], [("store sqlite:////l.db: gone", "critical")])
    assert health_state.not_ready_reasons() == conditions_of(health_state, kind) == []
    assert (gone, value(health_state, "forecaster_ledger_healthy")) == (0, 1)


@pytest.mark.parametrize("phase", [one for one in Phase if one is not Phase.READY])
def test_only_one_phase_is_ready(phase):
    health_state = make_health_state(phase=phase)
    reasons = health_state.not_ready_reasons()
    health_state.enter_phase(Phase.READY)

    assert reasons == [f"phase: {phase}"]
    assert health_state.not_ready_reasons() == []


def test_a_series_is_stale_when_more_than_the_tolerated_bars_are_behind():
    """With two tolerated bars, at the third close; bars settle for 5 s, and are asked for until 30 s behind that."""
    hands = Hands()
    health_state = make_health_state(hands=hands)
    hands.now = CUTOFF + 3 * HOUR_MS + SETTLE_MS + 30_000 - 1
    before = health_state.not_ready_reasons()
    hands.now += 1

    assert before == []
    assert health_state.not_ready_reasons() == [
        "kraken BTC/USD 1h: latest forecast of 2024-01-05 00:00 UTC, expected 2024-01-05 01:00 UTC or later"
    ]


@pytest.mark.parametrize(
    ("seconds", "exchange", "patience_s"),
    [(100.0, "kraken", 105), (100.0, None, 105), (1.0, "kraken", 35), (9000.0, "kraken", 3605)],
    ids=["its own", "of all exchanges", "shorter than the deadline", "longer than a bar"],
)
def test_the_time_of_the_cycle_is_allowed_for(seconds, exchange, patience_s):
    """But no more than a bar of it: a service that cannot keep up is late, however steadily."""
    hands = Hands()
    health_state = make_health_state(hands=hands)
    health_state.record_cycle(make_report(seconds=seconds, exchange=exchange), None, [])
    hands.now = CUTOFF + 3 * HOUR_MS + patience_s * 1000 - 1
    before = health_state.not_ready_reasons()
    hands.now += 1

    assert before == []
    assert len(health_state.not_ready_reasons()) == 1


@settings(derandomize=True, deadline=None, max_examples=200)
@given(
    st.sampled_from(["1m", "15m", "1h", "4h", "1d"]), st.integers(1, 5), st.integers(0, 12), st.integers(0, 86_400_000)
)
def test_staleness_is_a_count_of_closes(timeframe, tolerated, behind, past):
    """The rule in two lines: how many closes came behind the forecast, as of the time that is allowed for."""
    key = make_key("files", "BTC/USD", timeframe)
    hands = Hands()
    health_state = make_health_state(key, hands=hands, health={"stale_bars": tolerated})
    hands.now = CUTOFF + behind * key.timeframe.ms + past % key.timeframe.ms
    closes = (hands.now - SETTLE_MS) // key.timeframe.ms - CUTOFF // key.timeframe.ms

    assert bool(health_state.not_ready_reasons()) == (closes > tolerated)


@pytest.mark.parametrize(
    ("time", "stale"),
    [
        ("2018-11-25 12:00", False),
        ("2018-11-26 21:00:04", False),
        ("2018-11-26 21:00:05", False),
        ("2018-11-27 21:00:04", False),
        ("2018-11-27 21:00:05", True),
    ],
    ids=["weekend", "before one close", "behind one close", "before two closes", "behind two closes"],
)
def test_stocks_sleep_at_weekends(time, stale):
    """The forecast of the early close behind Thanksgiving serves until Tuesday, where one bar is tolerated."""
    hands = Hands(utc_ms("2018-11-23 18:00"))
    health_state = make_health_state(STOCK, hands=hands, health={"stale_bars": 1})
    hands.now = utc_ms(time)

    assert bool(health_state.not_ready_reasons()) == stale


def test_each_stale_series_is_named():
    hands = Hands()
    health_state = make_health_state(BITCOIN, ETHER, DOGE, hands=hands)
    hands.now += 10 * HOUR_MS
    health_state.record_latest_forecast(ETHER, hands.now)

    assert [one.split(":")[0] for one in health_state.not_ready_reasons()] == [str(BITCOIN), str(DOGE)]


def test_a_series_without_any_forecast_is_stale():
    health_state = HealthState(make_config(BITCOIN), lambda: CUTOFF, lambda: 0.0)
    health_state.enter_phase(Phase.READY)

    assert health_state.not_ready_reasons() == ["kraken BTC/USD 1h: no forecast yet"]


def test_what_is_caught_up_on_does_not_age_a_series():
    """Late forecasts of older cutoffs come behind the newest one, in one cycle or in the next."""
    hands = Hands()
    health_state = make_health_state(hands=hands)
    hands.now += 10 * HOUR_MS
    newest, older = (make_forecast(BITCOIN, hands.now - back * HOUR_MS) for back in (0, 7))
    health_state.record_cycle(make_report(forecasts=[newest, older]), None, [])
    health_state.record_latest_forecast(BITCOIN, CUTOFF)

    assert health_state.not_ready_reasons() == []


def test_a_series_that_is_not_configured_is_no_matter():
    health_state = make_health_state(BITCOIN)
    health_state.record_latest_forecast(ETHER, CUTOFF)
    health_state.record_cycle(make_report(forecasts=[make_forecast(ETHER)]), None, [])

    assert ETHER not in health_state._freshness._latest


def test_stale_series_are_reported_of_together():
    """One alert for a venue that is away, not one for each of its series; five are named."""
    keys = [make_key("kraken", f"A{i}/USD") for i in range(8)]
    hands = Hands()
    health_state = make_health_state(*keys, ELSEWHERE, hands=hands)
    hands.now += 10 * HOUR_MS
    health_state.record_latest_forecast(keys[0], hands.now)
    here, there = conditions_of(health_state, "stale_series")

    assert (here.subject, there.subject) == ("kraken 1h", "binance 1h")
    assert here.text.startswith(
        "no fresh forecast, 7 series: kraken A1/USD 1h, latest forecast of 2024-01-05 00:00 UTC"
    )
    assert here.text.endswith("; and 2 more")
    assert "1 series: binance BTC/USDT 1h" in there.text
    assert here.severity == "critical"


@pytest.mark.parametrize("phase", [one for one in Phase if one is not Phase.READY])
def test_staleness_is_reported_by_who_serves(phase):
    """A standby has old forecasts for months, and who catches up is about to mend it."""
    health_state = HealthState(make_config(BITCOIN), lambda: CUTOFF, lambda: 0.0)
    health_state.enter_phase(phase)

    assert conditions_of(health_state, "stale_series") == []


def test_failing_cycles_are_reported_until_one_is_completed():
    hands = Hands()
    health_state = make_health_state(hands=hands)
    for _ in range(3):
        health_state.record_cycle_failure("kraken", HOUR, RuntimeError("no\nsuch \x1b[31mthing"))
        hands.now += 60_000
    (found,) = conditions_of(health_state, "failing_cycle")
    health_state.record_cycle(make_report(timeframe=Timeframe("4h")), None, [])
    others = conditions_of(health_state, "failing_cycle")
    health_state.record_cycle(make_report(), None, [])

    assert found.subject == "kraken 1h"
    assert found.text == (
        "3 cycles failed in a row, since 2024-01-05 00:00 UTC, the last with RuntimeError: no such  [31mthing"
    )
    assert len(others) == 1
    assert conditions_of(health_state, "failing_cycle") == []
    assert value(health_state, "forecaster_cycles_total", **COLUMN_INDEX, outcome="failed") == 3
    assert value(health_state, "forecaster_cycles_total", **COLUMN_INDEX, outcome="completed") == 1


def test_a_standby_does_not_tell_of_cycles_that_failed_before():
    health_state = make_health_state()
    health_state.record_cycle_failure("kraken", HOUR, RuntimeError("lost"))
    health_state.enter_phase(Phase.WAITING)

    assert conditions_of(health_state, "failing_cycle") == []


def held(exchange, ms):
    """A hold of an exchange, until so long after the cutoff."""
    return Hold(exchange, CUTOFF + ms, "limit: 429 Too Many Requests", CUTOFF)


def test_a_hold_is_reported_while_it_lasts():
    """With its reason: a limit is no ban."""
    hands = Hands()
    health_state = make_health_state(BITCOIN, ELSEWHERE, hands=hands)
    health_state.record_cycle(make_report(), None, [held("kraken", 1000), held("binance", 0), held("unknown", 1000)])
    during = conditions_of(health_state, "ban")
    open_ = [value(health_state, "forecaster_breaker_open", exchange=name) for name in ("kraken", "binance", "unknown")]
    hands.now += 1000

    assert [(one.subject, one.text) for one in during] == [
        ("kraken", "kraken must not be asked until 2024-01-05 00:00:01 UTC: limit: 429 Too Many Requests")
    ]
    assert open_ == [1, 0, None]
    assert conditions_of(health_state, "ban") == []
    assert value(health_state, "forecaster_breaker_open", exchange="kraken") == 0


def test_a_fallback_is_reported_while_compiled_code_rests():
    health_state = make_health_state()
    buckets = (make_bucket(8), make_bucket(16, "cooling", reason="compiled code gave NaN\nrests 300 s"))
    health_state.record_cycle(make_report(), ModelStatus(buckets, 3, None), [])
    during = conditions_of(health_state, "fallback")
    health_state.record_cycle(make_report(), None, [])
    still = conditions_of(health_state, "fallback")
    health_state.record_cycle(make_report(), ModelStatus((make_bucket(8), make_bucket(16)), 3, None), [])

    assert [one.text for one in during] == ["eager serves 1 of 2 shapes: compiled code gave NaN rests 300 s"]
    assert still == during
    assert conditions_of(health_state, "fallback") == []


def test_a_drift_is_reported_for_a_day():
    hands = Hands()
    health_state = make_health_state(hands=hands)
    health_state.record_drift(BITCOIN, "coverage", 0.8123, 0.6)
    hands.seconds += DRIFT_ACTIVE_SECONDS - 1
    during = conditions_of(health_state, "drift")
    hands.seconds += 1

    assert [(one.subject, one.text) for one in during] == [
        ("kraken 1h", "skill or coverage changed, 1 series: kraken BTC/USD 1h, coverage 0.812 → 0.600")
    ]
    assert conditions_of(health_state, "drift") == []
    assert value(health_state, "forecaster_drifts_total", measure="coverage") == 1


def test_bars_that_changed_are_reported_for_an_hour():
    hands = Hands()
    health_state = make_health_state(hands=hands)
    health_state.record_cycle(
        make_report(revised_bars={BITCOIN: [CUTOFF - HOUR.ms, CUTOFF]}, unconfirmed={BITCOIN}), None, []
    )
    during = conditions_of(health_state, "revised")
    hands.seconds += REVISED_ACTIVE_SECONDS

    assert [(one.subject, one.severity) for one in during] == [("kraken 1h", "warning")]
    assert "1 series: kraken BTC/USD 1h, 2 bars" in during[0].text
    assert conditions_of(health_state, "revised") == []
    assert value(health_state, "forecaster_revised_bars_total", exchange="kraken", timeframe="1h") == 2
    assert value(health_state, "forecaster_unconfirmed_answers_total", exchange="kraken", timeframe="1h") == 1


def test_series_that_are_waited_for_and_clocks_are_shown():
    health_state = make_health_state()
    health_state.record_cycle(
        make_report(awaiting_bars={BITCOIN}, exchange_clock_offsets_ms={"kraken": -90_500}), None, []
    )
    during = value(health_state, "forecaster_series_awaiting_bars", exchange="kraken", timeframe="1h")
    health_state.record_cycle(make_report(), None, [])

    assert (during, value(health_state, "forecaster_series_awaiting_bars", exchange="kraken", timeframe="1h")) == (1, 0)
    assert value(health_state, "forecaster_exchange_clock_offset_seconds", exchange="kraken") == -90.5


@pytest.mark.parametrize(
    ("n", "skill", "p_value", "is_told"),
    [(400, -0.1, 0.001, True), (400, -0.01, 0.4, False), (400, 0.1, 0.001, False), (20, -0.1, 0.001, False)],
    ids=["surely worse", "perhaps worse", "better", "too few"],
)
def test_what_is_surely_worse_than_the_walk_is_reported(n, skill, p_value, is_told):
    """Skill that is not shown is the usual thing with prices, and no news."""
    health_state = make_health_state()
    health_state.record_trust(BITCOIN, make_trust(n, skill, p_value))

    assert bool(conditions_of(health_state, "no_skill")) == is_told


@pytest.mark.parametrize("trust", [None, make_trust(400, 0.1, 0.001)], ids=["nothing settled", "better"])
def test_what_has_become_better_is_reported_no_more(trust):
    health_state = make_health_state()
    health_state.record_trust(BITCOIN, make_trust(400, -0.1, 0.001))
    (before,) = conditions_of(health_state, "no_skill")
    health_state.record_trust(BITCOIN, trust)

    assert before.text == (
        "worse than the random walk, 1 series: kraken BTC/USD 1h, "
        "significantly worse than the random walk (p = 0.001), 400 closes"
    )
    assert conditions_of(health_state, "no_skill") == []


@pytest.mark.parametrize(("needed", "is_told"), [(0, False), (1 << 40, True)])
def test_a_disk_that_is_about_to_be_full_is_reported(tmp_path, needed, is_told):
    """Also before the folder of the ledger is there."""
    health_state = make_health_state(folder=tmp_path / "not" / "there", alerts={"disk_free_mib": needed})
    found = conditions_of(health_state, "disk")

    assert bool(found) == is_told
    assert all(condition.text.startswith(f"{tmp_path}: ") for condition in found)
    assert value(health_state, "forecaster_disk_free_bytes") > 0


def test_a_disk_that_no_one_can_ask_is_unknown(tmp_path, monkeypatch):
    def fail(_):
        raise OSError(5, "Input/output error")

    health_state = make_health_state(folder=tmp_path)
    monkeypatch.setattr("shutil.disk_usage", fail)

    assert conditions_of(health_state, "disk") == []
    assert math.isnan(value(health_state, "forecaster_disk_free_bytes"))


def test_every_kind_that_is_reported_is_known():
    """So that alerts of each stand at 0 from the start; another is counted, but makes no label of its own."""
    health_state = make_health_state()
    for kind in KINDS:
        assert value(health_state, "forecaster_alerts_total", kind=kind, outcome="sent") == 0
    health_state.record_alert("ban", "sent")
    health_state.record_alert("surprise", "failed")

    assert value(health_state, "forecaster_alerts_total", kind="ban", outcome="sent") == 1
    assert value(health_state, "forecaster_alerts_total", kind="other", outcome="failed") == 1


def full_vitals():
    """HealthState that have seen one of everything."""
    health_state = make_health_state(BITCOIN, ELSEWHERE, STOCK, model={"baselines": ["random_walk"]})
    steps = make_steps([90.0, 99.0, 105.0], 101.0, models=["nano@1", "random_walk@1"], key=BITCOIN)
    report = make_report(
        forecasts=[make_forecast(BITCOIN)],
        settled=[compute_losses(steps, make_past([100.0, 100.0], BITCOIN))],
        skipped={BITCOIN: "Banned: kraken: go away"},
        failed_baselines={"random_walk": "InferenceError: broken"},
        missed=2,
    )
    health_state.record_cycle(report, ModelStatus((make_bucket(),), 1, None), [held("kraken", 1)])
    health_state.record_drift(BITCOIN, "skill", 0.5, 0.4)
    return health_state


def test_the_exposition_has_every_metric_with_its_labels():
    """As Prometheus's own parser reads it; those of process and interpreter are beside them."""
    found = {}
    for family in text_string_to_metric_families(full_vitals().metrics_text().decode()):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        found[name] = {label for one in family.samples for label in one.labels} - {"le"}

    assert CONTRACT.items() <= found.items()
    assert set(CONTRACT) == set(NAMES)
    assert {"process_resident_memory_bytes", "process_cpu_seconds_total", "python_info"} <= found.keys()
    assert not [name for name in found if name.endswith("_created")]


def test_what_the_configuration_foresees_stands_at_zero():
    """A rate sees no first event of a series that begins with it."""
    at_start = samples(HealthState(make_config(BITCOIN, ELSEWHERE)))
    expected = [
        ("forecaster_cycles_total", {**COLUMN_INDEX, "outcome": "failed"}),
        ("forecaster_forecasts_total", {**COLUMN_INDEX, "outcome": "late"}),
        ("forecaster_missed_closes_total", COLUMN_INDEX),
        ("forecaster_cycle_duration_seconds_count", COLUMN_INDEX),
        ("forecaster_fetch_errors_total", {"exchange": "binance", "error": "Banned"}),
        ("forecaster_compile_fallbacks_total", {}),
        ("forecaster_scheduler_faults_total", {}),
    ]

    assert [at_start.get((name, frozenset(labels.items()))) for name, labels in expected] == [0] * len(expected)


def test_a_cycle_is_counted():
    late = make_forecast(BITCOIN, CUTOFF - 5 * HOUR_MS, issued_at=CUTOFF)
    report = make_report(
        forecasts=[make_forecast(BITCOIN, issued_at=CUTOFF + 7000), make_forecast(ETHER), late],
        skipped={DOGE: "NotEnoughBars: too few", ETHER: "RateLimited: later"},
        failed_baselines={"random_walk": "InferenceError: broken"},
        missed=3,
        seconds=2.5,
        waited_seconds=0.75,
        model_seconds=1.25,
    )
    health_state = make_health_state(BITCOIN, ETHER, DOGE)
    health_state.record_cycle(report, None, [])
    health_state.record_cycle(report, None, [])
    found = samples(health_state)
    expected = {
        ("forecaster_cycles_total", "outcome", "completed"): 2,
        ("forecaster_forecasts_total", "outcome", "on_time"): 4,
        ("forecaster_forecasts_total", "outcome", "late"): 2,
        ("forecaster_skipped_series_total", "error", "NotEnoughBars"): 2,
        ("forecaster_skipped_series_total", "error", "RateLimited"): 2,
    }

    assert {
        about: found[about[0], frozenset({**COLUMN_INDEX, about[1]: about[2]}.items())] for about in expected
    } == expected
    assert found["forecaster_missed_closes_total", frozenset(COLUMN_INDEX.items())] == 6
    assert found["forecaster_source_wait_seconds_total", frozenset(COLUMN_INDEX.items())] == 1.5
    assert found["forecaster_model_seconds_total", frozenset(COLUMN_INDEX.items())] == 2.5
    assert found["forecaster_cycle_duration_seconds_sum", frozenset(COLUMN_INDEX.items())] == 5
    assert found["forecaster_forecast_latency_seconds_count", frozenset(COLUMN_INDEX.items())] == 4
    assert found["forecaster_forecast_latency_seconds_sum", frozenset(COLUMN_INDEX.items())] == pytest.approx(
        2 * (7 + 2 * LATENCY_MS / 1000)
    )
    assert value(health_state, "forecaster_fetch_errors_total", exchange="kraken", error="RateLimited") == 2
    assert value(health_state, "forecaster_fetch_errors_total", exchange="kraken", error="NotEnoughBars") is None
    assert value(health_state, "forecaster_baseline_failures_total", model="random_walk") == 2


def test_a_cycle_of_all_exchanges_has_a_label_of_its_own():
    health_state = make_health_state(BITCOIN, ELSEWHERE)
    health_state.record_cycle(make_report(exchange=None, forecasts=[make_forecast(ELSEWHERE)]), None, [])

    assert value(health_state, "forecaster_cycles_total", exchange="all", timeframe="1h", outcome="completed") == 1
    assert value(health_state, "forecaster_forecasts_total", exchange="binance", timeframe="1h", outcome="on_time") == 1


def test_labels_are_bounded_whatever_is_given_for_one():
    """Ten thousand errors, baselines and exchanges that nobody foresaw make one label, `other`."""
    health_state = make_health_state(BITCOIN)

    def cycle(names):
        report = make_report(
            exchange=f"venue{names}",
            skipped={make_key(f"venue{i}", f"S{i}/USD"): f"Error{i}: text" for i in names},
            failed_baselines={f"model{i}": "broken" for i in names},
        )
        health_state.record_cycle(report, None, [held(f"venue{i}", 1) for i in names])
        health_state.record_cycle_failure(f"venue{names}", HOUR, RuntimeError(str(names)))

    cycle(range(1))
    before = len(samples(health_state))
    cycle(range(1, 10_000))

    assert len(samples(health_state)) == before
    assert len(health_state._holds) == 0


def test_hostile_names_cannot_forge_a_sample():
    """An exchange's name comes from the configuration, and is quoted; a symbol is no label at all."""
    hostile = 'a"} 1\nforecaster_ready 1\n#\\'
    key = make_key(hostile, "ZZZ\x1b[2J\x9b/USD")
    hands = Hands()
    health_state = make_health_state(key, hands=hands)
    health_state.record_cycle(
        make_report(exchange=hostile, skipped={key: f"Banned: {hostile}"}), None, [held(hostile, 24 * HOUR_MS)]
    )
    health_state.record_cycle_failure(hostile, HOUR, RuntimeError(hostile))
    hands.now += 10 * HOUR_MS
    found = samples(health_state)
    conditions = health_state.conditions()

    assert found["forecaster_ready", frozenset()] == 0
    assert {dict(labels)["exchange"] for name, labels in found if name == "forecaster_stale_series"} == {hostile}
    assert "ZZZ" not in health_state.metrics_text().decode()
    assert {condition.kind for condition in conditions} >= {"stale_series", "ban", "failing_cycle"}
    assert all((condition.subject + condition.text).isprintable() for condition in conditions)


def test_skill_and_coverage_are_of_the_next_close():
    """Beside a loop over the very cases: step 1, close, the model's own, none late."""
    random = np.random.default_rng(0)
    n = 40
    values_NFQ = np.sort(100 + random.normal(0, 3, (2 * n, 4, len(TENS))))
    actual_NF = 100 + random.normal(0, 3, (n, 4))
    values_NQ, actual_N = values_NFQ[:, 3], actual_NF[:, 3]
    cutoff_N = CUTOFF + np.arange(n) % 10 * HOUR_MS
    late_N, step_N = np.arange(n) % 7 == 0, 1 + np.arange(n) // 10
    steps = make_steps(
        values_NFQ,
        np.tile(actual_NF, (2, 1)),
        models=["nano@1"] * n + ["random_walk@1"] * n,
        cutoff=np.tile(cutoff_N, 2),
        step=np.tile(step_N, 2),
        late=np.tile(late_N, 2),
        key=BITCOIN,
    )
    health_state = make_health_state()
    losses = compute_losses(steps, make_past(np.full(20, 100.0), BITCOIN, CUTOFF + 10 * HOUR_MS))
    for part in (steps.cutoff_N <= CUTOFF, steps.cutoff_N > CUTOFF):
        health_state.record_cycle(make_report(settled=[losses[part]]), None, [])
    cases = [i for i in range(n) if step_N[i] == 1 and not late_N[i]]
    loss, walk = (
        sum(np.mean([2 * (level - (y < q)) * (y - q) for level, q in zip(TENS, qs, strict=True)]) for y, qs in rows)
        for rows in (
            [(actual_N[i], values_NQ[i]) for i in cases],
            [(actual_N[i], values_NQ[n + i]) for i in cases],
        )
    )
    inside = [values_NQ[i][0] <= actual_N[i] <= values_NQ[i][2] for i in cases]

    assert value(health_state, "forecaster_skill_ratio", **COLUMN_INDEX) == pytest.approx(1 - loss / walk)
    assert value(health_state, "forecaster_coverage80_ratio", **COLUMN_INDEX) == pytest.approx(np.mean(inside))


@pytest.mark.parametrize("name", ["models/nano@2", "nano@2@3", "@"])
def test_a_model_whose_name_holds_an_at_sign_has_skill(name):
    """Its folder may be called so; what stands behind the last `@` is the digest."""
    steps = make_steps([90.0, 99.0, 105.0], 101.0, models=[f"{name}@1", "random_walk@1"], key=BITCOIN)
    health_state = make_health_state(model={"id": name})
    health_state.record_cycle(
        make_report(settled=[compute_losses(steps, make_past([100.0, 100.0], BITCOIN))]), None, []
    )

    assert value(health_state, "forecaster_coverage80_ratio", **COLUMN_INDEX) == 1


@pytest.mark.parametrize(("name", "found"), [("nano@2", [105.0]), ("nano", [])])
def test_the_live_view_knows_its_model_by_its_whole_name(name, found):
    steps = make_steps([90.0, 99.0, 105.0], 101.0, models=["nano@2@1", "random_walk@1"], key=BITCOIN)
    report = make_report(settled=[compute_losses(steps, make_past([100.0, 100.0], BITCOIN))])

    assert [one.row.values_Q[-1] for one in next_closes(report, name)] == found


def test_model_whose_name_begins_alike_is_another():
    steps = make_steps([90.0, 99.0, 105.0], 101.0, models=["nano@2@1", "random_walk@1"], key=BITCOIN)
    health_state = make_health_state(model={"id": "nano"})
    health_state.record_cycle(
        make_report(settled=[compute_losses(steps, make_past([100.0, 100.0], BITCOIN))]), None, []
    )

    assert ("forecaster_coverage80_ratio", frozenset(COLUMN_INDEX.items())) not in samples(health_state)


@pytest.mark.parametrize("end", ["", "?timeout=20"])
def test_disk_is_that_of_the_ledger_however_its_url_is_written(tmp_path, monkeypatch, end):
    """What stands behind the path in a URL, or is encoded in it, is no part of a folder's name."""
    folder = tmp_path / "a b"
    folder.mkdir()
    asked = []
    monkeypatch.setattr("forecaster.daemon.health_state.shutil.disk_usage", lambda path: asked.append(path) or NO_DISK)
    url = f"sqlite:///{tmp_path}/a%20b/ledger.db{end}"
    make_health_state(store={"url": url}).metrics_text()

    assert set(asked) == {folder}


def test_before_anything_has_settled_there_is_no_skill_to_tell():
    health_state = make_health_state()

    assert value(health_state, "forecaster_skill_ratio", **COLUMN_INDEX) is None
    assert value(health_state, "forecaster_coverage80_ratio", **COLUMN_INDEX) is None


def test_lag_is_that_of_the_oldest_series():
    hands = Hands()
    health_state = make_health_state(BITCOIN, ETHER, hands=hands)
    hands.now = CUTOFF + 5 * HOUR_MS + 1
    health_state.record_latest_forecast(ETHER, CUTOFF + 4 * HOUR_MS)

    assert value(health_state, "forecaster_forecast_lag_seconds", **COLUMN_INDEX) == 5 * 3600
    assert value(health_state, "forecaster_stale_series", **COLUMN_INDEX) == 1
    assert value(health_state, "forecaster_ready") == 0


def test_fallbacks_count_on_when_the_model_is_loaded_again():
    health_state = make_health_state()
    for total in (2, 5, 5, 1):
        health_state.record_cycle(make_report(), ModelStatus((), total, None), [])

    assert value(health_state, "forecaster_compile_fallbacks_total") == 2 + 3 + 0 + 1


def test_the_engine_of_each_shape_is_shown_as_it_is_now():
    health_state = make_health_state()
    for state in ("building", "serving"):
        health_state.record_cycle(make_report(), ModelStatus((make_bucket(8, state),), 0, None), [])
        _ = health_state.metrics_text()
    found = {
        labels: is_so for (name, labels), is_so in samples(health_state).items() if name == "forecaster_engine_bucket"
    }

    assert found == {frozenset({"bucket": "8x256x1 nothing in 4", "engine": "compiled"}.items()): 1}


def test_shapes_are_bounded():
    """Those that are asked most are shown."""
    health_state = make_health_state()
    buckets = tuple(make_bucket(rows, calls=rows) for rows in range(1, 1001))
    health_state.record_cycle(make_report(), ModelStatus(buckets, 0, None), [])
    shown = {dict(labels)["bucket"] for name, labels in samples(health_state) if name == "forecaster_engine_bucket"}

    assert len(shown) == 64
    assert "1000x256x1 nothing in 4" in shown


def test_what_is_reported_outright_is_shown():
    health_state = make_health_state()
    health_state.set_queue_length(7)
    health_state.set_lease(held=True, epoch=12)
    health_state.record_scheduler_fault()
    held = [
        value(health_state, f"forecaster_{name}") for name in ("queue_length", "lease_held", "lease_epoch", "ready")
    ]
    health_state.set_lease(held=False, epoch=12)

    assert held == [7, 1, 12, 1]
    assert value(health_state, "forecaster_lease_held") == 0
    assert value(health_state, "forecaster_scheduler_faults_total") == 1


def test_another_configuration_is_adopted():
    """What it has no more is forgotten, what stays is kept, and what is new has no forecast yet."""
    health_state = make_health_state(BITCOIN, ELSEWHERE)
    for key in (BITCOIN, ELSEWHERE):
        health_state.record_drift(key, "skill", 0.5, 0.4)
        health_state.record_cycle_failure(key.exchange, HOUR, RuntimeError("broken"))
        health_state.record_trust(key, make_trust(400, -0.1, 0.001))
    health_state.record_cycle_failure("kraken", HOUR, RuntimeError("broken"))
    health_state.record_cycle(make_report(exchange=None), None, [held("kraken", 1), held("binance", 1)])
    health_state.reconfigure(make_config(BITCOIN, ETHER))
    shown = {dict(labels)["exchange"] for name, labels in samples(health_state) if name == "forecaster_stale_series"}

    assert health_state.not_ready_reasons() == ["kraken ETH/USD 1h: no forecast yet"]
    assert Counter(condition.subject for condition in health_state.conditions() if condition.kind != "disk") == {
        "kraken 1h": 4,
        "kraken": 1,
    }
    assert shown == {"kraken"}
    assert value(health_state, "forecaster_cycles_total", exchange="binance", timeframe="1h", outcome="failed") == 1


def test_the_summary_changes_only_with_what_it_tells():
    hands = Hands()
    health_state = make_health_state(BITCOIN, ETHER, hands=hands)
    before = health_state.summary()
    hands.now, hands.seconds = hands.now + 1000, hands.seconds + 1
    same = health_state.summary()
    health_state.record_cycle(make_report(forecasts=[make_forecast(BITCOIN)]), None, [])

    assert same == before == "ready; 2 series, 0 stale; last cycle: none yet"
    assert health_state.summary() == (
        "ready; 2 series, 0 stale; last cycle: kraken 1h as of 2024-01-05 00:00 UTC, 1 forecasts"
    )


def test_many_threads_lose_no_count():
    """Writers and readers at once, switched as often as can be."""
    health_state = make_health_state(BITCOIN, ELSEWHERE)
    steps = make_steps([90.0, 99.0, 105.0], 101.0, models=["nano@1", "random_walk@1"], key=BITCOIN)
    settled = [compute_losses(steps, make_past([100.0, 100.0], BITCOIN))]
    faults: list[BaseException] = []

    def run(step):
        try:
            for i in range(50):
                step(i)
        except BaseException as error:  # noqa: BLE001 - a thread's fault would be lost
            faults.append(error)

    def write(i):
        health_state.record_cycle(
            make_report(settled=settled), ModelStatus((make_bucket(i + 1),), 0, None), [held("kraken", i)]
        )
        health_state.record_cycle_failure("binance", HOUR, RuntimeError("broken"))
        health_state.record_drift(BITCOIN, f"{i % 2}", 0.5, 0.4)
        health_state.register(f"worker {i % 3}", 60)
        health_state.unregister(f"worker {i % 3}")

    def read(_):
        _ = (
            health_state.conditions(),
            health_state.not_ready_reasons(),
            health_state.metrics_text(),
            health_state.summary(),
        )

    def adopt(i):
        health_state.reconfigure(make_config(BITCOIN, ELSEWHERE if i % 2 else ETHER))

    switching = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    threads = [threading.Thread(target=run, args=[step]) for step in (*[write] * 6, read, read, adopt)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.setswitchinterval(switching)

    assert faults == []
    assert value(health_state, "forecaster_cycles_total", **COLUMN_INDEX, outcome="completed") == 6 * 50
    assert health_state._metrics._sums["kraken", "1h"][0] == 6 * 50
