"""Run folders as rows: what differs between them, and seeds of one configuration taken together."""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visionlora.common.errors import UserError, did_you_mean
from visionlora.common.labels import METHODS
from visionlora.common.rows import is_number, shown
from visionlora.reporting.summary import SEEDS_FOR_INTERVAL, Summary
from visionlora.runs import provenance
from visionlora.runs.config import OWN
from visionlora.runs.folder import RunFolder
from visionlora.runs.identity import NO_MATTER, WITHOUT_FILES, flatten
from visionlora.runs.log import Curves, curves_of_finished
from visionlora.tasks.registry import kind_of
from visionlora.tasks.task import Task
from visionlora.tasks.words import has_spread, higher_is_better, is_share, label

Curve = tuple[list[float], list[float]]

NO_CONFIGURATION = (*NO_MATTER, "seed")
"""Keys in which the runs of one configuration may differ."""

WITHOUT_ADAPTERS = ("lora.method", "lora.train_head", "lora.train_norm", "lora.train_bias")
"""What counts of ``lora`` for the head alone and full fine-tuning."""

VALUES_SHOWN = 4
"""Values of a version or machine that a sentence names."""


@dataclass(frozen=True)
class Run:
    """A finished run: ``config`` has a dotted key for each value, ``results`` is ``results.json``."""

    path: Path
    config: dict[str, Any]
    results: dict[str, Any]

    @property
    def task(self) -> type[Task]:
        """What it was trained for.

        Raises:
            UserError: no task of this name is installed.
        """
        try:
            return kind_of(self.results.get("task"))
        except UserError as error:
            raise UserError(f"{self.path}: {error} A package that brings it may not be installed.") from None

    @functools.cached_property
    def curves(self) -> Curves:
        """Those of ``metrics.csv``; none where it is damaged."""
        return curves_of_finished(self.path, self.results)

    def curve(self, metric: str) -> Curve | None:
        """``(epochs, values)`` of a metric of ``metrics.csv``."""
        return self.curves.get(metric)


@dataclass(frozen=True)
class Configuration:
    """Runs that differ in their seed alone. ``changed`` has the keys in which configurations differ, with this one's values."""

    changed: dict[str, Any]
    runs: list[Run]

    @property
    def name(self) -> str:
        """What sets it apart, in words of the command line."""
        return " ".join(f"{key}={shown(value)}" for key, value in self.changed.items() if value is not False) or self.runs[0].path.name

    @property
    def title(self) -> str:
        """What sets it apart, in the words of a paper: ``LoRA, rank 8``."""
        return in_words(self.changed, self.method) or self.runs[0].path.name

    @property
    def task(self) -> type[Task]:
        """What its runs were trained for."""
        return self.runs[0].task

    @property
    def method(self) -> str:
        """``none`` (the head alone), ``norm``, ``full`` or how it adapts."""
        config = self.runs[0].config
        method = str(config.get("lora.method", "lora"))
        return "norm" if method == "none" and config.get("lora.train_norm") else method

    def summary(self, key: str) -> Summary | None:
        """The summary of a figure over the runs, or ``None`` where not every run has it."""
        values = [run.results.get(key) for run in self.runs]
        numbers = [float(value) for value in values if is_number(value) and math.isfinite(value)]
        if not numbers or len(numbers) < len(values):
            return None
        measured = has_spread(key, self.task) and not key.endswith("loss")
        lowest = -math.inf if measured and not is_share(key, self.task) else 0.0
        return Summary(tuple(numbers), lowest, 1.0 if is_share(key, self.task) else math.inf)

    def by_seed(self, key: str) -> dict[Any, float]:
        """A figure of each seed that has it."""
        found = {run.config.get("seed"): run.results.get(key) for run in self.runs}
        return {seed: float(value) for seed, value in found.items() if is_number(value) and math.isfinite(value)}


def in_words(changed: Mapping[str, Any], method: str) -> str:
    """Settings as they are named in a paper, the method first."""
    first = [METHODS.get(method, method)] if "lora.method" in changed else []
    said = {key: value for key, value in changed.items() if key != "lora.method" and value is not False}
    if method == "norm":
        said.pop("lora.train_norm", None)
    return ", ".join([*first, *(label(key) + ("" if value is True else f" {shown(value)}") for key, value in said.items())])


def find_runs(folders: Iterable[str | Path]) -> list[Run]:
    """Every finished run at or below the folders, in the order of their paths; an average of runs, which has no config of its own, is none.

    Raises:
        UserError: a folder is not there, a run's files are damaged, or there is no finished run.
    """
    found: dict[Path, Run] = {}
    below = [Path(folder) for folder in folders]
    for folder in below:
        if not folder.is_dir():
            raise UserError(f"runs={folder}: there is no such folder.")
        for results in sorted(folder.rglob("results.json")):
            if (results.parent / "config.yaml").is_file() and "averaged" not in (run := read_run(results.parent)).results:
                found.setdefault(results.parent.resolve(), run)
    if not found:
        where = ", ".join(str(folder) for folder in below)
        raise UserError(f"runs={where}: no finished run below it (a run that is finished has results.json and config.yaml).")
    return list(found.values())


