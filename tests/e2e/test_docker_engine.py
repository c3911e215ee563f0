"""The docker source and discovery on a real Docker Engine, with simulated servers in its containers.

Needs root and docker.io, so it asks to be asked: E2E_DOCKER=1. The engine is our own, in a network namespace of its
own: nothing here can reach its containers, and nothing needs to, because the engine alone is asked.
"""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from exporter import catalog, discovery
from exporter.config import load
from exporter.discovery.targets import Found
from exporter.model import DockerSettings, Failed, Family, Partial, Sample, Watch
from exporter.sources.docker import DockerSource
from tests.e2e import images
from tests.e2e.engine import Engine, Unobtainable, engine

pytestmark = [
    pytest.mark.skipif(
        not os.environ.get("E2E_DOCKER"),
        reason="DOCKER WAS NOT ASKED: set E2E_DOCKER=1 (needs root, docker.io, debootstrap and some minutes)",
    ),
    pytest.mark.timeout(600),
]

_HOG = "hog = [bytearray(10_000_000) for _ in range(100)]"
_PYTHON = "/opt/ollama-exporter/bin/python"


@pytest.fixture(scope="module")
def built() -> Iterator[tuple[Engine, str]]:
    with tempfile.TemporaryDirectory(prefix="e2e-", dir="/tmp") as folder:
        try:
            with engine(Path(folder)) as running:
                yield running, images.build_ollama(running, Path(folder))
        except Unobtainable as reason:
            pytest.skip(f"DOCKER WAS NOT ASKED: {reason}")


@dataclass(slots=True)
class World:
    engine: Engine
    image: str

    def run(self, name: str, *options: str) -> None:
        settings = ("-e", "OLLAMA_NUM_PARALLEL=2", "-e", "OLLAMA_MAX_QUEUE=8", "-e", "OLLAMA_MODELS=/tmp")
        self.engine.docker("run", "-d", "--name", name, *settings, *options, self.image)

    def inspected(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.engine.docker("inspect", name))[0]
        return found

    def address(self, name: str) -> str:
        return str(self.inspected(name)["NetworkSettings"]["IPAddress"])

    def watch(self, url: str, container: str = "") -> Watched:
        settings = DockerSettings(url, container, self.engine.host)
        return Watched(DockerSource(Watch("a", "docker", 15.0, 10.0, settings, optional=True)))


class Watched:
    """One look at a time; the engine's clock is the real one, so a look waits until its second is over."""

    def __init__(self, source: DockerSource) -> None:
        self._source = source
        self.failure = ""

    def look(self) -> dict[tuple[Family, tuple[str, ...]], Any]:
        time.sleep(1.1)  # events are asked for in whole seconds that have passed
        self.failure = ""
        try:
            seen = self._source._look()
        except Failed as failed:
            self.failure, seen = failed.reason, failed.samples
        samples: tuple[Sample, ...] = seen.samples if isinstance(seen, Partial) else tuple(seen)
        return {(sample.family, sample.labels[1:]): sample.value for sample in samples}

    def close(self) -> None:
        self._source._daemon.close()


@pytest.fixture
def world(built: tuple[Engine, str]) -> Iterator[World]:
    found = World(*built)
    try:
        yield found
    finally:
        names = found.engine.docker("ps", "-aq").split()
        if names:
            found.engine.docker("rm", "-f", *names)


