"""What the load client writes down of each request, and what follows from it. Nothing is known to a point in time: a
`Span` holds what happened somewhere within it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

Kind = Literal["stream", "plain", "quit", "impatient", "truncated", "embed", "burst"]
Outcome = Literal["open", "done", "gave_up", "cut", "refused", "failed"]


class Span(NamedTuple):
    """Not before `low`, not after `high`."""

    low: float
    high: float


class Bounds(NamedTuple):
    """The truth lies between them, both included."""

    low: float
    high: float

    @property
    def sharp(self) -> bool:
        return self.low == self.high

    def hold(self, value: float) -> bool:
        return self.low <= value <= self.high


LETS_GO = 0.5
"""Seconds within which a runner lets go of a task whose client has left."""
NOTHING = Bounds(-1, -1)
"""There was nothing of which anything could be said; absent is right."""


def arrival(empty: float, stamp: float | None, now: float) -> Span:
    """When bytes arrived that are read `now`, from a connection that was still empty at `empty`. The kernel stamps
    them; where it has put several pieces together, the stamp is the last one's. So the stamp is an upper bound and
    `empty` the lower one, however long the client itself stood still in between."""
    high = now if stamp is None else min(max(stamp, empty), now)
    return Span(empty, high)


@dataclass(slots=True)
class Request:
    """`user`: whose connection it was. `sent`: around the system call that sent it. `first`: the first byte of its
    answer; `end`: the last one, the client's leaving, or the connection's end. `limit`: tokens asked for. `chunks`:
    pieces of a streamed answer, each of one token or more, the last at `last_chunk`. By the final object: `tokens`, the
    `seconds` in which they were made, `prompt_tokens`."""

    number: int
    user: int
    model: str
    kind: Kind
    prompt: int
    limit: int
    sent: Span
    first: Span | None = None
    end: Span | None = None
    outcome: Outcome = "open"
    status: int = 0
    chunks: int = 0
    last_chunk: float = 0.0
    tokens: int = 0
    prompt_tokens: int = 0
    seconds: float = 0.0

    def certainly_unanswered(self, span: Span) -> bool:
        """During all of the span."""
        over = self.first or self.end
        return self.sent.high <= span.low and (over is None or over.low >= span.high)

    def possibly_unanswered(self, span: Span) -> bool:
        """At some moment of the span."""
        over = self.first or self.end
        return self.sent.low <= span.high and (over is None or over.high >= span.low)


def unanswered(requests: Iterable[Request], span: Span) -> Bounds:
    """How many at once somebody can have seen who looked at one connection after the other within the span."""
    near = [request for request in requests if request.possibly_unanswered(span)]
    return Bounds(sum(request.certainly_unanswered(span) for request in near), len(near))


def streaming(requests: Iterable[Request], span: Span) -> Bounds:
    """How many answers were in the making, of which the client had something already."""
    low = high = 0
    for request in requests:
        if request.first is None or request.status != 200:
            continue
        low += request.first.high <= span.low and (request.end is None or request.end.low >= span.high)
        high += request.first.low <= span.high and (request.end is None or request.end.high >= span.low)
    return Bounds(low, high)


def waiting(requests: Sequence[Request], busy: Bounds, span: Span) -> Bounds:
    """How many requests without an answer had no slot, when so many slots of all runners were at work. Each slot at
    work belongs to one of them, to a streamed answer, or to a request that has just ended."""
    asked, streamed = unanswered(requests, span), streaming(requests, span)
    left = sum(
        request.end is not None and request.end.low <= span.high and request.end.high >= span.low - LETS_GO
        for request in requests
    )
    low = max(0, asked.low - max(0, busy.high - streamed.low))
    return Bounds(low, max(low, asked.high - max(0, busy.low - streamed.high - left)))
