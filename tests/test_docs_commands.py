"""Every command of the README and the documentation is run, cut to seconds; a few of the README always, others by ``make test-slow``."""

from __future__ import annotations

import io
import shutil
import tarfile
from pathlib import Path

import datasets
import numpy as np
import placed
import pytest
from conftest import command, compose
from docs_commands import ASKS, COMMANDS, CUTS, SHORT, SMALL, Shown, commands, cut, in_place, missed
from PIL import Image
from quickly import quickly
from reporting.test_report import make_run

COMPOSED = {
    "trainer=gpu": "needs a GPU",
    "trainer=ddp": "needs four devices",
    "data=litdata": "needs a library; tests/data/sources/test_litdata.py trains where it is",
}
"""Words of commands that are composed and checked only, and why."""
WORDNET = {"bird": "n01530575", "cat": "n02123045", "dog": "n02085620", "fish": "n01440764"}
"""Brambling, tabby, Chihuahua, tench."""
ALL = commands()
ALWAYS = (
    "python -m visionlora.train task=regression data=table data.root=COUNTS.csv data.label=red_cells",
    "python -m visionlora.train task=detect data=coco data.root=COCO model.decoder=mask_rcnn",
    "python -m visionlora.train again=DIR hydra.run.dir=NEW",
    "python -m visionlora.check data=imagefolder data.root=DIR",
    "python -m visionlora.evaluate 'run=[DIR,FULL]' compare=true",
    "python -m visionlora.predict run=DIR input=IMAGES",
    "python -m visionlora.explain run=DIR",
    "python -m visionlora.export run=DIR 'format=[timm,onnx]'",
)
"""In every run, of the README, which is what newcomers type: the commands that have no subprocess test of their own, and the trainings that
have least in common. The plain one is in tests/training/test_train.py."""
RAN: set[str] = set()
"""Commands that are the same once they are cut and their words in capitals are replaced."""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four classes in folders."""
    root, random = tmp_path_factory.mktemp("documented") / "pictures", np.random.default_rng(0)
    for part, count in (("train", 15), ("test", 2)):
        for name in ("bird", "cat", "dog", "fish"):
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(root / part / name / f"{number}.png")
    shutil.make_archive(str(root.parent / "images"), "zip", root)
    for name, label in WORDNET.items():
        for part in ("train", "test"):
            shutil.copytree(root / part / name, root.parent / "wordnet" / part / label)
    for name in WORDNET:
        for part in ("train", "test"):
            shutil.copytree(root / part / name, root.parent / "tree" / part / ("air" if name == "bird" else "ground") / name)
    (root.parent / "names.txt").write_text("".join(f"{name}\t{name}s\n" for name in WORDNET))
    rows = sorted(root.rglob("*.png"))
    for name, label in (("labels", "label"), ("counts", "red_cells")):
        lines = [f"{path.relative_to(root.parent)},{path.parent.name if label == 'label' else len(path.stem)}\n" for path in rows]
        (root.parent / f"{name}.csv").write_text(f"image,{label}\n" + "".join(lines))
    for part in ("train", "test"):
        (root.parent / "shards" / part).mkdir(parents=True)
        with tarfile.open(root.parent / f"shards/{part}/000.tar", "w") as archive:
            for path in sorted((root / part).rglob("*.png")):
                archive.add(path, f"{path.parent.name}-{path.name}")
                info = tarfile.TarInfo(f"{path.parent.name}-{path.stem}.cls")
                info.size = len(path.parent.name)
                archive.addfile(info, io.BytesIO(path.parent.name.encode()))
    placed.write_masks(root.parent / "masks", {"train": 6, "test": 3})
    placed.write_voc(root.parent / "voc", {"train": 6, "test": 3})
    placed.write_coco(root.parent / "coco", {"train": 6, "test": 3})
    of_classes = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["bird", "cat", "dog", "fish"])})
    rows_of = {
        part: [{"image": str(path), "label": path.parent.name} for path in rows if path.parts[-3] == part] for part in ("train", "test")
    }
    datasets.DatasetDict({part: datasets.Dataset.from_list(found, features=of_classes) for part, found in rows_of.items()}).save_to_disk(
        root.parent / "dataset"
    )
    return root


@pytest.fixture(scope="module")
def finished(pictures: Path) -> Path:
    """A run of a tiny model on these images."""
    run = pictures.parent / "run"
    small = [f"{key}={value}" for key, value in (SHORT | SMALL | {"data": "imagefolder", "data.root": str(pictures)}).items()]
    done = command("train", *small, f"hydra.run.dir={run}")
    assert done.returncode == 0, done.stderr
    return run


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Finished runs of three configurations, without a training."""
    folder = tmp_path_factory.mktemp("several")
    for name, overrides in {"full": ("lora=full",), "rank8": ("lora.r=8",), "rank1": ("lora.r=1",)}.items():
        for seed in range(2):
            make_run(folder / f"{name}-{seed}", *overrides, f"seed={seed}", test__top1=0.5 + 0.01 * seed * len(name), test__f1=0.5)
    return folder


