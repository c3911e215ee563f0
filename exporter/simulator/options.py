"""What a request asks of the runner, and when that means loading the model anew."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

# Go's largest duration, about 292 years: what keep_alive -1 becomes.
FOREVER_SECONDS = (2**63 - 1) / 1e9
_DEFAULT_BATCH = 512
_MINIMUM_CTX = 4
_RUNNER_INTEGERS = ("num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread", "draft_num_predict")
_INTEGERS = frozenset((*_RUNNER_INTEGERS, "num_keep", "num_predict", "seed", "top_k", "repeat_last_n"))
_FLOATS = frozenset(
    ("temperature", "top_p", "min_p", "typical_p", "repeat_penalty", "presence_penalty", "frequency_penalty")
)
_BOOLEANS = frozenset(("use_mmap",))
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|ms|s|m|h)")


class OptionError(ValueError):
    """An option of the wrong type. Ollama answers 500 with this text."""


@dataclass(frozen=True, slots=True)
class RunnerOptions:
    """What is compared with the options of the loaded runner. None: the request left it out."""

    num_ctx: int | None = None
    num_batch: int | None = None
    num_gpu: int | None = None
    main_gpu: int | None = None
    use_mmap: bool | None = None
    num_thread: int | None = None
    draft_num_predict: int | None = None
    shift: bool | None = None

    def effective_ctx(self, default: int, trained: int) -> int:
        asked = default if self.num_ctx is None else self.num_ctx
        return min(max(asked, _MINIMUM_CTX), trained)

    def reason_to_reload(self, loaded: RunnerOptions, default_ctx: int, trained_ctx: int) -> str:
        """The name of the first option that differs from the loaded runner's, or nothing."""
        if not (self.num_ctx is None and loaded.num_ctx is None):
            mine = self.effective_ctx(default_ctx, trained_ctx)
            if mine != loaded.effective_ctx(default_ctx, trained_ctx):
                return "num_ctx"
        if self.num_gpu is not None and self.num_gpu >= 0 and self.num_gpu != loaded.num_gpu:
            return "num_gpu"
        for name in ("num_batch", "main_gpu", "use_mmap", "num_thread", "draft_num_predict", "shift"):
            if _plain(self, name) != _plain(loaded, name):
                return name
        return ""


DEFAULT_OPTIONS = RunnerOptions()


def _plain(options: RunnerOptions, name: str) -> object:
    value: object = getattr(options, name)
    if value is None:
        return {"num_batch": _DEFAULT_BATCH, "shift": True, "use_mmap": None}.get(name, 0)
    return value


def parse_options(raw: Mapping[str, object]) -> dict[str, int | float | bool]:
    """The options that are understood, with their types checked as Ollama does. Unknown ones are ignored."""
    parsed: dict[str, int | float | bool] = {}
    for name, value in raw.items():
        if value is None:
            continue
        if name in _INTEGERS:
            parsed[name] = int(_number(name, value, "integer"))
        elif name in _FLOATS:
            parsed[name] = float(_number(name, value, "float32"))
        elif name in _BOOLEANS:
            if not isinstance(value, bool):
                raise OptionError(f'option "{name}" must be of type boolean')
            parsed[name] = value
    return parsed


def _number(name: str, value: object, kind: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise OptionError(f'option "{name}" must be of type {kind}')
    return value


def runner_options(parsed: Mapping[str, int | float | bool], shift: bool | None) -> RunnerOptions:
    use_mmap = parsed.get("use_mmap")
    integers = {name: int(parsed[name]) for name in _RUNNER_INTEGERS if name in parsed}
    return RunnerOptions(**integers, use_mmap=None if use_mmap is None else bool(use_mmap), shift=shift)


def parse_keep_alive(value: object) -> float | None:
    """Seconds, from a number or a Go duration. Negative is for ever; ValueError carries Go's text."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(f"Unsupported type: '{value}'")
    seconds = float(value) if not isinstance(value, str) else _go_duration(value)
    return FOREVER_SECONDS if seconds < 0 or math.isinf(seconds) else seconds


def _go_duration(text: str) -> float:
    body = text.lstrip("+-")
    if body == "0":
        return 0.0
    parts = _PART.findall(body)
    if not parts or "".join(number + unit for number, unit in parts) != body:
        missing_unit = body.replace(".", "", 1).isdigit()
        raise ValueError(f'time: {"missing unit in" if missing_unit else "invalid"} duration "{text}"')
    seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    return -seconds if text.startswith("-") else seconds
