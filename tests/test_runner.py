"""The runner source on a simulated server's children, in virtual time: right, or absent and said so."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx
import pytest

from exporter import catalog
from exporter.demo import SimBirths
from exporter.fleet import Observer
from exporter.llama import BadAnswer, Reply, Slot
from exporter.llama import Wire as LlamaWire
from exporter.local import Births, Connections, Local, Place, RunnerProcess, Usage
from exporter.local.vigil import WHYS
from exporter.model import Lack, Lacking, RunnerSettings, Watch
from exporter.simulator import (
    LLAMA32_3B,
    NOMIC_EMBED,
    TINYLLAMA,
    Children,
    EngineConfig,
    Fault,
    ServerConfig,
    SimServer,
    SimTransport,
    serve_children,
    virtual_wall_clock,
)
from exporter.simulator.server import serve
from exporter.sources import SOURCES, Surroundings, build
from exporter.sources.runner import NAMELESS, NAMELESS_PORTS, RunnerSource
from exporter.sources.runner.asking import BEHIND_KEY, NO_METRICS, NO_SLOTS, OLD
from exporter.sources.runner.counts import OTHER, Missing
from exporter.sources.runner.listing import Listing
from exporter.sources.runner.seen import UNKNOWN, Growth, Runner, argument, grown
from tests.scene import ENDPOINT, PATIENT, Seen, meanwhile, virtually
from tests.wire import recorded

TINY, LLAMA = "tinyllama:latest", "llama3.2:3b"
API_PORT = 11434
SLOW = replace(TINYLLAMA, decode_tokens_per_second=10.0, crowding=0.0, mean_answer_tokens=1_000_000)
"""An answer of 100 tokens takes 10 s."""
PRESENT = {
    family.name
    for family in (
        catalog.RUNNER_PROCESSES, catalog.RUNNER_LOADING, catalog.RUNNER_MISSING, catalog.RUNNER_SLOTS,
        catalog.RUNNER_SLOTS_BUSY, catalog.RUNNER_SLOTS_READING, catalog.RUNNER_SLOT_CONTEXT,
        catalog.RUNNER_CONTEXT_USED, catalog.RUNNER_CONTEXT_CACHED, catalog.RUNNER_LONGEST, catalog.RUNNER_INFO,
        catalog.RUNNER_RESIDENT, catalog.RUNNER_STARTED,
    )
}  # fmt: skip
COUNTED = {family.name for family in catalog.FAMILIES if family.name.startswith("ollama_runner_")} - PRESENT


class Here(Local):
    """The machine that a simulated server and its children run on."""

    def __init__(self, server: SimServer, metrics: bool = True) -> None:
        self._server, self.children = server, Children(server, metrics=metrics)
        self.sees_processes = True
        self.knows_names = True
        self.trouble: Exception | None = None
        self.killed_for_memory: int | None = 30
        self.killed_by: int | None = None
        self.others: list[RunnerProcess] = []

    def place(self, url: str) -> Place:
        if self.trouble is not None:
            raise self.trouble
        return Place((("127.0.0.1", API_PORT),), pid=self.children.pid if self.sees_processes else None, started=0.0)

    def runners(self, place: Place) -> tuple[RunnerProcess, ...]:
        there = self.children.now()
        if not self.sees_processes:
            return (*(RunnerProcess(child.port) for child in there), *self.others)
        return (*(RunnerProcess(c.port, c.pid, c.arguments, c.started) for c in there), *self.others)

    def births(self, place: Place) -> Births:
        return SimBirths(lambda: self.runners(place))

    def handle(self, process: RunnerProcess) -> None:
        """No descriptor tells of the end of what is only played."""

    def usage(self, process: RunnerProcess) -> Usage | None:
        child = next((child for child in self.children.now() if child.pid == process.pid), None)
        return Usage(child.resident_bytes, child.cpu_seconds) if child else None

    def killer(self, process: RunnerProcess) -> int | None:
        return self.killed_by

    def oom_kills(self) -> int | None:
        return self.killed_for_memory

    def environment(self, place: Place) -> Mapping[str, str]:
        return {}

    def names(self, place: Place, blob: str) -> tuple[str, ...]:
        return tuple(m.name for m in self._server.models if f"sha256-{m.blob}" == blob) if self.knows_names else ()

    def connections(self, place: Place) -> Connections:
        raise AssertionError("the runner source looks at no connections")

    def connect(self, place: Place, port: int, timeout: float) -> Any:
        raise AssertionError("in virtual time there are no sockets")


class Ways:
    """What leads to the server's port and its children's. `hung`: ports that say nothing; `told`: what others say;
    `delay`: seconds before each answer."""

    def __init__(self, server: SimServer, here: Here) -> None:
        self._here = here
        self._api = httpx.AsyncClient(transport=SimTransport({"a": server}), base_url=ENDPOINT.url, timeout=PATIENT)
        self.hung: set[int] = set()
        self.delay = 0.0
        self.told: dict[int, dict[str, Reply | Exception]] = {}
        self.asked: list[tuple[int, str]] = []

    def __call__(self, machine: Local, place: Place, port: int) -> LlamaWire:
        return Way(self, port)

    async def get(self, port: int, path: str) -> Reply:
        self.asked.append((port, path))
        await asyncio.sleep(self.delay)
        if port in self.hung:
            await asyncio.sleep(PATIENT)
        if path in self.told.get(port, {}):
            told = self.told[port][path]
            if isinstance(told, Exception):
                raise told
            return told
        if port == API_PORT:
            response = await self._api.get(path)
            return Reply(response.status_code, dict(response.headers), response.content)
        child = next((child for child in self._here.children.now() if child.port == port), None)
        if child is None:
            raise ConnectionRefusedError
        answer = child.answer(path)
        return Reply(answer.status, {name.lower(): value for name, value in answer.headers.items()}, answer.body)

    async def aclose(self) -> None:
        await self._api.aclose()


class Way(LlamaWire):
    def __init__(self, ways: Ways, port: int) -> None:
        self._ways, self._port = ways, port

    async def get(self, path: str) -> Reply:
        return await self._ways.get(self._port, path)

    async def close(self) -> None:
        """Nothing is held."""


class Stage:
    """A server named `a`, its users, and the source that looks at its runners every five seconds."""

    def __init__(self, server: SimServer, settings: RunnerSettings, metrics: bool) -> None:
        self.server, self.here = server, Here(server, metrics)
        self.ways = Ways(server, self.here)
        self.watch = Watch("a", "runner", 5.0, 10.0, settings)
        self._people = httpx.AsyncClient(transport=SimTransport({"a": server}), base_url=ENDPOINT.url, timeout=PATIENT)
        self.truth: dict[str, int] = {}
        self.begin()

    def begin(self) -> None:
        """An exporter that has just started."""
        around = Surroundings(now=virtual_wall_clock, machine=self.here, wire=self.ways)
        self.source = build(self.watch, around)
        self.observer = Observer(self.watch, self.source, SOURCES["runner"].reasons, virtual_wall_clock)

    async def look(self) -> Seen:
        return Seen(await self.observer.observe())

    async def run(self, seconds: float) -> list[Seen]:
        """Look every five seconds for so long."""
        seen = []
        for _ in range(round(seconds / 5.0)):
            await asyncio.sleep(5.0)
            seen.append(await self.look())
        return seen

    async def ask(self, model: str = "tinyllama", tokens: int = 20, **body: Any) -> dict[str, Any]:
        asked = {"model": model, "prompt": "Why is the sky blue?", "stream": False, **body}
        response = await self._people.post("/api/generate", json={**asked, "options": {"num_predict": tokens}})
        answer: dict[str, Any] = response.json()
        name = model if ":" in model else f"{model}:latest"
        self.truth[name] = self.truth.get(name, 0) + answer.get("eval_count", 0)
        return answer

    async def users(self, models: tuple[str, ...], rng: random.Random) -> None:
        """One user after the other, short and long, until cancelled."""
        while True:
            await self.ask(rng.choice(models), rng.choice((1, 3, 20, 200)), prompt=f"number {rng.random()}")
            await asyncio.sleep(rng.random() * 3)

    async def listed(self) -> dict[str, Any]:
        rows = (await self._people.get("/api/ps")).json()["models"]
        return {row["name"]: row for row in rows}

    async def aclose(self) -> None:
        await self.source.aclose()
        await self.ways.aclose()
        await self._people.aclose()
        await self.server.aclose()


@asynccontextmanager
async def stage(
    server: ServerConfig | None = None, *, metrics: bool = True, settings: RunnerSettings | None = None
) -> AsyncIterator[Stage]:
    default = ServerConfig(engine=EngineConfig(num_parallel=4))
    it = Stage(SimServer(server or default, virtual_wall_clock), settings or RunnerSettings(ENDPOINT.url), metrics)
    try:
        yield it
    finally:
        await it.aclose()


def config(*models: Any, slots: int = 4, **engine: Any) -> ServerConfig:
    return ServerConfig(models=models, engine=EngineConfig(num_parallel=slots, **engine))


def counts(seen: Seen) -> dict[tuple[str, tuple[str, ...]], float]:
    return {
        (sample.family.name, sample.labels): float(sample.value)  # type: ignore[arg-type]
        for sample in seen.reading.samples
        if sample.family.kind == "counter"
    }


def ends(seen: Seen, model: str) -> dict[str, float]:
    """By reason; empty where they cannot be seen."""
    told = ((why, seen(catalog.RUNNER_ENDS, model=model, reason=why)) for why in WHYS)
    return {why: value for why, value in told if value is not None}


def lacks(seen: Seen) -> tuple[Lack, ...]:
    return seen.reading.lacks


# --- what is there ---------------------------------------------------------------------------------------------------


@virtually
async def test_an_idle_runner_shows_what_it_is() -> None:
    async with stage() as it:
        await it.ask(keep_alive="10m")
        seen = await it.look()
        (row,) = (await it.listed()).values()
        assert seen.failure is None
        assert lacks(seen) == ()
        assert seen(catalog.RUNNER_PROCESSES, model=TINY) == 1.0
        assert seen(catalog.RUNNER_LOADING, model=TINY) == 0.0
        assert seen(catalog.RUNNER_MISSING, model=TINY) == 0.0
        assert seen(catalog.RUNNER_SLOTS, model=TINY) == 4.0
        assert seen(catalog.RUNNER_SLOTS_BUSY, model=TINY) == 0.0
        assert seen(catalog.RUNNER_SLOT_CONTEXT, model=TINY) == row["context_length"]
        assert seen(catalog.RUNNER_CONTEXT_USED, model=TINY) == 0.0
        assert seen(catalog.RUNNER_LONGEST, model=TINY) == 0.0
        assert seen.total(catalog.RUNNER_CONTEXT_CACHED, model=TINY) > 20.0
        assert seen.total(catalog.RUNNER_RESIDENT, model=TINY) > 2**20
        assert seen.total(catalog.RUNNER_STARTED, model=TINY) <= it.server.wall_time()
        info = {"engine": "llama", "slots": "4", "context": str(4 * row["context_length"]), "batch": "1024"}
        unset = {"cache_k": "", "cache_v": "", "gpu_layers": "", "threads": ""}
        rest = {"flash_attention": "auto", "build": "b10488-efbeafe53"}
        assert seen(catalog.RUNNER_INFO, model=TINY, **info, **unset, **rest) == 1.0
        assert seen.families() == PRESENT | COUNTED


@virtually
async def test_busy_slots_and_the_context_they_fill() -> None:
    async with stage(config(SLOW)) as it:
        await it.ask(tokens=1)
        async with meanwhile(*(it.ask(tokens=600, prompt=f"w {n}") for n in range(3))):
            await asyncio.sleep(10)
            seen = await it.look()
            assert seen(catalog.RUNNER_SLOTS_BUSY, model=TINY) == 3.0
            assert seen(catalog.RUNNER_SLOTS_READING, model=TINY) == 0.0
            used, longest = (
                seen.total(family, model=TINY) for family in (catalog.RUNNER_CONTEXT_USED, catalog.RUNNER_LONGEST)
            )
            assert 3 * 95 < used < 3 * 130  # 100 tokens and a prompt each
            assert used / 3 <= longest < used
    assert longest < seen.total(catalog.RUNNER_SLOT_CONTEXT, model=TINY)


@virtually
async def test_slots_that_read_a_prompt_are_told_from_those_that_answer() -> None:
    async with stage(config(replace(SLOW, prefill_tokens_per_second=10.0))) as it:
        await it.ask(tokens=1)
        async with meanwhile(it.ask(tokens=100, prompt="word " * 200)):
            await asyncio.sleep(5)
            seen = await it.look()
            assert seen(catalog.RUNNER_SLOTS_BUSY, model=TINY) == 1.0
            assert seen(catalog.RUNNER_SLOTS_READING, model=TINY) == 1.0
            assert 40 < seen.total(catalog.RUNNER_CONTEXT_USED, model=TINY) < 60
            assert seen(catalog.RUNNER_TOKENS_SEEN, model=TINY) == 0.0
            await asyncio.sleep(20)
            seen = await it.look()
            assert seen(catalog.RUNNER_SLOTS_READING, model=TINY) == 0.0


@virtually
async def test_a_load_in_progress_can_be_seen() -> None:
    async with stage(config(replace(TINYLLAMA, load_seconds=20.0))) as it:
        assert (await it.look()).failure is None
        async with meanwhile(it.ask(tokens=1)):
            await asyncio.sleep(10)
            seen = await it.look()
            assert await it.listed() == {}
            assert seen.failure is None
            assert seen(catalog.RUNNER_LOADING, model=TINY) == 1.0
            assert seen(catalog.RUNNER_SLOTS, model=TINY) is None
            assert seen(catalog.RUNNER_STARTS, model=TINY) == 1.0
            await asyncio.sleep(15)
            seen = await it.look()
            assert seen(catalog.RUNNER_LOADING, model=TINY) == 0.0
            assert seen(catalog.RUNNER_SLOTS, model=TINY) == 4.0
            assert seen(catalog.RUNNER_STARTS, model=TINY) == 1.0


# --- counting --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delay", [0.0, 0.8], ids=["at one moment", "while answers end between two questions"])
@pytest.mark.parametrize("seed", range(3))
@virtually
async def test_no_token_is_missed_and_none_is_counted_twice(seed: int, delay: float) -> None:
    async with stage() as it:
        it.ways.delay = delay
        await it.look()
        before: dict[tuple[str, tuple[str, ...]], float] = {}
        async with meanwhile(*(it.users(("tinyllama", LLAMA), random.Random(10 * seed + n)) for n in range(6))):
            for _ in range(24):
                (seen,) = await it.run(5)
                assert seen.failure is None
                made = {
                    runner.model.name: runner.work.totals.generated
                    + sum(row.decoded for row in runner.work.rows if row.busy)
                    for runner in it.server.engine.children()
                    if not runner.loading
                }
                told = {model: seen(catalog.RUNNER_TOKENS, model=model) or 0.0 for model in made}
                assert all(told[model] <= tokens for model, tokens in made.items())
                assert told == made or delay
                now = counts(seen)
                assert all(now[key] >= value for key, value in before.items())
                before = now
        await asyncio.sleep(5)
        seen = await it.look()
        made = {runner.model.name: runner.work.totals.generated for runner in it.server.engine.children()}
        assert made.keys() == {TINY, LLAMA}
        for model, tokens in made.items():
            assert tokens >= it.truth[model] > 500
            assert seen(catalog.RUNNER_TOKENS, model=model) == tokens
            assert seen(catalog.RUNNER_ANSWERED_TOKENS, model=model) == tokens
            assert 0.0 < seen.total(catalog.RUNNER_TOKENS_SEEN, model=model) <= tokens
            assert seen.total(catalog.RUNNER_ANSWERED_SECONDS, model=model) > 0.0
            assert seen.total(catalog.RUNNER_PROMPT_TOKENS, model=model) > 0.0


@virtually
async def test_an_answer_that_ends_between_two_questions_is_counted_when_the_runner_has_counted_it() -> None:
    async with stage() as it:
        await it.ask()
        port = it.here.children.now()[0].port

        def state(finished: int, making: int) -> dict[str, Reply | Exception]:
            body = f"llamacpp:tokens_predicted_total {finished}\n".encode()
            slot = {"id": 0, "is_processing": making > 0, "id_task": 1, "next_token": [{"n_decoded": making}]}
            return {"/metrics": Reply(200, {}, body), "/slots": told([slot])}

        totals = []
        for finished, making in ((100, 0), (100, 80), (100, 0), (190, 0), (190, 5)):
            it.ways.told[port] = state(finished, making)
            totals.append((await it.look())(catalog.RUNNER_TOKENS, model=TINY))
        assert totals == [0.0, 80.0, 80.0, 90.0, 95.0]


@virtually
async def test_at_every_moment_the_count_is_of_what_was_made_so_far() -> None:
    async with stage(config(SLOW)) as it:
        await it.ask(tokens=1)
        await it.look()
        async with meanwhile(*(it.ask(tokens=300, prompt=f"w {n}") for n in range(2))):
            for seconds, seen in enumerate(await it.run(25), start=1):
                told = seen.total(catalog.RUNNER_TOKENS, model=TINY)
                assert told == seen(catalog.RUNNER_TOKENS_SEEN, model=TINY)
                assert told == pytest.approx(2 * 10 * 5 * seconds, abs=8)  # grows while no answer has ended
                assert seen(catalog.RUNNER_ANSWERED_TOKENS, model=TINY) == 0.0


@virtually
async def test_an_exporter_that_comes_later_counts_from_then_on() -> None:
    async with stage(config(SLOW)) as it:
        await it.ask(tokens=100)
        async with meanwhile(it.ask(tokens=400)):
            await asyncio.sleep(10)
            seen = await it.look()
            assert set(counts(seen).values()) == {0.0}
            (seen,) = await it.run(5)
            assert seen.total(catalog.RUNNER_TOKENS, model=TINY) == pytest.approx(50, abs=2)
            assert seen.total(catalog.RUNNER_TOKENS_SEEN, model=TINY) == pytest.approx(50, abs=2)
            assert seen(catalog.RUNNER_STARTS, model=TINY) == 0.0


@virtually
async def test_counters_outlive_their_runner() -> None:
    async with stage() as it:
        await it.look()
        await it.ask(tokens=50)
        first = await it.look()
        await it.ask(tokens=1, prompt="", keep_alive=0)
        gone = await it.look()
        assert gone.families() & PRESENT == set()
        assert counts(gone) == counts(first)
        await it.ask(tokens=30)
        again = await it.look()
        assert again(catalog.RUNNER_TOKENS, model=TINY) == 80.0
        assert again(catalog.RUNNER_STARTS, model=TINY) == 2.0
        assert again.total(catalog.RUNNER_CPU, model=TINY) > first.total(catalog.RUNNER_CPU, model=TINY)


@pytest.mark.parametrize(
    ("before", "now", "tokens"),
    [
        (None, Slot(0, False), 0),
        (None, Slot(0, True, task=1, decoded=7), 7),
        (Slot(0, True, task=1, decoded=7), Slot(0, True, task=1, decoded=9), 2),
        (Slot(0, True, task=1, decoded=7), Slot(0, True, task=2, decoded=3), 3),
        (Slot(0, False, task=1, decoded=0), Slot(0, True, task=1, decoded=3), 3),
        (Slot(0, True, task=1, held=20, decoded=7), Slot(0, False, task=1, held=25, decoded=0), 5),
        # The prompt was not read yet: what was held since is not known to be tokens of the answer.
        (Slot(0, True, task=1, held=20, decoded=0), Slot(0, False, task=1, held=90, decoded=0), 0),
        (Slot(0, True, task=1, held=4000, decoded=700), Slot(0, False, task=1, held=2050, decoded=0), 0),  # shifted
        (Slot(0, True, task=1, held=20, decoded=7), Slot(0, False, task=2, held=90, decoded=0), 0),
        (Slot(0, True, task=1, decoded=7), Slot(0, False, task=1, held=90, decoded=0), 0),
        (Slot(0, True, task=1, decoded=7), Slot(0, True, task=1), 0),
        (Slot(0, False, task=1, held=20), Slot(0, False, task=2, held=90), 0),
    ],
)
def test_what_grew_in_a_slot(before: Slot | None, now: Slot, tokens: int) -> None:
    assert grown(before, now) == tokens


def test_tokens_of_the_task_before_are_not_counted_beside_a_tasks_own() -> None:
    growth = Growth(born=True)
    for slot in (
        Slot(0, True, task=1, held=20, decoded=40),
        Slot(0, False, task=1, held=28, decoded=0),
        Slot(0, True, task=2, held=28, decoded=48),  # just taken, and not begun yet
        Slot(0, True, task=2, held=20, decoded=4),
        Slot(0, True, task=2, held=30, decoded=14),
        Slot(0, False, task=2, held=64, decoded=0),
    ):
        growth.see([slot])
    assert growth.tokens == 96


# --- runners that die, and models without one ------------------------------------------------------------------------


@virtually
async def test_a_listed_model_without_a_process_is_missing_and_that_is_counted_once() -> None:
    async with stage() as it:
        await it.ask(tokens=50)
        await it.ask(LLAMA, tokens=5)
        before = await it.look()
        it.server.inject(Fault("runner_killed", model=TINY))
        (first,) = await it.run(5)
        assert TINY in await it.listed()
        assert first.failure is None
        assert first(catalog.RUNNER_MISSING, model=TINY) == 0.0  # it may be just being unloaded
        assert first(catalog.RUNNER_PROCESSES, model=TINY) is None
        for seen in await it.run(20):
            assert seen(catalog.RUNNER_MISSING, model=TINY) == 1.0
            assert seen(catalog.RUNNER_MISSING, model=LLAMA) == 0.0
            assert ends(seen, TINY) == {"died": 1.0, "unloaded": 0.0, "unknown": 0.0}
            assert ends(seen, LLAMA) == {"died": 0.0, "unloaded": 0.0, "unknown": 0.0}
            assert seen(catalog.RUNNER_TOKENS, model=TINY) == before(catalog.RUNNER_TOKENS, model=TINY)
        await it.ask(tokens=50)
        seen = await it.look()
        assert seen(catalog.RUNNER_MISSING, model=TINY) == 0.0
        assert seen(catalog.RUNNER_STARTS, model=TINY) == 1.0
        assert ends(seen, TINY) == {"died": 1.0, "unloaded": 0.0, "unknown": 0.0}
        assert seen(catalog.RUNNER_TOKENS, model=TINY) == 50.0


@virtually
async def test_swapping_models_is_no_crash() -> None:
    async with stage(config(TINYLLAMA, LLAMA32_3B, max_loaded_models=1)) as it:
        await it.look()
        async with meanwhile(*(it.users(("tinyllama", LLAMA), random.Random(n)) for n in range(4))):
            for seen in await it.run(300):
                assert seen.failure is None
                assert all(ends(seen, model)["died"] == 0.0 for model in (TINY, LLAMA))
                assert all(seen(catalog.RUNNER_MISSING, model=model) != 1.0 for model in (TINY, LLAMA))
        assert seen.total(catalog.RUNNER_STARTS, model=TINY) > 3.0
        assert seen.series(catalog.RUNNER_STARTS) == {("a", TINY), ("a", LLAMA)}


def none_but(**ends: float) -> dict[str, float]:
    return {"unloaded": 0.0, "died": 0.0, "unknown": 0.0, **ends}


@virtually
async def test_runners_that_come_and_go_between_two_looks_are_counted_each_once() -> None:
    async with stage(config(replace(TINYLLAMA, load_seconds=0.6), replace(LLAMA32_3B, load_seconds=0.6))) as it:
        await it.look()
        for _ in range(3):
            await it.ask(tokens=30, keep_alive=0)
            await asyncio.sleep(0.5)
        await it.ask(LLAMA, tokens=1)
        await asyncio.sleep(0.5)
        seen = await it.look()
        assert seen(catalog.RUNNER_STARTS, model=TINY) == 3.0
        assert ends(seen, TINY) == none_but(unloaded=3.0)
        assert seen(catalog.RUNNER_STARTS, model=LLAMA) == 1.0
        assert ends(seen, LLAMA) == none_but()
        assert seen(catalog.RUNNER_PROCESSES, model=TINY) is None


@virtually
async def test_who_killed_a_runner_is_known_tells_why_it_ended() -> None:
    async with stage(config(replace(TINYLLAMA, load_seconds=0.6))) as it:

        async def comes_and_goes() -> dict[str, float]:
            await it.ask(tokens=30, keep_alive=0)
            await asyncio.sleep(0.5)
            return ends(await it.look(), TINY)

        await it.look()
        it.here.killed_for_memory = 31
        it.here.killed_by = it.here.children.pid
        assert await comes_and_goes() == none_but(unloaded=1.0)
        it.here.killed_by = 4711
        assert await comes_and_goes() == none_but(unloaded=1.0, died=1.0)
        it.here.killed_by = 0  # the kernel
        assert await comes_and_goes() == none_but(unloaded=1.0, died=2.0)


@virtually
async def test_an_end_soon_after_the_kernel_killed_for_memory_is_not_taken_for_an_unload() -> None:
    async with stage(config(replace(TINYLLAMA, load_seconds=0.6))) as it:

        async def comes_and_goes() -> dict[str, float]:
            await it.ask(tokens=30, keep_alive=0)
            await asyncio.sleep(0.5)
            return ends(await it.look(), TINY)

        await it.look()
        await it.look()
        it.here.killed_for_memory = 31
        assert await comes_and_goes() == none_but(unknown=1.0)
        assert await comes_and_goes() == none_but(unknown=2.0)  # who is killed takes a moment to end
        assert await comes_and_goes() == none_but(unknown=2.0, unloaded=1.0)
        it.here.killed_for_memory = None
        assert await comes_and_goes() == none_but(unknown=3.0, unloaded=1.0)  # it cannot be told


@virtually
async def test_a_runner_that_dies_and_is_replaced_before_the_next_look_has_died() -> None:
    async with stage() as it:
        await it.look()
        await it.ask()
        await it.look()
        for _ in range(2):
            it.server.inject(Fault("runner_killed", model=TINY))
            await asyncio.sleep(0.5)
            await it.ask()
        (seen,) = await it.run(5)
        assert seen(catalog.RUNNER_STARTS, model=TINY) == 3.0
        assert ends(seen, TINY) == none_but(died=2.0)
        assert seen(catalog.RUNNER_MISSING, model=TINY) == 0.0


@virtually
async def test_a_runner_that_was_there_before_the_exporter_has_no_start_and_an_end() -> None:
    async with stage() as it:
        await it.ask()
        await it.look()
        await it.ask(keep_alive=0)
        (seen,) = await it.run(5)
        assert seen(catalog.RUNNER_STARTS, model=TINY) == 0.0
        assert ends(seen, TINY) == none_but(unloaded=1.0)


@virtually
async def test_a_load_that_fails_is_no_unloading() -> None:
    async with stage(config(replace(TINYLLAMA, load_seconds=3.0))) as it:
        await it.look()
        it.server.inject(Fault("load_failed"))
        await it.ask()
        it.server.heal("load_failed")
        (seen,) = await it.run(5)
        assert seen(catalog.RUNNER_STARTS, model=TINY) == 1.0
        assert ends(seen, TINY) == none_but(unknown=1.0)


@virtually
async def test_why_is_not_known_where_the_server_does_not_answer() -> None:
    async with stage() as it:
        await it.ask()
        await it.look()
        it.ways.hung.add(API_PORT)
        it.server.inject(Fault("runner_killed", model=TINY))
        await asyncio.sleep(4)
        it.ways.hung.clear()
        assert ends(await it.look(), TINY) == none_but(unknown=1.0)


@pytest.mark.parametrize("load_seconds", [0.3, 3.0], ids=["listed again", "not listed yet"])
@virtually
async def test_what_a_server_lists_when_it_has_replaced_a_runner_tells_nothing(load_seconds: float) -> None:
    async with stage(config(replace(TINYLLAMA, load_seconds=load_seconds))) as it:
        await it.ask()
        await it.look()
        it.ways.delay = 1.5
        it.server.inject(Fault("runner_killed", model=TINY))
        await asyncio.sleep(0.5)
        await it.ask()
        await asyncio.sleep(2)
        it.ways.delay = 0.0
        (seen,) = await it.run(5)
        assert seen(catalog.RUNNER_STARTS, model=TINY) == 1.0
        assert ends(seen, TINY) == none_but(unknown=1.0)


@virtually
async def test_where_only_ports_are_seen_nothing_is_said_of_ends() -> None:
    async with stage() as it:
        it.here.sees_processes = False
        await it.look()
        await it.ask(keep_alive=0)
        await it.ask()
        (seen,) = await it.run(5)
        assert seen.series(catalog.RUNNER_ENDS) == set()


def test_a_model_that_is_on_its_way_out_at_two_looks_is_no_crash() -> None:
    missing = Missing()

    def look(at: float, *pids: int) -> frozenset[str]:
        runners = [Runner(RunnerProcess(1000 + pid, pid, ("--model", "x"), float(pid)), True) for pid in pids]
        for runner in runners:
            runner.model = LLAMA
        missing.see(at, frozenset({TINY}), runners)
        return missing.dead

    assert look(0.0, 1) == frozenset()
    assert look(5.0, 2) == frozenset()  # between the two looks another one was started
    assert look(10.0, 3) == frozenset()
    assert look(15.0, 3) == {TINY}
    assert look(20.0, 4) == {TINY}  # a load elsewhere does not bring it back
    assert look(25.0) == {TINY}


@virtually
async def test_what_cannot_be_compared_is_not_called_missing() -> None:
    async with stage() as it:
        await it.ask()
        await it.ask(LLAMA)
        it.server.inject(Fault("runner_killed", model=TINY))
        it.here.knows_names = False  # the runner that is left may be any model's
        for seen in await it.run(20):
            assert seen.series(catalog.RUNNER_MISSING) == set()
        it.here.knows_names = True
        it.server.inject(Fault("ps_stalled"))
        for seen in await it.run(20):
            assert seen.failure is None
            assert seen.series(catalog.RUNNER_MISSING) == set()
        it.server.heal()
        assert (await it.run(10))[-1](catalog.RUNNER_MISSING, model=TINY) == 1.0


# --- names -----------------------------------------------------------------------------------------------------------


@virtually
async def test_of_several_names_the_listed_one_is_told_and_none_is_guessed() -> None:
    other = replace(TINYLLAMA.tagged("assistant:v2"), load_seconds=20.0)
    async with stage(config(TINYLLAMA, other)) as it:
        await it.look()
        async with meanwhile(it.ask("assistant:v2", tokens=1)):
            await asyncio.sleep(12)
            seen = await it.look()
            assert seen.series(catalog.RUNNER_PROCESSES) == {("a", UNKNOWN)}
            assert seen(catalog.RUNNER_LOADING, model=UNKNOWN) == 1.0
            await asyncio.sleep(12)
        seen = await it.look()
        assert seen.series(catalog.RUNNER_PROCESSES) == {("a", "assistant:v2")}
        await it.ask("tinyllama", tokens=30)  # the same runner, under its other name
        seen = await it.look()
        assert seen.series(catalog.RUNNER_PROCESSES) == {("a", "assistant:v2")}
        assert seen(catalog.RUNNER_TOKENS, model="assistant:v2") == 31.0
        assert seen.series(catalog.RUNNER_STARTS) == {("a", "assistant:v2")}
        assert lacks(seen) == ()
        it.server.inject(Fault("ps_stalled"))
        seen = await it.look()
        assert seen.series(catalog.RUNNER_PROCESSES) == {("a", "assistant:v2")}


@virtually
async def test_a_runner_that_nobody_can_name_is_unknown_and_that_is_said() -> None:
    async with stage() as it:
        it.here.knows_names = False
        await it.look()
        await it.ask(tokens=40)
        seen = (await it.run(15))[-1]
        assert seen.failure is None
        assert lacks(seen) == (NAMELESS,)
        assert seen(catalog.RUNNER_SLOTS, model=UNKNOWN) == 4.0
        assert seen(catalog.RUNNER_TOKENS, model=UNKNOWN) == 40.0
        assert seen(catalog.RUNNER_STARTS, model=UNKNOWN) == 1.0


@virtually
async def test_what_is_beyond_the_cap_is_put_together() -> None:
    settings = RunnerSettings(ENDPOINT.url, models_max=1)
    async with stage(config(TINYLLAMA, LLAMA32_3B, NOMIC_EMBED), settings=settings) as it:
        await it.ask(tokens=10)
        await it.look()
        await it.ask(LLAMA, tokens=20)
        seen = await it.look()
        assert seen.series(catalog.RUNNER_SLOTS) == {("a", TINY), ("a", OTHER)}
        assert seen.series(catalog.RUNNER_MISSING) == {("a", TINY), ("a", OTHER)}
        assert seen(catalog.RUNNER_TOKENS, model=OTHER) == 20.0


# --- what is lacking -------------------------------------------------------------------------------------------------


@virtually
async def test_without_metrics_there_is_the_lower_bound_and_the_remedy() -> None:
    async with stage(config(SLOW), metrics=False) as it:
        await it.look()
        async with meanwhile(it.ask(tokens=200)):
            seen = (await it.run(15))[-1]
            assert lacks(seen) == (NO_METRICS,)
            assert "LLAMA_ARG_ENDPOINT_METRICS=1" in NO_METRICS.remedy
            assert seen.total(catalog.RUNNER_TOKENS_SEEN, model=TINY) > 100.0
            for family in (catalog.RUNNER_TOKENS, catalog.RUNNER_ANSWERED_TOKENS, catalog.RUNNER_PROMPT_TOKENS):
                assert seen.series(family) == set()
        assert (it.here.children.now()[0].port, "/metrics") not in it.ways.asked  # /props had said so


def refusal(status: int) -> Reply:
    return Reply(status, {"server": "llama.cpp"}, b'{"error":{}}')


@pytest.mark.parametrize(
    ("refused", "lack"),
    [
        ({"/slots": refusal(501)}, NO_SLOTS),
        ({"/metrics": refusal(501)}, NO_METRICS),
        ({"/slots": refusal(401), "/metrics": refusal(401)}, BEHIND_KEY),
        ({"/props": refusal(401)}, BEHIND_KEY),
    ],
)
@virtually
async def test_what_is_switched_off_is_a_lack_and_no_failure(refused: dict[str, Reply], lack: Lack) -> None:
    async with stage() as it:
        await it.ask()
        it.ways.told[it.here.children.now()[0].port] = dict(refused)
        seen = await it.look()
        assert seen.failure is None
        assert lacks(seen) == (lack,)
        assert seen(catalog.RUNNER_PROCESSES, model=TINY) == 1.0
        assert (seen(catalog.RUNNER_SLOTS, model=TINY) is None) == ("/metrics" not in refused or len(refused) == 2)


def told(value: object) -> Reply:
    return Reply(200, {}, json.dumps(value).encode())


OLD_RUNNER = RunnerProcess(
    50_001, 9_001, ("ollama_llama_server", "--model", f"/m/sha256-{TINYLLAMA.blob}", "--port", "50001"), 1.0, "old"
)
MLX_RUNNER = RunnerProcess(
    50_002, 9_002, ("ollama", "runner", "--mlx-engine", "--model", "qwen3", "--port", "50002"), 1.0, "mlx"
)


@virtually
async def test_older_runners_tell_less() -> None:
    async with stage() as it:
        it.here.others = [OLD_RUNNER]
        it.ways.told[50_001] = {"/health": told({"status": "ok", "slots_idle": 3, "slots_processing": 1})}
        seen = await it.look()
        assert lacks(seen) == (OLD,)
        assert seen(catalog.RUNNER_SLOTS, model=TINY) == 4.0
        assert seen(catalog.RUNNER_SLOTS_BUSY, model=TINY) == 1.0
        assert seen.series(catalog.RUNNER_CONTEXT_USED) == set()
        it.ways.told[50_001] = {"/health": told({"status": 3, "progress": 0.5})}
        seen = await it.look()
        assert seen(catalog.RUNNER_LOADING, model=TINY) == 1.0
        assert seen.series(catalog.RUNNER_SLOTS) == set()
        assert {path for port, path in it.ways.asked if port == 50_001} == {"/health"}


@virtually
async def test_an_mlx_runner_names_its_model_itself() -> None:
    async with stage() as it:
        it.here.others = [MLX_RUNNER]
        it.ways.told[50_002] = {"/v1/status": told({"Status": 0, "Progress": 100, "ContextLength": 40960})}
        seen = await it.look()
        assert (seen.failure, lacks(seen)) == (None, ())
        assert seen(catalog.RUNNER_SLOT_CONTEXT, model="qwen3:latest") == 40960.0
        assert seen.series(catalog.RUNNER_SLOTS) == set()


@virtually
async def test_by_ports_alone_runners_are_found_and_strangers_left_alone() -> None:
    async with stage() as it:
        it.here.sees_processes, it.here.knows_names = False, False
        it.here.others = [RunnerProcess(50_010), RunnerProcess(50_011)]
        own = {"model_path": "/home/me/tiny.gguf"}  # somebody's own llama-server
        it.ways.told[50_010] = {"/props": told({"hello": "world"})}
        it.ways.told[50_011] = {"/props": Reply(200, {"server": "llama.cpp"}, json.dumps(own).encode())}
        await it.look()
        await it.ask(tokens=30)
        seen = (await it.run(15))[-1]
        assert seen.failure is None
        assert lacks(seen) == (NAMELESS_PORTS,)
        assert seen(catalog.RUNNER_PROCESSES, model=UNKNOWN) == 1.0
        assert seen(catalog.RUNNER_TOKENS, model=UNKNOWN) == 30.0
        for family in (catalog.RUNNER_RESIDENT, catalog.RUNNER_STARTED, catalog.RUNNER_MISSING):
            assert seen.series(family) == set()
        assert [asked for asked in it.ways.asked if asked[0] > 50_000] == [(50_010, "/props"), (50_011, "/props")]


@virtually
async def test_on_a_port_that_another_process_took_counting_goes_on() -> None:
    async with stage() as it:
        it.here.sees_processes = False
        port = 50_020
        it.here.others = [RunnerProcess(port)]
        props = {"model_path": f"/m/blobs/sha256-{TINYLLAMA.blob}", "endpoint_slots": False}
        llama = {"server": "llama.cpp"}

        def made(tokens: int, mark: str) -> Reply:
            body = f"llamacpp:tokens_predicted_total {tokens}\n".encode()
            return Reply(200, {**llama, "process-start-time-unix": mark}, body)

        it.ways.told[port] = {"/props": Reply(200, llama, json.dumps(props).encode())}
        totals = []
        for tokens, mark in ((100, "1"), (130, "1"), (50, "2"), (55, "2")):
            it.ways.told[port]["/metrics"] = made(tokens, mark)
            totals.append((await it.look())(catalog.RUNNER_ANSWERED_TOKENS, model=TINY))
        assert totals == [0.0, 30.0, 80.0, 85.0]


@virtually
async def test_without_sight_of_the_server_there_is_nothing_and_a_remedy() -> None:
    async with stage() as it:
        it.here.trouble = Lacking("it is on another machine", "run an exporter there")
        seen = await it.look()
        assert (seen.failure, lacks(seen)) == (
            "unavailable",
            (Lack("it is on another machine", "run an exporter there"),),
        )
        assert seen.reading.samples == ()


# --- failures --------------------------------------------------------------------------------------------------------


@virtually
async def test_a_runner_that_hangs_fails_the_reading_beside_what_the_others_tell() -> None:
    async with stage() as it:
        await it.ask(tokens=30)
        await it.ask(LLAMA, tokens=30)
        before = await it.look()
        hung = next(child.port for child in it.here.children.now() if child.runner.model.name == TINY)
        it.ways.hung.add(hung)
        seen = await it.look()
        assert seen.failure == "timeout"
        assert seen(catalog.RUNNER_PROCESSES, model=TINY) == 1.0
        assert seen(catalog.RUNNER_SLOTS, model=TINY) is None
        assert seen(catalog.RUNNER_CONTEXT_USED, model=TINY) is None
        assert seen(catalog.RUNNER_SLOTS, model=LLAMA) == 4.0
        assert counts(seen).keys() == counts(before).keys()
        it.ways.hung.clear()
        assert (await it.look()).failure is None


@virtually
async def test_a_runner_that_cannot_be_reached_once_may_be_just_ending() -> None:
    async with stage() as it:
        await it.ask()
        it.ways.told[it.here.children.now()[0].port] = {"/props": ConnectionRefusedError()}
        first, second = await it.look(), await it.look()
        assert (first.failure, second.failure) == (None, "refused")
        assert first(catalog.RUNNER_PROCESSES, model=TINY) == 1.0
        assert first(catalog.RUNNER_SLOTS, model=TINY) is None


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (BadAnswer("decode", "x"), "decode"),
        (told({"no": "list"}), "malformed"),
        (refusal(500), "http_5xx"),
        (LookupError(), "unavailable"),
    ],
)
@virtually
async def test_what_a_runner_answers_wrongly_is_a_failure_with_its_reason(
    answer: Reply | Exception, reason: str
) -> None:
    async with stage() as it:
        await it.ask()
        it.ways.told[it.here.children.now()[0].port] = {"/slots": answer}
        seen = await it.look()
        assert seen.failure == reason
        assert reason in SOURCES["runner"].reasons
        assert seen(catalog.RUNNER_SLOTS_BUSY, model=TINY) is None


@virtually
async def test_impossible_values_are_counted() -> None:
    async with stage() as it:
        await it.ask()
        slot = {"id": 0, "is_processing": True, "id_task": 4, "n_ctx": 2048, "n_prompt_tokens": "many"}
        it.ways.told[it.here.children.now()[0].port] = {"/slots": told([slot])}
        seen = await it.look()
        assert seen.failure is None
        assert seen(catalog.RUNNER_REJECTED) == 1.0
        assert seen(catalog.RUNNER_SLOTS_BUSY, model=TINY) == 1.0
        assert seen(catalog.RUNNER_CONTEXT_USED, model=TINY) is None


@pytest.mark.parametrize("trouble", [LookupError("nobody listens"), Lacking("it is out of sight", "look elsewhere")])
@virtually
async def test_a_server_that_has_gone_takes_the_present_with_it_and_leaves_the_counters(trouble: Exception) -> None:
    async with stage() as it:
        await it.ask(tokens=30)
        before = await it.look()
        it.here.trouble = trouble
        seen = await it.look()
        assert seen.failure == "unavailable"
        assert seen.families() & PRESENT == set()
        assert counts(seen) == counts(before)


@virtually
async def test_a_look_does_not_join_one_that_still_hangs() -> None:
    async with stage() as it:
        await it.ask(tokens=30)
        before = await it.look()
        assert isinstance(it.source, RunnerSource)
        with it.source._looking:
            seen = await it.look()
        assert seen.failure == "timeout"
        assert seen.families() & PRESENT == set()
        assert counts(seen) == counts(before)
        assert (await it.look()).failure is None


# --- no harm ---------------------------------------------------------------------------------------------------------


@virtually
async def test_looking_leaves_no_trace() -> None:
    async with stage() as it:
        await it.ask(keep_alive="10m")
        (before,) = (await it.listed()).values()
        await it.run(300)
        (after,) = (await it.listed()).values()
        assert after == before
        assert not it.server.log.of("load", "reload", "evict")[1:]
        assert {path for _, path in it.ways.asked} == {"/api/ps", "/props", "/slots", "/metrics"}
        assert sum(path == "/props" for _, path in it.ways.asked) == 1
        await asyncio.sleep(301)
        assert await it.listed() == {}


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        (("x", "-np", "4"), "4"),
        (("x", "--parallel=4"), "4"),
        (("x", "--parallel"), ""),
        (("x", "--parallelism", "9"), ""),
        ((), ""),
    ],
)
def test_arguments(arguments: tuple[str, ...], value: str) -> None:
    assert argument(arguments, "-np", "--parallel") == value


@virtually
async def test_settings_that_are_none_are_not_shown() -> None:
    async with stage() as it:
        odd = (*OLD_RUNNER.arguments, "--cache-type-k", "q8_0", "--threads", "${secret stuff}", "-b", "x" * 200)
        it.here.others = [replace(OLD_RUNNER, arguments=odd)]
        it.ways.told[50_001] = {"/health": told({"status": "ok"})}
        ((_, model, engine, *rest),) = (await it.look()).series(catalog.RUNNER_INFO)
        assert (model, engine) == (TINY, "old")
        assert rest == ["", "", "", "q8_0", "", "", "", "", ""]


# --- the simulated children ------------------------------------------------------------------------------------------


@virtually
async def test_children_answer_as_the_real_one_was_recorded() -> None:
    async with stage() as it:
        await it.ask(tokens=1)
        async with meanwhile(it.ask(tokens=20_000, prompt="word " * 2000)):
            await asyncio.sleep(0.3)
            (child,) = it.here.children.now()
            slots = json.loads(child.answer("/slots").body)
        real_busy = json.loads(recorded("ollama-flood-warm-child-slots.txt"))
        real_fresh = json.loads(recorded("llama-smollm2-slots-idle.txt"))
        busy = next(slot for slot in slots if slot["is_processing"])
        fresh = next(slot for slot in slots if "id_task" not in slot)
        assert shape(busy) == shape(real_busy[0])
        assert shape(fresh) == shape(real_fresh[0])
        real = json.loads(recorded("llama-smollm2-props.txt"))
        told = json.loads(child.answer("/props").body)
        assert told.keys() <= real.keys()
        assert shape(told["default_generation_settings"]) == shape(real["default_generation_settings"])
        assert child.answer("/health").body == recorded("llama-smollm2-health.txt")
        names = [line.split()[0] for line in child.answer("/metrics").body.decode().splitlines() if line[0] != "#"]
        real_lines = recorded("ollama-flood-warm-child-metrics.txt").decode().splitlines()
        assert names == [line.split()[0] for line in real_lines if line[:1] not in ("#", "")]
        child.metrics = False
        refused = child.answer("/metrics")
        assert refused.status == 501
        assert json.loads(refused.body) == json.loads(recorded("llama-smollm2-nometrics-metrics.txt"))


def shape(value: Any) -> Any:
    """The names and types of what a JSON value holds."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [shape(inner) for inner in value[:1]]
    return type(value).__name__


