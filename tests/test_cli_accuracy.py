"""`forecaster accuracy`: its verdicts and scores, its filters, and its check."""

from __future__ import annotations

import json
from contextlib import closing

import numpy as np
import pytest
import typer

from forecaster.accuracy.losses import COLUMN_INDEX
from forecaster.accuracy.scores import Scores
from forecaster.bars import FIELDS
from forecaster.cli.accuracy import accuracy
from forecaster.cycle import settle as assess_module
from forecaster.cycle.settle import rescore
from forecaster.engine import Forecaster
from forecaster.errors import ConfigError
from forecaster.forecast import ModelId
from forecaster.ledger import LIVE, Run
from forecaster.store import open_store
from tests.builders import DAY_MS, HOUR_MS, make_key, utc_ms
from tests.cli import error_line, forecaster
from tests.cycle.test_settle import FIRST, HORIZON, START, all_bars, forecasts

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


def run_json(capsys, config, **asked):
    """What the command prints as JSON."""
    accuracy(config, json_=True, **asked)
    return json.loads(capsys.readouterr().out)


def test_every_metric_of_every_case(capsys, ledger):
    """Of two series, two models, three steps, four fields and the range; a verdict for each variant."""
    found = run_json(capsys, ledger)

    assert set(found) == {"run", "as_of", "verdicts", "reports", "series_without_reference", "rescore_difference"}
    assert (found["run"], found["series_without_reference"], found["rescore_difference"]) == (LIVE, [], None)
    assert len(found["reports"]) == 2 * 2 * HORIZON * (len(FIELDS) + 1)
    assert {one["n"] for one in found["reports"]} == {CUTOFFS}
    assert [(one["key"], one["model_id"], one["variant"]) for one in found["verdicts"]] == [
        (str(BTC), "nano@1", "served"),
        (str(BTC), "random_walk@1", "served"),
        (str(ETH), "nano@1", "served"),
        (str(ETH), "nano@1", "raw"),
        (str(ETH), "random_walk@1", "served"),
    ]
    verdict, report = found["verdicts"][0], found["reports"][0]
    assert (verdict["n"], verdict["field"], verdict["step"], verdict["reference"]) == (
        CUTOFFS,
        None,
        None,
        "random_walk",
    )
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
    ],
    ids=str,
)
def test_filters_leave_the_others_out(capsys, ledger, asked, reports, verdicts):
    """And those that stay are what they were among all."""
    whole, found = run_json(capsys, ledger), run_json(capsys, ledger, **asked)

    assert (len(found["reports"]), len(found["verdicts"])) == (reports, verdicts)
    assert all(one in whole["reports"] for one in found["reports"])
    for one in (*found["reports"], *found["verdicts"]):
        assert asked.get("series", one["key"]) == one["key"]
        assert asked.get("step", one["step"]) == one["step"]
        assert asked.get("field", one["field"]) == one["field"]
        assert asked.get("model", ModelId(one["model_id"]).name) == ModelId(one["model_id"]).name


def test_runs_are_separate(capsys, ledger):
    found = run_json(capsys, ledger, run_id="replay-1")

    assert (found["run"], {one["n"] for one in found["reports"]}) == ("replay-1", {10})


def test_a_window_takes_what_settled_in_it(capsys, ledger, monkeypatch):
    """The last day's 24 bars, as of the close of the newest target."""
    now = int(all_bars(BTC).close_time[FIRST + CUTOFFS + HORIZON - 1])
    monkeypatch.setattr("forecaster.clock.now_ms", lambda: now)
    found = run_json(capsys, ledger, window="1d")

    assert {one["step"]: one["n"] for one in found["reports"]} == {
        step: DAY_MS // HOUR_MS - 3 + step for step in (1, 2, 3)
    }


def test_people_read_verdicts(capsys, ledger):
    """A line for each, and the cases only when asked for."""
    accuracy(ledger)
    short = capsys.readouterr().out
    accuracy(ledger, detail=True)
    long = capsys.readouterr().out

    assert "compared with the random walk" in short
    assert (short.count("significantly better ("), short.count("significantly worse (")) == (2, 1)
    assert "MASE" not in short
    assert "MASE" in long
    assert len(long.splitlines()) > len(short.splitlines()) + 60


