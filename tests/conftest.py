"""What every test shares: a home of its own, so that no test finds or leaves compiled code in yours."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest


@pytest.fixture(autouse=True, scope="session")
def _home():
    with tempfile.TemporaryDirectory() as home, pytest.MonkeyPatch.context() as patch:
        patch.setenv("MPLCONFIGDIR", os.environ.get("MPLCONFIGDIR", str(Path.home() / ".cache" / "matplotlib")))
        patch.setenv("HOME", home)
        yield


@pytest.fixture(scope="session")
def cluster():
    """A PostgreSQL of our own, for the tests that ask for it."""
    from tests.postgres import Cluster

    with Cluster() as cluster:
        yield cluster
