"""Servers found among containers: who is one, under what name, where we reach it, and how the fleet takes it."""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from exporter import app, catalog, dockerd
from exporter.config import Config, Server, load, plan
from exporter.config.loading import ConfigError
from exporter.config.places import DockerSd
from exporter.discovery.docker import DockerFinder, place, server_name, wanted
from exporter.discovery.targets import Answer, Found, Trouble, admitted, answered
from exporter.dockerd import Container, Here, Network, Published, Row
from exporter.model import Watch
from exporter.sources import Surroundings
from exporter.sources.own import LEFT_OUT, DiscoveryVitals
from tests.docker_engine import FakeEngine, fake_engine

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="docker-", dir="/tmp") as name:
        yield Path(name)


@pytest.fixture
def engine(folder: Path) -> Iterator[FakeEngine]:
    with fake_engine(folder) as found:
        yield found


def configured(folder: Path, text: str) -> Config:
    (folder / "exporter.yml").write_text(text)
    return load(str(folder / "exporter.yml"), {})


def docker_sd(folder: Path, text: str = "") -> DockerSd:
    settings = configured(folder, f"discovery: [{{docker: {{{text}}}}}]").discovery[0].docker
    assert settings is not None
    return settings


def row(name: str = "ollama", **settings: Any) -> Row:
    usual: dict[str, Any] = {
        "id": "ab" * 32,
        "image": "ollama/ollama:0.33.0",
        "state": "running",
        "labels": {},
        "network_mode": "default",
        "networks": (Network("bridge", "172.17.0.2", "172.17.0.1"),),
        "published": (),
    }
    return Row(name=name, **{**usual, **settings})


# --- who is a server -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "settings", "right"),
    [
        (row(), "", True),
        (row(image="ollama/ollama"), "", True),
        (row(image="registry.example.com/ollama/ollama:0.33.0"), "", True),
        (row(image="ollama/ollama-exporter:1"), "", False),
        (row(image="postgres"), "", False),
        (row(image="own/llm", labels={"ollama-exporter.enable": "true"}), "", True),
        (row(labels={"ollama-exporter.enable": "false"}), "", False),
        (row(labels={"ollama-exporter.enable": "perhaps"}), "", True),
        (row(image="own/llm:3"), "images: ['own/llm*']", True),
        (row(), "images: ['own/llm*']", False),
        (row(), "images: []", False),
        (row(), "network: bridge", True),
        (row(), "network: other", False),
        (row(labels={"ollama-exporter.enable": "true"}), "network: other", False),
    ],
)
def test_the_filters_say_who_is_a_server(folder: Path, found: Row, settings: str, right: bool) -> None:
    assert wanted(found, docker_sd(folder, settings)) is right


COMPOSE = {"com.docker.compose.project": "llm", "com.docker.compose.service": "gpu"}


@pytest.mark.parametrize(
    ("found", "name"),
    [
        (row("ollama"), "ollama"),
        (row("llm-gpu-1", labels=COMPOSE), "llm-gpu"),
        (row("llm-gpu-1", labels={**COMPOSE, "com.docker.compose.container-number": "1"}), "llm-gpu"),
        (row("llm-gpu-2", labels={**COMPOSE, "com.docker.compose.container-number": "2"}), "llm-gpu-2"),
        (row("llm-gpu-1", labels={**COMPOSE, "ollama-exporter.name": "primary"}), "primary"),
        (row(labels={"ollama-exporter.name": 'pri"mary\n{}'}), "pri-mary---"),
        (row("x" * 100), "x" * 64),
        (row(""), "ab" * 6),
    ],
)
def test_a_server_is_named_by_its_label_then_by_compose_then_by_its_container(found: Row, name: str) -> None:
    assert server_name(found) == name


# --- where we reach it -----------------------------------------------------------------------------------------------

HOST = Here(None, shared=True, addresses=frozenset())
FAR = Here(None, shared=False, addresses=frozenset({"192.0.2.7"}))


