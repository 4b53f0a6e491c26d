"""``docs/configuration.md`` from the files in ``conf/``: every group, option and key with its default and comment.

python docs/reference.py
"""

from __future__ import annotations

import re
from pathlib import Path

CONF = Path(__file__).parents[1] / "conf"
PAGE = Path(__file__).with_name("configuration.md")
FIRST = {"model": "timm", "data": "imagefolder", "optim": "adamw"}
"""Options that show every key of their group; else ``default``."""
KEY = re.compile(r"^( *)([\w/.]+): *(.*?)(?: +# (.*))?$")
INTRO = """# Configuration

Written by `python docs/reference.py` from the files in `conf/`. A group's option is chosen as `group=option`, a key set as `key=value`;
`python -m visionlora.train --help` shows what a command line gives. An unknown key is an error that names the near one.
"""


def page() -> str:
    """The page as text."""
    parts = [INTRO, "## train\n", "Keys of `python -m visionlora.train`, beside the groups below.\n", _table(CONF / "train.yaml", "")]
    for folder in sorted(path for path in CONF.iterdir() if path.is_dir()):
        parts += [f"## {folder.name}\n", _options(folder)]
        first = folder / f"{FIRST.get(folder.name, 'default')}.yaml"
        if first.is_file() and folder.name not in ("callbacks", "logger"):
            parts.append(_table(first, f"{folder.name}."))
    for file in sorted(CONF.glob("*.yaml")):
        if file.stem != "train":
            parts += [f"## {file.stem}\n", f"Keys of `python -m visionlora.{file.stem}`.\n", _table(file, "")]
    return "\n".join(parts)


def _options(folder: Path) -> str:
    lines = ["| option | |", "|---|---|"]
    for file in sorted(folder.glob("*.yaml")):
        head = [line[2:] for line in file.read_text().splitlines() if line.startswith("# ") and "@package" not in line]
        lines.append(f"| `{folder.name}={file.stem}` | {_cell(' '.join(head))} |")
    return "\n".join(lines) + "\n"


def _table(file: Path, prefix: str) -> str:
    lines = ["| key | default | |", "|---|---|---|"]
    above: list[str] = []
    for line in file.read_text().splitlines():
        found = KEY.match(line)
        if not found or line.startswith("#"):
            continue
        indent, key, value, comment = found.groups()
        above = [*above[: len(indent) // 2], key]
        if above[0] in ("defaults", "hydra"):
            continue
        name = prefix + ".".join(above)
        if value or comment:
            lines.append(f"| `{name}` | {f'`{value}`' if value else ''} | {_cell(comment or '')} |")
    return "\n".join(lines if len(lines) > 2 else ["Those of train, and its groups."]) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page())
