"""The HTTP surface: its pages. What a client may be given is in `negotiation.py`, the server in `listening.py`.

Nothing here asks a target anything: every page shows the current snapshot, and /probe leaves its look to `probing`.
What a page says lives in `exposition.py` and `status`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar, cast

from isal import isal_zlib
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from exporter import status
from exporter.discovery import Listed, as_http_sd
from exporter.exposition import Page
from exporter.model import Snapshot
from exporter.negotiation import OPENMETRICS, PLAIN, accepts_gzip, content_type, respond
from exporter.probing import Question, Refusal, Seen
from exporter.probing.report import report
from exporter.status import page
from exporter.threads import Threads

_LARGE_BYTES = 256 * 1024  # from here on, compressing takes more than the event loop should give
_FAST = 1  # as small as zlib's own level 1 in a fifth of its time
_GZIP = 31  # of zlib's window sizes, the one that means gzip's frame

_PAGES = Threads(2)
"""Pages are not made where sources look at things that may hang, or a scrape would wait for a dead disk."""

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

    def configured(self) -> tuple[str, ...]:
        """Paths of the pages that only some want, as far as the configuration has a use for them."""

    def rendered(self, seconds: float, size: int) -> None:
        """The last /metrics was laid out in this time, and has this many bytes before compression."""


# --- routes ----------------------------------------------------------------------------------------------------------


def create_app(operator: Operator, now: Callable[[], float] = time.time) -> Starlette:
    metrics = _Metrics(operator)

    async def show_status(request: Request) -> Response:
        query = request.query_params
        view = page.View("pause" not in query, query.get("sources") == "all")
        text = await _in_thread(partial(_status_page, operator, now(), view))
        return respond(text.encode("utf-8", "replace"), "text/html; charset=utf-8", page.HEADERS)

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
        return respond(await _in_thread(partial(as_http_sd, servers)), "application/json", {})

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
        return form.dressed(await form.packed(Page(seen.snapshot, form.openmetrics)))

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


def _status_page(operator: Operator, now: float, view: page.View) -> str:
    found = status.survey(operator.snapshot(), now, operator.version)
    return page.render_page(found, now, view, operator.configured())


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
    return respond(f"{refusal.detail}\n".encode(), PLAIN, headers, refusal.status_code)


def _say(text: str, code: int = 200) -> Response:
    return respond(f"{text.rstrip()}\n".encode("utf-8", "replace"), PLAIN, {}, code)


class _Metrics:
    """/metrics. Keeps what it made of the last snapshot, so that two Prometheus servers pay for one page."""

    def __init__(self, operator: Operator) -> None:
        self._operator = operator
        self._making = asyncio.Lock()
        self._snapshot: Snapshot | None = None
        self._bodies: dict[tuple[bool, bool], Page | bytes] = {}

    async def show(self, request: Request) -> Response:
        form = _form(request)
        return form.dressed(await self._body(form))

    async def _body(self, form: _Form) -> Page | bytes:
        async with self._making:
            snapshot = self._operator.snapshot()
            if snapshot is not self._snapshot:
                self._snapshot, self._bodies = snapshot, {}
            kind = form.openmetrics, form.compressed
            if kind not in self._bodies:
                self._bodies[kind] = await form.packed(self._render(snapshot, form.openmetrics))
            return self._bodies[kind]

    def _render(self, snapshot: Snapshot, openmetrics: bool) -> Page:
        started = time.perf_counter()
        page = Page(snapshot, openmetrics)
        self._operator.rendered(time.perf_counter() - started, page.size)
        return page


@dataclass(frozen=True, slots=True)
class _Form:
    """How a page of metrics goes out."""

    content_type: str
    compressed: bool

    @property
    def openmetrics(self) -> bool:
        return self.content_type.startswith(OPENMETRICS)

    async def packed(self, page: Page) -> Page | bytes:
        return await _gzip(page) if self.compressed else page

    def dressed(self, body: Page | bytes) -> Response:
        headers = {"Vary": "Accept, Accept-Encoding"} | ({"Content-Encoding": "gzip"} if self.compressed else {})
        return respond(body, self.content_type, headers)


def _form(request: Request) -> _Form:
    """The one that the client wants most."""
    wanted = content_type(",".join(request.headers.getlist("accept")))
    return _Form(wanted, accepts_gzip(",".join(request.headers.getlist("accept-encoding"))))


async def _gzip(page: Page) -> bytes:
    return compress(page) if page.size < _LARGE_BYTES else await _in_thread(partial(compress, page))


def compress(page: Page) -> bytes:
    """The page as gzip."""
    stream = isal_zlib.compressobj(_FAST, wbits=_GZIP)
    return b"".join([*map(stream.compress, page.pieces()), stream.flush()])


async def _in_thread(make: Callable[[], _T]) -> _T:
    return await asyncio.get_running_loop().run_in_executor(_PAGES, make)
