"""High-dynamic-range histograms that merge, and percentiles with what the sample can carry.

Own code: the one library for it is bound to the C layout of its log format and cannot tell order statistics, out of
which our intervals come. Values are kept with a relative error of at most RELATIVE_ERROR from a microsecond to weeks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

_BITS = 10
_UNIT, _UNITS = 1e-6, 1e6
RELATIVE_ERROR = 2.0 ** -(_BITS + 1)
"""Of a value read back, against the one recorded: half a bucket's width, 0.05 %. (Below 2 ms: half a microsecond.)"""


class Histogram:
    """Counts by logarithmic buckets, each octave in 1,024 linear parts. Seconds in, seconds out."""

    __slots__ = ("_counts", "count", "greatest", "least", "total")

    def __init__(self, values: Iterable[float] = ()) -> None:
        self._counts: dict[int, int] = {}
        self.count, self.total = 0, 0.0
        self.least, self.greatest = math.inf, 0.0
        for value in values:
            self.record(value)

    def record(self, value: float) -> None:
        """Called for every piece of every answer: as little as can be."""
        if not 0 <= value < math.inf:
            raise ValueError(f"cannot record {value}")
        units = int(value * _UNITS + 0.5)
        shift = units.bit_length() - _BITS - 1
        key = units if shift <= 0 else (shift << _BITS) + (units >> shift)
        counts = self._counts
        counts[key] = counts.get(key, 0) + 1
        self.count += 1
        self.total += value
        self.greatest = max(self.greatest, value)
        self.least = min(self.least, value)

    def merge(self, other: Histogram) -> None:
        for key, times in other._counts.items():
            self._counts[key] = self._counts.get(key, 0) + times
        self.count += other.count
        self.total += other.total
        self.least, self.greatest = min(self.least, other.least), max(self.greatest, other.greatest)

    @property
    def mean(self) -> float | None:
        return self.total / self.count if self.count else None

    @property
    def max(self) -> float | None:
        return self.greatest if self.count else None

    def at_rank(self, rank: int) -> float | None:
        """The value of the rank-th smallest, from 1 on; None beyond the last."""
        if not 1 <= rank <= self.count:
            return None
        seen = 0
        for key, times in self._ordered():
            seen += times
            if seen >= rank:
                return min(max(_value(key), self.least), self.greatest)
        return self.greatest

    def above(self, bound: float) -> int:
        """How many are greater, to within the relative error."""
        return sum(times for key, times in self._counts.items() if _value(key) > bound * (1 + RELATIVE_ERROR))

    def buckets(self) -> Iterator[tuple[float, int]]:
        """Values in rising order, with how often."""
        return ((_value(key), times) for key, times in self._ordered())

    def _ordered(self) -> list[tuple[int, int]]:
        return sorted(self._counts.items())


def _value(key: int) -> float:
    """The middle of a bucket. Keys grow with values, so that sorting them sorts these."""
    if key < 1 << (_BITS + 1):
        return key * _UNIT
    shift = (key >> _BITS) - 1
    first = ((key - (shift << _BITS)) << shift) * _UNIT
    return first + ((1 << shift) - 1) / 2 * _UNIT


# --- percentiles ------------------------------------------------------------------------------------------------------

QUANTILES: Mapping[str, float] = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p999": 0.999}
_TAIL = 0.025
"""Of a binomial, cut off at each end: intervals hold in 95 of 100 runs."""


@lru_cache(maxsize=256)
def ranks(count: int, q: float) -> tuple[int, int] | None:
    """The two order statistics between which the quantile lies in 95 of 100 samples of this size, whatever the
    distribution is; None when the sample is too small to have an upper one."""
    if q**count > _TAIL:
        return None
    low = _binomial_rank(count, q, _TAIL)
    high = _binomial_rank(count, q, 1 - _TAIL) + 1
    return max(1, low), min(count, high)


def _binomial_rank(count: int, q: float, mass: float) -> int:
    """The smallest k with P(at most k of `count` lie below the quantile) >= mass."""
    spread = 12 * math.sqrt(count * q * (1 - q)) + 12
    start = max(0, int(count * q - spread))
    so_far = 0.0
    for k in range(start, count + 1):
        so_far += math.exp(
            math.lgamma(count + 1)
            - math.lgamma(k + 1)
            - math.lgamma(count - k + 1)
            + k * math.log(q)
            + (count - k) * math.log1p(-q)
        )
        if so_far >= mass:
            return k
    return count


def carries(count: int, q: float) -> bool:
    return ranks(count, q) is not None


def needed(q: float) -> int:
    """The smallest sample that carries the quantile: 6 for a median, 72 for p95, 368 for p99."""
    return math.ceil(math.log(_TAIL) / math.log(q))


@dataclass(frozen=True, slots=True)
class Percentile:
    """`value` is None when the sample cannot carry it, or when it falls among those that failed; `why` says which.
    `low` and `high` enclose it in 95 of 100 runs; high is None where it lies among the failed."""

    value: float | None
    low: float | None = None
    high: float | None = None
    why: str = ""


def percentile(values: Histogram, q: float, missing: int = 0) -> Percentile:
    """Of the recorded values and `missing` others that are greater than all: requests that never got so far."""
    count = values.count + missing
    between = ranks(count, q) if count else None
    if between is None:
        return Percentile(None, why=f"too few: {count} of {needed(q)}")
    low, high = (values.at_rank(rank) for rank in between)
    value = values.at_rank(max(1, math.ceil(q * count)))
    return Percentile(value, low, high, "" if value is not None else "falls among those that failed")
