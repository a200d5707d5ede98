"""What a replay is known by: all that decides its forecasts, as JSON, and a digest of it as the id of its run.

Models by their weights, settings, bars, cutoffs and the version of the code. How fast it went, in which batches, on
which device and when is no part of it: the same forecasts come out. Nor is a latency, which moves no forecast.
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
    from forecaster.replay.cutoffs import Chosen

DOOR: Final = "replay"
_DIGITS: Final = 16


def facts_of(
    chosen: Sequence[Chosen], model: ModelConfig, models: Sequence[ModelId], known_within_ms: int | None
) -> str:
    """Write what decides the forecasts of a replay: equal texts, equal forecasts."""
    facts = {
        "models": list(models),
        "code": code_digest(),
        "settings": model.model_dump(mode="json", include={"context", "min_context", "horizon", "calibrate"}),
        "known_within_ms": known_within_ms,
        "series": {str(one.key): _series(one) for one in chosen},
    }
    return json.dumps(facts, sort_keys=True)


def named_run(run: Run | None, facts: str, started_at: int) -> Run:
    """The run of a replay: under the caller's id where it gives one, else under the digest of `facts`.

    Raises:
        ConfigError: for a name that is not a replay's to take.
    """
    if run is None:
        return Run(RunId.of(DOOR, facts), DOOR, started_at, facts)
    if run.id == LIVE or RunId(run.id).recorded != run.id:
        raise ConfigError("run", "an id of its own, without a latency, such as replay-mine", run.id)
    return Run(run.id, run.door, started_at, facts)


def check_same(known: Run, facts: str) -> None:
    """Refuse to go on with a run that was made of something else.

    Raises:
        ConfigError: names the run and what differs.
    """
    different = _differences(known.plan, facts)
    if different:
        raise ConfigError("run", f"another id: {known.id} is in the ledger already", f"other {', '.join(different)}")


def _series(chosen: Chosen) -> dict[str, Any]:
    bars = chosen.bars
    return {
        "calendar": chosen.key.calendar,
        "bars": _digest(bars),
        "bar_count": len(bars),
        "first_open": int(bars.open_time[0]) if len(bars) else None,
        "last_open": int(bars.open_time[-1]) if len(bars) else None,
        "cutoffs": _sha256(chosen.cutoffs.astype("<i8").tobytes()),
        "cutoff_count": len(chosen.cutoffs),
        "known": None if chosen.known is None else _known_digest(chosen),
    }


def _digest(bars: Bars) -> str:
    return _sha256(bars.open_time.astype("<i8").tobytes(), np.ascontiguousarray(bars.ohlcv_TF, "<f8").tobytes())


def _known_digest(chosen: Chosen) -> str:
    """Digest of every bar that a cutoff could see, in the version that it sees."""
    return _sha256(*(text for bars, some in chosen.spans for text in (_digest(bars).encode(), some.tobytes())))


def _sha256(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for one in parts:
        digest.update(one)
    return digest.hexdigest()[:_DIGITS]


def _differences(known: str, facts: str) -> list[str]:
    """Name what two plans have not in common, for people."""
    if known == facts:
        return []
    if not known:
        return ["inputs, perhaps: its plan was not recorded"]
    ours, theirs = json.loads(facts), json.loads(known)
    names = [name for name in ("models", "code", "settings", "known_within_ms") if ours[name] != theirs.get(name)]
    series = theirs.get("series", {})
    if ours["series"].keys() != series.keys():
        return [*names, "series"]
    for key, about in ours["series"].items():
        other = series[key]
        names += [
            f"{name} of {key}" for name in ("calendar", "bars", "cutoffs", "known") if about[name] != other.get(name)
        ]
    return names or ["plan"]
