"""Small faults that no test would notice: the mutants of the modules that everything else trusts.

`python -m tests.mutants` for all modules, `python -m tests.mutants bars sql` for some. `pip install mutmut==3.8.1`
comes first: it is no dependency. mutmut makes the mutants, all of a module in one source, which the import system is
given in place of the file. The working tree is never written to, so a run may be stopped at any time.

pytest starts once for each module. It collects, and has run no test when it forks: first for a look at which tests
reach which function, then for each mutant, which meets those tests, fastest first, until one fails. So nothing that an
earlier test left in a cache hides a mutant. Patience is counted in seconds of the processor: on a loaded machine no
mutant looks like an endless loop.

mutmut leaves functions alone that are decorated, properties and cached ones among them. Here their decorators stand
below them, `name = property(name)`, so that they have mutants too. Constants of modules have none.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import importlib.abc
import importlib.machinery
import json
import math
import os
import resource
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from contextlib import suppress
from functools import partial
from importlib.util import spec_from_loader
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import libcst as cst
import pytest
from _pytest.runner import runtestprotocol
from mutmut.mutation.file_mutation import MutatedFile, mutate_file_contents
from mutmut.mutation.trampoline import set_mutant_under_test
from mutmut.state import state

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import CodeType

ROOT: Final = Path(__file__).parents[1]
GOAL: Final = 0.9
PATIENCE: Final = 10
"""A mutant that takes so many times what its tests take, and a minute, of the processor is an endless loop."""
WALL_SECONDS: Final = 600
"""A mutant that takes more has come to a standstill."""

BYTES: Final = 8 << 30
"""What a mutant may take of memory: there is one that asks for 34 GB."""

DEAD: Final = ("killed", "endless")


class Target(NamedTuple):
    """A module, the tests that are its own, and which of those are left out: slow ones, and those of others."""

    name: str
    tests: tuple[str, ...]
    left_out: str = ""

    @property
    def path(self) -> Path:
        """The module's file."""
        return ROOT / f"{self.name.replace('.', '/')}.py"


CYCLES: Final = ("tests/test_engine.py", "tests/test_engine_bars.py", "tests/cycle/test_calibrate.py")
SLOW_CYCLES: Final = "missing_weights or slow_one or not_hidden"

TARGETS: Final = {
    "bars": Target("forecaster.bars", ("tests/test_bars.py",)),
    "calendars": Target("forecaster.calendars", ("tests/test_calendars.py",)),
    "sessions": Target("forecaster.sessions", ("tests/test_calendars.py",)),
    "forecast": Target("forecaster.forecast", ("tests/test_forecast.py",)),
    "calibration": Target(
        "forecaster.accuracy.calibration",
        ("tests/accuracy/test_calibration.py",),
        "raw_quantiles_are_right or mended or change_of_volatility or own_truth",
    ),
    "sql": Target(
        "forecaster.store.sql",
        ("tests/store/test_sql.py", "tests/store/test_store.py"),
        "threads or one_thread or bad_rows or settle or portions or itself_refuses or journal or log_is or columns",
    ),
    "run": Target("forecaster.cycle.run", CYCLES, SLOW_CYCLES),
    "ingest": Target("forecaster.cycle.ingest", CYCLES, SLOW_CYCLES),
    "refetch": Target("forecaster.cycle.refetch", CYCLES, SLOW_CYCLES),
    "record": Target("forecaster.cycle.record", CYCLES, SLOW_CYCLES),
    "client": Target("forecaster.client", ("tests/test_client.py", "tests/test_engine.py"), SLOW_CYCLES),
}


class _Undecorated(cst.CSTTransformer):
    """Puts decorators below their functions, but for those that mutmut takes as they are."""

    def leave_FunctionDef(
        self, original_node: cst.FunctionDef, updated_node: cst.FunctionDef
    ) -> cst.FunctionDef | cst.FlattenSentinel[cst.BaseStatement]:
        del original_node
        given = [one.decorator for one in updated_node.decorators]
        if not given or any(isinstance(one, cst.Name) and one.value == "classmethod" for one in given):
            return updated_node
        made: cst.BaseExpression = updated_node.name
        for one in reversed(given):
            made = cst.Call(one, [cst.Arg(made)])
        below = cst.SimpleStatementLine([cst.Assign([cst.AssignTarget(updated_node.name)], made)])
        return cst.FlattenSentinel([updated_node.with_changes(decorators=()), below])


class _Mutated(importlib.abc.MetaPathFinder, importlib.machinery.SourceFileLoader):
    """Finds one module, and gives other source for it than its file holds."""

    def __init__(self, target: Target, source: str) -> None:
        super().__init__(target.name, str(target.path))
        self._source = source

    def find_spec(self, fullname: str, *_: object) -> importlib.machinery.ModuleSpec | None:
        return spec_from_loader(fullname, self, origin=self.path) if fullname == self.name else None

    def get_code(self, fullname: str) -> CodeType:
        del fullname
        return compile(self._source, self.path, "exec", dont_inherit=True)