def container(**settings: Any) -> Container:
    return Container(**{"id": "c1", "name": "ollama", "image": "ollama/ollama", **settings})


def inside(*networks: Network) -> Here:
    return Here(container(id="own", name="exporter", networks=networks), shared=False, addresses=frozenset())


BRIDGE = Network("bridge", "172.17.0.2", "172.17.0.1")
FLEET = Network("fleet", "172.20.0.5", "172.20.0.1")


@pytest.mark.parametrize(
    ("found", "here", "network", "url"),
    [
        (container(published=(Published("", 8080, 11434),), networks=(BRIDGE,)), HOST, "", "127.0.0.1:8080"),
        (container(published=(Published("10.0.0.9", 8080, 11434),)), HOST, "", "10.0.0.9:8080"),
        (container(published=(Published("fd00::1", 8080, 11434),)), HOST, "", "[fd00::1]:8080"),
        (container(published=(Published("", 8080, 80),), networks=(BRIDGE,)), HOST, "", "172.17.0.2:11434"),
        (container(network_mode="host", environment={"OLLAMA_HOST": ":1234"}), HOST, "", "127.0.0.1:1234"),
        (container(networks=(BRIDGE, FLEET)), HOST, "fleet", "172.20.0.5:11434"),
        (
            container(published=(Published("", 8080, 11434),), networks=(FLEET,)),
            HOST,
            "fleet",
            "172.20.0.5:11434",
        ),
        (container(networks=(BRIDGE,), labels={"ollama-exporter.port": "80"}), HOST, "", "172.17.0.2:80"),
        (container(networks=(BRIDGE,), labels={"ollama-exporter.port": "x"}), HOST, "", "172.17.0.2:11434"),
        (container(), HOST, "", None),
        (container(networks=(FLEET,)), inside(FLEET), "", "ollama:11434"),
        (container(networks=(BRIDGE,)), inside(BRIDGE), "", "172.17.0.2:11434"),
        (container(networks=(BRIDGE, FLEET)), inside(FLEET), "bridge", None),
        (container(networks=(FLEET,)), inside(BRIDGE), "", None),
        (
            container(published=(Published("", 8080, 11434),), networks=(FLEET,)),
            inside(BRIDGE),
            "",
            "172.17.0.1:8080",
        ),
        (container(published=(Published("127.0.0.1", 8080, 11434),)), inside(BRIDGE), "", None),
        (container(network_mode="host"), inside(BRIDGE), "", "172.17.0.1:11434"),
        (container(network_mode="container:own"), inside(BRIDGE), "", "localhost:11434"),
        (container(published=(Published("", 8080, 11434),)), FAR, "", "far.example.com:8080"),
        (container(published=(Published("127.0.0.1", 8080, 11434),)), FAR, "", None),
        (container(network_mode="host"), FAR, "", "far.example.com:11434"),
        (container(networks=(FLEET,)), FAR, "", None),
    ],
)
def test_it_is_reached_where_a_restart_changes_the_address_least(
    found: Container, here: Here, network: str, url: str | None
) -> None:
    assert place(found, here, network, "far.example.com" if here is FAR else "") == url


def servers(folder: Path, text: str) -> tuple[Server, ...]:
    return configured(folder, f"servers: {text}").servers


def test_a_configured_server_wins_over_a_found_one(folder: Path) -> None:
    own = servers(folder, "[{name: a, url: 'http://a:1'}, {name: b, url: 'http://b:1'}]")
    found = (
        Found("a", "http://x:1", "x"),
        Found("c", "http://b:1", "b"),
        Found("d", "http://d:1", "d"),
        Found("d", "http://e:1", "e"),
        Found("f", "http://d:1", "f"),
    )
    kept, left_out = admitted(own, {"docker": Answer(found, ("unreachable",))}, 100)["docker"]
    assert kept == (found[2],)
    assert left_out == ("unreachable", "name_taken", "address_taken", "name_taken", "address_taken")


