"""The gpu source: NVIDIA's own Python package over a stand-in for the driver's C library, and a tree like sysfs.

No GPU takes part. What is replaced is `libnvidia-ml.so.1` alone, function by function under its C names, so that the
package's structures, error classes and fallbacks are the real ones.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pynvml
import pytest

from exporter import catalog
from exporter.fleet import Observer
from exporter.local import Connections, Local, Place, RunnerProcess
from exporter.model import Family, GpuSettings, Lack, Lacking, Reading, Watch
from exporter.sources import SOURCES, Surroundings, build
from exporter.sources.gpu import GpuSource, Nvidia
from tests.nvml import GIB, FakeCard, FakeDriver

WATCH = Watch("", "gpu", 15.0, 10.0, GpuSettings("gpu1", (("a", "http://a:11434"), ("b", "http://b:11434")), 2), True)


# --- the driver's library --------------------------------------------------------------------------------------------


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDriver]:
    """A machine with one card. Each test ends with at most the one session that its source holds open."""
    made = FakeDriver(FakeCard("GPU-6b3f"))
    monkeypatch.setattr(pynvml, "nvmlLib", made)
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    yield made
    assert made.sessions <= 1


@pytest.fixture
def no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(pynvml, "nvmlLib", None)
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    monkeypatch.setattr(pynvml, "CDLL", missing)


# --- this machine ----------------------------------------------------------------------------------------------------


class Machine:
    """A machine on which the servers' runners are known. A server without runners here is on another machine."""

    def __init__(
        self,
        runners: Mapping[str, tuple[RunnerProcess, ...]] | None = None,
        names: Mapping[str, tuple[str, ...]] | None = None,
    ) -> None:
        self._runners, self._names = runners or {}, names or {}

    def place(self, url: str) -> Place:
        if url not in self._runners:
            raise Lacking("the server is on another machine", "run an exporter there")
        return Place(((url, 11434),))

    def runners(self, place: Place) -> tuple[RunnerProcess, ...]:
        return self._runners[place.addresses[0][0]]

    def names(self, place: Place, blob: str) -> tuple[str, ...]:
        return self._names.get(blob, ())

    def connections(self, place: Place) -> Connections:
        raise AssertionError("not asked for")

    def environment(self, place: Place) -> Mapping[str, str]:
        raise AssertionError("not asked for")

    def connect(self, place: Place, port: int, timeout: float) -> Any:
        raise AssertionError("not asked for")


def runner(pid: int | None, blob: str) -> RunnerProcess:
    return RunnerProcess(
        40000, pid, ("/usr/lib/ollama/llama-server", "--model", f"/models/blobs/{blob}", "--port", "40000")
    )


class Scene:
    """A gpu source on a machine with this /proc and /sys."""

    def __init__(self, root: Path, machine: Local | None = None, has_library: bool = False) -> None:
        self.proc, self.sys = root / "proc", root / "sys"
        self.source = GpuSource(
            WATCH, machine or Machine(), proc=self.proc, sys=self.sys, has_library=lambda: has_library
        )
        self.observer = Observer(WATCH, self.source, SOURCES["gpu"].reasons, lambda: 1000.0)

    def load_driver(self) -> None:
        version = self.proc / "driver" / "nvidia" / "version"
        version.parent.mkdir(parents=True)
        version.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.95.05\n")

    def observe(self) -> Seen:
        return Seen(asyncio.run(self.observer.observe()))


class Seen:
    """A reading, asked by family; the label host is understood."""

    def __init__(self, reading: Reading) -> None:
        self.reading, self.failure, self.lacks = reading, reading.failure, reading.lacks

    def __call__(self, family: Family) -> dict[tuple[str, ...], float]:
        found: dict[tuple[str, ...], float] = {}
        for sample in self.reading.samples:
            assert isinstance(sample.value, int | float)
            assert sample.labels[0] == "gpu1"
            if sample.family is family:
                assert sample.labels[1:] not in found, "a series twice"
                found[sample.labels[1:]] = sample.value
        return found

    def families(self) -> set[str]:
        return {sample.family.name for sample in self.reading.samples}


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


COUNTERS = {"ollama_gpu_energy_joules_total", "ollama_gpu_ecc_errors_total", "ollama_gpu_xid_errors_total"}


