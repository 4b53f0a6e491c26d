"""A training step with boxes or masks: frozen backbone, LoRA of rank 4 and 16, full fine-tuning, in turn in one process.

    python benchmarks/placed_steps.py --task segment
    python benchmarks/placed_steps.py --task detect

What ``visionlora.train task=… data=digits`` has, at the size and the batch of the command for images of one's own: the model as the run
prepares it, its loss and AdamW, on one batch, under autocast at bf16. A round takes one step of each side; figures are medians over
rounds. ``saved_mib`` is what autograd holds between forward and backward, as in ``step_time.py``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import warnings
from pathlib import Path

import lightning as L
import torch
from torch import Tensor

from benchmarks.runs import SILENT, composed, keep
from benchmarks.step_time import saved_mib
from benchmarks.timing import in_turn
from visionlora.training.adapted import adapt, build_module
from visionlora.training.opening import open_both
from visionlora.training.place import find_place

SIDES = {
    "frozen backbone": ("lora=none",),
    "LoRA r=4": ("lora.r=4",),
    "LoRA r=16, the default": ("lora.r=16",),
    "full fine-tuning": ("lora=full",),
}
SIZES = {"segment": 352, "detect": 320}
BATCH = 8
RESULTS = Path(__file__).parent / "results" / "placed_steps.json"


class Side:
    """One way to train the model of a task: a step, and what it holds.

    Args:
        task: ``segment`` or ``detect``.
        words: of the command.
        folder: for the run that is prepared, and not begun.
    """

    def __init__(self, task: str, words: tuple[str, ...], folder: Path) -> None:
        data_words = ("data=digits", f"data.image_size={SIZES[task]}", f"data.batch_size={BATCH}", "data.num_workers=0")
        config = composed(*SILENT, f"task={task}", *data_words, *words)
        L.seed_everything(0, verbose=False)
        opened = open_both(config, find_place(config, folder))
        config, data = opened.config, opened.data
        self.adapted = adapt(config, opened.backbone, None)
        self.module = build_module(config, self.adapted, data).train()
        images, labels = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
        self.images = images.to(memory_format=torch.channels_last)
        self.labels = self.module.targets.of((self.images, labels), "train")
        self.module.model.to(memory_format=torch.channels_last)
        self.criterion = data.task.training_criterion()
        trained = [parameter for parameter in self.module.model.parameters() if parameter.requires_grad]
        self.trainable = sum(parameter.numel() for parameter in trained)
        self.optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=True)

    def loss(self) -> Tensor:
        """Of one forward pass."""
        with torch.autocast("cpu", torch.bfloat16):
            return self.criterion(self.module.model(self.images), self.labels)

    def step(self) -> None:
        """Forward, backward and update."""
        self.loss().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def saved_mib(self) -> float:
        """What autograd holds after a forward pass."""
        return saved_mib(self.loss, (*self.module.model.parameters(), *self.module.model.buffers(), self.images))


def main() -> None:
    """Measure, and print a line for each side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=list(SIZES), required=True)
    parser.add_argument("--rounds", type=int, default=11)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    with tempfile.TemporaryDirectory() as folder:
        sides = {name: Side(options.task, words, Path(folder, str(number))) for number, (name, words) in enumerate(SIDES.items())}
        held = {name: side.saved_mib() for name, side in sides.items()}
        taken = in_turn({name: side.step for name, side in sides.items()}, options.rounds)
    for name, side in sides.items():
        found = {"seconds": round(taken[name], 3), "saved_mib": round(held[name], 1), "trainable": side.trainable}
        keep(RESULTS, found, options.task, name)
        print(name, json.dumps(found), f"{taken[name] / taken['full fine-tuning']:.2f} of the time of full fine-tuning")


if __name__ == "__main__":
    main()
