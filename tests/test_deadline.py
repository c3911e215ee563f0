"""Deadlines of one length share a timer, and each is kept as asyncio.timeout keeps its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.deadline import Deadline
from exporter.simulator.clock import VirtualTimeLoop, run_virtual


class CountingLoop(VirtualTimeLoop):
    def __init__(self) -> None:
        super().__init__()
        self.timers = 0

    def call_at(self, when: float, *args: object, **kwargs: object) -> asyncio.TimerHandle:  # type: ignore[override]
        self.timers += 1
        return super().call_at(when, *args, **kwargs)  # type: ignore[arg-type]


async def ended_after(start: float, work: float, within: float) -> float:
    """Begin at `start`, work under the deadline; seconds until it was over, negative where it was the deadline."""
    clock = asyncio.get_running_loop().time
    await asyncio.sleep(start - clock())
    try:
        async with Deadline(within):
            await asyncio.sleep(work)
    except TimeoutError:
        return start - clock()
    return clock() - start


spans = st.integers(1, 50).map(lambda tenths: tenths / 10)


@given(st.lists(st.tuples(spans, spans, st.sampled_from([0.55, 2.05, 4.05])), min_size=1, max_size=30))
def test_each_wait_ends_when_its_work_or_its_deadline_does(waits: list[tuple[float, float, float]]) -> None:
    async def main() -> list[float]:
        return await asyncio.gather(*(ended_after(*wait) for wait in waits))

    expected = [work if work < within else -within for _, work, within in waits]
    assert run_virtual(main()) == pytest.approx(expected, abs=1e-6)


def test_thousands_of_waits_that_do_not_last_share_a_few_timers() -> None:
    async def main() -> int:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, CountingLoop)
        for _ in range(10_000):
            async with Deadline(5.0):
                loop.jump(0.002)
                await asyncio.sleep(0)
        return loop.timers

    with asyncio.Runner(loop_factory=CountingLoop) as runner:
        assert runner.run(main()) < 10


def test_what_ends_in_another_way_is_left_as_it_is() -> None:
    async def main() -> None:
        assert await ended_after(0.0, 0.5, 1.0) == pytest.approx(0.5)
        task = asyncio.create_task(ended_after(0.0, 5.0, 3.0))
        await asyncio.sleep(1.0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(10.0)  # past both deadlines

    run_virtual(main())


def test_the_shorter_of_two_that_are_nested_ends_the_wait() -> None:
    ended: list[float] = []

    async def outer() -> None:
        async with Deadline(9.0):
            ended.append(await ended_after(0.0, 60, 2.0))
            await asyncio.sleep(60)

    async def main() -> None:
        with pytest.raises(TimeoutError):
            await outer()
        assert (*ended, asyncio.get_running_loop().time()) == pytest.approx((-2.0, 9.0))

    run_virtual(main())


class ForgetfulLoop(VirtualTimeLoop):
    """Without memory for the first timer of a deadline."""

    failing = True

    def call_at(
        self, when: float, callback: Callable[..., object], *args: object, **kwargs: object
    ) -> asyncio.TimerHandle:  # type: ignore[override]
        if self.failing and getattr(callback, "__name__", "") == "_ring":
            self.failing = False
            raise MemoryError
        return super().call_at(when, callback, *args, **kwargs)  # type: ignore[arg-type]


def test_a_deadline_that_there_was_no_memory_for_does_not_spoil_the_next() -> None:
    async def main() -> None:
        with pytest.raises(MemoryError):
            async with Deadline(1.0):
                raise AssertionError("it cannot begin")
        assert await ended_after(0.0, 60.0, 1.0) == pytest.approx(-1.0)
        await asyncio.sleep(10.0)  # and nobody is ended by the first

    with asyncio.Runner(loop_factory=ForgetfulLoop) as runner:
        runner.run(main())


def test_a_deadline_holds_on_a_real_clock() -> None:
    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with Deadline(0.01):
                await asyncio.Event().wait()

    asyncio.run(main())
