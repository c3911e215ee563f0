"""Which generations are known to be cut off, and which deaths are one, whatever the order of lines."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest

from exporter.ollamalog import Abandoned, CutOff, Event, Happened, Story, Told, parse

LOGS = Path(__file__).parent / "logs"
BLOB = "sha256-941f309b54caaad6747569ba43712bcde44a2be3bae16c3282ff499c37c54af5"


def says(message: str, fields: str = "") -> str:
    return f'time=2026-11-23T17:00:00.000Z level=INFO source=x.go:1 msg="{message}" {fields}'.rstrip()


BEGUN = says("starting llama-server", f'cmd="/lib/llama-server --model /m/blobs/{BLOB} --port 1"')
STARTS = says("Listening on 127.0.0.1:11434 (version 0.33.0)")


def load(name: str = "a", count: int = 1) -> tuple[str, ...]:
    return (
        BEGUN,
        says("llama-server started in 1.00 seconds"),
        says("template selection", f"model=registry.ollama.ai/library/{name}:latest"),
        says("loaded runners", f"count={count}"),
        says("llama-server started in 1.00 seconds"),
    )


def line(key: tuple[int, int], said: str) -> str:
    return f"slot some_functio: id {key[0]:2d} | task {key[1]} | {said}"


def began(slot: int = 0, task: int = 0) -> tuple[str, ...]:
    """A generation whose prompt is read."""
    return line((slot, task), "processing task, is_child = 0"), line((slot, task), "init sampler, took 0.01 ms")


def embedding(slot: int = 0, task: int = 0) -> str:
    return began(slot, task)[0]


def made(tokens: int, slot: int = 0, task: int = 0) -> str:
    return line((slot, task), f"n_gen = {tokens:6d}, tg = 135.66 t/s, tg_3s = 135.99 t/s")


def told_of(slot: int = 0, task: int = 0) -> str:
    return line((slot, task), "       eval time =     100.00 ms /    16 tokens (1 ms per token)")


def released(slot: int = 0, task: int = 0) -> str:
    return line((slot, task), "stop processing: n_tokens = 20, truncated = 0")


def ended(slot: int = 0, task: int = 0) -> tuple[str, str]:
    return told_of(slot, task), released(slot, task)


def follow(texts: Iterable[str], story: Story) -> list[Told]:
    parsed: list[Event | None] = [parse(text.encode()) for text in texts]
    return [one for event in parsed if event is not None for one in story.follow(event)]


def cut(*texts: str, story: Story | None = None) -> Counter[str]:
    """By model: how many were cut off; under `tokens`, what was told of them."""
    counted = Counter[str]()
    for told in follow(texts, story or Story()):
        if isinstance(told.event, CutOff):
            counted[told.name] += told.event.generations
            counted["tokens"] += told.event.tokens
    return +counted


# --- one runner at a time --------------------------------------------------------------------------------------------


def test_an_answer_whose_last_lines_are_missing_is_cut_off_when_the_next_model_is_in_its_place() -> None:
    assert cut(*load("a"), *began()) == {}, "it may still be under way"
    assert cut(*load("a"), *began(), BEGUN) == {}, "and while the next one starts"
    assert cut(*load("a"), *began(), *load("b")) == {"a:latest": 1}
    assert cut(*load("a"), *began(), *load("b"), *load("c")) == {"a:latest": 1}, "once"


def test_an_answer_that_ended_is_not_cut_off_whichever_line_was_the_last() -> None:
    assert cut(*load("a"), *began(), *ended(), *load("b")) == {}
    assert cut(*load("a"), *began(), told_of(), *load("b")) == {}, "its tokens are known"
    assert cut(*load("a"), *began(), released(), *load("b")) == {}, "cancelled"
    half = line((0, 0), "prompt eval time =      50.95 ms /    10 tokens (5.09 ms per token)")
    assert cut(*load("a"), *began(), half, *load("b")) == {"a:latest": 1}, "its own tokens are not"


def prompt(tokens: int, slot: int = 0, task: int = 0) -> str:
    return line((slot, task), f"new prompt, n_ctx_slot = 2048, n_keep = 4, task.n_tokens = {tokens}")


def stopped(tokens: int, slot: int = 0, task: int = 0, what: str = "n_tokens") -> str:
    return line((slot, task), f"stop processing: {what} = {tokens}, truncated = 0")


def generation(tokens: int, slot: int = 0, task: int = 0) -> tuple[str, str, str]:
    """One whose prompt has so many tokens, and is read."""
    begins, samples = began(slot, task)
    return begins, prompt(tokens, slot, task), samples


def abandoned(*texts: str) -> list[tuple[str, int]]:
    found = follow(texts, Story())
    return [(told.name, told.event.tokens) for told in found if isinstance(told.event, Abandoned)]


def test_what_was_made_for_a_client_who_left_is_what_is_in_the_cache_beyond_the_prompt() -> None:
    assert abandoned(*load("a"), *generation(15), stopped(74)) == [("a:latest", 60)]
    assert abandoned(*load("a"), *generation(15), stopped(15)) == [("a:latest", 1)], "one falls out of the prompt"
    assert abandoned(*load("a"), *generation(15), told_of(), stopped(74)) == [], "it was finished"
    assert abandoned(*load("a"), *generation(15), stopped(74), *load("b")) == [("a:latest", 60)], "once"


def test_a_client_who_left_before_his_prompt_was_read_has_abandoned_no_generation() -> None:
    begins, reads, _ = generation(900)
    assert abandoned(*load("a"), begins, reads, stopped(512)) == []


def test_where_the_context_was_shifted_or_a_line_is_missing_the_tokens_are_those_told_on_the_way() -> None:
    assert abandoned(*load("a"), *generation(900), made(1400), stopped(1100)) == [("a:latest", 1400)]
    assert abandoned(*load("a"), *generation(900), made(1400), stopped(800)) == [("a:latest", 1400)]
    assert abandoned(*load("a"), *began(), made(120), stopped(800)) == [("a:latest", 120)], "no prompt was told"
    older = stopped(800, what="n_past")
    assert abandoned(*load("a"), *generation(15), made(120), older) == [("a:latest", 120)]


def test_each_slot_has_its_own_prompt() -> None:
    texts = (*generation(10, 0, 0), *generation(100, 1, 1), stopped(120, 1, 1), stopped(20, 0, 0))
    assert abandoned(*load("a"), *texts) == [("a:latest", 21), ("a:latest", 11)]


def test_whose_client_left_is_not_told_while_several_models_are_loaded() -> None:
    assert abandoned(*load("a"), *load("b", 2), *generation(15), stopped(74)) == [("", 60)]


def test_what_makes_no_tokens_is_no_generation() -> None:
    assert cut(*load("a"), embedding(), *load("b")) == {}


def test_each_task_of_a_runner_counts_for_itself() -> None:
    tasks = (*began(0, 0), *began(1, 1), *ended(0, 0), *began(0, 40), embedding(2, 50))

    assert cut(*load("a"), *tasks, *load("b")) == {"a:latest": 2}


def test_what_was_told_on_the_way_is_a_lower_bound_of_the_tokens() -> None:
    tasks = (*began(0, 0), *began(1, 1), made(400), made(120, 1, 1), made(800))

    assert cut(*load("a"), *tasks, *load("b")) == {"a:latest": 2, "tokens": 920}
    assert cut(*load("a"), *tasks, *ended(), *load("b")) == {"a:latest": 1, "tokens": 120}


def test_a_server_that_starts_anew_has_cut_off_all() -> None:
    assert cut(*load("a"), *began(), STARTS) == {"a:latest": 1}
    assert cut(*load("a"), *began(), STARTS, *load("b"), *began(), *ended(), *load("c")) == {"a:latest": 1}


def test_a_load_that_fails_replaces_nobody() -> None:
    failed = says("Load failed", 'error="llama-server process has terminated: exit status 1"')

    assert cut(*load("a"), *began(), BEGUN, failed) == {}
    assert cut(*load("a"), *began(), BEGUN, failed, *ended(), *load("b")) == {}


# --- several, without names ------------------------------------------------------------------------------------------


def test_the_other_one_may_still_be_at_work() -> None:
    two = (*load("a"), *load("b", 2))

    assert cut(*two, *began(), *load("c", 2)) == {}, "a's or b's, one of which is alive"
    assert cut(*two, *began(), *load("c", 2), *ended(), *load("d")) == {}, "it was"
    assert cut(*two, *began(), *load("c", 2), *load("d")) == {"": 1}, "nobody is left who could have it"


def test_more_tasks_than_runners_can_have_are_cut_off_whoever_they_are() -> None:
    two = (*load("a"), *load("b", 2))

    assert cut(*two, *began(0, 0), *began(0, 0), *load("c", 2)) == {"": 1}, "a's and b's had the same number"
    story = Story()
    assert cut(*two, *began(0, 0), *load("c", 2), story=story) == {}
    assert cut(*began(0, 7), story=story) == {}, "two runners, two tasks"
    assert cut(*began(0, 0), story=story) == {"": 1}, "three on slots of which there are two"
    assert cut(*ended(0, 7), *ended(0, 0), *load("d"), story=story) == {}, "and no more than that"


def test_of_those_that_may_have_gone_the_least_is_said() -> None:
    two = (*load("a"), *load("b", 2))
    story = Story()

    assert cut(*two, *began(0, 1), made(500, 0, 1), *began(0, 2), made(100, 0, 2), *load("c", 2), story=story) == {
        "": 1,
        "tokens": 100,
    }
    assert cut(*load("d"), story=story) == {"": 1, "tokens": 500}, "all have gone: the rest"
    assert cut(*two, embedding(0, 1), *began(0, 2), *load("c", 2)) == {}, "it may have been the embedding"


def test_before_it_is_known_how_many_there_are_nothing_is_said() -> None:
    assert cut(*began(0, 0), *began(0, 1), *began(0, 2)) == {}
    assert cut(STARTS, *began(0, 0), *began(0, 1), *began(0, 2)) == {}, "of these runners, no line has told"


@pytest.mark.parametrize("seed", range(40))
def test_no_order_of_lines_makes_more_of_them_than_were_cut_off(seed: int) -> None:
    """Up to three runners that come and go at random, each with tasks of its own; what is lost is known here."""
    rng, story, alive = random.Random(seed), Story(), dict[int, dict[int, int]]()
    counted, lost, begun = Counter[str](), 0, 0
    for _ in range(400):
        if not alive or rng.random() < 0.15:
            while len(alive) >= rng.randint(1, 3):
                lost += len(alive.pop(rng.choice(list(alive))))
            begun += 1
            alive[begun] = {}
            counted += cut(*load(str(begun), len(alive)), story=story)
            assert counted.total() <= lost
        busy = alive[rng.choice(list(alive))]
        slot = rng.randrange(2)
        if slot in busy:
            counted += cut(*ended(slot, busy.pop(slot)), story=story)
        else:
            busy[slot] = rng.randrange(4)
            counted += cut(*began(slot, busy[slot]), story=story)
        assert counted.total() <= lost
    lost += sum(len(busy) for busy in alive.values())
    counted += cut(*load("last"), story=story)

    assert counted.total() == lost


def test_what_is_kept_is_bounded() -> None:
    story = Story()
    for number in range(20_000):
        follow((*began(number % 3, number), line((number, 0), "processing task, is_child = 0")), story)

    slots = story._tasks._slots
    assert len(slots) <= 1024
    assert sum(len(slot.tasks) for slot in slots.values()) <= 3 * 256 + 1024


# --- deaths ----------------------------------------------------------------------------------------------------------

FOUND = says("llama-server process no longer running", 'sys=11 string="signal: segmentation fault"')
TERMINATED = says("llama-server terminated", 'error="signal: segmentation fault" exit=unknown')
EXITED = says("llama-server terminated", 'error="exit status 1" exit="exit status 1"')
FAILED = says("Load failed", 'model=/m error="llama-server process has terminated: {}"')
PANIC = "panic: runtime error: invalid memory address or nil pointer dereference"


def happened(*texts: str) -> dict[str, int]:
    return Counter(told.event.what for told in follow(texts, Story()) if isinstance(told.event, Happened))


def test_deaths_of_a_real_server_are_counted_once_each_and_what_they_cut_off() -> None:
    texts = (LOGS / "ollama-0.33-deaths.log").read_text().splitlines()

    assert happened(*texts) == {"runner_died": 4, "load_failed": 2, "context_exceeded": 3}
    assert cut(*texts) == {"tinyllama:latest": 2}


@pytest.mark.parametrize(
    "texts",
    [
        (*load(), TERMINATED),
        (*load(), EXITED),
        (*load(), FOUND, FOUND),
        (*load(), TERMINATED, FOUND, FOUND, *load()),
        (*load(), FOUND, TERMINATED),
        (*load("a"), *load("b", 2), TERMINATED, *load("c", 2), FOUND, FOUND),  # found dead after another load
        (*load("a"), BEGUN, TERMINATED, *load("b", 2)[1:]),  # of the one that was there: the load succeeded
        (*load("a"), BEGUN, TERMINATED, *load("b", 2)[1:], FOUND, FOUND),
    ],
)
def test_a_death_counts_once_by_whichever_lines_it_is_told(texts: tuple[str, ...]) -> None:
    assert happened(*texts) == {"runner_died": 1}


@pytest.mark.parametrize(
    ("texts", "died"),
    [
        ((BEGUN, FAILED.format("signal: aborted")), 1),
        ((BEGUN, TERMINATED, FAILED.format("error: no luck: error: no luck")), 1),  # the signal is told by one of them
        ((BEGUN, TERMINATED, FOUND, FAILED.format("signal: segmentation fault")), 1),
        ((BEGUN, FAILED.format("exit status 1")), 0),  # it refused
        ((BEGUN, EXITED, FAILED.format("exit status 1: error: no such type")), 0),
        ((BEGUN, FAILED.format("OK")), 0),
        ((BEGUN, FOUND, FAILED.format("exit status 1")), 0),
    ],
)
def test_a_death_while_loading_is_a_failed_load_and_a_death_if_a_signal_ended_it(
    texts: tuple[str, ...], died: int
) -> None:
    assert happened(*texts) == Counter(load_failed=1, runner_died=died) + Counter()


def test_two_deaths_are_two() -> None:
    assert happened(*load(), TERMINATED, FOUND, FOUND, *load(), FOUND, FOUND) == {"runner_died": 2}
    assert happened(*load("a"), *load("b", 2), TERMINATED, TERMINATED) == {"runner_died": 2}
    assert happened(BEGUN, TERMINATED, BEGUN, FAILED.format("signal: aborted")) == {"runner_died": 2, "load_failed": 1}


def test_a_runner_s_panic_and_its_end_are_one_death() -> None:
    assert happened(*load(), PANIC, "fatal error: again", EXITED, FOUND, FOUND) == {"crash": 1}
    assert happened(*load(), PANIC, STARTS, *load(), FOUND) == {"crash": 1, "runner_died": 1}
