"""Offers the load: who asks whom, and when. Every latency counts from the moment a request was meant to go out.

Open loop: requests go out at their times, whatever became of those before. Closed loop: each user asks, waits for the
end of the answer, pauses, asks again. Nothing waits behind a hidden limit: what cannot be sent is a result, too.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, cast

from exporter.loadtest.answers import Answer
from exporter.loadtest.arrivals import moments
from exporter.loadtest.lag import SelfWatch
from exporter.loadtest.outcomes import OURS, Outcome, Result
from exporter.loadtest.prompts import Conversation
from exporter.loadtest.scenario import Scenario, Workload
from exporter.loadtest.wire import Broken, Exchange, NoConnection, NotHttp, OutOfFiles, Wire

Ending = Literal["complete", "interrupted", "errors", "tokens", "duration"]
"""Why a run ended: as planned; somebody stopped it; too many errors; a limit of tokens or of time."""

_CONTEXT_LEAST = 2048
"""The smallest context that any version loads a model with by itself."""
SETTLING, WARMING_UP = "settle", "warm-up"
_RECENT = 50
_WARM_UP_SECONDS = 600.0


@dataclass(slots=True)
class Target:
    """A server under load. `counts_whole_prompt`: whether its prompt_eval_count holds the cached tokens, too.
    `contexts`: of its loaded models, in tokens for each slot."""

    name: str
    wire: Wire
    weight: float = 1.0
    counts_whole_prompt: bool = True
    contexts: dict[str, int] = field(default_factory=dict)
    in_flight: int = 0

    def cut_below(self, model: str, words: int) -> int:
        """Tokens that a prompt of so many words has at least, if it is long enough to be cut at all (a word is two
        tokens at most, or nearly); 0 where nothing can be told."""
        return words if self.counts_whole_prompt and 2 * words >= self.contexts.get(model, _CONTEXT_LEAST) else 0


Gaps = Callable[[str], Callable[[float], None]]


class Run:
    """One run of a scenario. `hear` is given each result as it comes about; `gaps` tells for a workload's name who
    takes the seconds between two pieces of its answers; `concurrency`: how many requests can be in flight, by our files
    and the scenario's limit; `warmed` is awaited when the models are loaded."""

    def __init__(
        self,
        scenario: Scenario,
        targets: Sequence[Target],
        hear: Callable[[Result], None],
        gaps: Gaps = lambda workload: lambda seconds: None,
        concurrency: int | None = None,
        now: Callable[[], float] = time.time,
        warmed: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.scenario, self.targets = scenario, tuple(targets)
        self._hear, self._gaps = hear, gaps
        self._concurrency = min(concurrency or scenario.limits.concurrency, scenario.limits.concurrency)
        self._now, self._warmed = now, warmed
        self.watch = SelfWatch(now)
        self.course = scenario.course
        self.warm_ups: list[Result] = []
        self.in_flight = 0
        self.began_at = self.ended_at = 0.0
        self.seconds = 0.0
        self._began: float | None = None
        self._ending: Ending = "complete"
        self._stopping = False
        self._work: asyncio.Task[None] | None = None
        self._flights: set[asyncio.Task[None]] = set()
        self._recent: deque[bool] = deque(maxlen=_RECENT)
        self._tokens = 0
        self._weights = [workload.weight for workload in scenario.workloads]

    async def run(self) -> Ending:
        """To the end of the last answer."""
        watching = asyncio.create_task(self.watch.run(), name="self watch")
        self._work = asyncio.create_task(self._everything(), name="load")
        limit = asyncio.get_running_loop().call_later(self.scenario.limits.duration, self.stop, "duration")
        self.began_at = self._now()
        try:
            await asyncio.wait([self._work])
            if not self._work.cancelled() and (bug := self._work.exception()) is not None:
                raise bug
        finally:
            limit.cancel()
            for task in (self._work, watching, *self._flights):
                task.cancel()
            await asyncio.gather(watching, *self._flights, return_exceptions=True)
            self.ended_at = self._now()
            self.seconds = self.elapsed()
        return self._ending

    def stop(self, ending: Ending = "interrupted") -> None:
        """End now: what is in flight is cut off, and told as interrupted."""
        if not self._stopping and self._work is not None:
            self._stopping, self._ending = True, ending
            self._work.cancel()

    def elapsed(self) -> float:
        """Seconds since the load began; 0 while models are loaded."""
        return 0.0 if self._began is None else asyncio.get_running_loop().time() - self._began

    async def _everything(self) -> None:
        if self.scenario.warm_up:
            await self._warm_up()
        if self._warmed is not None:
            await self._warmed()
        self._began = asyncio.get_running_loop().time()
        if self.scenario.users is not None:
            async with asyncio.TaskGroup() as group:
                for number in range(self.scenario.users):
                    group.create_task(self._user(number, self.scenario.users), name=f"user {number}")
        else:
            await self._arrivals()
            if self._flights:
                await asyncio.wait(self._flights)

    # -- who asks

    async def _arrivals(self) -> None:
        """Open loop."""
        clock, began = asyncio.get_running_loop().time, self._start
        rng = random.Random(f"{self.scenario.seed}/arrivals")
        due = self.scenario.trace or moments(self.course, self.scenario.rate or 1.0, self.scenario.arrivals, rng)
        for number, moment in enumerate(due):
            if (delay := began + moment - clock()) > 0:
                await asyncio.sleep(delay)
            elif number % 64 == 0:
                await asyncio.sleep(0)  # whoever is late must read answers all the same
            conversation = self._conversation(random.Random(f"{self.scenario.seed}/{number}"))
            conversation[1].imagine()
            flight = asyncio.create_task(self._flight(*conversation, moment))
            self._flights.add(flight)
            flight.add_done_callback(self._flights.discard)

    async def _flight(self, workload: Workload, conversation: Conversation, moment: float) -> None:
        await self._ask(workload, conversation, moment)

    async def _user(self, number: int, users: int) -> None:
        """Closed loop. The users do not begin all at once."""
        clock, began = asyncio.get_running_loop().time, self._start
        rng = random.Random(f"{self.scenario.seed}/{number}")
        workload, conversation = self._conversation(rng)
        due = rng.uniform(0.0, min(workload.think, 0.5 * self.course.seconds))
        while (moment := self.course.next_above(due, number / users)) is not None:
            await asyncio.sleep(began + moment - clock())
            if conversation.over:
                workload, conversation = self._conversation(rng)
            result = await self._ask(workload, conversation, moment)
            if self._stopping:  # what was in flight has swallowed the cancellation, to be told of
                return
            due = result.ended_at + rng.expovariate(1 / workload.think)

    def _conversation(self, rng: random.Random) -> tuple[Workload, Conversation]:
        workload = rng.choices(self.scenario.workloads, self._weights)[0]
        return workload, Conversation(workload, self.scenario.model_of(workload), rng)

    @property
    def _start(self) -> float:
        return cast(float, self._began)  # whoever asks somebody has been begun with

    # -- one request

    async def _ask(self, workload: Workload, conversation: Conversation, moment: float) -> Result:
        target = min(self.targets, key=lambda each: (each.in_flight + 1) / each.weight)
        settling = self.scenario.settle is not None and moment < self.scenario.settle
        phase = SETTLING if settling else self.course.phase_at(moment).name
        result = await self._exchanged(
            workload, conversation, target, self._start + moment, phase, self.scenario.timeout
        )
        result = replace(result, at=moment)
        self._take(result)
        return result

    async def _exchanged(
        self, workload: Workload, conversation: Conversation, target: Target, due: float, phase: str, timeout: float
    ) -> Result:
        clock = asyncio.get_running_loop().time
        lag = max(0.0, clock() - due)
        ask = conversation.ask()
        streamed = workload.stream and workload.api != "embed"
        result = Result(
            0.0, phase, workload.name, self.scenario.model_of(workload), target.name, "client_lag", streamed,
            send_lag=lag, words=ask.words,
        )  # fmt: skip
        if self.in_flight >= self._concurrency:
            return result
        answer = Answer(workload.api, workload.stream, self._gaps(workload.name), ask.keeps_text)
        exchange = Exchange(ask.path, ask.body, answer.feed, workload.read_rate)
        target.in_flight += 1
        self.in_flight += 1
        try:
            cut_below = target.cut_below(result.model, ask.words)
            outcome = await self._outcome(target, exchange, answer, due + timeout, cut_below)
        finally:
            target.in_flight -= 1
            self.in_flight -= 1
        if outcome == "client_lag":
            return result
        conversation.answered(answer.text)
        return _told(result, outcome, exchange, answer, due, clock())

    async def _outcome(
        self, target: Target, exchange: Exchange, answer: Answer, until: float, cut_below: int
    ) -> Outcome:
        try:
            async with asyncio.timeout_at(until):
                await target.wire.exchange(exchange)
        except TimeoutError:
            return "timeout"
        except NoConnection:
            return "connection"
        except Broken:
            # The error may have come before the connection went; else the answer is not whole.
            return "stream_error" if answer.failed else "truncated"
        except NotHttp:
            return "malformed"
        except OutOfFiles:
            return "client_lag"
        except asyncio.CancelledError:
            if not self._stopping:
                raise
            return "interrupted"
        match exchange.status:
            case 200:
                answer.end(exchange.ended_at or 0.0)
                return answer.outcome(cut_below)
            case 503:
                return "busy"
            case int(status) if status >= 400:
                return "http_4xx" if status < 500 else "http_5xx"
        return "malformed"

    def _take(self, result: Result) -> None:
        self._hear(result)
        self._tokens += result.prompt_tokens + result.tokens
        if self._tokens > self.scenario.limits.tokens:
            self.stop("tokens")
        if result.outcome in OURS:
            return
        self._recent.append(result.outcome != "ok")
        abort_on = self.scenario.abort_on
        if abort_on is not None and sum(self._recent) >= abort_on * _RECENT:
            self.stop("errors")

    # -- before it begins

    async def _warm_up(self) -> None:
        """Each model once on each server, one after the other there: two at once might evict each other for nothing."""
        async with asyncio.TaskGroup() as group:
            for target in self.targets:
                group.create_task(self._warm(target), name=f"warm-up of {target.name}")

    async def _warm(self, target: Target) -> None:
        seen: set[tuple[str, int | None, bool]] = set()
        for place, workload in enumerate(self.scenario.workloads):
            if self._stopping:
                return
            key = (self.scenario.model_of(workload), workload.num_ctx, workload.api == "embed")
            if key in seen:
                continue
            seen.add(key)
            first = replace(
                workload, prompt_words=8, prompt_spread=0.0, answer_tokens=2, turns=1, shared_prefix=0.0, read_rate=None
            )  # fmt: skip
            conversation = Conversation(first, key[0], random.Random(f"{self.scenario.seed}/warm-up/{place}"))
            due = asyncio.get_running_loop().time()
            result = await self._exchanged(first, conversation, target, due, WARMING_UP, _WARM_UP_SECONDS)
            self.warm_ups.append(result)


def _told(result: Result, outcome: Outcome, exchange: Exchange, answer: Answer, due: float, now: float) -> Result:
    """With all that is known of an exchange that is over."""
    ended = exchange.ended_at if exchange.ended_at is not None else now
    per_token = None
    if answer.first is not None and answer.last is not None and answer.tokens > 1:
        per_token = (answer.last - answer.first) / (answer.tokens - 1)
    return replace(
        result,
        outcome=outcome,
        status=exchange.status,
        ttft=None if answer.first is None or not result.streamed else max(0.0, answer.first - due),
        total=max(0.0, ended - due),
        longest_gap=answer.longest_gap,
        per_token=per_token,
        queue=answer.queue,
        load=answer.load,
        prompt_tokens=answer.prompt_tokens,
        tokens=answer.tokens,
    )
