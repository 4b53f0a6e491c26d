"""The head that weights come with, for classes that are among their own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import ImageNetInfo, infer_imagenet_subset
from torch import nn

from visionlora.backbone.config import BACKBONES
from visionlora.backbone.info import BackboneSpec, info_of
from visionlora.backbone.weights import read_file
from visionlora.common.errors import UserError, did_you_mean

_OF_TORCHVISION = 1000
"""Classes of its weights."""
_INSTEAD = "leave model.head_init out, or take probe"


@torch.no_grad()
def keep_pretrained_head(model: nn.Module, classes: Sequence[tuple[str, ...]]) -> None:
    """Let every output of the head be the pretrained one of its class.

    Args:
        model: of ``create_backbone``.
        classes: of each output the words it is known by, the first of which the weights know counts: a WordNet id, or a name.

    Raises:
        UserError: the weights are random, or what their outputs are is not known, or a class is not among them.
    """
    info = info_of(model)
    assert info is not None
    count, subset = _own_classes(info.spec, info.head[0])
    rows = torch.tensor(_rows(classes, subset, info.spec.full_name))
    with torch.random.fork_rng(devices=[]):  # what is drawn at random is replaced
        whole, _ = BACKBONES[info.spec.source](replace(info.spec, num_classes=count), load=True)
    for name in info.head:
        own, theirs = (dict(each.get_submodule(name).named_parameters()) for each in (model, whole))
        for key, value in own.items():
            value.copy_(theirs[key][rows])


def _own_classes(spec: BackboneSpec, head: str) -> tuple[int, str]:
    """How many classes the weights have, and which of timm's lists of ImageNet's names them."""
    if not spec.pretrained:
        raise UserError(f"model.head_init=pretrained: with model.pretrained=false there is no pretrained head; {_INSTEAD}.")
    count = None
    if spec.source == "timm":
        count = timm.get_pretrained_cfg(spec.name).num_classes
    elif spec.source == "torchvision":
        count = _OF_TORCHVISION
    if spec.weights is not None and not spec.weights.startswith("pip:"):
        found = read_file(Path(spec.weights)).get(f"{head}.weight")
        count = None if found is None else len(found)
    subset = infer_imagenet_subset({"num_classes": count})
    if count is None or subset is None:
        what = f"the {count:,} outputs of its weights" if count else "the outputs of its weights"
        raise UserError(f"model.head_init=pretrained: of {spec.full_name} it is not known which classes {what} are; {_INSTEAD}.")
    return count, subset


def _rows(classes: Sequence[tuple[str, ...]], subset: str, name: str) -> list[int]:
    known = ImageNetInfo(subset)
    by_id = {label: row for row, label in enumerate(known.label_names())}
    by_name: dict[str, set[int]] = {}
    for row, words in enumerate(known.label_descriptions()):
        for word in (words, *words.split(", ")):
            by_name.setdefault(_plain(word), set()).add(row)
    found = [_row_of(words, by_id, by_name) for words in classes]
    absent = [words for words, row in zip(classes, found, strict=True) if row is None]
    if absent:
        word = absent[0][0]
        many = f"{len(absent)} of the {len(classes)} classes are" if len(absent) > 1 else f"the class {word!r} is"
        first = f", {word!r} for one" if len(absent) > 1 else ""
        several = len(by_name.get(_plain(word), ())) > 1
        why = f" (there are several {word!r}: give the WordNet id)" if several else ""
        raise UserError(
            f"model.head_init=pretrained: {many} not among the {len(by_id):,} of {name}{first}{why}; they go by WordNet id, as n01440764,"
            f" or by name, as tench (data.classes=FILE says what a folder is). For other classes, {_INSTEAD}."
            f"{'' if several else did_you_mean(_plain(word), list(by_name))}"
        )
    return [row for row in found if row is not None]


def _row_of(words: Iterable[str], by_id: dict[str, int], by_name: dict[str, set[int]]) -> int | None:
    for word in words:
        rows: Any = {by_id[word]} if word in by_id else by_name.get(_plain(word), set())
        if len(rows) == 1:
            return int(next(iter(rows)))
    return None


def _plain(name: str) -> str:
    return " ".join(name.lower().replace("_", " ").replace("-", " ").split())
