"""What each source says of each server: what is wrong in full, and the rest at a glance. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from exporter.gaps import what_helps
from exporter.model import Reading, Watch
from exporter.status import REASONS, Level, ago, late

THIS_MACHINE = "this machine"
_LATE = "the exporter has not looked in time"
_TOO_BUSY = "it may want for CPU: see its own metrics, and its log."


@dataclass(frozen=True, slots=True)
class Wrong:
    """What fails of one server for one reason. `server`: empty is this machine. `failures`: readings that failed so
    far, whatever for."""

    server: str
    sources: tuple[str, ...]
    why: str
    since: str
    failures: int
    helps: str


@dataclass(frozen=True, slots=True)
class Cell:
    """A word for a source's state, and what is to be said beneath it."""

    level: Level
    word: str
    beneath: str = ""


OFF = Cell("ok", "off")
_AWAITED = Cell("unknown", "not yet")


@dataclass(frozen=True, slots=True)
class Matrix:
    """A row a server, a cell a source in the order of `sources`; those with something wrong come first."""

    sources: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]

    def wrong(self) -> list[tuple[str, tuple[Cell, ...]]]:
        return [row for row in self.rows if is_wrong(row[1])]

    def summed_up(self) -> list[str]:
        """For each source, how many servers it says what of."""
        counted = [Counter(cells[place].word for _, cells in self.rows) for place in range(len(self.sources))]
        return [", ".join(f"{count:,} {word}" for word, count in words.most_common()) for words in counted]


def is_wrong(cells: Sequence[Cell]) -> bool:
    return any(cell.level == "warn" for cell in cells)


def wrongs(readings: Sequence[Reading], now: float) -> list[Wrong]:
    """Sources that fail, in the order of the readings; those of one server that fail alike are told together."""
    alike: dict[tuple[str, str, str], list[Reading]] = {}
    for reading in readings:
        told = _told(reading, now)
        if told:
            alike.setdefault((reading.watch.server, *told), []).append(reading)
    return [_together(server, why, helps, alike[server, why, helps], now) for server, why, helps in alike]


def _told(reading: Reading, now: float) -> tuple[str, str] | None:
    """Why it is wrong, and what helps."""
    if _is_late(reading, now):
        return _LATE, _TOO_BUSY
    if not reading.failure:
        return None
    lack = next(iter(reading.lacks), None)
    if lack:
        return lack.what, lack.remedy
    return REASONS[reading.failure], what_helps(reading.watch.source, reading.failure)


def _together(server: str, why: str, helps: str, readings: Sequence[Reading], now: float) -> Wrong:
    goods = [reading.succeeded_at for reading in readings if reading.succeeded_at is not None]
    since = f"last good {ago(now - min(goods))}" if len(goods) == len(readings) else "never good yet"
    failures = sum(sum(reading.failures.values()) for reading in readings)
    return Wrong(server, tuple(reading.watch.source for reading in readings), why, since, failures, helps)


def matrices(readings: Sequence[Reading], awaited: Sequence[Watch], now: float) -> tuple[Matrix, Matrix]:
    """Of the servers, and of this machine."""
    cells: dict[str, dict[str, Cell]] = {}
    for reading in readings:
        cells.setdefault(reading.watch.server, {})[reading.watch.source] = _cell(reading, now)
    for watch in awaited:
        cells.setdefault(watch.server, {})[watch.source] = _AWAITED
    here = {server: cells.pop(server) for server in [""] if server in cells}
    return _matrix(cells), _matrix(here)


def _matrix(cells: Mapping[str, Mapping[str, Cell]]) -> Matrix:
    sources = tuple(dict.fromkeys(_in_order(cells)))
    rows = [(server, tuple([of.get(source, OFF) for source in sources])) for server, of in cells.items()]
    return Matrix(sources, tuple(sorted(rows, key=lambda row: not is_wrong(row[1]))))


def _in_order(cells: Mapping[str, Mapping[str, Cell]]) -> Iterator[str]:
    """As the plan has them: the server of which most is watched tells it."""
    for of in sorted(cells.values(), key=len, reverse=True):
        yield from of


def _cell(reading: Reading, now: float) -> Cell:
    at = reading.succeeded_at
    if reading.blind:
        return Cell("unknown", "blind")
    if _is_late(reading, now):
        return Cell("warn", "late", f"looked at {ago(now - reading.at)}")
    if reading.failure:
        good = "never good yet" if at is None else f"last good {ago(now - at)}"
        return Cell("warn", "failing", f"{REASONS[reading.failure]}, {good}")
    return Cell("ok", "ok", "in part") if reading.lacks else Cell("ok", "ok")


def _is_late(reading: Reading, now: float) -> bool:
    """What is blind is looked through more seldom."""
    return not reading.blind and late(reading, now)
