"""The canary measures, and does no harm: each rule of the probe, against a simulated server, in virtual time."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest

from exporter import catalog
from exporter.model import CanaryMode, CanarySettings
from exporter.simulator import TINYLLAMA, EngineConfig, Fault, ServerConfig
from exporter.sources.canary import OUTCOMES, PROMPT, SKIPS
from tests.scene import ENDPOINT, Seen, Stage, every, meanwhile, stage, virtually

TINY = "tinyllama:latest"
ONE_SLOT = ServerConfig(engine=EngineConfig(num_parallel=1))


def attempts(seen: Seen, model: str = TINY) -> dict[str, float]:
    return {o: n for o in OUTCOMES if (n := seen(catalog.CANARY_ATTEMPTS, model=model, outcome=o))}


def skips(seen: Seen, model: str = TINY) -> dict[str, float]:
    return {r: n for r in SKIPS if (n := seen(catalog.CANARY_SKIPS, model=model, reason=r))}


def harm(it: Stage) -> list[str]:
    """What the server did to its models, after the user's first load."""
    events = it.server.log.of("load", "reload", "unload", "evict", "external_call")
    return [f"{event.kind} {event.model}" for event in events]


def test_the_prompt_is_long_enough_to_be_nobodys_beginning() -> None:
    assert PROMPT.isascii()
    assert len(PROMPT.split()) >= 20


@virtually
async def test_a_loaded_idle_model_is_measured_once_and_then_left_to_expire() -> None:
    async with stage() as it:
        await it.ask(keep_alive="1h")
        seen = await it.run(600)
        assert attempts(seen) == {"ok": 1.0}
        assert skips(seen)["unused"] >= 7
        assert harm(it) == [f"load {TINY}"]


@virtually
async def test_it_lives_at_most_one_keep_alive_longer_than_without_us() -> None:
    async with stage() as it:
        await it.ask()
        loaded_at = it.server.wall_time()
        await it.run(900)
        (unload,) = it.server.log.of("unload")
        interval, keep_alive = 60.0, 300.0
        assert unload.at <= loaded_at + interval + it.watch.every + 1.0 + keep_alive
        assert harm(it) == [f"load {TINY}", f"unload {TINY}"]


@virtually
async def test_a_model_in_use_is_measured_every_interval() -> None:
    async with stage() as it:
        async with meanwhile(every(20.0, it.ask)):
            seen = await it.run(600)
        assert 8 <= attempts(seen)["ok"] <= 10
        assert harm(it) == [f"load {TINY}"]


@virtually
async def test_the_figures_are_those_of_the_servers_own_clock() -> None:
    async with stage() as it:
        await it.ask()
        seen = await it.run(90)
        (request,) = it.recorder.sent("/api/generate")
        assert attempts(seen) == {"ok": 1.0}
        total = seen.sum(catalog.CANARY_DURATION, model=TINY)
        decode = 15 * seen.sum(catalog.CANARY_PER_TOKEN, model=TINY)
        assert seen.sum(catalog.CANARY_TTFT, model=TINY) == pytest.approx(total - decode)
        parts = [catalog.CANARY_LOAD, catalog.CANARY_PROMPT, catalog.CANARY_QUEUE_WAIT]
        assert sum(seen.sum(part, model=TINY) for part in parts) + decode == pytest.approx(total)
        assert 0 <= seen.sum(catalog.CANARY_NETWORK, model=TINY) < 0.1
        assert 1 / 200 < seen.sum(catalog.CANARY_PER_TOKEN, model=TINY) < 1 / 50
        assert request.headers["user-agent"].startswith("ollama-exporter/")


@virtually
async def test_the_body_says_nothing_that_could_reload_or_stick() -> None:
    async with stage() as it:
        await it.ask(options={"num_ctx": 1024})
        await it.run(90)
        (request,) = it.recorder.sent("/api/generate")
        assert json.loads(request.content) == {
            "model": "tinyllama:latest:local",
            "prompt": PROMPT,
            "raw": True,
            "stream": False,
            "think": False,
            "options": {"num_ctx": 1024, "num_predict": 16, "temperature": 0},
        }
        assert harm(it) == [f"load {TINY}"]


@virtually
async def test_nothing_loaded_means_nothing_asked() -> None:
    async with stage() as it:
        await it.run(600)
        assert {request.url.path for request in it.recorder.requests} == {"/api/ps"}
        assert harm(it) == []


