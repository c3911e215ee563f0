"""Host: the machine the exporter runs on."""

from __future__ import annotations

from exporter.model import Family

HOST_CPU = Family(
    "ollama_host_cpu_seconds_total", "counter", "CPU time of the exporter's machine by mode, over all CPUs (psutil).",
    ("host", "mode"), "seconds",
)  # fmt: skip
HOST_CPUS = Family("ollama_host_cpus", "gauge", "Logical CPUs of the exporter's machine.", ("host",))
HOST_LOAD = Family(
    "ollama_host_load_average", "gauge", "Load average of the exporter's machine over 1, 5 and 15 minutes.",
    ("host", "window"),
)  # fmt: skip
HOST_MEMORY_TOTAL = Family(
    "ollama_host_memory_total_bytes", "gauge", "Memory of the exporter's machine.", ("host",), "bytes"
)
HOST_MEMORY_AVAILABLE = Family(
    "ollama_host_memory_available_bytes", "gauge",
    "Memory that can be had without swapping on the exporter's machine, at the last reading.", ("host",), "bytes",
)  # fmt: skip
HOST_SWAP_TOTAL = Family(
    "ollama_host_swap_total_bytes", "gauge", "Swap of the exporter's machine; 0 when it has none.", ("host",), "bytes"
)
HOST_SWAP_USED = Family(
    "ollama_host_swap_used_bytes",
    "gauge",
    "Swap in use on the exporter's machine, at the last reading.",
    ("host",),
    "bytes",
)
HOST_STORE_SIZE = Family(
    "ollama_host_model_store_size_bytes", "gauge",
    "Size of the file system that holds Ollama's model store (configured, OLLAMA_MODELS or its defaults). Absent when the store is not"
    " on the exporter's machine.",
    ("host",), "bytes",
)  # fmt: skip
HOST_STORE_AVAILABLE = Family(
    "ollama_host_model_store_available_bytes", "gauge",
    "Space left for unprivileged users on the file system that holds Ollama's model store. Absent when it is not on the"
    " exporter's machine.",
    ("host",), "bytes",
)  # fmt: skip
HOST_RECEIVED = Family(
    "ollama_host_network_receive_bytes_total", "counter",
    "Bytes received by network device of the exporter's network namespace; without those that only pass traffic on.",
    ("host", "device"), "bytes",
)  # fmt: skip
HOST_SENT = Family(
    "ollama_host_network_transmit_bytes_total", "counter",
    "Bytes sent by network device of the exporter's network namespace; without those that only pass traffic on.",
    ("host", "device"), "bytes",
)  # fmt: skip
HOST_PRESSURE = Family(
    "ollama_host_pressure_seconds_total", "counter",
    "Time in which some (or all: full) tasks waited for a resource, from /proc/pressure. cpu has no full."
    " Absent where the kernel tells none.",
    ("host", "resource", "share"), "seconds",
)  # fmt: skip
HOST_BOOT = Family(
    "ollama_host_boot_timestamp_seconds",
    "gauge",
    "Unix time at which the exporter's machine started.",
    ("host",),
    "seconds",
)
HOST_PROCESSES = Family(
    "ollama_host_processes", "gauge",
    "Processes of Ollama on the exporter's machine: serve (ollama serve) and runner (a model's llama-server or ollama"
    " runner). Absent while there is none of either, or when the exporter may not see their arguments.",
    ("host", "process"),
)  # fmt: skip
HOST_PROCESS_CPU = Family(
    "ollama_host_process_cpu_seconds_total", "counter",
    "CPU time of Ollama's processes on the exporter's machine since the exporter's first look, summed over processes and"
    " carried across their ends; what one used between the last reading and its end is lost.",
    ("host", "process"), "seconds",
)  # fmt: skip
HOST_PROCESS_RSS = Family(
    "ollama_host_process_resident_memory_bytes", "gauge",
    "Resident memory of Ollama's processes on the exporter's machine, summed; memory-mapped weights count when in memory.",
    ("host", "process"), "bytes",
)  # fmt: skip
HOST_PROCESS_START = Family(
    "ollama_host_process_start_time_seconds", "gauge",
    "Unix time at which the youngest of Ollama's processes of this kind on the exporter's machine started.",
    ("host", "process"), "seconds",
)  # fmt: skip
HOST_PROCESS_FDS = Family(
    "ollama_host_process_open_fds", "gauge",
    "Open files of Ollama's processes on the exporter's machine, summed. Absent when the exporter may not look at all of"
    " them.",
    ("host", "process"),
)  # fmt: skip
