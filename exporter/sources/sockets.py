"""Who waits for an answer: a server's connections, as the kernel of its machine tells of them.

Ollama's queue is in no API and in no log. But of each connection the kernel knows when something last came in and when
something last went out: what came in later was not answered yet. Nothing is asked of Ollama; its runners are asked how
many slots are busy, which no request waits for.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TypeVar, cast

from exporter import catalog
from exporter.llama import BadAnswer, Client, HttpError, Loading, RunnerError, Wire
from exporter.local import Connection, Connections, Local, Place, RunnerProcess
from exporter.meter import Counter
from exporter.model import Failed, Lack, Lacking, Partial, Sample, SocketsSettings, Watch

_T = TypeVar("_T")

LOOKS = 5
"""A poll has so many looks, to see what comes and goes between two polls."""
LOOKS_WHILE_REFUSING = 25
"""And so many while requests are refused: a refusal takes no time, and can be told only when nothing else is seen to
have been sent beside it."""
STREAMING_MIN, STREAMING_MAX = 0.05, 5.0
"""Seconds. What was sent so lately is a streamed answer in the making: by the pace of the server's tokens between these
two, because an answer that has just ended looks like one."""
_GAPS = 4.0
"""So many of the longest gap seen between two tokens are waited for the next one."""
_FIRST_GAP = 0.125
_GAP_FADES = 0.9
_ACKNOWLEDGED_WITHIN = 0.3
"""Seconds. A client that has no more to say acknowledges an answer at the latest then."""
_PAUSE = 0.5
"""Seconds. Who is seen to wait so long for an answer, or to ask nothing for so long, is known by that."""
_EAGER = 0.05
"""Seconds from an answer to the next request. Who takes longer does not ask within the same tick the next time."""
_REFUSALS = range(216, 219), range(273, 276)
"""Bytes of Ollama's "server busy", in its own words and in OpenAI's, or one more or less in another version."""
_REFUSES_FOR = 50
"""Looks after a refusal within which the next is to be expected."""
_TALLY_MAX = 8
_DOUBT = 10.0
"""Seconds. Who may wait or not, by what came within one tick, does not if all slots have been free for so long: a
request that is lost is rarer than a client that was told twice at once that the queue is full, and went home."""
_RUNNER_TIMEOUT = 2.0

NO_SLOTS = Lack(
    "which requests have a slot and which wait: the runners' /slots is switched off",
    "remove LLAMA_ARG_ENDPOINT_SLOTS from Ollama's environment",
)
OTHER_ENGINE = Lack(
    "which requests have a slot and which wait: only the runners of GGUF models, from Ollama 0.30 on, tell",
    "update Ollama to 0.30 or newer",
)


class SocketsSource:
    """Exposes, for a server named `a`:

        ollama_sockets_unanswered_requests{server="a"} 8.0
        ollama_sockets_oldest_unanswered_seconds{server="a"} 41.9
        ollama_sockets_waiting_requests_estimate{server="a"} 6.0
        ollama_sockets_streaming_answers{server="a"} 2.0

    `wire` makes the way to a port in a server's network. A server that has gone fails the reading as `unavailable`; one
    on another machine is a lack.
    """

    def __init__(self, watch: Watch, machine: Local, wire: Callable[[Place, int], Wire]) -> None:
        self._url = cast(SocketsSettings, watch.settings).url
        self._server, self._machine, self._wire = watch.server, machine, wire
        self._strangers: set[int] = set()
        self._every = watch.every
        self._seconds = Counter(catalog.SOCKETS_UNANSWERED_SECONDS, server=watch.server)
        self._seconds.zero()
        self._users = Users()
        self._turn = asyncio.Lock()
        self._in_thread = threading.Lock()
        self._between: asyncio.Task[None] | None = None
        self._place: Place | None = None
        self._looked_at: float | None = None
        self._free_since: float | None = None
        self._most = 0

    async def collect(self) -> Iterable[Sample] | Partial:
        self._check_between()
        try:
            async with self._turn:
                self._place = await self._ask(self._machine.place, self._url)
                work, lacks = await self._at_work(self._place)
                seen, connections = await self._look(self._place, self._free_for(work))
        except (LookupError, OSError):
            self._place = self._looked_at = self._free_since = None
            raise Failed("unavailable", self._seconds.samples()) from None
        except Lacking as lacking:
            self._place = self._looked_at = self._free_since = None
            raise Lacking(lacking.lack.what, lacking.lack.remedy, self._seconds.samples()) from None
        except BaseException:
            self._place = self._looked_at = self._free_since = None
            raise
        most, self._most = max(self._most, len(seen.unanswered)), 0
        if self._between is None:
            self._between = asyncio.create_task(self._look_on(), name=f"looks at sockets of {self._server}")
        return Partial(tuple(self._samples(seen, connections, work, most)), lacks)

    async def aclose(self) -> None:
        if self._between is not None:
            self._between.cancel()
            await asyncio.gather(self._between, return_exceptions=True)

    def _samples(self, seen: Seen, connections: Connections, work: AtWork | None, most: int) -> Iterator[Sample]:
        server = self._server
        yield catalog.SOCKETS_UNANSWERED(len(seen.unanswered), server=server)
        yield catalog.SOCKETS_UNANSWERED_MAX(most, server=server)
        yield from self._seconds.samples()
        yield catalog.SOCKETS_OLDEST(max(seen.unanswered, default=0.0), server=server)
        yield catalog.SOCKETS_STREAMING(seen.streaming, server=server)
        yield catalog.SOCKETS_IDLE(seen.idle, server=server)
        yield catalog.SOCKETS_OWN(len(seen.own_unanswered) + seen.own_streaming, server=server)
        yield catalog.SOCKETS_ACCEPT_QUEUE(connections.accept_queue, server=server)
        yield catalog.SOCKETS_ACCEPT_QUEUE_MAX(connections.accept_queue_max, server=server)
        waiting = seen.waiting(work)
        yield catalog.SOCKETS_WAITING_HIGH(waiting.most, server=server)
        if waiting.least is not None:
            yield catalog.SOCKETS_WAITING_LOW(waiting.least, server=server)
        if waiting.estimate is not None:
            yield catalog.SOCKETS_WAITING(waiting.estimate, server=server)

    async def _look_on(self) -> None:
        """Between two polls. What keeps it from seeing is told by the next poll."""
        while True:
            await asyncio.sleep(self._pause)
            async with self._turn:
                if self._place is not None and not self._looked_lately():
                    try:
                        seen, _ = await self._look(self._place)
                    except (LookupError, OSError, Failed, Lacking):
                        self._looked_at = None
                    else:
                        self._most = max(self._most, len(seen.unanswered))

    @property
    def _pause(self) -> float:
        return self._every / (LOOKS_WHILE_REFUSING if self._users.refused else LOOKS)

    def _looked_lately(self) -> bool:
        """A poll has just done it."""
        return self._looked_at is not None and asyncio.get_running_loop().time() - self._looked_at < self._pause / 2

    def _check_between(self) -> None:
        """A bug between two polls is one."""
        if self._between is not None and self._between.done():
            between, self._between = self._between, None
            between.result()

    def _free_for(self, work: AtWork | None) -> float:
        """Seconds, by polls, for which no slot has been busy and nothing has been loaded."""
        now = asyncio.get_running_loop().time()
        if work is None or work.busy or not work.spare:
            self._free_since = None
            return 0.0
        self._free_since = self._free_since if self._free_since is not None else now
        return now - self._free_since

    async def _look(self, place: Place, free_for: float = 0.0) -> tuple[Seen, Connections]:
        connections = await self._ask(self._machine.connections, place)
        seen = self._users.look(connections.established, free_for)
        now = asyncio.get_running_loop().time()
        if self._looked_at is not None:
            self._seconds.add(len(seen.unanswered) * (now - self._looked_at))
        self._looked_at = now
        return seen, connections

    async def _at_work(self, place: Place) -> tuple[AtWork | None, tuple[Lack, ...]]:
        """What the server's runners are at; None when one of them does not tell."""
        try:
            runners = await self._ask(self._machine.runners, place)
        except Lacking as lacking:
            return None, (lacking.lack,)
        if any(runner.engine != "llama" or runner.port is None for runner in runners):
            return None, (OTHER_ENGINE,)
        self._strangers &= {runner.port for runner in runners if runner.port is not None}
        try:
            told = await asyncio.gather(*(self._slots(place, runner) for runner in runners))
        except Lacking as lacking:
            return None, (lacking.lack,)
        except HttpError:
            return None, (NO_SLOTS,)
        except (RunnerError, LookupError):  # just beginning, or just ending
            return None, ()
        spare = all(work.spare for work in told)
        return AtWork(sum(work.busy for work in told), sum(work.silent for work in told), spare), ()

    async def _slots(self, place: Place, runner: RunnerProcess) -> AtWork:
        port = cast(int, runner.port)
        if port in self._strangers:
            return NOTHING
        client = Client(self._wire(place, port), _RUNNER_TIMEOUT)
        try:
            if runner.pid is None and not await _is_runner(client):
                self._strangers.add(port)
                return NOTHING
            slots = await client.slots()
        except Loading:
            return AtWork(0, 0, spare=False)
        finally:
            await client.close()
        return AtWork(slots.busy, slots.silent, slots.busy < len(slots.rows))

    async def _ask(self, call: Callable[..., _T], *arguments: object) -> _T:
        """In a thread. One that a name server holds back is not followed by another."""
        return await asyncio.to_thread(self._alone, partial(call, *arguments))

    def _alone(self, call: Callable[[], _T]) -> _T:
        if not self._in_thread.acquire(blocking=False):
            raise Failed("timeout", self._seconds.samples())
        try:
            return call()
        finally:
            self._in_thread.release()


