"""The demo fleet: three servers under changing load, with incidents on a timetable that repeats."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from exporter.simulator.clock import real_wall_clock
from exporter.simulator.engine import EngineConfig, LoadFailedError, ServerBusyError, ServerDownError, Wanted
from exporter.simulator.faults import Fault
from exporter.simulator.journal import Sink
from exporter.simulator.machine import DEFAULT_MODELS, ServerConfig, SimServer
from exporter.simulator.models import GIB, LLAMA32_3B, NOMIC_EMBED, QWEN3_4B, TINYLLAMA, SimModel
from exporter.simulator.runner import RunnerDiedError
from exporter.simulator.text import answer_tokens, synthetic_prompt
from exporter.simulator.timetable import DEMO_TIMETABLE, Incident, Timetable

_SLOW_FACTOR = 6.0
_SWAP_INTERVAL_SECONDS = 2.5
_SWAP_TOKENS = 20
_SWAP_KEEP_ALIVE_SECONDS = 45.0  # the shortest goes first: so the two mostly evict each other
_PROMPTS_IN_USE = 400  # so many different prompts are going round: repeats find them in the cache
_REFUSALS = (ServerBusyError, ServerDownError, LoadFailedError, RunnerDiedError)


@dataclass(frozen=True, slots=True)
class Traffic:
    """Poisson arrivals whose rate rises and falls like a day that lasts a few minutes."""

    mean_per_second: float
    swing: float = 0.45  # share of the mean by which the rate rises and falls
    day_seconds: float = 240.0
    phase: float = 0.0
    shares: tuple[tuple[SimModel, float], ...] = ((TINYLLAMA, 1.0),)

    def rate(self, seconds: float) -> float:
        return self.mean_per_second * (
            1.0 + self.swing * math.sin(2 * math.pi * (seconds / self.day_seconds + self.phase))
        )


@dataclass(frozen=True, slots=True)
class Member:
    server: ServerConfig
    traffic: Traffic


def _member(name: str, slots: int, per_second: float, phase: float, gpu_gib: int, embeds: bool = True) -> Member:
    engine = EngineConfig(
        num_parallel=slots,
        max_queue=500,
        max_loaded_models=3,
        keep_alive_seconds=300.0,
        default_num_ctx=2048,
        gpu_bytes=gpu_gib * GIB,
        seed=slots,
    )
    shares: tuple[tuple[SimModel, float], ...] = ((TINYLLAMA, 0.86), (LLAMA32_3B, 0.14))
    if embeds:
        shares = (*shares, (NOMIC_EMBED, 0.25))
    return Member(
        ServerConfig(name=name, engine=engine, models=(*DEFAULT_MODELS, QWEN3_4B), control=True),
        Traffic(per_second, phase=phase, shares=shares),
    )


DEMO_MEMBERS = (
    _member("primary", 50, 16.0, 0.0, gpu_gib=48),
    _member("secondary", 30, 10.0, 0.15, gpu_gib=24, embeds=False),
    _member("tertiary", 20, 6.0, 0.3, gpu_gib=12),
)


@dataclass(frozen=True, slots=True)
class FleetConfig:
    members: tuple[Member, ...] = DEMO_MEMBERS
    timetable: Timetable = DEMO_TIMETABLE
    seed: int = 1
    load_factor: float = 1.0


@dataclass(slots=True)
class Tally:
    """What the synthetic users met with."""

    asked: int = 0
    answered: int = 0
    refused: int = 0  # 503
    failed: int = 0


class SimFleet:
    """`await run()` in a task; it never returns. Then look at `servers` over sockets or a transport."""

    def __init__(
        self, config: FleetConfig, now: Callable[[], float], sinks: Mapping[str, Sink] = MappingProxyType({})
    ) -> None:
        """`sinks` take the logs of the servers with these names."""
        self._config = config
        names = [member.server.name for member in config.members]
        servers = [SimServer(member.server, now, sinks.get(member.server.name)) for member in config.members]
        self._servers = dict(zip(names, servers, strict=True))
        self._started: float | None = None
        self.tallies = {name: Tally() for name in self._servers}

    @property
    def servers(self) -> Mapping[str, SimServer]:
        return MappingProxyType(self._servers)

    @property
    def timetable(self) -> Timetable:
        return self._config.timetable

    def elapsed_seconds(self) -> float:
        return 0.0 if self._started is None else asyncio.get_running_loop().time() - self._started

    def incident_now(self) -> Incident | None:
        return None if self._started is None else self.timetable.at(self.elapsed_seconds())

    async def run(self) -> None:
        self._started = asyncio.get_running_loop().time()
        try:
            async with asyncio.TaskGroup() as group:
                for number, member in enumerate(self._config.members):
                    users = self._users(member, number)
                    group.create_task(users.arrive(), name=f"users of {member.server.name}")
                group.create_task(self._follow_timetable(), name="timetable")
        finally:
            for server in self._servers.values():
                await server.aclose()

    def _users(self, member: Member, number: int) -> _Users:
        server = self._servers[member.server.name]
        rng = random.Random(self._config.seed * 1_000 + number)
        return _Users(server, member.traffic, self._config.load_factor, rng, self.tallies[server.name])

    async def _follow_timetable(self) -> None:
        loop = asyncio.get_running_loop()
        cycle_start = loop.time()
        while True:
            for incident in self.timetable.incidents:
                await asyncio.sleep(cycle_start + incident.offset_seconds - loop.time())
                await self._happen(incident)
            cycle_start += self.timetable.cycle_seconds
            await asyncio.sleep(cycle_start - loop.time())

    async def _happen(self, incident: Incident) -> None:
        server = self._servers[incident.server]
        seconds = incident.duration_seconds
        match incident.kind:
            case "swap_storm":
                server.inject(Fault("log_cut_short", seconds))
                await self._swap(server, seconds)
            case "slow":
                server.inject(Fault("slow", seconds, factor=_SLOW_FACTOR))
            case "saturated":
                server.inject(Fault("saturated", seconds, model=TINYLLAMA.name))
            case "dead":
                server.inject(Fault("dead", seconds))

    async def _swap(self, server: SimServer, seconds: float) -> None:
        """Somebody asks in turn for two models of which only one has a place, again and again."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        async with asyncio.TaskGroup() as group:
            for model in itertools.cycle((NOMIC_EMBED, QWEN3_4B)):
                group.create_task(_ask_for(server, model))
                await asyncio.sleep(_SWAP_INTERVAL_SECONDS)
                if loop.time() >= end:
                    return


