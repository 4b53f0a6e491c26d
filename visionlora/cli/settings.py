"""The settings of a command line, checked before Hydra composes anything: are there such keys and options, do they go together?"""

from __future__ import annotations

import dataclasses
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_type_hints

from hydra.conf import HydraConf

from visionlora.cli.conf import chosen, every_key, groups, option_keys, options, own_keys, taken
from visionlora.cli.overrides import Override
from visionlora.cli.suggest import typed, unknown, unknown_option
from visionlora.cli.words import CommandLine, taken_apart
from visionlora.common.errors import UserError, did_you_mean
from visionlora.common.processes import process_rank
from visionlora.common.trainer_config import SET_BY_US, TrainerConfig
from visionlora.tasks.registry import TASKS

LISTS = (
    "callbacks",
    "data.crop_scale",
    "data.label",
    "format",
    "input",
    "logger",
    "lora.exclude",
    "lora.targets",
    "prune",
    "run",
    "runs",
    "task.center",
    "task.scale",
    "task.thresholds",
    "trainer.devices",
)
"""Keys and groups that take a list."""
FREE = ("callbacks.", "logger.", "lora.targets.", "search.space.")
"""Where there may be keys that no file lists."""
OPEN = ("data.options.", "task.")
"""Beginnings of keys that belong to what is chosen, maybe from an installed package; they can be set without a ``+``."""
NEEDED = {
    "model": "model=NAME",
    "task": "task=classify",
    "data": "data=NAME",
    "lora": "lora=none for the head alone",
    "optim": "optim=adamw",
    "trainer": "trainer=default",
}


def named(words: Sequence[str]) -> list[str]:
    """``words`` with ``task.name=NAME`` in place of ``task=NAME`` for a task that has no file, as an installed package brings it."""
    folders = [
        word.partition("=")[2] or after
        for word, after in zip(words, [*words, ""][1:], strict=True)
        if word.startswith(("--config-dir", "-cd"))
    ]
    own = {file.stem for folder in folders for file in Path(folder, "task").glob("*.yaml")}
    brought = {name for name in TASKS if name not in options("task")} - own

    def of_a_package(word: str) -> bool:
        key, _, names = word.partition("=")
        return key == "task" and bool(brought & {*names.split(",")})

    return [word.replace("=", ".name=", 1) if of_a_package(word) else word for word in words]


def prepared(command: str, words: Sequence[str]) -> CommandLine:
    """The words of a command line as Hydra takes them, checked.

    Raises:
        UserError: a word that is not ``key=value``, a key or an option that there is not, or settings that do not go together.
    """
    known, elsewhere = _keys(command, words)
    names = known | elsewhere
    line = taken_apart(words, names)
    told = ("hydra_help", "cfg", "info", "shell_completion", "experimental_rerun")
    if any(getattr(line.options, name) for name in told):
        return line
    settings = line.settings
    foreign = line.options.config_dir or line.options.config_path or line.options.config_name
    if not (foreign or any(word.startswith("hydra.searchpath") for word, _ in settings)):
        for _, override in settings:
            _check_name(command, override, known, elsewhere)
    _check_together(command, settings)
    if not line.options.multirun and not any(word.startswith("sweep=") for word, _ in settings):
        for word, override in settings:
            _check_single(command, word, override)
    _say_what_is_given_twice(settings)
    return line


def opened(command: str, words: Sequence[str]) -> list[str]:
    """Words that have been checked, with ``++`` before those whose key may be in no file, so that Hydra takes them.

    The space of a search is the user's, the options of a source its package's, and the file of a source lists what it reads, which need
    not be what the others of a sweep do; of a source that is a file of the user's it is not known here.
    """
    sources = [option_keys("data", name) or option_keys("data", "_source") for name in taken(command, words).get("data", ())]
    unread = tuple(f"{key}=" for key in every_key("data") if any(key not in keys for keys in sources))
    return [f"++{word}" if word.startswith(("search.space=", *OPEN, *unread)) else word for word in words]


def _without_folder() -> list[str]:
    """Data that is read from no ``data.root``."""
    return [name for name in options("data") if "data.root" not in option_keys("data", name)]


