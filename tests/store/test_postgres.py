"""What PostgreSQL does of its own accord: crash, lock, and be changed past our code."""

from __future__ import annotations

import time
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import psycopg
import pytest

from forecaster.bars import Bars
from forecaster.errors import LeaseLost, LedgerMissing, StoreUnavailable
from forecaster.ledger import LIVE, Run
from forecaster.store import lease, open_database, open_reader
from forecaster.store.maintenance import delete_runs, ledger_stats, prune, runs
from forecaster.store.sql import SqlStore
from forecaster.store.verify import verify_ledger
from tests.builders import HOUR_MS, make_bars, make_key
from tests.forecast_builders import CUTOFF, make_forecast

pytestmark = pytest.mark.postgres


@pytest.fixture
def url(cluster):
    return cluster.new_database()


def fill(url):
    """Bars, a live forecast, and one of a replay."""
    with closing(SqlStore(url)) as store:
        store.add_run(Run(LIVE, LIVE, CUTOFF))
        store.add_run(Run("replay-1", "replay", CUTOFF))
        store.add_bars(make_bars(count=5))
        store.add_forecasts([make_forecast()], LIVE)
        store.add_forecasts([make_forecast()], "replay-1")


def check(url):
    with closing(open_database(url)) as database:
        return verify_ledger(database)


def test_crashes_and_cut_connections_lose_nothing():
    """A sample of `python -m tests.faults.crash_postgres --cycles 300`."""
    from tests.faults.crash_postgres import crash

    found = crash(8, seed=0)

    assert found["wrong"] == 0, found
    assert found["acknowledged"] > 0
    assert found["refused"] > 0
    assert found["cut_after_commit"] > 0


def test_second_writer_is_refused(url, monkeypatch):
    monkeypatch.setattr(lease, "_ACQUIRE_TIMEOUT_SECONDS", 0.1)
    with closing(SqlStore(url)), pytest.raises(StoreUnavailable, match="the only one that writes"):
        SqlStore(url)
    with closing(SqlStore(url)) as store:
        assert store.epoch == 2


def test_writer_that_stands_still_in_a_batch_is_cut_off(url, monkeypatch):
    """Its server waits for the rest without end, holding the lease's row: whoever takes over ends that."""
    monkeypatch.setattr(lease, "LEASE_MS", 300)
    monkeypatch.setattr(lease, "_ACQUIRE_TIMEOUT_SECONDS", 60.0)
    with closing(SqlStore(url)) as first:
        place, name = url.replace("+psycopg", ""), first._database.session
        with closing(psycopg.connect(place, application_name=name)) as stopped:
            stopped.execute("UPDATE lease SET expires_at = expires_at")
            stopped.pgconn.enter_pipeline_mode()
            stopped.pgconn.send_query_params(b"SELECT 1", None)
            stopped.pgconn.flush()
            with closing(SqlStore(url)) as second:
                assert second.add_bars(make_bars(count=3)) == 3
                assert second.epoch == 2
                with pytest.raises(LeaseLost):
                    _write_until_refused(first)


def test_leader_takes_the_lock_that_the_last_one_held(url, monkeypatch):
    """So that its own death is seen at once."""
    monkeypatch.setattr(lease, "LEASE_MS", 300)
    monkeypatch.setattr(lease, "_ACQUIRE_TIMEOUT_SECONDS", 60.0)
    with closing(SqlStore(url)) as first:
        first._lease._ending.set()  # it stands still
        with closing(SqlStore(url)) as second:
            first.close()
            give_up = time.monotonic() + 60
            while second._lease._lock._session is None and time.monotonic() < give_up:
                time.sleep(0.01)

            assert second._lease._lock._session is not None


def _write_until_refused(store):
    for i in range(5):
        with suppress(StoreUnavailable):  # its connections are gone
            store.add_bars(make_bars(count=i + 1))


def test_reader_reads_beside_the_writer(url):
    with closing(SqlStore(url)) as store, closing(open_reader(url)) as reader:
        store.add_bars(make_bars(count=5))

        assert len(reader.bars(make_key())) == 5


def test_ledger_is_what_it_was_until_it_is_touched(cluster, url):
    fill(url)
    before = check(url)
    name = url.rpartition("/")[2]
    for table in ("bar", "forecast"):
        cluster.ask(name, f"ALTER TABLE {table} DISABLE TRIGGER USER")
    cluster.ask(name, "UPDATE bar SET close = close + 0.01 WHERE seq = 3")
    after = check(url)

    assert (before.ok, before.rows) == (True, 7)
    assert len(after.errors) == 1
    assert "is not what was written" in after.errors[0]


@pytest.mark.parametrize("statement", ["UPDATE bar SET close = 1", "DELETE FROM forecast", "TRUNCATE forecast_step"])
def test_tables_refuse_to_be_changed(cluster, url, statement):
    fill(url)
    with pytest.raises(psycopg.errors.RaiseException, match="is append-only"):
        cluster.ask(url.rpartition("/")[2], statement)


def test_old_runs_leave_and_the_guards_stay(cluster, url):
    fill(url)
    counted = prune(url, CUTOFF + 1, dry_run=True)
    pruned = prune(url, CUTOFF + 1, dry_run=False)

    assert counted == pruned == {"replay-1": 1}
    assert ledger_stats(url).forecasts_by_run == {LIVE: 1}
    assert check(url).errors == []
    test_tables_refuse_to_be_changed(cluster, url, "DELETE FROM run")


