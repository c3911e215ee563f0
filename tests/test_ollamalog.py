"""What the lines of an Ollama server's log are taken to say."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.ollamalog import (
    MISFIT_KINDS,
    OCCURRENCES,
    Access,
    Cached,
    Configured,
    Drafted,
    Event,
    Generated,
    Happened,
    Listening,
    LoadBegan,
    Loaded,
    Misfit,
    NewPrompt,
    Placed,
    Processed,
    Shifted,
    Started,
    Story,
    Told,
    Truncated,
    environment,
    parse,
    seconds,
)

LOGS = Path(__file__).parent / "logs"
BLOB = "sha256-941f309b54caaad6747569ba43712bcde44a2be3bae16c3282ff499c37c54af5"


def lines(name: str) -> list[bytes]:
    return (LOGS / name).read_bytes().split(b"\n")


def events(name: str) -> list[Event]:
    return [event for event in map(parse, lines(name)) if event is not None]


def told(*texts: str, story: Story | None = None) -> list[Told]:
    story = story or Story()
    parsed = [parse(text.encode()) for text in texts]
    return [one for event in parsed if event is not None for one in story.follow(event)]


def of_log(name: str) -> list[Told]:
    story = Story()
    return [one for event in events(name) for one in story.follow(event)]


def says(message: str, fields: str = "") -> str:
    return f'time=2026-11-23T17:00:00.000Z level=INFO source=x.go:1 msg="{message}" {fields}'.rstrip()


def load(name: str, took: str = "1.00", count: int = 1, blob: str = BLOB) -> tuple[str, ...]:
    """A whole load, as 0.33 tells it."""
    return (
        says("starting llama-server", f'cmd="/lib/llama-server --model /m/blobs/{blob} --port 1"'),
        says(f"llama-server started in {took} seconds"),
        says("template selection", f"model=registry.ollama.ai/library/{name}:latest selected=none"),
        says("loaded runners", f"count={count}"),
        says(f"llama-server started in {took} seconds"),
    )


GENERATED = "slot print_timing: id  3 | task 0 |        eval time =     100.00 ms /    16 tokens (1 ms per token)"


# --- lines -----------------------------------------------------------------------------------------------------------


def test_what_0_33_writes() -> None:
    found = events("ollama-0.33.log")

    assert [event for event in found if isinstance(event, Access)] == [
        Access("/api/version", 200, pytest.approx(0.000329211)),
        Access("/api/generate", 200, pytest.approx(2.174859652)),
        Access("/api/generate", 503, pytest.approx(0.025986843)),
        Access("/api/blobs", 201, pytest.approx(0.193179235)),
        Access("other", 404, pytest.approx(0.000015593)),
    ]
    assert [event for event in found if isinstance(event, (NewPrompt, Cached, Processed, Generated))] == [
        NewPrompt((3, 0), 15),
        Cached((3, 0), 0),
        Processed(15, pytest.approx(0.35766)),
        Generated((3, 0), 1, 0.0),
    ]
    assert [event for event in found if isinstance(event, (LoadBegan, Started, Placed))][:4] == [
        LoadBegan(BLOB),
        Started(1.77),
        Placed(1),
        Started(1.78),
    ]
    assert Listening("0.33.0-rc2") in found
    assert Truncated(12010 - 2050) in found
    assert not [event for event in found if isinstance(event, Misfit)]


def test_what_a_llama_server_by_itself_writes_before_its_lines() -> None:
    said = (Processed, Generated, Happened, Misfit)
    found = [event for event in events("llama-server-b10434.log") if isinstance(event, said)]

    assert found == [
        Processed(4, pytest.approx(0.04894)),
        Generated((3, 2), 64, pytest.approx(16.51736)),
        Happened("context_exceeded"),
    ]


@pytest.mark.parametrize(
    ("name", "version", "loaded", "parallel"),
    [
        ("ollama-0.24.log", "0.24.0", 1.99, "2"),
        ("ollama-0.6.log", "0.6.2", 9.03, "0"),
        ("ollama-0.1.38.log", "0.1.38", 2.5, "1"),
    ],
)
def test_older_servers_tell_of_starts_settings_and_loads_in_other_words(
    name: str, version: str, loaded: float, parallel: str
) -> None:
    found = [one.event for one in of_log(name)]

    assert Listening(version) in found
    assert [event for event in found if isinstance(event, Loaded)] == [Loaded(loaded)]
    assert [event.environment["OLLAMA_NUM_PARALLEL"] for event in found if isinstance(event, Configured)] == [parallel]
    assert sum(isinstance(event, LoadBegan) for event in found) == 1, "a runner without a model looks for GPUs"
    assert not [event for event in found if isinstance(event, Misfit)]


def test_every_occurrence_is_told_by_some_line() -> None:
    found = Counter[str]()
    for file in ("ollama-0.33.log", "ollama-0.6.log", "incidents.log"):
        for one in of_log(file):
            if isinstance(one.event, Happened):
                found[one.event.what] += 1
            found["prompt_truncated"] += isinstance(one.event, Truncated)
            found["context_shift"] += isinstance(one.event, Shifted)

    assert {what for what in OCCURRENCES if not found[what]} == set()


def test_speculation_is_told_by_llama_server_and_by_mlx() -> None:
    assert [event for event in events("incidents.log") if isinstance(event, Drafted)] == [
        Drafted(40, 30),
        Drafted(20, 15),
    ]


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("[GIN] 2026/11/23 - 17:38:05 | 200 | soon | 127.0.0.1 | GET \"/\"", "access"),
        ("[GIN] status=200 latency=3ms", "access"),
        ("time=2026-11-23T17:00:00.000Z level=INFO source=x.go:1 message=hello", "message"),
        (says("llama-server started in a while"), "message"),
        (says("truncating input prompt", "prompt=many new=few"), "message"),
        (says("loaded runners", "number=1"), "message"),
        ("slot print_timing: id  3 | task 0 | prompt eval time = 0.35 s / 15 tokens", "timing"),
        ("print_timings: prompt eval time = 0.35 s for 15 tokens", "timing"),
        ("slot print_timing: slot 3 | task 0 | prompt eval time = 1.00 ms /  15 tokens", "slot"),
        ("slot   operator(): id  3 | task 0 | new prompt, tokens: 15", "slot"),
    ],
)  # fmt: skip
def test_a_line_of_ours_in_another_form_is_a_misfit(line: str, kind: str) -> None:
    assert kind in MISFIT_KINDS
    assert parse(line.encode()) == Misfit(kind)  # type: ignore[arg-type]


def test_colours_of_a_terminal_are_no_part_of_a_line() -> None:
    status, method = "\x1b[97;42m 200 \x1b[0m", "\x1b[97;44m GET     \x1b[0m"
    line = f'[GIN] 2026/11/23 - 17:38:05 |{status}|     251.29µs |       127.0.0.1 |{method} "/api/tags"'

    assert parse(line.encode()) == Access("/api/tags", 200, pytest.approx(0.00025129))


@pytest.mark.parametrize(
    "prefix", ["2026-11-23T17:38:05.1Z stdout F ", "Nov 23 17:38:05 host ollama[12]: ", "ollama-1  | "]
)
def test_who_keeps_the_log_may_write_something_before_each_line(prefix: str) -> None:
    access = '[GIN] 2026/11/23 - 17:38:05 | 200 | 2m5s | 127.0.0.1 | POST "/api/chat"'

    assert parse(f"{prefix}{access}".encode()) == Access("/api/chat", 200, 125.0)
    assert parse(f"{prefix}{says('loaded runners', 'count=2')}".encode()) == Placed(2)


def test_what_a_message_quotes_is_not_taken_for_a_line() -> None:
    prompt = (
        r"say \"[GIN] 2026/11/23 - 17:38:05 | 503 | 1s | 1.1.1.1 | POST \"/api/chat\" | task 1 | prompt eval time = 1"
    )

    assert parse(says("chat request", f'prompt="{prompt}"').encode()) is None


@pytest.mark.parametrize(
    ("path", "endpoint"),
    [
        ("/api/chat?key=hunter2", "/api/chat"),
        ("/api/blobs/sha256:00", "/api/blobs"),
        ("/v1/models/llama3", "/v1/models"),
        ("/wp-login.php?user=me", "other"),
        ("/api/chat/", "other"),
    ],
)
def test_a_path_becomes_a_route_and_its_query_and_the_caller_go(path: str, endpoint: str) -> None:
    event = parse(f'[GIN] 2026/11/23 - 17:38:05 | 200 | 1ms | 203.0.113.7 | POST     "{path}"'.encode())

    assert event == Access(endpoint, 200, 0.001)
    assert "203.0.113.7" not in repr(event)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("120.452µs", 120.452e-6), ("5.054276458s", 5.054276458), ("32m31s", 1951.0), ("1h2m3.5s", 3723.5), ("0s", 0.0),
     ("12ns", 12e-9), ("fast", None), ("", None), ("1.5", None), ("-1s", None)],
)  # fmt: skip
def test_durations_are_gos(text: str, expected: float | None) -> None:
    assert seconds(text) == (None if expected is None else pytest.approx(expected))


def test_the_environment_is_read_out_of_gos_notation_without_what_may_be_secret() -> None:
    (configured,) = [event for event in events("ollama-0.6.log") if isinstance(event, Configured)]

    assert configured.environment["OLLAMA_ORIGINS"] == "[http://localhost https://localhost:*]"
    assert configured.environment["OLLAMA_KEEP_ALIVE"] == "24h0m0s"
    assert "secret" not in repr(configured)
    assert environment("map[OLLAMA_HOST:http://0.0.0.0:11434 OLLAMA_LLM_LIBRARY: no_proxy:]") == {
        "OLLAMA_HOST": "http://0.0.0.0:11434",
        "OLLAMA_LLM_LIBRARY": "",
    }
    assert environment("nonsense") == {}


_PIECES = st.sampled_from(
    [
        piece
        for name in ("ollama-0.33.log", "incidents.log")
        for line in lines(name)
        for piece in re.split(rb"(?<=[ =|\"])", line)
    ]
)


@given(st.one_of(st.binary(), st.lists(_PIECES, max_size=40).map(b"".join)))
def test_no_line_raises(line: bytes) -> None:
    event = parse(line)

    if event is not None:
        list(Story().follow(event))


# --- the story -------------------------------------------------------------------------------------------------------


def test_a_load_is_counted_once_though_it_is_told_twice() -> None:
    assert [one for one in of_log("ollama-0.33.log") if isinstance(one.event, Loaded)] == [
        Told(Loaded(1.77), "smollm2:latest", BLOB),
        Told(
            Loaded(4.6), "gemma3-270m:latest", "sha256-a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
        ),
    ]


def test_the_echo_of_one_load_is_not_taken_for_the_next() -> None:
    *first, echo = load("a", "1.00")
    second = load("b", "7.00", count=2, blob=BLOB.replace("9", "8"))

    found = told(*first, second[0], echo, *second[1:])

    assert [(one.event, one.name) for one in found if isinstance(one.event, Loaded)] == [
        (Loaded(1.0), "a:latest"),
        (Loaded(7.0), "b:latest"),
    ]


def test_lines_of_a_runner_belong_to_the_only_one_alive() -> None:
    assert told(*load("a"), GENERATED)[-1] == Told(Generated((3, 0), 16, 0.1), "a:latest", BLOB)


def test_lines_of_a_runner_are_nobodys_while_several_may_be_alive() -> None:
    assert told(*load("a"), *load("b", count=2), GENERATED)[-1] == Told(Generated((3, 0), 16, 0.1))


def test_lines_of_a_runner_are_nobodys_before_the_first_load_was_seen() -> None:
    assert told(GENERATED)[-1] == Told(Generated((3, 0), 16, 0.1))
    assert told(says("loaded runners", "count=1"), GENERATED)[-1] == Told(Generated((3, 0), 16, 0.1))


def test_while_another_model_loads_the_lines_are_still_of_the_one_that_is_there() -> None:
    assert told(*load("a"), load("b")[0], GENERATED)[-1].name == "a:latest"
    assert told(*load("a"), *load("b", count=1), GENERATED)[-1].name == "b:latest", "it took the place"


def test_a_restart_of_the_server_leaves_nobody_alive() -> None:
    assert told(*load("a"), says("Listening on 127.0.0.1:11434 (version 0.33.0)"), GENERATED)[-1].name == ""


def test_only_what_was_in_the_cache_before_counts_as_cached() -> None:
    batches = [
        f"slot   operator(): id  0 | task 5 | cached n_tokens = {n}, memory_seq_rm [{n}, end)" for n in (96, 512)
    ]
    prompt = "slot   operator(): id  0 | task 5 | new prompt, n_ctx_slot = 4096, n_keep = 4, task.n_tokens = 900"

    assert told(prompt, *batches, *batches) == [Told(Cached((0, 5), 96))]


def test_a_load_that_its_client_gave_up_is_no_failure() -> None:
    aborted = says("client connection closed before llama-server finished loading, aborting load")
    failed = says("Load failed", 'error="context canceled"')

    found = [one.event for one in told(load("a")[0], aborted, failed, load("a")[0], failed)]

    assert [event for event in found if isinstance(event, Happened)] == [
        Happened("load_aborted"),
        Happened("load_failed"),
    ]


def test_one_death_is_counted_once_and_ends_that_ollama_caused_are_none() -> None:
    found = says("llama-server process no longer running", "sys=9")
    killed = says("llama-server terminated", 'error="signal: killed" exit=1')

    assert told(*load("a"), killed) == told(*load("a"))
    assert [one.event for one in told(*load("a"), found, found, found)].count(Happened("runner_died")) == 1
    assert [one.event for one in told(*load("a"), found, *load("a"), found)].count(Happened("runner_died")) == 2
    assert Happened("runner_died") not in [one.event for one in told(load("a")[0], found)], "a load that fails"
