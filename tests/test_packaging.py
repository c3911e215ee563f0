"""What users install: the wheel, the scripts, the image and the systemd unit, each examined as shipped."""

from __future__ import annotations

import ast
import configparser
import email.parser
import fnmatch
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import threading
import tomllib
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import exporter

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Import names that are not the distribution's own.
DISTRIBUTION = {
    "dns": "dnspython",
    "prometheus_client": "prometheus-client",
    "pynvml": "nvidia-ml-py",
    "re2": "google-re2",
    "yaml": "pyyaml",
}


def requirements(*extras: str) -> dict[str, Requirement]:
    """What pyproject.toml asks for, by canonical name, extras of our own followed."""
    lines = list(PROJECT["dependencies"])
    for extra in extras:
        lines += PROJECT["optional-dependencies"][extra]
    found = {canonicalize_name(Requirement(line).name): Requirement(line) for line in lines}
    own = found.pop("ollama-exporter", None)
    return found | (requirements(*own.extras) if own else {})


def imports(folder: str) -> dict[str, str]:
    """Third-party distributions that Python files below `folder` import, each with one place that does."""
    # _typeshed exists for type checkers alone.
    own = {"exporter", "tests", "dashboards", "alerts", "scripts", "benchmarks", "_typeshed"} | {
        path.stem for path in ROOT.rglob("tests/**/*.py")
    }
    seen: dict[str, str] = {}
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Import(names=names):
                    modules = [name.name for name in names]
                case ast.ImportFrom(module=str(module), level=0):
                    modules = [module]
                case _:
                    continue
            for top in {module.split(".")[0] for module in modules} - own - set(sys.stdlib_module_names):
                seen.setdefault(
                    canonicalize_name(DISTRIBUTION.get(top, top)), f"{path.relative_to(ROOT)}:{node.lineno}"
                )
    return seen


# --- the wheel ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    folder = tmp_path_factory.mktemp("wheel")
    build = f"import hatchling.build; hatchling.build.build_wheel({str(folder)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


def in_dist_info(wheel: zipfile.ZipFile, name: str) -> str:
    (path,) = [path for path in wheel.namelist() if path.endswith(f".dist-info/{name}")]
    return wheel.read(path).decode()


def test_the_wheel_tells_the_version_of_the_package(wheel: zipfile.ZipFile) -> None:
    metadata = email.parser.Parser().parsestr(in_dist_info(wheel, "METADATA"))
    assert metadata["Version"] == exporter.__version__
    assert metadata["Name"] == "ollama-exporter"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"


def test_the_wheel_holds_the_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    shipped = {path for path in wheel.namelist() if ".dist-info/" not in path}
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "exporter").rglob("*") if path.is_file()}
    assert {path for path in sources if "__pycache__" not in path} <= shipped
    assert not {path for path in shipped if not path.startswith("exporter/") or path.endswith(".pyc")}


def test_the_wheel_carries_its_licence_and_its_command(wheel: zipfile.ZipFile) -> None:
    assert "END OF TERMS AND CONDITIONS" in in_dist_info(wheel, "licenses/LICENSE")
    scripts = configparser.ConfigParser()
    scripts.read_string(in_dist_info(wheel, "entry_points.txt"))
    assert dict(scripts["console_scripts"]) == {"ollama-exporter": "exporter.__main__:main"}


def test_the_command_tells_its_version() -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "exporter", "--version"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert exporter.__version__ in answer.stdout.split()


# --- dependencies ------------------------------------------------------------------------------------------


def test_every_import_of_the_exporter_is_declared() -> None:
    extras = [extra for extra in PROJECT["optional-dependencies"] if extra not in {"test", "dev"}]
    undeclared = {name: place for name, place in imports("exporter").items() if name not in requirements(*extras)}
    assert not undeclared


def test_every_declared_dependency_is_imported() -> None:
    imported_by_httpcore = {"sniffio"}
    assert set(requirements()) - set(imports("exporter")) == imported_by_httpcore


def test_every_import_of_the_tests_is_declared() -> None:
    undeclared = {name: place for name, place in imports("tests").items() if name not in requirements("test")}
    assert not undeclared


def test_every_dependency_is_pinned_within_its_bounds() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = {
        canonicalize_name(name): version
        for name, version in (line.split("==") for line in lines if line and not line.startswith("#"))
    }
    wanted = requirements(*PROJECT["optional-dependencies"])
    wrong = [
        f"{requirement}: pinned to {pins.get(name)}"
        for name, requirement in wanted.items()
        if name not in pins or pins[name] not in requirement.specifier
    ]
    assert not wrong


