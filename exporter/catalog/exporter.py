"""Exporter: ourselves."""

from __future__ import annotations

from exporter.catalog.buckets import LAG_BUCKETS
from exporter.model import Family

EXPORTER_BUILD = Family(
    "ollama_exporter_build_info", "info", "Always 1. Version of this exporter and of its Python.", ("version", "python")
)
EXPORTER_CONFIG = Family(
    "ollama_exporter_config_info", "info", "Always 1. Hash of the configuration in force (first 12 hex digits of SHA-256).",
    ("hash",),
)  # fmt: skip
EXPORTER_RELOAD_OK = Family(
    "ollama_exporter_config_last_reload_successful", "gauge",
    "1 if the last reload of the configuration succeeded (the start counts), 0 if it failed and the old one stays in force.",
)  # fmt: skip
EXPORTER_RELOAD_TIME = Family(
    "ollama_exporter_config_last_reload_success_timestamp_seconds", "gauge",
    "Unix time of the last successful load of the configuration.", (), "seconds",
)  # fmt: skip
EXPORTER_WEB_CONFIG_OK = Family(
    "ollama_exporter_web_config_last_reload_successful", "gauge",
    "1 if the last reading of --web.config.file and the certificates that it names succeeded, 0 if it failed and the old"
    " ones stay in force. Absent without such a file.",
)  # fmt: skip
EXPORTER_SERVERS = Family(
    "ollama_exporter_servers", "gauge", "Servers that are watched: those of the configuration in force and those found."
)
EXPORTER_LAG = Family(
    "ollama_exporter_loop_lag_seconds", "histogram",
    "How late the exporter's polls start, against their schedule: the event loop's own delay.", (), "seconds", LAG_BUCKETS,
)  # fmt: skip
EXPORTER_RENDER = Family(
    "ollama_exporter_render_duration_seconds", "gauge",
    "How long the event loop took to lay out the last /metrics. It is joined piece by piece while it is sent or compressed,"
    " which is not in it.",
    (), "seconds",
)  # fmt: skip
EXPORTER_SERIES = Family("ollama_exporter_series", "gauge", "Series on the last rendered /metrics.")
EXPORTER_PAGE = Family(
    "ollama_exporter_page_bytes", "gauge", "Size of the last rendered /metrics, before compression.", (), "bytes"
)
EXPORTER_DROPPED = Family(
    "ollama_exporter_label_values_dropped", "gauge",
    "Values of the label model that the last polls left out or put under other, because of the cap or their length.",
    ("server",),
)  # fmt: skip

EXPORTER_PROBES = Family(
    "ollama_exporter_probes_total", "counter",
    "Probes that /probe answered, by whether the target was seen (outcome success or failure).", ("outcome",),
)  # fmt: skip
EXPORTER_PROBES_REFUSED = Family(
    "ollama_exporter_probes_refused_total", "counter",
    "Requests for /probe that were refused without a look, by reason: missing (no target), malformed, module (there is"
    " none of this name), not_allowed (target not on the list), address (its name leads where it may not), too_many.",
    ("reason",),
)  # fmt: skip
EXPORTER_PROBES_IN_FLIGHT = Family("ollama_exporter_probes_in_flight", "gauge", "Probes under way just now.")
EXPORTER_PROBE_STATES = Family(
    "ollama_exporter_probe_states", "gauge",
    "Sources of targets of /probe whose connections and counters are kept for the next probe.",
)  # fmt: skip

PROCESS_CPU = Family(
    "process_cpu_seconds_total", "counter", "User and system CPU time of the exporter itself.", (), "seconds"
)
PROCESS_RSS = Family("process_resident_memory_bytes", "gauge", "Resident memory of the exporter itself.", (), "bytes")
PROCESS_VIRTUAL = Family("process_virtual_memory_bytes", "gauge", "Virtual memory of the exporter itself.", (), "bytes")
PROCESS_START = Family(
    "process_start_time_seconds", "gauge", "Unix time at which the exporter itself started.", (), "seconds"
)
PROCESS_FDS = Family("process_open_fds", "gauge", "Open files of the exporter itself.")
PROCESS_MAX_FDS = Family("process_max_fds", "gauge", "Limit of open files of the exporter itself.")
