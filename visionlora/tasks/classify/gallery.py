"""``mistakes.html``: the wrong images of an evaluation on one page, each a link to its file."""

from __future__ import annotations

import base64
import io
from importlib.resources import files
from typing import Any

from jinja2 import Environment

from visionlora.tasks.classify.classified import Classified
from visionlora.tasks.classify.plots import THUMBNAIL, thumbnail

SHOWN = 300
"""Images on the page: about 2 MB. All mistakes are in ``predictions.csv``."""


def gallery(outcome: Classified) -> str:
    """The page as text: a section for each pair of true and predicted class, the most frequent first, the surest mistake first in each.

    The thumbnails are part of the page. The links are to the files where they are now, so the page may move and the images may not.
    """
    chosen = outcome.most_wrong(SHOWN)
    wrong = int((~outcome.right).sum())
    note = f"{wrong:,} of {len(outcome.right):,} images are taken for another class; those the model is surest of come first."
    if wrong > len(chosen):
        note += f" The {len(chosen)} surest are shown; predictions.csv has them all."
    small = max((max(outcome.images.open(index, 3).size) for index in chosen[:1]), default=0) < THUMBNAIL[0]
    page = Environment(autoescape=True).from_string((files("visionlora.tasks.classify") / "mistakes.html").read_text(encoding="utf-8"))
    return page.render(
        title=f"Mistakes, {outcome.split} part",
        note=note,
        pairs=_pairs(outcome, chosen),
        rendering="pixelated" if small else "auto",  # a browser would blur an image of 32 pixels
    )


def _pairs(outcome: Classified, chosen: list[int]) -> list[dict[str, Any]]:
    predicted, labels, table = outcome.predicted, outcome.targets.numpy(), outcome.confusion()
    pairs: dict[tuple[int, int], list[dict[str, str]]] = {}
    for index in chosen:
        pairs.setdefault((int(labels[index]), int(predicted[index])), []).append(_image(outcome, index))
    return [
        {"heading": f"{outcome.classes[true]} taken for {outcome.classes[taken]} ({table[true, taken]})", "images": images}
        for (true, taken), images in sorted(pairs.items(), key=lambda pair: -table[pair[0]])
    ]


def _image(outcome: Classified, index: int) -> dict[str, str]:
    stream = io.BytesIO()
    thumbnail(outcome, index).save(stream, "JPEG", quality=85)
    true, taken = (float(outcome.probabilities[index, which]) for which in (outcome.targets[index], outcome.predicted[index]))
    path = outcome.images.paths[index].resolve() if outcome.images.paths else None
    return {
        "name": outcome.images.names[index],
        "link": path.as_uri() if path else "",
        "thumbnail": f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}",
        "words": f"{taken:.0%} sure; {true:.0%} for the true class",
    }
