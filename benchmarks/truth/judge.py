"""What was measured against what is true. Pure: readings, spans and bounds in, verdicts out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.truth.book import LETS_GO, NOTHING, Bounds, Request, Span
from benchmarks.truth.pages import Page, Reading
from benchmarks.truth.slots import Task

Measure = Callable[[Page], float | None]

_DIED_BEFORE = 2.0
"""Seconds within which a client is told that the runner of its answer is dead."""
_TEMPLATE = 2
"""Tokens by which two counts of the same prompt may differ."""


@dataclass(slots=True)
class Gauge:
    """Readings of a gauge. Where the truth is one number (`sharp`) a reading is exact or wrong; where it changed within
    the reading it is within its bounds or wrong. `unjudged`: nothing is known of that moment. `absent`: nothing was
    said though the truth was known. `gone`: nothing was said, and nothing was there. `busy`: sharp ones above 0, which
    are the hard ones."""

    exact: int = 0
    within: int = 0
    absent: int = 0
    gone: int = 0
    unjudged: int = 0
    busy: int = 0
    wrong: list[tuple[Span, float, Bounds]] = field(default_factory=list)
    sharp_wrong: int = 0

    @property
    def sharp(self) -> int:
        return self.exact + self.sharp_wrong

    @property
    def judged(self) -> int:
        return self.exact + self.within + len(self.wrong)

    @property
    def all(self) -> int:
        return self.judged + self.absent + self.unjudged + self.gone

    def holds(self, share: float) -> bool | None:
        """So large a share of readings is right. None: too few were sharp to say so; those that were within wide bounds
        prove nothing."""
        told = self.judged + self.absent
        if not told or self.sharp < (self.all - self.gone) / 2:
            return None if not self.wrong else False
        return self.exact >= share * self.sharp and self.exact + self.within >= share * told


def gauge(readings: Iterable[Reading], measure: Measure, truth: Callable[[Span], Bounds | None]) -> Gauge:
    seen = Gauge()
    for reading in readings:
        bounds, told = truth(reading.span), measure(reading.page)
        if bounds is None:
            seen.unjudged += 1
        elif told is None:
            seen.absent += bounds != NOTHING
            seen.gone += bounds == NOTHING
        elif not bounds.hold(told):
            seen.wrong.append((reading.span, told, bounds))
            seen.sharp_wrong += bounds.sharp
        elif bounds.sharp:
            seen.exact += 1
            seen.busy += bounds.low > 0
        else:
            seen.within += 1
    return seen


@dataclass(frozen=True, slots=True)
class Count:
    """Of a counter of events. A missed one and one that was counted twice do not make up for each other, unless both
    happen within the time that a source has to notice."""

    true: int
    told: float | None
    missed: int
    twice: int


def counted(readings: Sequence[Reading], measure: Measure, events: Sequence[float], lag: float) -> Count:
    """`lag`: seconds that the source has to notice an event."""
    if not readings or measure(readings[-1].page) is None:
        return Count(len(events), None, len(events), 0)
    first = readings[0]
    begun, base = first.span.high, measure(first.page) or 0.0
    events = [at for at in events if at > begun]
    missed = twice = 0.0
    told = 0.0
    for reading in readings:
        told = (measure(reading.page) or 0.0) - base
        missed = max(missed, sum(at < reading.span.low - lag for at in events) - told)
        twice = max(twice, told - sum(at <= reading.span.high for at in events))
    return Count(len(events), told, max(int(missed), int(len(events) - told)), int(twice))


@dataclass(frozen=True, slots=True)
class Amount:
    """A sum whose truth is known within bounds. `off`: the share by which it is outside of them, `width`: that by which
    they lie apart."""

    true: Bounds
    told: float | None

    @property
    def off(self) -> float:
        if self.told is None:
            return math.inf
        out = min(0.0, self.told - self.true.low) + max(0.0, self.told - self.true.high)
        return out / max(1.0, self.true.low)

    @property
    def width(self) -> float:
        return (self.true.high - self.true.low) / max(1.0, self.true.low)

    def holds(self, share: float) -> bool | None:
        """Certainly within the share of what is true; None: the bounds are too wide to say."""
        if abs(self.off) > share:
            return False
        if self.told is None:
            return False
        farthest = max(self.told - self.true.low, self.true.high - self.told) / max(1.0, self.true.low)
        return True if farthest <= share else None


def total(bounds: Iterable[Bounds]) -> Bounds:
    low = high = 0.0
    for each in bounds:
        low, high = low + each.low, high + each.high
    return Bounds(low, high)


# -- tokens


def pace(requests: Iterable[Request]) -> float:
    """Tokens a second that were made at most for one request."""
    return max((r.tokens / r.seconds for r in requests if r.tokens >= 10 and r.seconds > 0), default=200.0)


def own(request: Request, met: Iterable[Task], prompt: int | None) -> list[Task]:
    """Those of its model's tasks that may have been this request's, which was cut."""
    return [task for task in met if _may_be(task, request, prompt)]


def _may_be(task: Task, request: Request, prompt: int | None) -> bool:
    if request.end is None:
        return task.end.high >= request.sent.low
    earlier = 0.0 if request.outcome == "gave_up" else _DIED_BEFORE
    if task.end.high < max(request.end.low - earlier, request.sent.low) or task.end.low > request.end.high + LETS_GO:
        return False
    if task.tokens.high < request.chunks:
        return False
    return not prompt or not task.tokens.low or abs(task.prompt - prompt) <= _TEMPLATE


def certain(request: Request, own: Sequence[Task], others: Iterable[Request], known: Mapping[int, int]) -> bool:
    """Whether the one task that may have been this request's can have been none of the others of its model. `known`:
    tokens of prompts."""
    if len(own) != 1 or request.prompt not in known:
        return False
    (task,) = own
    return not any(
        other is not request
        and abs(known.get(other.prompt, task.prompt) - task.prompt) <= _TEMPLATE
        and other.sent.low <= task.end.high
        and (other.end is None or other.end.high + LETS_GO >= task.end.low)
        for other in others
    )


def generated(request: Request, own: Sequence[Task], unseen: float, sure: bool = False) -> Bounds:
    """Tokens that were made for a request. `own`: the tasks one of which may have been its own, or certainly was
    (`sure`); `unseen`: tokens of one that came and went between two looks, at most."""
    if request.outcome == "done":
        return Bounds(request.tokens, request.tokens)
    if request.outcome == "refused" or request.kind == "embed":
        return Bounds(0, 0)
    high = min(request.limit, max((task.tokens.high for task in own), default=request.chunks + unseen))
    low = max(request.chunks, own[0].tokens.low) if sure else request.chunks
    return Bounds(min(low, request.limit), max(low, high))


def read(request: Request, own: Sequence[Task], prompt: int, sure: bool = False) -> Bounds:
    """Tokens of its prompt that its runner took in, cached ones included. `prompt`: all of them."""
    if request.outcome == "done":
        return Bounds(request.prompt_tokens, request.prompt_tokens)
    if request.outcome == "refused":
        return Bounds(0, 0)
    begun = request.chunks or (sure and own[0].tokens.low)
    return Bounds(prompt if begun else 0, prompt)


def with_status(requests: Iterable[Request], low: int, high: int, but: int = 0) -> Bounds:
    """Requests by the status that their clients were answered. Those who left before may have got any beyond 2xx, or
    none."""
    requests = list(requests)
    certain = sum(low <= r.status <= high and r.status != but for r in requests)
    unknown = sum(r.first is None for r in requests) if low >= 400 else 0
    return Bounds(certain, certain + unknown)
