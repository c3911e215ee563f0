"""The audit source: a server's environment as each of three places tells it, and its API over a stand-in transport."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from exporter import catalog
from exporter.dockerd import Container, Daemon
from exporter.environment import PROBLEMS
from exporter.fleet import Observer
from exporter.local import Connections, Place, RunnerProcess
from exporter.model import AuditSettings, Endpoint, Family, Lacking, LogSettings, Policy, Reading, Watch
from exporter.ollama import Client
from exporter.sources import SOURCES, Surroundings, build
from exporter.sources.audit import AuditSource

ENDPOINT = Endpoint("http://a:11434")
SERVER_CONFIG = (
    'time=2026-11-23T17:48:56.720Z level=INFO source=routes.go:1951 msg="server config" env="map['
    "OLLAMA_CONTEXT_LENGTH:0 OLLAMA_FLASH_ATTENTION:false OLLAMA_KEEP_ALIVE:5m0s OLLAMA_KV_CACHE_TYPE:"
    " OLLAMA_MAX_LOADED_MODELS:1"
    ' OLLAMA_MAX_QUEUE:8 OLLAMA_NUM_PARALLEL:4 OLLAMA_ORIGINS:[http://localhost]]"\n'
)


class Api(httpx.AsyncBaseTransport):
    """What the server answers; None: it does not."""

    def __init__(self, version: str | None = "0.33.0") -> None:
        self.version = version
        self.loaded: list[dict[str, Any]] = []
        self.installed: list[str] = ["llama3.2:3b"]
        self.asked: list[str] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request.url.path)
        if self.version is None:
            raise httpx.ConnectError("refused")
        answers: dict[str, object] = {
            "/api/version": {"version": self.version},
            "/api/ps": {"models": [{"digest": "d" * 64, **row} for row in self.loaded]},
            "/api/tags": {"models": [{"name": name, "digest": "d" * 64, "size": 1} for name in self.installed]},
        }
        return httpx.Response(200, json=answers[request.url.path])


class Machine:
    """`environment`: that of the server's process; None: it cannot be seen."""

    def __init__(self, environment: Mapping[str, str] | None, *runners: RunnerProcess) -> None:
        self.told, self.found, self.gone = environment, runners, False

    def place(self, url: str) -> Place:
        if self.gone:
            raise LookupError("nobody listens there")
        if self.told is None:
            raise Lacking("a is not seen on this machine", "run an exporter on its machine")
        return Place((("127.0.0.1", 11434),), pid=1)

    def environment(self, place: Place) -> Mapping[str, str]:
        return self.told or {}

    def runners(self, place: Place) -> tuple[RunnerProcess, ...]:
        return self.found

    def names(self, place: Place, blob: str) -> tuple[str, ...]:
        raise AssertionError("not asked for")

    def connections(self, place: Place) -> Connections:
        raise AssertionError("not asked for")

    def connect(self, place: Place, port: int, timeout: float) -> Any:
        raise AssertionError("not asked for")


class Engine(Daemon):
    """A Docker engine that has one container, or none."""

    def __init__(self, container: Container | None) -> None:
        super().__init__("unix:///nowhere")
        self._one = container

    def server(self, url: str, name: str = "") -> Container:
        if self._one is None:
            raise Lacking("there is no Docker socket here", "mount it")
        return self._one


def container(environment: Mapping[str, str], state: str = "running") -> Container:
    return Container(id="c" * 64, name="ollama", image="ollama/ollama", state=state, environment=environment)


class Scene:
    def __init__(
        self,
        environment: Mapping[str, str] | None = None,
        *runners: RunnerProcess,
        inside: Container | None = None,
        log: LogSettings | None = None,
        policy: Policy | None = None,
        docker: str | None = "",
    ) -> None:
        self.api, self.machine = Api(), Machine(environment, *runners)
        watch = Watch("a", "audit", 60.0, 26.0, AuditSettings(ENDPOINT, "", docker, log, policy or Policy()), True)
        self.source = AuditSource(watch, Client(ENDPOINT, self.api), self.machine, lambda _: Engine(inside))
        self.observer = Observer(watch, self.source, SOURCES["audit"].reasons, lambda: 1000.0)

    def observe(self, times: int = 1) -> Seen:
        async def look() -> Reading:
            for _ in range(times - 1):
                await self.observer.observe()
            return await self.observer.observe()

        return Seen(asyncio.run(look()))


