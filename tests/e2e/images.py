"""Local images that stand in for those of the registries: made of Debian's packages, with the same entry points, users
and folders. They go into the compose file by its image variables.

Grafana and Ollama cannot be had as packages. Their stand-ins check what the compose file gives them (password,
provisioning, volumes, variables) and answer where the real ones would; that is all.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tests.e2e import debian
from tests.e2e.engine import Engine, Unobtainable

BASE = "stand-in/base"
_SUITE = "bookworm"
_INCLUDED = "ca-certificates,python3,python3-venv,python3-pip"

GRAFANA = '''
"""Answers on /api/health once everything that the compose file gives Grafana is there and can be used."""
import http.server, os, pathlib
secret = pathlib.Path(os.environ["GF_SECURITY_ADMIN_PASSWORD__FILE"]).read_text().strip()
assert len(secret) >= 16, "the password is short"
for kind in ("datasources", "dashboards", "alerting"):
    assert list(pathlib.Path("/etc/grafana/provisioning", kind).glob("*.yml")), kind
assert pathlib.Path(os.environ["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]).is_file(), "no dashboard to open"
pathlib.Path("/var/lib/grafana/written").touch()
pathlib.Path("/tmp/written").touch()
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/api/health" else 404)
        self.end_headers()
http.server.HTTPServer(("", 3000), Handler).serve_forever()
'''

OLLAMA = '''#!/opt/ollama-exporter/bin/python -I
"""`ollama serve`, `list` and `pull`, as far as the compose file uses them, on the simulator."""
import asyncio, json, os, pathlib, signal, sys, urllib.request
from exporter.simulator import EngineConfig, ServerConfig, SimServer
from exporter.simulator.server import serve

async def run():
    pathlib.Path(os.environ["OLLAMA_MODELS"], "written").touch()
    pathlib.Path("/root/.ollama/written").touch()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    engine = EngineConfig(int(os.environ["OLLAMA_NUM_PARALLEL"]), int(os.environ["OLLAMA_MAX_QUEUE"]))
    server = SimServer(ServerConfig(name="x", engine=engine, control=True))
    host, _, port = os.environ["OLLAMA_HOST"].rpartition(":")
    async with serve(server, host, int(port)):
        await stop.wait()
    await server.aclose()

if sys.argv[1] == "serve":
    asyncio.run(run())
elif sys.argv[1] == "list":
    urllib.request.urlopen("http://127.0.0.1:11434/api/tags", timeout=3)
elif sys.argv[1] == "pull":
    urllib.request.urlopen(os.environ["OLLAMA_HOST"] + "/api/tags", timeout=3)
    print("pulled", sys.argv[2], flush=True)
'''


def build(engine: Engine, scratch: Path) -> dict[str, str]:
    """Make all of them; the value of each image variable of the compose file. Raises Unobtainable."""
    import_base(engine)
    return {
        "EXPORTER_IMAGE": _exporter(engine, scratch / "exporter"),
        "PROMETHEUS_IMAGE": _from_packages(
            engine,
            scratch / "prometheus",
            ("prometheus", "promtool"),
            "RUN mkdir /prometheus && chown 65534:65534 /prometheus\n"
            'USER 65534\nVOLUME /prometheus\nENTRYPOINT ["/bin/prometheus"]\n',
        ),
        "ALERTMANAGER_IMAGE": _from_packages(
            engine,
            scratch / "alertmanager",
            ("prometheus-alertmanager",),
            "RUN ln -s prometheus-alertmanager /usr/bin/alertmanager "
            "&& mkdir /alertmanager && chown 65534:65534 /alertmanager\n"
            'USER 65534\nVOLUME /alertmanager\nENTRYPOINT ["/bin/alertmanager"]\n',
        ),
        "GRAFANA_IMAGE": _grafana(engine, scratch / "grafana"),
        "OLLAMA_IMAGE": _ollama(engine, scratch / "ollama"),
    }


def build_ollama(engine: Engine, scratch: Path) -> str:
    """Only the simulated server; the exporter is in it, too. Raises Unobtainable."""
    import_base(engine)
    _exporter(engine, scratch / "exporter")
    return _ollama(engine, scratch / "ollama")


def import_base(engine: Engine) -> None:
    tar = debian.CACHE / "e2e/base.tar"
    with debian.alone():
        if not tar.exists():
            _bootstrap(tar)
    with tar.open("rb") as content:
        subprocess.run(
            ["docker", "import", "-", BASE], stdin=content, env=engine.environment(), check=True, capture_output=True
        )


def _bootstrap(tar: Path) -> None:
    """Two minutes, once."""
    if not shutil.which("debootstrap", path="/usr/sbin:/usr/bin"):
        raise Unobtainable("no debootstrap (Debian: apt-get install debootstrap)")
    tree = tar.with_name("rootfs")
    shutil.rmtree(tree, ignore_errors=True)
    command = ["/usr/sbin/debootstrap", "--variant=minbase", f"--include={_INCLUDED}", _SUITE, tree, debian.archive()]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode:
        raise Unobtainable(f"debootstrap: {answer.stdout[-400:]}")
    for waste in ("var/lib/apt/lists", "var/cache/apt", "usr/share/doc", "usr/share/locale", "usr/share/man"):
        shutil.rmtree(tree / waste, ignore_errors=True)
    subprocess.run(["tar", "-C", tree, "-cf", tar.with_suffix(".new"), "."], check=True)
    tar.with_suffix(".new").rename(tar)
    shutil.rmtree(tree)


def _exporter(engine: Engine, context: Path) -> str:
    """By the project's own Dockerfile, without a network, as it says."""
    context.mkdir()
    for name in ("Dockerfile", ".dockerignore", "pyproject.toml", "constraints.txt", "LICENSE", "README.md"):
        shutil.copy(debian.ROOT / name, context)
    for name in ("exporter", "packaging"):
        shutil.copytree(debian.ROOT / name, context / name, ignore=shutil.ignore_patterns("__pycache__"))
    wheels = ["-c", "constraints.txt", "-w", "wheels", ".[docker,gpu,kubernetes,load]", "hatchling<2"]
    python = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*python, *wheels], cwd=context, check=True, capture_output=True)
    image = "stand-in/exporter"
    engine.docker("build", "--network=none", f"--build-arg=BASE={BASE}", "-t", image, ".", cwd=context)
    return image


