"""`ollama-exporter load` as it is typed: exit codes, messages, reports, on real sockets of the simulator."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from exporter import catalog
from exporter.__main__ import main
from exporter.loadtest import capacity, verdict
from exporter.loadtest.page import parse
from exporter.simulator import EngineConfig, Fault, ServerConfig, SimServer
from exporter.simulator.server import serve
from tests.loadtest.restart import end
from tests.wire import free_port

ROOT = Path(__file__).parents[2]
QUIET = ["--exporter", "off", "--metrics-address", "off", "--quiet"]


class Remote:
    """A simulated server on a thread of its own."""

    def __init__(self) -> None:
        self.url = ""
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="simulated server")
        self._thread.start()
        self._ready.wait(20)

    async def _serve(self) -> None:
        self.server = SimServer(ServerConfig(engine=EngineConfig(num_parallel=8)))
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        async with serve(self.server) as self.url:
            self._ready.set()
            await self._over.wait()
        await self.server.aclose()

    def inject(self, fault: Fault) -> None:
        self._loop.call_soon_threadsafe(self.server.inject, fault)

    def heal(self) -> None:
        self._loop.call_soon_threadsafe(self.server.heal)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(20)


@pytest.fixture(scope="module")
def shared() -> Iterator[Remote]:
    remote = Remote()
    yield remote
    remote.close()


@pytest.fixture
def remote(shared: Remote) -> Iterator[Remote]:
    yield shared
    shared.heal()


@pytest.fixture(autouse=True)
def calm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine that runs other tests, too, must not make these runs invalid."""
    for name in os.environ:
        if name.startswith("OLLAMA"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(verdict, "_OF_OBJECTIVE", 10.0)


def load(*arguments: str) -> tuple[int, dict[str, Any]]:
    """Exit code and report."""
    code = main(["load", "--scenario", "smoke", "--rate", "20", "--duration", "1s", "--out", "out", *QUIET, *arguments])
    report = Path("out/report.json")
    return code, json.loads(report.read_text()) if report.exists() else {}


def test_objectives_met_is_0_with_three_reports(remote: Remote) -> None:
    code, report = load("--url", remote.url)
    assert (code, report["verdict"]) == (0, "pass")
    assert report["requests"]["offered"] == report["requests"]["completed"] == 20
    assert {path.name for path in Path("out").iterdir()} == {"report.json", "report.csv", "report.html"}
    assert len(Path("out/report.csv").read_text().splitlines()) == 21
    assert {"p50", "p95", "p99", "max"} <= report["ttft_seconds"].keys()
    assert isinstance(report["self_lag_seconds"], float)
    assert report["environment"]["servers"][0]["version"] == "0.33.0-rc2"


def test_objectives_missed_is_1(remote: Remote) -> None:
    remote.inject(Fault("mid_stream_error"))
    code, report = load("--url", remote.url, "--abort-on", "never")
    assert (code, report["verdict"]) == (1, "fail")
    assert report["requests"]["failed"]["stream_error"] == 20


def test_a_model_that_is_not_there_is_an_invalid_run_with_a_report(remote: Remote) -> None:
    code, report = load("--url", remote.url, "--model", "llama9")
    assert (code, report["verdict"], report["requests"]["offered"]) == (3, "invalid", 0)
    assert "has no model llama9:latest; it has" in report["why"][0]
    assert Path("out/report.html").exists()


def test_a_model_that_would_be_asked_elsewhere_is_refused(remote: Remote, capsys: pytest.CaptureFixture[str]) -> None:
    assert load("--url", remote.url, "--model", "gpt-oss:20b-cloud")[0] == 2
    assert "--model: is a model in the cloud" in capsys.readouterr().err


def test_nobody_at_home_misses_the_objectives() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    code, report = load("--url", f"http://127.0.0.1:{port}")
    assert (code, report["requests"]["failed"]["connection"]) == (1, 20)
    assert any("did not answer before the run (refused)" in note for note in report["notes"])


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--url", "http://8.8.8.8:11434"], "http://8.8.8.8:11434: 8.8.8.8 is neither this machine nor"),
        (["--url", "gpu1:11434"], "must be a URL that starts with http:// or https://, got 'gpu1:11434'"),
        (["--url", "http://127.0.0.1:1", "--url", "http://127.0.0.1:1"], "http://127.0.0.1:1 is given twice"),
        (["--url", "http://127.0.0.1:1", "--rate", "5000"], "5,000 requests a second are more than limits.rate"),
        (["--url", "http://127.0.0.1:1", "--scenario", "nowhere"], "nowhere: cannot be read"),
        (["--url", "http://127.0.0.1:1", "--duration", "soon"], "--duration: must be a duration such as 15s"),
        (["--url", "http://127.0.0.1:1", "--weights", "1,x"], "--weights[1]: must be a weight above 0, got 'x'"),
        (["--url", "http://127.0.0.1:1", "--max-tokens", "many"], "--max-tokens: must be a whole number"),
        (["--url", "http://127.0.0.1:1", "--out", "/proc/x"], "--out: /proc/x cannot be written"),
        (["--config.file", "nowhere.yml"], "nowhere.yml: cannot be read"),
    ],
)  # fmt: skip
def test_wrong_usage_is_2_and_sends_nothing(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert load(*arguments)[0] == 2
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--users", "3", "--rate", "4"], ["--frobnicate"], ["--users", "many"]])
def test_what_argparse_refuses_is_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["load", *arguments])
    assert stopped.value.code == 2


