"""`forecaster accuracy`: what it tells of a ledger, what it leaves out when asked to, and that it checks itself."""

from __future__ import annotations

import json

import numpy as np
import pytest
import typer

from forecaster import assess as assess_module
from forecaster.accuracy.losses import PLACE
from forecaster.accuracy.score import Scores
from forecaster.assess import rebuild
from forecaster.bars import FIELDS
from forecaster.cli.accuracy import accuracy
from forecaster.errors import ConfigError
from forecaster.ledger import LIVE, Run
from forecaster.store import open_store
from tests.builders import DAY_MS, HOUR_MS, make_key
from tests.cli import forecaster, refused
from tests.test_assess import FIRST, HORIZON, START, all_bars, forecasts

BTC, ETH = make_key("x", "A/B"), make_key("x", "C/D")
CUTOFFS = 40


@pytest.fixture
def config(tmp_path):
    """Two series whose ledger is empty."""
    path = tmp_path / "forecaster.toml"
    series = (
        f'[[series]]\nexchange = "x"\nsymbol = "{key.symbol}"\ntimeframe = "1h"\nfile = "none.csv"\n'
        for key in (BTC, ETH)
    )
    path.write_text("".join(series) + f'[store]\nurl = "sqlite:///{tmp_path}/ledger.db"\n')
    return path


@pytest.fixture
def ledger(config):
    """Forty cutoffs of both series live, calibrated for one of them; ten of one in a replay."""
    store = open_store(f"sqlite:///{config.parent}/ledger.db")
    store.add_run(Run(LIVE, LIVE, START))
    store.add_run(Run("replay-1", "replay", START))
    for key, calibrated in ((BTC, 1.0), (ETH, 1.01)):
        bars = all_bars(key)
        store.add_bars(bars)
        made = [forecasts(bars, FIRST + i, calibrated=calibrated) for i in range(CUTOFFS)]
        store.add_forecasts([one for pair in made for one in pair], LIVE)
    store.add_forecasts([one for i in range(10) for one in forecasts(all_bars(BTC), FIRST + i)], "replay-1")
    store.close()
    return config


def told(capsys, config, **asked):
    """What the command prints as JSON."""
    accuracy(config, json_=True, **asked)
    return json.loads(capsys.readouterr().out)


def test_every_metric_of_every_case(capsys, ledger):
    """Of two series, two models, three steps, four fields and the range; a verdict for each form that there is."""
    found = told(capsys, ledger)

    assert set(found) == {"run", "verdicts", "reports", "rebuilt_difference"}
    assert (found["run"], found["rebuilt_difference"]) == (LIVE, None)
    assert len(found["reports"]) == 2 * 2 * HORIZON * (len(FIELDS) + 1)
    assert {one["n"] for one in found["reports"]} == {CUTOFFS}
    assert [(one["key"], one["model_id"], one["form"]) for one in found["verdicts"]] == [
        (str(BTC), "nano@1", "served"),
        (str(BTC), "random_walk@1", "served"),
        (str(ETH), "nano@1", "served"),
        (str(ETH), "nano@1", "raw"),
        (str(ETH), "random_walk@1", "served"),
    ]
    verdict, report = found["verdicts"][0], found["reports"][0]
    assert (verdict["n"], verdict["field"], verdict["step"], verdict["rival"]) == (CUTOFFS, None, None, "random_walk")
    assert verdict["skill"] == pytest.approx(0.3, abs=0.001)
    assert verdict["lower"] < verdict["skill"] < verdict["upper"]
    assert set(report) >= {
        "mae",
        "mase",
        "crps",
        "wql",
        "coverage98",
        "pit",
        "direction_majority",
        "skill_crps",
        "qlike",
    }
    assert len(report["pit"]) == 10


@pytest.mark.parametrize(
    ("asked", "reports", "verdicts"),
    [
        ({"series": str(BTC)}, 2 * 3 * 5, 2),
        ({"model": "nano"}, 2 * 3 * 5, 3),
        ({"step": 2}, 2 * 2 * 5, 5),
        ({"field": "high"}, 2 * 2 * 3, 5),
        ({"series": str(ETH), "model": "random_walk", "field": "low", "step": 3}, 1, 1),
        ({"step": 9}, 0, 4),
    ],
    ids=str,
)
def test_filters_leave_the_others_out(capsys, ledger, asked, reports, verdicts):
    """And those that stay are what they were among all."""
    whole, found = told(capsys, ledger), told(capsys, ledger, **asked)

    assert (len(found["reports"]), len(found["verdicts"])) == (reports, verdicts)
    assert all(one in whole["reports"] for one in found["reports"])
    for one in (*found["reports"], *found["verdicts"]):
        assert asked.get("series", one["key"]) == one["key"]
        assert asked.get("step", one["step"]) == one["step"]
        assert asked.get("field", one["field"]) == one["field"]
        assert asked.get("model", one["model_id"].partition("@")[0]) == one["model_id"].partition("@")[0]