class Seen:
    """A reading, asked by family; the label server is understood."""

    def __init__(self, reading: Reading) -> None:
        self.reading, self.failure = reading, reading.failure

    def __call__(self, family: Family) -> dict[tuple[str, ...], float]:
        found: dict[tuple[str, ...], float] = {}
        for sample in self.reading.samples:
            assert isinstance(sample.value, int | float)
            assert sample.labels[0] == "a"
            if sample.family is family:
                assert sample.labels[1:] not in found, "a series twice"
                found[sample.labels[1:]] = sample.value
        return found

    def problems(self) -> set[str]:
        return {problem for (problem,), holds in self(catalog.CONFIG_PROBLEM).items() if holds}

    def violations(self) -> dict[str, bool]:
        return {rule: bool(broken) for (rule,), broken in self(catalog.POLICY_VIOLATION).items()}


# --- where settings are seen -----------------------------------------------------------------------------------------


def test_the_environment_of_the_process_is_what_is_in_force() -> None:
    environment = {
        "OLLAMA_NUM_PARALLEL": "4",
        "OLLAMA_MAX_QUEUE": "64",
        "OLLAMA_MAX_LOADED_MODELS": "3",
        "OLLAMA_KEEP_ALIVE": "10m",
        "OLLAMA_CONTEXT_LENGTH": "8192",
        "OLLAMA_FLASH_ATTENTION": "1",
        "OLLAMA_KV_CACHE_TYPE": "q8_0",
        "OLLAMA_QUEUE_SIZE": "500",
    }
    seen = Scene(environment, inside=container({"OLLAMA_NUM_PARALLEL": "9"})).observe()
    assert seen.failure is None
    assert seen(catalog.CONFIG_INFO) == {("process", "on", "q8_0"): 1.0}
    assert seen(catalog.CONFIG_PARALLEL) == {(): 4.0}
    assert seen(catalog.CONFIG_MAX_QUEUE) == {(): 64.0}
    assert seen(catalog.CONFIG_MAX_LOADED) == {(): 3.0}
    assert seen(catalog.CONFIG_KEEP_ALIVE) == {(): 600.0}
    assert seen(catalog.CONFIG_CONTEXT) == {(): 8192.0}
    assert seen(catalog.CONFIG_IGNORED) == {("OLLAMA_QUEUE_SIZE", "OLLAMA_MAX_QUEUE"): 1.0}
    assert seen(catalog.CONFIG_IGNORED_COUNT) == {(): 1.0}
    assert seen.problems() == set()
    assert seen(catalog.POLICY_VIOLATION) == {}


def test_where_the_process_is_out_of_sight_its_containers_environment_tells() -> None:
    inside = container({"OLLAMA_NUM_PARALLEL": "2", "LLAMA_API_KEY": ""})
    seen = Scene(None, inside=inside).observe()
    assert seen(catalog.CONFIG_INFO) == {("container", "auto", "f16"): 1.0}
    assert seen(catalog.CONFIG_PARALLEL) == {(): 2.0}
    assert seen.problems() == {"runner_key"}


def test_after_them_the_log_tells_what_the_server_has_read(tmp_path: Path) -> None:
    log = tmp_path / "serve.log"
    log.write_text("starting\n" + SERVER_CONFIG.replace("PARALLEL:4", "PARALLEL:9") + SERVER_CONFIG + "later\n")
    seen = Scene(None, log=LogSettings(ENDPOINT.url, file=str(log))).observe()
    assert seen(catalog.CONFIG_INFO) == {("log", "off_or_auto", "f16"): 1.0}
    assert seen(catalog.CONFIG_PARALLEL) == {(): 4.0}
    assert seen(catalog.CONFIG_MAX_QUEUE) == {(): 8.0}
    assert seen(catalog.CONFIG_KEEP_ALIVE) == {(): 300.0}
    assert seen(catalog.CONFIG_IGNORED_COUNT) == {}, "the line holds only what is read"
    assert ("invalid_value",) not in seen(catalog.CONFIG_PROBLEM)


@pytest.mark.parametrize("docker", ["", None])
def test_where_nothing_can_be_seen_it_is_blind_and_says_why(docker: str | None) -> None:
    scene = Scene(None, docker=docker)
    seen = scene.observe()
    assert seen.reading.blind
    assert seen.reading.samples == ()
    assert scene.api.asked == [], "nothing to compare with"
    (lack,) = seen.reading.lacks
    assert (lack.what, lack.remedy) == (
        "the server's settings: a is not seen on this machine",
        "run an exporter on its machine",
    )


