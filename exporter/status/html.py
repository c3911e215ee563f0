"""Pieces of the status page: tags, cells and tables. Whatever came from a target is escaped by `tag`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

from exporter.status import NAME_MAX, Level, short

OPEN_ROWS = 50  # of a longer table only what needs attention stays open
_ROWS_MAX = 2000
_KINDS = {"#": "number", "~": "prose"}


class Markup(str):
    """Text that is HTML already. Any other string is escaped on its way into a tag."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Row:
    level: Level
    cells: Sequence[Markup]


# --- cells -----------------------------------------------------------------------------------------------------------


def text(text: str, beneath: str = "") -> Markup:
    return both(Markup(escape(text)), beneath)


def name(name: str, beneath: str = "") -> Markup:
    shown = tag("span", short(name), class_="name", title=name[: 4 * NAME_MAX]) if name else Markup()
    return both(shown, short(beneath))


def mark(level: Level | Literal["none"], text: str) -> Markup:
    return tag("span", text, class_=f"mark {level}")


def prose(text: str) -> Markup:
    """A sentence in which `code` stands between backticks."""
    pieces = text.split("`")
    if len(pieces) % 2 == 0:  # one is not closed
        pieces = [text]
    marked = [tag("code", piece) if place % 2 else piece for place, piece in enumerate(pieces)]
    return tag("span", *marked)


def both(main: Markup, beneath: str) -> Markup:
    return Markup(main + tag("small", beneath)) if beneath else main


# --- HTML ------------------------------------------------------------------------------------------------------------


def section(
    title: str, note: str, columns: Sequence[str], rows: Sequence[Row], empty: str, fold: bool = True
) -> Markup:
    """A table under its heading. Of a long one only the rows that need attention stay open."""
    heading = tag("h2", title, tag("small", note) if rows else Markup())
    if not rows:
        return tag("section", heading, tag("p", empty, class_="empty"))
    if not fold or len(rows) <= OPEN_ROWS:
        return tag("section", heading, table(columns, rows))
    urgent = [row for row in rows if row.level != "ok"][:OPEN_ROWS]
    shown = set(map(id, urgent))
    rest = [row for row in rows if id(row) not in shown]
    summary = tag("summary", f"{len(rest):,} more" if urgent else f"Show all {len(rest):,}")
    folded = tag("details", summary, table(columns, rest))
    return tag("section", heading, table(columns, urgent) if urgent else Markup(), folded)


def table(columns: Sequence[str], rows: Sequence[Row]) -> Markup:
    """A column whose title ends in # holds numbers, in ~ sentences. On a phone each cell carries its
    column's title itself."""
    titles = [column.rstrip("#~") for column in columns]
    kinds = [_KINDS.get(column[-1:], "text") for column in columns]
    head = [tag("th", title, scope="col", class_=kind) for title, kind in zip(titles, kinds, strict=True)]
    body = []
    for row in rows[:_ROWS_MAX]:
        first, *others = row.cells
        cells = [tag("th", first, scope="row")]
        for title, kind, cell in zip(titles[1:], kinds[1:], others, strict=True):
            cells.append(tag("td", cell, class_=kind if cell else f"{kind} empty", data_label=title))
        body.append(tag("tr", *cells))
    table = tag("table", tag("thead", tag("tr", *head)), tag("tbody", *body))
    left_out = len(rows) - len(body)
    return Markup(table + tag("p", f"{left_out:,} more: see /metrics", class_="empty")) if left_out else table


def tag(kind: str, /, *children: str, **attributes: str) -> Markup:
    given = "".join([f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"' for key, value in attributes.items()])
    if kind == "meta":
        return Markup(f"<{kind}{given}>")
    inside = "".join([child if isinstance(child, Markup) else escape(child) for child in children])
    return Markup(f"<{kind}{given}>{inside}</{kind}>")
