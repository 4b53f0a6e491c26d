"""``python -m visionlora.evaluate run=DIR``: how good finished runs are, and where they fail. Thin: compose, call, print."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visionlora.cli.command import run_command
from visionlora.data.config import DataConfig
from visionlora.evaluation.config import EvaluateConfig
from visionlora.runs.data import data_config
from visionlora.runs.folder import RunFolder

if TYPE_CHECKING:
    from visionlora.evaluation.outcome import Outcome


def evaluate(config: EvaluateConfig, folder: Path) -> dict[str, float]:
    """Measure each run's model, float32, on ``config.split``; the figures of the last run.

    Writes ``evaluation_SPLIT.json`` into each run folder and, below ``evaluation_SPLIT/``, ``predictions.csv``, ``classes.json``, the
    plots and the gallery ``mistakes.html``; with ``compare=true`` ``comparison_SPLIT.json`` into the first.
    """
    from visionlora.common.files import inside, replace_file

    runs = [RunFolder.open(path) for path in config.runs]  # before torch is imported: a wrong folder is told at once
    configs = [_data_config(run, config) for run in runs]

    from visionlora.common.rows import write_rows
    from visionlora.evaluation import measure
    from visionlora.evaluation.outcome import outcome, temperature_of
    from visionlora.evaluation.plots import save_all
    from visionlora.evaluation.tables import print_classes, print_comparison, print_metrics, say_left_out

    own_data = config.data is None
    what = config.split if config.data is None else f"{config.split}_{config.data['name']}"  # the run's own evaluation stays
    if config.compare:
        rows = measure.compare(runs, configs, config.split, own_data)
        replace_file(inside(runs[0].path, f"comparison_{what}.json"), json.dumps(measure.as_rows(rows), indent=2).encode())
        print_comparison(rows)
        return rows[-1].outcome.metrics()
    metrics: dict[str, float] = {}
    for run, its_data in zip(runs, configs, strict=True):
        predictor, data = measure.open_run(run, its_data, own_data)
        found = outcome(predictor, data, config.split)
        metrics = found.metrics()
        if config.temperature:
            temperature = temperature_of(outcome(predictor, data, "val"))
            metrics |= {"temperature": temperature, f"{config.split}/ece_scaled": found.scaled(temperature).calibration_error()}
        replace_file(inside(run.path, f"evaluation_{what}.json"), json.dumps(metrics, indent=2).encode())
        print_metrics(metrics, f"{run.path}, {what}")
        say_left_out(found.unreadable)
        print_classes(found)
        details = measure.folder_of(run, what)
        write_rows(inside(details, "predictions.csv"), found.rows())
        replace_file(inside(details, "classes.json"), json.dumps(found.report(), indent=2).encode())
        print(f"every image, with its probabilities: {details / 'predictions.csv'}")
        if config.figures:
            save_all(found, details)
            print(f"confusion, calibration, most wrong: {details}")
            gallery_of(found, details)
    return metrics


def gallery_of(found: Outcome, details: Path) -> None:
    """Write ``mistakes.html`` into a folder, or remove an earlier one where nothing is wrong any more."""
    from visionlora.common.files import inside, replace_file
    from visionlora.evaluation.gallery import gallery

    page = inside(details, "mistakes.html")
    if found.right.all():
        page.unlink(missing_ok=True)
        return
    replace_file(page, gallery(found).encode(errors="surrogateescape"))
    print(f"the mistakes on a page that opens their files: {page}")


def _data_config(run: RunFolder, config: EvaluateConfig) -> DataConfig:
    own = data_config(run, config.root or (config.data or {}).get("root"))
    changed: dict[str, Any] = {"batch_size": config.batch_size, "num_workers": config.num_workers}
    if config.data is not None:  # prepared as the run prepares its pictures
        changed |= {"name": config.data["name"]}
    return replace(own, **{key: value for key, value in changed.items() if value is not None})


def main() -> None:
    """Run the command line."""
    run_command("evaluate", EvaluateConfig, evaluate)


if __name__ == "__main__":
    main()
