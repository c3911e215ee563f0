import asyncio
import threading
import time

import pytest

from exporter.simulator import EPOCH, DeadlockError, VirtualTimeLoop, run_virtual, virtual_wall_clock


async def test_a_day_passes_at_once() -> None:
    loop = asyncio.get_running_loop()
    began = time.monotonic()
    await asyncio.sleep(86_400)
    assert loop.time() == pytest.approx(86_400)
    assert time.monotonic() - began < 1


async def test_timers_fire_in_the_order_of_their_times() -> None:
    fired: list[int] = []
    loop = asyncio.get_running_loop()
    for delay in (3, 1, 2):
        loop.call_later(delay, fired.append, delay)
    await asyncio.sleep(5)
    assert fired == [1, 2, 3]


async def test_a_timeout_fires_at_its_time() -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(2.5):
            await asyncio.Event().wait()
    assert asyncio.get_running_loop().time() == pytest.approx(2.5)


async def test_the_wall_clock_follows_the_loop() -> None:
    await asyncio.sleep(90)
    assert virtual_wall_clock() == pytest.approx(EPOCH + 90)


def test_waiting_for_nobody_is_a_deadlock() -> None:
    async def wait_for_ever() -> None:
        await asyncio.Event().wait()

    with pytest.raises(DeadlockError):
        run_virtual(wait_for_ever())


async def test_time_stands_still_while_a_thread_works() -> None:
    released = asyncio.Event()
    loop = asyncio.get_running_loop()

    def work() -> str:
        loop.call_soon_threadsafe(released.set)
        return "done"

    async with asyncio.timeout(1):
        assert await asyncio.to_thread(work) == "done"
        await released.wait()
    assert loop.time() == 0


def test_threads_that_are_still_at_work_are_waited_for_at_the_end() -> None:
    finished: list[str] = []

    def work() -> None:
        threading.Event().wait(0.4)  # in earnest, and longer than the loop's patience with a deadlock
        finished.append("yes")

    async def leave_a_thread_behind() -> None:
        asyncio.get_running_loop().run_in_executor(None, work)

    run_virtual(leave_a_thread_behind())
    assert finished == ["yes"]


def test_a_runner_accepts_the_loop_as_its_factory() -> None:
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        assert runner.run(asyncio.sleep(3_600, "slept")) == "slept"
