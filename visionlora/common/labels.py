"""Keys of the config and of ``results.json`` in the words of a paper, for axes, legends and tables."""

from __future__ import annotations

METHODS = {
    "none": "linear probe",
    "norm": "norms and head",
    "full": "full fine-tuning",
    "lora": "LoRA",
    "dora": "DoRA",
    "adalora": "AdaLoRA",
}
_LABELS = {
    "configuration": "configuration",
    "data.batch_size": "batch size",
    "data.image_size": "image size, pixels",
    "data.name": "data",
    "data.per_class": "training images per class",
    "lora.alpha": "alpha",
    "lora.budget": "budget",
    "lora.dropout": "dropout",
    "lora.init": "initialisation",
    "lora.method": "method",
    "lora.r": "rank",
    "lora.targets": "adapted layers",
    "model.name": "model",
    "optim.lr": "learning rate",
    "optim.weight_decay": "weight decay",
    "seed": "seed",
    "trainer.max_epochs": "epochs",
    "bytes/adapter": "adapter size, bytes",
    "images_per_second": "images per second",
    "memory/peak_mib": "peak memory, MiB",
    "params/adapter": "adapter parameters",
    "params/total": "parameters of the model",
    "params/trainable": "trainable parameters",
    "seconds/fit": "training time, s",
}
_PARTS = {"train": "training", "val": "validation", "test": "test", "test_before": "test, before,"}
_METRICS = {
    "top1": "top-1 accuracy",
    "top5": "top-5 accuracy",
    "f1": "macro F1",
    "loss": "cross-entropy",
    "loss_step": "cross-entropy",
    "ece": "calibration error",
}


def label(key: str) -> str:
    """The key in words; a key that has none as it is.

    >>> label("test/top1"), label("lora.r"), label("optim.name")
    ('test top-1 accuracy', 'rank', 'optim.name')
    """
    part, _, metric = key.partition("/")
    if part in _PARTS and metric in _METRICS:
        return f"{_PARTS[part]} {_METRICS[metric]}"
    return _LABELS.get(key, key)
