"""Servers behind names, asked from a DNS server on loopback: records, names that come and go, silence."""

from __future__ import annotations

import pytest

from exporter.config.places import DnsSd
from exporter.discovery import dns as discovery_dns
from exporter.discovery.dns import DnsFinder
from exporter.discovery.targets import Seen, Trouble
from tests.discovery.dns_server import DnsServer, Records, dns_server

pytestmark = pytest.mark.anyio
SRV = "_ollama._tcp.example.com"
RECORDS: Records = {
    (f"{SRV}.", "SRV"): ["0 1 11434 gpu2.example.com.", "0 1 8080 gpu1.example.com."],
    ("gpu.example.com.", "A"): ["10.0.0.2", "10.0.0.1"],
    ("gpu.example.com.", "AAAA"): ["fd00::1"],
}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery_dns, "_WITHIN", 0.3)


def finder(server: DnsServer, *names: str, kind: str = "SRV") -> DnsFinder:
    return DnsFinder(DnsSd(names=names, type=kind, port=11434, server=("127.0.0.1", server.port)))  # type: ignore[arg-type]


def addresses(seen: Seen) -> list[str]:
    return [target.labels["__address__"] for target in seen.targets]


async def test_srv_records_say_where_each_server_is(anyio_backend: str) -> None:
    async with dns_server(dict(RECORDS)) as server:
        first, second = (await finder(server, SRV).look(())).targets
    assert first.labels == {
        "__address__": "gpu1.example.com:8080",
        "__meta_dns_name": SRV,
        "__meta_dns_srv_record_target": "gpu1.example.com.",
        "__meta_dns_srv_record_port": "8080",
    }
    assert second.labels["__address__"] == "gpu2.example.com:11434"


@pytest.mark.parametrize(
    ("kind", "found"), [("A", ["10.0.0.1:11434", "10.0.0.2:11434"]), ("AAAA", ["[fd00::1]:11434"])]
)
async def test_each_address_of_a_name_is_a_server(kind: str, found: list[str]) -> None:
    async with dns_server(dict(RECORDS)) as server:
        assert addresses(await finder(server, "gpu.example.com", kind=kind).look(())) == found


async def test_a_service_that_is_not_offered_has_no_servers() -> None:
    async with dns_server({(f"{SRV}.", "SRV"): ["0 0 0 ."]}) as server:
        assert await finder(server, SRV).look(()) == Seen()


async def test_a_name_that_does_not_exist_or_has_no_such_record_has_no_servers_and_that_is_an_answer() -> None:
    async with dns_server(dict(RECORDS)) as server:
        it = finder(server, SRV, "gpu.example.com", "nobody.example.com")
        assert len((await it.look(())).targets) == 2
        del server.records[f"{SRV}.", "SRV"]
        assert await it.look(()) == Seen()


async def test_a_name_that_flaps_comes_and_goes_and_one_that_cannot_be_asked_stays() -> None:
    async with dns_server(dict(RECORDS)) as server:
        it = finder(server, SRV, "other.example.com")
        server.records["other.example.com.", "SRV"] = ["0 1 1 x.example.com."]
        everybody = addresses(await it.look(()))
        assert len(everybody) == 3
        server.broken.add(f"{SRV}.")
        del server.records["other.example.com.", "SRV"]
        seen = await it.look(())
        assert addresses(seen) == everybody[:2], "the one is kept, the other is believed"
        assert [(each.reason, SRV in each.what) for each in seen.troubles] == [("dns", True)]
        server.broken.clear()
        server.records[f"{SRV}.", "SRV"] = ["0 1 9 gpu9.example.com."]
        seen = await it.look(())
        assert (addresses(seen), seen.troubles) == (["gpu9.example.com:9"], ())


async def test_silence_is_a_timeout_and_says_which_name() -> None:
    async with dns_server(dict(RECORDS)) as server:
        it = finder(server, SRV, "gpu.example.com")
        server.silent.add(f"{SRV}.")
        (trouble,) = (await it.look(())).troubles
    assert (trouble.reason, trouble.what) == ("timeout", f"{SRV}: no DNS server answers in time")


async def test_nonsense_is_no_answer() -> None:
    async with dns_server(dict(RECORDS)) as server:
        server.garbles = True
        (trouble,) = (await finder(server, SRV).look(())).troubles
    assert trouble.reason in ("dns", "timeout")


async def test_nobody_to_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    from dns.resolver import BaseResolver, NoResolverConfiguration

    def unconfigured(*_: object) -> None:
        raise NoResolverConfiguration

    monkeypatch.setattr(BaseResolver, "read_resolv_conf", unconfigured)
    with pytest.raises(Trouble, match="names no DNS server"):
        await DnsFinder(DnsSd(names=(SRV,), type="SRV", port=1, server=None)).look(())
