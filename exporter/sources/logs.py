"""What a server writes into its own log: requests, tokens, loads, what was cut, what died.

Lines are read in a thread, at most so many at a time, and never twice: what was in the log before the exporter's first
look is read back only to know what is loaded and configured, and not counted. No path, query, address, prompt or answer
is kept.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from exporter import catalog, ollamalog
from exporter.dockerd import Daemon
from exporter.local import Local, Place
from exporter.meter import Counter, Histogram
from exporter.model import Failed, Lack, Lacking, LogSettings, Partial, Sample, Watch
from exporter.ollama import NAME_MAX
from exporter.tails import Batch, Tail
from exporter.tails.container import ContainerTail
from exporter.tails.file import FileTail
from exporter.tails.journal import JournalTail

_log = logging.getLogger(__name__)

UNKNOWN, OTHER = "unknown", "other"
STATUSES: tuple[str, ...] = ("2xx", "4xx", "499", "5xx", "503")
KNOWN_STATUSES = frozenset(STATUSES) | {"3xx"}
_BYTES_MAX = 32 * 1024 * 1024
_PORTION = 1024 * 1024
_CPU_MAX = 1.0
"""Bounds on one reading: bytes, and seconds of CPU. What is beyond waits where it is."""
_FIND_EVERY = 60.0
"""Seconds between two looks at where a server logs to, when nobody said it."""


class LogSource:
    """Exposes, for a server named `a`:

        ollama_log_requests_total{server="a",api_endpoint="/api/chat",status="2xx"} 1042
        ollama_log_generated_tokens_total{server="a",model="llama3.2:3b"} 211853
        ollama_log_events_total{server="a",kind="prompt_truncated"} 3

    Where the log is, the settings say; otherwise the server's process tells: a file that it writes to, the journal of
    its unit, the container it runs in.
    """

    def __init__(
        self,
        watch: Watch,
        machine: Local,
        now: Callable[[], float] = time.time,
        *,
        proc: Path = Path("/proc"),
        opened: Callable[[Target, bool], Tail] | None = None,
    ) -> None:
        """`opened` makes the reader of a target; whether all of its content is news is the second argument."""
        self._server, self._settings = watch.server, cast(LogSettings, watch.settings)
        self._machine, self._now, self._proc = machine, now, proc
        self._opened = opened or (lambda target, new: _open(target, new, self._settings.docker))
        self._tally = Tally(
            watch.server, self._settings.models_max, self._names, histogram_models=self._settings.histogram_models
        )
        self._place: Place | None = None
        self._found: Found | None = None
        self._tails: dict[int, Tail] = {}
        self._unopened: dict[Target, Tail] = {}
        self._looking = threading.Lock()
        self._closed = False
        self._find_due = 0.0
        self._last_line: float | None = None

    async def collect(self) -> Iterable[Sample] | Partial:
        return await asyncio.to_thread(self._look)

    async def aclose(self) -> None:
        """A reading that is still under way lets go by itself."""
        self._closed = True
        if self._looking.acquire(blocking=False):
            try:
                self._let_go()
            finally:
                self._looking.release()

    def _look(self) -> Iterable[Sample] | Partial:
        if not self._looking.acquire(blocking=False):
            raise Failed("timeout")
        try:
            self._find()
            return self._read()
        except Lacking as lacking:
            if self._found is None:
                raise
            _log.warning("%s: %s; %s", self._server, lacking.lack.what, lacking.lack.remedy)
            raise Failed("unavailable", self._tally.samples()) from None
        except OSError:
            _log.warning("%s: cannot read the log", self._server, exc_info=True)
            raise Failed("unavailable", self._tally.samples()) from None
        finally:
            if self._closed:
                self._let_go()
            self._looking.release()

    def _read(self) -> Iterable[Sample] | Partial:
        deadline, left = time.thread_time() + _CPU_MAX, _BYTES_MAX
        behind, backlog = False, 0
        for number, tail in self._tails.items():
            batch = Batch(behind=True)
            while batch.behind and left > 0 and time.thread_time() < deadline:
                batch = tail.read(min(left, _PORTION))
                left -= batch.size
                self._tally.count(number, batch.lines, batch.size, batch.gaps)
                if batch.lines:
                    self._last_line = self._now()
            behind = behind or batch.behind
            backlog = backlog + batch.backlog if batch.backlog is not None and backlog >= 0 else -1
        samples = [*self._tally.samples(), *self._reader(behind, backlog)]
        return Partial(tuple(samples), self._found.lacks) if self._found and self._found.lacks else samples

    def _reader(self, behind: bool, backlog: int) -> Iterator[Sample]:
        yield catalog.LOG_BEHIND(float(behind), server=self._server)
        if backlog >= 0:
            yield catalog.LOG_BACKLOG(float(backlog), server=self._server)
        if self._last_line is not None:
            yield catalog.LOG_LAST_LINE(self._last_line, server=self._server)
        if self._found is not None:
            yield catalog.LOG_READER(1.0, server=self._server, reader=self._found.targets[0].reader)

    def _find(self) -> None:
        """Where the log is, again from time to time: a server that was started anew may log elsewhere."""
        if self._tails and time.monotonic() < self._find_due:
            return
        first = self._found is None
        found = self._configured() or self._of_process(first)
        self._find_due = time.monotonic() + _FIND_EVERY
        if self._tails and self._found is not None and found.targets == self._found.targets:
            return
        before = self._found
        if self._tails and before is not None and _as_many_files(before, found):
            for number, target in enumerate(found.targets):
                cast(FileTail, self._tails[number]).follow(Path(target.name))
            self._found = found
            return
        self._let_go()
        for number, target in enumerate(found.targets):
            # Kept until it opens: what a file holds that was not there at the first look has been written since.
            tail = self._unopened.setdefault(target, self._opened(target, not first))
            self._tally.learn(number, tail.history())
            self._tails[number] = self._unopened.pop(target)
            if target.reader == "journal" and not first:
                self._tally.count(number, (), gaps=1)
        self._found = found

    def _configured(self) -> Found | None:
        for reader, name in (
            ("file", self._settings.file),
            ("journal", self._settings.unit),
            ("container", self._settings.container),
        ):
            if name:
                return Found((Target(reader, name),))
        return None

    def _of_process(self, first: bool) -> Found:
        try:
            self._place = self._machine.place(self._settings.url)
        except (Lacking, LookupError):
            if first or self._found is None:
                raise Lacking(*_NOT_HERE) from None
            return self._found  # the server is down: what it wrote last is still to be read
        return where(self._place, self._proc)

    def _names(self, blob: str) -> tuple[str, ...]:
        if self._place is None:
            try:
                self._place = self._machine.place(self._settings.url)
            except (Lacking, LookupError):
                return ()
        try:
            return self._machine.names(self._place, blob)
        except (Lacking, LookupError, OSError):
            return ()

    def _let_go(self) -> None:
        while self._tails:
            self._tails.popitem()[1].close()


# --- where the log is ------------------------------------------------------------------------------------------------

_SET = "set servers[].logs.file, unit or container"
_NOT_HERE = (
    "the server's process cannot be seen from here, and nobody said where its log is",
    f"run the exporter on the server's machine, or {_SET}",
)


@dataclass(frozen=True, slots=True)
class Target:
    """`reader`: file, journal or container; `name`: path, unit, or name or id; `user`: a unit of a user's systemd."""

    reader: str
    name: str
    user: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """The logs of one server: two where standard output and standard error go to different files."""

    targets: tuple[Target, ...]
    lacks: tuple[Lack, ...] = ()


