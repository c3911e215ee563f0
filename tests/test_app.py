"""The program as a whole: started, reloaded, stopped; in virtual time where it can be, as a process where it must."""

from __future__ import annotations

import asyncio
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families as parse

from exporter import catalog
from exporter.app import Exporter
from exporter.config import Config, ConfigError, load
from exporter.exposition import render
from exporter.model import Family
from exporter.simulator import ServerConfig, SimServer, SimTransport, virtual_wall_clock
from exporter.sources import Surroundings
from tests.scene import meanwhile, virtually

ROOT = Path(__file__).parent.parent


def config(servers: str) -> Config:
    return load(None, {"OLLAMA_EXPORTER_SERVERS": servers})


def values(exporter: Exporter, family: Family) -> dict[tuple[str, ...], float]:
    page = render(exporter.snapshot(), openmetrics=False).decode()
    return {
        tuple(sample.labels[name] for name in family.labels): sample.value
        for found in parse(page)
        for sample in found.samples
        if sample.name == family.name
    }


def simulated(names: str) -> tuple[dict[str, SimServer], Surroundings]:
    servers = {name: SimServer(ServerConfig(name), virtual_wall_clock) for name in names}
    return servers, Surroundings(now=virtual_wall_clock, transport=lambda _: SimTransport(servers))


@virtually
async def test_it_is_ready_when_everything_was_looked_at_once() -> None:
    _, around = simulated("ab")
    exporter = Exporter(config("a=http://a,b=http://b"), lambda: config("a=http://a"), around)
    assert not exporter.ready()
    async with meanwhile(exporter.run()):
        await asyncio.sleep(5)
        assert exporter.ready()
        assert exporter.healthy()
        assert values(exporter, catalog.UP) == {("a",): 1.0, ("b",): 1.0}
        assert values(exporter, catalog.EXPORTER_SERVERS) == {(): 2.0}


@virtually
async def test_a_reload_keeps_the_counters_of_who_stays_and_drops_who_goes() -> None:
    _, around = simulated("abc")
    exporter = Exporter(config("a=http://a,b=http://b"), lambda: config("b=http://b,c=http://c"), around)
    async with meanwhile(exporter.run()):
        await asyncio.sleep(100)
        polls = values(exporter, catalog.SOURCE_LAST_ATTEMPT)
        assert await exporter.reload() == ()
        await asyncio.sleep(1)
        assert values(exporter, catalog.UP) == {("b",): 1.0, ("c",): 1.0}
        assert values(exporter, catalog.SOURCE_LAST_ATTEMPT)["b", "api"] == polls["b", "api"]
        await asyncio.sleep(100)
        page = render(exporter.snapshot(), openmetrics=False).decode()
        assert 'server="a"' not in page
        (count,) = [
            sample.value
            for found in parse(page)
            for sample in found.samples
            if sample.name == "ollama_api_request_duration_seconds_count"
            and sample.labels == {"server": "b", "api_endpoint": "/api/version"}
        ]
        assert count >= 13


@virtually
async def test_a_failed_reload_changes_nothing_and_says_so() -> None:
    _, around = simulated("a")

    def broken() -> Config:
        raise ConfigError(("servers[0].url: is missing", "poll.interval: must be > 0, got 0"))

    exporter = Exporter(config("a=http://a"), broken, around)
    async with meanwhile(exporter.run()):
        await asyncio.sleep(10)
        before = values(exporter, catalog.EXPORTER_CONFIG)
        assert len(await exporter.reload()) == 2
        await asyncio.sleep(10)
        assert values(exporter, catalog.UP) == {("a",): 1.0}
        assert values(exporter, catalog.EXPORTER_CONFIG) == before
        assert values(exporter, catalog.EXPORTER_RELOAD_OK) == {(): 0.0}


@virtually
async def test_reloading_the_same_configuration_disturbs_no_watch() -> None:
    servers, around = simulated("a")
    exporter = Exporter(config("a=http://a"), lambda: config("a=http://a"), around)
    async with meanwhile(exporter.run()):
        await asyncio.sleep(10)
        asked = len(servers["a"].log.of("request"))
        for _ in range(50):
            assert await exporter.reload() == ()
        assert len(servers["a"].log.of("request")) == asked
        await asyncio.sleep(300)
        assert len(servers["a"].log.of("request")) < asked + 100


# --- as a process ----------------------------------------------------------------------------------------------------


class Process:
    def __init__(self, popen: subprocess.Popen[str], url: str) -> None:
        self.popen = popen
        self.client = httpx.Client(base_url=url, timeout=10.0)
        self.lines: list[str] = []
        self._unread: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.popen.stderr is not None
        for line in self.popen.stderr:
            self.lines.append(line)
            self._unread.put(line)
        self._unread.put("")

    def read_until(self, words: str) -> str:
        """The next line of its log that has these words."""
        while line := self._unread.get(timeout=30.0):
            if words in line:
                return line
        raise AssertionError(f"no {words!r} in its log: {self.lines}")

    def log(self) -> str:
        """All of it, once the process has ended."""
        self._reader.join(10.0)
        return "".join(self.lines)

    def end(self, number: int = signal.SIGTERM) -> int:
        self.popen.send_signal(number)
        return self.popen.wait(10)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


