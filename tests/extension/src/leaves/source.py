"""A source: images that are made here; any that can be listed with their labels would do."""

import numpy as np

import visionlora as vl


def leaves(config: vl.DataConfig) -> vl.Source:
    """Green and brown squares; ``data.options.count`` of each."""
    count, random = int(config.options.get("count", 24)), np.random.default_rng(0)
    colours = {"brown": (120, 70, 20), "green": (30, 150, 40)}
    labels = [label for label in range(len(colours)) for _ in range(count)]
    images = np.stack([random.integers(0, 40, (32, 32, 3)) + np.array(list(colours.values())[label]) for label in labels])
    return vl.Source(list(colours), {"train": vl.Images.of_arrays(images.astype(np.uint8), labels)})


def grey_values(config: vl.DataConfig) -> vl.Source:
    """Grey squares, each with how bright it is: labels that are numbers."""
    values = np.linspace(0, 1, int(config.options.get("count", 32)))
    images = np.stack([np.full((24, 24, 3), 40 + 160 * value) for value in values]).astype(np.uint8)
    return vl.Source(["brightness"], {"train": vl.Images.of_arrays(images, values.tolist())})


def stripes(config: vl.DataConfig) -> vl.Source:
    """Squares with a red and a blue half, one or neither: labels that are lists."""
    labels = [[number % 2, number // 2 % 2] for number in range(int(config.options.get("count", 32)))]
    images = np.zeros((len(labels), 24, 24, 3), np.uint8)
    for image, (red, blue) in zip(images, labels, strict=True):
        image[:12, :, 0], image[12:, :, 2] = 255 * red, 255 * blue
    return vl.Source(["red", "blue"], {"train": vl.Images.of_arrays(images, labels)})
