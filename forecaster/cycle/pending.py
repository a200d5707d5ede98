"""Work owed: which closes are to be forecast, and what became of each. The store has the truth after any crash."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final, NamedTuple

from forecaster.ledger import Slot

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from forecaster.bars import SeriesKey
    from forecaster.forecast import OHLCForecast
    from forecaster.store import Reader, Store

CATCH_UP: Final = 24
"""How many bars back what was missed is caught up on."""

_DIED: Final = "whoever began it died, and nobody ran for too long"


class Owed(NamedTuple):
    """The forecasts that are due and not there, by series; and how many closes passed while nobody ran."""

    slots: dict[SeriesKey, list[Slot]]
    missed: int


def lease_owed(store: Store, keys: Iterable[SeriesKey], model_name: str, as_of: int) -> Owed:
    """Find what is due of each series: the newest close, and those that were missed before it.

    What was missed is caught up on as far back as `CATCH_UP` bars: each from the bars up to its own cutoff, and
    flagged late. What lies further back is written down as missed, one slot for a whole span. All is written down
    before anything else is done, so that a process that dies leaves a trace.
    """
    with store.together():
        found = {key: _look(store, key, model_name, as_of) for key in keys}
        spans = [span for one in found.values() for span in one.missed]
        store.set_slots([slot for slot, _ in spans] + [slot for one in found.values() for slot in one.all], as_of)
    slots = {key: [slot for slot in one.all if slot.state == "leased"] for key, one in found.items()}
    return Owed(slots, sum(count for _, count in spans))


def end_owed(
    store: Store,
    owed: Mapping[SeriesKey, Sequence[Slot]],
    made: Sequence[OHLCForecast],
    skipped: Mapping[SeriesKey, str],
    as_of: int,
) -> None:
    """Write down what became of the work: done, failed for a reason, or a gap where no bar came in time."""
    done = {(one.key, one.cutoff) for one in made}
    ended = []
    for key, slots in owed.items():
        for slot in slots:
            state = "done" if (key, slot.cutoff) in done else "failed" if key in skipped else "gap"
            reason = "" if state == "done" else skipped.get(key, "no bars to forecast from")
            ended.append(dataclasses.replace(slot, state=state, reason=reason, leased_until=0))
    store.set_slots(ended, as_of)


class _Found(NamedTuple):
    """Slots of a series that change, and spans of closes that were missed, with their lengths."""

    all: list[Slot]
    missed: list[tuple[Slot, int]]


def _look(reader: Reader, key: SeriesKey, model_name: str, as_of: int) -> _Found:
    closes = _closes(key, as_of, CATCH_UP)
    if not closes:
        return _Found([], [])
    newest = _newest(reader, key, as_of, 2 * CATCH_UP)
    known = {slot.cutoff: slot for slot in newest if slot.cutoff >= closes[0]}
    before = None if _is_over(known.get(closes[0])) else reader.slot_before(key, closes[0])
    first = closes[0] if before is not None else _first(reader, key, model_name, closes, known)
    slots = [known.get(cutoff, Slot(key, cutoff)) for cutoff in closes if cutoff >= first]
    spans = [] if before is None else _missed(key, _end_of(before), closes[0])
    older = newest if before is None else _newest(reader, key, before.cutoff, CATCH_UP)
    left = _ended(reader, [slot for slot in older if slot.cutoff < closes[0]], model_name)
    for slot in slots:
        if slot.state == "missed":  # by a clock that was ahead: of that span only these closes have come
            spans += [(rest, 0) for rest, _ in _missed(key, closes[-1], slot.leased_until + 1)]
    return _Found(left + [_leased(reader, slot, model_name, as_of) for slot in slots if not _is_over(slot)], spans)


def _closes(key: SeriesKey, as_of: int, count: int) -> list[int]:
    """The newest closes of a series at `as_of`."""
    opens = key.sessions.last_opens(key.timeframe, as_of, count)
    closes: list[int] = key.sessions.closes_of(key.timeframe, opens).tolist()
    return closes


def _newest(reader: Reader, key: SeriesKey, as_of: int, count: int) -> list[Slot]:
    """What is known of the newest closes at `as_of`."""
    closes = _closes(key, as_of, count)
    return reader.slots(key, closes[0], closes[-1] + 1)


def _is_over(slot: Slot | None) -> bool:
    return slot is not None and slot.state in {"done", "gap"}


def _first(reader: Reader, key: SeriesKey, model_name: str, closes: Sequence[int], known: Mapping[int, Slot]) -> int:
    """The oldest close that is owed of a series without older work: one that is new owes its newest alone."""
    if known:
        return min(known)
    return closes[-1] if reader.latest(key, model_name) is None else closes[0]


def _leased(reader: Reader, slot: Slot, model_name: str, as_of: int) -> Slot:
    """A slot about to be worked on; done, if whoever died over it had written its forecast."""
    if slot.attempts and _is_written(reader, slot, model_name):
        return dataclasses.replace(slot, state="done", reason="", leased_until=0)
    until = as_of + slot.key.timeframe.ms
    return dataclasses.replace(slot, state="leased", attempts=slot.attempts + 1, reason="", leased_until=until)


def _ended(reader: Reader, older: Sequence[Slot], model_name: str) -> list[Slot]:
    """Slots that somebody who died had begun, and nobody can catch up on any more, as they ended.

    Whoever died worked on closes up to his newest, so whoever is next finds them in as many before his own.
    """
    begun = [slot for slot in older if slot.state == "leased"]
    written = [_is_written(reader, slot, model_name) for slot in begun]
    return [
        dataclasses.replace(slot, state="done" if there else "failed", reason="" if there else _DIED, leased_until=0)
        for slot, there in zip(begun, written, strict=True)
    ]


def _is_written(reader: Reader, slot: Slot, model_name: str) -> bool:
    rows = reader.history(slot.key, slot.cutoff, slot.cutoff + 1)
    return any(row.model_id.name == model_name for row in rows)


def _end_of(slot: Slot) -> int:
    """The last close that a slot stands for."""
    return slot.leased_until if slot.state == "missed" else slot.cutoff


def _missed(key: SeriesKey, after: int, before: int) -> list[tuple[Slot, int]]:
    """The closes between two times: one slot for all of them, and how many they are."""
    closes = key.sessions.closes_of(key.timeframe, key.sessions.opens_between(key.timeframe, after, before))
    closes = closes[(closes > after) & (closes < before)]
    if not len(closes):
        return []
    reason = f"{len(closes)} closes in a row: nobody ran"
    return [(Slot(key, int(closes[0]), "missed", 0, reason, int(closes[-1])), len(closes))]
