"""The nearest class mean on frozen features."""

from __future__ import annotations

from torch import Tensor, nn

from visionlora.tasks.means import GroupMeans


class ClassMeans(GroupMeans):
    """Predicts by distance to the mean of each class, as learnt from some training images.

    The outputs are the logits of Gaussians around the class means with one shared variance, ``-|f - μ|² / 2σ²``, so that their
    cross-entropy is a likelihood too.

    Args:
        num_classes: number of classes.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes

    def groups(self, targets: Tensor) -> Tensor:
        """A group for each class; ``targets (N,)``."""
        return nn.functional.one_hot(targets, self.num_classes)

    def predict(self, features: Tensor) -> Tensor:
        """Logits ``(N, classes)`` of ``features (N, D)``."""
        return -self.distances(features)
