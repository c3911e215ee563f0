"""Lanes and threads for what may hang: bounded, and waited for neither as they begin nor at the end."""

from __future__ import annotations

import _thread
import asyncio
import gc
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import pytest

from exporter import threads
from exporter.threads import Lane, Threads
from tests.living import alive

ROOT = Path(__file__).parents[1]
Begin = Callable[..., int]


def refuse(*_: object) -> int:
    raise RuntimeError("can't start new thread")


@pytest.fixture
def stillborn(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The next thread is told to have begun, and never lives."""
    begin, dead = _thread.start_new_thread, list[int]()

    def start(*what: object) -> int:
        if dead:
            return begin(*what)  # type: ignore[arg-type]
        dead.append(1)
        return 1

    monkeypatch.setattr(_thread, "start_new_thread", start)
    return dead


def test_a_lane_gives_what_its_thread_found_and_raises_what_it_met() -> None:
    def breaks() -> None:
        raise LookupError("no such thing")

    async def use() -> None:
        lane = Lane()
        assert await lane.run(threading.get_ident, 30) != threading.get_ident()
        with pytest.raises(LookupError, match="no such thing"):
            await lane.run(breaks, 30)
        assert await lane.run(lambda: 2, 30) == 2

    asyncio.run(use())


@pytest.mark.parametrize("ends", [lambda: 1, lambda: int("x")], ids=["with an answer", "with an error"])
def test_what_hangs_is_not_followed_by_another_until_it_ends_and_nobody_hears_of_it(ends: Callable[[], int]) -> None:
    lane, entered, release, others = Lane(), threading.Event(), threading.Event(), list[int]()

    def hang() -> int:
        entered.set()
        assert release.wait(30)
        return ends()

    async def use() -> None:
        with pytest.raises(TimeoutError):
            await lane.run(hang, 0.01)
        assert entered.wait(30)
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await lane.run(lambda: others.append(1), 30)
        release.set()
        while not others:
            try:
                await lane.run(lambda: others.append(2), 30)
            except TimeoutError:
                await asyncio.sleep(0.001)

    asyncio.run(use())
    assert others == [2]


def test_a_loop_that_has_closed_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    lane, entered, release = Lane(), threading.Event(), threading.Event()

    def hang() -> None:
        entered.set()
        assert release.wait(30)

    async def use() -> None:
        with pytest.raises(TimeoutError):
            await lane.run(hang, 0.01)
        assert entered.wait(30)

    asyncio.run(use())  # does not wait for the thread
    release.set()
    while lane._last and not lane._last.done():
        time.sleep(0.001)
    assert asyncio.run(lane.run(lambda: 1, 30)) == 1
    assert caplog.records == []


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), MemoryError()])
def test_a_thread_that_cannot_be_started_leaves_the_lane_free(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object) -> int:
        raise error

    async def use() -> None:
        lane = Lane()
        with monkeypatch.context() as no_threads:
            no_threads.setattr(_thread, "start_new_thread", fail)
            with pytest.raises(type(error)):
                await lane.run(lambda: 1, 30)
        assert await lane.run(lambda: 1, 30) == 1

    asyncio.run(use())


def test_where_one_thread_lives_the_work_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pool, release = Threads(2), threading.Event()
    first = pool.submit(release.wait, 30)
    while not first.running():
        time.sleep(0.001)
    with monkeypatch.context() as no_threads:
        no_threads.setattr(_thread, "start_new_thread", refuse)
        second = pool.submit(lambda: 2)
    release.set()
    assert second.result(30) == 2


def test_a_thread_that_dies_as_it_is_born_takes_one_answer_of_a_lane(stillborn: list[int]) -> None:
    async def use() -> None:
        lane, done = Lane(), list[int]()
        with pytest.raises(TimeoutError):
            await lane.run(lambda: done.append(1), 0.01)
        assert await lane.run(lambda: done.append(2), 30) is None
        assert done == [2], "what nobody waits for any more is not done"

    asyncio.run(use())
    assert stillborn


def test_who_attends_to_it_gets_what_a_stillborn_thread_did_not_do(stillborn: list[int]) -> None:
    pool = Threads(2)
    answer = pool.submit(lambda: 3)
    assert stillborn
    with pytest.raises(TimeoutError):
        answer.result(0.01)
    pool.attend()
    assert answer.result(30) == 3


def test_threads_are_begun_when_they_are_needed_and_no_more_than_allowed() -> None:
    pool, release, before = Threads(3), threading.Event(), alive()
    for _ in range(20):
        assert pool.submit(lambda: 1).result(30) == 1
        while not pool._idle:
            time.sleep(0.001)
    assert len(alive() - before) == 1, "the same one each time"
    waiting = [pool.submit(release.wait, 30) for _ in range(10)]
    while sum(one.running() for one in waiting) < 3:
        time.sleep(0.001)
    assert sum(one.running() for one in waiting) == 3
    release.set()
    assert all(one.result(30) for one in waiting)
    assert pool._alive == 3


def test_what_is_given_up_before_it_begins_is_not_kept() -> None:
    pool, release = Threads(1), threading.Event()
    first = pool.submit(release.wait, 30)
    while not first.running():
        time.sleep(0.001)
    for _ in range(100):
        pool.submit(lambda: 1).cancel()
    last = pool.submit(lambda: 2)
    assert len(pool._waiting) <= 2
    release.set()
    assert (first.result(30), last.result(30)) == (True, 2)


def test_idle_threads_end_and_others_are_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_IDLE", 0.01)
    pool, before = Threads(4), alive()
    for _ in range(3):
        assert [one.result(30) for one in [pool.submit(int, n) for n in range(9)]] == list(range(9))
        while pool._alive:
            time.sleep(0.001)
        assert pool._idle == 0
    while alive() - before:
        time.sleep(0.001)


def test_want_of_memory_is_told_to_who_asked_and_the_thread_goes_on() -> None:
    pool = Threads(1)

    class Starving(Future[int]):
        """Twice there is not even room to tell."""

        tries = 0

        def set_result(self, _: int) -> None:
            raise MemoryError

        def set_exception(self, error: BaseException | None) -> None:
            self.tries += 1
            if self.tries < 2:
                raise MemoryError
            super().set_exception(error)

    def starve() -> None:
        raise MemoryError

    with pytest.raises(MemoryError):
        pool.submit(starve).result(30)
    starving = Starving()
    with pool._lock:
        pool._waiting.append((starving, lambda: 1))
    while not starving.done():
        assert pool.submit(lambda: 2).result(30) == 2
    with pytest.raises(MemoryError):
        starving.result()
    assert starving.tries == 2
    assert pool.submit(lambda: 2).result(30) == 2
    assert pool._alive == 1


def test_an_error_is_not_kept_by_itself() -> None:
    class Met(Exception):
        pass

    def fail() -> None:
        raise Met

    pool = Threads(1)
    gc.disable()
    try:
        answer = pool.submit(fail)
        gone = weakref.ref(answer.exception(30))  # type: ignore[arg-type]
        del answer
        while not pool._idle:
            time.sleep(0.001)
        assert gone() is None
    finally:
        gc.enable()


def test_what_is_done_apart_is_done_in_a_thread_that_ends() -> None:
    before = alive()
    assert threads.apart(threading.get_ident) != threading.get_ident()
    while alive() - before:
        time.sleep(0.001)


@pytest.mark.parametrize("error", [TimeoutError, RuntimeError, MemoryError, OSError, SystemExit])
def test_what_fails_apart_fails_here(error: type[BaseException]) -> None:
    def fail() -> None:
        raise error("of its own")

    with pytest.raises(error, match="of its own"):
        threads.apart(fail)


def test_who_takes_long_apart_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    begin, begun, release = _thread.start_new_thread, threading.Event(), threading.Event()

    def start(*what: object) -> int:
        number = begin(*what)  # type: ignore[arg-type]
        assert begun.wait(30)
        threading.Timer(0.01, release.set).start()
        return number

    def slow() -> int:
        begun.set()
        assert release.wait(30)
        return 4

    monkeypatch.setattr(threads, "_BIRTH", 0.0)
    with monkeypatch.context() as patient:
        patient.setattr(_thread, "start_new_thread", start)
        assert threads.apart(slow) == 4


@pytest.mark.parametrize("begin", [refuse, lambda *_: 1], ids=["refused", "stillborn"])
def test_without_a_thread_nothing_is_done_apart(monkeypatch: pytest.MonkeyPatch, begin: Begin) -> None:
    monkeypatch.setattr(threads, "_BIRTH", 0.01)
    monkeypatch.setattr(_thread, "start_new_thread", begin)
    with pytest.raises(OSError, match="no thread can be started"):
        threads.apart(lambda: pytest.fail("nobody waits for it any more"))


BIRTHS = """
import os, resource, time
from pathlib import Path
from exporter import threads
from exporter.threads import Threads

def alone():
    while len(os.listdir("/proc/self/task")) > 1:
        time.sleep(0.0001)

PAGE, ROUNDS = 4096, 400
late = 0
threads._IDLE = 0.0
assert Threads(1).submit(int, 7).result(60) == 7
for number in range(ROUNDS):
    alone()  # and the C library keeps a stack for the next one
    pool, room = Threads(1), number % 8 * 4 * PAGE
    virtual = int(Path("/proc/self/statm").read_text().split()[0]) * PAGE
    resource.setrlimit(resource.RLIMIT_AS, (virtual + room, -1))
    try:
        answer = pool.submit(int, 7)
        answer.result(0.01)
    except (RuntimeError, MemoryError, TimeoutError):
        late += 1
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
    pool.attend()
    assert answer.result(60) == 7
print(late)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="NO LIMIT OF ADDRESS SPACE that can be lowered and raised: Linux")
def test_threads_that_die_for_want_of_memory_hang_nobody_up() -> None:
    """As it happens: the kernel gives a thread its stack, and there is no room for its first frame."""
    done = subprocess.run([sys.executable, "-c", BIRTHS], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= done.stderr.count("Exception ignored in thread started by") > 0
