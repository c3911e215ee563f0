"""Hold the simulator against recorded answers of a real Ollama: status, headers, fields, types, units, error texts."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from exporter.simulator import GEMMA3_270M, SMOLLM2, EngineConfig, Fault
from tests.simulator.bench import MODELS, Bench, bench

SAMPLES = Path(__file__).parents[3] / "shared" / "samples"
Setup = Callable[[Bench], Awaitable[Any]]


@dataclass(frozen=True)
class Sample:
    method: str
    path: str
    request: bytes
    status: int
    headers: dict[str, str]
    body: str

    @property
    def lines(self) -> list[Any]:
        """The body's JSON documents; streamed ones carry the second of their arrival in front."""
        return [json.loads(re.sub(r"^\[ *[\d.]+\] ", "", line)) for line in self.body.splitlines() if line]


@pytest.fixture(scope="module")
def samples() -> Path:
    if not SAMPLES.is_dir():
        reason = f"NO RECORDED ANSWERS at {SAMPLES.parent.name}/{SAMPLES.name}: the contract was not checked"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return SAMPLES


def read(samples: Path, name: str) -> Sample:
    head, _, body = (samples / f"ollama-{name}.txt").read_text().partition("\n\n")
    notes = [line.removeprefix("# ") for line in head.splitlines()]
    method, path = notes[0].split(" ")
    request = next((n.removeprefix("request body: ") for n in notes if n.startswith("request body:")), "")
    status = next(n for n in notes if n.startswith("HTTP "))
    headers = dict(n.split(": ", 1) for n in notes[notes.index(status) + 1 :] if re.match(r"[A-Z][\w-]*: ", n))
    return Sample(method, path, request.strip().encode(), int(status.split()[1]), headers, body)


async def nothing(_: Bench) -> None:
    """The server as it starts."""


async def warm(b: Bench) -> None:
    for model in ("smollm2", "gemma3-270m"):
        await b.one_token(model)


async def warm_other(b: Bench) -> None:
    await b.one_token("gemma3-270m")


async def killed(b: Bench) -> None:
    await warm(b)
    b.server.inject(Fault("runner_killed"))


async def no_models(b: Bench) -> None:
    for model in MODELS:
        b.server.remove(model.name)


async def only_the_recorded_two(b: Bench) -> None:
    await no_models(b)
    b.server.install(GEMMA3_270M)
    b.server.install(SMOLLM2)


async def blob_missing(b: Bench) -> None:
    b.server.remove("smolembed:latest")


async def loads_fail(b: Bench) -> None:
    b.server.inject(Fault("load_failed"))


async def other_names(b: Bench) -> None:
    b.server.install(GEMMA3_270M.tagged("gem1t:latest"))
    b.server.install(SMOLLM2.tagged("smol1t:latest"))


async def failing_others(b: Bench) -> None:
    await other_names(b)
    await loads_fail(b)


async def replay(b: Bench, sample: Sample) -> httpx.Response:
    headers = {"Content-Type": "application/json"} if sample.request else {}
    return await b.client.request(sample.method, sample.path, content=sample.request, headers=headers)


def shape(value: Any) -> Any:
    """Types instead of values; a list is what its first element is; field order counts."""
    if isinstance(value, dict):
        return [(key, shape(item)) for key, item in value.items()]
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return type(value).__name__


def check_headers(sample: Sample, response: httpx.Response) -> None:
    """The recorded `Connection: close` was the recorder's own wish; chunking is the socket's business."""
    recorded = {name.lower(): value for name, value in sample.headers.items()}
    for ignored in ("connection", "transfer-encoding"):
        recorded.pop(ignored, None)
    assert set(response.headers) == set(recorded)
    for name in set(recorded) - {"date", "content-length"}:
        assert response.headers[name] == recorded[name]
    assert re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", response.headers["date"])


EXACT: list[tuple[str, Setup]] = [
    ("root", nothing),
    ("version", nothing),
    ("head-root", nothing),
    ("head-tags", no_models),
    ("head-version", nothing),
    ("ps-empty", nothing),
    ("tags-empty", no_models),
    ("tags", only_the_recorded_two),
    ("v1-models", only_the_recorded_two),
    ("embed", warm),
    ("embeddings-legacy", warm),
    ("error-400-badformat", warm),
    ("error-400-badjson", nothing),
    ("error-400-badopt", nothing),
    ("error-400-empty", nothing),
    ("error-400-nomodel", nothing),
    ("error-404-chat", nothing),
    ("error-404-delete", nothing),
    ("error-404-embed", nothing),
    ("error-404-metrics", nothing),
    ("error-404-model", nothing),
    ("error-404-path", nothing),
    ("error-404-show", nothing),
    ("error-405-get-generate", nothing),
    ("error-generate-on-embed", nothing),
    ("error-missing-blob", blob_missing),
]
SHAPES: list[tuple[str, Setup]] = [
    ("chat", warm),
    ("chat-stream", warm),
    ("embed-ok", nothing),
    ("embeddings-legacy-ok", nothing),
    ("error-load-failure", loads_fail),
    ("error-norunner", failing_others),
    ("error-pull-offline", nothing),
    ("generate-after-runner-kill", killed),
    ("generate-after-runner-kill2", warm),
    ("generate-cold-1tok-gemma3-270m", nothing),
    ("generate-cold-1tok-smollm2", nothing),
    ("generate-stream", warm),
    ("generate-swap", other_names),
    ("generate-warm-100tok-gemma3-270m", warm),
    ("generate-warm-100tok-smollm2", warm),
    ("generate-warm-1tok-gemma3-270m", warm),
    ("generate-warm-1tok-smollm2", warm),
    ("keepalive-forever", warm),
    ("preload", nothing),
    ("unload", warm),
    ("ps", warm),
    ("ps-before-cold", warm),
    ("ps-after-runner-kill", warm_other),
    ("v1-chat", warm),
]


