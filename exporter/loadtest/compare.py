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

_DRAWS = 400
_BLOCKS_LEAST = 8
_BLOCKS = 40
_BEYOND = 0.95

Block = Sequence[Result]
Statistic = Callable[[Sequence[Result]], float | None]


@dataclass(frozen=True, slots=True)
class Change:
    """`low` and `high` enclose the difference (after minus before) in 95 of 100 repetitions; None: too few to tell."""

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
    return [_change(name, unit, statistic, before, after, rng) for name, unit, statistic in _STATISTICS]


def _change(
    name: str, unit: str, statistic: Statistic, before: Sequence[Result], after: Sequence[Result], rng: random.Random
) -> Change:
    values = statistic(before), statistic(after)
    drawn = [_drawn(rows, statistic, rng) for rows in (before, after)]
    if None in values or not drawn[0] or not drawn[1]:
        return Change(name, unit, *values)
    differences = sorted(second - first for first, second in zip(*drawn, strict=False))
    tail = (1 - _BEYOND) / 2
    low, high = (differences[round(q * (len(differences) - 1))] for q in (tail, 1 - tail))
    return Change(name, unit, *values, low, high)


def _drawn(rows: Sequence[Result], statistic: Statistic, rng: random.Random) -> list[float]:
    blocks = _blocks(rows)
    if len(blocks) < _BLOCKS_LEAST:
        return []
    values = []
    for _ in range(_DRAWS):
        value = statistic([row for block in rng.choices(blocks, k=len(blocks)) for row in block])
        if value is not None:
            values.append(value)
    return values


def _blocks(rows: Sequence[Result]) -> list[Block]:
    """Stretches of equal time, those without a request left out."""
    if not rows:
        return []
    seconds = max(row.at for row in rows) + 1e-9
    parts: list[list[Result]] = [[] for _ in range(max(1, min(_BLOCKS, len(rows) // 5)))]
    for row in rows:
        parts[int(row.at / seconds * len(parts))].append(row)
    return [part for part in parts if part]


# --- what is compared -------------------------------------------------------------------------------------------------


def _quantile(key: str, q: float) -> Statistic:
    """Failed requests count as slower than any; among them there is no value."""

    def statistic(rows: Sequence[Result]) -> float | None:
        of = [row for row in rows if row.outcome != "interrupted" and (key != "ttft" or row.streamed)]
        if len(of) < needed(q):
            return None
        values = sorted(getattr(row, key) for row in of if row.outcome == "ok" and getattr(row, key) is not None)
        place = math.ceil(q * len(of)) - 1
        return float(values[place]) if place < len(values) else None

    return statistic


def _success(rows: Sequence[Result]) -> float | None:
    of = [row for row in rows if row.outcome != "interrupted"]
    return sum(row.outcome == "ok" for row in of) / len(of) if of else None


def _throughput(rows: Sequence[Result]) -> float | None:
    seconds = max((row.at for row in rows), default=0.0)
    return sum(row.tokens for row in rows if row.outcome == "ok") / seconds if seconds else None


_STATISTICS: tuple[tuple[str, str, Statistic], ...] = (
    ("first token p50", " s", _quantile("ttft", 0.5)),
    ("first token p95", " s", _quantile("ttft", 0.95)),
    ("first token p99", " s", _quantile("ttft", 0.99)),
    ("whole answer p50", " s", _quantile("total", 0.5)),
    ("whole answer p95", " s", _quantile("total", 0.95)),
    ("time per token p50", " s", _quantile("per_token", 0.5)),
    ("answered well", "%", _success),
    ("tokens a second", "/s", _throughput),
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