# --- over sockets ----------------------------------------------------------------------------------------------------


class Loopback(Here):
    """The same machine, with real ports."""

    def __init__(self, server: SimServer, port: int, served: Any) -> None:
        super().__init__(server)
        self._port, self._served = port, served

    def place(self, url: str) -> Place:
        return Place((("127.0.0.1", self._port),), pid=1, started=0.0)

    def runners(self, place: Place) -> tuple[RunnerProcess, ...]:
        return tuple(RunnerProcess(c.port, c.pid, c.arguments, c.started) for c in self._served.now)

    def usage(self, process: RunnerProcess) -> Usage | None:
        return None

    def connect(self, place: Place, port: int, timeout: float) -> Any:
        return socket.create_connection(("127.0.0.1", port), timeout)


def test_over_real_sockets_children_come_answer_and_go() -> None:
    fast = replace(TINYLLAMA, load_seconds=0.01, decode_tokens_per_second=2000.0)

    async def main() -> None:
        server = SimServer(ServerConfig(models=(fast,), engine=EngineConfig(num_parallel=2)))
        async with serve(server) as url, serve_children(server) as served, httpx.AsyncClient(base_url=url) as people:
            here = Loopback(server, httpx.URL(url).port or 0, served)
            watch = Watch("a", "runner", 5.0, 10.0, RunnerSettings(url))
            source = build(watch, Surroundings(machine=here))
            observer = Observer(watch, source, SOURCES["runner"].reasons, time.time)
            assert Seen(await observer.observe()).failure is None
            body = {"model": "tinyllama", "prompt": "Why?", "stream": False, "options": {"num_predict": 50}}
            await people.post("/api/generate", json=body)
            await _until(lambda: len(served.now) == 1)
            seen = Seen(await observer.observe())
            assert seen.failure is None
            assert seen(catalog.RUNNER_SLOTS, model=TINY) == 2.0
            assert seen(catalog.RUNNER_TOKENS, model=TINY) == 50.0
            server.inject(Fault("runner_killed"))
            await _until(lambda: not served.now)
            seen = Seen(await observer.observe())
            assert seen.failure is None
            assert seen(catalog.RUNNER_PROCESSES, model=TINY) is None
            await source.aclose()
        await server.aclose()

    asyncio.run(main())


