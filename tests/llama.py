"""A real llama-server with a real small model, started with the flags that Ollama gives its runners.

The program and the model are the fixture `llama` of conftest.py.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import psutil

from exporter.llama import Client, SocketWire, Unreachable
from exporter.local import RunnerProcess
from tests.wire import free_port

MODEL = "smollm2:135m"
SLOTS, CONTEXT = 2, 2048


@asynccontextmanager
async def running(llama: tuple[Path, Path]) -> AsyncIterator[tuple[RunnerProcess, Client]]:
    """A runner that has loaded its model, for as long as the block lasts."""
    program, blob = llama
    port = free_port()
    flags = (
        f"--model {blob} --port {port} --host 127.0.0.1 --no-webui --offline -c {SLOTS * CONTEXT} -np {SLOTS}"
        " --log-verbosity 4 --no-log-prefix --no-log-timestamps --flash-attn auto -b 1024 -ub 1024 --context-shift"
        " --keep 4"
    ).split()
    quiet = asyncio.subprocess.DEVNULL
    around = {**os.environ, "LLAMA_ARG_ENDPOINT_METRICS": "1", "LLAMA_ARG_THREADS": "1"}
    server = await asyncio.create_subprocess_exec(program, *flags, stdout=quiet, stderr=quiet, env=around)
    client = Client(SocketWire(partial(socket.create_connection, ("127.0.0.1", port), 5.0)), 10.0)
    try:
        async with asyncio.timeout(120):
            await _loaded(client)
            yield (
                RunnerProcess(port, server.pid, (str(program), *flags), psutil.Process(server.pid).create_time()),
                client,
            )
    finally:
        await client.close()
        if server.returncode is None:  # a test may have ended it
            server.kill()
        await server.wait()


async def _loaded(client: Client) -> None:
    while True:
        try:
            if not (await client.health()).loading:
                return
        except Unreachable:
            pass
        await asyncio.sleep(0.1)
