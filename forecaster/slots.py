"""Work owed: which closes are to be forecast, and what became of each. The store has the truth after any crash."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final

from forecaster.ledger import Slot

if TYPE_CHECKING:
    from collections.abc import Sequence

    from forecaster.bars import SeriesKey
    from forecaster.forecast import OHLCForecast
    from forecaster.store import Store

CATCH_UP: Final = 24
"""How many bars back what was missed is caught up on."""


def lease_owed(store: Store, key: SeriesKey, model_name: str, as_of: int) -> list[Slot]:
    """The forecasts of a series that are due and not there: the newest, and those that were missed before it.

    What was missed is caught up on as far back as `CATCH_UP` bars: each from the bars up to its own cutoff, and
    flagged late. Written down as owed before anything else is done, so that a process that dies leaves a trace.
    """
    closes = key.sessions.closes_of(key.timeframe, key.sessions.last_opens(key.timeframe, as_of, CATCH_UP))
    known = {slot.cutoff: slot for slot in store.slots(key, int(closes[0]), int(closes[-1]) + 1)}
    is_new = not known and store.latest(key, model_name) is None
    first = int(closes[-1]) if is_new else min(known, default=int(closes[0]))
    owed = [
        dataclasses.replace(slot, state="leased", attempts=slot.attempts + 1, leased_until=as_of + key.timeframe.ms)
        for slot in (known.get(cutoff, Slot(key, cutoff)) for cutoff in closes.tolist() if cutoff >= first)
        if slot.state not in {"done", "gap"}
    ]
    store.set_slots(owed, as_of)
    return owed


def end_owed(
    store: Store,
    owed: dict[SeriesKey, list[Slot]],
    made: Sequence[OHLCForecast],
    skipped: dict[SeriesKey, str],
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
