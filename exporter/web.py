"""The HTTP surface: routes, content negotiation, and the server that carries them.

Nothing here asks a target anything: every page shows the current snapshot, and /probe leaves its look to `probing`.
What a page says lives in `exposition.py` and `status`.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import logging
import re
import socket
import time
from collections.abc import Awaitable, Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar, cast

import h11
import uvicorn
from isal import igzip
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from exporter import exposition, status
from exporter.discovery import Listed, as_http_sd
from exporter.model import Snapshot
from exporter.probing import Question, Refusal, Seen
from exporter.probing.report import report
from exporter.status import page
from exporter.webconfig import Watched

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
# Worth saying only to who asks about it: our names need no escaping, so every scheme comes out as this one.
ESCAPING = "; escaping=underscores"

_PLAIN = "text/plain; charset=utf-8"
_LARGE_BYTES = 256 * 1024  # from here on, compressing takes more than the event loop should give
_FAST = 1  # as small as zlib's own level 1 in a fifth of its time

_PAGES = ThreadPoolExecutor(2, "page")
"""Pages are not made where sources look at things that may hang, or a scrape would wait for a dead disk."""

_BACKLOG = 128
_CONNECTIONS_MAX = 256
_CONNECTIONS_PER_ADDRESS = 64  # one client alone cannot take them all
_KEEP_ALIVE_SECONDS = 75  # longer than the usual scrape interval
_REQUEST_SECONDS = 10.0
_UNREAD_SECONDS = 30
_GRACE_SECONDS = 0.3

_T = TypeVar("_T")

_log = logging.getLogger(__name__)


class Operator(Protocol):
    """What the HTTP surface needs of the running exporter."""

    @property
    def version(self) -> str: ...

    def snapshot(self) -> Snapshot: ...

    def healthy(self) -> bool:
        """Are our own loops alive? Says nothing about any Ollama."""

    def ready(self) -> bool:
        """Is the first round of readings done?"""

    def config_text(self) -> str:
        """The configuration in force as YAML, secrets redacted."""

    async def reload(self) -> tuple[str, ...]:
        """Read the configuration anew. The operator's mistakes; none means that it is in force."""

    async def probe(self, question: Question) -> Seen:
        """One look at a target that somebody names. Raises Refusal."""

    def listing(self, discovery: str | None = None) -> tuple[Listed, ...] | None:
        """The servers of the fleet, or those that one discovery found; None as long as that is not known. Raises
        LookupError where there is no such discovery."""

    def rendered(self, seconds: float, size: int) -> None:
        """The last render of /metrics took this long and gave this many bytes before compression."""


# --- routes ----------------------------------------------------------------------------------------------------------


def create_app(operator: Operator, now: Callable[[], float] = time.time) -> Starlette:
    metrics = _Metrics(operator)

    async def show_status(request: Request) -> Response:
        refresh = "pause" not in request.query_params
        text = await _in_thread(partial(_status_page, operator, now(), refresh=refresh))
        return _respond(text.encode("utf-8", "replace"), "text/html; charset=utf-8", page.HEADERS)

    async def tell_health(_: Request) -> Response:
        if operator.healthy():
            return _say("healthy")
        return _say("unhealthy: one of the exporter's own loops has stopped", 503)

    async def tell_readiness(_: Request) -> Response:
        if operator.ready():
            return _say("ready")
        return _say("not ready: the first round of readings is not done", 503)

    async def show_config(_: Request) -> Response:
        return _say(operator.config_text())

    async def list_servers(request: Request) -> Response:
        try:
            servers = operator.listing(request.query_params.get("discovery"))
        except LookupError:
            return _say("there is no discovery of this name", 404)
        if servers is None:  # whoever asks keeps the list that it has
            return _say("not known yet: discovery has not had a good look since the start", 503)
        return _respond(await _in_thread(partial(as_http_sd, servers)), "application/json", {})

    async def reload(_: Request) -> Response:
        mistakes = await operator.reload()
        if mistakes:
            return _say("\n".join(" ".join(mistake.splitlines()) for mistake in mistakes), 400)
        return _say("reloaded")

    async def probe(request: Request) -> Response:
        query = request.query_params
        timeout = request.headers.get("x-prometheus-scrape-timeout-seconds", "")
        question = Question(tuple(query.getlist("target")), tuple(query.getlist("module")), timeout)
        try:
            seen = await operator.probe(question)
        except Refusal as refusal:
            return _say(str(refusal), refusal.code)
        if query.get("debug", "").lower() in ("true", "1"):
            return _say(report(seen))
        form = _form(request)
        return form.dressed(await form.packed(exposition.render(seen.snapshot, form.openmetrics)))

    pages: dict[str, _Endpoint] = {
        "/": show_status,
        "/metrics": metrics.show,
        "/health": tell_health,
        "/-/healthy": tell_health,
        "/-/ready": tell_readiness,
        "/config": show_config,
        "/probe": probe,
        "/sd": list_servers,
    }
    routes = [Route(path, _guarded(endpoint), methods=["GET"]) for path, endpoint in pages.items()]
    routes.append(Route("/-/reload", _guarded(reload), methods=["POST"]))
    app = Starlette(routes=routes, exception_handlers={HTTPException: _refuse})
    app.router.redirect_slashes = False
    return app


