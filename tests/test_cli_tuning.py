"""`model finetune` and `model info` as people run them: what is accepted, what is not, and the files of each."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest

from forecaster.bars import Bars
from forecaster.model.chronos2.checkpoint_files import NANO_FOLDER
from forecaster.model.chronos2.describe import describe
from tests.builders import make_bars, make_key, utc_ms
from tests.cli import PROGRAM, error_line, forecaster
from tests.cli import run_json as told_by

START = utc_ms("2024-01-01")
SHORT = ("--context", 64, "--horizon", 4, "--cutoffs", 50)
WINNING = ("--steps", 30, "--learning-rate", 1e-3, *SHORT)
SPOILING = ("--steps", 10, "--learning-rate", 0.1, *SHORT)


def alternating(count=400, start=START, seed=0):
    """Bars whose close goes up and down by 4 % in turn: what a model of simulated markets half believes."""
    key = make_key(exchange="x", symbol="A/B")
    drift = np.cumsum(np.random.default_rng(seed).normal(0, 0.002, count))
    close = 100 * np.exp(0.02 * (-1.0) ** np.arange(count) + drift)
    open_ = np.concatenate([[100.0], close[:-1]])
    high, low = np.maximum(open_, close) * 1.001, np.minimum(open_, close) * 0.999
    opens = key.trading_calendar.next_opens(key.timeframe, start, count)
    return Bars(key, opens, np.column_stack([open_, high, low, close, close]))


def write(bars, path):
    bars.frame.to_csv(path)
    return path


def weights(folder):
    """Digest of the only weights in a folder or below it."""
    (file,) = folder.rglob("model.safetensors")
    return hashlib.sha256(file.read_bytes()).hexdigest()


def files_below(folder):
    return sorted(one.relative_to(folder).as_posix() for one in folder.rglob("*") if one.is_file())


@pytest.fixture(scope="module")
def accepted(tmp_path_factory):
    """A tuning that must win: its report, and its folder."""
    folder = tmp_path_factory.mktemp("accepted")
    file = write(alternating(), folder / "AB_1h.csv")
    report = told_by("model", "finetune", file, "--out", folder / "out", *WINNING, "--json")
    return report, folder / "out"


@pytest.fixture(scope="module")
def rejected(tmp_path_factory):
    """A learning rate that spoils the weights, on two files."""
    folder = tmp_path_factory.mktemp("rejected")
    files = [write(bars, folder / name) for bars, name in ((alternating(), "AB_1h.csv"), (make_bars(), "walk.csv"))]
    done = forecaster("model", "finetune", *files, "--out", folder / "out", *SPOILING, "--train-until", "2024-01-03")
    return done, folder / "out"


@pytest.mark.training
def test_better_model_is_accepted(accepted):
    report, out = accepted
    (one,) = report["series"]

    assert report["accepted"]
    assert report["comparison"]["ratio"] < 1
    assert report["comparison"]["p_value"] < 0.05
    assert report["verdict"].startswith("significantly better than nano: pinball ratio 0.")
    assert report["verdict"].endswith(f'Use it: set model.id = "{out}"')
    assert report == json.loads((out / "report.json").read_text())
    assert one["comparison"] == report["comparison"]
    assert files_below(out) == ["SHA256SUMS", "config.json", "finetune.json", "model.safetensors", "report.json"]


@pytest.mark.training
def test_comparison_lies_behind_the_training(accepted):
    """The window ends with bar 280 of 400; every cutoff is at its close or later, so every target is after it."""
    report, out = accepted
    (one,) = report["series"]
    trained = json.loads((out / "finetune.json").read_text())

    assert one["trained_bars"] == trained["series"][0]["bars"] == 280
    assert one["trained_until"] == "2024-01-12 16:00"
    assert one["trained_until"] <= one["first_cutoff"] < one["last_cutoff"] == "2024-01-17 12:00"
    assert one["comparison"]["cutoffs"] == 50


@pytest.mark.training
def test_bars_behind_the_window_change_no_weight(accepted, tmp_path):
    """Other prices in the last 30 % of the file: the same bits come out of training, whatever is said of them."""
    _, out = accepted
    bars = alternating()
    ohlcv_TF = bars.ohlcv_TF.copy()
    ohlcv_TF[280:] = make_bars(bars.key, 120, int(bars.open_time[280])).ohlcv_TF
    file = write(Bars(bars.key, bars.open_time, ohlcv_TF), tmp_path / "AB_1h.csv")
    report = told_by("model", "finetune", file, "--out", tmp_path / "out", *WINNING, "--json")

    assert weights(tmp_path / "out") == weights(out)
    assert report["comparison"]["ratio"] != pytest.approx(accepted[0]["comparison"]["ratio"], rel=0.01)


@pytest.mark.training
def test_worse_model_is_not_accepted_but_kept(rejected):
    """Code 0, the weights below `rejected`, no model in the folder itself, and a line that says so."""
    done, out = rejected
    report = json.loads((out / "report.json").read_text())
    names = ["SHA256SUMS", "config.json", "finetune.json", "model.safetensors"]

    assert done.returncode == 0, done.stderr
    assert not report["accepted"]
    assert report["comparison"]["ratio"] > 1
    assert done.stdout.splitlines()[-1] == report["verdict"]
    assert report["verdict"].startswith("not significantly better than nano: pinball ratio ")
    assert report["verdict"].endswith(f"Not accepted; kept in {out / 'rejected'}")
    assert "lower loss than" in done.stdout
    assert files_below(out) == sorted([f"rejected/{name}" for name in names] + ["report.json"])


@pytest.mark.training
def test_files_share_a_date(rejected):
    """Every file is compared behind the newest bar that any was trained on."""
    _, out = rejected
    series = json.loads((out / "report.json").read_text())["series"]

    assert [one["trained_until"] for one in series] == ["2024-01-03 00:00"] * 2
    assert all(one["first_cutoff"] >= "2024-01-03 00:00" for one in series)
    assert [one["trained_bars"] for one in series] == [48, 48]


def test_files_that_cannot_be_compared_are_refused_before_the_work(tmp_path):
    """The second file begins where the first has ended: nothing of the first is behind what was trained on."""
    early = write(make_bars(count=200), tmp_path / "early.csv")
    late = write(alternating(start=utc_ms("2024-06-01")), tmp_path / "late.csv")
    line = error_line("model", "finetune", early, late, "--out", tmp_path / "out", *WINNING)

    assert "--train-until: expected a time that leaves bars of " in line
    assert "early.csv" in line
    assert not (tmp_path / "out").exists()


def test_comparison_without_enough_cutoffs_is_refused_before_the_work(tmp_path):
    """Four days ahead overlap with every hour: of 50 hours and 50 days, too few cutoffs stand by themselves."""
    hours = write(alternating(), tmp_path / "hours.csv")
    days = write(make_bars(make_key(timeframe="1d"), 150, utc_ms("2023-10-01")), tmp_path / "days.csv")
    arguments = ("--out", tmp_path / "out", *WINNING, "--train-until", "2024-01-05")

    assert "losses: expected" in error_line("model", "finetune", hours, days, *arguments)
    assert not (tmp_path / "out").exists()


def test_folder_that_holds_something_is_refused(tmp_path):
    """Nobody's model is replaced by the next attempt."""
    file, out = write(alternating(), tmp_path / "AB_1h.csv"), tmp_path / "out"
    out.mkdir()
    (out / "model.safetensors").write_text("mine")

    assert "expected a new or empty folder" in error_line("model", "finetune", file, "--out", out, *WINNING)
    assert (out / "model.safetensors").read_text() == "mine"


