"""The scheduler of a simulated Ollama: who gets a runner at once, who queues, who is refused, who is evicted.

Pure asyncio, no HTTP. `loop.time()` says how long things take, `now()` what the clock on the wall shows.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from exporter.simulator.events import EventLog
from exporter.simulator.journal import Journal
from exporter.simulator.models import GIB, MIB, SimModel
from exporter.simulator.options import DEFAULT_OPTIONS, FOREVER_SECONDS, RunnerOptions
from exporter.simulator.runner import OutOfMemoryError, Runner

BUSY = "server busy, please try again.  maximum pending requests exceeded"
_COMPUTE_BUFFER_BYTES = 180 * MIB
_FIT_SHARE = 0.8  # of the free memory may be taken by one more model
_ENTER_SECONDS = 0.0006  # reading manifests and pinging the runner: load_duration is never zero
_ENTER_JITTER_SECONDS = 0.0012


class ServerBusyError(Exception):
    """The scheduler's queue is full: 503."""


class LoadFailedError(Exception):
    """The runner did not start: 500."""


class ServerDownError(Exception):
    """The whole process is gone."""


Waits = Literal["queue", "load", ""]


@dataclass(frozen=True, slots=True)
class EngineConfig:
    num_parallel: int = 1
    max_queue: int = 512
    max_loaded_models: int = 3
    keep_alive_seconds: float = 300.0
    default_num_ctx: int = 4096
    gpu_bytes: int = 24 * GIB  # 0: CPU only
    memory_bytes: int = 256 * GIB  # everything a model may be placed in
    unload_seconds: float = 0.15  # until the memory is seen to be free again
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Wanted:
    """A request as the scheduler sees it."""

    model: SimModel
    options: RunnerOptions = DEFAULT_OPTIONS
    keep_alive: float | None = None
    origin: str = ""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A row of /api/ps."""

    model: SimModel
    size_bytes: int
    vram_bytes: int
    num_ctx: int
    expires_at: float
    slots: int
    busy: int
    waiting: int
    alive: bool


@dataclass(slots=True)
class _Pending:
    wanted: Wanted
    granted: asyncio.Future[Runner]
    task: asyncio.Task[object] | None


class Engine:
    def __init__(
        self,
        config: EngineConfig,
        log: EventLog,
        now: Callable[[], float],
        slowdown: Callable[[], float] = lambda: 1.0,
        load_failure: Callable[[SimModel], str | None] = lambda model: None,
        gpu_lost: Callable[[], bool] = lambda: False,
        journal: Journal | None = None,
        lacks_memory: Callable[[SimModel], bool] = lambda model: False,
    ) -> None:
        self.config = config
        self._log = log
        self._now = now
        self._slowdown = slowdown
        self._load_failure = load_failure
        self._gpu_lost = gpu_lost
        self._lacks_memory = lacks_memory
        self._journal = journal or Journal(None, now)
        self._rng = random.Random(config.seed)
        self._runners: dict[str, Runner] = {}  # by blob, as in Ollama
        self._loading: Runner | None = None
        self._pending: deque[_Pending] = deque()
        self._in_work: _Pending | None = None
        self._dispatcher: asyncio.Task[None] | None = None
        self._room = asyncio.Event()

    # -- what can be seen

    def loaded(self) -> tuple[Loaded, ...]:
        """What /api/ps lists: never a model that is still loading; the latest expiry first."""
        rows = [self._row(runner) for runner in self._runners.values()]
        return tuple(sorted(rows, key=lambda row: -row.expires_at))

    def children(self) -> tuple[Runner, ...]:
        """The processes that there are: those that still load too, and not those that died."""
        there = (*self._runners.values(), *((self._loading,) if self._loading else ()))
        return tuple(runner for runner in there if runner.alive)

    def _row(self, runner: Runner) -> Loaded:
        expires_at = runner.expires_at
        if expires_at is None:
            expires_at = self._now() + runner.session_seconds
        return Loaded(
            runner.model,
            runner.size_bytes,
            runner.vram_bytes,
            runner.num_ctx,
            expires_at,
            runner.slots,
            runner.busy,
            runner.waiting,
            runner.alive,
        )

    @property
    def pending(self) -> int:
        return len(self._pending)

    @property
    def scheduling(self) -> str:
        """The model that the scheduler is placing right now, and behind which others wait."""
        return self._in_work.wanted.model.name if self._in_work else ""

    def waits_for(self, task: asyncio.Task[Any]) -> Waits:
        """What a request that is answered in this task waits for in the scheduler."""
        if self._in_work is not None and self._in_work.task is task:
            return "load"
        return "queue" if any(entry.task is task for entry in self._pending) else ""

    # -- the way in

    @contextlib.asynccontextmanager
    async def runner(self, wanted: Wanted) -> AsyncIterator[Runner]:
        """A runner for this request, loaded if need be; leaving the block re-arms its keep-alive."""
        await asyncio.sleep(_ENTER_SECONDS + self._rng.random() * _ENTER_JITTER_SECONDS)
        runner = await self._acquire(wanted)
        try:
            yield runner
        except OutOfMemoryError:
            for other in tuple(self._runners.values()):
                self.expire(other.model)
            raise
        finally:
            self._release(runner, wanted)

    async def _acquire(self, wanted: Wanted) -> Runner:
        runner = self._runners.get(wanted.model.blob)
        if runner is not None and not self._reason_to_reload(runner, wanted):
            self._use(runner, wanted)
            return runner
        entry = _Pending(wanted, asyncio.get_running_loop().create_future(), asyncio.current_task())
        self._submit(entry)
        try:
            return await entry.granted
        except asyncio.CancelledError:
            if entry.granted.done() and not entry.granted.cancelled() and entry.granted.exception() is None:
                self._release(entry.granted.result(), wanted)
            raise

    def _submit(self, entry: _Pending) -> None:
        if self._in_work is None:
            self._in_work = entry
            self._dispatcher = asyncio.create_task(self._dispatch(), name="scheduler")
        elif len(self._pending) < self.config.max_queue:
            self._pending.append(entry)
        else:
            self._log.record("reject", entry.wanted.model.name, "queue full", entry.wanted.origin)
            raise ServerBusyError(BUSY)

    def _use(self, runner: Runner, wanted: Wanted) -> None:
        """Note what does not happen here: expires_at stays as it is until the request ends."""
        runner.references += 1
        if runner.timer is not None:
            runner.timer.cancel()
            runner.timer = None
        if wanted.keep_alive is not None:
            runner.session_seconds = wanted.keep_alive

    def _release(self, runner: Runner, wanted: Wanted) -> None:
        runner.references -= 1
        if runner.references > 0 or runner.closed:
            return
        if runner.session_seconds <= 0:
            self._unload(runner, runner.leaving or "requested")
            return
        runner.leaving = ""
        self._arm(runner)
        self._log.record("idle", runner.model.name, origin=wanted.origin, value=runner.expires_at)

    def _arm(self, runner: Runner) -> None:
        if runner.timer is not None:
            runner.timer.cancel()
        runner.expires_at = self._now() + runner.session_seconds
        runner.timer = None
        if runner.session_seconds < FOREVER_SECONDS:
            loop = asyncio.get_running_loop()
            runner.timer = loop.call_later(runner.session_seconds, self._unload, runner, "expired")

    # -- one at a time

    async def _dispatch(self) -> None:
        while (entry := self._in_work) is not None:
            if not entry.granted.done():  # else: the client left while it waited
                await self._place(entry)
            self._in_work = self._pending.popleft() if self._pending else None

    async def _place(self, entry: _Pending) -> None:
        """Everything behind this entry waits, also while a busy victim finishes its work."""
        model, reloading = entry.wanted.model, ""
        while True:
            runner = self._runners.get(model.blob)
            if runner is None and self._has_room(entry.wanted):
                if not entry.granted.done():
                    await self._load(entry, reloading)
                return
            if runner is not None:
                reason = self._reason_to_reload(runner, entry.wanted)
                if not reason:
                    if not entry.granted.done():
                        self._use(runner, entry.wanted)
                        entry.granted.set_result(runner)
                    return
                reloading = reason
                if not runner.alive:
                    self._journal.runner_found_dead()
                await self._make_room(runner, "reload")
            else:
                victim = self._victim()
                if len(self._runners) < self.config.max_loaded_models:
                    self._journal.predicted_too_large()
                self._log.record("evict", victim.model.name, f"for {model.name}", entry.wanted.origin)
                await self._make_room(victim, "evicted")

    def _has_room(self, wanted: Wanted) -> bool:
        if not self._runners:
            return True
        if len(self._runners) >= self.config.max_loaded_models:
            return False
        free = self.config.memory_bytes - sum(runner.size_bytes for runner in self._runners.values())
        return self._size_of(wanted) <= free * _FIT_SHARE

    def _victim(self) -> Runner:
        """The idle runner with the shortest keep-alive, else the shortest keep-alive of all."""
        by_session = sorted(self._runners.values(), key=lambda runner: runner.session_seconds)
        return next((runner for runner in by_session if runner.references == 0), by_session[0])

    async def _make_room(self, victim: Runner, why: str) -> None:
        victim.session_seconds, victim.leaving = 0.0, why
        if victim.timer is not None:
            victim.timer.cancel()
            victim.timer = None
        self._room.clear()
        if victim.references <= 0:
            self._unload(victim, why)
        # A request with an explicit keep_alive can revive the victim: then everybody waits for its timer.
        await self._room.wait()

    def _unload(self, runner: Runner, why: str) -> None:
        if runner.closed or runner.references > 0:
            return
        runner.closed = True
        if runner.timer is not None:
            runner.timer.cancel()
        self._runners.pop(runner.model.blob, None)
        self._log.record("unload", runner.model.name, why)
        asyncio.get_running_loop().call_later(self.config.unload_seconds, self._room.set)

    async def _load(self, entry: _Pending, reloading: str) -> None:
        wanted, started = entry.wanted, asyncio.get_running_loop().time()
        if wanted.model.single_slot_family and self.config.num_parallel > 1:
            self._journal.one_slot_only(wanted.model)
        self._journal.load_began(wanted.model, self._ctx(wanted), self._slots(wanted.model))
        runner = self._loading = self._new_runner(wanted)
        runner.loading = True
        try:
            done, _ = await asyncio.wait({entry.granted}, timeout=wanted.model.load_seconds * self._slowdown())
        finally:
            self._loading, runner.loading = None, False
        if done:  # cancelled: its client left; otherwise the whole server went down
            self._log.record(
                "load_aborted",
                wanted.model.name,
                "client left" if entry.granted.cancelled() else "server down",
                wanted.origin,
            )
            if entry.granted.cancelled():
                self._journal.load_aborted(wanted.model)
            return
        failure = self._load_failure(wanted.model)
        if failure is not None:
            self._log.record("load_failed", wanted.model.name, failure, wanted.origin)
            self._journal.load_failed(wanted.model, failure)
            entry.granted.set_exception(LoadFailedError(failure))
            return
        self._runners[wanted.model.blob] = runner
        self._log.record("reload" if reloading else "load", wanted.model.name, reloading, wanted.origin)
        self._journal.load_ended(wanted.model, asyncio.get_running_loop().time() - started, len(self._runners))
        entry.granted.set_result(runner)

    def _new_runner(self, wanted: Wanted) -> Runner:
        ctx, slots = self._ctx(wanted), self._slots(wanted.model)
        lacks_memory = partial(self._lacks_memory, wanted.model)
        runner = Runner(
            wanted.model, wanted.options, ctx, slots, self._slowdown, self._journal, self._now(), lacks_memory
        )
        runner.references = 1
        keep_alive = wanted.keep_alive
        runner.session_seconds = self.config.keep_alive_seconds if keep_alive is None else keep_alive
        runner.size_bytes = self._size_of(wanted)
        taken = sum(other.vram_bytes for other in self._runners.values())
        free = 0 if self._gpu_lost() else self.config.gpu_bytes - taken
        runner.vram_bytes = max(0, min(runner.size_bytes, free))
        return runner

    # -- arithmetic

    def _reason_to_reload(self, runner: Runner, wanted: Wanted) -> str:
        if not runner.alive:
            return "runner died"
        return wanted.options.reason_to_reload(runner.options, self.config.default_num_ctx, wanted.model.context_length)

    def _ctx(self, wanted: Wanted) -> int:
        return wanted.options.effective_ctx(self.config.default_num_ctx, wanted.model.context_length)

    def _slots(self, model: SimModel) -> int:
        return 1 if model.forces_one_slot else max(1, self.config.num_parallel)

    def _size_of(self, wanted: Wanted) -> int:
        cells = self._ctx(wanted) * self._slots(wanted.model)
        return wanted.model.file_bytes + cells * wanted.model.kv_bytes_per_token + _COMPUTE_BUFFER_BYTES

    # -- from outside: an explicit unload, and misfortune

    def expire(self, model: SimModel) -> None:
        """An empty prompt with keep_alive 0: gone now, or as soon as its requests end."""
        runner = self._runners.get(model.blob)
        if runner is None:
            return
        runner.expires_at = self._now()
        runner.session_seconds = 0.0
        if runner.timer is not None:
            runner.timer.cancel()
            runner.timer = None
        self._unload(runner, "requested")

    def kill_runners(self, names: Iterable[str] = ()) -> None:
        """SIGKILL the children: they stay listed until somebody asks for them. No names: all of them."""
        wanted = set(names)
        for runner in self._runners.values():
            if not wanted or runner.model.name in wanted:
                runner.alive = False
                self._log.record("runner_killed", runner.model.name)

    def lose_slot(self, names: Iterable[str] = ()) -> None:
        """The next request to end on these runners takes its slot with it."""
        wanted = set(names)
        for runner in self._runners.values():
            if not wanted or runner.model.name in wanted:
                runner.slots_to_lose += 1

    def die(self) -> None:
        """The process is gone with everything it knew; what starts afterwards has nothing loaded."""
        for runner in self._runners.values():
            runner.end()
            if runner.timer is not None:
                runner.timer.cancel()
            self._log.record("unload", runner.model.name, "server down")
        self._runners.clear()
        for entry in (self._in_work, *self._pending):
            if entry is not None and not entry.granted.done():
                entry.granted.set_exception(ServerDownError("connection reset"))
        self._pending.clear()
        self._room.set()

    async def aclose(self) -> None:
        self.die()
        if self._dispatcher is not None:
            self._dispatcher.cancel()
            await asyncio.gather(self._dispatcher, return_exceptions=True)
        self._in_work = None
