"""Servers for the load tester in virtual time: the simulator without sockets, and one whose every answer is known."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import httpx

from exporter.loadtest.outcomes import Result
from exporter.loadtest.run import Ending, Run, Target
from exporter.loadtest.scenario import Scenario, load
from exporter.loadtest.tally import Tally
from exporter.loadtest.verdict import Own, Verdict, judge
from exporter.loadtest.wire import Broken, Exchange, NoConnection, Wire
from exporter.simulator import SimServer, SimTransport, run_virtual, virtual_wall_clock


class SimWire:
    """A simulated server, reached without sockets."""

    def __init__(self, server: SimServer) -> None:
        self._transport = SimTransport({"sim": server})

    async def exchange(self, exchange: Exchange) -> None:
        clock = asyncio.get_running_loop().time
        request = httpx.Request("POST", f"http://sim{exchange.path}", content=exchange.body)
        exchange.sent_at = clock()
        response = None
        try:
            response = await self._transport.handle_async_request(request)
            exchange.status = response.status_code
            async for chunk in response.stream:  # type: ignore[union-attr]
                if exchange.status == 200:
                    exchange.read(chunk, clock())
        except httpx.TransportError:
            raise (NoConnection if exchange.status is None else Broken) from None
        finally:
            exchange.ended_at = clock()
            if response is not None:
                await response.aclose()

    async def aclose(self) -> None:
        await self._transport.aclose()


@dataclass(slots=True)
class ScriptedWire:
    """Answers as `script` says: seconds to the first token, seconds between two, their number."""

    script: Callable[[float], tuple[float, float, int]]
    prompt_tokens: int = 0

    async def exchange(self, exchange: Exchange) -> None:
        loop = asyncio.get_running_loop()
        first, gap, tokens = self.script(loop.time())
        exchange.sent_at = loop.time()
        await asyncio.sleep(first)
        exchange.status = 200
        for number in range(tokens):
            if number:
                await asyncio.sleep(gap)
            exchange.read(b'{"response":"a","done":false}\n', loop.time())
        final = {"response": "", "done": True, "eval_count": tokens, "prompt_eval_count": self.prompt_tokens}
        exchange.read(json.dumps(final).encode() + b"\n", loop.time())
        exchange.ended_at = loop.time()

    async def aclose(self) -> None:
        pass


@dataclass(slots=True)
class Played:
    """A run that is over."""

    results: list[Result]
    tally: Tally
    run: Run
    ending: Ending
    scenario: Scenario

    @property
    def own(self) -> Own:
        offered = self.tally.all.offered + self.tally.settling.offered
        return Own(
            self.run.watch.lag, self.tally.send_lag, self.run.watch.jump, offered, self.tally.unsent, self.ending
        )

    @property
    def verdict(self) -> Verdict:
        return judge(self.tally.all, self.scenario.objectives, self.own)

    def outcomes(self) -> dict[str, int]:
        return {outcome: count for outcome, count in self.tally.all.outcomes.items() if count}


Meanwhile = Callable[[Run], Awaitable[None]]


async def offer(
    scenario: Scenario,
    wires: Sequence[Wire],
    meanwhile: Meanwhile | None = None,
    now: Callable[[], float] = virtual_wall_clock,
    concurrency: int | None = None,
) -> Played:
    results: list[Result] = []
    tally = Tally(scenario)

    def hear(result: Result) -> None:
        tally.hear(result)
        results.append(result)

    alike = (1.0,) * len(wires)
    weights = scenario.weights if scenario.weights and len(scenario.weights) == len(wires) else alike
    targets = [
        Target(f"s{place}", wire, weight) for place, (wire, weight) in enumerate(zip(wires, weights, strict=True))
    ]
    run = Run(scenario, targets, hear, tally.gaps_of, concurrency, now)
    beside = asyncio.create_task(meanwhile(run)) if meanwhile is not None else None  # type: ignore[arg-type]
    ending = await run.run()
    if beside is not None:
        beside.cancel()
        await asyncio.gather(beside, return_exceptions=True)
    return Played(results, tally, run, ending, scenario)


def play(
    scenario: Scenario, *wires: Wire, meanwhile: Meanwhile | None = None, concurrency: int | None = None
) -> Played:
    return run_virtual(offer(scenario, wires, meanwhile, concurrency=concurrency))


def smoke(**given: object) -> Scenario:
    """The built-in one, with something else."""
    return load("smoke", {"warm_up": False, **given})
