"""``python -m visionlora.export run=DIR format=onnx``: hand a finished run on. Thin: compose, call, print."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from visionlora.cli.command import run_command
from visionlora.exporting.config import ExportConfig

if TYPE_CHECKING:
    from visionlora.exporting.writing import Exported


def export(config: ExportConfig, folder: Path) -> list[Exported]:
    """Write the run's model, merged, in each of ``config.format``; every export is read back and compared first."""
    from visionlora.runs.folder import RunFolder

    run = RunFolder.open(config.run)  # before torch is imported: a wrong folder is told at once
    from visionlora.exporting.export import export as write
    from visionlora.exporting.tables import print_exports

    written = write(run, config.formats, None if config.output is None else Path(config.output), config.overwrite)
    print_exports(written)
    return written


def main() -> None:
    """Run the command line."""
    run_command("export", ExportConfig, export)


class _Callable(ModuleType):
    """This module, which also does what ``vl.export`` does.

    Python binds an imported module to its name in the package: whoever imports this one finds it as ``vl.export`` from then on.
    """

    def __call__(self, *args: Any, **options: Any) -> list[Exported]:
        from visionlora.exporting.model import export as of_model

        return of_model(*args, **options)


if __name__ == "__main__":
    main()
else:
    sys.modules[__name__].__class__ = _Callable
