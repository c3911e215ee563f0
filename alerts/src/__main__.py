"""Writes the rules and the tests that are made of other things.

python alerts/src [DIRECTORY]      default: alerts/
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import promtests
import rules
import yaml


class _Dumper(yaml.SafeDumper):
    """Expressions and descriptions of several lines as blocks, lists set in."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def write(path: Path, title: str, content: dict[str, Any]) -> None:
    """Whole or not at all: somebody may be reading."""
    body = yaml.dump(content, Dumper=_Dumper, sort_keys=False, width=1000, allow_unicode=True)
    fresh = path.with_suffix(f".{os.getpid()}")
    fresh.write_text(f"# {title}\n# Made by `python alerts/src`; change it there.\n{body}", encoding="utf-8")
    fresh.replace(path)


def main(directory: Path) -> None:
    write(
        directory / "recording.rules.yml",
        "What dashboards and alerts ask: availability, requests, first tokens, queues, slots, models, hosts.",
        {"groups": [group.as_yaml() for group in rules.recorded()]},
    )
    write(
        directory / "alerting.rules.yml",
        "Alerts. Each has a heading in docs/runbooks.md and a test in tests/.",
        {
            "groups": [
                {"name": name, "rules": [a.as_yaml() for a in members]} for name, members in rules.groups_of_alerts()
            ]
        },
    )
    (directory / "tests").mkdir(exist_ok=True)
    for name, document in promtests.documents().items():
        write(directory / "tests" / f"{name}.yml", f"promtool test rules alerts/tests/{name}.yml", document)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parents[1])