def until(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + 60
    while not (found := condition()):
        assert time.monotonic() < deadline, what
        time.sleep(0.2)
    return found


def state(seen: dict[tuple[Family, tuple[str, ...]], Any]) -> list[str]:
    return [labels[0] for (family, labels), value in seen.items() if family is catalog.CONTAINER_STATE and value]


def test_a_container_is_found_by_its_address_and_told_as_it_was_made(world: World) -> None:
    world.run("ollama", "--memory=200m", "--cpus=1.5", "-p", "127.0.0.1:2001:11434")
    watched = world.watch(f"http://{world.address('ollama')}:11434")
    try:
        seen = watched.look()
        assert state(seen) == ["running"]
        assert (catalog.CONTAINER_INFO, ("ollama", world.image)) in seen
        assert seen[catalog.CONTAINER_CPU_LIMIT, ()] == 1.5
        assert seen[catalog.CONTAINER_MEMORY_LIMIT, ()] == 200 * 1024 * 1024
        assert 5e6 < seen[catalog.CONTAINER_MEMORY, ()] < 200e6
        assert abs(seen[catalog.CONTAINER_START, ()] - time.time()) < 60
        before = seen[catalog.CONTAINER_CPU, ()]
        world.engine.docker("exec", "ollama", _PYTHON, "-c", "sum(range(30_000_000))")
        used = watched.look()[catalog.CONTAINER_CPU, ()] - before
        assert 0.1 < used < 20
    finally:
        watched.close()


def test_a_cpu_quota_that_is_used_up_is_seen(world: World) -> None:
    world.run("ollama", "--cpus=0.2")
    watched = world.watch("", "ollama")
    try:
        watched.look()
        world.engine.docker("exec", "ollama", _PYTHON, "-c", "sum(range(10_000_000))")
        seen = watched.look()
        assert seen[catalog.CONTAINER_CPU_THROTTLED_PERIODS, ()] > 0
        assert seen[catalog.CONTAINER_CPU_THROTTLED, ()] > 0
    finally:
        watched.close()


def test_oom_kills_of_a_process_in_a_living_container_are_counted(world: World) -> None:
    world.run("ollama", "--memory=120m", "--memory-swap=120m")
    watched = world.watch("", "ollama")
    try:
        assert watched.look()[catalog.CONTAINER_OOM_KILLS, ()] == 0
        for _ in range(2):
            world.engine.docker("exec", "ollama", _PYTHON, "-c", _HOG, check=False)
        seen = watched.look()
        told = watched._source._history._runs if watched._source._history else []
        assert seen[catalog.CONTAINER_OOM_KILLS, ()] == 2, f"kernel and engine: {told}"
        assert state(seen) == ["running"]
        assert seen[catalog.CONTAINER_RESTARTS, ()] == 0
    finally:
        watched.close()


def test_a_container_that_is_killed_for_want_of_memory_says_so(world: World) -> None:
    hog = ("--memory=60m", "--memory-swap=60m", "--restart=on-failure:2", "--entrypoint", _PYTHON)
    watched = world.watch("", "ollama")
    world.engine.docker("create", "--name", "ollama", *hog, world.image, "-c", f"import time; time.sleep(4); {_HOG}")
    try:
        watched.look()
        world.engine.docker("start", "ollama")
        until(lambda: world.inspected("ollama")["State"]["Status"] == "exited", "two restarts, then no more")
        seen = watched.look()
        assert state(seen) == ["exited"]
        assert seen[catalog.CONTAINER_EXIT_CODE, ()] == 137
        assert seen[catalog.CONTAINER_RESTARTS, ()] == 3
        assert seen[catalog.CONTAINER_OOM_KILLS, ()] == 3
    finally:
        watched.close()


def test_kills_restarts_and_replacement_between_two_looks_are_counted(world: World) -> None:
    world.run("ollama", "--restart=always")
    watched = world.watch("", "ollama")
    try:
        watched.look()
        for _ in range(3):
            world.engine.docker("restart", "-t", "5", "ollama")
        assert watched.look()[catalog.CONTAINER_RESTARTS, ()] == 3
        world.engine.docker("kill", "ollama")
        seen = watched.look()
        assert state(seen) == ["exited"]
        assert seen[catalog.CONTAINER_EXIT_CODE, ()] == 137
        world.engine.docker("start", "ollama")
        assert watched.look()[catalog.CONTAINER_RESTARTS, ()] == 4
        world.engine.docker("rm", "-f", "ollama")
        assert watched.look()[catalog.CONTAINER_RESTARTS, ()] == 4
        assert watched.failure == "unavailable"
        world.run("ollama")
        seen = watched.look()
        assert watched.failure == ""
        assert seen[catalog.CONTAINER_RESTARTS, ()] == 5
    finally:
        watched.close()


def test_discovery_follows_what_is_run_killed_and_removed(world: World, tmp_path: Path) -> None:
    (tmp_path / "exporter.yml").write_text(f"discovery: [{{docker: {{images: ['{world.image}']}}}}]")
    (entry,) = load(str(tmp_path / "exporter.yml"), {}).discovery
    world.engine.docker("network", "create", "fleet")
    world.run("one", "-p", "127.0.0.1:2001:11434", "--label", "ollama-exporter.name=primary")
    world.run(
        "two", "--network=fleet", "--label=com.docker.compose.project=llm", "--label=com.docker.compose.service=b"
    )
    world.run("left", "--label", "ollama-exporter.enable=false")
    finder = discovery.finder(entry, world.engine.host)

    def found() -> set[Found]:
        looked = asyncio.run(discovery.look(finder, entry, ()))
        assert not looked.seen.troubles
        return set(looked.answer.found)

    try:
        address = world.inspected("two")["NetworkSettings"]["Networks"]["fleet"]["IPAddress"]
        both = {
            Found("primary", "http://127.0.0.1:2001", "one"),
            Found("llm-b", f"http://{address}:11434", "two"),
        }
        assert found() == both
        world.engine.docker("kill", "two")
        assert found() == both
        world.engine.docker("rm", "two")
        assert {one.name for one in found()} == {"primary"}
    finally:
        asyncio.run(finder.aclose())
        world.engine.docker("rm", "-f", "one")
        world.engine.docker("network", "rm", "fleet")


def test_the_engine_is_restarted_and_nothing_that_was_counted_is_lost(built: tuple[Engine, str]) -> None:
    assert built, "what a second engine needs is there"
    with tempfile.TemporaryDirectory(prefix="e2e-", dir="/tmp") as name:
        folder = Path(name)
        with engine(folder) as first:
            images.import_base(first)
            options = ("--name=ollama", "--restart=always", "--stop-signal=KILL")
            first.docker("run", "-d", *options, images.BASE, "sleep", "1000")
            settings = DockerSettings("", "ollama", first.host)
            watched = Watched(DockerSource(Watch("a", "docker", 15.0, 10.0, settings, optional=True)))
            watched.look()
            first.docker("restart", "-t", "0", "ollama")
            assert watched.look()[catalog.CONTAINER_RESTARTS, ()] == 1
        seen = watched.look()
        assert watched.failure == "unavailable"
        assert seen[catalog.CONTAINER_RESTARTS, ()] == 1
        assert state(seen) == []
        with engine(folder) as second:
            until(lambda: second.docker("ps", "-q"), "the container is started again with its engine")
            until(lambda: watched.look().get((catalog.CONTAINER_RESTARTS, ())) == 2, "the start that no event told")
            assert watched.failure == ""
        watched.close()


def test_an_exporter_in_a_container_finds_its_neighbours_by_name(world: World, tmp_path: Path) -> None:
    settings = f"discovery: [{{every: 5s, docker: {{images: ['{world.image}']}}}}]\ncanary: {{mode: off}}\n"
    (tmp_path / "exporter.yml").write_text(settings)
    socket = world.engine.host.removeprefix("unix://")
    mounts = ("-v", f"{socket}:/var/run/docker.sock:ro", "-v", f"{tmp_path}:/etc/ollama-exporter:ro")
    world.engine.docker("network", "create", "fleet")
    try:
        world.run("gpu1", "--network=fleet")
        world.run("far", "--network=none")
        command = ("--entrypoint", "/opt/ollama-exporter/bin/ollama-exporter", "--label=ollama-exporter.enable=false")
        config = ("-e", "OLLAMA_EXPORTER_CONFIG_FILE=/etc/ollama-exporter/exporter.yml")
        world.engine.docker(
            "run", "-d", "--name=exporter", "--network=fleet", *mounts, *command, *config, world.image, "run"
        )
        ask = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:8082/metrics').read().decode())"

        def page() -> str:
            return world.engine.docker("exec", "exporter", _PYTHON, "-c", ask, check=False)

        wanted = (
            'ollama_up{server="gpu1"} 1.0',
            'ollama_server_info{server="gpu1",url="http://gpu1:11434"} 1.0',
            'ollama_container_state{server="gpu1",state="running"} 1.0',
            'ollama_exporter_discovery_left_out{discovery="docker",reason="unreachable"} 1.0',
        )
        until(lambda: all(line in page() for line in wanted), f"{wanted} on the page")
        world.engine.docker("kill", "gpu1")
        down = ('ollama_up{server="gpu1"} 0.0', 'ollama_container_last_exit_code{server="gpu1"} 137.0')
        until(lambda: all(line in page() for line in down), f"{down} on the page")
        world.engine.docker("rm", "gpu1")
        until(lambda: 'server="gpu1"' not in page(), "its series go with it")
    finally:
        world.engine.docker("rm", "-f", "gpu1", "exporter", check=False)
        world.engine.docker("network", "rm", "fleet", check=False)
