"""The search finds the edge that is there; what bounds it comes from the exporter; advice names what exists."""

from __future__ import annotations

import asyncio
import re

import pytest

from exporter import catalog
from exporter.environment import READ
from exporter.exposition import page
from exporter.loadtest import capacity
from exporter.loadtest.bounds import Bound, advice, bounds, kv_of
from exporter.loadtest.page import Page, parse
from exporter.loadtest.preflight import Seen
from exporter.loadtest.search import Found, Level, Stopped, search
from exporter.model import Sample
from tests.loadtest.scene import ScriptedWire, play, smoke
from tests.loadtest.test_report import facts


def level(load: float, verdict: str = "pass", throughput: float | None = None, ttft: float = 0.1) -> Level:
    rate = load if throughput is None else throughput
    return Level(load, verdict, 3, rate, (rate, rate), ttft, 1.0)  # type: ignore[arg-type]


def found(
    edge: float, start: float = 1.0, most: float = 1000.0, whole: bool = True, invalid: float = 1e9
) -> tuple[Found, list[float]]:
    asked: list[float] = []

    async def measure(load: float) -> Level:
        asked.append(load)
        verdict = "invalid" if load >= invalid else "pass" if load <= edge else "fail"
        return level(load, verdict, min(load, edge), 0.1 if load <= edge else 9.0)

    return asyncio.run(search(measure, start, most, whole=whole)), asked


@pytest.mark.parametrize("edge", [1, 2, 3, 17, 100, 174, 600])
def test_the_highest_load_is_found_to_within_a_tenth(edge: int) -> None:
    answer, asked = found(edge)
    assert answer.highest is not None
    assert 0.89 * edge <= answer.highest.load <= edge
    assert len(asked) <= 16
    assert len(set(asked)) == len(asked)


def test_a_rate_need_not_be_whole() -> None:
    answer, _ = found(0.37, start=0.1, whole=False)
    assert answer.highest is not None
    assert answer.highest.load == pytest.approx(0.35, abs=0.03)


def test_not_even_the_lowest() -> None:
    answer, asked = found(0.5)
    assert (answer.highest, asked) == (None, [1.0])


def test_the_search_ends_where_it_was_told_to() -> None:
    answer, asked = found(1e6, most=50.0)
    assert (answer.highest and answer.highest.load, answer.lowest_failed, max(asked)) == (50.0, None, 50.0)


def test_where_the_tester_is_the_limit_is_told() -> None:
    answer, _ = found(1e6, invalid=100)
    assert answer.bounded_by_tester
    assert answer.highest is not None
    assert answer.highest.load < 100


def test_somebody_who_does_not_want_to_wait_gets_what_was_found() -> None:
    async def measure(load: float) -> Level:
        if load > 3:
            raise Stopped
        return level(load)

    answer = asyncio.run(search(measure, 1.0, 100.0, whole=True))
    assert [each.load for each in answer.levels] == [1.0, 2.0]


def test_the_knee_and_the_saturation_of_a_queue() -> None:
    """Latency 1/(1 - load/100): it bends near the end; throughput cannot rise above 100."""

    async def measure(load: float) -> Level:
        borne = min(load, 100.0)
        wait = 1 / (1 - borne / 101)
        return level(load, "pass" if wait < 20 else "fail", borne, wait)

    answer = asyncio.run(search(measure, 5.0, 400.0, whole=True))
    assert answer.knee is not None
    assert 60 <= answer.knee.load <= 95
    assert answer.saturation is not None
    assert 95 <= answer.saturation.load <= 110


def borne(seconds_each: float, rate: float) -> Level:
    """A server with one slot, in which an answer takes so long."""
    free = [0.0]

    def queue(now: float) -> tuple[float, float, int]:
        free[0] = max(free[0], now) + seconds_each
        return free[0] - now, 0.0, 1

    return capacity.level_of(rate, [facts(play(smoke(rate=rate, duration="10s"), ScriptedWire(queue)))])


def test_a_queue_that_grows_is_not_carried_even_where_the_run_was_too_short_for_it_to_hurt() -> None:
    assert borne(0.1, 9.0).verdict == "pass"
    grown = borne(0.1, 11.7)
    assert grown.verdict == "fail"
    assert grown.why[0].startswith("requests piled up: ")


