"""What users do: who asks what, when, and who loses patience."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection

from benchmarks.truth.book import Kind
from benchmarks.truth.client import Ask, Load, User, serve

_LIMIT = 40
"""Tokens of an answer at most: the shorter answers are, the less is unknown of those that are cut."""
_LEFT = 10
"""And of what is left of an answer at most when its client leaves."""
_WEIGHTS: dict[Kind, float] = {"stream": 4.0, "plain": 3.0, "quit": 0.2, "impatient": 0.1, "truncated": 0.15}
_AT_ONCE = 0.25
"""Share of requests that follow an answer at once, as programs ask that never pause."""
_BURST_EVERY = 45.0
_WORDS = ("water", "stone", "river", "light", "paper", "green", "seven", "window", "garden", "letter")
_SHORT = 16


@dataclass(frozen=True, slots=True)
class Mix:
    """`pause`: seconds of a user between two requests, on average. `turn`: seconds after which all turn to the next
    model; 0: they ask all of them. `burst`: users who come all at once."""

    address: tuple[str, int]
    chat: tuple[str, ...]
    embed: str | None
    users: int
    pause: float
    turn: float
    burst: int
    long_words: int
    seconds: float
    seed: int


def run(mix: Mix, parent: Connection) -> None:
    """In a process of its own."""
    serve(Load(mix.address, prompts(mix), mix.seconds, idle=3), iter(list(_users(mix))), parent)


def prompts(mix: Mix) -> tuple[str, ...]:
    """All that is asked: short ones, and one that is too long."""
    words = random.Random(mix.seed)
    short = [" ".join(words.choices(_WORDS, k=words.randrange(8, 40))) for _ in range(_SHORT)]
    return (*short, " ".join(words.choices(_WORDS, k=mix.long_words)))


def _users(mix: Mix) -> Iterator[User]:
    begun = time.monotonic()
    for number in range(mix.users):
        yield _user(mix, begun, random.Random(mix.seed * 1000 + number), last=number == 0)
    for number in range(mix.burst):
        yield _burst(mix, begun, number)


def _user(mix: Mix, begun: float, chance: random.Random, last: bool) -> User:
    yield chance.uniform(0.0, 2.0)
    while (now := time.monotonic()) < begun + mix.seconds:
        model = chance.choice(mix.chat)
        if mix.turn and chance.random() < 0.9:
            model = mix.chat[int((now - begun) / mix.turn) % len(mix.chat)]
        if mix.embed and chance.random() < 0.08:
            yield Ask(mix.embed, "embed", chance.randrange(_SHORT))
        else:
            yield _ask(model, chance)
        yield 0.0 if chance.random() < _AT_ONCE else chance.expovariate(1 / mix.pause)
    if last:  # each model once more: it is at a request that Ollama notices what has become of its runner
        yield 2.0
        for model in mix.chat:
            yield Ask(model, "plain", 0, 4)


def _ask(model: str, chance: random.Random) -> Ask:
    kind = chance.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]
    prompt = chance.randrange(_SHORT)
    match kind:
        case "truncated":
            return Ask(model, kind, _SHORT, chance.randrange(2, 8))
        case "quit":
            leaves_after = chance.randrange(2, 20)
            return Ask(model, kind, prompt, leaves_after + _LEFT, leaves_after=leaves_after)
        case "impatient":
            return Ask(model, kind, prompt, _LEFT, leaves_within=chance.uniform(0.01, 0.4))
        case _:
            return Ask(model, kind, prompt, chance.randrange(10, _LIMIT))


def _burst(mix: Mix, begun: float, number: int) -> User:
    """One of those who come all at once: those beyond the end of the scheduler's queue are refused."""
    turns = int((mix.seconds - 10.0) / _BURST_EVERY)
    for turn in range(turns):
        at = begun + (turn + 0.5) * _BURST_EVERY
        model = mix.chat[turn % len(mix.chat)]
        yield max(0.0, at - time.monotonic())
        yield Ask(model, "burst", number % _SHORT, 1)
