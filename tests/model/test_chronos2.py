"""The wrapper: what it loads, what it refuses, and that it is Chronos-2 itself that answers."""

from __future__ import annotations

import json
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from chronos import Chronos2Pipeline

from forecaster.bars import Context
from forecaster.config import ModelConfig
from forecaster.errors import InferenceError, InvalidContext, ModelLoadError, NonFiniteForecast
from forecaster.model import load_model
from forecaster.model.chronos2 import NANO_FOLDER, TOKENS_PER_BATCH, Chronos2OHLCWrapper
from forecaster.model.compiled import CompileFallbackWarning
from tests.builders import make_bars, make_key


@pytest.fixture(scope="module")
def wrapper():
    return Chronos2OHLCWrapper.from_pretrained("nano")


@pytest.fixture
def folder(tmp_path):
    """A copy of the bundled checkpoint to damage, without its checksums."""
    copy = tmp_path / "model"
    shutil.copytree(NANO_FOLDER, copy)
    (copy / "SHA256SUMS").unlink()
    return copy


def make_context(count=128, *, missing=(), scale=1.0, seed=0):
    bars = make_bars(count=count, seed=seed)
    ohlc_CT = bars.ohlcv_TF[:, :4].T * scale
    ohlc_CT[:, list(missing)] = np.nan
    return Context(bars.key, int(bars.close_time[-1]), ohlc_CT)


@pytest.mark.parametrize("missing", [(), (3, 50, 51)], ids=["whole", "with missing bars"])
def test_equal_to_upstream_pipeline(wrapper, missing):
    """The four rows as one group through chronos-forecasting's own `predict` give the same quantiles."""
    context = make_context(missing=missing)
    pipeline = Chronos2Pipeline.from_pretrained(NANO_FOLDER)
    upstream_CQH = pipeline.predict([{"target": context.ohlc_CT}], prediction_length=20)[0].numpy()
    ours = wrapper.predict([context], 20)[0]
    spread = ours.quantile("close", 0.9) - ours.quantile("close", 0.1)

    assert np.abs(ours.raw_FHQ.transpose(0, 2, 1) - upstream_CQH).max() < 1e-4 * spread.max()


def test_companions_do_not_matter(wrapper):
    """Alone, in company, and in another order: the same forecast within float32."""
    contexts = [make_context(100 + 10 * i, seed=i) for i in range(6)]
    alone = [wrapper.predict([context], 8)[0].raw_FHQ for context in contexts]
    together = [one.raw_FHQ for one in wrapper.predict(contexts, 8)]
    backwards = [one.raw_FHQ for one in wrapper.predict(contexts[::-1], 8)][::-1]

    for one, two, three in zip(alone, together, backwards, strict=True):
        np.testing.assert_allclose(two, one, rtol=1e-6)
        np.testing.assert_allclose(three, one, rtol=1e-6)


def test_answers_come_in_the_order_of_the_contexts(wrapper):
    contexts = [make_context(count, scale=scale) for count, scale in ((300, 1), (40, 1e-6), (128, 1e6))]

    for context, forecast in zip(contexts, wrapper.predict(contexts, 3), strict=True):
        assert forecast.median()[0] == pytest.approx(context.last_close, rel=0.1)


@pytest.mark.parametrize("scale", [1e-6, 1e-4, 1e6, 1e9])
def test_price_level_only_scales_the_forecast(wrapper, scale):
    """A price of 4e-2 or 4e13 is forecast like one of 4e4."""
    plain = wrapper.predict([make_context()], 4)[0].values_FHQ
    scaled = wrapper.predict([make_context(scale=scale)], 4)[0].values_FHQ / scale

    np.testing.assert_allclose(scaled, plain, rtol=1e-4)


def test_constant_prices(wrapper):
    ohlc_CT = np.full((4, 64), 5.0)
    forecast = wrapper.predict([Context(make_key(), 0, ohlc_CT)], 4)[0]

    assert np.isfinite(forecast.values_FHQ).all()


def test_ohlc_methods_agree_with_the_port(wrapper):
    bars = [make_bars(count=100, seed=seed) for seed in (1, 2)]
    contexts = [Context.ending_at(one, int(one.close_time[-1]), 64, 1) for one in bars]
    batch = wrapper.predict_ohlc_batch(bars, 5, context_length=64)

    for context, forecast in zip(contexts, batch, strict=True):
        np.testing.assert_array_equal(forecast.raw_FHQ, wrapper.predict(contexts, 5)[contexts.index(context)].raw_FHQ)
    assert wrapper.predict_ohlc(bars[0], 5, 64).horizon == 5


def test_provenance_tells_where_it_came_from(wrapper):
    context = make_context()
    forecast = wrapper.predict([context], 4)[0]
    provenance = forecast.provenance

    assert provenance.model_id == "nano"
    assert provenance.weights_sha256.startswith(provenance.revision)
    assert (provenance.engine, provenance.dtype, provenance.device) == ("eager", "float32", "cpu")
    assert provenance.input_sha256 == context.sha256
    assert provenance.batch_shape == (4, 128)
    assert "torch" in provenance.library_versions


@pytest.mark.parametrize("horizon", [0, -1, 65])
def test_horizon_out_of_range(wrapper, horizon):
    with pytest.raises(InvalidContext, match=f"expected 1 to 64, found {horizon}"):
        wrapper.predict([make_context()], horizon)


