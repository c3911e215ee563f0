"""A simulated server, its users, and one source that watches it: the stage of the tests of sources, in virtual time."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import httpx

from exporter.exposition import encode
from exporter.fleet import Observer
from exporter.model import (
    ApiSettings,
    CanarySettings,
    Distribution,
    Endpoint,
    Entry,
    Family,
    NativeSettings,
    Reading,
    Source,
    Watch,
)
from exporter.simulator import (
    ServerConfig,
    SimServer,
    SimTransport,
    run_virtual,
    virtual_wall_clock,
)
from exporter.sources import SOURCES, Surroundings, build

ENDPOINT = Endpoint("http://a:11434")
PATIENT = 1e6
"""Seconds: virtual ones cost nothing."""


def virtually(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an async test in virtual time."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        run_virtual(test(*args, **kwargs))

    return run


class Recorder(httpx.AsyncBaseTransport):
    """Keeps what the exporter sent."""

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self._inner = inner
        self.requests: list[httpx.Request] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return await self._inner.handle_async_request(request)

    async def aclose(self) -> None:
        await self._inner.aclose()

    def sent(self, path: str) -> list[httpx.Request]:
        return [request for request in self.requests if request.url.path == path]


class Stage:
    """One server named `a`, watched through one source."""

    def __init__(self, server: SimServer, watch: Watch) -> None:
        self.server, self.watch = server, watch
        self._people = httpx.AsyncClient(transport=SimTransport({"a": server}), base_url=ENDPOINT.url, timeout=PATIENT)
        self.recorder = Recorder(SimTransport({"a": server}))
        self.source = self.new_source()
        self.observer = Observer(watch, self.source, SOURCES[watch.source].reasons, virtual_wall_clock)

    def new_source(self) -> Source:
        return build(self.watch, Surroundings(now=virtual_wall_clock, transport=lambda _: self.recorder))

    async def observe(self) -> Seen:
        return Seen(await self.observer.observe())

    async def run(self, seconds: float) -> Seen:
        """Observe every `watch.every` seconds for so long; the last reading."""
        seen = await self.observe()
        for _ in range(round(seconds / self.watch.every)):
            await asyncio.sleep(self.watch.every)
            seen = await self.observe()
        return seen

    async def ask(self, model: str = "tinyllama", **body: Any) -> dict[str, Any]:
        """What a user does: a generation, not streamed."""
        body = {"model": model, "prompt": "Why is the sky blue?", "stream": False, **body}
        response = await self._people.post("/api/generate", json=body)
        answer: dict[str, Any] = response.json()
        return answer

    async def loaded(self) -> dict[str, dict[str, Any]]:
        rows = (await self._people.get("/api/ps")).json()["models"]
        return {row["name"]: row for row in rows}

    async def until_loaded(self) -> None:
        while not await self.loaded():  # noqa: ASYNC110 - the server has no event to tell, and time is virtual
            await asyncio.sleep(5)

    async def aclose(self) -> None:
        await self.source.aclose()
        await self._people.aclose()
        await self.server.aclose()


class Seen:
    """A reading, asked by family and labels (the label `server` is understood)."""

    def __init__(self, reading: Reading) -> None:
        self.reading = reading
        self.failure = reading.failure

    def __call__(self, family: Family, /, **labels: str) -> float | None:
        """The value; None when there is no such series. Of a histogram, its count."""
        wanted = tuple({"server": "a", **labels}[name] for name in family.labels)
        found = [sample.value for sample in self.reading.samples if (sample.family, sample.labels) == (family, wanted)]
        assert len(found) < 2, f"{family.name}{wanted} twice"
        if not found:
            return None
        return float(found[0].counts[-1]) if isinstance(found[0], Distribution) else found[0]

    def total(self, family: Family, /, **labels: str) -> float:
        value = self(family, **labels)
        assert value is not None, f"no {family.name} {labels}"
        return value

    def sum(self, family: Family, /, **labels: str) -> float:
        wanted = tuple({"server": "a", **labels}[name] for name in family.labels)
        for sample in self.reading.samples:
            if (sample.family, sample.labels) == (family, wanted) and isinstance(sample.value, Distribution):
                return sample.value.total
        raise AssertionError(f"no {family.name} {labels}")

    def series(self, family: Family) -> set[tuple[str, ...]]:
        return {sample.labels for sample in self.reading.samples if sample.family is family}

    def families(self) -> set[str]:
        return {sample.family.name for sample in self.reading.samples}

    def entry(self) -> Entry:
        return encode(self.reading)


@asynccontextmanager
async def stage(
    source: str = "canary",
    server: ServerConfig | None = None,
    settings: ApiSettings | CanarySettings | NativeSettings | None = None,
    every: float = 15.0,
    optional: bool = False,
) -> AsyncIterator[Stage]:
    default = CanarySettings(ENDPOINT) if source == "canary" else ApiSettings(ENDPOINT)
    made = SimServer(server or ServerConfig(), virtual_wall_clock)
    it = Stage(made, Watch("a", source, every, 60.0, settings or default, optional))
    try:
        yield it
    finally:
        await it.aclose()


async def every(seconds: float, act: Callable[[], Awaitable[object]]) -> None:
    """Until cancelled."""
    while True:
        await act()
        await asyncio.sleep(seconds)


@asynccontextmanager
async def meanwhile(*acts: Coroutine[Any, Any, object]) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(act) for act in acts]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