def test_of_two_discoveries_the_first_wins_and_what_is_beyond_the_limit_is_told(folder: Path) -> None:
    own = servers(folder, "[{name: a, url: 'http://a:1'}]")
    first = Answer((Found("b", "http://b:1"), Found("c", "http://c:1")))
    second = Answer(
        (Found("b", "http://x:1"), Found("d", "http://c:1"), Found("e", "http://e:1"), Found("f", "http://f:1"))
    )
    result = admitted(own, {"first": first, "second": second}, 4)
    assert result["first"] == (first.found, ())
    assert result["second"] == ((second.found[2],), ("name_taken", "address_taken", "limit"))


# --- one look --------------------------------------------------------------------------------------------------------


async def seen(finder: DockerFinder, own: tuple[Server, ...] = ()) -> Answer:
    return answered(await finder.look(own), ())


@asynccontextmanager
async def looking(engine: FakeEngine, folder: Path) -> AsyncIterator[DockerFinder]:
    finder = DockerFinder(engine.address, docker_sd(folder))
    try:
        yield finder
    finally:
        await finder.aclose()


async def test_one_look_finds_those_that_run_and_keeps_those_that_have_ended(engine: FakeEngine, folder: Path) -> None:
    one = engine.add("one", ports={11434: ("", 2001)})
    engine.add("two", status="exited")
    engine.add("three", image="postgres")
    async with looking(engine, folder) as finder:
        found = Found("one", "http://127.0.0.1:2001", "one")
        assert await seen(finder) == Answer((found,))
        one.status = "exited"
        assert await seen(finder) == Answer((found,)), "a crash must not take it, and the alert, out of the fleet"
        engine.containers.remove(one)
        assert await seen(finder) == Answer()


async def test_labels_of_a_container_can_be_asked_by_rules(engine: FakeEngine, folder: Path) -> None:
    engine.add("one", ports={11434: ("", 2001)}, labels={"com.example.rack-no": "r7"})
    async with looking(engine, folder) as finder:
        (target,) = (await finder.look(())).targets
    assert target.container == "one"
    assert target.labels["__meta_docker_container_name"] == "/one"
    assert target.labels["__meta_docker_container_label_com_example_rack_no"] == "r7"
    assert target.labels["__address__"] == "127.0.0.1:2001"
    assert target.labels["server"] == "one"


@pytest.mark.parametrize(
    "server",
    ["{url: 'http://localhost:2001'}", "{url: 'http://172.17.0.2:11434'}", "{url: 'http://x.invalid', container: one}"],
    ids=["published", "its own address", "by name"],
)
async def test_a_container_of_a_configured_server_is_not_found_again(
    engine: FakeEngine, folder: Path, server: str
) -> None:
    engine.add("one", ports={11434: ("", 2001)})
    async with looking(engine, folder) as finder:
        assert await seen(finder, servers(folder, f"[{server}]")) == Answer((), ("address_taken",))


async def test_a_container_that_cannot_be_reached_is_told(engine: FakeEngine, folder: Path) -> None:
    engine.add("one", networks={}, network_mode="none")
    async with looking(engine, folder) as finder:
        assert await seen(finder) == Answer((), ("unreachable",))


async def test_a_look_that_hangs_is_not_joined_by_the_next(engine: FakeEngine, folder: Path) -> None:
    async with looking(engine, folder) as finder:
        assert finder._thread._busy.acquire(blocking=False)
        with pytest.raises(Trouble, match="not come to its end"):
            await finder.look(())


async def test_without_a_socket_the_look_says_what_is_missing(folder: Path) -> None:
    with pytest.raises(Trouble, match="no Docker socket"):
        await DockerFinder(f"unix://{folder}/none.sock", docker_sd(folder)).look(())


# --- configuration ---------------------------------------------------------------------------------------------------


