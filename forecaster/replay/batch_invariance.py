"""The report of a verification, and the test that a forecast does not depend on its batch.

A verification makes the same forecasts again under other conditions and compares every number. `lookahead` changes the
later bars, `parity` starts from what the ledger holds, and `verify_batch`, here, changes the rest of the batch.

Shapes: N contexts, F fields, H steps, Q quantile levels, C price fields, T slots.
"""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

import numpy as np

from forecaster.context import Context
from forecaster.errors import InvalidArgument
from forecaster.model import load_suite

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from forecaster.config import ModelConfig
    from forecaster.forecast import OHLCForecast
    from forecaster.model import Model, ModelSuite

    Predict: TypeAlias = Callable[[Sequence[Context]], Sequence[Sequence[OHLCForecast]]]
    """Returns the forecasts of every model for contexts, in the order of models and contexts."""
    OnProgress: TypeAlias = Callable[[int, int], object]
    """Called with the number of cases done and the total."""

BATCH_TOLERANCE: Final = 1e-5
"""Largest difference that a batch may make to a float32 model, as a fraction of the forecast's spread."""
NUMPY: Final = "numpy"
"""The engine without rounding noise: its numbers are compared bit by bit."""

_SMALL_BATCH: Final = 7
_GAPS, _SHORTER = 0.1, 16


def no_progress(done: int, total: int) -> None:
    """Ignore progress."""


class Failure(NamedTuple):
    """One difference.

    Args:
        component: the cause: `source FileSource`, `context`, `model nano`, `calibration of nano`, `strategy NAME`.
        series: the name of the series.
        cutoff: UTC ms.
        perturbation: the changed condition.
        difference: what differed, in words.
    """

    component: str
    series: str
    cutoff: int
    perturbation: str
    difference: str


