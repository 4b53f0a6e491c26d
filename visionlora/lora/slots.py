"""What an adapter can be for: a parameter of a layer, or the rows of one projection inside a fused one."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from visionlora.common.errors import UserError
from visionlora.lora.adaptable import ADAPTABLE, TRANSPOSED, adaptable
from visionlora.lora.frozen import FrozenWeight

FUSED = dict.fromkeys(("qkv", "to_qkv", "in_proj_weight"), ("q", "k", "v")) | {"kv": ("k", "v")}
"""Fused layers: last part of the name -> the projections whose rows follow each other in the weight. The audit checks that they do."""


@dataclass(frozen=True)
class Slot:
    """One parameter that can have an adapter, or one part of its rows.

    Args:
        name: by which patterns, reports and files know it: the module's, with ``.q`` and so on for a part.
        module_name: the layer.
        module: the layer.
        parameter: name of the parameter in it.
        part: name of the part, ``""`` for the whole.
        rows: of the part, ``None`` for the whole.
        obstacle: why it cannot be adapted, or ``""``.
    """

    name: str
    module_name: str
    module: nn.Module
    parameter: str
    part: str = ""
    rows: tuple[int, int] | None = None
    obstacle: str = ""

    @property
    def raw(self) -> nn.Parameter:
        """The frozen parameter with all its rows."""
        raw = self.module._parameters[self.parameter]
        assert raw is not None
        return raw

    @property
    def frozen(self) -> FrozenWeight:
        return FrozenWeight(self.raw, isinstance(self.module, TRANSPOSED))

    @property
    def shape(self) -> tuple[int, int]:
        """The shape ``(out, columns)`` of the matrix, or of the part's rows of it."""
        out, columns = self.frozen.matrix_shape
        return (self.rows[1] - self.rows[0] if self.rows else out), columns

    @property
    def is_depthwise(self) -> bool:
        groups = getattr(self.module, "groups", 1)
        return groups > 1 and groups == getattr(self.module, "in_channels", None)

    @property
    def whole(self) -> str:
        """The name of the slot that this one is a part of; its own name if it is no part."""
        return self.name.removesuffix(f".{self.part}") if self.part else self.name

    def key(self, adapter: str) -> str:
        """The key under which the adapter of that name stands in its ``AdapterSet``."""
        return f"{adapter}:{self.part}" if self.part else adapter

    def state_key(self, tensor: str, adapter: str) -> str:
        """The key of a tensor of that adapter in the model's state dict."""
        return f"{self.module_name}.lora.{self.parameter}.{self.key(adapter)}.{tensor}"


def slots(model: nn.Module) -> dict[str, Slot]:
    """Every slot of ``model`` by name, wholes before their parts; with an ``obstacle`` where it cannot be adapted."""
    found: dict[str, Slot] = {}
    modules = dict(model.named_modules())
    for module_name, module in modules.items():
        if obstacle := _obstacle(module):
            found[module_name] = Slot(module_name, module_name, module, "weight", obstacle=obstacle)
            continue
        for parameter in adaptable(module):
            # Apart, MultiheadAttention's projections are q_proj_weight, …; slots know them as q, k and v.
            name = module_name if parameter in ("weight", "in_proj_weight") else f"{module_name}.{parameter.removesuffix('_proj_weight')}"
            slot = found[name] = Slot(name, module_name, module, parameter)
            for part in _parts(slot):
                if part.name not in modules:
                    found[part.name] = part
    return found


def parts_of(slot: Slot, known: dict[str, Slot]) -> list[Slot]:
    """The parts of a whole slot among ``known``."""
    return [part for part in _parts(slot) if known.get(part.name) == part]


def siblings(part: Slot) -> list[Slot]:
    """All parts of the whole that ``part`` is one of."""
    return _parts(Slot(part.whole, part.module_name, part.module, part.parameter))


def _parts(slot: Slot) -> list[Slot]:
    if slot.obstacle:
        return []
    leaf = slot.parameter if slot.parameter in FUSED else slot.module_name.rpartition(".")[2]
    names = FUSED.get(leaf, ())
    out = slot.frozen.matrix_shape[0]
    if not names or slot.part or out % len(names):
        return []
    rows = out // len(names)
    return [
        Slot(f"{slot.name}.{part}", slot.module_name, slot.module, slot.parameter, part, (i * rows, (i + 1) * rows))
        for i, part in enumerate(names)
    ]


def _obstacle(module: nn.Module) -> str:
    """Why a layer of an adaptable kind cannot be adapted, or ``""``."""
    if not isinstance(module, tuple(ADAPTABLE)):
        return ""
    if nn.utils.parametrize.is_parametrized(module):
        return "is parametrised (torch.nn.utils.parametrize); remove the parametrisation first"
    if "weight_g" in module._parameters:
        return "is weight-normed; call torch.nn.utils.remove_weight_norm first"
    if any(isinstance(parameter, nn.UninitializedParameter) for parameter in module._parameters.values()):
        return "is lazy; run the model on one batch first"
    return ""


def refuse(slot: Slot) -> None:
    """Raise ``UserError`` for a slot that cannot be adapted."""
    if slot.obstacle:
        raise UserError(f"lora.targets: layer {slot.name} {slot.obstacle}, or leave it out with lora.exclude.")
