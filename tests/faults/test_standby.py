"""A leader that was stopped writes nothing when it wakes, and that a stale row would be seen."""

from __future__ import annotations

import pytest

from tests.faults.standby import play
from tests.faults.two_writers import CARELESS

pytestmark = pytest.mark.processes
HANGS_MS = 600_000
"""Without a leader for so long, 150 real seconds, is a hang; the harness itself measures how long it takes."""


@pytest.mark.parametrize(
    "postgres", [False, pytest.param(True, marks=pytest.mark.postgres)], ids=["sqlite", "postgres"]
)
def test_standby_takes_over(postgres):
    found = play(1, seed=1, services=3, within_ms=HANGS_MS, postgres=postgres)

    assert found.wrong == []
    assert found.stale_rows == 0
    assert len(found.takeovers) == 1


def test_stale_leader_would_be_seen():
    """One that does not ask whether it still has the lease, and so goes on when it wakes."""
    assert play(1, seed=1, services=2, fault=CARELESS).stale_rows > 0
