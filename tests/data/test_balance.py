"""Classes that differ in size, and images that come more than once an epoch."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from conftest import QUIET, TINY, compose

from visionlora.common.errors import UserError
from visionlora.data.config import DataConfig
from visionlora.data.loading import EpochSampler
from visionlora.data.module import ImageData
from visionlora.tasks.registry import make_task
from visionlora.training.mixing import mixing


def test_the_sampler_draws_each_class_as_often() -> None:
    labels = [0] * 900 + [1] * 100
    counts = Counter(labels)
    sampler = EpochSampler(1000, 0, shuffle=True, weights=torch.tensor([1 / counts[label] for label in labels]))
    drawn = Counter(labels[index] for index, _ in sampler)
    assert sum(drawn.values()) == 1000
    assert 400 < drawn[1] < 600
    again = list(sampler)
    assert again == list(sampler)
    sampler.set_epoch(1)
    assert again != list(sampler)


def test_an_image_that_comes_twice_is_shown_as_two_views() -> None:
    found = list(EpochSampler(10, 0, shuffle=True, repeats=2))
    assert len(found) == 10
    assert [found[i][0] for i in range(0, 10, 2)] == [found[i][0] for i in range(1, 10, 2)]
    assert len({seed for _, seed in found}) == 10


def test_without_either_the_order_is_what_it_was() -> None:
    """Bit for bit: a run of an earlier version goes on in the same order."""
    generator = torch.Generator().manual_seed(int(np.random.SeedSequence((3, 2)).generate_state(1, "uint64")[0] >> 1))
    seeds = torch.randint(2**62, (7,), generator=generator).tolist()
    order = torch.randperm(7, generator=generator).tolist()
    sampler = EpochSampler(7, 3, shuffle=True)
    sampler.set_epoch(2)
    assert list(sampler) == [(index, seeds[index]) for index in order]


def test_the_task_is_told_the_sizes() -> None:
    data = ImageData(compose(*TINY, *QUIET, "data.balance=weights", "data.num_images=40").data)
    assert data.task.counts is not None
    assert sum(data.task.counts) == len(data.parts["train"])
    assert data.task.balance == "weights"


def test_a_balance_that_there_is_not_is_told() -> None:
    with pytest.raises(UserError, match=r"data\.balance=some is unknown"):
        DataConfig("fake", balance="some")


@pytest.mark.parametrize("keys", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 1.0}])
def test_mixed_targets_say_how_much_of_what_is_in_an_image(keys: dict[str, Any]) -> None:
    task = make_task("classify", ["a", "b", "c"])
    mix = mixing(DataConfig("fake", **keys), task)
    assert mix is not None
    labels = torch.tensor([0, 1, 2, 0])
    images = torch.nn.functional.one_hot(labels, 3).float()[:, :, None, None].expand(4, 3, 16, 16).contiguous()
    torch.manual_seed(0)
    mixed, targets = mix(images, labels)
    torch.testing.assert_close(mixed.mean(dim=(2, 3)), targets, rtol=0, atol=1e-5)
    torch.testing.assert_close(targets.sum(1), torch.ones(4))


@pytest.mark.parametrize("task", ["multilabel", "regression", "ordinal"])
def test_rows_of_numbers_are_mixed(task: str) -> None:
    mix = mixing(DataConfig("fake", mixup=0.4), make_task(task, ["a", "b", "c"]))
    assert mix is not None
    targets = torch.tensor([0, 1, 2]) if task == "ordinal" else torch.eye(3)
    _, mixed = mix(torch.rand(3, 3, 8, 8), targets)
    assert mixed.shape == (3, 3)


def test_no_mixing_is_asked_of_tasks_that_cannot() -> None:
    assert mixing(DataConfig("fake"), make_task("classify", ["a", "b"])) is None
