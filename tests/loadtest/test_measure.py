"""Histograms keep their stated error, merge, and say only what the sample can carry."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.loadtest.measure import RELATIVE_ERROR, Histogram, needed, percentile, ranks

VALUES = st.lists(st.floats(0.0, 1e6), min_size=1, max_size=300)
_HALF_A_UNIT = 0.5e-6


@given(VALUES)
def test_a_value_read_back_is_within_the_stated_error(values: list[float]) -> None:
    histogram, ordered = Histogram(values), sorted(values)
    for rank in range(1, len(values) + 1):
        read = histogram.at_rank(rank)
        assert read == pytest.approx(ordered[rank - 1], rel=RELATIVE_ERROR * 1.01, abs=_HALF_A_UNIT * 1.01)
    assert (histogram.count, histogram.max, histogram.least) == (len(values), max(values), min(values))
    assert histogram.mean == pytest.approx(sum(values) / len(values))


@given(VALUES, VALUES)
def test_merged_histograms_are_those_of_all_their_values(first: list[float], second: list[float]) -> None:
    merged, whole = Histogram(first), Histogram([*first, *second])
    merged.merge(Histogram(second))
    assert list(merged.buckets()) == list(whole.buckets())
    assert (merged.count, merged.least, merged.greatest) == (whole.count, whole.least, whole.greatest)


@given(VALUES, st.floats(1e-3, 1e6))
def test_what_is_above_a_bound_is_counted_to_within_the_error(values: list[float], bound: float) -> None:
    above = Histogram(values).above(bound)
    assert (
        sum(value > bound * (1 + 3 * RELATIVE_ERROR) for value in values)
        <= above
        <= sum(value > bound for value in values)
    )


def test_a_histogram_refuses_what_is_no_duration() -> None:
    for value in (-1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="cannot record"):
            Histogram().record(value)


def test_a_percentile_is_shown_only_where_the_sample_carries_it() -> None:
    assert [needed(q) for q in (0.5, 0.95, 0.99)] == [6, 72, 368]
    assert percentile(Histogram([1.0] * 367), 0.99).value is None
    assert percentile(Histogram([1.0] * 367), 0.99).why == "too few: 367 of 368"
    assert percentile(Histogram([1.0] * 368), 0.99).value == 1.0


def test_a_percentile_that_falls_among_those_that_failed_has_no_value() -> None:
    found = percentile(Histogram([1.0] * 90), 0.95, missing=10)
    assert (found.value, found.why) == (None, "falls among those that failed")
    assert percentile(Histogram([1.0] * 90), 0.5, missing=10).value == 1.0


def test_intervals_hold_in_95_of_100_samples() -> None:
    """Of 1,000 samples of 400 from a known distribution, the true 95th percentile lies outside in about 50."""
    rng, true = random.Random(7), -math.log(0.05)
    low, high = ranks(400, 0.95) or (0, 0)
    outside = 0
    for _ in range(1000):
        ordered = sorted(rng.expovariate(1.0) for _ in range(400))
        outside += not ordered[low - 1] <= true <= ordered[high - 1]
    assert 20 <= outside <= 70


def test_nothing_recorded_is_nothing_told() -> None:
    empty = Histogram()
    assert (empty.mean, empty.max, empty.at_rank(1), percentile(empty, 0.5).value) == (None, None, None, None)
