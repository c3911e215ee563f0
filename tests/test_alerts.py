"""The rules ask only for what exists, every alert has a test and a runbook, and people are told what they should be."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from exporter import catalog, environment, ollamalog
from exporter.local.vigil import WHYS
from exporter.model import Family
from exporter.sources import SOURCES
from exporter.sources.api import STATES
from exporter.sources.canary import OUTCOMES, SKIPS
from exporter.sources.docker import HEALTH
from exporter.sources.gpu import CAUSES, THROTTLING
from exporter.sources.logs import KNOWN_STATUSES
from exporter.sources.own import LEFT_OUT, PROBE_REFUSALS

ROOT = Path(__file__).resolve().parents[1]
ALERTS = ROOT / "alerts"
RULES = (ALERTS / "recording.rules.yml", ALERTS / "alerting.rules.yml")
PROMTOOL_TESTS = sorted((ALERTS / "tests").glob("*.yml"))
ALERTMANAGERS = (ALERTS / "alertmanager.yml", ALERTS / "alertmanager.example.yml")
NEWER = ROOT / ".cache" / "promtools" / "usr" / "bin"
STABLE = ROOT / ".cache" / "alertmanager" / "usr" / "bin"


def _rules(kind: str) -> list[dict[str, Any]]:
    documents = (yaml.safe_load(path.read_text("utf-8")) for path in RULES)
    return [rule for document in documents for group in document["groups"] for rule in group["rules"] if kind in rule]


RECORDED, ALERTING = _rules("record"), _rules("alert")
NAMES = sorted({rule["alert"] for rule in ALERTING})


def _ids(rule: dict[str, Any]) -> str:
    labels = rule.get("labels", {})
    return " ".join(
        [rule.get("record") or rule["alert"], *(labels[k] for k in ("phase", "severity", "long") if k in labels)]
    )


# --- promtool --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def newer_tools() -> Path:
    """Prometheus 3 and a new Alertmanager out of Debian's archive. Without them: said aloud, and under CI a failure if
    the archive has them."""
    if not (NEWER / "promtool").exists():
        if os.environ.get("CI") == "true":
            done = subprocess.run([ROOT / "scripts" / "promtools"], capture_output=True, text=True, check=False)
            if done.returncode not in (0, 3):
                pytest.fail(done.stderr)
        if not (NEWER / "promtool").exists():
            pytest.skip("NO PROMETHEUS 3: run scripts/promtools. The rules were tested with the older promtool alone.")
    return NEWER


@pytest.fixture(scope="module", params=["installed", "newer"])
def each_promtool(request: pytest.FixtureRequest) -> Path:
    name = "promtool" if request.param == "installed" else "newer_tools"
    found: Path = request.getfixturevalue(name)
    return found if name == "promtool" else found / "promtool"


def test_both_promtools_find_nothing_in_the_rules(each_promtool: Path) -> None:
    _run(each_promtool, "check", "rules", "--lint=all", *RULES)


@pytest.fixture(scope="module")
def judged(each_promtool: Path, request: pytest.FixtureRequest) -> Iterator[dict[Path, Future[str]]]:
    """All files that this run asks for, begun at once and the longest first; each test waits for its own."""
    items = [item for item in request.session.items if item.path == request.path and hasattr(item, "callspec")]
    asked = {item.callspec.params["path"] for item in items if "judged" in item.fixturenames}
    longest_first = sorted(asked, key=lambda path: (path.stem not in _LONG, path))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield {path: pool.submit(_run, each_promtool, "test", "rules", path, nice=19) for path in longest_first}


_LONG = {"objectives", "quiet", "hosts", "objectives-days", "models-days", "fleet-days"}


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("path", PROMTOOL_TESTS, ids=lambda path: path.stem)
def test_both_promtools_see_each_alert_fire_and_fall_silent(path: Path, judged: dict[Path, Future[str]]) -> None:
    judged[path].result()


def _run(*command: object, nice: int = 0) -> str:
    """`nice`: with less priority, for what is in no hurry while tests run beside it that may be."""
    given = ["nice", "-n", str(nice), *map(str, command)]
    done = subprocess.run(given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# --- everything is in step -------------------------------------------------------------------------------------------


def test_what_is_committed_is_what_the_generator_writes(tmp_path: Path) -> None:
    _run(sys.executable, ALERTS / "src", tmp_path)
    written = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.yml"))
    generated = {path.relative_to(ALERTS) for path in (*RULES, *PROMTOOL_TESTS)}
    assert set(written) == generated
    for path in written:
        assert (tmp_path / path).read_text("utf-8") == (ALERTS / path).read_text("utf-8"), path


def test_every_alert_speaks_and_falls_silent_in_a_test() -> None:
    spoken: set[tuple[str, str, str]] = set()
    silent: set[str] = set()
    for test in _promtool_tests():
        for check in test.get("alert_rule_test", ()):
            for found in check["exp_alerts"]:
                labels = found["exp_labels"]
                spoken.add((check["alertname"], labels["severity"], labels.get("long", "")))
            if not check["exp_alerts"]:
                silent.add(check["alertname"])
    assert spoken == {(rule["alert"], rule["labels"]["severity"], rule["labels"].get("long", "")) for rule in ALERTING}
    assert silent == set(NAMES) - {"Watchdog"}


def test_nothing_but_the_watchdog_speaks_at_any_minute_of_a_quiet_fleet() -> None:
    scenes = [test for test in _promtool_tests() if test["name"].startswith("nothing fires")]
    assert len(scenes) >= 8
    for scene in scenes:
        (check,) = scene["promql_expr_test"]
        minutes = check["eval_time"]
        assert check["expr"] == f'sum_over_time(ALERTS{{alertstate="firing"}}[{minutes}:1m] offset 1s)'
        (watchdog,) = check["exp_samples"]
        assert 'alertname="Watchdog"' in watchdog["labels"]
        assert watchdog["value"] == int(minutes.removesuffix("m"))


def _promtool_tests() -> Iterator[dict[str, Any]]:
    for path in PROMTOOL_TESTS:
        yield from yaml.safe_load(path.read_text("utf-8"))["tests"]


def test_every_alert_has_a_runbook_with_all_its_parts() -> None:
    text = (ROOT / "docs" / "runbooks.md").read_text("utf-8")
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
    assert sorted(sections) == NAMES
    for name, section in sections.items():
        for part in ("**Users**", "**Look**", "**Likely**", "**Do**", "**Over**"):
            assert part in section, f"{name} lacks {part}"


def test_queries_in_the_runbooks_ask_for_what_exists() -> None:
    text = (ROOT / "docs" / "runbooks.md").read_text("utf-8")
    queries = re.findall(r"^```promql\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert len(queries) >= len(NAMES) - 2
    for query in queries:
        _ask_for_what_exists(query)


def test_readme_lists_every_alert_with_its_severity() -> None:
    text = (ALERTS / "README.md").read_text("utf-8")
    for rule in ALERTING:
        assert re.search(rf"^\| `{rule['alert']}` \|.*\b{rule['labels']['severity']}\b", text, re.MULTILINE), rule[
            "alert"
        ]


@pytest.mark.parametrize("rule", ALERTING, ids=_ids)
def test_an_alert_says_who_should_do_what(rule: dict[str, Any]) -> None:
    labels, annotations = rule["labels"], rule["annotations"]
    severity = labels["severity"]
    assert severity in ({"none"} if rule["alert"] == "Watchdog" else {"critical", "warning", "info"})
    assert set(annotations) == {"summary", "description", "runbook_url", "dashboard_url"}
    assert "{{" not in annotations["summary"], "one sentence that a whole group can share"
    assert annotations["summary"].endswith(".")
    assert annotations["runbook_url"].endswith(f"/docs/runbooks.md#{rule['alert'].lower()}")
    assert re.match(r"http://localhost:3000/d/ollama-[a-z]+(\?var-\w+=|$)", annotations["dashboard_url"])
    if rule["alert"] != "Watchdog":
        assert "$labels." in annotations["description"]


@pytest.mark.parametrize("rule", ALERTING, ids=_ids)
def test_templates_name_only_labels_that_the_alert_carries(rule: dict[str, Any]) -> None:
    carried = _carried(promql_parser.parse(rule["expr"])) | set(rule["labels"])
    used = set(re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values())))
    assert used <= carried


# --- nothing is asked that does not exist ----------------------------------------------------------------------------

_TARGET = {"job", "instance"}
_LEVELS = {
    "job": {"job"},
    "server": {*_TARGET, "server"},
    "model": {*_TARGET, "server", "model"},
    "host": {*_TARGET, "host"},
    "gpu": {*_TARGET, "host", "gpu"},
}
_VOCABULARIES = {
    "outcome": set(OUTCOMES),
    "reason": {*SKIPS, *PROBE_REFUSALS, *(reason for reason, _ in THROTTLING), *LEFT_OUT, *WHYS},
    "state": set(STATES),
    "source": set(SOURCES),
    "process": {"serve", "runner"},
    "phase": {"queue", "load", "prompt", "generate"},
    "status": set(KNOWN_STATUSES),
    "kind": {*ollamalog.OCCURRENCES, *ollamalog.MISFIT_KINDS},
    "health": set(HEALTH),
    "cause": set(CAUSES),
    "error": {"corrected", "uncorrected"},
    "problem": set(environment.PROBLEMS),
}

USE_A_MODEL = set(ollamalog.INFERENCE)
"""What a pattern of endpoints means. /v1/models is a read, and counted elsewhere."""


def _labels_of() -> dict[str, set[str]]:
    known: dict[str, set[str]] = {"up": set(_TARGET), "ALERTS": {"alertname", "alertstate"}}
    for family in catalog.FAMILIES:
        labels = {*_TARGET, *family.labels}
        if family.kind == "histogram":
            known |= {f"{family.name}_{part}": labels for part in ("sum", "count")}
            known[f"{family.name}_bucket"] = {*labels, "le"}
        else:
            known[family.name] = labels
    for rule in RECORDED:
        level = rule["record"].split(":")[0]
        labels = {"job", "model"} if rule["record"] == "model:ollama_digests:count" else _LEVELS[level]
        known[rule["record"]] = {*labels, *rule.get("labels", {})}
    return known


PASSED = {family.name for family in catalog.PASSED}
LABELS = _labels_of()
HISTOGRAMS = {f"{family.name}_bucket": family for family in catalog.FAMILIES if family.kind == "histogram"}
COUNTERS = {family.name for family in catalog.FAMILIES if family.kind == "counter"} | {
    f"{family.name}_{part}" for family in HISTOGRAMS.values() for part in ("bucket", "count", "sum")
}


@pytest.mark.parametrize("rule", [*RECORDED, *ALERTING], ids=_ids)
def test_a_rule_asks_only_for_families_and_labels_that_exist(rule: dict[str, Any]) -> None:
    _ask_for_what_exists(rule["expr"])


def _ask_for_what_exists(expr: str) -> None:
    tree = promql_parser.parse(expr)
    for selector in _selectors(tree):
        assert selector.name in LABELS, f"{selector.name} does not exist"
        for matcher in selector.matchers.matchers:
            assert matcher.name in LABELS[selector.name], f"{selector.name} has no label {matcher.name}"
            _assert_values_exist(selector.name, matcher.name, matcher.value)
    for node in _nodes(tree):
        if isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None:
            for selector in _selectors(node.expr):
                assert set(node.modifier.labels) <= LABELS[selector.name], f"{selector.name} in {node}"


def _assert_values_exist(family: str, label: str, value: str) -> None:
    if label == "le":
        assert value in {str(float(bound)) for bound in HISTOGRAMS[family].buckets}, f"{family} has no bucket {value}"
    if label == "api_endpoint":
        every = {*ollamalog.ENDPOINTS, *ollamalog.READS}
        assert value in every or {name for name in every - {"/v1/models"} if re.fullmatch(value, name)} == USE_A_MODEL
    elif label in _VOCABULARIES:
        assert set(value.split("|")) <= _VOCABULARIES[label], value


@pytest.mark.parametrize("rule", [*RECORDED, *ALERTING], ids=_ids)
def test_counters_stand_under_a_rate_and_no_gauge_does(rule: dict[str, Any]) -> None:
    # `== 0` and the presence of a series need no rate; no rule here asks for them of a counter.
    for node in _nodes(promql_parser.parse(rule["expr"])):
        if isinstance(node, promql_parser.Call) and node.func.name in ("rate", "increase"):
            assert {selector.name for selector in _selectors(node)} <= COUNTERS
    assert _bare(promql_parser.parse(rule["expr"])) & COUNTERS == set()


def _bare(node: Any) -> set[str]:
    """Selectors that no rate is above."""
    if isinstance(node, promql_parser.Call) and node.func.name in ("rate", "increase"):
        return set()
    if isinstance(node, promql_parser.VectorSelector):
        return {node.name}
    return {name for child in _children(node) for name in _bare(child)}


@pytest.mark.parametrize("rule", RECORDED, ids=_ids)
def test_a_recorded_series_has_the_labels_of_its_level(rule: dict[str, Any]) -> None:
    carried = _carried(promql_parser.parse(rule["expr"])) | set(rule.get("labels", {}))
    assert carried == LABELS[rule["record"]]


def _carried(node: Any) -> set[str]:
    """The labels that an expression leaves."""
    if isinstance(node, promql_parser.VectorSelector):
        return LABELS[node.name]
    if isinstance(node, promql_parser.AggregateExpr):
        return set(node.modifier.labels) if node.modifier else set()
    if isinstance(node, promql_parser.BinaryExpr):
        sides = [side for side in (node.lhs, node.rhs) if not _is_scalar(side)]
        return _carried(sides[0]) if sides else set()
    if isinstance(node, promql_parser.Call) and node.func.name == "absent":
        return {m.name for s in _selectors(node) for m in s.matchers.matchers}
    children = [child for child in _children(node) if not _is_scalar(child)]
    return _carried(children[0]) if children else set()


def _is_scalar(node: Any) -> bool:
    return not any(True for _ in _selectors(node))


def test_series_in_the_tests_are_what_an_exporter_shows() -> None:
    for name in {found["series"] for test in _promtool_tests() for found in test["input_series"]}:
        selector = promql_parser.parse(name)
        labels = {matcher.name: matcher.value for matcher in selector.matchers.matchers}
        # An empty label is none: these are sources of no server.
        optional = {"server"} if labels.get("source") in ("host", "exporter", "gpu") else set()
        optional |= {"exported_server", "reason"} if selector.name in PASSED else set()
        assert set(labels) | optional == LABELS[selector.name] | optional, name
        for label, value in labels.items():
            _assert_values_exist(selector.name, label, value)


def _selectors(node: Any) -> Iterator[Any]:
    return (found for found in _nodes(node) if isinstance(found, promql_parser.VectorSelector))


def _nodes(node: Any) -> Iterator[Any]:
    yield node
    for child in _children(node):
        yield from _nodes(child)


def _children(node: Any) -> list[Any]:
    found = [getattr(node, name, None) for name in ("lhs", "rhs", "expr", "vector_selector", "param")]
    return [child for child in found if child is not None] + list(getattr(node, "args", None) or [])


# --- burn rates ------------------------------------------------------------------------------------------------------

_PAIRS = {
    ("1h", "5m"): (14.4, "2m", "critical"),
    ("6h", "30m"): (6.0, "15m", "critical"),
    ("1d", "2h"): (3.0, "1h", "warning"),
    ("3d", "6h"): (1.0, "3h", "warning"),
}
_BUDGETS = {
    "OllamaAvailabilityBudgetBurn": ("job:ollama_unavailable:ratio", 0.001),
    "OllamaSuccessBudgetBurn": ("job:ollama_request_errors:ratio_rate", 0.01),
    "OllamaFirstTokenOver2sBudgetBurn": ("job:ollama_ttft_over_2s:ratio_rate", 0.05),
    "OllamaFirstTokenOver5sBudgetBurn": ("job:ollama_ttft_over_5s:ratio_rate", 0.01),
}


def test_burn_rates_are_those_of_the_table() -> None:
    seen = set()
    for rule in ALERTING:
        labels = rule["labels"]
        if "long" not in labels:
            continue
        ratio, budget = _BUDGETS[rule["alert"]]
        factor, lasts, severity = _PAIRS[labels["long"], labels["short"]]
        for window in (labels["long"], labels["short"]):
            assert f"{ratio}_{window} > {factor:g} * {budget:g}\n" in rule["expr"] + "\n"
        assert (rule["for"], labels["severity"]) == (lasts, severity)
        seen.add((rule["alert"], labels["long"]))
    assert seen == {(name, long) for name in _BUDGETS for long, _ in _PAIRS}


def test_buckets_contain_the_objectives() -> None:
    family: Family = catalog.CANARY_TTFT
    assert {2.0, 5.0} <= set(family.buckets)


# --- who is told -----------------------------------------------------------------------------------------------------


def _amtools() -> list[Path]:
    installed = [path for path in (shutil.which("amtool"), STABLE / "amtool", NEWER / "amtool") if path]
    return [Path(path) for path in installed if Path(path).exists()]


@pytest.fixture(scope="module")
def amtools() -> list[Path]:
    found = _amtools()
    if not found:
        message = "NO AMTOOL: run scripts/promtools. Alertmanager's files were not checked."
        pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)
    return found


@pytest.mark.parametrize("path", ALERTMANAGERS, ids=lambda path: path.name)
def test_alertmanager_takes_its_file(path: Path, amtools: list[Path]) -> None:
    for amtool in amtools:
        _run(amtool, "check-config", path)


@pytest.mark.parametrize("path", ALERTMANAGERS, ids=lambda path: path.name)
def test_amlint_finds_nothing(path: Path) -> None:
    amlint = Path(sys.executable).with_name("amlint")
    if not amlint.exists():
        message = "NO AMLINT: it is in the dev extra"
        pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)
    assert "No issues found" in _run(amlint, "check", path)


@pytest.mark.parametrize("path", ALERTMANAGERS, ids=lambda path: path.name)
@pytest.mark.parametrize(
    ("labels", "receiver"),
    [
        ("alertname=Watchdog severity=none", "dead-mans-switch"),
        ("alertname=OllamaServerDown severity=critical server=gpu1 job=ollama", "pager"),
        ("alertname=OllamaSuccessBudgetBurn severity=critical long=1h job=ollama", "pager"),
        ("alertname=OllamaSuccessBudgetBurn severity=warning long=3d job=ollama", "tickets"),
        ("alertname=OllamaModelThrash severity=warning server=gpu1 job=ollama", "tickets"),
        ("alertname=OllamaVersionSkew severity=info job=ollama", "digest"),
    ],
    ids=lambda value: value.split()[0].removeprefix("alertname="),
)
def test_an_alert_reaches_who_should_hear_it(path: Path, labels: str, receiver: str, amtools: list[Path]) -> None:
    for amtool in amtools:
        told = _run(amtool, "config", "routes", "test", f"--config.file={path}", *labels.split())
        assert told.split() == [receiver]


def test_an_alert_of_no_known_severity_reaches_somebody(amtools: list[Path]) -> None:
    for path, receiver in zip(ALERTMANAGERS, ("operators", "tickets"), strict=True):
        told = _run(amtools[0], "config", "routes", "test", f"--config.file={path}", "alertname=Else", "severity=odd")
        assert told.split() == [receiver]


def test_a_lost_rack_is_one_message() -> None:
    for path in ALERTMANAGERS:
        routes = yaml.safe_load(path.read_text("utf-8"))["route"]
        assert routes["routes"][0]["matchers"] == ['alertname = "Watchdog"'], "the dead man's switch comes first"
        for route in (routes, *routes["routes"]):
            assert not {"server", "instance", "model"} & set(route.get("group_by", ()))


def test_both_files_inhibit_alike_and_name_alerts_that_exist() -> None:
    rules, example = (yaml.safe_load(path.read_text("utf-8"))["inhibit_rules"] for path in ALERTMANAGERS)
    assert rules == example
    for rule in rules:
        assert rule["equal"]
        for matcher in rule["source_matchers"] + rule["target_matchers"]:
            assert set(re.findall(r"Ollama\w+", matcher)) <= set(NAMES)


def test_secrets_come_from_files() -> None:
    text = "".join(path.read_text("utf-8") for path in ALERTMANAGERS)
    assert not re.search(r"(password|api_url|token|routing_key|service_key):", text)
