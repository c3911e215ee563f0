"""One loaded model: its slots, its prompt cache and the pace at which it makes tokens."""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from dataclasses import dataclass

from exporter.simulator.journal import Journal
from exporter.simulator.models import SimModel
from exporter.simulator.options import RunnerOptions
from exporter.simulator.slots import Slots, SlotWork
from exporter.simulator.text import Prompt

_CACHED_PROMPTS = 4_096
_ONE_TOKEN_SECONDS = 1e-6
_KEPT_TOKENS = 4
_TELLS_EVERY = 3.0  # seconds of generation


class RunnerDiedError(Exception):
    """The child process went away under a request."""


class OutOfMemoryError(RunnerDiedError):
    """A device had no memory for what a request needs: all models go."""


@dataclass(frozen=True, slots=True)
class Spent:
    """What one answer cost, as the runner reports it. Waiting for a slot is in none of these."""

    prompt_tokens: int
    prompt_seconds: float
    tokens: int
    eval_seconds: float
    cached_tokens: int = 0


NOTHING_SPENT = Spent(0, 0.0, 0, 0.0)


class Runner:
    """The scheduler writes who refers to it and when it expires; its own requests take and leave slots."""

    def __init__(
        self,
        model: SimModel,
        options: RunnerOptions,
        num_ctx: int,
        slots: int,
        slowdown: Callable[[], float],
        journal: Journal,
        started: float = 0.0,
        lacks_memory: Callable[[], bool] = lambda: False,
    ) -> None:
        self.model = model
        self.options = options
        self.num_ctx = num_ctx
        self.slots = slots
        self.size_bytes = 0
        self.vram_bytes = 0
        # The scheduler's part.
        self.references = 0
        self.session_seconds = 0.0
        self.expires_at: float | None = None  # None until idle once: until then it slides
        self.timer: asyncio.TimerHandle | None = None
        self.closed = False
        self.leaving = ""  # why the scheduler wants it gone
        # The requests' part.
        self.alive = True
        self.busy = 0
        self.waiting = 0
        self.slots_to_lose = 0
        self.tokens_made = 0
        self.loading = False
        self.started = started
        self.work = Slots([SlotWork(number) for number in range(slots)])
        self._slowdown = slowdown
        self._journal = journal
        self._lacks_memory = lacks_memory
        self._numbers = list(range(slots))  # of the slots that are free
        self._tasks = 0
        self._semaphore = asyncio.Semaphore(slots)
        self._cache: OrderedDict[int, None] = OrderedDict()

    @contextlib.asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """First come, first served, without a limit and without a time limit."""
        self.waiting += 1
        try:
            await self._semaphore.acquire()
        except asyncio.CancelledError:
            self._journal.left_the_queue()
            raise
        finally:
            self.waiting -= 1
        self.busy += 1
        try:
            self._check_alive()
            yield
        finally:
            self.busy -= 1
            self._give_back_slot()

    def end(self) -> None:
        """Its server has ended: whoever works with it or waits for it is cut off."""
        self.alive, self.closed = False, True
        for _ in range(self.waiting):
            self._semaphore.release()

    def _give_back_slot(self) -> None:
        if self.slots_to_lose > 0:
            self.slots_to_lose -= 1  # ollama#17131: the permit stays with a request that is gone
        else:
            self._semaphore.release()

    async def generate(self, prompt: Prompt, tokens: int, step: int) -> AsyncGenerator[int | Spent, None]:
        """Yield how many tokens came since the last time, then what it cost. Hold a slot around it."""
        new_tokens = prompt.tokens - prompt.cached_tokens(self._cache)
        with self._told(prompt, new_tokens, tokens) as (row, task):
            prompt_seconds = await self._read_prompt(prompt, new_tokens, row)
            self._journal.sampling(row.number, task, prompt.tokens)
            made, eval_seconds, told = 1, 0.0, 0.0
            row.make(made)
            yield 1
            while made < tokens:
                portion = min(step, tokens - made, self._room(row, task))
                seconds = portion * self._token_seconds()
                row.make(made, portion, seconds)
                await self._work(seconds)
                self.work.totals.generation_seconds += seconds
                self.work.totals.decodes += portion / max(1, self.busy)
                eval_seconds += seconds
                made += portion
                row.make(made)
                self.tokens_made += portion
                if eval_seconds - told >= _TELLS_EVERY:
                    told = eval_seconds
                    self._journal.progress(row.number, task, made, eval_seconds)
                yield portion
            self.tokens_made += 1
            if not self._is_cut_short():
                self._journal.answered(row.number, task, new_tokens, prompt_seconds, made, _micro(eval_seconds))
        # The first token falls out of the last prompt batch: an answer of one token shows exactly 1000 ns.
        seconds = max(_micro(eval_seconds), _ONE_TOKEN_SECONDS)
        yield Spent(prompt.tokens, prompt_seconds, made, seconds, prompt.tokens - new_tokens)

    async def embed(self, prompt: Prompt) -> None:
        async with self.slot():
            with self._told(prompt, prompt.tokens) as (row, _):
                await self._read(row, prompt.tokens)

    @contextlib.contextmanager
    def _told(self, prompt: Prompt, new_tokens: int, tokens: int = 0) -> Iterator[tuple[SlotWork, int]]:
        """A task in its slot, and its lines in the log, from its beginning to its end; a dead runner writes none, and
        Ollama one on each request that it leaves."""
        slot = self._numbers.pop() if self._numbers else 0
        task = self._tasks
        self._tasks += 1
        self._journal.prompt_began(slot, task, self.num_ctx, prompt.tokens, prompt.tokens - new_tokens)
        try:
            with self.work.work(slot, task, prompt.tokens - new_tokens, tokens) as row:
                yield row, task
        except RunnerDiedError:
            if not self.closed:
                self._journal.generation_failed("EOF")
            raise
        finally:
            self._numbers.append(slot)
            if self.alive and not self._is_cut_short():
                self._journal.released(slot, task, prompt.tokens)

    def _is_cut_short(self) -> bool:
        """Its last task ends, and somebody waits for its place."""
        return self._journal.cut_short and self.leaving != "" and self.busy <= 1

    def _room(self, row: SlotWork, task: int) -> int:
        """Tokens until the context is full; if it is, half of it is thrown away first."""
        if row.held >= self.num_ctx:
            left = row.held - _KEPT_TOKENS
            row.shed(left // 2)
            self._journal.shifted(row.number, task, _KEPT_TOKENS, left, left // 2)
        return max(1, self.num_ctx - row.held)

    async def _read_prompt(self, prompt: Prompt, new_tokens: int, row: SlotWork) -> float:
        self._remember(prompt)
        return _micro(await self._read(row, new_tokens))

    async def _read(self, row: SlotWork, tokens: int) -> float:
        seconds = tokens / self.model.prefill_tokens_per_second * self._pace()
        row.read(tokens, seconds)
        await self._work(seconds)
        if self._lacks_memory():
            self._journal.out_of_memory(self.model)
            raise OutOfMemoryError("llama-server ran out of memory: cudaMalloc failed: out of memory")
        row.read(tokens)
        self.work.totals.prompt_tokens += tokens
        self.work.totals.prompt_seconds += seconds
        self.work.totals.decodes += 1
        return seconds

    def _remember(self, prompt: Prompt) -> None:
        for block in prompt.blocks:
            self._cache[block] = None
            self._cache.move_to_end(block)
        while len(self._cache) > _CACHED_PROMPTS:
            self._cache.popitem(last=False)

    async def _work(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self._check_alive()

    def _check_alive(self) -> None:
        if not self.alive:
            raise RunnerDiedError("an error was encountered while running the model: unexpected EOF")

    def _token_seconds(self) -> float:
        return self._pace() / self.model.decode_tokens_per_second

    def _pace(self) -> float:
        return self._slowdown() * (1.0 + self.model.crowding * max(0, self.busy - 1))


def _micro(seconds: float) -> float:
    """llama-server counts in milliseconds with three decimals."""
    return round(seconds, 6)
