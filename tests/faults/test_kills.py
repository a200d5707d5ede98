"""A service that was told to wait and killed waits when it is started again."""

from __future__ import annotations

import pytest

from tests.faults.kills import RETRY_AFTER, Outcome, play


@pytest.mark.processes
def test_killed_service_waits_as_it_was_told():
    outcome = play("binance", 429)

    assert outcome.broken == []
    assert outcome.bars == 64


@pytest.mark.parametrize(
    ("waited", "bars", "broken"),
    [(RETRY_AFTER - 0.1, 9, "asked again after 5.90 s of 6"), (RETRY_AFTER, 0, "no bars in the end")],
)
def test_broken_promises_are_named(waited, bars, broken):
    assert Outcome("binance", 429, waited, bars).broken == [broken]
