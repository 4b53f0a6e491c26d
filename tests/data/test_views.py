"""Long and narrow images: the view that resizing them whole would give, in memory that does not depend on their length."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, v2

from visionlora.backbone.info import Preprocessing
from visionlora.data import views
from visionlora.data.config import DataConfig
from visionlora.data.opening import open_image
from visionlora.data.transforms import Transform, eval_transform, train_transform
from visionlora.data.views import CentreView, WholeView

HOW = [InterpolationMode.BILINEAR, InterpolationMode.BICUBIC]
SIZES = [(1, 700), (700, 1), (3, 200), (200, 3), (5, 91), (30, 500), (500, 30), (17, 273), (2, 35), (64, 64), (90, 60)]


def smooth(width: int, height: int) -> Image.Image:
    """Colours that change slowly: where they jump, the order in which the two sides are resized shows in rounding."""
    coarse = np.random.default_rng(width).integers(60, 190, (max(height // 20, 1) + 1, max(width // 20, 1) + 1, 3))
    return Image.fromarray(coarse.astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC)


def difference(one: Image.Image, other: Image.Image) -> int:
    assert one.size == other.size
    return int(np.abs(np.asarray(one).astype(int) - np.asarray(other).astype(int)).max())


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("resized", [64, 73])
def test_the_centre_is_that_of_the_whole_picture_resized(
    size: tuple[int, int], resized: int, how: InterpolationMode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views, "LONGEST", 1.2)
    image = smooth(*size)
    assert difference(CentreView(64, resized, how)(image), v2.Compose([v2.Resize(resized, how), v2.CenterCrop(64)])(image)) <= 2


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("size", SIZES)
def test_the_whole_is_the_same_in_either_order(size: tuple[int, int], how: InterpolationMode, monkeypatch: pytest.MonkeyPatch) -> None:
    image = smooth(*size)
    wanted = v2.Resize((64, 64), how)(image)
    assert difference(WholeView(64, how)(image), wanted) == 0
    monkeypatch.setattr(views, "MOST_BETWEEN", 0)
    assert difference(WholeView(64, how)(image), wanted) <= 2


WANTED = Preprocessing(image_size=224, mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="bicubic", crop_pct=0.875)
TRANSFORMS = {
    "evaluation": eval_transform(WANTED),
    "evaluation, squashed": eval_transform(Preprocessing(224, (0.5,) * 3, (0.5,) * 3, interpolation="bicubic", crop_mode="squash")),
    "training": train_transform(WANTED, DataConfig(name="fake", root="", crop_scale=[0.35, 1.0], randaugment=2)),
    "training, squashed": train_transform(WANTED, DataConfig(name="fake", root="", crop_scale=None)),
}
LONG = [(1, 20_000), (20_000, 1), *(pytest.param(size, marks=pytest.mark.faults) for size in ((80, 1_000_000), (1_000_000, 80)))]


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("size", LONG)
def test_memory_is_bounded_by_the_pixels_of_the_picture(name: str, size: tuple[int, int], tmp_path: Path) -> None:
    Image.new("1", size).save(tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size < 200_000
    context = multiprocessing.get_context("fork")
    result = context.Queue()
    process = context.Process(target=_peak, args=(tmp_path / "a.png", TRANSFORMS[name], result))
    process.start()
    shape, more = result.get(timeout=60)
    process.join()
    assert shape == (3, 224, 224)
    assert more < 300 + 10 * size[0] * size[1] / 2**20  # MiB: four bytes a pixel, twice, and one of the file


def _peak(path: Path, transform: Transform, result: multiprocessing.Queue[tuple[tuple[int, ...], float]]) -> None:
    torch.set_num_threads(1)
    Path("/proc/self/clear_refs").write_text("5")
    before = _resident("VmRSS")
    shape = tuple(transform(open_image(path, 3, transform.detail)).shape)
    result.put((shape, _resident("VmHWM") - before))


def _resident(key: str) -> float:
    return int(Path("/proc/self/status").read_text().partition(f"{key}:")[2].split()[0]) / 2**10
