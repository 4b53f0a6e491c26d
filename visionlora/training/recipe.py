"""``recipe``: what the settings that were left open are, for this many images, this method and this machine.

A setting is open where it is null; what is given wins. The table is of measured cells, see ``benchmarks/recipes.py`` and
``docs/recipes.md``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import lightning as L
from rich.table import Table

from visionlora.common.console import console
from visionlora.common.files import inside, replace_file
from visionlora.common.reading import sealed_json
from visionlora.data.config import USUAL_CROP
from visionlora.data.module import ImageData
from visionlora.evaluation.probe import why_no_probe
from visionlora.lora.config import LoraConfig
from visionlora.lora.methods import WITHOUT_ADAPTERS
from visionlora.runs.config import USUAL_RANK, TrainConfig, usual_rate
from visionlora.runs.folder import RunFolder
from visionlora.tasks.placed import PlacedTask
from visionlora.training.adapted import Adapted
from visionlora.training.finders import tuned
from visionlora.training.recipe_table import PLAIN, RANKS, RATES, SHARES, Row, placed_row, row_for
from visionlora.training.strength import FEW, MOST, few_a_class, why_no_choice, why_no_line, why_not
from visionlora.training.trainer import bare_trainer

TIMED = 6
"""Batches by which ``recipe.minutes`` reckons; the first of them are not timed."""
MANY, SHORT = 2_000, 5
"""With more training images and at most so many epochs, all of an image is shown: random crops were no better, and mostly worse
(docs/recipes.md)."""
SOUPS = 200
"""Training images up to which weights are averaged with those of the folds: with fewer folds it was no better (docs/recipes.md)."""


@dataclass(frozen=True)
class Choice:
    """One setting.

    Args:
        key: as it is typed.
        value: that the run has.
        why: in a few words.
        instead: what the recipe would have taken, where another value was given; ``None`` where the recipe chose.
    """

    key: str
    value: Any
    why: str
    instead: Any = None


@dataclass(frozen=True)
class Recipe:
    """The settings that a recipe has chosen, and those it would have chosen otherwise."""

    name: str
    choices: Sequence[Choice]

    @property
    def chosen(self) -> list[str]:
        """Keys that the recipe chose."""
        return [choice.key for choice in self.choices if choice.instead is None]

    def as_json(self) -> dict[str, Any]:
        """For ``recipe.json`` of a run folder."""
        return {"recipe": self.name, "choices": [asdict(choice) for choice in self.choices]}

    def write(self, folder: RunFolder) -> None:
        """Keep it in the run's folder."""
        replace_file(inside(folder.path, folder.recipe.name), sealed_json(self.as_json()))

    def tell(self) -> None:
        """Print each choice and why it was made."""
        table = Table(title=f"recipe={self.name}", title_justify="left", show_header=False)
        table.add_column()
        table.add_column(overflow="fold")
        for choice in self.choices:
            why = choice.why if choice.instead is None else f"as you say; the recipe would take {_typed(choice.instead)}"
            table.add_row(f"{choice.key}={_typed(choice.value)}", why)
        if self.choices:
            console.print(table, highlight=False, markup=False)


def decide_rank(config: TrainConfig, data: ImageData) -> tuple[TrainConfig, list[Choice]]:
    """Fill in ``lora.r``, before the model is made. It is no choice where no update has that rank."""
    filling = _Filling(config.recipe.name)
    named = isinstance(config.lora.targets, dict)
    if config.lora.method in WITHOUT_ADAPTERS or config.lora.budget is not None or named:
        rank = config.lora.r or USUAL_RANK
    else:
        usual, kind = (USUAL_RANK, "the usual one"), "classify" if data.task.classifies else data.task.name
        rank = filling.of("lora.r", config.lora.r, *(usual if config.recipe.name == "plain" else RANKS.get(kind, usual)))
    return replace(config, lora=replace(config.lora, r=rank)), filling.choices


def _row(config: TrainConfig, data: ImageData) -> tuple[Row, str]:
    """The row of the recipe's table for these images, and why."""
    images = len(data.parts["train"])
    if config.recipe.name == "plain":
        return PLAIN, "the same for all data"
    if isinstance(data.task, PlacedTask):
        return placed_row(images)
    return row_for(images, images / len(data.task.counts or [1]), config.lora.method)


