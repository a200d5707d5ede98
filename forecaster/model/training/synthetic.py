"""Simulate OHLC bars that behave like a market: the training data of the bundled checkpoint.

Each bar is cut from a simulated intrabar path, so open, high, low and close are consistent by construction. Every
series is its own market (`Market`), drawn so that real markets lie inside the range (docs/stylised_facts.md).
Volatility clusters on three time scales, reacts to returns, and changes its level. There are fat tails, jumps,
leverage, daily and weekly seasons, and every kind of gap. Reversion and momentum are weak and mostly absent; drift is
small. Ticks, bars without a trade, splits, missing bars, and price levels between 1e-6 and 1e6 are included.

The past and the future are drawn separately: `simulate_futures` draws many futures of one past, in mirrored pairs,
which makes the training target less noisy than a single outcome.

Shapes: S series, K futures of each, T bars, H bars of a future, U steps inside a bar, F fields (open, high, low,
close), C components of volatility, P positions in a season.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

INTRABAR_STEPS = 8
BURN_IN_BARS = 64
SHARE_WITH_MISSING_BARS = 0.2
SHARE_WITH_EVENT = 1 / 30
USUAL_SHOCK = 0.78

COMPONENTS = (((100.0, 2000.0), 0.5), ((15.0, 150.0), 0.45), ((1.0, 15.0), 0.4))
"""Components of log volatility: range of their memory in bars, and their largest deviation."""

DAYS, HOURS = 7, 24
LONGEST_SEASON = DAYS * HOURS
SEASONS = {1: 0.42, 5: 0.06, 6: 0.02, 7: 0.2, 13: 0.04, 24: 0.12, 26: 0.04, 48: 0.03, 96: 0.03, 168: 0.04}
"""Lengths of the season of volatility in bars, 1 for none, and how often each is drawn."""
SESSION_LENGTHS = (6, 7, 13, 26)
GAP_SIZES = ((1e-3, 0.02), (0.02, 0.2), (0.2, 1.0))


@dataclass(frozen=True)
class Market:
    """Parameters of each series, (S, 1) unless noted; sizes are relative to a bar's typical volatility.

    Attributes:
        volatility: typical deviation of a bar's log return.
        memory: (S, C) of each component of log volatility, per bar; `size` (S, C) its deviation.
        shift_rate: how often volatility changes its level for long.
        answer: what a move larger than usual adds to log volatility, forgotten by `answer_memory` per bar.
        leverage: what a fall adds to it, and a rise takes off.
        tail_df: degrees of freedom of a bar's Student t.
        jump_rate: jumps per bar, of deviation `jump_size`.
        reversion: share of a bar's move that the next continues; below 0, takes back.
        drift: of every bar.
        bounce: deviation of traded prices around the true one.
        evenness: how evenly a bar's variance is spread over its path: shape of a gamma law.
        roughness: how far the path strays between its steps; 1 is Brownian.
        season: (S, P) of log volatility by position, of which `cycle` repeat; the first bar stands at `start`.
        gap: (S, P) deviation of the gap before each position; one comes with probability `gap_rate`.
        idle_rate: how often a bar has no trade.
        level: price of the first bar; `tick` is its share.
    """

    volatility: Floats
    memory: Floats
    size: Floats
    shift_rate: Floats
    answer: Floats
    answer_memory: Floats
    leverage: Floats
    tail_df: Floats
    jump_rate: Floats
    jump_size: Floats
    reversion: Floats
    drift: Floats
    bounce: Floats
    evenness: Floats
    roughness: Floats
    season: Floats
    cycle: NDArray[np.int64]
    start: NDArray[np.int64]
    gap: Floats
    gap_rate: Floats
    idle_rate: Floats
    level: Floats
    tick: Floats

    def repeat(self, times: int) -> Market:
        """Repeat each series `times` times."""
        return Market(**{field.name: np.repeat(getattr(self, field.name), times, axis=0) for field in fields(self)})


@dataclass(frozen=True)
class _State:
    """State of a market after `bars` bars: last move, true and traded log price, (S, 1); component is (S, C)."""

    bars: int
    component: Floats
    answer: Floats
    move: Floats
    true_price: Floats
    price: Floats

    def repeat(self, times: int) -> _State:
        """Repeat each series `times` times."""
        bars, *arrays = (getattr(self, field.name) for field in fields(self))
        return _State(bars, *(np.repeat(array, times, axis=0) for array in arrays))


@dataclass(frozen=True)
class _Noise:
    """The random draws of bars: of volatility (S, T, C), inside bars (S, T, U), their sum and between bars (S, T)."""

    component_STC: Floats
    shock_ST: Floats
    path_STU: Floats
    above_STU: Floats
    below_STU: Floats
    gap_ST: Floats
    event_ST: Floats
    bounce_STU: Floats

    def mirrored(self) -> _Noise:
        """Return the same volatility with every price move reversed."""
        moves = ("shock_ST", "path_STU", "gap_ST", "bounce_STU")
        reversed_ = {name: -getattr(self, name) for name in moves}
        return replace(self, above_STU=self.below_STU, below_STU=self.above_STU, **reversed_)


def simulate_ohlc(rng: np.random.Generator, n_series: int, n_bars: int) -> Floats:
    """Draw `n_series` independent OHLC series; return prices of shape (S, F=4, T), missing bars as NaN."""
    return drop_bars(rng, simulate_futures(rng, n_series, n_bars, 0, 2)[0])


def simulate_futures(
    rng: np.random.Generator, n_series: int, n_bars: int, n_future: int, n_futures: int
) -> tuple[Floats, Floats]:
    """Draw series and, for each, several futures of the same past.

    Returns:
        Prices (S, F, T) of the past, and (S, K, F, H) of the futures, K = `n_futures`, an even
        number: the second half mirrors the price moves of the first.
    """
    market = _draw_market(rng, n_series)
    past = _with_events(rng, market, _draw_noise(rng, market, BURN_IN_BARS + n_bars))
    log_SFT, state = _evolve(market, _first_state(rng, market), past)
    first_close = log_SFT[:, 3, BURN_IN_BARS]
    many = market.repeat(n_futures // 2)
    ahead = _draw_noise(rng, many, n_future)
    paths = [_evolve(many, state.repeat(n_futures // 2), noise)[0] for noise in (ahead, ahead.mirrored())]
    futures_SKFH = np.concatenate([path.reshape(n_series, n_futures // 2, 4, n_future) for path in paths], axis=1)
    past_SFT = _to_prices(market, log_SFT[:, :, BURN_IN_BARS:] - first_close[:, None, None])
    futures_SKFH = _to_prices(market, futures_SKFH - first_close[:, None, None, None])
    return past_SFT, futures_SKFH


def drop_bars(rng: np.random.Generator, prices_SFT: Floats) -> Floats:
    """Set up to 5 % of the bars of a fifth of the series to NaN, all four fields at once, never the last bar."""
    n, _, n_bars = prices_SFT.shape
    share = np.where(rng.random((n, 1, 1)) < SHARE_WITH_MISSING_BARS, rng.uniform(0.0, 0.05, (n, 1, 1)), 0.0)
    lost_S1T = rng.random((n, 1, n_bars)) < share
    lost_S1T[:, :, -1] = False
    return np.where(lost_S1T, np.nan, prices_SFT)


class _Draw:
    """Draws random numbers, one per series, (S, 1)."""

    def __init__(self, rng: np.random.Generator, n_series: int) -> None:
        self.rng = rng
        self.shape = (n_series, 1)

    def uniform(self, low: float, high: float) -> Floats:
        return self.rng.uniform(low, high, self.shape)

    def log_uniform(self, low: float, high: float) -> Floats:
        return np.exp(self.uniform(np.log(low), np.log(high)))

    def normal(self, mean: float, deviation: float) -> Floats:
        return self.rng.normal(mean, deviation, self.shape)

    def chance(self, share: float) -> NDArray[np.bool_]:
        """Return True for about a `share` of the series."""
        return self.rng.random(self.shape) < share

    def keep(self, share: float, values: Floats) -> Floats:
        """Keep `values` for about a `share` of the series, zero for the others."""
        return np.where(self.chance(share), values, 0.0)


def _draw_market(rng: np.random.Generator, n_series: int) -> Market:
    draw = _Draw(rng, n_series)
    period = rng.choice(list(SEASONS), draw.shape, p=list(SEASONS.values()))
    volatility = draw.log_uniform(4e-4, 6e-2)
    return Market(
        volatility=volatility,
        memory=np.concatenate([np.exp(-1.0 / draw.log_uniform(*bars)) for bars, _ in COMPONENTS], axis=1),
        size=np.concatenate([draw.uniform(0.0, size) for _, size in COMPONENTS], axis=1),
        shift_rate=draw.keep(0.3, draw.log_uniform(1e-3, 1e-2)),
        answer=draw.keep(0.7, draw.uniform(0.0, 0.2)),
        answer_memory=np.exp(-1.0 / draw.log_uniform(2.0, 60.0)),
        leverage=draw.keep(0.5, draw.uniform(0.0, 0.2)),
        tail_df=draw.log_uniform(3.3, 40.0),
        jump_rate=draw.keep(0.4, draw.log_uniform(1e-3, 2e-2)),
        jump_size=draw.uniform(2.0, 6.0),
        reversion=draw.keep(0.5, draw.normal(-0.03, 0.04)),
        drift=draw.normal(0.0, 0.015),
        bounce=draw.keep(0.25, draw.uniform(0.0, 0.2)),
        evenness=draw.log_uniform(0.5, 20.0),
        roughness=draw.uniform(0.4, 1.4),
        season=_draw_season(draw, period),
        cycle=LONGEST_SEASON // period * period,
        start=rng.integers(0, LONGEST_SEASON, draw.shape),
        gap=_draw_gaps(draw, period),
        gap_rate=np.where(draw.chance(0.6), 1.0, draw.uniform(0.02, 0.8)),
        idle_rate=draw.keep(0.06, draw.uniform(0.0, 0.5)),
        level=draw.log_uniform(1e-6, 1e6),
        tick=draw.keep(0.4, volatility * draw.log_uniform(1e-3, 0.5)),
    )


def _draw_season(draw: _Draw, period: NDArray[np.int64]) -> Floats:
    """Return what each position of the season adds to log volatility, (S, P).

    Waves of three harmonics, edges (the first and last bar of a session differ), or a week's end; a cycle of 24 may
    stand in a week whose last two days are calm.
    """
    position = np.arange(LONGEST_SEASON)
    place = position % period
    waves = np.zeros(place.shape)
    for harmonic in (1, 2, 3):
        phase = 2 * np.pi * (harmonic * place / period + draw.uniform(0.0, 1.0))
        waves += draw.normal(0.0, 0.35 / harmonic) * np.sin(phase)
    edges = draw.normal(0.5, 0.4) * (place == 0) + draw.normal(0.15, 0.3) * (place == period - 1)
    calm = draw.normal(-0.4, 0.2)
    week_of_days = 0.3 * waves + calm * ((period == DAYS) & (place >= DAYS - 2))
    season = np.where(draw.chance(0.4), waves, np.where(draw.chance(0.5), edges, week_of_days))
    in_a_week = draw.chance(0.5) & (period == HOURS)
    season += calm * (in_a_week & (position >= (DAYS - 2) * HOURS))
    return season * (period > 1)


def _draw_gaps(draw: _Draw, period: NDArray[np.int64]) -> Floats:
    """Return the size of the gap by position, (S, P): none, a tick, an index's, a stock's night, a session's."""
    size = draw.keep(0.65, draw.log_uniform(*GAP_SIZES[0]))
    size = np.where(draw.chance(0.2), draw.log_uniform(*GAP_SIZES[1]), size)
    size = np.where(draw.chance(0.35), draw.log_uniform(*GAP_SIZES[2]), size)
    first = np.arange(LONGEST_SEASON) % period == 0
    session = np.where(first, draw.log_uniform(0.3, 4.0), draw.keep(0.5, draw.log_uniform(1e-3, 0.05)))
    return np.where(draw.chance(0.6) & np.isin(period, SESSION_LENGTHS), session, size)


