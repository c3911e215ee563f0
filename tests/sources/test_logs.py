"""The log source: real files, and lines of simulated servers whose own account of events is the truth."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from exporter import catalog
from exporter.exposition import encode
from exporter.fleet import Observer
from exporter.local import Connections, Place, RunnerProcess
from exporter.model import Distribution, Family, Lacking, LogSettings, Reading, Sample, Watch
from exporter.ollamalog import OCCURRENCES
from exporter.simulator import (
    LLAMA32_3B,
    NOMIC_EMBED,
    TINYLLAMA,
    EngineConfig,
    Fault,
    FleetConfig,
    Member,
    ServerConfig,
    SimFleet,
    SimServer,
    SimTransport,
    Traffic,
    run_virtual,
    virtual_wall_clock,
)
from exporter.simulator.journal import go_duration
from exporter.sources import SOURCES, Surroundings, build
from exporter.sources.logs import Found, LogSource, Tally, Target, where
from exporter.tails import Batch
from tests.scene import PATIENT, virtually

URL = "http://a:11434"
LOGS = Path(__file__).parent.parent / "logs"
BLOB = "sha256-941f309b54caaad6747569ba43712bcde44a2be3bae16c3282ff499c37c54af5"
ACCESS = '[GIN] 2026/11/23 - 17:38:05 | 200 | 1.5s | 127.0.0.1 | POST "/api/chat"'
GENERATED = "slot print_timing: id  3 | task 0 |        eval time =     100.00 ms /    16 tokens (1 ms per token)"


class Here:
    """A machine on which the server is what the test says."""

    def __init__(self, place: Place | None = None, names: Mapping[str, tuple[str, ...]] | None = None) -> None:
        self.there, self.installed = place, names or {}

    def place(self, url: str) -> Place:
        if self.there is None:
            raise Lacking("the server runs on another machine", "run the exporter there")
        return self.there

    def names(self, place: Place, blob: str) -> tuple[str, ...]:
        return self.installed.get(blob, ())

    def connections(self, place: Place) -> Connections:
        raise NotImplementedError

    def runners(self, place: Place) -> tuple[RunnerProcess, ...]:
        raise NotImplementedError

    def environment(self, place: Place) -> Mapping[str, str]:
        raise NotImplementedError

    def connect(self, place: Place, port: int, timeout: float) -> Any:
        raise NotImplementedError


def watch_of(**settings: str) -> Watch:
    return Watch("a", "logs", 5.0, 10.0, LogSettings(URL, **settings), optional=True)


class Eye:
    """A source and its readings, asked by family and labels."""

    def __init__(self, source: LogSource, watch: Watch) -> None:
        self.source = source
        self._observer = Observer(watch, source, SOURCES["logs"].reasons, lambda: 1000.0)

    def look(self) -> Reading:
        self.reading = asyncio.run(self._observer.observe())
        encode(self.reading)
        return self.reading

    def __call__(self, family: Family, /, **labels: str) -> float | None:
        return value(self.reading.samples, family, **labels)


def value(samples: Iterable[Sample], family: Family, /, **labels: str) -> float | None:
    wanted = tuple({"server": "a", **labels}[name] for name in family.labels)
    found = [sample.value for sample in samples if (sample.family, sample.labels) == (family, wanted)]
    assert len(found) < 2, f"{family.name}{wanted} twice"
    if not found:
        return None
    return float(found[0].counts[-1]) if isinstance(found[0], Distribution) else found[0]


def write(path: Path, *lines: str) -> None:
    with path.open("a") as file:
        file.writelines(f"{line}\n" for line in lines)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "server.log"
    path.write_bytes((LOGS / "ollama-0.33.log").read_bytes())
    return path


@pytest.fixture
def eye(log: Path) -> Iterator[Eye]:
    watch = watch_of(file=str(log))
    source = LogSource(watch, Here(), lambda: 1000.0)
    yield Eye(source, watch)
    asyncio.run(source.aclose())


# --- readings --------------------------------------------------------------------------------------------------------


def test_the_past_is_not_counted_and_tells_what_is_configured(eye: Eye) -> None:
    eye.look()

    assert eye(catalog.LOG_REQUESTS, api_endpoint="/api/generate", status="503") == 0
    assert eye(catalog.LOG_LINES) == 0
    assert eye(catalog.LOG_SETTING, setting="OLLAMA_NUM_PARALLEL", value="4") == 1
    assert eye(catalog.LOG_READER, reader="file") == 1
    assert eye(catalog.LOG_LAST_LINE) is None


def test_the_past_tells_whose_runner_speaks(eye: Eye, log: Path) -> None:
    eye.look()
    write(log, GENERATED)
    eye.look()

    assert eye(catalog.LOG_GENERATED_TOKENS, model="gemma3-270m:latest") == 16
    assert eye(catalog.LOG_GENERATED_TOKENS, model="unknown") == 0


def test_what_is_written_since_is_counted_once(eye: Eye, log: Path) -> None:
    eye.look()
    write(log, ACCESS, ACCESS.replace("200", "503"), ACCESS.replace("200", "404"), ACCESS.replace("200", "499"))
    for _ in range(3):
        eye.look()

    counted = {status: eye(catalog.LOG_REQUESTS, api_endpoint="/api/chat", status=status) for status in ("2xx", "503")}
    assert counted == {"2xx": 1, "503": 1}
    assert eye(catalog.LOG_REQUESTS, api_endpoint="/api/chat", status="4xx") == 1
    assert eye(catalog.LOG_REQUESTS, api_endpoint="/api/chat", status="499") == 1
    assert eye(catalog.LOG_DURATION, api_endpoint="/api/chat") == 1, "answers alone"
    assert (eye(catalog.LOG_LINES), eye(catalog.LOG_LAST_LINE)) == (4, 1000.0)


def test_reads_are_no_traffic(eye: Eye, log: Path) -> None:
    eye.look()
    write(log, ACCESS.replace("/api/chat", "/api/ps"), ACCESS.replace("/api/chat", "/v1/models/x"))
    eye.look()

    assert eye(catalog.LOG_READS, api_endpoint="/api/ps") == 1
    assert eye(catalog.LOG_READS, api_endpoint="/v1/models") == 1
    requests = [s.value for s in eye.reading.samples if s.family is catalog.LOG_REQUESTS]
    assert set(requests) == {0.0}


def test_every_incident_is_counted_under_its_kind(eye: Eye, log: Path) -> None:
    eye.look()
    write(log, (LOGS / "incidents.log").read_text(), (LOGS / "ollama-0.33.log").read_text())
    eye.look()

    assert {kind for kind in OCCURRENCES if not eye(catalog.LOG_EVENTS, kind=kind)} == set()
    assert eye(catalog.LOG_TRUNCATED_TOKENS) == 2 * (12010 - 2050)
    assert eye(catalog.LOG_SHIFTED_TOKENS, model="gemma3-270m:latest") == 2045
    assert eye(catalog.LOG_DRAFTED, model="gemma3-270m:latest") == 60
    assert eye(catalog.LOG_ACCEPTED, model="gemma3-270m:latest") == 45
    assert eye(catalog.LOG_STARTS) == 1
    assert eye(catalog.LOG_LOADS_BEGUN) == 2
    assert eye(catalog.LOG_LOAD_DURATION, model="smollm2:latest") == 1
    assert eye(catalog.LOG_GENERATIONS, model="smollm2:latest") == 1
    assert eye(catalog.LOG_PROMPT_TOKENS, model="smollm2:latest") == 15
    assert eye(catalog.LOG_PROMPT_SECONDS, model="smollm2:latest") == pytest.approx(0.35766)
    assert eye(catalog.LOG_CACHED_TOKENS, model="smollm2:latest") == 0
    assert eye(catalog.LOG_GENERATION_SECONDS, model="smollm2:latest") == 0


def test_every_family_of_logs_is_shown(eye: Eye, log: Path) -> None:
    eye.look()
    write(log, ACCESS)
    eye.look()

    shown = {sample.family.name for sample in eye.reading.samples}
    assert {f.name for f in catalog.FAMILIES if f.name.startswith("ollama_log_")} == shown


def test_a_line_in_another_form_is_said(eye: Eye, log: Path) -> None:
    eye.look()
    write(log, "[GIN] status=200 latency=3ms", ACCESS.replace("200", "101"))
    eye.look()

    assert eye(catalog.LOG_MISFITS, kind="access") == 2
    assert eye(catalog.LOG_MISFITS, kind="slot") == 0


def test_a_file_that_is_not_there_is_lacking_until_it_is_and_then_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "server.log"
    watch = watch_of(file=str(path))
    eye = Eye(LogSource(watch, Here()), watch)
    assert eye.look().blind

    write(path, ACCESS)
    eye.look()

    assert eye(catalog.LOG_REQUESTS, api_endpoint="/api/chat", status="2xx") == 1
    asyncio.run(eye.source.aclose())


def test_a_reading_that_breaks_shows_what_was_counted_and_no_gauge(eye: Eye, log: Path) -> None:
    eye.look()
    write(log, ACCESS)
    eye.look()

    class Broken:
        def read(self, most: int) -> Batch:
            raise OSError("stale file handle")

        def close(self) -> None: ...

    eye.source._tails[0].close()
    eye.source._tails[0] = Broken()  # type: ignore[assignment]
    assert eye.look().failure == "unavailable"

    assert eye(catalog.LOG_REQUESTS, api_endpoint="/api/chat", status="2xx") == 1
    assert eye(catalog.LOG_BEHIND) is None
    assert eye(catalog.LOG_BACKLOG) is None


def test_a_log_that_can_be_seen_no_more_is_a_failure_with_what_was_counted(eye: Eye) -> None:
    eye.look()

    class Gone:
        def read(self, most: int) -> Batch:
            raise Lacking("no Docker daemon answers", "mount it")

        def close(self) -> None: ...

    eye.source._tails[0].close()
    eye.source._tails[0] = Gone()  # type: ignore[assignment]

    assert eye.look().failure == "unavailable"
    assert eye(catalog.LOG_LINES) == 0


def test_an_avalanche_is_read_over_several_readings(eye: Eye, log: Path) -> None:
    eye.look()
    with log.open("a") as file:
        file.writelines(f"{'x' * 1023}\n" for _ in range(40 * 1024))  # more than one reading may take
        file.write(f"{ACCESS}\n")
    eye.look()

    assert eye(catalog.LOG_BEHIND) == 1
    assert eye(catalog.LOG_BACKLOG) > 0  # type: ignore[operator]
    while eye(catalog.LOG_BEHIND):
        eye.look()
    assert eye(catalog.LOG_BACKLOG) == 0
    assert eye(catalog.LOG_LINES) == 40 * 1024 + 1
    assert eye(catalog.LOG_REQUESTS, api_endpoint="/api/chat", status="2xx") == 1


# --- labels ----------------------------------------------------------------------------------------------------------


def loaded(name: str, blob: str = BLOB) -> list[bytes]:
    begun = f'time=2026-11-23T17:00:00Z level=INFO msg="starting llama-server" cmd="x --model /m/blobs/{blob} -np 1"'
    named = f'time=2026-11-23T17:00:00Z level=INFO msg="template selection" model=registry.ollama.ai/library/{name}'
    started = 'time=2026-11-23T17:00:00Z level=INFO msg="llama-server started in 1.00 seconds"'
    placed = 'time=2026-11-23T17:00:00Z level=INFO msg="loaded runners" count=1'
    lines = [begun, started, named, placed, started] if name else [begun, started, placed, started]
    return [line.encode() for line in lines]


@pytest.mark.parametrize(
    ("installed", "expected"),
    [((), "unknown"), (("tiny:latest",), "tiny:latest"), (("tiny:latest", "other:latest"), "unknown")],
)
def test_weights_without_a_name_have_one_if_only_one_model_has_them(installed: tuple[str, ...], expected: str) -> None:
    tally = Tally("a", names=lambda blob: installed if blob == BLOB else ())
    tally.count(0, [*loaded(""), GENERATED.encode()])

    assert value(tally.samples(), catalog.LOG_LOAD_DURATION, model=expected) == 1
    assert value(tally.samples(), catalog.LOG_GENERATIONS, model=expected) == 1


def test_models_past_the_cap_share_a_label() -> None:
    tally = Tally("a", models_max=2)
    for name in ("one", "two", "three", "four", "x" * 400):
        tally.count(0, [*loaded(name), GENERATED.encode()])

    samples = list(tally.samples())
    models = {s.labels[1]: s.value for s in samples if s.family is catalog.LOG_GENERATIONS}
    assert models == {"unknown": 0, "one:latest": 1, "two:latest": 1, "other": 3}


def test_series_of_a_model_begin_at_0_when_it_is_met() -> None:
    tally = Tally("a")
    tally.learn(0, loaded("tiny"))

    assert value(tally.samples(), catalog.LOG_GENERATED_TOKENS, model="tiny:latest") == 0
    assert value(tally.samples(), catalog.LOG_LOAD_DURATION, model="tiny:latest") == 0


# --- where the log is ------------------------------------------------------------------------------------------------


class Process:
    """A process in a /proc of our own: what its standard output and standard error are."""

    def __init__(self, folder: Path, stdout: Path | None = None, stderr: Path | None = None) -> None:
        self.proc, self.descriptors = folder / "proc", folder / "proc" / "7" / "fd"
        self.descriptors.mkdir(parents=True)
        for number, target in (("1", stdout), ("2", stderr)):
            if target is not None:
                (self.descriptors / number).symlink_to(target)

    def found(self, cgroup: str = "") -> Found:
        return where(Place((("127.0.0.1", 11434),), None, 7, 0.0, cgroup), self.proc)


ID = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("cgroup", "target"),
    [
        ("/system.slice/ollama.service", Target("journal", "ollama.service")),
        ("0::/system.slice/ollama.service\n", Target("journal", "ollama.service")),
        ("/system.slice/system-ollama.slice/ollama@2.service", Target("journal", "ollama@2.service")),
        (
            "/user.slice/user-1000.slice/user@1000.service/app.slice/ollama.service",
            Target("journal", "ollama.service", user=True),
        ),
        (f"/system.slice/docker-{ID}.scope", Target("container", ID)),
        (f"/docker/{ID}", Target("container", ID)),
    ],
)
def test_a_cgroup_tells_the_unit_or_the_container(tmp_path: Path, cgroup: str, target: Target) -> None:
    assert Process(tmp_path).found(cgroup).targets == (target,)


def test_a_file_that_the_process_writes_to_is_its_log_whatever_its_cgroup(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.touch()
    process = Process(tmp_path, log, log)

    found = process.found("/system.slice/ollama.service")

    assert found == Found((Target("file", str(process.descriptors / "1")),))


def test_two_files_are_both_its_log_and_one_alone_lacks_something(tmp_path: Path) -> None:
    out, err = tmp_path / "out", tmp_path / "err"
    out.touch()
    err.touch()
    (tmp_path / "half").mkdir()

    assert len(Process(tmp_path, out, err).found().targets) == 2
    half = Process(tmp_path / "half", Path("/dev/null"), err).found()
    assert [target.name[-1] for target in half.targets] == ["2"]
    assert "access lines" in half.lacks[0].what


def test_what_cannot_be_read_is_lacking_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(Lacking, match="terminal, a pipe or nowhere"):
        Process(tmp_path, Path("/dev/null"), Path("/dev/null")).found("/system.slice/ssh.service")
    (tmp_path / "b").mkdir()
    with pytest.raises(Lacking) as lacking:
        Process(tmp_path / "b").found("/user.slice/user-0.slice/session-1.scope")
    assert "servers[].logs.file" in lacking.value.lack.remedy


def test_a_server_elsewhere_whose_log_nobody_named_is_blind() -> None:
    watch = watch_of()
    eye = Eye(LogSource(watch, Here()), watch)

    assert eye.look().blind
    assert "servers[].logs.file" in eye.reading.lacks[0].remedy


def test_a_process_s_own_file_is_followed_and_its_two_streams_are_one_account(tmp_path: Path) -> None:
    out, err = tmp_path / "out", tmp_path / "err"
    out.touch()
    err.touch()
    process = Process(tmp_path, out, err)
    watch = watch_of()
    source = LogSource(watch, Here(Place((), None, 7)), proc=process.proc)
    eye = Eye(source, watch)
    eye.look()

    write(out, ACCESS)
    write(err, *[line.decode() for line in loaded("tiny")], GENERATED)
    eye.look()

    assert eye(catalog.LOG_REQUESTS, api_endpoint="/api/chat", status="2xx") == 1
    assert eye(catalog.LOG_GENERATIONS, model="tiny:latest") == 1
    asyncio.run(source.aclose())


def test_a_server_that_starts_anew_under_another_process_is_followed_on(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.touch()
    process = Process(tmp_path, log, log)
    machine = Here(Place((), None, 7))
    watch = watch_of()
    source = LogSource(watch, machine, proc=process.proc)
    eye = Eye(source, watch)
    eye.look()
    write(log, ACCESS)
    process.descriptors.parent.rename(process.proc / "8")
    machine.there = Place((), None, 8)
    source._find_due = 0.0
    write(log, ACCESS)
    eye.look()

    assert eye(catalog.LOG_REQUESTS, api_endpoint="/api/chat", status="2xx") == 2
    machine.there = None  # down
    source._find_due = 0.0
    write(log, ACCESS)
    eye.look()
    assert eye(catalog.LOG_REQUESTS, api_endpoint="/api/chat", status="2xx") == 3
    asyncio.run(source.aclose())


def test_the_source_is_built_from_the_table(log: Path) -> None:
    source = build(watch_of(file=str(log)), Surroundings(machine=Here()))

    assert isinstance(source, LogSource)
    asyncio.run(source.aclose())


def test_nothing_is_left_open(log: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    watch = watch_of(file=str(log))
    eye = Eye(LogSource(watch, Here()), watch)
    eye.look()
    assert len(os.listdir("/proc/self/fd")) == before + 1
    asyncio.run(eye.source.aclose())

    assert len(os.listdir("/proc/self/fd")) == before


# --- what is counted is what happened --------------------------------------------------------------------------------


class Scene:
    """A simulated server that writes a log, and the account of it."""

    def __init__(self, engine: EngineConfig | None = None) -> None:
        self.lines: list[str] = []
        config = ServerConfig("a", engine or EngineConfig())
        self.server = SimServer(config, virtual_wall_clock, self.lines.append)
        self.people = httpx.AsyncClient(transport=SimTransport({"a": self.server}), base_url=URL, timeout=PATIENT)
        self.spent = {"prompt": 0, "tokens": 0, "answers": 0}

    async def ask(self, model: str = "tinyllama", **body: Any) -> int:
        body = {"model": model, "prompt": "Why is the sky blue?", "stream": False, **body}
        response = await self.people.post("/api/generate", json=body)
        if response.status_code == 200 and response.json().get("eval_count"):
            self.spent["tokens"] += response.json()["eval_count"]
            self.spent["prompt"] += response.json()["prompt_eval_count"]
            self.spent["answers"] += 1
        return response.status_code

    def counted(self) -> list[Sample]:
        tally = Tally("a")
        tally.count(0, [line.rstrip("\n").encode() for line in self.lines])
        return list(tally.samples())

    async def aclose(self) -> None:
        await self.people.aclose()
        await self.server.aclose()


def summed(samples: Iterable[Sample], family: Family, **labels: str) -> float:
    """Over all labels that are not given."""
    places = {name: family.labels.index(name) for name in labels}
    chosen = [s for s in samples if s.family is family and all(s.labels[places[n]] == v for n, v in labels.items())]
    return sum(s.value.counts[-1] if isinstance(s.value, Distribution) else s.value for s in chosen)


@virtually
async def test_tokens_of_the_log_are_those_of_the_answers() -> None:
    scene = Scene(EngineConfig(num_parallel=4))
    for number in range(10):
        await scene.ask(prompt=f"Tell me about number {number % 3}, please, and of nothing else in this world at all")
    samples = scene.counted()

    assert value(samples, catalog.LOG_GENERATED_TOKENS, model="tinyllama:latest") == scene.spent["tokens"]
    assert value(samples, catalog.LOG_GENERATIONS, model="tinyllama:latest") == scene.spent["answers"] == 10
    processed = value(samples, catalog.LOG_PROMPT_TOKENS, model="tinyllama:latest") or 0.0
    cached = value(samples, catalog.LOG_CACHED_TOKENS, model="tinyllama:latest") or 0.0
    assert cached > 0
    assert processed + cached == scene.spent["prompt"]
    assert summed(samples, catalog.LOG_MISFITS) == 0
    await scene.aclose()


@virtually
async def test_a_flood_of_two_models_for_one_place_is_counted_as_it_happened() -> None:
    scene = Scene(EngineConfig(max_loaded_models=1, max_queue=4))
    models = ["tinyllama", "llama3.2:3b"] * 20
    statuses = await asyncio.gather(*[scene.ask(model, options={"num_predict": 8}) for model in models])
    samples, log = scene.counted(), scene.server.log

    assert summed(samples, catalog.LOG_REQUESTS, status="503") == statuses.count(503) == len(log.of("reject")) > 0
    assert summed(samples, catalog.LOG_REQUESTS, status="2xx") == statuses.count(200)
    assert summed(samples, catalog.LOG_REQUESTS) == len(log.of("request"))
    for model in (TINYLLAMA, LLAMA32_3B):
        loads = len(log.of("load", "reload", model=model.name))
        assert value(samples, catalog.LOG_LOAD_DURATION, model=model.name) == loads
    assert value(samples, catalog.LOG_GENERATIONS, model="unknown") == 0, "only one is loaded at a time"
    await scene.aclose()


@virtually
async def test_misfortunes_are_counted_as_they_happened() -> None:
    scene = Scene(EngineConfig(default_num_ctx=512))
    await scene.ask(prompt="word " * 2000)
    scene.server.inject(Fault("runner_killed"))
    await scene.ask()
    scene.server.inject(Fault("load_failed", model=LLAMA32_3B.name))
    assert await scene.ask("llama3.2:3b") == 500
    scene.server.heal()
    scene.server.inject(Fault("dead", seconds=5.0))
    await asyncio.sleep(10.0)
    await scene.ask()
    samples = scene.counted()

    kinds = ("prompt_truncated", "runner_died", "load_failed", "load_aborted")
    assert [value(samples, catalog.LOG_EVENTS, kind=kind) for kind in kinds] == [1, 1, 1, 0]
    assert (value(samples, catalog.LOG_TRUNCATED_TOKENS) or 0) > 1000
    assert value(samples, catalog.LOG_STARTS) == 2, "its own and the one after its death"
    assert summed(samples, catalog.LOG_REQUESTS, status="5xx") == 1
    await scene.aclose()


@virtually
async def test_clients_that_leave_show_as_ollama_shows_them() -> None:
    scene = Scene(EngineConfig(num_parallel=1))
    left = asyncio.create_task(scene.ask())
    await asyncio.sleep(0.5)
    left.cancel()  # while its model loads
    await asyncio.sleep(5.0)
    await scene.ask()
    asking = [
        asyncio.create_task(scene.ask(prompt="Tell a long story", options={"num_predict": 500})) for _ in range(3)
    ]
    await asyncio.sleep(0.2)
    for task in asking:
        task.cancel()  # one is being answered, two wait for the slot
    await asyncio.sleep(1.0)
    samples = scene.counted()

    assert value(samples, catalog.LOG_EVENTS, kind="load_aborted") == 1
    assert value(samples, catalog.LOG_EVENTS, kind="load_failed") == 0
    assert value(samples, catalog.LOG_REQUESTS, api_endpoint="/api/generate", status="499") == 1
    assert value(samples, catalog.LOG_EVENTS, kind="client_left_queue") == 2
    assert value(samples, catalog.LOG_REQUESTS, api_endpoint="/api/generate", status="5xx") == 3
    assert value(samples, catalog.LOG_REQUESTS, api_endpoint="/api/generate", status="2xx") == 1
    assert value(samples, catalog.LOG_GENERATIONS, model="tinyllama:latest") == 1
    await scene.aclose()


def test_a_fleet_s_users_are_all_in_its_logs() -> None:
    lines: list[str] = []

    async def run() -> SimFleet:
        traffic = Traffic(2.0, phase=0.0, shares=((TINYLLAMA, 0.8), (NOMIC_EMBED, 0.2)))
        member = Member(ServerConfig("a", EngineConfig(num_parallel=8)), traffic)
        fleet = SimFleet(FleetConfig(members=(member,)), virtual_wall_clock, {"a": lines.append})
        running = asyncio.create_task(fleet.run())
        await asyncio.sleep(60.0)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return fleet

    tally = run_virtual(run()).tallies["a"]
    account = Tally("a")
    account.count(0, [line.encode() for line in lines])
    samples = list(account.samples())

    assert tally.answered > 50
    assert summed(samples, catalog.LOG_REQUESTS, status="2xx") == tally.answered
    assert summed(samples, catalog.LOG_REQUESTS, api_endpoint="/api/embed") > 0
    assert value(samples, catalog.LOG_SETTING, setting="OLLAMA_NUM_PARALLEL", value="8") == 1


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0ns"),
        (120.452e-6, "120.452µs"),
        (0.033, "33ms"),
        (5.054276458, "5.054276458s"),
        (1951.0, "32m31s"),
        (7200.5, "2h0m0.5s"),
    ],
)
def test_the_simulator_writes_durations_as_go_does(seconds: float, text: str) -> None:
    assert go_duration(seconds) == text


@virtually
async def test_answers_whose_runner_goes_before_it_has_told_them_are_counted_as_cut_off() -> None:
    scene = Scene(EngineConfig(max_loaded_models=1, num_parallel=2))
    scene.server.inject(Fault("log_cut_short"))
    await asyncio.gather(*[scene.ask(model, options={"num_predict": 8}) for model in ["tinyllama", "llama3.2:3b"] * 10])
    scene.server.heal()
    for model in ("tinyllama", "llama3.2:3b"):  # the last runner that was cut is replaced
        await scene.ask(model, options={"num_predict": 8})
    samples = scene.counted()

    told, cut = summed(samples, catalog.LOG_GENERATIONS), summed(samples, catalog.LOG_CUT_OFF)
    assert told + cut == scene.spent["answers"] == 22
    assert cut == len(scene.server.log.of("evict")) - 2, "every eviction under the fault, those after an idle one not"
    assert value(samples, catalog.LOG_CUT_OFF, model="unknown") == 0, "only one is loaded at a time"
    tokens = summed(samples, catalog.LOG_GENERATED_TOKENS)
    assert tokens < scene.spent["tokens"]
    assert tokens * (1 + cut / told) == pytest.approx(scene.spent["tokens"])
    await scene.aclose()


@virtually
async def test_a_runner_killed_in_mid_answer_leaves_what_it_had_told_of_it() -> None:
    scene = Scene()
    await scene.ask()
    scene.server.inject(Fault("slow", factor=20.0))
    asked = asyncio.create_task(scene.ask())
    await asyncio.sleep(5.0)
    scene.server.inject(Fault("runner_killed"))
    scene.server.heal("slow")
    assert await asked == 500
    assert summed(scene.counted(), catalog.LOG_CUT_OFF) == 0, "nobody has said yet that it is gone"
    await scene.ask()
    samples = scene.counted()

    assert value(samples, catalog.LOG_CUT_OFF, model="tinyllama:latest") == 1
    seen = value(samples, catalog.LOG_CUT_OFF_TOKENS, model="tinyllama:latest") or 0.0
    assert 3.0 * 140 / 20 <= seen < 5.0 * 140 / 20, "tokens of three seconds, of five"
    await scene.aclose()


def test_what_was_begun_before_lines_were_lost_is_never_cut_off() -> None:
    tally = Tally("a")
    began = [
        b"slot launch_slot_: id  3 | task 0 | processing task, is_child = 0",
        b"slot init_sampler: id  3 | task 0 | init sampler, took 0.01 ms, tokens: text = 7, total = 7",
    ]
    tally.count(0, [*loaded("tiny"), *began])
    tally.count(0, loaded("tiny"), gaps=1)
    tally.count(0, began)
    tally.learn(0, [])
    tally.count(0, loaded("tiny"))
    assert summed(tally.samples(), catalog.LOG_CUT_OFF) == 0

    tally.count(0, [*began, *loaded("tiny")])
    assert value(tally.samples(), catalog.LOG_CUT_OFF, model="tiny:latest") == 1
