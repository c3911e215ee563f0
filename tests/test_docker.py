"""The docker source and the engine's client, against a fake engine that the real `docker` package talks to."""

from __future__ import annotations

import gc
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from exporter import catalog, dockerd
from exporter.dockerd import Container, Daemon, Event, Here, Network, Published, Target, answers, listen_port
from exporter.fleet import Observer
from exporter.local import Local, Place
from exporter.model import DockerSettings, Failed, Family, Lacking, Watch
from exporter.sources import SOURCES
from exporter.sources.docker import HEALTH, STATES, DockerSource, History, working_set
from tests.docker_engine import FakeContainer, FakeEngine, fake_engine, stats_v1, stats_v2
from tests.scene import Seen

URL = "http://172.17.0.2:11434"


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="docker-", dir="/tmp") as name:
        yield Path(name)


@pytest.fixture
def engine(folder: Path) -> Iterator[FakeEngine]:
    with fake_engine(folder) as found:
        yield found


class Watched:
    """A server named `a`, watched through the docker source."""

    def __init__(self, engine: FakeEngine, url: str, folder: Path, optional: bool, container: str) -> None:
        self.engine = engine
        watch = Watch("a", "docker", 15.0, 10.0, DockerSettings(url, container, engine.address), optional=optional)
        self.source = DockerSource(watch, folder / "proc", folder / "cgroup")
        self.observer = Observer(watch, self.source, SOURCES["docker"].reasons, lambda: 0.0)

    async def look(self, seconds: float = 15.0) -> Seen:
        """After so many seconds of the engine's time."""
        self.engine.clock += seconds
        return Seen(await self.observer.observe())


@pytest.fixture
async def watched(engine: FakeEngine, folder: Path, request: pytest.FixtureRequest) -> Any:
    settings = {"url": URL, "optional": True, "container": "", **getattr(request, "param", {})}
    it = Watched(engine, folder=folder, **settings)
    yield it
    await it.source.aclose()


pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


# --- what is seen ----------------------------------------------------------------------------------------------------


async def test_a_container_tells_its_state_its_limits_and_what_it_uses(engine: FakeEngine, watched: Watched) -> None:
    engine.add("ollama", limits={"Memory": 8_000_000_000, "NanoCpus": 1_500_000_000}, health="healthy")
    seen = await watched.look()
    assert seen.failure is None
    assert seen.series(catalog.CONTAINER_STATE) == {("a", state) for state in STATES}
    assert [state for state in STATES if seen(catalog.CONTAINER_STATE, state=state)] == ["running"]
    assert [health for health in HEALTH if seen(catalog.CONTAINER_HEALTH, health=health)] == ["healthy"]
    assert seen.series(catalog.CONTAINER_INFO) == {("a", "ollama", "ollama/ollama:0.33.0")}
    assert seen(catalog.CONTAINER_START) == pytest.approx(1000.0)
    assert seen(catalog.CONTAINER_LAST_EXIT) is None
    assert seen(catalog.CONTAINER_EXIT_CODE) is None
    assert seen(catalog.CONTAINER_CPU_LIMIT) == 1.5
    assert seen(catalog.CONTAINER_MEMORY_LIMIT) == 8e9
    assert seen(catalog.CONTAINER_MEMORY) == 3_440_064
    assert seen(catalog.CONTAINER_CPU) == pytest.approx(0.027541928)
    assert seen(catalog.CONTAINER_CPU_PERIODS) == 10
    assert seen(catalog.CONTAINER_CPU_THROTTLED_PERIODS) == 2
    assert seen(catalog.CONTAINER_CPU_THROTTLED) == pytest.approx(0.057867146)
    assert seen(catalog.CONTAINER_RECEIVED) == 1050
    assert seen(catalog.CONTAINER_SENT) == 154
    assert seen(catalog.CONTAINER_RESTARTS) == 0
    assert seen(catalog.CONTAINER_OOM_KILLS) == 0


async def test_what_has_no_limit_no_check_and_no_network_of_its_own_tells_none(
    engine: FakeEngine, watched: Watched
) -> None:
    container = engine.add("ollama")
    del container.stats["networks"]
    seen = await watched.look()
    for family in (
        catalog.CONTAINER_CPU_LIMIT,
        catalog.CONTAINER_MEMORY_LIMIT,
        catalog.CONTAINER_HEALTH,
        catalog.CONTAINER_RECEIVED,
        catalog.CONTAINER_SENT,
    ):
        assert not seen.series(family), family.name
    assert seen(catalog.CONTAINER_MEMORY) is not None


