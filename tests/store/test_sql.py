"""What only a database can do: refuse, last, be shared, and be asked by others."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import threading
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import pytest

from forecaster.bars import FIELDS, Bars, RejectedRow
from forecaster.errors import LeaseLost, LedgerConflict, LedgerMissing, SchemaTooNew, StoreUnavailable
from forecaster.ledger import LIVE, PendingForecast, Run
from forecaster.store import open_database, open_reader, sqlite
from forecaster.store.sql import SqlStore
from forecaster.store.sqlite import SCHEMA
from forecaster.store.sqlite_library import sqlite3
from forecaster.store.verify import verify_ledger
from tests.builders import DAY_MS, HOUR_MS, make_bars, make_key, utc_ms
from tests.forecast_builders import CUTOFF, make_forecast, make_provenance

START = utc_ms("2024-01-01")
ROOT = Path(__file__).parents[2]
ETHER = make_key(symbol="ETH/USDT")
INSERT_BAR = "INSERT INTO bar VALUES (1, ?, 0, ?, ?, ?, ?, ?, 0, 99, x'00')"
GOOD = (START + DAY_MS, 100.0, 110.0, 90.0, 105.0, 7.0)

BROKEN = {
    "low is zero": (START + DAY_MS, 100.0, 110.0, 0.0, 105.0, 7.0),
    "low is negative": (START + DAY_MS, 100.0, 110.0, -1.0, 105.0, 7.0),
    "low above open": (START + DAY_MS, 100.0, 110.0, 101.0, 105.0, 7.0),
    "low above close": (START + DAY_MS, 100.0, 110.0, 90.0, 89.0, 7.0),
    "high below open": (START + DAY_MS, 111.0, 110.0, 90.0, 105.0, 7.0),
    "high below close": (START + DAY_MS, 100.0, 110.0, 90.0, 111.0, 7.0),
    "high is too high": (START + DAY_MS, 100.0, 1e15, 90.0, 105.0, 7.0),
    "high is infinite": (START + DAY_MS, 100.0, float("inf"), 90.0, 105.0, 7.0),
    "close is nan": (START + DAY_MS, 100.0, 110.0, 90.0, float("nan"), 7.0),
    "open is missing": (START + DAY_MS, None, 110.0, 90.0, 105.0, 7.0),
    "volume is negative": (START + DAY_MS, 100.0, 110.0, 90.0, 105.0, -0.1),
}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.db"


@pytest.fixture
def opened(path):
    """Give a function that opens the ledger, behind whoever had it open; the last one is closed at the end."""
    stores = []

    def open_again() -> SqlStore:
        for store in stores:
            store.close()
        stores.append(SqlStore(f"sqlite:///{path}"))
        stores[-1].add_run(Run(LIVE, LIVE, START))
        return stores[-1]

    yield open_again
    for store in stores:
        store.close()


def ask(path: Path, query: str, *values: object) -> list[tuple]:
    """Ask the file itself, past our own code."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query, values).fetchall()


