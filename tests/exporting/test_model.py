"""``vl.export``: models trained in a loop of one's own, read back by what will read them; the model itself stays as it is."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from exporting.snippets import agree, blocks, photo, run_block
from model_parts import part
from quickly import quickly
from safetensors.torch import load_file
from torch import Tensor, nn

import visionlora as vl
from visionlora.data.opening import open_image
from visionlora.data.transforms import eval_transform, normalize

EXAMPLE = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
PREPARED = {"image_size": 32, "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3), "interpolation": "bicubic", "crop_pct": 0.9}
WITH_ONNX = importlib.util.find_spec("onnxscript") is not None and importlib.util.find_spec("onnxruntime") is not None
TRACED = ("pt2", "onnx") if WITH_ONNX else ("pt2",)


class Small(nn.Module):
    """Of nobody's library, with a buffer and a layer that behaves otherwise in training."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.drop, self.head = nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.Dropout(0.5), nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.drop(self.norm(self.conv(images)).relu().mean((2, 3))))
        return logits


def learned(model: nn.Module, config: vl.LoraConfig | None = None, **options: Any) -> nn.Module:
    """A few steps of anybody's loop."""
    vl.inject(model, config or vl.LoraConfig(r=3), EXAMPLE, **options)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    model.train()
    for step in range(3):
        nn.functional.cross_entropy(model(EXAMPLE), torch.arange(3)).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=step < 2)
    return model


def backbone(name: str = "timm/test_resnet", **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return vl.create_backbone(name, 4, pretrained=False, **options)


def logits_of(model: nn.Module, images: Tensor = EXAMPLE) -> Tensor:
    """What the model gives in eval mode; its mode is put back."""
    training = {name: module.training for name, module in model.named_modules()}
    with torch.no_grad():
        logits: Tensor = model.eval()(images)
    for name, module in model.named_modules():
        module.training = training[name]
    return logits


def state_of(model: nn.Module) -> list[Any]:
    """All of a model that an export could change."""
    modules = [(name, type(module), module.training) for name, module in model.named_modules()]
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    values = [(n, id(t), t._version, t.dtype, t.device, t.requires_grad, t.grad is None, t.detach().clone()) for n, t in tensors.items()]
    return [modules, values, torch.random.get_rng_state(), torch.get_default_dtype()]


def assert_same(before: list[Any], after: list[Any]) -> None:
    for old, new in zip(before, after, strict=True):
        if isinstance(old, Tensor):
            assert torch.equal(old, new)
        elif isinstance(old, list | tuple):
            assert_same(list(old), list(new))
        else:
            assert old == new


def read_back(folder: Path, format_: str, model: Callable[[], nn.Module]) -> Callable[[Tensor], Tensor]:
    """By hand, without a line of ours."""
    if format_ == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
        return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
    if format_ == "pt2":
        return torch.export.load(folder / "model.pt2").module()
    built = model()
    built.load_state_dict(torch.load(folder / "model.pt") if format_ == "torchvision" else load_file(folder / "model.safetensors"))
    return built.eval()


def close(logits: Tensor, wanted: Tensor) -> None:
    assert float((logits - wanted).abs().max() / wanted.abs().max()) <= 1e-4


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module], tuple[str, ...]]] = {
    "a backbone of ours": (
        lambda: learned(backbone()),
        lambda: timm.create_model("test_resnet", num_classes=4),
        (*TRACED, "state_dict", "timm"),
    ),
    "timm's own": (
        lambda: learned(timm.create_model("test_vit", num_classes=4, img_size=32)),
        lambda: timm.create_model("test_vit", num_classes=4, img_size=32),
        ("pt2", "state_dict", "timm"),
    ),
    "torchvision's, by ours": (
        lambda: learned(backbone("torchvision/shufflenet_v2_x0_5", image_size=32)),
        lambda: torchvision.models.shufflenet_v2_x0_5(num_classes=4),
        (*TRACED, "state_dict", "torchvision"),
    ),
    "DoRA, batch-norm moving": (
        lambda: learned(backbone(), vl.LoraConfig(r=2, method="dora"), freeze_bn=False),
        lambda: timm.create_model("test_resnet", num_classes=4),
        (*TRACED, "timm"),
    ),
    "merged before": (lambda: vl.merge(learned(backbone())), lambda: timm.create_model("test_resnet", num_classes=4), ("pt2", "timm")),
    "folded": (lambda: vl_folded(learned(backbone())), lambda: timm.create_model("test_resnet", num_classes=4), ("pt2", "timm")),
    "without its classifiers in the middle": (
        lambda: backbone("torchvision/googlenet", image_size=32),
        lambda: torchvision.models.googlenet(num_classes=4, aux_logits=False, init_weights=False),
        ("torchvision",),
    ),
    "anybody's, with LoRA": (lambda: learned(Small()), Small, (*TRACED, "state_dict")),
    "anybody's, without": (Small, Small, (*TRACED, "state_dict")),
}


