"""What the client of a runner's API accepts, what it refuses, and how it behaves on the wire."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.llama import (
    BODY_MAX,
    BadAnswer,
    Client,
    Health,
    HttpError,
    Loading,
    Props,
    RunnerError,
    Slot,
    SocketWire,
    TimedOut,
    Totals,
    Unreachable,
    blob_of,
    parse_health,
    parse_metrics,
    parse_mlx_status,
    parse_props,
    parse_slots,
)
from tests.wire import (
    CHUNKED_HEAD,
    CLOSE,
    HANG,
    RESET,
    Script,
    Wire,
    answer,
    chunk,
    free_port,
    json_answer,
    recorded,
    recorded_status,
)

LLAMA = "Server: llama.cpp"
SLOTS = [{"id": 0, "n_ctx": 2048, "speculative": False, "is_processing": False}]
SOON = 0.05
"""Seconds after which a server that never answers is given up."""


@asynccontextmanager
async def asking(port: int, timeout: float = 10.0) -> AsyncIterator[Client]:
    client = Client(SocketWire(partial(socket.create_connection, ("127.0.0.1", port), 5.0)), timeout)
    try:
        yield client
    finally:
        await client.close()


def on_the_wire(routes: dict[str, Script], act: Callable[[Wire, Client], Awaitable[None]], timeout: float = 10) -> None:
    async def main() -> None:
        async with Wire(dict(routes)) as wire, asking(wire.port, timeout) as client:
            await act(wire, client)

    asyncio.run(main())


# --- recorded answers ------------------------------------------------------------------------------------------------


def test_slots_that_were_never_used_tell_little() -> None:
    slots = parse_slots(recorded("llama-smollm2-slots-idle.txt"))
    assert slots.rows == tuple(Slot(number, False, 2048) for number in range(4))
    assert (slots.busy, slots.silent, slots.rejected) == (0, 0, 0)


def test_slots_at_work() -> None:
    slots = parse_slots(recorded("llama-smollm2-slots-load-2.txt"))
    assert slots.rows[0] == Slot(0, True, 2048, task=124, held=82, processed=9, cached=0, decoded=73)
    assert slots.busy == 4
    assert slots.silent == 0
    assert all(slot.held == (slot.processed or 0) + (slot.decoded or 0) for slot in slots.rows)


def test_idle_slots_tell_of_their_last_task_and_no_tokens_in_the_making() -> None:
    slots = parse_slots(recorded("llama-smollm2-slots-after.txt"))
    assert slots.busy == 0
    assert {slot.decoded for slot in slots.rows} == {0}
    assert [slot.held for slot in slots.rows] == [229, 229, 228, 228]


def test_slots_below_ollama_that_still_read_their_prompt_are_silent() -> None:
    slots = parse_slots(recorded("ollama-flood-warm-child-slots.txt"))
    assert (slots.busy, slots.silent) == (4, 4)


def test_props() -> None:
    assert parse_props(recorded("llama-smollm2-props.txt")) == Props(4, 2048, "", "b10488-efbeafe53", True, True)


def test_the_counters_move_when_answers_end() -> None:
    during = [parse_metrics(recorded(f"llama-smollm2-metrics-load-{number}.txt")) for number in range(5)]
    assert {totals.generated for totals in during} == {112.0}
    after = parse_metrics(recorded("llama-smollm2-metrics-after.txt"), "1959149150")
    assert after == Totals("1959149150", 126.0, 24.0, 1.96237, 2752.0, 267.681, 773.0, 0.0, 0.0)


def test_health() -> None:
    assert parse_health(recorded("llama-smollm2-health.txt")) == Health(loading=False)
    assert recorded_status("llama-smollm2-health-loading.txt") == 503


# --- parsers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "health"),
    [
        ({"status": "ok", "slots_idle": 3, "slots_processing": 1}, Health(False, 3, 1)),  # 0.1.32 to 0.3
        ({"status": "no slot available", "slots_idle": 0, "slots_processing": 4}, Health(False, 0, 4)),
        ({"status": "loading model", "progress": 0.4}, Health(True)),
        ({"status": 0, "progress": 1}, Health(False)),  # Go, 0.4 to 0.24
        ({"status": 3, "progress": 0.7}, Health(True)),
        ({"status": "ok", "slots_idle": -1, "slots_processing": True}, Health(False)),
    ],
)
def test_health_of_older_runners(told: dict[str, Any], health: Health) -> None:
    assert parse_health(json.dumps(told).encode()) == health


def test_mlx() -> None:
    told = {"Status": 0, "Progress": 100, "ContextLength": 32768, "Memory": 4_000_000_000}
    assert parse_mlx_status(json.dumps(told).encode()).context == 32768
    assert parse_mlx_status(b'{"Status":0,"ContextLength":0}').context is None
    with pytest.raises(BadAnswer):
        parse_mlx_status(b'{"status":"ok"}')


def test_impossible_values_are_left_out_and_counted() -> None:
    row = {**SLOTS[0], "n_ctx": -1, "id_task": "x", "n_prompt_tokens": 1.5, "next_token": [{"n_decoded": True}]}
    slots = parse_slots(json.dumps([row]).encode())
    assert slots.rows == (Slot(0, False),)
    assert slots.rejected == 4


@pytest.mark.parametrize(
    "body", [b"{}", b"[1]", b'[{"id":0}]', b'[{"id":true,"is_processing":true}]', b'[{"id":0,"is_processing":1}]']
)
def test_without_its_frame_an_answer_is_refused(body: bytes) -> None:
    with pytest.raises(BadAnswer) as refused:
        parse_slots(body)
    assert refused.value.reason == "malformed"


def test_too_many_slots_are_refused() -> None:
    with pytest.raises(BadAnswer):
        parse_slots(json.dumps(SLOTS * 5000).encode())


def test_props_that_do_not_tell_of_their_endpoints_have_them() -> None:
    props = parse_props(b'{"model_path":"/m/blobs/sha256-' + b"a" * 64 + b'"}')
    assert props == Props(None, None, f"sha256-{'a' * 64}", "", True, True)
    off = parse_props(b'{"model_path":"x","endpoint_slots":false,"endpoint_metrics":false,"build_info":"<script>"}')
    assert off == Props(None, None, "", "", False, False)


@pytest.mark.parametrize(
    ("path", "blob"),
    [
        (f"/root/.ollama/models/blobs/sha256-{'0f' * 32}", f"sha256-{'0f' * 32}"),
        (f"C:\\models\\blobs\\sha256-{'0f' * 32}", f"sha256-{'0f' * 32}"),
        ("/models/tiny.gguf", ""),
        (f"sha256-{'0F' * 32}", ""),
        (f"/x/sha256-{'0f' * 32}.part", ""),
        ("", ""),
    ],
)
def test_blobs(path: str, blob: str) -> None:
    assert blob_of(path) == blob


def test_metrics_are_counters_only_and_never_nonsense() -> None:
    body = b"""# HELP llamacpp:prompt_tokens_total x
