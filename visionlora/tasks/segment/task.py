"""A class for every pixel (semantic segmentation)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from visionlora.common.config import at_least, one_of
from visionlora.common.errors import UnreadableError, UserError
from visionlora.common.text import in_brackets
from visionlora.tasks.cells import Cells
from visionlora.tasks.interfaces import PartImages
from visionlora.tasks.measure import Measure
from visionlora.tasks.placed import FULL_SIZE, IGNORED, Placed, PlacedTask
from visionlora.tasks.segment.mask_file import MaskArray, MaskFile
from visionlora.tasks.segment.painted import PaintedMask
from visionlora.tasks.segment.prediction import Segmented
from visionlora.tasks.task import Loss

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor
    from torchmetrics import Metric

    from visionlora.backbone.info import BackboneSpec
    from visionlora.tasks.segment.outcome import SegmentOutcome
    from visionlora.tasks.segment.targets import MaskTargets

LOSSES = ("ce", "dice", "ce_dice", "focal", "lovasz", "ce_lovasz")
WEIGHED = 500
"""Masks of the training part by which classes are weighed, at most."""


@dataclass
class SegmentOptions:
    """The section ``task``.

    Args:
        loss: of training: cross-entropy, Dice (Milletari et al. 2016), focal (Lin et al. 2017), Lovász (Berman et al. 2018),
            or the mean of two.
        gamma: exponent of the focal loss.
        values: the number in a mask file of each class; null: as ``classes.txt`` has them.
    """

    loss: str = "ce_dice"
    gamma: float = 2.0
    values: list[int] | None = None

    def __post_init__(self) -> None:
        one_of("task.loss", self.loss, LOSSES)
        at_least("task.gamma", self.gamma, 0)
        if self.values is not None and (
            not all(0 <= value <= IGNORED for value in self.values) or len(set(self.values)) < len(self.values)
        ):
            raise UserError(f"task.values={self.values} must be numbers from 0 to {IGNORED}, each once.")


class Segment(PlacedTask):
    """Every pixel has a class, or none; pixels of none neither train nor count."""

    name = "segment"
    measures = (
        Measure("miou", "mean intersection over union", "mIoU", hub="mean_iou"),
        Measure("pixel_accuracy", "pixel accuracy", "pixels right", hub="accuracy"),
        Measure("dice", "mean Dice", "Dice"),
        Measure("miou_low", "mean intersection over union, 95% interval from", spread=False),
        Measure("miou_high", "mean intersection over union, 95% interval to", spread=False),
    )
    loss_words = "cross-entropy of the pixels"
    output_words = ("class", "classes")
    hub = "image-segmentation"
    columns = ("classes",)
    balances = ("weights",)
    sources: ClassVar[dict[str, str]] = {
        "digits": "visionlora.data.sources.scenes:masked_digits",
        "coco": "visionlora.data.sources.coco_masks:masked_coco",
    }
    decoders = (
        "fpn",
        "unet",
        "unetplusplus",
        "manet",
        "linknet",
        "pan",
        "deeplabv3",
        "deeplabv3plus",
        "upernet",
        "segformer",
        "dpt",
    )
    head_share = 3.0
    Options = SegmentOptions

    def __init__(self, names: Sequence[str], options: Any = None) -> None:
        super().__init__(names, options)
        self._masks: list[MaskFile | MaskArray | PaintedMask] = []

    @classmethod
    def of_cells(cls, cells: Cells) -> tuple[list[str], dict[str, list[Any]]]:
        from visionlora.tasks.segment.reading import masks_of

        return masks_of(cells)

    def look_at(self, labels: Sequence[Any]) -> None:
        first = labels[0] if labels else None
        if not isinstance(first, MaskFile | MaskArray | PaintedMask):
            raise UserError(
                "task=segment learns masks, and the data has none; data=masks data.root=DIR reads images and masks of the same names,"
                " data=coco polygons and run lengths."
            )
        if isinstance(first, MaskFile):
            values = first.numbering.values
            self.options.values = list(values) if values != tuple(range(len(self.names))) else self.options.values
        self._masks = list(labels)

    def in_words(self, label: Any) -> str:
        return "a mask" if isinstance(label, MaskArray) else str(label.path)

    def placed(self, label: Any, image: Image) -> Placed:
        import torch
        from torchvision import tv_tensors
        from torchvision.transforms.v2 import functional

        if label is None:
            return {"mask": tv_tensors.Mask(torch.full((image.height, image.width), IGNORED, dtype=torch.uint8))}
        mask = tv_tensors.Mask(torch.from_numpy(label.read()))
        height, width = mask.shape
        size = image.info.get(FULL_SIZE, image.size)
        if (width, height) != size:
            raise UnreadableError(f"its mask {self.in_words(label)} has {width} × {height} pixels, the image has {size[0]} × {size[1]}")
        return {"mask": mask if (width, height) == image.size else functional.resize(mask, [image.height, image.width])}

    def of_placed(self, placed: Placed) -> Tensor:
        import torch

        return placed["mask"].as_subclass(torch.Tensor)  # type: ignore[no-any-return]

    def tensor(self, labels: Sequence[Any]) -> Tensor:
        import torch

        return torch.stack(list(labels)) if labels else torch.empty(0, 1, 1, dtype=torch.uint8)

    def meet(self, spec: BackboneSpec) -> None:
        from visionlora.backbone.placed.torchvision_models import kind_of_model, segmenters

        if spec.decoder is None and kind_of_model(spec.name) != self.name:
            raise UserError(
                f"task=segment cannot use {spec.full_name}, which makes no masks; torchvision's that do are {', '.join(segmenters())}."
            )
        if spec.decoder is not None and spec.decoder not in self.decoders:
            raise UserError(
                f"task=segment cannot use model.decoder={spec.decoder}, which makes no masks; it takes {', '.join(self.decoders)}."
            )

    def targets(self) -> MaskTargets:
        from visionlora.tasks.segment.targets import MaskTargets

        return MaskTargets(self.outputs)

    def criterion(self, smoothing: float = 0.0) -> Loss:
        from visionlora.tasks.segment.losses import CrossEntropy

        return CrossEntropy(smoothing)

    def training_criterion(self, smoothing: float = 0.0) -> Loss:
        from visionlora.tasks.segment.losses import loss_of, weights_of

        weights = weights_of(self._masks[:: max(len(self._masks) // WEIGHED, 1)], self.outputs) if self.balance == "weights" else None
        return loss_of(self.options, smoothing, weights)

    def metrics(self) -> dict[str, Metric]:
        from visionlora.tasks.segment.metrics import metrics

        return metrics(self.outputs)

    def condensed(self, outputs: Tensor) -> Tensor:
        import torch

        return outputs.argmax(1).to(torch.uint8)

    def predict_placed(self, names: Sequence[str], outputs: Tensor, most: int, sizes: Sequence[tuple[int, int]], side: int) -> list[Any]:
        from visionlora.tasks.segment.maps import map_of

        return [
            Segmented.of(name, self.names, map_of(one, size, side), self.options.values or ())
            for name, one, size in zip(names, outputs, sizes, strict=True)
        ]

    def unreadable(self, name: str, why: str) -> Segmented:
        return Segmented(name, tuple(self.names), error=why)

    def outcome(self, split: str, outputs: Tensor, targets: Tensor, images: PartImages, **more: Any) -> SegmentOutcome:
        from visionlora.tasks.segment.outcome import SegmentOutcome

        return SegmentOutcome(self, split, outputs, targets, images, **more)

    @classmethod
    def described(cls, names: Sequence[str], outputs: int) -> str:
        return f"A model that gives every pixel of an image one of {outputs} classes{in_brackets(names)}"

    @classmethod
    def limits(cls) -> str:
        return "It gives every pixel one of its classes, also what is none of them, and sees images at the size that it was trained at."

    @classmethod
    def answer_code(cls, named: bool, file: str) -> list[str]:
        lines = ["mask = logits[0].argmax(0)  # (H, W), the index of the class of each pixel of the prepared image"]
        if not named:
            return [*lines, "print(np.unique(mask, return_counts=True))"]
        return [
            f'with open("{file}", encoding="utf-8") as file:',
            '    names = json.load(file)["classes"]',
            *lines,
            "print({names[number]: int((mask == number).sum()) for number in np.unique(mask)})",
        ]
