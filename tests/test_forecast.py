"""Forecasts: each invariant broken once, repair, and what a strategy may ask."""

from __future__ import annotations

import dataclasses
from xml.etree import ElementTree as ET

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from forecaster.bars import FIELDS
from forecaster.errors import InvalidArgument, NonFiniteForecast, format_time
from forecaster.forecast import CHRONOS_LEVELS, OHLCForecast, interpolate, repair, same_forecast
from tests.builders import HOUR_MS, make_key, utc_ms
from tests.forecast_builders import CUTOFF, TENS, make_forecast, make_provenance

STOCK = make_key("arch", "SPX/USD", "1d", "XNYS")
FRIDAY_CLOSE = utc_ms("2018-11-16 21:00")
PRICES = st.floats(1e-6, 1e12)


@st.composite
def raw_prices(draw, batch=()):
    """Prices of four fields, some steps and levels, in any order."""
    steps, levels = draw(st.integers(1, 3)), draw(st.integers(1, 6))
    return draw(arrays(np.float64, (*batch, 4, steps, levels), elements=PRICES))


def by_hand(close_Q=(90.0, 100.0, 110.0), levels=TENS) -> OHLCForecast:
    """Two steps: the close at the prices given, then 5 higher; open alike, high and low 20 away."""
    close_HQ = np.array([close_Q, np.add(close_Q, 5)], np.float64)
    values = np.stack([close_HQ, close_HQ + 20, close_HQ - 20, close_HQ])
    return OHLCForecast(make_key(), CUTOFF, levels, values, values.copy(), make_provenance())


def with_value(position, value, forecast=None):
    """The repaired prices of a forecast, one of them replaced."""
    values = (forecast or by_hand()).values_FHQ.copy()
    values[position] = value
    return values


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["raw_FHQ", "values_FHQ"])
def test_every_price_is_finite(name, value):
    with pytest.raises(
        NonFiniteForecast, match=f"binance BTC/USDT 1h: expected a finite forecast at cutoff {format_time(CUTOFF)}"
    ):
        dataclasses.replace(by_hand(), **{name: with_value((3, 0, 1), value)})


@pytest.mark.parametrize(("level", "value"), [(0, 105.1), (2, 104.9)], ids=["lowest", "highest"])
def test_quantiles_increase_with_their_level(level, value):
    with pytest.raises(
        InvalidArgument, match=r"^forecast: expected quantiles that increase with their level, found decreasing ones$"
    ):
        dataclasses.replace(by_hand(), values_FHQ=with_value((3, 1, level), value))


@pytest.mark.parametrize(
    ("field", "value"),
    [("open", 69.9), ("close", 69.9), ("open", 110.1), ("close", 110.1)],
    ids=["low above open", "low above close", "high below open", "high below close"],
)
def test_fields_agree_at_every_level(field, value):
    """At the lowest level low is 70 and high is 110."""
    values = with_value((FIELDS.index(field), 0), [value, 120.0, 125.0] if value > 100 else [value, 100.0, 110.0])

    with pytest.raises(
        InvalidArgument, match=r"^forecast: expected low ≤ open, close ≤ high at every level, found fields that cross$"
    ):
        dataclasses.replace(by_hand(), values_FHQ=values)


def test_raw_prices_may_be_in_any_order():
    """They are kept as the model gave them; only what is served is in order."""
    raw = by_hand().values_FHQ[::-1, :, ::-1]

    assert dataclasses.replace(by_hand(), raw_FHQ=raw).raw_FHQ.tolist() == raw.tolist()


def test_equal_quantiles_are_in_order():
    flat = np.full((4, 2, 3), 100.0)

    assert OHLCForecast(make_key(), CUTOFF, TENS, flat, flat, make_provenance()).repairs == 0


@pytest.mark.parametrize(
    "shape",
    [(3, 2, 3), (5, 2, 3), (4, 2, 2), (4, 2, 4), (4, 2), (1, 4, 2, 3), (24,)],
    ids=str,
)
def test_another_shape_is_refused(shape):
    prices = np.full(shape, 100.0)
    expected = (4, *shape[1:2], 3)

    with pytest.raises(InvalidArgument) as refused:
        OHLCForecast(make_key(), CUTOFF, TENS, prices, prices, make_provenance())

    assert str(refused.value) == f"forecast: expected shape {expected}, found {shape} and {shape}"


