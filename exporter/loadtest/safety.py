"""Before anything is sent: whose servers these are, what it will cost, whether it is more than may be, and whether this
process can do it at all."""

from __future__ import annotations

import ipaddress
import resource
import socket
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from exporter.config.kinds import duration_text
from exporter.loadtest.scenario import Scenario

_FILES_KEPT = 64
"""Of the limit: what the program itself has open, with some room."""
_SECONDS_PER_TOKEN, _SECONDS_BEFORE = 0.02, 0.2
"""What an answer is assumed to take when its cost is told beforehand."""

Resolve = Callable[[str], list[str]]


def addresses_of(host: str) -> list[str]:
    """Raises OSError when the name is not known."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(each[4][0]) for each in found))


def ours(address: str) -> bool:
    """Loopback, private or link-local: on this machine or in a network of one's own."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(ip, "ipv4_mapped", None) or ip
    return bool(mapped.is_loopback or mapped.is_private or mapped.is_link_local)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a server was found to be; `address` is the one that is asked."""

    url: str
    address: str


def located(urls: Iterable[str], own: bool, resolve: Resolve = addresses_of) -> tuple[list[Place], list[str]]:
    """Where each server is, and why some may not be asked. A name counts as ours only if all its addresses are."""
    places, refusals = [], []
    for url in urls:
        host = urlsplit(url).hostname or ""
        try:
            found = resolve(host)
        except (OSError, UnicodeError):
            refusals.append(f"{url}: the name {host} is not known here")
            continue
        strange = [address for address in found if not ours(address)]
        if strange and not own:
            refusals.append(
                f"{url}: {strange[0]} is neither this machine nor in a private network. A load test is an attack on"
                " whoever did not ask for it: say --i-own-this-server if you do"
            )
            continue
        places.append(Place(url, found[0]))
    return places, refusals


# --- cost -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Cost:
    """`requests` of a closed loop depend on how fast answers are: assumed are 20 ms for a token. `prompt_tokens` and
    `tokens` are at most, if a word is a token and every answer is as long as it may be. `seconds`: without the last
    answers."""

    requests: int
    prompt_tokens: int
    tokens: int
    seconds: float
    in_flight: int
    rate: float

    def text(self) -> str:
        return (
            f"about {self.requests:,} requests, {self.prompt_tokens:,} tokens of prompts and up to {self.tokens:,} of"
            f" answers in {duration_text(self.seconds)}"
        )


def cost(scenario: Scenario) -> Cost:
    course = scenario.course
    weight = sum(workload.weight for workload in scenario.workloads)
    shares = [(workload, workload.weight / weight) for workload in scenario.workloads]
    words = sum(
        share * (each.prompt_words + (each.turns - 1) / 2 * (each.prompt_words + each.answer_tokens))
        for each, share in shares
    )
    tokens = sum(share * each.answer_tokens for each, share in shares if each.api != "embed")
    if scenario.users is not None:
        cycle = sum(share * (each.think + _answer_seconds(each.answer_tokens)) for each, share in shares)
        requests, in_flight = scenario.users * course.area / cycle, round(scenario.users * course.top)
        rate = requests / max(course.area, 1e-9) * course.top
    else:
        rate = (scenario.rate or 0.0) * course.top
        requests = float(len(scenario.trace)) if scenario.trace else (scenario.rate or 0.0) * course.area
        if scenario.trace:
            rate = requests / course.seconds
        answer = sum(share * _answer_seconds(each.answer_tokens) for each, share in shares)
        in_flight = round(rate * answer) + 1
    count = max(1, round(requests))
    return Cost(count, round(count * words), round(count * tokens), course.seconds, in_flight, rate)


def _answer_seconds(tokens: int) -> float:
    return _SECONDS_BEFORE + tokens * _SECONDS_PER_TOKEN


def beyond(scenario: Scenario, expected: Cost) -> Iterator[str]:
    """Which limits the scenario is going to exceed. The rate of users is theirs: it is bounded by their number."""
    limits = scenario.limits
    if not scenario.closed and expected.rate > limits.rate:
        yield (
            f"{expected.rate:,.0f} requests a second are more than limits.rate ({limits.rate:,.0f}): --max-rate raises"
            " it"
        )
    if scenario.users is not None and expected.in_flight > limits.concurrency:
        yield (
            f"{expected.in_flight:,} users are more than limits.concurrency ({limits.concurrency:,}): --max-concurrency"
            " raises it"
        )
    if expected.seconds > limits.duration:
        yield (
            f"{duration_text(expected.seconds)} are more than limits.duration ({duration_text(limits.duration)}):"
            " --max-duration raises it"
        )
    total = expected.prompt_tokens + expected.tokens
    if total > limits.tokens:
        yield f"up to {total:,} tokens are more than limits.tokens ({limits.tokens:,}): --max-tokens raises it"


# --- files ------------------------------------------------------------------------------------------------------------


def connections_possible(wanted: int) -> int:
    """How many connections this process may have open. Its soft limit is raised as far as need be and it may be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    need = wanted + _FILES_KEPT
    if soft != resource.RLIM_INFINITY and need > soft:
        most = need if hard == resource.RLIM_INFINITY else min(need, hard)
        if most > soft:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            soft = most
    return wanted if soft == resource.RLIM_INFINITY else max(1, min(wanted, soft - _FILES_KEPT))
