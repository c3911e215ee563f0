"""The vantage points, one file each, and the table of them. Sources never import each other."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import cast

import httpx

from exporter.llama import SocketWire, Wire
from exporter.local import Local, Place
from exporter.local.machine import Machine
from exporter.model import ApiSettings, AuditSettings, CanarySettings, Endpoint, NativeSettings, Reason, Source, Watch
from exporter.ollama import Client
from exporter.sources.api import ApiSource
from exporter.sources.audit import AuditSource
from exporter.sources.canary import CanarySource
from exporter.sources.docker import DockerSource
from exporter.sources.gpu import GpuSource
from exporter.sources.host import HostSource
from exporter.sources.logs import LogSource
from exporter.sources.native import NativeSource
from exporter.sources.own import OwnSource, Vitals
from exporter.sources.runner import RunnerSource
from exporter.sources.sockets import SocketsSource

_CONNECT_WITHIN = 2.0


def _socket_wire(machine: Local, place: Place, port: int) -> Wire:
    return SocketWire(partial(machine.connect, place, port, _CONNECT_WITHIN))


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What sources are given of the world around them: the wall clock (Unix time), what replaces the network in
    simulations (None: nothing does), what is on this machine, the way from there to a port in a server's network, and
    what the exporter knows of itself."""

    now: Callable[[], float] = time.time
    transport: Callable[[Endpoint], httpx.AsyncBaseTransport | None] = lambda _: None
    machine: Local = field(default_factory=Machine)
    wire: Callable[[Local, Place, int], Wire] = _socket_wire
    vitals: Vitals = field(default_factory=Vitals)

    def client(self, endpoint: Endpoint) -> Client:
        return Client(endpoint, self.transport(endpoint), self.now)


def _api(watch: Watch, around: Surroundings) -> Source:
    return ApiSource(watch, around.client(cast(ApiSettings, watch.settings).endpoint), around.now)


def _canary(watch: Watch, around: Surroundings) -> Source:
    return CanarySource(watch, around.client(cast(CanarySettings, watch.settings).endpoint), around.now)


def _native(watch: Watch, around: Surroundings) -> Source:
    return NativeSource(watch, around.client(cast(NativeSettings, watch.settings).endpoint))


def _runner(watch: Watch, around: Surroundings) -> Source:
    return RunnerSource(watch, around.machine, partial(around.wire, around.machine))


def _sockets(watch: Watch, around: Surroundings) -> Source:
    return SocketsSource(watch, around.machine, partial(around.wire, around.machine))


def _audit(watch: Watch, around: Surroundings) -> Source:
    client = around.client(cast(AuditSettings, watch.settings).endpoint)
    return AuditSource(watch, client, around.machine)


@dataclass(frozen=True, slots=True)
class Kind:
    """How a source is built, the reasons for which its readings can fail, and what to tell of it: what it sees, and to
    what it is blind at its best. (`check` tells more of api, canary and host.)"""

    build: Callable[[Watch, Surroundings], Source]
    reasons: tuple[Reason, ...]
    sees: str = ""
    blind: str = ""


_LOCAL: tuple[Reason, ...] = ("timeout", "unavailable", "bug")
_HTTP: tuple[Reason, ...] = (
    "dns", "refused", "unreachable", "reset", "tls", "connect_timeout", "timeout", "forbidden_host", "http_4xx",
    "http_5xx", "redirect", "too_large", "decode", "malformed", "bug",
)  # fmt: skip

_RUNNER: tuple[Reason, ...] = (
    "refused", "unreachable", "reset", "timeout", "http_4xx", "http_5xx", "redirect", "too_large", "decode",
    "malformed", "unavailable", "bug",
)  # fmt: skip

SOURCES: dict[str, Kind] = {
    "api": Kind(_api, _HTTP),
    "canary": Kind(_canary, _HTTP),
    "native": Kind(
        _native,
        (*_HTTP, "unavailable"),
        "a server's own /metrics, which is proposed for Ollama: answers, tokens and where their time went, by model",
        "errors, embeddings and who waits for a slot; everything of a server without it, as all known releases are",
    ),
    "sockets": Kind(
        _sockets,
        _LOCAL,
        "who waits for an answer: requests without one, streamed answers, connections that the server does not take",
        "which model and which user a request is for; requests shorter than a second, between two looks",
    ),
    "runner": Kind(
        _runner,
        _RUNNER,
        "a server's runners: busy slots, context in use, tokens in the making, settings, memory, loads in progress;"
        " with LLAMA_ARG_ENDPOINT_METRICS=1 every token",
        "requests that wait in Ollama itself; what runs and ends between two looks, but for the runners' own counters",
    ),
    "logs": Kind(
        lambda watch, around: LogSource(watch, around.machine, around.now),
        ("timeout", "unavailable", "malformed", "bug"),
        "a server's own log: requests by status and duration, tokens (0.30 and newer), loads, what was cut or lost",
        "who asked; which model a request was for; which model tokens were of while several are loaded",
    ),
    "docker": Kind(
        lambda watch, around: DockerSource(watch, machine=around.machine),
        ("timeout", "unavailable", "malformed", "bug"),
        "the Docker container that a server runs in: state, health, CPU and memory beside their limits, OOM kills",
        "what the processes in a container do each for itself, and GPUs",
    ),
    "audit": Kind(
        _audit,
        ("timeout", "unavailable", "bug"),
        "a server's settings as its environment makes them: variables that do nothing, values that hurt, the policy",
        "what requests and models set for themselves, and why a variable was set",
    ),
    "host": Kind(lambda watch, _: HostSource(watch), _LOCAL),
    "gpu": Kind(
        lambda watch, around: GpuSource(watch, around.machine),
        _LOCAL,
        "the GPUs of the exporter's machine (NVIDIA by NVML, AMD by sysfs), and which models hold their memory",
        "GPUs of other machines, Intel's and Apple's; with AMD energy, throttling, errors and who holds the memory",
    ),
    "exporter": Kind(lambda _, around: OwnSource(around.vitals), _LOCAL),
}


def build(watch: Watch, around: Surroundings | None = None) -> Source:
    """The source that a watch names. Does no I/O on the target."""
    return SOURCES[watch.source].build(watch, around or Surroundings())
