"""A leader that was stopped writes nothing when it wakes, and that a stale row would be seen."""

from __future__ import annotations

import pytest

from tests.faults.standby import TAKEN_WITHIN_MS, play
from tests.faults.world import break_package

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "postgres", [False, pytest.param(True, marks=pytest.mark.postgres)], ids=["sqlite", "postgres"]
)
def test_standby_takes_over(postgres):
    found = play(1, seed=0, services=3, postgres=postgres)

    assert found.wrong == []
    assert found.stale_rows == 0
    assert max(found.takeovers) <= TAKEN_WITHIN_MS / 1000


def test_stale_leader_would_be_seen(tmp_path):
    """One that does not ask whether it still has the lease, and so goes on when it wakes."""
    careless = break_package(tmp_path, "store/lease.py", "if kept.rowcount != 1:", "if False:")
    found = play(1, seed=0, services=2, package=careless)

    assert found.wrong
