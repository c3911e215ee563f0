"""Well-formed nonsense: the same JSON with every value of another type."""

from __future__ import annotations


def wrong_types(value: object) -> object:
    if isinstance(value, dict):
        return {key: _other(item) for key, item in value.items()}
    return _other(value)


def _other(value: object) -> object:
    if isinstance(value, bool):
        return "yes"
    if isinstance(value, str):
        return 42
    if isinstance(value, (int, float)):
        return {"value": "many"}
    if isinstance(value, list):
        return [wrong_types(item) for item in value] or "none"
    return "object"
