"""A house: an exporter, servers, and what happens to them; a process of its own, in namespaces of its own.

    unshare --net --mount --pid --fork --mount-proc --kill-child python -m tests.chaos.house NAME FOLDER

writes FOLDER/seen.json.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.chaos.judge import Judge, failures, state_of
from tests.chaos.program import Page, Program
from tests.chaos.trouble import Victim, done

PATIENCE = 60.0
"""Seconds at most until a page shows a fault, or its end. Much more than it takes, so that only its absence fails."""
LONGEST = 360.0
"""Seconds until it is given up; it takes 60."""
_COMPLAINT = re.compile(r"^.* ERROR .*$|^Traceback.*$|^\S*(?:Error|Exception): .*$", re.MULTILINE)


@dataclass(slots=True)
class Outcome:
    """Of one fault. `unseen`: servers whose page never showed it; `ill`: those that were not well again afterwards;
    `wrongs`: what stood on a page and must not."""

    reasons: set[str] = field(default_factory=set)
    states: set[str] = field(default_factory=set)
    unseen: set[str] = field(default_factory=set)
    ill: set[str] = field(default_factory=set)
    wrongs: set[str] = field(default_factory=set)


@dataclass(slots=True)
class Seen:
    """What came of all faults of a house. By exporter: `memory` and `files`, its bytes and file descriptors after each
    round, and its `exit_codes` after SIGTERM. By exporter and neighbour: `gaps`, the most time between two polls, in
    intervals of polling. `complaints`: errors in a log; `unanswered`: pages that
    did not come; `slowest`: most seconds that one took; `took`: seconds for all."""

    outcomes: dict[str, Outcome] = field(default_factory=dict)
    gaps: dict[str, float] = field(default_factory=dict)
    memory: dict[str, list[int]] = field(default_factory=dict)
    files: dict[str, list[int]] = field(default_factory=dict)
    wrongs: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    unanswered: int = 0
    slowest: float = 0.0
    pages: int = 0
    exit_codes: dict[str, int] = field(default_factory=dict)
    took: float = 0.0

    @classmethod
    def read(cls, path: Path) -> Seen:
        raw = json.loads(path.read_text())
        outcomes = {
            fault: Outcome(**{key: set(values) for key, values in told.items()})
            for fault, told in raw.pop("outcomes").items()
        }
        return cls(outcomes, **raw)

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), default=sorted, indent=1))

    def of(self, fault: str) -> Outcome:
        return self.outcomes.setdefault(fault, Outcome())

    async def measure(self, program: Program) -> None:
        """At the end of a round. Of files the least within a second: connections come and go with each poll."""
        files = []
        for _ in range(10):
            files.append(program.files)
            await asyncio.sleep(0.1)
        self.memory.setdefault(program.name, []).append(await program.memory())
        self.files.setdefault(program.name, []).append(min(files))


class Play:
    """Lets the troubles happen, all at once, and writes down what comes of them. `troubles`: victims by fault."""

    def __init__(self, program: Program, judge: Judge, troubles: Mapping[str, Sequence[Victim]], seen: Seen) -> None:
        self.program, self.judge, self.seen = program, judge, seen
        self._victims = [(fault, victim) for fault, victims in troubles.items() for victim in victims]

    async def until_well(self) -> None:
        """As it begins. Raises when it does not come."""
        ill = await self._until_all(lambda _, victim, page: victim.is_well(page))
        if ill:
            told = {victim.name: failures(self.judge.page, victim.name) for _, victim in ill}
            raise AssertionError(f"not well before anything was done to them: {told}")

    async def round(self) -> None:
        before = self.judge.page
        for _, victim in self._victims:
            await done(victim.begin)

        def suffers(fault: str, victim: Victim, page: Page) -> bool:
            if victim.suffers(before, page):
                self.seen.of(fault).states |= {state_of(page, victim.name)} if victim.states else set()
                return True
            return False

        for fault, victim in await self._until_all(suffers):
            self.seen.of(fault).unseen.add(victim.name)
        await self.judge.polls(2)
        for fault, victim in self._victims:
            self.seen.of(fault).reasons |= victim.seen(before, self.judge.page)
        self.judge.anew = {victim.name for _, victim in self._victims if victim.anew}
        for _, victim in self._victims:
            await done(victim.end)
        for fault, victim in await self._until_all(lambda _, victim, page: victim.is_well(page)):
            self.seen.of(fault).ill.add(victim.name)
        await self.judge.polls(2)
        self.judge.anew = set()
        await self.seen.measure(self.program)

    async def _until_all(self, holds: Callable[[str, Victim, Page], bool]) -> list[tuple[str, Victim]]:
        """Each on some page, not all on the same. Returns those for whom it never held."""
        waiting = list(self._victims)

        def met(page: Page) -> bool:
            waiting[:] = [(fault, victim) for fault, victim in waiting if not holds(fault, victim, page)]
            return not waiting

        await self.judge.until(met, PATIENCE)
        return waiting

    def conclude(self) -> None:
        """What the judge saw, told by fault; and how the program ends."""
        faults = {victim.name: fault for fault, victim in self._victims}
        for server, wrongs in self.judge.wrongs.items():
            for wrong in sorted(wrongs):
                if server in faults:
                    self.seen.of(faults[server]).wrongs.add(f"{server}: {wrong}")
                else:
                    self.seen.wrongs.append(f"{server}: {wrong}")
        conclude(self.program, self.judge, self.seen)


def conclude(program: Program, judge: Judge, seen: Seen, *, may_complain: str = "(?!)") -> None:
    """`may_complain`: what its log may tell of."""
    for server, gap in judge.gaps.items():
        seen.gaps[f"{program.name}: {server}"] = gap / judge.interval
    seen.unanswered += judge.unanswered
    seen.pages += judge.pages
    seen.slowest = max(seen.slowest, judge.slowest)
    seen.exit_codes[program.name] = program.end() if program.alive else program.popen.returncode
    lines = _COMPLAINT.findall(program.log())
    seen.complaints += sorted({line for line in lines if not re.search(may_complain, line)})[:20]


def main() -> None:
    name, folder = sys.argv[1], Path(sys.argv[2])
    play = importlib.import_module(f"tests.chaos.{name}").play
    started = time.monotonic()

    async def in_time() -> Seen:
        async with asyncio.timeout(LONGEST):
            return await play(folder)

    seen = asyncio.run(in_time())
    seen.took = time.monotonic() - started
    seen.write(folder / "seen.json")


if __name__ == "__main__":
    main()
