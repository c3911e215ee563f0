"""The examples of autoscaling ask for what there is, are told it whole or not at all, and decide alike."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import kubernetes_validate
import promql_parser
import pytest
import yaml

from exporter import catalog
from tests import crds
from tests.kube import (
    CHART,
    ROOT,
    Object,
    one,
    rendered,
)

EXAMPLES = ROOT / "autoscaling"
NEWEST = "1.37"


def scaled() -> Object:
    found: Object = yaml.safe_load((EXAMPLES / "scaledobject.yaml").read_text("utf-8"))
    return found


def question() -> str:
    text: str = scaled()["spec"]["triggers"][0]["metadata"]["query"]
    return text


@pytest.mark.usefixtures("kubetools")
def test_keda_knows_every_key_of_its_example() -> None:
    assert crds.mistakes(scaled()) == []
    wrong = scaled()
    wrong["spec"]["triggers"][0]["metadataa"] = wrong["spec"]["triggers"][0].pop("metadata")
    wrong["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"]["policies"] = {}
    wrong["spec"]["maxReplicaCount"] = "8"
    assert len(crds.mistakes(wrong)) == 4  # one too many, one missing, two of a wrong type


def test_kubernetes_knows_every_key_of_its_example() -> None:
    kubernetes_validate.validate(yaml.safe_load((EXAMPLES / "hpa.yaml").read_text("utf-8")), NEWEST, strict=True)


@pytest.mark.usefixtures("kubetools")
def test_both_examples_ask_the_same_and_decide_alike() -> None:
    keda, hpa = scaled()["spec"], yaml.safe_load((EXAMPLES / "hpa.yaml").read_text("utf-8"))["spec"]
    (rule,) = yaml.safe_load((EXAMPLES / "adapter.yaml").read_text("utf-8"))["rules"]["external"]
    assert rule["metricsQuery"] == question()
    metric = hpa["metrics"][0]["external"]
    assert metric["metric"]["name"] == rule["name"]["as"]
    assert metric["target"] == {"type": keda["triggers"][0]["metricType"], "averageValue": "800m"}
    assert keda["triggers"][0]["metadata"]["threshold"] == "0.8"
    assert hpa["behavior"] == keda["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    assert hpa["scaleTargetRef"] == keda["scaleTargetRef"]
    assert (hpa["minReplicas"], hpa["maxReplicas"]) == (keda["minReplicaCount"], keda["maxReplicaCount"])
    stateful = one(rendered({"mode": "sidecar", "ollama": {"autoscaled": True}}, release="ollama"), "StatefulSet")
    assert stateful["metadata"]["name"] == hpa["scaleTargetRef"]["name"]
    assert "replicas" not in stateful["spec"]
    kept = {each["name"]: each for each in yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))["ollama"]["env"]}
    assert kept["OLLAMA_KEEP_ALIVE"]["value"] == "10m"
    assert hpa["behavior"]["scaleDown"]["stabilizationWindowSeconds"] > 600


def test_the_examples_ask_only_for_what_is_recorded_or_exported() -> None:
    recorded = yaml.safe_load((ROOT / "alerts/recording.rules.yml").read_text("utf-8"))["groups"]
    known = {rule["record"] for group in recorded for rule in group["rules"]} | {each.name for each in catalog.FAMILIES}
    (rule,) = yaml.safe_load((EXAMPLES / "adapter.yaml").read_text("utf-8"))["rules"]["external"]
    for query in (question(), rule["metricsQuery"], rule["seriesQuery"]):
        promql_parser.parse(query)
        assert set(re.findall(r"\b(?:\w+:)?ollama_[\w:]+(?=[{\s)]|$)", query)) <= known


def fleet(**servers: tuple[float, float, float, float, float]) -> list[Object]:
    """Series of servers: up, loaded models, slots, busy ones, waiting requests; negative: not seen."""
    names = (
        "ollama_up", "ollama_loaded_models", "ollama_runner_slots", "ollama_runner_slots_busy",
        "ollama_sockets_waiting_requests_estimate",
    )  # fmt: skip
    return [
        {"series": f'{name}{{job="ollama",instance="ollama/ollama-{n}",server="{server}"}}', "values": f"{value}x20"}
        for n, (server, values) in enumerate(servers.items())
        for name, value in zip(names, values, strict=True)
        if value >= 0
    ]


@pytest.mark.parametrize(
    ("series", "work"),
    [
        (fleet(a=(1, 0, -1, -1, 0)), 0.0),
        (fleet(a=(1, 1, 4, 2, 0), b=(1, 1, 20, 10, 0)), 1.0),
        (fleet(a=(1, 1, 4, 4, 0), b=(1, 1, 4, 4, 0)), 2.0),
        (fleet(a=(1, 1, 4, 4, 4), b=(1, 1, 4, 4, 4)), 4.0),
        (fleet(a=(1, 1, 4, 4, 0), b=(1, 1, -1, -1, 0)), None),
        (fleet(a=(1, 1, 4, 4, 0), b=(1, 1, 4, 4, -1)), None),
        (fleet(a=(1, 1, 4, 4, 2), b=(0, -1, -1, -1, -1)), 1.5),
        (fleet(a=(1, 1, 4, 4, 0), b=(1, 0, -1, -1, 0)), 1.0),
        ([], None),
    ],
    ids=[
        "idle",
        "half full",
        "full",
        "full and waiting",
        "no runner seen",
        "no queue seen",
        "one down",
        "one idle",
        "none",
    ],
)
def test_work_is_told_whole_or_not_at_all(
    series: list[Object], work: float | None, tmp_path: Path, promtool: Path
) -> None:
    samples = [] if work is None else [{"labels": "{}", "value": work}]
    test = {
        "interval": "30s",
        "input_series": series,
        "promql_expr_test": [{"expr": question(), "eval_time": "5m", "exp_samples": samples}],
    }
    document = {"rule_files": [str(ROOT / "alerts/recording.rules.yml")], "evaluation_interval": "30s", "tests": [test]}
    path = tmp_path / "work.yml"
    path.write_text(yaml.safe_dump(document))
    done = subprocess.run([promtool, "test", "rules", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
