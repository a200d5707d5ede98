"""What counts as growth: a line through what was used behind the warm-up."""

from __future__ import annotations

import pytest

from tests.faults import soak
from tests.faults.soak import Use, growth, slope


def make_looks(cycles=10_000, mib=0.0, threads=0.0, descriptors=0.0):
    """What a service uses that grows by so much with each thousand cycles, and quickly while it warms up."""
    return [
        Use(
            at,
            600 + min(at, 1500) / 10 + mib * at / 1000,
            9 + round(threads * at / 1000),
            12 + round(descriptors * at / 1000),
        )
        for at in range(20, cycles + 1, 20)
    ]


def test_slope_is_that_of_least_squares():
    """Against the formula, sum of products over sum of squares, in a loop."""
    looks = [Use(cycles, mib, 9, 12) for cycles, mib in [(20, 1.0), (40, 5.0), (60, 3.0), (80, 9.0), (100, 4.0)]]
    steady = looks[1:]
    mean_cycles, mean = sum(one.cycles for one in steady) / 4, sum(one.mib for one in steady) / 4
    products = sum((one.cycles - mean_cycles) * (one.mib - mean) for one in steady)
    squares = sum((one.cycles - mean_cycles) ** 2 for one in steady)

    assert slope(looks, "mib") == pytest.approx(1000 * products / squares)


def test_warm_up_does_not_count():
    assert slope(make_looks(), "mib") == pytest.approx(0, abs=1e-6)
    assert growth(make_looks()) == []


@pytest.mark.parametrize(
    ("grows", "named"),
    [({"mib": 0.2}, "mib grew by 1.60"), ({"threads": 1}, "threads grew"), ({"descriptors": 1}, "descriptors grew")],
)
def test_growth_is_named(grows, named):
    (found,) = growth(make_looks(**grows))

    assert found.startswith(named)


def test_a_mebibyte_is_allowed():
    assert growth(make_looks(mib=0.12)) == []


def test_picture_is_drawn(tmp_path):
    soak.draw(make_looks(400), tmp_path / "soak.png")

    assert (tmp_path / "soak.png").stat().st_size > 10_000


@pytest.mark.processes
def test_service_that_works_is_looked_at():
    """A short life: every look is there, nothing is left without a word, no thread or file more than at first."""
    looks, wrong = soak.play(40, speed=120)

    assert wrong == []
    assert [one.cycles for one in looks] == [20, 40]
    assert all(one.mib > 100 for one in looks)
    assert looks[-1].threads <= looks[0].threads + 1
