"""HTTP/1.1 on connections of our own, under httpx's names: of what polling a fleet costs, most is the client.

`Transport` is what `ollama.Client` asks through wherever no proxy stands between. httptools reads the answers, asyncio
carries the bytes. It raises what httpx's own transport raises; benchmarks/polling.py has the two side by side.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

import httptools
import httpx

Resolve = Callable[[str], Awaitable[Iterable[str]]]
"""A host name -> its addresses. Raises OSError (socket.gaierror) or UnicodeError where it has none."""

_IDLE_SECONDS = 60.0
_BARE_MAX = 64 * 1024
"""Bytes in a row at most that are no body: a head, the frames of chunks, a trailer."""
_AHEAD_MAX = 256 * 1024
"""Bytes of a body that wait for their reader; the kernel holds back the rest."""
_STAGGER = 0.25
"""Seconds until the next address of a name is tried beside the last one (RFC 8305)."""


class ForbiddenAddress(httpx.ConnectError):
    """The name leads to an address that must not be connected to. Nothing was sent there."""


class Transport(httpx.AsyncBaseTransport):
    """The connections to one server. Unless not `keep`, one is left open for the next request, if that comes within a
    minute; more than one is open only while more than one request is under way.

    How long an answer may take is up to the caller (cancelling closes the connection); of the request's own limits only
    that of connecting is kept. `tls` is for https. `allows` judges every address of the server's name before one of
    them is connected to, and what was judged is what is connected to: another answer of DNS a moment later changes
    nothing. The extension `address` of an answer says where it came from.
    """

    def __init__(
        self,
        tls: ssl.SSLContext | None = None,
        keep: bool = True,
        allows: Callable[[str], bool] = lambda _: True,
        resolve: Resolve | None = None,
    ) -> None:
        self._tls, self._keep = tls, keep
        self._allows, self._resolve = allows, resolve or _resolve
        self._idle: _Connection | None = None
        self._idle_until = 0.0
        self._open: set[_Connection] = set()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        head = request.extensions.get("head")
        if head is None:  # a request that is sent again and again is written once
            head = request.extensions["head"] = _head(request)
        content = await request.aread()
        connection = self._take() or await self._connect(request)
        try:
            await connection.ask(head + content, bodiless=request.method == "HEAD")
        except BaseException:
            self._drop(connection)
            raise
        body = _Body(connection, self._give_back)
        about = {"address": connection.address}
        return httpx.Response(connection.status, headers=connection.headers, stream=body, extensions=about)

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
                addresses = await self._addresses(host)
                connection = await _reach(addresses, port, tls, name if tls else None)
        except TimeoutError as error:
            raise httpx.ConnectTimeout("no connection in time") from error
        except (OSError, UnicodeError, ExceptionGroup) as error:
            raise httpx.ConnectError("no connection") from error
        self._open.add(connection)
        connection.on_lost = self._drop
        return connection

    async def _addresses(self, host: str) -> list[str]:
        addresses = [host] if _is_address(host) else list(dict.fromkeys(await self._resolve(host)))
        if not all(map(self._allows, addresses)):
            raise ForbiddenAddress("an address that must not be connected to")
        return addresses


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
        self.status, self.address = 0, ""
        self.headers: list[tuple[bytes, bytes]] = []
        self.on_lost: Callable[[_Connection], None] | None = None
        self._carrier: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._error: httpx.TransportError | None = None
        self._chunks: list[bytes] = []
        self._ahead = self._bare = 0
        self._bodiless = self._has_head = self._complete = self._keep = False
        self._heard = self._cut_off = False

    @property
    def reusable(self) -> bool:
        """Whether the last answer is whole, nothing came after it, and the server did not want to close."""
        return self._keep and self._complete and not self._chunks and self._carrier is not None

    def close(self) -> None:
        """For good. What was raised keeps us by its traceback: if we kept it, the two would stay until Python's garbage
        collector looks, with all that was read."""
        self._abort()
        self._error = None

    async def ask(self, request: bytes, bodiless: bool = False) -> None:
        """Send, and wait for the answer's head. `bodiless`: whatever it says of a body, there is none."""
        if self._error is not None:
            raise self._error
        if self._carrier is None:
            raise httpx.RemoteProtocolError("the server closed the connection before it was asked")
        self._parser = httptools.HttpResponseParser(self)
        self._chunks, self._ahead, self._bare = [], 0, 0
        self._bodiless, self._has_head, self._complete, self._keep = bodiless, False, False, False
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
        if self._carrier is None:
            raise httpx.ReadError("the connection was closed")
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _tell(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _abort(self) -> None:
        """At once: a close_notify that nobody answers would keep the socket for half a minute."""
        self._parser = None
        if self._carrier is not None:
            self._carrier.abort()

    def _fail(self, error: httpx.TransportError, cause: BaseException | None) -> None:
        error.__cause__ = cause
        self._error = error
        self._tell()

    # --- what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._carrier = transport  # type: ignore[assignment]  # a stream's, as create_connection promises
        host, port, *_ = transport.get_extra_info("peername", ("", 0))
        self.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def data_received(self, data: bytes) -> None:
        self._heard = True
        if self._parser is None or self._complete:
            self._keep = False
            if not self._complete and self._error is None:
                self._fail(httpx.RemoteProtocolError("it spoke before it was asked"), None)
            self._abort()
            return
        self._bare += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._keep = False
            if not self._complete:
                self._fail(httpx.RemoteProtocolError("not HTTP"), error)
                self._abort()
                return
        if self._bare > _BARE_MAX and not self._complete:
            self._fail(httpx.RemoteProtocolError("a head or a trailer without an end"), None)
            self._abort()
        elif self._ahead > _AHEAD_MAX and self._carrier is not None:
            self._carrier.pause_reading()
        self._tell()

    def eof_received(self) -> None:
        tls = self._carrier.get_extra_info("ssl_object") if self._carrier is not None else None
        self._cut_off = tls is not None and not _said_goodbye(tls)

    def connection_lost(self, exc: Exception | None) -> None:
        parser, self._parser, self._carrier = self._parser, None, None
        if parser is not None and not self._complete:
            if exc is not None:
                self._fail(httpx.ReadError("the connection broke"), exc)
            elif self._cut_off and not self._heard:
                # TLS 1.3 judges our certificate when the handshake is over for our side.
                self._fail(httpx.ReadError("TLS was cut off at its beginning"), ssl.SSLEOFError())
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
        if not self._has_head:  # what a trailer says is none of the head's
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        if not self._has_head and self._parser is not None:
            self.status = self._parser.get_status_code()
            self._has_head = self.status >= 200
            if self._has_head and self._bodiless:
                self.on_message_complete()

    def on_body(self, body: bytes) -> None:
        if self._complete:
            self._keep = False
            return
        self._chunks.append(body)
        self._ahead += len(body)
        self._bare = 0

    def on_message_complete(self) -> None:
        if self._has_head and not self._complete and self._parser is not None:
            self._complete = True
            self._keep = self._parser.should_keep_alive()


def _said_goodbye(tls: ssl.SSLObject) -> bool:
    """Whether TLS was ended in order by a close_notify. At the end of the bytes there is nothing left to read."""
    try:
        return not tls.read(1)
    except ssl.SSLError:
        return False


def _head(request: httpx.Request) -> bytes:
    lines = [b"%s %s HTTP/1.1" % (request.method.encode("ascii"), request.url.raw_path)]
    lines += [b"%s: %s" % pair for pair in request.headers.raw]
    head = b"\r\n".join(lines)
    if head.count(b"\n") != len(lines) - 1 or head.count(b"\r") != len(lines) - 1:
        raise httpx.LocalProtocolError("a line break within a header")
    return head + b"\r\n\r\n"


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


async def _resolve(host: str) -> Iterable[str]:
    found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return [str(place[0]) for *_, place in found]


async def _reach(addresses: list[str], port: int, tls: ssl.SSLContext | None, name: str | None) -> _Connection:
    """To the first address that answers. Raises OSError, UnicodeError, or all addresses' errors in a group."""
    loop = asyncio.get_running_loop()

    def to(address: str) -> asyncio.Task[_Connection]:
        return loop.create_task(_open(address, port, tls, name), name=f"connect to {address}")

    if len(addresses) == 1:
        return await _open(addresses[0], port, tls, name)
    return await _first(addresses, to)


async def _open(address: str, port: int, tls: ssl.SSLContext | None, name: str | None) -> _Connection:
    loop = asyncio.get_running_loop()
    try:
        _, connection = await loop.create_connection(_Connection, address, port, ssl=tls, server_hostname=name)
    except (ConnectionResetError, ConnectionAbortedError, BrokenPipeError) as error:
        if tls is None:
            raise
        raise ssl.SSLError("the handshake was cut off") from error  # nobody resets what is not connected yet
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
