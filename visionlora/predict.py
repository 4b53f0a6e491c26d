"""``python -m visionlora.predict run=DIR input=PATH``: what a run says of images. Thin: compose, call, print."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from visionlora.cli.command import run_command
from visionlora.common.errors import UserError
from visionlora.evaluation.config import PredictConfig

if TYPE_CHECKING:
    from visionlora.tasks.interfaces import Prediction

SHOWN = 20


def predict(config: PredictConfig, folder: Path) -> list[Prediction]:
    """Predict for ``config.input`` with each run; prints a table and writes every row to ``config.output``."""
    from visionlora.common.rows import write_rows, writer_for
    from visionlora.runs.folder import RunFolder

    for run in config.runs:
        if not (Path(run) / "visionlora.json").is_file():
            RunFolder.open(run)  # before torch is imported: a wrong folder is told at once
    output = Path(config.output)
    if output.is_dir() or not output.parent.is_dir():
        raise UserError(f"output={output} cannot be written: it is a folder, or its folder does not exist.")
    if output.exists() and not config.overwrite:
        raise UserError(f"output={output} is there already; name another file with output=FILE, or set overwrite=true to replace it.")
    writer_for(output)
    import torch
    from rich.progress import Progress

    from visionlora.common.console import console
    from visionlora.common.text import counted
    from visionlora.data.inputs import paths_of
    from visionlora.runs.left import Left
    from visionlora.runs.predictor import batches
    from visionlora.runs.several import ensemble, shared
    from visionlora.runs.tables import print_predictions
    from visionlora.tasks.placed import PlacedTask

    pictures = paths_of(config.inputs)
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    found: list[tuple[str, Prediction]] = []
    predictors = {"": ensemble(config.runs)} if config.average == "logits" else shared(config.runs)
    for predictor in predictors.values():
        predictor.model.to(device)
        predictor.tta = config.tta
        if config.threshold is not None:
            predictor.task.tell_from(config.threshold)
    first = next(iter(predictors.values()))
    left = Left(output, config.overwrite, len(predictors) > 1) if isinstance(first.task, PlacedTask) else None
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("images", total=len(pictures))
        for names, prepared in batches(first, pictures, config.batch_size, _workers(config, len(pictures))):
            for run, predictor in predictors.items():
                answers = predictor.of_prepared(names, prepared, config.topk)
                found += [(run, answer if left is None else left.taken(run, answer)) for answer in answers]
            progress.advance(bar, len(names))
    write_rows(output, [_row(run, p, config.topk, several=len(predictors) > 1) for run, p in found])
    if left is not None:
        left.finish(first.task.names)
    print_predictions([p for _, p in found[:SHOWN]], first.task.columns, [run for run, _ in found[:SHOWN]] if len(predictors) > 1 else None)
    failed = sum(bool(p.error) for _, p in found) // len(predictors)
    if failed == len(pictures):
        raise UserError(f"{counted(failed, 'image')}, none of which can be read; {output} has the reasons. The first: {found[0][1].error}")
    unreadable = f", {failed} unreadable" if failed else ""
    console.print(f"{counted(len(pictures), 'image')}{unreadable}: {output}", highlight=False, soft_wrap=True, markup=False)
    return [p for _, p in found]


def _workers(config: PredictConfig, pictures: int) -> int:
    if config.num_workers is not None:
        return config.num_workers
    import torch

    return min(8, torch.get_num_threads() // 2) if pictures > 4 * config.batch_size else 0  # processes take a while to start


def _row(run: str, p: Prediction, topk: int, several: bool) -> dict[str, Any]:
    """Path and error, then the columns of the task."""
    own: dict[str, Any] = ({"run": run} if several else {}) | {"path": p.path, "error": p.error or None}
    return own | {key: value for key, value in p.row(topk).items() if key not in own}


def main() -> None:
    """Run the command line."""
    run_command("predict", PredictConfig, predict)


if __name__ == "__main__":
    main()
