"""What Helm and kustomize make of the chart and the kustomizations: cases, tools, and ways to look, for the tests."""

from __future__ import annotations

import copy
import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
CHART = ROOT / "charts" / "ollama-exporter"
KUSTOMIZE = ROOT / "kustomize"
TOOLS = ROOT / ".cache" / "kubetools"

Object = dict[str, Any]

EVERYTHING: Object = {
    "nameOverride": "watcher",
    "commonLabels": {"team": "llm"},
    "image": {"repository": "registry.example.org/ollama-exporter", "pullSecrets": ["pull"]},
    "config": {
        "servers": [
            {"name": "a", "url": "https://a.example.org", "bearer_token_file": "/etc/ollama-exporter/secrets/gw/token"},
            {"name": "b", "url": "http://b:11434", "headers": {"X-Api-Key": "${GATEWAY_KEY}"}},
        ],
        "canary": {"mode": False},
        "web": {"tokens": {"reload_file": "/etc/ollama-exporter/secrets/tokens.v1/reload"}},
    },
    "policy": {"required_models": ["tinyllama"], "max_keep_alive": "1h"},
    "secretFiles": ["gw", "tokens.v1"],
    "envFrom": [{"secretRef": {"name": "gateway-key"}}],
    "extraEnv": [{"name": "OLLAMA_EXPORTER_LOG_FORMAT", "value": "json"}],
    "webConfig": {"existingSecret": "web", "tls": "server"},
    "rbac": {"discovery": True, "namespaces": ["llm", "lab"]},
    "serviceAccount": {"annotations": {"a": "b"}},
    "service": {"type": "NodePort", "port": 9100, "annotations": {"a": "b"}},
    "podLabels": {"x": "y"},
    "podAnnotations": {"x": "y"},
    "nodeSelector": {"kubernetes.io/os": "linux"},
    "tolerations": [{"key": "gpu", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}],
    "priorityClassName": "high",
    "podDisruptionBudget": {"enabled": True, "maxUnavailable": "50%"},
    "networkPolicy": {
        "enabled": True,
        "from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
        "to": [{"namespaceSelector": {}}],
    },
    "serviceMonitor": {
        "enabled": True,
        "labels": {"release": "prometheus"},
        "interval": "15s",
        "scrapeTimeout": "10s",
        "tlsConfig": {"ca": {"secret": {"name": "ca", "key": "ca.crt"}}},
        "basicAuth": {"username": {"name": "scrape", "key": "user"}, "password": {"name": "scrape", "key": "password"}},
        "relabelings": [{"targetLabel": "cluster", "replacement": "one"}],
        "metricRelabelings": [{"action": "drop", "sourceLabels": ["__name__"], "regex": "python_.*"}],
        "sampleLimit": 50000,
    },
    "probe": {
        "enabled": True,
        "module": "default",
        "targets": ["a", "http://c:11434"],
        "targetLabels": {"site": "x"},
        "labels": {"release": "prometheus"},
        "interval": "30s",
        "scrapeTimeout": "20s",
        "tlsConfig": {"insecureSkipVerify": True},
        "basicAuth": {"username": {"name": "scrape", "key": "user"}, "password": {"name": "scrape", "key": "password"}},
        "authorization": {"credentials": {"name": "tokens.v1", "key": "probe"}},
    },
    "prometheusRule": {
        "enabled": True,
        "labels": {"release": "prometheus"},
        "runbooks": "https://wiki.example.org/ollama/",
        "grafana": "https://grafana.example.org",
    },
    "dashboards": {"enabled": True, "annotations": {"grafana_folder": "Ollama"}, "namespace": "grafana"},
}
SIDECARS: Object = {
    "mode": "sidecar",
    "config": {"servers": None, "poll": {"interval": "5s"}},
    "secretFiles": ["gw"],
    "podAnnotations": {"x": "y"},
    "podDisruptionBudget": {"enabled": True},
    "networkPolicy": {"enabled": True, "ollamaFrom": [{"podSelector": {}}]},
    "serviceMonitor": {"enabled": True},
    "ollama": {
        "image": {"digest": "sha256:" + "0" * 64},
        "autoscaled": True,
        "runtimeClassName": "nvidia",
        "resources": {"limits": {"nvidia.com/gpu": 1}},
        "supplementalGroups": [44],
        "extraVolumes": [{"name": "cache", "emptyDir": {}}],
        "extraVolumeMounts": [{"name": "cache", "mountPath": "/cache"}],
        "models": {"existingClaim": "models"},
    },
}
ALL_RULES = {"prometheusRule": {"enabled": True}, "dashboards": {"enabled": True}}
CASES: dict[str, Object] = {
    "defaults": {},
    "everything": EVERYTHING,
    "rules and boards": ALL_RULES,
    "in every namespace": {"rbac": {"discovery": True, "namespaces": ["*"]}, "config": {"servers": None}},
    "in its namespace": {"rbac": {"discovery": True}, "networkPolicy": {"enabled": True}},
    "another's account": {"serviceAccount": {"create": False, "name": "default"}},
    "client certificates": {"webConfig": {"existingSecret": "web", "tls": "mutual"}},
    "sidecar": {"mode": "sidecar"},
    "sidecar, everything": SIDECARS,
}
OVERLAYS = ("base", "overlays/plain", "overlays/prometheus-operator", "overlays/sidecar")


