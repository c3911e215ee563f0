"""The files around the compose file: Prometheus' configuration, Grafana's provisioning, the small programs of stack/.

Grafana itself cannot be had here: its provisioning is checked by a small schema, and was not run in Grafana.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from datetime import UTC, datetime
from http.server import ThreadingHTTPServer
from importlib import util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from tests.e2e.debian import ROOT

PROVISIONING = ROOT / "dashboards/provisioning"


def load(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text())


def program(name: str) -> ModuleType:
    spec = util.spec_from_file_location(name, ROOT / f"stack/{name}.py")
    assert spec
    assert spec.loader
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- Prometheus ------------------------------------------------------------------------------------------------------


def test_prometheus_accepts_its_configuration_with_the_rules(promtool: Path) -> None:
    answer = subprocess.run(
        [promtool, "check", "config", ROOT / "prometheus.yml"], capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "2 rule files found" in answer.stdout


def test_the_job_has_the_name_that_rules_and_dashboards_know() -> None:
    assert [job["job_name"] for job in load("prometheus.yml")["scrape_configs"]] == [
        "ollama",
        "prometheus",
        "alertmanager",
    ]


def test_no_key_of_the_configuration_is_newer_than_prometheus_2_42() -> None:
    job_keys = {
        "job_name",
        "static_configs",
        "sample_limit",
        "label_limit",
        "label_value_length_limit",
        "body_size_limit",
    }
    config = load("prometheus.yml")
    assert config.keys() == {"global", "rule_files", "alerting", "scrape_configs"}
    assert config["global"].keys() == {"scrape_interval", "scrape_timeout", "evaluation_interval"}
    assert set().union(*config["scrape_configs"]) <= job_keys


# --- Grafana ---------------------------------------------------------------------------------------------------------

# Keys that Grafana 11 to 13 know (its documentation of provisioning), and only those that are used. int: an integer.
TEXT, YES, NUMBER = str, bool, int
DATASOURCE = {
    "name": TEXT, "uid": TEXT, "type": TEXT, "access": TEXT, "url": TEXT, "isDefault": YES, "editable": YES,
    "jsonData": dict,
}  # fmt: skip
JSON_DATA = {
    "prometheus": {"httpMethod": TEXT, "timeInterval": TEXT, "manageAlerts": YES, "alertmanagerUid": TEXT,
                   "prometheusType": TEXT},
    "alertmanager": {"implementation": TEXT, "handleGrafanaManagedAlerts": YES},
}  # fmt: skip
PROVIDER = {
    "name": TEXT, "orgId": NUMBER, "type": TEXT, "folder": TEXT, "folderUid": TEXT, "disableDeletion": YES,
    "allowUiUpdates": YES, "updateIntervalSeconds": NUMBER, "options": dict,
}  # fmt: skip
RECEIVER = {"uid": TEXT, "type": TEXT, "disableResolveMessage": YES, "settings": dict}


def check(value: dict[str, Any], schema: dict[str, type]) -> None:
    assert value.keys() <= schema.keys()
    for key, content in value.items():
        assert type(content) is schema[key], f"{key}: {content!r}"


@pytest.mark.parametrize("file", sorted(PROVISIONING.rglob("*")), ids=lambda file: file.name)
def test_provisioning_is_of_a_kind_and_version_that_grafana_reads(file: Path) -> None:
    if file.is_dir():
        assert file.name in ("datasources", "dashboards", "alerting")
        return
    assert file.suffix == ".yml"
    content = yaml.safe_load(file.read_text())
    kind = {"datasources": "datasources", "dashboards": "providers", "alerting": "contactPoints"}[file.parent.name]
    assert content.keys() == {"apiVersion", kind}
    assert content["apiVersion"] == 1
    assert "$" not in file.read_text(), "Grafana would take it for a variable"


def test_data_sources_have_fixed_names_and_know_each_other() -> None:
    sources = load("dashboards/provisioning/datasources/ollama.yml")["datasources"]
    for source in sources:
        check(source, DATASOURCE)
        check(source["jsonData"], JSON_DATA[source["type"]])
        assert len(source["uid"]) <= 40
    by_type = {source["type"]: source for source in sources}
    assert by_type["prometheus"]["jsonData"]["alertmanagerUid"] == by_type["alertmanager"]["uid"]
    assert by_type["prometheus"]["jsonData"]["timeInterval"] == load("prometheus.yml")["global"]["scrape_interval"]


def test_dashboards_are_read_from_where_the_compose_file_puts_them() -> None:
    (provider,) = load("dashboards/provisioning/dashboards/ollama.yml")["providers"]
    check(provider, PROVIDER)
    folder = provider["options"]["path"]
    mounts = load("docker-compose.monitoring.yml")["services"]["grafana"]["volumes"]
    mounted = {mount for mount in mounts if mount.startswith("./dashboards/") and f":{folder}/" in mount}
    names = {file.name for file in (ROOT / "dashboards").glob("*.json")}
    assert mounted == {f"./dashboards/{name}:{folder}/{name}:ro" for name in names}
    assert provider["folder"]
    assert provider["options"]["foldersFromFilesStructure"] is False, "it and a folder exclude each other"


def test_grafana_opens_on_a_dashboard_that_exists() -> None:
    environment = load("docker-compose.monitoring.yml")["services"]["grafana"]["environment"]
    home = Path(environment["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert (ROOT / "dashboards" / home.relative_to("/etc/grafana/dashboards")).is_file()


def test_the_contact_point_changes_nothing_until_somebody_chooses_it() -> None:
    content = load("dashboards/provisioning/alerting/contact-points.yml")
    assert "policies" not in content, "the tree of policies is one resource: it would replace the operator's"
    for point in content["contactPoints"]:
        for receiver in point["receivers"]:
            check(receiver, RECEIVER)


# --- the small programs ----------------------------------------------------------------------------------------------

ALERT = {
    "status": "firing",
    "labels": {"alertname": "OllamaServerDown", "severity": "critical", "server": "primary", "job": "ollama"},
    "annotations": {"summary": "A server is down.", "description": "primary has not answered\n  for 2 minutes."},
}


def test_the_receiver_prints_an_alert_as_one_line() -> None:
    now = datetime(2026, 11, 23, 20, 15, 1, tzinfo=UTC)
    assert program("receiver").lines({"alerts": [ALERT]}, now) == [
        "20:15:01 FIRING   critical OllamaServerDown [job=ollama server=primary]"
        " A server is down. primary has not answered for 2 minutes."
    ]


def test_the_receiver_takes_what_alertmanager_posts_and_refuses_the_rest(capsys: pytest.CaptureFixture[str]) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), program("receiver").Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            answers = [
                status(server.server_port, body)
                for body in (None, json.dumps({"alerts": [ALERT]}).encode(), b"{", b"[]", b'{"alerts": [1]}')
            ]
        finally:
            server.shutdown()
            thread.join()
    assert answers == [200, 200, 400, 400, 400]
    assert "OllamaServerDown" in capsys.readouterr().out


def status(port: int, body: bytes | None) -> int:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", body, timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


@pytest.mark.parametrize("name", ["primary", "secondary", "tertiary"])
def test_each_server_of_the_demo_comes_with_its_own_incidents(name: str) -> None:
    config = program("fleet").only(name)
    assert [member.server.name for member in config.members] == [name]
    assert config.timetable.incidents
    assert {incident.server for incident in config.timetable.incidents} == {name}


def test_a_server_that_the_demo_does_not_have_is_refused() -> None:
    answer = subprocess.run(
        [sys.executable, ROOT / "stack/fleet.py", "fourth"], capture_output=True, text=True, check=False
    )
    assert answer.returncode == 1
    assert "no such server: fourth" in answer.stderr


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """stack/ in a tree of its own, and a `docker` that only says what it was asked."""
    (tmp_path / "tree/stack/secrets").mkdir(parents=True)
    script = tmp_path / "tree/stack/up"
    script.write_bytes((ROOT / "stack/up").read_bytes())
    script.chmod(0o755)
    docker = tmp_path / "bin/docker"
    docker.parent.mkdir()
    docker.write_text('#!/bin/sh\necho "docker $*" >&2\ncase "$*" in *" port "*) echo 127.0.0.1:1 ;; esac\n')
    docker.chmod(0o755)
    return tmp_path


def up(copied: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [copied / "tree/stack/up", *arguments],
        env={"PATH": f"{copied / 'bin'}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_up_makes_a_password_once_that_only_grafana_and_the_operator_can_read(copied: Path) -> None:
    assert up(copied).returncode == 0
    secret = copied / "tree/stack/secrets/grafana_admin_password"
    first = secret.read_text()
    assert len(first.strip()) == 32
    assert stat.S_IMODE(secret.stat().st_mode) == 0o444
    assert stat.S_IMODE(secret.parent.stat().st_mode) == 0o700
    assert up(copied).returncode == 0
    assert secret.read_text() == first


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        ((), "compose -f docker-compose.monitoring.yml up --detach --wait"),
        (("demo",), "compose -f docker-compose.monitoring.yml --profile demo up --detach --wait"),
        (("ollama",), "compose -f docker-compose.monitoring.yml --profile ollama up --detach"),
    ],
)
def test_up_is_docker_compose_with_a_profile(copied: Path, arguments: tuple[str, ...], command: str) -> None:
    answer = up(copied, *arguments)
    assert f"docker {command}\n" in answer.stderr
    assert "Grafana        http://127.0.0.1:1" in answer.stdout


def test_up_explains_itself_when_it_is_asked_for_something_else(copied: Path) -> None:
    answer = up(copied, "--help")
    assert answer.returncode == 2
    assert "stack/up demo" in answer.stderr
    assert not (copied / "tree/stack/secrets/grafana_admin_password").exists()


def test_the_shell_of_up_is_clean() -> None:
    shellcheck = Path(sys.executable).with_name("shellcheck")
    if not shellcheck.exists():
        pytest.skip("no shellcheck beside the interpreter: scripts/venv test dev")
    answer = subprocess.run([shellcheck, ROOT / "stack/up"], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout
