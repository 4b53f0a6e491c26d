"""``data=cifar10`` and ``data=cifar100``: class folders, or torchvision's files."""

from __future__ import annotations

import urllib.error
from pathlib import Path

import torchvision

from visionlora.common.errors import UserError
from visionlora.data.config import DataConfig
from visionlora.data.images import Images
from visionlora.data.sources.class_folders import class_folders
from visionlora.data.sources.source import Source


def cifar(config: DataConfig) -> Source:
    """Class folders under the root if there are any, else torchvision's files, downloaded when missing."""
    for root in (Path(config.root), Path(config.root) / config.name):
        if (root / "train").is_dir():
            return class_folders(root, config.name)
    dataset = {"cifar10": torchvision.datasets.CIFAR10, "cifar100": torchvision.datasets.CIFAR100}[config.name]
    try:
        train, test = (dataset(config.root, train=train, download=config.download) for train in (True, False))
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        raise UserError(
            f"data={config.name}: {config.root} holds neither class folders (train/CLASS/*, test/CLASS/*) nor torchvision's files,"
            f" and they cannot be downloaded ({getattr(error, 'reason', error)}). Offline, put either there and give data.root=DIR."
        ) from None
    parts = {
        "train": Images.of_arrays(train.data, train.targets, "train/"),
        "test": Images.of_arrays(test.data, test.targets, "test/"),
    }
    return Source(list(train.classes), parts)
