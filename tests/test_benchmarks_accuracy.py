"""The judge of benchmarks.accuracy: it knows how much it does not know, and a figure that is off by one is wrong."""

from __future__ import annotations

import math
import os
import signal
import socket
import struct
import threading
from collections.abc import Callable

import pytest

from benchmarks.truth import report, table
from benchmarks.truth.book import NOTHING, Bounds, Request, Span, arrival, streaming, unanswered, waiting
from benchmarks.truth.client import Ask, Client, Load
from benchmarks.truth.judge import (
    Amount,
    certain,
    counted,
    gauge,
    generated,
    own,
    pace,
    read,
    total,
    with_status,
)
from benchmarks.truth.pages import Page, Reading, readings
from benchmarks.truth.run import Run, crashed
from benchmarks.truth.runners import Event, Runner, after, event
from benchmarks.truth.slots import Look, Slot, Task, all_busy, busy, slots_of, tasks, unwatched

MODEL = "m:latest"


def request(
    sent: float, first: float | None = None, end: float | None = None, width: float = 0.0, **more: object
) -> Request:
    """Each of its moments known to `width` seconds."""

    def around(at: float | None) -> Span | None:
        return None if at is None else Span(at - width, at)

    made = Request(0, 0, MODEL, "stream", 0, 40, Span(sent - width, sent), around(first), around(end))
    for name, value in more.items():
        setattr(made, name, value)
    return made


def page(value: float | None, name: str = "gauge", **labels: str) -> Page:
    return Page(0.0, {} if value is None else {name: [(labels, value)]})


def reading(low: float, high: float, value: float | None) -> Reading:
    return Reading(Span(low, high), page(value))


def told(page: Page) -> float | None:
    return page.value("gauge")


# -- when bytes came


def test_bytes_came_when_the_kernel_says() -> None:
    assert arrival(10.0, 10.001, 10.002) == (10.0, 10.001)


def test_a_client_that_stood_still_knows_less_of_when_they_came() -> None:
    assert arrival(10.0, 10.4, 10.5) == (10.0, 10.4), "the kernel may have put pieces together"
    assert arrival(10.0, None, 10.5) == (10.0, 10.5)


def test_a_stamp_outside_of_what_can_be_is_none() -> None:
    assert arrival(10.0, 9.0, 10.5) == (10.0, 10.0)
    assert arrival(10.0, 11.0, 10.5) == (10.0, 10.5)


# -- unanswered requests


@pytest.mark.parametrize(
    ("span", "bounds"),
    [
        (Span(0.5, 0.9), (0, 0)),
        (Span(1.1, 1.2), (1, 1)),
        (Span(0.9, 1.1), (0, 1)),
        (Span(1.9, 2.1), (0, 1)),
        (Span(2.1, 2.2), (0, 0)),
    ],
    ids=["before", "while", "as it was sent", "as it was answered", "after"],
)
def test_a_request_that_changes_within_a_reading_is_uncertain(span: Span, bounds: tuple[int, int]) -> None:
    assert unanswered([request(1.0, first=2.0, end=3.0)], span) == bounds


def test_what_a_stalled_client_read_late_is_uncertain_for_as_long_as_it_stood_still() -> None:
    late = request(1.0, first=2.0, end=3.0)
    assert unanswered([late], Span(1.7, 1.8)) == (1, 1)
    late.first = Span(1.5, 2.0)
    assert unanswered([late], Span(1.7, 1.8)) == (0, 1)


def test_who_leaves_is_no_longer_unanswered() -> None:
    left = request(1.0, end=2.0, outcome="gave_up")
    assert unanswered([left], Span(1.5, 1.6)) == (1, 1)
    assert unanswered([left], Span(2.5, 2.6)) == (0, 0)


def test_connections_are_not_looked_at_all_at_once() -> None:
    one_after_the_other = [request(1.0, first=2.01), request(2.02, first=3.0)]
    assert unanswered(one_after_the_other, Span(2.0, 2.03)) == (0, 2)