def test_a_run_is_told_apart(capsys, ledger):
    found = told(capsys, ledger, run_id="replay-1")

    assert (found["run"], {one["n"] for one in found["reports"]}) == ("replay-1", {10})


def test_a_window_takes_what_settled_in_it(capsys, ledger, monkeypatch):
    """The last day's 24 bars, as of the close of the newest target."""
    now = int(all_bars(BTC).close_time[FIRST + CUTOFFS + HORIZON - 1])
    monkeypatch.setattr("forecaster.clock.now_ms", lambda: now)
    found = told(capsys, ledger, window="1d")

    assert {one["step"]: one["n"] for one in found["reports"]} == {
        step: DAY_MS // HOUR_MS - 3 + step for step in (1, 2, 3)
    }


def test_people_read_verdicts(capsys, ledger):
    """A line for each, and the cases only when asked for."""
    accuracy(ledger)
    short = capsys.readouterr().out
    accuracy(ledger, detail=True)
    long = capsys.readouterr().out

    assert (short.count("better than the random walk"), short.count("worse than the random walk")) == (2, 1)
    assert "MASE" not in short
    assert "MASE" in long
    assert len(long.splitlines()) > len(short.splitlines()) + 60


def test_what_the_training_may_have_seen_is_told_apart(capsys, ledger):
    """Twenty of forty cutoffs are older than the model; together they are all that was counted."""
    released = np.datetime64(START, "ms") + np.timedelta64(FIRST + 20, "h")
    day = str((released + np.timedelta64(23, "h")).astype("datetime64[D]"))
    ledger.write_text(ledger.read_text() + f'[model]\nreleased = "{day}"\n'.replace(f'"{day}"', day))
    whole = told(capsys, ledger, rebuild_=True)
    since, before = (
        [one["n"] for one in whole["reports"] if (one["era"], one["step"], one["field"]) == (era, 1, "close")]
        for era in ("since the release", "before the release")
    )

    assert whole["rebuilt_difference"] <= 1e-12
    assert len(since) == len(before) == 4
    assert all(0 < one < CUTOFFS and one + other == CUTOFFS for one, other in zip(since, before, strict=True))


@pytest.mark.parametrize("json_", [False, True])
def test_nothing_settled_is_no_fault(capsys, config, json_):
    accuracy(config, json_=json_)
    out = capsys.readouterr().out

    if json_:
        assert json.loads(out) == {"run": "live", "verdicts": [], "reports": [], "rebuilt_difference": None}
    else:
        assert out == "run live: nothing has settled yet\n"


def test_scores_that_can_be_rebuilt_are_told_so(capsys, ledger):
    """Both forms of both models, each cutoff alone."""
    found = told(capsys, ledger, rebuild_=True)
    accuracy(ledger, rebuild_=True)

    assert 0 <= found["rebuilt_difference"] <= 1e-12
    assert "scored again, each cutoff alone: the largest relative difference of a sum is" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("column", "by", "ends"), [("pinball", 1e-13, False), ("pinball", 1e-11, True), ("n", 1, True), ("crps", 0.5, True)]
)
def test_scores_that_differ_when_rebuilt_are_a_fault(capsys, ledger, monkeypatch, column, by, ends):
    """Code 2 for a count that is off by one, or a sum by more than rounding; not for rounding."""

    def disturbed(*asked):
        scores = Scores()
        scores.merge(rebuild(*asked))
        sums_HGC = scores._sums[scores.groups[0]]
        place = (0, FIELDS.index("close"), PLACE[column])
        sums_HGC[place] += by if column == "n" else by * np.abs(sums_HGC[place])
        return scores

    monkeypatch.setattr(assess_module, "rebuild", disturbed)
    if ends:
        with pytest.raises(typer.Exit) as ended:
            accuracy(ledger, rebuild_=True, json_=True)
        assert ended.value.exit_code == 2
    else:
        accuracy(ledger, rebuild_=True, json_=True)
    found = json.loads(capsys.readouterr().out)

    assert found["rebuilt_difference"] == pytest.approx(float("inf") if column == "n" else by, rel=0.1)


def test_a_range_has_no_verdict_of_its_own(config):
    """It has no quantiles; and what is no field at all is refused in the same way."""
    for field in ("range", "volume"):
        with pytest.raises(ConfigError, match="--field: expected one of open, high, low, close"):
            accuracy(config, field=field)


@pytest.mark.parametrize(
    ("asked", "expected"), [(("--field", "volume"), "one of open, high, low, close"), (("--series", "x"), "x A/B 1h")]
)
def test_a_mistake_is_one_line_and_code_2(config, asked, expected):
    assert expected in refused("accuracy", "--config", config, *asked)


def test_the_command_itself(ledger):
    """JSON on one line, code 0."""
    done = forecaster("accuracy", "--config", ledger, "--series", BTC, "--rebuild", "--json")

    assert done.returncode == 0
    assert json.loads(done.stdout)["rebuilt_difference"] <= 1e-12
