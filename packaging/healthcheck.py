"""Health check of the container: exit status 0 when the exporter answers 200 on /-/healthy, else 1.

It learns the port from where the exporter learns it, OLLAMA_EXPORTER_WEB_LISTEN_ADDRESS. An address given
in the configuration file or on the command line cannot be seen from here: in a container, use the variable.
"""

import http.client
import os
import ssl
import sys

_EVERYWHERE = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}


def target(listen_address: str) -> tuple[str, int]:
    """Where to knock for an exporter that listens on `listen_address` (the first one of several)."""
    host, _, port = listen_address.split(",", maxsplit=1)[0].strip().rpartition(":")
    host = host.strip("[]")
    return _EVERYWHERE.get(host, host), int(port)


def _status(host: str, port: int) -> int:
    """By plain HTTP, or by TLS where that hangs up. Whose certificate it is does not matter on our own machine."""
    try:
        return _answer(http.client.HTTPConnection(host, port, timeout=3))
    except (ConnectionResetError, http.client.BadStatusLine):
        context = ssl._create_unverified_context()  # noqa: S323
        return _answer(http.client.HTTPSConnection(host, port, timeout=3, context=context))


def _answer(connection: http.client.HTTPConnection) -> int:
    connection.request("GET", "/-/healthy")
    return connection.getresponse().status


def main() -> str | None:
    listen_address = os.environ.get("OLLAMA_EXPORTER_WEB_LISTEN_ADDRESS") or ":8082"
    try:
        host, port = target(listen_address)
        status = _status(host, port)
    except (OSError, ValueError, http.client.HTTPException) as error:
        return f"{listen_address}: {error!r}"
    return None if status == http.client.OK else f"{host}:{port} answered {status}"


if __name__ == "__main__":
    sys.exit(main())
