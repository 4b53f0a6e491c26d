"""What a frozen layer computes with: copies of its weight in the compute dtype, with the norm after it folded in, made once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from visionlora.common.compat import changes
from visionlora.lora.frozen import adapter_dtype, dense, is_quantized


class once(property):  # noqa: N801
    """A property computed once, like ``functools.cached_property``, kept in ``made`` of its owner: ``torch.compile`` can trace it."""

    def __init__(self, make: Callable[[Any], Any]) -> None:
        def get(owner: Any) -> Any:
            if make.__name__ not in owner.made:
                # The first to ask may be in inference mode, and what is made serves training too.
                with torch.inference_mode(False), torch.no_grad():
                    owner.made[make.__name__] = make(owner)
            return owner.made[make.__name__]

        super().__init__(get, doc=make.__doc__)


def compute_dtype(x: Tensor, raw: Tensor) -> torch.dtype:
    """The dtype a layer computes in: autocast's where that is on, else the weight's own, which it is for float64 always.

    Args:
        x: the layer's input; its device says which autocast is meant.
        raw: the weight as it was loaded.
    """
    if raw.dtype != torch.float64 and torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type)
    return raw.dtype


class Fold:
    """What a norm with frozen statistics does to the output ``y`` of the conv before it: ``y · scale + shift``, channel by channel.

    Args:
        norm: with ``running_mean``, ``running_var`` and ``eps``; it is kept itself, so that a change of its values is seen.
    """

    def __init__(self, norm: nn.Module) -> None:
        self.norm = norm

    @property
    def active(self) -> bool:
        """Whether the norm stands still: not in train mode, nothing in it trained. Conv and norm both ask, so they agree."""
        return not self.norm.training and not any(p is not None and p.requires_grad for p in self.norm._parameters.values())

    def tensors(self) -> list[Tensor | None]:
        """All tensors that ``scale`` and ``shift`` are computed from."""
        norm: Any = self.norm
        return [norm.weight, norm.bias, norm.running_mean, norm.running_var]

    def scale(self) -> Tensor:
        """``γ / √(σ² + ε)``, ``(out,)``, in at least float32."""
        norm: Any = self.norm
        scale = (norm.running_var.to(adapter_dtype(norm.running_var)) + norm.eps).rsqrt()
        return scale if norm.weight is None else scale * norm.weight  # type: ignore[no-any-return]

    def shift(self, bias: Tensor | None) -> Tensor:
        """The bias of conv and norm together, ``(out,)``: ``β - μ · scale + bias · scale``, with the conv's own ``bias``."""
        norm: Any = self.norm
        shift = -norm.running_mean if bias is None else bias - norm.running_mean
        shift = shift * self.scale()
        return shift if norm.bias is None else shift + norm.bias  # type: ignore[no-any-return]


class Copies:
    """The tensors that one frozen layer computes with in one dtype.

    Each is made when it is first asked for, from the originals, and rounded once.

    Args:
        raw: the weight as it was loaded.
        bias: as it was loaded.
        fold: the norm that is folded into the layer.
        dtype: that is computed in.
    """

    def __init__(self, raw: Tensor, bias: Tensor | None, fold: Fold | None, dtype: torch.dtype) -> None:
        self._raw = raw if is_quantized(raw) else raw.detach()
        self._bias, self._fold, self.dtype = bias, fold, dtype
        self.made: dict[str, Any] = {}

    @once
    def scale(self) -> Tensor | None:
        """The norm's scale ``(out,)``, by which the rows of an update are multiplied, in at least float32; ``None`` without a fold."""
        with _exact(self._raw):
            return None if self._fold is None else self._fold.scale().to(adapter_dtype(self._raw))

    @property
    def weight(self) -> Tensor:
        """``scale ⊙ W`` in the shape of ``W``.

        The copy of a quantised weight is made anew each time: to keep it would take the memory that the quantisation saves.
        """
        return dense(self._raw).to(self.dtype) if is_quantized(self._raw) else self._weight

    @once
    def _weight(self) -> Tensor:
        return self._scaled().to(self.dtype)

    @once
    def matrix(self) -> Tensor:
        """``scale ⊙ W`` as ``(out, columns)`` in at least float32, a conv's columns in the order of channels_last (``kh · kw · in``)."""
        weight = self._scaled()
        return weight.permute(0, 2, 3, 1).flatten(1) if weight.ndim == 4 else weight

    @property
    def bias(self) -> Tensor | None:
        """The norm's shift, or the layer's own bias without a fold; where the bias is trained, autograd can follow."""
        return self._made_bias() if self._bias is not None and self._bias.requires_grad else self._fixed_bias

    @once
    def _fixed_bias(self) -> Tensor | None:
        return self._made_bias()

    def _made_bias(self) -> Tensor | None:
        with _exact(self._raw):
            bias = self._bias if self._fold is None else self._fold.shift(self._bias)
            return None if bias is None else bias.to(self.dtype)

    def _scaled(self) -> Tensor:
        with _exact(self._raw):
            wide = self._raw.to(adapter_dtype(self._raw))
            return wide if self.scale is None else wide * self.scale.view(-1, *[1] * (wide.ndim - 1))

    def held(self) -> int:
        """Bytes of the copies that were made; one that shares its memory with the original counts nothing."""
        made = [value for value in self.made.values() if isinstance(value, Tensor)]
        return sum({t.data_ptr(): t.nbytes for t in made if t.data_ptr() != self._raw.data_ptr()}.values())


class Compute:
    """The copies a frozen layer computes with, made anew when a value has changed, and how the layer computes.

    They are no part of the model's state: copies are neither saved nor pickled, and the original is never touched. In float32 and
    without a fold nothing is copied.

    Args:
        fold: the norm after the layer, where it is folded in.
        outlives_adapters: the layer keeps its copies when its adapters are taken out.

    Attributes:
        recompute: the layer trades a little time for memory, see ``recompute.py``.
        bypassed: the layer keeps away from the kernels and takes its own class's ``forward``.
    """

    def __init__(self, fold: Fold | None = None, outlives_adapters: bool = False) -> None:
        self.fold, self.outlives_adapters = fold, outlives_adapters
        self.recompute, self.bypassed = False, False
        self._copies: dict[torch.dtype, tuple[Any, Copies]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_copies": {}}

    def at(self, raw: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Copies:
        """The copies of ``raw`` and ``bias`` in ``dtype``, up to date."""
        fold = self.fold if self.fold is not None and self.fold.active else None
        if torch.compiler.is_compiling():
            return self._copies[dtype][1] if dtype in self._copies else Copies(raw, bias, fold, dtype)
        still = None if bias is not None and bias.requires_grad else bias  # nothing is kept of a bias that is trained
        sources = [raw, still] if fold is None else [raw, still, *fold.tensors()]
        state = [t if t is None else (t.data_ptr(), changes(t)) for t in sources]
        known = self._copies.get(dtype)
        if known is None or known[0] != state:
            known = self._copies[dtype] = (state, Copies(raw, bias, fold, dtype))
        return known[1]

    def held(self) -> int:
        """Bytes of all copies."""
        return sum(copies.held() for _, copies in self._copies.values())


def _exact(tensor: Tensor) -> Any:
    return torch.autocast(tensor.device.type, enabled=False)
