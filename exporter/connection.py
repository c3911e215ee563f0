"""HTTP/1.1 on connections of our own, under httpx's names: of what polling a fleet costs, most is the client.

`Transport` is what `ollama.Client` asks through wherever no proxy stands between. httptools reads the answers, asyncio
carries the bytes. It raises what httpx's own transport raises; benchmarks/polling.py has the two side by side.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable

import httptools
import httpx

_IDLE_SECONDS = 60.0
_HEAD_MAX = 64 * 1024
"""Bytes before the body at most."""
_AHEAD_MAX = 256 * 1024
"""Bytes of a body that wait for their reader; the kernel holds back the rest."""
_STAGGER = 0.25
"""Seconds until the next address of a name is tried beside the last one (RFC 8305)."""


class Transport(httpx.AsyncBaseTransport):
    """The connections to one server. One is kept open between requests, a minute at most, unless not `keep`; more than
    one is open only while more than one request is under way.

    How long an answer may take is up to the caller (cancelling closes the connection); of the request's own limits only
    that of connecting is kept. `tls` is for https.
    """

    def __init__(self, tls: ssl.SSLContext | None = None, keep: bool = True) -> None:
        self._tls, self._keep = tls, keep
        self._idle: _Connection | None = None
        self._idle_until = 0.0
        self._open: set[_Connection] = set()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        head = _head(request)
        content = await request.aread()
        connection = self._take() or await self._connect(request)
        try:
            await connection.ask(head + content)
        except BaseException:
            self._drop(connection)
            raise
        return httpx.Response(connection.status, headers=connection.headers, stream=_Body(connection, self._give_back))

    async def aclose(self) -> None:
        for connection in tuple(self._open):
            self._drop(connection)
        await asyncio.sleep(0)  # the loop closes sockets in its next turn

    def _take(self) -> _Connection | None:
        connection, self._idle = self._idle, None
        if connection is None:
            return None
        if connection.reusable and asyncio.get_running_loop().time() < self._idle_until:
            return connection
        self._drop(connection)
        return None

    def _give_back(self, connection: _Connection) -> None:
        if connection.reusable and self._idle is None and self._keep and connection in self._open:
            self._idle = connection
            self._idle_until = asyncio.get_running_loop().time() + _IDLE_SECONDS
        else:
            self._drop(connection)

    def _drop(self, connection: _Connection) -> None:
        self._open.discard(connection)
        if self._idle is connection:
            self._idle = None
        connection.close()

    async def _connect(self, request: httpx.Request) -> _Connection:
        host = request.url.raw_host.decode("ascii")
        tls = self._tls if request.url.scheme == "https" else None
        name = request.extensions.get("sni_hostname") or host
        port = request.url.port or (443 if request.url.scheme == "https" else 80)
        try:
            async with asyncio.timeout(request.extensions.get("timeout", {}).get("connect")):
                connection = await _reach(host, port, tls, name if tls else None)
        except TimeoutError as error:
            raise httpx.ConnectTimeout("no connection in time") from error
        except (OSError, UnicodeError, ExceptionGroup) as error:
            raise httpx.ConnectError("no connection") from error
        self._open.add(connection)
        connection.on_lost = self._drop
        return connection


class _Body(httpx.AsyncByteStream):
    def __init__(self, connection: _Connection, give_back: Callable[[_Connection], None]) -> None:
        self._connection: _Connection | None = connection
        self._give_back = give_back

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        chunk = await self._connection.read() if self._connection is not None else b""
        if not chunk:
            raise StopAsyncIteration
        return chunk

    async def aclose(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            self._give_back(connection)


class _Connection(asyncio.Protocol):
    """One request after another. An answer's `status` and `headers` hold until the next is asked for."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.on_lost: Callable[[_Connection], None] | None = None
        self._carrier: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._error: httpx.TransportError | None = None
        self._chunks: list[bytes] = []
        self._ahead = 0
        self._head_size = 0
        self._has_head = self._complete = self._keep = False

    @property
    def reusable(self) -> bool:
        """Whether the last answer is whole, nothing came after it, and the server did not want to close."""
        return self._keep and self._complete and not self._chunks and self._carrier is not None

    def close(self) -> None:
        """At once: a close_notify that nobody answers would keep the socket for half a minute."""
        self._parser = None
        if self._carrier is not None:
            self._carrier.abort()

    async def ask(self, request: bytes) -> None:
        """Send, and wait for the answer's head."""
        if self._carrier is None:
            raise httpx.RemoteProtocolError("the server closed the connection before it was asked")
        self._parser = httptools.HttpResponseParser(self)
        self._error, self._chunks, self._ahead, self._head_size = None, [], 0, 0
        self._has_head = self._complete = self._keep = False
        self._carrier.write(request)
        while not self._has_head:
            await self._news()

    async def read(self) -> bytes:
        """What came of the body since the last time; empty at its end."""
        while not self._chunks:
            if self._complete:
                return b""
            await self._news()
        chunk = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks, self._ahead = [], 0
        if self._carrier is not None:
            self._carrier.resume_reading()
        return chunk

    async def _news(self) -> None:
        if self._error is not None:
            raise self._error
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _tell(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, error: httpx.TransportError, cause: BaseException | None) -> None:
        error.__cause__ = cause
        self._error = error
        self._tell()

    # --- what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._carrier = transport  # type: ignore[assignment]  # a stream's, as create_connection promises

    def data_received(self, data: bytes) -> None:
        if self._parser is None or self._complete:
            self._keep = False  # nobody asked for it
            self.close()
            return
        if not self._has_head:
            self._head_size += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._keep = False
            if not self._complete:
                self._fail(httpx.RemoteProtocolError("not HTTP"), error)
                self.close()
                return
        if not self._has_head and self._head_size > _HEAD_MAX:
            self._fail(httpx.RemoteProtocolError("the head of the answer has no end"), None)
            self.close()
        elif self._ahead > _AHEAD_MAX and self._carrier is not None:
            self._carrier.pause_reading()
        self._tell()

    def connection_lost(self, exc: Exception | None) -> None:
        parser, self._parser, self._carrier = self._parser, None, None
        if parser is not None and not self._complete:
            if exc is not None:
                self._fail(httpx.ReadError("the connection broke"), exc)
            elif not self._has_head:
                self._fail(httpx.RemoteProtocolError("the server disconnected without an answer"), None)
            elif self._ends_with_connection():
                self._complete = True
            else:
                self._fail(httpx.RemoteProtocolError("the server closed the connection within its answer"), None)
        elif not self._complete and self._error is None:
            self._fail(httpx.ReadError("the connection was closed"), None)
        self._tell()
        if self.on_lost is not None and self._complete:
            self.on_lost(self)

    def _ends_with_connection(self) -> bool:
        return not any(name.lower() in (b"content-length", b"transfer-encoding") for name, _ in self.headers)

    # --- what httptools calls

    def on_message_begin(self) -> None:
        if self._complete:
            self._keep = False
        else:
            self.headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._complete:
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        if not self._complete and self._parser is not None:
            self.status = self._parser.get_status_code()
            self._has_head = self.status >= 200  # noqa: PLR2004 - below, another head follows

    def on_body(self, body: bytes) -> None:
        if not self._complete:
            self._chunks.append(body)
            self._ahead += len(body)

    def on_message_complete(self) -> None:
        if self._has_head and not self._complete and self._parser is not None:
            self._complete = True
            self._keep = self._parser.should_keep_alive()


