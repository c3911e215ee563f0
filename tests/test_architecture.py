"""Imports point down only, and each outside library lives behind the modules that are named here."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "exporter"

# The rooms, from the bottom up. A module may import from rows below its own, and from the modules listed beside it.
ROWS: tuple[frozenset[str], ...] = (
    frozenset({"model", "logs", "threads", "deadline", "connection"}),
    frozenset({"catalog", "relabel", "text", "loop"}),
    frozenset(
        {
            "ollama",
            "llama",
            "native",
            "ollamalog",
            "tails",
            "dockerd",
            "environment",
            "meter",
            "config",
            "store",
            "local",
            "sources",
            "simulator",
        }
    ),
    frozenset({"fleet", "exposition", "series", "discovery", "gaps", "webconfig", "negotiation"}),
    frozenset({"webauth", "listening", "probing"}),
    frozenset({"web", "status", "check", "loadtest"}),
    frozenset({"demo"}),
    frozenset({"app"}),
    frozenset({"__main__"}),
)
SIDEWAYS = {
    ("sources", "ollama"),
    ("sources", "llama"),
    ("sources", "native"),
    ("sources", "local"),
    ("sources", "meter"),
    ("sources", "ollamalog"),
    ("sources", "tails"),
    ("sources", "dockerd"),
    ("sources", "environment"),
    ("tails", "dockerd"),
    ("web", "status"),
}
LIBRARIES = {
    "prometheus_client": {"text", "native", "loadtest/page"},
    "httpx": {
        "ollama",
        "connection",
        "sources/__init__",
        "probing/exchanges",
        "simulator/transport",
        "discovery/http",
    },
    "re2": {"relabel"},
    "dns": {"discovery/dns"},
    "kubernetes": {"discovery/kubernetes"},
    "urllib3": {"discovery/kubernetes"},
    "h11": {"llama", "listening"},
    "httptools": {"connection", "loadtest/wire"},
    "psutil": {"local/processes", "sources/host", "sources/own"},
    "pynvml": {"sources/gpu"},
    "bcrypt": {"webauth"},
    "isal": {"web"},
    "yaml": {"config/document"},
    "starlette": {"web", "negotiation", "listening", "status", "simulator/http", "simulator/server"},
    "uvicorn": {"listening", "simulator/server", "loadtest/publish"},
    "rich": {"loadtest/terminal", "loadtest/session", "loadtest/capacity", "loadtest/cli"},
}


def modules() -> list[tuple[str, Path]]:
    return [(path.relative_to(PACKAGE).with_suffix("").as_posix(), path) for path in sorted(PACKAGE.rglob("*.py"))]


def imports(path: Path) -> set[str]:
    """Dotted names of everything a file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative imports hide the direction"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def room(name: str) -> str:
    return name.split("/", maxsplit=1)[0]


def row(name: str) -> int:
    places = [place for place, row in enumerate(ROWS) if name in row]
    assert places, f"exporter/{name} stands in no row: give it its place in this test"
    return places[0]


@pytest.mark.parametrize(("name", "path"), modules(), ids=lambda value: value if isinstance(value, str) else "")
def test_imports_point_down_only(name: str, path: Path) -> None:
    if name == "__init__":
        return
    own = room(name)
    for dotted in imports(path):
        parts = dotted.split(".")
        if parts[0] != "exporter" or parts[1:2] in ([], ["__version__"]):
            continue
        other = parts[1]
        if other == own:
            continue
        assert row(other) < row(own) or (own, other) in SIDEWAYS, f"exporter/{name} may not import {dotted}"


def test_sources_never_import_each_other() -> None:
    for name, path in modules():
        if room(name) == "sources" and name != "sources/__init__":
            own = f"exporter.sources.{name.split('/')[1]}."
            theirs = {d for d in imports(path) if d.startswith("exporter.sources") and not d.startswith(own)}
            assert not theirs, f"exporter/{name} imports {theirs}"


def test_the_simulator_stands_alone() -> None:
    for name, path in modules():
        if room(name) == "simulator":
            theirs = {d for d in imports(path) if d.startswith("exporter.") and not d.startswith("exporter.simulator")}
            assert not theirs, f"exporter/{name} imports {theirs}"


@pytest.mark.parametrize("library", LIBRARIES)
def test_each_library_lives_behind_its_modules(library: str) -> None:
    users = {name for name, path in modules() if library in {dotted.split(".")[0] for dotted in imports(path)}}
    assert users <= LIBRARIES[library], f"{library} is imported by {sorted(users - LIBRARIES[library])} too"


def test_what_few_need_is_imported_only_where_it_is_used() -> None:
    for name, path in modules():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        top = {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
        top |= {node.module or "" for node in tree.body if isinstance(node, ast.ImportFrom)}
        dear = {"docker", "dns", "kubernetes", "urllib3", "re2"} & {dotted.split(".")[0] for dotted in top}
        assert not dear, f"exporter/{name} pays for {dear} at start"
