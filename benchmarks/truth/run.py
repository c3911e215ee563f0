"""One run under load: all that was written down of it, by the clients, the kernel, the runners and the exporter."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.truth.book import NOTHING, Bounds, Request, Span, unanswered, waiting
from benchmarks.truth.judge import Gauge, Measure, gauge
from benchmarks.truth.pages import Page, Reading, readings
from benchmarks.truth.runners import Runner
from benchmarks.truth.slots import Look, all_busy
from exporter import catalog
from exporter.model import Family

CLOCK = 0.05
"""Seconds by which the wall clock may be set during a run."""


@dataclass(slots=True)
class Run:
    """All that was written down. `names`: blob -> model. `prompts`: their tokens, by model and number. `every`:
    seconds between two looks of each source."""

    kind: str
    server: str
    chat: tuple[str, ...]
    names: Mapping[str, str]
    prompts: Mapping[str, Mapping[int, int]]
    every: float
    seconds: float
    requests: list[Request]
    stalls: list[Span]
    runners: list[Runner]
    looks: Mapping[int, list[Look]]
    pages: list[Page]
    lost: int
    machine: float
    cost: dict[str, float] = field(default_factory=dict)
    added: dict[str, float] = field(default_factory=dict)
    cut: dict[int, dict[str, Any]] = field(default_factory=dict)

    @property
    def clock(self) -> float:
        """Seconds by which the wall clock and the monotonic one went apart."""
        walls = [page.wall for page in self.pages]
        return max(walls) - min(walls)

    @property
    def begun(self) -> float:
        return self.requests[0].sent.low

    def readings(self, source: str) -> list[Reading]:
        return list(readings(self.pages, self.server, source))

    def of(self, family: Family | str, **labels: str) -> Measure:
        name = family if isinstance(family, str) else family.name
        wanted = {"server": self.server, **labels}
        return lambda page: page.value(name, **wanted)

    def gained(self, family: Family | str, **labels: str) -> float | None:
        """From the first page to the last one."""
        measure = self.of(family, **labels)
        last = measure(self.pages[-1])
        return None if last is None else last - (measure(self.pages[0]) or 0.0)

    def busy(self, runners: Iterable[Runner], span: Span) -> Bounds | None:
        """Slots at work of those that lived then."""
        there = [r for r in runners if (r.began or 0.0) <= span.high and (r.ended is None or r.ended >= span.low)]
        return all_busy((self.looks.get(r.pid, []) for r in there), span)

    def model(self, runner: Runner) -> str:
        return self.names.get(runner.blob, runner.blob)


def crashed(runner: Runner) -> bool:
    """Whether Ollama had no part in its end. Ollama ends runners by SIGKILL, or SIGTERM before it."""
    if runner.killed and os.WIFSIGNALED(runner.status) and os.WTERMSIG(runner.status) == runner.killed:
        return True
    if os.WIFSIGNALED(runner.status):
        return os.WTERMSIG(runner.status) not in (signal.SIGKILL, signal.SIGTERM)
    return os.WEXITSTATUS(runner.status) != 0


def unanswered_requests(run: Run) -> Gauge:
    measure = run.of(catalog.SOCKETS_UNANSWERED)
    return gauge(run.readings("sockets"), measure, lambda span: unanswered(run.requests, span))


def busy_slots(run: Run, model: str) -> Gauge:
    ours = [runner for runner in run.runners if run.model(runner) == model]
    measure = run.of(catalog.RUNNER_SLOTS_BUSY, model=model)
    return gauge(run.readings("runner"), measure, lambda span: run.busy(ours, span))


def waiting_bounds(run: Run) -> tuple[Gauge, Gauge]:
    """The bounds that are told of it, each against the side that it must not cross."""

    def truth(span: Span) -> Bounds | None:
        busy = run.busy(run.runners, span)
        return None if busy is None else waiting(run.requests, Bounds(0, 0) if busy == NOTHING else busy, span)

    def lower(span: Span) -> Bounds | None:
        true = truth(span)
        return true and Bounds(0, true.high)

    def upper(span: Span) -> Bounds | None:
        true = truth(span)
        return true and Bounds(true.low, math.inf)

    seen = run.readings("sockets")
    return (
        gauge(seen, run.of(catalog.SOCKETS_WAITING_LOW), lower),
        gauge(seen, run.of(catalog.SOCKETS_WAITING_HIGH), upper),
    )
