"""Counters and histograms bound to a Family. They live in the source that owns them and are exported as full totals
each time, so when a watch goes, its series go with it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import accumulate, product

from exporter.model import Distribution, Family, Sample


class Counter:
    """A counter family's children. Label values known beforehand start at 0 (`zero`), because `increase()` never sees
    a series whose first value is 1."""

    def __init__(self, family: Family, **fixed: str) -> None:
        self._family, self._fixed = family, fixed
        self._free = tuple(name for name in family.labels if name not in fixed)
        self._totals: dict[tuple[str, ...], float] = {}

    def add(self, amount: float = 1.0, /, **labels: str) -> None:
        if amount < 0:
            raise ValueError(f"{self._family.name} cannot go down, got {amount}")
        key = self._key(labels)
        self._totals[key] = self._totals.get(key, 0.0) + amount

    def zero(self, **vocabularies: Iterable[str]) -> None:
        """Create every combination of the given label values at 0, leaving those that exist."""
        for values in product(*(tuple(vocabularies[name]) for name in self._free)):
            self._totals.setdefault(values, 0.0)

    def total(self, **labels: str) -> float:
        return self._totals.get(self._key(labels), 0.0)

    def keep(self, label: str, values: frozenset[str]) -> None:
        """Forget the children whose `label` is none of `values`: their subject is gone."""
        place = self._free.index(label)
        self._totals = {key: total for key, total in self._totals.items() if key[place] in values}

    def samples(self) -> Iterator[Sample]:
        for key, total in self._totals.items():
            yield self._family(total, **self._fixed, **dict(zip(self._free, key, strict=True)))

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
        self._counts: dict[tuple[str, ...], list[int]] = {}
        self._sums: dict[tuple[str, ...], float] = {}

    def observe(self, value: float, /, **labels: str) -> None:
        if not 0 <= value < float("inf"):
            raise ValueError(f"{self._family.name} cannot observe {value}")
        key = self._key(labels)
        counts = self._counts.get(key)
        if counts is None:
            counts = self._counts[key] = [0] * (len(self._family.buckets) + 1)
            self._sums[key] = 0.0
        counts[bisect_left(self._family.buckets, value)] += 1
        self._sums[key] += value

    def zero(self, **vocabularies: Iterable[str]) -> None:
        """Create every combination of the given label values empty, leaving those that exist."""
        for values in product(*(tuple(vocabularies[name]) for name in self._free)):
            if values not in self._counts:
                self._counts[values] = [0] * (len(self._family.buckets) + 1)
                self._sums[values] = 0.0

    def keep(self, label: str, values: frozenset[str]) -> None:
        """Forget the children whose `label` is none of `values`: their subject is gone."""
        place = self._free.index(label)
        for key in [key for key in self._counts if key[place] not in values]:
            del self._counts[key], self._sums[key]

    def samples(self) -> Iterator[Sample]:
        for key, counts in self._counts.items():
            state = Distribution(tuple(accumulate(counts)), self._sums[key])
            yield self._family(state, **self._fixed, **dict(zip(self._free, key, strict=True)))

    def _key(self, labels: dict[str, str]) -> tuple[str, ...]:
        if len(labels) != len(self._free):
            raise TypeError(f"{self._family.name} takes {self._free} here, got {sorted(labels)}")
        return tuple([labels[name] for name in self._free])
