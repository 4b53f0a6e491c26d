"""The Python of a model card: from the exported file and an image to the name of its class, with nothing left to fill in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from visionlora.backbone.info import Preprocessing
from visionlora.data.opening import MODES
from visionlora.exporting.building import own_arguments, spec_of, timm_arguments, timm_name, torchvision_arguments
from visionlora.exporting.facts import FOUND, LOGITS, ONNX, PREPROCESSING, PROGRAM, TORCH_WEIGHTS, WEIGHTS, Facts

PICTURE = "picture.jpg"
_WITH_TORCH = ("with torch.inference_mode():", "    logits = model(torch.from_numpy(images)).numpy()")


def with_timm(facts: Facts) -> str:
    """Weights that timm reads into a model of its own."""
    call = _words({"checkpoint_path": WEIGHTS, **timm_arguments(facts)})
    return _program(facts, ["import timm", "import torch"], [f'model = timm.create_model("{timm_name(facts)}", {call}).eval()'])


def with_torchvision(facts: Facts) -> str:
    """A state dict for a model of torchvision's."""
    load = [
        f'model = torchvision.models.get_model("{spec_of(facts).name}", weights=None, {_words(torchvision_arguments(facts))}).eval()',
        f'model.load_state_dict(torch.load("{TORCH_WEIGHTS}", weights_only=True))',
    ]
    return _program(facts, ["import torch", "import torchvision"], load)


def with_visionlora(facts: Facts) -> str:
    """A state dict for a backbone of ours; of a module from elsewhere, only how the file is read."""
    imports = ["from safetensors.torch import load_file"]
    if facts.spec is None:
        return "\n".join([*imports, "", f'state = load_file("{WEIGHTS}")  # of a {facts.name}: model.load_state_dict(state)'])
    load = [
        f'model = vl.create_backbone("{facts.name}", {facts.num_classes}, {_words(own_arguments(facts))}).eval()',
        f'model.load_state_dict(load_file("{WEIGHTS}"))',
    ]
    return _program(facts, ["import torch", *imports, "import visionlora as vl"], load)


def with_torch_export(facts: Facts) -> str:
    """A program of ``torch.export``."""
    return _program(facts, ["import torch"], [f'model = torch.export.load("{PROGRAM}").module()'])


def with_onnxruntime(facts: Facts, file: str = ONNX) -> str:
    """A graph for onnxruntime, without torch."""
    session = f'session = onnxruntime.InferenceSession("{file}", providers=["CPUExecutionProvider"])'
    answer = facts.task.found_code(bool(facts.classes), PREPROCESSING)
    name = FOUND if answer else LOGITS
    return _program(facts, ["import onnxruntime"], [session], [f'({name},) = session.run(["{name}"], {{"images": images}})'], answer)


def _program(
    facts: Facts, imports: Sequence[str], load: Sequence[str], call: Sequence[str] = _WITH_TORCH, answer: Sequence[str] = ()
) -> str:
    picture = ["from PIL import Image, ImageOps"] if _opens_pictures(facts) else []
    modules = ["import numpy as np", *imports, *picture]
    lines = [
        *(["import json", ""] if facts.classes else []),
        *sorted(modules, key=lambda line: (line.startswith("from"), line)),
        "",
        *load,
        *_prepared(facts),
        *call,
        *(answer or facts.task.answer_code(bool(facts.classes), PREPROCESSING)),
    ]
    return "\n".join(lines)


def _opens_pictures(facts: Facts) -> bool:
    return facts.preprocessing is not None and facts.preprocessing.channels in MODES


def _prepared(facts: Facts) -> list[str]:
    """Code that turns an image file into float32 ``(1, C, H, W)``, as the evaluation does it."""
    prepared = facts.preprocessing
    if prepared is None or not _opens_pictures(facts):
        return [f"images = np.zeros({(1, *facts.shape)}, np.float32)  # put images here, prepared as they were for training"]
    size, channels = prepared.image_size, prepared.channels
    return [
        f'image = ImageOps.exif_transpose(Image.open("{PICTURE}")).convert("{MODES[channels]}")',
        *_view(prepared),
        f"pixels = np.asarray(image, np.float32).reshape({size}, {size}, {channels}) / 255",
        f"pixels = (pixels - np.array({_numbers(prepared.mean)}, np.float32)) / np.array({_numbers(prepared.std)}, np.float32)",
        "images = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])",
    ]


def _view(prepared: Preprocessing) -> list[str]:
    size, how = prepared.image_size, f"Image.Resampling.{prepared.interpolation.partition('-')[0].upper()}"
    if prepared.crop_mode == "squash":
        return [f"image = image.resize(({size}, {size}), {how})"]
    if prepared.crop_mode == "letterbox":
        colour = tuple(round(255 * value) for value in prepared.mean)
        return [
            f"share = {size} / max(image.size)",
            f"image = image.resize([max(int(side * share + 1e-6), 1) for side in image.size], {how})",
            f"square = Image.new(image.mode, ({size}, {size}), {colour if len(colour) > 1 else colour[0]})",
            "square.paste(image, (0, 0))",
            "image = square",
        ]
    resized = math.ceil(size / prepared.crop_pct)
    return [
        f"shorter = {resized}  # of the two sides, in pixels: {size} / crop_pct",
        f"image = image.resize([shorter * side // min(image.size) for side in image.size], {how})",
        f"left, top = [round((side - {size}) / 2) for side in image.size]",
        f"image = image.crop((left, top, left + {size}, top + {size}))",
    ]


def _numbers(values: Sequence[float]) -> str:
    return str([float(value) for value in values])


def _words(arguments: dict[str, Any]) -> str:
    return ", ".join(f'{key}="{value}"' if isinstance(value, str) else f"{key}={value!r}" for key, value in arguments.items())
