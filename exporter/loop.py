"""The event loop that the program runs on: whoever does not answer holds up nobody but those who ask him.

asyncio resolves names in the few threads that all blocking work shares. There, six names of which DNS says nothing for
its ten seconds hold up every other name, the sources that look at this machine, and the compression of /metrics.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

_NAMES = 64
"""Names that are asked for at a time at most."""
_LOOKS = 64
"""Threads for everything else that blocks: some of it may hang, such as a disk or a Docker Engine."""

Found = list[tuple[Any, ...]]
Lookup = Callable[..., Found]


class Loop(asyncio.SelectorEventLoop):
    """`lookup` asks the system for a name's addresses, each time in a thread of its own, which nobody waits for at the
    end of the program. Who asks for a name that is being asked for already gets the same answer."""

    def __init__(self, lookup: Lookup = socket.getaddrinfo, names: int = _NAMES) -> None:
        super().__init__()
        self.set_default_executor(ThreadPoolExecutor(_LOOKS, "look"))
        self._lookup, self._free = lookup, asyncio.Semaphore(names)
        self._asked: dict[Any, asyncio.Task[Found]] = {}

    async def getaddrinfo(
        self, host: Any, port: Any, *, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
    ) -> Found:
        question = host, port, family, type, proto, flags
        asked = self._asked.get(question)
        if asked is None:
            asked = self._asked[question] = self.create_task(self._ask(question), name=f"resolve {host}")
            asked.add_done_callback(partial(self._answered, question))
        return await asyncio.shield(asked)

    async def _ask(self, question: tuple[Any, ...]) -> Found:
        async with self._free:
            answer: asyncio.Future[Found] = self.create_future()
            thread = threading.Thread(target=self._in_thread, args=(question, answer), name="resolve", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                raise socket.gaierror(socket.EAI_AGAIN, "no thread can be started") from error
            return await answer

    def _in_thread(self, question: tuple[Any, ...], answer: asyncio.Future[Found]) -> None:
        try:
            tell = partial(_tell, answer, self._lookup(*question))
        except Exception as error:  # noqa: BLE001 - it is raised where the name was asked for
            tell = partial(_refuse, answer, error)
        with contextlib.suppress(RuntimeError):  # the loop has been closed meanwhile
            self.call_soon_threadsafe(tell)

    def _answered(self, question: tuple[Any, ...], asked: asyncio.Task[Found]) -> None:
        del self._asked[question]
        if not asked.cancelled():
            asked.exception()  # perhaps nobody waits for it any more


def _tell(answer: asyncio.Future[Found], found: Found) -> None:
    if not answer.done():
        answer.set_result(found)


def _refuse(answer: asyncio.Future[Found], error: Exception) -> None:
    if not answer.done():
        answer.set_exception(error)
