"""The fleet as a list for others, in the form of Prometheus' http_sd. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from exporter.config import Config
from exporter.discovery.targets import Answer


@dataclass(frozen=True, slots=True)
class Listed:
    """A server of the fleet. `discovery`: who found it; empty for one that is configured."""

    name: str
    url: str
    discovery: str


def listed(config: Config, fleet: Config, answers: Mapping[str, Answer]) -> Iterator[Listed]:
    """`fleet`: the configuration after what was found was joined to it."""
    owners: dict[tuple[str, str], str] = {}
    for discovery, answer in answers.items():
        for one in answer.found:
            owners.setdefault((one.name, one.url), discovery)
    own = len(config.servers)
    for place, server in enumerate(fleet.servers):
        yield Listed(server.name, server.url, owners.get((server.name, server.url), "") if place >= own else "")


def as_http_sd(servers: Iterable[Listed]) -> bytes:
    """One group for each server, because each has labels of its own. Credentials are not in URLs, and so not here."""
    groups = [{"targets": [server.name], "labels": _labels(server)} for server in servers]
    return json.dumps(groups, separators=(",", ":")).encode() + b"\n"


def _labels(server: Listed) -> dict[str, str]:
    labels = {"__meta_ollama_server": server.name, "__meta_ollama_url": server.url}
    return {**labels, "__meta_ollama_discovery": server.discovery} if server.discovery else labels
