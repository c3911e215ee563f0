"""Lanes for what may hang: one at a time, with a deadline, and nobody waits for it at the end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from exporter.threads import Lane


def test_a_lane_gives_what_its_thread_found_and_raises_what_it_met() -> None:
    def breaks() -> None:
        raise LookupError("no such thing")

    async def use() -> None:
        lane = Lane("test")
        assert await lane.run(threading.get_ident, 30) != threading.get_ident()
        with pytest.raises(LookupError, match="no such thing"):
            await lane.run(breaks, 30)
        assert await lane.run(lambda: 2, 30) == 2

    asyncio.run(use())


@pytest.mark.parametrize("ends", [lambda: 1, lambda: int("x")], ids=["with an answer", "with an error"])
def test_what_hangs_is_not_followed_by_another_until_it_ends_and_nobody_hears_of_it(ends: Callable[[], int]) -> None:
    lane, entered, release, others = Lane("test"), threading.Event(), threading.Event(), list[int]()

    def hang() -> int:
        entered.set()
        assert release.wait(30)
        return ends()

    async def use() -> None:
        with pytest.raises(TimeoutError):
            await lane.run(hang, 0.001)
        assert entered.wait(30)
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await lane.run(lambda: others.append(1), 30)
        (hanging,) = [thread for thread in threading.enumerate() if thread.name == "test"]
        release.set()
        hanging.join(30)
        assert await lane.run(lambda: others.append(2), 30) is None

    asyncio.run(use())
    assert others == [2]


def test_a_loop_that_has_closed_is_not_told() -> None:
    lane, release = Lane("closed"), threading.Event()

    async def use() -> None:
        with pytest.raises(TimeoutError):
            await lane.run(release.wait, 0.001)

    asyncio.run(use())  # does not wait for the thread
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "closed"]
    release.set()
    thread.join(30)
    assert not thread.is_alive()


def test_a_thread_that_cannot_be_started_leaves_the_lane_free(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def use() -> None:
        lane = Lane("test")
        with monkeypatch.context() as no_threads:
            no_threads.setattr(threading.Thread, "start", refuse)
            with pytest.raises(RuntimeError):
                await lane.run(lambda: 1, 30)
        assert await lane.run(lambda: 1, 30) == 1

    asyncio.run(use())
