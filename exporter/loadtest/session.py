"""One run from beginning to end: look at the servers, offer the load, watch, judge, report. `cli` says of what."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import resource
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from rich.console import Console

from exporter.loadtest import preflight, terminal
from exporter.loadtest.outcomes import Result
from exporter.loadtest.publish import Publisher
from exporter.loadtest.reconcile import Reconciler
from exporter.loadtest.report import Facts
from exporter.loadtest.run import Run, Target
from exporter.loadtest.safety import connections_possible
from exporter.loadtest.scenario import Scenario
from exporter.loadtest.tally import Tally
from exporter.loadtest.verdict import Own, judge
from exporter.loadtest.wire import HttpWire
from exporter.model import Endpoint

_FLUSH_EVERY = 1.0


@dataclass(frozen=True, slots=True)
class Server:
    """Where the load goes: under the name that the exporter gives it, too."""

    name: str
    endpoint: Endpoint
    address: str


@dataclass(frozen=True, slots=True)
class Session:
    """`metrics`: where to serve the run's own /metrics; `exporter`: the URL of an exporter's, to be held against."""

    scenario: Scenario
    servers: tuple[Server, ...]
    console: Console
    metrics: tuple[str, int] | None = None
    exporter: str | None = None
    command: tuple[str, ...] = ()

    async def conduct(
        self, hear: Callable[[Result], None] = lambda result: None, flush: Callable[[], None] = lambda: None
    ) -> Facts:
        """`hear` is given each result, `flush` called every second."""
        scenario, began_at = self.scenario, time.time()
        seen = await preflight.look((server.name, server.endpoint) for server in self.servers)
        possible = connections_possible(scenario.users or scenario.limits.concurrency)
        refused = [*preflight.refused(seen, scenario.models)]
        if scenario.users is not None and possible < scenario.users:
            refused.append(
                f"{scenario.users:,} users need as many open files and some more; this process may have"
                f" {possible:,} connections. Raise the limit (ulimit -n), or ask with fewer users"
            )
        if refused:
            return self._refused(refused, seen, began_at)
        return await self._offered(hear, flush, seen, possible)

    def _refused(self, why: Sequence[str], seen: Sequence[preflight.Seen], began_at: float) -> Facts:
        """The report of a run that did not begin."""
        tally, run = Tally(self.scenario), Run(self.scenario, (), lambda result: None)
        own = Own(run.watch.lag, tally.send_lag, 0.0, 0, 0, "complete", tuple(why))
        verdict = judge(tally.all, self.scenario.objectives, own)
        return Facts(
            self.scenario, tally, own, verdict, seen, began_at, time.time(), 0.0, "complete", command=self.command
        )

    async def _offered(
        self, hear: Callable[[Result], None], flush: Callable[[], None], seen: Sequence[preflight.Seen], possible: int
    ) -> Facts:
        scenario = self.scenario
        tally = Tally(scenario)
        publisher = Publisher(scenario, [server.name for server in self.servers])
        reconciler = Reconciler(self.exporter, [server.name for server in self.servers])
        targets = self._targets(seen)

        def take(result: Result) -> None:
            tally.hear(result)
            publisher.hear(result)
            reconciler.hear(result)
            hear(result)

        async def warmed() -> None:
            for target, server in zip(targets, await self._look(), strict=True):
                target.contexts.update(server.contexts())

        run = Run(scenario, targets, take, tally.gaps_of, possible, warmed=warmed)
        before = _cpu()
        # What is there stays: the collector of garbage need not look at it again while times are taken.
        gc.collect()
        gc.freeze()
        notes = [*preflight.notes(seen), *_slow_readers(scenario), *await reconciler.begin()]
        async with publisher.serving(self.metrics, run) as trouble:
            notes += trouble
            beside = [
                asyncio.create_task(terminal.watch(run, tally, self.console), name="display"),
                asyncio.create_task(_every_second(flush), name="flush"),
                asyncio.create_task(reconciler.sampling(), name="exporter"),
            ]
            try:
                with _stopped_by_signals(run):
                    ending = await run.run()
            finally:
                for task in beside:
                    task.cancel()
                await asyncio.gather(*beside, return_exceptions=True)
                for target in targets:
                    await target.wire.aclose()
        spent = _cpu() - before
        after = await self._look()
        own = Own(
            run.watch.lag,
            tally.send_lag,
            run.watch.jump,
            tally.all.offered + tally.settling.offered,
            tally.unsent,
            ending,
        )
        facts = Facts(
            scenario, tally, own, judge(tally.all, scenario.objectives, own), after, run.began_at, run.ended_at,
            run.seconds, ending, run.warm_ups, spent, command=self.command, notes=notes,
        )  # fmt: skip
        for result in run.warm_ups:
            reconciler.hear(result)
        rows = await reconciler.end(run.ended_at, run.seconds, self.console.print)
        return replace(facts, reconciliation=rows, pages=reconciler.pages)

    def _targets(self, seen: Sequence[preflight.Seen]) -> list[Target]:
        weights = self.scenario.weights
        if weights is None or len(weights) != len(self.servers):
            weights = (1.0,) * len(self.servers)
        return [
            Target(
                server.name,
                HttpWire(server.endpoint, server.address, self.scenario.connect_timeout),
                weight,
                each.counts_whole_prompt,
                each.contexts(),
            )
            for server, weight, each in zip(self.servers, weights, seen, strict=True)
        ]

    async def _look(self) -> tuple[preflight.Seen, ...]:
        return await preflight.look((server.name, server.endpoint) for server in self.servers)


def _slow_readers(scenario: Scenario) -> Iterator[str]:
    for workload in scenario.workloads:
        if workload.read_rate is not None:
            yield (
                f"workload {workload.name} reads {workload.read_rate:,g} bytes a second: its gaps, times for a token"
                " and whole times are its own as much as the server's"
            )


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def _every_second(flush: Callable[[], None]) -> None:
    while True:
        await asyncio.sleep(_FLUSH_EVERY)
        flush()


@contextlib.contextmanager
def _stopped_by_signals(run: Run) -> Iterator[None]:
    """The first Ctrl-C ends the load and keeps what ran; the next one ends the program."""
    loop = asyncio.get_running_loop()

    def stop(number: int) -> None:
        loop.remove_signal_handler(number)
        run.stop("interrupted")

    numbers = (signal.SIGINT, signal.SIGTERM)
    for number in numbers:
        loop.add_signal_handler(number, stop, number)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
