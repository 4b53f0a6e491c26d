"""``data.decoded``: what a training shows is the same whether an image was kept or not, and the folder harms no run."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import QUIET, TINY, command
from PIL import Image
from safetensors.torch import load_file

from visionlora import UserError
from visionlora.backbone.info import Preprocessing
from visionlora.data import decoded
from visionlora.data.config import DataConfig
from visionlora.data.module import ImageData
from visionlora.data.opening import open_image

PREPROCESSING = Preprocessing(32, (0.5,) * 3, (0.25,) * 3)
WHOLE: dict[str, Any] = {"crop_scale": None}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Class folders of photographs of a tenth of a megapixel."""
    random = np.random.default_rng(0)
    for part, count in (("train", 6), ("test", 3)):
        for name in ("cat", "dog"):
            (tmp_path / f"images/{part}/{name}").mkdir(parents=True)
            for number in range(count):
                coarse = Image.fromarray(random.integers(0, 255, (12, 16, 3), dtype=np.uint8))
                file = tmp_path / f"images/{part}/{name}/{number}.{'jpg' if number % 2 else 'png'}"
                coarse.resize((400 - number, 300), Image.Resampling.BICUBIC).save(file)
    return tmp_path / "images"


def data(root: Path, keep: Path | None, **keys: Any) -> ImageData:
    config = DataConfig("imagefolder", str(root), val_fraction=0.0, decoded=None if keep is None else str(keep), num_workers=0)
    found = ImageData(DataConfig(**{**vars(config), **keys}))
    found.prepare_for(PREPROCESSING)
    return found


def shown(found: ImageData, part: str = "train") -> torch.Tensor:
    loader = found.train_dataloader() if part == "train" else found.eval_dataloader(part)
    return torch.cat([images for images, _ in loader])


def files(keep: Path) -> list[Path]:
    return sorted(path for path in keep.rglob("*") if path.is_file())


@pytest.mark.parametrize(("part", "keys"), [("test", {}), ("test", WHOLE), ("train", WHOLE)])
def test_what_is_not_random_is_the_same_to_the_bit(part: str, keys: Mapping[str, Any], folder: Path, tmp_path: Path) -> None:
    plain = shown(data(folder, None, **keys), part)
    for _ in range(2):  # decoded, and from the disk
        assert torch.equal(shown(data(folder, tmp_path / "kept", **keys), part), plain)
    assert len(files(tmp_path / "kept")) == len(plain)


def test_random_crops_are_those_without_and_the_same_each_time(folder: Path, tmp_path: Path) -> None:
    plain, first, second = (shown(data(folder, keep)) for keep in (None, tmp_path / "kept", tmp_path / "kept"))
    assert torch.equal(first, second)
    assert (plain.float() - first.float()).abs().mean() < 5  # of 255, of fine noise; those of other seeds are 50 apart
    assert all(path.stat().st_size < 400 * 300 for path in files(tmp_path / "kept"))