def _head(request: httpx.Request) -> bytes:
    lines = [b"%s %s HTTP/1.1" % (request.method.encode("ascii"), request.url.raw_path)]
    lines += [b"%s: %s" % pair for pair in request.headers.raw]
    head = b"\r\n".join(lines)
    if head.count(b"\n") != len(lines) - 1 or head.count(b"\r") != len(lines) - 1:
        raise httpx.LocalProtocolError("a line break within a header")
    return head + b"\r\n\r\n"


async def _reach(host: str, port: int, tls: ssl.SSLContext | None, name: str | None) -> _Connection:
    """To the first address of the name that answers. Raises OSError, UnicodeError, or all addresses' errors in a
    group."""
    loop = asyncio.get_running_loop()

    def to(address: str) -> asyncio.Task[_Connection]:
        return loop.create_task(_open(address, port, tls, name), name=f"connect to {address}")

    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(place[0]) for *_, place in found))
    if len(addresses) == 1:
        return await _open(addresses[0], port, tls, name)
    return await _first(addresses, to)


async def _open(address: str, port: int, tls: ssl.SSLContext | None, name: str | None) -> _Connection:
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(_Connection, address, port, ssl=tls, server_hostname=name)
    return connection


async def _first(addresses: list[str], to: Callable[[str], asyncio.Task[_Connection]]) -> _Connection:
    waiting, trying, errors = list(addresses), set[asyncio.Task[_Connection]](), list[Exception]()
    try:
        while waiting or trying:
            if waiting:
                trying.add(to(waiting.pop(0)))
            timeout = _STAGGER if waiting else None
            done, trying = await asyncio.wait(trying, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                try:
                    connection = task.result()
                except (OSError, UnicodeError) as error:
                    errors.append(error)
                else:
                    trying |= done - {task}
                    return connection
        raise ExceptionGroup("no address can be reached", errors)
    finally:
        for task in trying:  # the slower ones, and with luck one that has arrived at the same time
            task.add_done_callback(_close)
            task.cancel()


def _close(task: asyncio.Task[_Connection]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().close()
