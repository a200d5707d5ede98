"""A sample of what `python -m tests.faults.clocks` plays, and that a storm or a close without a word would be seen."""

from __future__ import annotations

import pytest

from tests.faults.clocks import play
from tests.faults.world import break_package

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("scene", ["an hour behind", "an hour asleep", "ten years ahead", "spring forward"])
def test_service_lives_through_a_scene(scene):
    assert play(scene).wrong == []


@pytest.mark.parametrize(
    ("scene", "module", "old", "new", "wrong"),
    [
        (
            "an hour asleep",
            "slots.py",
            "spans = [] if before is None else _missed(key, _end_of(before), closes[0])",
            "spans = []",
            "closes without a word",
        ),
        ("an hour asleep", "daemon/scheduler.py", "if abs(jumped) > JUMP_MS:", "if True:", "cycles in"),
    ],
    ids=["spans are not written", "every turn is a jump"],
)
def test_breach_would_be_seen(tmp_path, scene, module, old, new, wrong):
    found = play(scene, break_package(tmp_path, module, old, new))

    assert any(wrong in text for text in found.wrong), found.wrong
