"""A file of promtool's tests as several, each of one alert with the rules that it is made of.

promtool evaluates every rule at every step, and most of them say nothing of the alert that a test asks for. What an
alert says follows from its own rules, and from those that record what they ask for; the others cannot change it.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

Document = dict[str, Any]


def narrowed(path: Path, rule_files: Sequence[Path], folder: Path) -> list[Path]:
    """The tests of `path`, written into `folder`. A file that asks for series stays as it is: they could be any."""
    text = path.read_text("utf-8")
    if "promql_expr_test" in text:
        return [path]
    document = yaml.safe_load(text)
    groups = _groups(tuple(rule_files))
    by_alert = itertools.groupby(sorted(document["tests"], key=_alert), _alert)
    return [_written(document, groups, alert, list(tests), folder) for alert, tests in by_alert]


@cache
def _groups(rule_files: tuple[Path, ...]) -> list[Document]:
    return [group for file in rule_files for group in yaml.safe_load(file.read_text("utf-8"))["groups"]]


def _alert(test: Document) -> str:
    (alert,) = {check["alertname"] for check in test["alert_rule_test"]}
    return str(alert)


def _written(document: Document, groups: Sequence[Document], alert: str, tests: list[Document], folder: Path) -> Path:
    rules, file = folder / f"{alert}.rules.yml", folder / f"{alert}.yml"
    kept = list(_made_of(alert, groups))
    rules.write_text(json.dumps({"groups": kept}), "utf-8")
    there = {group["name"] for group in kept}
    order = [name for name in document["group_eval_order"] if name in there]
    file.write_text(
        json.dumps({**document, "rule_files": [str(rules)], "group_eval_order": order, "tests": tests}), "utf-8"
    )
    return file


def _made_of(alert: str, groups: Sequence[Document]) -> Iterator[Document]:
    """The groups with the rules of the alert, and with those that it needs."""
    rules = [rule for group in groups for rule in group["rules"]]
    wanted, needed = {alert}, set[str]()
    while wanted:
        needed |= wanted
        wanted = {name for rule in rules if _name(rule) in needed for name in _words(rule)} - needed
    for group in groups:
        if kept := [rule for rule in group["rules"] if _name(rule) in needed]:
            yield {**group, "rules": kept}


def _name(rule: Mapping[str, Any]) -> str:
    return str(rule.get("record") or rule["alert"])


def _words(rule: Mapping[str, Any]) -> set[str]:
    """Everything that could be the name of a series: too much does no harm. Alerts themselves are a series, too."""
    words = set(re.findall(r"[a-zA-Z_:][\w:]*", " ".join([rule["expr"], *rule.get("annotations", {}).values()])))
    assert not words & {"ALERTS", "ALERTS_FOR_STATE", "__name__"}, "what this needs cannot be told by names"
    return words
