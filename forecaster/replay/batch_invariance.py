"""What proofs have in common, and the proof that a forecast does not depend on its company.

A proof makes the same forecasts again under other circumstances and compares every number. `lookahead` changes what
came later, `parity` begins with what the ledger has kept, and `verify_batch`, here, changes what is asked for at the
same time.

Shapes: N contexts, F fields, H steps, Q quantile levels, C price fields, T slots.
"""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

import numpy as np

from forecaster.bars import Context
from forecaster.errors import InvalidContext
from forecaster.model import load_baselines, load_model

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from forecaster.config import ModelConfig
    from forecaster.forecast import OHLCForecast
    from forecaster.model import Model

    Ask: TypeAlias = Callable[[Sequence[Context]], Sequence[Sequence[OHLCForecast]]]
    """Forecasts of every model, in the order of the models, for contexts, in the order of the contexts."""
    OnCheck: TypeAlias = Callable[[int, int], object]
    """Hears how much was done, and how much there is to do."""

COMPANY_NOISE: Final = 1e-5
"""Largest difference that a batch may make to a model in float32, as a share of the forecast's spread."""
NUMPY: Final = "numpy"
"""The engine that has no noise: its numbers are compared bit by bit."""

_SMALL_BATCH: Final = 7
_GAPS, _SHORTER = 0.1, 16


def silent(done: int, total: int) -> None:
    """Tell nobody."""


class Failure(NamedTuple):
    """One thing that was not as it should be.

    Args:
        what: who is to blame: `source FileSource`, `context`, `model nano`, `calibration of nano`, `strategy NAME`.
        series: the name of the series.
        cutoff: UTC ms.
        poison: what had been done to its surroundings.
        difference: what came of it, in words.
    """

    what: str
    series: str
    cutoff: int
    poison: str
    difference: str