def test_raw_and_repaired_have_one_shape():
    with pytest.raises(InvalidArgument, match="forecast: expected shape"):
        dataclasses.replace(by_hand(), values_FHQ=by_hand().values_FHQ[:, :1])


@pytest.mark.parametrize(
    "levels",
    [(0.5, 0.1, 0.9), (0.1, 0.1, 0.9), (0.0, 0.5, 0.9), (0.1, 0.5, 1.0), (10.0, 50.0, 90.0)],
    ids=["falling", "twice", "zero", "one", "per cent"],
)
def test_levels_increase_inside_0_and_1(levels):
    """Reading between levels is wrong without a word when they are not in order."""
    with pytest.raises(InvalidArgument) as refused:
        dataclasses.replace(by_hand(), quantile_levels=levels)

    assert str(refused.value) == f"quantile_levels: expected levels that increase inside (0, 1), found {levels}"


def test_a_forecast_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        by_hand().cutoff = 0


@pytest.mark.parametrize("name", ["raw_FHQ", "values_FHQ"])
def test_its_prices_cannot_be_changed(name):
    """They were checked once, and strategies share them with the ledger."""
    with pytest.raises(ValueError, match="read-only"):
        getattr(by_hand(), name)[0, 0, 0] = -1.0


def test_a_forecast_does_not_share_memory_with_the_caller():
    raw = by_hand().raw_FHQ.copy()
    forecast = OHLCForecast(make_key(), CUTOFF, TENS, raw, repair(raw), make_provenance())

    raw[:] = 1.0

    assert forecast.raw_FHQ[3, 0, 1] == 100.0


def test_a_view_that_is_read_only_is_no_promise_of_its_owner():
    raw = by_hand().raw_FHQ.copy()
    view = raw[:]
    view.setflags(write=False)
    forecast = dataclasses.replace(by_hand(), raw_FHQ=view)

    raw[:] = 1.0

    assert forecast.raw_FHQ[3, 0, 1] == 100.0


def test_what_nobody_can_change_is_not_copied():
    """A replay makes each forecast anew two times, calibrated and stamped."""
    forecast = by_hand()

    again = dataclasses.replace(forecast, issued_at=CUTOFF)

    assert again.raw_FHQ is forecast.raw_FHQ
    assert again.values_FHQ is forecast.values_FHQ


@pytest.mark.parametrize("kind", [np.int64, np.float32, list], ids=["integers", "float32", "list"])
def test_prices_of_another_kind_become_float64(kind):
    prices = [[[100] * 3] * 2] * 4
    if kind is not list:
        prices = np.array(prices, kind)
        prices.setflags(write=False)

    forecast = OHLCForecast(make_key(), CUTOFF, TENS, prices, prices, make_provenance())

    assert forecast.raw_FHQ.dtype == forecast.values_FHQ.dtype == np.float64


@settings(derandomize=True, deadline=None, max_examples=200)
@given(raw_prices())
def test_repair_puts_prices_in_order(raw):
    """The result passes the checks of `OHLCForecast`, whatever the model said."""
    open_, high, low, close = values = repair(raw)

    assert (np.diff(values, axis=-1) >= 0).all()
    assert (low <= np.minimum(open_, close)).all()
    assert (high >= np.maximum(open_, close)).all()


@settings(derandomize=True, deadline=None, max_examples=100)
@given(raw_prices())
def test_repair_changes_nothing_twice(raw):
    """Nor what is in order already."""
    once = repair(raw)

    assert repair(once).tobytes() == once.tobytes()


@settings(derandomize=True, deadline=None, max_examples=100)
@given(raw_prices())
def test_repair_moves_no_open_or_close(raw):
    """It puts their quantiles in order and makes room with high and low."""
    before, values = raw.copy(), repair(raw)

    assert raw.tobytes() == before.tobytes()
    assert values[[0, 3]].tolist() == np.sort(raw[[0, 3]], axis=-1).tolist()
    assert (values[1] >= np.sort(raw[1], axis=-1)).all()
    assert (values[2] <= np.sort(raw[2], axis=-1)).all()


