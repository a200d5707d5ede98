"""One stretch of bars and forecasts for all frameworks, and the decisions that they must come to.

The rule: long when the next close is above the last one with 65 % or more, flat when with 35 % or less, else as before.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from forecaster.forecast import CHRONOS_LEVELS, OHLCForecast, repair
from forecaster.ledger import Run
from forecaster.store import open_store
from tests.builders import make_bars, make_key
from tests.forecast_builders import make_provenance

if TYPE_CHECKING:
    from pathlib import Path

    from forecaster.bars import Bars

KEY = make_key()
LATENCY_MS = 4_000
LAG_MS = 10_000
CONFIG = """
[[series]]
exchange = "binance"
symbol = "BTC/USDT"
timeframe = "1h"
file = "bars.csv"

[model]
id = "nano"

[store]
url = "sqlite:///{path}"
"""


class Decision(NamedTuple):
    """A change of side: after which close, to what, and the open (UTC ms) at which it fills."""

    cutoff: int
    long: bool
    fill_open: int


def make_scene(count: int = 400) -> tuple[Bars, list[OHLCForecast]]:
    """Make bars and forecasts of all moods: some are a minute late, some were never made; the last ones see a fall."""
    bars = make_bars(KEY, count)
    random = np.random.default_rng(1)
    mood_T = random.normal(0, 1, count)
    mood_T[:3], mood_T[-5:] = 0, -3
    made = [
        forecast_of(bars, i, mood, LATENCY_MS + 60_000 * (random.random() < 0.1))
        for i, mood in enumerate(mood_T)
        if i in range(3) or random.random() > 0.1
    ]
    return bars, made


def forecast_of(bars: Bars, i: int, mood: float, latency_ms: int, model: str = "nano") -> OHLCForecast:
    """Make what a model says at the close of bar `i` that sees moves of `mood` deviations; steps are all alike."""
    level_Q = np.array(CHRONOS_LEVELS)
    close_Q = bars.close[i] * np.exp(0.01 * (mood / 2 + np.log(level_Q / (1 - level_Q)) / 2))
    raw_FHQ = np.stack([close_Q, close_Q * 1.004, close_Q * 0.996, close_Q])[:, None].repeat(2, axis=1)
    cutoff = int(bars.close_time[i])
    made = OHLCForecast(bars.key, cutoff, CHRONOS_LEVELS, raw_FHQ, repair(raw_FHQ), make_provenance(model))
    return replace(made, issued_at=cutoff, available_at=cutoff + latency_ms)


def decisions(bars: Bars, forecasts: list[OHLCForecast]) -> list[Decision]:
    """Decide bar by bar; a change fills at the open of the first bar that opens at or after its forecast was there."""
    in_time = {one.cutoff: one for one in forecasts if one.available_at <= one.cutoff + LAG_MS}
    long, found = False, []
    for cutoff, close in zip(bars.close_time.tolist(), bars.close.tolist(), strict=True):
        if cutoff not in in_time:
            continue
        above = in_time[cutoff].prob_above(close, step=1)
        side = above >= 0.65 or (long and above > 0.35)
        if side != long:
            opens = [time for time in bars.open_time.tolist() if time >= in_time[cutoff].available_at]
            found.append(Decision(cutoff, side, opens[0]))
        long = side
    return found


def write_ledger(folder: Path, forecasts: list[OHLCForecast]) -> Path:
    """Write forecasts into an SQLite ledger; gives the configuration that names it."""
    path = folder / "ledger.db"
    store = open_store(f"sqlite:///{path}")
    store.add_run(Run("live", "live", 0))
    store.add_forecasts(forecasts, "live")
    store.close()
    config = folder / "live.toml"
    config.write_text(CONFIG.format(path=path))
    return config
