"""What is asked of the servers, as one frozen value: a YAML file or one of two that are built in, and flags over it.

Strict, as the configuration is: every mistake with its path. A scenario says nothing about where the servers are.
"""

# ruff: noqa: RUF009 - `setting` is a dataclass field by another name

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from exporter.config import ConfigError, document
from exporter.config.kinds import (
    SWITCH,
    Kind,
    Reader,
    Wrong,
    choice,
    listing,
    plain,
    section,
    seen,
    setting,
    text,
    whole,
)
from exporter.config.kinds import (
    duration as span,
)
from exporter.loadtest.arrivals import Course, Phase, Shape, course, replayed
from exporter.loadtest.arrivals import Kind as ArrivalKind
from exporter.model import canonical, is_cloud

Api = Literal["chat", "generate", "embed", "openai"]
PATHS: Mapping[Api, str] = {
    "chat": "/api/chat", "generate": "/api/generate", "embed": "/api/embed", "openai": "/v1/chat/completions"
}  # fmt: skip

# --- kinds of our own ------------------------------------------------------------------------------------------------


def number(least: float, most: float, what: str) -> Kind[float]:
    def parse(raw: object) -> float:
        if isinstance(raw, bool) or not isinstance(raw, int | float) or not least <= raw <= most:
            raise Wrong(f"must be {what}, got {seen(raw)}")
        return float(raw)

    return plain(what, parse)


_SHARE = number(0.0, 1.0, "a share from 0 to 1")
_LEVEL = number(0.0, 10.0, "a level from 0 to 10, 1 is the whole load")
_WEIGHT = number(0.001, 1e6, "a weight above 0")
RATE = number(0.001, 1e6, "a number of requests a second above 0")


def share_of(raw: object) -> float:
    """0.5, `0.5` or `50%`."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(%?)", str(raw)) if not isinstance(raw, bool) else None
    value = float(match[1]) / (100 if match[2] else 1) if match else math.nan
    if not 0 < value <= 1:
        raise Wrong(f"must be a share such as 50% or 0.5, got {seen(raw)}")
    return value


def model_name(raw: object) -> str:
    if not isinstance(raw, str) or not re.fullmatch(r"[A-Za-z0-9][!-~]{0,383}", raw):
        raise Wrong(f"must be the name of a model such as llama3.2:3b, got {seen(raw)}")
    if is_cloud(raw):
        raise Wrong("is a model in the cloud, which somebody pays for: it is never asked")
    return canonical(raw)


_MODEL = plain("name", model_name)
_NAME = text("name", r"[A-Za-z0-9._-]{1,64}", "1 to 64 letters, digits, `.`, `_` or `-`")


def _trace(reader: Reader, raw: object, path: str) -> tuple[float, ...]:
    """A file with the seconds of each arrival, one a line, in order; what follows a comma is not read."""
    if not isinstance(raw, str) or not raw:
        raise Wrong(f"must be the path of a file, got {seen(raw)}")
    try:
        lines = (reader.folder / raw).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise Wrong(f"{raw} cannot be read: {getattr(error, 'strerror', None) or type(error).__name__}") from None
    arrivals: list[float] = []
    for place, line in enumerate(lines, 1):
        cell = line.partition(",")[0].strip()
        if not cell or cell.startswith("#") or (place == 1 and not re.match(r"[-+.0-9]", cell)):
            continue
        if not re.fullmatch(r"[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?", cell) or not math.isfinite(float(cell)):
            reader.wrong(path, f"{raw}, line {place}: must be seconds from the beginning, got {seen(cell)}")
        elif arrivals and float(cell) < arrivals[-1]:
            reader.wrong(path, f"{raw}, line {place}: comes before the line above it")
        else:
            arrivals.append(float(cell))
    if not arrivals:
        raise Wrong(f"{raw} holds no arrival")
    return tuple(arrivals)


# --- sections --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One kind of request in the mix."""

    name: str = setting(_NAME, "How reports call it.", "default")
    weight: float = setting(_WEIGHT, "Its share of the mix, against the weights of the others.", 1)
    model: str = setting(_MODEL, "The model to ask.", None, "`model` of the scenario")
    api: Api = setting(
        choice(*PATHS), "Which endpoint: chat, generate, embed, or openai for /v1/chat/completions.", "chat"
    )
    stream: bool = setting(
        SWITCH, "Whether the answer is streamed. Without, there is no time to the first token.", True
    )
    prompt_words: int = setting(whole(1, 200_000), "Words of a prompt on average. A word is a token or more.", 120)
    prompt_spread: float = setting(
        _SHARE, "How much prompts differ in length: 0 not at all, 0.5 by half (log-normal).", 0.5
    )
    answer_tokens: int = setting(
        whole(1, 100_000), "Tokens of an answer at most (num_predict): the model may stop before.", 100
    )
    think: float = setting(
        span("1ms", "1h"),
        "Closed loop: a user's mean pause between an answer and the next request (exponential).",
        "3s",
    )
    turns: int = setting(whole(1, 200), "Requests of one conversation, whose history grows with each.", 1)
    shared_prefix: float = setting(
        _SHARE, "Share of each prompt that is the same for all, and so is found in the server's cache.", 0
    )
    read_rate: float | None = setting(
        number(1, 1e9, "a number of bytes a second, 1 or more"),
        "Bytes a second at which an answer is read after its first kilobyte, as by somebody on a bad line.",
        None,
        "as fast as it comes",
    )
    num_ctx: int | None = setting(
        whole(16, 10_000_000),
        "Context to ask for. One that differs from what the model was loaded with makes the server load it anew.",
        None,
        "not sent",
    )

    def objections(self) -> Iterator[tuple[str, str]]:
        if self.turns > 1 and self.api not in ("chat", "openai"):
            yield "turns", f"needs api chat or openai: {self.api} has no history"


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseSection:
    """One stretch of time; the level goes from `start` to `end` in a straight line."""

    name: str = setting(text("name", r"[ -~]{1,64}", "1 to 64 printable characters"), "How reports call it.")
    duration: float = setting(span("1ms", "7d"), "How long it lasts.")
    start: float = setting(_LEVEL, "Level at its beginning, as a share of `users` or `rate`.", 1)
    end: float | None = setting(_LEVEL, "Level at its end.", None, "`start`")

    def objections(self) -> Iterator[tuple[str, str]]:
        if not max(self.start, self.end or 0.0) and self.end is not None:
            yield "end", "the level is 0 all the time: nothing would be offered"


