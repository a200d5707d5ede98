"""Proof that live forecasts can be made again from what the ledger itself has kept.

A forecast's input is cut from the bars as they were known when it was issued; revisions that came later do not count.
Its digest, the model's raw numbers on it, and the values that calibration made of them must be those of the ledger. For
the calibration, all forecasts of a series are folded again in the order in which they were written, from their own raw
numbers, by the calibration that serves.

Shapes: F fields, H steps, Q quantile levels.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from forecaster.bars import Context
from forecaster.cycle.calibrate import Calibrations
from forecaster.errors import ConfigError, ForecasterError, InvalidContext, utc_text
from forecaster.forecast import ENGINE_NOISE, ModelId, repair
from forecaster.ledger import LIVE
from forecaster.replay.batch_invariance import NUMPY, Failure, ProofReport, silent
from forecaster.store.memory import MemoryStore
from forecaster.store.queries import SERIES, STEPS, Reading, series_names
from forecaster.store.records import read_forecast

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from forecaster.bars import SeriesKey
    from forecaster.config import Config
    from forecaster.forecast import OHLCForecast
    from forecaster.model import Model
    from forecaster.replay.batch_invariance import OnCheck
    from forecaster.store.queries import Asked

_LINES: Final = """
SELECT id, seq, cutoff, model_id, late FROM forecast WHERE series_id = :series AND run_id = :run ORDER BY seq"""
_ONE: Final = "SELECT cutoff, quantile_levels, issued_at, available_at, provenance FROM forecast WHERE id = :id"
_AT_ONCE: Final = 64
_LATE_SHARE: Final = 4


@dataclass(frozen=True)
class ParityPlan:
    """How many forecasts are made again, drawn by `seed`; up to a quarter of them late ones."""

    forecasts: int = 200
    seed: int = 0


class _Line(NamedTuple):
    """A forecast in the ledger: enough to find it."""

    key: SeriesKey
    id: int
    seq: int
    cutoff: int
    model_id: ModelId
    late: bool

    @property
    def model(self) -> str:
        return self.model_id.name

    def failure(self, what: str, difference: str) -> Failure:
        how = "recomputed, late" if self.late else "recomputed"
        return Failure(what, str(self.key), self.cutoff, how, difference)


class _Case(NamedTuple):
    """A forecast as the ledger has it, and what it was made from."""

    line: _Line
    forecast: OHLCForecast
    context: Context


def verify_parity(
    database: Asked, config: Config, models: Sequence[Model], plan: ParityPlan, on_check: OnCheck = silent
) -> ProofReport:
    """Make live forecasts of the configured series again: their raw numbers, and of the first model the calibration.

    A forecast and its calibration are two cases. Where the past of a series does not fit any more, that is one failure,
    and the calibrations behind it are left out; so are forecasts by models and weights that are not configured.

    Args:
        database: a ledger; nothing is written.
        config: names the series, how long contexts are, and whether the first model is calibrated.
        models: as configured, the first one first.
        plan: how many.
        on_check: hears how many forecasts have been read, and how many are to be.

    Raises:
        ConfigError: when no forecast is there to be made again.
        StoreUnavailable: when the ledger cannot be read.
    """
    ledger, report = _Ledger(database, config), ProofReport()
    names = {model.name for model in models}
    known = []
    for line in ledger.lines():
        if line.model in names:
            known.append(line)
        else:
            report.leave_out(f"model {line.model_id} is not configured")
    drawn = _draw(known, plan)
    if not drawn:
        raise ConfigError("store.url", "a ledger with live forecasts of the configured models", "none")
    pasts = _pasts(known, drawn, models[0].name) if config.model.calibrate else []
    total, done = len(drawn) + sum(map(len, pasts)), 0
    for some in [drawn[i : i + _AT_ONCE] for i in range(0, len(drawn), _AT_ONCE)]:
        _check_raw(ledger, some, models, report)
        done += len(some)
        on_check(done, total)
    for past in pasts:
        for i in _check_calibration(ledger, past, {line.id for line in drawn}, report):
            on_check(done + i, total)
        done += len(past)
    return report


class _Ledger:
    """What is asked of a ledger."""

    def __init__(self, database: Asked, config: Config) -> None:
        self._ask = database.ask
        self._reading = Reading(database)
        self._config = config

    def is_calibrated(self, model: str, models: Sequence[Model]) -> bool:
        """Whether forecasts of this model are served calibrated: those of the first one."""
        return self._config.model.calibrate and model == models[0].name

    def lines(self) -> Iterable[_Line]:
        """All live forecasts of the configured series, by series, in the order in which they were written."""
        for key in (one.key for one in self._config.series):
            for series in self._ask(SERIES, {**series_names(key), "run": LIVE}):
                for row in self._ask(_LINES, {"series": series.id, "run": LIVE}):
                    yield _Line(key, row.id, row.seq, row.cutoff, ModelId(row.model_id), bool(row.late))

    def rebuilt(self, line: _Line) -> _Case | Failure:
        """A forecast, and its input as the bars were known when it was issued; or why it cannot be had."""
        try:
            (row,) = self._ask(_ONE, {"id": line.id})
            forecast = read_forecast(line.key, row, self._ask(STEPS, {"id": line.id}))
        except (ForecasterError, ValueError, TypeError, KeyError) as error:
            return line.failure("row", f"cannot be read: {error}")
        try:
            return _Case(line, forecast, self._context(forecast))
        except ForecasterError as error:
            return line.failure("input", str(error))

    def _context(self, forecast: OHLCForecast) -> Context:
        key, cutoff, length = forecast.key, forecast.cutoff, self._config.model.context
        start = int(key.sessions.last_opens(key.timeframe, cutoff, length)[0])
        context = Context.ending_at(self._reading.bars(key, start, cutoff, forecast.issued_at), cutoff, length, 1)
        expected = forecast.provenance.input_sha256
        if context.sha256 != expected:
            found = f"{context.sha256[:12]} of the {length} slots known at {utc_text(forecast.issued_at)}"
            raise InvalidContext("input", f"digest {expected[:12]}", found)
        return context


def _draw(known: Sequence[_Line], plan: ParityPlan) -> list[_Line]:
    """Some forecasts, in the order of the ledger, late ones among them where there are any."""
    order = np.random.default_rng(plan.seed).permutation(len(known)).tolist()
    late = [i for i in order if known[i].late][: max(1, plan.forecasts // _LATE_SHARE)]
    rest = [i for i in order if i not in set(late)][: plan.forecasts - len(late)]
    return [known[i] for i in sorted(late + rest)]


def _pasts(known: Sequence[_Line], drawn: Sequence[_Line], model: str) -> list[list[_Line]]:
    """All forecasts of each series and weights of a model, up to the last one that was drawn."""
    last = {(line.key, line.model_id): line.seq for line in drawn if line.model == model}
    pasts: dict[tuple[SeriesKey, str], list[_Line]] = defaultdict(list)
    for line in known:
        if line.seq <= last.get((line.key, line.model_id), -1):
            pasts[line.key, line.model_id].append(line)
    return list(pasts.values())


def _check_raw(ledger: _Ledger, lines: Sequence[_Line], models: Sequence[Model], report: ProofReport) -> None:
    """Ask the models again, many contexts at once."""
    together: dict[tuple[str, int], list[_Case]] = defaultdict(list)
    for case in map(ledger.rebuilt, lines):
        if isinstance(case, Failure):
            report.add([case])
        else:
            together[case.line.model, case.forecast.horizon].append(case)
    by_name = {model.name: model for model in models}
    for (name, horizon), cases in together.items():
        for case, made in zip(cases, by_name[name].predict([one.context for one in cases], horizon), strict=True):
            if made.provenance.ledger_id != case.line.model_id:
                report.leave_out(f"weights of {case.line.model_id} are not configured")
            else:
                differs = _raw_differs(case, made, report)
                if not ledger.is_calibrated(name, models):
                    differs += _served_differs(case, repair(case.forecast.raw_FHQ), "repair")
                report.add(differs)


def _raw_differs(case: _Case, made: OHLCForecast, report: ProofReport) -> list[Failure]:
    """Compare bit by bit where numpy of the same version made both, else as engines are compared."""
    then, now = case.forecast.provenance, made.provenance
    exact = then.engine == NUMPY and then.library_versions == now.library_versions
    difference = report.compare(case.line.model, made, case.forecast, 0.0 if exact else ENGINE_NOISE)
    if not difference:
        return []
    versions = "" if then.library_versions == now.library_versions else f"; {then.library_versions} had made it"
    return [case.line.failure(f"model {case.line.model}", difference + versions)]


def _check_calibration(ledger: _Ledger, past: Sequence[_Line], wanted: set[int], report: ProofReport) -> Iterator[int]:
    """Fold the calibration of one series and model again, up to where it does not fit any more; yields how far."""
    calibrations = Calibrations(MemoryStore)
    for i, line in enumerate(past):
        case = ledger.rebuilt(line)
        if isinstance(case, Failure):
            found = [case]
        else:
            (values_FHQ,), _ = calibrations.apply([case.context], [case.forecast], LIVE)
            found = _served_differs(case, values_FHQ, "calibration")
        if line.id in wanted:
            report.add(found)
        else:
            report.failures += found
        if found:
            left = sum(one.id in wanted for one in past[i + 1 :])
            report.leave_out(f"calibration of {line.key} by {line.model_id}: its past does not fit", left)
            return
        yield i + 1


def _served_differs(case: _Case, values_FHQ: NDArray[np.float64], what: str) -> list[Failure]:
    if values_FHQ.tobytes() == case.forecast.values_FHQ.tobytes():
        return []
    largest = float(np.abs(values_FHQ / case.forecast.values_FHQ - 1).max())
    return [case.line.failure(f"{what} of {case.line.model}", f"up to {largest:.3g} of the price")]
