"""A typed client of a runner's own HTTP API: llama-server of Ollama 0.30 and newer, what was before it, and MLX's.

Only questions that no request waits for: /health and /props are answered beside the model, /slots and /metrics between
two of its steps (1 to 7 ms under full load). A GET of /metrics starts llama.cpp's two rate gauges anew
(`prompt_tokens_seconds`, `predicted_tokens_seconds`): whoever else scrapes the runner sees them cover a shorter time,
the counters are nobody's but the runner's. We read counters only.

Errors are one tree; each carries a `reason` out of `model.REASONS`:

* RunnerError
  - Unreachable      no connection, or it ended: refused, unreachable, reset
  - TimedOut         no complete answer in time: timeout
  - Loading          the model is still being loaded: no failure, but nothing else can be told
  - HttpError        another status than 200: http_4xx, http_5xx, redirect
  - BadAnswer        200 with a body that is not a runner's: too_large, decode, malformed

Parsers are pure functions from bytes to values and raise BadAnswer alone. A value whose type or range is impossible is
left out (None) and counted; only an answer without its frame is refused.
"""

from __future__ import annotations

import asyncio
import errno
import json
import math
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast

import h11

from exporter.model import Reason

TIMEOUT = 4.0
"""Seconds for one answer: builds of llama.cpp before 2026 answer /slots only between two batches of a prompt."""
BODY_MAX = 4 * 1024 * 1024
_SLOTS_MAX = 4096
_TEXT_MAX = 64
_INT_MAX = 2**63 - 1
_CHUNK = 65536


class RunnerError(Exception):
    """Anything that keeps an answer from being had. `reason` is safe as a label value."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason: Reason = reason


class Unreachable(RunnerError):
    """No HTTP conversation came about; the runner may just have ended."""


class TimedOut(RunnerError):
    """No complete answer in time."""

    def __init__(self, detail: str = "") -> None:
        super().__init__("timeout", detail)


class Loading(RunnerError):
    """llama-server answers every path with 503 until its model is loaded."""

    def __init__(self) -> None:
        super().__init__("http_5xx", "loading its model")


class HttpError(RunnerError):
    """An answer with another status than 200."""

    def __init__(self, status: int) -> None:
        super().__init__(_status_reason(status), f"HTTP {status}")
        self.status = status


class BadAnswer(RunnerError):
    """200 and a body that cannot be a runner's."""


def _status_reason(status: int) -> Reason:
    if 300 <= status < 400:
        return "redirect"
    if 400 <= status < 500:
        return "http_4xx"
    return "http_5xx" if status >= 500 else "malformed"


# --- values ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Slot:
    """One slot of a llama-server. What an idle slot tells is of its last `task`; a slot that was never used tells none.

    `context`: tokens that it has room for. `held`: tokens in it now, prompt and answer together; an idle slot keeps
    them for the next prompt that begins alike. `processed`, `cached`: tokens of the prompt that were computed so far,
    and that were there already. `decoded`: tokens made so far; 0 as soon as the task has ended.
    """

    number: int
    busy: bool
    context: int | None = None
    task: int | None = None
    held: int | None = None
    processed: int | None = None
    cached: int | None = None
    decoded: int | None = None


@dataclass(frozen=True, slots=True)
class Slots:
    """All slots of a runner, and how many values were left out as impossible."""

    rows: tuple[Slot, ...]
    rejected: int = 0

    @property
    def busy(self) -> int:
        return sum(slot.busy for slot in self.rows)

    @property
    def silent(self) -> int:
        """Busy slots that have not made a token yet: they still read their prompt."""
        return sum(slot.busy and not slot.decoded for slot in self.rows)


@dataclass(frozen=True, slots=True)
class Props:
    """What a llama-server is. `blob`: `sha256-<hex>` of the weights, empty when it runs another file."""

    slots: int | None
    context: int | None
    blob: str
    build: str
    has_slots: bool
    has_metrics: bool


@dataclass(frozen=True, slots=True)
class Totals:
    """The counters of /metrics since the runner's start. A counter that the build does not have is None. `process`
    tells the runner from one that comes after it: its header is called Process-Start-Time-Unix, and is microseconds
    since the machine's start.

    `generated` and `generation_seconds` are credited when an answer ends, `prompt_*` batch by batch. Seconds are summed
    over slots, so they pass faster than the clock.
    """

    process: str = ""
    prompt_tokens: float | None = None
    prompt_cached_tokens: float | None = None
    prompt_seconds: float | None = None
    generated: float | None = None
    generation_seconds: float | None = None
    decodes: float | None = None
    drafted: float | None = None
    accepted: float | None = None


@dataclass(frozen=True, slots=True)
class Health:
    """`idle`, `busy`: slots, told by runners from 0.1.32 to 0.3 only. `loading`: its model is not ready yet."""

    loading: bool
    idle: int | None = None
    busy: int | None = None


@dataclass(frozen=True, slots=True)
class MlxStatus:
    """Of an MLX runner, which serves one request after the other. `context`: tokens."""

    context: int | None


# --- parsers ---------------------------------------------------------------------------------------------------------