@settings(derandomize=True, deadline=None, max_examples=50)
@given(raw_prices(batch=(2, 3)))
def test_repair_takes_any_batch(raw):
    """Each forecast of a batch as if it were alone."""
    together = repair(raw)

    for place in np.ndindex(2, 3):
        assert together[place].tobytes() == repair(raw[place]).tobytes()


@settings(derandomize=True, deadline=None, max_examples=100)
@given(arrays(np.float64, len(TENS), elements=st.floats(1, 1000)), st.floats(1, 1000))
def test_sorting_quantiles_never_costs_accuracy(raw_Q, actual):
    """The pinball loss by a two-line loop, before and after."""

    def loss(values_Q):
        return sum(max(q * (actual - x), (q - 1) * (actual - x)) for q, x in zip(TENS, values_Q, strict=True))

    repaired_Q = repair(np.tile(raw_Q, (4, 1, 1)))[3, 0]

    assert loss(repaired_Q) <= loss(raw_Q) + 1e-9


def test_repair_by_hand():
    """The close's quantiles cross, its highest one lies above high, and open lies below low."""
    raw = np.array([[[95.0, 96.0]], [[105.0, 106.0]], [[97.0, 98.0]], [[107.0, 99.0]]])

    assert repair(raw)[:, 0].tolist() == [[95.0, 96.0], [105.0, 107.0], [95.0, 96.0], [99.0, 107.0]]


def test_repairs_are_counted():
    """Two closes change places, high is lifted once, low is lowered twice."""
    raw = np.array([[[95.0, 96.0]], [[105.0, 106.0]], [[97.0, 98.0]], [[107.0, 99.0]]])

    forecast = OHLCForecast(make_key(), CUTOFF, (0.1, 0.9), raw, repair(raw), make_provenance())

    assert forecast.repairs == 5
    assert by_hand().repairs == 0


def test_before_calibration_a_forecast_is_the_models_own():
    """Repaired, as every forecast is."""
    forecast = make_forecast()
    moved = dataclasses.replace(forecast, values_FHQ=forecast.values_FHQ * 1.01)

    assert moved.uncalibrated.values_FHQ.tolist() == repair(forecast.raw_FHQ).tolist()
    assert moved.uncalibrated.raw_FHQ is forecast.raw_FHQ


def with_raw(position, value):
    """Two steps and two levels of four fields that spread over 100, 100, 100 and 1000, one price replaced."""
    raw_FHQ = np.array([[[0.0, 50.0], [50.0, 100.0]]] * 3 + [[[0.0, 500.0], [500.0, 1000.0]]])
    raw_FHQ[position] = value
    return OHLCForecast(make_key(), CUTOFF, (0.1, 0.9), raw_FHQ, repair(raw_FHQ), make_provenance())


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    ("field", "by", "same"),
    [(0, 0.0, True), (0, 0.01, True), (0, 0.0101, False), (3, 0.0101, True), (3, 0.1, True), (3, 0.101, False)],
)
def test_the_same_forecast_differs_by_a_ten_thousandth_of_its_spread_at_most(field, by, same, sign):
    """Of each field by itself, over all steps and levels: what engines and batches differ by in float32."""
    one, other = with_raw((0, 0, 0), 0.0), with_raw((field, 0, 0), sign * by)

    assert same_forecast(one, other) is same


def test_a_forecast_without_spread_is_the_same_as_itself_alone():
    flat = [
        OHLCForecast(make_key(), CUTOFF, TENS, prices, prices, make_provenance())
        for prices in (np.full((4, 2, 3), 100.0), np.full((4, 2, 3), 100.0), np.full((4, 2, 3), 100.0 + 1e-9))
    ]

    assert same_forecast(flat[0], flat[1])
    assert not same_forecast(flat[0], flat[2])


def test_another_input_or_horizon_is_another_forecast():
    forecast = make_forecast()
    elsewhere = dataclasses.replace(forecast.provenance, input_sha256="ef" * 32)

    assert not same_forecast(forecast, dataclasses.replace(forecast, provenance=elsewhere))
    assert not same_forecast(forecast, make_forecast(horizon=2))


def test_a_quantile_of_the_model_is_given_exactly():
    forecast = make_forecast()

    for q, level in enumerate(CHRONOS_LEVELS):
        for f, field in enumerate(FIELDS):
            assert forecast.quantile(level, field).tolist() == forecast.values_FHQ[f, :, q].tolist()


