"""How long a model stays, and what /api/ps says about it."""

import asyncio
from datetime import datetime
from typing import Any

import pytest

from exporter.simulator import EPOCH, SMOLLM2, EngineConfig
from tests.simulator.bench import bench, now


def wall() -> float:
    return EPOCH + now()


async def test_the_timeline_of_a_cold_load_with_two_seconds_of_keep_alive() -> None:
    """As recorded: absent while loading, then sliding until the first request ends, then fixed, then gone."""
    async with bench() as b:
        task = asyncio.create_task(b.generate(keep_alive="2s", options={"num_predict": 60}))
        while not task.done():
            rows = await b.ps()
            if rows:
                assert datetime.fromisoformat(rows[0]["expires_at"]).timestamp() == pytest.approx(wall() + 2)
            else:
                assert now() <= SMOLLM2.load_seconds + 0.01
            await asyncio.sleep(0.02)
        fixed = await b.expiry()
        assert fixed == pytest.approx(wall() + 2, abs=0.03)
        await asyncio.sleep(1)
        assert await b.expiry() == fixed
        await asyncio.sleep(fixed - wall() - 0.01)
        assert await b.loaded() == ["smollm2:latest"]
        await asyncio.sleep(0.02)
        assert await b.loaded() == []


async def test_a_request_on_a_warm_model_leaves_the_expiry_alone_until_it_ends() -> None:
    async with bench() as b:
        await b.one_token()
        before = await b.expiry()
        await asyncio.sleep(60)
        task = asyncio.create_task(b.generate(options={"num_predict": 60}))
        await asyncio.sleep(0.5)
        assert await b.expiry() == before
        await task
        assert await b.expiry() == pytest.approx(wall() + 300, abs=0.01)


async def test_a_request_that_outlives_the_expiry_shows_one_in_the_past() -> None:
    async with bench() as b:
        await b.one_token(keep_alive=2)
        task = asyncio.create_task(b.generate(options={"num_predict": 0}))
        await asyncio.sleep(30)
        assert await b.expiry() < wall() - 20
        task.cancel()


async def test_an_explicit_keep_alive_sticks_for_those_who_omit_it() -> None:
    async with bench(engine=EngineConfig(keep_alive_seconds=600)) as b:
        for keep_alive, seconds in ((None, 600), ("90s", 90), (None, 90), (30, 30)):
            body: dict[str, Any] = {} if keep_alive is None else {"keep_alive": keep_alive}
            await b.one_token(**body)
            assert await b.expiry() == pytest.approx(wall() + seconds, abs=0.01)


async def test_minus_one_is_the_year_2319_and_never_expires() -> None:
    async with bench() as b:
        await b.one_token(keep_alive=-1)
        (row,) = await b.ps()
        assert row["expires_at"].startswith("2319-0")
        await asyncio.sleep(30 * 86_400)
        assert await b.loaded() == ["smollm2:latest"]


async def test_zero_unloads_after_the_answer() -> None:
    async with bench() as b:
        answer = await b.one_token(keep_alive=0)
        assert answer.json()["done"] is True
        assert await b.loaded() == []


@pytest.mark.parametrize("path", ["/api/generate", "/api/chat"])
async def test_zero_without_a_prompt_unloads_now(path: str) -> None:
    async with bench() as b:
        await b.one_token()
        answer = (await b.post(path, model="smollm2", keep_alive=0)).json()
        assert answer["done_reason"] == "unload"
        assert await b.loaded() == []


async def test_an_unload_waits_for_the_request_in_flight() -> None:
    async with bench() as b:
        await b.one_token()
        running = asyncio.create_task(b.generate(options={"num_predict": 30}))
        await asyncio.sleep(0.1)
        await b.post("/api/generate", model="smollm2", keep_alive=0)
        assert await b.loaded() == ["smollm2:latest"]
        await running
        assert await b.loaded() == []


@pytest.mark.parametrize("path", ["/api/generate", "/api/chat"])
async def test_an_empty_prompt_loads_and_rearms_but_reports_no_durations(path: str) -> None:
    async with bench() as b:
        first = (await b.post(path, model="smollm2")).json()
        assert (first["done_reason"], "total_duration" in first) == ("load", False)
        await asyncio.sleep(100)
        await b.post(path, model="smollm2")
        assert await b.expiry() == pytest.approx(wall() + 300, abs=0.01)


async def test_looking_does_not_prolong() -> None:
    async with bench() as b:
        await b.one_token()
        before = await b.expiry()
        for _ in range(20):
            for path in ("/", "/api/version", "/api/ps", "/api/tags", "/v1/models", "/api/status"):
                await b.get(path)
            await b.post("/api/show", model="smollm2")
            await asyncio.sleep(5)
        assert await b.expiry() == before
        assert b.happened("load", "reload", "evict", "unload", "external_call") == 1


async def test_a_probe_prolongs_a_model_by_at_most_one_keep_alive_as_the_log_shows() -> None:
    async with bench() as b:
        await b.one_token()
        await asyncio.sleep(200)
        await b.client.post(
            "/api/generate",
            headers={"User-Agent": "canary"},
            json={"model": "smollm2", "prompt": "x", "raw": True, "stream": False, "options": {"num_ctx": 4096}},
        )
        user, canary = b.server.log.of("idle")
        assert (user.origin, canary.origin) == ("test", "canary")
        assert user.value is not None
        assert canary.value is not None
        assert canary.value - user.value <= 300
        assert b.happened("load", "reload", "evict", "unload", origin="canary") == 0
