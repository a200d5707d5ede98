"""The wrapper: what it loads, what it refuses, and that it is Chronos-2 itself that answers."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from forecaster.config import ModelConfig
from forecaster.context import Context
from forecaster.errors import InferenceError, InvalidArgument, InvalidContext, ModelLoadError, NonFiniteForecast
from forecaster.model import load_model, model_id_of
from forecaster.model.baselines import create_baseline
from forecaster.model.baselines.random_walk import RandomWalk
from forecaster.model.chronos2.architecture import Chronos2
from forecaster.model.chronos2.checkpoint import load_checkpoint
from forecaster.model.chronos2.checkpoint_config import Architecture
from forecaster.model.chronos2.checkpoint_files import NANO_FOLDER
from forecaster.model.chronos2.compilers import CompileSettings
from forecaster.model.chronos2.core import Core
from forecaster.model.chronos2.reference import REFERENCE_PATCH, reference_patch
from forecaster.model.chronos2.wrapper import TOKENS_PER_BATCH, Chronos2OHLCWrapper
from forecaster.model.training.pretrain import TrainingPlan, build_model
from tests.builders import make_bars, make_key
from tests.model.engines import Toolchain


@pytest.fixture(scope="module")
def wrapper():
    return Chronos2OHLCWrapper.from_pretrained("nano", compile="off")


@pytest.fixture
def folder(tmp_path):
    """A copy of the bundled checkpoint to damage, without its checksums."""
    copy = tmp_path / "model"
    shutil.copytree(NANO_FOLDER, copy)
    (copy / "SHA256SUMS").unlink()
    return copy


def upstream_pipeline():
    from chronos import Chronos2Pipeline

    return Chronos2Pipeline.from_pretrained(NANO_FOLDER)


def make_context(count=128, *, missing=(), scale=1.0, seed=0):
    bars = make_bars(count=count, seed=seed)
    ohlc_CT = bars.ohlcv_TF[:, :4].T * scale
    ohlc_CT[:, list(missing)] = np.nan
    return Context(bars.key, int(bars.close_time[-1]), ohlc_CT)


@pytest.mark.parametrize("missing", [(), (3, 50, 51)], ids=["whole", "with missing bars"])
def test_equal_to_upstream_pipeline(wrapper, missing):
    """The four rows as one group through chronos-forecasting's own `predict` give the same quantiles."""
    context = make_context(missing=missing)
    pipeline = upstream_pipeline()
    upstream_CQH = pipeline.predict([{"target": wrapper.rows_of(context)}], prediction_length=20)[0].numpy()
    ours = wrapper.predict([context], 20)[0]
    spread = ours.quantile(0.9) - ours.quantile(0.1)

    assert np.abs(ours.raw_FHQ.transpose(0, 2, 1) - upstream_CQH).max() < 1e-4 * spread.max()


def test_a_forecast_does_not_depend_on_its_batch(wrapper):
    """Alone, in a batch of two hundred, and in another order: equal within 1e-5 of its own spread.

    Two thirds have gaps, and lengths differ, so that batches differ each time.
    """
    contexts = [make_context(40 + 30 * (i % 3), missing=(3, 20) if i % 3 else (), seed=i) for i in range(200)]
    order = np.random.default_rng(0).permutation(len(contexts))
    together = wrapper.predict(contexts, 8)
    shuffled = dict(zip(order, wrapper.predict([contexts[i] for i in order], 8), strict=True))
    for i in range(0, 200, 17):
        alone = wrapper.predict([contexts[i]], 8)[0].raw_FHQ
        spread = np.ptp(alone, axis=(1, 2))[:, None, None]

        assert (np.abs(together[i].raw_FHQ - alone) <= 1e-5 * spread).all()
        assert (np.abs(shuffled[i].raw_FHQ - alone) <= 1e-5 * spread).all()


def test_forecasts_are_in_the_order_of_the_contexts(wrapper):
    contexts = [make_context(count, scale=scale) for count, scale in ((300, 1), (40, 1e-6), (128, 1e6))]

    for context, forecast in zip(contexts, wrapper.predict(contexts, 3), strict=True):
        assert forecast.median()[0] == pytest.approx(context.last_close, rel=0.1)


