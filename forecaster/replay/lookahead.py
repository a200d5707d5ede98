"""Proof that nothing looks ahead: whatever becomes of the bars after a cutoff, no bit before it changes.

Each check has two worlds, alike up to a cutoff. In one the later bars are what came; in the other they are poisoned
at the source's own rows. Both go the whole way, through the source, the store, a replay and a live cycle, to the
strategy. The later bars lie in the store by then, and where a poison leaves them their times, their own cutoffs are
forecast in the same batch: whoever reaches for them finds them, and gives itself away by what it answers.

The first stage that differs is blamed, by name: the source, the context cut from the store, a model, the calibration.
The strategy is judged by itself: it gets the same forecast in both worlds.

Shapes: T bars, N cutoffs.
"""

from __future__ import annotations

import sys
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from traceback import walk_tb
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

import numpy as np

from forecaster.bars import Bars
from forecaster.cycle.predict import ask_all
from forecaster.engine import Forecaster
from forecaster.errors import InvalidContext, NotEnoughBars, utc_text
from forecaster.replay.batch_invariance import Failure, ProofReport, largest_share, silent
from forecaster.replay.replay import replay
from forecaster.replay.strategy import decisions
from forecaster.store.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from forecaster.bars import Context
    from forecaster.config import Config
    from forecaster.cycle.predict import Answers
    from forecaster.forecast import OHLCForecast
    from forecaster.ledger import CalibrationState
    from forecaster.model import Model
    from forecaster.replay.batch_invariance import OnCheck
    from forecaster.replay.strategy import Outlook, Position, Signal, Strategy
    from forecaster.sources import BarSource
    from forecaster.store import Store

    Poison: TypeAlias = Callable[[NDArray[np.float64], np.random.Generator], NDArray[np.float64]]

_SLOTS_WITH_HOLES: Final = 8
_COMPANY: Final = 2
_GONE: Final = 0.5


def _gaps(later_TF: NDArray[np.float64], random: np.random.Generator) -> NDArray[np.float64]:
    return np.where(random.random((len(later_TF), 1)) < _GONE, np.nan, later_TF)


POISONS: Final[Mapping[str, Poison]] = {
    "deleted": lambda later_TF, _: np.full_like(later_TF, np.nan),
    "gaps": _gaps,
    "x1e6": lambda later_TF, _: later_TF * 1e6,
    "shuffled": lambda later_TF, random: random.permutation(later_TF),
    "reversed": lambda later_TF, _: later_TF[::-1],
}
"""What is done to the rows after a cutoff. Bars cannot be NaN: a row that is, is not there."""


@dataclass(frozen=True)
class LookaheadPlan:
    """How many checks, and how far each reaches.

    Args:
        cutoffs: how many, drawn at random from the history; all there are where it has fewer.
        seed: of the cutoffs and the poisons.
        warm_up: forecasts before each cutoff, from which its calibration learns.
        later: bars after a cutoff that are there to be seen.
        poisons: names of `POISONS`.
    """

    cutoffs: int = 1000
    seed: int = 0
    warm_up: int = 4
    later: int = 64
    poisons: tuple[str, ...] = tuple(POISONS)


class Subject(NamedTuple):
    """What is to be proven in one world: its models, first the one that is calibrated, and its strategy, if any."""

    models: Sequence[Model]
    strategy: Strategy | None = None
    strategy_name: str = ""


@dataclass(frozen=True)
class Setting:
    """How the worlds of one series are made.

    Args:
        config: the configuration; its store and sources are not used.
        open_source: makes the source of a world from its rows.
        build: makes what is to be proven in a world, given its source and its store. What a model or strategy reaches
            for beside its arguments must come from these two, or no poison reaches it.
    """

    config: Config
    open_source: Callable[[Bars], BarSource]
    build: Callable[[BarSource, Store], Subject]


