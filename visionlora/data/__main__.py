"""``python -m visionlora.data check=DIR``: another way to say ``python -m visionlora.check data=imagefolder data.root=DIR``."""

from __future__ import annotations

import runpy
import sys

TABLES = (".csv", ".tsv", ".parquet")


def as_check(words: list[str]) -> list[str]:
    """The words of ``visionlora.check``: ``check=PATH`` is a table where it is named as one, else class folders or an archive of them."""
    found = []
    for word in words:
        key, _, value = word.partition("=")
        source = "table" if value.lower().endswith(TABLES) else "imagefolder"
        found += [f"data={source}", f"data.root={value}"] if key == "check" else [word]
    return found


if __name__ == "__main__":
    sys.argv[1:] = as_check(sys.argv[1:])
    runpy.run_module("visionlora.check", run_name="__main__", alter_sys=True)  # by name: a part imports no command