@virtually
async def test_a_sticky_keep_alive_stays_what_the_user_made_it() -> None:
    async with stage() as it:
        await it.ask(keep_alive="200s")
        await it.run(90)
        assert len(it.recorder.sent("/api/generate")) == 1
        await it.ask()
        await asyncio.sleep(1)
        (idle,) = it.server.log.of("idle")[-1:]
        assert idle.value is not None
        assert idle.value - idle.at == pytest.approx(200.0)


@virtually
async def test_a_pinned_model_has_nothing_to_prolong_and_is_measured_every_interval() -> None:
    async with stage() as it:
        await it.ask(keep_alive=-1)
        seen = await it.run(600)
        assert 8 <= attempts(seen)["ok"] <= 10
        assert "unused" not in skips(seen)


@virtually
async def test_an_exporter_that_restarts_in_a_loop_keeps_nothing_alive() -> None:
    async with stage() as it:
        await it.ask()
        for _ in range(20):
            source = it.new_source()
            await source.collect()
            await asyncio.sleep(20)
            await source.collect()
            await source.aclose()
        assert it.recorder.sent("/api/generate") == []
        assert harm(it) == [f"load {TINY}", f"unload {TINY}"]


@virtually
async def test_a_first_request_that_is_still_running_is_seen_as_busy() -> None:
    async with stage(server=ONE_SLOT) as it:
        it.server.inject(Fault("slow", factor=2000.0))
        async with meanwhile(it.ask(options={"num_predict": 400})):
            await asyncio.sleep(1)
            it.server.heal()
            it.server.inject(Fault("slow", factor=200.0))
            await it.until_loaded()
            seen = await it.run(130)
        assert skips(seen)["busy"] >= 1
        assert attempts(seen) == {}


@virtually
async def test_a_request_that_outlives_the_expiry_is_seen_as_busy() -> None:
    async with stage(server=ONE_SLOT) as it:
        await it.ask(keep_alive="30s")
        it.server.inject(Fault("slow", factor=200.0))
        async with meanwhile(it.ask(options={"num_predict": 400})):
            seen = await it.run(130)
        assert skips(seen)["busy"] >= 1
        assert attempts(seen) == {}


@virtually
async def test_one_canary_at_a_time_and_it_shows_that_it_is_waiting() -> None:
    async with stage(server=ONE_SLOT) as it:
        await it.ask(keep_alive="1h")
        it.server.inject(Fault("slow", factor=3000.0))
        async with meanwhile(it.ask(options={"num_predict": 300})):
            seen = await it.run(250)
            assert len(it.recorder.sent("/api/generate")) == 1
            assert skips(seen)["in_flight"] >= 2
            sent = seen(catalog.CANARY_LAST_ATTEMPT, model=TINY)
            assert seen(catalog.CANARY_PENDING, model=TINY) == sent
            assert attempts(seen) == {}


@virtually
async def test_after_a_long_wait_the_slots_are_left_to_users() -> None:
    async with stage(server=ONE_SLOT) as it:
        await it.ask(keep_alive="1h")
        it.server.inject(Fault("slow", factor=30.0))
        async with meanwhile(*(it.ask(options={"num_predict": 60}, prompt=f"{n}") for n in range(6))):
            seen = await it.run(75)
            while seen(catalog.CANARY_PENDING, model=TINY) is not None:
                seen = await it.run(15)
        it.server.heal()
        async with meanwhile(every(20.0, it.ask)):
            seen = await it.run(150)
            assert attempts(seen) == {"ok": 1.0}
            assert skips(seen)["saturated"] >= 1
            assert seen.sum(catalog.CANARY_QUEUE_WAIT, model=TINY) > 2.0
            seen = await it.run(180)
        assert attempts(seen)["ok"] >= 2


@virtually
async def test_models_that_come_and_go_have_no_more_series_than_the_cap_allows() -> None:
    models = tuple(replace(TINYLLAMA, name=f"m{n}:latest", digest="", blob="") for n in range(8))
    settings = CanarySettings(ENDPOINT, models_max=3)
    async with stage(server=ServerConfig(models=models), settings=settings) as it:
        for model in models:
            await it.ask(model.name, keep_alive="40s")
            seen = await it.run(60)
            names = {labels[1] for labels in seen.series(catalog.CANARY_ATTEMPTS)}
            assert model.name in names, "the newest is measured"
            assert len(names) <= 3
        assert names == {"m5:latest", "m6:latest", "m7:latest"}, "of those gone, the longest gone are forgotten"


