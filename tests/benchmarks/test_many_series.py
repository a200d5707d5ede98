"""What the benchmark of many series tells, and a small one of it."""

from __future__ import annotations

import pytest

from tests.benchmarks.many_series import play, summary
from tests.faults.account import Made, Name

MINUTE_MS = 60_000


def test_only_what_the_model_forecast_in_the_span_counts():
    made = {
        Name("a", MINUTE_MS, "nano"): [Made(0, MINUTE_MS + 7_000, late=False, sha256="")],
        Name("a", 2 * MINUTE_MS, "nano"): [Made(0, 2 * MINUTE_MS + 70_000, late=True, sha256="")],
        Name("b", 2 * MINUTE_MS, "nano"): [Made(0, 2 * MINUTE_MS + 9_000, late=False, sha256="")],
        Name("a", 3 * MINUTE_MS, "nano"): [Made(0, 9 * MINUTE_MS, late=True, sha256="")],
        Name("a", 2 * MINUTE_MS, "random_walk"): [Made(0, 9 * MINUTE_MS, late=True, sha256="")],
    }
    cycles = [
        {"seconds": 10.0, "waited_seconds": 2.0, "model_seconds": 2.0, "skipped": {}},
        {"seconds": 3.0, "waited_seconds": 1.0, "model_seconds": 0.5, "skipped": {"x": "y"}},
    ]
    found = summary(made, cycles, (MINUTE_MS, 2 * MINUTE_MS))

    assert (found["forecasts"], found["late"], found["skipped"], found["cycles"]) == (3, 1, 1, 2)
    assert found["close_to_stored_p50"] == 9.0
    assert found["close_to_stored_p99"] == pytest.approx(9 + 0.98 * 61)
    assert (found["cycle_seconds"], found["waited_seconds"], found["model_seconds"]) == (6.5, 1.5, 1.25)
    assert found["not_the_model"] == 0.75


@pytest.mark.processes
def test_every_bar_of_a_few_series_is_forecast():
    """How late, and how many in as many cycles, depends on who else uses the machine; it is told."""
    found = play(3, 5, 10, context=64, horizon=3)

    assert (found["unforecast"], found["first_wrong"]) == (0, [])
    assert found["bars"] == found["forecasts"] >= 5 * 2
    assert 0 < found["close_to_stored_p50"] <= found["close_to_stored_p99"]
