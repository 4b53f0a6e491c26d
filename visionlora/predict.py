"""``python -m visionlora.predict run=DIR input=PATH``: classify pictures. Thin: compose, call, print."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING

from visionlora.app import run_command
from visionlora.config import PredictConfig
from visionlora.errors import UserError

if TYPE_CHECKING:
    from visionlora.predictor import Prediction

SHOWN = 20


def predict(config: PredictConfig, folder: Path) -> list[Prediction]:
    """Classify ``config.input``; prints a table and writes every row to ``config.output``."""
    from visionlora.files import replace_file
    from visionlora.run_folder import RunFolder

    if not (Path(config.run) / "visionlora.json").is_file():
        RunFolder.open(config.run)  # before torch is imported: a wrong folder is told at once
    output = Path(config.output)
    if output.is_dir() or not output.parent.is_dir():
        raise UserError(f"output={output} cannot be written: it is a folder, or its folder does not exist.")
    import torch

    from visionlora.data.pictures import find_pictures
    from visionlora.predictor import load
    from visionlora.tables import console, print_predictions

    pictures = find_pictures(config.input)
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    predictor = load(config.run)
    predictor.model.to(device)
    predictions = predictor.predict(pictures, config.topk, config.batch_size)
    replace_file(output, to_csv(predictions, config.topk).encode())
    print_predictions(predictions[:SHOWN])
    failed = sum(bool(p.error) for p in predictions)
    console.print(
        f"{len(predictions)} pictures{f', {failed} of them unreadable' if failed else ''}: {config.output}",
        highlight=False,
        soft_wrap=True,
        markup=False,
    )
    return predictions


def to_csv(predictions: list[Prediction], topk: int) -> str:
    """One row a picture: path, error, then class and probability of each of the ``topk``."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["path", "error", *(f"{what}{k}" for k in range(1, topk + 1) for what in ("class", "probability"))])
    for p in predictions:
        pairs = zip(p.labels, p.probabilities, strict=True)
        writer.writerow([p.path, p.error, *(cell for label, probability in pairs for cell in (label, f"{probability:.6f}"))])
    return text.getvalue()


def main() -> None:
    """Run the command line."""
    run_command("predict", PredictConfig, predict)


if __name__ == "__main__":
    main()
