"""The URL of a ledger: how it is read, and how it is shown without its secrets.

A URL is `memory:`, `sqlite:///PATH`, or SQLAlchemy's URL of another database. The path of an SQLite URL is
percent-decoded, as SQLAlchemy does it; `?timeout=SECONDS` says how long to wait for a lock. All other parameters of
SQLite (`uri=true`, `mode=…`) are refused: with them readers and the writer could open two different files.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import parse_qsl, unquote, unquote_plus

from forecaster.errors import StoreUnavailable

MEMORY: Final = "memory:"
"""A ledger that ends with its process."""

_PREFIX: Final = "sqlite:///"
_SCHEME: Final = re.compile(r"[\w+]+://")
_SQLITE: Final = re.compile(
    r"(?P<scheme>sqlite(?:\+pysqlite)?)://(?P<location>(?:/[^?]*)?)(?:\?(?P<query>.*))?", re.DOTALL
)
_SERVER: Final = re.compile(
    r"(?P<scheme>[\w+]+)://(?:(?P<user>[^:/@]*)(?P<password>:[^@]*)?@)?(?P<location>[^?@]*)(?:\?(?P<query>[^@]*))?"
)
"""As SQLAlchemy reads a URL, but with one `@` at most: the first of two may be part of a password."""
_LOCATION: Final = re.compile(r"(?:\[[^\]/]+\]|[^/:\[\]]*)(?::\d*)?(?:/[^:]*)?")
_HARMLESS: Final = re.compile(
    r"application_name|channel_binding|client_encoding|connect_timeout|gssencmode|host|hostaddr|keepalives(_\w+)?"
    r"|passfile|port|require_auth|service|sslcert|sslcrl|sslkey|sslmode|sslrootcert|sslsni|target_session_attrs"
    r"|tcp_user_timeout|timeout|user",
    re.ASCII,
)
"""Parameters whose values may be shown; the value of any other may be a secret."""
_ONE_VALUE: Final = re.compile(r"[^\s;=]*")
"""A value without further parameters, which some separate by semicolons or blanks."""


class SqliteAddress(NamedTuple):
    """The file that a URL names, and the lock timeout where the URL has one."""

    path: Path
    busy_timeout_ms: int | None = None


class _Url(NamedTuple):
    """The parts of a URL; the password keeps its colon, and an absent part is None."""

    is_sqlite: bool
    scheme: str
    location: str
    query: str | None = None
    user: str | None = None
    password: str | None = None

    @classmethod
    def parse(cls, url: str) -> _Url | None:
        """Split a URL; None when it has no form that is known here."""
        sqlite, server = _SQLITE.fullmatch(url), _SERVER.fullmatch(url)
        match = sqlite or server
        return None if match is None else cls(sqlite is not None, **match.groupdict())

    @property
    def is_unambiguous(self) -> bool:
        """Whether it can be read in one way only."""
        return self.is_sqlite or (not _is_sqlite(self.scheme) and _LOCATION.fullmatch(self.location) is not None)

    @property
    def parameters(self) -> list[tuple[str, str, str]]:
        """Name, equals sign and value of each part of the query, encoded as in the URL."""
        return [] if self.query is None else [part.partition("=") for part in self.query.split("&")]


def sqlite_address(url: str) -> SqliteAddress | None:
    """Read the URL of an SQLite file; None for `memory:` and for other databases.

    Raises:
        StoreUnavailable: for an SQLite URL that does not name exactly one file.
    """
    scheme = _SCHEME.match(url)
    if scheme is None or not _is_sqlite(scheme[0].removesuffix("://")):
        return None
    parts = _Url.parse(url)
    path = unquote(parts.location.removeprefix("/")) if parts is not None and parts.is_sqlite else ""
    if not path or "\0" in path or path == ":memory:" or path.startswith("file:") or path.endswith("/"):
        expected = "expected sqlite:///PATH, with four slashes for an absolute path; memory: for one in memory"
        raise StoreUnavailable(redact_url(url), expected)
    return SqliteAddress(_expanded(path), _timeout_ms(url, parts.query) if parts is not None and parts.query else None)


def sqlite_path(url: str) -> Path | None:
    """Return the path in an SQLite URL, relative where the URL is; None for a URL that names no file."""
    try:
        address = sqlite_address(url)
    except StoreUnavailable:  # raised again by whatever opens it
        return None
    return None if address is None else address.path


def with_path(url: str, path: Path) -> str:
    """Return an SQLite URL with another path; its query stays.

    Raises:
        ValueError: for any other URL.
    """
    parts = _Url.parse(url)
    if parts is None or not parts.is_sqlite:
        msg = f"expected sqlite:///PATH, found {redact_url(url)!r}"
        raise ValueError(msg)
    query = "" if parts.query is None else f"?{parts.query}"
    return f"{parts.scheme}:///{sqlite_url(path).removeprefix(_PREFIX)}{query}"


def sqlite_url(path: Path) -> str:
    """Return the URL of an SQLite file."""
    return _PREFIX + str(path).replace("%", "%25").replace("?", "%3F")


def ledger_url(url_or_path: str | Path) -> str:
    """Return the URL of a ledger that is given by its URL or by the path of an SQLite file."""
    name = str(url_or_path)
    if name == MEMORY or _SCHEME.match(name):
        return name
    return sqlite_url(_expanded(name).absolute())


def redact_url(url: str) -> str:
    """Replace the secrets of a URL by `***`; of a URL that cannot be read only the scheme stays."""
    if url == MEMORY:
        return url
    scheme = _SCHEME.match(url)
    if scheme is None:
        return "***"
    parts = _Url.parse(url)
    if parts is None or not parts.is_unambiguous:
        return f"{scheme[0]}***"
    user = "" if parts.user is None else f"{parts.user}{':***' if parts.password else ''}@"
    query = "&".join(
        f"{name}{mark}{value}" if _is_harmless(name, value) else f"{name}=***" if mark else "***"
        for name, mark, value in parts.parameters
    )
    return f"{scheme[0]}{user}{parts.location}{'' if parts.query is None else f'?{query}'}"


def is_unambiguous(url: str) -> bool:
    """Whether the URL of a database server can be read in one way only.

    With a bare `@` in the password, part of the password would be taken for the host and shown.
    """
    parts = _Url.parse(url)
    return parts is not None and parts.is_unambiguous


def redact_text(text: str, url: str) -> str:
    """Replace in a text, such as a library's message, what `redact_url` hides of a URL."""
    parts = _Url.parse(url)
    secrets = [url.partition("://")[2]]
    if parts is not None:
        secrets += [(parts.password or "")[1:]]
        secrets += [value for name, _, value in parts.parameters if not _is_harmless(name, value)]
    forms = {form for secret in secrets for form in (secret, unquote(secret), unquote_plus(secret))} - {""}
    for form in sorted(forms, key=len, reverse=True):
        text = text.replace(form, "***")
    return text


def _is_sqlite(scheme: str) -> bool:
    return scheme in ("sqlite", "sqlite+pysqlite")


def _is_harmless(name: str, value: str) -> bool:
    """Whether a parameter of a query may be shown."""
    return bool(_HARMLESS.fullmatch(name)) and bool(_ONE_VALUE.fullmatch(unquote_plus(value)))


def _expanded(path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError:  # no such user: a file whose name begins with a tilde
        return Path(path)


def _timeout_ms(url: str, query: str) -> int:
    parameters = dict(parse_qsl(query, keep_blank_values=True))
    seconds = parameters.pop("timeout", "")
    if parameters or not re.fullmatch(r"\d{1,6}(\.\d*)?", seconds, re.ASCII):
        raise StoreUnavailable(
            redact_url(url), "expected sqlite:///PATH with ?timeout=SECONDS or nothing after the path"
        )
    return round(float(seconds) * 1000)
