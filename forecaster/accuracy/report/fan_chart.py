"""Candles and fan charts, in plotly, and the style that all figures share.

A trace's `meta` names the choices of the page's controls under which it is shown: `field`, `steps` and `variant`.
Colours are distinguishable for the colour-blind, on light and on dark; the page sets those of text and grid.

Shapes: H steps, Q quantile levels, T bars.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import plotly.graph_objects as go

from forecaster.accuracy.scores import RAW, SERVED
from forecaster.bars import FIELDS
from forecaster.errors import format_time
from forecaster.forecast import interpolate
from forecaster.formatting import format_date, format_minute, format_price

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from forecaster.accuracy.report.content import ChartPanel
    from forecaster.bars import Bars
    from forecaster.timeframe import Timeframe

ALL_FIELDS: Final = "all fields"
VARIANT_LABELS: Final = {SERVED: "as served", RAW: "before calibration"}
BANDS: Final = ((0.98, 0.10), (0.80, 0.18), (0.50, 0.28))
"""Central intervals of a fan, and their opacity."""
FONT: Final = 'system-ui, -apple-system, "Segoe UI", Roboto, sans-serif'
BLUE: Final = "#3987d6"
GREY: Final = "#808894"
_BLUE_RGB: Final = "57, 135, 214"
_TICKS: Final = 3
"""Number of times below a fan: a phone has room for no more."""


@dataclass(frozen=True)
class CaptionedFigure:
    """A figure with its title and `label`, the text for screen readers; without a figure, `label` is the reason."""

    title: str
    label: str
    figure: Any = None
    wide: bool = False


def draw_fan(panel: ChartPanel) -> CaptionedFigure:
    """Draw candles with the forecast quantiles over them: the central 50, 80 and 98 % of each field."""
    bars, fan = panel.bars, panel.fan
    levels, timeframe = fan.quantile_levels, bars.key.timeframe
    opens = np.union1d(bars.open_time, fan.target_open_H)
    position = {time: i for i, time in enumerate(opens.tolist())}
    x_H = [position[time] for time in fan.target_open_H.tolist()]
    times = format_opens(fan.target_open_H, timeframe)
    variants = {SERVED: fan.served_FHQ} | ({RAW: fan.raw_FHQ} if fan.is_calibrated else {})
    traces = []
    for variant, prices_FHQ in variants.items():
        for field, prices_HQ in zip(FIELDS, prices_FHQ, strict=True):
            meta = _fan_choices(field, variant)
            traces += _draw_bands(x_H, prices_HQ, levels, meta)
            heads = [f"{field} forecast for {time}" for time in times]
            traces.append(_draw_median(heads, x_H, prices_HQ, levels, meta))
    traces.append(draw_candles(bars, [position[time] for time in bars.open_time.tolist()]))
    ticks = np.unique(np.arange(1, 2 * _TICKS, 2) * (len(opens) - 1) // (2 * _TICKS)).tolist()
    figure = make_figure(traces, y_title="price")
    labels = [_tick_label(opens[i], timeframe) for i in ticks]
    figure.update_xaxes(tickvals=ticks, ticktext=labels, range=[-1, len(opens)])
    figure.update_xaxes(tickangle=0, rangeslider_visible=False)
    figure.add_vline(x=x_H[0] - 0.5, line={"color": GREY, "width": 1, "dash": "dot"})
    close_HQ = fan.served_FHQ[FIELDS.index("close")]
    lower, upper = (format_price(float(interpolate(close_HQ, levels, level)[-1])) for level in (0.1, 0.9))
    settled = int(np.isin(fan.target_open_H, bars.open_time).sum())
    label = (
        f"{panel.title}: cutoff {format_time(fan.cutoff)}, {len(x_H)} bars, {settled} of them closed. "
        f"80 % interval of the last close: {lower} to {upper}."
    )
    return CaptionedFigure(panel.title, label, figure)


def draw_candles(bars: Bars, x_T: list[int]) -> Any:
    """Draw bars as candles, hollow where they rose, so that no colour is needed."""
    open_, high, low, close, _ = bars.ohlcv_TF.T.tolist()
    prices = zip(format_opens(bars.open_time, bars.key.timeframe), open_, high, low, close, strict=True)
    texts = [
        f"<b>{time}</b>"
        + "".join(f"<br>{field} {format_price(price)}" for field, price in zip(FIELDS, ohlc, strict=True))
        for time, *ohlc in prices
    ]
    return go.Candlestick(
        x=x_T, open=open_, high=high, low=low, close=close, name="bars", text=texts, hoverinfo="text",
        increasing={"line": {"color": GREY, "width": 1.3}, "fillcolor": "rgba(0, 0, 0, 0)"},
        decreasing={"line": {"color": GREY, "width": 1.3}, "fillcolor": GREY},
    )  # fmt: skip


def make_figure(traces: list[Any], x_title: str = "", y_title: str = "") -> Any:
    """Make a figure in the style of the page."""
    figure = go.Figure(traces)
    figure.update_layout(
        template="none", autosize=True, hovermode="closest", dragmode="zoom", font={"family": FONT, "size": 12},
        margin={"l": 62, "r": 10, "t": 8, "b": 52 if x_title else 40}, paper_bgcolor="rgba(0, 0, 0, 0)",
        plot_bgcolor="rgba(0, 0, 0, 0)",
        hoverlabel={"font": {"family": FONT}},
        legend={"orientation": "h", "y": 1, "yanchor": "bottom", "x": 0, "itemclick": False, "itemdoubleclick": False},
    )  # fmt: skip
    figure.update_xaxes(title_text=x_title, title_standoff=8, zeroline=False)
    figure.update_yaxes(title_text=y_title, zeroline=False, automargin=True)
    return figure


def format_opens(opens: NDArray[np.int64], timeframe: Timeframe) -> list[str]:
    """Format open times of bars: dates of daily bars, else minutes."""
    return [format_date(time) if timeframe.is_daily else format_minute(time) for time in opens.tolist()]


def plotly_time(time_ms: int) -> str:
    """Return a time (UTC ms) as figures take it."""
    return str(np.datetime_as_string(np.datetime64(int(time_ms), "ms"), unit="m"))


def _draw_bands(
    x_H: list[int], prices_HQ: NDArray[np.float64], levels: tuple[float, ...], meta: dict[str, list[str]]
) -> list[Any]:
    """Draw one closed band for each interval whose ends are among the levels."""
    bands = []
    for coverage, opacity in BANDS:
        tail = round((1 - coverage) / 2, 12)
        if not levels[0] <= tail <= 1 - tail <= levels[-1]:
            continue
        lower, upper = (interpolate(prices_HQ, levels, level).tolist() for level in (tail, round(1 - tail, 12)))
        # A single step has no area: its band is as wide as its bar.
        ends = [x_H[0] - 0.5, *x_H[1:-1], x_H[-1] + 0.5] if len(x_H) > 1 else [x_H[0] - 0.5, x_H[0] + 0.5]
        lower, upper = (edge if len(x_H) > 1 else edge * 2 for edge in (lower, upper))
        bands.append(
            go.Scatter(x=[*ends, *ends[::-1]], y=[*lower, *upper[::-1]], fill="toself", mode="lines",
                       line={"width": 0}, fillcolor=f"rgba({_BLUE_RGB}, {opacity})", hoverinfo="skip",
                       name=f"{coverage:.0%}", meta=meta)
        )  # fmt: skip
    return bands


def _draw_median(
    heads: list[str],
    x_H: list[int],
    prices_HQ: NDArray[np.float64],
    levels: tuple[float, ...],
    meta: dict[str, list[str]],
) -> Any:
    texts = [_hover_text(head, values_Q, levels) for head, values_Q in zip(heads, prices_HQ, strict=True)]
    return go.Scatter(
        x=x_H, y=interpolate(prices_HQ, levels, 0.5).tolist(), mode="lines+markers", name="median",
        line={"color": BLUE, "width": 2}, marker={"size": 4}, text=texts, hoverinfo="text", meta=meta,
    )  # fmt: skip


def _hover_text(head: str, values_Q: NDArray[np.float64], levels: tuple[float, ...]) -> str:
    lines = [f"<b>{head}</b>", f"median {format_price(float(interpolate(values_Q, levels, 0.5)))}"]
    for coverage, _ in reversed(BANDS):
        tail = round((1 - coverage) / 2, 12)
        if levels[0] <= tail <= 1 - tail <= levels[-1]:
            ends = (format_price(float(interpolate(values_Q, levels, level))) for level in (tail, round(1 - tail, 12)))
            lines.append(f"{coverage:.0%} in {' – '.join(ends)}")
    return "<br>".join(lines)


def _fan_choices(field: str, variant: str) -> dict[str, list[str]]:
    """A fan shows one field: the close if all are chosen."""
    return {"field": [field, ALL_FIELDS] if field == "close" else [field], "variant": [VARIANT_LABELS[variant]]}


def _tick_label(time_ms: int, timeframe: Timeframe) -> str:
    """Format a time in two short lines."""
    time = dt.datetime.fromtimestamp(time_ms / 1000, dt.UTC)
    return f"{time:%d %b<br>%Y}" if timeframe.is_daily else f"{time:%d %b<br>%H:%M}"
