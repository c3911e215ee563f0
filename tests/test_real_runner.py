"""A real llama-server with a real small model, under Ollama's own flags: the client and the source `runner` on it.

Ollama itself is not there: what it would tell of its children (`Local`) is told by the test.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from exporter import catalog
from exporter.fleet import Observer
from exporter.local import Connections, Handle, Local, Place, RunnerProcess, Usage
from exporter.local.machine import Machine
from exporter.model import RunnerSettings, Watch
from exporter.sources import SOURCES, Surroundings, build
from tests.llama import CONTEXT, MODEL, SLOTS, running
from tests.scene import Seen

pytestmark = pytest.mark.timeout(180)

TOKENS, USERS = 48, 3


class Here(Local):
    """This machine, and on it a server with one child."""

    def __init__(self, process: RunnerProcess, blob: Path) -> None:
        self._process, self._blob = process, blob

    def place(self, url: str) -> Place:
        return Place((("127.0.0.1", 11434),), pid=os.getpid(), started=time.time() - 60)

    def runners(self, place: Place) -> tuple[RunnerProcess, ...]:
        return (self._process,)

    def births(self, place: Place) -> None:
        """The child is the test's, and it is known."""

    def handle(self, process: RunnerProcess) -> Handle | None:
        return Machine().handle(process)

    def usage(self, process: RunnerProcess) -> Usage | None:
        return Machine().usage(process)

    def killer(self, process: RunnerProcess) -> int | None:
        return Machine().killer(process)

    def oom_kills(self) -> int | None:
        return Machine().oom_kills()

    def environment(self, place: Place) -> Mapping[str, str]:
        return {}

    def names(self, place: Place, blob: str) -> tuple[str, ...]:
        return (MODEL,) if blob == self._blob.name else ()

    def connections(self, place: Place) -> Connections:
        raise AssertionError("the runner source looks at no connections")

    def connect(self, place: Place, port: int, timeout: float) -> socket.socket:
        return socket.create_connection(("127.0.0.1", port), timeout)


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
