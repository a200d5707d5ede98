"""Checks of arguments that several modules share."""

from __future__ import annotations

from numbers import Integral

from forecaster.errors import InvalidArgument


def check_integer(name: str, value: object, minimum: int = 1, maximum: int | None = None) -> int:
    """Return `value` as an `int`; numpy integers are accepted, booleans are not.

    Raises:
        InvalidArgument: for anything that is not an integer from `minimum` to `maximum`.
    """
    limits = f"{minimum} or more" if maximum is None else f"{minimum} to {maximum}"
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise InvalidArgument(name, f"a whole number, {limits}", f"{value!r:.100}")
    count = int(value)
    if count < minimum or (maximum is not None and count > maximum):
        raise InvalidArgument(name, limits, count)
    return count