def vl_folded(model: nn.Module) -> nn.Module:
    vl.fold(model)
    return model


@pytest.mark.parametrize("name", quickly(CASES, 2))
def test_what_is_read_back_is_the_model(name: str, tmp_path: Path) -> None:
    made, plain, formats = CASES[name]
    model = made()
    wanted, before = logits_of(model), state_of(model)
    written = vl.export(model, EXAMPLE, formats, folder=tmp_path / "out", classes=list("abcd"))
    assert_same(before, state_of(model))
    close(logits_of(model), wanted)
    assert [(one.format, one.folder) for one in written] == [(format_, tmp_path / "out" / format_) for format_ in formats]
    for one in written:
        assert one.difference <= 1e-4
        with torch.no_grad():
            read = read_back(one.folder, one.format, plain)
            close(read(EXAMPLE), wanted)
            close(read(EXAMPLE[:1]), wanted[:1])
        prepared = json.loads((one.folder / "preprocessing.json").read_text())
        assert (prepared["classes"], prepared["input_size"]) == (list("abcd"), [3, 32, 32])
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]


def test_the_example_is_in_no_file(tmp_path: Path) -> None:
    for one in vl.export(learned(backbone()), EXAMPLE, (*TRACED, "state_dict"), folder=tmp_path):
        for path in one.folder.iterdir():
            assert EXAMPLE[0, 0, 8:24].numpy().tobytes() not in path.read_bytes()


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_become_float32(kind: torch.dtype, tmp_path: Path) -> None:
    model = learned(backbone()).to(kind)
    before = state_of(model)
    (written,) = vl.export(model, EXAMPLE.to(kind), "timm", folder=tmp_path)
    assert_same(before, state_of(model))
    state = load_file(written.folder / "model.safetensors")
    assert {value.dtype for value in state.values() if value.is_floating_point()} == {torch.float32}
    with torch.no_grad():
        read = read_back(written.folder, "timm", lambda: timm.create_model("test_resnet", num_classes=4))
        close(read(EXAMPLE.to(kind).float()), logits_of(model.float(), EXAMPLE.to(kind).float()))


@pytest.mark.slow
def test_modes_around_the_call(tmp_path: Path) -> None:
    """Inference mode, autocast and another default type change nothing of what is written."""
    model = learned(backbone())
    vl.export(model, EXAMPLE, TRACED, folder=tmp_path / "plain")
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        vl.export(model, EXAMPLE, TRACED, folder=tmp_path / "modes")
        made_inside = backbone("timm/test_vit", image_size=32)
    torch.set_default_dtype(torch.float64)
    try:
        vl.export(model, EXAMPLE, "timm", folder=tmp_path / "modes")
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    vl.export(made_inside, format=TRACED, folder=tmp_path / "inside")  # the example is noise of its own size
    for folder in ("plain", "modes"):
        for format_ in TRACED:
            with torch.no_grad():
                close(read_back(tmp_path / folder / format_, format_, Small)(EXAMPLE), logits_of(model))


@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel], ids=["compiled", "parallel"])
def test_what_training_wraps_around_it(wrap: Callable[[nn.Module], Any], tmp_path: Path) -> None:
    model = learned(backbone())
    vl.export(wrap(model), EXAMPLE, "timm", folder=tmp_path)
    with torch.no_grad():
        close(read_back(tmp_path / "timm", "timm", lambda: timm.create_model("test_resnet", num_classes=4))(EXAMPLE), logits_of(model))


@pytest.mark.parametrize("given", [PREPARED, PREPARED | {"crop_mode": "squash"}], ids=["centre", "whole"])
@pytest.mark.slow
def test_the_code_of_the_card(given: dict[str, Any], tmp_path: Path) -> None:
    """Given preprocessing is what the card's code does to an image."""
    from visionlora.backbone.info import Preprocessing

    model, names = learned(backbone()), ["a `b`", 'c "d"\\', "<e>\nf", "```"]
    prepared = Preprocessing(**given)
    for one in vl.export(model, EXAMPLE, (*TRACED, "state_dict", "timm"), folder=tmp_path, classes=names, preprocessing=prepared):
        picture = photo(one.folder / "picture.jpg")
        images = normalize(eval_transform(prepared)(open_image(picture, 3))[None], prepared)
        found = logits_of(model, images).softmax(-1)[0]
        (code,) = blocks(one.folder / "README.md")
        assert agree(run_block(code, one.folder), f"{names[int(found.argmax())]} {float(found.max()):.4f}")


