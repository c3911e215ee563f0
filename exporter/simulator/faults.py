"""What can be made to go wrong on a simulated server, for how long, and who is told."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Literal, get_args

FaultKind = Literal[
    "dead",  # nothing listens: connection refused; the process and everything it had loaded is gone
    "starting",  # it listens and takes no connection: the kernel accepts them, HTTP stays silent until it is over
    "ps_stalled",  # /api/ps hangs, everything else answers
    "slow",  # everything that computes takes `factor` times as long
    "saturated",  # background requests keep every slot of `model` busy and others waiting
    "runner_killed",  # at once: the child of `model` (empty: of all) dies, and stays listed
    "slot_lost",  # at once: the next request to end on `model` keeps its slot for ever
    "gpu_lost",  # what is loaded from now on is loaded into the host's memory
    "load_failed",  # loading `model` (empty: any) ends in 500
    "runtime_oom",  # whoever reads a prompt on `model` (empty: any) runs out of memory, and all models are unloaded
    "error_rate",  # `rate` of the requests under `path` are answered `status`
    "mid_stream_error",  # after a few tokens an error line, under HTTP 200
    "repeat_cut",  # the answer is cut without an error and without done
    "truncated_json",  # half of the body, with a matching length
    "garbage",  # 200 and an HTML page
    "log_reworded",  # access lines are written as no known version writes them
    "log_cut_short",  # a runner that has to go after its answer is gone before it has written the answer's last lines
    "size_unread",  # /api/ps tells size 0, as a server does that could not read its runner's log
    "wrong_types",  # well-formed JSON in which every value has another type
    "huge_body",  # a valid answer padded to `size` bytes
    "drip",  # one byte a second
    "redirect",  # 302 elsewhere
    "forbidden",  # 403 with an empty body
    "drop",  # the connection ends in the middle of the body
    "clock_skew",  # the server's wall clock is `offset` seconds ahead
    "flaky",  # `rate` of the requests fail, each in one of several ways
]
KINDS: tuple[FaultKind, ...] = get_args(FaultKind)
# Faults that happen at once and leave no state behind.
INSTANT: tuple[FaultKind, ...] = ("runner_killed", "slot_lost")


@dataclass(frozen=True, slots=True)
class Fault:
    kind: FaultKind
    seconds: float | None = None  # None: until cleared
    factor: float = 5.0
    status: int = 500
    rate: float = 1.0
    offset: float = 0.0
    size: int = 64 * 1024 * 1024
    model: str = ""
    path: str = ""  # only requests whose path begins with this

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"unknown fault {self.kind!r}: expected one of {', '.join(KINDS)}")

    @classmethod
    def parse(cls, raw: Mapping[str, object]) -> Fault:
        """From JSON. ValueError says what was expected."""
        allowed = {field.name: field.default for field in fields(cls)}
        unknown = sorted(set(raw) - set(allowed))
        if unknown:
            raise ValueError(f"unknown field {unknown[0]!r}: expected {', '.join(allowed)}")
        if not isinstance(raw.get("kind"), str):
            raise ValueError("kind is missing")
        for name, value in raw.items():
            expected = str if name in ("kind", "model", "path") else (int, float)
            if isinstance(value, bool) or not isinstance(value, expected):
                raise ValueError(f"{name} has the wrong type")
        fault: Fault = cls(**raw)  # type: ignore[arg-type]
        return replace(fault, size=int(fault.size), status=int(fault.status))


@dataclass(frozen=True, slots=True)
class _Active:
    fault: Fault
    until: float


class Faults:
    """The faults in force. One of each kind at a time; a new one replaces the old."""

    def __init__(self, seed: int = 1) -> None:
        self._active: dict[FaultKind, _Active] = {}
        self._listeners: dict[int, Callable[[], None]] = {}
        self._changed: asyncio.Event | None = None
        self._timers: set[asyncio.TimerHandle] = set()
        self.rng = random.Random(seed)

    def inject(self, fault: Fault) -> None:
        loop = asyncio.get_running_loop()
        until = float("inf") if fault.seconds is None else loop.time() + fault.seconds
        self._active[fault.kind] = _Active(fault, until)
        if fault.seconds is not None:
            self._timers.add(loop.call_at(until, self._expire, self._active[fault.kind]))
        self._notify()

    def _expire(self, entry: _Active) -> None:
        if self._active.get(entry.fault.kind) is entry:
            self.clear(entry.fault.kind)

    def clear(self, kind: FaultKind | None = None) -> None:
        if kind is None:
            self._active.clear()
        else:
            self._active.pop(kind, None)
        self._notify()

    def active(self, kind: FaultKind, path: str = "") -> Fault | None:
        entry = self._active.get(kind)
        # What is over stays in the table until its timer has told the listeners.
        if entry is None or asyncio.get_running_loop().time() >= entry.until:
            return None
        return entry.fault if path.startswith(entry.fault.path) else None

    def strikes(self, kind: FaultKind, path: str) -> Fault | None:
        """Like `active`, for faults that hit a share of the requests."""
        fault = self.active(kind, path)
        return fault if fault is not None and self.rng.random() < fault.rate else None

    def all(self) -> tuple[Fault, ...]:
        return tuple(fault for kind in tuple(self._active) if (fault := self.active(kind)) is not None)

    def remaining(self, kind: FaultKind) -> float | None:
        entry = self._active.get(kind)
        if entry is None or entry.until == float("inf"):
            return None
        return max(0.0, entry.until - asyncio.get_running_loop().time())

    async def over(self, kind: FaultKind) -> None:
        """Wait until this fault is no more."""
        while self.active(kind) is not None:
            if self._changed is None:
                self._changed = asyncio.Event()
            await self._changed.wait()

    def on_change(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call `listener` whenever a fault begins or ends. Returns how to stop that."""
        key = id(listener)
        self._listeners[key] = listener
        return lambda: self._listeners.pop(key, None) and None

    def close(self) -> None:
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        self._listeners.clear()

    def _notify(self) -> None:
        changed, self._changed = self._changed, None
        if changed is not None:
            changed.set()
        for listener in tuple(self._listeners.values()):
            listener()
