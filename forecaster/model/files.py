"""The files of a checkpoint: found in a folder or a hub's cache, compared with their sums, and named by their digest.

No torch: whoever asks other processes to forecast names the model without loading it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from forecaster.config import HUB, NANO, absolute_model_id
from forecaster.errors import ConfigError, ModelLoadError
from forecaster.model.config_json import Architecture, checkpoint_digest

NANO_FOLDER = Path(__file__).parent / NANO
SUMS_FILE = "SHA256SUMS"
WEIGHTS_FILE, CONFIG_FILE = "model.safetensors", "config.json"
_NEEDED = (CONFIG_FILE, WEIGHTS_FILE)


class CheckpointFiles(NamedTuple):
    """A checkpoint on disk, whose weights are those of its SHA256SUMS where it has any."""

    folder: Path
    weights_sha256: str
    architecture: Architecture

    @property
    def digest(self) -> str:
        """The sha256 of weights and architecture: what ran, whatever it is called."""
        return checkpoint_digest(self.weights_sha256, self.architecture)


def find_checkpoint(model_id: str, revision: str | None) -> CheckpointFiles:
    """Find the files of `nano`, of `hub:OWNER/NAME` at a commit, or of a folder; a hub's are fetched where they lack.

    A relative path is relative to the working directory: whoever has it from a file makes it absolute.

    Raises:
        ModelLoadError: when they are missing or damaged, or the id may mean a folder and a hub repository.
    """
    find = _fetch if model_id.startswith(HUB) else _find_folder
    return _checkpoint_in(model_id, find(model_id, revision))


def examine_checkpoint(model_id: str, revision: str | None) -> CheckpointFiles | None:
    """Look at the files of a checkpoint as far as that is possible without torch and without a network.

    None for a hub's that are not in the cache yet.

    Raises:
        ModelLoadError: when they are missing or damaged, or the forward pass here does not have such a model.
    """
    from safetensors import SafetensorError, safe_open  # noqa: PLC0415 - only who looks into the weights

    folder = _cached(model_id, revision) if model_id.startswith(HUB) else _find_folder(model_id, revision)
    if folder is None:
        return None
    found = _checkpoint_in(model_id, folder)
    check_supported(model_id, found.architecture)
    try:
        with safe_open(folder / WEIGHTS_FILE, framework="numpy") as weights:
            weights.keys()
    except (OSError, SafetensorError) as error:
        raise ModelLoadError(model_id, f"safetensors in {folder / WEIGHTS_FILE}", error) from error
    return found


def check_supported(model_id: str, architecture: Architecture) -> None:
    """Refuse a checkpoint that the forward pass here does not have.

    Raises:
        ModelLoadError: says what it lacks.
    """
    if architecture.unsupported is not None:
        expected = "a Chronos-2 with REG token, arcsinh scaling and patches side by side"
        raise ModelLoadError(model_id, expected, architecture.unsupported)


def write_sums(folder: Path) -> None:
    """Write SHA256SUMS of weights and configuration, as `sha256sum -c` reads it."""
    names = (WEIGHTS_FILE, CONFIG_FILE)
    sums = [f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    (folder / SUMS_FILE).write_text("".join(sums))


def _checkpoint_in(model_id: str, folder: Path) -> CheckpointFiles:
    for name in _NEEDED:
        if not (folder / name).is_file():
            raise ModelLoadError(model_id, f"a file {name} in {folder.absolute()}", "none")
    return CheckpointFiles(folder, _check_weights(model_id, folder), _read_architecture(model_id, folder))


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
    """Give the folder of a hub repository at a commit."""
    if revision is None:
        raise ModelLoadError(model_id, "a pinned revision for a hub repository", "none")
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - only who names a hub repository
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError  # noqa: PLC0415 - the same

    try:
        repository, needed = model_id.removeprefix(HUB), list(_NEEDED)
        return Path(
            snapshot_download(repository, revision=revision, allow_patterns=needed, local_files_only=local_only)
        )
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        raise ModelLoadError(model_id, f"revision {revision} in the cache or on a reachable hub", error) from error


def _cached(model_id: str, revision: str | None) -> Path | None:
    """Give the folder of a hub repository at a commit, if all that is needed of it is in the cache."""
    try:
        folder = _fetch(model_id, revision, local_only=True)
    except ModelLoadError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None
        raise
    return folder if all((folder / name).is_file() for name in _NEEDED) else None


def _check_weights(model_id: str, folder: Path) -> str:
    """Digest of the weights; compared with the folder's SHA256SUMS where there is one."""
    weights = folder / WEIGHTS_FILE
    with weights.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    sums = folder / SUMS_FILE
    if sums.is_file():
        named = (line.split() for line in sums.read_text(errors="replace").splitlines())
        expected = next((words[0] for words in named if words[1:] == [weights.name]), None)
        if expected != digest:
            raise ModelLoadError(model_id, f"{weights} with sha256 {expected}", f"{digest}: the file is damaged")
    return digest


def _read_architecture(model_id: str, folder: Path) -> Architecture:
    try:
        return Architecture.model_validate_json((folder / CONFIG_FILE).read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        found = f"{'.'.join(map(str, first['loc'])) or 'the file'}: {first['msg']}"
        raise ModelLoadError(model_id, f"the config.json of a Chronos-2 model in {folder}", found) from error
