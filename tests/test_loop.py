"""Names that nobody answers hold up neither other names nor other work."""

from __future__ import annotations

import _thread
import asyncio
import socket
import subprocess
import sys
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from exporter import loop
from exporter.loop import Found, Loop

ROOT = Path(__file__).parents[1]

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


def test_a_thread_that_dies_as_it_is_born_delays_a_name_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    names, begin, dead = Names(), _thread.start_new_thread, list[int]()

    def start(*what: Any) -> int:
        if dead:
            return begin(*what)
        dead.append(1)
        return 1

    async def main() -> None:
        assert await find("here") == FOUND
        assert names.asked == ["here"]

    monkeypatch.setattr(_thread, "start_new_thread", start)
    monkeypatch.setattr(loop, "_LONG", 0.01)
    run(names, main())
    assert dead


def test_without_any_thread_a_name_is_not_found_for_now(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise RuntimeError("can't start new thread")

    async def main() -> None:
        with pytest.raises(socket.gaierror) as failed:
            await find("here")
        assert failed.value.errno == socket.EAI_AGAIN

    monkeypatch.setattr(_thread, "start_new_thread", refuse)
    run(Names(), main())


HANGS = """
import asyncio, time
from exporter.loop import Loop

async def main():
    looks = [asyncio.create_task(asyncio.to_thread(time.sleep, 3600)) for _ in range(3)]
    names = asyncio.create_task(asyncio.get_running_loop().getaddrinfo("a", 80))
    await asyncio.sleep(0.05)
    return 7

with asyncio.Runner(loop_factory=lambda: Loop(lambda *_: time.sleep(3600))) as runner:
    raise SystemExit(runner.run(main()))
"""


def test_the_program_ends_while_threads_hang() -> None:
    done = subprocess.run([sys.executable, "-c", HANGS], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (7, "", "")