@contextmanager
def process(*arguments: str, wrapper: tuple[str, ...] = (), **env: str) -> Iterator[Process]:
    port = free_port()
    command = [*wrapper, sys.executable, "-m", "exporter", "--web.listen-address", f"127.0.0.1:{port}", *arguments]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("OLLAMA")}
    popen = subprocess.Popen(command, cwd=ROOT, env={**clean, **env}, stderr=subprocess.PIPE, text=True)
    assert popen.stderr is not None
    made = Process(popen, f"http://127.0.0.1:{port}")
    try:
        made.read_until("listening on")
        yield made
    finally:
        made.client.close()
        if popen.poll() is None:
            popen.kill()
        popen.wait(10)
        made.log()
        popen.stderr.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly(number: int) -> None:
    with process(OLLAMA_HOST="127.0.0.1:1") as it:
        assert it.client.get("/-/healthy").status_code == 200
        assert it.end(number) == 0


def test_a_signal_ends_it_though_a_client_reads_nothing() -> None:
    with process(OLLAMA_HOST="127.0.0.1:1") as it:
        host, port = it.client.base_url.host, it.client.base_url.port
        assert port is not None
        with socket.create_connection((host, port)) as slow:
            slow.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n")
            assert it.end() == 0


def test_sigterm_ends_it_as_process_number_one() -> None:
    """A container's first process gets no default handlers: one that installs none ignores `docker stop`."""
    unshare = shutil.which("unshare")
    allowed = unshare and subprocess.run([unshare, "-fp", "--mount-proc", "true"], capture_output=True, check=False)
    if not allowed or allowed.returncode != 0:
        message = "no process namespace can be made here: whether PID 1 obeys SIGTERM was not tested"
        pytest.fail(message) if os.environ.get("CI") and os.geteuid() == 0 else pytest.skip(message)
    with process(wrapper=("unshare", "-fp", "--mount-proc"), OLLAMA_HOST="127.0.0.1:1") as it:
        (child,) = Path(f"/proc/{it.popen.pid}/task/{it.popen.pid}/children").read_text().split()
        os.kill(int(child), signal.SIGTERM)
        assert it.popen.wait(10) == 0


def test_an_address_in_use_is_told_in_a_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = subprocess.run(
            [sys.executable, "-m", "exporter", "--web.listen-address", address],
            cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert f"cannot listen on {address}" in done.stderr
    assert "Traceback" not in done.stderr


def test_reload_by_signal_and_by_post_is_all_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "exporter.yml"
    path.write_text("servers:\n  - {name: a, url: 'http://127.0.0.1:1'}\n")
    with process("--config.file", str(path)) as it:
        assert it.client.get("/-/reload").status_code == 405
        path.write_text(
            "servers:\n  - {name: a, url: 'http://127.0.0.1:1'}\n  - {name: b, url: 'http://127.0.0.1:2'}\n"
        )
        it.popen.send_signal(signal.SIGHUP)
        it.read_until("configuration reloaded: 2 servers")
        path.write_text("servers:\n  - {name: a, ulr: 'http://127.0.0.1:1'}\nspeed: 9\n")
        answer = it.client.post("/-/reload")
        assert answer.status_code == 400
        assert len(answer.text.splitlines()) >= 3
        assert "did you mean" in answer.text
        assert "b" in it.client.get("/config").text
        path.write_text("servers:\n  - {name: c, url: 'http://127.0.0.1:3'}\n")
        assert it.client.post("/-/reload").status_code == 200
        assert "127.0.0.1:3" in it.client.get("/config").text
        assert it.end() == 0


def test_secrets_appear_nowhere(tmp_path: Path) -> None:
    secrets = {"token": "tok-5ecret-1", "password": "pw-5ecret-2", "header": "hd-5ecret-3"}
    for name in ("token", "password"):
        (tmp_path / name).write_text(secrets[name] + "\n")
    path = tmp_path / "exporter.yml"
    path.write_text(
        "servers:\n"
        f"  - {{name: a, url: 'http://127.0.0.1:1', bearer_token_file: {tmp_path}/token,"
        " headers: {X-Key: '${THE_HEADER}'}}\n"
        "  - {name: b, url: 'http://127.0.0.1:2',"
        f" basic_auth: {{username: u, password_file: {tmp_path}/password}}}}\n"
    )
    arguments = ("--config.file", str(path), "--log.level", "debug")
    with process(*arguments, THE_HEADER=secrets["header"]) as it:
        pages = [it.client.get(url).text for url in ("/metrics", "/", "/config", "/-/ready")]
        (tmp_path / "token").unlink()
        pages.append(it.client.post("/-/reload").text)
        assert it.end() == 0
        log = it.log()
    (tmp_path / "token").write_text(secrets["token"])
    for command in (["check", "--online"], ["check"]):
        done = subprocess.run(
            [sys.executable, "-m", "exporter", *command, "--config.file", str(path)],
            cwd=ROOT, env={**os.environ, "THE_HEADER": secrets["header"]}, capture_output=True, text=True, timeout=60,
            check=False,
        )  # fmt: skip
        pages.append(done.stdout + done.stderr)
    everything = "\n".join([*pages, log])
    assert "127.0.0.1:1" in everything
    for secret in secrets.values():
        assert secret not in everything


def test_the_demo_lives() -> None:
    with process("demo") as it:
        assert any("saturated" in line for line in it.lines), "the timetable is told"
        assert any(it.client.get("/-/ready").status_code == 200 for _ in range(5000)), "never ready"
        page = it.client.get("/metrics").text
        up = {s.labels["server"]: s.value for f in parse(page) if f.name == "ollama_up" for s in f.samples}
        assert up == {"primary": 1.0, "secondary": 1.0, "tertiary": 1.0}
        assert it.client.get("/").status_code == 200
        assert it.end() == 0