def test_a_slot_at_work_is_a_request_that_does_not_wait() -> None:
    three, span = [request(1.0, first=3.0) for _ in range(3)], Span(2.0, 2.1)
    assert waiting(three, Bounds(2, 2), span) == (1, 1)
    assert waiting(three, Bounds(1, 2), span) == (1, 2)
    streamed = request(1.0, first=1.5, end=3.0, status=200)
    assert streaming([streamed], span) == (1, 1)
    assert waiting([*three, streamed], Bounds(2, 2), span) == (2, 2)
    ended = request(0.0, first=0.5, end=1.9, status=200)
    assert waiting([*three, ended], Bounds(2, 2), span) == (1, 2), "its slot may be at work for a moment yet"


# -- gauges


def truth_of(*requests: Request) -> Callable[[Span], Bounds]:
    return lambda span: unanswered(requests, span)


@pytest.mark.parametrize(("value", "exact", "wrong"), [(1.0, 1, 0), (0.0, 0, 1), (2.0, 0, 1)])
def test_a_reading_off_by_one_is_wrong(value: float, exact: int, wrong: int) -> None:
    seen = gauge([reading(1.1, 1.2, value)], told, truth_of(request(1.0, first=2.0)))
    assert (seen.exact, len(seen.wrong), seen.holds(0.99)) == (exact, wrong, not wrong)


def test_outside_of_wide_bounds_is_wrong_as_well() -> None:
    seen = gauge([reading(0.9, 1.1, 2.0)], told, truth_of(request(1.0, first=2.0)))
    assert len(seen.wrong) == 1
    assert seen.holds(0.99) is False


def test_readings_within_wide_bounds_prove_nothing() -> None:
    wide = [reading(0.9, 1.1, 1.0)] * 60 + [reading(1.1, 1.2, 1.0)] * 40
    seen = gauge(wide, told, truth_of(request(1.0, first=2.0)))
    assert (seen.exact, seen.within, seen.holds(0.99)) == (40, 60, None)


def test_wide_bounds_do_not_make_up_for_wrong_readings() -> None:
    some = [reading(0.9, 1.1, 1.0)] * 40 + [reading(1.1, 1.2, 1.0)] * 59 + [reading(1.1, 1.2, 0.0)]
    assert gauge(some, told, truth_of(request(1.0, first=2.0))).holds(0.99) is False, "1 of 60 sharp ones"


def test_what_is_not_told_is_not_exact() -> None:
    some = [reading(1.1, 1.2, 1.0)] * 90 + [reading(1.1, 1.2, None)] * 10
    seen = gauge(some, told, truth_of(request(1.0, first=2.0)))
    assert (seen.absent, seen.holds(0.99)) == (10, False)


def test_what_cannot_be_known_is_said() -> None:
    seen = gauge([reading(1.1, 1.2, 1.0)], told, lambda _: None)
    assert (seen.unjudged, seen.judged, seen.holds(0.99)) == (1, 0, None)


def test_each_reading_of_a_source_is_taken_once_at_its_own_time() -> None:
    def at(wall: float) -> Page:
        labels = {"server": "a", "source": "sockets"}
        return Page(
            1000.0,
            {
                "ollama_source_last_attempt_timestamp_seconds": [(labels, wall)],
                "ollama_source_duration_seconds": [(labels, 0.02)],
            },
        )

    spans = [each.span for each in readings([at(1001.0), at(1001.0), at(1002.0)], "a", "sockets")]
    assert [(round(span.low, 3), round(span.high, 3)) for span in spans] == [(0.979, 1.001), (1.979, 2.001)]


# -- slots


def look(at: float, *slots: tuple[bool, int], decoded: int = 5, held: int = 25) -> Look:
    rows = tuple(Slot(is_busy, task, decoded if is_busy else 0, held) for is_busy, task in slots)
    return Look(Span(at, at + 0.01), rows)


STEADY = [look(1.0, (True, 7), (False, 3)), look(1.05, (True, 7), (False, 3)), look(1.1, (True, 7), (False, 3))]


def test_slots_at_the_same_task_before_and_after_were_so_in_between() -> None:
    assert busy(STEADY, Span(1.02, 1.04)) == (1, 1)