# --- without a GPU ---------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_library")
def test_a_machine_without_a_gpu_has_none_and_lacks_nothing(scene: Scene) -> None:
    seen = scene.observe()
    assert seen.families() == {"ollama_gpus"}
    assert seen(catalog.GPUS) == {(): 0.0}
    assert (seen.failure, seen.lacks) == (None, ())


def test_without_the_package_a_machine_without_nvidia_lacks_nothing(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    seen = scene.observe()
    assert seen(catalog.GPUS) == {(): 0.0}
    assert seen.lacks == ()


@pytest.mark.parametrize("clue", ["library", "driver"])
def test_without_the_package_a_machine_with_nvidia_is_told_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clue: str
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    scene = Scene(tmp_path, has_library=clue == "library")
    if clue == "driver":
        scene.load_driver()
    seen = scene.observe()
    assert seen.families() == set(), "0 would be a lie"
    assert seen.reading.blind
    assert [lack.remedy for lack in seen.lacks] == ["pip install ollama-exporter[gpu]"]


@pytest.mark.usefixtures("no_library")
def test_in_a_container_that_was_not_given_the_gpus_their_number_is_not_claimed_to_be_0(scene: Scene) -> None:
    scene.load_driver()
    seen = scene.observe()
    assert seen.families() == set()
    assert "--gpus all" in seen.lacks[0].remedy


@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_DRIVER_NOT_LOADED, pynvml.NVML_ERROR_NO_PERMISSION])
def test_device_files_out_of_reach_are_a_lack(scene: Scene, driver: FakeDriver, code: int) -> None:
    scene.load_driver()
    driver.refuses["nvmlInitWithFlags", None] = code
    seen = scene.observe()
    assert seen.families() == set()
    assert "/dev/nvidiactl" in seen.lacks[0].remedy


def test_a_library_without_a_driver_shows_no_gpu(scene: Scene, driver: FakeDriver) -> None:
    driver.refuses["nvmlInitWithFlags", None] = pynvml.NVML_ERROR_DRIVER_NOT_LOADED
    seen = scene.observe()
    assert seen(catalog.GPUS) == {(): 0.0}
    assert (seen.failure, seen.lacks) == (None, ())


def test_a_driver_that_does_not_fit_its_library_is_a_failure_that_is_logged_once(
    scene: Scene, driver: FakeDriver, caplog: pytest.LogCaptureFixture
) -> None:
    driver.refuses["nvmlInitWithFlags", None] = pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH
    with caplog.at_level(logging.WARNING):
        assert scene.observe().failure == "unavailable"
        assert scene.observe().failure == "unavailable"
    assert caplog.text.count("version mismatch") == 1
    assert driver.sessions == 0
    driver.refuses.clear()
    assert scene.observe().failure is None


# --- NVIDIA ----------------------------------------------------------------------------------------------------------


def test_a_card_tells_of_itself_in_base_units(scene: Scene, driver: FakeDriver) -> None:
    driver.cards[0].clocks = pynvml.nvmlClocksEventReasonSwPowerCap | pynvml.nvmlClocksEventReasonGpuIdle
    seen = scene.observe()
    assert seen.failure is None
    assert seen(catalog.GPUS) == {(): 1.0}
    assert seen(catalog.GPU_INFO) == {("0", "GPU-6b3f", "NVIDIA L4", "580.95.05", "nvidia"): 1.0}
    assert seen(catalog.GPU_UTILIZATION) == {("0",): 0.87}
    assert seen(catalog.GPU_MEMORY_BANDWIDTH) == {("0",): 0.45}
    assert seen(catalog.GPU_MEMORY_TOTAL) == {("0",): 24 * GIB}
    assert seen(catalog.GPU_MEMORY_USED) == {("0",): 20 * GIB}
    assert seen(catalog.GPU_POWER) == {("0",): 65.5}
    assert seen(catalog.GPU_POWER_LIMIT) == {("0",): 72.0}
    assert seen(catalog.GPU_TEMPERATURE) == {("0",): 61.0}
    throttled = {reason for (_, reason), holds in seen(catalog.GPU_THROTTLED).items() if holds}
    assert throttled == {"power_cap"}
    assert len(seen(catalog.GPU_THROTTLED)) == 7


