"""The run as the tester saw it, beside what an exporter says of the same time: this tests the exporter as well.

Each difference is small, or has a reason that can be told, or is flagged.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from exporter import catalog
from exporter.loadtest.outcomes import Result
from exporter.loadtest.page import Page, fetch, grown
from exporter.model import Family

Judgement = Literal["agrees", "explained", "differs", "not seen"]

_SAMPLE_EVERY = 2.0
_WAIT_MAX = 45.0
_SOURCES = ("api", "logs", "runner", "sockets", "native")


@dataclass(frozen=True, slots=True)
class Row:
    """`difference`: of the exporter's figure against the tester's, as a share of the tester's."""

    what: str
    server: str
    tester: float
    exporter: float | None
    difference: float | None
    judgement: Judgement
    why: str = ""
    source: str = ""


@dataclass(slots=True)
class Own:
    """What the tester has of one server, warm-up included."""

    answered: int = 0  # began with 200
    busy: int = 0
    unclear: int = 0  # cut off by us: whether and how the server wrote them down depends on where they were
    broken: int = 0  # began with 200, and not answered to their end
    prompt_tokens: int = 0
    tokens: int = 0
    seconds: float = 0.0  # of those answered
    first_seconds: float = 0.0  # without any byte of an answer, of all
    queue: float = 0.0
    queued: int = 0

    def add(self, result: Result) -> None:
        total = result.total or 0.0
        self.prompt_tokens += result.prompt_tokens
        self.tokens += result.tokens
        self.busy += result.outcome == "busy"
        self.unclear += result.outcome in ("interrupted", "timeout", "connection")
        if result.outcome != "client_lag":
            self.first_seconds += total if result.ttft is None else result.ttft
        if result.status == 200:
            self.answered += 1
            self.seconds += total
            self.broken += result.outcome in ("truncated", "stream_error", "malformed", "interrupted", "timeout")
        if result.queue is not None:
            self.queue += result.queue
            self.queued += 1


@dataclass(slots=True)
class Gauges:
    """Means over the run of what the exporter showed meanwhile, by server."""

    times: int = 0
    totals: dict[str, float] = field(default_factory=dict)

    def mean(self, server: str) -> float | None:
        return self.totals[server] / self.times if self.times and server in self.totals else None


class Reconciler:
    """`begin`, then `hear` while `sampling` runs, then `end`. Without a URL nothing happens."""

    def __init__(self, url: str | None, servers: Sequence[str]) -> None:
        self._url, self._servers = url, tuple(servers)
        self._before: Page | None = None
        self._own = {server: Own() for server in servers}
        self._waiting = Gauges()
        self.pages: list[Page] = []

    async def begin(self) -> list[str]:
        self._before = await fetch(self._url) if self._url else None
        if self._before is None:
            return []
        self.pages.append(self._before)
        unknown = [server for server in self._servers if self._before.total(catalog.UP, server=server) is None]
        return [f"the exporter at {self._url} does not watch {', '.join(unknown)}"] if unknown else []

    def hear(self, result: Result) -> None:
        self._own[result.server].add(result)

    async def sampling(self) -> None:
        """Until cancelled."""
        while self._url and self._before is not None:
            await asyncio.sleep(_SAMPLE_EVERY)
            page = await fetch(self._url)
            if page is None:
                continue
            self.pages.append(page)
            self._waiting.times += 1
            for server in self._servers:
                if (value := page.total(catalog.SOCKETS_WAITING, server=server)) is not None:
                    self._waiting.totals[server] = self._waiting.totals.get(server, 0.0) + value

    async def end(self, ended_at: float, seconds: float, tell: Callable[[str], None]) -> tuple[Mapping[str, Any], ...]:
        """Waits until every source has looked once more. `seconds`: how long the load lasted."""
        if self._before is None or not self._url:
            return ()
        tell("waiting for the exporter to look once more")
        after = await self._looked_again(self._url, ended_at)
        if after is None:
            return ()
        self.pages.append(after)
        known = [server for server in self._servers if after.total(catalog.UP, server=server) is not None]
        return tuple(
            asdict(row)
            for server in known
            for row in rows(server, self._own[server], self._before, after, self._waiting.mean(server), seconds)
        )

    async def _looked_again(self, url: str, ended_at: float) -> Page | None:
        loop = asyncio.get_running_loop()
        until, page = loop.time() + _WAIT_MAX, await fetch(url)
        while loop.time() < until and not (page is not None and self._fresh(page, ended_at)):
            await asyncio.sleep(1.0)
            page = await fetch(url)
        return page

    def _fresh(self, page: Page, ended_at: float) -> bool:
        return all(
            moment > ended_at
            for server in self._servers
            for labels, moment in page.rows(catalog.SOURCE_LAST_SUCCESS, server=server)
            if labels.get("source") in _SOURCES
        )


@dataclass(frozen=True, slots=True)
class Excuse:
    """Why the exporter's figure may be so much lower or higher than the tester's."""

    why: str
    lower: float = 0.0
    higher: float = 0.0


