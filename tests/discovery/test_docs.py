"""What docs/discovery.md shows is what the exporter, Prometheus and Kubernetes would take."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from exporter.config import load
from exporter.discovery import groups
from exporter.discovery.targets import ADDRESS
from exporter.relabel import ACTIONS
from exporter.sources.own import LEFT_OUT
from tests.wire import make_authority

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "discovery.md").read_text("utf-8")
BLOCKS = re.findall(r"^```yaml\n(.*?)^```$", TEXT, re.M | re.S)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs")
    for name in ("secrets", "tls"):
        (folder / name).mkdir()
    (folder / "secrets" / "token").write_text("t0ken")
    (folder / "tls" / "ca.crt").write_bytes(make_authority(folder).ca.read_bytes())
    return folder


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.startswith("discovery:")])
def test_examples_of_the_configuration_load(folder: Path, block: str) -> None:
    (folder / "exporter.yml").write_text(block)
    assert load(str(folder / "exporter.yml"), {}).discovery


def test_each_kind_has_an_example() -> None:
    shown = {
        key
        for block in BLOCKS
        if block.startswith("discovery:")
        for entry in yaml.safe_load(block)["discovery"]
        for key in entry
    }
    assert {"files", "http", "dns", "docker", "kubernetes"} <= shown


def test_the_example_of_a_file_is_one() -> None:
    (block,) = [block for block in BLOCKS if block.startswith("- targets")]
    assert [target.labels[ADDRESS] for target in groups.from_yaml(block.encode(), {})] == ["gpu1:11434", "gpu2:11434"]


def test_the_rights_name_what_is_listed_and_no_more() -> None:
    (block,) = [block for block in BLOCKS if block.startswith("apiVersion")]
    role, binding = yaml.safe_load_all(block)
    assert {verb for rule in role["rules"] for verb in rule["verbs"]} == {"list"}
    assert binding["roleRef"]["name"] == role["metadata"]["name"]


def test_every_action_and_every_reason_is_told() -> None:
    assert not [word for word in (*ACTIONS, *LEFT_OUT) if f"`{word}`" not in TEXT]


def test_docker_is_told_by_the_same_list() -> None:
    (block,) = re.findall(r"^```yaml\n(discovery:.*?)^```$", (ROOT / "docs/docker.md").read_text("utf-8"), re.M | re.S)
    assert yaml.safe_load(block) == {"discovery": [{"docker": None}]}
