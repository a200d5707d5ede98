"""The small chart of a forecast in a notebook: SVG by hand, since plotly would weigh a megabyte in each cell.

Shapes: H steps.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Final

from forecaster.errors import format_time

if TYPE_CHECKING:
    from forecaster.forecast import OHLCForecast

_WIDTH: Final = 320
_HEIGHT: Final = 120
_BANDS: Final = ((0.8, "#cfe0f5"), (0.5, "#9dc0ea"))


def svg(forecast: OHLCForecast) -> str:
    """Return the close of a forecast as a figure: its median with the 50 % and 80 % interval."""
    caption = f"{escape(str(forecast.key))}, cutoff {format_time(forecast.cutoff)}"
    levels = forecast.quantile_levels
    bands = [band for band in _BANDS if levels[0] <= (1 - band[0]) / 2 and (1 + band[0]) / 2 <= levels[-1]]
    last = [] if forecast.last_close is None else [forecast.last_close]
    lines = [[*last, *line.tolist()] for coverage, _ in bands for line in forecast.close.interval(coverage)]
    lines.append([*last, *forecast.close.median.tolist()])
    low, high = min(map(min, lines)), max(map(max, lines))
    scale, width = (high - low) or 1.0, max(len(lines[0]) - 1, 1)

    def points(line: list[float]) -> list[str]:
        return [
            f"{10 + i * (_WIDTH - 90) / width:.1f},{10 + (high - price) / scale * (_HEIGHT - 20):.1f}"
            for i, price in enumerate(line)
        ]

    shapes = [
        f'<polygon fill="{bands[i][1]}" points="{" ".join(points(lines[2 * i]) + points(lines[2 * i + 1])[::-1])}"/>'
        for i in range(len(bands))
    ]
    shapes.append(f'<polyline fill="none" stroke="#1f5fa8" stroke-width="2" points="{" ".join(points(lines[-1]))}"/>')
    shapes += [
        f'<text x="{_WIDTH - 74}" y="{y}" font-size="11" fill="currentColor">{price:.6g}</text>'
        for price, y in ((high, 14), (low, _HEIGHT - 6))
    ]
    ends = f"{format_time(forecast.target_time())} to {format_time(forecast.target_time(forecast.horizon))}"
    return (
        f"<figure><svg width='{_WIDTH}' height='{_HEIGHT}' role='img' aria-label='close of {caption}'>"
        f"{''.join(shapes)}</svg><figcaption>{caption}: close, bars {ends}</figcaption></figure>"
    )
