"""What a ledger must show whatever was done to the service: nothing lost, doubled, backdated or left without a word.

A close is accounted for when it is forecast, or in a state that names why it is not; `missed` names a span of them.
What is still `claimed` when the service has ended was left, and a `gap` is a lie where the exchange has every bar.
"""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Final, NamedTuple

from forecaster.store import open_database, open_reader
from forecaster.store.verify import verify_ledger

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from forecaster.bars import SeriesKey
    from forecaster.ledger import PendingForecast

_FORECASTS: Final = """
SELECT exchange || ' ' || symbol || ' ' || timeframe AS name, cutoff, m.name AS model, issued_at, available_at, late,
    payload_sha256 AS sha256
FROM forecast f JOIN series s ON s.id = f.series_id JOIN model m ON m.id = f.model_id WHERE f.run_id = 'live'"""
_ENDED: Final = frozenset({"done", "failed", "missed"})


class Name(NamedTuple):
    """Which forecast."""

    series: str
    cutoff: int
    model: str


class Made(NamedTuple):
    """When a forecast was asked for and could be read, UTC ms, whether that was late, and its numbers' digest."""

    issued_at: int
    available_at: int
    late: bool
    sha256: str


def forecasts(url: str) -> dict[Name, list[Made]]:
    """All live forecasts: each name should have one."""
    found: dict[Name, list[Made]] = {}
    with closing(open_database(url)) as database:
        for row in database.query(_FORECASTS, {}):
            made = Made(row.issued_at, row.available_at, bool(row.late), row.sha256)
            found.setdefault(Name(row.name, row.cutoff, row.model), []).append(made)
    return found


def lost(before: dict[Name, list[Made]], after: dict[Name, list[Made]]) -> list[str]:
    """What was there and is not, or is other than it was."""
    gone = [f"{name} is lost" for name in before if name not in after]
    return gone + [f"{name} has changed" for name, made in before.items() if name in after and after[name] != made]


def faults(url: str, keys: Sequence[SeriesKey], until: int, model: str = "nano") -> list[str]:
    """All that is wrong with the ledger of a service that has ended.

    Args:
        url: the ledger.
        keys: the series that are forecast; their exchange had every bar, so a gap is wrong.
        until: UTC ms up to which every close since the first is to be accounted for.
        model: what the configuration calls the model.
    """
    made = forecasts(url)
    with closing(open_database(url)) as database:
        wrong = verify_ledger(database).errors
    wrong += [f"{name} is there {len(all_)} times" for name, all_ in made.items() if len(all_) > 1]
    wrong += [f"{name} was issued before its cutoff" for name, (one, *_) in made.items() if one.issued_at < name.cutoff]
    with closing(open_reader(url)) as reader:
        for key in keys:
            step = key.timeframe.ms
            slots = reader.pending_forecasts(key, 0, 2**62)
            of_key = {name.cutoff: all_[0] for name, all_ in made.items() if name[::2] == (str(key), model)}
            late = [cutoff for cutoff, one in of_key.items() if one.late != (one.issued_at >= cutoff + step)]
            wrong += [f"{key} {cutoff}: late is told wrongly" for cutoff in late]
            wrong += [f"{key} {text}" for text in _of_slots(slots, of_key, until, step)]
    return wrong


def _of_slots(slots: Sequence[PendingForecast], made: Iterable[int], until: int, step: int) -> list[str]:
    """What is wrong with the work of one series: closes without a word, twice, or with a word that is not true."""
    forecast, wrong = set(made), []
    done = {slot.cutoff for slot in slots if slot.state == "done"}
    wrong += [f"{cutoff}: done without a forecast" for cutoff in sorted(done - forecast)]
    wrong += [f"{cutoff}: forecast, and not done" for cutoff in sorted(forecast - done)]
    wrong += [f"{slot.cutoff}: left {slot.state}" for slot in slots if slot.state not in _ENDED]
    wrong += [f"{slot.cutoff}: {slot.state} without a reason" for slot in slots if _lacks_reason(slot)]
    if not slots:
        return [*wrong, "no work at all"]
    expected = slots[0].cutoff
    for slot in [slot for slot in slots if slot.cutoff <= until]:
        if slot.cutoff > expected:
            wrong.append(f"{(slot.cutoff - expected) // step} closes without a word from {expected} on")
        elif slot.cutoff < expected:
            wrong.append(f"{slot.cutoff}: inside a span that was missed")
        expected = (slot.claimed_until if slot.state == "missed" else slot.cutoff) + step
    if expected <= until:
        wrong.append(f"{(until - expected) // step + 1} closes without a word at the end, from {expected} on")
    return wrong


def _lacks_reason(slot: PendingForecast) -> bool:
    return slot.state in {"failed", "missed"} and not slot.reason


def newest_close(now: int, step: int) -> int:
    """The newest close of a calendar without pauses."""
    return now // step * step
