"""Looks that block, each finder's one at a time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

from exporter.discovery.targets import Trouble

T = TypeVar("T")


class Thread:
    """Where a finder blocks. A look that was given up goes on in its thread; the next does not join it."""

    def __init__(self) -> None:
        self._busy = threading.Lock()

    async def run(self, look: Callable[[], T]) -> T:
        return await asyncio.to_thread(self._alone, look)

    def _alone(self, look: Callable[[], T]) -> T:
        if not self._busy.acquire(blocking=False):
            raise Trouble("timeout", "the look before has not come to its end")
        try:
            return look()
        finally:
            self._busy.release()
