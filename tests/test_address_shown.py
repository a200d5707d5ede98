"""What may be shown of the URL of a ledger: never a password."""

from __future__ import annotations

import json
import socket
import struct
import threading
import traceback
from contextlib import closing, suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from typer.main import get_command

from forecaster import doctor
from forecaster.cli import app
from forecaster.errors import StoreUnavailable
from forecaster.store.database import Database
from forecaster.urls import ledger_url, redact_text, redact_url
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
        ("postgresql://host/x?user=me;password=s3cr3t", "postgresql://host/x?user=***"),
        ("postgresql://host/x?application_name=a%20password%3Ds3cr3t", "postgresql://host/x?application_name=***"),
        ("http://me:s3cr3t@[::1]:80/api?token=s3cr3t", "http://me:***@[::1]:80/api?token=***"),
    ],
)
def test_what_is_shown(url, text):
    assert redact_url(url) == text


@given(ODD, ODD, st.sampled_from(["/ledger", "", ":5432/ledger?sslmode=require", "/ledger?password=s3cr3t"]))
@example("x/", "", "/ledger")
@example("@h/", "", "/ledger")
@example("/?host=", "", "/ledger")
@example("/?host=@", "", "/ledger")
@example("[", "]", "/ledger")
def test_no_password_is_shown_however_odd(before, after, rest):
    """Nor by the error of who opens it; such characters should be percent-encoded, and people forget to."""
    url = f"postgresql+psycopg://me:{before}{SECRET}{after}@host{rest}"

    assert SECRET not in redact_url(url)
    assert SECRET not in what_is_told(url)


@given(ODD, st.sampled_from(["sqlite://me:", "postgresql://", "nosuchdb://u:", "sqlite:///x.db?password="]))
def test_url_that_is_refused_is_not_quoted(odd, scheme):
    with pytest.raises(StoreUnavailable) as raised:
        Database(f"{scheme}{odd}{SECRET}@/@")

    assert SECRET not in str(raised.value)


def test_message_of_a_library_is_told_without_secrets():
    url = "postgresql://me:pa%2Fss@host/ledger?sslpassword=other&sslmode=require"
    text = 'could not use "pa/ss", "pa%2Fss" or other in require'

    assert redact_text(text, url) == 'could not use "***", "***" or *** in require'


def test_message_that_quotes_an_encoded_parameter_is_told_without_it():
    """As it stands in the URL, or as it is read."""
    url = "postgresql://me@host/ledger?password=a+b%2Fc"

    assert redact_text("found 'a+b%2Fc', 'a b/c' and 'a+b/c'", url) == "found '***', '***' and '***'"


def test_ledger_is_named_by_a_url_or_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    assert ledger_url("memory:") == "memory:"
    assert ledger_url("postgresql://host/x") == "postgresql://host/x"
    assert ledger_url("sqlite:///x.db") == "sqlite:///x.db"
    assert ledger_url("100%?.db") == f"sqlite:///{tmp_path}/100%25%3F.db"
    assert ledger_url(tmp_path / "x.db") == f"sqlite:///{tmp_path}/x.db"


URLS = {
    "user": f"postgresql+psycopg://me:{SECRET}@{NOWHERE}/ledger",
    "slash": f"postgresql+psycopg://me:x/{SECRET}@{NOWHERE}/ledger",
    "query": f"postgresql+psycopg://me@{NOWHERE}/ledger?password={SECRET}",
    "semicolons": f"postgresql+psycopg://{NOWHERE}/ledger?user=me;password={SECRET}",
    "key's password": f"postgresql+psycopg://me@{NOWHERE}/ledger?passfile=/none&sslpassword={SECRET}",
    "encoded": f"postgresql+psycopg://me:%40{SECRET}%2F%3A@{NOWHERE}/ledger",
    "IPv6": f"postgresql+psycopg://me:{SECRET}@[::1]:1/ledger",
    "hosts": f"postgresql+psycopg://me:{SECRET}@/ledger?host={NOWHERE}&host={NOWHERE}",
    "unknown parameter": f"postgresql+psycopg://me@{NOWHERE}/ledger?passwrd={SECRET}",
    "unknown database": f"nosuch://me:{SECRET}@{NOWHERE}/ledger",
}
"""URLs that can be read in one way, and lead nowhere."""
REFUSED = {
    "no host": f"postgresql+psycopg://me:{SECRET}/ledger",
    "two signs": f"postgresql+psycopg://me:x@{SECRET}@{NOWHERE}/ledger",
    "hosts in a row": f"postgresql+psycopg://me:{SECRET}@h1:1,h2:2/ledger",
    "no scheme": f"me:{SECRET}@{NOWHERE}/ledger",
    "file": f"sqlite://me:{SECRET}@{NOWHERE}/ledger",
    "file's parameter": f"sqlite:///ledger.db?password={SECRET}",
}
"""URLs that are refused when the file is read."""

ASKED = {
    "pull": (),
    "accuracy": (),
    "report": (),
    "signal": ("--strategy", "strategies.trend"),
    "run": (),
    "once": (),
    "latest": (),
    "bars show": (),
    "bars export": ("out.csv",),
    "config check": (),
    "config show": (),
    "store info": (),
    "store backup": ("copy.db",),
    "store vacuum": (),
    "store restore": ("copy.db",),
    "store prune": (),
    "store runs": (),
    "store delete": ("replay-1",),
    "store export": ("out.csv",),
    "store upgrade": (),
    "verify ledger": (),
    "verify parity": (),
    "holds": (),
    "holds lift": ("binance",),
}
"""Commands that open the ledger or show where it is, and what else they need."""
NOT_ASKED = {
    "replay": (),
    "demo": (),
    "doctor": (),
    "health": (),
    "alerts test": (),
    "model eval": ("bars.csv",),
    "model compile": (),
    "verify lookahead": (),
    "verify batch": (),
}
"""Commands that read a configuration, and do something else before they open the ledger, or never do."""


