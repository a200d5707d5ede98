"""Lift a hold, beside the process that writes the ledger.

This needs no lease. The table `hold` is append-only, its latest row counts, and no other table refers to it. The order
of two rows therefore breaks nothing. During a hold the service reads the latest row (`sources.exchange.breaker`).
"""

from __future__ import annotations

from contextlib import closing

from forecaster.store import open_reader
from forecaster.store import schema as t
from forecaster.store.database import Database

LIFTED = "lifted by command"


def lift(url: str, exchange: str, at: int) -> None:
    """Allow requests to an exchange again from `at` (UTC ms) on, in one short transaction.

    Raises:
        StoreUnavailable: when the ledger cannot be written; `LedgerMissing`, when there is none.
    """
    with closing(open_reader(url)) as reader:
        reader.holds()  # raises for a missing ledger and for one of another schema
    with closing(Database(url)) as database, database.transaction() as connection:
        row = {"exchange": exchange, "until": at, "reason": LIFTED, "seen_at": at}
        connection.execute(t.hold.insert().values(row))
