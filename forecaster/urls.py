"""Where a ledger lies: the one place that reads the URL of a store, and the one that shows it.

A URL is `memory:`, `sqlite:///PATH`, or SQLAlchemy's of another database. Of an SQLite URL the path is percent-decoded,
as SQLAlchemy does it, and `?timeout=SECONDS` says how long a lock is waited for. Whatever else SQLAlchemy would take
(`uri=true`, `mode=…`) is refused, since those who read and the one who writes could then open two files.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import parse_qsl, unquote, unquote_plus

from forecaster.errors import StoreUnavailable

MEMORY: Final = "memory:"
"""A ledger that ends with its process."""

_SQLITE: Final = re.compile(r"sqlite(\+pysqlite)?://", re.ASCII)
_PREFIX: Final = "sqlite:///"
_SCHEME: Final = re.compile(r"[\w+]+://")
_PARTS: Final = re.compile(
    r"(?P<scheme>[\w+]+)://(?:(?P<user>[^:/@]*)(?P<password>:[^@]*)?@)?(?P<place>[^?@]*)(?:\?(?P<query>[^@]*))?"
)
"""SQLAlchemy's own reading of a URL, but that an `@` may stand once: of two, the first may belong to a password."""
_PLACE: Final = re.compile(r"(?:\[[^\]/]+\]|[^/:\[\]]*)(?::\d*)?(?:/[^:]*)?")
_HARMLESS: Final = re.compile(
    r"application_name|channel_binding|client_encoding|connect_timeout|gssencmode|host|hostaddr|keepalives(_\w+)?"
    r"|passfile|port|require_auth|service|sslcert|sslcrl|sslkey|sslmode|sslrootcert|sslsni|target_session_attrs"
    r"|tcp_user_timeout|timeout|user",
    re.ASCII,
)
"""Parameters whose values may be shown; all others may be secrets."""
_ONE_VALUE: Final = re.compile(r"[^\s;=]*")
"""A value that holds no further parameter, as of whoever separates them by semicolons or blanks."""


class SqliteAddress(NamedTuple):
    """A file, as the URL names it, and how long a lock of it is waited for, where the URL says so."""

    path: Path
    busy_timeout_ms: int | None = None


def sqlite_address(url: str) -> SqliteAddress | None:
    """Read the URL of an SQLite file; None for `memory:` and for other databases.

    Raises:
        StoreUnavailable: for an SQLite URL that does not name one file for everybody.
    """
    scheme = _SQLITE.match(url)
    if scheme is None:
        return None
    place, _, query = url[scheme.end() :].partition("?")
    path = unquote(place.removeprefix("/"))
    if (
        not place.startswith("/")
        or not path
        or "\0" in path
        or path == ":memory:"
        or path.startswith("file:")
        or path.endswith("/")
    ):
        raise StoreUnavailable(
            shown(url), "expected sqlite:///PATH, with four slashes for an absolute path; memory: for one in memory"
        )
    return SqliteAddress(_expanded(path), _timeout_ms(url, query))


def sqlite_path(url: str) -> Path | None:
    """Give the path in an SQLite URL, relative where the URL is; None for a URL that names no file."""
    try:
        address = sqlite_address(url)
    except StoreUnavailable:  # whoever opens it is told
        return None
    return None if address is None else address.path


def with_path(url: str, path: Path) -> str:
    """Give an SQLite URL that names another file; what else it says stays.

    Raises:
        ValueError: for the URL of another database.
    """
    scheme = _SQLITE.match(url)
    if scheme is None:
        msg = f"expected sqlite:///PATH, found {shown(url)!r}"
        raise ValueError(msg)
    _, mark, query = url.partition("?")
    return f"{scheme[0]}{sqlite_url(path).removeprefix(_PREFIX[:-1])}{mark}{query}"


def sqlite_url(path: Path) -> str:
    """Give the URL of an SQLite file."""
    return _PREFIX + str(path).replace("%", "%25").replace("?", "%3F")


def url_of(url_or_path: str | Path) -> str:
    """Give the URL of a ledger that is named by its URL or by the path of an SQLite file."""
    name = str(url_or_path)
    if name == MEMORY or _SCHEME.match(name):
        return name
    return sqlite_url(_expanded(name).absolute())


def shown(url: str) -> str:
    """Give a URL as it may be shown: without passwords, and of one that cannot be read its scheme alone."""
    if url == MEMORY:
        return url
    scheme = _SCHEME.match(url)
    if scheme is None:
        return "***"
    if _SQLITE.match(url):
        place, mark, query = url[len(scheme[0]) :].partition("?")
        return (
            f"{scheme[0]}{place}{mark and f'?{_shown_query(query)}'}" if place[:1] in ("", "/") else f"{scheme[0]}***"
        )
    parts = _clear_parts(url)
    if parts is None:
        return f"{scheme[0]}***"
    user = "" if parts["user"] is None else f"{parts['user']}{':***' if parts['password'] else ''}@"
    query = "" if parts["query"] is None else f"?{_shown_query(parts['query'])}"
    return f"{scheme[0]}{user}{parts['place']}{query}"


def is_clear(url: str) -> bool:
    """Whether the URL of another database than SQLite can be read in one way only.

    Of one with a bare `@` in its password, a part of the password would be taken for the host, and told to everybody.
    """
    return _clear_parts(url) is not None


def without_secrets(text: str, url: str) -> str:
    """Take out of a text, such as a library's message, what `shown` hides of a URL."""
    parts = _PARTS.fullmatch(url)
    secrets = [url.partition("://")[2]]
    if parts is not None:
        query = [part.partition("=") for part in (parts["query"] or "").split("&")]
        hidden = [value for name, _, value in query if not _is_harmless(name, value)]
        secrets += [(parts["password"] or "")[1:], *hidden]
    forms = {form for one in secrets for form in (one, unquote(one), unquote_plus(one))} - {""}
    for secret in sorted(forms, key=len, reverse=True):
        text = text.replace(secret, "***")
    return text


def _is_harmless(name: str, value: str) -> bool:
    """Whether a parameter of a query may be shown."""
    return bool(_HARMLESS.fullmatch(name)) and bool(_ONE_VALUE.fullmatch(unquote_plus(value)))


def _clear_parts(url: str) -> re.Match[str] | None:
    parts = _PARTS.fullmatch(url)
    return parts if parts is not None and _PLACE.fullmatch(parts["place"]) else None


def _expanded(path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError:  # nobody of that name: a file that is called so
        return Path(path)


def _timeout_ms(url: str, query: str) -> int | None:
    if not query:
        return None
    told = dict(parse_qsl(query, keep_blank_values=True))
    seconds = told.pop("timeout", "")
    if told or not re.fullmatch(r"\d{1,6}(\.\d*)?", seconds, re.ASCII):
        raise StoreUnavailable(shown(url), "expected sqlite:///PATH with ?timeout=SECONDS or nothing behind the path")
    return round(float(seconds) * 1000)


def _shown_query(query: str) -> str:
    """Give a query whose names are known to be harmless as it is, and of the others the names."""
    pairs = [part.partition("=") for part in query.split("&")]
    return "&".join(
        f"{name}{mark}{value}" if _is_harmless(name, value) else f"{name}=***" if mark else "***"
        for name, mark, value in pairs
    )
