"""Layers by their role, over both libraries: ``attn``, ``mlp``, ``conv``, ``linear``, ``stem``, ``stageN``, ``stageN+``, ``last:N``."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, cast

import timm
import torch
from timm.models import group_modules
from torch import nn

from visionlora.backbone.info import info_of
from visionlora.common.errors import UserError
from visionlora.lora.adaptable import ADAPTABLE, TRANSPOSED

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED)
_ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)
_CHANNEL_ATTENTION = re.compile(r"^(SE|Se[A-Z_]|Squeeze|Eca|Cecam|Cbam|Effective)", re.ASCII)  # gates of convnets
_MLP = re.compile(r"mlp|ffn|feed_?forward|swiglu", re.IGNORECASE)


@dataclass(frozen=True)
class _Layout:
    """Regexes from the start of a layer's name: of the stem; of a stage, one each or one whose matches differ; of a block."""

    stem: str
    stages: str | tuple[str, ...]
    block: str


_PAIRED = (r"features\.1\.", r"features\.[23]\.", r"features\.[45]\.", r"features\.[67]\.")  # downsampling and the blocks after it
_LAYOUTS = {  # torchvision's classes; timm's models bring a matcher of their own
    "ConvNeXt": _Layout(r"features\.0\.", _PAIRED, r"features\.\d+\.\d+"),
    "SwinTransformer": _Layout(r"features\.0\.", _PAIRED, r"features\.\d+\.\d+"),
    "DenseNet": _Layout(r"features\.conv0", r"features\.denseblock\d+", r"features\.denseblock\d+\.denselayer\d+"),
    "GoogLeNet": _Layout(r"conv\d", r"inception\d", r"inception\d[a-e]"),
    "Inception3": _Layout(r"Conv2d_", r"Mixed_\d", r"Mixed_\d[a-e]"),
    "MNASNet": _Layout(r"layers\.[0-7]\b", r"layers\.\d+", r"layers\.\d+(\.\d+)?"),
    "MaxVit": _Layout(r"stem", r"blocks\.\d+", r"blocks\.\d+\.layers\.\d+"),
    "MetaFormer": _Layout(r"stem", r"stages\.\d+", r"stages\.\d+\.blocks\.\d+"),
    "RegNet": _Layout(r"stem", r"trunk_output\.block\d+", r"trunk_output\.block\d+\.block\d+-\d+"),
    "OverMaps": _Layout(  # detectors: over a ResNet, a MobileNet, SSDLite's MobileNet or SSD's VGG
        r"backbone\.(body\.(conv1|bn1|0\.)|features\.0\.0\.|features\.0$)",
        r"backbone\.(body\.(layer)?\d+|features\.\d+(\.\d+)?|extra\.\d+)",
        r"backbone\.(body\.(layer\d+\.)?\d+|features\.\d+(\.\d+)?|extra\.\d+)",
    ),
    "ResNet": _Layout(r"conv1|bn1", r"layer\d+", r"layer\d+\.\d+"),
    "ShuffleNetV2": _Layout(r"conv1", r"stage\d+", r"stage\d+\.\d+"),
    "VisionTransformer": _Layout(r"conv_proj", r"encoder\.layers\.encoder_layer_\d+", r"encoder\.layers\.encoder_layer_\d+"),
}
ENCODERS = ("encoder.model.", "backbone.model.", "backbone.")
"""What the names of an encoder's layers begin with below a decoder."""
_FLATTENED = re.compile(r"^([a-z]+)_(\d+)(?=\.|$)")  # timm calls stages.0 stages_0 where it gives features alone
_STAGE = r"(features|stages|dense_stages|transformers|blocks|layers)\.\d+"
_ANY = _Layout(r"features\.0\b|stem|patch_embed", _STAGE, _STAGE + r"(\.(blocks\.)?\d+)?")


