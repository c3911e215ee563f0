"""Everything that can be made to go wrong, as a client meets it."""

import asyncio
import json
from collections.abc import Callable

import httpx
import pytest

from exporter.simulator import SMOLLM2, Fault, ServerConfig, SimServer, SimTransport, virtual_wall_clock
from exporter.simulator.engine import Wanted
from exporter.simulator.runner import RunnerDiedError
from tests.simulator.bench import PROMPT, Bench, bench, now


async def read_stream(b: Bench, each: Callable[[str], object]) -> None:
    body = {"model": "smollm2", "prompt": PROMPT}
    async with b.client.stream("POST", "/api/generate", json=body) as response:
        async for line in response.aiter_lines():
            each(line)


async def test_a_dead_server_refuses_connections_and_comes_back_empty() -> None:
    async with bench() as b:
        await b.one_token()
        b.server.inject(Fault("dead", seconds=60))
        with pytest.raises(httpx.ConnectError):
            await b.get("/api/version")
        await asyncio.sleep(60)
        assert (await b.get("/api/version")).status_code == 200
        assert await b.loaded() == []
        assert [event.kind for event in b.server.log.of("down", "up")] == ["down", "up"]


async def test_death_cuts_answers_in_mid_stream_and_those_who_wait() -> None:
    async with bench() as b:
        await b.one_token()
        waiting = asyncio.create_task(b.one_token("gemma3-270m"))
        with pytest.raises(httpx.ReadError):
            await read_stream(b, lambda _: b.server.inject(Fault("dead")))
        with pytest.raises(httpx.ReadError):
            await waiting


async def test_a_starting_server_accepts_and_stays_silent_until_it_is_up() -> None:
    async with bench() as b:
        b.server.inject(Fault("starting", seconds=30))
        with pytest.raises(httpx.ReadTimeout):
            await b.get("/api/version", timeout=2)
        assert now() == pytest.approx(2)
        assert (await b.get("/api/version")).status_code == 200
        assert now() == pytest.approx(30)


async def test_connections_to_a_starting_server_wait_in_the_accept_queue_and_are_seen_to_wait() -> None:
    async with bench() as b:
        b.server.inject(Fault("starting", seconds=30))
        asked = [asyncio.create_task(b.get("/api/version")) for _ in range(3)]
        await asyncio.sleep(10)
        assert b.server.ledger.accept_queue == 3
        assert [talk.sent for talk in b.server.ledger.now()] == [0, 0, 0]
        await asyncio.gather(*asked)
        assert b.server.ledger.accept_queue == 0


async def test_death_ends_the_connections_of_those_who_wait_for_a_lost_slot() -> None:
    async with bench() as b:
        await b.one_token()
        b.server.inject(Fault("slot_lost"))
        await b.one_token()
        waiting = asyncio.create_task(_visits(b))
        await asyncio.sleep(60)
        assert [talk.sent for talk in b.server.ledger.now()] == [0]
        written = len(b.lines)
        b.server.inject(Fault("dead"))
        assert b.server.ledger.now() == ()
        with pytest.raises(RunnerDiedError):
            await waiting
        assert b.lines[written:] == [], "who is dead writes nothing"


async def _visits(b: Bench) -> None:
    wanted = Wanted(SMOLLM2)
    with b.server.visited("/api/generate"):
        async with b.server.engine.runner(wanted) as runner, runner.slot():
            raise AssertionError("there was a slot")


async def test_out_of_memory_at_work_fails_the_request_and_unloads_every_model() -> None:
    async with bench() as b:
        await b.one_token("gemma3-270m")
        await b.one_token()
        b.server.inject(Fault("runtime_oom", model="smollm2:latest"))
        assert (await b.one_token("gemma3-270m")).status_code == 200
        assert (await b.one_token()).status_code == 500
        assert await b.loaded() == []
        told = [line for line in b.lines if "runtime OOM detected" in line]
        assert len(told) == 1
        b.server.heal()
        assert (await b.one_token()).status_code == 200


async def test_an_answer_beyond_the_context_throws_half_of_it_away_and_the_log_says_so() -> None:
    async with bench() as b:
        answer = await b.generate(options={"num_ctx": 256, "num_predict": 0})
        assert answer.json()["eval_count"] == 2560
        shifts = [line for line in b.lines if "slot context shift" in line]
        assert len(shifts) == pytest.approx((answer.json()["prompt_eval_count"] + 2560 - 256) / 126, abs=1)
        assert "n_keep = 4, n_left = 252, n_discard = 126" in shifts[0]


async def test_what_breaks_off_is_in_the_log() -> None:
    async with bench() as b:
        b.server.inject(Fault("mid_stream_error"))
        await read_stream(b, lambda _: None)
        assert len([line for line in b.lines if "llama-server completion error" in line]) == 1


async def test_reworded_access_lines_look_like_those_that_they_were() -> None:
    async with bench() as b:
        b.server.inject(Fault("log_reworded"))
        await b.get("/api/version")
        b.server.heal()
        await b.get("/api/version")
        assert [line.split(" ", 2)[:2] for line in b.lines[-2:]] == [["[GIN]", "status=200"], ["[GIN]", "2026/11/23"]]


