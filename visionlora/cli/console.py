"""The console script: ``visionlora train lora.r=8`` is ``python -m visionlora.train lora.r=8``."""

from __future__ import annotations

import importlib
import sys

from visionlora.cli.commands import COMMANDS


def main() -> None:
    """Run one of ``COMMANDS`` with the rest of the command line."""
    words = sys.argv[1:]
    asked = words[0] if words else "--help"
    if asked in COMMANDS:
        sys.argv = [sys.argv[0], *words[1:]]
        importlib.import_module(f"visionlora.{asked}").main()
    elif asked in ("-h", "--help", "help"):
        _help()
    elif asked in ("--version", "-V", "version"):
        from visionlora.cli.help import show_version

        show_version()
    elif asked in ("-sc", "--shell-completion"):
        from visionlora.cli.completion import complete

        complete(words[1:])
    else:
        print(f"error: {_unknown(asked, words)}", file=sys.stderr)
        sys.exit(2)


def _help() -> None:
    print("usage: visionlora COMMAND [key=value …]\n")
    for name, what in COMMANDS.items():
        print(f"  {name:10} {what}")
    print(
        "\nvisionlora COMMAND --help    the keys of a command\nvisionlora --version         versions, for a report of a fault"
        '\neval "$(visionlora -sc install=bash)"    completion with the Tab key; also zsh, and fish (docs/troubleshooting.md)'
    )


def _unknown(asked: str, words: list[str]) -> str:
    from visionlora.common.errors import did_you_mean

    if "=" in asked or asked.startswith("-"):
        return f"the command comes first: write visionlora train {' '.join(words)}, or another of {', '.join(COMMANDS)}."
    return f"unknown command {asked!r}; there are {', '.join(COMMANDS)}.{did_you_mean(asked, COMMANDS)}"
