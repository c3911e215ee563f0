"""The file of `--web.config.file`, in the format of Prometheus' exporter-toolkit: TLS, users, headers, rate.

Read strictly: every mistake with its path, and what Python's ssl cannot do is refused, not left out. The file and the
certificates that it names are looked at again with each connection and request; a broken one changes nothing.
"""

# ruff: noqa: RUF009 - `setting` is a dataclass field by another name

from __future__ import annotations

import ipaddress
import logging
import re
import ssl
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

from exporter.config import ConfigError, document
from exporter.config.files import contents
from exporter.config.kinds import (
    SWITCH,
    Kind,
    Reader,
    Wrong,
    closest,
    listing,
    plain,
    section,
    seen,
    setting,
    text,
    whole,
)
from exporter.model import Secret

log = logging.getLogger(__name__)

T = TypeVar("T")

_Stamp = tuple[int, int, int] | None

# --- kinds -----------------------------------------------------------------------------------------------------------


class _Noting(Reader):
    """Notes what each file was like before it was read, so that no later change goes unseen."""

    def __init__(self, folder: Path) -> None:
        super().__init__({}, folder)
        self.stamps: dict[Path, _Stamp] = {}

    def note(self, path: Path) -> None:
        self.stamps[path] = _stamp(path)


def _stamp(path: Path) -> _Stamp:
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


def _file(reader: Reader, raw: object, path: str) -> str:
    if isinstance(reader, _Noting) and isinstance(raw, str) and raw and "\0" not in raw:
        reader.note(reader.folder / raw)
    shown, content = contents(reader, raw)
    if b"-----BEGIN " not in content:
        raise Wrong(f"{shown} is not a PEM file (-----BEGIN ...)")
    return shown


_FILE = Kind("path of a PEM file", _file)


def _inline(file: str) -> Kind[None]:
    def parse(raw: object) -> None:
        raise Wrong(f"is not taken here: put it into a file of its own and name that in {file}")

    return plain("nothing", parse)


_CLIENTS = {
    "NoClientCert": ssl.CERT_NONE,
    "VerifyClientCertIfGiven": ssl.CERT_OPTIONAL,
    "RequireAndVerifyClientCert": ssl.CERT_REQUIRED,
}
_UNVERIFIED = ("RequestClientCert", "RequireAnyClientCert", "RequireClientCert")


def _client_auth(raw: object) -> str:
    if raw in _UNVERIFIED:
        raise Wrong(
            f"{raw} asks for certificates and believes any; Python's ssl verifies each that it asks for:"
            " use VerifyClientCertIfGiven or RequireAndVerifyClientCert"
        )
    if not isinstance(raw, str) or raw not in _CLIENTS:
        raise Wrong(f"must be one of {', '.join(_CLIENTS)}; got {seen(raw)}")
    return raw


_VERSIONS = {"TLS12": ssl.TLSVersion.TLSv1_2, "TLS13": ssl.TLSVersion.TLSv1_3}


def _version(raw: object) -> str:
    if raw in ("TLS10", "TLS11"):
        raise Wrong(f"{raw} is broken and not spoken here: TLS12 or TLS13")
    if not isinstance(raw, str) or raw not in _VERSIONS:
        raise Wrong(f"must be TLS12 or TLS13, got {seen(raw)}")
    return raw


_SUITES = {
    f"TLS_ECDHE_{kind}_WITH_{suite}": f"ECDHE-{kind}-{name}"
    for kind in ("ECDSA", "RSA")
    for suite, name in {
        "AES_128_GCM_SHA256": "AES128-GCM-SHA256",
        "AES_256_GCM_SHA384": "AES256-GCM-SHA384",
        "CHACHA20_POLY1305_SHA256": "CHACHA20-POLY1305",
        "AES_128_CBC_SHA": "AES128-SHA",
        "AES_256_CBC_SHA": "AES256-SHA",
    }.items()
}
_SUITES_13 = ("TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256")


def _suite(raw: object) -> str:
    if not isinstance(raw, str) or raw not in (*_SUITES, *_SUITES_13):
        raise Wrong(f"{seen(raw)} is no cipher suite{closest(str(raw), _SUITES)}")
    return raw


_CURVES = {"CurveP256": "prime256v1", "CurveP384": "secp384r1", "CurveP521": "secp521r1", "X25519": "X25519"}


