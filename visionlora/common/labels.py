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
PARTS = {"train": "training", "val": "validation", "test": "test", "test_before": "test, before,"}
_METRICS = {
    "top1": "top-1 accuracy",
    "top5": "top-5 accuracy",
    "f1": "macro F1",
    "loss": "cross-entropy",
    "loss_step": "cross-entropy",
    "ece": "calibration error",
    "ece_scaled": "calibration error, with the temperature",
    "f1_weighted": "weighted F1",
    "top1_low": "top-1 accuracy, 95% interval from",
    "top1_high": "top-1 accuracy, 95% interval to",
    "unreadable": "images that cannot be read",
}
_SHARES = {"top1", "top1_low", "top1_high", "top5", "f1", "f1_weighted", "ece", "ece_scaled"}


def label(key: str) -> str:
    """The key in words; a key that has none as it is.

    >>> label("test/top1"), label("lora.r"), label("optim.name")
    ('test top-1 accuracy', 'rank', 'optim.name')
    """
    part, _, metric = key.partition("/")
    if part in PARTS and metric in _METRICS:
        return f"{PARTS[part]} {_METRICS[metric]}"
    return _LABELS.get(key, key)


def in_words(key: str, value: float) -> str:
    """A figure as every command writes it: shares in percent, counts whole, all else with three decimals.

    >>> in_words("test/top1", 0.9613), in_words("loss", 0.31), in_words("images/test", 1200)
    ('96.1%', '0.310', '1,200')
    """
    if key.rpartition("/")[2] in _SHARES:
        return f"{value:.1%}"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"
