"""Other ways to say it: ``python -m visionlora.data check=DIR`` is ``python -m visionlora.check data=imagefolder data.root=DIR``, and
``pack=DIR out=SHARDS`` is ``python -m visionlora.pack data=imagefolder data.root=DIR output=SHARDS``.
"""

from __future__ import annotations

import runpy
import sys

TABLES = (".csv", ".tsv", ".parquet")


def as_command(words: list[str]) -> tuple[str, list[str]]:
    """The command that is meant, and its words: a path is a table where it is named as one, else class folders or an archive of them."""
    command, found = "check", []
    for word in words:
        key, _, value = word.partition("=")
        if key in ("check", "pack"):
            command = key
            found += [f"data={'table' if value.lower().endswith(TABLES) else 'imagefolder'}", f"data.root={value}"]
        else:
            found.append(f"output={value}" if key == "out" else word)
    return command, found


if __name__ == "__main__":
    name, sys.argv[1:] = as_command(sys.argv[1:])
    runpy.run_module(f"visionlora.{name}", run_name="__main__", alter_sys=True)  # by name: a part imports no command
