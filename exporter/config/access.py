"""Settings of how a server is reached: headers, credentials, TLS."""

# ruff: noqa: RUF009 - `setting` is a dataclass field by another name

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from exporter.config.files import PEM_FILE, SECRET_FILE, expanded
from exporter.config.kinds import SWITCH, Kind, Reader, SecretFile, Wrong, setting, table, text
from exporter.model import Endpoint, PinnedFile, Secret

_OURS = {"host", "origin", "connection", "content-length", "content-type", "transfer-encoding", "accept", "user-agent"}
_CREDENTIAL = re.compile(r"auth|cookie|token|secret|key|passw|credential", re.I)


def _header(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}", name):
        raise Wrong("must be the name of an HTTP header")
    if name.lower() == "host":
        raise Wrong("use `host_header`")
    if name.lower() in _OURS or name.lower().startswith("accept-"):
        raise Wrong("is set by the exporter or must not be sent to Ollama")
    return name


def _header_value(reader: Reader, raw: object, path: str) -> Secret:
    value = expanded(reader, raw)
    if _CREDENTIAL.search(path.partition(".headers.")[2]) and value == raw:
        raise Wrong("must take its value from the environment: write ${NAME} in place of the secret")
    if not re.fullmatch(r"[!-~]([ -~]*[!-~])?", value):
        raise Wrong("must be printable ASCII without spaces at the ends (the value is not shown)")
    return Secret(value)


HEADERS = table("header: value, may hold `${VAR}`", _header, Kind("text", _header_value, expands=True))
HOST_HEADER = text("text", r"[A-Za-z0-9._:\[\]-]{1,260}", "a host name, with a port if need be")


@dataclass(frozen=True, slots=True, kw_only=True)
class BasicAuth:
    username: str = setting(text("text", r"[^:\x00-\x1f\x7f]+", "text without `:`"), "User name.")
    password_file: SecretFile = setting(
        SECRET_FILE, "File that holds the password; a line break at its end does not count."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    ca_file: PinnedFile | None = setting(
        PEM_FILE, "Certificates to trust in place of the system's.", None, "the system's"
    )
    cert_file: PinnedFile | None = setting(PEM_FILE, "Certificate to show to the server.", None)
    key_file: PinnedFile | None = setting(PEM_FILE, "Its key, unencrypted.", None, "in `cert_file`")
    insecure_skip_verify: bool = setting(SWITCH, "Trust any certificate. For tests.", False)

    def objections(self) -> Iterator[tuple[str, str]]:
        if self.key_file and not self.cert_file:
            yield "key_file", "needs `cert_file`"
        if self.ca_file and self.insecure_skip_verify:
            yield "ca_file", "has no effect with insecure_skip_verify: true"
        yield from _loadable(self)


def _loadable(tls: Tls) -> Iterator[tuple[str, str]]:
    """What TLS itself says to the files, before the first connection does."""
    if not (tls.ca_file or tls.cert_file):
        return
    import ssl  # a tenth of a second that only its users pay

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if tls.ca_file:
            context.load_verify_locations(tls.ca_file.path)
    except (ssl.SSLError, OSError):
        yield "ca_file", f"{tls.ca_file.path if tls.ca_file else ''} holds no certificate that can be used"
    try:
        if tls.cert_file:
            # The password is asked for on the terminal unless one is given.
            context.load_cert_chain(tls.cert_file.path, tls.key_file.path if tls.key_file else None, password="")
    except (ssl.SSLError, OSError, ValueError):
        yield (
            "cert_file",
            "certificate and key cannot be used: one is broken, the key is encrypted, or they do not match",
        )


class Access(Protocol):
    """Whatever is asked over HTTP with credentials of its own."""

    @property
    def url(self) -> str: ...

    @property
    def timeout(self) -> float: ...

    @property
    def headers(self) -> tuple[tuple[str, Secret], ...]: ...

    @property
    def bearer_token_file(self) -> SecretFile | None: ...

    @property
    def basic_auth(self) -> BasicAuth | None: ...

    @property
    def tls(self) -> Tls: ...

    @property
    def proxy_url(self) -> Secret | None: ...


def endpoint(to: Access) -> Endpoint:
    """Where and how it is asked, with the usual time for a connection and its own name."""
    return Endpoint(
        url=to.url,
        timeout=to.timeout,
        headers=to.headers,
        bearer=to.bearer_token_file.secret if to.bearer_token_file else None,
        basic=(to.basic_auth.username, to.basic_auth.password_file.secret) if to.basic_auth else None,
        ca=to.tls.ca_file,
        certificate=to.tls.cert_file,
        key=to.tls.key_file,
        insecure=to.tls.insecure_skip_verify,
        proxy=to.proxy_url,
    )


def about_access(to: Access) -> Iterator[tuple[str, str]]:
    if to.url.startswith("http:") and any((to.tls.ca_file, to.tls.cert_file, to.tls.insecure_skip_verify)):
        yield "tls", "has no effect: the URL is http://"
    yield from conflicts(to.headers, to.bearer_token_file, to.basic_auth)


def conflicts(
    headers: tuple[tuple[str, Secret], ...], bearer: SecretFile | None, basic: BasicAuth | None
) -> Iterator[tuple[str, str]]:
    """What cannot be sent together, and a token that cannot be sent at all."""
    names = [name.lower() for name, _ in headers]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"headers.{name}", "is given twice"
    if bearer and not re.fullmatch(r"[!-~]+", bearer.secret.reveal()):
        yield "bearer_token_file", f"{bearer.path} holds no token: it has spaces or non-ASCII characters"
    ways = {"bearer_token_file": bearer, "basic_auth": basic}
    given = [key for key, value in ways.items() if value] + ["headers.authorization"] * ("authorization" in names)
    for second in given[1:]:
        yield second, f"cannot be used together with {given[0]}"
