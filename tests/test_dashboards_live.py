"""Every query of every dashboard, asked of a real Prometheus that scrapes the demo fleet."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 100.0
"""Seconds for data to arrive: the demo's first incident, which loads and unloads models, begins after 60."""

pytestmark = pytest.mark.timeout(240)

VARIABLES = {
    "$__rate_interval": "1m",
    "$__interval": "5s",
    "$__range": "5m",
    "$objective": "2.0",
    **{f"${name}": ".+" for name in ("job", "instance", "server", "model", "host", "source", "gpu")},
}

# What has no data in the demo, or may have none, by the beginning of the panel's title (or the annotation's name).
_NO_OLLAMA = "the simulated servers live in this one process: no process of Ollama need run beside them"
_NO_FAILURE = "the first server of the demo to fail does so in its eighth minute"
_NO_CONTAINER = "the simulated servers live in no container"
_NO_DISCOVERY = "the demo looks for no servers"
_NO_PROBES = "nobody asks the demo's /probe"
_NO_DRAFT = "no model of the demo drafts tokens"
_WELL_SET = "the simulated servers have no variable that is ignored or unreadable"
_NO_POLICY = "there is no policy in the demo"
_ALL_READ = "the demo's log is written as the exporter knows it"
_NO_PAGE = "no release of Ollama has a /metrics of its own, and so has no server of the demo"
_NO_INCIDENT = "the demo's incidents that a log tells of come later, or leave no such line"
_GPUS = "depends on the GPUs of the machine that runs the test"
_THIS_MACHINE = "depends on the kernel and the disk of the machine that runs the test"
_NO_LOAD_TEST = "nobody tests the demo's servers under load"
EMPTY: dict[str, str] = {
    "annotation Load test phases": _NO_LOAD_TEST,
    "Load test: ": _NO_LOAD_TEST,
    "First token, 95th percentile: tester and canary: A": _NO_LOAD_TEST,
    "Whole answer, 95th percentile: tester and access lines: A": _NO_LOAD_TEST,
    "Wait for a slot, 95th percentile: tester and canary: A": _NO_LOAD_TEST,
    "Tokens a second: tester and runners: A": _NO_LOAD_TEST,
    "Tokens a second: tester and runners: C": _NO_LOAD_TEST,
    "In flight: tester and kernel: A": _NO_LOAD_TEST,
    "annotation Alerts": "the alerting rules are not loaded here: their own tests fire them",
    "Reconfigurations of each model": "nobody in the demo asks for another context",
    "Saturation in 4 hours": "a trend is told from an hour of history on",
    "Servers suggested, at least": "told from six hours of history on",
    "Disk full in": "foreseen from six hours of history on",
    "On disk, and not loaded for a week": "told from a week of history on",
    "Containers of servers": _NO_CONTAINER,
    "CPUs used by containers": _NO_CONTAINER,
    "Held by the CPU quota": _NO_CONTAINER,
    "Memory, of the container's limit": _NO_CONTAINER,
    "Memory of containers": _NO_CONTAINER,
    "Restarts and OOM kills": _NO_CONTAINER,
    "Network of containers": _NO_CONTAINER,
    "Last look": _NO_DISCOVERY,
    "Servers found": _NO_DISCOVERY,
    "Last good look": _NO_DISCOVERY,
    "Found and left out": _NO_DISCOVERY,
    "Looks of discovery that failed": _NO_DISCOVERY,
    "Targets not seen": _NO_PROBES,
    "Time of a probe, of the time it has": _NO_PROBES,
    "Probes refused, by reason": _NO_PROBES,
    "Drafted tokens that held": _NO_DRAFT,
    "Variables that do nothing": _WELL_SET,
    "Values that cannot be read": _WELL_SET,
    "Lines that could not be read": _ALL_READ,
    "Answers by the servers' own count, by model": _NO_PAGE,
    "Tokens by the servers' own count": _NO_PAGE,
    "Mean time of users' answers, by phase": _NO_PAGE,
    "Scheduler's queue by the servers' own count": _NO_PAGE,
}
PERHAPS: dict[str, str] = {
    "annotation ollama serve started": _NO_OLLAMA,
    "Processes of Ollama": _NO_OLLAMA,
    "Runners": _NO_OLLAMA,
    "Youngest": _NO_OLLAMA,
    "CPUs used by Ollama's processes": _NO_OLLAMA,
    "Memory of Ollama's processes": _NO_OLLAMA,
    "Open files of Ollama's processes": _NO_OLLAMA,
    "Failed readings, by reason": _NO_FAILURE,
    "Polls that failed, by reason": _NO_FAILURE,
    "In flight for": "a canary is on its way for moments only",
    "Settings that hurt, and broken rules": _NO_POLICY,
    "Requests that were not answered well": _NO_INCIDENT,
    "Incidents in the log, by kind": _NO_INCIDENT,
    "Failed loads, evictions, deaths and lack of memory": _NO_INCIDENT,
    "Prompts and answers that did not fit": _NO_INCIDENT,
    "Fullest memory": _GPUS,
    "Hottest GPU": _GPUS,
    "GPUs held back": _GPUS,
    "Errors of GPUs": _GPUS,
    "Energy in the chosen time": _GPUS,
    "Share of time in which": _GPUS,
    "GPU memory in use": _GPUS,
    "GPU memory, by server and model": _GPUS,
    "Power of GPUs": _GPUS,
    "Temperature of GPUs": _GPUS,
    "XID errors and memory errors": _GPUS,
    "GPUs of the machines": _GPUS,
    "Pressure": _THIS_MACHINE,
    "Network": _THIS_MACHINE,
}

