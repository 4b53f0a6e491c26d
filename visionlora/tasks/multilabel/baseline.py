"""The nearest mean of images with a label and without it, on frozen features."""

from __future__ import annotations

import torch
from torch import Tensor

from visionlora.tasks.means import GroupMeans


class LabelMeans(GroupMeans):
    """For each label, the logits of two Gaussians with one shared variance: of the images that have it, and of those that do not.

    Args:
        outputs: number of labels.
    """

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs

    def groups(self, targets: Tensor) -> Tensor:
        """With each label, then without it; ``targets (N, labels)``."""
        return torch.cat([targets, 1 - targets], 1)

    def predict(self, features: Tensor) -> Tensor:
        """Logits ``(N, labels)`` of ``features (N, D)``."""
        having, lacking = self.counts.clamp(min=0.5).split(self.outputs)
        near, far = self.distances(features).split(self.outputs, dim=1)
        found: Tensor = far - near + (having / lacking).log()
        return found
