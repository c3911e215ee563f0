"""What an exporter sees of Ollama from another container of its pod, as docs/kubernetes.md tells it.

Containers of a pod are processes of one network namespace, each with a process table and a user of its own or not: here
real processes in namespaces of the test's own, on the real kernel.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="asks the Linux kernel")

ROOT = Path(__file__).resolve().parents[1]
NOBODY = 65532
BLOB = "sha256-" + "0" * 64

SERVE = """
import socket, subprocess, sys
server = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(server.getsockname())
client.sendall(b"GET / HTTP/1.1\\r\\n\\r\\n")
accepted = server.accept()
runner = socket.create_server(("127.0.0.1", 0))
blob, port = sys.argv[1], str(runner.getsockname()[1])
child = subprocess.Popen(
    ["./llama-server", "-I", "-S", "-c", "input()", "--model", blob, "--parallel", "2", "--port", port],
    stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
print(server.getsockname()[1], port, flush=True)
child.wait()
"""

# When its first process ends, the kernel ends all others.
POD = """
ip link set lo up
mkfifo told
"$@" >told &
read -r port runner_port <told
exec 3<told
$TABLE "$PYTHON" -c "$LOOK" "http://127.0.0.1:$port" "$BLOB" "$USER_ID" "$runner_port"
"""

LOOK = """
import json, os, sys
from exporter.local.machine import Machine
from exporter.model import Lacking
url, blob, user, runner_port = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])

def look():
    machine = Machine()
    place = machine.place(url)
    runners = [one for one in machine.runners(place) if one.port == runner_port]
    try:
        environment = dict(machine.environment(place))
    except Lacking as lacking:
        environment = {}
    return {
        "connections": len(machine.connections(place).established),
        "runners": len(runners),
        "process": place.pid is not None,
        "settings": any("--parallel" in one.arguments for one in runners),
        "usage": any(machine.usage(one) is not None for one in runners),
        "models": list(machine.names(place, blob)),
        "environment": environment.get("OLLAMA_KEEP_ALIVE"),
    }

look()  # as root, for what is imported by the way: the interpreter may lie in root's home
os.setgroups([])
os.setresgid(user, user, user)
os.setresuid(user, user, user)
print(json.dumps(look()))
"""


@pytest.fixture
def pod() -> Iterator[Path]:
    """A folder that everybody may read: pytest's own are root's alone."""
    if os.geteuid() != 0:
        if os.environ.get("CI") == "true":
            pytest.fail("needs root, to become other users")
        pytest.skip("NOT ROOT: what a sidecar may see of another user's processes was not tried")
    folder = Path(tempfile.mkdtemp(prefix="pod-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@cache
def python_for_all() -> str:
    """The interpreter of the tests may lie in root's home."""
    for path in (os.path.realpath(sys.executable), "/usr/bin/python3"):
        tried = ["setpriv", *as_user(NOBODY), "--clear-groups", "env", "-C", "/", path, "-c", ""]
        if subprocess.run(tried, check=False, capture_output=True).returncode == 0:
            return os.path.realpath(path)
    pytest.fail("no Python that everybody may run")


def seen(pod: Path, shared: bool, *how: str) -> dict[str, Any]:
    """What user 65532 sees of an Ollama that was started by setpriv with these options."""
    manifest = pod / "models/manifests/registry.ollama.ai/library/tinyllama/latest"
    manifest.parent.mkdir(parents=True)
    layer = {"mediaType": "application/vnd.ollama.image.model", "digest": BLOB.replace("-", ":")}
    manifest.write_text(json.dumps({"layers": [layer]}))
    for name in ("ollama", "llama-server"):
        (pod / name).symlink_to(python_for_all())
    (pod / "serve").write_text(SERVE)
    ollama = ["setpriv", "--clear-groups", *how, "env", "-i", "OLLAMA_KEEP_ALIVE=10m", f"OLLAMA_MODELS={pod}/models"]
    serve = [*ollama, "./ollama", "serve", f"{pod}/models/blobs/{BLOB}"]
    settings = {
        "PYTHON": sys.executable,
        "PYTHONPATH": str(ROOT),
        "LOOK": LOOK,
        "BLOB": BLOB,
        "USER_ID": str(NOBODY),
        "TABLE": "" if shared else "unshare --pid --fork --kill-child --mount-proc",
    }
    done = subprocess.run(
        ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-euc", POD, "pod", *serve],
        cwd=pod,
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def as_user(user: int, *more: str) -> tuple[str, ...]:
    return (f"--reuid={user}", f"--regid={user}", *(more or ("--bounding-set=-all", "--inh-caps=-all")))


ALWAYS = {"connections": 1, "runners": 1}
PORTS_ALONE = {"process": False, "settings": False, "usage": False, "models": [], "environment": None}
PROCESSES = {"process": True, "settings": True, "usage": True, "models": ["tinyllama:latest"]}
KEEPS_A_CAPABILITY = ("--inh-caps=-all,+net_bind_service", "--ambient-caps=-all,+net_bind_service")


@pytest.mark.parametrize(
    ("shared", "how", "expected"),
    [
        pytest.param(False, as_user(NOBODY), PORTS_ALONE, id="network alone"),
        pytest.param(False, as_user(0), PORTS_ALONE, id="network alone, Ollama as root"),
        pytest.param(True, as_user(NOBODY), {**PROCESSES, "environment": "10m"}, id="processes, same user"),
        pytest.param(True, as_user(1000), {**PROCESSES, "environment": None}, id="processes, another user"),
        pytest.param(True, as_user(0), {**PROCESSES, "environment": None}, id="processes, Ollama as root"),
        pytest.param(
            True,
            as_user(NOBODY, *KEEPS_A_CAPABILITY),
            {**PROCESSES, "environment": None},
            id="processes, same user, Ollama has a capability",
        ),
    ],
)
def test_a_sidecar_sees_what_its_pod_shares(
    pod: Path, shared: bool, how: tuple[str, ...], expected: dict[str, Any]
) -> None:
    assert seen(pod, shared, *how) == ALWAYS | expected
