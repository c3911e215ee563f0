"""How settings are declared, read and shown: kinds of values, and a reader that collects every mistake with its path.

Knows no setting by name: `sections.py` declares them. A text that may hold a secret is never quoted in a mistake.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import Field, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from exporter.model import PinnedFile, Secret

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T")
S = TypeVar("S", bound="DataclassInstance")
REQUIRED = object()


class Wrong(Exception):
    """What is wrong with one value, in words for the operator. Never leaves the reader."""


@dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """What values a setting takes. `parse` makes the value of what the file holds, or raises Wrong; `show` goes back.

    `section` is the dataclass whose fields are the keys below, `below` what stands between the path and them.
    `expands`: `${VAR}` is replaced in them.
    """

    name: str
    parse: Callable[[Reader, object, str], T]
    show: Callable[[T], object] = lambda value: value
    section: type | None = None
    below: str = "."
    expands: bool = False


def setting(kind: Kind[Any], help: str, default: object = REQUIRED, otherwise: str = "") -> Any:
    """A field of a section. `default` is in the notation of the file; None stays None, and `otherwise` says what then
    holds."""
    return field(metadata={"kind": kind, "help": help, "default": default, "otherwise": otherwise})


class Reader:
    """Reads values, collects mistakes, and knows what values may refer to: the environment and the file's folder."""

    def __init__(self, env: Mapping[str, str], folder: Path) -> None:
        self.env, self.folder = env, folder
        self.mistakes: list[tuple[str, str]] = []
        self.variables: set[str] = set()

    def wrong(self, path: str, what: str) -> None:
        self.mistakes.append((_one_line(path), _one_line(what)))

    def read(self, kind: Kind[T], raw: object, path: str) -> T | None:
        """The value, or None beside at least one mistake."""
        try:
            if isinstance(raw, str) and "${" in raw and not kind.expands:
                raise Wrong("${...} is replaced only in `headers` and `proxy_url`")
            return kind.parse(self, raw, path)
        except Wrong as error:
            self.wrong(path, str(error))
            return None


def _one_line(text: str) -> str:
    return "".join([char if char.isprintable() else "?" for char in text])


def closest(word: str, known: Iterable[str], prefix: str = "") -> str:
    """`, did you mean X?`, or all that is known. What all have in common must not make them alike."""
    from difflib import get_close_matches  # only the mistaken pay for it

    bare = {each.removeprefix(prefix): each for each in sorted(known)}
    near = get_close_matches(word.removeprefix(prefix), bare, 1)
    return f", did you mean {bare[near[0]]}?" if near else f"; known are {', '.join(bare.values())}"


def seen(raw: object) -> str:
    """A value as the operator wrote it, short enough for a line."""
    match raw:
        case None:
            return "nothing"
        case bool():
            return str(raw).lower()
        case str():
            return repr(raw if len(raw) <= 60 else raw[:57] + "...")
        case float():
            return f"{raw:g}"
        case int():
            return str(raw) if raw.bit_length() < 200 else "a huge number"
        case Mapping():
            return "a mapping"
        case list():
            return "a list"
    return f"a {type(raw).__name__}"


# --- structure -------------------------------------------------------------------------------------------------------


def section(cls: type[T]) -> Kind[T]:
    """A mapping with the fields of `cls` as its keys. Where `cls` has a method `objections(self)`, it yields pairs of
    key and mistake about values that are right one by one."""
    return Kind("mapping", lambda reader, raw, path: _section(cls, reader, raw, path), section=cls)


def _section(cls: type[T], reader: Reader, raw: object, path: str) -> T:
    given = _mapping(raw)
    before = len(reader.mistakes)
    declared = {each.name: each for each in _fields(cls)}
    prefix = f"{path}." if path else ""
    for key in given:
        if key not in declared:
            reader.wrong(f"{prefix}{key}", f"unknown key{closest(str(key), declared)}")
    values = {key: _field(each, reader, given, prefix + key) for key, each in declared.items()}
    value = cls(**values)
    if len(reader.mistakes) == before:
        for key, what in getattr(value, "objections", tuple)():
            reader.wrong(prefix + key, what)
    return value


