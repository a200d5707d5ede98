"""Test that live forecasts can be reproduced from what the ledger holds.

The input of a forecast is cut from the bars as they were known when it was issued; later revisions do not count. Its
digest, the model's raw numbers on it, and the calibrated values must equal those in the ledger. For the calibration,
all forecasts of a series are calibrated again from their raw numbers, in the order in which they were written.

Shapes: F fields, H steps, Q quantile levels.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from forecaster.context import Context
from forecaster.cycle.calibrate import Calibrations
from forecaster.errors import ConfigError, ForecasterError, InvalidArgument, format_time
from forecaster.forecast import ENGINE_NOISE, ModelId, repair
from forecaster.ledger import LIVE
from forecaster.replay.batch_invariance import NUMPY, Failure, VerificationReport, no_progress
from forecaster.store.memory import MemoryStore
from forecaster.store.queries import LedgerQueries

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from forecaster.bars import SeriesKey
    from forecaster.config import Config
    from forecaster.forecast import OHLCForecast
    from forecaster.model import ModelSuite
    from forecaster.replay.batch_invariance import OnProgress
    from forecaster.store.queries import QueryRunner

_AT_ONCE: Final = 64
_LATE_SHARE: Final = 4


@dataclass(frozen=True)
class ParityPlan:
    """Number of forecasts to reproduce, drawn by `seed`; up to a quarter of them are late ones."""

    forecasts: int = 200
    seed: int = 0


class _Entry(NamedTuple):
    """A forecast in the ledger: where to find it."""

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
    """A forecast as recorded, and its input."""

    entry: _Entry
    forecast: OHLCForecast
    context: Context


def verify_parity(
    database: QueryRunner, config: Config, models: ModelSuite, plan: ParityPlan, on_progress: OnProgress = no_progress
) -> VerificationReport:
    """Reproduce live forecasts of the configured series: the raw numbers, and the primary model's calibration.

    A forecast and its calibration are two cases. If the history of a series cannot be reproduced, that is one failure,
    and the later calibrations are left out; so are forecasts by models and weights that are not configured.

    Args:
        database: a ledger; nothing is written.
        config: names the series, the context length, and whether the primary model is calibrated.
        models: as configured.
        plan: number of forecasts.
        on_progress: called with the number of forecasts read and the total.

    Raises:
        ConfigError: if the ledger has no such forecast.
        StoreUnavailable: if the ledger cannot be read.
    """
    ledger, report = _Ledger(database, config), VerificationReport()
    names = {model.name for model in models}
    configured = []
    for entry in ledger.entries():
        if entry.model in names:
            configured.append(entry)
        else:
            report.leave_out(f"model {entry.model_id} is not configured")
    drawn = _draw(configured, plan)
    if not drawn:
        raise ConfigError("store.url", "a ledger with live forecasts of the configured models", "none")
    histories = _histories(configured, drawn, models.primary.name) if config.model.calibrate else []
    total, done = len(drawn) + sum(map(len, histories)), 0
    for part in [drawn[i : i + _AT_ONCE] for i in range(0, len(drawn), _AT_ONCE)]:
        _check_raw(ledger, part, models, report)
        done += len(part)
        on_progress(done, total)
    for history in histories:
        for i in _check_calibration(ledger, history, {entry.id for entry in drawn}, report):
            on_progress(done + i, total)
        done += len(history)
    return report


class _Ledger:
    """Reads forecasts and their inputs."""

    def __init__(self, database: QueryRunner, config: Config) -> None:
        self._queries = LedgerQueries(database)
        self._config = config

    def is_calibrated(self, model: str, models: ModelSuite) -> bool:
        """Return whether forecasts of this model are served calibrated: only the primary model's are."""
        return self._config.model.calibrate and model == models.primary.name

    def entries(self) -> Iterable[_Entry]:
        """Yield all live forecasts of the configured series, by series, in the order of writing."""
        for key in (series.key for series in self._config.series):
            for row in self._queries.forecast_index(key):
                yield _Entry(key, row.id, row.seq, row.cutoff, ModelId(row.model_id), bool(row.late))

    def rebuilt(self, entry: _Entry) -> _Case | Failure:
        """Return a forecast and its input, from the bars known when it was issued; or a failure."""
        try:
            forecast = self._queries.forecast_by_id(entry.key, entry.id)
        except (ForecasterError, ValueError, TypeError, KeyError) as error:
            return entry.failure("row", f"cannot be read: {error}")
        try:
            return _Case(entry, forecast, self._context(forecast))
        except ForecasterError as error:
            return entry.failure("input", str(error))

    def _context(self, forecast: OHLCForecast) -> Context:
        key, cutoff, length = forecast.key, forecast.cutoff, self._config.model.context
        start = int(key.trading_calendar.last_opens(key.timeframe, cutoff, length)[0])
        context = Context.ending_at(self._queries.bars(key, start, cutoff, forecast.issued_at), cutoff, length, 1)
        expected = forecast.provenance.input_sha256
        if context.sha256 != expected:
            actual = f"{context.sha256[:12]} of the {length} slots known at {format_time(forecast.issued_at)}"
            raise InvalidArgument("input", f"digest {expected[:12]}", actual)
        return context


