"""Compiled code kept across restarts: a folder of our own, in which nothing is trusted that we did not write.

A package is a file of machine code that the process will run, so a foreign owner, a file or folder that others may
write, a changed byte, or a note that names another key puts it into `quarantine/`: it is never loaded. Nor is anything
below a folder that others may write or own: they could put a folder of theirs in the place of ours.

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
    """All that compiled code depends on. Equal keys may share a package; anything else may not."""

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
    """What is known of a package beside its key: its digest, and what it took on this hardware."""

    sha256: str
    eager_s: float | None = None
    compiled_s: float | None = None


class Artifacts:
    """The folder of packages; `find`, `keep` and `quarantine` raise ArtifactsRefused when it cannot be used.

    Args:
        folder: made with mode 0700 when it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.expanduser()

    def find(self, key: ArtifactKey) -> tuple[Path, Note] | None:
        """Give the package of `key` and its note; one that cannot be trusted is quarantined, and that is raised."""
        own_folder(self.folder)
        package, about = self._paths(key)
        if not os.path.lexists(package) and not os.path.lexists(about):
            return None
        try:
            _check_file(package)
            _check_file(about)
            told = json.loads(about.read_text())
            note = Note(**told.pop("note"))
            _expect("key", dataclasses.asdict(key), told["key"])
            _expect("sha256", note.sha256, _digest(package))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            self.quarantine(key, str(error))
            raise ArtifactsRefused(f"{package.name} was quarantined: {error}") from error
        return package, note

    def keep(self, key: ArtifactKey, built: Path) -> tuple[Path, Note]:
        """Take over a package that was just built; an older one of the same key is replaced at once."""
        own_folder(self.folder)
        package, _ = self._paths(key)
        content = built.read_bytes()
        note = Note(hashlib.sha256(content).hexdigest())
        try:
            _write(package, content)
            self.write_note(key, note)
            self._forget_old()
        except OSError as error:
            raise ArtifactsRefused(f"{self.folder} cannot be written: {error.strerror}") from error
        return package, note

    def write_note(self, key: ArtifactKey, note: Note) -> None:
        """Write what is known of a package."""
        text = json.dumps({"key": dataclasses.asdict(key), "note": dataclasses.asdict(note)}, indent=1)
        _write(self._paths(key)[1], text.encode())

    def quarantine(self, key: ArtifactKey, reason: str) -> None:
        """Put a package and its note aside, where there are any; when even that fails, they are refused again."""
        there = [path for path in self._paths(key) if os.path.lexists(path)]
        if not there:
            return
        _log.warning("compile.quarantined", package=key.digest, reason=reason)
        aside = self.folder / "quarantine"
        try:
            aside.mkdir(mode=0o700, exist_ok=True)
            for path in there:
                path.replace(aside / path.name)
        except OSError as error:
            raise ArtifactsRefused(f"{self.folder} holds a package that cannot be put aside: {error}") from error

    def _paths(self, key: ArtifactKey) -> tuple[Path, Path]:
        return self.folder / f"{key.digest}.pt2", self.folder / f"{key.digest}.json"

    def _forget_old(self) -> None:
        """Keep the packages that were written last."""
        packages = sorted(self.folder.glob("*.pt2"), key=lambda path: path.stat().st_mtime, reverse=True)
        for package in packages[KEPT_PACKAGES:]:
            package.unlink()
            package.with_suffix(".json").unlink(missing_ok=True)


@cache
def hardware(device_type: str) -> str:
    """Name what machine code depends on: the processor and its instructions, or the GPU."""
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
    found = path.lstat()
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & OTHERS_MAY_WRITE:
        mode = stat.filemode(found.st_mode)
        raise ValueError(f"expected {path.name} as our own file, found {mode} of user {found.st_uid}")


def _write(path: Path, content: bytes) -> None:
    """Write a file of our own: whole or not at all, and never through a link."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    with open(fresh, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(content)
    fresh.replace(path)


def _expect(what: str, expected: object, found: object) -> None:
    if expected != found:
        raise ValueError(f"{what}: expected {expected}, found {found}")


def _digest(path: Path) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