def test_a_slot_that_went_to_another_task_may_have_been_idle() -> None:
    assert busy([STEADY[0], look(1.05, (True, 8), (False, 3))], Span(1.02, 1.04)) == (0, 1)


def test_an_idle_slot_that_worked_in_between_may_have_been_busy() -> None:
    assert busy([STEADY[0], look(1.05, (True, 7), (False, 9))], Span(1.02, 1.04)) == (1, 2)


def test_without_a_look_on_both_sides_nothing_is_known() -> None:
    assert busy(STEADY, Span(0.5, 1.04)) is None
    assert busy(STEADY, Span(1.02, 1.5)) is None
    assert busy([STEADY[0], look(2.0, (True, 7), (False, 3))], Span(1.5, 1.6)) is None, "too far apart"
    assert all_busy([STEADY, []], Span(1.02, 1.04)) is None
    assert all_busy([], Span(1.02, 1.04)) == NOTHING
    assert all_busy([STEADY, STEADY], Span(1.02, 1.04)) == (2, 2)


def test_a_runner_that_still_loads_later_had_no_slots_before() -> None:
    loading, ready = [look(1.0), look(1.05)], [look(1.1, (False, 3)), look(1.15, (False, 3))]
    assert busy([*loading, *ready], Span(1.02, 1.04)) == NOTHING
    assert busy([*loading, *ready], Span(0.5, 0.6)) == NOTHING
    assert busy([*loading, *ready], Span(1.07, 1.09)) is None, "it got ready in between"
    assert all_busy([[*loading, *ready], STEADY], Span(1.02, 1.04)) == (1, 1)


def test_of_what_is_not_there_nothing_must_be_said() -> None:
    seen = gauge([reading(1.0, 1.1, None), reading(1.0, 1.1, 0.0)], told, lambda _: NOTHING)
    assert (seen.gone, seen.absent, len(seen.wrong)) == (1, 0, 1)


def test_slots_are_read_as_llama_server_tells_them() -> None:
    text = b'[{"id":0,"is_processing":false},{"id":1,"is_processing":true,"id_task":4,"n_prompt_tokens":20,'
    text += b'"next_token":[{"n_decoded":3}]}]'
    assert slots_of(text) == (Slot(False, None, 0, 0), Slot(True, 4, 3, 20))


def test_nobody_looks_at_a_runner_that_is_not_there() -> None:
    assert unwatched(STEADY, Span(0.0, math.inf), Span(1.0, 1.11)) == pytest.approx(0.04)
    assert unwatched(STEADY, Span(0.0, math.inf), Span(1.0, 3.0)) == pytest.approx(1.89)
    assert unwatched(STEADY, Span(0.0, 1.2), Span(1.0, 3.0)) == pytest.approx(0.09)
    assert unwatched(STEADY, Span(0.0, 0.5), Span(1.0, 3.0)) == 0.0


# -- tokens


def test_an_idle_slot_tells_what_its_last_task_made() -> None:
    looks = [look(1.0, (True, 7), decoded=5, held=25), look(1.05, (False, 7), held=28)]
    (met,) = tasks(looks, 100.0, None)
    assert (met.tokens, met.prompt) == ((8, 9), 20)


def test_a_task_that_another_one_followed_made_what_fits_into_the_time() -> None:
    looks = [look(1.0, (True, 7), decoded=5), look(1.1, (True, 8), decoded=1), look(1.2, (True, 8), decoded=2)]
    (met,) = tasks(looks, 100.0, None)
    assert met.tokens.low == 5
    assert 15 <= met.tokens.high <= 17


def test_a_runner_takes_its_tasks_along() -> None:
    (met,) = tasks([look(1.0, (True, 7), decoded=5)], 100.0, ended=1.05)
    assert met.tokens == (5, 11)
    assert tasks([look(1.0, (True, 7), decoded=5)], 100.0, None) == [], "it is still at work"
    assert tasks([], 100.0, ended=1.05) == [], "it was never seen"


def test_a_complete_answer_is_known_to_the_token() -> None:
    done = request(1.0, 2.0, 3.0, outcome="done", tokens=33, prompt_tokens=20, seconds=0.5)
    assert generated(done, [], 9) == (33, 33)
    assert read(done, [], 99) == (20, 20)
    assert pace([done]) == 66.0


