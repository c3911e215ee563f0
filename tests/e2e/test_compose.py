"""docker-compose.monitoring.yml: what its text promises, always; and on a real Docker Engine, where one can be started.

The second part needs root, docker.io and some minutes, so it asks to be asked: E2E_DOCKER=1. Registries are not used:
images made of Debian's packages stand in through the image variables (tests/e2e/images.py says how far that goes).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from exporter import __version__
from tests.e2e import images
from tests.e2e.debian import ROOT
from tests.e2e.engine import Engine, Unobtainable, engine

FILE = "docker-compose.monitoring.yml"
TEXT = (ROOT / FILE).read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
ALWAYS = {"exporter", "prometheus", "alertmanager", "grafana"}
DEMO = {"demo-primary", "demo-secondary", "demo-tertiary", "alert-receiver"}
OLLAMA = {"ollama-primary", "ollama-secondary", "ollama-tertiary"}
ENDS = {"ollama-pull"}

# envconfig of Ollama 0.33. OLLAMA_MAX_MEMORY, OLLAMA_CPU_THREADS and OLLAMA_QUEUE_SIZE are popular, and read by nobody.
READ_BY_OLLAMA = frozenset(
    {
        *("OLLAMA_HOST", "OLLAMA_ORIGINS", "OLLAMA_MODELS", "OLLAMA_NOPRUNE", "OLLAMA_MAX_TRANSFER_STREAMS"),
        *("OLLAMA_KEEP_ALIVE", "OLLAMA_LOAD_TIMEOUT", "OLLAMA_NUM_PARALLEL", "OLLAMA_MAX_LOADED_MODELS"),
        *("OLLAMA_MAX_QUEUE", "OLLAMA_CONTEXT_LENGTH", "OLLAMA_FLASH_ATTENTION", "OLLAMA_KV_CACHE_TYPE"),
        *("OLLAMA_GPU_OVERHEAD", "OLLAMA_SCHED_SPREAD", "OLLAMA_LLM_LIBRARY", "OLLAMA_VULKAN", "OLLAMA_IGPU_ENABLE"),
        *("OLLAMA_NO_CLOUD", "OLLAMA_REMOTES", "OLLAMA_DEBUG", "OLLAMA_DEBUG_LOG_REQUESTS", "OLLAMA_GO_TEMPLATE"),
    }
)

each_service = pytest.mark.parametrize("name", sorted(SERVICES))


def variables() -> dict[str, set[str]]:
    """Every variable of the file with its defaults."""
    found: dict[str, set[str]] = {}
    for name, default in re.findall(r"\$\{([A-Z_]+)(?::-([^}]*))?\}", TEXT):
        found.setdefault(name, set()).add(default)
    return found


# --- the text --------------------------------------------------------------------------------------------------------


def test_the_stack_is_four_services_and_the_profiles_add_the_rest() -> None:
    by_profile: dict[tuple[str, ...], set[str]] = {}
    for name, service in SERVICES.items():
        by_profile.setdefault(tuple(service.get("profiles", ())), set()).add(name)
    assert by_profile == {(): ALWAYS, ("demo",): DEMO, ("ollama",): OLLAMA | ENDS}


def test_every_variable_has_a_default_and_one_only() -> None:
    assert re.findall(r"\$(?!\{[A-Z_]+:[-?])\{?\w*", TEXT) == []
    assert {name: sorted(defaults) for name, defaults in variables().items() if len(defaults) > 1} == {}


def test_the_example_of_settings_has_every_variable_with_its_default() -> None:
    lines = (ROOT / "stack/env.example").read_text().splitlines()
    told = dict(re.findall(r"(?m)^#([A-Z_]+)=(.*)$", "\n".join(lines)))
    shown_with_an_example = {"OLLAMA_EXPORTER_SERVERS"}
    expected = {name: defaults for name, defaults in variables().items() if name not in shown_with_an_example}
    assert {name: {value} for name, value in told.items() if name not in shown_with_an_example} == expected
    assert shown_with_an_example <= told.keys()


@each_service
def test_images_are_pinned_and_can_come_from_another_registry(name: str) -> None:
    match = re.fullmatch(r"\$\{([A-Z]+_IMAGE):-([a-z0-9/.-]+):(v?\d+\.\d+\.\d+)\}", SERVICES[name]["image"])
    assert match, SERVICES[name]["image"]


def test_the_image_of_the_exporter_carries_its_version() -> None:
    assert SERVICES["exporter"]["image"].endswith(f":{__version__}}}")


@each_service
def test_ports_are_open_to_this_machine_only_unless_the_operator_says_otherwise(name: str) -> None:
    for port in SERVICES[name].get("ports", ()):
        assert re.fullmatch(r"\$\{BIND_ADDRESS:-127\.0\.0\.1\}:\$\{[A-Z_]+_PORT:-\d+\}:\d+", port), port


@each_service
def test_every_service_runs_with_little_power_and_within_limits(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    assert {"mem_limit", "cpus", "pids_limit"} <= service.keys()
    assert service["logging"]["options"]["max-size"]
    assert "docker.sock" not in str(service)
    if name not in OLLAMA | ENDS:  # its image knows no other user than root
        assert int(service["user"].partition(":")[0]) > 0


@each_service
def test_every_service_that_stays_has_a_health_check(name: str) -> None:
    check = SERVICES[name]["healthcheck"]
    if name in ENDS:
        assert check == {"disable": True}
    else:
        assert check["test"][0] == "CMD"
        assert {"interval", "timeout", "retries", "start_period"} <= check.keys()


@each_service
def test_what_is_mounted_from_the_repository_exists_and_cannot_be_written_to(name: str) -> None:
    for volume in SERVICES[name].get("volumes", ()):
        source, target, *mode = re.sub(r"\$\{[A-Z_]+:-([^}]*)\}", r"\1", volume).split(":")
        if source.startswith("."):
            assert mode == ["ro"], volume
            assert (ROOT / source).exists(), source
        else:
            assert source in COMPOSE["volumes"]
        assert target.startswith("/")


def test_grafana_gets_its_password_from_a_file_that_is_not_in_the_repository() -> None:
    grafana = SERVICES["grafana"]
    assert "GF_SECURITY_ADMIN_PASSWORD" not in grafana["environment"]
    secret = grafana["environment"]["GF_SECURITY_ADMIN_PASSWORD__FILE"].removeprefix("/run/secrets/")
    assert grafana["secrets"] == [secret]
    file = re.sub(r"\$\{[A-Z_]+:-([^}]*)\}", r"\1", COMPOSE["secrets"][secret]["file"])
    assert file.startswith("./stack/secrets/")
    assert "/secrets/**" in (ROOT / "stack/.gitignore").read_text().splitlines()


@pytest.mark.parametrize("name", sorted(OLLAMA | ENDS))
def test_ollama_gets_only_variables_that_it_reads(name: str) -> None:
    theirs = {variable for variable in SERVICES[name]["environment"] if variable.startswith("OLLAMA_")}
    assert theirs - READ_BY_OLLAMA == set()


def test_the_three_servers_have_the_settings_of_the_fleet() -> None:
    def default(name: str, variable: str) -> str:
        return re.sub(r"\$\{[A-Z_]+:-([^}]*)\}", r"\1", SERVICES[name]["environment"][variable])

    assert [default(f"ollama-{name}", "OLLAMA_NUM_PARALLEL") for name in ("primary", "secondary", "tertiary")] == [
        "50",
        "30",
        "20",
    ]
    for name in OLLAMA:
        assert default(name, "OLLAMA_MAX_QUEUE") == "500"
        assert default(name, "OLLAMA_MAX_LOADED_MODELS") == "3"
        assert SERVICES[name]["environment"]["OLLAMA_NOPRUNE"] == "1", "they share one store"
    assert SERVICES["ollama-pull"]["command"] == ["pull", "${OLLAMA_MODEL:-tinyllama}"]
    assert set(SERVICES["ollama-pull"]["depends_on"]) == OLLAMA


@pytest.mark.parametrize("profile", [DEMO - {"alert-receiver"}, OLLAMA])
def test_each_profile_answers_to_the_names_that_the_exporter_watches(profile: set[str]) -> None:
    watched = yaml.safe_load((ROOT / "stack/exporter.yml").read_text())["servers"]
    aliases = {SERVICES[name]["networks"]["fleet"]["aliases"][0] for name in profile}
    assert {server["url"] for server in watched} == {f"http://{alias}:11434" for alias in aliases}
    assert {server["name"] for server in watched} == aliases


def hosts(network: str) -> set[str]:
    """Under which names services can be reached there."""
    found = set()
    for name, service in SERVICES.items():
        networks = service["networks"]
        if network in networks:
            own = networks[network] if isinstance(networks, dict) else None
            found |= {name, *(own or {}).get("aliases", ())}
    return found


def test_prometheus_scrapes_and_tells_services_that_exist() -> None:
    config = yaml.safe_load((ROOT / "prometheus.yml").read_text())
    statics = [job["static_configs"] for job in (*config["scrape_configs"], *config["alerting"]["alertmanagers"])]
    targets = {target for static in statics for entry in static for target in entry["targets"]}
    assert targets == {"exporter:8082", "alertmanager:9093", "localhost:9090"}
    assert {target.partition(":")[0] for target in targets} - {"localhost"} <= hosts("monitoring")


def test_alertmanager_tells_a_receiver_that_exists() -> None:
    text = (ROOT / "alerts/alertmanager.yml").read_text()
    urls = re.findall(r"(?m)^[^#\n]*\burl: *[\"']?http://([a-z-]+):(\d+)", text)
    assert urls, "somebody is told"
    for host, port in urls:
        assert host in hosts("monitoring"), host
        assert SERVICES["alert-receiver"]["command"] == [f":{port}"]


# --- on a real engine ------------------------------------------------------------------------------------------------

on_request = pytest.mark.skipif(
    not os.environ.get("E2E_DOCKER"),
    reason="THE COMPOSE FILE WAS NOT RUN: set E2E_DOCKER=1 (needs root, docker.io, debootstrap and some minutes)",
)


@dataclass(frozen=True, slots=True)
class Stack:
    """A copy of the repository's files of the stack, and an engine with stand-ins for its images."""

    engine: Engine
    tree: Path
    settings: dict[str, str]

    def compose(self, *arguments: str, check: bool = True) -> str:
        return self.engine.docker(
            "compose", "-f", FILE, "--profile", "*", *arguments, cwd=self.tree, more=self.settings, check=check
        )

    def start(self, *arguments: str) -> str:
        answer = subprocess.run(
            [self.tree / "stack/up", *arguments],
            env=self.engine.environment() | self.settings,
            capture_output=True,
            text=True,
            check=False,
        )
        assert answer.returncode == 0, f"{answer.stdout}{answer.stderr}\n{self.compose('ps', '-a', check=False)}"
        return answer.stdout

    def containers(self) -> dict[str, dict[str, Any]]:
        ids = self.compose("ps", "-aq").split()
        described = json.loads(self.engine.docker("inspect", *ids))
        return {one["Config"]["Labels"]["com.docker.compose.service"]: one for one in described}

    def ask(self, service: str, url: str) -> Any:
        return json.loads(self.compose("exec", "-T", service, "wget", "-q", "-O", "-", url))

    def query(self, expression: str) -> list[dict[str, Any]]:
        url = f"http://127.0.0.1:9090/api/v1/query?query={expression}"
        found: list[dict[str, Any]] = self.ask("prometheus", url)["data"]["result"]
        return found