def test_cutoffs_before_the_release_are_listed_separately(capsys, ledger):
    """Twenty of forty cutoffs are older than the model; together they are all that was counted."""
    released = np.datetime64(START, "ms") + np.timedelta64(FIRST + 20, "h")
    day = str((released + np.timedelta64(23, "h")).astype("datetime64[D]"))
    ledger.write_text(ledger.read_text() + f'[model]\nreleased = "{day}"\n'.replace(f'"{day}"', day))
    whole = run_json(capsys, ledger, rescore_=True)
    since, before = (
        [one["n"] for one in whole["reports"] if (one["period"], one["step"], one["field"]) == (period, 1, "close")]
        for period in ("since the release", "before the release")
    )

    assert whole["rescore_difference"] <= 1e-12
    assert len(since) == len(before) == 4
    assert all(0 < one < CUTOFFS and one + other == CUTOFFS for one, other in zip(since, before, strict=True))


@pytest.fixture
def unsettled(config):
    """A ledger of one forecast whose bars have not come."""
    with closing(open_store(f"sqlite:///{config.parent}/ledger.db")) as store:
        store.add_run(Run(LIVE, LIVE, START))
        store.add_forecasts(forecasts(all_bars(BTC), FIRST), LIVE)
    return config


@pytest.mark.parametrize("json_", [False, True])
def test_nothing_settled_exits_with_0(capsys, unsettled, json_):
    accuracy(unsettled, as_of="2024-03-01", json_=json_)
    out = capsys.readouterr().out

    if json_:
        assert json.loads(out) == {
            "run": "live",
            "as_of": utc_ms("2024-03-01"),
            "verdicts": [],
            "reports": [],
            "series_without_reference": [],
            "rescore_difference": None,
        }
    else:
        assert out == "run live: no forecast has settled yet\n"


@pytest.mark.parametrize("model", ["nano", "random_walk"])
def test_a_known_model_without_settled_forecasts_exits_with_0(unsettled, model):
    """One that has forecast; and one that is configured and has not forecast yet."""
    unsettled.write_text(unsettled.read_text() + '[model]\nbaselines = ["random_walk", "garch"]\n')
    for name in (model, "garch"):
        done = forecaster("accuracy", "--config", unsettled, "--model", name)

        assert (done.returncode, done.stdout) == (0, f"run live: no forecast of {name} has settled yet\n")


@pytest.mark.parametrize(
    ("option", "name", "listed"),
    [
        ("--model", "nanoo", "--model: expected one of nano, random_walk, found 'nanoo'"),
        ("--model", "random_wlk", "--model: expected one of random_walk, nano, found 'random_wlk'"),
        ("--reference", "garchh", "--reference: expected one of nano, random_walk, found 'garchh'"),
        ("--run", "replay-nope", "run: expected one of live, replay-1, found 'replay-nope'"),
        ("--series", "x A/B 1d", "series: expected one of x A/B 1h, x C/D 1h, found 'x A/B 1d'"),
        ("--field", "closed", "--field: expected one of close, high, low, open, found 'closed'"),
        ("--step", "9", "--step: expected 1 to 5, found 9"),
    ],
)
def test_unknown_names_are_refused(ledger, option, name, listed):
    """With code 2, and those that are known in the line; never with the numbers of something else."""
    assert error_line("accuracy", "--config", ledger, option, name) == f"ConfigError: {listed}"


def test_a_step_without_settled_forecasts_exits_with_0(ledger):
    """The configured horizon has it."""
    done = forecaster("accuracy", "--config", ledger, "--step", "4")

    assert (done.returncode, done.stdout) == (0, "run live: no forecast has settled yet\n")


def test_an_unknown_run_is_not_exported(ledger, tmp_path):
    """No empty file that looks like a run without forecasts."""
    words = error_line("store", "export", tmp_path / "out.csv", "--config", ledger, "--run", "replay-2")

    assert words == "ConfigError: run: expected one of live, replay-1, found 'replay-2'"
    assert not (tmp_path / "out.csv").exists()


