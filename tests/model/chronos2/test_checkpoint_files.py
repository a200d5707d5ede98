"""Untrusted model folders: accepted files and settings, and that the hashed bytes are the loaded ones."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import sys
from contextlib import suppress

import pytest
import torch
from safetensors.torch import load_file, save_file

from forecaster.errors import ConfigError, ModelLoadError
from forecaster.model.chronos2.architecture import Chronos2
from forecaster.model.chronos2.checkpoint import load_checkpoint
from forecaster.model.chronos2.checkpoint_config import METADATA, Architecture
from forecaster.model.chronos2.checkpoint_files import NANO_FOLDER, find_checkpoint, open_checkpoint, write_sums
from forecaster.model.chronos2.upstream import to_upstream
from forecaster.model.chronos2.weights import MOST_WEIGHTS, weight_shapes

LEVELS = [0.01, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]
SIZES = {"context_length": 8192, "input_patch_size": 16, "input_patch_stride": 16, "max_output_patches": 64}
SCALES = {"output_patch_size": 16, "quantiles": [*LEVELS, 0.99], "time_encoding_scale": 8192}
LIMITS = SIZES | SCALES | {"use_arcsinh": True, "use_reg_token": True}
CONFIG = {
    "architectures": ["Chronos2Model"],
    "chronos_config": LIMITS,
    "chronos_pipeline_class": "Chronos2Pipeline",
    "d_ff": 8,
    "d_kv": 4,
    "d_model": 6,
    "dense_act_fn": "relu",
    "dropout_rate": 0.1,
    "feed_forward_proj": "relu",
    "initializer_factor": 0.05,
    "is_gated_act": False,
    "layer_norm_epsilon": 1e-06,
    "model_type": "t5",
    "num_heads": 4,
    "num_layers": 2,
    "pad_token_id": 0,
    "reg_token_id": 1,
    "rope_theta": 10000.0,
    "torch_dtype": "float32",
    "transformers_version": "4.54.1",
    "vocab_size": 2,
}
"""What chronos-forecasting writes: the keys of amazon/chronos-2, in the smallest size."""
_opened: list[str] | None = None
"""The files opened since a test started to record; None otherwise."""


def _listen(event: str, arguments: tuple[object, ...]) -> None:
    if _opened is not None and event == "open":
        _opened.append(str(arguments[0]))


sys.addaudithook(_listen)


@pytest.fixture
def opened(monkeypatch):
    """The files opened during the test, in order."""
    files = []
    monkeypatch.setattr(sys.modules[__name__], "_opened", files)
    return files


def random_weights(config=CONFIG, dtype=torch.float32):
    draw = torch.Generator().manual_seed(0)
    shapes = weight_shapes(Architecture.model_validate(config))
    return {name: torch.randn(shape, generator=draw).to(dtype) for name, shape in shapes.items()}


@pytest.fixture
def folder(tmp_path):
    """A model of a few thousand random weights, without checksums."""
    made = tmp_path / "model"
    made.mkdir()
    (made / "config.json").write_text(json.dumps(CONFIG))
    save_file(random_weights(), made / "model.safetensors", {"format": "pt"})
    return made


def load(folder):
    return load_checkpoint(str(folder), None, "cpu")


# The files.


@pytest.mark.parametrize(
    "name",
    [
        *("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin", "modeling_chronos.py"),
        *("pytorch_model.bin", "model.pt", "model.pkl", "model.safetensors.index.json", "model.onnx", "other.json"),
        *("model-00001-of-00002.safetensors", "code.so", "tokenizer.model"),
    ],
)
def test_file_that_other_programs_load_is_refused(folder, name):
    """It is not opened: an adapter that is silently ignored would be a surprise."""
    (folder / name).touch()
    with pytest.raises(ModelLoadError, match=f"expected config.json, model.safetensors and documents .*'{name}'"):
        find_checkpoint(str(folder), None)


def test_documents_are_allowed(folder):
    before = find_checkpoint(str(folder), None)
    for name in ("README.md", "LICENSE", ".gitattributes", "generation_config.json", "training_state.pt", "loss.png"):
        (folder / name).write_text("anything")
    for name in (".cache", "checkpoint-500"):
        (folder / name).mkdir()

    assert find_checkpoint(str(folder), None) == before


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "SHA256SUMS"])
def test_link_out_of_the_folder_is_refused(folder, name):
    write_sums(folder)
    shutil.move(folder / name, folder.parent / "elsewhere")
    (folder / name).symlink_to("../elsewhere")
    with pytest.raises(ModelLoadError, match=f"a regular file {name} within .*, found a link to .*elsewhere"):
        load(folder)


def test_link_within_the_folder_is_followed(folder):
    (folder / ".data").mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.move(folder / name, folder / ".data" / name)
        (folder / name).symlink_to(f".data/{name}")
    (folder.parent / "link").symlink_to(folder)

    assert load(folder.parent / "link")[1] == find_checkpoint(str(folder), None).weights_sha256


def test_link_that_replaces_a_file_is_not_followed(folder, monkeypatch):
    """It is created after the check, before the file is opened."""
    opens = os.open

    def exchange(path, *how, **more):
        if str(path).endswith("config.json"):
            shutil.move(path, folder.parent / "elsewhere")
            (folder / "config.json").symlink_to("../elsewhere")
        return opens(path, *how, **more)

    monkeypatch.setattr(os, "open", exchange)

    with pytest.raises(ModelLoadError, match=r"a regular file config\.json within .*Too many levels of symbolic links"):
        find_checkpoint(str(folder), None)


def test_sums_are_not_written_through_a_link(folder):
    """Otherwise the author of the folder could overwrite any file of this user."""
    (folder.parent / "precious").write_text("mine")
    (folder / "SHA256SUMS").symlink_to("../precious")

    with pytest.raises(ConfigError, match="expected a file, not a link"):
        write_sums(folder)

    assert (folder.parent / "precious").read_text() == "mine"


@pytest.fixture
def snapshot(folder):
    """The folder as the hub's cache keeps it: links to blobs of the repository, one of them shared by all."""
    repository = folder.parent / "cache/models--owner--name"
    snapshot = repository / "snapshots/0123"
    for made in (snapshot, repository / "blobs", repository.parent / "blobs/ab"):
        made.mkdir(parents=True)
    shutil.move(folder / "config.json", repository / "blobs/c0")
    shutil.move(folder / "model.safetensors", repository.parent / "blobs/ab/abcd")
    (repository / "blobs/f0").symlink_to("../../blobs/ab/abcd")
    (snapshot / "config.json").symlink_to("../../blobs/c0")
    (snapshot / "model.safetensors").symlink_to("../../blobs/f0")
    return snapshot