@pytest.mark.parametrize("scale", [1e-6, 1e9])
def test_price_level_only_scales_the_forecast(wrapper, scale):
    """A price of 4e-2 or 4e13 is forecast like one of 4e4."""
    plain = wrapper.predict([make_context()], 4)[0].values_FHQ
    scaled = wrapper.predict([make_context(scale=scale)], 4)[0].values_FHQ / scale

    np.testing.assert_allclose(scaled, plain, rtol=1e-4)


def test_constant_prices(wrapper):
    ohlc_CT = np.full((4, 64), 5.0)
    forecast = wrapper.predict([Context(make_key(), 0, ohlc_CT)], 4)[0]

    assert np.isfinite(forecast.values_FHQ).all()


def test_predict_ohlc_agrees_with_predict(wrapper):
    bars = [make_bars(count=100, seed=seed) for seed in (1, 2)]
    contexts = [Context.ending_at(one, int(one.close_time[-1]), 64, 1) for one in bars]
    batch = wrapper.predict_ohlc_batch(bars, 5, context_length=64)

    for context, forecast in zip(contexts, batch, strict=True):
        np.testing.assert_array_equal(forecast.raw_FHQ, wrapper.predict(contexts, 5)[contexts.index(context)].raw_FHQ)
    assert wrapper.predict_ohlc(bars[0], 5, 64).horizon == 5


def test_provenance(wrapper):
    context = make_context()
    forecast = wrapper.predict([context], 4)[0]
    provenance = forecast.provenance

    assert provenance.model_id == "nano"
    assert provenance.weights_sha256.startswith(provenance.revision)
    assert (provenance.engine, provenance.dtype, provenance.device) == ("eager", "float32", "cpu")
    assert provenance.input_sha256 == context.sha256
    assert provenance.batch_shape == (4, 144)
    assert "torch" in provenance.library_versions


@pytest.mark.parametrize(
    "change",
    [
        lambda ohlc_CT: ohlc_CT[:3],
        lambda ohlc_CT: np.where(np.arange(128) == 5, -np.inf, ohlc_CT),
        lambda ohlc_CT: np.where((np.arange(128) == 127) & (np.arange(4) == 2)[:, None], np.nan, ohlc_CT),
        lambda ohlc_CT: np.where(np.arange(128) < 113, np.nan, ohlc_CT),
    ],
    ids=["three fields", "infinity", "last low missing", "15 bars"],
)
def test_an_invalid_context_is_named(wrapper, change):
    """At any position of the batch."""
    for at in range(3):
        contexts = [make_context(seed=i) for i in range(3)]
        contexts[at] = Context(make_key(symbol="ETH/USDT"), 0, change(contexts[at].ohlc_CT))

        with pytest.raises(InvalidContext, match="ETH/USDT"):
            wrapper.predict(contexts, 4)


def test_rows_do_not_depend_on_the_batch(wrapper):
    """With mixed lengths and gaps, the rows of a context are bit for bit those of a batch of its own."""
    contexts = [make_context(40 + 30 * (i % 3), missing=(3, 20) if i % 2 else (), seed=i) for i in range(12)]
    made = list(wrapper._batches([wrapper.rows_of(one) for one in contexts], 8))
    together = list(wrapper._batches(wrapper._rows_of_all(contexts), 8))

    assert sorted(i for positions, _, _ in together for i in positions) == list(range(12))
    for (one, rows_SGT, anchor_SG), (other, rows_too_SGT, anchor_too_SG) in zip(made, together, strict=True):
        assert one == other
        assert np.array_equal(rows_SGT, rows_too_SGT, equal_nan=True)
        assert np.array_equal(anchor_SG, anchor_too_SG)


@pytest.mark.parametrize("horizon", [0, -1, 65, 10**30])
def test_horizon_out_of_range(wrapper, horizon):
    with pytest.raises(InvalidArgument, match=f"horizon: expected 1 to 64, found {horizon}"):
        wrapper.predict([make_context()], horizon)