async def _is_runner(client: Client) -> bool:
    """Of a port of which nothing is known but that it is there."""
    try:
        return bool((await client.props()).blob)
    except (HttpError, BadAnswer):
        return False


@dataclass(frozen=True, slots=True)
class AtWork:
    """Runners' busy slots, and those of them that have not made a token yet. `spare`: each has a slot free."""

    busy: int
    silent: int
    spare: bool


NOTHING = AtWork(0, 0, spare=True)


@dataclass(frozen=True, slots=True)
class Waiting:
    """Users' requests that wait for a slot or a load. None: cannot be told."""

    least: int | None
    estimate: int | None
    most: int


@dataclass(frozen=True, slots=True)
class Seen:
    """One look. `unanswered`: how long each of the users' requests has been without an answer (seconds);
    `own_unanswered`: the exporter's. The rest are counts."""

    unanswered: tuple[float, ...] = ()
    streaming: int = 0
    idle: int = 0
    own_unanswered: tuple[float, ...] = ()
    own_streaming: int = 0

    def waiting(self, work: AtWork | None) -> Waiting:
        users = len(self.unanswered)
        if work is None:
            return Waiting(None, None, users)
        least = max(0, users - work.busy)
        # A slot that has not made a token yet is an unanswered request's, the exporter's own as likely as a user's.
        most = max(least, users - max(0, work.silent - len(self.own_unanswered)))
        if work.spare and work.busy:  # nobody waits for a slot; what is beyond all slots waits for a load
            return Waiting(least, least, most)
        # First come, first served: what is at work without a streamed answer is the oldest.
        at_work = max(work.silent, work.busy - self.streaming - self.own_streaming)
        by_age = sorted([(age, 1) for age in self.unanswered] + [(age, 0) for age in self.own_unanswered], reverse=True)
        left = sum(user for _, user in by_age[max(0, at_work) :])
        return Waiting(least, min(max(left, least), most), most)