def helm(version: str, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    home = TOOLS / "home"
    return subprocess.run(
        [TOOLS / version, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "HOME": str(home), "KUBECONFIG": os.devnull},
    )


def rendered(values: Object, version: str = "helm4", release: str = "fleet") -> list[Object]:
    return copy.deepcopy(_rendered(json.dumps(values), version, release))


@cache
def _rendered(values: str, version: str, release: str) -> list[Object]:
    done = helm(
        version,
        "template",
        release,
        str(CHART),
        "--namespace",
        "llm",
        "--kube-version",
        "1.31",
        "-f",
        "-",
        stdin=values,
    )
    assert done.returncode == 0, done.stderr
    return [each for each in yaml.load_all(done.stdout, yaml.CSafeLoader) if each]


def built(overlay: str) -> list[Object]:
    return copy.deepcopy(_built(overlay))


@cache
def _built(overlay: str) -> list[Object]:
    done = subprocess.run(
        [TOOLS / "kubectl", "kustomize", KUSTOMIZE / overlay], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # what is deprecated is told there
    return [each for each in yaml.load_all(done.stdout, yaml.CSafeLoader) if each]


def everything_made() -> Iterator[tuple[str, list[Object]]]:
    for name, values in CASES.items():
        yield name, rendered(values)
    for overlay in OVERLAYS:
        yield overlay, built(overlay)


def objects(made: list[Object], kind: str) -> list[Object]:
    return [each for each in made if each["kind"] == kind]


def one(made: list[Object], kind: str, **labels: str) -> Object:
    (found,) = [each for each in objects(made, kind) if labels.items() <= labels_of(each).items()]
    return found


def labels_of(each: Object) -> dict[str, str]:
    found: dict[str, str] = each["metadata"].get("labels", {})
    return found


def pods(made: list[Object]) -> list[Object]:
    """Pods and templates of pods: whatever has `metadata` and a `spec` with containers."""
    workloads = [each for each in made if each["kind"] in ("Deployment", "StatefulSet")]
    return [each["spec"]["template"] for each in workloads] + objects(made, "Pod")


def containers(pod: Object) -> list[Object]:
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


def exporters(made: list[Object]) -> list[Object]:
    return [each for pod in pods(made) for each in containers(pod) if each["name"] == "exporter"]


def chosen(selector: Mapping[str, str], of: list[Object]) -> list[Object]:
    return [each for each in of if selector.items() <= labels_of(each).items()]


def relabelled(promtool: Path, rules: list[Object], labels: Mapping[str, str], scratch: Path) -> dict[str, str]:
    """What Prometheus makes of a target with these labels; nothing where it is dropped."""
    static = {"targets": ["10.0.0.1:8082"], "labels": dict(labels)}
    job = {"job_name": "any", "static_configs": [static], "relabel_configs": rules}
    path = scratch / "sd.yml"
    path.write_text(yaml.safe_dump({"scrape_configs": [job]}))
    done = subprocess.run(
        [promtool, "check", "service-discovery", "--timeout=1s", path, "any"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (target,) = json.loads(done.stdout)
    found: dict[str, str] = target["labels"] or {}
    return {name: value for name, value in found.items() if not name.startswith("__")}
