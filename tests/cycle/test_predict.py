"""Asking models: whoever fails is found, and the others are served as if it were not there."""

from __future__ import annotations

import pytest

from forecaster.context import Context
from forecaster.cycle.predict import predict_all, predict_isolating_failures, predict_where_possible
from forecaster.errors import InferenceError, InvalidContext
from forecaster.model import ModelSuite
from forecaster.model.baselines.random_walk import RandomWalk
from tests.builders import make_bars, make_key


class Picky(RandomWalk):
    """The random walk, but for some symbols."""

    def __init__(self, name, *broken):
        self.name = name
        self.broken = broken
        self.calls = 0

    def predict(self, contexts, horizon):
        self.calls += 1
        for one in contexts:
            if one.key.symbol in self.broken:
                raise InferenceError(one.key.symbol)
        return super().predict(contexts, horizon)


@pytest.fixture
def contexts():
    all_bars = [make_bars(make_key(symbol=f"C{i}/USDT"), seed=i) for i in range(20)]
    return [Context.ending_at(one, int(one.close_time[-1]), 64, 32) for one in all_bars]


def suite(primary, *baselines):
    return ModelSuite(primary, baselines)


def symbols(contexts):
    return [one.key.symbol for one in contexts]


def test_no_fault_is_one_call_of_each_model(contexts):
    model, baseline = Picky("nano"), Picky("walk")
    answers, skipped, failed_baselines = predict_isolating_failures(suite(model, baseline), contexts, 3)

    assert (model.calls, baseline.calls) == (1, 1)
    assert (skipped, failed_baselines) == ({}, {})
    assert [symbols(one) for one in answers.by_model] == [symbols(contexts)] * 2


@pytest.mark.parametrize("broken", [[0], [19], [3, 4], [0, 7, 13, 19], list(range(20))])
def test_series_that_fail_are_found_and_named(contexts, broken):
    names = [f"C{i}/USDT" for i in broken]
    answers, skipped, _ = predict_isolating_failures(suite(Picky("nano", *names), Picky("walk")), contexts, 3)
    kept = [one for one in symbols(contexts) if one not in names]

    assert {key.symbol: reason for key, reason in skipped.items()} == {one: f"InferenceError: {one}" for one in names}
    assert symbols(answers.contexts) == kept
    assert [symbols(one) for one in answers.by_model] == [kept, kept]


def test_finding_one_takes_few_calls(contexts):
    model = Picky("nano", "C11/USDT")
    predict_isolating_failures(suite(model), contexts, 3)

    assert model.calls <= 2 * 5 + 1


def test_baseline_keeps_what_it_could_forecast(contexts):
    answers, skipped, failed_baselines = predict_isolating_failures(
        suite(Picky("nano"), Picky("walk", "C2/USDT", "C5/USDT")), contexts, 3
    )

    assert skipped == {}
    assert failed_baselines == {"walk": "InferenceError: C2/USDT"}
    assert len(answers.by_model[0]) == 20
    assert len(answers.by_model[1]) == 18


def test_nothing_to_ask_is_nothing_asked():
    model = Picky("nano")

    assert predict_isolating_failures(suite(model), [], 3).predictions == ([], [[]])
    assert model.calls == 0


def test_asking_all_raises(contexts):
    with pytest.raises(InferenceError):
        predict_all(suite(Picky("nano", "C2/USDT")), contexts, 3)
    with pytest.raises(InferenceError):
        predict_where_possible(suite(Picky("nano", "C2/USDT")), contexts, 3)


def test_a_baseline_leaves_out_what_it_cannot_answer(contexts):
    """Where the first model must answer all, as in a replay."""

    class Short(Picky):
        def predict(self, contexts, horizon):
            if any(one.key.symbol in self.broken for one in contexts):
                raise InvalidContext("context", "more bars", 3)
            return super().predict(contexts, horizon)

    answers = predict_where_possible(suite(Picky("nano"), Short("short", "C2/USDT")), contexts, 3)
    with pytest.raises(InferenceError):
        predict_where_possible(suite(Picky("nano"), Picky("broken", "C2/USDT")), contexts, 3)

    assert [len(made) for made in answers.by_model] == [len(contexts), len(contexts) - 1]


def test_interrupt_is_no_fault_of_a_series(contexts):
    class Interrupted(RandomWalk):
        def predict(self, contexts, horizon):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_isolating_failures(suite(Interrupted()), contexts, 3)
