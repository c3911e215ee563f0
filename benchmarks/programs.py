"""Exporters, Prometheus and VictoriaMetrics in processes of their own on loopback, for as long as a block lasts."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

PATIENCE = 60.0


@dataclass(frozen=True, slots=True)
class Program:
    """A process that answers HTTP on this address of loopback."""

    address: str
    process: psutil.Process

    def get(self, path: str) -> bytes:
        return self.asked(path)[0]

    def asked(self, path: str, **headers: str) -> tuple[bytes, str]:
        """The body as it came, and how it was compressed."""
        request = urllib.request.Request(f"http://{self.address}{path}", headers=headers)
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:  # noqa: S310 - http, as written above
            return bytes(answer.read()), answer.headers.get("Content-Encoding", "")

    def value(self, name: str, path: str = "/metrics", **labels: str) -> float:
        """The sum of this metric's samples that have these labels, on its own page."""
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        lines = [line for line in self.get(path).decode().splitlines() if line.startswith((f"{name}{{", f"{name} "))]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if all(each in line for each in wanted))

    def query(self, expr: str) -> list[dict[str, Any]]:
        """An instant query, of what speaks Prometheus' API."""
        asked = urllib.parse.urlencode({"query": expr})
        return list(json.loads(self.get(f"/api/v1/query?{asked}"))["data"]["result"])

    def cpu(self) -> float:
        times = self.process.cpu_times()
        return float(times.user + times.system)

    def resident(self) -> int:
        return int(self.process.memory_info().rss)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def exporter(folder: Path, name: str, address: str, settings: dict[str, Any]) -> Iterator[Program]:
    """An exporter with these settings and nothing of its machine, ready."""
    path = folder / f"{name}.yml"
    own = {"host": {"enabled": False}, "web": {"listen_address": f"{address}"}, "log": {"level": "error"}}
    own |= {key: {"mode": "off"} for key in ("native", "sockets", "runner", "logs", "docker", "gpu", "audit")}
    path.write_text(yaml.safe_dump({**own, "canary": {"mode": "off"}, **settings}), encoding="utf-8")
    with _running(
        [sys.executable, "-m", "exporter", f"--config.file={path}"], folder / name, address, "/-/ready"
    ) as it:
        yield it


@contextlib.contextmanager
def prometheus(binary: Path, folder: Path, address: str, config: dict[str, Any]) -> Iterator[Program]:
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    command = [
        str(binary), f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/tsdb",
        f"--web.listen-address={address}", "--log.level=warn",
    ]  # fmt: skip
    with _running(command, folder / "prometheus", address, "/-/ready") as it:
        yield it


@contextlib.contextmanager
def victoria_metrics(binary: Path, folder: Path, address: str) -> Iterator[Program]:
    """Takes what is written to /api/v1/write."""
    command = [str(binary), f"-storageDataPath={folder}/victoria", f"-httpListenAddr={address}"]
    with _running(command, folder / "victoria-metrics", address, "/health") as it:
        yield it


@contextlib.contextmanager
def _running(command: list[str], name: Path, address: str, path: str) -> Iterator[Program]:
    log = name.with_suffix(".log")
    with log.open("wb") as file, subprocess.Popen(command, stdout=file, stderr=file) as process:
        try:
            program = Program(address, psutil.Process(process.pid))
            until = time.monotonic() + PATIENCE
            while not _answers(program, path):
                if process.poll() is not None or time.monotonic() > until:
                    raise SystemExit(f"{name.name} did not get ready; {log.read_text(errors='replace')[-2000:]}")
                time.sleep(0.05)
            yield program
        finally:
            process.terminate()
            process.wait(PATIENCE)


def _answers(program: Program, path: str) -> bool:
    try:
        program.get(path)
    except OSError:
        return False
    return True
