"""The machine under the exporter: what psutil is asked, answered out of the story instead of this machine."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest.mock import patch

import psutil

from exporter.simulator import SimServer

GIB = 2**30


class OllamaServe:
    """`ollama serve` of a simulated server as psutil shows a process. It is there while the server is not dead, and is
    as old as the server's last start."""

    pid = 4_000

    def __init__(self, server: SimServer) -> None:
        self._server = server

    def name(self) -> str:
        self._be_there()
        return "ollama"

    def cmdline(self) -> list[str]:
        return ["/usr/bin/ollama", "serve"]

    def ppid(self) -> int:
        return 1

    def is_running(self) -> bool:
        return not self._server.is_dead

    def environ(self) -> dict[str, str]:
        return {}

    def oneshot(self) -> Any:
        return nullcontext()

    def create_time(self) -> float:
        self._be_there()
        starts = self._server.log.of("up")
        return starts[-1].at if starts else 0.0

    def cpu_times(self) -> Any:
        return SimpleNamespace(user=1.0, system=0.5)

    def memory_info(self) -> Any:
        return SimpleNamespace(rss=300 * 2**20)

    def num_fds(self) -> int:
        return 30

    def _be_there(self) -> None:
        if self._server.is_dead:
            raise psutil.NoSuchProcess(self.pid)


class _Exporter:
    """The exporter of the story, which may start more than once, as psutil shows it to itself."""

    def __init__(self) -> None:
        self._started = asyncio.get_running_loop().time()

    def oneshot(self) -> Any:
        return nullcontext()

    def create_time(self) -> float:
        return self._started

    def cpu_times(self) -> Any:
        return SimpleNamespace(user=1.0, system=0.5)

    def memory_info(self) -> Any:
        return SimpleNamespace(rss=60 * 2**20, vms=300 * 2**20)

    def num_fds(self) -> int:
        return 20


class _CpuTimes(NamedTuple):
    user: float
    system: float
    idle: float


@dataclass(slots=True)
class Machine:
    """Bytes. A story writes them, the host source reads them."""

    memory: int = 64 * GIB
    memory_available: float = 40 * GIB
    swap: int = 8 * GIB
    swap_used: float = 0.0
    disk: int = 1000 * GIB
    disk_free: float = 600 * GIB
    disk_fails: bool = False

    @contextmanager
    def standing_in(self) -> Iterator[None]:
        """For this one."""
        answers: dict[str, Any] = {
            "virtual_memory": lambda: SimpleNamespace(total=self.memory, available=round(self.memory_available)),
            "swap_memory": lambda: SimpleNamespace(total=self.swap, used=round(self.swap_used)),
            "disk_usage": self._disk_usage,
            "cpu_times": lambda: _CpuTimes(user=1.0, system=1.0, idle=1.0),
            "net_io_counters": lambda **_: {},
            "Process": _Exporter,
        }
        with ExitStack() as stack:
            for name, answer in answers.items():
                stack.enter_context(patch.object(psutil, name, answer))
            yield

    def _disk_usage(self, _: str) -> Any:
        if self.disk_fails:
            raise OSError(5, "Input/output error")
        return SimpleNamespace(total=self.disk, free=round(self.disk_free))
