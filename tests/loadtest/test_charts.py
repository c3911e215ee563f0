"""Labels in charts: near what they name, and never one over another."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.loadtest.charts import Label, Line, Mark, distribution, labels_above, labels_beside, lines

NAMES = st.sampled_from(["p50 0.25 s", "p95 2 s", "p99 2.5 s", "p99 12.5 s"])
ACROSS = st.lists(st.tuples(NAMES, st.floats(58, 566)), max_size=5)
UP = st.lists(st.tuples(NAMES, st.floats(14, 196)), max_size=5)


def apart(labels: Sequence[Label]) -> bool:
    return not any(one.meets(other) for one, other in combinations(labels, 2))


@given(lines_at=ACROSS)
def test_labels_beside_lines_never_meet_and_stay_in_the_picture(lines_at: list[tuple[str, float]]) -> None:
    labels = labels_beside(lines_at)
    assert [label.text for label in labels] == [name for name, _ in lines_at]
    assert apart(labels)
    assert all(label.x >= 58 and label.end <= 580 for label in labels)


@given(lines_at=UP)
def test_labels_above_lines_never_meet_and_stay_at_their_height(lines_at: list[tuple[str, float]]) -> None:
    labels = labels_above(lines_at)
    assert apart(labels)
    assert all(label.y in (y - 4, y + 11) for label, (_, y) in zip(labels, lines_at, strict=True))


def test_the_lower_of_two_lines_close_together_is_named_beneath() -> None:
    """Or the upper line would go through its name."""
    upper, lower = labels_above([("p99 2 s", 60.0), ("p95 1.9 s", 66.0)])
    assert (upper.y, lower.y) == (56.0, 77.0)


def test_a_label_alone_is_where_one_looks_for_it() -> None:
    assert labels_beside([("p95 2 s", 100.0)]) == [Label("p95 2 s", 104.0, 24.0)]


def test_of_two_lines_close_together_the_left_one_is_named_on_the_left() -> None:
    """Or the other line would go through its name."""
    left, right = labels_beside([("p95 2 s", 300.0), ("p99 2.5 s", 320.0)])
    assert left.end <= 296.0 + 1e-9
    assert right.x == 324.0
    assert left.y == right.y


@pytest.mark.parametrize("limits", [(2.0, 2.0), (2.0, 2.1), (9.9, 10.0)])
def test_every_limit_is_named_in_the_chart(limits: tuple[float, float]) -> None:
    marks = [Mark(f"p{number} <{limit:g}> s", limit) for number, limit in zip((95, 99), limits, strict=True)]
    over_time = [Line("p95", "b", [(0.0, 1.0), (1.0, 9.0)])]
    for drawn in (distribution("d", "a", [(1.0, 2.0, 5.0)], marks), lines("l", over_time, (), marks)):
        assert drawn.count('<text class="limit"') == 2
        assert "p95 &lt;" in drawn
