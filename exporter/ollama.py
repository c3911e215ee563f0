"""A typed client of Ollama's HTTP API: what it asks, what it accepts, how it fails. Knows no metric.

Errors are one tree; each carries a `reason` out of `model.REASONS`:

* OllamaError
  - Unreachable      no HTTP conversation came about: dns, refused, unreachable, reset, tls, connect_timeout
  - TimedOut         connected, but no complete answer in time: timeout
  - HttpError        an answer with another status than 200: forbidden_host, http_4xx, http_5xx, redirect
  - BadAnswer        200 with a body that is not Ollama's: too_large, decode, malformed

Parsers are pure functions from bytes to values and raise BadAnswer alone. A value whose type or range is impossible is
left out (None) and counted; only an answer without its frame (no list of models, a model without a name) is refused.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any, Generic, TypeVar, cast

import httpx

from exporter import __version__
from exporter.connection import Resolve, Transport
from exporter.deadline import Deadline
from exporter.model import Endpoint, Reason, canonical, is_cloud

T = TypeVar("T")

BODY_MAX = 4 * 1024 * 1024
"""Bytes of an answer that are read at most: about 10,000 models in /api/tags."""
ROWS_MAX = 20_000
"""Models in one answer at most. No server has as many, and as many short rows as fit would hold up the polls of all
other servers for seconds."""
NAME_MAX = 384
"""Characters of a model name at most: a host, a namespace, a model and a tag of 80 each, with room."""
_TEXT_MAX = 128
_INT_MAX = 2**63 - 1


class OllamaError(Exception):
    """Anything that keeps an answer from being had. `reason` is safe as a label value."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason: Reason = reason


class Unreachable(OllamaError):
    """No HTTP conversation came about."""


class TimedOut(OllamaError):
    """The connection stands, the answer did not come in time."""

    def __init__(self, detail: str = "") -> None:
        super().__init__("timeout", detail)


class HttpError(OllamaError):
    """An answer with another status than 200."""

    def __init__(self, status: int, *, empty: bool = False) -> None:
        super().__init__(_status_reason(status, empty), f"HTTP {status}")
        self.status = status


class BadAnswer(OllamaError):
    """200 and a body that cannot be Ollama's."""


def _status_reason(status: int, empty: bool) -> Reason:
    if status == 403 and empty:
        return "forbidden_host"  # the Host (or Origin) check of a server bound to loopback answers just so
    if 300 <= status < 400:
        return "redirect"
    if 400 <= status < 500:
        return "http_4xx"
    return "http_5xx" if status >= 500 else "malformed"


# --- values ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Details:
    """Descriptive strings of a model; empty where the server does not tell."""

    family: str = ""
    parameter_size: str = ""
    quantization: str = ""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A row of /api/ps. `name` always carries its tag. Sizes in bytes, `context` in tokens per slot, `expires` as Unix
    time on the server's clock; None where the server does not tell, or tells nonsense."""

    name: str
    digest: str
    details: Details
    size: int | None
    vram: int | None
    context: int | None
    expires: float | None


@dataclass(frozen=True, slots=True)
class InstalledModel:
    """A row of /api/tags. `capabilities` is None on servers that do not tell (before 0.30). `remote`: a stub of a model
    that runs elsewhere; asking it for anything leaves the machine and may cost money."""

    name: str
    digest: str
    details: Details
    size: int | None
    remote: bool
    capabilities: frozenset[str] | None


@dataclass(frozen=True, slots=True)
class Rows(Generic[T]):
    """The models of one answer, and how many values in it were left out as impossible."""

    models: tuple[T, ...]
    rejected: int = 0


@dataclass(frozen=True, slots=True)
class Generation:
    """The durations (seconds) and counts (tokens) of one answered, non-streamed generation or embedding. The server
    leaves out zeros, so a missing field is 0."""

    done: bool
    total: float
    load: float
    prompt: float
    decode: float
    prompt_tokens: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """A parsed answer; `took` seconds from sending to the last byte, `clock_offset` the server's clock minus ours in
    seconds (Date header, resolution one second), None where it does not tell."""

    value: T
    took: float
    clock_offset: float | None


# --- versions --------------------------------------------------------------------------------------------------------