@dataclass(frozen=True, slots=True)
class _Known:
    """A connection at the last look: its bytes so far, how long ago the last was sent, whether it was without an
    answer, and whether that is `sure`: by times, or by counts on top of something that was. `streaming`: its answer was
    in the making; `flowing`: it was seen to come in pieces; `refused`: it was none. `patient`: its client is known to
    wait. `pauses`: how often the client was seen to take its time between an answer and the next request, less how
    often it did not. `by_request`: in how many segments its requests come, as far as they could be told apart; 0: not
    known yet; -1: one in more than another."""

    received: int
    sent: int
    segments_received: int
    segments_sent: int
    last_sent: float
    unanswered: bool
    sure: bool
    streaming: bool
    flowing: bool
    refused: bool
    patient: bool
    pauses: int
    by_request: int


_UNKNOWN = _Known(0, 0, 0, 0, 0.0, False, False, False, False, False, False, 0, 0)


class Users:
    """Tells at each look what a server's connections are at. Remembers them from look to look."""

    def __init__(self) -> None:
        self._known: dict[int, _Known] = {}
        self._gap = _FIRST_GAP
        self._first = True
        self._refuses_for = 0

    @property
    def refused(self) -> bool:
        """Some were, lately: the queue is full."""
        return self._refuses_for > 0

    def look(self, connections: Iterable[Connection], free_for: float = 0.0) -> Seen:
        """`free_for`: seconds for which all slots have been free."""
        connections = tuple(connections)
        streaming_within = self._streaming_within(connections)
        known: dict[int, _Known] = {}
        unanswered: dict[bool, list[float]] = {True: [], False: []}
        streaming, idle = {True: 0, False: 0}, 0
        refused = any(_is_refused(one, self._known.get(one.cookie, _UNKNOWN)) for one in connections)
        waited = sum(before.unanswered for before in self._known.values())
        # Where nobody waits no queue is full, and what is so short is but another answer.
        self._refuses_for = _REFUSES_FOR if refused and waited > 1 else max(0, self._refuses_for - 1)
        for one in connections:
            now = known[one.cookie] = self._judge(one, streaming_within, free_for)
            if now.unanswered:
                unanswered[one.own].append(one.last_received)
            elif now.streaming:
                streaming[one.own] += 1
            elif not one.own:
                idle += 1
        self._known, self._first = known, False
        return Seen(tuple(unanswered[False]), streaming[False], idle, tuple(unanswered[True]), streaming[True])

    def _streaming_within(self, connections: Iterable[Connection]) -> float:
        """By the pace of this server's tokens, as far as answers were seen to go on from one look to the next: on a
        large model without a GPU seconds pass between two."""
        before = ((one, self._known.get(one.cookie)) for one in connections)
        gaps = [known.last_sent for one, known in before if known is not None and _goes_on(one, known)]
        self._gap = max(self._gap * _GAP_FADES, *gaps, 0.0)
        return min(max(STREAMING_MIN, _GAPS * self._gap), STREAMING_MAX)

    def _judge(self, one: Connection, streaming_within: float, free_for: float) -> _Known:
        known = self._known.get(one.cookie, _UNKNOWN)
        asked = one.received != known.received
        flowing = not asked and (known.flowing or _goes_on(one, known))
        refused = known.refused if one.sent == known.sent else _refusals(one, known) > 0
        patient, pauses = known.patient, known.pauses
        by_times = not one.sent or not one.received or one.last_sent != one.last_received
        by_count = _counted(one, known)
        sure = by_times or by_count is not None or (known.sure and one.sent == known.sent and not asked)
        if not by_times:
            unanswered = self._asked_again(one) if by_count is None else by_count > 0
            unanswered = unanswered and min(free_for, one.last_received) < _DOUBT
            patient = patient or (unanswered and known.flowing)
            if asked and not refused and (known.unanswered or known.streaming or known.flowing):
                pauses -= 1
        else:
            unanswered = one.received > 0 and (one.sent == 0 or one.last_sent > one.last_received)
            if asked and unanswered and one.sent and not refused:  # who was refused has a reason to pause
                pauses += 1 if one.last_sent - one.last_received > _EAGER else -1
            if one.received and one.last_received >= _PAUSE and (unanswered or one.last_sent >= _PAUSE):
                patient = unanswered
        streaming = not unanswered and one.sent > 0 and one.last_sent <= streaming_within
        pauses = max(-_TALLY_MAX, min(pauses, _TALLY_MAX))
        return _Known(
            one.received,
            one.sent,
            one.segments_received,
            one.segments_sent,
            one.last_sent,
            unanswered,
            sure,
            streaming,
            flowing,
            refused,
            patient,
            pauses,
            _by_request(one, known, unanswered and by_times),
        )

    def _asked_again(self, one: Connection) -> bool:
        """Something came in and something went out within one tick of the kernel's clock. Was a request answered at
        once, as those that only look are, and those that a full queue refuses; or an answer followed by the next
        request at once, as programs do that never pause?"""
        known = self._known.get(one.cookie)
        if 0 < one.last_sent - one.last_acknowledged <= _ACKNOWLEDGED_WITHIN:
            return False  # the client took its time to acknowledge the answer: it had nothing to ask
        if known is not None and known.received == one.received:
            return known.unanswered and known.sent == one.sent
        if known is None:
            # Of a young connection, acknowledgements tell: an answer at once takes them along, a wait does not.
            return not self._first and one.acknowledged > 0
        if _short_answers(one, known):
            return not _refusals(one, known)
        if self.refused and known.pauses > 1:
            return False
        return known.patient or known.unanswered or known.streaming or known.flowing


