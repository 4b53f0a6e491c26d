"""What ``trainer.precision=auto`` is, and where a CPU cannot be trusted with it."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from visionlora.backbone.head import example_batch
from visionlora.common.compat import loses_gradients_in_bf16
from visionlora.common.console import console
from visionlora.common.errors import UserError
from visionlora.common.processes import process_rank
from visionlora.common.watching import watching
from visionlora.lora.audit import undisturbed
from visionlora.runs.config import TrainConfig
from visionlora.training.growing import Growth


def auto_precision(accelerator: str) -> str:
    """``bf16-mixed`` where the hardware computes in it, else float32."""
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    if accelerator in ("auto", "cpu") and not torch.backends.mps.is_available():
        checks = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")  # torch has no public ones yet
        return "bf16-mixed" if any(getattr(torch.cpu, check, bool)() for check in checks) else "32-true"
    return "32-true"


def trustworthy(config: TrainConfig, model: nn.Module) -> TrainConfig:
    """The config, with float32 in place of ``trainer.precision=auto`` where a CPU would compute wrong gradients in bfloat16.

    Raises:
        UserError: it would, and the precision is the user's own.
    """
    accelerator, wanted = str(config.trainer.get("accelerator") or "auto"), str(config.trainer.get("precision"))
    precision = auto_precision(accelerator) if wanted == "auto" else wanted
    on_cpu = accelerator == "cpu" or (accelerator == "auto" and not torch.accelerator.is_available())
    if not on_cpu or precision not in ("bf16-mixed", "bf16-true", "bf16"):
        return config
    least = example_batch(model).shape[-1]
    if config.data.progressive is not None:
        least = Growth(config.data.progressive, least).side_at(0.0)
    found = layer_that_loses_gradients(model, precision != "bf16-true", least)
    if found is None:
        return config
    name, size = found
    why = f"on a CPU, torch does not compute the gradient of {name} in bfloat16 where what it sees is {size[0]} × {size[1]} pixels"
    if wanted != "auto":
        raise UserError(f"trainer.precision={wanted}: {why}; set trainer.precision=32-true, or data.image_size higher.")
    if not process_rank():
        console.print(f"trainer.precision=auto takes float32: {why}.", highlight=False, markup=False)
    return replace(config, trainer=config.trainer | {"precision": "32-true"})


def layer_that_loses_gradients(model: nn.Module, mixed: bool, side: int | None = None) -> tuple[str, tuple[int, int]] | None:
    """Name of the first layer that is trained and whose gradient a CPU gets wrong in bfloat16, and the height and width of its input.

    Args:
        model: described by its ``info``.
        mixed: under autocast; a layer that switches it off for itself is right.
        side: of the smallest images that will come, in pixels; ``None`` for the size in ``info``.
    """
    names = {module: name for name, module in model.named_modules()}
    found: list[tuple[str, tuple[int, int]]] = []

    def note(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        assert isinstance(module, nn.Conv2d)
        height, width = arguments[0].shape[-2:]
        reduced = not mixed or torch.is_autocast_enabled("cpu")
        if reduced and any(parameter.requires_grad for parameter in module.parameters()) and loses_gradients_in_bf16(module, height, width):
            found.append((names[module], (height, width)))

    convs = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    lower = torch.autocast("cpu", torch.bfloat16, enabled=mixed)
    with undisturbed(model), torch.no_grad(), lower, watching(conv.register_forward_pre_hook(note) for conv in convs):
        model(example_batch(model, side))
    return found[0] if found else None
