"""Test for look-ahead bias: changes to the bars after a cutoff must not change a bit before it.

Each check compares two scenarios that are equal up to a cutoff. One has the true later bars, the other perturbed ones,
changed in the rows of the source. Both go the whole way: source, store, replay, live cycle, strategy. The later bars
are in the store by then. If a perturbation keeps their times, two later cutoffs are also forecast in the same batch.

The first stage that differs is reported: the source, the context cut from the store, a model, or the calibration. The
strategy is tested separately: it receives the same forecasts in both scenarios.

Shapes: T bars, N cutoffs.
"""

from __future__ import annotations

import sys
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache, wraps
from pathlib import Path
from traceback import walk_tb
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

import numpy as np

from forecaster.bars import Bars
from forecaster.cycle.predict import predict_all
from forecaster.engine import Forecaster
from forecaster.errors import InvalidArgument, NotEnoughBars, format_time
from forecaster.replay.batch_invariance import Failure, VerificationReport, largest_difference, no_progress
from forecaster.replay.replay import run_replay
from forecaster.replay.strategy import run_strategy
from forecaster.store.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from forecaster.config import Config
    from forecaster.context import Context
    from forecaster.cycle.predict import Predictions
    from forecaster.forecast import OHLCForecast
    from forecaster.ledger import CalibrationState
    from forecaster.model import ModelSuite
    from forecaster.replay.batch_invariance import OnProgress
    from forecaster.replay.strategy import Position, Signal, Strategy, StrategyContext
    from forecaster.sources import BarSource
    from forecaster.store import Store

    Perturbation: TypeAlias = Callable[[NDArray[np.float64], np.random.Generator], NDArray[np.float64]]

_SLOTS_WITH_HOLES: Final = 8
_LATER_CUTOFFS: Final = 2
_MISSING_SHARE: Final = 0.5


def _gaps(later_TF: NDArray[np.float64], random: np.random.Generator) -> NDArray[np.float64]:
    return np.where(random.random((len(later_TF), 1)) < _MISSING_SHARE, np.nan, later_TF)


PERTURBATIONS: Final[Mapping[str, Perturbation]] = {
    "deleted": lambda later_TF, _: np.full_like(later_TF, np.nan),
    "gaps": _gaps,
    "x1e6": lambda later_TF, _: later_TF * 1e6,
    "shuffled": lambda later_TF, random: random.permutation(later_TF),
    "reversed": lambda later_TF, _: later_TF[::-1],
}
"""Changes to the rows after a cutoff, by name. A row of NaN is a missing bar."""


@dataclass(frozen=True)
class LookaheadPlan:
    """Number and reach of the checks.

    Args:
        cutoffs: number of cutoffs, drawn at random from the history; at most those that it has.
        seed: of the cutoffs and the perturbations.
        warm_up: forecasts before each cutoff, from which its calibration learns.
        bars_after: bars after a cutoff in both scenarios.
        perturbations: names of `PERTURBATIONS`.
    """

    cutoffs: int = 1000
    seed: int = 0
    warm_up: int = 4
    bars_after: int = 64
    perturbations: tuple[str, ...] = tuple(PERTURBATIONS)


class Subject(NamedTuple):
    """The models and the strategy, if any, that are tested in one scenario."""

    models: ModelSuite
    strategy: Strategy | None = None
    strategy_name: str = ""


@dataclass(frozen=True)
class LookaheadSetup:
    """How the scenarios of one series are made.

    Args:
        config: the configuration; its store and sources are not used.
        open_source: makes the source of a scenario from its rows.
        build: makes the subject of a scenario from its source and store. Whatever else a model or strategy reads must
            come from these two: other inputs are not perturbed.
    """

    config: Config
    open_source: Callable[[Bars], BarSource]
    build: Callable[[BarSource, Store], Subject]


