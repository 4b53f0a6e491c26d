"""The terminal, and the log of a run that keeps what was said on it."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from visionlora.common.text import printable

LOG = logging.getLogger("visionlora.run")
"""What happens in a run. Its records go to ``train.log`` while there is one, and nowhere else."""
LOG.propagate = False
LOG.setLevel(logging.INFO)
LOG.addHandler(logging.NullHandler())
WIDTH = 120
"""Characters in a line of a table in the log, however wide the terminal is."""


class _Printable(Console):
    """Rich's console; what a terminal would obey in the names of classes, files and runs is written out.

    What it prints is kept in the run's log too.
    """

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **options)

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*objects, **options)
        if any(isinstance(handler, logging.FileHandler) for handler in LOG.handlers):
            paper = _Printable(file=io.StringIO(), width=WIDTH, no_color=True, force_terminal=False)
            Console.print(paper, *objects, **options)
            text = paper.file.getvalue().rstrip("\n")  # type: ignore[attr-defined]
            LOG.info("%s", f"\n{text}" if "\n" in text else text)


console = _Printable()


class _LogFile(logging.FileHandler):
    """A log file that is made by its first record. A disk that is full costs the record, and nothing else."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, delay=True, encoding="utf-8", errors="backslashreplace")
        self.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's name)
        pass


@contextlib.contextmanager
def kept_in(path: Path) -> Iterator[None]:
    """A context that writes what ``console`` prints and ``LOG`` is told to the end of a file, and the error that ends it, if one does."""
    handler = _LogFile(path)
    LOG.addHandler(handler)
    try:
        yield
    except BaseException as error:
        LOG.error("ended by %s: %s", type(error).__name__, printable(str(error)))
        raise
    finally:
        LOG.removeHandler(handler)
        with contextlib.suppress(OSError):
            handler.close()
