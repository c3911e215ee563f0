"""What somebody's command to restart Ollama does: ends the server that is there, and leaves one with so many slots.

    OLLAMA_NUM_PARALLEL=2 python restart.py 2 PORT PIDFILE

The server is simulated and asked for one model, which takes 0.8 s for 16 tokens: more than a busy machine adds.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from dataclasses import replace
from pathlib import Path

from exporter.simulator import TINYLLAMA, EngineConfig, ServerConfig, SimServer
from exporter.simulator.server import serve

MODEL = replace(
    TINYLLAMA, load_seconds=0.1, decode_tokens_per_second=20.0, prefill_tokens_per_second=1e5, crowding=0.0,
    mean_answer_tokens=1000,
)  # fmt: skip


def end(pid_file: Path, port: int) -> None:
    """End the server whose process the file names, if it does, until nobody listens any more."""
    if not pid_file.exists():
        return
    os.kill(int(pid_file.read_text()), signal.SIGKILL)
    pid_file.unlink()
    until = time.monotonic() + 10
    while time.monotonic() < until:
        with socket.socket() as caller:
            if caller.connect_ex(("127.0.0.1", port)) != 0:
                return
        time.sleep(0.02)
    raise TimeoutError


async def _serve(slots: int, port: int) -> None:
    server = SimServer(ServerConfig(engine=EngineConfig(num_parallel=slots), models=(MODEL,)))
    async with serve(server, port=port):
        await asyncio.sleep(120)  # whatever becomes of the test, it ends


def main(slots: str, port: str, pid_file: str) -> None:
    if os.environ.get("OLLAMA_NUM_PARALLEL") != slots:
        sys.exit("OLLAMA_NUM_PARALLEL is not what the command was given")
    end(Path(pid_file), int(port))
    if (child := os.fork()) != 0:
        Path(pid_file).write_text(str(child))
        return
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    asyncio.run(_serve(int(slots), int(port)))


if __name__ == "__main__":
    main(*sys.argv[1:])
