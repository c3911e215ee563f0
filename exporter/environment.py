"""What Ollama makes of its environment: the variables it reads, those it does not, and the settings that come of them.

Pure. Read from the source of 0.33; where a version is not known to read or to ignore a name, nothing is said of it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

from exporter import catalog
from exporter.model import Sample

Version = tuple[int, int, int]
Origin = Literal["process", "container", "log"]

_KNOWN: tuple[Version, Version] = ((0, 30, 0), (0, 34, 0))
"""From the first version whose variables are known, up to the first one whose are not."""

READ = frozenset(
    {
        "OLLAMA_CONTEXT_LENGTH", "OLLAMA_DEBUG", "OLLAMA_DEBUG_LOG_REQUESTS", "OLLAMA_FLASH_ATTENTION",
        "OLLAMA_GO_TEMPLATE", "OLLAMA_GPU_OVERHEAD", "OLLAMA_HOST", "OLLAMA_IGPU_ENABLE", "OLLAMA_KEEP_ALIVE",
        "OLLAMA_KV_CACHE_TYPE",
        "OLLAMA_LLM_LIBRARY", "OLLAMA_LOAD_TIMEOUT", "OLLAMA_MAX_LOADED_MODELS", "OLLAMA_MAX_QUEUE",
        "OLLAMA_MAX_TRANSFER_STREAMS", "OLLAMA_MODELS", "OLLAMA_NOPRUNE", "OLLAMA_NO_CLOUD", "OLLAMA_NUM_PARALLEL",
        "OLLAMA_ORIGINS", "OLLAMA_REMOTES", "OLLAMA_SCHED_SPREAD", "OLLAMA_VULKAN",
    }
)  # fmt: skip
"""Settings of the server, which its documentation or its log names."""
_READ_TOO = frozenset(
    {
        "OLLAMA_AGENT_DISABLE_SHELL", "OLLAMA_AGENT_DISABLE_WEBSEARCH", "OLLAMA_API_KEY", "OLLAMA_APP_DB_PATH",
        "OLLAMA_AUTH", "OLLAMA_BIN", "OLLAMA_CLOUD_BASE_URL", "OLLAMA_CORS", "OLLAMA_CREATE_REMOTE",
        "OLLAMA_DOT_COM_URL", "OLLAMA_EDITOR", "OLLAMA_EXPERIMENT",
        "OLLAMA_LIBRARY_PATH", "OLLAMA_LLAMA_CPP_COMPAT", "OLLAMA_NOHISTORY", "OLLAMA_SKILLS",
    }
)  # fmt: skip
"""Names that some other part of Ollama reads: its client, its app, its build, a version to come."""

_GONE: Mapping[str, tuple[Version, str]] = {
    "OLLAMA_INTEL_GPU": ((0, 30, 0), "OLLAMA_VULKAN"),
    "OLLAMA_MAX_VRAM": ((0, 30, 0), "OLLAMA_GPU_OVERHEAD"),
    "OLLAMA_MULTIUSER_CACHE": ((0, 30, 0), ""),
    "OLLAMA_NEW_ENGINE": ((0, 30, 0), ""),
    "OLLAMA_TMPDIR": ((0, 30, 0), ""),
}
"""Variables of earlier versions: since when they surely do nothing, and what to set instead."""

_POPULAR: Mapping[str, str] = {
    "LLAMA_ARG_CTX_SIZE": "OLLAMA_CONTEXT_LENGTH",
    "LLAMA_ARG_HOST": "OLLAMA_HOST",
    "LLAMA_ARG_MODEL": "",
    "LLAMA_ARG_N_PARALLEL": "OLLAMA_NUM_PARALLEL",
    "LLAMA_ARG_PORT": "OLLAMA_HOST",
    "OLLAMA_BATCH_SIZE": "option num_batch",
    "OLLAMA_CONCURRENCY": "OLLAMA_NUM_PARALLEL",
    "OLLAMA_CONTEXT_SIZE": "OLLAMA_CONTEXT_LENGTH",
    "OLLAMA_CPU_THREADS": "LLAMA_ARG_THREADS",
    "OLLAMA_CTX_SIZE": "OLLAMA_CONTEXT_LENGTH",
    "OLLAMA_FLASH_ATTN": "OLLAMA_FLASH_ATTENTION",
    "OLLAMA_GPU_LAYERS": "option num_gpu",
    "OLLAMA_LOG_LEVEL": "OLLAMA_DEBUG",
    "OLLAMA_MAX_CONCURRENT_REQUESTS": "OLLAMA_NUM_PARALLEL",
    "OLLAMA_MAX_CONTEXT": "OLLAMA_CONTEXT_LENGTH",
    "OLLAMA_MAX_MEMORY": "OLLAMA_GPU_OVERHEAD",
    "OLLAMA_MAX_MODELS": "OLLAMA_MAX_LOADED_MODELS",
    "OLLAMA_MAX_QUEUE_SIZE": "OLLAMA_MAX_QUEUE",
    "OLLAMA_MODEL_DIR": "OLLAMA_MODELS",
    "OLLAMA_MODELS_DIR": "OLLAMA_MODELS",
    "OLLAMA_MODELS_PATH": "OLLAMA_MODELS",
    "OLLAMA_NUM_CTX": "OLLAMA_CONTEXT_LENGTH",
    "OLLAMA_NUM_GPU": "option num_gpu",
    "OLLAMA_NUM_THREAD": "LLAMA_ARG_THREADS",
    "OLLAMA_NUM_THREADS": "LLAMA_ARG_THREADS",
    "OLLAMA_PORT": "OLLAMA_HOST",
    "OLLAMA_QUEUE_SIZE": "OLLAMA_MAX_QUEUE",
    "OLLAMA_THREADS": "LLAMA_ARG_THREADS",
}
"""Names that many set and none of the known versions reads, and what does what they promise, or comes nearest."""

_KUBERNETES = re.compile(
    r"OLLAMA_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)
_NAME = re.compile(r"OLLAMA_[A-Z_]{1,40}")


def version_of(text: str) -> Version | None:
    """`0.33.0-rc2` -> (0, 33, 0). None for a build of somebody's own, which calls itself 0.0.0, and for nonsense."""
    match = re.match(r"(\d{1,4})\.(\d{1,4})\.(\d{1,4})", text, re.ASCII)
    version = (int(match[1]), int(match[2]), int(match[3])) if match else (0, 0, 0)
    return version if version != (0, 0, 0) else None


