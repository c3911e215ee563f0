"""The machine room against this very machine: real sockets and processes, real network namespaces where we may.

Other servers may run here too, so tests look only for what they started.
"""

from __future__ import annotations

import _thread
import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest

from exporter.local import Place, RunnerProcess, processes, sockets
from exporter.local.blobs import Blobs
from exporter.local.machine import Machine
from exporter.local.processes import Process, Table
from exporter.local.sockets import Listener
from exporter.local.whereis import Finder, parse_fib_trie, parse_if_inet6, parse_listening
from exporter.model import Lacking
from tests.living import alive

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="asks the Linux kernel")

SERVE = """
import ctypes, fcntl, os, socket, struct, subprocess, sys
from pathlib import Path
address, container = sys.argv[1], sys.argv[2] == "container"
if container:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(0x40000000):
        print("refused", flush=True)
        raise SystemExit
    with socket.socket() as s:
        fcntl.ioctl(s, 0x8914, struct.pack("16sH22x", b"lo", 0x49))
        fcntl.ioctl(s, 0x8916, struct.pack("16sHH4s16x", b"lo:1", 2, 0, socket.inet_aton("10.77.0.2")))
server = socket.create_server((address, 11434 if container else 0))
print(server.getsockname()[1], flush=True)
held = []
for line in sys.stdin:
    command = line.strip()
    if command == "load":
        port = socket.create_server(("127.0.0.1", 0))
        number = port.getsockname()[1]
        runner = subprocess.Popen(
            [Path("llama-server").absolute(), "-I", "-S", "-c", "input()", "--model", sys.argv[3],
             "--port", str(number)], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        held += [port, runner]
        print(runner.pid, number, flush=True)
    elif command == "visit":
        client = socket.create_connection((address if address != "0.0.0.0" else "127.0.0.1", server.getsockname()[1]))
        client.sendall(b"GET / HTTP/1.1\\r\\n\\r\\n")
        held += [client, server.accept()[0]]
        print("visited", flush=True)
for one in held:
    if isinstance(one, subprocess.Popen):
        one.communicate()
"""


class Serve:
    """A process named ollama with the argument serve, that listens and does as it is told."""

    def __init__(
        self, folder: Path, address: str = "127.0.0.1", container: bool = False, environment: Mapping[str, str] = {}
    ) -> None:
        (folder / "serve").write_text(SERVE)
        for name in ("ollama", "llama-server"):
            (folder / name).symlink_to(os.path.realpath(sys.executable))
        self.weights = folder / "models" / "blobs" / "sha256-0a"
        self._process = subprocess.Popen(
            [folder / "ollama", "-I", "-S", "serve", address, "container" if container else "host", str(self.weights)],
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self._process.pid
        self.refused = (first := self._read()) == "refused"
        self.port = 0 if self.refused else int(first)
        self.url = f"http://127.0.0.1:{self.port}"

    def tell(self, command: str) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command}\n")
        self._process.stdin.flush()
        return self._read()

    def end(self) -> None:
        self._process.communicate()

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Serve]]:
    with ExitStack() as stack:

        def start(**how: object) -> Serve:
            folder = tmp_path / str(len(list(tmp_path.iterdir())))
            folder.mkdir()
            started = Serve(folder, **how)  # type: ignore[arg-type]
            stack.callback(started.end)
            return started

        yield start


def machine() -> Machine:
    """One that forgets what processes there were."""
    return Machine(table=Table(keep=0.0))


# --- where a server listens ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bound", "asked", "told"),
    [
        ("127.0.0.1", "127.0.0.1", "127.0.0.1"),
        ("127.0.0.1", "localhost", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1", "0.0.0.0"),
        ("::1", "[::1]", "::1"),
        ("::", "[::1]", "::"),
        ("::", "127.0.0.1", "::"),
        ("::", "[::ffff:127.0.0.1]", "::"),
    ],
)
def test_a_listener_of_this_machine_is_found_by_what_reaches_it(bound: str, asked: str, told: str) -> None:
    with listening(bound) as server:
        port = server.getsockname()[1]
        assert machine().place(f"http://{asked}:{port}") == Place(((told, port),))


def test_an_exact_address_goes_before_a_wildcard() -> None:
    wildcard, exact = Listener("0.0.0.0", 1, 1, 0, 0, 0), Listener("127.0.0.1", 1, 2, 0, 0, 0)
    assert exact.takes("127.0.0.1") > wildcard.takes("127.0.0.1") > 0
    assert exact.takes("127.0.0.2") == 0


