"""``docs/configuration.md`` from the files in ``conf/``: every group, option and key with its default and comment.

python docs/reference.py
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from visionlora.cli.conf import Key, conf_dir, every_key, first_option, groups, options, own_keys

PAGE = Path(__file__).with_name("configuration.md")
INTRO = """# Configuration

Written by `python docs/reference.py` from the files in `conf/`. A group's option is chosen as `group=option`, a key set as `key=value`;
`python -m visionlora.train --help` shows what a command line gives. An unknown key is an error that names the near one.
"""


def page() -> str:
    """The page as text."""
    parts = [INTRO, "## train\n", "Keys of `python -m visionlora.train`, beside the groups below.\n", _table(own_keys("train"))]
    for group in groups():
        parts += [f"## {group}\n", _options(group)]
        if first_option(group):
            parts.append(_table(every_key(group)))
    for file in sorted(conf_dir().glob("*.yaml")):
        if file.stem != "train":
            own = {name: key for name, key in own_keys(file.stem).items() if name not in own_keys("train") or file.stem != "search"}
            parts += [f"## {file.stem}\n", f"Keys of `python -m visionlora.{file.stem}`.\n", _table(own)]
    return "\n".join(parts)


def _options(group: str) -> str:
    lines = ["| option | |", "|---|---|", *(f"| `{group}={name}` | {_cell(meaning)} |" for name, meaning in options(group).items())]
    return "\n".join(lines) + "\n"


def _table(keys: Mapping[str, Key]) -> str:
    lines = ["| key | default | |", "|---|---|---|"]
    lines += [f"| `{key.name}` | {f'`{key.default}`' if key.default else ''} | {_cell(key.meaning)} |" for key in keys.values()]
    return "\n".join(lines if len(lines) > 2 else ["Those of train, and its groups."]) + "\n"


def _cell(text: str) -> str:
    """A comment as it is: what Markdown would take for markup (``DIR/train/CLASS/*``, ``{pattern: rank}``) is escaped outside of code."""
    parts = text.split("`")
    parts[::2] = [re.sub(r"([*{}<\[\]])", r"\\\1", part) for part in parts[::2]]
    return "`".join(parts).replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page())
