"""What the operator writes, and what is said to mistakes. Texts are exact: they are what the operator reads."""

from __future__ import annotations

import copy
import logging
import math
import re
import string
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.config import CONFIG_FILE, SERVERS, Config, ConfigError, config_markdown, load, plan
from exporter.config.addresses import Listen, ollama_host, parse_listen, parse_url
from exporter.config.kinds import Wrong, duration_text, rows, seconds
from exporter.model import (
    ApiSettings,
    CanarySettings,
    DockerSettings,
    Endpoint,
    GpuSettings,
    HostSettings,
    LogSettings,
    NativeSettings,
    RunnerSettings,
    Secret,
    SocketsSettings,
    Watch,
)
from tests.wire import Authority, make_authority

T = TypeVar("T")
ROOT = Path(__file__).parent.parent
SECRET = "hunter2-is-not-a-word"  # what must be found nowhere


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], str]:
    """Write exporter.yml into an empty folder; its path."""

    def write(text: str) -> str:
        path = tmp_path / "exporter.yml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


def mistakes(
    path: str | None, env: Mapping[str, str] | None = None, flags: Mapping[str, str] | None = None
) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(path, env or {}, flags or {})
    return list(caught.value.mistakes)


INSIDE = ("native", "sockets", "runner", "docker", "logs", "audit")
"""Sources of a server that see what not every server shows."""


# --- where servers come from -----------------------------------------------------------------------------------------


def test_without_any_configuration_the_local_server_and_the_host_are_watched() -> None:
    config = load(None, {})
    assert [(server.name, server.url) for server in config.servers] == [("localhost:11434", "http://localhost:11434")]
    assert config.web.listen_address == Listen("", 8082)
    assert [(watch.server, watch.source) for watch in plan(config)] == [
        ("localhost:11434", "api"),
        ("localhost:11434", "canary"),
        *(("localhost:11434", source) for source in INSIDE),
        ("", "host"),
        ("", "gpu"),
        ("", "exporter"),
    ]


@pytest.mark.parametrize(
    ("value", "url"),
    [
        ("1.2.3.4", "http://1.2.3.4:11434"),
        (":1234", "http://localhost:1234"),
        ("1.2.3.4:1234", "http://1.2.3.4:1234"),
        ("example.com", "http://example.com:11434"),
        ("example.com:1234", "http://example.com:1234"),
        (":66000", "http://localhost:11434"),
        (":-1", "http://localhost:11434"),
        ("h:x", "http://h:11434"),
        ("h:", "http://h:11434"),
        ("[::1]", "http://[::1]:11434"),
        ("::1", "http://[::1]:11434"),
        ("[::1]:1337", "http://[::1]:1337"),
        ("0:0:0:0:0:0:0:1", "http://[::1]:11434"),
        ("[::]", "http://[::1]:11434"),
        ("::", "http://[::1]:11434"),
        ("[::]:1234", "http://[::1]:1234"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("0.0.0.0:1234", "http://127.0.0.1:1234"),
        ("::ffff:0.0.0.0", "http://127.0.0.1:11434"),
        (" 1.2.3.4 ", "http://1.2.3.4:11434"),
        ('"1.2.3.4"', "http://1.2.3.4:11434"),
        ('" 1.2.3.4 "', "http://1.2.3.4:11434"),
        ("'1.2.3.4'", "http://1.2.3.4:11434"),
        ("http://1.2.3.4", "http://1.2.3.4"),
        ("http://1.2.3.4:4321", "http://1.2.3.4:4321"),
        ("https://1.2.3.4", "https://1.2.3.4"),
        ("https://1.2.3.4:99999", "https://1.2.3.4"),
        ("https://example.com/ollama/", "https://example.com/ollama"),
        ("example.com/ollama", "http://example.com:11434/ollama"),
        ("ollama.com", "https://ollama.com"),
    ],
)
def test_ollama_host_is_read_as_ollamas_client_reads_it(value: str, url: str) -> None:
    assert load(None, {"OLLAMA_HOST": value}).servers[0].url == url


@pytest.mark.parametrize("value", ["", " ", '""', "' '"])
def test_an_empty_ollama_host_is_none(value: str) -> None:
    assert load(None, {"OLLAMA_HOST": value}).servers[0].url == "http://localhost:11434"


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ("ftp://a", "must be a URL such as http://gpu1:11434, got 'ftp://a:11434/'"),
        (":0", "must have a port from 1 to 65535, got 'http://localhost:0/'"),
        (f"http://u:{SECRET}@a", None),
    ],
)
def test_an_impossible_ollama_host_is_a_mistake(value: str, what: str | None) -> None:
    userinfo = "must hold no user or password; use `bearer_token_file`, `basic_auth` or `headers` of the server instead"
    assert mistakes(None, {"OLLAMA_HOST": value}) == [f"OLLAMA_HOST: {what or userinfo}"]


def test_ollama_host_does_not_matter_where_servers_are_named() -> None:
    config = load(None, {SERVERS: "http://a:1", "OLLAMA_HOST": "ftp://nonsense"})
    assert [server.url for server in config.servers] == ["http://a:1"]


def test_a_fleet_in_the_environment() -> None:
    config = load(None, {SERVERS: "primary=http://a:11434, http://B:11434/ ,t=https://[::1]/x=y,https://c,"})
    assert [(server.name, server.url) for server in config.servers] == [
        ("primary", "http://a:11434"),
        ("b:11434", "http://b:11434"),
        ("t", "https://[::1]/x=y"),
        ("c:443", "https://c"),
    ]


def test_the_environments_fleet_replaces_the_files_and_keeps_its_other_sections(write: Callable[[str], str]) -> None:
    path = write("servers: [{url: 'http://file:1', timeout: 9s}]\npoll: {interval: 30s}\ncanary: {mode: off}\n")
    config = load(path, {SERVERS: "env=http://env:1"})
    assert [(server.name, server.poll_interval, server.timeout) for server in config.servers] == [("env", 30.0, 5.0)]
    assert config.origin == SERVERS
    assert load(path, {}).origin == path