async def _ask_for(server: SimServer, model: SimModel) -> None:
    wanted = Wanted(model, keep_alive=_SWAP_KEEP_ALIVE_SECONDS, origin="swap storm")
    with contextlib.suppress(*_REFUSALS), server.visited("/api/generate") as call:
        await server.converse(call, wanted, synthetic_prompt(20, 1), _SWAP_TOKENS, _SWAP_TOKENS)


class _Users:
    """People and programs who use one server, called straight into the engine."""

    def __init__(
        self, server: SimServer, traffic: Traffic, load_factor: float, rng: random.Random, tally: Tally
    ) -> None:
        self._server = server
        self._traffic = traffic
        self._load_factor = load_factor
        self._rng = rng
        self._tally = tally
        self._models = [model for model, _ in traffic.shares]
        self._weights = [share for _, share in traffic.shares]

    async def arrive(self) -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()
        async with asyncio.TaskGroup() as group:
            while True:
                rate = self._traffic.rate(loop.time() - started) * self._load_factor
                await asyncio.sleep(self._rng.expovariate(rate))
                if not self._server.is_dead:
                    group.create_task(self._visit())

    async def _visit(self) -> None:
        model = self._rng.choices(self._models, self._weights)[0]
        prompt = synthetic_prompt(round(self._rng.lognormvariate(5.0, 0.8)), self._rng.randrange(_PROMPTS_IN_USE))
        self._tally.asked += 1
        try:
            with self._server.visited("/api/chat" if model.can_complete else "/api/embed") as call:
                await self._server.faults.over("starting")
                wanted = Wanted(model, origin="user")
                if model.can_complete:
                    tokens = answer_tokens(prompt, model.mean_answer_tokens)
                    await self._server.converse(call, wanted, prompt, tokens, max(16, tokens // 3))
                else:
                    async with self._server.engine.runner(wanted) as runner:
                        await runner.embed(prompt)
        except ServerBusyError:
            self._tally.refused += 1
        except _REFUSALS:
            self._tally.failed += 1
        else:
            self._tally.answered += 1


def build_fleet(
    config: FleetConfig | None = None,
    *,
    seed: int | None = None,
    load_factor: float | None = None,
    now: Callable[[], float] = real_wall_clock,
) -> SimFleet:
    """The demo fleet, or one of your own. The same seed gives the same fleet and the same users."""
    chosen = config or FleetConfig()
    if seed is not None:
        chosen = replace(chosen, seed=seed)
    if load_factor is not None:
        chosen = replace(chosen, load_factor=load_factor)
    return SimFleet(chosen, now)
