"""Images that come with a library or are made on the fly."""

from __future__ import annotations

import numpy as np

from visionlora.data.config import DataConfig
from visionlora.data.images import Images
from visionlora.data.sources.source import Source


def digits(config: DataConfig) -> Source:
    """scikit-learn's 1,797 digits, 8×8, 16 grey levels."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return Source(
        [str(n) for n in bunch.target_names],
        {"train": Images.of_arrays((bunch.images * 15.9375).astype(np.uint8), bunch.target)},
        image_size=32,
    )


def fake(config: DataConfig) -> Source:
    """Noise around a colour for each class: learnable, made on the fly, the same each time."""
    side, count = config.image_size or 32, config.num_classes
    random = np.random.default_rng(0)
    colours = random.integers(40, 216, (count, 3))
    parts = {}
    for part, size in (("train", config.num_images), ("test", max(config.num_images // 2, count))):
        labels = np.arange(size) % count
        noise = random.integers(-40, 40, (size, side, side, 3))
        parts[part] = Images.of_arrays((colours[labels][:, None, None] + noise).astype(np.uint8), labels.tolist(), f"{part}/")
    return Source([f"class{n}" for n in range(count)], parts)
