"""``mistakes.html`` of a classifier: a section for each pair of true and predicted class."""

from __future__ import annotations

from visionlora.tasks.classify.classified import Classified
from visionlora.tasks.gallery import SHOWN, page


def gallery(outcome: Classified) -> str:
    """The page as text: the most frequent pair first, in each the mistake first that the model was surest of."""
    chosen = outcome.most_wrong(SHOWN)
    wrong = int((~outcome.right).sum())
    note = f"{wrong:,} of {len(outcome.right):,} images are taken for another class; those the model is surest of come first."
    if wrong > len(chosen):
        note += f" The {len(chosen)} surest are shown; predictions.csv has them all."
    predicted, labels, table = outcome.predicted, outcome.targets.numpy(), outcome.confusion()
    pairs: dict[tuple[int, int], list[tuple[int, str]]] = {}
    for index in chosen:
        pairs.setdefault((int(labels[index]), int(predicted[index])), []).append((index, _words(outcome, index)))
    ordered, names = sorted(pairs.items(), key=lambda pair: -table[pair[0]]), outcome.classes
    sections = {f"{names[true]} taken for {names[taken]} ({table[true, taken]})": images for (true, taken), images in ordered}
    return page(outcome.split, note, outcome.images, sections)


def _words(outcome: Classified, index: int) -> str:
    true, taken = (float(outcome.probabilities[index, which]) for which in (outcome.targets[index], outcome.predicted[index]))
    return f"{taken:.0%} sure; {true:.0%} for the true class"
