"""The whole chain on sockets: simulated servers, the real exporter, a real Prometheus with the project's rules, a real
Alertmanager with the project's routes, and a webhook that hears what people would be told.

Time is scaled down mechanically: every `for`, every interval of a group, every range, subquery and offset in the rules
and every interval in Alertmanager's routes is divided by SCALE. Numbers that rules compare with (seconds of a queue
wait, of a stuck generation) stay as they are. Scrapes come every half second. What cannot be scaled is the least
interval of the exporter's polls, one second.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from exporter.simulator import (
    TINYLLAMA,
    EngineConfig,
    Fault,
    FleetConfig,
    Member,
    ServerConfig,
    SimFleet,
    Timetable,
    Traffic,
)
from exporter.simulator.server import serve
from tests.e2e import debian

SCALE = 30
ALERTS = debian.ROOT / "alerts"
SERVERS = ("primary", "secondary", "tertiary", "healthy")
DEAD, SATURATED, BROKEN, _ = SERVERS

MUST = {
    ("OllamaServerDown", DEAD),
    ("OllamaQueueSaturated", SATURATED),
    ("OllamaCanaryFailing", BROKEN),
}
# True as well while these three incidents last, but whether they get that far in the time of the test is chance.
MAY = {
    ("OllamaErrorRatioHigh", BROKEN),
    ("OllamaQueueWaitHigh", SATURATED),
    ("OllamaFirstTokenSlow", SATURATED),
    ("OllamaSuccessBudgetBurn", ""),
    ("OllamaAvailabilityBudgetBurn", ""),
}
ALWAYS = ("Watchdog", "")

_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800, "y": 31536000}
_DURATION = r"(?:\d+(?:ms|[smhdwy]))+"

# A round of the saturated server's callers takes 1.3 s: whoever comes behind them waits two to three rounds, more than
# the 2 s that count as a queue.
MODEL = replace(TINYLLAMA, load_seconds=0.3, decode_tokens_per_second=300.0, crowding=0.0, mean_answer_tokens=10)
_BURST = 6.0


# --- scaling ---------------------------------------------------------------------------------------------------------


def seconds(duration: str) -> float:
    return sum(int(number) * _UNITS[unit] for number, unit in re.findall(r"(\d+)(ms|[smhdwy])", duration))


def scaled(duration: str) -> str:
    return f"{max(1, round(seconds(duration) * 1000 / SCALE))}ms"


def scaled_expression(expression: str) -> str:
    in_brackets = re.sub(
        rf"\[({_DURATION})(?::({_DURATION})?)?\]",
        lambda match: re.sub(_DURATION, lambda one: scaled(one[0]), match[0]),
        expression,
    )
    return re.sub(rf"\boffset +({_DURATION})", lambda match: f"offset {scaled(match[1])}", in_brackets)


def scaled_rules(text: str) -> str:
    content = yaml.safe_load(text)
    for group in content["groups"]:
        group["interval"] = scaled(group.get("interval", "15s"))
        for rule in group["rules"]:
            rule["expr"] = scaled_expression(str(rule["expr"]))
            rule |= {key: scaled(rule[key]) for key in ("for", "keep_firing_for") if key in rule}
    return yaml.safe_dump(content)


def scaled_routes(text: str, url: str) -> str:
    """Every receiver becomes a webhook of ours, told apart by its path."""
    content = yaml.safe_load(text)

    def scale(route: dict[str, Any]) -> None:
        route |= {
            key: scaled(route[key]) for key in ("group_wait", "group_interval", "repeat_interval") if key in route
        }
        for child in route.get("routes", ()):
            scale(child)

    scale(content["route"])
    content["receivers"] = [
        {
            "name": receiver["name"],
            "webhook_configs": [{"url": f"{url}/{urllib.parse.quote(receiver['name'])}", "send_resolved": True}],
        }
        for receiver in content["receivers"]
    ]
    return yaml.safe_dump({key: value for key, value in content.items() if key not in ("global", "templates")})


def test_durations_are_scaled_wherever_promql_has_them() -> None:
    assert scaled_expression('sum(rate(a{x="5m"}[15m])) > 300 and max_over_time(b[1d:10m] offset 1h30m) offset 5m') == (
        'sum(rate(a{x="5m"}[30000ms])) > 300 and max_over_time(b[2880000ms:20000ms] offset 180000ms) offset 10000ms'
    )


# --- the parts -------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Heard:
    """What the webhook was told, in the order in which it was told."""

    notifications: list[tuple[float, str, dict[str, Any]]] = field(default_factory=list)

    def alerts(self, status: str) -> list[tuple[float, dict[str, Any]]]:
        return [
            (when, alert)
            for when, _, notification in tuple(self.notifications)
            for alert in notification["alerts"]
            if alert["status"] == status
        ]

    def names(self, status: str) -> set[tuple[str, str]]:
        return {name(alert) for _, alert in self.alerts(status)}

    def first(self, wanted: tuple[str, str]) -> tuple[float, dict[str, Any]]:
        return next((when, alert) for when, alert in self.alerts("firing") if name(alert) == wanted)


def name(alert: Mapping[str, Any]) -> tuple[str, str]:
    return alert["labels"]["alertname"], alert["labels"].get("server", "")


@contextmanager
def webhook(heard: Heard) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            heard.notifications.append((time.monotonic(), self.path, body))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


class Servers:
    """Simulated servers with their users, on a thread of their own."""

    def __init__(self) -> None:
        members = tuple(
            Member(
                ServerConfig(
                    name=one,
                    engine=EngineConfig(num_parallel=2, max_queue=500, gpu_bytes=8 * 1024**3, default_num_ctx=2048),
                    models=(MODEL,),
                ),
                Traffic(1.5, swing=0.0, shares=((MODEL, 1.0),)),
            )
            for one in SERVERS
        )
        self._fleet = SimFleet(FleetConfig(members=members, timetable=Timetable(3600.0, ())), time.time)
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._ready = threading.Event()
        self._bursts: list[asyncio.Task[None]] = []
        self.urls: dict[str, str] = {}

    @contextmanager
    def running(self) -> Iterator[Servers]:
        thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(),))
        thread.start()
        try:
            assert self._ready.wait(10)
            yield self
        finally:
            self._loop.call_soon_threadsafe(self._stop.set)
            thread.join()
            self._loop.close()

    async def _run(self) -> None:
        async with AsyncExitStack() as stack:
            for one, server in self._fleet.servers.items():
                self.urls[one] = await stack.enter_async_context(serve(server))
            users = asyncio.create_task(self._fleet.run())
            self._ready.set()
            await self._stop.wait()
            tasks = {users, *self._bursts}
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    def inject(self, server: str, fault: Fault) -> None:
        self._loop.call_soon_threadsafe(self._fleet.servers[server].inject, fault)

    def saturate(self, server: str) -> None:
        self._loop.call_soon_threadsafe(lambda: self._bursts.append(asyncio.create_task(self._burst(server))))

    async def _burst(self, name: str) -> None:
        """Crowds of callers, and a breath after each. Without it the expiry in /api/ps would never move, and the canary
        would take that for a model that nobody uses, or for one that is busy, and stay away."""
        server = self._fleet.servers[name]
        while True:
            server.inject(Fault("saturated", _BURST, model=MODEL.name))
            await server.faults.over("saturated")
            while any(row.busy or row.waiting for row in server.engine.loaded()):  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0.05)

    def heal(self) -> None:
        for server in self._fleet.servers.values():
            self._loop.call_soon_threadsafe(server.heal)
        for burst in self._bursts:
            self._loop.call_soon_threadsafe(burst.cancel)


@contextmanager
def process(command: Sequence[str | Path], folder: Path, log: Path) -> Iterator[None]:
    with log.open("w") as output:
        running = subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
        try:
            yield
            assert running.poll() is None, f"{command[0]} ended: {log.read_text()[-2000:]}"
        finally:
            running.terminate()
            try:
                running.wait(10)
            except subprocess.TimeoutExpired:
                running.kill()
                running.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True, slots=True)
class Prometheus:
    url: str

    def get(self, path: str, **parameters: str) -> Any:
        query = f"?{urllib.parse.urlencode(parameters)}" if parameters else ""
        with urllib.request.urlopen(f"{self.url}{path}{query}", timeout=10) as answer:
            return json.load(answer)["data"]

    def value(self, expression: str) -> float:
        found = self.get("/api/v1/query", query=expression)["result"]
        return float(found[0]["value"][1]) if found else 0.0

    def alerts(self, *states: str) -> set[tuple[str, str]]:
        return {name(alert) for alert in self.get("/api/v1/alerts")["alerts"] if alert["state"] in states}


def until(condition: Callable[[], Any], limit: float, what: str, tell: Callable[[], object] = str) -> None:
    deadline = time.monotonic() + limit
    while not _holds(condition):
        if time.monotonic() > deadline:
            pytest.fail(f"not within {limit:.0f} s: {what}\n{tell()}")
        time.sleep(0.2)


def _holds(condition: Callable[[], Any]) -> bool:
    """Nothing holds of what cannot be asked yet."""
    try:
        return bool(condition())
    except OSError:
        return False


@dataclass(frozen=True, slots=True)
class Chain:
    servers: Servers
    prometheus: Prometheus
    heard: Heard

    def tell(self) -> str:
        sources = {
            (when, alert["labels"]["source"], alert["startsAt"], alert["annotations"]["description"])
            for status in ("firing", "resolved")
            for when, alert in self.heard.alerts(status)
            if "source" in alert["labels"]
        }
        return (
            f"of sources: {sorted(sources)}\n"
            f"heard firing: {sorted(self.heard.names('firing'))}\nresolved: {sorted(self.heard.names('resolved'))}\n"
            f"Prometheus, pending: {sorted(self.prometheus.alerts('pending'))}\n"
            f"firing: {sorted(self.prometheus.alerts('firing'))}"
        )


@pytest.fixture
def chain(tmp_path: Path) -> Iterator[Chain]:
    programs = debian.prometheus(), debian.alertmanager()
    ports = {part: free_port() for part in ("exporter", "prometheus", "alertmanager")}
    address = {part: f"127.0.0.1:{port}" for part, port in ports.items()}
    with ExitStack() as stack:
        heard = Heard()
        url = stack.enter_context(webhook(heard))
        servers = stack.enter_context(Servers().running())
        _write_files(tmp_path, servers, address, url)
        exporter = (sys.executable, "-m", "exporter", "--config.file", tmp_path / "exporter.yml")
        stack.enter_context(process(exporter, debian.ROOT, tmp_path / "exporter.log"))
        stack.enter_context(
            process(
                (
                    programs[1].path,
                    f"--config.file={tmp_path}/alertmanager.yml",
                    f"--storage.path={tmp_path}/alertmanager",
                    f"--web.listen-address={address['alertmanager']}",
                    "--cluster.listen-address=",
                ),
                programs[1].folder,
                tmp_path / "alertmanager.log",
            )
        )
        stack.enter_context(
            process(
                (
                    programs[0].path,
                    f"--config.file={tmp_path}/prometheus.yml",
                    f"--storage.tsdb.path={tmp_path}/data",
                    f"--web.listen-address={address['prometheus']}",
                    "--rules.alert.resend-delay=1s",
                    # What resumes a `for` after a restart has nothing to resume here.
                    "--rules.alert.for-grace-period=1s",
                ),
                programs[0].folder,
                tmp_path / "prometheus.log",
            )
        )
        yield Chain(servers, Prometheus(f"http://{address['prometheus']}"), heard)


def _write_files(folder: Path, servers: Servers, address: Mapping[str, str], url: str) -> None:
    exporter = {
        "servers": [{"name": one, "url": servers.urls[one], "timeout": "900ms"} for one in SERVERS],
        "poll": {"interval": "1s", "inventory_interval": "10s"},
        "canary": {"every": "2s", "timeout": "20s"},
        "audit": {
            "mode": "off"
        },  # it looks once a minute: a failure would last for longer than an alert's scaled patience
        "host": {"enabled": False},  # whose memory is nobody's business here
        "web": {"listen_address": address["exporter"]},
    }
    exporter["servers"] = [{**server, "connect_timeout": "500ms"} for server in exporter["servers"]]
    prometheus = {
        "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "500ms"},
        "rule_files": ["recording.rules.yml", "alerting.rules.yml"],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [address["alertmanager"]]}]}]},
        "scrape_configs": [{"job_name": "ollama", "static_configs": [{"targets": [address["exporter"]]}]}],
    }
    (folder / "exporter.yml").write_text(yaml.safe_dump(exporter))
    (folder / "prometheus.yml").write_text(yaml.safe_dump(prometheus))
    for rules in ("recording.rules.yml", "alerting.rules.yml"):
        (folder / rules).write_text(scaled_rules((ALERTS / rules).read_text()))
    (folder / "alertmanager.yml").write_text(scaled_routes((ALERTS / "alertmanager.yml").read_text(), url))


# --- the story -------------------------------------------------------------------------------------------------------


@pytest.mark.timeout(240)
def test_three_incidents_reach_the_webhook_and_nothing_else_does(chain: Chain) -> None:
    a_fleet_at_peace_is_silent(chain)
    began = three_incidents_begin(chain)
    the_right_alerts_arrive(chain, began)
    recovery_resolves_them(chain)
    said = chain.heard.names("firing") | chain.prometheus.alerts("firing")
    assert said - MUST - MAY == {ALWAYS}, chain.tell()


def a_fleet_at_peace_is_silent(chain: Chain) -> None:
    measured = 'count(sum by (server) (ollama_canary_attempts_total{outcome="ok"}) >= 3)'
    until(
        lambda: chain.prometheus.value("count(ollama_up == 1)") == len(SERVERS), 30, "all servers are seen", chain.tell
    )
    until(lambda: chain.prometheus.value(measured) == len(SERVERS), 40, "all servers are measured", chain.tell)
    until(lambda: ALWAYS in chain.heard.names("firing"), 20, "the Watchdog is heard", chain.tell)
    assert chain.heard.names("firing") == {ALWAYS}
    assert chain.prometheus.alerts("firing") == {ALWAYS}


def three_incidents_begin(chain: Chain) -> float:
    chain.servers.inject(DEAD, Fault("dead"))
    chain.servers.saturate(SATURATED)
    chain.servers.inject(BROKEN, Fault("error_rate", status=500, path="/api/generate"))
    return time.monotonic()


def the_right_alerts_arrive(chain: Chain, began: float) -> None:
    until(lambda: chain.heard.names("firing") >= MUST, 75, "the alerts of the incidents", chain.tell)
    rules = {
        rule["alert"]: rule
        for group in yaml.safe_load((ALERTS / "alerting.rules.yml").read_text())["groups"]
        for rule in group["rules"]
        if "alert" in rule
    }
    when, _ = chain.heard.first(("OllamaServerDown", DEAD))
    patience = seconds(rules["OllamaServerDown"]["for"]) / SCALE
    assert patience < when - began < patience + 10, "after its `for`, and soon after it"
    for wanted in sorted(MUST):
        _, alert = chain.heard.first(wanted)
        check_annotations(alert)


def check_annotations(alert: Mapping[str, Any]) -> None:
    labels, annotations = alert["labels"], alert["annotations"]
    assert labels["severity"] in ("critical", "warning")
    assert annotations["summary"]
    assert labels["server"] in annotations["description"]
    for text in annotations.values():
        assert "<no value>" not in text
        assert "{{" not in text
    page, _, anchor = annotations["runbook_url"].partition("#")
    assert page.endswith("docs/runbooks.md")
    assert anchor == labels["alertname"].lower()
    board = urllib.parse.urlsplit(annotations["dashboard_url"])
    known = {json.loads(file.read_text())["uid"] for file in (debian.ROOT / "dashboards").glob("*.json")}
    assert board.path.split("/d/")[1].partition("/")[0] in known
    assert urllib.parse.parse_qs(board.query)["var-server"] == [labels["server"]]


def recovery_resolves_them(chain: Chain) -> None:
    chain.servers.heal()
    until(lambda: chain.prometheus.alerts("firing") == {ALWAYS}, 100, "recovery ends the alerts", chain.tell)
    until(lambda: chain.heard.names("resolved") >= MUST, 30, "the webhook hears that they are over", chain.tell)
