"""The weighted mean of several low-rank updates as one: factors side by side, or cut back to a rank by singular values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from visionlora.common.errors import UserError
from visionlora.lora.adapter_files import CONFIG, AdapterFiles
from visionlora.lora.init import FROM_WEIGHT


@dataclass(frozen=True)
class MeanUpdate:
    """One layer's mean update ``ΔW = B A``, in float64.

    Args:
        lora_A: ``(r, columns)``.
        lora_B: ``(out, r)``; scalings and weights are in it.
        kernel: the axes of the layer's weight behind its columns, as PEFT's files have them: empty for a linear layer.
        dtype: that the files hold the factors in.
        norm: ``‖ΔW‖``, Frobenius, before it was cut.
        lost: ``‖ΔW − B A‖``, of what was cut off.
    """

    lora_A: Tensor
    lora_B: Tensor
    kernel: tuple[int, ...]
    dtype: torch.dtype
    norm: float
    lost: float

    @property
    def r(self) -> int:
        """The rank."""
        return len(self.lora_A)

    def tensors(self) -> dict[str, Tensor]:
        """The factors in PEFT's shapes: A ``(r, in/groups, *kernel)``, B ``(out, r, 1, …)``."""
        ones = (1,) * len(self.kernel)
        a = self.lora_A.reshape(self.r, -1, *self.kernel) if self.kernel else self.lora_A
        return {"lora_A": a.to(self.dtype).contiguous(), "lora_B": self.lora_B.reshape(-1, self.r, *ones).to(self.dtype).contiguous()}


def refuse_other_than_sums(files: Sequence[AdapterFiles]) -> None:
    """See that each file holds updates which can be added.

    Raises:
        UserError: a DoRA, which scales the rows of the sum of weight and update, or factors that began as a part of the frozen weight and
            do not hold where they began.
    """
    for read in files:
        config = read.lora_config()
        if read.layers and config.method == "dora":
            raise UserError(f"{read.folder} is a DoRA, whose update is no product of two factors; average such in their outputs.")
        if read.layers and config.init in FROM_WEIGHT:
            raise UserError(
                f"{read.folder / CONFIG}: its factors started as a part of the frozen weight (init_lora_weights={config.init}) and do not"
                " say where; convert it to a plain LoRA first."
            )


def mean_updates(files: Sequence[AdapterFiles], weights: Sequence[float], rank: int | None = None) -> dict[str, MeanUpdate]:
    """``Σ weight · scaling · B A`` of each layer that any of the files has; a file without the layer counts as no update.

    The mean of products is not the product of means: factors are put side by side, ``B = [w₁s₁B₁, w₂s₂B₂, …]`` and ``A = [A₁; A₂; …]``,
    whose product it is to rounding. The rank is then the sum of the ranks, or that of the matrix where this is smaller.

    Args:
        files: of plain LoRAs, see ``refuse_other_than_sums``.
        weights: one a file.
        rank: to cut back to: the nearest matrix of that rank (Eckart and Young 1936). ``None`` cuts nothing off.

    Raises:
        UserError: a layer has other shapes in one file than in another, or a file is damaged.
    """
    parts: dict[str, list[tuple[Tensor, Tensor]]] = {}
    shapes: dict[str, tuple[tuple[int, ...], torch.dtype]] = {}
    for read, weight in zip(files, weights, strict=True):
        config, ranks = read.lora_config(), read.ranks()
        for layer, tensors in read.layers.items():
            a, b = _factors(read, layer, tensors)
            known = shapes.setdefault(layer, (tuple(a.shape[1:]), a.dtype))
            if known[0] != tuple(a.shape[1:]) or (layer in parts and len(parts[layer][0][1]) != len(b)):
                raise UserError(f"{read.folder}: layer {layer} has another shape than in {files[0].folder}: they are of different models.")
            strength = weight * config.scaling(ranks[layer])
            parts.setdefault(layer, []).append((a.double().flatten(1), strength * b.double().flatten(1)))
    found = {}
    for layer, pairs in parts.items():
        side_by_side = torch.cat([a for a, _ in pairs]), torch.cat([b for _, b in pairs], dim=1)
        found[layer] = _cut(*side_by_side, rank, shapes[layer][0][1:], shapes[layer][1])
    return found


def _factors(read: AdapterFiles, layer: str, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    if "lora_B" not in tensors or "lora_A" not in tensors or set(tensors) - {"lora_A", "lora_B"}:
        raise UserError(f"{read.folder}: layer {layer[:80]} does not have a lora_A and a lora_B alone; the file is incomplete.")
    a, b = tensors["lora_A"], tensors["lora_B"]
    if a.ndim < 2 or a.ndim != b.ndim or b.shape[1:] != (len(a), *(1,) * (a.ndim - 2)):
        raise UserError(f"{read.folder}: lora_A and lora_B of layer {layer[:80]} do not fit each other; the file is damaged.")
    return a, b


def _cut(a: Tensor, b: Tensor, rank: int | None, kernel: tuple[int, ...], dtype: torch.dtype) -> MeanUpdate:
    """The product ``b a`` with at most that rank."""
    # (out, R) = (out, q) (q, R) and (R, columns) = (R, q) (q, columns): only the small matrix in between is decomposed
    left, up = torch.linalg.qr(b)
    right, down = torch.linalg.qr(a.T)
    u, values, v = torch.linalg.svd(up @ down.T, full_matrices=False)
    most = min(len(b), a.shape[1])  # that of the matrix: beyond it nothing is lost
    keep = min(len(a), most, rank or most)
    norm, lost = float(torch.linalg.norm(values)), float(torch.linalg.norm(values[keep:]))
    if keep == len(a):
        return MeanUpdate(a, b, kernel, dtype, norm, 0.0)
    root = values[:keep].sqrt()
    return MeanUpdate(root[:, None] * (v[:keep] @ right.T), (left @ u[:, :keep]) * root, kernel, dtype, norm, lost)