def verify_lookahead(setting: Setting, bars: Bars, plan: LookaheadPlan, on_check: OnCheck = silent) -> ProofReport:
    """Compare two worlds for each cutoff and poison. `on_check` hears how many were compared, and how many are to be.

    Raises:
        NotEnoughBars: when the history has no cutoff with enough bars on both sides.
        ForecasterError: when a forecast cannot be made although nothing was poisoned.
    """
    model = setting.config.model
    report = ProofReport()
    places = choose_places(bars, model.min_context, plan).tolist()
    for i in places:
        random = np.random.default_rng((plan.seed, i))
        window = bars[max(0, i - plan.warm_up - model.context + 1) : i + plan.later + 1]
        case = _case_at(bars.close_time, i, int(window.close_time[-1]), plan, random)
        true: dict[bool, _Observed] = {}
        for name in plan.poisons:
            other = _World(setting, poison(window, case.cutoff, name, random), case)
            if other.in_company not in true:
                true[other.in_company] = _observe(_World(setting, window, case, in_company=other.in_company))
            found = _differences(true[other.in_company], other)
            report.add([Failure(who, str(bars.key), case.cutoff, name, how) for who, how in found])
        on_check(report.checked, len(places) * len(plan.poisons))
    return report


def choose_places(bars: Bars, min_context: int, plan: LookaheadPlan) -> NDArray[np.int64]:
    """Draw the positions of the bars whose closes are the cutoffs, rising.

    Raises:
        NotEnoughBars: when there are none.
    """
    first, last = min_context - 1 + plan.warm_up, len(bars) - plan.later
    if first >= last:
        raise NotEnoughBars(bars.key, first + plan.later + 1, len(bars))
    count = min(plan.cutoffs, last - first)
    return np.sort(np.random.default_rng(plan.seed).choice(np.arange(first, last), count, replace=False))


def poison(bars: Bars, cutoff: int, name: str, random: np.random.Generator) -> Bars:
    """Give the bars with those that close after `cutoff` poisoned; what is no bar then, is not there."""
    known = len(bars.known_at(cutoff))
    changed_TF = POISONS[name](bars.ohlcv_TF[known:], random)
    return Bars.sift(bars.key, bars.open_time, np.concatenate([bars.ohlcv_TF[:known], changed_TF]))[0]


def shut_in(strategy: Strategy, name: str, paths: Iterable[Path]) -> Strategy:
    """Give the strategy, unable to open these files: what it reads by itself no poison reaches.

    It raises InvalidContext where it tries. Seen is what Python opens and what its SQLite does, while the strategy is
    called; not what a library opens by itself, and not what was read before.
    """
    _listen()
    forbidden = _Forbidden(name, frozenset(str(path.resolve()) for path in paths))

    def decide(forecast: OHLCForecast, position: Position, outlook: Outlook, /) -> Signal:
        token = _FORBIDDEN.set(forbidden)
        try:
            return strategy(forecast, position, outlook)
        finally:
            _FORBIDDEN.reset(token)

    return decide


class _Forbidden(NamedTuple):
    """Files that must stay closed, and who is being watched."""

    who: str
    paths: frozenset[str]


_FORBIDDEN: ContextVar[_Forbidden | None] = ContextVar("_FORBIDDEN", default=None)


@cache
def _listen() -> None:
    """Hear of every file that Python opens, from now on: an audit hook cannot be taken away."""
    sys.addaudithook(_refuse)


def _refuse(event: str, arguments: tuple[object, ...]) -> None:
    forbidden = _FORBIDDEN.get()
    if forbidden is None or event not in {"open", "sqlite3.connect"} or not isinstance(arguments[0], str | Path):
        return
    path = str(Path(str(arguments[0]).removeprefix("file:").partition("?")[0]).resolve())
    if path in forbidden.paths:
        raise InvalidContext(f"strategy {forbidden.who}", "one that decides from what it is given", f"it opened {path}")