def test_ipv6_only_is_not_reached_by_ipv4() -> None:
    assert not Listener("::", 1, 1, 0, 0, 0, v6only=True).takes("127.0.0.1")
    assert Listener("::", 1, 1, 0, 0, 0, v6only=True).takes("::1")
    with listening("::", v6only=True) as server, pytest.raises(LookupError):
        machine().place(f"http://127.0.0.1:{server.getsockname()[1]}")


def test_another_machine_is_a_lack_and_a_dead_server_is_none() -> None:
    with pytest.raises(Lacking) as elsewhere:
        machine().place("http://203.0.113.7:11434")
    assert elsewhere.value.lack.what == "203.0.113.7 is not seen on this machine"
    with listening("127.0.0.1") as server:
        port = server.getsockname()[1]
    with pytest.raises(LookupError):
        machine().place(f"http://127.0.0.1:{port}")


def test_a_proxy_in_front_is_not_taken_for_ollama() -> None:
    program = "import socket; s = socket.create_server(('', 0)); print(s.getsockname()[1], flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as proxy:
        assert proxy.stdout is not None
        port = int(proxy.stdout.readline())
        with pytest.raises(Lacking, match="not Ollama, listens on port"):
            machine().place(f"http://127.0.0.1:{port}")
        proxy.communicate("\n")


def test_a_server_that_was_started_a_moment_ago_is_no_stranger(serve: Callable[..., Serve]) -> None:
    here = Machine(table=(table := Table(keep=1000.0)))
    table.serves()
    ollama = serve()
    assert here.place(ollama.url).pid == ollama.pid


def test_a_serve_process_is_found_with_its_runners_and_their_end(serve: Callable[..., Serve]) -> None:
    ollama, here = serve(), machine()
    place = here.place(ollama.url)
    assert (place.pid, place.namespace, place.addresses) == (ollama.pid, None, (("127.0.0.1", ollama.port),))
    assert place.started == psutil.Process(ollama.pid).create_time()
    assert here.runners(place) == ()
    pid, port = map(int, ollama.tell("load").split())
    (runner,) = here.runners(place)
    assert (runner.pid, runner.port, runner.engine) == (pid, port, "llama")
    assert here.usage(runner) is not None
    here.connect(place, port, 1.0).close()
    ollama.end()
    for ask in (here.runners, here.environment):
        with pytest.raises(LookupError):
            ask(place)
    with pytest.raises(LookupError):
        here.connections(place)
    with pytest.raises(LookupError):
        here.place(ollama.url)


def test_of_the_environment_only_what_matters_is_told(serve: Callable[..., Serve]) -> None:
    environment = {
        "OLLAMA_NUM_PARALLEL": "4",
        "LLAMA_ARG_ENDPOINT_METRICS": "1",
        "HOME": "/nowhere",
        "CUDA_VISIBLE_DEVICES": "0",
        "OLLAMA_API_KEY": "secret",
        "LLAMA_ARG_HF_TOKEN": "secret",
        "DATABASE_URL": "secret",
    }
    ollama, here = serve(environment=environment), machine()
    told = here.environment(here.place(ollama.url))
    assert told == {
        "OLLAMA_NUM_PARALLEL": "4",
        "LLAMA_ARG_ENDPOINT_METRICS": "1",
        "HOME": "/nowhere",
        "CUDA_VISIBLE_DEVICES": "0",
        "OLLAMA_API_KEY": "",
        "LLAMA_ARG_HF_TOKEN": "",
    }


def test_a_runner_is_known_before_it_can_have_loaded(serve: Callable[..., Serve]) -> None:
    now = [100.0]
    ollama, here = serve(), Machine(table=Table(clock=lambda: now[0]))
    place = here.place(ollama.url)
    assert here.runners(place) == ()
    pid, _ = map(int, ollama.tell("load").split())
    now[0] += 0.5
    assert [runner.pid for runner in here.runners(place)] == [pid]


def test_models_are_named_by_the_store_that_the_runner_names(serve: Callable[..., Serve]) -> None:
    ollama, here = serve(), machine()
    manifest(ollama.weights.parent.parent, "registry.ollama.ai/library/tiny/latest", "sha256:0a")
    ollama.tell("load")
    assert here.names(here.place(ollama.url), "sha256-0a") == ("tiny:latest",)
    assert here.names(here.place(ollama.url), "sha256-0b") == ()


