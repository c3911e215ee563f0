"""Prompts and answers without a language model: token counts, prompt caching, and words to answer with."""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_TOKEN = re.compile(r"\w+|[^\w\s]|\n")
# The cache of a runner is looked up by the running hash of every so many tokens.
_BLOCK = 16
_TEXT = """
The sky is blue because sunlight is scattered by air and short waves are scattered most of all so what reaches
us from every side looks blue while at dusk the path is long and red remains as one can see over the sea when
clouds are few and winds are slow in the last hour of a clear day near the end of summer or early in spring
"""
_WORDS = tuple(_TEXT.split())


@dataclass(frozen=True, slots=True)
class Prompt:
    tokens: int
    blocks: tuple[int, ...]  # running hashes at the end of each block; the last one covers the whole prompt
    seed: int

    def truncated(self, limit: int) -> Prompt:
        """Cut to `limit` tokens. What is cut out of the middle makes it another prompt to the cache."""
        return Prompt(limit, (zlib.crc32(b"cut", self.seed),), self.seed)

    def cached_tokens(self, cache: Iterable[int]) -> int:
        """Tokens that the cache spares. At least one is always processed, also on a full hit."""
        known = cache if isinstance(cache, (set, dict)) else set(cache)
        for index in range(len(self.blocks) - 1, -1, -1):
            if self.blocks[index] in known:
                whole = index == len(self.blocks) - 1
                return self.tokens - 1 if whole else min((index + 1) * _BLOCK, self.tokens - 1)
        return 0


def prompt_of(text: str, extra_tokens: int) -> Prompt:
    """Tokenise roughly: words, punctuation and line breaks, and what the template adds."""
    tokens = _TOKEN.findall(text)
    blocks: list[int] = []
    running = extra_tokens
    for start in range(0, len(tokens), _BLOCK):
        running = zlib.crc32(" ".join(tokens[start : start + _BLOCK]).encode(), running)
        blocks.append(running)
    return Prompt(len(tokens) + extra_tokens, tuple(blocks), running)


def synthetic_prompt(tokens: int, seed: int) -> Prompt:
    """A prompt of this size that nobody had to write. Equal seeds are equal prompts."""
    return Prompt(max(1, tokens), (seed,), seed)


def answer_tokens(prompt: Prompt, mean: int) -> int:
    """After how many tokens the answer ends by itself. The same prompt always gets the same answer."""
    return max(20, round(random.Random(prompt.seed).gammavariate(3.0, mean / 3.0)))


def words(seed: int) -> Iterator[str]:
    """Tokens of an answer, without end."""
    position = seed % len(_WORDS)
    yield _WORDS[position].capitalize()
    while True:
        position = (position + 1) % len(_WORDS)
        yield " " + _WORDS[position]


def token_ids(seed: int, count: int) -> list[int]:
    """Numbers that look like a token array. Nobody decodes them."""
    return [(seed + 7919 * index) % 32_000 for index in range(count)]


def embedding(seed: int, length: int) -> list[float]:
    """A unit vector that depends only on the input."""
    rng = random.Random(seed)
    raw = [rng.gauss(0.0, 1.0) for _ in range(length)]
    norm = sum(value * value for value in raw) ** 0.5
    return [round(value / norm, 9) for value in raw]
