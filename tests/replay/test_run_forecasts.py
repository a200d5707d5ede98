"""What comes out of a ledger for trading: the forecasts as they were, and the trust that was there at the time."""

from __future__ import annotations

from contextlib import closing

import numpy as np
import pytest

from forecaster.engine import Forecaster
from forecaster.ledger import LIVE, Run
from forecaster.replay.run_forecasts import TRUST_EVERY, TrustHistory, read_forecasts
from forecaster.store import open_store
from tests.accuracy.report.test_page import make_ledger
from tests.builders import HOUR_MS, make_key
from tests.forecast_builders import CUTOFF, make_forecast, make_provenance
from tests.test_engine import make_config

EVER = 2**62
CUTOFFS = 700


@pytest.fixture(scope="module")
def ledger():
    """700 cutoffs of a live ledger whose bars were seen as they closed; the model becomes much too sure."""
    return make_ledger(cutoffs=CUTOFFS, bad_from=400, late=(3, 77))


def live_trust(store, bars, cutoff):
    """What a strategy was told at the time, as soon as the forecast of this cutoff was there."""
    time = cutoff + 60_000
    with Forecaster(make_config(bars.key), store) as forecaster:
        return forecaster.trust((bars.key.exchange, bars.key.symbol, str(bars.key.timeframe)), as_of=time)


@pytest.mark.parametrize("url", ["memory:", "sqlite"])
def test_forecasts_come_back_as_they_were(tmp_path, url):
    """From either store, over portions: the prices that were served, to the last bit, and when; no other model's."""
    made = [
        make_forecast(cutoff=cutoff, issued_at=cutoff + 5, seed=i, horizon=2)
        for i, cutoff in enumerate(range(CUTOFF, CUTOFF + 1100 * HOUR_MS, 11 * HOUR_MS))
    ]
    other = make_provenance("nano_two")
    span = (made[3].cutoff, made[-2].cutoff)
    with closing(open_store(url if url == "memory:" else f"sqlite:///{tmp_path}/ledger.db")) as store:
        store.add_run(Run("replay-1", "replay", 0))
        store.add_forecasts([make_forecast(cutoff=made[5].cutoff, provenance=other), *made], "replay-1")
        found = list(read_forecasts(store, made[0].key, "nano", "replay-1", span))
        extra = list(read_forecasts(store, make_key(symbol="ETH/USDT"), "nano", "replay-1", span))

    assert extra == []
    assert [one.cutoff for one in found] == [one.cutoff for one in made[3:-2]]
    for one, other in zip(found, made[3:-2], strict=True):
        assert (one.key, one.quantile_levels, one.engine) == (other.key, other.quantile_levels, other.engine)
        assert (one.issued_at, one.available_at) == (other.issued_at, other.available_at)
        assert one.provenance.ledger_id == other.provenance.ledger_id
        assert np.array_equal(one.raw_FHQ, other.raw_FHQ)
        assert np.array_equal(one.values_FHQ, other.values_FHQ)


def test_a_model_with_an_at_in_its_name():
    """Its forecasts come back, and it has trust; no other model's, whatever the part before the sign says."""
    store, bars = make_ledger(cutoffs=300)
    name, run = "models/nano@2024", Run("replay-1", "replay", 0)
    made = [
        make_forecast(
            bars.key, int(cutoff), issued_at=int(cutoff), provenance=make_provenance(model, "12ab"), horizon=1
        )
        for cutoff in bars.close_time[-200:-1]
        for model in (name, "random_walk", "models/nano")
    ]
    store.add_run(run)
    store.add_forecasts(made, run.id)
    found = list(read_forecasts(store, bars.key, name, run.id, (0, EVER)))
    trusted = TrustHistory(store.settled(bars.key, EVER, run_id=run.id), bars, name).at(int(bars.close_time[-1]))

    assert len(found) == 199
    assert {one.provenance.model_id for one in found} == {name}
    assert {one.provenance.ledger_id for one in found} == {f"{name}@12ab"}
    assert trusted.verdict.model_id == f"{name}@12ab"


def test_trust_is_what_it_was_at_the_time(ledger):
    """The same, to the last bit, as `Forecaster.trust` said while the ledger was live."""
    store, bars = ledger
    found = TrustHistory(store.settled(bars.key, EVER), bars, "nano")
    cutoffs = bars.close_time[TRUST_EVERY :: 3 * TRUST_EVERY].tolist()
    values = [found.at(cutoff) for cutoff in cutoffs]

    assert values == [live_trust(store, bars, cutoff) for cutoff in cutoffs]
    assert values[0] is None
    assert len({one.value for one in values[1:]}) == len(values) - 1 > 2
    assert values[-1].calibration < values[2].calibration


def test_between_two_judgements_the_older_stands(ledger):
    store, bars = ledger
    found = TrustHistory(store.settled(bars.key, EVER), bars, "nano", every=100)
    first, second = (int(bars.close_time[i]) for i in (300, 400))

    assert found.at(second - 1) is found.at(first)
    assert found.at(second) is not found.at(first)
    assert found.at(int(bars.close_time[0])) is None


def test_nothing_later_changes_trust(ledger):
    """The same steps without those that settled later, and with other outcomes of those: not a bit."""
    store, bars = ledger
    whole = TrustHistory(store.settled(bars.key, EVER), bars, "nano")
    at = int(bars.close_time[450])
    cut, perturbed = [], []
    for steps in store.settled(bars.key, EVER):
        later = steps.target_open_N >= at
        cut.append(steps[~later])
        actual_NF = steps.actual_NF.copy()
        actual_NF[later] *= 1e6
        perturbed.append(type(steps)(**{**vars(steps), "actual_NF": actual_NF}))

    for portions in (cut, perturbed):
        found = TrustHistory([one for one in portions if len(one)], bars, "nano")

        for cutoff in bars.close_time[150:451:150].tolist():
            assert found.at(cutoff) == whole.at(cutoff)


def test_another_models_trust_is_another(ledger):
    store, bars = ledger
    last = int(bars.close_time[-1])
    nano, garch = (TrustHistory(store.settled(bars.key, EVER), bars, name).at(last) for name in ("nano", "garch"))

    assert nano.verdict.model_id.startswith("nano@")
    assert garch.verdict.model_id.startswith("garch@")
    assert TrustHistory(store.settled(bars.key, EVER, run_id=LIVE), bars, "other").at(last) is None
