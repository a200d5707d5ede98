"""Calling models: all contexts in one batch, and in halves where that fails, so that one failure stays isolated."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from forecaster.errors import InvalidContext
from forecaster.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Sequence

    from forecaster.bars import SeriesKey
    from forecaster.context import Context
    from forecaster.forecast import OHLCForecast
    from forecaster.model import Model, ModelSuite

_log = get_logger(__name__)


class Predictions(NamedTuple):
    """Forecasts that are not yet recorded: one list per model, in the order of the contexts.

    `by_model[0]` is the primary model's and covers all contexts. A baseline may cover fewer.
    """

    contexts: list[Context]
    by_model: list[list[OHLCForecast]]


class PartialPredictions(NamedTuple):
    """Predictions; the series that the primary model could not forecast and the baselines that failed, with reasons."""

    predictions: Predictions
    skipped: dict[SeriesKey, str]
    failed_baselines: dict[str, str]


def predict_all(models: ModelSuite, contexts: Sequence[Context], horizon: int) -> Predictions:
    """Call every model for every context.

    Raises:
        ModelError: when one fails.
    """
    return Predictions(list(contexts), [model.predict(contexts, horizon) for model in models])


def predict_where_possible(models: ModelSuite, contexts: Sequence[Context], horizon: int) -> Predictions:
    """Call every model for every context; leave out contexts that a baseline refuses as too short or invalid.

    Raises:
        ModelError: when the primary model fails, or a baseline for another reason.
    """
    primary = models.primary.predict(contexts, horizon)
    baselines = [_predict_baseline(baseline, contexts, horizon, InvalidContext)[0] for baseline in models.baselines]
    return Predictions(list(contexts), [primary, *baselines])


def predict_isolating_failures(models: ModelSuite, contexts: Sequence[Context], horizon: int) -> PartialPredictions:
    """Call every model for every context; leave out the series and the baselines that fail."""
    failed: dict[int, str] = {}
    by_model = [_predict_or_split(models.primary, contexts, horizon, failed)]
    skipped = {contexts[index].key: reason for index, reason in failed.items()}
    kept = [context for i, context in enumerate(contexts) if i not in failed]
    failed_baselines: dict[str, str] = {}
    for baseline in models.baselines:
        forecasts, reason = _predict_baseline(baseline, kept, horizon)
        by_model.append(forecasts)
        if reason:
            failed_baselines[baseline.name] = reason
    return PartialPredictions(Predictions(kept, by_model), skipped, failed_baselines)


def _predict_baseline(
    baseline: Model, contexts: Sequence[Context], horizon: int, tolerated: type[Exception] = Exception
) -> tuple[list[OHLCForecast], str]:
    """Return the forecasts of a baseline, and the first reason where it failed; other errors are raised."""
    failed: dict[int, str] = {}
    forecasts = _predict_or_split(baseline, contexts, horizon, failed, tolerated=tolerated)
    reason = next(iter(failed.values()), "")
    if failed:
        _log.warning("baseline.failed", model=baseline.name, contexts=len(failed), reason=reason)
    return forecasts, reason


def _predict_or_split(
    model: Model,
    contexts: Sequence[Context],
    horizon: int,
    failed: dict[int, str],
    first: int = 0,
    tolerated: type[Exception] = Exception,  # a model may be third-party code; its error must not stop other series
) -> list[OHLCForecast]:
    """Return forecasts of the contexts that succeed; add the indices of the others, from `first` on, to `failed`."""
    if not contexts:
        return []
    try:
        return model.predict(contexts, horizon)
    except tolerated as error:
        if len(contexts) == 1:
            failed[first] = f"{type(error).__name__}: {error}"
            return []
    half = len(contexts) // 2
    before = _predict_or_split(model, contexts[:half], horizon, failed, first, tolerated)
    return before + _predict_or_split(model, contexts[half:], horizon, failed, first + half, tolerated)
