"""How a request can end, decided when its answer has ended: under HTTP 200 nothing is decided before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Outcome = Literal[
    "ok",
    "busy",  # 503: the scheduler's queue was full
    "http_4xx",
    "http_5xx",  # but for 503
    "stream_error",  # an error as the last line of an answer that began with 200
    "truncated",  # an answer began, and ended without its end or without a single token
    "malformed",  # 200, and no answer of Ollama's
    "prompt_cut",  # answered, and the server read fewer tokens than words were sent
    "timeout",
    "connection",  # refused, reset, or closed before an answer began
    "client_lag",  # not sent at its time for the tester's own reasons: its limits, its files
    "interrupted",  # in flight when the run was stopped
]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
OURS: frozenset[Outcome] = frozenset({"client_lag", "interrupted"})
"""What says nothing about the server."""

COLD_SECONDS = 0.5
"""From this `load_duration` on a request waited for its model. Warm, it is some milliseconds of scheduling."""


@dataclass(frozen=True, slots=True)
class Result:
    """One request. Times in seconds; `at` is its intended time, counted from the beginning of the run, and every
    latency counts from it. None: not seen, or does not apply."""

    at: float
    phase: str
    workload: str
    model: str
    server: str
    outcome: Outcome
    streamed: bool = True
    status: int | None = None
    send_lag: float = 0.0
    ttft: float | None = None
    total: float | None = None
    longest_gap: float | None = None
    per_token: float | None = None
    queue: float | None = None
    load: float | None = None
    prompt_tokens: int = 0
    tokens: int = 0
    words: int = 0

    @property
    def cold(self) -> bool:
        return self.load is not None and self.load >= COLD_SECONDS

    @property
    def ended_at(self) -> float:
        return self.at + (self.total or 0.0)
