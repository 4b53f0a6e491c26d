"""A finished run as something that predicts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from visionlora.backbone.create import rebuild
from visionlora.backbone.info import BackboneInfo, Preprocessing
from visionlora.common.errors import UserError
from visionlora.common.finite import refuse_not_finite
from visionlora.common.processes import worker_ending
from visionlora.data.opening import decode_image, open_image, to_mode
from visionlora.data.transforms import eval_transform, normalize
from visionlora.lora.adapter_files import CARD, AdapterFiles
from visionlora.model.saving import load_adapter, read_info
from visionlora.runs.folder import RunFolder
from visionlora.runs.tta import averaged
from visionlora.speed.quantize import quantize
from visionlora.tasks.placed import FULL_SIZE, PlacedTask
from visionlora.tasks.registry import make_task


@runtime_checkable
class OpenFile(Protocol):
    """What ``open(path, "rb")`` gives, a web framework's upload or ``io.BytesIO``."""

    def read(self) -> bytes: ...


Picture = str | Path | bytes | OpenFile | Image.Image | np.ndarray | Tensor


class Predictor:
    """A model with its preprocessing and its task.

    Args:
        model: float32, in eval mode; ``(N, C, H, W) -> (N, ...)``.
        info: of the backbone, with names of the outputs.
        tta: views whose outputs are averaged: none, flip, crops or scales, see ``runs.tta``.
    """

    def __init__(self, model: nn.Module, info: BackboneInfo, tta: str = "none") -> None:
        self.model, self.info, self.tta = model, info, tta
        self.transform = eval_transform(info.preprocessing)
        self.task = make_task(info.task, info.classes)

    @property
    def classes(self) -> list[str]:
        """Names of the outputs, in order."""
        return self.task.names

    @property
    def preprocessing(self) -> Preprocessing:
        return self.info.preprocessing

    def prepare(self, picture: Picture) -> Tensor:
        """One image as uint8 ``(C, H, W)``.

        Raises:
            UserError: a file that is not an image, or an array or tensor that is not uint8.
        """
        return self.transform(self.opened(picture))

    def opened(self, picture: Picture) -> Image.Image:
        """One image as PIL's, with as many channels as the model takes; a large file at less than its full size.

        Raises:
            UserError: see ``prepare``.
        """
        channels = self.preprocessing.channels
        if isinstance(picture, str | Path):
            return open_image(Path(picture), channels, self.transform.detail)
        if isinstance(picture, OpenFile):
            return decode_image(picture.read(), channels, self.transform.detail)
        if isinstance(picture, bytes):
            return decode_image(picture, channels, self.transform.detail)
        return to_mode(as_image(picture), channels)

    @torch.inference_mode()
    def logits(self, batch: Tensor) -> Tensor:
        """The model's outputs ``(N, ...)``, such as logits, for uint8 ``(N, C, H, W)``.

        Raises:
            UserError: one of them is not finite.
        """
        device = next(self.model.parameters()).device
        logits = self.outputs(normalize(batch.to(device), self.preprocessing))
        refuse_not_finite([("the output", logits)], self.info.spec.full_name)
        return logits

    def outputs(self, images: Tensor) -> Tensor:
        """Outputs ``(N, ...)``, float32 on the CPU, for normalised images ``(N, C, H, W)``."""
        return averaged(self.model, images, self.tta, self.task).cpu()

    def predict(self, pictures: Picture | Sequence[Picture], topk: int = 1, batch_size: int = 32, num_workers: int = 0) -> list[Any]:
        """Predict for images, one or many: paths, bytes of an image file, binary files open for reading, PIL images, uint8 arrays
        ``(H, W)`` or ``(H, W, C)``, uint8 tensors ``(C, H, W)``.

        A tensor ``(N, C, H, W)`` is N images. An image that cannot be read becomes a prediction with its ``error``; the others are not
        affected. ``num_workers`` processes open the files.
        """
        return list(self.stream(as_many(pictures), topk, batch_size, num_workers))

    def stream(self, pictures: Sequence[Picture], topk: int = 1, batch_size: int = 32, num_workers: int = 0) -> Iterator[Any]:
        """``predict``, one at a time, in order."""
        for names, prepared in batches(self, pictures, batch_size, num_workers):
            yield from self.of_prepared(names, prepared, topk)

    def of_prepared(self, names: Sequence[str], prepared: Sequence[Prepared | str], topk: int = 1) -> Iterator[Any]:
        """Predictions for prepared images; a string in the place of one is its error."""
        readable = [(name, one) for name, one in zip(names, prepared, strict=True) if not isinstance(one, str)]  # a name may come twice
        found: Iterator[Any] = iter(())
        if readable:
            outputs = self.logits(torch.stack([one.image for _, one in readable]))
            its_names = [name for name, _ in readable]
            if isinstance(self.task, PlacedTask):
                sizes = [one.size for _, one in readable]
                found = iter(self.task.predict_placed(its_names, outputs, topk, sizes, self.preprocessing.image_size))
            else:
                found = iter(self.task.predict(its_names, outputs, topk))
        for name, one in zip(names, prepared, strict=True):
            yield self.task.unreadable(name, one) if isinstance(one, str) else next(found)