def test_models_are_named_by_the_environment_before_a_runner_is_there(
    serve: Callable[..., Serve], tmp_path: Path
) -> None:
    manifest(tmp_path / "elsewhere", "registry.ollama.ai/library/tiny/latest", "sha256:0a")
    ollama, here = serve(environment={"OLLAMA_MODELS": str(tmp_path / "elsewhere")}), machine()
    assert here.names(here.place(ollama.url), "sha256-0a") == ("tiny:latest",)


# --- connections -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bound", "dialled"), [("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("::", "127.0.0.1"), ("0.0.0.0", "127.0.0.1")]
)
def test_the_kernel_tells_what_each_connection_is_at(bound: str, dialled: str) -> None:
    with listening(bound) as server, ExitStack() as stack:
        port = server.getsockname()[1]

        def pair() -> tuple[socket.socket, socket.socket]:
            client = stack.enter_context(socket.create_connection((dialled, port)))
            return client, stack.enter_context(server.accept()[0])

        silent, asking, answered, leaving = pair(), pair(), pair(), pair()
        asking[0].sendall(b"12345")
        answered[0].sendall(b"123")
        assert answered[1].recv(10) == b"123"
        answered[1].sendall(b"1234567")
        leaving[0].sendall(b"1")
        leaving[0].shutdown(socket.SHUT_WR)
        assert leaving[1].recv(10) == b"1"
        assert leaving[1].recv(10) == b""  # its end has come: the server's end is no longer established
        here = machine()
        seen = here.connections(here.place(f"http://{'[::1]' if ':' in dialled else dialled}:{port}"))
        by_peer = {connection.peer[1]: connection for connection in seen.established}
        assert by_peer.keys() == {pair[0].getsockname()[1] for pair in (silent, asking, answered)}
        assert all(connection.peer[0] == dialled and connection.own for connection in seen.established)
        told = [by_peer[pair[0].getsockname()[1]] for pair in (silent, asking, answered)]
        assert [(connection.received, connection.sent) for connection in told] == [(0, 0), (5, 0), (3, 7)]
        assert len({connection.cookie for connection in told}) == 3
        assert all(0 <= connection.last_received < 60 for connection in told)
        assert (seen.accept_queue, seen.accept_queue_max) == (0, 7)


def test_connections_that_the_server_does_not_take_are_counted() -> None:
    with listening("127.0.0.1") as server, ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(socket.create_connection(server.getsockname()))
        here = machine()
        assert here.connections(here.place(f"http://127.0.0.1:{server.getsockname()[1]}")).accept_queue == 3


def test_other_peoples_connections_are_not_the_exporters(serve: Callable[..., Serve]) -> None:
    ollama, here = serve(), machine()
    ollama.tell("visit")
    with socket.create_connection(("127.0.0.1", ollama.port)) as ours:
        seen = here.connections(here.place(ollama.url)).established
        assert {connection.own: connection.peer[1] == ours.getsockname()[1] for connection in seen} == {
            False: False,
            True: True,
        }


def test_a_listener_that_has_gone_is_noticed() -> None:
    here = machine()
    with listening("127.0.0.1") as server:
        place = here.place(f"http://127.0.0.1:{server.getsockname()[1]}")
    with pytest.raises(LookupError):
        here.connections(place)


def test_the_kernels_refusal_is_no_empty_list(monkeypatch: pytest.MonkeyPatch) -> None:
    with listening("127.0.0.1") as server:
        place = Place((server.getsockname(),))
        monkeypatch.setattr(sockets.socket, "IPPROTO_TCP", 251)  # a protocol that no kernel tells of
        with pytest.raises(Lacking, match="the kernel does not tell"):
            machine().connections(place)


# --- containers ------------------------------------------------------------------------------------------------------


@pytest.fixture
def container(serve: Callable[..., Serve]) -> Serve:
    started = serve(address="0.0.0.0", container=True)
    if started.refused:
        pytest.skip("NO NETWORK NAMESPACE CAN BE MADE HERE (needs CAP_SYS_ADMIN): servers in containers are not tested")
    return started


def test_a_container_is_entered_by_its_own_address(container: Serve) -> None:
    here = machine()
    place = here.place("http://10.77.0.2:11434")
    assert place.addresses == (("0.0.0.0", 11434),)
    assert (place.pid, place.namespace) == (container.pid, f"/proc/{container.pid}/ns/net")
    container.tell("visit")
    (visitor,) = here.connections(place).established
    assert (visitor.received, visitor.sent, visitor.own) == (18, 0, False)
    pid, port = map(int, container.tell("load").split())
    assert [runner.pid for runner in here.runners(place)] == [pid]
    with here.connect(place, port, 1.0) as connection:
        assert connection.getpeername() == ("127.0.0.1", port)
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), 1.0)


