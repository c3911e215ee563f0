"""What an answer says about itself, and how it can end."""

import asyncio
import json

import httpx
import pytest

from exporter.simulator import GPT_OSS_CLOUD, QWEN3_4B, SMOLLM2, EngineConfig, Fault
from tests.simulator.bench import MODELS, PROMPT, bench, now

GENERATE = {"model": "smollm2", "prompt": PROMPT}


def lines(response: httpx.Response) -> list[dict[str, object]]:
    return [json.loads(line) for line in response.text.splitlines()]


async def test_the_durations_add_up_and_the_slot_wait_is_in_none_of_them() -> None:
    async with bench() as b:
        await b.one_token()
        first = asyncio.create_task(b.generate(options={"num_predict": 60}))
        await asyncio.sleep(0.01)
        began = now()
        second = (await b.one_token(prompt="something else entirely")).json()
        waited = now() - began
        await first
        parts = sum(second[p] for p in ("load_duration", "prompt_eval_duration", "eval_duration"))
        assert second["total_duration"] == pytest.approx(waited * 1e9, rel=0.01)
        assert second["total_duration"] - parts > 1e9
        assert second["load_duration"] < 1e8


async def test_load_duration_is_the_load_when_cold_and_small_but_never_zero_when_warm() -> None:
    async with bench() as b:
        cold = (await b.one_token()).json()
        warm = (await b.one_token()).json()
        assert cold["load_duration"] / 1e9 == pytest.approx(SMOLLM2.load_seconds, rel=0.1)
        assert 0 < warm["load_duration"] < 50e6


async def test_the_first_token_costs_no_decode_time() -> None:
    async with bench() as b:
        answer = (await b.generate(options={"num_predict": 20})).json()
        speed = (answer["eval_count"] - 1) / (answer["eval_duration"] / 1e9)
        assert speed == pytest.approx(SMOLLM2.decode_tokens_per_second, rel=0.01)


async def test_a_repeated_prompt_is_cheap_though_its_count_stays() -> None:
    async with bench() as b:
        first, second = [(await b.one_token(prompt="word " * 500)).json() for _ in range(2)]
        assert first["prompt_eval_count"] == second["prompt_eval_count"]
        assert second["prompt_eval_duration"] < first["prompt_eval_duration"] / 100


async def test_a_shared_beginning_is_read_from_the_cache() -> None:
    async with bench() as b:
        text = " ".join(f"word{i}" for i in range(320))
        first = (await b.one_token(prompt=text)).json()
        second = (await b.one_token(prompt=text + " and a new question")).json()
        assert second["prompt_eval_duration"] < first["prompt_eval_duration"] / 4


async def test_crowded_slots_are_slower_each() -> None:
    async with bench(engine=EngineConfig(num_parallel=4)) as b:
        await b.one_token()
        alone = (await b.generate(options={"num_predict": 20})).json()
        crowd = await asyncio.gather(*(b.generate(options={"num_predict": 20}) for _ in range(4)))
        assert crowd[0].json()["eval_duration"] > 2 * alone["eval_duration"]


async def test_a_stream_comes_token_by_token_and_ends_with_the_account() -> None:
    async with bench() as b:
        await b.one_token()
        times: list[float] = []
        async with b.client.stream("POST", "/api/generate", json={**GENERATE, "options": {"num_predict": 10}}) as r:
            async for _ in r.aiter_lines():
                times.append(now())
        assert len(times) == 11
        assert times[9] - times[0] == pytest.approx(9 / SMOLLM2.decode_tokens_per_second, rel=0.01)


async def test_an_answer_ends_by_itself_or_at_its_limit() -> None:
    async with bench() as b:
        natural = (await b.generate()).json()
        limited = (await b.generate(options={"num_predict": 5})).json()
        assert natural["done_reason"] == "stop"
        assert (limited["done_reason"], limited["eval_count"]) == ("length", 5)


async def test_num_predict_zero_runs_to_ten_times_the_context() -> None:
    async with bench() as b:
        answer = (await b.generate(options={"num_predict": 0})).json()
        assert (answer["eval_count"], answer["done_reason"]) == (40_960, "length")


async def test_an_over_long_prompt_is_refused_where_truncation_is_forbidden() -> None:
    async with bench() as b:
        answer = await b.generate(prompt="word " * 9_000, truncate=False)
        assert answer.status_code == 400
        assert json.loads(answer.json()["error"])["error"]["type"] == "exceed_context_size_error"


