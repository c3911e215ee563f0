"""Rounds of measurements, taken in turns, and the tables that show them beside their reference."""

from __future__ import annotations

import gc
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    """The same quantity, measured several times."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def __truediv__(self, divisor: float) -> Figure:
        return Figure(tuple(value / divisor for value in self.values))


def say(text: str = "") -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def heading(title: str) -> None:
    cores = len(os.sched_getaffinity(0))
    say(f"# {title}")
    say(f"Python {platform.python_version()}, {cores} cores, load average {os.getloadavg()[0]:.1f} at the start.")
    say("Median (lowest to highest); x is the ratio of medians to the row marked 1.")


def in_turns(
    contenders: Mapping[str, Callable[[], object]], rounds: int, between: Callable[[], None] | None = None
) -> dict[str, Figure]:
    """Seconds that each contender takes, once a round, each round in another order: what disturbs one round disturbs
    all of them. One call beforehand does not count, nor does what happens `between` two of them."""
    for contender in contenders.values():
        contender()
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    gc.collect()
    for _ in range(rounds):
        for name in names:
            if between is not None:
                between()
            started = time.perf_counter()
            result = contenders[name]()
            taken[name].append(time.perf_counter() - started)
            del result
        names.append(names.pop(0))
    return {name: Figure(tuple(values)) for name, values in taken.items()}


def table(
    title: str, unit: str, rows: Mapping[str, Figure], reference: str, notes: Mapping[str, str] | None = None
) -> None:
    """Each figure with its spread and its ratio to the reference, which must be one of the rows."""
    say(f"\n## {title}\n")
    body = []
    for name, figure in rows.items():
        ratio = "1" if name == reference else _short(figure.median / (rows[reference].median or float("nan")))
        spread = f"{_short(min(figure.values))} to {_short(max(figure.values))}"
        body.append([name, _short(figure.median), spread, ratio, (notes or {}).get(name, "")])
    head = ["", unit, "spread", "x", ""]
    grid([head, *body] if notes else [row[:4] for row in [head, *body]])


def grid(rows: Sequence[Sequence[str]]) -> None:
    """A Markdown table; the first row is its head, the first column is text, the rest numbers."""
    widths = [max(3, *(len(row[column]) for row in rows)) for column in range(len(rows[0]))]
    lines = ["| " + " | ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) + " |" for row in rows]
    rule = "|" + "|".join(["-" * (widths[0] + 2), *(f"{'-' * (width + 1)}:" for width in widths[1:])]) + "|"
    say("\n".join([lines[0], rule, *lines[1:]]))


def _short(value: float) -> str:
    if value == 0:
        return "0"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
