"""A real llama-server with a real small model, under Ollama's own flags: the client and the source `runner` on it.

Ollama itself is not there: what it would tell of its children (`Local`) is told by the test.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from exporter import catalog
from exporter.fleet import Observer
from exporter.llama import Client, SocketWire, Unreachable
from exporter.local import Connections, Local, Place, RunnerProcess, Usage
from exporter.local.machine import Machine
from exporter.model import RunnerSettings, Watch
from exporter.sources import SOURCES, Surroundings, build
from tests.scene import Seen
from tests.wire import free_port

pytestmark = pytest.mark.timeout(180)

ROOT = Path(__file__).resolve().parents[1]
MODEL = "smollm2:135m"
SLOTS, CONTEXT, TOKENS, USERS = 2, 2048, 48, 3


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The program, and its model under a name that Ollama would give it."""
    found = ROOT / ".cache" / "llama"
    if os.environ.get("CI") == "true":
        done = subprocess.run([ROOT / "scripts" / "llama"], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            pytest.fail(f"no real llama-server: {done.stderr}")
    if not (found / "llama-server").exists():
        pytest.skip("NO REAL LLAMA-SERVER: run scripts/llama (160 MB). Runners were tried on the simulator alone.")
    blob = tmp_path_factory.mktemp("blobs") / f"sha256-{'5a' * 32}"
    blob.symlink_to(found / "model.gguf")
    return found / "llama-server", blob


class Here(Local):
    """This machine, and on it a server with one child."""

    def __init__(self, process: RunnerProcess, blob: Path) -> None:
        self._process, self._blob = process, blob

    def place(self, url: str) -> Place:
        return Place((("127.0.0.1", 11434),), pid=os.getpid(), started=time.time() - 60)

    def runners(self, place: Place) -> tuple[RunnerProcess, ...]:
        return (self._process,)

    def usage(self, process: RunnerProcess) -> Usage | None:
        return Machine().usage(process)

    def environment(self, place: Place) -> Mapping[str, str]:
        return {}

    def names(self, place: Place, blob: str) -> tuple[str, ...]:
        return (MODEL,) if blob == self._blob.name else ()

    def connections(self, place: Place) -> Connections:
        raise AssertionError("the runner source looks at no connections")

    def connect(self, place: Place, port: int, timeout: float) -> socket.socket:
        return socket.create_connection(("127.0.0.1", port), timeout)


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


async def complete(port: int, prompt: str) -> dict[str, Any]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = json.dumps({"prompt": prompt, "n_predict": TOKENS, "ignore_eos": True}).encode()
    head = b"POST /completion HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
    writer.write(head + body)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return json.loads(answer[answer.index(b"\r\n\r\n") + 4 :])  # type: ignore[no-any-return]


def test_the_client_on_a_real_runner(llama: tuple[Path, Path]) -> None:
    async def main() -> None:
        async with running(llama) as (process, client):
            props = await client.props()
            assert (props.slots, props.has_slots, props.has_metrics) == (SLOTS, True, True)
            idle = await client.slots()
            assert [(slot.busy, slot.context) for slot in idle.rows] == [(False, CONTEXT)] * SLOTS
            before = await client.metrics()
            answering = asyncio.create_task(complete(process.port or 0, "The river"))
            seen = 0
            while not answering.done():
                slots = await client.slots()
                seen = max(seen, sum(slot.decoded or 0 for slot in slots.rows if slot.busy))
            after = await client.metrics()
            assert 0 < seen <= TOKENS
            assert (after.generated or 0) - (before.generated or 0) == TOKENS
            assert after.process == before.process

    asyncio.run(main())


def test_the_source_on_a_real_runner_under_load(llama: tuple[Path, Path]) -> None:
    """Three users on two slots: both are busy, context fills, every token is counted once, and then all is idle."""

    async def main() -> None:
        async with running(llama) as (process, _):
            watch = Watch("a", "runner", 1.0, 20.0, RunnerSettings("http://127.0.0.1:11434"))
            source = build(watch, Surroundings(machine=Here(process, llama[1])))
            observer = Observer(watch, source, SOURCES["runner"].reasons, time.time)
            try:
                idle = Seen(await observer.observe())
                users = asyncio.gather(*(complete(process.port or 0, f"Story {n}:") for n in range(USERS)))
                under_load = []
                while not users.done():
                    under_load.append(Seen(await observer.observe()))
                answers = await users
                after = Seen(await observer.observe())
            finally:
                await source.aclose()
        assert idle.failure is None
        assert idle(catalog.RUNNER_SLOTS, model=MODEL) == SLOTS
        assert idle(catalog.RUNNER_SLOT_CONTEXT, model=MODEL) == CONTEXT
        assert idle(catalog.RUNNER_SLOTS_BUSY, model=MODEL) == 0.0
        assert idle.total(catalog.RUNNER_RESIDENT, model=MODEL) > 100e6
        info = next(s for s in idle.reading.samples if s.family is catalog.RUNNER_INFO)
        told = dict(zip(info.family.labels, info.labels, strict=True))
        assert (told["slots"], told["context"], told["batch"]) == (str(SLOTS), str(SLOTS * CONTEXT), "1024")
        assert all(seen.failure is None for seen in under_load)
        assert max(seen.total(catalog.RUNNER_SLOTS_BUSY, model=MODEL) for seen in under_load) == SLOTS
        assert max(seen.total(catalog.RUNNER_LONGEST, model=MODEL) for seen in under_load) > TOKENS / 2
        generated = sum(answer["timings"]["predicted_n"] for answer in answers)
        assert generated == USERS * TOKENS
        assert (
            after.total(catalog.RUNNER_TOKENS, model=MODEL) - idle.total(catalog.RUNNER_TOKENS, model=MODEL)
            == generated
        )
        # /slots is told before the last token of an answer is counted.
        seen_live = after.total(catalog.RUNNER_TOKENS_SEEN, model=MODEL)
        assert generated * 0.9 <= seen_live <= generated
        assert after(catalog.RUNNER_SLOTS_BUSY, model=MODEL) == 0.0

    asyncio.run(main())