def test_what_is_not_known_is_not_made_up(tmp_path: Path) -> None:
    """Without classes and preprocessing, the card's code runs on a blank, and says the number of the class."""
    for one in vl.export(Small(), EXAMPLE, (*TRACED, "state_dict"), folder=tmp_path):
        assert json.loads((one.folder / "preprocessing.json").read_text()) == {
            "backbone": "Small",
            "classes": [],
            "input_size": [3, 32, 32],
        }
        card = (one.folder / "README.md").read_text()
        assert "whose names are not recorded" in card
        assert "How images were prepared for it is not recorded" in card
        (code,) = blocks(one.folder / "README.md")
        printed = run_block(code, one.folder)
        assert one.format == "state_dict" or printed.split()[0] in "0123"


def test_preprocessing_is_that_of_the_backbone_at_the_size_of_the_example(tmp_path: Path) -> None:
    for model in (backbone(), timm.create_model("test_resnet", num_classes=4)):
        (one,) = vl.export(model, EXAMPLE, "state_dict", folder=tmp_path, overwrite=True)
        prepared = json.loads((one.folder / "preprocessing.json").read_text())
        assert (prepared["image_size"], prepared["crop_pct"], prepared["mean"]) == (32, 0.95, [0.5] * 3)


def test_the_files_own_preprocessing_can_be_given_again(tmp_path: Path) -> None:
    (first,) = vl.export(backbone(), EXAMPLE, "state_dict", folder=tmp_path / "a", classes=list("abcd"))
    read = json.loads((first.folder / "preprocessing.json").read_text())
    (second,) = vl.export(Small(), EXAMPLE, "state_dict", folder=tmp_path / "b", classes=read["classes"], preprocessing=read)
    assert json.loads((second.folder / "preprocessing.json").read_text()) == read | {"backbone": "Small"}


def test_the_name_is_not_lost_to_the_commands_module() -> None:
    call = "vl.export(torch.nn.Flatten(), torch.ones(2, 1, 1, 3), 'pt2', folder='/dev/null/x')"
    code = f"import visionlora as vl, visionlora.export, torch\n{call}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "UserError: /dev/null is a file where a folder has to be" in done.stderr


class Undecided(Small):
    """Takes its way by what it sees, which no trace can follow."""

    def forward(self, images: Tensor) -> Tensor:
        logits = super().forward(images)
        return logits if logits.sum().item() > 0 else -logits


class Named(Small):
    def forward(self, images: Tensor) -> Any:
        return {"logits": super().forward(images)}


MISTAKES: dict[str, tuple[Callable[[], Any], dict[str, Any], str]] = {
    "format": (Small, {"format": "onx"}, "format=onx is unknown; .* Did you mean 'onnx'"),
    "no format": (Small, {"format": []}, "names no format"),
    "one of several": (Small, {"format": ["pt2", "onx"]}, "format=onx is unknown"),
    "no model": (lambda: 3, {}, "a torch.nn.Module, not a int"),
    "another library's": (backbone, {"format": ["pt2", "torchvision"]}, "the model is timm/test_resnet; take format=timm"),
    "nobody's": (Small, {"format": ["pt2", "timm"]}, "Small, which timm did not build; take format=onnx"),
    "a changed one": (lambda: changed(backbone()), {"format": ["pt2", "timm"]}, "format=timm cannot hold this timm/test_resnet"),
    "example of bytes": (Small, {"example": torch.zeros(2, 3, 8, 8, dtype=torch.uint8)}, "this one is torch.uint8"),
    "one image": (Small, {"example": EXAMPLE[0]}, r"this one is torch.float32 \(3, 32, 32\)"),
    "channels": (Small, {"example": EXAMPLE[:, :1]}, "Small does not take the example"),
    "no logits": (Named, {}, "Named gave a dict"),
    "not traced": (Undecided, {"format": ["state_dict", "pt2"]}, "format=pt2 cannot hold this Undecided"),
    "classes": (Small, {"classes": ["cat", "dog"]}, "classes are 4 texts, .* there are 2"),
    "key": (Small, {"preprocessing": {"size": 3}}, "preprocessing.size is unknown"),
    "size": (Small, {"preprocessing": PREPARED | {"image_size": 64}}, "preprocessing.image_size=64 makes other images"),
    "mean": (Small, {"preprocessing": PREPARED | {"mean": [0.5]}}, "preprocessing.mean is out of range"),
    "interpolation": (Small, {"preprocessing": PREPARED | {"interpolation": "cubic"}}, "preprocessing.interpolation is out of range"),
}


def changed(model: nn.Module) -> nn.Module:
    model.fc = nn.Sequential(nn.Linear(part(model, "fc", nn.Linear).in_features, 4), nn.Sigmoid())
    return model


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """One sentence, nothing written, nothing printed beside it."""
    model, given, message = MISTAKES[name]
    with pytest.raises(vl.UserError, match=message) as told:
        vl.export(model(), **{"example": EXAMPLE, "format": "pt2", "folder": tmp_path / "new" / "out", **given})
    assert "\n" not in str(told.value)
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr().err == ""
