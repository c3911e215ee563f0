"""The GPUs of the exporter's machine: NVIDIA's by NVML, AMD's by the files that amdgpu keeps in sysfs.

Cards are physical: of one that is cut into MIG instances NVML tells the whole, and not its utilisation. NVML stays open
between two looks, because XID errors are told only to those who listen; so the driver stays loaded, as it does under
Ollama itself. Nothing is executed and nothing is set.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import logging
import os
import re
import threading
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

from exporter import catalog
from exporter.local import Local, Place, RunnerProcess
from exporter.local.processes import argument
from exporter.meter import Counter
from exporter.model import Failed, Family, GpuSettings, Lack, Lacking, Partial, Sample, Watch
from exporter.ollama import NAME_MAX

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

UNKNOWN, OTHER = "unknown", "other"
Cause = Literal["application", "device"]
CAUSES: tuple[Cause, ...] = ("application", "device")
_OF_APPLICATIONS = frozenset({13, 31, 43, 45, 68, 109})
"""XID codes that a program brings about by crashing, by wrong memory accesses or by being killed."""
_XIDS_MAX = 1000
"""Events that one look takes at most."""


@dataclass(frozen=True, slots=True)
class Card:
    """What one GPU told at one look, in base units; None is what it does not tell.

    `gpu` is its label, `uuid` tells it from another card that gets its number. `energy` (joules) and `ecc` (errors by
    kind) are its own totals, `throttled` tells which reasons hold, `processes` bytes by process id.
    """

    gpu: str
    uuid: str
    name: str
    driver: str
    vendor: Literal["nvidia", "amd"]
    utilization: float | None = None
    bandwidth: float | None = None
    used: int | None = None
    total: int | None = None
    power: float | None = None
    limit: float | None = None
    temperature: float | None = None
    energy: float | None = None
    throttled: Mapping[str, bool] = field(default_factory=dict)
    ecc: Mapping[str, int] = field(default_factory=dict)
    processes: Mapping[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Look:
    """The cards that answered, the labels of those whose XIDs are told, the XIDs that came since the last look (label,
    code), and what did not answer, in words for the log."""

    cards: tuple[Card, ...] = ()
    listening: tuple[str, ...] = ()
    xids: tuple[tuple[str, int], ...] = ()
    troubles: tuple[str, ...] = ()


def _has_library() -> bool:
    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return False
    return True


class GpuSource:
    """Exposes, for a machine named `gpu1`:

        ollama_gpus{host="gpu1"} 1.0
        ollama_gpu_info{host="gpu1",gpu="0",uuid="GPU-6b3f...",name="NVIDIA L4",driver="580.95",vendor="nvidia"} 1.0
        ollama_gpu_memory_used_bytes{host="gpu1",gpu="0"} 1.3e+10
        ollama_gpu_throttled{host="gpu1",gpu="0",reason="hardware_thermal"} 0.0
        ollama_gpu_runner_memory_bytes{host="gpu1",gpu="0",server="a",model="llama3.2:3b"} 3.2e+09

    A card that does not answer is absent and fails the reading as `unavailable`, beside the samples of the others and
    the counters of all.
    """

    def __init__(
        self,
        watch: Watch,
        machine: Local,
        *,
        proc: Path = Path("/proc"),
        sys: Path = Path("/sys"),
        has_library: Callable[[], bool] = _has_library,
    ) -> None:
        self._settings = cast(GpuSettings, watch.settings)
        self._host, self._machine = self._settings.name, machine
        self._nvidia, self._amd = Nvidia(proc, has_library), Amd(sys)
        self._counters = _Counters(self._host)
        self._counted: tuple[Sample, ...] = ()
        self._looking = threading.Lock()
        self._troubles: frozenset[str] = frozenset()

    async def collect(self) -> Iterable[Sample] | Partial:
        return await asyncio.to_thread(self._look)

    async def aclose(self) -> None:
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        # A look that hangs in the driver keeps NVML for itself; waiting for it would hang the exporter's end.
        if self._looking.acquire(blocking=False):
            self._nvidia.close()

    def _look(self) -> Partial:
        if not self._looking.acquire(blocking=False):
            raise Failed("timeout", self._counted)
        try:
            return self._seen()
        finally:
            self._looking.release()

    def _seen(self) -> Partial:
        lacks: list[Lack] = []
        amd = self._amd.look()
        try:
            nvidia = self._nvidia.look()
        except Lacking as lacking:
            if not amd.cards:
                raise
            nvidia = Look()
            lacks.append(lacking.lack)
        for look in (nvidia, amd):
            self._counters.see(look)
        self._counted = tuple(self._counters.samples())
        cards = (*nvidia.cards, *amd.cards)
        samples = [catalog.GPUS(len(cards), host=self._host), *self._counted]
        for card in cards:
            samples += self._card(card)
        samples += self._runners(cards, lacks)
        if self._tell((*nvidia.troubles, *amd.troubles)):
            raise Failed("unavailable", samples)
        return Partial(tuple(samples), tuple(lacks))

    def _tell(self, troubles: tuple[str, ...]) -> bool:
        """Log each once, not at every poll. Whether there are any."""
        for trouble in troubles:
            if trouble not in self._troubles:
                _log.warning("gpu: %s", trouble)
        self._troubles = frozenset(troubles)
        return bool(troubles)

    def _card(self, card: Card) -> Iterator[Sample]:
        labels = {"host": self._host, "gpu": card.gpu}
        info = {"uuid": card.uuid, "name": card.name, "driver": card.driver, "vendor": card.vendor}
        yield catalog.GPU_INFO(1.0, **labels, **info)
        for family, value in (
            (catalog.GPU_UTILIZATION, card.utilization),
            (catalog.GPU_MEMORY_USED, card.used),
            (catalog.GPU_MEMORY_TOTAL, card.total),
            (catalog.GPU_MEMORY_BANDWIDTH, card.bandwidth),
            (catalog.GPU_POWER, card.power),
            (catalog.GPU_POWER_LIMIT, card.limit),
            (catalog.GPU_TEMPERATURE, card.temperature),
        ):
            if value is not None:
                yield family(value, **labels)
        for reason, holds in card.throttled.items():
            yield catalog.GPU_THROTTLED(float(holds), **labels, reason=reason)

    def _runners(self, cards: Iterable[Card], lacks: list[Lack]) -> Iterator[Sample]:
        """Who holds the cards' memory. Where no server's runners can be seen nothing is told: `other` would be all."""
        open_cards = [card for card in cards if card.processes is not None]
        if not open_cards or not self._settings.servers:
            return
        holders = self._holders()
        if isinstance(holders, Lack):
            lacks.append(Lack(f"which model holds a GPU's memory: {holders.what}", holders.remedy))
            return
        for card in open_cards:
            held: Tally[tuple[str, str]] = Tally({("", OTHER): 0})
            for pid, size in (card.processes or {}).items():
                held[holders.get(pid, ("", OTHER))] += size
            for (server, model), size in held.items():
                yield catalog.GPU_RUNNER_MEMORY(size, host=self._host, gpu=card.gpu, server=server, model=model)

    def _holders(self) -> dict[int, tuple[str, str]] | Lack:
        """Server and model by process id of the runners; what is in the way where no server is on this machine."""
        holders: dict[int, tuple[str, str]] = {}
        lack, found = None, False
        for server, url in self._settings.servers:
            try:
                place = self._machine.place(url)
                runners = [runner for runner in self._machine.runners(place) if runner.pid is not None]
                models = {cast(int, runner.pid): self._model(place, runner) for runner in runners}
            except Lacking as lacking:
                lack = lack or lacking.lack
                continue
            except (LookupError, OSError):  # it has gone meanwhile
                continue
            found = True
            labelled = sorted(set(models.values()) - {UNKNOWN})[: self._settings.models_max]
            for pid, model in models.items():
                holders.setdefault(pid, (server, model if model in (*labelled, UNKNOWN) else OTHER))
        return lack if lack and not found else holders

    def _model(self, place: Place, runner: RunnerProcess) -> str:
        weights = Path(argument(runner.arguments, "--model") or "").name
        names = self._machine.names(place, weights)
        return names[0] if len(names) == 1 and len(names[0]) <= NAME_MAX else UNKNOWN


class _Counters:
    """What only grows. Cards are told apart by uuid: when one falls off the bus, its number may pass to a neighbour."""

    def __init__(self, host: str) -> None:
        self._energy = Counter(catalog.GPU_ENERGY, host=host)
        self._ecc = Counter(catalog.GPU_ECC, host=host)
        self._xid = Counter(catalog.GPU_XID, host=host)
        self._uuids: dict[str, str] = {}
        self._totals: dict[tuple[Family, str, str], float] = {}

    def see(self, look: Look) -> None:
        for card in look.cards:
            if self._uuids.get(card.gpu, card.uuid) != card.uuid:
                self._forget(card.gpu)
            self._uuids[card.gpu] = card.uuid
            if card.energy is not None:
                self._energy.zero(gpu=[card.gpu])
                self._energy.add(self._growth(catalog.GPU_ENERGY, card.gpu, "", card.energy), gpu=card.gpu)
            for error, total in card.ecc.items():
                self._ecc.zero(gpu=[card.gpu], error=[error])
                self._ecc.add(self._growth(catalog.GPU_ECC, card.gpu, error, total), gpu=card.gpu, error=error)
        self._xid.zero(gpu=look.listening, cause=CAUSES)
        for gpu, code in look.xids:
            cause: Cause = "application" if code in _OF_APPLICATIONS else "device"
            self._xid.add(gpu=gpu, cause=cause)
            _log.warning("gpu %s: the driver reports XID %d (%s)", gpu, code, cause)

    def samples(self) -> Iterator[Sample]:
        for counter in (self._energy, self._ecc, self._xid):
            yield from counter.samples()

    def _growth(self, family: Family, gpu: str, kind: str, total: float) -> float:
        """Since the look before; a total that fell has started anew with the driver."""
        before = self._totals.get((family, gpu, kind))
        self._totals[family, gpu, kind] = total
        if before is None:
            return 0.0
        return total - before if total >= before else total

    def _forget(self, gpu: str) -> None:
        self._totals = {key: total for key, total in self._totals.items() if key[1] != gpu}
        others = frozenset(self._uuids) - {gpu}
        for counter in (self._energy, self._ecc, self._xid):
            counter.keep("gpu", others)


# --- NVIDIA ----------------------------------------------------------------------------------------------------------


class Nvidia:
    """NVML, opened at the first look and, after a failure, anew at the next. Not for two threads at once."""

    def __init__(self, proc: Path, has_library: Callable[[], bool]) -> None:
        self._loaded = proc / "driver" / "nvidia" / "version"
        self._has_library = has_library
        self._nvml: _Nvml | None = None

    def look(self) -> Look:
        """Raises `Lacking` where there is a driver or its library, and the exporter cannot use them."""
        if self._nvml is None:
            opened = self._open()
            if isinstance(opened, Look):
                return opened
            self._nvml = opened
        look = self._nvml.look()
        if look.troubles:
            self.close()
        return look

    def close(self) -> None:
        if self._nvml is not None:
            self._nvml.close()
            self._nvml = None

    def _open(self) -> _Nvml | Look:
        """A session; or all there is to see without one: nothing without NVIDIA, and what broke."""
        loaded = self._loaded.exists()
        try:
            import pynvml as nvml  # type: ignore[import-untyped]
        except ImportError:
            if loaded or self._has_library():
                raise Lacking("NVIDIA's GPUs: the package nvidia-ml-py is missing", _INSTALL) from None
            return Look()
        try:
            return _Nvml(nvml)
        except nvml.NVMLError_LibraryNotFound:
            if loaded:
                raise Lacking("NVIDIA's GPUs: their driver's library libnvidia-ml.so.1 is not here", _GIVE) from None
            return Look()
        except (nvml.NVMLError_DriverNotLoaded, nvml.NVMLError_NoPermission) as error:
            if loaded:
                raise Lacking("NVIDIA's GPUs: their device files are out of reach", _ALLOW) from error
            return Look()
        except nvml.NVMLError as error:
            return Look(troubles=(f"NVML does not start: {error}",))


_INSTALL = "pip install ollama-exporter[gpu]"
_GIVE = "give the exporter's container the GPUs (docker run --gpus all, with NVIDIA_DRIVER_CAPABILITIES=utility)"
_ALLOW = "let the exporter open /dev/nvidiactl and /dev/nvidia0 and so on (systemd: PrivateDevices=no and DeviceAllow=)"


THROTTLING = (
    ("power_cap", "nvmlClocksThrottleReasonSwPowerCap"),
    ("power_brake", "nvmlClocksThrottleReasonHwPowerBrakeSlowdown"),
    ("software_thermal", "nvmlClocksThrottleReasonSwThermalSlowdown"),
    ("hardware_thermal", "nvmlClocksThrottleReasonHwThermalSlowdown"),
    ("hardware_slowdown", "nvmlClocksThrottleReasonHwSlowdown"),
    ("sync_boost", "nvmlClocksThrottleReasonSyncBoost"),
    ("clocks_setting", "nvmlClocksThrottleReasonApplicationsClocksSetting"),
)
"""Reason and the constant of its bit. hardware_slowdown holds with power_brake and hardware_thermal too."""


class _Nvml:
    """One session with NVML, from its start to `close`. `_nvml` is the package's module, which knows no types."""

    def __init__(self, nvml: Any) -> None:
        self._nvml = nvml
        self._events: object | None = None
        nvml.nvmlInit()
        try:
            self._unknown = (
                nvml.NVMLError_NotSupported,
                nvml.NVMLError_FunctionNotFound,
                nvml.NVMLError_NoPermission,
                nvml.NVMLError_NoData,
                nvml.NVMLError_Deprecated,
            )
            self._driver = _text(nvml.nvmlSystemGetDriverVersion())
            self._count: int = nvml.nvmlDeviceGetCount()
            self._events = self._ask(nvml.nvmlEventSetCreate)
            self._listening = tuple(str(index) for index in range(self._count) if self._listen(index))
        except nvml.NVMLError:
            self.close()
            raise

    def look(self) -> Look:
        cards: list[Card] = []
        xids, troubles = self._xids()
        for index in range(self._count):
            try:
                cards.append(self._card(index))
            except self._nvml.NVMLError as error:
                troubles.append(f"NVIDIA's GPU {index} does not answer: {error}")
        return Look(tuple(cards), self._listening, xids, tuple(troubles))

    def close(self) -> None:
        try:
            if self._events is not None:
                self._nvml.nvmlEventSetFree(self._events)
            self._nvml.nvmlShutdown()
        except self._nvml.NVMLError as error:
            _log.debug("gpu: NVML does not close: %s", error)

    def _listen(self, index: int) -> bool:
        """Whether XIDs of this card will be told."""
        nvml = self._nvml
        if self._events is None:
            return False
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            xid = nvml.nvmlDeviceGetSupportedEventTypes(handle) & nvml.nvmlEventTypeXidCriticalError
            if xid:
                nvml.nvmlDeviceRegisterEvents(handle, xid, self._events)
        except nvml.NVMLError:  # no such events, or a card that the look will find silent as well
            return False
        return bool(xid)

    def _xids(self) -> tuple[tuple[tuple[str, int], ...], list[str]]:
        """The XIDs since the last look, and what went wrong: a card that has gone ends the telling."""
        nvml = self._nvml
        xids: list[tuple[str, int]] = []
        if not self._listening:
            return (), []
        try:
            for _ in range(_XIDS_MAX):
                event = nvml.nvmlEventSetWait(self._events, 0)
                if event.eventType == nvml.nvmlEventTypeXidCriticalError:
                    xids.append((str(nvml.nvmlDeviceGetIndex(event.device)), int(event.eventData)))
        except nvml.NVMLError_Timeout:  # no more of them
            return tuple(xids), []
        except nvml.NVMLError as error:
            return tuple(xids), [f"NVML tells no more events: {error}"]
        return tuple(xids), []

    def _card(self, index: int) -> Card:
        nvml = self._nvml
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        use = self._ask(lambda: nvml.nvmlDeviceGetUtilizationRates(handle))
        memory = self._ask(lambda: nvml.nvmlDeviceGetMemoryInfo(handle))
        power = self._ask(lambda: nvml.nvmlDeviceGetPowerUsage(handle))
        limit = self._ask(lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(handle))
        energy = self._ask(lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(handle))
        return Card(
            gpu=str(index),
            uuid=_text(self._ask(lambda: nvml.nvmlDeviceGetUUID(handle)) or ""),
            name=_text(self._ask(lambda: nvml.nvmlDeviceGetName(handle)) or ""),
            driver=self._driver,
            vendor="nvidia",
            utilization=None if use is None else use.gpu / 100,
            bandwidth=None if use is None else use.memory / 100,
            used=None if memory is None else memory.used,
            total=None if memory is None else memory.total,
            power=None if power is None else power / 1000,
            limit=None if limit is None else limit / 1000,
            temperature=self._temperature(handle),
            energy=None if energy is None else energy / 1000,
            throttled=self._throttled(handle),
            ecc=self._ecc(handle),
            processes=self._processes(handle),
        )

    def _temperature(self, handle: object) -> float | None:
        nvml = self._nvml
        return self._ask(
            lambda: float(nvml.nvmlDeviceGetTemperatureV(handle, nvml.NVML_TEMPERATURE_GPU)),
            lambda: float(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
        )

    def _throttled(self, handle: object) -> dict[str, bool]:
        nvml = self._nvml
        bits = self._ask(
            lambda: int(nvml.nvmlDeviceGetCurrentClocksEventReasons(handle)),
            lambda: int(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)),
        )
        if bits is None:
            return {}
        return {reason: bool(bits & getattr(nvml, constant)) for reason, constant in THROTTLING}

    def _ecc(self, handle: object) -> dict[str, int]:
        """By kind, over the card's life."""
        nvml, found = self._nvml, {}
        for error, kind in (
            ("corrected", nvml.NVML_MEMORY_ERROR_TYPE_CORRECTED),
            ("uncorrected", nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED),
        ):
            total = self._ask(self._total_of(handle, kind))
            if total is not None:
                found[error] = total
        return found

    def _total_of(self, handle: object, kind: int) -> Callable[[], int]:
        return lambda: int(self._nvml.nvmlDeviceGetTotalEccErrors(handle, kind, self._nvml.NVML_AGGREGATE_ECC))

    def _processes(self, handle: object) -> dict[int, int] | None:
        """Bytes by process. One that computes and draws is in both lists, with the same memory."""
        nvml = self._nvml
        computing = self._ask(lambda: nvml.nvmlDeviceGetComputeRunningProcesses(handle))
        drawing = self._ask(lambda: nvml.nvmlDeviceGetGraphicsRunningProcesses(handle))
        if computing is None and drawing is None:
            return None
        listed = [*(computing or ()), *(drawing or ())]
        if any(process.usedGpuMemory is None for process in listed):
            return None  # a driver that does not share it out (WDDM)
        shares: dict[tuple[int, int], int] = {}
        for process in listed:
            key = process.pid, process.gpuInstanceId
            shares[key] = max(shares.get(key, 0), process.usedGpuMemory)
        sizes: Tally[int] = Tally()
        for (pid, _), size in shares.items():
            sizes[pid] += size
        return sizes

    def _ask(self, *calls: Callable[[], _T]) -> _T | None:
        """What the first call gives that this driver and this card know; None when they know none."""
        for call in calls:
            try:
                return call()
            except self._unknown:
                continue
        return None


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


