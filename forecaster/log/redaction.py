"""Make values safe to log: secrets hidden, no control characters, bounded length.

Everything that is logged passes `sanitize_event`. No value can end a line, move a cursor or fill the log.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_VALUE_CHARACTERS: Final = 2_000
MAX_LINE_CHARACTERS: Final = 32_768
"""Characters of all values of a line; values that do not fit are left out."""
HIDDEN: Final = "[hidden]"

_ELLIPSIS: Final = "…"
_MAX_SCANNED: Final = 8 * MAX_VALUE_CHARACTERS
_MAX_DEPTH: Final = 10
_MAX_INTEGER_BITS: Final = 64
_CHARACTERS_PER_VALUE: Final = 8
_FIRST_KEYS: Final = ("timestamp", "level", "event")

_NAMES: Final = r"secret|token|passw(?:or)?d|passphrase|credential|signature|(?:api|private|access)[_-]?key"
_NAMES_OF_KEYS: Final = rf"{_NAMES}|authorization|cookie|webhook|(?:\A|_)auth\Z"
_SECRET_KEY: Final = re.compile(rf"(?!.*_(?:file|path)\Z).*(?:{_NAMES_OF_KEYS})", re.IGNORECASE | re.DOTALL)
_IS: Final = r"(?:\\*[\"']?\s{0,3}[=:](?!//)|\\*[\"']\s{0,3},)\s{0,3}"
_VALUE: Final = r"""(?:b?"[^"]*"|b?'[^']*'|\\+["'][^"'\\]*|[^\s&;"'<>]+)"""
# A password may contain an unescaped slash. A number after a host may be a port, which is not hidden.
_SECRETS_IN_TEXT: Final = [
    (re.compile(r"://[^\s/'\"<>]{1,512}@"), rf"://{HIDDEN}@"),
    (re.compile(r"://[^\s/:@'\"]{0,128}:(?!\d{1,5}(?:[/?#]|\Z))[^\s'\"]{1,512}@"), rf"://{HIDDEN}@"),
    (re.compile(rf"((?:authorization|cookie){_IS}\\*[\"']?)[^\"'\n]+", re.IGNORECASE), rf"\1{HIDDEN}"),
    (re.compile(rf"((?:{_NAMES})[\w-]{{0,40}}{_IS})(?!expected\b){_VALUE}", re.IGNORECASE), rf"\1{HIDDEN}"),
    (re.compile(r"([?&](?:key|auth|sig|sign|code)=)[^\s&\"'<>]+", re.IGNORECASE), rf"\1{HIDDEN}"),
    (re.compile(r"\b(bearer\s+)[\w.~+/=-]{6,}", re.IGNORECASE), rf"\1{HIDDEN}"),
]
# Line ends, terminal escapes, bidirectional marks, invisible characters and lone surrogates.
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u00ad\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]")


def sanitize(text: str, limit: int = MAX_VALUE_CHARACTERS) -> str:
    """Hide secrets in a text, escape what is not printable, and truncate it to `limit` characters."""
    clean = text[:_MAX_SCANNED]
    for pattern, replacement in _SECRETS_IN_TEXT:
        clean = pattern.sub(replacement, clean)
    clean = _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), clean)
    return clean if len(clean) <= limit and len(text) <= _MAX_SCANNED else clean[: limit - 1] + _ELLIPSIS


def sanitize_event(event: Mapping[str, object]) -> dict[str, object]:
    """Convert an event to bounded JSON values without secrets at any depth; time, level and name come first."""
    first = {name: event[name] for name in _FIRST_KEYS if name in event}
    return _Sanitizer().mapping(first | dict(event))


class _Sanitizer:
    """Sanitizes the values of one line, up to `MAX_LINE_CHARACTERS`."""

    def __init__(self) -> None:
        self._budget = MAX_LINE_CHARACTERS

    def mapping(self, values: Mapping[Any, object], depth: int = 0) -> dict[str, object]:
        """Sanitize named values; those with a secret name are hidden."""
        clean: dict[str, object] = {}
        for key in self._within_budget(values):
            name = self._text(str(key))
            clean[name] = HIDDEN if _is_secret(str(key), values[key]) else self._value(values[key], depth + 1)
        return clean

    def _value(self, value: object, depth: int) -> object:
        self._budget -= _CHARACTERS_PER_VALUE
        if depth > _MAX_DEPTH:
            return _ELLIPSIS
        try:
            return self._of_type(value, depth)
        except Exception:  # noqa: BLE001 - whatever a value's own methods raise, the event must be logged
            return self._text(f"<a {type(value).__name__} that cannot be shown>")

    def _of_type(self, value: object, depth: int) -> object:
        if isinstance(value, str):
            return self._text(value)
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, Real):
            return self._number(value)
        if isinstance(value, Mapping):
            return self.mapping(value, depth)
        if isinstance(value, list | tuple | set | frozenset):
            return [self._value(item, depth + 1) for item in self._within_budget(value)]
        return self._text(repr(value))

    def _text(self, text: str) -> str:
        clean = sanitize(text, max(1, min(MAX_VALUE_CHARACTERS, self._budget)))
        self._budget -= len(clean)
        return clean

    def _number(self, value: Real) -> object:
        """Return a number that JSON has: no infinity, no NaN, no huge integer."""
        if isinstance(value, Integral):
            integer = int(value)
            bits = integer.bit_length()
            return integer if bits <= _MAX_INTEGER_BITS else f"an integer of {bits} bits"
        number = float(value)
        return number if math.isfinite(number) else str(number)

    def _within_budget(self, values: Iterable[Any]) -> Iterator[Any]:
        for value in values:
            if self._budget <= 0:
                return
            yield value


def _is_secret(key: str, value: object) -> bool:
    """Whether a key names a secret; a number of tokens is none."""
    is_count = key.lower().endswith("tokens") and isinstance(value, Real)
    return bool(_SECRET_KEY.match(key)) and not is_count
