"""Sees each runner of one server begin and end, also those that live for a second, between two looks of a source."""

from __future__ import annotations

import asyncio
import math
import signal
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from os import WEXITSTATUS, WIFSIGNALED, WTERMSIG
from typing import Literal, Protocol

from exporter.local import Births, Handle, Place, RunnerProcess

Why = Literal["unloaded", "died", "unknown"]
WHYS: tuple[Why, ...] = ("unloaded", "died", "unknown")

EVERY = 0.25
"""Seconds between two looks at a server's children. One that lives for less may be missed."""
_UNDECIDED = 8
"""Looks at a child until it is taken for no runner: between fork and exec it looks like its parent."""
_HANDLES_MAX = 64
"""Runners of one server that are each held by a descriptor; the ends of more are seen at the next look at children."""
_REMEMBERED = 256
_FATAL = frozenset({
    signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGTRAP, signal.SIGSYS,
})  # fmt: skip

_Key = tuple[int | None, float | None]


class _Machine(Protocol):
    """As much of `Local` as is asked here."""

    def births(self, place: Place) -> Births | None: ...

    def handle(self, process: RunnerProcess) -> Handle | None: ...


@dataclass(frozen=True, slots=True)
class End:
    """A runner has ended, in this `place`. `at_once`: what is asked of its server now is of the moment of its end.
    `close` it."""

    process: RunnerProcess
    place: Place
    at_once: bool
    handle: Handle | None

    def why(self, listed: bool | None, ready: bool, starved: bool = False, killer: int | None = None) -> Why:
        """`listed`: its server still lists its model, asked after the end; None when that cannot be told. `ready`: it
        had its model loaded before. `starved`: just now the kernel has killed somebody, because memory had run out.
        `killer`: who has ended it by SIGKILL, as far as that is seen, and its server went on.

        Ollama takes a model off its list before it lets anybody read that, so what is still listed ended without it.
        What was never ready ends unlisted in any case: Ollama gave up, or it failed, or was killed. And where somebody
        waits for its place, a runner that was killed is off the list as soon as Ollama has noticed.
        """
        status = self.handle.status() if self.handle else None
        if status is not None and self._failed(status, answered=listed is not None):
            return "died"
        if killer is not None:
            return "unloaded" if killer == self.place.pid else "died"
        if listed:
            return "died"
        return "unloaded" if listed is False and ready and self.at_once and not starved else "unknown"

    def close(self) -> None:
        if self.handle is not None:
            self.handle.close()

    def _failed(self, status: int, answered: bool) -> bool:
        """By how it ended. Ollama kills a runner, MLX after having asked it; who stops a service asks all of its
        processes, so where the server did not answer, an exit code says little."""
        if WIFSIGNALED(status):
            return WTERMSIG(status) in _FATAL
        return answered and self.process.engine != "mlx" and WEXITSTATUS(status) != 0


@dataclass(slots=True)
class _Life:
    process: RunnerProcess
    place: Place
    handle: Handle | None = None


