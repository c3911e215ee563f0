"""What runners are at, by their own /slots, asked far more often than the exporter asks."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise, zip_longest

from benchmarks.truth.book import NOTHING, Bounds, Span
from benchmarks.truth.runners import Runner, Runners

EVERY = 0.05
"""Seconds: twenty looks a second."""
APART = 0.5
"""Seconds between two looks beyond which nothing is said of the time between them."""


@dataclass(frozen=True, slots=True)
class Slot:
    busy: bool
    task: int | None
    decoded: int
    held: int


@dataclass(frozen=True, slots=True)
class Look:
    """The answer is of some moment within the span. No slots: it was still loading its model."""

    span: Span
    slots: tuple[Slot, ...]


def slots_of(text: bytes) -> tuple[Slot, ...]:
    return tuple(
        Slot(
            row["is_processing"],
            row.get("id_task"),
            sum(token.get("n_decoded", 0) for token in row.get("next_token", [])),
            row.get("n_prompt_tokens", 0),
        )
        for row in json.loads(text)
    )


def busy(looks: Sequence[Look], span: Span) -> Bounds | None:
    """Busy slots of a runner at any moment of the span; `NOTHING` while it was loading; None when its looks do not
    enclose the span closely.

    A slot that is at the same task before, within and after the span was so all the time. One that was not can have
    been idle and busy in between.
    """
    before = next((look for look in reversed(looks) if look.span.high <= span.low), None)
    later = next((look for look in looks if look.span.low >= span.high), None)
    if later is not None and not later.slots:
        return NOTHING
    if before is None or later is None or not before.slots:
        return None
    around = [look for look in looks if before.span.low <= look.span.low <= later.span.low]
    if any(b.span.low - a.span.low > APART for a, b in pairwise(around)):
        return None
    low = high = 0
    for seen in zip(*(look.slots for look in around), strict=True):
        steady = len({(slot.busy, slot.task) for slot in seen}) == 1
        low += steady and seen[0].busy
        high += not steady or seen[0].busy
    return Bounds(low, high)


@dataclass(frozen=True, slots=True)
class Task:
    """One that was at work at some look. It ended within `end`, with `tokens` made: at least those seen, at most what
    fits into the time until nothing was to be seen of it any more."""

    end: Span
    tokens: Bounds
    prompt: int


def tasks(looks: Sequence[Look], pace: float, ended: float | None) -> list[Task]:
    """All tasks that these looks of one runner met. `pace`: tokens a second that it makes at most for one request.
    `ended`: of the runner, which takes its tasks along."""
    met = []
    looks = [look for look in looks if look.slots]
    for before, later in zip_longest(looks, looks[1:]):
        for place, slot in enumerate(before.slots):
            now = None if later is None else later.slots[place]
            if not slot.busy or (now is not None and now.busy and now.task == slot.task):
                continue
            until = ended if later is None else later.span.high
            if until is None:
                continue
            most = slot.decoded + int(max(0.0, until - before.span.low) * pace) + 1
            least = slot.decoded
            # An idle slot goes on holding what its last task made, behind the prompt.
            if now is not None and not now.busy and now.task == slot.task and slot.decoded:
                least = slot.decoded + max(0, now.held - slot.held)
                most = min(most, least + 1)
            met.append(Task(Span(before.span.low, until), Bounds(least, most), slot.held - slot.decoded))
    return met


def unwatched(looks: Sequence[Look], life: Span, span: Span) -> float:
    """The longest time within the span in which a runner lived and nobody looked at it."""
    low, high = max(life.low, span.low), min(life.high, span.high)
    times = sorted(at for look in looks for at in look.span if low <= at <= high)
    return max((later - before for before, later in pairwise((low, *times, high))), default=0.0) if low < high else 0.0


class Watch:
    """A thread for each runner of the server, for as long as that lives."""

    def __init__(self, runners: Runners) -> None:
        self.looks: dict[int, list[Look]] = {}
        self._runners, self._over = runners, threading.Event()
        self._thread = threading.Thread(target=self._follow, name="runners' slots", daemon=True)
        self._threads: dict[int, threading.Thread] = {}
        self._thread.start()

    def close(self) -> None:
        self._over.set()
        for thread in (self._thread, *self._threads.values()):
            thread.join(3.0)

    def _follow(self) -> None:
        while not self._over.wait(EVERY / 2):
            for runner in self._runners.alive():
                if runner.pid not in self._threads:
                    looks = self.looks.setdefault(runner.pid, [])
                    thread = threading.Thread(target=self._watch, args=(runner, looks.append), daemon=True)
                    self._threads[runner.pid] = thread
                    thread.start()

    def _watch(self, runner: Runner, note: Callable[[Look], None]) -> None:
        while runner.lives() and not self._over.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", runner.port, timeout=2.0)
            with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(connection):
                while runner.lives() and not self._over.wait(EVERY):
                    begun = time.monotonic()
                    connection.request("GET", "/slots")
                    answer = connection.getresponse()
                    text = answer.read()
                    if answer.status in (200, 503):  # 503: it is loading
                        slots = slots_of(text) if answer.status == 200 else ()
                        note(Look(Span(begun, time.monotonic()), slots))
            self._over.wait(EVERY)


def all_busy(looks: Iterable[Sequence[Look]], span: Span) -> Bounds | None:
    """Of several runners together; `NOTHING` where there is none, or all are loading; None when one of them cannot be
    told."""
    each = [busy(of_one, span) for of_one in looks]
    known = [bounds for bounds in each if bounds is not None]
    if len(known) < len(each):
        return None
    known = [bounds for bounds in known if bounds != NOTHING]
    if not known:
        return NOTHING
    return Bounds(sum(bounds.low for bounds in known), sum(bounds.high for bounds in known))
