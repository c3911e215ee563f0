"""The api source: states told apart, models right or absent, differences between polls, in virtual time."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from exporter import catalog
from exporter.model import ApiSettings, Reason, Sample
from exporter.ollama import Details, LoadedModel
from exporter.simulator import GPT_OSS_CLOUD, LLAMA32_3B, TINYLLAMA, EngineConfig, Fault, ServerConfig
from exporter.sources.api import STATES, Residents
from tests.scene import ENDPOINT, Seen, every, meanwhile, stage, virtually

TINY = "tinyllama:latest"
PRESENT = {  # families that describe a server's present condition: none may outlive the sight of it
    family.name
    for family in (
        catalog.BUILD_INFO, catalog.CLOCK_OFFSET, catalog.INSTALLED_MODELS, catalog.REMOTE_MODELS,
        catalog.INSTALLED_SIZE, catalog.INSTALLED_INFO, catalog.LOADED_MODELS, catalog.LOADED_SIZE,
        catalog.LOADED_VRAM, catalog.LOADED_CONTEXT, catalog.LOADED_EXPIRY, catalog.LOADED_INFO, catalog.KNOWN_BUSY,
    )
}  # fmt: skip


def state(seen: Seen) -> str:
    (found,) = [name for name in STATES if seen(catalog.STATE, state=name) == 1.0]
    return found


@virtually
async def test_a_healthy_server_shows_all_it_has() -> None:
    async with stage("api") as it:
        await it.ask(keep_alive="10m")
        seen = await it.observe()
        assert seen.failure is None
        assert (state(seen), seen(catalog.UP)) == ("ok", 1.0)
        assert seen(catalog.BUILD_INFO, version="0.33.0-rc2") == 1.0
        assert seen(catalog.SERVER_INFO, url="http://a:11434") == 1.0
        (row,) = (await it.loaded()).values()
        assert seen(catalog.LOADED_SIZE, model=TINY) == row["size"]
        assert seen(catalog.LOADED_VRAM, model=TINY) == row["size_vram"]
        assert seen(catalog.LOADED_CONTEXT, model=TINY) == row["context_length"]
        assert seen.total(catalog.LOADED_EXPIRY, model=TINY) == pytest.approx(it.server.wall_time() + 600, abs=0.01)
        assert seen(catalog.INSTALLED_MODELS) == 3.0
        assert seen(catalog.REMOTE_MODELS) == 1.0
        assert seen(catalog.INSTALLED_SIZE, model=TINY) == TINYLLAMA.file_bytes
        info = {"digest": TINYLLAMA.digest[:12], "family": "llama", "parameter_size": "1.1B", "quantization": "Q4_0"}
        assert seen(catalog.LOADED_INFO, model=TINY, **info) == 1.0
        assert seen(catalog.INSTALLED_INFO, model=TINY, **info) == 1.0


@pytest.mark.parametrize(
    ("fault", "expected", "up", "reason"),
    [
        (Fault("dead"), "down", 0.0, "unreachable"),
        (Fault("starting"), "starting", 0.0, "timeout"),
        (Fault("ps_stalled"), "stalled", 1.0, "timeout"),
        (Fault("error_rate", status=500, path="/api/ps"), "stalled", 1.0, "http_5xx"),
        (Fault("error_rate", status=502), "down", 0.0, "http_5xx"),
        (Fault("forbidden"), "down", 0.0, "forbidden_host"),
        (Fault("redirect"), "down", 0.0, "redirect"),
        (Fault("garbage"), "down", 0.0, "decode"),
        (Fault("truncated_json"), "down", 0.0, "decode"),
        (Fault("wrong_types"), "down", 0.0, "malformed"),
        (Fault("huge_body"), "down", 0.0, "too_large"),
        (Fault("drip"), "starting", 0.0, "timeout"),
    ],
    ids=lambda value: value.kind if isinstance(value, Fault) else str(value),
)
@virtually
async def test_what_goes_wrong_has_its_state_and_its_reason(
    fault: Fault, expected: str, up: float, reason: Reason
) -> None:
    async with stage("api") as it:
        await it.ask()
        before = await it.observe()
        it.server.inject(fault)
        seen = await it.observe()
        assert (state(seen), seen(catalog.UP), seen.failure) == (expected, up, reason)
        left = seen.families() & PRESENT
        assert left == ({catalog.BUILD_INFO.name, catalog.CLOCK_OFFSET.name} if up else set())
        # What the exporter itself has counted stays true.
        assert before.series(catalog.LOADS_SEEN) == seen.series(catalog.LOADS_SEEN)
        it.server.heal()
        again = await it.observe()
        assert again.failure is None
        assert PRESENT & before.families() - again.families() <= {
            catalog.LOADED_SIZE.name,
            catalog.LOADED_VRAM.name,
            catalog.LOADED_CONTEXT.name,
            catalog.LOADED_EXPIRY.name,
            catalog.LOADED_INFO.name,
            catalog.KNOWN_BUSY.name,
        }  # fmt: skip - a server that was dead has nothing loaded


@virtually
async def test_broken_inventory_takes_only_the_inventory_with_it() -> None:
    async with stage("api") as it:
        await it.ask()
        it.server.inject(Fault("error_rate", status=500, path="/api/tags"))
        seen = await it.observe()
        assert (state(seen), seen.failure) == ("ok", "http_5xx")
        assert seen(catalog.LOADED_MODELS) == 1.0
        assert seen(catalog.INSTALLED_MODELS) is None
        assert not seen.series(catalog.INSTALLED_SIZE)
        it.server.heal()
        assert (await it.observe())(catalog.INSTALLED_MODELS) == 3.0


@virtually
async def test_the_inventory_is_asked_for_rarely_and_when_an_unknown_model_is_loaded() -> None:
    async with stage("api") as it:
        await it.run(285)
        assert len(it.recorder.sent("/api/tags")) == 1
        await it.run(30)
        assert len(it.recorder.sent("/api/tags")) == 2
        it.server.install(replace(LLAMA32_3B, name="new:1b", digest="a" * 64, blob="b" * 64))
        await it.ask("new:1b")
        seen = await it.observe()
        assert len(it.recorder.sent("/api/tags")) == 3
        assert seen(catalog.INSTALLED_SIZE, model="new:1b") == LLAMA32_3B.file_bytes


@virtually
async def test_a_loaded_model_whose_tag_is_gone_does_not_cause_an_inventory_at_every_poll() -> None:
    async with stage("api") as it:
        await it.ask(keep_alive="1h")
        it.server.remove(TINY)
        await it.run(150)
        assert len(it.recorder.sent("/api/tags")) == 1


@virtually
async def test_loads_and_unloads_are_counted_from_zero() -> None:
    async with stage("api") as it:
        seen = await it.observe()
        assert seen(catalog.LOADS_SEEN, model=TINY) == 0.0
        await it.ask(keep_alive="40s")
        seen = await it.run(90)
        assert seen(catalog.LOADS_SEEN, model=TINY) == 1.0
        assert seen(catalog.UNLOADS_SEEN, model=TINY) == 1.0
        assert seen(catalog.LOADS_SEEN, model="llama3.2:3b") == 0.0
        assert not seen.series(catalog.LOADED_SIZE)


@virtually
async def test_what_is_loaded_when_we_come_is_not_counted_as_a_load() -> None:
    async with stage("api") as it:
        await it.ask()
        seen = await it.run(30)
        assert seen(catalog.LOADS_SEEN, model=TINY) == 0.0


@virtually
async def test_another_context_length_is_a_reconfiguration() -> None:
    async with stage("api") as it:
        await it.ask(options={"num_ctx": 2048})
        await it.observe()
        await it.ask(options={"num_ctx": 1024})
        seen = await it.run(15)
        assert seen(catalog.RECONFIGURATIONS_SEEN, model=TINY) == 1.0
        assert seen(catalog.LOADS_SEEN, model=TINY) == 1.0
        assert seen(catalog.UNLOADS_SEEN, model=TINY) == 1.0
        assert seen(catalog.LOADED_CONTEXT, model=TINY) == 1024.0


@virtually
async def test_uses_are_seen_as_moves_of_the_expiry() -> None:
    async with stage("api") as it:
        await it.ask()
        await it.observe()
        seen = await it.run(60)
        assert seen(catalog.USES_SEEN, model=TINY) == 0.0
        await it.ask()
        await it.ask()
        seen = await it.run(15)
        assert seen(catalog.USES_SEEN, model=TINY) == 1.0


@virtually
async def test_a_first_request_that_runs_for_minutes_is_known_to_be_busy_and_no_use_yet() -> None:
    async with stage("api", server=ServerConfig(engine=EngineConfig(num_parallel=1))) as it:
        seen = await it.observe()
        it.server.inject(Fault("slow", factor=2000.0))
        async with meanwhile(it.ask()):
            await asyncio.sleep(1)
            it.server.heal()
            it.server.inject(Fault("slow", factor=3000.0))
            await it.until_loaded()
            seen = await it.run(60)
            assert seen(catalog.KNOWN_BUSY, model=TINY) == 1.0
            assert seen(catalog.USES_SEEN, model=TINY) == 0.0


@virtually
async def test_an_expiry_in_the_past_is_known_to_be_busy_whatever_our_clock_says() -> None:
    async with stage("api", server=ServerConfig(engine=EngineConfig(num_parallel=1))) as it:
        it.server.inject(Fault("clock_skew", offset=-7200.0))
        await it.ask(keep_alive="60s")
        assert (await it.observe())(catalog.KNOWN_BUSY, model=TINY) == 0.0
        it.server.inject(Fault("slow", factor=3000.0))
        async with meanwhile(it.ask()):
            seen = await it.run(90)
            assert seen(catalog.KNOWN_BUSY, model=TINY) == 1.0
            assert seen.total(catalog.CLOCK_OFFSET) == pytest.approx(-7200.0, abs=1.0)


@virtually
async def test_steady_traffic_on_a_warm_model_is_not_taken_for_a_sliding_expiry() -> None:
    async with stage("api") as it:
        await it.ask(keep_alive="10m")
        await it.observe()
        async with meanwhile(every(7.3, it.ask)):
            await it.run(30)
            for _ in range(20):
                seen = await it.run(15)
                assert seen(catalog.KNOWN_BUSY, model=TINY) == 0.0
        assert seen.total(catalog.USES_SEEN, model=TINY) >= 20


@virtually
async def test_untagged_and_latest_are_one_model() -> None:
    async with stage("api") as it:
        await it.ask("tinyllama")
        seen = await it.observe()
        assert seen.series(catalog.LOADED_SIZE) == {("a", TINY)}


@virtually
async def test_remote_models_are_counted_and_never_described() -> None:
    async with stage("api") as it:
        seen = await it.observe()
        assert seen(catalog.REMOTE_MODELS) == 1.0
        assert seen(catalog.INSTALLED_SIZE, model=GPT_OSS_CLOUD.name) is None
        assert it.server.log.of("external_call") == ()


@virtually
async def test_past_the_cap_models_are_summed_under_other_and_counted() -> None:
    models = tuple(replace(TINYLLAMA, name=f"m{n:02}:latest", digest="", blob="") for n in range(30))
    async with stage("api", ServerConfig(models=models), ApiSettings(ENDPOINT, models_max=10)) as it:
        seen = await it.observe()
        assert seen(catalog.INSTALLED_MODELS) == 30.0
        assert len(seen.series(catalog.INSTALLED_SIZE)) == 11
        assert seen(catalog.INSTALLED_SIZE, model="other") == 20 * TINYLLAMA.file_bytes
        assert seen(catalog.EXPORTER_DROPPED) == 20.0
        assert len(seen.series(catalog.INSTALLED_INFO)) == 10
        assert len(seen.series(catalog.LOADS_SEEN)) == 10


@virtually
async def test_models_that_come_and_go_do_not_pile_up_past_the_cap() -> None:
    """Those that the inventory names by name, as many that were loaded since, and all are settled at the next one."""
    models = tuple(replace(TINYLLAMA, name=f"m{n:02}:latest", digest="", blob="") for n in range(60))
    async with stage("api", ServerConfig(models=models), ApiSettings(ENDPOINT, 3600.0, models_max=10)) as it:
        for model in models:
            await it.ask(model.name, keep_alive="20s")
            seen = await it.run(30)
            assert len(seen.series(catalog.LOADED_SIZE)) <= 11
            assert len(seen.series(catalog.LOADS_SEEN)) <= 2 * 10
        seen = await it.run(3600)
        assert len(seen.series(catalog.LOADS_SEEN)) == 10


@virtually
async def test_counters_of_a_model_that_was_deleted_go_with_it() -> None:
    async with stage("api") as it:
        await it.ask("llama3.2:3b", keep_alive="20s")
        await it.run(60)
        it.server.remove("llama3.2:3b")
        seen = await it.run(330)
        assert {labels[1] for labels in seen.series(catalog.LOADS_SEEN)} == {TINY, "nomic-embed-text:latest"}


@virtually
async def test_a_poll_disturbs_nobody() -> None:
    async with stage("api") as it:
        await it.ask(keep_alive="90s")
        (before,) = (await it.loaded()).values()
        await it.run(60)
        (after,) = (await it.loaded()).values()
        assert before["expires_at"] == after["expires_at"]
        assert {request.method for request in it.recorder.requests} == {"GET"}
        paths = {request.url.path for request in it.recorder.requests}
        assert paths == {"/api/version", "/api/ps", "/api/tags"}
        assert all("origin" not in request.headers for request in it.recorder.requests)


def resident(expires: float | None, digest: str = "d", context: int = 1) -> LoadedModel:
    return LoadedModel("m:latest", digest, Details(), None, None, context, expires)


def test_two_looks_in_quick_succession_prove_no_slide() -> None:
    it = Residents("a")
    it.see([resident(300.0)], at=0.0, clock=0.0)
    it.see([resident(300.05)], at=0.05, clock=0.05)
    assert not it.known_busy("m:latest")


def test_a_model_without_an_expiry_is_neither_busy_nor_used() -> None:
    it = Residents("a")
    for at in (0.0, 15.0, 30.0):
        it.see([resident(None)], at=at, clock=at)
    assert not it.known_busy("m:latest")
    assert {sample.value for sample in it.counters()} == {0.0}


@virtually
async def test_what_did_not_change_is_the_very_sample_of_the_last_look() -> None:
    """Its text is not made again."""
    same = (catalog.BUILD_INFO, catalog.KNOWN_BUSY, catalog.EXPORTER_DROPPED, catalog.LOADED_SIZE, catalog.UP)
    async with stage("api") as it:
        await it.ask(keep_alive="10m")
        await it.run(60)

        async def look() -> list[Sample]:
            return [sample for sample in (await it.observe()).reading.samples if sample.family in same]

        first, second = await look(), await look()
        assert len(first) == len(same)
        assert all(old is new for old, new in zip(first, second, strict=True))
