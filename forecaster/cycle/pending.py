"""Pending forecasts: which closes must be forecast, and what became of each. The store has the state after a crash."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final, NamedTuple

from forecaster.ledger import PendingForecast

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from forecaster.bars import SeriesKey
    from forecaster.forecast import OHLCForecast
    from forecaster.store import Reader, Store

CATCH_UP: Final = 24
"""How many missed bars are caught up on."""

_CRASHED: Final = "the process that claimed it ended, and none ran in time to catch up"


class ClaimedWork(NamedTuple):
    """The forecasts that are due and not recorded, by series; and how many closes passed while no process ran."""

    by_series: dict[SeriesKey, list[PendingForecast]]
    missed: int


def claim_due(store: Store, keys: Iterable[SeriesKey], model_name: str, as_of: int) -> ClaimedWork:
    """Claim what is due of each series: the latest close, and missed closes before it.

    The last `CATCH_UP` missed closes are caught up on: each from the bars up to its own cutoff, flagged late. Older
    ones are recorded as missed, one row per span. Everything is written before any other work, so that a process
    that crashes leaves a trace.
    """
    with store.transaction():
        plans = {key: _plan(store, key, model_name, as_of) for key in keys}
        spans = [span for plan in plans.values() for span in plan.missed]
        changed = [pending for pending, _ in spans] + [pending for plan in plans.values() for pending in plan.changed]
        store.set_pending(changed, as_of)
    by_series = {key: [row for row in plan.changed if row.state == "claimed"] for key, plan in plans.items()}
    return ClaimedWork(by_series, sum(count for _, count in spans))


def complete(
    store: Store,
    work: Mapping[SeriesKey, Sequence[PendingForecast]],
    forecasts: Sequence[OHLCForecast],
    skipped: Mapping[SeriesKey, str],
    as_of: int,
) -> None:
    """Record the result of claimed work: done, failed with a reason, or a gap where no bar arrived in time."""
    done = {(forecast.key, forecast.cutoff) for forecast in forecasts}
    completed = []
    for key, claimed in work.items():
        for pending in claimed:
            state = "done" if (key, pending.cutoff) in done else "failed" if key in skipped else "gap"
            reason = "" if state == "done" else skipped.get(key, "no bars to forecast from")
            completed.append(dataclasses.replace(pending, state=state, reason=reason, claimed_until=0))
    store.set_pending(completed, as_of)


class _Plan(NamedTuple):
    """Rows of a series that change, and spans of missed closes with their lengths."""

    changed: list[PendingForecast]
    missed: list[tuple[PendingForecast, int]]


def _plan(reader: Reader, key: SeriesKey, model_name: str, as_of: int) -> _Plan:
    closes = _closes(key, as_of, CATCH_UP)
    if not closes:
        return _Plan([], [])
    latest = _latest_rows(reader, key, as_of, 2 * CATCH_UP)
    known = {row.cutoff: row for row in latest if row.cutoff >= closes[0]}
    before = None if _is_complete(known.get(closes[0])) else reader.pending_before(key, closes[0])
    first = closes[0] if before is not None else _first_due(reader, key, model_name, closes, known)
    due = [known.get(cutoff, PendingForecast(key, cutoff)) for cutoff in closes if cutoff >= first]
    spans = [] if before is None else _missed_span(key, _last_close_of(before), closes[0])
    older = latest if before is None else _latest_rows(reader, key, before.cutoff, CATCH_UP)
    abandoned = _completed_after_crash(reader, [row for row in older if row.cutoff < closes[0]], model_name)
    for row in due:
        if row.state == "missed":  # by a clock that was ahead: of that span only these closes have happened
            spans += [(rest, 0) for rest, _ in _missed_span(key, closes[-1], row.claimed_until + 1)]
    return _Plan(abandoned + [_claimed(reader, row, model_name, as_of) for row in due if not _is_complete(row)], spans)


def _closes(key: SeriesKey, as_of: int, count: int) -> list[int]:
    """Return the last closes of a series at `as_of`."""
    opens = key.trading_calendar.last_opens(key.timeframe, as_of, count)
    closes: list[int] = key.trading_calendar.closes_of(key.timeframe, opens).tolist()
    return closes


def _latest_rows(reader: Reader, key: SeriesKey, as_of: int, count: int) -> list[PendingForecast]:
    """Return the stored rows of the last closes at `as_of`."""
    closes = _closes(key, as_of, count)
    return reader.pending_forecasts(key, closes[0], closes[-1] + 1)


def _is_complete(pending: PendingForecast | None) -> bool:
    return pending is not None and pending.state in {"done", "gap"}


def _first_due(
    reader: Reader, key: SeriesKey, model_name: str, closes: Sequence[int], known: Mapping[int, PendingForecast]
) -> int:
    """Return the oldest close that is due of a series without older rows; of a new series, only the latest is."""
    if known:
        return min(known)
    return closes[-1] if reader.latest(key, model_name) is None else closes[0]


def _claimed(reader: Reader, pending: PendingForecast, model_name: str, as_of: int) -> PendingForecast:
    """Claim a row; it is done if a process that crashed had recorded its forecast."""
    if pending.attempts and _is_recorded(reader, pending, model_name):
        return dataclasses.replace(pending, state="done", reason="", claimed_until=0)
    until = as_of + pending.key.timeframe.ms
    return dataclasses.replace(pending, state="claimed", attempts=pending.attempts + 1, reason="", claimed_until=until)


def _completed_after_crash(reader: Reader, older: Sequence[PendingForecast], model_name: str) -> list[PendingForecast]:
    """Complete rows that a crashed process had claimed and that are too old to catch up on.

    A crashed process worked on the closes up to its latest, so its rows are among as many before the current ones.
    """
    claimed = [row for row in older if row.state == "claimed"]
    recorded = [_is_recorded(reader, row, model_name) for row in claimed]
    return [
        dataclasses.replace(row, state="done" if there else "failed", reason="" if there else _CRASHED, claimed_until=0)
        for row, there in zip(claimed, recorded, strict=True)
    ]


def _is_recorded(reader: Reader, pending: PendingForecast, model_name: str) -> bool:
    rows = reader.history(pending.key, pending.cutoff, pending.cutoff + 1)
    return any(row.model_id.name == model_name for row in rows)


def _last_close_of(pending: PendingForecast) -> int:
    """Return the last close that a row stands for."""
    return pending.claimed_until if pending.state == "missed" else pending.cutoff


def _missed_span(key: SeriesKey, after: int, before: int) -> list[tuple[PendingForecast, int]]:
    """Return one row for all closes between two times, and their number; empty where there are none."""
    calendar = key.trading_calendar
    closes = calendar.closes_of(key.timeframe, calendar.opens_between(key.timeframe, after, before))
    closes = closes[(closes > after) & (closes < before)]
    if not len(closes):
        return []
    reason = f"{len(closes)} closes in a row: no process ran"
    return [(PendingForecast(key, int(closes[0]), "missed", 0, reason, int(closes[-1])), len(closes))]