def _first_state(rng: np.random.Generator, market: Market) -> _State:
    """Draw the first state of a market, at log price 0."""
    nothing = np.zeros_like(market.level)
    return _State(0, rng.standard_normal(market.size.shape) * market.size, nothing, nothing, nothing, nothing)


def _draw_noise(rng: np.random.Generator, market: Market, n_bars: int) -> _Noise:
    """Draw the noise of `n_bars` bars: paths of unit variance times fat tails, with jumps; idle bars do not move."""
    shape_ST = (len(market.level), n_bars)
    shape_STU = (*shape_ST, INTRABAR_STEPS)
    innovation = market.size * np.sqrt(1 - market.memory**2)
    component_STC = rng.standard_normal((*shape_ST, len(COMPONENTS))) * innovation[:, None]
    component_STC[:, :, 0] += rng.normal(0.0, 0.5, shape_ST) * (rng.random(shape_ST) < market.shift_rate)
    variance_STU = rng.standard_gamma(market.evenness[:, :, None], shape_STU) + 1e-3
    variance_STU *= (_tails(rng, market.tail_df, n_bars) ** 2 / variance_STU.sum(axis=2))[:, :, None]
    path_STU = rng.standard_normal(shape_STU) * np.sqrt(variance_STU)
    variance_STU *= market.roughness[:, :, None] ** 2
    above_STU, below_STU = (variance_STU * rng.standard_exponential(shape_STU) for _ in range(2))
    s, t = np.nonzero(rng.random(shape_ST) < market.jump_rate)
    path_STU[s, t, rng.integers(0, INTRABAR_STEPS, len(s))] += rng.standard_normal(len(s)) * market.jump_size[s, 0]
    gap_ST = rng.standard_normal(shape_ST) * _tails(rng, np.maximum(3.0, market.tail_df / 2), n_bars)
    gap_ST *= rng.random(shape_ST) < market.gap_rate
    bounce_STU = rng.standard_normal(shape_STU) * (market.bounce * (market.idle_rate == 0))[:, :, None]
    idle_ST = rng.random(shape_ST) < market.idle_rate
    for array in (path_STU, above_STU, below_STU, gap_ST):
        array[idle_ST] = 0.0
    return _Noise(
        component_STC=component_STC,
        shock_ST=path_STU.sum(axis=2),
        path_STU=path_STU,
        above_STU=above_STU,
        below_STU=below_STU,
        gap_ST=gap_ST,
        event_ST=np.zeros(shape_ST),
        bounce_STU=bounce_STU,
    )


