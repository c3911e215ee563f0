"""The vantage points, one file each, and the table of them. Sources never import each other."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import httpx

from exporter.model import ApiSettings, CanarySettings, Endpoint, Reason, Source, Watch
from exporter.ollama import Client
from exporter.sources.api import ApiSource
from exporter.sources.canary import CanarySource
from exporter.sources.host import HostSource
from exporter.sources.own import OwnSource, Vitals


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What sources are given of the world around them: the wall clock (Unix time), what replaces the network in
    simulations (None: nothing does), and what the exporter knows of itself."""

    now: Callable[[], float] = time.time
    transport: Callable[[Endpoint], httpx.AsyncBaseTransport | None] = lambda _: None
    vitals: Vitals = field(default_factory=Vitals)

    def client(self, endpoint: Endpoint) -> Client:
        return Client(endpoint, self.transport(endpoint), self.now)


def _api(watch: Watch, around: Surroundings) -> Source:
    return ApiSource(watch, around.client(cast(ApiSettings, watch.settings).endpoint), around.now)


def _canary(watch: Watch, around: Surroundings) -> Source:
    return CanarySource(watch, around.client(cast(CanarySettings, watch.settings).endpoint), around.now)


@dataclass(frozen=True, slots=True)
class Kind:
    """How a source is built, and the reasons for which its readings can fail."""

    build: Callable[[Watch, Surroundings], Source]
    reasons: tuple[Reason, ...]


_LOCAL: tuple[Reason, ...] = ("timeout", "unavailable", "bug")
_HTTP: tuple[Reason, ...] = (
    "dns", "refused", "unreachable", "reset", "tls", "connect_timeout", "timeout", "forbidden_host", "http_4xx",
    "http_5xx", "redirect", "too_large", "decode", "malformed", "bug",
)  # fmt: skip

SOURCES: dict[str, Kind] = {
    "api": Kind(_api, _HTTP),
    "canary": Kind(_canary, _HTTP),
    "host": Kind(lambda watch, _: HostSource(watch), _LOCAL),
    "exporter": Kind(lambda _, around: OwnSource(around.vitals), _LOCAL),
}


def build(watch: Watch, around: Surroundings | None = None) -> Source:
    """The source that a watch names. Does no I/O on the target."""
    return SOURCES[watch.source].build(watch, around or Surroundings())