def test_of_an_answer_that_was_cut_the_least_and_the_most_are_known() -> None:
    cut = request(1.0, 2.0, 3.0, outcome="gave_up", chunks=6)
    mine, other = Task(Span(2.95, 3.02), Bounds(7, 9), 20), Task(Span(2.95, 3.02), Bounds(30, 30), 50)
    assert own(cut, [mine, other], 20) == [mine], "the other had another prompt"
    assert certain(cut, [mine], [cut], {0: 20})
    assert generated(cut, [mine], 9, sure=True) == (7, 9)
    assert generated(cut, [mine, other], 9) == (6, 30)
    assert generated(cut, [], 9) == (6, 15)
    assert read(cut, [], 20) == (20, 20)


def test_a_task_that_may_be_another_requests_proves_no_token() -> None:
    cut, task = request(1.0, 2.0, 3.0, outcome="gave_up", chunks=6), Task(Span(2.95, 3.02), Bounds(7, 9), 20)
    others = [request(2.0, 2.5, 3.0, prompt=1), request(5.0, 5.5, 6.0, prompt=2)]
    assert not certain(cut, [task], [cut, *others], {0: 20, 1: 21, 2: 20}), "one has as long a prompt"
    assert certain(cut, [task], [cut, *others], {0: 20, 1: 30, 2: 20}), "the other came later"
    assert generated(cut, [task], 9) == (6, 9)


def test_a_task_that_ended_before_or_long_after_was_another_request() -> None:
    cut = request(1.0, 2.0, 3.0, outcome="gave_up", chunks=6)
    before, later = Task(Span(2.0, 2.5), Bounds(7, 9), 20), Task(Span(3.6, 3.7), Bounds(7, 9), 20)
    assert own(cut, [before, later], 20) == []


def test_who_left_before_the_answer_may_have_cost_tokens_or_none() -> None:
    left = request(1.0, None, 1.5, outcome="gave_up")
    assert generated(left, [], 12) == (0, 12)
    assert generated(left, [], math.inf) == (0, 40)
    assert read(left, [], 20) == (0, 20)


def test_who_was_refused_cost_none() -> None:
    refused = request(1.0, 1.01, 1.01, outcome="refused", status=503)
    assert generated(refused, [], 9) == (0, 0)
    assert read(refused, [], 20) == (0, 0)


@pytest.mark.parametrize(
    ("value", "holds"),
    [(1000.0, True), (1009.0, True), (988.0, False), (1016.0, False), (None, False)],
)
def test_tokens_may_be_off_by_one_percent(value: float | None, holds: bool) -> None:
    assert Amount(Bounds(1000, 1005), value).holds(0.01) is holds


def test_bounds_that_are_too_wide_prove_nothing() -> None:
    assert Amount(Bounds(1000, 1100), 1050.0).holds(0.01) is None
    assert Amount(Bounds(1000, 1100), 900.0).holds(0.01) is False
    assert total([Bounds(1, 2), Bounds(10, 10)]) == (11, 12)


# -- events


def series(*values: float | None) -> list[Reading]:
    """A reading each second, of 0.1 s."""
    return [reading(at, at + 0.1, value) for at, value in enumerate(values)]


def test_each_event_once() -> None:
    count = counted(series(5.0, 5.0, 6.0, 7.0, 7.0), told, [1.5, 2.5], lag=0.5)
    assert (count.true, count.told, count.missed, count.twice) == (2, 2.0, 0, 0)


def test_one_missed_and_one_twice_are_both_seen() -> None:
    count = counted(series(0.0, 0.0, 0.0, 0.0, 2.0), told, [1.5, 3.5], lag=1.0)
    assert (count.told, count.missed, count.twice) == (2.0, 1, 0), "the first one was not counted in its time"
    count = counted(series(0.0, 0.0, 2.0, 2.0, 2.0), told, [1.5, 3.5], lag=1.0)
    assert (count.told, count.missed, count.twice) == (2.0, 0, 1)