def change(path: Path, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute(statement, values)


def pragma(store: SqlStore, name: str) -> object:
    """A setting of the store's own connection; others have their own."""
    with store._database.engine.connect() as connection:
        return connection.exec_driver_sql(f"PRAGMA {name}").scalar()


def test_a_new_ledger_names_its_schema(path, opened):
    opened()
    opened()

    assert ask(path, "SELECT version_num FROM alembic_version") == [(f"{SCHEMA:04}",)]


def test_a_ledger_of_a_newer_program_is_refused(path, opened):
    """To be written and to be read: untouched, and with both versions named."""
    opened().close()
    change(path, "UPDATE alembic_version SET version_num = ?", f"{SCHEMA + 1:04}")
    before = path.read_bytes()

    for use in (opened, lambda: open_reader(f"sqlite:///{path}").latest_open(ETHER)):
        with pytest.raises(SchemaTooNew, match=f"expected schema {SCHEMA} or older, found {SCHEMA + 1}"):
            use()

    assert path.read_bytes() == before


def test_a_path_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")

    for url in (f"sqlite:///{tmp_path}/missing/ledger.db", f"sqlite:///{tmp_path}", f"sqlite:///{tmp_path}/file/x.db"):
        with pytest.raises(StoreUnavailable, match=r"unable to open|expected the folder"):
            SqlStore(url)


def test_reader_cannot_write(path, opened):
    """Not even by SQL of its own."""
    opened().add_bars(make_bars(count=3))
    with closing(open_reader(f"sqlite:///{path}")) as reader:
        with pytest.raises(StoreUnavailable, match="readonly"):
            reader._query("DELETE FROM lease", {})

        assert len(reader.bars(make_key())) == 3


def test_reader_of_a_ledger_that_is_not_there_says_so(path):
    """With its absolute path; and makes none: a look at a path with a slip in it leaves no file."""
    questions = (
        lambda reader: reader.latest(ETHER, "nano"),
        lambda reader: reader.bars(ETHER),
        lambda reader: reader.holds(),
    )
    with closing(open_reader(f"sqlite:///{path}")) as reader:
        for question in questions:
            with pytest.raises(LedgerMissing, match=f"{path}.*expected a ledger, found none"):
                question(reader)

    assert list(path.parent.iterdir()) == []


KILLED_IN_A_WRITE = """
import os, signal, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA cache_size = 5")  # so that pages reach the file before the commit does
connection.execute("BEGIN IMMEDIATE")
connection.execute(
    "CREATE TABLE half AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 9999) SELECT * FROM n"
)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.processes
def test_reader_reads_on_when_the_writer_was_killed_in_a_write(path, opened):
    """What was half written is undone, as SQLite does, and nobody has to start the writer first."""
    store = opened()
    store.add_bars(make_bars(count=3))
    store.close()  # and has a rollback journal now, as from a library without a sound write-ahead log
    with closing(open_reader(f"sqlite:///{path}")) as reader:
        reader.bars(make_key())
        subprocess.run([sys.executable, "-c", KILLED_IN_A_WRITE, str(path)], check=False)
        assert path.with_name(f"{path.name}-journal").exists()

        assert len(reader.bars(make_key())) == 3
    with closing(open_reader(f"sqlite:///{path}")) as reader:
        assert len(reader.bars(make_key())) == 3
    assert ask(path, "SELECT COUNT(*) FROM sqlite_master WHERE name = 'half'") == [(0,)]


def test_reader_sees_what_is_written_after_it_was_opened(path, opened):
    with closing(open_reader(f"sqlite:///{path}")) as reader:
        with pytest.raises(LedgerMissing):
            reader.latest_open(make_key())
        store = opened()
        store.add_bars(make_bars(count=3))
        between = reader.latest_open(make_key())
        store.add_bars(make_bars(count=4))

        assert between < reader.latest_open(make_key())


@pytest.mark.processes
def test_reader_takes_neither_torch_nor_sqlalchemy(path, opened):
    """What a strategy's process pays for `latest` is NumPy and SQLite."""
    opened().add_forecasts([make_forecast()], LIVE)
    program = (
        "import sys\n"
        "from forecaster.store import open_reader\n"
        "from forecaster import SeriesKey\n"
        f"found = open_reader('sqlite:///{path}').latest(SeriesKey('binance', 'BTC/USDT', '1h'), 'nano')\n"
        "print(found.horizon, sorted({'torch', 'sqlalchemy', 'alembic', 'pandas', 'ccxt'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True)

    assert done.stdout.strip() == "3 []"


def test_a_file_that_is_no_database_is_refused_and_left_alone(path):
    path.write_bytes(b"open_time,open,high,low,close,volume\n" * 100)

    with pytest.raises(StoreUnavailable, match="file is not a database"):
        SqlStore(f"sqlite:///{path}")

    assert path.read_bytes() == b"open_time,open,high,low,close,volume\n" * 100


@pytest.mark.parametrize("url", ["ledger.db", "", "nosuch://host/ledger", "sqlite://host/ledger", "postgresql://h:x/y"])
def test_a_url_that_names_no_database_is_refused(url):
    with pytest.raises(StoreUnavailable):
        SqlStore(url)


def test_a_driver_that_is_not_installed_is_named(monkeypatch):
    """The extra `postgres` is optional, and whoever forgot it must be told, not shown a traceback."""
    monkeypatch.setitem(sys.modules, "psycopg", None)

    with pytest.raises(StoreUnavailable, match="psycopg"):
        SqlStore("postgresql+psycopg://host/ledger")


def test_the_password_of_a_url_is_not_told():
    """The message goes to logs and screens."""
    with pytest.raises(StoreUnavailable) as refused:
        SqlStore("nosuch://user:geheim@host/ledger")

    assert "geheim" not in str(refused.value)


def test_what_was_written_survives_close_and_reopen(opened):
    bars, forecast = make_bars(count=5), make_forecast()
    store = opened()
    store.add_bars(bars)
    store.add_forecasts([forecast], LIVE)
    store.close()

    again = opened()

    assert again.bars(bars.key).ohlcv_TF.tobytes() == bars.ohlcv_TF.tobytes()
    assert again.latest(forecast.key, "nano").raw_FHQ.tobytes() == forecast.raw_FHQ.tobytes()
    assert again.add_bars(bars) == again.add_forecasts([forecast], LIVE) == 0


@pytest.mark.processes
def test_what_was_acknowledged_survives_a_kill(path, opened):
    """The call has returned, so the rows are there, whatever becomes of the process."""
    opened().close()
    program = (
        "import os, signal\n"
        "from forecaster.store.sql import SqlStore\n"
        "from tests.forecast_builders import make_forecast\n"
        f"store = SqlStore('sqlite:///{path}')\n"
        "store.add_forecasts([make_forecast()], 'live')\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )

    killed = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False, capture_output=True)

    assert killed.returncode == -9, killed.stderr.decode()
    assert len(opened().history(make_key(), 0, 2**60)) == 12


def test_what_one_process_wrote_another_reads(path, opened):
    store, bars = opened(), make_bars(count=6)
    store.add_bars(bars)
    store.add_forecasts([make_forecast()], LIVE)
    with closing(open_reader(f"sqlite:///{path}")) as reader:
        assert reader.bars(bars.key).ohlcv_TF.tobytes() == bars.ohlcv_TF.tobytes()
        assert reader.latest(make_key(), "nano").raw_FHQ.tobytes() == make_forecast().raw_FHQ.tobytes()
        assert [row.step for row in reader.history(make_key(), 0, 2**60)] == [1] * 4 + [2] * 4 + [3] * 4

    assert store.add_forecasts([make_forecast()], LIVE) == 0
    with pytest.raises(LedgerConflict):
        store.add_forecasts([make_forecast(seed=1)], LIVE)


def test_two_threads_at_once_wait_for_each_other(opened):
    """Every row arrives once, though both write the same series."""
    store, bars = opened(), make_bars(count=40)
    added = []

    def write() -> None:
        added.extend(store.add_bars(bars[i : i + 2]) for i in range(0, 40, 2))

    threads = [threading.Thread(target=write) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sum(added) == 40
    assert store.bars(bars.key).revision.tolist() == [0] * 40


def test_a_ledger_that_stays_locked_is_unavailable(path, opened, monkeypatch):
    """After its patience the store says so, and works again when the lock is gone."""
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_MS", 20)
    store = opened()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")

        with pytest.raises(StoreUnavailable, match="database is locked"):
            store.add_bars(make_bars(count=3))

    assert store.add_bars(make_bars(count=3)) == 3


def test_a_full_disk_leaves_nothing_of_a_batch(opened):
    """What was there stays readable, and there is an error to act on."""
    store = opened()
    store.add_forecasts([make_forecast()], LIVE)
    pragma(store, f"max_page_count={pragma(store, 'page_count')}")

    with pytest.raises(StoreUnavailable, match="full"):
        store.add_forecasts([make_forecast(cutoff=CUTOFF + hour * HOUR_MS) for hour in range(1, 50)], LIVE)

    assert {row.cutoff for row in store.history(make_key(), 0, 2**60)} == {CUTOFF}


@pytest.mark.parametrize("row", BROKEN.values(), ids=BROKEN)
def test_the_table_itself_refuses_a_broken_bar(path, opened, row):
    """Whoever writes it: a second line behind `Bars`."""
    opened().add_bars(make_bars(count=1))

    with pytest.raises(sqlite3.IntegrityError, match=r"CHECK|NOT NULL"):
        change(path, INSERT_BAR, *row)


@pytest.mark.parametrize("volume", [7.0, 0.0, None], ids=["known", "none traded", "unknown"])
def test_the_table_accepts_a_bar(path, opened, volume):
    store = opened()
    store.add_bars(make_bars(count=1))

    change(path, INSERT_BAR, *GOOD[:5], volume)

    assert store.latest_open(make_key()) == GOOD[0]


def test_volume_that_is_not_known_is_null(path, opened):
    """Whoever sums it with SQL leaves it out."""
    bars = make_bars(count=3)
    ohlcv_TF = bars.ohlcv_TF.copy()
    ohlcv_TF[1, 4] = np.nan
    opened().add_bars(Bars(bars.key, bars.open_time, ohlcv_TF))

    volumes = ask(path, "SELECT volume FROM latest_bar ORDER BY open_time")
    assert volumes == [(bars.ohlcv_TF[0, 4],), (None,), (bars.ohlcv_TF[2, 4],)]


def test_a_row_of_an_unknown_series_is_refused(path, opened):
    opened()

    with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY"):
        change(path, INSERT_BAR, *GOOD)


@pytest.mark.parametrize(("column", "level"), [("q10", 0.1), ("q50", 0.5), ("q90", 0.9)])
def test_plain_columns_agree_with_the_forecast(path, opened, column, level):
    """People ask the file with any SQLite client; what they see is what strategies see."""
    forecast = make_forecast()
    opened().add_forecasts([forecast], LIVE)

    for field in FIELDS:
        rows = ask(path, f"SELECT {column} FROM forecast_value WHERE field = ? ORDER BY step", field)  # noqa: S608

        assert [price for (price,) in rows] == forecast.quantile(level, field).tolist()


def test_plain_columns_are_between_levels_where_the_model_has_none(path, opened):
    """0.1 lies a third of the way from 0.05 to 0.2."""
    forecast = make_forecast(levels=(0.05, 0.2, 0.5, 0.95))
    opened().add_forecasts([forecast], LIVE)

    rows = ask(path, "SELECT q10 FROM forecast_value WHERE field = 'close' ORDER BY step")

    by_hand = forecast.values_FHQ[3, :, 0] * 2 / 3 + forecast.values_FHQ[3, :, 1] / 3
    np.testing.assert_allclose(np.ravel(rows), by_hand, rtol=1e-12)


def test_a_forecast_can_be_joined_with_its_outcome_by_hand(path, opened):
    store = opened()
    forecast, bars = make_forecast(), make_bars(count=3, start=CUTOFF)
    store.add_forecasts([forecast], LIVE)
    store.add_bars(bars)

    rows = ask(
        path,
        "SELECT v.step, b.close - v.q50 FROM forecast_value v"
        " JOIN forecast f ON f.id = v.forecast_id"
        " JOIN bar b ON b.series_id = f.series_id AND b.open_time = v.target_open"
        " WHERE v.field = 'close' ORDER BY v.step",
    )

    assert [step for step, _ in rows] == [1, 2, 3]
    assert [error for _, error in rows] == (bars.close - forecast.median()).tolist()


def test_refused_rows_are_kept_with_their_reason(path, opened):
    opened().quarantine(ETHER, [RejectedRow(START, (1.0, 2.0, 0.0, 1.0, 5.0), "prices must be above 0")], START + 3)

    rows = ask(
        path, "SELECT symbol, open_time, row, reason, seen_at FROM quarantine JOIN series ON series.id = series_id"
    )

    assert rows == [("ETH/USDT", START, "[1.0, 2.0, 0.0, 1.0, 5.0]", "prices must be above 0", START + 3)]


def test_tables_hold_what_they_say(path, opened):
    """What no read of ours gives back, and people look up when something went wrong."""
    store, stock = opened(), make_key("arch", "SPX/USD", "1d", "XNYS")
    store.hold("kraken", START + 900, "a ban", START + 100)
    store.set_pending(
        [PendingForecast(make_key(), CUTOFF), PendingForecast(stock, CUTOFF, "failed", 1, "no answer", 7)], CUTOFF + 5
    )
    store.add_forecasts([make_forecast(), make_forecast(provenance=make_provenance("mine", "1"))], LIVE)

    assert ask(path, "SELECT exchange, until, reason, seen_at FROM hold") == [
        ("kraken", START + 900, "a ban", START + 100)
    ]
    assert ask(path, "SELECT exchange, symbol, timeframe, calendar FROM series ORDER BY id") == [
        ("binance", "BTC/USDT", "1h", "24/7"),
        ("arch", "SPX/USD", "1d", "XNYS"),
    ]
    assert ask(
        path,
        "SELECT state, epoch, claimed_until, attempts, reason, changed_at FROM pending_forecast ORDER BY series_id",
    ) == [
        ("pending", store.epoch, 0, 0, "", CUTOFF + 5),
        ("failed", store.epoch, 7, 1, "no answer", CUTOFF + 5),
    ]
    assert ask(path, "SELECT * FROM model ORDER BY id DESC") == [
        ("nano@0123456789ab", "nano", "0123456789abcdef", "ab" * 32),
        ("mine@1", "mine", "1", "ab" * 32),
    ]


def test_series_that_differ_in_one_name_are_apart(path, opened):
    """When they are added one by one, all at once, and found again by another process."""
    keys = [make_key(), make_key("kraken"), ETHER, make_key(timeframe="4h")]
    store = opened()
    for count, key in enumerate(keys, 1):
        store.add_bars(make_bars(key, count=count))
    store = opened()
    store.add_forecasts([make_forecast(key) for key in [make_key("bitstamp"), *keys]], LIVE)

    assert [len(store.bars(key)) for key in keys] == [1, 2, 3, 4]
    assert ask(path, "SELECT COUNT(*) FROM series") == [(5,)]
    assert ask(path, "SELECT series_id FROM forecast ORDER BY id") == [(5,), (1,), (2,), (3,), (4,)]


def test_chains_go_on_after_a_restart(path, opened, monkeypatch):
    """Of bars and of forecasts, by series and run, with more series than one query may ask for."""
    monkeypatch.setattr("forecaster.store.sql._IDS_PER_QUERY", 2)
    keys = [make_key(), ETHER, *(make_key(symbol=f"{name}/USDT") for name in ("SOL", "ADA", "XRP"))]
    store = opened()
    store.add_run(Run("replay-1", "replay", START))
    for again in range(2):
        for key in keys:
            store.add_bars(make_bars(key, count=3)[: 2 + again])
        made = [make_forecast(key, at, issued_at=at) for at in (CUTOFF, CUTOFF + HOUR_MS) for key in keys]
        added = [store.add_forecasts(made[: 5 * (1 + again)], run) for run in (LIVE, "replay-1")]
        store = opened()

    with closing(open_database(f"sqlite:///{path}")) as database:
        found = verify_ledger(database)
    assert added == [5, 5]
    assert (found.errors, found.rows, len(found.heads)) == ([], 5 * 3 + 5 * 2 * 2, 5 + 5 * 2)
    assert ask(path, "SELECT id FROM forecast ORDER BY id") == [(number,) for number in range(1, 21)]


def test_a_run_stays_as_it_was_named_first(path, opened):
    store = opened()
    store.add_run(Run(LIVE, "another door", START + 1))
    store.add_run(Run("replay-1", "replay", START + 2))

    assert ask(path, "SELECT * FROM run ORDER BY id") == [
        (LIVE, LIVE, START, ""),
        ("replay-1", "replay", START + 2, ""),
    ]


def test_run_of_a_block_that_was_undone_is_named_again(path, opened):
    """It is not there, so that its forecasts could not be written."""
    store = opened()
    with suppress(ZeroDivisionError), store.transaction():
        store.add_run(Run("replay-1", "replay", START))
        _ = 1 / 0
    store.add_run(Run("replay-1", "replay", START))

    assert store.add_forecasts([make_forecast()], "replay-1") == 1


def test_series_of_a_block_that_was_undone_is_added_again(path, opened):
    """Of a replay as of the live run."""
    store = opened()
    with suppress(ZeroDivisionError), store.transaction():
        for run in (LIVE, "replay-1"):
            store.add_bars(make_bars(count=3), run)
            store.latest_open(make_key(), run)
        _ = 1 / 0
    added = [store.add_bars(make_bars(count=3), run) for run in (LIVE, "replay-1")]

    assert added == [3, 3]


def test_a_run_that_is_known_costs_no_write(path, opened):
    """A cycle names its run each time; SQLite's own count of changes by others stays."""
    store = opened()
    with closing(sqlite3.connect(path)) as other:
        versions = [other.execute("PRAGMA data_version").fetchone()]
        for run in (Run(LIVE, LIVE, START), Run("replay-1", "replay", START), Run("replay-1", "replay", START)):
            store.add_run(run)
            versions.append(other.execute("PRAGMA data_version").fetchone())

    assert versions[0] == versions[1] != versions[2] == versions[3]


def test_nothing_is_overwritten_by_a_revision(path, opened):
    store, bars = opened(), make_bars(count=1)
    store.add_bars(bars)
    values = bars.ohlcv_TF + np.array([0, 0, 0, 0, 1.0])
    store.add_bars(Bars(bars.key, bars.open_time, values))

    assert ask(path, "SELECT revision, volume FROM bar ORDER BY revision") == [
        (0, bars.ohlcv_TF[0, 4]),
        (1, bars.ohlcv_TF[0, 4] + 1),
    ]


def test_connections_check_keys_and_wait_for_the_disk(opened):
    store = opened()

    assert pragma(store, "foreign_keys") == 1
    assert pragma(store, "synchronous") == 3  # EXTRA


@pytest.mark.parametrize(("version", "journal"), [((3, 40, 1), "delete"), ((3, 51, 3), "wal")])
def test_the_journal_is_chosen_by_the_version_of_sqlite(opened, monkeypatch, version, journal):
    monkeypatch.setattr(sqlite3, "sqlite_version_info", version)

    assert pragma(opened(), "journal_mode") == journal


@pytest.mark.parametrize(
    ("version", "safe"),
    [
        ((3, 40, 1), False),
        ((3, 44, 5), False),
        ((3, 44, 6), True),
        ((3, 45, 0), False),
        ((3, 50, 6), False),
        ((3, 50, 7), True),
        ((3, 51, 2), False),
        ((3, 51, 3), True),
        ((3, 52, 0), True),
        ((4, 0, 0), True),
    ],
    ids=str,
)
def test_the_write_ahead_log_is_used_where_its_fault_is_mended(version, safe):
    """Releases that carry the fix of sqlite.org/wal.html, section 11, and no others."""
    assert sqlite.wal_is_safe(version) is safe


def test_prices_that_needed_no_repair_are_kept_once(tmp_path):
    """Half of a step's bytes, for most baselines."""
    forecast = make_forecast()
    whole = dataclasses.replace(forecast, raw_FHQ=forecast.values_FHQ)
    path = tmp_path / "ledger.db"
    with closing(SqlStore(f"sqlite:///{path}")) as store:
        store.add_run(Run(LIVE, LIVE, CUTOFF))
        store.add_forecasts([whole], LIVE)
        again = store.latest(make_key(), "nano")
    with closing(sqlite3.connect(path)) as connection:
        kept = connection.execute("SELECT DISTINCT LENGTH(raw), LENGTH(repaired) FROM forecast_step").fetchall()

    assert kept == [(4 * 21 * 8, 0)]
    assert again.values_FHQ.tobytes() == whole.values_FHQ.tobytes()


def test_block_is_durable_as_a_whole(opened, path):
    """Who writes sees its own bars in the block; everybody else sees them when it ends."""
    store = opened()
    with closing(open_reader(f"sqlite:///{path}")) as reader:
        with store.transaction():
            assert (store.add_bars(make_bars(count=3)), store.add_bars(make_bars(ETHER, count=2))) == (3, 2)
            assert len(store.bars(ETHER)) == 2
            assert len(reader.bars(ETHER)) == 0

        assert (len(reader.bars(make_key())), len(reader.bars(ETHER))) == (3, 2)


def test_block_that_fails_leaves_nothing_behind(opened):
    """Nor does the store believe in a series that was added in it."""
    store = opened()

    def fail():
        with store.transaction():
            store.add_bars(make_bars(ETHER, count=2))
            assert len(store.bars(ETHER)) == 2
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()

    assert len(store.bars(ETHER)) == 0
    assert store.add_bars(make_bars(ETHER, count=2)) == 2
    assert len(store.bars(ETHER)) == 2


def test_block_of_one_that_has_lost_its_lease_is_refused(path, opened):
    """Before anything is done in it; a look at the ledger needs no lease."""
    store = opened()
    change(path, "UPDATE lease SET epoch = epoch + 1")

    with store.transaction(write=False):
        assert len(store.bars(make_key())) == 0
    with pytest.raises(LeaseLost), store.transaction():
        pytest.fail("the block was begun")
    with pytest.raises(LeaseLost):
        store.renew()


def test_block_of_one_thread_is_not_another_ones(opened):
    """A write of another thread waits for the block, and is durable by itself."""
    store = opened()
    written = threading.Thread(target=store.add_bars, args=[make_bars(ETHER, count=2)])

    def fail():
        with store.transaction():
            store.add_bars(make_bars(count=3))
            written.start()
            written.join(0.2)
            assert written.is_alive()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    written.join(300)

    assert (len(store.bars(make_key())), len(store.bars(ETHER))) == (0, 2)


def test_file_that_is_whole_is_told_from_one_that_is_not(opened, path):
    store = opened()
    store.add_bars(make_bars(count=500))
    store.check_integrity()
    store.close()
    content = bytearray(path.read_bytes())
    content[-4096:] = b"\x07" * 4096
    path.write_bytes(content)

    with pytest.raises(StoreUnavailable, match=r"restore|malformed"), closing(SqlStore(f"sqlite:///{path}")) as damaged:
        damaged.check_integrity()


def test_what_is_broken_in_a_file_is_told(opened, path):
    """As SQLite found it, the first three of it."""
    store = opened()
    store.add_bars(make_bars(count=1))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA ignore_check_constraints=ON")
        for cutoff in range(4):
            connection.execute("INSERT INTO pending_forecast VALUES (1, ?, 'lost', 0, 0, 0, '', 0)", (cutoff,))

    with pytest.raises(StoreUnavailable) as refused:
        store.check_integrity()

    broken = "; ".join(["CHECK constraint failed in pending_forecast"] * 3)
    assert str(refused.value) == f"store sqlite:///{path}: expected a whole file; restore a copy of it: {broken}"
