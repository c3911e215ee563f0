"""One search: its looks, what it knows, what it tells of itself."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from exporter.config import Discovery as Entry
from exporter.config import Server
from exporter.discovery.targets import Answer, Finder, Found, Seen, Trouble, answered
from exporter.sources.own import DiscoveryVitals

log = logging.getLogger(__name__)

WITHIN = 20.0
"""Seconds for one look."""
_NAMED = 20
"""So many servers that come or go at once are named in the log one by one."""


@dataclass(frozen=True, slots=True)
class Look:
    """What one look has seen, and what came of it."""

    seen: Seen
    answer: Answer


class Search:
    """Looks again and again into one place. A look that fails leaves in place what was found before, and says so."""

    def __init__(
        self,
        entry: Entry,
        docker: str,
        finder: Finder,
        vitals: DiscoveryVitals,
        answer: Answer,
        changed: Callable[[], None],
        now: Callable[[], float],
    ) -> None:
        self.entry, self.docker, self.vitals, self.answer = entry, docker, vitals, answer
        self.looked = vitals.up is not None
        self._finder, self._changed, self._now = finder, changed, now
        self._configured: Sequence[Server] = ()
        self._complaints: frozenset[str] = frozenset()
        self._wake = asyncio.Event()
        self._last: Look | None = None

    def look_now(self, configured: Sequence[Server]) -> None:
        """`configured`: the servers that need not be found."""
        self._configured = configured
        self._wake.set()

    async def run(self) -> None:
        """Run until cancelled."""
        try:
            while True:
                self._wake.clear()
                await self._look()
                try:
                    async with asyncio.timeout(self.entry.every):
                        await self._wake.wait()
                except TimeoutError:
                    pass
        finally:
            try:
                await self._finder.aclose()
            except Exception:
                log.exception("bug while closing discovery %s", self.entry.name)

    async def _look(self) -> None:
        """A bug, also one in what follows from a look, must not take the fleet with it."""
        try:
            self._last = await look(self._finder, self.entry, self._configured, self._last)
            self._take(self._last.answer)
            self._tell(self._last.seen.troubles)
        except Trouble as trouble:
            self._tell((trouble,))
        except Exception:
            log.exception("bug in discovery %s", self.entry.name)
            self._tell((Trouble("bug", "a bug"),))
        self.looked = True

    def _tell(self, troubles: Sequence[Trouble]) -> None:
        vitals, complaints = self.vitals, frozenset(trouble.what for trouble in troubles)
        vitals.up = not troubles
        for reason in {trouble.reason for trouble in troubles}:
            vitals.failures.add(reason=reason)
        for complaint in sorted(complaints - self._complaints)[:_NAMED]:  # once, not every look
            log.warning("discovery %s: %s", self.entry.name, complaint)
        if not troubles:
            vitals.succeeded_at = self._now()
            if self._complaints:
                log.info("discovery %s: looks again", self.entry.name)
        self._complaints = complaints

    def _take(self, answer: Answer) -> None:
        before, self.answer = self.answer, answer
        if answer == before:
            return
        self._log(set(answer.found) - set(before.found), "")
        self._log(set(before.found) - set(answer.found), " has gone")
        try:
            self._changed()
        except Exception:
            self.answer = before  # so that the next look tries again
            raise

    def _log(self, servers: Iterable[Found], fate: str) -> None:
        named = sorted(servers, key=lambda one: one.name)
        for one in named[:_NAMED]:
            log.info("discovery %s: %s at %s%s", self.entry.name, one.name, one.url, fate)
        if len(named) > _NAMED:
            log.info("discovery %s: %d more%s", self.entry.name, len(named) - _NAMED, fate)


async def look(finder: Finder, entry: Entry, configured: Sequence[Server], before: Look | None = None) -> Look:
    """Raises `Trouble` when nothing could be looked at."""
    try:
        async with asyncio.timeout(WITHIN):
            seen = await finder.look(configured)
            if before is not None and (seen.targets, seen.left_out) == (before.seen.targets, before.seen.left_out):
                return Look(seen, before.answer)
            rules = [each.rule for each in entry.relabel_configs]
            # In a thread: thousands of targets take a while.
            return Look(seen, await asyncio.to_thread(answered, seen, rules))
    except TimeoutError:
        raise Trouble("timeout", f"the look takes longer than {WITHIN:g} s") from None
