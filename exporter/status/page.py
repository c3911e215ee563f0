"""The status page's HTML: the survey in tables, without a script. Whatever came from a target is escaped by `tag`."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files

from exporter.gaps import Gap
from exporter.model import Reading
from exporter.status import (
    LEFT_OUT,
    REASONS,
    Canary,
    Model,
    Search,
    Server,
    Status,
    ago,
    late,
    short,
    size,
    whole,
)
from exporter.status.html import OPEN_ROWS, Markup, Row, both, mark, name, prose, section, table, tag, text
from exporter.status.sources import OFF, THIS_MACHINE, Cell, Matrix, Wrong, matrices, wrongs

REFRESH_SECONDS = 15
_LEGEND = "ok · failing · late · blind: cannot be seen from here · off: not configured"
_DOCUMENTED: Mapping[str, str] = {
    "probe": "`/probe?target=NAME&module=NAME` looks once at a server: docs/multi-target.md.",
    "sd": "`/sd` lists the fleet for Prometheus' `http_sd_configs`: docs/discovery.md.",
}

_STYLE = files("exporter.status").joinpath("page.css").read_text("utf-8")
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()

HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none';"
    " form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}


@dataclass(frozen=True, slots=True)
class View:
    """What the reader chose: whether the page refreshes, and whether the sources of every server are shown, of
    however many."""

    refresh: bool = True
    every_source: bool = False

    def query(self) -> str:
        chosen = [*(["pause"] if not self.refresh else []), *(["sources=all"] if self.every_source else [])]
        return f"?{'&'.join(chosen)}"


USUAL = View()


def render_page(status: Status, now: float, view: View = USUAL, more: Sequence[str] = ()) -> str:
    """`more`: paths of pages that are not in everybody's use, and are configured."""
    head = [
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"{status.headline} – ollama-exporter"),
        tag("style", Markup(_STYLE)),
    ]
    if view.refresh:
        head.append(tag("meta", http_equiv="refresh", content=str(REFRESH_SECONDS)))
    lines = tag("ul", *[tag("li", line) for line in status.lines]) if status.lines else Markup()
    body = [
        tag("header", tag("h1", status.headline), lines, class_=f"verdict {status.level}"),
        tag(
            "main",
            _wrong(status, now),
            _servers(status, now),
            _models(status),
            _searches(status),
            _gaps(status),
            _sources(status, now, view),
        ),
        _footer(status, view, more),
    ]
    return "<!doctype html>\n" + tag("html", tag("head", *head), tag("body", *body), lang="en")


def _footer(status: Status, view: View, more: Sequence[str]) -> Markup:
    links = [tag("a", f"/{path}", href=path) for path in ("metrics", "config", *more, "-/healthy", "-/ready")]
    other = tag("a", "pause" if view.refresh else "resume", href=replace(view, refresh=not view.refresh).query())
    said = f"Refreshes every {REFRESH_SECONDS} s: " if view.refresh else "Does not refresh: "
    told = [_DOCUMENTED[path] for path in more if path in _DOCUMENTED]
    return tag(
        "footer",
        tag("p", " · ".join(status.about)),
        tag("p", *links),
        *[tag("p", prose(line)) for line in told],
        tag("p", said, other),
    )


# --- sections --------------------------------------------------------------------------------------------------------


def _servers(status: Status, now: float) -> Markup:
    columns = ("Server", "State", "Ollama", "Loaded#", "Installed#", "Canary", "Looked at")
    rows = [Row(server.level, _server(server, now)) for server in status.servers]
    return section("Servers", f"{len(rows):,}", columns, rows, "None yet.", fold=False)


def _server(server: Server, now: float) -> list[Markup]:
    doubtful = server.doubtful()
    canaries = [model.canary for model in (*doubtful, *server.models) if model.canary.word] or [Canary()]
    more = f" (and {len(doubtful) - 1} more)" if len(doubtful) > 1 else ""
    return [
        name(server.name, server.url),
        both(mark(server.level, server.state), server.why),
        text(short(server.version)),
        text(whole(server.loaded), _weight(server.models)),
        text(whole(server.installed)),
        _canary(canaries[0], more),
        _looked_at(server.reading, now),
    ]


def _models(status: Status) -> Markup:
    columns = ("Model", "Server", "Size#", "VRAM#", "Context#", "Expires", "Request", "Canary")
    found = [(model, server) for server in status.servers for model in server.models]
    rows = [Row(model.canary.level, _model(model, server)) for model, server in found]
    loaded = [model for model, _ in found if model.loaded]
    note = ", ".join(filter(None, (f"{len(loaded):,} loaded", _weight(loaded))))
    return section("Models", note, columns, rows, "None is known to be loaded.")


def _model(model: Model, server: Server) -> list[Markup]:
    share = f"{model.vram / model.size:.0%}" if model.size and model.vram is not None else size(model.vram)
    return [
        name(model.name),
        name(server.name),
        text(size(model.size) if model.loaded else "not loaded"),
        text(share, size(model.vram) if model.size and model.vram else ""),
        text(whole(model.context)),
        text(model.expires),
        mark("ok", "in flight") if model.busy else Markup(),
        _canary(model.canary),
    ]


