"""Faults of the way to a server, of its answers, and of what answers in its place; all at once, twice."""

from __future__ import annotations

import itertools
import json
import shutil
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

from exporter import catalog
from tests.chaos import network
from tests.chaos.house import Play, Seen
from tests.chaos.judge import Judge
from tests.chaos.network import NXDOMAIN, SERVFAIL, SILENT, Link, Names, Relay
from tests.chaos.program import QUIET, Program
from tests.chaos.trouble import HASTY, LOADED, SHY, WELL, Act, Answering, Victim, answering, loaded_size
from tests.faults import FAULTS
from tests.wire import CLOSE, HANG, RESET, Request, Script, Wire, answer, json_answer, make_authority

PORT = 8082
DOWN, STARTING, STALLED, OK = "down", "starting", "stalled", "ok"
SCRIPTS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "connections break": (DOWN, ("reset_before_headers", "reset_in_headers", "reset_in_body")),
    "connections end early": (DOWN, (
        "closed_before_headers", "half_closed_before_headers", "closed_in_headers", "closed_in_body",
        "half_closed_in_body", "closed_in_chunk", "closed_between_chunks",
    )),
    "silence": (STARTING, ("no_headers",)),
    "slow loris": (STARTING, ("no_end_of_headers", "a_byte_now_and_then", "continue_without_end")),
    "a body that stops": (STARTING, ("no_end_of_body", "no_body_of_an_error")),
    "a body without end": (DOWN, (
        "endless_chunks", "endless_without_length", "endless_for_its_length", "one_byte_too_many",
    )),
    "a head without end": (DOWN, ("endless_headers",)),
    "a wrong content length": (DOWN, ("length_of_words", "length_below_zero", "two_lengths", "length_too_short")),
    "garbage": (DOWN, ("ssh", "chunk_of_words", "gzip_not_asked_for", "gzip_that_is_none")),
    "an empty 200": (DOWN, ("empty",)),
    "HTML instead of JSON": (DOWN, ("html", "ollama_is_running")),
    "broken JSON": (DOWN, ("truncated", "two_documents", "invalid_utf8", "utf16")),
    "NaN and Infinity": (DOWN, ("nan", "infinity", "5000_digits")),
    "deep nesting": (DOWN, ("nested_lists", "nested_objects")),
    "another shape": (DOWN, ("null", "number", "list", "wrong_types", "wrong_types_inside", "without_names", "nulls")),
    "401 and 403": (DOWN, ("401", "403_with_a_body", "403_empty", "403_empty_chunked")),
}  # fmt: skip
"""By fault: what becomes of the server, and the entries of tests.faults that are done to it, each to one of its own."""