NOT_INTEGERS = [4.0, math.nan, "4", True, np.True_, None, np.float64(4), [4]]


@pytest.mark.parametrize("horizon", NOT_INTEGERS, ids=repr)
@pytest.mark.parametrize(
    "call",
    [
        lambda wrapper, horizon: wrapper.predict([make_context()], horizon),
        lambda wrapper, horizon: wrapper.predict([], horizon),
        lambda wrapper, horizon: wrapper.predict_ohlc(make_bars(), horizon),
        lambda wrapper, horizon: wrapper.predict_ohlc_batch([], horizon),
        lambda wrapper, horizon: wrapper.predict_rows(np.ones((1, 64)), horizon),
        lambda wrapper, horizon: wrapper.batch_shapes([(1, 64, horizon)]),
        lambda _, horizon: RandomWalk().predict([make_context()], horizon),
        lambda _, horizon: create_baseline("garch").predict([make_context()], horizon),
    ],
    ids=["predict", "nothing", "ohlc", "batch", "rows", "shapes", "walk", "garch"],
)
def test_horizon_must_be_an_integer(wrapper, call, horizon):
    """Every method names the argument before any work."""
    with pytest.raises(InvalidArgument, match=r"horizon: expected a whole number, 1 (to 64|or more), found "):
        call(wrapper, horizon)


@pytest.mark.parametrize("length", [0, -5, 15, 513, 10**30])
def test_context_length_out_of_range(wrapper, length):
    with pytest.raises(InvalidArgument, match=f"context_length: expected 16 to 512, found {length}"):
        wrapper.predict_ohlc(make_bars(), 4, length)


@pytest.mark.parametrize("length", [one for one in NOT_INTEGERS if one is not None], ids=repr)
def test_context_length_must_be_an_integer(wrapper, length):
    with pytest.raises(InvalidArgument, match="context_length: expected a whole number, 16 to 512, found "):
        wrapper.predict_ohlc(make_bars(), 4, length)


def test_numpy_integers_are_accepted(wrapper):
    bars = make_bars()
    forecast = wrapper.predict_ohlc(bars, np.int64(4), np.uint16(64))

    np.testing.assert_array_equal(forecast.raw_FHQ, wrapper.predict_ohlc(bars, 4, 64).raw_FHQ)


@pytest.mark.parametrize(
    "change",
    [
        lambda ohlc_CT: ohlc_CT[:3],
        lambda ohlc_CT: ohlc_CT[:, :0],
        lambda ohlc_CT: np.where(np.arange(128) == 5, np.inf, ohlc_CT),
        lambda ohlc_CT: np.where(np.arange(128) == 127, np.nan, ohlc_CT),
        lambda ohlc_CT: ohlc_CT[:, :15],
        lambda ohlc_CT: np.where(np.arange(128) < 113, np.nan, ohlc_CT),
    ],
    ids=["three fields", "no bars", "infinity", "last bar missing", "15 bars", "15 bars that are not missing"],
)
def test_invalid_context_is_a_value_error(wrapper, change):
    """Refused before the model runs, and not counted as a fault of the compiler."""
    context = Context(make_key(), 0, change(make_context().ohlc_CT))
    with pytest.raises(ValueError, match="expected"):
        wrapper.predict([context], 4)


@pytest.fixture
def faulty(wrapper, monkeypatch):
    """Replace the forward pass of the shared wrapper: `faulty(lambda standard_BT: …)`."""

    def replace(run):
        monkeypatch.setattr(Core, "forward", lambda self, standard_BT: run(standard_BT))
        return wrapper

    return replace


def test_fault_of_the_model_is_named(faulty):
    def fail(standard_BT):
        raise RuntimeError("injected")

    with pytest.raises(InferenceError, match="injected"):
        faulty(fail).predict([make_context()], 4)


def test_a_non_finite_forecast_is_refused(faulty):
    wrapper = faulty(lambda _: torch.full((4, 21, 16), torch.nan))
    with pytest.raises(NonFiniteForecast, match="binance BTC/USDT 1h"):
        wrapper.predict([make_context()], 4)