@pytest.mark.parametrize(
    ("limits", "cpus"),
    [
        ({"NanoCpus": 500_000_000}, 0.5),
        ({"CpuQuota": 50_000}, 0.5),
        ({"CpuQuota": 400_000, "CpuPeriod": 200_000}, 2.0),
        ({"CpusetCpus": "0-3,8"}, 5.0),
        ({"CpusetCpus": "0-3", "NanoCpus": 1_000_000_000}, 1.0),
        ({"CpusetCpus": "nonsense"}, None),
        ({"CpuQuota": -1}, None),
    ],
    ids=str,
)
def test_the_cpus_of_a_container_are_the_smaller_of_its_limits(limits: dict[str, Any], cpus: float | None) -> None:
    assert dockerd.parse_container(FakeContainer("x", limits=limits).inspected()).cpus == cpus


@pytest.mark.parametrize("stats", [stats_v1(), stats_v2()], ids=["cgroup v1", "cgroup v2"])
def test_the_working_set_leaves_out_what_the_kernel_can_drop(stats: dict[str, Any]) -> None:
    assert working_set(stats) == 3_440_064


@pytest.mark.parametrize("stats", [{}, {"memory_stats": {}}, {"memory_stats": {"usage": 5}}, {"memory_stats": None}])
def test_without_all_its_parts_there_is_no_working_set(stats: dict[str, Any]) -> None:
    assert working_set(stats) is None


@pytest.mark.parametrize(
    ("image", "shown"),
    [
        ("ollama/ollama:0.33.0", "ollama/ollama:0.33.0"),
        ("ollama", "ollama"),
        ("registry.example.com:5000/team/ollama:0.33.0", "team/ollama:0.33.0"),
        ("localhost/ollama", "ollama"),
        ("ghcr.example/x/ollama@sha256:" + "0f" * 32, "x/ollama"),
        ("user:word@registry.example.com/ollama", "ollama"),
        ("sha256:" + "0f" * 32, "sha256:0f0f0f0f0f0f"),
    ],
)
def test_an_image_is_shown_without_its_registry(image: str, shown: str) -> None:
    assert dockerd.shown_image(image) == shown


def test_secret_variables_leave_their_values_and_others_themselves_behind() -> None:
    env = ["OLLAMA_HOST=:1234", "OLLAMA_API_KEY=hush", "LLAMA_ARG_THREADS=4", "DATABASE_PASSWORD=hush", "OLLAMA_ODD"]
    container = dockerd.parse_container(FakeContainer("x", env=env).inspected())
    assert container.environment == {
        "OLLAMA_HOST": ":1234",
        "OLLAMA_API_KEY": "",
        "LLAMA_ARG_THREADS": "4",
        "OLLAMA_ODD": "",
    }
    assert "hush" not in repr(container)


async def test_an_older_engine_is_asked_for_statistics_as_it_knows_it(engine: FakeEngine, watched: Watched) -> None:
    engine.version = "1.40"
    engine.add("ollama")
    assert (await watched.look())(catalog.CONTAINER_CPU) is not None


async def test_a_look_asks_little_and_changes_nothing(engine: FakeEngine, watched: Watched) -> None:
    ollama = engine.add("ollama")
    for number in range(20):
        engine.add(f"other{number}", networks={"bridge": (f"172.17.1.{number}", "172.17.0.1")})
    await watched.look()
    engine.asked.clear()
    await watched.look()
    assert engine.asked == [
        "/containers/json",
        f"/containers/{ollama.id}/json",
        "/events",
        f"/containers/{ollama.id}/stats",
    ]


# --- which container -------------------------------------------------------------------------------------------------

HERE = Target(frozenset({"127.0.0.1"}), 11434, on_host=True)


def container(**settings: Any) -> Container:
    usual = {"id": "c1", "name": "ollama", "image": "ollama/ollama", "environment": {"OLLAMA_HOST": "0.0.0.0:11434"}}
    return Container(**{**usual, **settings})


