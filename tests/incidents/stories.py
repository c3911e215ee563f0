"""What can happen to a fleet, as gestures that the table of incidents puts together."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import prometheus_client
import pynvml

from exporter.probing import Question, Refusal
from exporter.simulator import LLAMA32_3B, TINYLLAMA, Fault, SimModel
from exporter.simulator.engine import LoadFailedError, ServerBusyError, ServerDownError, Wanted
from exporter.simulator.faults import FaultKind
from exporter.simulator.runner import RunnerDiedError
from exporter.simulator.text import synthetic_prompt
from tests.docker_engine import FakeContainer
from tests.incidents.inside import uses
from tests.incidents.machine import GIB, Machine
from tests.incidents.world import MINUTE, World, wall_clock
from tests.wire import make_authority

Happens = Callable[[World], Awaitable[None]]

_REFUSALS = (ServerBusyError, ServerDownError, LoadFailedError, RunnerDiedError)


def fault(server: str, kind: FaultKind, **settings: Any) -> Happens:
    async def happens(world: World) -> None:
        world.servers[server].inject(Fault(kind, **settings))

    return happens


def both(*stories: Happens) -> Happens:
    """At the same time."""

    async def happens(world: World) -> None:
        await asyncio.gather(*(story(world) for story in stories))

    return happens


def again_and_again(minutes: float, act: Happens) -> Happens:
    async def happens(world: World) -> None:
        while True:
            await act(world)
            await asyncio.sleep(minutes * MINUTE)

    return happens


# --- users -----------------------------------------------------------------------------------------------------------


def asks(server: str, model: SimModel = TINYLLAMA, **body: object) -> Happens:
    return lambda world: world.ask(server, model, **body)


def chats(server: str, model: SimModel = TINYLLAMA) -> Happens:
    """In a stream."""
    asked = [{"role": "user", "content": "Why is the sky blue?"}]
    return lambda world: world.ask(server, model, "/api/chat", messages=asked, stream=True)


def crowd(server: str, callers: int, breath: float = 3.0) -> Happens:
    """So many callers at once, and all of them again when the last was answered, after a breath. Without it the expiry
    in /api/ps would never move, and the canary would take that for a model that nobody uses, and stay away."""

    async def happens(world: World) -> None:
        while True:
            await asyncio.gather(*(_generates(world, server, 400, number) for number in range(callers)))
            await asyncio.sleep(breath)

    return happens


def batch(server: str, growth: float) -> Happens:
    """Every minute a job holds a slot, each time by `growth` seconds longer, always just before the canary comes."""

    async def happens(world: World) -> None:
        for number in itertools.count():
            asked = [event.at for event in world.servers[server].log.of("request") if event.detail == "/api/generate"]
            await asyncio.sleep(((asked[-1] if asked else wall_clock()) - 1.0 - wall_clock()) % MINUTE)
            tokens = round((2.0 + number * growth) * TINYLLAMA.decode_tokens_per_second)
            await _generates(world, server, tokens, number)

    return happens


async def _generates(world: World, server: str, tokens: int, number: int) -> None:
    with contextlib.suppress(*_REFUSALS):
        async with world.servers[server].engine.runner(Wanted(TINYLLAMA, origin="user")) as runner, runner.slot():
            async for _ in runner.generate(synthetic_prompt(100, number), tokens, max(16, tokens // 4)):
                pass


def swaps(server: str, seconds: float, models: tuple[SimModel, ...]) -> Happens:
    """Users ask for these models in turn."""

    async def happens(world: World) -> None:
        for model in itertools.cycle(models):
            await world.ask(server, model)
            await asyncio.sleep(seconds)

    return happens


def queue_behind_a_model_that_does_not_load(server: str) -> Happens:
    """Callers ask again and again for a model that fails to load, more than the queue takes. Meanwhile the runner of
    the model in use has died: who asks for that one has to queue as well."""

    async def happens(world: World) -> None:
        world.servers[server].inject(Fault("load_failed", model=LLAMA32_3B.name))
        await world.ask(server)
        await asyncio.sleep(5)
        world.servers[server].inject(Fault("runner_killed", model=TINYLLAMA.name))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(100):
                await asyncio.gather(*(_insists(world, server) for _ in range(12)))
        await asyncio.sleep(2 * MINUTE)

    return again_and_again(0.5, happens)


async def _insists(world: World, server: str) -> None:
    while True:
        await world.ask(server, LLAMA32_3B)
        await asyncio.sleep(0.2)


def converses(server: str) -> Happens:
    """Two programs, with prompts longer than the context and answers that go on until Ollama ends them."""
    long = " ".join(["word"] * 3000)

    async def happens(world: World) -> None:
        await world.ask(server, prompt=long)
        await world.ask(server, options={"num_predict": 0})

    return both(again_and_again(0.05, happens), again_and_again(0.12, happens))


# --- servers ---------------------------------------------------------------------------------------------------------


def restarts(server: str, seconds: float = 20.0) -> Happens:
    return lambda world: world.restart(server, seconds)


def upgraded(server: str, version: str) -> Happens:
    async def happens(world: World) -> None:
        await world.restart(server, 30.0)
        world.servers[server].config = replace(world.servers[server].config, version=version)

    return happens


def installed(server: str, *models: SimModel) -> Happens:
    async def happens(world: World) -> None:
        for model in models:
            world.servers[server].install(model)

    return happens


def removed(server: str, *names: str) -> Happens:
    async def happens(world: World) -> None:
        for name in names:
            world.servers[server].remove(name)

    return happens


def without_its_gpu(server: str) -> Happens:
    """After a driver upgrade it comes back on the CPU."""

    async def happens(world: World) -> None:
        world.servers[server].inject(Fault("gpu_lost"))
        world.servers[server].inject(Fault("slow", factor=6.0))
        await world.restart(server, 20.0)

    return happens


def hangs_in_its_start(server: str) -> Happens:
    async def happens(world: World) -> None:
        await world.restart(server, 5.0)
        world.servers[server].inject(Fault("starting"))

    return happens


def crashes(server: str, *models: SimModel) -> Happens:
    """Users ask for these models; a minute later the runners of all die."""

    async def happens(world: World) -> None:
        for model in models:
            await world.ask(server, model, keep_alive=-1)
        await asyncio.sleep(MINUTE)
        world.servers[server].inject(Fault("runner_killed"))

    return happens


def runs_out_of_memory(server: str) -> Happens:
    """Once."""

    async def happens(world: World) -> None:
        world.servers[server].inject(Fault("runtime_oom"))
        await world.ask(server)
        world.servers[server].heal("runtime_oom")

    return happens


def set_up_badly(server: str, **environment: str) -> Happens:
    """It is started anew with these variables."""

    async def happens(world: World) -> None:
        there = world.servers[server]
        there.config = replace(there.config, environment=tuple(environment.items()))
        await world.restart(server, 20.0)

    return happens


# --- logs ------------------------------------------------------------------------------------------------------------


def log_is_truncated(server: str) -> Happens:
    async def happens(world: World) -> None:
        world.logs[server].truncate()

    return happens


def logs_elsewhere(server: str, elsewhere: bool = True) -> Happens:
    async def happens(world: World) -> None:
        world.logs[server].elsewhere = elsewhere

    return happens


# --- containers ------------------------------------------------------------------------------------------------------


def outgrows_its_container(server: str) -> Happens:
    """Twenty minutes near the limit, then three times the kernel kills, and the engine starts it anew."""

    async def happens(world: World) -> None:
        container = world.container(server)
        uses(container, 0.97)
        await asyncio.sleep(20 * MINUTE)
        for _ in range(3):
            await _killed(world, server, container)
            await asyncio.sleep(5 * MINUTE)

    return happens


async def _killed(world: World, server: str, container: FakeContainer) -> None:
    assert world.engine is not None
    world.engine.happens(container, "oom", wall_clock())
    world.engine.happens(container, "die", wall_clock(), exitCode="137")
    container.status, container.finished, container.exit_code = "exited", wall_clock(), 137
    container.oom_killed = True
    await world.restart(server, 20.0)
    container.status, container.started, container.oom_killed = "running", wall_clock(), False
    world.engine.happens(container, "start", wall_clock())
    uses(container, 0.5)


def starves(server: str) -> Happens:
    """The quota of its container holds it for most of the time, and its health check gives up."""

    async def happens(world: World) -> None:
        container = world.container(server)
        container.health = "unhealthy"
        throttling = container.stats["cpu_stats"]["throttling_data"]
        while True:
            throttling["periods"] += 50
            throttling["throttled_periods"] += 40
            throttling["throttled_time"] += 2_000_000_000
            await asyncio.sleep(5.0)

    return happens


def is_healthy(server: str) -> Happens:
    async def happens(world: World) -> None:
        world.container(server).health = "healthy"

    return happens


# --- GPUs ------------------------------------------------------------------------------------------------------------


def card(number: int, **values: Any) -> Happens:
    async def happens(world: World) -> None:
        assert world.driver is not None
        for name, value in values.items():
            setattr(world.driver.cards[number], name, value)

    return happens


def falls_off_the_bus(number: int) -> Happens:
    """The driver tells XID 79, and nothing else of the card any more."""

    async def happens(world: World) -> None:
        assert world.driver is not None
        world.driver.events.append((number, pynvml.nvmlEventTypeXidCriticalError, 79))
        world.driver.refuses[_MEMORY, number] = pynvml.NVML_ERROR_GPU_IS_LOST

    return happens


async def driver_is_reset(world: World) -> None:
    assert world.driver is not None
    world.driver.refuses.clear()


_MEMORY = "nvmlDeviceGetMemoryInfo"


# --- the machine -----------------------------------------------------------------------------------------------------


def machine(**values: float) -> Happens:
    async def happens(world: World) -> None:
        for name, value in values.items():
            setattr(world.machine, name, value)

    return happens


def leaks(what: str, gib_an_hour: float) -> Happens:
    """Steadily, and back when it is over."""

    async def happens(world: World) -> None:
        while True:
            await asyncio.sleep(15)
            setattr(world.machine, what, max(0.0, getattr(world.machine, what) + gib_an_hour * GIB / 240))

    return happens


async def machine_is_well(world: World) -> None:
    fresh = Machine()
    for name in ("memory_available", "swap_used", "disk_free", "disk_fails"):
        setattr(world.machine, name, getattr(fresh, name))


# --- the exporter ----------------------------------------------------------------------------------------------------


async def exporter_stops(world: World) -> None:
    await world.stop()


async def exporter_starts(world: World) -> None:
    world.start()


async def exporter_restarts(world: World) -> None:
    await world.stop()
    await asyncio.sleep(5)
    world.start()


async def target_vanishes(world: World) -> None:
    world.listed = False


async def target_returns(world: World) -> None:
    world.listed = True


async def another_program_answers(world: World) -> None:
    world.elsewhere = lambda: prometheus_client.generate_latest().decode()


async def exporter_answers(world: World) -> None:
    world.elsewhere = None


async def certificate_vanishes(world: World) -> None:
    """A server with a certificate of its own is added, and the file goes while the exporter is being restarted."""
    (folder := world.file.with_name("authority")).mkdir()
    authority = make_authority(folder).folder / "ca.pem"
    world.configure({"name": "gpu3", "url": "https://gpu3", "tls": {"ca_file": str(authority)}})
    await world.stop()
    world.start()
    authority.unlink()


async def first_configuration(world: World) -> None:
    world.configure()
    await _reloads(world)


async def mistake_in_configuration(world: World) -> None:
    world.file.write_text("servers:\n  - name: gpu1\n    url: gpu1:11434\n    colour: blue\n", encoding="utf-8")
    await _reloads(world)


async def probes_a_stranger(world: World) -> None:
    """What Prometheus does whose targets are not in the exporter's allow-list: it scrapes a 400."""
    assert world.exporter is not None
    with contextlib.suppress(Refusal):
        await world.exporter.probe(Question(("http://gpu9:11434",)))


async def _reloads(world: World) -> None:
    assert world.exporter is not None
    await world.exporter.reload()


def blocked(seconds: float, every: float) -> Happens:
    """Something holds the exporter's only thread."""

    async def happens(_: World) -> None:
        loop: Any = asyncio.get_running_loop()
        while True:
            loop.jump(seconds)
            await asyncio.sleep(every)

    return happens


def hangs(server: str) -> Happens:
    async def happens(world: World) -> None:
        world.hanging.add(server)

    return happens


async def lets_go(world: World) -> None:
    world.hanging.clear()
