"""Servers in Kubernetes: pods, services or what is behind them, listed by the official client, page by page."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from exporter.config import Server
from exporter.config.places import KubernetesSd
from exporter.discovery import objects
from exporter.discovery.groups import BODY_MAX
from exporter.discovery.targets import ADDRESS, TARGETS_MAX, Seen, Target, Trouble
from exporter.discovery.threads import Thread
from exporter.model import Reason
from exporter.ollama import HttpError

_PAGE = 500
_LISTS = {
    "pod": ("CoreV1Api", "list_pod_for_all_namespaces", "list_namespaced_pod"),
    "service": ("CoreV1Api", "list_service_for_all_namespaces", "list_namespaced_service"),
    "endpoints": ("CoreV1Api", "list_endpoints_for_all_namespaces", "list_namespaced_endpoints"),
    "endpointslice": ("DiscoveryV1Api", "list_endpoint_slice_for_all_namespaces", "list_namespaced_endpoint_slice"),
}
_RIGHTS = {401: "its token is not accepted", 403: "the RBAC rules do not let it list (docs/discovery.md has them)"}


class KubernetesFinder:
    def __init__(self, settings: KubernetesSd) -> None:
        self._settings = settings
        self._thread = Thread()
        self._api: Any = None

    async def look(self, configured: Sequence[Server]) -> Seen:
        return await self._thread.run(self._look)

    async def aclose(self) -> None:
        if self._api is not None:
            self._api.api_client.close()

    def _look(self) -> Seen:
        if self._api is None:
            self._api = _connected(self._settings)
        found: list[Target] = []
        for thing in self._objects():
            found += objects.targets(self._settings.role, thing, self._settings.port)
            if len(found) > TARGETS_MAX:
                raise Trouble("too_large", f"there are more than {TARGETS_MAX:,} targets")
        return Seen(tuple(sorted(found, key=lambda target: target.labels[ADDRESS])))

    def _objects(self) -> Iterator[objects.Object]:
        _, everywhere, in_one = _LISTS[self._settings.role]
        for namespace in self._settings.namespaces or ("",):
            method, where = (in_one, (namespace,)) if namespace else (everywhere, ())
            page: str | None = None
            while page is None or page:
                listed = self._asked(method, where, page)
                yield from objects.listed(listed)
                page = objects.next_page(listed)

    def _asked(self, method: str, where: tuple[str, ...], page: str | None) -> Any:
        """One page, as plain JSON: making objects of it costs more than all the rest."""
        import urllib3
        from kubernetes.client.exceptions import ApiException

        settings = self._settings
        try:
            response = getattr(self._api, method)(
                *where,
                label_selector=settings.selector or None,
                limit=_PAGE,
                _continue=page,
                _request_timeout=settings.timeout,
                _preload_content=False,
            )
            body = response.read(BODY_MAX + 1)
            response.release_conn()
        except ApiException as error:
            raise _refused(error.status or 0) from None
        except urllib3.exceptions.HTTPError as error:
            raise _unreachable(error) from None
        if response.status != 200:
            raise _refused(response.status)
        if len(body) > BODY_MAX:
            raise Trouble("too_large", "an answer of the API server is larger than 16 MiB")
        try:
            return json.loads(body)
        except (ValueError, RecursionError):
            raise Trouble("decode", "the API server's answer is not JSON") from None


def _connected(settings: KubernetesSd) -> Any:
    try:
        from kubernetes import client, config
    except ImportError:
        raise Trouble(
            "unavailable", "the client is not installed; to enable it: pip install 'ollama-exporter[kubernetes]'"
        ) from None
    configuration = client.Configuration()
    try:
        if settings.kubeconfig_file is None:
            config.load_incluster_config(configuration)  # type: ignore[no-untyped-call]
        else:
            path = settings.kubeconfig_file.path
            config.load_kube_config(path, settings.context, configuration, False)  # type: ignore[no-untyped-call]
    except Exception as error:  # noqa: BLE001 - what the client makes of a file that is no kubeconfig
        where = settings.kubeconfig_file.path if settings.kubeconfig_file else "the pod's service account"
        raise Trouble("unavailable", f"{where} cannot be used ({type(error).__name__}: {_words(error)})") from None
    configuration.retries = False  # the next look is the next try
    configuration.proxy = None  # proxies are used only where they are named
    return getattr(client, _LISTS[settings.role][0])(client.ApiClient(configuration))


def _words(error: Exception) -> str:
    """What the client says of its own accord; what Python says may quote the file."""
    from kubernetes.config.config_exception import ConfigException

    return str(error).split(". ")[0] if isinstance(error, ConfigException) else "not a kubeconfig"


def _refused(status: int) -> Trouble:
    if status == 0:
        return Trouble("tls", "TLS with the API server failed")
    what = _RIGHTS.get(status, "")
    return Trouble(
        HttpError(status).reason, f"the API server answers with status {status}" + (f": {what}" if what else "")
    )


def _unreachable(error: Exception) -> Trouble:
    import urllib3.exceptions as e

    refused = isinstance(error.__cause__, ConnectionRefusedError)
    reasons: tuple[tuple[type[BaseException], Reason], ...] = (
        (e.NameResolutionError, "dns"),
        (e.NewConnectionError, "refused" if refused else "unreachable"),  # which is a ConnectTimeoutError, too
        (e.ConnectTimeoutError, "connect_timeout"),
        (e.TimeoutError, "timeout"),
        (e.SSLError, "tls"),
        (e.ProtocolError, "reset"),
        (e.DecodeError, "decode"),
    )
    reason: Reason = next((reason for kind, reason in reasons if isinstance(error, kind)), "unreachable")
    return Trouble(reason, f"the API server cannot be asked ({reason})")
