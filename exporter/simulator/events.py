"""What happened on a simulated server, as immutable records: the evidence for "observing did no harm"."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "load",  # a model was placed that was not there
    "load_aborted",  # the client for whom it was loading left
    "load_failed",
    "reload",  # placed again: a request asked for other options, or its runner had died
    "unload",  # a runner ended; detail: expired, requested, evicted, reload, server down
    "evict",  # a model was told to go to make room for another
    "idle",  # a runner finished its last request; value: its new expiry, unix seconds
    "request",  # a request entered the API; detail: endpoint
    "reject",  # 503, the scheduler's queue was full
    "disconnect",  # the client left before its answer was complete
    "external_call",  # the server would have talked to ollama.com or to a registry
    "runner_killed",
    "down",
    "up",
]


@dataclass(frozen=True, slots=True)
class Event:
    at: float  # unix seconds
    kind: Kind
    model: str
    detail: str = ""
    origin: str = ""  # who caused it: a User-Agent, or the name of a synthetic user
    value: float | None = None


class EventLog:
    """The latest events in order, and how many of each kind there ever were."""

    def __init__(self, now: Callable[[], float], keep: int = 50_000) -> None:
        self._now = now
        self._events: deque[Event] = deque(maxlen=keep)
        self._counts: Counter[Kind] = Counter()

    def record(
        self, kind: Kind, model: str = "", detail: str = "", origin: str = "", value: float | None = None
    ) -> None:
        self._events.append(Event(self._now(), kind, model, detail, origin, value))
        self._counts[kind] += 1

    def all(self) -> tuple[Event, ...]:
        return tuple(self._events)

    def of(self, *kinds: Kind, model: str | None = None, origin: str | None = None) -> tuple[Event, ...]:
        return tuple(
            event
            for event in self._events
            if event.kind in kinds
            and (model is None or event.model == model)
            and (origin is None or event.origin == origin)
        )

    def counts(self) -> dict[str, int]:
        return {str(kind): count for kind, count in self._counts.items()}
