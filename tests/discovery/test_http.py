"""A list on the web: what is asked, what is taken, and every way in which it can go wrong."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from exporter.config import load
from exporter.discovery import groups
from exporter.discovery.http import HttpFinder
from exporter.discovery.targets import Target, Trouble
from tests.wire import (
    CLOSE,
    HANG,
    RESET,
    Authority,
    Endless,
    Script,
    Wire,
    answer,
    free_port,
    json_answer,
    make_authority,
)

pytestmark = pytest.mark.anyio
GOOD = [{"targets": ["a:1"], "labels": {"rack": "7"}}]
TYPE = "Content-Type: application/json"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("authority"))


@asynccontextmanager
async def finder(folder: Path, url: str, more: str = "") -> AsyncIterator[HttpFinder]:
    (folder / "exporter.yml").write_text(f"discovery: [{{every: 45s, http: {{url: '{url}', {more}}}}}]")
    (entry,) = load(str(folder / "exporter.yml"), {"KEY": "k3y"}).discovery
    assert entry.http is not None
    it = HttpFinder(entry.http, entry.every)
    try:
        yield it
    finally:
        await it.aclose()


async def addresses(it: HttpFinder) -> list[str]:
    return [target.labels["__address__"] for target in (await it.look(())).targets]


async def test_it_asks_as_prometheus_does_and_takes_the_whole_list(tmp_path: Path) -> None:
    async with Wire({"/sd?site=a": [json_answer(GOOD)]}) as wire, finder(tmp_path, f"{wire.url}/sd?site=a") as it:
        seen = await it.look(())
        await it.look(())
    meta = {"__meta_url": f"{wire.url}/sd?site=a"}
    assert seen.targets == (Target({"__address__": "a:1", "rack": "7", **meta}),)
    first, second = wire.requests
    assert first.header("Accept") == ["application/json"]
    assert first.header("X-Prometheus-Refresh-Interval-Seconds") == ["45"]
    assert first.connection == second.connection, "one connection for all looks"


async def test_credentials_go_to_the_server_and_into_no_label(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("t0ken\n")
    more = "bearer_token_file: token, headers: {X-Api-Key: '${KEY}'}"
    async with Wire({"/": [json_answer(GOOD)]}) as wire, finder(tmp_path, f"{wire.url}/", more) as it:
        wire.routes[""] = wire.routes["/"]
        seen = await it.look(())
    assert wire.requests[0].header("Authorization") == ["Bearer t0ken"]
    assert wire.requests[0].header("X-Api-Key") == ["k3y"]
    assert not any("k3y" in value or "t0ken" in value for value in seen.targets[0].labels.values())


async def test_it_trusts_the_authority_that_it_is_told(tmp_path: Path, authority: Authority) -> None:
    async with Wire({"/sd": [json_answer(GOOD)]}, tls=authority.server("good")) as wire:
        async with finder(tmp_path, f"{wire.url}/sd", f"tls: {{ca_file: '{authority.ca}'}}") as it:
            assert await addresses(it) == ["a:1"]
        async with finder(tmp_path, f"{wire.url}/sd") as it:
            await refused(it, "tls")


async def test_a_list_that_has_not_changed_need_not_be_sent(tmp_path: Path) -> None:
    async with Wire({"/sd": [json_answer(GOOD, 'ETag: "1"')]}) as wire, finder(tmp_path, f"{wire.url}/sd") as it:
        assert await addresses(it) == ["a:1"]
        wire.routes["/sd"] = [answer(status=304)]
        assert await addresses(it) == ["a:1"]
        assert wire.requests[1].header("If-None-Match") == ['"1"']
        wire.routes["/sd"] = [json_answer([])]
        assert await addresses(it) == [], "an empty list is an answer"


async def refused(it: HttpFinder, reason: str, words: str = ".") -> None:
    with pytest.raises(Trouble, match=words) as trouble:
        await it.look(())
    assert trouble.value.reason == reason


@pytest.mark.parametrize(
    ("script", "reason", "words"),
    [
        ([answer(b"[]", TYPE, status=500)], "http_5xx", "status 500"),
        ([answer(b"[]", TYPE, status=404)], "http_4xx", "status 404"),
        ([answer(b"", "Location: http://127.0.0.1:1/", status=302)], "redirect", "status 302"),
        ([answer(status=304)], "redirect", "status 304"),
        ([answer(b"[]", TYPE, status=204)], "malformed", "status 204"),
        ([answer(b"[]", "Content-Type: text/html")], "malformed", "content type"),
        ([answer(b"[]", "Content-Type: application/json; charset=latin-1")], "malformed", "content type"),
        ([answer(b"[]")], "malformed", "content type"),
        ([answer(b"[]", TYPE, "Content-Encoding: gzip")], "decode", "compressed"),
        ([answer(b"[{", TYPE)], "decode", "not JSON"),
        ([answer(b'{"targets": []}', TYPE)], "malformed", "list of groups"),
        ([answer(b"[]", TYPE, length=100), CLOSE], "reset", "reset"),
        ([RESET], "reset", "reset"),
        ([b"nonsense\r\n\r\n", CLOSE], "decode", "decode"),
        ([HANG], "timeout", "in time"),
        ([answer(b"[", TYPE, length=100), HANG], "timeout", "in time"),
        ([b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n[", Endless(b" " * 65536)], "too_large", "16 MiB"),
    ],
    ids=lambda value: value if isinstance(value, str) else "answer",
)
async def test_every_other_answer_is_a_failure_with_its_reason(
    tmp_path: Path, script: Script, reason: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups, "BODY_MAX", 1_000_000)
    routes: dict[str, Script] = {"/sd": script}
    async with Wire({**routes}) as wire, finder(tmp_path, f"{wire.url}/sd", "timeout: 300ms") as it:
        await refused(it, reason, words)
        wire.routes["/sd"] = [json_answer(GOOD)]
        assert await addresses(it) == ["a:1"], "and the next look is a new try"


@pytest.mark.parametrize(
    "kind", ["application/json", "APPLICATION/JSON; charset=UTF-8", 'application/json;charset="utf-8"']
)
async def test_these_content_types_are_json(tmp_path: Path, kind: str) -> None:
    body: Sequence[bytes] = [answer(b"[]", f"Content-Type: {kind}")]
    async with Wire({"/sd": body}) as wire, finder(tmp_path, f"{wire.url}/sd") as it:
        assert await addresses(it) == []


async def test_nobody_listens(tmp_path: Path) -> None:
    async with finder(tmp_path, f"http://127.0.0.1:{free_port()}/sd") as it:
        await refused(it, "refused")


async def test_a_name_that_does_not_resolve(tmp_path: Path) -> None:
    async with finder(tmp_path, "http://nobody.invalid/sd") as it:
        await refused(it, "dns")


async def test_a_certificate_that_has_gone_is_told_at_each_look(tmp_path: Path, authority: Authority) -> None:
    copy = tmp_path / "ca.pem"
    copy.write_bytes(authority.ca.read_bytes())
    async with finder(tmp_path, "https://127.0.0.1:1/sd", f"tls: {{ca_file: '{copy}'}}") as it:
        copy.unlink()
        await refused(it, "tls", "certificate file")
