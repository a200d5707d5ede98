"""The report: a real picture, and a page that is one file and trusts nobody's names."""

from __future__ import annotations

import base64
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from forecaster.accuracy.losses import compute_losses
from forecaster.accuracy.report.pictures import Chart, Page, draw_charts, write_page
from forecaster.accuracy.scores import Scores
from forecaster.bars import FIELDS
from forecaster.ledger import LIVE, AccuracyReport, Run
from forecaster.store.memory import MemoryStore
from tests.builders import HOUR_MS, make_bars, make_key, utc_ms
from tests.forecast_builders import make_forecast, make_past, make_steps, settled_rows

START = utc_ms("2024-01-01")
HOSTILE = '<script>alert("x")</script>&\'"'
VOID = {"meta", "img", "br", "link", "input"}
PNG = b"\x89PNG\r\n\x1a\n picture of no one's bars"


class Reader(HTMLParser):
    """Reads a page as a browser does: tags, attributes and text; complains of tags that do not match."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        """Note the tag, and that it is open unless it cannot be."""
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        """Close the tag that was opened last, and no other."""
        assert self.open.pop() == tag

    def handle_data(self, data):
        """Note the text between tags."""
        if data.strip():
            self.texts.append(data.strip())


def make_report(skill: float | None = 0.125, exchange: str = "binance") -> AccuracyReport:
    return AccuracyReport(
        key=make_key(exchange),
        model_id="nano@0123456789ab",
        step=1,
        field="close",
        n=1234,
        mae=12.345678,
        rmse=20.5,
        bias=-0.5,
        log_rmse=0.002,
        log_bias=-0.0001,
        mase=0.98,
        pinball=3.5,
        wql=0.001,
        crps=9.5,
        interval_score80=120.0,
        width80=77.0,
        coverage50=0.5125,
        coverage80=0.8125,
        coverage90=0.9125,
        coverage98=None,
        pit=(0.1,) * 10,
        direction=0.51,
        direction_majority=0.53,
        qlike=None,
        n_common=1200,
        skill_mae=skill,
        skill_pinball=skill,
        skill_crps=skill,
    )


def make_page(**changes: object) -> Page:
    parts = {
        "title": "What was forecast",
        "lead": "Two series.",
        "figures": [("Skill", "+0.012", "above 0 is better")],
        "reports": [make_report()],
        "notes": ["Point skill near zero is honest."],
    }
    return Page(**(parts | changes))


def make_chart(key=None, start=START, *, settled=True):
    """A hundred bars, a forecast in the middle, and what was forecast one bar before each of the last twenty."""
    key = key or make_key()
    bars = make_bars(key, 100, start)
    store = MemoryStore()
    store.add_run(Run(LIVE, LIVE, START))
    store.add_bars(bars)
    cutoffs = [int(time) for time in bars.close_time[79:99]]
    store.add_forecasts([make_forecast(key, cutoff, horizon=1, seed=cutoff % 1000) for cutoff in cutoffs], LIVE)
    rows = [one for one in settled_rows(store, 2**60) if one.row.field == "close"]
    return Chart(bars, make_forecast(key, cutoffs[0], horizon=10), rows if settled else [])


def written(tmp_path, page):
    """The text of a page with its picture inside."""
    (tmp_path / "charts.png").write_bytes(PNG)
    write_page(page, tmp_path / "charts.png", tmp_path / "report.html")
    return (tmp_path / "report.html").read_text(encoding="utf-8")


def pixels(path):
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"))


def test_the_picture_is_a_picture(tmp_path):
    """A PNG that opens, of some size, and not blank."""
    draw_charts([make_chart()], tmp_path / "charts.png")

    shown = pixels(tmp_path / "charts.png")

    assert shown.shape[0] > 300
    assert shown.shape[1] > 1000
    assert shown.std() > 5


@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.parametrize("symbol", ["$x^$/USD", "\\frac/$\\bad{$", "<script>/USD"])
def test_a_hostile_name_is_no_formula(tmp_path, symbol):
    r"""Matplotlib would set what stands between two `$` as mathematics, and refuses some of it."""
    draw_charts([make_chart(make_key(symbol=symbol))], tmp_path / "charts.png")

    assert pixels(tmp_path / "charts.png").std() > 5


def test_each_series_has_a_row(tmp_path):
    """Stocks among them, with a weekend inside; without a settled close the left side has bars alone."""
    stock = make_key("arch", "SPX/USD", "1d", "XNYS")
    charts = [make_chart(), make_chart(stock, utc_ms("2018-01-02"), settled=False)]

    draw_charts(charts[:1], tmp_path / "one.png")
    draw_charts(charts, tmp_path / "two.png")
    one, two = pixels(tmp_path / "one.png"), pixels(tmp_path / "two.png")

    assert two.shape[1] == one.shape[1]
    assert two.shape[0] == pytest.approx(2 * one.shape[0], abs=2)
    assert two[two.shape[0] // 2 :].std() > 5


def test_what_settled_is_drawn(tmp_path):
    """The intervals are there when rows have settled, and only on the left."""
    draw_charts([make_chart()], tmp_path / "with.png")
    draw_charts([make_chart(settled=False)], tmp_path / "without.png")
    more, less = pixels(tmp_path / "with.png"), pixels(tmp_path / "without.png")
    differs = (more != less).any(axis=2)

    assert differs[:, : differs.shape[1] // 2].any()
    assert not differs[:, differs.shape[1] * 6 // 10 :].any()


def test_the_page_is_well_formed(tmp_path):
    read = Reader(written(tmp_path, make_page()))

    assert read.open == []
    assert read.tags[0][0] == "html"
    assert read.texts.count("What was forecast") == 2
    assert "Point skill near zero is honest." in read.texts


def test_the_page_shows_the_scores(tmp_path):
    read = Reader(written(tmp_path, make_page()))

    shown = read.texts[read.texts.index("binance BTC/USDT 1h") :][:11]

    assert shown == [
        "binance BTC/USDT 1h",
        "nano@0123456789ab",
        "1",
        "close",
        "1234",
        "12.35",
        "+0.125",
        "3.5",
        "+0.125",
        "81.2 %",
        "77",
    ]


@pytest.mark.parametrize(
    ("skill", "shown", "kind"),
    [(0.25, "+0.250", "better"), (-0.25, "-0.250", "worse"), (None, "–", None)],
)
def test_skill_says_plainly_how_good_it_is(tmp_path, skill, shown, kind):
    """Skill that was never measured is a dash and not a zero."""
    read = Reader(written(tmp_path, make_page(reports=[make_report(skill)])))
    kinds = [attributes.get("class") for tag, attributes in read.tags if tag == "td"]

    assert read.texts.count(shown) == 2
    assert {one for one in kinds if one in ("better", "worse")} == ({kind} if kind else set())


def test_the_page_is_one_file(tmp_path):
    """No script, nothing fetched: it opens on a machine without a network, and tells nobody."""
    text = written(tmp_path, make_page())
    read = Reader(text)
    fetched = [attributes[name] for _, attributes in read.tags for name in ("src", "href") if name in attributes]

    assert not {tag for tag, _ in read.tags} & {"script", "link", "iframe", "object", "base", "form"}
    assert not [name for _, attributes in read.tags for name in attributes if name.startswith("on")]
    assert [one.partition(",")[0] for one in fetched] == ["data:image/png;base64"]
    for outside in ("http:", "https:", "@import", "url("):
        assert outside not in text


def test_the_picture_is_inside_the_page(tmp_path):
    read = Reader(written(tmp_path, make_page()))
    (source,) = [attributes["src"] for tag, attributes in read.tags if tag == "img"]

    assert base64.b64decode(source.partition(",")[2], validate=True) == PNG


@pytest.mark.parametrize(
    "page",
    [
        make_page(title=HOSTILE),
        make_page(lead=HOSTILE),
        make_page(figures=[(HOSTILE, "1", "2")]),
        make_page(figures=[("1", HOSTILE, "2")]),
        make_page(figures=[("1", "2", HOSTILE)]),
        make_page(notes=[HOSTILE]),
        make_page(reports=[make_report(exchange=HOSTILE)]),
    ],
    ids=["title", "lead", "name", "value", "meaning", "note", "series"],
)
def test_a_hostile_name_is_text(tmp_path, page):
    """Names come from configurations and exchanges; none of them runs."""
    read = Reader(written(tmp_path, page))

    assert "script" not in {tag for tag, _ in read.tags}
    assert any(HOSTILE in text for text in read.texts)


def test_a_page_without_scores_is_a_page(tmp_path):
    read = Reader(written(tmp_path, make_page(reports=[], figures=[], notes=[])))

    assert read.open == []
    assert "td" not in {tag for tag, _ in read.tags}


def test_the_report_of_scores_fits_the_page(tmp_path):
    """What `Scores` gives of a field is what the page takes."""
    steps = make_steps([90, 100, 110], 101.0, cutoff=START + np.arange(17) * HOUR_MS)
    reports = Scores([compute_losses(steps, make_past([100.0], cutoff=START))]).reports()
    page = make_page(reports=[one for one in reports if one.field in FIELDS])

    assert "<td>17</td>" in written(tmp_path, page)
