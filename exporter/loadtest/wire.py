"""HTTP to one server, as cheap as Python can have it: what a generator spends on a chunk it adds to what it measures.

One asyncio protocol and a parser in C for each connection; connections are kept and used again, as agents keep theirs.
Nothing is ever sent twice. Every read is stamped once, when the event loop hands it over.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

import httptools

from exporter import __version__
from exporter.model import Endpoint
from exporter.ollama import request_headers, tls_context

AGENT = f"ollama-exporter-load/{__version__}"
"""Not the exporter's own: what is asked here is traffic to it, like anybody's."""
REST_SECONDS = 0.05
"""Not used again before: some servers (llama-server after each stream) close without a word as soon as they have
answered, and what is sent meanwhile would be told as failed."""
_IDLE_SECONDS = 20.0
"""A connection that rested longer is not used again: a proxy may be about to close it, and no request is sent twice."""
_WINDOW = 4096
"""Bytes that our kernel takes in for somebody who reads slowly (Linux makes twice as many of it): the rest stays with
the server."""
_BEGINNING = 1024
"""Bytes that also who reads slowly takes as they come: headers and first token, whose time is the server's."""
_SIP_SECONDS, _SIP_MOST = 0.1, 65_536
_KEEP_ALIVE = re.compile(rb"timeout=(\d{1,6})")


class NoConnection(Exception):
    """No answer began: refused, reset, closed, no route."""


class Broken(Exception):
    """An answer began and its connection ended before it did."""


class NotHttp(Exception):
    """What came is no HTTP."""


class OutOfFiles(Exception):
    """This process may open no more connections: nobody's fault but ours."""


@dataclass(slots=True)
class Exchange:
    """One request on the wire. `read` takes the bytes of an answer under 200, with the moment they came; `read_rate`:
    no more bytes a second are read than these."""

    path: str
    body: bytes
    read: Callable[[bytes, float], None]
    read_rate: float | None = None
    status: int | None = None
    sent_at: float | None = None
    answered_at: float | None = None
    ended_at: float | None = None


class Wire(Protocol):
    """What the run needs of a server."""

    async def exchange(self, exchange: Exchange) -> None:
        """To the end of the answer. Raises NoConnection, Broken, NotHttp or OutOfFiles."""

    async def aclose(self) -> None:
        """Let go of all connections."""


class HttpWire:
    """`address`: the one that the URL's host was found to have, so that no name is looked up while the run lasts."""

    def __init__(self, endpoint: Endpoint, address: str | None = None, connect_timeout: float = 5.0) -> None:
        parts = urlsplit(endpoint.url)
        self._host, self._tls = parts.hostname or "", parts.scheme == "https"
        self._port = parts.port or (443 if self._tls else 80)
        self._address, self._connect_timeout = address or self._host, connect_timeout
        self._base = parts.path.rstrip("/")
        headers = {name.lower(): (name, value) for name, value in request_headers(endpoint)}
        headers.setdefault("host", ("Host", parts.netloc.rpartition("@")[2]))
        headers["user-agent"] = ("User-Agent", AGENT)
        headers["content-type"] = ("Content-Type", "application/json")
        self._head = "".join(f"{name}: {value}\r\n" for name, value in headers.values())
        self._context: ssl.SSLContext | None = (
            tls_context(endpoint.ca, endpoint.certificate, endpoint.key, endpoint.insecure) if self._tls else None
        )
        self._idle: deque[_Connection] = deque()  # in the order in which they came to rest
        self._open: set[_Connection] = set()

    async def exchange(self, exchange: Exchange) -> None:
        slow = exchange.read_rate is not None
        connection = (None if slow else self._rested()) or await self._connected(exchange.read_rate)
        try:
            await connection.ask(self._request(exchange), exchange)
        finally:
            if connection.reusable and not slow:
                self._idle.append(connection)
            else:
                connection.abort()

    async def aclose(self) -> None:
        for connection in tuple(self._open):
            connection.abort()
        self._idle.clear()

    def _request(self, exchange: Exchange) -> bytes:
        length = f"Content-Length: {len(exchange.body)}\r\n"
        return f"POST {self._base}{exchange.path} HTTP/1.1\r\n{self._head}{length}\r\n".encode() + exchange.body

    def _rested(self) -> _Connection | None:
        now = asyncio.get_running_loop().time()
        while self._idle and now - self._idle[0].rests_since >= REST_SECONDS:
            connection = self._idle.popleft()
            if connection.reusable and now - connection.rests_since < connection.rests_at_most:
                return connection
            connection.abort()
        return None

    async def _connected(self, read_rate: float | None) -> _Connection:
        try:
            async with asyncio.timeout(self._connect_timeout):
                connection = await self._connect(read_rate)
        except TimeoutError:
            raise NoConnection("no connection in time") from None
        except OSError as error:
            if error.errno in (23, 24):  # ENFILE, EMFILE
                raise OutOfFiles from None
            raise NoConnection(type(error).__name__) from None
        self._open.add(connection)
        return connection

    async def _connect(self, read_rate: float | None) -> _Connection:
        loop = asyncio.get_running_loop()
        name = self._host if self._tls else None
        if read_rate is None:
            _, connection = await loop.create_connection(
                lambda: _Connection(loop, self._open.discard),
                self._address, self._port, ssl=self._context, server_hostname=name,
            )  # fmt: skip
            return connection
        made = socket.socket(socket.AF_INET6 if ":" in self._address else socket.AF_INET, socket.SOCK_STREAM)
        try:
            made.setblocking(False)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _WINDOW)  # it counts only before the connection
            await loop.sock_connect(made, (self._address, self._port))
            _, slow = await loop.create_connection(
                lambda: _SlowConnection(loop, self._open.discard, read_rate),
                sock=made, ssl=self._context, server_hostname=name,
            )  # fmt: skip
        except BaseException:
            made.close()
            raise
        return slow


