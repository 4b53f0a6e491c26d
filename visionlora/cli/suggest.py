"""From what people type to the keys that there are: other trainers' names, the last part of a key, and what is misspelt."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path

from visionlora.cli.conf import groups, options
from visionlora.common.errors import did_you_mean, nearest
from visionlora.runs.config import OPTIMIZERS

WORDS: dict[str, tuple[str, ...]] = {
    "task_type": ("task",),
    "accum": ("trainer.accumulate_grad_batches",),
    "accum_steps": ("trainer.accumulate_grad_batches",),
    "amp": ("trainer.precision=bf16-mixed",),
    "arch": ("model",),
    "architecture": ("model",),
    "augment": ("data.randaugment",),
    "b": ("data.batch_size", "batch_size"),
    "backbone": ("model",),
    "batch": ("data.batch_size", "batch_size"),
    "batch_size": ("data.batch_size", "batch_size"),
    "batchsize": ("data.batch_size", "batch_size"),
    "bs": ("data.batch_size", "batch_size"),
    "checkpoint": ("ckpt_path", "run"),
    "ckpt": ("ckpt_path", "run"),
    "clip": ("trainer.gradient_clip_val",),
    "clip_grad": ("trainer.gradient_clip_val",),
    "cpu": ("trainer=cpu",),
    "cuda": ("trainer=gpu",),
    "data_dir": ("data.root", "root"),
    "data_path": ("data.root", "root"),
    "datadir": ("data.root", "root"),
    "dataset": ("data",),
    "device": ("trainer.accelerator",),
    "dir": ("data.root", "run", "runs"),
    "e": ("trainer.max_epochs",),
    "early_stop": ("callbacks=early_stopping",),
    "early_stopping": ("callbacks=early_stopping",),
    "epoch": ("trainer.max_epochs",),
    "epochs": ("trainer.max_epochs",),
    "file": ("input",),
    "folder": ("data.root", "input", "run", "runs"),
    "fp16": ("trainer.precision=16-mixed",),
    "gpu": ("trainer=gpu",),
    "gpus": ("trainer.devices",),
    "grad_accum": ("trainer.accumulate_grad_batches",),
    "grad_clip": ("trainer.gradient_clip_val",),
    "gradient_accumulation_steps": ("trainer.accumulate_grad_batches",),
    "image": ("input",),
    "images": ("input", "data.root"),
    "img_size": ("data.image_size",),
    "imgsz": ("data.image_size",),
    "input_size": ("data.image_size",),
    "j": ("data.num_workers", "num_workers"),
    "k": ("topk",),
    "layers": ("lora.targets",),
    "learning_rate": ("optim.lr",),
    "log_dir": ("hydra.run.dir",),
    "logging": ("logger",),
    "lora_alpha": ("lora.alpha",),
    "lora_dropout": ("lora.dropout",),
    "lora_r": ("lora.r",),
    "lora_rank": ("lora.r",),
    "lr": ("optim.lr",),
    "lr_scheduler": ("optim.schedule",),
    "max_grad_norm": ("trainer.gradient_clip_val",),
    "mixed_precision": ("trainer.precision",),
    "model_name": ("model",),
    "n_epochs": ("trainer.max_epochs",),
    "net": ("model",),
    "network": ("model",),
    "num_epochs": ("trainer.max_epochs",),
    "num_gpus": ("trainer.devices",),
    "num_train_epochs": ("trainer.max_epochs",),
    "opt": ("optim",),
    "optimizer": ("optim",),
    "out": ("output", "hydra.run.dir"),
    "output": ("output", "hydra.run.dir"),
    "output_dir": ("output", "hydra.run.dir"),
    "path": ("data.root", "input", "run", "runs"),
    "patience": ("callbacks.early_stopping.patience",),
    "picture": ("input",),
    "pictures": ("input",),
    "random_seed": ("seed",),
    "rank": ("lora.r",),
    "resolution": ("data.image_size",),
    "resume": ("ckpt_path",),
    "resume_from": ("ckpt_path",),
    "resume_from_checkpoint": ("ckpt_path",),
    "run_dir": ("run", "hydra.run.dir"),
    "save_dir": ("output", "hydra.run.dir"),
    "sched": ("optim.schedule",),
    "scheduler": ("optim.schedule",),
    "size": ("data.image_size",),
    "smoothing": ("optim.label_smoothing",),
    "target_modules": ("lora.targets",),
    "test_split": ("data.test_fraction",),
    "top": ("topk", "top"),
    "top_k": ("topk",),
    "train_dir": ("data.root",),
    "val_ratio": ("data.val_fraction",),
    "val_split": ("data.val_fraction",),
    "warmup_epochs": ("optim.warmup",),
    "warmup_ratio": ("optim.warmup",),
    "warmup_steps": ("optim.warmup",),
    "wd": ("optim.weight_decay",),
    "weights": ("model.weights", "run"),
    "work_dir": ("hydra.run.dir",),
    "workers": ("data.num_workers", "num_workers"),
}
"""Words of torch scripts, timm, PEFT, transformers, ultralytics -> our keys; the first that a command has counts."""
PLACES = ("VALUE", "NAME")
"""What stands for a value that was not typed."""
OPTIONS = {
    ("lora", "lora"): "default",
    ("lora", "adalora"): "adaptive",
    ("lora", "lora+"): "loraplus",
    ("lora", "lora-fa"): "lorafa",
    ("lora", "probe"): "none",
    ("lora", "linear"): "none",
    ("trainer", "cuda"): "gpu",
    ("trainer", "gpus"): "gpu",
}
"""Other names of options."""
REMARKS = {
    "num_classes": "the classes are the class folders, so their number is not given",
    "n_classes": "the classes are the class folders, so their number is not given",
    "nclasses": "the classes are the class folders, so their number is not given",
    "shuffle": "training images are shuffled always, by the seed",
    "freeze": "the backbone is frozen but for its LoRA updates; lora=none trains the head alone, lora=full everything",
    "freeze_backbone": "the backbone is frozen but for its LoRA updates; lora=none trains the head alone, lora=full everything",
    "criterion": "the loss is the task's, for classes cross-entropy (optim.label_smoothing softens it)",
    "loss": "the loss is the task's, for classes cross-entropy (optim.label_smoothing softens it)",
}
"""What is no key at all, and why."""


def meant(key: str, known: Mapping[str, str]) -> list[str]:
    """The keys that ``key`` surely stands for: by another trainer's word for it, or by the last parts of a key's name.

    ``known`` are the names of the command's keys and groups, each with the words that it needs beside it. A word may also stand for a
    key with its value.
    """
    word = key.lower().replace("-", "_")
    if word in known or word.startswith("hydra."):
        return [word]
    last = word.rpartition(".")[2]
    aliased = [name for name in WORDS.get(last, ()) if name.partition("=")[0] in known or (name.startswith("hydra.") and "seed" in known)]
    if aliased:
        return sorted(aliased, key=lambda name: bool(known.get(name)))[:1]
    same = [name for name in known if name.endswith(f".{word}")] or [name for name in known if name.rpartition(".")[2] == last]
    shallow = min((name.count(".") for name in same), default=0)
    return [name for name in same if name.count(".") == shallow]


def near(key: str, known: Mapping[str, str]) -> list[str]:
    """The keys whose name, last part or usual word looks like ``key``; the nearest first."""
    if "." in key:
        return nearest(key, [name for name in known if "." in name])
    last = {name.rpartition(".")[2]: name for name in reversed(list(known))}
    words = {word: found[0] for word in WORDS if (found := meant(word, known))}
    return list(dict.fromkeys((words | last)[word] for word in nearest(key, [*last, *words])))


def unknown(key: str, value: str, known: Mapping[str, str]) -> str:
    """The sentence for a key that there is not, with what to type instead.

    Args:
        key: what was typed.
        value: its value, as typed.
        known: the names of the command's keys and groups, each with the words that it needs beside it.
    """
    if "seed" in known and (remark := REMARKS.get(key.rpartition(".")[2].lower())):
        return f"unknown key {key}: {remark}."
    if sure := meant(key, known):
        if len(sure) == 1:
            return f"unknown key {key}: write {typed(sure[0], value, known)}."
        return f"unknown key {key}: there are {', '.join(sure[:-1])} and {sure[-1]}; write the one that is meant."
    if close := near(key, known):
        return f"unknown key {key}. Did you mean {' or '.join(map(repr, close))}?"
    own = [name for name, beside in known.items() if not beside]
    listed = f"there are {', '.join(own)}" if len(own) <= 16 else "--help lists all keys"
    return f"unknown key {key}; {listed}."


def typed(key: str, value: str, known: Mapping[str, str]) -> str:
    """A key with its value as it is typed in a shell, with the words that it needs beside it."""
    value = value or PLACES[0]
    if key in groups():
        word = option_for(key, value) or (f"model=timm model.name={value}" if key == "model" and value not in PLACES else f"{key}={value}")
    else:
        word = shlex.quote(key if "=" in key else f"{key}={value}")
    beside = known.get(key.partition("=")[0], "")
    return f"+{word}" if beside == "+" else " ".join(filter(None, [beside, word]))


def option_for(group: str, value: str) -> str:
    """What to type for a value that was given to a group and is not the name of one of its options; ``""`` where that is not clear."""
    same = [option for option in options(group) if option.lower() == value.lower().replace("-", "_")]
    if same:
        return f"{group}={same[0]}"
    if other := OPTIONS.get((group, value.lower())):
        return f"{group}={other}"
    library, slash, name = value.partition("/")
    if group == "model" and slash and library in ("timm", "torchvision"):
        return f"model={library} model.name={name}"
    if group == "model" and Path(value).expanduser().is_file():
        return f"model=timm model.name=NAME {shlex.quote(f'model.weights={value}')}"
    if group == "data" and Path(value).expanduser().is_dir():
        return f"data=imagefolder {shlex.quote(f'data.root={value}')}"
    if group == "lora" and value.isdecimal():
        return f"lora.r={value}"
    if group == "optim" and value.lower() in OPTIMIZERS:
        return f"optim.name={value.lower()}"
    return ""


def unknown_option(group: str, value: str, known: Iterable[str]) -> str:
    """The sentence for an option that a group has not, with what to type instead."""
    names = list(known)
    if not value:
        return f"{group}= has no value; there are {', '.join(names)}."
    if group in groups() and (instead := option_for(group, value)):
        return f"{group}={value} is not a config of {group}; write {instead}."
    hint = f" For any other model: model=timm model.name={value}." if group == "model" else ""
    hint = hint or (" For a folder of your own: data=imagefolder data.root=DIR." if group == "data" else "")
    return f"{group}={value} is not a config of {group}; there are {', '.join(names)}.{did_you_mean(value, names)}{hint}"
