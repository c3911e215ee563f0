"""The status page's HTML: the survey in tables, without a script. Whatever came from a target is escaped by `_tag`."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files

from exporter.gaps import Gap
from exporter.model import Reading
from exporter.status import (
    LEFT_OUT,
    NAME_MAX,
    REASONS,
    Canary,
    Level,
    Model,
    Search,
    Server,
    Status,
    ago,
    last_good,
    late,
    short,
    size,
    took,
    whole,
)

REFRESH_SECONDS = 15
_OPEN_ROWS = 50  # of a longer table only what needs attention stays open
_ROWS_MAX = 2000

_STYLE = files("exporter.status").joinpath("page.css").read_text("utf-8")
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()

HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none';"
    " form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}


def render_page(status: Status, now: float, *, refresh: bool = True) -> str:
    head = [
        _tag("meta", charset="utf-8"),
        _tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        _tag("meta", name="color-scheme", content="light dark"),
        _tag("title", f"{status.headline} – ollama-exporter"),
        _tag("style", Markup(_STYLE)),
    ]
    if refresh:
        head.append(_tag("meta", http_equiv="refresh", content=str(REFRESH_SECONDS)))
    lines = _tag("ul", *[_tag("li", line) for line in status.lines]) if status.lines else Markup()
    body = [
        _tag("header", _tag("h1", status.headline), lines, class_=f"verdict {status.level}"),
        _tag("main", _servers(status, now), _models(status), _searches(status), _sources(status, now), _gaps(status)),
        _footer(status, refresh),
    ]
    return "<!doctype html>\n" + _tag("html", _tag("head", *head), _tag("body", *body), lang="en")


def _footer(status: Status, refresh: bool) -> Markup:
    links = [_tag("a", f"/{path}", href=path) for path in ("metrics", "config", "sd", "-/healthy", "-/ready")]
    pause = _tag("a", "pause", href="?pause") if refresh else _tag("a", "resume", href="?")
    said = f"Refreshes every {REFRESH_SECONDS} s: " if refresh else "Does not refresh: "
    return _tag("footer", _tag("p", " · ".join(status.about)), _tag("p", *links), _tag("p", said, pause))


# --- sections --------------------------------------------------------------------------------------------------------


class Markup(str):
    """Text that is HTML already. Any other string is escaped on its way into a tag."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class _Row:
    level: Level
    cells: Sequence[Markup]


def _servers(status: Status, now: float) -> Markup:
    columns = ("Server", "State", "Ollama", "Loaded#", "Installed#", "Canary", "Looked at")
    rows = [_Row(server.level, _server(server, now)) for server in status.servers]
    return _section("Servers", f"{len(rows):,}", columns, rows, "None yet.", fold=False)


def _server(server: Server, now: float) -> list[Markup]:
    doubtful = server.doubtful()
    canaries = [model.canary for model in (*doubtful, *server.models) if model.canary.word] or [Canary()]
    more = f" (and {len(doubtful) - 1} more)" if len(doubtful) > 1 else ""
    return [
        _name(server.name, server.url),
        _both(_mark(server.level, server.state), server.why),
        _text(short(server.version)),
        _text(whole(server.loaded), _weight(server.models)),
        _text(whole(server.installed)),
        _canary(canaries[0], more),
        _looked_at(server.reading, now),
    ]


def _models(status: Status) -> Markup:
    columns = ("Model", "Server", "Size#", "VRAM#", "Context#", "Expires", "Request", "Canary")
    found = [(model, server) for server in status.servers for model in server.models]
    rows = [_Row(model.canary.level, _model(model, server)) for model, server in found]
    loaded = [model for model, _ in found if model.loaded]
    note = ", ".join(filter(None, (f"{len(loaded):,} loaded", _weight(loaded))))
    return _section("Models", note, columns, rows, "None is known to be loaded.")


def _model(model: Model, server: Server) -> list[Markup]:
    share = f"{model.vram / model.size:.0%}" if model.size and model.vram is not None else size(model.vram)
    return [
        _name(model.name),
        _name(server.name),
        _text(size(model.size) if model.loaded else "not loaded"),
        _text(share, size(model.vram) if model.size and model.vram else ""),
        _text(whole(model.context)),
        _text(model.expires),
        _mark("ok", "in flight") if model.busy else Markup(),
        _canary(model.canary),
    ]


def _sources(status: Status, now: float) -> Markup:
    columns = ("Source", "Server", "State", "Looked at", "Took#", "Failures so far")
    rows = [_Row("warn" if reading.failure else "ok", _source(reading, now)) for reading in status.readings]
    return _section("Sources", f"{len(rows):,}", columns, rows, "None has been read yet.")


def _source(reading: Reading, now: float) -> list[Markup]:
    failures = sorted(((count, reason) for reason, count in reading.failures.items() if count), reverse=True)
    why = f"{REASONS[reading.failure]}, {last_good(reading, now)}" if reading.failure else ""
    return [
        _name(reading.watch.source),
        _name(reading.watch.server),
        _both(_mark("warn", "failed") if reading.failure else _mark("ok", "ok"), why),
        _looked_at(reading, now),
        _text(took(reading.took)),
        _text(", ".join(f"{count:,} × {REASONS[reason]}" for count, reason in failures)),
    ]


