"""``--help`` of a command: its groups with their options, its keys with their values and what they mean; and ``--version``."""

from __future__ import annotations

import platform
import textwrap
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

import visionlora
from visionlora.backbone.config import BACKBONES
from visionlora.cli.conf import Key, conf_dir, option_keys, options, own_keys, taken
from visionlora.data.config import SOURCES, TRANSFORMS
from visionlora.lora.methods import METHODS
from visionlora.tasks.registry import TASKS

WIDTH = 100
_LEFT = 36
"""Columns of the names and values; what they mean stands beside."""
FLAGS = (
    ("-m, --multirun", "one run for each value: -m lora.r=1,2,4"),
    ("-c job, --cfg job", "print the config that these words make, and stop"),
    ("-sc install=bash", 'completion with the Tab key: eval "$(visionlora -sc install=bash)"; also zsh, and fish'),
    ("--config-dir DIR", "a folder with config files of your own, DIR/GROUP/OPTION.yaml"),
    ("--hydra-help", "Hydra's own options and keys (hydra.run.dir=DIR, hydra/launcher=joblib)"),
    ("--version", "versions, for a report of a fault"),
)


def show_help(command: str, overrides: Sequence[str]) -> None:
    """Print what can be set, with the values that ``overrides`` give."""
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        composed = hydra.compose(command, list(overrides), return_hydra_config=True)
    print(f"{composed.hydra.help.header}\n\n{textwrap.indent(composed.hydra.help.footer, '  ').rstrip()}")
    now = taken(command, overrides)
    for group, option in composed.hydra.runtime.choices.items():  # an experiment chooses as well; a list is not among them
        if group in now and isinstance(option, str):
            now[group] = [option]
    if now:
        print("\nGroups, chosen as GROUP=OPTION (* is chosen):")
    for group in [*now, *(["sweep"] if "trainer" in now else [])]:
        print(f"\n  {group}")
        for option, meaning in options(group).items():
            star = " *" if option in now.get(group, ()) else ""
            print(_line(f"    {option}{star}", meaning))
    print("\nKeys, set as KEY=VALUE (??? is needed):")
    sections = [own_keys(command), *(_keys_of(group, names) for group, names in now.items())]
    for keys in sections:
        lines = [_line(f"  {key.name}={_value(composed, key)}", key.meaning) for key in _set(keys.values())]
        print("\n".join(["", *lines]) if lines else "", end="\n" if lines else "")
    if lines := _brought() if "trainer" in now else []:
        print("\nBrought by installed packages:\n" + "\n".join(lines))
    print("\nOptions:")
    flags = FLAGS if command == "train" else FLAGS[1:]
    print("\n".join(_line(f"  {flag}", meaning) for flag, meaning in flags))


def _brought() -> list[str]:
    """What other packages add to the choices of a key, a line each."""
    return [
        _line(f"  {registry.key}={name}", f"{point.dist.name} {point.dist.version}" if point.dist else point.value)
        for registry in (TASKS, SOURCES, TRANSFORMS, BACKBONES, METHODS)
        for name, point in sorted(registry.brought().items())
    ]


def show_version() -> None:
    """Print the versions that matter; nothing is imported for it."""
    print(f"visionlora {visionlora.__version__}")
    for name in ("torch", "torchvision", "timm", "lightning", "hydra-core"):
        try:
            print(f"{name} {version(name)}")
        except PackageNotFoundError:
            print(f"{name} is not installed")
    print(f"Python {platform.python_version()}, {platform.platform()}")


def _keys_of(group: str, names: Sequence[str]) -> dict[str, Key]:
    if group == "experiment":  # it sets keys of the other groups
        return {}
    return {name: key for option in names for name, key in option_keys(group, option).items()}


def _set(keys: Iterable[Key]) -> list[Key]:
    return [key for key in keys if not key.name.endswith("._target_") and not key.name.startswith("search.space.")]


def _value(composed: DictConfig, key: Key) -> str:
    """The value as it is typed."""
    plain: Any = OmegaConf.to_container(composed, resolve=False)
    for part in key.name.split("."):
        plain = plain.get(part) if isinstance(plain, dict) else None
    if isinstance(plain, dict):
        return "{…}"
    if plain is None or isinstance(plain, bool):
        return {None: "null", True: "true", False: "false"}[plain]
    return "[" + ",".join(map(str, plain)) + "]" if isinstance(plain, list) else str(plain)


def _line(left: str, meaning: str) -> str:
    """``left`` and, beside it or below where it is long, what it means."""
    if not meaning:
        return left
    indent = " " * _LEFT
    beside = left.ljust(_LEFT - 1) + " " if len(left) < _LEFT else f"{left}\n{indent}"
    return beside + textwrap.fill(meaning, WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False).lstrip()
