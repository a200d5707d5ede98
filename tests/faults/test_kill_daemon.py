"""A sample of what `python -m tests.faults.kill_daemon` does at length, and that it would see a loss."""

from __future__ import annotations

import json

import pytest

from tests.faults import kill_daemon
from tests.faults.kill_daemon import play

pytestmark = pytest.mark.processes
BREACHES = """
from dataclasses import replace
from forecaster.store import sql
from forecaster.store.sql import SqlStore

sql.check_times = lambda forecast: None
add_forecasts = SqlStore.add_forecasts

def write_half(store, forecasts, run_id, learned=()):
    backdated = [replace(one, issued_at=one.issued_at - 3_600_000) for one in forecasts if "ETH" in str(one.key)]
    return add_forecasts(store, backdated, run_id)

SqlStore.add_forecasts = write_half
"""


def test_killed_service_loses_nothing(monkeypatch, capsys):
    """Killed once while it starts and once while it works."""
    monkeypatch.setattr("sys.argv", ["kill_daemon", "--kills", "2", "--worlds", "1", "--seed", "8"])
    with pytest.raises(SystemExit) as ended:
        kill_daemon.main()
    record = json.loads(capsys.readouterr().out.splitlines()[-1])

    assert ended.value.code == 0, record
    assert record["kills"] == 2
    assert record["acknowledged"] > 0


def test_breaches_would_be_seen():
    """A store that does not write the forecasts of two series, and has those of the third an hour too early."""
    wrong = play(1, 8, BREACHES).wrong

    assert any("done without a forecast" in text for text in wrong), wrong
    assert any("is backdated" in text for text in wrong), wrong
