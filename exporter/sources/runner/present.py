"""What runners are and hold just now, by model."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from exporter import catalog
from exporter.llama import Slots
from exporter.local import Usage
from exporter.model import Sample
from exporter.sources.runner.seen import Runner, argument


def present(runners: Sequence[Runner], **labels: str) -> Iterator[Sample]:
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


def _settings(runner: Runner) -> dict[str, str]:
    """Label values; what does not look like a setting is left empty."""
    values = {label: argument(runner.process.arguments, *flags) for label, flags in _FLAGS.items()}
    said = {label: value if _WORD.fullmatch(value) else "" for label, value in values.items()}
    return {"engine": runner.process.engine, **said, "build": runner.props.build if runner.props else ""}