def _is_refused(one: Connection, known: _Known) -> bool:
    """All that was sent since the last look is that the queue is full."""
    return one.received != known.received and _refusals(one, known) > 0


def _refusals(one: Connection, known: _Known) -> int:
    """So many, and they are no other answers of that size, such as that the runner has died: who has waited is not
    refused any more."""
    return 0 if known.unanswered and known.sure else _short_answers(one, known)


def _short_answers(one: Connection, known: _Known) -> int:
    """How many answers of a refusal's size were sent since the last look, each in a segment of its own, if nothing else
    was."""
    sent, segments = one.sent - known.sent, one.segments_sent - known.segments_sent
    found = any(sizes.start * segments <= sent <= sizes[-1] * segments for sizes in _REFUSALS)
    return segments if found else 0


def _counted(one: Connection, known: _Known) -> int | None:
    """How many of a client's requests are without an answer, 0 or 1, where all that it was sent since the last look are
    short answers; None where that cannot be told. Who is refused may ask again within the same tick, more than once."""
    answers = _short_answers(one, known)
    if not answers or not known.sure or known.by_request < 1:
        return None
    requests, rest = divmod(one.segments_received - known.segments_received, known.by_request)
    waits = known.unanswered + requests - answers
    return waits if not rest and waits in (0, 1) else None


def _by_request(one: Connection, known: _Known, waits: bool) -> int:
    """In how many segments a client's requests come: told by one that waits, and by nothing else."""
    if one.sent == 0:
        return one.segments_received  # all that came is its first
    if not waits or one.received == known.received or one.sent != known.sent or known.unanswered:
        return known.by_request
    told = one.segments_received - known.segments_received
    return told if known.by_request in (0, told) else -1


def _goes_on(one: Connection, known: _Known) -> bool:
    """More of the same answer has come since the last look."""
    return known.sure and known.received == one.received and 0 < known.sent < one.sent and not known.unanswered