@dataclass
class VerificationReport:
    """Numbers of cases that were checked and that were identical, and the differences.

    `left_out` counts cases that could not be checked, by reason. `largest_differences` holds the largest difference
    between two forecasts that should be equal, as a fraction of the forecast's spread, by model.
    """

    checked: int = 0
    identical: int = 0
    failures: list[Failure] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)
    largest_differences: dict[str, float] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether something was checked and nothing differed."""
        return self.checked > 0 and not self.failures

    def add(self, failures: Sequence[Failure]) -> None:
        """Count one case and its failures."""
        self.checked += 1
        self.identical += not failures
        self.failures += failures

    def merge(self, other: VerificationReport) -> None:
        """Add a report of other cases."""
        self.checked += other.checked
        self.identical += other.identical
        self.failures += other.failures
        for reason, count in other.left_out.items():
            self.leave_out(reason, count)
        for model, fraction in other.largest_differences.items():
            self.largest_differences[model] = max(fraction, self.largest_differences.get(model, 0.0))

    def leave_out(self, reason: str, count: int = 1) -> None:
        """Count cases that cannot be checked."""
        if not count:
            return
        self.left_out[reason] = self.left_out.get(reason, 0) + count

    def compare(self, model: str, forecast: OHLCForecast, other: OHLCForecast, noise: float) -> str:
        """Describe a difference of raw forecasts above `noise`, a fraction of the spread; empty if there is none."""
        if forecast.raw_FHQ.shape != other.raw_FHQ.shape:
            return f"expected shape {forecast.raw_FHQ.shape}, found {other.raw_FHQ.shape}"
        fraction = largest_difference(forecast, other)
        self.largest_differences[model] = max(fraction, self.largest_differences.get(model, 0.0))
        return f"{fraction:.3g} of the spread" if fraction > noise else ""


def largest_difference(forecast: OHLCForecast, other: OHLCForecast) -> float:
    """Return the largest difference of the raw prices of two forecasts, as a fraction of the spread of its field."""
    away_F = np.abs(forecast.raw_FHQ - other.raw_FHQ).max(axis=(1, 2))
    spread_F = np.maximum(np.ptp(forecast.raw_FHQ, axis=(1, 2)), np.finfo(np.float64).tiny)
    with np.errstate(over="ignore"):
        return float((away_F / spread_F).max())


def verify_batch(
    models: Iterable[Model],
    contexts: Sequence[Context],
    horizon: int,
    *,
    seed: int = 0,
    extra: Mapping[str, Predict] | None = None,
    on_progress: OnProgress = no_progress,
) -> VerificationReport:
    """Forecast contexts one by one, then in batches, and compare: bits for numpy, `BATCH_TOLERANCE` for other engines.

    The batches are: all at once, the same permuted, batches of seven, and mixed with distractors. These have prices a
    million times as high, and are reversed, have gaps, or start later.

    Args:
        models: models to test.
        contexts: of one or several series.
        horizon: bars to forecast.
        seed: of the permutation and the gaps.
        extra: further ways to forecast with the same models, by name, such as `predict_in_subprocess`.
        on_progress: called with the number of forecasts made and the total.

    Raises:
        InvalidArgument: without contexts.
    """
    if not contexts:
        raise InvalidArgument("contexts", "at least one", 0)
    models, random = list(models), np.random.default_rng(seed)
    report = VerificationReport()
    compositions = _compositions(models, horizon, random) | dict(extra or {})
    total = len(models) * len(contexts) * (1 + len(compositions))
    alone = [[model.predict([context], horizon)[0] for context in contexts] for model in models]
    on_progress(len(models) * len(contexts), total)
    for composition, predict in compositions.items():
        for of_alone, of_batch in zip(alone, predict(contexts), strict=True):
            for forecast, other in zip(of_alone, of_batch, strict=True):
                report.add(_compared(report, forecast, other, composition))
        on_progress(report.checked + len(models) * len(contexts), total)
    return report


def predict_in_subprocess(config: ModelConfig, contexts: Sequence[Context], threads: int) -> list[list[OHLCForecast]]:
    """Forecast with the configured models in a new process with so many threads."""
    with thread_pool(threads) as pool:
        return pool.submit(_load_and_predict, config, list(contexts)).result()


def thread_pool(threads: int) -> ProcessPoolExecutor:
    """Return a pool of one process, started afresh, that computes with so many threads."""
    # Libraries read it when they are loaded, which is after the initializer; the parent's environment stays as it is.
    return ProcessPoolExecutor(
        1, multiprocessing.get_context("spawn"), initializer=os.putenv, initargs=("OMP_NUM_THREADS", str(threads))
    )


def load_models(config: ModelConfig) -> ModelSuite:
    """Load the configured model and its baselines; uncompiled, since a served engine may change.

    Raises:
        ModelLoadError: if the weights cannot be loaded.
    """
    return load_suite(config.model_copy(update={"compile": "off"}))


def _load_and_predict(config: ModelConfig, contexts: Sequence[Context]) -> list[list[OHLCForecast]]:
    return [model.predict(contexts, config.horizon) for model in load_models(config)]


def _compositions(models: Sequence[Model], horizon: int, random: np.random.Generator) -> dict[str, Predict]:
    """Return the batch compositions by name."""

    def one_batch(contexts: Sequence[Context]) -> list[list[OHLCForecast]]:
        return [model.predict(contexts, horizon) for model in models]

    def permuted(contexts: Sequence[Context]) -> list[list[OHLCForecast]]:
        order = random.permutation(len(contexts))
        back = np.argsort(order)
        return [[made[i] for i in back] for made in one_batch([contexts[i] for i in order])]

    def in_parts(contexts: Sequence[Context]) -> list[list[OHLCForecast]]:
        parts = [one_batch(contexts[i : i + _SMALL_BATCH]) for i in range(0, len(contexts), _SMALL_BATCH)]
        return [list(chain.from_iterable(of_model)) for of_model in zip(*parts, strict=True)]

    def with_distractors(contexts: Sequence[Context]) -> list[list[OHLCForecast]]:
        pairs = [(_distractor(context, random), context) for context in contexts]
        mixed = [context for pair in pairs for context in pair]
        return [made[1::2] for made in one_batch(mixed)]

    return {
        "one batch": one_batch,
        "permuted": permuted,
        f"batches of {_SMALL_BATCH}": in_parts,
        "with distractors": with_distractors,
    }


def _distractor(context: Context, random: np.random.Generator) -> Context:
    """Make another series of the same cutoff: prices a million times as high, and reversed, with gaps, or shorter."""
    ohlc_CT = context.ohlc_CT * 1e6
    kind = random.integers(3)
    slots = ohlc_CT.shape[1]
    if kind == 0:
        ohlc_CT = ohlc_CT[:, ::-1]
    elif kind == 1:
        ohlc_CT = np.where(random.random(slots) < _GAPS, np.nan, ohlc_CT)
    else:
        ohlc_CT = ohlc_CT[:, min(_SHORTER, slots // 6) :]
    ohlc_CT[:, [0, -1]] = context.ohlc_CT[:, [-1, -1]] * 1e6
    return Context(replace(context.key, symbol="DISTRACTOR/USD"), context.cutoff, ohlc_CT)


def _compared(
    report: VerificationReport, forecast: OHLCForecast, other: OHLCForecast, composition: str
) -> list[Failure]:
    name = forecast.provenance.model_id
    noise = 0.0 if forecast.engine == NUMPY else BATCH_TOLERANCE
    difference = report.compare(name, forecast, other, noise)
    if not difference:
        return []
    return [Failure(f"model {name}", str(forecast.key), forecast.cutoff, composition, difference)]
