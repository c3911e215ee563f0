"""Snapshot -> page. A reading becomes text once, when it arrives (`encode`); a page is a join of these (`Page`).

Byte for byte what prometheus_client's own writers give for the same samples; a test holds it to that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from functools import cache, lru_cache
from operator import itemgetter

from exporter import catalog
from exporter.model import Entry, Family, Reading, Sample, Snapshot
from exporter.text import escaped, write

_PLACES: dict[Family, tuple[bytes, int]] = {}
"""Of each family: the vantage point that it is told from, and its place in the rows of that one."""
_EMPTY: dict[bytes, list[bytes]] = {}
"""A row of each vantage point, without text. The first place has its name."""
for _family in catalog.FAMILIES:
    _name = catalog.VANTAGE[_family].encode("ascii")
    _row = _EMPTY.setdefault(_name, [_name])
    _PLACES[_family] = _name, len(_row)
    _row.append(b"")
_EVERY = frozenset(catalog.FAMILIES)
_OF_EACH_LOOK = frozenset(
    {catalog.SOURCE_UP, catalog.SOURCE_DURATION, catalog.SOURCE_LAST_ATTEMPT, catalog.SOURCE_LAST_SUCCESS}
)

_PIECE_BYTES = 128 * 1024


def encode(reading: Reading, before: Entry | None = None) -> Entry:
    """The reading with its lines, grouped by family, and what follows from the reading itself (`vitals`).

    `before` is the same watch's entry that this one replaces. What did not change since is not written again.
    """
    stale = _EVERY if before is None else _stale(before.reading, reading)
    if before is None or stale is _EVERY:
        written = write([*reading.samples, *vitals(reading)])
        return Entry(reading, _rows(written.families)(written.blocks), written.series)
    samples = [sample for sample in reading.samples if sample.family in stale]
    samples += _look(reading)
    if catalog.SOURCE_FAILURES in stale:
        samples += _failures(reading)
    written = write(samples)
    rows, gone = _without(stale, before.text)
    for family, lines in zip(written.families, written.blocks, strict=True):
        vantage, place = _PLACES[family]
        if vantage not in rows:
            rows[vantage] = _EMPTY[vantage].copy()
        rows[vantage][place] = lines
    text = tuple([tuple(row) for row in rows.values() if any(row[1:])])
    return Entry(reading, text, before.series - gone + written.series)


@lru_cache(256)
def _rows(families: tuple[Family, ...]) -> Callable[[Sequence[bytes]], tuple[tuple[bytes, ...], ...]]:
    """Puts these families' lines into rows."""
    names = list(dict.fromkeys([_PLACES[family][0] for family in families]))
    nothing = len(families)
    places = {_PLACES[family]: number for number, family in enumerate(families)}
    rows = [
        itemgetter(nothing + 1 + number, *(places.get((name, at), nothing) for at in range(1, len(_EMPTY[name]))))
        for number, name in enumerate(names)
    ]
    return lambda blocks: tuple([row([*blocks, b"", *names]) for row in rows])


def _stale(before: Reading, reading: Reading) -> Set[Family]:
    """Families whose text may be another one now. It is the same where all samples are the same objects as then;
    sources and meters give what did not change as it was. Comparing their values would take longer, and take -0.0 for
    0.0."""
    then, now = before.samples, reading.samples
    if len(then) != len(now):
        return _EVERY
    stale = set(_OF_EACH_LOOK)
    if reading.blind or before.blind or reading.failures is not before.failures:
        stale.add(catalog.SOURCE_FAILURES)
    for old, new in zip(then, now, strict=True):
        if old is not new:
            stale |= {old.family, new.family}
    return stale


def _without(stale: Set[Family], text: Iterable[tuple[bytes, ...]]) -> tuple[dict[bytes, list[bytes]], int]:
    """Rows to be completed, by the names of their vantage points, and how many series they have lost."""
    rows, gone = {row[0]: list(row) for row in text}, 0
    for family in stale:
        vantage, place = _PLACES[family]
        if vantage in rows:
            gone += rows[vantage][place].count(b"\n")
            rows[vantage][place] = b""
    return rows, gone


