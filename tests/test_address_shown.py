"""What may be shown of the URL of a ledger: never a password."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from forecaster import doctor
from forecaster.address import shown, url_of, without_secrets
from forecaster.errors import StoreUnavailable
from forecaster.store.database import Database
from tests import cli

SECRET = "s3cr3t"  # noqa: S105 - it opens nothing
ODD = st.text(st.sampled_from("ax1@/:?#&=%[]+ \\\n"), max_size=8)
NOWHERE = "127.0.0.1:1"
"""Nobody listens there."""


def what_is_told(url):
    """The name of a database, or the error that refuses it."""
    try:
        return Database(url).url
    except StoreUnavailable as error:
        return str(error)


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("memory:", "memory:"),
        ("sqlite:////var/ledger.db", "sqlite:////var/ledger.db"),
        ("sqlite:///a@b:c.db?timeout=20", "sqlite:///a@b:c.db?timeout=20"),
        ("postgresql+psycopg://me@host/ledger", "postgresql+psycopg://me@host/ledger"),
        ("postgresql://me:s3cr3t@host:5432/ledger", "postgresql://me:***@host:5432/ledger"),
        ("postgresql://me:x/s3cr3t@host/ledger", "postgresql://me:***@host/ledger"),
        ("postgresql://me:x?s3cr3t@[::1]:5432/ledger", "postgresql://me:***@[::1]:5432/ledger"),
        (
            "postgresql:///ledger?host=/run&user=me&password=s3cr3t&sslpassword=s3cr3t&sslmode=require",
            "postgresql:///ledger?host=/run&user=me&password=***&sslpassword=***&sslmode=require",
        ),
        ("postgresql://me:s3cr3t/ledger", "postgresql://***"),
        ("postgresql://me:x@s3cr3t@host/ledger", "postgresql://***"),
        ("postgresql://m/e:s3cr3t@host/ledger", "postgresql://***"),
        ("me:s3cr3t@host/ledger", "***"),
    ],
)
def test_what_is_shown(url, text):
    assert shown(url) == text


@given(ODD, ODD, st.sampled_from(["/ledger", "", ":5432/ledger?sslmode=require", "/ledger?password=s3cr3t"]))
@example("x/", "", "/ledger")
@example("@h/", "", "/ledger")
@example("/?host=", "", "/ledger")
@example("/?host=@", "", "/ledger")
@example("[", "]", "/ledger")
def test_no_password_is_shown_however_odd(before, after, rest):
    """Nor by the error of who opens it; such characters should be percent-encoded, and people forget to."""
    url = f"postgresql+psycopg://me:{before}{SECRET}{after}@host{rest}"

    assert SECRET not in shown(url)
    assert SECRET not in what_is_told(url)


@given(ODD, st.sampled_from(["sqlite://me:", "postgresql://", "nosuchdb://u:", "sqlite:///x.db?password="]))
def test_url_that_is_refused_is_not_quoted(odd, scheme):
    with pytest.raises(StoreUnavailable) as refused:
        Database(f"{scheme}{odd}{SECRET}@/@")

    assert SECRET not in str(refused.value)


def test_message_of_a_library_is_told_without_secrets():
    url = "postgresql://me:pa%2Fss@host/ledger?sslpassword=other&sslmode=require"
    text = 'could not use "pa/ss", "pa%2Fss" or other in require'

    assert without_secrets(text, url) == 'could not use "***", "***" or *** in require'


def test_ledger_is_named_by_a_url_or_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    assert url_of("memory:") == "memory:"
    assert url_of("postgresql://host/x") == "postgresql://host/x"
    assert url_of("sqlite:///x.db") == "sqlite:///x.db"
    assert url_of("100%?.db") == f"sqlite:///{tmp_path}/100%25%3F.db"
    assert url_of(tmp_path / "x.db") == f"sqlite:///{tmp_path}/x.db"


@pytest.fixture(
    params=[
        f"postgresql+psycopg://me:x/{SECRET}@{NOWHERE}/ledger",
        f"postgresql+psycopg://me@{NOWHERE}/ledger?password={SECRET}",
        f"postgresql+psycopg://me:{SECRET}/ledger",
        f"postgresql+psycopg://me:x@{SECRET}@{NOWHERE}/ledger",
    ],
    ids=["slash", "query", "no host", "two signs"],
)
def config(request, tmp_path):
    path = tmp_path / "config.toml"
    path.write_text(
        '[[series]]\nexchange = "binance"\nsymbol = "BTC/USDT"\ntimeframe = "1h"\nfile = "none.csv"\n'
        f"[store]\nurl = {json.dumps(request.param)}\n"
    )
    return path


@pytest.mark.parametrize(
    "command",
    [
        ("latest",),
        ("once",),
        ("signal", "--strategy", "strategies.trend"),
        ("accuracy",),
        ("bars", "show"),
        ("config", "show"),
        ("config", "check"),
        ("store", "info"),
        ("store", "runs"),
        ("store", "delete", "replay-1"),
        ("store", "backup", "copy.db"),
        ("store", "prune"),
        ("store", "vacuum"),
        ("store", "upgrade"),
        ("store", "export", "out.csv"),
        ("verify", "ledger"),
        ("verify", "parity"),
    ],
    ids=" ".join,
)
def test_no_command_shows_a_password(config, command, tmp_path):
    done = cli.forecaster(*command, "--config", config, cwd=tmp_path)

    assert done.returncode in (0, 2)
    assert "postgresql" in done.stdout + done.stderr or command == ("config", "check") or "pg_dump" in done.stderr
    assert SECRET not in done.stdout + done.stderr


def test_doctor_shows_no_password(config, monkeypatch):
    monkeypatch.setattr(doctor, "_forecast_once", lambda _: "not asked here")
    found = {one.subject: one for one in doctor.examine(str(config))}

    said = found.get("ledger") or found["configuration"]
    assert not said.ok
    assert "postgresql" in said.finding
    assert SECRET not in str(found)
