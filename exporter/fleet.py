"""One loop per watch, all in one task group. A plan is a set of watches; applying another one is set arithmetic."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import time
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial

from exporter.deadline import Deadline
from exporter.meter import Histogram
from exporter.model import Failed, Lacking, Partial, Reading, Reason, Sample, Source, Watch

log = logging.getLogger(__name__)

_TICK = 0.1
"""Seconds. Polls start on multiples of it: a large fleet wakes the process ten times a second, not a thousand."""
_AT_ONCE = 7
"""Polls that start on one tick, on average, where ticks are shorter for it: they are done in about 3 ms."""
_GARBAGE = 10_000
"""Objects more than at the last look, until there is another."""
_BLIND_EVERY = 300.0
"""Seconds between two tries of a source that can see nothing from here."""
_FIRST_SPREAD = 0.002
_FIRST_SPREAD_MAX = 2.0


def let_garbage_wait() -> None:
    """Readings replace each other and leave no cycles behind; a connection that closes leaves a small one. Python's
    garbage collector, which goes by how many more objects there are than at its last look, would look through them all
    the same, again and again, while everybody waits (0.2 s for 1,000 servers)."""
    gc.set_threshold(_GARBAGE, 10, 10)


async def settle(complete: Callable[[], bool]) -> None:
    """Three quarters of what the first round of readings leaves are there to stay: whenever Python's garbage collector
    does look, it need not look at these. `complete`: whether that round is over."""
    while not complete():  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(1.0)
    gc.freeze()


class Fleet:
    """Keeps the watches of the current plan running.

    `build` makes a watch's source, `publish` takes each reading, `reasons` tells why readings of a watch can fail
    (their counts start at 0), `lag` is told how many seconds late each poll started, `now` is the wall clock.
    """

    def __init__(
        self,
        build: Callable[[Watch], Source],
        publish: Callable[[Reading], None],
        reasons: Callable[[Watch], Iterable[Reason]],
        lag: Histogram,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._build, self._publish, self._reasons = build, publish, reasons
        self._lag, self._now = lag, now
        self._plans: asyncio.Queue[tuple[Watch, ...]] = asyncio.Queue()
        self._loops: dict[Watch, asyncio.Task[None]] = {}
        self._overdue: dict[Watch, float] = {}
        self._rate = 0.0

    def apply(self, plan: Iterable[Watch]) -> None:
        """From now on these watches and no others. Those that run already go on undisturbed, with their counters."""
        self._plans.put_nowait(tuple(dict.fromkeys(plan)))

    async def run(self) -> None:
        """Run until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                plan = await self._plans.get()
                self._stop(self._loops.keys() - set(plan))
                self._start([watch for watch in plan if watch not in self._loops], group)

    def healthy(self) -> bool:
        """Whether every loop is alive and keeps its times. Says nothing about the targets."""
        now = asyncio.get_running_loop().time()
        return all(not task.done() and now < self._overdue.get(watch, math.inf) for watch, task in self._loops.items())

    def _stop(self, watches: Iterable[Watch]) -> None:
        for watch in watches:
            self._loops.pop(watch).cancel()
            self._overdue.pop(watch, None)

    def _start(self, watches: list[Watch], group: asyncio.TaskGroup) -> None:
        start = asyncio.get_running_loop().time()
        step = min(_FIRST_SPREAD, _FIRST_SPREAD_MAX / max(1, len(watches)))
        for place, watch in enumerate(watches):
            name = f"watch {watch.server or 'local'} {watch.source}"
            self._loops[watch] = group.create_task(self._watch(watch, start + place * step), name=name)

    async def _watch(self, watch: Watch, due: float) -> None:
        loop = asyncio.get_running_loop()
        source = Built(partial(self._build, watch))
        observer = Observer(watch, source, self._reasons(watch), self._now)
        rate = 0.0
        try:
            # A source that swallows the cancellation must not keep a loop alive that no plan wants any more.
            while self._loops.get(watch) is asyncio.current_task():
                await asyncio.sleep(due - loop.time())
                self._lag.observe(max(0.0, loop.time() - due))
                self._overdue[watch] = loop.time() + 2 * (watch.every + watch.within) + 10.0
                reading = await observer.observe()
                self._hand_over(reading, observer)
                every = _BLIND_EVERY if reading.blind else watch.every
                self._rate, rate = self._rate + (1 / every - rate), 1 / every
                due = next_due(watch, loop.time(), every, tick(self._rate))
                if reading.blind and watch in self._overdue:
                    self._overdue[watch] = due + watch.every + watch.within
        finally:
            self._rate -= rate
            try:
                await source.aclose()
            except Exception:
                log.exception("bug while closing source %s of %s", watch.source, watch.server or "this host")

    def _hand_over(self, reading: Reading, observer: Observer) -> None:
        """A reading that cannot be published is a bug of one source; it must not take the others with it."""
        try:
            self._publish(reading)
        except Exception:
            log.exception("a reading of %s %s cannot be published", reading.watch.server, reading.watch.source)
            self._publish(observer.retract(reading))