def ignored(environment: Mapping[str, str], version: Version | None) -> dict[str, str] | None:
    """Variables that this version surely does nothing with, and what to set instead (empty: nothing comes near); None
    for a version whose variables are not known. A setting of the server that is written almost right counts as meant.
    """
    if version is None or not _KNOWN[0] <= version < _KNOWN[1]:
        return None
    found: dict[str, str] = {}
    for name, value in environment.items():
        if name in _GONE and version >= _GONE[name][0]:
            found[name] = _GONE[name][1]
        elif _KUBERNETES.fullmatch(name) and (name != "OLLAMA_PORT" or "://" in value):
            continue  # a Service called ollama puts them into every pod beside it
        elif name in _POPULAR:
            found[name] = _POPULAR[name]
        elif _NAME.fullmatch(name) and name not in READ | _READ_TOO and not name.startswith("OLLAMA_EXPORTER_"):
            found[name] = _meant(name)
    return dict(sorted(found.items()))


def _meant(name: str) -> str:
    """What all names have in common must not make them alike."""
    bare = {each.removeprefix("OLLAMA_"): each for each in sorted(READ)}
    near = get_close_matches(name.removeprefix("OLLAMA_"), bare, 1, cutoff=0.8)
    return bare[near[0]] if near else ""


# --- what the server makes of it --------------------------------------------------------------------------------------

FlashAttention = Literal["on", "off", "auto", "off_or_auto"]
KV_CACHE_TYPES = ("f16", "q8_0", "q4_0", "f32", "bf16", "q4_1", "iq4_nl", "q5_0", "q5_1")


@dataclass(frozen=True, slots=True)
class Settings:
    """What is in force. `parallel` is None where a default of another version may hold. `keep_alive` in seconds, inf is
    for ever. `max_loaded` and `context` 0: the server chooses. `invalid`: variables whose value the server cannot read,
    so that its default holds."""

    origin: Origin
    parallel: int | None
    max_queue: int
    max_loaded: int
    keep_alive: float
    context: int
    flash_attention: FlashAttention
    kv_cache: str
    logs_requests: bool
    invalid: frozenset[str] = frozenset()


_ONE_SLOT_SINCE: Version = (0, 10, 0)