def test_a_quantile_between_levels_is_on_the_line():
    """0.2 lies a quarter of the way from 0.1 to 0.5."""
    np.testing.assert_allclose(by_hand().quantile(0.2), [92.5, 97.5], rtol=1e-12)
    np.testing.assert_allclose(by_hand().quantile(0.7, "low"), [85.0, 90.0], rtol=1e-12)


def test_quantiles_give_every_field():
    forecast = make_forecast()

    quantiles = forecast.quantiles(0.33)

    assert quantiles.shape == (4, 3)
    assert quantiles.tolist() == [forecast.quantile(0.33, field).tolist() for field in FIELDS]


@pytest.mark.parametrize("level", [0.0, 0.09, 0.91, 1.0, -0.5, 50.0, np.nan])
def test_a_level_outside_the_outermost_ones_is_refused(level):
    """The model said nothing about the tails, so neither does the forecast."""
    with pytest.raises(InvalidArgument, match=rf"^level: expected 0\.1 to 0\.9, found {level}$"):
        by_hand().quantile(level)


@pytest.mark.parametrize("field", ["Close", "volume", "", "c"])
def test_an_unknown_field_is_refused_with_those_known(field):
    for ask in (
        lambda: by_hand().quantile(0.5, field),
        lambda: by_hand().median(field),
        lambda: by_hand().interval(0.8, field),
        lambda: by_hand().prob_above(100.0, field=field),
    ):
        with pytest.raises(InvalidArgument, match=f"^field: expected one of open, high, low, close, found {field!r}$"):
            ask()


def test_the_median_is_of_the_close_unless_told():
    assert by_hand().median().tolist() == [100.0, 105.0]
    assert by_hand().median("high").tolist() == [120.0, 125.0]


def test_an_interval_leaves_equal_tails():
    lower, upper = by_hand().interval(0.8)

    assert lower.tolist() == [90.0, 95.0]
    assert upper.tolist() == [110.0, 115.0]


@pytest.mark.parametrize("coverage", [0.98, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])
def test_an_interval_ends_at_the_models_own_levels(coverage):
    """Binary fractions do not push it past them, nor between them."""
    forecast = make_forecast()

    lower, upper = forecast.interval(coverage, "high")

    assert lower.tolist() == forecast.quantile(round(0.5 - coverage / 2, 3), "high").tolist()
    assert upper.tolist() == forecast.quantile(round(0.5 + coverage / 2, 3), "high").tolist()


def test_an_interval_of_nothing_is_the_median():
    lower, upper = by_hand().interval(0.0)

    assert lower.tolist() == upper.tolist() == [100.0, 105.0]


@pytest.mark.parametrize(
    ("coverage", "message"),
    [(0.81, "level: expected 0.1 to 0.9, found 0.095")]
    + [(coverage, f"coverage: expected 0 or more, below 1, found {coverage}") for coverage in (1, 1.2, 80, -0.5)],
    ids=str,
)
def test_an_interval_that_cannot_be_is_refused(coverage, message):
    """Wider than the outermost levels, per cents, or less than nothing: its ends would change places."""
    with pytest.raises(InvalidArgument) as refused:
        by_hand().interval(coverage)

    assert str(refused.value) == message


@pytest.mark.parametrize(("price", "probability"), [(90, 0.9), (95, 0.7), (100, 0.5), (105, 0.3), (110, 0.1)])
def test_the_probability_above_a_price(price, probability):
    assert by_hand().prob_above(price) == pytest.approx(probability, abs=1e-12)


@pytest.mark.parametrize(("price", "probability"), [(0.0, 0.9), (-np.inf, 0.9), (1e9, 0.1), (np.inf, 0.1)])
def test_the_probability_never_leaves_the_outermost_levels(price, probability):
    """A tail that the model did not forecast is no certainty."""
    assert by_hand().prob_above(price) == pytest.approx(probability, abs=1e-12)


def test_the_probability_of_a_step_and_a_field():
    assert by_hand().prob_above(105.0) == by_hand().prob_above(105.0, step=1)
    assert by_hand().prob_above(105.0, step=2) == pytest.approx(0.5)
    assert by_hand().prob_above(105.0, step=2, field="low") == pytest.approx(0.1)


