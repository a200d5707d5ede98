"""The report: its numbers against loops over the ledger's rows, its figures as JSON, and escaped names.

Shapes: F fields, H steps, Q quantile levels.
"""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser
from statistics import NormalDist

import numpy as np
import pytest

from forecaster.accuracy.report.content import Scope, null_band
from forecaster.accuracy.report.figures import short_names
from forecaster.accuracy.report.page import write_report
from forecaster.accuracy.scores import RAW, SERVED
from forecaster.bars import FIELDS, Bars
from forecaster.client import report_section
from forecaster.errors import ConfigError
from forecaster.forecast import CHRONOS_LEVELS, OHLCForecast, interpolate, repair
from forecaster.formatting import format_price, format_signed
from forecaster.ledger import LIVE, Run
from forecaster.store.memory import MemoryStore
from tests.builders import make_bars, make_key
from tests.forecast_builders import make_provenance, settled_rows

HOSTILE = "<script>alert(1)</script>"
HORIZON = 4
BEFORE = 60
VOID = {"meta", "img", "br"}
Z_Q = np.array([NormalDist().inv_cdf(level) for level in CHRONOS_LEVELS])


class Opened(HTMLParser):
    """A page as a browser reads it: its tags, its text outside of scripts, and its figures."""

    def __init__(self, path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.figures: dict[str, dict] = {}
        self.open: list[str] = []
        self.text = path.read_text(encoding="utf-8")
        self.feed(self.text)
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
        """Note text, and figures under the title that stands before them."""
        if self.open[-1:] == ["script"] and self.tags[-1][1].get("type") == "application/json":
            self.figures[self.texts[-1]] = json.loads(data)
        elif data.strip() and self.open[-1:] not in (["script"], ["style"]):
            self.texts.append(" ".join(data.split()))

    def line(self, title, name, **meta):
        """The one trace of a figure of this name under these choices, as {"x": …, "y": …}."""
        (found,) = [
            one
            for one in self.figures[title]["data"]
            if one.get("name") == name and all(value in one["meta"][choice] for choice, value in meta.items())
        ]
        return found


def make_ledger(  # noqa: PLR0913 - each is what one test or another is about
    key=None, cutoffs=60, *, calibrated=True, late=(), walk=True, model="nano", bad_from=None
) -> tuple[MemoryStore, Bars]:
    """A ledger of a model, another one and the random walk at each cutoff; before calibration intervals are too narrow.

    The last forecasts have not met all of their bars, and the newest none. `late` are places of cutoffs; from
    `bad_from` on, the model is much too sure.
    """
    key = key or make_key()
    bars = make_bars(key, BEFORE + cutoffs)
    bars = Bars(key, bars.open_time, bars.ohlcv_TF, bars.close_time)
    store = MemoryStore()
    store.add_run(Run(LIVE, LIVE, 0))
    store.add_bars(bars)
    random = np.random.default_rng(5)
    for i in range(cutoffs):
        close = bars.close[BEFORE + i]
        scale = 0.1 if bad_from is not None and i >= bad_from else 0.6
        made = [make_lognormal(key, bars, i, close, (scale, 1.0 if calibrated else scale), model, late=i in late)]
        made.append(make_lognormal(key, bars, i, close * np.exp(random.normal(0, 0.004)), (1.0, 1.0), "garch"))
        if walk:
            made.append(make_lognormal(key, bars, i, close, (1.3, 1.3), "random_walk"))
        store.add_forecasts(made, LIVE)
    return store, bars


def make_lognormal(key, bars, i, centre, scales, model, *, late=False):  # noqa: PLR0913 - of one ledger alone
    """A forecast at the i-th cutoff around `centre`, raw and served as wide as `scales`."""
    cutoff = int(bars.close_time[BEFORE + i])
    width_HQ = 0.005 * np.sqrt(np.arange(1, HORIZON + 1))[:, None] * Z_Q
    shift_F11 = np.array([0.0, 0.002, -0.002, 0.0])[:, None, None]
    raw_FHQ, served_FHQ = (repair(centre * np.exp(shift_F11 + scale * width_HQ)) for scale in scales)
    issued = cutoff + (key.timeframe.ms + 5 if late else 2)
    engine = "numpy" if model != "nano" else "compiled" if i % 4 else "eager"
    made = make_provenance(model, engine=engine)
    return OHLCForecast(key, cutoff, CHRONOS_LEVELS, raw_FHQ, served_FHQ, made, issued, issued + 10 + i)


def gathered(store, bars, *, model="nano", as_of=None, run_id=LIVE, kind=LIVE):
    """A section, and what it is of."""
    scope = Scope(model, run_id, int(bars.close_time[-1]) + 1000 if as_of is None else as_of, kind=kind)
    return report_section(store, bars.key, scope), scope


def written(tmp_path, store, bars, **changes):
    """The page, opened."""
    one, scope = gathered(store, bars, **changes)
    write_report([one], scope, tmp_path / "report.html")
    return Opened(tmp_path / "report.html")


def rows_of(store, model="nano", **wanted):
    """Settled rows of a model that came in time, one by one."""
    rows = [one for one in settled_rows(store, 2**60) if one.row.model_id.startswith(model) and not one.row.late]
    return [one for one in rows if all(getattr(one.row, name) == value for name, value in wanted.items())]


@pytest.fixture(scope="module")
def ledger():
    return make_ledger(late=(3, 7))


@pytest.fixture(scope="module")
def page(ledger, tmp_path_factory):
    return written(tmp_path_factory.mktemp("page"), *ledger)


def test_reliability_against_a_loop(page, ledger):
    """Share of closes of the next bar at or below each quantile that was served, and of before calibration."""
    rows = rows_of(ledger[0], step=1, field="close")
    for name, prices in (("as served", "values_Q"), ("before calibration", "raw_Q")):
        line = page.line("Reliability", name, field="close", steps="next bar")
        shares = [
            sum(one.actual <= getattr(one.row, prices)[q] for one in rows) / len(rows)
            for q in range(len(CHRONOS_LEVELS))
        ]

        assert line["x"] == list(CHRONOS_LEVELS)
        np.testing.assert_allclose(line["y"], shares, rtol=1e-12)


def test_reliability_of_all_steps_and_fields_against_a_loop(page, ledger):
    line = page.line("Reliability", "as served", field="all fields", steps="all steps")
    rows = rows_of(ledger[0])
    median = CHRONOS_LEVELS.index(0.5)

    share = sum(one.actual <= one.row.values_Q[median] for one in rows) / len(rows)

    assert line["y"][median] == pytest.approx(share, rel=1e-12)


def test_null_band_contains_95_of_100_fractions():
    """95 of 100 shares of a thousand draws lie inside, and a share without cases may be anything."""
    shares = np.random.default_rng(1).binomial(200, 0.8, size=20_000) / 200
    lower, upper = null_band(0.8, 200)

    assert ((shares >= lower) & (shares <= upper)).mean() == pytest.approx(0.95, abs=0.012)
    assert null_band(0.8, 0) == (0.0, 1.0)


def test_the_band_counts_cases_that_do_not_overlap(page, ledger):
    """All steps of all fields of a cutoff are not more than a cutoff's worth; further steps count a part of one."""
    cases = len(rows_of(ledger[0], step=1, field="close"))
    for steps, n in (("next bar", cases), ("all steps", cases // HORIZON)):
        band = page.line("Reliability", "expected by chance", field="all fields", steps=steps)
        lower = band["y"][band["x"].index(0.5)]

        assert lower == pytest.approx(null_band(0.5, n)[0])


def test_pit_against_a_loop(page, ledger):
    """Outcomes of the next close by tenth of the served distribution."""
    rows = rows_of(ledger[0], step=1, field="close")
    tens = [[interpolate(one.row.values_Q, CHRONOS_LEVELS, i / 10) for i in range(1, 10)] for one in rows]
    places = [sum(edge < one.actual for edge in edges) for one, edges in zip(rows, tens, strict=True)]

    bars = page.line(
        "Outcomes by tenth of the forecast distribution (PIT)", "outcomes", field="close", steps="next bar"
    )

    np.testing.assert_allclose(bars["y"], np.bincount(places, minlength=10) / len(rows), rtol=1e-12)


def test_skill_by_step_against_a_loop(page, ledger):
    """1 - pinball loss over the random walk's, each in units of the last close."""
    store, bars = ledger
    closes = dict(zip(bars.close_time.tolist(), bars.close.tolist(), strict=True))
    levels = np.array(CHRONOS_LEVELS)

    def loss(model, prices, step):
        """Of the cutoffs that neither forecast late."""
        there = {one.row.cutoff for one in rows_of(store, step=step)}
        rows = [one for one in rows_of(store, model, step=step, field="low") if one.row.cutoff in there]
        excess = [(one.actual - getattr(one.row, prices)) / closes[one.row.cutoff] for one in rows]
        return sum(np.maximum(levels * one, (levels - 1) * one).mean() for one in excess)

    for name, prices in (("nano, as served", "values_Q"), ("nano, before calibration", "raw_Q")):
        line = page.line("Skill by step", name, field="low")
        skills = [1 - loss("nano", prices, step) / loss("random_walk", "values_Q", step) for step in range(1, 5)]

        np.testing.assert_allclose(line["y"], skills, rtol=1e-9)
        np.testing.assert_allclose(line["x"], range(1, 5), atol=0.3)


def test_skill_has_the_verdicts_interval(ledger, page):
    """What is drawn about a point is the interval of its verdict."""
    evidence = gathered(*ledger)[0].evidence
    (verdict,) = [
        one
        for one in evidence.by_step
        if (one.model_id, one.variant, one.field, one.step) == (evidence.model_id, SERVED, None, 2)
    ]

    line = page.line("Skill by step", "nano, as served", field="all fields")

    assert line["y"][1] == verdict.skill
    assert line["y"][1] - line["error_y"]["arrayminus"][1] == pytest.approx(verdict.lower)
    assert line["y"][1] + line["error_y"]["array"][1] == pytest.approx(verdict.upper)


def test_other_models_are_beside_it(page):
    """Every baseline has its line but the random walk, which is the line at 0."""
    names = {one["name"] for one in page.figures["Skill by step"]["data"]}

    assert names == {"nano, as served", "nano, before calibration", "garch"}


def test_coverage_over_time_against_a_loop(page, ledger):
    """Share of the last 28 cutoffs' next lows inside the 80 % interval."""
    rows = rows_of(ledger[0], step=1, field="low")
    inside = [
        interpolate(one.row.values_Q, CHRONOS_LEVELS, 0.1)
        <= one.actual
        <= interpolate(one.row.values_Q, CHRONOS_LEVELS, 0.9)
        for one in rows
    ]
    window = len(rows) // 2

    line = page.line("Coverage of the 80 % interval over time", "low", field="low")

    np.testing.assert_allclose(line["y"], [np.mean(inside[i - window : i]) for i in range(window, len(rows) + 1)])
    assert line["x"][-1] == str(np.datetime64(rows[-1].row.cutoff, "ms").astype("datetime64[m]"))


def test_skill_over_time_ends_in_the_skill_of_the_last_cutoffs(page, ledger):
    evidence = gathered(*ledger)[0].evidence
    line = page.line("Skill of the next bar over time", "all fields", field="all fields")

    assert line["y"] == evidence.rolling[0].skill_U.tolist()
    assert len(set(line["y"])) > 20


def test_drift_is_marked_at_its_cutoff(tmp_path):
    store, bars = make_ledger(cutoffs=400, bad_from=200, calibrated=False)
    evidence = gathered(store, bars)[0].evidence
    found = [one for one in evidence.drifts if one.measure == "coverage"]

    marks = written(tmp_path, store, bars).line("Coverage of the 80 % interval over time", "drift detected")

    assert marks["x"] == [str(np.datetime64(one.cutoff, "ms").astype("datetime64[m]")) for one in found]
    assert bars.close_time[BEFORE + 200] < found[0].cutoff < bars.close_time[BEFORE + 320]


def test_the_fan_is_of_the_newest_forecast_that_has_settled(page, ledger):
    """Its prices are the ledger's, and its last bar is the last that came."""
    store, bars = ledger
    cutoff = int(bars.close_time[-1 - HORIZON])
    rows = rows_of(store, cutoff=cutoff, field="high")
    title = "Latest forecast with all outcomes"

    median = page.line(title, "median", field="high", variant="as served")
    band = page.line(title, "80%", field="high", variant="as served")

    assert len(rows) == HORIZON
    assert median["y"] == [float(interpolate(one.row.values_Q, CHRONOS_LEVELS, 0.5)) for one in rows]
    assert band["y"][:HORIZON] == [float(interpolate(one.row.values_Q, CHRONOS_LEVELS, 0.1)) for one in rows]
    assert band["y"][HORIZON:] == [float(interpolate(one.row.values_Q, CHRONOS_LEVELS, 0.9)) for one in rows[::-1]]
    (candles,) = [one for one in page.figures[title]["data"] if one["type"] == "candlestick"]
    assert candles["close"][-1] == bars.close[-1]
    assert candles["x"][-HORIZON:] == median["x"]


def test_the_newest_fan_has_no_outcome_yet(page, ledger):
    store, bars = ledger
    newest = store.latest(bars.key, "nano")
    data = page.figures["Latest forecast"]["data"]
    (candles,) = [one for one in data if one["type"] == "candlestick"]

    median = page.line("Latest forecast", "median", field="close", variant="as served")

    assert median["y"] == newest.median().tolist()
    assert str(newest.target_opens()[1].astype("datetime64[ms]"))[:16].replace("T", " ") in median["text"][1]
    assert (
        f"80% in {format_price(newest.interval(0.8)[0][1])} – {format_price(newest.interval(0.8)[1][1])}"
        in median["text"][1]
    )
    assert max(candles["x"]) < min(median["x"])


def test_the_models_own_fan_is_a_choice(page, tmp_path):
    """Only where calibration changed something."""
    title = "Latest forecast"
    served, raw = (
        page.line(title, "80%", field="close", variant=variant)["y"] for variant in ("as served", "before calibration")
    )
    plain = written(tmp_path, *make_ledger(calibrated=False))
    selects = [attributes["data-choice"] for tag, attributes in page.tags if tag == "select"]

    assert max(raw) - min(raw) < max(served) - min(served)
    assert selects == ["field", "steps", "variant"]
    assert [attributes["data-choice"] for tag, attributes in plain.tags if tag == "select"] == ["field", "steps"]
    assert "before calibration" not in plain.texts


def test_late_forecasts_are_listed_and_not_counted(page, ledger):
    """Of 59 cutoffs that settled, 2 were late."""
    evidence = gathered(*ledger)[0].evidence
    service = evidence.service

    assert (service.forecasts, service.late) == (59, 2)
    assert service.engines == {"compiled": 44, "eager": 15}
    assert evidence.verdicts[0].n == 57
    assert any("Late, not counted: 2." in text for text in page.texts)


def test_latency_against_numpy(ledger):
    service = gathered(*ledger)[0].evidence.service

    assert service.latency_median == np.median(10 + np.arange(59))
    assert service.latency_99 == np.quantile(10 + np.arange(59), 0.99)


def test_worst_misses_against_a_loop(ledger):
    """The ten greatest losses over the last close, one of each target bar."""
    store, bars = ledger
    closes = dict(zip(bars.close_time.tolist(), bars.close.tolist(), strict=True))
    levels = np.array(CHRONOS_LEVELS)
    worst = {}
    for one in rows_of(store):
        excess = one.actual - one.row.values_Q
        loss = np.maximum(levels * excess, (levels - 1) * excess).mean() / closes[one.row.cutoff]
        worst[one.row.target_open] = max(worst.get(one.row.target_open, (0,)), (loss, one.row.step, one.row.field))

    found = gathered(store, bars)[0].evidence.misses

    assert [(one.step, one.field) for one in found] == [one[1:] for one in sorted(worst.values())[:-11:-1]]
    np.testing.assert_allclose([one.loss for one in found], [one[0] for one in sorted(worst.values())[:-11:-1]])


def test_portions_give_the_same_misses(ledger):
    """However the ledger hands out its cutoffs."""
    from forecaster.accuracy.report.evidence import ReportBuilder
    from forecaster.cycle.settle import settled_losses

    store, bars = ledger
    whole = gathered(store, bars)[0].evidence
    parts = ReportBuilder("nano")
    for losses in settled_losses(Portions(store), [bars.key], 2**60):
        parts.add(losses)
    evidence = parts.evidence(bars.key)

    assert evidence.misses == whole.misses
    assert evidence.service == whole.service
    assert (evidence.first, evidence.last, evidence.seen_at) == (whole.first, whole.last, whole.seen_at)
    for one, other in zip(evidence.reliability, whole.reliability, strict=True):
        np.testing.assert_array_equal(one.below_Q, other.below_Q)
        assert one.n == other.n


class Portions:
    """A reader that hands out settled steps seven cutoffs at a time, as a database does with 512."""

    def __init__(self, store) -> None:
        self.bars = store.bars
        self._store = store

    def settled(self, key, as_of, since=None, run_id=LIVE):
        for steps in self._store.settled(key, as_of, since, run_id):
            cutoffs = np.unique(steps.cutoff_N)
            for i in range(0, len(cutoffs), 7):
                yield steps[np.isin(steps.cutoff_N, cutoffs[i : i + 7])]


def test_summary_cards(page, ledger):
    one, _ = gathered(*ledger)
    verdict = one.evidence.verdicts[0]

    values = [page.texts[page.texts.index(name) + 1] for name in ("Verdict", "Skill, all steps and fields")]

    assert values == [verdict.summary.partition(" (")[0], format_signed(verdict.skill)]
    assert f"{one.trust.value:.2f}" in page.texts
    assert "fresh: its first target bar is open" in page.texts
    assert f"{one.evidence.coverage80:.1%}" in page.texts


def test_an_old_forecast_is_stale(tmp_path, ledger):
    read = written(tmp_path, *ledger, as_of=int(ledger[1].close_time[-1]) + 3_700_000)

    assert "stale: its first target bar has closed" in read.texts


def test_a_forecast_of_later_is_not_the_newest(ledger):
    """As things stood then, the one before was."""
    _, bars = ledger
    one, _ = gathered(*ledger, as_of=int(bars.close_time[-1]) - 1)

    assert one.latest.cutoff == bars.close_time[-2]


def delayed(store, bars, delays):
    """A ledger of the same forecasts under the run `slow`, each available so many ms after its cutoff."""
    store.add_run(Run("slow", "predict", 0))
    for i, delay in enumerate(delays):
        made = make_lognormal(bars.key, bars, i, bars.close[BEFORE + i], (1, 1), "nano")
        made = replace(made, issued_at=made.cutoff, available_at=made.cutoff + delay)
        store.add_forecasts([made], "slow")


@pytest.mark.parametrize(
    ("delays", "words"),
    [
        (
            [5, 5, 5, 5],
            "All 4 settled forecasts were in the ledger before their first target bar closed.",
        ),
        (
            [5, 3_599_999, 3_600_000, 9_000_000],
            "2 of 4 settled forecasts were in the ledger before their first target bar",
        ),
        ([3_600_000] * 4, "0 of 4 settled forecasts were in the ledger before their first target bar"),
    ],
    ids=["all in time", "half of them", "none"],
)
def test_forecasts_available_in_time_are_counted(tmp_path, delays, words):
    """By when they could be read: one that was asked for in time and came at the bar's close or later did not."""
    store, bars = make_ledger(cutoffs=5)
    delayed(store, bars, delays)
    later = int(bars.close_time[-1]) + 10_000_000
    read = written(tmp_path, store, bars, run_id="slow", kind="predict", as_of=later)

    assert gathered(store, bars, run_id="slow", as_of=later)[0].evidence.service.late == 0
    assert any(text.startswith(words) for text in read.texts)
    assert any("count in no score" in text for text in read.texts) == words.startswith(("0", "2"))


def test_late_live_forecasts_are_not_on_time(page):
    assert any(text.startswith("57 of 59 settled forecasts were in the ledger before") for text in page.texts)
    assert any("On time: 57. Late, not counted: 2." in text for text in page.texts)


def test_no_timing_before_the_first_settled_forecast(tmp_path):
    store, bars = make_ledger(cutoffs=1)

    assert "No forecast has settled yet." in written(tmp_path, store, bars).texts


def test_a_replay_makes_no_claim_about_timing(tmp_path):
    """Its times are set; the page says what it proves, what it does not, and calls no forecast stale."""
    store, bars = make_ledger(cutoffs=5)
    delayed(store, bars, [4_000] * 4)
    read = written(tmp_path, store, bars, run_id="slow", kind="replay")
    text = " ".join(read.texts)

    assert "This run is a replay." in text
    assert "does not prove that a forecast was available before its bar closed" in text
    assert "Available 4,000 ms after the cutoff, as set for this replay." in text
    for words in ("in the ledger before", "in time", "In time", "From issue", "On time", "stale"):
        assert words not in text


def test_every_score_is_in_the_table(page, ledger):
    """Each model, step and field, and the range."""
    reports = gathered(*ledger)[0].evidence.reports
    cells = [attributes for tag, attributes in page.tags if tag == "td"]

    assert len(reports) == 3 * HORIZON * (len(FIELDS) + 1)
    assert len(cells) == 13 * len(reports) + 6 * 10
    assert f"{reports[0].mae:.4g}" in page.texts


def test_the_model_is_named(page, ledger):
    made = ledger[0].latest(ledger[1].key, "nano").provenance
    (about,) = [text for text in page.texts if text.startswith("Model nano")]

    assert made.revision in about
    assert made.weights_sha256[:16] in about


def test_figures_of_another_revision_say_so(tmp_path):
    """The newest revision has no evidence yet; what is shown is of the one before."""
    store, bars = make_ledger(cutoffs=30)
    newest = store.latest(bars.key, "nano")
    later = replace(newest, provenance=make_provenance(revision="f" * 16), issued_at=newest.issued_at + 1)
    store.add_forecasts([later], LIVE)

    read = written(tmp_path, store, bars)

    assert any("these figures are of nano@0123456789ab" in text for text in read.texts)


def test_the_page_is_well_formed_and_whole(page):
    """One document; every figure has a text for screen readers."""
    plots = [attributes for _, attributes in page.tags if attributes.get("class") == "plot"]

    assert page.open == []
    assert len(plots) == len(page.figures) == 7
    assert all(one["role"] == "img" and len(one["aria-label"]) > 40 for one in plots)


def test_the_page_fetches_nothing(page):
    """No address in a tag or a figure, and a policy under which a browser would refuse to fetch one."""
    held = [value for _, attributes in page.tags for value in attributes.values() if value]
    (policy,) = [
        attributes["content"]
        for _, attributes in page.tags
        if attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    ours = page.text.replace(plotly_inside(page), "")

    assert not [name for _, attributes in page.tags for name in ("src", "srcset", "data") if name in attributes]
    assert not [value for value in held if "//" in value]
    assert {tag for tag, _ in page.tags}.isdisjoint({"link", "iframe", "object", "embed", "base", "form", "img"})
    assert not any(outside in ours for outside in ("http:", "https:", "@import", "url("))
    assert policy.startswith("default-src 'none';")
    assert "connect-src" not in policy


def plotly_inside(page):
    from plotly.offline import get_plotlyjs

    assert page.text.count(get_plotlyjs()) == 1
    return get_plotlyjs()


def test_a_hostile_name_is_text(tmp_path):
    """Of a series and of a model: in tags, in the text of figures, in their JSON."""
    store, bars = make_ledger(make_key(exchange=HOSTILE), cutoffs=50, model=f"{HOSTILE}</script>")
    read = written(tmp_path, store, bars, model=f"{HOSTILE}</script>")
    names = {one["name"] for one in read.figures["Skill by step"]["data"]}

    assert read.open == []
    assert read.text.count("alert(1)</script>") == 0
    assert "<b>" not in read.text.replace(plotly_inside(read), "")
    assert f"{HOSTILE} BTC/USDT 1h" in read.texts
    assert not [name for name in names if "<" in name]
    assert [attributes.get("type") for tag, attributes in read.tags if tag == "script"] == ["application/json"] * 7 + [
        None
    ] * 2


def test_nothing_settled_yet(tmp_path):
    """A forecast alone is shown, and that nothing is known of it."""
    store, bars = make_ledger(cutoffs=1)

    read = written(tmp_path, store, bars)

    assert list(read.figures) == ["Latest forecast"]
    assert "No forecast of this series has settled yet." in read.texts
    assert "nothing settled within the last 500 bars" in read.texts


def test_too_few_cases_say_so(tmp_path):
    """Of ten cutoffs there is no verdict, no line over time, and no interval."""
    read = written(tmp_path, *make_ledger(cutoffs=10))

    assert "too few cases" in read.texts
    assert sum(text.startswith("Too few cutoffs for a line") for text in read.texts) == 2
    assert set(read.line("Skill by step", "garch", field="close")["error_y"]["array"]) == {None}


def test_without_the_random_walk(tmp_path):
    """There is nothing to be better than; how outcomes lay among the quantiles is still known."""
    read = written(tmp_path, *make_ledger(walk=False))

    assert "No forecast that can be compared with the random walk has settled yet." in read.texts
    assert sum(read.line("Reliability", "as served", field="low", steps="next bar")["y"]) > 0


def test_all_were_late(tmp_path):
    store, bars = make_ledger(cutoffs=12, late=range(12))

    read = written(tmp_path, store, bars)

    assert any("Late, not counted: 11." in text for text in read.texts)
    assert "No forecast that was issued in time has settled yet." in read.texts


def test_levels_without_tails(tmp_path):
    """A model of three quantiles has no 98 % interval, and a page."""
    key = make_key()
    bars = make_bars(key, BEFORE + 25)
    bars = Bars(key, bars.open_time, bars.ohlcv_TF, bars.close_time)
    store = MemoryStore()
    store.add_run(Run(LIVE, LIVE, 0))
    store.add_bars(bars)
    for i in range(25):
        whole = make_lognormal(key, bars, i, bars.close[BEFORE + i], (1, 1), "nano")
        places = [CHRONOS_LEVELS.index(level) for level in (0.1, 0.5, 0.9)]
        parts = {name: getattr(whole, name)[..., places] for name in ("raw_FHQ", "values_FHQ")}
        store.add_forecasts([replace(whole, quantile_levels=(0.1, 0.5, 0.9), **parts)], LIVE)

    read = written(tmp_path, store, bars)

    assert {one["name"] for one in read.figures["Latest forecast"]["data"]} == {"80%", "50%", "median", "bars"}


def test_a_stock_has_no_gap_for_its_weekend(tmp_path):
    """Bars stand side by side; the times below say which."""
    store, bars = make_ledger(make_key("arch", "SPX/USD", "1d", "XNYS"), cutoffs=30)

    read = written(tmp_path, store, bars)
    (candles,) = [one for one in read.figures["Latest forecast"]["data"] if one["type"] == "candlestick"]

    assert np.diff(candles["x"]).tolist() == [1] * (len(candles["x"]) - 1)
    assert str(bars.open_time[-1].astype("datetime64[ms]").astype("datetime64[D]")) in candles["text"][-1]


def test_several_series_have_a_way_to_each(tmp_path):
    sections = []
    for symbol in ("BTC/USDT", "ETH/USDT"):
        one, scope = gathered(*make_ledger(make_key(symbol=symbol), cutoffs=12))
        sections.append(one)
    write_report(sections, scope, tmp_path / "report.html")
    read = Opened(tmp_path / "report.html")
    links = [attributes["href"] for tag, attributes in read.tags if tag == "a"]

    assert links == ["#series-1", "#series-2"]
    assert {attributes["id"] for tag, attributes in read.tags if tag == "section"} == {"series-1", "series-2"}


def test_a_replay_has_no_trust(tmp_path):
    """It has no now."""
    store, bars = make_ledger(cutoffs=12)
    store.add_run(Run("replay-1", "replay", 0))
    store.add_forecasts([make_lognormal(bars.key, bars, 0, bars.close[BEFORE], (1, 1), "nano")], "replay-1")

    one, _ = gathered(store, bars, run_id="replay-1")
    read = written(tmp_path, store, bars, run_id="replay-1")

    assert one.trust is None
    assert one.evidence.service.forecasts == 1
    assert "Trust, next bar" not in read.texts


def test_a_file_that_cannot_be_written(tmp_path, ledger):
    one, scope = gathered(*ledger)
    with pytest.raises(ConfigError, match="out: expected a file that can be written"):
        write_report([one], scope, tmp_path / "none" / "report.html")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (43_210.126, "43,210.1"),
        (2687.54321, "2,687.54"),
        (0.0000123456, "0.0000123456"),
        (7e8, "700,000,000"),
        (0, "0.00"),
    ],
)
def test_prices_have_six_digits(value, shown):
    assert format_price(value) == shown


def test_names_are_as_short_as_they_can_be():
    assert short_names(["nano@1", "nano@2", "garch@1"]) == {"nano@1": "nano@1", "nano@2": "nano@2", "garch@1": "garch"}
    assert short_names(["/me@home@1", "/me@work@1"]) == {"/me@home@1": "/me@home", "/me@work@1": "/me@work"}


def test_variants_are_separate(ledger):
    evidence = gathered(*ledger)[0].evidence
    plain = gathered(*make_ledger(cutoffs=12, calibrated=False))[0].evidence

    assert {one.variant for one in evidence.reliability} == {SERVED, RAW}
    assert {one.variant for one in plain.reliability} == {SERVED}
