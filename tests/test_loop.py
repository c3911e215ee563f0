"""Names that nobody answers hold up neither other names nor other work."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Coroutine
from typing import Any

import pytest

from exporter.loop import Found, Loop

FOUND: Found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 80))]
MANY = 40


class Names:
    """`silent.*` is answered when `late` is set, `none.*` does not exist, every other name is found at once."""

    def __init__(self) -> None:
        self.late = threading.Event()
        self.asked: list[str] = []

    def __call__(self, host: str, *_: object) -> Found:
        self.asked.append(host)
        if host.startswith("silent"):
            self.late.wait(30)
        if host.startswith("none"):
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return FOUND


def run(names: Names, main: Coroutine[Any, Any, None], at_once: int = MANY) -> None:
    try:
        with asyncio.Runner(loop_factory=lambda: Loop(names, at_once)) as runner:
            runner.run(main)
    finally:
        names.late.set()


async def find(host: str) -> Found:
    return await asyncio.get_running_loop().getaddrinfo(host, 80, type=socket.SOCK_STREAM)  # type: ignore[return-value]


def test_silent_names_hold_up_neither_a_name_nor_blocking_work_nor_the_end() -> None:
    names = Names()

    async def main() -> None:
        silent = [asyncio.create_task(find(f"silent{number}")) for number in range(MANY - 1)]
        while len(names.asked) < len(silent):  # noqa: ASYNC110 - threads have no event to tell
            await asyncio.sleep(0)
        assert await find("here") == FOUND
        assert await asyncio.to_thread(lambda: "done") == "done"
        for one in silent:
            one.cancel()

    run(names, main())
    assert len(names.asked) == MANY


def test_who_gives_up_leaves_the_question_and_the_next_one_joins_it() -> None:
    names = Names()

    async def main() -> None:
        for _ in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await find("silent")
        last = asyncio.create_task(find("silent"))
        await asyncio.sleep(0)
        names.late.set()
        assert await last == FOUND
        assert names.asked == ["silent"]
        assert await find("silent") == FOUND
        assert names.asked == ["silent", "silent"]

    run(names, main())


def test_beyond_the_cap_a_name_waits_for_its_turn() -> None:
    names = Names()

    async def main() -> None:
        silent = asyncio.create_task(find("silent"))
        waiting = asyncio.create_task(find("here"))
        while not names.asked:  # noqa: ASYNC110 - threads have no event to tell
            await asyncio.sleep(0)
        assert names.asked == ["silent"]
        names.late.set()
        assert await asyncio.gather(silent, waiting) == [FOUND, FOUND]

    run(names, main(), at_once=1)


def test_a_name_that_does_not_exist_is_told_to_everybody_who_asks() -> None:
    names = Names()

    async def main() -> None:
        answers = await asyncio.gather(find("none"), find("none"), return_exceptions=True)
        assert [type(answer) for answer in answers] == [socket.gaierror, socket.gaierror]

    run(names, main())


def test_an_answer_that_nobody_waits_for_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    names = Names()

    async def main() -> None:
        asked = asyncio.create_task(find("none"))
        await asyncio.sleep(0)
        asked.cancel()
        while len(asyncio.all_tasks()) > 1:  # noqa: ASYNC110 - nobody is told of it, that is the point
            await asyncio.sleep(0)

    run(names, main())
    assert caplog.records == []
