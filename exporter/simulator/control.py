"""`/_sim/`: look into a simulated server and let things go wrong. Only answers when the server was built with it."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from exporter.simulator.body import ApiError
from exporter.simulator.faults import INSTANT, KINDS, Fault
from exporter.simulator.http import Exchange, Routes


async def state(exchange: Exchange) -> None:
    server = exchange.server
    await exchange.json(
        {
            "server": server.name,
            "time": server.wall_time(),
            "pending": server.engine.pending,
            "max_queue": server.config.engine.max_queue,
            "scheduling": server.engine.scheduling,
            "loaded": [
                {
                    "model": row.model.name,
                    "slots": row.slots,
                    "busy": row.busy,
                    "waiting": row.waiting,
                    "alive": row.alive,
                    "context_length": row.num_ctx,
                    "expires_at": row.expires_at,
                }
                for row in server.engine.loaded()
            ],
            "faults": _faults(exchange),
            "events": server.log.counts(),
        }
    )


async def list_faults(exchange: Exchange) -> None:
    await exchange.json({"faults": _faults(exchange), "kinds": list(KINDS)})


async def set_fault(exchange: Exchange) -> None:
    """`{"kind": "slow", "factor": 5, "seconds": 60}`."""
    try:
        raw: Any = json.loads(exchange.body)
        fault = Fault.parse(raw if isinstance(raw, dict) else {})
    except ValueError as error:
        raise ApiError(400, str(error)) from None
    if fault.kind == "dead" and fault.seconds is None:
        raise ApiError(400, "dead needs seconds: nobody could reach this endpoint to end it")
    answer = {"fault": asdict(fault), "instant": fault.kind in INSTANT}
    if fault.kind == "dead":
        await exchange.json(answer)  # while there still is a connection to answer on
        exchange.server.inject(fault)
        return
    exchange.server.inject(fault)
    await exchange.json(answer)


async def clear_faults(exchange: Exchange) -> None:
    exchange.server.heal()
    await exchange.json({"faults": []})


def _faults(exchange: Exchange) -> list[dict[str, Any]]:
    faults = exchange.server.faults
    return [{**asdict(fault), "remaining": faults.remaining(fault.kind)} for fault in faults.all()]


ROUTES: Routes = {
    "/_sim/state": {"GET": state},
    "/_sim/faults": {"GET": list_faults, "POST": set_fault, "DELETE": clear_faults},
}