_VERSION = re.compile(r"v?(\d{1,6})\.(\d{1,6})(?:\.(\d{1,6}))?")


def version_number(version: str) -> tuple[int, int, int] | None:
    """`0.33.0-rc2` -> (0, 33, 0). None for what is no version, and for 0.0.0, the mark of a development build."""
    match = _VERSION.match(version)
    if match is None:
        return None
    number = (int(match[1]), int(match[2]), int(match[3] or 0))
    return number if number != (0, 0, 0) else None


# --- parsers ---------------------------------------------------------------------------------------------------------


def parse_version(body: bytes) -> str:
    version = _object(body).get("version")
    if not isinstance(version, str) or not 0 < len(version) <= _TEXT_MAX:
        raise BadAnswer("malformed", "no version")
    return _clean(version)


def parse_ps(body: bytes) -> Rows[LoadedModel]:
    count = _Rejections()
    rows = [
        LoadedModel(
            name=name,
            digest=count.digest(row),
            details=count.details(row),
            size=(size := count.memory(row)),
            vram=count.natural(row, "size_vram") if size is not None else None,
            context=count.natural(row, "context_length"),
            expires=count.moment(row, "expires_at"),
        )
        for name, row in _named_rows(body, count)
    ]
    return Rows(tuple(rows), count.rejected)


def parse_tags(body: bytes) -> Rows[InstalledModel]:
    count = _Rejections()
    rows = [
        InstalledModel(
            name=name,
            digest=count.digest(row),
            details=count.details(row),
            size=count.natural(row, "size"),
            remote=bool(row.get("remote_model") or row.get("remote_host")) or is_cloud(name),
            capabilities=count.words(row, "capabilities"),
        )
        for name, row in _named_rows(body, count)
    ]
    return Rows(tuple(rows), count.rejected)


def parse_generation(body: bytes) -> Generation:
    """Of /api/generate and /api/embed alike. /api/embed has neither `done` nor decode times: see `parse_embedding`."""
    fields = _object(body)
    if "error" in fields:
        raise BadAnswer("malformed", "an error under HTTP 200")
    return Generation(done=fields.get("done") is True, **_durations(fields))


def parse_embedding(body: bytes) -> Generation:
    fields = _object(body)
    embeddings = fields.get("embeddings")
    done = isinstance(embeddings, list) and len(embeddings) > 0 and isinstance(embeddings[0], list)
    return Generation(done=done, **_durations(fields))


def _durations(fields: dict[str, Any]) -> dict[str, Any]:
    def natural(key: str) -> int:
        value = fields.get(key, 0)
        if not _is_natural(value):
            raise BadAnswer("malformed", f"{key} is no count")
        return cast(int, value)

    return {
        "total": natural("total_duration") / 1e9,
        "load": natural("load_duration") / 1e9,
        "prompt": natural("prompt_eval_duration") / 1e9,
        "decode": natural("eval_duration") / 1e9,
        "prompt_tokens": natural("prompt_eval_count"),
        "tokens": natural("eval_count"),
    }


