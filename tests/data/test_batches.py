"""Whole batches show the images that the data set shows one by one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from visionlora.backbone.info import Preprocessing
from visionlora.data.batches import EpochBatches, MemoryImages
from visionlora.data.config import DataConfig
from visionlora.data.first_look import into_memory
from visionlora.data.images import Images
from visionlora.data.loading import EpochSampler, OneView, TransformedImages
from visionlora.data.module import ImageData
from visionlora.data.transforms import eval_batch_transform, eval_transform, train_batch_transform, train_transform

WANTED = Preprocessing(mean=(0.5,) * 3, std=(0.5,) * 3, image_size=24, interpolation="bicubic")


def pictures(*shape: int) -> Images:
    return Images.of_arrays(np.random.default_rng(0).integers(0, 256, (10, *shape)).astype(np.uint8), [0, 1] * 5)


def near(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Pillow and torchvision round a resized pixel differently here and there."""
    return a.shape == b.shape and int((a.int() - b.int()).abs().max()) <= 2


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", [(16, 16), (20, 16, 3), (16, 20, 4)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("crop_mode", ["squash", "center"])
def test_the_same_pixels_as_one_by_one(channels: int, shape: tuple[int, ...], interpolation: str, crop_mode: str) -> None:
    prepared = replace(WANTED, interpolation=interpolation, mean=(0.5,) * channels, std=(0.5,) * channels, crop_mode=crop_mode)
    config = DataConfig(name="fake", root="", crop_scale=None, hflip=0.5)
    batched = train_batch_transform(prepared, config)
    assert batched is not None
    held = pictures(*shape)
    items = [(index, 1000 + index) for index in (3, 1, 4, 9, 2, 6)]
    for each, whole in ((train_transform(prepared, config), batched), (eval_transform(prepared), eval_batch_transform(prepared))):
        singly = TransformedImages(held, each, channels, torch.tensor)
        images, labels = MemoryImages(held, torch.tensor(held.labels), whole, channels)[0, items]
        pairs: list[Any] = [singly[item] for item in items]
        assert near(images, torch.stack([torch.as_tensor(image) for image, _ in pairs]))
        assert labels.tolist() == [target for _, target in pairs]


@pytest.mark.parametrize(
    "option", [{"crop_scale": [0.5, 1.0]}, {"randaugment": 1}, {"color_jitter": 0.1}, {"random_erasing": 0.5}], ids=str
)
def test_other_augmentation_stays_one_by_one(option: dict[str, Any]) -> None:
    assert train_batch_transform(WANTED, DataConfig(name="fake", root="", **({"crop_scale": None} | option))) is None


@pytest.mark.parametrize(("size", "batches"), [(10, [4, 4, 2]), (9, [4, 4]), (1, [1]), (8, [4, 4])])
def test_epochs_in_batches(size: int, batches: list[int]) -> None:
    sampler = EpochBatches(EpochSampler(size, 0, shuffle=True), 4)
    sampler.set_epoch(3)
    asked = list(sampler)
    assert len(sampler) == len(batches)
    assert [len(items) for _, items in asked] == batches
    assert {epoch for epoch, _ in asked} == {3}
    evaluated = [index for _, items in EpochBatches(EpochSampler(size, 0, shuffle=False), 4) for index, _ in items]
    assert evaluated == list(range(size))


def test_a_view_has_the_seeds_of_its_epoch() -> None:
    shuffled = EpochSampler(12, 5, shuffle=True)
    shuffled.set_epoch(2)
    view = OneView(12, 5, 2)
    view.set_epoch(7)
    assert dict(view) == dict(shuffled)
    assert [index for index, _ in view] == list(range(12))


def test_small_files_of_one_size_are_read_once(tmp_path: Path) -> None:
    for number in range(4):
        Image.fromarray(np.full((20, 24, 3), 50 * number, np.uint8)).save(tmp_path / f"{number}.png")
    paths = sorted(tmp_path.glob("*.png"))
    files = Images([0, 1, 0, 1], [p.name for p in paths], paths)
    held = into_memory(files, 3, {})
    assert held.in_memory
    assert held.paths == files.paths  # whoever shows an image says which file it is
    assert held.names == files.names
    assert all(np.array_equal(np.asarray(held.open(i, 3)), np.asarray(files.open(i, 3))) for i in range(4))
    Image.new("RGB", (9, 9)).save(paths[2])
    assert not into_memory(files, 3, {}).in_memory
    Image.new("RGB", (65, 65)).save(paths[0])
    assert not into_memory(files, 3, {}).in_memory
    for path in (paths[0], paths[2]):
        Image.new("RGB", (2, 20)).save(path)  # as a batch it would be resized to ten times its length
    assert not into_memory(files.subset([0, 2]), 3, {}).in_memory


@pytest.mark.parametrize("bad", [(0,), (1, 3), (0, 1, 2, 3)])
def test_what_cannot_be_read_is_not_in_memory(bad: tuple[int, ...], tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(4)]
    for number, path in enumerate(paths):
        Image.fromarray(np.full((8, 8, 3), 50 * number, np.uint8)).save(path)
        if number in bad:
            path.write_bytes(path.read_bytes()[:-30])
    unreadable: dict[str, str] = {}
    held = into_memory(Images([0, 1, 2, 3], list("abcd"), paths), 3, unreadable)
    assert sorted(unreadable) == ["abcd"[i] for i in bad if len(bad) < 4]  # else they are found when their turn comes
    if len(bad) < 4:
        good = [i for i in range(4) if i not in bad]
        assert held.in_memory
        assert held.labels == good
        assert held.names == ["abcd"[i] for i in good]
        assert held.arrays is not None
        assert held.arrays[:, 0, 0, 0].tolist() == [50 * i for i in good]


def test_loaders_of_memory_and_files_give_the_same_batches(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for part, count in (("train", 9), ("test", 4)):
        for label in ("a", "b"):
            (tmp_path / part / label).mkdir(parents=True)
            for number in range(count):
                Image.fromarray(random.integers(0, 256, (12, 12, 3)).astype(np.uint8)).save(tmp_path / part / label / f"{number}.png")
    config = DataConfig(name="imagefolder", root=str(tmp_path), batch_size=4, image_size=24, num_workers=0)
    held, files = ImageData(config, seed=1), ImageData(config, seed=1)
    originals = dict(files.parts)
    for data in (held, files):
        data.prepare_for(WANTED)
    files.parts = originals
    assert all(part.in_memory for part in held.parts.values())
    for a, b in ((held.train_dataloader(), files.train_dataloader()), (held.test_dataloader(), files.test_dataloader())):
        assert len(a) == len(b)
        for (images, labels), (others, wanted) in zip(a, b, strict=True):
            assert near(images, others)
            assert torch.equal(labels, wanted)