def verify_lookahead(
    setup: LookaheadSetup, bars: Bars, plan: LookaheadPlan, on_progress: OnProgress = no_progress
) -> VerificationReport:
    """Compare two scenarios for each cutoff and perturbation.

    Raises:
        NotEnoughBars: if the history has no cutoff with enough bars before and after it.
        ForecasterError: if a forecast fails although nothing was perturbed.
    """
    model = setup.config.model
    report = VerificationReport()
    positions = draw_positions(bars, model.min_context, plan).tolist()
    for i in positions:
        random = np.random.default_rng((plan.seed, i))
        window = bars[max(0, i - plan.warm_up - model.context + 1) : i + plan.bars_after + 1]
        case = _case_at(bars.close_time, i, int(window.close_time[-1]), plan, random)
        expected: dict[bool, _Observed] = {}
        for name in plan.perturbations:
            perturbed = _Scenario(setup, perturb(window, case.cutoff, name, random), case)
            with_later = perturbed.with_later_cutoffs
            if with_later not in expected:
                expected[with_later] = _observe(_Scenario(setup, window, case, with_later_cutoffs=with_later))
            differences = _differences(expected[with_later], perturbed)
            report.add([Failure(component, str(bars.key), case.cutoff, name, how) for component, how in differences])
        on_progress(report.checked, len(positions) * len(plan.perturbations))
    return report


def draw_positions(bars: Bars, min_context: int, plan: LookaheadPlan) -> NDArray[np.int64]:
    """Draw the positions of the bars whose closes are the cutoffs, in time order.

    Raises:
        NotEnoughBars: if there are none.
    """
    first, last = min_context - 1 + plan.warm_up, len(bars) - plan.bars_after
    if first >= last:
        raise NotEnoughBars(bars.key, first + plan.bars_after + 1, len(bars))
    count = min(plan.cutoffs, last - first)
    return np.sort(np.random.default_rng(plan.seed).choice(np.arange(first, last), count, replace=False))


def perturb(bars: Bars, cutoff: int, name: str, random: np.random.Generator) -> Bars:
    """Return the bars with those that close after `cutoff` perturbed; rows that are no valid bars are dropped."""
    known = len(bars.closed_by(cutoff))
    changed_TF = PERTURBATIONS[name](bars.ohlcv_TF[known:], random)
    return Bars.validate_rows(bars.key, bars.open_time, np.concatenate([bars.ohlcv_TF[:known], changed_TF]))[0]


def forbid_files(strategy: Strategy, name: str, paths: Iterable[Path]) -> Strategy:
    """Return the strategy, unable to open these files: what it reads from them is not perturbed.

    It raises InvalidArgument if it opens one during a call. Detected are files opened by Python and by its SQLite; not
    files opened by a library's own code, and not what was read before.
    """
    _install_audit_hook()
    forbidden = _Forbidden(name, frozenset(str(path.resolve()) for path in paths))

    @wraps(strategy)
    def call(forecast: OHLCForecast, position: Position, context: StrategyContext, /) -> Signal:
        token = _FORBIDDEN.set(forbidden)
        try:
            return strategy(forecast, position, context)
        finally:
            _FORBIDDEN.reset(token)

    return call


class _Forbidden(NamedTuple):
    """Files that a strategy must not open, and its name."""

    strategy: str
    paths: frozenset[str]


_FORBIDDEN: ContextVar[_Forbidden | None] = ContextVar("_FORBIDDEN", default=None)


@cache
def _install_audit_hook() -> None:
    """Watch every file that Python opens, from now on: an audit hook cannot be removed."""
    sys.addaudithook(_refuse)


def _refuse(event: str, arguments: tuple[object, ...]) -> None:
    forbidden = _FORBIDDEN.get()
    if forbidden is None or event not in {"open", "sqlite3.connect"} or not isinstance(arguments[0], str | Path):
        return
    path = str(Path(str(arguments[0]).removeprefix("file:").partition("?")[0]).resolve())
    if path in forbidden.paths:
        raise InvalidArgument(
            f"strategy {forbidden.strategy}", "decisions from its arguments alone", f"it opened {path}"
        )