def _tails(rng: np.random.Generator, df: Floats, n_bars: int) -> Floats:
    """Return the random scale that turns a normal into a Student t of unit variance, (S, T), with a cap."""
    chi_square = rng.chisquare(np.broadcast_to(df, (len(df), n_bars)))
    return np.sqrt((df - 2.0) / np.maximum(chi_square, 0.05))


def _with_events(rng: np.random.Generator, market: Market, noise: _Noise) -> _Noise:
    """Add an event to one series of thirty: a gap of 5 to 50 typical bars, or a split by a factor of 2 to 10."""
    draw = _Draw(rng, len(market.level))
    factor = np.log(rng.choice([2, 3, 4, 5, 10], draw.shape))
    size = np.where(draw.chance(0.5), draw.uniform(5, 50) * market.volatility, factor)
    size *= rng.choice([-1.0, 1.0], draw.shape) * draw.chance(SHARE_WITH_EVENT)
    at = rng.integers(0, noise.event_ST.shape[1], draw.shape)
    return replace(noise, event_ST=np.where(np.arange(noise.event_ST.shape[1]) == at, size, 0.0))


def _evolve(market: Market, state: _State, noise: _Noise) -> tuple[Floats, _State]:
    """Simulate the bars of `noise`: return log open, high, low, close (S, F, T), and the final state."""
    n_bars = noise.shock_ST.shape[1]
    position_ST = (market.start + state.bars + np.arange(n_bars)) % market.cycle
    gap_ST = noise.gap_ST * np.take_along_axis(market.gap, position_ST, axis=1)
    season_ST = np.take_along_axis(market.season, position_ST, axis=1)
    sigma_ST, drift_ST, state = _moves(market, state, noise, season_ST, gap_ST)
    gap_ST = gap_ST * sigma_ST + noise.event_ST
    share_U = np.arange(1, INTRABAR_STEPS + 1) / INTRABAR_STEPS
    inside_STU = np.cumsum(noise.path_STU * sigma_ST[:, :, None], axis=2) + drift_ST[:, :, None] * share_U
    true_ST = state.true_price + np.cumsum(gap_ST + inside_STU[:, :, -1], axis=1)
    inside_STU += (true_ST - inside_STU[:, :, -1])[:, :, None] + noise.bounce_STU * sigma_ST[:, :, None]
    prices_ST = np.concatenate([state.price, inside_STU[:, :, -1]], axis=1)
    open_ST, close_ST = prices_ST[:, :-1] + gap_ST, prices_ST[:, 1:]
    high_ST, low_ST = _extremes(open_ST, inside_STU, noise, sigma_ST)
    true_price = np.concatenate([state.true_price, true_ST], axis=1)[:, -1:]
    ended = replace(state, bars=state.bars + n_bars, true_price=true_price, price=prices_ST[:, -1:])
    return np.stack([open_ST, high_ST, low_ST, close_ST], axis=1), ended