async def test_a_stalled_scheduler_blocks_ps_while_version_answers() -> None:
    async with bench() as b:
        b.server.inject(Fault("ps_stalled", seconds=20))
        with pytest.raises(httpx.ReadTimeout):
            await b.get("/api/ps", timeout=5)
        assert (await b.get("/api/version")).status_code == 200
        assert (await b.get("/api/tags")).status_code == 200
        await b.get("/api/ps")
        assert now() == pytest.approx(20)


async def test_saturation_fills_every_slot_and_ends_when_it_is_over() -> None:
    async with bench() as b:
        b.server.inject(Fault("saturated", seconds=120, model="smollm2:latest"))
        await asyncio.sleep(60)
        (row,) = b.server.engine.loaded()
        assert row.busy == row.slots
        assert row.waiting > 0
        assert b.happened("reject") == 0
        await asyncio.sleep(240)
        (row,) = b.server.engine.loaded()
        assert (row.busy, row.waiting) == (0, 0)


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_an_error_rate_hits_its_share_of_the_requests(status: int) -> None:
    async with bench() as b:
        b.server.inject(Fault("error_rate", rate=0.3, status=status))
        found = [(await b.get("/api/version")).status_code for _ in range(400)]
        assert set(found) == {200, status}
        assert found.count(status) == pytest.approx(120, abs=35)


async def test_a_fault_can_be_kept_to_one_path() -> None:
    async with bench() as b:
        b.server.inject(Fault("error_rate", path="/api/tags"))
        assert (await b.get("/api/tags")).status_code == 500
        assert (await b.get("/api/ps")).status_code == 200


@pytest.mark.parametrize("kind", ["garbage", "truncated_json"])
async def test_what_should_be_json_is_not(kind: str) -> None:
    async with bench() as b:
        b.server.inject(Fault.parse({"kind": kind}))
        answer = await b.get("/api/tags")
        assert answer.status_code == 200
        with pytest.raises(json.JSONDecodeError):
            answer.json()


async def test_wrong_types_are_well_formed_nonsense() -> None:
    async with bench() as b:
        await b.one_token()
        right = await b.ps()
        b.server.inject(Fault("wrong_types"))
        wrong = await b.ps()
        assert list(wrong[0]) == list(right[0])
        assert all(type(wrong[0][key]) is not type(right[0][key]) for key in right[0] if key != "details")
        assert (await b.get("/api/version")).json() == {"version": 42}


async def test_a_huge_body_is_valid_and_as_long_as_asked_and_can_be_left_early() -> None:
    async with bench() as b:
        b.server.inject(Fault("huge_body", size=3_000_000))
        answer = await b.get("/api/ps")
        assert len(answer.content) > 3_000_000
        assert answer.json()["models"] == []
        b.server.inject(Fault("huge_body", size=10**12))
        async with b.client.stream("GET", "/api/ps") as response:
            async for chunk in response.aiter_bytes():
                assert len(chunk) < 100_000
                break


async def test_a_dripping_body_defeats_read_time_outs_and_needs_a_deadline() -> None:
    async with bench() as b:
        b.server.inject(Fault("drip"))
        answer = await b.get("/api/version", timeout=5)
        assert answer.json() == {"version": "0.33.0-rc2"}
        assert now() == pytest.approx(len(answer.content))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3):
                await b.get("/api/version", timeout=5)


async def test_a_redirect_points_elsewhere() -> None:
    async with bench() as b:
        b.server.inject(Fault("redirect"))
        answer = await b.get("/api/version")
        assert (answer.status_code, answer.headers["location"]) == (302, "http://elsewhere.invalid/login")


async def test_forbidden_is_403_with_nothing_in_it() -> None:
    async with bench() as b:
        b.server.inject(Fault("forbidden"))
        answer = await b.get("/api/version")
        assert (answer.status_code, answer.content) == (403, b"")


async def test_a_dropped_answer_ends_before_its_length() -> None:
    async with bench() as b:
        b.server.inject(Fault("drop"))
        with pytest.raises(httpx.RemoteProtocolError):
            await b.get("/api/tags")


async def test_a_dropped_stream_ends_after_its_first_tokens() -> None:
    async with bench() as b:
        b.server.inject(Fault("drop"))
        seen: list[str] = []
        with pytest.raises(httpx.RemoteProtocolError):
            await read_stream(b, seen.append)
        assert len(seen) == 3


async def test_a_skewed_clock_moves_every_date_and_no_duration() -> None:
    async with bench() as b:
        await b.one_token()
        right = await b.expiry()
        b.server.inject(Fault("clock_skew", offset=3_600))
        assert await b.expiry() == pytest.approx(right + 3_600, abs=0.001)
        assert (await b.get("/")).headers["date"].startswith("Mon, 23 Nov 2026 18:38")
        assert (await b.one_token()).json()["total_duration"] < 1e9