def configured_commands(group, path=()):
    """The commands of the program that read a configuration."""
    for name, command in group.commands.items():
        if any("--config" in one.opts for one in command.params):
            yield " ".join((*path, name))
        if hasattr(command, "commands"):
            yield from configured_commands(command, (*path, name))


def write_config(folder, url):
    """A file whose ledger is at this URL."""
    path = folder / "config.toml"
    path.write_text(
        '[[series]]\nexchange = "binance"\nsymbol = "BTC/USDT"\ntimeframe = "1h"\nfile = "none.csv"\n'
        f"[store]\nurl = {json.dumps(url)}\n"
    )
    return path


def said_by(command, folder, *options):
    """What a command prints."""
    done = cli.forecaster(*command.split(), *(ASKED | NOT_ASKED)[command], *options, cwd=folder)

    assert done.returncode in (0, 2), done
    return done.stdout + done.stderr


def test_every_command_with_a_configuration_is_tried():
    """A new one belongs into one of the two tables."""
    assert sorted(configured_commands(get_command(app))) == sorted([*ASKED, *NOT_ASKED])


@pytest.mark.parametrize(
    ("command", "form"),
    [
        *((command, form) for command in ASKED for form in ("slash", "query", "semicolons")),
        *((command, form) for command in ("latest", "store info", "verify ledger") for form in URLS),
    ],
)
def test_no_command_shows_a_password(command, form, tmp_path):
    url = URLS[form]
    said = said_by(command, tmp_path, "--config", write_config(tmp_path, url))

    assert "://" in said or command == "config check" or "pg_dump" in said
    assert SECRET not in said


@pytest.mark.parametrize(
    ("command", "url"),
    [
        *((command, REFUSED["two signs"]) for command in [*ASKED, *sorted(NOT_ASKED.keys() - {"doctor"})]),
        *(("config show", url) for url in REFUSED.values()),
    ],
)
def test_no_command_shows_a_password_that_it_cannot_place(command, url, tmp_path):
    said = said_by(command, tmp_path, "--config", write_config(tmp_path, url))

    assert "store.url: expected" in said
    assert SECRET not in said


@pytest.mark.parametrize("url", (URLS | REFUSED).values(), ids=URLS | REFUSED)
def test_no_command_shows_a_password_that_it_is_given(url, tmp_path):
    """On the command line, in place of the configured ledger."""
    said = said_by("store info", tmp_path, "--store", url)

    assert SECRET not in said.replace(f"{tmp_path}/me:{SECRET}@{NOWHERE}/ledger", "")  # without a scheme it is a path


def test_no_message_of_a_server_shows_a_password(tmp_path):
    """One that quotes what it was sent, as some proxies of PostgreSQL do."""
    with QuotingServer() as server:
        url = f"postgresql+psycopg://me:{SECRET}%20x@127.0.0.1:{server.port}/ledger?sslmode=disable&gssencmode=disable"
        said = said_by("latest", tmp_path, "--config", write_config(tmp_path, url))
        with pytest.raises(StoreUnavailable) as raised, closing(Database(url)) as database:
            database.query("SELECT 1", {})

    assert "you said ***" in said
    assert SECRET not in said
    assert SECRET not in "".join(traceback.format_exception(raised.value))


class QuotingServer:
    """Speaks as much of PostgreSQL's protocol as is needed to ask for a password in clear, and quotes it."""

    def __enter__(self):
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _serve(self):
        with suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                with connection, suppress(OSError):
                    self._answer(connection)

    def _answer(self, connection):
        stream = connection.makefile("rb")
        (length,) = struct.unpack("!I", stream.read(4))
        stream.read(length - 4)  # the start-up message
        connection.sendall(b"R" + struct.pack("!II", 8, 3))  # the password in clear, please
        _, length = struct.unpack("!cI", stream.read(5))
        record = stream.read(length - 4).rstrip(b"\0")
        fields = b"SFATAL\0VFATAL\0C28P01\0Mgo away, you said " + record + b"\0\0"
        connection.sendall(b"E" + struct.pack("!I", len(fields) + 4) + fields)


@pytest.mark.parametrize("url", (URLS | REFUSED).values(), ids=URLS | REFUSED)
def test_doctor_shows_no_password(url, tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "_forecast_once", lambda _: "not asked here")
    found = {one.subject: one for one in doctor.examine(str(write_config(tmp_path, url)))}

    said = found.get("ledger") or found["configuration"]
    assert not said.ok
    assert SECRET not in str(found)


@pytest.mark.parametrize(
    "address",
    [f"http://me:{SECRET}@127.0.0.1:1", f"http://127.0.0.1:1/?token={SECRET}", f"http://me:{SECRET}@[::1", SECRET],
)
def test_health_shows_no_password_of_its_address(address):
    """It takes no such address; the token stands in a file."""
    said = cli.error_line("health", "--url", address)

    assert "expected an address such as http://127.0.0.1:9464" in said
    assert SECRET not in said
