"""``python -m visionlora.evaluate run=DIR``: the metrics of a finished run on one of its splits. Thin: compose, call, print."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from visionlora.app import run_command
from visionlora.config import DataConfig, EvaluateConfig, checked


def evaluate(config: EvaluateConfig, folder: Path) -> dict[str, float]:
    """Measure the run's model, float32, on ``config.split``; writes ``evaluation_SPLIT.json`` into the run folder."""
    import json

    from visionlora.files import replace_file
    from visionlora.run_folder import RunFolder

    run = RunFolder.open(config.run)  # before torch is imported: a wrong folder is told at once
    data_config = checked(DataConfig, run.read_section("data"))
    changed: dict[str, Any] = {"root": config.root, "batch_size": config.batch_size, "num_workers": config.num_workers}
    data_config = replace(data_config, **{key: value for key, value in changed.items() if value is not None})

    from visionlora.evaluation import measure
    from visionlora.tables import print_metrics

    metrics = measure(run, data_config, config.split)
    replace_file(run.path / f"evaluation_{config.split}.json", json.dumps(metrics, indent=2).encode())
    print_metrics(metrics, f"{run.path}, {config.split}")
    return metrics


def main() -> None:
    """Run the command line."""
    run_command("evaluate", EvaluateConfig, evaluate)


if __name__ == "__main__":
    main()
