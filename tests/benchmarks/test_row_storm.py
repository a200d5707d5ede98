"""The judge of rows and bodies finds nothing wrong, and would if there were something."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecaster import bars
from forecaster.errors import BadPayload
from forecaster.sources.exchange import guard
from forecaster.sources.exchange.guard import parse_body, parse_rows
from tests.benchmarks import row_storm
from tests.benchmarks.row_storm import START, STEP, is_bar, judge_body, judge_rows, make_body, make_rows

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.integers(0, 5).map(lambda i: START + i * STEP),
    st.floats(1, 2).map(repr),
)
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.text(max_size=3), inner))


def test_pages_of_rows_are_judged_alike():
    for seed in range(5):
        rng = np.random.default_rng(seed)
        rows = make_rows(rng, 100)

        assert judge_rows(rng, rows) == []
        assert 20 < sum(map(is_bar, rows)) < 100


def test_bodies_are_parsed_or_refused():
    bodies = [make_body(np.random.default_rng(seed)) for seed in range(200)]

    assert [wrong for body in bodies for wrong in judge_body(body)] == []


@settings(derandomize=True, max_examples=60, deadline=None)
@given(st.lists(st.lists(SCALARS, min_size=6, max_size=8), max_size=12))
def test_rows_of_anything(rows):
    """Nothing raises but what is named, and what comes through is what the judge calls a bar."""
    try:
        text = json.dumps(rows, allow_nan=False)
    except ValueError:
        return

    assert judge_rows(np.random.default_rng(0), json.loads(text)) == [] or len({len(row) for row in rows}) > 1


@settings(derandomize=True, max_examples=60, deadline=None)
@given(st.one_of(st.text(), JSON.map(lambda one: json.dumps(one, allow_nan=True))))
def test_bodies_of_anything(text):
    """A body is JSON's list or object, or refused; its rows are lists or objects, or refused."""
    try:
        rows = parse_rows("x", parse_body("x", text), lambda raw: [None] * 6)
    except BadPayload:
        return

    assert isinstance(json.loads(text), list | dict)
    assert all(isinstance(row.raw, list | dict) for row in rows)


def finds_something():
    rng = np.random.default_rng(0)
    return any(judge_rows(rng, make_rows(rng, 100)) for _ in range(20))


@pytest.mark.parametrize(
    "rule",
    [
        "every value must be finite",
        "prices must be above",
        "prices must be below",
        "low must not",
        "high must not",
        "volume must not",
        "open time must be on",
    ],
)
def test_judge_would_notice_a_rule_that_is_missing(monkeypatch, rule):
    def with_one_rule_less(*arguments):
        return {reason: rows for reason, rows in rules(*arguments).items() if not reason.startswith(rule)}

    rules = bars._violations
    monkeypatch.setattr(bars, "_violations", with_one_rule_less)

    assert finds_something()


def test_judge_would_notice_a_number_that_only_python_reads(monkeypatch):
    monkeypatch.setattr(guard, "_is_unreadable", lambda entry: isinstance(entry, list | dict))

    assert finds_something()


def test_command_tells_what_it_judged(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["row_storm", "--rows", "200"])
    with pytest.raises(SystemExit) as ended:
        row_storm.main()
    record = json.loads(capsys.readouterr().out.splitlines()[-1])

    assert ended.value.code == 0
    assert record["wrong"] == 0
    assert record["rows"] >= 200
