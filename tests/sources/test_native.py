"""The proposed /metrics of Ollama itself: what is passed on, whose page it is, how often it is asked."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter import catalog
from exporter.fleet import Fleet, Observer
from exporter.meter import Histogram
from exporter.model import Endpoint, Lack, NativeSettings, Reading, Watch
from exporter.native import NotOllamas, parse
from exporter.simulator import Fault, ServerConfig, SimServer, SimTransport, virtual_wall_clock
from exporter.sources import SOURCES, Surroundings, build
from exporter.sources.native import FOREIGN, NONE, REFUSED, SILENT
from tests.scene import ENDPOINT, Seen, Stage, meanwhile, stage, virtually
from tests.wire import CHUNKED_HEAD, HANG, RESET, Endless, Script, Wire, answer, chunk, json_answer

VERSION = "0.40.0"
TEXT, MODERN = "text/plain; version=0.0.4", "application/openmetrics-text; version=1.0.0; charset=utf-8"
BUILD = f'# TYPE ollama_build_info gauge\nollama_build_info{{version="{VERSION}"}} 1\n'
pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


TINY = {"exported_server": "", "model": "tinyllama:latest", "reason": ""}


def watched(settings: NativeSettings | None = None, **of_server: object) -> AbstractAsyncContextManager[Stage]:
    """A simulated server with a /metrics of its own."""
    server = ServerConfig(metrics=True, **of_server)  # type: ignore[arg-type]
    return stage("native", server, settings or NativeSettings(ENDPOINT), optional=True)


# --- what is passed on -----------------------------------------------------------------------------------------------


@virtually
async def test_what_the_server_counts_is_passed_on_under_its_own_names() -> None:
    async with watched() as it:
        asked = [await it.ask() for _ in range(3)]
        seen = await it.observe()
        assert seen.failure is None
        assert seen.total(catalog.NATIVE_REQUESTS, **TINY) == 3.0
        for family, field, unit in (
            (catalog.NATIVE_GENERATED, "eval_count", 1),
            (catalog.NATIVE_PROMPT_TOKENS, "prompt_eval_count", 1),
            (catalog.NATIVE_EVAL_SECONDS, "eval_duration", 1e9),
            (catalog.NATIVE_PROMPT_SECONDS, "prompt_eval_duration", 1e9),
            (catalog.NATIVE_LOAD, "load_duration", 1e9),
        ):
            expected = sum(each[field] for each in asked) / unit
            assert seen.total(family, **TINY) == pytest.approx(expected, rel=1e-6)
        assert 0 < seen.total(catalog.NATIVE_PROMPT_CACHED, **TINY) < seen.total(catalog.NATIVE_PROMPT_TOKENS, **TINY)
        assert {why: seen(catalog.NATIVE_LEFT_OUT, why=why) for why in ("unknown", "impossible", "capped")} == {
            "unknown": 0.0,
            "impossible": 0.0,
            "capped": 0.0,
        }


@virtually
async def test_nothing_is_passed_on_that_the_api_source_tells() -> None:
    async with watched() as it:
        await it.ask()
        passed = (await it.observe()).families()
    async with stage("api") as it:
        await it.ask()
        assert not passed & (await it.observe()).families()


@virtually
async def test_a_server_that_starts_anew_counts_anew_and_so_it_is_passed_on() -> None:
    async with watched() as it:
        for _ in range(2):
            await it.ask()
        assert (await it.observe()).total(catalog.NATIVE_REQUESTS, **TINY) == 2.0
        it.server.inject(Fault("dead", 20.0))
        dead = await it.observe()
        assert dead.failure in ("refused", "unreachable")
        assert dead.series(catalog.NATIVE_REQUESTS) == set()
        await asyncio.sleep(21.0)
        await it.ask()
        assert (await it.observe()).total(catalog.NATIVE_REQUESTS, **TINY) == 1.0


def page(*lines: str, ending: str = "") -> bytes:
    return (BUILD + "".join(f"{line}\n" for line in lines) + ending).encode()


@asynccontextmanager
async def looked(
    *scripts: bytes, content_type: str = TEXT, settings: NativeSettings | None = None
) -> AsyncIterator[list[Seen]]:
    """What is seen of these pages, one after the other, over real sockets."""
    pages = list(scripts)
    async with Wire() as wire:
        wire.routes = {
            "/api/version": [json_answer({"version": VERSION})],
            "/metrics": lambda _: [answer(pages.pop(0), f"Content-Type: {content_type}")],
        }
        async with watching(wire, models_max=settings.models_max if settings else 200) as observer:
            yield [Seen(await observer.observe()) for _ in scripts]


@asynccontextmanager
async def watching(wire: Wire, *, optional: bool = True, models_max: int = 200) -> AsyncIterator[Observer]:
    endpoint = Endpoint(wire.url, timeout=1.0)
    watch = Watch("a", "native", 15.0, 5.0, NativeSettings(endpoint, models_max), optional)
    source = build(watch)
    try:
        yield Observer(watch, source, SOURCES["native"].reasons, lambda: 1000.0)
    finally:
        await source.aclose()


async def test_open_metrics_is_understood_as_well() -> None:
    modern = (
        f'# TYPE ollama_build info\nollama_build_info{{version="{VERSION}"}} 1\n'
        "# TYPE ollama_requests counter\n"
        'ollama_requests_total{model="tinyllama"} 7 # {trace_id="x"} 1\n'
        'ollama_requests_created{model="tinyllama"} 1.7e9\n'
        "# EOF\n"
    )
    async with looked(modern.encode(), content_type=MODERN) as (seen,):
        assert seen.total(catalog.NATIVE_REQUESTS, **TINY) == 7.0
        assert seen.total(catalog.NATIVE_LEFT_OUT, why="unknown") == 0.0


async def test_the_other_proposals_names_get_their_total() -> None:
    other = page(
        "# TYPE ollama_eval_duration_seconds counter",
        'ollama_eval_duration_seconds{model="tinyllama",reason="stop",otel_scope_name="ollama"} 2.5',
        "# TYPE ollama_eval_total counter",
        'ollama_eval_total{model="tinyllama",reason="stop"} 100',
        "# TYPE ollama_requests_queued gauge",
        "ollama_requests_queued 4",
        "# TYPE ollama_queue_capacity gauge",
        "ollama_queue_capacity 512",
        "# TYPE ollama_models_loaded gauge",
        "ollama_models_loaded 1",
        "# TYPE http_requests_total counter",
        'http_requests_total{action="chat",status="OK",status_code="200"} 9',
    )
    async with looked(other) as (seen,):
        stop = {**TINY, "reason": "stop"}
        assert seen.total(catalog.NATIVE_EVAL_SECONDS, **stop) == 2.5
        assert seen.total(catalog.NATIVE_EVALS, **stop) == 100.0
        assert seen.total(catalog.NATIVE_QUEUED, exported_server="") == 4.0
        assert seen.total(catalog.NATIVE_QUEUE_CAPACITY, exported_server="") == 512.0
        chat = {"exported_server": "", "action": "chat", "status": "OK", "status_code": "200"}
        assert seen.total(catalog.NATIVE_HTTP_REQUESTS, **chat) == 9.0
        assert "ollama_models_loaded" not in seen.families()
        assert seen.total(catalog.NATIVE_LEFT_OUT, why="unknown") == 0.0


async def test_a_label_server_of_its_own_does_not_take_the_place_of_ours() -> None:
    body = page('ollama_requests_total{model="m:1",server="left"} 1', 'ollama_requests_total{model="m:1",server="b"} 2')
    async with looked(body) as (seen,):
        assert seen.series(catalog.NATIVE_REQUESTS) == {("a", "left", "m:1", ""), ("a", "b", "m:1", "")}


async def test_names_that_are_not_known_are_counted_and_not_passed_on() -> None:
    body = page("go_goroutines 12", 'ollama_secret_total{prompt="hello"} 1', 'ollama_requests_total{model="m:1"} 1')
    async with looked(body) as (seen,):
        assert seen.families() == {"ollama_requests_total", "ollama_native_left_out_series"}
        assert seen.total(catalog.NATIVE_LEFT_OUT, why="unknown") == 2.0
        assert b"hello" not in b"".join(chain(*seen.entry().text))


@pytest.mark.parametrize(
    "line",
    [
        'ollama_requests_total{model="m:1"} NaN',
        'ollama_requests_total{model="m:1"} +Inf',
        'ollama_requests_total{model="m:1"} -1',
        'ollama_requests_total{model="m:1"} 1' + 400 * "0",
        'ollama_requests_total{model="m:1",user="me"} 1',
        'ollama_requests_total{model="m:1",exported_server="x"} 1',
        '# TYPE ollama_requests_total gauge\nollama_requests_total{model="m:1"} 1',
        "# TYPE ollama_requests_queued counter\nollama_requests_queued 1",
    ],
    ids=["no number", "endless", "negative", "too large", "a label", "ours", "a gauge", "a counter"],
)
async def test_what_cannot_be_is_counted_and_not_passed_on(line: str) -> None:
    async with looked(page(line)) as (seen,):
        assert seen.failure is None
        assert seen.series(catalog.NATIVE_REQUESTS) == seen.series(catalog.NATIVE_QUEUED) == set()
        left_out = sum(seen.total(catalog.NATIVE_LEFT_OUT, why=why) for why in ("unknown", "impossible"))
        assert left_out == 1.0


async def test_models_past_the_cap_are_summed_and_who_has_a_label_keeps_it() -> None:
    first = page(*(f'ollama_requests_total{{model="m{n}:1"}} {n}' for n in (2, 3, 4)))
    later = page(*(f'ollama_requests_total{{model="m{n}:1"}} {10 + n}' for n in (1, 2, 3, 4)))
    async with looked(first, later, settings=NativeSettings(ENDPOINT, models_max=2)) as (before, after):
        assert before.series(catalog.NATIVE_REQUESTS) == {("a", "", name, "") for name in ("m2:1", "m3:1", "other")}
        assert before.total(catalog.NATIVE_REQUESTS, **{**TINY, "model": "other"}) == 4.0
        assert after.series(catalog.NATIVE_REQUESTS) == before.series(catalog.NATIVE_REQUESTS)
        assert after.total(catalog.NATIVE_REQUESTS, **{**TINY, "model": "other"}) == 11.0 + 14.0
        assert after.total(catalog.NATIVE_LEFT_OUT, why="capped") == 2.0


async def test_gauges_past_the_cap_are_left_out_for_their_sum_is_none() -> None:
    body = page(*(f'ollama_peak_memory_bytes{{model="m{n}:1"}} {n}' for n in (1, 2, 3)))
    async with looked(body, settings=NativeSettings(ENDPOINT, models_max=1)) as (seen,):
        assert seen.series(catalog.NATIVE_PEAK_MEMORY) == {("a", "", "m1:1", "")}
        assert seen.total(catalog.NATIVE_LEFT_OUT, why="capped") == 2.0


async def test_every_other_label_has_a_cap_of_its_own() -> None:
    many = page(
        *(f'http_requests_total{{action="a{n}",status="OK",status_code="200"}} 1' for n in range(40)),
        f'http_requests_total{{action="{"x" * 65}",status="OK",status_code="200"}} 1',
    )
    async with looked(many) as (seen,):
        assert len(seen.series(catalog.NATIVE_HTTP_REQUESTS)) == 33
        rest = {"exported_server": "", "action": "other", "status": "OK", "status_code": "200"}
        assert seen.total(catalog.NATIVE_HTTP_REQUESTS, **rest) == 9.0


# --- whose page it is ------------------------------------------------------------------------------------------------

_COUNTED = 'ollama_requests_total{model="m:1"} 1\n'
FOREIGNERS = {
    "a gateway's HTML": (b"<html><body>Welcome</body></html>", "text/html; charset=utf-8"),
    "HTML that claims to be text": (b"<html><body>\nWelcome {to} us\n</body></html>", TEXT),
    "a front page that answers every path": (b"Ollama is running", TEXT),
    "JSON": (b'{"error":"no"}', "application/json"),
    "nothing": (b"", TEXT),
    "no content type": (page(_COUNTED), ""),
    "a gateway's own metrics": (b"# TYPE nginx_connections gauge\nnginx_connections 3\nhttp_requests_total 5\n", TEXT),
    "another version's": (page(_COUNTED).replace(VERSION.encode(), b"0.39.0"), TEXT),
    "an exporter's": (page(_COUNTED, 'ollama_up{server="x"} 1'), TEXT),
    "our own": (page(_COUNTED, 'ollama_exporter_build_info{version="1"} 1'), TEXT),
    "a series twice": (page(_COUNTED, _COUNTED), TEXT),
    "not UTF-8": (page(_COUNTED) + b"\xff\xfe 1\n", TEXT),
    "open metrics without an end": (f'ollama_build_info{{version="{VERSION}"}} 1\n'.encode(), MODERN),
    "too many lines": (page(*(f"a{n} 1" for n in range(10_001))), TEXT),
    "a line without an end": (page("# HELP " + "x" * 5000), TEXT),
    "more than a page": (page(*("# " + "x" * 4000 for _ in range(300))), TEXT),
}


@pytest.mark.parametrize("what", FOREIGNERS)
async def test_what_is_not_ollamas_own_page_is_not_taken_for_it(what: str) -> None:
    body, content_type = FOREIGNERS[what]
    async with looked(body, content_type=content_type) as (seen,):
        assert seen.reading.blind
        assert seen.reading.lacks == (FOREIGN,)
        assert seen.reading.samples == ()


@pytest.mark.parametrize("what", FOREIGNERS)
async def test_once_it_was_ollamas_another_page_in_its_place_is_a_failure(what: str) -> None:
    body, content_type = FOREIGNERS[what]
    bodies = [(page(_COUNTED), TEXT), (body, content_type)]

    async with Wire() as wire:
        wire.routes = {
            "/api/version": [json_answer({"version": VERSION})],
            "/metrics": lambda _: [answer(bodies[0][0], f"Content-Type: {bodies.pop(0)[1]}")],
        }
        async with watching(wire) as observer:
            assert (await observer.observe()).failure is None
            after = await observer.observe()
            assert (after.failure, after.samples) == ("malformed", ())


@pytest.mark.parametrize(
    ("script", "lack"),
    [
        ([answer(b"404 page not found", "Content-Type: text/plain", status=404)], NONE),
        ([answer(b"", status=405)], NONE),
        ([answer(b"who are you?", status=401)], REFUSED),
        ([answer(b"", status=403)], REFUSED),
        ([answer(b"", "Location: http://elsewhere.invalid/", status=302)], REFUSED),
        ([answer(b"Bad Gateway", status=502)], REFUSED),
        ([HANG], SILENT),
        ([RESET], SILENT),
        ([CHUNKED_HEAD, Endless(chunk(b"x" * 65536))], FOREIGN),
        ([answer(page(_COUNTED), f"Content-Type: {TEXT}", "Content-Encoding: gzip")], FOREIGN),
    ],
    ids=["404", "405", "401", "403", "302", "502", "silence", "a reset", "an endless page", "compressed"],
)
async def test_without_a_page_nothing_has_failed_and_what_is_lacking_is_told(script: Script, lack: Lack) -> None:
    async with Wire({"/api/version": [json_answer({"version": VERSION})], "/metrics": script}) as wire:
        async with watching(wire) as observer:
            reading = await observer.observe()
            assert reading.blind
            assert reading.lacks == (lack,)
        async with watching(wire, optional=False) as observer:
            insisted = await observer.observe()
            assert (insisted.failure, insisted.lacks) == ("unavailable", (lack,))


async def test_it_asks_for_text_and_for_nothing_else() -> None:
    async with Wire({"/api/version": [json_answer({"version": VERSION})]}) as wire:
        async with watching(wire) as observer:
            await observer.observe()
        assert [(request.method, request.target) for request in wire.requests] == [
            ("GET", "/api/version"),
            ("GET", "/metrics"),
        ]
        (accept,) = wire.requests[1].header("Accept")
        assert "text/plain" in accept
        assert "application/openmetrics-text" in accept
        assert wire.requests[1].header("Authorization") == []


@given(st.binary(max_size=300), st.sampled_from([TEXT, MODERN, "", "text/html"]))
def test_no_bytes_raise_anything_but_a_verdict(body: bytes, content_type: str) -> None:
    unless_foreign(body, content_type)


_WORDS = st.text(st.sampled_from('ol_{}"=,# \\\n\t0123456789.eE+-NaIfTYPEHL'), max_size=60)


@given(st.lists(_WORDS, max_size=8), st.sampled_from([TEXT, MODERN]))
def test_no_line_raises_anything_but_a_verdict(lines: list[str], content_type: str) -> None:
    unless_foreign(page(*lines, 'ollama_requests_total{model="m:1"} 1', ending="# EOF\n"), content_type)


def unless_foreign(body: bytes, content_type: str) -> None:
    """Whatever else it raises fails the test."""
    with contextlib.suppress(NotOllamas):
        parse(body, content_type, VERSION)


# --- how often it is asked -------------------------------------------------------------------------------------------


class Asked:
    """A server without /metrics under the real Fleet: how often it was asked for it."""

    def __init__(self, config: ServerConfig) -> None:
        self.server = SimServer(config, virtual_wall_clock)
        self.readings: list[Reading] = []
        around = Surroundings(now=virtual_wall_clock, transport=lambda _: SimTransport({"a": self.server}))
        self.fleet = Fleet(
            lambda watch: build(watch, around),
            self.readings.append,
            lambda watch: SOURCES[watch.source].reasons,
            Histogram(catalog.EXPORTER_LAG),
            virtual_wall_clock,
        )
        self.fleet.apply([Watch("a", "native", 15.0, 60.0, NativeSettings(ENDPOINT), optional=True)])

    def times(self, path: str) -> int:
        return sum(event.detail == path for event in self.server.log.of("request"))


@virtually
async def test_a_server_without_it_is_asked_once_an_hour_and_costs_nothing_else() -> None:
    it = Asked(ServerConfig())
    async with meanwhile(it.fleet.run()):
        await asyncio.sleep(4 * 3600 - 60)
    assert it.times("/metrics") == 4
    assert it.times("/api/version") <= 4 * 12 + 1
    assert {event.detail for event in it.server.log.of("request")} == {"/metrics", "/api/version"}
    assert all(reading.blind and reading.lacks == (NONE,) for reading in it.readings)
    await it.server.aclose()


@virtually
async def test_a_change_of_version_is_a_reason_to_look_again() -> None:
    it = Asked(ServerConfig(version="0.33.0"))
    async with meanwhile(it.fleet.run()):
        await asyncio.sleep(700)
        assert it.times("/metrics") == 1
        it.server.config = ServerConfig(version="0.40.0")
        await asyncio.sleep(600)
        assert it.times("/metrics") == 2
    await it.server.aclose()


@virtually
async def test_so_is_an_outage_that_was_met() -> None:
    it = Asked(ServerConfig())
    async with meanwhile(it.fleet.run()):
        await asyncio.sleep(400)
        it.server.inject(Fault("dead", 700.0))
        await asyncio.sleep(600)
        assert it.readings[-1].blind
        assert it.readings[-1].lacks == (NONE,)  # what was known of it, for a dead server tells nothing
        await asyncio.sleep(600)
        assert it.times("/metrics") == 2
    await it.server.aclose()


@virtually
async def test_a_server_that_never_answered_has_not_failed_here() -> None:
    it = Asked(ServerConfig(metrics=True))
    it.server.inject(Fault("dead", 3600.0))
    async with meanwhile(it.fleet.run()):
        await asyncio.sleep(3000)
        assert all(reading.blind and reading.lacks == (SILENT,) for reading in it.readings)
        await asyncio.sleep(1000)
        assert it.readings[-1].failure is None
        assert not it.readings[-1].blind
    await it.server.aclose()


@virtually
async def test_where_it_was_seen_it_is_asked_at_every_poll_and_its_absence_is_a_failure() -> None:
    async with watched() as it:
        assert (await it.run(150.0)).failure is None
        assert len(it.recorder.sent("/metrics")) == 11
        it.server.inject(Fault("forbidden", 20.0))
        assert (await it.observe()).failure == "forbidden_host"
        await asyncio.sleep(21.0)
        assert (await it.observe()).failure is None