class Prepared(NamedTuple):
    """A prepared image, uint8 ``(C, H, W)``, and the width and height that it had."""

    image: Tensor
    size: tuple[int, int]


def batches(
    predictor: Predictor, pictures: Sequence[Picture], batch_size: int, num_workers: int = 0
) -> Iterator[tuple[list[str], list[Prepared | str]]]:
    """Names and prepared images, a batch at a time; what cannot be read is its error instead."""
    prepared = _Prepared(predictor, pictures)
    yield from DataLoader(
        prepared,
        batch_size=batch_size,
        num_workers=num_workers,
        collate_fn=_unzipped,
        worker_init_fn=worker_ending(),
        generator=torch.Generator(),  # else it draws from the global one
    )


class _Prepared(Dataset[tuple[str, Prepared | str]]):
    def __init__(self, predictor: Predictor, pictures: Sequence[Picture]) -> None:
        self.preparer = Predictor(nn.Identity(), predictor.info)  # without the model: that stays out of the worker processes
        self.pictures = pictures

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[str, Prepared | str]:
        picture = self.pictures[index]
        name = str(picture) if isinstance(picture, str | Path) else f"#{index}"
        try:
            image = self.preparer.opened(picture)
            return name, Prepared(self.preparer.transform(image), image.info.get(FULL_SIZE, image.size))
        except UserError as error:
            return name, str(error)


def _unzipped(items: list[tuple[str, Prepared | str]]) -> tuple[list[str], list[Prepared | str]]:
    return [name for name, _ in items], [prepared for _, prepared in items]


def as_many(pictures: Picture | Sequence[Picture]) -> Sequence[Picture]:
    """One image, a batch or a sequence as a sequence."""
    if isinstance(pictures, Tensor | np.ndarray):
        return list(pictures) if pictures.ndim == 4 else [pictures]
    if isinstance(pictures, str | Path | bytes | Image.Image | OpenFile):
        return [pictures]
    return list(pictures)


def as_image(picture: Image.Image | np.ndarray | Tensor) -> Image.Image:
    """An image in memory as PIL's.

    Raises:
        UserError: an array or tensor of another type or shape than uint8 ``(H, W)``, ``(H, W, C)``; for tensors ``(C, H, W)``.
    """
    if isinstance(picture, Image.Image):
        return picture
    array = picture.detach().cpu().numpy() if isinstance(picture, Tensor) else picture
    if isinstance(picture, Tensor) and array.ndim == 3:
        array = array.transpose(1, 2, 0)
    array = array[..., 0] if array.ndim == 3 and array.shape[-1] == 1 else array
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] not in (3, 4)):
        found = f"{picture.dtype} {tuple(picture.shape)}"
        raise UserError(f"an image in memory is uint8 (H, W) or (H, W, C), a tensor (C, H, W); this one is {found}.")
    return Image.fromarray(np.ascontiguousarray(array))


def load(run: str | Path) -> Predictor:
    """The model of a finished run, float32, in eval mode.

    Args:
        run: a run folder, or its ``adapter`` folder alone where the backbone's weights can be had by name.

    Raises:
        UserError: not a run, damaged, of a task that is not installed, or its base cannot be had or has changed.
    """
    path = Path(run)
    alone = (path / CARD).is_file()
    run_folder = None if alone else RunFolder.open(path)
    folder = path if run_folder is None else run_folder.adapter
    whole_card = AdapterFiles.read(folder).card
    card = whole_card.get("backbone")
    if not card:
        raise UserError(f"{folder / CARD} is missing or does not say which backbone the adapter is for.")
    info = read_info(card, folder)
    try:
        make_task(info.task, info.classes)
    except UserError as error:
        raise UserError(f"{folder / CARD}: {error} A package that brings it may not be installed.") from None
    base = run_folder.read_base() if run_folder else None
    if base is None and not info.reproducible:
        raise UserError(f"{folder}: the base weights of {info.spec.full_name} were random or a local file; load the whole run folder.")
    model = rebuild(info, base)
    if whole_card.get("quantized"):
        quantize(model, info.head)
    load_adapter(model, folder)
    model.requires_grad_(False)
    return Predictor(model.float().eval(), info)