async def _until(true: Any) -> None:
    async with asyncio.timeout(20):
        while not true():  # noqa: ASYNC110 - children come and go at the simulator's own pace
            await asyncio.sleep(0.01)


def test_every_family_is_told_to_be_of_the_present_or_counted() -> None:
    ours = [family for family in catalog.FAMILIES if family.name.startswith("ollama_runner_")]
    assert {family.name for family in ours if family.kind == "counter"} == COUNTED


# --- what the server lists -------------------------------------------------------------------------------------------


class Line(LlamaWire):
    """A connection to a server. `says`: what it answers next."""

    def __init__(self, *says: Reply | Exception) -> None:
        self.says, self.closed = list(says), 0

    async def get(self, path: str) -> Reply:
        assert path == "/api/ps"
        await asyncio.sleep(0)
        said = self.says.pop(0)
        if isinstance(said, Exception):
            raise said
        return said

    async def close(self) -> None:
        self.closed += 1


NOBODY = Reply(200, {}, b'{"models":[]}')
SERVER = Place((("127.0.0.1", API_PORT),), pid=1, started=5.0)


def test_the_connection_for_the_list_is_kept_and_made_anew_where_it_was_closed() -> None:
    lines = [
        Line(NOBODY, NOBODY, ConnectionResetError()),
        Line(NOBODY, Reply(500, {}, b"")),
        Line(NOBODY, NOBODY),
        Line(NOBODY),
        Line(ConnectionRefusedError()),
    ]
    made: list[Line] = []

    def wire(place: Place, port: int) -> Line:
        made.append(lines[len(made)])
        return made[-1]

    async def act() -> None:
        listing = Listing(wire)
        for _ in range(3):
            assert await listing.ask(SERVER) == frozenset()
        assert (len(made), lines[0].closed, lines[1].closed) == (2, 1, 0)
        assert await listing.ask(SERVER) is None, "it refuses to tell, and the connection goes"
        assert lines[1].closed == 1
        assert await listing.ask(SERVER) == frozenset()
        assert await asyncio.gather(listing.ask(SERVER), listing.ask(SERVER)) == [frozenset()] * 2, "one each"
        assert sorted(line.closed for line in lines[2:4]) == [0, 1], "and one is kept"
        anew = replace(SERVER, started=9.0)
        assert await listing.ask(anew) is None
        assert [line.closed for line in lines] == [1] * 5, "the one of the server before went"
        await listing.close()
        assert (len(made), [line.closed for line in lines]) == (5, [1] * 5)

    asyncio.run(act())