CONFIG = """
poll: {interval: 1s, inventory_interval: 10s}
canary: {every: 2s}
sockets: {every: 1s}
runner: {every: 1s}
logs: {every: 1s}
host: {name: demo, models_dir: "%(folder)s"}
web: {listen_address: "127.0.0.1:%(port)d"}
log: {level: warning}
"""

DEMO = """
import sys
from exporter import app
from exporter.config import SERVERS, load
sys.exit(app.demo(lambda servers: load(sys.argv[1], {SERVERS: servers}, {})))
"""

PROMETHEUS = """
global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: [rules.yml]
scrape_configs:
  - job_name: ollama
    static_configs: [{targets: ["127.0.0.1:%(port)d"]}]
"""


def boards() -> dict[str, dict[str, Any]]:
    return {path.stem: json.loads(path.read_text("utf-8")) for path in sorted((ROOT / "dashboards").glob("*.json"))}


def questions() -> Iterator[tuple[str, str]]:
    """A readable name and an expression for each query of each panel and annotation."""
    for uid, board in boards().items():
        for panel in board["panels"]:
            for target in panel.get("targets", ()):
                yield f"{uid}: {panel['title']}: {target['refId']}", target["expr"]
        for annotation in board["annotations"]["list"]:
            yield f"{uid}: annotation {annotation['name']}", annotation["expr"]


def filled(expr: str) -> str:
    for variable, value in VARIABLES.items():
        expr = expr.replace(variable, value)
    return expr


class Prometheus:
    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/api/v1/"

    def ask(self, expr: str) -> list[dict[str, Any]]:
        return self.get("query", query=expr)["result"]  # type: ignore[no-any-return]

    def get(self, path: str, **parameters: str) -> Any:
        query = urllib.parse.urlencode(parameters)
        try:
            with urllib.request.urlopen(f"{self._url}{path}?{query}", timeout=10) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"HTTP {error.code}: {error.read().decode()}") from None


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    binary, folder = _binary(), tmp_path_factory.mktemp("prometheus")
    exporter, port = _free_port(), _free_port()
    config = folder / "exporter.yml"
    config.write_text(CONFIG % {"port": exporter, "folder": folder})
    (folder / "prometheus.yml").write_text(PROMETHEUS % {"port": exporter})
    (folder / "rules.yml").write_text(_hurried((ROOT / "alerts" / "recording.rules.yml").read_text("utf-8")))
    arguments = [
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]
    server = Prometheus(port)
    with (
        _process([sys.executable, "-c", DEMO, str(config)], folder / "demo.log"),
        _process([str(binary), *arguments], folder / "prometheus.log") as running,
    ):
        _until(lambda: _answers(server), running, 30, folder)
        yield server