def settings(environment: Mapping[str, str], origin: Origin, version: Version | None) -> Settings:
    """As 0.33 reads its environment. A `server config` line of its log holds what it has read already."""
    invalid: set[str] = set()
    told = bool(_stripped(environment.get("OLLAMA_NUM_PARALLEL", "")))

    def whole(name: str, default: int) -> int:
        text = _stripped(environment.get(name, ""))
        if not text:
            return default
        if re.fullmatch(r"[0-9]{1,20}", text, re.ASCII) and int(text) < 2**64:
            return int(text)
        invalid.add(name)
        return default

    keep_alive = _keep_alive(_stripped(environment.get("OLLAMA_KEEP_ALIVE", "")))
    if keep_alive is None:
        invalid.add("OLLAMA_KEEP_ALIVE")
    parallel = max(whole("OLLAMA_NUM_PARALLEL", 1), 1)
    kv_cache = _stripped(environment.get("OLLAMA_KV_CACHE_TYPE", "")).lower() or "f16"
    return Settings(
        origin=origin,
        parallel=parallel if told or (version is not None and version >= _ONE_SLOT_SINCE) else None,
        max_queue=whole("OLLAMA_MAX_QUEUE", 512),
        max_loaded=whole("OLLAMA_MAX_LOADED_MODELS", 0),
        keep_alive=300.0 if keep_alive is None else keep_alive,
        context=whole("OLLAMA_CONTEXT_LENGTH", 0),
        flash_attention=_flash_attention(_stripped(environment.get("OLLAMA_FLASH_ATTENTION", "")), origin),
        kv_cache=kv_cache if kv_cache in KV_CACHE_TYPES else "other",
        logs_requests=bool(_switch(_stripped(environment.get("OLLAMA_DEBUG_LOG_REQUESTS", "")))),
        invalid=frozenset(invalid),
    )


def _stripped(value: str) -> str:
    return value.strip().strip("\"'")


_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})


def _switch(text: str) -> bool | None:
    """None when it is not set; whatever is no switch at all is true."""
    return text not in _FALSE if text else None


def _flash_attention(text: str, origin: Origin) -> FlashAttention:
    switch = _switch(text)
    if switch:
        return "on"
    if origin == "log":
        return "off_or_auto"  # the line says false where it is not set, too
    return "auto" if switch is None else "off"


_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)", re.ASCII)
_DURATION = re.compile(rf"([+-]?)(0|(?:{_PART.pattern})+)", re.ASCII)
_SECONDS_MAX = 2**63 / 1e9


def _keep_alive(text: str) -> float | None:
    """Seconds from Go's notation or a number of seconds, inf for ever; None for neither, when the server's default
    holds. What overflows does so as in Go."""
    if not text:
        return 300.0
    match = _DURATION.fullmatch(text)
    if match:
        value = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(match[2]))
        value = -value if match[1] == "-" else value
        if abs(value) > _SECONDS_MAX + 1:
            return None
    elif re.fullmatch(r"[+-]?[0-9]{1,19}", text, re.ASCII) and -(2**63) <= int(text) < 2**63:
        value = ((int(text) * 10**9 + 2**63) % 2**64 - 2**63) / 1e9
    else:
        return None
    # "For ever" is the longest duration there is, and so the log shows it.
    return math.inf if value < 0 or value >= _SECONDS_MAX - 1 else value


# --- in words ---------------------------------------------------------------------------------------------------------

PROBLEMS: Mapping[str, str] = {
    "invalid_value": "a variable's value cannot be read, so that the default holds",
    "keep_alive_zero": "OLLAMA_KEEP_ALIVE is 0: a model is unloaded after each request and loaded for the next",
    "parallel_forced_to_1": "OLLAMA_NUM_PARALLEL is above 1, and a loaded model runs with one slot all the same",
    "parallel_beside_cpu": "OLLAMA_NUM_PARALLEL is above 1, and a loaded model is partly on the CPU; slots take memory",
    "requests_logged": "OLLAMA_DEBUG_LOG_REQUESTS is set: prompts are written to the server's disk",
    "runner_key": "LLAMA_API_KEY is set: runners refuse Ollama itself, every request fails",
    "slots_debug": "LLAMA_SERVER_SLOTS_DEBUG is set: runners show prompts and answers to whoever asks them",
}
"""What hurts, by its label, in words for the operator."""


def advice(samples: Iterable[Sample]) -> list[str]:
    """Lines for the operator from an audit's samples, the right name beside each variable that does nothing."""
    return sorted(_advice(samples))


def _advice(samples: Iterable[Sample]) -> Iterator[str]:
    for sample in samples:
        labels = dict(zip(sample.family.labels, sample.labels, strict=True))
        if sample.family is catalog.CONFIG_IGNORED:
            instead = f"; use {labels['instead']}" if labels["instead"] else ""
            yield f"{labels['server']}: {labels['variable']} does nothing{instead}"
        elif sample.family is catalog.CONFIG_INVALID:
            yield f"{labels['server']}: the value of {labels['variable']} cannot be read, its default holds"
        elif sample.family is catalog.CONFIG_PROBLEM and sample.value and labels["problem"] != "invalid_value":
            yield f"{labels['server']}: {PROBLEMS[labels['problem']]}"
        elif sample.family is catalog.POLICY_VIOLATION and sample.value:
            yield f"{labels['server']}: against the policy: {labels['rule'].replace('_', ' ')}"
