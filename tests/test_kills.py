"""Who killed whom: the kernel's words, and a real kernel where it may be asked."""

from __future__ import annotations

import mmap
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from exporter.local import RunnerProcess, kills
from exporter.local.kills import Form, Kill
from exporter.local.machine import Machine

FORMAT = """name: signal_generate
ID: 261
format:
\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;
\tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;

\tfield:int sig;\toffset:8;\tsize:4;\tsigned:1;
\tfield:int errno;\toffset:12;\tsize:4;\tsigned:1;
\tfield:int code;\toffset:16;\tsize:4;\tsigned:1;
\tfield:char comm[16];\toffset:20;\tsize:16;\tsigned:0;
\tfield:pid_t pid;\toffset:36;\tsize:4;\tsigned:1;
\tfield:int group;\toffset:40;\tsize:4;\tsigned:1;
\tfield:int result;\toffset:44;\tsize:4;\tsigned:1;
"""
FORM = Form(261, code=16, pid=36)
SI_USER, SI_KERNEL = 0, 0x80


def sample(sender: int, pid: int, code: int = SI_USER, at: float = 5.0) -> bytes:
    raw = struct.pack("=8xiii16si", 9, 0, code, b"llama-server", pid) + bytes(4)
    body = struct.pack("=IIQI", sender, sender, int(at * 1e9), len(raw)) + raw
    return struct.pack("=IHH", 9, 0, 8 + len(body)) + body


def test_the_fields_are_where_the_kernel_says() -> None:
    assert kills.form(261, FORMAT) == FORM


def test_fields_that_are_not_known_are_not_guessed() -> None:
    with pytest.raises(ValueError, match="other fields"):
        kills.form(261, FORMAT.replace("int code", "u64 code"))


def test_the_kernels_own_kills_are_nobodys() -> None:
    lost = struct.pack("=IHHQQ", 2, 0, 24, 261, 7)
    text = sample(100, 11) + lost + sample(200, 12, SI_KERNEL, at=6.5)
    assert list(kills._kills(text, FORM, 1000.0)) == [Kill(11, 100, 1005.0), Kill(12, None, 1006.5)]


def test_a_record_may_begin_at_the_end_of_the_ring_and_end_at_its_beginning() -> None:
    room, text = kills._PAGES * mmap.PAGESIZE, sample(100, 11)
    with mmap.mmap(-1, mmap.PAGESIZE + room) as ring:
        tail = 3 * room - 20
        for place, byte in enumerate(text):
            ring[mmap.PAGESIZE + (tail + place) % room] = byte
        struct.pack_into("=QQ", ring, kills._HEAD, tail + len(text), tail)
        assert kills._drained(ring) == text
        assert struct.unpack_from("=QQ", ring, kills._HEAD) == (tail + len(text),) * 2, "it is read"
        assert kills._drained(ring) == b""


class Said(kills.Kills):
    def __init__(self, *seen: Kill) -> None:
        self._rings, self._form = [], FORM
        self._seen = {kill.pid: kill for kill in seen}


def test_a_kill_of_whoever_had_the_pid_before_is_not_its_end() -> None:
    here = Machine(kills=lambda: Said(Kill(11, 100, 50.0), Kill(12, None, 50.0)))
    assert here.killer(RunnerProcess(4000, 11, started=40.0)) == 100
    assert here.killer(RunnerProcess(4000, 12, started=40.0)) == 0
    assert here.killer(RunnerProcess(4000, 11, started=60.0)) is None
    assert here.killer(RunnerProcess(4000, 13, started=40.0)) is None
    assert here.killer(RunnerProcess(4000)) is None


def test_where_it_cannot_be_seen_nobody_is_told_to_have_killed() -> None:
    assert Machine(kills=lambda: None).killer(RunnerProcess(4000, 11, started=40.0)) is None


SCRIPT = """
import os, signal, subprocess, sys, time
from exporter.local.kills import Kills
seen = Kills()
def end(act):
    began = time.time()
    process = subprocess.Popen(["sleep", "60"])
    act(process.pid)
    process.wait()
    kill = seen.of(process.pid, began)
    return kill and kill.by
assert end(lambda pid: os.kill(pid, signal.SIGKILL)) == os.getpid()
other = []
def by_another(pid):
    other.append(subprocess.Popen(["sh", "-c", f"kill -9 {pid}"]))
    other[0].wait()
assert end(by_another) == other[0].pid
assert end(lambda pid: os.kill(pid, signal.SIGTERM)) is None
def by_another_first(pid):
    by_another(pid)
    os.kill(pid, signal.SIGKILL)
other.clear()
assert end(by_another_first) == other[0].pid, "who kills what is dead has not killed it"
seen.close()
"""


def test_a_real_kernel_tells_who_killed(tmp_path: Path) -> None:
    """In a mount namespace of its own, so that tracefs need not be there."""
    mount = "mount -t tracefs nodev /sys/kernel/tracing 2>&1 || echo NO TRACEFS"
    with_tracefs = ["unshare", "--mount", "sh", "-c", f'{mount}; exec "$@"', "sh"]
    can = "import sys; from exporter.local.kills import Kills\ntry: Kills()\nexcept OSError as no: sys.exit(str(no))"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}

    def run(script: str) -> subprocess.CompletedProcess[str]:
        command = [*with_tracefs, sys.executable, "-c", script]
        return subprocess.run(
            command, check=False, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60
        )

    try:
        asked = run(can)
    except FileNotFoundError:
        pytest.skip("NO KERNEL TO ASK WHO KILLED: no unshare")
    if asked.returncode:
        pytest.skip(f"NO KERNEL TO ASK WHO KILLED: {asked.stdout} {asked.stderr}")
    told = run(SCRIPT)
    assert told.returncode == 0, told.stderr
