"""The host source against this very machine: real psutil, real files, real processes under Ollama's names.

Other processes of Ollama may run on the machine, so most tests show the source only the processes that they started.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter import catalog
from exporter.local.processes import find, judge
from exporter.model import ApiSettings, Endpoint, Failed, Family, HostSettings, Sample, Watch
from exporter.sources.host import (
    HostSource,
    default_store,
    named_store,
    parse_pressure,
    steady,
    worth_showing,
)

linux = pytest.mark.skipif(sys.platform != "linux", reason="asks the Linux kernel")

HOST_FAMILIES = {family for family in catalog.FAMILIES if family.name.startswith("ollama_host_")}
PROCESS_FAMILIES = {family for family in HOST_FAMILIES if family.name.startswith("ollama_host_process")}
BLOB = "/usr/share/ollama/.ollama/models/blobs/sha256-a5fd3b62"


def source(
    models_dir: str = "",
    *,
    proc: Path = Path("/proc"),
    processes: Callable[[], Iterable[psutil.Process]] = lambda: (),
    environment: Mapping[str, str] | None = None,
    within: float = 10.0,
) -> HostSource:
    watch = Watch("", "host", 15.0, within, HostSettings("gpu1", models_dir))
    return HostSource(watch, proc=proc, processes=processes, environment=environment or {})


def look(source: HostSource) -> dict[Family, dict[tuple[str, ...], float]]:
    return by_family(asyncio.run(source.collect()))


def by_family(samples: Iterable[Sample]) -> dict[Family, dict[tuple[str, ...], float]]:
    """Values by labels (without the label host, which is checked here)."""
    families: dict[Family, dict[tuple[str, ...], float]] = {}
    for sample in samples:
        assert isinstance(sample.value, int | float)
        assert sample.family.labels[0] == "host"
        assert sample.labels[0] == "gpu1"
        children = families.setdefault(sample.family, {})
        assert sample.labels[1:] not in children, "a series twice"
        children[sample.labels[1:]] = sample.value
    return families


# --- the machine -----------------------------------------------------------------------------------------------------


def test_the_machine_is_told_within_plausible_bounds() -> None:
    seen = look(source())
    assert seen[catalog.HOST_CPUS] == {(): psutil.cpu_count()}
    assert seen[catalog.HOST_LOAD].keys() == {("1m",), ("5m",), ("15m",)}
    assert 0 < seen[catalog.HOST_MEMORY_AVAILABLE][()] <= seen[catalog.HOST_MEMORY_TOTAL][()]
    assert 0 <= seen[catalog.HOST_SWAP_USED][()] <= seen[catalog.HOST_SWAP_TOTAL][()]
    assert 0 < seen[catalog.HOST_BOOT][()] < time.time()
    devices = {(device,) for device in worth_showing(psutil.net_io_counters(pernic=True))}
    assert seen.get(catalog.HOST_RECEIVED, {}).keys() == seen.get(catalog.HOST_SENT, {}).keys() == devices
    assert all(value >= 0 for family in seen.values() for value in family.values())


def test_the_modes_of_cpu_time_add_up_to_time_that_grows_and_leave_out_guests() -> None:
    host = source()
    before = look(host)[catalog.HOST_CPU]
    burn(0.1)
    after = look(host)[catalog.HOST_CPU]
    assert before.keys() == after.keys()
    assert {("user",), ("system",), ("idle",)} <= after.keys()
    assert not {("guest",), ("guest_nice",)} & after.keys()
    assert sum(after.values()) > sum(before.values())
    assert all(after[mode] >= before[mode] for mode in after)


def burn(seconds: float) -> None:
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [(0.0, 5.0, 5.0), (5.0, 6.0, 6.0), (5.0, 4.99, 5.0), (5.0, 2.0, 5.0), (900.0, 1.0, 1.0)],
    ids=["first", "grows", "a-tick-back", "just-held", "restart"],
)
def test_a_kernel_counter_that_trembles_stands_still(before: float, now: float, told: float) -> None:
    assert steady(before, now) == told


def test_devices_that_come_and_go_with_containers_or_only_pass_traffic_on_are_left_out() -> None:
    stay = ["br-lan", "bond0", "docks", "eth0", "greenet0", "long0", "sit", "tun0", "wg0", "wlan0"]
    bridges = ["veth1a2b3c", "br-0123456789ab", "docker0", "virbr0", "virbr0-nic"]
    tunnels = ["gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "ip6gre0", "ip6tnl0", "sit0", "tunl0"]
    others = ["lo", "lo0", "ifb0", "ifb12", "dummy0"]
    assert worth_showing([*bridges, *tunnels, *others, *stay]) == sorted(stay)


def test_no_more_than_32_devices_are_shown() -> None:
    devices = [f"tap{number:03}" for number in range(100)]
    assert worth_showing(reversed(devices)) == devices[:32]


# --- pressure --------------------------------------------------------------------------------------------------------

SOME = "some avg10=0.05 avg60=1.00 avg300=1.14 total=9265743\n"
FULL = "full avg10=0.00 avg60=0.00 avg300=0.00 total=250000\n"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (SOME + FULL, {"some": 9.265743, "full": 0.25}),
        (SOME, {"some": 9.265743}),
        ("", {}),
        ("some avg10=0.05 avg60=1.00 avg300=1.14 total=\n" + FULL, {"full": 0.25}),
        ("some avg10=0.05 avg60=1.00 avg300=1.14 total=-1\n", {}),
        ("some avg10=0.05 avg60=1.00 avg300=1.14 total=1e9\n", {}),
        ("most avg10=0.05 avg60=1.00 avg300=1.14 total=1\n", {}),
        ("some subtotal=1\n", {}),
        ("some total=" + "9" * 5000 + "\n", {}),
    ],
    ids=["both", "some-only", "empty", "no-number", "negative", "float", "share", "other-key", "endless"],
)
def test_pressure_is_parsed(text: str, seconds: dict[str, float]) -> None:
    assert parse_pressure(text) == seconds


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_any_total_of_the_kernel_is_understood(some: int, full: int) -> None:
    average = "avg10=0.00 avg60=0.00 avg300=0.00"
    text = f"some {average} total={some}\nfull {average} total={full}\n"
    assert parse_pressure(text) == {"some": some / 1e6, "full": full / 1e6}


@given(st.lists(st.sampled_from(["some", "full", " ", "total=", "\n", "avg10=0.0", "7", "-", "é", "９"])).map("".join))
def test_garbage_in_a_pressure_file_gives_finite_seconds_or_nothing(text: str) -> None:
    parsed = parse_pressure(text)
    assert parsed.keys() <= {"some", "full"}
    assert all(math.isfinite(seconds) and seconds >= 0 for seconds in parsed.values())


def test_pressure_files_become_seconds_and_the_undefined_one_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "pressure").mkdir()
    for resource in ("cpu", "io"):
        (tmp_path / "pressure" / resource).write_text(SOME + FULL)
    expected = {("cpu", "some"): 9.265743, ("io", "some"): 9.265743, ("io", "full"): 0.25}
    assert look(source(proc=tmp_path))[catalog.HOST_PRESSURE] == expected


def test_pressure_that_cannot_be_read_is_absent_and_no_failure(tmp_path: Path) -> None:
    (tmp_path / "pressure" / "io").mkdir(parents=True)  # to open is fine, to read is not
    (tmp_path / "pressure" / "cpu").write_bytes(b"\xff\xfe\x00")
    assert catalog.HOST_PRESSURE not in look(source(proc=tmp_path))


# --- processes: who is who -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arguments", "of_ollama", "role"),
    [
        ("ollama", "/usr/local/bin/ollama serve", False, "serve"),
        ("ollama", "ollama start", False, "serve"),
        (".ollama-wrapped", "/nix/store/x/bin/ollama serve", False, "serve"),
        ("ollama", "ollama run llama3", False, None),
        ("ollama", "ollama", False, None),
        ("ollama", "ollama run serve", False, None),
        ("ollama app", "/Applications/Ollama.app/Contents/MacOS/Ollama serve", False, None),
        ("llama-server", f"/usr/local/lib/ollama/llama-server --model {BLOB} --port 1", True, "runner"),
        ("llama-server", f"/usr/local/lib/ollama/llama-server --model {BLOB} --port 1", False, "runner"),
        ("llama-server", f"/Applications/Ollama.app/Contents/Resources/llama-server --model {BLOB}", True, "runner"),
        ("llama-server", "/usr/local/lib/ollama/llama-server --list-devices", True, None),
        ("llama-server", "/opt/llama.cpp/llama-server --model my.gguf", False, None),
        ("llama-server", "llama-server -m my.gguf", False, None),
        ("ollama_llama_server", f"/tmp/o/ollama_llama_server --model {BLOB} --ctx-size 2048", False, "runner"),
        ("ollama_llama_server", f"/tmp/o/ollama_llama_server runner --model {BLOB} --port 1", False, "runner"),
        ("ollama", f"/usr/bin/ollama runner --model {BLOB} --port 1", True, "runner"),
        ("ollama", f"/usr/bin/ollama runner --ollama-engine --model {BLOB} --port 1", True, "runner"),
        ("ollama", "/usr/bin/ollama runner --mlx-engine --model gemma3 --port 1", True, "runner"),
        ("ollama", "/usr/bin/ollama runner --ollama-engine --port 1", True, None),
        ("llama-server", "", True, None),
    ],
    ids=[
        "serve", "start", "nix", "client", "bare", "model-called-serve", "desktop-app", "0.30", "orphan", "mac",
        "gpu-discovery", "someone-elses", "someone-elses-short", "0.1.32", "0.5.2", "0.11.5", "engine", "mlx",
        "older-gpu-discovery", "no-arguments",
    ],
)  # fmt: skip
def test_processes_are_judged_by_name_arguments_and_parent(
    name: str, arguments: str, of_ollama: bool, role: str | None
) -> None:
    assert judge(name, arguments.split(), of_ollama=of_ollama) == role


class Fake(psutil.Process):
    """A process out of values. `errors` names what it refuses to tell; "" stands for everything but its name."""

    def __init__(
        self,
        pid: int,
        arguments: str = "ollama serve",
        *,
        name: str = "ollama",
        parent: int = 1,
        cpu: float = 0.0,
        started: float = 1000.0,
        environment: Mapping[str, str] | None = None,
        errors: Mapping[str, type[psutil.Error]] | None = None,
    ) -> None:
        self.cpu = cpu
        self._values: dict[str, Any] = {
            "name": name,
            "cmdline": arguments.split(),
            "ppid": parent,
            "create_time": started,
            "memory_info": psutil.Process().memory_info()._replace(rss=100),
            "num_fds": 7,
            "environ": dict(environment or {}),
        }
        self._errors = dict(errors or {})
        self._fake_pid = pid

    @property
    def pid(self) -> int:
        return self._fake_pid

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Fake) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[int, float]:
        return self._fake_pid, self._values["create_time"]

    def oneshot(self) -> contextlib.nullcontext[None]:
        return contextlib.nullcontext()

    def is_running(self) -> bool:
        return True

    def _ask(self, what: str) -> Any:
        error = self._errors.get(what)
        if error is not None:
            raise error(self._fake_pid)
        return self._values[what]

    def name(self) -> str:
        return str(self._ask("name"))

    def cmdline(self) -> Any:
        return self._ask("cmdline")

    def ppid(self) -> Any:
        return self._ask("ppid")

    def create_time(self) -> Any:
        return self._ask("create_time")

    def cpu_times(self) -> Any:
        self._values["cpu_times"] = psutil.Process().cpu_times()._replace(user=self.cpu, system=0.0)
        return self._ask("cpu_times")

    def memory_info(self) -> Any:
        return self._ask("memory_info")

    def num_fds(self) -> Any:
        return self._ask("num_fds")

    def environ(self) -> Any:
        return self._ask("environ")


def runner(pid: int, *, parent: int = 1, **values: Any) -> Fake:
    return Fake(pid, f"/x/llama-server --model {BLOB}", name="llama-server", parent=parent, **values)


def test_a_runner_is_told_by_its_parent_and_a_stranger_is_not() -> None:
    serve, ours, strangers = Fake(10), runner(11, parent=10), runner(12, parent=1)
    assert find([strangers, ours, serve]) == {ours: "runner", serve: "serve"}


def test_names_of_windows_and_of_capitals_are_known() -> None:
    assert list((find([Fake(10, name="Ollama.exe")]) or {}).values()) == ["serve"]


@pytest.mark.parametrize("error", [psutil.NoSuchProcess, psutil.ZombieProcess])
@pytest.mark.parametrize("what", ["name", "cmdline", "ppid", "cpu_times", "memory_info", "num_fds", "create_time"])
def test_a_process_that_ends_while_it_is_looked_at_is_not_counted(what: str, error: type[psutil.Error]) -> None:
    ending = runner(11, parent=10, errors={what: error})
    seen = look(source(processes=lambda: [Fake(10), ending]))
    assert seen[catalog.HOST_PROCESSES] == {("serve",): 1, ("runner",): 0}


def test_a_process_that_hides_its_name_is_passed_over() -> None:
    hidden = Fake(11, errors={"name": psutil.AccessDenied})
    seen = look(source(processes=lambda: [hidden, Fake(10)]))
    assert seen[catalog.HOST_PROCESSES] == {("serve",): 1, ("runner",): 0}


def test_when_one_that_may_be_ollamas_hides_its_arguments_nothing_is_said_of_processes() -> None:
    hidden = Fake(11, errors={"cmdline": psutil.AccessDenied})
    assert not PROCESS_FAMILIES & look(source(processes=lambda: [Fake(10), hidden])).keys()


@pytest.mark.parametrize(
    ("what", "family"),
    [
        ("cpu_times", catalog.HOST_PROCESS_CPU),
        ("memory_info", catalog.HOST_PROCESS_RSS),
        ("num_fds", catalog.HOST_PROCESS_FDS),
    ],
)
def test_a_sum_with_a_hidden_part_is_absent_and_the_rest_is_there(what: str, family: Family) -> None:
    processes = [Fake(10), runner(11, parent=10), runner(12, parent=10, errors={what: psutil.AccessDenied})]
    seen = look(source(processes=lambda: processes))
    assert seen[catalog.HOST_PROCESSES] == {("serve",): 1, ("runner",): 2}
    assert ("runner",) not in seen[family]
    assert {("serve",)} == seen[family].keys()
    assert all(("runner",) in seen[other] for other in PROCESS_FAMILIES - {family})


def test_sums_and_the_youngest_start_are_told_per_kind() -> None:
    processes = [Fake(10, started=50.0), runner(11, parent=10, started=80.0), runner(12, parent=10, started=70.0)]
    seen = look(source(processes=lambda: processes))
    assert seen[catalog.HOST_PROCESS_START] == {("serve",): 50.0, ("runner",): 80.0}
    assert seen[catalog.HOST_PROCESS_RSS] == {("serve",): 100, ("runner",): 200}
    assert seen[catalog.HOST_PROCESS_FDS] == {("serve",): 7, ("runner",): 14}


def test_a_runner_without_any_serve_is_worth_telling() -> None:
    orphan = Fake(11, f"/usr/lib/ollama/llama-server --model {BLOB}", name="llama-server")
    seen = look(source(processes=lambda: [orphan]))
    assert seen[catalog.HOST_PROCESSES] == {("serve",): 0, ("runner",): 1}


# --- processes: CPU time ---------------------------------------------------------------------------------------------


def cpu_of_runners(host: HostSource) -> float | None:
    return look(host)[catalog.HOST_PROCESS_CPU].get(("runner",))


def test_cpu_time_from_before_the_first_look_is_not_counted_and_all_later_time_is() -> None:
    processes: list[Fake] = [Fake(10), runner(11, parent=10, cpu=500.0)]
    host = source(processes=lambda: processes)
    assert cpu_of_runners(host) == 0
    processes[1].cpu = 503.0
    processes.append(runner(12, parent=10, cpu=4.0))
    assert cpu_of_runners(host) == 7.0


def test_cpu_time_outlives_its_process_and_a_reused_pid_is_another_process() -> None:
    processes: list[Fake] = [Fake(10)]
    host = source(processes=lambda: processes)
    assert cpu_of_runners(host) == 0
    processes.append(runner(11, parent=10, cpu=9.0, started=1.0))
    assert cpu_of_runners(host) == 9.0
    processes[1:] = []
    assert cpu_of_runners(host) == 9.0
    processes.append(runner(11, parent=10, cpu=2.0, started=2.0))
    assert cpu_of_runners(host) == 11.0


def test_cpu_time_never_runs_backwards() -> None:
    process = runner(11, parent=10)
    host = source(processes=lambda: [Fake(10), process])
    told = []
    for process.cpu in (5.0, 8.0, 7.0, 8.0, 9.0):
        told.append(cpu_of_runners(host))
    assert told == [0.0, 3.0, 3.0, 3.0, 4.0]


def test_cpu_time_that_was_hidden_for_a_while_is_caught_up_once() -> None:
    process = runner(11, parent=10, cpu=5.0)
    host = source(processes=lambda: [Fake(10), process])
    assert cpu_of_runners(host) == 0
    process.cpu, process._errors = 8.0, {"cpu_times": psutil.AccessDenied}
    assert cpu_of_runners(host) is None
    process._errors = {"cmdline": psutil.AccessDenied}
    assert catalog.HOST_PROCESS_CPU not in look(host)
    process._errors = {}
    assert cpu_of_runners(host) == 3.0


# --- processes: real ones --------------------------------------------------------------------------------------------

# Runs as `ollama serve`. Does what it is told on its standard input, one answer per line.
SERVE = """
import subprocess, sys
from pathlib import Path
runner = None
print("ready", flush=True)
for command in sys.stdin:
    if command == "load\\n":
        runner = subprocess.Popen(
            [Path("llama-server").absolute(), "-I", "-S", "-c", Path("spin").read_text(), "--model", "sha256-0"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        runner.stdout.readline()
        print(runner.pid, flush=True)
    else:
        runner.communicate()
        print("unloaded", flush=True)
"""
SPIN = """
import sys, time
while time.process_time() < 0.2: pass
print("spun", flush=True)
sys.stdin.read()
"""


class Ollama:
    """A real process `ollama serve` that starts and ends a real `llama-server --model`; both are Python inside."""

    def __init__(self, directory: Path, environment: Mapping[str, str] | None = None) -> None:
        (directory / "serve").write_text(SERVE)
        (directory / "spin").write_text(SPIN)
        for name in ("ollama", "llama-server"):
            if not (directory / name).exists():
                (directory / name).symlink_to(os.path.realpath(sys.executable))
        self.pids: set[int] = set()
        self._serve = subprocess.Popen(
            [directory / "ollama", "-I", "-S", "serve"],
            cwd=directory,
            env=dict(environment or {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self._serve.pid
        self.pids.add(self.pid)
        assert self._read() == "ready"

    def load(self) -> int:
        pid = int(self._tell("load"))
        self.pids.add(pid)
        return pid

    def unload(self) -> None:
        assert self._tell("unload") == "unloaded"

    def end(self) -> None:
        """At the end of its input serve ends; so does its runner then, whose input it held."""
        self._serve.communicate(timeout=30)

    def end_without_being_waited_for(self) -> None:
        assert self._serve.stdin is not None
        self._serve.stdin.close()
        self._serve.stdin = None
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)

    def processes(self) -> Iterator[psutil.Process]:
        return (process for process in psutil.process_iter() if process.pid in self.pids)

    def _tell(self, command: str) -> str:
        assert self._serve.stdin is not None
        self._serve.stdin.write(command + "\n")
        self._serve.stdin.flush()
        return self._read()

    def _read(self) -> str:
        assert self._serve.stdout is not None
        return self._serve.stdout.readline().strip()


@contextlib.contextmanager
def ollama(directory: Path, environment: Mapping[str, str] | None = None) -> Iterator[Ollama]:
    running = Ollama(directory, environment)
    try:
        yield running
    finally:
        running.end()


@linux
def test_real_processes_of_ollama_are_found_among_all_of_the_machine(tmp_path: Path) -> None:
    with ollama(tmp_path) as real:
        pid = real.load()
        found = find(psutil.process_iter())
        assert found is not None
        assert found[psutil.Process(real.pid)] == "serve"
        assert found[psutil.Process(pid)] == "runner"
        assert psutil.Process() not in found


@linux
def test_real_processes_appear_and_their_cpu_time_outlives_them(tmp_path: Path) -> None:
    began = time.time()
    with ollama(tmp_path) as real:
        host = source(processes=real.processes)
        seen = look(host)
        assert seen[catalog.HOST_PROCESSES] == {("serve",): 1, ("runner",): 0}
        assert seen[catalog.HOST_PROCESS_CPU] == {("serve",): 0, ("runner",): 0}
        assert seen[catalog.HOST_PROCESS_RSS].keys() == {("serve",)}
        assert seen[catalog.HOST_PROCESS_RSS][("serve",)] > 2**20
        assert seen[catalog.HOST_PROCESS_FDS][("serve",)] >= 3

        real.load()
        seen = look(host)
        assert seen[catalog.HOST_PROCESSES] == {("serve",): 1, ("runner",): 1}
        spun = seen[catalog.HOST_PROCESS_CPU][("runner",)]
        assert spun >= 0.15
        # The kernel tells the machine's start in whole seconds only.
        assert began - 2 < seen[catalog.HOST_PROCESS_START][("runner",)] < time.time() + 2

        real.unload()
        seen = look(host)
        assert seen[catalog.HOST_PROCESSES] == {("serve",): 1, ("runner",): 0}
        assert seen[catalog.HOST_PROCESS_CPU][("runner",)] == spun
        assert ("runner",) not in seen[catalog.HOST_PROCESS_RSS]

        real.load()
        assert (cpu_of_runners(host) or 0) >= spun + 0.15
        real.unload()
    assert not PROCESS_FAMILIES & look(host).keys()


@linux
def test_a_zombie_is_not_a_process_of_ollama(tmp_path: Path) -> None:
    with ollama(tmp_path) as real:
        real.end_without_being_waited_for()
        assert psutil.Process(real.pid).status() == psutil.STATUS_ZOMBIE
        assert not PROCESS_FAMILIES & look(source(processes=real.processes)).keys()


@linux
def test_a_pid_that_the_list_remembers_for_another_process_is_looked_up_anew(tmp_path: Path) -> None:
    class Remembered(psutil.Process):
        def is_running(self) -> bool:
            return False

    with ollama(tmp_path) as real:
        found = find([Remembered(real.pid)])
        assert found is not None
        assert [type(process) for process in found] == [psutil.Process]


# --- the model store -------------------------------------------------------------------------------------------------


def has_store(host: HostSource) -> bool:
    seen = look(host)
    assert (catalog.HOST_STORE_SIZE in seen) == (catalog.HOST_STORE_AVAILABLE in seen)
    return catalog.HOST_STORE_SIZE in seen


def test_the_configured_store_is_measured(tmp_path: Path) -> None:
    seen = look(source(str(tmp_path)))
    assert seen[catalog.HOST_STORE_SIZE][()] == psutil.disk_usage(str(tmp_path)).total
    assert 0 <= seen[catalog.HOST_STORE_AVAILABLE][()] <= seen[catalog.HOST_STORE_SIZE][()]


def test_a_configured_store_that_is_not_there_is_not_replaced_by_another(tmp_path: Path) -> None:
    assert not has_store(source(str(tmp_path / "gone"), environment={"OLLAMA_MODELS": str(tmp_path)}))


@linux
def test_the_store_of_a_running_serve_goes_before_the_exporters_own(tmp_path: Path) -> None:
    with ollama(tmp_path, {"OLLAMA_MODELS": f' "{tmp_path}" '}) as real:
        assert has_store(source(processes=real.processes, environment={"OLLAMA_MODELS": "/nowhere"}))
    with ollama(tmp_path, {"OLLAMA_MODELS": "/nowhere"}) as real:
        assert not has_store(source(processes=real.processes, environment={"OLLAMA_MODELS": str(tmp_path)}))


def test_a_serve_without_ollama_models_has_its_store_at_home(tmp_path: Path) -> None:
    (tmp_path / ".ollama" / "models").mkdir(parents=True)
    serve = Fake(10, environment={"HOME": str(tmp_path)})
    assert has_store(source(processes=lambda: [serve], environment={"OLLAMA_MODELS": "/nowhere"}))


def test_the_store_of_a_serve_in_a_container_is_looked_up_in_its_own_tree(tmp_path: Path) -> None:
    (tmp_path / "10" / "root" / "some" / "models").mkdir(parents=True)
    serve = Fake(10, environment={"OLLAMA_MODELS": "/some/models"})
    assert has_store(source(proc=tmp_path, processes=lambda: [serve]))
    elsewhere = Fake(10, environment={"OLLAMA_MODELS": str(tmp_path)})
    assert not has_store(source(proc=tmp_path, processes=lambda: [elsewhere]))


def test_the_store_of_a_serve_that_has_ended_is_not_asked_for(tmp_path: Path) -> None:
    processes = [Fake(10, environment={"OLLAMA_MODELS": "/nowhere"})]
    host = source(processes=lambda: processes, environment={"OLLAMA_MODELS": str(tmp_path)})
    assert not has_store(host)
    processes.clear()
    assert has_store(host)


@pytest.mark.parametrize("error", [psutil.AccessDenied, psutil.NoSuchProcess])
def test_a_serve_with_a_hidden_environment_leaves_it_to_the_exporters_own(
    error: type[psutil.Error], tmp_path: Path
) -> None:
    serve = Fake(10, environment={"OLLAMA_MODELS": "/nowhere"}, errors={"environ": error})
    assert has_store(source(processes=lambda: [serve], environment={"OLLAMA_MODELS": str(tmp_path)}))
    assert not has_store(source(processes=lambda: [serve], environment={"OLLAMA_MODELS": "/nowhere"}))


def test_a_default_store_is_used_when_it_is_there(tmp_path: Path) -> None:
    (tmp_path / ".ollama" / "models").mkdir(parents=True)
    assert has_store(source(environment={"HOME": str(tmp_path)}))


@pytest.mark.parametrize(
    ("value", "store"),
    [("/m", Path("/m")), (" '/m' ", Path("/m")), ('"/m"', Path("/m")), ("", None), ("m", None), (None, None)],
)
def test_ollama_models_is_read_as_ollama_does(value: str | None, store: Path | None) -> None:
    assert named_store({} if value is None else {"OLLAMA_MODELS": value}) == store


def test_the_default_store_needs_a_home() -> None:
    assert default_store({"HOME": "/h"}) == Path("/h/.ollama/models")
    assert default_store({"USERPROFILE": "/u"}) == Path("/u/.ollama/models")
    assert default_store({}) is None


# --- the whole -------------------------------------------------------------------------------------------------------


@linux
def test_every_host_family_is_shown_on_a_machine_with_ollama(tmp_path: Path) -> None:
    (tmp_path / "proc" / "pressure").mkdir(parents=True)
    (tmp_path / "proc" / "pressure" / "io").write_text(SOME)
    with ollama(tmp_path) as real:
        seen = look(source(str(tmp_path), proc=tmp_path / "proc", processes=real.processes))
    devices = (
        {catalog.HOST_RECEIVED, catalog.HOST_SENT} if worth_showing(psutil.net_io_counters(pernic=True)) else set()
    )
    assert seen.keys() == HOST_FAMILIES - {catalog.HOST_RECEIVED, catalog.HOST_SENT} | devices


def test_a_part_that_breaks_fails_the_reading_beside_the_samples_of_the_rest(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    broken = True

    def processes() -> Iterable[psutil.Process]:
        if broken:
            raise RuntimeError("boom")
        return []

    host = source(str(tmp_path), processes=processes)
    with pytest.raises(Failed) as failed:
        look(host)
    assert failed.value.reason == "unavailable"
    seen = by_family(failed.value.samples)
    assert {catalog.HOST_CPU, catalog.HOST_BOOT, catalog.HOST_STORE_SIZE} <= seen.keys()
    with pytest.raises(Failed):
        look(host)
    assert [record.message for record in caplog.records] == ["host: cannot read processes"], "told once"

    broken = False
    look(host)
    broken = True
    with pytest.raises(Failed):
        look(host)
    assert len(caplog.records) == 2, "told again after it had been well"


@linux
def test_a_container_that_hides_files_loses_the_network_only_and_no_warning_escapes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("stat", "cpuinfo"):
        (tmp_path / name).write_bytes((Path("/proc") / name).read_bytes())
    memory = Path("/proc/meminfo").read_text("ascii").splitlines(keepends=True)
    (tmp_path / "meminfo").write_text("".join(line for line in memory if not line.startswith(("Active", "Inactive"))))
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(tmp_path))
    with pytest.raises(Failed) as failed:
        look(source())
    seen = by_family(failed.value.samples)
    assert not {catalog.HOST_RECEIVED, catalog.HOST_SENT} & seen.keys()
    assert {
        catalog.HOST_SWAP_TOTAL,
        catalog.HOST_SWAP_USED,
        catalog.HOST_MEMORY_TOTAL,
        catalog.HOST_BOOT,
    } <= seen.keys()


class Hanging:
    """Whoever calls it waits until it is released."""

    def __init__(self) -> None:
        self.entered, self.released = 0, threading.Event()

    def __call__(self, *_: object) -> Any:
        self.entered += 1
        assert self.released.wait(30)
        raise OSError("it was gone for a long time")


def failed_look(host: HostSource) -> tuple[str, dict[Family, dict[tuple[str, ...], float]]]:
    """Ends without waiting for threads that still hang, or the test would."""
    with pytest.raises(Failed) as failed:
        asyncio.run(host.collect())
    return failed.value.reason, by_family(failed.value.samples)


def test_a_disk_that_hangs_takes_the_store_alone_and_one_thread(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    disk, well = Hanging(), psutil.disk_usage
    host = source(str(tmp_path), within=5.0)
    whole = look(host).keys()
    monkeypatch.setattr(psutil, "disk_usage", disk)
    try:
        for _ in range(3):
            reason, seen = failed_look(host)
            assert reason == "timeout"
            assert seen.keys() == whole - {catalog.HOST_STORE_SIZE, catalog.HOST_STORE_AVAILABLE}
        assert disk.entered == 1
    finally:
        disk.released.set()
    assert [record.message for record in caplog.records] == ["host: store: no answer in time"], "told once"
    monkeypatch.setattr(psutil, "disk_usage", well)
    while host._disk._last is not None and not host._disk._last.done():
        time.sleep(0.001)
    assert look(host).keys() == whole


def test_processes_that_hang_hide_neither_the_machine_nor_its_store(tmp_path: Path) -> None:
    """The kernel holds back the command line of a process that waits for a dead disk."""
    table = Hanging()
    host = source(str(tmp_path), processes=table, within=5.0)
    try:
        reason, seen = failed_look(host)
    finally:
        table.released.set()
    assert reason == "timeout"
    assert {catalog.HOST_CPU, catalog.HOST_MEMORY_TOTAL, catalog.HOST_STORE_SIZE} <= seen.keys()
    assert not PROCESS_FAMILIES & seen.keys()


def test_the_source_closes_and_refuses_settings_that_are_not_its_own() -> None:
    asyncio.run(source().aclose())
    with pytest.raises(TypeError, match="HostSettings"):
        HostSource(Watch("a", "host", 15.0, 10.0, ApiSettings(Endpoint("http://127.0.0.1:11434"))))
