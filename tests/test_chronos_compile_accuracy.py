"""Compiled against eager on real bars: element by element, in the mean, and against the errors written down before.

Both engines forecast the same windows in turns: the bundled files of `trainingdata/`, and those of
`../shared/trainingdata` where that folder is. One package is built in a child process, as a service would have it.

`python tests/test_chronos_compile_accuracy.py`, from any folder, prints the table, writes `chronos_mae_baseline.txt`
and exits 1 when the engines disagree; nothing is written then. Under pytest nothing is written.
Rows of files that are not here are kept as they are, as long as the weights are the same.

Shapes: K calls, N windows, F fields, H steps, Q quantile levels.
"""

from __future__ import annotations

import hashlib
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from forecaster.bars import SeriesKey
from forecaster.context import Context
from forecaster.forecast import ENGINE_NOISE
from forecaster.log import configure_logging
from forecaster.model.chronos2.checkpoint_files import NANO_FOLDER
from forecaster.model.chronos2.compilers import CompileSettings
from forecaster.model.chronos2.wrapper import Chronos2OHLCWrapper
from forecaster.sources.files import FileSource

ROOT = Path(__file__).resolve().parents[1]
BASELINE = Path(__file__).resolve().with_name("chronos_mae_baseline.txt")
COLUMNS = "symbol file csv_sha256 eager_mae compiled_mae"
CONTEXT, HORIZON = 1024, 32
WINDOWS, STRIDE = 14, 64
"""As many as the wrapper runs in one batch, so that one package serves every call; no two share a target bar."""
ROUNDS = 9
MAE_TOLERANCE = 5e-3
"""In the price's unit, whatever the symbol."""
NEVER = 10**9
AGES_FROM_NOW = 4_102_444_800_000
TABLE = f"""\
nano on {{device}}, {{threads}} threads, torch {{torch}}.
Context: asked {CONTEXT}, model's limit {{max_context}}, cut to its newest bars. Horizon: {HORIZON}.
MAE: of the close's median over {WINDOWS} windows and all steps, in the price's unit; tolerated ΔMAE: {MAE_TOLERANCE:g}.
Drift: largest of all elements and calls, as a share of the forecast's spread; tolerated: {ENGINE_NOISE:g}.
ms: of one call of all {WINDOWS} windows. First: of a fresh wrapper; compiled code is loaded by then, and the wrapper
compares this call with eager, so it costs both. Steady: median of {ROUNDS} more, both engines in turns.
Compiled code: built by a child process, loaded and checked in {{build_s:.0f}} s; a service forecasts eager meanwhile.

| Symbol | Uncompiled MAE | Compiled MAE | ΔMAE | Drift | Uncompiled ms: first | steady | Compiled ms: first | steady |
|---|---|---|---|---|---|---|---|---|"""


class Csv(NamedTuple):
    """A file of daily bars of one symbol."""

    symbol: str
    path: Path
    calendar: str


class Row(NamedTuple):
    """What the baseline holds of one file, beside its name."""

    symbol: str
    csv_sha256: str
    eager_mae: float
    compiled_mae: float


@dataclass(frozen=True)
class Answers:
    """What one engine answered for one file, call by call; the first call is a fresh wrapper's first.

    Attributes:
        raw_KNFHQ: prices as the model gave them.
        median_KNH: of the close, as a strategy reads it.
        engines: each engine that made one of the forecasts, with its reason.
        ms: of each call.
    """

    raw_KNFHQ: np.ndarray
    median_KNH: np.ndarray
    engines: frozenset[tuple[str, str]]
    ms: tuple[float, ...]

    @property
    def steady_ms(self):
        """Median of all calls but the first."""
        return statistics.median(self.ms[1:])


@dataclass(frozen=True)
class Comparison:
    """Both engines on one file."""

    csv: Csv
    csv_sha256: str
    actual_NH: np.ndarray
    eager: Answers
    compiled: Answers

    def mae(self, answers):
        """Mean absolute error of the close's median, over all windows and steps."""
        return float(np.abs(answers.median_KNH - self.actual_NH).mean())

    @property
    def mae_change(self):
        return abs(self.mae(self.compiled) - self.mae(self.eager))

    @property
    def drift(self):
        """Largest difference of any element in any call, as a share of its forecast's spread in that field."""
        eager_KNFHQ = self.eager.raw_KNFHQ
        spread_KNF = np.ptp(eager_KNFHQ, axis=(3, 4))
        return float((np.abs(self.compiled.raw_KNFHQ - eager_KNFHQ).max(axis=(3, 4)) / spread_KNF).max())

    @property
    def row(self):
        return Row(self.csv.symbol, self.csv_sha256, self.mae(self.eager), self.mae(self.compiled))