def _moves(
    market: Market, state: _State, noise: _Noise, season_ST: Floats, gap_ST: Floats
) -> tuple[Floats, Floats, _State]:
    """Return volatility and drift of each bar, (S, T), and the final state: the recursive part."""
    sigma_ST, drift_ST = np.empty_like(season_ST), np.empty_like(season_ST)
    component, answer, move = state.component, state.answer, state.move
    for t in range(season_ST.shape[1]):
        bar = slice(t, t + 1)
        component = market.memory * component + noise.component_STC[:, t]
        log_volatility = component.sum(axis=1, keepdims=True) + answer + season_ST[:, bar]
        sigma_ST[:, bar] = market.volatility * np.exp(np.clip(log_volatility, -4.0, 3.0))
        drift_ST[:, bar] = market.drift * market.volatility + market.reversion * move
        move = drift_ST[:, bar] + sigma_ST[:, bar] * (noise.shock_ST[:, bar] + gap_ST[:, bar])
        shock = np.clip(noise.shock_ST[:, bar], -5.0, 5.0)
        answer = market.answer_memory * answer + market.answer * (np.abs(shock) - USUAL_SHOCK) - market.leverage * shock
    return sigma_ST, drift_ST, replace(state, component=component, answer=answer, move=move)


def _extremes(open_ST: Floats, inside_STU: Floats, noise: _Noise, sigma_ST: Floats) -> tuple[Floats, Floats]:
    """Return high and low of the path through the open and the points inside, with a Brownian bridge between them.

    Over a step from a to b of variance v its maximum is (a + b + √((b - a)² + 2·v·e)) / 2, e exponential
    (Karatzas and Shreve, 1991, "Brownian Motion and Stochastic Calculus", 2.8).
    """
    from_STU = np.concatenate([open_ST[:, :, None], inside_STU[:, :, :-1]], axis=2)
    middle_STU, square_STU = from_STU + inside_STU, (inside_STU - from_STU) ** 2
    variance_ST1 = 2.0 * sigma_ST[:, :, None] ** 2
    high_STU = middle_STU + np.sqrt(square_STU + variance_ST1 * noise.above_STU)
    low_STU = middle_STU - np.sqrt(square_STU + variance_ST1 * noise.below_STU)
    high_ST = np.maximum(high_STU.max(axis=2) / 2, np.maximum(open_ST, inside_STU.max(axis=2)))
    low_ST = np.minimum(low_STU.min(axis=2) / 2, np.minimum(open_ST, inside_STU.min(axis=2)))
    return high_ST, low_ST


def _to_prices(market: Market, log: Floats) -> Floats:
    """Convert log prices, first axis S, to prices, rounded to the series' tick if it has one."""
    of_series = (-1, *[1] * (log.ndim - 1))
    level, tick = (array.reshape(of_series) for array in (market.level, market.level * market.tick))
    prices = level * np.exp(log)
    rounded = np.maximum(np.round(prices / np.where(tick > 0, tick, 1.0)), 1.0) * tick
    return np.where(tick > 0, rounded, prices)
