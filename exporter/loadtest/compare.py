"""What changed from one run to another beyond noise: differences with intervals, out of the requests themselves.

Requests that follow each other are alike (the same queue, the same moment of the machine), so not they are drawn anew
for the interval but stretches of time: a block bootstrap.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporter.loadtest import report
from exporter.loadtest.measure import needed
from exporter.loadtest.outcomes import Result
from exporter.loadtest.run import SETTLING

_DRAWS = 500
_BLOCKS_LEAST = 8
_BLOCKS = 40
_VALUES_MAX = 3000
_BEYOND = 0.99
"""Eight things are compared: at 95 % for each, every third pair of equal runs would seem to differ in one."""


@dataclass(frozen=True, slots=True)
class Statistic:
    """`take` makes a number of a request, None where it does not apply; `make` one of all of these and the seconds that
    they are of."""

    name: str
    unit: str
    take: Callable[[Result], float | None]
    make: Callable[[list[float], float], float | None]
    thins: bool = True
    """Whether a sample of the requests does as well; the interval becomes a little wider."""


@dataclass(frozen=True, slots=True)
class Change:
    """`low` and `high` enclose the difference (after minus before) in 99 of 100 repetitions; None: too few to tell."""

    name: str
    unit: str
    before: float | None
    after: float | None
    low: float | None = None
    high: float | None = None

    @property
    def beyond_noise(self) -> bool:
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)

    def text(self) -> str:
        if self.before is None or self.after is None:
            return f"{self.name}: too few requests to tell"
        words = f"{self.name}: {self._shown(self.before)} -> {self._shown(self.after)}"
        if self.low is None or self.high is None:
            return f"{words}; too short a run to tell from noise"
        between = f"{self._signed(self.low)} to {self._signed(self.high)}"
        if not self.beyond_noise:
            return f"{words}; no change beyond noise ({between})"
        return f"{words}; {'more' if self.low > 0 else 'less'} beyond noise ({between})"

    def _shown(self, value: float) -> str:
        return f"{value:.2%}" if self.unit == "%" else f"{value:.4g}{self.unit}"

    def _signed(self, value: float) -> str:
        return f"{value:+.2%}" if self.unit == "%" else f"{value:+.4g}{self.unit}"


def told(before: Path, after: Path) -> list[str]:
    """In lines. Raises OSError and ValueError for folders without reports."""
    (first, first_rows), (second, second_rows) = _read(before), _read(after)
    lines = list(_apart(first, second))
    lines += [f"{folder}: {found['verdict']}" for folder, found in ((before, first), (after, second))]
    found = changes(first_rows, second_rows, random.Random(0))
    lines += [change.text() for change in found]
    beyond = [change.name for change in found if change.beyond_noise]
    lines.append(f"changed beyond noise: {', '.join(beyond)}" if beyond else "nothing changed beyond noise")
    return lines


def changes(before: Sequence[Result], after: Sequence[Result], rng: random.Random) -> list[Change]:
    return [_change(statistic, before, after, rng) for statistic in _STATISTICS]


def _change(statistic: Statistic, before: Sequence[Result], after: Sequence[Result], rng: random.Random) -> Change:
    runs = [_blocks(rows, statistic) for rows in (before, after)]
    first, second = (statistic.make([each for block in blocks for each in block], seconds) for blocks, seconds in runs)
    drawn = [_drawn(blocks, seconds, statistic, rng) for blocks, seconds in runs]
    if first is None or second is None or not drawn[0] or not drawn[1]:
        return Change(statistic.name, statistic.unit, first, second)
    differences = sorted(later - earlier for earlier, later in zip(*drawn, strict=False))
    tail = (1 - _BEYOND) / 2
    low, high = (differences[round(q * (len(differences) - 1))] for q in (tail, 1 - tail))
    return Change(statistic.name, statistic.unit, first, second, low, high)


def _drawn(blocks: list[list[float]], seconds: float, statistic: Statistic, rng: random.Random) -> list[float]:
    if len(blocks) < _BLOCKS_LEAST:
        return []
    share = min(1.0, _VALUES_MAX / sum(map(len, blocks)))
    if share < 1 and statistic.thins:
        blocks = [rng.sample(block, max(1, round(share * len(block)))) for block in blocks]
    draws = (rng.choices(blocks, k=len(blocks)) for _ in range(_DRAWS))
    values = (statistic.make([value for block in draw for value in block], seconds) for draw in draws)
    return [value for value in values if value is not None]


def _blocks(rows: Sequence[Result], statistic: Statistic) -> tuple[list[list[float]], float]:
    """The values of stretches of equal time, those without a request left out; and the time of all."""
    if not rows:
        return [], 0.0
    seconds = max(row.at for row in rows) + 1e-9
    parts: list[list[float]] = [[] for _ in range(max(1, min(_BLOCKS, len(rows) // 5)))]
    for row in rows:
        if (value := statistic.take(row)) is not None:
            parts[int(row.at / seconds * len(parts))].append(value)
    return [part for part in parts if part], seconds


# --- what is compared -------------------------------------------------------------------------------------------------


def _quantile(name: str, key: str, q: float) -> Statistic:
    """Failed requests count as slower than any; among them there is no value."""

    def take(row: Result) -> float | None:
        if row.outcome == "interrupted" or (key == "ttft" and not row.streamed):
            return None
        if row.outcome != "ok":
            return math.inf
        value: float | None = getattr(row, key)
        return value

    def make(values: list[float], seconds: float) -> float | None:
        if len(values) < needed(q):
            return None
        value = sorted(values)[math.ceil(q * len(values)) - 1]
        return value if value < math.inf else None

    return Statistic(f"{name} p{100 * q:g}", " s", take, make)


_STATISTICS = (
    _quantile("first token", "ttft", 0.5),
    _quantile("first token", "ttft", 0.95),
    _quantile("first token", "ttft", 0.99),
    _quantile("whole answer", "total", 0.5),
    _quantile("whole answer", "total", 0.95),
    _quantile("time per token", "per_token", 0.5),
    Statistic(
        "answered well",
        "%",
        lambda row: None if row.outcome == "interrupted" else float(row.outcome == "ok"),
        lambda values, seconds: sum(values) / len(values) if values else None,
    ),
    Statistic(
        "tokens a second",
        "/s",
        lambda row: float(row.tokens) if row.outcome == "ok" else 0.0,
        lambda values, seconds: sum(values) / seconds if seconds else None,
        thins=False,
    ),
)


def _apart(first: dict[str, Any], second: dict[str, Any]) -> Iterator[str]:
    """What makes the two another experiment."""
    for name, run in (("A", first), ("B", second)):
        if run["verdict"] == "invalid":
            yield f"careful: {name} is invalid and proves nothing ({'; '.join(run['why'])})"
    keys = ("users", "rate", "arrivals", "shape", "duration", "workloads", "model", "phases")
    different = [key for key in keys if first["scenario"].get(key) != second["scenario"].get(key)]
    if different:
        yield f"careful: the two differ in what was asked: {', '.join(different)}"
    versions = [sorted({str(each["version"]) for each in run["environment"]["servers"]}) for run in (first, second)]
    if versions[0] != versions[1]:
        yield f"versions of Ollama: {', '.join(versions[0])} -> {', '.join(versions[1])}"


def _read(folder: Path) -> tuple[dict[str, Any], list[Result]]:
    built = json.loads((folder / report.JSON).read_text("utf-8"))
    if not isinstance(built, dict) or built.get("schema") != report.SCHEMA:
        raise ValueError(f"{folder / report.JSON} is no report of this version")
    return built, [row for row in report.read(folder / report.CSV) if row.phase != SETTLING]
