"""What the servers are, before and after they are asked: versions, models, contexts. Reads only."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from exporter.model import Endpoint, canonical
from exporter.ollama import Client, InstalledModel, LoadedModel, OllamaError, version_number


@dataclass(frozen=True, slots=True)
class Seen:
    """`failure`: why /api/version did not answer. `installed` is None where /api/tags did not tell."""

    server: str
    url: str
    version: str = ""
    failure: str = ""
    installed: tuple[InstalledModel, ...] | None = None
    loaded: tuple[LoadedModel, ...] = ()

    @property
    def counts_whole_prompt(self) -> bool:
        """Whether prompt_eval_count holds cached tokens: from 0.3.14 on, but for 0.30.0."""
        number = version_number(self.version)
        return number is None or (number >= (0, 3, 14) and number != (0, 30, 0))

    def contexts(self) -> dict[str, int]:
        return {model.name: model.context for model in self.loaded if model.context}


async def look(servers: Iterable[tuple[str, Endpoint]]) -> tuple[Seen, ...]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_look(name, endpoint)) for name, endpoint in servers]
    return tuple(task.result() for task in tasks)


async def _look(name: str, endpoint: Endpoint) -> Seen:
    client = Client(endpoint)
    try:
        try:
            version = (await client.version()).value
        except OllamaError as error:
            return Seen(name, endpoint.url, failure=error.reason)
        installed: tuple[InstalledModel, ...] | None = None
        loaded: tuple[LoadedModel, ...] = ()
        try:
            installed = (await client.tags()).value.models
            loaded = (await client.ps()).value.models
        except OllamaError:
            pass  # a gateway may let through no more than what it was made for
        return Seen(name, endpoint.url, version, "", installed, loaded)
    finally:
        await client.aclose()


def refused(seen: Sequence[Seen], models: Sequence[str]) -> Iterator[str]:
    """What makes it senseless, or costly, to begin."""
    for server in seen:
        if server.installed is None:
            continue
        rows = {row.name: row for row in server.installed}
        for model in map(canonical, models):
            if model not in rows:
                there = ", ".join(sorted(rows)) or "none"
                yield f"{server.server} has no model {model}; it has {there}. Nothing is pulled: --model names another"
            elif rows[model].remote:
                yield f"{server.server} would send {model} on to another server, which somebody may pay for"


def notes(seen: Sequence[Seen]) -> Iterator[str]:
    for server in seen:
        if server.failure:
            yield f"{server.server} did not answer before the run ({server.failure}); it is asked all the same"


async def model_info(endpoint: Endpoint, model: str) -> dict[str, object]:
    """The shape of a model by /api/show; empty where the server does not tell."""
    client = Client(endpoint)
    try:
        return (await client.post("/api/show", {"model": model}, 10.0, _parse_info)).value
    except OllamaError:
        return {}
    finally:
        await client.aclose()


def _parse_info(body: bytes) -> dict[str, object]:
    try:
        info = json.loads(body).get("model_info")
    except (ValueError, AttributeError):
        return {}
    return info if isinstance(info, dict) else {}
