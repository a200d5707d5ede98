"""How a model is named on the command line: as in a configuration, with paths relative to the working directory."""

from __future__ import annotations

import json
import shutil

import pytest

from forecaster.config_file import embedded
from forecaster.model.chronos2.checkpoint_files import NANO_FOLDER
from tests.cli import error_line, forecaster, run_json

BARS = embedded("trainingdata/SPX_USD_1d.csv")
EVAL = ("model", "eval", BARS, "--cutoffs", 10, "--horizon", 2, "--context", 32)
SERIES = f'[[series]]\nexchange = "x"\nsymbol = "A/USD"\ntimeframe = "1d"\nfile = "{BARS}"\n'
COMMIT = "29ec3766d36d6f73f0696f85560a422f50e8498c"


@pytest.fixture
def folder(tmp_path):
    """A working directory with a checkpoint in `amazon/mine`."""
    shutil.copytree(NANO_FOLDER, tmp_path / "amazon/mine")
    return tmp_path


@pytest.mark.parametrize(
    "command",
    [(*EVAL, "--model"), ("model", "finetune", BARS, "--out", "tuned", "--model"), ("model", "info")],
    ids=["eval", "finetune", "info"],
)
def test_a_name_that_could_be_either_is_refused_with_both_ways(folder, command):
    message = error_line(*command, "amazon/chronos-2", cwd=folder)

    assert "hub:amazon/chronos-2 with its revision, or the path of a folder" in message
    assert f"{folder}/amazon/chronos-2 is none" in message


@pytest.mark.parametrize("model", ["amazon/mine", "./amazon/mine"])
def test_a_folder_is_relative_to_the_working_directory(folder, model):
    """With a configuration too, which lies elsewhere."""
    (folder / "etc").mkdir()
    config = folder / "etc/mine.toml"
    config.write_text(SERIES)

    assert (
        run_json(*EVAL, "--model", model, "--config", config, "--json", cwd=folder)["model"] == f"{folder}/amazon/mine"
    )
    assert run_json("model", "info", model, "--json", cwd=folder)["layers"] == 4


def test_a_hub_id_needs_its_commit(folder):
    """And a folder has none."""
    without = error_line(*EVAL, "--model", "hub:amazon/mine", cwd=folder)
    of_a_folder = error_line(*EVAL, "--model", "./amazon/mine", "--revision", COMMIT, cwd=folder)

    assert "revision: expected the commit of hub:amazon/mine, 40 hexadecimal digits, found None" in without
    assert "revision: expected none" in of_a_folder


def test_a_hub_repository_is_described_once_it_is_a_folder(folder):
    """Even beside a folder of its name."""
    assert "expected nano or a folder that exists" in error_line("model", "info", "hub:amazon/mine", cwd=folder)


def test_what_a_model_is_called_in_the_configuration_is_shown(folder):
    """With the path that it comes to, as that of the ledger."""
    (folder / "etc").mkdir()
    (folder / "etc/mine.toml").write_text(f'[model]\nid = "../amazon/mine"\n{SERIES}')
    shown = json.loads(forecaster("config", "show", "--config", "etc/mine.toml", cwd=folder).stdout)

    assert shown["model"]["id"] == f"{folder}/etc/../amazon/mine"
    assert shown["store"]["url"] == f"sqlite:///{folder}/etc/ledger.db"
