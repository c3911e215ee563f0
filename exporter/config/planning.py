"""Config -> what is to be watched. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import replace
from typing import Any, Protocol

from exporter.config.access import endpoint
from exporter.config.addresses import host_and_port
from exporter.config.members import Server, ServerCanary, ServerLogs
from exporter.config.probes import Module
from exporter.config.sections import Config, Limits
from exporter.config.targets import Target
from exporter.model import (
    ApiSettings,
    AuditSettings,
    CanarySettings,
    DockerSettings,
    Endpoint,
    GpuSettings,
    HostSettings,
    LogSettings,
    Mode,
    NativeSettings,
    Policy,
    RunnerSettings,
    SocketsSettings,
    Watch,
)

HOST_EVERY, HOST_WITHIN = 15.0, 10.0
EXPORTER_EVERY, EXPORTER_WITHIN = 5.0, 5.0
INSIDE_WITHIN = 10.0
AUDIT_EVERY = 60.0
_API_CALLS, _CANARY_CALLS, _NATIVE_CALLS, _MARGIN = 3, 5, 2, 1.0
"""Requests that one collect makes at most, one after the other, each with its own timeout; the canary's generation is
none of them, it runs beside."""
_ANSWER_SHARE, _LOOK_SHARE = 0.85, 0.95
"""Of the time of a probe: for one answer, and for all of them."""


def plan(config: Config) -> tuple[Watch, ...]:
    """What is to be watched. The same server gives the same watches, whatever becomes of the others."""
    watches = [
        watch
        for server in config.servers
        for watch in (*_over_http(server, config.limits), *_native(server, config), *_from_inside(server, config))
    ]
    return (*watches, *_of_this_machine(config), Watch("", "exporter", EXPORTER_EVERY, EXPORTER_WITHIN))


def plan_probe(config: Config, server: Server, native: Mode, within: float) -> tuple[Watch, ...]:
    """What one probe of this server watches: a fleet of one, seen over HTTP alone, within that many seconds. One answer
    is waited for no longer than leaves time to tell of it. The canary keeps its own times: it outlasts the probe."""
    answer = min(server.timeout, _ANSWER_SHARE * within)
    hasty = replace(server, timeout=answer, connect_timeout=min(server.connect_timeout, answer))
    seen = [watch for watch in plan(_alone(config, hasty, native)) if watch.source in ("api", "native")]
    canary = [watch for watch in plan(_alone(config, server, native)) if watch.source == "canary"]
    return (*(replace(watch, within=min(_LOOK_SHARE * within, watch.within)) for watch in seen), *canary)


def _alone(config: Config, server: Server, native: Mode) -> Config:
    inside = ("sockets", "runner", "logs", "docker", "audit", "gpu")
    off: dict[str, Any] = {name: replace(getattr(config, name), mode="off") for name in inside}
    return replace(
        config,
        servers=(server,),
        host=replace(config.host, enabled=False),
        native=replace(config.native, mode=native),
        **off,
    )


def probed(target: Target, module: Module) -> Server:
    """A target of /probe as a member of the fleet."""
    canary = module.canary
    return Server(
        name=host_and_port(target.url),
        url=target.url,
        timeout=module.request_timeout,
        connect_timeout=module.connect_timeout,
        host_header=module.host_header,
        headers=module.headers,
        bearer_token_file=module.bearer_token_file,
        basic_auth=module.basic_auth,
        tls=module.tls,
        proxy_url=None,
        poll_interval=canary.every,
        inventory_interval=module.inventory_interval,
        canary=ServerCanary(mode=canary.mode, every=canary.every, timeout=canary.timeout, models=canary.models),
        container="",
        logs=ServerLogs(file="", unit="", container=""),
    )


def without_canary(server: Server) -> Server:
    return replace(server, canary=replace(server.canary, mode="off", models=()))


def _of_this_machine(config: Config) -> Iterator[Watch]:
    if config.host.enabled:
        host = HostSettings(name=config.host.name, models_dir=config.host.models_dir)
        yield Watch("", "host", HOST_EVERY, HOST_WITHIN, host)
    servers = tuple((server.name, server.url) for server in config.servers)
    yield from _optional("", "gpu", config.gpu, GpuSettings(config.host.name, servers, config.limits.models))


def _native(server: Server, config: Config) -> Iterator[Watch]:
    if config.native.mode == "off":
        return
    settings = NativeSettings(endpoint_of(server), config.limits.models)
    within = _NATIVE_CALLS * server.timeout + _MARGIN
    yield Watch(server.name, "native", config.native.every, within, settings, config.native.mode == "auto")


def _from_inside(server: Server, config: Config) -> Iterator[Watch]:
    """What can be seen of a server from the machine that it runs on."""
    yield from _optional(server.name, "sockets", config.sockets, SocketsSettings(server.url))
    yield from _optional(server.name, "runner", config.runner, RunnerSettings(server.url, config.limits.models))
    docker = DockerSettings(server.url, server.container or "", config.docker.address or "")
    yield from _optional(server.name, "docker", config.docker, docker)
    yield from _optional(server.name, "logs", config.logs, _logs(server, config))
    yield from _audit(server, config)


def _logs(server: Server, config: Config) -> LogSettings:
    """A server that is known to run in a container logs there, unless told otherwise."""
    logs = server.logs
    container = logs.container or ("" if logs.file or logs.unit else server.container)
    docker = config.docker.address or ""
    return LogSettings(
        server.url,
        logs.file or "",
        logs.unit or "",
        container or "",
        docker,
        config.limits.models,
        config.limits.histogram_models,
    )


def _audit(server: Server, config: Config) -> Iterator[Watch]:
    if config.audit.mode == "off":
        return
    log = None if config.logs.mode == "off" else _logs(server, config)
    settings = AuditSettings(
        endpoint_of(server),
        server.container or "",
        None if config.docker.mode == "off" else config.docker.address or "",
        log if log and (log.file or log.unit or log.container) else None,
        config.audit.policy_file.policy if config.audit.policy_file else Policy(),
    )
    within = _API_CALLS * server.timeout + INSIDE_WITHIN
    yield Watch(server.name, "audit", AUDIT_EVERY, within, settings, optional=config.audit.mode == "auto")


def _optional(server: str, source: str, section: _Optional, settings: Hashable) -> Iterator[Watch]:
    if section.mode != "off":
        yield Watch(server, source, section.every, INSIDE_WITHIN, settings, optional=section.mode == "auto")


class _Optional(Protocol):
    @property
    def mode(self) -> Mode: ...

    @property
    def every(self) -> float: ...


def _over_http(server: Server, limits: Limits) -> Iterator[Watch]:
    at, canary = endpoint_of(server), server.canary
    api = ApiSettings(at, server.inventory_interval, limits.models, limits.inventory)
    yield Watch(server.name, "api", server.poll_interval, _API_CALLS * server.timeout + _MARGIN, api)
    if all(mode == "off" for mode in (canary.mode, *dict(canary.models).values())):
        return
    settings = CanarySettings(
        at, canary.every, canary.timeout, canary.mode, canary.models, limits.models, limits.histogram_models
    )
    every = min(server.poll_interval, canary.every)
    yield Watch(server.name, "canary", every, _CANARY_CALLS * server.timeout + _MARGIN, settings)


def endpoint_of(server: Server) -> Endpoint:
    return replace(endpoint(server), connect_timeout=server.connect_timeout, host=server.host_header or "")
