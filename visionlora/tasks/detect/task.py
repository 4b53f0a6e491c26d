"""Boxes around objects (object detection)."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from visionlora.common.config import fraction
from visionlora.common.errors import UnreadableError, UserError
from visionlora.common.text import in_brackets
from visionlora.tasks.detect import card
from visionlora.tasks.detect.boxes import Boxes
from visionlora.tasks.detect.prediction import Detected
from visionlora.tasks.interfaces import PartImages
from visionlora.tasks.measure import Measure
from visionlora.tasks.placed import FULL_SIZE, Placed, PlacedTask
from visionlora.tasks.task import Loss

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor
    from torchmetrics import Metric

    from visionlora.backbone.info import BackboneSpec
    from visionlora.tasks.detect.finding import BoxFinding
    from visionlora.tasks.detect.outcome import DetectOutcome
    from visionlora.tasks.detect.targets import BoxTargets

THRESHOLD = 0.3
"""Score from which a box is told where no images have chosen another."""
SHAPE = 0.1
"""Logarithm of the ratio by which the shape of an image may differ from what its file of labels says: decoding smaller rounds a little."""
SMALLEST = 2.0
"""Pixels a side below which what a view has left of a box is dropped."""


@dataclass
class DetectOptions:
    """The section ``task``.

    Args:
        threshold: score from which a box is told and drawn; null: the one with the largest F1 on the validation part.
    """

    threshold: float | None = None

    def __post_init__(self) -> None:
        if self.threshold is not None:
            fraction("task.threshold", self.threshold)


class Detect(PlacedTask):
    """Every image has objects, each with a class and a box; or none."""

    name = "detect"
    measures = (
        Measure("map", "mean average precision (COCO)", "mAP", hub="mean_average_precision"),
        Measure("map50", "mean average precision at half overlap", "mAP50"),
        Measure("mask_map", "mean average precision (COCO) of the masks", "mask mAP"),
        Measure("mask_map50", "mean average precision at half overlap of the masks", "mask mAP50"),
        Measure("map_low", "mean average precision (COCO), 95% interval from", spread=False),
        Measure("map_high", "mean average precision (COCO), 95% interval to", spread=False),
    )
    loss_words = "loss of classes and boxes"
    output_words = ("class", "classes")
    hub = "object-detection"
    columns = ("objects",)
    sources: ClassVar[dict[str, str]] = {"digits": "visionlora.data.sources.scenes:boxed_digits"}
    decoders = ("fcos", "retinanet", "ssd", "ssdlite", "faster_rcnn", "mask_rcnn")
    Options = DetectOptions
    settled = ("threshold",)

    def __init__(self, names: Sequence[str], options: Any = None) -> None:
        super().__init__(names, options)
        self.with_masks = False
        self._bare, self._images = 0, 0

    def look_at(self, labels: Sequence[Any]) -> None:
        if not labels or not isinstance(labels[0], Boxes):
            raise UserError("task=detect learns boxes, and the data has none; data=voc, data=coco and data=yolo have them.")
        if not any(label.boxes for label in labels):
            raise UserError("the training part has no objects; task=detect needs some.")
        self._bare, self._images = sum(label.bare for label in labels), len(labels)

    def in_words(self, label: Any) -> str:
        return f"{len(label.boxes)} objects" if isinstance(label, Boxes) else str(label)

    def placed(self, label: Any, image: Image) -> Placed:
        import torch
        from torchvision import tv_tensors

        own: Boxes = label or Boxes((), ())
        height, width = own.size
        if own.boxes and height and width and abs(math.log(width * image.height / (height * image.width))) > SHAPE:
            wide, high = image.info.get(FULL_SIZE, image.size)
            turned = ", as if it lay on its side" if (width > height) != (wide > high) else ""
            raise UnreadableError(f"its boxes are of an image of {width} × {height} pixels{turned}, and it has {wide} × {high}")
        scale = torch.tensor([image.width, image.height] * 2, dtype=torch.float32)
        boxes = torch.tensor(own.boxes, dtype=torch.float32).reshape(-1, 4) * scale
        found = {
            "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(image.height, image.width)),
            "labels": torch.tensor(own.classes, dtype=torch.int64),
        }
        if self.with_masks:
            from visionlora.tasks.detect.placed_masks import masks_in

            found["masks"] = masks_in(own, (image.height, image.width))
        return found

    def of_placed(self, placed: Placed) -> Tensor:
        import torch
        from torchvision.transforms.v2 import functional

        boxes = functional.clamp_bounding_boxes(placed["boxes"])
        height, width = boxes.canvas_size
        own = boxes.as_subclass(torch.Tensor)
        kept = ((own[:, 2:] - own[:, :2]) >= SMALLEST).all(1)
        found = torch.cat([placed["labels"][kept, None].float(), own[kept] / torch.tensor([width, height] * 2)], dim=1)
        if "masks" not in placed:
            return found
        from visionlora.tasks.detect.masks import columns_of_true

        masks = placed["masks"].as_subclass(torch.Tensor)[kept] == 1  # what is beyond the image is 255
        return torch.cat([found, columns_of_true(masks, own[kept])], dim=1)

    def tensor(self, labels: Sequence[Any]) -> Tensor:
        from visionlora.tasks.detect.targets import padded

        return padded(labels)

    def joined(self, parts: Sequence[Tensor]) -> Tensor:
        from visionlora.tasks.detect.targets import padded

        return padded([one for part in parts for one in part])

    def meet(self, spec: BackboneSpec) -> None:
        from visionlora.backbone.placed.torchvision_models import DETECTORS, detector_of

        detector = detector_of(spec)
        if detector not in self.decoders:
            found = f"model.decoder={spec.decoder}" if spec.decoder else spec.full_name
            raise UserError(
                f"task=detect cannot use {found}, which finds no boxes; it takes model.decoder={', '.join(self.decoders)} over a model of"
                f" timm, or torchvision's {', '.join(DETECTORS)}."
            )
        self.with_masks = detector == "mask_rcnn"
        if self.with_masks and self._bare:
            raise UserError(
                f"Mask R-CNN needs the mask of every object, and {self._bare:,} of {self._images:,} training images have objects with boxes"
                " alone; data=coco has masks (polygons or run lengths), and data=yolo where its files have polygons."
            )

    def targets(self) -> BoxTargets:
        from visionlora.tasks.detect.targets import BoxTargets

        return BoxTargets(self.outputs)

    def criterion(self, smoothing: float = 0.0) -> Loss:
        from visionlora.tasks.detect.losses import detection_loss

        return functools.partial(detection_loss, classes=self.outputs, seed=0)  # which can be sent to another process

    def training_criterion(self, smoothing: float = 0.0) -> Loss:
        from visionlora.tasks.detect.losses import detection_loss

        if smoothing:
            raise UserError("optim.label_smoothing is not for task=detect, whose losses are the detectors' own; leave it out.")
        return functools.partial(detection_loss, classes=self.outputs)

    def settle(self, outputs: Tensor, targets: Tensor) -> dict[str, Any]:
        from visionlora.tasks.detect.layout import detections
        from visionlora.tasks.detect.matching import best_threshold, matched

        if self.options.threshold is not None:
            return {}
        found = detections(outputs, self.outputs)
        matches = [matched(one, true) for one, true in zip(found, targets, strict=True)]
        return {"threshold": best_threshold(matches, THRESHOLD)}

    @property
    def threshold(self) -> float:
        """Score from which a box is told."""
        return THRESHOLD if self.options.threshold is None else float(self.options.threshold)

    def metrics(self) -> dict[str, Metric]:
        from visionlora.tasks.detect.metrics import OfBoxes

        return {"map": OfBoxes(self.outputs, self.with_masks)}

    def condensed(self, outputs: Tensor) -> Tensor:
        from visionlora.tasks.detect.layout import detections

        return detections(outputs, self.outputs)

    def why_no_mean(self, spec: BackboneSpec) -> str:
        from visionlora.backbone.placed.torchvision_models import detector_of
        from visionlora.tasks.detect.said import TWO_STAGES

        return f"every {spec.words} looks at proposals of its own" if detector_of(spec) in TWO_STAGES else ""

    def predict_placed(self, names: Sequence[str], outputs: Tensor, most: int, sizes: Sequence[tuple[int, int]], side: int) -> list[Any]:
        from visionlora.tasks.detect.layout import COLUMNS, detections
        from visionlora.tasks.detect.placed_masks import lengths_of

        found = []
        for name, rows, size in zip(names, detections(outputs, self.outputs), sizes, strict=True):
            own = rows[(rows[:, 0] >= 0) & (rows[:, 1] >= self.threshold)]
            scale = float(max(size))  # the longer side fills the square
            boxes = (own[:, 2:COLUMNS] * scale).clamp(min=0).tolist()
            masks = lengths_of(own[:, COLUMNS:], scale, (size[1], size[0]))
            inside = [(min(a, size[0]), min(b, size[1]), min(c, size[0]), min(d, size[1])) for a, b, c, d in boxes]
            objects = [(int(kind), float(score), box) for kind, score, box in zip(own[:, 0], own[:, 1], inside, strict=True)]
            there = [place for place, (_, _, box) in enumerate(objects) if box[0] < box[2] and box[1] < box[3]]
            some = tuple(masks[place] for place in there) if masks else ()
            found.append(Detected(name, tuple(self.names), tuple(objects[place] for place in there), some, (size[1], size[0])))
        return found

    def unreadable(self, name: str, why: str) -> Detected:
        return Detected(name, tuple(self.names), error=why)

    def outcome(self, split: str, outputs: Tensor, targets: Tensor, images: PartImages, **more: Any) -> DetectOutcome:
        from visionlora.tasks.detect.outcome import DetectOutcome

        return DetectOutcome(self, split, outputs, targets, images, **more)

    @classmethod
    def same_rows(cls, found: Tensor, wanted: Tensor, outputs: int) -> tuple[Tensor, Tensor]:
        from visionlora.tasks.detect.alignment import same_rows

        return same_rows(found, wanted, outputs)

    @classmethod
    def described(cls, names: Sequence[str], outputs: int) -> str:
        return f"A detector of objects of {outputs} class{'es' * (outputs > 1)}{in_brackets(names)}"

    @classmethod
    def limits(cls) -> str:
        return "It sees an image at the size that it was trained at: objects that are a few pixels there are missed."

    @classmethod
    def finding(cls, outputs: Tensor, number: int) -> BoxFinding:
        from visionlora.tasks.detect.finding import BoxFinding

        return BoxFinding(outputs, number)

    @classmethod
    def answer_code(cls, named: bool, file: str) -> list[str]:
        return card.answer_code(file if named else None)

    @classmethod
    def found_code(cls, named: bool, file: str) -> list[str]:
        return card.found_code(file if named else None)