class _Witness(MemoryStore):
    """A store that keeps every forecast at hand, in the order in which it was recorded."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[OHLCForecast] = []

    def add_forecasts(
        self, forecasts: Sequence[OHLCForecast], run_id: str, learned: Sequence[CalibrationState] = ()
    ) -> int:
        self.made += forecasts
        return super().add_forecasts(forecasts, run_id, learned)


class _Case(NamedTuple):
    """What is asked of a world.

    Args:
        cutoffs_N: what is forecast and compared; the last one is the cutoff.
        later_N: cutoffs after it, in whose company the others are forecast.
        end: UTC ms at which everything has come.
        holes_T: which of the last rows before the cutoff are missing in the source's second trial.
    """

    cutoffs_N: NDArray[np.int64]
    later_N: NDArray[np.int64]
    end: int
    holes_T: NDArray[np.bool_]

    @property
    def cutoff(self) -> int:
        return int(self.cutoffs_N[-1])


def _case_at(close_T: NDArray[np.int64], i: int, end: int, plan: LookaheadPlan, random: np.random.Generator) -> _Case:
    holes_T = random.random(_SLOTS_WITH_HOLES) < _GONE
    holes_T[-1] = True
    later_N = close_T[i + 1 : i + 1 + min(_COMPANY, plan.later)]
    return _Case(close_T[i - plan.warm_up : i + 1], later_N, end, holes_T)


class _Strict:
    """Has all models answer all contexts: what a baseline cannot answer without later bars is no reason to go on."""

    def __init__(self, forecaster: Forecaster) -> None:
        self._forecaster = forecaster
        self.model_ids = [one.id for one in forecaster.models]

    def __call__(self, batches: Iterable[list[Context]]) -> Iterator[Answers]:
        horizon = self._forecaster.config.model.horizon
        return (ask_all(self._forecaster.models, contexts, horizon) for contexts in batches)


class _World:
    """A source with rows of its own, and a program on it.

    Args:
        setting: how it is made.
        rows: what the source has.
        case: what is asked of it.
        in_company: whether later cutoffs are forecast in the same batch; where their bars are there, when left out.
    """

    def __init__(self, setting: Setting, rows: Bars, case: _Case, *, in_company: bool | None = None) -> None:
        self.in_company = bool(np.isin(case.later_N, rows.close_time).all()) if in_company is None else in_company
        self._case = case
        known = len(rows.known_at(case.cutoff))
        there_T = np.ones(len(rows), bool)
        there_T[known - len(case.holes_T) : known] = ~case.holes_T
        self.source = setting.open_source(rows)
        self._source_with_holes = setting.open_source(rows[there_T])
        store = _Witness()
        self.subject = setting.build(self.source, store)
        config = setting.config
        ours = config.model_copy(update={"series": tuple(one for one in config.series if one.key == rows.key)})
        self._made = store.made
        self._forecaster = Forecaster(ours, store, {rows.key: self.source}, self.subject.models)
        self._rows = rows

    def bars(self) -> list[Bars]:
        """What the source gives as of the cutoff, and of the bars before it as of the end; both with holes as well.

        A source may only fill a hole from what it knew; those right before the cutoff tell whether it does.
        """
        cutoff = self._case.cutoff
        return [
            one
            for source in (self.source, self._source_with_holes)
            for one in (self._fetch(source, cutoff), self._fetch(source, self._case.end).known_at(cutoff))
        ]

    def forecasts(self) -> list[OHLCForecast]:
        """What all models record in a replay of all cutoffs, and in a live cycle at the last of them."""
        cutoffs_N, later_N, end, _ = self._case
        history = self._fetch(self.source, end)
        self._forecaster.store.add_bars(history)  # a live ledger knows what came later, and no model may ask it
        cutoffs_N = np.append(cutoffs_N, later_N) if self.in_company else cutoffs_N
        replay(self._forecaster, history, cutoffs_N, ask=_Strict(self._forecaster))
        self._forecaster.run_cycle(self._rows.key.timeframe, self._case.cutoff)
        return [one for one in self._made if one.cutoff <= self._case.cutoff]

    def decisions(self, forecasts: Sequence[OHLCForecast]) -> list[str]:
        """What the strategy makes of the first model's forecasts, one after the other."""
        if self.subject.strategy is None:
            return []
        name = self.subject.models[0].name
        replayed = {one.cutoff: one for one in reversed(forecasts) if one.provenance.model_id == name}
        made = decisions(self.subject.strategy, [replayed[cutoff] for cutoff in sorted(replayed)], self._rows)
        return [f"{one.share:+.6g} at {one.made_at}: {one.reason}" for one in made]

    def _fetch(self, source: BarSource, as_of: int) -> Bars:
        return source.fetch(self._rows.key, None, as_of).bars