def test_a_log_that_does_not_reach_back_is_a_lack(tmp_path: Path) -> None:
    log = tmp_path / "serve.log"
    log.write_text("only this\n")
    assert Scene(None, log=LogSettings(ENDPOINT.url, file=str(log))).observe().reading.blind


def test_a_server_that_is_down_shows_no_settings() -> None:
    scene = Scene({"OLLAMA_NUM_PARALLEL": "4"})
    assert scene.observe()(catalog.CONFIG_PARALLEL) == {(): 4.0}
    scene.machine.gone = True
    seen = scene.observe()
    assert seen.failure == "unavailable"
    assert seen.reading.samples == ()


def test_a_container_that_has_ended_has_no_settings_in_force() -> None:
    seen = Scene(None, inside=container({"OLLAMA_NUM_PARALLEL": "2"}, state="exited")).observe()
    assert seen.failure == "unavailable"
    assert seen.reading.samples == ()


def test_an_api_that_does_not_answer_takes_only_what_depends_on_the_version() -> None:
    scene = Scene({"OLLAMA_QUEUE_SIZE": "1", "OLLAMA_MAX_QUEUE": "7"})
    scene.api.version = None
    seen = scene.observe()
    assert seen.failure is None
    assert seen(catalog.CONFIG_MAX_QUEUE) == {(): 7.0}
    assert seen(catalog.CONFIG_IGNORED) == seen(catalog.CONFIG_IGNORED_COUNT) == seen(catalog.CONFIG_PARALLEL) == {}


# --- names and values ------------------------------------------------------------------------------------------------


def test_no_more_than_20_names_are_shown_and_all_are_counted() -> None:
    names = {f"OLLAMA_{chr(65 + n // 26)}{chr(65 + n % 26)}": "1" for n in range(30)}
    seen = Scene(names).observe()
    assert len(seen(catalog.CONFIG_IGNORED)) == 20
    assert seen(catalog.CONFIG_IGNORED_COUNT) == {(): 30.0}


def test_a_value_that_cannot_be_read_is_named_and_never_shown() -> None:
    seen = Scene({"OLLAMA_MAX_QUEUE": "hunter2"}).observe()
    assert seen(catalog.CONFIG_MAX_QUEUE) == {(): 512.0}
    assert seen(catalog.CONFIG_INVALID) == {("OLLAMA_MAX_QUEUE",): 1.0}
    assert seen.problems() == {"invalid_value"}
    assert "hunter2" not in repr(seen.reading.samples)


# --- what hurts ------------------------------------------------------------------------------------------------------


def runner(*arguments: str) -> RunnerProcess:
    return RunnerProcess(40000, 7, ("llama-server", "--model", "/blobs/sha256-aa", *arguments))


@pytest.mark.parametrize(
    ("environment", "problem"),
    [
        ({"OLLAMA_KEEP_ALIVE": "0"}, "keep_alive_zero"),
        ({"OLLAMA_DEBUG_LOG_REQUESTS": "1"}, "requests_logged"),
        ({"LLAMA_API_KEY": ""}, "runner_key"),
        ({"LLAMA_SERVER_SLOTS_DEBUG": "1"}, "slots_debug"),
        ({"OLLAMA_NUM_PARALLEL": "many"}, "invalid_value"),
    ],
)
def test_settings_that_hurt(environment: Mapping[str, str], problem: str) -> None:
    assert Scene(environment).observe().problems() == {problem}


def test_every_problem_can_be_told_and_none_holds_of_an_empty_environment() -> None:
    seen = Scene({}).observe()
    assert {problem for (problem,) in seen(catalog.CONFIG_PROBLEM)} == set(PROBLEMS)
    assert seen.problems() == set()


@pytest.mark.parametrize(
    ("parallel", "arguments", "forced"),
    [("4", ("-np", "1"), True), ("4", ("-np", "4"), False), ("1", ("-np", "1"), False), ("4", (), False),
     ("4", ("--parallel", "1"), True)],
)  # fmt: skip
def test_a_runner_that_was_forced_to_one_slot(parallel: str, arguments: tuple[str, ...], forced: bool) -> None:
    seen = Scene({"OLLAMA_NUM_PARALLEL": parallel}, runner("-np", parallel), runner(*arguments)).observe()
    assert seen(catalog.CONFIG_PROBLEM)[("parallel_forced_to_1",)] == forced


