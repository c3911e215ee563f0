"""What runners counted, carried across their restarts, and which listed models have none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from exporter import catalog
from exporter.llama import Totals
from exporter.local.vigil import WHYS, Why
from exporter.meter import Counter
from exporter.model import Family, Sample
from exporter.sources.runner.seen import UNKNOWN, Runner

OTHER = "other"
"""Not a model's own name: those carry a tag."""
_MISSING_AFTER = 4.0
"""Seconds between two looks that both miss the process of a listed model. What Ollama unloads it unlists in less."""

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


class Meters:
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

    def count(self, runner: Runner) -> None:
        """What one look at a runner added. As long as its name may yet be found, it waits."""
        if runner.slots is not None:
            self._rejected.add(runner.slots.rejected)
            runner.growth.see(runner.slots.rows)
        if runner.process.pid is None and runner.totals is not None:
            runner.notice_restart(runner.totals.process)
        if runner.to_be_counted:
            self._add_all(runner)

    def ended(self, runner: Runner, why: Why | None = None) -> None:
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

    def _add_all(self, runner: Runner) -> None:
        model = self.label(runner.model)
        self._counters[catalog.RUNNER_STARTS].add(float(runner.born and not runner.counted), model=model)
        if runner.process.pid is not None:
            self.expect((runner.model,))
        runner.counted = True
        for family, value in _counts(runner):
            self._counters[family].add(runner.rise(family, value), model=model)


def _counts(runner: Runner) -> Iterator[tuple[Family, float]]:
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
class Missing:
    """Listed models without a process. `listed`: those that could be judged at this look, None when none could;
    `dead`: those whose process was missing at two looks, between which no runner was started: where models push each
    other out every few seconds, two looks may well meet a model on its way out."""

    listed: frozenset[str] | None = None
    dead: frozenset[str] = frozenset()
    _since: dict[str, float] = field(default_factory=dict)
    _alive: frozenset[tuple[int | None, float | None]] = frozenset()

    def see(self, at: float, listed: frozenset[str] | None, runners: Sequence[Runner] | None) -> None:
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


def _may_be_any(runner: Runner) -> bool:
    return runner.model == UNKNOWN and not runner.names
