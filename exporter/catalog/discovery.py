"""Discovery: servers that were found and not configured, told by the exporter about itself."""

from __future__ import annotations

from exporter.model import Family

DISCOVERY_UP = Family(
    "ollama_exporter_discovery_up", "gauge",
    "1 if the last look for servers among Docker's containers succeeded, 0 if it failed and those found before stay in the"
    " fleet. Absent when discovery is not enabled.",
)  # fmt: skip
DISCOVERY_SERVERS = Family(
    "ollama_exporter_discovery_servers",
    "gauge",
    "Servers in the fleet that discovery has found, by its last good look.",
)
DISCOVERY_LEFT_OUT = Family(
    "ollama_exporter_discovery_left_out", "gauge",
    "Containers that discovery would take and has left out, by its last good look and reason. unreachable: no address that the"
    " exporter can reach. name_taken, address_taken: another server has it; also one that is configured as a server.",
    ("reason",),
)  # fmt: skip
DISCOVERY_SUCCESS = Family(
    "ollama_exporter_discovery_last_success_timestamp_seconds", "gauge",
    "Unix time of discovery's last good look. Absent before the first.", (), "seconds",
)  # fmt: skip
DISCOVERY_FAILURES = Family(
    "ollama_exporter_discovery_failures_total", "counter",
    "Looks of discovery that failed, by reason out of a fixed list; unavailable: the Docker Engine cannot be asked.",
    ("reason",),
)  # fmt: skip
