"""The same server behind real sockets."""

import asyncio
import time

import httpx
import pytest

from exporter.simulator import EngineConfig, Fault, ServerConfig, SimModel, SimServer
from exporter.simulator.server import serve

FAST = SimModel(
    name="fast:latest",
    family="llama",
    parameter_size="1M",
    parameter_count=1_000_000,
    quantization="Q4_0",
    file_bytes=1_000_000,
    context_length=2048,
    embedding_length=64,
    block_count=2,
    load_seconds=0.02,
    decode_tokens_per_second=100.0,
)
GENERATE = {"model": "fast", "prompt": "Why is the sky blue?", "options": {"num_predict": 30}}

pytestmark = pytest.mark.real_time


def fast_server() -> SimServer:
    return SimServer(ServerConfig(models=(FAST,), engine=EngineConfig(unload_seconds=0.01), loopback=True))


async def test_tokens_arrive_one_by_one() -> None:
    server = fast_server()
    async with serve(server) as url, httpx.AsyncClient(base_url=url) as client:
        times: list[float] = []
        async with client.stream("POST", "/api/generate", json=GENERATE) as response:
            assert response.headers["content-type"] == "application/x-ndjson"
            assert response.headers["transfer-encoding"] == "chunked"
            assert "server" not in response.headers
            async for _ in response.aiter_lines():
                times.append(time.monotonic())
        assert len(times) == 31
        assert times[-1] - times[0] > 0.2
    await server.aclose()


async def test_a_client_that_hangs_up_frees_the_slot() -> None:
    server = fast_server()
    async with serve(server) as url, httpx.AsyncClient(base_url=url) as client:
        body = {**GENERATE, "options": {"num_predict": 0}}
        async with client.stream("POST", "/api/generate", json=body) as response:
            async for _ in response.aiter_lines():
                break
        async with asyncio.timeout(5):
            (await client.post("/api/generate", json={**GENERATE, "stream": False})).raise_for_status()
        assert len(server.log.of("disconnect")) == 1
    await server.aclose()


async def test_a_dead_server_refuses_and_returns_on_the_same_port() -> None:
    server = fast_server()
    async with serve(server) as url, httpx.AsyncClient(base_url=url) as client:
        assert (await client.get("/api/version")).status_code == 200
        async with client.stream("POST", "/api/generate", json=GENERATE) as response:
            lines = response.aiter_lines()
            await anext(lines)
            server.inject(Fault("dead"))
            with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
                async for _ in lines:
                    pass
        for _ in range(3):
            with pytest.raises(httpx.ConnectError):
                await client.get("/api/version")
        server.heal("dead")
        async with asyncio.timeout(5):
            await _until_it_answers(client)
        assert (await client.get("/api/ps")).json() == {"models": []}
    await server.aclose()


async def _until_it_answers(client: httpx.AsyncClient) -> None:
    while True:
        try:
            await client.get("/api/version")
        except httpx.ConnectError:
            await asyncio.sleep(0.02)
        else:
            return


async def test_a_dropped_answer_is_a_protocol_error() -> None:
    server = fast_server()
    server.inject(Fault("drop"))
    async with serve(server) as url, httpx.AsyncClient(base_url=url) as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get("/api/version")
    await server.aclose()


async def test_the_port_is_closed_when_serving_ends() -> None:
    server = fast_server()
    async with serve(server) as url:
        pass
    async with httpx.AsyncClient() as client:
        with pytest.raises(httpx.ConnectError):
            await client.get(url)
    await server.aclose()
