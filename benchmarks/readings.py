"""Readings of a fleet as the `api` source makes them, through the real client and observer, over no network."""

from __future__ import annotations

import asyncio
import time

import httpx

from benchmarks import servers
from exporter.exposition import encode
from exporter.fleet import Observer
from exporter.model import ApiSettings, Endpoint, Entry, Reading, Watch
from exporter.ollama import Client
from exporter.sources import SOURCES
from exporter.sources.api import ApiSource
from exporter.store import Store


def watch_of(name: str, url: str) -> Watch:
    return Watch(name, "api", 15.0, 16.0, ApiSettings(Endpoint(url)))


def make(count: int, loaded: int = 1, installed: int = 1) -> list[Reading]:
    """The second reading of each server, so that nothing is special about it."""
    bodies = {
        "/api/version": servers.version_body(),
        "/api/ps": servers.ps_body(loaded),
        "/api/tags": servers.tags_body(installed),
    }
    date = {"Date": "Mon, 23 Nov 2026 17:38:36 GMT"}
    transport = httpx.MockTransport(lambda request: httpx.Response(200, headers=date, content=bodies[request.url.path]))

    async def look() -> list[Reading]:
        return [await _second(f"gpu-node-{place:04}", transport) for place in range(count)]

    return asyncio.run(look())


async def _second(name: str, transport: httpx.AsyncBaseTransport) -> Reading:
    watch = watch_of(name, f"http://{name}.example:11434")
    source = ApiSource(watch, Client(watch.settings.endpoint, transport))  # type: ignore[attr-defined]
    observer = Observer(watch, source, SOURCES["api"].reasons, time.time)
    await observer.observe()
    return await observer.observe()


def encoded(readings: list[Reading]) -> dict[Watch, Entry]:
    return {reading.watch: encode(reading) for reading in readings}


def store(readings: list[Reading]) -> Store:
    """As in the exporter, after a few rounds."""
    made = Store(encode)
    made.plan(reading.watch for reading in readings)
    for reading in readings * 4:
        made.put(reading)
    return made
