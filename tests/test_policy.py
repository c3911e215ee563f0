"""The policy file: read strictly, every mistake with its place, and its content part of what is watched."""

from __future__ import annotations

from pathlib import Path

import pytest

from exporter.config import Config, ConfigError, load, plan
from exporter.model import AuditSettings, LogSettings, Policy, Watch

WHOLE = """\
required_models: [tinyllama, "llama3.2:3b"]
allowed_models: [tinyllama, "llama3.2:*"]
max_context: 8192
max_parallel: 50
max_keep_alive: 1h
"""


def read(folder: Path, policy: str | None, rest: str = "") -> Config:
    (folder / "exporter.yml").write_text(
        "servers: [{url: 'http://a:11434', name: a}]\n"
        + ("audit: {policy_file: policy.yml}\n" if policy is not None else "")
        + rest
    )
    if policy is not None:
        (folder / "policy.yml").write_text(policy)
    return load(str(folder / "exporter.yml"), {})


def watches(config: Config) -> list[Watch]:
    return [watch for watch in plan(config) if watch.source == "audit"]


def settings(config: Config) -> AuditSettings:
    (watch,) = watches(config)
    assert isinstance(watch.settings, AuditSettings)
    return watch.settings


def test_the_whole_policy_reaches_the_watch(tmp_path: Path) -> None:
    assert settings(read(tmp_path, WHOLE)).policy == Policy(
        ("tinyllama:latest", "llama3.2:3b"), ("tinyllama:latest", "llama3.2:*"), 8192, 50, 3600.0
    )


def test_without_a_file_and_with_an_empty_rule_nothing_is_wished(tmp_path: Path) -> None:
    assert settings(read(tmp_path, None)).policy == Policy()
    assert settings(read(tmp_path, "required_models: []\n")).policy == Policy()


def test_what_is_in_force_shows_the_path_and_its_hash_the_content(tmp_path: Path) -> None:
    before = read(tmp_path, WHOLE)
    assert before.effective()["audit"] == {"mode": "auto", "policy_file": str(tmp_path / "policy.yml")}
    after = read(tmp_path, WHOLE.replace("50", "40"))
    assert after.effective() == before.effective()
    assert after.hash != before.hash
    assert watches(after) != watches(before)


@pytest.mark.parametrize(
    ("policy", "mistake"),
    [
        ("max_paralel: 3\n", "audit.policy_file.max_paralel: unknown key, did you mean max_parallel?"),
        ("max_parallel: many\n", "audit.policy_file.max_parallel: must be a whole number from 1 to 10000, got 'many'"),
        ("required_models: [a b]\n", "audit.policy_file.required_models[0]: must be the name of a model"),
        ("allowed_models: tinyllama\n", "audit.policy_file.allowed_models: must be a list (- ...), got text"),
        ("max_keep_alive: 0\n", "audit.policy_file.max_keep_alive: must be > 0, got 0"),
        ("max_context: 1\nmax_context: 2\n", "policy.yml: line 2, column 1: max_context is given twice"),
        ("- a\n", "audit.policy_file: must be a mapping (key: value), got a list"),
    ],
    ids=["key", "number", "name", "list", "duration", "twice", "shape"],
)
def test_a_mistake_is_told_with_its_place(tmp_path: Path, policy: str, mistake: str) -> None:
    with pytest.raises(ConfigError) as error:
        read(tmp_path, policy)
    (line,) = error.value.mistakes
    assert mistake in line


def test_a_file_that_is_not_there_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "policies").mkdir()
    with pytest.raises(ConfigError, match=r"policies/none\.yml is not there"):
        read(tmp_path, None, "audit: {policy_file: policies/none.yml}\n")


def test_what_is_off_is_not_asked(tmp_path: Path) -> None:
    assert watches(read(tmp_path, None, "audit: {mode: off}\n")) == []
    assert settings(read(tmp_path, None, "docker: {mode: off}\n")).docker is None
    on = read(tmp_path, None, "audit: {mode: on}\n")
    assert [watch.optional for watch in watches(on)] == [False]


def test_only_a_log_that_somebody_named_is_read(tmp_path: Path) -> None:
    assert settings(read(tmp_path, None)).log is None
    server = "servers: [{url: 'http://a:11434', name: a, logs: {file: /var/log/ollama.log}}]\n"
    (tmp_path / "exporter.yml").write_text(server)
    log = settings(load(str(tmp_path / "exporter.yml"), {})).log
    assert isinstance(log, LogSettings)
    assert log.file == "/var/log/ollama.log"
    (tmp_path / "exporter.yml").write_text(server + "logs: {mode: off}\n")
    assert settings(load(str(tmp_path / "exporter.yml"), {})).log is None