def _curve(raw: object) -> str:
    if not isinstance(raw, str) or raw not in _CURVES:
        raise Wrong(f"must be one of {', '.join(_CURVES)}; got {seen(raw)}")
    return raw


_SAN = text("name", r"[!-~]{1,1000}", "a DNS name, an address, an e-mail address or a URI")

_HEADERS: dict[str, tuple[str, ...]] = {
    "Content-Security-Policy": (),
    "Strict-Transport-Security": (),
    "X-Content-Type-Options": ("nosniff",),
    "X-Frame-Options": ("deny", "sameorigin"),
    "X-XSS-Protection": (),
}


def _headers(reader: Reader, raw: object, path: str) -> tuple[tuple[str, str], ...]:
    return tuple(_each(reader, raw, path, _header))


def _header(name: str, raw: object) -> str:
    if name not in _HEADERS:
        raise Wrong(f"is no header that can be set{closest(name, _HEADERS)}")
    if not isinstance(raw, str) or not re.fullmatch(r"[ -~]*", raw):
        raise Wrong(f"must be one line of plain ASCII text, got {seen(raw)}")
    if _HEADERS[name] and raw not in _HEADERS[name]:
        raise Wrong(f"must be {' or '.join(_HEADERS[name])}, got {seen(raw)}")
    return raw


_BCRYPT = re.compile(r"\$2[aby]\$(0[4-9]|[12][0-9]|3[01])\$[./A-Za-z0-9]{53}")


def _users(reader: Reader, raw: object, path: str) -> tuple[tuple[str, Secret], ...]:
    return tuple(_each(reader, raw, path, _user))


def _user(name: str, raw: object) -> Secret:
    if not name or ":" in name or not name.isprintable():
        raise Wrong("is no user name that HTTP can carry: it is empty, or has a colon or control characters")
    if not isinstance(raw, str) or not _BCRYPT.fullmatch(raw):
        raise Wrong("is not a bcrypt hash ($2y$10$...), such as `htpasswd -nBC 10 USER` makes")
    return Secret(raw)


def _each(reader: Reader, raw: object, path: str, parse: Callable[[str, object], T]) -> Iterator[tuple[str, T]]:
    """The pairs of a mapping whose keys the operator chooses. Those that are wrong are told and left out."""
    if not isinstance(raw, Mapping | None):
        raise Wrong(f"must be a mapping (key: value), got {'text' if isinstance(raw, str) else seen(raw)}")
    for key, value in (raw or {}).items():
        if not isinstance(key, str):
            reader.wrong(f"{path}.{key}", "must be text: put it in quotes")
            continue
        kind = Kind("value", partial(_parsed, parse, key), expands=True)
        found = reader.read(kind, value, f"{path}.{key}")
        if found is not None:
            yield key, found


def _parsed(parse: Callable[[str, object], T], key: str, reader: Reader, raw: object, path: str) -> T:
    return parse(key, raw)


_GO_DURATION = re.compile(r"(?:([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|ms|s|m|h))")
_GO_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def _go_duration(raw: object) -> float:
    """Seconds. As Go writes durations: without a unit only 0, and there is no day."""
    if raw in (0, "0") and not isinstance(raw, bool):
        return 0.0
    if not isinstance(raw, str) or not re.fullmatch(rf"(?:{_GO_DURATION.pattern})+", raw) or len(raw) > 60:
        raise Wrong(f"must be a duration such as 1s, 100ms or 1m30s, got {seen(raw)}")
    return sum(float(count) * _GO_UNITS[unit] for count, unit in _GO_DURATION.findall(raw))


