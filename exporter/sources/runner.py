"""The processes in which a server runs its models, asked themselves: slots, tokens, settings.

Only on the server's own machine (or in its pod). Nothing that is asked takes a slot, wakes or prolongs a model: one
connection to each runner and look, and one to the server for /api/ps, which names them.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar, cast

from exporter import catalog
from exporter.llama import (
    Client,
    HttpError,
    Loading,
    Props,
    RunnerError,
    Slot,
    Slots,
    Totals,
    Unreachable,
    Wire,
    blob_of,
)
from exporter.local import Local, Place, RunnerProcess, Usage
from exporter.local.vigil import WHYS, End, Vigil, Why
from exporter.meter import Counter
from exporter.model import Failed, Family, Lack, Lacking, Partial, Reason, RunnerSettings, Sample, Watch, canonical
from exporter.ollama import NAME_MAX, OllamaError, parse_ps

_T = TypeVar("_T")

UNKNOWN = "unknown"
OTHER = "other"
"""Neither can be a model's own: names carry a tag."""
_MISSING_AFTER = 4.0
"""Seconds between two looks that both miss the process of a listed model. What Ollama unloads it unlists in less."""
_NAMED_WITHIN = 3
"""Looks after which a runner that no name was found for is counted as unknown: /api/ps lists a model when it is ready,
a moment after its runner says so."""
_PS_TIMEOUT = 2.0
_ASKED_AT_ONCE = 8
_AT_ONCE = 0.5
"""Seconds after its end in which a runner is not yet replaced, and its model not yet off the list for that."""
_READY_EVERY = 0.25
_READY_WITHIN = 5.0
"""Seconds in which a new runner is asked, again and again, whether it is ready. Each look asks it as well."""
_REACHED_BY_LOOPBACK = frozenset({"127.0.0.1", "0.0.0.0", "::"})

