"""A folder of our own: where code is kept that a process will run, so that nobody else can put any there.

No torch: whoever checks a configuration looks at the folder too.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

OTHERS_MAY_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH


class ArtifactsRefused(Exception):
    """A package was quarantined, or the folder cannot be used: compiled code is then built, and perhaps not kept."""


def own_folder(folder: Path) -> None:
    """Make a folder that we alone may read and write, or see that it is one; where no one else can replace it.

    Raises:
        ArtifactsRefused: when it is not, or cannot be made.
    """
    try:
        _look_above(folder)
        _make(folder)
        _look_at(folder)
    except OSError as error:
        raise ArtifactsRefused(f"{folder} cannot be made: {error.strerror}") from error


def check_folder(folder: Path) -> None:
    """See whether `own_folder` would do, and make nothing.

    Raises:
        ArtifactsRefused: when it would not.
    """
    try:
        _look_above(folder)
        if os.path.lexists(folder):
            _look_at(folder)
            return
    except OSError as error:
        raise ArtifactsRefused(f"{folder} cannot be looked at: {error.strerror}") from error
    above = next(path for path in folder.absolute().parents if path.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise ArtifactsRefused(f"{folder} cannot be made: {above} is no folder that this user may write to")


def _look_at(folder: Path) -> None:
    """Refuse a folder that is not ours alone."""
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise ArtifactsRefused(f"expected {folder} to be our own folder, found one of user {found.st_uid}")
    if found.st_mode & 0o077:
        mode = stat.S_IMODE(found.st_mode)
        raise ArtifactsRefused(f"expected {folder} with mode 700, found {mode:o}: chmod 700, or remove it")


def _make(folder: Path) -> None:
    """Make a folder, and those above it that lack, for us alone whatever the umask says."""
    for path in (*reversed(folder.parents), folder):
        if not path.is_dir():
            path.mkdir(mode=0o700, exist_ok=True)


def _look_above(folder: Path) -> None:
    """Refuse a folder that somebody else could put another in the place of: by its path, and where links lead.

    All above it must be ours or root's, and writable by nobody else; a sticky bit, as that of /tmp, is enough, since
    what stands there is looked at too.
    """
    for path in _on_the_way(folder):
        found = path.lstat()
        if found.st_uid not in (os.getuid(), 0):
            raise ArtifactsRefused(f"expected {path} to be ours or root's, found one of user {found.st_uid}")
        if stat.S_ISDIR(found.st_mode) and found.st_mode & OTHERS_MAY_WRITE and not found.st_mode & stat.S_ISVTX:
            mode = stat.S_IMODE(found.st_mode)
            raise ArtifactsRefused(f"expected {path} to be writable by its owner alone, found {mode:o}: chmod go-w")


def _on_the_way(folder: Path) -> list[Path]:
    """All that is looked up on the way to a folder and is there: folders, links, and what lies on the way of these."""
    found: dict[Path, None] = {}
    follow = [folder.absolute().parent]
    while follow:
        end = follow.pop()
        for path in (end, *end.parents):
            if path not in found and os.path.lexists(path):
                found[path] = None
                if path.is_symlink():
                    follow.append(path.parent.resolve() / path.readlink())
    return list(found)
