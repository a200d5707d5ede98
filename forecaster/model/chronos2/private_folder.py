"""A private folder for code that a process will run, so that other users cannot place code there.

This module does not import torch: checking a configuration also checks the folder.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

OTHERS_MAY_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH


class ArtifactsRefused(Exception):
    """A package was quarantined, or the folder cannot be used: compiled code is then built, but may not be stored."""


def own_folder(folder: Path) -> None:
    """Create a folder that only this user can read, write and replace, or check that it is one.

    Raises:
        ArtifactsRefused: when it is not private, or cannot be created.
    """
    try:
        _check_parents(folder)
        _create(folder)
        _check_folder(folder)
    except OSError as error:
        raise ArtifactsRefused(f"{folder} cannot be created: {error.strerror}") from error


def check_folder(folder: Path) -> None:
    """Check whether `own_folder` would succeed, without creating anything.

    Raises:
        ArtifactsRefused: when it would fail.
    """
    try:
        _check_parents(folder)
        if os.path.lexists(folder):
            _check_folder(folder)
            return
    except OSError as error:
        raise ArtifactsRefused(f"{folder} cannot be checked: {error.strerror}") from error
    above = next(path for path in folder.absolute().parents if path.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise ArtifactsRefused(f"{folder} cannot be created: this user cannot write to {above}")


def _check_folder(folder: Path) -> None:
    """Refuse a folder that is not private."""
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise ArtifactsRefused(f"expected {folder} to be our own folder, found one of user {status.st_uid}")
    if status.st_mode & 0o077:
        mode = stat.S_IMODE(status.st_mode)
        raise ArtifactsRefused(f"expected {folder} with mode 700, found {mode:o}: chmod 700, or remove it")


def _create(folder: Path) -> None:
    """Create a folder and its missing parents, private whatever the umask."""
    for path in (*reversed(folder.parents), folder):
        if not path.is_dir():
            path.mkdir(mode=0o700, exist_ok=True)


def _check_parents(folder: Path) -> None:
    """Refuse a folder that another user could replace: by its path, and through links.

    This user or root must own every parent, and no other user may write it. A sticky bit, as that of /tmp, is
    enough, since entries of such a folder are checked too.
    """
    for path in _path_components(folder):
        status = path.lstat()
        if status.st_uid not in (os.getuid(), 0):
            raise ArtifactsRefused(f"expected {path} to be ours or root's, found one of user {status.st_uid}")
        if stat.S_ISDIR(status.st_mode) and status.st_mode & OTHERS_MAY_WRITE and not status.st_mode & stat.S_ISVTX:
            mode = stat.S_IMODE(status.st_mode)
            raise ArtifactsRefused(f"expected {path} to be writable by its owner alone, found {mode:o}: chmod go-w")


def _path_components(folder: Path) -> list[Path]:
    """Return the existing folders and links that a lookup of the folder passes through, also those of links."""
    components: dict[Path, None] = {}
    unresolved = [folder.absolute().parent]
    while unresolved:
        end = unresolved.pop()
        for path in (end, *end.parents):
            if path not in components and os.path.lexists(path):
                components[path] = None
                if path.is_symlink():
                    unresolved.append(path.parent.resolve() / path.readlink())
    return list(components)
