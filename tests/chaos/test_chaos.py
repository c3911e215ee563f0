"""Everything that goes wrong around an exporter, over real sockets: see docs/reliability.md.

Each house is a process in namespaces of its own; all of them run at once. The faults are in `table.py`.
"""

from __future__ import annotations

import glob
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.chaos import house, pages
from tests.chaos.house import Seen
from tests.chaos.table import FAULTS, Fault
from tests.chaos.verdict import judge
from tests.e2e import debian

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reliability.md"
HOUSES = tuple(dict.fromkeys(fault.house for fault in FAULTS))
OWN_NAMESPACES = ("unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child")
LONGEST = house.LONGEST + 40
"""Seconds for a house, and for what it says when it is given up."""

pytestmark = pytest.mark.timeout(LONGEST + 60)
Playing = dict[str, Future[Seen]]


def missing() -> str:
    """What is not here and would be needed."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "root on Linux, who may make namespaces"
    lacks = [program for program in ("unshare", "ip", "mount", "openssl") if not shutil.which(program)]
    lacks += ["libfaketime"] * (not glob.glob("/usr/lib/*/faketime/libfaketimeMT.so.1"))
    lacks += ["/dev/fuse"] * (not Path("/dev/fuse").exists())
    if not lacks and subprocess.run([*OWN_NAMESPACES, "true"], capture_output=True, check=False).returncode:
        lacks.append("a kernel that lets root make namespaces")
    return ", ".join(lacks)


@pytest.fixture(scope="module")
def playing() -> Iterator[Playing]:
    """All houses, begun at once; each test waits for its own."""
    if lacks := missing():
        message = f"NO CHAOS: nothing was done to the exporter for want of {lacks}"
        pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)
    prometheus = debian.prometheus().path
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder, ThreadPoolExecutor(len(HOUSES)) as pool:
        yield {name: pool.submit(_play, name, Path(folder) / name, prometheus) for name in HOUSES}


def _play(name: str, folder: Path, prometheus: Path) -> Seen:
    folder.mkdir()
    command = [*OWN_NAMESPACES, sys.executable, "-m", "tests.chaos.house", f"house_{name}", str(folder)]
    env = {**os.environ, "PROMETHEUS": str(prometheus)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=LONGEST, check=False)
    assert done.returncode == 0, f"the house {name} fell down:\n{done.stderr[-5000:]}"
    return Seen.read(folder / "seen.json")


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name.replace(" ", "-"))
def test_a_fault_is_told_with_its_reason_harms_nobody_else_and_leaves_nothing(fault: Fault, playing: Playing) -> None:
    verdict = judge(fault, playing[fault.house].result())
    assert (verdict.unseen, verdict.reason) == ("", "")
    assert verdict.false == ""
    assert verdict.delayed == ""
    assert verdict.ill == ""
    assert verdict.swollen == ""
    assert verdict.crashed == ""


def test_every_fault_that_happened_is_in_the_table(playing: Playing) -> None:
    happened = {(name, fault) for name, future in playing.items() for fault in future.result().outcomes}
    assert happened == {(fault.house, fault.name) for fault in FAULTS}


def test_the_page_tells_what_was_seen(playing: Playing, update_golden: bool) -> None:
    page = pages.page(FAULTS, {name: future.result() for name, future in playing.items()})
    if update_golden:
        PAGE.write_text(page, encoding="utf-8")
    assert page == PAGE.read_text("utf-8")
