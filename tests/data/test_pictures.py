"""Opening images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from visionlora.backbone.info import Preprocessing
from visionlora.data.config import DataConfig
from visionlora.data.opening import open_image
from visionlora.data.transforms import eval_transform, train_transform

WANTED = Preprocessing(image_size=64, mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="bicubic", crop_pct=0.875)


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    """A large JPEG, taller than wide, turned by its EXIF data."""
    coarse = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(coarse).resize((1600, 1200), Image.Resampling.BICUBIC).save(tmp_path / "a.jpg", quality=95, exif=exif)
    return tmp_path / "a.jpg"


def test_a_large_jpeg_is_decoded_to_what_the_view_can_show(photograph: Path) -> None:
    evaluate = eval_transform(WANTED)
    whole, drafted = open_image(photograph, 3), open_image(photograph, 3, evaluate.detail)
    assert whole.size == (1200, 1600)
    assert drafted.size == (150, 200)  # 147 suffice
    difference = (evaluate(whole).int() - evaluate(drafted).int()).abs()
    assert difference.float().mean() < 1.5
    assert difference.max() <= 16


@pytest.mark.parametrize(("scale", "detail"), [(None, 128), ((0.25, 1.0), 256)])
def test_the_smallest_crop_keeps_its_pixels(scale: tuple[float, float] | None, detail: int) -> None:
    config = DataConfig(name="fake", root="", crop_scale=None if scale is None else list(scale))
    assert train_transform(WANTED, config).detail == detail


def test_other_formats_are_read_whole(tmp_path: Path) -> None:
    Image.new("L", (800, 600), 7).save(tmp_path / "a.png")
    assert open_image(tmp_path / "a.png", 3, 64).size == (800, 600)
