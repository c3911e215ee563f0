"""Timed tiny generations on models that are loaded anyway, by rules that keep them harmless.

A canary never loads, reloads or evicts a model, and never keeps one alive that nobody uses: it runs on what /api/ps
lists now, with the context that is configured, without keep_alive, and not twice in a row without a user in between.
What is due and not sent is counted with its reason: silence must be visible.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from exporter import catalog
from exporter.meter import Counter, Histogram
from exporter.model import CanaryMode, CanarySettings, Failed, Sample, Watch, is_cloud
from exporter.ollama import (
    NAME_MAX,
    Answer,
    BadAnswer,
    Client,
    Generation,
    HttpError,
    InstalledModel,
    LoadedModel,
    OllamaError,
    TimedOut,
    parse_embedding,
    parse_generation,
    version_number,
)

Outcome = Literal["ok", "caused_load", "empty", "rejected", "http_error", "malformed", "timeout", "unreachable"]
Skip = Literal[
    "busy", "unused", "saturated", "in_flight", "expiring", "replaced", "remote", "incapable", "old_server", "untold",
    "stopped",
]  # fmt: skip
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
SKIPS: tuple[Skip, ...] = get_args(Skip)

PROMPT = (
    "Health check of the monitoring system. Please continue counting in words:"
    " one, two, three, four, five, six, seven, eight, nine, ten,"
)
"""Fixed, so that repeats meet their own cache entry; longer than 20 tokens, so that the runner never takes it for the
beginning of a user's conversation and puts it into that user's slot."""

TOKENS = 16
_TOKENS_FOR_SPEED = 8
SAFE_VERSION = (0, 30, 0)
"""Before, num_ctx from /api/ps is not what the server compares, and may cause a reload."""
_LOCAL_SUFFIX_VERSION = (0, 17, 6)
_PINNED_AHEAD = 10 * 365 * 86400.0
_EXPIRY_MARGIN = 10.0
_LOAD_SUSPICION = 0.5  # a warm load_duration was seen up to 0.11 s, the quickest reload at 0.54 s
_SATURATION_WAIT = 2.0
_SATURATION_HOLD = 3  # intervals
_SLIDE_LOOK = 0.25
_DUE_TOLERANCE = 0.2  # polls start a little early or late; none is put off by a whole poll for it
_SETTLE = 1.0
_SETTLE_LOOKS = 3


@dataclass(slots=True)
class _Subject:
    """What is remembered of one loaded model. `due` is on the loop's clock, `left_expiry` on the server's."""

    digest: str
    due: float
    left_expiry: float | None = None
    settling: bool = False
    stopped: bool = False
    last_attempt: float | None = None
    last_success: float | None = None


@dataclass(frozen=True, slots=True)
class _Scene:
    """The server as it is just before a decision."""

    clock: float
    version: tuple[int, int, int] | None
    loaded: dict[str, LoadedModel]
    installed: dict[str, InstalledModel]


class CanarySource:
    """Exposes, for a server named `a`:

        ollama_canary_attempts_total{model="llama3.2:3b",outcome="ok",server="a"} 12.0
        ollama_canary_skips_total{model="llama3.2:3b",reason="unused",server="a"} 3.0
        ollama_canary_time_to_first_token_seconds_bucket{le="2.0",model="llama3.2:3b",server="a"} 12.0

    A generation runs in a task of its own, so that one that waits in a long queue delays no reading; there is never
    more than one in flight.
    """

    def __init__(self, watch: Watch, client: Client, now: Callable[[], float] = time.time) -> None:
        self._server, self._settings = watch.server, cast(CanarySettings, watch.settings)
        self._client, self._now = client, now
        self._modes = dict(self._settings.models)
        self._subjects: dict[str, _Subject] = {}
        self._present: frozenset[str] = frozenset()
        self._met: dict[str, None] = {}
        self._pending: asyncio.Task[None] | None = None
        self._pending_model, self._pending_since = "", 0.0
        self._hold_until = self._tick = 0.0
        self._attempts = Counter(catalog.CANARY_ATTEMPTS, server=watch.server)
        self._skips = Counter(catalog.CANARY_SKIPS, server=watch.server)
        self._ttft = Histogram(catalog.CANARY_TTFT, server=watch.server)
        self._duration = Histogram(catalog.CANARY_DURATION, server=watch.server)
        self._queue_wait = Histogram(catalog.CANARY_QUEUE_WAIT, server=watch.server)
        self._load = Histogram(catalog.CANARY_LOAD, server=watch.server)
        self._prompt = Histogram(catalog.CANARY_PROMPT, server=watch.server)
        self._per_token = Histogram(catalog.CANARY_PER_TOKEN, server=watch.server)
        self._network = Histogram(catalog.CANARY_NETWORK, server=watch.server)

    async def collect(self) -> Iterable[Sample]:
        self._reap()
        self._tick = _loop_time()
        try:
            answer = await self._client.ps()
            self._meet(answer.value.models)
            due = [name for name in self._present if self._subjects[name].due <= self._tick + _DUE_TOLERANCE]
            if due:
                await self._consider(due)
        except OllamaError as error:
            raise Failed(error.reason, self._samples()) from error
        return list(self._samples())

    async def aclose(self) -> None:
        if self._pending is not None:
            self._pending.cancel()
            await asyncio.gather(self._pending, return_exceptions=True)
        await self._client.aclose()

    def _reap(self) -> None:
        """Forget a canary that has returned; a bug in it is raised here, where it is logged and counted."""
        if self._pending is not None and self._pending.done():
            task, self._pending = self._pending, None
            task.result()

    # --- who is due --------------------------------------------------------------------------------------------------

    def _meet(self, loaded: Iterable[LoadedModel]) -> None:
        """Bring the subjects in line with what is loaded (and with what is to be probed always).

        A model is due one interval after it was first met, not at once: an exporter that restarts in a loop forgets who
        used the model last, and must not keep it alive.
        """
        rows = {model.name: model for model in loaded if len(model.name) <= NAME_MAX}
        names = sorted(name for name in rows if self._mode(name) != "off")[: self._settings.models_max]
        names += [name for name, mode in self._settings.models if mode == "always" and name not in rows]
        self._present = frozenset(names)
        self._forget_those_beyond_the_cap(names)
        # A model that reloads under a canary is not listed meanwhile; what its answer tells must not be lost.
        asked = {self._pending_model} if self._pending is not None else set()
        for name in self._subjects.keys() - self._present - asked:
            if not self._subjects[name].stopped:
                del self._subjects[name]
        for name in names:
            row = rows.get(name)
            subject = self._subjects.get(name)
            if subject is None or (row is not None and subject.digest != row.digest):
                digest = row.digest if row else ""
                self._subjects[name] = _Subject(digest, due=self._tick + self._settings.every)
                self._zero(name)
            elif subject.settling and row is not None:
                # When we last looked, users in flight kept the expiry from moving. What it is now may be our doing.
                subject.left_expiry, subject.settling = row.expires, False

    def _forget_those_beyond_the_cap(self, names: list[str]) -> None:
        """Models come and go, and each leaves its counters: of those who are gone, the longest first."""
        self._met = {**{name: None for name in self._met if name not in self._present}, **dict.fromkeys(names)}
        beyond = len(self._met) - max(self._settings.models_max, len(names))
        if beyond > 0:
            self._met = dict.fromkeys(list(self._met)[beyond:])
            for meter in self._meters():
                meter.keep("model", frozenset(self._met) | {self._pending_model, ""})

    def _mode(self, name: str) -> CanaryMode:
        return self._modes.get(name, self._settings.mode)

    def _zero(self, name: str) -> None:
        self._attempts.zero(model=(name,), outcome=OUTCOMES)
        self._skips.zero(model=(name,), reason=SKIPS)

    async def _consider(self, due: list[str]) -> None:
        """Send at most one canary; count a skip for each due model that must not have one."""
        if self._pending is not None:
            for name in due:
                self._skip(name, "in_flight")
            return
        scene = await self._look()
        for name in sorted(due, key=lambda name: self._subjects[name].due):
            reason = self._objection(name, scene) or await self._sliding(name, scene)
            if reason is not None:
                self._skip(name, reason)
                continue
            self._send(name, scene)
            return

    async def _look(self) -> _Scene:
        version = await self._client.version()
        tags = await self._client.tags()
        loaded = await self._client.ps()
        # "" is where histograms do not tell models apart.
        names = frozenset(model.name for model in tags.value.models) | self._subjects.keys() | {""}
        for meter in self._meters():
            meter.keep("model", names)
        return _Scene(
            clock=self._now() + (loaded.clock_offset or 0.0),
            version=version_number(version.value),
            loaded={model.name: model for model in loaded.value.models},
            installed={model.name: model for model in tags.value.models},
        )

    def _objection(self, name: str, scene: _Scene) -> Skip | None:
        """Why no canary may run on this model now; None if it may, as far as one look can tell."""
        installed, loaded = scene.installed.get(name), scene.loaded.get(name)
        subject, always = self._subjects[name], self._mode(name) == "always"
        if is_cloud(name) or (installed is not None and installed.remote):
            return "remote"
        if subject.stopped:
            return "stopped"
        if name not in self._modes and (scene.version is None or scene.version < SAFE_VERSION):
            return "old_server"
        if installed is None or (loaded is not None and loaded.digest != installed.digest):
            return "replaced"
        if _endpoint(installed, named=name in self._modes) is None:
            return "incapable"
        if self._hold_until > _loop_time():
            return "saturated"
        if loaded is None:
            return None if always else "expiring"
        return self._objection_to_loaded(loaded, subject, scene.clock, always)

    def _objection_to_loaded(self, loaded: LoadedModel, subject: _Subject, clock: float, always: bool) -> Skip | None:
        if loaded.context is None or loaded.expires is None:
            return "untold"
        if loaded.expires < clock:
            return "busy"
        if always or loaded.expires - clock > _PINNED_AHEAD:
            return None
        if loaded.expires - clock < _EXPIRY_MARGIN:
            return "expiring"
        if loaded.expires == subject.left_expiry:
            return "unused"
        return None

    async def _sliding(self, name: str, scene: _Scene) -> Skip | None:
        """A second look a moment later: an expiry that moves meanwhile means that a request is in flight, or was."""
        before = scene.loaded.get(name)
        if before is None:
            return None
        await asyncio.sleep(_SLIDE_LOOK)
        answer = await self._client.ps()
        after = next((model for model in answer.value.models if model.name == name), None)
        if after is None or after.digest != before.digest or after.context != before.context:
            return "expiring"
        return "busy" if after.expires != before.expires else None

    def _skip(self, name: str, reason: Skip) -> None:
        self._skips.add(model=name, reason=reason)
        self._subjects[name].due = self._tick + self._settings.every

    # --- one canary --------------------------------------------------------------------------------------------------

    def _send(self, name: str, scene: _Scene) -> None:
        subject = self._subjects[name]
        subject.due = self._tick + self._settings.every
        subject.last_attempt = self._pending_since = self._now()
        self._pending_model = name
        self._pending = asyncio.create_task(self._attempt(name, subject, scene), name=f"canary {self._server} {name}")

    async def _attempt(self, name: str, subject: _Subject, scene: _Scene) -> None:
        loaded, installed = scene.loaded.get(name), scene.installed[name]
        path = cast(str, _endpoint(installed, named=name in self._modes))
        payload = _payload(path, _address(name, scene.version), loaded.context if loaded else None)
        parse = parse_generation if path == "/api/generate" else parse_embedding
        try:
            answer = await self._client.post(path, payload, self._settings.timeout, parse)
        except OllamaError as error:
            outcome = _failure(error)
        else:
            outcome = self._judge(answer, path)
            self._observe(name, outcome, answer, path)
        self._attempts.add(model=name, outcome=outcome)
        if outcome == "ok":
            subject.last_success = self._now()
        if outcome == "caused_load" and self._mode(name) != "always":
            subject.stopped = True
        if outcome in ("rejected", "timeout"):
            self._hold()
        if loaded is not None:
            subject.settling = True
            subject.left_expiry = await self._settled_expiry(name, loaded, subject)

    def _judge(self, answer: Answer[Generation], path: str) -> Outcome:
        seen = answer.value
        if not seen.done or (path == "/api/generate" and seen.tokens < 1):
            return "empty"
        return "caused_load" if seen.load >= _LOAD_SUSPICION else "ok"

    def _observe(self, name: str, outcome: Outcome, answer: Answer[Generation], path: str) -> None:
        seen, model = answer.value, name if self._settings.histogram_models else ""
        if outcome in ("ok", "caused_load"):
            self._load.observe(seen.load, model=model)
        if outcome != "ok":
            return
        self._duration.observe(seen.total, model=model)
        self._network.observe(max(0.0, answer.took - seen.total), model=model)
        if path != "/api/generate":
            return
        wait = max(0.0, seen.total - seen.load - seen.prompt - seen.decode)
        self._queue_wait.observe(wait, model=model)
        self._ttft.observe(max(0.0, seen.total - seen.decode), model=model)
        self._prompt.observe(seen.prompt, model=model)
        if seen.tokens >= _TOKENS_FOR_SPEED:
            # The first token comes out of the last prompt batch and costs no decode time.
            self._per_token.observe(seen.decode / (seen.tokens - 1), model=model)
        if wait > _SATURATION_WAIT:
            self._hold()

    def _hold(self) -> None:
        """Users are waiting: leave them the slots for a while."""
        self._hold_until = _loop_time() + _SATURATION_HOLD * self._settings.every

    async def _settled_expiry(self, name: str, before: LoadedModel, subject: _Subject) -> float | None:
        """The expiry that this canary leaves behind. The scheduler writes it shortly after the answer has gone out."""
        for _ in range(_SETTLE_LOOKS):
            await asyncio.sleep(_SETTLE)
            try:
                answer = await self._client.ps()
            except OllamaError:
                return None
            now = next((model for model in answer.value.models if model.name == name), None)
            if now is None or now.expires != before.expires:
                subject.settling = False
                return now.expires if now else None
        return None

    # --- what is exposed ---------------------------------------------------------------------------------------------

    def _meters(self) -> tuple[Counter | Histogram, ...]:
        return (
            self._attempts,
            self._skips,
            self._ttft,
            self._duration,
            self._queue_wait,
            self._load,
            self._prompt,
            self._per_token,
            self._network,
        )

    def _samples(self) -> Iterator[Sample]:
        for meter in self._meters():
            yield from meter.samples()
        for name, subject in self._subjects.items():
            labels = {"server": self._server, "model": name}
            if subject.last_attempt is not None:
                yield catalog.CANARY_LAST_ATTEMPT(subject.last_attempt, **labels)
            if subject.last_success is not None:
                yield catalog.CANARY_LAST_SUCCESS(subject.last_success, **labels)
            yield catalog.CANARY_STOPPED(float(subject.stopped), **labels)
        if self._pending is not None and not self._pending.done():
            yield catalog.CANARY_PENDING(self._pending_since, server=self._server, model=self._pending_model)


def _loop_time() -> float:
    return asyncio.get_running_loop().time()


def _endpoint(model: InstalledModel, *, named: bool) -> str | None:
    """The path that suits the model's capabilities; None when none does. Servers before 0.30 do not tell them: there
    the operator's word, that this model is to be probed, stands for the ability to generate."""
    if model.capabilities is None:
        return "/api/generate" if named else None
    if "completion" in model.capabilities:
        return "/api/generate"
    return "/api/embed" if "embedding" in model.capabilities else None


def _address(name: str, version: tuple[int, int, int] | None) -> str:
    """`:local` forbids the server to send the request on to the cloud, whatever the name resolves to."""
    return f"{name}:local" if version is not None and version >= _LOCAL_SUFFIX_VERSION else name


def _payload(path: str, model: str, context: int | None) -> dict[str, Any]:
    """The whole body. Every runner option but num_ctx is left out, because one that differs from what the model was
    loaded with reloads it; so is keep_alive, because it would stick for everybody."""
    options = {} if context is None else {"num_ctx": context}
    if path == "/api/embed":
        return {"model": model, "input": PROMPT, "options": options}
    return {
        "model": model,
        "prompt": PROMPT,
        "raw": True,
        "stream": False,
        "think": False,
        "options": {**options, "num_predict": TOKENS, "temperature": 0},
    }


def _failure(error: OllamaError) -> Outcome:
    if isinstance(error, TimedOut):
        return "timeout"
    if isinstance(error, HttpError):
        return "rejected" if error.status == 503 else "http_error"
    return "malformed" if isinstance(error, BadAnswer) else "unreachable"
