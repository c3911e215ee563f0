"""Scrapes an exporter again and again, and holds every page to what must be true at any time."""

from __future__ import annotations

import asyncio
import contextlib
import math
import re
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType

import httpx

from exporter import catalog
from exporter.catalog import api, docker, logs
from exporter.model import Family
from tests.chaos.program import Page, Program
from tests.faults import WHEN_DOWN, WHEN_STALLED, WHEN_WELL, WITHOUT_INVENTORY

EVERY = 0.3
"""Time between two scrapes, in intervals of polling."""


def _families(module: ModuleType) -> frozenset[Family]:
    return frozenset(value for value in vars(module).values() if isinstance(value, Family))


_API = frozenset(family.name for family in _families(api))
_COUNTED = tuple(
    name
    for family in catalog.FAMILIES
    if family.kind in ("counter", "histogram")
    for name in ([family.name] if family.kind == "counter" else [f"{family.name}_{end}" for end in ("bucket", "count")])
)
_OF_STATE = {"down": WHEN_DOWN, "starting": WHEN_DOWN, "stalled": WHEN_STALLED}
_PRESENT = {
    name: frozenset(family.name for family in _families(module) if family.kind in ("gauge", "info"))
    for name, module in (("docker", docker), ("logs", logs))
}
STATES = ("ok", "stalled", "starting", "down")


class Judge:
    """`neighbours`: servers that are well, polled every `interval` seconds. `wrongs`: what must never be and was, by
    server; under the empty name what is about no server. `gaps`: most seconds between two polls; `slowest`: most
    seconds that a page took; both less the time that the exporter, or we, had work and waited for a CPU. `anew`:
    servers that may count from 0 again (they were reconfigured)."""

    def __init__(self, program: Program, neighbours: Iterable[str], interval: float = 1.0) -> None:
        self._program, self.neighbours, self.interval = program, tuple(neighbours), interval
        self.page = Page("")
        self.pages = 0
        self.wrongs: dict[str, set[str]] = {}
        self.gaps: dict[str, float] = dict.fromkeys(self.neighbours, 0.0)
        self.unanswered = 0
        self.slowest = 0.0
        self.anew: set[str] = set()
        self._queues = [Path(f"/proc/{pid}/schedstat") for pid in ("self", program.popen.pid)]
        self._news = asyncio.Condition()
        self._polls: dict[str, tuple[float, float]] = {}
        """By neighbour: when we saw it polled last, and its polls by then."""
        self._task: asyncio.Task[None] | None = None
        self.paused = False

    async def __aenter__(self) -> Judge:
        self._task = asyncio.create_task(self._look_on(), name="judge")
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def until(self, condition: Callable[[Page], bool], seconds: float = 60.0) -> bool:
        """Whether a page came for which this holds."""
        assert self._task is not None
        try:
            async with asyncio.timeout(seconds), self._news:
                await self._news.wait_for(lambda: self._task.done() or condition(self.page))
        except TimeoutError:
            return False
        if self._task.done():
            self._task.result()
        return True

    async def polls(self, count: int) -> bool:
        """Until every neighbour was polled so often again."""
        before = {server: polls_of(self.page, server) for server in self.neighbours}
        return await self.until(lambda page: all(polls_of(page, s) >= before[s] + count for s in self.neighbours))

    async def _look_on(self) -> None:
        while True:
            if not self.paused:
                await self._look()
            await asyncio.sleep(self.interval * EVERY)

    async def _look(self) -> None:
        asked = self._clock()
        try:
            page = await self._program.scrape()
        except httpx.HTTPError:
            self.unanswered += 1
            return
        self.slowest = max(self.slowest, (now := self._clock()) - asked)
        before, self.page = self.page, page
        self.pages += 1
        for server, wrong in judged(before, page):
            if server not in self.anew or "counter" not in wrong:
                self.wrongs.setdefault(server, set()).add(wrong)
        for server in self.neighbours:
            self._measure(server, page, now)
        async with self._news:
            self._news.notify_all()

    def _measure(self, server: str, page: Page, now: float) -> None:
        """The mean distance of the polls since the page before, so that a scrape that comes late blames nobody."""
        count = polls_of(page, server)
        then, polls = self._polls.setdefault(server, (now, count))
        if count > polls:
            self.gaps[server] = max(self.gaps[server], (now - then) / (count - polls))
            self._polls[server] = (now, count)

    def _clock(self) -> float:
        """Seconds; it stands still while a CPU is waited for."""
        waited = sum(int(path.read_text().split()[1]) for path in self._queues) / 1e9
        return time.monotonic() - waited


