"""The load client: one thread in a process of its own, around one epoll.

It runs only to write down truly when things happened. Each turn of its loop is a look at all connections: what is not
ready has nothing to read, so the moment before the look is the latest at which its answer had certainly not come. When
the client is kept from running, the spans that it writes down grow by themselves.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import socket
import struct
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection

import h11

from benchmarks.truth.book import Kind, Request, Span, arrival

TICK = 0.002
STALL = 0.010
"""Seconds between two looks that count as a stall in the report; spans grow by any."""
_SO_TIMESTAMPNS = 35
_CONTROL = 64
_OVERTIME = 40.0
"""Seconds after the end of a load in which answers are waited for."""


@dataclass(frozen=True, slots=True)
class Ask:
    """`leaves_after` so many pieces of the answer; `leaves_within` so many seconds without any."""

    model: str
    kind: Kind
    prompt: int = 0
    limit: int = 1
    leaves_after: int | None = None
    leaves_within: float | None = None


@dataclass(frozen=True, slots=True)
class Load:
    """`words`: the prompts, by number. `seconds` of load; a user is a generator of `Ask` and of seconds to wait."""

    address: tuple[str, int]
    words: tuple[str, ...]
    seconds: float
    idle: int


User = Generator[Ask | float, None, None]


class _Line:
    """A user and its connection."""

    def __init__(self, client: Client, user: User, number: int) -> None:
        self._client, self._user, self._number = client, user, number
        self.socket: socket.socket | None = None
        self.due = 0.0
        self.empty = 0.0
        self.over = False
        self._http = h11.Connection(h11.CLIENT)
        self._ask: Ask | None = None
        self._request: Request | None = None
        self._text = b""

    def act(self, now: float) -> None:
        """What is due: to ask, to leave, or to find out what is next."""
        if self._request is not None:
            self._leave(self._request)
            return
        step = next(self._user, None)
        if step is None:
            self.over, self.due = True, float("inf")
            self.close()
        elif isinstance(step, Ask):
            self._send(step)
        else:
            self.due = now + step

    def _send(self, ask: Ask) -> None:
        try:
            connection = self.socket or self._connect()
        except OSError:
            self.due = time.monotonic() + 0.5
            return
        body = self._client.body(ask)
        head = h11.Request(
            method="POST",
            target="/api/embed" if ask.kind == "embed" else "/api/chat",
            headers=[("Host", "localhost"), ("Content-Type", "application/json"), ("Content-Length", str(len(body)))],
        )
        text = self._http.send(head)
        data = self._http.send(h11.Data(body))
        self._http.send(h11.EndOfMessage())
        whole = (text or b"") + (data or b"")
        before = time.monotonic()
        try:
            connection.settimeout(5.0)
            connection.sendall(whole)
            connection.setblocking(False)
        except OSError:
            self.close()
            self.due = before + 0.5
            return
        after = time.monotonic()
        self.empty, self._text = before, b""
        self._ask, self._request = ask, self._client.note(ask, self._number, Span(before, after))
        self.due = float("inf") if ask.leaves_within is None else after + ask.leaves_within

    def _connect(self) -> socket.socket:
        connection = socket.create_connection(self._client.load.address, timeout=5.0)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        connection.setblocking(False)
        self.socket, self._http = connection, h11.Connection(h11.CLIENT)
        self._client.watch(self, connection.fileno())
        return connection

    def read(self) -> None:
        """All that is there. The first byte of an answer is read alone, for its stamp's sake."""
        request = self._request
        while self.socket is not None and self._request is request:
            size = 1 if request is not None and request.first is None else 1 << 16
            try:
                data, control, _, _ = self.socket.recvmsg(size, _CONTROL)
            except BlockingIOError:
                return
            except OSError:
                data, control = b"", []
            span = arrival(self.empty, _stamp(control), time.monotonic())
            if request is None:  # an idle connection that the server closes
                self.close()
            elif data:
                if request.first is None:
                    request.first, self.due = span, float("inf")
                self._feed(request, data, span)
            else:
                self._end(request, span, "cut" if request.status in (0, 200) else "failed")
                self.close()

    def _feed(self, request: Request, data: bytes, span: Span) -> None:
        self._http.receive_data(data)
        while self._request is request:
            event = self._http.next_event()
            if isinstance(event, h11.Response):
                request.status = event.status_code
            elif isinstance(event, h11.Data):
                self._take(request, bytes(event.data), span)
            elif isinstance(event, h11.EndOfMessage):
                self._finish(request, span)
            else:
                return

    def _take(self, request: Request, data: bytes, span: Span) -> None:
        *lines, self._text = (self._text + data).split(b"\n")
        for line in lines:
            self._say(request, line, span)
        after = self._ask.leaves_after if self._ask is not None else None
        if after is not None and request.chunks >= after and request.outcome == "open":
            self._leave(request)

    def _say(self, request: Request, line: bytes, span: Span) -> None:
        said = json.loads(line) if line.strip() else {}
        if said.get("done") or (request.kind == "embed" and "embeddings" in said):
            request.outcome = "done"
            request.tokens = said.get("eval_count", 0)
            request.prompt_tokens = said.get("prompt_eval_count", 0)
            request.seconds = said.get("eval_duration", 0) / 1e9
        elif "message" in said:
            request.chunks += 1
            request.last_chunk = span.high

    def _finish(self, request: Request, span: Span) -> None:
        self._say(request, self._text if request.status == 200 else b"", span)
        ways = {503: "refused", 200: "cut"}
        outcome = "done" if request.outcome == "done" else ways.get(request.status, "failed")
        self._end(request, span, outcome)
        if self._http.their_state is h11.DONE and self._http.our_state is h11.DONE:
            self._http.start_next_cycle()
        else:
            self.close()

    def _leave(self, request: Request) -> None:
        before = time.monotonic()
        self.close()
        self._end(request, Span(before, time.monotonic()), "gave_up")

    def _end(self, request: Request, span: Span, outcome: str) -> None:
        request.end, request.outcome = span, outcome  # type: ignore[assignment]
        self._request, self.due = None, 0.0

    def close(self) -> None:
        if self.socket is not None:
            self._client.forget(self.socket.fileno())
            self.socket.close()
            self.socket = None


