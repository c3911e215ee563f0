"""Values that lie elsewhere: secrets in files or in the environment, certificates. Nothing secret is quoted here."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from exporter.config.addresses import parse_url
from exporter.config.kinds import Kind, Reader, SecretFile, Wrong, sort
from exporter.model import PinnedFile, Secret

_FILE_MAX = 1024 * 1024

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def expanded(reader: Reader, raw: object) -> str:
    """The text with its `${VAR}`s replaced. What comes out is a secret and must not be quoted."""
    if not isinstance(raw, str):
        raise Wrong(f"must be text, got {sort(raw)}")
    if raw.count("${") != len(_VARIABLE.findall(raw)):
        raise Wrong("has a `${` that is not of the form ${NAME}")
    for name in _VARIABLE.findall(raw):
        reader.variables.add(name)
        if not reader.env.get(name):
            raise Wrong(f"environment variable {name} is not set or empty")
    return _VARIABLE.sub(lambda match: reader.env[match[1]], raw)


def _proxy(reader: Reader, raw: object, path: str) -> Secret:
    if isinstance(raw, str):
        user, colon, password = raw.rpartition("://")[2].rpartition("@")[0].partition(":")
        if _VARIABLE.sub("", password if colon else user):
            raise Wrong("must hold no password in clear: write http://user:${PASSWORD}@proxy:3128")
    url = expanded(reader, raw)
    user, _, rest = url.partition("://")[2].rpartition("@")
    try:
        parse_url(f"{url.partition('://')[0]}://{rest}")
    except Wrong:
        raise Wrong("must be a URL such as http://proxy:3128") from None
    if not re.fullmatch(r"[!-~]*", user):
        raise Wrong("must be a URL such as http://proxy:3128")
    return Secret(url)


PROXY = Kind("URL, may hold `${VAR}`", _proxy, expands=True)


def _secret_file(reader: Reader, raw: object, path: str) -> SecretFile:
    shown, content = contents(reader, raw)
    try:
        secret = content.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise Wrong(f"{shown} is not UTF-8 text") from None
    if not secret.strip():
        raise Wrong(f"{shown} is empty")
    if not secret.isprintable():
        raise Wrong(f"{shown} holds more than one line, or control characters")
    return SecretFile(shown, Secret(secret))


SECRET_FILE = Kind("path of a file", _secret_file, lambda value: value)


def _pem_file(reader: Reader, raw: object, path: str) -> PinnedFile:
    shown, content = contents(reader, raw)
    if b"-----BEGIN " not in content:
        raise Wrong(f"{shown} is not a PEM file (-----BEGIN ...)")
    return PinnedFile(shown, hashlib.sha256(content).hexdigest())


def _pinned_file(reader: Reader, raw: object, path: str) -> PinnedFile:
    shown, content = contents(reader, raw)
    return PinnedFile(shown, hashlib.sha256(content).hexdigest())


PINNED_FILE = Kind("path of a file", _pinned_file, lambda value: value)

PEM_FILE = Kind("path of a PEM file", _pem_file, lambda value: value)


def contents(reader: Reader, raw: object) -> tuple[str, bytes]:
    """The path to show and what the file holds: 1 byte to 1 MiB."""
    if not isinstance(raw, str) or not raw or "\0" in raw or len(raw) > 4096:
        raise Wrong(f"must be the path of a file, got {sort(raw) if raw else 'nothing'}")
    path = reader.folder / raw
    shown = str(path)
    try:
        if not path.exists() and not _is_surely_path(raw, reader.folder):
            raise Wrong("must be the path of a file, and there is none of this name (not shown: it may be a secret)")
        if not path.is_file():
            raise Wrong(f"{shown} is {'not a file' if path.exists() else 'not there'}")
        with path.open("rb") as file:
            content = file.read(_FILE_MAX + 1)
    except OSError as error:
        raise Wrong(_unreadable(raw, shown, reader.folder, error)) from None
    if not content.strip():
        raise Wrong(f"{shown} is empty")
    if len(content) > _FILE_MAX:
        raise Wrong(f"{shown} is larger than 1 MiB")
    return shown, content


def _unreadable(raw: str, shown: str, folder: Path, error: OSError) -> str:
    name = shown if _is_surely_path(raw, folder) else "the file"
    return f"{name} cannot be read: {error.strerror}"


def _is_surely_path(raw: str, folder: Path) -> bool:
    """Whether this may be quoted: a secret that was put in place of a path has no existing folder at its start."""
    parts = Path(raw).parts
    top = Path(*parts[:2]) if parts[0] == "/" else Path(parts[0])
    try:
        return len(parts) > len(top.parts) and (folder / top).is_dir()
    except OSError:
        return False