@pytest.mark.parametrize(("price", "probability"), [(99.0, 0.9), (100.0, 0.3), (105.0, 0.2), (110.0, 0.1)])
def test_levels_that_share_a_price_are_not_above_it(price, probability):
    """Levels 0.1 to 0.7 all say 100: that probability lies on 100, and only the rest above it."""
    values_FHQ = np.tile([100.0, 100.0, 100.0, 100.0, 110.0], (4, 1, 1))
    levels = (0.1, 0.3, 0.5, 0.7, 0.9)
    forecast = OHLCForecast(make_key(), CUTOFF, levels, values_FHQ, values_FHQ, make_provenance())

    assert forecast.prob_above(price) == pytest.approx(probability, abs=1e-12)


def test_the_probability_above_nan_is_refused():
    with pytest.raises(InvalidArgument, match=r"^price: expected a number, found nan$"):
        by_hand().prob_above(float("nan"))


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_is_a_view(field):
    forecast = by_hand()
    view = getattr(forecast, field)

    assert view.median.tolist() == forecast.median(field).tolist()
    assert view.quantile(0.3).tolist() == forecast.quantile(0.3, field).tolist()
    assert [bound.tolist() for bound in view.interval(0.5)] == [b.tolist() for b in forecast.interval(0.5, field)]
    assert view.prob_above(100.0, 2) == forecast.prob_above(100.0, field, 2)


def test_repr_is_one_line():
    assert repr(by_hand()) == (
        f"<OHLCForecast {by_hand().key} at {format_time(by_hand().cutoff)}: 2 steps, "
        f"close 100 (80 % 90 to 110) at {format_time(by_hand().target_time())}>"
    )


def test_a_notebook_shows_a_chart():
    """Well-formed, with the prices of the interval, and safe whatever the symbol is called."""
    shown = dataclasses.replace(by_hand(), last_close=99.5)._repr_html_()

    figure = ET.fromstring(shown)  # noqa: S314 - our own text
    assert [one.tag for one in figure.find("svg")][-3:] == ["polyline", "text", "text"]
    assert format_time(by_hand().cutoff) in figure.find("figcaption").text


@settings(derandomize=True, deadline=None, max_examples=100)
@given(st.floats(0.01, 0.99), st.sampled_from(FIELDS), st.integers(1, 3))
def test_probability_is_the_inverse_of_the_quantile(level, field, step):
    forecast = make_forecast()

    price = forecast.quantile(level, field)[step - 1]

    assert forecast.prob_above(price, field, step) == pytest.approx(1 - level, abs=1e-6)


@pytest.mark.parametrize("step", [0, 3, -1])
def test_a_step_outside_the_horizon_is_refused(step):
    """Step 0 would read the last one, as Python counts from behind."""
    for ask in (lambda: by_hand().prob_above(100.0, step=step), lambda: by_hand().target_time(step)):
        with pytest.raises(InvalidArgument, match=f"^step: expected 1 to 2, found {step}$"):
            ask()


def test_the_first_target_bar_opens_at_the_cutoff():
    forecast = make_forecast(horizon=3)

    assert forecast.target_time() == CUTOFF
    assert [forecast.target_time(step) for step in (1, 2, 3)] == [CUTOFF, CUTOFF + HOUR_MS, CUTOFF + 2 * HOUR_MS]
    assert forecast.target_opens().tolist() == [CUTOFF, CUTOFF + HOUR_MS, CUTOFF + 2 * HOUR_MS]
    assert forecast.horizon == 3


def test_targets_cannot_be_changed():
    """They are shared by all forecasts of one cutoff."""
    with pytest.raises(ValueError, match="read-only"):
        make_forecast().target_opens()[0] = 0

    assert make_forecast(horizon=2).target_opens().tolist() == [CUTOFF, CUTOFF + HOUR_MS]


def test_targets_of_a_stock_jump_weekend_and_holiday():
    """From a Friday's close: Monday, Tuesday, Wednesday, not Thanksgiving, Friday, Monday."""
    forecast = make_forecast(STOCK, cutoff=FRIDAY_CLOSE, horizon=5)

    assert forecast.target_opens().tolist() == [utc_ms(f"2018-11-{day} 14:30") for day in (19, 20, 21, 23, 26)]
    assert forecast.target_time(4) == utc_ms("2018-11-23 14:30")