# --- the file --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tls:
    cert: None = setting(_inline("cert_file"), "", None)
    key: None = setting(_inline("key_file"), "", None)
    client_ca: None = setting(_inline("client_ca_file"), "", None)
    cert_file: str | None = setting(_FILE, "", None)
    key_file: str | None = setting(_FILE, "", None)
    client_auth_type: str | None = setting(plain("name", _client_auth), "", None)
    client_ca_file: str | None = setting(_FILE, "", None)
    client_allowed_sans: tuple[str, ...] | None = setting(listing(_SAN), "", None)
    min_version: str | None = setting(plain("version", _version), "", None)
    max_version: str | None = setting(plain("version", _version), "", None)
    cipher_suites: tuple[str, ...] | None = setting(listing(plain("name", _suite)), "", None)
    prefer_server_cipher_suites: bool | None = setting(SWITCH, "", None)
    curve_preferences: tuple[str, ...] | None = setting(listing(plain("name", _curve)), "", None)

    def given(self) -> bool:
        return any(getattr(self, each.name) is not None for each in fields(self))

    def verified(self) -> ssl.VerifyMode:
        return _CLIENTS[self.client_auth_type or "NoClientCert"]

    def objections(self) -> Iterator[tuple[str, str]]:
        if not self.given():
            return
        for key in ("cert_file", "key_file"):
            if getattr(self, key) is None:
                yield key, "is missing: without it nothing here has an effect"
        if self.verified() is ssl.CERT_NONE and self.client_ca_file:
            yield "client_auth_type", "is missing: with NoClientCert nobody is asked for a certificate"
        if self.verified() is not ssl.CERT_NONE and not self.client_ca_file:
            yield "client_ca_file", f"is missing: {self.client_auth_type} needs to know whom to believe"
        if self.client_allowed_sans is not None and self.verified() is not ssl.CERT_REQUIRED:
            yield "client_allowed_sans", "needs client_auth_type: RequireAndVerifyClientCert"
        if self.client_allowed_sans == ():
            yield "client_allowed_sans", "is empty: nobody would be let in"
        if (self.min_version or "TLS12") > (self.max_version or "TLS13"):
            yield "min_version", "is above max_version"
        if len(self.curve_preferences or ()) > 1:
            yield "curve_preferences", "names more than one: Python's ssl takes one curve, or all of its own"
        if self.cipher_suites and self.min_version != "TLS13" and not set(self.cipher_suites) & set(_SUITES):
            yield "cipher_suites", "names none for TLS 1.2: add one, or set min_version: TLS13"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Http:
    http2: bool = setting(SWITCH, "", True)  # negotiated, and never chosen here: the server speaks HTTP/1.1
    headers: tuple[tuple[str, str], ...] = setting(Kind("mapping", _headers), "", {})


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """A bucket of `burst` requests that gets one more every `interval` seconds; 0: no limit."""

    interval: float = setting(plain("duration", _go_duration), "", 0)
    burst: int = setting(whole(0, 1_000_000), "", 0)

    def objections(self) -> Iterator[tuple[str, str]]:
        if self.interval and not self.burst:
            yield "burst", "must be at least 1: with 0 every request would be refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Document:
    tls_server_config: _Tls = setting(section(_Tls), "", {})
    http_server_config: _Http = setting(section(_Http), "", {})
    basic_auth_users: tuple[tuple[str, Secret], ...] = setting(Kind("mapping", _users), "", {})
    rate_limit: Rate = setting(section(Rate), "", {})


@dataclass(frozen=True, slots=True)
class WebConfig:
    """How the web server is guarded. `sans`: names of which a client's certificate must bear one; empty for any.
    `users`: bcrypt hashes by name; empty for no passwords."""

    tls: ssl.SSLContext | None = None
    sans: frozenset[str] = frozenset()
    headers: tuple[tuple[str, str], ...] = ()
    users: Mapping[str, Secret] = field(default_factory=dict)
    rate: Rate = field(default_factory=partial(Rate, interval=0.0, burst=0))

    def admits(self, certificate: Mapping[str, Any] | None) -> bool:
        """Whether a client with this certificate (as ssl tells it, None for none) may stay."""
        return not self.sans or not self.sans.isdisjoint(
            _san(str(value)) for _, value in (certificate or {}).get("subjectAltName", ())
        )


def _san(name: str) -> str:
    """OpenSSL writes IPv6 addresses in full."""
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        return name


def load(path: str) -> WebConfig:
    """Raises ConfigError with every mistake there is."""
    return _load(path, _Noting(Path(path).parent))


def _load(path: str, reader: _Noting) -> WebConfig:
    reader.note(Path(path))
    written = _read(reader, path)
    found = section(_Document).parse(reader, written, "") if written is not None else None
    context = None
    if found is not None and not reader.mistakes and found.tls_server_config.given():
        context = _context(reader, found.tls_server_config)
    if reader.mistakes or found is None:
        raise ConfigError(
            tuple(f"{path}: {place}: {what}" if place else f"{path}: {what}" for place, what in reader.mistakes)
        )
    return WebConfig(
        context,
        frozenset(map(_san, found.tls_server_config.client_allowed_sans or ())),
        found.http_server_config.headers,
        dict(found.basic_auth_users),
        found.rate_limit,
    )


