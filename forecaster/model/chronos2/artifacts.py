"""Compiled code stored across restarts, in a folder that only this user can write.

A package is a file of machine code that the process will run. It is quarantined, never loaded, if it has another owner,
if other users may write it, if a byte has changed, or if its note names another key. Nothing is loaded below a folder
that other users may write or own, since they could replace folders in it.

Layout: `DIGEST.pt2`, the package, without weights; `DIGEST.json`, its note: key, digest and timings.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
import stat
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from forecaster.log import get_logger
from forecaster.model.chronos2.private_folder import OTHERS_MAY_WRITE, ArtifactsRefused, own_folder

if TYPE_CHECKING:
    from forecaster.model.chronos2.core import Shape

KEPT_PACKAGES = 64
_log = get_logger(__name__)


@dataclass(frozen=True)
class ArtifactKey:
    """Everything that compiled code depends on. Only equal keys share a package."""

    model_sha256: str
    versions: str
    hardware: str
    threads: int
    dtype: str
    shape: str

    @classmethod
    def of(cls, model_sha256: str, versions: str, device: torch.device, shape: Shape) -> ArtifactKey:
        """Make the key of a shape on this machine."""
        named = "rows {0.rows}, bars {0.bars}, patches {0.patches}, missing {0.missing.value}, group {0.group}"
        threads = torch.get_num_threads()
        return cls(model_sha256, versions, hardware(device.type), threads, "float32", named.format(shape))

    @property
    def digest(self) -> str:
        """Name of the package's files."""
        return hashlib.sha256(json.dumps(dataclasses.asdict(self), sort_keys=True).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Note:
    """Digest of a package, and seconds of one call on this hardware."""

    sha256: str
    eager_s: float | None = None
    compiled_s: float | None = None


class Artifacts:
    """The folder of packages; `find`, `store` and `quarantine` raise ArtifactsRefused when it cannot be used.

    Args:
        folder: created with mode 0700 if it does not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.expanduser()

    def find(self, key: ArtifactKey) -> tuple[Path, Note] | None:
        """Return the package of `key` and its note; quarantine and refuse one that cannot be trusted."""
        own_folder(self.folder)
        package, note_file = self._paths(key)
        if not os.path.lexists(package) and not os.path.lexists(note_file):
            return None
        try:
            _check_file(package)
            _check_file(note_file)
            record = json.loads(note_file.read_text())
            note = Note(**record.pop("note"))
            _expect("key", dataclasses.asdict(key), record["key"])
            _expect("sha256", note.sha256, _digest(package))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            self.quarantine(key, str(error))
            raise ArtifactsRefused(f"{package.name} was quarantined: {error}") from error
        return package, note

    def store(self, key: ArtifactKey, built: Path) -> tuple[Path, Note]:
        """Store a package that was just built; it replaces an older one of the same key atomically."""
        own_folder(self.folder)
        package, _ = self._paths(key)
        content = built.read_bytes()
        note = Note(hashlib.sha256(content).hexdigest())
        try:
            _write(package, content)
            self.write_note(key, note)
            self._remove_old()
        except OSError as error:
            raise ArtifactsRefused(f"{self.folder} cannot be written: {error.strerror}") from error
        return package, note

    def write_note(self, key: ArtifactKey, note: Note) -> None:
        """Write the note of a package."""
        text = json.dumps({"key": dataclasses.asdict(key), "note": dataclasses.asdict(note)}, indent=1)
        _write(self._paths(key)[1], text.encode())

    def quarantine(self, key: ArtifactKey, reason: str) -> None:
        """Move a package and its note to `quarantine/`, if they exist."""
        existing = [path for path in self._paths(key) if os.path.lexists(path)]
        if not existing:
            return
        _log.warning("compile.quarantined", package=key.digest, reason=reason)
        folder = self.folder / "quarantine"
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            for path in existing:
                path.replace(folder / path.name)
        except OSError as error:
            raise ArtifactsRefused(f"{self.folder} holds a package that cannot be quarantined: {error}") from error

    def _paths(self, key: ArtifactKey) -> tuple[Path, Path]:
        return self.folder / f"{key.digest}.pt2", self.folder / f"{key.digest}.json"

    def _remove_old(self) -> None:
        """Remove all but the latest `KEPT_PACKAGES`."""
        packages = sorted(self.folder.glob("*.pt2"), key=lambda path: path.stat().st_mtime, reverse=True)
        for package in packages[KEPT_PACKAGES:]:
            package.unlink()
            package.with_suffix(".json").unlink(missing_ok=True)


@cache
def hardware(device_type: str) -> str:
    """Return what machine code depends on: the processor and its instruction set, or the GPU."""
    if device_type == "cuda":
        major, minor = torch.cuda.get_device_capability()
        return f"{torch.cuda.get_device_name()}, capability {major}.{minor}, CUDA {torch.version.cuda}"
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    facts = dict(line.split(":", 1) for line in lines if ":" in line)
    named = {name.strip(): value.strip() for name, value in facts.items()}
    flags = hashlib.sha256(named.get("flags", named.get("Features", "")).encode()).hexdigest()[:12]
    return f"{platform.machine()} {named.get('model name', '')}, flags {flags}"


def _check_file(path: Path) -> None:
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & OTHERS_MAY_WRITE:
        mode = stat.filemode(status.st_mode)
        raise ValueError(f"expected {path.name} as our own file, found {mode} of user {status.st_uid}")


def _write(path: Path, content: bytes) -> None:
    """Write a file atomically, readable by this user only, and never through a link."""
    temporary = path.with_name(f"{path.name}.new")
    temporary.unlink(missing_ok=True)
    with open(temporary, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(content)
    temporary.replace(path)


def _expect(what: str, expected: object, found: object) -> None:
    if expected != found:
        raise ValueError(f"{what}: expected {expected}, found {found}")


def _digest(path: Path) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
