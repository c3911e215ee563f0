"""Every metric family there is: name, type, help, labels, unit, buckets. Data only, long and flat on purpose.

A file for each vantage point, which the prefix of a name tells. HELP says where the number was seen from and when;
"poll" means the last reading of that source, whose time is `ollama_source_last_attempt_timestamp_seconds`.
"""

# ruff: noqa: F403, F405, I001 - the order of the imports is the order of the page
from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType

from exporter.catalog.probe import *
from exporter.catalog.api import *
from exporter.catalog.canary import *
from exporter.catalog.native import *
from exporter.catalog.sockets import *
from exporter.catalog.runner import *
from exporter.catalog.logs import *
from exporter.catalog.docker import *
from exporter.catalog.host import *
from exporter.catalog.gpu import *
from exporter.catalog.audit import *
from exporter.catalog.source import *
from exporter.catalog.exporter import *
from exporter.catalog.discovery import *
from exporter.catalog.load import *
from exporter.model import Family

FAMILIES: tuple[Family, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Family))
"""Every family, in the order of the page."""

VANTAGE: Mapping[Family, str] = {
    **{
        family: name
        for name, file in list(globals().items())
        if isinstance(file, ModuleType)
        for family in vars(file).values()
        if isinstance(family, Family)
    },
    EXPORTER_DROPPED: "api",  # about the exporter, told by the source that drops
}
"""Where each is told from: its file's name. What is told from one vantage point comes in one reading."""
