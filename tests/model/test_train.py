"""Training: a pure function of its plan, resumable, and loadable by chronos-forecasting itself."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
import torch
from chronos import Chronos2Pipeline
from PIL import Image

from forecaster.errors import ConfigError
from forecaster.model.checkpoint import NANO_FOLDER
from forecaster.model.chronos2 import Chronos2OHLCWrapper
from forecaster.model.train import TrainingPlan, draw_batch, train
from tests.builders import make_bars

TINY = TrainingPlan(
    steps=6,
    save_every=2,
    series_per_batch=2,
    context_length=128,
    d_model=16,
    d_kv=8,
    d_ff=16,
    num_layers=1,
    num_heads=2,
)


def digest(folder):
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    train(TINY, folder, lambda step, loss: None)
    return folder


def test_resumed_run_ends_like_an_unbroken_one(trained, tmp_path):
    """Stopped after three steps, of which two were saved, and started again: the same weights, bit by bit."""

    def stop(step, loss):
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(TINY, tmp_path, stop)
    train(TINY, tmp_path, lambda step, loss: None)

    assert digest(tmp_path) == digest(trained)
    assert (tmp_path / "loss.csv").read_text() == (trained / "loss.csv").read_text()


def test_another_seed_is_another_model(trained, tmp_path):
    plan = TrainingPlan(**json.loads((trained / "training.json").read_text())["plan"] | {"seed": 1, "steps": 2})
    train(plan, tmp_path, lambda step, loss: None)

    assert digest(tmp_path) != digest(trained)


def test_folder_of_another_plan_is_refused(trained):
    with pytest.raises(ConfigError, match="a run of"):
        train(TrainingPlan(seed=5), trained, lambda step, loss: None)


def test_trained_model_loads_here_and_upstream(trained):
    forecast = Chronos2OHLCWrapper.from_pretrained(trained).predict_ohlc(make_bars(), 20)
    upstream = Chronos2Pipeline.from_pretrained(trained)

    assert forecast.raw_FHQ.shape == (4, 20, 21)
    assert upstream.quantiles == list(forecast.quantile_levels)


def test_losses_are_kept_and_drawn(trained):
    losses = np.loadtxt(trained / "loss.csv", delimiter=",", skiprows=1)

    assert losses[:, 0].tolist() == list(range(6))
    with Image.open(trained / "loss.png") as picture:
        assert picture.size[0] > 100


@pytest.mark.parametrize("step", range(8))
def test_batch_shapes(step):
    context_BT, target_BH, patches = draw_batch(TINY, step)

    assert context_BT.shape[0] == target_BH.shape[0] == 8
    assert 0 < target_BH.shape[1] <= 16 * patches
    assert torch.isfinite(context_BT).any()


def test_bundled_checkpoint_is_the_one_described():
    """Model card, checksums and training record speak of the weights that are there."""
    about = json.loads((NANO_FOLDER / "training.json").read_text())

    assert digest(NANO_FOLDER) in (NANO_FOLDER / "SHA256SUMS").read_text()
    assert digest(NANO_FOLDER)[:12] in (NANO_FOLDER / "MODEL_CARD.md").read_text()
    assert about["seconds"] >= 20 * 60
