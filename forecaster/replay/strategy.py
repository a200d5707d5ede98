"""What a strategy receives and returns, and the decisions that it makes from forecast to forecast.

A strategy receives a forecast, its position, the close at the cutoff and the trust in the model: no later bar, no clock
and no equity. Its decisions therefore depend only on what was known when they were made. Nothing is traded here.

A forecast can be acted on from its `available_at`. The fill is at the first bar that opens at or after that time. On a
24/7 market a bar opens when the one before it closes, so a forecast that takes four seconds misses that open.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from heapq import heappop, heappush
from math import isfinite
from typing import TYPE_CHECKING, Final, Protocol

from forecaster.errors import InvalidArgument, format_time

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from forecaster.accuracy.trust import Trust
    from forecaster.bars import Bars, SeriesKey
    from forecaster.forecast import OHLCForecast

_CAUGHT_UP: Final = 64
"""A forecast may arrive after so many newer ones: the daemon catches up on 24 bars."""


@dataclass(frozen=True, slots=True)
class Position:
    """The current position.

    Args:
        weight: fraction of the equity that was last targeted, -1 (all short) to 1 (all long). It does not follow the
            market: a strategy that returns the same weight keeps its position.
        price: the open at which the position was entered; None without a position.
    """

    weight: float = 0.0
    price: float | None = None


@dataclass(frozen=True, slots=True)
class StrategyContext:
    """What is known besides the forecast.

    Args:
        last_close: the close at the forecast's cutoff.
        trust: trust in the model on the series; None until something has settled. A replay computes it at every
            fiftieth close (`run_forecasts.TrustHistory`).
    """

    last_close: float
    trust: Trust | None = None


@dataclass(frozen=True, slots=True)
class Signal:
    """The position to hold next: `weight` of the equity, -1 to 1, and the reason in one sentence.

    Raises:
        InvalidArgument: for a weight outside [-1, 1].
    """

    weight: float
    reason: str

    def __post_init__(self) -> None:
        """Check the weight."""
        if not -1 <= self.weight <= 1:
            raise InvalidArgument("weight", "-1 to 1", self.weight)


class Strategy(Protocol):
    """Turns a forecast into a signal; the same arguments always give the same signal."""

    def __call__(self, forecast: OHLCForecast, position: Position, context: StrategyContext, /) -> Signal:
        """Return the position to hold from the next open on."""


@dataclass(frozen=True, slots=True)
class TradingRules:
    """Costs and limits of trading, whatever the strategy says.

    Args:
        fee_bps: of the traded value, in hundredths of a percent.
        slippage_bps: by how much every price is worse than the open, in hundredths of a percent.
        max_weight: largest position, long or short, as a fraction of the equity.
        shorting: whether short positions are allowed.
        threshold: smallest change of weight that is traded; an exit or a change of side always is.
        close_after: bars without a forecast after which the position is closed; None keeps it.
        capital: starting capital of each series.

    Raises:
        InvalidArgument: names the rule, the expected and the given value.
    """

    fee_bps: float = 10.0
    slippage_bps: float = 2.0
    max_weight: float = 1.0
    shorting: bool = True
    threshold: float = 0.05
    close_after: int | None = None
    capital: float = 10_000.0

    def __post_init__(self) -> None:
        """Check every rule."""
        expected = {
            "fee_bps": ("0 to 1000", 0 <= self.fee_bps <= 1000),  # noqa: PLR2004 - a tenth: more is a typing error
            "slippage_bps": ("0 to 1000", 0 <= self.slippage_bps <= 1000),  # noqa: PLR2004 - the same
            "max_weight": ("above 0, at most 1", 0 < self.max_weight <= 1),
            "threshold": ("0 or more, below 1", 0 <= self.threshold < 1),
            "close_after": ("1 or more bars, or None", self.close_after is None or self.close_after >= 1),
            "capital": ("above 0", self.capital > 0 and isfinite(self.capital)),
        }
        for name, (words, holds) in expected.items():
            if not holds:
                raise InvalidArgument(name, words, getattr(self, name))

    def limit(self, signal: Signal) -> Signal:
        """Bring a signal within the limits."""
        weight = max(min(signal.weight, self.max_weight), -self.max_weight if self.shorting else 0.0)
        return signal if weight == signal.weight else Signal(weight, f"{signal.reason}; limited to {weight:g}")


@dataclass(frozen=True, slots=True)
class Decision:
    """A target position, decided at `decided_at` (UTC ms) on the forecast of `cutoff`.

    Args:
        fill_open: open time of the bar at whose open it is filled; None while there is none.
        weight: target, within the limits of the rules.
        missing_bars: missing bars between `decided_at` and `fill_open`.
    """

    cutoff: int
    decided_at: int
    fill_open: int | None
    weight: float
    reason: str
    missing_bars: int = 0


def run_strategy(
    strategy: Strategy,
    forecasts: Iterable[OHLCForecast],
    bars: Bars,
    rules: TradingRules | None = None,
    trust_at: Callable[[int], Trust | None] | None = None,
) -> list[Decision]:
    """Call a strategy at every forecast, as it arrives, and return its decisions.

    A decision depends on the forecasts that had arrived, the closes at their cutoffs, the trust there, and the opens
    before its `decided_at`. Later bars and forecasts change only `fill_open` and `missing_bars` of the last decision.
    A forecast that arrives after a newer one is ignored. Without a forecast the strategy is not called: the position is
    kept, or closed as the rules say.

    Args:
        strategy: called with forecast, position and context.
        forecasts: of one model on the series, with increasing cutoffs.
        bars: of the series; each cutoff is a close of them.
        rules: limits and closing rule; the defaults when omitted.
        trust_at: trust at a cutoff (UTC ms), from what had settled by then; none when omitted.

    Raises:
        InvalidArgument: for forecasts of another series or without `available_at`, cutoffs that do not increase or
            have no bar, and for a strategy that returns anything but a `Signal`.
    """
    rules, market = rules or TradingRules(), _Market(bars)
    position, decisions = Position(), list[Decision]()
    for forecast, at in _arrivals(forecasts, bars.key):
        if decisions:
            decisions += market.closings(decisions[-1], at, rules.close_after)
            position = market.position(position, decisions[-1], at)
        trust = None if trust_at is None else trust_at(forecast.cutoff)
        context = StrategyContext(market.close_at(forecast.cutoff), trust)
        signal = rules.limit(call_strategy(strategy, forecast, position, context))
        fill_open, missing_bars = market.next_open(at)
        decisions.append(Decision(forecast.cutoff, at, fill_open, signal.weight, signal.reason, missing_bars))
    return decisions


def call_strategy(strategy: Strategy, forecast: OHLCForecast, position: Position, context: StrategyContext) -> Signal:
    """Call a strategy and check that it returns a signal.

    Raises:
        InvalidArgument: names the strategy and what it returned.
    """
    signal: object = strategy(forecast, position, context)
    if not isinstance(signal, Signal):
        function = strategy if hasattr(strategy, "__qualname__") else type(strategy)
        name = f"{function.__module__}:{function.__qualname__}"
        expected = 'a Signal, such as Signal(0.5, "the forecast rises")'
        raise InvalidArgument(f"return value of strategy {name}", expected, f"{signal!r} ({type(signal).__name__})")
    return signal


class _Market:
    """Opens and closes of a series."""

    def __init__(self, bars: Bars) -> None:
        key = bars.key
        self._key = key
        self._opens: list[int] = bars.open_time.tolist()
        self._open_prices: list[float] = bars.ohlcv_TF[:, 0].tolist()
        self._closes: dict[int, float] = dict(zip(bars.close_time.tolist(), bars.close.tolist(), strict=True))
        ends = (self._opens[0], self._opens[-1] + 1) if self._opens else (0, 0)
        self._slots: list[int] = key.trading_calendar.opens_between(key.timeframe, *ends).tolist()

    def close_at(self, cutoff: int) -> float:
        if cutoff not in self._closes:
            raise InvalidArgument("cutoff", f"a close of the bars of {self._key}", cutoff)
        return self._closes[cutoff]

    def next_open(self, at: int) -> tuple[int | None, int]:
        """Return the first open at or after `at`, and how many slots before it have no bar."""
        place = bisect_left(self._opens, at)
        if place == len(self._opens):
            return None, 0
        return self._opens[place], bisect_left(self._slots, self._opens[place]) - bisect_left(self._slots, at)

    def position(self, before: Position, last: Decision, at: int) -> Position:
        """Return the position at `at`: the last decision's target once its open has passed."""
        if last.fill_open is None or last.fill_open >= at or last.weight == before.weight:
            return before
        price = self._open_prices[bisect_left(self._opens, last.fill_open)]
        return Position(last.weight, price if last.weight else None)

    def closings(self, last: Decision, at: int, close_after: int | None) -> list[Decision]:
        """Return the exit if `close_after` bars opened without a forecast before the one that arrives at `at`."""
        if close_after is None or last.fill_open is None or not last.weight:
            return []
        due = bisect_left(self._opens, last.fill_open) + close_after
        if due >= len(self._opens) or self._opens[due] >= at:
            return []
        reason = f"no forecast for {close_after} bar{'s' if close_after > 1 else ''}"
        return [Decision(last.cutoff, self._opens[due], self._opens[due], 0.0, reason)]


