"""What is left of a ledger when the power goes, at any moment: as many images of the disk as you like, each opened.

A writer's calls to the kernel are traced (`trace_writes.c`). From the trace, disks are made as a power cut may leave
them: what was not synchronised is dropped, kept, or kept in some of its 512-byte sectors; files that were made or
deleted are so only once their folder was synchronised, or by chance before. Every batch that the writer had
acknowledged by then must be there.

`python -m tests.faults.power_cut --images 100000` does so for the settings of the store, with the library that it uses,
and for three settings that are known to lose: a test that cannot fail proves nothing. The writer closes its ledger and
opens it again half-way, which ends one write-ahead log and begins another.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from rich.progress import Progress

from forecaster.store.sqlite_library import sqlite3

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).parents[2]
SECTOR: Final = 512
SETTINGS: Final = {
    "ours": "",
    "DELETE EXTRA": "PRAGMA journal_mode=DELETE; PRAGMA synchronous=EXTRA",
    "DELETE FULL": "PRAGMA journal_mode=DELETE; PRAGMA synchronous=FULL",
    "WAL NORMAL": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL",
    "DELETE OFF": "PRAGMA journal_mode=DELETE; PRAGMA synchronous=OFF",
}
CONTROLS: Final = ("DELETE FULL", "WAL NORMAL", "DELETE OFF")
"""Settings that lose: without EXTRA a deleted rollback journal may come back, since its folder is not synchronised."""

IMAGES_OF_A_PORTION: Final = 250
WRITER: Final = """
import os, sys
from forecaster.ledger import LIVE, Run
from forecaster.store import sqlite
from forecaster.store.sql import SqlStore
from tests.faults.kill_writer import bars_of, forecasts_of
from tests.forecast_builders import CUTOFF

folder, batches, pragmas = sys.argv[1], int(sys.argv[2]), sys.argv[3]
prepare = sqlite.prepare
def set_up(connection):
    for pragma in pragmas.split("; "):
        connection.execute(pragma)
    return True
def prepare_otherwise(connection, *more):
    prepare(connection, *more)
    set_up(connection)
if pragmas:
    sqlite.prepare, sqlite.keep_log = prepare_otherwise, set_up
store = SqlStore(f"sqlite:///{folder}/ledger.db")
store.add_run(Run(LIVE, LIVE, CUTOFF))
told = os.open(f"{folder}/acknowledged", os.O_WRONLY | os.O_CREAT)
for batch in range(batches):
    if batch == batches // 2:
        store.close()
        store = SqlStore(f"sqlite:///{folder}/ledger.db")
    store.add_bars(bars_of(batch))
    store.add_forecasts(forecasts_of(batch)[:2], LIVE)
    os.write(told, b".")