def vitals(reading: Reading) -> Iterator[Sample]:
    """What every reading says about its source, so that no source can forget it. A blind one says nothing: a source
    that nobody asked for and that cannot be had here is not down."""
    yield from _look(reading)
    yield from _failures(reading)


def _look(reading: Reading) -> Iterator[Sample]:
    if reading.blind:
        return
    labels = reading.watch.server, reading.watch.source
    yield Sample(catalog.SOURCE_UP, labels, float(reading.failure is None))
    yield Sample(catalog.SOURCE_DURATION, labels, reading.took)
    yield Sample(catalog.SOURCE_LAST_ATTEMPT, labels, reading.at)
    if reading.succeeded_at is not None:
        yield Sample(catalog.SOURCE_LAST_SUCCESS, labels, reading.succeeded_at)


def _failures(reading: Reading) -> Iterator[Sample]:
    if reading.blind:
        return
    server, source = reading.watch.server, reading.watch.source
    for reason, count in reading.failures.items():
        yield Sample(catalog.SOURCE_FAILURES, (server, source, reason), float(count))


class Page:
    """A page: text format 0.0.4, or OpenMetrics 1.0. Families in the order of the catalogue.

    It refers to the entries' own text, and is joined piece by piece as it is sent or compressed: most of the time that
    it takes to join a large one whole goes into memory that the system has to find for it, at every scrape anew.
    """

    def __init__(self, snapshot: Snapshot, openmetrics: bool) -> None:
        self._parts = _parts(_columns(snapshot.entries.values()), openmetrics)
        self.size = sum(map(len, self._parts))
        """In bytes."""

    def pieces(self) -> Iterator[bytes]:
        """The page's bytes, about as many at a time as fit into a processor's cache. A page may be read many times."""
        many = max(1, _PIECE_BYTES * len(self._parts) // max(1, self.size))
        for start in range(0, len(self._parts), many):
            yield b"".join(self._parts[start : start + many])


def render(snapshot: Snapshot, openmetrics: bool) -> bytes:
    """The page, whole."""
    return b"".join(Page(snapshot, openmetrics).pieces())


def _columns(entries: Iterable[Entry]) -> Iterator[tuple[Family, tuple[bytes, ...]]]:
    """Rows of text turned over: what each family has, in the order of the entries."""
    rows: dict[bytes, list[tuple[bytes, ...]]] = {vantage: [] for vantage in _EMPTY}
    for entry in entries:
        for row in entry.text:
            rows[row[0]].append(row)
    columns = {vantage: zip(*those, strict=True) for vantage, those in rows.items() if those}
    for names in columns.values():
        next(names)
    for family, (vantage, _) in _PLACES.items():
        if vantage in columns:
            yield family, next(columns[vantage])


def page(samples: Iterable[Sample]) -> bytes:
    """A page of these samples alone, as text format 0.0.4."""
    written = write([*samples])
    columns = ((family, (lines,)) for family, lines in zip(written.families, written.blocks, strict=True))
    return b"".join(_parts(columns, False))


def _parts(columns: Iterable[tuple[Family, tuple[bytes, ...]]], openmetrics: bool) -> list[bytes]:
    header = _openmetrics_header if openmetrics else _text_header
    parts: list[bytes] = []
    for family, column in columns:
        if any(column):
            parts.append(header(family))
            parts += column
    if openmetrics:
        parts.append(b"# EOF\n")
    return parts


@cache
def _text_header(family: Family) -> bytes:
    kind = "gauge" if family.kind == "info" else family.kind
    text = family.help.replace("\\", r"\\").replace("\n", r"\n")
    return f"# HELP {family.name} {text}\n# TYPE {family.name} {kind}\n".encode()


@cache
def _openmetrics_header(family: Family) -> bytes:
    name = family.name.removesuffix("_total" if family.kind == "counter" else "_info" if family.kind == "info" else "")
    unit = f"# UNIT {name} {family.unit}\n" if family.unit else ""
    return f"# HELP {name} {escaped(family.help)}\n# TYPE {name} {family.kind}\n{unit}".encode()
