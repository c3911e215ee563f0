"""What the sources that look from inside are given instead of this machine.

Sockets, processes and settings are those of the simulated machine, logs are files that the simulated servers write. A
Docker Engine and NVIDIA's driver are not simulated: their answers are played, at the lowest seam that there is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx
import pynvml

from exporter.demo import Resident, SimMachine
from exporter.llama import Reply, Wire
from exporter.local import Local, Place
from exporter.simulator import Children, SimServer, SimTransport
from tests.docker_engine import FakeContainer, FakeEngine, fake_engine
from tests.incidents.machine import GIB
from tests.nvml import FakeCard, FakeDriver

CONTAINER_MEMORY = 16 * GIB
_AGENT = "ollama-exporter/of the story"
_OUTSIDE = 80
_PATIENCE = 3600.0


class LogFile:
    """Where the output of one simulated server goes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.elsewhere = False
        self._file = path.open("a", encoding="utf-8", buffering=1)

    def write(self, line: str) -> None:
        if not self.elsewhere:
            self._file.write(line)

    def truncate(self) -> None:
        """As a rotation does that copies the file first."""
        self._file.truncate(0)

    def close(self) -> None:
        self._file.close()


class Inside:
    """The machine that all servers of a story run on."""

    def __init__(self, servers: Mapping[str, SimServer]) -> None:
        self._children = {name: Children(server) for name, server in servers.items()}
        self.machine = SimMachine(
            {
                f"http://{name}": Resident(server, self._children[name].pid, self._children[name].now)
                for name, server in servers.items()
            }
        )
        self._http = httpx.AsyncClient(
            transport=SimTransport(servers), timeout=_PATIENCE, headers={"User-Agent": _AGENT}
        )

    def check(self) -> None:
        pids = {children.pid for children in self._children.values()}
        assert len(pids) == len(self._children), "servers that are seen from inside need seeds of their own"

    def wire(self, _: Local, place: Place, port: int) -> Wire:
        server = place.cgroup.rpartition("/")[2].removesuffix(".service")
        return _ToServer(self._http, server) if port == _OUTSIDE else _ToChild(self._children[server], port)

    async def aclose(self) -> None:
        await self._http.aclose()


class _ToServer(Wire):
    def __init__(self, http: httpx.AsyncClient, server: str) -> None:
        self._http, self._server = http, server

    async def get(self, path: str) -> Reply:
        try:
            answer = await self._http.get(f"http://{self._server}{path}")
        except httpx.TransportError:
            raise ConnectionResetError from None
        return Reply(answer.status_code, dict(answer.headers), answer.content)

    async def close(self) -> None:
        """Nothing is held."""


class _ToChild(Wire):
    def __init__(self, children: Children, port: int) -> None:
        self._children, self._port = children, port

    async def get(self, path: str) -> Reply:
        child = next((child for child in self._children.now() if child.port == self._port), None)
        if child is None:
            raise ConnectionRefusedError
        answer = child.answer(path)
        return Reply(answer.status, {name.lower(): value for name, value in answer.headers.items()}, answer.body)

    async def close(self) -> None:
        """Nothing is held."""


async def at_once(call: Callable[..., Any], /, *arguments: Any, **named: Any) -> Any:
    """`asyncio.to_thread` without a thread: the order of things is then the same each time."""
    return call(*arguments, **named)


@contextmanager
def engine(folder: Path, servers: Mapping[str, SimServer]) -> Iterator[FakeEngine]:
    """A Docker Engine that runs each server in a container of its name."""
    with fake_engine(folder) as made:
        for name in servers:
            made.add(name, started=1.0, pid=0, health="healthy", limits={"Memory": CONTAINER_MEMORY})
            uses(made.containers[-1], 0.5)
        yield made


def uses(container: FakeContainer, share: float) -> None:
    """So much of its memory, without what the kernel could drop."""
    inactive = container.stats["memory_stats"]["stats"]["inactive_file"]
    container.stats["memory_stats"]["usage"] = round(share * CONTAINER_MEMORY) + inactive


@contextmanager
def driver(cards: int) -> Iterator[FakeDriver]:
    """NVIDIA's driver of the exporter's machine."""
    made = FakeDriver(*(FakeCard(f"GPU-{number}") for number in range(cards)))
    with ExitStack() as stack:
        stack.enter_context(patch.object(pynvml, "nvmlLib", made))
        stack.enter_context(patch.object(pynvml, "_nvmlGetFunctionPointer_cache", {}))
        yield made
