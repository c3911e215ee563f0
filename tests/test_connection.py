"""Our own HTTP/1.1 under httpx's API, over real sockets: what it reads, what it refuses, and that it leaves nothing
open."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import ssl
import weakref
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from typing import Any, cast

import httpx
import pytest

from exporter import connection
from exporter.connection import ForbiddenAddress, Resolve, Transport
from exporter.ollama import translate
from tests.wire import (
    CHUNKED_HEAD,
    CLOSE,
    HALF_CLOSE,
    HANG,
    RESET,
    Authority,
    Endless,
    Script,
    Trickle,
    Wire,
    answer,
    chunk,
    free_port,
    full_backlog,
    make_authority,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def carriers(monkeypatch: pytest.MonkeyPatch) -> list[asyncio.Transport]:
    """Every connection that comes about."""
    seen: list[asyncio.Transport] = []
    made = connection._Connection.connection_made

    def noted(self: connection._Connection, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        seen.append(transport)
        made(self, transport)

    monkeypatch.setattr(connection._Connection, "connection_made", noted)
    return seen


@contextlib.asynccontextmanager
async def opened(transport: Transport) -> AsyncIterator[Transport]:
    try:
        yield transport
    finally:
        await transport.aclose()


async def ask(transport: Transport, url: str, method: str = "GET", **settings: Any) -> tuple[httpx.Response, bytes]:
    """One exchange, its body read to the end."""
    extensions = {"timeout": {"connect": 5.0}}
    response = await transport.handle_async_request(httpx.Request(method, url, extensions=extensions, **settings))
    try:
        return response, await response.aread()
    finally:
        await response.aclose()


async def failure(script: Script, **wire: Any) -> httpx.TransportError:
    """What the first request to a server with this script raises."""
    async with Wire({"/": script}, **wire) as server, opened(Transport()) as it:
        with pytest.raises(httpx.TransportError) as caught:
            await ask(it, server.url)
        await server.idle()
    return caught.value


# --- what is read ----------------------------------------------------------------------------------------------------

GOOD: dict[str, tuple[Script, bytes, bool]] = {
    "with_a_length": ([answer(b"body")], b"body", True),
    "empty": ([answer(b"")], b"", True),
    "chunked": ([CHUNKED_HEAD, chunk(b"bo"), chunk(b"dy"), chunk(b"")], b"body", True),
    "chunked_byte_by_byte": ([Trickle(CHUNKED_HEAD + chunk(b"body") + chunk(b""), 0.0)], b"body", True),
    "chunked_with_a_trailer": ([CHUNKED_HEAD, chunk(b"body"), b"0\r\nDate: never\r\n\r\n"], b"body", True),
    "chunked_and_trailer_at_once": (
        [CHUNKED_HEAD + chunk(b"body") + b"0\r\nContent-Encoding: gzip\r\n\r\n"], b"body", True,
    ),
    "until_the_end_of_the_connection": ([b"HTTP/1.1 200 OK\r\n\r\nbo", b"dy", CLOSE], b"body", False),
    "http_1_0": ([b"HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\nbody"], b"body", False),
    "and_closes": ([answer(b"body", "Connection: close")], b"body", False),
    "after_an_early_hint": ([b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", answer(b"body")], b"body", True),
    "after_two_hints_at_once": ([b"HTTP/1.1 100 Continue\r\n\r\n" * 2 + answer(b"body")], b"body", True),
    "no_content": ([b"HTTP/1.1 204 No Content\r\n\r\n"], b"", True),
    "not_modified": ([b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n"], b"", True),
}  # fmt: skip


@pytest.mark.parametrize("case", GOOD)
async def test_an_answer_is_read_and_its_connection_used_again_if_it_may_be(case: str) -> None:
    script, expected, again = GOOD[case]
    async with Wire({"/": script}) as wire, opened(Transport()) as it:
        for _ in range(2):
            response, body = await ask(it, wire.url)
            assert body == expected
            assert response.headers.get("date") is response.headers.get("content-encoding") is None
            assert "link" not in response.headers
    assert wire.connections == (1 if again else 2)


async def test_a_large_body_arrives_whole() -> None:
    large = bytes(range(256)) * 16384
    async with Wire({"/": [answer(large)]}) as wire, opened(Transport()) as it:
        assert (await ask(it, wire.url))[1] == large


async def test_the_answer_to_a_head_has_no_body_whatever_it_says() -> None:
    async with Wire({"/": [answer(b"", length=1000)]}) as wire, opened(Transport()) as it:
        for _ in range(2):
            response, body = await ask(it, wire.url, "HEAD")
            assert (response.headers["content-length"], body) == ("1000", b"")
    assert wire.connections == 1


async def test_a_request_is_sent_whole_and_in_order() -> None:
    async with Wire({"/a%20b?c": [answer(b"")]}) as wire, opened(Transport()) as it:
        await ask(it, f"{wire.url}/a%20b?c", "POST", headers={"X-One": "1"}, content=b"payload")
    (request,) = wire.requests
    assert (request.method, request.target, request.body) == ("POST", "/a%20b?c", b"payload")
    assert request.header("Host") == [f"127.0.0.1:{wire.port}"]
    assert request.header("X-One") == ["1"]


@pytest.mark.parametrize("value", ["a\r\nX-Two: 2", "a\nX-Two: 2", "a\rb"])
async def test_a_line_break_in_a_header_is_not_sent(value: str) -> None:
    async with Wire({"/": [answer(b"")]}) as wire, opened(Transport()) as it:
        with pytest.raises(httpx.LocalProtocolError):
            await ask(it, wire.url, headers={"X-One": value})
    assert wire.connections == 0


# --- one connection after the other ----------------------------------------------------------------------------------


async def test_two_requests_at_once_have_two_connections_of_which_one_is_kept() -> None:
    gate = asyncio.Event()
    async with Wire({"/": [gate, answer(b"")]}) as wire, opened(Transport()) as it:
        both = asyncio.gather(ask(it, wire.url), ask(it, wire.url))
        await wire.arrived(2)
        gate.set()
        await both
        await ask(it, wire.url)
        assert len(it._open) == 1
    assert wire.connections == 2


async def test_without_keeping_each_request_has_its_own_connection() -> None:
    async with Wire({"/": [answer(b"")]}) as wire, opened(Transport(keep=False)) as it:
        await ask(it, wire.url)
        await wire.idle()
        await ask(it, wire.url)
    assert wire.connections == 2


async def test_an_old_idle_connection_is_not_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_IDLE_SECONDS", 0.0)
    async with Wire({"/": [answer(b"")]}) as wire, opened(Transport()) as it:
        await ask(it, wire.url)
        await ask(it, wire.url)
    assert wire.connections == 2


@pytest.mark.parametrize(
    "surprise",
    [answer(b"stolen"), b"garbage", b"HTTP/1.1 408 Request Timeout\r\n\r\n"],
    ids=["answer", "garbage", "408"],
)
@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("first", [answer(b"mine"), b"HTTP/1.1 204 No Content\r\n\r\n"], ids=["200", "204"])
async def test_bytes_that_nobody_asked_for_are_no_answer_to_the_next_request(
    surprise: bytes, at_once: bool, first: bytes
) -> None:
    gate = asyncio.Event()
    script: Script = [first + surprise] if at_once else [first, gate, surprise]
    async with Wire({"/": script, "/next": [answer(b"next")]}) as wire, opened(Transport()) as it:
        await ask(it, wire.url)
        if not at_once:
            assert it._open
            gate.set()
            await wire.idle()
            assert not it._open
        assert (await ask(it, f"{wire.url}/next"))[1] == b"next"
    assert [request.connection for request in wire.requests] == [1, 2]


async def test_bytes_after_the_answer_to_a_head_are_no_answer_to_the_next_request() -> None:
    async with Wire({"/": [answer(b"body")], "/next": [answer(b"next")]}) as wire, opened(Transport()) as it:
        await ask(it, wire.url, "HEAD")
        assert (await ask(it, f"{wire.url}/next"))[1] == b"next"
    assert wire.connections == 2


async def test_a_body_that_is_not_read_to_its_end_costs_its_connection() -> None:
    async with Wire({"/": [answer(b"x", length=2), HANG]}) as wire, opened(Transport()) as it:
        response = await it.handle_async_request(httpx.Request("GET", wire.url))
        await response.aclose()
        await wire.idle()
        assert not it._open


# --- what is refused, and with which reason --------------------------------------------------------------------------

BAD: dict[str, tuple[Script, str]] = {
    "garbage": ([b"SSH-2.0-OpenSSH_9.6\r\n\r\n", HANG], "decode"),
    "http_0_9": ([b"<html>hello</html>\r\n", HANG], "decode"),
    "two_lengths": ([answer(b"body", "Content-Length: 4", "Content-Length: 5"), HANG], "decode"),
    "length_and_chunks": ([answer(b"0\r\n\r\n", "Content-Length: 5", "Transfer-Encoding: chunked"), HANG], "decode"),
    "negative_length": ([answer(b"body", "Content-Length: -4"), HANG], "decode"),
    "nul_in_a_header": ([answer(b"", "X: a\0b"), HANG], "decode"),
    "switching_protocols": (
        [b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", HANG], "decode",
    ),
    "head_without_an_end": ([b"HTTP/1.1 200 OK\r\nX: ", Endless(b"a" * 1000)], "decode"),
    "headers_without_an_end": ([b"HTTP/1.1 200 OK\r\n", Endless(b"X: a\r\n" * 100)], "decode"),
    "hints_without_an_end": ([Endless(b"HTTP/1.1 103 Early Hints\r\nX: 1\r\n\r\n" * 50)], "decode"),
    "bad_chunk": ([CHUNKED_HEAD, b"zz\r\n", HANG], "decode"),
    "trailer_without_an_end": ([CHUNKED_HEAD, chunk(b"x"), b"0\r\nX: ", Endless(b"a" * 1000)], "decode"),
    "chunk_extension_without_an_end": ([CHUNKED_HEAD, b"1;", Endless(b"a" * 1000)], "decode"),
    "closed_before_an_answer": ([CLOSE], "reset"),
    "half_closed_before_an_answer": ([HALF_CLOSE], "reset"),
    "reset_before_an_answer": ([RESET], "reset"),
    "closed_in_the_head": ([b"HTTP/1.1 200 OK\r\nCont", CLOSE], "reset"),
    "closed_after_a_hint": ([b"HTTP/1.1 103 Early Hints\r\n\r\n", CLOSE], "reset"),
    "closed_in_the_body": ([answer(b"x", length=2), CLOSE], "reset"),
    "closed_in_the_chunks": ([CHUNKED_HEAD, chunk(b"x"), CLOSE], "reset"),
    "closed_before_the_last_chunk_ends": ([CHUNKED_HEAD, chunk(b"x"), b"0\r\n", CLOSE], "reset"),
    "reset_in_the_body": ([answer(b"x", length=2), RESET], "reset"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
async def test_a_bad_answer_has_its_reason_and_costs_its_connection(case: str) -> None:
    script, reason = BAD[case]
    assert translate(await failure(script)).reason == reason


@pytest.mark.parametrize("case", BAD)
async def test_a_bad_answer_leaves_nothing_to_the_garbage_collector(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = connection._Connection.connection_made
    alive: list[weakref.ref[connection._Connection]] = []

    def noted(self: connection._Connection, transport: asyncio.BaseTransport) -> None:
        alive.append(weakref.ref(self))
        made(self, transport)

    monkeypatch.setattr(connection._Connection, "connection_made", noted)
    gc.disable()
    try:
        async with Wire({"/": BAD[case][0]}) as server, opened(Transport()) as it:
            with contextlib.suppress(httpx.TransportError):
                await ask(it, server.url)
            await server.idle()
        assert [each() for each in alive] == [None]
    finally:
        gc.enable()


async def test_a_server_that_speaks_first_speaks_no_http() -> None:
    assert translate(await failure([], on_accept=[b"220 smtp ready\r\n", HANG])).reason == "decode"


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://nosuchhost.invalid", "dns"),
        ("http://a..invalid", "dns"),
        (f"http://{'a' * 64}.invalid", "dns"),
        ("http://127.0.0.1:{port}", "refused"),
        ("http://localhost:{port}", "refused"),
        ("http://255.255.255.255", "unreachable"),
    ],
)
async def test_what_happens_before_the_wire_is_told_apart(url: str, reason: str) -> None:
    async with opened(Transport()) as it:
        with pytest.raises(httpx.ConnectError) as caught:
            await ask(it, url.format(port=free_port()))
    assert translate(caught.value).reason == reason


async def test_a_connection_that_nobody_accepts_is_no_silent_server() -> None:
    with full_backlog() as port:
        async with opened(Transport()) as it:
            request = httpx.Request("GET", f"http://127.0.0.1:{port}", extensions={"timeout": {"connect": 0.05}})
            with pytest.raises(httpx.ConnectTimeout) as caught:
                await it.handle_async_request(request)
    assert translate(caught.value).reason == "connect_timeout"


async def test_a_connection_takes_its_time_at_most() -> None:
    async def never(_: str) -> Iterable[str]:
        await asyncio.sleep(60)
        return ()

    async with opened(Transport(resolve=never)) as it:
        request = httpx.Request("GET", "http://a", extensions={"timeout": {"connect": 0.02}})
        with pytest.raises(httpx.ConnectTimeout):
            await it.handle_async_request(request)


# --- the reader's pace, and leaving early ----------------------------------------------------------------------------


async def test_a_server_that_sends_faster_than_is_read_has_to_wait(carriers: list[asyncio.Transport]) -> None:
    async with Wire({"/": [CHUNKED_HEAD, Endless(chunk(b"x" * 65536))]}) as wire, opened(Transport()) as it:
        response = await it.handle_async_request(httpx.Request("GET", wire.url))
        while carriers[0].is_reading():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0)
        (held,) = it._open
        assert held._ahead <= connection._AHEAD_MAX + 256 * 1024
        stream = aiter(cast(AsyncIterable[bytes], response.stream))
        assert len(await anext(stream)) == held._ahead or not held._ahead
        assert carriers[0].is_reading()
        await response.aclose()
        await wire.idle()


@pytest.mark.parametrize("script", [[HANG], [answer(b"x", length=2), HANG]], ids=["head", "body"])
async def test_giving_up_closes_the_connection(script: Script) -> None:
    async with Wire({"/": script}) as wire, opened(Transport()) as it:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await ask(it, wire.url)
        await wire.idle()
        assert not it._open


async def test_closing_ends_what_is_under_way() -> None:
    async with Wire({"/": [HANG]}) as wire:
        it = Transport()
        asking = asyncio.ensure_future(ask(it, wire.url))
        await wire.arrived(1)
        await it.aclose()
        with pytest.raises(httpx.TransportError):
            await asking
        await wire.idle()


# --- TLS -------------------------------------------------------------------------------------------------------------


def trusting(authority: Authority) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(authority.ca))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_tls_is_spoken_on_one_connection(host: str, authority: Authority) -> None:
    async with (
        Wire({"/": [answer(b"body")]}, tls=authority.server("good")) as wire,
        opened(Transport(trusting(authority), resolve=resolving("127.0.0.1"))) as it,
    ):
        for _ in range(2):
            assert (await ask(it, f"https://{host}:{wire.port}"))[1] == b"body"
    assert wire.connections == 1


@pytest.mark.parametrize("certificate", ["elsewhere", "expired", "selfsigned"])
async def test_a_certificate_that_is_not_the_servers_ends_it(certificate: str, authority: Authority) -> None:
    async with (
        Wire({"/": [answer(b"")]}, tls=authority.server(certificate)) as wire,
        opened(Transport(trusting(authority))) as it,
    ):
        with pytest.raises(httpx.ConnectError) as caught:
            await ask(it, wire.url)
    assert translate(caught.value).reason == "tls"
    assert not wire.requests


async def test_an_unknown_authority_ends_it(authority: Authority) -> None:
    async with (
        Wire({"/": [answer(b"")]}, tls=authority.server("good")) as wire,
        opened(Transport(ssl.create_default_context())) as it,
    ):
        with pytest.raises(httpx.ConnectError) as caught:
            await ask(it, wire.url)
    assert translate(caught.value).reason == "tls"


@pytest.mark.parametrize(
    "greeting", [[b"HTTP/1.1 400 Bad Request\r\n\r\n"], [CLOSE], [RESET]], ids=["http", "closed", "reset"]
)
async def test_tls_on_a_plain_port_is_a_tls_error(greeting: Script, authority: Authority) -> None:
    async with (
        Wire({}, on_accept=greeting) as wire,
        opened(Transport(trusting(authority))) as it,
    ):
        with pytest.raises(httpx.ConnectError) as caught:
            await ask(it, f"https://127.0.0.1:{wire.port}")
    assert translate(caught.value).reason == "tls"


async def test_a_goodbye_of_tls_without_an_answer_is_a_reset_and_no_tls_error(authority: Authority) -> None:
    async with Wire({"/": [CLOSE]}, tls=authority.server("good")) as wire, opened(Transport(trusting(authority))) as it:
        with pytest.raises(httpx.TransportError) as caught:
            await ask(it, wire.url)
    assert translate(caught.value).reason == "reset"


async def test_a_handshake_that_is_given_up_leaves_nothing_open(authority: Authority) -> None:
    async with Wire({}, on_accept=[HANG]) as wire, opened(Transport(trusting(authority))) as it:
        request = httpx.Request("GET", f"https://127.0.0.1:{wire.port}", extensions={"timeout": {"connect": 0.05}})
        with pytest.raises(httpx.ConnectTimeout):
            await it.handle_async_request(request)
        await wire.idle()


# --- addresses -------------------------------------------------------------------------------------------------------


def resolving(*addresses: str) -> Resolve:
    async def resolve(_: str) -> Iterable[str]:
        return addresses

    return resolve


@contextlib.asynccontextmanager
async def on_ipv6() -> AsyncIterator[int]:
    """A port of ::1 that answers `six`."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer(b"six", "Connection: close"))
        writer.close()
        await writer.wait_closed()

    try:
        server = await asyncio.start_server(serve, "::1", 0)
    except OSError:
        pytest.skip("this machine has no ::1")
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_an_ipv6_address_is_reached() -> None:
    async with on_ipv6() as port, opened(Transport()) as it:
        assert (await ask(it, f"http://[::1]:{port}"))[1] == b"six"


