"""Discovery: servers that were found and not configured, told by the exporter about itself."""

from __future__ import annotations

from exporter.model import Family

_OF = ("discovery",)

DISCOVERY_UP = Family(
    "ollama_exporter_discovery_up", "gauge",
    "1 if the last look for servers by this entry of `discovery` succeeded, 0 if it failed, or a part of it: what could not be"
    " looked at stays in the fleet as it was found before.", _OF,
)  # fmt: skip
DISCOVERY_SERVERS = Family(
    "ollama_exporter_discovery_servers", "gauge",
    "Servers in the fleet that this entry of `discovery` has found.", _OF,
)  # fmt: skip
DISCOVERY_LEFT_OUT = Family(
    "ollama_exporter_discovery_left_out", "gauge",
    "Targets of the last good look that are not in the fleet, by reason; those that a relabel rule drops are not counted."
    " unreachable: a container without an address that the exporter can reach. invalid: the labels make no URL, or no name."
    " name_taken, address_taken: another server has it; also one that is configured. limit: beyond limits.servers.",
    (*_OF, "reason"),
)  # fmt: skip
DISCOVERY_SUCCESS = Family(
    "ollama_exporter_discovery_last_success_timestamp_seconds", "gauge",
    "Unix time of the last look that succeeded as a whole. Absent before the first.", _OF, "seconds",
)  # fmt: skip
DISCOVERY_FAILURES = Family(
    "ollama_exporter_discovery_failures_total", "counter",
    "Looks that failed, or a part of which did, by reason out of a fixed list. unavailable: a file, an engine or a cluster that"
    " cannot be asked from here.",
    (*_OF, "reason"),
)  # fmt: skip
