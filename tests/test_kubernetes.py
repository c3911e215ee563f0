"""The Helm chart and the kustomizations: what the real tools make of them, held against Kubernetes' own schemas,
against models that others generate of the Prometheus Operator's kinds, and against what the exporter is.

No cluster was at hand: what one would make of the objects was not seen.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
import shutil
from pathlib import Path
from typing import Any, cast

import kubernetes_validate
import pytest
import yaml

from exporter import __version__
from exporter.web import create_app
from tests import crds
from tests.kube import (
    ALL_RULES,
    CASES,
    CHART,
    EVERYTHING,
    ROOT,
    Object,
    built,
    chosen,
    containers,
    everything_made,
    exporters,
    helm,
    labels_of,
    objects,
    one,
    pods,
    relabelled,
    rendered,
)

pytestmark = pytest.mark.usefixtures("kubetools")

OLDEST, NEWEST = "1.29", "1.37"


# --- Helm ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["helm3", "helm4"])
@pytest.mark.parametrize("case", CASES)
def test_helm_finds_nothing_in_the_chart(version: str, case: str) -> None:
    done = helm(version, "lint", "--strict", "--quiet", str(CHART), "-f", "-", stdin=json.dumps(CASES[case]))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("case", CASES)
def test_both_helms_make_the_same(case: str) -> None:
    assert rendered(CASES[case], "helm3") == rendered(CASES[case], "helm4")


@pytest.mark.parametrize(
    ("case", "kinds"),
    [
        ("defaults", "ConfigMap Deployment Pod Service ServiceAccount"),
        ("another's account", "ConfigMap Deployment Pod Service"),
        ("in every namespace", "ClusterRole ClusterRoleBinding ConfigMap Deployment Pod Service ServiceAccount"),
        ("in its namespace", "ConfigMap Deployment NetworkPolicy Pod Role RoleBinding Service ServiceAccount"),
        ("client certificates", "ConfigMap Deployment Service ServiceAccount"),
        ("sidecar", "ConfigMap Pod Service ServiceAccount StatefulSet"),
    ],
)
def test_only_what_is_asked_for_is_made(case: str, kinds: str) -> None:
    assert sorted({each["kind"] for each in rendered(CASES[case])}) == kinds.split()


def test_all_that_can_be_asked_for_is_made() -> None:
    made = {each["kind"] for each in rendered(EVERYTHING)}
    assert made == {
        "ConfigMap", "Deployment", "NetworkPolicy", "PodDisruptionBudget", "Probe", "PrometheusRule", "Role",
        "RoleBinding", "Service", "ServiceAccount", "ServiceMonitor",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"imagee": {}}, "imagee"),
        ({"image": {"tagg": "1"}}, "tagg"),
        ({"image": {"digest": "0.1.0"}}, "digest"),
        ({"mode": "daemonset"}, "mode"),
        ({"config": {"serverz": []}}, "serverz"),
        ({"config": {"servers": [{"name": "a", "uri": "http://a"}]}}, "uri"),
        ({"config": {"canary": {"mode": "sometimes"}}}, "mode"),
        ({"service": {"port": 0}}, "port"),
        ({"envFrom": [{"secret": {"name": "x"}}]}, "envFrom"),
        ({"webConfig": {"tls": "server"}}, "existingSecret"),
        ({"secretFiles": ["Not A Name"]}, "secretFiles"),
        ({"serviceMonitor": {"interval": "fifteen"}}, "interval"),
        ({"mode": "sidecar", "rbac": {"discovery": True}}, "rbac.discovery is for mode central"),
        ({"mode": "sidecar", "probe": {"enabled": True, "targets": ["a"]}}, "probe.enabled is for mode central"),
        ({"probe": {"enabled": True}}, "probe.enabled needs probe.targets"),
    ],
)
@pytest.mark.parametrize("version", ["helm3", "helm4"])
def test_a_mistake_in_the_values_is_refused(values: Object, says: str, version: str) -> None:
    done = helm(version, "template", "fleet", str(CHART), "-f", "-", stdin=json.dumps(values))
    assert done.returncode != 0
    assert says in done.stderr


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({}, "One exporter at http://fleet-ollama-exporter.llm.svc:8082/metrics"),
        (
            {"webConfig": {"existingSecret": "web", "tls": "server"}},
            "https://fleet-ollama-exporter.llm.svc:8082/metrics",
        ),
        ({"mode": "sidecar"}, "1 Ollama at http://fleet-ollama.llm.svc:11434"),
        ({"config": {"servers": None}}, "It has no servers"),
        ({}, "Nothing scrapes it yet"),
        ({}, "without a registry"),
    ],
)
def test_the_notes_tell_where_to_look_and_what_is_missing(values: Object, says: str, tmp_path: Path) -> None:
    """Helm shows notes only where it has a cluster: here they are made a template."""
    chart = shutil.copytree(CHART, tmp_path / "chart", ignore=shutil.ignore_patterns("files"))
    notes = (CHART / "templates" / "NOTES.txt").read_text("utf-8")
    (chart / "templates" / "_notes.tpl").write_text(f'{{{{ define "notes" }}}}{notes}{{{{ end }}}}')
    (chart / "templates" / "notes.yaml").write_text('{kind: Notes, text: {{ include "notes" . | toJson }}}')
    command = ("template", "fleet", str(chart), "--namespace", "llm", "--show-only", "templates/notes.yaml", "-f", "-")
    done = helm("helm4", *command, stdin=json.dumps(values))
    assert done.returncode == 0, done.stderr
    assert says in yaml.safe_load(done.stdout)["text"]


def test_kubernetes_that_cannot_do_sidecars_is_refused() -> None:
    done = helm("helm4", "template", "fleet", str(CHART), "--kube-version", "1.28")
    assert "incompatible with Kubernetes" in done.stderr


def test_a_release_fits_into_the_secret_that_helm_keeps_it_in() -> None:
    """JSON, the files in base64; then gzip, and base64 once more. A Secret holds 1 MiB."""
    files = [
        path for path in CHART.rglob("*") if path.is_file() and path.name not in ("README.md", "kustomization.yaml")
    ]
    chart = [{"name": str(path), "data": base64.b64encode(path.read_bytes()).decode()} for path in files]
    manifest = "---\n".join(yaml.safe_dump(each) for each in rendered(ALL_RULES))
    release = json.dumps({"chart": {"files": chart}, "manifest": manifest}).encode()
    assert len(base64.b64encode(gzip.compress(release))) < 0.8 * 2**20


# --- what is made ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_kubernetes_knows_every_key(version: str) -> None:
    for _, made in everything_made():
        for each in made:
            if each["apiVersion"] not in crds.MODELS:
                kubernetes_validate.validate(each, version, strict=True)


def test_the_operator_knows_every_key() -> None:
    seen = set()
    for name, made in everything_made():
        for each in made:
            if each["apiVersion"] in crds.MODELS:
                assert crds.mistakes(each) == [], name
                seen.add(each["kind"])
    assert seen == {"ServiceMonitor", "Probe", "PrometheusRule"}


@pytest.mark.parametrize(
    ("kind", "where", "key", "value"),
    [
        ("ServiceMonitor", "spec.endpoints.0", "intervall", "15s"),
        ("ServiceMonitor", "spec.endpoints.0", "interval", "fifteen"),
        ("ServiceMonitor", "spec.endpoints.0", "scheme", "gopher"),
        ("ServiceMonitor", "spec.endpoints.0", "basicAuth", {"username": {"name": "without a key"}}),
        ("ServiceMonitor", "spec.endpoints.0.tlsConfig.ca.secret", "file", "ca.crt"),
        ("ServiceMonitor", "spec.endpoints.0.relabelings.0", "target_label", "cluster"),
        ("ServiceMonitor", "spec", "endpoints", None),
        ("ServiceMonitor", "spec", "sampleLimit", -1),
        ("Probe", "spec.prober", "uri", "/probe"),
        ("Probe", "spec.targets.staticConfig", "static", "a"),
        ("PrometheusRule", "spec.groups.0.rules.0", "keepFiringFor", "5m"),
        ("PrometheusRule", "spec.groups.0.rules.0", "expr", True),
        ("PrometheusRule", "", "data", {}),
    ],
)
def test_a_key_that_the_operator_does_not_know_would_be_noticed(kind: str, where: str, key: str, value: Any) -> None:
    made = objects(rendered(EVERYTHING), kind)[0]
    below: Any = made
    for step in filter(None, where.split(".")):
        below = below[int(step) if step.isdigit() else step]
    below[key] = value
    (mistake,) = crds.mistakes(made)
    assert key in mistake


def test_a_key_that_kubernetes_does_not_know_would_be_noticed() -> None:
    deployment = one(rendered(EVERYTHING), "Deployment")
    deployment["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, NEWEST, strict=True)


def test_no_container_may_do_more_than_it_must() -> None:
    for name, made in everything_made():
        for pod in pods(made):
            spec = pod["spec"]
            asks = bool(objects(made, "RoleBinding") + objects(made, "ClusterRoleBinding")) and pod.get("kind") != "Pod"
            assert spec["automountServiceAccountToken"] is asks, name
            assert spec["enableServiceLinks"] is False
            assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
            of_pod = spec["securityContext"]
            assert of_pod["runAsNonRoot"] is True
            assert f"USER {of_pod['runAsUser']}:{of_pod['runAsGroup']}" in (ROOT / "Dockerfile").read_text("utf-8")
            assert of_pod["seccompProfile"] == {"type": "RuntimeDefault"}
            for container in containers(pod):
                context = container["securityContext"]
                assert context["readOnlyRootFilesystem"] is True
                assert context["allowPrivilegeEscalation"] is False
                assert context["capabilities"] == {"drop": ["ALL"]}
            assert all("hostPath" not in volume for volume in spec.get("volumes", []))


def test_secrets_come_from_secrets_alone() -> None:
    for name, made in everything_made():
        assert not objects(made, "Secret"), name
        for container in exporters(made):
            values = {each["name"] for each in container["env"] if "value" in each}
            assert not [name for name in values if re.search("TOKEN|PASS|KEY|SECRET", name)]
    (pod,) = pods(rendered(EVERYTHING))
    volumes = {
        each["secret"]["secretName"]: each["secret"]["defaultMode"]
        for each in pod["spec"]["volumes"]
        if "secret" in each
    }
    assert volumes == {"gw": 0o440, "tokens.v1": 0o440, "web": 0o440}
    (container,) = containers(pod)
    assert container["envFrom"] == [{"secretRef": {"name": "gateway-key"}}]


def test_what_is_mounted_is_there_and_every_volume_is_mounted() -> None:
    for name, made in everything_made():
        for pod in pods(made):
            there = {each["name"] for each in pod["spec"].get("volumes", [])}
            for stateful in objects(made, "StatefulSet"):
                there |= {each["metadata"]["name"] for each in stateful["spec"].get("volumeClaimTemplates", [])}
            if pod.get("kind") != "Pod":
                assert {mount["name"] for each in containers(pod) for mount in each["volumeMounts"]} == there, name


def test_whatever_selects_pods_selects_those_of_the_exporter_and_no_others() -> None:
    for name, made in everything_made():
        ours = [pod for pod in pods(made) if pod.get("kind") != "Pod"]
        others = objects(made, "Pod")
        selectors = [each["spec"]["selector"] for each in objects(made, "Service")]
        workloads = [*objects(made, "Deployment"), *objects(made, "StatefulSet"), *objects(made, "PodDisruptionBudget")]
        selectors += [each["spec"]["selector"]["matchLabels"] for each in workloads]
        selectors += [each["spec"]["podSelector"]["matchLabels"] for each in objects(made, "NetworkPolicy")]
        assert len(ours) == 1
        for selector in selectors:
            assert chosen(selector, ours) == ours, name
            assert chosen(selector, others) == [], name


def test_ports_that_are_asked_for_exist() -> None:
    for name, made in everything_made():
        (pod,) = [pod for pod in pods(made) if pod.get("kind") != "Pod"]
        ports = {port["name"]: port["containerPort"] for each in containers(pod) for port in each["ports"]}
        assert ports["metrics"] == 8082
        led_to = [port["targetPort"] for each in objects(made, "Service") for port in each["spec"]["ports"]]
        assert set(led_to) <= ports.keys(), name
        asked = [
            port["port"]
            for each in objects(made, "NetworkPolicy")
            for way in each["spec"]["ingress"]
            for port in way["ports"]
        ]
        assert set(asked) <= ports.keys()
        for container in containers(pod):
            for probe in ("livenessProbe", "readinessProbe"):
                (how,) = [
                    container[probe][way] for way in ("httpGet", "tcpSocket") if way in container.get(probe, {})
                ] or [None]
                assert how is None or how["port"] in {port["name"] for port in container["ports"]}


def test_a_monitor_finds_the_exporters_service_and_no_other() -> None:
    for _, made in everything_made():
        for monitor in objects(made, "ServiceMonitor"):
            (service,) = chosen(monitor["spec"]["selector"]["matchLabels"], objects(made, "Service"))
            assert labels_of(service)["app.kubernetes.io/component"] == "exporter"
            (endpoint,) = monitor["spec"]["endpoints"]
            assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({}, {"instance": "llm/fleet-ollama-exporter"}),
        ({"mode": "sidecar"}, {"instance": "llm/ollama-0", "pod": "ollama-0"}),
    ],
    ids=["central", "sidecar"],
)
def test_an_exporter_is_the_same_to_prometheus_after_a_restart(
    values: Object, told: Object, tmp_path: Path, promtool: Path
) -> None:
    monitor = one(rendered({**values, "serviceMonitor": {"enabled": True}}), "ServiceMonitor")
    snake = {"sourceLabels": "source_labels", "targetLabel": "target_label"}
    rules = [{snake.get(k, k): v for k, v in each.items()} for each in monitor["spec"]["endpoints"][0]["relabelings"]]
    meta = {"namespace": "llm", "service_name": "fleet-ollama-exporter", "pod_name": "ollama-0"}
    # As the operator labels targets before it comes to these rules.
    given = {"namespace": "llm", "service": "fleet-ollama-exporter", "pod": "ollama-0", "container": "exporter"}
    given |= {"job": "fleet-ollama-exporter", "endpoint": "metrics"}
    labels = {f"__meta_kubernetes_{name}": value for name, value in meta.items()} | given
    always = {"job": "ollama", "namespace": "llm", "service": "fleet-ollama-exporter", "endpoint": "metrics"}
    assert relabelled(promtool, rules, labels, tmp_path) == always | told


def test_probes_ask_for_pages_that_the_exporter_has() -> None:
    pages = {route.path for route in cast(Any, create_app(cast(Any, None))).routes}
    for _, made in everything_made():
        for container in exporters(made):
            asked = [container[probe] for probe in ("livenessProbe", "readinessProbe") if probe in container]
            assert {each["httpGet"]["path"] for each in asked if "httpGet" in each} <= pages


def test_probes_speak_what_the_web_server_speaks() -> None:
    def liveness(case: str) -> Object:
        (container,) = exporters(rendered(CASES[case]))
        probe: Object = container["livenessProbe"]
        return probe

    assert liveness("defaults")["httpGet"]["scheme"] == "HTTP"
    assert liveness("everything")["httpGet"]["scheme"] == "HTTPS"
    assert one(rendered(EVERYTHING), "ServiceMonitor")["spec"]["endpoints"][0]["scheme"] == "https"
    assert "httpGet" not in liveness("client certificates")


def test_the_exporter_is_alone_and_a_sidecar_holds_back_nobody() -> None:
    deployment = one(rendered({}), "Deployment")["spec"]
    assert (deployment["replicas"], deployment["strategy"]["type"]) == (1, "Recreate")
    for made in (rendered(CASES["sidecar"]), built("overlays/sidecar")):
        spec = one(made, "StatefulSet")["spec"]["template"]["spec"]
        (sidecar,) = spec["initContainers"]
        (ollama,) = spec["containers"]
        assert sidecar["restartPolicy"] == "Always"
        assert not {"startupProbe", "readinessProbe"} & sidecar.keys()
        assert not {"startupProbe", "livenessProbe"} & ollama.keys()
        assert spec["shareProcessNamespace"] is True
        store = {each["name"]: each["value"] for each in ollama["env"]}["OLLAMA_MODELS"]
        mounts = {each["name"]: each for each in sidecar["volumeMounts"]}
        assert store.startswith(mounts["models"]["mountPath"])
        assert mounts["models"]["readOnly"] is True


def test_a_new_configuration_makes_a_new_exporter_and_never_a_new_ollama() -> None:
    changed = {"config": {"poll": {"interval": "7s"}}}
    (before,), (after,) = ([p for p in pods(rendered(v)) if p.get("kind") != "Pod"] for v in ({}, changed))
    assert before["metadata"]["annotations"] != after["metadata"]["annotations"]
    beside = one(rendered({"mode": "sidecar"}), "StatefulSet")
    assert beside == one(rendered({"mode": "sidecar", **changed}), "StatefulSet")
    assert __version__ not in json.dumps(beside["spec"]["template"]["metadata"])