@pytest.mark.training
def test_model_that_forecasts_no_numbers_is_not_accepted(accepted, tmp_path):
    """Weights that are finite but far out: named as the learning rate's fault."""
    file = accepted[1].parent / "AB_1h.csv"
    huge = ("--steps", 6, "--learning-rate", 1, *SHORT)

    assert "--learning-rate: expected a rate whose model" in error_line(
        "model", "finetune", file, "--out", tmp_path / "out", *huge
    )
    assert not (tmp_path / "out" / "model.safetensors").exists()


@pytest.mark.processes
def test_interrupted_tuning_leaves_nothing(tmp_path):
    """Ctrl-C while it trains: nothing but the file of bars."""
    file, out = write(alternating(), tmp_path / "AB_1h.csv"), tmp_path / "out"
    command = [PROGRAM, "model", "finetune", file, "--out", out, "--steps", 100_000, *SHORT]
    with subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True) as running:
        while running.poll() is None and not list(tmp_path.rglob(".unfinished-*")):
            time.sleep(0.1)
        running.send_signal(signal.SIGINT)
        _, said = running.communicate()

    assert running.returncode not in {0, 2}
    assert "Traceback" not in said
    assert files_below(tmp_path) == ["AB_1h.csv"]


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (("--context", 600, "--cutoffs", 20), "context: expected at most 512"),
        (("--model", "./nowhere"), "ModelLoadError"),
        (("--train-until", "2020-01-01"), "--train-until: expected a time after some bars"),
    ],
    ids=["context", "model", "date"],
)
def test_mistake_is_one_line_and_code_2(tmp_path, changed, expected):
    file = write(alternating(800), tmp_path / "AB_1h.csv")
    line = error_line("model", "finetune", file, "--out", tmp_path / "out", *WINNING, *changed)

    assert expected in line
    assert files_below(tmp_path) == ["AB_1h.csv"]


def test_info_for_people():
    """What it is, in lines, and what it was made of."""
    done = forecaster("model", "info", "nano")

    assert done.returncode == 0
    for words in (f"{describe('nano').parameters:,}", "21: 0.01, 0.05", "training.json", "steps", "sums"):
        assert words in done.stdout


@pytest.mark.training
def test_info_of_a_tuned_model(accepted):
    done = forecaster("model", "info", accepted[1])

    assert done.returncode == 0
    for words in ("finetune.json", "windows", "agrees with SHA256SUMS"):
        assert words in done.stdout


def test_info_for_scripts():
    facts = told_by("model", "info", "nano", "--json")

    assert facts["weights_sha256"] == weights(NANO_FOLDER)
    assert facts["made_by"]["record"] == "training.json"


def test_info_of_damaged_weights(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(NANO_FOLDER, folder)
    (folder / "model.safetensors").write_bytes(b"")
    line = error_line("model", "info", folder)

    assert line.startswith("ModelLoadError: ")
    assert "found a header of 0 bytes" in line