@dataclass(frozen=True, slots=True, kw_only=True)
class Objectives:
    """What is promised to users. Failed requests count as slower than any."""

    ttft_p95: float | None = setting(span("1ms", "1h"), "95 % of streamed answers begin within this time.", "2s")
    ttft_p99: float | None = setting(span("1ms", "1h"), "99 % of streamed answers begin within this time.", "5s")
    total_p95: float | None = setting(span("1ms", "1h"), "95 % of answers are whole within this time.", None, "none")
    success: float = setting(_SHARE, "Share of requests that are answered well, which must be exceeded.", 0.99)
    goodput: float | None = setting(_SHARE, "Least share of requests that are good (see `good_*`).", None, "none")
    good_ttft: float = setting(span("1ms", "1h"), "A good answer begins within this time.", "2s")
    good_total: float | None = setting(span("1ms", "1h"), "And is whole within this time.", None, "none")
    good_per_token: float | None = setting(span("1ms", "1m"), "And takes this long for a token at most.", None, "none")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a run may not go beyond, whatever the scenario asks for."""

    rate: float = setting(RATE, "Requests a second.", 1000)
    concurrency: int = setting(whole(1, 100_000), "Requests in flight.", 10_000)
    duration: float = setting(span("1s", "7d"), "Time that the run may take.", "4h")
    tokens: int = setting(whole(1, 10**12), "Tokens, of prompts and answers together.", 50_000_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    name: str = setting(_NAME, "How reports call it.", "unnamed")
    model: str | None = setting(
        _MODEL, "The model of workloads that name none.", None, "named by each workload, or --model"
    )
    users: int | None = setting(whole(1, 100_000), "Closed loop: so many users, each asking again after a pause.", None)
    rate: float | None = setting(RATE, "Open loop: so many requests a second, whatever becomes of them.", None)
    arrivals: ArrivalKind = setting(choice("poisson", "constant"), "Open loop: how requests are spaced.", "poisson")
    shape: Shape = setting(
        choice("steady", "ramp", "step", "spike", "soak", "replay"),
        "The load over time. ramp: from nothing; step: in `steps` equal steps; spike: `base` with a fifth of the time"
        " at the whole; soak: steady, told in thirds; replay: the arrivals of `trace`.",
        "steady",
    )
    steps: int = setting(whole(2, 100), "Of shape step.", 4)
    base: float = setting(_SHARE, "Of shape spike: the level before and after.", 0.25)
    trace: tuple[float, ...] | None = setting(
        Kind("path of a file", _trace), "Of shape replay: seconds of each arrival, one a line.", None
    )
    phases: tuple[PhaseSection, ...] | None = setting(
        listing(section(PhaseSection)), "The load over time, in one's own words, instead of `shape`.", None
    )
    duration: float = setting(span("100ms", "7d"), "How long the load is offered.", "60s")
    settle: float | None = setting(
        span("1ms", "1h"), "Requests of this first time are told apart and not judged.", None, "none"
    )
    warm_up: bool = setting(
        SWITCH, "Whether each model is asked once on each server before, so that the load meets it loaded.", True
    )
    seed: int = setting(whole(0, 2**31), "The same number gives the same arrivals, prompts and pauses.", 1)
    timeout: float = setting(span("100ms", "1h"), "How long a request may take in all.", "60s")
    connect_timeout: float = setting(span("10ms", "1m"), "How long a connection may take.", "5s")
    weights: tuple[float, ...] | None = setting(
        listing(_WEIGHT),
        "How many requests in flight each server gets, against the others, in their order. Where there are as many"
        " servers as weights; else all are alike.",
        None,
        "all alike",
    )
    abort_on: float | None = setting(
        Kind("share", lambda reader, raw, path: share_of(raw)),
        "The run ends when so many of the last 50 requests failed.",
        "50%",
    )
    workloads: tuple[Workload, ...] = setting(listing(section(Workload)), "The mix.", [{}])
    objectives: Objectives = setting(section(Objectives), "What is judged.", {})
    limits: Limits = setting(section(Limits), "What is never exceeded.", {})

    def objections(self) -> Iterator[tuple[str, str]]:
        if self.users is not None and self.rate is not None:
            yield "rate", "cannot be used together with users: one is a closed loop, the other an open one"
        if len(self.workloads) == 0:
            yield "workloads", "names none"
        names = [workload.name for workload in self.workloads]
        for place, name in enumerate(names):
            if names.index(name) != place:
                yield f"workloads[{place}].name", f"workloads[{names.index(name)}] is called {seen(name)}, too"
        if self.phases is not None and not self.phases:
            yield "phases", "names none; leave the key out to use `shape`"
        if self.shape == "replay" and self.trace is None:
            yield "trace", "is missing: shape replay needs the arrivals"
        if self.trace is not None and self.shape != "replay":
            yield "trace", "has no effect: shape is not replay"
        if self.trace is not None and self.users is not None:
            yield "users", "cannot be used together with trace: who replays arrivals does not wait for answers"
        if self.settle is not None and self.settle >= self.duration:
            yield "settle", "must be shorter than duration, or nothing is judged"

    @property
    def closed(self) -> bool:
        return self.users is not None

    @property
    def course(self) -> Course:
        if self.trace is not None:
            return replayed(self.trace)
        if self.phases is not None:
            return Course(
                tuple(
                    Phase(each.name, each.duration, each.start, each.start if each.end is None else each.end)
                    for each in self.phases
                )
            )
        return course(self.shape, self.duration, self.steps, self.base)

    @property
    def models(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.model_of(workload) for workload in self.workloads))

    def model_of(self, workload: Workload) -> str:
        return workload.model or self.model or ""


# --- the two that are built in ----------------------------------------------------------------------------------------

_AGENTS_174 = """
name: agents-174
model: tinyllama
users: 174
duration: 60s
weights: [50, 30, 20]
workloads:
- name: agent
  weight: 9
  prompt_words: 100
  prompt_spread: 0.6
  answer_tokens: 90
  think: 3s
  turns: 4