async def test_raw_gives_no_context_and_no_template_tokens() -> None:
    async with bench() as b:
        raw = (await b.one_token(raw=True)).json()
        assert "context" not in raw
        assert raw["prompt_eval_count"] == 7
        assert (await b.generate(raw=True, template="x")).status_code == 400


async def test_a_runner_lost_in_mid_stream_is_an_error_line_under_200() -> None:
    async with bench() as b:
        await b.one_token()
        b.server.inject(Fault("mid_stream_error"))
        answer = await b.client.post("/api/generate", json=GENERATE)
        assert answer.status_code == 200
        assert lines(answer)[-1] == {"error": "an error was encountered while running the model: unexpected EOF"}
        assert (await b.generate()).status_code == 500


async def test_an_error_before_the_first_token_of_a_stream_has_its_own_status() -> None:
    async with bench() as b:
        await b.one_token()
        running = asyncio.create_task(b.client.post("/api/generate", json={**GENERATE, "prompt": "word " * 900}))
        await asyncio.sleep(0.1)
        b.server.inject(Fault("runner_killed"))
        assert (await running).status_code == 500


async def test_a_repeating_answer_is_cut_without_done() -> None:
    async with bench() as b:
        b.server.inject(Fault("repeat_cut"))
        streamed = await b.client.post("/api/generate", json=GENERATE)
        assert streamed.status_code == 200
        assert all(line["done"] is False for line in lines(streamed))
        whole = (await b.generate()).json()
        assert whole["done"] is False
        assert "eval_count" not in whole


async def test_a_client_that_leaves_in_mid_stream_frees_its_slot_at_once() -> None:
    async with bench() as b:
        await b.one_token()
        async with b.client.stream("POST", "/api/generate", json=GENERATE) as response:
            async for _ in response.aiter_lines():
                break
            (row,) = b.server.engine.loaded()
            assert row.busy == 1
        await asyncio.sleep(0.1)
        (row,) = b.server.engine.loaded()
        assert row.busy == 0
        assert b.happened("disconnect") == 1


async def test_think_false_is_accepted_everywhere_and_think_true_only_where_it_is_known() -> None:
    async with bench((*MODELS, QWEN3_4B)) as b:
        assert (await b.one_token(think=False)).status_code == 200
        refused = await b.one_token(think=True)
        assert (refused.status_code, refused.json()) == (400, {"error": '"smollm2" does not support thinking'})
        assert "thinking" in (await b.generate("qwen3:4b")).json()
        assert "thinking" not in (await b.generate("qwen3:4b", think=False)).json()


@pytest.mark.parametrize("name", ["gpt-oss:20b-cloud", "anything:cloud", "other-cloud"])
@pytest.mark.parametrize("path", ["/api/generate", "/api/chat", "/api/show", "/api/embed", "/v1/completions"])
async def test_cloud_names_are_recorded_as_calls_that_leave_the_machine(name: str, path: str) -> None:
    async with bench((*MODELS, GPT_OSS_CLOUD)) as b:
        answer = await b.post(path, model=name, prompt="x", messages=[{"role": "user", "content": "x"}], input="x")
        assert answer.status_code == 401
        (event,) = b.server.log.of("external_call")
        assert (event.model, event.detail, event.origin) == (name, path, "test")


async def test_local_forbids_the_way_out_and_is_echoed() -> None:
    async with bench((*MODELS, GPT_OSS_CLOUD)) as b:
        answer = await b.one_token("smollm2:latest:local")
        assert answer.json()["model"] == "smollm2:latest:local"
        assert (await b.one_token("gpt-oss:20b-cloud:local")).status_code == 404
        assert b.happened("external_call") == 0


async def test_remote_stubs_are_listed_in_tags_and_never_in_ps() -> None:
    async with bench((SMOLLM2, GPT_OSS_CLOUD)) as b:
        await b.one_token("gpt-oss:20b-cloud")
        stubs = [row for row in (await b.get("/api/tags")).json()["models"] if "remote_host" in row]
        assert [row["remote_model"] for row in stubs] == ["gpt-oss:20b"]
        assert await b.ps() == []


