"""Who waits for an answer: the verdict on one connection, on all of them, and the source in front of real and simulated
servers whose truth is known."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace

import httpx
import pytest

from exporter import catalog
from exporter.demo import Resident, SimMachine, house
from exporter.fleet import Observer
from exporter.llama import Reply
from exporter.local import Connection, Connections, Local, Place, RunnerProcess, Usage
from exporter.local.machine import Machine
from exporter.model import Lacking, SocketsSettings, Watch
from exporter.simulator import (
    TINYLLAMA,
    Children,
    EngineConfig,
    Fault,
    FleetConfig,
    ServerConfig,
    SimServer,
    SimTransport,
    virtual_wall_clock,
)
from exporter.sources import SOURCES
from exporter.sources.sockets import LOOKS, NOTHING, AtWork, Seen, SocketsSource, Users, Waiting
from tests.scene import PATIENT, virtually
from tests.scene import Seen as Page

URL = "http://a:11434"
PLACE = Place((("127.0.0.1", 11434),), pid=1, started=0.0)


def connection(
    received: int = 100,
    sent: int = 0,
    last_received: float = 5.0,
    last_sent: float = 5.0,
    acknowledged_ago: float | None = None,
    acknowledged: int = 0,
    cookie: int = 1,
    own: bool = False,
) -> Connection:
    """Its segments are of 100 and of 200 bytes."""
    ago = last_sent if acknowledged_ago is None else acknowledged_ago
    segments = received // 100, -(-sent // 200)
    return Connection(
        cookie, ("10.0.0.9", cookie), received, sent, last_received, last_sent, ago, acknowledged, *segments, own=own
    )


# --- one connection --------------------------------------------------------------------------------------------------

UNANSWERED, STREAMING, IDLE = Seen(unanswered=(5.0,)), Seen(streaming=1), Seen(idle=1)


@pytest.mark.parametrize(
    ("seen", "verdict"),
    [
        pytest.param(connection(), UNANSWERED, id="nothing was sent yet"),
        pytest.param(connection(sent=9, last_sent=60.0), UNANSWERED, id="a second request"),
        pytest.param(connection(received=0), IDLE, id="opened and silent"),
        pytest.param(connection(sent=9, last_sent=4.0), IDLE, id="answered a while ago"),
        pytest.param(connection(sent=9, last_sent=0.02), STREAMING, id="answered this very moment"),
        pytest.param(connection(sent=9, acknowledged=1), IDLE, id="nobody knows, at the very first look"),
    ],
)
def test_what_a_connection_is_at_by_one_look(seen: Connection, verdict: Seen) -> None:
    assert Users().look([seen]) == verdict


TIE = connection(received=300, sent=900)
"""A request and an answer within one tick of the kernel's clock: which came first?"""


@pytest.mark.parametrize(
    ("before", "tie", "unanswered"),
    [
        pytest.param(None, TIE, 0, id="a new connection, answered at once"),
        pytest.param(None, replace(TIE, acknowledged=1), 1, id="a new connection, its second request waits"),
        pytest.param(connection(received=200), TIE, 1, id="one that waited has its answer and asks again"),
        pytest.param(connection(received=200, sent=50, last_sent=1.0), TIE, 0, id="one that was idle"),
        pytest.param(
            connection(received=200), replace(TIE, last_acknowledged=4.96), 0, id="a client that only acknowledges"
        ),
        pytest.param(
            connection(received=200), replace(TIE, last_acknowledged=0.2), 1, id="a client's keep-alive probe"
        ),
    ],
)
def test_within_one_tick_what_was_before_tells(before: Connection | None, tie: Connection, unanswered: int) -> None:
    users = Users()
    users.look([] if before is None else [before])
    assert len(users.look([tie]).unanswered) == unanswered
    later = replace(tie, last_received=20.0, last_sent=20.0, last_acknowledged=3.0)
    assert len(users.look([later]).unanswered) == unanswered, "until something happens"
    answered = replace(tie, sent=1400, last_sent=0.5)
    assert users.look([answered]).unanswered == ()


_BUSY = 217
"""Bytes of Ollama's answer when its queue is full."""


