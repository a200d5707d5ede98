"""What a ledger says of its own forecasts: it is read step by step, measured, and judged by `accuracy`.

Shapes: N steps.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from forecaster.accuracy.loss_series import Traces
from forecaster.accuracy.losses import SCALE_BARS, measure, measure_all
from forecaster.accuracy.report.content import Fan, Gathering, Scene, Section
from forecaster.accuracy.scores import RAW, SERVED, Scores
from forecaster.accuracy.trust import TRUSTED_CUTOFFS, Trust, Verdict, judge, may_be_best, trust
from forecaster.errors import ConfigError
from forecaster.ledger import LIVE, RunId
from forecaster.timeframe import DAY_MS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from forecaster.accuracy.losses import Losses
    from forecaster.accuracy.report.content import Scope
    from forecaster.accuracy.scores import Group
    from forecaster.bars import Bars, SeriesKey
    from forecaster.ledger import SettledSteps
    from forecaster.store import Reader

FORMS: Final = (SERVED, RAW)
BARS_BEFORE: Final = 40
"""How many bars are shown before a fan."""

_LISTED: Final = 20
"""How many known runs an error names."""

_AT_ONCE: Final = 32
"""How many series are measured at once: with more, what is worked on no longer fits into the processor's cache."""


@dataclass(frozen=True)
class Assessment:
    """Sums and verdicts of a run.

    `coverage80` is by series, model and form, over the fields and steps of the verdicts; `may_be_best` the models of
    each series that no other surely beats.
    """

    scores: Scores
    verdicts: list[Verdict]
    coverage80: dict[tuple[SeriesKey, str, str], float | None]
    may_be_best: dict[SeriesKey, frozenset[str]]


def settled_losses(
    reader: Reader, keys: Iterable[SeriesKey], as_of: int, since: int | None = None, run_id: str = LIVE
) -> Iterator[Losses]:
    """Measure what settled of these series in (since, as_of] (UTC ms), series by series, in the order of cutoffs."""
    for key in keys:
        for steps in reader.settled(key, as_of, since, run_id):
            yield _measure(reader, steps, as_of)


def with_cutoffs(losses: Iterable[Losses], start: int, end: int) -> Iterator[Losses]:
    """Only the losses of cutoffs in [start, end), UTC ms."""
    for one in losses:
        yield one[(one.steps.cutoff_N >= start) & (one.steps.cutoff_N < end)]


def arrived_losses(reader: Reader, as_of: int, since: int) -> list[Losses]:
    """Measure the live forecasts, of all series, whose target bars arrived in (since, as_of]."""
    pairs = [(steps, _bars_before(reader, steps, as_of)) for steps in reader.arrived(as_of, since)]
    some = range(0, len(pairs), _AT_ONCE)
    return [one for first in some for one in measure_all(pairs[first : first + _AT_ONCE])]


def assess(
    losses: Iterable[Losses], field: str | None = None, step: int | None = None, rival: str | None = None
) -> Assessment:
    """Score and judge every model on every series, as it was served, and as it gave them where that differs.

    The rival is another model's name, of which the newest revision counts; the random walk when left out. A series that
    the rival has not forecast has scores and no verdict.
    """
    scores, traces = Scores(), Traces()
    for one in losses:
        scores.add(one)
        traces.add(one)
    groups: dict[tuple[SeriesKey, str, str], list[Group]] = defaultdict(list)
    for group in scores.groups:
        if not group.late:
            groups[group.key, group.model_id, group.form].append(group)
    rivals = {key: model_id for key, model_id in traces.names if model_id.name == rival}
    found: list[Verdict] = []
    coverage: dict[tuple[SeriesKey, str, str], float | None] = {}
    for key, model_id in traces.names:
        totals = {form: scores.sum_of(groups[key, model_id, form], field, step) for form in FORMS}
        same = np.array_equal(totals[SERVED].sums_C, totals[RAW].sums_C, equal_nan=True)
        forms = FORMS[:1] if same else FORMS
        if rival is None or key in rivals:
            found += [judge(traces, (key, model_id), form, field, step, rivals.get(key)) for form in forms]
        coverage |= {(key, model_id, form): totals[form].coverage(80) for form in forms}
    best = {key: may_be_best(traces, key, field, step) for key in dict.fromkeys(key for key, _ in traces.names)}
    return Assessment(scores, found, coverage, best)


