"""The benchmark of scoring measures what it says, at a size that a test can afford."""

from __future__ import annotations

import json

import pytest

from tests.benchmarks import scoring


def told(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]


@pytest.mark.processes
def test_scoring_is_measured_at_each_size(tmp_path, monkeypatch, capsys):
    """All rows of the ledger, without traces and with them; both forms of the model that is calibrated."""
    monkeypatch.setattr(scoring, "SERIES", scoring.SERIES[:2])
    monkeypatch.setattr("sys.argv", ["scoring", "--sizes", "1000", "4000", "--out", str(tmp_path / "scoring.png")])
    scoring.main()
    _, *found = told(capsys)

    assert [(one["rows"], one["traces"], one["verdicts"]) for one in found] == [
        (1152, False, 0),
        (1152, True, 4),
        (4224, False, 0),
        (4224, True, 4),
    ]
    for one in found:
        assert one["reports"] == 2 * 2 * 24 * 5
        assert one["rows_per_second"] > 0
        assert one["peak_mib"] > 10
    assert (tmp_path / "scoring.png").stat().st_size > 10_000


def test_a_close_is_measured(monkeypatch, capsys):
    """Each step of both models once, of every series."""
    monkeypatch.setattr(scoring, "MANY_SERIES", scoring.MANY_SERIES[:3])
    monkeypatch.setattr("sys.argv", ["scoring", "--close"])
    scoring.main()
    _, found = told(capsys)

    assert (found["series"], found["rows"], found["reports"]) == (3, 3 * 2 * 24 * 4, 3 * 2 * 24 * 5)
    assert found["seconds"] > 0
