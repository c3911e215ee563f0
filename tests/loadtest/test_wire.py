"""The streaming client on real sockets: answers of every framing, and servers that do not behave."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from exporter.loadtest.wire import REST_SECONDS, Broken, Exchange, HttpWire, NoConnection, NotHttp
from exporter.model import Endpoint, Secret

Serve = Callable[[bytes, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def talk(
    serve: Serve, *, times: int = 1, pause: float = 0.0, endpoint: Callable[[str], Endpoint] = Endpoint
) -> tuple[list[Any], int]:
    """What became of each of so many exchanges one after the other (its bytes, or an exception), and how many
    connections they took. `pause`: seconds before each."""
    connections = 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                await reader.readexactly(length)
                await serve(head, reader, writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def main() -> list[Any]:
        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        wire = HttpWire(endpoint(url))
        outcomes: list[Any] = []
        for _ in range(times):
            pieces: list[bytes] = []
            exchange = Exchange("/api/generate", b'{"a":1}', lambda data, now, pieces=pieces: pieces.append(data))  # type: ignore[misc]
            await asyncio.sleep(pause)
            try:
                async with asyncio.timeout(5):
                    await wire.exchange(exchange)
            except Exception as error:  # noqa: BLE001 - it is looked at
                outcomes.append(type(error))
            else:
                outcomes.append((exchange.status, b"".join(pieces)))
        await wire.aclose()
        server.close()
        await server.wait_closed()
        await asyncio.sleep(0.02)  # transports close themselves in the next round
        return outcomes

    return asyncio.run(main()), connections


def raw(answer: bytes, *, close: bool = False, abort: bool = False) -> Serve:
    async def serve(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()
        if close:
            writer.close()
        if abort:
            writer.transport.abort()

    return serve


OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
LENGTH = OK + b"Content-Length: 5\r\n\r\nabcde"


@pytest.mark.parametrize("answer", [CHUNKED, LENGTH], ids=["chunked", "length"])
def test_connections_are_kept_and_used_again(answer: bytes) -> None:
    assert talk(raw(answer), times=3, pause=1.1 * REST_SECONDS) == ([(200, b"abcde")] * 3, 1)


def test_a_server_that_closes_after_an_answer_without_a_word_fails_no_request() -> None:
    """As llama-server does after each stream: the next request must not meet the end of the last connection."""

    async def serve(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(CHUNKED)
        asyncio.get_running_loop().call_later(REST_SECONDS / 5, writer.close)

    assert talk(serve, times=3) == ([(200, b"abcde")] * 3, 3)


def test_a_connection_is_not_used_until_the_server_ends_it() -> None:
    """Whoever keeps it for a second would close it while the next request is on its way."""
    answer = LENGTH.replace(b"\r\n\r\n", b"\r\nKeep-Alive: timeout=1, max=100\r\n\r\n")
    assert talk(raw(answer), times=2, pause=1.1 * REST_SECONDS) == ([(200, b"abcde")] * 2, 2)
    kept = answer.replace(b"timeout=1,", b"timeout=5,")
    assert talk(raw(kept), times=2, pause=1.1 * REST_SECONDS) == ([(200, b"abcde")] * 2, 1)


def test_an_answer_without_a_length_ends_with_its_connection() -> None:
    assert talk(raw(b"HTTP/1.0 200 OK\r\n\r\nabcde", close=True), times=2) == ([(200, b"abcde")] * 2, 2)


def test_a_server_that_wants_to_close_is_let_go() -> None:
    answer = LENGTH.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    assert talk(raw(answer, close=True), times=2) == ([(200, b"abcde")] * 2, 2)


def test_the_body_of_an_error_is_not_read_as_an_answer() -> None:
    assert talk(raw(LENGTH.replace(b"200 OK", b"503 No"))) == ([(503, b"")], 1)


@pytest.mark.parametrize(
    ("serve", "outcome"),
    [
        (raw(CHUNKED[:-9], close=True), Broken),
        (raw(LENGTH[:-2], close=True), Broken),
        (raw(CHUNKED[:-9], abort=True), Broken),
        (raw(b"", close=True), NoConnection),
        (raw(b"HTTP/1.1 20", close=True), NoConnection),
        (raw(b"SSH-2.0-OpenSSH\r\n"), NotHttp),
        (raw(b"", abort=True), NoConnection),
    ],
    ids=["chunks cut", "length cut", "reset", "nothing", "half a line", "no HTTP", "reset at once"],
)
def test_what_goes_wrong_has_its_name_and_is_not_tried_again(serve: Serve, outcome: type[Exception]) -> None:
    assert talk(serve) == ([outcome], 1)


def test_nobody_listens() -> None:
    async def main() -> None:
        server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        server.close()
        await server.wait_closed()
        with pytest.raises(NoConnection):
            await HttpWire(Endpoint(f"http://127.0.0.1:{port}")).exchange(Exchange("/", b"", lambda data, now: None))

    asyncio.run(main())


def test_a_request_given_up_takes_its_connection_along() -> None:
    seen: list[bytes] = []

    async def slow(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        await writer.drain()
        seen.append(await reader.read())  # ends when the client leaves
        writer.close()

    async def main() -> None:
        server = await asyncio.start_server(lambda r, w: slow(b"", r, w), "127.0.0.1", 0)
        wire = HttpWire(Endpoint(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await wire.exchange(Exchange("/", b"{}", lambda data, now: None))
        await asyncio.sleep(0.05)
        server.close()

    asyncio.run(main())
    assert len(seen) == 1


def test_headers_are_those_of_the_server_and_name_the_load_tester() -> None:
    heads: list[bytes] = []

    async def serve(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(head)
        writer.write(LENGTH)

    def endpoint(url: str) -> Endpoint:
        return Endpoint(
            f"{url}/ollama", host="localhost", bearer=Secret("hidden"), headers=(("X-Team", Secret("red")),)
        )

    talk(serve, endpoint=endpoint)
    assert heads[0].startswith(b"POST /ollama/api/generate HTTP/1.1\r\nHost: localhost\r\n")
    for line in (
        b"Authorization: Bearer hidden",
        b"X-Team: red",
        b"User-Agent: ollama-exporter-load/",
        b"Content-Length: 7",
    ):
        assert line in heads[0]


def test_who_reads_slowly_makes_the_server_wait() -> None:
    """40 KB at 40 KB/s, of which both kernels can hold no more than a part: the server cannot be done before."""
    piece, pieces, rate = b"x" * 2000, 20, 40_000.0
    wrote_for: list[float] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        clock = asyncio.get_running_loop().time
        began = clock()
        await reader.readuntil(b"{}")
        writer.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        writer.transport.set_write_buffer_limits(0)
        writer.write(OK + b"Content-Length: %d\r\n\r\n" % (len(piece) * pieces))
        for _ in range(pieces):
            writer.write(piece)
            await writer.drain()
        wrote_for.append(clock() - began)
        writer.close()

    async def main() -> tuple[Exchange, list[tuple[int, float]]]:
        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        wire = HttpWire(Endpoint(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"))
        read: list[tuple[int, float]] = []
        exchange = Exchange("/", b"{}", lambda data, now: read.append((len(data), now)), read_rate=rate)
        async with asyncio.timeout(20):
            await wire.exchange(exchange)
        await wire.aclose()
        server.close()
        await server.wait_closed()
        await asyncio.sleep(0.02)
        return exchange, read

    exchange, read = asyncio.run(main())
    began, ended = exchange.sent_at or 0.0, exchange.ended_at or 0.0
    assert sum(length for length, _ in read) == len(piece) * pieces
    assert ended - began >= 0.9 * (len(piece) * pieces - 1024) / rate
    assert read[0][1] - began < 0.5 < wrote_for[0]
    assert max(length for length, _ in read) <= rate / 10