def until(condition: Callable[[], Any], seconds: float, what: str, tell: Callable[[], str] = str) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"not within {seconds:.0f} s: {what}\n{tell()}")
        time.sleep(0.5)
    return found


@pytest.fixture(scope="module")
def built() -> Iterator[tuple[Engine, dict[str, str], Path]]:
    with tempfile.TemporaryDirectory(prefix="e2e-", dir="/tmp") as folder:
        try:
            with engine(Path(folder)) as running:
                yield running, images.build(running, Path(folder)), Path(folder)
        except Unobtainable as reason:
            pytest.skip(f"THE COMPOSE FILE WAS NOT RUN: {reason}")


@pytest.fixture
def stack(built: tuple[Engine, dict[str, str], Path]) -> Iterator[Stack]:
    running, chosen, folder = built
    tree = Path(tempfile.mkdtemp(prefix="tree-", dir=folder))
    for name in (FILE, "prometheus.yml", "Dockerfile"):
        shutil.copy(ROOT / name, tree)
    for name in ("stack", "alerts", "dashboards"):
        shutil.copytree(
            ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__", "grafana_admin_password")
        )
    found = Stack(running, tree, chosen)
    try:
        yield found
    finally:
        found.compose("down", "--volumes", "--timeout", "5", check=False)


def check_containers(containers: dict[str, dict[str, Any]]) -> None:
    for name, container in containers.items():
        host = container["HostConfig"]
        assert host["ReadonlyRootfs"], name
        assert host["CapDrop"] == ["ALL"], name
        assert host["Memory"] > 0, name
        assert host["PidsLimit"] > 0, name
        for bindings in host["PortBindings"].values():
            assert {binding["HostIp"] for binding in bindings} == {"127.0.0.1"}, name
        if name in ENDS:
            assert container["State"]["ExitCode"] == 0
        else:
            assert container["State"]["Health"]["Status"] == "healthy", name
            assert container["RestartCount"] == 0, name


