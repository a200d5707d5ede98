"""From settled rows to accuracy: what is counted, with what it is compared, and that parts add up."""

from __future__ import annotations

from dataclasses import astuple

import numpy as np
import pytest

from forecaster.accuracy.score import Scores
from forecaster.forecast import CHRONOS_LEVELS
from forecaster.ledger import LIVE, Run
from forecaster.store.memory import MemoryStore
from tests.builders import HOUR_MS, make_bars, make_key
from tests.forecast_builders import CUTOFF, make_forecast, make_provenance, make_settled

WALK = "random_walk@1"
ETHER = make_key(symbol="ETH/USDT")


def random_rows(seed: int = 0, cutoffs: int = 20):
    """Rows of the model and the walk: two series, some cutoffs, two steps, two fields."""
    random = np.random.default_rng(seed)
    return [
        make_settled(
            np.sort(100 + random.normal(0, 5, 3)),
            actual,
            model_id=model_id,
            cutoff=CUTOFF + hour * HOUR_MS,
            step=step,
            field=field,
            key=key,
        )
        for key in (make_key(), ETHER)
        for hour in range(cutoffs)
        for step in (1, 2)
        for field in ("high", "close")
        for actual in [100 + random.normal(0, 5)]
        for model_id in ("nano@1", WALK)
    ]


def only(rows, model_id="nano@1"):
    """The one report of a model."""
    (report,) = [one for one in Scores(rows).reports() if one.model_id == model_id]
    return report


def test_a_report_by_hand():
    """Two next closes: 5 above the median and inside, then 15 above it and outside of 90 to 110."""
    report = only([make_settled([90, 100, 110], 105.0), make_settled([90, 100, 110], 115.0, cutoff=CUTOFF + HOUR_MS)])

    assert (report.key, report.model_id, report.step, report.field, report.n) == (make_key(), "nano@1", 1, "close", 2)
    assert report.mae == (5 + 15) / 2
    assert report.coverage80 == 0.5
    assert report.width80 == 20.0
    # levels 0.1, 0.5, 0.9: 0.1·15, 0.5·5, 0.1·5, then 0.1·25, 0.5·15, 0.9·5
    assert report.pinball == pytest.approx(((1.5 + 2.5 + 0.5) / 3 + (2.5 + 7.5 + 4.5) / 3) / 2)


def test_skill_by_hand():
    """The walk is 8 off where the model is 2 off: a quarter of the loss."""
    report = only([make_settled([90, 100, 110], 102.0), make_settled([84, 94, 104], 102.0, model_id=WALK)])

    # the model's pinball losses 1.2, 1.0, 0.8; the walk's 1.8, 4.0, 0.2
    assert report.skill_mae == 0.75
    assert report.skill_pinball == pytest.approx(1 - 3.0 / 6.0)


def test_skill_is_of_common_cases_only():
    """A case that the walk did not forecast counts for the error and not for the skill."""
    rows = [
        make_settled([90, 100, 110], 102.0),
        make_settled([84, 94, 104], 102.0, model_id=WALK),
        make_settled([90, 100, 110], 150.0, cutoff=CUTOFF + HOUR_MS),
    ]

    report = only(rows)

    assert report.n == 2
    assert report.mae == (2 + 50) / 2
    assert report.skill_mae == 0.75


def test_a_case_of_the_walk_alone_counts_for_the_walk():
    rows = [
        make_settled([90, 100, 110], 102.0),
        make_settled([84, 94, 104], 102.0, model_id=WALK),
        make_settled([90, 100, 110], 150.0, cutoff=CUTOFF + HOUR_MS, model_id=WALK),
    ]

    assert only(rows).skill_mae == 0.75
    assert only(rows, WALK).n == 2


@pytest.mark.parametrize(
    "other",
    [{"cutoff": CUTOFF + HOUR_MS}, {"step": 2}, {"field": "open"}, {"key": ETHER}, {"run_id": "replay-1"}],
    ids=str,
)
def test_another_case_of_the_walk_is_no_common_case(other):
    """Cutoff, step, field, series and run must be the same."""
    rows = [make_settled([90, 100, 110], 102.0), make_settled([84, 94, 104], 102.0, model_id=WALK, **other)]

    assert only(rows).skill_mae is None


def test_without_the_walk_there_is_no_skill():
    """None, and not zero: nobody has compared."""
    report = only([make_settled([90, 100, 110], 102.0)])

    assert report.skill_mae is None
    assert report.skill_pinball is None


def test_the_walk_has_no_skill_against_itself():
    walks = [one for one in Scores(random_rows()).reports() if one.model_id == WALK]

    assert len(walks) == 8
    assert {one.skill_mae for one in walks} == {0.0}
    assert {one.skill_pinball for one in walks} == {0.0}


def test_against_a_walk_without_error_there_is_no_skill():
    report = only([make_settled([90, 100, 110], 102.0), make_settled([102, 102, 102], 102.0, model_id=WALK)])

    assert report.skill_mae is None
    assert report.skill_pinball is None


def test_parts_add_up_to_the_whole():
    """Counted cycle by cycle or all at once, the numbers are the same to the last bit."""
    rows = random_rows()
    whole, grown = Scores(rows), Scores()
    for cutoff in sorted({one.row.cutoff for one in rows}):
        grown.add([one for one in rows if one.row.cutoff == cutoff])

    assert grown.reports() == whole.reports()


def test_totals_are_sums_over_series_and_steps():
    scores = Scores(random_rows())

    whole = scores.total("nano", "close", step=None)
    parts = [scores.total("nano", "close", step, key) for step in (1, 2) for key in (make_key(), ETHER)]

    assert whole.n == 80
    assert [one.n for one in parts] == [20] * 4
    np.testing.assert_allclose(astuple(whole), np.sum([astuple(one) for one in parts], axis=0), rtol=1e-12)


def test_a_total_is_of_one_field_and_model():
    rows = [
        make_settled([90, 100, 110], 101.0),
        make_settled([90, 100, 110], 110.0, field="high"),
        make_settled([90, 100, 110], 105.0, model_id=WALK),
    ]

    total = Scores(rows).total("nano", "close")

    assert (total.n, total.mae) == (1, 1.0)


def test_a_total_is_over_revisions_of_a_model():
    """After an upgrade the service is still one service."""
    rows = [
        make_settled([90, 100, 110], 101.0, model_id="nano@1"),
        make_settled([90, 100, 110], 103.0, model_id="nano@2", cutoff=CUTOFF + HOUR_MS),
    ]

    total = Scores(rows).total("nano", "close")

    assert (total.n, total.mae) == (2, 2.0)


def test_rows_of_other_levels_are_counted_by_their_own():
    """Chronos has 21 levels where the rows around it have three; each keeps its place."""
    fan = np.linspace(60, 140, len(CHRONOS_LEVELS))
    rows = [
        make_settled([90, 100, 110], 101.0),
        make_settled(fan, 104.0, levels=CHRONOS_LEVELS, cutoff=CUTOFF + HOUR_MS, step=2),
        make_settled([90, 100, 110], 102.0, step=3),
    ]

    reports = {one.step: one for one in Scores(rows).reports()}

    assert [reports[step].mae for step in (1, 2, 3)] == pytest.approx([1.0, 4.0, 2.0])
    assert reports[2].width80 == pytest.approx(fan[18] - fan[2])


def test_reports_are_in_order():
    """By series, model, step and field."""
    reports = Scores(reversed(random_rows())).reports()

    assert [(str(one.key), one.model_id, one.step, one.field) for one in reports] == [
        (str(key), model_id, step, field)
        for key in (make_key(), ETHER)
        for model_id in ("nano@1", WALK)
        for step in (1, 2)
        for field in ("close", "high")
    ]


def test_no_rows_are_no_reports():
    scores = Scores()
    scores.add([])

    assert scores.reports() == []
    assert scores.total("nano", "close").n == 0


def test_pending_rows_do_not_count():
    """Of three steps two have met their bar; each report is over one row."""
    store = MemoryStore()
    store.add_run(Run(LIVE, LIVE, CUTOFF))
    store.add_forecasts([make_forecast(horizon=3, provenance=make_provenance(revision="1"))], LIVE)
    store.add_bars(make_bars(count=2, start=CUTOFF))

    reports = Scores(store.settled_rows(2**60)).reports()

    assert [(one.step, one.n) for one in reports] == [(1, 1)] * 4 + [(2, 1)] * 4