class Built:
    """A source that is built when it is first looked through, and again while that fails: a certificate that has gone
    from the disk since the configuration was read must not end the fleet."""

    def __init__(self, build: Callable[[], Source]) -> None:
        self._build = build
        self._source: Source | None = None

    async def collect(self) -> Iterable[Sample] | Partial:
        if self._source is None:
            self._source = self._build()
        return await self._source.collect()

    async def aclose(self) -> None:
        if self._source is not None:
            await self._source.aclose()


def tick(rate: float) -> float:
    """Seconds between the moments at which polls start, where `rate` of them start each second. A whole part of the
    longest: no poll has to move by more than that when a fleet grows."""
    return _TICK / max(1, math.ceil(rate * _TICK / _AT_ONCE))


def next_due(watch: Watch, now: float, every: float, tick: float = _TICK) -> float:
    """The next start after `now` on the watch's own grid of `every` seconds: spread over this period by its name, so
    that a fleet is not polled in one burst, and the same after a restart. Put off to the next tick."""
    phase = zlib.crc32(f"{watch.server}/{watch.source}".encode()) / 2**32 * every
    turn = math.floor((now - phase) / every) + 1
    due = math.ceil((phase + turn * every) / tick) * tick
    return due if due > now else due + every


class Observer:
    """Looks through one watch, again and again: every outcome becomes a reading."""

    def __init__(self, watch: Watch, source: Source, reasons: Iterable[Reason], now: Callable[[], float]) -> None:
        self._watch, self._source, self._now = watch, source, now
        # Shared by readings until something fails, and then replaced, never changed.
        self._failures: Mapping[Reason, int] = dict.fromkeys(reasons, 0)
        self._succeeded_at: float | None = None
        self._succeeded_before: float | None = None

    async def observe(self) -> Reading:
        """One reading, within the watch's time."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            async with Deadline(self._watch.within):
                seen = await self._source.collect()
                samples, lacks = (seen.samples, seen.lacks) if isinstance(seen, Partial) else (tuple(seen), ())
        except Failed as failed:
            return self.failed(failed.reason, loop.time() - started, failed.samples)
        except Lacking as lacking:
            return self._lacking(lacking, loop.time() - started)
        except TimeoutError:
            return self.failed("timeout", loop.time() - started)
        except Exception:
            log.exception("bug in source %s of %s", self._watch.source, self._watch.server or "this host")
            return self.failed("bug", loop.time() - started)
        self._succeeded_before = self._succeeded_at
        at = self._succeeded_at = self._now()
        return Reading(self._watch, at, loop.time() - started, samples, None, self._failures, at, lacks)

    def _lacking(self, lacking: Lacking, took: float) -> Reading:
        """No failure as long as nobody insists on the source and it never could see anything."""
        if self._watch.optional and self._succeeded_at is None:
            return Reading(self._watch, self._now(), took, (), None, self._failures, None, (lacking.lack,))
        return replace(self.failed("unavailable", took, lacking.samples), lacks=(lacking.lack,))

    def retract(self, reading: Reading) -> Reading:
        """What to say instead of the last reading, which cannot be published: a bug, and nothing that it counted."""
        if reading.failure is None:
            self._succeeded_at = self._succeeded_before
        else:
            self._count(reading.failure, -1)
        return self.failed("bug", reading.took)

    def failed(self, reason: Reason, took: float, samples: tuple[Sample, ...] = ()) -> Reading:
        self._count(reason, 1)
        return Reading(self._watch, self._now(), took, samples, reason, self._failures, self._succeeded_at)

    def _count(self, reason: Reason, change: int) -> None:
        self._failures = {**self._failures, reason: self._failures.get(reason, 0) + change}