def decide(config: TrainConfig, adapted: Adapted, data: ImageData, made: Sequence[Choice] = ()) -> tuple[TrainConfig, Recipe]:
    """Fill in what ``config`` leaves open; where nothing is open, it is as it was.

    Args:
        config: of the run; its open settings are None.
        adapted: the model that is to be trained.
        data: the images; its batch size is set.
        made: choices that were made before, see ``decide_rank``.
    """
    name, images = config.recipe.name, len(data.parts["train"])
    row, because = _row(config, data)
    why_random = why_no_probe(bare_trainer(config), adapted.model, adapted.info.head, data.task)
    untrained = "" if config.model.pretrained or config.model.weights else "the weights of the backbone are random"
    if row.head == "probe" and (why_random or untrained):
        row, because_head = replace(row, head="random", rate=1.0), f"no probe, as {why_random or untrained}"
    else:
        because_head = because
    filling = _Filling(name, made)
    start = filling.of("model.head_init", config.model.head_init, row.head, because_head)
    config = replace(config, model=replace(config.model, head_init=start))
    size = filling.of("data.batch_size", config.data.batch_size, min(row.batch, max(images, 1)), because)
    data.batch_size = size
    config = replace(config, data=replace(config.data, batch_size=size, folds=data.folds))
    rate = _rate(config, row, data)
    chosen_rate = filling.of("optim.lr", config.optim.lr, rate, f"{_head_words(start)}, {_share_words(config, rate)}")
    head_rate = config.optim.head_lr
    if isinstance(data.task, PlacedTask) and name != "plain" and config.lora.method != "none":
        usual = usual_rate(config.optim.name, LoraConfig())  # of adapters, also where everything is trained
        of_new = float(f"{data.task.head_share * usual:.3g}")
        if head_rate is not None or of_new != chosen_rate:
            head_rate = filling.of("optim.head_lr", head_rate, of_new, "of what is new over the backbone")
    no_line = why_no_line(config.lora) or why_random
    impossible = no_line if config.optim.strength == "none" else no_line or why_no_choice(data)
    if config.optim.strength in ("auto", "none") and impossible:
        console.print(f"optim.strength={config.optim.strength} is off: {impossible}.", highlight=False, markup=False)
        config = replace(config, optim=replace(config.optim, strength="all"))
    strength = filling.of("optim.strength", config.optim.strength, *_strength(name, data, no_line, start))
    if strength == "none":
        row, because = replace(row, epochs=1), "nothing of the training is kept"
    soup = config.optim.soup
    if data.folds:
        soup = filling.of("optim.soup", soup, *_soup(images, config.optim.lr is not None))
    config = replace(config, optim=replace(config.optim, lr=chosen_rate, head_lr=head_rate, strength=strength, soup=bool(soup)))
    config = _with_epochs(config, row, because, filling, adapted, data)
    config = _with_crop(config, filling, adapted, data)
    return config, Recipe(name, filling.choices)


class _Filling:
    """Takes what is given, or what the recipe says, and notes which it was."""

    def __init__(self, name: str, made: Sequence[Choice] = ()) -> None:
        self.name, self.choices = name, list(made)

    def of(self, key: str, given: Any, value: Any, why: str) -> Any:
        """What the setting is, where ``given`` stands in the config and the recipe would take ``value``."""
        if given is None:
            self.choices.append(Choice(key, value, why))
            return value
        if given != value:
            self.choices.append(Choice(key, given, why, instead=value))
        return given


def _with_epochs(config: TrainConfig, row: Row, because: str, filling: _Filling, adapted: Adapted, data: ImageData) -> TrainConfig:
    """``trainer.max_epochs``, unless ``trainer.max_steps`` says how long it is."""
    given, steps = config.trainer.get("max_epochs"), config.trainer.get("max_steps")
    if given is None and steps not in (None, -1):
        return config
    epochs = max(1, round(row.epochs * SHARES.get(filling.name, 1.0)))
    minutes = config.recipe.minutes
    if minutes is not None and given is None:
        seconds = _epoch_seconds(config, adapted, data)
        most = max(1, math.floor(60 * minutes / (seconds * (1 + max(data.folds - 1, 0)))))
        if most < epochs:
            because = f"recipe.minutes={minutes:g} has room for so many of {epochs}, at {seconds:.1f} s each"
            epochs = most
    epochs = filling.of("trainer.max_epochs", given, epochs, because)
    return replace(config, trainer=config.trainer | {"max_epochs": epochs})