class _Observed(NamedTuple):
    """What a world showed that was not poisoned."""

    bars: list[Bars]
    forecasts: list[OHLCForecast]
    decisions: list[str]


def _observe(world: _World) -> _Observed:
    bars, forecasts = world.bars(), world.forecasts()
    return _Observed(bars, forecasts, world.decisions(forecasts))


def _differences(true: _Observed, world: _World) -> Iterator[tuple[str, str]]:
    """Who answered otherwise in a poisoned world, and how. A fault is an answer too."""
    source = f"source {type(world.source).__name__}"
    try:
        changed = [text for text in map(_bars_differ, true.bars, world.bars()) if text]
    except Exception as error:  # noqa: BLE001 - what a source raises only when later rows are poisoned is the finding
        changed = [_described(error)]
    if changed:
        yield source, changed[0]
        return
    try:
        yield from _forecasts_differ(true.forecasts, world.forecasts())
    except Exception as error:  # noqa: BLE001 - the same, of models
        yield _raised_by(error, world.subject.models), _described(error)
    try:
        decided = world.decisions(true.forecasts)
    except Exception as error:  # noqa: BLE001 - the same, of strategies
        decided = [_described(error)]
    if decided != true.decisions:
        was, now = next(pair for pair in zip(true.decisions, decided, strict=False) if pair[0] != pair[1])
        yield f"strategy {world.subject.strategy_name}", f"{was} became {now}"


def _bars_differ(one: Bars, other: Bars) -> str:
    if one.open_time.tolist() != other.open_time.tolist():
        return f"expected {len(one)} bars, found {len(other)}, or at other times"
    if one.ohlcv_TF.tobytes() == other.ohlcv_TF.tobytes():
        return ""
    row = int((one.ohlcv_TF.view(np.int64) != other.ohlcv_TF.view(np.int64)).any(axis=1).argmax())
    was, became = (bars.ohlcv_TF[row].tolist() for bars in (one, other))
    return f"bar of {utc_text(int(one.open_time[row]))}: {was} became {became}"


def _forecasts_differ(true: Sequence[OHLCForecast], found: Sequence[OHLCForecast]) -> Iterator[tuple[str, str]]:
    """The first difference of each that is to blame. What a model is given, and what it gives, excuse what follows."""
    if len(true) != len(found):
        yield "path", f"expected {len(true)} forecasts, found {len(found)}"
        return
    blamed = set()
    for one, other in zip(true, found, strict=True):
        name = one.provenance.model_id
        if one.provenance.input_sha256 != other.provenance.input_sha256:
            yield "context", f"{utc_text(other.cutoff)}: another input"
            return
        if name not in blamed and one.raw_FHQ.tobytes() != other.raw_FHQ.tobytes():
            blamed.add(name)
            yield f"model {name}", f"{utc_text(one.cutoff)}: {largest_share(one, other):.3g} of the spread"
    for one, other in zip(true, found, strict=True):
        name = one.provenance.model_id
        if name not in blamed and one.values_FHQ.tobytes() != other.values_FHQ.tobytes():
            blamed.add(name)
            yield f"calibration of {name}", f"{utc_text(one.cutoff)}: other values of the same raw ones"


def _raised_by(error: Exception, models: Sequence[Model]) -> str:
    """The model in whose call an error was raised."""
    for frame, _ in walk_tb(error.__traceback__):
        for model in models:
            if frame.f_locals.get("self") is model:
                return f"model {model.name}"
    return "path"


def _described(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
