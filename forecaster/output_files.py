"""Files that are written for others: whole or not at all, and never through a link.

Content goes to a new file of a name that nobody can foresee, in the same folder, which then takes the other's place.
"""

from __future__ import annotations

import os
import secrets
import stat
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING

from forecaster.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def atomic_write(path: Path, option: str = "out") -> Iterator[IO[bytes]]:
    """Open a new file that becomes `path` when the block ends; what was there stays until then, or when it fails.

    Args:
        path: a regular file, or nothing.
        option: what errors call it.

    Raises:
        ConfigError: when `path` is a link, a folder or a device, or cannot be written.
    """
    unfinished = temporary_path(path)
    try:
        mode = check_target(path, option)
        try:
            with open(unfinished, "xb", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW, mode)) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
        sync_directory(path.parent)
    except (OSError, UnicodeEncodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(option, "a file that can be written", f"{path}: {reason}") from error


def temporary_path(path: Path) -> Path:
    """Give a new file that will become `path` a name, in the same folder, which nobody can foresee."""
    return path.with_name(f".{secrets.token_hex(8)}.unfinished")


def write_text(text: str, path: Path, option: str = "out") -> int:
    """Write a text as UTF-8; returns how many bytes.

    Raises:
        ConfigError: when the file cannot be written.
    """
    with atomic_write(path, option) as file:
        return file.write(text.encode())


def check_target(path: Path, option: str) -> int:
    """Give the permissions of the file that is there, or of a new one before the umask.

    Raises:
        ConfigError: what is there is no regular file.
    """
    try:
        found = path.lstat()
    except FileNotFoundError:
        return 0o666
    if stat.S_ISLNK(found.st_mode):
        raise ConfigError(option, "a file, not a link: name the file itself", f"{path}, a link to {path.readlink()}")
    if not stat.S_ISREG(found.st_mode):
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "a device, a pipe or a socket"
        raise ConfigError(option, "a file that can be written", f"{path}, which is {kind}")
    return found.st_mode & 0o777


def sync_directory(folder: Path) -> None:
    """Have the disk keep the new name of a file, where it can."""
    with suppress(OSError):
        place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(place)
        finally:
            os.close(place)
