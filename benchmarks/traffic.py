"""Mixed traffic on an Ollama server, with a book of what really happened: the truth that sources are held against.

Each client writes its requests to a keep-alive connection of its own, so that the moments when a request was complete,
when the first byte of its answer came and when the last one came are known to a millisecond.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["stream", "plain", "quit", "truncated", "embed"]


@dataclass(slots=True)
class Request:
    """Times are Unix seconds; `first` and `end` are None while it lasts. `tokens`: generated, as the final object
    tells, or as many chunks as came until the client left."""

    model: str
    kind: Kind
    sent: float
    first: float | None = None
    end: float | None = None
    status: int = 0
    prompt_tokens: int = 0
    tokens: int = 0
    complete: bool = False

    def unanswered_at(self, moment: float) -> bool:
        return self.sent <= moment and (self.first is None or moment < self.first) and not self._over(moment)

    def in_flight_at(self, moment: float) -> bool:
        return self.sent <= moment and not self._over(moment)

    def _over(self, moment: float) -> bool:
        return self.end is not None and self.end <= moment


@dataclass(slots=True)
class Book:
    requests: list[Request] = field(default_factory=list)

    def unanswered(self, start: float, end: float) -> tuple[int, int]:
        """Fewest and most at once within a span of time."""
        return self._range(start, end, Request.unanswered_at)

    def in_flight(self, start: float, end: float, model: str | None = None) -> tuple[int, int]:
        def counts(request: Request, moment: float) -> bool:
            return request.model == (model or request.model) and request.in_flight_at(moment)

        return self._range(start, end, counts)

    def streaming(self, start: float, end: float, model: str) -> tuple[int, int]:
        def counts(request: Request, moment: float) -> bool:
            begun = request.first is not None and request.first <= moment and request.kind in ("stream", "quit")
            return request.model == model and begun and request.in_flight_at(moment)

        return self._range(start, end, counts)

    def _range(self, start: float, end: float, counts: Callable[[Request, float], bool]) -> tuple[int, int]:
        moments = {start, end}
        for request in self.requests:
            moments |= {m for m in (request.sent, request.first, request.end) if m is not None and start < m < end}
        found = [sum(counts(request, moment) for request in self.requests) for moment in moments]
        return min(found), max(found)


_LENGTHS: dict[Kind, tuple[int, int]] = {
    "stream": (20, 120), "plain": (10, 80), "quit": (150, 250), "truncated": (5, 15), "embed": (1, 1),
}  # fmt: skip
_WORDS = ("water", "stone", "river", "light", "paper", "green", "seven", "window", "garden", "letter")


class Client:
    """One keep-alive connection and who uses it, one request after the other."""

    def __init__(self, host: str, port: int, book: Book, seed: int) -> None:
        self._host, self._port, self._book = host, port, book
        self._random = random.Random(seed)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, model: str, kind: Kind) -> Request:
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, self._port, limit=1 << 24)
        reader, writer = self._streams
        path, body = self._request(model, kind)
        lines = (f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json")
        head = "\r\n".join((*lines, f"Content-Length: {len(body)}", "", ""))
        request = Request(model, kind, time.time())
        self._book.requests.append(request)
        writer.write(head.encode() + body)
        try:
            await writer.drain()
            await self._answer(reader, request)
        except (OSError, EOFError, asyncio.IncompleteReadError):
            self.close()
        finally:
            request.end = request.end or time.time()
        return request

    def _request(self, model: str, kind: Kind) -> tuple[str, bytes]:
        if kind == "embed":
            return "/api/embed", json.dumps({"model": model, "input": self._words(12)}).encode()
        words = 4_500 if kind == "truncated" else self._random.randrange(8, 60)
        options = {"num_predict": self._random.randrange(*_LENGTHS[kind]), "temperature": 1.0}
        message = {"role": "user", "content": self._words(words)}
        streamed = kind in ("stream", "quit")
        body = {"model": model, "messages": [message], "stream": streamed, "options": options}
        return "/api/chat", json.dumps(body).encode()

    def _words(self, count: int) -> str:
        return " ".join(self._random.choices(_WORDS, k=count))

    async def _answer(self, reader: asyncio.StreamReader, request: Request) -> None:
        line = await reader.readuntil(b"\r\n")
        request.first = time.time()
        request.status = int(line.split()[1])
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        leaves_after = self._random.randrange(3, 30) if request.kind == "quit" else None
        if b"transfer-encoding: chunked" in head:
            await self._chunks(reader, request, leaves_after)
        else:
            length = int(head.partition(b"content-length:")[2].split()[0])
            self._take(request, await reader.readexactly(length))
        request.end = time.time()
        if b"connection: close" in head:
            self.close()

    async def _chunks(self, reader: asyncio.StreamReader, request: Request, leaves_after: int | None) -> None:
        while size := int(await reader.readuntil(b"\r\n"), 16):
            self._take(request, await reader.readexactly(size))
            await reader.readexactly(2)
            if leaves_after is not None and request.tokens >= leaves_after and not request.complete:
                self.close()
                return
        await reader.readexactly(2)

    def _take(self, request: Request, text: bytes) -> None:
        for line in text.splitlines():
            said = json.loads(line) if line.strip() else {}
            if said.get("done") or request.kind == "embed":
                request.complete = request.status == 200
                request.tokens = said.get("eval_count", 0)
                request.prompt_tokens = said.get("prompt_eval_count", 0)
            elif "message" in said:
                request.tokens += 1

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def mix(
    address: tuple[str, int], book: Book, kinds: dict[tuple[str, Kind], float], clients: int, seconds: float, seed: int
) -> None:
    """So many clients, each asking again after a short pause, until the time is over; `kinds` weighs (model, kind)."""

    async def one(number: int) -> None:
        chance = random.Random(seed * 1000 + number)
        client = Client(*address, book, chance.randrange(1 << 30))
        until = time.monotonic() + seconds
        await asyncio.sleep(chance.uniform(0.0, 2.0))
        try:
            while time.monotonic() < until:
                model, kind = chance.choices(list(kinds), list(kinds.values()))[0]
                await client.ask(model, kind)
                await asyncio.sleep(chance.expovariate(1.5))
        finally:
            client.close()

    await asyncio.gather(*map(one, range(clients)))


@contextlib.contextmanager
def idle_connections(address: tuple[str, int], count: int) -> Iterator[None]:
    """Connections that never ask anything, as pools keep them."""
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(socket.create_connection(address))
        yield
