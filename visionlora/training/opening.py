"""The images of a run and its backbone, opened together: each says something of the other, of its settings, and whether there can be
folds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from visionlora.common.console import console
from visionlora.data.module import ImageData
from visionlora.data.split import only_images
from visionlora.evaluation.probe import why_no_probe
from visionlora.runs.config import TrainConfig
from visionlora.training.adapted import Backbone, build_backbone
from visionlora.training.place import Place
from visionlora.training.recipe import Choice, decide_rank
from visionlora.training.strength import why_no_line
from visionlora.training.trainer import bare_trainer
from visionlora.training.view_size import decide_size


@dataclass(frozen=True)
class Opened:
    """What a run begins with.

    Args:
        config: of the run, with what had to be chosen before there is a model.
        data: the images.
        backbone: that they are prepared for.
        choices: what was chosen, and why.
    """

    config: TrainConfig
    data: ImageData
    backbone: Backbone
    choices: Sequence[Choice]


def open_both(config: TrainConfig, place: Place) -> Opened:
    """The images, and the backbone that they are prepared for.

    Raises:
        UserError: see ``ImageData`` and ``build_backbone``.
    """
    record = place.known.read_split() if place.known else None
    without, why, keeps_probe = replace(config.data, folds=0), _why_no_folds(config), _keeps_the_probe(config)
    opened = without if why else config.data
    if keeps_probe and config.data.val_fraction is None:
        opened = replace(opened, val_fraction=0.0)  # nothing is chosen by what is held out
    data = ImageData(opened, config.seed, record, config.task)
    config, sized = decide_size(config, data)
    if sized:
        data.config = replace(data.config, image_size=sized[0].value)
    config, ranked = decide_rank(config, data)
    backbone = build_backbone(config, place, data)
    why_random = why_no_probe(bare_trainer(config), backbone.model, backbone.info.head, data.task)
    if why_random and (data.folds or keeps_probe):
        why = why_random
        data = ImageData(replace(without, image_size=data.config.image_size), config.seed, record, config.task)
        data.task.meet(backbone.info.spec)
        backbone.info.preprocessing = data.prepare_for(backbone.info.preprocessing, check=True)
    why = why or data.why_not_folds
    if why and config.data.folds not in ("auto", 0):
        console.print(f"data.folds={config.data.folds}: there are {data.folds or 'none'}, as {why}.", highlight=False, markup=False)
    if (data.folds or data.record) and (only := only_images(data.parts["train"], data.task)):
        more = f" and {len(only) - 3} more" if len(only) > 3 else ""
        shown = ", ".join(f"{data.task.group_words[0]} {name!r}" for name in only[:3]) + more
        console.print(f"One training image only, never held out: {shown}.", highlight=False, markup=False)
    return Opened(config, data, backbone, [*sized, *ranked])


def _keeps_the_probe(config: TrainConfig) -> bool:
    return config.optim.strength == "none" and not why_no_line(config.lora)


def _why_no_folds(config: TrainConfig) -> str:
    """Why this config cannot have folds, or does not want them; ``""`` where it does."""
    if config.data.folds == 0:
        return ""
    if why := why_no_line(config.lora):
        return why
    if _keeps_the_probe(config):
        return "optim.strength=none keeps the probe, whatever folds would say of a training"
    if config.data.folds != "auto":
        return ""
    if config.recipe.name in ("plain", "fast"):
        return f"recipe={config.recipe.name} does without"
    monitors = {name: node.get("monitor") for name, node in config.callbacks.items() if isinstance(node, dict)}
    waiting = [name for name, monitor in monitors.items() if str(monitor).startswith("val/")]
    return f"callbacks.{waiting[0]} waits for a validation part" if waiting else ""