@on_request
@pytest.mark.timeout(600)
def test_one_command_shows_the_stack_alive_with_the_demo_fleet(stack: Stack) -> None:
    said = stack.start("demo")
    assert "http://127.0.0.1:3000" in said
    password = (stack.tree / "stack/secrets/grafana_admin_password").read_text().strip()
    assert len(password) == 32
    assert password not in said

    containers = stack.containers()
    assert containers.keys() == ALWAYS | DEMO
    check_containers(containers)
    assert all(container["Config"]["User"] not in ("", "0", "root") for container in containers.values())

    until(lambda: len(stack.query("ollama_up==1")) == 3, 60, "the exporter sees the three servers, Prometheus sees it")
    until(lambda: len(stack.query("up==1")) == 3, 60, "Prometheus reaches all its targets")
    rules = stack.ask("prometheus", "http://127.0.0.1:9090/api/v1/rules")["data"]["groups"]
    assert {rule.get("lastError", "") for group in rules for rule in group["rules"]} == {""}
    until(lambda: stack.query("server:ollama_available:state==1"), 60, "recording rules give values")
    managers = stack.ask("prometheus", "http://127.0.0.1:9090/api/v1/alertmanagers")["data"]["activeAlertmanagers"]
    assert [manager["url"] for manager in managers] == ["http://alertmanager:9093/api/v2/alerts"]

    alert = ("alertname=TriedByHand", "severity=critical", "--annotation=summary=Somebody tries the route.")
    amtool = ("amtool", "--alertmanager.url=http://127.0.0.1:9093", "alert", "add")
    stack.compose("exec", "-T", "alertmanager", *amtool, *alert)
    until(
        lambda: re.search(r"FIRING +critical TriedByHand .*tries the route", stack.compose("logs", "alert-receiver")),
        90,
        "the receiver prints the alert",
        lambda: stack.compose("logs", "alertmanager", "alert-receiver"),
    )

    stack.compose("stop", "demo-tertiary")
    until(lambda: stack.query('ollama_up{server="tertiary"}==0'), 60, "a server that is stopped is seen to be down")

    started = time.monotonic()
    stack.compose("down")
    assert time.monotonic() - started < 15, "every process ends when it is told to"


@on_request
@pytest.mark.timeout(600)
def test_three_ollama_servers_start_with_one_store_and_one_pull(stack: Stack) -> None:
    stack.start("ollama")
    until(lambda: stack.containers()["ollama-pull"]["State"]["Status"] == "exited", 120, "the pull ends")
    until(
        lambda: all(
            one["State"]["Health"]["Status"] == "healthy"
            for name, one in stack.containers().items()
            if name not in ENDS
        ),
        60,
        "all are healthy",
    )
    containers = stack.containers()
    assert containers.keys() == ALWAYS | OLLAMA | ENDS
    check_containers(containers)
    assert "pulled tinyllama" in stack.compose("logs", "ollama-pull")
    stores = {
        mount["Name"] for name in OLLAMA for mount in containers[name]["Mounts"] if mount["Destination"] == "/models"
    }
    assert len(stores) == 1
    until(lambda: len(stack.query("ollama_up==1")) == 3, 60, "the exporter sees the three servers")


@on_request
def test_without_a_password_for_grafana_nothing_starts(stack: Stack) -> None:
    refused = stack.compose("up", "--detach", "grafana", check=False)
    assert "grafana_admin_password" in refused
    assert stack.compose("ps", "-q", "grafana").strip() == ""
