"""Which lines tell of one death: of a runner, while it worked or while it loaded, or of the server.

Ollama tells of a runner's end when it notices (`terminated`) only if the runner had complained, and of a dead one
whenever it is asked for (`found`), once by everybody who asks. One that died while it was loading is told by the load
that failed, whose error has the signal only if the runner had not complained.
"""

from __future__ import annotations

from collections.abc import Iterator

from exporter.ollamalog.events import Happened, LoadFailed, Terminated

_DIED = Happened("runner_died")


class Deaths:
    """Each step says what it adds to what was told."""

    def __init__(self) -> None:
        self._found = False
        """Since the last load began, a dead runner was found: what is said of one may be said of that one again."""
        self._owed = 0
        """Deaths that were told, and whose runner somebody may find dead yet."""
        self._held: Terminated | None = None
        """An end that came while a model was loading: of that runner, if its load fails."""
        self._aborted = self._panicked = False

    def load_began(self) -> Iterator[Happened]:
        """One that is told by no failure of the load before: that was tried again at once."""
        held, self._held = self._held, None
        self._found = self._panicked = False
        if held is not None and held.crashed:
            yield _DIED

    def placed(self, runners: int) -> Iterator[Happened]:
        """A load succeeded: whoever ended meanwhile was another one."""
        held, self._held = self._held, None
        if held is not None:
            yield from self._terminated()
        if runners == 1:
            self._owed = 0

    def follow(self, event: Happened | LoadFailed | Terminated, loading: bool) -> Iterator[Happened]:
        match event:
            case LoadFailed():
                yield from self._load_failed(event)
            case Terminated() if loading:
                self._held = event
            case Terminated():
                yield from self._terminated()
            case Happened("runner_died"):
                yield from self._find(loading)
            case Happened("crash"):
                if not self._panicked:
                    self._panicked = True
                    yield event
            case Happened(what):
                self._aborted = self._aborted or what == "load_aborted"
                yield event

    def _load_failed(self, event: LoadFailed) -> Iterator[Happened]:
        held, self._held = self._held, None
        if self._aborted:  # told already, and no failure
            self._aborted = False
            return
        yield Happened("load_failed")
        if event.crashed or (held is not None and held.crashed):
            yield _DIED

    def _terminated(self) -> Iterator[Happened]:
        if self._found:
            return
        self._owed += 1
        if self._panicked:  # a runner that is written in Go: its panic is counted
            self._panicked = False
            return
        yield _DIED

    def _find(self, loading: bool) -> Iterator[Happened]:
        if self._found or loading:  # the death of one that is loading is told by its load
            return
        self._found = True
        if self._owed:
            self._owed -= 1
        elif self._panicked:
            self._panicked = False
        else:
            yield _DIED