def _field(each: Field[Any], reader: Reader, given: Mapping[object, object], path: str) -> Any:
    kind, default = each.metadata["kind"], each.metadata["default"]
    if each.name in given:
        return reader.read(kind, given[each.name], path)
    if default is REQUIRED:
        reader.wrong(path, "is missing")
        return None
    return default if default is None else reader.read(kind, default, path)


def _fields(cls: type) -> list[Field[Any]]:
    return [each for each in fields(cls) if "kind" in each.metadata]


def filled(value: S, **otherwise: object) -> S:
    """The section with these values where it has None, which is what was left out."""
    return replace(value, **{key: each for key, each in otherwise.items() if getattr(value, key) is None})


def _mapping(raw: object) -> Mapping[object, object]:
    if raw is None:  # a section whose every line is commented out
        return {}
    if not isinstance(raw, Mapping):
        raise Wrong(f"must be a mapping (key: value), got {sort(raw)}")
    return raw


def sort(raw: object) -> str:
    """What sort of thing this is, where the thing itself may be a secret."""
    return {str: "text", bool: "a boolean", int: "a number", float: "a number", list: "a list"}.get(
        type(raw), seen(raw)
    )


def listing(item: Kind[T]) -> Kind[tuple[T, ...]]:
    def parse(reader: Reader, raw: object, path: str) -> tuple[T, ...]:
        if not isinstance(raw, list):
            raise Wrong(f"must be a list (- ...), got {sort(raw)}")
        # None stands for an item that is wrong, so that the places of the others hold.
        return tuple([cast(T, reader.read(item, each, f"{path}[{place}]")) for place, each in enumerate(raw)])

    def show(values: tuple[T, ...]) -> list[object]:
        return [item.show(value) for value in values]

    return Kind(f"list of {item.name}s", parse, show, section=item.section, below="[].")


def table(name: str, key: Callable[[str], str], value: Kind[T]) -> Kind[tuple[tuple[str, T], ...]]:
    """A mapping whose keys the operator chooses. `key` brings one into its canonical form, or raises Wrong."""

    def parse(reader: Reader, raw: object, path: str) -> tuple[tuple[str, T], ...]:
        found: dict[str, T] = {}
        for each, below in _mapping(raw).items():
            place = f"{path}.{each}"
            if not isinstance(each, str):
                reader.wrong(place, "the key must be text: put it in quotes")
                continue
            try:
                name = key(each)
            except Wrong as error:
                reader.wrong(place, str(error))
                continue
            if name in found:
                reader.wrong(place, f"{name} is given twice")
            parsed = reader.read(value, below, place)
            if parsed is not None:
                found[name] = parsed
        return tuple(sorted(found.items(), key=lambda pair: pair[0]))

    def show(values: tuple[tuple[str, T], ...]) -> dict[str, object]:
        return {key: value.show(each) for key, each in values}

    return Kind(name, parse, show, value.section, ".NAME.", value.expands)


# --- plain values ----------------------------------------------------------------------------------------------------


def plain(name: str, parse: Callable[[object], T], show: Callable[[T], object] = lambda value: value) -> Kind[T]:
    return Kind(name, lambda reader, raw, path: parse(raw), show)


def text(name: str, pattern: str, what: str) -> Kind[str]:
    """Text that matches `pattern` wholly; `what` completes "must be"."""
    compiled = re.compile(pattern)

    def parse(raw: object) -> str:
        if isinstance(raw, str) and compiled.fullmatch(raw):
            return raw
        hint = " (put it in quotes)" if isinstance(raw, int | float) else ""
        raise Wrong(f"must be {what}, got {seen(raw)}{hint}")

    return plain(name, parse)


def choice(*words: str) -> Kind[Any]:
    def parse(raw: object) -> str:
        word = ("on" if raw else "off") if isinstance(raw, bool) else raw  # as YAML reads a bare `on` and `off`
        if not isinstance(word, str) or word not in words:
            raise Wrong(f"must be one of {', '.join(words)}; got {seen(raw)}")
        return word

    return plain(" \\| ".join(words), parse)


def _switch(raw: object) -> bool:
    if not isinstance(raw, bool):
        raise Wrong(f"must be true or false, got {seen(raw)}")
    return raw


SWITCH = plain("true \\| false", _switch)


