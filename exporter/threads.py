"""Threads for what may hang in the kernel, such as a disk whose server is gone. Nobody waits for them at the end."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

_T = TypeVar("_T")


class Lane:
    """Where one thing after the other is done, each in a thread of its own. One that hangs is not followed by another,
    so that threads do not pile up; what it finds in the end is nobody's any more."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._busy = threading.Lock()

    async def run(self, act: Callable[[], _T], within: float) -> _T:
        """Raises TimeoutError when it takes longer than `within` seconds, or the one before still hangs."""
        if not self._busy.acquire(blocking=False):
            raise TimeoutError
        answer: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
        thread = threading.Thread(target=self._act, args=(act, answer), name=self._name, daemon=True)
        try:
            thread.start()
        except RuntimeError:  # no thread can be started
            self._busy.release()
            raise
        async with asyncio.timeout(within):
            return await answer

    def _act(self, act: Callable[[], _T], answer: asyncio.Future[_T]) -> None:
        try:
            tell = partial(answer.set_result, act())
        except Exception as error:  # noqa: BLE001 - it is raised where it was asked for
            tell = partial(answer.set_exception, error)
        self._busy.release()
        with contextlib.suppress(RuntimeError):  # the loop has been closed meanwhile
            answer.get_loop().call_soon_threadsafe(_unless_done, answer, tell)


def _unless_done(answer: asyncio.Future[Any], tell: Callable[[], None]) -> None:
    if not answer.done():
        tell()
