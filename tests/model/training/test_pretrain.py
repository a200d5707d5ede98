"""Training: a pure function of its plan, resumable, and loadable by chronos-forecasting itself."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from contextlib import suppress

import numpy as np
import pytest
import torch

from forecaster.errors import ConfigError
from forecaster.model.chronos2.checkpoint_files import NANO_FOLDER
from forecaster.model.chronos2.core import Core, Missing, Shape, standardise
from forecaster.model.chronos2.wrapper import Chronos2OHLCWrapper
from forecaster.model.training import objective as losses
from forecaster.model.training import pretrain as training
from forecaster.model.training.objective import Standard, quantile_loss, training_losses
from forecaster.model.training.pretrain import PATCH, Batch, TrainingPlan, build_model, draw_batch, train
from tests.builders import make_bars

TINY = TrainingPlan(
    steps=6,
    warm_up_steps=2,
    cool_down_share=1 / 3,
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


@pytest.mark.training
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


@pytest.mark.training
def test_another_seed_is_another_model(trained, tmp_path):
    plan = TrainingPlan(**json.loads((trained / "training.json").read_text())["plan"] | {"seed": 1, "steps": 2})
    train(plan, tmp_path, lambda step, loss: None)

    assert digest(tmp_path) != digest(trained)


@pytest.mark.training
def test_folder_of_another_plan_is_refused(trained):
    with pytest.raises(ConfigError, match="a run of"):
        train(TrainingPlan(seed=5), trained, lambda step, loss: None)


@pytest.mark.training
def test_trained_model_loads_here_and_upstream(trained):
    forecast = Chronos2OHLCWrapper.from_pretrained(trained, compile="off").predict_ohlc(make_bars(), 20)
    from chronos import Chronos2Pipeline

    upstream = Chronos2Pipeline.from_pretrained(trained)

    assert forecast.raw_FHQ.shape == (4, 20, 21)
    assert upstream.quantiles == list(forecast.quantile_levels)


@pytest.mark.training
def test_losses_are_kept(trained):
    losses = np.loadtxt(trained / "loss.csv", delimiter=",", skiprows=1)

    assert losses[:, 0].tolist() == list(range(6))


@pytest.mark.parametrize("name", ["loss.csv", "model.safetensors", "config.json", "training.json", "SHA256SUMS"])
def test_nothing_is_written_through_a_link(tmp_path, name):
    """Else whoever may write to the folder has any file of ours overwritten; also of a run that goes on."""
    run, out = training._Run(TINY), tmp_path / "out"
    out.mkdir()
    run.resume(out)
    training._save(run, out, [(0, 2.0)])
    (tmp_path / "precious").write_text(precious := "step,loss\n0,3.0\n")
    (out / name).unlink()
    (out / name).symlink_to("../precious")

    with suppress(ConfigError):
        training._save(run, out, [(1, 1.0)])

    assert (tmp_path / "precious").read_text() == precious


@pytest.mark.parametrize("step", range(3))
def test_batch_shapes(step):
    """Rows end with a reference patch about a last close of 0; at least one patch of bars comes before it."""
    context_BT, futures_BKH = draw_batch(TINY, step)

    assert context_BT.shape[0] == futures_BKH.shape[0] == 8
    assert context_BT.shape[1] % PATCH == futures_BKH.shape[2] % PATCH == 0
    assert torch.equal(context_BT[:4, -PATCH : 4 - PATCH].isnan(), torch.eye(4, dtype=torch.bool))
    assert (context_BT[:, -PATCH : 4 - PATCH].nan_to_num(nan=0.0) == 0).all()
    assert (context_BT[3::4, -PATCH - 1] == 0).all()
    assert torch.isfinite(context_BT[:, -2 * PATCH : -PATCH]).all(dim=1).float().mean() > 0.5
    assert torch.isfinite(futures_BKH).all()


@pytest.mark.parametrize("step", [0, 1])
def test_loss_is_upstreams(step):
    """Before any weight, it is the mean of upstream's own loss over the futures."""
    torch.manual_seed(0)
    model, batch = build_model(TINY).eval(), draw_batch(TINY, step)
    rows, bars = batch.context_BT.shape
    steps = batch.futures_BKH.shape[2]
    core = Core(model, Shape(rows, bars, steps // PATCH, Missing.of(batch.context_BT, PATCH)))
    with torch.no_grad():
        standard_BT, loc_B1, scale_B1 = standardise(batch.context_BT)
        actual_BKH = ((batch.futures_BKH - loc_B1[:, :, None]) / scale_B1[:, :, None]).arcsinh()
        ours_BH = quantile_loss(core.compressed(standard_BT), actual_BKH, model.quantiles)
        upstream = [
            model(
                context=batch.context_BT,
                group_ids=torch.arange(rows) // 4,
                future_target=future_BH,
                num_output_patches=steps // PATCH,
            ).loss
            for future_BH in batch.futures_BKH.unbind(dim=1)
        ]

    assert float(ours_BH.mean()) == pytest.approx(float(torch.stack(upstream).mean()), rel=1e-5)


def test_level_of_prices_does_not_matter():
    torch.manual_seed(0)
    model, batch = build_model(TINY), draw_batch(dataclasses.replace(TINY, series_per_batch=16), 0)
    scaled = Batch(batch.context_BT * 1e-4, batch.futures_BKH * 1e-4)
    with torch.no_grad():
        found = [float(training.training_loss(model, one, 1.0)) for one in (batch, scaled)]

    assert found[1] == pytest.approx(found[0], rel=1e-3)


def make_past(gap=0.0, trend=0.0):
    """Closes that go up by 2 and down by 2, opens `gap` above the close before; a trend that ended 32 bars ago."""
    close_T = torch.tensor([1.0, -1.0]).repeat(32) + torch.linspace(-trend, trend, 64).clamp(max=0.0)
    open_T = close_T.roll(1) + gap
    return torch.stack([open_T, open_T.maximum(close_T), open_T.minimum(close_T), close_T])[None]


def test_typical_move_is_that_of_the_last_closes():
    """Not that of a trend before them; and never so small that its series would count for all others."""
    moves = [float(losses.typical_move(make_past(trend=trend), torch.ones(1, 1))) for trend in (0.0, 40.0)]
    least = losses.typical_move(torch.zeros(1, 4, 64), torch.ones(1, 1))

    assert moves == pytest.approx([2.0, 2.0])
    assert float(least) == pytest.approx(1 / losses.MAX_MOVES)


@pytest.mark.parametrize(("gap", "counted"), [(1.0, 1.0), (0.0, 2 * losses.MIN_GAP), (50.0, 2.0)])
def test_typical_reach(gap, counted):
    """By hand: √h moves of 2; the open of step h a gap and √(h - 1) moves, with a gap neither nothing nor all."""
    past_SFT = make_past(gap)
    distance_FH = losses.typical_distance(past_SFT, torch.full((1, 1, 1), 2.0), 16)[0]

    assert distance_FH[1:].tolist() == [pytest.approx([2 * h**0.5 for h in range(1, 17)])] * 3
    assert distance_FH[0].tolist() == pytest.approx([(counted**2 + 4 * (h - 1)) ** 0.5 for h in range(1, 17)])


@pytest.mark.parametrize("trend", [0.0, 40.0])
@pytest.mark.parametrize("scale", [1.0, 7.0])
def test_outcomes_cost_their_distance_in_reaches(scale, trend):
    """By hand: every quantile at the last close, every outcome a little above; whatever the units and the trend."""
    past_SFT, levels_Q = make_past(trend=trend), torch.tensor([0.1, 0.5, 0.9])
    distance_FH = losses.typical_distance(past_SFT, torch.full((1, 1, 1), 2.0), 16)[0]
    standard = Standard(torch.full((4, 1), -0.7), torch.full((4, 1), scale))
    last_close_BQH = (0.7 / torch.tensor(scale)).arcsinh().expand(4, 3, 16)
    cost = training_losses(last_close_BQH, (0.01 * distance_FH)[:, None], standard, past_SFT, levels_Q)

    assert float(cost.quantile) == pytest.approx(2 * 0.01 * 1.5, rel=0.02)


def test_penalty_grows_as_the_rate_falls():
    plan = TrainingPlan()
    found = [training._penalty(plan, step) for step in (0, 100, 1000, 5500, 10_000)]

    assert found == pytest.approx([0, 0, 0, training.CROSSING_PENALTY / 2, training.CROSSING_PENALTY])


def test_penalty_is_charged():
    """By its factor, for the untrained weights of any seed forecast impossible bars."""
    torch.manual_seed(0)
    model, batch = build_model(TINY), draw_batch(TINY, 0)
    with torch.no_grad():
        costs = [float(training.training_loss(model, batch, penalty)) for penalty in (0.0, 1.0, 3.0)]

    assert costs[1] > costs[0]
    assert costs[2] - costs[0] == pytest.approx(3 * (costs[1] - costs[0]), rel=1e-3)


@pytest.mark.parametrize("step", [1, 4, 16])
def test_impossible_bar_far_ahead_is_less_dear(step):
    """Quantiles that fall at step h cost 1 / √h of those that fall at the first."""
    levels_Q, standard = torch.tensor([0.1, 0.5, 0.9]), Standard(torch.zeros(4, 1), torch.ones(4, 1))
    offset_B11 = torch.tensor([0.0, 0.5, -0.5, 0.0])[:, None, None]
    found_BQH = (levels_Q[:, None] / 10 + offset_B11).repeat(1, 1, 16)
    fallen_BQH = found_BQH.clone()
    fallen_BQH[3, :, step - 1] = fallen_BQH[3, :, step - 1].flip(0)
    possible, fallen = (
        float(training_losses(one, torch.zeros(4, 1, 16), standard, make_past(), levels_Q).crossing)
        for one in (found_BQH, fallen_BQH)
    )

    assert possible == 0
    assert fallen == pytest.approx((2 * (losses.MARGIN + 0.02)) / step**0.5 / 16, rel=0.01)


def test_rates_follow_the_schedule():
    """A warm-up of two steps: half the rate, then all of it, then the fall to nothing over the last two of six."""
    run = training._Run(TINY)
    shares = []
    for step in range(TINY.steps):
        run.advance(draw_batch(TINY, step))
        shares.append([group["lr"] / group["initial_lr"] for one in run._optimizers for group in one.param_groups])

    assert shares == [[share] * 2 for share in (0.5, 1, 1, 1, 1, 0.5)]


def test_each_weight_has_its_optimizer():
    """Muon the matrices of the blocks, AdamW everything else, each at its own rate."""
    model = build_model(TINY)
    muon, adam = training._optimizers(TINY, model)
    names = {id(weights): name for name, weights in model.named_parameters()}
    of_muon, of_adam = ([names[id(one)] for one in opt.param_groups[0]["params"]] for opt in (muon, adam))

    assert sorted(of_muon + of_adam) == sorted(names.values())
    assert all(".self_attention." in name or ".mlp." in name for name in of_muon)
    assert len(of_muon) == TINY.num_layers * (2 * 4 + 2)
    assert [opt.param_groups[0]["initial_lr"] for opt in (muon, adam)] == [
        TINY.hidden_learning_rate,
        TINY.learning_rate,
    ]


def test_impossible_bars_are_dearer():
    """Prices that rise with their level, low below open and close below high, are free; any other costs its excess."""
    levels_Q = torch.linspace(-1.0, 1.0, 21)[:, None]
    offset_F11 = torch.tensor([0.0, 0.5, -0.5, 0.0])[:, None, None]
    valid_SFQH = (levels_Q + offset_F11)[None]
    fallen_SFQH, crossed_SFQH = valid_SFQH.clone(), valid_SFQH.clone()
    fallen_SFQH[0, 1, 20] -= 0.3
    crossed_SFQH[0, 2] += 0.6

    assert float(losses.crossing(valid_SFQH)) == 0.0
    assert float(losses.crossing(fallen_SFQH)) == pytest.approx(0.3 - 0.1 + losses.MARGIN, rel=1e-4)
    assert float(losses.crossing(crossed_SFQH)) == pytest.approx(2 * 21 * (0.1 + losses.MARGIN), rel=1e-4)


@pytest.mark.training
@pytest.mark.parametrize(("first", "then"), [(4, 8), (8, 4)])
def test_run_may_be_longer_or_shorter_than_begun(tmp_path, first, then):
    """The plateau is the same for any number of steps, so the end may be moved before the cool-down begins."""

    def stop_before_cooling(step, loss):
        if step == 2:
            raise KeyboardInterrupt

    plan = dataclasses.replace(TINY, steps=first)
    with pytest.raises(KeyboardInterrupt):
        train(plan, tmp_path / "moved", stop_before_cooling)
    for folder in ("moved", "unbroken"):
        train(dataclasses.replace(TINY, steps=then), tmp_path / folder, lambda step, loss: None)

    assert digest(tmp_path / "moved") == digest(tmp_path / "unbroken")


@pytest.mark.training
def test_end_cannot_be_moved_once_cooling(trained):
    """Weights that have cooled down are no longer on the plateau of a longer run."""
    with pytest.raises(ConfigError, match="a run of"):
        train(dataclasses.replace(TINY, steps=12), trained, lambda step, loss: None)


def test_bundled_checkpoint_is_the_one_described():
    """Model card, checksums and training record speak of the weights that are there."""
    about = json.loads((NANO_FOLDER / "training.json").read_text())

    assert digest(NANO_FOLDER) in (NANO_FOLDER / "SHA256SUMS").read_text()
    assert digest(NANO_FOLDER)[:12] in (NANO_FOLDER / "MODEL_CARD.md").read_text()
    assert about["seconds"] >= 20 * 60