@dataclass(frozen=True)
class Measurement:
    """All files that are here, and what was learnt on the way."""

    comparisons: tuple[Comparison, ...]
    weights_sha256: str
    device: str
    max_context: int
    build_s: float


def bundled(symbol):
    return Csv(symbol, ROOT / "trainingdata" / f"{symbol.replace('/', '_')}_1d.csv", "XNYS")


def shared(symbol):
    return Csv(symbol, ROOT.parent / "shared" / "trainingdata" / f"{symbol.replace('/', '')}_1d.csv", "24/7")


BUNDLED = (bundled("SPX/USD"), bundled("IXIC/USD"))
SHARED = (shared("BTC/USDT"), shared("ETH/USDT"))
HERE = (*BUNDLED, *(csv for csv in SHARED if csv.path.exists()))


def make_windows(csv):
    """Contexts without a missing bar, the last of which ends `HORIZON` bars before the file, and the closes after each.

    A slot without a bar raises, in a context and in its targets: none is filled.
    """
    key = SeriesKey("csv", csv.symbol, "1d", csv.calendar)
    bars = FileSource(csv.path).fetch(key, None, AGES_FROM_NOW).bars
    last = len(bars) - HORIZON - 1
    positions = range(last - STRIDE * (WINDOWS - 1), last + 1, STRIDE)
    contexts = [Context.ending_at(bars, int(bars.close_time[i]), CONTEXT, CONTEXT) for i in positions]
    targets = [slice(i + 1, i + 1 + HORIZON) for i in positions]
    for context, target in zip(contexts, targets, strict=True):
        np.testing.assert_array_equal(bars.open_time[target], context.target_opens(HORIZON))
    return contexts, np.array([bars.close[target] for target in targets])


def load(folder=None):
    """Load a fresh wrapper: eager, or with compiled code from `folder` in service, built first if it is not there.

    It never compares itself with eager past the first call: that is done here, where it cannot answer eager instead.
    """
    if folder is None:
        return Chronos2OHLCWrapper.from_pretrained("nano", compile="off")
    settings = CompileSettings(mode="on", folder=folder, sample_every=NEVER)
    wrapper = Chronos2OHLCWrapper.from_pretrained("nano", compile=settings)
    wrapper.warm_up([(WINDOWS, CONTEXT, HORIZON)])
    return wrapper


def timed(call):
    """Give what a call answered, and its milliseconds."""
    started = time.perf_counter()
    answer = call()
    return answer, 1e3 * (time.perf_counter() - started)


def as_answers(calls):
    """Lay out the forecasts and milliseconds of each call."""
    forecasts_KN, ms = zip(*calls, strict=True)
    return Answers(
        raw_KNFHQ=np.array([[one.raw_FHQ for one in forecasts] for forecasts in forecasts_KN]),
        median_KNH=np.array([[one.median("close") for one in forecasts] for forecasts in forecasts_KN]),
        engines=frozenset(
            (one.provenance.engine, one.provenance.engine_reason) for forecasts in forecasts_KN for one in forecasts
        ),
        ms=ms,
    )


def compare(csv, folder):
    """Forecast one file with two fresh wrappers, in turns."""
    contexts, actual_NH = make_windows(csv)
    wrappers = (load(), load(folder))
    calls = [[timed(partial(one.predict, contexts, HORIZON)) for one in wrappers] for _ in range(1 + ROUNDS)]
    for wrapper in wrappers:
        wrapper.unload()
    digest = hashlib.sha256(csv.path.read_bytes()).hexdigest()
    return Comparison(csv, digest, actual_NH, *map(as_answers, zip(*calls, strict=True)))


