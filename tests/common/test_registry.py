"""Names that are built in, registered or brought by packages."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch

import visionlora as vl
from visionlora.common.registry import Registry


def registry() -> Registry[object]:
    return Registry("a.key", "visionlora.nothing", one="collections:OrderedDict", two="nowhere:thing")


def test_a_built_in_name_is_imported_when_it_is_asked_for() -> None:
    found = registry()
    assert list(found) == ["one", "two"]  # "two" cannot be imported, and is not
    assert found["one"] is OrderedDict
    with pytest.raises(ModuleNotFoundError, match="nowhere"):
        found["two"]


def test_a_registered_name_is_there_and_a_built_in_one_cannot_be_taken() -> None:
    found = registry()
    assert found.register("three")(len) is len
    assert found["three"] is len
    assert "three" in found
    with pytest.raises(vl.UserError, match=r"a\.key=one is built in"):
        found.register("one")


def test_an_unknown_name_is_told_with_the_near_one() -> None:
    with pytest.raises(vl.UserError, match=r"a\.key=onne is unknown; it is one of one, two\. Did you mean 'one'"):
        registry().check("onne")


@pytest.mark.parametrize("found", [vl.SOURCES, vl.TRANSFORMS, vl.BACKBONES, vl.METHODS], ids=lambda found: found.key)
def test_every_built_in_name_stands_for_something(found: Registry[object]) -> None:
    assert all(callable(found[name]) for name in found.built_in)


@pytest.mark.parametrize("name", list(vl.TRANSFORMS.built_in))
def test_a_transform_gives_an_image_of_the_same_size(name: str) -> None:
    from PIL import Image

    from visionlora.data.transforms import train_transform

    preprocessing = vl.Preprocessing(32, mean=(0.5,) * 3, std=(0.5,) * 3)
    config = vl.DataConfig(name="fake", root="", transform=name)
    torch.manual_seed(0)
    shown = train_transform(preprocessing, config)(Image.effect_noise((40, 40), 90).convert("RGB"))
    plain = train_transform(preprocessing, vl.DataConfig(name="fake", root="", hflip=0.0))(Image.effect_noise((40, 40), 90).convert("RGB"))
    assert shown.shape == plain.shape == (3, 32, 32)
    assert shown.dtype == torch.uint8
