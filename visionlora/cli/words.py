"""The words of a command line: options to the front, settings as ``key=value``, and what to type where a word is neither."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra.errors import HydraException

from visionlora.cli.conf import groups, options
from visionlora.cli.overrides import Override, arguments_parser, parsed
from visionlora.cli.suggest import meant, near, typed
from visionlora.common.errors import UserError, nearest

PATHS = (
    "data.root",
    "data.classes",
    "data.exclude",
    "lora.reference",
    "model.weights",
    "ckpt_path",
    "root",
    "run",
    "runs",
    "input",
    "output",
    "hydra.run.dir",
    "hydra.sweep.dir",
)
"""Keys whose value is a path, which may hold any character."""
_FORM = "settings are key=value, as in lora.r=8"


@dataclass
class CommandLine:
    """A command line taken apart: options as they were typed, ``options`` parsed, and the settings with what Hydra makes of each."""

    flags: list[str]
    options: argparse.Namespace
    settings: list[tuple[str, Override]]

    @property
    def words(self) -> list[str]:
        """The command line again, options first."""
        return [*self.flags, *(word for word, _ in self.settings)]


def taken_apart(words: Sequence[str], known: dict[str, str]) -> CommandLine:
    """``words`` as options and settings; a path that Hydra would not take as it is has been quoted.

    Args:
        words: the command line without the command.
        known: the names of the command's keys and groups, each with the words that it needs beside it.

    Raises:
        UserError: a word is no option, or not ``key=value``.
    """
    flags, given, rest = _options(words, known)
    many = given.multirun or any(word.startswith("sweep=") for word in rest)
    return CommandLine(flags, given, [_setting(rest, number, known, many) for number in range(len(rest))])


def _options(words: Sequence[str], known: dict[str, str]) -> tuple[list[str], argparse.Namespace, list[str]]:
    parser = arguments_parser()
    parser.allow_abbrev = False
    parser.exit_on_error = False
    flags = [name for action in parser._actions for name in action.option_strings if not (name == "--run" and "run" in known)]
    for number, word in enumerate(words):
        name = word.partition("=")[0]
        if re.match(r"--?[A-Za-z]", word) and name not in flags and (number == 0 or words[number - 1] not in flags):
            raise UserError(_unknown_option(word, words[number + 1 :], flags, known))
    try:
        given, _ = parser.parse_known_intermixed_args(list(words))
    except argparse.ArgumentError as error:
        raise UserError(f"{error}; --hydra-help lists Hydra's options.") from None
    rest: list[str] = given.overrides
    front = list(words)
    for word in reversed(rest):
        del front[len(front) - 1 - front[::-1].index(word)]
    return front, given, rest


def _unknown_option(word: str, after: Sequence[str], flags: list[str], known: dict[str, str]) -> str:
    name, equals, value = word.lstrip("-").partition("=")
    if name.startswith("no-"):
        name, equals, value = name.removeprefix("no-"), "=", "false"
    if not equals:
        value = after[0] if after and "=" not in after[0] and not after[0].startswith("--") else "VALUE"
    if sure := meant(name, known):
        return f"unknown option {word}: settings have no dashes; write {typed(sure[0], value, known)}."
    if close := nearest(word.partition("=")[0], flags, 1):
        return f"unknown option {word}. Did you mean {close[0]}?"
    if maybe := near(name, known):
        return f"unknown option {word}: settings have no dashes. Did you mean {typed(maybe[0], value, known)}?"
    return f"unknown option {word}: {_FORM}, and --help lists them all."


def _setting(words: list[str], number: int, known: dict[str, str], many: bool) -> tuple[str, Override]:
    word = words[number]
    key, equals, value = word.partition("=")
    literal = key.lstrip("+") in PATHS and bool(value) and value[0] not in "'\"["
    if literal and value.startswith("~"):
        return _parsed(f"{key}={_quoted(str(Path(value).expanduser()))}")
    try:
        found = _parsed(word)
    except HydraException:
        if literal:
            return _parsed(f"{key}={_quoted(value)}")
        raise UserError(_unreadable(words, number, known)) from None
    if literal and found[1].is_sweep_override() and not many and Path(value).exists():
        return _parsed(f"{key}={_quoted(value)}")
    if equals and not value and number + 1 < len(words) and "=" not in words[number + 1]:
        raise UserError(f"a setting is one word without spaces around =: write {typed(key, words[number + 1], known)}.")
    return found


def _parsed(word: str) -> tuple[str, Override]:
    return word, parsed([word])[0]


def _quoted(text: str) -> str:
    """``text`` as Hydra reads it back: backslashes count before a quote only."""
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", text)
    return "'" + re.sub(r"(\\+)$", r"\1\1", escaped) + "'"


def _unreadable(words: list[str], number: int, known: dict[str, str]) -> str:
    word, after = words[number], words[number + 1 :]
    key, equals, value = word.partition("=")
    if not equals:
        return _bare(word, after, known)
    if re.search(r"\s[\w.]+=", value) and "{" not in value:
        return f"{word!r} holds several settings; give each as a word of its own: {word}."
    if (key, value) != (key.strip(), value.strip()) or value.startswith("="):
        return f"a setting is one word without spaces around =: write {typed(key.strip(), value.strip(' ='), known)}."
    if value.endswith(","):
        return f"{word} ends with a comma: write {typed(key, value.rstrip(','), known)}."
    if value.isprintable() and not set(value) & set("{}[]'\"\\"):
        return f"cannot read {word!r} as key=value; quote the value for Hydra and the shell: {key}=\"'{value}'\"."
    return f"""cannot read {word!r} as key=value; quote what the shell or Hydra would take apart, as in 'lora.targets=[qkv,fc1]' or \
"lora.targets='re:.*[13]'"."""


def _bare(word: str, after: list[str], known: dict[str, str]) -> str:
    """What to type in the place of a word that has no ``=``."""
    if word.lower() in ("help", "version"):
        return f"{word} is not a setting; write --{word.lower()}."
    key, colon, value = word.partition(":")
    sure = meant(key, known)
    if sure and not colon and after and ("=" not in after[0] or after[0].startswith("=")):
        value = after[0].lstrip("=") or (after[1] if len(after) > 1 else "")
    if sure and value:
        return f"a setting is one word without spaces around =: write {typed(sure[0], value, known)}."
    if sure:
        return f"{word} has no value: write {sure[0]}=VALUE."
    path = Path(word).expanduser()
    if path.exists() or "/" in word:
        own = next(
            (name for name in ("runs", "run", "input") if name in known and not (name == "run" and _pictures(path, known))), "data.root"
        )
        return f"{word} is not a setting; write {typed(own, word, known)}."
    having = [group for group in groups() if group in known and word in options(group) and word not in ("default", "none")]
    if having:
        return f"{word} is not a setting; write {having[0]}={word}."
    return f"{word!r} is not a setting: {_FORM}, and --help lists them all."


def _pictures(path: Path, known: dict[str, str]) -> bool:
    return "input" in known and not (path / "config.yaml").is_file()