def measure():
    """Build the package once, then compare on every file that is here."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "compiled"
        wrapper, build_ms = timed(partial(load, folder))
        about = wrapper.predict(make_windows(HERE[0])[0][:1], HORIZON)[0].provenance
        wrapper.unload()
        return Measurement(
            comparisons=tuple(compare(csv, folder) for csv in HERE),
            weights_sha256=about.weights_sha256,
            device=about.device,
            max_context=wrapper.max_context,
            build_s=build_ms / 1e3,
        )


def faults(comparison):
    """Say in sentences what is wrong with one file's compiled answers: nothing, when all is well.

    Every comparison is the negation of what is wanted, so that NaN is a fault.
    """
    named = comparison.csv.symbol
    found = [
        f"{named}: expected compiled code to answer, found {engine}: {reason}"
        for engine, reason in comparison.compiled.engines
        if engine != "compiled"
    ]
    if {engine for engine, _ in comparison.eager.engines} != {"eager"}:
        found.append(f"{named}: expected eager to be compared with, found {set(comparison.eager.engines)}")
    if not comparison.mae_change < MAE_TOLERANCE:
        found.append(f"{named}: expected ΔMAE below {MAE_TOLERANCE:g}, found {comparison.mae_change:.2g}")
    if not comparison.drift <= ENGINE_NOISE:
        limit, drift = f"{ENGINE_NOISE:g}", f"{comparison.drift:.2g}"
        found.append(f"{named}: expected every element within {limit} of the forecast's spread, found {drift}")
    return found


def table(measurement):
    """Lay out the note's table, with first call and steady state apart, under what it was measured on."""
    lines = [
        TABLE.format(
            device=measurement.device,
            threads=torch.get_num_threads(),
            torch=torch.__version__,
            max_context=measurement.max_context,
            build_s=measurement.build_s,
        )
    ]
    for one in measurement.comparisons:
        eager, compiled = one.eager, one.compiled
        errors = f"{one.mae(eager):,.4f} | {one.mae(compiled):,.4f} | {one.mae_change:.6f} | {one.drift:.1e}"
        ms = " | ".join(f"{ms:,.2f}" for ms in (eager.ms[0], eager.steady_ms, compiled.ms[0], compiled.steady_ms))
        lines.append(f"| {one.csv.symbol} | {errors} | {ms} |")
    return "\n".join(lines)


def read_baseline(path=BASELINE):
    """Give the weights' digest from the first line, and a row per file by its name; the second line names columns."""
    weights_sha256, _, *lines = path.read_text(encoding="ascii").splitlines()
    rows = {}
    for line in lines:
        symbol, name, csv_sha256, eager_mae, compiled_mae = line.split()
        rows[name] = Row(symbol, csv_sha256, float(eager_mae), float(compiled_mae))
    return weights_sha256, rows


def write_baseline(measurement, path=BASELINE):
    """Write what was measured. Rows of files that are not here stay, unless they tell of other weights."""
    weights_sha256, rows = read_baseline(path) if path.exists() else ("", {})
    if weights_sha256 != measurement.weights_sha256:
        rows = {}
    rows |= {one.csv.path.name: one.row for one in measurement.comparisons}
    lines = [
        f"{row.symbol} {name} {row.csv_sha256} {row.eager_mae:.6f} {row.compiled_mae:.6f}"
        for name, row in sorted(rows.items())
    ]
    path.write_text("\n".join([measurement.weights_sha256, COLUMNS, *lines]) + "\n", encoding="ascii")


def conclude(measurement, path=BASELINE):
    """Print the table, then what is wrong, or write the baseline; give the script's exit code."""
    found = [fault for one in measurement.comparisons for fault in faults(one)]
    print(table(measurement), "", *found, sep="\n")  # noqa: T201 - the script's output
    if not found:
        write_baseline(measurement, path)
        print(f"{path} is written.")  # noqa: T201 - as above
    return 1 if found else 0


# What was really measured.


@pytest.fixture(scope="module")
def measured():
    return measure()


@pytest.mark.compiler
@pytest.mark.parametrize("position", range(len(HERE)), ids=[csv.symbol for csv in HERE])
def test_compiled_equals_eager_on_real_bars(measured, position):
    """Compiled code answers every call, no quantile is further off than float32's own noise, nor is the mean error."""
    assert faults(measured.comparisons[position]) == []


@pytest.mark.compiler
def test_eager_errors_are_those_written_down(measured):
    """For every file that is byte by byte the one measured then."""
    weights_sha256, rows = read_baseline()
    here = {one.csv.path.name: one.row for one in measured.comparisons}
    same = [name for name in here.keys() & rows.keys() if here[name].csv_sha256 == rows[name].csv_sha256]

    assert weights_sha256 == measured.weights_sha256, "the weights changed: write the baseline again"
    assert {name: here[name].eager_mae for name in same} == pytest.approx(
        {name: rows[name].eager_mae for name in same}, rel=1e-4
    )


# What was written down.


@pytest.mark.parametrize("csv", BUNDLED, ids=[csv.symbol for csv in BUNDLED])
def test_a_bundled_file_is_the_one_measured(csv):
    digest = hashlib.sha256(csv.path.read_bytes()).hexdigest()

    assert read_baseline()[1][csv.path.name].csv_sha256 == digest, "the csv changed: write the baseline again"


def test_every_file_is_written_down():
    """Also those that are not on this machine."""
    assert {name: row.symbol for name, row in read_baseline()[1].items()} == {
        csv.path.name: csv.symbol for csv in (*BUNDLED, *SHARED)
    }


def test_the_bundled_weights_are_those_measured():
    digest = hashlib.sha256((NANO_FOLDER / "model.safetensors").read_bytes()).hexdigest()

    assert read_baseline()[0] == digest, "the weights changed: write the baseline again"


# What is concluded, of numbers that are made up.