def test_nothing_is_decoded_twice_and_what_is_changed_is_decoded_anew(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown(data(folder, tmp_path / "kept"))
    opened: list[Path] = []

    def noted(path: Path, *more: Any) -> Any:
        opened.append(path)
        return open_image(path, *more)

    monkeypatch.setattr("visionlora.data.images.open_image", noted)
    before = data(folder, tmp_path / "kept")
    opened.clear()
    first = shown(before)
    assert opened == []
    changed = folder / "train/cat/0.png"
    Image.new("RGB", (700, 700), "white").save(changed)
    assert not torch.equal(shown(before), first)
    assert opened == [changed]
    damaged = files(tmp_path / "kept")[0]
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    os.truncate(files(tmp_path / "kept")[1], 100)
    opened.clear()
    wanted = shown(data(folder, None))
    opened.clear()
    again = shown(data(folder, tmp_path / "kept"))
    assert (again.float() - wanted.float()).abs().mean() < 5
    assert len([path for path in opened if path.parent.parent.name == "train"]) >= 1


def test_a_bit_in_the_head_of_a_file_is_seen(folder: Path, tmp_path: Path) -> None:
    """It says how large the whole image was, by which the random crops are drawn."""
    wanted = shown(data(folder, tmp_path / "kept"))
    for byte in range(28):
        for path in files(tmp_path / "kept")[:6]:
            content = bytearray(path.read_bytes())
            content[byte] ^= 1
            path.write_bytes(content)
        assert torch.equal(shown(data(folder, tmp_path / "kept")), wanted)


def test_what_cannot_take_its_place_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    wanted = shown(data(folder, tmp_path / "kept"))
    for path in files(tmp_path / "kept"):
        path.unlink()
        path.mkdir()
    assert torch.equal(shown(data(folder, tmp_path / "kept")), wanted)
    assert not files(tmp_path / "kept")


def test_a_folder_that_is_full_keeps_what_it_has_and_makes_room_of_what_is_unused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(decoded, "FOLDERS", 1)
    keep = tmp_path / "kept"
    shown(data(folder, keep))
    most = sum(path.stat().st_size for path in files(keep)[:5]) / 1e9
    shutil.rmtree(keep)
    plain = shown(data(folder, keep, decoded_gb=most))
    said = capfd.readouterr().err
    assert said.count("are full in") == 1
    kept = files(keep)
    assert 0 < len(kept) <= 5
    assert torch.equal(shown(data(folder, keep, decoded_gb=most)), plain)
    assert files(keep) == kept  # an epoch that goes through more than fits does not throw out what it needs
    long_ago = time.time() - 2 * decoded.UNUSED
    for path in kept:
        os.utime(path, (long_ago, long_ago))
    (keep / "00/.x.0123456789abcdef.part").write_bytes(b"left by a process that was killed")
    os.utime(keep / "00/.x.0123456789abcdef.part", (long_ago, long_ago))
    most = sum(path.stat().st_size for path in files(keep)) / 1e9  # not a byte is left
    shown(data(folder, keep, decoded_gb=most), "test")
    assert not (keep / "00/.x.0123456789abcdef.part").exists()
    assert set(files(keep)) != set(kept)
    assert sum(path.stat().st_size for path in files(keep)) <= most * 1e9


def test_what_cannot_be_kept_is_told_once_and_the_training_goes_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    plain = shown(data(folder, None, **WHOLE))

    def full(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device", str(tmp_path / "kept"))

    monkeypatch.setattr(decoded, "writing_beside", full)
    assert torch.equal(shown(data(folder, tmp_path / "kept", **WHOLE)), plain)
    said = capfd.readouterr().err
    assert said.count("the disk is full") == said.count("\n") == 1
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match=r"data\.decoded=\S+file/kept: "):
        data(folder, tmp_path / "file/kept")
    with pytest.raises(UserError, match=r"data\.decoded_gb=0 must be more than 0"):
        DataConfig("fake", decoded_gb=0)


def test_an_archive_is_kept_as_well(folder: Path, tmp_path: Path) -> None:
    for form in ("zip", "tar"):
        archive = Path(shutil.make_archive(str(tmp_path / "images"), form, folder))
        plain = shown(data(archive, None, **WHOLE))
        for _ in range(2):
            assert torch.equal(shown(data(archive, tmp_path / form, **WHOLE)), plain)
        assert len(files(tmp_path / form)) == len(plain)


def test_a_training_is_the_same_with_workers_and_from_the_folder(folder: Path, tmp_path: Path) -> None:
    words = [word for word in TINY if word not in ("data=fake", "data.num_workers=0")]
    words += [*QUIET, "data=imagefolder", f"data.root={folder}", "trainer.max_epochs=2", "data.image_size=64"]
    adapters = []
    for name, workers in (("first", 2), ("second", 0)):
        more = (f"data.num_workers={workers}", f"hydra.run.dir={tmp_path / name}", f"data.decoded={tmp_path / 'kept'}")
        done = command("train", *words, *more)
        assert done.returncode == 0, done.stderr
        adapters.append(load_file(tmp_path / name / "adapter/adapter_model.safetensors"))
    assert all((adapters[0][key] == adapters[1][key]).all() for key in adapters[0])
    kept = files(tmp_path / "kept")
    assert kept
    shutil.rmtree(tmp_path / "kept")
    assert command("evaluate", f"run={tmp_path / 'first'}").returncode == 0
    assert not (tmp_path / "kept").exists()  # a run may be a stranger's: evaluate writes where it is told to