@pytest.mark.parametrize(
    ("found", "target", "right"),
    [
        (container(published=(Published("", 11434, 11434),)), HERE, True),
        (container(published=(Published("127.0.0.1", 11434, 11434),)), HERE, True),
        (container(published=(Published("10.0.0.9", 11434, 11434),)), HERE, False),
        (container(published=(Published("", 11434, 80),)), HERE, False),
        (container(published=(Published("", 11435, 11434),)), HERE, False),
        (container(published=(Published("", 11434, 11434),)), Target(HERE.ips, 11434, on_host=False), False),
        (
            container(published=(Published("", 11434, 8000),), environment={"OLLAMA_HOST": "0.0.0.0:8000"}),
            HERE,
            True,
        ),
        (container(network_mode="host"), HERE, True),
        (container(network_mode="host", environment={"OLLAMA_HOST": "0.0.0.0:11500"}), HERE, False),
        (container(network_mode="host", environment={}), HERE, False),
        (
            container(networks=(Network("net", "172.20.0.5", "172.20.0.1"),)),
            Target(frozenset({"172.20.0.5"}), 11434, on_host=False),
            True,
        ),
        (
            container(networks=(Network("net", "172.20.0.5", "172.20.0.1"),)),
            Target(frozenset({"172.20.0.5"}), 80, on_host=False),
            False,
        ),
        (container(), Target(HERE.ips, 11434, on_host=False, beside="c1"), True),
        (container(id="c2", network_mode="container:c1"), Target(HERE.ips, 11434, on_host=False, beside="c1"), True),
        (container(id="c2"), Target(HERE.ips, 11434, on_host=False, beside="c1"), False),
    ],
    ids=[
        "published",
        "published on that address",
        "published on another address",
        "another program's port published",
        "published as another port",
        "the machine is another one",
        "listens elsewhere inside",
        "the machine's network",
        "the machine's network, another port",
        "the machine's network, no Ollama",
        "its own address",
        "its own address, another port",
        "we live in its network",
        "we both live in another's",
        "we live in another's network",
    ],
)
def test_a_container_is_a_servers_when_ollama_in_it_answers_at_the_servers_address(
    found: Container, target: Target, right: bool
) -> None:
    assert answers(found, target) is right


@pytest.mark.parametrize(
    ("written", "port"),
    [
        ("", 11434),
        ("0.0.0.0", 11434),
        ("0.0.0.0:8000", 8000),
        (":8000", 8000),
        ("http://0.0.0.0", 80),
        ("https://x", 443),
        ("http://x:1234/path", 1234),
        ("[::]:9000", 9000),
        ("::", 11434),
        ('"0.0.0.0:8001"', 8001),
        ("x:99999", 11434),
    ],
)
def test_where_an_ollama_listens_is_read_as_it_does_itself(written: str, port: int) -> None:
    assert listen_port(written) == port


@pytest.mark.parametrize("watched", [{"url": "http://127.0.0.1:12345"}], indirect=True)
async def test_a_published_port_leads_to_the_container(engine: FakeEngine, watched: Watched) -> None:
    engine.add("ollama", ports={11434: ("", 12345)})
    engine.add("other", ports={80: ("", 8080)}, networks={"bridge": ("172.17.0.9", "172.17.0.1")})
    assert (await watched.look()).series(catalog.CONTAINER_INFO) == {("a", "ollama", "ollama/ollama:0.33.0")}


@pytest.mark.parametrize("watched", [{"url": "http://gpu.example.invalid:1", "container": "named"}], indirect=True)
async def test_a_container_that_is_configured_needs_no_address(engine: FakeEngine, watched: Watched) -> None:
    engine.add("named", env=[], image="own/image")
    assert (await watched.look()).series(catalog.CONTAINER_INFO) == {("a", "named", "own/image")}


async def test_an_ollama_in_anothers_network_is_found_behind_its_address(engine: FakeEngine, watched: Watched) -> None:
    vpn = engine.add("vpn", image="vpn", env=[])
    engine.add("ollama", network_mode=f"container:{vpn.id}", networks={})
    assert (await watched.look()).series(catalog.CONTAINER_INFO) == {("a", "ollama", "ollama/ollama:0.33.0")}