def test_an_unloaded_model_cannot_forecast():
    wrapper = Chronos2OHLCWrapper.from_pretrained("nano", compile="off")
    wrapper.unload()
    with pytest.raises(InferenceError, match="expected a loaded model"):
        wrapper.predict([make_context()], 4)


def test_folder_loads_like_the_bundled_name(wrapper, folder):
    forecast = Chronos2OHLCWrapper.from_pretrained(folder, compile="off").predict([make_context()], 4)[0]

    assert np.array_equal(forecast.raw_FHQ, wrapper.predict([make_context()], 4)[0].raw_FHQ)


def damage_flipped_bit(folder):
    shutil.copy(NANO_FOLDER / "SHA256SUMS", folder)
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-5] ^= 1
    (folder / "model.safetensors").write_bytes(weights)


def damage_truncated(folder):
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])


def configured(**changes):
    """Damage that changes keys of config.json."""

    def change(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changes))

    return change


def limited(**changes):
    """Damage that changes keys of chronos_config."""
    return configured(chronos_config=json.loads((NANO_FOLDER / "config.json").read_text())["chronos_config"] | changes)


def weighted(change):
    """Damage of the weights by name."""

    def save(folder):
        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors")

    return save


def damage_other_model(folder):
    (folder / "config.json").write_text('{"model_type": "t5", "d_model": 8}')


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (damage_flipped_bit, "the file is damaged"),
        (damage_truncated, "safetensors in .*, found .* bytes of weights, while its header describes"),
        (configured(num_layers=5), "weights that fit config.json"),
        (configured(num_layers=100_000), "num_layers"),
        (configured(chronos_config=1), "chronos_config"),
        (configured(feed_forward_proj="gated-gelu"), "gated-gelu"),
        (configured(rope_theta=True), "rope_theta"),
        (configured(layer_norm_epsilon=1e300), "layer_norm_epsilon"),
        (configured(d_kv=33), "d_kv"),
        (limited(context_length=17), "context_length: expected at least two patches, found 17"),
        (limited(context_length=10**30), "context_length"),
        (limited(time_encoding_scale=10**40), "time_encoding_scale"),
        (limited(time_encoding_scale=0), "time_encoding_scale"),
        (limited(quantiles=[0.9, 0.5, 0.1]), "ascending levels"),
        (limited(quantiles=[i / 22 for i in range(1, 22)]), "quantile levels with"),
        (weighted(lambda weights: weights["shared.weight"].fill_(np.nan)), "finite weights"),
        (weighted(lambda weights: weights.update(further=torch.zeros(1))), "further: expected None"),
        (
            weighted(lambda weights: weights.update({"shared.weight": torch.ones(2, 128).to(torch.int8)})),
            "shared.weight: expected F64, F32, F16, BF16, found I8",
        ),
        (lambda folder: (folder / "SHA256SUMS").write_text("garbage\n\na b c\n"), "with sha256 None"),
        (damage_other_model, "chronos_config"),
        (lambda folder: (folder / "config.json").write_text("{"), "a Chronos-2 model in"),
        (lambda folder: (folder / "config.json").unlink(), "a file config.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), "a file model.safetensors"),
        (
            lambda folder: (folder / "model.safetensors").write_bytes(b""),
            "safetensors in .*, found a header of 0 bytes",
        ),
    ],
    ids=[
        *(
            "bit",
            "truncated",
            "layers",
            "too many layers",
            "no chronos_config",
            "gated",
            "flag",
            "epsilon",
            "odd width",
        ),
        *("short context", "endless context", "time", "no time", "falling levels", "no tails", "NaN", "further weight"),
        *("whole numbers", "sums", "other model", "config"),
        *("no config", "no weights", "empty weights"),
    ],
)
def test_damaged_weights_are_named(folder, damage, found):
    damage(folder)
    with pytest.raises(ModelLoadError, match=found):
        Chronos2OHLCWrapper.from_pretrained(folder)


