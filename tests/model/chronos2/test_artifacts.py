"""The folder of compiled code: other users cannot place machine code in it, or replace it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from forecaster.model.chronos2 import artifacts
from forecaster.model.chronos2.artifacts import ArtifactKey, Artifacts, ArtifactsRefused, own_folder
from forecaster.model.chronos2.core import Shape

KEY = ArtifactKey.of("0" * 64, "torch 2", torch.device("cpu"), Shape(8, 64, 1))


@pytest.fixture
def home(tmp_path):
    """A private folder in a private folder."""
    home = tmp_path / "cache" / "forecaster"
    home.mkdir(mode=0o700, parents=True)
    return home


@pytest.fixture
def owned(monkeypatch):
    """Return a function that makes a folder appear to have another owner."""
    owners, lstat = {}, Path.lstat

    def changed(path):
        found = list(lstat(path))
        found[4] = owners.get(path, found[4])
        return os.stat_result(found)

    monkeypatch.setattr(Path, "lstat", changed)
    return owners.__setitem__


def test_folder_is_created_private(home):
    """Missing parents too, whatever the umask."""
    before = os.umask(0o002)
    try:
        own_folder(home / "model" / "compiled")
    finally:
        os.umask(before)

    assert [(home / one).stat().st_mode & 0o777 for one in ("model", "model/compiled")] == [0o700, 0o700]


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
def test_parent_writable_by_others_is_refused(home, mode):
    """They could replace the folder after the check."""
    home.parent.chmod(mode)

    with pytest.raises(
        ArtifactsRefused, match=rf"expected {home.parent} .* writable by its owner alone, found {mode:o}"
    ):
        own_folder(home)


def test_parents_are_checked_up_to_the_root(home):
    """At any depth."""
    home.parents[1].chmod(0o777)

    with pytest.raises(ArtifactsRefused, match=f"expected {home.parents[1]} "):
        own_folder(home)


def test_shared_parent_with_the_sticky_bit_is_fine(home):
    """As /tmp: other users cannot move the folder."""
    home.parent.chmod(0o1777)

    own_folder(home)


def test_folder_in_a_shared_parent_must_have_this_owner(home, owned):
    """The sticky bit does not prevent others from creating it first."""
    home.parent.chmod(0o1777)
    owned(home, 65_534)

    with pytest.raises(ArtifactsRefused, match=rf"expected {home} to be ours or root's, found one of user 65534"):
        own_folder(home / "compiled")


def test_parent_of_another_user_is_refused(home, owned):
    """Its owner can make it writable."""
    owned(home.parent, 65_534)

    with pytest.raises(
        ArtifactsRefused, match=rf"expected {home.parent} to be ours or root's, found one of user 65534"
    ):
        own_folder(home)


def test_folder_of_root_is_refused_for_other_users(home, owned, monkeypatch):
    """Root may own a parent, but not the folder."""
    monkeypatch.setattr(artifacts.os, "getuid", lambda: 1234)
    for path in (home, *home.parents):
        owned(path, 0)

    with pytest.raises(ArtifactsRefused, match=rf"expected {home} to be our own folder, found one of user 0"):
        own_folder(home)


def test_parents_behind_a_symbolic_link_are_checked(home, tmp_path):
    """Those of the path, and those of the target."""
    shared = tmp_path / "shared"
    (shared / "real").mkdir(parents=True)
    (home / "link").symlink_to(shared / "real")
    shared.chmod(0o777)

    with pytest.raises(ArtifactsRefused, match=f"expected {shared} "):
        own_folder(home / "link" / "compiled")


def test_link_in_a_folder_writable_by_others_is_refused(home, tmp_path):
    """They could change its target."""
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    (shared / "link").symlink_to(home)

    with pytest.raises(ArtifactsRefused, match=f"expected {shared} "):
        own_folder(shared / "link" / "compiled")


def test_nothing_is_created_below_a_folder_writable_by_others(home):
    """The check comes first."""
    home.chmod(0o777)

    with pytest.raises(ArtifactsRefused):
        own_folder(home / "compiled" / "deeper")
    assert not (home / "compiled").exists()


def test_package_below_such_a_folder_is_not_found(home, tmp_path):
    """A valid package is no longer loaded."""
    built = tmp_path / "built.pt2"
    built.write_bytes(b"machine code")
    kept = Artifacts(home / "compiled")
    kept.store(KEY, built)
    home.chmod(0o777)

    with pytest.raises(ArtifactsRefused, match=f"expected {home} "):
        kept.find(KEY)


def test_relative_folder_is_checked_from_the_root(home, monkeypatch):
    monkeypatch.chdir(home)
    home.parent.chmod(0o777)

    with pytest.raises(ArtifactsRefused, match=f"expected {home.parent} "):
        own_folder(Path("compiled"))


def test_folders_of_a_link_target_are_checked(tmp_path):
    """Users who can write there could change a link in it."""
    real, open_folder = tmp_path / "real", tmp_path / "open"
    for folder in (real, open_folder):
        folder.mkdir(mode=0o700)
    (open_folder / "second").symlink_to(real)
    (tmp_path / "first").symlink_to(open_folder / "second")
    own_folder(tmp_path / "first" / "kept")
    open_folder.chmod(0o777)
    with pytest.raises(ArtifactsRefused, match=f"expected {open_folder} to be writable by its owner alone"):
        own_folder(tmp_path / "first" / "kept")


def test_note_is_not_written_through_a_link(home, tmp_path):
    (tmp_path / "precious").write_text("mine")
    for suffix in ("json", "json.new"):
        (home / f"{KEY.digest}.{suffix}").symlink_to(tmp_path / "precious")
    Artifacts(home).write_note(KEY, artifacts.Note("0"))

    assert (tmp_path / "precious").read_text() == "mine"
    assert [(path.name, path.is_symlink()) for path in home.iterdir()] == [(f"{KEY.digest}.json", False)]