_Endpoint = Callable[[Request], Awaitable[Response]]


def _status_page(operator: Operator, now: float, refresh: bool) -> str:
    return page.render_page(status.survey(operator.snapshot(), now, operator.version), now, refresh=refresh)


def _guarded(endpoint: _Endpoint) -> _Endpoint:
    """A bug in an answer is logged once, and the client gets no half page and no inside of ours."""

    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except Exception:  # noqa: BLE001 - the boundary to the client, and the traceback is kept
            _log.exception("failed to answer %s", request.url.path)
            return _say("The exporter failed to answer; its log says why.", 500)

    return answer


async def _refuse(_: Request, error: Exception) -> Response:
    refusal = cast(HTTPException, error)
    headers = dict(refusal.headers or {})
    if "Allow" in headers:  # a set's order otherwise, another one in each process
        headers["Allow"] = ", ".join(sorted(headers["Allow"].split(", ")))
    return _respond(f"{refusal.detail}\n".encode(), _PLAIN, headers, refusal.status_code)


def _say(text: str, code: int = 200) -> Response:
    return _respond(f"{text.rstrip()}\n".encode("utf-8", "replace"), _PLAIN, {}, code)


def _respond(body: bytes, content_type: str, headers: Mapping[str, str], code: int = 200) -> Response:
    common = {"Content-Type": content_type, "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    return Response(body, code, {**common, **headers})


class _Metrics:
    """/metrics. Keeps what it made of the last snapshot, so that two Prometheus servers pay for one page."""

    def __init__(self, operator: Operator) -> None:
        self._operator = operator
        self._making = asyncio.Lock()
        self._snapshot: Snapshot | None = None
        self._bodies: dict[tuple[bool, bool], bytes] = {}

    async def show(self, request: Request) -> Response:
        form = _form(request)
        return form.dressed(await self._body(form))

    async def _body(self, form: _Form) -> bytes:
        async with self._making:
            snapshot = self._operator.snapshot()
            if snapshot is not self._snapshot:
                self._snapshot, self._bodies = snapshot, {}
            kind = form.openmetrics, form.compressed
            if kind not in self._bodies:
                self._bodies[kind] = await form.packed(self._render(snapshot, form.openmetrics))
            return self._bodies[kind]

    def _render(self, snapshot: Snapshot, openmetrics: bool) -> bytes:
        started = time.perf_counter()
        body = exposition.render(snapshot, openmetrics)
        self._operator.rendered(time.perf_counter() - started, len(body))
        return body


@dataclass(frozen=True, slots=True)
class _Form:
    """How a page of metrics goes out."""

    content_type: str
    compressed: bool

    @property
    def openmetrics(self) -> bool:
        return self.content_type.startswith(OPENMETRICS)

    async def packed(self, page: bytes) -> bytes:
        return await _gzip(page) if self.compressed else page

    def dressed(self, body: bytes) -> Response:
        headers = {"Vary": "Accept, Accept-Encoding"} | ({"Content-Encoding": "gzip"} if self.compressed else {})
        return _respond(body, self.content_type, headers)


def _form(request: Request) -> _Form:
    """The one that the client wants most."""
    content_type = _content_type(",".join(request.headers.getlist("accept")))
    return _Form(content_type, _accepts_gzip(",".join(request.headers.getlist("accept-encoding"))))


async def _gzip(body: bytes) -> bytes:
    if len(body) < _LARGE_BYTES:
        return igzip.compress(body, _FAST, mtime=0)
    return await _in_thread(partial(igzip.compress, body, _FAST, mtime=0))


async def _in_thread(make: Callable[[], _T]) -> _T:
    return await asyncio.get_running_loop().run_in_executor(_PAGES, make)


# --- content negotiation (RFC 9110, 12.5) ----------------------------------------------------------------------------

# A quoted string is one piece whatever it contains; one that never ends reaches to the end. Nothing here backtracks.
_QUOTED = r'"(?:\\.|[^"\\])*(?:"|\\?\Z)'
_ELEMENTS = re.compile(rf'(?:[^,"]|{_QUOTED})+', re.DOTALL)
_PARAMETERS = re.compile(rf'(?:[^;"]|{_QUOTED})+', re.DOTALL)
_QUALITY = re.compile(r"0?\.[0-9]+|[01](?:\.0*)?", re.ASCII)

_BY_VERSION, _BY_TYPE, _BY_FAMILY, _BY_WILDCARD, _NOT = 4, 3, 2, 1, 0


@dataclass(frozen=True, slots=True)
class _Offer:
    """One element of Accept or Accept-Encoding, in lower case."""

    name: str
    quality: float
    parameters: Mapping[str, str]


_NOTHING = _Offer("", 0.0, {})


def _content_type(accept: str) -> str:
    """Text, unless the client would rather have OpenMetrics, which it must name or admit instead of text."""
    offers = list(_offers(accept))
    text_rank, text = _best(offers, "text/plain", "0.0.4")
    rank, openmetrics = _best(offers, "application/openmetrics-text", "1.0.0")
    ours, theirs = (openmetrics.quality, rank), (text.quality, text_rank)
    if openmetrics.quality == 0 or ours < theirs or (ours == theirs and rank < _BY_TYPE):
        return TEXT
    return OPENMETRICS + ESCAPING if "escaping" in openmetrics.parameters else OPENMETRICS


def _best(offers: Sequence[_Offer], media_type: str, version: str) -> tuple[int, _Offer]:
    """The offer that speaks for this form: the most specific one that fits it, whether it allows or forbids."""
    ranked = ((_rank(offer, media_type, version), offer) for offer in offers)
    fitting = [(rank, offer) for rank, offer in ranked if rank is not _NOT]
    return max(fitting, key=lambda pair: (pair[0], pair[1].quality), default=(_NOT, _NOTHING))


def _rank(offer: _Offer, media_type: str, version: str) -> int:
    if offer.name == media_type:
        wanted = offer.parameters.get("version")
        return _BY_TYPE if wanted is None else _BY_VERSION if wanted == version else _NOT
    if offer.name == f"{media_type.partition('/')[0]}/*":
        return _BY_FAMILY
    return _BY_WILDCARD if offer.name in ("*/*", "*") else _NOT


def _accepts_gzip(accept_encoding: str) -> bool:
    qualities = {offer.name: offer.quality for offer in _offers(accept_encoding)}
    wanted = qualities.get("gzip", qualities.get("x-gzip", qualities.get("*", 0.0)))
    return wanted > 0 and wanted >= qualities.get("identity", 0.0)


def _offers(header: str) -> Iterator[_Offer]:
    """The elements whose quality can be read; one that cannot be is no offer."""
    for element in _ELEMENTS.findall(header.lower()):
        name, *rest = _PARAMETERS.findall(element) or [""]
        pairs = (piece.partition("=") for piece in rest)
        parameters = {key.strip(): value.strip().strip('"') for key, _, value in pairs}
        quality = parameters.pop("q", "1")
        if _QUALITY.fullmatch(quality):
            yield _Offer(name.strip(), float(quality), parameters)


# --- the server ------------------------------------------------------------------------------------------------------

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
            refusal = _respond(b"a body has one length\n", _PLAIN, {"Connection": "close"}, 400)
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