class Client:
    def __init__(self, load: Load, users: Iterator[User]) -> None:
        self.load = load
        self.requests: list[Request] = []
        self.stalls: list[Span] = []
        self._poll = select.epoll()
        self._by_fd: dict[int, _Line] = {}
        self._lines = [_Line(self, user, number) for number, user in enumerate(users)]

    def run(self) -> None:
        until = time.monotonic() + self.load.seconds + _OVERTIME
        with contextlib.ExitStack() as stack:
            for _ in range(self.load.idle):
                stack.enter_context(socket.create_connection(self.load.address))
            last = time.monotonic()
            while not all(line.over for line in self._lines) and last < until:
                last = self._turn(last)
        for line in self._lines:
            line.close()

    def _turn(self, last: float) -> float:
        before = time.monotonic()
        if before - last > STALL:
            self.stalls.append(Span(last, before))
        ready = {fd for fd, _ in self._poll.poll(TICK)}
        for fd, line in self._by_fd.items():
            if fd not in ready:
                line.empty = max(line.empty, before)
        for fd in ready:
            if fd in self._by_fd:
                self._by_fd[fd].read()
        now = time.monotonic()
        for line in self._lines:
            if line.due <= now:
                line.act(now)
        return before

    def watch(self, line: _Line, fd: int) -> None:
        self._by_fd[fd] = line
        self._poll.register(fd, select.EPOLLIN)

    def forget(self, fd: int) -> None:
        self._poll.unregister(fd)
        del self._by_fd[fd]

    def note(self, ask: Ask, user: int, sent: Span) -> Request:
        request = Request(len(self.requests), user, ask.model, ask.kind, ask.prompt, ask.limit, sent)
        self.requests.append(request)
        return request

    def body(self, ask: Ask) -> bytes:
        words = self.load.words[ask.prompt]
        if ask.kind == "embed":
            return json.dumps({"model": ask.model, "input": words}).encode()
        streamed = ask.kind in ("stream", "quit", "impatient")
        message = {"role": "user", "content": words}
        options = {"num_predict": ask.limit, "temperature": 1.0}
        return json.dumps({"model": ask.model, "messages": [message], "stream": streamed, "options": options}).encode()


def _stamp(control: list[tuple[int, int, bytes]]) -> float | None:
    """The kernel's time of arrival; it goes by the wall clock. Who is interrupted between the two clocks takes it to be
    later than it was, never earlier."""
    for level, kind, data in control:
        if level == socket.SOL_SOCKET and kind == _SO_TIMESTAMPNS:
            seconds, nanoseconds = struct.unpack_from("=qq", data)
            age: float = (time.time_ns() - (seconds * 10**9 + nanoseconds)) / 1e9
            return time.monotonic() - age
    return None


def serve(load: Load, users: Iterator[User], parent: Connection) -> None:
    """The whole life of the client's process: the load, then the book."""
    with contextlib.suppress(PermissionError):
        os.nice(-10)
    gc.collect()
    gc.freeze()
    gc.disable()
    client = Client(load, users)
    parent.send(time.monotonic())
    client.run()
    parent.send((client.requests, client.stalls))
