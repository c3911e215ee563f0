"""The demo's fleet, served on this machine, and what the sources that look from inside see of it."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TextIO
from urllib.parse import urlsplit

from exporter.local import Births, Connection, Connections, Place, RunnerProcess, Usage
from exporter.model import Lacking
from exporter.simulator.child import Child, serve_children
from exporter.simulator.fleet import FleetConfig, SimFleet
from exporter.simulator.journal import go_duration
from exporter.simulator.ledger import Talk
from exporter.simulator.machine import SimServer
from exporter.simulator.server import serve

_NOBODYS_PIDS = 10_000_000
"""Added to simulated pids: Linux gives none so high, so nothing of a real process is taken for a simulated one's."""
_BACKLOG = 4096
_LOG_MAX = 8_000_000
"""Bytes. A demo may run for weeks."""


@dataclass(frozen=True, slots=True)
class Demo:
    """What there is to watch: URLs and log files by the servers' names, and their machine."""

    fleet: SimFleet
    urls: Mapping[str, str]
    logs: Mapping[str, Path]
    machine: SimMachine


@asynccontextmanager
async def house(config: FleetConfig, now: Callable[[], float]) -> AsyncIterator[Demo]:
    """A simulated fleet on loopback ports, its runners on theirs, and its logs in files, for as long as the block
    lasts. Nothing happens before `fleet.run()`."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="ollama-exporter-demo-")))
        logs = {member.server.name: folder / f"{member.server.name}.log" for member in config.members}
        files = {
            name: stack.enter_context(path.open("w", encoding="utf-8", buffering=1)) for name, path in logs.items()
        }
        fleet = SimFleet(config, now, {name: partial(_write, file) for name, file in files.items()})
        urls, residents = {}, {}
        for name, server in fleet.servers.items():
            urls[name] = url = await stack.enter_async_context(serve(server))
            served = await stack.enter_async_context(serve_children(server))
            residents[url] = Resident(server, served.children.pid, partial(getattr, served, "now"))
        yield Demo(fleet, urls, logs, SimMachine(residents))


def _write(file: TextIO, line: str) -> None:
    """Begins anew where a log would be rotated."""
    if file.tell() > _LOG_MAX:
        file.seek(0)
        file.truncate()
    file.write(line)


@dataclass(frozen=True, slots=True)
class Resident:
    """A simulated server that lives on the machine. `children` tells its runners, from any thread."""

    server: SimServer
    pid: int
    children: Callable[[], tuple[Child, ...]]


class SimMachine:
    """Simulated servers by their URLs. See `Local`."""

    def __init__(self, residents: Mapping[str, Resident]) -> None:
        self._residents = dict(residents)
        self._urls = {_pid(resident.pid): url for url, resident in residents.items()}

    def place(self, url: str) -> Place:
        resident = self._residents.get(url)
        if resident is None:
            raise Lacking("this server is none of the simulation", "give its URL to a real exporter")
        if not resident.server.ledger.listening:
            raise LookupError("it is dead")
        address = ("127.0.0.1", urlsplit(url).port or 80)
        return Place((address,), None, _pid(resident.pid), None, f"/system.slice/{resident.server.name}.service")

    def connections(self, place: Place) -> Connections:
        ledger = self._resident(place).server.ledger
        return Connections(tuple(_connection(talk) for talk in ledger.now()), ledger.accept_queue, _BACKLOG)

    def runners(self, place: Place) -> tuple[RunnerProcess, ...]:
        return tuple(
            RunnerProcess(child.port, _pid(child.pid), child.arguments, child.started)
            for child in self._resident(place).children()
        )

    def births(self, place: Place) -> Births:
        return SimBirths(partial(self.runners, place))

    def handle(self, process: RunnerProcess) -> None:
        """No descriptor tells of the end of what is only played."""

    def usage(self, process: RunnerProcess) -> Usage | None:
        for resident in self._residents.values():
            for child in resident.children():
                if _pid(child.pid) == process.pid:
                    return Usage(child.resident_bytes, child.cpu_seconds)
        return None

    def oom_kills(self) -> None:
        """The memory of what is only played never runs out."""

    def killer(self, process: RunnerProcess) -> None:
        """Nobody kills what is only played."""

    def environment(self, place: Place) -> Mapping[str, str]:
        config = self._resident(place).server.config
        told = {
            "OLLAMA_HOST": "{}:{}".format(*place.addresses[0]),
            "OLLAMA_NUM_PARALLEL": str(config.engine.num_parallel),
            "OLLAMA_MAX_QUEUE": str(config.engine.max_queue),
            "OLLAMA_MAX_LOADED_MODELS": str(config.engine.max_loaded_models),
            "OLLAMA_KEEP_ALIVE": go_duration(config.engine.keep_alive_seconds),
            "OLLAMA_CONTEXT_LENGTH": str(config.engine.default_num_ctx),
            "LLAMA_ARG_ENDPOINT_METRICS": "1",
            **dict(config.environment),
        }
        return {**told, "OLLAMA_NO_CLOUD": "1"} if config.cloud_disabled else told

    def names(self, place: Place, blob: str) -> tuple[str, ...]:
        models = self._resident(place).server.models
        return tuple(model.name for model in models if f"sha256-{model.blob}" == blob and not model.is_remote)

    def connect(self, place: Place, port: int, timeout: float) -> socket.socket:
        return socket.create_connection(("127.0.0.1", port), timeout)

    def _resident(self, place: Place) -> Resident:
        url = self._urls.get(place.pid or 0)
        if url is None or not self._residents[url].server.ledger.listening:
            raise LookupError("it is dead")
        return self._residents[url]


class SimBirths:
    """Runners of a simulated server. See `Births`."""

    def __init__(self, runners: Callable[[], tuple[RunnerProcess, ...]]) -> None:
        self._runners = runners
        self._seen: frozenset[int] = frozenset()

    def look(self, again: bool = False) -> frozenset[int] | None:
        seen, self._seen = self._seen, frozenset(one.pid for one in self._runners() if one.pid is not None)
        return self._seen if again or seen != self._seen else None

    def runners(self, pids: Iterable[int]) -> tuple[RunnerProcess, ...]:
        wanted = frozenset(pids)
        return tuple(one for one in self._runners() if one.pid in wanted)

    def close(self) -> None:
        """Nothing is open."""


def _pid(pid: int) -> int:
    return _NOBODYS_PIDS + pid


def _connection(talk: Talk) -> Connection:
    sent_ago = talk.received_ago if talk.sent_ago is None else talk.sent_ago
    return Connection(
        cookie=talk.number,
        peer=("127.0.0.1", 1024 + talk.number % 60_000),
        received=talk.received,
        sent=talk.sent,
        last_received=talk.received_ago,
        last_sent=sent_ago,
        last_acknowledged=sent_ago,
        acknowledged=talk.acknowledged,
        segments_received=talk.requests,
        segments_sent=talk.pieces,
        own=talk.origin.startswith("ollama-exporter/"),
    )
