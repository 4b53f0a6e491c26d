"""How the features of a probe are scaled: logistic regressions of few images a class, five draws each.

python benchmarks/probes.py --root DIR      # class folders of CIFAR-10: DIR/train/CLASS/*, DIR/test/CLASS/*
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score

from benchmarks.runs import composed
from visionlora.data.module import ImageData
from visionlora.evaluation.probe import head_inputs
from visionlora.runs.folder import RunFolder
from visionlora.tasks.classify.probe import STRENGTHS
from visionlora.tasks.features import standardised
from visionlora.training.adapted import build_backbone
from visionlora.training.place import Place
from visionlora.training.trainer import bare_trainer

COUNTS = (1, 2, 4, 8, 16, 32)
DRAWS = 5
Scaling = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""From features to the mean and what they are divided by."""


def of_standard_deviation(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every feature by its own."""
    return features.mean(0), features.std(0) + 1e-6


def shrunk(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As visionlora does."""
    return standardised(features)[1:]


def of_all(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All by one number."""
    return features.mean(0), np.full(features.shape[1], np.sqrt(features.var(0).mean()))


SCALINGS: dict[str, Scaling] = {"own": of_standard_deviation, "shrunk half-way": shrunk, "one for all": of_all}


def features_of(root: Path, size: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Features ``(N, D)`` and classes ``(N,)`` of the training and the test part."""
    config = composed("data=imagefolder", f"data.root={root}", f"data.image_size={size}", "data.val_fraction=0", "data.folds=0")
    data = ImageData(config.data)
    backbone = build_backbone(config, Place(RunFolder(Path("nowhere")), None, False, None), data)
    trainer, found = bare_trainer(config), {}
    for part in ("train", "test"):
        features, targets = head_inputs(trainer, backbone.model.eval(), backbone.info.head[0], data, part)
        found[part] = features.numpy(), targets.numpy()
    return found


def top1(train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray], scaling: Scaling) -> float:
    """Test accuracy of the regression, its strength chosen as visionlora chooses it."""
    features, classes = train
    mean, scale = scaling(features)
    rows, fewest, strength = (features - mean) / scale, int(np.bincount(classes).min()), STRENGTHS[1]
    if fewest >= 2:
        folds = StratifiedKFold(min(3, fewest), shuffle=True, random_state=0)
        scores = [cross_val_score(LogisticRegression(C=c, max_iter=200), rows, classes, cv=folds).mean() for c in STRENGTHS]
        strength = STRENGTHS[int(np.argmax(scores))]
    fitted = LogisticRegression(C=strength, max_iter=500).fit(rows, classes)
    return float((fitted.predict((test[0] - mean) / scale) == test[1]).mean())


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--size", type=int, default=64)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    parts = features_of(options.root, options.size)
    features, classes = parts["train"]
    print(f"| images a class | {' | '.join(SCALINGS)} |\n|---:|{'---:|' * len(SCALINGS)}")
    for count in COUNTS:
        draws = [np.random.default_rng(draw) for draw in range(DRAWS)]
        chosen = [
            np.concatenate([rng.choice(np.flatnonzero(classes == c), count, replace=False) for c in np.unique(classes)]) for rng in draws
        ]
        scores = [
            np.mean([top1((features[rows], classes[rows]), parts["test"], scaling) for rows in chosen]) for scaling in SCALINGS.values()
        ]
        print(f"| {count} | {' | '.join(f'{100 * score:.1f}' for score in scores)} |", flush=True)


if __name__ == "__main__":
    main()
