"""What an evaluation leaves in its folder."""

from __future__ import annotations

import json
from pathlib import Path

from visionlora.common.drawing import save
from visionlora.common.files import inside, replace_file
from visionlora.common.rows import write_rows
from visionlora.tasks.interfaces import Outcome

PAGE = "mistakes.html"


def write_outcome(found: Outcome, folder: Path, plots: bool = True) -> None:
    """Write ``predictions.csv``, the task's files of JSON and, with ``plots``, its plots (as PNG, and as PDF below ``figures/``) and
    the page of the mistakes; say where they are. What an earlier evaluation drew and this one has no reason to is removed.
    """
    write_rows(inside(folder, "predictions.csv"), found.rows())
    for name, content in found.details().items():
        replace_file(inside(folder, name), json.dumps(content, indent=2).encode())
    print(f"every image, with what is predicted: {folder / 'predictions.csv'}")
    if not plots:
        return
    all_plots = found.plots()
    drawn = {name: plot for name, plot in all_plots.items() if plot is not None}
    for name, plot in drawn.items():
        save(plot, inside(folder, f"{name}.png"))
    for stale in all_plots.keys() - drawn.keys():  # last: on a full disk what was there stands
        inside(folder, f"{stale}.png").unlink(missing_ok=True)
        inside(folder, "figures", f"{stale}.pdf").unlink(missing_ok=True)
    if drawn:
        print(f"{', '.join(drawn).replace('_', ' ')}: {folder}")
    _write_page(found, inside(folder, PAGE))


def _write_page(found: Outcome, page: Path) -> None:
    text = found.page()
    if text is None:
        page.unlink(missing_ok=True)
        return
    replace_file(page, text.encode(errors="surrogateescape"))
    print(f"the mistakes on a page that opens their files: {page}")
