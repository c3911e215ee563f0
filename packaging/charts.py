"""Writes what the Helm chart and the kustomizations have of other places.

python packaging/charts.py [DIRECTORY]      default: the project

Rules and dashboards are copied, since neither Helm nor kustomize reads files outside of its folder; the schema of
`config` comes from the declarations of the settings; the table in the chart's README from the comments in values.yaml.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import takewhile
from pathlib import Path
from typing import Any

import yaml

from exporter.config.kinds import Kind
from exporter.config.sections import Config

PROJECT = Path(__file__).resolve().parents[1]
CHART = Path("charts/ollama-exporter")
OPERATOR = Path("kustomize/overlays/prometheus-operator")
MARK = "<!-- Below: made of values.yaml by scripts/generate. -->\n"
RULES = ("recording", "alerting")


def main(root: Path) -> None:
    _copy_rules(root)
    _copy_dashboards(root)
    _write_schema(root / CHART / "values.schema.json")
    _write_readme(root / CHART)


# --- rules and dashboards --------------------------------------------------------------------------------------------


def _copy_rules(root: Path) -> None:
    target = _emptied(root / CHART / "files" / "rules")
    for name in RULES:
        text = (root / "alerts" / f"{name}.rules.yml").read_text("utf-8")
        (target / f"{name}.rules.yml").write_text(text, "utf-8")
        resource = {
            "apiVersion": "monitoring.coreos.com/v1",
            "kind": "PrometheusRule",
            "metadata": {"name": f"ollama-exporter-{name}"},
        }
        head = f"# Made of alerts/{name}.rules.yml by scripts/generate.\n" + yaml.safe_dump(resource, sort_keys=False)
        body = "".join(f"  {line}" if line.strip() else line for line in text.splitlines(keepends=True))
        (root / OPERATOR / f"{name}.yaml").write_text(f"{head}spec:\n{body}", "utf-8")


def _copy_dashboards(root: Path) -> None:
    """Without line breaks: `kubectl apply` puts a copy of the ConfigMap into an annotation, which holds 256 KiB, and
    Helm a copy of the release into a Secret, which holds 1 MiB."""
    target = _emptied(root / CHART / "files" / "dashboards")
    boards = sorted((root / "dashboards").glob("ollama-*.json"))
    for board in boards:
        content = json.loads(board.read_text("utf-8"))
        text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
        (target / board.name).write_text(f"{text}\n", "utf-8")
    maps = [
        {"name": f"ollama-dashboard-{board.stem.removeprefix('ollama-')}", "files": [board.name]} for board in boards
    ]
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "generatorOptions": {"disableNameSuffixHash": True, "labels": {"grafana_dashboard": "1"}},
        "configMapGenerator": maps,
    }
    text = yaml.safe_dump(kustomization, sort_keys=False)
    (target / "kustomization.yaml").write_text(f"# Made by scripts/generate.\n{text}", "utf-8")


def _emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


# --- the schema of `config` ------------------------------------------------------------------------------------------


def _write_schema(path: Path) -> None:
    schema = json.loads(path.read_text("utf-8"))
    schema["definitions"]["config"] = _section(Config)
    path.write_text(json.dumps(schema, indent=2, ensure_ascii=False) + "\n", "utf-8")


_TEXTS = ("text", "name", "URL", "url", "unit", "address")


def _section(cls: type) -> dict[str, Any]:
    """Keys and sorts of values; what the values must be like is told by `ollama-exporter check`."""
    declared = {each.name: each.metadata["kind"] for each in fields(cls) if "kind" in each.metadata}
    properties = {name: _kind(kind) for name, kind in declared.items()}
    return {"type": ["object", "null"], "additionalProperties": False, "properties": properties}


def _kind(kind: Kind[Any]) -> dict[str, Any]:
    below: dict[str, Any] = {} if kind.section is None else _section(kind.section)
    if kind.name.startswith("list of"):
        return {"type": "array", "items": below}
    if ": " in kind.name:  # a table, whose keys the operator chooses
        return {"type": ["object", "null"], "additionalProperties": below}
    if kind.name == "mapping" and kind.section is not None:
        return below
    if kind.name == "true \\| false":
        return {"type": "boolean"}
    if " \\| " in kind.name:
        words: list[object] = list(kind.name.split(" \\| "))
        # As YAML reads a bare `on` and `off`.
        return {"enum": words + [word == "on" for word in words if word in ("on", "off")]}
    if kind.name.startswith("whole number"):
        return {"type": "integer"}
    if kind.name.startswith("duration"):
        return {"type": ["string", "number"]}
    return {"type": "string"} if kind.name in _TEXTS or kind.name.startswith("path") else {}


# --- the table of values ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Value:
    """One value of the chart. `default` is None for a mapping whose keys are values themselves."""

    path: str
    comment: str
    default: object


def _write_readme(chart: Path) -> None:
    readme = chart / "README.md"
    text = readme.read_text("utf-8").partition(MARK)[0]
    rows = "".join(
        f"| `{value.path}` | {_shown(value.default)} | {_cell(value.comment)} |\n"
        for value in values((chart / "values.yaml").read_text("utf-8"))
        if value.comment
    )
    readme.write_text(f"{text}{MARK}\n| value | default | |\n|---|---|---|\n{rows}", "utf-8")


def values(text: str) -> Iterator[Value]:
    """What values.yaml has, in its order. A mapping is a value of its own, unless there are comments in it, too."""
    content = yaml.safe_load(text)
    lines = text.splitlines()
    comment: list[str] = []
    path: list[tuple[int, str]] = []
    within: int | None = None
    for number, line in enumerate(lines):
        stripped, indent = line.strip(), len(line) - len(line.lstrip())
        if stripped.startswith("#"):
            comment.append(stripped.removeprefix("#").strip())
            continue
        key = re.match(r"([A-Za-z][A-Za-z0-9]*):", stripped)
        if key and (within is None or indent <= within):
            path = [*(each for each in path if each[0] < indent), (indent, key[1])]
            names = [name for _, name in path]
            parent = any("#" in below for below in _block(lines[number + 1 :], indent))
            within = None if parent else indent
            yield Value(".".join(names), " ".join(comment), None if parent else _at(content, names))
        comment = []


def _block(lines: Sequence[str], indent: int) -> Iterator[str]:
    return takewhile(lambda line: len(line) - len(line.lstrip()) > indent, lines)


def _at(content: Any, names: list[str]) -> Any:
    for name in names:
        content = content[name]
    return content


def _shown(default: object) -> str:
    return "" if default is None else f"`{_cell(json.dumps(default, ensure_ascii=False))}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else PROJECT)
