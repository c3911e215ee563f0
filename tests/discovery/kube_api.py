"""A fake API server of Kubernetes on loopback: lists of objects in the shape of a real one, in pages."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

TOKEN = "s3cret-token"

PODS = "/api/v1/pods"
SERVICES = "/api/v1/services"
ENDPOINTS = "/api/v1/endpoints"
SLICES = "/apis/discovery.k8s.io/v1/endpointslices"


class KubeApi:
    """`objects`: by path of their list. `status`: what every request is answered with instead. `body`: the same of the
    text. `page`: objects of one page at most."""

    def __init__(self) -> None:
        self.objects: dict[str, list[dict[str, Any]]] = {}
        self.status, self.body, self.page = 200, b"", 500
        self.silent = threading.Event()
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.url = ""

    def answer(self, path: str, query: dict[str, str], token: str) -> tuple[int, bytes]:
        self.asked.append((path, query))
        scheme, _, given = token.partition(" ")
        if (scheme.lower(), given) != ("bearer", TOKEN) and self.status == 200:
            return 401, _status(401, "Unauthorized")
        if self.status != 200 or self.body:
            return self.status, self.body or _status(self.status, "said no")
        everything = self._in_namespace(path)
        begin = int(query.get("continue", "0"))
        end = begin + min(int(query["limit"]), self.page)
        meta = {"resourceVersion": "4711", **({"continue": str(end)} if end < len(everything) else {})}
        return 200, json.dumps(
            {"kind": "List", "apiVersion": "v1", "metadata": meta, "items": everything[begin:end]}
        ).encode()

    def _in_namespace(self, path: str) -> list[dict[str, Any]]:
        head, found, tail = path.partition("/namespaces/")
        if not found:
            return self.objects.get(path, [])
        namespace, _, kind = tail.partition("/")
        return [o for o in self.objects.get(f"{head}/{kind}", []) if o["metadata"]["namespace"] == namespace]


def _status(code: int, message: str) -> bytes:
    return json.dumps({"kind": "Status", "status": "Failure", "message": message, "code": code}).encode()


@contextmanager
def kube_api(tls: ssl.SSLContext | None = None) -> Iterator[KubeApi]:
    api = KubeApi()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            if api.silent.is_set():
                api.silent.wait_for_end.wait(5)  # type: ignore[attr-defined]
                self.close_connection = True
                return
            status, body = api.answer(parts.path, query, self.headers.get("Authorization", ""))
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    api.silent.wait_for_end = threading.Event()  # type: ignore[attr-defined]
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    api.url = f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield api
    finally:
        api.silent.wait_for_end.set()  # type: ignore[attr-defined]
        server.shutdown()
        thread.join()
        server.server_close()


def kubeconfig(path: Path, url: str, token: str = TOKEN, context: str = "c") -> Path:
    written = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "k", "cluster": {"server": url}}],
        "users": [{"name": "u", "user": {"token": token}}],
        "contexts": [{"name": context, "context": {"cluster": "k", "user": "u"}}],
        "current-context": context,
    }
    path.write_text(yaml.safe_dump(written))
    return path


# --- objects ---------------------------------------------------------------------------------------------------------


def pod(name: str, ip: str | None, *ports: dict[str, Any], space: str = "llm", **status: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "name": name,
            "namespace": space,
            "uid": f"uid-{name}",
            "labels": {"app": "ollama", "app.kubernetes.io/part-of": "llm"},
            "annotations": {"example.com/rack": "r7"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "ollama", "controller": True}],
        },
        "spec": {
            "nodeName": "node-1",
            "containers": [
                {"name": "ollama", "image": "ollama/ollama:0.33.0", **({"ports": list(ports)} if ports else {})},
                {"name": "sidecar", "image": "proxy:1", "ports": [{"containerPort": 9000, "protocol": "TCP"}]},
            ],
        },
        "status": {
            "phase": "Running",
            "hostIP": "192.168.0.1",
            **({"podIP": ip, "podIPs": [{"ip": ip}]} if ip else {}),
            "conditions": [{"type": "Initialized", "status": "True"}, {"type": "Ready", "status": "True"}],
            **status,
        },
    }


HTTP = {"name": "http", "containerPort": 11434, "protocol": "TCP"}


def service(name: str, *ports: dict[str, Any], space: str = "llm") -> dict[str, Any]:
    return {
        "metadata": {"name": name, "namespace": space, "labels": {"app": "ollama"}},
        "spec": {"type": "ClusterIP", "clusterIP": "10.96.0.7", "ports": list(ports), "selector": {"app": "ollama"}},
        "status": {"loadBalancer": {}},
    }


def endpoints(name: str, *ready: str, not_ready: tuple[str, ...] = (), space: str = "llm") -> dict[str, Any]:
    def address(number: int, ip: str) -> dict[str, Any]:
        target = {"kind": "Pod", "namespace": space, "name": f"{name}-{number}", "uid": "x"}
        return {"ip": ip, "nodeName": "node-1", "targetRef": target}

    subset = {
        "addresses": [address(number, ip) for number, ip in enumerate(ready)],
        "notReadyAddresses": [address(number + len(ready), ip) for number, ip in enumerate(not_ready)],
        "ports": [
            {"name": "http", "port": 11434, "protocol": "TCP"},
            {"name": "metrics", "port": 9100, "protocol": "TCP"},
        ],
    }
    return {"metadata": {"name": name, "namespace": space, "labels": {"app": "ollama"}}, "subsets": [subset]}


def endpointslice(name: str, *ips: str, space: str = "llm", pods: bool = True, **more: Any) -> dict[str, Any]:
    found = [
        {
            "addresses": [ip],
            "conditions": {"ready": True, "serving": True, "terminating": False},
            "nodeName": "node-1",
            "zone": "zone-a",
            **({"targetRef": {"kind": "Pod", "namespace": space, "name": f"ollama-{number}"}} if pods else {}),
        }
        for number, ip in enumerate(ips)
    ]
    return {
        "metadata": {"name": name, "namespace": space, "labels": {"kubernetes.io/service-name": "ollama"}},
        "addressType": "IPv4",
        "endpoints": found,
        "ports": [{"name": "http", "port": 11434, "protocol": "TCP"}],
        **more,
    }
