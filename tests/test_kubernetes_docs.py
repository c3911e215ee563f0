"""What docs/kubernetes.md and the READMEs tell people to type can be typed."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.kube import CHART, KUSTOMIZE, OVERLAYS, ROOT, TOOLS, exporters, helm, objects, pods, relabelled, rendered

pytestmark = pytest.mark.usefixtures("kubetools")

PAGES = (ROOT / "docs/kubernetes.md", ROOT / "autoscaling/README.md", CHART / "README.md")


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"(?ms)^```{language}\n(.*?)^```", page.read_text("utf-8"))


def block(page: Path, language: str, mark: str) -> str:
    (found,) = [each for each in blocks(page, language) if mark in each]
    return found


def installs() -> list[str]:
    lines = [line for page in PAGES for each in blocks(page, "sh") for line in each.replace("\\\n", "").splitlines()]
    return [line for line in lines if line.startswith("helm install")]


@pytest.mark.parametrize("line", installs())
def test_the_helm_commands_work(line: str, tmp_path: Path) -> None:
    (tmp_path / "fleet.yaml").write_text(block(PAGES[0], "yaml", "fleet.yaml"))
    words = shlex.split(line.replace("fleet.yaml", str(tmp_path / "fleet.yaml")))
    done = helm("helm4", "template", *(word for word in words[2:] if word != "--create-namespace"))
    assert done.returncode == 0, done.stderr


def test_every_value_that_is_named_exists() -> None:
    schema = yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))
    named = {
        name for page in PAGES for name in re.findall(r"[`\s]([a-zA-Z]+(?:\.[a-zA-Z]+)+)[`=:]", page.read_text("utf-8"))
    }
    values = {name for name in named if name.split(".")[0] in schema and name.split(".")[0] not in ("config", "image")}
    assert len(values) > 10
    for name in values - {"probe.targets"}:
        below = schema
        for part in name.split("."):
            assert part in below, name
            below = below[part]


def test_the_scrape_configuration_finds_the_exporter(tmp_path: Path, promtool: Path) -> None:
    (job,) = yaml.safe_load(block(PAGES[0], "yaml", "scrape_configs"))["scrape_configs"]
    assert job["job_name"] == "ollama"
    assert job["kubernetes_sd_configs"] == [{"role": "endpointslice"}]
    (service,) = objects(rendered({}, release="ollama-exporter"), "Service")
    meta = {
        "namespace": "llm",
        "service_name": service["metadata"]["name"],
        "service_label_app_kubernetes_io_name": service["metadata"]["labels"]["app.kubernetes.io/name"],
        "endpointslice_port_name": service["spec"]["ports"][0]["name"],
    }
    for port, instance in (("metrics", {"instance": "llm/ollama-exporter", "job": "any"}), ("other", {})):
        labels = {
            f"__meta_kubernetes_{name}": value for name, value in {**meta, "endpointslice_port_name": port}.items()
        }
        assert relabelled(promtool, job["relabel_configs"], labels, tmp_path) == instance
    assert meta["endpointslice_port_name"] == "metrics"


def test_an_overlay_of_ones_own_can_be_built(tmp_path: Path) -> None:
    shutil.copytree(KUSTOMIZE, tmp_path / "ollama-exporter/kustomize")
    shutil.copytree(CHART / "files", tmp_path / "ollama-exporter/charts/ollama-exporter/files")
    (tmp_path / "kustomization.yaml").write_text(block(PAGES[0], "yaml", "kustomization.yaml"))
    (tmp_path / "exporter.yml").write_text("servers: [{url: 'http://mine:11434'}]")
    done = subprocess.run([TOOLS / "kubectl", "kustomize", tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    made = [each for each in yaml.safe_load_all(done.stdout) if each]
    assert [each["image"] for each in exporters(made)] == ["registry.example.org/ollama-exporter:0.1.0"]
    (pod,) = pods(made)
    (volume,) = pod["spec"]["volumes"]
    (config,) = [each for each in objects(made, "ConfigMap") if each["metadata"]["name"] == volume["configMap"]["name"]]
    assert "http://mine:11434" in config["data"]["exporter.yml"]


def test_every_overlay_is_told_of() -> None:
    text = PAGES[0].read_text("utf-8")
    for overlay in OVERLAYS[1:]:
        assert f"kubectl apply -k kustomize/{overlay}" in text


def test_the_table_of_autoscaling_is_what_the_threshold_makes() -> None:
    text = PAGES[1].read_text("utf-8")
    rows = re.findall(r"(?m)^\| [^|]+ \| ([0-9.]+) \| ([0-9]+) \|$", text)
    assert len(rows) == 4
    for work, replicas in rows:
        assert max(1, -(-round(float(work) * 10) // 8)) == int(replicas)