def test_defaults_are_upstreams():
    """Missing keys of config.json have the defaults of chronos-forecasting."""
    from chronos.chronos2.config import Chronos2CoreConfig

    limits = {"context_length": 64, "quantiles": [0.5]} | dict.fromkeys(PATCHES, 16)
    ours = Architecture.model_validate({"chronos_config": limits})
    theirs = Chronos2CoreConfig(chronos_config=limits).to_dict()
    given = ours.model_dump(exclude={"chronos_config", "reference_patch", "reg_token_id"})

    assert given == {name: theirs[name] for name in given}
    assert ours.chronos_config.time_encoding_scale == 64


PATCHES = ("input_patch_size", "input_patch_stride", "output_patch_size")


HUB_ID, COMMIT = "hub:amazon/chronos-2", "29ec3766d36d6f73f0696f85560a422f50e8498c"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """An empty cache of the hub, without a network; return the folder of the commit."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache/models--amazon--chronos-2/snapshots" / COMMIT


def test_hub_repository_needs_a_revision():
    with pytest.raises(ModelLoadError, match="pinned revision"):
        Chronos2OHLCWrapper.from_pretrained(HUB_ID)


def test_revision_of_a_folder_is_refused(folder):
    """A folder has no revisions."""
    with pytest.raises(ModelLoadError, match="expected no revision"):
        Chronos2OHLCWrapper.from_pretrained(folder, revision=COMMIT)


def test_unreachable_hub_is_named(hub):
    with pytest.raises(ModelLoadError, match="hub:amazon/chronos-2: expected revision 29ec3766"):
        Chronos2OHLCWrapper.from_pretrained(HUB_ID, revision=COMMIT)


def test_a_folder_in_the_working_directory_is_not_the_hubs(hub, folder, tmp_path, monkeypatch):
    """Of the same name, with weights of its own."""
    shutil.copytree(folder, tmp_path / "amazon/chronos-2")
    monkeypatch.chdir(tmp_path)

    with pytest.raises(ModelLoadError, match="in the cache or on a reachable hub"):
        Chronos2OHLCWrapper.from_pretrained(HUB_ID, revision=COMMIT)


def test_name_that_could_be_either_is_refused_with_both_ways(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    with pytest.raises(ModelLoadError, match=r"hub:amazon/chronos-2 with its revision, or the path of a folder"):
        Chronos2OHLCWrapper.from_pretrained("amazon/chronos-2")


def test_the_id_of_a_hub_model_is_its_digest(wrapper, hub):
    """Of the files at the commit, not of their names on the hub."""
    shutil.copytree(NANO_FOLDER, hub)
    loaded = Chronos2OHLCWrapper.from_pretrained(HUB_ID, revision=COMMIT, compile="off")
    (forecast,), (same,) = (one.predict([make_context()], 4) for one in (loaded, wrapper))

    assert forecast.provenance.ledger_id == f"{HUB_ID}@{same.provenance.revision}"
    assert forecast.provenance.weights_sha256 == same.provenance.weights_sha256


def test_the_bundled_model_keeps_its_id(wrapper):
    """Trust and calibration in existing ledgers depend on it."""
    (forecast,) = wrapper.predict([make_context()], 4)

    assert forecast.provenance.ledger_id == wrapper.id == "nano@6f9a56fd2b85"


def test_same_weights_under_another_architecture_are_another_model(wrapper, folder):
    """Positions that turn more slowly: other forecasts, and another identity for them."""
    ids = [wrapper.id.digest]
    for change in (configured(rope_theta=20_000.0), limited(time_encoding_scale=100)):
        change(folder)
        loaded = Chronos2OHLCWrapper.from_pretrained(folder, compile="off")
        (forecast,) = loaded.predict([make_context()], 4)
        ids.append(forecast.provenance.revision)

        assert not np.array_equal(forecast.raw_FHQ, wrapper.predict([make_context()], 4)[0].raw_FHQ)
        assert forecast.provenance.weights_sha256 == hashlib.sha256(weights_of(NANO_FOLDER)).hexdigest()
        assert forecast.provenance.ledger_id == loaded.id
    assert len(set(ids)) == 3


def test_metadata_is_not_part_of_the_id(wrapper, folder):
    """Nor spelling, order, explicit defaults and unused keys."""
    config = json.loads((folder / "config.json").read_text())
    written = {"transformers_version": "9.9", **dict(reversed(config.items()))}
    (folder / "config.json").write_text(json.dumps({name: written[name] for name in written if name != "reg_token_id"}))

    assert Chronos2OHLCWrapper.from_pretrained(folder, compile="off").id.digest == wrapper.id.digest


def test_the_id_is_known_without_loading(wrapper, folder, hub):
    """From the files alone: a process that delegates forecasts does not load weights."""
    shutil.copytree(NANO_FOLDER, hub)
    configs = [ModelConfig(), ModelConfig(id=str(folder)), ModelConfig(id=HUB_ID, revision=COMMIT)]
    configured(rope_theta=20_000.0)(folder)

    assert [model_id_of(one) for one in configs] == [load_model(one).id for one in configs]
    assert len({model_id_of(one).digest for one in configs}) == 2


@pytest.mark.processes
def test_the_id_is_known_without_torch():
    """A replay on other machines starts without it."""
    program = (
        "import sys; from forecaster.config import ModelConfig; from forecaster.model import model_id_of; "
        "print(model_id_of(ModelConfig()), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["nano@6f9a56fd2b85", "False"]


def test_compiled_code_of_another_architecture_is_not_loaded(folder, tmp_path, monkeypatch):
    """Code for the same weights with other positions computes other numbers."""
    kept, loaded = tmp_path / "compiled", []
    for change in (lambda _: None, configured(rope_theta=20_000.0)):
        change(folder)
        toolchain = Toolchain(load_checkpoint(str(folder), None, "cpu")[0])
        toolchain.install(monkeypatch)
        wrapper = Chronos2OHLCWrapper.from_pretrained(folder, compile=CompileSettings("on", folder=kept))
        wrapper.warm_up([(2, 64, 4)])
        wrapper.unload()
        loaded.append({about["build"] for about in toolchain.loaded})

    assert all(loaded)
    assert not loaded[0] & loaded[1]
    assert len(list(kept.glob("*.pt2"))) == 2


def weights_of(folder):
    return (folder / "model.safetensors").read_bytes()


def test_absent_device_is_named():
    """The 64th GPU, which no machine has."""
    with pytest.raises(ModelLoadError, match="expected a device"):
        load_model(ModelConfig(device="cuda:63"))


def test_threads_share_a_model():
    """16 threads, 20 calls each: every forecast is bit for bit that of a single call."""
    plan = TrainingPlan(num_layers=1, d_model=32, d_kv=16, d_ff=32, num_heads=2)
    upstream = build_model(plan)
    model = Chronos2(Architecture.model_validate(upstream.config.to_dict()))
    model.load_state_dict(upstream.state_dict())
    wrapper = Chronos2OHLCWrapper(model.eval(), "small", "0" * 64, "off")
    contexts = [make_context(32, seed=seed) for seed in range(8)]
    alone = [wrapper.predict([context], 4)[0].raw_FHQ for context in contexts]

    def call(thread):
        turns = [(thread + i) % len(contexts) for i in range(20)]
        return all(np.array_equal(wrapper.predict([contexts[i]], 4)[0].raw_FHQ, alone[i]) for i in turns)

    with ThreadPoolExecutor(16) as pool:
        equal = list(pool.map(call, range(16)))

    assert equal == [True] * 16
    assert not any(np.array_equal(alone[0], other) for other in alone[1:])


@pytest.mark.processes
def test_fork_is_refused(wrapper):
    """A forked child gets an error at once, instead of hanging in torch's missing threads."""
    child = os.fork()
    if not child:
        try:
            wrapper.predict([make_context()], 4)
        except InferenceError as error:
            os._exit(42 if "found a fork of it" in str(error) else 1)
        os._exit(2)
    _, status = os.waitpid(child, 0)

    assert os.waitstatus_to_exitcode(status) == 42
    assert wrapper.predict([make_context()], 4)