def parse_slots(body: bytes) -> Slots:
    rows = _json(body)
    if not isinstance(rows, list) or len(rows) > _SLOTS_MAX:
        raise BadAnswer("malformed", "no list of slots")
    count = _Rejections()
    return Slots(tuple(_slot(row, count) for row in rows), count.rejected)


def _slot(row: object, count: _Rejections) -> Slot:
    if not isinstance(row, dict) or not _is_natural(row.get("id")) or not isinstance(row.get("is_processing"), bool):
        raise BadAnswer("malformed", "a slot without id or is_processing")
    token = row.get("next_token")
    token = token[0] if isinstance(token, list) and token else token
    return Slot(
        number=row["id"],
        busy=row["is_processing"],
        context=count.natural(row, "n_ctx"),
        task=count.natural(row, "id_task"),
        held=count.natural(row, "n_prompt_tokens"),
        processed=count.natural(row, "n_prompt_tokens_processed"),
        cached=count.natural(row, "n_prompt_tokens_cache"),
        decoded=count.natural(token, "n_decoded") if isinstance(token, dict) else None,
    )


_BLOB = re.compile(r"(?:.*[/\\])?(sha256-[0-9a-f]{64})")
_BUILD = re.compile(r"[\w.+-]{1,32}", re.ASCII)


def blob_of(path: str) -> str:
    """`.../blobs/sha256-<hex>` -> `sha256-<hex>`; empty for any other file."""
    match = _BLOB.fullmatch(path)
    return match[1] if match else ""


def parse_props(body: bytes) -> Props:
    fields = _object(body)
    if not isinstance(fields.get("model_path"), str):
        raise BadAnswer("malformed", "no model_path")
    count = _Rejections()
    defaults, build = fields.get("default_generation_settings"), fields.get("build_info")
    return Props(
        slots=count.natural(fields, "total_slots"),
        context=count.natural(defaults, "n_ctx") if isinstance(defaults, dict) else None,
        blob=blob_of(fields["model_path"]),
        build=build if isinstance(build, str) and _BUILD.fullmatch(build) else "",
        # Builds that do not tell have both paths, and answer 501 where they are switched off.
        has_slots=fields.get("endpoint_slots") is not False,
        has_metrics=fields.get("endpoint_metrics") is not False,
    )


_COUNTERS = {
    "llamacpp:prompt_tokens_total": "prompt_tokens",
    "llamacpp:prompt_tokens_cached_total": "prompt_cached_tokens",
    "llamacpp:prompt_seconds_total": "prompt_seconds",
    "llamacpp:tokens_predicted_total": "generated",
    "llamacpp:tokens_predicted_seconds_total": "generation_seconds",
    "llamacpp:n_decode_total": "decodes",
    "llamacpp:spec_decode_num_draft_tokens_total": "drafted",
    "llamacpp:spec_decode_num_accepted_tokens_total": "accepted",
}


def parse_metrics(body: bytes, process: str = "") -> Totals:
    """`process`: the header Process-Start-Time-Unix."""
    try:
        lines = body.decode("utf-8").splitlines()
    except ValueError:
        raise BadAnswer("decode", "not UTF-8") from None
    found: dict[str, float] = {}
    for line in lines:
        name, _, value = line.partition(" ")
        if name in _COUNTERS and (number := _number(value)) is not None:
            found[_COUNTERS[name]] = number
    if not found:
        raise BadAnswer("malformed", "none of llama.cpp's counters")
    return Totals(process[:_TEXT_MAX], **found)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None


_GO_LOADING = (2, 3)
"""Of the statuses that Go's runners number (0.4 to 0.24): launched, loading the model."""


def parse_health(body: bytes) -> Health:
    fields = _object(body)
    if "status" not in fields:
        raise BadAnswer("malformed", "no status")
    count = _Rejections()
    status = fields["status"]
    loading = status in _GO_LOADING if isinstance(status, int) else str(status).startswith("loading")
    return Health(loading, count.natural(fields, "slots_idle"), count.natural(fields, "slots_processing"))


def parse_mlx_status(body: bytes) -> MlxStatus:
    fields = _object(body)
    if "Status" not in fields:
        raise BadAnswer("malformed", "no Status")
    count = _Rejections()
    return MlxStatus(count.natural(fields, "ContextLength") or None)


