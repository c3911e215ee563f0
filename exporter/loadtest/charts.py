"""Charts as SVG in text: lines over time, distributions on a logarithmic axis, points. No script, no network."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape

Points = Sequence[tuple[float, float | None]]

_WIDTH, _HEIGHT = 580, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 14, 34
_LETTER, _LINE = 6.4, 13.0
"""Room for a letter and for a line of the labels' font, in which no label is wider."""


@dataclass(frozen=True, slots=True)
class Line:
    """`tone` is a class of the page's style: it has the colour."""

    name: str
    tone: str
    points: Points


@dataclass(frozen=True, slots=True)
class Band:
    name: str
    begin: float
    end: float


@dataclass(frozen=True, slots=True)
class Mark:
    """A limit to be kept."""

    name: str
    value: float


@dataclass(frozen=True, slots=True)
class _Scale:
    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        low, high, here = self.low, self.high, value
        if self.log:
            low, high, here = math.log10(low), math.log10(high), math.log10(max(value, self.low))
        return self.start + (min(here, high) - low) / (high - low or 1.0) * (self.end - self.start)

    def ticks(self) -> list[float]:
        return _decades(self.low, self.high) if self.log else _even(self.low, self.high)


def seconds(value: float) -> str:
    if value == 0:
        return "0"
    if value < 0.001:
        return f"{value * 1e6:.3g} µs"
    return f"{value * 1000:.3g} ms" if value < 1 else f"{value:.3g} s"


