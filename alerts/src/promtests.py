"""Turns cases and quiet fleets into the files that promtool reads."""

from __future__ import annotations

from typing import Any

import alerting
import cases
import inside_cases
import quiet
import recorded_cases
import rules
from cases import Case, Says, Series
from recorded_cases import Expected

Document = dict[str, Any]


def documents() -> dict[str, Document]:
    """promtool knows one evaluation interval for each file: incidents that take days have files of their own."""
    made = {}
    for name, members in (cases.FILES | inside_cases.FILES).items():
        for step, suffix in ((1, ""), (4, "-days")):
            if tests := [_test(case) for case in members if case.step == step]:
                made[name + suffix] = _document(tests, step)
    made["recorded"] = _document([_recorded(case) for case in recorded_cases.EXPECTED], 1)
    return made | {"quiet": _document([_quiet(*scene) for scene in quiet.SCENES], 1)}


def _document(tests: list[Document], step: int) -> Document:
    # Recording rules first, or an alert would see what was recorded one evaluation ago, or sometimes not.
    order = [group.name for group in rules.recorded()] + [name for name, _ in rules.groups_of_alerts()]
    files = ["../recording.rules.yml", "../alerting.rules.yml"]
    return {"rule_files": files, "evaluation_interval": f"{step}m", "group_eval_order": order, "tests": tests}


def _test(case: Case) -> Document:
    checks: list[tuple[int, tuple[Says, ...]]] = [*((minute, ()) for minute in case.silent), *case.speaks]
    return {
        "name": f"{case.alert}: {case.story}",
        "interval": "1m",
        "input_series": _input(case.series),
        "alert_rule_test": [
            {
                "eval_time": f"{minute}m",
                "alertname": case.alert,
                "exp_alerts": [_expected(case.alert, said) for said in says],
            }
            for minute, says in sorted(checks)
        ],
    }


def _recorded(case: Expected) -> Document:
    labels = ",".join(f'{name}="{value}"' for name, value in case.labels)
    return {
        "name": f"{case.name}: {case.story}",
        "interval": "1m",
        "input_series": _input(case.series),
        "promql_expr_test": [
            {
                "expr": case.name,
                "eval_time": f"{minute}m",
                "exp_samples": [] if value is None else [{"labels": f"{case.name}{{{labels}}}", "value": value}],
            }
            for minute, value in case.values
        ],
    }


def _quiet(name: str, series: tuple[Series, ...], minutes: int) -> Document:
    """Of all minutes from the first to the last: the Watchdog spoke, and nothing else did."""
    watchdog = {"labels": '{alertname="Watchdog",alertstate="firing",severity="none"}', "value": minutes}
    counted = f'sum_over_time(ALERTS{{alertstate="firing"}}[{minutes}m:1m] offset 1s)'
    return {
        "name": f"nothing fires: {name}",
        "interval": "1m",
        "input_series": _input(series),
        "promql_expr_test": [{"expr": counted, "eval_time": f"{minutes}m", "exp_samples": [watchdog]}],
    }


def _input(series: tuple[Series, ...]) -> list[Document]:
    return [{"series": name, "values": values} for name, values in series]


def _expected(name: str, said: Says) -> Document:
    rule = next(a for a in rules.alerts() if a.name == name and _matches(a, said))
    variables = "&".join(f"var-{key}={said.labels.get(key, '')}" for key in rule.carries if key != "instance")
    return {
        "exp_labels": {"severity": rule.severity, **dict(rule.extra), **said.labels},
        "exp_annotations": {
            "summary": rule.summary,
            "description": said.description,
            "runbook_url": f"{alerting.RUNBOOKS}#{name.lower()}",
            "dashboard_url": f"{alerting.GRAFANA}/d/{rule.dashboard}" + (f"?{variables}" if variables else ""),
        },
    }


def _matches(alert: alerting.Alert, said: Says) -> bool:
    return said.severity in ("", alert.severity) and said.extra in ((), alert.extra)