@pytest.mark.parametrize(("name", "setup"), EXACT, ids=[name for name, _ in EXACT])
async def test_this_answer_is_the_recorded_one_to_the_byte(samples: Path, name: str, setup: Setup) -> None:
    sample = read(samples, name)
    async with bench() as b:
        await setup(b)
        response = await replay(b, sample)
    assert response.status_code == sample.status
    assert response.text == sample.body
    check_headers(sample, response)
    assert response.headers.get("content-length") == sample.headers.get("Content-Length")


@pytest.mark.parametrize(("name", "setup"), SHAPES, ids=[name for name, _ in SHAPES])
async def test_this_answer_has_the_recorded_fields_types_and_headers(samples: Path, name: str, setup: Setup) -> None:
    sample = read(samples, name)
    async with bench(engine=EngineConfig(num_parallel=4, gpu_bytes=0)) as b:
        await setup(b)
        response = await replay(b, sample)
    assert response.status_code == sample.status
    check_headers(sample, response)
    ours = [json.loads(line) for line in response.text.splitlines()]
    assert {repr(shape(line)) for line in ours} == {repr(shape(line)) for line in sample.lines}


@pytest.mark.parametrize("name", ["show", "show-gemma"])
async def test_show_has_the_recorded_fields_and_general_keys(samples: Path, name: str) -> None:
    sample = read(samples, name)
    async with bench() as b:
        response = await replay(b, sample)
    check_headers(sample, response)
    recorded, ours = sample.lines[0], response.json()
    assert list(ours) == list(recorded)
    assert ours["details"] == recorded["details"]
    assert ours["capabilities"] == recorded["capabilities"]
    assert ours["modelfile"].splitlines()[4] == recorded["modelfile"].splitlines()[4]
    assert shape(ours["tensors"]) == shape(recorded["tensors"])
    for key in set(ours["model_info"]) & set(recorded["model_info"]):
        assert shape(ours["model_info"][key]) == shape(recorded["model_info"][key])
    assert set(ours["model_info"]) <= set(recorded["model_info"])


@pytest.mark.parametrize(
    ("name", "headers"),
    [
        ("error-403-host", {"Host": "example.com"}),
        ("error-403-origin", {"Host": "localhost", "Origin": "https://example.com"}),
    ],
)
async def test_a_foreign_name_is_refused_without_a_body(samples: Path, name: str, headers: dict[str, str]) -> None:
    sample = read(samples, name)
    async with bench(loopback=True) as b:
        response = await b.get(sample.path, headers=headers)
    assert (response.status_code, response.content) == (403, b"")
    check_headers(sample, response)


@pytest.mark.parametrize("name", ["flood-cold-error", "flood-swap-error"])
async def test_a_full_queue_says_what_the_real_one_says(samples: Path, name: str) -> None:
    recorded = (samples / f"ollama-{name}.txt").read_text().partition("\n\n")[2]
    async with bench(engine=EngineConfig(max_queue=0)) as b:
        first = asyncio.create_task(b.one_token())
        await asyncio.sleep(0.5)
        refused = await b.one_token()
        await first
    assert (refused.status_code, refused.text) == (503, recorded)


@pytest.mark.parametrize(
    "name", ["generate-stream", "generate-warm-1tok-smollm2", "generate-cold-1tok-gemma3-270m", "chat-stream"]
)
async def test_counts_and_units_agree_with_the_recording(samples: Path, name: str) -> None:
    sample = read(samples, name)
    async with bench() as b:
        await (nothing if "cold" in name else warm)(b)
        response = await replay(b, sample)
    recorded, ours = sample.lines[-1], json.loads(response.text.splitlines()[-1])
    assert ours["prompt_eval_count"] == recorded["prompt_eval_count"]
    assert ours["eval_count"] == recorded["eval_count"]
    assert ours["done_reason"] == recorded["done_reason"]
    assert len(ours.get("context", [])) == pytest.approx(len(recorded.get("context", [])), abs=2)
    for duration in ("total_duration", "load_duration", "prompt_eval_duration", "eval_duration"):
        assert recorded[duration] / 100 < ours[duration] < recorded[duration] * 100


async def test_a_prompt_beyond_the_context_is_cut_to_the_recorded_length_without_a_word(samples: Path) -> None:
    recorded = read(samples, "error-longprompt")  # abridged: its body is not JSON any more
    count = re.search(r'"prompt_eval_count":(\d+)', recorded.body)
    async with bench() as b:
        response = await b.generate(prompt="word " * 12_000, options={"num_predict": 4})
    assert response.status_code == recorded.status
    check_headers(recorded, response)
    assert count is not None
    assert response.json()["prompt_eval_count"] == int(count[1])


async def test_one_token_shows_an_eval_duration_of_1000_nanoseconds(samples: Path) -> None:
    recorded = read(samples, "generate-warm-1tok-smollm2").lines[0]
    async with bench() as b:
        ours = (await b.one_token()).json()
    assert ours["eval_duration"] == recorded["eval_duration"] == 1000