async def test_where_one_address_refuses_the_next_one_answers() -> None:
    async with on_ipv6() as port, opened(Transport(resolve=resolving("127.0.0.1", "::1"))) as it:
        assert (await ask(it, f"http://both:{port}"))[1] == b"six"


async def test_an_address_that_stays_silent_holds_up_the_next_one_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_STAGGER", 0.02)
    tried: list[str] = []
    real = connection._open

    async def opening(address: str, *others: Any) -> connection._Connection:
        tried.append(address)
        if address == "192.0.2.1":
            await asyncio.sleep(60)
        return await real(address, *others)

    monkeypatch.setattr(connection, "_open", opening)
    async with (
        Wire({"/": [answer(b"four")]}) as wire,
        opened(Transport(resolve=resolving("192.0.2.1", "127.0.0.1"))) as it,
    ):
        assert (await ask(it, f"http://both:{wire.port}"))[1] == b"four"
    assert tried == ["192.0.2.1", "127.0.0.1"]


async def test_of_two_addresses_that_answer_at_the_same_time_one_connection_stays(
    monkeypatch: pytest.MonkeyPatch, carriers: list[asyncio.Transport]
) -> None:
    monkeypatch.setattr(connection, "_STAGGER", 0.0)
    both, real = asyncio.Barrier(2), connection._open

    async def opening(*where: Any) -> connection._Connection:
        made = await real(*where)
        await both.wait()
        return made

    monkeypatch.setattr(connection, "_open", opening)
    transport = Transport(resolve=resolving("127.0.0.1", "127.0.0.2"))
    server = await asyncio.start_server(_say_twice, "0.0.0.0", 0)
    async with server, opened(transport) as it:
        assert (await ask(it, f"http://both:{server.sockets[0].getsockname()[1]}"))[1] == b"one"
        assert [carrier.is_closing() for carrier in carriers].count(False) == 1
        assert len(carriers) == 2


