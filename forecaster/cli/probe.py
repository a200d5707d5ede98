"""What a configuration finds at its exchanges: the newest bars of each series, or the fault by name.

The same sources as the service's, with a store that ends with the command: nothing is kept, the ledger is not opened.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

import typer

from forecaster.cli.printing import log_to_stderr, print_record
from forecaster.errors import ForecasterError, MissingBars

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from forecaster.config import Config, SeriesConfig
    from forecaster.sources import BarSource

_AT_ONCE: Final = 32


@dataclass(frozen=True, slots=True)
class Probed:
    """What came of one series: `newest_close` (UTC ms) and its age, or the error by name; and refused rows."""

    series: str
    ok: bool
    newest_close: int | None = None
    age_seconds: float | None = None
    bars: int = 0
    rejected: int = 0
    error: str | None = None


def probe_and_leave(config: Config, record: dict[str, object], *, json_: bool) -> None:
    """Probe, print what came with the rest of the record, and leave: with code 2 when a series cannot be had."""
    from forecaster.clock import now_ms

    log_to_stderr(verbose=False)
    found = probe(config, now_ms())
    ok = all(one.ok for one in found)
    if json_:
        print_record(record | {"ok": ok, "probed": [asdict(one) for one in found]}, json_=True)
    else:
        _print_probed(found)
    raise typer.Exit(0 if ok else 2)


def probe(config: Config, as_of: int) -> list[Probed]:
    """Ask for the newest final bars of every series, as things stand at `as_of` (UTC ms).

    Whatever is wrong with a series is told of it, and not raised.
    """
    places: dict[tuple[str, Path | None], list[SeriesConfig]] = {}
    for one in config.series:
        places.setdefault((one.exchange, one.file), []).append(one)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        asked = [pool.submit(_probe_place, config, alike, as_of) for alike in places.values()]
        found = {one.series: one for future in asked for one in future.result()}
    return [found[str(one.key)] for one in config.series]


def _print_probed(found: Iterable[Probed]) -> None:
    import numpy as np

    for one in found:
        state = "ok" if one.ok else "WRONG"
        refused = f", {one.rejected} rows rejected" if one.rejected else ""
        when = str(np.datetime64(one.newest_close or 0, "ms").astype("datetime64[s]")).replace("T", " ")
        told = one.error or f"{one.bars:,} bars, the newest closed {when} UTC, {one.age_seconds:,.0f} s ago"
        typer.secho(f"{state:5}  {one.series}: {told}{refused}", fg=None if one.ok else "red")


def _probe_place(config: Config, alike: list[SeriesConfig], as_of: int) -> list[Probed]:
    """Ask one exchange, or read one file, for all its series."""
    from forecaster.sources import open_source
    from forecaster.store import open_store

    try:
        source = open_source(config, alike[0], open_store("memory:"))
    except ForecasterError as error:
        return [_wrong(one, error) for one in alike]
    with closing(source), ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(lambda one: _probe_series(source, one, as_of), alike))


def _probe_series(source: BarSource, one: SeriesConfig, as_of: int) -> Probed:
    """Ask for the newest page, as the service does when it knows nothing of a series yet."""
    try:
        fetched = source.fetch(one.key, None, as_of)
    except ForecasterError as error:
        return _wrong(one, error)
    bars, rejected = fetched.bars, len(fetched.rejected)
    if fetched.fault is not None:
        return _wrong(one, fetched.fault, rejected)
    if not len(bars):
        return _wrong(one, MissingBars(one.key, _expected_close(one, as_of), None), rejected)
    newest = int(bars.close_time[-1])
    age = (as_of - newest) / 1000
    return Probed(str(one.key), ok=True, newest_close=newest, age_seconds=age, bars=len(bars), rejected=rejected)


def _expected_close(one: SeriesConfig, as_of: int) -> int:
    timeframe, sessions = one.key.timeframe, one.key.sessions
    return int(sessions.closes_of(timeframe, sessions.last_opens(timeframe, as_of, 1))[0])


def _wrong(one: SeriesConfig, error: ForecasterError, rejected: int = 0) -> Probed:
    from forecaster.log import harmless

    return Probed(str(one.key), ok=False, rejected=rejected, error=harmless(f"{type(error).__name__}: {error}"))
