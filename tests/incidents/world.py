"""A fleet that something happens to: simulated servers and their users, the real exporter, and whoever scrapes it.

All of it in virtual time, on one clock that begins at 0 as promtool's does.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx
import yaml

from exporter.app import Exporter
from exporter.config import Config, load
from exporter.exposition import render
from exporter.model import Endpoint
from exporter.simulator import (
    LLAMA32_3B,
    TINYLLAMA,
    EngineConfig,
    Fault,
    FleetConfig,
    Member,
    ServerConfig,
    SimFleet,
    SimModel,
    SimServer,
    SimTransport,
    Timetable,
    Traffic,
    run_virtual,
)
from exporter.sources import SOURCES, Kind, Surroundings
from exporter.sources.host import HostSource
from exporter.sources.own import Vitals
from tests.docker_engine import FakeContainer, FakeEngine
from tests.incidents import inside
from tests.incidents.inside import Inside, LogFile
from tests.incidents.machine import Machine, OllamaServe
from tests.incidents.samples import Recording
from tests.nvml import FakeDriver

MINUTE = 60.0
NOBODY = 1e-12
"""Users a second."""
_FROM_INSIDE = ("sockets", "runner", "logs", "docker", "gpu", "audit")
_PATIENCE = 3600.0
_NO_TIMETABLE = Timetable(cycle_seconds=1e9, incidents=())


def member(
    name: str, per_second: float = 0.05, models: Sequence[SimModel] = (TINYLLAMA, LLAMA32_3B), **engine: Any
) -> Member:
    """A server whose users ask for the first of its models."""
    return Member(
        ServerConfig(name, replace(EngineConfig(num_parallel=4), **engine), tuple(models), version="0.33.0"),
        Traffic(per_second, swing=0.0, shares=((models[0], 1.0),)),
    )


@dataclass(frozen=True, slots=True)
class Shape:
    """Who is there, and what is in exporter.yml beside the servers. `host`: whose machine the exporter runs on; none
    of the fleet's when empty. `inside`: the sources that look into the servers' machine; `cards`: its GPUs; `policy`:
    what is in the policy file. `found`: the servers that are not configured, but in a file in which discovery looks."""

    members: tuple[Member, ...] = (member("gpu1"), member("gpu2"))
    config: Mapping[str, Any] = field(default_factory=dict)
    host: str = ""
    inside: frozenset[str] = frozenset()
    cards: int = 0
    policy: Mapping[str, Any] = field(default_factory=dict)
    found: tuple[str, ...] = ()


class World:
    """What a story can do things to."""

    def __init__(self, shape: Shape, folder: Path) -> None:
        self._shape, self._folder = shape, folder
        names = [member.server.name for member in shape.members] if "logs" in shape.inside else []
        self.logs = {name: LogFile(folder / f"{name}.log") for name in names}
        sinks = {name: log.write for name, log in self.logs.items()}
        self.fleet = SimFleet(FleetConfig(shape.members, _NO_TIMETABLE), wall_clock, sinks)
        self.servers = self.fleet.servers
        self._inside = Inside(self.servers)
        if shape.inside:
            self._inside.check()
        self.engine: FakeEngine | None = None
        self.driver: FakeDriver | None = None
        self.machine = Machine()
        self.listed = True  # Prometheus knows of a target
        self.elsewhere: Callable[[], str] | None = None  # what it finds there instead of the exporter
        self.exporter: Exporter | None = None
        self.hanging: set[str] = set()
        self._running: asyncio.Task[None] | None = None
        self._transport = _Network(self.servers, self.hanging)
        self._people = httpx.AsyncClient(transport=SimTransport(self.servers), timeout=_PATIENCE)
        self.file = folder / "exporter.yml"
        self.configure()
        self.find()

    # -- what a story does

    async def ask(self, server: str, model: SimModel = TINYLLAMA, path: str = "/api/generate", **body: object) -> None:
        """As a user does; what becomes of it is his affair."""
        request = {"model": model.name, "prompt": "Why is the sky blue?", "stream": False, **body}
        with contextlib.suppress(httpx.TransportError):
            await self._people.post(f"http://{server}{path}", json=request)

    def configure(self, *more: Mapping[str, object]) -> None:
        """Write exporter.yml: the servers of the fleet, and `more`."""
        servers = [*(self._entry(name) for name in self.servers if name not in self._shape.found), *more]
        host = {"enabled": bool(self._shape.host), "name": self._shape.host or "none", "models_dir": str(self._folder)}
        off = {source: {"mode": "off"} for source in _FROM_INSIDE if source not in self._shape.inside}
        written = {"servers": servers, "host": host, **off, **self._of_inside(), **self._shape.config}
        if self._shape.found:
            written["discovery"] = [{"name": "racks", "files": {"paths": ["racks.json"]}}]
        self.file.write_text(yaml.safe_dump(written), encoding="utf-8")

    def find(self, text: str | None = None) -> None:
        """Write the file in which discovery looks: those to be found, or this text."""
        groups = [{"targets": [f"{name}:80"], "labels": {"server": name}} for name in self._shape.found]
        fresh = self._folder / "fresh"
        fresh.write_text(json.dumps(groups) if text is None else text, encoding="utf-8")
        fresh.rename(self._folder / "racks.json")

    def _entry(self, name: str) -> dict[str, object]:
        log = {"logs": {"file": str(self.logs[name].path)}} if name in self.logs else {}
        container = {"container": name} if "docker" in self._shape.inside else {}
        return {"name": name, "url": f"http://{name}", **log, **container}

    def _of_inside(self) -> dict[str, object]:
        found: dict[str, object] = {}
        if "docker" in self._shape.inside:
            found["docker"] = {"address": f"unix://{self._folder / 'd.sock'}"}
        if self._shape.policy:
            policy = self._folder / "policy.yml"
            policy.write_text(yaml.safe_dump(dict(self._shape.policy)), encoding="utf-8")
            found["audit"] = {"policy_file": str(policy)}
        return found

    def start(self) -> None:
        around = Surroundings(wall_clock, self._transport.to, self._inside.machine, self._inside.wire, Vitals())
        self.exporter = Exporter(self._load(), self._load, around)
        self._running = asyncio.create_task(self.exporter.run(), name="exporter")

    async def stop(self) -> None:
        assert self._running is not None
        self.exporter = None
        self.hanging.clear()
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)

    def container(self, server: str) -> FakeContainer:
        assert self.engine is not None
        return next(container for container in self.engine.containers if container.name == server)

    async def restart(self, server: str, seconds: float) -> None:
        """Of a simulated server: dead for so long."""
        self.servers[server].inject(Fault("dead", seconds))
        await asyncio.sleep(seconds)

    # -- the course of things

    async def run(self, story: Story, recording: Recording) -> None:
        with contextlib.ExitStack() as stack:
            self._stand_in(stack)
            self.start()
            tasks = [
                asyncio.create_task(self._clock_of_engine(), name="the engine's clock"),
                asyncio.create_task(self.fleet.run(), name="fleet"),
                asyncio.create_task(self._happens(story), name="story"),
            ]
            for scrape in range(round(story.until * MINUTE / story.scrape) + 1):
                await _until(scrape * story.scrape)
                self._scraped(recording)
            for task in tasks:
                if task.done():
                    task.result()
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.stop()
            await self._people.aclose()
            await self._inside.aclose()

    def _stand_in(self, stack: contextlib.ExitStack) -> None:
        stack.enter_context(self.machine.standing_in())
        stack.enter_context(self._host_source())
        stack.enter_context(patch.object(asyncio, "to_thread", inside.at_once))
        if "docker" in self._shape.inside:
            self.engine = stack.enter_context(inside.engine(self._folder, self.servers))
        if "gpu" in self._shape.inside:
            self.driver = stack.enter_context(inside.driver(self._shape.cards))
        for log in self.logs.values():
            stack.callback(log.close)

    async def _clock_of_engine(self) -> None:
        while self.engine is not None:
            self.engine.clock = wall_clock()
            await asyncio.sleep(1.0)

    async def _happens(self, story: Story) -> None:
        await _until(story.begins * MINUTE)
        happening = asyncio.create_task(story.happens(self), name="happening")
        await asyncio.wait({happening}, timeout=story.lasts * MINUTE)
        if happening.done():
            happening.result()
        await _until((story.begins + story.lasts) * MINUTE)
        happening.cancel()
        await asyncio.gather(happening, return_exceptions=True)
        for server in self.servers.values():
            server.heal()
        await story.over(self)

    def _scraped(self, recording: Recording) -> None:
        if not self.listed:
            recording.not_listed()
        elif self.elsewhere is not None:
            recording.answered(self.elsewhere())
        elif self.exporter is None:
            recording.refused()
        else:
            recording.answered(render(self.exporter.snapshot(), openmetrics=False).decode())

    def _load(self) -> Config:
        return load(str(self.file), {})

    def _host_source(self) -> Any:
        """The real one; the only processes that it finds are those of the story."""
        serve = [OllamaServe(self.servers[self._shape.host])] if self._shape.host else []
        seen_by = partial(HostSource, processes=lambda: serve, environment={})
        return patch.dict(SOURCES, {"host": Kind(lambda watch, _: seen_by(watch), SOURCES["host"].reasons)})


class _Network:
    """Where the exporter's requests go. A server that is `hanging` takes the request and nothing ends it, not even
    that the one who asked gives up."""

    def __init__(self, servers: Mapping[str, SimServer], hanging: set[str]) -> None:
        self._servers, self._hanging = servers, hanging

    def to(self, endpoint: Endpoint) -> httpx.AsyncBaseTransport | None:
        """None: the real network, for an endpoint whose certificates have to be read."""
        return None if endpoint.ca is not None else _Held(self._servers, self._hanging)


class _Held(SimTransport):
    def __init__(self, servers: Mapping[str, SimServer], hanging: set[str]) -> None:
        super().__init__(servers)
        self._hanging = hanging

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        while request.url.host in self._hanging:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(1.0)
        return await super().handle_async_request(request)


async def nothing(_: World) -> None:
    """What there is left to do when most incidents are over."""


@dataclass(frozen=True, slots=True)
class Story:
    """Minutes. `happens` is cancelled after `lasts`, and all faults end; `over` puts right what is no fault of a
    server."""

    happens: Callable[[World], Awaitable[None]]
    begins: float
    lasts: float
    until: int
    shape: Shape = field(default_factory=Shape)
    over: Callable[[World], Awaitable[None]] = nothing
    scrape: float = 15.0


def play(story: Story, folder: Path) -> Iterator[tuple[str, str]]:
    """The series that a Prometheus would have stored, and their values."""
    recording = Recording()
    run_virtual(_play(story, folder, recording))
    return recording.series()


async def _play(story: Story, folder: Path, recording: Recording) -> None:
    await World(story.shape, folder).run(story, recording)


def wall_clock() -> float:
    return asyncio.get_running_loop().time()


async def _until(moment: float) -> None:
    await asyncio.sleep(max(0.0, moment - asyncio.get_running_loop().time()))
