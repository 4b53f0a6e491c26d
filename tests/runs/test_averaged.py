"""Several adapters averaged to one, against the mean of the merged models' weights in float64."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from conftest import QUIET, TINY, command, results, unsealed
from model_parts import backbone_info
from torch import Tensor, nn

import visionlora as vl
from visionlora import UserError

CASES = {
    "several ranks and strengths": ("test_resnet", [vl.LoraConfig(r=2), vl.LoraConfig(r=3, alpha=1), vl.LoraConfig(r=4, use_rslora=True)]),
    "other layers each": ("test_resnet", [vl.LoraConfig(r=2, targets="*conv1"), vl.LoraConfig(r=2, targets="*conv2")]),
    "grouped convolutions": ("test_convnext", [vl.LoraConfig(r=2, targets="all"), vl.LoraConfig(r=2, targets="all")]),
    "parts of a fused layer": ("test_vit", [vl.LoraConfig(r=2, targets=["*.qkv.q", "*.qkv.v"])] * 2),
    "from a part of the weight": ("test_vit", [vl.LoraConfig(r=2, init="pissa"), vl.LoraConfig(r=2)]),
    "norms and biases too": ("test_resnet", [vl.LoraConfig(r=2, train_norm=True, train_bias=True)] * 2),
    "the head alone": ("test_resnet", [vl.LoraConfig(method="none")] * 2),
    "all weights": ("test_resnet", [vl.LoraConfig(method="full")] * 2),
    "rank beyond the matrix": ("test_resnet", [vl.LoraConfig(r=16, targets="*conv1")] * 5),
}


def plain(name: str) -> nn.Module:
    torch.manual_seed(0)
    return vl.create_backbone(f"timm/{name}", 3, pretrained=False).eval()


def trained(name: str, config: vl.LoraConfig, seed: int, folder: Path) -> dict[str, Tensor]:
    """Weights of a merged model in float64, whose adapter is in the folder."""
    model = plain(name)
    backbone_info(model).classes = ["a", "b", "c"]
    vl.inject(model, config)
    torch.manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += torch.randn_like(parameter) * 0.1
    vl.save_adapter(model, folder)
    return merged(model.double())


def merged(model: nn.Module) -> dict[str, Tensor]:
    vl.merge(model)
    return {key: value.double() for key, value in model.state_dict().items() if ".lora." not in key}


@pytest.mark.parametrize("case", CASES)
def test_the_average_is_the_mean_of_the_merged_weights(case: str, tmp_path: Path) -> None:
    name, configs = CASES[case]
    weights = [3.0, 1.0, 2.0, 1.0, 1.0][: len(configs)]
    folders = [tmp_path / str(number) for number in range(len(configs))]
    each = [trained(name, config, seed, folder) for seed, (config, folder) in enumerate(zip(configs, folders, strict=True))]
    wanted = {key: torch.stack([w * one[key] for w, one in zip(weights, each, strict=True)]).sum(0) / sum(weights) for key in each[0]}
    written = vl.average(folders, tmp_path / "out", weights)
    model = plain(name)
    vl.load_adapter(model, tmp_path / "out")
    found = merged(model.double())
    assert found.keys() == wanted.keys()
    moved = 0.0
    for key, value in wanted.items():
        assert torch.allclose(found[key], value, atol=1e-6), key  # the file is in float32
        moved += float((each[0][key] - value).norm())
    assert moved > 0.1  # the average is not the first one
    assert written.lost_in_all < 1e-9
    assert sum(written.weights) == pytest.approx(1)


def test_factors_averaged_one_by_one_would_be_another_model(tmp_path: Path) -> None:
    """What the test above would miss if updates were alike: the mean of products is not the product of means."""
    config = vl.LoraConfig(r=2, targets="*conv1")
    for seed in (1, 2):
        trained("test_resnet", config, seed, tmp_path / str(seed))
    vl.average([tmp_path / "1", tmp_path / "2"], tmp_path / "out")
    tensors = [vl.load_adapter(plain("test_resnet"), tmp_path / folder).state_dict() for folder in ("1", "2", "out")]
    for key in [key for key in tensors[0] if key.endswith("lora_B")]:
        a, b = (torch.stack([t[key.replace("lora_B", which)] for t in tensors[:2]]) for which in ("lora_A", "lora_B"))
        right = tensors[2][key] @ tensors[2][key.replace("lora_B", "lora_A")]
        assert torch.allclose(right, 2 * (b @ a).mean(0), atol=1e-5)  # scaling is 2
        assert not torch.allclose(right, 2 * b.mean(0) @ a.mean(0), atol=1e-2)


def test_cut_back_to_a_rank_it_is_the_nearest_and_says_what_is_lost(tmp_path: Path) -> None:
    config = vl.LoraConfig(r=3, targets=["layer3.0.conv1", "layer4.0.conv1"])
    each = [trained("test_resnet", config, seed, tmp_path / str(seed)) for seed in range(3)]
    written = vl.average([tmp_path / str(seed) for seed in range(3)], tmp_path / "out", rank=3)
    assert set(written.ranks.values()) == {3}
    model = plain("test_resnet")
    base = {key: value.double() for key, value in model.state_dict().items()}
    vl.load_adapter(model, tmp_path / "out")
    found = merged(model.double())
    for layer, lost in written.lost.items():
        key = f"{layer}.weight"
        whole = (torch.stack([one[key] for one in each]).mean(0) - base[key]).flatten(1)
        kept = (found[key] - base[key]).flatten(1)
        values = torch.linalg.svdvals(whole)
        assert float((whole - kept).norm()) == pytest.approx(float(values[3:].norm()), rel=1e-4)
        assert lost == pytest.approx(float(values[3:].norm() / values.norm()), rel=1e-4)
        assert 0.1 < lost < 0.9
    assert min(written.lost.values()) <= written.lost_in_all <= max(written.lost.values())


def test_peft_reads_the_average_and_its_own_are_averaged(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    wanted, images = [], torch.randn(2, 3, 64, 64)
    for seed in (1, 2):
        torch.manual_seed(seed)
        adapted = peft.get_peft_model(
            timm.create_model("test_resnet", num_classes=3).eval(),
            peft.LoraConfig(r=seed + 1, lora_alpha=3, target_modules=r".*\.\d+\.conv[12]", use_rslora=seed == 2, modules_to_save=["fc"]),
        )
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.1)
        adapted.save_pretrained(tmp_path / str(seed))
        layer = adapted.base_model.model.layer1[0].conv1
        wanted.append((layer.get_delta_weight("default"), adapted.base_model.model.fc.modules_to_save["default"].weight.detach()))
    vl.average([tmp_path / "1", tmp_path / "2"], tmp_path / "out")
    base = plain("test_resnet")
    state = {key: value.clone() for key, value in base.state_dict().items()}
    theirs = timm.create_model("test_resnet", num_classes=3).eval()
    theirs.load_state_dict(state)
    loaded = peft.PeftModel.from_pretrained(theirs, str(tmp_path / "out")).eval()
    layer = loaded.base_model.model.layer1[0].conv1
    assert torch.allclose(layer.get_delta_weight("default"), (wanted[0][0] + wanted[1][0]) / 2, atol=1e-6)
    head = loaded.base_model.model.fc.modules_to_save["default"].weight
    assert torch.allclose(head, (wanted[0][1] + wanted[1][1]) / 2, atol=1e-7)
    ours = vl.load_adapter(timm_model(state), tmp_path / "out").eval()
    assert torch.allclose(ours(images), loaded(images), rtol=1e-4, atol=1e-4)


def timm_model(state: dict[str, Tensor]) -> nn.Module:
    model: nn.Module = timm.create_model("test_resnet", num_classes=3).eval()
    model.load_state_dict(state)
    return model


def _other_classes(folder: Path) -> None:
    card = json.loads((unsealed(folder) / "visionlora.json").read_text())
    card["backbone"]["classes"] = ["c", "b", "a"]
    (folder / "visionlora.json").write_text(json.dumps(card))


def _other_base(folder: Path) -> None:
    card = json.loads((unsealed(folder) / "visionlora.json").read_text())
    card["backbone"]["fingerprint"] = "0" * 64
    (folder / "visionlora.json").write_text(json.dumps(card))


REFUSED: dict[str, tuple[vl.LoraConfig, Callable[[Path], None] | None, str]] = {
    "dora": (vl.LoraConfig(r=2, method="dora"), None, "no product of two factors"),
    "norms in one alone": (vl.LoraConfig(r=2, train_norm=True), None, "in one of them only"),
    "classes in another order": (vl.LoraConfig(r=2), _other_classes, "different outputs"),
    "another base": (vl.LoraConfig(r=2), _other_base, "different backbones"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_averaged_is_told_and_nothing_is_written(case: str, tmp_path: Path) -> None:
    config, change, words = REFUSED[case]
    trained("test_resnet", vl.LoraConfig(r=2), 1, tmp_path / "1")
    trained("test_resnet", config, 2, tmp_path / "2")
    if change:
        change(tmp_path / "2")
    with pytest.raises(UserError, match=words):
        vl.average([tmp_path / "1", tmp_path / "2"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("weights", [[1.0], [1.0, -1.0], [0.0, 0.0], [float("nan"), 1.0]])
def test_wrong_weights(weights: list[float], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="weights"):
        vl.average([tmp_path, tmp_path], tmp_path / "out", weights)


@pytest.fixture(scope="module")
def two_runs(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The tiny run, and another one from the same (random) base with another rate."""
    other = tmp_path_factory.mktemp("other") / "second"
    done = command("train", *TINY, *QUIET, f"hydra.run.dir={other}", "trainer.max_epochs=1", "optim.lr=0.02", "lora.r=2")
    assert done.returncode == 0, done.stderr
    return [tiny_run, other]


