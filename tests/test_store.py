"""The snapshot is replaced whole, keeps the order of the plan, and holds nothing of watches that have gone."""

from __future__ import annotations

from exporter.exposition import encode
from exporter.model import Reading, Watch
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


def test_it_is_complete_when_every_watch_was_read_once() -> None:
    it = store(A, B)
    assert not it.complete()
    it.put(reading(A))
    it.put(reading(A))
    assert not it.complete()
    it.put(reading(B))
    assert it.complete()
