"""The console script: ``visionlora train lora.r=8`` is ``python -m visionlora.train lora.r=8``."""

from __future__ import annotations

import importlib
import sys

from visionlora.errors import did_you_mean

COMMANDS = {
    "train": "fine-tune a backbone and write a run folder",
    "plan": "what that will take in memory, time and disk: the same settings as train",
    "evaluate": "measure a finished run: run=DIR",
    "export": "hand a finished run on: run=DIR format=timm|onnx|…",
    "explain": "what a run looks at, and where it changed the network: run=DIR",
    "compress": "int8 and pruning, measured: run=DIR",
    "search": "look for good settings with Optuna",
    "report": "compare finished runs: runs=DIR",
    "predict": "classify pictures with a finished run: run=DIR input=FILE_OR_FOLDER",
}


def main() -> None:
    """Run one of ``COMMANDS`` with the rest of the command line."""
    asked = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if asked in COMMANDS:
        command_line = list(sys.argv)
        sys.argv = [command_line[0], *command_line[2:]]
        importlib.import_module(f"visionlora.{asked}").main()
        return
    if asked not in ("-h", "--help"):
        print(f"error: unknown command {asked!r}; there are {', '.join(COMMANDS)}.{did_you_mean(asked, COMMANDS)}", file=sys.stderr)
        sys.exit(2)
    print("usage: visionlora COMMAND [key=value …]\n")
    for name, what in COMMANDS.items():
        print(f"  {name:10} {what}")
    print("\n`visionlora COMMAND --help` shows the keys of a command.")
