"""Every source, about itself."""

from __future__ import annotations

from exporter.model import Family

_SOURCE = ("server", "source")

SOURCE_UP = Family(
    "ollama_source_up", "gauge", "1 if the source's last reading saw all it should, else 0. server is empty for host and"
    " exporter.", _SOURCE,
)  # fmt: skip
SOURCE_DURATION = Family(
    "ollama_source_duration_seconds", "gauge", "Time that the source's last reading took.", _SOURCE, "seconds"
)
SOURCE_LAST_ATTEMPT = Family(
    "ollama_source_last_attempt_timestamp_seconds", "gauge",
    "Unix time of the source's last reading, good or not: the age of what is on this page.", _SOURCE, "seconds",
)  # fmt: skip
SOURCE_LAST_SUCCESS = Family(
    "ollama_source_last_success_timestamp_seconds", "gauge",
    "Unix time of the source's last reading that saw all it should. Absent before the first.", _SOURCE, "seconds",
)  # fmt: skip
SOURCE_FAILURES = Family(
    "ollama_source_failures_total", "counter", "Readings of the source that failed, by reason out of a fixed list.",
    (*_SOURCE, "reason"),
)  # fmt: skip
