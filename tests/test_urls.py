"""The URL of an SQLite ledger, read as SQLAlchemy reads it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sqlalchemy import make_url

from forecaster.urls import sqlite_path, with_path

CHARACTERS = st.characters(codec="utf-8", exclude_characters="\x00", exclude_categories=["Cs"])


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///x.db", "x.db"),
        ("sqlite:////var/x.db", "/var/x.db"),
        ("sqlite+pysqlite:///x.db", "x.db"),
        ("sqlite:///x.db?timeout=20", "x.db"),
        ("sqlite:///a%20b%3Fc%25.db", "a b?c%.db"),
        ("sqlite:///a#b@c:d.db", "a#b@c:d.db"),
        ("sqlite:///C:\\x.db", "C:\\x.db"),
    ],
)
def test_file_of_a_url(url, path):
    """The one that SQLAlchemy opens."""
    assert sqlite_path(url) == Path(path)
    assert make_url(url).database == path


@pytest.mark.parametrize("url", ["memory:", "postgresql://me@host/x.db", "x.db"])
def test_url_of_no_file(url):
    assert sqlite_path(url) is None


@given(st.text(CHARACTERS, min_size=1, max_size=20))
def test_any_file_can_be_put_into_a_url(name):
    """Percent signs and question marks included; the query stays."""
    path = Path("/") / name.replace("/", "_")
    assume(path.name)
    url = with_path("sqlite:///x.db?timeout=20", path)

    assert sqlite_path(url) == path
    assert make_url(url).database == str(path)
    assert dict(make_url(url).query) == {"timeout": "20"}
