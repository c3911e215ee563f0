"""Who runs, who waits, who is refused and who is evicted."""

import asyncio
from collections import Counter
from dataclasses import replace
from typing import Any

import httpx
import pytest

from exporter.simulator import GEMMA3_270M, NOMIC_EMBED, SMOLLM2, EngineConfig, Fault
from tests.simulator.bench import MODELS, Bench, bench, now

BUSY = {"error": "server busy, please try again.  maximum pending requests exceeded"}


async def flood(b: Bench, count: int, *models: str, tokens: int = 5) -> list[httpx.Response]:
    names = models or ("smollm2",)
    options = {"num_predict": tokens}
    asked = (b.generate(names[i % len(names)], options=options) for i in range(count))
    return await asyncio.gather(*asked)


def statuses(responses: list[httpx.Response]) -> dict[int, int]:
    return dict(Counter(response.status_code for response in responses))


async def test_a_flood_on_a_warm_model_waits_and_nobody_is_refused() -> None:
    async with bench(engine=EngineConfig(num_parallel=4, max_queue=8)) as b:
        await b.one_token()
        assert statuses(await flood(b, 40)) == {200: 40}


async def test_a_flood_on_a_cold_model_is_refused_beyond_the_queue() -> None:
    async with bench(engine=EngineConfig(num_parallel=4, max_queue=8)) as b:
        responses = await flood(b, 40)
        assert statuses(responses) == {503: 31, 200: 9}
        assert all(r.json() == BUSY for r in responses if r.status_code == 503)
        assert b.happened("load") == 1
        assert b.happened("reject") == 31


async def test_refusals_come_at_once() -> None:
    async with bench(engine=EngineConfig(max_queue=0)) as b:
        first = asyncio.create_task(b.one_token())
        await asyncio.sleep(0.1)
        began = now()
        assert (await b.one_token()).status_code == 503
        assert now() - began < 0.1
        assert (await first).status_code == 200


async def test_two_models_fighting_for_one_place_fill_the_queue() -> None:
    async with bench(engine=EngineConfig(num_parallel=4, max_queue=8, max_loaded_models=1)) as b:
        await b.one_token()
        found = statuses(await flood(b, 24, "smollm2", "gemma3-270m"))
        assert found[503] > 0
        assert found[200] > 8
        assert b.happened("evict") > 0


async def test_slots_bound_how_many_run_and_the_rest_wait_in_order() -> None:
    async with bench(engine=EngineConfig(num_parallel=2)) as b:
        await b.one_token()
        order: list[int] = []

        async def ask(number: int) -> None:
            await b.generate(options={"num_predict": 20})
            order.append(number)

        tasks = []
        for number in range(6):
            tasks.append(asyncio.create_task(ask(number)))
            await asyncio.sleep(0.01)
        (row,) = b.server.engine.loaded()
        assert (row.busy, row.waiting) == (2, 4)
        await asyncio.gather(*tasks)
        assert order == list(range(6))


async def test_everybody_behind_a_loading_model_waits_but_a_loaded_one_serves_on() -> None:
    async with bench() as b:
        await b.one_token("smollm2")
        began = now()
        loading = asyncio.create_task(b.one_token("gemma3-270m"))
        await asyncio.sleep(0.01)
        behind = asyncio.create_task(b.post("/api/embed", model="nomic-embed-text", input="x"))
        await asyncio.sleep(0.01)
        await b.one_token("smollm2")
        assert now() - began < 0.2
        await behind
        assert now() - began > GEMMA3_270M.load_seconds + NOMIC_EMBED.load_seconds
        await loading


async def test_a_model_is_absent_from_ps_while_it_loads() -> None:
    async with bench() as b:
        task = asyncio.create_task(b.one_token())
        await asyncio.sleep(SMOLLM2.load_seconds / 2)
        assert await b.loaded() == []
        await asyncio.sleep(SMOLLM2.load_seconds / 2 + 0.01)
        assert await b.loaded() == ["smollm2:latest"]
        await task


async def test_the_idle_model_with_the_shortest_keep_alive_goes_first() -> None:
    async with bench(engine=EngineConfig(max_loaded_models=2)) as b:
        await b.one_token("smollm2", keep_alive="2m")
        await b.one_token("gemma3-270m", keep_alive="1m")
        await b.post("/api/embed", model="nomic-embed-text", input="x")
        assert sorted(await b.loaded()) == ["nomic-embed-text:latest", "smollm2:latest"]


