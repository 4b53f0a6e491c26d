"""Settings, methods and costs in the words of a paper, for axes, legends and tables."""

from __future__ import annotations

METHODS = {
    "none": "head alone",
    "norm": "norms and head",
    "full": "full fine-tuning",
    "lora": "LoRA",
    "dora": "DoRA",
    "adalora": "AdaLoRA",
}
"""Values of ``lora.method`` in words."""
SETTINGS = {
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
"""Keys of the config, and costs among the keys of ``results.json``, in words."""