async def test_two_that_could_be_it_are_none(engine: FakeEngine, watched: Watched) -> None:
    engine.add("one")
    engine.add("two")
    seen = await watched.look()
    assert seen.reading.blind
    assert "one, two" in seen.reading.lacks[0].what
    assert "servers[].container" in seen.reading.lacks[0].remedy


def test_localhost_is_not_the_machine_when_we_live_in_a_container(engine: FakeEngine, folder: Path) -> None:
    own = engine.add("exporter", image="exporter", env=[])
    engine.add("ollama", ports={11434: ("", 11434)}, networks={"bridge": ("172.17.0.3", "172.17.0.1")})
    (folder / "proc/self").mkdir(parents=True)
    mounts = f"812 801 254:1 /var/lib/docker/containers/{own.id}/hostname /etc/hostname rw - ext4 /dev/vda rw\n"
    (folder / "proc/self/mountinfo").write_text(mounts)
    daemon = Daemon(engine.address, proc=folder / "proc")
    try:
        with pytest.raises(Lacking):
            daemon.server("http://127.0.0.1:11434")
        assert daemon.server("http://172.17.0.1:11434").name == "ollama", "the gateway is the machine"
        own.network_mode = "host"
        assert daemon.server("http://127.0.0.1:11434").name == "ollama"
    finally:
        daemon.close()


def test_a_sidecar_finds_the_server_whose_network_it_shares(engine: FakeEngine, folder: Path) -> None:
    ollama = engine.add("ollama")
    engine.add("published", ports={11434: ("", 11434)}, networks={"bridge": ("172.17.0.3", "172.17.0.1")})
    (folder / "proc/self").mkdir(parents=True)
    mounts = f"812 801 254:1 /var/lib/docker/containers/{ollama.id}/resolv.conf /etc/resolv.conf rw - ext4 /dev/vda\n"
    (folder / "proc/self/mountinfo").write_text(mounts)
    daemon = Daemon(engine.address, proc=folder / "proc")
    try:
        assert daemon.server("http://localhost:11434").name == "ollama"
    finally:
        daemon.close()


def test_the_addresses_of_an_engine_far_away_are_not_ours() -> None:
    far = Here(None, shared=False, addresses=frozenset({"192.0.2.7"}))
    assert far.is_machine("192.0.2.7")
    assert not far.is_machine("127.0.0.1")


# --- what happened between two looks ---------------------------------------------------------------------------------


async def test_every_restart_between_two_looks_counts(engine: FakeEngine, watched: Watched) -> None:
    ollama = engine.add("ollama")
    await watched.look()
    for at in (2018.25, 2018.5, 2018.9):
        engine.happens(ollama, "die", at - 0.1, exitCode="2")
        engine.happens(ollama, "start", at)
    ollama.started, ollama.finished = 2018.89, 2018.8
    seen = await watched.look()
    assert seen(catalog.CONTAINER_RESTARTS) == 3
    assert seen(catalog.CONTAINER_EXIT_CODE) == 2
    assert seen(catalog.CONTAINER_LAST_EXIT) == pytest.approx(2018.8)
    assert (await watched.look())(catalog.CONTAINER_RESTARTS) == 3


async def test_a_start_whose_event_comes_with_the_next_look_counts_once(engine: FakeEngine, watched: Watched) -> None:
    ollama = engine.add("ollama")
    await watched.look()
    ollama.started, ollama.oom_killed = engine.clock + 15.5, True
    assert (await watched.look())(catalog.CONTAINER_RESTARTS) == 0
    engine.happens(ollama, "start", ollama.started + 0.1)
    engine.happens(ollama, "oom", ollama.started + 0.3)
    seen = await watched.look()
    assert seen(catalog.CONTAINER_RESTARTS) == 1
    assert seen(catalog.CONTAINER_OOM_KILLS) == 1


async def test_a_start_of_which_no_event_tells_counts_once(engine: FakeEngine, watched: Watched) -> None:
    """The engine has been restarted, and its memory of events with it."""
    ollama = engine.add("ollama")
    await watched.look()
    ollama.started = engine.clock + 3.0
    assert (await watched.look())(catalog.CONTAINER_RESTARTS) == 1
    assert (await watched.look())(catalog.CONTAINER_RESTARTS) == 1
    ollama.started = engine.clock + 3.0
    assert (await watched.look())(catalog.CONTAINER_RESTARTS) == 2