def test_with_discovery_no_server_needs_to_be_configured(folder: Path) -> None:
    text = "discovery: [docker: {}]"
    (folder / "exporter.yml").write_text(text)
    assert load(str(folder / "exporter.yml"), {}).servers == ()
    assert [s.url for s in load(str(folder / "exporter.yml"), {"OLLAMA_HOST": "gpu1"}).servers] == ["http://gpu1:11434"]
    assert configured(folder, f"{text}\nservers: []").servers == ()
    with pytest.raises(ConfigError, match="names no server"):
        configured(folder, "servers: []")


@pytest.mark.parametrize("wrong", ["discovery: 3", "discovery: [3]", "discovery: [docker: 3]"])
def test_a_wrong_section_is_told_beside_other_mistakes(folder: Path, wrong: str) -> None:
    with pytest.raises(ConfigError) as told:
        configured(folder, f"{wrong}\nservers: []")
    assert len(told.value.mistakes) == (1 if "[" in wrong else 2)


def test_without_discovery_nothing_is_looked_for(folder: Path) -> None:
    assert configured(folder, "servers: [{url: 'http://a:1'}]").discovery == ()


# --- the fleet -------------------------------------------------------------------------------------------------------


class Running:
    """An exporter whose looks are at our command: `every` is long, and a reload makes it look at once."""

    def __init__(self, exporter: app.Exporter) -> None:
        self.exporter = exporter

    def series(self, family: Any) -> dict[tuple[str, ...], Any]:
        entries = self.exporter.snapshot().entries.values()
        return {s.labels: s.value for e in entries for s in e.reading.samples if s.family is family}

    def watches(self, source: str = "docker") -> dict[str, Watch]:
        return {watch.server: watch for watch in self.exporter._store._places if watch.source == source}

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(20):
            while not condition():  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0.005)

    @property
    def vitals(self) -> DiscoveryVitals | None:
        return self.exporter._vitals.discoveries.get("docker")

    async def look(self) -> None:
        """One more look, to its end."""
        before = self.looks()
        self.exporter._discovery._searches["docker"]._wake.set()
        await self.until(lambda: self.looks() != before)

    def looks(self) -> tuple[Any, ...]:
        if self.vitals is None:
            return ()
        return (self.vitals.succeeded_at, *(sample.value for sample in self.vitals.failures.samples()))


@asynccontextmanager
async def running(folder: Path, text: str) -> AsyncIterator[Running]:
    path = folder / "exporter.yml"
    path.write_text(text)
    clock = iter(range(1, 1_000_000))
    around = Surroundings(now=lambda: float(next(clock)))
    exporter = app.Exporter(load(str(path), {}), lambda: load(str(path), {}), around)
    task = asyncio.create_task(exporter.run())
    it = Running(exporter)
    try:
        await it.until(exporter._discovery.looked)
        yield it
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def with_discovery(engine: FakeEngine, more: str = "") -> str:
    return (
        "host: {enabled: false}\ncanary: {mode: off}\n"
        f"docker: {{address: '{engine.address}'}}\ndiscovery: [{{every: 1h, docker: {{}}}}]\n{more}"
    )


async def test_servers_come_and_go_and_those_that_stay_keep_their_watches(engine: FakeEngine, folder: Path) -> None:
    engine.add("one", ports={11434: ("", 2001)})
    async with running(folder, with_discovery(engine)) as it:
        assert it.watches().keys() == {"one"}
        await it.until(lambda: it.series(catalog.CONTAINER_RESTARTS))
        first = it.exporter._fleet._loops[it.watches()["one"]]
        two = engine.add("two", ports={11434: ("", 2002)}, networks={"bridge": ("172.17.0.3", "172.17.0.1")})
        await it.look()
        assert it.watches().keys() == {"one", "two"}
        assert it.watches("api")["two"].settings.endpoint.url == "http://127.0.0.1:2002"  # type: ignore[attr-defined]
        engine.containers.remove(two)
        await it.look()
        assert it.watches().keys() == {"one"}
        assert it.exporter._fleet._loops[it.watches()["one"]] is first, "the same loop, the same counters"