def whole(least: int, most: int) -> Kind[int]:
    def parse(raw: object) -> int:
        if isinstance(raw, bool) or not isinstance(raw, int) or not least <= raw <= most:
            raise Wrong(f"must be a whole number from {least} to {most}, got {seen(raw)}")
        return raw

    return plain(f"whole number, {least} to {most}", parse)


_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_NUMBER = r"[0-9]+(?:\.[0-9]+)?"
_DURATION = re.compile("([+-]?)" + "".join(f"(?:({_NUMBER}){unit})?" for unit in _UNITS))


def seconds(raw: object) -> float:
    """`1h30m`, `500ms`, `15` -> seconds. The sign is kept, for whoever judges the range."""
    try:
        if isinstance(raw, str):
            value = _seconds(raw.strip())
        else:
            value = float(raw) if isinstance(raw, int | float) and not isinstance(raw, bool) else math.nan
    except OverflowError:
        value = math.inf
    if math.isfinite(value):
        return value
    raise Wrong(f"must be a duration such as 15s, 500ms or 1h30m, or a number of seconds; got {seen(raw)}")


def _seconds(written: str) -> float:
    if re.fullmatch(f"[+-]?{_NUMBER}", written):
        return float(written)
    match = _DURATION.fullmatch(written)
    if match is None or not any(match.groups()[1:]):
        return math.nan
    total = sum(float(count) * unit for count, unit in zip(match.groups()[1:], _UNITS.values(), strict=True) if count)
    return -total if match[1] == "-" else total


def duration_text(value: float) -> str:
    """Seconds as they would be written: 5400 -> 1h30m."""
    rest, parts = round(value * 1000), []
    for unit, size in _UNITS.items():
        count, rest = divmod(rest, round(size * 1000))
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


def duration(least: str, most: str) -> Kind[float]:
    low, high = seconds(least), seconds(most)

    def parse(raw: object) -> float:
        value = seconds(raw)
        written = raw if isinstance(raw, str) and len(raw) <= 60 else seen(raw)
        if value <= 0:
            raise Wrong(f"must be > 0, got {written}")
        if value < low:
            raise Wrong(f"must be at least {least}, got {written}")
        if value > high:
            raise Wrong(f"must be at most {most}, got {written}")
        return round(value, 3)

    return plain(f"duration, {least} to {most}", parse, duration_text)


# --- showing ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SecretFile:
    """A secret and the file it was read from."""

    path: str
    secret: Secret


def shown(value: object, *, digests: bool = False) -> Any:
    """A section as mappings, lists and plain values, in the notation of the file, secrets as `<secret>`. With `digests`
    certificate files come with theirs."""
    if isinstance(value, Secret):
        return str(value)
    if isinstance(value, SecretFile):
        return value.path
    if isinstance(value, PinnedFile):
        return f"{value.path}#{value.digest}" if digests else value.path
    if is_dataclass(value) and not isinstance(value, type):
        pairs = ((each, getattr(value, each.name)) for each in _fields(type(value)))
        return {each.name: shown(each.metadata["kind"].show(v), digests=digests) for each, v in pairs if v is not None}
    if isinstance(value, Mapping):
        return {key: shown(below, digests=digests) for key, below in value.items()}
    if isinstance(value, list):
        return [shown(item, digests=digests) for item in value]
    return value


@dataclass(frozen=True, slots=True)
class Row:
    """One setting as the documentation tells it."""

    path: str
    kind: str
    default: str
    help: str


def rows(cls: type, prefix: str = "") -> Iterator[tuple[str, list[Row]]]:
    """The settings by section, from the outside in: pairs of a section's path and its rows."""
    below: list[tuple[type, str]] = []
    own: list[Row] = []
    for each in _fields(cls):
        kind: Kind[Any] = each.metadata["kind"]
        path = prefix + each.name
        own.append(Row(path, kind.name, _default(each), each.metadata["help"]))
        if kind.section is not None:
            below.append((kind.section, path + kind.below))
    yield prefix.rstrip("."), own
    for inner, path in below:
        yield from rows(inner, path)


def _default(each: Field[Any]) -> str:
    default, otherwise = each.metadata["default"], each.metadata["otherwise"]
    if default is REQUIRED:
        return "required"
    if otherwise:
        return str(otherwise)
    if default in (None, "", {}):
        return "–"
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"
