"""Servers in Kubernetes: the official client against a fake API server, and what its objects are taken for."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from exporter.config import load
from exporter.config.places import KubernetesSd
from exporter.discovery import kubernetes as finders
from exporter.discovery import objects
from exporter.discovery.kubernetes import KubernetesFinder
from exporter.discovery.targets import Seen, Trouble
from tests.discovery.kube_api import (
    ENDPOINTS,
    HTTP,
    PODS,
    SERVICES,
    SLICES,
    TOKEN,
    KubeApi,
    endpoints,
    endpointslice,
    kube_api,
    kubeconfig,
    pod,
    service,
)
from tests.wire import free_port, make_authority

META = "__meta_kubernetes_"


@pytest.fixture
def api() -> Iterator[KubeApi]:
    with kube_api() as api:
        yield api


def settings(folder: Path, text: str, url: str, **access: str) -> KubernetesSd:
    kubeconfig(folder / "kubeconfig", url, **access)
    (folder / "exporter.yml").write_text(f"discovery: [{{kubernetes: {{kubeconfig_file: kubeconfig, {text}}}}}]")
    found = load(str(folder / "exporter.yml"), {}).discovery[0].kubernetes
    assert found is not None
    return found


@contextmanager
def finder(folder: Path, text: str, url: str, **access: str) -> Iterator[KubernetesFinder]:
    it = KubernetesFinder(settings(folder, text, url, **access))
    try:
        yield it
    finally:
        asyncio.run(it.aclose())


def look(folder: Path, text: str, api: KubeApi) -> Seen:
    with finder(folder, text, api.url) as it:
        return asyncio.run(it.look(()))


def servers(seen: Seen) -> dict[str, str]:
    return {target.labels["__address__"]: target.labels.get("server", "") for target in seen.targets}


def test_the_addresses_behind_services_are_found_under_the_names_of_their_pods(api: KubeApi, tmp_path: Path) -> None:
    api.objects[SLICES] = [endpointslice("ollama-abc", "10.1.0.1", "10.1.0.2")]
    seen = look(tmp_path, "selector: app=ollama", api)
    assert servers(seen) == {"10.1.0.1:11434": "ollama-0.llm", "10.1.0.2:11434": "ollama-1.llm"}
    assert {k.removeprefix(META): v for k, v in seen.targets[0].labels.items() if k.startswith(META)} == {
        "namespace": "llm",
        "endpointslice_name": "ollama-abc",
        "endpointslice_label_kubernetes_io_service_name": "ollama",
        "endpointslice_labelpresent_kubernetes_io_service_name": "true",
        "endpointslice_address_type": "IPv4",
        "endpointslice_port": "11434",
        "endpointslice_port_name": "http",
        "endpointslice_port_protocol": "TCP",
        "endpointslice_endpoint_conditions_ready": "true",
        "endpointslice_endpoint_conditions_serving": "true",
        "endpointslice_endpoint_conditions_terminating": "false",
        "endpointslice_endpoint_node_name": "node-1",
        "endpointslice_endpoint_zone": "zone-a",
        "endpointslice_address_target_kind": "Pod",
        "endpointslice_address_target_name": "ollama-0",
        "service_name": "ollama",
    }
    assert api.asked == [(SLICES, {"labelSelector": "app=ollama", "limit": "500"})]


def test_pods_are_found_by_their_port_and_told_as_prometheus_does(api: KubeApi, tmp_path: Path) -> None:
    api.objects[PODS] = [
        pod("ollama-0", "10.1.0.1", HTTP),
        pod("ollama-1", "fd00::1", HTTP, phase="Pending"),
        pod("starting", None, HTTP, phase="Pending"),
        pod("done", "10.1.0.9", HTTP, phase="Succeeded"),
    ]
    seen = look(tmp_path, "role: pod, port: http", api)
    assert servers(seen) == {"10.1.0.1:11434": "ollama-0.llm", "[fd00::1]:11434": "ollama-1.llm"}
    labels = seen.targets[0].labels
    expected = {
        "pod_name": "ollama-0",
        "pod_ip": "10.1.0.1",
        "pod_phase": "Running",
        "pod_ready": "true",
        "pod_node_name": "node-1",
        "pod_host_ip": "192.168.0.1",
        "pod_uid": "uid-ollama-0",
        "pod_controller_kind": "StatefulSet",
        "pod_controller_name": "ollama",
        "pod_container_name": "ollama",
        "pod_container_image": "ollama/ollama:0.33.0",
        "pod_container_port_name": "http",
        "pod_container_port_number": "11434",
        "pod_container_port_protocol": "TCP",
        "pod_label_app_kubernetes_io_part_of": "llm",
        "pod_annotation_example_com_rack": "r7",
        "pod_annotationpresent_example_com_rack": "true",
    }
    assert {name: labels[META + name] for name in expected} == expected


def test_a_pod_that_declares_no_port_is_found_by_number(api: KubeApi, tmp_path: Path) -> None:
    api.objects[PODS] = [pod("ollama-0", "10.1.0.1")]
    assert servers(look(tmp_path, "role: pod", api)) == {"10.1.0.1:11434": "ollama-0.llm"}
    assert servers(look(tmp_path, "role: pod, port: http", api)) == {}


def test_a_service_is_one_server(api: KubeApi, tmp_path: Path) -> None:
    ports = (
        {"name": "http", "port": 80, "targetPort": 11434, "protocol": "TCP"},
        {"name": "x", "port": 81, "protocol": "TCP"},
    )
    api.objects[SERVICES] = [service("ollama", *ports)]
    seen = look(tmp_path, "role: service, port: http", api)
    assert servers(seen) == {"ollama.llm.svc:80": "ollama.llm"}
    assert seen.targets[0].labels[f"{META}service_cluster_ip"] == "10.96.0.7"
    assert seen.targets[0].labels[f"{META}service_port_number"] == "80"


def test_endpoints_that_are_not_ready_stay_in_the_fleet(api: KubeApi, tmp_path: Path) -> None:
    """A server that has crashed must not take its alert with it."""
    api.objects[ENDPOINTS] = [endpoints("ollama", "10.1.0.1", not_ready=("10.1.0.2",))]
    seen = look(tmp_path, "role: endpoints", api)
    assert servers(seen) == {"10.1.0.1:11434": "ollama-0.llm", "10.1.0.2:11434": "ollama-1.llm"}
    assert [target.labels[f"{META}endpoint_ready"] for target in seen.targets] == ["true", "false"]


def test_an_address_without_a_pod_is_named_by_itself(api: KubeApi, tmp_path: Path) -> None:
    api.objects[SLICES] = [endpointslice("external", "192.0.2.1", pods=False)]
    assert servers(look(tmp_path, "", api)) == {"192.0.2.1:11434": ""}


def test_a_long_list_is_read_page_by_page(api: KubeApi, tmp_path: Path) -> None:
    api.objects[PODS] = [pod(f"ollama-{number}", f"10.1.0.{number}", HTTP) for number in range(7)]
    api.page = 3
    assert len(look(tmp_path, "role: pod", api).targets) == 7
    assert [query.get("continue") for _, query in api.asked] == [None, "3", "6"]


def test_only_the_named_namespaces_are_looked_in(api: KubeApi, tmp_path: Path) -> None:
    api.objects[PODS] = [
        pod("a", f"10.1.0.{number}", HTTP, space=space) for number, space in enumerate(("x", "y", "z"))
    ]
    seen = look(tmp_path, "role: pod, namespaces: [x, z]", api)
    assert servers(seen) == {"10.1.0.0:11434": "a.x", "10.1.0.2:11434": "a.z"}
    assert [path for path, _ in api.asked] == ["/api/v1/namespaces/x/pods", "/api/v1/namespaces/z/pods"]


# --- what goes wrong -------------------------------------------------------------------------------------------------


def refused(folder: Path, api: KubeApi | str, reason: str, words: str, text: str = "role: pod", **access: str) -> None:
    url = api if isinstance(api, str) else api.url
    with finder(folder, text, url, **access) as it, pytest.raises(Trouble, match=words) as trouble:
        asyncio.run(it.look(()))
    assert trouble.value.reason == reason
    assert "s3cret" not in trouble.value.what


@pytest.mark.parametrize(
    ("status", "reason", "words"),
    [
        (401, "http_4xx", "token is not accepted"),
        (403, "http_4xx", "RBAC"),
        (410, "http_4xx", "status 410"),
        (429, "http_4xx", "status 429"),
        (500, "http_5xx", "status 500"),
        (503, "http_5xx", "status 503"),
    ],
)
def test_a_refusal_is_told_with_what_helps(api: KubeApi, tmp_path: Path, status: int, reason: str, words: str) -> None:
    api.status = status
    refused(tmp_path, api, reason, words)


def test_a_wrong_token_is_not_accepted(api: KubeApi, tmp_path: Path) -> None:
    refused(tmp_path, api, "http_4xx", "status 401", token="s3cret-and-wrong")


def test_an_answer_that_is_not_json(api: KubeApi, tmp_path: Path) -> None:
    api.body = b"<html>"
    refused(tmp_path, api, "decode", "not JSON")


def test_an_answer_that_is_too_large(api: KubeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finders, "BODY_MAX", 1000)
    api.objects[PODS] = [pod(f"ollama-{number}", "10.1.0.1", HTTP) for number in range(7)]
    refused(tmp_path, api, "too_large", "16 MiB")


def test_an_api_server_that_says_nothing(api: KubeApi, tmp_path: Path) -> None:
    api.silent.set()
    refused(tmp_path, api, "timeout", "timeout", "role: pod, timeout: 1")


def test_nobody_listens(tmp_path: Path) -> None:
    refused(tmp_path, f"http://127.0.0.1:{free_port()}", "refused", "refused")


def test_outside_of_a_cluster_a_kubeconfig_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    it = KubernetesFinder(KubernetesSd(
        role="pod", namespaces=(), selector="", port="1", kubeconfig_file=None, context=None, timeout=1  # type: ignore[arg-type]
    ))  # fmt: skip
    with pytest.raises(Trouble, match="service account cannot be used") as trouble:
        asyncio.run(it.look(()))
    assert trouble.value.reason == "unavailable"


def test_inside_of_a_cluster_the_service_account_is_the_way_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kubernetes.config import incluster_config

    authority = make_authority(tmp_path)
    (tmp_path / "token").write_text(TOKEN)
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(authority.ca))
    (tmp_path / "exporter.yml").write_text("discovery: [kubernetes: {role: pod}]")
    entry = load(str(tmp_path / "exporter.yml"), {}).discovery[0].kubernetes
    assert entry is not None
    it = KubernetesFinder(entry)
    with kube_api(authority.server("good")) as api:
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", api.url.rpartition(":")[2])
        api.objects[PODS] = [pod("ollama-0", "10.1.0.1", HTTP)]
        assert servers(asyncio.run(it.look(()))) == {"10.1.0.1:11434": "ollama-0.llm"}
        asyncio.run(it.aclose())


@pytest.mark.parametrize("text", ["nonsense", "a: [", "contexts: 3", "{}"])
def test_a_kubeconfig_that_is_none_is_told_and_not_quoted(tmp_path: Path, text: str) -> None:
    it = KubernetesFinder(settings(tmp_path, "role: pod", "http://127.0.0.1:1"))
    (tmp_path / "kubeconfig").write_text(text)
    with pytest.raises(Trouble, match="kubeconfig cannot be used") as trouble:
        asyncio.run(it.look(()))
    assert trouble.value.reason == "unavailable"


def test_a_context_that_is_not_there(api: KubeApi, tmp_path: Path) -> None:
    refused(tmp_path, api, "unavailable", "cannot be used", "role: pod, context: elsewhere")


def test_without_the_client_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    it = KubernetesFinder(settings(tmp_path, "role: pod", "http://127.0.0.1:1"))
    monkeypatch.setitem(__import__("sys").modules, "kubernetes", None)
    with pytest.raises(Trouble, match=r"pip install 'ollama-exporter\[kubernetes\]'"):
        asyncio.run(it.look(()))


@pytest.mark.parametrize("role", ["pod", "service", "endpoints", "endpointslice"])
@pytest.mark.parametrize(
    "odd", [{}, {"metadata": 3, "spec": [], "status": None, "subsets": [1], "endpoints": {}, "ports": 4}]
)
def test_odd_objects_are_nobody(role: Any, odd: dict[str, Any]) -> None:
    assert list(objects.targets(role, odd, "11434")) == []
