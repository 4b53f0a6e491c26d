"""PEFT's LoRA in the place of ours: same config, data, schedule, precision and output; ``python benchmarks/peft_run.py KEY=VALUE …``.

PEFT freezes parameters but leaves batch-norm as the model has it, in train mode during training (``model.freeze_bn=false``);
with ``model.freeze_bn=true`` its statistics are frozen as ours are. The layers are the same: every linear and ungrouped conv but the head.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from visionlora.cli.command import run_command
from visionlora.runs.config import USUAL_RANK, TrainConfig


def run(config: TrainConfig, folder: Path) -> dict[str, Any]:
    """Train PEFT's adapter as ``config`` says and write ``results.json``."""
    import lightning as L
    import peft
    from torch import nn

    from visionlora.backbone.create import build
    from visionlora.backbone.freeze import freeze_statistics
    from visionlora.backbone.info import BackboneSpec, info_of
    from visionlora.data.module import ImageData
    from visionlora.lora.injection import count_parameters
    from visionlora.lora.targets import select
    from visionlora.runs.folder import RunFolder
    from visionlora.training.adapted import spec_values
    from visionlora.training.classifier import Classifier
    from visionlora.training.trainer import build_trainer

    L.seed_everything(config.seed, verbose=False)
    data = ImageData(config.data, config.seed)
    model = build(BackboneSpec(num_classes=len(data.classes), image_size=config.data.image_size, **spec_values(config.model)))
    info = info_of(model)
    assert info is not None
    data.prepare_for(info.preprocessing)
    rank = config.lora.r or USUAL_RANK
    targets = [target.slot.name for target in select(model, replace(config.lora, r=rank), info.head)]
    adapted: nn.Module = peft.get_peft_model(
        model, peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets, modules_to_save=list(info.head))
    )
    if config.model.freeze_bn:
        freeze_statistics(adapted)
    trainable, _ = count_parameters(adapted)
    trainer, stopwatch = build_trainer(config, RunFolder(folder), None, data.task.lead() if "val" in data.parts else None)
    module = Classifier(adapted, len(data.classes), config.optim, seed=config.seed)
    trainer.fit(module, data)
    results: dict[str, Any] = {"params/trainable": trainable, "seconds/fit": stopwatch.fit_seconds}
    if "val" in data.parts:
        results |= trainer.validate(module, data, verbose=False)[0]
    results |= trainer.test(module, data, verbose=False)[0]
    (folder / "results.json").write_text(json.dumps(results))
    return results


if __name__ == "__main__":
    run_command("train", TrainConfig, run)
