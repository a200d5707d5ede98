"""The report in a real browser: every figure is drawn, nothing is fetched, no messages, no horizontal scrolling."""

from __future__ import annotations

import asyncio

import pytest

from forecaster.accuracy.report.page import write_report
from tests.accuracy.report.test_page import HOSTILE, gathered, make_ledger
from tests.browser.chromium import chromium
from tests.builders import make_key

pytestmark = pytest.mark.browser

VISIBLE = "[...document.querySelectorAll('.plot')].map(one => one.data.filter(t => t.visible).map(t => t.name))"
COLOURS = "[...document.querySelectorAll('.plot')].map(one => one.layout.font.color)"


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Two series, one with a name that would run, the other with nothing settled."""
    sections = []
    for key, cutoffs in ((make_key(exchange=HOSTILE), 80), (make_key(symbol="ETH/USDT"), 1)):
        one, scope = gathered(*make_ledger(key, cutoffs))
        sections.append(one)
    path = tmp_path_factory.mktemp("browser") / "report.html"
    write_report(sections, scope, path)
    return path.as_uri()


def open_report(report, width, *expressions, dark=False):
    """Open the report and give the value of each expression, and the tab."""

    async def look():
        async with chromium() as tab:
            await tab.open(report, width, dark=dark)
            await tab.draw_all(width)
            return [await tab.run(one) for one in expressions], tab

    return asyncio.run(look())


@pytest.mark.parametrize("width", [390, 1400])
def test_every_figure_is_drawn_without_console_messages(report, width):
    """Eight figures, no error, no console line, no request but the file's own, and no scrolling sideways."""
    (plots, drawn, wide, high), tab = open_report(
        report,
        width,
        "document.querySelectorAll('.plot').length",
        "document.querySelectorAll('.plot .main-svg').length >= document.querySelectorAll('.plot').length",
        "document.documentElement.scrollWidth",
        "Math.min(...[...document.querySelectorAll('.plot .main-svg')].map(one => one.clientHeight))",
    )

    assert (plots, drawn) == (8, True)
    assert wide == width
    assert high > 200
    assert tab.messages == []
    assert [one for one in tab.requests if not one.startswith(("data:", "blob:"))] == [report]


def test_controls_select_traces(report):
    """A field and before calibration prices: all figures of the section follow, of the other section none."""
    choose = """(() => { for (const [name, value] of [["field", "high"], ["variant", "before calibration"]]) {
        const one = document.querySelector(`#series-1 select[data-choice=${name}]`);
        one.value = value; one.dispatchEvent(new Event("change")); } })()"""
    data = "document.querySelectorAll('.plot')[1].data.filter(t => t.visible).map(t => t.meta)"
    (before, _, after, meta), _ = open_report(report, 1400, VISIBLE, choose, VISIBLE, data)

    assert all(before)
    assert [len(one) for one in before] == [len(one) for one in after]
    assert {(*one["field"], *one["variant"]) for one in meta if one} == {("high", "before calibration")}


def test_dark_colour_scheme(report):
    """Text of figures is lighter where the ground is dark."""
    ground = "getComputedStyle(document.body).backgroundColor"
    (light_ground, light), _ = open_report(report, 1400, ground, COLOURS)
    (dark_ground, dark), _ = open_report(report, 1400, ground, COLOURS, dark=True)

    assert light_ground != dark_ground
    assert set(light) == {"#5d6673"}
    assert set(dark) == {"#9aa4b2"}
