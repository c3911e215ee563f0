"""Snapshot -> text. A reading becomes text once, when it arrives (`encode`); a page is a join of what is there (`Page`).

The text is, byte for byte, what prometheus_client's own writers give for the same samples; a test holds it to that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set
from functools import cache

from prometheus_client import utils

from exporter import catalog
from exporter.model import Distribution, Entry, Family, Reading, Sample, Snapshot

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

_MILLION = 1_000_000
"""From there on numbers are written with an exponent."""


def encode(reading: Reading, before: Entry | None = None) -> Entry:
    """The reading with its lines, grouped by family, and what follows from the reading itself (`vitals`).

    `before` is the same watch's entry that this one replaces. What did not change since is not written again.
    """
    rows: dict[bytes, list[bytes]] = {}
    series = 0
    samples = [*reading.samples, *_look(reading)]
    stale = _EVERY if before is None else _stale(before.reading, reading)
    if catalog.SOURCE_FAILURES in stale:
        samples += _failures(reading)
    if before is not None and stale is not _EVERY:
        rows, gone = _without(stale, before.text)
        series = before.series - gone
        samples = [sample for sample in samples if sample.family in stale]
    for family, lines in _by_family(samples).items():
        vantage, place = _PLACES[family]
        if vantage not in rows:
            rows[vantage] = _EMPTY[vantage].copy()
        rows[vantage][place] = "".join(lines).encode("utf-8")
        series += len(lines)
    return Entry(reading, tuple([tuple(row) for row in rows.values() if any(row[1:])]), series)


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
    labels = {"server": reading.watch.server, "source": reading.watch.source}
    yield catalog.SOURCE_UP(float(reading.failure is None), **labels)
    yield catalog.SOURCE_DURATION(reading.took, **labels)
    yield catalog.SOURCE_LAST_ATTEMPT(reading.at, **labels)
    if reading.succeeded_at is not None:
        yield catalog.SOURCE_LAST_SUCCESS(reading.succeeded_at, **labels)


def _failures(reading: Reading) -> Iterator[Sample]:
    if reading.blind:
        return
    labels = {"server": reading.watch.server, "source": reading.watch.source}
    for reason, count in reading.failures.items():
        yield catalog.SOURCE_FAILURES(float(count), **labels, reason=reason)


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
    blocks = ((family, ("".join(lines).encode("utf-8"),)) for family, lines in _by_family(samples).items())
    return b"".join(_parts(blocks, False))


def _by_family(samples: Iterable[Sample]) -> dict[Family, list[str]]:
    lines: dict[Family, list[str]] = {}
    for sample in samples:
        rows = lines.get(sample.family)
        if rows is None:
            rows = lines[sample.family] = []
        if isinstance(sample.value, Distribution):
            rows += _histogram_lines(sample.family, sample.labels, sample.value)
        else:
            rows.append(f"{_named(sample.family, sample.labels)} {_number(sample.value)}\n")
    return lines


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


def _histogram_lines(family: Family, labels: tuple[str, ...], value: Distribution) -> list[str]:
    before, after = _around_le(family, labels)
    start, end = f"{family.name}_bucket{{{before}", f"{after}}} "
    counts = zip(_bounds(family), value.counts, strict=True)
    rows = [
        f"{start}{le}{end}{count}.0\n" if count < _MILLION else _large(start, le, end, count) for le, count in counts
    ]
    braces = _named(family, labels).removeprefix(family.name)
    rows.append(f"{family.name}_count{braces} {_number(value.counts[-1])}\n")
    rows.append(f"{family.name}_sum{braces} {_number(value.total)}\n")
    return rows


def _large(start: str, le: str, end: str, count: int) -> str:
    return f"{start}{le}{end}{_number(count)}\n"


@cache
def _bounds(family: Family) -> tuple[str, ...]:
    return tuple(f'le="{bound}"' for bound in (*map(_number, family.buckets), "+Inf"))


@cache
def _order(family: Family) -> tuple[tuple[str, int], ...]:
    """Label names in alphabetical order, each with its place in the family's own."""
    return tuple(sorted((name, place) for place, name in enumerate(family.labels)))


@cache
def _form(family: Family) -> str:
    """A series' name, to be filled with its labels' values."""
    return family.name + ("{" + ",".join([f'{name}="%s"' for name, _ in _order(family)]) + "}" if family.labels else "")


def _named(family: Family, labels: tuple[str, ...]) -> str:
    values = tuple([labels[place] for _, place in _order(family)])
    text = _form(family) % values
    if text.count('"') == 2 * len(values) and "\\" not in text and "\n" not in text:
        return text
    return _form(family) % tuple(map(_escape, values))


def _around_le(family: Family, labels: tuple[str, ...]) -> tuple[str, str]:
    """The labels that sort before and after `le`, each with its comma."""
    pairs = [(name, f'{name}="{_escape(labels[place])}"') for name, place in _order(family)]
    before = "".join([f"{text}," for name, text in pairs if name < "le"])
    after = "".join([f",{text}" for name, text in pairs if name > "le"])
    return before, after


def _number(value: float) -> str:
    if type(value) is float and -_MILLION < value < _MILLION:
        return repr(value)  # as the library writes them
    text: str = utils.floatToGoString(value)  # type: ignore[no-untyped-call]
    return text


def _escape(value: str) -> str:
    if "\\" in value or "\n" in value or '"' in value:
        return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
    return value


@cache
def _text_header(family: Family) -> bytes:
    kind = "gauge" if family.kind == "info" else family.kind
    text = family.help.replace("\\", r"\\").replace("\n", r"\n")
    return f"# HELP {family.name} {text}\n# TYPE {family.name} {kind}\n".encode()


@cache
def _openmetrics_header(family: Family) -> bytes:
    name = family.name.removesuffix("_total" if family.kind == "counter" else "_info" if family.kind == "info" else "")
    unit = f"# UNIT {name} {family.unit}\n" if family.unit else ""
    return f"# HELP {name} {_escape(family.help)}\n# TYPE {name} {family.kind}\n{unit}".encode()