def read_run(folder: Path) -> Run:
    """One run.

    Raises:
        UserError: its files are damaged.
    """
    run = RunFolder(folder)
    results, config = run.read_results(), run.read_plain_config()
    flat = flatten({key: config[key] for key in OWN if key in config})
    if flat.get("lora.method") in ("none", "full"):  # there is no rank, and what else adapters have
        flat = {key: value for key, value in flat.items() if not key.startswith("lora.") or key in WITHOUT_ADAPTERS}
    if flat.get("data.name") in WITHOUT_FILES:
        flat.pop("data.root", None)
    return Run(folder, flat, results)


def as_rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Path, config and figures of every run; of versions and machine what differs among them."""
    keys = dict.fromkeys(key for run in runs for key in run.results)
    alike = {key for key in keys if provenance.is_provenance(key) and len({shown(run.results.get(key)) for run in runs}) == 1}
    return [{"path": str(run.path), **run.config, **{k: v for k, v in run.results.items() if k not in alike}} for run in runs]


def made_differently(runs: Sequence[Run]) -> str:
    """Versions, machine and settings in which the runs differ, with how many have each value; ``""`` where they are alike."""
    parts = []
    for key in dict.fromkeys(key for run in runs for key in run.results if provenance.is_about_the_machine(key)):
        found = Counter(shown(run.results[key]) for run in runs if key in run.results)
        if len(found) > 1:
            values = [f"{value} ({count})" for value, count in found.most_common(VALUES_SHOWN)]
            parts.append(f"{key} {', '.join(values)}{', …' * (len(found) > VALUES_SHOWN)}")
    return f"The runs were not all made alike: {'; '.join(parts)}." if parts else ""


def configurations(runs: Sequence[Run]) -> list[Configuration]:
    """The runs by configuration, in the order of their first runs."""
    keys = dict.fromkeys(key for run in runs for key in run.config if key not in NO_CONFIGURATION)
    # A key that some runs do not have is one that means nothing for them, or that came later.
    differing = [key for key in keys if len({shown(run.config[key]) for run in runs if key in run.config}) > 1]
    differing = _without_echoes(differing, runs)
    groups: dict[tuple[str, ...], dict[Any, Run]] = {}
    for run in runs:  # of one seed twice the later one counts: it says nothing new of the spread
        groups.setdefault(tuple(shown(run.config.get(key)) for key in keys), {})[run.config.get("seed")] = run
    return [_configuration(differing, list(group.values())) for group in groups.values()]


def ranking_metric(runs: Sequence[Run], asked: str | None) -> str:
    """What to rank by: ``asked``, else the leading measure of the runs' task on validation where every run has it, else on the test.

    Raises:
        UserError: no run has it, or the runs are of different tasks.
    """
    if asked is None:
        tasks = sorted({run.task.name for run in runs})
        if len(tasks) > 1:
            raise UserError(f"these runs are of different tasks ({', '.join(tasks)}); name what to rank by with metric=…, or other runs.")
        lead = runs[0].task.lead().key
        return f"val/{lead}" if all(f"val/{lead}" in run.results for run in runs) else f"test/{lead}"
    known = sorted({key for run in runs for key, value in run.results.items() if is_number(value) and not provenance.is_provenance(key)})
    if asked not in known:
        raise UserError(f"metric={asked}: no run has it; there are {', '.join(known)}.{did_you_mean(asked, known)}")
    return asked


def leading(found: Sequence[Configuration], part: str = "test") -> str:
    """The key under which these configurations have the leading measure of their task."""
    return f"{part}/{found[0].task.lead().key}" if found else f"{part}/loss"


def written(summary: Summary | None, key: str, task: type[Task]) -> str:
    """A summary as it is shown: shares in per cent, all else with four digits; ``""`` for none."""
    if summary is None:
        return ""
    return str(summary) if is_share(key, task) else summary.written("{:,.4g}".format)


def ranked(found: Iterable[Configuration], metric: str) -> list[Configuration]:
    """The best first; those without the figure last."""

    def score(configuration: Configuration) -> float:
        summary = configuration.summary(metric)
        return -math.inf if summary is None else summary.mean if higher_is_better(metric, configuration.task) else -summary.mean

    return sorted(found, key=score, reverse=True)


def spread_in_words(found: Iterable[Configuration]) -> list[str]:
    """What the spreads over seeds are, a sentence for each kind there is."""
    seeds = {len(c.runs) for c in found}
    said = []
    if max(seeds, default=0) >= SEEDS_FOR_INTERVAL:
        said.append("Spreads are 95 % intervals of the mean over seeds (Student's t), no wider than what is possible.")
    if 2 in seeds:
        said.append("Two seeds are too few for an interval: their lowest and highest are given.")
    return said


def _configuration(differing: list[str], runs: list[Run]) -> Configuration:
    config = runs[0].config
    return Configuration({key: config[key] for key in differing if key in config}, runs)


def _without_echoes(keys: list[str], runs: Sequence[Run]) -> list[str]:
    """The keys, but of those that always change together the first alone: a model's name with its source, a method with its learning
    rate.
    """
    kept: dict[tuple[int, ...], str] = {}
    for key in sorted(keys, key=lambda key: (key not in ("lora.method", "lora.r", "optim.lr", "model.name"), keys.index(key))):
        numbers: dict[str, int] = {}
        pattern = tuple(numbers.setdefault(shown(run.config.get(key)), len(numbers)) for run in runs)
        kept.setdefault(pattern, key)
    return [key for key in keys if key in kept.values()]