def test_cache_of_the_hub_links_to_its_blobs(snapshot):
    assert len(load(snapshot)[1]) == 64


def test_blobs_that_are_a_link_themselves_are_refused(snapshot):
    """A folder that looks like a cache gives no access to other folders."""
    blobs = snapshot.parent.parent / "blobs"
    shutil.move(blobs, snapshot.parents[3] / "elsewhere")
    blobs.symlink_to(snapshot.parents[3] / "elsewhere")
    with pytest.raises(ModelLoadError, match=r"a link to .*elsewhere"):
        load(snapshot)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "SHA256SUMS"])
@pytest.mark.parametrize(
    "make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to(path)], ids=["pipe", "folder", "loop"]
)
def test_only_regular_files_are_read(folder, name, make):
    """A pipe without a writer does not block."""
    (folder / name).unlink(missing_ok=True)
    make(folder / name)
    with pytest.raises(ModelLoadError, match=f"a regular file {name} within "):
        load(folder)


@pytest.mark.parametrize("name", ["config.json", "SHA256SUMS"])
def test_too_large_text_is_refused(folder, name):
    with (folder / name).open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ModelLoadError, match=f"at most 1,048,576 bytes in .*{name}"):
        load(folder)


def test_unreadable_file_is_named(folder, monkeypatch):
    def refuse(*_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("forecaster.model.chronos2.checkpoint_files.os.open", refuse)
    with pytest.raises(ModelLoadError, match=r"a regular file config.json within .* Permission denied"):
        load(folder)


def test_read_error_is_named(folder, monkeypatch):
    """As on a failing disk: here a write-only descriptor."""
    really = os.open
    monkeypatch.setattr("forecaster.model.chronos2.checkpoint_files.os.open", lambda path, _: really(path, os.O_WRONLY))
    with pytest.raises(ModelLoadError, match=r"a folder .* that can be read, found .*Bad file descriptor"):
        load(folder)


def test_only_configuration_and_weights_are_fetched(monkeypatch, folder):
    asked = []
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **options: asked.append(options) or str(folder))
    find_checkpoint("hub:owner/name", "0" * 40)

    assert [one["allow_patterns"] for one in asked] == [["config.json", "model.safetensors"]]


# The identity.


def test_every_file_is_read_once_and_no_other(folder, opened):
    """The hashed bytes are the loaded ones: no path is looked up twice."""
    write_sums(folder)
    (folder / "README.md").touch()
    opened.clear()
    model, _ = load(folder)
    to_upstream(model)

    assert sorted(one for one in opened if one.startswith(str(folder))) == [
        str(folder / name) for name in ("SHA256SUMS", "config.json", "model.safetensors")
    ]