def polls_of(page: Page, server: str) -> float:
    """Good answers of /api/version so far."""
    return page.value(catalog.API_DURATION, "_count", api_endpoint="/api/version", server=server) or 0.0


def state_of(page: Page, server: str) -> str:
    """Empty before the first poll."""
    return next((state for state in STATES if page.value(catalog.STATE, server=server, state=state) == 1.0), "")


def is_well(page: Page, server: str) -> bool:
    return state_of(page, server) == "ok" and page.value(catalog.SOURCE_UP, server=server, source="api") == 1.0


def failures(page: Page, server: str, source: str = "api") -> dict[str, float]:
    """Failed readings so far by reason, those that happened."""
    prefix = f'{catalog.SOURCE_FAILURES.name}{{reason="'
    found = {}
    for key in page.of.get(server, {}).get(catalog.SOURCE_FAILURES.name, ()):
        if key.endswith(f'source="{source}"}}') and page.series[key]:
            found[key.removeprefix(prefix).split('"')[0]] = page.series[key]
    return found


# --- what must be true of any page -----------------------------------------------------------------------------------


def judged(before: Page, page: Page) -> Iterator[tuple[str, str]]:
    """Server and complaint."""
    for server, families in page.of.items():
        yield from ((server, wrong) for wrong in _stale(page, server, families.keys()))
        yield from ((server, wrong) for wrong in _impossible(page, families))
    for server, families in before.of.items():
        yield from ((server, wrong) for wrong in _fallen(before, page, families))


def _stale(page: Page, server: str, shown: Iterable[str]) -> Iterator[str]:
    """Series of a present condition that nobody has seen."""
    up = {source: page.value(catalog.SOURCE_UP, server=server, source=source) for source in ("api", *_PRESENT)}
    if server and up["api"] is not None:
        told = sum(page.value(catalog.STATE, server=server, state=state) or 0.0 for state in STATES)
        if told != 1.0:
            yield "it has not exactly one state"
        well = WHEN_WELL if up["api"] else WITHOUT_INVENTORY
        allowed = {family.name for family in _OF_STATE.get(state_of(page, server), well)}
        names = {name.removesuffix("_bucket").removesuffix("_count").removesuffix("_sum") for name in shown}
        for name in (names & _API) - allowed:
            yield f"{name} in state {state_of(page, server)}"
    for source, present in _PRESENT.items():
        if up[source] == 0.0:
            for name in present.intersection(shown):
                yield f"{name} though {source} sees nothing"


def _impossible(page: Page, families: dict[str, list[str]]) -> Iterator[str]:
    for name, keys in families.items():
        for key in keys:
            if not math.isfinite(page.series[key]):
                yield f"{name} is {page.series[key]}"
            elif page.series[key] < 0 and name != catalog.CLOCK_OFFSET.name:
                yield f"{name} is below zero"


def _fallen(before: Page, page: Page, families: dict[str, list[str]]) -> Iterator[str]:
    for name, keys in families.items():
        if name not in _COUNTED:
            continue
        for key in keys:
            if key not in page.series:
                if 'model="' not in key and not _is_blind(page, key):  # a model that is gone takes its counters along
                    yield f"the counter {key} is gone"
            elif page.series[key] < before.series[key]:
                yield f"the counter {key} has fallen"


def _is_blind(page: Page, key: str) -> bool:
    """Whether this counts failures of a source that nobody insists on and that sees nothing from here any more."""
    found = re.search(r'server="([^"]*)",source="([^"]*)"', key)
    return found is not None and page.value(catalog.SOURCE_UP, server=found[1], source=found[2]) is None
