"""What Ollama makes of its environment, as its source and a real 0.33 have it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter import catalog
from exporter.environment import PROBLEMS, READ, advice, ignored, settings, version_of

V33 = (0, 33, 0)


@pytest.mark.parametrize(
    ("text", "version"),
    [("0.33.0", V33), ("0.33.0-rc2", V33), ("0.9.6", (0, 9, 6)), ("0.0.0", None), ("", None), ("main", None)],
)
def test_versions(text: str, version: tuple[int, int, int] | None) -> None:
    assert version_of(text) == version


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "instead"),
    [
        ("OLLAMA_QUEUE_SIZE", "OLLAMA_MAX_QUEUE"),
        ("OLLAMA_CPU_THREADS", "LLAMA_ARG_THREADS"),
        ("OLLAMA_MAX_MEMORY", "OLLAMA_GPU_OVERHEAD"),
        ("OLLAMA_NUM_PARALEL", "OLLAMA_NUM_PARALLEL"),
        ("OLLAMA_KEEPALIVE", "OLLAMA_KEEP_ALIVE"),
        ("OLLAMA_NEW_ENGINE", ""),
        ("OLLAMA_INTEL_GPU", "OLLAMA_VULKAN"),
        ("LLAMA_ARG_N_PARALLEL", "OLLAMA_NUM_PARALLEL"),
        ("OLLAMA_PORT", "OLLAMA_HOST"),
        ("OLLAMA_ZEBRA", ""),
    ],
)
def test_a_name_that_does_nothing_comes_with_the_right_one(variable: str, instead: str) -> None:
    assert ignored({variable: "1", "OLLAMA_HOST": "0.0.0.0"}, V33) == {variable: instead}


@pytest.mark.parametrize("variable", sorted(READ))
def test_what_ollama_reads_is_never_said_to_do_nothing(variable: str) -> None:
    assert ignored({variable: "1"}, V33) == {}


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OLLAMA_SERVICE_HOST", "10.0.0.7"),
        ("OLLAMA_SERVICE_PORT_HTTP", "11434"),
        ("OLLAMA_PORT", "tcp://10.0.0.7:11434"),
        ("OLLAMA_PORT_11434_TCP_ADDR", "10.0.0.7"),
        ("OLLAMA_GPU_SERVICE_PORT", "11434"),
        ("OLLAMA_EXPORTER_SERVERS", "a=http://a:11434"),
        ("OLLAMA_API_KEY", ""),
        ("OLLAMA_EDITOR", "vi"),
        ("LLAMA_ARG_THREADS", "8"),
        ("PATH", "/bin"),
        ("OLLAMA_" + "X" * 41, "1"),
        ("OLLAMA_user@example.org", "1"),
    ],
)
def test_what_others_put_there_and_what_could_be_anything_is_left_alone(variable: str, value: str) -> None:
    assert ignored({variable: value}, V33) == {}


@pytest.mark.parametrize("version", [None, (0, 24, 0), (0, 34, 0), (1, 0, 0)])
def test_of_versions_whose_variables_are_not_known_nothing_is_said(version: tuple[int, int, int] | None) -> None:
    assert ignored({"OLLAMA_QUEUE_SIZE": "500"}, version) is None


# --- values ----------------------------------------------------------------------------------------------------------


def test_an_empty_environment_is_the_defaults() -> None:
    found = settings({}, "process", V33)
    assert (found.parallel, found.max_queue, found.max_loaded) == (1, 512, 0)
    assert (found.keep_alive, found.context) == (300.0, 0)
    assert (found.flash_attention, found.kv_cache, found.invalid) == ("auto", "f16", frozenset())


@pytest.mark.parametrize(
    ("text", "parallel", "valid"),
    [("50", 50, True), (" '4' ", 4, True), ("0", 1, True), ("-1", 1, False), ("four", 1, False), ("2.0", 1, False),
     ("٤", 1, False), (str(2**64), 1, False), ("", 1, True)],
)  # fmt: skip
def test_whole_numbers_are_read_as_go_reads_them(text: str, parallel: int, valid: bool) -> None:
    found = settings({"OLLAMA_NUM_PARALLEL": text}, "process", V33)
    assert found.parallel == parallel
    assert found.invalid == (frozenset() if valid else {"OLLAMA_NUM_PARALLEL"})


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("10m", 600.0), ("1h30m", 5400.0), ("300", 300.0), ("0", 0.0), ("0s", 0.0), ("-1", math.inf), ("-1m", math.inf),
     ("1.5h", 5400.0), ("500ms", 0.5), ('"24h"', 86400.0), ("5m0s", 300.0), ("2562047h47m16.854775807s", math.inf),
     ("9223372036", math.inf), ("10000000000", math.inf)],
)  # fmt: skip
def test_keep_alive_is_read_as_go_reads_it(text: str, seconds: float) -> None:
    found = settings({"OLLAMA_KEEP_ALIVE": text}, "process", V33)
    assert found.keep_alive == pytest.approx(seconds)
    assert not found.invalid


@pytest.mark.parametrize(
    "text", ["forever", "10 minutes", "1d", "5 m", "m", "1,5h", "1h1", "5M", "1_0", "9" * 20, "9999999h"]
)
def test_a_keep_alive_that_is_no_duration_is_the_default(text: str) -> None:
    found = settings({"OLLAMA_KEEP_ALIVE": text}, "process", V33)
    assert (found.keep_alive, found.invalid) == (300.0, {"OLLAMA_KEEP_ALIVE"})


@given(st.text(max_size=20))
def test_no_value_breaks_the_reader(text: str) -> None:
    names = ("OLLAMA_NUM_PARALLEL", "OLLAMA_KEEP_ALIVE", "OLLAMA_FLASH_ATTENTION", "OLLAMA_KV_CACHE_TYPE")
    found = settings(dict.fromkeys(names, text), "process", V33)
    assert found.parallel is not None
    assert found.parallel >= 1
    assert found.keep_alive >= 0


@pytest.mark.parametrize(
    ("text", "origin", "flash"),
    [("1", "process", "on"), ("false", "process", "off"), ("", "process", "auto"), ("yes", "process", "on"),
     ("false", "log", "off_or_auto"), ("true", "log", "on")],
)  # fmt: skip
def test_flash_attention(text: str, origin: str, flash: str) -> None:
    found = settings({"OLLAMA_FLASH_ATTENTION": text}, origin, V33)  # type: ignore[arg-type]
    assert found.flash_attention == flash


def test_a_type_of_kv_cache_that_is_none_of_llama_cpps_is_other() -> None:
    assert settings({"OLLAMA_KV_CACHE_TYPE": "Q8_0"}, "process", V33).kv_cache == "q8_0"
    assert settings({"OLLAMA_KV_CACHE_TYPE": "secret!"}, "process", V33).kv_cache == "other"


@pytest.mark.parametrize("version", [None, (0, 9, 6)])
def test_where_an_older_default_may_hold_parallel_is_not_told(version: tuple[int, int, int] | None) -> None:
    assert settings({}, "process", version).parallel is None
    assert settings({"OLLAMA_NUM_PARALLEL": "2"}, "process", version).parallel == 2


# --- words -----------------------------------------------------------------------------------------------------------


def test_advice_names_what_to_set_instead() -> None:
    samples = [
        catalog.CONFIG_IGNORED(1.0, server="a", variable="OLLAMA_QUEUE_SIZE", instead="OLLAMA_MAX_QUEUE"),
        catalog.CONFIG_IGNORED(1.0, server="a", variable="OLLAMA_ZEBRA", instead=""),
        catalog.CONFIG_INVALID(1.0, server="a", variable="OLLAMA_KEEP_ALIVE"),
        catalog.CONFIG_PROBLEM(1.0, server="a", problem="invalid_value"),
        catalog.CONFIG_PROBLEM(1.0, server="a", problem="runner_key"),
        catalog.CONFIG_PROBLEM(0.0, server="a", problem="slots_debug"),
        catalog.POLICY_VIOLATION(1.0, server="a", rule="model_not_allowed"),
        catalog.CONFIG_PARALLEL(4.0, server="a"),
    ]
    assert advice(samples) == [
        "a: LLAMA_API_KEY is set: runners refuse Ollama itself, every request fails",
        "a: OLLAMA_QUEUE_SIZE does nothing; use OLLAMA_MAX_QUEUE",
        "a: OLLAMA_ZEBRA does nothing",
        "a: against the policy: model not allowed",
        "a: the value of OLLAMA_KEEP_ALIVE cannot be read, its default holds",
    ]


@pytest.mark.parametrize("problem", PROBLEMS)
def test_every_problem_has_words(problem: str) -> None:
    lines = advice([catalog.CONFIG_PROBLEM(1.0, server="a", problem=problem)])
    assert lines == ([] if problem == "invalid_value" else [f"a: {PROBLEMS[problem]}"])
