"""The server that carries an app: listening sockets, connections and their limits (docs/security.md)."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import logging
import socket
from collections.abc import Generator, Sequence

import h11
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from exporter.negotiation import PLAIN, respond
from exporter.webconfig import Watched

_BACKLOG = 128
_CONNECTIONS_MAX = 256
_CONNECTIONS_PER_ADDRESS = 64  # one client alone cannot take them all
_KEEP_ALIVE_SECONDS = 75  # longer than the usual scrape interval
_REQUEST_SECONDS = 10.0
_UNREAD_SECONDS = 30
_GRACE_SECONDS = 0.3

_log = logging.getLogger(__name__)


_HINTS = {
    errno.EADDRINUSE: "another program listens there already",
    errno.EACCES: "not permitted; ports below 1024 need a capability",
    errno.EADDRNOTAVAIL: "this machine has no such address",
}
_NO_IPV6 = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)


def bind(address: tuple[str, int]) -> list[socket.socket]:
    """Listening sockets for a host and a port. No host: every address of both families. An OSError says why not, in
    words for the operator; the caller knows what he was asked for."""
    host, port = address
    try:
        return _bind_named(host, port) if host else [_bind_any(port)]
    except UnicodeError as error:  # what getaddrinfo says to a name that cannot be one
        raise OSError(f"no such host name: {error}") from error
    except OSError as error:
        raise OSError(_HINTS.get(error.errno or 0, error.strerror or str(error))) from error


def _bind_any(port: int) -> socket.socket:
    try:
        return _listen(socket.AF_INET6, ("::", port))
    except OSError as error:
        if error.errno not in _NO_IPV6:
            raise
    return _listen(socket.AF_INET, ("0.0.0.0", port))


def _bind_named(host: str, port: int) -> list[socket.socket]:
    """One socket for each address of the host; `localhost` has two, of which one may not exist on this machine."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    missing: OSError | None = None
    with contextlib.ExitStack() as opened:
        listening: list[socket.socket] = []
        for family, place in dict.fromkeys((family, place) for family, _, _, _, place in found):
            same_port = listening[0].getsockname()[1] if listening else port
            try:
                listening.append(opened.enter_context(_listen(family, (place[0], same_port, *place[2:]))))
            except OSError as error:
                if error.errno not in _NO_IPV6:
                    raise
                missing = error
        if missing is not None and not listening:
            raise missing
        opened.pop_all()
        return listening


def _listen(family: int, place: tuple[str | int, ...]) -> socket.socket:
    """Listening at once: Linux lets two sockets bind the same address, and only the second to listen is told."""
    # The protocol by its number: asyncio switches Nagle's algorithm off only where it is told, and with it the head of
    # an answer waits 40 ms for its body.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(place[0] != "::"))
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # inherited by connections: who does not read his page is dropped
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNREAD_SECONDS * 1000)
        listening.bind(place)
        listening.listen(_BACKLOG)
        listening.setblocking(False)
    except BaseException:
        listening.close()
        raise
    return listening


class Server:
    """Serves an app on listening sockets, which it owns from now on, until told to stop."""

    def __init__(self, app: ASGIApp, sockets: Sequence[socket.socket], guard: Watched | None = None) -> None:
        self._sockets = list(sockets)
        self._uvicorn = _Uvicorn(
            uvicorn.Config(
                _until_cancelled(_unambiguous(app)),
                http=_Connection,
                ws="none",
                lifespan="off",
                interface="asgi3",
                workers=1,
                log_config=None,
                log_level="error",  # its warnings are about what strangers send
                access_log=False,
                proxy_headers=False,
                server_header=False,
                backlog=_BACKLOG,
                limit_concurrency=_CONNECTIONS_MAX,
                timeout_keep_alive=_KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=1,
            ),
            guard or Watched(None),
        )

    async def run(self) -> None:
        try:
            await self._uvicorn.serve(self._sockets)
        finally:
            self._uvicorn.cut()
            for listening in self._sockets:
                listening.close()

    def stop(self) -> None:
        """Take no more requests, give the current ones a moment, then hang up. `run` returns in half a second."""
        self._uvicorn.should_exit = True
        self._uvicorn.stopping.set()


