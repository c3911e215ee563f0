"""Prints the alerts that Alertmanager posts to it: `python receiver.py :8080`. For the demo, and for trying out routes.

One line per alert and notification: when, firing or resolved, severity, name, labels, summary, and what it says.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_SAID_ELSEWHERE = ("alertname", "severity")
_LARGEST_BODY = 16 * 1024 * 1024


def lines(notification: dict[str, Any], now: datetime) -> list[str]:
    """What is printed for one notification of Alertmanager."""
    return [_line(alert, now) for alert in notification.get("alerts", ())]


def _line(alert: dict[str, Any], now: datetime) -> str:
    labels, annotations = alert.get("labels", {}), alert.get("annotations", {})
    others = " ".join(f"{name}={value}" for name, value in sorted(labels.items()) if name not in _SAID_ELSEWHERE)
    parts = (
        f"{now:%H:%M:%S}",
        f"{alert.get('status', 'unknown').upper():<8}",
        f"{labels.get('severity', 'none'):<8}",
        labels.get("alertname", "?"),
        f"[{others}]" if others else "",
        annotations.get("summary", ""),
        annotations.get("description", ""),
        annotations.get("runbook_url", ""),
    )
    return " ".join(" ".join(part.split()) if number > 2 else part for number, part in enumerate(parts) if part)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self._answer(200)

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        if length > _LARGEST_BODY:
            self._answer(413)
            return
        try:
            said = lines(json.loads(self.rfile.read(length)), datetime.now(UTC))
        except (ValueError, AttributeError, TypeError):
            self._answer(400)
            return
        for line in said:
            sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
        self._answer(200)

    def _answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """The alerts are the output."""


def main(address: str) -> None:
    host, _, port = address.rpartition(":")
    server = ThreadingHTTPServer((host, int(port)), Handler)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: threading.Thread(target=server.shutdown).start())
    sys.stdout.write(f"waiting for alerts on {address}\n")
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else ":8080")