def _from_packages(engine: Engine, context: Path, packages: tuple[str, ...], rest: str) -> str:
    tree = debian.CACHE / "e2e" / f"image-{context.name}"
    with debian.alone():
        if not tree.exists() and not debian.unpack(tree, *packages, suite="sid"):
            raise Unobtainable(f"Debian's archive does not give {', '.join(packages)}")
    context.mkdir()
    shutil.copytree(tree / "usr/bin", context / "usr/bin")
    shutil.copytree(tree / "usr/share/prometheus", context / "usr/share/prometheus", symlinks=True)
    return _image(engine, context, f"FROM {BASE}\nCOPY usr /usr\n{rest}")


def _grafana(engine: Engine, context: Path) -> str:
    context.mkdir()
    (context / "grafana.py").write_text(GRAFANA)
    return _image(
        engine,
        context,
        f"FROM {BASE}\nCOPY grafana.py /\nRUN mkdir /var/lib/grafana && chown 472:0 /var/lib/grafana\n"
        'USER 472\nENTRYPOINT ["python3", "-I", "/grafana.py"]\n',
    )


def _ollama(engine: Engine, context: Path) -> str:
    context.mkdir()
    (context / "ollama").write_text(OLLAMA)
    (context / "ollama").chmod(0o755)
    return _image(
        engine,
        context,
        "FROM stand-in/exporter\nCOPY ollama /usr/bin/\nUSER 0\nRUN mkdir -p /root/.ollama\n"
        'ENV OLLAMA_HOST=0.0.0.0:11434\nENTRYPOINT ["/usr/bin/ollama"]\nCMD ["serve"]\nHEALTHCHECK NONE\n',
    )


def _image(engine: Engine, context: Path, dockerfile: str) -> str:
    """With busybox's wget, which the official images have and their health checks use."""
    tree = debian.CACHE / "e2e/busybox"
    with debian.alone():
        if not tree.exists() and not debian.unpack(tree, "busybox-static"):
            raise Unobtainable("Debian's archive does not give busybox-static")
    program = next(place for place in (tree / "bin/busybox", tree / "usr/bin/busybox") if place.exists())
    shutil.copy(program, context / "wget")
    first, _, rest = dockerfile.partition("\n")
    (context / "Dockerfile").write_text(f"{first}\nCOPY wget /usr/bin/wget\n{rest}")
    image = f"stand-in/{context.name}"
    engine.docker("build", "--network=none", "-t", image, ".", cwd=context)
    return image