class Vigil:
    """Tells `began` and `ended` of each runner, once, in the event loop. At rest until it is told whom to `follow`."""

    def __init__(self, machine: _Machine, began: Callable[[RunnerProcess], None], ended: Callable[[End], None]) -> None:
        self._machine, self._began, self._ended = machine, began, ended
        self._place: Place | None = None
        self._births: Births | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._asking: asyncio.Task[None] | None = None
        self._again = True
        self._alive: dict[_Key, _Life] = {}
        self._gone: dict[_Key, None] = {}
        self._looks: dict[int, int] = {}  # at children that are not runners (yet)

    def follow(self, place: Place, found: Iterable[RunnerProcess]) -> None:
        """What a look has found at this place, which was there a moment ago. Another place takes the first one's."""
        if self._place is None or (self._place.pid, self._place.started) != (place.pid, place.started):
            self.stop()
            if place.pid is None:
                return
            self._births = self._machine.births(place)
        self._place = place
        found = tuple(found)
        for process in found:
            self._meet(process, place)
        if self._births is None:
            there = {_key(process) for process in found}
            self._lose(lambda life: _key(life.process) not in there)
        elif self._timer is None:
            self._tick()

    @property
    def place(self) -> Place | None:
        """Whose runners are watched."""
        return self._place

    def lives(self, process: RunnerProcess) -> bool:
        """It is known, and has not ended."""
        return _key(process) in self._alive

    def has_ended(self, process: RunnerProcess) -> bool:
        return _key(process) in self._gone

    def stop(self) -> None:
        """Let go of everything. Who lives on is told of no more."""
        if self._timer is not None:
            self._timer.cancel()
        if self._asking is not None:
            self._asking.cancel()
        for life in self._alive.values():
            self._release(life)
            if life.handle is not None:
                life.handle.close()
        if self._births is not None:
            self._births.close()
        self._place = self._births = self._timer = self._asking = None
        self._again, self._alive, self._looks = True, {}, {}

    # -- beginnings

    def _tick(self) -> None:
        if self._births is None:
            return
        loop = asyncio.get_running_loop()
        # On one grid for all servers: to be woken costs more than the look.
        self._timer = loop.call_at((math.floor(loop.time() / EVERY) + 1) * EVERY, self._tick)
        again, self._again = self._again, any(life.handle is None for life in self._alive.values())
        try:
            pids = self._births.look(again)
        except (LookupError, OSError):
            self.stop()
            return
        if pids is not None:
            self._see(pids)

    def _see(self, pids: frozenset[int]) -> None:
        self._lose(lambda life: life.process.pid not in pids)
        self._looks = {pid: looks for pid, looks in self._looks.items() if pid in pids}
        known = {life.process.pid for life in self._alive.values()}
        new = [pid for pid in pids - known if self._looks.get(pid, 0) < _UNDECIDED]
        if new and (self._asking is None or self._asking.done()):
            self._asking = asyncio.create_task(self._ask(new), name="children of a server")
        self._again = self._again or bool(new)

    async def _ask(self, pids: list[int]) -> None:
        """A command line is in the process's own memory: to read it can take a while."""
        births, place = self._births, self._place
        if births is None or place is None:
            return
        try:
            found = await asyncio.to_thread(births.runners, pids)
        except (LookupError, OSError):
            found = ()
        for pid in set(pids) - {process.pid for process in found}:
            self._looks[pid] = self._looks.get(pid, 0) + 1
        for process in found:
            self._meet(process, place)

    def _meet(self, process: RunnerProcess, place: Place) -> None:
        key = _key(process)
        if process.port is None or key in self._alive or key in self._gone:
            return
        life = _Life(process, place)
        try:
            if sum(other.handle is not None for other in self._alive.values()) < _HANDLES_MAX:
                life.handle = self._machine.handle(process)
        except LookupError:
            self._began(process)
            self._end(life)
            return
        self._alive[key] = life
        if life.handle is not None:
            asyncio.get_running_loop().add_reader(life.handle.fileno(), self._end, life)
        else:
            self._again = True
        self._began(process)

    # -- ends

    def _lose(self, gone: Callable[[_Life], bool]) -> None:
        """Those that no descriptor tells of."""
        for life in [life for life in self._alive.values() if life.handle is None and gone(life)]:
            self._end(life)

    def _end(self, life: _Life) -> None:
        self._release(life)
        key = _key(life.process)
        self._alive.pop(key, None)
        self._gone[key] = None
        while len(self._gone) > _REMEMBERED:
            del self._gone[next(iter(self._gone))]
        self._again = True  # its pid may be another child's already
        at_once = life.handle is not None or self._births is not None
        self._ended(End(life.process, life.place, at_once, life.handle))

    def _release(self, life: _Life) -> None:
        if life.handle is not None:
            asyncio.get_running_loop().remove_reader(life.handle.fileno())


def _key(process: RunnerProcess) -> _Key:
    return process.pid, process.started
