"""Who is in the fleet beside those that are configured: servers that are found among a Docker Engine's containers.

Discovery only tells. The composition root puts what it found into the plan, and applying a plan is set arithmetic.
"""

from __future__ import annotations

import asyncio
import fnmatch
import logging
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from exporter.config import Config, Discover, Server, with_found
from exporter.dockerd import Container, Daemon, Here, Network, Row, Target, answers, shown_image
from exporter.model import Failed, Lacking, Reason
from exporter.sources.own import DiscoveryVitals, Vitals

log = logging.getLogger(__name__)

ENABLE, NAME, PORT = "ollama-exporter.enable", "ollama-exporter.name", "ollama-exporter.port"
_PROJECT, _SERVICE, _NUMBER = (f"com.docker.compose.{key}" for key in ("project", "service", "container-number"))
_NAME_MAX = 64
_WITHIN = 20.0
"""Seconds for one look."""


@dataclass(frozen=True, slots=True)
class Found:
    """A server in a container: the value of its label `server`, where it answers, and the container's name."""

    name: str
    url: str
    container: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What one look has found, those that run first, and the reasons for which containers were left out."""

    found: tuple[Found, ...] = ()
    left_out: tuple[str, ...] = ()


class Discovery:
    """Looks again and again, for as long as the configuration wants it; a look that fails leaves in place what was
    found before, and says so. `changed` is called after a look that found something else than the one before."""

    def __init__(self, changed: Callable[[], None], vitals: Vitals, now: Callable[[], float] = time.time) -> None:
        self._changed, self._vitals, self._now = changed, vitals, now
        self._config: Config | None = None
        self._finder: Finder | None = None
        self._answer = Answer()
        self._complaint = ""
        self._wake = asyncio.Event()

    def apply(self, config: Config) -> None:
        """From now on as this configuration wants it."""
        before = self._config and self._config.docker
        self._config = config
        if config.docker != before:
            self._replace(config)
        self._wake.set()

    def joined(self, config: Config) -> Config:
        """The configuration with those that were found, as far as it does not know them already."""
        found, left_out = admitted(config.servers, self._answer.found)
        if self._vitals.discovery is not None:
            self._vitals.discovery.servers = len(found)
            self._vitals.discovery.left_out = Counter((*self._answer.left_out, *left_out))
        return with_found(config, [(one.name, one.url, one.container) for one in found])

    async def run(self) -> None:
        """Run until cancelled."""
        try:
            while True:
                self._wake.clear()
                if self._config is None or self._finder is None:
                    await self._wake.wait()
                    continue
                await self._look(self._finder, self._config)
                try:
                    async with asyncio.timeout(self._config.docker.discover.every):
                        await self._wake.wait()
                except TimeoutError:
                    pass
        finally:
            if self._finder is not None:
                self._finder.close()

    def _replace(self, config: Config) -> None:
        if self._finder is not None:
            self._finder.close()
        if config.docker.discover.enabled:
            self._finder = Finder(config.docker.address or "", config.docker.discover)
            self._vitals.discovery = self._vitals.discovery or DiscoveryVitals()
        else:
            self._finder, self._answer, self._vitals.discovery = None, Answer(), None

    async def _look(self, finder: Finder, config: Config) -> None:
        try:
            async with asyncio.timeout(_WITHIN):
                answer = await asyncio.to_thread(finder.look, config.servers)
            self._succeeded(finder, answer)
        except Failed as failed:
            self._failed(finder, failed.reason, f"the Docker engine cannot be asked ({failed.reason})")
        except Lacking as lacking:
            self._failed(finder, "unavailable", f"{lacking.lack.what}; to enable it: {lacking.lack.remedy}")
        except TimeoutError:
            self._failed(finder, "timeout", "the Docker engine does not answer in time")
        except Exception:
            log.exception("bug in discovery")
            self._failed(finder, "bug", "a bug")

    def _failed(self, finder: Finder, reason: Reason, complaint: str) -> None:
        vitals = self._vitals.discovery
        if vitals is None or finder is not self._finder:  # meanwhile the configuration has changed
            return
        vitals.up = False
        vitals.failures.add(reason=reason)
        if complaint != self._complaint:  # once, not every look
            log.warning("discovery: %s", complaint)
        self._complaint = complaint

    def _succeeded(self, finder: Finder, answer: Answer) -> None:
        vitals = self._vitals.discovery
        if vitals is None or finder is not self._finder:
            return
        if self._complaint:
            log.info("discovery: the Docker engine answers again")
        self._complaint, vitals.up, vitals.succeeded_at = "", True, self._now()
        before, self._answer = self._answer, answer
        if answer == before:
            return
        for one in sorted(set(answer.found) - set(before.found), key=lambda one: one.name):
            log.info("discovery: %s at %s", one.name, one.url)
        for one in sorted(set(before.found) - set(answer.found), key=lambda one: one.name):
            log.info("discovery: %s at %s has gone", one.name, one.url)
        self._changed()


class Finder:
    """Looks through one engine. Blocking: belongs in a thread.

    A container that was seen running stays a member until it is removed: one that has crashed must not take its
    server, and the alert with it, out of the fleet.
    """

    def __init__(self, address: str, settings: Discover) -> None:
        self._daemon, self._settings = Daemon(address), settings
        self._looking = threading.Lock()
        self._members: dict[str, Found] = {}

    def look(self, configured: Sequence[Server]) -> Answer:
        """Raises `Lacking` or `Failed` when the engine cannot be asked, as `Daemon` does."""
        if not self._looking.acquire(blocking=False):  # the thread of a look that was given up
            raise Failed("timeout")
        try:
            return self._seen(configured)
        finally:
            self._looking.release()

    def close(self) -> None:
        self._daemon.close()

    def _seen(self, configured: Sequence[Server]) -> Answer:
        rows = self._daemon.rows()
        here = self._daemon.here(rows)
        targets = list(self._targets(configured, here))
        named = {server.container for server in configured if server.container}
        members: dict[str, Found] = {}
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
            url = place(container, here, self._settings.network or "", _machine(self._daemon.address))
            if not named.isdisjoint((row.name, row.id)) or any(answers(container, target) for target in targets):
                left_out.append("address_taken")
            elif url is None:
                left_out.append("unreachable")
            else:
                members[row.id] = Found(server_name(row), url, row.name)
        self._members = members
        return Answer(tuple(members.values()), tuple(left_out))

    def _targets(self, configured: Iterable[Server], here: Here) -> Iterator[Target]:
        for server in configured:
            try:
                yield self._daemon.target(server.url, here)
            except Lacking:  # a name that does not resolve here is no address of a container
                continue


def admitted(configured: Sequence[Server], found: Iterable[Found]) -> tuple[tuple[Found, ...], tuple[str, ...]]:
    """Those whose name and address no server has, a configured one first, and why the others were left out."""
    names, urls = {server.name for server in configured}, {server.url for server in configured}
    kept: list[Found] = []
    left_out: list[str] = []
    for one in found:
        if one.url in urls:
            left_out.append("address_taken")
        elif one.name in names:
            left_out.append("name_taken")
        else:
            kept.append(one)
            names.add(one.name)
            urls.add(one.url)
    return tuple(kept), tuple(left_out)


def wanted(row: Row, settings: Discover) -> bool:
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
    name = row.labels.get(NAME, "").strip() or composed or row.name or row.id[:12]
    return re.sub(r"[^A-Za-z0-9._:-]", "-", name)[:_NAME_MAX]


def place(container: Container, here: Here, network: str, machine: str) -> str | None:
    """The URL at which we reach a container; None where we cannot.

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
        return _url(host, port)
    for one in published:
        if here.shared or not one.host_ip:
            return _url(one.host_ip or host, one.host_port)
    return next((_url(one.address, port) for one in networks if one.address and here.shared), None)


def _beside(container: Container, own: Container, networks: Sequence[Network], port: int) -> str | None:
    """From within a container of the same engine."""
    if container.id == own.id or container.network_mode == f"container:{own.id}":
        return _url("localhost", port)
    ours = {one.name for one in own.networks}
    for one in networks:
        if one.name in ours and one.address:
            # Docker's DNS knows the names of containers, but not in its default network.
            return _url(one.address if one.name == "bridge" else container.name, port)
    gateway = next((one.gateway for one in own.networks if one.gateway), "")
    if not gateway:
        return None
    if container.network_mode == "host":
        return _url(gateway, port)
    published = (one for one in container.published if one.port == port and not one.host_ip)
    return next((_url(gateway, one.host_port) for one in published), None)


def _url(host: str, port: int) -> str:
    """In the configuration's canonical form, because URLs are compared."""
    return f"http://{f'[{host}]' if ':' in host else host.lower()}" + ("" if port == 80 else f":{port}")


def _machine(address: str) -> str:
    """The engine's, where it is asked over the network."""
    parts = urlsplit(address)
    return "" if parts.scheme == "unix" else parts.hostname or ""