_CONTAINER = re.compile(r"(?:/docker/|/docker-)([0-9a-f]{64})(?:\.scope)?(?:/|$)", re.MULTILINE)
_UNIT = re.compile(r"/([A-Za-z0-9:_.\\@-]+\.service)(?=/|$)", re.MULTILINE)


def where(place: Place, proc: Path = Path("/proc")) -> Found:
    """Where the process of a server writes to. Raises Lacking."""
    outputs = _outputs(place, proc)
    files = _files(outputs)
    if files.targets:
        return files
    container = _CONTAINER.search(place.cgroup)
    if container is not None:
        return Found((Target("container", container[1]),))
    units = _UNIT.findall(place.cgroup)
    # A shell's children share the unit of whatever started it; only what systemd starts writes into a socket.
    to_journal = not outputs or any(stat.S_ISSOCK(seen.st_mode) for _, seen in outputs)
    if units and to_journal and not units[-1].startswith("user@"):
        return Found((Target("journal", units[-1], user=units[0].startswith("user@")),))
    if not outputs:
        raise Lacking(*_NOT_HERE)
    raise Lacking(
        "the server writes its log to a terminal, a pipe or nowhere",
        "start it as a service or in a container, or let it write to a file",
    )


def _outputs(place: Place, proc: Path) -> tuple[tuple[Path, os.stat_result], ...]:
    """What is behind standard output (access lines) and standard error (all others) of the server's process; nothing
    when it does not show them. The paths are those of its descriptors, which are right in other mount namespaces and
    after renames."""
    if place.pid is None:
        return ()
    paths = [proc / str(place.pid) / "fd" / number for number in ("1", "2")]
    try:
        return tuple((path, os.stat(path)) for path in paths)
    except OSError:
        return ()


