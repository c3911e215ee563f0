"""Scenario files are read strictly, every mistake with its path."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from exporter.config import ConfigError
from exporter.loadtest.safety import beyond, connections_possible, cost, located, ours
from exporter.loadtest.scenario import BUILT_IN, Limits, Objectives, Scenario, Workload, load


def mistakes(tmp_path: Path, text: str, **flags: object) -> list[str]:
    (tmp_path / "s.yml").write_text(text)
    with pytest.raises(ConfigError) as error:
        load(str(tmp_path / "s.yml"), flags)
    return [mistake.replace(f"{tmp_path}/", "") for mistake in error.value.mistakes]


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_built_in_scenarios_are_right(name: str) -> None:
    scenario = load(name, {})
    assert (scenario.name, scenario.models) == (name, ("tinyllama:latest",))


def test_agents_174_is_the_fleet_that_the_objectives_were_made_for() -> None:
    scenario = load("agents-174", {})
    assert (scenario.users, scenario.weights) == (174, (50.0, 30.0, 20.0))
    assert (scenario.objectives.ttft_p95, scenario.objectives.ttft_p99, scenario.objectives.success) == (2.0, 5.0, 0.99)
    assert 25 <= cost(scenario).rate <= 50


def test_every_mistake_is_told_with_its_path(tmp_path: Path) -> None:
    text = """
