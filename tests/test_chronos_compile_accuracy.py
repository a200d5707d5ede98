"""Compiled code compared with eager on real bars: element by element, in mean error, and with stored errors.

Both engines forecast the same windows in turns: the bundled files of `trainingdata/`, and those of
`../shared/trainingdata`, if it exists. One package is built in a child process, as in a service.

`python tests/test_chronos_compile_accuracy.py`, from any folder, prints the table, writes `chronos_mae_baseline.txt`
and exits 1 when the engines disagree; nothing is written then. Under pytest nothing is written.
Rows of files that do not exist here are kept, if the weights are the same.

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
"""The windows of one batch, so that one package serves every call; no two share a target bar."""
ROUNDS = 9
MAE_TOLERANCE = 5e-3
"""In units of the price."""
NEVER = 10**9
AGES_FROM_NOW = 4_102_444_800_000
TABLE = f"""\
nano on {{device}}, {{threads}} threads, torch {{torch}}.
Context: requested {CONTEXT}, model's limit {{max_context}}, cut to its latest bars. Horizon: {HORIZON}.
MAE: of the close's median over {WINDOWS} windows and all steps, in the price's unit; allowed ΔMAE: {MAE_TOLERANCE:g}.
Drift: largest of all elements and calls, as a share of the forecast's spread; allowed: {ENGINE_NOISE:g}.
ms: of one call of all {WINDOWS} windows. First: of a new wrapper; compiled code is loaded by then, and the wrapper
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
    """The baseline of one file."""

    symbol: str
    csv_sha256: str
    eager_mae: float
    compiled_mae: float


@dataclass(frozen=True)
class EngineForecasts:
    """Forecasts of one file by one engine, call by call; the first call is the first of a new wrapper.

    Attributes:
        raw_KNFHQ: prices before repair.
        median_KNH: of the close.
        engines: the engines of the forecasts, with their reasons.
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
    eager: EngineForecasts
    compiled: EngineForecasts

    def mae(self, engine):
        """Mean absolute error of the close's median, over all windows and steps."""
        return float(np.abs(engine.median_KNH - self.actual_NH).mean())

    @property
    def mae_change(self):
        return abs(self.mae(self.compiled) - self.mae(self.eager))

    @property
    def drift(self):
        """Largest difference of any element in any call, as a share of the forecast's spread in that field."""
        eager_KNFHQ = self.eager.raw_KNFHQ
        spread_KNF = np.ptp(eager_KNFHQ, axis=(3, 4))
        return float((np.abs(self.compiled.raw_KNFHQ - eager_KNFHQ).max(axis=(3, 4)) / spread_KNF).max())

    @property
    def row(self):
        return Row(self.csv.symbol, self.csv_sha256, self.mae(self.eager), self.mae(self.compiled))


@dataclass(frozen=True)
class Measurement:
    """Comparisons of all available files, and facts of the model."""

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
    """Return contexts without missing bars, and the closes after each; the last has `HORIZON` bars after it.

    A missing bar raises an error, in a context or in its targets.
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
    """Load a new wrapper: eager, or with compiled code from `folder`, which is built if it is missing.

    It compares with eager in its first call only: the comparison is made here, without a fallback.
    """
    if folder is None:
        return Chronos2OHLCWrapper.from_pretrained("nano", compile="off")
    settings = CompileSettings(mode="on", folder=folder, sample_every=NEVER)
    wrapper = Chronos2OHLCWrapper.from_pretrained("nano", compile=settings)
    wrapper.warm_up([(WINDOWS, CONTEXT, HORIZON)])
    return wrapper


def timed(call):
    """Return the result of a call, and its milliseconds."""
    started = time.perf_counter()
    result = call()
    return result, 1e3 * (time.perf_counter() - started)


def collect(calls):
    """Collect the forecasts and milliseconds of all calls."""
    forecasts_KN, ms = zip(*calls, strict=True)
    return EngineForecasts(
        raw_KNFHQ=np.array([[forecast.raw_FHQ for forecast in forecasts] for forecasts in forecasts_KN]),
        median_KNH=np.array([[forecast.median("close") for forecast in forecasts] for forecasts in forecasts_KN]),
        engines=frozenset(
            (forecast.engine, forecast.provenance.engine_reason) for forecasts in forecasts_KN for forecast in forecasts
        ),
        ms=ms,
    )


def compare(csv, folder):
    """Forecast one file with two new wrappers, in turns."""
    contexts, actual_NH = make_windows(csv)
    wrappers = (load(), load(folder))
    calls = [[timed(partial(wrapper.predict, contexts, HORIZON)) for wrapper in wrappers] for _ in range(1 + ROUNDS)]
    for wrapper in wrappers:
        wrapper.unload()
    digest = hashlib.sha256(csv.path.read_bytes()).hexdigest()
    return Comparison(csv, digest, actual_NH, *map(collect, zip(*calls, strict=True)))


def measure():
    """Build the package once, then compare on every available file."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "compiled"
        wrapper, build_ms = timed(partial(load, folder))
        provenance = wrapper.predict(make_windows(HERE[0])[0][:1], HORIZON)[0].provenance
        wrapper.unload()
        return Measurement(
            comparisons=tuple(compare(csv, folder) for csv in HERE),
            weights_sha256=provenance.weights_sha256,
            device=provenance.device,
            max_context=wrapper.max_context,
            build_s=build_ms / 1e3,
        )


