"""What happens to servers, and whether the page shows it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from exporter import catalog
from tests.chaos.judge import failures, is_well, state_of
from tests.chaos.program import Page
from tests.wire import CLOSE, PS, TAGS, VERSION, Request, Script, Wire, json_answer

Settings = dict[str, Any]
"""A server in the exporter's configuration."""
Act = Callable[[], Any]
Answering = Script | Callable[[Request], Script]

HASTY: Settings = {"timeout": "1200ms", "connect_timeout": "700ms"}
_FAR = "2126-11-23T17:43:36.774829428Z"
LOADED = {"models": [{**PS["models"][0], "expires_at": _FAR}]}
WELL: Mapping[str, Answering] = {
    "/api/version": [json_answer(VERSION)],
    "/api/ps": [json_answer(LOADED)],
    "/api/tags": [json_answer(TAGS)],
}
SHY: Mapping[str, Answering] = {path: [*script, CLOSE] for path, script in WELL.items() if not callable(script)}
"""The same of a server that closes the connection after each answer, so that each poll makes a new one."""


@dataclass(slots=True)
class Victim:
    """One server to which a fault is done. `begin` and `end` may be coroutine functions. `reason`: what must be counted
    of `source`'s failures, one word or more; `states`: those it may be in; `shows`: what else must be seen on the page;
    `well`: when it is well again, in place of the usual signs; `anew`: its counters may start again then."""

    name: str
    settings: Settings
    begin: Act
    end: Act
    reason: str = ""
    states: frozenset[str] = frozenset()
    shows: Callable[[Page], bool] = lambda _: True
    source: str = "api"
    well: Callable[[Page], bool] | None = None
    anew: bool = False

    def suffers(self, before: Page, page: Page) -> bool:
        """Whether the page shows what must come of the fault."""
        had, has = (failures(each, self.name, self.source) for each in (before, page))
        if any(has.get(reason, 0.0) <= had.get(reason, 0.0) for reason in self.reason.split()):
            return False
        if self.states and state_of(page, self.name) not in self.states:
            return False
        return self.shows(page)

    def is_well(self, page: Page) -> bool:
        if self.well is not None:
            return self.well(page)
        up = page.value(catalog.SOURCE_UP, server=self.name, source=self.source)
        return up == 1.0 and (self.source != "api" or is_well(page, self.name))

    def seen(self, before: Page, page: Page) -> set[str]:
        """Reasons counted since."""
        had, has = (failures(each, self.name, self.source) for each in (before, page))
        return {reason for reason, count in has.items() if count > had.get(reason, 0.0)}


async def done(act: Act) -> None:
    result = act()
    if asyncio.iscoroutine(result):
        await result


@contextlib.asynccontextmanager
async def wires(names: Sequence[str], **settings: Any) -> AsyncIterator[dict[str, Wire]]:
    """Servers that are well, on loopback."""
    async with contextlib.AsyncExitStack() as stack:
        yield {name: await stack.enter_async_context(Wire(dict(WELL), **settings)) for name in names}


def answering(
    name: str, wire: Wire, answers: Mapping[str, Answering], reason: str, states: str, url: str = "", **settings: Any
) -> Victim:
    """A server that answers otherwise on some paths; to whoever is connected already, too."""

    def begin() -> None:
        wire.routes.update(answers)

    def end() -> None:
        wire.routes.update(WELL)

    made = {"name": name, "url": url or wire.url, **HASTY, **settings}
    return Victim(name, made, begin, end, reason, frozenset(states.split()))


def loaded_size(page: Page, server: str, model: str = "smollm2:latest") -> float | None:
    return page.value(catalog.LOADED_SIZE, server=server, model=model)
