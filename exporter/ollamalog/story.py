"""What follows from the order of lines: whose runner spoke, which load is complete, what was told twice."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from exporter.ollamalog.deaths import Deaths
from exporter.ollamalog.events import (
    Abandoned,
    Began,
    Cached,
    Configured,
    CutOff,
    Drafted,
    Event,
    Generated,
    Happened,
    Listening,
    LoadBegan,
    Loaded,
    LoadFailed,
    Named,
    NewPrompt,
    Placed,
    Processed,
    Progress,
    Released,
    Sampling,
    Shifted,
    Started,
    Terminated,
)
from exporter.ollamalog.tasks import NOBODY, NOTHING, Owner, Tasks

_PROMPTS_MAX = 4096


@dataclass(frozen=True, slots=True)
class Told:
    """An event, and the model it is about as far as that is known: its name, its weights, or neither."""

    event: Event
    name: str = ""
    blob: str = ""


@dataclass(slots=True)
class _Load:
    blob: str
    name: str
    took: float | None = None
    placed: bool = False


class Story:
    """Follows one server's log from line to line.

    Runners write no name and share one log. Whose line it is is known exactly when a load ended with a single runner in
    place, until the next load has ended: idle models go without a word, so two that were loaded may be one by now, and
    which one cannot be told. (A runner that is loading has no requests yet.)
    """

    def __init__(self) -> None:
        self._only: _Load | None = None
        self._loading: _Load | None = None
        self._echoes = 0
        self._prompts: set[tuple[int, int]] = set()
        self._tasks = Tasks()
        self._deaths = Deaths()

    def follow(self, event: Event) -> Iterator[Told]:
        """What the next event of the log comes to."""
        match event:
            case LoadBegan():
                yield from map(Told, self._deaths.load_began())
                self._loading = _Load(event.blob, event.name)
                yield Told(event, event.name, event.blob)
            case Named():
                if self._loading is not None:
                    self._loading.name = event.name
            case Started():
                yield from self._started(event)
            case Placed():
                yield from self._placed(event)
            case Listening() | Configured():
                yield from self._over()
                yield Told(event)
            case NewPrompt():
                self._await(event)
                yield from _ended(self._tasks.follow(event, self._owner()))
            case Cached():
                if event.key in self._prompts:
                    self._prompts.remove(event.key)
                    yield self._of_the_only_runner(event)
            case Happened() | LoadFailed() | Terminated():
                yield from self._happened(event)
            case Began() | Sampling() | Progress() | Released():
                yield from _ended(self._tasks.follow(event, self._owner()))
            case Processed() | Generated() | Drafted() | Shifted():
                if isinstance(event, Generated):
                    yield from _ended(self._tasks.follow(event, self._owner()))
                yield self._of_the_only_runner(event)
            case _:
                yield Told(event)

    def skip(self) -> None:
        """Lines may be missing before the next one."""
        self._tasks.forget()

    def _over(self) -> Iterator[Told]:
        """A server has started: none of its predecessor's runners is alive."""
        self._only = self._loading = None
        self._echoes = 0
        self._prompts.clear()
        self._deaths = Deaths()
        yield from _ended(self._tasks.over())

    def _owner(self) -> Owner:
        return (self._only.name, self._only.blob) if self._only else NOBODY

    def _of_the_only_runner(self, event: Event) -> Told:
        return Told(event, *self._owner())

    def _started(self, event: Started) -> Iterator[Told]:
        """From 0.11.5 on, the scheduler asks once more after it has placed a runner, and is told once more; another
        load may have begun by then. Before, a runner is placed first and starts afterwards."""
        if self._echoes:
            self._echoes -= 1
            return
        load = self._loading
        if load is None or load.took is not None:
            return
        load.took = event.took
        if load.placed:
            yield from self._complete(load)

    def _placed(self, event: Placed) -> Iterator[Told]:
        load = self._loading
        self._only = load if event.runners == 1 else None
        yield from _ended(self._tasks.placed(event.runners))
        yield from map(Told, self._deaths.placed(event.runners))
        if load is None:
            return
        load.placed = True
        if load.took is not None:
            self._echoes += 1
            yield from self._complete(load)
        elif load.name:  # an MLX runner, which never tells how long it took
            self._loading = None

    def _complete(self, load: _Load) -> Iterator[Told]:
        self._loading = None
        yield Told(Loaded(load.took or 0.0), load.name, load.blob)

    def _await(self, event: NewPrompt) -> None:
        if len(self._prompts) >= _PROMPTS_MAX:  # lines that never came
            self._prompts.clear()
        self._prompts.add(event.key)

    def _happened(self, event: Happened | LoadFailed | Terminated) -> Iterator[Told]:
        """Some things are told by everybody who notices them."""
        loading = self._loading is not None
        if isinstance(event, LoadFailed):
            self._loading = None
        yield from map(Told, self._deaths.follow(event, loading))


def _ended(said: Iterable[tuple[Owner, Abandoned | CutOff]]) -> Iterator[Told]:
    return (Told(what, *owner) for owner, what in said if what != NOTHING)
