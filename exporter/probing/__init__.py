"""`/probe`: one look at a target that the scraper names, through the same functions as the loops: a fleet of one.

Who may be asked is decided here, before anything is sent: configured servers by their names, and what the allow-list
has.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from exporter import catalog
from exporter.config import DEFAULT_MODULE, Config, Module, Server, plan_probe, probed, without_canary
from exporter.config.kinds import Wrong, closest
from exporter.config.targets import lets_through, parse_target
from exporter.connection import Resolve
from exporter.exposition import encode
from exporter.model import Reading, Snapshot, Watch
from exporter.probing.exchanges import Exchange
from exporter.probing.states import Judge, State, States
from exporter.sources import Surroundings

_SWEEP_SECONDS = 60.0
_LEAST_SECONDS = 0.1
_OF_THE_LOOPS = "this server is configured, and its canary is that of the loops"
_SECONDS = re.compile(r"[0-9]{1,6}(?:\.[0-9]{1,9})?", re.ASCII)


class Refusal(Exception):
    """A question that is not answered by a look; `code` is HTTP's. The text is for whoever asked."""

    def __init__(self, reason: str, text: str, code: int = 400) -> None:
        super().__init__(text)
        self.reason, self.code = reason, code


@dataclass(frozen=True, slots=True)
class Question:
    """What the request holds: all its `target=` and `module=`, and Prometheus' scrape timeout as it was sent."""

    targets: tuple[str, ...]
    modules: tuple[str, ...] = ()
    scrape_timeout: str = ""


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be looked at. `judge` tells which addresses may be connected to; None: any, the server is
    configured."""

    server: Server
    module_name: str
    module: Module
    within: float
    watches: tuple[Watch, ...]
    judge: Judge | None


@dataclass(frozen=True, slots=True)
class Seen:
    """What came of one probe. `without`: why there is no canary, though the module wants one."""

    order: Order
    readings: tuple[Reading, ...]
    exchanges: tuple[Exchange, ...]
    without: str = ""

    @property
    def snapshot(self) -> Snapshot:
        return Snapshot({reading.watch: encode(reading) for reading in self.readings})


class Probing:
    """Answers questions. `resolve` replaces the system's way from names to addresses."""

    def __init__(self, around: Surroundings, resolve: Resolve | None = None) -> None:
        self._states = States(around, resolve)
        self._vitals = around.vitals.probe

    async def run(self) -> None:
        """Let go of targets that nobody asks for any more, until cancelled; then of all."""
        try:
            while True:
                await asyncio.sleep(_SWEEP_SECONDS)
                await self._states.sweep()
                self._vitals.states = len(self._states)
        finally:
            await self._states.aclose()

    async def probe(self, config: Config, question: Question) -> Seen:
        """One look, within the time that the question leaves. Raises Refusal."""
        try:
            order = ordered(config, question)
            if self._vitals.in_flight >= config.probe.concurrency:
                raise Refusal("too_many", "too many probes at the same time (probe.concurrency)", 503)
            seen = await self._counted(order, config.servers)
        except Refusal as refusal:
            self._vitals.refused.add(reason=refusal.reason)
            raise
        success = seen.readings[0].failure is None
        self._vitals.done.add(outcome="success" if success else "failure")
        return seen

    async def _counted(self, order: Order, servers: Iterable[Server]) -> Seen:
        self._vitals.in_flight += 1
        try:
            return await self._look(order, servers)
        finally:
            self._vitals.in_flight -= 1

    async def _look(self, order: Order, servers: Iterable[Server]) -> Seen:
        clock = asyncio.get_running_loop().time
        began = clock()
        states, without = await self._of(order, servers)
        readings = await asyncio.gather(*(state.look(order.within) for state in states))
        if states[0].forbidden:
            raise Refusal("address", f"{order.server.name} leads to an address that may not be asked")
        self._vitals.states = len(self._states)
        mine = (
            catalog.PROBE_SUCCESS(float(readings[0].failure is None)),
            catalog.PROBE_DURATION(clock() - began),
            catalog.PROBE_TIMEOUT(order.within),
        )
        first = replace(readings[0], samples=(*mine, *readings[0].samples))
        exchanges = sorted((each for state in states for each in state.exchanges()), key=lambda each: each.began)
        return Seen(order, (first, *readings[1:]), tuple(exchanges), without)

    async def _of(self, order: Order, servers: Iterable[Server]) -> tuple[list[State], str]:
        """The states to look through, that of the api first, and why the canary is none of them."""
        states, without = [], ""
        for watch in order.watches:
            if watch.source != "canary":
                states.append(await self._states.passive(watch, order.judge))
            elif any(server.url == order.server.url for server in servers):
                without = _OF_THE_LOOPS
            else:
                holder = (order.module_name, (order.module, order.judge))
                canary = await self._states.canary(order.server.url, holder, watch, order.judge)
                states += [canary] if canary is not None else []
                without = "" if canary is not None else "another module has it, or there are too many of them"
        if order.judge is None and order.module.canary.wanted:
            without = _OF_THE_LOOPS
        return states, without


# --- from the question to the order ----------------------------------------------------------------------------------


def ordered(config: Config, question: Question) -> Order:
    """What the question asks for, if it may be asked. Pure. Raises Refusal."""
    name = _one("module", question.modules) or DEFAULT_MODULE
    module = config.probe.module(name)
    if module is None:
        raise Refusal("module", f"module: unknown{closest(name[:64], dict(config.probe.modules))}")
    written = _one("target", question.targets)
    if not written:
        raise Refusal("missing", "target: is missing; /probe?target=http://gpu1:11434")
    within = deadline(question.scrape_timeout, config.probe.timeout_offset, module.timeout)
    server, judge = _server(config, name, module, written)
    return Order(server, name, module, within, plan_probe(config, server, module.native, within), judge)


def _one(key: str, values: tuple[str, ...]) -> str:
    if len(values) > 1:
        raise Refusal("malformed", f"{key}: is given {len(values)} times")
    return values[0] if values else ""


def _server(config: Config, name: str, module: Module, written: str) -> tuple[Server, Judge | None]:
    """A configured server by its name, with its own credentials; any other target with those of the module."""
    configured = next((server for server in config.servers if server.name == written), None)
    if configured is not None:
        return without_canary(configured), None
    try:
        target = parse_target(written)
    except Wrong as wrong:
        raise Refusal("malformed", f"target: {wrong}") from None
    allow = config.probe.allow
    if not lets_through(allow, target):
        raise Refusal("not_allowed", "target: is neither the name of a configured server nor in probe.allow")
    if target.port not in config.probe.ports:
        raise Refusal("not_allowed", f"target: port {target.port} is not in probe.ports")
    if module.targets and not lets_through(module.targets, target):
        raise Refusal("not_allowed", f"target: is not in probe.modules.{name}.targets")
    return probed(target, module), Judge(allow, target)


def deadline(scrape_timeout: str, offset: float, most: float) -> float:
    """Seconds that a probe has. What is no number of seconds counts as not sent; where the offset would leave nothing,
    it is half of them."""
    if not _SECONDS.fullmatch(scrape_timeout):
        return most
    given = float(scrape_timeout)
    left = given - offset if given > 2 * offset else given / 2
    return max(_LEAST_SECONDS, min(most, int(left * 10) / 10))
