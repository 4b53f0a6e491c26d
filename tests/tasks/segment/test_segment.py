"""What is reckoned of masks, against scikit-learn and plain formulas."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from quickly import quickly
from sklearn.metrics import accuracy_score, f1_score, jaccard_score
from torch import nn
from torch.nn import functional

import visionlora as vl
from visionlora import Images, UserError
from visionlora.backbone.head import find_head
from visionlora.backbone.roles import Roles
from visionlora.tasks.metrics import Evaluation
from visionlora.tasks.placed import IGNORED
from visionlora.tasks.segment.losses import loss_of, weights_of
from visionlora.tasks.segment.maps import map_of
from visionlora.tasks.segment.mask_file import MaskArray
from visionlora.tasks.segment.outcome import SegmentOutcome
from visionlora.tasks.segment.prediction import Segmented
from visionlora.tasks.segment.task import LOSSES, Segment, SegmentOptions

CLASSES = 4


def task() -> Segment:
    return Segment([f"c{number}" for number in range(CLASSES)])


def some(count: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    masks = torch.randint(0, CLASSES - 1, (count, 12, 16), generator=generator)  # the last class is nowhere
    outputs = functional.one_hot(masks, CLASSES).permute(0, 3, 1, 2) + 0.7 * torch.randn(count, CLASSES, 12, 16, generator=generator)
    outputs[:, CLASSES - 1] = -9
    masks[:, :3] = IGNORED
    return outputs.float(), masks


def test_metrics_are_scikit_learns() -> None:
    outputs, masks = some()
    evaluation = Evaluation(task(), "val")
    evaluation.update(outputs[:4], masks[:4])
    evaluation.update(outputs[4:], masks[4:])
    found = {key: float(value) for key, value in evaluation.compute().items()}
    known = masks != IGNORED
    true, said = masks[known].numpy(), outputs.argmax(1)[known].numpy()
    assert found["val/miou"] == pytest.approx(jaccard_score(true, said, average="macro"), abs=1e-5)
    assert found["val/pixel_accuracy"] == pytest.approx(accuracy_score(true, said), abs=1e-5)
    assert found["val/dice"] == pytest.approx(f1_score(true, said, average="macro"), abs=1e-5)
    outcome = SegmentOutcome(task(), "val", task().condensed(outputs), masks, Images([None] * 6, [str(i) for i in range(6)]))
    assert {key: found[key] for key in ("val/miou", "val/pixel_accuracy", "val/dice")} == pytest.approx(
        {key: value for key, value in outcome.metrics().items() if key in ("val/miou", "val/pixel_accuracy", "val/dice")}, abs=1e-5
    )
    low, high = outcome.interval()
    assert low < found["val/miou"] < high


def test_cross_entropy_is_torchs() -> None:
    outputs, masks = some()
    torch.testing.assert_close(task().criterion()(outputs, masks), functional.cross_entropy(outputs, masks, ignore_index=IGNORED))
    weights = torch.tensor([1.0, 2.0, 0.5, 1.0])
    loss = loss_of(SegmentOptions(loss="ce"), 0.1, weights)
    torch.testing.assert_close(
        loss(outputs, masks), functional.cross_entropy(outputs, masks, weights, ignore_index=IGNORED, label_smoothing=0.1)
    )


@pytest.mark.parametrize("name", LOSSES)
def test_what_is_of_the_cross_entropy_alone_is_refused_without_it(name: str) -> None:
    for smoothing, weights, given in ((0.1, None, "optim.label_smoothing"), (0.0, torch.ones(CLASSES), "data.balance=weights")):
        if "ce" in name.split("_"):
            loss_of(SegmentOptions(loss=name), smoothing, weights)
            continue
        with pytest.raises(UserError, match=f"{given} is for the cross-entropy, which task.loss={name} has none of"):
            loss_of(SegmentOptions(loss=name), smoothing, weights)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_learn_and_take_masks_of_no_class(name: str) -> None:
    outputs, masks = some()
    loss = loss_of(SegmentOptions(loss=name), 0.0, None)
    right = 20 * functional.one_hot(masks.clamp(max=CLASSES - 1), CLASSES).permute(0, 3, 1, 2).float()
    assert loss(right, masks) < loss(outputs, masks)
    outputs.requires_grad_()
    nothing = loss(outputs, torch.full_like(masks, IGNORED))
    assert torch.isfinite(nothing)
    (gradient,) = torch.autograd.grad(nothing, outputs)
    assert torch.isfinite(gradient).all()


def test_rare_classes_weigh_more() -> None:
    mask = np.zeros((10, 10), np.uint8)
    mask[0, :2], mask[5:, :] = 1, 2
    weights = weights_of([MaskArray(mask)], 4)
    assert weights[1] > weights[0]
    assert weights[1] > weights[2]
    assert weights[3] == 1  # nowhere


def test_a_map_is_that_of_the_image_itself() -> None:
    """The image fills the upper part of the square; below it the model says something else."""
    outputs = torch.zeros(2, 32, 32)
    outputs[1, :16, 16:] = 9.0
    outputs[1, 16:] = 9.0
    found = map_of(outputs, (64, 32), 32)
    assert found.shape == (32, 64)
    assert (found[:, :31] == 0).all()
    assert (found[:, 33:] == 1).all()


def test_what_is_written_of_a_prediction(tmp_path: Path) -> None:
    from faster_coco_eval import mask as coco

    mask = np.zeros((20, 30), np.uint8)
    mask[5:10, 5:15] = 1
    Image.new("RGB", (30, 20), "grey").save(tmp_path / "x.png")
    prediction = Segmented.of(str(tmp_path / "x.png"), ["sky", "road"], mask, (4, 7))
    kept, entry = prediction.left(tmp_path, "x")
    assert kept.mask is None
    assert kept.row(1) == {"sky": pytest.approx(550 / 600), "road": pytest.approx(50 / 600)}
    with Image.open(tmp_path / "masks/x.png") as image:
        assert image.mode == "P"
        assert np.array_equal(np.asarray(image), np.where(mask, 7, 4))
    with Image.open(tmp_path / "overlays/x.jpg") as image:
        assert image.size == (30, 20)
    road = next(one for one in entry["objects"] if one["category"] == "road")
    assert np.array_equal(coco.decode({**road["segmentation"], "counts": road["segmentation"]["counts"].encode()}), mask)


def test_masks_that_are_none() -> None:
    targets = task().targets()
    images = torch.zeros(2, 3, 8, 8)
    with pytest.raises(UserError, match=r"they must be \(2, 8, 8\)"):
        targets.of((images, torch.zeros(2, 4, 4, dtype=torch.uint8)), "train")
    wrong = torch.zeros(2, 8, 8, dtype=torch.uint8)
    wrong[0, 0, 0] = 9
    with pytest.raises(UserError, match="1 pixels of a train batch have none of the classes 0 to 3"):
        targets.of((images, wrong), "train")
    with pytest.raises(UserError, match=r"where \(N, 4, H, W\) is wanted"):
        targets.fit(torch.zeros(2, 4), "train")


SOME = ("test_resnet", "tf_efficientnet_lite0", "convnext_atto", "mobilenetv3_small_100")
DECODERS = [name for name in Segment.decoders if name != "dpt"]
DIFFERENT = [
    ("tf_efficientnet_lite0", "fpn"),  # the default
    ("tf_efficientnet_lite0", "segformer"),
    ("tf_efficientnet_lite0", "deeplabv3plus"),
    ("test_resnet", "unet"),
    ("test_resnet", "manet"),
    ("test_resnet", "pan"),
    ("convnext_atto", "fpn"),
    ("convnext_atto", "unetplusplus"),
    ("convnext_atto", "upernet"),
    ("mobilenetv3_small_100", "unet"),
    ("mobilenetv3_small_100", "linknet"),
    ("mobilenetv3_small_100", "deeplabv3"),
]
"""Every decoder, and every family below several."""


@pytest.mark.parametrize(("name", "decoder"), quickly(product(SOME, DECODERS), DIFFERENT, names=2))
def test_decoders_over_families(name: str, decoder: str) -> None:
    """Identical at the start, gradients everywhere (the audit), merged exactly; or a sentence on why there is none."""
    side = 128 if decoder == "pan" else 64
    model = vl.create_backbone(f"timm/{name}", 3, False, decoder=decoder, image_size=side).eval()
    images = torch.randn(2, 3, side, side)
    with torch.no_grad():
        before = model(images)
        assert before.shape == (2, 3, side, side)
    report = vl.inject(model, vl.LoraConfig(r=2))
    assert not any(layer.name.startswith(("decoder", "segmentation_head")) for layer in report.layers)
    with torch.no_grad():
        torch.testing.assert_close(model(images), before, atol=1e-4, rtol=1e-4)
        for key, parameter in model.named_parameters():
            if key.endswith("lora_B"):
                nn.init.normal_(parameter, std=0.02)
        changed = model(images)
        vl.merge(model)
        torch.testing.assert_close(model(images), changed, atol=1e-3, rtol=1e-3)


@pytest.mark.filterwarnings("ignore:Encoder does not have prefix tokens")
def test_dpt_over_a_vision_transformer() -> None:
    model = vl.create_backbone("timm/vit_tiny_patch16_224", 3, False, decoder="dpt", image_size=64).eval()
    assert model(torch.randn(1, 3, 64, 64)).shape == (1, 3, 64, 64)
    assert vl.inject(model, vl.LoraConfig(r=2)).layers


@pytest.mark.parametrize("decoder", ["fpn", "fcos"])
@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("resnet18", {"stem": "conv1", "stage3": "layer3.0.conv1", "last:1": "layer4.1.conv1"}),
        ("tf_efficientnet_lite0", {"stem": "conv_stem", "stage2": "blocks.1.0.conv_pw", "last:1": "blocks.6.0.conv_pw"}),
        ("convnext_atto", {"stem": "stem_0", "stage2": "stages_1.downsample.1", "last:1": "stages_3.blocks.1.mlp.fc1"}),
    ],
)
def test_roles_below_a_decoder_are_those_of_the_classifier(name: str, stages: dict[str, str], decoder: str) -> None:
    model = vl.create_backbone(f"timm/{name}", 3, False, decoder=decoder, image_size=64)
    prefix = "encoder.model." if decoder == "fpn" else "backbone."
    for role, layer in stages.items():
        found = Roles(model, find_head(model))(role)
        assert found is not None
        assert prefix + layer in found
        assert len(found) < 20