def make_comparison(csv):
    """Two engines that answered alike, twice, for four windows."""
    random = np.random.default_rng(len(csv.symbol))
    raw_KNFHQ = np.stack([np.sort(2500 + random.normal(0, 30, (4, 4, HORIZON, 21)))] * 2)
    eager, compiled = (
        Answers(raw_KNFHQ, raw_KNFHQ[:, :, 3, :, 10], frozenset({(engine, "as asked")}), (30.0, 20.0))
        for engine in ("eager", "compiled")
    )
    return Comparison(csv, f"of_{csv.path.name}", 2500 + random.normal(0, 30, (4, HORIZON)), eager, compiled)


@pytest.fixture
def measurement():
    return Measurement(tuple(map(make_comparison, BUNDLED)), "of the weights", "cpu", 1024, 1.0)


@pytest.fixture
def comparison(measurement):
    return measurement.comparisons[0]


def test_engines_that_agree_have_no_fault(comparison):
    assert faults(comparison) == []


@pytest.mark.parametrize("share", [2 * ENGINE_NOISE, -2 * ENGINE_NOISE, np.nan])
def test_one_element_adrift_is_a_fault(comparison, share):
    raw_KNFHQ = comparison.compiled.raw_KNFHQ.copy()
    raw_KNFHQ[-1, 3, 1, 20, 5] += share * np.ptp(comparison.eager.raw_KNFHQ[-1, 3, 1])
    (fault,) = faults(replace(comparison, compiled=replace(comparison.compiled, raw_KNFHQ=raw_KNFHQ)))

    assert fault.startswith("SPX/USD: expected every element within 0.0001 of the forecast's spread, found ")


@pytest.mark.parametrize(("change", "count"), [(0.9 * MAE_TOLERANCE, 0), (1.1 * MAE_TOLERANCE, 1), (np.nan, 1)])
def test_another_mean_error_is_a_fault(comparison, change, count):
    """Though no element drifts: on an index of 2,500 points, a ten-thousandth of the spread is more than that."""
    eager = comparison.eager
    shifted = replace(comparison.compiled, raw_KNFHQ=eager.raw_KNFHQ, median_KNH=eager.median_KNH + change)
    below_NH = eager.median_KNH[0] - 1.0
    found = faults(replace(comparison, actual_NH=below_NH, compiled=shifted))

    assert [fault.partition(", ")[0] for fault in found] == ["SPX/USD: expected ΔMAE below 0.005"] * count


def test_an_answer_of_the_other_engine_is_a_fault(comparison):
    """A wrapper that falls back gives the right prices, and proves nothing."""
    mixed = replace(comparison.compiled, engines=comparison.compiled.engines | {("eager", "it failed")})

    assert faults(replace(comparison, compiled=mixed)) == [
        "SPX/USD: expected compiled code to answer, found eager: it failed"
    ]
    assert len(faults(replace(comparison, eager=mixed))) == 1


def test_the_script_writes_what_it_measured(measurement, tmp_path, capsys):
    path = tmp_path / "baseline.txt"
    code = conclude(measurement, path)
    printed = capsys.readouterr().out
    weights_sha256, rows = read_baseline(path)

    assert code == 0
    assert weights_sha256 == measurement.weights_sha256
    assert rows.keys() == {csv.path.name for csv in BUNDLED}
    assert all(f"\n| {csv.symbol} | {rows[csv.path.name].eager_mae:,.4f} | " in printed for csv in BUNDLED)


def test_the_script_names_a_symbol_adrift_and_writes_nothing(measurement, tmp_path, capsys):
    first, second, *_ = measurement.comparisons
    adrift = replace(second, compiled=replace(second.compiled, raw_KNFHQ=1.01 * second.compiled.raw_KNFHQ))
    code = conclude(replace(measurement, comparisons=(first, adrift)), tmp_path / "baseline.txt")

    assert code == 1
    assert capsys.readouterr().out.splitlines()[-1].startswith("IXIC/USD: expected every element within ")
    assert list(tmp_path.iterdir()) == []


def test_rows_of_absent_files_stay_while_the_weights_do(measurement, tmp_path):
    path = tmp_path / "baseline.txt"
    first, second, *_ = measurement.comparisons
    write_baseline(replace(measurement, comparisons=(first,)), path)
    before = read_baseline(path)[1]
    write_baseline(replace(measurement, comparisons=(second,)), path)
    both = read_baseline(path)[1]
    write_baseline(replace(measurement, comparisons=(second,), weights_sha256="of others"), path)

    assert both == before | {second.csv.path.name: both[second.csv.path.name]}
    assert read_baseline(path) == ("of others", {second.csv.path.name: both[second.csv.path.name]})


if __name__ == "__main__":
    configure_logging(verbose=False)
    sys.exit(conclude(measure()))
