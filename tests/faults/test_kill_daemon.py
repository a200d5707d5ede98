"""A sample of what `python -m tests.faults.kill_daemon` does at length, and that it would see a loss."""

from __future__ import annotations

import json

import pytest

from tests.faults import kill_daemon
from tests.faults.kill_daemon import play
from tests.faults.world import break_package

pytestmark = pytest.mark.slow


def test_killed_service_loses_nothing(monkeypatch, capsys):
    arguments = ["kill_daemon", "--kills", "3", "--worlds", "1", "--seed", "5"]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit) as ended:
        kill_daemon.main()
    record = json.loads(capsys.readouterr().out.splitlines()[-1])

    assert ended.value.code == 0, record
    assert record["kills"] == 3
    assert record["acknowledged"] > 0


@pytest.mark.parametrize(
    ("module", "old", "new", "wrong"),
    [
        (
            "engine.py",
            "self.store.add_forecasts([one for made in stamped for one in made], run.id, learned)",
            "pass",
            "done without a forecast",
        ),
        ("slots.py", "    store.set_slots(ended, as_of)\n", "", "left leased"),
        (
            "engine.py",
            "issued_at=issued[one.key, one.cutoff],",
            "issued_at=issued[one.key, one.cutoff] - 3_600_000,",
            "is backdated",
        ),
    ],
    ids=["forecasts are not written", "ends are not written", "issued an hour before"],
)
def test_breach_would_be_seen(tmp_path, module, old, new, wrong):
    found = play(1, 5, break_package(tmp_path, module, old, new))

    assert any(wrong in text for text in found.wrong)
