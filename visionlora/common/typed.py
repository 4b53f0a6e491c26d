"""Values from a file as the types of a dataclass, or a word on which one is wrong."""

from __future__ import annotations

import math
import types
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")
_UNIONS = (Union, types.UnionType)
MOST_TEXT = 4096
"""Characters of a text."""


def typed(kind: type[T], values: Any, where: str = "", more: bool = False) -> T:
    """``values``, as JSON has them, as an instance of the dataclass ``kind``, nested ones and their types included.

    Args:
        kind: a dataclass with type hints.
        values: a mapping with a value for each field that has no default.
        where: begins the names of keys in errors.
        more: allow keys that the dataclass does not have, and drop them.

    Raises:
        ValueError: a key is missing or unknown, or a value has another type; the message names the key.
    """
    if not isinstance(values, dict):
        raise ValueError(f"{where or 'it'} is not a mapping")
    known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    for name in values:
        if name not in known and not more:
            raise ValueError(f"{_key(where, name)} is unknown")
    for name, field in known.items():
        if name not in values and field.default is MISSING and field.default_factory is MISSING:
            raise ValueError(f"{_key(where, name)} is missing")
    hints = get_type_hints(kind)
    return kind(**{name: as_type(hints[name], values[name], _key(where, name)) for name in known if name in values})


def check_known(kind: type, values: dict[str, Any], where: str = "") -> None:
    """See that the values of keys that the dataclass ``kind`` has are of its types; others are left alone, and none is asked for.

    Raises:
        ValueError: one is of another type.
    """
    hints = get_type_hints(kind)
    for name in values.keys() & hints.keys():
        hint, key = hints[name], _key(where, name)
        if is_dataclass(hint) and isinstance(hint, type) and isinstance(values[name], dict):
            check_known(hint, values[name], key)
        else:
            as_type(hint, values[name], key)


def as_type(hint: Any, value: Any, where: str) -> Any:
    """``value`` as the type ``hint``: a plain one, ``X | None``, ``list``, ``tuple[X, ...]``, ``dict[str, X]`` or a dataclass.

    Numbers are finite, and a truth value is none; a text has at most ``MOST_TEXT`` characters.

    Raises:
        ValueError: it is of another type.
    """
    origin, inner = get_origin(hint), get_args(hint)
    if origin in _UNIONS:
        if value is None and type(None) in inner:
            return None
        for option in inner:
            try:
                return as_type(option, value, where)
            except ValueError:
                if is_dataclass(option):
                    raise
    if hint is Any:
        return value
    if is_dataclass(hint) and isinstance(hint, type):
        return typed(hint, value, where)
    if origin in (list, tuple) and isinstance(value, list):
        return origin(as_type(inner[0], item, f"{where}[{number}]") for number, item in enumerate(value))
    if origin is dict and isinstance(value, dict) and all(isinstance(name, str) for name in value):
        return {name: as_type(inner[1], item, _key(where, name)) for name, item in value.items()}
    if hint in _PLAIN and _PLAIN[hint](value):
        return float(value) if hint is float else value
    wanted = " or ".join(_NAMES.get(get_origin(option) or option, "a mapping") for option in (inner if origin in _UNIONS else (hint,)))
    raise ValueError(f"{where} is {_shown(value)}, where {wanted} belongs")


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300 and math.isfinite(value)


_PLAIN: dict[Any, Callable[[Any], bool]] = {
    bool: lambda value: isinstance(value, bool),
    int: lambda value: isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63,
    float: _number,
    str: lambda value: isinstance(value, str) and len(value) <= MOST_TEXT,
    type(None): lambda value: value is None,
}
_NAMES = {
    bool: "true or false", int: "a whole number", float: "a number", str: "a text", type(None): "null",
    list: "a list", tuple: "a list", dict: "a mapping",
}  # fmt: skip


def _key(where: str, name: Any) -> str:
    return f"{where}.{str(name)[:80]}" if where else str(name)[:80]


def _shown(value: Any) -> str:
    if isinstance(value, list | dict):
        return f"a {type(value).__name__}"
    return "a huge number" if isinstance(value, int) and abs(value) >= 2**63 else repr(value)[:80]