class _Uvicorn(uvicorn.Server):
    """uvicorn that leaves signals alone, stops without being polled, and does not wait for slow clients."""

    def __init__(self, config: uvicorn.Config, guard: Watched) -> None:
        super().__init__(config)
        self.stopping = asyncio.Event()
        self.servers = []
        self._guard = guard

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """With a deadline for TLS handshakes, and a context that changes with its files."""
        loop = asyncio.get_running_loop()
        tls = self._guard.context()
        handshake, goodbye = (
            (_REQUEST_SECONDS, _GRACE_SECONDS) if tls else (None, None)
        )  # asyncio wants none without TLS
        for each in sockets or ():
            server = await loop.create_server(
                self._connection,
                sock=each,
                ssl=tls,
                backlog=_BACKLOG,
                ssl_handshake_timeout=handshake,
                ssl_shutdown_timeout=goodbye,
            )
            self.servers.append(server)
        self.started = True

    def _connection(self) -> _Connection:
        connection = _Connection(self.config, self.server_state, {})
        connection.guard = self._guard
        return connection

    async def main_loop(self) -> None:
        while not await self.on_tick(0):  # sets the Date header
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.stopping.wait(), 1.0)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        patience = asyncio.get_running_loop().call_later(_GRACE_SECONDS, self.cut)
        try:
            await super().shutdown(sockets)
        finally:
            patience.cancel()

    def cut(self) -> None:
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        for task in list(self.server_state.tasks):
            task.cancel()


class _Connection(H11Protocol):
    """uvicorn's, which waits for ever for a request that never comes or never ends: here it has some seconds."""

    guard: Watched
    _overdue: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if not self._is_welcome():
            transport.abort()
        self._await_request()

    def _is_welcome(self) -> bool:
        """Whether the certificate bears a right name, and its address has not too many connections already."""
        ours = _neighbourhood(self.client)
        beside = sum(_neighbourhood(getattr(each, "client", None)) == ours for each in self.connections)
        certificate = self.transport.get_extra_info("peercert")
        return beside <= _CONNECTIONS_PER_ADDRESS and self.guard.current().admits(certificate)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._await_request()

    def send_400_response(self, msg: str) -> None:
        """Also amid a body, whose answer may be there already: a stranger's nonsense is no error of ours."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:
            self.transport.abort()
        if self.cycle is not None:
            self.cycle.disconnected = True

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._forget_request()

    def _await_request(self) -> None:
        waiting = getattr(self.cycle, "response_complete", True)  # there is no cycle before the first request
        if not waiting or self.transport.is_closing():
            self._forget_request()
        elif self._overdue is None:
            self._overdue = self.loop.call_later(_REQUEST_SECONDS, self.transport.abort)

    def _forget_request(self) -> None:
        if self._overdue is not None:
            self._overdue.cancel()
            self._overdue = None


def _neighbourhood(client: tuple[str, int] | None) -> str:
    """Who counts as one client: an IPv4 address, or what one IPv6 customer is given at least."""
    host = client[0] if client else ""
    if ":" not in host or host.startswith("::ffff:"):
        return host
    return str(ipaddress.ip_network((host.partition("%")[0], 64), strict=False))


def _unambiguous(app: ASGIApp) -> ASGIApp:
    """A request with two lengths is refused, and with it whatever follows on its connection: a proxy in front of us may
    have read the other one (RFC 9112, 6.3)."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        names = {name for name, _ in scope["headers"]}
        if {b"content-length", b"transfer-encoding"} <= names:
            refusal = respond(b"a body has one length\n", PLAIN, {"Connection": "close"}, 400)
            await refusal(scope, receive, send)
        else:
            await app(scope, receive, send)

    return answer


def _until_cancelled(app: ASGIApp) -> ASGIApp:
    """Requests are cancelled only by `cut`, when nobody listens any more: nothing that uvicorn should report."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await app(scope, receive, send)

    return answer
