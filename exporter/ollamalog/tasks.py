"""Which generations were cut off: begun by a runner that went before it had written what they came to.

Ollama ends runners with SIGKILL, often right after an answer: the last lines, timings among them, are lost with them.
Runners write into one log without a name, and count slots and tasks from 0, each by itself. So what is certain comes
out of counting: a slot of a runner has one task at a time, hence of all tasks that were begun on slots of one number
and not ended, no more can be under way than runners are alive. What is more than that was cut off. Which ones these
are is known once nobody is left who could have them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from exporter.ollamalog.events import (
    Abandoned,
    Began,
    CutOff,
    Generated,
    Key,
    NewPrompt,
    Progress,
    Released,
    Sampling,
)

_SLOTS_MAX, _TASKS_MAX = 1024, 256
"""Numbers of slots; tasks without an end on slots of one number."""

NOTHING = CutOff(0, 0)

Owner = tuple[str, str]
"""Name and weights of the model whose runner has a task, as far as they are known."""
NOBODY: Owner = ("", "")


@dataclass(slots=True)
class _Task:
    number: int
    owner: Owner
    prompt: int | None = None
    """Tokens."""
    generates: bool = False
    tokens: int = 0
    ended: bool = False
    """It has told what it came to, and has its slot still."""


@dataclass(slots=True)
class _Slot:
    """The tasks on slots of this number that were begun and not ended. `lost`: how many of them are known to have gone
    with their runners; `told`: what was said of these."""

    tasks: list[_Task] = field(default_factory=list)
    lost: int = 0
    told: CutOff = NOTHING

    def find(self, number: int, ended: bool) -> _Task | None:
        """Of two tasks with the same number, the later one speaks: the lines of the other ended with its runner."""
        return next((task for task in reversed(self.tasks) if task.number == number and task.ended == ended), None)

    def sample(self, number: int) -> None:
        """Each task says it once: of two with the same number, it is of one that has not."""
        for task in reversed(self.tasks):
            if task.number == number and not task.generates:
                task.generates = True
                return

    def lose(self, kept: int, fresh: bool = False) -> Iterator[tuple[Owner, CutOff]]:
        """At most so many are still under way; the last one for sure if it is `fresh`. Says of the others what holds
        whichever they are, beyond what was said."""
        self.lost = max(min(self.lost, len(self.tasks)), len(self.tasks) - kept)
        if self.lost == 0:
            return
        if kept == 0 and self.told == NOTHING:
            yield from ((task.owner, _sum((task,), 1)) for task in self.tasks)
            return
        tasks, told = self.tasks[:-1] if fresh else self.tasks, self.told
        least = _sum(tasks, self.lost)
        self.told = CutOff(max(least.generations, told.generations), max(least.tokens, told.tokens))
        owners = {task.owner for task in tasks}
        more = CutOff(self.told.generations - told.generations, self.told.tokens - told.tokens)
        yield owners.pop() if len(owners) == 1 else NOBODY, more


def _sum(tasks: Sequence[_Task], count: int) -> CutOff:
    """Of the `count` tasks that come to least."""
    generations = sorted(task.generates and not task.ended for task in tasks)
    tokens = sorted(0 if task.ended else task.tokens for task in tasks)
    return CutOff(sum(generations[:count]), sum(tokens[:count]))


class Tasks:
    """Follows the tasks of one log's runners. Each step says what it makes certain."""

    def __init__(self) -> None:
        self._slots: dict[int, _Slot] = {}
        self._alive: int | None = None
        """The most runners that can have tasks; None while that is not known."""

    def follow(
        self, event: Began | NewPrompt | Sampling | Progress | Generated | Released, owner: Owner
    ) -> Iterator[_Said]:
        if isinstance(event, Began):
            yield from self._begin(event.key, owner)
            return
        if isinstance(event, Released):
            yield from self._end(event)
            return
        slot = self._slots.get(event.key[0])
        task = slot.find(event.key[1], ended=False) if slot else None
        match event:
            case NewPrompt() if task and task.prompt is None:
                task.prompt = event.tokens
            case Sampling() if slot:
                slot.sample(event.key[1])
            case Progress() if task:
                task.generates, task.tokens = True, max(task.tokens, event.tokens)
            case Generated() if task:
                task.ended = True

    def placed(self, runners: int) -> Iterator[_Said]:
        """So many runners are alive, the last of which has just begun. Those that are gone have written all that they
        ever will: Ollama waits for that before it forgets one."""
        yield from self._lose(max(0, runners - 1))
        self._alive = runners

    def over(self) -> Iterator[_Said]:
        """The server has started anew: none of its predecessor's runners is alive."""
        yield from self._lose(0)
        self._alive = 0

    def forget(self) -> None:
        """Lines are missing: nothing that was begun before can be told to be under way or not."""
        self._slots.clear()
        self._alive = None

    def _lose(self, kept: int) -> Iterator[_Said]:
        for slot in self._slots.values():
            yield from slot.lose(kept)
        if kept == 0:
            self._slots.clear()

    def _begin(self, key: Key, owner: Owner) -> Iterator[_Said]:
        if len(self._slots) >= _SLOTS_MAX and key[0] not in self._slots:
            self._slots.clear()
        slot = self._slots.setdefault(key[0], _Slot())
        if len(slot.tasks) >= _TASKS_MAX:
            slot = self._slots[key[0]] = _Slot()
        slot.tasks.append(_Task(key[1], owner))
        if self._alive == 0:  # somebody works of whom nothing was told
            self._alive = None
        elif self._alive is not None:
            yield from slot.lose(self._alive, fresh=True)

    def _end(self, event: Released) -> Iterator[_Said]:
        """A task that has told what it came to is ended first: another one with its number is of a runner that went."""
        slot = self._slots.get(event.key[0])
        if slot is None:
            return
        task = slot.find(event.key[1], ended=True) or slot.find(event.key[1], ended=False)
        if task is None:
            return
        slot.tasks.remove(task)
        if task.generates and not task.ended:
            yield task.owner, Abandoned(_made(task, event.tokens))


def _made(task: _Task, tokens: int | None) -> int:
    """Of a task that ended with so many tokens in its slot's cache: its prompt's, and all but the last of its answer's.
    Less are in there where the context was shifted."""
    if tokens is None or task.prompt is None or tokens < task.prompt:
        return task.tokens
    return max(task.tokens, tokens - task.prompt + 1)


_Said = tuple[Owner, Abandoned | CutOff]
