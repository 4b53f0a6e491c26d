"""Labels that a classifier of one class an image cannot take: one sentence, whoever trains."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_parts import X, Y, loader, model, trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

import visionlora as vl
from visionlora.tasks.classify.labels import Labels

LABELS: list[tuple[Tensor, str]] = [
    (nn.functional.one_hot(Y, 4).float(), r"float32 \(8, 4\), one value a class"),
    (nn.functional.one_hot(Y, 4), r"int64 \(8, 4\), one value a class"),
    (Y.float(), r"float32 \(8,\); they must be whole numbers"),
    (Y > 1, r"bool \(8,\); they must be whole numbers"),
    (Y[:, None], r"int64 \(8, 1\); they must be \(N,\)"),
    (torch.zeros(16, 2, 2).long(), "they must be"),
    (Y + 1, "has the label 4; with 4 classes, labels are 0 to 3"),
    (Y - 1, "has the label -1"),
]


@pytest.mark.parametrize("part", ["train", "val", "test"])
@pytest.mark.parametrize(("labels", "message"), LABELS, ids=[message for _, message in LABELS])
def test_labels_of_another_kind(labels: Tensor, message: str, part: str, tmp_path: Path) -> None:
    own = trainer(tmp_path, num_sanity_val_steps=0)
    uses: dict[str, Callable[..., object]] = {"train": own.fit, "val": own.validate, "test": own.test}
    with pytest.raises(vl.UserError, match=f"{part} batch.*{message}"):
        uses[part](vl.Classifier(model()), loader(labels))


@pytest.mark.parametrize("part", ["train", "val"])
def test_batches_of_another_kind(part: str, tmp_path: Path) -> None:
    class Named(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return 8

        def __getitem__(self, index: int) -> Any:
            return {"image": X[index], "label": Y[index]}

    own = trainer(tmp_path, num_sanity_val_steps=0)
    uses: dict[str, Callable[..., object]] = {"train": own.fit, "val": own.validate}
    with pytest.raises(vl.UserError, match=f"a {part} batch is a dict of 2; it must be a pair"):
        uses[part](vl.Classifier(model()), DataLoader(Named(), batch_size=4))
    with pytest.raises(vl.UserError, match="has 4 images, but 3 labels"):
        Labels(4).of((X[:4], Y[:3]), part)


def test_labels_of_small_integers(tmp_path: Path) -> None:
    fine = [trainer(tmp_path).validate(vl.Classifier(model()), loader(Y.to(kind)), verbose=False)[0] for kind in (torch.int32, torch.int64)]
    assert fine[0] == fine[1]


def test_on_another_device_a_label_out_of_range_is_told_once_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that computes behind one's back is played by a tensor that says it is elsewhere, and cannot be looked at."""

    class Elsewhere(Tensor):
        looked = 0
        device = torch.device("cuda")

        def tolist(self) -> Any:
            type(self).looked += 1
            return self.as_subclass(Tensor).tolist()

        item = __bool__ = tolist

    labels = Labels(4)
    for batch in (Y, Y + 3, Y):
        taken = labels.of((X, batch.as_subclass(Elsewhere)), "train")
        assert int(taken.as_subclass(Tensor).max()) == 3  # the loss on the device is of a class that there is
    assert Elsewhere.looked == 0
    labels.tell("val")
    with pytest.raises(vl.UserError, match="a train batch has the label 6; with 4 classes"):
        labels.tell("train")
    assert Elsewhere.looked == 1
    labels.tell("train")  # told
