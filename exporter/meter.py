"""Counters and histograms bound to a Family. They live in the source that owns them and are exported as full totals
each time, so when a watch goes, its series go with it.

A child that has not changed gives the same sample, the very object, each time: whoever has made text of it need not
make it again.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate, product
from typing import cast

from exporter.model import Distribution, Family, Sample


class Counter:
    """A counter family's children. Label values known beforehand start at 0 (`zero`), because `increase()` never sees
    a series whose first value is 1."""

    def __init__(self, family: Family, **fixed: str) -> None:
        self._family, self._fixed = family, fixed
        self._free = tuple(name for name in family.labels if name not in fixed)
        self._children: dict[tuple[str, ...], Sample] = {}

    def add(self, amount: float = 1.0, /, **labels: str) -> None:
        if amount < 0:
            raise ValueError(f"{self._family.name} cannot go down, got {amount}")
        key = self._key(labels)
        if amount > 0 or key not in self._children:
            self._put(key, self._total(key) + amount)

    def zero(self, **vocabularies: Iterable[str]) -> None:
        """Create every combination of the given label values at 0, leaving those that exist."""
        for values in product(*(tuple(vocabularies[name]) for name in self._free)):
            if values not in self._children:
                self._put(values, 0.0)

    def total(self, **labels: str) -> float:
        return self._total(self._key(labels))

    def keep(self, label: str, values: frozenset[str]) -> None:
        """Forget the children whose `label` is none of `values`: their subject is gone."""
        place = self._free.index(label)
        self._children = {key: sample for key, sample in self._children.items() if key[place] in values}

    def samples(self) -> Iterator[Sample]:
        yield from self._children.values()

    def _total(self, key: tuple[str, ...]) -> float:
        sample = self._children.get(key)
        return 0.0 if sample is None else cast(float, sample.value)

    def _put(self, key: tuple[str, ...], total: float) -> None:
        self._children[key] = self._family(total, **self._fixed, **dict(zip(self._free, key, strict=True)))

    def _key(self, labels: dict[str, str]) -> tuple[str, ...]:
        if len(labels) != len(self._free):
            raise TypeError(f"{self._family.name} takes {self._free} here, got {sorted(labels)}")
        return tuple([labels[name] for name in self._free])


class Histogram:
    """A histogram family's children. Values are in the family's unit; NaN and negative ones are refused, because a
    duration is neither."""

    def __init__(self, family: Family, **fixed: str) -> None:
        self._family, self._fixed = family, fixed
        self._free = tuple(name for name in family.labels if name not in fixed)
        self._children: dict[tuple[str, ...], _Child] = {}

    def observe(self, value: float, /, **labels: str) -> None:
        if not 0 <= value < float("inf"):
            raise ValueError(f"{self._family.name} cannot observe {value}")
        key = self._key(labels)
        child = self._children.get(key) or self._begin(key)
        child.counts[bisect_left(self._family.buckets, value)] += 1
        child.total += value
        child.sample = None

    def zero(self, **vocabularies: Iterable[str]) -> None:
        """Create every combination of the given label values empty, leaving those that exist."""
        for values in product(*(tuple(vocabularies[name]) for name in self._free)):
            if values not in self._children:
                self._begin(values)

    def keep(self, label: str, values: frozenset[str]) -> None:
        """Forget the children whose `label` is none of `values`: their subject is gone."""
        place = self._free.index(label)
        self._children = {key: child for key, child in self._children.items() if key[place] in values}

    def samples(self) -> Iterator[Sample]:
        for child in self._children.values():
            if child.sample is None:
                state = Distribution(tuple(accumulate(child.counts)), child.total)
                child.sample = Sample(self._family, child.labels, state)
            yield child.sample

    def _begin(self, key: tuple[str, ...]) -> _Child:
        labels = self._family(0.0, **self._fixed, **dict(zip(self._free, key, strict=True))).labels
        child = self._children[key] = _Child(labels, [0] * (len(self._family.buckets) + 1))
        return child

    def _key(self, labels: dict[str, str]) -> tuple[str, ...]:
        if len(labels) != len(self._free):
            raise TypeError(f"{self._family.name} takes {self._free} here, got {sorted(labels)}")
        return tuple([labels[name] for name in self._free])


@dataclass(slots=True, eq=False)
class _Child:
    """What was observed under these labels, and the sample made of it, until more is."""

    labels: tuple[str, ...]
    counts: list[int]
    total: float = 0.0
    sample: Sample | None = None