async def test_cloud_names_are_403_where_the_cloud_is_disabled() -> None:
    async with bench(cloud_disabled=True) as b:
        assert (await b.one_token("x:cloud")).status_code == 403
        assert b.happened("external_call") == 0
        assert (await b.get("/api/status")).json() == {"cloud": {"disabled": True, "source": "env"}}


async def test_a_generative_model_is_loaded_before_its_embedding_is_refused() -> None:
    async with bench() as b:
        assert (await b.post("/api/embed", model="smollm2", input="x")).status_code == 501
        assert await b.loaded() == ["smollm2:latest"]


async def test_an_empty_embedding_loads_and_says_no_durations() -> None:
    async with bench() as b:
        answer = await b.post("/api/embed", model="smolembed", input="")
        assert answer.json() == {"model": "smolembed", "embeddings": []}
        assert await b.loaded() == ["smolembed:latest"]


async def test_v1_streams_events_and_ends_with_done() -> None:
    async with bench() as b:
        answer = await b.post(
            "/v1/chat/completions",
            model="smollm2",
            messages=[{"role": "user", "content": "hi"}],
            max_tokens=3,
            stream=True,
            stream_options={"include_usage": True},
        )
        assert answer.headers["content-type"] == "text/event-stream"
        events = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
        assert events[-1] == "[DONE]"
        assert json.loads(events[-2])["usage"]["completion_tokens"] == 3
        assert json.loads(events[-3])["choices"][0]["finish_reason"] == "length"


async def test_v1_swallows_an_error_in_mid_stream() -> None:
    async with bench() as b:
        b.server.inject(Fault("mid_stream_error"))
        messages = [{"role": "user", "content": "hi"}]
        answer = await b.post("/v1/chat/completions", model="smollm2", messages=messages, stream=True)
        assert answer.status_code == 200
        assert "[DONE]" not in answer.text
        assert json.loads(answer.text.split("data: ")[-1])["model"] == ""


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        ({"model": "nosuch", "prompt": "x"}, 404, "not_found_error"),
        ({"model": "smolembed", "prompt": "x"}, 400, "invalid_request_error"),
    ],
)
async def test_v1_wraps_its_errors(body: dict[str, str], status: int, kind: str) -> None:
    async with bench() as b:
        answer = await b.post("/v1/completions", **body)
        error = answer.json()["error"]
        assert (answer.status_code, error["type"], error["code"]) == (status, kind, None)


async def test_v1_embeddings_have_their_shape() -> None:
    async with bench() as b:
        answer = (await b.post("/v1/embeddings", model="smolembed", input=["a", "b"])).json()
        assert [row["index"] for row in answer["data"]] == [0, 1]
        assert answer["usage"] == {"prompt_tokens": 2, "total_tokens": 2}


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        (b"[1]", 400, "json: cannot unmarshal array into Go value of type api.GenerateRequest"),
        (
            b'{"model": 5}',
            400,
            "json: cannot unmarshal number into Go struct field GenerateRequest.model of type string",
        ),
        (b'{"model": "smollm2"', 400, "unexpected EOF"),
        (b'{"model": "smollm2", "keep_alive": "soon"}', 400, 'time: invalid duration "soon"'),
    ],
)
async def test_bodies_are_refused_in_gos_words(body: bytes, status: int, text: str) -> None:
    async with bench() as b:
        answer = await b.client.post("/api/generate", content=body)
        assert (answer.status_code, answer.json()) == (status, {"error": text})


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("ollama", 403),
        ("example.com", 403),
        ("8.8.8.8", 403),
        ("host.docker.internal", 200),
        ("10.1.2.3:11434", 200),
        ("foo.local", 200),
        ("localhost:11434", 200),
        ("[::1]:11434", 200),
    ],
)
async def test_a_loopback_server_checks_the_host(host: str, status: int) -> None:
    async with bench(loopback=True) as b:
        assert (await b.get("/api/version", headers={"Host": host})).status_code == status


async def test_a_server_on_all_interfaces_takes_any_host_but_no_foreign_origin() -> None:
    async with bench() as b:
        assert (await b.get("/api/version", headers={"Host": "example.com"})).status_code == 200
        assert (await b.get("/api/version", headers={"Origin": "https://example.com"})).status_code == 403
        assert (await b.get("/api/version", headers={"Origin": "http://localhost:3000"})).status_code == 200
