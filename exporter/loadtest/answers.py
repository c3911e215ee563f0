"""An answer as it comes in, in pieces of any size: Ollama's NDJSON, the server-sent events of /v1, or one object."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from exporter.loadtest.outcomes import Outcome

LINE_MAX = 16 * 1024 * 1024
"""Bytes without a line break (or of one object) that are taken: an embedding is long, this is longer."""

_GOES_ON, _GOES_ON_SPACED = b'"done":false', b'"done": false'
"""In a line that is not the last one. Inside a token's text its quotes would be escaped."""


class Answer:
    """Fed with bytes and the moment they came; tells what they were when it is over. `on_gap` takes the seconds between
    two pieces with tokens in them."""

    def __init__(self, api: str, streamed: bool, on_gap: Callable[[float], None], keeps_text: bool = False) -> None:
        self._sse = api == "openai" and streamed
        self._lines = streamed and api != "embed"
        self._api, self._on_gap, self._keeps_text = api, on_gap, keeps_text
        self._rest = b""
        self._texts: list[str] = []
        self._spoke = False
        self.first: float | None = None
        self.last: float | None = None
        self.longest_gap: float | None = None
        self.failed = self.done = self.malformed = False
        self.final: Mapping[str, Any] = {}

    @property
    def text(self) -> str:
        return "".join(self._texts)

    def feed(self, data: bytes, now: float) -> None:
        # Nearly every piece is one whole line with a token after the first; the rest is for the others.
        if (
            self.last is not None
            and not self._rest
            and not self._keeps_text
            and (_GOES_ON in data or _GOES_ON_SPACED in data)
            and data.find(b"\n") == len(data) - 1
        ):
            self._gap(now)
            return
        if not self._lines or b"\n" not in data:
            self._rest += data
            if len(self._rest) > LINE_MAX:
                self.malformed, self._rest = True, b""
            return
        *lines, self._rest = (self._rest + data).split(b"\n") if self._rest else data.split(b"\n")
        self._take(lines, now)

    def _take(self, lines: list[bytes], now: float) -> None:
        self._spoke = False
        for line in lines:
            if line and not line.isspace():
                self._line(line)
        if self._spoke:
            if self.first is None:
                self.first = now
                self.last = now
            else:
                self._gap(now)

    def _gap(self, now: float) -> None:
        gap = now - (now if self.last is None else self.last)
        self._on_gap(gap)
        if self.longest_gap is None or gap > self.longest_gap:
            self.longest_gap = gap
        self.last = now

    def end(self, now: float) -> None:
        """Nothing more comes: what is left has no line break, or was one object from the beginning."""
        rest, self._rest = self._rest, b""
        if not rest.strip():
            return
        if self._lines:
            self._take([rest], now)
        else:
            self._whole(rest)

    def outcome(self, cut_below: int) -> Outcome:
        """Of an answer under 200 that has ended. Fewer tokens of the prompt than `cut_below`: some were cut away."""
        if self.failed:
            return "stream_error"
        if self.malformed:
            return "malformed"
        if not self.done or (self._api != "embed" and not self.tokens and self.first is None and not self._spoke):
            return "truncated"
        if 0 < self.prompt_tokens < cut_below:
            return "prompt_cut"
        return "ok"

    # -- numbers of the final object; the server leaves out zeros

    @property
    def tokens(self) -> int:
        return _count(self.final, "eval_count") or _count(self._usage, "completion_tokens")

    @property
    def prompt_tokens(self) -> int:
        return _count(self.final, "prompt_eval_count") or _count(self._usage, "prompt_tokens")

    @property
    def load(self) -> float | None:
        return self._seconds("load_duration") if "total_duration" in self.final else None

    @property
    def queue(self) -> float | None:
        """What is in none of the server's phases: the wait for a slot and some overhead, an upper bound. It cannot be
        told of an embedding."""
        if "total_duration" not in self.final or "eval_count" not in self.final:
            return None
        known = sum(map(self._seconds, ("load_duration", "prompt_eval_duration", "eval_duration")))
        return max(0.0, self._seconds("total_duration") - known)

    @property
    def _usage(self) -> Mapping[str, Any]:
        usage = self.final.get("usage")
        return usage if isinstance(usage, dict) else {}

    def _seconds(self, key: str) -> float:
        return _count(self.final, key) / 1e9

    # -- parsing

    def _line(self, line: bytes) -> None:
        if self._sse:
            if line.startswith(b"data:"):
                self._event(line[5:].strip())
            return
        # A token after the first one: nothing in it that is not known, and decoding it would be most of the work.
        if self.first is not None and not self._keeps_text and (_GOES_ON in line or _GOES_ON_SPACED in line):
            self._spoke = True
            return
        fields = _object(line)
        if fields is None:
            self.malformed = True
        elif "error" in fields:
            self.failed = True
        else:
            self._piece(fields)

    def _piece(self, fields: Mapping[str, Any]) -> None:
        message = fields.get("message")
        said = message if isinstance(message, dict) else fields
        text = said.get("content" if said is message else "response")
        if text or said.get("thinking") or said.get("tool_calls"):
            self._spoke = True
        if self._keeps_text and isinstance(text, str):
            self._texts.append(text)
        if fields.get("done") is True:
            self.done, self.final = True, fields

    def _event(self, data: bytes) -> None:
        if data == b"[DONE]":
            self.done = True
            return
        fields = _object(data)
        if fields is None:
            self.malformed = True
            return
        if "error" in fields:
            self.failed = True
            return
        for choice in fields.get("choices") or ():
            delta = choice.get("delta") if isinstance(choice, dict) else None
            if isinstance(delta, dict) and (delta.get("content") or delta.get("reasoning") or delta.get("tool_calls")):
                self._spoke = True
                if self._keeps_text and isinstance(delta.get("content"), str):
                    self._texts.append(delta["content"])
        if isinstance(fields.get("usage"), dict):
            self.final = fields

    def _whole(self, body: bytes) -> None:
        fields = _object(body)
        if fields is None:
            self.malformed = True
        elif "error" in fields:
            self.failed = True
        elif self._api == "embed":
            vectors = fields.get("embeddings")
            self.done, self.final = isinstance(vectors, list) and bool(vectors), fields
        elif self._api == "openai":
            choices = fields.get("choices")
            self.done = self._spoke = isinstance(choices, list) and bool(choices)
            self.final = fields
        else:
            self._piece(fields)


def _count(fields: Mapping[str, Any], key: str) -> int:
    value = fields.get(key, 0)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0


def _object(data: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