def test_what_was_never_counted_is_missed() -> None:
    assert counted(series(0.0, 0.0, 1.0), told, [1.2, 1.3], lag=60.0).missed == 1
    assert counted(series(None, None), told, [0.5], lag=60.0).missed == 1


def test_what_came_before_the_first_reading_is_not_of_this_run() -> None:
    assert counted(series(3.0, 3.0), told, [-1.0], lag=0.5).true == 0


def test_who_left_before_an_answer_may_have_got_any_status() -> None:
    book = [
        request(1.0, 2.0, 3.0, status=200),
        request(1.0, 2.0, 2.0, status=503),
        request(1.0, 2.0, 2.0, status=500),
        request(1.0, None, 2.0),
    ]
    assert with_status(book, 200, 299) == (1, 1)
    assert with_status(book, 500, 599, but=503) == (1, 2)


# -- runners


def message(what: int, *fields: int, at: int = 5_000_000_000) -> bytes:
    return b"\0" * 36 + struct.pack("=IIQ", what, 0, at) + struct.pack(f"={len(fields)}I", *fields) + b"\0" * 24


def test_events_are_read_as_the_kernel_tells_them() -> None:
    assert event(message(0x1, 10, 10, 20, 20)) == Event(0x1, 5.0, (10, 20))
    assert event(message(0x2, 20, 20)) == Event(0x2, 5.0, (20,))
    assert event(message(0x80000000, 20, 20, 11, 17)) == Event(0x80000000, 5.0, (20, 11))


def test_threads_are_no_processes() -> None:
    assert event(message(0x1, 10, 10, 21, 20)) is None
    assert event(message(0x80000000, 21, 20, 0, 0)) is None
    assert event(message(0x4, 20, 20)) is None


def test_a_flag_has_what_follows_it() -> None:
    assert after(["llama-server", "--model", "/x/sha256-1", "--port", "4"], "--port") == "4"
    assert after(["llama-server", "--port"], "--port") == ""


@pytest.mark.parametrize(
    ("status", "killed", "expected"),
    [
        (signal.SIGKILL, 0, False),
        (signal.SIGTERM, 0, False),
        (0, 0, False),
        (signal.SIGKILL, signal.SIGKILL, True),
        (signal.SIGSEGV | 0x80, signal.SIGSEGV, True),
        (signal.SIGABRT, 0, True),
        (1 << 8, 0, True),
    ],
    ids=["ended by Ollama", "asked by Ollama", "left", "killed by us", "core dumped", "aborted", "gave up"],
)
def test_what_ollama_ended_did_not_crash(status: int, killed: int, expected: bool) -> None:
    assert crashed(Runner(1, "sha256-1", 1, 1.0, 2.0, int(status), int(killed))) is expected
    assert os.WIFSIGNALED(int(status)) or status in (0, 1 << 8)


# -- the client


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
TOKEN, DONE = (
    b'{"message":{"content":"a"}}\n',
    b'{"done":true,"eval_count":2,"prompt_eval_count":9,"eval_duration":1}\n',
)


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def talk(answers: list[bytes], *asks: Ask, waits: bool = False) -> list[Request]:
    """A client's book, when a server answered its requests on one connection by these, and closed it then; or waited
    for the client to do so."""

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            for answer in answers:
                connection.recv(65536)
                connection.sendall(answer)
            while waits and connection.recv(65536):
                pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        client = Client(Load(listener.getsockname(), ("hello",), 5.0, idle=0), iter([(ask for ask in asks)]))
        client.run()
        thread.join(10.0)
    return client.requests


def test_the_client_writes_down_what_came() -> None:
    whole = HEAD + chunk(TOKEN) + chunk(TOKEN) + chunk(DONE) + b"0\r\n\r\n"
    first, second = talk([whole, whole], Ask(MODEL, "stream"), Ask(MODEL, "stream"))
    for book in (first, second):
        assert (book.outcome, book.status, book.chunks, book.tokens, book.prompt_tokens) == ("done", 200, 2, 2, 9)
        assert book.first is not None
        assert book.end is not None
        assert book.sent.low <= book.first.low <= book.first.high
        assert book.first.low <= book.end.low <= book.end.high
    assert first.end is not None
    assert first.end.high <= second.sent.low