@pytest.fixture(scope="module")
def answers(prometheus: Prometheus) -> dict[str, int]:
    """How many series each question got, at its best: what comes and goes was there once while we asked."""
    best = dict.fromkeys((name for name, _ in questions()), 0)
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        missing = [(name, expr) for name, expr in questions() if not best[name]]
        if all(_excused(name) for name, _ in missing):
            break
        for name, expr in missing:
            best[name] = len(prometheus.ask(filled(expr)))
        time.sleep(1.0)  # a real Prometheus scrapes once a second: to ask more often tells nothing new
    return best


def test_every_query_of_every_dashboard_is_understood(prometheus: Prometheus) -> None:
    wrong = []
    for name, expr in questions():
        try:
            prometheus.ask(filled(expr))
        except AssertionError as error:
            wrong.append(f"{name}: {error}\n    {filled(expr)}")
    assert not wrong, "\n".join(wrong)


def test_every_panel_has_data_in_the_demo_or_a_reason_not_to(answers: dict[str, int]) -> None:
    silent = [name for name, series in answers.items() if not series and not _excused(name)]
    assert not silent, "no data for:\n" + "\n".join(silent)


def test_no_reason_is_given_for_what_has_data(answers: dict[str, int]) -> None:
    """A list of exceptions that only grows would hide what breaks."""
    assert {name: series for name, series in answers.items() if series and any(_is(key, name) for key in EMPTY)} == {}
    assert {key for key in EMPTY | PERHAPS if not any(_is(key, name) for name in answers)} == set()


def test_the_variables_find_their_values(prometheus: Prometheus) -> None:
    found = {}
    for board in boards().values():
        for variable in board["templating"]["list"]:
            if variable["type"] == "query":
                matched = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"])
                assert matched is not None, variable["query"]
                selector, label = filled(matched[1]), matched[2]
                found[variable["name"]] = prometheus.get(f"label/{label}/values", **{"match[]": selector})
    assert found["job"] == ["ollama"]
    assert found["server"] == ["primary", "secondary", "tertiary"]
    assert "tinyllama:latest" in found["model"]
    assert found["host"] == ["demo"]
    assert {"api", "canary", "sockets", "runner", "logs", "audit", "host", "exporter"} <= set(found["source"])


def _is(key: str, name: str) -> bool:
    return name.split(": ", 1)[1].startswith(key)


def _excused(name: str) -> bool:
    return any(_is(key, name) for key in EMPTY | PERHAPS)


def _hurried(rules: str) -> str:
    """The recording rules at the pace of a test: an hour's grid of subqueries would not meet a minute of data."""
    rules = re.sub(r"interval: \w+", "interval: 1s", rules)
    return re.sub(r":1h\]", ":1m]", re.sub(r":\d+m\]", ":10s]", rules))


def _binary() -> Path:
    beside = Path(os.environ.get("PROMTOOL", "")).parent / "prometheus"
    unpacked = ROOT / ".cache" / "prometheus" / "usr" / "bin" / "prometheus"
    for candidate in (os.environ.get("PROMETHEUS"), beside, shutil.which("prometheus"), unpacked):
        if candidate and os.access(candidate, os.X_OK) and Path(candidate).is_file():
            return Path(candidate).resolve()
    message = "NO PROMETHEUS: not one query of the dashboards was asked. Run scripts/test, or set PROMETHEUS"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(server: Prometheus) -> bool:
    try:
        return bool(server.ask('up{job="ollama"} == 1'))
    except (OSError, AssertionError):  # not listening yet, or 503 while it starts
        return False


@contextmanager
def _process(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends with the block, by its own id."""
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out, cwd=ROOT) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def _until(true: Callable[[], bool], process: subprocess.Popen[bytes], seconds: float, folder: Path) -> None:
    end = time.monotonic() + seconds
    while not true():
        if process.poll() is not None or time.monotonic() > end:
            logs = "\n".join(path.read_text(errors="replace") for path in folder.glob("*.log"))
            pytest.fail(f"Prometheus does not scrape the demo:\n{logs}")
        time.sleep(0.2)
