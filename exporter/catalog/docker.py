"""Docker: the container that a server runs in, as the Docker Engine tells of it."""

from __future__ import annotations

from exporter.model import Family

_S = ("server",)

CONTAINER_STATE = Family(
    "ollama_container_state", "gauge",
    "1 for the state of the server's container at the last poll, 0 for the others (docker inspect): created, running, paused,"
    " restarting, removing, exited, dead.",
    ("server", "state"),
)  # fmt: skip
CONTAINER_HEALTH = Family(
    "ollama_container_health", "gauge",
    "1 for what the container's own health check said at the last poll (starting, healthy, unhealthy), 0 for the others. Absent"
    " without a health check and while the container does not run.",
    ("server", "health"),
)  # fmt: skip
CONTAINER_INFO = Family(
    "ollama_container_info", "info",
    "Always 1. Name and image of the server's container at the last poll; the registry's host is left out of the image.",
    ("server", "container", "image"),
)  # fmt: skip
CONTAINER_START = Family(
    "ollama_container_start_time_seconds", "gauge",
    "Unix time at which the server's container was started last, on the engine's clock.", _S, "seconds",
)  # fmt: skip
CONTAINER_LAST_EXIT = Family(
    "ollama_container_last_exit_timestamp_seconds", "gauge",
    "Unix time at which the server's container ended last, on the engine's clock. Absent as long as it never has.",
    _S, "seconds",
)  # fmt: skip
CONTAINER_EXIT_CODE = Family(
    "ollama_container_last_exit_code", "gauge",
    "Exit code with which the server's container ended last; above 128 a signal (137: killed, by hand or for want of memory)."
    " Absent when it is running and its last end was not seen.",
    _S,
)  # fmt: skip
CONTAINER_RESTARTS = Family(
    "ollama_container_restarts_total", "counter",
    "Starts of the server's container since the exporter first saw it, also those between two polls (the engine's events): by"
    " a restart policy, by hand, or as a new container in the old one's place. A lower bound while the engine itself restarts.",
    _S,
)  # fmt: skip
CONTAINER_OOM_KILLS = Family(
    "ollama_container_oom_kills_total", "counter",
    "Processes of the server's container that the kernel killed because the container's memory was at its limit, since the"
    " exporter first saw it: the kernel's own count where the exporter can read it, else the larger of the engine's events and"
    " the container's OOMKilled. A runner may be killed while the container runs on. The engine tells of want of memory"
    " rather than of kills: several at once may be one to it.",
    _S,
)  # fmt: skip
CONTAINER_CPU = Family(
    "ollama_container_cpu_seconds_total", "counter",
    "CPU time of the server's container, over all CPUs, since it was started (docker stats).", _S, "seconds",
)  # fmt: skip
CONTAINER_CPU_LIMIT = Family(
    "ollama_container_cpu_limit", "gauge",
    "CPUs that the server's container may use: its quota or its set of CPUs, the smaller one. Absent without a limit.", _S,
)  # fmt: skip
CONTAINER_CPU_PERIODS = Family(
    "ollama_container_cpu_periods_total", "counter",
    "Periods of the container's CPU quota in which it ran, since it was started; 0 without a quota.", _S,
)  # fmt: skip
CONTAINER_CPU_THROTTLED_PERIODS = Family(
    "ollama_container_cpu_throttled_periods_total", "counter",
    "Periods in which the container used up its CPU quota and was held, since it was started.", _S,
)  # fmt: skip
CONTAINER_CPU_THROTTLED = Family(
    "ollama_container_cpu_throttled_seconds_total", "counter",
    "Time for which the container's threads were held because its CPU quota was used up, summed over CPUs, since it was started.",
    _S, "seconds",
)  # fmt: skip
CONTAINER_MEMORY = Family(
    "ollama_container_memory_working_set_bytes", "gauge",
    "Memory of the server's container at the last poll that the kernel cannot simply drop: usage without inactive file pages, as"
    " `docker stats` shows it. Weights that are mapped into memory count while they are in use. No GPU memory.",
    _S, "bytes",
)  # fmt: skip
CONTAINER_MEMORY_LIMIT = Family(
    "ollama_container_memory_limit_bytes", "gauge", "Memory limit of the server's container. Absent without a limit.",
    _S, "bytes",
)  # fmt: skip
CONTAINER_RECEIVED = Family(
    "ollama_container_network_receive_bytes_total", "counter",
    "Bytes received by the server's container over all its devices, since it was started. Absent in the machine's network.",
    _S, "bytes",
)  # fmt: skip
CONTAINER_SENT = Family(
    "ollama_container_network_transmit_bytes_total", "counter",
    "Bytes sent by the server's container over all its devices, since it was started. Absent in the machine's network.",
    _S, "bytes",
)  # fmt: skip
