"""``python -m visionlora.check data=imagefolder data.root=DIR``: what is wrong with images and labels. Thin: compose, call, print."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from visionlora.checking.config import CheckConfig
from visionlora.cli.command import run_command

if TYPE_CHECKING:
    from visionlora.data.findings import Finding


def check(config: CheckConfig, folder: Path) -> list[Finding]:
    """Unreadable, blank and small images, copies, also across parts, and labels that are likely wrong."""
    from visionlora.train import refuse_missing_files

    refuse_missing_files(config)
    from visionlora.checking.run import check as checked

    return checked(config)


def main() -> None:
    """Run the command line."""
    run_command("check", CheckConfig, check)


if __name__ == "__main__":
    main()
