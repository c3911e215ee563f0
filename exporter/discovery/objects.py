"""Objects of Kubernetes, as its API lists them in JSON -> targets, with Prometheus' names for what is told. Pure.

An object is another program's JSON: what is not as it should be is taken for not there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from exporter.config.places import Role
from exporter.discovery.targets import ADDRESS, NAME, Target, fitting, joined

_META = "__meta_kubernetes_"
_ENDED = ("Succeeded", "Failed")

Object = Mapping[str, Any]
Labels = dict[str, str]


def targets(role: Role, thing: Object, port: str) -> Iterator[Target]:
    """`port`: name or number of the one that counts."""
    told = {"pod": _pod, "service": _service, "endpoints": _endpoints, "endpointslice": _endpointslice}
    for labels in told[role](thing, port):
        yield Target({name: value for name, value in labels.items() if value})


def _pod(pod: Object, wanted: str) -> Iterator[Labels]:
    spec, status = _mapping(pod.get("spec")), _mapping(pod.get("status"))
    ip = _text(status.get("podIP"))
    if not ip or status.get("phase") in _ENDED:
        return
    owner = next(
        (one for one in _list(_mapping(pod.get("metadata")).get("ownerReferences")) if one.get("controller")), {}
    )
    ready = next((one for one in _list(status.get("conditions")) if one.get("type") == "Ready"), {})
    labels = {
        **_meta("pod", pod),
        f"{_META}pod_ip": ip,
        f"{_META}pod_phase": _text(status.get("phase")),
        f"{_META}pod_ready": _text(ready.get("status")).lower(),
        f"{_META}pod_node_name": _text(spec.get("nodeName")),
        f"{_META}pod_host_ip": _text(status.get("hostIP")),
        f"{_META}pod_uid": _text(_mapping(pod.get("metadata")).get("uid")),
        f"{_META}pod_controller_kind": _text(owner.get("kind")),
        f"{_META}pod_controller_name": _text(owner.get("name")),
        NAME: _server(_name(pod), pod),
    }
    declared = [(one, port) for one in _list(spec.get("containers")) for port in _list(one.get("ports"))]
    fitting_ones = [(one, port) for one, port in declared if _fits(port, wanted, "containerPort")]
    for container, port in fitting_ones:
        of_container = {
            f"{_META}pod_container_name": _text(container.get("name")),
            f"{_META}pod_container_image": _text(container.get("image")),
            **_port("pod_container_port", port, "containerPort"),
        }
        yield {**labels, **of_container, ADDRESS: joined(ip, _text(port.get("containerPort")))}
    if not fitting_ones and wanted.isdecimal():  # which ports a container has need not be declared
        yield {**labels, ADDRESS: joined(ip, wanted)}


def _service(service: Object, wanted: str) -> Iterator[Labels]:
    spec, space = _mapping(service.get("spec")), _namespace(service)
    labels = {
        **_meta("service", service),
        f"{_META}service_type": _text(spec.get("type")),
        f"{_META}service_cluster_ip": _text(spec.get("clusterIP")),
        f"{_META}service_external_name": _text(spec.get("externalName")),
        NAME: _server(_name(service), service),
    }
    for port in _list(spec.get("ports")):
        if _fits(port, wanted, "port"):
            address = joined(f"{_name(service)}.{space}.svc", _text(port.get("port")))
            yield {**labels, **_port("service_port", port, "port"), ADDRESS: address}


def _endpoints(thing: Object, wanted: str) -> Iterator[Labels]:
    labels = {**_meta("endpoints", thing), f"{_META}service_name": _name(thing)}
    for subset in _list(thing.get("subsets")):
        for port in _list(subset.get("ports")):
            if not _fits(port, wanted, "port"):
                continue
            told = {
                f"{_META}endpoint_port_name": _text(port.get("name")),
                f"{_META}endpoint_port_protocol": _text(port.get("protocol")),
            }
            for key, ready in (("addresses", "true"), ("notReadyAddresses", "false")):
                for address in _list(subset.get(key)):
                    own = {
                        f"{_META}endpoint_ready": ready,
                        f"{_META}endpoint_hostname": _text(address.get("hostname")),
                        f"{_META}endpoint_node_name": _text(address.get("nodeName")),
                        **_target(address, thing, "endpoint_address"),
                    }
                    yield {**labels, **told, **own, ADDRESS: joined(_text(address.get("ip")), _text(port.get("port")))}


def _endpointslice(piece: Object, wanted: str) -> Iterator[Labels]:
    service = _text(_mapping(_mapping(piece.get("metadata")).get("labels")).get("kubernetes.io/service-name"))
    labels = {
        **_meta("endpointslice", piece),
        f"{_META}endpointslice_address_type": _text(piece.get("addressType")),
        f"{_META}service_name": service,
    }
    for port in _list(piece.get("ports")):
        if not _fits(port, wanted, "port"):
            continue
        number = _text(port.get("port"))
        told = {
            f"{_META}endpointslice_port": number,
            f"{_META}endpointslice_port_name": _text(port.get("name")),
            f"{_META}endpointslice_port_protocol": _text(port.get("protocol")),
        }
        for endpoint in _list(piece.get("endpoints")):
            conditions = _mapping(endpoint.get("conditions"))
            own = {
                **{
                    f"{_META}endpointslice_endpoint_conditions_{key}": _text(conditions.get(key))
                    for key in ("ready", "serving", "terminating")
                },
                f"{_META}endpointslice_endpoint_hostname": _text(endpoint.get("hostname")),
                f"{_META}endpointslice_endpoint_node_name": _text(endpoint.get("nodeName")),
                f"{_META}endpointslice_endpoint_zone": _text(endpoint.get("zone")),
                **_target(endpoint, piece, "endpointslice_address"),
            }
            for address in endpoint.get("addresses") or ():
                yield {**labels, **told, **own, ADDRESS: joined(_text(address), number)}


def listed(answer: object) -> list[Object]:
    """The objects of one page."""
    return _list(_mapping(answer).get("items"))


def next_page(answer: object) -> str:
    """What asks for the next page; empty after the last."""
    return _text(_mapping(_mapping(answer).get("metadata")).get("continue"))


# --- pieces ----------------------------------------------------------------------------------------------------------


def _meta(kind: str, thing: Object) -> Labels:
    """Namespace and name, labels and annotations."""
    found = {f"{_META}namespace": _namespace(thing), f"{_META}{kind}_name": _name(thing)}
    for key, word in (("labels", "label"), ("annotations", "annotation")):
        for name, value in _mapping(_mapping(thing.get("metadata")).get(key)).items():
            safe = re.sub(r"[^a-zA-Z0-9_]", "_", str(name))
            found[f"{_META}{kind}_{word}_{safe}"] = _text(value)
            found[f"{_META}{kind}_{word}present_{safe}"] = "true"
    return found


def _target(holder: Object, thing: Object, word: str) -> Labels:
    """What is behind an address. A pod's name is a better one for a server than its address, which changes."""
    target = _mapping(holder.get("targetRef"))
    kind, name = _text(target.get("kind")), _text(target.get("name"))
    found = {f"{_META}{word}_target_kind": kind, f"{_META}{word}_target_name": name}
    return {**found, NAME: _server(name, thing)} if kind == "Pod" else found


def _port(word: str, port: Object, number: str) -> Labels:
    return {
        f"{_META}{word}_name": _text(port.get("name")),
        f"{_META}{word}_number": _text(port.get(number)),
        f"{_META}{word}_protocol": _text(port.get("protocol")),
    }


def _fits(port: Object, wanted: str, number: str) -> bool:
    if port.get("protocol") not in (None, "TCP"):
        return False
    return wanted == _text(port.get(number) if wanted.isdecimal() else port.get("name"))


def _server(name: str, thing: Object) -> str:
    return fitting(f"{name}.{_namespace(thing)}")


def _name(thing: Object) -> str:
    return _text(_mapping(thing.get("metadata")).get("name"))


def _namespace(thing: Object) -> str:
    return _text(_mapping(thing.get("metadata")).get("namespace"))


def _text(value: object) -> str:
    """As Prometheus writes it in a label."""
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, str) else str(value) if isinstance(value, int) else ""


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: object) -> list[Mapping[str, Any]]:
    return [each for each in value if isinstance(each, Mapping)] if isinstance(value, list) else []