def test_replay_is_deleted_with_the_bars_that_are_its_own(cluster, url):
    fill(url)
    with closing(SqlStore(url)) as store:
        store.add_run(Run("replay-2", "replay", CUTOFF))
        store.add_bars(make_bars(count=7), "replay-2")
        store.add_forecasts([make_forecast()], "replay-2")
    before = {one.id: (one.forecasts, one.bars) for one in runs(url)}
    delete_runs(url, ["replay-2"])

    assert before == {LIVE: (1, 5), "replay-1": (1, 0), "replay-2": (1, 7)}
    assert {one.id: (one.forecasts, one.bars) for one in runs(url)} == {LIVE: (1, 5), "replay-1": (1, 0)}
    assert check(url).errors == []
    with pytest.raises(psycopg.errors.RaiseException, match="is append-only"):
        cluster.ask(url.rpartition("/")[2], "DELETE FROM series")


def test_database_without_a_ledger_is_missing_one(url):
    """To whoever reads; once a writer has begun it, the same reader reads it."""
    with closing(open_reader(url)) as reader:
        for use in (
            ledger_stats,
            runs,
            lambda _: reader.bars(make_key()),
            lambda url: prune(url, CUTOFF, dry_run=False),
        ):
            with pytest.raises(LedgerMissing, match="expected a ledger, found none"):
                use(url)
        fill(url)

        assert len(reader.bars(make_key())) == 5


def test_password_is_not_told(url):
    """By the server's refusal neither."""
    odd = url.replace("://", "://somebody:s3cr3t@", 1) if "@" not in url else url.replace("@", ":s3cr3t@", 1)
    wrong = odd.rpartition("/")[0] + "/nosuch"
    with pytest.raises(StoreUnavailable, match="nosuch") as refused:
        open_reader(wrong).latest_open(make_key())

    assert "s3cr3t" in wrong
    assert "s3cr3t" not in str(refused.value)


SHAPE = (
    """
    SELECT table_name, column_name, data_type, is_nullable, column_default FROM information_schema.columns
    WHERE table_schema = 'public' ORDER BY table_name, ordinal_position""",
    """
    SELECT conrelid::regclass::text, pg_get_constraintdef(oid) FROM pg_constraint
    WHERE connamespace = 'public'::regnamespace ORDER BY 1, 2""",
    """
    SELECT tablename, regexp_replace(indexdef, 'INDEX \\w+', 'INDEX') FROM pg_indexes
    WHERE schemaname = 'public' ORDER BY 1, 2""",
    """
    SELECT event_object_table, trigger_name, event_manipulation FROM information_schema.triggers ORDER BY 1, 2, 3""",
    "SELECT viewname, definition FROM pg_views WHERE schemaname = 'public' ORDER BY 1",
    "SELECT prosrc FROM pg_proc WHERE proname = 'refuse_change'",
)
"""Queries whose results are a schema, without the names that PostgreSQL makes up."""
OLDER_HEADS = {
    "binance BTC/USDT 1h bars": "7e9b780fb9072300cc6f7e1b15b98293d7d8080643efabec6bf4207fe6880e3f",
    "binance BTC/USDT 1h forecasts of live": "d2e2c5862cacf88cce0084db311c20f0d284630f49b66fad779b7c8b1112c664",
    "binance BTC/USDT 1h bars of replay-1": "dfc09f7213e35b691c4cda640ef5934d15fe2c5e89e5e7fe05bc9178de1ad4ed",
    "binance BTC/USDT 1h forecasts of replay-1": "faabd5ea57c65b03386ea647d0542a140ef440fc24f37df04cc8d56e4cd8c4ef",
}


def test_older_ledger_is_upgraded(cluster, url):
    """It then has the schema of a new ledger and its own content, and its chains go on, with an unknown volume too."""
    name, new_url = url.rpartition("/")[2], cluster.new_database()
    cluster.ask(name, (Path(__file__).parent / "released" / "postgres-schema-7.sql").read_text(encoding="utf-8"))
    SqlStore(new_url).close()
    bars = make_bars(count=3, start=CUTOFF + 3 * HOUR_MS)
    ohlcv_TF = bars.ohlcv_TF.copy()
    ohlcv_TF[1:, 4] = np.nan
    with pytest.raises(StoreUnavailable, match="store upgrade"), closing(open_reader(url)) as reader:
        reader.runs()
    with closing(SqlStore(url)) as store:
        upgraded = check(url)
        pending = store.pending_forecasts(bars.key, 0, 2**62)
        available_at = store.latest(bars.key, "nano").available_at
        added = store.add_bars(Bars(bars.key, bars.open_time, ohlcv_TF))
        kinds = [run.kind for run in store.runs()]
    written = check(url)

    assert [cluster.ask(name, query) for query in SHAPE] == [
        cluster.ask(new_url.rpartition("/")[2], query) for query in SHAPE
    ]
    assert (upgraded.errors, upgraded.rows, upgraded.heads) == ([], 9, OLDER_HEADS)
    assert [(one.state, one.claimed_until - CUTOFF) for one in pending] == [("done", 0), ("claimed", 1), ("failed", 2)]
    assert available_at == CUTOFF + 5007
    assert kinds == ["live", "replay"]
    assert (added, written.errors, written.rows) == (3, [], 12)


def test_people_can_ask_the_views(cluster, url):
    fill(url)
    name = url.rpartition("/")[2]

    assert cluster.ask(name, "SELECT COUNT(*) FROM forecast_value") == [(24,)]
    assert cluster.ask(name, "SELECT COUNT(*) FROM latest_bar") == [(5,)]
    assert cluster.ask(name, "SELECT COUNT(*) FROM settled") == [(0,)]
