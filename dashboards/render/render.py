#!/usr/bin/env python3
"""Pictures of the dashboards, drawn with Grafana's component library: `render.py --prometheus URL OUT board.json ...`.

Asks Prometheus what each panel asks, hands the answers to a page built from `page.jsx`, and lets a headless Chromium
take the picture. See README.md for what is Grafana's and what is not.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

HERE = Path(__file__).resolve().parent
BUILD = HERE / "build"
ICONS = HERE / "node_modules" / "@grafana" / "ui" / "dist" / "public"
WIDTH, EDGE, CELL, GAP = 1600, 16, 30, 8
HEADER = 64

_SPANS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def seconds(span: str) -> int:
    """`15m` as seconds."""
    found = re.fullmatch(r"(\d+)([smhdw])", span)
    if not found:
        raise argparse.ArgumentTypeError(f"{span}: expected a number and one of s, m, h, d, w, such as 15m")
    return int(found[1]) * _SPANS[found[2]]


@dataclass(frozen=True, slots=True)
class View:
    """What one looks at: which Prometheus, when, and what is chosen in the variables."""

    prometheus: str
    start: float
    end: float
    scrape_seconds: int
    chosen: Mapping[str, str]


def ask(view: View, path: str, **parameters: object) -> Any:
    query = urllib.parse.urlencode(parameters).encode()
    try:
        with urllib.request.urlopen(f"{view.prometheus}/api/v1/{path}", query, timeout=30) as answer:  # noqa: S310
            return json.load(answer)["data"]["result"]
    except urllib.error.HTTPError as error:
        message = json.load(error).get("error", error.reason)
        print(f"{parameters['query']}: {message}", file=sys.stderr)
        return []


def interval(view: View, start: float, width: float, least: str) -> int:
    """$__interval in seconds: one point per pixel, no shorter than the scrape interval or what the panel asks for."""
    steps = (1, 2, 5, 10, 15, 20, 30, 60, 120, 300, 600, 900, 1200, 1800, 3600, 7200, 10800, 21600, 43200, 86400)
    wanted = (view.end - start) / width
    rounded = next((step for step in steps if step >= wanted), steps[-1])
    return max(rounded, seconds(least.lstrip(">")) if least else 0, view.scrape_seconds)


def filled_in(expr: str, variables: Mapping[str, str], step: int, view: View, start: float) -> str:
    known = {
        **variables,
        "__interval": f"{step}s",
        "__rate_interval": f"{max(step + view.scrape_seconds, 4 * view.scrape_seconds)}s",
        "__range": f"{int(view.end - start)}s",
        "__range_s": f"{int(view.end - start)}",
    }
    return re.sub(r"\$(?:\{(\w+)(?::\w+)?\}|(\w+))", lambda found: known[found[1] or found[2]], expr)


def variables_of(board: Mapping[str, Any], view: View) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """What stands for each variable in a query, and what the header shows."""
    values, shown = dict[str, str](), list[tuple[str, str]]()
    for variable in board["templating"]["list"]:
        name = variable["name"]
        if variable["type"] == "datasource":
            value, text = "prometheus", "Prometheus"
        elif name in view.chosen:
            value = text = view.chosen[name]
        elif variable.get("includeAll"):
            value, text = variable.get("allValue") or ".*", "All"
        else:
            value, text = variable["current"]["value"], variable["current"]["text"]
        values[name] = value
        if not variable.get("hide"):
            shown.append((variable.get("label") or name, text))
    return values, shown


def answers(panel: Mapping[str, Any], variables: Mapping[str, str], view: View) -> list[dict[str, Any]]:
    start = view.end - seconds(panel["timeFrom"]) if panel.get("timeFrom") else view.start
    column = (WIDTH - 2 * EDGE - 23 * GAP) / 24
    width = panel["gridPos"]["w"] * (column + GAP)
    step = interval(view, start, width, panel.get("interval") or "")
    aligned, end = start // step * step, view.end // step * step
    found = []
    for target in panel.get("targets", []):
        expr = filled_in(target["expr"], variables, step, view, start)
        if target.get("instant"):
            result = ask(view, "query", query=expr, time=view.end)
        else:
            result = ask(view, "query_range", query=expr, start=aligned, end=end, step=step)
        found.append(
            {"target": target, "result": result, "step": step, "from": aligned, "to": end, "shown_from": start}
        )
    return found


def annotations(board: Mapping[str, Any], variables: Mapping[str, str], view: View) -> Iterable[dict[str, Any]]:
    """Samples that follow each other at the annotation's step are one span, as in Grafana."""
    for annotation in board["annotations"]["list"]:
        if not annotation.get("enable") or "expr" not in annotation:
            continue
        step = seconds(annotation.get("step") or "60s")
        expr = filled_in(annotation["expr"], variables, step, view, view.start)
        spans = list[list[float]]()
        start, end = view.start // step * step, view.end // step * step
        for series in ask(view, "query_range", query=expr, start=start, end=end, step=step):
            begun = len(spans)
            for at, value in series["values"]:
                if float(value) == 0:
                    continue
                if len(spans) > begun and at - spans[-1][1] <= step:
                    spans[-1][1] = at
                else:
                    spans.append([at, at])
        yield {"name": annotation["name"], "colour": annotation["iconColor"], "spans": spans}


