"""A sample of what `python -m tests.faults.stop_daemon` does at length, and that it would see work cut off."""

from __future__ import annotations

import pytest

from tests.faults.stop_daemon import play

pytestmark = pytest.mark.processes
PATIENCE = 60.0
"""An end that is told from none; the harness itself measures how long one takes."""

DEAF = """
import os
os._exit = lambda code: None
"""


@pytest.mark.parametrize("case", ["under load", "while starting", "twice"])
def test_service_ends_as_it_is_told(case):
    """The other cases, and draining that gives up, are played in one process in tests/daemon/test_service.py."""
    assert play(case, seed=0, series=4, patience=PATIENCE).wrong == []


def test_breach_would_be_seen():
    """A second signal that is not heard."""
    found = play("twice", seed=0, series=2, fault=DEAF)

    assert any("ended with 0 and not 1" in text for text in found.wrong), found.wrong