@pytest.mark.parametrize(
    ("parallel", "vram", "beside"), [("4", 60, True), ("4", 100, False), ("4", 0, False), ("1", 60, False)]
)
def test_slots_beside_a_model_that_is_partly_on_the_cpu(parallel: str, vram: int, beside: bool) -> None:
    scene = Scene({"OLLAMA_NUM_PARALLEL": parallel})
    scene.api.loaded = [{"name": "llama3.2:3b", "size": 100, "size_vram": vram}]
    assert scene.observe()(catalog.CONFIG_PROBLEM)[("parallel_beside_cpu",)] == beside


def test_from_a_container_nothing_is_said_of_runners() -> None:
    seen = Scene(None, inside=container({"OLLAMA_NUM_PARALLEL": "4"})).observe()
    assert ("parallel_forced_to_1",) not in seen(catalog.CONFIG_PROBLEM)


# --- the policy ------------------------------------------------------------------------------------------------------

POLICY = Policy(("tinyllama:latest",), ("tinyllama:latest", "llama3.2:*"), 8192, 4, 3600.0)


def test_a_server_that_keeps_the_policy() -> None:
    scene = Scene({"OLLAMA_NUM_PARALLEL": "4", "OLLAMA_CONTEXT_LENGTH": "8192"}, policy=POLICY)
    scene.api.installed = ["tinyllama:latest", "llama3.2:3b"]
    assert scene.observe().violations() == {
        "required_model_missing": False,
        "model_not_allowed": False,
        "context_above_limit": False,
        "parallel_above_limit": False,
        "keep_alive_above_limit": False,
    }


def test_each_rule_can_be_broken() -> None:
    environment = {"OLLAMA_NUM_PARALLEL": "5", "OLLAMA_CONTEXT_LENGTH": "8193", "OLLAMA_KEEP_ALIVE": "-1"}
    scene = Scene(environment, policy=POLICY)
    scene.api.installed = ["deepseek-r1:70b"]
    violations = scene.observe().violations()
    assert len(violations) == 5
    assert all(violations.values())


def test_a_loaded_model_breaks_the_limit_of_context_too() -> None:
    scene = Scene({}, policy=Policy(max_context=8192))
    scene.api.loaded = [{"name": "llama3.2:3b", "size": 100, "size_vram": 100, "context_length": 131072}]
    assert scene.observe().violations() == {"context_above_limit": True}


def test_models_of_a_server_that_is_elsewhere_are_held_to_the_policy_all_the_same() -> None:
    seen = Scene(None, policy=POLICY).observe()
    assert seen.failure is None
    assert seen.violations() == {
        "required_model_missing": True, "model_not_allowed": False, "context_above_limit": False,
    }  # fmt: skip
    assert len(seen.reading.lacks) == 1


def test_installed_models_are_asked_for_every_five_minutes_and_only_for_a_policy() -> None:
    scene = Scene({}, policy=POLICY)
    scene.observe(3)
    assert scene.api.asked.count("/api/tags") == 1
    without = Scene({})
    without.observe(3)
    assert set(without.api.asked) == {"/api/version", "/api/ps"}


# --- threads and tables ----------------------------------------------------------------------------------------------


def test_looks_do_not_pile_up() -> None:
    scene = Scene({})
    entered, free = threading.Event(), threading.Event()

    def hang(place: Place) -> Mapping[str, str]:
        entered.set()
        free.wait(30)
        return {}

    async def look_twice() -> tuple[Reading, Reading]:
        first = asyncio.create_task(scene.observer.observe())
        await asyncio.to_thread(entered.wait, 30)
        second = await scene.observer.observe()
        free.set()
        return await first, second

    scene.machine.environment = hang  # type: ignore[method-assign]
    first, second = asyncio.run(look_twice())
    assert (first.failure, second.failure) == (None, "timeout")


def test_every_family_of_the_audit_is_emitted() -> None:
    seen = Scene({"OLLAMA_QUEUE_SIZE": "1", "OLLAMA_KEEP_ALIVE": "x"}, policy=POLICY).observe()
    families = {sample.family.name for sample in seen.reading.samples}
    ours = ("ollama_config_", "ollama_policy_")
    assert families == {family.name for family in catalog.FAMILIES if family.name.startswith(ours)}


def test_the_table_of_sources_builds_it() -> None:
    watch = Watch("a", "audit", 60.0, 26.0, AuditSettings(ENDPOINT))
    assert isinstance(build(watch, Surroundings(machine=Machine(None))), AuditSource)
