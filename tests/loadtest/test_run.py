"""A run in virtual time: what is measured is what was there, also where it is not to the server's credit."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from exporter.loadtest.measure import RELATIVE_ERROR
from exporter.loadtest.run import Run
from exporter.loadtest.scenario import Scenario, load
from exporter.simulator import TINYLLAMA, EngineConfig, Fault, ServerConfig, SimServer, run_virtual, virtual_wall_clock
from tests.loadtest.scene import Played, ScriptedWire, SimWire, offer, play, smoke

QUICK = (0.01, 0.001, 3)


def steady(now: float) -> tuple[float, float, int]:
    return QUICK


def simulated(scenario: Scenario, *faults: Fault, meanwhile: Any = None, **engine: Any) -> Played:
    async def main() -> Played:
        server = SimServer(ServerConfig(engine=EngineConfig(**{"num_parallel": 4, **engine})), virtual_wall_clock)
        for fault in faults:
            server.inject(fault)
        wire = SimWire(server)

        async def beside(run: Run) -> None:
            await meanwhile(run, server)

        try:
            return await offer(scenario, [wire], beside if meanwhile else None)
        finally:
            await wire.aclose()
            await server.aclose()

    return run_virtual(main())


# --- what is measured -------------------------------------------------------------------------------------------------


def test_the_measured_distribution_is_the_one_that_was_there_within_the_stated_error() -> None:
    rng, true = random.Random(3), []

    def script(now: float) -> tuple[float, float, int]:
        true.append(rng.lognormvariate(-1.5, 0.8))
        return true[-1], 0.002, 5

    played = play(smoke(rate=50, duration="60s"), ScriptedWire(script))
    measured, ordered = played.tally.all.ttft, sorted(true)
    assert measured.count == len(true) == 3000
    for rank in (1, 30, 1500, 2850, 2970, 2999, 3000):
        assert measured.at_rank(rank) == pytest.approx(ordered[rank - 1], rel=2 * RELATIVE_ERROR, abs=2e-6)
    assert played.tally.all.per_token.at_rank(1500) == pytest.approx(0.002, rel=1e-3)


def test_the_simulators_own_pace_is_measured() -> None:
    """One request at a time: a first token after entering, rendering and the prompt; then 140 tokens a second."""
    played = simulated(smoke(rate=1, duration="60s", warm_up=True))
    for result in played.results:
        assert result.outcome == "ok"
        assert result.ttft == pytest.approx(result.prompt_tokens / 6000 + 0.002 + 0.0012, abs=0.0007)
        assert result.per_token == pytest.approx(1 / 140, rel=1e-6)
        assert (result.tokens, result.queue) == (16, pytest.approx(0.002, abs=0.002))
    assert played.tally.all.ttft.count == 60


def test_a_known_stall_appears_in_an_open_loop_as_users_would_have_felt_it() -> None:
    """2 s in 10 in which nothing begins: of 500 requests 100 were due in it, and waited up to 2 s."""

    def stalled(now: float) -> tuple[float, float, int]:
        return (6.0 - now if 4.0 <= now < 6.0 else 0.0) + 0.01, 0.001, 3

    played = play(smoke(rate=50, duration="10s"), ScriptedWire(stalled))
    assert played.tally.all.ttft.at_rank(495) == pytest.approx(1.9, abs=0.03)  # p99 of 500
    assert played.tally.all.ttft.max == pytest.approx(2.0, abs=0.03)
    assert sum(result.ttft > 0.02 for result in played.results if result.ttft) == pytest.approx(100, abs=2)


def test_a_stall_of_the_tester_itself_is_told_as_its_own() -> None:
    async def freeze(run: Run) -> None:
        await asyncio.sleep(5.0)
        asyncio.get_running_loop().jump(3.0)  # type: ignore[attr-defined]

    played = play(smoke(rate=20, duration="10s"), ScriptedWire(steady), meanwhile=freeze)
    assert played.run.watch.lag.max == pytest.approx(3.0, abs=0.02)
    assert played.verdict.word == "invalid"
    assert "the tester lagged" in played.verdict.why[0]
    # And what was due meanwhile is told from when it was due.
    assert played.tally.all.ttft.max == pytest.approx(3.0, abs=0.06)


def test_a_clock_that_jumps_makes_a_run_invalid() -> None:
    async def main() -> Played:
        loop = asyncio.get_running_loop()

        def wall() -> float:
            return virtual_wall_clock() + (2.0 if loop.time() > 5.0 else 0.0)

        return await offer(smoke(rate=20, duration="10s"), [ScriptedWire(steady)], now=wall)

    played = run_virtual(main())
    assert played.run.watch.jump == pytest.approx(2.0)
    assert played.verdict.word == "invalid"
    assert "the clock jumped by +2.0 s" in played.verdict.why[0]


# --- load models ------------------------------------------------------------------------------------------------------


def test_an_open_loop_does_not_wait_for_answers() -> None:
    played = play(smoke(rate=10, duration="10s"), ScriptedWire(lambda now: (30.0, 0.0, 1)))
    assert played.tally.all.offered == 100
    assert [result.at for result in played.results] == pytest.approx([number / 10 for number in range(100)])


def test_a_closed_loop_asks_again_after_the_answer_and_a_pause() -> None:
    scenario = load("agents-174", {"users": 40, "duration": "300s", "warm_up": False})
    played = play(scenario, ScriptedWire(lambda now: (0.5, 0.05, 11)))  # an answer takes a second, a pause three
    assert played.tally.all.offered == pytest.approx(40 * 300 / 4, rel=0.03)
    assert played.verdict.word == "pass"


def test_users_do_not_begin_all_at_once() -> None:
    scenario = load("agents-174", {"duration": "60s", "warm_up": False})
    played = play(scenario, ScriptedWire(steady))
    first_second = sum(result.at < 1.0 for result in played.results)
    assert 30 < first_second < 100


def test_a_ramp_of_users_brings_them_one_after_the_other() -> None:
    scenario = load("agents-174", {"users": 20, "duration": "20s", "shape": "ramp", "warm_up": False})
    played = play(scenario, ScriptedWire(steady))
    early = sum(result.at < 5.0 for result in played.results)
    late = sum(result.at >= 15.0 for result in played.results)
    assert late > 3 * early


def test_a_trace_is_replayed_as_it_was(tmp_path: Any) -> None:
    (tmp_path / "trace.csv").write_text("offset,who\n0.5,a\n0.5,b\n2.25\n")
    (tmp_path / "s.yml").write_text("model: m\nshape: replay\ntrace: trace.csv\nwarm_up: false\n")
    played = play(load(str(tmp_path / "s.yml"), {}), ScriptedWire(steady))
    assert [result.at for result in played.results] == [0.5, 0.5, 2.25]


def test_the_same_seed_gives_the_same_run_and_another_one_another() -> None:
    def run(seed: int) -> list[tuple[float, int]]:
        played = simulated(load("agents-174", {"users": 8, "duration": "20s", "seed": seed, "warm_up": False}))
        return [(round(result.at, 6), result.prompt_tokens) for result in played.results]

    assert run(1) == run(1) != run(2)


def test_servers_get_requests_by_their_weights() -> None:
    scenario = load("agents-174", {"rate": 100, "duration": "30s", "warm_up": False})
    played = play(scenario, *(ScriptedWire(lambda now: (1.0, 0.0, 1)) for _ in range(3)))
    shares = [group.offered / 3000 for _, group in sorted(played.tally.by_server.items())]
    assert shares == pytest.approx([0.5, 0.3, 0.2], abs=0.03)


def test_a_conversation_grows_and_meets_its_own_cache() -> None:
    played = simulated(load("agents-174", {"users": 1, "duration": "120s", "warm_up": False}), num_parallel=1)
    agent = [result for result in played.results if result.workload == "agent"]
    rises = sum(later.words > earlier.words for earlier, later in pairwise(agent))
    assert rises > len(agent) / 2


def test_models_are_loaded_before_the_load_and_told_of_apart() -> None:
    played = simulated(smoke(rate=5, duration="2s", warm_up=True))
    (warm_up,) = played.run.warm_ups
    assert (warm_up.phase, warm_up.cold, warm_up.outcome) == ("warm-up", True, "ok")
    assert not any(result.cold for result in played.results)


def test_without_a_warm_up_cold_starts_are_told_apart() -> None:
    played = simulated(smoke(rate=5, duration="4s"))
    cold, warm = played.tally.cold, played.tally.warm
    assert cold.offered >= 5
    assert cold.offered + warm.offered == 20
    assert (cold.ttft.least or 0.0) > (warm.ttft.greatest or 0.0)


def test_what_settles_is_not_judged() -> None:
    scenario = replace(smoke(rate=10, duration="10s"), settle=2.0)
    played = play(scenario, ScriptedWire(lambda now: (9.0, 0.0, 1) if now < 2.0 else QUICK))
    assert (played.tally.settling.offered, played.tally.all.offered) == (20, 80)
    assert played.verdict.word == "pass"


# --- outcomes ---------------------------------------------------------------------------------------------------------


def one_server_that(*faults: Fault, **given: object) -> dict[str, int]:
    scenario = replace(smoke(**{"rate": 10, "duration": "2s", **given}), abort_on=None)
    return simulated(scenario, *faults).outcomes()


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        (Fault("error_rate", status=500), "http_5xx"),
        (Fault("error_rate", status=404), "http_4xx"),
        (Fault("error_rate", status=503), "busy"),
        (Fault("mid_stream_error"), "stream_error"),
        (Fault("repeat_cut"), "truncated"),
        (Fault("drop"), "truncated"),
        (Fault("dead"), "connection"),
        (Fault("garbage"), "malformed"),
        (Fault("forbidden"), "http_4xx"),
        (Fault("redirect"), "malformed"),
        (Fault("starting"), "timeout"),
    ],
    ids=lambda value: value.kind if isinstance(value, Fault) else value,
)
def test_each_way_to_fail_has_its_outcome(fault: Fault, outcome: str) -> None:
    assert one_server_that(fault, timeout="20s") == {outcome: 20}


def test_a_full_queue_is_busy_and_nothing_else() -> None:
    found = simulated(replace(smoke(rate=200, duration="1s"), abort_on=None), max_queue=10).outcomes()
    assert found["busy"] > 100
    assert set(found) == {"ok", "busy"}


def test_a_prompt_that_is_cut_silently_counts_as_failed() -> None:
    async def learn(run: Run, server: SimServer) -> None:
        run.targets[0].contexts[TINYLLAMA.name] = 256

    long = replace(smoke(rate=2, duration="5s").workloads[0], prompt_words=400, prompt_spread=0.0)
    scenario = replace(smoke(rate=2, duration="5s"), workloads=(long,), abort_on=None)
    played = simulated(scenario, meanwhile=learn, default_num_ctx=256)
    assert played.outcomes() == {"prompt_cut": 10}
    assert played.verdict.word == "fail"
    assert any("cut silently" in note for note in played.verdict.notes)


def test_short_prompts_are_never_taken_for_cut() -> None:
    """A server may count only what it computed, or nonsense: a prompt that fits cannot have been cut."""
    assert play(smoke(rate=5, duration="2s"), ScriptedWire(steady, prompt_tokens=1)).outcomes() == {"ok": 10}


def test_what_cannot_be_sent_for_our_own_limits_is_told_and_makes_the_run_invalid() -> None:
    scenario = replace(smoke(rate=10, duration="10s"), abort_on=None)
    played = play(scenario, ScriptedWire(lambda now: (100.0, 0.0, 1)), concurrency=50)
    assert played.outcomes() == {"client_lag": 50, "timeout": 50}
    assert played.verdict.word == "invalid"
    assert "50 of 100 requests were not sent" in played.verdict.why[0]


def test_errors_are_in_every_denominator() -> None:
    def script(now: float) -> tuple[float, float, int]:
        return (100.0, 0.0, 1) if int(now * 10 + 0.5) % 10 == 0 else QUICK

    played = play(smoke(rate=10, duration="20s"), ScriptedWire(script))
    group = played.tally.all
    assert (group.success, group.goodput, group.missing) == (0.9, 0.9, 20)
    kept = {judgement.objective: judgement.kept for judgement in played.verdict.judgements}
    assert kept == {"ttft_p95": False, "ttft_p99": False, "success": False}


# --- ends -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("closed", [True, False], ids=["closed", "open"])
def test_a_run_that_is_stopped_tells_what_ran(closed: bool) -> None:
    async def stop(run: Run) -> None:
        await asyncio.sleep(10.02)
        run.stop()

    given: dict[str, object] = {"users": 30} if closed else {"rate": 10}
    scenario = load("agents-174", {**given, "duration": "60s", "warm_up": False})
    played = play(scenario, ScriptedWire(lambda now: (0.2, 0.1, 10)), meanwhile=stop)
    assert played.ending == "interrupted"
    assert played.run.seconds == pytest.approx(10.02, abs=0.01)
    group = played.tally.all
    assert group.outcomes["interrupted"] == group.censored > 0
    assert (group.success, played.verdict.word) == (1.0, "pass")
    assert group.offered == group.completed + sum(group.failed.values())


def test_who_waits_longer_than_any_may_is_missed_also_when_it_is_cut_off() -> None:
    async def stop(run: Run) -> None:
        await asyncio.sleep(30.0)
        run.stop()

    played = play(smoke(rate=1, duration="60s"), ScriptedWire(lambda now: (1000.0, 0.0, 1)), meanwhile=stop)
    assert played.tally.all.missing > 20
    assert played.verdict.word == "fail"


def test_a_server_that_dies_in_the_middle_ends_the_run_and_fails_it() -> None:
    async def kill(run: Run, server: SimServer) -> None:
        await asyncio.sleep(20.0)
        server.inject(Fault("dead"))

    played = simulated(smoke(rate=10, duration="600s", warm_up=True), meanwhile=kill)
    assert played.ending == "errors"
    assert played.run.seconds < 30
    assert played.tally.all.completed > 150
    assert played.verdict.word == "fail"
    assert "too many of its last requests failed" in played.verdict.why[-1]


def test_a_run_ends_at_its_limit_of_tokens_and_of_time() -> None:
    scenario = smoke(rate=10, duration="60s")
    tokens = replace(scenario, limits=replace(scenario.limits, tokens=100))
    assert play(tokens, ScriptedWire(steady)).ending == "tokens"
    short = replace(scenario, limits=replace(scenario.limits, duration=5.0))
    played = play(short, ScriptedWire(steady))
    assert (played.ending, played.run.seconds) == ("duration", pytest.approx(5.0))


def test_fast_enough_is_good_and_too_slow_is_not() -> None:
    scenario = smoke(rate=10, duration="20s")
    good = play(scenario, ScriptedWire(lambda now: (1.9, 0.0, 1))).tally.all
    slow = play(scenario, ScriptedWire(lambda now: (2.1, 0.0, 1))).tally.all
    assert (good.goodput, slow.goodput, slow.success) == (1.0, 0.0, 1.0)
