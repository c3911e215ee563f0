"""File, environment and flags -> Config, or every mistake in them."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from exporter.config import document
from exporter.config.addresses import host_and_port, ollama_host
from exporter.config.kinds import Reader, Wrong, closest, filled, listing, section, seen
from exporter.config.sections import (
    CONFIG_FILE,
    DEFAULT_MODULE,
    DEFAULT_URL,
    FLAGS,
    NAME_MAX,
    PREFIX,
    SERVERS,
    Config,
    Discovery,
    Module,
    Server,
    variable,
)


class ConfigError(Exception):
    """Every mistake in the configuration, as `path: what`, in the order of the paths."""

    def __init__(self, mistakes: tuple[str, ...]) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = mistakes


def load(path: str | None, env: Mapping[str, str], flags: Mapping[str, str] | None = None) -> Config:
    """Flag over environment over file over default. Raises ConfigError with every mistake there is.

    `flags` maps the names in FLAGS to their values. An empty variable counts as not set.
    """
    path = path if path is not None else env.get(CONFIG_FILE) or None
    reader = Reader(env, Path(path or "").parent)
    written = {} if path is None else _document(reader, path)
    config = section(Config).parse(reader, written, "")
    config = _overridden(reader, config, flags or {})
    if env.get(SERVERS, "").strip():
        config = _with_servers_of_environment(reader, config)
    elif "servers" in written:
        config = _with_servers_of_file(reader, config, path or "")
    else:
        config = _with_default_server(reader, config)
    _refuse_unknown_variables(reader)
    _refuse_twins(reader, config)
    if reader.mistakes:
        raise ConfigError(tuple(f"{place}: {what}" for place, what in sorted(set(reader.mistakes), key=_by_path)))
    return _resolved(config)


def with_found(config: Config, found: Iterable[tuple[str, str, str, str]]) -> Config:
    """The configuration with these servers after its own, none of which it holds already: names and URLs in their
    canonical form, containers, and the names of the discoveries whose settings for servers they take."""
    templates = {each.name: _resolved_server(each.server, config) for each in config.discovery}
    servers = [
        replace(templates[discovery], name=name, url=url, container=container)
        for name, url, container, discovery in found
    ]
    return replace(config, servers=(*config.servers, *servers))


def _by_path(mistake: tuple[str, str]) -> list[tuple[int, str]]:
    """servers[10] after servers[2]."""
    return [
        (int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]{1,9})", ": ".join(mistake))
    ]


def _document(reader: Reader, path: str) -> Mapping[object, object]:
    if not path:
        reader.wrong("--config.file", "must be the name of a file")
        return {}
    try:
        raw = document.parse(Path(path).read_text("utf-8-sig"))
    except OSError as error:
        reader.wrong(path, f"cannot be read: {error.strerror}")
    except UnicodeDecodeError:
        reader.wrong(path, "is not UTF-8 text")
    except ValueError:
        reader.wrong(path, "is not the name of a file")
    except document.NotYaml as error:
        for place, what in error.mistakes:
            reader.wrong(f"{path}, {place}" if place else path, what)
    else:
        if isinstance(raw, Mapping):
            return raw
        if raw is not None:
            reader.wrong(path, "must be a mapping (key: value)")
    return {}


def _overridden(reader: Reader, config: Config, flags: Mapping[str, str]) -> Config:
    outside = Reader(reader.env, Path())  # a path on the command line starts where the shell is
    outside.mistakes = reader.mistakes
    for flag, (cls, name, key) in FLAGS.items():
        kind = next(each.metadata["kind"] for each in fields(cls) if each.name == key)
        for place, raw in ((variable(flag), reader.env.get(variable(flag)) or None), (f"--{flag}", flags.get(flag))):
            if raw is not None:
                value = outside.read(kind, raw, place)
                part = getattr(config, name)
                config = replace(config, **{name: part and replace(part, **{key: value})})
    return config


def _with_servers_of_environment(reader: Reader, config: Config) -> Config:
    entries = [_entry(entry.strip()) for entry in reader.env[SERVERS].split(",") if entry.strip()]
    if not entries:
        reader.wrong(SERVERS, "names no server")
    return replace(config, servers=listing(section(Server)).parse(reader, entries, SERVERS), origin=SERVERS)


def _entry(written: str) -> dict[str, str]:
    """`name=url` or `url`."""
    name, mark, url = written.partition("=")
    return {"name": name.strip(), "url": url.strip()} if mark and "://" not in name else {"url": written}


def _with_servers_of_file(reader: Reader, config: Config, path: str) -> Config:
    if config.servers == () and not (_discovers(config) or _only_probes(config)):
        reader.wrong("servers", "names no server; leave the key out to watch OLLAMA_HOST")
    return replace(config, origin=path)


def _with_default_server(reader: Reader, config: Config) -> Config:
    origin, url = "default", DEFAULT_URL
    if (host := reader.env.get("OLLAMA_HOST", "")).strip(" \t\r\n\"'"):
        origin = "OLLAMA_HOST"
        try:
            url = ollama_host(host)
        except Wrong as error:
            reader.wrong("OLLAMA_HOST", str(error))
            return config
    elif _discovers(config):
        return replace(config, servers=(), origin="discovery")
    return replace(config, servers=listing(section(Server)).parse(reader, [{"url": url}], origin), origin=origin)


def _discovers(config: Config) -> bool:
    return bool(config.discovery)  # None, where it is wrong and has been told of


def _only_probes(config: Config) -> bool:
    """Whether the exporter is one of many that look at what Prometheus names, and at nothing else."""
    probe: Any = config.probe  # None, as above
    return bool(probe is None or (probe.enabled and probe.allow != ()))


_KUBERNETES = re.compile(
    r"(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)


def _refuse_unknown_variables(reader: Reader) -> None:
    known = {CONFIG_FILE, SERVERS, *map(variable, FLAGS)}
    for name in reader.env:
        if name.startswith(PREFIX) and name not in known | reader.variables and not _from_kubernetes(reader.env, name):
            reader.wrong(name, f"unknown variable{closest(name, known, PREFIX)}")


def _from_kubernetes(env: Mapping[str, str], name: str) -> bool:
    """A Service called ollama-exporter puts such variables into every pod beside it; they are nobody's mistake."""
    rest = name.removeprefix(PREFIX)
    if rest == "PORT":
        return "://" in env[name]
    return _KUBERNETES.fullmatch(rest) is not None