- name: one-shot
  weight: 1
  api: generate
  prompt_words: 250
  answer_tokens: 60
  think: 3s
"""
_SMOKE = """
name: smoke
model: tinyllama
rate: 2
arrivals: constant
duration: 10s
workloads: [{name: smoke, api: generate, prompt_words: 20, answer_tokens: 16}]
"""
BUILT_IN: Mapping[str, str] = {"agents-174": _AGENTS_174, "smoke": _SMOKE}
"""agents-174: the fleet that the objectives were made for, 25 to 50 requests a second. smoke: does it answer at all?"""

# --- loading ----------------------------------------------------------------------------------------------------------


def load(
    chosen: str, given: Mapping[str, object], limits: Mapping[str, object] | None = None, *, abort: bool = True
) -> Scenario:
    """A built-in scenario or a file, with flags over it. `given` maps keys of Scenario to what the flags say, `limits`
    those of Limits; `abort` False: whatever the scenario says, errors do not end the run. Raises ConfigError with every
    mistake there is."""
    reader = Reader({}, Path() if chosen in BUILT_IN else Path(chosen).parent)
    written = dict(_document(reader, chosen))
    if given.get("users") is not None:
        written.pop("rate", None)
    if given.get("rate") is not None:
        written.pop("users", None)
    if given.get("duration") is not None:
        written.pop("phases", None)
    if given.get("model") is not None:
        written["workloads"] = _without_models(written.get("workloads"))
    outside = Reader({}, Path())
    scenario = section(Scenario).parse(reader, written, "")
    values = _read(outside, Scenario, given, "--")
    most = _read(outside, Limits, limits or {}, "--max-")
    mistakes = reader.mistakes + outside.mistakes
    if not mistakes:
        scenario = replace(scenario, **values, limits=replace(scenario.limits, **most))
        scenario = scenario if abort else replace(scenario, abort_on=None)
        mistakes += [*scenario.objections(), *_lacks(scenario)]
    if mistakes:
        where = "" if chosen in BUILT_IN else f"{chosen}: "
        raise ConfigError(
            tuple(
                f"{'' if path.startswith(('--', chosen)) else where}{path}: {what}"
                for path, what in dict.fromkeys(mistakes)
            )
        )
    if not scenario.closed and scenario.rate is None and scenario.trace is None:
        scenario = replace(scenario, rate=1.0)
    return scenario


def _read(reader: Reader, cls: type, given: Mapping[str, object], prefix: str) -> dict[str, Any]:
    kinds = {each.name: each.metadata["kind"] for each in fields(cls)}
    return {
        key: reader.read(kinds[key], raw, f"{prefix}{key.replace('_', '-')}")
        for key, raw in given.items()
        if raw is not None
    }


def _lacks(scenario: Scenario) -> Iterator[tuple[str, str]]:
    for place, workload in enumerate(scenario.workloads):
        if not scenario.model_of(workload):
            yield f"workloads[{place}].model", "is missing, and neither `model` nor --model says which to ask"


def _without_models(workloads: object) -> object:
    """--model stands for every model that the scenario names."""
    if not isinstance(workloads, list):
        return workloads if workloads is not None else [{}]
    return [
        {key: value for key, value in each.items() if key != "model"} if isinstance(each, Mapping) else each
        for each in workloads
    ]


def _document(reader: Reader, chosen: str) -> Mapping[str, object]:
    path = Path(chosen)
    try:
        raw = document.parse(BUILT_IN[chosen] if chosen in BUILT_IN else path.read_text("utf-8-sig"))
    except OSError as error:
        known = ", ".join(BUILT_IN)
        reader.wrong(chosen, f"cannot be read: {error.strerror} (it is none of the scenarios {known} either)")
    except UnicodeDecodeError:
        reader.wrong(chosen, "is not UTF-8 text")
    except ValueError:
        reader.wrong(chosen, "is not the name of a file")
    except document.NotYaml as error:
        for place, what in error.mistakes:
            reader.wrong(f"{chosen}, {place}" if place else chosen, what)
    else:
        if isinstance(raw, Mapping):
            return {str(key): value for key, value in raw.items()}
        reader.wrong(chosen, "must be a mapping (key: value)")
    return {}
