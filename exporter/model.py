"""The values that travel down the line: families, samples, watches, readings, snapshots.

Standard library only; nothing here does I/O or knows a metric's name.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol, get_args

Kind = Literal["gauge", "counter", "histogram", "info"]

Reason = Literal[
    "dns", "refused", "unreachable", "reset", "tls", "connect_timeout", "timeout", "forbidden_host", "http_4xx",
    "http_5xx", "redirect", "too_large", "decode", "malformed", "unavailable", "bug",
]  # fmt: skip
"""Why a reading failed. A fixed vocabulary, so that it may stand in a label; never an exception's text."""
REASONS: tuple[Reason, ...] = get_args(Reason)


@dataclass(frozen=True, slots=True)
class Distribution:
    """A histogram's state: cumulative `counts`, one per bucket of its family and one more for +Inf; `total` is the
    sum of what was observed, in the family's unit."""

    counts: tuple[int, ...]
    total: float


Value = float | Distribution


@dataclass(frozen=True, slots=True, eq=False)
class Family:
    """One metric family, declared only in `catalog/`.

    `name` is the name as a query writes it (counters end in `_total`, infos in `_info`). Calling a family makes a
    sample; wrong or missing labels raise TypeError, where prometheus_client would silently drop them.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    unit: str = ""
    buckets: tuple[float, ...] = ()
    _label_set: frozenset[str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_label_set", frozenset(self.labels))

    def __call__(self, value: Value, /, **labels: str) -> Sample:
        if labels.keys() != self._label_set:
            raise TypeError(f"{self.name} takes labels {sorted(self._label_set)}, got {sorted(labels)}")
        return Sample(self, tuple([labels[name] for name in self.labels]), value)


class Sample(NamedTuple):
    """One series' value; `labels` are the values in the order of `family.labels`.

    A tuple, because each poll makes dozens: a frozen dataclass takes twice as long to make."""

    family: Family
    labels: tuple[str, ...]
    value: Value


class Failed(Exception):
    """A source could not see all of its target. Carries the reason and the samples that are right nevertheless."""

    def __init__(self, reason: Reason, samples: Iterable[Sample] = ()) -> None:
        super().__init__(reason)
        self.reason: Reason = reason
        self.samples = tuple(samples)


@dataclass(frozen=True, slots=True)
class Lack:
    """Something that a source could see and cannot here: what it is blind to and why, and the one line that helps."""

    what: str
    remedy: str


class Lacking(Exception):
    """A source cannot see anything of its target from here, and nothing is wrong with the target. Carries what it has
    counted when it could."""

    def __init__(self, what: str, remedy: str, samples: Iterable[Sample] = ()) -> None:
        super().__init__(what)
        self.lack = Lack(what, remedy)
        self.samples = tuple(samples)


@dataclass(frozen=True, slots=True)
class Partial:
    """All that can be seen from here, and what cannot for want of something."""

    samples: tuple[Sample, ...]
    lacks: tuple[Lack, ...]


class Source(Protocol):
    """One vantage point on one target. The whole extension point."""

    async def collect(self) -> Iterable[Sample] | Partial:
        """Look once. Raises `Failed` when the target could not be seen, or not wholly, `Lacking` when it cannot be
        seen from here."""

    async def aclose(self) -> None:
        """Let go of connections and tasks. Called once, after the last collect."""


def canonical(name: str) -> str:
    """`llama3` and `llama3:latest` are one model: the name with its tag."""
    return name if ":" in name.rsplit("/", 1)[-1] else f"{name}:latest"


def is_cloud(name: str) -> bool:
    """Whether a request for this name may be sent on to ollama.com, wherever it is stored. Errs on the safe side."""
    return any(part == "cloud" or part.endswith("-cloud") for part in name.lower().split(":"))


class Secret:
    """A string that never shows itself: `reveal()` gives it, everything else prints `<secret>`."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "<secret>"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __reduce__(self) -> str | tuple[object, ...]:
        raise TypeError("a Secret is not to be pickled or copied out of the process")


@dataclass(frozen=True, slots=True)
class PinnedFile:
    """A certificate or key file as it was when the configuration was read. `digest` makes a rotated file a different
    value, so that a reload replaces exactly the connections that used it."""

    path: str
    digest: str


@dataclass(frozen=True, slots=True)
class Endpoint:
    """How to reach one Ollama server. `url` has no trailing slash, no user and no password. Times in seconds."""

    url: str
    timeout: float = 5.0
    connect_timeout: float = 2.0
    host: str = ""
    headers: tuple[tuple[str, Secret], ...] = ()
    bearer: Secret | None = None
    basic: tuple[str, Secret] | None = None
    ca: PinnedFile | None = None
    certificate: PinnedFile | None = None
    key: PinnedFile | None = None
    insecure: bool = False
    proxy: Secret | None = None


CanaryMode = Literal["off", "loaded", "always"]
Mode = Literal["auto", "on", "off"]
"""Of a source that needs more than HTTP: auto, where it can be had."""


@dataclass(frozen=True, slots=True)
class ApiSettings:
    """`inventory_every`: seconds between two looks at /api/tags. `models_max`: cap on values of the label `model`.
    `inventory`: whether each installed model is described."""

    endpoint: Endpoint
    inventory_every: float = 300.0
    models_max: int = 200
    inventory: bool = True


