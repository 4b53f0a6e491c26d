"""The losses of training for classes, against torch's, torchvision's and the formula."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy, log_softmax, one_hot
from torchvision.ops import sigmoid_focal_loss

from visionlora.common.errors import UserError
from visionlora.tasks.classify.losses import training_loss
from visionlora.tasks.classify.probe import SOFT, logistic_regression, softened
from visionlora.tasks.classify.task import Classify, ClassifyOptions
from visionlora.tasks.registry import make_task

COUNTS = [40, 10, 2]
LOGITS = torch.randn(12, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
LABELS = torch.tensor([0, 1, 2] * 4)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("balance", ["none", "weights", "logit_adjustment", "sampler"])
@pytest.mark.parametrize("soft", [False, True])
def test_cross_entropy(smoothing: float, balance: str, soft: bool) -> None:
    loss = training_loss(ClassifyOptions(), smoothing, balance, COUNTS)
    targets = one_hot(LABELS, 3).float() if soft else LABELS
    counts = torch.tensor(COUNTS, dtype=torch.float32)
    weight = counts.sum() / (3 * counts) if balance == "weights" else None
    logits = LOGITS + (counts / counts.sum()).log() if balance == "logit_adjustment" else LOGITS
    assert float(loss(LOGITS, targets)) == pytest.approx(float(cross_entropy(logits, targets, weight, label_smoothing=smoothing)), rel=1e-6)


@pytest.mark.parametrize("balance", ["none", "weights"])
def test_focal_without_focus_is_cross_entropy(balance: str) -> None:
    focal = training_loss(ClassifyOptions("focal", 0.0), 0.1, balance, COUNTS)
    plain = training_loss(ClassifyOptions(), 0.1, balance, COUNTS)
    assert float(focal(LOGITS, LABELS)) == pytest.approx(float(plain(LOGITS, LABELS)), rel=1e-6)


def test_focal_of_two_classes_is_torchvisions() -> None:
    """Softmax of (0, x) is the sigmoid of x."""
    x = torch.randn(8, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([0, 1] * 4)
    ours = training_loss(ClassifyOptions("focal", 2.0), 0.0, "none", None)(torch.stack([torch.zeros(8), x], 1), labels)
    theirs = sigmoid_focal_loss(x, labels.float(), alpha=-1, gamma=2.0, reduction="mean")
    assert float(ours) == pytest.approx(float(theirs), rel=1e-5)


def test_focal_by_the_formula_with_soft_targets_and_a_gradient() -> None:
    shares = torch.tensor([[0.7, 0.3, 0.0]])
    found = log_softmax(LOGITS[:1], 1)
    expected = -(shares * (1 - found.exp()) ** 2 * found).sum()
    loss = training_loss(ClassifyOptions("focal", 2.0), 0.0, "none", None)(LOGITS[:1], shares)
    assert float(loss) == pytest.approx(float(expected), rel=1e-6)
    assert torch.autograd.grad(loss, LOGITS)[0].isfinite().all()


def test_what_is_measured_is_not_balanced() -> None:
    task = Classify(["a", "b", "c"])
    task.balance, task.counts = "weights", COUNTS
    assert float(task.criterion()(LOGITS, LABELS)) == pytest.approx(float(cross_entropy(LOGITS, LABELS)), rel=1e-6)
    assert float(task.training_criterion()(LOGITS, LABELS)) != pytest.approx(float(cross_entropy(LOGITS, LABELS)), rel=1e-3)


@pytest.mark.parametrize(("counts", "leads"), [([50, 10], "balanced"), ([49, 10], "top1"), (None, "top1"), ([5, 0], "top1")])
def test_balanced_accuracy_leads_where_classes_differ_by_five_times(counts: list[int] | None, leads: str) -> None:
    task = Classify(["a", "b"])
    task.counts = counts
    assert task.leading().key == leads


def test_unknown_losses_are_told() -> None:
    with pytest.raises(UserError, match=r"task\.loss=huber is unknown"):
        make_task({"name": "classify", "loss": "huber"}, ["a", "b"])


def test_a_softened_probe_gives_the_same_answers_less_surely() -> None:
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    features = torch.randn(60, 40, generator=rng) + 2 * one_hot(labels, 40).float()
    weight, bias = logistic_regression(features.numpy(), labels.numpy(), 3)
    logits = torch.from_numpy(features.numpy() @ weight.T + bias)
    share = softened(logits.numpy(), labels.numpy())
    assert 0 < share < 1
    assert float(cross_entropy(share * logits, labels)) == pytest.approx(SOFT * float(torch.tensor(3.0).log()), rel=1e-3)
    assert softened(0.001 * logits.numpy(), labels.numpy()) == 1.0  # it is less sure already
