"""The benchmark of the baselines measures what it says, at a size that a test can afford."""

from __future__ import annotations

import json

from tests.benchmarks import baselines


def test_each_baseline_is_measured_over_cycles(monkeypatch, capsys):
    arguments = ["baselines", "--series", "5", "--context", "160", "--cycles", "2", "--horizon", "3"]
    monkeypatch.setattr("sys.argv", arguments)
    baselines.main()
    plan, *found = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]

    assert (plan["series"], plan["horizon"]) == (5, 3)
    assert [one["baseline"] for one in found] == [model.name for model in baselines.MODELS]
    assert all(10 < one["forecasts"] <= 15 for one in found)
    assert all(one["first_cycle_seconds"] > 0 for one in found if one["baseline"] == "garch")
