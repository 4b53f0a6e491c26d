"""Outputs of a model of ranks, and what they say: probabilities, ranks, a loss (Niu et al. 2016, CVPR, §3; a threshold at a time, and no
weights shared, so that a head is a head of any other task).

Output ``k`` is the logit of an image being of class ``k`` or one after it. Output 0 says nothing, as that is always so: it is there so that
a model has an output for every class, and nothing is learnt for it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def steps(targets: Tensor, classes: int) -> Tensor:
    """Classes ``(N,)`` as float32 ``(N, classes)``: 1 up to the class itself and 0 beyond it. Targets that are rows already stay."""
    if targets.ndim == 2:
        return targets.float()
    return (torch.arange(classes, device=targets.device) <= targets[:, None]).float()


def loss(outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """Binary cross-entropy of being beyond each threshold: its sum over the ``classes - 1`` thresholds, its mean over images.

    Args:
        outputs: ``(N, classes)``.
        targets: classes ``(N,)``, or rows ``(N, classes)`` as ``steps`` gives them.
        smoothing: targets are so much nearer to 0.5.
    """
    wanted = steps(targets, outputs.shape[1])[:, 1:] * (1 - smoothing) + smoothing / 2
    return functional.binary_cross_entropy_with_logits(outputs[:, 1:], wanted, reduction="none").sum(1).mean()


def reaching(outputs: Tensor) -> Tensor:
    """Probability of each class or one after it, ``(N, classes)``: it begins with 1 and never rises. Where an output says more than the one
    before it, it is taken for that one's.
    """
    return torch.cat([torch.ones_like(outputs[:, :1]), outputs[:, 1:].sigmoid().cummin(1).values], 1)


def ranks(outputs: Tensor) -> Tensor:
    """The predicted class, int64 ``(N,)``: the median, which has the smallest expected distance from the true one."""
    return (reaching(outputs)[:, 1:] > 0.5).sum(1)


def probabilities(outputs: Tensor) -> Tensor:
    """Of each class, ``(N, classes)``; they sum to 1."""
    found = reaching(outputs)
    return found - torch.cat([found[:, 1:], torch.zeros_like(found[:, :1])], 1)


def as_outputs(shares: Tensor) -> Tensor:
    """Outputs that say these probabilities ``(N, classes)`` of the classes."""
    return shares.flip(1).cumsum(1).flip(1).clamp(0, 1).logit(eps=1e-6)