class _Loop:
    """Takes the place of pytest's loop over tests: one round of them for each mutant, each in a process of its own."""

    def __init__(self, mutants: Iterable[str], processes: int, on_end: Callable[[str, str], None]) -> None:
        self._mutants = mutants
        self._processes = processes
        self._on_end = on_end

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Run the tests of each mutant."""
        if session.testsfailed:
            raise session.Interrupted("not all tests could be collected")
        looked = _look(session.items)
        running: dict[int, str] = {}
        for mutant in self._mutants:
            seconds, tests = looked[mutant.partition("__mutmut_")[0]]
            if not tests:
                self._on_end(mutant, "not reached")
                continue
            if len(running) == self._processes:
                self._wait(running)
            if not (child := os.fork()):
                os._exit(_die_by(mutant, tests, 60 + math.ceil(PATIENCE * seconds)))
            running[child] = mutant
        while running:
            self._wait(running)
        return True

    def _wait(self, running: dict[int, str]) -> None:
        child, status = os.wait()
        how = os.waitstatus_to_exitcode(status)
        signals = {-signal.SIGXCPU: "endless", -signal.SIGALRM: "standstill"}
        self._on_end(running.pop(child), {0: "survived", 1: "killed"}.get(how, signals.get(how, "crashed")))


def _look(items: list[pytest.Item]) -> dict[str, tuple[float, list[pytest.Item]]]:
    """Which tests reach each function, fastest first, and how long they take; without a mutant none may fail."""
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "told"
        _must_pass(lambda: _import(items, told))
        for name in json.loads(told.read_text()):  # what tests import late is imported once, not by each process
            with suppress(ImportError):
                importlib.import_module(name)
        found = []
        for item in items:
            _must_pass(partial(_reach, item, told))
            found.append(json.loads(told.read_text()))
    looked: dict[str, tuple[float, list[pytest.Item]]] = defaultdict(lambda: (0.0, []))
    for number, (seconds, functions) in sorted(enumerate(found), key=lambda one: one[1][0]):
        for function in functions:
            so_far, tests = looked[function]
            looked[function] = (so_far + seconds, [*tests, items[number]])
    return looked


def _must_pass(run: Callable[[], int]) -> None:
    """Run tests in a process of their own; without a mutant none may fail."""
    if not (child := os.fork()):
        os._exit(run())
    if os.waitpid(child, 0)[1]:
        raise RuntimeError("tests fail without a mutant")


def _import(items: list[pytest.Item], told: Path) -> int:
    """Run all tests, and write down which modules they import; 1 when one fails."""
    set_mutant_under_test("")
    before = set(sys.modules)
    for item in items:
        if not _passes(item):
            sys.__stderr__.write(f"{item.nodeid} fails\n")
            sys.__stderr__.flush()
            return 1
    told.write_text(json.dumps([name for name in sys.modules if name not in before]))
    return 0


def _reach(item: pytest.Item, told: Path) -> int:
    """Run a test, and write down its seconds and the functions that it reaches; 1 when it fails.

    Alone in its process, since what another test has left in a cache is reached no more.
    """
    set_mutant_under_test("stats")
    began = time.process_time()
    passes = _passes(item)
    told.write_text(json.dumps([time.process_time() - began, sorted(state()._stats)]))
    return int(not passes)


def _die_by(mutant: str, tests: list[pytest.Item], seconds: int) -> int:
    """1 when one of the tests fails; the system ends what takes more seconds of the processor."""
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    signal.alarm(WALL_SECONDS)
    set_mutant_under_test(mutant)
    return int(not all(map(_passes, tests)))


def _passes(item: pytest.Item) -> bool:
    try:
        return not any(report.failed for report in runtestprotocol(item, log=False, nextitem=None))
    except BaseException:  # noqa: BLE001 - a mutant may raise anything
        return False


def _change(made: MutatedFile, name: str) -> str:
    """What a mutant is, as a difference of lines."""
    lines = made.code.splitlines()

    def text(function: str) -> list[str]:
        span = made.line_span_by_function_name[function]
        return [line.replace(function, "") for line in lines[span.start - 1 : span.end] if line.strip()]

    changed = difflib.unified_diff(text(f"{name.rpartition('_')[0]}_orig"), text(name), n=0, lineterm="")
    return "\n".join(f"    {line}" for line in list(changed)[2:] if not line.startswith("@@"))


def measure(target: Target, processes: int, only: str) -> bool:
    """Run a module's mutants, tell of those that live, and of the share that died."""
    source = cst.parse_module(target.path.read_text()).visit(_Undecorated()).code
    made = mutate_file_contents(str(target.path.relative_to(ROOT)), source)
    sys.meta_path.insert(0, _Mutated(target, made.code))
    names = [f"{target.name}.{name}" for name in made.mutant_names if only in name]
    became: dict[str, str] = {}

    def end(mutant: str, how: str) -> None:
        became[mutant] = how
        if how != "killed":
            name = mutant.rpartition(".")[2]
            sys.__stdout__.write(f"  {how}: {name}\n{_change(made, name)}\n")
            sys.__stdout__.flush()

    left_out = ["-k", f"not ({target.left_out})"] if target.left_out else []
    began = time.monotonic()
    options = ["-q", "-p", "no:randomly", "-p", "no:cacheprovider", f"--rootdir={ROOT}"]
    pytest.main([*options, *target.tests, *left_out], plugins=[_Loop(names, processes, end)])
    counts = Counter(became.values())
    share = sum(counts[how] for how in DEAD) / len(names)
    seconds = time.monotonic() - began
    sys.__stdout__.write(f"{target.name}: {share:.1%} of {len(names)} killed, {dict(counts)}, {seconds:.0f} s\n")
    return len(became) == len(names) and share >= GOAL


def main() -> int:
    """Measure the modules named, each in a process of its own, and fail where too many mutants live."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("modules", nargs="*", help=f"some of {', '.join(TARGETS)}; all when left out")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", default="", help="mutants whose name holds this")
    given = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    good = True
    for name in given.modules or TARGETS:
        if not (child := os.fork()):
            with tempfile.TemporaryDirectory() as home:
                os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = home
                good = measure(TARGETS[name], given.processes, given.only)
            sys.stdout.flush()
            os._exit(int(not good))
        good = not os.waitpid(child, 0)[1] and good
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
