"""URLs, what OLLAMA_HOST means, and where to listen: text -> one canonical form, or Wrong. Pure."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from exporter.config.kinds import Wrong, plain, seen

_HOST = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,252})"
_URL = re.compile(
    rf"(?P<scheme>https?)://(?P<host>{_HOST}|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]+))?(?P<path>/[!-~]*)?", re.I
)
USERINFO = "must hold no user or password; use `bearer_token_file`, `basic_auth` or `headers` of the server instead"


def parse_url(raw: object) -> str:
    """A base URL in one canonical form: small letters, no default port, no slash at the end."""
    if not isinstance(raw, str):
        raise Wrong(f"must be a URL such as http://gpu1:11434, got {seen(raw)}")
    authority = raw.partition("://")[2] if "://" in raw else raw
    if "@" in authority:
        raise Wrong(USERINFO)
    if "?" in raw or "#" in raw:
        raise Wrong("must be a base URL, without `?` and `#`")
    match = _URL.fullmatch(raw)
    if match is None:
        problem = "a URL such as http://gpu1:11434" if "://" in raw else "a URL that starts with http:// or https://"
        raise Wrong(f"must be {problem}, got {seen(raw)}")
    scheme, host, path = match["scheme"].lower(), _canonical_host(match["host"], raw), match["path"] or ""
    port = _port(match["port"], raw) if match["port"] else _DEFAULT_PORTS[scheme]
    shown = "" if port == _DEFAULT_PORTS[scheme] else f":{port}"
    return f"{scheme}://{host}{shown}{path.rstrip('/')}"


_DEFAULT_PORTS = {"http": 80, "https": 443}


def _canonical_host(host: str, raw: str) -> str:
    if not host.startswith("["):
        return host.lower()
    try:
        return f"[{ipaddress.IPv6Address(host[1:-1])}]"
    except ValueError:
        raise Wrong(f"has an impossible IPv6 address: {seen(raw)}") from None


def _port(port: str, raw: str) -> int:
    if len(port) > 5 or not 1 <= int(port) <= 65535:
        raise Wrong(f"must have a port from 1 to 65535, got {seen(raw)}")
    return int(port)


def host_and_port(url: str) -> str:
    """The default name of a server: where it listens. `url` is canonical."""
    scheme, _, rest = url.partition("://")
    host, _, port = rest.partition("/")[0].rpartition(":")
    if not host or host.endswith(":") or not port.isdigit():
        host, port = rest.partition("/")[0], str(_DEFAULT_PORTS[scheme])
    return f"{host.strip('[]')}:{port}"


URL = plain("URL", parse_url)


def _parse_query_url(raw: object) -> str:
    """A URL that may have a query, which is kept as it was written."""
    base, mark, query = raw.partition("?") if isinstance(raw, str) else (raw, "", "")
    if not re.fullmatch(r"[!-~]*", query) or "#" in query:
        raise Wrong(f"must be a URL such as http://sd.example.com/targets, got {seen(raw)}")
    return f"{parse_url(base)}{mark}{query}"


QUERY_URL = plain("URL", _parse_query_url)


def ollama_host(value: str) -> str:
    """The URL that Ollama's own client would connect to for this value of OLLAMA_HOST."""
    written = value.strip().strip("\"'").strip()
    scheme, mark, rest = written.partition("://")
    if not mark:
        scheme, rest = "http", written
        if written == "ollama.com":
            scheme, rest = "https", "ollama.com:443"
    default = {"http": "80", "https": "443"}.get(scheme, "11434") if mark else "11434"
    if "@" in rest:
        raise Wrong(USERINFO)
    address, _, path = rest.partition("/")
    host, port = _split_address(address, default)
    if not re.fullmatch(r"[+-]?[0-9]{1,9}", port) or not 0 <= int(port) <= 65535:
        port = default
    host = _connectable(host)
    return parse_url(f"{scheme}://{f'[{host}]' if ':' in host else host}:{int(port)}/{path}")


def _split_address(address: str, default_port: str) -> tuple[str, str]:
    match = re.fullmatch(r"\[([^\[\]]*)\]:([^:\[\]]*)|([^:\[\]]*):([^:\[\]]*)", address)
    if match:
        return (match[1], match[2]) if match[1] is not None else (match[3], match[4])
    return address.strip("[]") if _ip(address.strip("[]")) else address, default_port


def _connectable(host: str) -> str:
    """Addresses for listening -> addresses for connecting."""
    ip = _ip(host)
    if ip is not None and ip.is_unspecified:
        return "127.0.0.1" if ip.version == 4 else "::1"
    return str(ip or host or "localhost")


def _ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return None
    return getattr(ip, "ipv4_mapped", None) or ip


@dataclass(frozen=True, slots=True)
class Listen:
    """Where to listen. An empty host means every address, IPv4 and IPv6."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


_LISTEN = re.compile(rf"({_HOST}|\[([0-9A-Fa-f:.]+)\])?:([0-9]{{1,5}})")


def parse_listen(raw: object) -> Listen:
    match = _LISTEN.fullmatch(raw) if isinstance(raw, str) else None
    if match is None:
        raise Wrong(f"must be an address such as :8082, 127.0.0.1:8082 or [::1]:8082, got {seen(raw)}")
    if int(match[3]) > 65535:
        raise Wrong(f"must have a port from 0 to 65535, got {seen(raw)}")
    host = _canonical_host(match[1], match[0])[1:-1] if match[2] else match[1] or ""
    return Listen(host, int(match[3]))


LISTEN = plain("address", parse_listen, str)


def _parse_dns_server(raw: object) -> tuple[str, int]:
    match = re.fullmatch(r"(?:([0-9.]+)|\[([0-9A-Fa-f:.]+)\])(?::([0-9]{1,5}))?", raw) if isinstance(raw, str) else None
    port = int(match[3] or 53) if match else 0
    try:
        return str(ipaddress.ip_address((match[1] or match[2]) if match else "")), _port(str(port), str(raw))
    except ValueError:
        raise Wrong(f"must be an address such as 10.0.0.53, 127.0.0.1:8600 or [::1]:53, got {seen(raw)}") from None


DNS_SERVER = plain("address", _parse_dns_server, lambda server: str(Listen(*server)))
