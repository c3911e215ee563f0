"""The tester's figures beside the exporter's: small differences agree, others are explained or flagged."""

from __future__ import annotations

from exporter import catalog
from exporter.exposition import page
from exporter.loadtest.outcomes import Result
from exporter.loadtest.page import Page, grown, parse
from exporter.loadtest.reconcile import Own, Row, rows
from exporter.model import Distribution, Sample


def seen(*samples: Sample) -> Page:
    read = parse(page(samples))
    assert read is not None
    return read


def answered(count: float, refused: float = 0.0) -> tuple[Sample, ...]:
    of = {"server": "a", "api_endpoint": "/api/chat"}
    return catalog.LOG_REQUESTS(count, **of, status="2xx"), catalog.LOG_REQUESTS(refused, **of, status="503")


def tokens(made: float, read: float, cached: float = 0.0) -> tuple[Sample, ...]:
    of = {"server": "a", "model": "m"}
    return (
        catalog.RUNNER_TOKENS(made, **of),
        catalog.RUNNER_PROMPT_TOKENS(read, **of),
        catalog.RUNNER_PROMPT_CACHED(cached, **of),
    )


def own(count: int = 100, **more: object) -> Own:
    found = Own()
    for _ in range(count):
        found.add(Result(0.0, "steady", "w", "m", "a", "ok", True, 200, 0.0, 0.5, 2.0, None, None, 0.25, 0.0, 20, 30))
    return found


def judged(own: Own, before: Page, after: Page, waiting: float | None = None) -> dict[str, Row]:
    return {row.what: row for row in rows("a", own, before, after, waiting, 60.0)}


BEFORE = seen(*answered(1000, 5), *tokens(10, 10, 10))


def test_what_is_the_same_agrees() -> None:
    found = judged(own(), BEFORE, seen(*answered(1100, 5), *tokens(3010, 1510, 510)))
    for what in ("requests answered 2xx", "requests refused 503", "tokens generated", "tokens of prompts"):
        assert found[what].judgement == "agrees", what
    assert (found["tokens of prompts"].tester, found["tokens of prompts"].exporter) == (2000, 2000)
    assert found["tokens generated"].source == "runner"


def test_what_the_exporter_cannot_see_is_told_with_what_it_needs() -> None:
    found = judged(own(), BEFORE, seen(*answered(1100, 5)))
    assert found["time without any answer, s"].judgement == "not seen"
    assert found["time without any answer, s"].why == "needs the exporter's source sockets"
    assert found["tokens generated"].why == "needs the exporter's source runner or logs"


def test_canaries_are_taken_out_of_requests_and_explain_tokens() -> None:
    canary = {"server": "a", "model": "m", "outcome": "ok"}
    before = seen(*answered(0), *tokens(0, 0), catalog.CANARY_ATTEMPTS(4.0, **canary))
    after = seen(*answered(107), *tokens(3112, 2200), catalog.CANARY_ATTEMPTS(11.0, **canary))
    found = judged(own(), before, after)
    assert found["requests answered 2xx"].judgement == "agrees"
    assert (found["tokens generated"].judgement, found["tokens generated"].why) == (
        "explained", "7 canaries of the exporter's are among them"
    )  # fmt: skip


def test_canaries_do_not_explain_more_than_they_can_have_made() -> None:
    canary = {"server": "a", "model": "m", "outcome": "ok"}
    before = seen(*tokens(0, 0), catalog.CANARY_ATTEMPTS(4.0, **canary))
    after = seen(*tokens(3500, 2000), catalog.CANARY_ATTEMPTS(11.0, **canary))
    assert judged(own(), before, after)["tokens generated"].judgement == "differs"


def test_canaries_are_taken_out_of_the_mean_time() -> None:
    def whole(count: int, total: float) -> Sample:
        return catalog.LOG_DURATION(Distribution((0,) * 11 + (count,), total), server="a", api_endpoint="/api/chat")

    def quick(count: int, total: float) -> Sample:
        return catalog.CANARY_DURATION(Distribution((count,) * 12, total), server="a", model="m")

    found = judged(own(), seen(whole(0, 0.0), quick(0, 0.0)), seen(whole(150, 205.0), quick(50, 5.0)))
    assert (found["mean whole time, s"].exporter, found["mean whole time, s"].judgement) == (2.0, "agrees")


def test_somebody_elses_requests_are_flagged() -> None:
    row = judged(own(), BEFORE, seen(*answered(1200, 5)))["requests answered 2xx"]
    assert (row.judgement, row.difference, row.why) == ("differs", 1.0, "does somebody else ask this server, too?")


def test_requests_that_broke_off_explain_a_difference() -> None:
    mine = own()
    for _ in range(20):
        mine.add(Result(0.0, "steady", "w", "m", "a", "interrupted", True, None, 0.0, None, 1.0))
    row = judged(mine, BEFORE, seen(*answered(1115, 5)))["requests answered 2xx"]
    assert row.judgement == "explained"
    assert "requests broke off" in row.why
    many = judged(mine, BEFORE, seen(*answered(1900, 5)))["requests answered 2xx"]
    assert many.judgement == "differs"


def test_waiting_is_compared_by_littles_law() -> None:
    """A quarter of a second for each of 100 requests in 60 s: 0.417 waited on average."""
    found = judged(own(), BEFORE, seen(*answered(1100, 5)), waiting=0.42)
    assert found["mean wait for a slot, s"].judgement == "agrees"


def test_time_without_an_answer_is_the_kernels() -> None:
    before = seen(catalog.SOCKETS_UNANSWERED_SECONDS(7.0, server="a"))
    after = seen(catalog.SOCKETS_UNANSWERED_SECONDS(56.0, server="a"))
    row = judged(own(), before, after)["time without any answer, s"]
    assert (row.tester, row.exporter, row.judgement) == (50.0, 49.0, "agrees")


def test_a_counter_that_began_anew_counts_from_there() -> None:
    first, second = seen(*answered(1000)), seen(*answered(30))
    assert grown(first, second, catalog.LOG_REQUESTS, status="2xx") == 30
    assert grown(first, second, catalog.LOG_REQUESTS, status="4xx") is None