def test_the_hashed_requirements_are_those_of_run_time_as_pinned() -> None:
    """All that is needed, in the versions of constraints.txt, and nothing without a hash. `scripts/lock` makes it."""
    text = (ROOT / "requirements.txt").read_text().replace("\\\n", " ")
    entries = [line.split() for line in text.splitlines() if line and not line.startswith("#")]
    pinned = {canonicalize_name(entry[0].partition("==")[0]): entry[0].partition("==")[2] for entry in entries}
    assert all(sum(word.startswith("--hash=sha256:") for word in entry) >= 1 for entry in entries)
    assert set(pinned) >= set(requirements("docker", "gpu", "kubernetes"))
    constraints = (ROOT / "constraints.txt").read_text().splitlines()
    pins = {canonicalize_name(line.partition("==")[0]): line.partition("==")[2] for line in constraints}
    # Windows' own packages come along with docker's client and are used nowhere.
    assert {name: pins.get(name, version) for name, version in pinned.items()} == pinned
    assert set(pinned) - set(pins) <= {"colorama", "pywin32"}


@pytest.mark.parametrize(
    ("said", "status", "code"),
    [
        ("No known vulnerabilities found", 0, 0),
        ("Found 2 known vulnerabilities in 1 package", 1, 1),
        ("ConnectionError", 1, 3),
        ("h11  Dependency not found on PyPI and could not be audited: h11 (0.16.0)", 0, 3),
    ],
)
def test_an_audit_that_could_not_ask_is_no_good_news(tmp_path: Path, said: str, status: int, code: int) -> None:
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts/audit", tmp_path / "scripts")
    tool = tmp_path / ".cache/supply-chain/bin/pip-audit"
    tool.parent.mkdir(parents=True)
    tool.write_text(f"#!/bin/sh\necho '{said}'\nexit {status}\n")
    tool.chmod(0o755)
    answer = subprocess.run([tmp_path / "scripts/audit"], capture_output=True, text=True, check=False)
    assert answer.returncode == code
    assert ("NOT AUDITED" in answer.stderr) is (code == 3)


def test_every_container_of_the_stack_is_locked_down() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.monitoring.yml").read_text())["services"]
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert not {"privileged", "cap_add", "pid", "network_mode"} & set(service), name
    assert services["exporter"]["user"].split(":")[0] not in ("0", "root")


# --- scripts -----------------------------------------------------------------------------------------------

SCRIPTS = [
    path
    for path in sorted([*ROOT.glob("scripts/*"), *ROOT.glob(".ci/*")])
    if path.is_file() and path.read_bytes().startswith(b"#!")
]


def test_the_scripts_that_everybody_relies_on_are_there() -> None:
    names = {str(path.relative_to(ROOT)) for path in SCRIPTS}
    assert names >= {"scripts/run", "scripts/test", "scripts/check", "scripts/venv", ".ci/run"}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_executable_and_parses(script: Path) -> None:
    assert os.access(script, os.X_OK)
    if b"bash" in script.read_bytes().splitlines()[0]:
        subprocess.run(["bash", "-n", script], check=True)
    else:
        ast.parse(script.read_text())


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the scripts in a tree of their own, and a folder `path/` that is the whole of PATH.

    Its `python3` is a stand-in that makes environments and installs into them at once, without a network, and
    keeps a journal of what it was asked in `asked` beside the tree.
    """
    root = tmp_path / "a tree"
    shutil.copytree(ROOT / "scripts", root / "scripts")
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, root)
    (root / "path").mkdir()
    for tool in ("bash", "cat", "chmod", "cp", "dirname", "flock", "id", "mkdir", "readlink", "rm", "sha256sum"):
        found = shutil.which(tool)
        assert found, f"{tool} is needed for this test"
        (root / "path" / tool).symlink_to(found)
    python(root, "python3")
    return root


def python(root: Path, name: str, *, recent: bool = True, venv: bool = True, pip: bool = True) -> None:
    script = root / "path" / name
    script.write_text(
        f"""#!/bin/bash
echo "$*" >> '{root.parent}/asked'
case "$*" in
    *ensurepip*) {str(venv).lower()} ;;
    *version_info*) {str(recent).lower()} ;;
    "-m venv"*) mkdir -p "$4/bin"; cp "$0" "$4/bin/python" ;;
    "-m pip install"*)
        {str(pip).lower()} || {{ echo "no route to the index" >&2; exit 1; }}
        printf '#!/bin/bash\\necho "$$|$PWD|$*"; exit 7\\n' > .venv/bin/ollama-exporter
        chmod +x .venv/bin/ollama-exporter ;;
    --version) echo Python 3 ;;
