"""Who talks to a simulated server, and how far each conversation is: what a kernel could tell of its connections."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

_IDLE_SECONDS = 5.0
_ACKNOWLEDGED_ALONE = 0.04
_REQUEST_BYTES = 400
_ANSWER_BYTES, _END_BYTES = 450, 5
_BYTES_PER_SECOND, _PIECE_BYTES = 5_000, 500


@dataclass(frozen=True, slots=True)
class Talk:
    """One connection at one moment. Bytes so far; ages in seconds, None where nothing was sent yet. `acknowledged`: how
    many requests were acknowledged alone, because their answers took too long to do it; `requests`: all of them;
    `pieces`: that something was sent in."""

    number: int
    origin: str
    received: int
    sent: int
    received_ago: float
    sent_ago: float | None
    acknowledged: int
    requests: int
    pieces: int


class Call:
    """One request while it is worked on, and its connection afterwards. `streams`: of a request without HTTP."""

    def __init__(self, number: int, origin: str, streams: bool, before: Call | None) -> None:
        self.number: int = number if before is None else before.number
        self.origin = origin
        self._streams = streams
        self._loop = asyncio.get_running_loop()
        self._received_at = self._loop.time()
        self._before = None if before is None else before.now()
        self._flows_since: float | None = None
        self._first_at: float | None = None
        self._sent_at: float | None = None
        self._sent = self._pieces = 0
        self.broken = False
        """Its server has ended, and the connection with it."""

    def sent(self, size: int) -> None:
        """A part of the answer has gone out."""
        self._sent_at = self._loop.time()
        self._first_at = self._first_at or self._sent_at
        self._sent += size
        self._pieces += 1 + size // _PIECE_BYTES

    def token(self) -> None:
        """The answer has begun, and goes out token by token if it is streamed."""
        if self._flows_since is None and self._streams:
            self._flows_since = self._first_at = self._loop.time()

    def end(self) -> None:
        flowed, self._flows_since = self._flows_since, None
        if flowed is not None:
            self.sent(self._flowed(flowed) + _ANSWER_BYTES)  # the last line tells what it cost
        else:
            self.sent(_END_BYTES if self._sent else _ANSWER_BYTES)

    def now(self) -> Talk:
        time, before = self._loop.time(), self._before
        flows_since, sent_at, sent, pieces = self._flows_since, self._sent_at, self._sent, self._pieces
        if flows_since is not None:
            sent, sent_at = self._flowed(flows_since), time
            pieces = 1 + sent // _PIECE_BYTES
        sent_ago = None if sent_at is None else time - sent_at
        received_ago = time - self._received_at
        if before is not None and before.sent_ago is not None and sent_ago is None:
            sent_ago = before.sent_ago + received_ago
        alone = (self._first_at or time) - self._received_at >= _ACKNOWLEDGED_ALONE
        return Talk(
            self.number,
            self.origin,
            _REQUEST_BYTES + (before.received if before else 0),
            sent + (before.sent if before else 0),
            received_ago,
            sent_ago,
            alone + (before.acknowledged if before else 0),
            1 + (before.requests if before else 0),
            pieces + (before.pieces if before else 0),
        )

    def _flowed(self, since: float) -> int:
        return _ANSWER_BYTES + int((self._loop.time() - since) * _BYTES_PER_SECOND)


class Ledger:
    """`now` may be asked from any thread. People come through few programs, which use idle connections again."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._calls: dict[int, Call] = {}
        self._idle: dict[int, Call] = {}
        self._untaken: set[int] = set()
        self._listening = True
        self._takes = True

    @contextlib.contextmanager
    def call(self, origin: str) -> Iterator[Call]:
        """A request, for as long as the block lasts; its connection stays open for a while, unless it broke. Every
        second one is streamed, where that does not show by itself."""
        number = next(self._numbers)
        call = Call(number, origin, number % 2 == 1, self._take(origin))
        self._calls[call.number] = call
        if not self._takes:
            self._untaken.add(call.number)
        try:
            yield call
            call.end()
        finally:
            self._calls.pop(call.number, None)
            self._untaken.discard(call.number)
        if not call.broken:
            self._idle[call.number] = call

    def _take(self, origin: str) -> Call | None:
        """The idle connection that was used last, and no more of those that are too old."""
        self._idle = {number: call for number, call in self._idle.items() if _is_open(call.now())}
        last = next((number for number, call in reversed(self._idle.items()) if call.origin == origin), None)
        return None if last is None else self._idle.pop(last)

    def now(self) -> tuple[Talk, ...]:
        idle = (call.now() for call in tuple(self._idle.values()))
        return (*(call.now() for call in tuple(self._calls.values())), *(talk for talk in idle if _is_open(talk)))

    @property
    def listening(self) -> bool:
        return self._listening

    @property
    def accept_queue(self) -> int:
        """Connections that the kernel has accepted and the process has not taken. They are among `now()`."""
        return len(self._untaken)

    def listen(self) -> None:
        self._listening = True

    def take(self, takes: bool) -> None:
        """Whether the process takes connections; what has waited is taken at once."""
        self._takes = takes
        if takes:
            self._untaken.clear()

    def hang_up(self) -> None:
        """The process has ended, and its connections with it."""
        self._listening = False
        for call in self._calls.values():
            call.broken = True
        for calls in (self._calls, self._idle, self._untaken):
            calls.clear()


def _is_open(idle: Talk) -> bool:
    return idle.sent_ago is not None and idle.sent_ago < _IDLE_SECONDS
