"""Facts of a checkpoint: from its config, its weights and its records."""

from __future__ import annotations

import hashlib
import json
import shutil

import pytest

from forecaster.errors import ModelLoadError
from forecaster.model.chronos2.checkpoint_files import NANO_FOLDER, write_sums
from forecaster.model.chronos2.describe import describe
from forecaster.model.chronos2.reference import REFERENCE_PATCH
from forecaster.model.chronos2.wrapper import Chronos2OHLCWrapper


@pytest.fixture
def folder(tmp_path):
    """A copy of the bundled checkpoint, to be changed."""
    return shutil.copytree(NANO_FOLDER, tmp_path / "model")


def test_bundled_model():
    facts = describe("nano")
    from chronos import Chronos2Pipeline

    upstream = Chronos2Pipeline.from_pretrained(NANO_FOLDER)
    weights = (NANO_FOLDER / "model.safetensors").read_bytes()

    config = upstream.model.config

    assert (facts.d_model, facts.d_ff, facts.d_kv) == (config.d_model, config.d_ff, config.d_kv)
    assert (facts.layers, facts.heads) == (config.num_layers, config.num_heads)
    assert facts.parameters == sum(one.numel() for one in upstream.model.parameters())
    assert facts.patch == upstream.model_output_patch_size
    assert facts.max_context + 16 * facts.reference_patch == upstream.model_context_length
    assert facts.max_horizon == upstream.model_prediction_length
    assert list(facts.quantile_levels) == upstream.quantiles
    assert (facts.weights_bytes, facts.weights_sha256) == (len(weights), hashlib.sha256(weights).hexdigest())
    assert facts.sums == "agrees with SHA256SUMS, 2 files"
    assert facts.licence == "Apache-2.0"
    assert facts.made_by["record"] == "training.json"
    assert facts.made_by["plan"]["d_model"] == facts.d_model


def test_folder_with_weights_only(folder):
    """Unknown facts are None, not an error."""
    for name in ("SHA256SUMS", "training.json", "MODEL_CARD.md"):
        (folder / name).unlink()
    facts = describe(str(folder))

    assert (facts.sums, facts.licence, facts.made_by) == ("no SHA256SUMS", None, None)
    assert facts.folder == str(folder)


def test_reference_patch_is_not_context(folder):
    """`max_context` is that of the wrapper."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {REFERENCE_PATCH: True}))
    write_sums(folder)
    facts = describe(str(folder))

    assert facts.reference_patch
    assert facts.max_context == Chronos2OHLCWrapper.from_pretrained(folder, compile="off").max_context


def test_changed_and_missing_files_are_listed(folder):
    """Weights and configuration are compared when they are loaded; the others here."""
    sums = folder / "SHA256SUMS"
    sums.write_text(sums.read_text() + f"{'0' * 64}  lost.txt\n{'0' * 64} *loss.csv\n")

    assert describe(str(folder)).sums == "differs from SHA256SUMS: lost.txt, loss.csv"


@pytest.mark.parametrize("name", ["/dev/zero", "../outside.txt"])
def test_sums_of_files_elsewhere_are_not_computed(folder, name):
    """A downloaded SHA256SUMS cannot make other files be read."""
    (folder.parent / "outside.txt").write_text("not the model's")
    sums = folder / "SHA256SUMS"
    sums.write_text(sums.read_text() + f"{'0' * 64}  {name}\n")

    with pytest.raises(ModelLoadError, match=r"expected a regular file .* within "):
        describe(str(folder))


def test_card_in_another_encoding(folder):
    (folder / "MODEL_CARD.md").write_bytes(b"| Licence | caf\xe9 |\n")

    assert describe(str(folder)).licence == "caf\ufffd"


@pytest.mark.parametrize("content", ["{", "[1]", "[" * 100_000], ids=["cut", "list", "nested"])
def test_invalid_record(folder, content):
    (folder / "training.json").write_text(content)
    with pytest.raises(ModelLoadError, match=r"a JSON object in training\.json"):
        describe(str(folder))


@pytest.mark.parametrize("name", ["amazon/chronos-2", "nowhere"])
def test_missing_folder(name):
    """A hub repository is not downloaded."""
    with pytest.raises(ModelLoadError, match=f"model {name}: expected "):
        describe(name)
