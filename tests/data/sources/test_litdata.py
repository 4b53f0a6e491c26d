"""``data=litdata``: chunks are what their class folders are, in any order, and mistakes are told."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import QUIET, TINY, command, results
from PIL import Image
from safetensors.torch import load_file

from visionlora import UserError
from visionlora.data.config import DataConfig
from visionlora.data.module import ImageData

pytest.importorskip("litdata")
Folders = Callable[..., Path]


def write(folder: Path, samples: Iterable[Any], **how: Any) -> Path:
    """Chunks of five samples, as ``litdata.optimize`` writes them."""
    from litdata.streaming.cache import Cache

    folder.mkdir(parents=True)
    writer = Cache(str(folder), chunk_size=5, **how)
    for number, sample in enumerate(samples):
        writer[number] = sample
    writer.done()
    writer.merge()
    return folder


SAMPLES: dict[str, Callable[[Path], Any]] = {
    "bytes": lambda path: {"image": path.read_bytes(), "label": path.parent.name},
    "pixels": lambda path: {"image": Image.open(path).copy(), "label": path.parent.name},
    "tuple": lambda path: (path.read_bytes(), path.parent.name),
    "numbers": lambda path: {"label": ["cat", "dog"].index(path.parent.name), "image": path.read_bytes()},
    "lists": lambda path: {
        "image": path.read_bytes(),
        "label": path.parent.name,
        "group": f"{path.parent.parent.name}{path.stem}",
        "weight": 0.5,
    },
}


def chunks(root: Path, sample: Callable[[Path], Any]) -> Path:
    out = root.with_name("chunks")
    for part in ("train", "test"):
        write(out / part, map(sample, sorted((root / part).rglob("*.png"), key=lambda path: (path.stem, path.parent.name))))
    return out


def data(root: Path, task: Any = None, **keys: Any) -> ImageData:
    return ImageData(DataConfig("litdata", str(root), val_fraction=0.0, **keys), task=task)


@pytest.mark.parametrize("kind", SAMPLES)
def test_chunks_are_what_their_folders_are(kind: str, class_folders: Folders) -> None:
    root = class_folders(train={"cat": 6, "dog": 6}, test={"cat": 2, "dog": 2})
    written = chunks(root, SAMPLES[kind])
    if kind == "numbers":
        (written / "classes.txt").write_text("cat\ndog\n")
    found = pickle.loads(pickle.dumps(data(written)))
    folder = ImageData(DataConfig("imagefolder", str(root), val_fraction=0.0))
    assert found.classes == ["cat", "dog"]
    for part in ("train", "test"):
        images, other = found.parts[part], folder.parts[part]
        pixels = {np.asarray(images.open(i, 3)).tobytes(): images.labels[i] for i in reversed(range(len(images)))}
        assert pixels == {np.asarray(other.open(i, 3)).tobytes(): other.labels[i] for i in range(len(other))}
        assert all(images.bytes_of(i) > 0 for i in range(len(images)))
    assert bool(found.parts["train"].weights) == bool(found.parts["train"].groups) == (kind == "lists")


def test_jpeg_files_are_read_as_they_are(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (12, 40, 48, 3), dtype=np.uint8)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{number}.jpg")
    files = [tmp_path / f"{number}.jpg" for number in range(12)]

    def samples() -> Iterator[Any]:
        for number, file in enumerate(files):
            with Image.open(file) as image:
                yield {"image": image, "label": number % 2}

    write(tmp_path / "chunks", samples())
    store = data(tmp_path / "chunks", test_fraction=0.0).parts["train"].store
    assert store is not None
    assert [store.read(f"train/{number:08}") for number in range(12)] == [file.read_bytes() for file in files]
    assert [store.size(f"train/{number:08}") for number in range(12)] == [file.stat().st_size for file in files]


def test_a_training_with_worker_processes_is_that_without(class_folders: Folders, tmp_path: Path) -> None:
    root = chunks(class_folders(train={"cat": 8, "dog": 8}, test={"cat": 3, "dog": 3}), SAMPLES["bytes"])
    words = [word for word in TINY if word not in ("data=fake", "data.num_workers=0")]
    words += [*QUIET, "data=litdata", f"data.root={root}", "trainer.max_epochs=1", "data.image_size=72"]
    for workers in (0, 2):
        done = command("train", *words, f"data.num_workers={workers}", f"hydra.run.dir={tmp_path / str(workers)}")
        assert done.returncode == 0, done.stderr
    first, second = (load_file(tmp_path / name / "adapter/adapter_model.safetensors") for name in ("0", "2"))
    assert all((first[key] == second[key]).all() for key in first)
    assert results(tmp_path / "0")["images/test"] == 6


def test_mistakes(class_folders: Folders, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no index\.json of litdata"):
        data(tmp_path)
    root = chunks(class_folders(train={"cat": 6, "dog": 6}, test={"cat": 2, "dog": 2}), SAMPLES["bytes"])
    with pytest.raises(UserError, match=r"data\.label=kind: .* its columns are 'image', 'label'"):
        data(root, label="kind")
    write(tmp_path / "nested", [{"image": b"x", "more": {"a": 1, "b": 2}}] * 2)
    with pytest.raises(UserError, match="its samples are nested"):
        data(tmp_path / "nested")
    write(tmp_path / "none", [{"image": 1, "label": 2}] * 2)
    with pytest.raises(UserError, match="does not say which field has the images"):
        data(tmp_path / "none")
    chunk = root / "train/chunk-0-1.bin"
    content = chunk.read_bytes()
    chunk.write_bytes(content[:-100])
    with pytest.raises(UserError, match=r"chunk-0-1\.bin was cut short"):
        data(root)
    chunk.unlink()
    with pytest.raises(UserError, match=r"chunk-0-1\.bin is not there"):
        data(root)
    chunk.write_bytes(b"\xff" * len(content))
    with pytest.raises(UserError, match="cannot be read by the library litdata"):
        data(root)
    (root / "train/index.json").write_text("{")
    with pytest.raises(UserError, match="damaged: not valid JSON"):
        data(root)
