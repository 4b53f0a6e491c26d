"""What a folder of large JPEG files costs beside the training step, decoded each epoch and kept by ``data.decoded``.

    python benchmarks/kept_images.py --root DIR --out benchmarks/results/kept_images.json

``DIR`` are class folders of photographs of some 12 megapixels. Sides: the loader's work for a batch of the second epoch, without and with
``data.decoded``, and a step of training alone, all in turn in one process with one thread. Counted are seconds of the processor, so that
``step / (step + loader)`` is the share of the step's own speed that a machine keeps whose cores do both. It also tells how large a kept
image is and how far its random views are from those of the same seeds without.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import visionlora as vl
from benchmarks.timing import in_turn
from visionlora.backbone.info import info_of
from visionlora.data.config import DataConfig
from visionlora.data.module import ImageData


def loaded(root: Path, kept: str | None, size: int, batch: int, backbone: Any) -> Any:
    """The training images as the loader has them."""
    config = DataConfig("imagefolder", str(root), batch, 0, size, val_fraction=0.0, decoded=kept)
    data = ImageData(config)
    info = info_of(backbone)
    assert info is not None
    data.prepare_for(info.preprocessing)
    return data.train_dataloader().dataset


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--model", default="timm/resnet18")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/kept_images.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = vl.create_backbone(options.model, num_classes=2, pretrained=False)
    vl.inject(model, vl.LoraConfig(r=8))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    images, labels = torch.randn(options.batch, 3, options.size, options.size), torch.randint(2, (options.batch,))

    def step() -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()

    items = [(index, 1000 + index) for index in range(options.batch)]
    with tempfile.TemporaryDirectory() as folder:
        plain, kept = (loaded(options.root, keep, options.size, options.batch, model) for keep in (None, folder))
        apart = [(plain[item][0].float() - kept[item][0].float()).abs().mean().item() for item in items]  # and the first epoch
        sizes = [file.stat().st_size for file in Path(folder).rglob("*") if file.is_file()]
        sides = {
            "decoded each time": lambda: [plain[item] for item in items],
            "kept": lambda: [kept[item] for item in items],
            "step": step,
        }
        times = in_turn(sides, options.rounds, warm_up=1, clock=time.process_time)
    results = {f"ms an image: {name}": 1000 * seconds / options.batch for name, seconds in times.items()}
    for name in ("decoded each time", "kept"):
        results[f"share of the step's speed: {name}"] = times["step"] / (times["step"] + times[name])
    results |= {"MB an image": sum(sizes) / len(sizes) / 1e6, "mean difference of views, of 255": sum(apart) / len(apart)}
    for name, value in results.items():
        print(f"{name:50} {value:.3f}")
    options.out.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
