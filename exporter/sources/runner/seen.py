"""What is known of one runner, from look to look."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from exporter.llama import Loading, Props, RunnerError, Slot, Slots, Totals, Unreachable, blob_of
from exporter.local import RunnerProcess, Usage
from exporter.model import Family, Lack, Reason, canonical
from exporter.ollama import NAME_MAX

UNKNOWN = "unknown"
"""Not a model's own name: those carry a tag."""
_NAMED_WITHIN = 3
"""Looks after which a runner that no name was found for is counted as unknown: /api/ps lists a model when it is ready,
a moment after its runner says so."""


@dataclass(frozen=True, slots=True)
class Key:
    """Tells a runner from one that comes after it. Without a pid there is but the port, which is drawn by lot."""

    pid: int | None
    started: float | None
    port: int | None


def key_of(process: RunnerProcess) -> Key:
    return Key(process.pid, process.started, process.port)


class _Rise:
    """A count that begins with its process, turned into what it rose by since the look before. Of a process that was
    there before us (not `born` under our eyes) the first value is where we begin."""

    def __init__(self, born: bool) -> None:
        self._last = 0.0 if born else None

    def to(self, value: float) -> float:
        last = value if self._last is None else self._last
        self._last = max(last, value)
        return self._last - last


class Growth:
    """Tokens seen growing in slots. A task is known by its number; its tokens are gone from /slots when it ends, but
    the slot goes on holding them, behind its prompt."""

    def __init__(self, born: bool) -> None:
        self._before: dict[int, Slot] | None = {} if born else None
        self._reached: dict[int, tuple[int | None, int]] = {}
        """Of each slot: its task, and the most tokens that this was seen to have. In some builds a slot that has just
        taken a task shows those of the task before for a moment; its own are not counted on top of them."""
        self.tokens = 0

    def see(self, rows: Iterable[Slot]) -> None:
        before, self._before = self._before, {slot.number: slot for slot in rows}
        for slot in self._before.values():
            more = self._beyond(None if before is None else before.get(slot.number), slot)
            self.tokens += more if before is not None else 0

    def _beyond(self, before: Slot | None, now: Slot) -> int:
        """What a slot's task has by now, beyond what was seen of it."""
        task, most = self._reached.get(now.number, (None, 0))
        reached = most if task == now.task else 0
        more = grown(before, now)
        start = before.decoded or 0 if before is not None and before.busy and before.task == now.task else 0
        self._reached[now.number] = now.task, max(reached, start + more)
        return max(0, min(more, start + more - reached))


def grown(before: Slot | None, now: Slot) -> int:
    """Tokens that were made in a slot between two looks, as far as they tell; never too many."""
    known = before is not None and before.busy and before.task == now.task
    if now.busy:
        return max(0, (now.decoded or 0) - (before.decoded or 0 if known and before else 0))
    # Until the first token is made, what a slot holds grows by its prompt as well.
    if known and before and before.decoded and before.held is not None and now.held is not None:
        return max(0, now.held - before.held)
    return 0


class Runner:
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
        self.growth = Growth(born)
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


def argument(arguments: Sequence[str], *flags: str) -> str:
    """What follows one of the flags, or stands behind its equals sign; empty when it is not given."""
    for place, word in enumerate(arguments):
        name, _, value = word.partition("=")
        if name in flags:
            return value or next(iter(arguments[place + 1 : place + 2]), "")
    return ""
