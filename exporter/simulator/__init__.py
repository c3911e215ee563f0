"""A faithful Ollama fleet in one process: for the demo, for tests in virtual time, and for the load tester's check."""

from exporter.simulator.child import Child, Children, Served, serve_children
from exporter.simulator.clock import (
    EPOCH,
    DeadlockError,
    VirtualTimeLoop,
    real_wall_clock,
    run_virtual,
    virtual_wall_clock,
)
from exporter.simulator.engine import EngineConfig
from exporter.simulator.events import Event, EventLog
from exporter.simulator.faults import Fault
from exporter.simulator.fleet import FleetConfig, Member, SimFleet, Traffic, build_fleet
from exporter.simulator.journal import Journal, Sink
from exporter.simulator.machine import ServerConfig, SimServer
from exporter.simulator.models import (
    GEMMA3_270M,
    GPT_OSS_CLOUD,
    LLAMA32_3B,
    NOMIC_EMBED,
    QWEN3_4B,
    SMOLLM2,
    TINYLLAMA,
    SimModel,
)
from exporter.simulator.timetable import DEMO_TIMETABLE, Incident, Timetable
from exporter.simulator.transport import SimTransport

__all__ = [
    "DEMO_TIMETABLE",
    "EPOCH",
    "GEMMA3_270M",
    "GPT_OSS_CLOUD",
    "LLAMA32_3B",
    "NOMIC_EMBED",
    "QWEN3_4B",
    "SMOLLM2",
    "TINYLLAMA",
    "Child",
    "Children",
    "DeadlockError",
    "EngineConfig",
    "Event",
    "EventLog",
    "Fault",
    "FleetConfig",
    "Incident",
    "Journal",
    "Member",
    "Served",
    "ServerConfig",
    "SimFleet",
    "SimModel",
    "SimServer",
    "SimTransport",
    "Sink",
    "Timetable",
    "Traffic",
    "VirtualTimeLoop",
    "build_fleet",
    "real_wall_clock",
    "run_virtual",
    "serve_children",
    "virtual_wall_clock",
]
