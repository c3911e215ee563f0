"""Attacks on the web server over real sockets: each gets what docs/security.md says, and a neighbour his page."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import ssl
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from exporter import listening
from exporter.listening import Server, bind
from exporter.webauth import Door
from exporter.webconfig import Watched
from tests.certificates import make
from tests.test_web import Desk, create_app, in_loop

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
RELOAD = b"POST /-/reload HTTP/1.1\r\nHost: a\r\n"

ATTACKS: dict[str, tuple[bytes, bytes]] = {
    "two different lengths": (RELOAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab", b"400"),
    "a length that is none": (RELOAD + b"Content-Length: -1\r\n\r\n", b"400"),
    "a folded length": (RELOAD + b"Content-Length: 1\r\n 0\r\n\r\n", b"400"),
    "a bad chunk": (RELOAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", b"400"),
    "two hosts": (b"GET /config HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", b"400"),
    "no host": (b"GET /config HTTP/1.1\r\n\r\n", b"400"),
    "a space before the colon": (b"GET /config HTTP/1.1\r\nHost : a\r\n\r\n", b"400"),
    "NUL in a header": (b"GET /config HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n", b"400"),
    "NUL in a path": (b"GET /config\0 HTTP/1.1\r\nHost: a\r\n\r\n", b"400"),
    "HTTP/0.9": (b"GET /config\r\n\r\n", b"400"),
    "a head that is huge": (b"GET /config HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 200_000, b"400"),
    "absolute-form": (b"GET http://elsewhere/config HTTP/1.1\r\nHost: a\r\n\r\n", b"404"),
    "dots": (b"GET /metrics/../config HTTP/1.1\r\nHost: a\r\n\r\n", b"404"),
    "encoded dots": (b"GET /metrics/%2e%2e/config HTTP/1.1\r\nHost: a\r\n\r\n", b"404"),
    "encoded twice": (b"GET /%2563onfig HTTP/1.1\r\nHost: a\r\n\r\n", b"404"),
    "encoded NUL": (b"GET /config%00 HTTP/1.1\r\nHost: a\r\n\r\n", b"404"),
    "two slashes": (b"GET //config HTTP/1.1\r\nHost: a\r\n\r\n", b"404"),
    "a parameter": (b"GET /config;x HTTP/1.1\r\nHost: a\r\n\r\n", b"404"),
    "CONNECT": (b"CONNECT elsewhere:80 HTTP/1.1\r\nHost: a\r\n\r\n", b"404"),
    "TRACE": (b"TRACE /config HTTP/1.1\r\nHost: a\r\n\r\n", b"405"),
    "a bare LF": (b"GET /health HTTP/1.1\nHost: a\n\n", b"200"),
    "an upgrade": (b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", b"200"),
}


@contextlib.asynccontextmanager
async def house(desk: Desk, config: Path | None = None) -> AsyncIterator[tuple[str, int]]:
    guard = Watched(None if config is None else str(config))
    (listening,) = bind(("0.0.0.0", 0))
    server = Server(Door(create_app(desk), guard.current), [listening], guard)  # type: ignore[arg-type]
    task = asyncio.create_task(server.run())
    try:
        yield "127.0.0.1", listening.getsockname()[1]
    finally:
        server.stop()
        await task


@contextlib.asynccontextmanager
async def client(
    address: tuple[str, int], tls: ssl.SSLContext | None = None, source: str = "127.0.0.1"
) -> AsyncIterator[Streams]:
    reader, writer = await asyncio.open_connection(
        *address, ssl=tls, server_hostname="localhost" if tls else None, local_addr=(source, 0)
    )
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def to_the_end(reader: asyncio.StreamReader) -> bytes:
    """What comes until the other side hangs up, in whatever way."""
    got = b""
    with contextlib.suppress(OSError):
        while piece := await reader.read(65536):
            got += piece
    return got


async def neighbour(address: tuple[str, int], tls: ssl.SSLContext | None = None) -> None:
    """From another address, the page."""
    async with client(address, tls, "127.0.0.2") as (reader, writer):
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        page = await to_the_end(reader)
        assert page.startswith(b"HTTP/1.1 200 ")
        assert b"\nollama_up" in page


@pytest.mark.parametrize("attack", ATTACKS)
@in_loop
async def test_an_attack_gets_its_answer_and_a_neighbour_his_page(
    attack: str, caplog: pytest.LogCaptureFixture
) -> None:
    sent, code = ATTACKS[attack]
    async with house(Desk()) as address, client(address) as (reader, writer):
        writer.write(sent)
        assert (await reader.readexactly(12)) == b"HTTP/1.1 " + code
        await neighbour(address)
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


@pytest.mark.parametrize("order", ["length first", "chunked first"])
@in_loop
async def test_a_request_with_two_lengths_carries_no_second_one(order: str) -> None:
    desk = Desk()
    lengths = [b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n"]
    head = RELOAD + b"".join(lengths if order == "length first" else lengths[::-1])
    async with house(desk) as address, client(address) as (reader, writer):
        writer.write(head + b"\r\n0\r\n\r\nPOST /-/reload HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
        answers = await to_the_end(reader)
        assert answers.startswith(b"HTTP/1.1 400 ")
        assert answers.count(b"HTTP/1.1 ") == 1
        assert desk.reloads == 0


@in_loop
async def test_pipelined_requests_are_answered_in_order() -> None:
    paths = (b"/health", b"/nothing", b"/-/ready")
    async with house(Desk()) as address, client(address) as (reader, writer):
        writer.write(b"".join(b"GET " + path + b" HTTP/1.1\r\nHost: a\r\n\r\n" for path in paths))
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        answers = (await to_the_end(reader)).split(b"HTTP/1.1 ")[1:]
        assert [answer[:3] for answer in answers] == [b"200", b"404", b"200", b"200"]


@in_loop
async def test_nonsense_after_the_answer_is_hung_up_on_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    async with house(Desk()) as address, client(address) as (reader, writer):
        writer.write(RELOAD + b"Transfer-Encoding: chunked\r\n\r\n")
        await reader.readuntil(b"reloaded\n")
        writer.write(b"zz\r\n")
        assert await to_the_end(reader) == b""
        await neighbour(address)
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


@in_loop
async def test_a_body_that_trickles_is_hung_up_on() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(listening, "_REQUEST_SECONDS", 0.05)
        async with house(Desk()) as address, client(address) as (reader, writer):
            writer.write(RELOAD + b"Content-Length: 1000000\r\n\r\n")
            await reader.readuntil(b"reloaded\n")
            writer.write(b"x")
            assert await to_the_end(reader) == b""
            await neighbour(address)


@in_loop
async def test_one_address_cannot_take_all_connections() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(listening, "_CONNECTIONS_PER_ADDRESS", 3)
        async with house(Desk()) as address, contextlib.AsyncExitStack() as many:
            for _ in range(3):
                reader, writer = await many.enter_async_context(client(address))
                writer.write(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
                assert await reader.readexactly(12) == b"HTTP/1.1 200"
            reader, _ = await many.enter_async_context(client(address))
            assert await to_the_end(reader) == b""
            await neighbour(address)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("10.0.0.1", "10.0.0.2", False),
        ("2001:db8::1", "2001:db8::ffff", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("::ffff:10.0.0.1", "::ffff:10.0.0.2", False),
    ],
)
def test_who_counts_as_one_client(one: str, other: str, same: bool) -> None:
    assert (listening._neighbourhood((one, 1)) == listening._neighbourhood((other, 2))) is same


# --- TLS -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    make(folder, "ca")
    for name, san in {
        "server": "DNS:localhost",
        "later": "DNS:localhost",
        "anna": "DNS:anna",
        "bob": "DNS:bob",
    }.items():
        make(folder, name, san, by="ca")
    make(folder, "stranger", "DNS:anna")
    return folder


@pytest.fixture
def secured(pems: Path, tmp_path: Path) -> Path:
    shutil.copytree(pems, tmp_path, dirs_exist_ok=True)
    config = tmp_path / "web.yml"
    config.write_text("tls_server_config: {cert_file: server.pem, key_file: server.key}")
    return config


def write(config: Path, text: str) -> None:
    config.write_text(text)


def trusting(pems: Path, own: str | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(pems / "ca.pem"))
    if own:
        context.load_cert_chain(pems / f"{own}.pem", pems / f"{own}.key")
    return context


@in_loop
async def test_a_page_over_tls(secured: Path, pems: Path) -> None:
    async with house(Desk(), secured) as address:
        await neighbour(address, trusting(pems))


@in_loop
async def test_plain_http_on_a_tls_port_gets_no_answer(secured: Path, pems: Path) -> None:
    async with house(Desk(), secured) as address, client(address) as (reader, writer):
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b"HTTP" not in await to_the_end(reader)
        await neighbour(address, trusting(pems))


@in_loop
async def test_an_older_tls_than_allowed_is_refused(secured: Path, pems: Path) -> None:
    write(secured, "tls_server_config: {cert_file: server.pem, key_file: server.key, min_version: TLS13}")
    older = trusting(pems)
    older.maximum_version = ssl.TLSVersion.TLSv1_2
    async with house(Desk(), secured) as address:
        with pytest.raises(OSError):  # noqa: PT011 - an alert, or hung up on before it came
            async with client(address, older):
                pass
        await neighbour(address, trusting(pems))


@in_loop
async def test_a_handshake_that_never_ends_is_hung_up_on(secured: Path, pems: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(listening, "_REQUEST_SECONDS", 0.5)
        async with house(Desk(), secured) as address, client(address) as (reader, writer):
            writer.write(b"\x16\x03\x01")
            assert await to_the_end(reader) == b""
            await neighbour(address, trusting(pems))


@pytest.mark.parametrize(("own", "let_in"), [("anna", True), ("bob", False), ("stranger", False), (None, False)])
@in_loop
async def test_only_the_named_client_is_let_in(secured: Path, pems: Path, own: str | None, let_in: bool) -> None:
    write(
        secured,
        "tls_server_config: {cert_file: server.pem, key_file: server.key, client_ca_file: ca.pem,"
        " client_auth_type: RequireAndVerifyClientCert, client_allowed_sans: [anna]}",
    )
    async with house(Desk(), secured) as address:
        async with client(address, trusting(pems, own)) as (reader, writer):
            writer.write(b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            assert (await to_the_end(reader)).startswith(b"HTTP/1.1 200 ") is let_in
        await neighbour(address, trusting(pems, "anna"))


@in_loop
async def test_the_next_connection_gets_the_new_certificate(secured: Path, pems: Path) -> None:
    async def shown(address: tuple[str, int]) -> bytes:
        async with client(address, trusting(pems)) as (_, writer):
            return bytes(writer.get_extra_info("ssl_object").getpeercert(binary_form=True))

    async with house(Desk(), secured) as address:
        first = await shown(address)
        shutil.copy(secured.parent / "later.pem", secured.parent / "server.pem")
        assert await shown(address) == first  # its key is not there yet
        shutil.copy(secured.parent / "later.key", secured.parent / "server.key")
        assert await shown(address) != first


@in_loop
async def test_the_containers_health_check_speaks_tls_where_the_exporter_does(secured: Path) -> None:
    script = Path(__file__).parents[1] / "packaging/healthcheck.py"
    for config in (None, secured):
        async with house(Desk(), config) as (host, port):
            env = {"OLLAMA_EXPORTER_WEB_LISTEN_ADDRESS": f"{host}:{port}"}
            check = await asyncio.create_subprocess_exec(sys.executable, "-I", str(script), env=env)
            assert await check.wait() == 0
