"""The processes in which a server runs its models, asked themselves: slots, tokens, settings.

Only on the server's own machine (or in its pod). Nothing that is asked takes a slot, wakes or prolongs a model: one
connection to each runner and look, and one to the server that is kept, for /api/ps, which names them.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, cast

from exporter import catalog
from exporter.llama import Client, RunnerError, Wire
from exporter.local import Local, Place, RunnerProcess, Usage
from exporter.local.vigil import End, Vigil
from exporter.model import Failed, Lack, Lacking, Partial, RunnerSettings, Sample, Watch, canonical
from exporter.ollama import NAME_MAX
from exporter.sources.runner.asking import ASK
from exporter.sources.runner.counts import Meters, Missing
from exporter.sources.runner.listing import Listing
from exporter.sources.runner.present import present
from exporter.sources.runner.seen import Key, Runner, key_of

_T = TypeVar("_T")

_ASKED_AT_ONCE = 8
_AT_ONCE = 0.5
"""Seconds after its end in which a runner is not yet replaced, and its model not yet off the list for that."""
_READY_EVERY, _READY_WITHIN = 0.1, 5.0
"""Seconds in which a new runner is asked, again and again, whether it is ready: in a storm of swaps it is ended right
after an answer. Each look asks it as well."""
_READY_TIMEOUT = 0.25

NAMELESS = Lack(
    "which model a runner holds: no manifest that can be read names its weights",
    "let the exporter read Ollama's model store (OLLAMA_MODELS)",
)
NAMELESS_PORTS = Lack(
    "which model a runner holds, what it was started with and what it uses: processes cannot be seen, only ports",
    "run the exporter with pid: host, in a pod with shareProcessNamespace: true",
)


class RunnerSource:
    """Exposes, for a server named `a`:

        ollama_runner_slots{server="a",model="llama3.2:3b"} 4
        ollama_runner_slots_busy{server="a",model="llama3.2:3b"} 3
        ollama_runner_context_used_tokens{server="a",model="llama3.2:3b"} 5127
        ollama_runner_generated_tokens_seen_total{server="a",model="llama3.2:3b"} 81245
        ollama_runner_ends_seen_total{server="a",model="llama3.2:3b",reason="died"} 1

    `wire` makes the way to a port in a server's network. A runner that does not answer, though its process is there,
    fails the reading, beside what the others told; one that cannot be reached may be just beginning or ending, so it
    fails the second reading.
    """

    def __init__(self, watch: Watch, machine: Local, wire: Callable[[Place, int], Wire]) -> None:
        self._server, self._settings = watch.server, cast(RunnerSettings, watch.settings)
        self._machine, self._wire = machine, wire
        self._looking = threading.Lock()
        self._known: dict[Key, Runner] = {}
        self._has_looked = False
        self._listing = Listing(wire)
        self._vigil = Vigil(machine, self._begin, self._end)
        self._tasks: set[asyncio.Task[None]] = set()
        self._missing = Missing()
        # At the last two looks: who is killed takes a moment to end.
        self._oom_kills = deque([machine.oom_kills()], maxlen=2)
        self._meters = Meters(watch.server, self._settings.models_max)

    async def collect(self) -> Iterable[Sample] | Partial:
        here = await asyncio.to_thread(self._in_turn, self._look)
        self._oom_kills.append(here.oom_kills)
        runners = self._meet(here)
        at_once = asyncio.Semaphore(_ASKED_AT_ONCE)
        listed, *_ = await asyncio.gather(
            self._listing.ask(here.place), *(self._ask(runner, here.place, at_once) for runner in runners)
        )
        runners = [runner for runner in runners if not runner.foreign]
        unnamed = [runner for runner in runners if runner.blob and not runner.settled]
        if unnamed:
            await asyncio.to_thread(self._in_turn, partial(self._find_names, here.place, unnamed))
        for runner in runners:
            runner.choose_name(listed)
            self._meters.count(runner)
        self._missing.see(asyncio.get_running_loop().time(), listed, runners if here.place.pid is not None else None)
        self._meters.expect(self._missing.listed or ())
        return self._told(here.place, runners)

    async def aclose(self) -> None:
        self._vigil.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._listing.close()

    # -- looking

    def _in_turn(self, act: Callable[[], _T]) -> _T:
        # A cancelled collect() leaves its thread behind; the next look must not join it there.
        if not self._looking.acquire(blocking=False):
            raise Failed("timeout", self._meters.samples())
        try:
            return act()
        except (LookupError, OSError):
            raise Failed("unavailable", self._meters.samples()) from None
        except Lacking as lacking:
            if not self._has_looked:
                raise
            raise Lacking(lacking.lack.what, lacking.lack.remedy, self._meters.samples()) from None
        finally:
            self._looking.release()

    def _look(self) -> _Here:
        place = self._machine.place(self._settings.url)
        processes = [process for process in self._machine.runners(place) if process.port is not None]
        usages = tuple((process, self._machine.usage(process)) for process in processes)
        return _Here(place, usages, self._machine.oom_kills())

    def _meet(self, here: _Here) -> list[Runner]:
        """The runners of this look; what is known of those that were there before goes on."""
        known, first, self._has_looked = self._known, not self._has_looked, True
        met: dict[Key, Runner] = {}
        for process, usage in here.processes:
            if self._vigil.has_ended(process):  # since the processes were listed
                continue
            key = key_of(process)
            met[key] = known.get(key) or Runner(process, born=not first)
            met[key].look_anew(usage)
        self._known = {**known, **met}
        self._vigil.follow(here.place, [runner.process for runner in met.values()])
        for key in known.keys() - met.keys():
            # One that this look does not show began after it; else its server is not the one that is watched now.
            if key in self._known and not self._vigil.lives(known[key].process):
                self._meters.ended(self._known.pop(key))
        return [runner for key, runner in met.items() if key in self._known and not runner.foreign]

    # -- between two looks

    def _begin(self, process: RunnerProcess) -> None:
        runner = self._known.setdefault(key_of(process), Runner(process, born=True))
        if runner.born:
            self._start(self._ask_ready(runner))

    def _end(self, end: End) -> None:
        runner = self._known.pop(key_of(end.process), None)
        if runner is None:
            end.close()
            return
        runner.over = True
        self._start(self._judge(runner, end)).add_done_callback(lambda _: end.close())

    def _start(self, act: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(act)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _ask_ready(self, runner: Runner) -> None:
        """Until it is: what was never ready was not unloaded, and it may be gone before the next look."""
        loop = asyncio.get_running_loop()
        until = loop.time() + _READY_WITHIN
        while loop.time() < until and not (runner.ready or runner.over):
            await asyncio.sleep(_READY_EVERY)
            place = self._vigil.place
            if place is not None and not runner.over:
                runner.ready |= await self._is_ready(runner.process, place)

    async def _is_ready(self, process: RunnerProcess, place: Place) -> bool:
        client = Client(self._wire(place, cast(int, process.port)), _READY_TIMEOUT)
        try:
            if process.engine == "mlx":
                await client.mlx_status()
                return True
            return not (await client.health()).loading
        except (RunnerError, LookupError, Lacking):
            return False
        finally:
            await client.close()

    async def _judge(self, runner: Runner, end: End) -> None:
        """Why it ended. Its server is asked first, and at once: what it lists may be another runner's in a moment."""
        loop = asyncio.get_running_loop()
        asked = loop.time()
        listed = await self._listing.ask(end.place)
        late = loop.time() - asked > _AT_ONCE
        starved = self._machine.oom_kills() != self._oom_kills[0]
        if runner.blob and not runner.settled and not runner.names:
            with suppress(LookupError, OSError, Lacking):
                await asyncio.to_thread(self._find_names, end.place, [runner])
        runner.choose_name(listed)
        there = self._is_listed(runner, listed)
        killer = None if listed is None else self._machine.killer(runner.process)
        self._meters.ended(runner, end.why(None if late and not there else there, runner.ready, starved, killer))

    def _is_listed(self, runner: Runner, listed: frozenset[str] | None) -> bool | None:
        """None where it cannot be told: the names of its weights are not known, or are another living runner's."""
        if not listed:
            return None if listed is None else False
        names = runner.names | ({runner.model} if runner.settled else frozenset())
        if not names & listed:
            return False if names else None
        shared = any(other.blob == runner.blob and other.blob for other in self._known.values())
        return None if shared else True

    async def _ask(self, runner: Runner, place: Place, at_once: asyncio.Semaphore) -> None:
        async with at_once:
            client = Client(self._wire(place, cast(int, runner.process.port)))
            try:
                await ASK[runner.process.engine](runner, client)
            except (RunnerError, LookupError) as error:
                runner.refuse(error)
            except Lacking as lacking:
                runner.lacks.append(lacking.lack)
            else:
                runner.unreachable = 0
                runner.ready = runner.ready or not runner.loading
            finally:
                await client.close()

    def _find_names(self, place: Place, runners: Sequence[Runner]) -> None:
        """Which models have a runner's weights. Asked until one of them is listed: a pull may add one meanwhile."""
        for runner in runners:
            names = self._machine.names(place, runner.blob)
            runner.names = frozenset(canonical(name) for name in names if len(name) <= NAME_MAX)

    # -- telling

    def _told(self, place: Place, runners: Sequence[Runner]) -> Iterable[Sample] | Partial:
        samples = (*self._gauges(runners), *self._meters.samples())
        failures = [runner.failure for runner in runners if runner.failure is not None]
        if failures:
            raise Failed(failures[0], samples)
        lacks = [lack for runner in runners for lack in runner.lacks]
        if any(runner.nameless for runner in runners):
            lacks.append(NAMELESS if place.pid is not None else NAMELESS_PORTS)
        return Partial(samples, tuple(dict.fromkeys(lacks))) if lacks else samples

    def _gauges(self, runners: Sequence[Runner]) -> Iterator[Sample]:
        groups: dict[str, list[Runner]] = {}
        for runner in runners:
            groups.setdefault(self._meters.label(runner.model), []).append(runner)
        for model in sorted(groups):
            yield from present(groups[model], server=self._server, model=model)
        missing: dict[str, bool] = {}
        for name in sorted(self._missing.listed or ()):
            label = self._meters.label(name)
            missing[label] = missing.get(label, False) or name in self._missing.dead
        for model, dead in missing.items():
            yield catalog.RUNNER_MISSING(float(dead), server=self._server, model=model)


@dataclass(frozen=True, slots=True)
class _Here:
    """What the machine showed at one look."""

    place: Place
    processes: tuple[tuple[RunnerProcess, Usage | None], ...]
    oom_kills: int | None
