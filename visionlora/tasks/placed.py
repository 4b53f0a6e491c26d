"""Tasks whose labels lie in the image, as masks and boxes do. Free of torch until it is used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from visionlora.common.errors import UserError
from visionlora.tasks.task import Task

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

IGNORED = 255
"""In a mask: pixels of no class, which neither train nor count. What is beyond the image has it too."""
FULL_SIZE = "full size"
"""Key of a PIL image's ``info``: ``(width, height)`` of the whole image, where a smaller one was decoded."""

Placed = Mapping[str, Any]
"""Labels in the pixels of an image, as torchvision's ``tv_tensors``: what turns, cuts and resizes the image does so with them."""


class PlacedTask(Task):
    """A task whose labels have places in the image: every view of the image moves them.

    Class attributes:
        sources: of the sources ``data=NAME`` those that this task makes in a way of its own, as ``module:function``.
        decoders: what ``model.decoder`` can be, the usual one first.
        head_share: learning rate of what is new over the backbone, in units of the adapters', under a recipe (docs/boxes.md).
    """

    whole_view = True
    sources: ClassVar[Mapping[str, str]] = {}
    decoders: ClassVar[tuple[str, ...]] = ()
    head_share: ClassVar[float] = 1.0

    def placed(self, label: Any, image: Image) -> Placed:
        """A label in the pixels of its image; ``None`` for an image without one, as a reference image is.

        Raises:
            UnreadableError: the label cannot be read, or does not fit the image.
        """
        raise NotImplementedError

    def of_placed(self, placed: Placed) -> Any:
        """The label of a view, which ``tensor`` takes, after the view has moved it."""
        raise NotImplementedError

    def predict_placed(self, names: Sequence[str], outputs: Tensor, most: int, sizes: Sequence[tuple[int, int]], side: int) -> list[Any]:
        """``predict`` for images whose ``(width, height)`` are ``sizes``, in their own pixels.

        Args:
            names: of the images.
            outputs: of the model, ``(N, ...)``, on the CPU.
            most: see ``predict``.
            sizes: of the images.
            side: of the model's square input, in pixels.
        """
        raise NotImplementedError

    @property
    def means_images(self) -> bool:
        return False  # of all pixels that have a class, or of all boxes

    def averaged(self, outputs: Tensor) -> Tensor:
        raise UserError(f"tta averages the answers for several views of an image, whose places differ with task={self.name}; leave it out.")

    def predict(self, names: Sequence[str], outputs: Tensor, most: int) -> list[Any]:
        raise NotImplementedError("a placed task answers in the pixels of the image: predict_placed")


def seen_share(size: tuple[int, int], side: int) -> float:
    """Pixels of the model's square input for each pixel of an image that is ``size = (width, height)``: its longer side fills it."""
    return side / max(size)