def test_docker_proxy_leads_to_the_container_and_only_there(container: Serve) -> None:
    with listening("127.0.0.1") as proxy, listening("127.0.0.1") as other:
        arguments = docker_proxy("127.0.0.1", proxy.getsockname()[1], "10.77.0.2", 11434)
        table = Table(keep=0.0)
        finder = Finder(table, forwards=lambda: [("docker-proxy", "-proto", "udp"), arguments])
        here = Machine(table=table, finder=finder)
        assert here.place(f"http://127.0.0.1:{proxy.getsockname()[1]}").pid == container.pid
        assert here.place(f"http://127.0.0.1:{other.getsockname()[1]}") == Place((other.getsockname(),))


def test_docker_proxy_to_a_container_out_of_sight_is_a_lack() -> None:
    with listening("127.0.0.1") as proxy:
        port = proxy.getsockname()[1]
        finder = Finder(Table(lambda: ()), forwards=lambda: [docker_proxy("127.0.0.1", port, "10.77.0.9", 11434)])
        with pytest.raises(Lacking) as lacking:
            finder.find(f"http://127.0.0.1:{port}")
        assert lacking.value.lack.remedy == "run the exporter with pid: host"


def test_a_port_that_nobody_holds_and_that_answers_leads_to_the_only_container(container: Serve) -> None:
    """As iptables alone does it, without docker-proxy."""
    own = [process for process in psutil.process_iter() if process.pid == container.pid]
    finder = Finder(Table(lambda: own), answers=lambda address, port: True)
    with listening("127.0.0.1") as gone:
        port = gone.getsockname()[1]
    assert finder.find(f"http://127.0.0.1:{port}").pid == container.pid


def test_a_port_that_answers_and_leads_nowhere_is_a_lack() -> None:
    with listening("127.0.0.1") as gone:
        port = gone.getsockname()[1]
    with pytest.raises(Lacking, match="out of sight"):
        Finder(Table(lambda: ()), answers=lambda address, port: True).find(f"http://127.0.0.1:{port}")


def test_without_a_process_table_only_ports_are_seen(serve: Callable[..., Serve]) -> None:
    ollama = serve()
    _, port = map(int, ollama.tell("load").split())
    blind = Machine(table=Table(lambda: ()))
    place = Place((("127.0.0.1", ollama.port),))
    assert port in {runner.port for runner in blind.runners(place)}
    assert {(runner.pid, runner.arguments) for runner in blind.runners(place)} == {(None, ())}
    with pytest.raises(Lacking, match="out of sight"):
        blind.environment(place)
    with listening("127.0.0.1") as own:
        assert blind.runners(Place((own.getsockname(),))) == ()


def test_no_thread_is_left_in_a_foreign_network(container: Serve) -> None:
    ours = os.readlink("/proc/thread-self/ns/net")
    theirs = sockets.inside(f"/proc/{container.pid}/ns/net", lambda: os.readlink("/proc/thread-self/ns/net"))
    assert theirs != ours
    # Python's join() returns a moment before the kernel has let the thread go.
    until = time.monotonic() + 10.0
    while (left := _networks_of_threads()) != {ours} and time.monotonic() < until:
        time.sleep(0.01)
    assert left == {ours}


