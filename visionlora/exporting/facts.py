"""What an export knows of its model beside the weights, and ``preprocessing.json``, which tells it to whoever uses the model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from visionlora.backbone.info import BackboneInfo, BackboneSpec, Preprocessing
from visionlora.tasks.registry import kind_of
from visionlora.tasks.task import Task

WEIGHTS, TORCH_WEIGHTS, ONNX, PROGRAM = "model.safetensors", "model.pt", "model.onnx", "model.pt2"
PREPROCESSING, CARD = "preprocessing.json", "README.md"
LOGITS, FOUND = "logits", "found"
"""Outputs of a graph of ONNX: what the model gives, and what is found in it, see ``exporting.found``."""
OTHER_KEYS = ("backbone", "classes", "input_size")
"""Keys of ``preprocessing.json`` beside those of ``Preprocessing``."""


@dataclass(frozen=True)
class Facts:
    """What is known of a model.

    Args:
        name: ``timm/resnet18``, or the class of a module from elsewhere.
        num_classes: number of outputs.
        shape: of one prepared image, ``(C, H, W)``.
        classes: names in the order of the outputs; empty where nobody has told them.
        preprocessing: how an image is prepared; ``None`` where nobody has told it.
        spec: how timm or torchvision builds the model; ``None`` for a module from elsewhere.
        task: what the outputs are for.
        options: of the task, as far as they are not the usual ones.
        fingerprint: of the weights that training started from; empty where it is not known.
    """

    name: str
    num_classes: int
    shape: tuple[int, int, int]
    classes: Sequence[str] = ()
    preprocessing: Preprocessing | None = None
    spec: BackboneSpec | None = None
    fingerprint: str = ""
    task: type[Task] = field(default_factory=lambda: kind_of(None))
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of_run(cls, info: BackboneInfo) -> Facts:
        """Those of a finished run's backbone."""
        prepared, spec = info.preprocessing, info.spec
        shape = (prepared.channels, prepared.image_size, prepared.image_size)
        kind, options = kind_of(info.task), {key: value for key, value in (info.task or {}).items() if key != "name"}
        return cls(spec.full_name, spec.num_classes, shape, info.classes, as_used(prepared), spec, info.fingerprint, kind, options)


def as_used(prepared: Preprocessing) -> Preprocessing:
    """``prepared`` with the ``crop_pct`` that is really used: an image that is squashed or letterboxed is kept whole."""
    return replace(prepared, crop_pct=1.0) if prepared.crop_mode in ("squash", "letterbox") else prepared


def preprocessing(facts: Facts) -> dict[str, Any]:
    """What travels with every export: how to prepare an image, and what the outputs are called."""
    known = {} if facts.preprocessing is None else asdict(facts.preprocessing)
    options = {"task": {"name": facts.task.name, **facts.options}} if facts.options else {}
    return dict(zip(OTHER_KEYS, (facts.name, list(facts.classes), list(facts.shape)), strict=True)) | known | options


def preprocessing_json(facts: Facts) -> str:
    """The text of ``preprocessing.json``."""
    return json.dumps(preprocessing(facts), indent=2) + "\n"