def test_what_a_card_does_not_support_is_absent(scene: Scene, driver: FakeDriver) -> None:
    for function in (
        "nvmlDeviceGetUtilizationRates",
        "nvmlDeviceGetMemoryInfo",
        "nvmlDeviceGetPowerUsage",
        "nvmlDeviceGetEnforcedPowerLimit",
        "nvmlDeviceGetTotalEnergyConsumption",
        "nvmlDeviceGetTemperatureV",
        "nvmlDeviceGetTemperature",
        "nvmlDeviceGetCurrentClocksEventReasons",
        "nvmlDeviceGetCurrentClocksThrottleReasons",
        "nvmlDeviceGetTotalEccErrors",
        "nvmlDeviceGetComputeRunningProcesses_v3",
        "nvmlDeviceGetGraphicsRunningProcesses_v3",
        "nvmlDeviceGetSupportedEventTypes",
    ):
        driver.refuses[function, None] = pynvml.NVML_ERROR_NOT_SUPPORTED
    seen = scene.observe()
    assert seen.failure is None
    assert seen.families() == {"ollama_gpus", "ollama_gpu_info"}


def test_an_older_driver_is_asked_by_the_older_names(scene: Scene, driver: FakeDriver) -> None:
    driver.lacks |= {"nvmlDeviceGetTemperatureV", "nvmlDeviceGetCurrentClocksEventReasons"}
    driver.lacks.add("nvmlDeviceGetTotalEnergyConsumption")
    seen = scene.observe()
    assert seen(catalog.GPU_TEMPERATURE) == {("0",): 61.0}
    assert len(seen(catalog.GPU_THROTTLED)) == 7
    assert "ollama_gpu_energy_joules_total" not in seen.families()


def test_counters_start_at_0_and_grow_by_what_the_card_adds(scene: Scene, driver: FakeDriver) -> None:
    seen = scene.observe()
    assert seen(catalog.GPU_ENERGY) == {("0",): 0.0}
    assert seen(catalog.GPU_ECC) == {("0", "corrected"): 0.0, ("0", "uncorrected"): 0.0}
    assert seen(catalog.GPU_XID) == {("0", "application"): 0.0, ("0", "device"): 0.0}
    driver.cards[0].millijoules += 1500
    driver.cards[0].ecc[1] += 2
    seen = scene.observe()
    assert seen(catalog.GPU_ENERGY) == {("0",): 1.5}
    assert seen(catalog.GPU_ECC)["0", "uncorrected"] == 2.0
    driver.cards[0].millijoules = 500  # the driver was loaded anew
    assert scene.observe()(catalog.GPU_ENERGY) == {("0",): 2.0}


def test_xids_are_counted_by_what_causes_them_and_their_codes_are_logged(
    scene: Scene, driver: FakeDriver, caplog: pytest.LogCaptureFixture
) -> None:
    driver.cards.append(FakeCard("GPU-7777"))
    scene.observe()
    xid = pynvml.nvmlEventTypeXidCriticalError
    driver.events = [(1, xid, 79), (0, xid, 31), (0, pynvml.nvmlEventTypeClock, 5), (1, xid, 48)]
    seen = scene.observe()
    assert seen(catalog.GPU_XID) == {
        ("0", "application"): 1.0, ("0", "device"): 0.0, ("1", "application"): 0.0, ("1", "device"): 2.0,
    }  # fmt: skip
    assert "gpu 1: the driver reports XID 79 (device)" in caplog.text
    assert scene.observe()(catalog.GPU_XID)["1", "device"] == 2.0


def test_a_storm_of_xids_does_not_hold_a_look_for_ever(scene: Scene, driver: FakeDriver) -> None:
    scene.observe()
    driver.events = [(0, pynvml.nvmlEventTypeXidCriticalError, 31)] * 1500
    assert scene.observe()(catalog.GPU_XID)["0", "application"] == 1000.0
    assert scene.observe()(catalog.GPU_XID)["0", "application"] == 1500.0


