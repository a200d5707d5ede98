"""The files of a checkpoint: found in a folder or the cache of a hub, checked, and identified by their digest.

A model folder is not trusted: only regular files within it are read, each is opened once, and nothing else is loaded.
This module does not import torch: a process can name a model that other processes run.
"""

from __future__ import annotations

import hashlib
import os
import stat
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from pydantic import ValidationError

from forecaster.config import HUB, NANO
from forecaster.config_file import absolute_model_id
from forecaster.errors import ConfigError, ModelLoadError
from forecaster.model.chronos2.checkpoint_config import Architecture, checkpoint_digest
from forecaster.model.chronos2.weights import WeightsFile
from forecaster.output_files import write_text

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import BufferedReader

NANO_FOLDER = Path(__file__).parents[1] / NANO
SUMS_FILE = "SHA256SUMS"
WEIGHTS_FILE, CONFIG_FILE = "model.safetensors", "config.json"
_NEEDED: Final = (CONFIG_FILE, WEIGHTS_FILE)
_BESIDE: Final = {
    SUMS_FILE,
    *("generation_config.json", "training.json", "finetune.json", "report.json"),
    *("training_state.pt", "training_state.pt.part"),
    *("LICENSE", "LICENCE", "NOTICE", "README"),
}
"""Files allowed next to weights and configuration; forecasting does not read the training state."""
_DOCUMENTS: Final = {".md", ".rst", ".txt", ".csv", ".png", ".svg", ".html", ".pdf"}
_MOST_TEXT: Final = 1 << 20


class CheckpointFiles(NamedTuple):
    """A checkpoint on disk; its files agree with SHA256SUMS, if there is one."""

    folder: Path
    weights_sha256: str
    architecture: Architecture

    @property
    def digest(self) -> str:
        """The sha256 of weights and architecture, independent of the name."""
        return checkpoint_digest(self.weights_sha256, self.architecture)


@dataclass(frozen=True)
class OpenCheckpoint:
    """A checkpoint whose weights header matches its configuration; the weights are not read yet."""

    model_id: str
    folder: Path
    architecture: Architecture
    weights: WeightsFile
    sums: dict[str, str] | None

    def finish(self) -> CheckpointFiles:
        """Read the rest of the weights, and compare them with SHA256SUMS.

        Raises:
            ModelLoadError: when they are damaged.
        """
        digest = self.weights.digest()
        _compare(self.model_id, self.folder / WEIGHTS_FILE, digest, self.sums)
        return CheckpointFiles(self.folder, digest, self.architecture)


def find_checkpoint(model_id: str, revision: str | None) -> CheckpointFiles:
    """Find the files of `nano`, of `hub:OWNER/NAME` at a commit, or of a folder; missing files of a hub are downloaded.

    A relative path is relative to the working directory.

    Raises:
        ModelLoadError: when `open_checkpoint` refuses them, or they are damaged.
    """
    with open_checkpoint(model_id, revision) as opened:
        return opened.finish()


@contextmanager
def open_checkpoint(model_id: str, revision: str | None) -> Iterator[OpenCheckpoint]:
    """Find the files of a checkpoint as `find_checkpoint` does, and check all but the bytes of the weights.

    Raises:
        ModelLoadError: when files are missing, damaged, or not those of a supported Chronos-2; for other files in the
            folder; or when the id may mean a folder and a hub repository.
    """
    find = _fetch if model_id.startswith(HUB) else _find_folder
    with _opened(model_id, find(model_id, revision)) as opened:
        yield opened


def examine_checkpoint(model_id: str, revision: str | None) -> CheckpointFiles | None:
    """Check the files of a checkpoint as far as possible without a network.

    Return None for files of a hub that are not in the cache.

    Raises:
        ModelLoadError: when `open_checkpoint` refuses them, or they are damaged.
    """
    folder = _cached(model_id, revision) if model_id.startswith(HUB) else _find_folder(model_id, revision)
    if folder is None:
        return None
    with _opened(model_id, folder) as opened:
        return opened.finish()


def read_beside(model_id: str, folder: Path, name: str) -> bytes | None:
    """Read a small file of a model folder; return None if there is none.

    Raises:
        ModelLoadError: when it is no regular file within the folder, or larger than 1 MiB.
    """
    if not os.path.lexists(folder / name):
        return None
    with open_beside(model_id, folder, name) as content:
        text = content.read(_MOST_TEXT + 1)
    if len(text) > _MOST_TEXT:
        raise ModelLoadError(model_id, f"at most {_MOST_TEXT:,} bytes in {folder / name}", "more")
    return text


