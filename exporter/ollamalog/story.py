"""What follows from the order of lines: whose runner spoke, which load is complete, what was told twice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from exporter.ollamalog.events import (
    Cached,
    Configured,
    Drafted,
    Event,
    Generated,
    Happened,
    Listening,
    LoadBegan,
    Loaded,
    Named,
    NewPrompt,
    Placed,
    Processed,
    Shifted,
    Started,
)

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
        self._died = self._aborted = False
        self._prompts: set[tuple[int, int]] = set()

    def follow(self, event: Event) -> Iterator[Told]:
        """What the next event of the log comes to."""
        match event:
            case LoadBegan():
                self._loading, self._died = _Load(event.blob, event.name), False
                yield Told(event, event.name, event.blob)
            case Named():
                if self._loading is not None:
                    self._loading.name = event.name
            case Started():
                yield from self._started(event)
            case Placed():
                yield from self._placed(event)
            case Listening() | Configured():
                self._forget()
                yield Told(event)
            case NewPrompt():
                self._await(event)
            case Cached():
                if event.key in self._prompts:
                    self._prompts.remove(event.key)
                    yield self._of_the_only_runner(event)
            case Happened():
                yield from self._happened(event)
            case Processed() | Generated() | Drafted() | Shifted():
                yield self._of_the_only_runner(event)
            case _:
                yield Told(event)

    def _forget(self) -> None:
        """A server has started: none of its predecessor's runners is alive."""
        self._only = self._loading = None
        self._echoes = 0
        self._died = self._aborted = False
        self._prompts.clear()

    def _of_the_only_runner(self, event: Event) -> Told:
        return Told(event, self._only.name, self._only.blob) if self._only else Told(event)

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

    def _happened(self, event: Happened) -> Iterator[Told]:
        """Some things are told by everybody who notices them."""
        if event.what == "load_aborted":
            self._aborted = True
        elif event.what == "load_failed":
            self._loading = None
            if self._aborted:
                self._aborted = False
                return
        elif event.what == "runner_died":
            if self._died or self._loading is not None:  # the death of one that was loading is a load that failed
                return
            self._died = True
        yield Told(event)
