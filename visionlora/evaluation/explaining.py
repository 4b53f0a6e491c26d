"""What a run looks at: Grad-CAM for convnets, attention rollout for transformers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor, nn

from visionlora.common.drawing import WIDTH, short, styled
from visionlora.common.errors import UserError
from visionlora.common.text import printable
from visionlora.common.watching import watching
from visionlora.data.transforms import normalize
from visionlora.runs.predictor import Predictor, Prepared

DETAIL = 6
"""Pixels a side of the map that Grad-CAM colours by, where there is one."""


def explain(predictor: Predictor, paths: Sequence[Path], method: str = "auto", labels: Sequence[str | None] = ()) -> tuple[Figure, str]:
    """A sheet of images, each beside the same with what the prediction depends on in colour; and the method taken.

    Args:
        predictor: of a run.
        paths: of images; unreadable ones are left out.
        method: ``gradcam``, ``rollout``, or ``auto``: rollout where there is attention to be had, else Grad-CAM.
        labels: what is true of each image in words, ``None`` where it is not known.

    Raises:
        UserError: a package is missing, the model has nothing of the kind, or no image can be read.
    """
    names, prepared = [], []
    for path, true in itertools.zip_longest(paths, labels):
        try:
            image = predictor.opened(path)
            prepared.append(Prepared(predictor.transform(image), image.size))
            names.append(short(path.name) + ("" if true is None else f"\nis {short(true, 24)}"))
        except UserError as error:
            print(printable(f"left out: {error}"))
    if not prepared:
        raise UserError("none of the images can be read.")
    batch = torch.stack([one.image for one in prepared])
    images = normalize(batch, predictor.preprocessing)
    if method == "auto":
        method = "rollout" if has_rollout(predictor.model, images[:1]) else "gradcam"
    heat = rollout(predictor.model, images) if method == "rollout" else gradcam(predictor.model, images, predictor.task.looked_at)
    predictions = list(predictor.of_prepared(names, prepared))
    titles = [f"predicted:\n{short(p.brief(), 25)}" for p in predictions]
    shown = batch[:, :3] if batch.shape[1] >= 3 else batch[:, :1].expand(-1, 3, -1, -1)
    return _sheet(shown.permute(0, 2, 3, 1).numpy(), heat, names, titles), method


def gradcam(model: nn.Module, images: Tensor, looked_at: Callable[[Tensor], Tensor]) -> np.ndarray:
    """Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391, §3) on the last feature map, ``(N, H, W)`` in 0…1.

    Args:
        model: a convnet.
        images: prepared, ``(N, C, H, W)``.
        looked_at: what is explained of the outputs of one image, see ``Task.looked_at``.

    Raises:
        UserError: the package is missing, or there is no feature map.
    """
    try:
        from pytorch_grad_cam import GradCAM
    except ModuleNotFoundError:
        raise UserError('Grad-CAM is drawn by the package grad-cam; install it with: pip install "visionlora[explain]"') from None
    layer = last_feature_map(model, images[:1])
    if layer is None:
        raise UserError("this model has no feature map that an image could be coloured by; try method=rollout.")
    with GradCAM(model=model, target_layers=[layer]) as cam:
        return np.asarray(cam(input_tensor=images.clone().requires_grad_(True), targets=[looked_at] * len(images)))


@torch.no_grad()
def rollout(model: nn.Module, images: Tensor) -> np.ndarray:
    """Attention rollout (Abnar and Zuidema 2020, arXiv 2005.00928, §3), heads averaged, ``(N, H, W)`` in 0…1.

    What the class token sees, or all tokens on average where there is none.

    Raises:
        UserError: the model's attention cannot be had as a matrix (timm's ViTs, DeiTs and the like have it).
    """
    found = _attention(model, images)
    if found is None:
        raise UserError("method=rollout is for transformers whose blocks all attend over the whole image; try method=gradcam.")
    tokens = found[0].shape[-1]
    joint = torch.eye(tokens).expand(len(images), -1, -1)
    for weights in found:  # (N, heads, tokens, tokens)
        mixed = weights.mean(1) + torch.eye(tokens)
        joint = (mixed / mixed.sum(-1, keepdim=True)) @ joint
    prefix = int(getattr(model, "num_prefix_tokens", 0))
    seen = joint[:, 0, prefix:] if getattr(model, "has_class_token", False) else joint[:, prefix:, prefix:].mean(1)
    side = round(seen.shape[1] ** 0.5)
    heat = nn.functional.interpolate(seen.view(-1, 1, side, side), images.shape[-2:], mode="bilinear")[:, 0]
    low, high = heat.amin((1, 2), keepdim=True), heat.amax((1, 2), keepdim=True)
    return np.asarray(((heat - low) / (high - low).clamp(min=1e-12)).numpy())


def has_rollout(model: nn.Module, image: Tensor) -> bool:
    """Whether ``rollout`` is for this model."""
    return _attention(model, image) is not None


@torch.no_grad()
def _attention(model: nn.Module, images: Tensor) -> list[Tensor] | None:
    """The matrices of attention ``(N, heads, tokens, tokens)`` of all blocks, or ``None`` where they are not one square of patches."""
    names = _attention_names(model)
    if not names:
        return None
    found: list[Tensor] = []
    hooks = (model.get_submodule(name).register_forward_hook(lambda module, inputs, out: found.append(out.float())) for name in names)
    attentions: list[Any] = [module for module in model.modules() if hasattr(module, "fused_attn")]
    fused = [module.fused_attn for module in attentions]
    try:
        for module in attentions:
            module.fused_attn = False
        with watching(hooks):
            model(images)
    finally:
        for module, was in zip(attentions, fused, strict=True):
            module.fused_attn = was
    shapes = {tuple(weights.shape) for weights in found}
    if len(shapes) != 1 or len(found) != len(names):
        return None
    (shape,) = shapes
    patches = shape[-1] - int(getattr(model, "num_prefix_tokens", 0))
    square = len(shape) == 4 and shape[-1] == shape[-2] and patches > 0 and round(patches**0.5) ** 2 == patches
    return found if square and len(found) == len(getattr(model, "blocks", ())) else None


def last_feature_map(model: nn.Module, image: Tensor) -> nn.Module | None:
    """The module whose output ``(N, C, h, w)`` comes last of those with ``DETAIL`` pixels a side, or else of those with more than one.

    A map has the image's proportions: channels that come last, heads and tokens are none.
    On small images the very last map is of three pixels a side or fewer, which shows next to nothing.
    """
    last: dict[bool, nn.Module] = {}
    height, width = image.shape[-2:]

    def watch(module: nn.Module, inputs: Any, out: Any) -> None:
        if list(module.children()) or not isinstance(out, Tensor) or out.ndim != 4:
            return
        h, w = out.shape[2:]
        like_the_picture = abs(h * width - w * height) <= max(height, width) and min(h, w) > 1 and max(h, w) <= max(height, width) // 2
        if like_the_picture:
            last[min(h, w) >= DETAIL] = module

    with watching(module.register_forward_hook(watch) for module in model.modules()), torch.no_grad():
        model(image)
    return last.get(True, last.get(False))


def _attention_names(model: nn.Module) -> list[str]:
    """Dropouts of the attention matrix in timm's blocks: what enters them is the matrix."""
    return [f"{name}.attn_drop" for name, module in model.named_modules() if hasattr(module, "fused_attn") and hasattr(module, "attn_drop")]


@styled
def _sheet(images: np.ndarray, heat: np.ndarray, names: list[str], titles: list[str]) -> Figure:
    columns = min(3, len(images))
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(WIDTH * columns / 3, 1.45 * rows))
    grid = figure.subplots(rows, 2 * columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for number, (image, one, name, title) in enumerate(zip(images, heat, names, titles, strict=True)):
        row, column = divmod(number, columns)
        plain, coloured = grid[row, 2 * column], grid[row, 2 * column + 1]
        plain.imshow(Image.fromarray(np.ascontiguousarray(image)))
        plain.set_title(name, fontsize=6, loc="center")
        coloured.imshow(image)
        coloured.imshow(one, cmap="inferno", alpha=0.55, vmin=0, vmax=1)
        coloured.set_title(title, fontsize=6, loc="center")
    return figure