@pytest.fixture
def places(finished: Path, pictures: Path, sweep: Path, tmp_path: Path) -> dict[str, Path | str]:
    """What stands for each word in capitals."""
    run, other, interrupted = tmp_path / "run", tmp_path / "other", tmp_path / "interrupted"  # commands write into them
    second = tmp_path / "second"
    for copy in (run, other, second):
        shutil.copytree(finished, copy)
    shutil.copytree(finished, interrupted, ignore=shutil.ignore_patterns("results.json", "adapter"))
    found: dict[str, Path | str] = {
        "data.root=DIR": pictures,
        "input=IMAGES": pictures / "test",
        "again=DIR": run,
        "hydra.run.dir=DIR": interrupted,
    }
    found |= {"hydra.run.dir=NEW": tmp_path / "new", "hydra.sweep.dir=SWEEP": tmp_path / "swept"}
    words = ("labels", "counts", "images", "shards", "dataset", "chunks", "wordnet", "tree", "masks", "voc", "coco")  # .csv, .csv, .zip
    found |= {f"data.root={word.upper()}": pictures.parent / word for word in words}
    found |= {f"data.classes={word}": pictures.parent / "names" for word in ("NAMES", "ORDER")}  # .txt
    found |= {"run=DIR": run, "run=LORA": run, "run=FULL": other, "run=SECOND": second, "run=THIRD": other}
    found |= {"output=SHARDS": tmp_path / "packed", "output=SOUP": tmp_path / "soup", "data.decoded=KEPT": tmp_path / "kept"}
    found |= {"data.root=URL": (pictures.parent / "shards").as_uri()}
    return found | {f"runs={word}": sweep for word in ("DIR", "SWEEP", "multirun", "multirun/DATE/TIME")}


def test_no_command_is_missed() -> None:
    assert not missed()
    assert len(ALL) > 40
    assert set(CUTS) == set(COMMANDS)
    assert {shown.command for shown in ALL if not shown.has(*ASKS)} == set(COMMANDS)
    assert set(ALWAYS) <= {shown.text for shown in ALL if "README.md" in shown.pages}


@pytest.mark.parametrize("shown", quickly(ALL, [shown for shown in ALL if shown.text in ALWAYS]), ids=lambda shown: shown.text)
def test_the_command_does_what_it_is_shown_for(shown: Shown, places: dict[str, Path | str], tmp_path: Path) -> None:
    short = in_place(cut(shown), places)
    if set(COMPOSED) & set(short.words):
        compose(*in_place(shown, places).words)
        return
    if not shown.words and shown.module != "train":
        short = Shown(short.module, ("--help",), ())  # a page speaks of the command, and does not call it
    if short.text in RAN:
        return
    RAN.add(short.text)
    folder = tmp_path / "here"
    folder.mkdir()
    done = command(short.module, *short.words, cwd=folder, fresh=short.has("hydra/launcher"))  # it starts processes of its own
    assert done.returncode == 0, f"{short.text}\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
    assert "Traceback" not in done.stderr
    assert done.stdout.strip()
