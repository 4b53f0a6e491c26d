"""A finished run as something that classifies pictures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from visionlora.backbone.create import rebuild
from visionlora.backbone.info import BackboneInfo, Preprocessing
from visionlora.backbone.quantize import quantize
from visionlora.data.pictures import open_picture, to_mode
from visionlora.data.transforms import eval_transform, normalize
from visionlora.errors import UserError
from visionlora.lora.files import CARD, AdapterFiles
from visionlora.run_folder import RunFolder
from visionlora.trained import load_adapter, read_info

Picture = str | Path | Image.Image | np.ndarray


@dataclass(frozen=True)
class Prediction:
    """One picture's ``topk`` classes, the likeliest first; ``error`` says why there are none."""

    path: str
    labels: tuple[str, ...] = ()
    probabilities: tuple[float, ...] = ()
    error: str = ""


class Predictor:
    """A model with its preprocessing and class names.

    Args:
        model: float32, in eval mode; ``(N, C, H, W) -> (N, classes)``.
        info: of the backbone, with classes.
    """

    def __init__(self, model: nn.Module, info: BackboneInfo) -> None:
        self.model, self.info = model, info
        self.transform = eval_transform(info.preprocessing)

    @property
    def classes(self) -> list[str]:
        return self.info.classes

    @property
    def preprocessing(self) -> Preprocessing:
        return self.info.preprocessing

    def prepare(self, picture: Picture) -> Tensor:
        """One picture as uint8 ``(C, H, W)``.

        Raises:
            UserError: a file that is not a picture.
        """
        channels = self.preprocessing.channels
        if isinstance(picture, str | Path):
            return self.transform(open_picture(Path(picture), channels, self.transform.detail))
        image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
        return self.transform(to_mode(image, channels))

    @torch.inference_mode()
    def logits(self, batch: Tensor) -> Tensor:
        """Logits ``(N, classes)`` of uint8 ``(N, C, H, W)``."""
        device = next(self.model.parameters()).device
        return self.model(normalize(batch.to(device), self.preprocessing)).float().cpu()  # type: ignore[no-any-return]

    def predict(self, pictures: Picture | Sequence[Picture], topk: int = 1, batch_size: int = 32) -> list[Prediction]:
        """Classify pictures: paths, PIL images or uint8 arrays ``(H, W, C)``, one or many.

        A picture that cannot be read becomes a prediction with its ``error``; the others are not affected.
        """
        many: Iterable[Picture] = [pictures] if isinstance(pictures, str | Path | Image.Image | np.ndarray) else pictures
        return list(self.stream(many, topk, batch_size))

    def stream(self, pictures: Iterable[Picture], topk: int = 1, batch_size: int = 32) -> Iterator[Prediction]:
        """``predict``, one at a time, in order."""
        waiting: list[tuple[str, Tensor | str]] = []
        for number, picture in enumerate(pictures):
            name = str(picture) if isinstance(picture, str | Path) else f"#{number}"
            try:
                waiting.append((name, self.prepare(picture)))
            except UserError as error:
                waiting.append((name, str(error)))
            if len(waiting) == batch_size:
                yield from self._classify(waiting, topk)
                waiting = []
        yield from self._classify(waiting, topk)

    def _classify(self, waiting: list[tuple[str, Tensor | str]], topk: int) -> Iterator[Prediction]:
        readable = [tensor for _, tensor in waiting if isinstance(tensor, Tensor)]
        rows: Iterator[Any] = iter(())
        if readable:
            best = self.logits(torch.stack(readable)).softmax(-1).topk(min(topk, len(self.classes)))
            rows = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        for name, prepared in waiting:
            if isinstance(prepared, str):
                yield Prediction(name, error=prepared)
            else:
                indices, probabilities = next(rows)
                yield Prediction(name, tuple(self.classes[i] for i in indices), tuple(probabilities))


def load(run: str | Path) -> Predictor:
    """The model of a finished run, float32, in eval mode.

    Args:
        run: a run folder, or its ``adapter`` folder alone where the backbone's weights can be had by name.

    Raises:
        UserError: not a run, damaged, or its base cannot be had or has changed.
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
    base = run_folder.read_base() if run_folder else None
    if base is None and not info.reproducible:
        raise UserError(f"{folder}: the base weights of {info.spec.full_name} were random or a local file; load the whole run folder.")
    model = rebuild(info, base)
    if whole_card.get("quantized"):
        quantize(model, info.head)
    load_adapter(model, folder)
    model.requires_grad_(False)
    return Predictor(model.float().eval(), info)
