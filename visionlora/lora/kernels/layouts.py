"""Layouts that the geometries share: pixels as rows, and the two orders of a conv weight's columns.

The weight of a conv ``(out, in, kh, kw)`` is seen as a matrix ``(out, in · kh · kw)``. Parameters and adapters have its columns in the
order ``in, kh, kw``; a channels_last weight has them in memory in the order ``kh, kw, in``. Where a kernel is one pixel wide, or the
layer is linear, both orders are the same.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from visionlora.lora.frozen import adapter_dtype

MOST_PARTS = 8
"""The largest number of parts that ``tall_product`` cuts its rows into."""
ROWS_OF_A_PART = 1024
"""The fewest rows that a part of ``tall_product`` has."""


def pixel_rows(pictures: Tensor) -> Tensor:
    """``(N, C, H, W)`` as ``(N · H · W, C)``; it is a view where the images are channels_last."""
    return pictures.permute(0, 2, 3, 1).flatten(0, 2)


def as_pictures(rows: Tensor, like: Tensor) -> Tensor:
    """``(N · H · W, C)`` as channels_last images ``(N, C, H, W)``, with ``N``, ``H`` and ``W`` of the images ``like``."""
    n, _, height, width = like.shape
    return rows.view(n, height, width, -1).permute(0, 3, 1, 2)


def stand_in(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A channels_last tensor of that ``shape`` which takes no memory, for a function that asks for the shape alone.

    Args:
        like: gives dtype and device.
        shape: ``(N, C, H, W)``.
    """
    n, channels, height, width = shape
    return like.new_empty(1).expand(n, height, width, channels).permute(0, 3, 1, 2)


def to_channels_last_columns(matrix: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Reorder the columns of ``matrix (rows, in · kh · kw)`` from ``in, kh, kw`` to ``kh, kw, in``.

    Args:
        matrix: columns as in a parameter.
        shape: of the parameter, ``(out, in)`` or ``(out, in, kh, kw)``.
    """
    if _one_order(matrix, shape):
        return matrix
    return matrix.view(-1, *shape[1:]).permute(0, 2, 3, 1).flatten(1)


def from_channels_last_columns(matrix: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Undo ``to_channels_last_columns``."""
    if _one_order(matrix, shape):
        return matrix
    _, inputs, height, width = shape
    return matrix.view(-1, height, width, inputs).permute(0, 3, 1, 2).flatten(1)


def as_weight(matrix: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A view of ``matrix``, whose columns are in the order ``kh, kw, in``, as a channels_last weight of that ``shape``."""
    if len(shape) == 2:
        return matrix
    out, inputs, height, width = shape
    return matrix.view(out, height, width, inputs).permute(0, 3, 1, 2)


def tall_product(narrow: Tensor, wide: Tensor) -> Tensor:
    """``narrowᵀ wide`` of ``narrow (P, r)`` and ``wide (P, n)``: ``(r, n)``.

    Where there are very many rows, they are cut into parts and the products of the parts are summed, because matrix libraries are
    slow at a product whose inner dimension is much longer than the outer ones.
    """
    rows = len(wide)
    parts = min(math.gcd(rows, MOST_PARTS), rows // ROWS_OF_A_PART)
    if parts < 2 or rows % parts:
        return narrow.t() @ wide
    products = torch.bmm(narrow.view(parts, rows // parts, -1).transpose(1, 2), wide.view(parts, rows // parts, -1))
    return products.sum(0, dtype=adapter_dtype(wide))


def shifted_copies(down: Tensor, grad: Tensor, kernel: tuple[int, ...], padding: tuple[int, ...]) -> Tensor:
    """Put beside each other, for each pixel of a conv's input, the rows of all output pixels that it has part in.

    Args:
        down: ``(P, r)``, a row for each pixel of the output of a conv of stride and dilation one.
        grad: the output's gradient ``(N, out, H', W')``; only its shape is read.
        kernel: ``(kh, kw)``.
        padding: of the conv, smaller than the kernel.

    Returns:
        ``(N · H · W, kh · kw · r)``; the row of a pixel begins with the output pixel that sees it through the last tap of the kernel.
    """
    (n, _, height, width), (kh, kw), rank = grad.shape, kernel, down.shape[1]
    beyond_h, beyond_w = kh - 1 - padding[0], kw - 1 - padding[1]
    padded = F.pad(down.view(n, height, width, rank), (0, 0, beyond_w, beyond_w, beyond_h, beyond_h))
    steps = padded.stride()
    shape = (n, height + 2 * beyond_h - kh + 1, width + 2 * beyond_w - kw + 1, kh, kw * rank)
    return padded.as_strided(shape, (steps[0], steps[1], steps[2], steps[1], 1)).reshape(-1, kh * kw * rank)


def _one_order(matrix: Tensor, shape: tuple[int, ...]) -> bool:
    return len(shape) == 2 or matrix.shape[1] == shape[1]