# --- what bounds it ---------------------------------------------------------------------------------------------------


def seen(*samples: Sample) -> Page:
    read = parse(page(samples))
    assert read is not None
    return read


def cpu(idle: float, busy: float) -> tuple[Sample, ...]:
    return (catalog.HOST_CPU(idle, host="h", mode="idle"), catalog.HOST_CPU(busy, host="h", mode="user"))


def slots(busy: float) -> tuple[Sample, ...]:
    of = {"server": "a", "model": "m"}
    return (
        catalog.RUNNER_SLOTS(4.0, **of),
        catalog.RUNNER_SLOTS_BUSY(busy, **of),
        catalog.SOCKETS_WAITING(9.0, server="a"),
    )


def test_full_slots_are_seen_with_those_who_wait() -> None:
    (bound,) = bounds([seen(*slots(4.0), *cpu(1, 1)), seen(*slots(3.8), *cpu(60, 40))], ["a", "b"])
    assert bound == Bound("slots", "a", "3.9 of 4 slots busy on average, 9.0 requests waiting for each")


def test_what_was_before_and_after_the_load_does_not_dilute_it() -> None:
    idle, full = seen(*slots(0.0)), seen(*slots(4.0))
    assert [bound.what for bound in bounds([idle, full, full, idle], ["a"])] == ["slots"]


def test_a_busy_machine_is_seen_beside_its_slots() -> None:
    what = [bound.what for bound in bounds([seen(*slots(4.0), *cpu(1, 1)), seen(*slots(4.0), *cpu(3, 99))], ["a"])]
    assert what == ["slots", "cpu"]


def test_refusals_and_memory_are_seen() -> None:
    def full(refused: float) -> Page:
        return seen(
            catalog.LOG_REQUESTS(refused, server="a", api_endpoint="/api/chat", status="503"),
            catalog.HOST_MEMORY_TOTAL(100.0, host="h"), catalog.HOST_MEMORY_AVAILABLE(3.0, host="h"),
        )  # fmt: skip

    found = bounds([full(2), full(9)], ["a"])
    assert [(bound.what, bound.seen.split()[0]) for bound in found] == [("queue", "7"), ("memory", "3%")]


KV = kv_of(
    "m:latest", 2048, 3 * 2**30, 4,
    {"general.architecture": "llama", "llama.block_count": 22, "llama.embedding_length": 2048,
     "llama.attention.head_count": 32, "llama.attention.head_count_kv": 4},
)  # fmt: skip


def test_the_memory_of_slots_follows_from_the_shape_of_the_model() -> None:
    assert KV is not None
    assert KV.bytes_per_token == 22 * 1024  # two vectors of 4 heads of 64 in 22 layers, 2 bytes each
    assert KV.memory(4) == pytest.approx(3 * 2**30)
    assert KV.memory(8) - KV.memory(4) == 4 * 2048 * 22 * 1024
    assert kv_of("m", 1, 1, 1, {}) is None


@pytest.mark.parametrize(
    "kinds", [["slots"], ["slots", "cpu"], ["queue"], ["memory"], ["gpu_memory", "slots"], []], ids="+".join
)
def test_advice_names_only_variables_that_ollama_reads(kinds: list[str]) -> None:
    found = [Bound(kind, "a", "7 requests were refused with 503") for kind in kinds]
    text = "\n".join(advice(found, [Seen("a", "u")], 4, [KV] if KV else []))
    assert set(re.findall(r"OLLAMA_[A-Z_]+", text)) <= READ
    assert text


def test_more_slots_are_advised_with_their_memory_only_where_the_machine_has_room() -> None:
    full = Bound("slots", "a", "4.0 of 4 slots busy")
    room = advice([full], [Seen("a", "u")], 4, [KV] if KV else [])
    assert room[0].startswith("OLLAMA_NUM_PARALLEL: try 8")
    assert room[1].strip() == "m:latest: about 3.00 GiB with 4 slots of 2,048 tokens, 3.17 GiB with 8"
    assert "more slots would not help" in advice([full, Bound("cpu", "h", "")], [Seen("a", "u")], 4, [])[0]