def _arrivals(forecasts: Iterable[OHLCForecast], key: SeriesKey) -> Iterator[tuple[OHLCForecast, int]]:
    """Yield forecasts and times in the order of arrival, without those that arrive after a newer one."""
    newest = -1
    for at, cutoff, forecast in _by_arrival(_checked(forecasts, key)):
        if cutoff > newest:
            newest = cutoff
            yield forecast, at


def _by_arrival(forecasts: Iterable[tuple[int, int, OHLCForecast]]) -> Iterator[tuple[int, int, OHLCForecast]]:
    waiting: list[tuple[int, int, OHLCForecast]] = []
    for arrival in forecasts:
        heappush(waiting, arrival)
        if len(waiting) > _CAUGHT_UP:
            yield heappop(waiting)
    while waiting:
        yield heappop(waiting)


def _checked(forecasts: Iterable[OHLCForecast], key: SeriesKey) -> Iterator[tuple[int, int, OHLCForecast]]:
    before = -1
    for forecast in forecasts:
        cutoff = forecast.cutoff
        if forecast.key != key:
            raise InvalidArgument("forecasts", f"forecasts of {key}", forecast.key)
        if forecast.available_at is None:
            raise InvalidArgument("forecasts", "available_at on each", f"none at cutoff {format_time(cutoff)}")
        if cutoff <= before:
            raise InvalidArgument("forecasts", "rising cutoffs", f"{format_time(cutoff)} after {format_time(before)}")
        before = cutoff
        yield forecast.available_at, cutoff, forecast
