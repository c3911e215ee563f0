"""What a line can say, and the vocabularies. Durations in seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

INFERENCE: tuple[str, ...] = (
    "/api/generate", "/api/chat", "/api/embed", "/api/embeddings", "/v1/chat/completions", "/v1/completions",
    "/v1/embeddings", "/v1/responses", "/v1/messages", "/v1/audio/transcriptions",
)  # fmt: skip
"""Routes that use a model."""
READS: tuple[str, ...] = ("/", "/api/version", "/api/status", "/api/ps", "/api/tags", "/api/show", "/v1/models")
"""Routes that only tell something; the exporter's own polls are among their callers."""
ENDPOINTS: tuple[str, ...] = (
    *INFERENCE, "/api/pull", "/api/push", "/api/create", "/api/copy", "/api/delete", "/api/blobs", "other",
)  # fmt: skip
"""All other routes. `other` is every path that Ollama does not have, and the few that concern an account."""

Occurrence = Literal[
    "load_failed",  # an attempt to load a model ended in an error
    "load_aborted",  # the client left while its model was loading, and the load was given up
    "load_oom",  # out of memory while loading: tried once more, smaller or alone
    "runtime_oom",  # out of memory while working: every model is unloaded
    "allocation_failed",  # a runner could not have memory of a device
    "evicted_for_memory",  # a model had to go because another one would not have fitted beside it
    "host_memory_pressure",  # memory mapping was given up because the machine's memory is short
    "runner_died",  # a runner was found dead, ended by itself, or was ended by a signal while it was loading
    "generation_failed",  # the runner did not answer a request
    "prompt_truncated",  # a prompt was cut to fit the context
    "context_shift",  # the context was full: half of it was thrown away in mid-answer
    "context_exceeded",  # a prompt was refused because it exceeds the context
    "client_left_queue",  # a client left while it waited for a slot
    "parallel_forced",  # the model's architecture allows one slot only, whatever is configured
    "context_clamped",  # a request wanted more context than the model was trained with
    "invalid_option",  # a request had an option that Ollama does not know
    "invalid_environment",  # a variable has a value that Ollama cannot read: the default is in force
    "template_missing",  # a model has no chat template: its answers may be poor
    "gpu_discovery_failed",  # GPUs could not be looked for, or their driver is too old
    "crash",  # the server itself panicked, or a runner that is written in Go
]
OCCURRENCES: tuple[Occurrence, ...] = get_args(Occurrence)

MisfitKind = Literal["access", "message", "slot", "timing"]
MISFIT_KINDS: tuple[MisfitKind, ...] = get_args(MisfitKind)


@dataclass(frozen=True, slots=True)
class Access:
    """A request was answered. `endpoint`: one of ENDPOINTS or READS; the path itself, its query and the client's
    address are not kept. `took`: until the last byte, waiting and loading included."""

    endpoint: str
    status: int
    took: float


Key = tuple[int, int]
"""Of a task: its slot, and its number in its runner. Each line of the task tells it; runners have the same ones."""


@dataclass(frozen=True, slots=True)
class Began:
    """A slot of a runner has taken a task: a generation or an embedding."""

    key: Key


@dataclass(frozen=True, slots=True)
class NewPrompt:
    """A slot of a runner begins with a prompt."""

    key: Key
    tokens: int


@dataclass(frozen=True, slots=True)
class Cached:
    """So much of a prompt is in the cache by now; the first one after `NewPrompt` is what was there before."""

    key: Key
    tokens: int


@dataclass(frozen=True, slots=True)
class Sampling:
    """The prompt of a generation is read, and tokens come. Embeddings never say it."""

    key: Key


@dataclass(frozen=True, slots=True)
class Progress:
    """So many tokens of an answer are made. Runners say it every three seconds."""

    key: Key
    tokens: int


@dataclass(frozen=True, slots=True)
class Processed:
    """The prompt of a request that was answered to its end: what was not in the cache."""

    tokens: int
    took: float


@dataclass(frozen=True, slots=True)
class Generated:
    """The answer to a request, to its end. The first token costs no time here: it falls out of the prompt."""

    key: Key
    tokens: int
    took: float


@dataclass(frozen=True, slots=True)
class Released:
    """A slot has ended its task: answered or cancelled. `tokens`: of prompt and answer that were read again or are in
    the cache by then, which the answer's last one is not; None where it is not told."""

    key: Key
    tokens: int | None


@dataclass(frozen=True, slots=True)
class Abandoned:
    """A generation that its runner ended before its end, mostly because its client had left, and how many tokens were
    made for it. Not a line: what `Tasks` makes of several."""

    tokens: int


@dataclass(frozen=True, slots=True)
class CutOff:
    """Generations whose runner went before it had told what they came to, and how many tokens of them were told on the
    way. Not a line: what `Tasks` makes of several."""

    generations: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Drafted:
    """Speculation over one request: tokens that were proposed, and how many of them held."""

    drafted: int
    accepted: int


@dataclass(frozen=True, slots=True)
class Truncated:
    """A prompt was cut by so many tokens."""

    lost: int


@dataclass(frozen=True, slots=True)
class Shifted:
    """So many tokens of context were thrown away in mid-answer."""

    lost: int


@dataclass(frozen=True, slots=True)
class LoadBegan:
    """A runner is being started. `blob`: `sha256-<hex>` of its weights, or empty; `name`: of its model, where told."""

    blob: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class Named:
    """The name of the model that is being loaded, canonical."""

    name: str


@dataclass(frozen=True, slots=True)
class Started:
    """A runner answers, so long after it was started. Most servers say it twice."""

    took: float


@dataclass(frozen=True, slots=True)
class Placed:
    """The runner that was started counts among so many now."""

    runners: int


@dataclass(frozen=True, slots=True)
class Loaded:
    """A load is complete. Not a line: what `Story` makes of several."""

    took: float


@dataclass(frozen=True, slots=True)
class Listening:
    """The server has started."""

    version: str


@dataclass(frozen=True, slots=True)
class Configured:
    """The environment as the server has understood it at its start, without what could be a secret."""

    environment: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Happened:
    what: Occurrence


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """An attempt to load a model ended in an error. `crashed`: a signal ended its runner."""

    crashed: bool


@dataclass(frozen=True, slots=True)
class Terminated:
    """A runner that had complained before ended by itself. `crashed`: by a signal."""

    crashed: bool


@dataclass(frozen=True, slots=True)
class Misfit:
    """A line that looks like one of ours and cannot be read: a newer Ollama writes it in another way."""

    kind: MisfitKind


Event = (
    Access | Began | NewPrompt | Cached | Sampling | Progress | Processed | Generated | Released | Abandoned | CutOff
    | Drafted | Truncated | Shifted | LoadBegan | LoadFailed | Named | Started | Placed | Loaded | Listening
    | Configured | Happened | Terminated | Misfit
)  # fmt: skip