async def _say_twice(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer(b"one"))
        await reader.read()
    writer.close()


async def test_where_no_address_answers_the_reason_is_theirs() -> None:
    async with opened(Transport(resolve=resolving("127.0.0.1", "127.0.0.2"))) as it:
        with pytest.raises(httpx.ConnectError) as caught:
            await ask(it, f"http://both:{free_port()}")
    assert translate(caught.value).reason == "refused"


async def test_a_name_without_an_address_is_a_matter_of_dns() -> None:
    async def nothing(_: str) -> Iterable[str]:
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    async with opened(Transport(resolve=nothing)) as it:
        with pytest.raises(httpx.ConnectError) as caught:
            await ask(it, "http://nowhere.invalid")
    assert translate(caught.value).reason == "dns"


@pytest.mark.parametrize("host", ["name", "127.0.0.1"])
async def test_an_address_that_is_not_allowed_is_never_connected_to(host: str) -> None:
    asked: list[str] = []

    def allows(address: str) -> bool:
        asked.append(address)
        return False

    async with (
        Wire({"/": [answer(b"")]}) as wire,
        opened(Transport(allows=allows, resolve=resolving("127.0.0.1"))) as it,
    ):
        with pytest.raises(ForbiddenAddress) as caught:
            await ask(it, f"http://{host}:{wire.port}")
    assert asked == ["127.0.0.1"]
    assert wire.connections == 0
    assert translate(caught.value).reason == "unreachable"


async def test_one_forbidden_address_among_several_forbids_the_name() -> None:
    async with Wire({"/": [answer(b"")]}) as wire:
        resolve = resolving("127.0.0.1", "169.254.169.254")
        async with opened(Transport(allows=lambda it: it == "127.0.0.1", resolve=resolve)) as it:
            with pytest.raises(ForbiddenAddress):
                await ask(it, f"http://name:{wire.port}")
    assert wire.connections == 0


async def test_the_connection_goes_where_was_judged_though_dns_changes_its_mind() -> None:
    answers = iter([["127.0.0.1"], ["127.0.0.2"]])

    async def flipping(_: str) -> Iterable[str]:
        return next(answers)

    async with Wire({"/": [answer(b"")]}) as wire:
        allowed = {"127.0.0.1"}
        async with opened(Transport(keep=False, allows=allowed.__contains__, resolve=flipping)) as it:
            await ask(it, f"http://name:{wire.port}")
            with pytest.raises(ForbiddenAddress):
                await ask(it, f"http://name:{wire.port}")
    assert wire.connections == 1
