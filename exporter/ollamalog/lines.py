"""One line -> what it says, or nothing.

Three writers share a log: gin (a line per request), Ollama itself (slog: `time= level= msg=`) and, from 0.30, its
llama-servers (`slot ...: id N | task N | ...`). A line is known by its words; files and line numbers change with every
release. Wordings before 0.30 are told where they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from exporter.model import canonical
from exporter.ollamalog.events import (
    ENDPOINTS,
    READS,
    Access,
    Began,
    Cached,
    Configured,
    Drafted,
    Event,
    Generated,
    Happened,
    Key,
    Listening,
    LoadBegan,
    LoadFailed,
    Misfit,
    Named,
    NewPrompt,
    Occurrence,
    Placed,
    Processed,
    Progress,
    Released,
    Sampling,
    Shifted,
    Started,
    Terminated,
    Truncated,
)

_LINE_MAX = 16_384
"""Bytes of a line that are looked at. The longest that says something, the configuration, has 2,000."""


def parse(line: bytes) -> Event | None:
    """What the line says; None when it is none of ours. Never raises."""
    line = line[:_LINE_MAX]
    if b"\x1b" in line:
        line = _COLOUR.sub(b"", line)
    # Ollama's own line first: a prompt that it quotes at debug level may hold anything, but stays within its quotes.
    if line.startswith(b"time="):
        return _message(line)
    start = line.find(b"[GIN] ")  # a container's or a supervisor's prefix may be before it
    if start >= 0:
        return _access(line[start:])
    start = line.find(b"time=2")
    if start >= 0 and b" level=" in line[start : start + 60]:
        return _message(line[start:])
    if b" | task " in line:
        return _slot(line)
    return _bare(line)


_COLOUR = re.compile(rb"\x1b\[[0-9;]*[A-Za-z]")


# --- gin --------------------------------------------------------------------------------------------------------------

_ACCESS = re.compile(
    rb"\[GIN\] [0-9/]{10} - [0-9:]{8} \|\s*(?P<status>[1-5][0-9]{2})\s*\|\s*(?P<took>[^\s|]{1,32})\s*\|[^|]{0,64}\|"
    rb"\s*[A-Z]{1,16}\s+\"(?P<path>[^\"?]*)"
)


def _access(line: bytes) -> Event:
    found = _ACCESS.match(line)
    took = seconds(found["took"].decode("utf-8", "replace")) if found else None
    if found is None or took is None:
        return Misfit("access")
    return Access(_endpoint(found["path"].decode("utf-8", "replace")), int(found["status"]), took)


_KNOWN = frozenset(ENDPOINTS) | frozenset(READS)
_WITH_ARGUMENT = ("/api/blobs", "/v1/models")


def _endpoint(path: str) -> str:
    if path in _KNOWN:
        return path
    return next((route for route in _WITH_ARGUMENT if path.startswith(f"{route}/")), "other")


_DURATION = re.compile(r"(?:[0-9]+(?:\.[0-9]+)?(?:ns|us|µs|μs|ms|s|m|h))+")
_DURATION_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ns|us|µs|μs|ms|s|m|h)")
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def seconds(duration: str) -> float | None:
    """Of a duration as Go writes it (`120.452µs`, `1m30s`); None when it is none."""
    if not _DURATION.fullmatch(duration):
        return None
    return sum(float(number) * _UNITS[unit] for number, unit in _DURATION_PART.findall(duration))


# --- slog -------------------------------------------------------------------------------------------------------------

_QUOTED_OR_BARE = r'"(?:[^"\\]|\\.)*"|[^\s"]*'
_MESSAGE = re.compile(rf"time=\S+ level=\S+ (?:source=\S+ )?msg=({_QUOTED_OR_BARE})(?: |$)")
_FIELD = re.compile(rf"([^\s=\"]+)=({_QUOTED_OR_BARE})(?: |$)")


def _message(line: bytes) -> Event | None:
    text = line.decode("utf-8", "replace").rstrip("\r\n")
    found = _MESSAGE.match(text)
    if found is None:
        return Misfit("message")
    message = _unquoted(found[1])
    what = _OCCURRENCES.get(message)
    if what is not None:
        return Happened(what)
    told = _TOLD.get(message)
    if told is not None:
        fields = {name: _unquoted(value) for name, value in _FIELD.findall(text[found.end() :])}
        return told(fields)
    return _spoken(message)


def _unquoted(text: str) -> str:
    if not text.startswith('"'):
        return text
    return text[1:-1].replace('\\"', '"').replace("\\\\", "\\")


_OCCURRENCES: dict[str, Occurrence] = {
    "failed to create server": "load_failed",
    "failed to load model metadata": "load_failed",
    "model is too large for system memory": "load_failed",
    "client connection closed before llama-server finished loading, aborting load": "load_aborted",
    "client connection closed before server finished loading, aborting load": "load_aborted",  # before 0.30
    "llama-server load failed; reducing automatic context and retrying once": "load_oom",
    "llama-server load failed; evicting all other models and retrying once": "load_oom",
    "runtime OOM detected; expiring loaded models to clear memory before next request": "runtime_oom",
    "llama-server model predicted to exceed available memory, evicting": "evicted_for_memory",
    "disabling mmap for llama-server load due to host memory pressure": "host_memory_pressure",
    "llama-server process no longer running": "runner_died",
    "llama runner process no longer running": "runner_died",  # before 0.30
    "llama-server completion error": "generation_failed",
    "llama-server chat error": "generation_failed",
    "aborting completion request due to client closing the connection": "client_left_queue",
    "aborting chat request due to client closing the connection": "client_left_queue",
    "model architecture does not currently support parallel requests": "parallel_forced",
    "requested context size too large for model": "context_clamped",
    "invalid option provided": "invalid_option",
    "invalid environment variable, using default": "invalid_environment",
    "model is missing tokenizer.chat_template and Go TEMPLATE support is unavailable;"
    " chat responses may be poorly formatted": "template_missing",
    "failure during llama-server GPU discovery": "gpu_discovery_failed",
    "llama-server GPU discovery watchdog timed out": "gpu_discovery_failed",
    "llama-server discovery: timed out waiting for server startup": "gpu_discovery_failed",
    "unable to refresh free memory, using old values": "gpu_discovery_failed",
    "NVIDIA driver too old": "gpu_discovery_failed",
    "AMD driver is too old. Update your AMD driver to enable GPU inference.": "gpu_discovery_failed",
}

_BLOB = re.compile(r"--model (?:\S*[/\\])?(sha256[-:][0-9a-f]{64})(?= |$)")


def _load_began(fields: Mapping[str, str]) -> Event | None:
    command = fields.get("cmd", "")
    if " --model " not in command:
        return None if command else Misfit("message")  # without a model it looks for GPUs
    found = _BLOB.search(command)
    return LoadBegan(blob=found[1].replace(":", "-") if found else "")


def _mlx_began(fields: Mapping[str, str]) -> Event:
    name = fields.get("model", "")
    return LoadBegan(name=short_name(name)) if name else Misfit("message")


def _named(fields: Mapping[str, str]) -> Event:
    name = fields.get("model", "")
    return Named(short_name(name)) if name else Misfit("message")


def _placed(fields: Mapping[str, str]) -> Event:
    count = _whole(fields.get("count"))
    return Misfit("message") if count is None else Placed(count)


def _truncated(fields: Mapping[str, str]) -> Event:
    before, after = _whole(fields.get("prompt")), _whole(fields.get("new"))
    return Misfit("message") if before is None or after is None else Truncated(max(0, before - after))


def _speculated(fields: Mapping[str, str]) -> Event:
    drafted, accepted = _whole(fields.get("drafted")), _whole(fields.get("accepted"))
    return Misfit("message") if drafted is None or accepted is None else Drafted(drafted, accepted)


def _configured(fields: Mapping[str, str]) -> Event:
    values = environment(fields.get("env", ""))
    return Configured(values) if values else Misfit("message")


def _terminated(fields: Mapping[str, str]) -> Event | None:
    """Ollama ends its runners with SIGKILL itself, and says so when one had complained before."""
    error = fields.get("error", "")
    return None if "killed" in error else Terminated(error.startswith("signal: "))


def _load_failed(fields: Mapping[str, str]) -> Event:
    return LoadFailed(_CRASHED.search(fields.get("error", "")) is not None)


_CRASHED = re.compile(r"process (?:has terminated: signal: |no longer running: (?:unknown|-1)(?: |$))")


_TOLD: dict[str, Callable[[Mapping[str, str]], Event | None]] = {
    "starting llama-server": _load_began,
    "starting runner": _load_began,  # 0.11.5 to 0.24
    "starting llama server": _load_began,  # before 0.11.5
    "starting mlx runner subprocess": _mlx_began,
    "template selection": _named,
    "loaded runners": _placed,
    "truncating input prompt": _truncated,
    "speculative decode stats": _speculated,
    "server config": _configured,
    "Load failed": _load_failed,
    "error loading llama server": _load_failed,
    "llama-server terminated": _terminated,
    "llama runner terminated": _terminated,  # before 0.30
}

_STARTED = re.compile(r"(?:llama-server|llama runner) started in ([0-9]{1,9}\.[0-9]{1,9}) seconds")
_LISTENING = re.compile(r"Listening on \S{1,300} \(version ([^()]{0,64})\)")


def _spoken(message: str) -> Event | None:
    """Messages that hold their numbers in their words."""
    if message.startswith(("llama-server started in", "llama runner started in")):
        found = _STARTED.fullmatch(message)
        return Started(float(found[1])) if found else Misfit("message")
    if message.startswith("Listening on "):
        found = _LISTENING.fullmatch(message)
        return Listening(found[1]) if found else Misfit("message")
    return None


def _whole(text: str | None) -> int | None:
    return int(text) if text is not None and re.fullmatch(r"[0-9]{1,12}", text) else None


def short_name(name: str) -> str:
    """As /api/ps writes it: without the registry and the namespace that are understood."""
    return canonical(name.removeprefix("registry.ollama.ai/").removeprefix("library/"))


_VARIABLE = r"(?:OLLAMA|LLAMA_ARG|CUDA|ROCR|HIP|GGML|GPU|HSA|HTTP|HTTPS|NO|http|https|no)_[A-Za-z0-9_]+:"
_VARIABLES = re.compile(rf"(?:^| )({_VARIABLE})(.*?)(?=$| {_VARIABLE})")
_OURS = ("OLLAMA_", "LLAMA_ARG_", "CUDA_", "ROCR_", "HIP_", "GGML_", "GPU_", "HSA_")


def environment(env: str) -> dict[str, str]:
    """Variables of a `server config` line, from `map[NAME:value NAME:value]`. Proxies are left out, because their
    URLs hold passwords. Empty when it is no such map."""
    if not (env.startswith("map[") and env.endswith("]")):
        return {}
    found = {name[:-1]: value for name, value in _VARIABLES.findall(env[4:-1])}
    return {name: value for name, value in found.items() if name.startswith(_OURS)}


# --- llama-server -----------------------------------------------------------------------------------------------------

_SLOT = re.compile(rb"slot +\S+: +id +(-?[0-9]{1,9}) \| task (-?[0-9]{1,12}) \| *(.*)", re.DOTALL)
_TIMING = re.compile(rb"(prompt eval|eval) time = +([0-9]{1,12}\.[0-9]{1,6}) ms / +([0-9]{1,12}) tokens")
_BEGAN = re.compile(rb"processing task")
_NEW_PROMPT = re.compile(rb"new prompt, .*task\.n_tokens = ([0-9]{1,12})")
_CACHED = re.compile(rb"cached n_tokens = ([0-9]{1,12}),")
_SAMPLING = re.compile(rb"init sampler")
_PROGRESS = re.compile(rb"n_gen = +([0-9]{1,12}),")
_RELEASED = re.compile(rb"stop processing(?:: n_tokens = ([0-9]{1,12}),)?")
_DRAFT = re.compile(rb"draft acceptance = .*\( *([0-9]{1,12}) accepted / *([0-9]{1,12}) generated\)")
_SHIFT = re.compile(rb"slot context shift, .*n_discard = ([0-9]{1,12})")


def _slot(line: bytes) -> Event | None:
    start = line.find(b"slot ")
    found = _SLOT.match(line, start) if start >= 0 else None
    if found is None:
        return Misfit("slot")
    key, said = (int(found[1]), int(found[2])), found[3]
    if said.startswith((b"prompt eval time", b"eval time")):
        timing = _TIMING.match(said)
        if timing is None:
            return Misfit("timing")
        tokens, took = int(timing[3]), float(timing[2]) / 1e3
        return Processed(tokens, took) if timing[1] == b"prompt eval" else Generated(key, tokens, took)
    for beginning, pattern, make in _SAYINGS:
        if said.startswith(beginning):
            numbers = pattern.match(said)
            if numbers is None:
                return Misfit("slot")
            return make(key, [int(number) for number in numbers.groups() if number is not None])
    return None


_SAYINGS: tuple[tuple[bytes, re.Pattern[bytes], Callable[[Key, list[int]], Event]], ...] = (
    (b"processing task", _BEGAN, lambda key, _: Began(key)),
    (b"new prompt,", _NEW_PROMPT, lambda key, numbers: NewPrompt(key, numbers[0])),
    (b"cached n_tokens", _CACHED, lambda key, numbers: Cached(key, numbers[0])),
    (b"init sampler", _SAMPLING, lambda key, _: Sampling(key)),
    (b"n_gen =", _PROGRESS, lambda key, numbers: Progress(key, numbers[0])),
    (b"stop processing", _RELEASED, lambda key, numbers: Released(key, numbers[0] if numbers else None)),
    (b"draft acceptance", _DRAFT, lambda _, numbers: Drafted(numbers[1], numbers[0])),
    (b"slot context shift", _SHIFT, lambda _, numbers: Shifted(numbers[0])),
)


# --- what has no form of its own --------------------------------------------------------------------------------------

_OLD_CONFIG = re.compile(rb'INFO server config env="(map\[.*\])"')


def _bare(line: bytes) -> Event | None:
    if b"prompt eval time =" in line:
        return Misfit("timing")
    if b"exceeds the available context size" in line and b"send_error" in line:
        return Happened("context_exceeded")
    if b"out of memory" in line and (b"alloc" in line or b"Malloc" in line):
        return Happened("allocation_failed")
    if line.startswith((b"panic: ", b"fatal error: ", b"SIGSEGV: ", b"SIGABRT: ")):
        return Happened("crash")
    if b"server config env=" in line:  # before slog had its form: 0.1.34 to 0.6
        found = _OLD_CONFIG.search(line)
        values = environment(found[1].decode("utf-8", "replace")) if found else {}
        return Configured(values) if values else Misfit("message")
    return None