def test_a_lost_card_is_absent_and_fails_the_reading_and_its_xid_stays_counted(
    scene: Scene, driver: FakeDriver
) -> None:
    driver.cards.append(FakeCard("GPU-7777"))
    scene.observe()
    driver.events = [(1, pynvml.nvmlEventTypeXidCriticalError, 79)]
    driver.refuses["nvmlDeviceGetUtilizationRates", 1] = pynvml.NVML_ERROR_GPU_IS_LOST
    seen = scene.observe()
    assert seen.failure == "unavailable"
    assert seen(catalog.GPUS) == {(): 1.0}
    assert {gpu for gpu, *_ in seen(catalog.GPU_INFO)} == {"0"}
    assert seen(catalog.GPU_UTILIZATION).keys() == {("0",)}
    assert seen(catalog.GPU_XID)["1", "device"] == 1.0
    driver.cards.pop()
    driver.refuses.clear()
    seen = scene.observe()
    assert seen.failure is None
    assert seen(catalog.GPUS) == {(): 1.0}
    assert seen(catalog.GPU_XID)["1", "device"] == 1.0, "Prometheus may not have come by yet"
    assert driver.sessions == 1


def test_when_every_card_is_lost_their_number_is_0_and_only_counters_stay(scene: Scene, driver: FakeDriver) -> None:
    scene.observe()
    driver.cards[0].millijoules += 1000
    scene.observe()
    driver.refuses["nvmlDeviceGetUtilizationRates", None] = pynvml.NVML_ERROR_GPU_IS_LOST
    seen = scene.observe()
    assert seen.failure == "unavailable"
    assert seen.families() == {"ollama_gpus"} | COUNTERS
    assert seen(catalog.GPUS) == {(): 0.0}
    assert seen(catalog.GPU_ENERGY) == {("0",): 1.0}


def test_a_neighbour_that_takes_a_lost_cards_number_starts_its_counters_anew(scene: Scene, driver: FakeDriver) -> None:
    driver.cards.append(FakeCard("GPU-7777", millijoules=99_000_000))
    scene.observe()
    driver.cards[0].millijoules += 5000
    assert scene.observe()(catalog.GPU_ENERGY) == {("0",): 5.0, ("1",): 0.0}
    driver.refuses["nvmlDeviceGetUtilizationRates", None] = pynvml.NVML_ERROR_GPU_IS_LOST
    scene.observe()
    driver.refuses.clear()
    driver.cards.pop(0)
    assert scene.observe()(catalog.GPU_ENERGY)[("0",)] == 0.0, "90 MJ in 15 s would be a lie"


# --- whose memory ----------------------------------------------------------------------------------------------------

BLOBS = {"sha256-aa": ("llama3.2:3b",), "sha256-bb": ("my-qwen:latest", "qwen3:4b"), "sha256-cc": ("qwen3:8b",)}


def test_memory_is_told_by_the_model_whose_runner_holds_it(tmp_path: Path, driver: FakeDriver) -> None:
    machine = Machine({"http://a:11434": (runner(10, "sha256-aa"), runner(11, "sha256-cc"))}, BLOBS)
    driver.cards[0].computing = [(10, 5 * GIB), (11, 3 * GIB), (900, 2 * GIB)]
    driver.cards[0].drawing = [(901, GIB), (10, 5 * GIB)]
    seen = Scene(tmp_path, machine).observe()
    assert seen(catalog.GPU_RUNNER_MEMORY) == {
        ("0", "", "other"): 3 * GIB,
        ("0", "a", "llama3.2:3b"): 5 * GIB,
        ("0", "a", "qwen3:8b"): 3 * GIB,
    }
    assert seen.lacks == ()


def test_runners_of_one_model_are_summed_and_names_beyond_the_cap_are_other(tmp_path: Path, driver: FakeDriver) -> None:
    machine = Machine(
        {"http://a:11434": tuple(runner(pid, f"sha256-{pid}") for pid in (10, 11, 12, 13))},
        {"sha256-10": ("a:1",), "sha256-11": ("a:1",), "sha256-12": ("b:1",), "sha256-13": ("c:1",)},
    )
    driver.cards[0].computing = [(pid, GIB) for pid in (10, 11, 12, 13)]
    seen = Scene(tmp_path, machine).observe()
    assert seen(catalog.GPU_RUNNER_MEMORY) == {
        ("0", "", "other"): 0.0, ("0", "a", "a:1"): 2 * GIB, ("0", "a", "b:1"): GIB, ("0", "a", "other"): GIB,
    }  # fmt: skip


