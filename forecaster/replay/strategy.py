"""What a strategy is given and gives, and what it decides from forecast to forecast. Nothing is bought or sold here.

A strategy sees a forecast, what it holds, the close at the cutoff and how far the forecasts can be trusted; no bar, no
clock and no equity. So its decisions depend on what was there when they were made, whatever came later.

A forecast may be acted on from its `available_at` on, and the next chance is the open of a bar: the first that opens at
or after it. On a 24/7 market a bar opens when the one before it closes, so a forecast that takes four seconds misses
that open and waits for the bar after.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from heapq import heappop, heappush
from math import isfinite
from typing import TYPE_CHECKING, Final, Protocol

from forecaster.errors import InvalidContext, utc_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from forecaster.accuracy.trust import Trust
    from forecaster.bars import Bars, SeriesKey
    from forecaster.forecast import OHLCForecast

_CAUGHT_UP: Final = 64
"""A forecast may arrive behind so many newer ones: the daemon catches up on 24 bars."""


@dataclass(frozen=True, slots=True)
class Position:
    """What is held: `share` of the equity that was last aimed at, -1 (all short) to 1 (all long), entered at `price`.

    It does not follow the market: a strategy that gives `share` back keeps what it has.
    """

    share: float = 0.0
    price: float | None = None


@dataclass(frozen=True, slots=True)
class Outlook:
    """What is known beside the forecast: the close at its cutoff, and how far its model can be trusted on the series.

    `trust` is None while nothing has settled; in a replay it is judged at each fiftieth close (`recorded.Trusted`).
    """

    last_close: float
    trust: Trust | None = None


@dataclass(frozen=True, slots=True)
class Signal:
    """What to hold next: `share` of the equity, -1 to 1, and why, in one sentence.

    Raises:
        InvalidContext: for a share outside [-1, 1].
    """

    share: float
    reason: str

    def __post_init__(self) -> None:
        """Check the share."""
        if not -1 <= self.share <= 1:
            raise InvalidContext("share", "-1 to 1", self.share)


class Strategy(Protocol):
    """Turns a forecast into a signal; the same arguments always give the same signal."""

    def __call__(self, forecast: OHLCForecast, position: Position, outlook: Outlook, /) -> Signal:
        """Decide what to hold from the next open on."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What trading costs and allows, whatever the strategy says.

    Args:
        fee_bps: of what is traded, in hundredths of a percent.
        slippage_bps: by how much every price is worse than the open, in hundredths of a percent.
        max_share: largest share of the equity that is held, long or short.
        shorting: whether less than nothing may be held.
        threshold: shares closer to the one aimed at are left alone; a way out or to the other side is always taken.
        close_after: bars without a forecast after which the position is closed; None keeps it.
        capital: what each series begins with.

    Raises:
        InvalidContext: names the rule, what was expected and found.
    """

    fee_bps: float = 10.0
    slippage_bps: float = 2.0
    max_share: float = 1.0
    shorting: bool = True
    threshold: float = 0.05
    close_after: int | None = None
    capital: float = 10_000.0

    def __post_init__(self) -> None:
        """Check every rule."""
        expected = {
            "fee_bps": ("0 to 1000", 0 <= self.fee_bps <= 1000),  # noqa: PLR2004 - a tenth: more is a slip of the pen
            "slippage_bps": ("0 to 1000", 0 <= self.slippage_bps <= 1000),  # noqa: PLR2004 - the same
            "max_share": ("above 0, at most 1", 0 < self.max_share <= 1),
            "threshold": ("0 or more, below 1", 0 <= self.threshold < 1),
            "close_after": ("1 or more bars, or None", self.close_after is None or self.close_after >= 1),
            "capital": ("above 0", self.capital > 0 and isfinite(self.capital)),
        }
        for name, (words, holds) in expected.items():
            if not holds:
                raise InvalidContext(name, words, getattr(self, name))

    def limit(self, signal: Signal) -> Signal:
        """Bring a signal within the limits."""
        share = max(min(signal.share, self.max_share), -self.max_share if self.shorting else 0.0)
        return signal if share == signal.share else Signal(share, f"{signal.reason}; limited to {share:g}")


@dataclass(frozen=True, slots=True)
class Decision:
    """What to hold, decided at `made_at` (UTC ms) on the forecast of `cutoff`.

    Args:
        fill_open: open time of the bar at whose open it can be had; None while there is none.
        share: what to aim at, within the rules' limits.
        waited: slots without a bar before `fill_open`, of those at whose open it could have been had.
    """

    cutoff: int
    made_at: int
    fill_open: int | None
    share: float
    reason: str
    waited: int = 0


def decisions(
    strategy: Strategy,
    forecasts: Iterable[OHLCForecast],
    bars: Bars,
    rules: Rules | None = None,
    trust_at: Callable[[int], Trust | None] | None = None,
) -> list[Decision]:
    """Ask a strategy at every forecast, as it arrives, what to hold.

    A decision depends on the forecasts that had arrived, the closes at their cutoffs, the trust there, and the opens
    before its `made_at`: later bars and forecasts change nothing but `fill_open` and `waited` of the last. A forecast
    that arrives behind a newer one is passed over. Where none comes, the strategy is not asked: what is held is kept,
    or closed when the rules say so.

    Args:
        strategy: what to ask.
        forecasts: of one model on the series, with rising cutoffs.
        bars: of the series; each cutoff is a close of them.
        rules: limits, and when to close; the defaults when left out.
        trust_at: trust at a cutoff (UTC ms), from what had settled by then; none when left out.

    Raises:
        InvalidContext: for forecasts of another series or without `available_at`, cutoffs that do not rise or have no
            bar, and signals outside [-1, 1].
    """
    rules, market = rules or Rules(), _Market(bars)
    held, made = Position(), list[Decision]()
    for forecast, at in _arrivals(forecasts, bars.key):
        if made:
            made += market.closings(made[-1], at, rules.close_after)
            held = market.held(held, made[-1], at)
        trust = None if trust_at is None else trust_at(forecast.cutoff)
        signal = rules.limit(strategy(forecast, held, Outlook(market.close_at(forecast.cutoff), trust)))
        fill_open, waited = market.next_open(at)
        made.append(Decision(forecast.cutoff, at, fill_open, signal.share, signal.reason, waited))
    return made


class _Market:
    """Opens and closes of a series, to be asked one by one."""

    def __init__(self, bars: Bars) -> None:
        key = bars.key
        self._key = key
        self._opens: list[int] = bars.open_time.tolist()
        self._open_prices: list[float] = bars.ohlcv_TF[:, 0].tolist()
        self._closes: dict[int, float] = dict(zip(bars.close_time.tolist(), bars.close.tolist(), strict=True))
        ends = (self._opens[0], self._opens[-1] + 1) if self._opens else (0, 0)
        self._slots: list[int] = key.sessions.opens_between(key.timeframe, *ends).tolist()

    def close_at(self, cutoff: int) -> float:
        if cutoff not in self._closes:
            raise InvalidContext("cutoff", f"a close of the bars of {self._key}", cutoff)
        return self._closes[cutoff]

    def next_open(self, at: int) -> tuple[int | None, int]:
        """The first open at or after `at`, and how many slots without a bar come before it."""
        place = bisect_left(self._opens, at)
        if place == len(self._opens):
            return None, 0
        return self._opens[place], bisect_left(self._slots, self._opens[place]) - bisect_left(self._slots, at)

    def held(self, before: Position, last: Decision, at: int) -> Position:
        """What is held at `at`: what the last decision aimed at, once its open has passed."""
        if last.fill_open is None or last.fill_open >= at or last.share == before.share:
            return before
        price = self._open_prices[bisect_left(self._opens, last.fill_open)]
        return Position(last.share, price if last.share else None)

    def closings(self, last: Decision, at: int, close_after: int | None) -> list[Decision]:
        """The way out, where so many bars have opened without a forecast before the one that arrives at `at`."""
        if close_after is None or last.fill_open is None or not last.share:
            return []
        due = bisect_left(self._opens, last.fill_open) + close_after
        if due >= len(self._opens) or self._opens[due] >= at:
            return []
        reason = f"no forecast for {close_after} bar{'s' if close_after > 1 else ''}"
        return [Decision(last.cutoff, self._opens[due], self._opens[due], 0.0, reason)]


def _arrivals(forecasts: Iterable[OHLCForecast], key: SeriesKey) -> Iterator[tuple[OHLCForecast, int]]:
    """Forecasts in the order in which they arrive, and when; one that arrives behind a newer one is left out."""
    newest = -1
    for at, cutoff, forecast in _by_arrival(_checked(forecasts, key)):
        if cutoff > newest:
            newest = cutoff
            yield forecast, at


def _by_arrival(forecasts: Iterable[tuple[int, int, OHLCForecast]]) -> Iterator[tuple[int, int, OHLCForecast]]:
    waiting: list[tuple[int, int, OHLCForecast]] = []
    for one in forecasts:
        heappush(waiting, one)
        if len(waiting) > _CAUGHT_UP:
            yield heappop(waiting)
    while waiting:
        yield heappop(waiting)


def _checked(forecasts: Iterable[OHLCForecast], key: SeriesKey) -> Iterator[tuple[int, int, OHLCForecast]]:
    before = -1
    for one in forecasts:
        if one.key != key:
            raise InvalidContext("forecasts", f"forecasts of {key}", one.key)
        if one.available_at is None:
            raise InvalidContext("forecasts", "available_at on each", f"none at cutoff {utc_text(one.cutoff)}")
        if one.cutoff <= before:
            raise InvalidContext("forecasts", "rising cutoffs", f"{utc_text(one.cutoff)} after {utc_text(before)}")
        before = one.cutoff
        yield one.available_at, one.cutoff, one