def _asking(number: int, requests: int, sent: int, ago: float, pause: float = 0.0) -> Connection:
    """The last request came in `ago`, so long after an answer."""
    return connection(
        cookie=number,
        received=200 * requests,
        sent=sent,
        last_received=ago,
        last_sent=ago + pause,
        acknowledged=requests,
    )


def test_a_refusal_is_an_answer_though_its_client_used_to_wait() -> None:
    users = Users()
    users.look([_asking(1, 1, 0, 3.0)])
    users.look([_asking(1, 2, 900, 0.1)])
    assert len(users.look([_asking(1, 2, 900, 1.1)]).unanswered) == 1
    refused = users.look([_asking(1, 3, 900 + _BUSY, 0.4)])
    assert (refused.unanswered, refused.idle) == ((), 1)
    assert users.look([_asking(1, 3, 900 + _BUSY, 1.4)]).idle == 1


def test_who_only_seems_to_wait_does_not_once_all_slots_have_been_free_for_a_while() -> None:
    users = Users()
    users.look([connection(received=200)])
    for free_for, ago, unanswered in ((60.0, 5.0, 1), (9.0, 60.0, 1), (11.0, 60.0, 0), (0.0, 70.0, 0)):
        seen = replace(TIE, last_received=ago, last_sent=ago, last_acknowledged=ago)
        assert len(users.look([seen], free_for).unanswered) == unanswered
    surely = connection(cookie=2, sent=900, last_received=60.0, last_sent=70.0)
    assert len(users.look([surely], 60.0).unanswered) == 1, "a request that is lost"


def test_an_error_as_long_as_a_refusal_that_ends_a_wait_is_none_and_who_asks_again_at_once_waits() -> None:
    users, other = Users(), _asking(2, 1, 0, 9.0)
    users.look([other, _asking(1, 1, 900, 0.6, 3.0)])
    seen = users.look([other, _asking(1, 2, 900 + _BUSY, 0.1)])
    assert len(seen.unanswered) == 2
    assert not users.refused
    users.look([other, _asking(1, 2, 900 + _BUSY, 0.3)])
    assert len(users.look([other, _asking(1, 2, 900 + _BUSY, 0.5)]).unanswered) == 2


def test_while_a_queue_refuses_who_takes_his_time_is_not_taken_for_one_who_asks_again_at_once() -> None:
    seen = {}
    for pause in (0.6, 0.0):
        users = Users()
        others = [_asking(number, 1, 0, 9.0) for number in (2, 3)]
        users.look([*others, _asking(1, 1, 0, 0.2)])
        for request in range(2, 6):
            users.look([*others, _asking(1, request, 900 * request, 0.2, pause)])
        users.look([*others, connection(cookie=1, received=1000, sent=900 * 5 + 9, last_sent=0.6)])  # it has its answer
        assert not users.refused
        users.look([*others, _asking(1, 6, 900 * 5 + 9 + _BUSY, 0.2)])
        assert users.refused
        users.look([*others, _asking(1, 7, 900 * 5 + 9 + _BUSY, 0.2, 0.3)])
        seen[pause] = len(users.look([*others, _asking(1, 8, 900 * 7 + _BUSY, 0.2)]).unanswered) - len(others)
    assert seen == {0.6: 0, 0.0: 1}


@pytest.mark.parametrize("by_request", [1, 3])
@pytest.mark.parametrize(
    ("told", "asked", "unanswered"),
    [(1, 1, 0), (1, 2, 1), (2, 2, 0), (2, 3, 1), (5, 5, 0), (5, 6, 1)],
)
def test_while_a_queue_refuses_requests_and_answers_are_counted(
    by_request: int, told: int, asked: int, unanswered: int
) -> None:
    """A client that does not pause between two looks: `asked` times, and refused each time but the last perhaps."""
    others = [_asking(number, 1, 0, 9.0) for number in (2, 3)]

    def mine(requests: int, sent: int, answers: int, pause: float) -> Connection:
        seen = _asking(1, requests, sent, 0.2, pause)
        return replace(seen, segments_received=requests * by_request, segments_sent=answers)

    users = Users()
    users.look([*others, mine(1, 0, 0, 0.0)])
    users.look([*others, connection(cookie=1, received=200, sent=900, last_sent=1.0, last_received=3.0)])
    idle = replace(mine(1, 900, 5, 0.0), last_received=3.0, last_sent=1.0)
    assert users.look([*others, idle]).idle == 1
    later = mine(1 + asked, 900 + told * _BUSY, 5 + told, 0.0)
    assert len(users.look([*others, later]).unanswered) == len(others) + unanswered
    assert len(users.look([*others, later]).unanswered) == len(others) + unanswered
    once_more = mine(1 + asked + 1, 900 + (told + 1) * _BUSY, 5 + told + 1, 0.0)
    assert len(users.look([*others, once_more]).unanswered) == len(others) + unanswered
    assert users.refused


