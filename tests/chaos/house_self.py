"""Faults of the exporter itself and of those who scrape it. Each happens to an exporter of its own, all at once."""

from __future__ import annotations

import asyncio
import contextlib
import glob
import json
import os
import resource
import signal
import socket
import struct
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from exporter import catalog
from tests.chaos import network
from tests.chaos.disks import fill, mount
from tests.chaos.house import PATIENCE, Outcome, Seen, conclude
from tests.chaos.judge import Judge, failures, is_well, polls_of, state_of
from tests.chaos.program import QUIET, Page, Program
from tests.chaos.trouble import HASTY, LOADED, SHY, WELL, Answering
from tests.wire import PS, TAGS, VERSION, Request, Script, Wire, answer, free_port, json_answer

STOPPED = 6.0
JUMPS = (3 * 3600, -5 * 3600)
SCRAPERS = 200
ROOM = 64 * 2**20
"""Bytes of memory that are left to the exporter."""


@dataclass(slots=True)
class Bench:
    """An exporter with two neighbours and the servers that a fault needs."""

    fault: str
    folder: Path
    seen: Seen
    program: Program
    judge: Judge
    wires: dict[str, Wire]

    @property
    def outcome(self) -> Outcome:
        return self.seen.of(self.fault)

    async def shows(self, what: str, condition: Callable[[Page], bool]) -> None:
        if not await self.judge.until(condition, PATIENCE):
            self.outcome.unseen.add(what)

    async def suffers(self, before: Page, server: str, reason: str, state: str) -> None:
        counted = failures(before, server).get(reason, 0.0)
        await self.shows(
            f"{server}: {reason}",
            lambda page: failures(page, server).get(reason, 0.0) > counted and state_of(page, server) == state,
        )
        self.outcome.states.add(state)

    async def recovers(self, what: str, condition: Callable[[Page], bool] = lambda _: True) -> None:
        """With everybody well."""
        names = self.wires.keys()
        if not await self.judge.until(lambda page: condition(page) and all(is_well(page, n) for n in names), PATIENCE):
            self.outcome.ill.add(what)
        await self.judge.polls(2)
        await self.seen.measure(self.program)

    def note(self, server: str) -> None:
        """What has been counted of a server."""
        self.outcome.reasons |= failures(self.judge.page, server).keys()


Act = Callable[[Bench], Awaitable[None]]
CASES: dict[str, tuple[Act, dict[str, Any]]] = {}
"""By fault: what happens, and how its bench is made."""


def case(fault: str, **bench: Any) -> Callable[[Act], Act]:
    def enter(act: Act) -> Act:
        CASES[fault] = act, bench
        return act

    return enter


# --- clocks ----------------------------------------------------------------------------------------------------------


def faketime(folder: Path) -> dict[str, str]:
    """The environment in which a process' wall clock follows a file."""
    (library,) = glob.glob("/usr/lib/*/faketime/libfaketimeMT.so.1")
    (folder / "clock").write_text("+0")
    return {
        "LD_PRELOAD": library,
        "FAKETIME_TIMESTAMP_FILE": str(folder / "clock"),
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


@case("clocks jump", env=faketime, servers=("clock",))
async def clocks_jump(it: Bench) -> None:
    dated = {path: _with_date(body) for path, body in (("version", VERSION), ("ps", LOADED), ("tags", TAGS))}
    it.wires["clock"].routes.update({f"/api/{path}": script for path, script in dated.items()})

    def has_jumped(page: Page, seconds: float) -> bool:
        at = page.value(catalog.SOURCE_LAST_ATTEMPT, server="clock", source="api") or 0.0
        offset = page.value(catalog.CLOCK_OFFSET, server="clock")
        jumped = abs(at - time.time() - seconds) < 30 and offset is not None and abs(offset + seconds) < 30
        return jumped and is_well(page, "clock")

    for seconds in (*JUMPS, 0):
        (it.folder / "clock").write_text(f"{seconds:+d}")
        await it.shows(f"{seconds:+d} s", lambda page, seconds=seconds: has_jumped(page, seconds))  # type: ignore[misc]
        await it.judge.polls(2)
        it.note("clock")
        it.outcome.states.add("ok")
        if it.judge.page.value(catalog.KNOWN_BUSY, server="clock", model="smollm2:latest") != 0.0:
            it.outcome.wrongs.add("a model is taken for busy, by the wrong clock")
        if not await it.program.answers():
            it.outcome.wrongs.add("the exporter takes itself for ill")
        await it.seen.measure(it.program)
    await it.recovers("the clock is right again")


def _with_date(value: object) -> Answering:
    """With the server's own time, by which a loaded model has an hour to live."""

    def respond(_: Request) -> Script:
        told = value
        if value is LOADED:
            expires = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3600))
            told = {"models": [PS["models"][0] | {"expires_at": expires}]}
        return [json_answer(told, time.strftime("Date: %a, %d %b %Y %H:%M:%S GMT", time.gmtime()))]

    return respond


