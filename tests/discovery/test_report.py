"""What people are told of discovery: by `check --online` and on the status page."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

from exporter import check
from exporter.config import load
from exporter.discovery.report import report
from exporter.exposition import encode
from exporter.model import Reading, Snapshot, Watch
from exporter.sources.own import DiscoveryVitals, OwnSource, Vitals
from exporter.status import survey
from exporter.status.page import render_page


def configured(folder: Path, text: str) -> str:
    path = folder / "exporter.yml"
    path.write_text(f"host: {{enabled: false}}\nservers: [{{name: own, url: 'http://127.0.0.1:9'}}]\n{text}")
    return str(path)


def test_online_tells_what_each_place_finds_and_why_it_does_not(tmp_path: Path) -> None:
    (tmp_path / "a.yml").write_text(
        "- targets: [127.0.0.1:9, 127.0.0.1:10, 127.0.0.1:11, 'x y']\n  labels: {tier: gold}\n- targets: ['c:1']\n"
    )
    path = configured(
        tmp_path,
        "discovery:\n"
        "  - name: racks\n    files: {paths: [a.yml, none.yml]}\n"
        "    relabel_configs: [{source_labels: [tier], regex: gold, action: keep}]\n"
        "  - files: {paths: [broken.json]}\n",
    )
    (tmp_path / "broken.json").write_text("[")
    found = asyncio.run(report(load(path, {})))
    assert [server.name for server in found.fleet.servers] == ["own", "127.0.0.1:10", "127.0.0.1:11"]
    racks, files = found.blocks
    assert racks.splitlines() == [
        "discovery racks (files): 2 servers, 1 left out (address_taken), 1 left out (invalid), 1 dropped by its rules",
        "  127.0.0.1:10  http://127.0.0.1:10",
        "  127.0.0.1:11  http://127.0.0.1:11",
        f"  failed (unavailable): {tmp_path}/none.yml: it cannot be read: No such file or directory",
    ]
    assert files.splitlines() == [
        "discovery files (files): 0 servers",
        f"  failed (decode): {tmp_path}/broken.json: it is not JSON",
    ]


def test_online_looks_at_those_that_are_found(tmp_path: Path) -> None:
    (tmp_path / "a.yml").write_text("- targets: [127.0.0.1:10]\n  labels: {server: found}\n")
    text = check.online(load(configured(tmp_path, "discovery: [files: {paths: [a.yml]}]"), {}))
    assert "discovery files (files): 1 server\n" in text
    assert re.search(r"^found +down ", text, re.M)


def test_credentials_that_would_go_in_clear_are_told(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("t0ken")
    (tmp_path / "a.yml").write_text("- targets: ['a:1']\n")
    text = "discovery: [{files: {paths: [a.yml]}, server: {bearer_token_file: token}}]"
    found = asyncio.run(report(load(configured(tmp_path, text), {})))
    assert "UNENCRYPTED" in found.blocks[0]
    assert "t0ken" not in found.blocks[0]
    assert found.fleet.servers[1].bearer_token_file is not None


def test_a_long_list_is_cut(tmp_path: Path) -> None:
    (tmp_path / "a.yml").write_text("- targets: [" + ", ".join(f"'s{number}:1'" for number in range(30)) + "]\n")
    found = asyncio.run(report(load(configured(tmp_path, "discovery: [files: {paths: [a.yml]}]"), {})))
    assert found.blocks[0].splitlines()[-1] == "  and 10 more"
    assert len(found.fleet.servers) == 31


def page(*searches: DiscoveryVitals) -> str:
    vitals = Vitals(servers=0, discoveries={search.name: search for search in searches})
    samples = tuple(asyncio.run(OwnSource(vitals).collect()))
    watch = Watch("", "exporter", 5.0, 5.0)
    snapshot = Snapshot({watch: encode(Reading(watch, 1000.0, 0.01, samples, succeeded_at=1000.0))})
    return re.sub(r"<[^>]+>", " ", render_page(survey(snapshot, 1000.0, "1"), 1000.0))


def test_the_status_page_shows_each_search_those_that_fail_first() -> None:
    good = DiscoveryVitals("racks", True, 990.0, 12, {"limit": 3})
    bad = DiscoveryVitals("cluster", False, 400.0, 2)
    bad.failures.add(7, reason="http_4xx")
    shown = " ".join(page(good, bad).split())
    assert "Discovery fails (cluster): the servers that it found before stay" in shown
    assert "cluster failed 2 10 min ago 7 × HTTP error 4xx racks ok 12 3 × more than limits.servers 10 s ago" in shown
    assert "No server is configured or found" in shown


def test_without_discovery_the_status_page_says_nothing_of_it() -> None:
    assert "Discovery" not in page()
