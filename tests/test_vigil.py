"""The beginnings and ends of runners between two looks: real processes, and what only the kernel could play."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from exporter.local import Handle, Place, RunnerProcess, processes, vigil
from exporter.local.children import Children, children, handle
from exporter.local.machine import Machine
from exporter.local.vigil import End, Vigil, Why

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the kernel's own lists")

# Starts a child for each line on its input, tells the child's pid, and waits for it as Ollama does.
_SERVE = """
import subprocess, sys, threading
for line in sys.stdin:
    child = subprocess.Popen([sys.argv[1], "-I", "-S", "-c", line, *sys.argv[2:]], stdin=subprocess.PIPE)
    threading.Thread(target=child.wait).start()
    print(child.pid, flush=True)
"""


class Serve:
    """A process that starts children which look like runners."""

    def __init__(self, folder: Path) -> None:
        runner = folder / "llama-server"
        runner.symlink_to(os.path.realpath(sys.executable))
        command = [sys.executable, "-I", "-S", "-c", _SERVE, str(runner), "--model", "/m/sha256-0", "--port", "1"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        started = processes.started(self._process.pid)
        self.place = Place((("127.0.0.1", 11434),), pid=self._process.pid, started=started)

    def start(self, what: str) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(what, file=self._process.stdin)
        return int(self._process.stdout.readline())

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    it = Serve(tmp_path)
    yield it
    it.end()


@dataclass
class Book:
    """What a vigil told."""

    began: list[RunnerProcess] = field(default_factory=list)
    ends: list[End] = field(default_factory=list)

    @property
    def ended(self) -> list[int | None]:
        return [end.process.pid for end in self.ends]

    def vigil(self, machine: Machine | Played) -> Vigil:
        return Vigil(machine, self.began.append, self.ends.append)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():  # noqa: ASYNC110 - other processes have no event to tell
                await asyncio.sleep(0.01)

    def close(self) -> None:
        for end in self.ends:
            end.close()


def on_a_loop(main: Callable[[Book], Coroutine[Any, Any, None]], book: Book) -> None:
    try:
        asyncio.run(main(book))
    finally:
        book.close()


def descriptors() -> set[str]:
    return {os.readlink(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")
            if os.path.lexists(f"/proc/self/fd/{number}")}  # fmt: skip


def told(held: Handle) -> int | None:
    """As soon as its parent knows."""
    for _ in range(20):
        if (status := held.status()) is not None:
            return status
        time.sleep(0.01)
    return None


# --- real processes --------------------------------------------------------------------------------------------------


def test_of_many_short_lives_none_is_missed_and_none_is_told_twice(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vigil, "EVERY", 0.05)  # the machine may be busy with other tests

    async def main(book: Book) -> None:
        it = book.vigil(Machine())
        it.follow(serve.place, ())
        pids = []
        for _ in range(50):
            pids.append(await asyncio.to_thread(serve.start, "import time; time.sleep(0.6)"))
            await asyncio.sleep(0.02)
        await book.until(lambda: len(book.ends) >= 50)
        it.stop()
        assert sorted(process.pid or 0 for process in book.began) == sorted(pids)
        assert sorted(pid or 0 for pid in book.ended) == sorted(pids)

    on_a_loop(main, Book())


def test_an_end_is_told_at_once_with_how_it_came_about(serve: Serve) -> None:
    async def main(book: Book) -> None:
        it = book.vigil(Machine())
        it.follow(serve.place, ())
        for deed in (signal.SIGKILL, signal.SIGSEGV):
            pid = await asyncio.to_thread(serve.start, "input()")
            await book.until(lambda pid=pid: any(process.pid == pid for process in book.began))  # type: ignore[misc]
            os.kill(pid, deed)
            await book.until(lambda pid=pid: pid in book.ended)  # type: ignore[misc]
            end = book.ends[-1]
            assert end.at_once
            assert end.process.arguments[-4:] == ("--model", "/m/sha256-0", "--port", "1")
            assert end.handle is not None
            status = await asyncio.to_thread(told, end.handle)
            assert status is None or os.WTERMSIG(status) == deed  # None: before Linux 6.15
        it.stop()

    on_a_loop(main, Book())


def test_a_handle_is_of_this_very_process() -> None:
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", "input()"], stdin=subprocess.PIPE) as child:
        started = processes.started(child.pid)
        assert started is not None
        held = handle(child.pid, started)
        assert held is not None
        held.close()
        with pytest.raises(LookupError):
            handle(child.pid, started - 1.0)
        child.kill()
    with pytest.raises(LookupError):
        handle(child.pid, started)


def test_nothing_stays_open(serve: Serve) -> None:
    before = descriptors()

    async def main(book: Book) -> None:
        it = book.vigil(Machine())
        it.follow(serve.place, ())
        for _ in range(3):
            await asyncio.to_thread(serve.start, "input()")
        await book.until(lambda: len(book.began) == 3)
        os.kill(book.began[0].pid or 0, signal.SIGKILL)
        await book.until(lambda: len(book.ends) == 1)
        it.stop()
        assert book.began[1].pid not in book.ended

    on_a_loop(main, Book())
    assert {name for name in descriptors() - before if "pidfd" in name or "/proc" in name} == set()


def test_with_its_server_a_vigil_ends(serve: Serve) -> None:
    async def main(book: Book) -> None:
        it = book.vigil(Machine())
        it.follow(serve.place, ())
        await asyncio.to_thread(serve.start, "input()")
        await book.until(lambda: len(book.began) == 1)
        serve.end()
        await book.until(lambda: it.place is None)
        assert not it.lives(book.began[0])

    on_a_loop(main, Book())


# --- what only the kernel could play ---------------------------------------------------------------------------------


class Played:
    """Children that a test writes. No descriptor tells of an end, unless one is given."""

    def __init__(self, *there: RunnerProcess, lists: bool = True) -> None:
        self.there, self._lists = list(there), lists

    def births(self, place: Place) -> Played | None:
        return self if self._lists else None

    def look(self, again: bool = False) -> frozenset[int] | None:
        return frozenset(process.pid or 0 for process in self.there)

    def runners(self, pids: Iterable[int]) -> tuple[RunnerProcess, ...]:
        return tuple(process for process in self.there if process.pid in set(pids))

    def close(self) -> None:
        """Nothing is open."""

    def handle(self, process: RunnerProcess) -> Handle | None:
        return None


SERVER = Place((("127.0.0.1", 11434),), pid=10, started=1.0)


def runner(pid: int, started: float, engine: str = "llama") -> RunnerProcess:
    return RunnerProcess(4000 + pid, pid, ("llama-server",), started, engine)


def test_a_pid_that_is_used_again_is_another_runner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vigil, "EVERY", 0.01)
    first, second = runner(11, 2.0), runner(11, 3.0)

    async def main(book: Book) -> None:
        machine = Played(first)
        it = book.vigil(machine)
        it.follow(SERVER, [first])
        machine.there = []
        await book.until(lambda: len(book.ends) == 1)
        machine.there = [second]
        await book.until(lambda: len(book.began) == 2)
        it.follow(SERVER, [first, second])  # a look that was made before
        it.stop()
        assert book.began == [first, second]
        assert [end.process for end in book.ends] == [first]
        assert it.has_ended(first)

    on_a_loop(main, Book())


def test_a_mistake_while_children_are_asked_costs_that_look_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vigil, "EVERY", 0.01)
    one = runner(11, 2.0)

    class Mistaken(Played):
        asked = 0

        def runners(self, pids: Iterable[int]) -> tuple[RunnerProcess, ...]:
            self.asked += 1
            if self.asked == 1:
                raise ValueError
            return super().runners(pids)

    async def main(book: Book) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["exception"]))
        it = book.vigil(Mistaken(one))
        it.follow(SERVER, [])
        await book.until(lambda: book.began == [one])
        it.stop()

    told: list[BaseException] = []
    on_a_loop(main, Book())
    assert [type(error) for error in told] == [ValueError]


def test_where_children_are_not_listed_ends_are_seen_at_the_next_look_and_not_at_once() -> None:
    first, second = runner(11, 2.0), runner(12, 3.0)

    async def main(book: Book) -> None:
        it = book.vigil(Played(lists=False))
        it.follow(SERVER, [first])
        it.follow(SERVER, [second])
        assert [process.pid for process in book.began] == [11, 12]
        assert [(end.process, end.at_once) for end in book.ends] == [(first, False)]
        assert book.ends[0].why(False, ready=True) == "unknown"

    on_a_loop(main, Book())


def test_a_server_that_is_another_process_now_takes_the_old_ones_runners_with_it() -> None:
    first, second = runner(11, 2.0), runner(12, 3.0)

    async def main(book: Book) -> None:
        it = book.vigil(Played(first, lists=False))
        it.follow(SERVER, [first])
        it.follow(Place((), pid=20, started=2.5), [second])
        assert book.ends == []
        assert (it.lives(first), it.lives(second)) == (False, True)
        it.follow(Place(()), [])
        assert it.place is None

    on_a_loop(main, Book())


@dataclass(frozen=True)
class Ended:
    """As wait() tells it."""

    told: int | None

    def fileno(self) -> int:
        return -1

    def status(self) -> int | None:
        return self.told

    def close(self) -> None:
        """Nothing is open."""


_KILLED, _SEGV, _TERM, _WELL, _FAILED = signal.SIGKILL, signal.SIGSEGV | 0x80, signal.SIGTERM, 0, 1 << 8


@pytest.mark.parametrize(
    ("status", "listed", "ready", "why"),
    [
        (None, True, True, "died"),
        (None, True, False, "died"),
        (None, False, True, "unloaded"),
        (None, False, False, "unknown"),  # a load that failed, or was given up
        (None, None, True, "unknown"),
        (_KILLED, False, True, "unloaded"),
        (_KILLED, True, True, "died"),
        (_KILLED, False, False, "unknown"),
        (_SEGV, False, True, "died"),  # and its model was already loaded anew
        (_SEGV, None, True, "died"),
        (_FAILED, False, False, "died"),
        (_FAILED, None, True, "unknown"),  # who stops the service asks its runners to end as well
        (_TERM, False, True, "unloaded"),
        (_WELL, None, True, "unknown"),
    ],
)
def test_why_a_runner_ended(status: int | None, listed: bool | None, ready: bool, why: Why) -> None:
    assert End(runner(11, 2.0), SERVER, True, Ended(status)).why(listed, ready) == why


@pytest.mark.parametrize(
    ("status", "listed", "why"),
    [(None, False, "unknown"), (_KILLED, False, "unknown"), (_KILLED, True, "died"), (_SEGV, False, "died")],
)
def test_while_the_kernel_kills_for_memory_no_runner_is_taken_for_unloaded(
    status: int | None, listed: bool | None, why: Why
) -> None:
    end = End(runner(11, 2.0), SERVER, True, Ended(status))
    assert end.why(listed, ready=True, starved=True) == why


@pytest.mark.parametrize(
    ("status", "listed", "killer", "why"),
    [
        (_KILLED, False, SERVER.pid, "unloaded"),
        (_KILLED, True, SERVER.pid, "unloaded"),  # and its model is loaded anew
        (_KILLED, False, 4711, "died"),
        (_KILLED, False, 0, "died"),
        (None, False, 0, "died"),
        (_SEGV, False, SERVER.pid, "died"),  # Ollama kills what is writing its core as well
    ],
)
def test_who_killed_it_tells_more_than_what_is_listed(
    status: int | None, listed: bool | None, killer: int, why: Why
) -> None:
    end = End(runner(11, 2.0), SERVER, True, Ended(status))
    assert end.why(listed, ready=False, starved=True, killer=killer) == why


def test_an_mlx_runner_that_was_asked_to_end_may_tell_any_code() -> None:
    assert End(runner(11, 2.0, "mlx"), SERVER, True, Ended(_FAILED)).why(False, ready=True) == "unloaded"


# --- the kernel's list -----------------------------------------------------------------------------------------------


def proc(folder: Path, newest: int, **tasks: str) -> None:
    (folder / "loadavg").write_text(f"0.10 0.20 0.30 1/200 {newest}\n")
    for task, told in tasks.items():
        (folder / "7/task" / task.removeprefix("t")).mkdir(parents=True, exist_ok=True)
        (folder / "7/task" / task.removeprefix("t") / "children").write_text(told)


def test_children_of_all_threads_are_listed_and_only_while_processes_begin(tmp_path: Path) -> None:
    proc(tmp_path, 50, t7="11 12 ", t8="13 ")
    it = Children(7, tmp_path)
    assert it.look() == frozenset({11, 12, 13})
    proc(tmp_path, 50, t8="13 14 ")
    assert it.look() == frozenset({11, 12, 13, 14})  # it may have been on its way at the look before
    assert it.look() is None
    assert it.look(again=True) == frozenset({11, 12, 13, 14})
    proc(tmp_path, 51, t7="")
    assert it.look() == frozenset({13, 14})
    it.close()


def test_a_list_is_of_one_process_and_ends_with_it(tmp_path: Path) -> None:
    proc(tmp_path, 50, t7="11 ")
    it = Children(7, tmp_path)
    (tmp_path / "7").rename(tmp_path / "gone")
    proc(tmp_path, 51, t7="99 ")
    for name in ("children", ""):
        path = tmp_path / "gone/task/7" / name
        path.unlink() if name else path.rmdir()
    with pytest.raises(LookupError):
        it.look()
    it.close()


def test_a_kernel_without_lists_gives_none(tmp_path: Path) -> None:
    (tmp_path / "7/task/7").mkdir(parents=True)
    (tmp_path / "loadavg").write_text("0.10 0.20 0.30 1/200 50\n")
    assert children(7, tmp_path) is None
    assert children(8, tmp_path) is None
