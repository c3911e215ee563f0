"""Time as a parameter: an event loop whose clock jumps to the next timer instead of waiting for it.

Code that waits with `asyncio.sleep` and reads `loop.time()` runs unchanged here and in real time. Work handed
to a thread with `run_in_executor` or `asyncio.to_thread` is waited for in earnest, and the clock stands still
meanwhile. Real sockets belong on an ordinary loop.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

# 2026-11-23T17:38:00Z, the minute in which the recorded answers begin.
EPOCH = 1_795_455_480.0
# Threads not started through the executor are invisible: they get this long before we call it a deadlock.
_GRACE_SECONDS = 0.25


class DeadlockError(RuntimeError):
    """Nothing is ready, no timer is set and no thread is at work: nobody will ever wake this loop."""


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An asyncio loop that never sleeps: when nothing is ready, `time()` jumps to the next timer."""

    def __init__(self) -> None:
        self._virtual_now = 0.0
        self._jobs = 0
        super().__init__(_JumpingSelector(self))

    def time(self) -> float:
        return self._virtual_now

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        future = super().run_in_executor(executor, func, *args)
        self._jobs += 1
        future.add_done_callback(self._job_done)
        return future

    def _job_done(self, _: asyncio.Future[Any]) -> None:
        self._jobs -= 1

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Joining the threads takes real time; newer Pythons would put a virtual time limit on it."""
        self._jobs += 1
        try:
            await super().shutdown_default_executor()
        finally:
            self._jobs -= 1

    def jump(self, seconds: float) -> None:
        self._virtual_now += seconds

    @property
    def waits_for_threads(self) -> bool:
        return self._jobs > 0


class _JumpingSelector(selectors.DefaultSelector):
    def __init__(self, loop: VirtualTimeLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready: list[tuple[selectors.SelectorKey, int]] = super().select(0)
        if ready or timeout == 0:
            return ready
        if self._loop.waits_for_threads:
            return super().select(None)
        if timeout is not None:
            self._loop.jump(timeout)
            return ready
        return self._wait_for_strangers()

    def _wait_for_strangers(self) -> list[tuple[selectors.SelectorKey, int]]:
        only_the_loops_own_pipe = len(self.get_map()) <= 1
        ready: list[tuple[selectors.SelectorKey, int]] = super().select(
            _GRACE_SECONDS if only_the_loops_own_pipe else None
        )
        if not ready:
            raise DeadlockError("every task waits for another one: nothing is ready and no timer is set")
        return ready


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end in virtual time."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)


def virtual_wall_clock() -> float:
    """Unix time that follows the running loop: `EPOCH` when a virtual loop starts."""
    return EPOCH + asyncio.get_running_loop().time()


def real_wall_clock() -> float:
    """Unix time of the machine."""
    return time.time()
