"""NVIDIA's driver library that is none: what `libnvidia-ml.so.1` answers, function by function under its C names.

The real `pynvml` package calls it, so that its structures, error classes and fallbacks are the real ones.
"""

# ruff: noqa: N802, N815 - the C library's names
from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pynvml

GIB = 2**30


@dataclass
class FakeCard:
    uuid: str
    utilization: tuple[int, int] = (87, 45)
    memory: tuple[int, int] = (24 * GIB, 20 * GIB)
    milliwatts: int = 65_500
    limit: int = 72_000
    millijoules: int = 9_000_000
    celsius: int = 61
    clocks: int = 0
    ecc: dict[int, int] = field(default_factory=lambda: {0: 3, 1: 0})
    computing: list[tuple[int, int]] = field(default_factory=list)
    drawing: list[tuple[int, int]] = field(default_factory=list)


class FakeDriver:
    """The functions of libnvidia-ml.so.1 that are asked for. `refuses`: what a function answers, by its C name and the
    card's index (None: every card). `lacks`: functions that this version of the library does not have."""

    def __init__(self, *cards: FakeCard) -> None:
        self.cards = list(cards)
        self.refuses: dict[tuple[str, int | None], int] = {}
        self.lacks: set[str] = set()
        self.events: list[tuple[int, int, int]] = []
        self.sessions = 0
        self.asked: list[str] = []

    def __getattr__(self, name: str) -> Callable[..., int]:
        function = None if name in self.lacks else getattr(type(self), f"_{name}", None)
        if function is None:
            raise AttributeError(name)

        def call(*arguments: Any) -> int:
            self.asked.append(name)
            index = address(arguments[0]) - 1000 if isinstance(arguments[0], DEVICE) else None
            for refused in ((name, index), (name, None)):
                if refused in self.refuses:
                    return self.refuses[refused]
            return function(self, *arguments) or pynvml.NVML_SUCCESS

        return call if name != "nvmlShutdown" else self._shutdown

    def _shutdown(self) -> int:
        self.sessions -= 1
        return int(pynvml.NVML_SUCCESS)

    def _nvmlInitWithFlags(self, _: Any) -> None:
        self.sessions += 1

    _nvmlShutdown = _shutdown

    def _nvmlSystemGetDriverVersion(self, buffer: Any, _: Any) -> None:
        buffer.value = b"580.95.05"

    def _nvmlDeviceGetCount_v2(self, count: Any) -> None:
        count._obj.value = len(self.cards)

    def _nvmlDeviceGetHandleByIndex_v2(self, index: Any, device: Any) -> None:
        ctypes.c_void_p.from_buffer(device._obj).value = 1000 + index.value

    def _nvmlDeviceGetIndex(self, device: Any, index: Any) -> None:
        index._obj.value = address(device) - 1000

    def _card(self, device: Any) -> FakeCard:
        return self.cards[address(device) - 1000]

    def _nvmlDeviceGetUUID(self, device: Any, buffer: Any, _: Any) -> None:
        buffer.value = self._card(device).uuid.encode()

    def _nvmlDeviceGetName(self, device: Any, buffer: Any, _: Any) -> None:
        buffer.value = b"NVIDIA L4"

    def _nvmlDeviceGetUtilizationRates(self, device: Any, rates: Any) -> None:
        rates._obj.gpu, rates._obj.memory = self._card(device).utilization

    def _nvmlDeviceGetMemoryInfo(self, device: Any, info: Any) -> None:
        info._obj.total, info._obj.used = self._card(device).memory

    def _nvmlDeviceGetPowerUsage(self, device: Any, power: Any) -> None:
        power._obj.value = self._card(device).milliwatts

    def _nvmlDeviceGetEnforcedPowerLimit(self, device: Any, limit: Any) -> None:
        limit._obj.value = self._card(device).limit

    def _nvmlDeviceGetTotalEnergyConsumption(self, device: Any, energy: Any) -> None:
        energy._obj.value = self._card(device).millijoules

    def _nvmlDeviceGetTemperatureV(self, device: Any, temperature: Any) -> None:
        temperature._obj.temperature = self._card(device).celsius

    def _nvmlDeviceGetTemperature(self, device: Any, _: Any, temperature: Any) -> None:
        temperature._obj.value = self._card(device).celsius

    def _nvmlDeviceGetCurrentClocksEventReasons(self, device: Any, reasons: Any) -> None:
        reasons._obj.value = self._card(device).clocks

    _nvmlDeviceGetCurrentClocksThrottleReasons = _nvmlDeviceGetCurrentClocksEventReasons

    def _nvmlDeviceGetTotalEccErrors(self, device: Any, error: Any, counter: Any, count: Any) -> None:
        assert counter.value == pynvml.NVML_AGGREGATE_ECC
        count._obj.value = self._card(device).ecc[error.value]

    def _nvmlDeviceGetComputeRunningProcesses_v3(self, device: Any, count: Any, processes: Any) -> int:
        return self._list(self._card(device).computing, count, processes)

    def _nvmlDeviceGetGraphicsRunningProcesses_v3(self, device: Any, count: Any, processes: Any) -> int:
        return self._list(self._card(device).drawing, count, processes)

    def _list(self, listed: list[tuple[int, int]], count: Any, processes: Any) -> int:
        if len(listed) > count._obj.value:
            count._obj.value = len(listed)
            return int(pynvml.NVML_ERROR_INSUFFICIENT_SIZE)
        count._obj.value = len(listed)
        for place, (pid, size) in enumerate(listed):
            processes[place].pid, processes[place].usedGpuMemory = pid, size
        return int(pynvml.NVML_SUCCESS)

    def _nvmlEventSetCreate(self, events: Any) -> None:
        ctypes.c_void_p.from_buffer(events._obj).value = 77

    def _nvmlEventSetFree(self, events: Any) -> None:
        assert address(events) == 77

    def _nvmlDeviceGetSupportedEventTypes(self, device: Any, types: Any) -> None:
        types._obj.value = pynvml.nvmlEventTypeXidCriticalError | pynvml.nvmlEventTypeClock

    def _nvmlDeviceRegisterEvents(self, device: Any, types: Any, events: Any) -> None:
        assert types.value == pynvml.nvmlEventTypeXidCriticalError

    def _nvmlEventSetWait_v2(self, events: Any, data: Any, timeout: Any) -> int:
        assert timeout.value == 0, "a look must not wait for errors"
        if not self.events:
            return int(pynvml.NVML_ERROR_TIMEOUT)
        index, kind, code = self.events.pop(0)
        ctypes.c_void_p.from_buffer(data._obj, pynvml.c_nvmlEventData_t.device.offset).value = 1000 + index
        data._obj.eventType, data._obj.eventData = kind, code
        return int(pynvml.NVML_SUCCESS)


DEVICE = pynvml.c_nvmlDevice_t


def address(handle: Any) -> int:
    return ctypes.cast(handle, ctypes.c_void_p).value or 0
