"""Disks that are full, broken or may only be read: nothing is acknowledged that is not durable, and it passes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from forecaster.store.sql import SqlStore

pytestmark = pytest.mark.processes
ROOT = Path(__file__).parents[2]
BEGIN = """
import json, os, resource, signal, sys
from forecaster.errors import StoreUnavailable
from forecaster.ledger import LIVE, Run
from forecaster.store.sql import SqlStore
from tests.faults.kill_writer import bars_of, forecasts_of
from tests.forecast_builders import CUTOFF

url = sys.argv[1]
store = SqlStore(url)
store.add_run(Run(LIVE, LIVE, CUTOFF))
acknowledged, refused = [], []

def write(batch):
    try:
        store.add_bars(bars_of(batch))
        store.add_forecasts(forecasts_of(batch), LIVE)
    except StoreUnavailable as error:
        refused.append([batch, str(error)])
    else:
        acknowledged.append(batch)

write(0)
"""
END = """
there = len(store.history(bars_of(0).key, 0, 2**60)) // 8
print(json.dumps({"acknowledged": acknowledged, "refused": refused, "there": there}))
"""
FULL = """
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
path = url.removeprefix("sqlite:///")
resource.setrlimit(resource.RLIMIT_FSIZE, (os.path.getsize(path) + 8192, resource.RLIM_INFINITY))
for batch in range(1, 30):
    write(batch)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
write(100)
write(1 + max(acknowledged[:-1]))
"""
BROKEN = """
import ctypes
switch = ctypes.c_int.in_dll(ctypes.CDLL(None), sys.argv[2])
switch.value = 1
for batch in range(1, 4):
    write(batch)
switch.value = 0
write(1)
"""
FAULTY_CALLS = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <unistd.h>
int failing_syncs = 0, failing_writes = 0;
#define FAIL(name, switch_, error, type, parameters, arguments) \\
    type name parameters { \\
        if (switch_) { errno = error; return -1; } \\
        return ((type (*) parameters)dlsym(RTLD_NEXT, #name)) arguments; \\
    }
FAIL(fsync, failing_syncs, EIO, int, (int fd), (fd))
FAIL(fdatasync, failing_syncs, EIO, int, (int fd), (fd))
FAIL(write, failing_writes, ENOSPC, ssize_t, (int fd, const void *data, size_t length), (fd, data, length))
#define PWRITE(name, type) \\
    FAIL(name, failing_writes, ENOSPC, ssize_t, (int fd, const void *data, size_t n, type at), (fd, data, n, at))
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)
"""


def run(url, deeds, *arguments, **environment):
    """Write in a process of its own; gives what it says in the end."""
    command = [sys.executable, "-c", f"{BEGIN}\n{deeds}\n{END}", url, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=os.environ | environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path}/ledger.db"


def assert_honest(found, url):
    """What was acknowledged is there, and was told by a fresh process as well; nothing else is."""
    assert found["there"] == len(set(found["acknowledged"]))
    with closing(SqlStore(url)) as store:
        assert store.epoch == 2


def test_full_disk(url):
    """Some batches fit no more; when there is room again, the same process goes on with them."""
    found = run(url, FULL)

    assert len(found["refused"]) > 20
    assert all("full" in reason or "I/O error" in reason for _, reason in found["refused"])
    assert found["acknowledged"][-2] == 100
    assert found["acknowledged"][-1] == found["refused"][0][0]
    assert_honest(found, url)


@pytest.fixture(scope="module")
def faulty_calls(tmp_path_factory):
    """A library whose switches make calls to the kernel fail."""
    folder = tmp_path_factory.mktemp("faulty")
    (folder / "faulty.c").write_text(FAULTY_CALLS, encoding="utf-8")
    compiler = shutil.which("g++") or "cc"
    flags = ["-x", "c", "-shared", "-fPIC", "-w", "faulty.c", "-o", "faulty.so", "-ldl"]
    subprocess.run([compiler, *flags], check=True, cwd=folder)
    return folder / "faulty.so"


@pytest.mark.parametrize(("switch", "reason"), [("failing_syncs", "I/O error"), ("failing_writes", "is full")])
def test_kernel_that_refuses(url, faulty_calls, switch, reason):
    """EIO from fsync, ENOSPC from write: nothing is acknowledged until it works again, in the same process."""
    found = run(url, BROKEN, switch, LD_PRELOAD=str(faulty_calls))

    assert [batch for batch, _ in found["refused"]] == [1, 2, 3]
    assert all(reason in told for _, told in found["refused"])
    assert found["acknowledged"] == [0, 1]
    assert_honest(found, url)


def test_file_that_may_only_be_read(url):
    """As after a file system was mounted anew to be read, when its disk had failed."""
    read_only = """
from sqlalchemy import event
def refuse(connection, record):
    connection.execute("PRAGMA query_only=ON")
event.listen(store._database.engine, "connect", refuse)
store._database.engine.dispose()
write(1)
write(2)
event.remove(store._database.engine, "connect", refuse)
store._database.engine.dispose()
write(1)
"""
    found = run(url, read_only)

    assert [batch for batch, _ in found["refused"]] == [1, 2]
    assert all("readonly" in reason for _, reason in found["refused"])
    assert found["acknowledged"] == [0, 1]
    assert_honest(found, url)