def test_the_client_leaves_when_it_has_enough() -> None:
    (book,) = talk([HEAD + chunk(TOKEN) + chunk(TOKEN)], Ask(MODEL, "quit", limit=40, leaves_after=2))
    assert (book.outcome, book.chunks) == ("gave_up", 2)


def test_the_client_leaves_when_it_has_waited_too_long() -> None:
    (book,) = talk([], Ask(MODEL, "impatient", leaves_within=0.0), waits=True)
    assert (book.outcome, book.first) == ("gave_up", None)


def test_an_answer_that_ends_in_the_middle_is_cut() -> None:
    (book,) = talk([HEAD + chunk(TOKEN)], Ask(MODEL, "stream"))
    assert (book.outcome, book.chunks) == ("cut", 1)


def test_an_error_within_a_stream_is_no_end() -> None:
    (book,) = talk([HEAD + chunk(TOKEN) + chunk(b'{"error":"gone"}\n') + b"0\r\n\r\n"], Ask(MODEL, "stream"))
    assert (book.outcome, book.chunks) == ("cut", 1)


@pytest.mark.parametrize(("status", "outcome"), [(503, "refused"), (500, "failed")])
def test_refused_and_failed_are_told_by_status(status: int, outcome: str) -> None:
    answer = f"HTTP/1.1 {status} No\r\nContent-Length: 2\r\n\r\n{{}}".encode()
    (book,) = talk([answer], Ask(MODEL, "plain"))
    assert (book.outcome, book.status) == (outcome, status)


# -- the whole report


def a_run(**told: float) -> Run:
    """Thirty seconds, in which one runner is killed and one is loaded, beside what an exporter tells of it that makes
    no mistake but those `told` after a while."""
    book = [
        request(5.0, 7.0, 8.0, outcome="done", status=200, tokens=3000, prompt_tokens=20, seconds=50),
        request(12.0, 14.5, 14.5, outcome="failed", status=500),
        request(20.0, 20.5, 21.0, kind="truncated", outcome="done", status=200, tokens=5, prompt_tokens=9000, prompt=1),
    ]
    killed = Runner(1, "sha256-1", 40001, None, 14.4, int(signal.SIGKILL), int(signal.SIGKILL), 14.39)
    born = Runner(2, "sha256-1", 40002, 16.0)
    busy_at = {1: (6.0, 8.0), 2: (20.2, 20.9)}
    looks = {}
    for pid, (low, high) in busy_at.items():
        life = range(0, 1430, 5) if pid == 1 else range(1700, 3100, 5)
        looks[pid] = [look(at / 100, (low <= at / 100 < high, 7 if at / 100 >= low else 3)) for at in life]

    def at(now: float) -> Page:
        def value(name: str, right: float) -> float:
            return told.get(name, right) if now > 10.0 else right

        samples: dict[str, list[tuple[dict[str, str], float]]] = {}

        def say(name: str, right: float, key: str = "", **labels: str) -> None:
            samples.setdefault(name, []).append(({"server": "real", **labels}, value(key or name, right)))

        for source in ("api", "sockets", "runner", "logs"):
            say("ollama_source_last_attempt_timestamp_seconds", now, source=source)
            say("ollama_source_duration_seconds", 0.01, source=source)
        say("ollama_sockets_unanswered_requests", sum(r.certainly_unanswered(Span(now, now)) for r in book))
        say("ollama_sockets_waiting_requests_lower_bound", 0)
        say("ollama_sockets_waiting_requests_upper_bound", 1)
        at_work = any(low <= now < high for low, high in busy_at.values())
        if now < 14.4 or now > 17.0:
            say("ollama_runner_slots_busy", at_work, model=MODEL)
        say("ollama_runner_starts_seen_total", now > 16.0, model=MODEL)
        say("ollama_runner_ends_seen_total", now > 14.4, "died", model=MODEL, reason="died")
        say("ollama_runner_ends_seen_total", 0, "unloaded", model=MODEL, reason="unloaded")
        say("ollama_runner_generated_tokens_total", 3000 * (now > 8) + 5 * (now > 21), model=MODEL)
        say("ollama_runner_prompt_tokens_total", 20 * (now > 7) + 9000 * (now > 21), model=MODEL)
        say("ollama_runner_generated_tokens_seen_total", 20 * (now > 8))
        say("ollama_log_generated_tokens_total", 3000 * (now > 8) + 5 * (now > 21))
        say("ollama_log_generations_total", (now > 8) + (now > 21))
        if "ollama_log_generations_cut_off_total" in told:
            say("ollama_log_generations_cut_off_total", 0)
        say("ollama_log_processed_prompt_tokens_total", 20 * (now > 8) + 9000 * (now > 21))
        say("ollama_log_loads_begun_total", now > 16.0)
        say("ollama_log_events_total", now > 15.0, "runner_died", kind="runner_died")
        say("ollama_log_events_total", now > 21.0, "prompt_truncated", kind="prompt_truncated")
        say("ollama_log_requests_total", (now > 8) + (now > 21), "2xx", status="2xx")
        say("ollama_log_requests_total", now > 15, "5xx", status="5xx")
        say("ollama_model_loads_seen_total", now > 18.0)
        say("ollama_model_unloads_seen_total", now > 18.0)
        return Page(0.0, samples)

    pages = [at(now + 0.3) for now in range(31)]
    return Run(
        "kills", "real", (MODEL,), {"sha256-1": MODEL}, {MODEL: {0: 20, 1: 9000}}, 1.0, 30.0, book, [], [killed, born],
        looks, pages, 0, 50.0,
    )  # fmt: skip


