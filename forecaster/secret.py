"""Secrets: passwords, tokens, and URLs that hold them."""

from __future__ import annotations

from typing import Final, NoReturn, Self

import pydantic

from forecaster.urls import redact_url

HIDDEN: Final = "***"


class Secret(pydantic.Secret[str]):
    """A text that only `reveal` returns. In logs, JSON and dumped configurations it is `***`.

    It cannot be pickled, so it stays in its process.
    """

    def reveal(self) -> str:
        """Return the secret text."""
        return self.get_secret_value()

    def _display(self) -> str:
        return HIDDEN

    def __format__(self, spec: str, /) -> str:
        return format(str(self), spec)

    def __reduce_ex__(self, protocol: object, /) -> NoReturn:
        """Refuse to be pickled.

        Raises:
            TypeError: always.
        """
        del protocol
        msg = f"expected that no secret leaves its process, found a {type(self).__name__} to pickle"
        raise TypeError(msg)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, _memo: object) -> Self:
        return self


class SecretUrl(Secret):
    """A URL that may hold a password; it is shown as `redact_url` returns it."""

    def _display(self) -> str:
        return redact_url(self.get_secret_value())
