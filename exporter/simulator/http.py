"""The HTTP face of a simulated server: a bare ASGI application, so that every header is the real server's.

Routing, the Host and Origin checks, and the faults that garble an answer on its way out. What the endpoints do is in
`native.py`, `openai.py` and `control.py`.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from exporter.simulator import garble, wire
from exporter.simulator.body import ApiError
from exporter.simulator.engine import LoadFailedError, ServerBusyError, ServerDownError
from exporter.simulator.faults import Fault
from exporter.simulator.ledger import Call
from exporter.simulator.runner import RunnerDiedError

if TYPE_CHECKING:
    from exporter.simulator.machine import SimServer

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
Handler = Callable[["Exchange"], Awaitable[None]]
Routes = dict[str, dict[str, Handler]]  # path -> method -> handler

_GO_BUFFER_BYTES = 2048  # Go's server counts a body that fits its buffer, and chunks a longer one
_LOCAL_SUFFIXES = (".localhost", ".local", ".internal")
_ALLOWED_ORIGINS = ("localhost", "127.0.0.1", "0.0.0.0")
_PADDING_BYTES = 64 * 1024
_CHUNKS_BEFORE_A_DROP = 3


class DroppedError(Exception):
    """The connection is to end here, without the rest of the answer."""


class Exchange:
    """One request and the answer to it."""

    def __init__(self, server: SimServer, scope: dict[str, Any], body: bytes, send: Send) -> None:
        self.server = server
        self.call: Call | None = None
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.body = body
        self.headers: dict[str, str] = {
            key.decode("latin-1").lower(): value.decode("latin-1") for key, value in scope["headers"]
        }
        self.started = False
        self.status = 0
        self.began = asyncio.get_running_loop().time()
        self._send = send
        self._chunks = 0

    @property
    def origin(self) -> str:
        return self.headers.get("user-agent", "")

    def timestamp(self) -> str:
        return wire.rfc3339(self.server.wall_time())

    async def json(self, value: object, status: int = 200, content_type: str = wire.JSON) -> None:
        if self._fault("wrong_types"):
            value = garble.wrong_types(value)
        ending = b"\n" if content_type == wire.PLAIN_JSON and status == 200 else b""
        await self.reply(status, wire.go_json(value) + ending, content_type)

    async def reply(self, status: int, body: bytes, content_type: str = "", **headers: str) -> None:
        """A whole answer. HEAD gets the headers alone."""
        size = len(body)
        huge, drop = self._fault("huge_body"), self._fault("drop")
        if self._fault("truncated_json"):
            body = body[: size // 2]
            size = len(body)
        if huge:
            body, size = body[:-1] + b',"padding":"', size + huge.size
        fields = {"Content-Type": content_type, **headers}
        if size <= _GO_BUFFER_BYTES or drop:
            fields["Content-Length"] = str(size)
        await self._start(status, fields)
        if self.method == "HEAD":
            await self._body(b"", more=False)
        elif drop:
            await self._body(body[: size // 2], more=True)
            raise DroppedError
        elif huge:
            await self._padded(body, huge.size)
        else:
            await self._body(body, more=False)

    async def _padded(self, head: bytes, size: int) -> None:
        await self._body(head, more=True)
        for start in range(0, size, _PADDING_BYTES):
            await self._body(b"x" * min(_PADDING_BYTES, size - start), more=True)
        await self._body(b'"}', more=False)

    async def start_stream(self, content_type: str) -> None:
        await self._start(200, {"Content-Type": content_type})

    async def line(self, value: object) -> None:
        """One line of NDJSON."""
        if self._fault("wrong_types"):
            value = garble.wrong_types(value)
        line = wire.go_json(value)
        if self._fault("truncated_json"):
            line = line[: len(line) // 2]
        await self.chunk(line + b"\n")

    async def chunk(self, data: bytes) -> None:
        if self._chunks >= _CHUNKS_BEFORE_A_DROP and self._fault("drop"):
            raise DroppedError
        self._chunks += 1
        await self._body(data, more=True)

    async def end_stream(self) -> None:
        await self._body(b"", more=False)

    async def _start(self, status: int, fields: dict[str, str]) -> None:
        fields["Date"] = formatdate(self.server.wall_time(), usegmt=True)
        headers = [(key.lower().encode(), value.encode()) for key, value in fields.items() if value]
        self.started, self.status = True, status
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def _body(self, data: bytes, more: bool) -> None:
        if self._fault("drip"):
            for index in range(len(data)):
                await asyncio.sleep(1.0)
                await self._give(_body_message(data[index : index + 1], more=True), 1)
            data = b""
        await self._give(_body_message(data, more), len(data))

    async def _give(self, message: dict[str, object], size: int) -> None:
        if self.call is not None:
            self.call.sent(size)
        await self._send(message)

    def _fault(self, kind: Any) -> Fault | None:
        return self.server.faults.active(kind, self.path)


def _body_message(data: bytes, more: bool) -> dict[str, object]:
    return {"type": "http.response.body", "body": data, "more_body": more}


class App:
    """The ASGI application of one server."""

    def __init__(self, server: SimServer, routes: Routes, control: Routes) -> None:
        self._server = server
        self._routes = routes
        self._control = control

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        body = await _read(receive)
        if body is None:
            return
        exchange = Exchange(self._server, scope, body, send)
        work = asyncio.create_task(self._answer(exchange), name=f"{exchange.method} {exchange.path}")
        watch = asyncio.create_task(_disconnected(receive), name="disconnect watch")
        try:
            with self._server.ledger.call(exchange.origin) as exchange.call:
                await asyncio.wait({work, watch}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                self._server.log.record("disconnect", detail=exchange.path, origin=exchange.origin)
                self._tell_of_leaver(exchange, work)
        finally:
            watch.cancel()
            work.cancel()
            await asyncio.gather(work, watch, return_exceptions=True)
        if not work.cancelled() and (error := work.exception()) is not None:
            raise error

    def _tell_of_leaver(self, exchange: Exchange, work: asyncio.Task[None]) -> None:
        """What the access log shows depends on what the client was waiting for; in the scheduler's queue, on nothing:
        Ollama forgets it there."""
        waits = self._server.engine.waits_for(work)
        if exchange.started or waits != "queue":
            self._tell(exchange, 200 if exchange.started else 499 if waits == "load" else 500)

    def _tell(self, exchange: Exchange, status: int) -> None:
        took = asyncio.get_running_loop().time() - exchange.began
        self._server.journal.access(exchange.method, exchange.path, status, took)

    async def _answer(self, exchange: Exchange) -> None:
        try:
            if exchange.path in self._control:
                await self._dispatch(exchange, self._control)
            else:
                await self._through_faults(exchange)
        except (DroppedError, ServerDownError):
            return  # without an end to the answer: the server in front of us closes the connection

    async def _through_faults(self, exchange: Exchange) -> None:
        faults = self._server.faults
        await faults.over("starting")
        if await self._struck(exchange):
            return
        self._server.log.record("request", self._model_of(exchange), exchange.path, exchange.origin)
        if not self._is_allowed(exchange):
            await exchange.reply(403, b"")
        else:
            if exchange.path == "/api/ps":
                await faults.over("ps_stalled")
            await self._dispatch(exchange, self._routes)
        self._tell(exchange, exchange.status)

    async def _struck(self, exchange: Exchange) -> bool:
        """Faults that answer in the server's place."""
        faults, path = self._server.faults, exchange.path
        if faults.active("forbidden", path):
            await exchange.reply(403, b"")
        elif faults.active("redirect", path):
            await exchange.reply(302, b"", Location="http://elsewhere.invalid/login")
        elif faults.active("garbage", path):
            await exchange.reply(200, b"<html><body><h1>It works!</h1></body></html>", wire.JSON)
        elif fault := faults.strikes("error_rate", path):
            await exchange.json({"error": "internal server error"}, fault.status)
        elif faults.strikes("flaky", path):
            await _fail_somehow(exchange)
        else:
            return False
        return True

    async def _dispatch(self, exchange: Exchange, routes: Routes) -> None:
        methods = routes.get(exchange.path)
        if methods is None:
            await exchange.reply(404, b"404 page not found", "text/plain")
        elif exchange.method not in methods:
            await exchange.reply(405, b"405 method not allowed", "text/plain", Allow=", ".join(methods))
        else:
            await _handled(methods[exchange.method], exchange)

    def _model_of(self, exchange: Exchange) -> str:
        """For the event log only: the name as it is installed, or as it was asked for."""
        try:
            body = json.loads(exchange.body) if exchange.body else None
        except ValueError:
            return ""
        name = body.get("model") if isinstance(body, dict) else None
        if not isinstance(name, str):
            return ""
        model = self._server.find(name.removesuffix(":local"))
        return model.name if model else name

    def _is_allowed(self, exchange: Exchange) -> bool:
        origin = exchange.headers.get("origin")
        if origin is not None and urlsplit(origin).hostname not in _ALLOWED_ORIGINS:
            return False
        return not self._server.config.loopback or _is_local(exchange.headers.get("host", ""))


