"""Config -> what is to be watched. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from exporter.config.sections import Config, Server
from exporter.model import ApiSettings, CanarySettings, Endpoint, HostSettings, Watch

HOST_EVERY, HOST_WITHIN = 15.0, 10.0
EXPORTER_EVERY, EXPORTER_WITHIN = 5.0, 5.0
_API_CALLS, _CANARY_CALLS, _MARGIN = 3, 5, 1.0
"""Requests that one collect makes at most, one after the other, each with its own timeout; the canary's generation is
none of them, it runs beside."""


def plan(config: Config) -> tuple[Watch, ...]:
    """What is to be watched. The same server gives the same watches, whatever becomes of the others."""
    watches = [watch for server in config.servers for watch in _watches(server, config.limits.models)]
    if config.host.enabled:
        host = HostSettings(name=config.host.name, models_dir=config.host.models_dir)
        watches.append(Watch("", "host", HOST_EVERY, HOST_WITHIN, host))
    return (*watches, Watch("", "exporter", EXPORTER_EVERY, EXPORTER_WITHIN))


def _watches(server: Server, models_max: int) -> Iterator[Watch]:
    at, canary = _endpoint(server), server.canary
    api = ApiSettings(at, inventory_every=server.inventory_interval, models_max=models_max)
    yield Watch(server.name, "api", server.poll_interval, _API_CALLS * server.timeout + _MARGIN, api)
    if all(mode == "off" for mode in (canary.mode, *dict(canary.models).values())):
        return
    settings = CanarySettings(at, canary.every, canary.timeout, canary.mode, canary.models, models_max)
    every = min(server.poll_interval, canary.every)
    yield Watch(server.name, "canary", every, _CANARY_CALLS * server.timeout + _MARGIN, settings)


def _endpoint(server: Server) -> Endpoint:
    basic = server.basic_auth
    return Endpoint(
        url=server.url,
        timeout=server.timeout,
        connect_timeout=server.connect_timeout,
        host=server.host_header or "",
        headers=server.headers,
        bearer=server.bearer_token_file.secret if server.bearer_token_file else None,
        basic=(basic.username, basic.password_file.secret) if basic else None,
        ca=server.tls.ca_file,
        certificate=server.tls.cert_file,
        key=server.tls.key_file,
        insecure=server.tls.insecure_skip_verify,
        proxy=server.proxy_url,
    )
