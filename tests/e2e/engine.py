"""A Docker Engine of our own, in a network namespace of its own: it sees nothing of another one, and none sees it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.e2e import debian

_START_SECONDS = 30.0
_STOP_SECONDS = 30.0


class Unobtainable(Exception):
    """Why there can be no engine here."""


@dataclass(frozen=True, slots=True)
class Engine:
    host: str
    config: Path

    def environment(self) -> dict[str, str]:
        return {**os.environ, "DOCKER_HOST": self.host, "DOCKER_CONFIG": str(self.config), "DOCKER_BUILDKIT": "1"}

    def docker(
        self, *arguments: str | Path, cwd: Path = debian.ROOT, more: Mapping[str, str] | None = None, check: bool = True
    ) -> str:
        answer = subprocess.run(
            ["docker", *arguments],
            cwd=cwd,
            env=self.environment() | dict(more or {}),
            capture_output=True,
            text=True,
            check=False,
        )
        if check and answer.returncode:
            raise AssertionError(f"docker {' '.join(map(str, arguments))}: {answer.stdout}{answer.stderr}")
        return answer.stdout + (answer.stderr if not check else "")


@contextmanager
def engine(folder: Path) -> Iterator[Engine]:
    """Raises Unobtainable. `folder` must have a short name: the path of a socket has an end."""
    _check_means()
    config = folder / "config"
    (config / "cli-plugins").mkdir(parents=True, exist_ok=True)
    for plugin in _plugins():
        shutil.copy(plugin, config / "cli-plugins")
    found = Engine(f"unix://{folder}/docker.sock", config)
    log = (folder / "dockerd.log").open("w")
    daemon = subprocess.Popen(
        ["unshare", "--net", "--", "sh", "-c", 'ip link set lo up && exec "$@"', "sh", *_command(folder)],
        stdout=log,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"},
        start_new_session=True,
    )
    try:
        _await(found, daemon, folder / "dockerd.log")
        yield found
    finally:
        _end(daemon)
        log.close()


def _command(folder: Path) -> Sequence[str]:
    return (
        "dockerd",
        f"--data-root={folder}/data",
        f"--exec-root={folder}/exec",
        f"--pidfile={folder}/docker.pid",
        f"--host=unix://{folder}/docker.sock",
        "--log-level=warn",
    )


def _check_means() -> None:
    if os.geteuid() != 0:
        raise Unobtainable("only root can start a Docker Engine")
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    missing = [
        name for name in ("docker", "dockerd", "containerd", "unshare", "ip") if not shutil.which(name, path=path)
    ]
    if missing:
        raise Unobtainable(f"not installed: {', '.join(missing)} (Debian: apt-get install docker.io iproute2)")


def _plugins() -> list[Path]:
    """Compose and BuildKit for the client: those that are installed, or those of a newer Debian."""
    names = ("docker-compose", "docker-buildx")
    homes = (Path("/usr/libexec/docker/cli-plugins"), Path("/usr/lib/docker/cli-plugins"))
    tree = debian.CACHE / "e2e/docker-plugins"
    for home in (*homes, tree / "usr/libexec/docker/cli-plugins"):
        if all((home / name).exists() for name in names):
            return [home / name for name in names]
    with debian.alone():
        there = all((tree / "usr/libexec/docker/cli-plugins" / name).exists() for name in names)
        if not there and not debian.unpack(tree, "docker-compose", "docker-buildx", suite="sid"):
            raise Unobtainable("no Docker Compose 2 here, and none to be had from Debian's archive")
    return [tree / "usr/libexec/docker/cli-plugins" / name for name in names]


def _await(found: Engine, daemon: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while daemon.poll() is None and time.monotonic() < deadline:
        if '"Version"' in found.docker("version", "--format", "{{json .Server}}", check=False):
            return
        time.sleep(0.1)
    raise Unobtainable(f"the Docker Engine does not start: {log.read_text()[-600:]}")


def _end(daemon: subprocess.Popen[bytes]) -> None:
    """It takes its containers with it."""
    if daemon.poll() is None:
        daemon.send_signal(signal.SIGTERM)
        try:
            daemon.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(daemon.pid, signal.SIGKILL)
            daemon.wait()