esac
"""
    )
    script.chmod(0o755)


def run(root: Path, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [root / "scripts/run", *arguments],
        env={"PATH": str(root / "path")},
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )


def installations(root: Path) -> int:
    return (root.parent / "asked").read_text().count("-m pip install")


def test_run_becomes_the_exporter_with_its_arguments_directory_and_exit_status(tree: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [tree / "scripts/run", "check", "two words", ""],
        env={"PATH": str(tree / "path")},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    output, _ = process.communicate()
    assert output == f"{process.pid}|{tmp_path}|check two words \n"
    assert process.returncode == 7


def test_run_installs_once_and_is_quiet_afterwards(tree: Path) -> None:
    assert "installing" in run(tree).stderr
    assert run(tree).stderr == ""
    assert installations(tree) == 1


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_run_installs_again_when_the_dependencies_change(tree: Path, name: str) -> None:
    run(tree)
    with (tree / name).open("a") as file:
        file.write("# changed\n")
    run(tree)
    assert installations(tree) == 2


def test_run_installs_again_when_the_tree_moves(tree: Path) -> None:
    run(tree)
    moved = tree.rename(tree.with_name("moved"))
    assert run(moved).returncode == 7
    assert installations(moved) == 2


def test_run_starts_nothing_after_a_failed_installation_and_tries_again(tree: Path) -> None:
    python(tree, "python3", pip=False)
    failed = run(tree)
    assert failed.returncode == 1
    assert failed.stdout == ""
    assert "no route to the index" in failed.stderr
    shutil.rmtree(tree / ".venv")
    python(tree, "python3")
    assert run(tree).returncode == 7


def test_run_names_the_package_that_makes_environments(tree: Path) -> None:
    python(tree, "python3", venv=False)
    refused = run(tree)
    assert refused.returncode == 1
    assert "apt-get install python3-venv" in refused.stderr
    assert not (tree / ".venv").exists()


def test_run_finds_a_newer_python_beside_an_old_one(tree: Path) -> None:
    python(tree, "python3", recent=False)
    python(tree, "python3.13")
    assert run(tree).returncode == 7


def test_run_says_so_when_every_python_is_too_old(tree: Path) -> None:
    python(tree, "python3", recent=False)
    refused = run(tree)
    assert refused.returncode == 1
    assert "Python 3.11 or newer is needed" in refused.stderr


# --- the image ---------------------------------------------------------------------------------------------


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"\\\n\s*", "", re.sub(r"(?m)^\s*#.*\n", "", (ROOT / "Dockerfile").read_text()))
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in text.splitlines() if line.strip()]


def last_stage() -> dict[str, str]:
    everything = instructions()
    start = max(number for number, (name, _) in enumerate(everything) if name == "FROM")
    return dict(everything[start:])


def test_the_image_runs_as_a_user_by_number_and_never_as_root() -> None:
    user, _, group = last_stage()["USER"].partition(":")
    assert int(user) > 0
    assert int(group) > 0


def test_the_image_starts_the_exporter_as_its_first_process_on_the_documented_port() -> None:
    stage = last_stage()
    assert stage["ENTRYPOINT"] == '["ollama-exporter"]'
    assert stage["EXPOSE"] == "8082"
    assert re.search(r'CMD \["python", ', stage["HEALTHCHECK"])


def test_the_base_of_the_image_can_be_replaced_and_building_pulls_no_frontend() -> None:
    everything = instructions()
    assert everything[0][0] == "ARG"
    assert everything[0][1].startswith("BASE=")
    assert {value.split()[0] for name, value in everything if name == "FROM"} == {"${BASE}"}
    assert "syntax=" not in (ROOT / "Dockerfile").read_text()


def in_context(path: str) -> bool:
    """Whether .dockerignore lets `path` into the build: the last line that matches it or a parent decides."""
    included = True
    parts = path.split("/")
    parents = ["/".join(parts[:length]) for length in range(1, len(parts) + 1)]
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.strip().removeprefix("!")
        if not pattern or pattern.startswith("#"):
            continue
        deep = pattern.removeprefix("**/")
        names = [parent.rpartition("/")[2] if deep != pattern else parent for parent in parents]
        if any(name.count("/") == deep.count("/") and fnmatch.fnmatchcase(name, deep) for name in names):
            included = line.startswith("!")
    return included


@pytest.mark.parametrize(
    "path",
    [
        ".git/config",
        ".venv/bin/python",
        ".cache/x",
        ".env",
        "secret.pem",
        "tests/test_packaging.py",
        "scripts/run",
        "docs/x.md",
        "exporter/__pycache__/model.cpython-311.pyc",
        "exporter/sources/__pycache__/api.cpython-311.pyc",
    ],
)
def test_the_build_never_sees(path: str) -> None:
    assert not in_context(path)


@pytest.mark.parametrize(
    "path",
    ["exporter/__init__.py", "exporter/sources/api.py", "pyproject.toml", "constraints.txt", "LICENSE", "wheels/x.whl"],
)
def test_the_build_sees(path: str) -> None:
    assert in_context(path)


def test_whatever_the_build_copies_exists_and_is_in_its_context() -> None:
    copies = [value for name, value in instructions() if name == "COPY" and "--from" not in value]
    copied = [path for value in copies for path in value.split()[:-1]]
    assert copied
    for path in copied:
        assert (ROOT / path).exists()
        assert in_context(path)


@pytest.fixture(scope="module")
def healthcheck() -> ModuleType:
    spec = importlib.util.spec_from_file_location("healthcheck", ROOT / "packaging/healthcheck.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("listen_address", "target"),
    [
        (":8082", ("127.0.0.1", 8082)),
        ("0.0.0.0:9000", ("127.0.0.1", 9000)),
        ("10.1.2.3:9000", ("10.1.2.3", 9000)),
        ("[::]:9000", ("::1", 9000)),
        ("[fd00::1]:9000", ("fd00::1", 9000)),
        ("localhost:9000, :9001", ("localhost", 9000)),
    ],
)
def test_the_health_check_knocks_where_the_exporter_listens(
    healthcheck: ModuleType, listen_address: str, target: tuple[str, int]
) -> None:
    assert healthcheck.target(listen_address) == target


class Health(BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/-/healthy" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(("status", "verdict"), [(200, 0), (503, 1)])
def test_the_health_check_repeats_what_the_exporter_says(status: int, verdict: int) -> None:
    handler = type("Fixed", (Health,), {"status": status})
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            answer = check_health(f":{server.server_port}")
        finally:
            server.shutdown()
            thread.join()
    assert answer.returncode == verdict, answer.stderr


@pytest.mark.parametrize("listen_address", ["127.0.0.1:1", "nonsense"])
def test_the_health_check_says_why_it_is_unhappy(listen_address: str) -> None:
    answer = check_health(listen_address)
    assert answer.returncode == 1
    assert listen_address in answer.stderr
    assert "Traceback" not in answer.stderr


def check_health(listen_address: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-I", ROOT / "packaging/healthcheck.py"],
        env={"OLLAMA_EXPORTER_WEB_LISTEN_ADDRESS": listen_address},
        capture_output=True,
        text=True,
        check=False,
    )


# --- the service -------------------------------------------------------------------------------------------


def unit() -> dict[str, list[str]]:
    settings: dict[str, list[str]] = {}
    for line in (ROOT / "packaging/ollama-exporter.service").read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            settings.setdefault(name, []).append(value)
    return settings


def test_the_service_has_a_user_of_its_own_and_reloads_by_signal() -> None:
    settings = unit()
    assert settings["DynamicUser"] == ["yes"]
    assert settings["ProtectSystem"] == ["strict"]
    assert settings["CapabilityBoundingSet"] == [""]
    assert settings["ExecReload"] == ["/bin/kill -HUP $MAINPID"]
    assert settings["Restart"] == ["on-failure"]


def test_the_service_can_still_see_the_server_it_watches() -> None:
    settings = unit()
    assert "ProtectProc" not in settings
    assert "ProcSubset" not in settings
    assert set(settings["RestrictAddressFamilies"][0].split()) == {"AF_INET", "AF_INET6", "AF_NETLINK", "AF_UNIX"}


def test_systemd_accepts_the_service_and_its_exposure_is_low() -> None:
    if not shutil.which("systemd-analyze"):
        if os.environ.get("CI") == "true":
            pytest.fail("systemd-analyze is missing")
        pytest.skip("SYSTEMD-ANALYZE IS MISSING: the systemd unit was not checked")
    answer = subprocess.run([ROOT / "scripts/check", "unit"], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "Overall exposure level for ollama-exporter.service" in answer.stdout


def test_the_example_settings_are_lines_that_systemd_reads() -> None:
    lines = (ROOT / "packaging/ollama-exporter.default").read_text().splitlines()
    settings = [line.removeprefix("#") for line in lines if re.match(r"#?[A-Z_]+=", line)]
    assert {setting.partition("=")[0] for setting in settings} == {
        "OLLAMA_EXPORTER_SERVERS",
        "OLLAMA_EXPORTER_WEB_LISTEN_ADDRESS",
        "ARGS",
    }
    assert all(line.startswith("#") for line in lines if line), "an example changes nothing until it is edited"


# --- tools -------------------------------------------------------------------------------------------------


def test_promtool_is_there() -> None:
    promtool = os.environ.get("PROMTOOL")
    if not promtool:
        if os.environ.get("CI") == "true":
            pytest.fail("PROMTOOL is not set: run the tests by scripts/test")
        pytest.skip("PROMTOOL IS NOT SET: rules and expositions are not checked; run the tests by scripts/test")
    answer = subprocess.run([promtool, "--version"], capture_output=True, text=True, check=True)
    assert "promtool, version" in answer.stdout + answer.stderr
