"""The snapshot is replaced whole, keeps the order of the plan, and holds nothing of watches that have gone."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from exporter import catalog
from exporter.exposition import encode, render
from exporter.model import Lack, Reading, Snapshot, Watch
from exporter.store import Store

A, B, C = (Watch(name, "api", 15.0, 16.0) for name in "abc")


def reading(watch: Watch, at: float = 0.0) -> Reading:
    return Reading(watch, at, 0.1)


def store(*plan: Watch) -> Store:
    made = Store(encode)
    made.plan(plan)
    return made


def test_a_snapshot_once_taken_never_changes() -> None:
    it = store(A, B)
    it.put(reading(A, 1.0))
    taken = it.snapshot
    it.put(reading(A, 2.0))
    it.put(reading(B, 2.0))
    assert [entry.reading.at for entry in taken.entries.values()] == [1.0]


def test_readings_stand_in_the_order_of_the_plan() -> None:
    it = store(A, B, C)
    for watch in (C, A, B):
        it.put(reading(watch))
    assert list(it.snapshot.entries) == [A, B, C]


def test_a_new_plan_drops_what_it_does_not_name_and_keeps_the_rest() -> None:
    it = store(A, B)
    it.put(reading(A, 1.0))
    it.put(reading(B, 1.0))
    it.plan((C, B))
    assert list(it.snapshot.entries) == [B]
    it.put(reading(C))
    assert list(it.snapshot.entries) == [C, B]


def test_a_late_reading_of_a_dropped_watch_is_ignored() -> None:
    it = store(A)
    it.plan((B,))
    it.put(reading(A))
    assert not it.snapshot.entries


OTHER = Watch("b", "canary", 15.0, 16.0)
SAMPLES = [
    catalog.UP(1.0, server="a"),
    catalog.UP(0.0, server="a"),
    catalog.LOADS_SEEN(3.0, server="a", model="m"),
    catalog.LOADS_SEEN(4.0, server="a", model="n"),
    catalog.EXPORTER_DROPPED(2.0, server="a"),
    catalog.HOST_CPUS(8.0, host="h"),
]
readings = st.builds(
    Reading,
    watch=st.sampled_from([A, B, C, OTHER]),
    at=st.floats(0, 1e10),
    took=st.just(0.1),
    samples=st.lists(st.sampled_from(SAMPLES), max_size=4).map(tuple),
    failures=st.sampled_from([{}, {"timeout": 1}]),
    lacks=st.sampled_from([(), (Lack("sight", "light"),)]),
)
plans = st.lists(st.sampled_from([A, B, C, OTHER]), unique=True)


@given(st.lists(readings | plans, max_size=12))
def test_whatever_came_and_went_the_page_is_that_of_the_last_readings(steps: list[Reading | list[Watch]]) -> None:
    it, plan, last = store(), list[Watch](), dict[Watch, Reading]()
    before = []
    for step in steps:
        if isinstance(step, Reading):
            it.put(step)
            last |= {step.watch: step} if step.watch in plan else {}
        else:
            it.plan(step)
            plan, last = step, {watch: last[watch] for watch in step if watch in last}
        taken = it.snapshot
        anew = Snapshot({watch: encode(last[watch]) for watch in plan if watch in last})
        before.append((taken, render(anew, openmetrics=False)))
        assert render(taken, openmetrics=False) == before[-1][1]
        assert {w: e.series for w, e in taken.entries.items()} == {w: e.series for w, e in anew.entries.items()}
        assert taken.awaited == tuple(watch for watch in plan if watch not in last)
    for taken, page in before:
        assert render(taken, openmetrics=False) == page, "a snapshot has changed since"


def test_a_source_that_was_blind_tells_its_failures_as_soon_as_it_sees() -> None:
    failures = {"timeout": 1}
    it = store()
    it.plan([A])
    blind = Reading(A, at=1.0, took=0.1, samples=(), failures=failures, lacks=(Lack("sight", "light"),))
    for reading in (blind, replace(blind, lacks=())):
        it.put(reading)
    assert b'ollama_source_failures_total{reason="timeout"' in render(it.snapshot, openmetrics=False)


def test_it_is_complete_when_every_watch_was_read_once() -> None:
    it = store(A, B)
    assert not it.complete()
    it.put(reading(A))
    it.put(reading(A))
    assert not it.complete()
    it.put(reading(B))
    assert it.complete()
