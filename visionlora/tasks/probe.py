"""Start the head as the logistic regression of the frozen features: a linear probe first, then fine-tuning."""

from __future__ import annotations

from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn

from visionlora.common.errors import UserError
from visionlora.data.every_view import ViewData, all_predicted
from visionlora.data.module import Batch, ImageData

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)
"""Inverse strengths of the regularisation that are tried."""
TRIED_ON = 2000
"""Pictures the strength is chosen on, by cross-validation, at most."""


class _HeadInputs(L.LightningModule):
    def __init__(self, model: nn.Module, head: str) -> None:
        super().__init__()
        self.model, self.rows, self.labels = model, list[Tensor](), list[Tensor]()
        self._hook = model.get_submodule(head).register_forward_pre_hook(self._catch)

    def _catch(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self.rows.append(inputs[0].detach().float().cpu())

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, labels = batch
        self.model(images.to(next(self.model.parameters()).dtype, memory_format=torch.channels_last))
        self.labels.append(labels.cpu())
        return labels[:0]  # Lightning warns of None

    def close(self) -> tuple[np.ndarray, np.ndarray]:
        self._hook.remove()
        return torch.cat(self.rows).flatten(1).numpy(), torch.cat(self.labels).numpy()


def probe_head(trainer: L.Trainer, model: nn.Module, head: str, data: ImageData) -> None:
    """Fit the linear layer ``head`` to all training pictures, unaugmented, and write it into the model (LP-FT, Kumar et al. 2022,
    arXiv 2202.10054, §3.4). scikit-learn's logistic regression on standardised features; its strength by cross-validation.

    Raises:
        UserError: the head is not one linear layer.
    """
    module = model.get_submodule(head)
    if not isinstance(module, nn.Linear):
        raise UserError(f"model.head_init=probe: the head of this model is a {type(module).__name__}, not a linear layer.")
    if trainer.world_size > 1:
        raise UserError("model.head_init=probe runs in one process; fit the head first, or take model.head_init=random.")
    if not all_predicted(trainer):
        raise UserError("model.head_init=probe: trainer.limit_predict_batches or trainer.fast_dev_run leaves pictures out.")
    inputs = _HeadInputs(model, head)
    trainer.predict(inputs, ViewData(data, "train"), return_predictions=False)
    weight, bias = logistic_regression(*inputs.close(), len(module.weight))
    with torch.no_grad():
        module.weight.copy_(torch.from_numpy(weight))
        if module.bias is not None:
            module.bias.copy_(torch.from_numpy(bias))


def logistic_regression(features: np.ndarray, labels: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """``weight (classes, D)`` and ``bias (classes,)`` for ``features (N, D)`` as they are."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score

    mean, std = features.mean(0), features.std(0) + 1e-6
    rows = (features - mean) / std
    some = np.random.default_rng(0).permutation(len(rows))[:TRIED_ON]
    fewest = np.bincount(labels[some], minlength=classes)[np.unique(labels[some])].min()
    strength = STRENGTHS[1]
    if fewest >= 2:
        folds = StratifiedKFold(min(3, int(fewest)), shuffle=True, random_state=0)
        scores = [cross_val_score(LogisticRegression(C=c, max_iter=200), rows[some], labels[some], cv=folds).mean() for c in STRENGTHS]
        strength = STRENGTHS[int(np.argmax(scores))]
    fitted = LogisticRegression(C=strength, max_iter=500).fit(rows, labels)
    weight, bias = np.zeros((classes, rows.shape[1])), np.full(classes, fitted.intercept_.min() - 1.0)
    coefficients, intercepts = fitted.coef_, fitted.intercept_
    if len(fitted.classes_) == 2:  # scikit-learn keeps one row for two classes
        coefficients, intercepts = np.concatenate([-coefficients, coefficients]) / 2, np.concatenate([-intercepts, intercepts]) / 2
    weight[fitted.classes_], bias[fitted.classes_] = coefficients, intercepts
    weight = weight / std  # the standardisation goes into the weights
    return weight, bias - weight @ mean