def _wrong(status: Status, now: float) -> Markup:
    """Empty when no source fails. Each is told in full, however many they are."""
    columns = ("Server", "Source", "Reason", "Since", "Failures so far#", "What helps~")
    rows = [Row("warn", _of_wrong(wrong)) for wrong in wrongs(status.readings, now)]
    return section("Failing sources", f"{len(rows):,}", columns, rows, "", fold=False) if rows else Markup()


def _of_wrong(wrong: Wrong) -> list[Markup]:
    return [
        name(wrong.server) if wrong.server else text(THIS_MACHINE),
        text(", ".join(wrong.sources)),
        prose(wrong.why),
        text(wrong.since),
        text(whole(wrong.failures)),
        prose(wrong.helps),
    ]


def _gaps(status: Status) -> Markup:
    """Empty when nothing lacks: what cannot be mended here is not worth a heading."""
    columns = ("Source", "Of", "What cannot be seen~", "What would enable it~")
    rows = [Row("ok", _gap(gap)) for gap in status.gaps]
    return section("Not seen", f"{len(rows):,}", columns, rows, "") if rows else Markup()


def _gap(gap: Gap) -> list[Markup]:
    more = f"and {len(gap.servers) - 1:,} more" if len(gap.servers) > 1 else ""
    return [
        name(gap.source),
        name(gap.servers[0], more) if gap.servers else text(THIS_MACHINE),
        prose(gap.lack.what),
        prose(gap.lack.remedy),
    ]


def _sources(status: Status, now: float, view: View) -> Markup:
    servers, here = matrices(status.readings, status.awaited, now)
    if not servers.rows and not here.rows:
        return tag("section", tag("h2", "Sources"), tag("p", "None is configured.", class_="empty"))
    heading = tag("h2", "Sources", tag("small", _LEGEND))
    of_servers = _of_servers(servers, view) if servers.rows else Markup()
    of_machine = table(("Machine", *here.sources), [_states(*row) for row in here.rows]) if here.rows else Markup()
    return tag("section", heading, of_servers, of_machine, class_="sources")


def _of_servers(matrix: Matrix, view: View) -> Markup:
    """Of a large fleet the sums, and those with something wrong; a link leads to all. No refresh closes it."""
    columns = ("Server", *matrix.sources)
    if len(matrix.rows) <= OPEN_ROWS:
        return table(columns, [_states(*row) for row in matrix.rows])
    shown = matrix.rows if view.every_source else matrix.wrong()[:OPEN_ROWS]
    sums = Row("ok", [text(f"{len(matrix.rows):,} servers"), *[text(told) for told in matrix.summed_up()]])
    rows = table(columns, [sums, *[_states(*row) for row in shown]])
    other = replace(view, every_source=not view.every_source)
    words = "Only the sums, and what fails" if view.every_source else f"Show all {len(matrix.rows):,}"
    return Markup(rows + tag("p", tag("a", words, href=other.query()), class_="more"))


def _states(server: str, cells: Sequence[Cell]) -> Row:
    states = [both(mark("none" if cell == OFF else cell.level, cell.word), cell.beneath) for cell in cells]
    return Row("ok", [name(server) if server else text(THIS_MACHINE), *states])


def _searches(status: Status) -> Markup:
    """Empty where nobody is looked for."""
    columns = ("Discovery", "State", "Servers#", "Left out", "Last good look", "Failures so far")
    rows = [Row(search.level, _search(search)) for search in status.searches]
    return section("Discovery", f"{len(rows):,}", columns, rows, "") if rows else Markup()


def _search(search: Search) -> list[Markup]:
    left_out = [f"{whole(count)} × {LEFT_OUT.get(reason, reason)}" for reason, count in search.left_out.items()]
    failures = [f"{whole(count)} × {_reason(reason)}" for reason, count in search.failures.items()]
    return [
        name(search.name),
        mark(search.level, "ok" if search.level == "ok" else "failed"),
        text(whole(search.servers)),
        text(", ".join(left_out)),
        text(search.last_good),
        text(", ".join(failures)),
    ]


def _reason(reason: str) -> str:
    return next((meaning for known, meaning in REASONS.items() if known == reason), reason)


# --- cells -----------------------------------------------------------------------------------------------------------


def _canary(canary: Canary, more: str = "") -> Markup:
    if canary.level == "ok":
        return text(f"{canary.word} {canary.rest}".strip())
    return both(mark(canary.level, canary.word), canary.rest + more)


def _looked_at(reading: Reading, now: float) -> Markup:
    return text(ago(now - reading.at), "late" if late(reading, now) else "")


def _weight(models: Sequence[Model]) -> str:
    sizes = [model.size for model in models if model.size is not None]
    return size(sum(sizes)) if sizes else ""
