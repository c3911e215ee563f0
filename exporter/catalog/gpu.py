"""GPU: those of the exporter's machine, by NVML (NVIDIA) and amdgpu's files in sysfs (AMD).

The label gpu is the number that nvidia-smi gives, or the card's name below /sys/class/drm (`card0`) with AMD: physical
cards. Of a card that is cut into MIG instances the whole is told, as far as NVML tells it.
"""

from __future__ import annotations

from exporter.model import Family

_GPU = ("host", "gpu")

GPUS = Family(
    "ollama_gpus", "gauge",
    "GPUs of the exporter's machine that a driver showed to the exporter and that answered at the last reading (NVML,"
    " amdgpu in sysfs); 0 without any. Not those that Ollama uses.",
    ("host",),
)  # fmt: skip
GPU_INFO = Family(
    "ollama_gpu_info", "info", "Always 1. A GPU's name, uuid (with AMD its PCI address), driver's version and vendor.",
    (*_GPU, "uuid", "name", "driver", "vendor"),
)  # fmt: skip
GPU_UTILIZATION = Family(
    "ollama_gpu_utilization_ratio", "gauge",
    "Share of the driver's last sampling period (up to 1 s) in which some kernel ran on the GPU (NVML utilization.gpu, amdgpu"
    " gpu_busy_percent). 1 means never idle, not fully used.",
    _GPU,
)  # fmt: skip
GPU_MEMORY_USED = Family(
    "ollama_gpu_memory_used_bytes", "gauge",
    "Memory of the GPU that is not free at the last reading, the driver's own reserve included (NVML memory, amdgpu"
    " mem_info_vram_used).",
    _GPU, "bytes",
)  # fmt: skip
GPU_MEMORY_TOTAL = Family(
    "ollama_gpu_memory_total_bytes",
    "gauge",
    "Memory of the GPU (NVML memory, amdgpu mem_info_vram_total).",
    _GPU,
    "bytes",
)
GPU_MEMORY_BANDWIDTH = Family(
    "ollama_gpu_memory_bandwidth_utilization_ratio", "gauge",
    "Share of the driver's last sampling period in which the GPU's memory was read or written (NVML utilization.memory,"
    " amdgpu mem_busy_percent). Generating tokens is bound by it. Not the share of the bandwidth.",
    _GPU,
)  # fmt: skip
GPU_POWER = Family(
    "ollama_gpu_power_watts", "gauge", "Power that the GPU draws at the last reading; the driver averages it, mostly over 1 s.",
    _GPU, "watts",
)  # fmt: skip
GPU_POWER_LIMIT = Family(
    "ollama_gpu_power_limit_watts", "gauge",
    "Power limit in force for the GPU (NVML enforced limit, amdgpu power1_cap).", _GPU, "watts",
)  # fmt: skip
GPU_ENERGY = Family(
    "ollama_gpu_energy_joules_total", "counter",
    "Energy that the GPU used since the exporter's first look (NVML total energy). Absent with AMD and cards that do not count it.",
    _GPU, "joules",
)  # fmt: skip
GPU_TEMPERATURE = Family(
    "ollama_gpu_temperature_celsius", "gauge",
    "Temperature of the GPU's chip at the last reading (NVML; with AMD the edge sensor). Not its memory's.", _GPU, "celsius",
)  # fmt: skip
GPU_THROTTLED = Family(
    "ollama_gpu_throttled", "gauge",
    "1 while the driver held back the GPU's clock for this reason at the last reading (NVML clocks event reasons; being idle"
    " is none). power_cap is normal under full load. NVIDIA only.",
    (*_GPU, "reason"),
)  # fmt: skip
GPU_XID = Family(
    "ollama_gpu_xid_errors_total", "counter",
    "XID errors that NVIDIA's driver reported since the exporter's first look, by cause: application (the codes that a crashing"
    " or killed program makes: 13, 31, 43, 45, 68, 109) or device (all others). The exporter's log tells the code."
    " Events that come while the exporter restarts are lost.",
    (*_GPU, "cause"),
)  # fmt: skip
GPU_ECC = Family(
    "ollama_gpu_ecc_errors_total", "counter",
    "Memory errors found by ECC since the exporter's first look (NVML), corrected or uncorrected. Absent without ECC. NVIDIA"
    " only.",
    (*_GPU, "error"),
)  # fmt: skip
GPU_RUNNER_MEMORY = Family(
    "ollama_gpu_runner_memory_bytes", "gauge",
    "Memory of the GPU that the runners of a server's model hold at the last reading (NVML's processes, joined by pid). model"
    " is unknown where the weights' file belongs to no installed name or several, other beyond the cap; with an empty server,"
    " other is every process that is no runner seen from here. NVIDIA only.",
    (*_GPU, "server", "model"), "bytes",
)  # fmt: skip