def faults(comparison):
    """Describe the faults of one file's compiled forecasts, in sentences; an empty list if there are none.

    Every condition negates the expected one, so that NaN is a fault.
    """
    symbol = comparison.csv.symbol
    problems = [
        f"{symbol}: expected compiled forecasts, found {engine}: {reason}"
        for engine, reason in comparison.compiled.engines
        if engine != "compiled"
    ]
    if {engine for engine, _ in comparison.eager.engines} != {"eager"}:
        problems.append(f"{symbol}: expected eager forecasts, found {set(comparison.eager.engines)}")
    if not comparison.mae_change < MAE_TOLERANCE:
        problems.append(f"{symbol}: expected ΔMAE below {MAE_TOLERANCE:g}, found {comparison.mae_change:.2g}")
    if not comparison.drift <= ENGINE_NOISE:
        limit, drift = f"{ENGINE_NOISE:g}", f"{comparison.drift:.2g}"
        problems.append(f"{symbol}: expected every element within {limit} of the forecast's spread, found {drift}")
    return problems


def table(measurement):
    """Format the table of results, with first call and steady state, below the facts of the machine."""
    lines = [
        TABLE.format(
            device=measurement.device,
            threads=torch.get_num_threads(),
            torch=torch.__version__,
            max_context=measurement.max_context,
            build_s=measurement.build_s,
        )
    ]
    for result in measurement.comparisons:
        eager, compiled = result.eager, result.compiled
        errors = (
            f"{result.mae(eager):,.4f} | {result.mae(compiled):,.4f} | {result.mae_change:.6f} | {result.drift:.1e}"
        )
        ms = " | ".join(f"{ms:,.2f}" for ms in (eager.ms[0], eager.steady_ms, compiled.ms[0], compiled.steady_ms))
        lines.append(f"| {result.csv.symbol} | {errors} | {ms} |")
    return "\n".join(lines)


def read_baseline(path=BASELINE):
    """Return the digest of the weights, in the first line, and the row of each file; the second line names columns."""
    weights_sha256, _, *lines = path.read_text(encoding="ascii").splitlines()
    rows = {}
    for line in lines:
        symbol, name, csv_sha256, eager_mae, compiled_mae = line.split()
        rows[name] = Row(symbol, csv_sha256, float(eager_mae), float(compiled_mae))
    return weights_sha256, rows


def write_baseline(measurement, path=BASELINE):
    """Write the results. Rows of files that are not available stay, unless the weights changed."""
    weights_sha256, rows = read_baseline(path) if path.exists() else ("", {})
    if weights_sha256 != measurement.weights_sha256:
        rows = {}
    rows |= {result.csv.path.name: result.row for result in measurement.comparisons}
    lines = [
        f"{row.symbol} {name} {row.csv_sha256} {row.eager_mae:.6f} {row.compiled_mae:.6f}"
        for name, row in sorted(rows.items())
    ]
    path.write_text("\n".join([measurement.weights_sha256, COLUMNS, *lines]) + "\n", encoding="ascii")