model: tinyllama
usrs: 3
rate: -1
workloads:
- {name: a, api: chta, turns: 0, read_rate: 0}
- {name: b, model: 'gpt-oss:cloud', stream: 7}
objectives: {ttft_p95: -1s, succes: 0.9}
limits: {tokens: lots}
"""
    assert mistakes(tmp_path, text, duration="soon", abort_on="150%") == [
        "s.yml: usrs: unknown key, did you mean users?",
        "s.yml: rate: must be a number of requests a second above 0, got -1",
        "s.yml: workloads[0].api: must be one of chat, generate, embed, openai; got 'chta'",
        "s.yml: workloads[0].turns: must be a whole number from 1 to 200, got 0",
        "s.yml: workloads[0].read_rate: must be a number of bytes a second, 1 or more, got 0",
        "s.yml: workloads[1].model: is a model in the cloud, which somebody pays for: it is never asked",
        "s.yml: workloads[1].stream: must be true or false, got 7",
        "s.yml: objectives.succes: unknown key, did you mean success?",
        "s.yml: objectives.ttft_p95: must be > 0, got -1s",
        "s.yml: limits.tokens: must be a whole number from 1 to 1000000000000, got 'lots'",
        "--duration: must be a duration such as 15s, 500ms or 1h30m, or a number of seconds; got 'soon'",
        "--abort-on: must be a share such as 50% or 0.5, got '150%'",
    ]


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("model: m\nusers: 2\nrate: 3", "s.yml: rate: cannot be used together with users: one is a closed loop"),
        ("rate: 3", "s.yml: workloads[0].model: is missing, and neither `model` nor --model says which to ask"),
        ("model: m\nworkloads: []", "s.yml: workloads: names none"),
        ("model: m\nworkloads: [{name: a}, {name: a}]", "s.yml: workloads[1].name: workloads[0] is called 'a', too"),
        ("model: m\nshape: replay", "s.yml: trace: is missing: shape replay needs the arrivals"),
        ("model: m\nshape: replay\ntrace: nowhere.csv", "s.yml: trace: nowhere.csv cannot be read: No such file"),
        ("model: m\nsettle: 2m", "s.yml: settle: must be shorter than duration, or nothing is judged"),
        ("model: m\nworkloads: [{api: generate, turns: 3}]", "s.yml: workloads[0].turns: needs api chat or openai"),
        ("model: m\nphases: [{name: a, duration: 1s, start: 0, end: 0}]", "s.yml: phases[0].end: the level is 0 all"),
        ("- a", "s.yml: must be a mapping (key: value)"),
        ("a: [", "s.yml, line 1, column 5:"),
        ("model: m\nmodel: n", "s.yml, line 2, column 1: model is given twice"),
    ],
)  # fmt: skip
def test_what_does_not_fit_together_is_told(tmp_path: Path, text: str, mistake: str) -> None:
    found = mistakes(tmp_path, text)
    assert len(found) == 1
    assert found[0].startswith(mistake)


def test_a_trace_tells_the_lines_that_are_wrong(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("# seconds\n1.0\n0.5\nsoon\n2\n")
    assert mistakes(tmp_path, "model: m\nshape: replay\ntrace: t.csv") == [
        "s.yml: trace: t.csv, line 3: comes before the line above it",
        "s.yml: trace: t.csv, line 4: must be seconds from the beginning, got 'soon'",
    ]


def test_a_file_that_is_not_there_is_told_with_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere: cannot be read: .* none of the scenarios agents-174, smoke"):
        load("nowhere", {})


def test_flags_come_before_the_file(tmp_path: Path) -> None:
    (tmp_path / "s.yml").write_text(
        "model: m\nusers: 9\nphases: [{name: a, duration: 1s}]\nworkloads: [{model: other}]\n"
    )
    scenario = load(str(tmp_path / "s.yml"), {"rate": 3.0, "model": "mine", "duration": "7s"}, {"tokens": 5})
    assert (scenario.users, scenario.rate, scenario.models) == (None, 3.0, ("mine:latest",))
    assert (scenario.course.seconds, scenario.limits.tokens) == (7.0, 5)


def test_the_example_in_the_documentation_is_right_and_shows_every_key(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "load-testing.md").read_text("utf-8")
    example = next(block for block in re.findall(r"```yaml\n(.*?)```", text, re.S) if "workloads:" in block)
    (tmp_path / "s.yml").write_text(example)
    assert load(str(tmp_path / "s.yml"), {}).users == 40
    for cls in (Scenario, Workload, Objectives, Limits):
        assert [each.name for each in fields(cls) if each.name not in example] == []


# --- safety -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "own"),
    [
        ("127.0.0.1", True), ("::1", True), ("10.1.2.3", True), ("192.168.1.9", True), ("172.16.0.1", True),
        ("fd00::1", True), ("fe80::1%eth0", True), ("0.0.0.0", True), ("::ffff:10.0.0.1", True), ("8.8.8.8", False),
        ("2600::1", False), ("100.64.0.1", False), ("::ffff:8.8.8.8", False),
    ],
)  # fmt: skip
def test_what_counts_as_ones_own(address: str, own: bool) -> None:
    assert ours(address) is own


def test_strangers_are_refused_unless_somebody_owns_them() -> None:
    names = {"here": ["127.0.0.1"], "there": ["10.0.0.1", "8.8.8.8"]}

    def resolve(host: str) -> list[str]:
        if host not in names:
            raise OSError
        return names[host]

    urls = ["http://here:1", "http://there:1", "http://nowhere:1"]
    places, refusals = located(urls, False, resolve)
    assert [place.address for place in places] == ["127.0.0.1"]
    assert "8.8.8.8 is neither this machine nor in a private network" in refusals[0]
    assert "--i-own-this-server" in refusals[0]
    assert refusals[1] == "http://nowhere:1: the name nowhere is not known here"
    assert [place.url for place in located(urls[:2], True, resolve)[0]] == urls[:2]


def test_what_is_beyond_the_limits_is_told_with_the_flag_that_raises_them() -> None:
    scenario = load("smoke", {"rate": 5000.0, "duration": "9h"}, {"tokens": 1000})
    found = list(beyond(scenario, cost(scenario)))
    assert [line.rpartition("--")[2].split()[0] for line in found] == ["max-rate", "max-duration", "max-tokens"]
    users = load("agents-174", {"users": 20_000})
    assert any("--max-concurrency" in line for line in beyond(users, cost(users)))


def test_the_cost_of_an_open_loop_is_what_it_offers() -> None:
    expected = cost(load("smoke", {"rate": 10.0, "duration": "60s"}))
    assert (expected.requests, expected.prompt_tokens, expected.tokens) == (600, 12_000, 9_600)
    assert expected.text() == "about 600 requests, 12,000 tokens of prompts and up to 9,600 of answers in 1m"


def test_connections_are_bounded_by_files(monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    raised: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda which: (1024, 2048))
    monkeypatch.setattr(resource, "setrlimit", lambda which, limits: raised.append(limits))
    assert connections_possible(5000) == 2048 - 64
    assert raised == [(2048, 2048)]
    assert connections_possible(500) == 500