async def test_what_was_before_the_first_look_does_not_count(engine: FakeEngine, watched: Watched) -> None:
    ollama = engine.add("ollama", oom_killed=True)
    engine.happens(ollama, "oom", 1990.0)
    engine.happens(ollama, "start", 1000.2)
    for _ in range(3):
        seen = await watched.look()
        assert seen(catalog.CONTAINER_RESTARTS) == 0
        assert seen(catalog.CONTAINER_OOM_KILLS) == 0


async def test_a_container_in_anothers_place_is_a_restart(engine: FakeEngine, watched: Watched) -> None:
    old = engine.add("ollama")
    await watched.look()
    engine.containers.remove(old)
    engine.happens(old, "oom", 2016.0)
    engine.happens(old, "die", 2016.1, exitCode="137")
    new = engine.add("ollama", id="ef" * 32, started=2020.0)
    engine.happens(new, "start", 2020.1)
    seen = await watched.look()
    assert seen(catalog.CONTAINER_RESTARTS) == 1
    assert seen(catalog.CONTAINER_OOM_KILLS) == 1


async def test_oom_kills_count_although_the_server_lives_on(engine: FakeEngine, watched: Watched) -> None:
    ollama = engine.add("ollama")
    await watched.look()
    engine.happens(ollama, "oom", 2017.0)
    engine.happens(ollama, "oom", 2019.0)
    assert (await watched.look())(catalog.CONTAINER_OOM_KILLS) == 2
    ollama.oom_killed = True  # newer engines say so, too: it is the same
    assert (await watched.look())(catalog.CONTAINER_OOM_KILLS) == 2


async def test_a_container_that_ends_keeps_its_counters_and_says_how_it_ended(
    engine: FakeEngine, watched: Watched
) -> None:
    ollama = engine.add("ollama", health="healthy")
    await watched.look()
    ollama.status, ollama.finished, ollama.exit_code, ollama.oom_killed = "exited", 2018.0, 137, True
    seen = await watched.look()
    assert seen.failure is None
    assert [state for state in STATES if seen(catalog.CONTAINER_STATE, state=state)] == ["exited"]
    assert seen(catalog.CONTAINER_EXIT_CODE) == 137
    assert seen(catalog.CONTAINER_OOM_KILLS) == 1
    assert seen(catalog.CONTAINER_CPU) == pytest.approx(0.027541928)
    assert seen(catalog.CONTAINER_MEMORY) is None
    assert not seen.series(catalog.CONTAINER_HEALTH)


async def test_the_noughts_of_a_container_that_has_just_ended_are_no_counts(
    engine: FakeEngine, watched: Watched
) -> None:
    ollama = engine.add("ollama")
    await watched.look()
    ollama.stats = {**stats_v2(cpu=0, usage=0, inactive=0), "read": "0001-01-01T00:00:00Z"}
    seen = await watched.look()
    assert seen(catalog.CONTAINER_CPU) == pytest.approx(0.027541928)
    assert seen(catalog.CONTAINER_MEMORY) is None


def cgroup(folder: Path, ollama: FakeContainer, version: int, kills: int) -> None:
    proc = folder / f"proc/{ollama.pid}"
    proc.mkdir(parents=True, exist_ok=True)
    if version == 1:
        proc.joinpath("cgroup").write_text(f"5:memory:/docker/{ollama.id}\n1:name=systemd:/docker/{ollama.id}\n")
        place = folder / f"cgroup/memory/docker/{ollama.id}/memory.oom_control"
        text = f"oom_kill_disable 0\nunder_oom 0\noom_kill {kills}\n"
    else:
        proc.joinpath("cgroup").write_text(f"0::/system.slice/docker-{ollama.id}.scope/init.scope\n")
        place = folder / f"cgroup/system.slice/docker-{ollama.id}.scope/memory.events"
        text = f"low 0\nhigh 0\nmax 81\noom {kills}\noom_kill {kills}\noom_group_kill 0\n"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text)


