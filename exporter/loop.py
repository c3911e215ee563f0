"""The event loop that the program runs on: whoever does not answer holds up nobody but those who ask him.

asyncio resolves names in the few threads that all blocking work shares. There, six names of which DNS says nothing for
its ten seconds hold up every other name, the sources that look at this machine, and the compression of /metrics.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from typing import Any, TypeVar

from exporter.threads import Threads

_NAMES = 64
"""Names that are asked for at a time at most."""
_LOOKS = 64
"""Threads for everything else that blocks: some of it may hang, such as a disk or a Docker Engine."""
_LONG = 1.0
"""Seconds after which a name's thread may never have come to life."""

_T = TypeVar("_T")

Found = list[tuple[Any, ...]]
Lookup = Callable[..., Found]


class Loop(asyncio.SelectorEventLoop):
    """`lookup` asks the system for a name's addresses, in threads of their own, which nobody waits for at the end of
    the program. Who asks for a name that is being asked for already gets the same answer."""

    def __init__(self, lookup: Lookup = socket.getaddrinfo, names: int = _NAMES) -> None:
        super().__init__()
        self._lookup, self._resolvers, self._lookers = lookup, Threads(names), Threads(_LOOKS)
        self._asked: dict[Any, asyncio.Task[Found]] = {}

    def run_in_executor(  # type: ignore[override]
        self, executor: Executor | None, func: Callable[..., _T], *args: Any
    ) -> asyncio.Future[_T]:
        return super().run_in_executor(executor or self._lookers, func, *args)

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
        try:
            asked = self._resolvers.submit(self._lookup, *question)
        except (RuntimeError, MemoryError) as error:
            raise socket.gaierror(socket.EAI_AGAIN, "no thread can be started") from error
        answer = asyncio.wrap_future(asked, loop=self)
        try:
            while not (await asyncio.wait({answer}, timeout=_LONG))[0]:
                self._resolvers.attend()
            return answer.result()
        finally:
            answer.cancel()

    def _answered(self, question: tuple[Any, ...], asked: asyncio.Task[Found]) -> None:
        del self._asked[question]
        if not asked.cancelled():
            asked.exception()  # perhaps nobody waits for it any more