async def _handled(handler: Handler, exchange: Exchange) -> None:
    """Turn errors into answers. Once the stream has begun, the status is 200 whatever happens."""
    try:
        await handler(exchange)
    except ApiError as error:
        await _fail(exchange, error.status, error.text, **error.extra)
    except ServerBusyError as error:
        await _fail(exchange, 503, str(error))
    except (LoadFailedError, RunnerDiedError) as error:
        await _fail(exchange, 500, str(error))


async def _fail(exchange: Exchange, status: int, text: str, **extra: object) -> None:
    if exchange.path.startswith("/v1/"):
        await _fail_openai(exchange, status, text)
    elif exchange.started:
        await exchange.line({"error": text})
        await exchange.end_stream()
    else:
        await exchange.json({"error": text, **extra}, status)


async def _fail_openai(exchange: Exchange, status: int, text: str) -> None:
    """In mid-stream the error is swallowed: an empty event, no finish, no [DONE]."""
    if exchange.started:
        event = {
            "object": "chat.completion.chunk",
            "model": "",
            "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}],
        }
        await exchange.chunk(b"data: " + wire.go_json(event) + b"\n\n")
        await exchange.end_stream()
        return
    kind = {400: "invalid_request_error", 404: "not_found_error"}.get(status, "api_error")
    error = {"message": text, "type": kind, "param": None, "code": None}
    await exchange.json({"error": error}, status, wire.PLAIN_JSON)


async def _fail_somehow(exchange: Exchange) -> None:
    match exchange.server.faults.rng.randrange(3):
        case 0:
            await exchange.json({"error": "llama-server is not responding"}, 500)
        case 1:
            await exchange.reply(502, b"Bad Gateway", "text/plain")
        case _:
            raise DroppedError


async def _read(receive: Receive) -> bytes | None:
    """The whole body, or None when the client left before it was complete."""
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _is_local(host_header: str) -> bool:
    host = urlsplit(f"//{host_header}").hostname or ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host in ("", "localhost") or host.endswith(_LOCAL_SUFFIXES)
    return address.is_loopback or address.is_private or address.is_unspecified
