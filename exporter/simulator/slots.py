"""What a simulated llama-server has in its slots at any moment, and what it has counted since its start."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(slots=True)
class Totals:
    """As /metrics tells them: prompts when they are read, tokens when their answer ends, also when it is cut."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    prompt_seconds: float = 0.0
    generated: int = 0
    generation_seconds: float = 0.0
    decodes: float = 0.0
    longest: int = 0


@dataclass(frozen=True, slots=True)
class _Stretch:
    """So many tokens, evenly, over so many seconds."""

    began: float
    seconds: float
    tokens: int

    def done(self, now: float) -> int:
        share = (now - self.began) / self.seconds if self.seconds > 0 else 1.0
        return int(self.tokens * min(1.0, max(0.0, share)))


_NOTHING = _Stretch(0.0, 0.0, 0)


@dataclass(slots=True)
class SlotWork:
    """One slot. Work is done in strides; in between, what it looks like is worked out when somebody asks."""

    number: int
    task: int | None = None
    busy: bool = False
    tokens: int = 0  # that the answer will have
    cached: int = 0
    _prompt: _Stretch = _NOTHING
    _made: int = 0
    _stride: _Stretch = _NOTHING
    _held: int = 0
    _shed: int = 0

    def begin(self, task: int, cached: int, tokens: int) -> None:
        self.task, self.busy, self.tokens, self.cached = task, True, tokens, cached
        self._prompt = self._stride = _NOTHING
        self._made = self._shed = 0

    def read(self, tokens: int, seconds: float = 0.0) -> None:
        """So many tokens of the prompt within so many seconds."""
        self._prompt = _Stretch(_now(), seconds, tokens)

    def make(self, made: int, tokens: int = 0, seconds: float = 0.0) -> None:
        """There are `made` tokens, and so many more will be within so many seconds."""
        self._made, self._stride = made, _Stretch(_now(), seconds, tokens)

    def shed(self, tokens: int) -> None:
        """A context shift: so many of the tokens that it holds are thrown away."""
        self._shed += tokens

    def end(self) -> int:
        """How many tokens were made; the slot holds on to them."""
        made = self.decoded
        self._held = self.held
        self.busy, self.cached, self._made = False, 0, 0
        self._prompt = self._stride = _NOTHING
        return made

    @property
    def processed(self) -> int:
        return self._prompt.done(_now())

    @property
    def decoded(self) -> int:
        return self._made + self._stride.done(_now())

    @property
    def held(self) -> int:
        return self.cached + self.processed + self.decoded - self._shed if self.busy else self._held


@dataclass(slots=True)
class Slots:
    """All slots of one runner."""

    rows: list[SlotWork]
    totals: Totals = field(default_factory=Totals)

    @contextlib.contextmanager
    def work(self, slot: int, task: int, cached: int, tokens: int) -> Iterator[SlotWork]:
        row = self.rows[slot]
        row.begin(task, cached, tokens)
        self.totals.cached_tokens += cached
        try:
            yield row
        finally:
            self.totals.longest = max(self.totals.longest, row.held)
            self.totals.generated += row.end()


def _now() -> float:
    return asyncio.get_running_loop().time()
