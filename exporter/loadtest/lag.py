"""The tester watches itself: how late its own event loop runs, and whether the clock on the wall jumped."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from exporter.loadtest.measure import Histogram

_TICK = 0.01


class SelfWatch:
    """`lag`: how late a ticker of 10 ms was woken. A tick that could not even happen counts as late as it would have
    been: a freeze of a second is a hundred late ticks, not one. `jump`: the greatest difference between the wall clock
    and the monotonic one since the beginning, in seconds (a suspended machine, a clock that was set)."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self.lag = Histogram()
        self.jump = 0.0

    async def run(self) -> None:
        """Until cancelled."""
        clock = asyncio.get_running_loop().time
        offset = self._now() - clock()
        due = clock() + _TICK
        while True:
            await asyncio.sleep(due - clock())
            late = max(0.0, clock() - due)
            while late > _TICK:
                self.lag.record(late)
                late -= _TICK
                due += _TICK
            self.lag.record(late)
            due += _TICK
            moved = self._now() - clock() - offset
            if abs(moved) > abs(self.jump):
                self.jump = moved
