"""The average of several runs, of their weights or of their outputs, measured beside each of them."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from visionlora.common.console import console
from visionlora.common.files import inside, replace_file
from visionlora.common.text import counted
from visionlora.data.config import DataConfig
from visionlora.evaluation.config import EvaluateConfig
from visionlora.evaluation.measure import Compared, as_rows, open_run, outcome, row_of
from visionlora.evaluation.tables import print_comparison
from visionlora.lora.adapter_files import WEIGHTS
from visionlora.runs.averaged import Averaged, average
from visionlora.runs.folder import RunFolder
from visionlora.runs.predictor import load
from visionlora.runs.several import ensemble
from visionlora.tasks.interfaces import Outcome


def average_and_compare(
    runs: Sequence[RunFolder], configs: Sequence[DataConfig], config: EvaluateConfig, own_data: bool, what: str
) -> dict[str, float]:
    """Average, measure the average and each run on the same images, print a table, and write it to the first run's folder.

    Args:
        runs: on one backbone, finished.
        configs: of their data.
        config: ``average`` says what is averaged, ``output`` where it is kept.
        own_data: the data is the runs' own.
        what: the part of the data, for the names of files.

    Returns:
        The metrics of the average.

    Raises:
        UserError: the runs cannot be averaged, see ``vl.average`` and ``vl.ensemble``, or were measured on different images.
    """
    kept = None if config.output is None else RunFolder(config.output)
    if kept is not None:
        kept.refuse_foreign()
    _, data = open_run(runs[0], configs[0], own_data)
    if config.average == "weights":
        with tempfile.TemporaryDirectory(prefix="visionlora-") as folder:
            written = write_average(RunFolder(Path(folder, "average")), runs, config.rank)
            predictor, size = load(Path(folder, "average")), (written.folder / WEIGHTS).stat().st_size
    else:
        predictor = ensemble([run.path for run in runs])
    if torch.accelerator.is_available() and (device := torch.accelerator.current_accelerator()) is not None:
        predictor.model.to(device)
    found = outcome(predictor, data, config.split)
    del predictor
    rows = _members(runs, configs, config.split, own_data, found)
    if config.average == "logits":
        size = sum(row.adapter_bytes for row in rows)
    first = _taken_together(rows, f"average of {config.average}", found, size)
    if kept is not None:  # all is well with it
        write_average(kept, runs, config.rank)
        kept.write_results(_results(runs, found, size))
    rows = [first, *rows]
    replace_file(inside(runs[0].path, f"average_{config.average}_{what}.json"), json.dumps(as_rows(rows), indent=2).encode())
    print_comparison(rows)
    if config.average == "weights":
        _tell(written, config)
    return found.metrics()


def write_average(folder: RunFolder, runs: Sequence[RunFolder], rank: int | None) -> Averaged:
    """Write the average of the runs' weights as a run folder that every command takes: the first run's config and split, and its base where
    that cannot be had again by name. There are no checkpoints and curves.

    Raises:
        UserError: the folder holds a run, or see ``vl.average``.
    """
    folder.refuse_foreign()
    base, split = runs[0].read_base(), runs[0].read_split()
    folder.path.mkdir(parents=True, exist_ok=True)
    written = average([run.path for run in runs], folder.adapter, rank=rank)
    folder.mark()
    beside = {folder.split: split, folder.base: base}
    folder.write_config(runs[0].read_plain_config(), [path.name for path, value in beside.items() if value])
    if split:
        folder.write_split(split)
    if base:
        folder.write_base(base)
    return written


def _members(runs: Sequence[RunFolder], configs: Sequence[DataConfig], split: str, own_data: bool, first: Outcome) -> list[Compared]:
    rows = []
    for run, its_data in zip(runs, configs, strict=True):
        predictor, data = open_run(run, its_data, own_data)
        rows.append(row_of(run, predictor, outcome(predictor, data, split), first))
    return rows


def _taken_together(rows: Sequence[Compared], name: str, found: Outcome, size: int) -> Compared:
    """The row of the average: it took what it took to train them all, one after the other."""
    seconds = [row.fit_seconds for row in rows if row.fit_seconds is not None]
    peaks = [row.memory_mib for row in rows if row.memory_mib is not None]
    took = sum(seconds) if len(seconds) == len(rows) else None
    return replace(
        rows[0], name=name, outcome=found, adapter_bytes=size, p=None, fit_seconds=took, memory_mib=max(peaks) if peaks else None
    )


KEPT = ("task", "model", "method", "params/total", "params/trainable")
"""Keys of ``results.json`` that are the same for the runs and their average."""


def _results(runs: Sequence[RunFolder], found: Outcome, size: int) -> dict[str, Any]:
    known = {key: value for key, value in runs[0].read_results().items() if key in KEPT or key.startswith("images/")}
    return known | {"averaged": len(runs), "bytes/adapter": size, **found.metrics()}


def _tell(written: Averaged, config: EvaluateConfig) -> None:
    """Print what was written, what it lost and what it is not."""
    ranks = sorted(set(written.ranks.values()))
    said = [f"{counted(len(written.weights), 'adapter')} averaged"]
    if ranks:
        said[0] += f", rank {ranks[0]}" + (f" to {ranks[-1]}" if len(ranks) > 1 else "")
    if written.lost_in_all > 1e-6:
        worst = max(written.lost, key=lambda layer: written.lost[layer])
        said.append(
            f"rank={config.rank} leaves {written.lost_in_all:.1%} of the update's norm behind, most in {worst} ({written.lost[worst]:.1%})"
        )
    if written.statistics:
        said.append("batch-norm statistics moved in training (model.freeze_bn=false) and were averaged too, not measured anew")
    said.append(f"it is in {config.output}" if config.output else "output=DIR keeps it")
    console.print("; ".join(said) + ".", highlight=False, soft_wrap=True, markup=False)
