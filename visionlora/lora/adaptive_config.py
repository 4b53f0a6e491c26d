"""The settings of ``method: adalora``. Free of torch, as ``config.py`` is."""

from __future__ import annotations

from dataclasses import dataclass

from visionlora.common.errors import UserError


@dataclass
class AdaptiveConfig:
    """The schedule of ``method: adalora`` (Zhang et al. 2023, arXiv 2303.10512, §3.3); shares are of the optimizer's steps.

    Args:
        start: rank at the start, in units of ``r``; at least 1.
        warmup: share of the training before the first rank is taken away.
        final: share of the training at its end in which the ranks stand still.
        interval: optimizer steps from one allocation to the next.
        beta1: smoothing of the importance.
        beta2: smoothing of its uncertainty.
        orthogonality: weight of the penalty that holds the factors orthonormal, averaged over the matrices.

    Raises:
        UserError: a value out of range.
    """

    start: float = 1.5
    warmup: float = 0.1
    final: float = 0.4
    interval: int = 5
    beta1: float = 0.85
    beta2: float = 0.85
    orthogonality: float = 0.1

    def __post_init__(self) -> None:
        if not self.start >= 1:
            raise UserError(f"lora.adaptive.start={self.start} must be at least 1.")
        for key in ("warmup", "final", "beta1", "beta2"):
            if not 0 <= getattr(self, key) < 1:
                raise UserError(f"lora.adaptive.{key}={getattr(self, key)} must be at least 0 and below 1.")
        if self.warmup + self.final > 1:
            raise UserError("lora.adaptive: warmup and final together are more than the whole training.")
        if self.interval < 1 or self.orthogonality < 0:
            raise UserError("lora.adaptive: interval must be at least 1 and orthogonality at least 0.")