async def test_a_busy_victim_finishes_its_work_before_it_goes() -> None:
    async with bench(engine=EngineConfig(max_loaded_models=1)) as b:
        await b.one_token("smollm2")
        long_one = asyncio.create_task(b.generate("smollm2", options={"num_predict": 90}))
        await asyncio.sleep(0.1)
        other = asyncio.create_task(b.one_token("gemma3-270m"))
        answer = await long_one
        assert answer.json()["done"] is True
        assert not other.done()
        assert (await other).status_code == 200
        assert await b.loaded() == ["gemma3-270m:latest"]


async def test_an_explicit_keep_alive_revives_a_victim_and_the_queue_waits_for_its_timer() -> None:
    async with bench(engine=EngineConfig(max_loaded_models=1)) as b:
        await b.one_token("smollm2")
        busy = asyncio.create_task(b.generate("smollm2", options={"num_predict": 60}))
        await asyncio.sleep(0.1)
        began = now()
        other = asyncio.create_task(b.one_token("gemma3-270m"))
        await asyncio.sleep(0.1)
        await b.one_token("smollm2", keep_alive=25)
        await busy
        assert (await other).status_code == 200
        assert now() - began > 25


async def test_models_that_do_not_fit_together_evict_each_other() -> None:
    async with bench(engine=EngineConfig(memory_bytes=900_000_000)) as b:
        await b.one_token("smollm2")
        await b.one_token("gemma3-270m")
        assert await b.loaded() == ["gemma3-270m:latest"]
        assert b.happened("evict", model="smollm2:latest") == 1


async def test_tags_that_share_a_blob_share_one_runner_and_one_row() -> None:
    models = (*MODELS, SMOLLM2.tagged("assistant:latest"))
    async with bench(models) as b:
        await b.one_token("smollm2")
        await b.one_token("assistant")
        assert await b.loaded() == ["smollm2:latest"]
        assert b.happened("load", "reload") == 1


async def test_embedding_models_get_one_slot_whatever_is_configured() -> None:
    async with bench(engine=EngineConfig(num_parallel=50)) as b:
        await b.post("/api/embed", model="nomic-embed-text", input="x")
        (row,) = b.server.engine.loaded()
        assert row.slots == 1


async def test_a_client_that_leaves_during_its_own_load_aborts_it() -> None:
    async with bench() as b:
        impatient = asyncio.create_task(b.one_token())
        await asyncio.sleep(0.5)
        impatient.cancel()
        await asyncio.sleep(10)
        assert await b.loaded() == []
        assert b.happened("load_aborted") == 1


async def test_those_who_wait_for_the_same_model_start_the_aborted_load_again() -> None:
    async with bench() as b:
        impatient = asyncio.create_task(b.one_token())
        await asyncio.sleep(0.1)
        patient = asyncio.create_task(b.one_token())
        await asyncio.sleep(0.4)
        impatient.cancel()
        assert (await patient).status_code == 200
        assert now() > 0.5 + SMOLLM2.load_seconds


async def test_a_client_that_leaves_the_queue_loads_nothing_and_blocks_nobody() -> None:
    async with bench() as b:
        first = asyncio.create_task(b.one_token("smollm2"))
        await asyncio.sleep(0.1)
        leaver = asyncio.create_task(b.one_token("gemma3-270m"))
        await asyncio.sleep(0.1)
        leaver.cancel()
        assert (await first).status_code == 200
        await asyncio.sleep(10)
        assert await b.loaded() == ["smollm2:latest"]


async def test_a_client_that_leaves_the_slot_queue_takes_nobodys_turn() -> None:
    async with bench() as b:
        await b.one_token()
        first = asyncio.create_task(b.generate(options={"num_predict": 40}))
        await asyncio.sleep(0.05)
        leaver = asyncio.create_task(b.generate())
        await asyncio.sleep(0.05)
        last = asyncio.create_task(b.one_token())
        await asyncio.sleep(0.05)
        leaver.cancel()
        assert [(await first).status_code, (await last).status_code] == [200, 200]
        (row,) = b.server.engine.loaded()
        assert (row.busy, row.waiting) == (0, 0)


async def test_a_killed_runner_stays_listed_until_the_next_request_loads_it_again() -> None:
    async with bench() as b:
        await b.one_token()
        b.server.inject(Fault("runner_killed", model="smollm2:latest"))
        assert await b.loaded() == ["smollm2:latest"]
        again = (await b.one_token()).json()
        assert again["done"] is True
        assert again["load_duration"] > 1e9
        assert b.happened("reload") == 1


