"""Request bodies, read as Go's JSON decoder reads them: its errors, word for word."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from exporter.simulator.options import OptionError, parse_keep_alive, parse_options

_GO_TYPES: tuple[tuple[type, str], ...] = (
    (bool, "bool"),
    (str, "string"),
    (int, "number"),
    (float, "number"),
    (list, "array"),
    (dict, "object"),
)


class ApiError(Exception):
    """An answer that is not a success, with Ollama's own words."""

    def __init__(self, status: int, text: str, **extra: object) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.extra = extra


class Body:
    """The fields of one request."""

    def __init__(self, raw: bytes, struct: str) -> None:
        self._struct = struct
        self._fields = _decode(raw, struct)

    def text(self, name: str) -> str:
        value = self._fields.get(name)
        return "" if value is None else self._typed(name, value, str, "string")

    def flag(self, name: str) -> bool | None:
        value = self._fields.get(name)
        return None if value is None else self._typed(name, value, bool, "bool")

    def integer(self, name: str) -> int | None:
        value = self._fields.get(name)
        return None if value is None else self._typed(name, value, int, "int")

    def items(self, name: str) -> Sequence[Any]:
        value = self._fields.get(name)
        return [] if value is None else self._typed(name, value, list, "[]interface {}")

    def mapping(self, name: str) -> dict[str, Any]:
        value = self._fields.get(name)
        return {} if value is None else self._typed(name, value, dict, "map[string]interface {}")

    def any(self, name: str) -> Any:
        return self._fields.get(name)

    def keep_alive(self) -> float | None:
        try:
            return parse_keep_alive(self._fields.get("keep_alive"))
        except ValueError as error:
            raise ApiError(400, str(error)) from None

    def options(self) -> dict[str, int | float | bool]:
        """A wrong type here is a 500, seen on the real server; it is not noticed before the model was found."""
        try:
            return parse_options(self.mapping("options"))
        except OptionError as error:
            raise ApiError(500, str(error)) from None

    def _typed(self, name: str, value: Any, kind: type, go_name: str) -> Any:
        if isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
            return value
        seen = next((label for known, label in _GO_TYPES if isinstance(value, known)), "value")
        text = f"json: cannot unmarshal {seen} into Go struct field {self._struct}.{name} of type {go_name}"
        raise ApiError(400, text)


def _decode(raw: bytes, struct: str) -> dict[str, Any]:
    if not raw.strip():
        raise ApiError(400, "missing request body")
    try:
        decoded = json.loads(raw)
    except UnicodeDecodeError:
        raise ApiError(400, "invalid character '\\ufffd' looking for beginning of value") from None
    except json.JSONDecodeError as error:
        raise ApiError(400, _go_syntax_error(error)) from None
    if not isinstance(decoded, dict):
        seen = next((label for known, label in _GO_TYPES if isinstance(decoded, known)), "value")
        raise ApiError(400, f"json: cannot unmarshal {seen} into Go value of type api.{struct}")
    return decoded


def _go_syntax_error(error: json.JSONDecodeError) -> str:
    if error.pos >= len(error.doc.rstrip()):
        return "unexpected EOF"
    looking_for = {
        "Expecting property name enclosed in double quotes": "looking for beginning of object key string",
        "Expecting ':' delimiter": "after object key",
        "Expecting ',' delimiter": "after object key:value pair",
        "Extra data": "after top-level value",
    }.get(error.msg, "looking for beginning of value")
    return f"invalid character '{error.doc[error.pos]}' {looking_for}"
