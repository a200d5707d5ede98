"""What a ledger must show: one that is whole passes, and each breach is named."""

from __future__ import annotations

from contextlib import closing, contextmanager

import pytest

from forecaster.ledger import LIVE, PendingForecast, Run
from forecaster.store.database import Database
from forecaster.store.sql import SqlStore
from tests.builders import HOUR_MS, make_key
from tests.faults.account import Made, Name, faults, forecasts, lost, newest_close
from tests.forecast_builders import CUTOFF, make_forecast

KEY = make_key()
HOURS = 5
LAST = CUTOFF + (HOURS - 1) * HOUR_MS


def write(url, *, hours=range(HOURS), slots=(), issued_after=60_000):
    """A forecast for each of these hours, a minute behind its cutoff, and slots: those named, else done."""
    named = {slot.cutoff: slot for slot in slots}
    with closing(SqlStore(url)) as store:
        store.add_run(Run(LIVE, LIVE, CUTOFF))
        cutoffs = [CUTOFF + hour * HOUR_MS for hour in hours]
        store.add_forecasts([make_forecast(KEY, at, issued_at=at + issued_after) for at in cutoffs], LIVE)
        every = [CUTOFF + hour * HOUR_MS for hour in range(HOURS)]
        store.set_pending([named.get(at) or PendingForecast(KEY, at, "done") for at in every if named.get(at, 1)], LAST)


def slot(hour, state, reason="said", until=0):
    return PendingForecast(KEY, CUTOFF + hour * HOUR_MS, state, 1, reason, until)


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path}/ledger.db"


def test_whole_ledger_has_nothing_wrong(url):
    write(url)

    assert faults(url, [KEY], LAST) == []
    assert sorted(name.cutoff for name in forecasts(url)) == [CUTOFF + hour * HOUR_MS for hour in range(HOURS)]


def test_named_states_account_for_closes(url):
    """Two hours were missed in a row and stand in one row, one failed for a reason."""
    missed = slot(1, "missed", until=CUTOFF + 2 * HOUR_MS)
    write(url, hours=[0, 4], slots=[missed, slot(3, "failed")])
    drop_slot(url, 2)

    assert faults(url, [KEY], LAST) == []


def drop_slot(url, hour):
    from forecaster.store.database import Database

    with closing(Database(url)) as database, database.transaction() as connection:
        connection.exec_driver_sql("DELETE FROM pending_forecast WHERE cutoff = ?", (CUTOFF + hour * HOUR_MS,))


@pytest.mark.parametrize(
    ("hours", "slots", "dropped", "wrong"),
    [
        ([0, 1, 3, 4], [], None, "2 * done without a forecast"),
        ([0, 1, 2, 3, 4], [slot(2, "failed")], None, "2 * forecast, and not done"),
        ([0, 1, 3, 4], [slot(2, "claimed")], None, "2 * left claimed"),
        ([0, 1, 3, 4], [slot(2, "pending")], None, "2 * left pending"),
        ([0, 1, 3, 4], [slot(2, "gap")], None, "2 * left gap"),
        ([0, 1, 3, 4], [slot(2, "failed", "")], None, "2 * failed without a reason"),
        ([0, 1, 3, 4], [slot(2, "missed", "", CUTOFF + 2 * HOUR_MS)], None, "2 * missed without a reason"),
        ([0, 1, 3, 4], [], 2, "1 closes without a word"),
        ([0, 1, 2, 3], [], 4, "1 closes without a word at the end"),
        ([0, 1, 3, 4], [slot(2, "missed", until=CUTOFF + 3 * HOUR_MS)], None, "3 * inside a span that was missed"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_breach_is_named(url, hours, slots, dropped, wrong):
    write(url, hours=hours, slots=slots)
    if dropped is not None:
        drop_slot(url, dropped)
    first, _, rest = wrong.partition(" * ")
    expected = f"{CUTOFF + int(first) * HOUR_MS}: {rest}" if rest else wrong

    assert any(expected in text for text in faults(url, [KEY], LAST))


def test_series_without_any_work_is_named(url):
    write(url)
    other = make_key(symbol="ETH/USDT")

    assert faults(url, [other], LAST) == [f"{other} no work at all"]


def test_work_ahead_of_time_is_none_that_is_owed(url):
    """A clock that was ahead left a row for tomorrow: the hours up to it are yet to come."""
    write(url)
    with closing(SqlStore(url)) as store:
        store.set_pending([slot(HOURS + 20, "failed")], LAST)

    assert faults(url, [KEY], LAST) == []
    assert any("16 closes without a word at the end" in text for text in faults(url, [KEY], LAST + 16 * HOUR_MS))


@contextmanager
def without_triggers(url):
    """A ledger that can be changed, which no store would do."""
    with closing(Database(url)) as database, database.transaction() as connection:
        for (name,) in connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            connection.exec_driver_sql(f"DROP TRIGGER {name}")
        yield connection


def test_forecast_from_before_its_cutoff_is_named(url):
    write(url)
    with without_triggers(url) as connection:
        connection.exec_driver_sql("UPDATE forecast SET issued_at = cutoff - 1")

    assert sum("issued before its cutoff" in text for text in faults(url, [KEY], LAST)) == HOURS


def test_late_forecast_that_passes_for_timely_is_named(url):
    """What was issued when the next hour had closed is late, whatever the ledger says."""
    write(url, issued_after=HOUR_MS)

    assert faults(url, [KEY], LAST) == []
    with without_triggers(url) as connection:
        connection.exec_driver_sql("UPDATE forecast SET late = 0")
    assert sum("late is told wrongly" in text for text in faults(url, [KEY], LAST)) == HOURS


def test_what_is_gone_or_changed_is_named():
    name, other = Name("a", 1, "nano"), Name("a", 2, "nano")
    made, changed = [Made(1, 2, late=False, sha256="x")], [Made(1, 2, late=False, sha256="y")]

    assert lost({name: made}, {name: made, other: made}) == []
    assert lost({name: made}, {other: made}) == [f"{name} is lost"]
    assert lost({name: made}, {name: changed}) == [f"{name} has changed"]


def test_newest_close_is_the_one_that_has_passed():
    assert (newest_close(119_999, 60_000), newest_close(120_000, 60_000)) == (60_000, 120_000)