def _refuse_twins(reader: Reader, config: Config) -> None:
    at = SERVERS if config.origin == SERVERS else "servers"
    names: dict[str, int] = {}
    targets: dict[tuple[str, str], int] = {}
    for place, server in enumerate(config.servers or ()):
        if getattr(server, "url", None) is None:
            continue
        name = server.name or host_and_port(server.url)
        if len(name) > NAME_MAX:
            reader.wrong(f"{at}[{place}].name", f"is missing, and {seen(name)} is too long to stand for it")
        if names.setdefault(name, place) != place:
            hint = "" if server.name else " by its host and port: give it a name"
            reader.wrong(f"{at}[{place}].name", f"{at}[{names[name]}] is called {seen(name)}, too{hint}")
        # Behind one URL there may be several servers, told apart by Host.
        if targets.setdefault(target := (server.url, server.host_header or ""), place) != place:
            reader.wrong(
                f"{at}[{place}].url", f"is that of {at}[{targets[target]}], too: the server would be probed twice"
            )


def _resolved(config: Config) -> Config:
    """Put the common values where a server says nothing else."""
    return replace(
        config,
        servers=tuple([_resolved_server(server, config) for server in config.servers]),
        discovery=tuple([_resolved_discovery(each) for each in config.discovery]),
        host=filled(config.host, name=_hostname()),
        probe=replace(config.probe, modules=_with_default(config.probe.modules)),
    )


def _with_default(modules: tuple[tuple[str, Module], ...]) -> tuple[tuple[str, Module], ...]:
    default = section(Module).parse(Reader({}, Path()), {}, "")
    return tuple(sorted({DEFAULT_MODULE: default, **dict(modules)}.items()))


def _resolved_discovery(discovery: Discovery) -> Discovery:
    return filled(discovery, name=discovery.kind, every=5.0 if discovery.files else 30.0)


def _resolved_server(server: Server, config: Config) -> Server:
    common = config.canary
    models = tuple(sorted({**dict(common.models), **dict(server.canary.models)}.items()))
    canary = filled(server.canary, mode=common.mode, every=common.every, timeout=common.timeout)
    return filled(
        replace(server, canary=replace(canary, models=models)),
        name=host_and_port(server.url),
        poll_interval=config.poll.interval,
        inventory_interval=config.poll.inventory_interval,
    )


def _hostname() -> str:
    return re.sub(r"[^A-Za-z0-9._:-]", "-", socket.gethostname())[:NAME_MAX] or "localhost"