llamacpp:prompt_tokens_total 12
llamacpp:tokens_predicted_total NaN
llamacpp:n_decode_total -3
llamacpp:tokens_predicted_seconds_total soon
llamacpp:predicted_tokens_seconds 88.1
"""
    assert parse_metrics(body) == Totals(prompt_tokens=12.0)
    with pytest.raises(BadAnswer):
        parse_metrics(b"go_goroutines 7\n")
    with pytest.raises(BadAnswer):
        parse_metrics(b"\xff\xfe")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
)
_SLOT_KEYS = ("id", "n_ctx", "is_processing", "id_task", "n_prompt_tokens", "n_prompt_tokens_processed", "next_token")
_ANYTHING = (
    st.binary(max_size=64)
    | _JSON.map(lambda value: json.dumps(value).encode())
    | st.lists(st.dictionaries(st.sampled_from(_SLOT_KEYS), _JSON)).map(lambda value: json.dumps(value).encode())
)


@pytest.mark.parametrize("parse", [parse_slots, parse_props, parse_metrics, parse_health, parse_mlx_status])
@given(body=_ANYTHING)
def test_whatever_comes_is_a_value_or_a_bad_answer(parse: Callable[[bytes], object], body: bytes) -> None:
    with contextlib.suppress(BadAnswer):
        parse(body)


# --- on the wire -----------------------------------------------------------------------------------------------------


def test_one_connection_serves_a_look_and_closing_ends_it() -> None:
    async def look(wire: Wire, client: Client) -> None:
        assert (await client.slots()).busy == 0
        assert (await client.health()).loading is False
        assert wire.connections == 1
        await client.close()
        await wire.idle()  # the runner's thread is free again
        assert (await client.slots()).busy == 0
        assert wire.connections == 2
        assert [request.method for request in wire.requests] == ["GET"] * 3

    on_the_wire({"/slots": [json_answer(SLOTS, LLAMA)], "/health": [json_answer({"status": "ok"}, LLAMA)]}, look)


def test_a_chunked_answer_and_one_that_ends_with_the_connection() -> None:
    body = json.dumps(SLOTS).encode()

    async def look(wire: Wire, client: Client) -> None:
        assert len((await client.slots()).rows) == 1
        wire.routes["/slots"] = [b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + body, CLOSE]
        assert len((await client.slots()).rows) == 1
        assert len((await client.slots()).rows) == 1
        assert wire.connections == 2

    on_the_wire({"/slots": [CHUNKED_HEAD, chunk(body[:10]), chunk(body[10:]), chunk(b"")]}, look)


@pytest.mark.parametrize(
    ("script", "kind", "reason"),
    [
        ([RESET], Unreachable, "reset"),
        ([CLOSE], Unreachable, "reset"),
        ([answer(b"[{", length=500), CLOSE], Unreachable, "reset"),  # killed in the middle
        ([answer(b"[{", length=500), RESET], Unreachable, "reset"),
        ([HANG], TimedOut, "timeout"),
        ([answer(b"[{", length=500), HANG], TimedOut, "timeout"),
        ([b"SSH-2.0-OpenSSH_9.2\r\n\r\n"], BadAnswer, "decode"),
        ([answer(b"[{]")], BadAnswer, "decode"),
        ([answer(b" " * (BODY_MAX + 1))], BadAnswer, "too_large"),
        ([answer(b"", status=302)], HttpError, "redirect"),
        ([answer(b"{}", status=500)], HttpError, "http_5xx"),
        ([answer(b"{}", status=503)], HttpError, "http_5xx"),
    ],
)
def test_failures_have_their_reason_and_do_no_lasting_damage(
    script: Script, kind: type[RunnerError], reason: str
) -> None:
    async def look(wire: Wire, client: Client) -> None:
        with pytest.raises(kind) as failed:
            await client.slots()
        assert failed.value.reason == reason
        wire.routes["/slots"] = [json_answer(SLOTS)]
        patient = Client(client._wire)
        assert len((await patient.slots()).rows) == 1

    on_the_wire({"/slots": script}, look, SOON if HANG in script else 10.0)


@pytest.mark.parametrize("name", ["nometrics-metrics", "noslots-slots", "apikey-slots", "error-404"])
def test_a_path_that_is_switched_off_says_so(name: str) -> None:
    body, status = recorded(f"llama-smollm2-{name}.txt"), recorded_status(f"llama-smollm2-{name}.txt")

    async def look(wire: Wire, client: Client) -> None:
        with pytest.raises(HttpError) as refused:
            await client.metrics()
        assert refused.value.status == status

    on_the_wire({"/metrics": [answer(body, LLAMA, status=status)]}, look)


def test_a_runner_that_loads_is_no_failure_of_health_and_tells_nothing_else() -> None:
    loading = [answer(recorded("llama-smollm2-health-loading.txt"), LLAMA, status=503)]

    async def look(wire: Wire, client: Client) -> None:
        assert await client.health() == Health(loading=True)
        with pytest.raises(Loading):
            await client.slots()
        with pytest.raises(Loading):
            await client.props()

    on_the_wire({"/health": loading, "/slots": loading, "/props": loading}, look)


def test_props_are_believed_of_llama_cpp_alone() -> None:
    told = json_answer({"model_path": "x"})

    async def look(wire: Wire, client: Client) -> None:
        with pytest.raises(BadAnswer):
            await client.props()
        wire.routes["/props"] = [json_answer({"model_path": "x"}, LLAMA)]
        assert (await client.props()).has_slots

    on_the_wire({"/props": [told]}, look)


def test_the_mark_of_a_process_comes_from_its_header() -> None:
    body = recorded("llama-smollm2-metrics-after.txt")

    async def look(wire: Wire, client: Client) -> None:
        assert (await client.metrics()).process == "1959149150"

    on_the_wire({"/metrics": [answer(body, LLAMA, "Process-Start-Time-Unix: 1959149150")]}, look)


def test_nobody_listens() -> None:
    async def main() -> None:
        async with asking(free_port()) as client:
            with pytest.raises(Unreachable) as failed:
                await client.slots()
            assert failed.value.reason == "refused"

    asyncio.run(main())


def test_a_connection_that_comes_too_late_is_closed_by_nobody_else() -> None:
    """The thread that makes it outlives the question."""
    made: list[socket.socket] = []
    asked, may_go = asyncio.Event(), asyncio.Event()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with Wire({}) as wire:

            def connect() -> socket.socket:
                loop.call_soon_threadsafe(asked.set)
                asyncio.run_coroutine_threadsafe(may_go.wait(), loop).result()
                made.append(socket.create_connection(("127.0.0.1", wire.port)))
                return made[0]

            question = asyncio.create_task(Client(SocketWire(connect)).slots())
            await asked.wait()
            question.cancel()
            with pytest.raises(asyncio.CancelledError):
                await question
            may_go.set()
            while not made or made[0].fileno() != -1:  # noqa: ASYNC110 - the socket has no event for being closed
                await asyncio.sleep(0)

    asyncio.run(main())