def test_an_unknown_run_in_python(ledger):
    """Losses and scores of it are refused, and not empty."""
    with Forecaster.from_config(ledger) as reading:
        for ask in (reading.accuracy, reading.losses):
            with pytest.raises(ConfigError, match="run: expected one of live, replay-1, found 'replay-2'"):
                ask(run="replay-2")


def test_series_without_the_reference_model_are_listed(capsys, ledger):
    """That series gets no verdict beside another model instead; the other one gets its own."""
    bars = all_bars(BTC)
    with closing(open_store(f"sqlite:///{ledger.parent}/ledger.db")) as store:
        for i in range(CUTOFFS):
            store.add_forecasts(forecasts(bars, FIRST + i, model="har@1", sharper=0.5)[:1], LIVE)
    found = run_json(capsys, ledger, reference="har")
    accuracy(ledger, reference="har")

    assert {(one["key"], one["reference"]) for one in found["verdicts"]} == {(str(BTC), "har")}
    assert found["series_without_reference"] == [str(ETH)]
    assert f"{ETH}: no verdict: no forecast of har has settled" in capsys.readouterr().out


def test_another_ledger(capsys, ledger):
    """What `--store` names is read, and the configured one is not: it is not even there."""
    (ledger.parent / "ledger.db").rename(ledger.parent / "replays.db")
    found = run_json(capsys, ledger, store=str(ledger.parent / "replays.db"), run_id="replay-1")

    assert {one["n"] for one in found["reports"]} == {10}
    assert str(ledger.parent / "ledger.db") in error_line("accuracy", "--config", ledger)


def test_rescored_sums_agree(capsys, ledger):
    """Both variants of both models, each cutoff alone."""
    found = run_json(capsys, ledger, rescore_=True)
    accuracy(ledger, rescore_=True)

    assert 0 <= found["rescore_difference"] <= 1e-12
    assert "rescored, each cutoff alone: largest relative difference of a sum" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("column", "by", "ends"), [("pinball", 1e-13, False), ("pinball", 1e-11, True), ("n", 1, True), ("crps", 0.5, True)]
)
def test_rescored_sums_that_differ_exit_with_2(capsys, ledger, monkeypatch, column, by, ends):
    """Code 2 for a count that is off by one, or a sum by more than rounding; not for rounding."""

    def disturbed(*asked):
        scores = Scores()
        scores.merge(rescore(*asked))
        sums_HGC = scores._sums[scores.groups[0]]
        place = (0, FIELDS.index("close"), COLUMN_INDEX[column])
        sums_HGC[place] += by if column == "n" else by * np.abs(sums_HGC[place])
        return scores

    monkeypatch.setattr(assess_module, "rescore", disturbed)
    if ends:
        with pytest.raises(typer.Exit) as ended:
            accuracy(ledger, rescore_=True, json_=True)
        assert ended.value.exit_code == 2
    else:
        accuracy(ledger, rescore_=True, json_=True)
    found = json.loads(capsys.readouterr().out)

    assert found["rescore_difference"] == pytest.approx(float("inf") if column == "n" else by, rel=0.1)


def test_a_range_has_no_verdict_of_its_own(config):
    """It has no quantiles; and what is no field at all is refused in the same way."""
    for field in ("range", "volume"):
        with pytest.raises(ConfigError, match=r"--field: expected one of .*close"):
            accuracy(config, field=field)


@pytest.mark.parametrize(
    ("asked", "expected"), [(("--field", "volume"), "one of close, high, low, open"), (("--series", "x"), "x A/B 1h")]
)
def test_a_mistake_is_one_line_and_code_2(config, asked, expected):
    assert expected in error_line("accuracy", "--config", config, *asked)


def test_the_command_itself(ledger):
    """JSON on one line, code 0."""
    done = forecaster("accuracy", "--config", ledger, "--series", BTC, "--rescore", "--json")

    assert done.returncode == 0
    assert json.loads(done.stdout)["rescore_difference"] <= 1e-12
