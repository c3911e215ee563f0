"""The values of discovery: what a place tells, what comes of it after the rules, who is let into the fleet. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from exporter.config import Server
from exporter.config.addresses import host_and_port, parse_url
from exporter.config.kinds import Wrong
from exporter.config.members import SERVER_NAME
from exporter.model import Reason
from exporter.relabel import Rule, relabelled

ADDRESS, SCHEME, PATH, NAME = "__address__", "__scheme__", "__path__", "server"
"""The labels that a server is made of; PATH is empty unless something is put before Ollama's own paths."""
TARGETS_MAX = 100_000
"""Targets of one answer at most, before the rules."""


class Trouble(Exception):
    """Why a place could not be asked, or not wholly: the reason, and words for people. Never holds a secret."""

    def __init__(self, reason: Reason, what: str) -> None:
        super().__init__(what)
        self.reason: Reason = reason
        self.what = what


@dataclass(frozen=True, slots=True)
class Target:
    """What a place tells of one server. `container`: its name, where it is known to run in one."""

    labels: Mapping[str, str]
    container: str = ""


@dataclass(frozen=True, slots=True)
class Seen:
    """What one look has seen. `left_out`: reasons for which some are no targets. `troubles`: what could not be looked
    at, and whose targets of before are among these."""

    targets: tuple[Target, ...] = ()
    left_out: tuple[str, ...] = ()
    troubles: tuple[Trouble, ...] = ()


class Finder(Protocol):
    """One place to look for servers."""

    async def look(self, configured: Sequence[Server]) -> Seen:
        """Look once. Raises `Trouble` when nothing could be seen."""

    async def aclose(self) -> None:
        """Let go of connections. Called once, after the last look."""


@dataclass(frozen=True, slots=True)
class Found:
    """A server: the value of its label `server`, where it answers, and its container's name."""

    name: str
    url: str
    container: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What has come of one look. `dropped`: targets that a rule has dropped."""

    found: tuple[Found, ...] = ()
    left_out: tuple[str, ...] = ()
    dropped: int = 0


def answered(seen: Seen, rules: Sequence[Rule]) -> Answer:
    """The targets after the rules, as servers. One that is told twice is one."""
    found: dict[Found, None] = {}
    left_out, dropped = list(seen.left_out), 0
    for target in seen.targets:
        labels = relabelled({SCHEME: "http", **target.labels}, rules)
        if labels is None:
            dropped += 1
        elif (server := _server(labels, target.container)) is None:
            left_out.append("invalid")
        else:
            found[server] = None
    return Answer(tuple(found), tuple(left_out), dropped)


def _server(labels: Mapping[str, str], container: str) -> Found | None:
    """None where the labels make no URL or no name."""
    path = labels.get(PATH, "")
    try:
        url = parse_url(
            f"{labels.get(SCHEME, '')}://{labels.get(ADDRESS, '')}{path if path[:1] in ('', '/') else f'/{path}'}"
        )
    except Wrong:
        return None
    name = labels.get(NAME) or host_and_port(url)
    return Found(name, url, container) if SERVER_NAME.fullmatch(name) else None


def admitted(
    configured: Sequence[Server], answers: Mapping[str, Answer], most: int
) -> dict[str, tuple[tuple[Found, ...], tuple[str, ...]]]:
    """Of each discovery those whose name and address no server has, and why others were left out. Configured servers
    come first, then discoveries in their order; `most`: servers in the fleet."""
    names, urls = {server.name for server in configured}, {server.url for server in configured}
    result: dict[str, tuple[tuple[Found, ...], tuple[str, ...]]] = {}
    for discovery, answer in answers.items():
        kept: list[Found] = []
        left_out = list(answer.left_out)
        for one in answer.found:
            reason = _objection(one, names, urls, most)
            if reason:
                left_out.append(reason)
                continue
            kept.append(one)
            names.add(one.name)
            urls.add(one.url)
        result[discovery] = (tuple(kept), tuple(left_out))
    return result


def _objection(one: Found, names: set[str], urls: set[str], most: int) -> str:
    if one.url in urls:
        return "address_taken"
    if one.name in names:
        return "name_taken"
    return "limit" if len(names) >= most else ""


def fitting(name: str) -> str:
    """The name as a value of the label `server`."""
    return re.sub(r"[^A-Za-z0-9._:-]", "-", name)[:64]


def joined(host: str, port: int | str) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
