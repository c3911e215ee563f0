"""What is kept of targets between two probes: a source with its connection, its counters and its inventory, so that a
probe asks no more than a poll does. Nothing of what was seen is kept for a later answer."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, replace
from functools import partial

from exporter.config.targets import Allowed, Target, may_lead_to
from exporter.connection import Resolve
from exporter.fleet import Built, Observer
from exporter.model import Endpoint, Reading, Watch
from exporter.ollama import open_transport
from exporter.probing.exchanges import Exchange, Recorder
from exporter.sources import SOURCES, Surroundings, build

STATES_MAX = 2000
CANARIES_MAX = 500
IDLE_SECONDS = 900.0
"""A state that nobody asked for so long is closed."""

Holder = tuple[str, Hashable]


@dataclass(frozen=True, slots=True)
class Judge:
    """Which addresses may be connected to for this target. A value: with another allow-list it is another judge, and
    what was connected by the old one's leave is not used."""

    allow: tuple[Allowed, ...]
    target: Target

    def allows(self, address: str) -> bool:
        if self.target.address is not None:
            return address == str(self.target.address)
        return may_lead_to(self.allow, self.target.host, address)


class State:
    """One source of one target. Looks that are wanted at the same time are one look."""

    def __init__(self, watch: Watch, around: Surroundings, judge: Judge | None, resolve: Resolve | None) -> None:
        self.watch, self.forbidden = watch, False
        self.asked_at = asyncio.get_running_loop().time()
        self._judge, self._resolve, self._around = judge, resolve, around
        self._recorders: list[Recorder] = []
        self._source = Built(partial(build, watch, replace(around, transport=self._transport)))
        self._observer = Observer(watch, self._source, SOURCES[watch.source].reasons, around.now)
        self._looking: asyncio.Task[Reading] | None = None
        self._began = 0.0

    @property
    def busy(self) -> bool:
        return self._looking is not None and not self._looking.done()

    async def look(self, within: float) -> Reading:
        """One reading: of a look that is under way, or a new one; a failure after so many seconds, and then the look
        goes on for whoever asks next."""
        loop = asyncio.get_running_loop()
        self.asked_at = loop.time()
        if self._looking is None or self._looking.done():
            self._began, self.forbidden = loop.time(), False
            name = f"probe {self.watch.server} {self.watch.source}"
            self._looking = loop.create_task(self._observer.observe(), name=name)
        try:
            async with asyncio.timeout(within):
                return await asyncio.shield(self._looking)
        except TimeoutError:
            return self._observer.failed("timeout", within)

    def exchanges(self) -> tuple[Exchange, ...]:
        """Those of the last look."""
        return tuple(each for recorder in self._recorders for each in recorder.since(self._began))

    async def aclose(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking])
        await self._source.aclose()

    def _transport(self, endpoint: Endpoint) -> Recorder:
        judge = self._allows if self._judge is not None else None
        inner = self._around.transport(endpoint) or open_transport(endpoint, allows=judge, resolve=self._resolve)
        recorder = Recorder(inner)
        self._recorders.append(recorder)
        return recorder

    def _allows(self, address: str) -> bool:
        allowed = self._judge is not None and self._judge.allows(address)
        self.forbidden |= not allowed
        return allowed


class States:
    """Those of all targets, a bounded number.

    Of passive sources the one that was not asked for longest makes room. A canary is never put out for another: who
    takes it up anew has forgotten who used the model last, and one that waits for its answer would be given up. Above
    their number, targets have none.
    """

    def __init__(self, around: Surroundings, resolve: Resolve | None = None) -> None:
        self._around, self._resolve = around, resolve
        self._passive: OrderedDict[tuple[Watch, Judge | None], State] = OrderedDict()
        self._canaries: dict[str, tuple[Holder, State]] = {}

    def __len__(self) -> int:
        return len(self._passive) + len(self._canaries)

    async def passive(self, watch: Watch, judge: Judge | None) -> State:
        """The state of this watch; a watch that changed, by a reload or another deadline, is another one."""
        key = (watch, judge)
        if key in self._passive:
            self._passive.move_to_end(key)
        else:
            await self._make_room()
            self._passive[key] = State(watch, self._around, judge, self._resolve)
        return self._passive[key]

    async def canary(self, url: str, holder: Holder, watch: Watch, judge: Judge | None) -> State | None:
        """The server's canary, if it is this holder's (a module by its name, as it is now). Two on one server would
        take each other for users, and keep its models loaded for good; so a second module has none."""
        held = self._canaries.get(url)
        if held is not None and held[0] == holder:
            return held[1]
        if held is not None and held[0][0] != holder[0]:
            return None
        if held is None and len(self._canaries) >= CANARIES_MAX:
            return None
        state = State(watch, self._around, judge, self._resolve)
        self._canaries[url] = (holder, state)
        if held is not None:  # the module's settings have changed
            await held[1].aclose()
        return state

    async def sweep(self, idle: float = IDLE_SECONDS) -> None:
        """Close what nobody asked for so long."""
        before = asyncio.get_running_loop().time() - idle
        for key, state in tuple(self._passive.items()):
            if state.asked_at < before and not state.busy:
                del self._passive[key]
                await state.aclose()
        for url, (_, state) in tuple(self._canaries.items()):
            if state.asked_at < before and not state.busy:
                del self._canaries[url]
                await state.aclose()

    async def aclose(self) -> None:
        states = [*self._passive.values(), *(state for _, state in self._canaries.values())]
        self._passive.clear()
        self._canaries.clear()
        for state in states:
            await state.aclose()

    async def _make_room(self) -> None:
        for key, state in tuple(self._passive.items()):
            if len(self._passive) < STATES_MAX:
                return
            if not state.busy:
                del self._passive[key]
                await state.aclose()