@pytest.mark.parametrize("version", [1, 2])
async def test_want_of_memory_that_the_engine_tells_is_no_kill_where_the_kernel_counts(
    engine: FakeEngine, watched: Watched, folder: Path, version: int
) -> None:
    ollama = engine.add("ollama")
    cgroup(folder, ollama, version, kills=0)
    await watched.look()
    for at in (2017.0, 2017.1, 2018.0):
        engine.happens(ollama, "oom", at)
    cgroup(folder, ollama, version, kills=2)
    assert (await watched.look())(catalog.CONTAINER_OOM_KILLS) == 2
    engine.happens(ollama, "oom", 2032.0)
    engine.happens(ollama, "die", 2032.1, exitCode="137")
    ollama.status, ollama.finished, ollama.exit_code, ollama.pid = "exited", 2032.1, 137, None
    assert (await watched.look())(catalog.CONTAINER_OOM_KILLS) == 3, "its end is told by the engine alone"


async def test_a_counter_that_was_shown_does_not_fall_when_the_kernel_knows_better(
    engine: FakeEngine, watched: Watched, folder: Path
) -> None:
    ollama = engine.add("ollama")
    cgroup(folder, ollama, 1, kills=0)
    place = folder / f"cgroup/memory/docker/{ollama.id}/memory.oom_control"
    await watched.look()
    place.unlink()
    for at in (2017.0, 2017.1):
        engine.happens(ollama, "oom", at)
    assert (await watched.look())(catalog.CONTAINER_OOM_KILLS) == 2
    cgroup(folder, ollama, 1, kills=1)
    assert (await watched.look())(catalog.CONTAINER_OOM_KILLS) == 2
    engine.happens(ollama, "oom", 2047.0)
    cgroup(folder, ollama, 1, kills=2)
    assert (await watched.look())(catalog.CONTAINER_OOM_KILLS) == 2


@pytest.mark.parametrize("version", [1, 2])
async def test_the_kernel_tells_of_kills_that_the_engine_told_as_one(
    engine: FakeEngine, watched: Watched, folder: Path, version: int
) -> None:
    ollama = engine.add("ollama")
    cgroup(folder, ollama, version, kills=2)
    assert (await watched.look())(catalog.CONTAINER_OOM_KILLS) == 0, "those were before"
    cgroup(folder, ollama, version, kills=5)
    engine.happens(ollama, "oom", 2017.0)
    assert (await watched.look())(catalog.CONTAINER_OOM_KILLS) == 3
    engine.happens(ollama, "oom", 2032.0)
    engine.happens(ollama, "start", 2034.0)
    ollama.started = 2033.9
    cgroup(folder, ollama, version, kills=0)
    assert (await watched.look())(catalog.CONTAINER_OOM_KILLS) == 3
    cgroup(folder, ollama, version, kills=1)
    assert (await watched.look())(catalog.CONTAINER_OOM_KILLS) == 4


async def test_a_process_of_another_machine_is_not_taken_for_the_containers(
    engine: FakeEngine, watched: Watched, folder: Path
) -> None:
    ollama = engine.add("ollama")
    other = FakeContainer("other", id="77" * 32)
    await watched.look()
    cgroup(folder, other, 2, kills=9)
    assert other.pid == ollama.pid
    assert (await watched.look())(catalog.CONTAINER_OOM_KILLS) == 0


def test_counts_never_fall_however_many_runs_there_are() -> None:
    history, before = History(container(started=100.0), None), 0
    for run in range(1, 40):
        started = 100.0 + 20 * run
        events = [Event(started + 0.1, "start"), Event(started + 1, "oom"), Event(started + 2, "die", 137)]
        history.see(container(started=started, oom_killed=run % 2 == 0), events, started + 10, run % 3)
        assert history.oom_kills >= before
        before = history.oom_kills
    assert history.restarts == 39
    assert 39 <= history.oom_kills <= 39 + 13


# --- what goes wrong -------------------------------------------------------------------------------------------------

GAUGES: tuple[Family, ...] = tuple(
    family for family in catalog.FAMILIES if family.name.startswith("ollama_container_") and family.kind != "counter"
)


