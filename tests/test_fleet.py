"""The fleet's loops in virtual time: who is polled when, and that no source can harm another one or the fleet."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import logging
import math
import random
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter import catalog
from exporter.exposition import encode, render
from exporter.fleet import Fleet, Observer, next_due, tick
from exporter.meter import Histogram
from exporter.model import Distribution, Failed, Lack, Lacking, Partial, Reading, Reason, Sample, Watch
from exporter.simulator import run_virtual, virtual_wall_clock
from exporter.store import Store

TICK = 0.1
REASONS: tuple[Reason, ...] = ("refused", "timeout", "bug")


def virtually(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        run_virtual(test(*args, **kwargs))

    return run


def watch(server: str = "a", every: float = 10.0, within: float = 5.0) -> Watch:
    return Watch(server, "fake", every, within)


@dataclass(eq=False)
class Fake:
    """A source that keeps count of itself. `act` is what a look does."""

    watch: Watch
    act: Callable[[Fake], Awaitable[Iterable[Sample] | Partial]]
    looks: int = 0
    closed: int = 0
    looking: int = 0
    most_at_once: int = 0
    started: list[float] = field(default_factory=list)

    async def collect(self) -> Iterable[Sample] | Partial:
        assert not self.closed
        self.looks += 1
        self.looking += 1
        self.most_at_once = max(self.most_at_once, self.looking)
        self.started.append(asyncio.get_running_loop().time())
        try:
            return await self.act(self)
        finally:
            self.looking -= 1

    async def aclose(self) -> None:
        assert not self.looking
        self.closed += 1


async def look_well(fake: Fake) -> Iterable[Sample]:
    """One sample that tells how often this very source has looked."""
    return [catalog.LOADED_MODELS(float(fake.looks), server=fake.watch.server)]


async def look_refused(_: Fake) -> Iterable[Sample]:
    raise Failed("refused")


async def look_buggy(fake: Fake) -> Iterable[Sample]:
    raise ZeroDivisionError(f"look {fake.looks}")


async def look_blindly(_: Fake) -> Iterable[Sample]:
    raise Lacking("nothing is to be seen", "do this")


async def look_forever(_: Fake) -> Iterable[Sample]:
    await asyncio.Event().wait()
    return ()


class Stage:
    """A fleet on fake sources, its store, and everything it published."""

    def __init__(self, act: Callable[[Fake], Awaitable[Iterable[Sample]]] = look_well) -> None:
        self.acts: dict[str, Callable[[Fake], Awaitable[Iterable[Sample]]]] = {}
        self._act = act
        self.built: list[Fake] = []
        self.readings: list[Reading] = []
        self.keep_readings = True
        self.store = Store(encode)
        self.lag = Histogram(catalog.EXPORTER_LAG)
        self.fleet = Fleet(self.build, self.publish, lambda _: REASONS, self.lag, virtual_wall_clock)
        self._news: asyncio.Queue[Reading] = asyncio.Queue()

    def build(self, watch: Watch) -> Fake:
        self.built.append(Fake(watch, self.acts.get(watch.server, self._act)))
        return self.built[-1]

    def publish(self, reading: Reading) -> None:
        self.store.put(reading)
        if self.keep_readings:
            self.readings.append(reading)
            self._news.put_nowait(reading)

    def apply(self, *watches: Watch) -> None:
        self.store.plan(watches)
        self.fleet.apply(watches)

    async def next_of(self, watch: Watch) -> Reading:
        while (reading := await self._news.get()).watch != watch:
            pass
        return reading

    def of(self, watch: Watch) -> list[Reading]:
        return [reading for reading in self.readings if reading.watch == watch]

    def source(self, watch: Watch) -> Fake:
        """The one source that was built for this watch."""
        (source,) = (source for source in self.built if source.watch == watch)
        return source


@contextlib.asynccontextmanager
async def stage(act: Callable[[Fake], Awaitable[Iterable[Sample]]] = look_well) -> AsyncIterator[Stage]:
    """Runs its fleet for as long as the block lasts; it must not have ended by itself."""
    it = Stage(act)
    task = asyncio.create_task(it.fleet.run())
    try:
        yield it
        assert not task.done()
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def until(seconds: float) -> Coroutine[Any, Any, None]:
    """Let the virtual clock run: costs no time."""
    return asyncio.sleep(seconds)


A, B, C = (watch(name) for name in "abc")


# --- a plan is a set -------------------------------------------------------------------------------------------------


@virtually
async def test_a_watch_that_stays_keeps_its_source_and_its_counters() -> None:
    async with stage(look_refused) as it:
        it.apply(A, B)
        await until(100)
        before = it.of(A)[-1].failures["refused"]
        it.apply(C, A)
        await until(100)
        source = it.source(A)
        assert source.closed == 0
        assert source.looks == it.of(A)[-1].failures["refused"] > before + 5
        assert [reading.failures["refused"] for reading in it.of(A)] == list(range(1, source.looks + 1))


@virtually
async def test_a_watch_that_goes_is_closed_exactly_once_and_its_reading_vanishes_at_once() -> None:
    async with stage() as it:
        it.apply(A, B)
        await until(30)
        assert set(it.store.snapshot.entries) == {A, B}
        it.apply(B)
        assert set(it.store.snapshot.entries) == {B}
        await until(30)
        assert set(it.store.snapshot.entries) == {B}
        assert it.source(A).closed == 1
        looks = it.source(A).looks
        await until(100)
        assert it.source(A).looks == looks
        assert it.source(B).closed == 0


@virtually
@pytest.mark.parametrize(
    "change",
    [{"every": 20.0}, {"within": 6.0}, {"settings": "other"}, {"source": "other"}],
    ids=lambda c: next(iter(c)),
)
async def test_a_watch_that_changes_starts_anew(change: dict[str, Any]) -> None:
    changed = replace(A, **change)
    async with stage(look_refused) as it:
        it.apply(A)
        await until(50)
        it.apply(changed)
        await until(50)
        assert it.source(A).closed == 1
        assert it.source(changed).closed == 0
        assert it.of(changed)[0].failures["refused"] == 1
        assert set(it.store.snapshot.entries) == {changed}


@virtually
async def test_the_same_plan_again_disturbs_nobody() -> None:
    async with stage() as it:
        it.apply(A, B)
        await until(20)
        for _ in range(50):
            it.apply(B, A)
            await until(1)
        assert len(it.built) == 2
        assert not any(source.closed for source in it.built)
        assert all(len(set(map(round, gaps(source)[1:]))) == 1 for source in it.built)


def gaps(source: Fake) -> list[float]:
    return [after - before for before, after in zip(source.started, source.started[1:], strict=False)]


@virtually
async def test_a_watch_named_twice_in_a_plan_runs_once_and_can_be_stopped() -> None:
    async with stage() as it:
        it.apply(A, A)
        await until(50)
        assert len(it.built) == 1
        it.apply()
        await until(50)
        assert it.source(A).closed == 1


@virtually
async def test_an_empty_plan_stops_everything_and_the_fleet_waits_for_the_next_one() -> None:
    async with stage() as it:
        it.apply(A, B)
        await until(20)
        it.apply()
        await until(20)
        assert [source.closed for source in it.built] == [1, 1]
        assert it.store.snapshot.entries == {}
        it.apply(C)
        await until(20)
        assert it.source(C).looks


@virtually
async def test_a_watch_that_goes_and_returns_has_a_new_source() -> None:
    async with stage() as it:
        it.apply(A)
        await until(20)
        it.apply()
        it.apply(A)
        await until(20)
        first, second = it.built
        assert (first.closed, second.closed) == (1, 0)
        assert it.of(A)[-1].samples[0].value == second.looks


@virtually
async def test_ending_the_fleet_closes_every_source_exactly_once() -> None:
    async with stage() as it:
        it.apply(A, B, C)
        it.acts["c"] = look_forever
        await until(30)
    assert [source.closed for source in it.built] == [1, 1, 1]


@virtually
async def test_a_source_that_is_stopped_in_the_middle_of_a_look_is_closed_after_it() -> None:
    ended = asyncio.Event()

    async def tidy_up(_: Fake) -> Iterable[Sample]:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(1)
            ended.set()
        return ()

    async with stage(tidy_up) as it:
        it.apply(replace(A, within=1000.0))
        await until(20)
        assert it.built[0].looking == 1
        it.apply()
        await ended.wait()
        await until(1)
        assert (it.built[0].looking, it.built[0].closed) == (0, 1)
        assert it.readings == []


@given(
    plans=st.lists(st.sets(st.tuples(st.sampled_from("abcdef"), st.sampled_from([5.0, 7.0]))), min_size=1, max_size=8),
    pauses=st.lists(st.floats(0, 20), min_size=8, max_size=8),
)
@settings(deadline=None, max_examples=60)
def test_after_any_plans_exactly_the_last_one_runs_and_each_other_source_was_closed_once(
    plans: list[set[tuple[str, float]]], pauses: list[float]
) -> None:
    async def play() -> None:
        async with stage() as it:
            for plan, pause in zip(plans, pauses, strict=False):
                it.apply(*(watch(server, every=every) for server, every in plan))
                await until(pause)
            await until(30)
            last = {watch(server, every=every) for server, every in plans[-1]}
            assert Counter(source.watch for source in it.built if not source.closed) == Counter(last)
            assert all(source.closed <= 1 for source in it.built)
            assert set(it.store.snapshot.entries) == last

    run_virtual(play())


# --- times -----------------------------------------------------------------------------------------------------------


@virtually
async def test_two_looks_through_one_watch_never_overlap_however_long_they_take() -> None:
    async def slow(_: Fake) -> Iterable[Sample]:
        await asyncio.sleep(37)
        return ()

    async with stage(slow) as it:
        it.apply(watch(every=10.0, within=60.0))
        await until(1000)
        (source,) = it.built
        assert source.most_at_once == 1
        assert all(37 < gap <= 37 + 10 + 2 * TICK for gap in gaps(source))


@virtually
async def test_a_look_that_takes_long_skips_turns_and_stays_on_the_grid() -> None:
    async def slow_once(fake: Fake) -> Iterable[Sample]:
        await asyncio.sleep(25 if fake.looks == 3 else 0)
        return ()

    async with stage(slow_once) as it:
        it.apply(replace(A, within=60.0))
        await until(200)
        (source,) = it.built
        third = source.started[2]
        assert source.started[3] - third == pytest.approx(30, abs=TICK)
        assert all(gap == pytest.approx(10, abs=2 * TICK) for gap in gaps(source)[3:])


@virtually
async def test_the_first_looks_of_a_thousand_watches_are_spread_over_two_seconds() -> None:
    async with stage() as it:
        it.apply(*(watch(f"server{n}") for n in range(1000)))
        await until(2.01)
        first = [source.started[0] for source in it.built]
        assert len(first) == 1000
        assert max(Counter(round(start, 1) for start in first).values()) < 150


@virtually
async def test_lag_is_observed_once_for_each_look_and_is_nothing_when_nothing_is_late() -> None:
    async with stage() as it:
        it.apply(A, B)
        await until(95)
        (sample,) = it.lag.samples()
        assert isinstance(sample.value, Distribution)
        assert sample.value.counts[0] == sample.value.counts[-1] == sum(source.looks for source in it.built)


names = st.text(min_size=1, max_size=20)
periods = st.floats(0.05, 86400) | st.sampled_from([0.1, 1.0, 5.0, 15.0, 60.0, 300.0, 86400.0])
moments = st.floats(0, 1e7) | st.integers(0, 10**6).map(lambda ticks: ticks * TICK)


@given(names, periods, moments)
def test_the_next_look_is_in_the_future_and_at_most_a_period_and_a_tick_away(
    name: str, every: float, now: float
) -> None:
    due = next_due(watch(name, every=every), now, every)
    assert due > now
    assert due <= now + every + TICK + 1e-6


@given(names, periods, moments)
def test_looks_start_on_ticks(name: str, every: float, now: float) -> None:
    ticks = next_due(watch(name, every=every), now, every) / TICK
    if every >= 2 * TICK:
        assert ticks == pytest.approx(round(ticks), abs=1e-6)


@given(st.floats(0, 10_000))
def test_ticks_get_shorter_for_large_fleets_and_go_whole_into_the_longest(rate: float) -> None:
    assert 0 < tick(rate) <= TICK
    assert TICK / tick(rate) == pytest.approx(round(TICK / tick(rate)))
    assert rate * tick(rate) <= 7 + 1e-6


@given(names, st.sampled_from([1.0, 5.0, 15.0, 60.0]), st.floats(0, 1e6), st.floats(0, 10_000))
def test_a_fleet_that_grows_moves_no_look_by_more_than_a_tick(name: str, every: float, now: float, rate: float) -> None:
    it = watch(name, every=every)
    moved = (next_due(it, now, every) - next_due(it, now, every, tick(rate))) % every
    assert min(moved, every - moved) <= TICK + 1e-6


@virtually
async def test_the_looks_of_a_large_fleet_do_not_start_all_at_the_same_moments() -> None:
    async with stage() as it:
        it.keep_readings = False
        it.apply(*(watch(f"server{n}") for n in range(5000)))
        await until(25.0)
        starts = Counter(round(start, 4) for source in it.built for start in source.started if start >= 15.0)
        assert sum(starts.values()) / len(starts) < 10
        assert max(starts.values()) < 30
        last = it.built[0]
        it.apply(last.watch)
        await until(60.0)
        assert last.started[-1] / TICK == pytest.approx(round(last.started[-1] / TICK), abs=1e-6)


@given(names, st.sampled_from([1.0, 5.0, 15.0, 60.0]), st.floats(0, 1e6), st.floats(0.01, 100))
def test_the_grid_is_the_watchs_own_whenever_one_asks(name: str, every: float, now: float, later: float) -> None:
    it = watch(name, every=every)
    turns = (next_due(it, now + later, every) - next_due(it, now, every)) / every
    assert turns == pytest.approx(round(turns), abs=TICK / every + 1e-6)


@given(st.integers(0, 10**6))
def test_the_looks_of_a_fleet_are_spread_over_their_period(seed: int) -> None:
    every = 15.0
    phases = [next_due(watch(f"gpu{seed + n}", every=every), 1000.0, every) - 1000.0 for n in range(300)]
    thirds = Counter(min(2, int(phase // (every / 3))) for phase in phases)
    assert all(50 < thirds[third] < 150 for third in range(3))


# --- sources that misbehave ------------------------------------------------------------------------------------------


@virtually
async def test_a_source_that_raises_gives_a_reading_with_reason_bug_and_one_traceback_each_and_harms_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with stage() as it:
        it.acts["a"] = look_buggy
        it.apply(A, B)
        await until(55)
        assert {reading.failure for reading in it.of(A)} == {"bug"}
        assert [reading.failures["bug"] for reading in it.of(A)] == list(range(1, it.source(A).looks + 1))
        assert {reading.failure for reading in it.of(B)} == {None}
        assert len(it.of(B)) == pytest.approx(len(it.of(A)), abs=1)
        assert it.fleet.healthy()
    assert len(caplog.records) == len(it.of(A))
    assert all(record.levelno == logging.ERROR and record.exc_info for record in caplog.records)
    assert "ZeroDivisionError: look 1" in caplog.text


@virtually
@pytest.mark.parametrize(
    "error",
    [ExceptionGroup("several", [ValueError()]), RuntimeError(), AssertionError(), MemoryError(), StopAsyncIteration()],
    ids=lambda error: type(error).__name__,
)
async def test_no_kind_of_exception_ends_a_loop(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    async def fail_once(fake: Fake) -> Iterable[Sample]:
        if fake.looks == 1:
            raise error
        return ()

    async with stage(fail_once) as it:
        it.apply(A)
        await until(30)
        assert [reading.failure for reading in it.readings[:2]] == ["bug", None]
    assert len(caplog.records) == 1


@virtually
async def test_a_generator_that_fails_halfway_is_a_bug_and_none_of_its_samples_are_shown(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def halfway(fake: Fake) -> Iterable[Sample]:
        yield catalog.LOADED_MODELS(1.0, server=fake.watch.server)
        raise KeyError("halfway")

    async def look(fake: Fake) -> Iterable[Sample]:
        return halfway(fake)

    async with stage(look) as it:
        it.apply(A)
        reading = await it.next_of(A)
        assert (reading.failure, reading.samples) == ("bug", ())
    assert "KeyError" in caplog.text


@virtually
async def test_a_source_that_hangs_is_a_timeout_after_its_time_and_is_asked_again() -> None:
    async with stage(look_forever) as it:
        it.apply(watch(every=10.0, within=4.0))
        await until(60)
        assert len(it.readings) >= 4
        assert {reading.failure for reading in it.readings} == {"timeout"}
        assert all(reading.took == pytest.approx(4.0) for reading in it.readings)
        assert it.built[0].most_at_once == 1
        assert it.fleet.healthy()


@virtually
async def test_what_a_failure_brings_along_is_published_and_the_last_success_stays_known() -> None:
    async def fail_second(fake: Fake) -> Iterable[Sample]:
        seen = [catalog.UP(float(fake.looks == 1), server="a")]
        if fake.looks > 1:
            raise Failed("refused", seen)
        return seen

    async with stage(fail_second) as it:
        it.apply(A)
        first, second, third = [await it.next_of(A) for _ in range(3)]
        assert (first.failure, first.succeeded_at) == (None, first.at)
        assert (second.failure, second.succeeded_at) == ("refused", first.at)
        assert second.samples[0].value == 0.0
        assert third.failures == {"refused": 2, "timeout": 0, "bug": 0}
        assert first.failures == {"refused": 0, "timeout": 0, "bug": 0}


@virtually
async def test_a_reading_that_cannot_be_encoded_is_a_bug_and_no_success_and_the_loop_lives(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def unspeakable_second(fake: Fake) -> Iterable[Sample]:
        return [catalog.BUILD_INFO(1.0, server="a", version="\ud800" if fake.looks == 2 else "1")]

    async with stage(unspeakable_second) as it:
        it.apply(A, B)
        first, second, third = [await it.next_of(A) for _ in range(3)]
        assert [reading.failure for reading in (first, second, third)] == [None, "bug", None]
        assert second.samples == ()
        assert second.succeeded_at == first.at
        assert third.failures["bug"] == 1
        assert b"ollama_build_info" in render(it.store.snapshot, openmetrics=False)
        assert it.fleet.healthy()
    assert "UnicodeEncodeError" in caplog.text


@virtually
async def test_a_failed_reading_that_cannot_be_encoded_is_counted_once() -> None:
    async def unspeakable(fake: Fake) -> Iterable[Sample]:
        raise Failed("refused", [catalog.BUILD_INFO(1.0, server="a", version="\ud800")] if fake.looks == 1 else ())

    async with stage(unspeakable) as it:
        it.apply(A)
        first, second = [await it.next_of(A) for _ in range(2)]
        assert first.failures == {"refused": 0, "timeout": 0, "bug": 1}
        assert second.failures == {"refused": 1, "timeout": 0, "bug": 1}


@virtually
async def test_a_source_that_cannot_be_built_is_a_bug_until_it_can_and_harms_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    attempts = 0

    class Stubborn(Stage):
        def build(self, watch: Watch) -> Fake:
            nonlocal attempts
            attempts += watch == A
            if watch == A and attempts <= 2:
                raise FileNotFoundError("client.pem")
            return super().build(watch)

    it = Stubborn()
    task = asyncio.create_task(it.fleet.run())
    it.apply(A, B)
    failures = [(await it.next_of(A)).failure for _ in range(3)]
    assert failures == ["bug", "bug", None]
    assert {reading.failure for reading in it.of(B)} == {None}
    assert it.fleet.healthy()
    assert not task.done()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert it.source(A).closed == it.source(B).closed == 1
    assert "FileNotFoundError" in caplog.text


@virtually
async def test_a_source_that_cannot_be_closed_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    class Clinging(Fake):
        async def aclose(self) -> None:
            await super().aclose()
            raise OSError("will not let go")

    class Sticky(Stage):
        def build(self, watch: Watch) -> Fake:
            self.built.append(Clinging(watch, look_well) if watch == A else Fake(watch, look_well))
            return self.built[-1]

    it = Sticky()
    task = asyncio.create_task(it.fleet.run())
    it.apply(A, B)
    await until(20)
    it.apply(B)
    await until(20)
    looks = it.source(B).looks
    await until(20)
    assert it.source(B).looks > looks
    assert it.source(A).closed == 1
    assert not task.done()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert "will not let go" in caplog.text


# --- health ----------------------------------------------------------------------------------------------------------


@virtually
async def test_a_loop_that_is_stuck_is_unhealthy_after_twice_its_time_and_others_go_on() -> None:
    release = asyncio.Event()

    async def deaf(_: Fake) -> Iterable[Sample]:
        while not release.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await release.wait()
        return ()

    async with stage() as it:
        it.acts["a"] = deaf
        it.apply(A, B)
        await until(2 * (A.every + A.within) + 9)
        assert it.fleet.healthy()
        await until(2)
        assert not it.fleet.healthy()
        assert len(it.of(B)) >= 4
        release.set()
        await until(2 * A.every)
        assert it.fleet.healthy()


@virtually
async def test_a_fleet_without_a_plan_or_with_failing_targets_only_is_healthy() -> None:
    async with stage(look_refused) as it:
        assert it.fleet.healthy()
        it.apply(A, B)
        await until(1000)
        assert it.fleet.healthy()


@virtually
async def test_a_stuck_watch_that_the_plan_drops_is_no_concern_any_more_and_ends_when_it_can() -> None:
    release = asyncio.Event()

    async def deaf(_: Fake) -> Iterable[Sample]:
        while not release.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await release.wait()
        return ()

    async with stage() as it:
        it.acts["a"] = deaf
        it.apply(A, B)
        await until(100)
        assert not it.fleet.healthy()
        it.apply(B)
        await until(1)
        assert it.fleet.healthy()
        release.set()
        await until(100)
        assert (it.source(A).looks, it.source(A).closed) == (1, 1)


@virtually
async def test_a_watch_that_returns_after_long_is_not_overdue_from_before() -> None:
    async with stage() as it:
        it.apply(A)
        await until(20)
        it.apply()
        await until(1000)
        it.apply(A)
        await asyncio.sleep(0)
        assert it.built[0].closed == 1
        assert it.fleet.healthy()


# --- under load ------------------------------------------------------------------------------------------------------


@virtually
async def test_two_hundred_reloads_while_polls_run_leave_exactly_the_last_plan() -> None:
    chance = random.Random(7)

    async def busy(fake: Fake) -> Iterable[Sample]:
        await asyncio.sleep(chance.uniform(0, 3))
        return await look_well(fake)

    pool = [watch(f"server{n}", every=every) for n in range(40) for every in (2.0, 3.0)]
    steady = watch("steady", every=2.0)
    async with stage(busy) as it:
        plan: list[Watch] = []
        for _ in range(200):
            plan = [steady, *chance.sample(pool, 30)]
            it.apply(*plan)
            await until(chance.uniform(0, 4))
        await until(20)
        assert Counter(source.watch for source in it.built if not source.closed) == Counter(plan)
        assert all(source.closed <= 1 and source.most_at_once <= 1 for source in it.built)
        assert set(it.store.snapshot.entries) == set(plan)
        assert list(it.store.snapshot.entries) == plan
        assert it.source(steady).looks > 150
        assert it.fleet.healthy()
        assert len(asyncio.all_tasks()) == len(plan) + 2
    assert all(source.closed == 1 for source in it.built)


@virtually
async def test_a_day_of_fifty_watches_polls_each_on_time_and_does_not_grow() -> None:
    hour = 3600.0

    async def changeable(fake: Fake) -> Iterable[Sample]:
        await asyncio.sleep(0.01 * (fake.looks % 7))
        if fake.looks % 11 == 0:
            raise Failed("refused", [catalog.UP(0.0, server=fake.watch.server)])
        if fake.looks % 97 == 0:
            await asyncio.Event().wait()
        return await look_well(fake)

    every = 60.0
    async with stage(changeable) as it:
        it.keep_readings = False
        it.apply(*(watch(f"server{n}", every=every, within=5.0) for n in range(50)))
        await until(6 * hour)
        before = blocks(it)
        await until(18 * hour)
        after = blocks(it)
        assert it.fleet.healthy()
        assert len(it.store.snapshot.entries) == 50
        looks = [source.looks for source in it.built]
        assert all(math.isclose(look, 24 * hour / every, abs_tol=2) for look in looks)
        assert all(gap < every + 2 * TICK for source in it.built for gap in gaps(source)[1:])
        assert len(asyncio.all_tasks()) == 52
    assert after - before < 5_000


def blocks(it: Stage) -> int:
    """Allocated blocks of memory, without what this test itself notes down."""
    gc.collect()
    return sys.getallocatedblocks() - sum(len(source.started) for source in it.built)


# --- sources that cannot see from here -------------------------------------------------------------------------------

LACK = Lack("nothing is to be seen", "do this")


async def readings_of(
    it: Watch, act: Callable[[Fake], Awaitable[Iterable[Sample] | Partial]], times: int
) -> list[Reading]:
    observer = Observer(it, Fake(it, act), REASONS, virtual_wall_clock)
    return [await observer.observe() for _ in range(times)]


@virtually
async def test_an_optional_source_that_never_saw_anything_is_blind_and_not_down() -> None:
    (reading,) = await readings_of(replace(watch(), optional=True), look_blindly, 1)
    assert reading.blind
    assert (reading.failure, reading.lacks, sum(reading.failures.values())) == (None, (LACK,), 0)
    assert encode(reading).text == ()


@virtually
async def test_a_source_that_somebody_insists_on_fails_when_it_is_blind() -> None:
    (reading,) = await readings_of(watch(), look_blindly, 1)
    assert not reading.blind
    assert (reading.failure, reading.lacks, reading.failures["unavailable"]) == ("unavailable", (LACK,), 1)


@virtually
async def test_a_source_that_could_see_once_and_cannot_any_more_has_failed() -> None:
    async def look_once(fake: Fake) -> Iterable[Sample]:
        return await (look_well if fake.looks == 1 else look_blindly)(fake)

    first, second = await readings_of(replace(watch(), optional=True), look_once, 2)
    assert first.failure is None
    assert second.failure == "unavailable"
    assert not second.blind


@virtually
async def test_what_is_partly_blind_shows_what_it_sees_and_says_what_it_lacks() -> None:
    async def look_partly(fake: Fake) -> Partial:
        return Partial(tuple(await look_well(fake)), (LACK,))

    (reading,) = await readings_of(replace(watch(), optional=True), look_partly, 1)
    assert not reading.blind
    assert (reading.failure, len(reading.samples), reading.lacks) == (None, 1, (LACK,))


@virtually
async def test_a_blind_source_is_tried_seldom_and_the_fleet_is_healthy_meanwhile() -> None:
    async with stage(look_blindly) as it:
        it.fleet.apply([replace(watch(), optional=True)])
        for _ in range(1300):
            await asyncio.sleep(1.0)
            assert it.fleet.healthy()
        assert 4 <= len(it.readings) <= 6
