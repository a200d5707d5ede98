"""Each benchmark at a size that a test can afford: it runs, and prints the record that it is for."""

from __future__ import annotations

import json

import pytest

from tests.benchmarks import accuracy, align, bar_sources, baselines, calibration, equality, replay, significance
from tests.benchmarks.equality import Case, a_whole_row
from tests.benchmarks.significance import Proof


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a benchmark with arguments; what it printed, and its exit code."""

    def run(module, *arguments):
        monkeypatch.setattr("sys.argv", [module.__name__, *map(str, arguments)])
        try:
            code = module.main()
        except SystemExit as ended:
            code = ended.code
        return capsys.readouterr().out, int(code or 0)

    return run


def records(printed):
    return [json.loads(line) for line in printed.splitlines() if line.startswith("{")]


def test_accuracy(run):
    """A verdict against each baseline, served and raw, and the table of them."""
    file = calibration.BUNDLED / "SPX_USD_1d.csv"
    printed, code = run(accuracy, file, "--cutoffs", 40, "--context", 128, "--horizon", 2, "--json")

    assert code == 0
    assert [one["variant"] for one in records(printed)] == ["served"] * 4 + ["raw"] * 4
    assert all(0 <= one["coverage80"] <= 1 for one in records(printed))
    assert printed.count("| SPX/USD 1d |") == 2


def test_align(run):
    printed, code = run(align, "--bars", 200)
    (record,) = records(printed)

    assert code == int(record["seconds"] >= 1)
    assert record["bars"] == 200


def test_baselines(run):
    """Each is measured over cycles."""
    printed, _ = run(baselines, "--series", 5, "--context", 160, "--cycles", 2, "--horizon", 3)
    plan, *found = records(printed)

    assert (plan["series"], plan["horizon"]) == (5, 3)
    assert [one["baseline"] for one in found] == [model.name for model in baselines.MODELS]
    assert all(10 < one["forecasts"] <= 15 for one in found)
    assert all(one["first_cycle_seconds"] > 0 for one in found if one["baseline"] == "garch")


def test_calibration(run, monkeypatch, tmp_path):
    """A table of each baseline, with the file and the mean."""
    lines = (calibration.BUNDLED / "SPX_USD_1d.csv").read_text(encoding="ascii").splitlines()
    (tmp_path / "SPX_USD_1d.csv").write_text("\n".join(lines[:700]) + "\n", encoding="ascii")
    monkeypatch.setattr(calibration, "MOST_CUTOFFS", 40)
    printed, code = run(calibration, tmp_path / "SPX_USD_1d.csv", "--files-only")

    assert code == 0
    assert "Pinball loss, random_walk" in printed
    assert printed.count("SPX_USD_1d") == printed.count("│ mean") == 2


def test_calibration_of_simulated_walks(monkeypatch):
    """Half the raw quantiles are too narrow, and what is printed says that this was mended."""
    monkeypatch.setattr(calibration, "SEEDS", 1)
    table = calibration.wrong_widths()
    raw, *_, later = ([float(cell) for cell in column.cells if cell[0].isdigit()] for column in table.columns[1:])

    assert raw[0] < 0.6
    assert later == pytest.approx([0.8] * 4, abs=0.03)


@pytest.mark.parametrize("spoilt", [False, True])
def test_equality(run, monkeypatch, tmp_path, spoilt):
    """Its page, and the exit code where a case is not equal."""
    cases = [Case("nano", 4, 16), Case("nano", 1, 48, a_whole_row)]
    monkeypatch.setattr(equality, "all_cases", lambda size: cases if size == "nano" else [])
    monkeypatch.setattr(equality, "RESULT", tmp_path / "equality.md")
    if spoilt:
        monkeypatch.setattr(equality, "TOLERANCE", 0.0)
    _, code = run(equality)
    page = (tmp_path / "equality.md").read_text()

    assert code == int(spoilt)
    assert page.count("| nano | ") == 2 + page.split("| size |")[0].count("| nano | ")
    assert f"- nano: {0 if spoilt else 2} of 2 cases equal" in page


@pytest.mark.filterwarnings("ignore:A future version of pandas:pandas.errors.Pandas4Warning")
def test_replay(run, monkeypatch):
    """The whole path beside upstream's ways, in windows a second."""
    monkeypatch.setattr(replay, "UPSTREAM_ROWS", (64,))
    (record,) = records(run(replay, "--windows", 4, "--rounds", 1)[0])

    assert set(record["windows_per_second"]) == {"whole_path", "model_alone", "predict_df_loop", "predict_64"}
    assert min(record["windows_per_second"].values()) > 0
    assert 0 < record["model_share"] <= 1


@pytest.mark.parametrize(("most", "ends_with"), [(1.1, 0), (0.5, 1)])
def test_significance(run, monkeypatch, most, ends_with):
    """A line for each proof; one that is not as promised ends it with 1."""
    proofs = [Proof("always", 250, 1, lambda runs: float(runs > 0), 0.0, most)]
    monkeypatch.setattr(significance, "proofs", lambda: proofs)
    printed, code = run(significance, "--runs", 1)

    assert records(printed) == [
        {"proof": "always", "cases": 250, "ahead": 1, "runs": 1, "share": 1.0, "least": 0.0, "most": most}
    ]
    assert code == ends_with


@pytest.mark.processes
def test_bar_sources(run, monkeypatch):
    """A close of a few series, and a history fetched undisturbed and killed once."""
    monkeypatch.setattr(bar_sources, "KILLS", 1)
    printed, _ = run(bar_sources, "--series", 4, "--bars", 3000)
    _, alone, hurried, beside, undisturbed, killed = records(printed)

    assert [one["bars_added"] for one in (alone, hurried, beside)] == [4] * 3
    assert (beside["silent"], beside["skipped"]) == (2, 2)
    assert (undisturbed["kills"], killed["kills"]) == (0, 1)
    assert undisturbed["equal_to_truth"]
    assert killed["equal_to_truth"]
