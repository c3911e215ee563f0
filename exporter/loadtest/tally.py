"""Results -> counts and distributions: of all of them, and apart by workload, server, phase, start and time."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from exporter.loadtest.measure import Histogram
from exporter.loadtest.outcomes import OUTCOMES, Outcome, Result
from exporter.loadtest.run import SETTLING
from exporter.loadtest.scenario import Objectives, Scenario

K = TypeVar("K")
_SLICES, _SLICES_LEAST, _IN_A_SLICE = 120, 12, 6


def good(result: Result, objectives: Objectives) -> bool:
    """Whether a user could not complain: answered well, and within every `good_*`. What does not apply is kept."""
    if result.outcome != "ok":
        return False
    bounds = (
        (result.ttft, objectives.good_ttft), (result.total, objectives.good_total),
        (result.per_token, objectives.good_per_token),
    )  # fmt: skip
    return all(value is None or bound is None or value <= bound for value, bound in bounds)


@dataclass(slots=True)
class Group:
    """`censored`: cut off by us before they could miss an objective; they are in no denominator. `missing`: streamed
    requests that failed, which count as slower than any in the time to the first token; `lost` in the whole time."""

    objectives: Objectives
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    good: int = 0
    censored: int = 0
    missing: int = 0
    lost: int = 0
    ttft: Histogram = field(default_factory=Histogram)
    total: Histogram = field(default_factory=Histogram)
    per_token: Histogram = field(default_factory=Histogram)
    queue: Histogram = field(default_factory=Histogram)
    load: Histogram = field(default_factory=Histogram)
    gaps: Histogram = field(default_factory=Histogram)
    prompt_tokens: int = 0
    tokens: int = 0
    words: int = 0

    @property
    def offered(self) -> int:
        return self.outcomes.total()

    @property
    def completed(self) -> int:
        return self.outcomes["ok"]

    @property
    def judged(self) -> int:
        return self.offered - self.censored

    @property
    def success(self) -> float | None:
        return self.completed / self.judged if self.judged else None

    @property
    def goodput(self) -> float | None:
        return self.good / self.judged if self.judged else None

    @property
    def failed(self) -> dict[Outcome, int]:
        return {outcome: self.outcomes[outcome] for outcome in OUTCOMES if outcome != "ok"}

    def add(self, result: Result) -> None:
        self.outcomes[result.outcome] += 1
        self.prompt_tokens += result.prompt_tokens
        self.tokens += result.tokens
        self.words += result.words
        if result.outcome != "ok":
            self._failed(result)
            return
        self.good += good(result, self.objectives)
        pairs = (
            (self.ttft, result.ttft), (self.total, result.total), (self.per_token, result.per_token),
            (self.queue, result.queue), (self.load, result.load),
        )  # fmt: skip
        for histogram, value in pairs:
            if value is not None:
                histogram.record(value)

    def _failed(self, result: Result) -> None:
        if result.outcome == "interrupted" and not self._hopeless(result):
            self.censored += 1
            return
        self.lost += 1
        self.missing += result.streamed

    def _hopeless(self, result: Result) -> bool:
        """Cut off, when it had waited for its first token longer than any may."""
        bound = self.objectives.ttft_p99
        return bound is not None and result.streamed and result.ttft is None and (result.total or 0.0) > bound


@dataclass(slots=True)
class Slice:
    """A stretch of time. Requests count where they were due, answers and tokens where they ended."""

    offered: int = 0
    failed: int = 0
    ended: int = 0
    tokens: int = 0
    ttft: Histogram = field(default_factory=Histogram)
    total: Histogram = field(default_factory=Histogram)

    def merge(self, other: Slice) -> None:
        self.offered += other.offered
        self.failed += other.failed
        self.ended += other.ended
        self.tokens += other.tokens
        self.ttft.merge(other.ttft)
        self.total.merge(other.total)


class Tally:
    """Of one run. What came while it settled is in `settling` and in the slices alone."""

    def __init__(self, scenario: Scenario) -> None:
        self._objectives = scenario.objectives
        self.all = self._group()
        self.settling = self._group()
        self.by_workload: dict[tuple[str, str], Group] = {}
        self.by_server: dict[str, Group] = {}
        self.by_phase: dict[str, Group] = {}
        self.cold, self.warm = self._group(), self._group()
        self.send_lag = Histogram()
        self.unsent = 0
        self.width = max(1.0, scenario.course.seconds / _SLICES)
        self.slices: list[Slice] = []
        self._gaps: dict[str, Histogram] = {}
        for workload in scenario.workloads:
            group = self._of(self.by_workload, (workload.name, scenario.model_of(workload)))
            self._gaps[workload.name] = group.gaps

    def hear(self, result: Result) -> None:
        self._slice(result)
        if result.outcome == "client_lag":
            self.unsent += 1
        else:
            self.send_lag.record(result.send_lag)
        if result.phase == SETTLING:
            self.settling.add(result)
            return
        self.all.add(result)
        self._of(self.by_workload, (result.workload, result.model)).add(result)
        self._of(self.by_server, result.server).add(result)
        self._of(self.by_phase, result.phase).add(result)
        if result.load is not None:
            (self.cold if result.cold else self.warm).add(result)

    def gaps_of(self, workload: str) -> Callable[[float], None]:
        """Who takes the seconds between two pieces of an answer: there are thousands a second."""
        return self._gaps[workload].record

    def gaps(self) -> Histogram:
        """Of all workloads, put together when it is asked for."""
        merged = Histogram()
        for gaps in self._gaps.values():
            merged.merge(gaps)
        return merged

    def timeline(self) -> tuple[float, list[Slice]]:
        """The slices and their width, so wide that a usual one has some requests: a line with holes shows little."""
        offered = sum(each.offered for each in self.slices)
        whole = math.ceil(_IN_A_SLICE * len(self.slices) / max(1, offered))
        together = max(1, min(whole, len(self.slices) // _SLICES_LEAST))
        merged = []
        for start in range(0, len(self.slices), together):
            merged.append(Slice())
            for each in self.slices[start : start + together]:
                merged[-1].merge(each)
        return together * self.width, merged

    def _of(self, groups: dict[K, Group], key: K) -> Group:
        group = groups.get(key)
        if group is None:
            group = groups[key] = self._group()
        return group

    def _group(self) -> Group:
        return Group(self._objectives)

    def _slice(self, result: Result) -> None:
        due = self._at(result.at)
        due.offered += 1
        due.failed += result.outcome != "ok"
        if result.ttft is not None:
            due.ttft.record(result.ttft)
        if result.outcome == "ok" and result.total is not None:
            due.total.record(result.total)
            ended = self._at(result.ended_at)
            ended.ended += 1
            ended.tokens += result.tokens

    def _at(self, moment: float) -> Slice:
        place = int(moment / self.width)
        while len(self.slices) <= place:
            self.slices.append(Slice())
        return self.slices[place]