@dataclass(frozen=True, slots=True)
class CanarySettings:
    """`every`: least seconds between two canaries on one model; `timeout`: how long one may wait for its answer;
    `mode`: for every model that is not named in `models`. `histogram_models`: whether histograms tell models apart."""

    endpoint: Endpoint
    every: float = 60.0
    timeout: float = 600.0
    mode: CanaryMode = "loaded"
    models: tuple[tuple[str, CanaryMode], ...] = ()
    models_max: int = 200
    histogram_models: bool = True


@dataclass(frozen=True, slots=True)
class HostSettings:
    """`name` is the value of the label `host`; `models_dir` the model store, found by itself when empty."""

    name: str
    models_dir: str = ""


@dataclass(frozen=True, slots=True)
class SocketsSettings:
    """`url`: where the server answers; its port is looked at in the kernel."""

    url: str


@dataclass(frozen=True, slots=True)
class RunnerSettings:
    """`url`: where the server answers, to find its process. `models_max`: cap on values of the label `model`."""

    url: str
    models_max: int = 200


@dataclass(frozen=True, slots=True)
class LogSettings:
    """Where a server's log is. At most one of `file`, `unit` and `container` is set; none: found from its process.
    `docker`: the engine that has the container, as in DockerSettings. `models_max`: cap on values of the label
    `model`. `histogram_models`: whether histograms tell models apart."""

    url: str
    file: str = ""
    unit: str = ""
    container: str = ""
    docker: str = ""
    models_max: int = 200
    histogram_models: bool = True


@dataclass(frozen=True, slots=True)
class DockerSettings:
    """`url`: where the server answers, to find its container; `container`: its name or id, where it is configured.
    `address`: the engine's (unix:///..., tcp://...); empty: as the docker command finds it."""

    url: str
    container: str = ""
    address: str = ""


@dataclass(frozen=True, slots=True)
class GpuSettings:
    """`name` is the value of the label `host`. `servers`: (name, URL) of those whose runners may hold its memory.
    `models_max`: cap on values of the label `model` per server."""

    name: str
    servers: tuple[tuple[str, str], ...] = ()
    models_max: int = 200


@dataclass(frozen=True, slots=True)
class Policy:
    """What an operator wants of servers; None and empty are no wish. `required`: names of models; `allowed`: patterns
    of theirs, in which `*` stands for anything. `keep_alive` in seconds."""

    required: tuple[str, ...] = ()
    allowed: tuple[str, ...] = ()
    max_context: int | None = None
    max_parallel: int | None = None
    max_keep_alive: float | None = None


@dataclass(frozen=True, slots=True)
class AuditSettings:
    """`container`: the server's, by name or id, found when empty; `docker`: the daemon's address, empty as the docker
    command finds it, None: it is not to be asked. `log`: the server's, where somebody said it."""

    endpoint: Endpoint
    container: str = ""
    docker: str | None = ""
    log: LogSettings | None = None
    policy: Policy = Policy()


@dataclass(frozen=True, slots=True)
class NativeSettings:
    """`models_max`: cap on values of the label `model`."""

    endpoint: Endpoint
    models_max: int = 200


@dataclass(frozen=True, slots=True)
class Watch:
    """Look at this server through this source, this often, within this time (both in seconds).

    Compared by value: a plan is a set of watches, a reload is set arithmetic. `server` is empty for what is not about a
    member of the fleet (the host, the exporter itself). `settings` is the source's own frozen value. `optional`: when
    the source can see nothing from here, that is no failure.
    """

    server: str
    source: str
    every: float
    within: float
    settings: Hashable = None
    optional: bool = False
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Made once: each poll looks itself up half a dozen times, and settings are deep."""
        told = (self.server, self.source, self.every, self.within, self.settings, self.optional)
        object.__setattr__(self, "_hash", hash(told))

    def __hash__(self) -> int:
        return self._hash


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """What was seen through one watch: samples, or a failure with its reason and the samples that hold all the same.

    `at` is the Unix time at which it was complete, `took` its duration in seconds. `failures` counts this watch's
    failed readings so far, by reason; `succeeded_at` is the Unix time of the last reading without failure. `lacks`:
    what could be seen if something were given.
    """

    watch: Watch
    at: float
    took: float
    samples: tuple[Sample, ...] = ()
    failure: Reason | None = None
    failures: Mapping[Reason, int] = field(default_factory=dict)
    succeeded_at: float | None = None
    lacks: tuple[Lack, ...] = ()

    @property
    def blind(self) -> bool:
        """Nothing can be seen from here, and nobody insists: no reading at all, as far as metrics are concerned."""
        return bool(self.lacks) and self.failure is None and self.succeeded_at is None


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """A reading beside its text, and how many series that is.

    `text`: a row for each vantage point of the catalogue that the reading tells from. First its name, then for each of
    its families the ready lines (UTF-8), empty where the reading has none: rows of one vantage point are of one length,
    so that those of a fleet can be turned into columns, a family each.
    """

    reading: Reading
    text: tuple[tuple[bytes, ...], ...]
    series: int


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """All current readings, in the order of the plan. Replaced whole, never changed. `awaited`: watches that have
    none yet."""

    entries: Mapping[Watch, Entry] = field(default_factory=dict)
    awaited: tuple[Watch, ...] = ()
