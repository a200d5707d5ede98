"""Lifting a hold: a row that is written beside the process that writes the ledger.

It needs no lease. The table `hold` is only appended to, its newest row is the one that counts, and no other table
refers to it. So nothing that the writer knows becomes wrong, whichever of two rows comes first. The running service
reads the newest row while a hold lasts (`sources.breaker`).
"""

from __future__ import annotations

from contextlib import closing

from forecaster.store import open_reader
from forecaster.store import schema as t
from forecaster.store.database import Database

LIFTED = "lifted by command"


def lift(url: str, exchange: str, at: int) -> None:
    """Let an exchange be asked again from `at` (UTC ms) on: one short transaction.

    Raises:
        StoreUnavailable: when the ledger cannot be written; `LedgerMissing`, when there is none.
    """
    with closing(open_reader(url)) as reader:
        reader.holds()  # makes no ledger where none is, and refuses one of another schema
    with closing(Database(url)) as database, database.transaction() as connection:
        row = {"exchange": exchange, "until": at, "reason": LIFTED, "seen_at": at}
        connection.execute(t.hold.insert().values(row))