class House:
    program: Program

    def __init__(self, folder: Path, stack: AsyncExitStack) -> None:
        self._folder, self._stack = folder, stack
        self.troubles: dict[str, list[Victim]] = {}
        self._numbers = itertools.count(1)

    async def wire(self, **settings: object) -> Wire:
        return await self._stack.enter_async_context(Wire(dict(WELL), **settings))  # type: ignore[arg-type]

    def name(self, word: str) -> str:
        return f"{word}-{next(self._numbers)}"

    def add(self, fault: str, *victims: Victim) -> None:
        self.troubles.setdefault(fault, []).extend(victims)

    async def answers(self, fault: str, answers: Mapping[str, Answering], reason: str, states: str) -> Victim:
        victim = answering(self.name("answers"), await self.wire(), answers, reason, states)
        self.add(fault, victim)
        return victim

    # --- answers

    async def scripts(self) -> None:
        for fault, (state, names) in SCRIPTS.items():
            for name in names:
                script = FAULTS[name]
                await self.answers(fault, {"/api/version": script.script}, script.reason, state)
        loop = answer(b"", "Location: /api/version", status=302)
        elsewhere = answer(b"", "Location: http://169.254.169.254/latest/meta-data/", status=307)
        for redirect in ([loop], [elsewhere], FAULTS["redirect_without_place"].script):
            await self.answers("redirect loops", {"/api/version": redirect}, "redirect", DOWN)
        await self.answers("the scheduler hangs", {"/api/ps": [HANG]}, "timeout", STALLED)
        await self.answers("the scheduler hangs", {"/api/ps": FAULTS["500"].script}, "http_5xx", STALLED)
        for script in (FAULTS["500"], FAULTS["html"]):
            routes: dict[str, Answering] = {"/api/tags": script.script, "/api/ps": newcomers()}
            await self.answers("the inventory fails", routes, script.reason, OK)

    async def bursts(self) -> None:
        for status in ("500", "502", "503", "500_without_end"):
            for path in ("/api/version", "/api/ps"):
                await self.answers("5xx in bursts", {path: every_second(FAULTS[status].script, path)}, "http_5xx", "")

    async def strange_values(self) -> None:
        for value in ("-1", "1e400", str(2**70), str(2**63), '"1960-01-01T00:00:00Z"'):
            body = json.dumps({"models": [LOADED["models"][0] | {"size": "@"}]}).replace('"@"', value).encode()
            victim = await self.answers("numbers out of range", {"/api/ps": [answer(body)]}, "", OK)
            victim.shows = lambda page, name=victim.name: (  # type: ignore[misc]
                loaded_size(page, name) is None and bool(page.value(catalog.REJECTED_VALUES, server=name))
            )
        twin = [json_answer({"models": [LOADED["models"][0], LOADED["models"][0] | {"size": 1}]})]
        victim = await self.answers("duplicate models", {"/api/ps": twin}, "", OK)
        victim.shows = lambda page, name=victim.name: (  # type: ignore[misc]
            loaded_size(page, name) == LOADED["models"][0]["size"]
            and bool(page.value(catalog.REJECTED_VALUES, server=name))
        )
        renamed = [json_answer({"models": [LOADED["models"][0] | {"name": "renamed"}]})]
        victim = await self.answers("a model is renamed", {"/api/ps": renamed}, "", OK)
        victim.shows = lambda page, name=victim.name: (  # type: ignore[misc]
            page.labels(catalog.LOADED_SIZE, name, "model") == {"renamed:latest"}
        )
        old: dict[str, Answering] = {"/api/version": [json_answer({"version": "0.1.30"})], "/api/ps": [NOT_FOUND]}
        victim = await self.answers("the version goes back", old, "", OK)
        victim.shows = lambda page, name=victim.name: (  # type: ignore[misc]
            page.labels(catalog.BUILD_INFO, name, "version") == {"0.1.30"}
            and page.value(catalog.LOADED_MODELS, server=name) is None
        )

    # --- the way to a server

    async def deaths(self) -> None:
        wire = await self.wire()
        name = self.name("gone")
        self.add("the server is gone", _victim(name, wire.url, wire.stop, wire.listen, "refused", DOWN))
        wire, name = await self.wire(), self.name("replaced")
        replace, restore = _swap(wire, Wire())
        self.add("another program on the port", _victim(name, wire.url, replace, restore, "http_4xx", DOWN))

    async def links(self) -> None:
        for number, fault in enumerate(("half-open connections", "the link is down"), 1):
            link = Link(number)
            await self.wire(listener=link.listener())
            begin, end, reason = (
                (link.sever, link.mend, "timeout connect_timeout")
                if number == 1
                else (link.down, link.up, "unreachable")
            )
            self.add(fault, _victim(self.name("far"), f"http://{link.there}:11434", begin, end, reason, DOWN))

    async def names(self, names: Names) -> None:
        """A connection that stands asks for no name: these servers close theirs."""
        faults = [("the name flaps", told, reason) for told, reason in FLAPS]
        faults += [("the DNS server is silent", SILENT, "connect_timeout")] * 8
        for fault, told, reason in faults:
            wire = await self.wire()
            wire.routes.update(SHY)
            name = self.name("named")
            names.told[f"{name}.test"] = "127.0.0.1"

            def tell(what: str, name: str = name) -> None:
                names.told[f"{name}.test"] = what

            self.add(fault, _victim(
                name, f"http://{name}.test:{wire.port}", lambda tell=tell, told=told: tell(told),
                lambda tell=tell: tell("127.0.0.1"), reason, DOWN,
            ))  # fmt: skip

    async def proxies(self) -> None:
        pages: tuple[tuple[str, Answering, str], ...] = (
            (DOWN, [answer(b"<html>Please log in</html>", "Content-Type: text/html")], "decode"),
            (DOWN, [answer(b"", "Proxy-Authenticate: Basic", status=407)], "http_4xx"),
            (DOWN, [answer(b"<html>", status=502)], "http_5xx"),
            (STARTING, [HANG], "timeout"),
        )
        for state, script, reason in pages:
            wire, origin, well = await self.proxy()
            self.add("an HTTP proxy between", _victim(
                self.name("proxied"), origin,
                lambda wire=wire, page={f"{origin}/api/version": script}: wire.routes.update(page),
                lambda wire=wire, well=well: wire.routes.update(well), reason, state, proxy_url=wire.url,
            ))  # fmt: skip
        wire, origin, _ = await self.proxy()
        victim = _victim(self.name("proxied"), origin, wire.stop, wire.listen, "refused", DOWN, proxy_url=wire.url)
        self.add("an HTTP proxy between", victim)

    async def proxy(self) -> tuple[Wire, str, dict[str, Answering]]:
        """A proxy, the server behind it, and what it hands on from there."""
        origin = f"http://10.99.0.{next(self._numbers)}:11434"
        wire = await self.wire()
        wire.routes = {origin + path: script for path, script in WELL.items()}
        return wire, origin, dict(wire.routes)

    async def relays(self) -> None:
        for patience in (0.3, 1.0):
            for reset in (False, True):
                relay = await self._stack.enter_async_context(Relay((await self.wire()).port, reset=reset))
                name = self.name("relayed")
                victim = _victim(
                    name, f"http://127.0.0.1:{relay.port}", lambda it=relay, s=patience: setattr(it, "patience", s),
                    lambda it=relay: setattr(it, "patience", None), "", OK,
                )  # fmt: skip
                if patience < 1.0:  # a poll that is on time comes before a relay that waits as long
                    victim.shows = lambda _, it=relay: it.hung_up >= 3  # type: ignore[misc]
                self.add("a TCP proxy between", victim)

    # --- TLS

    async def certificates(self) -> None:
        (self._folder / "one").mkdir()
        (self._folder / "two").mkdir()
        first, second = make_authority(self._folder / "one"), make_authority(self._folder / "two")
        trusted = self._folder / "trusted.pem"
        shutil.copy(first.ca, trusted)

        def victim(fault: str, name: str, wire: Wire, begin: object, end: object, reason: str, ca: Path) -> Victim:
            made = _victim(self.name(name), wire.url, begin, end, reason, DOWN, tls={"ca_file": str(ca)})
            self.add(fault, made)
            return made

        context = first.server("good")
        wire = await self.wire(tls=context)
        wire.routes.update(SHY)

        def expire() -> None:
            first.sign("short", time.strftime("%Y%m%d%H%M%SZ", time.gmtime(time.time() + 3)))
            context.load_cert_chain(*first.certificate("short"))

        renew = lambda: context.load_cert_chain(*first.certificate("good"))  # noqa: E731
        victim("a certificate expires", "expiring", wire, expire, renew, "tls", first.ca)
        turned = first.server("good")
        wire = await self.wire(tls=turned)
        wire.routes.update(SHY)
        authorities = itertools.cycle((second, first))
        self.rotated = first

        def rotate() -> None:
            self.rotated = next(authorities)
            turned.load_cert_chain(*self.rotated.certificate("good"))

        async def trust() -> None:
            shutil.copy(self.rotated.ca, trusted)
            await self.program.reload()

        victim("the CA is rotated", "rotated", wire, rotate, trust, "tls", trusted).anew = True
        wire = await self.wire(tls=first.server("good"))
        wire.routes.update(SHY)
        begin, end = _swap(wire, Wire(on_accept=[HANG]))
        victim("the TLS handshake hangs", "hanging", wire, begin, end, "connect_timeout", first.ca)
        for greeting in ([b"HTTP/1.1 400 Bad Request\r\n\r\n"], [CLOSE], [RESET]):
            wire = await self.wire(tls=first.server("good"))
            begin, end = _swap(wire, Wire(on_accept=greeting))
            victim("a server without TLS", "plain", wire, begin, end, "tls", first.ca)


