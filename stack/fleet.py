"""One server of the demo fleet, with its users and its incidents, on port 11434: `python fleet.py primary`.

The exporter's image runs it, three times, so that each can be stopped like a real one. `ollama-exporter demo` has the
same fleet in one process, for those who have no Docker.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import time
from dataclasses import replace

from exporter.simulator import FleetConfig, SimFleet
from exporter.simulator.server import serve

PORT = 11434

log = logging.getLogger("fleet")


def only(name: str) -> FleetConfig:
    """The demo fleet with one of its members, and with that member's incidents at their time."""
    whole = FleetConfig()
    names = [member.server.name for member in whole.members]
    if name not in names:
        sys.exit(f"no such server: {name}; expected {', '.join(names)}")
    return FleetConfig(
        members=tuple(member for member in whole.members if member.server.name == name),
        timetable=replace(
            whole.timetable, incidents=tuple(one for one in whole.timetable.incidents if one.server == name)
        ),
        seed=names.index(name) + 1,
    )


async def run(name: str) -> None:
    fleet, stop, loop = SimFleet(only(name), time.time), asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with serve(fleet.servers[name], "0.0.0.0", PORT) as url:
        users = asyncio.create_task(fleet.run(), name="users")
        log.info("%s: a simulated Ollama on %s; its incidents in each cycle of ten minutes:", name, url)
        for line in fleet.timetable.lines():
            log.info(line)
        stopping = asyncio.create_task(stop.wait(), name="stop")
        await asyncio.wait({users, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if users.done():
            users.result()
        users.cancel()
        await asyncio.wait({users})


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    if len(sys.argv) != 2:
        sys.exit("usage: fleet.py NAME")
    asyncio.run(run(sys.argv[1]))
