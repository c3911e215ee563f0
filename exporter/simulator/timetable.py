"""The incidents of the demo fleet, as data: when, where, what, and what an operator should see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

IncidentKind = Literal["swap_storm", "slow", "saturated", "dead"]


@dataclass(frozen=True, slots=True)
class Incident:
    offset_seconds: float  # from the start of each cycle
    duration_seconds: float
    server: str
    kind: IncidentKind
    should_see: str

    @property
    def end_seconds(self) -> float:
        return self.offset_seconds + self.duration_seconds


@dataclass(frozen=True, slots=True)
class Timetable:
    cycle_seconds: float
    incidents: tuple[Incident, ...]

    def at(self, seconds_since_start: float) -> Incident | None:
        """The incident that is on, at most one at a time."""
        offset = seconds_since_start % self.cycle_seconds
        return next((i for i in self.incidents if i.offset_seconds <= offset < i.end_seconds), None)

    def lines(self) -> Sequence[str]:
        """For people: minute, server, kind and what to look for."""
        return [
            f"{_clock(i.offset_seconds)}-{_clock(i.end_seconds)}  {i.server:<10} {i.kind:<11} {i.should_see}"
            for i in self.incidents
        ]


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes:02d}:{rest:02d}"


DEMO_TIMETABLE = Timetable(
    cycle_seconds=600.0,
    incidents=(
        Incident(
            60.0,
            75.0,
            "secondary",
            "swap_storm",
            "Four models fight for three places: loads and evictions climb, the model list flickers, requests wait.",
        ),
        Incident(
            195.0,
            75.0,
            "tertiary",
            "slow",
            "Everything takes six times as long: time to first token and queue wait rise, token rate falls.",
        ),
        Incident(
            330.0,
            75.0,
            "primary",
            "saturated",
            "More callers than slots: every slot is busy and waiting grows, yet not one request is refused.",
        ),
        Incident(
            465.0,
            75.0,
            "secondary",
            "dead",
            "Connection refused: the server is down, its series end, and it comes back with nothing loaded.",
        ),
    ),
)