def conclude(measurement, path=BASELINE):
    """Print the table, then the faults, or write the baseline; return the exit code."""
    problems = [fault for comparison in measurement.comparisons for fault in faults(comparison)]
    print(table(measurement), "", *problems, sep="\n")  # noqa: T201 - the script's output
    if not problems:
        write_baseline(measurement, path)
        print(f"{path} is written.")  # noqa: T201 - as above
    return 1 if problems else 0


# Real measurements.


@pytest.fixture(scope="module")
def measured():
    return measure()


@pytest.mark.compiler
@pytest.mark.parametrize("position", range(len(HERE)), ids=[csv.symbol for csv in HERE])
def test_compiled_equals_eager_on_real_bars(measured, position):
    """Compiled code serves every call, and quantiles and mean error equal eager's within tolerance."""
    assert faults(measured.comparisons[position]) == []


@pytest.mark.compiler
def test_eager_errors_equal_the_baseline(measured):
    """For every file with the same bytes."""
    weights_sha256, rows = read_baseline()
    here = {result.csv.path.name: result.row for result in measured.comparisons}
    same = [name for name in here.keys() & rows.keys() if here[name].csv_sha256 == rows[name].csv_sha256]

    assert weights_sha256 == measured.weights_sha256, "the weights changed: write the baseline again"
    assert {name: here[name].eager_mae for name in same} == pytest.approx(
        {name: rows[name].eager_mae for name in same}, rel=1e-4
    )


# The baseline.


@pytest.mark.parametrize("csv", BUNDLED, ids=[csv.symbol for csv in BUNDLED])
def test_a_bundled_file_is_the_one_measured(csv):
    digest = hashlib.sha256(csv.path.read_bytes()).hexdigest()

    assert read_baseline()[1][csv.path.name].csv_sha256 == digest, "the csv changed: write the baseline again"


def test_every_file_has_a_baseline():
    """Also those not on this machine."""
    assert {name: row.symbol for name, row in read_baseline()[1].items()} == {
        csv.path.name: csv.symbol for csv in (*BUNDLED, *SHARED)
    }


def test_the_bundled_weights_are_those_measured():
    digest = hashlib.sha256((NANO_FOLDER / "model.safetensors").read_bytes()).hexdigest()

    assert read_baseline()[0] == digest, "the weights changed: write the baseline again"


# Conclusions from invented numbers.


def make_comparison(csv):
    """Two engines with equal forecasts, two calls for four windows."""
    random = np.random.default_rng(len(csv.symbol))
    raw_KNFHQ = np.stack([np.sort(2500 + random.normal(0, 30, (4, 4, HORIZON, 21)))] * 2)
    eager, compiled = (
        EngineForecasts(raw_KNFHQ, raw_KNFHQ[:, :, 3, :, 10], frozenset({(engine, "as asked")}), (30.0, 20.0))
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
    """Without drift of an element: on an index of 2,500 points, a ten-thousandth of the spread is larger."""
    eager = comparison.eager
    shifted = replace(comparison.compiled, raw_KNFHQ=eager.raw_KNFHQ, median_KNH=eager.median_KNH + change)
    below_NH = eager.median_KNH[0] - 1.0
    problems = faults(replace(comparison, actual_NH=below_NH, compiled=shifted))

    assert [fault.partition(", ")[0] for fault in problems] == ["SPX/USD: expected ΔMAE below 0.005"] * count


def test_a_forecast_by_the_other_engine_is_a_fault(comparison):
    """A wrapper that falls back has the right prices, but compares nothing."""
    mixed = replace(comparison.compiled, engines=comparison.compiled.engines | {("eager", "it failed")})

    assert faults(replace(comparison, compiled=mixed)) == [
        "SPX/USD: expected compiled forecasts, found eager: it failed"
    ]
    assert len(faults(replace(comparison, eager=mixed))) == 1


def test_the_script_writes_its_results(measurement, tmp_path, capsys):
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