def test_an_intraday_target_jumps_the_night():
    key = make_key("arch", "SPX/USD", "1h", "XNYS")
    forecast = make_forecast(key, cutoff=utc_ms("2018-11-20 20:30"), horizon=2)

    assert forecast.target_opens().tolist() == [utc_ms("2018-11-20 20:30"), utc_ms("2018-11-21 14:30")]


@pytest.mark.parametrize(("late", "stale"), [(0, False), (HOUR_MS - 1, False), (HOUR_MS, True), (9 * HOUR_MS, True)])
def test_a_forecast_is_stale_when_its_first_bar_has_closed(late, stale):
    """From that moment a newer one should exist."""
    assert make_forecast().is_stale(CUTOFF + late) is stale


@pytest.mark.parametrize(
    ("issued", "late"), [(None, False), (0, False), (HOUR_MS - 1, False), (HOUR_MS, True), (9 * HOUR_MS, True)]
)
def test_a_forecast_is_late_when_its_first_bar_had_closed(issued, late):
    """What has closed was not to be forecast in time; before it is recorded nobody has asked for it."""
    assert make_forecast(issued_at=None if issued is None else CUTOFF + issued).is_late is late


@pytest.mark.parametrize(
    ("cutoff", "closes"),
    [("2018-11-16 21:00", "2018-11-19 21:00"), ("2018-11-21 21:00", "2018-11-23 18:00")],
    ids=["weekend", "holiday and early close"],
)
def test_a_forecast_of_a_stock_is_fresh_until_the_next_session_closes(cutoff, closes):
    forecast = make_forecast(STOCK, cutoff=utc_ms(cutoff))

    assert not forecast.is_stale(utc_ms(closes) - 1)
    assert forecast.is_stale(utc_ms(closes))


def test_age_counts_from_the_cutoff():
    assert make_forecast().age(CUTOFF + 1234) == 1234
    assert make_forecast().age(CUTOFF) == 0


def test_the_frame_has_a_row_for_each_target_bar():
    forecast = make_forecast(STOCK, cutoff=FRIDAY_CLOSE, horizon=2)

    frame = forecast.frame

    assert list(frame.index) == [pd.Timestamp("2018-11-19 14:30", tz="UTC"), pd.Timestamp("2018-11-20 14:30", tz="UTC")]
    assert frame.index.name == "target_open"
    assert list(frame.columns.names) == ["field", "level"]
    assert frame.shape == (2, 4 * len(CHRONOS_LEVELS))


def test_the_frame_holds_what_is_served():
    forecast = make_forecast()

    frame = forecast.frame

    for field in FIELDS:
        for level in CHRONOS_LEVELS:
            assert frame[field, level].tolist() == forecast.quantile(level, field).tolist()


def test_the_engine_is_the_one_that_made_it():
    assert make_forecast(provenance=make_provenance(engine="compiled")).engine == "compiled"


def test_the_ledger_calls_a_model_by_name_and_revision():
    """Twelve digits of a digest are enough to tell two apart."""
    assert make_provenance("nano", "0123456789abcdef").ledger_id == "nano@0123456789ab"
    assert make_provenance("random_walk", "1").ledger_id == "random_walk@1"


@pytest.mark.parametrize("name", ["nano", "hub:amazon/chronos-2", "/models/me@home", "@", ""])
def test_an_id_gives_back_the_name_it_was_made_of(name):
    """Whatever the folder is called; a digest never holds an at sign."""
    made = make_provenance(name, "0123456789abcdef").ledger_id

    assert (made.name, made.digest) == (name, "0123456789ab")


def test_interpolate_takes_any_leading_axes():
    values = np.arange(24.0).reshape(2, 4, 3)

    assert interpolate(values, TENS, 0.5).tolist() == values[..., 1].tolist()
    np.testing.assert_allclose(interpolate(values, TENS, 0.7), values[..., 1] + 0.5, rtol=1e-12)


def test_the_levels_of_chronos_are_its_own():
    """0.01, then 0.05 to 0.95, then 0.99, as its configuration lists them."""
    assert len(CHRONOS_LEVELS) == 21
    assert CHRONOS_LEVELS[:3] == (0.01, 0.05, 0.1)
    assert CHRONOS_LEVELS[10] == 0.5
    assert CHRONOS_LEVELS[-2:] == (0.95, 0.99)
