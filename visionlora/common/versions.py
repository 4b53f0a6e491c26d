"""Versions of installed packages, and the commit of a checkout."""

from __future__ import annotations

import os
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def package_version(name: str) -> str | None:
    """The version of an installed package."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def commit(root: Path) -> dict[str, str]:
    """``versions/commit`` of a git checkout, ending in ``-dirty`` where its files have been changed; nothing anywhere else."""
    if not (root / ".git").exists():  # asked first: git would answer for any checkout that the package is installed below
        return {}
    ask = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    own = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}  # in a hook they name another repository
    try:
        done = subprocess.run(ask, capture_output=True, text=True, timeout=10, env=own | {"GIT_OPTIONAL_LOCKS": "0"})
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"versions/commit": done.stdout.strip()} if done.returncode == 0 else {}
