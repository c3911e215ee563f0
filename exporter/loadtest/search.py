"""The highest load within the objectives: a sweep that doubles, then bisection. Pure but for what it awaits."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal

_CLOSE = 0.1
"""Bisection ends when what failed is this much above what was kept."""
LEVELS_MAX = 16
_MORE_LOAD, _MORE_THROUGHPUT = 1.4, 1.05

Word = Literal["pass", "fail", "invalid"]


@dataclass(frozen=True, slots=True)
class Level:
    """A load (users, or requests a second) as it was borne in all its runs. `throughput`: answers a second; `spread`:
    the least and the greatest of the runs; `ttft` is the median over runs of their 95th percentiles (of what began)."""

    load: float
    verdict: Word
    runs: int
    throughput: float
    spread: tuple[float, float]
    ttft: float | None
    goodput: float | None
    why: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Found:
    """`highest`: the highest load at which every run kept the objectives; `lowest_failed`: the lowest at which one did
    not. None: there was none."""

    levels: tuple[Level, ...]
    highest: Level | None
    lowest_failed: Level | None
    knee: Level | None
    saturation: Level | None

    @property
    def bounded_by_tester(self) -> bool:
        return self.lowest_failed is not None and self.lowest_failed.verdict == "invalid"


class Stopped(Exception):
    """Somebody does not want to wait for more."""


async def search(measure: Callable[[float], Awaitable[Level]], start: float, most: float, *, whole: bool) -> Found:
    """`whole`: loads are numbers of users. An invalid level ends the way up, too: nothing beyond it can be told. When
    `measure` raises Stopped, what was found so far is what was found."""
    levels: list[Level] = []
    with contextlib.suppress(Stopped):
        load: float | None = _fit(start, whole)
        while load is not None and load <= most:
            levels.append(await measure(load))
            load = _next(levels, most, whole)
    ordered = tuple(sorted(levels, key=lambda each: each.load))
    highest, failed = _between(levels)
    return Found(ordered, highest, failed, knee(ordered), saturation(ordered))


def _between(levels: Sequence[Level]) -> tuple[Level | None, Level | None]:
    """The highest that was kept below the lowest that was not."""
    failed = min((each for each in levels if each.verdict != "pass"), key=lambda each: each.load, default=None)
    kept = [each for each in levels if each.verdict == "pass" and (failed is None or each.load < failed.load)]
    return max(kept, key=lambda each: each.load, default=None), failed


def _next(levels: Sequence[Level], most: float, whole: bool) -> float | None:
    """Double until one fails, then halve what is between; None when it is known well enough."""
    highest, failed = _between(levels)
    if highest is None:
        return None
    if failed is None:
        return min(_fit(2 * highest.load, whole), most) if highest.load < most else None
    load = _fit((highest.load + failed.load) / 2, whole)
    close = failed.load - highest.load <= _CLOSE * failed.load or load in (highest.load, failed.load)
    return None if close or len(levels) >= LEVELS_MAX else load


def _fit(load: float, whole: bool) -> float:
    return float(max(1, round(load))) if whole else round(load, 3)


def knee(levels: Sequence[Level]) -> Level | None:
    """Where latency begins to rise faster than throughput: the point farthest below the straight line between the first
    and the last, both scaled to 1. None where the line is not bent."""
    valid = [each for each in levels if each.verdict != "invalid"]
    known = [(each, each.throughput, each.ttft) for each in valid if each.ttft is not None]
    if len(known) < 3:
        return None
    (_, x0, y0), (_, x1, y1) = known[0], known[-1]
    if x1 <= x0 or y1 <= y0:
        return None
    away = [((x - x0) / (x1 - x0) - (y - y0) / (y1 - y0), each) for each, x, y in known]
    distance, best = max(away, key=lambda pair: pair[0])
    return best if distance > 0.1 else None


def saturation(levels: Sequence[Level]) -> Level | None:
    """The lowest load from which much more load brought hardly more answers."""
    valid = [each for each in levels if each.verdict != "invalid"]
    for place, level in enumerate(valid):
        beyond = [each for each in valid[place + 1 :] if each.load >= _MORE_LOAD * level.load]
        if beyond and max(each.throughput for each in beyond) < _MORE_THROUGHPUT * level.throughput:
            return level
    return None
