"""The demo fleet, ten minutes of it in a few seconds."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from exporter.simulator import SimTransport, virtual_wall_clock
from exporter.simulator.fleet import SimFleet, build_fleet
from exporter.simulator.timetable import DEMO_TIMETABLE, Incident


@asynccontextmanager
async def running(seed: int = 1, load_factor: float = 1.0) -> AsyncIterator[SimFleet]:
    fleet = build_fleet(seed=seed, load_factor=load_factor, now=virtual_wall_clock)
    task = asyncio.create_task(fleet.run())
    await asyncio.sleep(0)
    try:
        yield fleet
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def incident(kind: str) -> Incident:
    return next(item for item in DEMO_TIMETABLE.incidents if item.kind == kind)


async def middle_of(kind: str) -> None:
    chosen = incident(kind)
    await asyncio.sleep(chosen.offset_seconds + chosen.duration_seconds / 2)


def waiting(fleet: SimFleet, server: str) -> int:
    return sum(row.waiting for row in fleet.servers[server].engine.loaded())


async def test_ten_minutes_pass_in_a_few_seconds_and_almost_everybody_is_served() -> None:
    began = time.monotonic()
    async with running() as fleet:
        await asyncio.sleep(600)
        tallies = fleet.tallies.values()
        asked = sum(tally.asked for tally in tallies)
        assert 25 * 500 < asked < 50 * 600
        assert sum(tally.answered for tally in tallies) / asked > 0.98
    in_debug_mode = asyncio.get_running_loop().get_debug()
    assert time.monotonic() - began < (200 if in_debug_mode else 20)


async def test_the_members_are_those_of_the_fleet_it_grew_out_of() -> None:
    async with running() as fleet:
        slots = {name: server.config.engine.num_parallel for name, server in fleet.servers.items()}
        assert slots == {"primary": 50, "secondary": 30, "tertiary": 20}
        assert {server.config.engine.max_queue for server in fleet.servers.values()} == {500}
        transport = SimTransport(fleet.servers)
        async with httpx.AsyncClient(transport=transport, base_url="http://primary:11434") as client:
            names = [row["name"] for row in (await client.get("/api/tags")).json()["models"]]
        assert {"tinyllama:latest", "llama3.2:3b", "nomic-embed-text:latest"} < set(names)


async def test_calm_times_are_calm() -> None:
    async with running() as fleet:
        await asyncio.sleep(50)
        assert fleet.incident_now() is None
        assert sum(waiting(fleet, name) for name in fleet.servers) == 0


async def test_the_swap_storm_evicts() -> None:
    async with running() as fleet:
        await middle_of("swap_storm")
        now = fleet.incident_now()
        assert now is not None
        assert now.kind == "swap_storm"
        assert len(fleet.servers[now.server].log.of("evict")) >= 3


async def test_the_slow_server_builds_a_queue() -> None:
    async with running() as fleet:
        await middle_of("slow")
        assert waiting(fleet, incident("slow").server) > 10


async def test_the_saturated_server_has_no_free_slot_and_refuses_nobody() -> None:
    async with running() as fleet:
        await middle_of("saturated")
        server = fleet.servers[incident("saturated").server]
        tiny = next(row for row in server.engine.loaded() if row.model.name == "tinyllama:latest")
        assert tiny.busy == tiny.slots
        assert tiny.waiting > 20
        assert server.log.of("reject") == ()


async def test_the_dead_server_is_dead_and_recovers() -> None:
    async with running() as fleet:
        await middle_of("dead")
        server = fleet.servers[incident("dead").server]
        assert server.is_dead
        await asyncio.sleep(60)
        assert len(server.log.of("up")) == 1
        assert server.engine.loaded() != ()


async def test_the_timetable_repeats() -> None:
    async with running(load_factor=0.1) as fleet:
        await middle_of("swap_storm")
        first = fleet.incident_now()
        await asyncio.sleep(DEMO_TIMETABLE.cycle_seconds)
        assert fleet.incident_now() == first
        downs = fleet.servers[incident("dead").server].log.of("down")
        assert len(downs) == 1


async def test_the_same_seed_gives_the_same_users() -> None:
    async def asked(seed: int) -> int:
        async with running(seed) as fleet:
            await asyncio.sleep(30)
            return sum(tally.asked for tally in fleet.tallies.values())

    assert await asked(5) == await asked(5)
    assert await asked(5) != await asked(6)


def test_incidents_last_a_minute_or_more_with_calm_between_them() -> None:
    ends = 0.0
    for item in DEMO_TIMETABLE.incidents:
        assert 60 <= item.duration_seconds <= 90
        assert item.offset_seconds - ends >= 60 or ends == 0.0
        ends = item.end_seconds
    assert ends <= DEMO_TIMETABLE.cycle_seconds


@pytest.mark.parametrize("item", DEMO_TIMETABLE.incidents, ids=lambda item: item.kind)
def test_every_incident_says_in_a_sentence_what_to_look_for(item: Incident) -> None:
    assert item.should_see.endswith(".")
    assert any(item.should_see in line and item.server in line for line in DEMO_TIMETABLE.lines())
