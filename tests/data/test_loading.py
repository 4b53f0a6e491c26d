"""What a model is shown is a function of seed, epoch and image, and of nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from visionlora.backbone.info import Preprocessing
from visionlora.data.batches import EpochBatches
from visionlora.data.config import DataConfig
from visionlora.data.loading import EpochSampler
from visionlora.data.module import ImageData

PREPROCESSING = Preprocessing(32, (0.5,) * 3, (0.25,) * 3)
RANDOM: dict[str, Any] = {"crop_scale": [0.5, 1.0], "randaugment": 2, "color_jitter": 0.3, "random_erasing": 0.5}


def batches(
    epoch: int = 0, seed: int = 0, workers: int = 0, batch_size: int = 16, part: str = "train"
) -> tuple[torch.Tensor, torch.Tensor]:
    data = ImageData(DataConfig("fake", "data", batch_size, workers, num_images=48, **RANDOM), seed)
    data.prepare_for(PREPROCESSING)
    loader = data.train_dataloader() if part == "train" else data.eval_dataloader(part)
    assert isinstance(loader.sampler, EpochSampler | EpochBatches)
    loader.sampler.set_epoch(epoch)
    images, labels = zip(*loader, strict=True)
    return torch.cat(images), torch.cat(labels)


@pytest.mark.parametrize("other", [{"workers": 2}, {"batch_size": 8}])
def test_workers_and_batch_size_change_nothing(other: dict[str, Any]) -> None:
    for one, two in zip(batches(epoch=3), batches(epoch=3, **other), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("other", [{"epoch": 1}, {"seed": 1}])
def test_epochs_and_seeds_differ(other: dict[str, Any]) -> None:
    assert not torch.equal(batches()[0], batches(**other)[0])


def test_global_random_state_is_left_alone() -> None:
    torch.manual_seed(5)
    wanted = torch.rand(2)
    torch.manual_seed(5)
    data = ImageData(DataConfig("fake", "data", **RANDOM))
    data.prepare_for(PREPROCESSING)
    _ = data.train_dataloader().dataset[(0, 123)]
    assert torch.equal(torch.rand(2), wanted)


def test_evaluation_is_not_random() -> None:
    assert torch.equal(batches(epoch=0, part="test")[0], batches(epoch=9, seed=4, part="test")[0])


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("size", [10, 11])
def test_shares_of_several_processes(size: int, processes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = {}
    for shuffle in (True, False):
        parts = []
        for rank in range(processes):
            monkeypatch.setattr("visionlora.data.loading._process", lambda rank=rank: (rank, processes))
            sampler = EpochSampler(size, 0, shuffle)
            parts.append([index for index, _ in sampler])
            assert len(sampler) == len(parts[-1])
        shown[shuffle] = parts
        assert {index for part in parts for index in part} == set(range(size))
    assert len({len(part) for part in shown[True]}) == 1  # the same number of steps everywhere
    assert sum(len(part) for part in shown[False]) == size  # every image counts once


def test_normalisation_and_the_two_views() -> None:
    data = ImageData(DataConfig("fake", "data", crop_scale=None))
    assert data.prepare_for(PREPROCESSING).crop_mode == "squash"
    images, labels = next(iter(data.test_dataloader()))
    assert images.dtype == torch.uint8
    batch, _ = data.on_after_batch_transfer((images, labels), 0)
    assert torch.allclose(batch, (images / 255 - 0.5) / 0.25, atol=1e-6)
    cropped = ImageData(DataConfig("fake", "data", image_size=16, crop_scale=[0.3, 1.0]))
    assert cropped.prepare_for(PREPROCESSING).crop_mode == "center"
    assert next(iter(cropped.test_dataloader()))[0].shape[-2:] == (16, 16)


def test_first_pictures_of_each_class() -> None:
    data = ImageData(DataConfig("fake", "data", num_images=48))
    data.prepare_for(PREPROCESSING)
    labels = torch.cat([labels for _, labels in data.sample_dataloader(3)])
    assert labels.bincount().tolist() == [3, 3, 3, 3]


def test_no_last_batch_of_one(tmp_path: Path) -> None:
    data = ImageData(DataConfig("fake", "data", batch_size=6, val_fraction=0.0, num_images=13))
    data.prepare_for(PREPROCESSING)
    assert [len(labels) for _, labels in data.train_dataloader()] == [6, 6]