def _object(body: bytes) -> dict[str, Any]:
    try:
        value = _JSON.decode(body.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise BadAnswer("decode", type(error).__name__) from None
    if not isinstance(value, dict):
        raise BadAnswer("malformed", "not an object")
    return value


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


_JSON = json.JSONDecoder(parse_constant=_no_constant)


def _named_rows(body: bytes, count: _Rejections) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows under `models` with their canonical names; of rows with the same name the first."""
    models = _object(body).get("models", ())
    if models is None:
        models = ()
    if not isinstance(models, list | tuple):
        raise BadAnswer("malformed", "models is no list")
    if len(models) > ROWS_MAX:
        raise BadAnswer("too_large", f"more than {ROWS_MAX} models")
    seen = set()
    for row in models:
        name = row.get("name") or row.get("model") if isinstance(row, dict) else None
        if not isinstance(name, str) or not name:
            raise BadAnswer("malformed", "a model without a name")
        name = canonical(_clean(name))
        if name in seen:
            count.rejected += 1
            continue
        seen.add(name)
        yield name, row


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

    def memory(self, row: dict[str, Any]) -> int | None:
        """The size of a loaded model. 0 is what a server says that could not read its runner's log: not known."""
        size = self.natural(row, "size")
        if size == 0:
            self.rejected += 1
            return None
        return size

    def digest(self, row: dict[str, Any]) -> str:
        value = row.get("digest")
        if value is None:
            return ""
        if isinstance(value, str) and re.fullmatch(r"(?:sha256:)?[0-9a-fA-F]{12,128}", value):
            return value.removeprefix("sha256:").lower()
        self.rejected += 1
        return ""

    def details(self, row: dict[str, Any]) -> Details:
        details = row.get("details")
        if not isinstance(details, dict):
            if details is not None:
                self.rejected += 1
            return Details()
        return Details(
            self._text(details, "family"),
            self._text(details, "parameter_size"),
            self._text(details, "quantization_level"),
        )

    def words(self, row: dict[str, Any], key: str) -> frozenset[str] | None:
        value = row.get(key)
        if value is None:
            return None
        if isinstance(value, list) and all(isinstance(word, str) for word in value):
            return frozenset(map(_clean, value))
        self.rejected += 1
        return None

    def moment(self, row: dict[str, Any], key: str) -> float | None:
        value = row.get(key)
        if value is None:
            return None
        moment = parse_moment(value) if isinstance(value, str) else None
        if moment is None or _YEAR_2 <= moment < 0:
            self.rejected += 1
            return None
        # Go's zero time (year 1) means "not set", not "two thousand years ago".
        return moment if moment >= 0 else None

    def _text(self, details: dict[str, Any], key: str) -> str:
        value = details.get(key)
        if value is None:
            return ""
        if isinstance(value, str) and len(value) <= _TEXT_MAX:
            return _clean(value)
        self.rejected += 1
        return ""


def _is_natural(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _INT_MAX


def _clean(text: str) -> str:
    """JSON may spell lone surrogates, which no UTF-8 page can carry."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


_MOMENT = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d{1,18}))?(Z|z|[+-]\d\d:\d\d)", re.ASCII)
_YEAR_2 = datetime(2, 1, 1, tzinfo=UTC).timestamp()


def parse_moment(text: str) -> float | None:
    """RFC 3339 with any number of digits (Go writes nine) -> Unix time; None if it is no moment. Years 1 to 9999."""
    match = _MOMENT.fullmatch(text)
    if match is None:
        return None
    day, clock, fraction, zone = match.groups()
    try:
        naive = datetime.fromisoformat(f"{day}T{clock}+00:00").timestamp()
    except (ValueError, OverflowError):
        return None
    # The zone is subtracted by hand: datetime refuses year 1 with an offset and offsets of a day and more.
    offset = 0 if zone in "Zz" else int(zone[0] + "1") * (int(zone[1:3]) * 3600 + int(zone[4:6]) * 60)
    return naive - offset + (float(f"0.{fraction}") if fraction else 0.0)


# --- client ----------------------------------------------------------------------------------------------------------


class Client:
    """One server's API over one connection pool of its own (a pool shared by a fleet is searched through for each
    request, and collapses at a thousand servers). Keeps no state but the last body of each path: an answer that did
    not change is not parsed again.

    `transport` replaces the network, for simulated servers.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        transport: httpx.AsyncBaseTransport | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._endpoint, self._now = endpoint, now
        self._transport = transport or open_transport(endpoint)
        self._headers = request_headers(endpoint)
        self._polls: dict[str, httpx.Request] = {}
        self._last: dict[str, tuple[bytes, Any]] = {}

    async def version(self) -> Answer[str]:
        """GET /api/version: no lock, no disk; proves that HTTP works."""
        return await self._poll("/api/version", parse_version)

    async def ps(self) -> Answer[Rows[LoadedModel]]:
        """GET /api/ps: the loaded models. Takes the scheduler's locks, so it can hang while /api/version answers."""
        return await self._poll("/api/ps", parse_ps)

    async def tags(self) -> Answer[Rows[InstalledModel]]:
        """GET /api/tags: the installed models. Reads every manifest on the server's disk."""
        return await self._poll("/api/tags", parse_tags)

    async def text(self, path: str, accept: str) -> Answer[tuple[str, bytes]]:
        """GET what is no JSON: its content type (empty where there is none) and its bytes."""
        request = self._polls.get(path)
        if request is None:
            request = self._polls[path] = self._request("GET", path, b"", self._endpoint.timeout)
            request.headers["Accept"] = accept
        body, took, headers = await self._exchange(request, self._endpoint.timeout)
        return Answer((headers.get("content-type", ""), body), took, self._clock_offset(headers))

    async def post(self, path: str, payload: dict[str, Any], timeout: float, parse: Callable[[bytes], T]) -> Answer[T]:
        """POST a JSON body and wait up to `timeout` seconds. Never retried: it may have had its effect."""
        request = self._request("POST", path, json.dumps(payload).encode(), timeout)
        body, took, headers = await self._exchange(request, timeout)
        return Answer(parse(body), took, self._clock_offset(headers))

    async def aclose(self) -> None:
        await self._transport.aclose()

    async def _poll(self, path: str, parse: Callable[[bytes], T]) -> Answer[T]:
        request = self._polls.get(path)
        if request is None:
            request = self._polls[path] = self._request("GET", path, b"", self._endpoint.timeout)
        clock = asyncio.get_running_loop().time
        deadline = clock() + self._endpoint.timeout
        try:
            body, took, headers = await self._exchange(request, self._endpoint.timeout)
        except Unreachable as error:
            if error.reason != "reset" or clock() >= deadline:
                raise
            # A proxy may close an idle connection at the moment in which it is used again: no news about the server.
            body, took, headers = await self._exchange(request, deadline - clock())
        last = self._last.get(path)
        if last is None or last[0] != body:
            last = self._last[path] = (body, _parsed(parse, body))
        return Answer(last[1], took, self._clock_offset(headers))

    def _request(self, method: str, path: str, content: bytes, timeout: float) -> httpx.Request:
        headers = [*self._headers, ("Content-Type", "application/json")] if content else self._headers
        # Less than the whole, or a server that nobody reaches would look like one that is silent.
        connect = min(self._endpoint.connect_timeout, 0.9 * timeout)
        limits = {"connect": connect, "read": timeout, "write": timeout, "pool": timeout}
        return httpx.Request(
            method, self._endpoint.url + path, headers=headers, content=content or None, extensions={"timeout": limits}
        )

    async def _exchange(self, request: httpx.Request, timeout: float) -> tuple[bytes, float, httpx.Headers]:
        """Send, read at most BODY_MAX bytes, all within `timeout` seconds: (body, seconds taken, headers)."""
        clock = asyncio.get_running_loop().time
        started = clock()
        try:
            async with Deadline(timeout):
                response = await self._transport.handle_async_request(request)
                try:
                    body = await _read(response)
                finally:
                    await cast(httpx.AsyncByteStream, response.stream).aclose()
        except TimeoutError:
            raise TimedOut(f"no complete answer in {timeout:g} s") from None
        except (httpx.HTTPError, OSError, UnicodeError) as error:
            raise translate(error) from error
        took = clock() - started
        if response.status_code != 200:
            raise HttpError(response.status_code, empty=not body)
        return body, took, response.headers

    def _clock_offset(self, headers: httpx.Headers) -> float | None:
        date = _header(headers, b"date")
        moment = None if date is None else _http_date(date)
        return None if moment is None else moment - self._now()


def _header(headers: httpx.Headers, name: bytes) -> str | None:
    """As `Headers.get`, which looks through all of them for an encoding first: a twentieth of what a poll costs."""
    values = [value for key, value in headers.raw if key.lower() == name]
    return b", ".join(values).decode("latin-1") if values else None


@lru_cache(maxsize=16)
def _http_date(text: str) -> float | None:
    """A Date header as Unix time. Servers that answer in the same second send the same one."""
    try:
        moment = parsedate_to_datetime(text)
        # `-0000` gives a naive datetime, which would be taken for our own local time.
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


def _parsed(parse: Callable[[bytes], T], body: bytes) -> T:
    """JSON of the right size can make many times as much out of its bytes."""
    try:
        return parse(body)
    except MemoryError:
        raise BadAnswer("too_large", "no memory left for what is in it") from None


async def _read(response: httpx.Response) -> bytes:
    """The body, refused above BODY_MAX. Of an error's body only the beginning is read: enough to tell it from none."""
    good = response.status_code == 200
    if good and (_header(response.headers, b"content-encoding") or "identity").lower() != "identity":
        raise BadAnswer("decode", "compressed, though not asked for")
    chunks, size = [], 0
    stream = aiter(cast(httpx.AsyncByteStream, response.stream))
    try:
        async for chunk in stream:
            chunks.append(chunk)
            size += len(chunk)
            if not good and size:
                break
            if size > BODY_MAX:
                raise BadAnswer("too_large", f"more than {BODY_MAX} bytes")
    finally:
        # Left to the garbage collector, an unfinished stream would be closed at some later moment, by another task.
        if (close := getattr(stream, "aclose", None)) is not None:
            await close()
    return b"".join(chunks)


def translate(error: Exception) -> OllamaError:
    """What httpx and the socket layer raise -> our tree. Only the class and the error number are looked at."""
    if isinstance(error, httpx.ConnectTimeout | httpx.PoolTimeout):
        return Unreachable("connect_timeout")
    if isinstance(error, httpx.TimeoutException):
        return TimedOut(type(error).__name__)
    if isinstance(error, httpx.RemoteProtocolError) and "disconnected" not in str(error) and "closed" not in str(error):
        return BadAnswer("decode", "not HTTP")
    causes = list(_causes(error))
    reasons: tuple[tuple[type[BaseException], Reason], ...] = (
        (socket.gaierror, "dns"),
        (UnicodeError, "dns"),
        (ssl.SSLError, "tls"),
        (ConnectionRefusedError, "refused"),
        (ConnectionError, "reset"),
    )
    for kind, reason in reasons:
        if any(isinstance(cause, kind) for cause in causes):
            return Unreachable(reason)
    return Unreachable("unreachable" if isinstance(error, httpx.ConnectError | httpx.ProxyError | OSError) else "reset")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The exception, what it was raised from, and the members of groups among them."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        cause = waiting.pop()
        if cause is None or id(cause) in seen:
            continue
        seen.add(id(cause))
        yield cause
        waiting += [cause.__cause__, cause.__context__]
        if isinstance(cause, BaseExceptionGroup):
            waiting += cause.exceptions


def request_headers(endpoint: Endpoint) -> list[tuple[str, str]]:
    headers = [
        ("User-Agent", f"ollama-exporter/{__version__}"),
        ("Accept", "application/json"),
        ("Accept-Encoding", "identity"),  # so that the cap on bytes is a cap on memory
    ]
    if endpoint.host:
        headers.insert(0, ("Host", endpoint.host))
    headers += [(name, value.reveal()) for name, value in endpoint.headers]
    if endpoint.bearer is not None:
        headers.append(("Authorization", f"Bearer {endpoint.bearer.reveal()}"))
    if endpoint.basic is not None:
        user, password = endpoint.basic
        token = base64.b64encode(f"{user}:{password.reveal()}".encode()).decode()
        headers.append(("Authorization", f"Basic {token}"))
    return headers


def open_transport(
    endpoint: Endpoint, keep: bool = True, allows: Callable[[str], bool] | None = None, resolve: Resolve | None = None
) -> httpx.AsyncBaseTransport:
    """The way to a server. Follows no redirect. `keep`: a connection stays open between two requests. `allows` and
    `resolve` are those of `Transport`; through a proxy, addresses are the proxy's affair."""
    tls = None
    if endpoint.url.startswith("https"):
        tls = tls_context(endpoint.ca, endpoint.certificate, endpoint.key, endpoint.insecure)
    if endpoint.proxy is None:
        return Transport(tls, keep, allows or (lambda _: True), resolve)
    return httpx.AsyncHTTPTransport(
        verify=tls or False,
        limits=httpx.Limits(max_connections=2, max_keepalive_connections=int(keep), keepalive_expiry=60.0),
        proxy=httpx.Proxy(endpoint.proxy.reveal()),
        trust_env=False,
    )


@lru_cache(maxsize=64)
def tls_context(ca: Any, certificate: Any, key: Any, insecure: bool) -> ssl.SSLContext:
    """Shared by servers with the same settings: reading the trust store takes milliseconds and megabytes."""
    context = ssl.create_default_context(cafile=ca.path if ca else None)
    if certificate:
        context.load_cert_chain(certificate.path, key.path if key else None)
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
