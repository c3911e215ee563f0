"""Faults of the machine that servers run on: processes, a Docker Engine, disks, logs. In two acts: what is
done to the same engine and the same disk cannot happen at once."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import AsyncExitStack
from pathlib import Path

from exporter import catalog
from tests.chaos import network
from tests.chaos.disks import Silent, fill, mount
from tests.chaos.house import Play, Seen
from tests.chaos.judge import Judge
from tests.chaos.program import QUIET, Page, Program
from tests.chaos.trouble import HASTY, LOADED, WELL, Victim
from tests.docker_engine import FakeEngine, fake_engine
from tests.wire import TAGS, VERSION, Wire, free_port

PORT = 8082
SERVERS_OF_ENGINE = 8
BLOB = "sha256-" + "0a" * 32
ACCESS = '[GIN] 2026/11/23 - 17:38:05 | 200 | 1.5s | 127.0.0.1 | POST "/api/chat"\n'
ROTATIONS = 300
STOPPED = 6.0
"""Seconds. At a poll a second, what a minute and a half is at a poll every 15 s."""


class Ollama:
    """A process called `ollama serve`, that keeps its port through death; with a runner, a child of its own."""

    def __init__(self, folder: Path, *, runner: bool = False) -> None:
        self._folder, self.port = folder, free_port()
        folder.mkdir()
        (folder / "serve").write_bytes((Path(__file__).parent / "serve.py").read_bytes())
        for name in ("ollama", "llama-server"):
            (folder / name).symlink_to(os.path.realpath(sys.executable))
        answers = {"/api/version": VERSION, "/api/ps": LOADED, "/api/tags": TAGS}
        self._command = [folder / "ollama", "serve", self._answers("server", answers), str(self.port)]
        if runner:
            weights, port = _store(folder), free_port()
            arguments = ["--model", str(weights), "--host", "127.0.0.1", "--port", str(port)]
            answers = {"/health": {"status": "ok"}, "/slots": [SLOT], "/props": _props(weights)}
            mine = [str(folder / "llama-server"), "serve", self._answers("runner", answers), str(port), *arguments]
            self._command += ["--runner", *mine]
        self.url = f"http://127.0.0.1:{self.port}"
        self.begin()

    def _answers(self, name: str, answers: dict[str, object]) -> str:
        path = self._folder / f"{name}.json"
        path.write_text(json.dumps({key: json.dumps(value) for key, value in answers.items()}))
        return str(path)

    def begin(self) -> None:
        env = {"OLLAMA_MODELS": str(self._folder / "models")}
        self.process = subprocess.Popen(self._command, cwd=self._folder, env=env)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def kill_runner(self) -> None:
        for pid in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split():
            os.kill(int(pid), signal.SIGKILL)

    def signal(self, number: int) -> None:
        self.process.send_signal(number)


SLOT = {"id": 0, "n_ctx": 4096, "speculative": False, "is_processing": False}


def _props(weights: Path) -> dict[str, object]:
    return {"model_path": str(weights), "total_slots": 1, "endpoint_slots": True, "endpoint_metrics": False}


def _store(folder: Path) -> Path:
    """A model store with one model. Returns where its weights would be."""
    manifest = folder / "models/manifests/registry.ollama.ai/library/smollm2/latest"
    manifest.parent.mkdir(parents=True)
    layer = {"mediaType": "application/vnd.ollama.image.model", "digest": BLOB.replace("-", ":")}
    manifest.write_text(json.dumps({"layers": [layer]}))
    return folder / "models/blobs" / BLOB


class Writer:
    """Writes access lines into a log, and counts the whole ones that arrived."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.written = 0
        path.touch()

    def write(self, lines: int) -> None:
        with self._path.open("ab", buffering=0) as file:
            for _ in range(lines):
                if file.write(ACCESS.encode()) == len(ACCESS.encode()):
                    self.written += 1

    def until_full(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self.write(1)

    def truncate(self) -> None:
        os.truncate(self._path, 0)

    def storm(self, rotations: int) -> None:
        """The last of them is whole: what stands in it can be read."""
        for number in range(rotations):
            self.write(20)
            self._path.rename(self._path.with_suffix(f".{number % 3}"))
            self._path.touch()
            time.sleep(0.01)


def lines_of(page: Page, server: str) -> float:
    return page.value(catalog.LOG_LINES, server=server) or 0.0


class House:
    judge: Judge

    def __init__(self, folder: Path, stack: AsyncExitStack) -> None:
        self._folder, self._stack = folder, stack

    async def well(self, name: str, **settings: object) -> dict[str, object]:
        wire = await self._stack.enter_async_context(Wire(dict(WELL)))
        return {"name": name, "url": wire.url, **HASTY, **settings}

    # --- processes

    def stopped(self) -> Victim:
        it, since = Ollama(self._folder / "stopped"), [0.0]

        def begin() -> None:
            since[0] = time.monotonic()
            it.signal(signal.SIGSTOP)

        return Victim(
            "stopped", {"name": "stopped", "url": it.url, **HASTY}, begin, lambda: it.signal(signal.SIGCONT), "timeout",
            frozenset({"starting"}), lambda _: time.monotonic() >= since[0] + STOPPED,
        )  # fmt: skip

    def killed(self) -> Victim:
        it = Ollama(self._folder / "killed")
        states = frozenset({"down"})
        return Victim("killed", {"name": "killed", "url": it.url, **HASTY}, it.kill, it.begin, "refused", states)

    def without_runner(self) -> Victim:
        it = Ollama(self._folder / "runner", runner=True)
        model = {"server": "runner", "model": "smollm2:latest"}
        crashes = [0.0]

        def shows(page: Page) -> bool:
            counted = page.value(catalog.RUNNER_ENDS, **model, reason="died") or 0.0
            return counted > crashes[0] and page.value(catalog.RUNNER_MISSING, **model) == 1.0

        def end() -> None:
            crashes[0] += 1.0
            it.signal(signal.SIGUSR1)

        def well(page: Page) -> bool:
            return page.value(catalog.RUNNER_SLOTS, **model) == 1.0

        settings = {"name": "runner", "url": it.url, **HASTY}
        return Victim("runner", settings, it.kill_runner, end, "", frozenset({"ok"}), shows, well=well)

    # --- the engine

    async def contained(self, engine: FakeEngine) -> tuple[list[Victim], list[Victim]]:
        """The same servers twice: for its restart, and for its silence."""
        restarts, hangs = [], []
        for number in range(SERVERS_OF_ENGINE):
            name = f"contained-{number}"
            engine.add(name)
            settings = await self.well(name, container=name)
            restarts.append(Victim(name, settings, _nothing, _nothing, "unavailable", source="docker"))
            hangs.append(Victim(name, settings, _nothing, _nothing, "timeout", source="docker"))
        restarts[0].begin, restarts[0].end = engine.stop, engine.start

        def answer() -> None:
            silence, engine.silent = engine.silent, None
            assert silence is not None
            silence.set()

        hangs[0].begin, hangs[0].end = lambda: setattr(engine, "silent", threading.Event()), answer
        return restarts, hangs

    # --- logs

    async def storm(self) -> Victim:
        """What is written between two renames that nobody looked at is lost. After the storm, every line counts."""
        path = self._folder / "storm.log"
        writer, task, goal = Writer(path), list[asyncio.Task[None]](), [0.0]

        def begin() -> None:
            task[:] = [asyncio.create_task(asyncio.to_thread(writer.storm, ROTATIONS))]

        def end() -> None:
            goal[0] = lines_of(self.judge.page, "storm") + 50
            writer.write(50)

        settings = await self.well("storm", logs={"file": str(path)})
        return Victim(
            "storm", settings, begin, end, "", source="logs",
            shows=lambda page: task[0].done() and 0 < lines_of(page, "storm") <= writer.written,
            well=lambda page: lines_of(page, "storm") == goal[0],
        )  # fmt: skip

    async def full_log(self) -> Victim:
        disk = mount(self._folder / "log-disk", "64k")
        writer, truncations = Writer(disk / "ollama.log"), [0]

        def end() -> None:
            writer.truncate()
            writer.write(10)
            truncations[0] += 1

        def counted(page: Page) -> bool:
            gaps = page.value(catalog.LOG_GAPS, server="full-log")
            return lines_of(page, "full-log") == writer.written and gaps == truncations[0]

        settings = await self.well("full-log", logs={"file": str(disk / "ollama.log")})
        return Victim(
            "full-log", settings, writer.until_full, end, "", shows=counted, source="logs", well=counted
        )  # fmt: skip


def _nothing() -> None:
    """It is done once for all of them."""


def disks(folder: Path) -> tuple[Victim, Victim]:
    store = mount(folder / "store", "1m")
    silent = Silent(store)

    def free(page: Page) -> float | None:
        return page.value(catalog.HOST_STORE_AVAILABLE, host="house")

    full = Victim(
        "", {}, lambda: fill(store), (store / "ballast").unlink, "", source="host",
        shows=lambda page: free(page) == 0.0, well=lambda page: bool(free(page)),
    )  # fmt: skip

    def hides_nothing_else(page: Page) -> bool:
        others = (catalog.HOST_CPUS, catalog.HOST_MEMORY_AVAILABLE, catalog.HOST_BOOT)
        return free(page) is None and all(page.value(family, host="house") is not None for family in others)

    hangs = Victim(
        "", {}, silent.begin, silent.end, "timeout", shows=hides_nothing_else, source="host",
        well=lambda page: bool(free(page)),
    )  # fmt: skip
    return full, hangs


async def play(folder: Path) -> Seen:
    network.prepare(folder)
    seen = Seen()
    async with AsyncExitStack() as stack:
        engine = stack.enter_context(fake_engine(folder))
        house = House(folder, stack)
        restarts, hangs = await house.contained(engine)
        full, silent = disks(folder)
        first = {
            "a server is stopped": [house.stopped()],
            "a server is killed": [house.killed()],
            "a runner is killed": [house.without_runner()],
            "dockerd restarts": restarts,
            "the disk of the models is full": [full],
            "a storm of log rotations": [await house.storm()],
            "the log's disk is full": [await house.full_log()],
        }
        second = {"dockerd hangs": hangs, "the disk of the models hangs": [silent]}
        neighbours = [await house.well("neighbour"), await house.well("neighbour-of-processes")]
        named = {victim.name: victim.settings for victims in first.values() for victim in victims if victim.name}
        settings = {
            **QUIET,
            "poll": {"interval": "1s"},
            "host": {"name": "house", "models_dir": str(folder / "store")},
            "docker": {"address": engine.address, "every": "5s"},
            "runner": {"every": "1s"},
            "logs": {"every": "1s"},
            "servers": [*neighbours, *named.values()],
        }
        program = await stack.enter_async_context(Program(folder, settings, PORT, hasten=True))
        house.judge = judge = await stack.enter_async_context(Judge(program, [str(one["name"]) for one in neighbours]))
        for act, times in ((first, 2), (second, 1)):
            it = Play(program, judge, act, seen)
            await it.until_well()
            for _ in range(times):
                await it.round()
        Play(program, judge, {**first, **second}, seen).conclude()
    return seen