@pytest.mark.parametrize(
    "change",
    [
        lambda ohlc_CT: ohlc_CT[:3],
        lambda ohlc_CT: ohlc_CT[:, :0],
        lambda ohlc_CT: np.where(np.arange(128) == 5, np.inf, ohlc_CT),
        lambda ohlc_CT: np.where(np.arange(128) == 127, np.nan, ohlc_CT),
    ],
    ids=["three fields", "no bars", "infinity", "last bar missing"],
)
def test_invalid_context_is_a_value_error(wrapper, change):
    """Refused before the model is asked, and not taken for a compiler's fault."""
    context = Context(make_key(), 0, change(make_context().ohlc_CT))
    with pytest.raises(ValueError, match="expected"):
        wrapper.predict([context], 4)


def test_injected_compile_failure_gives_the_eager_forecast(monkeypatch):
    """At run time: the request is answered by eager, one warning, and provenance says why."""
    monkeypatch.setattr("forecaster.model.compiled._warned", threading.Event())
    broken = Chronos2OHLCWrapper.from_pretrained("nano", compile="off")
    eager = broken.predict([make_context()], 6)[0]

    def fail(context_BT, patches, missing):
        raise torch._inductor.exc.InductorError(RuntimeError("injected"), None)

    broken._forward._compiled = fail
    with pytest.warns(CompileFallbackWarning, match="InductorError") as seen:
        forecast = broken.predict([make_context()], 6)[0]

    assert len(seen) == 1
    assert np.array_equal(forecast.raw_FHQ, eager.raw_FHQ)
    assert forecast.engine == "eager"
    assert "injected" in forecast.provenance.engine_reason


def test_fault_of_the_model_is_named(wrapper, monkeypatch):
    def fail(context_BT, patches, missing):
        msg = "injected"
        raise RuntimeError(msg)

    monkeypatch.setattr(wrapper._forward, "_eager", fail)
    with pytest.raises(InferenceError, match="injected"):
        wrapper.predict([make_context()], 4)


def test_non_finite_answer_is_refused(wrapper, monkeypatch):
    monkeypatch.setattr(wrapper._forward, "_eager", lambda *_: torch.full((4, 21, 16), torch.nan))
    with pytest.raises(NonFiniteForecast, match="binance BTC/USDT 1h"):
        wrapper.predict([make_context()], 4)


def test_unloaded_model_says_so():
    wrapper = Chronos2OHLCWrapper.from_pretrained("nano")
    wrapper.unload()
    with pytest.raises(InvalidContext, match="expected a loaded model"):
        wrapper.predict([make_context()], 4)


def test_folder_loads_like_the_bundled_name(wrapper, folder):
    forecast = Chronos2OHLCWrapper.from_pretrained(folder).predict([make_context()], 4)[0]

    assert np.array_equal(forecast.raw_FHQ, wrapper.predict([make_context()], 4)[0].raw_FHQ)


def damage_flipped_bit(folder):
    shutil.copy(NANO_FOLDER / "SHA256SUMS", folder)
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-5] ^= 1
    (folder / "model.safetensors").write_bytes(weights)


def damage_truncated(folder):
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])


def damage_shape(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_layers": 5}))


def damage_other_model(folder):
    (folder / "config.json").write_text('{"model_type": "t5", "d_model": 8}')


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (damage_flipped_bit, "the file is damaged"),
        (damage_truncated, "a Chronos-2 model in"),
        (damage_shape, "weights that fit config.json"),
        (damage_other_model, "chronos_config"),
        (lambda folder: (folder / "config.json").write_text("{"), "a Chronos-2 model in"),
        (lambda folder: (folder / "config.json").unlink(), "a file config.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), "a file model.safetensors"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b""), "a Chronos-2 model in"),
    ],
    ids=["bit", "truncated", "layers", "other model", "config", "no config", "no weights", "empty weights"],
)
def test_damaged_weights_are_named(folder, damage, found):
    damage(folder)
    with pytest.raises(ModelLoadError, match=found):
        Chronos2OHLCWrapper.from_pretrained(folder)


def test_hub_repository_needs_a_revision():
    with pytest.raises(ModelLoadError, match="pinned revision"):
        Chronos2OHLCWrapper.from_pretrained("amazon/chronos-2")


def test_unreachable_hub_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelLoadError, match="amazon/chronos-2: expected revision 29ec3766"):
        Chronos2OHLCWrapper.from_pretrained("amazon/chronos-2", revision="29ec3766d36d6f73f0696f85560a422f50e8498c")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine without CUDA is the case")
def test_absent_device_is_named():
    with pytest.raises(ModelLoadError, match="expected a device"):
        load_model(ModelConfig(device="cuda"))


def test_threads_share_a_model(wrapper):
    """Eight threads at once: every answer is bit by bit that of a call alone."""
    contexts = [make_context(seed=seed) for seed in range(8)]
    alone = [wrapper.predict([context], 4)[0].raw_FHQ for context in contexts]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda context: wrapper.predict([context], 4)[0].raw_FHQ, contexts * 10))

    for i, raw_FHQ in enumerate(together):
        assert np.array_equal(raw_FHQ, alone[i % 8])


def test_fork_is_refused(wrapper):
    """A forked child gets a clear error at once, not a hang in torch's threads that were not forked."""
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


def test_large_calls_run_in_batches_sized_to_the_machine(wrapper):
    """However many series are asked for, no batch holds more tokens than the machine's share."""
    forecasts = wrapper.predict([make_context(512)] * 40, 4)

    for forecast in forecasts:
        rows, bars = forecast.provenance.batch_shape
        assert rows * (bars // 16 + 2) <= TOKENS_PER_BATCH["cpu"]
    assert len(forecasts) == 40