def _keys(command: str, words: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Names of the keys and groups that these words can set; and of the keys that would need other words beside them, with those."""
    given = {key.lstrip("+~"): value for key, _, value in (word.partition("=") for word in words)}
    known = dict.fromkeys(own_keys(command), "")
    elsewhere: dict[str, str] = {}
    for group, names in taken(command, words).items():
        known[group] = ""
        for name in names:
            known |= dict.fromkeys(option_keys(group, name), "")
        if group == "data" and names:  # a sweep over several sources tells each what one of them reads
            known |= dict.fromkeys(every_key(group), "")
        for other in options(group) if group not in ("experiment", "sweep") else ():
            elsewhere |= {key: f"{group}={other}" for key in option_keys(group, other) if key not in known and key not in elsewhere}
    if "trainer" in known:
        known["sweep"] = ""
        plus = (field.name for field in dataclasses.fields(TrainerConfig))
        elsewhere |= {f"trainer.{name}": "+" for name in plus if f"trainer.{name}" not in known}
    if "data.root" in known and given.get("data", chosen(command).get("data")) in _without_folder() and "experiment" not in given:
        known["data.root"] = "data=imagefolder"
    if "data.root" in elsewhere:
        elsewhere = {key: "data=imagefolder" if key.startswith("data.") else words for key, words in elsewhere.items()}
    return known, elsewhere


def _check_name(command: str, override: Override, known: dict[str, str], elsewhere: dict[str, str]) -> None:
    key, text = override.key_or_group, str(override.input_line).partition("=")[2]
    if override.is_delete():
        if key in NEEDED and key in known:
            raise UserError(f"~{key} leaves out what a run needs; choose another one: {NEEDED[key]}.")
        return
    if key.startswith("hydra."):
        _check_hydra_key(key)
    elif key in groups() and key in known:
        _check_options(key, override, text)
    elif key.startswith("hydra/") or (key.startswith(FREE) and (override.is_add() or override.is_force_add())) or key.startswith(OPEN):
        return
    elif key in elsewhere and elsewhere[key] == "+":
        if not (override.is_add() or override.is_force_add()):
            raise UserError(f"{key} is not in the config yet: write +{key}={text}.")
    elif key in elsewhere:
        raise UserError(f"{key} belongs to {elsewhere[key]}: write {elsewhere[key]} {typed(key, text, {})}.")
    elif key.startswith("trainer.") and key.partition(".")[2] in SET_BY_US:
        raise UserError(f"{key} is set by every run itself; callbacks and loggers have groups of their own (callbacks=…, logger=…).")
    elif key not in known and not any(name.startswith(f"{key}.") for name in known):
        raise UserError(unknown(key, text, known | elsewhere))


def _check_hydra_key(key: str) -> None:
    section: Any = HydraConf
    for number, part in enumerate(key.split(".")[1:], start=1):
        if not dataclasses.is_dataclass(section):  # a mapping: launcher, sweeper, logging
            return
        hints = get_type_hints(section)
        if part not in hints:
            above = ".".join(key.split(".")[:number])
            raise UserError(f"unknown key {key}: --hydra-help lists Hydra's.{did_you_mean(key, [f'{above}.{name}' for name in hints])}")
        section = hints[part]


def _check_options(group: str, override: Override, text: str) -> None:
    if group == "sweep" or override.package is not None:
        return
    if override.is_sweep_override():
        values = re.sub(r"^choice\((.*)\)$", r"\1", text).split(",")
        if "(" in "".join(values) or "[" in text:
            return
    else:
        values = text.strip("[]").split(",") if text.startswith("[") else [text]
    known = options(group) | (dict.fromkeys(TASKS, "") if group == "task" else {})
    for value in (value.strip().strip("'\"") for value in values):
        if value not in known and value != "null" and not (text.startswith("[") and not value):
            raise UserError(unknown_option(group, value, known))
    if text.startswith("[") and group not in LISTS:
        raise UserError(f"{group}={text}: one of them is chosen, not a list; for one run each: -m {group}={text.strip('[]')}.")


def _check_together(command: str, settings: Sequence[tuple[str, Override]]) -> None:
    given = {override.key_or_group: word.partition("=")[2] for word, override in settings}
    if "experiment" in given or command not in ("train", "search"):
        return
    model, name = given.get("model", chosen("train")["model"]), given.get("model.name")
    weights = option_keys("model", model).get("model.weights")
    library, slash, rest = (name or "").partition("/")
    if slash and library in ("timm", "torchvision"):
        raise UserError(f"model.name={name}: the library is an option; write model={library} model.name={rest}.")
    own = weights is not None and weights.default != "null" and "model.weights" not in given and given.get("model.pretrained") != "false"
    if name is not None and own and name != option_keys("model", model)["model.name"].default:
        short = [option for option in options("model") if name in (option, option_keys("model", option)["model.name"].default)]
        instead = f"model={short[0]}" if short else f"model=timm model.name={name}"
        raise UserError(f"model.name={name} with model={model}, whose weights are another model's: write {instead}.")
    data = given.get("data", chosen("train")["data"])
    if "data.root" in given and data in _without_folder() and "ckpt_path" not in given:
        instead = typed("data.root", given["data.root"], {"data.root": "data=imagefolder"})
        raise UserError(f"data={data} reads no data.root; for images in class folders write {instead}.")


def _check_single(command: str, word: str, override: Override) -> None:
    """One run cannot have several values."""
    if not override.is_sweep_override():
        return
    key, text = override.key_or_group, word.partition("=")[2]
    if key in LISTS:
        several = f", or for one run each -m {typed(key, text, {})}" if command == "train" else ""
        raise UserError(f"{word} is a list, which has brackets: write {typed(key, f'[{text}]', {})}{several}.")
    if re.fullmatch(r"0,\d+", text):
        raise UserError(f"{word}: decimals have a point; write {typed(key, text.replace(',', '.'), {})}.")
    if command == "search":
        space = shlex.quote(f"search.space={{{key}: [{text}]}}")
        raise UserError(f"{word}: a search varies what search.space names; write {space}.")
    if command == "train":
        quoted = f" (a text with a comma is quoted: {key}=\"'{text}'\")" if " " in text else ""
        raise UserError(f"{word} asks for several runs, which -m allows: write -m {shlex.quote(word)}{quoted}.")
    raise UserError(f"{word}: this command takes one value here.")


def _say_what_is_given_twice(settings: Sequence[tuple[str, Override]]) -> None:
    seen: dict[str, str] = {}
    for word, override in settings:
        key = override.key_or_group
        if key in seen and not key.startswith("hydra") and not process_rank() and seen[key] != word:
            print(f"note: {key} is given twice; the last one counts: {word}", file=sys.stderr)
        seen[key] = word
