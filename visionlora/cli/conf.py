"""The files in ``conf/`` as a reference: groups with their options, keys with their defaults, and what the comments say of each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_FIRST = {"model": "timm", "data": "imagefolder", "optim": "adamw"}
"""Options that list the keys of their group; elsewhere it is ``default``."""
_KEY = re.compile(r"^( *)([\w/.]+): *(?:#.*|(.*?))$")
_OVERRIDDEN = re.compile(r"^  - (?:override /)?(\w+)(?:: *(.*?))?(?: +#.*)?$")


@dataclass(frozen=True)
class Key:
    """One key that can be set: its whole name, its default as the file has it, and what its comment says."""

    name: str
    default: str
    meaning: str


def conf_dir() -> Path:
    """The config files: inside the package when installed from a wheel, beside it in a checkout."""
    package = Path(__file__).parents[1]
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


@cache
def groups() -> tuple[str, ...]:
    """Every config group, also ``sweep``, which is ours; not ``hydra``, whose file every command takes."""
    return tuple(sorted(path.name for path in conf_dir().iterdir() if path.is_dir() and path.name != "hydra"))


@cache
def options(group: str) -> dict[str, str]:
    """Each option of a group with what the head of its file says; a file such as ``_source.yaml`` is there for others to build on."""
    return {file.stem: _head(file) for file in sorted((conf_dir() / group).glob("[!_]*.yaml"))}


@cache
def chosen(command: str) -> dict[str, str]:
    """The groups of a command and the option that each has when nothing is said; ``""`` for none."""
    found: dict[str, str] = {}
    for name, option in _defaults(conf_dir() / f"{command}.yaml"):
        if name in groups():
            found[name] = "" if option in (None, "null") else str(option).strip("[]")
        elif option is None and name != "_self_":
            found |= chosen(name)
    return found


def taken(command: str, words: Sequence[str]) -> dict[str, list[str]]:
    """The groups of a command with the options that ``words`` leave chosen; a logger can be several, and so can what a sweep goes over."""
    given = {key.lstrip("+"): value for key, _, value in (word.partition("=") for word in words)}
    experiment = conf_dir() / "experiment" / f"{given.get('experiment')}.yaml"
    given = {name: option for name, option in _defaults(experiment) if option} | given if experiment.is_file() else given
    return {group: re.findall(r"[\w-]+", given.get(group, option)) for group, option in chosen(command).items()}


@cache
def own_keys(command: str) -> dict[str, Key]:
    """The keys of a command beside those of its groups."""
    file = conf_dir() / f"{command}.yaml"
    inherited = [name for name, option in _defaults(file) if option is None and name not in ("_self_", *groups())]
    return {name: key for parent in inherited for name, key in own_keys(parent).items()} | _keys(file, "")


@cache
def option_keys(group: str, option: str) -> dict[str, Key]:
    """The keys of ``group=option``, those that it takes over from other options included."""
    file = conf_dir() / group / f"{option}.yaml"
    if not file.is_file():
        return {}
    found: dict[str, Key] = {}
    for parent, other in _defaults(file):
        if other is None and parent != "_self_":
            found |= option_keys(group, parent)
    for name, key in _keys(file, f"{group}.").items():
        inherited = found.get(name)
        found[name] = Key(name, key.default, key.meaning or (inherited.meaning if inherited else ""))
    return found


@cache
def every_key(group: str) -> dict[str, Key]:
    """The keys of a group: those of its first option, then what others add, such as ``data.num_images`` of the fake data."""
    found: dict[str, Key] = {}
    for option in (first_option(group), *options(group)):
        found |= {name: key for name, key in option_keys(group, option).items() if name not in found}
    return found


def first_option(group: str) -> str:
    """The option whose file lists and explains the keys that the group's options share; ``""`` where keys belong to the options."""
    name = _FIRST.get(group, "default")
    return name if name in options(group) and group != "callbacks" else ""


def _head(file: Path) -> str:
    lines = file.read_text(encoding="utf-8").splitlines()
    return " ".join(line[2:] for line in lines if line.startswith("# ") and "@package" not in line)


def _defaults(file: Path) -> list[tuple[str, str | None]]:
    """The entries of a file's defaults list: name and option, ``None`` for an entry without one."""
    text = file.read_text(encoding="utf-8").partition("defaults:\n")[2]
    found: list[tuple[str, str | None]] = []
    for line in text.splitlines():
        match = _OVERRIDDEN.match(line)
        if not match:
            if line.strip() and not line.startswith("  - "):
                break
            continue
        found.append((match[1], match[2]))
    return found


def _keys(file: Path, prefix: str) -> dict[str, Key]:
    found: dict[str, Key] = {}
    above: list[str] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        code, _, comment = line.partition(" #") if not line.startswith("#") else ("", "", "")
        match = _KEY.match(code.rstrip())
        if not match:
            continue
        above = [*above[: len(match[1]) // 2], match[2]]
        if above[0] in ("defaults", "hydra"):
            continue
        name, value = prefix + ".".join(above), match[3] or ""
        if value or comment:
            found[name] = Key(name, value, comment.strip())
    return found
