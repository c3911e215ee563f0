"""httpx without sockets: requests go straight into the simulated servers, and answers stream out of them.

Time-outs, refused connections, dropped answers and clients that leave behave as they do over TCP.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Mapping
from typing import Any, TypeVar

import httpx

from exporter.simulator.machine import SimServer

T = TypeVar("T")

# About what a socket buffers before the sender has to wait for the reader.
_BUFFERED_CHUNKS = 64


class SimTransport(httpx.AsyncBaseTransport):
    """Servers by host, or by `host:port` where one host has several."""

    def __init__(self, servers: Mapping[str, SimServer]) -> None:
        self._servers = dict(servers)
        self._exchanges: set[_Exchange] = set()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        server = self._server_of(request)
        if server.is_dead:
            raise httpx.ConnectError("All connection attempts failed", request=request)
        exchange = _Exchange(server, request, await request.aread())
        self._exchanges.add(exchange)
        exchange.task.add_done_callback(lambda _: self._exchanges.discard(exchange))
        return await exchange.response()

    def _server_of(self, request: httpx.Request) -> SimServer:
        host, port = request.url.host, request.url.port
        server = self._servers.get(f"{host}:{port}") or self._servers.get(host)
        if server is None:
            raise httpx.ConnectError("[Errno -2] Name or service not known", request=request)
        return server

    async def aclose(self) -> None:
        exchanges = tuple(self._exchanges)
        for exchange in exchanges:
            exchange.leave()
        await asyncio.gather(*(exchange.task for exchange in exchanges), return_exceptions=True)


class _Exchange:
    """One request in flight: the ASGI application runs in its own task, messages come through a bounded queue."""

    def __init__(self, server: SimServer, request: httpx.Request, body: bytes) -> None:
        self._request = request
        self._body: bytes | None = body
        timeout: dict[str, float | None] = request.extensions.get("timeout", {})
        self._read_timeout = timeout.get("read")
        self._complete = False
        self._left = asyncio.Event()
        self._messages: asyncio.Queue[Any] = asyncio.Queue(_BUFFERED_CHUNKS)
        self._server = server
        self._forget = server.faults.on_change(self._on_fault)
        self.task = asyncio.create_task(self._run(), name=f"{request.method} {request.url}")

    async def response(self) -> httpx.Response:
        try:
            start = await self._next()
        except BaseException:
            self.leave()
            raise
        return httpx.Response(
            start["status"], headers=start["headers"], stream=_Stream(self), extensions={"http_version": b"HTTP/1.1"}
        )

    async def chunks(self) -> AsyncIterator[bytes]:
        more = True
        while more:
            message = await self._next()
            more = message.get("more_body", False)
            if message.get("body"):
                yield message["body"]

    def leave(self) -> None:
        """The client closes its end: the application sees `http.disconnect`, and may still tidy up."""
        self._forget()
        self._left.set()
        while not self._messages.empty():
            self._messages.get_nowait()

    async def _next(self) -> Any:
        try:
            async with asyncio.timeout(self._read_timeout):
                message = await self._messages.get()
        except TimeoutError:
            raise httpx.ReadTimeout("", request=self._request) from None
        if isinstance(message, httpx.TransportError):
            message.request = self._request
        if isinstance(message, Exception):
            raise message
        return message

    async def _run(self) -> None:
        end: Exception = httpx.RemoteProtocolError("peer closed connection without sending complete message body")
        try:
            await self._server.app(self._scope(), self._receive, self._send)
        except Exception as error:  # noqa: BLE001 - a bug of the simulator belongs into the test that met it
            end = error
        finally:
            self._forget()
        if not self._complete:
            await self._put(end)

    async def _receive(self) -> dict[str, object]:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, object]) -> None:
        self._complete = message["type"] == "http.response.body" and not message.get("more_body", False)
        await self._put(message)

    async def _put(self, message: dict[str, object] | Exception) -> None:
        if self._left.is_set():
            return
        put = self._messages.put(message)
        await (_unless(self._left, put) if self._messages.full() else put)

    def _on_fault(self) -> None:
        if self._server.is_dead:
            self._left.set()
            while not self._messages.empty():
                self._messages.get_nowait()
            self._messages.put_nowait(httpx.ReadError("[Errno 104] Connection reset by peer"))

    def _scope(self) -> dict[str, Any]:
        url = self._request.url
        return {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": self._request.method,
            "scheme": url.scheme,
            "path": url.path,
            "raw_path": url.raw_path.split(b"?")[0],
            "query_string": url.query,
            "headers": [(key.lower(), value) for key, value in self._request.headers.raw],
            "client": ("127.0.0.1", 50_000),
            "server": (url.host, url.port),
        }


async def _unless(event: asyncio.Event, work: Awaitable[T]) -> None:
    """Wait for the work, but no longer than until the event."""
    tasks = (asyncio.ensure_future(work), asyncio.ensure_future(event.wait()))
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Stream(httpx.AsyncByteStream):
    def __init__(self, exchange: _Exchange) -> None:
        self._exchange = exchange

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._exchange.chunks():
            yield chunk

    async def aclose(self) -> None:
        self._exchange.leave()
