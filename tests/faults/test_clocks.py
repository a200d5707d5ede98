"""A sample of what `python -m tests.faults.clocks` plays, and that a storm or a close without a word would be seen."""

from __future__ import annotations

import pytest

from tests.faults.clocks import play, storms

SPANS_ARE_NOT_WRITTEN = """
from forecaster.store.sql import SqlStore

set_pending = SqlStore.set_pending
SqlStore.set_pending = lambda store, slots, at: set_pending(store, [one for one in slots if one.state != "missed"], at)
"""


@pytest.mark.processes
@pytest.mark.parametrize("scene", ["an hour behind", "an hour asleep"])
def test_service_lives_through_a_scene(scene):
    assert play(scene).wrong == []


@pytest.mark.processes
def test_close_without_a_word_would_be_seen():
    found = play("an hour asleep", SPANS_ARE_NOT_WRITTEN)

    assert any("closes without a word" in text for text in found.wrong), found.wrong


@pytest.mark.parametrize(("cycles", "requests", "wrong"), [(46, 282, []), (47, 0, ["cycles"]), (0, 283, ["requests"])])
def test_storm_is_more_than_bars_and_jumps_explain(cycles, requests, wrong):
    """Four cycles for each bar and three for each jump and start; 24 requests for each bar, and 40."""
    found = storms(cycles, requests, lived=10.1, jumps=1)

    assert [one.split()[1] for one in found] == wrong
