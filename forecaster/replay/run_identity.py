"""The identity of a replay: everything that determines its forecasts, as JSON, and its digest as the id of the run.

It holds the models by their weights, settings, bars, cutoffs and the version of the code. Speed, batches, device, time
of the call and latency are no part of it: they change no forecast.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from forecaster.code_version import code_digest
from forecaster.errors import ConfigError
from forecaster.ledger import LIVE, Run, RunId

if TYPE_CHECKING:
    from collections.abc import Sequence

    from forecaster.bars import Bars
    from forecaster.config import ModelConfig
    from forecaster.forecast import ModelId
    from forecaster.replay.cutoffs import ReplaySeries

DOOR: Final = "replay"
_DIGITS: Final = 16


def describe_plan(
    series: Sequence[ReplaySeries], model: ModelConfig, models: Sequence[ModelId], known_within_ms: int | None
) -> str:
    """Describe what determines the forecasts of a replay, as JSON: equal texts mean equal forecasts."""
    facts = {
        "models": list(models),
        "code": code_digest(),
        "settings": model.model_dump(mode="json", include={"context", "min_context", "horizon", "calibrate"}),
        "known_within_ms": known_within_ms,
        "series": {str(each.key): _describe_series(each) for each in series},
    }
    return json.dumps(facts, sort_keys=True)


def make_run(run: Run | None, facts: str, started_at: int) -> Run:
    """Make the run of a replay, with the caller's id or else the digest of `facts`.

    Raises:
        ConfigError: for an id that a replay cannot have.
    """
    if run is None:
        return Run(RunId.of(DOOR, facts), DOOR, started_at, facts)
    if run.id == LIVE or RunId(run.id).recorded != run.id:
        raise ConfigError("run", "an id of its own, without a latency, such as replay-mine", run.id)
    return Run(run.id, run.kind, started_at, facts)


def check_same_plan(known: Run, facts: str) -> None:
    """Refuse to resume a run that was made from something else.

    Raises:
        ConfigError: names the run and what differs.
    """
    different = _differences(known.plan, facts)
    if different:
        raise ConfigError("run", f"another id: {known.id} is in the ledger already", f"other {', '.join(different)}")


def _describe_series(series: ReplaySeries) -> dict[str, Any]:
    bars = series.bars
    return {
        "calendar": series.key.calendar,
        "bars": _digest(bars),
        "bar_count": len(bars),
        "first_open": int(bars.open_time[0]) if len(bars) else None,
        "last_open": int(bars.open_time[-1]) if len(bars) else None,
        "cutoffs": _sha256(series.cutoffs.astype("<i8").tobytes()),
        "cutoff_count": len(series.cutoffs),
        "known": None if series.known is None else _known_digest(series),
    }


def _digest(bars: Bars) -> str:
    return _sha256(bars.open_time.astype("<i8").tobytes(), np.ascontiguousarray(bars.ohlcv_TF, "<f8").tobytes())


def _known_digest(series: ReplaySeries) -> str:
    """Digest the bars that each cutoff sees, in the version that it sees."""
    parts = ((_digest(bars).encode(), cutoffs.tobytes()) for bars, cutoffs in series.spans)
    return _sha256(*(part for pair in parts for part in pair))


def _sha256(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:_DIGITS]


def _differences(known: str, facts: str) -> list[str]:
    """Name the differences of two plans."""
    if known == facts:
        return []
    if not known:
        return ["inputs, perhaps: its plan was not recorded"]
    new, old = json.loads(facts), json.loads(known)
    names = [name for name in ("models", "code", "settings", "known_within_ms") if new[name] != old.get(name)]
    old_series = old.get("series", {})
    if new["series"].keys() != old_series.keys():
        return [*names, "series"]
    for key, plan in new["series"].items():
        parts = ("calendar", "bars", "cutoffs", "known")
        names += [f"{name} of {key}" for name in parts if plan[name] != old_series[key].get(name)]
    return names or ["plan"]
