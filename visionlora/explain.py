"""``python -m visionlora.explain run=DIR``: what a run looks at, and where it changed the network. Thin: compose, call, print."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from visionlora.cli.command import run_command
from visionlora.common.errors import UserError
from visionlora.evaluation.config import ExplainConfig

if TYPE_CHECKING:
    from visionlora.runs.folder import RunFolder
    from visionlora.runs.predictor import Predictor


def explain(config: ExplainConfig, folder: Path) -> list[Path]:
    """Write ``explain.png`` and, where there are adapters, ``changes.png``; each below ``figures/`` as PDF too."""
    from visionlora.runs.folder import RunFolder

    run = RunFolder.open(config.run)  # before torch is imported: a wrong folder is told at once
    import torch

    from visionlora.common.drawing import save
    from visionlora.common.files import folder_inside, inside
    from visionlora.common.quiet import quiet
    from visionlora.evaluation.explaining import explain as look
    from visionlora.lora.changes import changes
    from visionlora.reporting.plots import changes_by_layer
    from visionlora.runs.predictor import load
    from visionlora.tasks.placed import PlacedTask

    quiet()
    if config.output is not None and Path(config.output).is_file():
        raise UserError(f"output={config.output} is a file; name a folder.")
    predictor = load(run.path)
    if isinstance(predictor.task, PlacedTask):
        raise UserError(
            f"visionlora.explain colours images by a class of theirs; for task={predictor.task.name} evaluate draws what is seen where."
        )
    paths, labels = _images(config, run, predictor)
    figure, method = look(predictor, paths, config.method, labels)
    if config.output is None:
        output = folder_inside(run.path, "explain")
    else:
        output = Path(config.output)
        output.mkdir(parents=True, exist_ok=True)
    written = [inside(output, "explain.png")]
    save(figure, written[0])
    with torch.no_grad():
        try:
            moved = changes(predictor.model)
        except UserError:  # the head alone, or full fine-tuning
            moved = []
    if moved:
        written.append(inside(output, "changes.png"))
        save(changes_by_layer(moved), written[1])
    print(f"{method}, {len(paths)} images: {', '.join(map(str, written))}")
    return written


def _images(config: ExplainConfig, run: RunFolder, predictor: Predictor) -> tuple[list[Path], list[str | None]]:
    """The images to explain, of the run's test part or those asked for, with what is true of each in words, where it is known."""
    from visionlora.data.inputs import paths_of
    from visionlora.data.module import ImageData
    from visionlora.runs.data import data_config

    if config.input is not None:
        paths = paths_of([config.input])[: config.most]
        return paths, [predictor.task.of_folder(path) for path in paths]
    data = ImageData(data_config(run), record=run.read_split(), task=predictor.task.section())
    images = data.parts.get("test", data.parts["train"])
    if not images.paths:
        raise UserError("the run's data is not in files; name images with input=PATH.")
    chosen = range(0, len(images), max(len(images) // config.most, 1))[: config.most]
    return [Path(images.paths[i]) for i in chosen], [data.task.in_words(images.labels[i]) for i in chosen]


def main() -> None:
    """Run the command line."""
    run_command("explain", ExplainConfig, explain)


if __name__ == "__main__":
    main()