def rebuild(
    reader: Reader, keys: Iterable[SeriesKey], as_of: int, since: int | None = None, run_id: str = LIVE
) -> Scores:
    """Score the same rows in another way: each cutoff read, measured and counted alone, the last first."""
    scores = Scores()
    for key in keys:
        for steps in reader.settled(key, as_of, since, run_id):
            for cutoff in np.unique(steps.cutoff_N)[::-1]:
                scores.merge(Scores([_measure(reader, steps[steps.cutoff_N == cutoff], as_of)]))
    return scores


def trust_in(reader: Reader, key: SeriesKey, model_name: str, step: int, as_of: int) -> Trust | None:
    """Say how far the live forecasts of a model can be trusted; None when none has settled yet.

    Trust is in the revision that made the newest forecast: what another one did says nothing of it.
    """
    newest = reader.latest(key, model_name, as_of=as_of)
    if newest is None:
        return None
    since = int(key.sessions.last_opens(key.timeframe, as_of, TRUSTED_CUTOFFS)[0])
    traces = Traces(settled_losses(reader, [key], as_of, since))
    model_id = newest.provenance.ledger_id
    if (key, model_id) not in traces.names:
        return None
    return trust(traces, key, model_id, step, is_fresh=not newest.is_stale(as_of))


def section(reader: Reader, key: SeriesKey, scope: Scope, on_losses: Callable[[Losses], object]) -> Section:
    """Gather what the report says of one series; `on_losses` is told what has been read. A replay has no trust."""
    gathering = Gathering(scope.model_name)
    for losses in settled_losses(reader, [key], scope.as_of, scope.since, scope.run_id):
        gathering.add(losses)
        on_losses(losses)
    newest = reader.latest(key, scope.model_name, scope.run_id, scope.as_of)
    fans = {"The newest forecast whose whole horizon has settled": gathering.fan}
    fans["The newest forecast"] = None if newest is None else Fan.of(newest)
    scenes = tuple(_scene(reader, key, title, fan, scope) for title, fan in fans.items() if fan is not None)
    trusted = trust_in(reader, key, scope.model_name, 1, scope.as_of) if scope.run_id == LIVE else None
    return Section(key, newest, trusted, gathering.evidence(key), scenes)


def _scene(reader: Reader, key: SeriesKey, title: str, fan: Fan, scope: Scope) -> Scene:
    start = int(key.sessions.last_opens(key.timeframe, fan.cutoff, BARS_BEFORE)[0])
    end = int(fan.target_open_H[-1]) + 1
    return Scene(title, fan, reader.bars(key, start, end, scope.as_of, scope.run_id))


def _measure(reader: Reader, steps: SettledSteps, as_of: int) -> Losses:
    return measure(steps, _bars_before(reader, steps, as_of))


def _bars_before(reader: Reader, steps: SettledSteps, as_of: int) -> Bars:
    """The bars that `measure` needs."""
    key, first, last = steps.key, int(steps.cutoff_N.min()), int(steps.cutoff_N.max())
    start = int(key.sessions.last_opens(key.timeframe, first, SCALE_BARS + 1)[0])
    return reader.bars(key, start, last, as_of, steps.run_id)


def check_run(reader: Reader, run_id: str) -> None:
    """Refuse a run that is not in the ledger.

    Raises:
        ConfigError: names the newest runs that are.
    """
    runs, recorded = {run.id: run.door for run in reader.runs()}, RunId(run_id).recorded
    is_to_come = run_id == LIVE and "replay" not in runs.values()
    is_moved = recorded == LIVE != run_id  # what was live was there when it was there
    if is_moved or (recorded not in runs and not is_to_come):
        others = [run for run, door in runs.items() if door != "predict" and run != LIVE]
        known = [LIVE] if LIVE in runs or not others else []
        listed = ", ".join([*known, *reversed(others)][:_LISTED])
        raise ConfigError("run", f"one of {listed}", run_id)


def start_of(window: str | None, until: int) -> int | None:
    """When a window such as `30d` began that ends at `until`, UTC ms; None without one.

    Raises:
        ConfigError: for anything but a number of days.
    """
    if window is None:
        return None
    if not (window.endswith("d") and window[:-1].isdigit()):
        raise ConfigError("window", "a number of days such as 30d", window)
    return until - int(window[:-1]) * DAY_MS
