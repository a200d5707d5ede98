"""Asking models: all contexts in one batch; and where that fails, in halves, so that one does not spoil the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from forecaster.errors import InvalidContext
from forecaster.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Sequence

    from forecaster.bars import Context, SeriesKey
    from forecaster.forecast import OHLCForecast
    from forecaster.model import Model

_log = get_logger(__name__)


class Answers(NamedTuple):
    """What models gave for contexts, before it is recorded: a list for each model, in the order of the contexts.

    The first model answered all of them; a baseline may have fewer.
    """

    contexts: list[Context]
    made: list[list[OHLCForecast]]


class Spared(NamedTuple):
    """Answers, the series that the first model could not forecast, and the baselines that failed; with reasons."""

    answers: Answers
    skipped: dict[SeriesKey, str]
    sat_out: dict[str, str]


def ask_all(models: Sequence[Model], contexts: Sequence[Context], steps: int) -> Answers:
    """Ask every model for every context.

    Raises:
        ModelError: when one fails.
    """
    return Answers(list(contexts), [model.predict(contexts, steps) for model in models])


def ask_first(models: Sequence[Model], contexts: Sequence[Context], steps: int) -> Answers:
    """Ask every model for every context, and leave out those of which a baseline says that it cannot answer them.

    Raises:
        ModelError: when the first model fails, or a baseline for a reason that may pass.
    """
    first, *baselines = models
    made = [first.predict(contexts, steps)]
    return Answers(list(contexts), made + [_answered(one, contexts, steps, InvalidContext)[0] for one in baselines])


def ask_sparing(models: Sequence[Model], contexts: Sequence[Context], steps: int) -> Spared:
    """Ask every model for every context, and leave out what fails: a series, or part of what a baseline was asked."""
    first, *baselines = models
    failed: dict[int, str] = {}
    made = [_spared(first, contexts, steps, failed)]
    skipped = {contexts[place].key: reason for place, reason in failed.items()}
    kept = [context for i, context in enumerate(contexts) if i not in failed]
    sat_out: dict[str, str] = {}
    for baseline in baselines:
        answers, reason = _answered(baseline, kept, steps)
        made.append(answers)
        if reason:
            sat_out[baseline.name] = reason
    return Spared(Answers(kept, made), skipped, sat_out)


def _answered(
    baseline: Model, contexts: Sequence[Context], steps: int, spared: type[Exception] = Exception
) -> tuple[list[OHLCForecast], str]:
    """What a baseline can answer, and why it cannot answer the rest; faults that are not to be spared are raised."""
    failed: dict[int, str] = {}
    made = _spared(baseline, contexts, steps, failed, spared=spared)
    reason = next(iter(failed.values()), "")
    if failed:
        _log.warning("baseline.failed", model=baseline.name, contexts=len(failed), reason=reason)
    return made, reason


def _spared(
    model: Model,
    contexts: Sequence[Context],
    steps: int,
    failed: dict[int, str],
    first: int = 0,
    spared: type[Exception] = Exception,  # a model is anybody's code, and the other series have done nothing
) -> list[OHLCForecast]:
    """Forecasts of the contexts that a model can answer; the places of the others, from `first` on, with reasons."""
    if not contexts:
        return []
    try:
        return model.predict(contexts, steps)
    except spared as error:
        if len(contexts) == 1:
            failed[first] = f"{type(error).__name__}: {error}"
            return []
    half = len(contexts) // 2
    before = _spared(model, contexts[:half], steps, failed, first, spared)
    return before + _spared(model, contexts[half:], steps, failed, first + half, spared)