def test_evaluate_averages_weights_to_a_run_that_every_command_takes(two_runs: list[Path], tmp_path: Path) -> None:
    soup = tmp_path / "soup"
    done = command("evaluate", f"run=[{two_runs[0]},{two_runs[1]}]", "average=weights", f"output={soup}")
    assert done.returncode == 0, done.stderr
    rows = json.loads((two_runs[0] / "average_weights_test.json").read_text())
    assert [row["name"] for row in rows] == ["average of weights", "run", "second"]
    assert "average of weights" in done.stdout
    assert results(soup)["test/top1"] == rows[0]["test/top1"]
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    predictors = [vl.load(path) for path in (*two_runs, soup)]
    states = [merged(predictor.model) for predictor in predictors]
    for key, value in states[2].items():
        if value.is_floating_point():
            assert torch.allclose(value, (states[0][key] + states[1][key]) / 2, atol=1e-5), key
    for call in (("evaluate",), ("export", "format=state_dict"), ("evaluate", "compare=true")):
        done = command(call[0], f"run={soup}", *call[1:])
        assert done.returncode == 0, done.stderr
    assert predictors[2].logits(images).isfinite().all()
    again = command("evaluate", f"run=[{two_runs[0]},{two_runs[1]}]", "average=weights", f"output={soup}")
    assert again.returncode == 2
    assert "holds a run already" in again.stderr
    report = command("report", f"runs={tmp_path}", cwd=tmp_path)
    assert report.returncode == 2
    assert "no finished run" in report.stderr