_ELSEWHERE = ("access lines: its standard output goes elsewhere", "messages: its standard error goes elsewhere")


def _files(outputs: tuple[tuple[Path, os.stat_result], ...]) -> Found:
    regular = [(path, seen) for path, seen in outputs if stat.S_ISREG(seen.st_mode)]
    distinct = {(seen.st_dev, seen.st_ino): Target("file", str(path)) for path, seen in reversed(regular)}
    lacks = [
        Lack(f"the server's log lacks {what}", f"send both to one file, or {_SET}")
        for what, (_, seen) in zip(_ELSEWHERE, outputs, strict=False)
        if not stat.S_ISREG(seen.st_mode)
    ]
    return Found(tuple(reversed(distinct.values())), tuple(lacks) if distinct else ())


def _as_many_files(before: Found, now: Found) -> bool:
    readers = [target.reader for target in (*before.targets, *now.targets)]
    return set(readers) == {"file"} and len(before.targets) == len(now.targets)


def _open(target: Target, new: bool, docker: str) -> Tail:
    match target.reader:
        case "file":
            return FileTail(Path(target.name), new=new)
        case "journal":
            return JournalTail(target.name, user=target.user)
        case _:
            return ContainerTail(target.name, Daemon(docker), new=new)


# --- what is counted -------------------------------------------------------------------------------------------------

SETTINGS: tuple[str, ...] = (
    "OLLAMA_CONTEXT_LENGTH", "OLLAMA_DEBUG", "OLLAMA_FLASH_ATTENTION", "OLLAMA_GPU_OVERHEAD", "OLLAMA_IGPU_ENABLE",
    "OLLAMA_KEEP_ALIVE", "OLLAMA_KV_CACHE_TYPE", "OLLAMA_LLM_LIBRARY", "OLLAMA_LOAD_TIMEOUT",
    "OLLAMA_MAX_LOADED_MODELS", "OLLAMA_MAX_QUEUE", "OLLAMA_NOPRUNE", "OLLAMA_NO_CLOUD", "OLLAMA_NUM_PARALLEL",
    "OLLAMA_SCHED_SPREAD", "OLLAMA_VULKAN",
)  # fmt: skip
"""Settings that are shown. Addresses, paths and origins are not."""
_VALUE_MAX = 64