def page(board: Mapping[str, Any], view: View) -> str:
    variables, shown = variables_of(board, view)
    data = {
        "dashboard": board,
        "variables": shown,
        "from": view.start,
        "to": view.end,
        "answers": {panel["id"]: answers(panel, variables, view) for panel in board["panels"]},
        "annotations": list(annotations(board, variables, view)),
    }
    style = (BUILD / "page.css").read_text()
    words = json.dumps(data).replace("</", "<\\/")  # or a text could end the element that it stands in
    return "\n".join((
        '<!doctype html><meta charset="utf-8"><title>board</title>',
        f"<style>{style} body{{margin:0}}</style><div id=board></div>",
        f"<script>window.BOARD = {words}; window.__grafana_public_path__ = '/public/'</script>",
        '<script src="/build/page.js"></script>',
    ))  # fmt: skip


class _Files(SimpleHTTPRequestHandler):
    """The page of a board, the bundle, and the icons of Grafana's component library."""

    folder: ClassVar[Path]

    def translate_path(self, path: str) -> str:
        for start, folder in (("/build/", BUILD), ("/public/build/", ICONS), ("/", self.folder)):
            if path.startswith(start):
                return super().translate_path(path.removeprefix(start[:-1])).replace(self.directory, str(folder), 1)
        raise ValueError(path)

    def log_message(self, format: str, *args: object) -> None:
        pass


def picture(page: str, target: Path, height: int, chromium: str) -> None:
    with tempfile.TemporaryDirectory() as profile:
        subprocess.run(
            [
                chromium, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--hide-scrollbars",
                "--disable-background-networking", "--disable-component-update", "--disable-sync",
                f"--user-data-dir={profile}", f"--window-size={WIDTH},{height}", "--virtual-time-budget=8000",
                "--enable-logging=stderr", f"--screenshot={target}", page,
            ],
            check=True, capture_output=not os.environ.get("RENDER_VERBOSE"), timeout=120,
        )  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of the pictures")
    parser.add_argument("boards", type=Path, nargs="+", help="dashboards, as JSON")
    parser.add_argument("--prometheus", default="http://localhost:9090", metavar="URL")
    parser.add_argument("--range", type=seconds, default=900, metavar="SPAN", help="how far back to look (15m)")
    parser.add_argument("--end", type=float, default=None, metavar="UNIX_TIME", help="until when (now)")
    parser.add_argument("--scrape-interval", type=seconds, default=15, metavar="SPAN", help="of that Prometheus (15s)")
    parser.add_argument("--choose", action="append", default=[], metavar="NAME=VALUE", help="a variable's value")
    parser.add_argument("--chromium", default=shutil.which("chromium") or "chromium")
    given = parser.parse_args(arguments)

    end = given.end or time.time()
    chosen = dict(one.split("=", 1) for one in given.choose)
    view = View(given.prometheus.rstrip("/"), end - given.range, end, given.scrape_interval, chosen)
    subprocess.run(["node", "build.mjs"], cwd=HERE, check=True)
    given.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        _Files.folder = Path(folder)
        server = ThreadingHTTPServer(("127.0.0.1", 0), _Files)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for path in given.boards:
            board = json.loads(path.read_text())
            html = Path(folder) / f"{board['uid']}.html"
            html.write_text(page(board, view))
            rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in board["panels"])
            target = (given.out / f"{board['uid']}.png").resolve()
            picture(
                f"http://127.0.0.1:{server.server_port}/{html.name}",
                target,
                HEADER + rows * (CELL + GAP) + EDGE,
                given.chromium,
            )
            print(target)
        server.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