class Roles:
    """Turns a pattern into the names of the modules it stands for in ``model``, or into ``None`` where it is not a role.

    Stages count from 1 and are what timm's ``group_matcher(coarse=True)`` says: ``layer1`` … of a ResNet; in a ViT, which has no
    stages, every block is one. ``last:N`` (or ``lastN``) is the last N blocks. What comes after the last stage (and is not the head)
    belongs to it.

    Args:
        model: of timm or torchvision, or of a class that is built like theirs.
        head: names of the modules that are left out.
    """

    def __init__(self, model: nn.Module, head: Collection[str] = ()) -> None:
        self.model = model
        below = tuple(h + "." for h in head)
        self.modules = {
            name: module
            for name, module in model.named_modules()
            if name and next(module.parameters(recurse=False), None) is not None and not (below and f"{name}.".startswith(below))
        }

    def __call__(self, pattern: str) -> list[str] | None:
        """See the class.

        Raises:
            UserError: a stage that the model does not have, or a role that none of its layers has.
        """
        if pattern in ("attn", "mlp"):
            return self._nonempty(pattern, [name for name in self.modules if self._within(name, pattern)])
        if pattern in ("conv", "linear"):
            kinds = CONVOLUTIONS if pattern == "conv" else (nn.Linear,)
            return self._nonempty(pattern, [name for name, module in self.modules.items() if isinstance(module, kinds)])
        if pattern == "stem":
            return self._nonempty(pattern, self.groups("stages")[0])
        if match := re.fullmatch(r"stage(\d+)(\+?)", pattern):
            stages = self.groups("stages")[1:]
            number = int(match[1])
            if not 1 <= number <= len(stages):
                if any(re.search(rf"\b{pattern}\b", name) for name in self.modules):
                    return None  # the model has a block of that very name
                raise UserError(f"the model has no stage {number}; it has stages 1 to {len(stages)}.")
            return [name for stage in (stages[number - 1 :] if match[2] else [stages[number - 1]]) for name in stage]
        if match := re.fullmatch(r"last:?(\d+)", pattern):
            blocks = self.groups("blocks")[1:]
            if not 1 <= int(match[1]) <= len(blocks):
                raise UserError(f"{pattern!r} asks for {match[1]} blocks; the model has {len(blocks)}.")
            return [name for block in blocks[-int(match[1]) :] for name in block]
        return None

    def groups(self, kind: str) -> list[list[str]]:
        """Names of layers: the stem's first, then by ``stages`` or ``blocks``, in the order of the data."""
        stem, *rest = self._timm_groups(coarse=kind == "stages") or self._groups_by_name(kind)
        groups = [stem]
        for group in rest:  # a last norm alone is no block
            if any(isinstance(self.modules[name], tuple(ADAPTABLE)) for name in group):
                groups.append(group)
            else:
                groups[-1] += group
        return groups

    def _groups_by_name(self, kind: str) -> list[list[str]]:
        layout = next((_LAYOUTS[c.__name__] for c in type(self.model).__mro__ if c.__name__ in _LAYOUTS), _ANY)
        patterns = layout.stages if kind == "stages" else layout.block
        groups: dict[str, list[str]] = {"stem": []}
        for name in self.modules:
            key = "stem" if re.match(layout.stem, name) else _first_match(patterns, name) or next(reversed(groups))
            groups.setdefault(key, []).append(name)
        return list(groups.values())

    def _timm_groups(self, coarse: bool) -> list[list[str]]:
        """By timm's own word; empty where it has none for this model."""
        plain, own = self._plain()
        try:
            matcher = cast(Any, plain).group_matcher(coarse=coarse)
        except (AttributeError, AssertionError):  # not of timm; not written yet
            return []
        found = group_modules(plain, matcher)
        groups = [[own[name] for name in found[key] if name in own] for key in sorted(found)]
        return groups if len(groups) > 1 else []

    def _plain(self) -> tuple[nn.Module, dict[str, str]]:
        """The model, or below a decoder the classifier that its encoder was taken from, without weights; and by its names those here."""
        info = info_of(self.model)
        if info is None or info.spec.decoder is None:
            return self.model, {name: name for name in self.modules}
        with torch.device("meta"):
            plain = timm.create_model(info.spec.name)
        own = {}
        for name in self.modules:
            within = next((name.removeprefix(prefix) for prefix in ENCODERS if name.startswith(prefix)), name)
            own[_FLATTENED.sub(r"\1.\2", within)] = name
        return plain, own

    def _within(self, name: str, role: str) -> bool:
        parts = name.split(".")
        for end in range(len(parts), 0, -1):
            kind = type(self.model.get_submodule(".".join(parts[:end]))).__name__
            if role == "attn" and _CHANNEL_ATTENTION.match(kind):
                return False
            if (_ATTENTION if role == "attn" else _MLP).search(f"{parts[end - 1]} {kind}"):
                return True
        return False

    @staticmethod
    def _nonempty(pattern: str, names: list[str]) -> list[str]:
        if not names:
            raise UserError(f"no layer of the model has the role {pattern!r}.")
        return names


def blocks_of(model: nn.Module) -> list[str]:
    """Names of the modules that the role ``last:N`` counts, where each block is one module that is called."""
    found = []
    for names in Roles(model).groups("blocks")[1:]:
        parts = [name.split(".") for name in names if name.split(".")[0] == names[0].split(".")[0]]
        common = [same[0] for same in itertools.takewhile(lambda same: len(set(same)) == 1, zip(*(p[:-1] for p in parts), strict=False))]
        if common and not isinstance(model.get_submodule(".".join(common)), nn.ModuleList | nn.ModuleDict):
            found.append(".".join(common))
    return list(dict.fromkeys(found))


def _first_match(patterns: str | tuple[str, ...], name: str) -> str:
    for pattern in (patterns,) if isinstance(patterns, str) else patterns:
        if match := re.match(pattern, name):
            return match[0] if isinstance(patterns, str) else pattern
    return ""
