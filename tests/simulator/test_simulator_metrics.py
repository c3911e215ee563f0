"""The proposed /metrics: there only where it is switched on, and what it counts is what was answered."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client.parser import text_string_to_metric_families

from exporter.simulator import Fault
from tests.simulator.bench import Bench, bench


async def told(it: Bench) -> dict[tuple[str, str], float]:
    """Values by name, and model or version."""
    response = await it.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    families = text_string_to_metric_families(response.text)
    return {(each.name, *each.labels.values()): each.value for family in families for each in family.samples}


async def test_without_the_switch_there_is_none_as_with_every_release() -> None:
    async with bench() as it:
        response = await it.get("/metrics")
        assert (response.status_code, response.text) == (404, "404 page not found")


async def test_it_counts_what_was_answered_to_its_end() -> None:
    async with bench(metrics=True) as it:
        before = await told(it)
        assert {name for name, _ in before} == {"ollama_build_info"}
        answers = [(await it.generate()).json() for _ in range(2)]
        await it.generate(model="no-such-model")
        (model,) = await it.loaded()
        seen = await told(it)
        assert seen["ollama_requests_total", model] == 2.0
        assert seen["ollama_generated_tokens_total", model] == sum(each["eval_count"] for each in answers)
        assert seen["ollama_prompt_tokens_total", model] == sum(each["prompt_eval_count"] for each in answers)
        assert 0 < seen["ollama_prompt_cached_tokens_total", model] < seen["ollama_prompt_tokens_total", model]
        loads = sum(each["load_duration"] for each in answers) / 1e9
        assert seen["ollama_load_duration_seconds_total", model] == pytest.approx(loads)
        (row,) = await it.ps()
        assert seen["ollama_loaded_model_size_bytes", model] == row["size"]


async def test_what_broke_off_is_not_counted() -> None:
    async with bench(metrics=True) as it:
        await it.generate()
        (model,) = await it.loaded()
        it.server.inject(Fault("mid_stream_error"))
        await it.generate(stream=True)
        assert (await told(it))["ollama_requests_total", model] == 1.0


async def test_users_who_come_by_another_way_are_counted_too() -> None:
    async with bench(metrics=True) as it:
        it.server.inject(Fault("saturated", 120.0))
        await asyncio.sleep(200.0)
        assert it.server.totals.models
        assert all(answered.requests > 0 for answered in it.server.totals.models.values())


async def test_it_starts_anew_with_its_server() -> None:
    async with bench(metrics=True) as it:
        await it.generate()
        it.server.inject(Fault("dead", 5.0))
        await asyncio.sleep(6.0)
        assert {name for name, _ in await told(it)} == {"ollama_build_info"}
