"""What every test shares: a home of its own, so that no test finds or leaves compiled code in yours."""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path

import pytest
import structlog


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


@pytest.fixture(autouse=True)
def _quiet():
    """What a command under test said about logging ends with it: its standard error is closed by then."""
    yield
    structlog.reset_defaults()
    for handler in [one for one in logging.root.handlers if type(one) is logging.StreamHandler]:
        logging.root.removeHandler(handler)
