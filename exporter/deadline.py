"""Limits of time for what comes by the hundred each second and hardly ever takes that long, such as requests."""

from __future__ import annotations

import asyncio
from functools import lru_cache
from types import TracebackType


class Deadline:
    """`async with Deadline(seconds):` is `async with asyncio.timeout(seconds):` with one timer of the loop for all of
    the same length. A timer for each, though cancelled, stays in the loop until its time has come or half of all are
    such: heaps of objects that come and go, which Python's garbage collector takes for a reason to look through all
    that there is (0.1 s for 5,000 servers, every five seconds)."""

    __slots__ = ("_line", "_seconds", "_timeout")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._timeout = asyncio.timeout(None)

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()
        self._line = _line(asyncio.get_running_loop(), self._seconds)
        self._line.join(self._timeout)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._line.leave(self._timeout)
        await self._timeout.__aexit__(kind, error, trace)


class _Line:
    """Who waits equally long: whoever came first has to end first, so that one timer, for the first, will do."""

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        self._loop, self._seconds = loop, seconds
        self._ends: dict[asyncio.Timeout, float] = {}
        self._watched = False

    def join(self, timeout: asyncio.Timeout) -> None:
        end = self._loop.time() + self._seconds
        if not self._watched:
            self._watch(end)
        self._ends[timeout] = end  # at last: whoever cannot be watched does not stand here for ever

    def leave(self, timeout: asyncio.Timeout) -> None:
        """The timer stays: by the time it rings there will be others, and it is set for the first of them."""
        self._ends.pop(timeout, None)

    def _watch(self, end: float) -> None:
        self._loop.call_at(end, self._ring, end)
        self._watched = True  # not before: without memory there is no timer, and whoever comes next tries again

    def _ring(self, rung_for: float) -> None:
        self._watched = False
        now = max(self._loop.time(), rung_for)  # timers ring up to a tick of the clock too early
        over = []
        for timeout, end in self._ends.items():
            if end > now:
                self._watch(end)
                break
            over.append(timeout)
        for timeout in over:
            del self._ends[timeout]
            timeout.reschedule(now)


@lru_cache(maxsize=64)
def _line(loop: asyncio.AbstractEventLoop, seconds: float) -> _Line:
    """Found again, not kept: one that is forgotten meanwhile goes on for those who stand in it."""
    return _Line(loop, seconds)