def _networks_of_threads() -> set[str]:
    found = set()
    for path in Path("/proc/self/task").glob("*/ns/net"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found.add(os.readlink(path))
    return found


def test_two_servers_whose_owner_is_hidden_are_not_mixed_up(tmp_path: Path) -> None:
    """Without the right to see who holds a socket, the user and the network must do, and two are one too many."""
    with listening("127.0.0.1") as server:
        (listener,) = sockets.listeners(server.getsockname()[1])
        line = f"0: 0100007F:{listener.port:04X} 0:0 0A 0:0 0:0 0 {listener.uid} 0 {listener.inode} 1"
        for pid in (7, 8):
            (tmp_path / str(pid) / "net").mkdir(parents=True)
            (tmp_path / str(pid) / "net" / "tcp").write_text(f"  sl\n   {line}\n")
        table = FixedTable(process(7, listener.uid), process(8, listener.uid))
        url = f"http://127.0.0.1:{listener.port}"
        with pytest.raises(Lacking, match="hidden"):
            Finder(table, tmp_path).find(url)
        table.processes = (process(7, listener.uid), process(8, listener.uid + 1))
        assert Finder(table, tmp_path).find(url).pid == 7


# --- text of the kernel ----------------------------------------------------------------------------------------------

FIB_TRIE = """Main:
  +-- 0.0.0.0/0 3 0 5
     +-- 172.18.0.0/16 2 0 2
        |-- 172.18.0.0
           /16 link UNICAST
        |-- 172.18.0.3
           /32 host LOCAL
     |-- 172.18.255.255
        /32 link BROADCAST
Local:
        |-- 127.0.0.1
           /32 host LOCAL
"""
TCP6 = """  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when
   0: 00000000000000000000000000000000:2CAA 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1
   1: 0000000000000000FFFF00000100007F:1F90 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4712 1
   2: 0000000000000000FFFF00000100007F:2CAA 0000000000000000FFFF00000100007F:9C40 01 00000000:00000000 00:00000000 00000000     0        0 4713 1
"""  # noqa: E501


def test_the_addresses_of_another_network_are_read_without_entering_it() -> None:
    assert parse_fib_trie(FIB_TRIE) == {"172.18.0.3", "127.0.0.1"}
    assert parse_if_inet6("fd000000000000000000000000000002 04 40 00 82     eth0\n") == {"fd00::2"}


@pytest.mark.skipif(sys.byteorder != "little", reason="the recorded file is of a little-endian machine")
def test_listening_sockets_of_another_network_are_read_without_entering_it() -> None:
    assert list(parse_listening(TCP6)) == [
        Listener("::", 11434, 4711, 0, 0, 0),
        Listener("127.0.0.1", 8080, 4712, 1000, 0, 0),
    ]


@pytest.mark.parametrize(
    ("arguments", "engine", "port"),
    [
        (("/usr/lib/ollama/llama-server", "--model", "/m", "--port", "42759"), "llama", 42759),
        (("/usr/bin/ollama", "runner", "--mlx-engine", "--model", "x", "--port", "4000"), "mlx", 4000),
        (("/usr/bin/ollama", "runner", "--ollama-engine", "--model", "/m", "--port=4001"), "old", 4001),
        (("/tmp/runners/cpu/ollama_llama_server", "--model", "/m"), "old", None),
    ],
)
def test_a_runner_is_told_by_its_command_line(arguments: tuple[str, ...], engine: str, port: int | None) -> None:
    told = processes.runner(Process(9, "runner", 1, 5.0, 0, arguments))
    assert told == RunnerProcess(port, 9, arguments, 5.0, engine)


def test_who_was_killed_for_memory_is_counted(tmp_path: Path) -> None:
    assert Machine(tmp_path).oom_kills() is None
    for text, count in (
        ("pgfault 12\noom_kill 30\nnuma_hit 7\n", 30),
        ("pgfault 12\n", None),
        ("a\noom_kill x\n", None),
    ):
        (tmp_path / "vmstat").write_text(text)
        assert Machine(tmp_path).oom_kills() == count


# --- blobs -----------------------------------------------------------------------------------------------------------


def test_a_blob_has_the_names_of_all_its_manifests(tmp_path: Path) -> None:
    manifest(tmp_path, "registry.ollama.ai/library/smol/135m", "sha256:0a")
    manifest(tmp_path, "registry.ollama.ai/someone/smol/latest", "sha256:0a")
    manifest(tmp_path, "hf.co/someone/smol-gguf/Q4_K_M", "sha256:0a")
    manifest(tmp_path, "registry.ollama.ai/library/other/latest", "sha256:0b")
    names = ("hf.co/someone/smol-gguf:Q4_K_M", "smol:135m", "someone/smol:latest")
    assert Blobs().names((tmp_path,), "sha256-0a") == names


def test_only_weights_count_and_broken_manifests_do_not_harm(tmp_path: Path) -> None:
    manifest(tmp_path, "registry.ollama.ai/library/a/latest", "sha256:0a", "application/vnd.ollama.image.license")
    broken = {"b": b"{", "c": b"[]", "d": b'{"layers":[{}]}', "e": b"\xff"}
    for name, content in broken.items():
        path = tmp_path / "manifests" / "registry.ollama.ai" / "library" / name / "latest"
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
    assert Blobs().names((tmp_path,), "sha256-0a") == ()
    assert Blobs().names((tmp_path / "nowhere",), "sha256-0a") == ()


def test_a_store_is_looked_at_again_after_a_while(tmp_path: Path) -> None:
    now = [0.0]
    blobs = Blobs(lambda: now[0], keep=30.0)
    assert blobs.names((tmp_path,), "sha256-0a") == ()
    manifest(tmp_path, "registry.ollama.ai/library/a/latest", "sha256:0a")
    now[0] = 29.0
    assert blobs.names((tmp_path,), "sha256-0a") == ()
    now[0] = 30.0
    assert blobs.names((tmp_path,), "sha256-0a") == ("a:latest",)
    manifest(tmp_path, "registry.ollama.ai/library/a/latest", "sha256:0b")
    os.utime(tmp_path / "manifests/registry.ollama.ai/library/a/latest", (1.0, 1.0))
    now[0] = 60.0
    assert blobs.names((tmp_path,), "sha256-0a") == ()
    assert blobs.names((tmp_path,), "sha256-0b") == ("a:latest",)


def test_the_first_folder_that_can_be_read_is_the_store(tmp_path: Path) -> None:
    manifest(tmp_path / "ours", "registry.ollama.ai/library/a/latest", "sha256:0a")
    store = (tmp_path / "theirs", tmp_path / "ours")
    assert Blobs().names(store, "sha256-0a") == ("a:latest",)
    manifest(tmp_path / "theirs", "registry.ollama.ai/library/b/latest", "sha256:0a")
    assert Blobs().names(store, "sha256-0a") == ("b:latest",)


def test_a_disk_that_hangs_is_waited_for_once_and_what_was_known_stays(tmp_path: Path) -> None:
    now = [0.0]
    blobs, store = Blobs(lambda: now[0], keep=30.0, patience=0.05), (tmp_path,)
    manifest(tmp_path, "registry.ollama.ai/library/a/latest", "sha256:0a")
    assert blobs.names(store, "sha256-0a") == ("a:latest",)
    hanging = tmp_path / "manifests/registry.ollama.ai/library/b/latest"
    hanging.parent.mkdir()
    os.mkfifo(hanging)  # to open it waits for a writer
    now[0] = 30.0
    before = alive()
    for _ in range(3):
        assert blobs.names(store, "sha256-0a") == ("a:latest",)
        now[0] += 30.0
    assert not alive() - before, "the one that had looked before hangs"
    ignorant = Blobs(patience=0.05)
    assert ignorant.names((tmp_path / "manifests" / "..",), "sha256-0a") == ()  # nothing was known
    assert len(alive() - before) == 1
    while blobs._looks or ignorant._looks:
        os.close(os.open(hanging, os.O_RDWR))  # a writer, who comes and goes
    assert blobs.names(store, "sha256-0a") == ("a:latest",)
    assert len(alive() - before) == 1


def test_a_thread_that_dies_as_it_is_born_is_not_taken_for_a_disk_that_hangs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    blobs = Blobs(patience=0.05)
    manifest(tmp_path, "registry.ollama.ai/library/a/latest", "sha256:0a")
    with monkeypatch.context() as deadly:
        deadly.setattr(_thread, "start_new_thread", lambda *_: 1)
        assert blobs.names((tmp_path,), "sha256-0a") == ()
    assert blobs.names((tmp_path,), "sha256-0a") == ("a:latest",)


# --- the stage -------------------------------------------------------------------------------------------------------


@contextmanager
def listening(address: str, v6only: bool = False) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    if family == socket.AF_INET6 and not socket.has_ipv6:
        pytest.skip("NO IPV6 HERE")
    with socket.socket(family) as server:
        if family == socket.AF_INET6:
            server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, v6only)
        server.bind((address, 0))
        server.listen(7)
        yield server


def docker_proxy(host: str, port: int, container: str, container_port: int) -> tuple[str, ...]:
    """Its command line, as dockerd writes it."""
    return (
        "/usr/bin/docker-proxy", "-proto", "tcp", "-host-ip", host, "-host-port", str(port),
        "-container-ip", container, "-container-port", str(container_port), "-use-listen-fd",
    )  # fmt: skip


def manifest(store: Path, name: str, digest: str, kind: str = "application/vnd.ollama.image.model") -> None:
    path = store / "manifests" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"schemaVersion": 2, "layers": [{"mediaType": kind, "digest": digest, "size": 1}]}))


def process(pid: int, uid: int) -> Process:
    return Process(pid, "serve", 1, 0.0, uid, ("ollama", "serve"))


class FixedTable(Table):
    def __init__(self, *processes: Process) -> None:
        super().__init__()
        self.processes = processes

    def ollama(self) -> tuple[Process, ...]:
        return self.processes
