"""Texts that must not be shown: passwords, tokens, and addresses that hold them."""

from __future__ import annotations

from typing import Final, NoReturn, Self

import pydantic

from forecaster.urls import redact_url

HIDDEN: Final = "***"


class Secret(pydantic.Secret[str]):
    """A text that only `reveal` gives: as text, in a log, in JSON and in a configuration that is dumped it is `***`.

    It cannot be pickled, so it stays in its process.
    """

    def reveal(self) -> str:
        """Give the text itself, to whoever opens something with it."""
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
        msg = f"expected that no secret leaves its process, found a {type(self).__name__} to be pickled"
        raise TypeError(msg)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, _memo: object) -> Self:
        return self


class SecretUrl(Secret):
    """A URL that may hold a password: it is shown without one, as `address.shown` gives it."""

    def _display(self) -> str:
        return redact_url(self.get_secret_value())