# --- precedence ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flag", "variable", "text", "read"),
    [
        (
            "web.listen-address",
            "OLLAMA_EXPORTER_WEB_LISTEN_ADDRESS",
            "web: {{listen_address: '{}'}}",
            "web.listen_address",
        ),
        ("web.config.file", "OLLAMA_EXPORTER_WEB_CONFIG_FILE", "web: {{config_file: {}}}", "web.config_file"),
        ("log.level", "OLLAMA_EXPORTER_LOG_LEVEL", "log: {{level: {}}}", "log.level"),
        ("log.format", "OLLAMA_EXPORTER_LOG_FORMAT", "log: {{format: {}}}", "log.format"),
    ],
)
def test_a_flag_beats_its_variable_beats_the_file_beats_the_default(
    write: Callable[[str], str], flag: str, variable: str, text: str, read: str
) -> None:
    default, one, other = {
        "web.listen-address": (":8082", ":1", ":2"),
        "web.config.file": ("None", "/one.yml", "/other.yml"),
        "log.level": ("info", "debug", "error"),
        "log.format": ("text", "json", "text"),
    }[flag]

    def value(config: Config) -> str:
        section, key = read.split(".")
        return str(getattr(getattr(config, section), key))

    path = write(text.format(one))
    assert value(load(None, {})) == default
    assert value(load(path, {})) == one
    assert value(load(path, {variable: other})) == other
    assert value(load(path, {variable: ""})) == one
    assert value(load(path, {variable: other}, {flag: one})) == one


def test_the_file_is_named_by_flag_or_variable(write: Callable[[str], str]) -> None:
    path = write("log: {level: debug}")
    assert load(None, {CONFIG_FILE: path}).log.level == "debug"
    assert load(path, {CONFIG_FILE: "/nowhere/at/all.yml"}).log.level == "debug"
    assert load(None, {CONFIG_FILE: ""}).log.level == "info"


def test_what_is_overridden_must_be_right_all_the_same(write: Callable[[str], str]) -> None:
    path = write("log: {level: loud}\nservers: [{url: ''}]\n")
    env = {SERVERS: "http://a:1", "OLLAMA_EXPORTER_LOG_LEVEL": "louder"}
    assert mistakes(path, env, {"log.level": "loudest"}) == [
        "--log.level: must be one of debug, info, warning, error; got 'loudest'",
        "OLLAMA_EXPORTER_LOG_LEVEL: must be one of debug, info, warning, error; got 'louder'",
        "log.level: must be one of debug, info, warning, error; got 'loud'",
        "servers[0].url: must be a URL that starts with http:// or https://, got ''",
    ]


# --- everything that can be said -------------------------------------------------------------------------------------

EVERYTHING = """
servers:
  - name: a
    url: https://A.example:443/gate/
    timeout: 4s
    connect_timeout: 500ms
    host_header: ollama.internal
    headers: {X-Api-Key: "${API_KEY}", X-Team: observability}
    bearer_token_file: token
    tls: {ca_file: ca.pem, cert_file: good.pem, key_file: good.key}
    proxy_url: http://${PROXY_USER}@proxy:3128
    poll_interval: 1m
    inventory_interval: 1h30m
    canary: {mode: off, every: 90, timeout: 1m, models: {tinyllama: loaded, "hf.co/x/y:Q4": off}}
    container: ollama-a
  - name: b
    url: http://b:1
    logs: {file: /var/log/ollama.log}
    basic_auth: {username: me, password_file: ./password}
poll: {interval: 5s, inventory_interval: 60}
canary: {every: 30s, models: {tinyllama: always}}
host: {enabled: true, name: here, models_dir: /models}
native: {every: 20s}
sockets: {mode: on, every: 1s}
runner: {every: 2s}
logs: {every: 3s}
docker: {every: 1m, address: "tcp://proxy:2375"}
gpu: {every: 4s}
limits: {models: 7, histogram_models: false, inventory: false}
web: {listen_address: "[::1]:9000"}
log: {level: warning, format: json}
"""


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def everything(write: Callable[[str], str], tmp_path: Path, authority: Authority) -> str:
    for name in ("ca.pem", "good.pem", "good.key"):
        (tmp_path / name).write_bytes((authority.folder / name).read_bytes())
    (tmp_path / "token").write_text(f"token-{SECRET}\r\n")
    (tmp_path / "password").write_text(f"password {SECRET} \n")
    return write(EVERYTHING)


ENV = {"API_KEY": f"key-{SECRET}", "PROXY_USER": f"user:{SECRET}"}


def test_every_setting_arrives_where_it_works(everything: str) -> None:
    config = load(everything, ENV)
    first, second, (host, gpu, own) = (plan(config)[start:end] for start, end in ((0, 8), (8, 16), (16, 19)))
    api, canary, native, sockets, runner, docker, logs, _ = first
    other, other_canary, _, _, _, _, other_logs, _ = second
    folder = Path(everything).parent
    at = api.settings.endpoint if isinstance(api.settings, ApiSettings) else None
    assert at is not None
    assert (at.ca, at.certificate, at.key) == tuple(
        fields_of(config.servers[0].tls)[key] for key in ("ca_file", "cert_file", "key_file")
    )
    assert at.ca is not None
    assert at.ca.path == str(folder / "ca.pem")
    assert at == Endpoint(
        url="https://a.example/gate",
        timeout=4.0,
        connect_timeout=0.5,
        host="ollama.internal",
        headers=(("X-Api-Key", Secret(f"key-{SECRET}")), ("X-Team", Secret("observability"))),
        bearer=Secret(f"token-{SECRET}"),
        ca=at.ca,
        certificate=at.certificate,
        key=at.key,
        proxy=Secret(f"http://user:{SECRET}@proxy:3128"),
    )
    assert api == Watch("a", "api", 60.0, 13.0, ApiSettings(at, 5400.0, models_max=7, inventory=False))
    modes = (("hf.co/x/y:Q4", "off"), ("tinyllama:latest", "loaded"))
    assert canary == Watch("a", "canary", 60.0, 21.0, CanarySettings(at, 90.0, 60.0, "off", modes, 7, False))
    assert native == Watch("a", "native", 20.0, 9.0, NativeSettings(at, 7), optional=True)
    plain = Endpoint("http://b:1", basic=("me", Secret(f"password {SECRET} ")))
    assert other == Watch("b", "api", 5.0, 16.0, ApiSettings(plain, 60.0, models_max=7, inventory=False))
    common = CanarySettings(plain, 30.0, 600.0, "loaded", (("tinyllama:latest", "always"),), 7, False)
    assert other_canary == Watch("b", "canary", 5.0, 26.0, common)
    url = "https://a.example/gate"
    assert sockets == Watch("a", "sockets", 1.0, 10.0, SocketsSettings(url))
    assert runner == Watch("a", "runner", 2.0, 10.0, RunnerSettings(url, 7), optional=True)
    assert docker == Watch(
        "a", "docker", 60.0, 10.0, DockerSettings(url, "ollama-a", "tcp://proxy:2375"), optional=True
    )
    assert logs == Watch(
        "a", "logs", 3.0, 10.0, LogSettings(url, "", "", "ollama-a", "tcp://proxy:2375", 7, False), optional=True
    )
    assert other_logs.settings == LogSettings("http://b:1", "/var/log/ollama.log", "", "", "tcp://proxy:2375", 7, False)
    assert host == Watch("", "host", 15.0, 10.0, HostSettings("here", "/models"))
    assert gpu == Watch("", "gpu", 4.0, 10.0, GpuSettings("here", (("a", url), ("b", "http://b:1")), 7), optional=True)
    assert own == Watch("", "exporter", 5.0, 5.0)
    assert config.web.listen_address == Listen("::1", 9000)
    assert str(config.web.listen_address) == "[::1]:9000"
    assert (config.log.level, config.log.format) == ("warning", "json")


