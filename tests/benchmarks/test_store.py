"""The benchmark of the ledger measures what it says, at a size that a test can afford."""

from __future__ import annotations

import json

import pytest

from tests.benchmarks import store


@pytest.mark.processes
def test_store_is_measured_at_each_size(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(store, "KEYS", store.KEYS[:5])
    arguments = ["store", "--sizes", "400", "2000", "--out", str(tmp_path / "growth.png")]
    monkeypatch.setattr("sys.argv", arguments)
    store.main()
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    small, large = records[1:]

    assert (small["rows"], large["rows"]) == (480, 2400)
    assert small["settled"] == large["settled"] == 480
    assert small["loaded"] == large["loaded"] == []
    assert 0 < large["latest_ms_p50"] <= large["latest_ms_p99"]
    assert (tmp_path / "growth.png").stat().st_size > 10_000
