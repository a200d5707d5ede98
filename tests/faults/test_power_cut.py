"""A sample of power cuts, and the disk that they are played on."""

from __future__ import annotations

import random

import pytest

from forecaster.store.sqlite_library import sqlite3, wal_is_safe
from tests.faults.power_cut import CONTROLS, Call, Disk, play, trace

CREATE, UNLINK, SYNC, SYNC_FOLDER = (
    Call("c", "a", 0, b""),
    Call("u", "a", 0, b""),
    Call("s", "a", 0, b""),
    Call("s", "", 0, b""),
)


def write(data, offset=0):
    return Call("w", "a", offset, data)


def images_after(*calls):
    """Every disk that a cut after these calls may leave, as far as two hundred cuts show."""
    disk = Disk()
    for call in calls:
        disk.do(call)
    return [disk.cut(random.Random(seed)) for seed in range(200)]  # noqa: S311


@pytest.mark.processes
def test_store_loses_nothing():
    assert play("ours", 500, batches=8, seed=0) == {"whole": 500, "lost": 0, "corrupt": 0}


@pytest.mark.processes
def test_store_is_traced_as_it_serves(tmp_path):
    """With a write-ahead log where the library's is sound, and without one while nobody has the ledger open."""
    calls = trace(tmp_path, batches=4, pragmas="")
    made = "".join(call.deed for call in calls if call.deed in "cu" and call.name.endswith("-wal"))

    assert (made[:1], made[-2:]) == (("c", "uc") if wal_is_safe(sqlite3.sqlite_version_info) else ("", ""))


@pytest.mark.processes
@pytest.mark.parametrize("setting", CONTROLS)
def test_settings_that_are_known_to_lose_do(setting):
    """Or the test proves nothing."""
    found = play(setting, 300, batches=8, seed=0)

    assert found["lost"] + found["corrupt"] > 0


def test_what_was_synchronised_is_there():
    assert images_after(CREATE, write(b"old"), SYNC, SYNC_FOLDER) == [{"a": b"old"}] * 200


def test_what_was_not_synchronised_may_be_there_or_not_or_in_part():
    found = {one["a"] for one in images_after(CREATE, write(b"o" * 1024), SYNC, SYNC_FOLDER, write(b"n" * 1024))}

    assert found == {old + new for old in (b"o" * 512, b"n" * 512) for new in (b"o" * 512, b"n" * 512)}


def test_file_has_its_name_for_sure_once_its_folder_was_synchronised():
    before = images_after(CREATE, write(b"x"), SYNC)
    after = images_after(CREATE, write(b"x"), SYNC, SYNC_FOLDER)

    assert {one.get("a") for one in before} == {None, b"x"}
    assert {one.get("a") for one in after} == {b"x"}


def test_deleted_file_may_come_back_until_its_folder_was_synchronised():
    before = images_after(CREATE, write(b"x"), SYNC, SYNC_FOLDER, UNLINK)
    after = images_after(CREATE, write(b"x"), SYNC, SYNC_FOLDER, UNLINK, SYNC_FOLDER)

    assert {one.get("a") for one in before} == {None, b"x"}
    assert {one.get("a") for one in after} == {None}


def test_write_behind_the_end_leaves_zeros_before_it():
    assert images_after(CREATE, write(b"x", offset=2), SYNC, SYNC_FOLDER)[0] == {"a": b"\0\0x"}


def test_file_that_is_cut_short_may_be_so_or_not():
    cut = images_after(CREATE, write(b"abc"), SYNC, SYNC_FOLDER, Call("t", "a", 1, b""))

    assert {one["a"] for one in cut} == {b"abc", b"a"}