class Tally:
    """Counts what the lines of one server say. `names`: canonical names of the installed models with these weights.
    `histogram_models`: whether histograms tell models apart."""

    def __init__(
        self,
        server: str,
        models_max: int = 200,
        names: Callable[[str], tuple[str, ...]] = lambda _: (),
        *,
        histogram_models: bool = True,
    ) -> None:
        self._server, self._models_max, self._names = server, models_max, names
        self._histogram_models = histogram_models
        self._stories: dict[int, ollamalog.Story] = {}
        self._known: dict[str, str] = {}
        self._models: set[str] = set()
        self.environment: Mapping[str, str] = {}
        self._requests = Counter(catalog.LOG_REQUESTS, server=server)
        self._requests.zero(api_endpoint=ollamalog.INFERENCE, status=STATUSES)
        self._requests.zero(api_endpoint=ollamalog.ENDPOINTS, status=("2xx", "4xx", "5xx"))
        self._reads = Counter(catalog.LOG_READS, server=server)
        self._reads.zero(api_endpoint=ollamalog.READS)
        self._durations = Histogram(catalog.LOG_DURATION, server=server)
        self._durations.zero(api_endpoint=ollamalog.INFERENCE)
        self._events = Counter(catalog.LOG_EVENTS, server=server)
        self._events.zero(kind=ollamalog.OCCURRENCES)
        self._misfits = Counter(catalog.LOG_MISFITS, server=server)
        self._misfits.zero(kind=ollamalog.MISFIT_KINDS)
        self._loads = Histogram(catalog.LOG_LOAD_DURATION, server=server)
        self._of_server = {
            family: Counter(family, server=server)
            for family in (
                catalog.LOG_LOADS_BEGUN,
                catalog.LOG_TRUNCATED_TOKENS,
                catalog.LOG_STARTS,
                catalog.LOG_LINES,
                catalog.LOG_BYTES,
                catalog.LOG_GAPS,
            )
        }
        for counter in self._of_server.values():
            counter.zero()
        self._of_model = {
            family: Counter(family, server=server)
            for family in (
                catalog.LOG_GENERATIONS,
                catalog.LOG_PROMPT_TOKENS,
                catalog.LOG_PROMPT_SECONDS,
                catalog.LOG_CACHED_TOKENS,
                catalog.LOG_GENERATED_TOKENS,
                catalog.LOG_GENERATION_SECONDS,
                catalog.LOG_ABANDONED,
                catalog.LOG_ABANDONED_TOKENS,
                catalog.LOG_CUT_OFF,
                catalog.LOG_CUT_OFF_TOKENS,
                catalog.LOG_SHIFTED_TOKENS,
                catalog.LOG_DRAFTED,
                catalog.LOG_ACCEPTED,
            )
        }
        self._meet(UNKNOWN)

    def learn(self, number: int, lines: Iterable[bytes]) -> None:
        """Lines of the past, of the log `number` of this server: nothing is counted."""
        if number in self._stories:  # of another file, or known in part
            self._stories[number].skip()
        for told in self._told(number, lines):
            if told.name or told.blob:
                self._meet(self._label(told))

    def count(self, number: int, lines: Iterable[bytes], size: int = 0, gaps: int = 0) -> None:
        """Lines that were written since. `size`: their bytes; `gaps`: times that lines before these may be lost."""
        lines = tuple(lines)
        self._of_server[catalog.LOG_LINES].add(len(lines))
        self._of_server[catalog.LOG_BYTES].add(size)
        self._of_server[catalog.LOG_GAPS].add(gaps)
        if gaps and number in self._stories:
            self._stories[number].skip()
        for told in self._told(number, lines):
            self._count(told)

    def samples(self) -> Iterator[Sample]:
        """All that was counted, and the settings of the server's last start."""
        for counter in (self._requests, self._reads, self._events, self._misfits):
            yield from counter.samples()
        for counter in (*self._of_server.values(), *self._of_model.values()):
            yield from counter.samples()
        for histogram in (self._durations, self._loads):
            yield from histogram.samples()
        for name in SETTINGS:
            if name in self.environment:
                value = self.environment[name][:_VALUE_MAX]
                yield catalog.LOG_SETTING(1.0, server=self._server, setting=name, value=value)

    def _told(self, number: int, lines: Iterable[bytes]) -> Iterator[ollamalog.Told]:
        story = self._stories.setdefault(number, ollamalog.Story())
        for line in lines:
            event = ollamalog.parse(line)
            if event is None:
                continue
            if isinstance(event, ollamalog.Configured):
                self.environment = event.environment
            elif isinstance(event, ollamalog.LoadBegan):
                self._known.clear()  # models come, go and are tagged between loads
            yield from story.follow(event)

    def _count(self, told: ollamalog.Told) -> None:
        match told.event:
            case ollamalog.Access() as access:
                self._count_access(access)
            case ollamalog.Happened(what):
                self._events.add(kind=what)
            case ollamalog.Misfit(kind):
                self._misfits.add(kind=kind)
            case ollamalog.Truncated(lost):
                self._events.add(kind="prompt_truncated")
                self._of_server[catalog.LOG_TRUNCATED_TOKENS].add(lost)
            case ollamalog.LoadBegan():
                self._of_server[catalog.LOG_LOADS_BEGUN].add()
            case ollamalog.Listening():
                self._of_server[catalog.LOG_STARTS].add()
            case ollamalog.Loaded(took):
                self._loads.observe(took, model=self._of_histogram(self._meet(self._label(told))))
            case _:
                self._count_of_runner(told, self._meet(self._label(told)))

    def _count_access(self, access: ollamalog.Access) -> None:
        if access.endpoint in ollamalog.READS:
            self._reads.add(api_endpoint=access.endpoint)
            return
        status = str(access.status) if access.status in (499, 503) else f"{access.status // 100}xx"
        if status not in KNOWN_STATUSES:  # 1xx is no answer
            self._misfits.add(kind="access")
            return
        self._requests.add(api_endpoint=access.endpoint, status=status)
        if status == "2xx" and access.endpoint in ollamalog.INFERENCE:
            self._durations.observe(access.took, api_endpoint=access.endpoint)

    def _count_of_runner(self, told: ollamalog.Told, model: str) -> None:
        match told.event:
            case ollamalog.Processed(tokens, took):
                self._of_model[catalog.LOG_PROMPT_TOKENS].add(tokens, model=model)
                self._of_model[catalog.LOG_PROMPT_SECONDS].add(took, model=model)
            case ollamalog.Generated(_, tokens, took):
                self._of_model[catalog.LOG_GENERATIONS].add(model=model)
                self._of_model[catalog.LOG_GENERATED_TOKENS].add(tokens, model=model)
                self._of_model[catalog.LOG_GENERATION_SECONDS].add(took, model=model)
            case ollamalog.Abandoned(tokens):
                self._of_model[catalog.LOG_ABANDONED].add(model=model)
                self._of_model[catalog.LOG_ABANDONED_TOKENS].add(tokens, model=model)
            case ollamalog.CutOff(generations, tokens):
                self._of_model[catalog.LOG_CUT_OFF].add(generations, model=model)
                self._of_model[catalog.LOG_CUT_OFF_TOKENS].add(tokens, model=model)
            case ollamalog.Cached(_, tokens):
                self._of_model[catalog.LOG_CACHED_TOKENS].add(tokens, model=model)
            case ollamalog.Shifted(lost):
                self._events.add(kind="context_shift")
                self._of_model[catalog.LOG_SHIFTED_TOKENS].add(lost, model=model)
            case ollamalog.Drafted(drafted, accepted):
                self._of_model[catalog.LOG_DRAFTED].add(drafted, model=model)
                self._of_model[catalog.LOG_ACCEPTED].add(accepted, model=model)

    def _label(self, told: ollamalog.Told) -> str:
        """The model's name, if it is told, or if only one installed model has these weights; never a guess."""
        if told.name:
            return told.name if len(told.name) <= NAME_MAX else OTHER
        if not told.blob:
            return UNKNOWN
        if told.blob not in self._known:
            names = self._names(told.blob)
            self._known[told.blob] = names[0] if len(names) == 1 else UNKNOWN
        return self._known[told.blob]

    def _meet(self, model: str) -> str:
        """The label value to use; the counters of a model that is new start at 0."""
        if model in self._models:
            return model
        if len(self._models) > self._models_max and model != OTHER:  # `unknown` is one more
            return self._meet(OTHER)
        self._models.add(model)
        for counter in self._of_model.values():
            counter.zero(model=(model,))
        self._loads.zero(model=(self._of_histogram(model),))
        return model

    def _of_histogram(self, model: str) -> str:
        return model if self._histogram_models else ""