def test_weights_that_change_while_they_are_loaded(folder):
    """The digest is of the bytes that were loaded, whatever the file contains before or after."""
    first = (folder / "model.safetensors").read_bytes()
    with open_checkpoint(str(folder), None) as opened:
        tensors = opened.weights.tensors
        read = [bytearray(torch.empty(one.shape).nbytes) for one in tensors]
        opened.weights.read_into(memoryview(read[0]))
        (folder / "model.safetensors").write_bytes(first[: -len(read[-1])] + bytes(len(read[-1])))
        for one in read[1:]:
            opened.weights.read_into(memoryview(one))
        digest = opened.finish().weights_sha256

    header = first[: len(first) - sum(map(len, read))]
    assert digest == hashlib.sha256(header + b"".join(read)).hexdigest()


def test_weights_that_are_replaced_while_they_are_loaded(folder):
    """Another file under the same name is not read."""
    content = (folder / "model.safetensors").read_bytes()
    with open_checkpoint(str(folder), None) as opened:
        (folder / "model.safetensors").unlink()
        (folder / "model.safetensors").write_bytes(b"other weights")
        found = opened.finish()

    assert found.weights_sha256 == hashlib.sha256(content).hexdigest()


def test_file_that_is_truncated_is_refused(folder):
    with open_checkpoint(str(folder), None) as opened:
        os.truncate(folder / "model.safetensors", 100)
        with pytest.raises(ModelLoadError, match="became shorter"):
            opened.weights.read_into(memoryview(bytearray(1 << 20)))


def decisive(config):
    return {name: value for name, value in config.items() if name not in METADATA}


@pytest.mark.parametrize("sums", [False, True], ids=["without sums", "with sums"])
def test_every_changed_bit_is_detected(folder, sums, opened):
    """One bit of each file that loading opens: another model, an error, or metadata without effect."""
    if sums:
        write_sums(folder)
    opened.clear()
    before = find_checkpoint(str(folder), None).digest
    unnoticed = []
    for file in [folder / one for one in opened if one.startswith(str(folder))]:
        content = file.read_bytes()
        for at in range(0, len(content), 1 + len(content) // 100):
            file.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
            with suppress(ModelLoadError):
                if find_checkpoint(str(folder), None).digest == before:
                    unnoticed.append((file.name, json.loads((folder / "config.json").read_text())))
        file.write_bytes(content)

    assert {name for name, _ in unnoticed} <= {"SHA256SUMS" if sums else "config.json"}
    assert all(decisive(config) == decisive(CONFIG) for _, config in unnoticed)


# The settings.

WRONG = {
    "one": "1",
    "text": '"x"',
    "list": "[]",
    "object": "{}",
    "null": "null",
    "negative": "-1",
    "infinite": "1e400",
    "NaN": "NaN",
    "billion": "1000000000",
    "long": "9" * 5000,
    "half": "0.5",
    "true": "true",
    "falling": "[0.9, 0.5]",
    "nested": "[" * 300 + "]" * 300,
    "deep": '{"a": ' * 50_000 + "1" + "}" * 50_000,
    "surrogate": r'"\ud800"',
}


@pytest.mark.parametrize("value", WRONG.values(), ids=WRONG)
def test_any_value_of_any_key_is_accepted_or_refused(folder, value):
    """No other error, and no memory is allocated before."""
    changed = [CONFIG | {name: "here"} for name in [*CONFIG, "unknown"]]
    changed += [CONFIG | {"chronos_config": LIMITS | {name: "here"}} for name in [*LIMITS, "unknown"]]
    taken, refused = [], []
    for config in changed:
        (folder / "config.json").write_text(json.dumps(config).replace('"here"', value))
        try:
            taken.append(find_checkpoint(str(folder), None).architecture)
        except ModelLoadError as error:
            refused.append(str(error))

    assert all("expected" in one and "found" in one and len(one) < 1_000 for one in refused)
    assert all(weight_shapes(one) == weight_shapes(Architecture.model_validate(CONFIG)) for one in taken)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"auto_map": {"AutoModel": "code.Model"}}, "auto_map: unknown key.*, found {'AutoModel'"),
        ({"_attn_implementation": "owner/kernel"}, "_attn_implementation: unknown key"),
        ({"hidden_size": 64}, "hidden_size: unknown key"),
        ({"quantization_config": {}}, "quantization_config: unknown key"),
        ({"chronos_config": LIMITS | {"future": 1}}, r"chronos_config\.future: unknown key"),
        ({"dense_act_fn": "gelu"}, "dense_act_fn: Input should be 'relu', found 'gelu'"),
        ({"is_gated_act": True}, "is_gated_act"),
        ({"d_model": "768"}, "d_model: .*, found '768'"),
        ({"rope_theta": 1e-300}, "rope_theta: .*, found 1e-300"),
        ({"num_layers": 1_000, "d_model": 65_536}, f"at most {MOST_WEIGHTS:,} weights, found"),
        ({"num_layers": 100_000}, "num_layers: .*, found 100000"),
    ],
)
def test_unsupported_setting(folder, changes, found):
    """The error names the key and the expected value."""
    (folder / "config.json").write_text(json.dumps(CONFIG | changes))
    with pytest.raises(ModelLoadError, match=found):
        find_checkpoint(str(folder), None)


