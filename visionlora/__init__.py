"""Fine-tune any timm or torchvision image classifier with LoRA, conv and linear layers alike.

Names are loaded when first used: the commands import this package before they know whether torch is needed at all.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from visionlora.adapting import inject, merge
    from visionlora.allocation import allocate
    from visionlora.backbone.create import create_backbone
    from visionlora.backbone.folding import fold, unfold
    from visionlora.backbone.head import example_batch, find_head
    from visionlora.data.config import DataConfig
    from visionlora.data.module import ImageData
    from visionlora.errors import UserError
    from visionlora.exporting.model import export
    from visionlora.lora.changes import LayerChange, changes
    from visionlora.lora.config import LoraConfig
    from visionlora.lora.merging import unmerge
    from visionlora.module import Classifier
    from visionlora.predictor import Prediction, Predictor, load
    from visionlora.reporting.figures import accuracy_against, accuracy_by, changes_by_layer
    from visionlora.reporting.runs import configurations, find_runs, ranked
    from visionlora.runs.config import OptimConfig
    from visionlora.tasks import activate, adapter_names, delete_adapter, disabled, forward_mixed, remove
    from visionlora.trained import load_adapter, save_adapter

__version__ = "0.1.0"

_HOME = {
    "Classifier": "module",
    "DataConfig": "config",
    "ImageData": "data.module",
    "LayerChange": "lora.changes",
    "OptimConfig": "config",
    "UserError": "errors",
    "LoraConfig": "lora.config",
    "accuracy_against": "reporting.figures",
    "accuracy_by": "reporting.figures",
    "changes": "lora.changes",
    "changes_by_layer": "reporting.figures",
    "configurations": "reporting.runs",
    "find_runs": "reporting.runs",
    "ranked": "reporting.runs",
    "Prediction": "predictor",
    "Predictor": "predictor",
    "activate": "tasks",
    "adapter_names": "tasks",
    "allocate": "allocation",
    "create_backbone": "backbone.create",
    "delete_adapter": "tasks",
    "disabled": "tasks",
    "forward_mixed": "tasks",
    "example_batch": "backbone.head",
    "export": "exporting.model",
    "find_head": "backbone.head",
    "fold": "backbone.folding",
    "inject": "adapting",
    "load": "predictor",
    "load_adapter": "trained",
    "merge": "adapting",
    "remove": "tasks",
    "save_adapter": "trained",
    "unfold": "backbone.folding",
    "unmerge": "lora.merging",
}

__all__ = [
    "Classifier",
    "DataConfig",
    "ImageData",
    "LayerChange",
    "LoraConfig",
    "OptimConfig",
    "Prediction",
    "Predictor",
    "UserError",
    "accuracy_against",
    "accuracy_by",
    "activate",
    "adapter_names",
    "allocate",
    "changes",
    "changes_by_layer",
    "configurations",
    "create_backbone",
    "delete_adapter",
    "disabled",
    "example_batch",
    "export",
    "find_head",
    "find_runs",
    "fold",
    "forward_mixed",
    "inject",
    "load",
    "load_adapter",
    "merge",
    "ranked",
    "remove",
    "save_adapter",
    "unfold",
    "unmerge",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"visionlora.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
