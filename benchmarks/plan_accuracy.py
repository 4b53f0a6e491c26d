"""What ``visionlora.plan`` says, beside what then happens in ``visionlora.train``.

python benchmarks/plan_accuracy.py --root DIR    # DIR has class folders of CIFAR-10: train/CLASS/*, test/CLASS/*

Each line is one configuration, planned and then trained in a process of its own; the ratios are plan : run of peak memory
(``memory/peak_mib``), seconds of training (``seconds/fit``) and bytes of the run folder. With ``--cpu`` both sides count the seconds that
their process computes in place of those that pass: on a machine that does other things beside, the two are not comparable otherwise.
(What worker processes compute is then not in them.)
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import hydra

from visionlora.cli.conf import conf_dir
from visionlora.common.config import checked
from visionlora.planning.measure import Plan, plan
from visionlora.runs.config import TrainConfig

RANDOM = ("model.pretrained=false", "data=fake", "data.num_classes=10")
CONFIGURATIONS: dict[str, tuple[str, ...]] = {
    "the default: EfficientNet-Lite0, digits": (),
    "ResNet-18, 64 px": ("model=resnet18", *RANDOM, "data.num_images=1500", "data.image_size=64", "data.batch_size=32"),
    "ResNet-18, 96 px, large batch": ("model=resnet18", *RANDOM, "data.num_images=1500", "data.image_size=96", "data.batch_size=128"),
    "ViT-Tiny, 64 px": ("model=vit_tiny", *RANDOM, "data.num_images=800", "data.image_size=64", "data.batch_size=32"),
    "full fine-tuning, ResNet-18": ("model=resnet18", "lora=full", *RANDOM, "data.num_images=1000", "data.image_size=64"),
    "probe on cached features": ("lora=none", "data.cache=memory", "trainer.max_epochs=20"),
    "features cached on disk": ("lora.targets=[last:2]", "data.cache=disk", "trainer.max_epochs=6"),
    "checkpointing, ViT-Tiny": ("model=vit_tiny", *RANDOM, "data.num_images=600", "data.image_size=96", "model.checkpointing=light"),
    "accumulated, AdaLoRA": ("lora=adaptive", "trainer.accumulate_grad_batches=3", "data.batch_size=16"),
}
FOLDERS = ("data=imagefolder", "data.image_size=96", "data.num_workers=2", "data.per_class=150", "trainer.max_epochs=2")
COMMON = ("callbacks=none", "trainer.enable_progress_bar=false")


def compose(overrides: tuple[str, ...]) -> TrainConfig:
    """The checked config of these overrides."""
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return checked(TrainConfig, hydra.compose("train", list(overrides)))


def trained(overrides: tuple[str, ...], folder: Path) -> tuple[float, float, int]:
    """Peak MiB, seconds of training and bytes of a real run."""
    call = [sys.executable, "-m", "visionlora.train", *overrides, f"hydra.run.dir={folder}"]
    done = subprocess.run(call, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    results = json.loads((folder / "results.json").read_text())
    return results["memory/peak_mib"], results["seconds/fit"], sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def row(name: str, planned: list[Plan], runs: list[tuple[float, float, int]]) -> str:
    """A line of the table; medians."""
    cells = []
    for part, show in ((0, "{:,.0f}"), (1, "{:.1f}"), (2, "{:.2f}")):
        scale = 1e6 if part == 2 else 1
        said = [(p.figures["memory/peak_mib"], p.seconds["fit"], p.bytes["folder"])[part] / scale for p in planned]
        was = [run[part] / scale for run in runs]
        ratio = statistics.median(s / w for s, w in zip(said, was, strict=True))
        cells += [show.format(statistics.median(said)), show.format(statistics.median(was)), f"{ratio:.2f}"]
    return f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", help="class folders; without, the configuration that reads files is left out")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", default="", help="configurations whose name has this in it")
    parser.add_argument("--cpu", action="store_true", help="count CPU seconds")
    options = parser.parse_args()
    clock = tempfile.TemporaryDirectory()
    if options.cpu:
        Path(clock.name, "sitecustomize.py").write_text("import time\ntime.perf_counter = time.process_time\n")
        os.environ["PYTHONPATH"] = os.pathsep.join([clock.name, os.environ.get("PYTHONPATH", "")])
    configurations = dict(CONFIGURATIONS)
    if options.root:
        configurations["class folders, 2 workers, RandAugment"] = (*FOLDERS, "data.randaugment=1", f"data.root={options.root}")
        configurations["class folders, crops, probe"] = (*FOLDERS, "data.crop_scale=[0.5,1.0]", "lora=none", f"data.root={options.root}")
    print("| | MiB: plan | run | | seconds: plan | run | | MB: plan | run | |\n|---|" + "---:|" * 9, flush=True)
    for name, overrides in configurations.items():
        if options.only not in name:
            continue
        planned, runs = [], []
        for _ in range(options.rounds):
            planned.append(plan(compose((*COMMON, *overrides))))
            with tempfile.TemporaryDirectory() as folder:
                runs.append(trained((*COMMON, *overrides), Path(folder, "run")))
        print(row(name, planned, runs), flush=True)


if __name__ == "__main__":
    main()
