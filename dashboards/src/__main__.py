"""Writes dashboards/*.json, or with --check tells which of them are not what the sources make."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from dashboards.src import canary, capacity, exporter, host, latency, models, overview, runner, server, status

FOLDER = Path(__file__).resolve().parent.parent

BOARDS = tuple(
    module.BOARD for module in (overview, server, latency, capacity, models, runner, host, canary, exporter, status)
)


def texts() -> dict[str, str]:
    """File name -> what belongs there."""
    return {f"{board.uid}.json": board.json() for board in BOARDS}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m dashboards.src", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when a file is not in step")
    check = parser.parse_args().check
    wanted = texts()
    found = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.json")}
    stale = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    for name in stale:
        if check:
            sys.stderr.write(f"dashboards/{name} is not in step: python -m dashboards.src\n")
        elif name in wanted:
            (FOLDER / name).write_text(wanted[name], encoding="utf-8")
        else:
            (FOLDER / name).unlink()
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
