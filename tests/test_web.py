"""The HTTP surface: what each page answers, in which form, and that the server neither hangs nor is hung."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import gzip
import json
import logging
import re
import signal
import socket
import threading
import zlib
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.types import ASGIApp, Message

from exporter import catalog, listening
from exporter.discovery import Listed
from exporter.exposition import encode, render
from exporter.listening import Server, bind
from exporter.model import Distribution, Entry, Reading, Snapshot, Watch
from exporter.negotiation import OPENMETRICS, TEXT
from exporter.web import create_app

PROMETHEUS_2_42 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_2_42_NATIVE = (
    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited,"
    "application/openmetrics-text;version=1.0.0;q=0.8,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
ESCAPED = f"{OPENMETRICS}; escaping=underscores"
GET_PATHS = ("/", "/metrics", "/health", "/-/healthy", "/-/ready", "/config", "/sd")


def in_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an async test on a real loop; whatever it leaves behind is an error."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), 20))

    return run


def snapshot(models: int = 1) -> Snapshot:
    watch = Watch("a", "api", every=5.0, within=5.0)
    names = [f"model-{number}:latest" for number in range(models)]
    durations = Distribution(tuple(range(1, len(catalog.API_DURATION.buckets) + 2)), 0.5)
    samples = (
        catalog.UP(1.0, server="a"),
        catalog.API_DURATION(durations, server="a", api_endpoint="/api/ps"),
        catalog.REJECTED_VALUES(2.0, server="a"),
        *[catalog.LOADED_SIZE(1.5e9, server="a", model=name) for name in names],
    )
    return Snapshot({watch: encode(Reading(watch, at=1000.0, took=0.01, samples=samples, succeeded_at=1000.0))})


def unrenderable() -> Snapshot:
    """Told from where the catalogue does not know of."""
    watch = Watch("a", "api", every=5.0, within=5.0)
    return Snapshot({watch: Entry(Reading(watch, 1000.0, 0.01), ((b"stranger", b"stranger 1.0\n"),), 1)})


@dataclass
class Desk:
    """The running exporter, as far as the web sees it."""

    shown: Snapshot = field(default_factory=snapshot)
    alive: bool = True
    complete: bool = True
    mistakes: tuple[str, ...] = ()
    servers: tuple[Listed, ...] | None = (Listed("a", "http://gpu1:11434", "racks"),)
    renders: list[tuple[float, int]] = field(default_factory=list)
    reloads: int = 0
    reload_begun: asyncio.Event = field(default_factory=asyncio.Event)
    reload_gate: asyncio.Event | None = None
    version: str = "9.8.7"

    def snapshot(self) -> Snapshot:
        return self.shown

    def healthy(self) -> bool:
        return self.alive

    def ready(self) -> bool:
        return self.complete

    def config_text(self) -> str:
        return "servers:\n- name: a\n  bearer: <secret>\n"

    async def reload(self) -> tuple[str, ...]:
        self.reloads += 1
        self.reload_begun.set()
        if self.reload_gate is not None:
            await self.reload_gate.wait()
        return self.mistakes

    def listing(self, discovery: str | None = None) -> tuple[Listed, ...] | None:
        if discovery not in (None, "racks"):
            raise LookupError(discovery)
        return self.servers

    def configured(self) -> tuple[str, ...]:
        return ("probe",)

    def rendered(self, seconds: float, size: int) -> None:
        self.renders.append((seconds, size))


@dataclass(frozen=True)
class Answer:
    code: int
    headers: dict[str, str]
    body: bytes


async def ask(
    app: ASGIApp, path: str, method: str = "GET", *headers: tuple[bytes, bytes], query: bytes = b""
) -> Answer:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "query_string": query, "headers": list(headers)}
    await app(scope, receive, send)
    start, *bodies = sent
    fields = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in start["headers"]]
    assert len(dict(fields)) == len(fields), "a header twice"
    pieces = [message["body"] for message in bodies]
    assert int(dict(fields)["content-length"]) == sum(map(len, pieces))
    assert [message.get("more_body", False) for message in bodies] == [True] * (len(bodies) - 1) + [False]
    return Answer(start["status"], dict(fields), b"".join(pieces))


def scrape(app: ASGIApp, accept: str | None = None, encoding: str | None = None) -> Answer:
    headers = [(b"accept", accept.encode("latin-1"))] if accept is not None else []
    headers += [(b"accept-encoding", encoding.encode("latin-1"))] if encoding is not None else []
    return asyncio.run(ask(app, "/metrics", "GET", *headers))


# --- the form of /metrics --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        (None, TEXT),
        ("", TEXT),
        ("*/*", TEXT),
        ("*", TEXT),
        ("text/*", TEXT),
        ("text/plain", TEXT),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", TEXT),
        (PROMETHEUS_2_42, OPENMETRICS),
        (PROMETHEUS_2_42_NATIVE, OPENMETRICS),
        (PROMETHEUS_3, ESCAPED),
        ("application/openmetrics-text; version=0.0.1,text/plain;version=0.0.4;q=0.5,*/*;q=0.1", TEXT),
        ("application/openmetrics-text", OPENMETRICS),
        ("application/openmetrics-text, */*", OPENMETRICS),
        ("text/plain, application/openmetrics-text", OPENMETRICS),
        ("application/*", OPENMETRICS),
        ("application/*;q=0.4, text/*;q=0.5", TEXT),
        ("APPLICATION/OpenMetrics-Text; VERSION=1.0.0; Q=1", OPENMETRICS),
        ("application/openmetrics-text;q=0.9;version=1.0.0,text/plain;q=0.8", OPENMETRICS),
        ('application/openmetrics-text; version="1.0.0"', OPENMETRICS),
        ("  application/openmetrics-text ;\tversion = 1.0.0 , text/plain ; q=0.1", OPENMETRICS),
        ("application/openmetrics-text;version=1.0.0;q=0.3,text/plain;version=0.0.4;q=0.7", TEXT),
        ("application/openmetrics-text;q=0,*/*", TEXT),
        ("application/openmetrics-text;q=0.0", TEXT),
        ("text/plain;q=0,*/*;q=0.1", OPENMETRICS),
        ("text/*;q=0.9,text/plain;q=0.1,application/openmetrics-text;q=0.5", OPENMETRICS),
        ("application/openmetrics-text;version=1.0.0;q=0,application/openmetrics-text;q=1,text/plain;q=0.1", TEXT),
        ("application/openmetrics-text;version=abc", TEXT),
        ("application/openmetrics-text;version=", TEXT),
        ("application/openmetrics-text;version=99.0.0,text/plain;version=0.0.4;q=0.1", TEXT),
        ("application/openmetrics-text;version=99.0.0", TEXT),
        ("application/openmetrics-text;version=2.0.0,application/openmetrics-text;version=1.0.0;q=0.9", OPENMETRICS),
        ("application/openmetrics-text;q=high,text/plain;q=0.1", TEXT),
        ("application/openmetrics-text;q=nan", TEXT),
        ("application/openmetrics-text;q=1.5,text/plain;q=0.1", TEXT),
        ("application/openmetrics-text;q=-1", TEXT),
        ('text/plain;note="a, application/openmetrics-text"', TEXT),
        ('text/plain;q=0.1;note="open, application/openmetrics-text', TEXT),
        ("application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited", TEXT),
        ("image/png", TEXT),
        ("application/openmetrics-text;version=1.0.0;escaping=underscores", ESCAPED),
        ("application/openmetrics-text;escaping=values", ESCAPED),
        ("text/plain;version=0.0.4;escaping=allow-utf-8", TEXT),
        (";,;;, =;q=,/", TEXT),
    ],
)
def test_accept_chooses_the_form(accept: str | None, content_type: str) -> None:
    desk = Desk()
    answer = scrape(create_app(desk), accept)
    assert (answer.code, answer.headers["content-type"]) == (200, content_type)
    assert answer.body == render(desk.shown, content_type is not TEXT)
    assert answer.headers["vary"] == "Accept, Accept-Encoding"


def test_several_accept_headers_are_one() -> None:
    headers = [(b"accept", b"text/plain;q=0.1"), (b"accept", b"application/openmetrics-text")]
    assert asyncio.run(ask(create_app(Desk()), "/metrics", "GET", *headers)).headers["content-type"] == OPENMETRICS


@pytest.mark.parametrize(
    ("encoding", "compressed"),
    [
        (None, False),
        ("", False),
        ("gzip", True),
        ("GZip", True),
        ("x-gzip", True),
        ("deflate, gzip;q=1.0, *;q=0.5", True),
        ("br;q=1.0, gzip;q=0.001", True),
        ("*", True),
        ("gzip;q=0", False),
        ("gzip; q=0.000, *", False),
        ("*;q=0", False),
        ("identity", False),
        ("identity;q=1, gzip;q=0.5", False),
        ("identity;q=0.5, gzip;q=1", True),
        ("identity;q=0", False),
        ("gzip;q=much", False),
        ("deflate, br, zstd", False),
    ],
)
def test_accept_encoding_chooses_gzip(encoding: str | None, compressed: bool) -> None:
    desk = Desk()
    answer = scrape(create_app(desk), None, encoding)
    assert (answer.headers.get("content-encoding") == "gzip") is compressed
    assert (gzip.decompress(answer.body) if compressed else answer.body) == render(desk.shown, False)
    assert answer.headers["content-length"] == str(len(answer.body))
    assert answer.headers["vary"] == "Accept, Accept-Encoding"


def test_a_large_page_is_one_member_of_gzip() -> None:
    """Of several, many clients read the first alone, and take it for the page."""
    desk = Desk(snapshot(models=10_000))
    answer, reader = scrape(create_app(desk), None, "gzip"), zlib.decompressobj(wbits=31)
    assert reader.decompress(answer.body) == render(desk.shown, False)
    assert (reader.eof, reader.unused_data) == (True, b"")


PIECES = (
    "application/openmetrics-text", "text/plain", "*/*", "gzip", "escaping=x", "version=", "1.0.0", "q=", "=", "0",
    "0.5", "1e9", ";", ";", ",", ",", '"', "\\",
)  # fmt: skip
LOOKS_LIKE_ACCEPT = st.lists(st.sampled_from(PIECES), max_size=12).map(lambda pieces: "".join(pieces).encode())


@settings(max_examples=300)
@given(accept=st.binary(max_size=200) | LOOKS_LIKE_ACCEPT, encoding=st.binary(max_size=100) | LOOKS_LIKE_ACCEPT)
def test_no_header_whatever_breaks_a_scrape(accept: bytes, encoding: bytes) -> None:
    headers = (b"accept", accept), (b"accept-encoding", encoding)
    answer = asyncio.run(ask(create_app(Desk()), "/metrics", "GET", *headers))
    assert answer.code == 200
    assert answer.headers["content-type"] in (TEXT, OPENMETRICS, ESCAPED)
    body = gzip.decompress(answer.body) if "content-encoding" in answer.headers else answer.body
    assert body.startswith(b"# HELP ollama_up ")
    assert body.endswith(b"# EOF\n") is answer.headers["content-type"].startswith(OPENMETRICS)


@pytest.mark.parametrize("filler", ['"\\', '"', ";", ",", "a;q=0.5,", '\\"'])
def test_a_header_as_long_as_the_server_takes_is_read_at_once(filler: str) -> None:
    """A pattern that backtracks would take minutes here; the time limit of the test is the assertion."""
    assert scrape(create_app(Desk()), filler * 8000, filler * 8000).code == 200


@pytest.mark.parametrize("accept", [TEXT, OPENMETRICS])
def test_no_sample_carries_a_timestamp_or_a_creation_time(accept: str) -> None:
    lines = scrape(create_app(Desk()), accept).body.decode().splitlines()
    samples = [line for line in lines if not line.startswith("#")]
    assert len(samples) > 5
    for line in samples:
        assert re.fullmatch(r'[a-z_]+(\{[a-z_]+="[^"]*"(,[a-z_]+="[^"]*")*\})? [-+0-9.eInfNa]+', line), line
        assert not line.split("{")[0].endswith("_created")


# --- the cost of /metrics --------------------------------------------------------------------------------------------


def test_two_scrapes_of_one_snapshot_pay_once_for_each_form() -> None:
    desk = Desk()
    app = create_app(desk)
    first = scrape(app, PROMETHEUS_3, "gzip")
    assert scrape(app, PROMETHEUS_3, "gzip") == first
    assert len(desk.renders) == 1
    assert scrape(app, "text/plain", "gzip").headers["content-type"] == TEXT
    assert scrape(app, "text/plain").body == render(desk.shown, False)
    assert len(desk.renders) == 3


def test_a_new_snapshot_is_shown_at_once() -> None:
    desk = Desk()
    app = create_app(desk)
    before = scrape(app).body
    desk.shown = snapshot(models=2)
    after = scrape(app).body
    assert b"model-1:latest" not in before
    assert b"model-1:latest" in after
    assert len(desk.renders) == 2


def test_the_operator_is_told_the_cost_before_compression() -> None:
    desk = Desk(shown=snapshot(models=100))
    answer = scrape(create_app(desk), None, "gzip")
    ((seconds, size),) = desk.renders
    assert size == len(gzip.decompress(answer.body)) > len(answer.body)
    assert 0 < seconds < 5


@in_loop
async def test_no_more_of_a_page_is_made_than_the_client_takes() -> None:
    desk, taken = Desk(shown=snapshot(models=20_000)), 0
    full = asyncio.Event()

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        nonlocal taken
        taken += len(message.get("body", b""))
        if taken:
            await full.wait()

    scope = {"type": "http", "method": "GET", "path": "/metrics", "query_string": b"", "headers": []}
    answering = asyncio.create_task(create_app(desk)(scope, receive, send))
    await asyncio.sleep(0.05)
    whole = len(render(desk.shown, False))
    assert 0 < taken < whole / 4
    full.set()
    await answering
    assert taken == whole


@in_loop
async def test_compressing_a_large_page_leaves_the_loop_to_others() -> None:
    desk = Desk(shown=snapshot(models=20_000))
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(others())
    answer = await ask(create_app(desk), "/metrics", "GET", (b"accept-encoding", b"gzip"))
    during = turns
    task.cancel()
    assert gzip.decompress(answer.body) == render(desk.shown, False)
    assert during > 0


@in_loop
async def test_pages_are_made_while_all_that_blocks_hangs() -> None:
    over = threading.Event()
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(1))
    hanging = loop.run_in_executor(None, over.wait, 30)
    app = create_app(Desk(shown=snapshot(models=5_000)))
    try:
        for path in ("/metrics", "/"):
            assert (await ask(app, path, "GET", (b"accept-encoding", b"gzip"))).code == 200
            assert not hanging.done()
    finally:
        over.set()
        await hanging


@in_loop
async def test_concurrent_scrapes_of_a_large_page_share_the_work() -> None:
    desk = Desk(shown=snapshot(models=5_000))
    app = create_app(desk)
    answers = await asyncio.gather(*[ask(app, "/metrics", "GET", (b"accept-encoding", b"gzip")) for _ in range(5)])
    assert all(answer == answers[0] for answer in answers)
    assert len(desk.renders) == 1


def test_a_render_that_fails_is_a_clean_500_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    desk = Desk(shown=unrenderable())
    app = create_app(desk)
    answer = scrape(app, PROMETHEUS_3, "gzip")
    assert (answer.code, answer.headers["content-type"]) == (500, "text/plain; charset=utf-8")
    assert answer.body == b"The exporter failed to answer; its log says why.\n"
    assert "content-encoding" not in answer.headers
    (record,) = caplog.records
    assert record.exc_info is not None
    assert record.exc_info[0] is KeyError
    desk.shown = snapshot()
    assert scrape(app).code == 200


# --- the other pages -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/health", "/-/healthy"])
def test_health_is_about_our_own_loops(path: str) -> None:
    desk = Desk(complete=False)
    assert asyncio.run(ask(create_app(desk), path)).code == 200
    desk.alive = False
    answer = asyncio.run(ask(create_app(desk), path))
    assert (answer.code, answer.headers["content-type"]) == (503, "text/plain; charset=utf-8")


def test_ready_means_that_the_first_round_is_done() -> None:
    desk = Desk(complete=False)
    app = create_app(desk)
    assert asyncio.run(ask(app, "/-/ready")).code == 503
    desk.complete = True
    assert asyncio.run(ask(app, "/-/ready")).code == 200


def test_the_fleet_is_a_list_that_prometheus_takes() -> None:
    answer = asyncio.run(ask(create_app(Desk()), "/sd", query=b"discovery=racks"))
    assert (answer.code, answer.headers["content-type"]) == (200, "application/json")
    assert answer.headers["cache-control"] == "no-store"
    (group,) = json.loads(answer.body)
    assert group["targets"] == ["a"]
    assert group["labels"]["__meta_ollama_url"] == "http://gpu1:11434"
    assert json.loads(asyncio.run(ask(create_app(Desk(servers=())), "/sd")).body) == []


def test_a_list_that_is_not_known_is_an_error_so_that_whoever_asks_keeps_the_old_one() -> None:
    assert asyncio.run(ask(create_app(Desk(servers=None)), "/sd")).code == 503
    assert asyncio.run(ask(create_app(Desk()), "/sd", query=b"discovery=nobody")).code == 404


def test_config_is_text_that_a_browser_shows() -> None:
    answer = asyncio.run(ask(create_app(Desk()), "/config"))
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.body == b"servers:\n- name: a\n  bearer: <secret>\n"


def test_a_reload_that_succeeds() -> None:
    desk = Desk()
    answer = asyncio.run(ask(create_app(desk), "/-/reload", "POST"))
    assert (answer.code, desk.reloads) == (200, 1)


def test_a_reload_tells_each_mistake_on_one_line() -> None:
    desk = Desk(mistakes=("servers[0].url: no scheme", "web: expected a mapping,\nfound a list"))
    answer = asyncio.run(ask(create_app(desk), "/-/reload", "POST"))
    assert (answer.code, answer.headers["content-type"]) == (400, "text/plain; charset=utf-8")
    assert answer.body.decode().splitlines() == [
        "servers[0].url: no scheme",
        "web: expected a mapping, found a list",
    ]


@pytest.mark.parametrize(("method", "path"), [("GET", "/-/reload"), ("HEAD", "/-/reload"), ("PUT", "/-/reload")])
def test_only_a_post_reloads(method: str, path: str) -> None:
    desk = Desk()
    answer = asyncio.run(ask(create_app(desk), path, method))
    assert (answer.code, answer.headers["allow"], desk.reloads) == (405, "POST", 0)


@pytest.mark.parametrize("method", ["POST", "DELETE", "OPTIONS", "FETCH"])
@pytest.mark.parametrize("path", GET_PATHS)
def test_pages_are_only_read(method: str, path: str) -> None:
    answer = asyncio.run(ask(create_app(Desk()), path, method))
    assert (answer.code, answer.headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("path", ["/metrics/", "/Metrics", "/nothing", "//metrics", "/-/", "http://a/metrics", "*", ""])
def test_anything_else_is_not_found(path: str) -> None:
    answer = asyncio.run(ask(create_app(Desk()), path))
    assert (answer.code, answer.headers["content-type"]) == (404, "text/plain; charset=utf-8")


def test_a_bug_in_any_page_is_a_500_without_our_insides(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Desk):
        def config_text(self) -> str:
            raise RuntimeError("hunter2")

    answer = asyncio.run(ask(create_app(Broken()), "/config"))
    assert answer.code == 500
    assert b"hunter2" not in answer.body
    assert [record.exc_info is not None for record in caplog.records] == [True]


def test_the_status_page_is_html_that_may_run_nothing() -> None:
    answer = asyncio.run(ask(create_app(Desk(), now=lambda: 1003.0), "/"))
    assert (answer.code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert b"ollama-exporter 9.8.7" in answer.body
    assert b"3 s ago" in answer.body


def test_the_status_page_refreshes_itself_until_it_is_paused() -> None:
    app = create_app(Desk())
    assert b'http-equiv="refresh"' in asyncio.run(ask(app, "/")).body
    assert b'http-equiv="refresh"' not in asyncio.run(ask(app, "/", query=b"pause")).body


def test_half_a_character_in_a_name_breaks_no_page() -> None:
    watch = Watch("a", "api", every=5.0, within=5.0)
    samples = (catalog.LOADED_SIZE(1.0, server="a", model="half \ud800"),)
    desk = Desk(shown=Snapshot({watch: Entry(Reading(watch, 1000.0, 0.01, samples), (), 0)}))
    answer = asyncio.run(ask(create_app(desk), "/"))
    assert answer.code == 200
    assert b">half ?<" in answer.body


# --- on the wire -----------------------------------------------------------------------------------------------------

Address = tuple[str, int]


@contextlib.asynccontextmanager
async def serving(desk: Desk) -> AsyncIterator[tuple[Server, Address]]:
    (listening,) = bind(("127.0.0.1", 0))
    address: Address = listening.getsockname()[:2]
    server = Server(create_app(desk), [listening])
    task = asyncio.create_task(server.run())
    try:
        yield server, address
    finally:
        server.stop()
        await task


@contextlib.asynccontextmanager
async def connected(address: Address) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(*address)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: str, body: bool = True
) -> tuple[str, dict[str, str], bytes]:
    """One request and its answer; with `body` false none is expected, whatever the length says."""
    writer.write(request.replace("\n", "\r\n").encode() + b"\r\n\r\n")
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
    content = await reader.readexactly(int(headers["content-length"])) if body else b""
    return head[0], headers, content


@pytest.mark.parametrize("path", GET_PATHS)
@in_loop
async def test_head_is_get_without_the_body(path: str) -> None:
    async with serving(Desk()) as (_, address), connected(address) as (reader, writer):
        status, headers, content = await exchange(reader, writer, f"GET {path} HTTP/1.1\nHost: a")
        head_status, head_headers, _ = await exchange(reader, writer, f"HEAD {path} HTTP/1.1\nHost: a", body=False)
        assert (status, head_status) == ("HTTP/1.1 200 OK", "HTTP/1.1 200 OK")
        assert int(head_headers["content-length"]) == len(content) > 0
        assert {**headers, "date": ""} == {**head_headers, "date": ""}
        # Had HEAD sent a body, the next answer on this connection would not begin where it does.
        status, _, again = await exchange(reader, writer, f"GET {path} HTTP/1.1\nHost: a")
        assert (status, again) == ("HTTP/1.1 200 OK", content)


@in_loop
async def test_a_scrape_as_prometheus_makes_it() -> None:
    desk = Desk()
    request = f"GET /metrics HTTP/1.1\nHost: a\nAccept: {PROMETHEUS_3}\nAccept-Encoding: gzip"
    async with serving(desk) as (_, address), connected(address) as (reader, writer):
        status, headers, content = await exchange(reader, writer, request)
        assert (status, headers["content-encoding"], headers["content-type"]) == ("HTTP/1.1 200 OK", "gzip", ESCAPED)
        assert gzip.decompress(content) == render(desk.shown, True)
        assert "server" not in headers
        assert headers["date"].endswith("gmt")


@pytest.mark.parametrize(
    ("request_line", "status", "allow"),
    [
        ("GET /nothing", "HTTP/1.1 404 Not Found", None),
        ("POST /metrics", "HTTP/1.1 405 Method Not Allowed", "get, head"),
        ("GET /-/reload", "HTTP/1.1 405 Method Not Allowed", "post"),
        ("POST /-/reload", "HTTP/1.1 200 OK", None),
    ],
)
@in_loop
async def test_codes_on_the_wire(request_line: str, status: str, allow: str | None) -> None:
    async with serving(Desk()) as (_, address), connected(address) as (reader, writer):
        got, headers, content = await exchange(reader, writer, f"{request_line} HTTP/1.1\nHost: a\nContent-Length: 0")
        assert (got, headers.get("allow"), headers["content-type"]) == (status, allow, "text/plain; charset=utf-8")
        assert content.endswith(b"\n")


@in_loop
async def test_a_request_that_is_no_http_is_refused() -> None:
    async with serving(Desk()) as (_, address), connected(address) as (reader, writer):
        writer.write(b"\x16\x03\x01\x02\x00\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 400 ")


async def stop_time(server: Server, running: asyncio.Task[None]) -> float:
    loop = asyncio.get_running_loop()
    started = loop.time()
    server.stop()
    await running
    return loop.time() - started


SLOW_CLIENTS: dict[str, bytes] = {
    "silent": b"",
    "half a request": b"GET /metrics HTTP/1.1\r\nHost:",
    "idle after an answer": b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n",
    "half a body": b"POST /-/reload HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc",
    "a page that is not read": b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n",
    "a reload that hangs": b"POST /-/reload HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
}


@pytest.mark.parametrize("client", SLOW_CLIENTS)
@in_loop
async def test_no_client_delays_the_stop(client: str, caplog: pytest.LogCaptureFixture) -> None:
    desk = Desk(
        shown=snapshot(200_000) if client == "a page that is not read" else snapshot(),
        reload_gate=asyncio.Event() if client == "a reload that hangs" else None,
    )
    (listening,) = bind(("127.0.0.1", 0))
    address = listening.getsockname()[:2]
    server = Server(create_app(desk), [listening])
    running = asyncio.create_task(server.run())
    async with connected(address) as (reader, writer), connected(address) as (other_reader, other_writer):
        writer.write(SLOW_CLIENTS[client])
        await writer.drain()
        # Connections are served in order: this answer comes after the slow one's bytes have been taken in.
        await exchange(other_reader, other_writer, "GET /health HTTP/1.1\nHost: a")
        if client in ("idle after an answer", "a page that is not read"):
            assert await reader.readexactly(15) == b"HTTP/1.1 200 OK"
        if client == "a reload that hangs":
            await desk.reload_begun.wait()
        assert await stop_time(server, running) < 0.8
        assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(*address)


@in_loop
async def test_an_answer_under_way_may_end_before_the_stop() -> None:
    desk = Desk(reload_gate=asyncio.Event())
    async with serving(desk) as (server, address), connected(address) as (reader, writer):
        answer = asyncio.create_task(exchange(reader, writer, "POST /-/reload HTTP/1.1\nHost: a\nContent-Length: 0"))
        await desk.reload_begun.wait()
        server.stop()
        assert desk.reload_gate is not None
        desk.reload_gate.set()
        assert (await answer)[0] == "HTTP/1.1 200 OK"


@in_loop
async def test_a_stop_before_the_start_is_not_lost() -> None:
    server = Server(create_app(Desk()), bind(("127.0.0.1", 0)))
    server.stop()
    await asyncio.wait_for(server.run(), 1)


@in_loop
async def test_a_server_that_is_cancelled_leaves_nothing_open() -> None:
    (listening,) = bind(("127.0.0.1", 0))
    address = listening.getsockname()[:2]
    running = asyncio.create_task(Server(create_app(Desk()), [listening]).run())
    async with connected(address) as (reader, writer):
        await exchange(reader, writer, "GET /health HTTP/1.1\nHost: a")
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
    assert listening.fileno() == -1
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(*address)


@in_loop
async def test_signals_stay_with_the_program() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    async with serving(Desk()) as (_, address), connected(address) as (reader, writer):
        await exchange(reader, writer, "GET /health HTTP/1.1\nHost: a")
        assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


@pytest.mark.parametrize("answered", [0, 1])
@pytest.mark.parametrize("sent", [b"GET", b"GET /metrics HTTP/1.1\r\nHost: "])
@in_loop
async def test_who_never_ends_his_request_is_hung_up_on(sent: bytes, answered: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(listening, "_REQUEST_SECONDS", 0.05)
        async with serving(Desk()) as (_, address), connected(address) as (reader, writer):
            for _ in range(answered):
                await exchange(reader, writer, "GET /health HTTP/1.1\nHost: a")
            writer.write(sent)
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""


@in_loop
async def test_who_never_says_anything_is_hung_up_on() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(listening, "_REQUEST_SECONDS", 0.05)
        async with serving(Desk()) as (_, address), connected(address) as (reader, _):
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""


@in_loop
async def test_a_client_who_comes_back_in_time_is_not_hung_up_on() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(listening, "_REQUEST_SECONDS", 0.05)
        async with serving(Desk(reload_gate=asyncio.Event())) as (_, address), connected(address) as (reader, writer):
            await exchange(reader, writer, "GET /health HTTP/1.1\nHost: a")
            async with connected(address) as (silent, _):  # hung up on after the time that the first one has idled too
                with contextlib.suppress(ConnectionResetError):
                    assert await silent.read() == b""
            assert (await exchange(reader, writer, "GET /health HTTP/1.1\nHost: a"))[0] == "HTTP/1.1 200 OK"


# --- the listening socket --------------------------------------------------------------------------------------------


def closing(sockets: list[socket.socket]) -> contextlib.ExitStack:
    stack = contextlib.ExitStack()
    for each in sockets:
        stack.enter_context(each)
    return stack


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


def test_no_host_means_both_families() -> None:
    sockets = bind(("", 0))
    with closing(sockets):
        port = sockets[0].getsockname()[1]
        for host in ("127.0.0.1", *(["::1"] if has_ipv6() else [])):
            socket.create_connection((host, port), timeout=5).close()


def test_without_ipv6_no_host_means_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.socket

    def without_ipv6(family: int = socket.AF_INET, *args: Any, **kwargs: Any) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return real(family, *args, **kwargs)

    monkeypatch.setattr(socket, "socket", without_ipv6)
    sockets = bind(("", 0))
    with closing(sockets):
        assert [(s.family, s.getsockname()[0]) for s in sockets] == [(socket.AF_INET, "0.0.0.0")]


def resolving_to(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in addresses]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)


def test_all_addresses_of_a_name_share_one_port(monkeypatch: pytest.MonkeyPatch) -> None:
    resolving_to(monkeypatch, "127.0.0.1", "127.0.0.2", "127.0.0.1")
    sockets = bind(("a-name", 0))
    with closing(sockets):
        assert [listening.getsockname()[0] for listening in sockets] == ["127.0.0.1", "127.0.0.2"]
        assert len({listening.getsockname()[1] for listening in sockets}) == 1


def test_an_address_of_a_name_that_is_missing_here_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    resolving_to(monkeypatch, "192.0.2.1", "127.0.0.1")
    sockets = bind(("a-name", 0))
    with closing(sockets):
        assert [listening.getsockname()[0] for listening in sockets] == ["127.0.0.1"]


def test_localhost_can_be_had() -> None:
    sockets = bind(("localhost", 0))
    with closing(sockets):
        assert {listening.getsockname()[0] for listening in sockets} <= {"127.0.0.1", "::1"}


@pytest.mark.parametrize("host", ["127.0.0.1", ""])
def test_a_taken_port_is_told_in_words(host: str) -> None:
    taken = bind((host, 0))
    with closing(taken), pytest.raises(OSError, match=r"^another program listens there already$"):
        bind((host, taken[0].getsockname()[1]))


@pytest.mark.parametrize(
    ("host", "words"), [("192.0.2.1", "^this machine has no such address$"), ("a" * 70, "^no such host name")]
)
def test_an_address_that_is_not_ours_is_told_in_words(host: str, words: str) -> None:
    with pytest.raises(OSError, match=words):
        bind((host, 0))


def test_a_restart_gets_its_port_again_at_once() -> None:
    (first,) = bind(("127.0.0.1", 0))
    address = first.getsockname()
    with closing([first]), socket.create_connection(address, timeout=5) as client:
        first.setblocking(True)
        accepted, _ = first.accept()
        accepted.close()  # whoever closes first keeps the port waiting
        assert client.recv(1) == b""
    with closing(bind(address)):
        pass


def test_connections_inherit_the_limit_for_who_does_not_read() -> None:
    (listening,) = bind(("127.0.0.1", 0))
    with closing([listening]), socket.create_connection(listening.getsockname(), timeout=5):
        listening.setblocking(True)
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 30_000


@pytest.mark.parametrize("host", ["", "127.0.0.1"])
def test_an_answers_head_does_not_wait_for_its_body(host: str) -> None:
    """asyncio switches Nagle's algorithm off only on sockets that name their protocol; else a page takes 40 ms more."""
    sockets = bind((host, 0))
    try:
        assert {listening.proto for listening in sockets} == {socket.IPPROTO_TCP}
    finally:
        for listening in sockets:
            listening.close()
