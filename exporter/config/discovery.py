"""Settings of discovery: one place to look for servers, and what holds for those found there."""

# ruff: noqa: RUF009 - `setting` is a dataclass field by another name

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields

from exporter.config.access import HEADERS, BasicAuth, Tls, about_access
from exporter.config.addresses import QUERY_URL
from exporter.config.files import PROXY, SECRET_FILE
from exporter.config.kinds import Kind, Reader, SecretFile, Wrong, duration, listing, section, seen, setting, text
from exporter.config.members import Server
from exporter.config.places import DnsSd, DockerSd, FileSd, KubernetesSd, Relabel
from exporter.model import Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpSd:
    url: str = setting(
        QUERY_URL,
        "Where a list is had as Prometheus' http_sd has it. May have a query, which is shown: secrets belong into"
        " headers.",
    )
    timeout: float = setting(duration("100ms", "15s"), "For the whole answer.", "10s")
    headers: tuple[tuple[str, Secret], ...] = setting(HEADERS, "As `servers[].headers`.", {})
    bearer_token_file: SecretFile | None = setting(SECRET_FILE, "As `servers[].bearer_token_file`.", None)
    basic_auth: BasicAuth | None = setting(section(BasicAuth), "As `servers[].basic_auth`.", None)
    tls: Tls = setting(section(Tls), "As `servers[].tls`.", {})
    proxy_url: Secret | None = setting(PROXY, "As `servers[].proxy_url`.", None, "none")

    def objections(self) -> Iterator[tuple[str, str]]:
        yield from about_access(self)


_OF_ONE_SERVER = ("name", "url", "container", "logs")


def _template(reader: Reader, raw: object, path: str) -> Server:
    """A server of which only the place is missing: https, so that `tls` has its meaning."""
    for key in _OF_ONE_SERVER:
        if isinstance(raw, Mapping) and key in raw:
            raise Wrong(f"must not hold `{key}`, which is another one for each server that is found")
    if raw is not None and not isinstance(raw, Mapping):
        raise Wrong(f"must be a mapping (key: value), got {seen(raw)}")
    return section(Server).parse(reader, {**(raw or {}), "url": "https://found.invalid"}, path)


def _template_shown(server: Server) -> dict[str, object]:
    pairs = ((each, getattr(server, each.name)) for each in fields(server) if each.name not in _OF_ONE_SERVER)
    return {each.name: each.metadata["kind"].show(value) for each, value in pairs if value is not None}


_KINDS = ("files", "http", "dns", "docker", "kubernetes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovery:
    """One place to look for servers: exactly one of the kinds is not None. `load` puts its name where None was read."""

    name: str = setting(
        text("name", r"[A-Za-z0-9_-]{1,32}", "1 to 32 letters, digits, `_` or `-` (it is a label value)"),
        "Value of the label `discovery`.",
        None,
        "its kind, such as `dns`",
    )
    every: float = setting(duration("1s", "1d"), "Time between two looks.", None, "30s; 5s for files")
    files: FileSd | None = setting(section(FileSd), "Look into files.", None)
    http: HttpSd | None = setting(section(HttpSd), "Ask a web server.", None)
    dns: DnsSd | None = setting(section(DnsSd), "Ask DNS.", None)
    docker: DockerSd | None = setting(
        section(DockerSd),
        "Look among the containers of the engine at `docker.address`. An empty mapping will do.",
        None,
    )
    kubernetes: KubernetesSd | None = setting(
        section(KubernetesSd), "Ask Kubernetes; needs the extra `kubernetes`. An empty mapping will do.", None
    )
    relabel_configs: tuple[Relabel, ...] = setting(
        listing(section(Relabel)), "Rules on what was found, in Prometheus' words (docs/discovery.md).", []
    )
    server: Server = setting(
        Kind("mapping", _template, _template_shown),
        "What holds for each server that is found: the keys of `servers[]`, without name, url, container and logs.",
        {},
    )

    @property
    def kind(self) -> str:
        return next((kind for kind in _KINDS if getattr(self, kind, None) is not None), "")

    def objections(self) -> Iterator[tuple[str, str]]:
        given = [kind for kind in _KINDS if getattr(self, kind) is not None]
        if not given:
            yield "name", f"says not where to look: one of {', '.join(_KINDS)} is needed"
        for second in given[1:]:
            yield second, f"cannot be used together with {given[0]}: make it an entry of its own"
