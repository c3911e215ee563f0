"""What the rules make of the samples of an incident, as a real promtool sees it.

promtool has no command that tells when alerts fired. Its tests tell it when they fail: they are asked questions whose
expected answer is nothing, and what they got instead is read.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import yaml

from tests.incidents.samples import RULES

_GROUPS = [group["name"] for path in RULES for group in yaml.safe_load(path.read_text("utf-8"))["groups"]]
_FIRING = 'ALERTS{alertstate="firing",alertname!="Watchdog"}'
_QUESTIONS = {
    "first": f"min_over_time(timestamp({_FIRING})[SPAN])",
    "last": f"max_over_time(timestamp({_FIRING})[SPAN])",
    "count": f"count_over_time({_FIRING}[SPAN])",
}
_LISTEN_EVERY = 5
"""Minutes between two looks at what the alerts say."""
_UNSAID = ("job", "instance", "alertname", "alertstate", "severity", "short")
_LABELS = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_VECTOR = re.compile(r"\{([^}]*)\} ([-+\dE.]+)")
_ALERT = re.compile(r"^\s*Labels:\{(.*)\}\n\s*Annotations:\{(.*)\}$", re.MULTILINE)

Key = str
"""Severity, name, and the values of the labels that tell what it is about, in the order of the labels' names."""


@dataclass(frozen=True, slots=True)
class Told:
    """An alert that fired: seconds of the first and of the last evaluation at which it did, whether it did all the time
    between, and what it said (the first time that it was listened to)."""

    key: Key
    first: float
    last: float
    steady: bool
    said: str


@dataclass(frozen=True, slots=True)
class Question:
    series: tuple[tuple[str, str], ...]
    scrape: float
    step: int
    until: int  # minutes
    listen_to: frozenset[str]  # names of alerts


def ask(promtool: Path, question: Question, folder: Path) -> tuple[Told, ...]:
    """Every alert that fired, by key. Raises AssertionError with what promtool says when it cannot answer."""
    path = folder / "incident.yml"
    path.write_text(json.dumps(_document(question)), encoding="utf-8")
    done = subprocess.run([promtool, "test", "rules", path], capture_output=True, text=True, check=False)
    answers = _answers(done.stdout + done.stderr)
    said = _said(done.stdout + done.stderr)
    assert done.returncode == 0 or answers.get("count"), done.stdout[:2000] + done.stderr[:2000]
    first, last, count = (answers.get(name, {}) for name in _QUESTIONS)
    return tuple(
        Told(key, first[key], last[key], count[key] == (last[key] - first[key]) / question.step + 1, said.get(key, ""))
        for key in sorted(count)
    )


def _document(question: Question) -> dict[str, object]:
    span = f"{question.until}m:{question.step}s"
    asked = [{"expr": text.replace("SPAN", span), "eval_time": f"{question.until}m"} for text in _QUESTIONS.values()]
    heard = [
        {"eval_time": f"{minute}m", "alertname": name}
        for name in sorted(question.listen_to)
        for minute in range(_LISTEN_EVERY, question.until + 1, _LISTEN_EVERY)
        if minute * 60 % question.step == 0
    ]
    return {
        "rule_files": [str(path) for path in RULES],
        "evaluation_interval": f"{question.step}s",
        "group_eval_order": _GROUPS,
        "tests": [
            {
                "interval": f"{question.scrape:g}s",
                "input_series": [{"series": name, "values": values} for name, values in question.series],
                "promql_expr_test": asked,
                "alert_rule_test": heard,
            }
        ],
    }


def _answers(output: str) -> dict[str, dict[Key, float]]:
    """Of each question the values by alert. Those to which nothing was found are not there: nothing was expected."""
    found = {}
    for name, text in _QUESTIONS.items():
        start = text.split("[")[0].replace('"', '\\"')
        match = re.search(rf'expr: "{re.escape(start)}.*?got: (.*?)$', output, re.DOTALL | re.MULTILINE)
        if match is not None:
            found[name] = {_key(labels): float(value) for labels, value in _VECTOR.findall(match[1])}
    return found


def _said(output: str) -> dict[Key, str]:
    said: dict[Key, str] = {}
    for labels, texts in _ALERT.findall(output):
        said.setdefault(_key(labels), json.loads(f'"{dict(_LABELS.findall(texts))["description"]}"'))
    return said


def _key(text: str) -> Key:
    labels = dict(_LABELS.findall(text))
    about = [value for name, value in sorted(labels.items()) if name not in _UNSAID]
    return " ".join([labels["severity"], labels["alertname"], *about])


def names(keys: Iterable[Key]) -> frozenset[str]:
    return frozenset(key.split()[1] for key in keys)
