"""When requests are due. Pure: a course of levels over time, and the moments that follow from it.

A level is a share of the load that the scenario names (its users or its rate): 0.5 is half of them.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, count
from typing import Literal

Kind = Literal["poisson", "constant"]
Shape = Literal["steady", "ramp", "step", "spike", "soak", "replay"]


@dataclass(frozen=True, slots=True)
class Phase:
    """`seconds` during which the level goes from `start` to `end` in a straight line."""

    name: str
    seconds: float
    start: float = 1.0
    end: float = 1.0

    @property
    def area(self) -> float:
        return (self.start + self.end) / 2 * self.seconds


@dataclass(frozen=True, slots=True)
class Course:
    phases: tuple[Phase, ...]

    @property
    def seconds(self) -> float:
        return math.fsum(phase.seconds for phase in self.phases)

    @property
    def area(self) -> float:
        """Level times time: how many seconds of the full load it is worth."""
        return math.fsum(phase.area for phase in self.phases)

    @property
    def top(self) -> float:
        return max((max(phase.start, phase.end) for phase in self.phases), default=0.0)

    def begins(self) -> tuple[tuple[float, Phase], ...]:
        starts = accumulate((phase.seconds for phase in self.phases), initial=0.0)
        return tuple(zip(starts, self.phases, strict=False))

    def phase_at(self, moment: float) -> Phase:
        """The last one from its end on."""
        return next((phase for begin, phase in reversed(self.begins()) if moment >= begin), self.phases[0])

    def level(self, moment: float) -> float:
        for begin, phase in self.begins():
            if begin <= moment < begin + phase.seconds:
                return phase.start + (phase.end - phase.start) * (moment - begin) / phase.seconds
        return 0.0

    def when(self, area: float) -> float | None:
        """The moment by which so much of the load has been offered; None beyond the end."""
        for begin, phase in self.begins():
            if area < phase.area:
                return begin + _inverse(phase, area)
            area -= phase.area
        return None

    def next_above(self, moment: float, level: float) -> float | None:
        """From this moment on, the first one with more than this level; None when there is none any more."""
        for begin, phase in self.begins():
            end = begin + phase.seconds
            if end <= moment or max(phase.start, phase.end) <= level:
                continue
            here = max(moment, begin)
            if self.level(here) > level:
                return here
            if phase.end > level:  # rises past it
                reached = begin + (level - phase.start) / (phase.end - phase.start) * phase.seconds
                # Just past it, so that whoever asks again at that moment is told the same.
                return math.nextafter(max(here, reached), math.inf)
        return None


def _inverse(phase: Phase, area: float) -> float:
    """Seconds after which start*t + slope/2*t² is `area`."""
    if area == 0:
        return 0.0
    slope = (phase.end - phase.start) / phase.seconds
    if slope == 0:
        return area / phase.start
    # The form that loses no digits where the slope is small.
    return 2 * area / (phase.start + math.sqrt(max(0.0, phase.start**2 + 2 * slope * area)))


def course(shape: Shape, seconds: float, steps: int = 4, base: float = 0.25) -> Course:
    match shape:
        case "ramp":
            return Course((Phase("ramp", seconds, 0.0, 1.0),))
        case "step":
            each = seconds / steps
            levels = [(number + 1) / steps for number in range(steps)]
            return Course(tuple(Phase(f"step {level:.0%}", each, level, level) for level in levels))
        case "spike":
            calm, spike = 0.4 * seconds, 0.2 * seconds
            return Course(
                (
                    Phase("before", calm, base, base),
                    Phase("spike", spike),
                    Phase("after", seconds - calm - spike, base, base),
                )
            )
        case "soak":  # in thirds, so that a drift from the first to the last can be seen
            return Course(tuple(Phase(f"{name} third", seconds / 3) for name in ("first", "second", "last")))
        case _:
            return Course((Phase(shape, seconds),))


def moments(along: Course, rate: float, kind: Kind, rng: random.Random) -> Iterator[float]:
    """Arrivals at `rate` a second where the level is 1: a Poisson process whose intensity follows the course, or
    evenly spaced in what is offered."""
    if kind == "constant":
        offered: Iterator[float] = (float(number) for number in count())
    else:
        offered = accumulate(rng.expovariate(1.0) for _ in count())
    for so_far in offered:
        moment = along.when(so_far / rate)
        if moment is None:
            return
        yield moment


def replayed(trace: Sequence[float]) -> Course:
    """As long as the trace, and a moment more, in which its last arrival falls."""
    return Course((Phase("replay", max(trace[-1], 0.0) + 0.001),))
