"""A source: images that are made here; any that can be listed with their labels would do."""

import numpy as np

import visionlora as vl


def leaves(config: vl.DataConfig) -> vl.Source:
    """Green and brown squares; ``data.options.count`` of each."""
    count, random = int(config.options.get("count", 24)), np.random.default_rng(0)
    colours = {"brown": (120, 70, 20), "green": (30, 150, 40)}
    labels = [label for label in range(len(colours)) for _ in range(count)]
    images = np.stack([random.integers(0, 40, (32, 32, 3)) + np.array(list(colours.values())[label]) for label in labels])
    return vl.Source(list(colours), {"train": vl.Pictures.of_arrays(images.astype(np.uint8), labels)})
