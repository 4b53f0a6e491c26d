"""A transform of training images: any module that takes a PIL image and gives one of the same size."""

from torchvision.transforms import v2

import visionlora as vl


def posterized(config: vl.DataConfig) -> v2.Transform:
    """Fewer colours; ``data.options.bits`` a channel."""
    return v2.RandomPosterize(bits=int(config.options.get("bits", 4)), p=0.5)