def test_weights_of_no_name_or_several_are_unknown_and_a_runner_without_a_pid_is_nobody(
    tmp_path: Path, driver: FakeDriver
) -> None:
    machine = Machine(
        {"http://b:11434": (runner(10, "sha256-zz"), runner(11, "sha256-bb"), runner(None, "sha256-aa"))}, BLOBS
    )
    driver.cards[0].computing = [(10, GIB), (11, 2 * GIB)]
    seen = Scene(tmp_path, machine).observe()
    assert seen(catalog.GPU_RUNNER_MEMORY) == {("0", "", "other"): 0.0, ("0", "b", "unknown"): 3 * GIB}


def test_where_no_runner_can_be_seen_nobodys_memory_is_told_and_the_lack_is(scene: Scene, driver: FakeDriver) -> None:
    driver.cards[0].computing = [(10, GIB)]
    seen = scene.observe()
    assert seen.failure is None
    assert seen(catalog.GPU_RUNNER_MEMORY) == {}
    assert seen.lacks == (
        Lack("which model holds a GPU's memory: the server is on another machine", "run an exporter there"),
    )


def test_memory_that_the_driver_does_not_share_out_is_not_told(tmp_path: Path, driver: FakeDriver) -> None:
    machine = Machine({"http://a:11434": (runner(10, "sha256-aa"),)}, BLOBS)
    driver.cards[0].computing = [(10, pynvml.NVML_VALUE_NOT_AVAILABLE_ulonglong.value)]
    assert Scene(tmp_path, machine).observe()(catalog.GPU_RUNNER_MEMORY) == {}


# --- sessions and threads --------------------------------------------------------------------------------------------


def test_nvml_is_opened_once_and_closed_at_the_end(scene: Scene, driver: FakeDriver) -> None:
    scene.observe()
    scene.observe()
    assert driver.asked.count("nvmlInitWithFlags") == 1
    asyncio.run(scene.source.aclose())
    assert driver.sessions == 0


def test_a_card_that_cannot_be_opened_leaves_no_session_behind(tmp_path: Path, driver: FakeDriver) -> None:
    driver.refuses["nvmlDeviceGetCount_v2", None] = pynvml.NVML_ERROR_UNKNOWN
    look = Nvidia(tmp_path, lambda: True).look()
    assert look.troubles
    assert driver.sessions == 0


def test_looks_do_not_pile_up_behind_a_driver_that_hangs(scene: Scene, driver: FakeDriver) -> None:
    entered, free = threading.Event(), threading.Event()

    def hang(self: FakeDriver, device: Any, count: Any) -> None:
        entered.set()
        free.wait(30)

    async def look_twice() -> tuple[Reading, Reading]:
        first = asyncio.create_task(scene.observer.observe())
        await asyncio.to_thread(entered.wait, 30)
        second = await scene.observer.observe()
        await scene.source.aclose()  # must not wait either
        free.set()
        return await first, second

    scene.observe()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FakeDriver, "_nvmlDeviceGetPowerUsage", hang)
        patch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
        first, second = asyncio.run(look_twice())
    assert first.failure is None
    assert second.failure == "timeout"
    assert {sample.family.name for sample in second.samples} == COUNTERS


# --- AMD -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def amd(scene: Scene, no_library: None) -> Callable[..., Path]:
    """Writes a card of amdgpu below /sys; gives its device's folder."""

    def write(name: str = "card1", driver: str = "amdgpu", **files: str) -> Path:
        device = scene.sys / "devices" / "pci0000:00" / f"0000:{name[4:].zfill(2)}:00.0"
        (device / "power").mkdir(parents=True)
        (device / "hwmon" / "hwmon4").mkdir(parents=True)
        drivers = scene.sys / "bus" / "pci" / "drivers" / driver
        drivers.mkdir(parents=True, exist_ok=True)
        (device / "driver").symlink_to(drivers)
        card = scene.sys / "class" / "drm" / name
        card.mkdir(parents=True)
        (card.parent / f"{name}-DP-1").mkdir()
        (card / "device").symlink_to(device)
        known = {
            "device": "0x744c",
            "gpu_busy_percent": "55",
            "mem_busy_percent": "20",
            "mem_info_vram_total": str(16 * GIB),
            "mem_info_vram_used": str(3 * GIB),
            "power/runtime_status": "active",
            "hwmon/hwmon4/power1_average": "215000000",
            "hwmon/hwmon4/power1_cap": "339000000",
            "hwmon/hwmon4/temp1_input": "62000",
        }
        for path, text in {**known, **files}.items():
            (device / path).write_text(f"{text}\n")
        return device

    return write


