"""Threads for what blocks, and may hang in the kernel, such as a disk whose server is gone.

Nobody waits for them at the end of the program, and nobody for their beginning: `threading.Thread.start` does, and a
thread that dies before it can say that it runs, for want of memory, is waited for forever (python/cpython#140746). On
the event loop that was the end of the exporter, alive and silent.
"""

from __future__ import annotations

import _thread
import asyncio
import errno
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future, InvalidStateError
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, TypeAlias, TypeVar

_IDLE = 30.0
"""Seconds after which a thread that has nothing to do ends. More than lies between two looks at the machine."""
_SOON = 0.05
"""Seconds until there may be memory again."""
_BIRTH = 5.0
"""Seconds after which a thread that has not begun is taken for dead."""

_T = TypeVar("_T")
_Job: TypeAlias = tuple[Future[Any], Callable[[], Any]]


class Threads(Executor):
    """`most` threads at most, begun when they are needed. Who gives up waits for `cancel()` of what has not begun, by
    which it is forgotten."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._waiting: deque[_Job] = deque()
        self._handed: SimpleQueue[_Job] = SimpleQueue()
        self._idle = self._alive = 0
        """`idle`: threads that wait for what is handed to them, less what has been handed and not been taken yet."""

    def submit(self, fn: Callable[..., _T], /, *args: Any, **kwargs: Any) -> Future[_T]:
        """Raises RuntimeError or MemoryError when there is no thread and none can be begun."""
        future: Future[_T] = Future()
        job: _Job = future, partial(fn, *args, **kwargs)
        with self._lock:
            if self._idle:
                self._idle -= 1
                self._handed.put(job)
                return future
            while self._waiting and self._waiting[0][0].cancelled():
                self._waiting.popleft()
            self._waiting.append(job)
        try:
            self._begin()
        except (RuntimeError, MemoryError):
            with self._lock:
                if not self._alive and job in self._waiting:
                    self._waiting.remove(job)
                    raise
        return future

    def attend(self) -> None:
        """For who waits for long: begins a thread in place of one that died as it was born, if it can."""
        with suppress(RuntimeError, MemoryError):
            self._begin()

    def _begin(self) -> None:
        """A thread, if something waits for one and there may be one more."""
        with self._lock:
            wanted = bool(self._waiting) and self._alive < self._most
        if wanted:
            _thread.start_new_thread(self._live, ())

    def _live(self) -> None:
        with self._lock:
            if self._alive >= self._most:  # more were begun before the first of them was counted
                return
            self._alive += 1
        job: _Job | None = None
        while True:
            try:
                if (job := self._next()) is None:
                    return
                _do(*job)
            except MemoryError as error:  # not even room to tell it
                if job is not None:
                    _tell(job[0], error)
            job = None

    def _next(self) -> _Job | None:
        """None: it is time to end."""
        with self._lock:
            if self._waiting:
                return self._waiting.popleft()
            self._idle += 1
        try:
            return self._handed.get(timeout=_IDLE)
        except (Empty, MemoryError):
            with self._lock:
                if self._idle:
                    self._idle -= 1
                    self._alive -= 1
                    return None
            return self._handed.get()  # it was handed over just now


class Lane(Threads):
    """Where one thing after the other is done, in a thread. What hangs is not followed by another, so that threads do
    not pile up; what it finds in the end is nobody's any more."""

    def __init__(self) -> None:
        super().__init__(1)
        self._last: Future[Any] | None = None

    def submit(self, fn: Callable[..., _T], /, *args: Any, **kwargs: Any) -> Future[_T]:
        self._last = answer = super().submit(fn, *args, **kwargs)
        return answer

    async def run(self, act: Callable[[], _T], within: float) -> _T:
        """Raises TimeoutError when it takes longer than `within` seconds, or the one before still hangs."""
        if self._last is not None and not self._last.done():
            raise TimeoutError
        answer = asyncio.get_running_loop().run_in_executor(self, act)
        async with asyncio.timeout(within):
            return await answer


def apart(act: Callable[[], _T]) -> _T:
    """What `act` returns, in a thread of its own that ends with it. Raises OSError when none can be begun."""
    answer: Future[_T] = Future()
    try:
        _thread.start_new_thread(_do, (answer, act))
        return answer.result(_BIRTH)
    except (RuntimeError, MemoryError, TimeoutError) as error:
        if answer.cancel():
            raise OSError(errno.EAGAIN, "no thread can be started") from error
    return answer.result()


def _tell(future: Future[Any], error: MemoryError) -> None:
    """As soon as there is room. What nobody was told of would be under way forever."""
    while not future.done():
        with suppress(MemoryError, InvalidStateError):
            future.set_exception(error)
            return
        time.sleep(_SOON)


def _do(future: Future[Any], act: Callable[[], Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = act()
    except BaseException as error:  # noqa: BLE001 - it is raised where it was asked for
        future.set_exception(error)
        del future  # by its traceback the error would hold itself
    else:
        future.set_result(result)