def test_large_calls_run_in_limited_batches(wrapper):
    """No batch has more tokens than TOKENS_PER_BATCH."""
    forecasts = wrapper.predict([make_context(512)] * 40, 4)

    for forecast in forecasts:
        rows, bars = forecast.provenance.batch_shape
        assert rows * (bars // 16 + 2) <= TOKENS_PER_BATCH["cpu"]
    assert len(forecasts) == 40


@pytest.fixture
def plain(folder):
    """The bundled weights without a reference patch."""
    config = json.loads((folder / "config.json").read_text())
    config.pop(REFERENCE_PATCH)
    (folder / "config.json").write_text(json.dumps(config))
    return Chronos2OHLCWrapper.from_pretrained(folder, compile="off")


def test_gaps_of_one_series_do_not_change_the_path_of_another(plain):
    """A series without gaps is bit for bit the same next to one with gaps."""
    whole, gaps = make_context(), make_context(missing=(3, 50), seed=1)
    forecasts = plain.predict([whole, gaps], 4)

    assert [one.provenance.batch_shape for one in forecasts] == [(4, 128), (4, 128)]
    assert np.array_equal(forecasts[0].raw_FHQ, plain.predict([whole], 4)[0].raw_FHQ)


def test_missing_patches_of_one_series_do_not_change_the_path_of_another(plain):
    """A series with missing patches is not in a batch with others."""
    contexts = [make_context(), make_context(missing=(3, 50), seed=1), make_context(missing=range(30, 50), seed=2)]
    forecasts = plain.predict(contexts, 4)

    assert [one.provenance.batch_shape for one in forecasts] == [(4, 128)] * 3
    assert all(
        np.array_equal(forecast.raw_FHQ, plain.predict([context], 4)[0].raw_FHQ)
        for context, forecast in zip(contexts, forecasts, strict=True)
    )


def test_with_a_reference_patch_every_series_has_missing_values(wrapper):
    """So series with and without gaps can be in one batch."""
    forecasts = wrapper.predict([make_context(), make_context(missing=(3, 50), seed=1)], 4)

    assert [one.provenance.batch_shape for one in forecasts] == [(8, 144), (8, 144)]


@pytest.mark.parametrize("group", [1, 4, 5])
def test_rows_of_any_group_equal_upstream(wrapper, group):
    """Single series, OHLC, and OHLC with volume as a past covariate, as in chronos-forecasting's own pipeline."""
    ohlcv_TF = make_bars(count=128).ohlcv_TF
    rows_BT = np.concatenate([ohlcv_TF[:, :group].T, ohlcv_TF[::-1, :group].T])
    rows_BT[group:, 5:9] = np.nan
    found_BQH = wrapper.predict_rows(rows_BT, 20, group)
    pipeline = upstream_pipeline()
    targets = [{"target": rows_BT[:group]}, {"target": rows_BT[group:]}]
    upstream_BQH = np.concatenate([one.numpy() for one in pipeline.predict(targets, prediction_length=20)])

    assert found_BQH.shape == (2 * group, 21, 20)
    assert (np.abs(found_BQH - upstream_BQH).max(axis=(1, 2)) < 1e-4 * np.ptp(upstream_BQH, axis=(1, 2))).all()


def test_rows_and_bars_share_one_path(wrapper):
    context = make_context(missing=(3,))
    forecast = wrapper.predict([context], 5)[0]

    assert np.array_equal(wrapper.predict_rows(wrapper.rows_of(context), 5, 4), forecast.raw_FHQ.transpose(0, 2, 1))


def test_reference_patch(wrapper, plain):
    """Rows end with it if config.json has the key; otherwise they are the bars alone."""
    context = make_context()
    rows_CT = wrapper.rows_of(context)

    assert np.array_equal(plain.rows_of(context), context.ohlc_CT)
    assert np.array_equal(rows_CT[:, :-16], context.ohlc_CT)
    assert np.array_equal(rows_CT[:, -16:], reference_patch(context.ohlc_CT, 16), equal_nan=True)
    assert plain.max_context == wrapper.max_context + 16


def test_masked_values_are_unknown(wrapper):
    """A masked value has no effect."""
    rows_BT = make_bars(count=128).ohlcv_TF[:, :4].T.copy()
    known_BT = np.ones(rows_BT.shape, bool)
    known_BT[:, 7] = False
    masked = wrapper.predict_rows(rows_BT, 5, 4, known_BT)
    rows_BT[:, 7] = 1e9

    assert np.array_equal(wrapper.predict_rows(rows_BT, 5, 4, known_BT), masked)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda rows, known: (rows[:7], known[:7]), r"rows a multiple of the group, 4, found \(7, 64\)"),
        (lambda rows, known: (rows[0], known[0]), r"rows: expected shape"),
        (lambda rows, known: (rows[:0], known[:0]), r"rows: expected shape"),
        (lambda rows, known: (np.where(np.arange(64) == 3, np.inf, rows), known), "finite values"),
        (lambda rows, known: (np.where(np.arange(64) == 3, np.nan, rows), known), "no NaN among known values"),
        (lambda rows, known: (rows, known[:, :-1]), r"mask: expected shape \(8, 64\)"),
        (lambda rows, known: (rows, known & (np.arange(64) < 15)), "at least 16 values in each group, found 15"),
        (lambda rows, known: (rows[:, :15], known[:, :15]), "at least 16 values in each group, found 15"),
    ],
    ids=["group", "one axis", "no rows", "infinity", "mask and NaN", "mask's shape", "masked away", "short"],
)
def test_invalid_rows(wrapper, change, found):
    """A ValueError before the model runs, also for a mask that does not match the values."""
    rows_BT, known_BT = change(np.random.default_rng(0).random((8, 64)), np.ones((8, 64), bool))
    with pytest.raises(ValueError, match=found):
        wrapper.predict_rows(rows_BT, 4, 4, known_BT)


