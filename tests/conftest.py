"""Options and fixtures that all tests share."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the golden files anew, to be read in review")


_LONG = (
    "tests/test_incidents.py",
    "tests/test_alerts.py",
    "tests/e2e/test_compose.py",
    "tests/e2e/test_docker_engine.py",
    "tests/e2e/test_alerts_e2e.py",
    "tests/chaos/test_chaos.py",
    "tests/test_dashboards_live.py",
    "tests/loadtest/test_real_llama.py",
)
"""Files that take a minute or more."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Workers take the long files first, or one of them would still be busy when the others have nothing left."""
    if hasattr(config, "workerinput"):
        rank = {ROOT / name: number for number, name in enumerate(_LONG)}
        items.sort(key=lambda item: rank.get(item.path, len(_LONG)))


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--update-golden"))


@pytest.fixture(scope="session")
def promtool() -> Path:
    """Prometheus' own linter. `scripts/test` fetches it; without it, CI fails and others are told."""
    found = os.environ.get("PROMTOOL") or shutil.which("promtool")
    if found is None:
        message = "promtool not found: run scripts/test, or set PROMTOOL"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return Path(found)


@pytest.fixture(scope="session")
def kubetools() -> Path:
    """Helm, kubectl, and the models of custom resources. Without them: said aloud, and under CI a failure."""
    found = ROOT / ".cache" / "kubetools"
    if os.environ.get("CI") == "true":
        done = subprocess.run([ROOT / "scripts" / "kubetools"], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            pytest.fail(f"no Helm, no kubectl: {done.stderr}")
    if not all((found / each).exists() for each in ("helm4", "keda.py")):
        pytest.skip("NO HELM, NO KUBECTL: run scripts/kubetools. Chart and kustomizations were not tried at all.")
    return found


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A real llama-server, and its small model under a name that Ollama would give it. Without them: as above."""
    found = ROOT / ".cache" / "llama"
    if os.environ.get("CI") == "true":
        done = subprocess.run([ROOT / "scripts" / "llama"], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            pytest.fail(f"no real llama-server: {done.stderr}")
    if not (found / "llama-server").exists():
        pytest.skip("NO REAL LLAMA-SERVER: run scripts/llama (160 MB). Runners were tried on the simulator alone.")
    blob = tmp_path_factory.mktemp("blobs") / f"sha256-{'5a' * 32}"
    blob.symlink_to(found / "model.gguf")
    return found / "llama-server", blob