def _draw(entries: Sequence[_Entry], plan: ParityPlan) -> list[_Entry]:
    """Draw forecasts, in the order of the ledger; late ones among them if there are any."""
    order = np.random.default_rng(plan.seed).permutation(len(entries)).tolist()
    late = [i for i in order if entries[i].late][: max(1, plan.forecasts // _LATE_SHARE)]
    rest = [i for i in order if i not in set(late)][: plan.forecasts - len(late)]
    return [entries[i] for i in sorted(late + rest)]


def _histories(entries: Sequence[_Entry], drawn: Sequence[_Entry], model: str) -> list[list[_Entry]]:
    """Return all forecasts of each series and weights of a model, up to the last one that was drawn."""
    last = {(entry.key, entry.model_id): entry.seq for entry in drawn if entry.model == model}
    histories: dict[tuple[SeriesKey, str], list[_Entry]] = defaultdict(list)
    for entry in entries:
        if entry.seq <= last.get((entry.key, entry.model_id), -1):
            histories[entry.key, entry.model_id].append(entry)
    return list(histories.values())


def _check_raw(ledger: _Ledger, entries: Sequence[_Entry], models: ModelSuite, report: VerificationReport) -> None:
    """Call the models again, with many contexts at once."""
    batches: dict[tuple[str, int], list[_Case]] = defaultdict(list)
    for case in map(ledger.rebuilt, entries):
        if isinstance(case, Failure):
            report.add([case])
        else:
            batches[case.entry.model, case.forecast.horizon].append(case)
    by_name = {model.name: model for model in models}
    for (name, horizon), cases in batches.items():
        for case, made in zip(cases, by_name[name].predict([case.context for case in cases], horizon), strict=True):
            if made.provenance.ledger_id != case.entry.model_id:
                report.leave_out(f"weights of {case.entry.model_id} are not configured")
            else:
                differs = _raw_differs(case, made, report)
                if not ledger.is_calibrated(name, models):
                    differs += _served_differs(case, repair(case.forecast.raw_FHQ), "repair")
                report.add(differs)


def _raw_differs(case: _Case, made: OHLCForecast, report: VerificationReport) -> list[Failure]:
    """Compare bit by bit where numpy of the same version made both, else as engines are compared."""
    then, now = case.forecast.provenance, made.provenance
    exact = then.engine == NUMPY and then.library_versions == now.library_versions
    difference = report.compare(case.entry.model, made, case.forecast, 0.0 if exact else ENGINE_NOISE)
    if not difference:
        return []
    versions = "" if then.library_versions == now.library_versions else f"; {then.library_versions} had made it"
    return [case.entry.failure(f"model {case.entry.model}", difference + versions)]


def _check_calibration(
    ledger: _Ledger, history: Sequence[_Entry], drawn: set[int], report: VerificationReport
) -> Iterator[int]:
    """Calibrate the forecasts of one series and model again, up to the first difference; yield the number done."""
    calibrations = Calibrations(MemoryStore)
    for i, entry in enumerate(history):
        case = ledger.rebuilt(entry)
        if isinstance(case, Failure):
            failures = [case]
        else:
            (values_FHQ,), _ = calibrations.apply([case.context], [case.forecast], LIVE)
            failures = _served_differs(case, values_FHQ, "calibration")
        if entry.id in drawn:
            report.add(failures)
        else:
            report.failures += failures
        if failures:
            remaining = sum(later.id in drawn for later in history[i + 1 :])
            report.leave_out(f"calibration of {entry.key} by {entry.model_id}: its history differs", remaining)
            return
        yield i + 1


def _served_differs(case: _Case, values_FHQ: NDArray[np.float64], what: str) -> list[Failure]:
    if values_FHQ.tobytes() == case.forecast.values_FHQ.tobytes():
        return []
    largest = float(np.abs(values_FHQ / case.forecast.values_FHQ - 1).max())
    return [case.entry.failure(f"{what} of {case.entry.model}", f"up to {largest:.3g} of the price")]