def _read(reader: Reader, path: str) -> Mapping[object, object] | None:
    try:
        raw = document.parse(Path(path).read_text("utf-8-sig"))
    except OSError as error:
        reader.wrong("", f"cannot be read: {error.strerror}")
    except ValueError:
        reader.wrong("", "is not UTF-8 text")
    except document.NotYaml as error:
        for place, what in error.mistakes:
            reader.wrong(place, what)
    else:
        if raw is None or isinstance(raw, Mapping):
            return raw or {}
        reader.wrong("", "must be a mapping (key: value)")
    return None


def _context(reader: Reader, tls: _Tls) -> ssl.SSLContext | None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[tls.min_version or "TLS12"]
    context.maximum_version = _VERSIONS[tls.max_version or "TLS13"]
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    if tls.prefer_server_cipher_suites is False:
        context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_alpn_protocols(["http/1.1"])
    steps: list[tuple[str, Callable[[], None]]] = [
        ("cert_file", partial(_load_pair, context, str(tls.cert_file), str(tls.key_file)))
    ]
    if tls.client_ca_file:
        steps.append(("client_ca_file", partial(context.load_verify_locations, tls.client_ca_file)))
    if suites := [_SUITES[suite] for suite in tls.cipher_suites or () if suite in _SUITES]:
        steps.append(("cipher_suites", partial(context.set_ciphers, ":".join(suites))))
    for curve in tls.curve_preferences or ():
        steps.append(("curve_preferences", partial(context.set_ecdh_curve, _CURVES[curve])))
    for key, step in steps:
        try:
            step()
        except (OSError, ValueError) as error:
            reader.wrong(f"tls_server_config.{key}", _in_words(error))
    context.verify_mode = tls.verified()
    return None if reader.mistakes else context


def _load_pair(context: ssl.SSLContext, certificate: str, key: str) -> None:
    def locked() -> str:
        raise ValueError("the key is locked with a password, which nobody is there to type")

    context.load_cert_chain(certificate, key, locked)


def _in_words(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        reason = error.reason or "it holds no certificate or key that can be read"
        return {"KEY_VALUES_MISMATCH": "the key is that of another certificate"}.get(reason, f"OpenSSL says: {reason}")
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


# --- the file as it is now -------------------------------------------------------------------------------------------


class Watched:
    """What holds now. Without a path: nothing is guarded. `tell` hears whether the last reading went well."""

    def __init__(self, path: str | None, tell: Callable[[bool], None] = lambda _: None) -> None:
        """Raises ConfigError."""
        self._path, self._tell = path, tell
        self._config, self._stamps = WebConfig(), dict[Path, _Stamp]()
        if path is not None:
            reader = _Noting(Path(path).parent)
            self._config = _load(path, reader)
            self._stamps = reader.stamps
            tell(True)

    def current(self) -> WebConfig:
        """A few calls of stat(2), and a reading where something changed."""
        if self._path is not None and any(_stamp(path) != stamp for path, stamp in self._stamps.items()):
            self._read_again(self._path)
        return self._config

    def context(self) -> ssl.SSLContext | None:
        """For a listening socket: each connection gets the context that holds when it comes. None: no TLS."""
        return None if self._config.tls is None else _Current(self)

    def _read_again(self, path: str) -> None:
        reader = _Noting(Path(path).parent)
        try:
            config = _load(path, reader)
            if (config.tls is None) is not (self._config.tls is None):
                raise ConfigError((f"{path}: tls_server_config: comes and goes only with a start of the exporter",))
        except ConfigError as error:
            for mistake in error.mistakes:
                log.error("web configuration not reloaded, the old one holds: %s", mistake)
            self._tell(False)
        else:
            self._config = config
            log.info("web configuration reloaded")
            self._tell(True)
        self._stamps = reader.stamps


class _Current(ssl.SSLContext):
    """Stands for the context of the moment: asyncio keeps one context per listening socket, and asks it to wrap each
    connection."""

    def __new__(cls, watched: Watched) -> _Current:
        return super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)

    def __init__(self, watched: Watched) -> None:
        self._watched = watched

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        return cast(ssl.SSLContext, self._watched.current().tls).wrap_bio(*args, **kwargs)  # TLS neither comes nor goes