# --- limits ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def limited(pid: int, what: int, least: int) -> Iterator[None]:
    before = resource.prlimit(pid, what)
    resource.prlimit(pid, what, (least, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, what, before)


@case(
    "no file descriptors",
    shy=("neighbour-anew",),
    may_complain=r"asyncio: socket\.accept\(\) out of system resource|Errno 24|^Traceback",
)
async def no_file_descriptors(it: Bench) -> None:
    for _ in range(2):
        before = it.judge.page
        with limited(it.program.popen.pid, resource.RLIMIT_NOFILE, 3):
            await it.suffers(before, "neighbour-anew", "unreachable", "down")
            async with _stranger(it.program.port):
                await it.judge.polls(2)
            it.note("neighbour-anew")
        await it.recovers("connections are made again")
    async with httpx.AsyncClient() as client:
        if (await client.get(f"http://127.0.0.1:{it.program.port}/metrics")).status_code != httpx.codes.OK:
            it.outcome.ill.add("a new scraper is not served")


@contextlib.asynccontextmanager
async def _stranger(port: int) -> AsyncIterator[None]:
    """Somebody who connects and waits."""
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield
    finally:
        writer.transport.abort()


ROWS = answer(b'{"models":[' + b",".join(b'{"name":"m%d","size":2}' % n for n in range(150_000)) + b"]}")
LISTS = answer(b'{"models":[' + b",".join([b"[]"] * 1_300_000) + b"]}")


# It looks at its machine all the while: that is what it begins threads for. Where 64 MB of small things have been,
# memory is in pieces: by where the few things that stay happen to lie, the resident set is 20 MB larger, or 40.
@case("little memory", servers=("rows-1", "rows-2", "lists-1", "lists-2"), interval=2, watched=True)
async def little_memory(it: Bench) -> None:
    victims = {name: ROWS if name.startswith("rows") else LISTS for name in it.wires if name[-1].isdigit()}
    limit = it.program.virtual + ROOM
    for _ in range(3):
        with limited(it.program.popen.pid, resource.RLIMIT_AS, limit):
            before = it.judge.page
            for name, body in victims.items():
                it.wires[name].routes["/api/ps"] = [body]
            for name in victims:
                await it.suffers(before, name, "too_large", "stalled")
            await it.judge.polls(2)
            for name in victims:
                it.note(name)
                it.wires[name].routes |= WELL
        await it.recovers("there is memory again")


# --- stopped ---------------------------------------------------------------------------------------------------------


@case("the exporter is stopped", measured=False)
async def the_exporter_is_stopped(it: Bench) -> None:
    for _ in range(2):
        wire = it.wires["neighbour"]
        asked = len(wire.requests)
        it.program.popen.send_signal(signal.SIGSTOP)
        await asyncio.sleep(STOPPED)
        if len(wire.requests) > asked + 2:
            it.outcome.unseen.add("it goes on")
        asked = len(wire.requests)
        before = polls_of(it.judge.page, "neighbour")
        it.program.popen.send_signal(signal.SIGCONT)
        await it.recovers("it polls again", lambda page, b=before: polls_of(page, "neighbour") >= b + 2)  # type: ignore[misc]
        polls = polls_of(it.judge.page, "neighbour") - before
        if len(wire.requests) - asked > 2 * polls + 4:
            it.outcome.wrongs.add("what was missed is asked for afterwards")
        it.note("neighbour")
        it.outcome.states.add(state_of(it.judge.page, "neighbour"))


# --- scrapers --------------------------------------------------------------------------------------------------------

_REQUEST = b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"


@case("scrapers vanish")
async def scrapers_vanish(it: Bench) -> None:
    for _ in range(2):
        with contextlib.ExitStack() as lingering:
            for number in range(SCRAPERS):
                scraper = lingering.enter_context(socket.socket())
                scraper.settimeout(20)
                scraper.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
                scraper.bind((f"127.0.1.{1 + number % 10}", 0))
                scraper.connect(("127.0.0.1", it.program.port))
                _break_off(scraper, number % 5)
                if number % 20 == 0:
                    await asyncio.sleep(0)
            await it.judge.polls(2)
        await it.recovers("they are gone")


def _break_off(scraper: socket.socket, how: int) -> None:
    """0: at once; 1: within the request; 2: after it; 3: within the answer; 4: it asks again and again, reads nothing
    and stays."""
    scraper.sendall((b"", _REQUEST[:20], _REQUEST, _REQUEST, _REQUEST * 20)[how])
    if how == 3:
        with contextlib.suppress(OSError):
            scraper.recv(100)
    if how < 4:
        scraper.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        scraper.close()


@case("Prometheus restarts")
async def prometheus_restarts(it: Bench) -> None:
    port = free_port()
    job = {"job_name": "ollama", "static_configs": [{"targets": [f"127.0.0.1:{it.program.port}"]}]}
    settings = {"global": {"scrape_interval": "1s", "scrape_timeout": "1s"}, "scrape_configs": [job]}
    (it.folder / "prometheus.yml").write_text(json.dumps(settings))
    command = [
        os.environ["PROMETHEUS"], f"--config.file={it.folder}/prometheus.yml",
        f"--storage.tsdb.path={it.folder}/data", f"--web.listen-address=127.0.0.1:{port}",
    ]  # fmt: skip
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        for life in range(2):
            with (it.folder / "prometheus.log").open("ab") as log:
                prometheus = subprocess.Popen(command, stderr=log)  # noqa: ASYNC220
            try:
                if not await _answers(client, 'min(ollama_up) == 1 and on() count_over_time(up{job="ollama"}[1m]) > 2'):
                    it.outcome.ill.add(f"life {life} of Prometheus sees nothing")
                polls = "ollama_api_request_duration_seconds_count"
                if life and not await _answers(client, f"max(resets({polls}[5m])) == 0"):
                    it.outcome.wrongs.add("to Prometheus a counter has started again")
                prometheus.send_signal(signal.SIGKILL)
            finally:
                prometheus.kill()
                prometheus.wait()
            await it.recovers("Prometheus is gone")


async def _answers(client: httpx.AsyncClient, query: str) -> bool:
    """Whether this becomes true."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.HTTPError, ValueError):  # it is not there, or says so in plain text
            answer = (await client.get("/api/v1/query", params={"query": query})).json()
            if answer.get("data", {}).get("result"):
                return True
        await asyncio.sleep(0.2)
    return False


# --- its own log -----------------------------------------------------------------------------------------------------


def full_disk(folder: Path) -> Path:
    disk = mount(folder / "full", "64k")
    (disk / "exporter.log").touch()
    fill(disk)
    return disk / "exporter.log"


@case("the exporter's log is full", servers=("mortal",), log=full_disk, level="debug")
async def the_log_is_full(it: Bench) -> None:
    mortal = it.wires["mortal"]
    for _ in range(2):
        before = it.judge.page
        await mortal.stop()
        await it.suffers(before, "mortal", "refused", "down")
        it.note("mortal")
        await mortal.listen()
        await it.recovers("it is back")


# --- all of them -----------------------------------------------------------------------------------------------------


async def bench(
    fault: str, act: Act, folder: Path, port: int, seen: Seen, *, servers: tuple[str, ...] = (),
    shy: tuple[str, ...] = (), env: Callable[[Path], dict[str, str]] | None = None,
    log: Callable[[Path], Path] | None = None, level: str = "info", may_complain: str = "(?!)", measured: bool = True,
    interval: int = 1, watched: bool = False,
) -> None:  # fmt: skip
    """`measured`: whether the time between two polls of neighbours and the time for a page say something. `watched`: it
    looks at its machine every second, and its memory is what it has allocated."""
    async with AsyncExitStack() as stack:
        names = {"neighbour": WELL, "neighbour-anew": SHY, **dict.fromkeys(servers, WELL), **dict.fromkeys(shy, SHY)}
        wires = {name: await stack.enter_async_context(Wire(dict(routes))) for name, routes in names.items()}
        settings = {
            **QUIET,
            "log": {"level": level},
            "poll": {"interval": f"{interval}s"},
            "servers": [{"name": name, "url": wire.url, **HASTY, "timeout": "5s"} for name, wire in wires.items()],
        }
        made = Program(
            folder,
            settings,
            port,
            hasten=watched,
            holds=watched,
            log=log and log(folder),
            **(env(folder) if env else {}),
        )
        program = await stack.enter_async_context(made)
        neighbours = [name for name in wires if name not in (*servers, *shy)] if measured else ["neighbour"]
        judge = await stack.enter_async_context(Judge(program, neighbours, interval))
        it = Bench(fault, folder, seen, program, judge, wires)
        await it.recovers("it begins")
        await act(it)
        for server, wrongs in judge.wrongs.items():
            it.outcome.wrongs |= {f"{server}: {wrong}" for wrong in wrongs}
        if not measured:
            judge.gaps.clear()
            judge.slowest = 0.0
        conclude(program, judge, seen, may_complain=may_complain)


async def play(folder: Path) -> Seen:
    network.prepare(folder)
    seen = Seen()
    async with asyncio.TaskGroup() as group:
        for number, (fault, (act, how)) in enumerate(CASES.items()):
            seen.of(fault)
            (own := folder / str(number)).mkdir()
            group.create_task(bench(fault, act, own, 8082 + number, seen, **how))
    return seen