def test_without_its_extra_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "rich", None)
    assert main(["load"]) == 2
    assert "pip install 'ollama-exporter[load]'" in capsys.readouterr().err


def test_the_configured_servers_are_asked_under_their_names(remote: Remote) -> None:
    Path("e.yml").write_text(f"servers: [{{name: primary, url: '{remote.url}'}}]\n")
    code, report = load("--config.file", "e.yml")
    assert (code, [server["name"] for server in report["servers"]]) == (0, ["primary"])


def test_two_runs_are_compared(remote: Remote, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        load("--url", remote.url, "--out", name)
    assert main(["load", "compare", "a", "b"]) == 0
    assert "nothing changed beyond noise" in capsys.readouterr().out
    assert main(["load", "compare", "a", "nowhere"]) == 2


def test_a_capacity_is_found(remote: Remote, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(
        ["load", "capacity", "--scenario", "smoke", "--users", "4", "--duration", "500ms", "--start", "1",
         "--most", "2", "--repeats", "1", "--url", remote.url, "--out", "cap", *QUIET[:-1]]
    )  # fmt: skip
    assert code == 0
    assert "2 users are carried within the objectives" in capsys.readouterr().out
    found = json.loads(Path("cap/capacity.json").read_text())["capacities"][0]["found"]
    assert [level["load"] for level in found["levels"]] == [1.0, 2.0]
    assert {"capacity.html", "run-1-1.json", "run-2-1.json"} <= {path.name for path in Path("cap").iterdir()}


def test_slots_are_tried_only_with_a_way_to_restart(remote: Remote, capsys: pytest.CaptureFixture[str]) -> None:
    given = [
        "load",
        "capacity",
        "--scenario",
        "smoke",
        "--url",
        remote.url,
        "--out",
        "cap",
        "--parallel",
        "1,2",
        "--quiet",
    ]
    assert main(given) == 2
    assert main([*given, "--restart", "false {parallel}"]) == 2
    assert capsys.readouterr().out.splitlines()[-1] == "--restart: the command ended with 1"


READERS = """
model: tinyllama
rate: 8
arrivals: constant
duration: 1s
workloads:
- {name: quick, api: generate, answer_tokens: 40}
- {name: slow, api: generate, answer_tokens: 40, read_rate: 2000}
"""


def test_slow_readers_lose_nothing_and_are_no_lag_of_the_tester(remote: Remote) -> None:
    Path("readers.yml").write_text(READERS)
    code = main(["load", "--scenario", "readers.yml", "--url", remote.url, "--out", "out", *QUIET])
    report = json.loads(Path("out/report.json").read_text())
    assert (code, report["verdict"], report["requests"]["completed"]) == (0, "pass", 8)
    of = {each["name"]: each for each in report["workloads"]}
    assert of["slow"]["requests"]["completed"] > 0
    # 40 lines of a hundred bytes, less the first kilobyte; the server itself takes 0.3 s.
    assert of["slow"]["total_seconds"]["mean"] > 1.0 + of["quick"]["total_seconds"]["mean"]
    assert of["slow"]["ttft_seconds"]["max"] < 1.0
    assert any(note.startswith("workload slow reads 2,000 bytes a second") for note in report["notes"])


SLOTS = """
model: tinyllama
users: 2
duration: 1s
workloads: [{name: default, prompt_words: 8, prompt_spread: 0, answer_tokens: 16, think: 1ms}]
objectives: {ttft_p95: 500ms, ttft_p99: 500ms, good_ttft: 500ms}
"""


def test_a_server_that_is_restarted_with_more_slots_is_found_to_carry_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two users on one slot: one of them waits for an answer of 0.8 s. On two slots nobody waits."""
    monkeypatch.setattr(capacity, "_PAUSE", 0.1)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    Path("slots.yml").write_text(SLOTS)
    port, pid_file = free_port(), Path.cwd() / "pid"
    restart = f"{sys.executable} {Path(__file__).with_name('restart.py')} {{parallel}} {port} {pid_file}"
    try:
        code = main(
            ["load", "capacity", "--scenario", "slots.yml", "--start", "1", "--most", "2", "--repeats", "1", "--url",
             f"http://127.0.0.1:{port}", "--parallel", "1,2", "--restart", restart, "--out", "cap", *QUIET]
        )  # fmt: skip
    finally:
        end(pid_file, port)
    assert code == 0
    found = json.loads(Path("cap/capacity.json").read_text())["capacities"]
    assert [(each["parallel"], each["found"]["highest"]["load"]) for each in found] == [(1, 1.0), (2, 2.0)]
    assert "were within 0.5 s, 95% is needed" in found[0]["found"]["lowest_failed"]["why"][0]
    assert found[1]["found"]["lowest_failed"] is None
    assert {"run-p1-2-1.json", "run-p2-2-1.json"} <= {path.name for path in Path("cap").iterdir()}


# --- in a process of its own ------------------------------------------------------------------------------------------


def started(remote: Remote, *arguments: str, before: str = "") -> subprocess.Popen[str]:
    command = f"{before} exec {sys.executable} -m exporter load --url {remote.url} --out {Path.cwd() / 'out'}"
    whole = [command, *arguments, "--exporter off --metrics-address off"]
    return subprocess.Popen(
        ["bash", "-c", " ".join(whole)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_ctrl_c_gives_the_report_of_what_ran(remote: Remote) -> None:
    with started(remote, "--scenario smoke --rate 20 --duration 60s") as process:
        rows = Path("out/report.csv")
        until = time.monotonic() + 20
        while time.monotonic() < until and not (rows.exists() and rows.read_text().count("\n") > 10):
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    report = json.loads(Path("out/report.json").read_text())
    assert report["ending"] == "interrupted"
    assert 10 <= report["requests"]["completed"] < 1000
    assert "the run was stopped early; what ran is judged" in report["notes"]
    assert process.returncode == {"pass": 0, "fail": 1, "invalid": 3}[report["verdict"]]
    assert "Traceback" not in err


def test_more_users_than_files_is_a_clear_message_and_a_report(remote: Remote) -> None:
    with started(remote, "--users 5000 --duration 5s", before="ulimit -n 1024;") as process:
        out, _ = process.communicate(timeout=60)
    report = json.loads(Path("out/report.json").read_text())
    assert (process.returncode, report["verdict"], report["requests"]["offered"]) == (3, "invalid", 0)
    assert "5,000 users need as many open files" in report["why"][0]
    assert "ulimit -n" in re.sub(r"\s+", " ", out)


def test_help_of_the_load_tester_needs_no_server() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "exporter", "load", "--help"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    for flag in ("--scenario", "--url", "--model", "--users", "--rate", "--duration", "--seed", "--out", "--abort-on"):
        assert flag in done.stdout


# --- into the monitoring ----------------------------------------------------------------------------------------------


def test_the_run_is_on_a_metrics_page_of_its_own_while_it_lasts(remote: Remote) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    pages: list[str] = []

    def scrape() -> None:
        until = time.monotonic() + 10
        while time.monotonic() < until and len(pages) < 5:
            time.sleep(0.2)
            try:
                pages.append(httpx.get(f"http://127.0.0.1:{port}/metrics").text)
            except httpx.HTTPError:
                continue

    scraper = threading.Thread(target=scrape)
    scraper.start()
    code, _ = load("--url", remote.url, "--duration", "3s", "--metrics-address", f"127.0.0.1:{port}")
    scraper.join()
    assert code == 0
    seen = [page for page in map(parse, (page.encode() for page in pages)) if page is not None]
    counts = [page.total(catalog.LOAD_REQUESTS, outcome="ok") or 0.0 for page in seen]
    assert counts == sorted(counts)
    assert counts[-1] > 0
    assert seen[-1].total(catalog.LOAD_OFFERED) == counts[-1]
    assert seen[-1].total(catalog.LOAD_TTFT, "_count") == counts[-1]
    assert seen[-1].total(catalog.LOAD_REQUESTS, outcome="timeout") == 0.0
    assert {labels["phase"] for page in seen for labels, _ in page.rows(catalog.LOAD_PHASE)} == {"steady"}
    server = remote.url.removeprefix("http://")
    assert seen[-1].total(catalog.LOAD_IN_FLIGHT, server=server) is not None


def test_a_metrics_address_that_is_taken_is_a_note_and_no_end(remote: Remote) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, report = load("--url", remote.url, "--metrics-address", f"127.0.0.1:{taken.getsockname()[1]}")
    assert code == 0
    assert any("cannot be had (Address already in use)" in note for note in report["notes"])
