"""``python -m visionlora.compress run=DIR``: int8 and pruning, measured. Thin: compose, call, print."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from visionlora.cli.command import run_command
from visionlora.exporting.config import CompressConfig

if TYPE_CHECKING:
    from visionlora.exporting.compressing import Compressed


def compress(config: CompressConfig, folder: Path) -> list[Compressed]:
    """Write ``compress/`` into the run folder: ``int8.onnx``, ``results.json``, ``compress.png``."""
    from visionlora.runs.folder import RunFolder

    run = RunFolder.open(config.run)  # before torch is imported: a wrong folder is told at once
    from visionlora.common.drawing import save
    from visionlora.common.files import inside
    from visionlora.exporting.compressing import compress as measure
    from visionlora.exporting.plots import compressed
    from visionlora.exporting.tables import print_compressed

    rows = measure(run, config)
    save(compressed(rows), inside(run.path, "compress", "compress.png"))
    print_compressed(rows)
    print(run.path / "compress")
    return rows


def main() -> None:
    """Run the command line."""
    run_command("compress", CompressConfig, compress)


if __name__ == "__main__":
    main()
