"""Who is in the fleet beside those that are configured: servers that are found, again and again, in places that the
configuration names.

Discovery only tells. The composition root puts what it found into the plan, and applying a plan is set arithmetic.
A file for each kind of place; `targets.py` has what they all tell, `search.py` looks through one of them.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable

from exporter.config import Config, with_found
from exporter.config import Discovery as Entry
from exporter.discovery.dns import DnsFinder
from exporter.discovery.docker import DockerFinder
from exporter.discovery.files import FileFinder
from exporter.discovery.http import HttpFinder
from exporter.discovery.kubernetes import KubernetesFinder
from exporter.discovery.listing import Listed, as_http_sd, listed
from exporter.discovery.search import Search, look
from exporter.discovery.targets import Answer, Finder, Trouble, admitted
from exporter.sources.own import DiscoveryVitals, Vitals

__all__ = ["Answer", "Discovery", "Finder", "Listed", "Trouble", "admitted", "as_http_sd", "finder", "look"]


class Discovery:
    """All searches that the configuration wants. `changed` is called after a look that found something else than the
    one before it."""

    def __init__(self, changed: Callable[[], None], vitals: Vitals, now: Callable[[], float] = time.time) -> None:
        self._changed, self._vitals, self._now = changed, vitals, now
        self._searches: dict[str, Search] = {}
        self._running: dict[Search, asyncio.Task[None]] = {}
        self._wanted = asyncio.Event()

    def apply(self, config: Config) -> None:
        """From now on as this configuration wants it. A search whose settings are the same goes on; one that is new
        under its old name has what was found before until it has found something itself."""
        before = self._searches
        self._searches = {entry.name: self._search(entry, config, before.get(entry.name)) for entry in config.discovery}
        self._vitals.discoveries = {name: search.vitals for name, search in self._searches.items()}
        for search in self._searches.values():
            search.look_now(config.servers)
        self._wanted.set()

    def joined(self, config: Config) -> Config:
        """The configuration with those that were found, as far as it does not know them already."""
        answers = {name: search.answer for name, search in self._searches.items()}
        found: list[tuple[str, str, str, str]] = []
        for name, (kept, left_out) in admitted(config.servers, answers, config.limits.servers).items():
            vitals = self._searches[name].vitals
            vitals.servers, vitals.left_out = len(kept), Counter(left_out)
            found += [(one.name, one.url, one.container, name) for one in kept]
        return with_found(config, found)

    def looked(self) -> bool:
        """Whether every search has come to the end of its first look, be it a failure."""
        return all(search.looked for search in self._searches.values())

    def listing(self, config: Config, fleet: Config, only: str | None = None) -> tuple[Listed, ...] | None:
        """The servers of the fleet, or those that one search has found. None as long as that is not known: a list that
        is too short would be taken for the truth. Raises LookupError where there is no such search."""
        asked = self._searches.values() if only is None else [self._searches[only]]
        if not all(search.vitals.succeeded_at is not None for search in asked):
            return None
        answers = {name: search.answer for name, search in self._searches.items()}
        return tuple(one for one in listed(config, fleet, answers) if only in (None, one.discovery))

    async def run(self) -> None:
        """Run until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                self._wanted.clear()
                wanted = set(self._searches.values())
                for search in self._running.keys() - wanted:
                    self._running.pop(search).cancel()
                for search in wanted - self._running.keys():
                    self._running[search] = group.create_task(search.run(), name=f"discovery {search.entry.name}")
                await self._wanted.wait()

    def _search(self, entry: Entry, config: Config, before: Search | None) -> Search:
        address = config.docker.address or ""
        if before is not None and before.entry == entry and before.docker == address:
            return before
        vitals = before.vitals if before else DiscoveryVitals(entry.name)
        answer = before.answer if before else Answer()
        return Search(entry, address, finder(entry, address), vitals, answer, self._changed, self._now)


def finder(entry: Entry, docker: str = "") -> Finder:
    """What looks into the place that an entry names. `docker`: the engine's address. Asks nobody yet."""
    if entry.files is not None:
        return FileFinder(entry.files)
    if entry.http is not None:
        return HttpFinder(entry.http, entry.every)
    if entry.dns is not None:
        return DnsFinder(entry.dns)
    if entry.docker is not None:
        return DockerFinder(docker, entry.docker)
    if entry.kubernetes is not None:
        return KubernetesFinder(entry.kubernetes)
    raise ValueError(f"discovery {entry.name} is of no kind")