os._exit(0)
"""


class Call(NamedTuple):
    """One call to the kernel: created, written, truncated, synchronised or unlinked."""

    deed: str
    name: str
    offset: int
    data: bytes


@dataclass
class File:
    """A file as it surely is on the disk, and what was done to it since it was synchronised."""

    sure: bytearray = field(default_factory=bytearray)
    unsure: list[Call] = field(default_factory=list)


class Disk:
    """A folder, and what of it would outlast a power cut."""

    def __init__(self) -> None:
        self.files: dict[str, File] = {}
        self.sure_names: dict[str, File] = {}
        self.unsure_names: list[tuple[str, File | None]] = []

    def do(self, call: Call) -> None:
        """Take in a call."""
        if call.deed == "c":
            self.files[call.name] = File()
            self.unsure_names.append((call.name, self.files[call.name]))
        elif call.deed == "u":
            del self.files[call.name]
            self.unsure_names.append((call.name, None))
        elif call.deed == "s" and not call.name:
            for name, file in self.unsure_names:
                _name(self.sure_names, name, file)
            self.unsure_names.clear()
        elif call.deed == "s":
            file = self.files[call.name]
            for one in file.unsure:
                _apply(file.sure, one)
            file.unsure.clear()
        else:
            self.files[call.name].unsure.append(call)

    def cut(self, chance: random.Random) -> dict[str, bytes]:
        """What may be there after a power cut now."""
        names = dict(self.sure_names)
        for name, file in self.unsure_names[: chance.randint(0, len(self.unsure_names))]:
            _name(names, name, file)
        return {name: _left(file, chance) for name, file in names.items()}


def trace(folder: Path, batches: int, pragmas: str) -> list[Call]:
    """Let a writer write, and read what it did."""
    place, out = folder / "disk", folder / "trace"
    place.mkdir()
    tracing = {"LD_PRELOAD": str(tracer(folder)), "TRACE_ROOT": str(place), "TRACE_OUT": str(out)}
    command = [sys.executable, "-c", WRITER, str(place), str(batches), pragmas]
    subprocess.run(command, check=True, cwd=ROOT, env=os.environ | tracing)
    return list(_read(out.read_bytes(), place))


def tracer(folder: Path) -> Path:
    """Compile the library that writes calls down."""
    library = folder / "trace_writes.so"
    source = Path(__file__).with_name("trace_writes.c")
    compiler = shutil.which("cc") or shutil.which("gcc") or "g++"
    flags = ["-shared", "-fPIC", "-O1", "-w", *(["-x", "c"] if compiler == "g++" else [])]
    subprocess.run([compiler, *flags, str(source), "-o", str(library), "-ldl", "-lpthread"], check=True)
    return library


def images(calls: list[Call], chance: random.Random, count: int) -> Iterator[tuple[dict[str, bytes], int]]:
    """Disks at random moments, in their order, each with how many batches had been acknowledged."""
    moments = Counter(chance.randrange(len(calls)) for _ in range(count))
    disk, acknowledged = Disk(), 0
    for at, call in enumerate(calls):
        if call.name == "acknowledged":
            acknowledged += call.deed == "w"
        else:
            disk.do(call)
        for _ in range(moments[at]):
            yield disk.cut(chance), acknowledged


def look(image: dict[str, bytes], acknowledged: int, folder: Path) -> str:
    """Open an image; says whether it is `whole`, has `lost` a batch, or is `corrupt`."""
    for name, content in image.items():
        (folder / name).write_bytes(content)
    try:
        return _state(folder / "ledger.db", acknowledged)
    finally:
        for left in folder.iterdir():
            left.unlink()


def play(setting: str, count: int, batches: int, seed: int, processes: int = 2) -> dict[str, int]:
    """Trace a writer with a setting, and count the states of so many images."""
    with tempfile.TemporaryDirectory() as folder, Progress() as progress:
        calls = trace(Path(folder), batches, SETTINGS[setting])
        portions = [
            (calls, [seed, at], min(IMAGES_OF_A_PORTION, count - at)) for at in range(0, count, IMAGES_OF_A_PORTION)
        ]
        task, found = progress.add_task(setting, total=count), Counter(dict.fromkeys(("whole", "lost", "corrupt"), 0))
        with ProcessPoolExecutor(processes) as pool:
            for states in pool.map(_look_at_portion, *zip(*portions, strict=True)):
                found.update(states)
                progress.advance(task, states.total())
    return dict(found)


def main() -> None:
    """Cut the power, and print what was lost with each setting."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--images", type=int, default=1000, help="of the store's own settings; a tenth of each control")
    parser.add_argument("--batches", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    plan = parser.parse_args()
    found = {"ours": play("ours", plan.images, plan.batches, plan.seed)}
    found |= {name: play(name, plan.images // 10, plan.batches, plan.seed) for name in ("DELETE EXTRA", *CONTROLS)}
    found |= {"SQLite": sqlite3.sqlite_version}
    sys.stdout.write(json.dumps(found) + "\n")
    held = found["ours"]["whole"] == plan.images
    sys.exit(not (held and all(found[name]["lost"] or found[name]["corrupt"] for name in CONTROLS)))


def _look_at_portion(calls: list[Call], seed: list[int], count: int) -> Counter[str]:
    memory = Path("/dev/shm")  # noqa: S108 - a folder of our own is made in it
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        chance = random.Random(str(seed))  # noqa: S311 - moments, not secrets
        return Counter(look(image, acknowledged, Path(folder)) for image, acknowledged in images(calls, chance, count))


def _state(path: Path, acknowledged: int) -> str:
    if not path.exists():
        return "lost" if acknowledged else "whole"
    try:
        with closing(sqlite3.connect(path)) as connection:
            if connection.execute("PRAGMA integrity_check").fetchall() != [("ok",)]:
                return "corrupt"
            if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'forecast_step'").fetchall():
                return "lost" if acknowledged else "whole"
            (steps,) = connection.execute("SELECT COUNT(*) FROM forecast_step").fetchone()
            (bars,) = connection.execute("SELECT COUNT(*) FROM bar").fetchone()
    except sqlite3.DatabaseError:
        return "corrupt"
    if steps % 4:
        return "corrupt"  # two forecasts of two steps are one batch
    return "whole" if steps // 4 >= acknowledged and bars >= acknowledged else "lost"


def _name(names: dict[str, File], name: str, file: File | None) -> None:
    if file is None:
        names.pop(name, None)
    else:
        names[name] = file


def _left(file: File, chance: random.Random) -> bytes:
    """A file of which some writes that were not synchronised are there, whole or in part."""
    content = bytearray(file.sure)
    for call in file.unsure:
        fate = chance.random()
        if fate < 1 / 3:
            continue
        if fate < 2 / 3 or call.deed == "t":
            _apply(content, call)
            continue
        for at in range(0, len(call.data), SECTOR):
            if chance.random() < 0.5:
                _apply(content, Call("w", call.name, call.offset + at, call.data[at : at + SECTOR]))
    return bytes(content)


def _apply(content: bytearray, call: Call) -> None:
    if call.deed == "t":
        del content[call.offset :]
        content.extend(bytes(call.offset - len(content)))
        return
    end = call.offset + len(call.data)
    content.extend(bytes(max(0, end - len(content))))
    content[call.offset : end] = call.data


def _read(text: bytes, place: Path) -> Iterator[Call]:
    """Read the records; the folder itself has no name, and files of no account are left out."""
    head, at = struct.Struct("<cIQQ"), 0
    while at < len(text):
        deed, named, length, offset = head.unpack_from(text, at)
        at += head.size
        name = text[at : at + named].decode().removeprefix(str(place)).lstrip("/")
        data = text[at + named : at + named + length]
        at += named + length
        if not name.endswith(("-shm", ".lock")):
            yield Call(deed.decode(), name, offset, data)


if __name__ == "__main__":
    main()
