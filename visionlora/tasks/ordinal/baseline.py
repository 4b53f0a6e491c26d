"""The nearest class mean on frozen features, as a model of ranks says it."""

from __future__ import annotations

from torch import Tensor

from visionlora.tasks.classify.baseline import ClassMeans
from visionlora.tasks.ordinal.ranks import as_outputs


class RankMeans(ClassMeans):
    """The median of what Gaussians around the class means say."""

    def predict(self, features: Tensor) -> Tensor:
        """Outputs ``(N, classes)`` of ``features (N, D)``, see ``ordinal.ranks``."""
        return as_outputs(super().predict(features).softmax(1))