def plain(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def lines(
    name: str, series: Sequence[Line], bands: Sequence[Band] = (), marks: Sequence[Mark] = (), *, timed: bool = True,
    across_text: Callable[[float], str] = seconds,
) -> str:  # fmt: skip
    """Over seconds since the beginning, unless `across_text` says otherwise. `timed`: what goes up are seconds, too."""
    xs = [x for line in series for x, _ in line.points]
    ys = [y for line in series for _, y in line.points if y is not None]
    if not ys:
        return _empty(name)
    highest = max(ys)
    shown = [mark for mark in marks if mark.value <= 4 * highest]
    across = _Scale(0.0, max([*xs, *(band.end for band in bands), 1e-9]), _LEFT, _WIDTH - _RIGHT)
    up = _Scale(0.0, max([highest, *(mark.value for mark in shown)]) * 1.06 or 1.0, _HEIGHT - _BOTTOM, _TOP)
    parts = [*_bands(bands, across), *_axes(across, up, across_text, seconds if timed else plain)]
    parts += _marks(shown, up)
    parts += [_path(line, across, up) for line in series]
    return _framed(name, parts, [(line.name, line.tone) for line in series])


def distribution(
    name: str, tone: str, bars: Sequence[Sequence[float]], marks: Sequence[Mark] = (), *, counted: str = "requests"
) -> str:
    """`bars`: (lower bound, upper bound, count), on a logarithmic axis of seconds; the line is the share so far.
    `counted` is what there is a count of."""
    if not bars:
        return _empty(name)
    limits = [mark.value for mark in marks]
    low = 10 ** math.floor(math.log10(min([bars[0][0], *limits])) + 1e-9)
    high = 10 ** math.ceil(math.log10(max([bars[-1][1], *limits])) - 1e-9)
    across = _Scale(low, high if high > low else 10 * low, _LEFT, _WIDTH - _RIGHT, log=True)
    whole, most = sum(bar[2] for bar in bars), max(bar[2] for bar in bars)
    up = _Scale(0.0, most * 1.06, _HEIGHT - _BOTTOM, _TOP)
    share = _Scale(0.0, 1.06, _HEIGHT - _BOTTOM, _TOP)
    parts = _axes(across, up, seconds, plain)
    for begin, end, count in bars:
        left, right, top = across.at(begin), across.at(end), up.at(count)
        height = _HEIGHT - _BOTTOM - top
        parts.append(
            f'<rect class="bar {tone}" x="{left:.1f}" y="{top:.1f}" width="{max(0.8, right - left - 0.8):.1f}"'
            f' height="{height:.1f}"><title>{seconds(begin)} to {seconds(end)}: {count:,.0f}</title></rect>'
        )
    so_far, steps = 0.0, []
    for _, end, count in bars:
        so_far += count
        steps.append((end, so_far / whole))
    parts.append(_path(Line("share so far", "quiet", [(bars[0][0], 0.0), *steps]), across, share))
    places = [across.at(mark.value) for mark in marks]
    parts += [f'<line class="limit" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>' for x in places]
    labels = labels_beside([(mark.name, x) for mark, x in zip(marks, places, strict=True)])
    return _framed(name, [*parts, *map(_limit, labels)], [(counted, tone), ("share so far, to 100 %", "quiet")])


def points(
    name: str,
    series: Sequence[tuple[str, str, Sequence[tuple[float, float]]]],
    marks: Sequence[Mark] = (),
    across_name: str = "",
) -> str:
    """Name, tone and points of each series; seconds go up."""
    every = [point for _, _, found in series for point in found]
    if not every:
        return _empty(name)
    highest = max(y for _, y in every)
    shown = [mark for mark in marks if mark.value <= 4 * highest]
    across = _Scale(0.0, max(x for x, _ in every) * 1.06 or 1.0, _LEFT, _WIDTH - _RIGHT)
    up = _Scale(0.0, max([highest, *(mark.value for mark in shown)]) * 1.06 or 1.0, _HEIGHT - _BOTTOM, _TOP)
    parts = [*_axes(across, up, plain, seconds), *_marks(shown, up)]
    for _, tone, found in series:
        parts += [
            f'<circle class="dot {tone}" cx="{across.at(x):.1f}" cy="{up.at(y):.1f}" r="3.2">'
            f"<title>{plain(x)}: {seconds(y)}</title></circle>"
            for x, y in found
        ]
    if across_name:
        parts.append(
            f'<text class="axis" x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 4}" text-anchor="end">{escape(across_name)}</text>'
        )
    return _framed(name, parts, [(label, tone) for label, tone, _ in series])


# --- parts ------------------------------------------------------------------------------------------------------------


def _framed(name: str, parts: Iterable[str], legend: Sequence[tuple[str, str]]) -> str:
    keys = "".join(f'<span><i class="key {tone}"></i>{escape(label)}</span>' for label, tone in legend)
    return (
        f'<figure><figcaption>{escape(name)}<span class="legend">{keys}</span></figcaption>'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(name)}">{"".join(parts)}</svg></figure>'
    )


def _empty(name: str) -> str:
    return f'<figure><figcaption>{escape(name)}</figcaption><p class="none">Nothing to show.</p></figure>'