async def test_the_engine_goes_and_comes_back_and_the_counters_stay(engine: FakeEngine, watched: Watched) -> None:
    ollama = engine.add("ollama")
    await watched.look()
    engine.happens(ollama, "oom", 2018.0)
    assert (await watched.look())(catalog.CONTAINER_OOM_KILLS) == 1
    engine.stop(keep_socket=True)
    seen = await watched.look()
    assert seen.failure == "unavailable"
    assert seen(catalog.CONTAINER_OOM_KILLS) == 1
    assert seen(catalog.CONTAINER_CPU) == pytest.approx(0.027541928)
    assert not any(seen.series(family) for family in GAUGES), "nothing stale"
    engine.path.unlink()
    assert (await watched.look()).failure == "unavailable", "also without its socket"
    engine.start()
    engine.happens(ollama, "oom", engine.clock + 3)
    seen = await watched.look()
    assert seen.failure is None
    assert seen(catalog.CONTAINER_OOM_KILLS) == 2


async def test_a_container_that_was_removed_is_a_failure_and_keeps_its_counters(
    engine: FakeEngine, watched: Watched
) -> None:
    engine.add("ollama")
    await watched.look()
    engine.containers.clear()
    seen = await watched.look()
    assert seen.failure == "unavailable"
    assert seen(catalog.CONTAINER_RESTARTS) == 0
    assert not any(seen.series(family) for family in GAUGES)


async def test_a_server_in_no_container_is_nothing_to_complain_about(engine: FakeEngine, watched: Watched) -> None:
    engine.add("other", networks={"bridge": ("172.17.0.9", "172.17.0.1")})
    seen = await watched.look()
    assert seen.reading.blind
    assert "no container" in seen.reading.lacks[0].what


@pytest.mark.parametrize("watched", [{"optional": False}], indirect=True)
async def test_who_insists_on_it_is_told_that_it_fails(engine: FakeEngine, watched: Watched) -> None:
    seen = await watched.look()
    assert seen.failure == "unavailable"
    assert seen.reading.lacks


async def test_without_a_socket_the_remedy_is_said(engine: FakeEngine, watched: Watched) -> None:
    engine.stop()
    seen = await watched.look()
    assert seen.reading.blind
    assert seen.reading.lacks[0].what == "there is no Docker socket here"
    assert "/var/run/docker.sock" in seen.reading.lacks[0].remedy
    assert "CONTAINERS=1 EVENTS=1" in seen.reading.lacks[0].remedy
    engine.start()