def bad(run: Run) -> set[tuple[str, str]]:
    return {(row.source, row.what) for row in table.rows(run) if row.verdict in (table.NO, table.UNKNOWN)}


def test_an_exporter_that_makes_no_mistake_is_good_enough() -> None:
    assert bad(a_run()) == set()


@pytest.mark.parametrize(
    ("name", "value", "row"),
    [
        ("ollama_sockets_unanswered_requests", 0, ("sockets", "unanswered requests")),
        ("ollama_sockets_waiting_requests_lower_bound", 2, ("sockets", "waiting requests, lower bound")),
        ("ollama_sockets_waiting_requests_upper_bound", -1, ("sockets", "waiting requests, upper bound")),
        ("ollama_runner_slots_busy", 2, ("runner", f"busy slots, {MODEL}")),
        ("ollama_runner_starts_seen_total", 2, ("runner", "loads")),
        ("died", 0, ("runner", "crashes")),
        ("unloaded", 1, ("runner", "reasons")),
        ("ollama_runner_generated_tokens_total", 2970, ("runner", f"tokens made, {MODEL}")),
        ("ollama_runner_prompt_tokens_total", 9200, ("runner", f"prompt tokens, {MODEL}")),
        ("ollama_runner_generated_tokens_seen_total", 3300, ("runner", "tokens seen in /slots")),
        ("ollama_log_generated_tokens_total", 2970, ("logs", "tokens of finished answers")),
        ("ollama_log_generations_cut_off_total", 2, ("logs", "generations, finished, abandoned or cut off")),
        ("ollama_log_loads_begun_total", 0, ("logs", "loads")),
        ("runner_died", 2, ("logs", "crashes")),
        ("prompt_truncated", 2, ("logs", "prompts truncated")),
        ("2xx", 3, ("logs", "requests 2xx")),
        ("5xx", 0, ("logs", "requests 5xx")),
        ("ollama_model_loads_seen_total", 2, ("api", "loads")),
    ],
)
def test_each_figure_that_is_off_is_found(name: str, value: float, row: tuple[str, str]) -> None:
    assert row in bad(a_run(**{name: value}))


def test_a_report_shows_every_row_and_what_was_lost() -> None:
    run, lines = a_run(), []
    run.lost = 1
    rows = list(table.rows(run))
    report.markdown(run, rows, lines.append)
    text = "\n".join(lines)
    assert all(f"| {row.source} | {row.what} | " in text for row in rows)
    assert "1 lost" in text
    assert report.raw(run, rows)["wrong"]["unanswered requests"] == []