def _axes(
    across: _Scale, up: _Scale, across_text: Callable[[float], str], up_text: Callable[[float], str]
) -> list[str]:
    parts = []
    for tick in up.ticks():
        y = up.at(tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="axis" x="{_LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{up_text(tick)}</text>')
    for tick in across.ticks():
        x = across.at(tick)
        parts.append(
            f'<text class="axis" x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 15}" text-anchor="middle">'
            f"{across_text(tick)}</text>"
        )
    return parts


def _marks(marks: Sequence[Mark], up: _Scale) -> list[str]:
    places = [up.at(mark.value) for mark in marks]
    drawn = [f'<line class="limit" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>' for y in places]
    labels = labels_above([(mark.name, y) for mark, y in zip(marks, places, strict=True)])
    return [*drawn, *map(_limit, labels)]


@dataclass(frozen=True, slots=True)
class Label:
    """`x` is its left end, `y` its baseline."""

    text: str
    x: float
    y: float

    @property
    def end(self) -> float:
        return self.x + _LETTER * len(self.text)

    def meets(self, other: Label) -> bool:
        return self.x < other.end + 4 and other.x < self.end + 4 and abs(self.y - other.y) < _LINE


def labels_beside(lines_at: Sequence[tuple[str, float]]) -> list[Label]:
    """Names of lines that go up at these places: each beside its own, at the top, where it meets no other name and no
    other line; where there is no such room, beneath the names that are there."""
    placed: list[Label] = []
    for text, x in lines_at:
        rows = [_TOP + 10 + row * _LINE for row in range(len(lines_at))]
        tries = [
            Label(text, left, y) for y in rows for left in (x + 4, x - 4 - _LETTER * len(text))
            if left >= _LEFT and Label(text, left, y).end <= _WIDTH
        ]  # fmt: skip
        free = [label for label in tries if not any(map(label.meets, placed))]
        clear = [label for label in free if not any(label.x < at < label.end for _, at in lines_at)]
        placed.append((clear or free or [Label(text, _LEFT, rows[len(placed)])])[0])
    return placed


def labels_above(lines_at: Sequence[tuple[str, float]]) -> list[Label]:
    """Names of lines that lie at these heights: at the right, or to the left of a name that is there. Where another
    line would go through a name, it is beneath its own if there is room."""
    heights, placed = [y for _, y in lines_at], list[Label]()
    for text, y in lines_at:
        crossed, taken = (any(low < each - y < high for each in heights) for low, high in ((-_LINE, -1), (1, _LINE)))
        beneath = crossed and not taken and y + _LINE < _HEIGHT - _BOTTOM
        label = Label(text, _WIDTH - _RIGHT - _LETTER * len(text), y + 11 if beneath else y - 4)
        for other in sorted(placed, key=lambda each: -each.x):
            if label.meets(other):
                label = Label(text, other.x - 8 - _LETTER * len(text), label.y)
        placed.append(label)
    return placed


def _limit(label: Label) -> str:
    return f'<text class="limit" x="{label.x:.1f}" y="{label.y:.1f}">{escape(label.text)}</text>'


def _bands(bands: Sequence[Band], across: _Scale) -> list[str]:
    """Told apart by shade, named at the top."""
    parts = []
    for place, band in enumerate(bands):
        left, right = across.at(band.begin), across.at(band.end)
        tone = "band odd" if place % 2 else "band"
        parts.append(
            f'<rect class="{tone}" x="{left:.1f}" y="{_TOP}" width="{max(0.0, right - left):.1f}"'
            f' height="{_HEIGHT - _TOP - _BOTTOM}"/>'
        )
        parts.append(f'<text class="axis" x="{left + 4:.1f}" y="{_HEIGHT - 4}">{escape(band.name)}</text>')
    return parts


def _path(line: Line, across: _Scale, up: _Scale) -> str:
    """With a gap where nothing is known; a point alone is a dot, or nobody would see it."""
    pieces: list[list[str]] = [[]]
    for x, y in line.points:
        if y is not None:
            pieces[-1].append(f"{across.at(x):.1f} {up.at(y):.1f}")
        elif pieces[-1]:
            pieces.append([])
    drawn = " ".join(f"M{' L'.join(piece)}" for piece in pieces if len(piece) > 1)
    alone = [piece[0].split() for piece in pieces if len(piece) == 1]
    dots = "".join(f'<circle class="dot {line.tone}" cx="{x}" cy="{y}" r="2.4"/>' for x, y in alone)
    return f'<path class="line {line.tone}" d="{drawn}"/>{dots}'


def _even(low: float, high: float) -> list[float]:
    step = 10 ** math.floor(math.log10((high - low) / 4))
    step *= next(each for each in (1, 2, 5, 10) if (high - low) / (each * step) <= 6)
    return [low + number * step for number in range(int((high - low) / step + 1e-9) + 1)]


def _decades(low: float, high: float) -> list[float]:
    first, last = round(math.log10(low)), round(math.log10(high))
    every = [10.0**power for power in range(first, last + 1)]
    if last - first <= 2:
        return sorted([*every, *(each * tick for tick in every[:-1] for each in (2, 5))])
    return every