async def test_a_look_that_fails_keeps_the_fleet_and_says_so(
    engine: FakeEngine, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "exporter.discovery")
    engine.add("one", ports={11434: ("", 2001)})
    async with running(folder, with_discovery(engine)) as it:
        engine.stop()
        await it.look()
        await it.look()
        assert it.watches().keys() == {"one"}
        vitals = it.vitals
        assert vitals is not None
        assert vitals.up is False
        assert vitals.failures.total(reason="unavailable") == 2
        assert [r.message for r in caplog.records].count("discovery docker: one at http://127.0.0.1:2001") == 1
        assert len([r for r in caplog.records if "no Docker socket" in r.message]) == 1, "said once"
        engine.start()
        await it.look()
        assert vitals.up is True
        assert it.watches().keys() == {"one"}


async def test_what_discovery_does_is_on_the_page(engine: FakeEngine, folder: Path) -> None:
    engine.add("one", ports={11434: ("", 2001)})
    engine.add("two", networks={}, network_mode="none")
    async with running(folder, with_discovery(engine)) as it:
        await it.until(lambda: it.series(catalog.DISCOVERY_UP))
        assert it.series(catalog.DISCOVERY_UP) == {("docker",): 1.0}
        assert it.series(catalog.DISCOVERY_SERVERS) == {("docker",): 1.0}
        assert it.series(catalog.EXPORTER_SERVERS) == {(): 1.0}
        told = it.series(catalog.DISCOVERY_LEFT_OUT)
        assert {labels: count for labels, count in told.items() if count} == {("docker", "unreachable"): 1.0}
        assert {reason for _, reason in told} == set(LEFT_OUT)
        assert it.series(catalog.DISCOVERY_SUCCESS)
        assert set(it.series(catalog.DISCOVERY_FAILURES).values()) == {0.0}


async def test_without_discovery_nothing_of_it_is_on_the_page(engine: FakeEngine, folder: Path) -> None:
    text = "host: {enabled: false}\nservers: [{url: 'http://127.0.0.1:9'}]\ndocker: {mode: off}\n"
    async with running(folder, text) as it:
        await it.until(lambda: it.series(catalog.EXPORTER_SERVERS))
        assert not [family for family in catalog.FAMILIES if "discovery" in family.name and it.series(family)]


async def test_a_reload_turns_discovery_off_and_on(engine: FakeEngine, folder: Path) -> None:
    engine.add("one", ports={11434: ("", 2001)})
    own = "servers: [{name: own, url: 'http://127.0.0.1:9'}]"
    async with running(folder, with_discovery(engine, own)) as it:
        assert it.watches("api").keys() == {"own", "one"}
        kept = it.watches("api")["own"]
        (folder / "exporter.yml").write_text(f"host: {{enabled: false}}\ncanary: {{mode: off}}\n{own}")
        assert await it.exporter.reload() == ()
        assert it.watches("api") == {"own": kept}
        (folder / "exporter.yml").write_text(with_discovery(engine, own))
        assert await it.exporter.reload() == ()
        await it.until(lambda: it.watches("api").keys() == {"own", "one"})
        assert it.watches("api")["own"] == kept


async def test_a_bug_in_discovery_does_not_end_the_exporter(
    engine: FakeEngine, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> Any:
        raise RuntimeError("oops")

    monkeypatch.setattr(dockerd, "_row", broken)
    engine.add("one")
    async with running(folder, with_discovery(engine)) as it:
        vitals = it.vitals
        assert vitals is not None
        assert vitals.failures.total(reason="bug") == 1
        assert it.exporter.healthy()
    assert "bug in discovery" in caplog.text


def test_the_plan_of_a_found_server_names_its_container(engine: FakeEngine, folder: Path) -> None:
    from exporter.config import with_found

    found = [("one", "http://one:11434", "c-1", "docker")]
    config = with_found(configured(folder, "discovery: [docker: {}]"), found)
    settings = {watch.settings.container for watch in plan(config) if watch.source == "docker"}  # type: ignore[union-attr]
    assert settings == {"c-1"}
