"""What must hold, whatever happens."""

from __future__ import annotations

from dataclasses import dataclass

from tests.chaos.house import Seen
from tests.chaos.table import Fault

LATE = 3.0
"""Intervals of polling that two polls of a neighbour may lie apart: its own, one more, and one for a busy machine."""
PAGE_SECONDS = 5.0
"""Half of the time that Prometheus waits for a page."""
GROWN = 10 * 2**20
"""Bytes by which an exporter may be larger after its last round than after any before: what malloc keeps in pieces."""
OPENED = 10
"""File descriptors likewise: connections that are made for one poll, a scraper, a look at a file."""
_BUSY = frozenset({"timeout", "connect_timeout"})


@dataclass(frozen=True, slots=True)
class Verdict:
    """Each is empty, or says what is wrong. `unseen`: the page never showed the fault; `reason`: it showed another;
    `false`: it showed what was not so; `delayed`: neighbours or scrapers had to wait; `ill`: not all were well again;
    `swollen`: memory or file descriptors have grown; `crashed`: the exporter ended, or tells of errors."""

    unseen: str
    reason: str
    false: str
    delayed: str
    ill: str
    swollen: str
    crashed: str


def judge(fault: Fault, seen: Seen) -> Verdict:
    outcome = seen.of(fault.name)
    return Verdict(
        unseen=_list(outcome.unseen),
        reason=_reason(fault, outcome.reasons, outcome.states),
        false=_list(outcome.wrongs | set(seen.wrongs)),
        delayed=_delayed(seen),
        ill=_list(outcome.ill),
        swollen=_swollen(seen),
        crashed=_crashed(seen),
    )


def _list(things: set[str]) -> str:
    return "; ".join(sorted(things)[:10])


def _reason(fault: Fault, reasons: set[str], states: set[str]) -> str:
    missing, strange = fault.reasons - reasons, reasons - fault.reasons - fault.also - _BUSY
    if missing or strange or states != fault.states:
        return f"missing {sorted(missing)}, strange {sorted(strange)}, states {sorted(states)}"
    return ""


def _delayed(seen: Seen) -> str:
    late = {f"{who}: {gap:.1f} intervals" for who, gap in seen.gaps.items() if gap > LATE}
    if seen.unanswered:
        late.add(f"{seen.unanswered} pages did not come")
    if seen.slowest > PAGE_SECONDS:
        late.add(f"a page took {seen.slowest:.1f} s")
    return _list(late)


def _swollen(seen: Seen) -> str:
    grown = {
        f"{program}: {values} bytes"
        for program, values in seen.memory.items()
        if values[-1] > max(values[1:-1] or values[:1]) + GROWN
    }
    opened = {f"{program}: {values} files" for program, values in seen.files.items() if values[-1] > values[0] + OPENED}
    return _list(grown | opened)


def _crashed(seen: Seen) -> str:
    ended = {f"{program} ended with {code}" for program, code in seen.exit_codes.items() if code}
    return _list(ended | set(seen.complaints))
