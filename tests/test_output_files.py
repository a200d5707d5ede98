"""Output files: atomic writes, no links, safe content."""

from __future__ import annotations

import os
import stat
from contextlib import suppress

import pandas as pd
import pytest

from forecaster.cli.frame_files import write_frames
from forecaster.errors import ConfigError
from forecaster.output_files import atomic_write, write_text
from tests.cli import error_line

FRAME = pd.DataFrame({"symbol": ["A/USD"], "q0.5": [-1.5]})


def left(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_failed_write_keeps_the_old_file(tmp_path):
    """No temporary file is left."""
    path = tmp_path / "a.txt"
    path.write_text("older")
    with suppress(RuntimeError), atomic_write(path) as file:
        file.write(b"half")
        raise RuntimeError

    assert path.read_text() == "older"
    assert left(tmp_path) == ["a.txt"]


def test_a_full_disk_is_an_error_with_the_path(tmp_path):
    with pytest.raises(ConfigError, match=r"a\.txt: No space left"), atomic_write(tmp_path / "a.txt"):
        raise OSError(28, os.strerror(28))

    assert left(tmp_path) == []


def test_temporary_name_is_unpredictable(tmp_path):
    names = []
    for _ in range(2):
        with atomic_write(tmp_path / "a.txt"):
            names += [path for path in left(tmp_path) if path != "a.txt"]

    assert len(set(names)) == 2
    assert left(tmp_path) == ["a.txt"]


def test_content_is_synced_before_the_rename_and_the_folder_after(tmp_path, monkeypatch):
    """A power cut leaves one of the two files, not an empty one."""
    path, synced = tmp_path / "a.txt", []

    def fsync(descriptor):
        found = os.fstat(descriptor)
        size = found.st_size if stat.S_ISREG(found.st_mode) else None
        synced.append((found.st_ino, size, path.read_text()))

    path.write_text("older")
    monkeypatch.setattr(os, "fsync", fsync)
    write_text("newer!", path)

    assert synced == [(path.stat().st_ino, 6, "older"), (tmp_path.stat().st_ino, None, "newer!")]


@pytest.mark.parametrize("name", ["z.csv", "z.parquet", "z.feather", "z.html"])
@pytest.mark.parametrize("to", ["precious", "nowhere"])
def test_a_link_is_refused(tmp_path, name, to):
    """Otherwise anyone with write access to the folder could redirect the write."""
    (tmp_path / "precious").write_text("mine")
    (tmp_path / name).symlink_to(tmp_path / to)

    with pytest.raises(ConfigError, match="expected a file, not a link: name the file itself"):
        write_text("", tmp_path / name) if name == "z.html" else write_frames([FRAME], tmp_path / name)

    assert (tmp_path / "precious").read_text() == "mine"
    assert left(tmp_path) == ["precious", name]


def test_a_folder_or_a_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()

    for name, kind in (("pipe", "a device, a pipe or a socket"), ("folder", "a folder")):
        with pytest.raises(ConfigError, match=f"{name}, which is {kind}"):
            write_text("", tmp_path / name)


def test_permissions_stay(tmp_path):
    """A new file follows the umask; an existing one keeps its permissions."""
    write_text("", tmp_path / "new")
    (tmp_path / "old").touch(0o600)
    write_text("", tmp_path / "old")
    umask = os.umask(0)
    os.umask(umask)

    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("new", "old")]
    assert modes == [0o666 & ~umask, 0o600]


def test_a_replay_refuses_a_link_before_the_work(tmp_path):
    (tmp_path / "out.csv").symlink_to("elsewhere")

    assert "--out: expected a file, not a link" in error_line("replay", "--out", tmp_path / "out.csv")


# Csv that a spreadsheet opens.


@pytest.mark.parametrize("symbol", ["=1+1/USD", "+A/USD", "-A/USD", "@A/USD", "\tA/USD"])
def test_a_formula_is_escaped_for_spreadsheets(tmp_path, symbol):
    frame = FRAME.assign(symbol=symbol)
    for name in ("z.csv", "z.parquet"):
        write_frames([frame], tmp_path / name)

    assert pd.read_csv(tmp_path / "z.csv").symbol.tolist() == [f"'{symbol}"]
    assert pd.read_parquet(tmp_path / "z.parquet").symbol.tolist() == [symbol]


def test_no_text_begins_a_line(tmp_path):
    """Text after a carriage return would be a separate cell."""
    write_frames([FRAME.assign(symbol="A/USD\r=1+1\n=2")], tmp_path / "z.csv")

    assert pd.read_csv(tmp_path / "z.csv").symbol.tolist() == ["A/USD =1+1\n=2"]


def test_numbers_stay_numbers(tmp_path):
    """A negative number is not a formula."""
    write_frames([FRAME, FRAME], tmp_path / "z.csv")

    assert (tmp_path / "z.csv").read_text() == "symbol,q0.5\nA/USD,-1.5\nA/USD,-1.5\n"
