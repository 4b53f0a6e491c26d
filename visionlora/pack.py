"""``python -m visionlora.pack data=imagefolder data.root=DIR output=SHARDS``: images as shards. Thin: compose, call, print."""

from __future__ import annotations

from pathlib import Path

from visionlora.cli.command import run_command
from visionlora.data.pack_config import PackConfig


def pack(config: PackConfig, folder: Path) -> int:
    """Write the images and labels as shards; the number of images."""
    from visionlora.data.packing import pack as packed

    return packed(config)


def main() -> None:
    """Run the command line."""
    run_command("pack", PackConfig, pack)


if __name__ == "__main__":
    main()