@dataclass
class ProofReport:
    """How many cases were made again, how many were the same, and what was not.

    `left_out` counts what could not be judged, by reason. `largest` is the largest difference between two forecasts
    that should be the same, as a share of the forecast's spread, by model.
    """

    checked: int = 0
    identical: int = 0
    failures: list[Failure] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)
    largest: dict[str, float] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether something was checked, and nothing was wrong."""
        return self.checked > 0 and not self.failures

    def add(self, failures: Sequence[Failure]) -> None:
        """Count one case, and what was wrong with it."""
        self.checked += 1
        self.identical += not failures
        self.failures += failures

    def merge(self, other: ProofReport) -> None:
        """Add what another report says, about other cases."""
        self.checked += other.checked
        self.identical += other.identical
        self.failures += other.failures
        for reason, count in other.left_out.items():
            self.leave_out(reason, count)
        for model, share in other.largest.items():
            self.largest[model] = max(share, self.largest.get(model, 0.0))

    def leave_out(self, reason: str, count: int = 1) -> None:
        """Count what cannot be judged."""
        if not count:
            return
        self.left_out[reason] = self.left_out.get(reason, 0) + count

    def compare(self, model: str, one: OHLCForecast, other: OHLCForecast, noise: float) -> str:
        """Say how two raw forecasts differ by more than `noise`, a share of the spread; nothing when they do not."""
        if one.raw_FHQ.shape != other.raw_FHQ.shape:
            return f"expected shape {one.raw_FHQ.shape}, found {other.raw_FHQ.shape}"
        share = largest_share(one, other)
        self.largest[model] = max(share, self.largest.get(model, 0.0))
        return f"{share:.3g} of the spread" if share > noise else ""


def largest_share(one: OHLCForecast, other: OHLCForecast) -> float:
    """Give the largest difference between the raw prices of two forecasts, as a share of the spread of its field."""
    away_F = np.abs(one.raw_FHQ - other.raw_FHQ).max(axis=(1, 2))
    spread_F = np.maximum(np.ptp(one.raw_FHQ, axis=(1, 2)), np.finfo(np.float64).tiny)
    with np.errstate(over="ignore"):
        return float((away_F / spread_F).max())


def verify_batch(
    models: Sequence[Model],
    contexts: Sequence[Context],
    horizon: int,
    *,
    seed: int = 0,
    elsewhere: Mapping[str, Ask] | None = None,
    on_check: OnCheck = silent,
) -> ProofReport:
    """Ask for forecasts one by one, then in company, and compare: bits for numpy, `COMPANY_NOISE` for other engines.

    Company is: all at once, the same permuted, batches of seven, and among strangers, whose prices are a million times
    as high, and run backwards, have gaps, or begin later.

    Args:
        models: all that are to be asked.
        contexts: of several series, if there are several.
        horizon: bars to forecast.
        seed: of the permutation and the gaps.
        elsewhere: further ways to ask the same models, by name, such as `ask_elsewhere`.
        on_check: hears how many forecasts were made, and how many are to be.

    Raises:
        InvalidContext: for no contexts.
    """
    if not contexts:
        raise InvalidContext("contexts", "at least one", 0)
    random = np.random.default_rng(seed)
    report = ProofReport()
    companies = _companies(models, horizon, random) | dict(elsewhere or {})
    total = len(models) * len(contexts) * (1 + len(companies))
    alone = [[model.predict([context], horizon)[0] for context in contexts] for model in models]
    on_check(len(models) * len(contexts), total)
    for company, ask in companies.items():
        for of_alone, of_company in zip(alone, ask(contexts), strict=True):
            for one, other in zip(of_alone, of_company, strict=True):
                report.add(_compared(report, one, other, company))
        on_check(report.checked + len(models) * len(contexts), total)
    return report


def ask_elsewhere(config: ModelConfig, contexts: Sequence[Context], threads: int) -> list[list[OHLCForecast]]:
    """Ask the configured models in a process of its own that computes with so many threads."""
    with thread_pool(threads) as pool:
        return pool.submit(_ask_loaded, config, list(contexts)).result()


def thread_pool(threads: int) -> ProcessPoolExecutor:
    """Give a pool of one process that begins with nothing loaded and computes with so many threads."""
    # Libraries read it when they are loaded, which is after the initializer; the parent's environment stays as it is.
    return ProcessPoolExecutor(
        1, multiprocessing.get_context("spawn"), initializer=os.putenv, initargs=("OMP_NUM_THREADS", str(threads))
    )


def load_models(config: ModelConfig) -> list[Model]:
    """Load the configured model and its baselines; uncompiled, since engines change while they serve.

    Raises:
        ModelLoadError: when its weights cannot be had.
    """
    eager = config.model_copy(update={"compile": "off"})
    return [load_model(eager), *load_baselines(eager)]


def _ask_loaded(config: ModelConfig, contexts: Sequence[Context]) -> list[list[OHLCForecast]]:
    return [model.predict(contexts, config.horizon) for model in load_models(config)]


def _companies(models: Sequence[Model], horizon: int, random: np.random.Generator) -> dict[str, Ask]:
    """The companies in which contexts are asked for, by name."""

    def together(contexts: Sequence[Context]) -> list[list[OHLCForecast]]:
        return [model.predict(contexts, horizon) for model in models]

    def permuted(contexts: Sequence[Context]) -> list[list[OHLCForecast]]:
        order = random.permutation(len(contexts))
        back = np.argsort(order)
        return [[made[i] for i in back] for made in together([contexts[i] for i in order])]

    def in_parts(contexts: Sequence[Context]) -> list[list[OHLCForecast]]:
        parts = [together(contexts[i : i + _SMALL_BATCH]) for i in range(0, len(contexts), _SMALL_BATCH)]
        return [[one for made in of_model for one in made] for of_model in zip(*parts, strict=True)]

    def among_strangers(contexts: Sequence[Context]) -> list[list[OHLCForecast]]:
        mixed = [one for context in contexts for one in (_stranger(context, random), context)]
        return [made[1::2] for made in together(mixed)]

    return {
        "together": together,
        "permuted": permuted,
        f"batches of {_SMALL_BATCH}": in_parts,
        "among strangers": among_strangers,
    }


def _stranger(context: Context, random: np.random.Generator) -> Context:
    """Another series of the same cutoff: a million times as high, and backwards, with gaps, or shorter."""
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
    return Context(replace(context.key, symbol="STRANGER/USD"), context.cutoff, ohlc_CT)


def _compared(report: ProofReport, one: OHLCForecast, other: OHLCForecast, company: str) -> list[Failure]:
    name = one.provenance.model_id
    noise = 0.0 if one.engine == NUMPY else COMPANY_NOISE
    difference = report.compare(name, one, other, noise)
    if not difference:
        return []
    return [Failure(f"model {name}", str(one.key), one.cutoff, company, difference)]
