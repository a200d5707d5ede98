"""Fine-tuning: windows like the service's own, a pure function of its plan, a folder that is whole or not there."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from forecaster.bars import FIELDS, Bars
from forecaster.context import Context
from forecaster.errors import ConfigError, ModelLoadError, NotEnoughBars
from forecaster.model.chronos2.checkpoint import load_checkpoint
from forecaster.model.chronos2.checkpoint_files import NANO_FOLDER, write_sums
from forecaster.model.chronos2.describe import describe
from forecaster.model.chronos2.reference import REFERENCE_PATCH, reference_bars
from forecaster.model.chronos2.upstream import to_upstream
from forecaster.model.chronos2.wrapper import Chronos2OHLCWrapper
from forecaster.model.training.finetune import FinetunePlan, Windows, finetune, fit
from tests.builders import make_bars, make_key

SHORT = FinetunePlan(steps=3, batch_size=2, context=64, horizon=4)


def ignore(step, loss):
    pass


def digest(folder):
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def with_gaps(count=200, seed=3):
    """Bars on the hourly grid of which a third are missing, and once forty in a row."""
    bars = make_bars(count=count)
    kept = np.random.default_rng(seed).random(count) > 1 / 3
    kept[[0, -1]] = True
    kept[100:140] = False
    return bars[kept]


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    return finetune("nano", [make_bars(), with_gaps()], SHORT, tmp_path_factory.mktemp("tuned") / "model", ignore)


@pytest.mark.training
def test_result_is_another_model_that_is_served(tuned):
    """The folder loads as any checkpoint does, forecasts differently, and is the one that its sums name."""
    bars = make_bars(count=80)
    ours, theirs = (Chronos2OHLCWrapper.from_pretrained(one, compile="off") for one in (tuned, "nano"))
    ours_FHQ, theirs_FHQ = (model.predict_ohlc(bars, 5).raw_FHQ for model in (ours, theirs))

    assert digest(tuned) != digest(NANO_FOLDER)
    assert describe(str(tuned)).sums == "agrees with SHA256SUMS, 2 files"
    assert ours_FHQ.shape == theirs_FHQ.shape
    assert np.isfinite(ours_FHQ).all()
    assert np.abs(ours_FHQ - theirs_FHQ).max() > 0


@pytest.mark.training
def test_record_says_what_it_was_made_of(tuned):
    about = json.loads((tuned / "finetune.json").read_text())

    assert about["plan"] == dataclasses.asdict(SHORT) | {"learning_rate": SHORT.first_learning_rate}
    assert about["source"] == {"model": "nano", "revision": None, "weights_sha256": digest(NANO_FOLDER)}
    assert about["series"][0] == {
        "series": "binance BTC/USDT 1h",
        "calendar": "24/7",
        "bars": 100,
        "first_open": "2024-01-01T00:00:00Z",
        "last_open": "2024-01-05T03:00:00Z",
    }
    assert about["seconds"] > 0
    assert all(f"{name} " in about["libraries"] for name in ("torch", "chronos-forecasting", "transformers"))


@pytest.mark.training
def test_damaged_result_is_noticed(tuned, tmp_path):
    """One flipped bit in the weights: the sums that fine-tuning wrote give it away."""
    folder = tmp_path / "damaged"
    shutil.copytree(tuned, folder)
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)

    with pytest.raises(ModelLoadError, match="the file is damaged"):
        load_checkpoint(str(folder), None, "cpu")


@pytest.mark.training
def test_same_seed_same_weights(tuned, tmp_path):
    """Whatever random numbers were drawn before: the same bits. Another seed: others."""
    np.random.random(7)  # noqa: NPY002 - the global state is what `fit` draws windows from
    torch.rand(7)
    bars = [make_bars(), with_gaps()]
    again = finetune("nano", bars, SHORT, tmp_path / "again", ignore)
    other = finetune("nano", bars, dataclasses.replace(SHORT, seed=1), tmp_path / "other", ignore)

    assert digest(again) == digest(tuned)
    assert digest(other) != digest(tuned)


@pytest.mark.training
def test_model_comes_back_in_evaluation_mode(tmp_path):
    """`Chronos2Pipeline.fit` leaves dropout on."""
    source = to_upstream(load_checkpoint("nano", None, "cpu")[0])
    model = fit(source, Windows([make_bars()], 64, 4), SHORT, tmp_path, ignore)

    assert not any(module.training for module in model.modules())


@pytest.mark.training
def test_source_is_left_as_it_was(tmp_path):
    source = to_upstream(load_checkpoint("nano", None, "cpu")[0])
    before = {name: weight.clone() for name, weight in source.state_dict().items()}
    fit(source, Windows([make_bars()], 64, 4), SHORT, tmp_path, ignore)

    assert all(torch.equal(weight, before[name]) for name, weight in source.state_dict().items())
    assert not source.training


@pytest.fixture(params=[False, True], ids=["bars alone", "reference patch"])
def checkpoint(request, tmp_path):
    """The bundled model, once shown the last close in a patch of its own, once not."""
    folder = tmp_path / "checkpoint"
    shutil.copytree(NANO_FOLDER, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {REFERENCE_PATCH: request.param}))
    write_sums(folder)
    return folder


def test_windows_are_the_contexts_of_the_service(checkpoint):
    """Each equals what the wrapper makes of a context at that close; missing slots are NaN in both."""
    bars = with_gaps()
    wrapper = Chronos2OHLCWrapper.from_pretrained(checkpoint, compile="off")
    windows = Windows([bars], 64, 4, reference_bars(load_checkpoint(str(checkpoint), None, "cpu")[0]))
    contexts = [Context.ending_at(bars, int(cutoff), 64, 1) for cutoff in bars.close_time[:-1]]
    rows = [wrapper.rows_of(one) for one in contexts if (~np.isnan(one.ohlc_CT[3])).sum() >= 16]
    pads = [windows.past - one.shape[1] for one in rows]
    expected = [np.pad(one, ((0, 0), (pad, 0)), constant_values=np.nan) for one, pad in zip(rows, pads, strict=True)]
    seen = [window["context"].numpy() for window in windows]

    assert any(np.isnan(one[:, 44:64]).any() for one in seen)
    for window in seen:
        past_CT = window[:, : windows.past]
        assert any(np.allclose(past_CT, one - one[:, 63:64], rtol=1e-6, equal_nan=True) for one in expected)
    # Those left out would have no real bar ahead, or a horizon past the last bar.
    assert 0 < len(seen) < len(expected)
    assert all(np.isfinite(window[3, windows.past :]).any() for window in seen)


@pytest.mark.training
def test_windows_reach_the_model_whole(checkpoint, tmp_path, monkeypatch):
    """Gaps as NaN, four rows in a group, a real last bar, a real bar ahead, and nothing but the windows."""
    bars = with_gaps()
    source = to_upstream(load_checkpoint(str(checkpoint), None, "cpu")[0])
    windows = Windows([bars], 64, 4, reference_bars(source))
    seen = []
    from chronos.chronos2 import Chronos2Model

    forward = Chronos2Model.forward

    def spy(self, **inputs):
        seen.append(inputs)
        return forward(self, **inputs)

    monkeypatch.setattr(Chronos2Model, "forward", spy)
    fit(source, windows, dataclasses.replace(SHORT, steps=5, batch_size=20), tmp_path, ignore)
    context_BT, target_BH = (torch.cat([one[name] for one in seen]) for name in ("context", "future_target"))
    known = {window["context"].numpy().tobytes() for window in windows}
    drawn = torch.cat([context_BT, target_BH], dim=1).view(-1, len(FIELDS), windows.past + 4).numpy()

    assert [one["group_ids"].tolist() for one in seen] == [[i // 4 for i in range(80)]] * 5
    assert {one["num_output_patches"] for one in seen} == {1}
    assert (context_BT[:, 63] == 0).all()
    assert context_BT[:, 44:64].isnan().any()
    assert target_BH.isnan().any()
    assert {one.tobytes() for one in drawn} <= known


@pytest.mark.training
def test_reference_patch_is_kept(checkpoint, tmp_path):
    """What a model is shown beside its bars stands in its config; the limits are those it had."""
    out = finetune(checkpoint, [make_bars()], SHORT, tmp_path / "model", ignore)
    before, after = (Chronos2OHLCWrapper.from_pretrained(one, compile="off") for one in (checkpoint, out))
    context = Context.ending_at(make_bars(), int(make_bars().close_time[-1]), 64, 16)

    assert np.array_equal(before.rows_of(context), after.rows_of(context), equal_nan=True)
    assert (after.max_context, after.max_horizon) == (before.max_context, before.max_horizon)


def test_plan_beyond_the_model(checkpoint, tmp_path):
    """Upstream would widen the limits of the checkpoint and say nothing."""
    facts = describe(str(checkpoint))
    for values in ({"context": facts.max_context + 1}, {"horizon": facts.max_horizon + 1}):
        with pytest.raises(ConfigError, match="the model's own limit"):
            finetune(checkpoint, [make_bars()], dataclasses.replace(SHORT, **values), tmp_path / "model", ignore)


def test_every_window_of_a_whole_series_is_offered():
    """From sixteen bars of context to the last bar as the last target, each once."""
    bars = make_bars(count=100)
    windows = Windows([bars], 64, 4)
    closes_H = windows[-1]["context"].numpy()[3, 64:] + bars.close[95]

    assert len(windows) == 100 - 16 - 4 + 1
    assert closes_H == pytest.approx(bars.close[96:], rel=1e-6)


def test_cents_survive_a_large_price():
    """Moves of 1/64 around 2^30: the same windows as without that level; in float32 they would be 0."""
    small = make_bars(count=60)
    steps = np.round(small.ohlcv_TF[:, :4] * 64 / 1000) / 64
    low, high = (
        Bars(small.key, small.open_time, np.column_stack([steps + level, steps[:, 3]])) for level in (1, 2**30)
    )
    ours, theirs = (Windows([one], 32, 4)[10]["context"] for one in (low, high))

    assert torch.equal(ours.nan_to_num(nan=9.0), theirs.nan_to_num(nan=9.0))
    assert (ours[:, :32].nan_to_num().abs().sum(dim=1) > 0).all()


def test_series_share_by_length():
    """A short series is not drawn as often as a long one."""
    long, short = make_bars(count=500), make_bars(make_key(symbol="ETH/USDT"), count=40)

    assert len(Windows([long, short], 64, 4)) == len(Windows([long], 64, 4)) + len(Windows([short], 64, 4))
    with pytest.raises(NotEnoughBars, match="ETH/USDT"):
        Windows([long, short[:19]], 64, 4)
    with pytest.raises(NotEnoughBars, match="found 0"):
        Windows([Bars.empty(long.key)], 64, 4)


@pytest.mark.training
def test_every_step_is_told(tmp_path):
    told = []
    finetune("nano", [make_bars()], SHORT, tmp_path / "model", lambda *one: told.append(one))

    assert [step for step, _ in told] == [0, 1, 2]
    assert all(np.isfinite(loss) and loss > 0 for _, loss in told)


@pytest.mark.training
@pytest.mark.parametrize("mode", ["full", "lora"])
def test_nothing_is_said_or_left_elsewhere(mode, tmp_path, monkeypatch, capfd):
    """No line on either stream, no file in the working directory, no scratch in the folder."""
    desk = tmp_path / "desk"
    desk.mkdir()
    monkeypatch.chdir(desk)
    out = finetune("nano", [make_bars()], dataclasses.replace(SHORT, mode=mode), tmp_path / "model", ignore)

    assert capfd.readouterr() == ("", "")
    assert not list(desk.iterdir())
    assert sorted(one.name for one in out.iterdir()) == [
        "SHA256SUMS",
        "config.json",
        "finetune.json",
        "model.safetensors",
    ]


@pytest.mark.training
def test_lora_is_merged(tmp_path):
    """Same names of weights as before; attention and the last layer have changed, nothing else has."""
    plan = dataclasses.replace(SHORT, mode="lora")
    out = finetune("nano", [make_bars()], plan, tmp_path / "one", ignore)
    torch.rand(7)
    again = finetune("nano", [make_bars()], plan, tmp_path / "two", ignore)
    before, after = (load_file(folder / "model.safetensors") for folder in (NANO_FOLDER, out))
    changed = {name for name in before if not torch.equal(before[name], after[name])}

    assert before.keys() == after.keys()
    assert changed
    assert all("self_attention" in name or "output_patch_embedding.output_layer" in name for name in changed)
    assert digest(out) == digest(again)
    assert np.isfinite(
        Chronos2OHLCWrapper.from_pretrained(out, compile="off").predict_ohlc(make_bars(), 5).raw_FHQ
    ).all()


def test_lora_without_its_extra(tmp_path, monkeypatch):
    """The extra to install is named, and a full fine-tuning does not quietly take its place."""
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match=r"pip install 'forecaster\[lora\]'"):
        finetune("nano", [make_bars()], dataclasses.replace(SHORT, mode="lora"), tmp_path / "model", ignore)

    assert not (tmp_path / "model").exists()


@pytest.mark.training
@pytest.mark.parametrize("existed", [True, False])
def test_interrupted_run_leaves_nothing(existed, tmp_path):
    out = tmp_path / "model"
    if existed:
        out.mkdir()

    def stop(step, loss):
        if step == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune("nano", [make_bars()], SHORT, out, stop)

    assert out.exists() == existed
    assert not existed or not list(out.iterdir())


@pytest.mark.training
def test_full_disk_leaves_nothing(tmp_path, monkeypatch):
    """The last move fails: the files that were moved before it go too."""
    move = shutil.move

    def fail_on_weights(source, target):
        if target.name == "model.safetensors":
            raise OSError(28, "No space left on device")
        return move(source, target)

    monkeypatch.setattr(shutil, "move", fail_on_weights)
    with pytest.raises(OSError, match="No space"):
        finetune("nano", [make_bars()], SHORT, tmp_path / "model", ignore)

    assert not (tmp_path / "model").exists()


def test_folder_in_use_is_refused(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"precious")
    with pytest.raises(ConfigError, match="a new or empty folder"):
        finetune("nano", [make_bars()], SHORT, tmp_path, ignore)

    assert [one.read_bytes() for one in tmp_path.iterdir()] == [b"precious"]


@pytest.mark.training
def test_loss_that_is_no_number_ends_the_run(tmp_path):
    """A learning rate that throws the weights out of float32."""
    told = []
    plan = dataclasses.replace(SHORT, steps=50, learning_rate=1e30)
    with pytest.raises(ConfigError, match="learning_rate: expected a rate at which the loss stays finite"):
        finetune("nano", [make_bars()], plan, tmp_path / "model", lambda step, loss: told.append(loss))

    assert len(told) < 5
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    "values",
    [{"mode": "most"}, {"steps": 0}, {"batch_size": 0}, {"context": 15}, {"horizon": 0}, {"seed": -1}]
    + [{"horizon": 8.0}, {"context": "64"}, {"steps": True}]
    + [{"learning_rate": rate} for rate in (0.0, -1.0, float("nan"), float("inf"))],
    ids=str,
)
def test_impossible_plan(values):
    with pytest.raises(ConfigError, match=next(iter(values))):
        FinetunePlan(**values)
