"""Measuring a finished run."""

from __future__ import annotations

import lightning as L

from visionlora.config import DataConfig, OptimConfig
from visionlora.data.module import ImageData
from visionlora.errors import UserError
from visionlora.module import Classifier
from visionlora.predictor import load
from visionlora.quiet import quiet
from visionlora.run_folder import RunFolder


def measure(run: RunFolder, config: DataConfig, split: str) -> dict[str, float]:
    """Metrics of the run's model in float32 on one of its splits, as ``SPLIT/top1`` and so on.

    Raises:
        UserError: the data is not there, has other classes, or has no such split.
    """
    quiet()
    predictor = load(run.path)
    data = ImageData(config, record=run.read_split())
    if data.classes != predictor.classes:
        differ = sorted(set(data.classes) ^ set(predictor.classes))
        raise UserError(f"the data's classes are not the run's: {', '.join(differ[:5])} is in one of them only.")
    data.prepare_for(predictor.preprocessing)
    module = Classifier(predictor.model, len(data.classes), OptimConfig())
    if split not in data.parts:
        raise UserError(f"the run's data has no {split} part; it has {', '.join(data.parts)}.")
    data.parts["test"] = data.parts[split]  # Lightning's test loop, whichever split it is
    trainer = L.Trainer(logger=False, enable_checkpointing=False, enable_model_summary=False, use_distributed_sampler=False, devices=1)
    (metrics,) = trainer.test(module, data, verbose=False)
    return {key.replace("test/", f"{split}/"): value for key, value in metrics.items()}