@virtually
async def test_a_remote_model_is_never_asked_for() -> None:
    modes: tuple[tuple[str, CanaryMode], ...] = (("gpt-oss:20b-cloud", "always"),)
    async with stage(settings=CanarySettings(ENDPOINT, models=modes)) as it:
        seen = await it.run(300)
        assert skips(seen, "gpt-oss:20b-cloud")["remote"] >= 3
        assert it.server.log.of("external_call") == ()
        assert it.recorder.sent("/api/generate") == []


@pytest.mark.parametrize("version", ["0.24.0", "0.0.0", "0.29.9", "garbage"])
@virtually
async def test_a_server_before_0_30_is_not_asked_unless_the_model_is_named(version: str) -> None:
    async with stage(server=ServerConfig(version=version)) as it:
        await it.ask(keep_alive="1h")
        seen = await it.run(90)
        assert skips(seen) == {"old_server": 1.0}
        assert it.recorder.sent("/api/generate") == []


@virtually
async def test_on_an_old_server_a_named_model_is_asked_without_the_suffix_it_does_not_know() -> None:
    settings = CanarySettings(ENDPOINT, models=((TINY, "loaded"),))
    async with stage(server=ServerConfig(version="0.15.0"), settings=settings) as it:
        await it.ask(keep_alive="1h")
        seen = await it.run(90)
        assert attempts(seen) == {"ok": 1.0}
        assert json.loads(it.recorder.sent("/api/generate")[0].content)["model"] == TINY


@virtually
async def test_a_tag_that_was_replaced_since_its_load_is_left_alone() -> None:
    async with stage() as it:
        await it.ask(keep_alive="1h")
        it.server.install(replace(TINYLLAMA, digest="f" * 64, blob="e" * 64))
        seen = await it.run(90)
        assert skips(seen) == {"replaced": 1.0}
        assert harm(it) == [f"load {TINY}"]


@virtually
async def test_an_embedding_model_gets_one_embedding() -> None:
    name = "nomic-embed-text:latest"
    async with stage() as it:
        await it._people.post("/api/embed", json={"model": name, "input": "x", "keep_alive": "1h"})
        seen = await it.run(90)
        assert attempts(seen, name) == {"ok": 1.0}
        assert len(it.recorder.sent("/api/embed")) == 1
        assert it.recorder.sent("/api/generate") == []
        assert seen(catalog.CANARY_DURATION, model=name) == 1.0
        assert seen(catalog.CANARY_TTFT, model=name) is None
        assert harm(it) == [f"load {name}"]


@virtually
async def test_a_canary_that_caused_a_reload_stops_for_that_model() -> None:
    async with stage() as it:
        await it.ask(keep_alive="1h", options={"num_batch": 256})
        async with meanwhile(every(20.0, lambda: it.ask(options={"num_batch": 256}))):
            seen = await it.run(600)
        assert attempts(seen) == {"caused_load": 1.0}
        assert seen(catalog.CANARY_STOPPED, model=TINY) == 1.0
        assert skips(seen)["stopped"] >= 7
        assert len(it.recorder.sent("/api/generate")) == 1
        assert seen(catalog.CANARY_TTFT, model=TINY) is None


@virtually
async def test_a_stopped_canary_stays_stopped_while_the_model_comes_and_goes() -> None:
    async with stage() as it:
        await it.ask(options={"num_batch": 256})
        await it.run(75)
        await it.run(600)
        assert await it.loaded() == {}
        await it.ask(keep_alive="1h")
        seen = await it.run(120)
        assert seen(catalog.CANARY_STOPPED, model=TINY) == 1.0
        assert len(it.recorder.sent("/api/generate")) == 1


