"""Requests are due when the scenario says so: as many, spaced as asked, the same for the same seed."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.loadtest.arrivals import Course, Phase, course, moments, replayed

LEVELS = st.floats(0, 4, allow_subnormal=False).map(lambda value: round(value, 3))
COURSES = st.lists(
    st.builds(Phase, st.just("p"), st.integers(1, 100).map(lambda tenths: tenths / 10), LEVELS, LEVELS),
    min_size=1,
    max_size=5,
).map(lambda phases: Course(tuple(phases)))


def test_constant_arrivals_are_evenly_spaced() -> None:
    found = list(moments(course("steady", 10.0), 4.0, "constant", random.Random(1)))
    assert found == pytest.approx([number / 4 for number in range(40)])


def test_poisson_arrivals_have_their_rate_and_their_spread() -> None:
    """Of an exponential distribution mean and deviation are equal; 40,000 of them tell to within 2 %."""
    found = list(moments(course("steady", 1000.0), 40.0, "poisson", random.Random(1)))
    gaps = [later - earlier for earlier, later in pairwise(found)]
    mean = sum(gaps) / len(gaps)
    deviation = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert mean == pytest.approx(1 / 40, rel=0.02)
    assert deviation == pytest.approx(1 / 40, rel=0.03)


def test_the_same_seed_gives_the_same_arrivals() -> None:
    first, again, other = (
        list(moments(course("steady", 9.0), 9.0, "poisson", random.Random(seed))) for seed in (1, 1, 2)
    )
    assert first == again != other


def test_a_ramp_offers_half_of_what_its_top_would() -> None:
    found = list(moments(course("ramp", 10.0), 100.0, "constant", random.Random(1)))
    assert len(found) == 500
    assert sum(moment < 5.0 for moment in found) == pytest.approx(125, abs=1)


def test_a_step_goes_up_in_equal_parts_and_a_spike_has_a_fifth_of_the_time() -> None:
    assert [phase.start for phase in course("step", 8.0, steps=4).phases] == [0.25, 0.5, 0.75, 1.0]
    before, spike, after = course("spike", 10.0, base=0.1).phases
    assert (before.end, spike.end, after.end) == (0.1, 1.0, 0.1)
    assert spike.seconds == pytest.approx(2.0)


@pytest.mark.parametrize("shape", ["steady", "ramp", "step", "spike", "soak"])
def test_every_shape_lasts_as_long_as_was_asked(shape: str) -> None:
    assert course(shape, 12.3).seconds == pytest.approx(12.3)  # type: ignore[arg-type]


def test_a_replayed_trace_has_room_for_its_last_arrival() -> None:
    assert replayed((0.0, 1.5, 4.0)).seconds > 4.0


@given(COURSES, st.floats(0.0, 1.0))
def test_what_was_offered_by_a_moment_is_the_area_up_to_it(along: Course, share: float) -> None:
    area = share * along.area * 0.999
    moment = along.when(area)
    if along.area == 0:
        assert moment is None
        return
    assert moment is not None
    assert _area(along, moment) == pytest.approx(area, abs=1e-6 + 1e-9 * along.area)


def _area(along: Course, until: float) -> float:
    total = 0.0
    for begin, phase in along.begins():
        inside = min(max(until - begin, 0.0), phase.seconds)
        slope = (phase.end - phase.start) / phase.seconds
        total += phase.start * inside + slope * inside**2 / 2
    return total


@given(COURSES, st.floats(0.0, 60.0), st.floats(0.0, 1.0, exclude_max=True))
def test_a_user_is_woken_at_a_moment_in_which_the_load_wants_him(along: Course, moment: float, level: float) -> None:
    found = along.next_above(moment, level)
    if found is not None:
        assert found >= moment
        assert along.level(found) > level or along.level(found + 1e-6) > level
