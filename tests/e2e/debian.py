"""Programs out of Debian's packages: unpacked into .cache, not installed, and nothing is started by it.

A program is looked for in an environment variable, on PATH, among what the scripts have unpacked, and last in the
archive. Without it a test is skipped aloud, and fails under CI=true.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

_TEMPLATES = b"/usr/share/prometheus/alertmanager"
_HERE = b"/proc/self/cwd" + b"/." * 10
assert len(_TEMPLATES) == len(_HERE)


@dataclass(frozen=True, slots=True)
class Program:
    path: Path
    folder: Path  # to be started in

    def version(self) -> str:
        answer = subprocess.run([self.path, "--version"], capture_output=True, text=True, check=False, cwd=self.folder)
        return (answer.stdout + answer.stderr).partition("\n")[0]


def prometheus() -> Program:
    unpacked = (CACHE / "prometheus/usr/bin/prometheus", CACHE / "promtools/usr/bin/prometheus")
    found = _found("PROMETHEUS", ("prometheus",), unpacked)
    found = found or _unpacked("prometheus", "usr/bin/prometheus") or _missing("Prometheus", "PROMETHEUS")
    return Program(found, ROOT)


def alertmanager() -> Program:
    found = _found("ALERTMANAGER", ("prometheus-alertmanager", "alertmanager"), ())
    if found is None:
        program = "usr/bin/prometheus-alertmanager"
        found = _unpacked("prometheus-alertmanager", program) or _missing("Alertmanager", "ALERTMANAGER")
    return _with_templates(found)


def _with_templates(binary: Path) -> Program:
    """Debian's build reads its templates from /usr/share. A copy of one that was only unpacked is made to look in the
    folder that it is started in: same length, so nothing else in the binary moves."""
    templates = binary.parents[2] / _TEMPLATES.decode().removeprefix("/")
    if binary.is_relative_to("/usr") or not templates.is_dir():
        return Program(binary, ROOT)
    copy = templates / "prometheus-alertmanager"
    if not copy.exists():
        fresh = copy.with_suffix(f".{os.getpid()}")
        fresh.write_bytes(binary.read_bytes().replace(_TEMPLATES, _HERE))
        fresh.chmod(0o755)
        fresh.rename(copy)
    return Program(copy, templates)


def _found(variable: str, names: Sequence[str], places: Sequence[Path]) -> Path | None:
    told = os.environ.get(variable)
    on_path = next((where for name in names if (where := shutil.which(name))), None)
    if told or on_path:
        return Path(told or on_path or "").resolve()
    return next((place for place in places if place.exists()), None)


def _unpacked(package: str, program: str) -> Path | None:
    tree = CACHE / "e2e" / package
    with alone():
        if not (tree / program).exists() and not unpack(tree, package):
            return None
    return tree / program if (tree / program).exists() else None


def _missing(name: str, variable: str) -> Path:
    excuse(f"NO {name.upper()}: set {variable}=/path, install Debian's package, or let apt-get download work")


def excuse(reason: str) -> None:
    """Skip aloud; under CI=true, fail."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@contextmanager
def alone() -> Iterator[None]:
    """Two that run at once must not unpack into the same place. Not to be nested."""
    CACHE.mkdir(exist_ok=True)
    with (CACHE / "e2e.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def unpack(tree: Path, *packages: str, suite: str = "") -> bool:
    """Put the contents of the packages under `tree`; from another suite when one is named. False if they cannot be
    had."""
    if not shutil.which("apt-get") or not shutil.which("dpkg"):
        return False
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        debs, fresh = Path(scratch) / "debs", Path(scratch) / "tree"
        debs.mkdir()
        options = ["-qq", "-o", f"APT::Sandbox::User={_user()}"] + (_other_suite(Path(scratch), suite) if suite else [])
        ready = not suite or _apt(options, "update", cwd=debs)
        if not ready or not (
            _apt(options, "download", *packages, cwd=debs)
            or (not suite and _apt(options, "update", cwd=debs) and _apt(options, "download", *packages, cwd=debs))
        ):
            return False
        for deb in debs.glob("*.deb"):
            subprocess.run(["dpkg", "-x", deb, fresh], check=True)
        if tree.exists():
            shutil.rmtree(tree)
        tree.parent.mkdir(parents=True, exist_ok=True)
        fresh.rename(tree)
    return True


def _apt(options: Sequence[str], *arguments: str, cwd: Path) -> bool:
    return subprocess.run(["apt-get", *options, *arguments], cwd=cwd, check=False, capture_output=True).returncode == 0


def _user() -> str:
    return subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()


def _other_suite(scratch: Path, suite: str) -> list[str]:
    """Options under which apt-get sees that suite alone, and leaves the machine's own lists alone."""
    for folder in ("lists/partial", "cache/archives/partial"):
        (scratch / folder).mkdir(parents=True)
    (scratch / "status").touch()
    (scratch / "sources.list").write_text(f"deb [signed-by={KEYRING}] {archive()} {suite} main\n")
    settings = {
        "Dir::Etc::SourceList": scratch / "sources.list",
        "Dir::Etc::SourceParts": "-",
        "Dir::State::Lists": scratch / "lists",
        "Dir::Cache": scratch / "cache",
        "Dir::State::status": scratch / "status",
        "Acquire::Languages": "none",
    }
    return [part for name, value in settings.items() for part in ("-o", f"{name}={value}")]


def archive() -> str:
    """The archive that this machine uses; empty where it names none."""
    sources = [Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*")]
    texts = [source.read_text(errors="replace") for source in sources if source.is_file()]
    found = (re.search(r"^(?:deb\b|URIs:).*?(https?://\S+/debian/?)(?=\s|$)", text, re.MULTILINE) for text in texts)
    return next((match[1] for match in found if match), "")