class _Connection(asyncio.Protocol):
    def __init__(self, loop: asyncio.AbstractEventLoop, forget: Callable[[_Connection], None]) -> None:
        self._loop, self._forget = loop, forget
        self._transport: asyncio.Transport | None = None
        self._exchange: Exchange | None = None
        self._over: asyncio.Future[None] | None = None
        self._now = 0.0
        self._until_closed = False
        self.reusable = False
        self.rests_since = 0.0
        self.rests_at_most = _IDLE_SECONDS

    async def ask(self, request: bytes, exchange: Exchange) -> None:
        self.reusable = False
        if self._transport is None or self._transport.is_closing():
            raise NoConnection("closed meanwhile")
        self._exchange, self._over = exchange, self._loop.create_future()
        self._until_closed = True
        self._parser = httptools.HttpResponseParser(self)
        exchange.sent_at = self._loop.time()
        self._transport.write(request)
        await self._over

    def abort(self) -> None:
        self.reusable = False
        if self._transport is not None:
            self._transport.abort()
        self._forget(self)

    # -- asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        if self._exchange is None:
            self.abort()  # nobody asked for anything
            return
        self._now = self._loop.time()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._end(NotHttp())

    def connection_lost(self, error: Exception | None) -> None:
        self.reusable = False
        self._forget(self)
        exchange = self._exchange
        if exchange is None:
            return
        self._now = self._loop.time()
        if exchange.status is None:
            self._end(NoConnection("closed"))
        else:  # an answer without a length ends with its connection
            self._end(None if self._until_closed and error is None else Broken())

    # -- httptools

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name in (b"content-length", b"transfer-encoding"):
            self._until_closed = False
        elif name == b"keep-alive" and (told := _KEEP_ALIVE.search(value)) is not None:
            self.rests_at_most = min(_IDLE_SECONDS, int(told[1]) - 1.0)  # it closes then: not to meet it at the door

    def on_headers_complete(self) -> None:
        if self._exchange is not None:
            self._exchange.status = self._parser.get_status_code()
            self._exchange.answered_at = self._now

    def on_body(self, body: bytes) -> None:
        exchange = self._exchange
        if exchange is not None and exchange.status == 200:
            exchange.read(body, self._now)

    def on_message_complete(self) -> None:
        self.reusable = self._parser.should_keep_alive()
        self.rests_since = self._now
        self._end(None)

    def _end(self, error: Exception | None) -> None:
        exchange, over = self._exchange, self._over
        self._exchange = None
        if exchange is not None:
            exchange.ended_at = self._now
        if over is not None and not over.done():
            if error is None:
                over.set_result(None)
            else:
                over.set_exception(error)


class _SlowConnection(_Connection, asyncio.BufferedProtocol):
    """Somebody who reads slowly, for one answer: its beginning as it comes, then `rate` bytes a second."""

    def __init__(self, loop: asyncio.AbstractEventLoop, forget: Callable[[_Connection], None], rate: float) -> None:
        super().__init__(loop, forget)
        self._rate, self._sip = rate, min(_SIP_MOST, max(1, round(rate * _SIP_SECONDS)))
        self._buffer = bytearray(max(_BEGINNING, self._sip))
        self._left = _BEGINNING
        self._rest: asyncio.TimerHandle | None = None

    def get_buffer(self, sizehint: int) -> memoryview:
        return memoryview(self._buffer)[: self._left or self._sip]

    def buffer_updated(self, nbytes: int) -> None:
        if self._left:
            self._left -= nbytes
        elif self._transport is not None:
            self._transport.pause_reading()
            self._rest = self._loop.call_later(nbytes / self._rate, self._transport.resume_reading)
        self.data_received(bytes(self._buffer[:nbytes]))

    def connection_lost(self, error: Exception | None) -> None:
        if self._rest is not None:
            self._rest.cancel()
        super().connection_lost(error)