def _with_crop(config: TrainConfig, filling: _Filling, adapted: Adapted, data: ImageData) -> TrainConfig:
    """``data.crop_scale``, which the data and the model's card are told. A null is not listed: some sources have it in their file."""
    (crop, why), given = _crop(config, data), config.data.crop_scale
    if given != "auto":
        if given is not None and given != crop:
            filling.choices.append(Choice("data.crop_scale", given, why, instead=crop or "null"))
        return config
    adapted.info.preprocessing = data.crop(crop)
    filling.choices.append(Choice("data.crop_scale", crop, why))
    return replace(config, data=replace(config.data, crop_scale=crop))


def _rate(config: TrainConfig, row: Row, data: ImageData) -> float:
    usual = usual_rate(config.optim.name, config.lora)
    started = row.rate if config.model.head_init in ("probe", "pretrained") else 1.0
    most, share = RATES.get(data.task.name, (0, 1.0))
    if len(data.parts["train"]) <= most and config.recipe.name in ("auto", "best") and config.lora.method not in WITHOUT_ADAPTERS:
        started *= share
    return float(f"{usual * started:.3g}")


def _head_words(head: str) -> str:
    return {"probe": "from the probe", "pretrained": "from the pretrained head"}.get(head, "from a head at random")


def _share_words(config: TrainConfig, rate: float) -> str:
    share = rate / usual_rate(config.optim.name, config.lora)
    words = "the usual rate" if share == 1 else f"{share:.2g} {'of' if share < 1 else 'times'} the usual rate"
    return f"{words} of {config.optim.name} and {config.lora.method}"


def _strength(name: str, data: ImageData, no_line: str, head: str) -> tuple[str, str]:
    if name == "plain":
        return "all", "the same for all data"
    unknown = why_no_choice(data) or why_not(data)
    if not no_line and unknown and head == "probe" and few_a_class(data) and len(data.parts["train"]) <= MOST:
        return "none", f"{unknown}, and with fewer than {FEW} images a class the probe was better"
    if why := no_line or unknown:
        return "all", why
    return "auto", "validation says how much of the update is kept"


def _crop(config: TrainConfig, data: ImageData) -> tuple[list[float] | None, str]:
    """Random crops, but where they were worse or take away what the labels are of."""
    if type(data.task).whole_view:
        return None, f"task={data.task.name} wants all of an image"
    if config.recipe.name == "plain":
        return [*USUAL_CROP], "the same for all data"
    if config.optim.strength == "none":
        return [*USUAL_CROP], "nothing of the training is kept"
    images, limits = len(data.parts["train"]), [config.trainer.get(key) for key in ("max_epochs", "max_steps")]
    a_step = data.batch_size * (config.trainer.get("accumulate_grad_batches") or 1) / max(images, 1)
    epochs = min((limit * size for limit, size in zip(limits, (1, a_step), strict=True) if limit not in (None, -1)), default=math.inf)
    if images > MANY and epochs <= SHORT:
        return None, f"{images:,} images, each seen {epochs:.2g} times, are better seen whole"
    return [*USUAL_CROP], f"better with few images; as good with up to {MANY:,}, or where each is seen more than {SHORT} times"


def _soup(images: int, own_rate: bool) -> tuple[bool, str]:
    """Whether the weights are averaged with those of the folds: where it was tried and was better."""
    if own_rate:
        return False, "at a rate of your own it was not tried"
    return images <= SOUPS, f"averaging with the folds gained {'up to' if images <= SOUPS else 'nothing above'} {SOUPS} training images"


def _epoch_seconds(config: TrainConfig, adapted: Adapted, data: ImageData) -> float:
    """What an epoch of training takes here, reckoned from a few batches; the model is as before afterwards."""
    times: list[float] = []

    class Clock(L.Callback):
        def on_train_batch_end(self, *_: Any, **__: Any) -> None:
            times.append(time.perf_counter())

    tuned(config, adapted, data, lambda trainer, module: trainer.fit(module, data), max_steps=TIMED, callbacks=[Clock()])
    batches = math.ceil(len(data.parts["train"]) / data.batch_size)
    if len(times) < 3:
        return 1e-9
    later = times[len(times) // 3 :]
    return batches * (later[-1] - later[0]) / max(len(later) - 1, 1)


def _typed(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else "null" if value is None else str(value)