async def test_requests_on_a_runner_that_dies_fail() -> None:
    async with bench() as b:
        await b.one_token()
        running = [asyncio.create_task(b.generate()) for _ in range(3)]
        await asyncio.sleep(0.1)
        b.server.inject(Fault("runner_killed"))
        assert [(await task).status_code for task in running] == [500, 500, 500]


async def test_a_lost_slot_is_lost_until_the_model_is_unloaded() -> None:
    async with bench() as b:
        await b.one_token()
        b.server.inject(Fault("slot_lost"))
        await b.one_token()
        hanging = asyncio.create_task(b.one_token())
        await asyncio.sleep(250)
        assert not hanging.done()
        (row,) = b.server.engine.loaded()
        assert (row.busy, row.waiting) == (0, 1)
        hanging.cancel()


RELOADS: list[tuple[str, dict[str, Any], bool, int]] = [
    ("nothing", {}, False, 4096),
    ("the same num_ctx", {"options": {"num_ctx": 4096}}, False, 4096),
    ("sampling", {"options": {"temperature": 0, "seed": 1, "top_k": 2, "stop": ["x"], "num_keep": 5}}, False, 4096),
    ("num_gpu -1", {"options": {"num_gpu": -1}}, False, 4096),
    ("num_ctx 2048", {"options": {"num_ctx": 2048}}, True, 2048),
    ("then nothing", {}, True, 4096),
    ("num_ctx 2048 again", {"options": {"num_ctx": 2048}}, True, 2048),
    ("num_ctx as ps says", {"options": {"num_ctx": 2048}}, False, 2048),
    ("num_ctx beyond training", {"options": {"num_ctx": 999_999}}, True, 8192),
    ("the clamped num_ctx", {"options": {"num_ctx": 8192}}, False, 8192),
    ("num_batch", {"options": {"num_ctx": 8192, "num_batch": 256}}, True, 8192),
    ("num_batch left out", {"options": {"num_ctx": 8192}}, True, 8192),
    ("shift false", {"options": {"num_ctx": 8192}, "shift": False}, True, 8192),
    ("shift left out", {"options": {"num_ctx": 8192}}, True, 8192),
    ("num_thread", {"options": {"num_ctx": 8192, "num_thread": 4}}, True, 8192),
    ("main_gpu and mmap", {"options": {"num_ctx": 8192, "main_gpu": 1, "use_mmap": False}}, True, 8192),
]


async def test_the_reload_matrix_is_that_of_the_real_server() -> None:
    async with bench() as b:
        await b.one_token()
        for step, body, reloads, num_ctx in RELOADS:
            before = b.happened("reload")
            await b.one_token(**body)
            assert (b.happened("reload") > before, step) == (reloads, step)
            (row,) = await b.ps()
            assert (row["context_length"], step) == (num_ctx, step)


async def test_leaving_num_ctx_out_reloads_a_model_that_was_loaded_with_another_one() -> None:
    async with bench() as b:
        await b.one_token(options={"num_ctx": 8192})
        await b.post("/v1/completions", model="smollm2", prompt="x", max_tokens=1)
        assert b.happened("reload", model="smollm2:latest") == 1


@pytest.mark.parametrize(
    ("gpu_bytes", "share"), [(0, 0.0), (24 * 1024**3, 1.0), (200_000_000, pytest.approx(0.53, abs=0.05))]
)
async def test_what_does_not_fit_on_the_gpu_stays_beside_it(gpu_bytes: int, share: float) -> None:
    async with bench(engine=EngineConfig(gpu_bytes=gpu_bytes)) as b:
        await b.one_token()
        (row,) = await b.ps()
        assert row["size_vram"] / row["size"] == share


async def test_a_failed_load_is_a_500_and_the_next_one_is_tried() -> None:
    async with bench() as b:
        b.server.inject(Fault("load_failed", seconds=10))
        failed = await b.one_token()
        assert failed.status_code == 500
        assert "error loading model" in failed.json()["error"]
        await asyncio.sleep(10)
        assert (await b.one_token()).status_code == 200


async def test_a_slow_server_takes_its_factor_longer_for_everything() -> None:
    async with bench((replace(SMOLLM2, crowding=0.0),)) as b:
        await b.one_token()
        usual = (await b.generate(prompt="one two three", options={"num_predict": 20})).json()
        b.server.inject(Fault("slow", factor=5))
        slow = (await b.generate(prompt="four five six", options={"num_predict": 20})).json()
        for part in ("prompt_eval_duration", "eval_duration"):
            assert slow[part] == pytest.approx(5 * usual[part], rel=0.01)