def fields_of(value: Any) -> dict[str, Any]:
    return {each.name: getattr(value, each.name) for each in fields(value)}


def test_within_covers_all_sequential_calls_of_the_most_patient_server(write: Callable[[str], str]) -> None:
    watches = plan(load(write("servers: [{url: 'http://a', timeout: 1m}]"), {}))
    assert [watch.within for watch in watches[:2]] == [181.0, 301.0]


# --- mistakes --------------------------------------------------------------------------------------------------------

A = "servers: [{name: a, url: 'http://a:1', %s}]"

MISTAKES: dict[str, tuple[str, list[str]]] = {
    "negative duration": (A % "canary: {every: -5s}", ["servers[0].canary.every: must be > 0, got -5s"]),
    "zero": ("poll: {interval: 0}", ["poll.interval: must be > 0, got 0"]),
    "negative number": ("poll: {interval: -1.5}", ["poll.interval: must be > 0, got -1.5"]),
    "too short": ("poll: {interval: 10ms}", ["poll.interval: must be at least 1s, got 10ms"]),
    "too long": ("poll: {interval: 400d}", ["poll.interval: must be at most 1h, got 400d"]),
    "a boolean for a number": (
        "poll: {interval: true}\nlimits: {models: true}",
        [
            "limits.models: must be a whole number from 1 to 10000, got true",
            "poll.interval: must be a duration such as 15s, 500ms or 1h30m, or a number of seconds; got true",
        ],
    ),
    "nan": (
        "poll: {interval: .nan, inventory_interval: .inf}",
        [
            "poll.interval: must be a duration such as 15s, 500ms or 1h30m, or a number of seconds; got nan",
            "poll.inventory_interval: must be a duration such as 15s, 500ms or 1h30m, or a number of seconds; got inf",
        ],
    ),
    "no duration": (
        "poll: {interval: 5 parrots}",
        ["poll.interval: must be a duration such as 15s, 500ms or 1h30m, or a number of seconds; got '5 parrots'"],
    ),
    "huge number": (
        "limits: {models: 1" + "0" * 99 + "}",
        ["limits.models: must be a whole number from 1 to 10000, got a huge number"],
    ),
    "a fraction for a whole number": (
        "limits: {models: 2.5}",
        ["limits.models: must be a whole number from 1 to 10000, got 2.5"],
    ),
    "unknown keys": (
        "sevrers: []\nhost: {nmae: x}\n" + A % "tiemout: 5s, canary: {evry: 5s}, 7: x",
        [
            "host.nmae: unknown key, did you mean name?",
            "servers[0].7: unknown key; known are basic_auth, bearer_token_file, canary, connect_timeout, container,"
            " headers, host_header, inventory_interval, logs, name, poll_interval, proxy_url, timeout, tls, url",
            "servers[0].canary.evry: unknown key, did you mean every?",
            "servers[0].tiemout: unknown key, did you mean timeout?",
            "sevrers: unknown key, did you mean servers?",
        ],
    ),
    "wrong shapes": (
        "poll: 15s\nlog: [text]\nservers: {a: b}\nhost: true\nweb: 8082",
        [
            "host: must be a mapping (key: value), got a boolean",
            "log: must be a mapping (key: value), got a list",
            "poll: must be a mapping (key: value), got text",
            "servers: must be a list (- ...), got a mapping",
            "web: must be a mapping (key: value), got a number",
        ],
    ),
    "servers that are none": (
        "servers: [http://a, null, {}]",
        [
            "servers[0]: must be a mapping (key: value), got text",
            "servers[1].url: is missing",
            "servers[2].url: is missing",
        ],
    ),
    "no server": ("servers: []", ["servers: names no server; leave the key out to watch OLLAMA_HOST"]),
    "no server, and a /probe that may ask nobody": (
        "servers: []\nprobe: {enabled: false, allow: [gpu1]}",
        ["servers: names no server; leave the key out to watch OLLAMA_HOST"],
    ),
    "servers without any": ("servers:", ["servers: must be a list (- ...), got nothing"]),
    "a value left empty": (
        A % "timeout: , name2: x",
        [
            "servers[0].name2: unknown key, did you mean name?",
            "servers[0].timeout: must be a duration such as 15s, 500ms or 1h30m, or a number of seconds; got nothing",
        ],
    ),
    "names": (
        "servers: [{name: a b, url: 'http://a'}, {name: 7, url: 'http://b'}, {name: '', url: 'http://c'}]",
        [
            "servers[0].name: must be 1 to 64 letters, digits, `.`, `_`, `:` or `-` (it is a label value), got 'a b'",
            "servers[1].name: must be 1 to 64 letters, digits, `.`, `_`, `:` or `-` (it is a label value), got 7"
            " (put it in quotes)",
            "servers[2].name: must be 1 to 64 letters, digits, `.`, `_`, `:` or `-` (it is a label value), got ''",
        ],
    ),
    "a host too long for a name": (
        f"servers: [{{url: 'http://{'x' * 60}:1234'}}]",
        [f"servers[0].name: is missing, and '{'x' * 57}...' is too long to stand for it"],
    ),
    "twins by name": (
        "servers: [{name: a, url: 'http://a'}, {name: a, url: 'http://b'}]",
        ["servers[1].name: servers[0] is called 'a', too"],
    ),
    "twins by default name": (
        "servers: [{url: 'http://a/1'}, {url: 'http://a/2'}]",
        ["servers[1].name: servers[0] is called 'a:80', too by its host and port: give it a name"],
    ),
    "twins by url": (
        "servers: [{name: a, url: 'http://a'}, {name: b, url: 'HTTP://A:80/'}, {name: c, url: 'http://a',"
        " host_header: c}]",
        ["servers[1].url: is that of servers[0], too: the server would be probed twice"],
    ),
    "urls": (
        "servers: [{name: a, url: 'a:11434'}, {name: b, url: 'ftp://b'}, {name: c, url: 'http://c:0'}, {name: d, url:"
        " 'http://d:99999'}, {name: e, url: 'http://[::g]'}, {name: f, url: 'http://[1:2]'}, {name: g, url: 'http://é'},"
        " {name: h, url: 'http://h?x=1'}, {name: i, url: 'http://i j'}, {name: j, url: 5}, {name: k, url: 'http://'}]",
        [
            "servers[0].url: must be a URL that starts with http:// or https://, got 'a:11434'",
            "servers[1].url: must be a URL such as http://gpu1:11434, got 'ftp://b'",
            "servers[2].url: must have a port from 1 to 65535, got 'http://c:0'",
            "servers[3].url: must have a port from 1 to 65535, got 'http://d:99999'",
            "servers[4].url: must be a URL such as http://gpu1:11434, got 'http://[::g]'",
            "servers[5].url: has an impossible IPv6 address: 'http://[1:2]'",
            "servers[6].url: must be a URL such as http://gpu1:11434, got 'http://é'",
            "servers[7].url: must be a base URL, without `?` and `#`",
            "servers[8].url: must be a URL such as http://gpu1:11434, got 'http://i j'",
            "servers[9].url: must be a URL such as http://gpu1:11434, got 5",
            "servers[10].url: must be a URL such as http://gpu1:11434, got 'http://'",
        ],
    ),
    "userinfo in a url": (
        f"servers: [{{url: 'http://me:{SECRET}@a'}}, {{url: 'http://me:{SECRET}/#@a'}}]",
        [
            "servers[0].url: must hold no user or password; use `bearer_token_file`, `basic_auth` or `headers` of the"
            " server instead",
            "servers[1].url: must hold no user or password; use `bearer_token_file`, `basic_auth` or `headers` of the"
            " server instead",
        ],
    ),
    "connecting longer than waiting": (
        A % "timeout: 1s",
        ["servers[0].connect_timeout: must be at most timeout (1 s), got 2 s"],
    ),
    "always for all": (
        "canary: {mode: always}",
        [
            "canary.mode: must be off or loaded: always is for models named in `models` only, because it loads them and"
            " keeps them in memory for good"
        ],
    ),
    "modes": (
        "canary: {mode: on, models: {a: sometimes, b: off, 'c d': off, 5: off}}",
        [
            "canary.mode: must be one of off, loaded, always; got true",
            "canary.models.5: the key must be text: put it in quotes",
            "canary.models.a: must be one of off, loaded, always; got 'sometimes'",
            "canary.models.c d: must be the name of a model such as llama3.2:3b, got 'c d'",
        ],
    ),
    "one model twice": (
        "canary: {models: {a: off, 'a:latest': loaded}}",
        ["canary.models.a:latest: a:latest is given twice"],
    ),
    "a model in the cloud": (
        "canary: {models: {'gpt-oss:120b-cloud': loaded, 'x:cloud': always}}",
        [
            "canary.models.gpt-oss:120b-cloud: is a model in the cloud; the canary never runs on these",
            "canary.models.x:cloud: is a model in the cloud; the canary never runs on these",
        ],
    ),
    "listen addresses": (
        "web: {listen_address: 8082}",
        ["web.listen_address: must be an address such as :8082, 127.0.0.1:8082 or [::1]:8082, got 8082"],
    ),
    "a relative store": ("host: {models_dir: models}", ["host.models_dir: must be an absolute path, got 'models'"]),
    "headers": (
        A % "headers: {Host: x, Origin: x, 'a b': x, X-A: 1, X-B: \"a\\nb\", X-D: '${NOT_SET}', X-E: '${a'}",
        [
            "servers[0].headers.Host: use `host_header`",
            "servers[0].headers.Origin: is set by the exporter or must not be sent to Ollama",
            "servers[0].headers.X-A: must be text, got a number",
            "servers[0].headers.X-B: must be printable ASCII without spaces at the ends (the value is not shown)",
            "servers[0].headers.X-D: environment variable NOT_SET is not set or empty",
            "servers[0].headers.X-E: has a `${` that is not of the form ${NAME}",
            "servers[0].headers.a b: must be the name of an HTTP header",
        ],
    ),
    "one header twice": (A % "headers: {X-C: c, x-c: d}", ["servers[0].headers.x-c: is given twice"]),
    "secrets in clear": (
        A % f"headers: {{Authorization: Bearer {SECRET}, X-Api-Key: {SECRET}}}, bearer_token: {SECRET}, proxy_url: "
        f"'http://me:{SECRET}@proxy:1', basic_auth: {{username: me, password: {SECRET}}}",
        [
            "servers[0].basic_auth.password: unknown key, did you mean password_file?",
            "servers[0].basic_auth.password_file: is missing",
            "servers[0].bearer_token: unknown key, did you mean bearer_token_file?",
            "servers[0].headers.Authorization: must take its value from the environment: write ${NAME} in place of the"
            " secret",
            "servers[0].headers.X-Api-Key: must take its value from the environment: write ${NAME} in place of the"
            " secret",
            "servers[0].proxy_url: must hold no password in clear: write http://user:${PASSWORD}@proxy:3128",
        ],
    ),
    "a secret in place of its file": (
        A % f"bearer_token_file: {SECRET}, tls: {{ca_file: {SECRET}/+a=, key_file: /{SECRET}}}",
        [
            "servers[0].bearer_token_file: must be the path of a file, and there is none of this name (not shown: it"
            " may be a secret)",
            "servers[0].tls.ca_file: must be the path of a file, and there is none of this name (not shown: it may be"
            " a secret)",
            "servers[0].tls.key_file: must be the path of a file, and there is none of this name (not shown: it may be"
            " a secret)",
        ],
    ),
    "variables where none are replaced": (
        A % "bearer_token_file: '${TOKEN}', host_header: '${HOST}'",
        [
            "servers[0].bearer_token_file: ${...} is replaced only in `headers` and `proxy_url`",
            "servers[0].host_header: ${...} is replaced only in `headers` and `proxy_url`",
        ],
    ),
    "tls without https": (
        A % "tls: {insecure_skip_verify: true}",
        ["servers[0].tls: has no effect: the URL is http://"],
    ),
    "a switch that is none": (
        "host: {enabled: 1}\n" + A % "tls: {insecure_skip_verify: 'no'}",
        [
            "host.enabled: must be true or false, got 1",
            "servers[0].tls.insecure_skip_verify: must be true or false, got 'no'",
        ],
    ),
    "a proxy that is none": (
        A % "proxy_url: socks5://proxy:1",
        ["servers[0].proxy_url: must be a URL such as http://proxy:3128"],
    ),
    "line breaks in keys": (
        '"a\\nb: c": 1',
        [
            "a?b: c: unknown key; known are audit, canary, discovery, docker, gpu, host, limits, log, logs, native,"
            " poll, probe, runner, servers, sockets, web"
        ],
    ),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_every_mistake_is_told_with_its_path(write: Callable[[str], str], case: str) -> None:
    text, expected = MISTAKES[case]
    assert mistakes(write(text)) == expected
    assert SECRET not in "".join(expected)


FILES = {
    "not there": (None, "{folder}/secret is not there"),
    "empty": (b"", "{folder}/secret is empty"),
    "only line breaks": (b"\n\r\n", "{folder}/secret is empty"),
    "two lines": (b"one\ntwo\n", "{folder}/secret holds more than one line, or control characters"),
    "not text": (b"\xff\xfe", "{folder}/secret is not UTF-8 text"),
    "with spaces": (b"one two", "{folder}/secret holds no token: it has spaces or non-ASCII characters"),
    "huge": (b"x" * (1024 * 1024 + 1), "{folder}/secret is larger than 1 MiB"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_token_file_that_holds_no_token_is_a_mistake_with_its_path(
    write: Callable[[str], str], tmp_path: Path, case: str
) -> None:
    content, what = FILES[case]
    if content is not None:
        (tmp_path / "secret").write_bytes(content)
    path = write(A % f"bearer_token_file: {tmp_path}/secret")
    assert mistakes(path) == [f"servers[0].bearer_token_file: {what.format(folder=tmp_path)}"]


def test_a_folder_in_place_of_a_file_is_a_mistake(write: Callable[[str], str], tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    expected = f"servers[0].bearer_token_file: {tmp_path}/folder is not a file"
    assert mistakes(write(A % "bearer_token_file: folder")) == [expected]


def test_ways_to_log_in_exclude_each_other(write: Callable[[str], str], tmp_path: Path) -> None:
    (tmp_path / "x").write_text("x")
    both = "bearer_token_file: x, basic_auth: {username: me, password_file: x}, headers: {Authorization: '${A}'}"
    assert mistakes(write(A % both), {"A": "Basic x"}) == [
        "servers[0].basic_auth: cannot be used together with bearer_token_file",
        "servers[0].headers.authorization: cannot be used together with bearer_token_file",
    ]


@pytest.mark.parametrize(
    ("tls", "expected"),
    [
        ("ca_file: text", ["servers[0].tls.ca_file: {folder}/text is not a PEM file (-----BEGIN ...)"]),
        ("ca_file: broken", ["servers[0].tls.ca_file: {folder}/broken holds no certificate that can be used"]),
        ("key_file: good.key", ["servers[0].tls.key_file: needs `cert_file`"]),
        (
            "cert_file: good.pem, key_file: ca.key",
            [
                "servers[0].tls.cert_file: certificate and key cannot be used: one is broken, the key is encrypted, or"
                " they do not match"
            ],
        ),
        (
            "ca_file: ca.pem, insecure_skip_verify: true",
            ["servers[0].tls.ca_file: has no effect with insecure_skip_verify: true"],
        ),
    ],
    ids=["no PEM", "broken", "key alone", "another's key", "trust in vain"],
)
def test_certificates_that_cannot_work_are_mistakes(
    write: Callable[[str], str], tmp_path: Path, authority: Authority, tls: str, expected: list[str]
) -> None:
    for name in ("ca.pem", "good.pem", "good.key", "ca.key"):
        (tmp_path / name).write_bytes((authority.folder / name).read_bytes())
    (tmp_path / "text").write_text("no certificate")
    (tmp_path / "broken").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    found = mistakes(write(f"servers: [{{url: 'https://a', tls: {{{tls}}}}}]"))
    assert found == [line.format(folder=tmp_path) for line in expected]


YAML = {
    "a list": ("- a", "{path}: must be a mapping (key: value)"),
    "text": ("hello", "{path}: must be a mapping (key: value)"),
    "open bracket": ("a: [", "{path}, line 1, column 5: expected the node content, but found '<stream end>'"),
    "tab": ("poll:\n\tinterval: 1s", "{path}, line 2, column 1: found character '\\t' that cannot start any token"),
    "alias": (f"a: *{SECRET}", "{path}, line 1, column 4: found undefined alias ..."),
    "tag": (f"a: !{SECRET} 1", "{path}, line 1, column 4: could not determine a constructor for the tag ..."),
    "python": (
        "a: !!python/name:os.system 1",
        "{path}, line 1, column 4: could not determine a constructor for the tag ...",
    ),
    "bad int": ("a: !!int x", "{path}, line 1, column 4: is no value of its type"),
    "control": ("a:\n b: \x01", "{path}, line 2: control characters are not allowed"),
    "deep": ("[" * 5000, "{path}: is nested too deeply"),
    "two documents": ("a: 1\n---\nb: 1", "{path}, line 2, column 1: but found another document"),
    "key that is a list": ("? [a]\n: 1", "{path}, line 1, column 3: found unhashable key"),
    "key given twice": (
        "poll: {}\nlog: {}\npoll: {}",
        "{path}, line 3, column 1: poll is given twice, first in line 1",
    ),
}


@pytest.mark.parametrize("case", YAML)
def test_what_is_no_yaml_is_told_with_line_and_column(write: Callable[[str], str], case: str) -> None:
    text, expected = YAML[case]
    path = write(text)
    assert mistakes(path) == [expected.format(path=path)]


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "\ufeffpoll: {}\n", "poll:\nhost:\nlog:\nweb:\n"])
def test_a_file_that_says_nothing_is_no_mistake(write: Callable[[str], str], text: str) -> None:
    assert load(write(text), {}).effective() == load(None, {}).effective()


def test_anchors_and_merges_work_and_the_own_key_wins(write: Callable[[str], str]) -> None:
    path = write("servers:\n- &a {name: a, url: 'http://a', timeout: 9s}\n- {<<: *a, name: b, url: 'http://b'}\n")
    assert [(server.name, server.timeout) for server in load(path, {}).servers] == [("a", 9.0), ("b", 9.0)]


def test_a_file_that_cannot_be_read_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff")
    assert mistakes(f"{tmp_path}/none.yml") == [f"{tmp_path}/none.yml: cannot be read: No such file or directory"]
    assert mistakes(str(tmp_path)) == [f"{tmp_path}: cannot be read: Is a directory"]
    assert mistakes(f"{tmp_path}/binary") == [f"{tmp_path}/binary: is not UTF-8 text"]
    assert mistakes("") == ["--config.file: must be the name of a file"]


def test_mistakes_of_all_kinds_come_together_in_the_order_of_their_paths(write: Callable[[str], str]) -> None:
    many = "".join(f"- {{name: s{place}, url: 'http://s{place}', poll_interval: 0s}}\n" for place in range(11))
    env = {"OLLAMA_EXPORTER_LOG_LEVL": "info", "OLLAMA_EXPORTER_X": "1"}
    found = mistakes(write(f"servers:\n{many}log: {{level: 1}}\n"), env)
    assert found == [
        "OLLAMA_EXPORTER_LOG_LEVL: unknown variable, did you mean OLLAMA_EXPORTER_LOG_LEVEL?",
        "OLLAMA_EXPORTER_X: unknown variable; known are OLLAMA_EXPORTER_CONFIG_FILE, OLLAMA_EXPORTER_LOG_FORMAT,"
        " OLLAMA_EXPORTER_LOG_LEVEL, OLLAMA_EXPORTER_SERVERS, OLLAMA_EXPORTER_WEB_CONFIG_FILE,"
        " OLLAMA_EXPORTER_WEB_LISTEN_ADDRESS",
        "log.level: must be one of debug, info, warning, error; got 1",
        *(f"servers[{place}].poll_interval: must be > 0, got 0s" for place in range(11)),
    ]


def test_mistakes_in_the_environments_fleet_name_their_entry() -> None:
    assert mistakes(None, {SERVERS: f"a=http://a,a=http://b,b=http://x:{SECRET}@a, c d=http://c,http://a:80"}) == [
        f"{SERVERS}[1].name: {SERVERS}[0] is called 'a', too",
        f"{SERVERS}[2].url: must hold no user or password; use `bearer_token_file`, `basic_auth` or `headers` of the"
        " server instead",
        f"{SERVERS}[3].name: must be 1 to 64 letters, digits, `.`, `_`, `:` or `-` (it is a label value), got 'c d'",
        f"{SERVERS}[4].url: is that of {SERVERS}[0], too: the server would be probed twice",
    ]
    assert mistakes(None, {SERVERS: " , "}) == [f"{SERVERS}: names no server"]


def test_variables_that_kubernetes_sets_for_a_service_of_our_name_are_nobodys_mistake() -> None:
    ours = {
        "OLLAMA_EXPORTER_SERVICE_HOST": "10.0.0.1",
        "OLLAMA_EXPORTER_SERVICE_PORT": "8082",
        "OLLAMA_EXPORTER_SERVICE_PORT_HTTP": "8082",
        "OLLAMA_EXPORTER_PORT": "tcp://10.0.0.1:8082",
        "OLLAMA_EXPORTER_PORT_8082_TCP": "tcp://10.0.0.1:8082",
        "OLLAMA_EXPORTER_PORT_8082_TCP_PROTO": "tcp",
        "OLLAMA_EXPORTER_PORT_8082_TCP_PORT": "8082",
        "OLLAMA_EXPORTER_PORT_8082_TCP_ADDR": "10.0.0.1",
    }
    assert load(None, ours) == load(None, {})
    assert [line.split(":")[0] for line in mistakes(None, {"OLLAMA_EXPORTER_PORT": "9000"})] == ["OLLAMA_EXPORTER_PORT"]


def test_a_variable_that_the_file_uses_is_not_unknown(write: Callable[[str], str]) -> None:
    path = write(A % "headers: {X-Api-Key: '${OLLAMA_EXPORTER_KEY}'}")
    assert load(path, {"OLLAMA_EXPORTER_KEY": "x"}).servers[0].headers == (("X-Api-Key", Secret("x")),)


# --- secrets, effective configuration, hash --------------------------------------------------------------------------


def test_no_secret_shows_itself_anywhere(everything: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    config = load(everything, ENV)
    logging.getLogger("test").info("%s %r %s", config, config, plan(config))
    shown = [
        repr(config),
        str(config),
        str(config.effective()),
        config.effective_yaml(),
        repr(plan(config)),
        caplog.text,
    ]
    assert all("<secret>" in text or "token" in text for text in shown)
    assert not [text for text in shown if SECRET in text]
    broken = Path(everything).read_text().replace("timeout: 4s", "timeout: 4 parrots")
    Path(everything).write_text(broken)
    with pytest.raises(ConfigError) as caught:
        load(everything, ENV)
    assert "parrots" in str(caught.value)
    assert SECRET not in f"{caught.value} {caught.value!r}"


def test_the_effective_configuration_names_files_and_hides_values(everything: str) -> None:
    server = load(everything, ENV).effective()["servers"][0]
    folder = Path(everything).parent
    assert server["bearer_token_file"] == f"{folder}/token"
    assert server["headers"] == {"X-Api-Key": "<secret>", "X-Team": "<secret>"}
    assert server["proxy_url"] == "<secret>"
    assert server["tls"]["key_file"] == f"{folder}/good.key"
    assert (server["poll_interval"], server["inventory_interval"]) == ("1m", "1h30m")


def test_the_effective_configuration_is_a_file_that_comes_to_the_same(write: Callable[[str], str]) -> None:
    config = load(write("poll: {interval: 7500ms}\nservers: [{url: 'https://[::1]:5/x'}]\ncanary: {mode: off}\n"), {})
    again = load(write(config.effective_yaml()), {})
    assert again.effective() == config.effective()
    assert (again.hash, plan(again)) == (config.hash, plan(config))


def change_token(folder: Path) -> None:
    (folder / "token").write_text("another")


def change_password(folder: Path) -> None:
    (folder / "password").write_text("another")


def change_certificate(folder: Path) -> None:
    (folder / "ca.pem").write_bytes((folder / "ca.pem").read_bytes() + b"\n# renewed\n")


@pytest.mark.parametrize("change", [change_token, change_password, change_certificate])
def test_a_rotated_file_changes_the_watches_that_use_it_and_a_secret_is_not_in_the_hash(
    everything: str, change: Callable[[Path], None]
) -> None:
    before = load(everything, ENV)
    change(Path(everything).parent)
    after = load(everything, ENV)
    assert re.fullmatch("[0-9a-f]{64}", before.hash)
    assert (after.hash != before.hash) == (change is change_certificate)
    assert after.effective() == before.effective()
    assert {watch.server for watch in set(plan(after)) - set(plan(before))} == {
        "b" if change is change_password else "a"
    }


def test_a_secret_out_of_a_variable_changes_the_watches_and_not_the_hash(everything: str) -> None:
    before, after = load(everything, ENV), load(everything, ENV | {"API_KEY": "another"})
    assert after.hash == before.hash
    assert set(plan(after)) != set(plan(before))


# --- plan ------------------------------------------------------------------------------------------------------------


def test_a_server_that_did_not_change_keeps_its_watches_when_another_one_does(write: Callable[[str], str]) -> None:
    before = plan(load(write("servers: [{name: a, url: 'http://a'}, {name: b, url: 'http://b'}]"), {}))
    after = plan(
        load(
            write(
                "servers: [{name: c, url: 'http://c'}, {name: b, url: 'http://b', timeout: 9s}, {name: a, url: 'http://a'}]"
            ),
            {},
        )
    )
    assert {(watch.server, watch.source) for watch in set(before) & set(after)} == {
        ("a", "api"),
        ("a", "canary"),
        *(("a", source) for source in INSIDE),
        *(("b", source) for source in INSIDE if source not in ("native", "audit")),  # they ask it, and have its timeout
        ("", "host"),
        ("", "exporter"),
    }
    assert {watch.server for watch in set(after) - set(before)} == {"b", "c", ""}  # the GPU source knows all servers


def test_a_plan_has_no_watch_twice_and_keeps_the_order_of_the_servers() -> None:
    servers = ",".join(f"s{place}=http://s{place}" for place in range(30))
    watches = plan(load(None, {SERVERS: servers}))
    assert len(set(watches)) == len(watches) == 30 * (2 + len(INSIDE)) + 3
    assert [watch.server for watch in watches if watch.source == "api"] == [f"s{place}" for place in range(30)]


@pytest.mark.parametrize(
    ("text", "sources"),
    [
        ("canary: {mode: off}", ["api"]),
        ("canary: {mode: off, models: {a: off}}", ["api"]),
        ("canary: {mode: off, models: {a: loaded}}", ["api", "canary"]),
        (A % "canary: {mode: off}", ["api"]),
        ("canary: {mode: off}\n" + A % "canary: {mode: loaded}", ["api", "canary"]),
        ("canary: {mode: off, models: {a: always}}\n" + A % "canary: {models: {'a:latest': off}}", ["api"]),
    ],
)
def test_there_is_no_canary_watch_where_no_model_can_have_one(
    write: Callable[[str], str], text: str, sources: list[str]
) -> None:
    watches = [watch for watch in plan(load(write(text), {})) if watch.server]
    assert [watch.source for watch in watches if watch.source not in INSIDE] == sources


def test_the_host_can_be_left_out(write: Callable[[str], str]) -> None:
    watches = plan(load(write("host: {enabled: false}"), {}))
    assert [watch.source for watch in watches] == ["api", "canary", *INSIDE, "gpu", "exporter"]


def test_each_source_from_inside_can_be_left_out_or_insisted_on(write: Callable[[str], str]) -> None:
    for source in (*INSIDE, "gpu"):
        off = plan(load(write(f"{source}: {{mode: off}}"), {}))
        assert source not in {watch.source for watch in off}
        (watch,) = (watch for watch in plan(load(write(f"{source}: {{mode: on}}"), {})) if watch.source == source)
        assert not watch.optional
        (watch,) = (watch for watch in plan(load(write("{}"), {})) if watch.source == source)
        assert watch.optional


# --- parsers never raise anything but a mistake ----------------------------------------------------------------------

WORDS = st.one_of(
    st.text(),
    st.text("0123456789.:[]/@%-+ " + "abcdef" + "hms" + "\"'"),
    st.from_regex(r"(https?://)?[a-z0-9.:\[\]]{0,12}(:[0-9]{0,7})?(/[a-z]{0,3})?", fullmatch=True),
)
ANYTHING = st.one_of(WORDS, st.none(), st.booleans(), st.integers(), st.floats(), st.lists(st.text()))


def unless_wrong(parse: Callable[[Any], T], raw: object) -> T | None:
    """What the parser makes of it; None for a mistake. Whatever else it raises fails the test."""
    try:
        return parse(raw)
    except Wrong:
        return None


@given(ANYTHING)
def test_a_duration_is_finite_or_a_mistake(raw: object) -> None:
    value = unless_wrong(seconds, raw)
    assert value is None or math.isfinite(value)


@given(st.integers(1, 10**10))
def test_a_duration_is_written_as_it_is_read(milliseconds: int) -> None:
    assert round(seconds(duration_text(milliseconds / 1000)) * 1000) == milliseconds


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("15s", 15),
        ("500ms", 0.5),
        ("5m", 300),
        ("1h30m", 5400),
        ("1d", 86400),
        ("1.5h", 5400),
        ("15", 15),
        (0.25, 0.25),
    ],
)
def test_durations(written: object, value: float) -> None:
    assert seconds(written) == value


@pytest.mark.parametrize(
    "written", ["", "s", "5S", "30m1h", "1m1m", "1 h", "1_0s", "٣s", "1e3", "5w", "--5s", "9" * 400]
)
def test_what_is_no_duration(written: str) -> None:
    with pytest.raises(Wrong):
        seconds(written)


@given(WORDS)
def test_ollama_host_gives_a_url_or_a_mistake(value: str) -> None:
    url = unless_wrong(ollama_host, value)
    assert url is None or parse_url(url) == url


@given(ANYTHING)
def test_a_url_is_in_its_canonical_form_or_a_mistake(raw: object) -> None:
    url = unless_wrong(parse_url, raw)
    assert url is None or (parse_url(url) == url and not url.endswith("/"))


@given(ANYTHING)
def test_a_listen_address_can_be_written_again_or_is_a_mistake(raw: object) -> None:
    listen = unless_wrong(parse_listen, raw)
    assert listen is None or (parse_listen(str(listen)) == listen and 0 <= listen.port <= 65535)


@pytest.mark.parametrize(
    ("written", "host", "port"),
    [
        (":8082", "", 8082),
        ("0.0.0.0:8082", "0.0.0.0", 8082),
        ("[::]:8082", "::", 8082),
        ("localhost:0", "localhost", 0),
        ("127.0.0.1:65535", "127.0.0.1", 65535),
    ],
)
def test_listen_addresses(written: str, host: str, port: int) -> None:
    assert parse_listen(written) == Listen(host, port)


@pytest.mark.parametrize(
    "written", ["", "8082", ":", "a:", ":65536", "::1:8082", "[::1]", "[x]:1", "a b:1", ":8082 ", "http://a:1"]
)
def test_what_is_no_listen_address(written: str) -> None:
    with pytest.raises(Wrong):
        parse_listen(written)


KEYS = st.sampled_from(["servers", "name", "url", "canary", "models", "poll", "interval", "tls", "headers", "web", "x"])
TREES = st.recursive(
    ANYTHING, lambda below: st.one_of(st.lists(below, max_size=3), st.dictionaries(KEYS, below, max_size=4))
)


@given(st.dictionaries(KEYS, TREES, max_size=4))
def test_no_tree_of_values_raises_anything_but_mistakes(tree: dict[str, Any]) -> None:
    from exporter.config.kinds import Reader, section  # the reader is what load() hangs on

    reader, before = Reader({}, Path("/nonexistent")), copy.deepcopy(tree)
    reader.read(section(Config), tree, "")
    assert repr(tree) == repr(before)
    assert all(path and what and (path + what).isprintable() for path, what in reader.mistakes)


@given(st.dictionaries(st.text(string.ascii_uppercase + "_", min_size=1, max_size=20), WORDS, max_size=3), WORDS)
def test_no_environment_raises_anything_but_mistakes(variables: dict[str, str], servers: str) -> None:
    env = {f"OLLAMA_EXPORTER_{name}": value for name, value in variables.items() if name != "CONFIG_FILE"}
    try:
        found = len(load(None, {SERVERS: servers} | env).servers)
    except ConfigError as error:
        found = len(error.mistakes)
    assert found


# --- documents -------------------------------------------------------------------------------------------------------


def test_the_page_about_the_configuration_is_in_step() -> None:
    assert (ROOT / "docs/config.md").read_text(encoding="utf-8") == config_markdown(), "run scripts/generate"


def test_every_setting_has_its_row_and_its_help() -> None:
    page = config_markdown()
    for path, section in rows(Config):
        assert not path or f"## `{path}`" in page
        for row in section:
            assert re.search(rf"^\| `{row.path.removeprefix(f'{path}.')}` \| ", page, re.M)
            assert row.help.endswith(".")


@pytest.fixture
def example() -> str:
    return (ROOT / "exporter.example.yml").read_text(encoding="utf-8")


def test_the_example_is_right(example: str, write: Callable[[str], str]) -> None:
    assert [server.name for server in load(write(example), {}).servers] == ["primary", "secondary", "tertiary"]


def test_the_example_mentions_every_key_and_is_right_with_all_of_them(
    example: str, write: Callable[[str], str], tmp_path: Path, authority: Authority
) -> None:
    files = {"secrets/token": b"t", "secrets/password": b"p", "policy.yml": b"max_parallel: 50\n"}
    files["secrets/kubeconfig"] = b"apiVersion: v1\n"
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    (tmp_path / "tls").mkdir()
    for page in ("reload", "config", "probe", "sd"):
        (tmp_path / f"secrets/{page}-token").write_text("sixteen-letters!\n")
    for name, origin in {"ca.crt": "ca.pem", "client.crt": "good.pem", "client.key": "good.key"}.items():
        (tmp_path / "tls" / name).write_bytes((authority.folder / origin).read_bytes())
    uncommented = re.sub(r"^( *)#(?=\S|  )", r"\1", example, flags=re.M)
    config = load(write(uncommented), {"GATEWAY_API_KEY": "x", "OUTBOUND_PROXY": "http://proxy:3128"})
    assert [server.name for server in config.servers] == ["primary", "secondary", "tertiary", "lab"]
    for _, section in rows(Config):
        for row in section:
            assert re.search(rf"^[ #-]*{row.path.rpartition('.')[2]}:", example, re.M), row.path
    # These show their defaults, so that taking the mark off changes nothing.
    for key in ("poll", "limits", "log"):
        assert config.effective()[key] == load(None, {}).effective()[key]