def write_sums(folder: Path) -> None:
    """Write SHA256SUMS of weights and configuration, in the format of `sha256sum -c`."""
    names = (WEIGHTS_FILE, CONFIG_FILE)
    sums = [f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    write_text("".join(sums), folder / SUMS_FILE)


def read_sums(model_id: str, folder: Path) -> dict[str, str] | None:
    """Return the digests in SHA256SUMS by file name; None if there is no such file."""
    sums = read_beside(model_id, folder, SUMS_FILE)
    if sums is None:
        return None
    lines = (line.split(maxsplit=1) for line in sums.decode(errors="replace").splitlines())
    return {words[1].lstrip("*"): words[0] for words in lines if len(words) > 1}


@contextmanager
def _opened(model_id: str, folder: Path) -> Iterator[OpenCheckpoint]:
    try:
        _check_names(model_id, folder)
        sums, config = read_sums(model_id, folder), read_beside(model_id, folder, CONFIG_FILE) or b""
        _compare(model_id, folder / CONFIG_FILE, hashlib.sha256(config).hexdigest(), sums)
        architecture = _read_architecture(model_id, folder, config)
        with open_beside(model_id, folder, WEIGHTS_FILE) as content:
            yield OpenCheckpoint(model_id, folder, architecture, WeightsFile(model_id, content, architecture), sums)
    except OSError as error:
        raise ModelLoadError(model_id, f"a folder {folder.absolute()} that can be read", error) from error


def _check_names(model_id: str, folder: Path) -> None:
    """Refuse a folder without a needed file, or with one that other programs load: adapter, code, more weights."""
    for name in _NEEDED:
        if not os.path.lexists(folder / name):
            raise ModelLoadError(model_id, f"a file {name} in {folder.absolute()}", "none")
    for path in sorted(folder.iterdir()):
        known = path.name in {*_NEEDED, *_BESIDE} or path.suffix.lower() in _DOCUMENTS or path.name.startswith(".")
        if not known and not path.is_dir():
            expected = f"{CONFIG_FILE}, {WEIGHTS_FILE} and documents in {folder.absolute()}"
            found = f"{path.name!r:.100}: merge an adapter into the weights, and remove what is not used"
            raise ModelLoadError(model_id, expected, found)


def open_beside(model_id: str, folder: Path, name: str) -> BufferedReader:
    """Open a regular file of a folder; links must stay within it or, in the cache of a hub, lead to its blobs."""
    expected = f"a regular file {name} within {folder.absolute()}"
    try:
        home, path = folder.resolve(), (folder / name).resolve(strict=True)
        if not any(path.is_relative_to(root) for root in _allowed_roots(home)):
            raise ModelLoadError(model_id, expected, f"a link to {path}: name the folder of that file, or copy it")
        # Without O_NONBLOCK, opening a pipe without a writer would block.
        content = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC), "rb")
    except (OSError, RuntimeError) as error:
        raise ModelLoadError(model_id, expected, error) from error
    if not stat.S_ISREG(os.fstat(content.fileno()).st_mode):
        content.close()
        raise ModelLoadError(model_id, expected, "a folder, a pipe or a device")
    return content


def _allowed_roots(home: Path) -> list[Path]:
    """Return where the files of a folder may be: in it or, for a snapshot of a hub, in the blobs of the cache."""
    if home.parent.name != "snapshots":
        return [home]
    repository = home.parent.parent
    return [home, repository / "blobs", repository.parent / "blobs"]


def _find_folder(model_id: str, revision: str | None) -> Path:
    if revision is not None:
        raise ModelLoadError(model_id, f"no revision, since it is no {HUB}OWNER/NAME", revision)
    if model_id == NANO:
        return NANO_FOLDER
    try:
        return Path(absolute_model_id(model_id, Path.cwd()))
    except ConfigError as error:
        raise ModelLoadError(model_id, error.expected, error.found) from error


def _fetch(model_id: str, revision: str | None, *, local_only: bool = False) -> Path:
    """Return the folder of a hub repository at a commit; download only configuration and weights."""
    if revision is None:
        raise ModelLoadError(model_id, "a pinned revision for a hub repository", "none")
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - only for hub repositories
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError  # noqa: PLC0415 - the same

    try:
        repository, needed = model_id.removeprefix(HUB), list(_NEEDED)
        return Path(
            snapshot_download(repository, revision=revision, allow_patterns=needed, local_files_only=local_only)
        )
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        raise ModelLoadError(model_id, f"revision {revision} in the cache or on a reachable hub", error) from error


def _cached(model_id: str, revision: str | None) -> Path | None:
    """Return the folder of a hub repository at a commit, if all needed files are in the cache."""
    try:
        folder = _fetch(model_id, revision, local_only=True)
    except ModelLoadError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None
        raise
    return folder if all((folder / name).is_file() for name in _NEEDED) else None


def _compare(model_id: str, file: Path, digest: str, sums: dict[str, str] | None) -> None:
    """Compare a file with SHA256SUMS, if there is one."""
    if sums is not None and sums.get(file.name) != digest:
        found = f"{digest}: the file is damaged; after a change of your own write {SUMS_FILE} anew"
        raise ModelLoadError(model_id, f"{file} with sha256 {sums.get(file.name)}", found)


def _read_architecture(model_id: str, folder: Path, config: bytes) -> Architecture:
    try:
        architecture = Architecture.model_validate_json(config)
    except ValidationError as error:
        expected = f"the config.json of a Chronos-2 model in {folder}"
        raise ModelLoadError(model_id, expected, _first_fault(error)) from error
    if architecture.unsupported is not None:
        expected = "a Chronos-2 with REG token, arcsinh scaling and patches side by side"
        raise ModelLoadError(model_id, expected, architecture.unsupported)
    return architecture


def _first_fault(error: ValidationError) -> str:
    """Return the first invalid key, what was expected and what was found."""
    first = error.errors(include_url=False)[0]
    expected = "unknown key, which could change the forecast" if first["type"] == "extra_forbidden" else first["msg"]
    found = "" if first["type"] == "value_error" else f", found {first['input']!r:.100}"
    return f"{'.'.join(map(str, first['loc'])) or 'the file'}: {expected}{found}"