async def test_a_flaky_server_fails_now_and_then_in_several_ways() -> None:
    async with bench() as b:
        b.server.inject(Fault("flaky", rate=0.5))
        outcomes: set[object] = set()
        for _ in range(60):
            try:
                outcomes.add((await b.get("/api/version")).status_code)
            except httpx.RemoteProtocolError:
                outcomes.add("dropped")
        assert outcomes == {200, 500, 502, "dropped"}


async def test_faults_end_by_themselves_or_when_cleared() -> None:
    async with bench() as b:
        b.server.inject(Fault("forbidden", seconds=10))
        b.server.inject(Fault("slow"))
        await asyncio.sleep(10)
        assert [fault.kind for fault in b.server.faults.all()] == ["slow"]
        b.server.heal("slow")
        assert b.server.faults.all() == ()


async def test_control_shows_the_state_and_sets_and_clears_faults() -> None:
    async with bench(control=True) as b:
        await b.one_token()
        answer = await b.post("/_sim/faults", kind="slow", factor=3, seconds=60)
        assert answer.status_code == 200
        state = (await b.get("/_sim/state")).json()
        assert state["loaded"][0]["model"] == SMOLLM2.name
        assert (state["pending"], state["max_queue"]) == (0, 512)
        assert [(f["kind"], f["factor"], f["remaining"]) for f in state["faults"]] == [("slow", 3, 60.0)]
        assert state["events"]["load"] == 1
        await b.client.delete("/_sim/faults")
        assert (await b.get("/_sim/faults")).json()["faults"] == []


async def test_control_answers_while_the_rest_of_the_server_is_silent() -> None:
    async with bench(control=True) as b:
        b.server.inject(Fault("starting"))
        assert (await b.get("/_sim/state", timeout=1)).status_code == 200


async def test_control_does_not_exist_unless_it_was_asked_for() -> None:
    async with bench() as b:
        assert (await b.get("/_sim/state")).status_code == 404


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"kind": "earthquake"}, "unknown fault 'earthquake'"),
        ({"seconds": 5}, "kind is missing"),
        ({"kind": "slow", "speed": 5}, "unknown field 'speed'"),
        ({"kind": "slow", "factor": "much"}, "factor has the wrong type"),
        ({"kind": "dead"}, "dead needs seconds"),
    ],
)
async def test_control_says_what_is_wrong_with_a_fault(body: dict[str, object], text: str) -> None:
    async with bench(control=True) as b:
        answer = await b.post("/_sim/faults", **body)
        assert answer.status_code == 400
        assert text in answer.json()["error"]


async def test_an_unknown_host_is_a_connect_error() -> None:
    async with bench() as b:
        with pytest.raises(httpx.ConnectError):
            await b.get("http://nowhere:11434/")


async def test_one_transport_reaches_several_servers_by_host_and_port() -> None:
    servers = {
        key: SimServer(ServerConfig(name=key, version=version), now=virtual_wall_clock)
        for key, version in (("a", "1.0.0"), ("b:1", "2.0.0"), ("b:2", "3.0.0"))
    }
    async with httpx.AsyncClient(transport=SimTransport(servers)) as client:
        urls = ("http://a:11434", "http://b:1", "http://b:2")
        versions = [(await client.get(f"{url}/api/version")).json()["version"] for url in urls]
    assert versions == ["1.0.0", "2.0.0", "3.0.0"]


async def test_a_client_that_times_out_gives_its_slot_back() -> None:
    async with bench() as b:
        await b.one_token()
        with pytest.raises(httpx.ReadTimeout):
            await b.client.post(
                "/api/generate",
                json={"model": "smollm2", "prompt": PROMPT, "stream": False, "options": {"num_predict": 0}},
                timeout=3,
            )
        await asyncio.sleep(0.01)
        (row,) = b.server.engine.loaded()
        assert (row.busy, row.waiting) == (0, 0)


async def test_no_task_is_left_behind() -> None:
    async with bench() as b:
        await asyncio.gather(*(b.one_token() for _ in range(5)))
        async with b.client.stream("POST", "/api/generate", json={"model": "smollm2", "prompt": PROMPT}):
            pass
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_what_is_loaded_after_the_gpu_was_lost_is_loaded_beside_it() -> None:
    async with bench() as b:
        await b.one_token()
        b.server.inject(Fault("gpu_lost", seconds=60))
        (row,) = await b.ps()
        assert row["size_vram"] == row["size"], "what is loaded stays where it is"
        await b.one_token("gemma3-270m")
        assert {row["name"]: row["size_vram"] for row in await b.ps()}["gemma3-270m:latest"] == 0
        await asyncio.sleep(60)
        await b.generate("gemma3-270m", options={"num_ctx": 512, "num_predict": 1})
        assert all(row["size_vram"] == row["size"] for row in await b.ps()), "loaded anew, and back on the GPU"


async def test_sizes_that_the_server_could_not_read_are_zero() -> None:
    async with bench() as b:
        await b.one_token()
        b.server.inject(Fault("size_unread", seconds=60))
        (row,) = await b.ps()
        assert (row["size"], row["size_vram"]) == (0, 0)
        await asyncio.sleep(60)
        (row,) = await b.ps()
        assert row["size"] > 0