NOT_FOUND = answer(b"404 page not found", status=404)
FLAPS = ((NXDOMAIN, "dns"), (SERVFAIL, "dns"), ("127.0.0.77", "refused"))


def newcomers() -> Answering:
    """Each time another model is loaded, of which /api/tags is asked."""
    digests = itertools.count(1)

    def respond(_: Request) -> Script:
        row = LOADED["models"][0] | {"name": "new", "digest": f"{next(digests):064x}"}
        return [json_answer({"models": [row]})]

    return respond


def every_second(bad: Script, path: str) -> Answering:
    turns = itertools.cycle((bad, WELL[path]))

    def respond(_: Request) -> Script:
        script = next(turns)
        assert not callable(script)
        return script

    return respond


def _victim(name: str, url: str, begin: object, end: object, reason: str, states: str, **settings: object) -> Victim:
    made = {"name": name, "url": url, **HASTY, **settings}
    return Victim(name, made, begin, end, reason, frozenset(states.split()))  # type: ignore[arg-type]


def _nothing() -> None:
    """It is done to another at the same time."""


def _swap(wire: Wire, other: Wire) -> tuple[Act, Act]:
    return partial(wire.give_way, other), partial(other.give_way, wire)


async def play(folder: Path) -> Seen:
    network.prepare(folder)
    seen = Seen()
    async with AsyncExitStack() as stack:
        names = await stack.enter_async_context(network.names())
        house = House(folder, stack)
        for furnish in (
            house.scripts, house.bursts, house.strange_values, house.deaths, house.links, house.proxies, house.relays,
            house.certificates,
        ):  # fmt: skip
            await furnish()
        await house.names(names)
        neighbours = {"neighbour": "127.0.0.1", "neighbour-anew": "127.0.0.1", "neighbour-by-name": "neighbour.test"}
        servers = []
        for name, host in neighbours.items():
            wire = await house.wire()
            wire.routes.update(WELL if name == "neighbour" else SHY)
            servers.append({"name": name, "url": f"http://{host}:{wire.port}"})
        servers += [victim.settings for victims in house.troubles.values() for victim in victims]
        settings = {**QUIET, "poll": {"interval": "1s"}, "servers": servers}
        house.program = program = await stack.enter_async_context(Program(folder, settings, PORT))
        judge = await stack.enter_async_context(Judge(program, neighbours))
        it = Play(program, judge, house.troubles, seen)
        await it.until_well()
        for _ in range(2):
            await it.round()
        it.conclude()
    return seen
