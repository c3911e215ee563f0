"""Snapshot -> text. A reading becomes text once, when it arrives (`encode`); a page is a join (`render`).

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


def encode(reading: Reading, before: Entry | None = None) -> Entry:
    """The reading with its lines, grouped by family, and what follows from the reading itself (`vitals`).

    `before` is the same watch's entry that this one replaces. What did not change since is not written again.
    """
    rows: dict[bytes, list[bytes]] = {}
    samples = [*reading.samples, *_look(reading)]
    stale = _EVERY if before is None else _stale(before.reading, reading)
    if catalog.SOURCE_FAILURES in stale:
        samples += _failures(reading)
    if before is not None and stale is not _EVERY:
        rows = _without(stale, before.text)
        samples = [sample for sample in samples if sample.family in stale]
    for family, lines in _by_family(samples).items():
        vantage, place = _PLACES[family]
        if vantage not in rows:
            rows[vantage] = _EMPTY[vantage].copy()
        rows[vantage][place] = "".join(lines).encode("utf-8")
    text = tuple([tuple(row) for row in rows.values() if any(row[1:])])
    return Entry(reading, text, sum([b"".join(row).count(b"\n") for row in text]))


def _stale(before: Reading, reading: Reading) -> Set[Family]:
    """Families whose text may be another one now. It is the same where all samples are the same objects as then;
    sources and meters give what did not change as it was. Comparing their values would take longer, and take -0.0 for
    0.0."""
    then, now = before.samples, reading.samples
    if len(then) != len(now):
        return _EVERY
    stale = set(_OF_EACH_LOOK)
    if reading.blind or reading.failures is not before.failures:
        stale.add(catalog.SOURCE_FAILURES)
    for old, new in zip(then, now, strict=True):
        if old is not new:
            stale |= {old.family, new.family}
    return stale


def _without(stale: Set[Family], text: Iterable[tuple[bytes, ...]]) -> dict[bytes, list[bytes]]:
    """Rows to be completed, by the names of their vantage points."""
    rows = {row[0]: list(row) for row in text}
    for family in stale:
        vantage, place = _PLACES[family]
        if vantage in rows:
            rows[vantage][place] = b""
    return rows


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


def render(snapshot: Snapshot, openmetrics: bool) -> bytes:
    """The page: text format 0.0.4, or OpenMetrics 1.0. Families in the order of the catalogue."""
    return _page(_columns(snapshot.entries.values()), openmetrics)


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
    return _page(blocks, False)


def _by_family(samples: Iterable[Sample]) -> dict[Family, list[str]]:
    lines: dict[Family, list[str]] = {}
    for sample in samples:
        lines.setdefault(sample.family, []).extend(_lines(sample))
    return lines


def _page(columns: Iterable[tuple[Family, tuple[bytes, ...]]], openmetrics: bool) -> bytes:
    header = _openmetrics_header if openmetrics else _text_header
    parts: list[bytes] = []
    for family, column in columns:
        if any(column):
            parts.append(header(family))
            parts += column
    if openmetrics:
        parts.append(b"# EOF\n")
    return b"".join(parts)


def _lines(sample: Sample) -> Iterable[str]:
    family, value = sample.family, sample.value
    if isinstance(value, Distribution):
        return _histogram_lines(family, sample.labels, value)
    return (f"{family.name}{_braced(family, sample.labels)} {_number(value)}\n",)


def _histogram_lines(family: Family, labels: tuple[str, ...], value: Distribution) -> Iterator[str]:
    before, after = _around_le(family, labels)
    for bound, count in zip(_bounds(family), value.counts, strict=True):
        yield f'{family.name}_bucket{{{before}le="{bound}"{after}}} {_count(count)}\n'
    braces = _braced(family, labels)
    yield f"{family.name}_count{braces} {_count(value.counts[-1])}\n"
    yield f"{family.name}_sum{braces} {_number(value.total)}\n"


@cache
def _bounds(family: Family) -> tuple[str, ...]:
    return (*map(_number, family.buckets), "+Inf")


@cache
def _order(family: Family) -> tuple[tuple[str, int], ...]:
    """Label names in alphabetical order, each with its place in the family's own."""
    return tuple(sorted((name, place) for place, name in enumerate(family.labels)))


def _braced(family: Family, labels: tuple[str, ...]) -> str:
    if not labels:
        return ""
    return "{" + ",".join([f'{name}="{_escape(labels[place])}"' for name, place in _order(family)]) + "}"


def _around_le(family: Family, labels: tuple[str, ...]) -> tuple[str, str]:
    """The labels that sort before and after `le`, each with its comma."""
    pairs = [(name, f'{name}="{_escape(labels[place])}"') for name, place in _order(family)]
    before = "".join(f"{text}," for name, text in pairs if name < "le")
    after = "".join(f",{text}" for name, text in pairs if name > "le")
    return before, after


def _count(value: int) -> str:
    return f"{value}.0" if 0 <= value < 1_000_000 else _number(value)


def _number(value: float) -> str:
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
