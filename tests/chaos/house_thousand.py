"""A thousand servers that die at once and come back at once, and a neighbour that lives."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

from tests.chaos import network
from tests.chaos.house import PATIENCE, Seen, conclude
from tests.chaos.judge import Judge, failures, is_well, state_of
from tests.chaos.program import QUIET, Page, Program
from tests.chaos.trouble import LOADED, WELL
from tests.wire import TAGS, VERSION, Wire, json_answer

FAULT = "a thousand servers die at once"
MANY = 1_000
POLL = 5
PORT = 11434
ANSWERS = {
    b"/api/version": json_answer(VERSION),
    b"/api/ps": json_answer(LOADED),
    b"/api/tags": json_answer(TAGS),
}


class Member(asyncio.Protocol):
    """A connection to any of them."""

    def __init__(self, alive: set[asyncio.Transport]) -> None:
        self._alive = alive

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._alive.add(transport)

    def data_received(self, data: bytes) -> None:
        self._transport.write(ANSWERS[data.split(b" ", 2)[1]])

    def connection_lost(self, exc: Exception | None) -> None:
        self._alive.discard(self._transport)


class Crowd:
    """All of them, each at an address of its own."""

    def __init__(self) -> None:
        self.urls = {f"member-{n}": f"http://127.7.{n // 250}.{n % 250 + 1}:{PORT}" for n in range(MANY)}
        self._alive: set[asyncio.Transport] = set()

    async def live(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(partial(Member, self._alive), "0.0.0.0", PORT, backlog=4096)

    def die(self) -> None:
        self._server.close()
        for transport in tuple(self._alive):
            transport.abort()


def told(page: Page, names: object, state: str) -> int:
    return sum(state_of(page, name) == state for name in names)  # type: ignore[attr-defined]


async def play(folder: Path) -> Seen:
    network.prepare(folder)
    seen, crowd = Seen(), Crowd()
    outcome = seen.of(FAULT)
    await crowd.live()
    async with AsyncExitStack() as stack:
        wire = await stack.enter_async_context(Wire(dict(WELL)))
        members = [{"name": name, "url": url} for name, url in crowd.urls.items()]
        neighbour = {"name": "neighbour", "url": wire.url}
        settings = {**QUIET, "poll": {"interval": f"{POLL}s"}, "servers": [neighbour, *members]}
        program = await stack.enter_async_context(Program(folder, settings, 8082))
        judge = await stack.enter_async_context(Judge(program, ["neighbour"], POLL))

        def well(page: Page) -> bool:
            return all(is_well(page, name) for name in crowd.urls)

        if not await judge.until(well, PATIENCE):
            raise AssertionError("not well before they died")
        for _ in range(2):
            crowd.die()
            if not await judge.until(lambda page: told(page, crowd.urls, "down") == MANY, PATIENCE):
                outcome.unseen.add("not all are down")
            outcome.states |= {state_of(judge.page, name) for name in crowd.urls}
            outcome.reasons |= {reason for name in crowd.urls for reason in failures(judge.page, name)}
            await crowd.live()
            if not await judge.until(well, PATIENCE):
                outcome.ill.add("not all are back")
            await judge.polls(1)
            await seen.measure(program)
        for server, wrongs in judge.wrongs.items():
            outcome.wrongs |= {f"{server}: {wrong}" for wrong in sorted(wrongs)[:3]}
        conclude(program, judge, seen)
        crowd.die()
    return seen