def test_logits_of_several_runs(two_runs: list[Path], tmp_path: Path, class_folders: Callable[..., Path]) -> None:
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    together, apart = vl.ensemble(two_runs), [vl.load(run) for run in two_runs]
    wanted = torch.stack([predictor.logits(images) for predictor in apart]).mean(0)
    assert torch.allclose(together.logits(images), wanted, atol=1e-5)
    assert not torch.allclose(wanted, apart[0].logits(images), atol=1e-3)
    done = command("evaluate", f"run=[{two_runs[0]},{two_runs[1]}]", "average=logits")
    assert done.returncode == 0, done.stderr
    assert json.loads((two_runs[0] / "average_logits_test.json").read_text())[0]["name"] == "average of logits"
    root, output = class_folders(train={"class0": 3}), tmp_path / "found.csv"
    done = command("predict", f"run=[{two_runs[0]},{two_runs[1]}]", "average=logits", f"input={root}", f"output={output}")
    assert done.returncode == 0, done.stderr
    assert len(output.read_text().splitlines()) == 4


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("average=weights",), "of several runs"),
        (("average=logits", "rank=2"), "are for average=weights"),
        (("output=x",), "are for average=weights"),
        (("average=wieghts",), "Did you mean"),
    ],
)
def test_wrong_options(given: tuple[str, ...], words: str, tiny_run: Path) -> None:
    done = command("evaluate", f"run={tiny_run}", *given)
    assert done.returncode == 2
    assert words in done.stderr
