"""Samples -> the lines of a page, byte for byte as prometheus_client's own writers give them; a test holds it to that.

Readings of one source on many servers are alike: the same families, as many samples each. What such a *shape* has in
common is made once; then a reading is one format string, filled at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from operator import itemgetter
from typing import Any

from prometheus_client import utils

from exporter.model import Distribution, Family, Sample

_LEAST, _MILLION = -1e6, 1e6
"""Beyond, numbers are written with an exponent. Floats, because those are what is compared with them."""

_SHAPES, _SHAPE_SAMPLES = 256, 256
"""How many shapes are kept, and the samples of the largest of them."""

_BETWEEN = "\0"
"""Between families, while they are filled."""


@dataclass(frozen=True, slots=True)
class Written:
    """`blocks`: of each of `families` its lines (UTF-8), its samples in the order given. `series`: how many lines."""

    families: tuple[Family, ...]
    blocks: Sequence[bytes]
    series: int


def write(samples: Sequence[Sample]) -> Written:
    """Families stand in the order of their first samples."""
    if not samples:
        return Written((), (), 0)
    families = tuple([sample.family for sample in samples])
    shape = (_kept if len(families) <= _SHAPE_SAMPLES else _shape)(families)
    values = _values(samples)
    if len(values) != shape.width:
        raise ValueError("a sample has not as many labels or buckets as its family")
    together = "".join(values)
    if "\\" in together or "\n" in together or '"' in together:
        values = [*map(escaped, values)]
    if _BETWEEN in together and len(shape.families) > 1:
        return _apart(samples, shape)
    text = (shape.form % shape.arranged(values)).encode("utf-8")
    return Written(shape.families, text.split(_BETWEEN.encode()) if len(shape.families) > 1 else [text], shape.lines)


def _apart(samples: Sequence[Sample], shape: _Shape) -> Written:
    """Family by family, for who has an odd value in a label."""
    each = [write([sample for sample in samples if sample.family is family]) for family in shape.families]
    return Written(shape.families, [one.blocks[0] for one in each], shape.lines)


def _values(samples: Iterable[Sample]) -> list[str]:
    """Labels and numbers, sample by sample."""
    found: list[str] = []
    for _, labels, value in samples:
        found += labels
        if type(value) is float:
            found.append(repr(value) if _LEAST < value < _MILLION else _number(value))
        elif isinstance(value, Distribution):
            counts = value.counts
            found += [f"{count}.0" for count in counts] if counts[-1] < _MILLION else map(_number, counts)
            found.append(_number(value.total))
        else:
            found.append(_number(value))
    return found


def escaped(value: str) -> str:
    if "\\" in value or "\n" in value or '"' in value:
        return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
    return value


def _number(value: float) -> str:
    """As the library writes them, which for small ones is Python's own way."""
    return repr(float(value)) if _LEAST < value < _MILLION else _large(value)


@lru_cache(1024)
def _large(value: float) -> str:
    """Many are seen again: sizes of models, the time of a look."""
    text: str = utils.floatToGoString(value)  # type: ignore[no-untyped-call]
    return text


# --- what readings have in common ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Shape:
    """`families`: in the order of their first samples. `form`: all of their lines, to be filled with values as
    `arranged` puts them, which takes `width` of them, sample by sample."""

    families: tuple[Family, ...]
    form: str
    arranged: Callable[[list[str]], Any]
    width: int
    lines: int


def _shape(samples: tuple[Family, ...]) -> _Shape:
    """`samples`: the family of each."""
    starts: dict[Family, list[int]] = {}
    start = 0
    for family in samples:
        starts.setdefault(family, []).append(start)
        start += len(family.labels) + _width(family)
    places = [at + offset for family, those in starts.items() for at in those for offset in _lines(family)[1]]
    form = _BETWEEN.join([_lines(family)[0] * len(those) for family, those in starts.items()])
    return _Shape(tuple(starts), form, itemgetter(*places), start, form.count("\n"))


_kept = lru_cache(_SHAPES)(_shape)


def _width(family: Family) -> int:
    """How many numbers a sample has: a histogram's buckets, +Inf and the sum."""
    return len(family.buckets) + 2 if family.kind == "histogram" else 1


@cache
def _lines(family: Family) -> tuple[str, list[int]]:
    """The lines of one sample, to be filled with its values at these places. Labels stand in alphabetical order."""
    labels = sorted([(name, f'{name}="%s"', place) for place, name in enumerate(family.labels)])
    if family.kind != "histogram":
        return _line(family.name, labels, len(family.labels))
    first = len(family.labels)
    found = [
        _line(f"{family.name}_bucket", sorted([*labels, ("le", f'le="{bound}"', -1)]), first + number)
        for number, bound in enumerate([*map(_number, family.buckets), "+Inf"])
    ]
    last = first + len(family.buckets)
    found += [_line(f"{family.name}_count", labels, last), _line(f"{family.name}_sum", labels, last + 1)]
    return "".join([form for form, _ in found]), [place for _, places in found for place in places]


def _line(name: str, labels: Sequence[tuple[str, str, int]], number: int) -> tuple[str, list[int]]:
    """`labels`: name, form, and place of the value, below 0 where the form has it. `number`: the place of it."""
    braces = "{" + ",".join([form for _, form, _ in labels]) + "}" if labels else ""
    return f"{name}{braces} %s\n", [*(place for _, _, place in labels if place >= 0), number]
