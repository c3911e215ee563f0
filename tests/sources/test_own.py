"""The exporter about itself."""

from __future__ import annotations

import resource

from exporter import catalog
from exporter.fleet import Observer
from exporter.model import Watch
from exporter.sources import SOURCES, Surroundings, build
from tests.scene import Seen, virtually

WATCH = Watch("", "exporter", 5.0, 5.0)


@virtually
async def test_without_a_free_file_descriptor_it_tells_of_itself_what_needs_none() -> None:
    observer = Observer(WATCH, build(WATCH, Surroundings()), SOURCES["exporter"].reasons, lambda: 0.0)
    well = Seen(await observer.observe())
    assert well.failure is None
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        seen = Seen(await observer.observe())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert seen.failure == "unavailable"
    assert catalog.EXPORTER_SERVERS.name in seen.families()
    assert catalog.PROCESS_FDS.name not in seen.families()
    assert Seen(await observer.observe()).families() == well.families()
