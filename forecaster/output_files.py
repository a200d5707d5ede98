"""Atomic writes of output files, never through a link.

Content goes to a temporary file with a random name in the same folder, which then replaces the target.
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
    """Open a temporary file that replaces `path` when the block ends; on an error `path` stays as it was.

    Args:
        path: a regular file, or a new one.
        option: its name in errors.

    Raises:
        ConfigError: when `path` is a link, a folder or a device, or cannot be written.
    """
    temporary = temporary_path(path)
    try:
        mode = check_target(path, option)
        try:
            with open(temporary, "xb", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW, mode)) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_directory(path.parent)
    except (OSError, UnicodeEncodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(option, "a file that can be written", f"{path}: {reason}") from error


def temporary_path(path: Path) -> Path:
    """Return an unpredictable path in the same folder, for a file that will replace `path`."""
    return path.with_name(f".{secrets.token_hex(8)}.unfinished")


def write_text(text: str, path: Path, option: str = "out") -> int:
    """Write a text as UTF-8; return the number of bytes.

    Raises:
        ConfigError: when the file cannot be written.
    """
    with atomic_write(path, option) as file:
        return file.write(text.encode())


def check_target(path: Path, option: str) -> int:
    """Return the permissions of the file at `path`, or those of a new one before the umask.

    Raises:
        ConfigError: when `path` is not a regular file.
    """
    try:
        status = path.lstat()
    except FileNotFoundError:
        return 0o666
    if stat.S_ISLNK(status.st_mode):
        raise ConfigError(option, "a file, not a link: name the file itself", f"{path}, a link to {path.readlink()}")
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a device, a pipe or a socket"
        raise ConfigError(option, "a file that can be written", f"{path}, which is {kind}")
    return status.st_mode & 0o777


def sync_directory(folder: Path) -> None:
    """Flush the entries of a folder to disk, where the platform can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