# --- AMD -------------------------------------------------------------------------------------------------------------

_GONE = frozenset({errno.ENODEV, errno.EIO})


class Amd:
    """The files of amdgpu below /sys/class/drm."""

    def __init__(self, sys: Path) -> None:
        self._sys = sys

    def look(self) -> Look:
        cards: list[Card] = []
        troubles: list[str] = []
        for card in self._cards():
            try:
                cards.append(self._card(card))
            except OSError as error:
                troubles.append(f"AMD's GPU {card.name} does not answer: {error.strerror}")
        return Look(tuple(cards), troubles=tuple(troubles))

    def _cards(self) -> list[Path]:
        try:
            found = [path for path in (self._sys / "class" / "drm").iterdir() if re.fullmatch(r"card\d+", path.name)]
        except OSError:
            return []
        mine = [path for path in found if os.path.realpath(path / "device" / "driver").endswith("/amdgpu")]
        return sorted(mine, key=lambda path: int(path.name[4:]))

    def _card(self, card: Path) -> Card:
        device = card / "device"
        version = _read(self._sys / "module" / "amdgpu" / "version")
        known = Card(
            gpu=card.name,
            uuid=os.path.basename(os.path.realpath(device)),
            name=_read(device / "product_name") or f"AMD {_read(device / 'device') or 'GPU'}",
            driver=f"amdgpu {version}" if version else "amdgpu",
            vendor="amd",
        )
        if _read(device / "power" / "runtime_status") == "suspended":
            return known  # asking would wake it
        sensors = next(iter(sorted((device / "hwmon").glob("hwmon*"))), device / "hwmon")
        return replace(
            known,
            utilization=_scaled(device / "gpu_busy_percent", 100),
            bandwidth=_scaled(device / "mem_busy_percent", 100),
            used=_whole(device / "mem_info_vram_used"),
            total=_whole(device / "mem_info_vram_total"),
            power=_first(_scaled(sensors / name, 1e6) for name in ("power1_average", "power1_input")),
            limit=_scaled(sensors / "power1_cap", 1e6),
            temperature=_scaled(sensors / "temp1_input", 1000),
        )


def _read(path: Path) -> str | None:
    """None where the card has no such file, or has nothing to tell in it. Raises OSError when the card is gone."""
    try:
        return path.read_text("ascii", "replace").strip()
    except OSError as error:
        if error.errno in _GONE:
            raise
        return None


def _whole(path: Path) -> int | None:
    text = _read(path)
    return int(text) if text and re.fullmatch(r"-?\d{1,20}", text) else None


def _scaled(path: Path, by: float) -> float | None:
    value = _whole(path)
    return None if value is None else value / by


def _first(values: Iterable[float | None]) -> float | None:
    return next((value for value in values if value is not None), None)
