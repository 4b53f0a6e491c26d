"""``visionlora.predict``: what it reads, what it writes, and images as people have them."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import QUIET, TINY, command
from PIL import Image

import visionlora as vl

Maker = Callable[[Path], None]


def _exif(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20), (10, 200, 10)).save(path, exif=exif)


READABLE: dict[str, Maker] = {
    "sixteen_bits.png": lambda path: Image.fromarray(np.full((30, 30), 40_000, np.uint16)).save(path),
    "cmyk.jpg": lambda path: Image.new("CMYK", (30, 30), (10, 90, 0, 0)).save(path),
    "palette.png": lambda path: Image.new("P", (30, 30), 3).save(path, transparency=0),
    "alpha.png": lambda path: Image.new("RGBA", (30, 30), (9, 9, 200, 80)).save(path),
    "gray_alpha.png": lambda path: Image.new("LA", (30, 30), (90, 80)).save(path),
    "exif.jpg": _exif,
    "animated.gif": lambda path: Image.new("P", (30, 30), 1).save(path, save_all=True, append_images=[Image.new("P", (30, 30), 9)]),
    "one_pixel.png": lambda path: Image.new("RGB", (1, 1)).save(path),
    "upper.JPG": lambda path: Image.new("RGB", (3000, 200), (4, 90, 200)).save(path),
}


def text(path: Path) -> None:
    path.write_text("hello")


def cut(path: Path) -> None:
    Image.effect_noise((300, 300), 90).save(path)
    path.write_bytes(path.read_bytes()[:900])


UNREADABLE: dict[str, Maker] = {
    "empty.jpg": Path.touch,
    "text.jpg": text,
    "cut.jpg": cut,
    "bomb.png": lambda path: Image.new("1", (20_000, 20_000)).save(path),  # 400 megapixels in a few kilobytes
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for name, make in (READABLE | UNREADABLE).items():
        make(folder / name)
    return folder


def rows(file: Path) -> dict[str, dict[str, object]]:
    found = [json.loads(line) for line in file.read_text().splitlines()]
    return {Path(row["path"]).name: row for row in found}


def test_pictures_as_people_have_them(pictures: Path, tiny_run: Path, tmp_path: Path) -> None:
    """Each is classified, or becomes a row with its error; none stops the others."""
    inputs = f"input=[{pictures},{pictures / 'animated.gif'}]"  # which is among those of the folder, and is predicted twice
    done = command("predict", f"run={tiny_run}", inputs, "output=out.jsonl", "batch_size=3", "num_workers=1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = rows(tmp_path / "out.jsonl")
    assert set(found) == set(READABLE) | set(UNREADABLE)
    for name in READABLE:
        assert found[name]["error"] is None, name
        assert found[name]["class1"] in [f"class{i}" for i in range(4)]
    for name in UNREADABLE:
        assert "cannot read the image" in str(found[name]["error"]), name
        assert found[name]["class1"] is None
    assert "14 images, 4 unreadable: out.jsonl" in " ".join(done.stdout.split())
    assert "Traceback" not in done.stderr


def test_a_turned_picture_is_the_turned_picture(pictures: Path, tiny_run: Path) -> None:
    predictor = vl.load(tiny_run)
    assert torch.equal(
        predictor.prepare(pictures / "exif.jpg"), predictor.prepare(Image.open(pictures / "exif.jpg").rotate(-90, expand=True))
    )


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_lists_of_paths_and_formats(suffix: str, pictures: Path, tiny_run: Path, tmp_path: Path) -> None:
    (pictures / "list.csv").write_text("label,path\ncat,exif.jpg\ndog,alpha.png\ncow,nowhere.jpg\n")
    done = command("predict", f"run={tiny_run}", f"input={pictures / 'list.csv'}", f"output=out{suffix}", "topk=2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    out = tmp_path / f"out{suffix}"
    if suffix == ".parquet":
        table = pytest.importorskip("pyarrow.parquet").read_table(out).to_pylist()
    elif suffix == ".csv":
        import csv

        table = [{key: value or None for key, value in row.items()} for row in csv.DictReader(out.read_text().splitlines())]
    else:
        table = [json.loads(line) for line in out.read_text().splitlines()]
    assert list(table[0]) == ["path", "error", "class1", "probability1", "class2", "probability2"]
    assert [Path(row["path"]).name for row in table] == ["exif.jpg", "alpha.png", "nowhere.jpg"]
    assert float(table[0]["probability1"]) >= float(table[0]["probability2"])
    assert table[2]["error"]
    (pictures / "list.csv").unlink()


def test_standard_input(pictures: Path, tiny_run: Path, tmp_path: Path) -> None:
    call = [sys.executable, "-m", "visionlora.predict", f"run={tiny_run}", "input=-", "output=out.jsonl"]
    named = f"{pictures / 'exif.jpg'}\n{pictures / 'alpha.png'}\n"
    done = subprocess.run(call, input=named, capture_output=True, text=True, cwd=tmp_path, timeout=240)
    assert done.returncode == 0, done.stderr
    assert set(rows(tmp_path / "out.jsonl")) == {"exif.jpg", "alpha.png"}


@pytest.mark.slow
def test_several_runs_over_one_backbone(pictures: Path, tiny_run: Path, tmp_path: Path) -> None:
    """As each run by itself, to the last digit written."""
    base = f"model.weights={tiny_run / 'base.safetensors'}"
    both = []
    for name, overrides in {"a": ("lora.r=2",), "b": ("lora=dora", "seed=3", "data.num_classes=3")}.items():
        folder = tmp_path / name
        done = command("train", *TINY, *QUIET, base, "model.pretrained=true", "trainer.max_epochs=1", *overrides, f"hydra.run.dir={folder}")
        assert done.returncode == 0, done.stderr
        both.append(folder)
    done = command("predict", f"run=[{both[0]},{both[1]}]", f"input={pictures / 'exif.jpg'}", "output=out.jsonl", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = {row["run"]: row for row in map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())}
    for folder in both:
        (alone,) = vl.load(folder).predict(pictures / "exif.jpg", topk=3)
        row = found[str(folder)]
        assert [row[f"class{k}"] for k in (1, 2, 3)] == list(alone.labels)
        assert row["probability1"] == pytest.approx(alone.probabilities[0], abs=1e-5)
    full = tmp_path / "full"
    assert command("train", *TINY, *QUIET, "lora=full", "trainer.max_epochs=1", f"hydra.run.dir={full}").returncode == 0
    refused = command("predict", f"run=[{both[0]},{full}]", f"input={pictures / 'exif.jpg'}", cwd=tmp_path)
    assert refused.returncode == 2
    assert "was trained whole" in refused.stderr


def test_a_file_that_is_there_is_not_overwritten(pictures: Path, tiny_run: Path, tmp_path: Path) -> None:
    (tmp_path / "predictions.csv").write_text("mine")
    words = (f"run={tiny_run}", f"input={pictures / 'exif.jpg'}")
    refused = command("predict", *words, cwd=tmp_path)
    assert refused.returncode == 2
    assert "output=predictions.csv is there already" in refused.stderr
    assert (tmp_path / "predictions.csv").read_text() == "mine"
    done = command("predict", *words, "overwrite=true", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "1 image: predictions.csv" in done.stdout
    assert "exif.jpg" in (tmp_path / "predictions.csv").read_text()


def test_it_fails_when_no_picture_can_be_read(pictures: Path, tiny_run: Path, tmp_path: Path) -> None:
    broken = ",".join(str(pictures / name) for name in UNREADABLE)
    done = command("predict", f"run={tiny_run}", f"input=[{broken}]", "output=out.jsonl", cwd=tmp_path)
    assert done.returncode == 2
    assert "4 images, none of which can be read; out.jsonl has the reasons" in done.stderr
    assert all(row["error"] for row in rows(tmp_path / "out.jsonl").values())


def test_bytes_and_open_files(pictures: Path, tiny_run: Path) -> None:
    """As a web server has them: the same prediction as from the path, and the same limits."""
    predictor = vl.load(tiny_run)
    for name in READABLE:
        content = (pictures / name).read_bytes()
        with (pictures / name).open("rb") as file:
            by_path, by_bytes, by_file, by_stream = predictor.predict([pictures / name, content, file, io.BytesIO(content)])
        assert by_path.labels == by_bytes.labels == by_file.labels == by_stream.labels
        assert by_path.probabilities == by_bytes.probabilities == by_file.probabilities == by_stream.probabilities
        assert (by_bytes.path, by_file.path) == ("#1", "#2")
    for name in UNREADABLE:
        (failed,) = predictor.predict((pictures / name).read_bytes())
        assert failed.error.startswith("cannot read the image: "), name
    (alone,) = predictor.predict(io.BytesIO((pictures / "exif.jpg").read_bytes()))
    assert alone.labels


def test_pictures_in_memory(tiny_run: Path) -> None:
    predictor = vl.load(tiny_run)
    array = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    forms: list[np.ndarray | Image.Image | torch.Tensor] = [array, Image.fromarray(array), tensor]
    one, *others = predictor.predict(forms)
    assert all(other.probabilities == pytest.approx(one.probabilities) for other in others)
    assert len(predictor.predict(tensor[None].repeat(3, 1, 1, 1))) == 3
    assert len(predictor.predict(tensor)) == 1
    (wrong,) = predictor.predict([tensor.float()])
    assert "an image in memory is uint8" in wrong.error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("input=nowhere",), "input=nowhere: there is no such file or folder"),
        (("input=.", "output=out.xlsx"), "the name ends in .xlsx; .csv, .jsonl, .parquet are known"),
        (("input=empty.csv",), "it has no rows"),
        (("input=.", "num_workers=-1"), "num_workers=-1 must be at least 0"),
        (("input=.", "threshold=30"), "threshold=30.0 must be between 0 and 1"),
    ],
)
def test_mistakes(words: tuple[str, ...], message: str, tiny_run: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.csv").write_text("path\n")
    done = command("predict", f"run={tiny_run}", *words, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