class _RecordingStore(MemoryStore):
    """A store that also keeps every forecast in the order of recording."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[OHLCForecast] = []

    def add_forecasts(
        self, forecasts: Sequence[OHLCForecast], run_id: str, learned: Sequence[CalibrationState] = ()
    ) -> int:
        self.made += forecasts
        return super().add_forecasts(forecasts, run_id, learned)


class _Case(NamedTuple):
    """The cutoffs of one check.

    Args:
        cutoffs_N: cutoffs that are forecast and compared; the last one is the cutoff of the check.
        later_N: later cutoffs, forecast in the same batch.
        end: UTC ms at which all bars have closed.
        holes_T: which of the last rows before the cutoff are missing in the second source.
    """

    cutoffs_N: NDArray[np.int64]
    later_N: NDArray[np.int64]
    end: int
    holes_T: NDArray[np.bool_]

    @property
    def cutoff(self) -> int:
        return int(self.cutoffs_N[-1])


def _case_at(close_T: NDArray[np.int64], i: int, end: int, plan: LookaheadPlan, random: np.random.Generator) -> _Case:
    holes_T = random.random(_SLOTS_WITH_HOLES) < _MISSING_SHARE
    holes_T[-1] = True
    later_N = close_T[i + 1 : i + 1 + min(_LATER_CUTOFFS, plan.bars_after)]
    return _Case(close_T[i - plan.warm_up : i + 1], later_N, end, holes_T)


class _StrictPredictor:
    """Requires a forecast of every model for every context: a baseline that fails without later bars is an error."""

    def __init__(self, forecaster: Forecaster) -> None:
        self._forecaster = forecaster
        self.model_ids = [model.id for model in forecaster.models]

    def __call__(self, batches: Iterable[list[Context]]) -> Iterator[Predictions]:
        horizon = self._forecaster.config.model.horizon
        return (predict_all(self._forecaster.models, contexts, horizon) for contexts in batches)


class _Scenario:
    """A source with its own rows, and a program on it.

    Args:
        setup: how it is made.
        rows: rows of the source.
        case: cutoffs.
        with_later_cutoffs: whether later cutoffs are forecast in the same batch; by default, if their bars exist.
    """

    def __init__(
        self, setup: LookaheadSetup, rows: Bars, case: _Case, *, with_later_cutoffs: bool | None = None
    ) -> None:
        has_later = bool(np.isin(case.later_N, rows.close_time).all())
        self.with_later_cutoffs = has_later if with_later_cutoffs is None else with_later_cutoffs
        self._case = case
        known = len(rows.closed_by(case.cutoff))
        kept_T = np.ones(len(rows), bool)
        kept_T[known - len(case.holes_T) : known] = ~case.holes_T
        self.source = setup.open_source(rows)
        self._source_with_holes = setup.open_source(rows[kept_T])
        store = _RecordingStore()
        self.subject = setup.build(self.source, store)
        series = tuple(entry for entry in setup.config.series if entry.key == rows.key)
        config = setup.config.model_copy(update={"series": series})
        self._made = store.made
        self._forecaster = Forecaster(config, store, {rows.key: self.source}, self.subject.models)
        self._rows = rows

    def bars(self) -> list[Bars]:
        """Return the source's bars as of the cutoff, and the same bars as of the end; each without and with holes.

        A source may fill a hole only from what it knew: the holes right before the cutoff test that.
        """
        cutoff = self._case.cutoff
        return [
            bars
            for source in (self.source, self._source_with_holes)
            for bars in (self._fetch(source, cutoff), self._fetch(source, self._case.end).closed_by(cutoff))
        ]

    def forecasts(self) -> list[OHLCForecast]:
        """Return what all models record in a replay of all cutoffs and in a live cycle at the last of them."""
        cutoffs_N, later_N, end, _ = self._case
        history = self._fetch(self.source, end)
        self._forecaster.store.add_bars(history)  # the ledger holds later bars, which no model may use
        cutoffs_N = np.append(cutoffs_N, later_N) if self.with_later_cutoffs else cutoffs_N
        run_replay(self._forecaster, history, cutoffs_N, predictor=_StrictPredictor(self._forecaster))
        self._forecaster.run_cycle(self._rows.key.timeframe, self._case.cutoff)
        return [forecast for forecast in self._made if forecast.cutoff <= self._case.cutoff]

    def decisions(self, forecasts: Sequence[OHLCForecast]) -> list[str]:
        """Return the strategy's decisions on the primary model's forecasts."""
        if self.subject.strategy is None:
            return []
        name = self.subject.models.primary.name
        replayed = {made.cutoff: made for made in reversed(forecasts) if made.provenance.model_id == name}
        decisions = run_strategy(self.subject.strategy, [replayed[cutoff] for cutoff in sorted(replayed)], self._rows)
        return [f"{made.weight:+.6g} at {made.decided_at}: {made.reason}" for made in decisions]

    def _fetch(self, source: BarSource, as_of: int) -> Bars:
        return source.fetch(self._rows.key, None, as_of).bars


class _Observed(NamedTuple):
    """The results of an unperturbed scenario."""

    bars: list[Bars]
    forecasts: list[OHLCForecast]
    decisions: list[str]


def _observe(scenario: _Scenario) -> _Observed:
    bars, forecasts = scenario.bars(), scenario.forecasts()
    return _Observed(bars, forecasts, scenario.decisions(forecasts))


def _differences(expected: _Observed, perturbed: _Scenario) -> Iterator[tuple[str, str]]:
    """Yield the components that differ in a perturbed scenario, and how. An error is a difference too."""
    source = f"source {type(perturbed.source).__name__}"
    try:
        changed = [text for text in map(_bars_differ, expected.bars, perturbed.bars()) if text]
    except Exception as error:  # noqa: BLE001 - an error that only perturbed rows cause is the finding
        changed = [_described(error)]
    if changed:
        yield source, changed[0]
        return
    try:
        yield from _forecasts_differ(expected.forecasts, perturbed.forecasts())
    except Exception as error:  # noqa: BLE001 - the same, of models
        yield _raised_by(error, perturbed.subject.models), _described(error)
    try:
        decisions = perturbed.decisions(expected.forecasts)
    except Exception as error:  # noqa: BLE001 - the same, of strategies
        decisions = [_described(error)]
    if decisions != expected.decisions:
        pairs = zip(expected.decisions, decisions, strict=False)
        before, after = next(pair for pair in pairs if pair[0] != pair[1])
        yield f"strategy {perturbed.subject.strategy_name}", f"{before} became {after}"


def _bars_differ(expected: Bars, actual: Bars) -> str:
    if expected.open_time.tolist() != actual.open_time.tolist():
        return f"expected {len(expected)} bars, found {len(actual)}, or at other times"
    if expected.ohlcv_TF.tobytes() == actual.ohlcv_TF.tobytes():
        return ""
    row = int((expected.ohlcv_TF.view(np.int64) != actual.ohlcv_TF.view(np.int64)).any(axis=1).argmax())
    before, after = (bars.ohlcv_TF[row].tolist() for bars in (expected, actual))
    return f"bar of {format_time(int(expected.open_time[row]))}: {before} became {after}"


def _forecasts_differ(expected: Sequence[OHLCForecast], actual: Sequence[OHLCForecast]) -> Iterator[tuple[str, str]]:
    """Yield the first difference of each component. A changed input or raw forecast explains what follows from it."""
    if len(expected) != len(actual):
        yield "path", f"expected {len(expected)} forecasts, found {len(actual)}"
        return
    reported = set()
    for before, after in zip(expected, actual, strict=True):
        name = before.provenance.model_id
        if before.provenance.input_sha256 != after.provenance.input_sha256:
            yield "context", f"{format_time(after.cutoff)}: another input"
            return
        if name not in reported and before.raw_FHQ.tobytes() != after.raw_FHQ.tobytes():
            reported.add(name)
            yield (
                f"model {name}",
                f"{format_time(before.cutoff)}: {largest_difference(before, after):.3g} of the spread",
            )
    for before, after in zip(expected, actual, strict=True):
        name = before.provenance.model_id
        if name not in reported and before.values_FHQ.tobytes() != after.values_FHQ.tobytes():
            reported.add(name)
            yield f"calibration of {name}", f"{format_time(before.cutoff)}: other values of the same raw ones"


def _raised_by(error: Exception, models: ModelSuite) -> str:
    """Return the model in whose call an error was raised."""
    for frame, _ in walk_tb(error.__traceback__):
        for model in models:
            if frame.f_locals.get("self") is model:
                return f"model {model.name}"
    return "path"


def _described(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