def _searches(status: Status) -> Markup:
    """Empty where nobody is looked for."""
    columns = ("Discovery", "State", "Servers#", "Left out", "Last good look", "Failures so far")
    rows = [_Row(search.level, _search(search)) for search in status.searches]
    return _section("Discovery", f"{len(rows):,}", columns, rows, "") if rows else Markup()


def _search(search: Search) -> list[Markup]:
    left_out = [f"{whole(count)} × {LEFT_OUT.get(reason, reason)}" for reason, count in search.left_out.items()]
    failures = [f"{whole(count)} × {_reason(reason)}" for reason, count in search.failures.items()]
    return [
        _name(search.name),
        _mark(search.level, "ok" if search.level == "ok" else "failed"),
        _text(whole(search.servers)),
        _text(", ".join(left_out)),
        _text(search.last_good),
        _text(", ".join(failures)),
    ]


def _reason(reason: str) -> str:
    return next((meaning for known, meaning in REASONS.items() if known == reason), reason)


def _gaps(status: Status) -> Markup:
    """Empty when nothing lacks: what cannot be mended here is not worth a heading."""
    columns = ("Source", "Of", "What cannot be seen", "What would enable it")
    rows = [_Row("ok", _gap(gap)) for gap in status.gaps]
    return _section("Not seen", f"{len(rows):,}", columns, rows, "") if rows else Markup()


def _gap(gap: Gap) -> list[Markup]:
    more = f"and {len(gap.servers) - 1:,} more" if len(gap.servers) > 1 else ""
    return [
        _name(gap.source),
        _name(gap.servers[0], more) if gap.servers else _text("this machine"),
        _text(gap.lack.what),
        _text(gap.lack.remedy),
    ]


# --- cells -----------------------------------------------------------------------------------------------------------


def _text(text: str, beneath: str = "") -> Markup:
    return _both(Markup(escape(text)), beneath)


def _name(name: str, beneath: str = "") -> Markup:
    shown = _tag("span", short(name), class_="name", title=name[: 4 * NAME_MAX]) if name else Markup()
    return _both(shown, short(beneath))


def _mark(level: Level, text: str) -> Markup:
    return _tag("span", text, class_=f"mark {level}")


def _canary(canary: Canary, more: str = "") -> Markup:
    if canary.level == "ok":
        return _text(f"{canary.word} {canary.rest}".strip())
    return _both(_mark(canary.level, canary.word), canary.rest + more)


def _looked_at(reading: Reading, now: float) -> Markup:
    return _text(ago(now - reading.at), "late" if late(reading, now) else "")


def _both(main: Markup, beneath: str) -> Markup:
    return Markup(main + _tag("small", beneath)) if beneath else main


def _weight(models: Sequence[Model]) -> str:
    sizes = [model.size for model in models if model.size is not None]
    return size(sum(sizes)) if sizes else ""


# --- HTML ------------------------------------------------------------------------------------------------------------


def _section(
    title: str, note: str, columns: Sequence[str], rows: Sequence[_Row], empty: str, fold: bool = True
) -> Markup:
    """A table under its heading. Of a long one only the rows that need attention stay open."""
    heading = _tag("h2", title, _tag("small", note) if rows else Markup())
    if not rows:
        return _tag("section", heading, _tag("p", empty, class_="empty"))
    if not fold or len(rows) <= _OPEN_ROWS:
        return _tag("section", heading, _table(columns, rows))
    urgent = [row for row in rows if row.level != "ok"][:_OPEN_ROWS]
    shown = set(map(id, urgent))
    rest = [row for row in rows if id(row) not in shown]
    summary = _tag("summary", f"{len(rest):,} more" if urgent else f"Show all {len(rest):,}")
    folded = _tag("details", summary, _table(columns, rest))
    return _tag("section", heading, _table(columns, urgent) if urgent else Markup(), folded)


def _table(columns: Sequence[str], rows: Sequence[_Row]) -> Markup:
    """A column whose title ends in # holds numbers. On a phone each cell carries its column's title itself."""
    titles = [column.rstrip("#") for column in columns]
    kinds = ["number" if column.endswith("#") else "text" for column in columns]
    head = [_tag("th", title, scope="col", class_=kind) for title, kind in zip(titles, kinds, strict=True)]
    body = []
    for row in rows[:_ROWS_MAX]:
        first, *others = row.cells
        cells = [_tag("th", first, scope="row")]
        for title, kind, cell in zip(titles[1:], kinds[1:], others, strict=True):
            cells.append(_tag("td", cell, class_=kind if cell else f"{kind} empty", data_label=title))
        body.append(_tag("tr", *cells))
    table = _tag("table", _tag("thead", _tag("tr", *head)), _tag("tbody", *body))
    left_out = len(rows) - len(body)
    return Markup(table + _tag("p", f"{left_out:,} more: see /metrics", class_="empty")) if left_out else table


def _tag(kind: str, /, *children: str, **attributes: str) -> Markup:
    given = "".join([f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"' for key, value in attributes.items()])
    if kind == "meta":
        return Markup(f"<{kind}{given}>")
    inside = "".join([child if isinstance(child, Markup) else escape(child) for child in children])
    return Markup(f"<{kind}{given}>{inside}</{kind}>")
