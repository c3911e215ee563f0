"""Threads for what may hang in the kernel, such as a disk whose server is gone. Nobody waits for them at the end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from typing import Any, TypeVar

_T = TypeVar("_T")


class Lane:
    """Where one thing after the other is done, each in a thread of its own. One that hangs is not followed by another,
    so that threads do not pile up; what it finds in the end is nobody's any more."""

    def __init__(self, name: str) -> None:
        self._busy, self._threads = threading.Lock(), Threads(name)

    async def run(self, act: Callable[[], _T], within: float) -> _T:
        """Raises TimeoutError when it takes longer than `within` seconds, or the one before still hangs."""
        if not self._busy.acquire(blocking=False):
            raise TimeoutError
        try:
            answer = asyncio.get_running_loop().run_in_executor(self._threads, self._alone, act)
        except RuntimeError:  # no thread can be started
            self._busy.release()
            raise
        async with asyncio.timeout(within):
            return await answer

    def _alone(self, act: Callable[[], _T]) -> _T:
        try:
            return act()
        finally:
            self._busy.release()


class Threads(Executor):
    """A thread for each call. Those of a pool would be joined at the end of the program, hang as they may."""

    def __init__(self, name: str) -> None:
        self._name = name

    def submit(self, fn: Callable[..., _T], /, *args: Any, **kwargs: Any) -> Future[_T]:
        future: Future[_T] = Future()
        future.set_running_or_notify_cancel()
        threading.Thread(target=_do, args=(future, partial(fn, *args, **kwargs)), name=self._name, daemon=True).start()
        return future


def _do(future: Future[_T], act: Callable[[], _T]) -> None:
    try:
        result = act()
    except BaseException as error:  # noqa: BLE001 - it is raised where it was asked for
        future.set_exception(error)
    else:
        future.set_result(result)