def test_requests_that_come_in_more_segments_than_others_cannot_be_counted() -> None:
    others, users = [_asking(number, 1, 0, 9.0) for number in (2, 3)], Users()
    for segments, requests, sent, pause in ((1, 1, 0, 0.0), (1, 1, 300, -2.0), (5, 2, 300, 1.0), (5, 2, 600, -2.0)):
        seen = _asking(1, requests, sent, 3.0, pause)
        users.look([*others, replace(seen, segments_received=segments, segments_sent=sent // 300)])
    refused = replace(_asking(1, 3, 600 + _BUSY, 0.2), segments_received=10, segments_sent=3)
    assert len(users.look([*others, refused]).unanswered) == len(others), "two requests, or one in five pieces"


def test_a_client_that_acknowledges_a_little_later_has_its_answer() -> None:
    users = Users()
    users.look([_asking(1, 1, 0, 3.0)])
    assert len(users.look([_asking(1, 2, 900, 0.01)]).unanswered) == 1
    assert users.look([replace(_asking(1, 2, 900, 0.2), last_acknowledged=0.156)]).unanswered == ()


def test_where_nobody_waits_nobody_is_refused() -> None:
    users = Users()
    for request in range(1, 9):
        users.look([_asking(1, request, _BUSY * request, 0.2)])
    assert not users.refused


def test_a_stream_that_is_asked_again_at_once_waits() -> None:
    users = Users()
    for sent in (10, 20):
        users.look([connection(received=200, sent=sent, last_sent=0.01)])
    assert len(users.look([TIE]).unanswered) == 1


def test_slow_tokens_are_a_stream_once_they_have_been_seen_to_come_slowly() -> None:
    users = Users()
    seen = []
    for sent, ago in ((1, 0.1), (1, 1.1), (2, 0.4), (2, 1.4), (3, 0.7), (3, 1.7)):
        seen.append(users.look([connection(sent=sent, last_received=30.0, last_sent=ago)]).streaming)
    assert seen == [1, 0, 1, 1, 1, 1]


def test_fast_tokens_make_an_ended_answer_idle_soon() -> None:
    users = Users()
    for sent in range(1, 40):
        users.look([connection(sent=sent, last_received=30.0, last_sent=0.01)])
    assert users.look([connection(sent=99, last_received=30.0, last_sent=0.1)]).idle == 1


def test_the_exporters_own_requests_are_counted_apart() -> None:
    own = [connection(own=True), connection(cookie=2, sent=9, last_sent=0.01, own=True)]
    assert Users().look([*own, connection(cookie=3, sent=9, last_sent=4.0, own=True)]) == Seen(
        own_unanswered=(5.0,), own_streaming=1
    )


# --- who waits -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seen", "work", "waiting"),
    [
        pytest.param(Seen((3.0, 2.0, 1.0)), None, Waiting(None, None, 3), id="runners do not tell"),
        pytest.param(Seen((3.0, 2.0, 1.0)), NOTHING, Waiting(3, 3, 3), id="everybody waits for a load"),
        pytest.param(Seen((3.0, 2.0, 1.0)), AtWork(2, 0, False), Waiting(1, 1, 3), id="two plain answers at work"),
        pytest.param(Seen((3.0, 2.0, 1.0), 2), AtWork(2, 0, False), Waiting(1, 3, 3), id="two streams at work"),
        pytest.param(Seen((3.0, 2.0, 1.0), 1), AtWork(2, 0, False), Waiting(1, 2, 3), id="one of each"),
        pytest.param(Seen((3.0, 2.0, 1.0), 5), AtWork(2, 1, False), Waiting(1, 2, 2), id="streams that just ended"),
        pytest.param(Seen((3.0,), 1), AtWork(1, 0, True), Waiting(0, 0, 1), id="slots to spare"),
        pytest.param(Seen((), 2), AtWork(2, 0, False), Waiting(0, 0, 0), id="nobody unanswered"),
        pytest.param(Seen((1.0,)), AtWork(2, 2, False), Waiting(0, 0, 0), id="a slot whose user has gone"),
        pytest.param(
            Seen((3.0, 1.0), own_unanswered=(2.0,)), AtWork(2, 0, False), Waiting(0, 1, 2), id="our canary has a slot"
        ),
        pytest.param(
            Seen((3.0, 2.0), own_unanswered=(1.0,)), AtWork(2, 2, False), Waiting(0, 0, 1), id="our canary waits"
        ),
    ],
)
def test_how_many_wait_and_within_which_bounds(seen: Seen, work: AtWork | None, waiting: Waiting) -> None:
    assert seen.waiting(work) == waiting


# --- the source on this machine --------------------------------------------------------------------------------------


class Ollama:
    """A server that answers when it is told to: its truth is what the test does."""

    def __init__(self, family: int, address: str) -> None:
        self._server = socket.socket(family)
        if family == socket.AF_INET6:
            self._server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        self._server.bind((address, 0))
        self._server.listen(20)
        self.port = self._server.getsockname()[1]
        self._open: list[socket.socket] = [self._server]

    def request(self, dialled: str) -> tuple[socket.socket, socket.socket]:
        client = socket.create_connection((dialled, self.port))
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        accepted, _ = self._server.accept()
        self._open += [client, accepted]
        return client, accepted

    def close(self) -> None:
        for one in self._open:
            one.close()


class Strangers:
    """The real machine, for whom everybody is a stranger, also this process."""

    def __init__(self) -> None:
        self._machine = Machine()

    def __getattr__(self, name: str) -> object:
        return getattr(self._machine, name)

    def connections(self, place: Place) -> Connections:
        seen = self._machine.connections(place)
        return replace(seen, established=tuple(replace(one, own=False) for one in seen.established))


@pytest.fixture(params=[(socket.AF_INET, "127.0.0.1", "127.0.0.1"), (socket.AF_INET6, "::", "127.0.0.1")], ids=str)
def ollama(request: pytest.FixtureRequest) -> Iterator[tuple[Ollama, str]]:
    family, bound, dialled = request.param
    server = Ollama(family, bound)
    yield server, dialled
    server.close()


@pytest.mark.skipif(not hasattr(socket, "AF_NETLINK"), reason="asks the Linux kernel")
def test_real_connections_are_counted_as_they_are(ollama: tuple[Ollama, str]) -> None:
    server, dialled = ollama

    async def act() -> list[Page]:
        url = f"http://{dialled}:{server.port}"
        watch = Watch("a", "sockets", 5.0, 10.0, SocketsSettings(url))
        source = SocketsSource(watch, Strangers(), no_runners)  # type: ignore[arg-type]
        observer = Observer(watch, source, SOURCES["sockets"].reasons, virtual_wall_clock)
        pages = [Page(await observer.observe())]
        requests = [server.request(dialled) for _ in range(5)]
        pages.append(Page(await observer.observe()))
        for _, accepted in requests[:2]:
            accepted.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        requests[2][0].shutdown(socket.SHUT_WR)
        pages.append(Page(await observer.observe()))
        server.close()
        pages.append(Page(await observer.observe()))
        await source.aclose()
        return pages

    nobody, five, two, gone = asyncio.run(act())
    assert nobody(catalog.SOCKETS_UNANSWERED) == nobody(catalog.SOCKETS_OLDEST) == 0
    assert five(catalog.SOCKETS_UNANSWERED) == five(catalog.SOCKETS_WAITING_HIGH) == 5
    assert five(catalog.SOCKETS_ACCEPT_QUEUE_MAX) == 20
    assert two(catalog.SOCKETS_UNANSWERED) == 2, "two were answered, one user has gone"
    assert two.total(catalog.SOCKETS_STREAMING) + two.total(catalog.SOCKETS_IDLE) == 2
    assert gone.failure == "unavailable"
    assert gone.families() == {catalog.SOCKETS_UNANSWERED_SECONDS.name}


def no_runners(place: Place, port: int) -> object:
    raise AssertionError("there are none")


# --- in virtual time -------------------------------------------------------------------------------------------------


class Book:
    """A machine with one server, whose connections the test writes."""

    def __init__(self, *connections: Connection) -> None:
        self.connections_now: tuple[Connection, ...] = connections
        self.runners_now: tuple[RunnerProcess, ...] = ()
        self.broken: Exception | None = None

    def place(self, url: str) -> Place:
        if self.broken is not None:
            raise self.broken
        return PLACE

    def connections(self, place: Place) -> Connections:
        if self.broken is not None:
            raise self.broken
        return Connections(self.connections_now, 2, 4096)

    def runners(self, place: Place) -> tuple[RunnerProcess, ...]:
        return self.runners_now

    def usage(self, process: RunnerProcess) -> Usage | None:
        return None

    def environment(self, place: Place) -> Mapping[str, str]:
        return {}

    def names(self, place: Place, blob: str) -> tuple[str, ...]:
        return ()

    def connect(self, place: Place, port: int, timeout: float) -> socket.socket:
        raise OSError


class Answers:
    """The way to every port: one answer to each path."""

    def __init__(self, status: int, body: bytes) -> None:
        self._reply = Reply(status, {"server": "llama.cpp"}, body)
        self.asked: list[str] = []

    async def get(self, path: str) -> Reply:
        self.asked.append(path)
        return self._reply

    async def close(self) -> None:
        """Nothing is held."""


@asynccontextmanager
async def looking(
    machine: Local, wire: Callable[[Place, int], object] = no_runners, optional: bool = False
) -> AsyncIterator[Callable[[], object]]:
    watch = Watch("a", "sockets", 5.0, 10.0, SocketsSettings(URL), optional)
    source = SocketsSource(watch, machine, wire)  # type: ignore[arg-type]
    observer = Observer(watch, source, SOURCES["sockets"].reasons, virtual_wall_clock)

    async def look() -> Page:
        return Page(await observer.observe())

    try:
        yield look
    finally:
        await source.aclose()


@virtually
async def test_what_comes_and_goes_between_two_polls_is_seen() -> None:
    book = Book()
    async with looking(book) as look:
        await look()
        await asyncio.sleep(0.5)
        book.connections_now = (connection(), connection(cookie=2))
        await asyncio.sleep(2.0)
        book.connections_now = ()
        await asyncio.sleep(2.5)
        seen = await look()
        assert seen(catalog.SOCKETS_UNANSWERED) == 0
        assert seen(catalog.SOCKETS_UNANSWERED_MAX) == 2
        assert seen(catalog.SOCKETS_UNANSWERED_SECONDS) == pytest.approx(4.0)
        await asyncio.sleep(5.0)
        assert (await look())(catalog.SOCKETS_UNANSWERED_MAX) == 0


@virtually
async def test_there_are_so_many_looks_a_poll_and_none_after_the_end() -> None:
    book, looks = Book(), 0
    inner = book.connections

    def counted(place: Place) -> Connections:
        nonlocal looks
        looks += 1
        return inner(place)

    book.connections = counted  # type: ignore[method-assign]
    async with looking(book) as look:
        await look()
        await asyncio.sleep(4.99)
        assert looks == LOOKS
    await asyncio.sleep(60)
    assert looks == LOOKS


@pytest.mark.parametrize("trouble", [LookupError("gone"), Lacking("it is out of sight", "look elsewhere")])
@virtually
async def test_a_server_that_has_gone_shows_no_gauge_and_keeps_its_counter(trouble: Exception) -> None:
    book = Book(connection())
    async with looking(book) as look:
        await look()
        await asyncio.sleep(5.0)
        before = (await look()).total(catalog.SOCKETS_UNANSWERED_SECONDS)
        book.broken = trouble
        await asyncio.sleep(60.0)
        gone = await look()
        assert gone.failure == "unavailable"
        assert gone.families() == {catalog.SOCKETS_UNANSWERED_SECONDS.name}
        assert gone(catalog.SOCKETS_UNANSWERED_SECONDS) == before
        book.broken = None
        await asyncio.sleep(5.0)
        back = await look()
        assert back(catalog.SOCKETS_UNANSWERED) == 1
        assert back(catalog.SOCKETS_UNANSWERED_SECONDS) == before, "nobody knows what was in between"


@virtually
async def test_a_server_elsewhere_is_a_lack() -> None:
    book = Book()
    book.broken = Lacking("a is not seen on this machine", "run an exporter on its machine")
    async with looking(book, optional=True) as look:
        seen = await look()
        assert seen.reading.blind
        assert seen.reading.samples == ()
    async with looking(book) as look:
        assert (await look()).failure == "unavailable"


@virtually
async def test_a_bug_between_two_polls_is_a_bug() -> None:
    book = Book()
    async with looking(book) as look:
        await look()
        book.broken = ZeroDivisionError()
        await asyncio.sleep(2.0)
        book.broken = None
        assert (await look()).failure == "bug"
        assert (await look()).failure is None


@pytest.mark.parametrize(
    ("runner", "status", "body", "lacks", "bounds"),
    [
        (RunnerProcess(1, 9), 200, b'[{"id":0,"is_processing":true},{"id":1,"is_processing":false}]', 0, (2, 2)),
        (RunnerProcess(1, 9), 503, b'{"error":{"message":"Loading model"}}', 0, (3, 3)),
        (RunnerProcess(1, 9), 501, b"{}", 1, (None, 3)),
        (RunnerProcess(1, 9), 200, b"garbage", 0, (None, 3)),
        (RunnerProcess(1, 9, engine="mlx"), 200, b"", 1, (None, 3)),
        (RunnerProcess(1), 404, b"another server in our pod", 0, (3, 3)),
    ],
    ids=["busy", "loading", "no slots", "garbage", "mlx", "a stranger"],
)
def test_what_runners_tell_and_do_not_tell(
    runner: RunnerProcess, status: int, body: bytes, lacks: int, bounds: tuple[int | None, int]
) -> None:
    @virtually
    async def act() -> None:
        book = Book(*(connection(cookie=number) for number in range(3)))
        book.runners_now = (runner,)
        async with looking(book, lambda place, port: Answers(status, body)) as look:
            seen = await look()
            low, high = seen(catalog.SOCKETS_WAITING_LOW), seen(catalog.SOCKETS_WAITING_HIGH)
            assert (len(seen.reading.lacks), (low, high)) == (lacks, bounds)
            assert (seen(catalog.SOCKETS_WAITING) is None) == (bounds[0] is None)

    act()


@virtually
async def test_all_slots_have_to_be_free_at_each_poll_for_a_while() -> None:
    free = b'[{"id":0,"is_processing":false}]'
    says = {"free": Answers(200, free), "busy": Answers(200, free.replace(b"false", b"true"))}
    now = "busy"
    book = Book(connection(received=200, last_received=1.0, last_sent=1.0))
    book.runners_now = (RunnerProcess(1, 9),)
    async with looking(book, lambda place, port: says[now]) as look:

        async def unanswered(ago: float) -> float | None:
            book.connections_now = (replace(TIE, last_received=ago, last_sent=ago, last_acknowledged=ago),)
            seen = (await look())(catalog.SOCKETS_UNANSWERED)
            await asyncio.sleep(5.0)
            return seen

        book.connections_now = (connection(received=200),)
        await look()
        assert await unanswered(1.0) == 1
        now = "free"
        assert [await unanswered(ago) for ago in (20.0, 25.0)] == [1, 1]
        now = "busy"
        assert await unanswered(30.0) == 1
        now = "free"
        assert [await unanswered(ago) for ago in (35.0, 40.0, 45.0)] == [1, 1, 0]


@virtually
async def test_a_stranger_in_the_pod_is_asked_once() -> None:
    book, way = Book(), Answers(404, b"")
    book.runners_now = (RunnerProcess(1),)
    async with looking(book, lambda place, port: way) as look:
        for _ in range(3):
            await look()
    assert way.asked == ["/props"]


# --- the simulated server --------------------------------------------------------------------------------------------


class ChildWire:
    def __init__(self, children: Children, port: int) -> None:
        self._children, self._port = children, port

    async def get(self, path: str) -> Reply:
        for child in self._children.now():
            if child.port == self._port:
                answer = child.answer(path)
                return Reply(answer.status, {key.lower(): value for key, value in answer.headers.items()}, answer.body)
        raise ConnectionRefusedError

    async def close(self) -> None:
        """Nothing is held."""


@asynccontextmanager
async def simulated(slots: int) -> AsyncIterator[tuple[SimServer, httpx.AsyncClient, Callable[[], object]]]:
    server = SimServer(ServerConfig(engine=EngineConfig(num_parallel=slots)), virtual_wall_clock)
    children = Children(server)
    machine = SimMachine({URL: Resident(server, children.pid, children.now)})
    people = httpx.AsyncClient(transport=SimTransport({"a": server}), base_url=URL, timeout=PATIENT)
    async with people, looking(machine, lambda place, port: ChildWire(children, port)) as look:
        yield server, people, look
    await server.aclose()


def waiting(server: SimServer) -> int:
    """The truth."""
    engine = server.engine
    return sum(row.waiting for row in engine.loaded()) + engine.pending + bool(engine.scheduling)


@virtually
async def test_a_saturated_server_shows_as_many_waiting_as_there_are() -> None:
    async with simulated(slots=4) as (server, _, look):
        await look()
        server.inject(Fault("saturated", 300.0, model=TINYLLAMA.name))
        await asyncio.sleep(20.0)
        for _ in range(40):
            await asyncio.sleep(5.0)
            seen = await look()
            assert waiting(server) == 6
            assert seen.total(catalog.SOCKETS_WAITING_LOW) <= 6 <= seen.total(catalog.SOCKETS_WAITING_HIGH)
            assert abs(seen.total(catalog.SOCKETS_WAITING) - 6) <= 1
            assert seen.total(catalog.SOCKETS_UNANSWERED) >= 6


@virtually
async def test_requests_wait_for_a_load_where_no_api_shows_them() -> None:
    async with simulated(slots=4) as (server, people, look):
        asked = [
            asyncio.create_task(people.post("/api/generate", json={"model": "tinyllama", "prompt": "Why?"}))
            for _ in range(5)
        ]
        await asyncio.sleep(0.7)
        seen = await look()
        assert waiting(server) == 5
        assert [seen(family) for family in (catalog.SOCKETS_UNANSWERED, catalog.SOCKETS_WAITING)] == [5, 5]
        assert seen.total(catalog.SOCKETS_OLDEST) == pytest.approx(0.7, abs=0.01)
        await asyncio.gather(*asked)
        await asyncio.sleep(6.0)
        assert (await look())(catalog.SOCKETS_UNANSWERED) == 0


@virtually
async def test_the_canary_of_this_exporter_is_no_user() -> None:
    async with simulated(slots=1) as (_, people, look):
        canary = asyncio.create_task(
            people.post(
                "/api/generate",
                json={"model": "tinyllama", "prompt": "Why?", "stream": False},
                headers={"User-Agent": "ollama-exporter/1.0"},
            )
        )
        await asyncio.sleep(0.5)
        seen = await look()
        assert seen(catalog.SOCKETS_OWN) == 1
        assert [seen(family) for family in (catalog.SOCKETS_UNANSWERED, catalog.SOCKETS_WAITING_HIGH)] == [0, 0]
        await canary


def test_the_demo_is_housed_with_its_runners_and_logs() -> None:
    asyncio.run(_visit_the_demo())


async def _visit_the_demo() -> None:
    async with house(FleetConfig(), virtual_wall_clock) as demo:
        assert demo.urls.keys() == demo.logs.keys() == demo.fleet.servers.keys()
        for name, url in demo.urls.items():
            place = demo.machine.place(url)
            assert f":{place.addresses[0][1]}" in url
            assert (demo.machine.connections(place).established, demo.machine.runners(place)) == ((), ())
            assert demo.machine.environment(place)["OLLAMA_NUM_PARALLEL"] in ("50", "30", "20")
            assert "server config" in demo.logs[name].read_text(encoding="utf-8")
        assert len({demo.machine.place(url).pid for url in demo.urls.values()}) == 3
        with pytest.raises(Lacking):
            demo.machine.place("http://203.0.113.7:11434")
    assert not any(path.exists() for path in demo.logs.values())


@virtually
async def test_a_dead_simulated_server_is_gone_and_comes_back() -> None:
    async with simulated(slots=1) as (server, _, look):
        assert (await look()).failure is None
        server.inject(Fault("dead", 30.0))
        await asyncio.sleep(1.0)
        assert (await look()).failure == "unavailable"
        await asyncio.sleep(60.0)
        assert (await look()).failure is None