@pytest.mark.parametrize("compile_", ["off", "auto", "on"])
def test_refused_input_blames_no_engine(compile_, tmp_path):
    """Invalid input is refused before the graph: no engine counts a fault."""
    wrapper = Chronos2OHLCWrapper.from_pretrained("nano", compile=CompileSettings(compile_, folder=tmp_path))
    with pytest.raises(InvalidContext):
        wrapper.predict([Context(make_key(), 0, np.full((4, 64), np.inf))], 4)

    assert wrapper.status().buckets == ()


def test_status_describes_the_engine(wrapper):
    wrapper = Chronos2OHLCWrapper.from_pretrained("nano", compile="off")
    wrapper.predict([make_context(100)] * 3, 20)
    (bucket,) = wrapper.status().buckets

    assert (bucket.rows, bucket.bars, bucket.patches, bucket.missing, bucket.group) == (12, 128, 2, "bars", 4)
    assert (bucket.engine, bucket.reason, bucket.eager_calls, bucket.faults) == ("eager", "compile is off", 1, ())


def test_batch_shapes_are_those_of_predict(wrapper):
    """`warm_up` prepares the shapes of `predict`: whole batches, the rest, and padding on the left."""
    wrapper = Chronos2OHLCWrapper.from_pretrained("nano", compile="off")
    for series, bars, horizon in [(3, 128, 4), (70, 128, 20), (1, 100, 4)]:
        wrapper.predict([make_context(bars, seed=i) for i in range(series)], horizon)
    asked = {(one.rows, one.bars, one.patches, one.missing) for one in wrapper.status().buckets}
    shapes = wrapper.batch_shapes([(3, 128, 4), (70, 128, 20), (1, 100, 4)])

    assert {(one.rows, one.bars, one.patches, one.missing.value) for one in shapes} == asked


def test_checkpoint_outside_the_forward_pass_is_refused(folder):
    """It would be a different model."""
    config = json.loads((folder / "config.json").read_text())
    config["chronos_config"]["use_arcsinh"] = False
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelLoadError, match="without REG token or arcsinh"):
        Chronos2OHLCWrapper.from_pretrained(folder)
