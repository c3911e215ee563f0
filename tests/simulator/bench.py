"""A simulated server and a client beside it, with the few gestures that the tests repeat."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime
from typing import Any

import httpx

from exporter.simulator import (
    GEMMA3_270M,
    NOMIC_EMBED,
    SMOLLM2,
    EngineConfig,
    ServerConfig,
    SimModel,
    SimServer,
    SimTransport,
    virtual_wall_clock,
)

SMOLEMBED = replace(SMOLLM2, name="smolembed:latest", capabilities=("embedding",), digest="", blob="")
MODELS = (SMOLLM2, GEMMA3_270M, SMOLEMBED, NOMIC_EMBED)
PROMPT = "Why is the sky blue?"


class Bench:
    """`lines`: what the server has written into its log."""

    def __init__(self, server: SimServer, client: httpx.AsyncClient, lines: list[str]) -> None:
        self.server = server
        self.client = client
        self.lines = lines

    async def get(self, path: str, **kwargs: Any) -> httpx.Response:
        return await self.client.get(path, **kwargs)

    async def post(self, path: str, **body: Any) -> httpx.Response:
        return await self.client.post(path, json=body)

    async def generate(self, model: str = "smollm2", **body: Any) -> httpx.Response:
        return await self.post("/api/generate", **{"model": model, "prompt": PROMPT, "stream": False, **body})

    async def one_token(self, model: str = "smollm2", **body: Any) -> httpx.Response:
        options = {"num_predict": 1, **body.pop("options", {})}
        return await self.generate(model, options=options, **body)

    async def ps(self) -> list[dict[str, Any]]:
        models: list[dict[str, Any]] = (await self.get("/api/ps")).json()["models"]
        return models

    async def loaded(self) -> list[str]:
        return [row["name"] for row in await self.ps()]

    async def expiry(self) -> float:
        """Of the only loaded model, unix seconds."""
        (row,) = await self.ps()
        return datetime.fromisoformat(row["expires_at"]).timestamp()

    def happened(self, *kinds: Any, **filters: Any) -> int:
        return len(self.server.log.of(*kinds, **filters))


@asynccontextmanager
async def bench(
    models: tuple[SimModel, ...] = MODELS, engine: EngineConfig | None = None, **config: Any
) -> AsyncIterator[Bench]:
    settings = ServerConfig(name="ollama", engine=engine or EngineConfig(), models=models, **config)
    lines: list[str] = []
    server = SimServer(settings, virtual_wall_clock, lines.append)
    transport = SimTransport({"ollama": server, "127.0.0.1": server})
    async with httpx.AsyncClient(
        transport=transport, base_url="http://ollama:11434", timeout=86_400.0, headers={"User-Agent": "test"}
    ) as client:
        try:
            yield Bench(server, client, lines)
        finally:
            await server.aclose()


def now() -> float:
    return asyncio.get_running_loop().time()