@virtually
async def test_a_canary_stops_after_a_load_so_long_that_polls_missed_the_model() -> None:
    slow = ServerConfig(models=(replace(TINYLLAMA, load_seconds=45.0),))
    async with stage(server=slow) as it:
        await it.ask(keep_alive="1h")
        await it.run(45)
        it.server.inject(Fault("runner_killed"))
        seen = await it.run(300)
        assert attempts(seen) == {"caused_load": 1.0}
        assert seen(catalog.CANARY_STOPPED, model=TINY) == 1.0


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        (Fault("error_rate", status=500, path="/api/generate"), "http_error"),
        (Fault("error_rate", status=503, path="/api/generate"), "rejected"),
        (Fault("garbage", path="/api/generate"), "malformed"),
        (Fault("truncated_json", path="/api/generate"), "malformed"),
        (Fault("drop", path="/api/generate"), "unreachable"),
        (Fault("repeat_cut", path="/api/generate"), "empty"),
    ],
    ids=lambda value: value.kind if isinstance(value, Fault) else value,
)
@virtually
async def test_success_is_only_what_is_done_and_has_a_token(fault: Fault, outcome: str) -> None:
    async with stage() as it:
        await it.ask(keep_alive="1h")
        it.server.inject(fault)
        seen = await it.run(75)
        assert attempts(seen) == {outcome: 1.0}
        assert seen(catalog.CANARY_TTFT, model=TINY) is None
        assert seen(catalog.CANARY_LAST_SUCCESS, model=TINY) is None


@virtually
async def test_an_answer_that_never_comes_is_a_timeout_and_is_not_retried_at_once() -> None:
    async with stage(server=ONE_SLOT, settings=CanarySettings(ENDPOINT, timeout=100.0)) as it:
        await it.ask(keep_alive="1h")
        it.server.inject(Fault("slow", factor=100000.0))
        async with meanwhile(it.ask(options={"num_predict": 300})):
            seen = await it.run(240)
        assert attempts(seen) == {"timeout": 1.0}
        assert len(it.recorder.sent("/api/generate")) == 1
        assert skips(seen)["saturated"] >= 1


@virtually
async def test_closing_the_source_takes_back_a_canary_that_waits() -> None:
    async with stage(server=ONE_SLOT) as it:
        await it.ask(keep_alive="1h")
        it.server.inject(Fault("slow", factor=3000.0))
        async with meanwhile(it.ask(options={"num_predict": 300})):
            await it.run(75)
            await it.source.aclose()
            await asyncio.sleep(1)
            assert len(it.server.log.of("disconnect")) == 1


@virtually
async def test_always_loads_the_named_model_and_says_so() -> None:
    settings = CanarySettings(ENDPOINT, models=((TINY, "always"),))
    async with stage(settings=settings) as it:
        seen = await it.run(150)
        assert attempts(seen) == {"caused_load": 1.0, "ok": 1.0}
        assert harm(it) == [f"load {TINY}"]
        assert seen(catalog.CANARY_STOPPED, model=TINY) == 0.0


@virtually
async def test_off_is_off() -> None:
    async with stage(settings=CanarySettings(ENDPOINT, models=((TINY, "off"),))) as it:
        await it.ask(keep_alive="1h")
        seen = await it.run(300)
        assert not seen.series(catalog.CANARY_ATTEMPTS)
        assert {request.url.path for request in it.recorder.requests} == {"/api/ps"}


@virtually
async def test_our_own_trace_is_not_taken_for_a_user_though_users_kept_the_expiry_from_moving() -> None:
    async with stage(server=ServerConfig(engine=EngineConfig(num_parallel=4))) as it:
        await it.ask(keep_alive="2h")
        it.server.inject(Fault("slow", factor=60.0))
        async with meanwhile(it.ask(options={"num_predict": 300})):
            await asyncio.sleep(1)
            seen = await it.run(300)
        seen = await it.run(1200)
        assert attempts(seen)["ok"] <= 2
        assert skips(seen)["unused"] >= 10


@virtually
async def test_a_dead_server_fails_the_reading_and_keeps_the_counters() -> None:
    async with stage() as it:
        await it.ask(keep_alive="1h")
        await it.run(90)
        it.server.inject(Fault("dead"))
        seen = await it.observe()
        assert seen.failure == "unreachable"
        assert attempts(seen) == {"ok": 1.0}


@virtually
async def test_counters_start_at_zero_when_a_model_is_met() -> None:
    async with stage() as it:
        await it.ask(keep_alive="1h")
        seen = await it.observe()
        assert {labels[2] for labels in seen.series(catalog.CANARY_ATTEMPTS)} == set(OUTCOMES)
        assert {labels[2] for labels in seen.series(catalog.CANARY_SKIPS)} == set(SKIPS)