def _json(body: bytes) -> Any:
    try:
        return json.loads(body.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise BadAnswer("decode", type(error).__name__) from None


def _object(body: bytes) -> dict[str, Any]:
    value = _json(body)
    if not isinstance(value, dict):
        raise BadAnswer("malformed", "not an object")
    return value


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


class _Rejections:
    """Takes optional values out of a row, and counts what had to be left out."""

    def __init__(self) -> None:
        self.rejected = 0

    def natural(self, row: dict[str, Any], key: str) -> int | None:
        value = row.get(key)
        if value is None:
            return None
        if _is_natural(value):
            return cast(int, value)
        self.rejected += 1
        return None


def _is_natural(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _INT_MAX


# --- client ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer as received; names of headers in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Wire(Protocol):
    """What carries questions to one port: sockets, or a simulation."""

    async def get(self, path: str) -> Reply:
        """Raises OSError when there is no connection, BadAnswer for what is not HTTP."""

    async def close(self) -> None:
        """Let go of the connection; the next question makes another."""


class Client:
    """One runner's API. `close` it at the end of each look: llama-server keeps a thread for each open connection, and
    ends it after five idle seconds, which may be the moment of the next question."""

    def __init__(self, wire: Wire, timeout: float = TIMEOUT) -> None:
        self._wire, self._timeout = wire, timeout

    async def health(self) -> Health:
        """GET /health. Answered while the model is loading too."""
        try:
            return parse_health((await self._get("/health")).body)
        except Loading:
            return Health(loading=True)

    async def props(self) -> Props:
        """GET /props: answered beside the model. Refused when it is not llama.cpp that answers."""
        reply = await self._get("/props")
        if reply.headers.get("server") != "llama.cpp":
            raise BadAnswer("malformed", "not llama.cpp")
        return parse_props(reply.body)

    async def slots(self) -> Slots:
        """GET /slots: who is at work at this moment. HttpError 501 where it is switched off, 401 behind a key."""
        return parse_slots((await self._get("/slots")).body)

    async def metrics(self) -> Totals:
        """GET /metrics. HttpError 501 where it is not switched on: ask /props first, it is said there."""
        reply = await self._get("/metrics")
        return parse_metrics(reply.body, reply.headers.get("process-start-time-unix", ""))

    async def mlx_status(self) -> MlxStatus:
        """GET /v1/status of an MLX runner."""
        return parse_mlx_status((await self._get("/v1/status")).body)

    async def get(self, path: str) -> bytes:
        """The body of any other answer with status 200."""
        return (await self._get(path)).body

    async def close(self) -> None:
        await self._wire.close()

    async def _get(self, path: str) -> Reply:
        try:
            async with asyncio.timeout(self._timeout):
                reply = await self._wire.get(path)
        except TimeoutError:
            await self._wire.close()
            raise TimedOut(f"no complete answer in {self._timeout:g} s") from None
        except OSError as error:
            raise _unreachable(error) from error
        if reply.status == 503 and b"oading model" in reply.body:
            raise Loading
        if reply.status != 200:
            raise HttpError(reply.status)
        return reply


def _unreachable(error: OSError) -> Unreachable:
    if isinstance(error, ConnectionRefusedError):
        return Unreachable("refused")
    lost = isinstance(error, ConnectionError) or error.errno in (errno.ENOTCONN, errno.EBADF)
    return Unreachable("reset" if lost else "unreachable")


class SocketWire:
    """HTTP over a connection that `connect` makes, in a thread, because it may have to enter another namespace."""

    def __init__(self, connect: Callable[[], socket.socket]) -> None:
        self._connect = connect
        self._http: h11.Connection | None = None
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def get(self, path: str) -> Reply:
        try:
            return await self._ask(path)
        except h11.RemoteProtocolError as error:
            if self._http is not None and self._http.trailing_data[1]:
                raise ConnectionResetError(errno.ECONNRESET, "closed in the middle") from error
            raise BadAnswer("decode", "not HTTP") from error
        finally:
            if self._http is not None and not self._reusable(self._http):
                await self.close()

    async def close(self) -> None:
        if self._streams is not None:
            writer = self._streams[1]
            self._http = self._streams = None
            writer.close()

    async def _ask(self, path: str) -> Reply:
        if self._streams is None:
            self._streams = await _open(self._connect)
            self._http = h11.Connection(h11.CLIENT)
        (reader, writer), http = self._streams, cast(h11.Connection, self._http)
        request = h11.Request(method="GET", target=path, headers=[("Host", "localhost"), ("Accept", "*/*")])
        writer.write((http.send(request) or b"") + (http.send(h11.EndOfMessage()) or b""))
        status, headers, body = 0, {}, bytearray()
        while not isinstance(event := http.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                received = await reader.read(_CHUNK)
                if not received and not status:
                    raise ConnectionResetError(errno.ECONNRESET, "closed without an answer")
                http.receive_data(received)
            elif isinstance(event, h11.Response):
                status = event.status_code
                headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in event.headers}
            elif isinstance(event, h11.Data):
                body += event.data
                if len(body) > BODY_MAX:
                    raise BadAnswer("too_large", f"more than {BODY_MAX} bytes")
        return Reply(status, headers, bytes(body))

    @staticmethod
    def _reusable(http: h11.Connection) -> bool:
        if http.our_state is h11.DONE and http.their_state is h11.DONE:
            http.start_next_cycle()
            return True
        return False


async def _open(connect: Callable[[], socket.socket]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    making = asyncio.ensure_future(asyncio.to_thread(connect))
    try:
        made = await asyncio.shield(making)
    except asyncio.CancelledError:
        making.add_done_callback(_discard)  # the thread goes on; what it brings is nobody's any more
        raise
    made.setblocking(False)
    try:
        return await asyncio.open_connection(sock=made)
    except BaseException:
        made.close()
        raise


def _discard(making: asyncio.Future[socket.socket]) -> None:
    if not making.cancelled() and making.exception() is None:
        making.result().close()
