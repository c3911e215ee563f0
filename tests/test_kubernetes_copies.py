"""What the chart and the kustomizations have of other places, and of each other, is the same as there: settings, rules,
boards, versions."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator

from exporter import __version__
from exporter.config import Config, load
from tests.kube import (
    ALL_RULES,
    CASES,
    CHART,
    EVERYTHING,
    KUSTOMIZE,
    OVERLAYS,
    ROOT,
    Object,
    built,
    exporters,
    labels_of,
    objects,
    one,
    pods,
    rendered,
)

pytestmark = pytest.mark.usefixtures("kubetools")

RULES = ("recording", "alerting")
BOARDS = sorted((ROOT / "dashboards").glob("ollama-*.json"))


# --- the configuration -----------------------------------------------------------------------------------------------


def configured(made: list[Object], scratch: Path) -> Config:
    """As the exporter of these objects would read it."""
    (container,) = exporters(made)
    (volume,) = [
        each["configMap"]["name"]
        for pod in pods(made)
        for each in pod["spec"].get("volumes", [])
        if "configMap" in each
    ]
    (files,) = [each["data"] for each in objects(made, "ConfigMap") if each["metadata"]["name"] == volume]
    for path in ("secrets/gw/token", "secrets/tokens.v1/reload"):
        (scratch / path).parent.mkdir(parents=True, exist_ok=True)
        (scratch / path).write_text("0123456789abcdef")
    (scratch / "config").mkdir()
    for name, text in files.items():
        (scratch / "config" / name).write_text(text.replace("/etc/ollama-exporter/", f"{scratch}/"))
    env = {each["name"]: each.get("value", "ollama-0").replace("$(POD_NAME)", "ollama-0") for each in container["env"]}
    assert env.pop("OLLAMA_EXPORTER_CONFIG_FILE") == "/etc/ollama-exporter/config/exporter.yml"
    env.pop("OLLAMA_EXPORTER_WEB_CONFIG_FILE", None)
    return load(str(scratch / "config" / "exporter.yml"), {**env, "GATEWAY_KEY": "x"})


@pytest.mark.parametrize("case", CASES)
def test_the_exporter_accepts_what_the_chart_writes(case: str, tmp_path: Path) -> None:
    config = configured(rendered(CASES[case]), tmp_path)
    sidecar = case.startswith("sidecar")
    assert config.host.enabled is sidecar
    assert [server.url for server in config.servers if sidecar] == ["http://127.0.0.1:11434"] * sidecar
    assert [server.name for server in config.servers if sidecar] == ["ollama-0"] * sidecar
    if case == "everything":
        assert config.canary.mode == "off"
        assert config.audit.policy_file is not None
        assert config.web.tokens.reload_file is not None


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_exporter_accepts_what_kustomize_writes(overlay: str, tmp_path: Path) -> None:
    assert len(configured(built(overlay), tmp_path).servers) == 1


def test_the_schema_of_the_values_knows_every_setting() -> None:
    text = (ROOT / "exporter.example.yml").read_text("utf-8")
    every = yaml.safe_load(re.sub(r"(?m)^( *)#(?=\S|  )", r"\1", text))
    schema = json.loads((CHART / "values.schema.json").read_text("utf-8"))
    validator = Draft7Validator({**schema["definitions"]["config"], "definitions": schema["definitions"]})
    assert [error.message for error in validator.iter_errors(every)] == []
    assert every.keys() == schema["definitions"]["config"]["properties"].keys()


# --- rules and boards ------------------------------------------------------------------------------------------------


def rules_of(made: list[Object]) -> dict[str, Any]:
    return {each["metadata"]["name"].rpartition("-")[2]: each["spec"] for each in objects(made, "PrometheusRule")}


def test_the_rules_are_those_of_alerts(tmp_path: Path, promtool: Path) -> None:
    written = {name: yaml.safe_load((ROOT / "alerts" / f"{name}.rules.yml").read_text("utf-8")) for name in RULES}
    assert rules_of(rendered(ALL_RULES)) == written
    assert rules_of(built("overlays/prometheus-operator")) == written
    for name, spec in rules_of(rendered(EVERYTHING)).items():
        (tmp_path / f"{name}.yml").write_text(yaml.safe_dump(spec))
    done = subprocess.run(
        [promtool, "check", "rules", *tmp_path.iterdir()], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_links_of_alerts_lead_to_the_operators_own_pages() -> None:
    text = json.dumps(rules_of(rendered(EVERYTHING)))
    assert "https://wiki.example.org/ollama/runbooks.md#" in text
    assert "https://grafana.example.org/d/" in text
    assert "ollama-exporter.example" not in text
    assert "localhost:3000" not in text


def test_the_boards_are_those_of_dashboards_and_may_be_applied() -> None:
    written = {board.name: json.loads(board.read_text("utf-8")) for board in BOARDS}
    for made in (rendered(ALL_RULES), built("overlays/prometheus-operator")):
        maps = [each for each in objects(made, "ConfigMap") if labels_of(each).get("grafana_dashboard") == "1"]
        assert {name: json.loads(text) for each in maps for name, text in each["data"].items()} == written
        assert len(maps) == len(BOARDS)
        # `kubectl apply` keeps its copy in an annotation.
        assert max(len(json.dumps(each)) for each in maps) < 256 * 1024


def test_what_is_generated_is_in_step(tmp_path: Path) -> None:
    kept = [CHART, KUSTOMIZE]
    for folder in kept:
        shutil.copytree(folder, tmp_path / folder.relative_to(ROOT))
    for path in (*BOARDS, *(ROOT / "alerts").glob("*.rules.yml")):
        (tmp_path / path.parent.name).mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / path.parent.name)
    shutil.rmtree(tmp_path / "charts/ollama-exporter/files")
    subprocess.run([sys.executable, ROOT / "packaging" / "charts.py", tmp_path], check=True)
    for folder in kept:
        for path in (path for path in folder.rglob("*") if path.is_file()):
            same = (tmp_path / path.relative_to(ROOT)).read_bytes() == path.read_bytes()
            assert same, f"{path} is not in step: run scripts/generate"


# --- one thing, written twice ----------------------------------------------------------------------------------------


def test_the_version_is_the_exporters() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text("utf-8"))
    assert chart["appVersion"] == __version__
    for made in (rendered({}), rendered({"mode": "sidecar"}), *(built(overlay) for overlay in OVERLAYS)):
        assert {each["image"] for each in exporters(made)} == {f"ollama-exporter:{__version__}"}


@pytest.mark.parametrize(("overlay", "values"), [("base", {}), ("overlays/sidecar", {"mode": "sidecar"})])
def test_helm_and_kustomize_run_the_same_pod(overlay: str, values: Object) -> None:
    (by_helm,) = [pod["spec"] for pod in pods(rendered(values, release="ollama")) if pod.get("kind") != "Pod"]
    (by_kustomize,) = [pod["spec"] for pod in pods(built(overlay))]
    for spec in (by_helm, by_kustomize):
        spec["serviceAccountName"] = ""
        for volume in spec["volumes"]:
            if "configMap" in volume:
                volume["configMap"]["name"] = ""
    assert by_helm == by_kustomize


def test_helm_and_kustomize_have_the_same_scrape() -> None:
    monitors = rendered({"serviceMonitor": {"enabled": True}}), built("overlays/prometheus-operator")
    by_helm, by_kustomize = (one(made, "ServiceMonitor")["spec"]["endpoints"] for made in monitors)
    assert by_helm == by_kustomize


def test_every_value_has_a_comment_and_a_place_in_the_schema() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text("utf-8"))
    values = yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))
    told = set(re.findall(r"(?m)^\| `([\w.]+)` \|", (CHART / "README.md").read_text("utf-8")))
    assert values.keys() == schema["properties"].keys() - {"global"}
    for path, value in leaves(values, schema["properties"]):
        assert any(path == each or path.startswith(f"{each}.") for each in told), path
        assert value is not None


def leaves(values: Object, properties: Object, path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        assert key in properties, f"{path}{key} is not in the schema"
        below = properties[key].get("properties")
        if below is not None and isinstance(value, dict):
            assert value.keys() <= below.keys()
            assert value.keys() == below.keys() or path + key == "resources", (
                f"{path}{key} lacks {below.keys() - value.keys()}"
            )
            yield from leaves(value, below, f"{path}{key}.")
        else:
            yield path + key, value
