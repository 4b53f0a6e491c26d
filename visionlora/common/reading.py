"""Files of run folders and adapters as read from strangers: sealed, bounded, and every kind of damage told in one sentence."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from visionlora.common.errors import UserError

SEAL = "sha256"
"""Key of the hash that our JSON files carry of everything else in them."""
MOST_BYTES = 256 * 2**20
"""Of a JSON file: the names of some million images."""
MOST_YAML_BYTES, MOST_YAML_DEPTH = 2**20, 32
_YAML_SEAL = re.compile(rb"# sha256 of the lines below: ([0-9a-f]{64})\n")
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast where it is compiled in


def read_bytes(path: Path, most: int = MOST_BYTES) -> bytes:
    """The content of a regular file.

    Raises:
        UserError: it is missing, a folder or the like, larger than ``most`` bytes, or cannot be read.
    """
    try:
        if not path.is_file():
            raise UserError(f"{path} is {'not a file' if path.exists() else 'missing'}.")
        if (size := path.stat().st_size) > most:
            raise UserError(f"{path} has {size:,} bytes; no such file has more than {most:,}.")
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None


def sealed_json(values: Mapping[str, Any], indent: int | None = 2) -> bytes:
    """A JSON file with the hash of what it says."""
    written = json.loads(json.dumps(values))  # as it will be read: keys are text
    return json.dumps({**written, SEAL: _hash(written)}, indent=indent).encode()


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object without its seal; files of other programs and of earlier versions have none.

    Raises:
        UserError: it is missing, damaged, not a JSON object, or not what was written.
    """
    try:
        loaded = json.loads(read_bytes(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged: not valid JSON ({error}).") from None
    if not isinstance(loaded, dict):
        raise UserError(f"{path} is damaged: it does not hold a JSON object.")
    if SEAL in loaded and loaded.pop(SEAL) != _hash(loaded):
        raise UserError(f"{path} is not as it was written: damaged or edited; if it was edited on purpose, remove its {SEAL!r} too.")
    return loaded


def sealed_yaml(text: str) -> bytes:
    """A YAML file with the hash of its text as a comment in the first line: what is cut off is missed."""
    body = text.encode()
    return f"# sha256 of the lines below: {hashlib.sha256(body).hexdigest()}\n".encode() + body


def read_yaml(path: Path) -> tuple[dict[str, Any], str]:
    """A YAML file of plain values, and its text without the seal; a file of an earlier version has none.

    Raises:
        UserError: it is missing, damaged, not what was written, or holds what only a stranger would put there: aliases (a few lines of
            them make billions of values), tags, interpolations.
    """
    content = read_bytes(path, MOST_YAML_BYTES)
    if seal := _YAML_SEAL.match(content):
        content = content[seal.end() :]
        if hashlib.sha256(content).hexdigest() != seal[1].decode():
            raise UserError(f"{path} is not as it was written: damaged or edited; if it was edited on purpose, remove its first line.")
    try:
        text = content.decode()
        _refuse_beyond_plain(text)
        loaded = yaml.load(text, Loader=_Plain)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path} is damaged: {' '.join(str(error).split())}.") from None
    if not isinstance(loaded, dict):
        raise UserError(f"{path} is damaged: it does not hold a mapping.")
    _refuse_beyond_config(loaded, path)
    return loaded, text


class _Plain(_Loader):
    """Refuses a key that comes twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if len({str(key) for key in keys}) < len(keys):
            raise ValueError("a key comes twice")
        return dict(super().construct_mapping(node, deep))


def _refuse_beyond_plain(text: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.AliasEvent):
            raise ValueError("it has an alias (*name), which no run writes")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MOST_YAML_DEPTH:
            raise ValueError(f"it is nested more than {MOST_YAML_DEPTH} deep")


def _refuse_beyond_config(value: Any, path: Path, key: str = "") -> None:
    if isinstance(value, dict):
        for name, item in value.items():
            if not isinstance(name, str):
                raise UserError(f"{path} is damaged: the key {name!r} is not text.")
            _refuse_beyond_config(item, path, f"{key}.{name}".removeprefix("."))
    elif isinstance(value, list):
        for item in value:
            _refuse_beyond_config(item, path, key)
    elif isinstance(value, str) and "${" in value:
        raise UserError(f"{path}: {key} has an interpolation (${{…}}), which is not read from a run: write its value.")
    elif not (value is None or isinstance(value, str | int | float)) or (isinstance(value, int) and abs(value) >= 2**63):
        raise UserError(f"{path} is damaged: {key} is a {type(value).__name__}{' of more than 64 bits' * isinstance(value, int)}.")


def _hash(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