NO_METRICS = Lack(
    "the runners' own counters (every token made, prompts, cache hits, drafts): their /metrics is switched off",
    "set LLAMA_ARG_ENDPOINT_METRICS=1 in Ollama's environment",
)
NO_SLOTS = Lack(
    "slots, tokens in the making and context in use: the runners' /slots is switched off",
    "remove LLAMA_ARG_ENDPOINT_SLOTS from Ollama's environment",
)
BEHIND_KEY = Lack(
    "slots and counters: the runners want a key, which keeps Ollama itself out as well",
    "remove LLAMA_API_KEY from Ollama's environment",
)
OLD = Lack("slots and tokens: the runners of Ollama before 0.30 tell neither", "update Ollama to 0.30 or newer")
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
        self._known: dict[_Key, _Runner] = {}
        self._has_looked = False
        self._vigil = Vigil(machine, self._begin, self._end)
        self._tasks: set[asyncio.Task[None]] = set()
        self._missing = _Missing()
        self._meters = _Meters(watch.server, self._settings.models_max)

    async def collect(self) -> Iterable[Sample] | Partial:
        here = await asyncio.to_thread(self._in_turn, self._look)
        runners = self._meet(here)
        at_once = asyncio.Semaphore(_ASKED_AT_ONCE)
        listed, *_ = await asyncio.gather(
            self._listed(here.place), *(self._ask(runner, here.place, at_once) for runner in runners)
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
        return _Here(place, tuple((process, self._machine.usage(process)) for process in processes))

    def _meet(self, here: _Here) -> list[_Runner]:
        """The runners of this look; what is known of those that were there before goes on."""
        known, first, self._has_looked = self._known, not self._has_looked, True
        met: dict[_Key, _Runner] = {}
        for process, usage in here.processes:
            if self._vigil.has_ended(process):  # since the processes were listed
                continue
            key = _key(process)
            met[key] = known.get(key) or _Runner(process, born=not first)
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
        runner = self._known.setdefault(_key(process), _Runner(process, born=True))
        if runner.born:
            self._start(self._ask_ready(runner))

    def _end(self, end: End) -> None:
        runner = self._known.pop(_key(end.process), None)
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

    async def _ask_ready(self, runner: _Runner) -> None:
        """Until it is: what was never ready was not unloaded, and it may be gone before the next look."""
        loop = asyncio.get_running_loop()
        until = loop.time() + _READY_WITHIN
        while loop.time() < until and not (runner.ready or runner.over):
            await asyncio.sleep(_READY_EVERY)
            place = self._vigil.place
            if place is not None and not runner.over:
                runner.ready |= await self._is_ready(runner.process, place)

    async def _is_ready(self, process: RunnerProcess, place: Place) -> bool:
        client = Client(self._wire(place, cast(int, process.port)), _READY_EVERY)
        try:
            if process.engine == "mlx":
                await client.mlx_status()
                return True
            return not (await client.health()).loading
        except (RunnerError, LookupError, Lacking):
            return False
        finally:
            await client.close()

    async def _judge(self, runner: _Runner, end: End) -> None:
        """Why it ended. Its server is asked first, and at once: what it lists may be another runner's in a moment."""
        loop = asyncio.get_running_loop()
        asked = loop.time()
        listed = await self._listed(end.place)
        late = loop.time() - asked > _AT_ONCE
        if runner.blob and not runner.settled and not runner.names:
            with suppress(LookupError, OSError, Lacking):
                await asyncio.to_thread(self._find_names, end.place, [runner])
        runner.choose_name(listed)
        there = self._is_listed(runner, listed)
        self._meters.ended(runner, end.why(None if late and not there else there, runner.ready))

    def _is_listed(self, runner: _Runner, listed: frozenset[str] | None) -> bool | None:
        """None where it cannot be told: the names of its weights are not known, or are another living runner's."""
        if not listed:
            return None if listed is None else False
        names = runner.names | ({runner.model} if runner.settled else frozenset())
        if not names & listed:
            return False if names else None
        shared = any(other.blob == runner.blob and other.blob for other in self._known.values())
        return None if shared else True

    async def _listed(self, place: Place) -> frozenset[str] | None:
        """The models of /api/ps; None when they cannot be had just now: the scheduler may be stalled."""
        port = next((port for address, port in place.addresses if address in _REACHED_BY_LOOPBACK), None)
        if port is None:
            return None
        client = Client(self._wire(place, port), _PS_TIMEOUT)
        try:
            return frozenset(row.name for row in parse_ps(await client.get("/api/ps")).models)
        except (RunnerError, OllamaError, LookupError, Lacking):
            return None
        finally:
            await client.close()

    async def _ask(self, runner: _Runner, place: Place, at_once: asyncio.Semaphore) -> None:
        async with at_once:
            client = Client(self._wire(place, cast(int, runner.process.port)))
            try:
                await _ASK[runner.process.engine](runner, client)
            except (RunnerError, LookupError) as error:
                runner.refuse(error)
            except Lacking as lacking:
                runner.lacks.append(lacking.lack)
            else:
                runner.unreachable = 0
                runner.ready = runner.ready or not runner.loading
            finally:
                await client.close()

    def _find_names(self, place: Place, runners: Sequence[_Runner]) -> None:
        """Which models have a runner's weights. Asked until one of them is listed: a pull may add one meanwhile."""
        for runner in runners:
            names = self._machine.names(place, runner.blob)
            runner.names = frozenset(canonical(name) for name in names if len(name) <= NAME_MAX)

    # -- telling

    def _told(self, place: Place, runners: Sequence[_Runner]) -> Iterable[Sample] | Partial:
        samples = (*self._gauges(runners), *self._meters.samples())
        failures = [runner.failure for runner in runners if runner.failure is not None]
        if failures:
            raise Failed(failures[0], samples)
        lacks = [lack for runner in runners for lack in runner.lacks]
        if any(runner.nameless for runner in runners):
            lacks.append(NAMELESS if place.pid is not None else NAMELESS_PORTS)
        return Partial(samples, tuple(dict.fromkeys(lacks))) if lacks else samples

    def _gauges(self, runners: Sequence[_Runner]) -> Iterator[Sample]:
        groups: dict[str, list[_Runner]] = {}
        for runner in runners:
            groups.setdefault(self._meters.label(runner.model), []).append(runner)
        for model in sorted(groups):
            yield from _present(groups[model], server=self._server, model=model)
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


@dataclass(frozen=True, slots=True)
class _Key:
    """Tells a runner from one that comes after it. Without a pid there is but the port, which is drawn by lot."""

    pid: int | None
    started: float | None
    port: int | None


def _key(process: RunnerProcess) -> _Key:
    return _Key(process.pid, process.started, process.port)


class _Rise:
    """A count that begins with its process, turned into what it rose by since the look before. Of a process that was
    there before us (not `born` under our eyes) the first value is where we begin."""

    def __init__(self, born: bool) -> None:
        self._last = 0.0 if born else None

    def to(self, value: float) -> float:
        last = value if self._last is None else self._last
        self._last = max(last, value)
        return self._last - last


class _Growth:
    """Tokens seen growing in slots. A task is known by its number; its tokens are gone from /slots when it ends, but
    the slot goes on holding them, behind its prompt."""

    def __init__(self, born: bool) -> None:
        self._before: dict[int, Slot] | None = {} if born else None
        self.tokens = 0

    def see(self, rows: Iterable[Slot]) -> None:
        before, self._before = self._before, {slot.number: slot for slot in rows}
        if before is not None:
            self.tokens += sum(_grown(before.get(slot.number), slot) for slot in self._before.values())


def _grown(before: Slot | None, now: Slot) -> int:
    """Tokens that were made in a slot between two looks, as far as they tell; never too many."""
    known = before is not None and before.busy and before.task == now.task
    if now.busy:
        return max(0, (now.decoded or 0) - (before.decoded or 0 if known and before else 0))
    # Until the first token is made, what a slot holds grows by its prompt as well.
    if known and before and before.decoded and before.held is not None and now.held is not None:
        return max(0, now.held - before.held)
    return 0


class _Runner:
    """What is known of one runner. `born`: it was not there when we looked first."""

    def __init__(self, process: RunnerProcess, born: bool) -> None:
        self.process, self.born = process, born
        self.blob = blob_of(argument(process.arguments, "--model"))
        self.names: frozenset[str] = frozenset()
        self.model = UNKNOWN
        self.settled = False  # its name is one that /api/ps lists; it keeps it
        self.foreign = False  # only its port was seen, and it is no runner
        self.counted = False
        self.ready = False  # its model was loaded, at some look
        self.over = False
        self.unreachable = 0
        self.looks = 0
        self.props: Props | None = None
        self.growth = _Growth(born)
        self.rises: dict[Family, _Rise] = {}
        self.process_mark = ""
        self.look_anew(None)

    def look_anew(self, usage: Usage | None) -> None:
        """Forget what was of the look before."""
        self.usage = usage
        self.loading = False
        self.capacity: tuple[int, int] | None = None  # slots, busy ones
        self.context: int | None = None
        self.slots: Slots | None = None
        self.totals: Totals | None = None
        self.failure: Reason | None = None
        self.lacks: list[Lack] = []
        self.looks += 1

    def refuse(self, error: RunnerError | LookupError) -> None:
        if self.process.pid is None and self.props is None and not isinstance(error, Loading | Unreachable):
            self.foreign = True
        elif isinstance(error, Loading):
            self.loading, self.unreachable = True, 0
        elif isinstance(error, Unreachable):
            self.unreachable += 1
            self.failure = error.reason if self.unreachable > 1 else None
        else:
            self.failure = error.reason if isinstance(error, RunnerError) else "unavailable"

    def choose_name(self, listed: frozenset[str] | None) -> None:
        """The one of its names that is listed; it alone, as long as none is. Never a guess."""
        if self.settled:
            return
        if self.process.engine == "mlx":  # its command line names the model itself
            name = argument(self.process.arguments, "--model")
            self.settled = 0 < len(name) <= NAME_MAX
            self.model = canonical(name) if self.settled else UNKNOWN
            return
        fitting = sorted(self.names & (listed or frozenset()))
        self.settled = bool(fitting)
        self.model = fitting[0] if fitting else next(iter(self.names)) if len(self.names) == 1 else UNKNOWN

    @property
    def nameless(self) -> bool:
        return self.model == UNKNOWN and not self.names and not self.loading and self.looks >= _NAMED_WITHIN

    @property
    def to_be_counted(self) -> bool:
        return self.model != UNKNOWN or self.counted or self.looks >= _NAMED_WITHIN

    def rise(self, family: Family, value: float) -> float:
        return self.rises.setdefault(family, _Rise(self.born)).to(value)

    def notice_restart(self, mark: str) -> None:
        """Another process on the same port, where processes cannot be seen."""
        if self.process_mark not in ("", mark):
            self.born, self.counted, self.rises = True, False, {}
        self.process_mark = mark


# -- asking


async def _ask_llama(runner: _Runner, client: Client) -> None:
    if runner.props is None:
        props = await _unless_off(client.props(), BEHIND_KEY, runner)
        if props is None:
            return
        runner.blob = runner.blob or props.blob
        runner.props = props
        if runner.process.pid is None and not props.blob:  # somebody's own llama-server
            runner.foreign = True
            return
    runner.context = runner.props.context
    # The counters before the slots: a task that ends in between is then missing for a moment, and not counted twice.
    if runner.props.has_metrics:
        runner.totals = await _unless_off(client.metrics(), NO_METRICS, runner)
    else:
        runner.lacks.append(NO_METRICS)
    if runner.props.has_slots:
        runner.slots = await _unless_off(client.slots(), NO_SLOTS, runner)
    else:
        runner.lacks.append(NO_SLOTS)
    if runner.slots is not None:
        runner.capacity = len(runner.slots.rows), runner.slots.busy


async def _ask_old(runner: _Runner, client: Client) -> None:
    """Their /slots is not asked: it would show prompts."""
    health = await client.health()
    runner.loading = health.loading
    if health.idle is not None and health.busy is not None:
        runner.capacity = health.idle + health.busy, health.busy
    runner.lacks.append(OLD)


async def _ask_mlx(runner: _Runner, client: Client) -> None:
    runner.context = (await client.mlx_status()).context


_ASK: dict[str, Callable[[_Runner, Client], Awaitable[None]]] = {
    "llama": _ask_llama,
    "old": _ask_old,
    "mlx": _ask_mlx,
}


async def _unless_off(answer: Awaitable[_T], off: Lack, runner: _Runner) -> _T | None:
    """The answer, or None and a lack where the path is switched off or wants a key."""
    try:
        return await answer
    except HttpError as error:
        if error.status not in (401, 403, 404, 501):
            raise
        runner.lacks.append(BEHIND_KEY if error.status in (401, 403) else off)
        return None


# -- counting


_OWN_COUNTS: tuple[tuple[Family, Callable[[Totals], float | None]], ...] = (
    (catalog.RUNNER_ANSWERED_TOKENS, lambda totals: totals.generated),
    (catalog.RUNNER_ANSWERED_SECONDS, lambda totals: totals.generation_seconds),
    (catalog.RUNNER_PROMPT_TOKENS, lambda totals: totals.prompt_tokens),
    (catalog.RUNNER_PROMPT_CACHED, lambda totals: totals.prompt_cached_tokens),
    (catalog.RUNNER_PROMPT_SECONDS, lambda totals: totals.prompt_seconds),
    (catalog.RUNNER_DECODES, lambda totals: totals.decodes),
    (catalog.RUNNER_DRAFTED, lambda totals: totals.drafted),
    (catalog.RUNNER_ACCEPTED, lambda totals: totals.accepted),
)


class _Meters:
    """The counters, by model. `models_max`: how many models get a label of their own, first come, first served; what
    was counted under one stays there."""

    def __init__(self, server: str, models_max: int) -> None:
        self._models_max = models_max
        self._labels: set[str] = set()
        families = (
            catalog.RUNNER_STARTS, catalog.RUNNER_ENDS, catalog.RUNNER_CPU, catalog.RUNNER_TOKENS_SEEN,
            catalog.RUNNER_TOKENS, *(family for family, _ in _OWN_COUNTS),
        )  # fmt: skip
        self._counters = {family: Counter(family, server=server) for family in families}
        self._rejected = Counter(catalog.RUNNER_REJECTED, server=server)
        self._rejected.zero()

    def label(self, model: str) -> str:
        if model == UNKNOWN or model in self._labels:
            return model
        if len(self._labels) >= self._models_max:
            return OTHER
        self._labels.add(model)
        return model

    def count(self, runner: _Runner) -> None:
        """What one look at a runner added. As long as its name may yet be found, it waits."""
        if runner.slots is not None:
            self._rejected.add(runner.slots.rejected)
            runner.growth.see(runner.slots.rows)
        if runner.process.pid is None and runner.totals is not None:
            runner.notice_restart(runner.totals.process)
        if runner.to_be_counted:
            self._add_all(runner)

    def ended(self, runner: _Runner, why: Why | None = None) -> None:
        """A runner has gone, perhaps before its name was found. `why`: None where nobody saw it end."""
        if runner.foreign:
            return
        if not runner.counted:
            self._add_all(runner)
        if why is not None:
            self._counters[catalog.RUNNER_ENDS].add(model=self.label(runner.model), reason=why)

    def expect(self, models: Iterable[str]) -> None:
        """Their runners will end one day."""
        self._counters[catalog.RUNNER_ENDS].zero(model=sorted({self.label(name) for name in models}), reason=WHYS)

    def samples(self) -> Iterator[Sample]:
        for counter in self._counters.values():
            yield from counter.samples()
        yield from self._rejected.samples()

    def _add_all(self, runner: _Runner) -> None:
        model = self.label(runner.model)
        self._counters[catalog.RUNNER_STARTS].add(float(runner.born and not runner.counted), model=model)
        if runner.process.pid is not None:
            self.expect((runner.model,))
        runner.counted = True
        for family, value in _counts(runner):
            self._counters[family].add(runner.rise(family, value), model=model)


def _counts(runner: _Runner) -> Iterator[tuple[Family, float]]:
    """What a runner has counted since its start, as far as this look tells."""
    if runner.usage is not None:
        yield catalog.RUNNER_CPU, runner.usage.cpu
    if runner.slots is not None:
        yield catalog.RUNNER_TOKENS_SEEN, runner.growth.tokens
    if runner.totals is None:
        return
    for family, of in _OWN_COUNTS:
        value = of(runner.totals)
        if value is not None:
            yield family, value
    if runner.totals.generated is not None and runner.slots is not None:
        making = sum(slot.decoded or 0 for slot in runner.slots.rows if slot.busy)
        yield catalog.RUNNER_TOKENS, runner.totals.generated + making


@dataclass(slots=True)
class _Missing:
    """Listed models without a process. `listed`: those that could be judged at this look, None when none could;
    `dead`: those whose process was missing at two looks, between which no runner was started: where models push each
    other out every few seconds, two looks may well meet a model on its way out."""

    listed: frozenset[str] | None = None
    dead: frozenset[str] = frozenset()
    _since: dict[str, float] = field(default_factory=dict)
    _alive: frozenset[tuple[int | None, float | None]] = frozenset()

    def see(self, at: float, listed: frozenset[str] | None, runners: Sequence[_Runner] | None) -> None:
        """`runners`: all there are, None when processes cannot be seen. One whose names are not known may be any."""
        if listed is None or runners is None or any(_may_be_any(runner) for runner in runners):
            self.listed, self.dead, self._since = None, frozenset(), {}
            return
        there: frozenset[str] = frozenset().union(*(runner.names | {runner.model} for runner in runners))
        alive = frozenset((runner.process.pid, runner.process.started) for runner in runners)
        before = self._since if alive <= self._alive else {name: self._since[name] for name in self.dead}
        self._since, self._alive = {name: before.get(name, at) for name in listed - there}, alive
        self.listed = listed
        self.dead = frozenset(name for name, since in self._since.items() if at - since >= _MISSING_AFTER)


def _may_be_any(runner: _Runner) -> bool:
    return runner.model == UNKNOWN and not runner.names


# -- the present


def _present(runners: Sequence[_Runner], **labels: str) -> Iterator[Sample]:
    """Of the runners of one model. What only some of them told is left out: their sum would be too small."""
    yield catalog.RUNNER_PROCESSES(float(len(runners)), **labels)
    yield catalog.RUNNER_LOADING(float(sum(runner.loading for runner in runners)), **labels)
    contexts = [runner.context for runner in runners if runner.context is not None]
    if contexts:
        yield catalog.RUNNER_SLOT_CONTEXT(float(max(contexts)), **labels)
    ready = [runner for runner in runners if not runner.loading]
    capacities = [runner.capacity for runner in ready if runner.capacity is not None]
    if ready and len(capacities) == len(ready):
        yield catalog.RUNNER_SLOTS(float(sum(slots for slots, _ in capacities)), **labels)
        yield catalog.RUNNER_SLOTS_BUSY(float(sum(busy for _, busy in capacities)), **labels)
    told = [runner.slots for runner in ready if runner.slots is not None]
    if ready and len(told) == len(ready):
        yield from _contents(told, labels)
    yield from _usage([runner.usage for runner in runners], labels)
    starts = [runner.process.started for runner in runners if runner.process.started is not None]
    if starts:
        yield catalog.RUNNER_STARTED(max(starts), **labels)
    for settings in sorted({tuple(_settings(runner).items()) for runner in runners}):
        yield catalog.RUNNER_INFO(1.0, **labels, **dict(settings))


def _contents(told: Sequence[Slots], labels: dict[str, str]) -> Iterator[Sample]:
    yield catalog.RUNNER_SLOTS_READING(float(sum(slots.silent for slots in told)), **labels)
    rows = [slot for slots in told for slot in slots.rows]
    if any(slot.task is not None and slot.held is None for slot in rows):
        return
    used = [slot.held or 0 for slot in rows if slot.busy]
    yield catalog.RUNNER_CONTEXT_USED(float(sum(used)), **labels)
    yield catalog.RUNNER_CONTEXT_CACHED(float(sum(slot.held or 0 for slot in rows if not slot.busy)), **labels)
    yield catalog.RUNNER_LONGEST(float(max(used, default=0)), **labels)


def _usage(usages: Sequence[Usage | None], labels: dict[str, str]) -> Iterator[Sample]:
    seen = [usage.resident for usage in usages if usage is not None]
    if len(seen) == len(usages):
        yield catalog.RUNNER_RESIDENT(float(sum(seen)), **labels)


_FLAGS = {
    "slots": ("-np", "--parallel"),
    "context": ("-c", "--ctx-size"),
    "batch": ("-b", "--batch-size"),
    "cache_k": ("--cache-type-k", "-ctk"),
    "cache_v": ("--cache-type-v", "-ctv"),
    "flash_attention": ("--flash-attn", "-fa"),
    "gpu_layers": ("-ngl", "--n-gpu-layers"),
    "threads": ("-t", "--threads"),
}
_WORD = re.compile(r"[\w.+-]{1,16}", re.ASCII)


def _settings(runner: _Runner) -> dict[str, str]:
    """Label values; what does not look like a setting is left empty."""
    values = {label: argument(runner.process.arguments, *flags) for label, flags in _FLAGS.items()}
    said = {label: value if _WORD.fullmatch(value) else "" for label, value in values.items()}
    return {"engine": runner.process.engine, **said, "build": runner.props.build if runner.props else ""}


def argument(arguments: Sequence[str], *flags: str) -> str:
    """What follows one of the flags, or stands behind its equals sign; empty when it is not given."""
    for place, word in enumerate(arguments):
        name, _, value = word.partition("=")
        if name in flags:
            return value or next(iter(arguments[place + 1 : place + 2]), "")
    return ""
