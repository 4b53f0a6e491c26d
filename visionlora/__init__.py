"""Fine-tune any timm or torchvision image classifier with LoRA, conv and linear layers alike.

Names are loaded when first used: the commands import this package before they know whether torch is needed at all.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from visionlora.backbone.create import create_backbone
    from visionlora.backbone.head import example_batch, find_head
    from visionlora.common.errors import UserError
    from visionlora.data.config import DataConfig
    from visionlora.data.module import ImageData
    from visionlora.exporting.model import export
    from visionlora.lora.changes import LayerChange, changes
    from visionlora.lora.config import LoraConfig
    from visionlora.lora.merging import unmerge
    from visionlora.model.adapters import activate, adapter_names, delete_adapter, disabled, forward_mixed, remove
    from visionlora.model.inject import inject, merge
    from visionlora.model.saving import load_adapter, save_adapter
    from visionlora.reporting.plots import accuracy_against, accuracy_by, changes_by_layer
    from visionlora.reporting.runs import configurations, find_runs, ranked
    from visionlora.runs.config import OptimConfig
    from visionlora.runs.predictor import Predictor, load
    from visionlora.speed.folding import fold, unfold
    from visionlora.tasks.classify.prediction import Prediction
    from visionlora.tasks.measures import Measure
    from visionlora.tasks.registry import TASKS
    from visionlora.tasks.task import Task
    from visionlora.training.allocation import allocate
    from visionlora.training.classifier import Classifier
    from visionlora.training.module import TaskModule

__version__ = "0.1.0"

_HOME = {
    "fit": "training.fit",
    "Fit": "training.fit",
    "Adapter": "lora.adapter",
    "Preprocessing": "backbone.info",
    "BackboneSpec": "backbone.info",
    "BackboneInfo": "backbone.info",
    "Pictures": "data.images",
    "Source": "data.sources",
    "METHODS": "lora.methods",
    "BACKBONES": "backbone.config",
    "TRANSFORMS": "data.config",
    "SOURCES": "data.config",
    "TASKS": "tasks.registry",
    "Task": "tasks.task",
    "Measure": "tasks.measures",
    "TaskModule": "training.module",
    "Classifier": "training.classifier",
    "DataConfig": "data.config",
    "ImageData": "data.module",
    "LayerChange": "lora.changes",
    "OptimConfig": "runs.config",
    "UserError": "common.errors",
    "LoraConfig": "lora.config",
    "accuracy_against": "reporting.plots",
    "accuracy_by": "reporting.plots",
    "changes": "lora.changes",
    "changes_by_layer": "reporting.plots",
    "configurations": "reporting.runs",
    "find_runs": "reporting.runs",
    "ranked": "reporting.runs",
    "Prediction": "tasks.classify.prediction",
    "Predictor": "runs.predictor",
    "activate": "model.adapters",
    "adapter_names": "model.adapters",
    "allocate": "training.allocation",
    "create_backbone": "backbone.create",
    "delete_adapter": "model.adapters",
    "disabled": "model.adapters",
    "forward_mixed": "model.adapters",
    "example_batch": "backbone.head",
    "export": "exporting.model",
    "find_head": "backbone.head",
    "fold": "speed.folding",
    "inject": "model.inject",
    "load": "runs.predictor",
    "load_adapter": "model.saving",
    "merge": "model.inject",
    "remove": "model.adapters",
    "save_adapter": "model.saving",
    "unfold": "speed.folding",
    "unmerge": "lora.merging",
}

__all__ = [
    "BACKBONES",
    "METHODS",
    "SOURCES",
    "TASKS",
    "TRANSFORMS",
    "Adapter",
    "BackboneInfo",
    "BackboneSpec",
    "Classifier",
    "DataConfig",
    "Fit",
    "ImageData",
    "LayerChange",
    "LoraConfig",
    "Measure",
    "OptimConfig",
    "Pictures",
    "Prediction",
    "Predictor",
    "Preprocessing",
    "Source",
    "Task",
    "TaskModule",
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
    "fit",
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