def test_an_amd_card_tells_of_itself_in_base_units(scene: Scene, amd: Callable[..., Path]) -> None:
    amd()
    seen = scene.observe()
    assert (seen.failure, seen.lacks) == (None, ())
    assert seen(catalog.GPUS) == {(): 1.0}
    assert seen(catalog.GPU_INFO) == {("card1", "0000:01:00.0", "AMD 0x744c", "amdgpu", "amd"): 1.0}
    assert seen(catalog.GPU_UTILIZATION) == {("card1",): 0.55}
    assert seen(catalog.GPU_MEMORY_BANDWIDTH) == {("card1",): 0.2}
    assert seen(catalog.GPU_MEMORY_TOTAL) == {("card1",): 16 * GIB}
    assert seen(catalog.GPU_MEMORY_USED) == {("card1",): 3 * GIB}
    assert seen(catalog.GPU_POWER) == {("card1",): 215.0}
    assert seen(catalog.GPU_POWER_LIMIT) == {("card1",): 339.0}
    assert seen(catalog.GPU_TEMPERATURE) == {("card1",): 62.0}


def test_an_amd_card_that_sleeps_is_not_woken(scene: Scene, amd: Callable[..., Path]) -> None:
    amd(**{"power/runtime_status": "suspended"})
    assert scene.observe().families() == {"ollama_gpus", "ollama_gpu_info"}


def test_files_that_an_amd_card_does_not_have_and_nonsense_are_absent(scene: Scene, amd: Callable[..., Path]) -> None:
    device = amd(mem_info_vram_used="none", gpu_busy_percent="")
    (device / "hwmon" / "hwmon4" / "power1_average").unlink()
    (device / "hwmon" / "hwmon4" / "power1_input").write_text("90000000\n")
    (device / "mem_busy_percent").unlink()
    seen = scene.observe()
    assert seen.failure is None
    assert seen(catalog.GPU_POWER) == {("card1",): 90.0}
    assert seen.families() & {
        "ollama_gpu_memory_used_bytes", "ollama_gpu_utilization_ratio", "ollama_gpu_memory_bandwidth_utilization_ratio",
    } == set()  # fmt: skip


def test_other_drivers_cards_are_none_of_ours(scene: Scene, amd: Callable[..., Path]) -> None:
    amd("card0", driver="i915")
    assert scene.observe()(catalog.GPUS) == {(): 0.0}


def test_an_amd_card_that_is_gone_fails_the_reading_beside_the_others(
    scene: Scene, amd: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    amd("card1")
    gone = amd("card10", product_name="Instinct MI300X")
    read_text = Path.read_text

    def read(path: Path, *arguments: Any) -> str:
        if path.name == "gpu_busy_percent" and path.resolve().parent == gone.resolve():
            raise OSError(errno.ENODEV, "No such device")
        return read_text(path, *arguments)

    assert {gpu: name for gpu, _, name, *_ in scene.observe()(catalog.GPU_INFO)} == {
        "card1": "AMD 0x744c",
        "card10": "Instinct MI300X",
    }
    monkeypatch.setattr(Path, "read_text", read)
    seen = scene.observe()
    assert seen.failure == "unavailable"
    assert seen(catalog.GPUS) == {(): 1.0}
    assert seen(catalog.GPU_UTILIZATION).keys() == {("card1",)}


def test_what_nvidia_lacks_does_not_hide_amd(scene: Scene, amd: Callable[..., Path]) -> None:
    amd()
    scene.load_driver()
    seen = scene.observe()
    assert seen(catalog.GPUS) == {(): 1.0}
    assert len(seen.lacks) == 1


# --- the catalogue ---------------------------------------------------------------------------------------------------


def test_every_family_of_the_gpu_is_emitted(tmp_path: Path, driver: FakeDriver) -> None:
    seen = Scene(tmp_path, Machine({"http://a:11434": ()})).observe()
    assert seen.families() == {family.name for family in catalog.FAMILIES if family.name.startswith("ollama_gpu")}


def test_the_table_of_sources_builds_it() -> None:
    assert isinstance(build(WATCH, Surroundings(machine=Machine())), GpuSource)
