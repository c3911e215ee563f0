"""Prompts of a wanted length that nobody else has, and the requests around them.

Words are short and common, so that each is at least one token to any tokenizer: a server that read fewer tokens than
there were words has cut the prompt. No prompt and no answer is kept anywhere but in the conversation it belongs to.
"""

from __future__ import annotations

import json
import math
import random
from dataclasses import dataclass

from exporter.loadtest.scenario import PATHS, Workload

_TEXT = """
time year people way day man thing woman life child world school state family student group country problem
hand part place case week company system program question work number night point home water room mother area
money story fact month lot right study book eye job word business issue side kind head house service friend
father power hour game line end member law car city name team minute idea body back parent face level office
door health person art war history party result change morning reason girl guy moment air teacher force river
stone garden winter summer bread paper table window bridge market village forest island engine letter picture
music color silver golden quiet early late long short high low open close near far fast slow warm cold dry wet
big small old new
"""
_WORDS = tuple(_TEXT.split())
_CUT_TEXT_AT = 20_000
"""Characters of an answer that a conversation remembers."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A request as it goes out. `words`: the least number of tokens that its prompt can be."""

    path: str
    body: bytes
    words: int
    keeps_text: bool = False


class Conversation:
    """A workload's requests one after the other; each remembers those before."""

    def __init__(self, workload: Workload, model: str, rng: random.Random) -> None:
        self._workload, self._model, self._rng = workload, model, rng
        self._history: list[tuple[str, str]] = []
        self.turn = 0

    @property
    def over(self) -> bool:
        return self.turn >= self._workload.turns

    def imagine(self) -> None:
        """Be in the middle of a conversation that nobody held, as an arrival of an open loop is."""
        for _ in range(self._rng.randrange(self._workload.turns)):
            self._say("user", self._prompt())
            self._say("assistant", self._text(self._workload.answer_tokens))
            self.turn += 1

    def ask(self) -> Ask:
        prompt = self._prompt()
        self._say("user", prompt)
        self.turn += 1
        words = sum(text.count(" ") + 1 for role, text in self._history if role == "user")
        body = self._body(prompt)
        return Ask(PATHS[self._workload.api], json.dumps(body).encode(), words, not self.over)

    def answered(self, text: str) -> None:
        if not self.over:
            self._say("assistant", text[:_CUT_TEXT_AT] or "...")

    def _say(self, role: str, text: str) -> None:
        self._history.append((role, text))

    def _body(self, prompt: str) -> dict[str, object]:
        workload = self._workload
        messages = [{"role": role, "content": text} for role, text in self._history]
        seed = self._rng.randrange(2**31)
        if workload.api == "openai":
            more = {"stream_options": {"include_usage": True}} if workload.stream else {}
            return {
                "model": self._model, "messages": messages, "stream": workload.stream, "seed": seed,
                "max_tokens": workload.answer_tokens, **more,
            }  # fmt: skip
        # No keep_alive: it would stick for everybody. No option that reloads the model, but for one that was asked for.
        options = {"num_ctx": workload.num_ctx} if workload.num_ctx is not None else {}
        if workload.api == "embed":
            return {"model": self._model, "input": prompt, **({"options": options} if options else {})}
        options |= {"num_predict": workload.answer_tokens, "seed": seed}
        asked = {"messages": messages} if workload.api == "chat" else {"prompt": prompt}
        return {"model": self._model, **asked, "stream": workload.stream, "options": options}

    def _prompt(self) -> str:
        workload = self._workload
        words = self._length()
        shared = round(words * workload.shared_prefix)
        common = " ".join(random.Random(0).choices(_WORDS, k=shared)) + " " if shared else ""
        return common + self._text(max(1, words - shared))

    def _length(self) -> int:
        """Log-normal around its mean: most prompts are short, some are long."""
        mean, spread = self._workload.prompt_words, self._workload.prompt_spread
        if spread == 0:
            return mean
        sigma = math.sqrt(math.log1p(spread**2))
        return max(1, round(self._rng.lognormvariate(math.log(mean) - sigma**2 / 2, sigma)))

    def _text(self, words: int) -> str:
        return " ".join(self._rng.choices(_WORDS, k=words))