async def test_without_permission_the_remedy_is_said(
    engine: FakeEngine, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(socket.socket, "connect", refused)
    seen = await watched.look()
    assert seen.reading.blind
    assert seen.reading.lacks[0].what == "the Docker socket may not be opened"


async def test_a_socket_that_nobody_answers_is_a_lack_until_somebody_did(engine: FakeEngine, watched: Watched) -> None:
    engine.stop(keep_socket=True)
    assert (await watched.look()).reading.blind
    engine.path.unlink()
    engine.start()
    engine.add("ollama")
    assert (await watched.look()).failure is None


@pytest.mark.parametrize("path", ["/version", "/containers/json"])
async def test_a_proxy_that_forbids_says_what_to_allow(engine: FakeEngine, watched: Watched, path: str) -> None:
    engine.add("ollama")
    engine.forbidden = path
    seen = await watched.look()
    assert seen.reading.blind
    assert "CONTAINERS=1 EVENTS=1" in seen.reading.lacks[0].remedy


class Process:
    """A machine on which the server's process is seen."""

    def __init__(self, cgroup: str) -> None:
        self.cgroup = cgroup

    def place(self, url: str) -> Place:
        return Place((("127.0.0.1", 11434),), None, 42, 0.0, self.cgroup)


@pytest.mark.parametrize(
    ("cgroup", "container", "blind"),
    [
        ("0::/system.slice/ollama.service", "", False),
        (f"0::/system.slice/docker-{'a' * 64}.scope", "", True),
        ("", "", True),
        ("0::/system.slice/ollama.service", "ollama", True),
    ],
)
async def test_of_a_server_that_runs_in_no_container_there_is_nothing_to_tell(
    folder: Path, cgroup: str, container: str, blind: bool
) -> None:
    nobody = DockerSettings("http://localhost:11434", container, f"unix://{folder}/nobody.sock")
    watch = Watch("a", "docker", 15.0, 10.0, nobody, optional=True)
    source = DockerSource(watch, machine=cast(Local, Process(cgroup)))
    reading = await Observer(watch, source, SOURCES["docker"].reasons, lambda: 0.0).observe()
    await source.aclose()
    assert (reading.blind, reading.failure, reading.samples) == (blind, None, ())


async def test_an_engine_that_goes_away_while_it_is_asked_is_a_lack(
    engine: FakeEngine, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dockerd, "_check_socket", lambda path: engine.stop(keep_socket=True))
    assert [lack.what for lack in (await watched.look()).reading.lacks] == ["the Docker engine does not answer"]
    gc.collect()


async def test_without_events_the_rest_is_seen_and_the_lack_said(engine: FakeEngine, watched: Watched) -> None:
    ollama = engine.add("ollama")
    engine.forbidden = "/events"
    seen = await watched.look()
    assert seen.failure is None
    assert seen(catalog.CONTAINER_CPU) is not None
    assert "between two looks" in seen.reading.lacks[0].what
    ollama.started = engine.clock + 5
    seen = await watched.look()
    assert seen(catalog.CONTAINER_RESTARTS) == 1, "what the container tells of itself"


async def test_an_engine_that_does_not_answer_is_given_up_and_not_joined(
    engine: FakeEngine, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dockerd, "_TIMEOUT", 0.2)
    engine.add("ollama")
    engine.silent = threading.Event()
    assert (await watched.look()).failure == "timeout"
    engine.silent.set()
    engine.silent = None
    assert (await watched.look()).failure is None


async def test_a_look_that_hangs_is_not_joined_by_the_next(engine: FakeEngine, watched: Watched) -> None:
    engine.add("ollama")
    await watched.look()
    assert watched.source._looking.acquire(blocking=False)
    seen = await watched.look()
    watched.source._looking.release()
    assert seen.failure == "timeout"
    assert seen(catalog.CONTAINER_RESTARTS) == 0


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/containers/json", b"<html>"),
        ("/containers/json", b"{}"),
        ("/containers/json", b'[{"Id": 3}]'),
        ("/containers/json", b"[7]"),
        ("/events", b"nonsense"),
        ("/events", b"[]"),
    ],
)
async def test_nonsense_is_malformed_and_no_bug(engine: FakeEngine, watched: Watched, path: str, body: bytes) -> None:
    engine.add("ollama")
    engine.garbage[path] = body
    assert (await watched.look()).failure == "malformed"


@pytest.mark.parametrize("body", [b"{}", b"[]", b'{"Id": "x", "State": {"Status": 4}}'])
def test_a_container_without_what_every_engine_tells_is_malformed(engine: FakeEngine, body: bytes) -> None:
    engine.garbage["/containers/x/json"] = body
    daemon = Daemon(engine.address)
    try:
        with pytest.raises(Failed, match="malformed"):
            daemon.container("x")
    finally:
        daemon.close()


async def test_an_engine_whose_clock_is_set_back_is_not_asked_for_the_future(
    engine: FakeEngine, watched: Watched
) -> None:
    ollama = engine.add("ollama")
    await watched.look()
    engine.clock = 1500.0
    assert (await watched.look()).failure is None
    engine.happens(ollama, "oom", engine.clock + 3)
    assert (await watched.look())(catalog.CONTAINER_OOM_KILLS) == 1


async def test_proxies_and_passwords_of_the_environment_are_not_for_the_engine(
    engine: FakeEngine, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://proxy.invalid:1")
    engine.add("ollama")
    assert (await watched.look()).failure is None


async def test_without_the_package_the_remedy_is_said(
    engine: FakeEngine, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    import builtins

    real = builtins.__import__

    def no_docker(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] == "docker":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", no_docker)
    seen = await watched.look()
    assert seen.reading.blind
    assert "ollama-exporter[docker]" in seen.reading.lacks[0].remedy


async def test_every_family_is_used(engine: FakeEngine, watched: Watched) -> None:
    limits = {"Memory": 1, "NanoCpus": 1}
    engine.add("ollama", limits=limits, health="starting", finished=900.0, started=1000.0)
    await watched.look()
    engine.containers[0].finished = 2016.0
    engine.happens(engine.containers[0], "die", 2016.1, exitCode="0")
    seen = await watched.look()
    assert {
        family.name for family in catalog.FAMILIES if family.name.startswith("ollama_container_")
    } <= seen.families()