def rows(server: str, own: Own, before: Page, after: Page, waiting: float | None, seconds: float) -> Iterator[Row]:
    """One server's."""

    def more(family: Family, suffix: str = "", **labels: str) -> float | None:
        return grown(before, after, family, suffix, server=server, **labels)

    def row(
        what: str, tester: float, found: tuple[float | None, str], near: Near, *excuses: Excuse, hint: str = ""
    ) -> Row:
        return _row(what, server, tester, found, near, excuses, hint)

    canaries = more(catalog.CANARY_ATTEMPTS) or 0.0
    answered = more(catalog.LOG_REQUESTS, status="2xx")
    others = None if answered is None else answered - canaries
    yield row(
        "requests answered 2xx", own.answered, (others, "logs"), Near(0.01, 1.0),
        Excuse(_BROKEN, own.unclear, own.unclear), hint=_OTHERS,
    )  # fmt: skip
    yield row("requests refused 503", own.busy, (more(catalog.LOG_REQUESTS, status="503"), "logs"), Near(0.01, 1.0))
    cut = own.broken + own.unclear
    each = own.tokens / max(1, own.answered), own.prompt_tokens / max(1, own.answered)
    made = _first((more(catalog.RUNNER_TOKENS), "runner"), (more(catalog.LOG_GENERATED_TOKENS), "logs"),
                  (more(catalog.NATIVE_GENERATED), "native"))  # fmt: skip
    yield row(
        "tokens generated", own.tokens, made, Near(0.02, 2.0), _canaries(canaries, _CANARY_TOKENS),
        Excuse(_BROKEN, 2 * cut * each[0], 2 * cut * each[0]), hint=_OTHERS,
    )  # fmt: skip
    read = _first(
        (_sum(more(catalog.RUNNER_PROMPT_TOKENS), more(catalog.RUNNER_PROMPT_CACHED)), "runner"),
        (_sum(more(catalog.LOG_PROMPT_TOKENS), more(catalog.LOG_CACHED_TOKENS)), "logs"),
        (more(catalog.NATIVE_PROMPT_TOKENS), "native"),
    )
    yield row(
        "tokens of prompts", own.prompt_tokens, read, Near(0.02, 2.0), _canaries(canaries, _CANARY_PROMPT_TOKENS),
        Excuse(_BROKEN, 2 * cut * each[1], 2 * cut * each[1]), hint=_OTHERS,
    )  # fmt: skip
    mean = own.seconds / max(1, own.answered)
    theirs = _mean(
        _less(more(catalog.LOG_DURATION, "_sum"), more(catalog.CANARY_DURATION, "_sum")),
        _less(more(catalog.LOG_DURATION, "_count"), more(catalog.CANARY_DURATION, "_count")),
    )
    broken = mean if cut else 0.0
    yield row(
        "mean whole time, s", mean, (theirs, "logs"), Near(0.05, 0.05), Excuse(_BROKEN, broken, broken),
        hint="the tester's has its network and its connections in it",
    )  # fmt: skip
    yield row(
        "time without any answer, s", own.first_seconds, (more(catalog.SOCKETS_UNANSWERED_SECONDS), "sockets"),
        Near(0.1, 1.0), hint="others' requests wait on this server, too",
    )  # fmt: skip
    wait = own.queue / max(1, own.queued)
    looked = None if waiting is None or not own.queued else waiting * seconds / own.queued
    yield row(
        "mean wait for a slot, s", wait, (looked, "sockets"), Near(0.15, 0.05),
        Excuse("the tester's is an upper bound: what the server does between its phases is in it", _OVERHEAD),
        Excuse("the exporter looked a few times only, and between bounds", 0.3 * wait, 0.3 * wait),
        hint="others' requests wait on this server, too",
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Near:
    """What is no difference: so large a share of the tester's figure, or so much."""

    share: float
    least: float


_BROKEN = "requests broke off or were given up, which the two count differently"
_OTHERS = "does somebody else ask this server, too?"
_CANARY_TOKENS, _CANARY_PROMPT_TOKENS = 16, 64
"""Of one canary at most: its num_predict, and its prompt with a template around it."""
_OVERHEAD = 0.25


def _canaries(count: float, tokens: float) -> Excuse:
    return Excuse(f"{count:.0f} canaries of the exporter's are among them", 0.0, count * tokens)


def _row(
    what: str, server: str, tester: float, found: tuple[float | None, str], near: Near, excuses: Sequence[Excuse],
    hint: str,
) -> Row:  # fmt: skip
    """Excuses add up. `hint` is for who has to look into a difference that none explains."""
    exporter, source = found
    if exporter is None:
        return Row(what, server, tester, None, None, "not seen", f"needs the exporter's source {source}", source)
    gap = exporter - tester
    difference = gap / tester if tester else None
    near_enough = max(near.share * abs(tester), near.least)
    if abs(gap) <= near_enough:
        return Row(what, server, tester, exporter, difference, "agrees", "", source)
    slack = [each.higher if gap > 0 else each.lower for each in excuses]
    if abs(gap) <= near_enough + sum(slack):
        why = "; ".join(each.why for each, much in zip(excuses, slack, strict=True) if much)
        return Row(what, server, tester, exporter, difference, "explained", why, source)
    return Row(what, server, tester, exporter, difference, "differs", hint, source)


def _first(*found: tuple[float | None, str]) -> tuple[float | None, str]:
    return next((each for each in found if each[0] is not None), (None, "runner or logs"))


def _sum(*parts: float | None) -> float | None:
    """None without the first; the cached ones are absent with builds that do not tell."""
    return None if parts[0] is None else sum(part or 0.0 for part in parts)


def _less(whole: float | None, part: float | None) -> float | None:
    return None if whole is None else whole - (part or 0.0)


def _mean(total: float | None, count: float | None) -> float | None:
    return total / count if total is not None and count else None
