"""Counters only rise, histograms count what they were given, label sets are what the family says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.meter import Counter, Histogram
from exporter.model import Distribution, Family

COUNTER = Family("x_total", "counter", "Counted.", ("server", "reason"))
HISTOGRAM = Family("y_seconds", "histogram", "Timed.", ("server", "model"), "seconds", (0.1, 1.0, 2.0))


def distribution(histogram: Histogram) -> Distribution:
    (sample,) = histogram.samples()
    assert isinstance(sample.value, Distribution)
    return sample.value


def test_a_counter_starts_its_vocabulary_at_zero_and_keeps_what_it_has() -> None:
    counter = Counter(COUNTER, server="a")
    counter.add(reason="x")
    counter.zero(reason=("x", "y"))
    assert {sample.labels: sample.value for sample in counter.samples()} == {("a", "x"): 1.0, ("a", "y"): 0.0}


def test_a_counter_never_goes_down() -> None:
    counter = Counter(COUNTER, server="a")
    with pytest.raises(ValueError, match="cannot go down"):
        counter.add(-1.0, reason="x")


@pytest.mark.parametrize("labels", [{}, {"reason": "x", "model": "m"}, {"model": "m"}], ids=["none", "more", "other"])
def test_a_counter_refuses_labels_that_are_not_its_familys(labels: dict[str, str]) -> None:
    with pytest.raises((TypeError, KeyError)):
        Counter(COUNTER, server="a").add(**labels)


def test_what_is_not_kept_is_forgotten() -> None:
    counter, histogram = Counter(COUNTER, server="a"), Histogram(HISTOGRAM, server="a")
    for name in ("x", "y"):
        counter.add(reason=name)
        histogram.observe(1.0, model=name)
    counter.keep("reason", frozenset({"y"}))
    histogram.keep("model", frozenset({"y"}))
    assert [sample.labels for sample in counter.samples()] == [("a", "y")]
    assert [sample.labels for sample in histogram.samples()] == [("a", "y")]


def test_a_child_that_has_not_changed_gives_the_same_sample() -> None:
    counter, histogram = Counter(COUNTER, server="a"), Histogram(HISTOGRAM, server="a")
    for name in ("x", "y"):
        counter.add(reason=name)
        histogram.observe(1.0, model=name)
    before = [*counter.samples(), *histogram.samples()]
    counter.add(reason="x")
    counter.add(0.0, reason="y")
    histogram.observe(1.0, model="x")
    after = [*counter.samples(), *histogram.samples()]
    assert [new is old for old, new in zip(before, after, strict=True)] == [False, True, False, True]
    assert [sample.value for sample in after] == [
        2.0,
        1.0,
        Distribution((0, 2, 2, 2), 2.0),
        Distribution((0, 1, 1, 1), 1.0),
    ]


def test_a_child_that_was_forgotten_starts_anew() -> None:
    counter, histogram = Counter(COUNTER, server="a"), Histogram(HISTOGRAM, server="a")
    for _ in range(2):
        counter.add(reason="x")
        histogram.observe(1.0, model="x")
        (count,), state = counter.samples(), distribution(histogram)
        assert (count.value, state) == (1.0, Distribution((0, 1, 1, 1), 1.0))
        counter.keep("reason", frozenset())
        histogram.keep("model", frozenset())
    histogram.zero(model=("x",))
    assert distribution(histogram) == Distribution((0, 0, 0, 0), 0.0)


def test_a_value_on_a_boundary_belongs_to_its_bucket() -> None:
    histogram = Histogram(HISTOGRAM, server="a")
    for value in (0.1, 1.0, 1.5, 2.0, 2.1):
        histogram.observe(value, model="m")
    assert distribution(histogram) == Distribution((1, 2, 4, 5), pytest.approx(6.7))


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_a_histogram_refuses_what_is_no_duration(value: float) -> None:
    with pytest.raises(ValueError, match="cannot observe"):
        Histogram(HISTOGRAM, server="a").observe(value, model="m")


@given(st.lists(st.floats(0, 1e6), min_size=1))
def test_buckets_are_cumulative_and_the_last_counts_all(values: list[float]) -> None:
    histogram = Histogram(HISTOGRAM, server="a")
    for value in values:
        histogram.observe(value, model="m")
    seen = distribution(histogram)
    assert seen.counts == (*(sum(v <= bound for v in values) for bound in HISTOGRAM.buckets), len(values))
    assert seen.total == pytest.approx(sum(values))


def test_an_exported_distribution_does_not_change_afterwards() -> None:
    histogram = Histogram(HISTOGRAM, server="a")
    histogram.observe(0.5, model="m")
    before = distribution(histogram)
    histogram.observe(0.5, model="m")
    assert before.counts == (0, 1, 1, 1)
