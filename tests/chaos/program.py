"""The exporter as a process, and its page as it is scraped."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from exporter.model import Family

ROOT = Path(__file__).parents[2]
QUIET = {name: {"mode": "off"} for name in ("native", "sockets", "runner", "logs", "docker", "gpu", "audit", "canary")}
"""Settings without any source but api, host and exporter."""
_HASTENED = """
from exporter.config import planning
planning.HOST_EVERY, planning.HOST_WITHIN = 1.0, 2.0
"""
_TELLS = """
import ctypes, os, signal, sys
from pathlib import Path

class Used(ctypes.Structure):  # struct mallinfo2
    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")]

def tell(*_):
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = Used
    used, place = mallinfo2(), Path(os.environ["HELD"])
    place.with_suffix(".new").write_text(str(512 * sys.getallocatedblocks() + used.uordblks + used.hblkhd))
    place.with_suffix(".new").rename(place)

signal.signal(signal.SIGUSR2, tell)
"""
"""Python's small blocks, of 512 bytes at most, and what the C library has handed out."""
_RUNS = """
from exporter.__main__ import main
raise SystemExit(main())
"""
_SAMPLE = re.compile(r"^([a-z_]+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
_SERVER = re.compile(r'(?:^|,)server="([^"]*)"')


class Program:
    """`settings` is the configuration file; `wrapper` words stand before the command. `hasten`: it looks at its machine
    every second in place of every 15. `holds`: its memory is what it has allocated and not freed, in place of its
    resident set. `log`: where its standard error goes."""

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Any],
        port: int,
        *,
        wrapper: tuple[str, ...] = (),
        hasten: bool = False,
        holds: bool = False,
        log: Path | None = None,
        **env: str,
    ) -> None:
        self.name = f"exporter-{port}"
        self._config, self._log = folder / f"{self.name}.yml", log or folder / f"{self.name}.log"
        self._held = folder / f"{self.name}.held" if holds else None
        before = _HASTENED * hasten + _TELLS * holds
        program = ["-c", before + _RUNS] if before else ["-m", "exporter"]
        self._command = [*wrapper, sys.executable, *program, "--config.file", str(self._config)]
        self._env = {name: value for name, value in os.environ.items() if not name.startswith("OLLAMA")} | env
        self._env |= {"PYTHONFAULTHANDLER": "1", "HELD": str(self._held)}
        self.port = port
        self.configure(settings)
        self._client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20.0)
        self._popen: subprocess.Popen[bytes] | None = None

    def configure(self, settings: Mapping[str, Any]) -> None:
        """JSON is YAML."""
        whole = {**settings, "web": {"listen_address": f"127.0.0.1:{self.port}"}}
        self._config.write_text(json.dumps(whole, indent=1))

    async def __aenter__(self) -> Program:
        with self._log.open("wb") as log:
            self._popen = subprocess.Popen(self._command, cwd=ROOT, env=self._env, stderr=log)  # noqa: ASYNC220
        async with asyncio.timeout(60):
            while not await self.answers():
                assert self._popen.poll() is None, f"it ended at once: {self.log()}"
                await asyncio.sleep(0.1)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        await self._client.aclose()
        if kind is not None and self.alive:
            sys.stderr.write(f"{self.name} {self._last_words()}\n")
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.wait()

    def _last_words(self) -> str:
        """What its threads are at, and its log. It is gone after that."""
        self.popen.send_signal(signal.SIGABRT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.popen.wait(5)
        return f"was here when it was given up:\n{self.log()[-3000:]}"

    async def answers(self) -> bool:
        try:
            return (await self._client.get("/-/healthy")).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    @property
    def popen(self) -> subprocess.Popen[bytes]:
        assert self._popen is not None
        return self._popen

    @property
    def alive(self) -> bool:
        return self.popen.poll() is None

    def end(self) -> int:
        """Its exit code after SIGTERM."""
        self.popen.send_signal(signal.SIGTERM)
        try:
            return self.popen.wait(20)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} does not end; it {self._last_words()}") from None

    async def reload(self) -> None:
        answer = await self._client.post("/-/reload")
        assert answer.status_code == httpx.codes.OK, answer.text

    async def scrape(self) -> Page:
        return Page((await self._client.get("/metrics", headers={"Accept-Encoding": "gzip"})).text)

    async def status_page(self) -> bool:
        return (await self._client.get("/")).status_code == httpx.codes.OK

    def log(self) -> str:
        return self._log.read_text("utf-8", "replace")

    async def memory(self) -> int:
        """Bytes."""
        if self._held is None:
            return self._told("VmRSS")
        self._held.unlink(missing_ok=True)
        self.popen.send_signal(signal.SIGUSR2)
        async with asyncio.timeout(20):
            while not self._held.exists():  # noqa: ASYNC110 - a file has no event to tell
                await asyncio.sleep(0.05)
        return int(self._held.read_text())

    @property
    def virtual(self) -> int:
        """Bytes of address space."""
        return self._told("VmSize")

    def _told(self, what: str) -> int:
        status = Path(f"/proc/{self.popen.pid}/status").read_text()
        (kilobytes,) = re.findall(rf"^{what}:\s+(\d+) kB", status, re.MULTILINE)
        return int(kilobytes) * 1024

    @property
    def files(self) -> int:
        """Open file descriptors."""
        return len(os.listdir(f"/proc/{self.popen.pid}/fd"))


class Page:
    """One scrape. `series` by the whole of what stands before the value; `of` a server: family names to series."""

    def __init__(self, text: str) -> None:
        self.series: dict[str, float] = {}
        self.of: dict[str, dict[str, list[str]]] = {}
        for name, labels, value in _SAMPLE.findall(text):
            key = f"{name}{{{labels}}}" if labels else name
            self.series[key] = float(value)
            found = _SERVER.search(labels)
            if found:
                self.of.setdefault(found[1], {}).setdefault(name, []).append(key)

    def value(self, family: Family, suffix: str = "", **labels: str) -> float | None:
        """None where there is no such series."""
        inside = ",".join(f'{name}="{value}"' for name, value in sorted(labels.items()))
        return self.series.get(f"{family.name}{suffix}{{{inside}}}" if inside else f"{family.name}{suffix}")

    def labels(self, family: Family, server: str, label: str) -> set[str]:
        """Values that a label has among the series of a server."""
        keys = self.of.get(server, {}).get(family.name, ())
        return {found[1] for key in keys if (found := re.search(rf'[{{,]{label}="([^"]*)"', key))}
