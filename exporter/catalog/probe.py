"""One answer of /probe, under the names that the field has for it since blackbox_exporter."""

from __future__ import annotations

from exporter.model import Family

PROBE_SUCCESS = Family(
    "probe_success", "gauge",
    "1 if /probe saw the target through the source api just now, 0 if not; ollama_source_failures_total has the reason.",
)  # fmt: skip
PROBE_DURATION = Family(
    "probe_duration_seconds", "gauge", "How long /probe took to look at the target.", (), "seconds"
)  # fmt: skip
PROBE_TIMEOUT = Family(
    "probe_timeout_seconds", "gauge",
    "How long /probe had: Prometheus' scrape timeout less probe.timeout_offset, at most the module's timeout.", (), "seconds",
)  # fmt: skip
