"""Servers among a Docker Engine's containers: who is one, under what name, where we reach it."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from urllib.parse import urlsplit

from exporter.config import Server
from exporter.config.places import DockerSd
from exporter.discovery.targets import ADDRESS, NAME, Seen, Target, Trouble, fitting, joined
from exporter.discovery.threads import Thread
from exporter.dockerd import Container, Daemon, Here, Network, Row, answers, shown_image
from exporter.dockerd import Target as Place
from exporter.model import Failed, Lacking

ENABLE, SAID_NAME, PORT = "ollama-exporter.enable", "ollama-exporter.name", "ollama-exporter.port"
_PROJECT, _SERVICE, _NUMBER = (f"com.docker.compose.{key}" for key in ("project", "service", "container-number"))


class DockerFinder:
    """Looks through one engine.

    A container that was seen running stays a member until it is removed: one that has crashed must not take its
    server, and the alert with it, out of the fleet.
    """

    def __init__(self, address: str, settings: DockerSd) -> None:
        self._daemon, self._settings = Daemon(address), settings
        self._thread = Thread()
        self._members: dict[str, Target] = {}

    async def look(self, configured: Sequence[Server]) -> Seen:
        try:
            return await self._thread.run(partial(self._look, configured))
        except Failed as failed:
            raise Trouble(failed.reason, f"the Docker engine cannot be asked ({failed.reason})") from None
        except Lacking as lacking:
            what = f"{lacking.lack.what}; to enable it: {lacking.lack.remedy}"
            raise Trouble("unavailable", what) from None

    async def aclose(self) -> None:
        self._daemon.close()

    def _look(self, configured: Sequence[Server]) -> Seen:
        rows = self._daemon.rows()
        here = self._daemon.here(rows)
        places = list(self._places(configured, here))
        named = {server.container for server in configured if server.container}
        members: dict[str, Target] = {}
        left_out: list[str] = []
        for row in sorted(rows, key=lambda row: (not row.runs, row.name)):
            if not wanted(row, self._settings):
                continue
            if not row.runs:
                if row.id in self._members:
                    members[row.id] = self._members[row.id]
                continue
            container = self._daemon.nearer(row)
            if container is None:
                continue
            address = place(container, here, self._settings.network or "", _machine(self._daemon.address))
            if not named.isdisjoint((row.name, row.id)) or any(answers(container, one) for one in places):
                left_out.append("address_taken")
            elif address is None:
                left_out.append("unreachable")
            else:
                members[row.id] = Target({**_labels(row), ADDRESS: address, NAME: server_name(row)}, row.name)
        self._members = members
        return Seen(tuple(members.values()), tuple(left_out))

    def _places(self, configured: Iterable[Server], here: Here) -> Iterator[Place]:
        for server in configured:
            try:
                yield self._daemon.target(server.url, here)
            except Lacking:  # a name that does not resolve here is no address of a container
                continue


def _labels(row: Row) -> dict[str, str]:
    """Prometheus' names for what Docker tells of a container."""
    own = {f"__meta_docker_container_label_{re.sub(r'[^a-zA-Z0-9_]', '_', key)}": row.labels[key] for key in row.labels}
    return {
        **own,
        "__meta_docker_container_id": row.id,
        "__meta_docker_container_name": f"/{row.name}",
        "__meta_docker_container_network_mode": row.network_mode,
    }


def wanted(row: Row, settings: DockerSd) -> bool:
    """Whether the operator's filters take this container for a server."""
    if settings.network and settings.network not in [network.name for network in row.networks]:
        return False
    label = row.labels.get(ENABLE, "").strip().lower()
    if label in ("true", "false"):
        return label == "true"
    images = (row.image, shown_image(row.image))
    return any(fnmatch.fnmatchcase(image, pattern) for image in images for pattern in settings.images)


def server_name(row: Row) -> str:
    """What its label says, else Compose's project and service, else the container's name. Does not depend on who else
    is there, so that a newcomer changes nobody's series."""
    number = row.labels.get(_NUMBER, "1")
    parts = [row.labels.get(_PROJECT, ""), row.labels.get(_SERVICE, ""), "" if number == "1" else number]
    composed = "-".join(part for part in parts if part) if parts[1] else ""
    return fitting(row.labels.get(SAID_NAME, "").strip() or composed or row.name or row.id[:12])


def place(container: Container, here: Here, network: str, machine: str) -> str | None:
    """Host and port at which we reach a container; None where we cannot.

    What survives a restart comes first (a name, a published port), because another URL is another server to its
    counters. `network`: the only one to use; `machine`: the engine's, where it is not ours.
    """
    label = container.labels.get(PORT, "")
    port = int(label) if re.fullmatch(r"[1-9][0-9]{0,4}", label) and int(label) <= 65535 else container.port
    networks = [one for one in container.networks if not network or one.name == network]
    if here.container is not None:
        return _beside(container, here.container, networks, port)
    published = [] if network else [one for one in container.published if one.port == port]
    host = "127.0.0.1" if here.shared else machine
    if not host:
        return None
    if container.network_mode == "host":
        return joined(host, port)
    for one in published:
        if here.shared or not one.host_ip:
            return joined(one.host_ip or host, one.host_port)
    return next((joined(one.address, port) for one in networks if one.address and here.shared), None)


def _beside(container: Container, own: Container, networks: Sequence[Network], port: int) -> str | None:
    """From within a container of the same engine."""
    if container.id == own.id or container.network_mode == f"container:{own.id}":
        return joined("localhost", port)
    ours = {one.name for one in own.networks}
    for one in networks:
        if one.name in ours and one.address:
            # Docker's DNS knows the names of containers, but not in its default network.
            return joined(one.address if one.name == "bridge" else container.name, port)
    gateway = next((one.gateway for one in own.networks if one.gateway), "")
    if not gateway:
        return None
    if container.network_mode == "host":
        return joined(gateway, port)
    published = (one for one in container.published if one.port == port and not one.host_ip)
    return next((joined(gateway, one.host_port) for one in published), None)


def _machine(address: str) -> str:
    """The engine's, where it is asked over the network."""
    parts = urlsplit(address)
    return "" if parts.scheme == "unix" else parts.hostname or ""