def test_metadata_is_ignored(folder):
    """Keys written by transformers that compute nothing."""
    before = find_checkpoint(str(folder), None)
    (folder / "config.json").write_text(json.dumps(CONFIG | dict.fromkeys(METADATA, "anything")))

    assert find_checkpoint(str(folder), None).digest == before.digest


def test_defaults_of_transformers_are_known():
    """Everything that chronos-forecasting saves is accepted."""
    from chronos.chronos2.config import Chronos2CoreConfig

    config = Chronos2CoreConfig(chronos_config=LIMITS, d_model=6).to_dict()

    assert Architecture.model_validate(config).d_model == 6


# The weights.


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_weights_are_those_that_safetensors_reads(folder, dtype):
    save_file(random_weights(dtype=dtype), folder / "model.safetensors")
    model, digest = load(folder)
    expected = load_file(folder / "model.safetensors")

    assert digest == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert model.state_dict().keys() == expected.keys()
    for name, weight in model.state_dict().items():
        assert weight.dtype == torch.float32
        assert torch.equal(weight, expected[name].to(torch.float32))


@pytest.mark.parametrize(
    "config", [CONFIG, json.loads((NANO_FOLDER / "config.json").read_text())], ids=["small", "nano"]
)
def test_shapes_are_those_of_the_modules_and_upstreams(config):
    from chronos.chronos2 import Chronos2Model
    from chronos.chronos2.config import Chronos2CoreConfig

    architecture = Architecture.model_validate(config)
    with torch.device("meta"):
        models = Chronos2(architecture), Chronos2Model(Chronos2CoreConfig(**config))

    for model in models:
        assert {name: tuple(one.shape) for name, one in model.state_dict().items()} == weight_shapes(architecture)


def header_of(folder):
    content = (folder / "model.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def write_header(folder, header, data):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)


def moved(name, start, end):
    def change(header):
        a, b = header[name]["data_offsets"]
        return header | {name: header[name] | {"data_offsets": [a + start, b + end]}}

    return change


LAST = "shared.weight"


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda _: b"[" * 100_000, "a header that describes no tensors"),
        (lambda _: b'{"a": ' * 100_000, "a header that describes no tensors"),
        (lambda _: b"\xff", "a header that describes no tensors"),
        (lambda _: b"{}", "weights that fit config.json, found encoder.block.0"),
        (lambda header: header | {"note": {"a": "text"}}, "a header that describes no tensors"),
        (lambda header: header | {LAST: header[LAST] | {"shape": [-2, -6]}}, r"expected \(2, 6\), found \(-2, -6\)"),
        (lambda header: header | {LAST: header[LAST] | {"shape": [10**30]}}, "found"),
        (lambda header: header | {LAST: header[LAST] | {"dtype": "F8_E4M3"}}, "expected F64, F32, F16, BF16, found F8"),
        (lambda header: header | {LAST: header[LAST] | {"dtype": "F16"}}, "at bytes"),
        (lambda header: header | {"shared.weights": header[LAST]}, "shared.weights: expected None"),
        (moved(LAST, -4, -4), "at bytes"),
        (moved(LAST, 4, 4), "at bytes"),
        (moved(LAST, 10**20, 10**20), "at bytes"),
        (moved(LAST, 0, 4), "at bytes"),
    ],
)
def test_mismatched_header_is_refused(folder, change, found):
    """Before the weights are read."""
    header, data = header_of(folder)
    write_header(folder, change(header), data)
    with pytest.raises(ModelLoadError, match=found):
        find_checkpoint(str(folder), None)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "a header of 0 bytes"),
        (b"1234567", "a header of"),
        ((1 << 63).to_bytes(8, "little"), "a header of 9,223,372,036,854,775,808 bytes; at most 4,194,304"),
    ],
)
def test_length_of_the_header_is_bounded(folder, content, found):
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelLoadError, match=found):
        find_checkpoint(str(folder), None)


@pytest.mark.parametrize("bytes_more", [-4, 4, 1 << 40])
def test_file_size_must_match_the_header(folder, bytes_more):
    """A sparse file of a terabyte is refused at once."""
    weights = folder / "model.safetensors"
    os.truncate(weights, weights.stat().st_size + bytes_more)
    with pytest.raises(ModelLoadError, match="bytes of weights, while its header describes"):
        find_checkpoint(str(folder), None)
