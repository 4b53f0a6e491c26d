"""``python -m visionlora.evaluate run=DIR``: how good finished runs are, and where they fail. Thin: compose, call, print."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from visionlora.cli.command import run_command
from visionlora.common.errors import UserError
from visionlora.data.config import DataConfig
from visionlora.evaluation.config import EvaluateConfig
from visionlora.runs.data import data_config
from visionlora.runs.folder import RunFolder


def evaluate(config: EvaluateConfig, folder: Path) -> dict[str, float]:
    """Measure each run's model, float32, on ``config.split``; the metrics of the last run.

    Writes ``evaluation_SPLIT.json`` into each run folder and, below ``evaluation_SPLIT/``, what ``write_outcome`` says; with
    ``compare=true`` ``comparison_SPLIT.json`` and with ``average`` ``average_KIND_SPLIT.json`` into the first.
    """
    from visionlora.common.files import inside, replace_file

    runs = [RunFolder.open(path) for path in config.runs]  # before torch is imported: a wrong folder is told at once
    configs = [_data_config(run, config) for run in runs]

    from visionlora.evaluation import measure
    from visionlora.evaluation.tables import print_comparison, print_metrics, say_left_out, say_what_views_are_worth
    from visionlora.evaluation.writing import write_outcome

    own_data = config.data is None
    what = config.split if config.data is None else f"{config.split}_{config.data['name']}"  # the run's own evaluation stays
    what += "" if config.tta == "none" else f"_{config.tta}"
    if config.average != "none":
        from visionlora.evaluation.averaging import average_and_compare

        return average_and_compare(runs, configs, config, own_data, what)
    if config.compare:
        rows = measure.compare(runs, configs, config.split, own_data)
        replace_file(inside(runs[0].path, f"comparison_{what}.json"), json.dumps(measure.as_rows(rows), indent=2).encode())
        print_comparison(rows)
        return rows[-1].outcome.metrics()
    metrics: dict[str, float] = {}
    for run, its_data in zip(runs, configs, strict=True):
        predictor, data = measure.open_run(run, its_data, own_data)
        if config.temperature and not data.task.calibrates:
            raise UserError(f"temperature=true is for classifiers; the task of {run.path} is {data.task.name}.")
        plain = found = measure.outcome(predictor, data, config.split)
        if config.tta != "none":
            predictor.tta = config.tta
            found = measure.outcome(predictor, data, config.split)
        metrics = found.metrics()
        if config.temperature:
            metrics |= found.calibrated(measure.outcome(predictor, data, "val"))
        replace_file(inside(run.path, f"evaluation_{what}.json"), json.dumps(metrics, indent=2).encode())
        print_metrics(metrics, f"{run.path}, {what}", type(data.task))
        if found is not plain:
            say_what_views_are_worth(plain, found, config.tta)
        say_left_out(found.unreadable)
        found.tell()
        write_outcome(found, measure.folder_of(run, what), config.figures)
    return metrics


def _data_config(run: RunFolder, config: EvaluateConfig) -> DataConfig:
    own = data_config(run, config.root or (config.data or {}).get("root"))
    changed: dict[str, Any] = {"batch_size": config.batch_size, "num_workers": config.num_workers}
    if config.data is not None:  # prepared as the run prepares its images
        changed |= {"name": config.data["name"]}
    return replace(own, **{key: value for key, value in changed.items() if value is not None})


def main() -> None:
    """Run the command line."""
    run_command("evaluate", EvaluateConfig, evaluate)


if __name__ == "__main__":
    main()
