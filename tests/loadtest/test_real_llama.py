"""The whole tester against a real llama-server: what it says beside what the server says of itself.

Ollama is not there. The runner answers /v1/chat/completions as Ollama does, and 404 to /api/version, as a gateway
may: the tester then asks all the same.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from exporter.llama import Totals
from exporter.loadtest import report, session
from exporter.loadtest.outcomes import Result
from exporter.loadtest.report import Facts
from exporter.loadtest.scenario import Scenario, load
from exporter.loadtest.session import Server, Session
from exporter.loadtest.wire import Exchange, HttpWire
from exporter.model import Endpoint
from tests.llama import MODEL, running

pytestmark = pytest.mark.timeout(180)

RATE, SECONDS, TOKENS = 5, 2, 16
SCENARIO = f"""
model: {MODEL}
rate: {RATE}
arrivals: constant
duration: {SECONDS}s
workloads:
- {{name: streamed, api: openai, prompt_words: 8, answer_tokens: {TOKENS}, turns: 2}}
- {{name: plain, api: openai, stream: false, prompt_words: 8, answer_tokens: {TOKENS}}}
objectives: {{ttft_p95: 1m, ttft_p99: 1m, good_ttft: 1m}}
"""
SLACK = 1.0
"""Seconds in which a machine that runs other tests, too, may do nothing for us."""


class Overheard(HttpWire):
    """The tester's own wire. `answers`: whole bodies in the order in which they ended, which is the one of results;
    `began` is called with the first bytes of each."""

    answers: list[bytes]
    began: Callable[[], None]

    async def exchange(self, exchange: Exchange) -> None:
        pieces: list[bytes] = []
        read = exchange.read

        def listen(data: bytes, now: float) -> None:
            read(data, now)
            pieces.append(data)
            if len(pieces) == 1:
                self.began()

        exchange.read = listen
        try:
            await super().exchange(exchange)
        finally:
            self.answers.append(b"".join(pieces))


@pytest.fixture
def overheard(monkeypatch: pytest.MonkeyPatch) -> type[Overheard]:
    Overheard.answers, Overheard.began = [], staticmethod(lambda: None)
    monkeypatch.setattr(session, "HttpWire", Overheard)
    return Overheard


def scenario(folder: Path, **given: object) -> Scenario:
    (folder / "real.yml").write_text(SCENARIO)
    return load(str(folder / "real.yml"), given, abort=False)


async def conduct(scenario: Scenario, port: int | None, hear: Callable[[Result], None]) -> Facts:
    server = Server("runner", Endpoint(f"http://127.0.0.1:{port}"), "127.0.0.1")
    return await Session(scenario, (server,), Console(quiet=True)).conduct(hear)


def timings(answer: bytes) -> dict[str, Any]:
    """What the server says of an answer, in seconds and tokens."""
    if answer.startswith(b"data:"):
        lines = [line[5:] for line in answer.splitlines() if line.startswith(b"data: {")]
        told = next(found for line in lines if "timings" in (found := json.loads(line)))["timings"]
    else:
        told = json.loads(answer)["timings"]
    return {
        "prompt": told["prompt_ms"] / 1000, "answer": told["predicted_ms"] / 1000, "tokens": told["predicted_n"],
        "prompt_tokens": told["prompt_n"] + told["cache_n"], "processed": told["prompt_n"], "cached": told["cache_n"],
    }  # fmt: skip


def grown(before: Totals, after: Totals) -> tuple[float, float | None, float]:
    """Tokens of prompts that were processed, of those found in the cache, and of answers, by the runner's own counters;
    None where a runner does not count them yet."""
    assert before.process == after.process
    assert after.prompt_tokens is not None
    assert after.generated is not None
    cached = after.prompt_cached_tokens
    return (
        after.prompt_tokens - (before.prompt_tokens or 0),
        None if cached is None else cached - (before.prompt_cached_tokens or 0),
        after.generated - (before.generated or 0),
    )


def test_what_it_tells_is_what_the_runner_tells(
    llama: tuple[Path, Path], overheard: type[Overheard], tmp_path: Path
) -> None:
    results: list[Result] = []

    async def main() -> tuple[Facts, tuple[float, float | None, float]]:
        async with running(llama) as (process, client):
            before = await client.metrics()
            await client.close()  # the runner ends it after five idle seconds
            facts = await conduct(scenario(tmp_path), process.port, results.append)
            return facts, grown(before, await client.metrics())

    facts, counted = asyncio.run(main())
    told = report.build(facts)
    assert told["requests"]["offered"] == told["requests"]["completed"] == len(results) == RATE * SECONDS
    assert {result.outcome for result in (*results, *facts.warm_ups)} == {"ok"}
    everything = [*facts.warm_ups, *results]
    assert told["tokens"]["generated"] == sum(result.tokens for result in results)

    servers = [timings(answer) for answer in overheard.answers]
    processed, cached, generated = counted
    assert generated == sum(each.tokens for each in everything)
    assert processed == sum(server["processed"] for server in servers)
    assert cached in (None, sum(server["cached"] for server in servers))
    assert [(each.prompt_tokens, each.tokens) for each in everything] == [
        (server["prompt_tokens"], server["tokens"]) for server in servers
    ]
    assert all(0 < result.tokens <= TOKENS for result in results)
    _times_hold(results, servers[len(facts.warm_ups) :])


def _times_hold(results: list[Result], servers: list[dict[str, Any]]) -> None:
    served = [server["prompt"] + server["answer"] for server in servers]
    for result, server, own in zip(results, servers, served, strict=True):
        assert result.total is not None
        assert result.total >= own
        # As long as a request is unanswered some slot is at work, on it or on one of those that it waits for.
        around = zip(results, served, strict=True)
        assert result.total <= SLACK + sum(
            work for other, work in around if other.at < result.ended_at and result.at < other.ended_at
        )
        assert (result.queue, result.load) == (None, None)  # /v1 does not tell
        if result.streamed:
            assert result.ttft is not None
            assert server["prompt"] <= result.ttft <= result.total
        else:
            assert (result.ttft, result.per_token) == (None, None)
    both = list(zip(results, servers, strict=True))
    streamed = [(result, server) for result, server in both if result.ttft is not None]
    assert 0 < len(streamed) < len(both)
    differences = [abs((each.total or 0) - (each.ttft or 0) - server["answer"]) for each, server in streamed]
    assert statistics.median(differences) < SLACK / 4


def test_a_runner_that_is_killed_in_the_middle_loses_no_request(
    llama: tuple[Path, Path], overheard: type[Overheard], tmp_path: Path
) -> None:
    results: list[Result] = []

    async def main() -> Facts:
        async with running(llama) as (process, _):

            def began() -> None:
                if results and process.pid is not None:
                    overheard.began = staticmethod(lambda: None)
                    os.kill(process.pid, signal.SIGKILL)

            overheard.began = staticmethod(began)
            asked = scenario(tmp_path, warm_up=False)
            streamed = replace(asked.workloads[0], answer_tokens=4 * TOKENS)
            return await conduct(replace(asked, workloads=(streamed,)), process.port, results.append)

    told = report.build(asyncio.run(main()))
    requests = told["requests"]
    failed = {outcome: count for outcome, count in requests["failed"].items() if count}
    assert requests["offered"] == len(results) == RATE * SECONDS
    assert requests["offered"] == requests["completed"] + sum(failed.values())
    assert failed.keys() == {"truncated", "connection"}
    assert requests["completed"] > 0
    assert told["verdict"] in ("fail", "invalid")  # invalid: this machine was too busy for the tester, too
